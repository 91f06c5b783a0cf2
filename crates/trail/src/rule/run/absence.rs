//! Kind absence: what should have come and did not.
//!
//! With `after`: once such an event happened, the expected one is due by then + within; what else happens `after` while
//! it is awaited changes nothing. Without: each expected event makes the next one due, and an entity that was never seen
//! is not missed. The clock is the log's settled time, which heartbeats move; an expected event at the very end of the
//! time is in time. Told when it is due and then once a dedup period, until it comes or `forget` is over.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::occurrence::{Happened, Occurrence, Record, Shown, Touches, occurrences, steps_in_order};
use super::settled::{Pending, Settled};
use super::{Matches, RuleFailure, Shared, Told};
use crate::rule::load::Rule;
use crate::rule::row::time_text;
use crate::rule::state::{Reader, StateError, Writer};
use crate::rule::steps::{Absence, Steps};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// An entity from which something is due.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    /// What made it due.
    since: Record,
    /// When it is told next.
    next_us: i64,
    shown: Shown,
}

/// All entities of one rule in one log.
#[derive(Debug, Default)]
pub(crate) struct AbsenceState {
    pending: Pending<Occurrence>,
    waiting: HashMap<GroupBytes, Waiting>,
    /// The entities by when they are told next.
    due: BTreeSet<(i64, GroupBytes)>,
    pub(crate) buckets: Buckets,
}

fn absence_of(rule: &Rule) -> Result<&Absence, RuleFailure> {
    rule.file.absence.as_ref().ok_or(RuleFailure::internal("rule has no absence"))
}

/// Takes the matching rows; they are judged when they are settled.
pub(crate) fn process(
    rule: &Rule,
    steps: &Steps,
    state: &mut AbsenceState,
    matches: &Matches,
    shared: &Shared<'_>,
) -> Result<(), RuleFailure> {
    let touches = Touches::of(steps, matches, shared)?;
    let rows = steps_in_order(&touches, matches);
    // The first predicate is `after`, or else `expect`: what makes something due is what an alert shows.
    for ((time_us, seq), occurrence) in occurrences(rule, &touches, matches, &rows, 1)? {
        state.pending.insert(time_us, seq, occurrence);
    }
    Ok(())
}

/// Judges what is settled; returns what is worth telling, in order of bucket and group.
pub(crate) fn settle(rule: &Rule, state: &mut AbsenceState, settled: Settled) -> Result<Vec<Told>, RuleFailure> {
    let absence = absence_of(rule)?;
    let within_us = super::micros(absence.within);
    let expected = if absence.after.is_some() { 2 } else { 1 };
    let mut happened = Happened::default();
    while let Some((record, occurrence)) = state.pending.next(settled) {
        state.miss_until(rule, absence, record.0, &mut happened);
        for (key, bits) in occurrence.touches {
            if bits & expected != 0 {
                state.forget(&key);
            }
            let Some(shown) = occurrence.shown.as_ref().filter(|_| bits & 1 != 0) else { continue };
            if !state.waiting.contains_key(&key) {
                let next_us = record.0.saturating_add(within_us);
                state.due.insert((next_us, key.clone()));
                state.waiting.insert(key, Waiting { since: record, next_us, shown: shown.clone() });
            }
        }
    }
    state.miss_until(rule, absence, settled.us, &mut happened);
    let told = happened.tell(&mut state.buckets);
    if state.buckets.len() > 0 {
        state.buckets.prune(super::micros(rule.header().dedup_period), settled.us);
    }
    Ok(told)
}

impl AbsenceState {
    fn forget(&mut self, key: &GroupBytes) {
        if let Some(waiting) = self.waiting.remove(key) {
            self.due.remove(&(waiting.next_us, key.clone()));
        }
    }

    /// Tells of everything that was due before `time_us`.
    fn miss_until(&mut self, rule: &Rule, absence: &Absence, time_us: i64, happened: &mut Happened) {
        let period_us = super::micros(rule.header().dedup_period);
        while self.due.first().is_some_and(|(due_us, _)| *due_us < time_us)
            && let Some((due_us, key)) = self.due.pop_first()
        {
            let Some(waiting) = self.waiting.get_mut(&key) else { continue };
            let due = waiting.since.0.saturating_add(super::micros(absence.within));
            let extra = ("due", Value::String(time_text(due)));
            happened.note(rule, &mut self.buckets, (due_us, &waiting.shown), &[waiting.since], extra);
            waiting.next_us = bucket_start(due_us, period_us).saturating_add(period_us);
            if waiting.next_us < waiting.since.0.saturating_add(super::micros(absence.forget())) {
                self.due.insert((waiting.next_us, key));
            } else {
                self.waiting.remove(&key);
            }
        }
    }

    /// How much it holds.
    pub(crate) fn entries(&self) -> usize {
        self.pending.len() + self.waiting.len() + self.buckets.len()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.pending.write(to, Occurrence::write);
        self.buckets.write(to);
        let mut sorted: Vec<_> = self.waiting.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        to.length(sorted.len());
        for (key, waiting) in sorted {
            to.bytes(key);
            to.i64(waiting.since.0);
            to.u64(waiting.since.1);
            to.i64(waiting.next_us);
            waiting.shown.write(to);
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, StateError> {
        let pending = Pending::read(from, Occurrence::read)?;
        let buckets = Buckets::read(from)?;
        let (mut waiting, mut due) = (HashMap::new(), BTreeSet::new());
        for _ in 0..from.length()? {
            let key = GroupBytes::from(from.bytes()?);
            let (since, next_us) = ((from.i64()?, from.u64()?), from.i64()?);
            due.insert((next_us, key.clone()));
            waiting.insert(key, Waiting { since, next_us, shown: Shown::read(from)? });
        }
        Ok(Self { pending, waiting, due, buckets })
    }
}
