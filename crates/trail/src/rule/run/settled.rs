//! Settled time: how far a log can be judged as if nothing could come in between any more.
//!
//! Leaves of our own logs are in order of time, so that everything below the first missing seq is settled, whatever
//! kind it is: a heartbeat each 10 s moves a log in which nobody calls. Times of an imported log are in no order: there
//! it is the watermark less the rule's lateness. Whatever a late event could undo waits in a [`Pending`] queue and leaves
//! it in order of (time, seq), so that order, repeats and batches of the delivery change nothing.

use crate::rule::state::{Reader, StateError, Writer};
use std::collections::BTreeMap;

/// Most entries that wait per rule and log; beyond it the oldest is taken as settled.
pub(super) const PENDING_MAX: usize = 262_144;

/// What of a log is settled, for one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// No event earlier than this can still come, Unix microseconds.
    pub(crate) us: i64,
    /// Everything below this seq has come and is in order of time; 0 for imported logs.
    pub(crate) below_seq: u64,
}

impl Settled {
    /// True if nothing can still come before this event.
    pub(crate) fn covers(self, time_us: i64, seq: u64) -> bool {
        time_us < self.us || seq < self.below_seq
    }
}

/// What waits to be settled, in order of (time, seq).
#[derive(Debug)]
pub(crate) struct Pending<T> {
    map: BTreeMap<(i64, u64), T>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { map: BTreeMap::new() }
    }
}

impl<T> Pending<T> {
    pub(crate) fn insert(&mut self, time_us: i64, seq: u64, value: T) {
        self.map.insert((time_us, seq), value);
    }

    /// The earliest entry, if it is settled.
    pub(crate) fn next(&mut self, settled: Settled) -> Option<((i64, u64), T)> {
        self.next_before(settled, None, 0)
    }

    /// The same if it is also earlier than `other`, of so many that wait elsewhere.
    pub(crate) fn next_before(
        &mut self,
        settled: Settled,
        other: Option<(i64, u64)>,
        elsewhere: usize,
    ) -> Option<((i64, u64), T)> {
        let (&key, _) = self.map.first_key_value()?;
        let full = self.map.len() + elsewhere > PENDING_MAX;
        if other.is_some_and(|other| other < key) || !(full || settled.covers(key.0, key.1)) {
            return None;
        }
        self.map.pop_first()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn write(&self, to: &mut Writer, mut value: impl FnMut(&T, &mut Writer)) {
        to.length(self.map.len());
        for (&(time_us, seq), waiting) in &self.map {
            to.i64(time_us);
            to.u64(seq);
            value(waiting, to);
        }
    }

    pub(crate) fn read(
        from: &mut Reader<'_>,
        mut value: impl FnMut(&mut Reader<'_>) -> Result<T, StateError>,
    ) -> Result<Self, StateError> {
        let mut map = BTreeMap::new();
        for _ in 0..from.length()? {
            let key = (from.i64()?, from.u64()?);
            map.insert(key, value(from)?);
        }
        Ok(Self { map })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_leaves_in_order_once_it_is_settled() {
        let mut pending = Pending::default();
        for (time_us, seq) in [(30, 3), (10, 1), (20, 2), (20, 1)] {
            pending.insert(time_us, seq, seq);
        }
        let mut writer = Writer::default();
        pending.write(&mut writer, |value, to| to.u64(*value));
        let mut back = Pending::read(&mut Reader::new(&writer.0), |from| from.u64()).unwrap();
        for pending in [&mut pending, &mut back] {
            assert_eq!(pending.next(Settled { us: 10, below_seq: 0 }), None, "another event at 10 may still come");
            let settled = Settled { us: 20, below_seq: 2 };
            let taken: Vec<_> = std::iter::from_fn(|| pending.next(settled)).map(|(key, _)| key).collect();
            assert_eq!(taken, [(10, 1), (20, 1)]);
            assert_eq!(pending.next(Settled { us: 31, below_seq: 0 }), Some(((20, 2), 2)));
            assert_eq!(pending.len(), 1);
        }
    }
}
