//! Kind sequence: several steps by one entity within a time, in order or not, with nothing forbidden in between.
//!
//! An event at t completes a sequence when all steps, itself among them, lie in (t - within, t]. Events are judged in
//! order of (time, seq) once they are settled, which for our own logs is at once. Kept per entity is only what can still
//! matter: in order, for each number of steps done the records of the chain that began last (no other can complete where
//! this one cannot); in any order, the newest records of each step. So `within` costs no room for events.

use super::alerts::{Buckets, GroupBytes};
use super::occurrence::{
    ABSENT, Happened, Occurrence, Record, Shown, Touched, Touches, occurrences, record, shown, steps_in_order,
};
use super::settled::{PENDING_MAX, Pending, Settled};
use super::{Matches, RuleFailure, Shared, Told};
use crate::rule::load::Rule;
use crate::rule::row::time_text;
use crate::rule::state::{Reader, StateError, Writer};
use crate::rule::steps::{Sequence, Step, Steps};
use serde_json::{Value, json};
use std::collections::HashMap;

/// How often a window's length everything is looked through for what is too old.
const SWEEPS: i64 = 8;

/// What a sequence is judged by.
struct Plan<'a> {
    sequence: &'a Sequence,
    within_us: i64,
    /// The step of each record, `at_least` written out.
    chain: Vec<usize>,
}

impl<'a> Plan<'a> {
    fn of(rule: &'a Rule) -> Result<Self, RuleFailure> {
        let sequence = rule.file.sequence.as_ref().ok_or(RuleFailure::internal("rule has no sequence"))?;
        let repeated = |(index, count)| std::iter::repeat_n(index, usize::try_from(count).unwrap_or(1));
        let chain = sequence.steps.iter().map(|step| step.at_least).enumerate().flat_map(repeated).collect();
        Ok(Self { sequence, within_us: super::micros(sequence.within), chain })
    }

    fn slots(&self) -> usize {
        if self.sequence.ordered { self.chain.len() - 1 } else { self.sequence.steps.len() }
    }

    /// Steps whose events can complete it.
    fn completing(&self) -> u32 {
        let last = self.sequence.steps.len() - 1;
        if self.sequence.ordered { 1 << last } else { (1 << (last + 1)) - 1 }
    }
}

/// What one entity has done.
#[derive(Clone, Debug, PartialEq)]
struct Entity {
    /// In order: slot n holds the chain of the first n + 1 records that began last. In any order: the newest records of
    /// each step.
    slots: Vec<Vec<Record>>,
    /// When something forbidden happened last, for sequences in any order.
    forbidden_us: i64,
}

impl Entity {
    /// Takes an event; the records of a sequence that it completes.
    fn take(&mut self, plan: &Plan<'_>, bits: u32, record: Record) -> Option<Vec<(usize, Record)>> {
        if plan.sequence.ordered { self.take_ordered(plan, bits, record) } else { self.take_any(plan, bits, record) }
    }

    fn take_ordered(&mut self, plan: &Plan<'_>, bits: u32, record: Record) -> Option<Vec<(usize, Record)>> {
        if bits & ABSENT != 0 {
            self.slots.iter_mut().for_each(Vec::clear);
        }
        let start_us = record.0.saturating_sub(plan.within_us);
        let mut completed = None;
        // From the end, so that one event is one step of a chain only.
        for (index, step) in plan.chain.iter().enumerate().rev() {
            if bits & (1 << step) == 0 {
                continue;
            }
            let mut chain = match index.checked_sub(1).map(|before| &self.slots[before]) {
                None => Vec::new(),
                Some(before) if before.first().is_some_and(|first| first.0 > start_us) => before.clone(),
                Some(_) => continue,
            };
            chain.push(record);
            match self.slots.get_mut(index) {
                Some(slot) => *slot = chain,
                None => completed = Some(plan.chain.iter().copied().zip(chain).collect()),
            }
        }
        completed
    }

    fn take_any(&mut self, plan: &Plan<'_>, bits: u32, record: Record) -> Option<Vec<(usize, Record)>> {
        if bits & ABSENT != 0 {
            self.forbidden_us = record.0;
        }
        let start_us = record.0.saturating_sub(plan.within_us);
        for (index, slot) in self.slots.iter_mut().enumerate().filter(|(index, _)| bits & (1 << index) != 0) {
            slot.push(record);
            let kept = plan.sequence.steps.get(index).map_or(1, |step| step.at_least);
            if slot.len() > usize::try_from(kept).unwrap_or(1) {
                slot.remove(0);
            }
        }
        let met = |(slot, step): (&Vec<Record>, &Step)| {
            slot.len() == usize::try_from(step.at_least).unwrap_or(1) && slot[0].0 > start_us
        };
        if bits & !ABSENT == 0 || self.forbidden_us > start_us || !self.slots.iter().zip(&plan.sequence.steps).all(met)
        {
            return None;
        }
        let records =
            self.slots.iter().enumerate().flat_map(|(step, slot)| slot.iter().map(move |found| (step, *found)));
        Some(records.collect())
    }

    /// True if nothing of it can be part of a window that ends after `settled_us`.
    fn is_over(&self, plan: &Plan<'_>, settled_us: i64) -> bool {
        let start_us = settled_us.saturating_sub(plan.within_us);
        self.forbidden_us <= start_us && self.slots.iter().flatten().all(|record| record.0 <= start_us)
    }
}

/// All entities of one rule in one log.
#[derive(Debug, Default)]
pub(crate) struct SequenceState {
    /// What came in this turn, on its way to be judged or to wait; nothing between turns.
    arrived: Option<Box<Arrived>>,
    pending: Pending<Occurrence>,
    entities: HashMap<GroupBytes, Entity>,
    pub(crate) buckets: Buckets,
    swept_us: i64,
}

/// Rows that nobody had to write down yet.
#[derive(Debug)]
struct Arrived {
    matches: Matches,
    touches: Touches,
    /// The rows that are steps, in order.
    rows: Vec<u32>,
}

/// What an alert shows of the event that completed a sequence.
enum Completing {
    Row(u32),
    Kept(Shown),
}

/// A sequence that an event completed.
struct Completed {
    time_us: i64,
    records: Vec<(usize, Record)>,
    by: Completing,
}

/// Takes the matching rows; they are judged when they are settled.
pub(crate) fn process(
    steps: &Steps,
    state: &mut SequenceState,
    matches: Matches,
    shared: &Shared<'_>,
) -> Result<(), RuleFailure> {
    let touches = Touches::of(steps, &matches, shared)?;
    let rows = steps_in_order(&touches, &matches);
    state.arrived = Some(Box::new(Arrived { matches, touches, rows }));
    Ok(())
}

/// Judges what is settled; returns what is worth telling, in order of bucket and group. An output row is made of events
/// that complete something or have to wait, not of every event that could.
pub(crate) fn settle(rule: &Rule, state: &mut SequenceState, settled: Settled) -> Result<Vec<Told>, RuleFailure> {
    let plan = Plan::of(rule)?;
    let (arrived, mut completed) = (state.arrived.take(), Vec::new());
    let rows = arrived.as_ref().map_or(&[][..], |arrived| &arrived.rows);
    let (mut judged, mut key) = (0, Vec::new());
    loop {
        let row = arrived.as_deref().zip(rows.get(judged).copied());
        let next = row.map(|(arrived, row)| record(&arrived.matches, row));
        if let Some((record, occurrence)) = state.pending.next_before(settled, next, rows.len() - judged) {
            let shown = occurrence.shown;
            for (key, bits) in &occurrence.touches {
                let by = |records| shown.clone().map(|shown| (records, Completing::Kept(shown)));
                let done = take(&mut state.entities, &plan, key, *bits, record).and_then(by);
                completed.extend(done.map(|(records, by)| Completed { time_us: record.0, records, by }));
            }
            continue;
        }
        let waiting = state.pending.len() + rows.len() - judged;
        let (Some((arrived, row)), Some(record)) = (row, next) else { break };
        if waiting <= PENDING_MAX && !settled.covers(record.0, record.1) {
            break;
        }
        judged += 1;
        let mut judge = |key: &[u8], bits| {
            let records = take(&mut state.entities, &plan, key, bits, record);
            let done = |records| Completed { time_us: record.0, records, by: Completing::Row(row) };
            completed.extend(records.map(done));
        };
        match arrived.touches.touched(row as usize, &mut key) {
            Touched::One(bits) => judge(&key, bits),
            Touched::Several(touches) => touches.iter().for_each(|(key, bits)| judge(key, *bits)),
        }
    }
    if let Some(arrived) = &arrived {
        let left = &arrived.rows[judged..];
        for ((time_us, seq), kept) in occurrences(rule, &arrived.touches, &arrived.matches, left, plan.completing())? {
            state.pending.insert(time_us, seq, kept);
        }
    }
    let told = tell(rule, &plan, &mut state.buckets, arrived.as_deref(), completed)?;
    state.sweep(rule, &plan, settled.us);
    Ok(told)
}

/// Gives an event to an entity; the records of a sequence that it completes.
fn take(
    entities: &mut HashMap<GroupBytes, Entity>,
    plan: &Plan<'_>,
    key: &[u8],
    bits: u32,
    record: Record,
) -> Option<Vec<(usize, Record)>> {
    if let Some(entity) = entities.get_mut(key) {
        return entity.take(plan, bits, record);
    }
    let begins = !plan.sequence.ordered || bits & 1 != 0;
    let mut entity = begins.then(|| Entity { slots: vec![Vec::new(); plan.slots()], forbidden_us: i64::MIN })?;
    let completed = entity.take(plan, bits, record);
    entities.insert(key.into(), entity);
    completed
}

/// Notes what was completed in its buckets, in the order in which it was.
fn tell(
    rule: &Rule,
    plan: &Plan<'_>,
    buckets: &mut Buckets,
    arrived: Option<&Arrived>,
    completed: Vec<Completed>,
) -> Result<Vec<Told>, RuleFailure> {
    let row = |completed: &Completed| match completed.by {
        Completing::Row(row) => Some(row),
        Completing::Kept(_) => None,
    };
    let mut rows: Vec<u32> = completed.iter().filter_map(row).collect();
    rows.dedup();
    let made = arrived.map(|arrived| shown(rule, &arrived.matches, &rows)).transpose()?.unwrap_or_default();
    let made: HashMap<u32, Shown> = rows.into_iter().zip(made).collect();
    let mut happened = Happened::default();
    for Completed { time_us, records, by } in &completed {
        let shown = match by {
            Completing::Row(row) => made.get(row).ok_or(RuleFailure::internal("a row was not made"))?,
            Completing::Kept(shown) => shown,
        };
        let steps = shown_steps(plan.sequence, records);
        let records: Vec<Record> = records.iter().map(|(_, record)| *record).collect();
        happened.note(rule, buckets, (*time_us, shown), &records, ("steps", steps));
    }
    Ok(happened.tell(buckets))
}

/// The steps as the alert's row lists them.
fn shown_steps(sequence: &Sequence, records: &[(usize, Record)]) -> Value {
    let step = |&(step, (time_us, seq)): &(usize, Record)| json!({ "step": sequence.name(step), "event_time": time_text(time_us), "seq": seq });
    records.iter().map(step).collect()
}

impl SequenceState {
    fn sweep(&mut self, rule: &Rule, plan: &Plan<'_>, settled_us: i64) {
        if settled_us.saturating_sub(self.swept_us) <= (plan.within_us / SWEEPS).max(1_000_000) {
            return;
        }
        self.swept_us = settled_us;
        self.entities.retain(|_, entity| !entity.is_over(plan, settled_us));
        self.buckets.prune(super::micros(rule.header().dedup_period), settled_us);
    }

    /// How much it holds.
    pub(crate) fn entries(&self) -> usize {
        self.pending.len() + self.entities.len() + self.buckets.len()
    }

    pub(crate) fn write(&self, to: &mut Writer) {
        self.pending.write(to, Occurrence::write);
        self.buckets.write(to);
        to.i64(self.swept_us);
        let mut sorted: Vec<_> = self.entities.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        to.length(sorted.len());
        for (key, entity) in sorted {
            to.bytes(key);
            to.i64(entity.forbidden_us);
            for slot in &entity.slots {
                to.length(slot.len());
                for (time_us, seq) in slot {
                    to.i64(*time_us);
                    to.u64(*seq);
                }
            }
        }
    }

    pub(crate) fn read(rule: &Rule, from: &mut Reader<'_>) -> Result<Self, StateError> {
        let plan = Plan::of(rule).map_err(|_| StateError::Damaged)?;
        let pending = Pending::read(from, Occurrence::read)?;
        let (buckets, swept_us) = (Buckets::read(from)?, from.i64()?);
        let mut entities = HashMap::new();
        for _ in 0..from.length()? {
            let (key, forbidden_us) = (GroupBytes::from(from.bytes()?), from.i64()?);
            let mut slots = Vec::new();
            for _ in 0..plan.slots() {
                let records = (0..from.length()?).map(|_| Ok((from.i64()?, from.u64()?)));
                slots.push(records.collect::<Result<Vec<_>, StateError>>()?);
            }
            if slots.iter().any(|slot| slot.len() > plan.chain.len()) {
                return Err(StateError::Damaged);
            }
            entities.insert(key, Entity { slots, forbidden_us });
        }
        Ok(Self { arrived: None, pending, entities, buckets, swept_us })
    }
}
