//! Journal to Kafka: carries every durable record to `keytrail.audit` and every new checkpoint to
//! `keytrail.checkpoints`.
//!
//! A thread of its own tails the journal as any reader would. It never stops or slows a call: a broker that is down
//! only makes it wait, with a bounded number of records in memory, because the journal is the outbox. Records may
//! arrive more than once, never out of place: the lander dedupes on (log, seq). Layout of messages: `topics`. Read
//! `run` for the loop, `acks` for what counts as delivered, `cursor` for where a restart goes on, `published` for what
//! start-up learns from the topics.

mod acks;
mod cursor;
pub(crate) mod published;
mod run;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests;
mod topics;

pub(crate) use cursor::shipped_through;
pub use published::PublishedError;
pub use topics::{TopicError, ensure_topics};

use crate::chain::LogId;
use crate::journal::ReadError;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What the shipper needs to know.
#[derive(Clone, Debug)]
pub struct ShipConfig {
    /// `host:port`, more than one separated by commas.
    pub brokers: String,
    /// The journal's folder; the cursor is kept in it too.
    pub journal_dir: PathBuf,
    /// Where the signer leaves `latest`.
    pub checkpoints_dir: PathBuf,
    /// The journal's log.
    pub log: LogId,
    /// Replicas of topics that are missing; None leaves topics to the operator.
    pub replication: Option<i32>,
}

/// Why shipping does not go on. It is tried again after a pause, from the last delivered record.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The client cannot be made, or the broker does not answer.
    #[error("cannot {step} Kafka")]
    Kafka {
        /// What was tried.
        step: &'static str,
        /// Kafka's answer.
        #[source]
        source: rdkafka::error::KafkaError,
    },
    /// No broker answers.
    #[error("no broker answers at {0}")]
    Unreachable(String),
    /// A record or checkpoint was refused; everything unsent was thrown away and is sent again.
    #[error("delivery failed: {0}")]
    Delivery(String),
    /// A topic is missing and cannot be made.
    #[error("cannot prepare topics")]
    Topics(#[source] TopicError),
    /// The journal cannot be read.
    #[error("cannot read the journal")]
    Journal(#[source] ReadError),
    /// The cursor cannot be written.
    #[error("cannot write the shipping cursor")]
    Cursor(#[source] std::io::Error),
    /// The thread cannot be started.
    #[error("cannot start the shipping thread")]
    Thread(#[source] std::io::Error),
}

/// How far shipping is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Records below this seq are durable in the journal, as last seen by the shipper.
    pub durable_seq: u64,
    /// Records below this seq are acknowledged by all replicas in sync.
    pub shipped_seq: u64,
    /// Why it does not move, when it does not.
    pub trouble: Option<String>,
}

/// Starts shipping.
#[derive(Debug)]
pub struct Shipper;

impl Shipper {
    /// Starts the thread. The broker need not be there, nor the journal have a record.
    pub fn start(config: ShipConfig) -> Result<RunningShipper, ShipError> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("ship".to_owned()).spawn({
            let shared = shared.clone();
            move || run::run(&config, &shared)
        });
        Ok(RunningShipper { shared, thread: Some(thread.map_err(ShipError::Thread)?) })
    }
}

/// A shipper at work. Dropped, it stops.
#[derive(Debug)]
pub struct RunningShipper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RunningShipper {
    /// How far it is.
    pub fn lag(&self) -> Lag {
        Lag {
            durable_seq: self.shared.durable_seq.load(Ordering::Relaxed),
            shipped_seq: self.shared.shipped_seq.load(Ordering::Relaxed),
            trouble: self.shared.trouble.lock().clone(),
        }
    }

    /// Sends what is durable now, for a few seconds at most, and stops. Blocks; what is left is sent by the next run.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the shipping thread panicked");
        }
    }
}

impl Drop for RunningShipper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread tells and is told.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    durable_seq: AtomicU64,
    shipped_seq: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
