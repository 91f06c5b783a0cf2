//! Kind threshold: counts over a sliding window (t - window, t] per group, closed by each event.
//!
//! Each group keeps its events for window + lateness, in order of time. An event at the newest end moves the running
//! count, whatever the window holds; late ones are put where they belong and every window they fall in is counted
//! again, once per group and batch. Conditions only grow with events, so they fire at once and nothing is taken back.

use super::alerts::{Buckets, GroupBytes, bucket_start, worth_revising};
use super::interned::Interned;
use super::{Matches, RuleFailure, Told, evaluate_output, group_values, severities, write_group};
use crate::alert::EVIDENCE_MAX;
use crate::rule::load::Rule;
use crate::rule::lower::{Aggregate, Function, Groups};
use crate::rule::row;
use crate::rule::state::{Reader, StateError, Writer};
use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{HashMap, HashSet, ScalarValue};
use keytrail_kms::chain::leaf::sha256;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Most events kept per group: twice the highest threshold, so that saturation never hides a condition on a count.
const GROUP_EVENTS_MAX: usize = 131_072;

/// Most events kept per rule and log (about 64 bytes each); beyond it the groups idle for longest go.
const RULE_EVENTS_MAX: usize = 1_000_000;

/// Most groups kept per rule and log.
const GROUPS_MAX: usize = 100_000;

/// The bounds in words.
pub(super) fn bound() -> String {
    format!("at most {RULE_EVENTS_MAX} events in {GROUPS_MAX} groups, about {} MiB", (RULE_EVENTS_MAX * 64) >> 20)
}

/// A row is evaluated again when the value grew by a 64th, so that a long attack costs a bounded share of a window
/// scan per event; below 128 that is every time.
pub(super) const EVALUATION_STEP: u64 = 64;

/// The argument of one aggregate in one event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Argument {
    Null,
    Present,
    Bool(bool),
    Int(i64),
    Text(Arc<str>),
    /// First half of SHA-256 over the value's text.
    Hash([u8; 16]),
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    time_us: i64,
    seq: u64,
    /// One per aggregate that has an argument.
    arguments: Box<[Argument]>,
}

/// The condition's value over a window whose events come and go one by one.
#[derive(Debug, Default)]
struct Running {
    count: u64,
    distinct: HashMap<[u8; 16], u32>,
}

impl Running {
    fn add(&mut self, entry: &Entry, condition: Condition) {
        match condition.argument.and_then(|slot| entry.arguments.get(slot)) {
            Some(Argument::Null) => {}
            Some(Argument::Hash(hash)) => *self.distinct.entry(*hash).or_insert(0) += 1,
            _ => self.count += 1,
        }
    }

    fn remove(&mut self, entry: &Entry, condition: Condition) {
        match condition.argument.and_then(|slot| entry.arguments.get(slot)) {
            Some(Argument::Null) => {}
            Some(Argument::Hash(hash)) => {
                if let Some(count) = self.distinct.get_mut(hash) {
                    *count -= 1;
                    if *count == 0 {
                        self.distinct.remove(hash);
                    }
                }
            }
            _ => self.count -= 1,
        }
    }

    fn value(&self) -> u64 {
        self.count + self.distinct.len() as u64
    }
}

/// What the window is judged by.
#[derive(Clone, Copy)]
struct Condition {
    window_us: i64,
    gte: u64,
    argument: Option<usize>,
}

impl Condition {
    fn of(rule: &Rule, groups: &Groups) -> Self {
        let argument = slots(&groups.aggregates).get(groups.condition).copied().flatten();
        Self { window_us: rule.header().window.map_or(0, super::micros), gte: groups.gte, argument }
    }
}

/// For each aggregate, which of an entry's arguments is its own.
pub(super) fn slots(aggregates: &[Aggregate]) -> Vec<Option<usize>> {
    let mut next = 0;
    let mut slot = |aggregate: &Aggregate| {
        aggregate.argument.as_ref()?;
        next += 1;
        Some(next - 1)
    };
    aggregates.iter().map(&mut slot).collect()
}

/// The events of one group.
#[derive(Debug, Default)]
struct Group {
    /// Sorted by time, then seq.
    entries: VecDeque<Entry>,
    /// First entry of the window that the newest entry closes.
    left: usize,
    running: Running,
    /// Times at which windows closed before a late event fell into them; start inclusive, end exclusive.
    recount: Option<(i64, i64)>,
    /// The batch that touched it last.
    batch: u64,
}

impl Group {
    /// Adds an event; returns the window's value if this event closes one that meets the condition.
    fn insert(&mut self, entry: Entry, condition: Condition) -> Option<u64> {
        let key = (entry.time_us, entry.seq);
        let Some(newest) = self.entries.back().map(|newest| (newest.time_us, newest.seq)) else {
            self.running.add(&entry, condition);
            self.entries.push_back(entry);
            return self.met(condition);
        };
        if key > newest {
            self.running.add(&entry, condition);
            let start = entry.time_us.saturating_sub(condition.window_us);
            self.entries.push_back(entry);
            while let Some(oldest) = self.entries.get(self.left)
                && oldest.time_us <= start
            {
                self.running.remove(oldest, condition);
                self.left += 1;
            }
            return self.met(condition);
        }
        let at = self.entries.partition_point(|other| (other.time_us, other.seq) < key);
        let (from, to) = (entry.time_us, entry.time_us.saturating_add(condition.window_us));
        if entry.time_us <= newest.0.saturating_sub(condition.window_us) {
            self.left += 1;
        } else {
            self.running.add(&entry, condition);
        }
        self.entries.insert(at, entry);
        self.recount = Some(self.recount.map_or((from, to), |(start, end)| (start.min(from), end.max(to))));
        None
    }

    fn met(&self, condition: Condition) -> Option<u64> {
        Some(self.running.value()).filter(|&value| value >= condition.gte)
    }

    /// Counts every window again that a late event fell into; calls `hit` with each end and value that meets the
    /// condition.
    fn recount(&mut self, condition: Condition, mut hit: impl FnMut(i64, u64)) {
        let Some((from, to)) = self.recount.take() else { return };
        let mut running = Running::default();
        let start = from.saturating_sub(condition.window_us);
        let mut left = self.entries.partition_point(|entry| entry.time_us <= start);
        let mut next = left;
        while let Some(entry) = self.entries.get(next) {
            if entry.time_us >= to {
                return;
            }
            running.add(entry, condition);
            next += 1;
            // A window ends with all events of its last instant.
            if self.entries.get(next).is_some_and(|after| after.time_us == entry.time_us) {
                continue;
            }
            while let Some(oldest) = self.entries.get(left)
                && oldest.time_us <= entry.time_us.saturating_sub(condition.window_us)
            {
                running.remove(oldest, condition);
                left += 1;
            }
            if entry.time_us >= from && running.value() >= condition.gte {
                hit(entry.time_us, running.value());
            }
        }
    }

    /// Forgets what no window within the lateness can need; returns how many events went.
    fn prune(&mut self, horizon_us: i64, condition: Condition) -> usize {
        let before = self.entries.len();
        while let Some(oldest) = self.entries.front()
            && (oldest.time_us <= horizon_us || self.entries.len() > GROUP_EVENTS_MAX)
        {
            if self.left > 0 {
                self.left -= 1;
            } else {
                self.running.remove(oldest, condition);
            }
            self.entries.pop_front();
        }
        before - self.entries.len()
    }

    fn window(&self, end_us: i64, window_us: i64) -> impl DoubleEndedIterator<Item = &Entry> + Clone {
        let start = self.entries.partition_point(|entry| entry.time_us <= end_us.saturating_sub(window_us));
        let end = self.entries.partition_point(|entry| entry.time_us <= end_us);
        self.entries.range(start..end.max(start))
    }
}

/// All groups of one rule in one log.
#[derive(Debug, Default)]
pub(crate) struct ThresholdState {
    groups: HashMap<GroupBytes, Group>,
    pub(crate) buckets: Buckets,
    events: usize,
    batch: u64,
    /// Events up to here are of no use any more.
    horizon_us: i64,
    swept_us: i64,
}

/// Adds the matching rows to their groups; returns what is worth telling, in order of bucket and group.
pub(crate) fn process(
    rule: &Rule,
    groups: &Groups,
    state: &mut ThresholdState,
    matches: &Matches,
) -> Result<Vec<Told>, RuleFailure> {
    let condition = Condition::of(rule, groups);
    let period_us = super::micros(rule.header().dedup_period);
    let keys = group_columns(groups, matches)?;
    let arguments = groups.aggregates.iter().filter(|aggregate| aggregate.argument.is_some());
    let arguments = arguments.map(|aggregate| Column::of(aggregate, matches)).collect::<Result<Vec<_>, _>>()?;
    state.batch += 1;
    let mut dirty: BTreeSet<(i64, GroupBytes)> = BTreeSet::new();
    let mut late: BTreeSet<GroupBytes> = BTreeSet::new();
    let mut key = Vec::new();
    for index in 0..matches.len() {
        let entry = Entry {
            time_us: matches.times_us[index],
            seq: matches.seqs.get(index).copied().unwrap_or(0),
            arguments: arguments.iter().map(|column| column.argument(index)).collect(),
        };
        key.clear();
        write_group(&keys, index, &mut key);
        let group = match state.groups.get_mut(key.as_slice()) {
            Some(group) => group,
            None => state.groups.entry(key.as_slice().into()).or_default(),
        };
        if group.batch != state.batch {
            group.batch = state.batch;
            state.events -= group.prune(state.horizon_us, condition);
        }
        let time_us = entry.time_us;
        state.events += 1;
        if let Some(value) = group.insert(entry, condition) {
            note(&mut state.buckets, &mut dirty, key.as_slice().into(), period_us, (time_us, value));
        } else if group.recount.is_some() {
            late.insert(key.as_slice().into());
        }
    }
    for key in late {
        if let Some(group) = state.groups.get_mut(&key) {
            let buckets = &mut state.buckets;
            group
                .recount(condition, |end_us, value| note(buckets, &mut dirty, key.clone(), period_us, (end_us, value)));
        }
    }
    let mut told = Vec::new();
    for (start, key) in dirty {
        told.extend(tell(rule, groups, state, (key, start), condition)?);
    }
    Ok(told)
}

/// The columns of the group key, as text.
pub(super) fn group_columns(groups: &Groups, matches: &Matches) -> Result<Vec<StringArray>, RuleFailure> {
    let keys = groups.group_keys.iter();
    keys.map(|&key| Ok(row::text_column(&matches.evaluate(&groups.keys[key])?)?)).collect()
}

/// Remembers the highest window of a bucket.
fn note(
    buckets: &mut Buckets,
    dirty: &mut BTreeSet<(i64, GroupBytes)>,
    key: GroupBytes,
    period_us: i64,
    (end_us, value): (i64, u64),
) {
    let start = bucket_start(end_us, period_us);
    let bucket = buckets.entry((key.clone(), start), end_us);
    if value > bucket.value {
        (bucket.value, bucket.peak_us) = (value, end_us);
        dirty.insert((start, key));
    }
}

/// Evaluates the row of a bucket's highest window, and says it if it is news.
fn tell(
    rule: &Rule,
    groups: &Groups,
    state: &mut ThresholdState,
    key: (GroupBytes, i64),
    condition: Condition,
) -> Result<Option<Told>, RuleFailure> {
    let (Some(bucket), Some(group)) = (state.buckets.bucket_mut(&key), state.groups.get(&key.0)) else {
        return Ok(None);
    };
    if bucket.told.is_some() && bucket.value < bucket.evaluated + (bucket.evaluated / EVALUATION_STEP).max(1) {
        return Ok(None);
    }
    bucket.evaluated = bucket.value;
    let window = group.window(bucket.peak_us, condition.window_us);
    let matched = window.clone().count() as u64;
    // What cannot get worse is news by its count alone, for which no window has to be folded.
    let worst = bucket.severity >= rule.lowered.severity.worst();
    if worst && bucket.told.is_some_and(|told| !worth_revising(told, (bucket.severity, matched), false)) {
        return Ok(None);
    }
    let output = evaluate_output(&rule.lowered, &aggregated(groups, &key.0, window.clone())?)?;
    bucket.severity = bucket.severity.max(severities(&rule.lowered, &output)?[0]);
    if !bucket.is_news(matched, false) {
        return Ok(None);
    }
    if let (Some(first), Some(last)) = (window.clone().next(), window.clone().next_back()) {
        (bucket.first_us, bucket.last_us) = (first.time_us, last.time_us);
    }
    let mut evidence: BTreeSet<u64> = window.clone().rev().take(EVIDENCE_MAX - 1).map(|entry| entry.seq).collect();
    evidence.extend(window.clone().next().map(|entry| entry.seq));
    Ok(Some(Told {
        group: key.0,
        bucket_start_us: key.1,
        first_event_us: bucket.first_us,
        last_event_us: bucket.last_us,
        matched,
        severity: bucket.severity,
        row: row::row(&output, 0),
        evidence: evidence.into_iter().collect(),
    }))
}

/// The one-row batch of keys and aggregates over a window.
fn aggregated<'a>(
    groups: &Groups,
    key: &GroupBytes,
    window: impl Iterator<Item = &'a Entry> + Clone,
) -> Result<RecordBatch, RuleFailure> {
    let slots = slots(&groups.aggregates);
    let folded = groups.aggregates.iter().zip(slots).map(|(aggregate, slot)| {
        let arguments = window.clone().map(|entry| slot.and_then(|slot| entry.arguments.get(slot)));
        fold(aggregate.function, arguments)
    });
    group_row(groups, key, folded)
}

/// The one-row batch of keys and the values of the aggregates.
pub(super) fn group_row(
    groups: &Groups,
    key: &GroupBytes,
    aggregates: impl Iterator<Item = ScalarValue>,
) -> Result<RecordBatch, RuleFailure> {
    let mut columns: Vec<Option<ScalarValue>> = vec![None; groups.keys.len()];
    for (&key, value) in groups.group_keys.iter().zip(group_values(key)) {
        columns[key] = Some(ScalarValue::Utf8(value));
    }
    columns.extend(aggregates.map(Some));
    let arrays = columns.into_iter().zip(groups.schema.fields()).map(|(value, field)| {
        let value = value.unwrap_or(ScalarValue::Null).cast_to(field.data_type())?;
        value.to_array()
    });
    let arrays = arrays.collect::<Result<Vec<ArrayRef>, _>>()?;
    Ok(RecordBatch::try_new(groups.schema.clone(), arrays)?)
}

fn fold<'a>(function: Function, arguments: impl Iterator<Item = Option<&'a Argument>>) -> ScalarValue {
    let present = arguments.filter(|argument| !matches!(argument, Some(Argument::Null)));
    let count = |count: usize| ScalarValue::Int64(Some(i64::try_from(count).unwrap_or(i64::MAX)));
    match function {
        Function::CountAll | Function::Count => count(present.count()),
        Function::CountDistinct => {
            let hashes: HashSet<&[u8; 16]> = present
                .filter_map(|argument| match argument {
                    Some(Argument::Hash(hash)) => Some(hash),
                    _ => None,
                })
                .collect();
            count(hashes.len())
        }
        Function::Min | Function::Max => {
            let mut best: Option<&Argument> = None;
            for argument in present.flatten() {
                let better = best.is_none_or(|best| match (argument, best) {
                    (Argument::Int(new), Argument::Int(old)) => (new < old) == (function == Function::Min),
                    (Argument::Text(new), Argument::Text(old)) => (new < old) == (function == Function::Min),
                    _ => false,
                });
                best = if better { Some(argument) } else { best };
            }
            match best {
                Some(Argument::Int(number)) => ScalarValue::Int64(Some(*number)),
                Some(Argument::Text(text)) => ScalarValue::Utf8(Some(text.to_string())),
                _ => ScalarValue::Null,
            }
        }
        Function::Sum => {
            let numbers = present.filter_map(|argument| match argument {
                Some(Argument::Int(number)) => Some(*number),
                _ => None,
            });
            numbers.reduce(i64::saturating_add).map_or(ScalarValue::Null, |sum| ScalarValue::Int64(Some(sum)))
        }
        Function::BoolOr | Function::BoolAnd => {
            let truths = present.filter_map(|argument| match argument {
                Some(Argument::Bool(truth)) => Some(*truth),
                _ => None,
            });
            let or = function == Function::BoolOr;
            let result = truths.reduce(|a, b| if or { a || b } else { a && b });
            ScalarValue::Boolean(result)
        }
    }
}

/// An argument's column, ready to take values from.
pub(super) enum Column {
    Present(ArrayRef),
    Hash(Interned<[u8; 16]>),
    Text(Interned<Arc<str>>),
    Int(Int64Array),
    Bool(BooleanArray),
}

impl Column {
    pub(super) fn of(aggregate: &Aggregate, matches: &Matches) -> Result<Self, RuleFailure> {
        let Some(argument) = &aggregate.argument else {
            return Err(RuleFailure::internal("aggregate has no argument"));
        };
        let array = matches.evaluate(argument)?;
        let number = |array: &ArrayRef| -> Result<Int64Array, RuleFailure> {
            Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        };
        Ok(match aggregate.function {
            Function::CountAll | Function::Count => Self::Present(array),
            Function::CountDistinct => Self::Hash(Interned::of(&row::text_column(&array)?, hash)),
            Function::Sum => Self::Int(number(&array)?),
            Function::Min | Function::Max => match &aggregate.argument_type {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                    Self::Text(Interned::of(&row::text_column(&array)?, |text| Arc::from(text)))
                }
                _ => Self::Int(number(&array)?),
            },
            Function::BoolOr | Function::BoolAnd => Self::Bool(array.as_boolean().clone()),
        })
    }

    pub(super) fn argument(&self, index: usize) -> Argument {
        let found = match self {
            Self::Present(array) => array.is_valid(index).then_some(Argument::Present),
            Self::Hash(values) => values.get(index).map(|hash| Argument::Hash(*hash)),
            Self::Text(values) => values.get(index).map(|text| Argument::Text(Arc::clone(text))),
            Self::Int(array) => array.is_valid(index).then(|| Argument::Int(array.value(index))),
            Self::Bool(array) => array.is_valid(index).then(|| Argument::Bool(array.value(index))),
        };
        found.unwrap_or(Argument::Null)
    }
}

fn hash(text: &str) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&sha256(&[text.as_bytes()])[..16]);
    half
}

impl ThresholdState {
    /// Sets the horizon for later, and now and then drops what is behind it everywhere.
    pub(crate) fn advance(&mut self, rule: &Rule, groups: &Groups, watermark_us: i64, lateness_horizon_us: i64) {
        let condition = Condition::of(rule, groups);
        self.horizon_us = lateness_horizon_us.saturating_sub(condition.window_us);
        let crowded = self.groups.len() > GROUPS_MAX || self.events > RULE_EVENTS_MAX;
        let due = watermark_us.saturating_sub(self.swept_us) > (condition.window_us / 2).max(1_000_000);
        if !crowded && !due {
            return;
        }
        self.swept_us = watermark_us;
        let horizon_us = self.horizon_us;
        self.groups.retain(|_, group| {
            group.prune(horizon_us, condition);
            !group.entries.is_empty()
        });
        self.buckets.prune(super::micros(rule.header().dedup_period), lateness_horizon_us);
        self.events = self.groups.values().map(|group| group.entries.len()).sum();
        if self.groups.len() > GROUPS_MAX || self.events > RULE_EVENTS_MAX {
            self.drop_idle();
        }
    }

    /// Drops the groups idle for longest until a tenth of the room is free.
    fn drop_idle(&mut self) {
        let last = |group: &Group| group.entries.back().map_or(i64::MIN, |entry| entry.time_us);
        let mut oldest: Vec<(i64, GroupBytes)> =
            self.groups.iter().map(|(key, group)| (last(group), key.clone())).collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            if self.groups.len() <= GROUPS_MAX / 10 * 9 && self.events <= RULE_EVENTS_MAX / 10 * 9 {
                return;
            }
            if let Some(group) = self.groups.remove(&key) {
                self.events -= group.entries.len();
            }
        }
    }

    /// How much it holds.
    pub(crate) fn entries(&self) -> usize {
        self.groups.len() + self.events + self.buckets.len()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.buckets.write(to);
        to.i64(self.horizon_us);
        to.i64(self.swept_us);
        let mut sorted: Vec<_> = self.groups.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        to.length(sorted.len());
        for (key, group) in sorted {
            to.bytes(key);
            to.length(group.entries.len());
            for entry in &group.entries {
                to.i64(entry.time_us);
                to.u64(entry.seq);
                to.length(entry.arguments.len());
                entry.arguments.iter().for_each(|argument| write_argument(argument, to));
            }
        }
    }

    pub(crate) fn read(rule: &Rule, groups: &Groups, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let condition = Condition::of(rule, groups);
        let buckets = Buckets::read(from)?;
        let mut state = Self { buckets, horizon_us: from.i64()?, swept_us: from.i64()?, ..Self::default() };
        let arguments = groups.aggregates.iter().filter(|aggregate| aggregate.argument.is_some()).count();
        for _ in 0..from.length()? {
            let key = GroupBytes::from(from.bytes()?);
            let mut group = Group::default();
            for _ in 0..from.length()? {
                let (time_us, seq) = (from.i64()?, from.u64()?);
                let found = (0..from.length()?).map(|_| read_argument(from)).collect::<Result<Box<[_]>, _>>()?;
                let ordered = group.entries.back().is_none_or(|last| (last.time_us, last.seq) < (time_us, seq));
                if found.len() != arguments || !ordered {
                    return Err(StateError::Damaged);
                }
                // In order, so every insertion is at the newest end; what met the condition was told before.
                group.insert(Entry { time_us, seq, arguments: found }, condition);
                state.events += 1;
            }
            state.groups.insert(key, group);
        }
        Ok(state)
    }
}

pub(super) fn write_argument(argument: &Argument, to: &mut Writer) {
    match argument {
        Argument::Null => to.u8(0),
        Argument::Present => to.u8(1),
        Argument::Bool(truth) => to.u8(if *truth { 3 } else { 2 }),
        Argument::Int(number) => {
            to.u8(4);
            to.i64(*number);
        }
        Argument::Text(text) => {
            to.u8(5);
            to.text(text);
        }
        Argument::Hash(hash) => {
            to.u8(6);
            to.u128(u128::from_be_bytes(*hash));
        }
    }
}

pub(super) fn read_argument(from: &mut Reader<'_>) -> Result<Argument, StateError> {
    Ok(match from.u8()? {
        0 => Argument::Null,
        1 => Argument::Present,
        2 => Argument::Bool(false),
        3 => Argument::Bool(true),
        4 => Argument::Int(from.i64()?),
        5 => Argument::Text(from.text()?.into()),
        6 => Argument::Hash(from.u128()?.to_be_bytes()),
        _ => return Err(StateError::Damaged),
    })
}
