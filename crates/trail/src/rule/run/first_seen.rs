//! Kind first_seen: events whose key was never seen, or not for long.
//!
//! Keeps, per log, when each key was seen last (16 bytes of its SHA-256, 8 of time), and when each `per` scope was seen
//! first and last. Rows come in order (`ordered`), so what is new does not depend on how they were delivered. A log
//! that is young, or a scope, learns without a word; `Engine::learning` says until when. More alerts in an hour than
//! the rule allows become one that counts them.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::event::{Row, Touched, group_columns};
use super::ordered::Ordered;
use super::{Matches, RuleFailure, Told, evaluate_output, group_of, severities, write_group};
use crate::lake::schema::ZONE;
use crate::rule::learned::FirstSeenSpec;
use crate::rule::load::Rule;
use crate::rule::lower::FirstSeen;
use crate::rule::row;
use crate::rule::state::{Reader, StateError, Writer};
use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::HashMap;
use keytrail_kms::chain::leaf::sha256;
use std::sync::Arc;

/// Most keys, and most scopes, kept per rule and log; beyond it the tenth idle for longest goes.
const ENTITIES_MAX: usize = 1_000_000;

/// Dropping what is too old takes a pass over all: at most this often in a history.
const SWEEPS: i64 = 16;

/// Alerts are counted by the hour.
const HOUR_US: i64 = 3_600_000_000;

/// First half of SHA-256 over the values, encoded as in alert ids.
type Hash = [u8; 16];

/// What one rule knows of one log.
#[derive(Debug)]
pub(crate) struct FirstSeenState {
    pub(crate) held: Ordered,
    /// Time of the first event since the rule began.
    pub(crate) since_us: i64,
    /// When each key was seen last.
    keys: HashMap<Hash, i64>,
    /// When each scope was seen first and last.
    scopes: HashMap<Hash, (i64, i64)>,
    pub(crate) buckets: Buckets,
    /// Start of the newest hour with alerts, and how many it has.
    hour: (i64, u64),
    /// One bucket for each hour that had too many.
    more: Buckets,
    swept_us: i64,
}

impl Default for FirstSeenState {
    fn default() -> Self {
        Self {
            held: Ordered::default(),
            since_us: i64::MAX,
            keys: HashMap::new(),
            scopes: HashMap::new(),
            buckets: Buckets::default(),
            hour: (i64::MIN, 0),
            more: Buckets::default(),
            swept_us: i64::MIN,
        }
    }
}

/// Most hashes remembered, some 3 MB; beyond it all are forgotten.
const HASHES_MAX: usize = 16_384;

/// Hashes that were computed: rules ask for the same principals and keys again and again.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    known: HashMap<GroupBytes, Hash>,
    /// Values that are asked for.
    values: Vec<u8>,
}

impl Hashes {
    fn of(&mut self, columns: &[StringArray], row: usize) -> Hash {
        self.values.clear();
        write_group(columns, row, &mut self.values);
        if let Some(hash) = self.known.get(self.values.as_slice()) {
            return *hash;
        }
        let hash = hash(&self.values);
        if self.known.len() >= HASHES_MAX {
            self.known.clear();
        }
        self.known.insert(self.values.as_slice().into(), hash);
        hash
    }
}

/// The keys and scopes of rows, ready to be looked up.
struct Columns {
    keys: Vec<StringArray>,
    per: Vec<StringArray>,
}

impl Columns {
    fn of(rule: &Rule, spec: &FirstSeen, matches: &Matches) -> Result<Self, RuleFailure> {
        let text = |columns: &[usize]| {
            let text = |&index: &usize| Ok(row::text_column(&matches.evaluate(&rule.lowered.output[index])?)?);
            columns.iter().map(text).collect::<Result<Vec<_>, RuleFailure>>()
        };
        Ok(Self { keys: text(&spec.keys)?, per: text(&spec.per)? })
    }

    /// None if a part of the key is null.
    fn key(&self, row: usize, hashes: &mut Hashes) -> Option<Hash> {
        self.keys.iter().all(|column| column.is_valid(row)).then(|| hashes.of(&self.keys, row))
    }

    fn scope(&self, row: usize, hashes: &mut Hashes) -> Option<Hash> {
        (!self.per.is_empty()).then(|| hashes.of(&self.per, row))
    }
}

fn hash(values: &[u8]) -> Hash {
    let mut half = [0; 16];
    half.copy_from_slice(&sha256(&[values])[..16]);
    half
}

/// Looks at settled rows, in order; returns what is worth telling.
pub(crate) fn process(
    rule: &Rule,
    spec: &FirstSeen,
    state: &mut FirstSeenState,
    matches: &Matches,
    hashes: &mut Hashes,
) -> Result<Vec<Told>, RuleFailure> {
    let columns = Columns::of(rule, spec, matches)?;
    let (mut fresh, mut last_seen) = (Vec::new(), Vec::new());
    for (row, &time_us) in matches.times_us.iter().enumerate() {
        let (scope, key) = (columns.scope(row, hashes), columns.key(row, hashes));
        if let Some(last) = state.see(&spec.spec, scope, key, time_us) {
            fresh.push(row);
            last_seen.push(last);
        }
    }
    let newest_us = matches.times_us.last().copied().unwrap_or(i64::MIN);
    let told =
        if fresh.is_empty() { Vec::new() } else { raise(rule, &spec.spec, state, &matches.chosen(&fresh), last_seen)? };
    state.sweep(rule, &spec.spec, newest_us);
    Ok(told)
}

/// Learns rows of `batch` at other times, in order, without telling: what tests of rules begin with.
pub(crate) fn preset(
    rule: &Rule,
    spec: &FirstSeen,
    state: &mut FirstSeenState,
    matches: &Matches,
    moments: impl Iterator<Item = (i64, usize)>,
) -> Result<(), RuleFailure> {
    let columns = Columns::of(rule, spec, matches)?;
    let mut hashes = Hashes::default();
    for (time_us, row) in moments {
        let (scope, key) = (columns.scope(row, &mut hashes), columns.key(row, &mut hashes));
        state.see(&spec.spec, scope, key, time_us);
    }
    Ok(())
}

/// New rows become alerts, or are counted in the hour's last one.
fn raise(
    rule: &Rule,
    spec: &FirstSeenSpec,
    state: &mut FirstSeenState,
    fresh: &Matches,
    last_seen: Vec<Option<i64>>,
) -> Result<Vec<Told>, RuleFailure> {
    let output = evaluate_output(&rule.lowered, &fresh.batch()?)?;
    let output = if spec.returning { with_last_seen(&rule.lowered.row_schema, &output, last_seen)? } else { output };
    let severities = severities(&rule.lowered, &output)?;
    let columns = group_columns(rule, &output)?;
    let period_us = super::micros(rule.header().dedup_period);
    let nobody: GroupBytes = columns.iter().flat_map(|_| u32::MAX.to_be_bytes()).collect();
    let (mut own, mut more) = (Touched::default(), Touched::default());
    for (index, &time_us) in fresh.times_us.iter().enumerate() {
        let row = Row { index, time_us, seq: fresh.seqs.get(index).copied(), severity: severities[index] };
        let key = (group_of(&columns, index), bucket_start(time_us, period_us));
        if state.buckets.contains(&key) || state.has_room(spec, time_us) {
            own.add(&mut state.buckets, key, row);
        } else {
            more.add(&mut state.more, (nobody.clone(), bucket_start(time_us, HOUR_US)), row);
        }
    }
    let mut told = own.told(&mut state.buckets, &output, true);
    told.extend(more.told(&mut state.more, &output, false).into_iter().map(|mut told| {
        told.row.insert("more".into(), told.matched.into());
        told
    }));
    Ok(told)
}

fn with_last_seen(
    schema: &SchemaRef,
    output: &RecordBatch,
    last_seen: Vec<Option<i64>>,
) -> Result<RecordBatch, RuleFailure> {
    let last_seen: ArrayRef = Arc::new(TimestampMicrosecondArray::from(last_seen).with_timezone(ZONE));
    let columns = output.columns().iter().cloned().chain([last_seen]);
    Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
}

impl FirstSeenState {
    /// Notes that the key was seen; Some if that is news, with when it was seen before.
    fn see(
        &mut self,
        spec: &FirstSeenSpec,
        scope: Option<Hash>,
        key: Option<Hash>,
        time_us: i64,
    ) -> Option<Option<i64>> {
        let since_us = match scope {
            None => self.since_us,
            Some(scope) => {
                let (first, last) = self.scopes.entry(scope).or_insert((time_us, time_us));
                if time_us.saturating_sub(*last) > spec.history_us {
                    *first = time_us;
                }
                *last = time_us.max(*last);
                *first
            }
        };
        let last = self.keys.insert(key?, time_us);
        let known = last.is_some_and(|last| time_us.saturating_sub(last) <= spec.history_us);
        let news = match spec.returning {
            true => last.is_some() && !known,
            false => !known && time_us.saturating_sub(since_us) >= spec.learning_us,
        };
        // When a key was forgotten depends on batches; one that may return never is.
        news.then_some(last.filter(|_| spec.returning))
    }

    /// How many keys it knows.
    pub(crate) fn known(&self) -> u64 {
        self.keys.len() as u64
    }

    /// Whether the hour has room for another alert; takes it.
    fn has_room(&mut self, spec: &FirstSeenSpec, time_us: i64) -> bool {
        let hour = bucket_start(time_us, HOUR_US);
        if self.hour.0 != hour {
            self.hour = (hour, 0);
        }
        let room = self.hour.1 < spec.max_new_per_hour;
        self.hour.1 += u64::from(room);
        room
    }

    fn sweep(&mut self, rule: &Rule, spec: &FirstSeenSpec, newest_us: i64) {
        let crowded = self.keys.len() > ENTITIES_MAX || self.scopes.len() > ENTITIES_MAX;
        if !crowded && newest_us.saturating_sub(self.swept_us) < spec.history_us / SWEEPS {
            return;
        }
        self.swept_us = newest_us;
        let horizon_us = newest_us.saturating_sub(spec.history_us);
        // A key that comes back is recognised however long it was away.
        if !spec.returning {
            self.keys.retain(|_, last| *last >= horizon_us);
        }
        self.scopes.retain(|_, (_, last)| *last >= horizon_us);
        drop_idle(&mut self.keys, |last| *last);
        drop_idle(&mut self.scopes, |(_, last)| *last);
        self.buckets.prune(super::micros(rule.header().dedup_period), newest_us);
        self.more.prune(HOUR_US, newest_us);
    }

    pub(crate) fn entries(&self) -> usize {
        self.keys.len() + self.scopes.len() + self.buckets.len()
    }

    /// Until when the log is learned, if it still is at `now_us`.
    pub(crate) fn learning_until_us(&self, spec: &FirstSeenSpec, now_us: i64) -> Option<i64> {
        let until_us = self.since_us.saturating_add(spec.learning_us);
        (self.since_us < i64::MAX && until_us > now_us).then_some(until_us)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.held.write(to);
        to.i64(self.since_us);
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable();
        to.length(keys.len());
        for (key, last) in keys {
            to.u128(u128::from_be_bytes(*key));
            to.i64(*last);
        }
        let mut scopes: Vec<_> = self.scopes.iter().collect();
        scopes.sort_unstable();
        to.length(scopes.len());
        for (scope, (first, last)) in scopes {
            to.u128(u128::from_be_bytes(*scope));
            to.i64(*first);
            to.i64(*last);
        }
        self.buckets.write(to);
        to.i64(self.hour.0);
        to.u64(self.hour.1);
        self.more.write(to);
        to.i64(self.swept_us);
    }

    /// `columns` is the schema of what the rule reads.
    pub(crate) fn read(columns: &SchemaRef, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let held = Ordered::read(columns, from)?;
        let since_us = from.i64()?;
        let (mut keys, mut scopes) = (HashMap::new(), HashMap::new());
        for _ in 0..from.length()? {
            keys.insert(from.u128()?.to_be_bytes(), from.i64()?);
        }
        for _ in 0..from.length()? {
            scopes.insert(from.u128()?.to_be_bytes(), (from.i64()?, from.i64()?));
        }
        let buckets = Buckets::read(from)?;
        let hour = (from.i64()?, from.u64()?);
        let more = Buckets::read(from)?;
        Ok(Self { held, since_us, keys, scopes, buckets, hour, more, swept_us: from.i64()? })
    }
}

/// Drops the tenth idle for longest if there are too many.
fn drop_idle<T>(entities: &mut HashMap<Hash, T>, last: impl Fn(&T) -> i64) {
    if entities.len() <= ENTITIES_MAX {
        return;
    }
    let mut times: Vec<i64> = entities.values().map(&last).collect();
    let tenth = times.len() / 10;
    let (_, &mut cut, _) = times.select_nth_unstable(tenth);
    entities.retain(|_, entity| last(entity) > cut);
    tracing::warn!(kept = entities.len(), "a first_seen rule knows too many keys, the idle ones were forgotten");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DAY_US: i64 = 24 * HOUR_US;

    fn spec(returning: bool) -> FirstSeenSpec {
        FirstSeenSpec { history_us: 30 * DAY_US, learning_us: 14 * DAY_US, max_new_per_hour: 2, returning }
    }

    fn state() -> FirstSeenState {
        FirstSeenState { since_us: 0, ..FirstSeenState::default() }
    }

    fn see(state: &mut FirstSeenState, spec: &FirstSeenSpec, key: u8, day: i64) -> Option<Option<i64>> {
        state.see(spec, None, Some([key; 16]), day * DAY_US)
    }

    #[test]
    fn a_key_is_new_once_the_log_is_learned_and_again_after_the_history() {
        let (mut state, spec) = (state(), spec(false));
        assert_eq!(see(&mut state, &spec, 1, 13), None);
        assert_eq!(see(&mut state, &spec, 1, 20), None);
        assert_eq!(see(&mut state, &spec, 2, 20), Some(None));
        assert_eq!(see(&mut state, &spec, 1, 50), None, "thirty days to the microsecond");
        assert_eq!(see(&mut state, &spec, 1, 81), Some(None));
    }

    #[test]
    fn a_scope_learns_for_itself_and_anew_after_a_long_absence() {
        let (mut state, spec) = (state(), spec(false));
        let mut see = |key: Option<u8>, day: i64| {
            state.see(&spec, Some([9; 16]), key.map(|key| [key; 16]), day * DAY_US).is_some()
        };
        assert!(!see(Some(1), 100), "its first event");
        assert!(!see(None, 110), "teaches the scope only");
        assert!(!see(Some(2), 113));
        assert!(see(Some(3), 114));
        assert!(!see(Some(4), 150), "absent for more than the history");
    }

    #[test]
    fn returning_fires_for_what_was_away_not_for_what_is_new() {
        let (mut state, spec) = (state(), spec(true));
        assert_eq!(see(&mut state, &spec, 1, 20), None);
        assert_eq!(see(&mut state, &spec, 1, 40), None);
        assert_eq!(see(&mut state, &spec, 1, 400), Some(Some(40 * DAY_US)));
    }

    #[test]
    fn an_hour_has_room_for_so_many_alerts() {
        let (mut state, spec) = (state(), spec(false));
        let room: Vec<bool> = [0, 1, 2, HOUR_US].iter().map(|&time_us| state.has_room(&spec, time_us)).collect();
        assert_eq!(room, [true, true, false, true]);
    }

    #[test]
    fn a_million_entities_fit_in_256_mib() {
        let (mut state, spec) = (state(), spec(false));
        for number in 0..1_000_000_u64 {
            let hash = hash(&number.to_be_bytes());
            state.see(&spec, Some(hash), Some(hash), 1);
        }
        assert_eq!((state.keys.len(), state.scopes.len()), (1_000_000, 1_000_000));
        // A table has room for an eighth more than it says, and a byte beside each entry.
        let table = |capacity: usize, entry: usize| capacity / 7 * 8 * (entry + 1);
        let keys = table(state.keys.capacity(), size_of::<(Hash, i64)>());
        let scopes = table(state.scopes.capacity(), size_of::<(Hash, (i64, i64))>());
        // While a table grows, the one of half the size is still there.
        assert!((keys + scopes) / 2 * 3 < 256 << 20, "{keys} and {scopes} bytes");
        assert_eq!((keys + scopes) >> 20, 116);
    }
}
