//! `Journal`: hands out seqs, queues records and answers when they are durable.
//!
//! A caller's gate runs and its seq is given out under one mutex, so the order in which calls were found valid is the
//! order of the log. The threads that do the work are in `appender.rs`; here is what callers see.

use super::appender::{Appender, preparer, watchdog};
use super::batch::{LONE_RECORD_BYTES_MAX, RECORD_OVERHEAD_BYTES, disk_bytes, record_bytes};
use super::error::JournalError;
use super::frame::PAYLOAD_BYTES_MAX;
use super::reader::Reader;
use super::recovery::{self, Opened};
use super::segment::{FIRST_BATCH_AT, SEGMENT_BYTES_MAX, Segment};
use super::walk::{Chain, Start};
use crate::chain::leaf::{self, Kind, LeafHash, Link, LogId, Salt};
use crate::chain::tree::{RootHash, Tree};
use crate::clock::Clock;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Called with the reason when going on could lose records; the default ends the process.
pub type FatalHook = Arc<dyn Fn(&JournalError) + Send + Sync>;

/// Bounds of a journal. The defaults suit a node.
#[derive(Clone)]
pub struct JournalOptions {
    /// Length of a segment; a multiple of 4,096, at least room for one largest record.
    pub segment_bytes: u64,
    /// Most records in one batch.
    pub batch_records_max: usize,
    /// Most bytes of records in one batch.
    pub batch_bytes_max: usize,
    /// Most records waiting; beyond it calls are refused.
    pub queue_records_max: usize,
    /// Most bytes of records waiting.
    pub queue_bytes_max: usize,
    /// A batch that takes longer stops the node for new calls until it lands.
    pub append_bound: Duration,
    /// How often a full disk is tried again.
    pub prepare_retry: Duration,
    /// False: a batch counts as durable when it is written. For benches that compare; no configuration leads here.
    pub fdatasync: bool,
    /// What a failed write or fdatasync does.
    pub on_fatal: FatalHook,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            batch_records_max: 4_096,
            batch_bytes_max: 4 * 1024 * 1024,
            queue_records_max: 16_384,
            queue_bytes_max: 32 * 1024 * 1024,
            append_bound: Duration::from_secs(5),
            prepare_retry: Duration::from_secs(1),
            fdatasync: true,
            on_fatal: Arc::new(|_| std::process::abort()),
        }
    }
}

impl JournalOptions {
    fn check(&self) -> Result<(), JournalError> {
        let smallest = FIRST_BATCH_AT + LONE_RECORD_BYTES_MAX;
        if !self.segment_bytes.is_multiple_of(4_096) || !(smallest..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(JournalError::Options("segment_bytes is not a multiple of 4096 from 270336 up to 1 GiB"));
        }
        if self.batch_records_max == 0 || self.queue_records_max == 0 {
            return Err(JournalError::Options("batch_records_max and queue_records_max are at least 1"));
        }
        if self.batch_bytes_max < record_bytes(PAYLOAD_BYTES_MAX) || self.queue_bytes_max < self.batch_bytes_max {
            return Err(JournalError::Options("a batch holds a largest record, a queue holds a batch"));
        }
        if self.append_bound.is_zero() || self.prepare_retry.is_zero() {
            return Err(JournalError::Options("append_bound and prepare_retry are not zero"));
        }
        Ok(())
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Seq of the next record.
    pub next_seq: u64,
    /// Epoch of this run: one above the last recorded, 1 in a new log.
    pub epoch: u64,
    /// Link that the next record carries.
    pub last_link: Link,
    /// Time of the last record, 0 in a new log.
    pub last_time_us: u64,
    /// First and last seq of the last batch: whether their callers got replies is unknown.
    pub last_batch: Option<(u64, u64)>,
    /// What was wrong with a last batch that was never durable and has been dropped.
    pub dropped: Option<&'static str>,
    /// The tree over all records, for comparing with checkpoints.
    pub tree: Tree,
    /// Records of key transitions, seq and payload; nothing in them is checked.
    pub transitions: Vec<(u64, Bytes)>,
}

/// How far the journal is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Records below this seq are durable.
    pub next_seq: u64,
    /// Link that the record with that seq carries.
    pub link: Link,
}

/// The durable log head, ready to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Records covered.
    pub size: u64,
    /// Root of the tree over them.
    pub root: RootHash,
    /// Link that the next record carries.
    pub link: Link,
}

/// Proof of where a call was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which log.
    pub log: LogId,
    /// Index in it.
    pub seq: u64,
    /// Leaf hash in the tree.
    pub leaf_hash: LeafHash,
    /// The leaf's time.
    pub time_us: u64,
}

/// Why a draft cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Payloads are bounded.
    #[error("payload has {0} bytes, more than the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong(usize),
    /// No salt, no record.
    #[error("system gave no random bytes for a salt")]
    Random,
}

/// Which bound refused a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Too much is waiting for the disk.
    Queue,
    /// The disk is full; service returns by itself when there is space.
    NoSpace,
}

/// Why a record was not taken. It has no seq and never will.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError<E> {
    /// A bound was met.
    #[error("journal takes no records now ({0:?})")]
    Full(Bound),
    /// A batch has exceeded its bound; service returns when it lands.
    #[error("journal waits for a batch that exceeds its bound")]
    Stalled,
    /// Closed, or a write failed.
    #[error("journal is stopped")]
    Stopped,
    /// The gate said no.
    #[error("record was judged under a state that has passed")]
    Stale(E),
}

/// Why there is no receipt for a record that has a seq.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AppendError {
    /// Not durable in time. It may become durable still; then an addendum names it.
    #[error("record was not durable within the bound")]
    Bound,
    /// The journal stopped first.
    #[error("journal stopped before the record was durable")]
    Stopped,
}

/// A record without a seq: salted and hashed outside of any lock.
#[derive(Debug)]
pub struct Draft {
    kind: Kind,
    payload: Bytes,
    salt: Salt,
    digest: [u8; 32],
}

impl Draft {
    /// Salts and hashes `payload`.
    pub fn new(kind: Kind, payload: Bytes) -> Result<Self, DraftError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(DraftError::TooLong(payload.len()));
        }
        let mut salt = Salt::default();
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| DraftError::Random)?;
        Ok(Self { kind, digest: leaf::payload_digest(&salt, &payload), payload, salt })
    }
}

/// A record with its seq, waiting to be durable. Resolves to the receipt; dropping it changes nothing.
#[derive(Debug)]
#[must_use = "a record is not durable before its receipt"]
pub struct Pending {
    seq: u64,
    receipt: oneshot::Receiver<Result<Receipt, AppendError>>,
}

impl Pending {
    /// The seq given out.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Waits on this thread. Not for async code.
    pub fn wait(self) -> Result<Receipt, AppendError> {
        self.receipt.blocking_recv().unwrap_or(Err(AppendError::Stopped))
    }
}

impl Future for Pending {
    type Output = Result<Receipt, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receipt).poll(context).map(|sent| sent.unwrap_or(Err(AppendError::Stopped)))
    }
}

/// The journal of one node, open for appending. One per folder; share it in an `Arc`.
pub struct Journal {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Journal {
    /// Opens (or creates) the journal in `dir`, recovers it and starts its threads.
    pub fn open(
        dir: &Path,
        log: LogId,
        clock: Arc<dyn Clock>,
        options: JournalOptions,
    ) -> Result<(Self, Recovered), JournalError> {
        options.check()?;
        let opened = recovery::open(dir, Chain::genesis(log), Start::Genesis, options.segment_bytes, true)?;
        let Opened { mut writer, spares, chain, tree, last_batch, dropped, transitions } = opened;
        writer.fdatasync = options.fdatasync;
        let epoch = chain.epoch + 1;
        let recovered = Recovered {
            next_seq: chain.next_seq,
            epoch,
            last_link: chain.link,
            last_time_us: chain.time_us,
            last_batch,
            dropped,
            tree: tree.clone(),
            transitions,
        };
        let state = State {
            next_seq: chain.next_seq,
            time_us: chain.time_us,
            room_bytes: writer.room_bytes(),
            next_segment: writer.segment_number() + 1 + spares.len() as u64,
            spares,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            log,
            epoch,
            clock,
            options,
            state: Mutex::new(state),
            work: Condvar::new(),
            helper: Condvar::new(),
            watchdog: Condvar::new(),
            grown: Mutex::new(Grown { tree, link: chain.link }),
            proofs: Mutex::new(None),
            durable: watch::Sender::new(Durable { next_seq: chain.next_seq, link: chain.link }),
        });
        let journal = Self { shared, threads: Mutex::new(Vec::new()) };
        if let Err(error) = journal.start(writer, chain.link) {
            // Without an appender nothing would tell the helpers to end.
            journal.shared.state.lock().done = true;
            return Err(error);
        }
        Ok((journal, recovered))
    }

    fn start(&self, writer: super::writer::Writer, link: Link) -> Result<(), JournalError> {
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            let thread = thread.map_err(JournalError::io("start a thread for", &self.shared.dir))?;
            self.threads.lock().push(thread);
            Ok::<(), JournalError>(())
        };
        let shared = Arc::clone(&self.shared);
        spawn("journal-prepare", Box::new(move || preparer(&shared)))?;
        let shared = Arc::clone(&self.shared);
        spawn("journal-watch", Box::new(move || watchdog(&shared)))?;
        let shared = Arc::clone(&self.shared);
        spawn("journal-append", Box::new(move || Appender::new(shared, writer, link).run()))
    }

    /// Runs `gate` and, if it agrees, gives `draft` the next seq, all under the sequencing mutex. `gate` must be quick
    /// and must not call the journal. After `Ok` the record will become durable unless the process ends first.
    pub fn submit<E>(&self, draft: Draft, gate: impl FnOnce() -> Result<(), E>) -> Result<Pending, SubmitError<E>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        state.admit(&draft, &shared.options)?;
        gate().map_err(SubmitError::Stale)?;
        let (sender, receipt) = oneshot::channel();
        let seq = state.enqueue(draft, shared.clock.now_us(), Some(sender));
        drop(state);
        shared.work.notify_one();
        Ok(Pending { seq, receipt })
    }

    /// [`Journal::submit`] without a gate.
    pub fn append(&self, draft: Draft) -> Result<Pending, SubmitError<std::convert::Infallible>> {
        self.submit(draft, || Ok(()))
    }

    /// The log's id.
    pub fn log(&self) -> LogId {
        self.shared.log
    }

    /// The number of this run.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// How far the journal is durable, and notice whenever that moves.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// The durable head with its root, for signing. Costs some hundred hashes.
    pub fn head(&self) -> Head {
        let grown = self.shared.grown.lock();
        Head { size: grown.tree.size(), root: grown.tree.root(), link: grown.link }
    }

    /// Looks at the tree over all durable records. Appending waits meanwhile.
    pub fn with_tree<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        look(&self.shared.grown.lock().tree)
    }

    /// Where the segments are.
    pub(super) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(super) fn proofs(&self) -> &Mutex<Option<Reader>> {
        &self.shared.proofs
    }

    /// Why new records would be refused now, if they would. For health checks.
    pub fn refusing(&self) -> Option<SubmitError<std::convert::Infallible>> {
        let state = self.shared.state.lock();
        state.refusal(LONE_RECORD_BYTES_MAX, &self.shared.options)
    }

    /// Takes no more records, waits until all taken are durable, ends the threads and gives up the writer's lock.
    pub fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            state.closing = true;
        }
        self.shared.wake_all();
        // Popped from the end: the appender first, for the helpers must serve it until it is done.
        loop {
            let thread = self.threads.lock().pop();
            let Some(thread) = thread else { break };
            if thread.join().is_err() {
                tracing::error!("journal thread panicked");
            }
            self.shared.state.lock().done = true;
            self.shared.wake_all();
        }
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("dir", &self.shared.dir).field("log", &self.shared.log).finish_non_exhaustive()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) log: LogId,
    pub(super) epoch: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: JournalOptions,
    pub(super) state: Mutex<State>,
    /// Wakes the appender.
    pub(super) work: Condvar,
    /// Wakes the preparer.
    pub(super) helper: Condvar,
    /// Wakes the watchdog, to end.
    pub(super) watchdog: Condvar,
    pub(super) grown: Mutex<Grown>,
    /// For proofs; see `proofs.rs`.
    pub(super) proofs: Mutex<Option<Reader>>,
    pub(super) durable: watch::Sender<Durable>,
}

impl Shared {
    pub(super) fn wake_all(&self) {
        self.work.notify_all();
        self.helper.notify_all();
        self.watchdog.notify_all();
    }
}

/// What has become durable.
pub(super) struct Grown {
    pub(super) tree: Tree,
    pub(super) link: Link,
}

pub(super) type Reply = oneshot::Sender<Result<Receipt, AppendError>>;

/// A caller that waits.
pub(super) struct Waiter {
    pub(super) seq: u64,
    pub(super) reply: Reply,
}

/// A record with its seq, before its link is known.
pub(super) struct Queued {
    pub(super) seq: u64,
    pub(super) time_us: u64,
    pub(super) kind: Kind,
    pub(super) salt: Salt,
    pub(super) digest: [u8; 32],
    pub(super) payload: Bytes,
    pub(super) reply: Option<Reply>,
}

impl Queued {
    pub(super) fn bytes(&self) -> usize {
        record_bytes(self.payload.len())
    }
}

/// All that the sequencing mutex guards.
#[derive(Default)]
pub(super) struct State {
    pub(super) next_seq: u64,
    pub(super) time_us: u64,
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: usize,
    /// Space that everything queued or in flight can take at worst, each record alone in its batch.
    pub(super) worst_bytes: u64,
    /// Space left in the segment, without what is in flight.
    pub(super) room_bytes: u64,
    pub(super) spares: VecDeque<Segment>,
    pub(super) next_segment: u64,
    /// The last attempt to prepare a segment met a full disk.
    pub(super) no_space: bool,
    /// Callers of the batch being written.
    pub(super) in_flight: Vec<Waiter>,
    /// Since when the appender has had work that is not durable.
    pub(super) busy_since: Option<Instant>,
    /// A batch exceeded its bound.
    pub(super) stalled: bool,
    /// First and last seqs whose callers were told that they are late.
    pub(super) unsent: Vec<(u64, u64)>,
    /// Seq of the addendum that is on its way.
    pub(super) addendum: Option<u64>,
    pub(super) closing: bool,
    /// A write failed.
    pub(super) dead: bool,
    /// The appender has ended; helpers may too.
    pub(super) done: bool,
}

impl State {
    fn admit<E>(&self, draft: &Draft, options: &JournalOptions) -> Result<(), SubmitError<E>> {
        let bytes = record_bytes(draft.payload.len());
        let queue_full = self.queue_bytes + bytes > options.queue_bytes_max;
        match self.refusal(worst_bytes(bytes), options) {
            Some(refusal) => Err(refusal),
            None if queue_full => Err(SubmitError::Full(Bound::Queue)),
            None => Ok(()),
        }
    }

    fn refusal<E>(&self, worst: u64, options: &JournalOptions) -> Option<SubmitError<E>> {
        if self.closing || self.dead {
            return Some(SubmitError::Stopped);
        }
        if self.stalled {
            return Some(SubmitError::Stalled);
        }
        if self.no_space && self.worst_bytes + worst > self.sure_bytes(options) {
            return Some(SubmitError::Full(Bound::NoSpace));
        }
        (self.queue.len() >= options.queue_records_max).then_some(SubmitError::Full(Bound::Queue))
    }

    /// Space that is certainly there: at each segment's end less than one largest record can stay unused.
    fn sure_bytes(&self, options: &JournalOptions) -> u64 {
        let spare = (options.segment_bytes - FIRST_BATCH_AT).saturating_sub(LONE_RECORD_BYTES_MAX);
        self.room_bytes + spare * self.spares.len() as u64
    }

    /// Gives out the next seq. The leaf's time never falls, whatever the clock does.
    pub(super) fn enqueue(&mut self, draft: Draft, now_us: u64, reply: Option<Reply>) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.time_us = self.time_us.max(now_us);
        let Draft { kind, payload, salt, digest } = draft;
        let queued = Queued { seq, time_us: self.time_us, kind, salt, digest, payload, reply };
        self.queue_bytes += queued.bytes();
        self.worst_bytes += worst_bytes(queued.bytes());
        self.queue.push_back(queued);
        seq
    }
}

/// Space of a record alone in its batch.
pub(super) fn worst_bytes(record: usize) -> u64 {
    debug_assert!(record >= RECORD_OVERHEAD_BYTES, "a record has a leaf and a salt");
    disk_bytes(record as u64)
}
