//! What the engine keeps over a restart, as bytes.
//!
//! Numbers are big-endian, texts and lists carry a u32 length. The bytes come from our own trail.db, yet every length is
//! checked against what is left: a damaged file is an error, never a panic or a huge allocation. Also here: the set of
//! log positions that were seen, by which repeated deliveries change nothing.

use std::collections::BTreeMap;

/// Most separate ranges in a [`SeqSet`]; a log in order needs one.
const RANGES_MAX: usize = 65_536;

/// Why stored state cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// Ends early or holds an impossible length.
    #[error("rule state is damaged")]
    Damaged,
    /// Written by another version.
    #[error("rule state version {0} is not known")]
    Version(u8),
}

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn length(&mut self, value: usize) {
        let value = u32::try_from(value).expect("state is bounded far below 2^32 items");
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.0.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
}

/// Takes fields in the order they were written.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(StateError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.take::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, StateError> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, StateError> {
        Ok(u128::from_be_bytes(self.take()?))
    }

    /// A count of items of at least one byte each.
    pub(crate) fn length(&mut self) -> Result<usize, StateError> {
        let length = usize::try_from(u32::from_be_bytes(self.take()?)).map_err(|_| StateError::Damaged)?;
        if length > self.0.len() { Err(StateError::Damaged) } else { Ok(length) }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], StateError> {
        let length = self.length()?;
        let (head, rest) = self.0.split_at_checked(length).ok_or(StateError::Damaged)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn text(&mut self) -> Result<String, StateError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| StateError::Damaged)
    }

    pub(crate) fn end(&self) -> Result<(), StateError> {
        if self.0.is_empty() { Ok(()) } else { Err(StateError::Damaged) }
    }
}

/// The positions of one log that were processed, as disjoint ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeqSet {
    /// By start; never touching.
    ranges: BTreeMap<u64, Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    /// Exclusive.
    end: u64,
    /// Latest leaf time in it; `i64::MIN` if it is not known.
    time_us: i64,
}

impl SeqSet {
    /// True if `seq` is new; it is not any more afterwards. `time_us` is the time of its leaf.
    pub(crate) fn insert(&mut self, seq: u64, time_us: i64) -> bool {
        // Most come in order.
        if let Some(mut last) = self.ranges.last_entry()
            && last.get().end == seq
        {
            let range = last.get_mut();
            (range.end, range.time_us) = (seq + 1, range.time_us.max(time_us));
            return true;
        }
        let before = self.ranges.range(..=seq).next_back().map(|(&start, &range)| (start, range));
        if before.is_some_and(|(_, range)| seq < range.end) {
            return false;
        }
        let (mut start, mut new) = (seq, Range { end: seq + 1, time_us });
        if let Some((found, range)) = before
            && range.end == seq
        {
            start = found;
            new.time_us = new.time_us.max(range.time_us);
        }
        if let Some(after) = self.ranges.remove(&(seq + 1)) {
            new = Range { end: after.end, time_us: new.time_us.max(after.time_us) };
        }
        self.ranges.insert(start, new);
        if self.ranges.len() > RANGES_MAX {
            self.close_lowest_gap();
        }
        true
    }

    /// Everything below `seq` counts as seen: the log is read from there on.
    pub(crate) fn start_at(&mut self, seq: u64) {
        if seq > 0 && self.ranges.is_empty() {
            self.ranges.insert(0, Range { end: seq, time_us: i64::MIN });
        }
    }

    /// Gives up the oldest gap: what it lacks counts as seen from now on.
    fn close_lowest_gap(&mut self) {
        if let (Some((low, before)), Some((_, after))) = (self.ranges.pop_first(), self.ranges.pop_first()) {
            self.ranges.insert(low, Range { end: after.end, time_us: after.time_us.max(before.time_us) });
        }
    }

    /// The end of the range that holds the lowest positions: all of them below were seen.
    pub(crate) fn contiguous_end(&self) -> u64 {
        self.ranges.first_key_value().map_or(0, |(_, range)| range.end)
    }

    /// First missing seq, and the latest leaf time below it.
    pub(crate) fn settled(&self) -> (u64, i64) {
        match self.ranges.first_key_value() {
            Some((0, range)) => (range.end, range.time_us),
            _ => (0, i64::MIN),
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.length(self.ranges.len());
        for (&start, range) in &self.ranges {
            to.u64(start);
            to.u64(range.end);
            to.i64(range.time_us);
        }
    }

    /// Without times (`timed` is false) nothing is settled until the next record comes.
    pub(crate) fn read(from: &mut Reader<'_>, timed: bool) -> Result<Self, StateError> {
        let mut ranges: BTreeMap<u64, Range> = BTreeMap::new();
        for _ in 0..from.length()? {
            let (start, end) = (from.u64()?, from.u64()?);
            let time_us = if timed { from.i64()? } else { i64::MIN };
            if end <= start || ranges.last_key_value().is_some_and(|(_, last)| start <= last.end) {
                return Err(StateError::Damaged);
            }
            ranges.insert(start, Range { end, time_us });
        }
        Ok(Self { ranges })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_is_new_once_in_any_order() {
        let mut set = SeqSet::default();
        let mut settled = Vec::new();
        for seq in [3, 1, 2, 0, 9, 8, 5] {
            assert!(set.insert(seq, i64::try_from(seq).unwrap() * 10), "{seq}");
            settled.push(set.settled());
        }
        for seq in [0, 1, 2, 3, 5, 8, 9] {
            assert!(!set.insert(seq, 0), "{seq}");
        }
        let nothing = (0, i64::MIN);
        assert_eq!(settled, [nothing, nothing, nothing, (4, 30), (4, 30), (4, 30), (4, 30)]);
        let range = |end, time_us| Range { end, time_us };
        assert_eq!(set.ranges, BTreeMap::from([(0, range(4, 30)), (5, range(6, 50)), (8, range(10, 90))]));
        assert_eq!(set.contiguous_end(), 4);
        let mut writer = Writer::default();
        set.write(&mut writer);
        assert_eq!(SeqSet::read(&mut Reader::new(&writer.0), true), Ok(set));
    }

    #[test]
    fn a_log_read_from_the_middle_is_settled_from_its_first_record() {
        let mut set = SeqSet::default();
        set.start_at(7);
        assert_eq!(set.settled(), (7, i64::MIN));
        assert!(!set.insert(6, 60));
        assert!(set.insert(7, 70));
        assert_eq!(set.settled(), (8, 70));
    }

    #[test]
    fn damage_is_an_error() {
        let mut writer = Writer::default();
        writer.text("abc");
        for cut in 0..writer.0.len() {
            assert!(Reader::new(&writer.0[..cut]).text().is_err());
        }
        assert_eq!(Reader::new(&[0xff; 8]).bytes(), Err(StateError::Damaged));
    }
}
