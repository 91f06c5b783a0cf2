//! Where alerts come in: a source that is read from our own stored position, and the checks before anything believes one.
//!
//! Two sources behind one trait, passing the same tests: the trail's table (embedded) and the topic (Kafka). Neither is
//! trusted; `verify` decides what is an alert. Positions live in `responder.db` and nowhere else.

pub mod kafka;
#[cfg(test)]
mod source_tests;
pub mod table;
pub mod verify;

use async_trait::async_trait;
use std::time::Duration;

pub use kafka::KafkaAlertSource;
pub use table::TableSource;
pub use verify::{Call, Refusal, VerifiedAlert, Verifier};

/// Most alerts taken in one transaction. Only a storm fills it, and then each transaction is a wait for the disk that the
/// key service needs as well; the first of so many waits for the others about a tenth of a second.
pub const BATCH_ALERTS_MAX: usize = 128;

/// An alert as it came, not believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAlert {
    /// The stream it came from: `trail.db`, or `topic/partition`.
    pub source: String,
    /// Its position there.
    pub position: i64,
    /// The alert's JSON.
    pub json: Vec<u8>,
    /// The signature beside it, of any length.
    pub signature: Vec<u8>,
}

/// Why alerts could not be read; the caller waits and tries again.
#[derive(Debug, thiserror::Error)]
#[error("alerts cannot be read from {from}")]
pub struct SourceError {
    /// File or topic.
    pub from: String,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    pub(crate) fn new(from: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { from: from.to_owned(), source: source.into() }
    }
}

/// A stream of alerts, at least once and in order per `source`.
#[async_trait]
pub trait AlertSource: Send {
    /// The alerts after those returned before (at first: after the stored positions); waits up to `wait`, then empty.
    /// An alert that is not taken in durably comes again only after a restart.
    async fn next(&mut self, alerts_max: usize, wait: Duration) -> Result<Vec<RawAlert>, SourceError>;
}
