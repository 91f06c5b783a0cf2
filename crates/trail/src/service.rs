//! The trail at work: one loop from source to lake, rules and signed alerts.
//!
//! source, land (verify, dedupe), wait for a checkpoint and spool when the transport is not the journal itself, lake tail, rules, evidence under a
//! checkpoint that agrees with our own tree, then alerts + rule state + position in one transaction of trail.db, then a
//! datagram that wakes the responder. The loop has a thread of its own, because its steps are disk writes whose order is
//! the point. On start the least advanced consumer decides where reading begins; each ignores what it has.

mod checkpoint;
mod prove;
mod unproved;
mod watch;
mod why;

use crate::describe;
use crate::lake::snapshot::Snapshot;
use crate::lake::store::LakeError;
use crate::lake::writer::LakeOptions;
use crate::land::GapFetcher;
use crate::rule::{EngineError, RuleSet, RuleSetError, StateError, TestedFiles};
use crate::source::{FrameSource, SourceError};
use crate::store::StoreError;
pub use checkpoint::{CheckpointError, CheckpointSource, NodeCheckpoints};
use keytrail_kms::chain::{LogId, LogKeys, TreeError};
use keytrail_kms::clock::Clock;
use keytrail_kms::journal::{JournalError, ReadError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch as watch_channel};

/// A log that the trail watches.
#[derive(Clone, Debug)]
pub struct WatchedLog {
    /// Its origin; the log's id follows from it.
    pub origin: String,
    /// The keys that sign its checkpoints, as far as they are known before anything lands.
    pub signer: LogKeys,
    /// The folder whose `transitions` has further ones: the node's `checkpoints/`, or this trail's own.
    pub checkpoints: PathBuf,
    /// Folder with its frames: the node's `journal/`, or this trail's own spool.
    pub frames: PathBuf,
    /// True if `frames` is a spool that this trail writes: everything that lands is made durable there first.
    pub spool: bool,
}

/// Opens the source where reading begins: the next seq wanted of each log.
pub type SourceOpener = Box<dyn FnOnce(&BTreeMap<LogId, u64>) -> Result<Box<dyn FrameSource>, SourceError> + Send>;

/// Starts the stream of signed notes, from those of this time (Unix microseconds) on.
pub type NotesOpener = Box<dyn FnOnce(u64) -> Result<mpsc::Receiver<String>, SourceError> + Send>;

/// What a trail needs.
pub struct TrailConfig {
    /// Data folder: `trail.db`, `lake/` and `run/` are below it.
    pub dir: PathBuf,
    /// Folder of rules.
    pub rules_dir: PathBuf,
    /// Rules and fixtures that need not be tested again while they are alone in that folder.
    pub tested: TestedFiles,
    /// The logs to watch.
    pub logs: Vec<WatchedLog>,
    /// Where frames come from.
    pub source: SourceOpener,
    /// Checkpoints as the node publishes them: records of a log with a spool wait for one. Without such logs: None.
    pub notes: Option<NotesOpener>,
    /// Fetches what the transport lost; None where the source cannot lose anything.
    pub fetcher: Option<Arc<dyn GapFetcher>>,
    /// Where signed checkpoints come from.
    pub checkpoints: Arc<dyn CheckpointSource>,
    /// Whether the nodes are told what has landed: they prune their journals by it.
    pub report_landed: bool,
    /// When the lake seals and merges files.
    pub lake: LakeOptions,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why the trail cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// The rules were refused.
    #[error("rules cannot be loaded")]
    Rules(#[from] RuleSetError),
    /// The stored rule state cannot be read. Moving trail.db away makes the trail read the whole log again; alerts keep
    /// their ids.
    #[error("stored rule state cannot be used")]
    State(#[from] StateError),
    /// trail.db.
    #[error("alerts cannot be stored")]
    Store(#[from] StoreError),
    /// The lake.
    #[error("lake cannot be written")]
    Lake(#[from] LakeError),
    /// The source is damaged or cannot be opened.
    #[error("records cannot be read")]
    Source(#[from] SourceError),
    /// The journal or spool.
    #[error("frames cannot be read")]
    Frames(#[from] ReadError),
    /// The spool.
    #[error("spool cannot be written")]
    Spool(#[source] JournalError),
    /// The folder of records that wait for a checkpoint.
    #[error("folder of unproved records cannot be cleared")]
    Clear(#[source] std::io::Error),
    /// Records that wait for a checkpoint cannot be read back.
    #[error("unproved records cannot be read")]
    Waiting(#[source] TreeError<ReadError>),
    /// The rules cannot run over the lake's batches.
    #[error("rules cannot run")]
    Engine(#[from] EngineError),
    /// The thread or its runtime cannot start.
    #[error("trail thread cannot start")]
    Thread(#[source] std::io::Error),
    /// The thread is gone without an error of its own.
    #[error("trail thread ended unexpectedly")]
    Gone,
}

/// How far the trail is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Records of our own logs below this seq passed the rules and their alerts are stored, per log id in hex.
    pub positions: BTreeMap<String, u64>,
    /// Alerts and revisions stored since the start.
    pub alerts: u64,
    /// Rules running.
    pub rules: usize,
}

/// Orders to the loop.
enum Control {
    Stop,
    Swap(Arc<RuleSet>, oneshot::Sender<()>),
}

/// Starts trails.
pub struct Trail;

impl Trail {
    /// Opens everything and starts the loop. Returns when it is about to read its first frame.
    pub async fn start(config: TrailConfig) -> Result<RunningTrail, TrailError> {
        let (rules_dir, tested) = (config.rules_dir.clone(), config.tested);
        let (control, orders) = mpsc::channel(4);
        let (started, opened) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let body = move || {
            let outcome = run(config, orders, started);
            if let Err(error) = &outcome {
                tracing::error!(error = describe(error), "trail stopped");
            }
            // Nobody waits for the end of a trail whose handle was dropped.
            drop(ended.send(outcome));
        };
        std::thread::Builder::new().name("trail".into()).spawn(body).map_err(TrailError::Thread)?;
        match opened.await {
            Ok((snapshots, status)) => Ok(RunningTrail { rules_dir, tested, control, end, snapshots, status }),
            Err(_) => Err(end.await.unwrap_or(Err(TrailError::Gone)).err().unwrap_or(TrailError::Gone)),
        }
    }
}

type Started = oneshot::Sender<(watch_channel::Receiver<Arc<Snapshot>>, watch_channel::Receiver<Status>)>;

fn run(config: TrailConfig, orders: mpsc::Receiver<Control>, started: Started) -> Result<(), TrailError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(TrailError::Thread)?;
    runtime.block_on(async {
        let watch = watch::Watch::open(config, orders)?;
        // The starter may have gone away meanwhile; then the closed order channel ends the loop.
        drop(started.send((watch.snapshots(), watch.status())));
        Box::pin(watch.run()).await
    })
}

/// A trail that runs until it is told to stop, its handle is dropped, or it fails.
pub struct RunningTrail {
    rules_dir: PathBuf,
    tested: TestedFiles,
    control: mpsc::Sender<Control>,
    end: oneshot::Receiver<Result<(), TrailError>>,
    snapshots: watch_channel::Receiver<Arc<Snapshot>>,
    status: watch_channel::Receiver<Status>,
}

impl RunningTrail {
    /// The lake as it grows, for query doors in this process.
    pub fn snapshots(&self) -> watch_channel::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// How far it is; changes with every commit of trail.db.
    pub fn status(&self) -> watch_channel::Receiver<Status> {
        self.status.clone()
    }

    /// Loads and tests the rules again; the running set stays when the new one is refused. Returns the number of rules.
    pub async fn reload(&self) -> Result<usize, ReloadError> {
        let (dir, tested) = (self.rules_dir.clone(), self.tested);
        // Here and not in the loop: tests take a while, and detection goes on meanwhile.
        let loaded = tokio::task::spawn_blocking(move || RuleSet::load_tested(&dir, tested)).await;
        let rules = loaded.map_err(|_| ReloadError::Stopped)?.inspect_err(|error| {
            tracing::error!(%error, "new rules refused, the running ones stay");
        })?;
        let count = rules.rules().len();
        let (reply, answer) = oneshot::channel();
        self.control.send(Control::Swap(Arc::new(rules), reply)).await.map_err(|_| ReloadError::Stopped)?;
        answer.await.map_err(|_| ReloadError::Stopped)?;
        Ok(count)
    }

    /// Resolves when the trail ends by itself: always an error.
    pub async fn ended(&mut self) -> TrailError {
        (&mut self.end).await.unwrap_or(Err(TrailError::Gone)).err().unwrap_or(TrailError::Gone)
    }

    /// Stops after the current step; seals the lake's tail.
    pub async fn shutdown(self) -> Result<(), TrailError> {
        // A loop that ended already has nothing to be told.
        drop(self.control.send(Control::Stop).await);
        self.end.await.unwrap_or(Err(TrailError::Gone))
    }
}

/// Why rules were not loaded again.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new set has problems; the running one stays.
    #[error("new rules refused, the running ones stay")]
    Refused(#[from] RuleSetError),
    /// There is no trail any more.
    #[error("trail is not running")]
    Stopped,
}

#[cfg(test)]
mod tests;
