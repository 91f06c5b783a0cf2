//! Which buckets of which groups have an alert already, and when one is worth another revision.

use super::Told;
use crate::alert::Severity;
use crate::rule::state::{Reader, StateError, Writer};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Most buckets kept per rule; beyond it the oldest tenth goes. The store still knows their alerts.
const BUCKETS_MAX: usize = 100_000;

/// The bound in words.
pub(super) fn bound() -> String {
    format!("at most {BUCKETS_MAX} open alerts")
}

/// A group's values, encoded: null or length and bytes each.
pub(crate) type GroupBytes = Box<[u8]>;

/// Up to this many events each one gives a revision of an alert of kind event: an attacker who repeats a deed inside
/// the bucket must be seen again at once.
const REVISED_EACH_MAX: u64 = 16;

/// True if an alert that was told with `told` deserves another revision: the severity rose, or the count doubled, or
/// (`each`) few events matched so far.
pub fn worth_revising(told: (Severity, u64), now: (Severity, u64), each: bool) -> bool {
    now.0 > told.0 || now.1 >= told.1.saturating_mul(2) || (each && now.1 > told.1 && now.1 <= REVISED_EACH_MAX)
}

/// One bucket of one group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// Events (kind event) or the highest value of the threshold column.
    pub(crate) value: u64,
    /// End of the window with the highest value; not used by kind event.
    pub(crate) peak_us: i64,
    pub(crate) first_us: i64,
    pub(crate) last_us: i64,
    pub(crate) severity: Severity,
    /// The value at which the row was last evaluated; not used by kind event.
    pub(crate) evaluated: u64,
    /// What the last finding said: severity and count of events.
    pub(crate) told: Option<(Severity, u64)>,
    /// Seqs for evidence, kept by kind event only: the first and the newest.
    pub(crate) seqs: Vec<u64>,
}

impl Bucket {
    pub(crate) fn new(time_us: i64) -> Self {
        Self {
            value: 0,
            peak_us: time_us,
            first_us: time_us,
            last_us: time_us,
            severity: Severity::Info,
            evaluated: 0,
            told: None,
            seqs: Vec::new(),
        }
    }

    /// True if it is worth telling with its severity and this `count`, which then counts as told; `each` as in
    /// [`worth_revising`].
    pub(crate) fn is_news(&mut self, count: u64, each: bool) -> bool {
        let now = (self.severity, count);
        if self.told.is_some_and(|before| !worth_revising(before, now, each)) {
            return false;
        }
        self.told = Some(now);
        true
    }
}

/// The buckets of one rule in one log.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    map: HashMap<(GroupBytes, i64), Bucket>,
    /// What went into buckets that had told already, since this was taken.
    deduplicated: u64,
}

/// Start of the bucket that `time_us` falls in, counted from the Unix epoch.
pub(crate) fn bucket_start(time_us: i64, period_us: i64) -> i64 {
    time_us - time_us.rem_euclid(period_us)
}

impl Buckets {
    pub(crate) fn entry(&mut self, key: (GroupBytes, i64), time_us: i64) -> &mut Bucket {
        let bucket = self.map.entry(key).or_insert_with(|| Bucket::new(time_us));
        self.deduplicated += u64::from(bucket.told.is_some());
        bucket
    }

    /// How much went into buckets that had told already, since this was asked.
    pub(crate) fn take_deduplicated(&mut self) -> u64 {
        std::mem::take(&mut self.deduplicated)
    }

    pub(crate) fn bucket_mut(&mut self, key: &(GroupBytes, i64)) -> Option<&mut Bucket> {
        self.map.get_mut(key)
    }

    /// What a bucket that counts its events has to tell, if it is worth telling; `row` is made only then.
    pub(super) fn tell(
        &mut self,
        (group, bucket_start_us): (GroupBytes, i64),
        each: bool,
        row: impl FnOnce() -> Map<String, Value>,
    ) -> Option<Told> {
        let key = (group, bucket_start_us);
        let bucket = self.map.get_mut(&key)?;
        bucket.is_news(bucket.value, each).then(|| Told {
            group: key.0,
            bucket_start_us,
            first_event_us: bucket.first_us,
            last_event_us: bucket.last_us,
            matched: bucket.value,
            severity: bucket.severity,
            row: row(),
            evidence: bucket.seqs.clone(),
        })
    }

    pub(crate) fn contains(&self, key: &(GroupBytes, i64)) -> bool {
        self.map.contains_key(key)
    }

    /// Forgets buckets that ended before `horizon_us`, and the oldest of too many.
    pub(crate) fn prune(&mut self, period_us: i64, horizon_us: i64) {
        self.map.retain(|(_, start), _| start.saturating_add(period_us) > horizon_us);
        if self.map.len() > BUCKETS_MAX {
            let mut starts: Vec<i64> = self.map.values().map(|bucket| bucket.last_us).collect();
            let tenth = starts.len() / 10;
            let (_, &mut cut, _) = starts.select_nth_unstable(tenth);
            self.map.retain(|_, bucket| bucket.last_us > cut);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        let mut sorted: Vec<_> = self.map.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        to.length(sorted.len());
        for ((group, start), bucket) in sorted {
            to.bytes(group);
            to.i64(*start);
            to.u64(bucket.value);
            to.i64(bucket.peak_us);
            to.i64(bucket.first_us);
            to.i64(bucket.last_us);
            to.u8(bucket.severity as u8);
            to.u64(bucket.evaluated);
            to.u8(bucket.told.map_or(u8::MAX, |(severity, _)| severity as u8));
            to.u64(bucket.told.map_or(0, |(_, value)| value));
            to.length(bucket.seqs.len());
            bucket.seqs.iter().for_each(|&seq| to.u64(seq));
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut map = HashMap::new();
        for _ in 0..from.length()? {
            let key = (GroupBytes::from(from.bytes()?), from.i64()?);
            let (value, peak_us, first_us, last_us) = (from.u64()?, from.i64()?, from.i64()?, from.i64()?);
            let severity = severity(from.u8()?).ok_or(StateError::Damaged)?;
            let evaluated = from.u64()?;
            let (told, told_value) = (severity_or_none(from.u8()?)?, from.u64()?);
            let seqs = (0..from.length()?).map(|_| from.u64()).collect::<Result<_, _>>()?;
            let told = told.map(|severity| (severity, told_value));
            map.insert(key, Bucket { value, peak_us, first_us, last_us, severity, evaluated, told, seqs });
        }
        Ok(Self { map, deduplicated: 0 })
    }
}

fn severity_or_none(number: u8) -> Result<Option<Severity>, StateError> {
    if number == u8::MAX { Ok(None) } else { severity(number).map(Some).ok_or(StateError::Damaged) }
}

pub(super) fn severity(number: u8) -> Option<Severity> {
    [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical]
        .get(usize::from(number))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_from_the_epoch_also_before_it() {
        assert_eq!(bucket_start(7_200_000_001, 3_600_000_000), 7_200_000_000);
        assert_eq!(bucket_start(3_599_999_999, 3_600_000_000), 0);
        assert_eq!(bucket_start(-1, 3_600_000_000), -3_600_000_000);
    }

    #[test]
    fn a_revision_needs_a_reason() {
        let told = (Severity::Medium, 20);
        assert!(!worth_revising(told, (Severity::Medium, 39), false));
        assert!(worth_revising(told, (Severity::Medium, 40), false));
        assert!(worth_revising(told, (Severity::High, 20), false));
        assert!(worth_revising((Severity::Medium, 3), (Severity::Medium, 4), true));
        assert!(!worth_revising((Severity::Medium, 16), (Severity::Medium, 17), true));
    }
}
