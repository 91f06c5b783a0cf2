//! Where frames come from: the journal of this machine or a Kafka topic, behind one trait.
//!
//! A source is transport and nothing is believed because it came through one: `land` verifies. Frames of one log
//! usually come in seq order, but a source may repeat, reorder or lose them.

pub mod journal;
pub mod kafka;
pub mod node;
pub mod notes;
#[cfg(any(test, feature = "testing"))]
pub mod suite;

use async_trait::async_trait;
use keytrail_kms::chain::LogId;
use keytrail_kms::journal::Frame;

/// A frame with the log it claims to belong to; unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFrame {
    /// The log named by the leaf or by the transport.
    pub log: LogId,
    /// The frame as it came.
    pub frame: Frame,
}

/// Why a source gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Worth another try after a pause: broker away, file not there yet.
    #[error("source is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The source's data is damaged or gone; going on would leave a hole in the sequence.
    #[error("source is damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A stream of frames with a position.
#[async_trait]
pub trait FrameSource: Send {
    /// At most `frames_max` frames. Waits a short while for something to come; empty when nothing did. Dropping the
    /// future loses nothing.
    async fn next(&mut self, frames_max: usize) -> Result<Vec<SourceFrame>, SourceError>;

    /// Says that all records of `log` below `next_seq` are kept elsewhere for good, so that the source may forget
    /// them. A hint: after a restart the caller's own position decides.
    async fn committed(&mut self, log: LogId, next_seq: u64) -> Result<(), SourceError>;
}
