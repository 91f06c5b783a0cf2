//! Fetches records that the transport lost from the node that wrote them, by signed HTTP.
//!
//! What comes back is as unbelieved as what comes from a topic: the lander verifies every link. Only one node is known,
//! that of the log it was made for.

use crate::land::{FetchError, GapFetcher};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keytrail_kms::chain::LogId;
use keytrail_kms::client::{Client, ClientError};
use keytrail_kms::journal::Frame;
use serde::Deserialize;
use serde_json::json;

/// The call of the built-in principal `trail`.
const GET_FRAMES: &str = "KeytrailService.GetFrames";
/// Most frames that the node gives at once.
const FRAMES_MAX: u64 = 1_000;

/// The node of one log.
pub struct NodeFrames {
    /// The log whose records the node has.
    pub log: LogId,
    /// Signs as the trail.
    pub client: Client,
}

#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error("no node is known for log {0}")]
    Unknown(LogId),
    #[error("ask the node for frames")]
    Call(#[source] ClientError),
    #[error("read the node's frames")]
    Answer(#[source] serde_json::Error),
    #[error("frame has a malformed {0}")]
    Frame(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    frames: Vec<Packed>,
}

/// A frame with its parts in base64.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Packed {
    leaf: String,
    salt: String,
    payload: String,
}

#[async_trait]
impl GapFetcher for NodeFrames {
    async fn fetch(&self, log: LogId, first: u64, count: u64) -> Result<Vec<Frame>, FetchError> {
        self.ask(log, first, count).await.map_err(|error| FetchError(Box::new(error)))
    }
}

impl NodeFrames {
    async fn ask(&self, log: LogId, first: u64, count: u64) -> Result<Vec<Frame>, NodeError> {
        if log != self.log {
            return Err(NodeError::Unknown(log));
        }
        let body = json!({ "FirstSeq": first, "Max": count.clamp(1, FRAMES_MAX) });
        let answer = self.client.call(GET_FRAMES, body, None).await.map_err(NodeError::Call)?;
        let answer: Answer = serde_json::from_value(answer.body).map_err(NodeError::Answer)?;
        answer.frames.iter().map(Packed::unpack).collect()
    }
}

impl Packed {
    fn unpack(&self) -> Result<Frame, NodeError> {
        let bytes = |text: &str, name| STANDARD.decode(text).map_err(|_| NodeError::Frame(name));
        let leaf = bytes(&self.leaf, "leaf")?.try_into().map_err(|_| NodeError::Frame("leaf"))?;
        let salt = bytes(&self.salt, "salt")?.try_into().map_err(|_| NodeError::Frame("salt"))?;
        Ok(Frame { leaf, salt, payload: bytes(&self.payload, "payload")?.into() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_kms::chain::leaf::LEAF_BYTES;

    #[test]
    fn a_frame_survives_the_wire_and_a_short_one_is_refused() {
        let frame = Frame { leaf: [7; LEAF_BYTES], salt: [9; 16], payload: "{}".into() };
        let packed = |leaf: &[u8]| Packed {
            leaf: STANDARD.encode(leaf),
            salt: STANDARD.encode(frame.salt),
            payload: STANDARD.encode(&frame.payload),
        };
        assert_eq!(packed(&frame.leaf).unpack().unwrap(), frame);
        assert!(matches!(packed(&frame.leaf[1..]).unpack(), Err(NodeError::Frame("leaf"))));
    }
}
