//! The journal's three threads: the appender writes, the preparer keeps a segment ready, the watchdog keeps the bound.
//!
//! Group commit without timers: the appender takes whatever has queued up while the batch before was being synced.
//! One slow fdatasync therefore makes the next batch larger, never the queue longer.

use super::append::{AppendError, Draft, Durable, Queued, Receipt, Shared, State, Waiter, worst_bytes};
use super::batch::BatchBuffer;
use super::error::JournalError;
use super::segment::Segment;
use super::writer::Writer;
use crate::chain::leaf::{self, Kind, Leaf, LeafHash, Link};
use bytes::Bytes;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The watchdog looks this many times within a bound.
const LOOKS_PER_BOUND: u32 = 4;
/// And at least this often.
const LOOK_MAX: Duration = Duration::from_millis(250);

/// The thread that writes.
pub(super) struct Appender {
    shared: Arc<Shared>,
    writer: Writer,
    link: Link,
    buffer: BatchBuffer,
    /// Records of the round.
    taken: Vec<Queued>,
    receipts: Vec<Receipt>,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer, link: Link) -> Self {
        Self { shared, writer, link, buffer: BatchBuffer::default(), taken: Vec::new(), receipts: Vec::new() }
    }

    /// Rounds until closed and drained, or until a write fails.
    pub(super) fn run(mut self) {
        while self.take() {
            self.build();
            let (Some(first), Some(last)) = (self.receipts.first(), self.receipts.last()) else { continue };
            let (first_seq, next_seq) = (first.seq, last.seq + 1);
            if let Err(error) = self.writer.write(&mut self.buffer, first_seq, next_seq) {
                self.fail(&error);
                return;
            }
            self.publish(next_seq);
        }
        // Whoever still waits is not going to be served.
        let mut state = self.shared.state.lock();
        state.closing = true;
        state.in_flight.clear();
        state.queue.clear();
    }

    /// Waits for records and takes as many as one batch may hold. False: there is nothing more to do.
    fn take(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        loop {
            let Some(front) = state.queue.front() else {
                state.busy_since = None;
                if state.closing {
                    return false;
                }
                shared.work.wait(&mut state);
                continue;
            };
            let front_bytes = front.bytes();
            state.busy_since.get_or_insert_with(Instant::now);
            if self.writer.fits(front_bytes) {
                break;
            }
            if !self.switch(&mut state) {
                if state.closing && state.no_space {
                    tracing::error!(waiting = state.queue.len(), "journal closed on a full disk, records dropped");
                    return false;
                }
                shared.work.wait(&mut state);
            }
        }
        self.fill(&mut state);
        true
    }

    fn switch(&mut self, state: &mut State) -> bool {
        let Some(next) = state.spares.pop_front() else { return false };
        self.writer.switch(next);
        state.room_bytes = self.writer.room_bytes();
        self.shared.helper.notify_one();
        true
    }

    fn fill(&mut self, state: &mut State) {
        let options = &self.shared.options;
        let mut bytes = 0;
        self.taken.clear();
        while let Some(front) = state.queue.front() {
            let with_front = bytes + front.bytes();
            let full = self.taken.len() >= options.batch_records_max || with_front > options.batch_bytes_max;
            if (full && !self.taken.is_empty()) || !self.writer.fits(with_front) {
                break;
            }
            bytes = with_front;
            let Some(mut queued) = state.queue.pop_front() else { break };
            if let Some(reply) = queued.reply.take() {
                state.in_flight.push(Waiter { seq: queued.seq, reply });
            }
            self.taken.push(queued);
        }
        state.queue_bytes -= bytes;
        // Each round has its own bound.
        state.busy_since = Some(Instant::now());
    }

    /// Links the records and puts them into the batch buffer.
    fn build(&mut self) {
        self.buffer.clear();
        self.receipts.clear();
        for queued in &self.taken {
            let leaf = Leaf {
                log: self.shared.log,
                epoch: self.shared.epoch,
                seq: queued.seq,
                kind: queued.kind,
                time_us: queued.time_us,
                payload_len: u32::try_from(queued.payload.len()).expect("a draft's payload is at most 256 KiB"),
                payload_digest: queued.digest,
                prev: self.link,
            };
            let bytes = leaf.encode();
            self.link = leaf::link(&bytes);
            self.buffer.push(&bytes, &queued.salt, &queued.payload);
            let leaf_hash: LeafHash = leaf::leaf_hash(&bytes);
            self.receipts.push(Receipt { log: leaf.log, seq: leaf.seq, leaf_hash, time_us: leaf.time_us });
        }
    }

    /// The batch is durable: tells the tree, the followers and the callers, in this order.
    fn publish(&mut self, next_seq: u64) {
        {
            let mut grown = self.shared.grown.lock();
            self.receipts.iter().for_each(|receipt| grown.tree.push(receipt.leaf_hash));
            grown.link = self.link;
        }
        self.shared.durable.send_replace(Durable { next_seq, link: self.link });
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        state.room_bytes = self.writer.room_bytes();
        state.worst_bytes -= self.taken.iter().map(|queued| worst_bytes(queued.bytes())).sum::<u64>();
        state.busy_since = None;
        let waiters = std::mem::take(&mut state.in_flight);
        self.resume(&mut state, next_seq);
        drop(state);
        self.taken.clear();
        let mut receipts = self.receipts.iter();
        for Waiter { seq, reply } in waiters {
            // Both are in seq order; a record without a waiter (an addendum) is passed over.
            let receipt = receipts.find(|receipt| receipt.seq == seq);
            let _ = reply.send(receipt.copied().ok_or(AppendError::Stopped));
        }
    }

    /// After a stall: once all late records are durable, records which replies were not sent; once that is durable,
    /// takes calls again.
    fn resume(&mut self, state: &mut MutexGuard<'_, State>, next_seq: u64) {
        if !state.stalled {
            return;
        }
        if state.addendum.is_some_and(|seq| seq < next_seq) {
            tracing::warn!("journal takes records again, the replies not sent are in an addendum");
            state.stalled = false;
            state.addendum = None;
            state.unsent.clear();
            return;
        }
        if state.queue.is_empty() && state.addendum.is_none() {
            match Draft::new(Kind::Addendum, addendum_payload(&state.unsent)) {
                Ok(draft) => state.addendum = Some(state.enqueue(draft, self.shared.clock.now_us(), None)),
                // Stays stalled: going on without the addendum would hide which replies were not sent.
                Err(error) => tracing::error!(%error, "addendum cannot be made"),
            }
        }
    }

    fn fail(&self, error: &JournalError) {
        tracing::error!(%error, cause = ?std::error::Error::source(error), "journal write failed");
        {
            let mut state = self.shared.state.lock();
            state.dead = true;
            state.in_flight.clear();
            state.queue.clear();
        }
        (self.shared.options.on_fatal)(error);
    }
}

/// `{"recordVersion":1,"repliesNotSent":[[first,last],...]}`; ranges inclusive.
fn addendum_payload(unsent: &[(u64, u64)]) -> Bytes {
    Bytes::from(serde_json::json!({ "recordVersion": 1, "repliesNotSent": unsent }).to_string())
}

/// The thread that keeps a segment ready, so that appending never waits for 64 MiB of zeros.
pub(super) fn preparer(shared: &Arc<Shared>) {
    let mut state = shared.state.lock();
    while !state.done {
        if !state.spares.is_empty() {
            shared.helper.wait(&mut state);
            continue;
        }
        let number = state.next_segment;
        let made = MutexGuard::unlocked(&mut state, || {
            Segment::prepare(&shared.dir, shared.log, number, shared.options.segment_bytes)
        });
        match made {
            Ok(segment) => {
                if std::mem::take(&mut state.no_space) {
                    tracing::info!("disk has space for a journal segment again");
                }
                state.next_segment += 1;
                state.spares.push_back(segment);
            }
            Err(error) if error.is_no_space() => {
                if !std::mem::replace(&mut state.no_space, true) {
                    tracing::error!(error = ?error, "no space for the next journal segment");
                }
            }
            Err(error) => {
                tracing::error!(error = ?error, "journal segment cannot be prepared");
                state.dead = true;
                state.in_flight.clear();
                state.queue.clear();
                state.closing = true;
                MutexGuard::unlocked(&mut state, || (shared.options.on_fatal)(&error));
            }
        }
        shared.work.notify_one();
        if state.dead {
            return;
        }
        if state.no_space && !state.done {
            shared.helper.wait_for(&mut state, shared.options.prepare_retry);
        }
    }
}

/// The thread that tells callers when a batch takes too long.
pub(super) fn watchdog(shared: &Arc<Shared>) {
    let bound = shared.options.append_bound;
    let look = (bound / LOOKS_PER_BOUND).min(LOOK_MAX);
    let mut state = shared.state.lock();
    while !state.done && !state.dead {
        let late = state.busy_since.is_some_and(|since| since.elapsed() >= bound);
        if late && !state.stalled {
            stall(&mut state);
        }
        shared.watchdog.wait_for(&mut state, look);
    }
}

fn stall(state: &mut State) {
    state.stalled = true;
    let queued = state.queue.iter_mut().filter_map(|queued| {
        let reply = queued.reply.take()?;
        Some(Waiter { seq: queued.seq, reply })
    });
    let late: Vec<Waiter> = std::mem::take(&mut state.in_flight).into_iter().chain(queued).collect();
    tracing::error!(late = late.len(), "journal batch exceeds its bound, no more calls are taken until it lands");
    for Waiter { seq, reply } in late {
        match state.unsent.last_mut() {
            Some((_, last)) if *last + 1 == seq => *last = seq,
            _ => state.unsent.push((seq, seq)),
        }
        let _ = reply.send(Err(AppendError::Bound));
    }
}
