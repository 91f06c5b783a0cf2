//! Kind baseline: counts by bucket, compared with the same entity's past.
//!
//! Rows come in order (`ordered`), so a bucket's limit follows from all buckets before it and is fixed when it begins;
//! its count only grows, so it fires at once. A bucket without events counts as zero. A bucket of a learned entity that
//! fired does not teach; an entity that is still learned learns all it does, or a new workload could never be. Read
//! `profile` for what is kept.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::event::keep_seq;
use super::ordered::Ordered;
use super::profile::{Normal, Profile};
use super::threshold::{Argument, Column, EVALUATION_STEP, group_columns, group_row, slots};
use super::total::Total;
use super::{Matches, RuleFailure, Told, evaluate_output, group_of, severities, write_group};
use crate::rule::learned::{BaselineSpec, LIMIT_MAX, MILLION, Method, SLICES};
use crate::rule::load::Rule;
use crate::rule::lower::{Baseline, Groups};
use crate::rule::row;
use crate::rule::state::{Reader, StateError, Writer};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Most entities kept per rule and log (1 to 2 KiB each with a full history); beyond it the tenth idle for longest goes.
const ENTITIES_MAX: usize = 50_000;

/// 1.4826 turns a median absolute deviation into a standard deviation.
const DEVIATION_MILLIONTHS: u64 = 1_482_600;

/// Dropping idle entities takes a pass over all: at most this often in a history.
const SWEEPS: i64 = 64;

/// What one rule knows of one log.
#[derive(Debug)]
pub(crate) struct BaselineState {
    pub(crate) held: Ordered,
    /// Time of the first event since the rule began.
    pub(crate) since_us: i64,
    entities: HashMap<GroupBytes, Entity>,
    pub(crate) buckets: Buckets,
    swept_us: i64,
}

impl Default for BaselineState {
    fn default() -> Self {
        Self {
            held: Ordered::default(),
            since_us: i64::MAX,
            entities: HashMap::new(),
            buckets: Buckets::default(),
            swept_us: i64::MIN,
        }
    }
}

/// The past of one entity, and its newest bucket.
#[derive(Debug, PartialEq)]
struct Entity {
    profile: Profile,
    current: Current,
}

/// A bucket that may still grow.
#[derive(Debug, PartialEq)]
struct Current {
    start_us: i64,
    /// Fires above this; none in a log that is still learned.
    limit: Option<u64>,
    /// None while the entity has too little of a past.
    normal: Option<Normal>,
    /// One per aggregate.
    totals: Box<[Total]>,
    value: u64,
    matched: u64,
    first_us: i64,
    last_us: i64,
    seqs: Vec<u64>,
}

impl Current {
    fn fires(&self) -> bool {
        self.limit.is_some_and(|limit| self.value > limit)
    }
}

/// What follows from the rule.
struct Terms<'a> {
    spec: &'a BaselineSpec,
    groups: &'a Groups,
    slots: Vec<Option<usize>>,
    slice_us: i64,
    since_us: i64,
}

impl<'a> Terms<'a> {
    fn of(spec: &'a BaselineSpec, groups: &'a Groups, since_us: i64) -> Self {
        let slice_us = (spec.history_us / SLICES).max(1);
        Self { spec, groups, slots: slots(&groups.aggregates), slice_us, since_us }
    }

    fn slice(&self, time_us: i64) -> i64 {
        time_us.div_euclid(self.slice_us)
    }

    /// The limit of a bucket, and what is normal if the entity is learned.
    fn limit(&self, start_us: i64, profile: &Profile) -> (Option<u64>, Option<Normal>) {
        let spec = self.spec;
        let normal = profile.normal(spec.quantile_millionths);
        let min_buckets = spec.min_history_us.unsigned_abs().div_ceil(spec.bucket_us.unsigned_abs());
        let lowest = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        if normal.buckets < min_buckets {
            let log_is_learned = start_us.saturating_sub(self.since_us) >= spec.min_history_us;
            return (lowest(spec.unlearned.filter(|_| log_is_learned), spec.ceiling), None);
        }
        let above = match spec.method {
            Method::Quantile => scaled(normal.high, spec.k_millionths),
            Method::Ratio => scaled(normal.mean, spec.k_millionths),
            Method::Mad => normal.median + scaled(scaled(normal.deviation, DEVIATION_MILLIONTHS), spec.k_millionths),
        };
        (lowest(Some(above.clamp(spec.floor, LIMIT_MAX.max(spec.floor))), spec.ceiling), Some(normal))
    }
}

fn scaled(value: u64, millionths: u64) -> u64 {
    value.saturating_mul(millionths).div_ceil(MILLION)
}

impl Entity {
    fn new(terms: &Terms<'_>, start_us: i64) -> Self {
        let profile = Profile::default();
        let current = Current::begin(terms, start_us, &profile);
        Self { profile, current }
    }

    /// Goes on to a later bucket: what is behind becomes part of the past.
    fn roll(&mut self, terms: &Terms<'_>, start_us: i64) {
        if start_us.saturating_sub(self.current.start_us) > terms.spec.history_us {
            // Nothing but zeros would be left.
            *self = Self::new(terms, start_us);
            return;
        }
        if self.current.normal.is_none() || !self.current.fires() {
            self.profile.add(terms.slice(self.current.start_us), self.current.value, 1);
        }
        let bucket_us = terms.spec.bucket_us;
        let mut next_us = self.current.start_us + bucket_us;
        while next_us < start_us {
            let slice = terms.slice(next_us);
            let end_us = ((slice + 1) * terms.slice_us).min(start_us);
            let empty = (end_us - next_us).unsigned_abs().div_ceil(bucket_us.unsigned_abs());
            self.profile.add(slice, 0, u32::try_from(empty).unwrap_or(u32::MAX));
            next_us += bucket_us * i64::try_from(empty).unwrap_or(1);
        }
        self.profile.forget_before(terms.slice(start_us) - SLICES);
        self.current = Current::begin(terms, start_us, &self.profile);
    }
}

impl Current {
    fn begin(terms: &Terms<'_>, start_us: i64, profile: &Profile) -> Self {
        let (limit, normal) = terms.limit(start_us, profile);
        Self {
            start_us,
            limit,
            normal,
            totals: terms.groups.aggregates.iter().map(|aggregate| Total::new(aggregate.function)).collect(),
            value: 0,
            matched: 0,
            first_us: start_us,
            last_us: start_us,
            seqs: Vec::new(),
        }
    }

    fn add(&mut self, terms: &Terms<'_>, arguments: &[Argument], time_us: i64, seq: u64) {
        for ((total, aggregate), slot) in self.totals.iter_mut().zip(&terms.groups.aggregates).zip(&terms.slots) {
            total.add(aggregate.function, slot.and_then(|slot| arguments.get(slot)));
        }
        self.value = self.totals.get(terms.groups.condition).map_or(0, Total::count);
        if self.matched == 0 {
            self.first_us = time_us;
        }
        self.matched += 1;
        self.last_us = time_us;
        keep_seq(&mut self.seqs, seq);
    }
}

/// Looks at settled rows, in order; returns what is worth telling.
pub(crate) fn process(
    rule: &Rule,
    baseline: &Baseline,
    state: &mut BaselineState,
    matches: &Matches,
) -> Result<Vec<Told>, RuleFailure> {
    let terms = Terms::of(&baseline.spec, &baseline.groups, state.since_us);
    let keys = group_columns(&baseline.groups, matches)?;
    let columns = baseline.groups.aggregates.iter().filter(|aggregate| aggregate.argument.is_some());
    let columns = columns.map(|aggregate| Column::of(aggregate, matches)).collect::<Result<Vec<_>, _>>()?;
    let mut firing: BTreeSet<GroupBytes> = BTreeSet::new();
    let (mut told, mut key, mut arguments) = (Vec::new(), Vec::new(), Vec::new());
    for (index, &time_us) in matches.times_us.iter().enumerate() {
        key.clear();
        write_group(&keys, index, &mut key);
        let start_us = bucket_start(time_us, terms.spec.bucket_us);
        let entity = match state.entities.get_mut(key.as_slice()) {
            Some(entity) => entity,
            None => state.entities.entry(key.as_slice().into()).or_insert_with(|| Entity::new(&terms, start_us)),
        };
        if start_us < entity.current.start_us {
            // Only beyond the bound of what is held back.
            continue;
        }
        if start_us > entity.current.start_us {
            if let Some(key) = firing.take(key.as_slice()) {
                told.extend(tell(rule, &terms, &mut state.buckets, &key, &entity.current)?);
            }
            entity.roll(&terms, start_us);
        }
        arguments.clear();
        arguments.extend(columns.iter().map(|column| column.argument(index)));
        entity.current.add(&terms, &arguments, time_us, matches.seqs[index]);
        if entity.current.fires() && !firing.contains(key.as_slice()) {
            firing.insert(key.as_slice().into());
        }
    }
    for key in firing {
        if let Some(entity) = state.entities.get(&key) {
            told.extend(tell(rule, &terms, &mut state.buckets, &key, &entity.current)?);
        }
    }
    let newest_us = matches.times_us.last().copied().unwrap_or(i64::MIN);
    state.sweep(rule, &baseline.spec, newest_us);
    Ok(told)
}

/// Learns rows of `batch`, each so many times, at other times, in order, without telling: what tests of rules begin
/// with.
pub(crate) fn preset(
    baseline: &Baseline,
    state: &mut BaselineState,
    matches: &Matches,
    moments: impl Iterator<Item = (i64, usize, u64)>,
) -> Result<(), RuleFailure> {
    let terms = Terms::of(&baseline.spec, &baseline.groups, state.since_us);
    let keys = group_columns(&baseline.groups, matches)?;
    for (time_us, row, count) in moments {
        let start_us = bucket_start(time_us, terms.spec.bucket_us);
        let entity = state.entities.entry(group_of(&keys, row)).or_insert_with(|| Entity::new(&terms, start_us));
        if start_us > entity.current.start_us {
            entity.roll(&terms, start_us);
        }
        entity.current.value += count;
    }
    Ok(())
}

/// Evaluates the row of a bucket that fires, and says it if it is news.
fn tell(
    rule: &Rule,
    terms: &Terms<'_>,
    buckets: &mut Buckets,
    key: &GroupBytes,
    current: &Current,
) -> Result<Option<Told>, RuleFailure> {
    let bucket_start_us = bucket_start(current.start_us, super::micros(rule.header().dedup_period));
    let bucket = buckets.entry((key.clone(), bucket_start_us), current.first_us);
    let step = (bucket.evaluated / EVALUATION_STEP).max(1);
    if bucket.told.is_some() && current.value < bucket.evaluated + step {
        return Ok(None);
    }
    bucket.evaluated = current.value;
    let aggregates = current.totals.iter().map(Total::scalar);
    let output = evaluate_output(&rule.lowered, &group_row(terms.groups, key, aggregates)?)?;
    let output = with_normal(&rule.lowered.row_schema, &output, current)?;
    bucket.severity = bucket.severity.max(severities(&rule.lowered, &output)?[0]);
    if !bucket.is_news(current.matched, false) {
        return Ok(None);
    }
    (bucket.value, bucket.peak_us) = (current.value, current.last_us);
    bucket.last_us = current.last_us;
    Ok(Some(Told {
        group: key.clone(),
        bucket_start_us,
        first_event_us: current.first_us,
        last_event_us: current.last_us,
        matched: current.matched,
        severity: bucket.severity,
        row: row::row(&output, 0),
        evidence: current.seqs.clone(),
    }))
}

/// The output row with why it fired: the limit, and the entity's normal.
fn with_normal(schema: &SchemaRef, output: &RecordBatch, current: &Current) -> Result<RecordBatch, RuleFailure> {
    let number = |value: Option<u64>| -> ArrayRef {
        Arc::new(Int64Array::from(vec![value.and_then(|value| i64::try_from(value).ok())]))
    };
    let normal = current.normal;
    let added = [current.limit, normal.map(|normal| normal.median), normal.map(|normal| normal.high)].map(number);
    let columns = output.columns().iter().cloned().chain(added);
    Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
}

impl BaselineState {
    fn sweep(&mut self, rule: &Rule, spec: &BaselineSpec, newest_us: i64) {
        let crowded = self.entities.len() > ENTITIES_MAX;
        if !crowded && newest_us.saturating_sub(self.swept_us) < spec.history_us / SWEEPS {
            return;
        }
        self.swept_us = newest_us;
        let newest_start_us = bucket_start(newest_us, spec.bucket_us);
        self.entities.retain(|_, entity| {
            let current = &mut entity.current;
            if current.start_us < newest_start_us {
                current.totals.iter_mut().for_each(Total::forget);
            }
            newest_start_us.saturating_sub(current.start_us) <= spec.history_us
        });
        if self.entities.len() > ENTITIES_MAX {
            let mut starts: Vec<i64> = self.entities.values().map(|entity| entity.current.start_us).collect();
            let tenth = starts.len() / 10;
            let (_, &mut cut, _) = starts.select_nth_unstable(tenth);
            self.entities.retain(|_, entity| entity.current.start_us > cut);
            tracing::warn!(
                rule_id = rule.id(),
                kept = self.entities.len(),
                "too many entities, the idle were forgotten"
            );
        }
        self.buckets.prune(super::micros(rule.header().dedup_period), newest_us);
    }

    pub(crate) fn entries(&self) -> usize {
        self.entities.len() + self.buckets.len()
    }

    /// Until when the log is learned, if it still is at `now_us`.
    pub(crate) fn learning_until_us(&self, spec: &BaselineSpec, now_us: i64) -> Option<i64> {
        let until_us = self.since_us.saturating_add(spec.min_history_us);
        (self.since_us < i64::MAX && until_us > now_us).then_some(until_us)
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.held.write(to);
        to.i64(self.since_us);
        to.i64(self.swept_us);
        self.buckets.write(to);
        let mut entities: Vec<_> = self.entities.iter().collect();
        entities.sort_by(|a, b| a.0.cmp(b.0));
        to.length(entities.len());
        for (key, entity) in entities {
            to.bytes(key);
            entity.profile.write(to);
            entity.current.write(to);
        }
    }

    /// `columns` is the schema of what the rule reads.
    pub(crate) fn read(columns: &SchemaRef, baseline: &Baseline, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let held = Ordered::read(columns, from)?;
        let (since_us, swept_us) = (from.i64()?, from.i64()?);
        let buckets = Buckets::read(from)?;
        let terms = Terms::of(&baseline.spec, &baseline.groups, since_us);
        let mut entities = HashMap::new();
        for _ in 0..from.length()? {
            let key = GroupBytes::from(from.bytes()?);
            let profile = Profile::read(from)?;
            let current = Current::read(&terms, &profile, from)?;
            entities.insert(key, Entity { profile, current });
        }
        Ok(Self { held, since_us, entities, buckets, swept_us })
    }
}

impl Current {
    fn write(&self, to: &mut Writer) {
        to.i64(self.start_us);
        self.totals.iter().for_each(|total| total.write(to));
        to.u64(self.value);
        to.u64(self.matched);
        to.i64(self.first_us);
        to.i64(self.last_us);
        to.length(self.seqs.len());
        self.seqs.iter().for_each(|&seq| to.u64(seq));
    }

    /// The limit follows from the profile again.
    fn read(terms: &Terms<'_>, profile: &Profile, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let start_us = from.i64()?;
        let mut current = Self::begin(terms, start_us, profile);
        for (total, aggregate) in current.totals.iter_mut().zip(&terms.groups.aggregates) {
            *total = Total::read(aggregate.function, from)?;
        }
        (current.value, current.matched) = (from.u64()?, from.u64()?);
        (current.first_us, current.last_us) = (from.i64()?, from.i64()?);
        current.seqs = (0..from.length()?).map(|_| from.u64()).collect::<Result<_, _>>()?;
        Ok(current)
    }
}
