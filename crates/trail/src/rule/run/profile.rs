//! What is normal for one entity: how often each count of a bucket occurred, by slices of its history.
//!
//! Counts are kept on a scale that is exact up to 15 and by eighths of each power of two above, so that a quantile is
//! at most an eighth too high and never too low. A slice holds only counts that occurred: 14 days of buckets of five
//! minutes are 15 short lists instead of 4,032 numbers. Knows no rule and no clock.

use crate::rule::learned::{LIMIT_MAX, MILLION};
use crate::rule::state::{Reader, StateError, Writer};
use std::collections::VecDeque;

/// Counts up to here have a bin of their own.
const EXACT: u64 = 16;

/// Bins of the scale: 16 exact ones, then 8 for each of the powers of two from 2^4 to 2^31.
const BINS: usize = 16 + 28 * 8;

/// The history of one entity.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Profile {
    slices: VecDeque<Slice>,
}

#[derive(Clone, Debug, PartialEq)]
struct Slice {
    /// Counted from the Unix epoch.
    index: i64,
    /// Bin and how many buckets fell in it, in order of bin.
    bins: Vec<(u8, u32)>,
}

/// A profile in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Normal {
    /// Buckets in the history.
    pub(crate) buckets: u64,
    pub(crate) median: u64,
    /// At the quantile that was asked for.
    pub(crate) high: u64,
    /// Rounded up.
    pub(crate) mean: u64,
    /// Median of the distances from the median.
    pub(crate) deviation: u64,
}

impl Profile {
    /// Adds `count` buckets of this value to a slice that is not older than the newest.
    pub(crate) fn add(&mut self, slice: i64, value: u64, count: u32) {
        if self.slices.back().is_none_or(|last| last.index < slice) {
            self.slices.push_back(Slice { index: slice, bins: Vec::new() });
        }
        let Some(last) = self.slices.back_mut() else { return };
        let bin = bin(value);
        match last.bins.binary_search_by_key(&bin, |(bin, _)| *bin) {
            Ok(at) => last.bins[at].1 = last.bins[at].1.saturating_add(count),
            Err(at) => last.bins.insert(at, (bin, count)),
        }
    }

    /// Forgets slices before this one.
    pub(crate) fn forget_before(&mut self, slice: i64) {
        while self.slices.front().is_some_and(|oldest| oldest.index < slice) {
            self.slices.pop_front();
        }
    }

    pub(crate) fn normal(&self, quantile_millionths: u64) -> Normal {
        let mut counts = [0_u64; BINS];
        for (bin, count) in self.slices.iter().flat_map(|slice| &slice.bins) {
            counts[usize::from(*bin)] += u64::from(*count);
        }
        let values = || (0_u8..).zip(&counts).map(|(bin, &count)| (highest(bin), count));
        let buckets: u64 = counts.iter().sum();
        if buckets == 0 {
            return Normal::default();
        }
        let median = at_rank(values(), buckets.div_ceil(2));
        let sum: u128 = values().map(|(value, count)| u128::from(value) * u128::from(count)).sum();
        let mut distances: Vec<(u64, u64)> =
            values().filter(|(_, count)| *count > 0).map(|(value, count)| (value.abs_diff(median), count)).collect();
        distances.sort_unstable();
        Normal {
            buckets,
            median,
            high: at_rank(values(), (buckets * quantile_millionths).div_ceil(MILLION)),
            mean: u64::try_from(sum.div_ceil(u128::from(buckets))).unwrap_or(u64::MAX),
            deviation: at_rank(distances.into_iter(), buckets.div_ceil(2)),
        }
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        to.length(self.slices.len());
        for slice in &self.slices {
            to.i64(slice.index);
            to.length(slice.bins.len());
            for (bin, count) in &slice.bins {
                to.u8(*bin);
                to.u32(*count);
            }
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut slices: VecDeque<Slice> = VecDeque::new();
        for _ in 0..from.length()? {
            let mut slice = Slice { index: from.i64()?, bins: Vec::new() };
            for _ in 0..from.length()? {
                let (bin, count) = (from.u8()?, from.u32()?);
                if usize::from(bin) >= BINS || slice.bins.last().is_some_and(|(last, _)| bin <= *last) {
                    return Err(StateError::Damaged);
                }
                slice.bins.push((bin, count));
            }
            if slices.back().is_some_and(|last| slice.index <= last.index) {
                return Err(StateError::Damaged);
            }
            slices.push_back(slice);
        }
        Ok(Self { slices })
    }
}

/// The value at `rank`, from 1, of values in order with their counts.
fn at_rank(values: impl Iterator<Item = (u64, u64)>, rank: u64) -> u64 {
    let mut passed = 0;
    for (value, count) in values {
        passed += count;
        if passed >= rank {
            return value;
        }
    }
    LIMIT_MAX
}

fn bin(value: u64) -> u8 {
    let value = value.min(LIMIT_MAX);
    let bin = if value < EXACT {
        value
    } else {
        let octave = u64::from(value.ilog2());
        EXACT + (octave - 4) * 8 + ((value >> (octave - 3)) & 7)
    };
    u8::try_from(bin).expect("the scale has 240 bins")
}

/// The highest value in a bin.
fn highest(bin: u8) -> u64 {
    let bin = u64::from(bin);
    if bin < EXACT {
        return bin;
    }
    let (octave, eighth) = ((bin - EXACT) / 8 + 4, (bin - EXACT) % 8);
    ((9 + eighth) << (octave - 3)) - 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_in_a_bin_whose_highest_is_at_most_an_eighth_above_it() {
        let mut last = 0;
        for value in (0..5_000).chain((5_000..LIMIT_MAX).step_by(1_000_003)).chain([LIMIT_MAX]) {
            let bin = bin(value);
            assert!(bin >= last && usize::from(bin) < BINS, "{value}");
            last = bin;
            let highest = highest(bin);
            assert!(highest >= value && highest - value <= value / 8, "{value} {highest}");
        }
        assert_eq!(bin(u64::MAX), bin(LIMIT_MAX));
        assert_eq!((highest(239), highest(16), highest(15)), (LIMIT_MAX, 17, 15));
    }

    #[test]
    fn the_numbers_are_those_of_the_plain_list() {
        let mut profile = Profile::default();
        let mut list: Vec<u64> = Vec::new();
        for (slice, value, count) in [(1, 0, 50), (1, 3, 30), (2, 3, 10), (2, 9, 9), (3, 15, 1)] {
            profile.add(slice, value, count);
            list.extend(std::iter::repeat_n(value, count as usize));
        }
        list.sort_unstable();
        let normal = profile.normal(990_000);
        assert_eq!((normal.buckets, normal.median, normal.high), (100, list[49], list[98]));
        assert_eq!(normal.mean, 3, "(120 + 81 + 15) / 100, rounded up");
        assert_eq!(normal.deviation, 0, "half of the values are the median itself");
        assert_eq!(profile.normal(MILLION).high, 15);
        profile.forget_before(2);
        assert_eq!(profile.normal(990_000).buckets, 20);
        assert_eq!(Profile::default().normal(990_000), Normal::default());
    }

    #[test]
    fn a_profile_survives_as_bytes_and_damage_is_an_error() {
        let mut profile = Profile::default();
        profile.add(7, 100, 3);
        profile.add(8, 5, 1);
        profile.add(8, 1, 2);
        let mut writer = Writer::default();
        profile.write(&mut writer);
        assert_eq!(Profile::read(&mut Reader::new(&writer.0)).unwrap(), profile);
        for cut in 0..writer.0.len() {
            assert!(Profile::read(&mut Reader::new(&writer.0[..cut])).is_err(), "cut at {cut}");
        }
    }
}
