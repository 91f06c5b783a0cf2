//! Delivery reports: which records the broker has for good.
//!
//! The cursor may only move over a run without holes, because whatever is below it is not sent again. The first failed
//! report ends this producer: later records may have overtaken the failed one, so everything from the run's end is sent
//! anew.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use std::collections::BTreeSet;

/// What a message in flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// A record of the log.
    Record {
        /// Its seq.
        seq: u64,
        /// Bytes that it holds in memory.
        bytes: usize,
    },
    /// A checkpoint; nothing waits for it.
    Checkpoint,
}

/// The producer's context; reports come in on the thread that polls.
pub(super) struct Acks(Mutex<Run>);

/// The run of delivered records, and what is in flight above it.
#[derive(Debug)]
struct Run {
    next_seq: u64,
    beyond: BTreeSet<u64>,
    in_flight: usize,
    in_flight_bytes: usize,
    failed: Option<String>,
}

impl Acks {
    /// Nothing sent yet; records below `next_seq` were delivered before.
    pub(super) fn from(next_seq: u64) -> Self {
        let beyond = BTreeSet::new();
        Self(Mutex::new(Run { next_seq, beyond, in_flight: 0, in_flight_bytes: 0, failed: None }))
    }

    /// Records below this seq are delivered, without a hole.
    pub(super) fn next_seq(&self) -> u64 {
        self.0.lock().next_seq
    }

    /// Messages and bytes in flight.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        let run = self.0.lock();
        (run.in_flight, run.in_flight_bytes)
    }

    /// The first failed report.
    pub(super) fn failed(&self) -> Option<String> {
        self.0.lock().failed.clone()
    }

    /// Counts a message handed to the producer.
    pub(super) fn sent(&self, sent: Sent) {
        let mut run = self.0.lock();
        run.in_flight += 1;
        run.in_flight_bytes += sent.bytes();
    }

    fn reported(&self, sent: Sent, result: Result<(), String>) {
        let mut run = self.0.lock();
        run.in_flight = run.in_flight.saturating_sub(1);
        run.in_flight_bytes = run.in_flight_bytes.saturating_sub(sent.bytes());
        match (result, sent) {
            (Err(reason), _) => {
                run.failed.get_or_insert(reason);
            }
            // After a failure nothing counts: the run ends at the hole.
            (Ok(()), Sent::Record { seq, .. }) if run.failed.is_none() => run.deliver(seq),
            (Ok(()), _) => {}
        }
    }
}

impl Run {
    fn deliver(&mut self, seq: u64) {
        if seq >= self.next_seq {
            self.beyond.insert(seq);
        }
        while self.beyond.remove(&self.next_seq) {
            self.next_seq += 1;
        }
    }
}

impl Sent {
    fn bytes(self) -> usize {
        match self {
            Self::Record { bytes, .. } => bytes,
            Self::Checkpoint => 0,
        }
    }
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        self.reported(*sent, result.as_ref().map(|_| ()).map_err(|(error, _)| error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seq: u64) -> Sent {
        Sent::Record { seq, bytes: 10 }
    }

    #[test]
    fn the_run_moves_over_delivered_records_only() {
        let acks = Acks::from(5);
        for seq in 5..9 {
            acks.sent(record(seq));
        }
        for (seq, next_seq) in [(6, 5), (8, 5), (5, 7), (7, 9)] {
            acks.reported(record(seq), Ok(()));
            assert_eq!(acks.next_seq(), next_seq);
        }
        assert_eq!(acks.in_flight(), (0, 0));
    }

    #[test]
    fn nothing_is_delivered_beyond_a_failure() {
        let acks = Acks::from(0);
        for seq in 0..3 {
            acks.sent(record(seq));
        }
        acks.reported(record(0), Ok(()));
        acks.reported(record(1), Err("refused".to_owned()));
        acks.reported(record(2), Ok(()));
        assert_eq!((acks.next_seq(), acks.failed()), (1, Some("refused".to_owned())));
    }
}
