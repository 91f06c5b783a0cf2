//! Signed checkpoints for the proofs in alerts: from the folder when it has one that is new enough, else from the node.

use async_trait::async_trait;
use keytrail_kms::chain::LogId;
use keytrail_kms::chain::cosignature::Note;
use keytrail_kms::client::{Client, ClientError};
use serde_json::json;
use std::path::PathBuf;

/// Operation that signs the durable head.
const GET_CHECKPOINT: &str = "KeytrailService.GetCheckpoint";

/// Operation that takes the trail's word for what has landed.
const REPORT_LANDED: &str = "KeytrailService.ReportLanded";

/// Longest note read from the folder.
const NOTE_BYTES_MAX: u64 = 16 * 1024;

/// Where checkpoints come from. Nothing it returns is believed: the prover verifies signature and root.
#[async_trait]
pub trait CheckpointSource: Send + Sync {
    /// A signed note of `log` over at least `size_min` records, if there can be one now.
    async fn checkpoint(&self, log: LogId, size_min: u64) -> Result<String, CheckpointError>;

    /// Tells the node that all records of `log` below `next_seq` are in the lake and judged, so that it may prune its
    /// journal. The call is signed as any other and an event of the log. Sources without a node tell nobody.
    async fn landed(&self, _log: LogId, _next_seq: u64) -> Result<(), CheckpointError> {
        Ok(())
    }
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The node did not answer with one.
    #[error("node does not answer as it should")]
    Node(#[source] ClientError),
    /// The answer has none.
    #[error("node's answer holds no checkpoint")]
    Answer,
    /// This log's node is not known.
    #[error("no source of checkpoints for log {0}")]
    Unknown(LogId),
}

/// The node of one log, asked as built-in principal `trail`, and the folder it publishes to when that is on this
/// machine.
pub struct NodeCheckpoints {
    /// Signs as the trail.
    pub client: Client,
    /// `DIR/checkpoints/latest`, or None when the node is elsewhere.
    pub latest: Option<PathBuf>,
}

#[async_trait]
impl CheckpointSource for NodeCheckpoints {
    async fn checkpoint(&self, _log: LogId, size_min: u64) -> Result<String, CheckpointError> {
        if let Some(note) = self.published(size_min) {
            return Ok(note);
        }
        let answer = self.client.call(GET_CHECKPOINT, json!({}), None).await.map_err(CheckpointError::Node)?;
        answer.body.get("Checkpoint").and_then(|note| note.as_str()).map(str::to_owned).ok_or(CheckpointError::Answer)
    }

    async fn landed(&self, _log: LogId, next_seq: u64) -> Result<(), CheckpointError> {
        let body = json!({ "NextSeq": next_seq });
        self.client.call(REPORT_LANDED, body, None).await.map(|_| ()).map_err(CheckpointError::Node)
    }
}

impl NodeCheckpoints {
    /// The note in the folder, if it covers enough; the node is asked when anything is wrong with it.
    fn published(&self, size_min: u64) -> Option<String> {
        let path = self.latest.as_ref()?;
        if std::fs::metadata(path).ok()?.len() > NOTE_BYTES_MAX {
            return None;
        }
        let note = std::fs::read_to_string(path).ok()?;
        let checkpoint = Note::parse(&note).and_then(|note| note.checkpoint()).ok()?;
        (checkpoint.size >= size_min).then_some(note)
    }
}
