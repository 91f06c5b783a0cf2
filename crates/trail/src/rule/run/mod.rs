//! The one operator that live, tests and replays share: batches in, findings out.
//!
//! A batch of records is split by log, stripped of positions seen before, and dispatched to each rule by event name;
//! the rule's filter runs over the columns it needs, then `event` or `threshold` keeps the state. State is kept per log:
//! windows never mix logs, so that a silent or lagging log neither stalls nor falsifies another, and every alert's
//! evidence is proved under one checkpoint. Uses no clock: time is the records' own, heartbeats included, and `settled`
//! says how much of it can be judged for good; durations are measured for `meter` only.

mod absence;
pub(crate) mod alerts;
mod baseline;
mod event;
mod first_seen;
pub(crate) mod integrity;
mod interned;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod kinds_tests;
mod matches;
pub(crate) mod meter;
mod occurrence;
mod ordered;
pub(crate) mod posture;
mod profile;
mod sequence;
pub(crate) mod settled;
mod threshold;
mod total;

use super::file::{LATENESS_IMPORTED, RuleKind};
use super::load::{Rule, RuleSet};
use super::lower::{Lowered, SeverityOf, Source};
use super::row;
use super::state::{Reader, SeqSet, StateError, Writer};
use crate::alert::{GroupValue, Severity, alert_id};
use crate::lake::schema::{events_schema, records_schema};
pub use alerts::worth_revising;
use alerts::{Buckets, GroupBytes};
use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use first_seen::Hashes;
use integrity::Integrity;
use keytrail_kms::chain::leaf::Kind;
use matches::Matches;
use meter::{Cost, RuleRun, breach};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use settled::Settled;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Highest threshold: half of what a group keeps.
pub(crate) const THRESHOLD_MAX: u64 = 65_536;

/// Version of the stored state. Version 1, without settled times, is read as well: nothing of it counts as settled until
/// the next record comes.
const STATE_VERSION: u8 = 2;

/// What a rule found; an alert once evidence and signature are added.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Log id, 32 hex digits.
    pub log: String,
    /// Hash of rule, group and bucket.
    pub alert_id: String,
    /// The group.
    pub group: Vec<GroupValue>,
    /// Start of the dedup bucket, Unix microseconds.
    pub bucket_start_us: i64,
    /// Time of the earliest matching event.
    pub first_event_us: i64,
    /// Time of the latest matching event.
    pub last_event_us: i64,
    /// How many events matched.
    pub matched: u64,
    /// How bad it is.
    pub severity: Severity,
    /// The output row.
    pub row: Map<String, Value>,
    /// Seqs of the first and the newest matching records, sorted; none for kind meta.
    pub evidence: Vec<u64>,
}

/// Why a batch was not processed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not a batch of records.
    #[error("batch does not have the columns of table records")]
    Schema,
    /// The batch cannot be filtered.
    #[error("batch cannot be filtered")]
    Arrow(#[from] ArrowError),
}

/// Why one rule could not be evaluated over a batch. Raised as an integrity finding: a rule must not fail silently.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleFailure {
    #[error("expression failed: {0}")]
    Expression(#[from] DataFusionError),
    #[error("expression failed: {0}")]
    Arrow(#[from] ArrowError),
    #[error("{0}")]
    Internal(&'static str),
}

impl RuleFailure {
    fn internal(reason: &'static str) -> Self {
        Self::Internal(reason)
    }
}

/// A finding before it knows its rule and log.
pub(crate) struct Told {
    pub(crate) group: GroupBytes,
    pub(crate) bucket_start_us: i64,
    pub(crate) first_event_us: i64,
    pub(crate) last_event_us: i64,
    pub(crate) matched: u64,
    pub(crate) severity: Severity,
    pub(crate) row: Map<String, Value>,
    pub(crate) evidence: Vec<u64>,
}

/// All rules over all logs.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
    logs: BTreeMap<String, LogState>,
    /// One for each thread that judges.
    hashes: Vec<Hashes>,
    /// Why a rule failed, for the rules' own tests.
    failure: Option<String>,
}

#[derive(Debug)]
struct LogState {
    seen: SeqSet,
    /// Events tell when they happened instead of when they were written, in no order.
    imported: bool,
    /// Latest time of a record; of imported logs, of an event.
    watermark_us: i64,
    /// Events that came later than rules wait for, since this was last asked.
    late: Option<Late>,
    /// One per rule, in the set's order.
    states: Vec<RuleState>,
    /// What each rule did since it was last asked; those of rules that are gone stay until then.
    runs: BTreeMap<String, RuleRun>,
}

/// Events of an imported log that came after what they were waited for: rules about an order or about the past judged
/// what is later without them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Late {
    pub(crate) events: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// When the last of them happened, and how far behind the latest event that is.
    pub(crate) time_us: i64,
    pub(crate) behind_us: i64,
}

#[derive(Debug)]
enum RuleState {
    Rows(Buckets),
    Groups(threshold::ThresholdState),
    FirstSeen(Box<first_seen::FirstSeenState>),
    Baseline(Box<baseline::BaselineState>),
    Sequence(sequence::SequenceState),
    Absence(absence::AbsenceState),
    /// Beyond its limits in this log; until the rule changes.
    Stopped,
}

impl RuleState {
    fn new(rule: &Rule) -> Self {
        match rule.kind() {
            RuleKind::Threshold => Self::Groups(threshold::ThresholdState::default()),
            RuleKind::FirstSeen => Self::FirstSeen(Box::default()),
            RuleKind::Baseline => Self::Baseline(Box::default()),
            RuleKind::Sequence => Self::Sequence(sequence::SequenceState::default()),
            RuleKind::Absence => Self::Absence(absence::AbsenceState::default()),
            RuleKind::Event | RuleKind::Meta | RuleKind::Posture => Self::Rows(Buckets::default()),
        }
    }

    fn entries(&self) -> usize {
        match self {
            Self::Rows(buckets) => buckets.len(),
            Self::Groups(state) => state.entries(),
            Self::FirstSeen(state) => state.entries(),
            Self::Baseline(state) => state.entries(),
            Self::Sequence(state) => state.entries(),
            Self::Absence(state) => state.entries(),
            Self::Stopped => 0,
        }
    }

    fn take_deduplicated(&mut self) -> u64 {
        match self {
            Self::Rows(buckets) => buckets.take_deduplicated(),
            Self::Groups(state) => state.buckets.take_deduplicated(),
            Self::FirstSeen(state) => state.buckets.take_deduplicated(),
            Self::Baseline(state) => state.buckets.take_deduplicated(),
            Self::Sequence(state) => state.buckets.take_deduplicated(),
            Self::Absence(state) => state.buckets.take_deduplicated(),
            Self::Stopped => 0,
        }
    }
}

impl LogState {
    fn new(rules: &RuleSet) -> Self {
        let states = rules.rules.iter().map(|rule| RuleState::new(rule)).collect();
        Self {
            seen: SeqSet::default(),
            imported: false,
            watermark_us: i64::MIN,
            late: None,
            states,
            runs: BTreeMap::new(),
        }
    }

    /// Takes a record's position and times; true if it is new.
    fn take(&mut self, seq: u64, event: bool, leaf_time_us: i64, time_us: i64) -> bool {
        if !self.seen.insert(seq, leaf_time_us) {
            return false;
        }
        if event && time_us != leaf_time_us && !self.imported {
            // Times before this one were those of the import.
            (self.imported, self.watermark_us) = (true, i64::MIN);
        }
        if !self.imported || time_us != leaf_time_us {
            let behind_us = self.watermark_us.saturating_sub(time_us);
            if self.imported && behind_us > micros(LATENESS_IMPORTED) && self.watermark_us > i64::MIN {
                let late = self.late.get_or_insert(Late { events: 0, first_seq: seq, ..Late::default() });
                *late = Late { events: late.events + 1, first_seq: late.first_seq, last_seq: seq, time_us, behind_us };
            }
            self.watermark_us = self.watermark_us.max(time_us);
        }
        true
    }

    /// How much of the log is settled for a rule.
    fn settled(&self, rule: &Rule) -> Settled {
        if self.imported {
            let us = self.watermark_us.saturating_sub(micros(rule.header().lateness(true)));
            return Settled { us, below_seq: 0 };
        }
        let (below_seq, us) = self.seen.settled();
        Settled { us, below_seq }
    }
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self { rules, logs: BTreeMap::new(), hashes: vec![Hashes::default()], failure: None }
    }

    /// The same on so many threads: each batch's rules are dealt to them. Nothing of what is found changes, nor its order.
    pub fn on_threads(mut self, threads: NonZeroUsize) -> Self {
        self.hashes.resize_with(threads.get(), Hashes::default);
        self
    }

    /// The rules it runs.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Changes to another set. Rules whose hash stays keep their state, those that learn also what they learned as long
    /// as they learn the same; others begin with the next event.
    pub fn swap(&mut self, rules: Arc<RuleSet>) {
        let before = std::mem::replace(&mut self.rules, rules);
        for log in self.logs.values_mut() {
            let states = std::mem::take(&mut log.states);
            let states = before.rules.iter().zip(states);
            let mut known: HashMap<String, RuleState> =
                states.map(|(rule, state)| (state_key(rule, &state), state)).collect();
            let state = |rule: &Arc<Rule>| {
                let state = known.remove(rule.hash()).or_else(|| known.remove(&rule.state_key()));
                state.unwrap_or_else(|| RuleState::new(rule))
            };
            log.states = self.rules.rules.iter().map(state).collect();
            log.runs.retain(|hash, run| run.runs > 0 || self.rules.rules.iter().any(|rule| rule.hash() == hash));
        }
    }

    /// All positions of `log` below this were processed.
    pub fn position(&self, log: &str) -> u64 {
        self.logs.get(log).map_or(0, |log| log.seen.contiguous_end())
    }

    /// The logs it has seen, with their positions.
    pub fn positions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.logs.iter().map(|(log, state)| (log.as_str(), state.seen.contiguous_end()))
    }

    /// Takes everything of `log` below `seq` as seen, before its first record: a run over a part of it begins there.
    pub fn start_at(&mut self, log: &str, seq: u64) {
        let rules = &self.rules;
        self.logs.entry(log.to_owned()).or_insert_with(|| LogState::new(rules)).seen.start_at(seq);
    }

    /// Runs every rule over a batch of `records`; rows whose (log, seq) was processed before change nothing.
    pub fn process(&mut self, batch: &RecordBatch) -> Result<Vec<Finding>, EngineError> {
        if batch.schema_ref().fields() != records_schema().fields() {
            return Err(EngineError::Schema);
        }
        let columns = &*COLUMNS;
        let logs = batch.column(columns.log).as_string::<i32>();
        let mut rows_of: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        let seqs = batch.column(columns.seq).as_primitive::<Int64Type>().values();
        let kinds = batch.column(columns.kind).as_primitive::<Int32Type>().values();
        let leaf_times = batch.column(columns.leaf_time).as_primitive::<Int64Type>().values();
        let times = batch.column(columns.time).as_primitive::<TimestampMicrosecondType>().values();
        let mut begin = 0;
        while begin < batch.num_rows() {
            // Rows of one log stand together.
            let log = logs.value(begin);
            let end = (begin..batch.num_rows()).find(|&row| logs.value(row) != log).unwrap_or(batch.num_rows());
            if !self.logs.contains_key(log) {
                self.logs.insert(log.to_owned(), LogState::new(&self.rules));
            }
            let (Some(state), mut mask) = (self.logs.get_mut(log), rows_of.remove(log)) else { break };
            for row in begin..end {
                let event = kinds[row] == Kind::Event as i32;
                if u64::try_from(seqs[row]).is_ok_and(|seq| state.take(seq, event, leaf_times[row], times[row])) {
                    mask.get_or_insert_with(|| vec![false; batch.num_rows()])[row] = event;
                }
            }
            rows_of.extend(mask.map(|mask| (log, mask)));
            begin = end;
        }
        let mut findings = Vec::new();
        for (log, mask) in rows_of {
            let events = batch.project(&columns.events)?;
            let events = if mask.iter().all(|&kept| kept) {
                events
            } else {
                filter_record_batch(&events, &BooleanArray::from(mask))?
            };
            findings.extend(self.process_log(log, &events));
        }
        Ok(findings)
    }

    /// Runs the rules of kind meta over a finding about a log itself.
    pub fn integrity(&mut self, found: &Integrity) -> Vec<Finding> {
        let mut findings = Vec::new();
        let rules = self.rules.clone();
        let log = self.logs.entry(found.log.clone()).or_insert_with(|| LogState::new(&rules));
        let (batch, runs) = (found.batch(), &mut log.runs);
        for (rule, state) in rules.rules.iter().zip(&mut log.states) {
            let RuleState::Rows(buckets) = state else { continue };
            if Source::of(rule.kind()) != Source::Integrity {
                continue;
            }
            let run = runs.entry(rule.hash().to_owned()).or_insert_with(|| RuleRun::new(rule, &found.log));
            let began = Instant::now();
            match run_rows(rule, buckets, &batch, vec![found.time_us], Vec::new()) {
                Ok(told) => {
                    run.findings += told.len() as u64;
                    findings.extend(told.into_iter().map(|told| finding(rule, &found.log, told)));
                }
                // It cannot be told by the rules that tell of failures.
                Err(error) => {
                    tracing::error!(rule_id = rule.id(), %error, "meta rule failed");
                    run.failed(error.to_string());
                    self.failure = Some(error.to_string());
                }
            }
            run.given(0, None, u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            run.deduplicated += buckets.take_deduplicated();
            run.state_entries = buckets.len() as u64;
            buckets.prune(
                micros(rule.header().dedup_period),
                found.time_us.saturating_sub(micros(rule.header().lateness(false))),
            );
        }
        findings
    }

    fn process_log(&mut self, log: &str, events: &RecordBatch) -> Vec<Finding> {
        let rules = self.rules.clone();
        let Some(state) = self.logs.get_mut(log) else { return Vec::new() };
        let shared = Shared::of(events);
        let settled: Vec<Settled> = rules.rules.iter().map(|rule| state.settled(rule)).collect();
        let reach = Reach { watermark_us: state.watermark_us, imported: state.imported };
        let LogState { states, runs, .. } = state;
        let mut work = Vec::with_capacity(states.len());
        for ((rule, state), settled) in rules.rules.iter().zip(states).zip(settled) {
            if Source::of(rule.kind()) != Source::Events || matches!(state, RuleState::Stopped) {
                continue;
            }
            let run = runs.remove(rule.hash()).unwrap_or_else(|| RuleRun::new(rule, log));
            work.push(Work { rule, state, run, settled });
        }
        let (mut findings, mut failures): (_, Vec<(&str, &str, String)>) = (Vec::new(), Vec::new());
        for Judged { rule, run, told, failure } in judge_all(work, &shared, reach, &mut self.hashes) {
            runs.insert(rule.hash().to_owned(), run);
            findings.extend(told.into_iter().map(|told| finding(rule, log, told)));
            failures.extend(failure.map(|(found, reason)| (found, rule.id(), reason)));
        }
        let time_us = state.watermark_us;
        for (found, rule_id, error) in failures {
            tracing::error!(rule_id, error, found, "rule failed or was stopped");
            self.failure = Some(error.clone());
            findings.extend(self.integrity(&Integrity {
                log: log.to_owned(),
                time_us,
                finding: found.into(),
                first_seq: shared.span.map(|(first, _)| first),
                last_seq: shared.span.map(|(_, last)| last),
                detail: format!("rule {rule_id}: {error}"),
                ..Integrity::default()
            }));
        }
        findings
    }

    /// What the rules did since this was last asked.
    pub fn take_runs(&mut self) -> Vec<RuleRun> {
        let runs = self.logs.values_mut().flat_map(|log| log.runs.values_mut());
        runs.filter(|run| run.runs > 0).map(RuleRun::take).collect()
    }

    /// Logs with events that came too late since this was last asked.
    pub(crate) fn take_late(&mut self) -> Vec<(String, Late)> {
        let late = self.logs.iter_mut().filter_map(|(log, state)| state.late.take().map(|late| (log.clone(), late)));
        late.collect()
    }

    /// Why the last rule that failed did, if one has since this was asked.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Logs and rules that still learn, and until when: they raise no alert for what is new to them.
    pub fn learning(&self) -> Vec<Learning> {
        let mut learning = Vec::new();
        for (log, state) in &self.logs {
            for (rule, rule_state) in self.rules.rules.iter().zip(&state.states) {
                let until_us = match (rule_state, &rule.lowered.first_seen, &rule.lowered.baseline) {
                    (RuleState::FirstSeen(seen), Some(spec), _) => {
                        seen.learning_until_us(&spec.spec, state.watermark_us)
                    }
                    (RuleState::Baseline(state_of), _, Some(baseline)) => {
                        state_of.learning_until_us(&baseline.spec, state.watermark_us)
                    }
                    _ => None,
                };
                learning.extend(until_us.map(|until_us| Learning {
                    rule_id: rule.id().to_owned(),
                    log: log.clone(),
                    until_us,
                }));
            }
        }
        learning
    }

    /// Makes the kinds that learn know the events of `batch` from other times: (time, row, how often), in order. For
    /// tests of rules, which begin with weeks of history.
    pub(crate) fn preset(&mut self, batch: &RecordBatch, moments: &[(i64, usize, u64)]) -> Result<(), EngineError> {
        let log = batch.column(COLUMNS.log).as_string::<i32>().value(0).to_owned();
        let events = batch.project(&COLUMNS.events)?;
        let shared = Shared::of(&events);
        let rules = self.rules.clone();
        let state = self.logs.entry(log).or_insert_with(|| LogState::new(&rules));
        for (rule, state) in rules.rules.iter().zip(&mut state.states) {
            if let Err(error) = preset(rule, state, &shared, moments) {
                self.failure = Some(error.to_string());
            }
        }
        Ok(())
    }

    /// Until when a log is judged: the latest time of a record below the first that is missing.
    pub fn judged_us(&self, log: &str) -> Option<i64> {
        self.logs.get(log).map(|state| state.seen.settled().1).filter(|time_us| *time_us > i64::MIN)
    }

    /// How many keys a first_seen rule knows in a log.
    pub fn known(&self, log: &str, rule: &Rule) -> Option<u64> {
        let at = self.rules.rules.iter().position(|known| known.hash() == rule.hash())?;
        match self.logs.get(log)?.states.get(at)? {
            RuleState::FirstSeen(state) => Some(state.known()),
            _ => None,
        }
    }

    /// The state as bytes.
    pub fn snapshot(&mut self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(STATE_VERSION);
        to.length(self.logs.len());
        for (log, state) in &mut self.logs {
            to.text(log);
            to.i64(state.watermark_us);
            to.u8(u8::from(state.imported));
            state.seen.write(&mut to);
            to.length(state.states.len());
            let runs = &mut state.runs;
            for (rule, state) in self.rules.rules.iter().zip(&state.states) {
                let mut inner = Writer::default();
                write_state(state, &mut inner);
                to.text(&state_key(rule, state));
                to.u8(u8::from(matches!(state, RuleState::Stopped)));
                to.bytes(&inner.0);
                if let Some(run) = runs.get_mut(rule.hash()) {
                    run.state_bytes = inner.0.len() as u64;
                }
            }
        }
        to.0
    }

    /// An engine that goes on where the snapshot was taken. State of rules that are not in the set any more is dropped.
    pub fn restore(rules: Arc<RuleSet>, bytes: &[u8]) -> Result<Self, StateError> {
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if !(1..=STATE_VERSION).contains(&version) {
            return Err(StateError::Version(version));
        }
        let timed = version > 1;
        let mut logs = BTreeMap::new();
        for _ in 0..from.length()? {
            let log = from.text()?;
            let mut state = LogState::new(&rules);
            state.watermark_us = from.i64()?;
            state.imported = timed && from.u8()? != 0;
            state.seen = SeqSet::read(&mut from, timed)?;
            for _ in 0..from.length()? {
                let key = from.text()?;
                let stopped = timed && from.u8()? != 0;
                let mut inner = Reader::new(from.bytes()?);
                let is_key = |rule: &Rule| key == if stopped { rule.hash().to_owned() } else { rule.state_key() };
                let known = rules.rules.iter().zip(&mut state.states).find(|(rule, _)| is_key(rule));
                let Some((rule, slot)) = known else { continue };
                *slot = if stopped { RuleState::Stopped } else { read_state(rule, &mut inner)? };
                inner.end()?;
            }
            logs.insert(log, state);
        }
        from.end()?;
        Ok(Self { rules, logs, hashes: vec![Hashes::default()], failure: None })
    }
}

fn preset(
    rule: &Rule,
    state: &mut RuleState,
    shared: &Shared<'_>,
    moments: &[(i64, usize, u64)],
) -> Result<(), RuleFailure> {
    let lowered = &rule.lowered;
    let first_us = moments.first().map_or(i64::MAX, |(time_us, ..)| *time_us);
    match state {
        RuleState::FirstSeen(state) => state.since_us = first_us,
        RuleState::Baseline(state) => state.since_us = first_us,
        _ => return Ok(()),
    }
    let Some(matches) = matching(lowered, shared)? else { return Ok(()) };
    // Which of the matching rows is this row of the batch?
    let row_of = |row: usize| matches.seqs.iter().position(|seq| Some(seq) == shared.seqs.get(row));
    let known = moments.iter().filter_map(|&(time_us, row, count)| Some((time_us, row_of(row)?, count)));
    match (state, &lowered.first_seen, &lowered.baseline) {
        (RuleState::FirstSeen(state), Some(spec), _) => {
            first_seen::preset(rule, spec, state, &matches, known.map(|(time_us, row, _)| (time_us, row)))
        }
        (RuleState::Baseline(state), _, Some(baseline)) => baseline::preset(baseline, state, &matches, known),
        _ => Err(RuleFailure::internal("state is of another kind")),
    }
}

/// A rule that still learns a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learning {
    /// The rule.
    pub rule_id: String,
    /// Log id, 32 hex digits.
    pub log: String,
    /// Unix microseconds.
    pub until_us: i64,
}

/// Under what the state of a rule is kept. A rule that was stopped may run again once anything of it changes.
fn state_key(rule: &Rule, state: &RuleState) -> String {
    if matches!(state, RuleState::Stopped) { rule.hash().to_owned() } else { rule.state_key() }
}

fn write_state(state: &RuleState, to: &mut Writer) {
    match state {
        RuleState::Rows(buckets) => buckets.write(to),
        RuleState::Groups(groups) => groups.write(to),
        RuleState::FirstSeen(state) => state.write(to),
        RuleState::Baseline(state) => state.write(to),
        RuleState::Sequence(state) => state.write(to),
        RuleState::Absence(state) => state.write(to),
        RuleState::Stopped => {}
    }
}

fn read_state(rule: &Rule, from: &mut Reader<'_>) -> Result<RuleState, StateError> {
    let lowered = &rule.lowered;
    Ok(match (rule.kind(), &lowered.groups, &lowered.baseline) {
        (RuleKind::Sequence, ..) => RuleState::Sequence(sequence::SequenceState::read(rule, from)?),
        (RuleKind::Absence, ..) => RuleState::Absence(absence::AbsenceState::read(from)?),
        (RuleKind::FirstSeen, ..) => {
            let state = first_seen::FirstSeenState::read(&lowered.read_schema(), from)?;
            RuleState::FirstSeen(Box::new(state))
        }
        (RuleKind::Baseline, _, Some(baseline)) => {
            let state = baseline::BaselineState::read(&lowered.read_schema(), baseline, from)?;
            RuleState::Baseline(Box::new(state))
        }
        (_, Some(groups), _) => RuleState::Groups(threshold::ThresholdState::read(rule, groups, from)?),
        (_, None, _) => RuleState::Rows(Buckets::read(from)?),
    })
}

/// What all rules read of one batch of events.
struct Shared<'a> {
    batch: &'a RecordBatch,
    times_us: Vec<i64>,
    seqs: Vec<u64>,
    /// Lowest and highest seq.
    span: Option<(u64, u64)>,
    by_name: HashMap<&'a str, Vec<u32>>,
}

impl<'a> Shared<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let columns = &*EVENT_COLUMNS;
        let times = batch.column(columns.time).as_primitive::<TimestampMicrosecondType>();
        let seqs = batch.column(columns.seq).as_primitive::<Int64Type>();
        let names = batch.column(columns.name).as_string::<i32>();
        let mut by_name: HashMap<&str, Vec<u32>> = HashMap::new();
        for (row, name) in (0..).zip(names) {
            if let Some(name) = name {
                by_name.entry(name).or_default().push(row);
            }
        }
        let seqs: Vec<u64> = seqs.values().iter().map(|&seq| u64::try_from(seq).unwrap_or(0)).collect();
        let span = seqs.iter().copied().min().zip(seqs.iter().copied().max());
        Self { batch, times_us: times.values().to_vec(), seqs, span, by_name }
    }

    /// Time of the earliest event.
    fn first_us(&self) -> i64 {
        self.times_us.iter().copied().min().unwrap_or(i64::MAX)
    }

    /// Whether any event of these names is there; None is any event.
    fn may_hold(&self, names: Option<&BTreeSet<String>>) -> bool {
        names.is_none_or(|names| names.iter().any(|name| self.by_name.contains_key(name.as_str())))
    }

    /// The rows that can match by their event name; None for all.
    fn candidates(&self, lowered: &Lowered) -> Option<UInt32Array> {
        let names = lowered.event_names.as_ref()?;
        let mut rows: Vec<u32> =
            names.iter().filter_map(|name| self.by_name.get(name.as_str())).flatten().copied().collect();
        if rows.len() == self.batch.num_rows() {
            return None;
        }
        if names.len() > 1 {
            rows.sort_unstable();
        }
        Some(rows.into())
    }
}

fn run_events(
    rule: &Rule,
    state: &mut RuleState,
    shared: &Shared<'_>,
    matched: &mut u64,
) -> Result<Vec<Told>, RuleFailure> {
    let lowered = &rule.lowered;
    let matches = matching(lowered, shared)?;
    *matched += matches.as_ref().map_or(0, Matches::len) as u64;
    match (state, &lowered.groups, &lowered.steps, matches) {
        (RuleState::FirstSeen(state), .., matches) => {
            begin(rule, &mut state.since_us, shared);
            state.held.arrive(matches)?;
        }
        (RuleState::Baseline(state), .., matches) => {
            begin(rule, &mut state.since_us, shared);
            state.held.arrive(matches)?;
        }
        (.., None) => {}
        (RuleState::Groups(state), Some(groups), None, Some(matches)) => {
            return threshold::process(rule, groups, state, &matches);
        }
        (RuleState::Rows(buckets), None, None, Some(matches)) => return event::process(rule, buckets, &matches),
        (RuleState::Sequence(state), None, Some(steps), Some(matches)) => {
            sequence::process(steps, state, matches, shared)?;
        }
        (RuleState::Absence(state), None, Some(steps), Some(matches)) => {
            absence::process(rule, steps, state, &matches, shared)?;
        }
        _ => return Err(RuleFailure::internal("state is of another kind")),
    }
    Ok(Vec::new())
}

/// Notes since when a rule learns a log, and says so when it begins: it is quiet until it has.
fn begin(rule: &Rule, since_us: &mut i64, shared: &Shared<'_>) {
    let first_us = shared.first_us().min(*since_us);
    if *since_us == i64::MAX && first_us < i64::MAX {
        tracing::info!(rule_id = rule.id(), since = row::time_text(first_us), "rule learns");
    }
    *since_us = first_us;
}

/// The rows that a rule is about, if there are any.
fn matching(lowered: &Lowered, shared: &Shared<'_>) -> Result<Option<Matches>, RuleFailure> {
    let candidates = shared.candidates(lowered);
    if shared.batch.num_rows() == 0 || candidates.as_ref().is_some_and(|rows| rows.is_empty()) {
        return Ok(None);
    }
    let batch = shared.batch.project(&lowered.columns)?;
    Matches::of(batch, candidates, lowered.filter.as_ref(), &shared.times_us, &shared.seqs)
}

/// One rule's part of a batch.
struct Work<'a, 's> {
    rule: &'a Arc<Rule>,
    state: &'s mut RuleState,
    run: RuleRun,
    settled: Settled,
}

/// How far the log has come, and what order it is in.
#[derive(Clone, Copy)]
struct Reach {
    watermark_us: i64,
    imported: bool,
}

/// What came of it.
struct Judged<'a> {
    rule: &'a Arc<Rule>,
    run: RuleRun,
    told: Vec<Told>,
    failure: Option<(&'static str, String)>,
}

/// The rules over one batch, each by the thread that is free next; there is one for each of `hashes`. Rules share no
/// state, so that only the order of what they find has to be restored.
fn judge_all<'a>(work: Vec<Work<'a, '_>>, shared: &Shared<'_>, reach: Reach, hashes: &mut [Hashes]) -> Vec<Judged<'a>> {
    let left = Mutex::new(work.into_iter().enumerate());
    let judge_some = &|hashes: &mut Hashes| {
        let mut judged = Vec::new();
        loop {
            let next = left.lock().next();
            let Some((index, Work { rule, state, mut run, settled })) = next else { return judged };
            let (told, failure) = judge(rule, state, &mut run, shared, (settled, reach), hashes);
            judged.push((index, Judged { rule, run, told, failure }));
        }
    };
    let Some((own, others)) = hashes.split_first_mut() else { return Vec::new() };
    let mut judged = std::thread::scope(|scope| {
        let others: Vec<_> = others.iter_mut().map(|hashes| scope.spawn(move || judge_some(hashes))).collect();
        let mut judged = judge_some(own);
        for other in others {
            judged.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        judged
    });
    judged.sort_unstable_by_key(|(index, _)| *index);
    judged.into_iter().map(|(_, judged)| judged).collect()
}

/// One rule over one batch, measured; what it found, and why it failed or was stopped.
fn judge(
    rule: &Rule,
    state: &mut RuleState,
    run: &mut RuleRun,
    shared: &Shared<'_>,
    (settled, reach): (Settled, Reach),
    hashes: &mut Hashes,
) -> (Vec<Told>, Option<(&'static str, String)>) {
    let began = Instant::now();
    let outcome = run_events(rule, state, shared, &mut run.matched);
    let outcome = outcome.and_then(|told| settle(rule, state, settled, hashes, told));
    advance(rule, state, reach);
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    run.given(shared.seqs.len() as u64, shared.span, micros);
    run.deduplicated += state.take_deduplicated();
    run.state_entries = state.entries() as u64;
    let (mut told, mut failure) = match outcome {
        Ok(told) => (told, None),
        Err(error) => (Vec::new(), Some(("rule-failed", error.to_string()))),
    };
    let limits = rule.header().limits;
    let findings = told.len() as u64;
    let cost = Cost { micros, findings, state_entries: run.state_entries, state_bytes: run.state_bytes };
    if let Some(reason) = breach(limits, cost) {
        *state = RuleState::Stopped;
        told.truncate(usize::try_from(limits.rows).unwrap_or(usize::MAX));
        failure = Some(("rule-stopped", reason));
    }
    run.findings += told.len() as u64;
    failure.iter().for_each(|(found, reason)| run.failed(format!("{found}: {reason}")));
    (told, failure)
}

/// Judges what is settled now, also when no event of the rule came; adds to what was told at once.
fn settle(
    rule: &Rule,
    state: &mut RuleState,
    settled: Settled,
    hashes: &mut Hashes,
    mut told: Vec<Told>,
) -> Result<Vec<Told>, RuleFailure> {
    match (state, &rule.lowered.first_seen, &rule.lowered.baseline) {
        (RuleState::Rows(_) | RuleState::Groups(_) | RuleState::Stopped, ..) => {}
        (RuleState::Sequence(state), ..) => told.extend(sequence::settle(rule, state, settled)?),
        (RuleState::Absence(state), ..) => told.extend(absence::settle(rule, state, settled)?),
        (RuleState::FirstSeen(state), Some(spec), _) => {
            if let Some(matches) = state.held.release(settled)? {
                told.extend(first_seen::process(rule, spec, state, &matches, hashes)?);
            }
        }
        (RuleState::Baseline(state), _, Some(baseline)) => {
            if let Some(matches) = state.held.release(settled)? {
                told.extend(baseline::process(rule, baseline, state, &matches)?);
            }
        }
        _ => return Err(RuleFailure::internal("state is of another kind")),
    }
    Ok(told)
}

fn run_rows(
    rule: &Rule,
    buckets: &mut Buckets,
    batch: &RecordBatch,
    times_us: Vec<i64>,
    seqs: Vec<u64>,
) -> Result<Vec<Told>, RuleFailure> {
    let mut batch = batch.project(&rule.lowered.columns)?;
    if let Some(predicate) = &rule.lowered.filter {
        let mask = array_of(predicate, &batch)?;
        batch = filter_record_batch(&batch, mask.as_boolean())?;
        let all = arrow::array::Int64Array::from(times_us.clone());
        if filter(&all, mask.as_boolean())?.is_empty() {
            return Ok(Vec::new());
        }
    }
    event::process(rule, buckets, &Matches::all(batch, times_us, seqs))
}

fn advance(rule: &Rule, state: &mut RuleState, reach: Reach) {
    let lateness_horizon_us = reach.watermark_us.saturating_sub(micros(rule.header().lateness(reach.imported)));
    match (state, &rule.lowered.groups) {
        (RuleState::Groups(state), Some(groups)) => {
            state.advance(rule, groups, reach.watermark_us, lateness_horizon_us)
        }
        (RuleState::Rows(buckets), _) if buckets.len() > 0 => {
            buckets.prune(micros(rule.header().dedup_period), lateness_horizon_us);
        }
        _ => {}
    }
}

fn finding(rule: &Arc<Rule>, log: &str, told: Told) -> Finding {
    let values = group_values(&told.group);
    let borrowed: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
    let alert_id = alert_id(rule.id(), &borrowed, told.bucket_start_us);
    let fields = rule.lowered.output_schema.fields();
    let names = rule.lowered.group.iter().map(|&index| fields[index].name().clone());
    Finding {
        rule: rule.clone(),
        log: log.to_owned(),
        alert_id,
        group: names.zip(values).map(|(name, value)| GroupValue { name, value }).collect(),
        bucket_start_us: told.bucket_start_us,
        first_event_us: told.first_event_us,
        last_event_us: told.last_event_us,
        matched: told.matched,
        severity: told.severity,
        row: told.row,
        evidence: told.evidence,
    }
}

pub(crate) fn array_of(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, RuleFailure> {
    Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)
}

/// What is true of a mask, null counting as false.
pub(crate) fn truths(mask: &BooleanArray) -> BooleanArray {
    if mask.null_count() == 0 { mask.clone() } else { prep_null_mask_filter(mask) }
}

/// The output row of every row of `batch`.
pub(crate) fn evaluate_output(lowered: &Lowered, batch: &RecordBatch) -> Result<RecordBatch, RuleFailure> {
    let columns = lowered.output.iter().map(|expr| array_of(expr, batch)).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(lowered.output_schema.clone(), columns)?)
}

/// The severity of every output row.
pub(crate) fn severities(lowered: &Lowered, output: &RecordBatch) -> Result<Vec<Severity>, RuleFailure> {
    match &lowered.severity {
        SeverityOf::Fixed(severity) => Ok(vec![*severity; output.num_rows()]),
        SeverityOf::Case(expr, _) => {
            let words = row::text_column(&array_of(expr, output)?)?;
            // The loader saw to it that every result is one of the five words.
            Ok(words
                .iter()
                .map(|word| word.and_then(|word| Severity::from_str(word).ok()).unwrap_or(Severity::High))
                .collect())
        }
    }
}

/// The group of row `index`, encoded: null as 0xFFFFFFFF, otherwise u32 length and bytes.
pub(crate) fn group_of(columns: &[StringArray], index: usize) -> GroupBytes {
    encode_group(columns.iter().map(|column| row::text_at(column, index)))
}

/// Appends what [`group_of`] gives.
pub(crate) fn write_group(columns: &[StringArray], index: usize, bytes: &mut Vec<u8>) {
    write_values(columns.iter().map(|column| row::text_at(column, index)), bytes);
}

/// The same as [`group_of`] of values that are in no column.
pub(crate) fn encode_group<'a>(values: impl Iterator<Item = Option<&'a str>>) -> GroupBytes {
    let mut bytes = Vec::with_capacity(96);
    write_values(values, &mut bytes);
    bytes.into_boxed_slice()
}

fn write_values<'a>(values: impl Iterator<Item = Option<&'a str>>, bytes: &mut Vec<u8>) {
    for value in values {
        match value {
            Some(text) => {
                bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            None => bytes.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
}

/// The values that [`group_of`] encoded.
pub(crate) fn group_values(group: &[u8]) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = group;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length);
        if length == u32::MAX {
            values.push(None);
            rest = after;
            continue;
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(after.len());
        let (text, after) = after.split_at(length);
        values.push(Some(String::from_utf8_lossy(text).into_owned()));
        rest = after;
    }
    values
}

/// What a rule of events in windows may keep, in words.
pub(super) fn threshold_bound() -> String {
    threshold::bound()
}

/// What a rule of single rows may keep, in words.
pub(super) fn buckets_bound() -> String {
    alerts::bound()
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Where the engine's own columns are in `records`, and which of them `events` has.
struct RecordColumns {
    log: usize,
    seq: usize,
    kind: usize,
    leaf_time: usize,
    time: usize,
    events: Vec<usize>,
}

static COLUMNS: LazyLock<RecordColumns> = LazyLock::new(|| {
    let schema = records_schema();
    let index = |name: &str| schema.index_of(name).expect("the records schema has this column");
    RecordColumns {
        log: index("log"),
        seq: index("seq"),
        kind: index("kind"),
        leaf_time: index("leaf_time_us"),
        time: index("event_time"),
        events: events_schema().fields().iter().map(|field| index(field.name())).collect(),
    }
});

struct EventColumns {
    seq: usize,
    time: usize,
    name: usize,
}

static EVENT_COLUMNS: LazyLock<EventColumns> = LazyLock::new(|| {
    let schema = events_schema();
    let index = |name: &str| schema.index_of(name).expect("the events schema has this column");
    EventColumns { seq: index("seq"), time: index("event_time"), name: index("event_name") }
});

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::decode::{decode, decode_imported};
    use crate::land::VerifiedFrame;
    use crate::rule::test::{START_US, frame};
    use keytrail_kms::chain::leaf::Link;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::fs;

    const DENIED: &str = r#"-- +++
-- id = "denied"
-- version = 1
-- kind = "threshold"
-- window = "60s"
-- lateness = "30s"
-- group_key = ["principal_arn"]
-- dedup_period = "90s"
-- threshold = { column = "n", gte = 4 }
-- severity = "CASE WHEN n >= 8 THEN 'high' ELSE 'medium' END"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT principal_arn, count(*) AS n, min(event_time) AS first, max(seq) AS last, bool_or(read_only) AS any_read
FROM events WHERE event_name = 'Decrypt' GROUP BY principal_arn"#;

    const DISTINCT: &str = r#"-- +++
-- id = "distinct"
-- version = 1
-- kind = "threshold"
-- window = "60s"
-- lateness = "30s"
-- group_key = ["principal_arn"]
-- dedup_period = "90s"
-- threshold = { column = "n", gte = 3 }
-- severity = "low"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT count(DISTINCT source_ip) AS n, principal_arn, sum(seq) AS total FROM events GROUP BY principal_arn"#;

    const EACH: &str = r#"-- +++
-- id = "each"
-- version = 1
-- kind = "event"
-- lateness = "30s"
-- group_key = ["principal_arn", "event_name"]
-- dedup_period = "90s"
-- severity = "low"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT event_name, principal_arn, event_time FROM events WHERE source_ip = '192.0.2.1'"#;

    const FRESH: &str = r#"-- +++
-- id = "fresh"
-- version = 1
-- kind = "first_seen"
-- lateness = "30s"
-- group_key = ["principal_arn", "source_ip"]
-- dedup_period = "90s"
-- first_seen = { keys = ["source_ip", "principal_arn"], history = "100s", learning = "60s", max_new_per_hour = 4 }
-- severity = "low"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT principal_arn, source_ip, event_time FROM events WHERE event_name = 'Decrypt'"#;

    const SCOPED: &str = r#"-- +++
-- id = "scoped"
-- version = 1
-- kind = "first_seen"
-- lateness = "30s"
-- group_key = ["source_ip"]
-- dedup_period = "90s"
-- first_seen = { keys = ["principal_arn", "source_ip"], per = ["principal_arn"], history = "80s", learning = "30s", max_new_per_hour = 1000 }
-- severity = "low"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT principal_arn, source_ip, event_time FROM events WHERE event_name = 'Decrypt'"#;

    const BACK: &str = r#"-- +++
-- id = "back"
-- version = 1
-- kind = "first_seen"
-- lateness = "30s"
-- group_key = ["principal_arn"]
-- dedup_period = "90s"
-- first_seen = { keys = ["principal_arn"], history = "20s", returning = true }
-- severity = "low"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT principal_arn, event_time FROM events WHERE event_name = 'Decrypt'"#;

    const SPIKE: &str = r#"-- +++
-- id = "spike"
-- version = 1
-- kind = "baseline"
-- lateness = "30s"
-- group_key = ["principal_arn"]
-- dedup_period = "90s"
-- baseline = { column = "n", bucket = "10s", history = "160s", min_history = "100s", quantile = 0.9, k = 1.5, floor = 1, unlearned = 3, ceiling = 6 }
-- severity = "CASE WHEN n > 2 * threshold THEN 'high' ELSE 'low' END"
-- test = [{ name = "a", given = { fixture = "x" }, expect = { alerts = 1 } }, { name = "b", given = { fixture = "x" }, expect = { alerts = 0 } }]
-- +++
SELECT principal_arn, count(DISTINCT source_ip) AS addresses, count(*) AS n, max(event_time) AS last
FROM events WHERE event_name = 'Decrypt' GROUP BY principal_arn"#;

    fn rules() -> Arc<RuleSet> {
        rules_with(DENIED)
    }

    fn rules_with(denied: &str) -> Arc<RuleSet> {
        rules_of(&[
            ("denied", denied),
            ("distinct", DISTINCT),
            ("each", EACH),
            ("fresh", FRESH),
            ("scoped", SCOPED),
            ("back", BACK),
            ("spike", SPIKE),
        ])
    }

    fn rules_of(rules: &[(&str, &str)]) -> Arc<RuleSet> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kms")).unwrap();
        fs::create_dir_all(dir.path().join("fixtures")).unwrap();
        fs::write(dir.path().join("fixtures/x.json"), "{}").unwrap();
        for (id, text) in rules {
            fs::write(dir.path().join(format!("kms/{id}.sql")), text).unwrap();
        }
        Arc::new(RuleSet::load(dir.path()).unwrap())
    }

    /// (seconds after the start, principal, address, event name)
    type Call = (u64, u8, u8, bool);

    fn frames(calls: &[Call]) -> Vec<VerifiedFrame> {
        let mut sorted = calls.to_vec();
        sorted.sort();
        let mut prev = Link::ZERO;
        let mut frames = Vec::new();
        for (seq, (seconds, principal, address, decrypt)) in sorted.into_iter().enumerate() {
            let event = serde_json::json!({
                "eventName": if decrypt { "Decrypt" } else { "Encrypt" },
                "userIdentity": { "type": "IAMUser", "arn": format!("arn:aws:iam::111122223333:user/{principal}") },
                "sourceIPAddress": format!("192.0.2.{address}"),
                "readOnly": true,
                "eventID": format!("{seq}"),
            });
            let time_us = u64::try_from(START_US).unwrap() + seconds * 1_000_000;
            let verified = frame(seq as u64, time_us, prev, &event);
            prev = verified.frame.link();
            frames.push(verified);
        }
        frames
    }

    fn ids(engine: &mut Engine, frames: &[VerifiedFrame], rows: usize) -> BTreeSet<(String, String)> {
        let mut ids = BTreeSet::new();
        for chunk in frames.chunks(rows.max(1)) {
            for finding in engine.process(&decode(chunk)).unwrap() {
                ids.insert((finding.rule.id().to_owned(), finding.alert_id));
            }
        }
        ids
    }

    /// What the specification says, without any of the operator's state: an alert for each bucket of a group in which
    /// some event closes a window that meets the condition.
    fn expected(frames: &[VerifiedFrame]) -> BTreeSet<(String, String)> {
        let event = |frame: &VerifiedFrame| -> Value { serde_json::from_slice(&frame.frame.payload).unwrap() };
        let time = |frame: &VerifiedFrame| i64::try_from(frame.leaf.time_us).unwrap();
        let mut ids = BTreeSet::new();
        for closing in frames {
            let (at, closing) = (time(closing), event(closing));
            let arn = closing["userIdentity"]["arn"].as_str().unwrap().to_owned();
            let bucket = alerts::bucket_start(at, 90_000_000);
            let window: Vec<Value> = frames
                .iter()
                .filter(|frame| time(frame) > at - 60_000_000 && time(frame) <= at)
                .map(event)
                .filter(|event| event["userIdentity"]["arn"] == arn.as_str())
                .collect();
            let decrypts = window.iter().filter(|event| event["eventName"] == "Decrypt").count();
            let addresses: BTreeSet<String> = window.iter().map(|event| event["sourceIPAddress"].to_string()).collect();
            if decrypts >= 4 && closing["eventName"] == "Decrypt" {
                ids.insert(("denied".to_owned(), alert_id("denied", &[Some(&arn)], bucket)));
            }
            if addresses.len() >= 3 {
                ids.insert(("distinct".to_owned(), alert_id("distinct", &[Some(&arn)], bucket)));
            }
            if closing["sourceIPAddress"] == "192.0.2.1" {
                let name = closing["eventName"].as_str().unwrap();
                ids.insert(("each".to_owned(), alert_id("each", &[Some(name), Some(&arn)], bucket)));
            }
        }
        let since = frames.first().map_or(0, time);
        let decrypts: Vec<(i64, String, String)> = frames
            .iter()
            .map(|frame| (time(frame), event(frame)))
            .filter(|(_, event)| event["eventName"] == "Decrypt")
            .map(|(at, event)| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                (at, text(&event["userIdentity"]["arn"]), text(&event["sourceIPAddress"]))
            })
            .collect();
        expect_first_seen(&decrypts, since, &mut ids);
        expect_baseline(&decrypts, since, &mut ids);
        ids
    }

    /// Looks for each call through all calls before it.
    fn expect_first_seen(calls: &[(i64, String, String)], since: i64, ids: &mut BTreeSet<(String, String)>) {
        const SECOND: i64 = 1_000_000;
        let mut alerts_of_fresh: BTreeSet<(String, String, i64)> = BTreeSet::new();
        for (index, (at, arn, address)) in calls.iter().enumerate() {
            let before = &calls[..index];
            let bucket = alerts::bucket_start(*at, 90 * SECOND);
            let same = |call: &&(i64, String, String)| call.1 == *arn && call.2 == *address;
            let last = before.iter().rev().find(same).map(|call| call.0);
            if last.is_none_or(|last| at - last > 100 * SECOND) && at - since >= 60 * SECOND {
                let key = (arn.clone(), address.clone(), bucket);
                if alerts_of_fresh.contains(&key) || alerts_of_fresh.len() < 4 {
                    alerts_of_fresh.insert(key);
                    ids.insert(("fresh".to_owned(), alert_id("fresh", &[Some(arn), Some(address)], bucket)));
                } else {
                    let hour = alerts::bucket_start(*at, 3600 * SECOND);
                    ids.insert(("fresh".to_owned(), alert_id("fresh", &[None, None], hour)));
                }
            }
            // The scope was learned since the first call after its last long pause.
            let mut scope = *at;
            let mut later = *at;
            for call in before.iter().rev().filter(|call| call.1 == *arn) {
                if later - call.0 > 80 * SECOND {
                    break;
                }
                (scope, later) = (call.0, call.0);
            }
            if last.is_none_or(|last| at - last > 80 * SECOND) && at - scope >= 30 * SECOND {
                ids.insert(("scoped".to_owned(), alert_id("scoped", &[Some(address)], bucket)));
            }
            if before.iter().rev().find(|call| call.1 == *arn).is_some_and(|call| at - call.0 > 20 * SECOND) {
                ids.insert(("back".to_owned(), alert_id("back", &[Some(arn)], bucket)));
            }
        }
    }

    /// Keeps each bucket of each principal in a plain list.
    fn expect_baseline(calls: &[(i64, String, String)], since: i64, ids: &mut BTreeSet<(String, String)>) {
        const SECOND: i64 = 1_000_000;
        let slice = |at: i64| at.div_euclid(160 * SECOND / 14);
        let arns: BTreeSet<&String> = calls.iter().map(|call| &call.1).collect();
        for arn in arns {
            let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
            for call in calls.iter().filter(|call| call.1 == *arn) {
                *counts.entry(alerts::bucket_start(call.0, 10 * SECOND)).or_default() += 1;
            }
            let (mut past, mut previous): (Vec<(i64, u64)>, Option<i64>) = (Vec::new(), None);
            for (&start, &count) in &counts {
                match previous {
                    Some(previous) if start - previous > 160 * SECOND => past.clear(),
                    Some(previous) => {
                        past.extend((1..(start - previous) / (10 * SECOND)).map(|n| (previous + n * 10 * SECOND, 0)));
                    }
                    None => {}
                }
                previous = Some(start);
                past.retain(|(at, _)| slice(*at) >= slice(start) - 14);
                let mut sorted: Vec<u64> = past.iter().map(|(_, count)| *count).collect();
                sorted.sort_unstable();
                let learned = sorted.len() >= 10;
                let limit = if learned {
                    let high = sorted[(sorted.len() * 9).div_ceil(10) - 1];
                    Some((high * 3).div_ceil(2).clamp(1, 6))
                } else {
                    Some(if start - since >= 100 * SECOND { 3 } else { 6 })
                };
                let fires = limit.is_some_and(|limit| count > limit);
                if fires {
                    let bucket = alerts::bucket_start(start, 90 * SECOND);
                    ids.insert(("spike".to_owned(), alert_id("spike", &[Some(arn)], bucket)));
                }
                if !learned || !fires {
                    past.push((start, count));
                }
            }
        }
    }

    fn calls() -> impl Strategy<Value = Vec<Call>> {
        prop::collection::vec((0_u64..400, 0_u8..3, 0_u8..5, prop::bool::weighted(0.8)), 1..70)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn order_duplicates_batches_and_restarts_change_nothing(
            calls in calls(),
            jitter in prop::collection::vec((0_u64..30_000_000, prop::option::of(0_u64..30_000_000)), 70),
            rows in 1_usize..20,
            restart in 0_usize..70,
        ) {
            let rules = rules();
            let frames = frames(&calls);
            let wanted = expected(&frames);
            prop_assert_eq!(&ids(&mut Engine::new(rules.clone()), &frames, rows), &wanted);

            let mut delivery: Vec<(u64, usize)> = Vec::new();
            for (index, (frame, (late, again))) in frames.iter().zip(&jitter).enumerate() {
                delivery.push((frame.leaf.time_us + late, index));
                delivery.extend(again.map(|again| (frame.leaf.time_us + again, index)));
            }
            delivery.sort_unstable();
            let shuffled: Vec<VerifiedFrame> = delivery.iter().map(|(_, index)| frames[*index].clone()).collect();
            prop_assert_eq!(&ids(&mut Engine::new(rules.clone()), &shuffled, rows), &wanted);

            let cut = restart.min(shuffled.len());
            let mut first = Engine::new(rules.clone());
            let mut found = ids(&mut first, &shuffled[..cut], rows);
            let snapshot = first.snapshot();
            let mut second = Engine::restore(rules, &snapshot).unwrap();
            prop_assert_eq!(second.snapshot(), snapshot);
            // What was delivered shortly before the restart is delivered once more.
            found.extend(ids(&mut second, &shuffled[cut.saturating_sub(5)..], rows));
            prop_assert_eq!(&found, &wanted);
        }

        #[test]
        fn threads_change_neither_what_is_found_nor_its_order(calls in calls(), rows in 1_usize..20) {
            let rules = rules();
            let three = NonZeroUsize::new(3).unwrap();
            let mut engines = [Engine::new(rules.clone()), Engine::new(rules).on_threads(three)];
            for chunk in frames(&calls).chunks(rows) {
                let batch = decode(chunk);
                let told = |finding: Finding| (finding.alert_id, finding.matched, finding.evidence, finding.row);
                let [one, several] = engines
                    .each_mut()
                    .map(|engine| engine.process(&batch).unwrap().into_iter().map(told).collect::<Vec<_>>());
                prop_assert_eq!(one, several);
            }
            let [one, several] = engines.each_mut().map(Engine::snapshot);
            prop_assert_eq!(one, several);
            let [one, several] = engines.each_mut().map(|engine| engine.take_runs().len());
            prop_assert_eq!(one, several);
        }
    }

    #[test]
    fn a_growing_attack_is_one_alert_with_few_revisions() {
        let calls: Vec<Call> = (0..40).map(|second| (second, 0, 0, true)).collect();
        let mut engine = Engine::new(rules());
        let mut told = Vec::new();
        for frame in frames(&calls) {
            told.extend(engine.process(&decode(&[frame])).unwrap());
        }
        let told: Vec<_> = told.iter().filter(|finding| finding.rule.id() == "denied").collect();
        let counts: Vec<(u64, Severity)> = told.iter().map(|finding| (finding.matched, finding.severity)).collect();
        let (medium, high) = (Severity::Medium, Severity::High);
        assert_eq!(counts, [(4, medium), (8, high), (16, high), (32, high)]);
        assert!(told.iter().all(|finding| finding.alert_id == told[0].alert_id));
        assert_eq!(told[3].evidence.len(), 20);
        assert_eq!((told[3].evidence[0], told[3].evidence[19]), (0, 31));
        let row = serde_json::to_string(&told[0].row).unwrap();
        assert_eq!(
            row,
            r#"{"principal_arn":"arn:aws:iam::111122223333:user/0","n":4,"first":"2026-01-05T12:00:00Z","last":3,"any_read":true}"#
        );
    }

    /// A heartbeat, `seconds` after the start.
    fn heartbeat(seq: u64, seconds: u64) -> VerifiedFrame {
        let time_us = u64::try_from(START_US).unwrap() + seconds * 1_000_000;
        let mut verified = frame(seq, time_us, Link::ZERO, &serde_json::json!({ "recordVersion": 1 }));
        verified.leaf.kind = Kind::Heartbeat;
        verified.frame.leaf = verified.leaf.encode();
        verified
    }

    fn settled_us(engine: &Engine) -> Vec<i64> {
        engine.logs.values().map(|log| log.settled(&engine.rules.rules[0]).us).collect()
    }

    #[test]
    fn an_own_log_is_settled_by_its_contiguous_records_of_any_kind() {
        let rules = rules();
        let mut engine = Engine::new(rules.clone());
        let calls = frames(&[(0, 0, 1, true), (1, 0, 2, true)]);
        for (given, seconds) in
            [(&calls[1], None), (&heartbeat(3, 30), None), (&calls[0], Some(1)), (&heartbeat(2, 20), Some(30))]
        {
            engine.process(&decode(std::slice::from_ref(given))).unwrap();
            assert_eq!(settled_us(&engine), [seconds.map_or(i64::MIN, |seconds| START_US + seconds * 1_000_000)]);
        }
        assert_eq!(engine.logs.values().next().unwrap().watermark_us, START_US + 30_000_000);
        let restored = Engine::restore(rules.clone(), &engine.snapshot()).unwrap();
        assert_eq!(settled_us(&restored), settled_us(&engine));

        let mut middle = Engine::new(rules);
        middle.start_at(&calls[0].leaf.log.to_string(), 2);
        middle.process(&decode(&[heartbeat(2, 20)])).unwrap();
        assert_eq!(settled_us(&middle), [START_US + 20_000_000]);
    }

    #[test]
    fn an_imported_log_is_settled_by_its_events_times_less_the_lateness() {
        let event = |seq: u64, time: &str| {
            let event = serde_json::json!({ "eventName": "Decrypt", "eventTime": time, "eventID": seq.to_string() });
            frame(seq, u64::try_from(START_US).unwrap(), Link::ZERO, &event)
        };
        let mut engine = Engine::new(rules());
        for (seq, time) in [(0, "2026-01-04T12:00:00Z"), (1, "2026-01-04T11:00:00Z"), (2, "not a time")] {
            engine.process(&decode_imported(&[event(seq, time)])).unwrap();
            assert_eq!(settled_us(&engine), [START_US - 86_400_000_000 - 30_000_000], "seq {seq}");
        }
    }

    #[test]
    fn what_comes_later_than_it_is_waited_for_is_counted() {
        let event = |seq: u64, time: &str| {
            let event = serde_json::json!({ "eventName": "Decrypt", "eventTime": time, "eventID": seq.to_string() });
            frame(seq, u64::try_from(START_US).unwrap(), Link::ZERO, &event)
        };
        let mut engine = Engine::new(rules());
        let times = ["12:00:00", "11:45:00", "11:44:59", "12:00:01", "11:00:00"];
        for (seq, time) in (0..).zip(times) {
            engine.process(&decode_imported(&[event(seq, &format!("2026-01-04T{time}Z"))])).unwrap();
        }
        let [(_, late)] = engine.take_late().try_into().unwrap();
        assert_eq!((late.events, late.first_seq, late.last_seq, late.behind_us), (2, 2, 4, 3_601_000_000));
        assert!(engine.take_late().is_empty());
    }

    #[test]
    fn state_without_settled_times_is_read_and_nothing_of_it_is_settled() {
        let rules = rules();
        let calls = frames(&[(0, 0, 1, true), (1, 0, 2, true), (2, 0, 3, true)]);
        let mut engine = Engine::new(rules.clone());
        engine.process(&decode(&calls[..2])).unwrap();
        // What version 1 wrote of it: no flag, no times.
        let (mut old, log) = (Writer::default(), engine.logs.values().next().unwrap());
        old.u8(1);
        old.length(1);
        old.text(&calls[0].leaf.log.to_string());
        old.i64(log.watermark_us);
        old.length(1);
        old.u64(0);
        old.u64(2);
        old.length(rules.rules.len());
        for (rule, state) in rules.rules.iter().zip(&log.states) {
            let mut inner = Writer::default();
            write_state(state, &mut inner);
            old.text(rule.hash());
            old.bytes(&inner.0);
        }
        let mut back = Engine::restore(rules, &old.0).unwrap();
        assert_eq!((back.positions().next().unwrap().1, settled_us(&back)[0]), (2, i64::MIN));
        assert_eq!(ids(&mut back, &calls, 10), ids(&mut engine, &calls, 10), "windows go on");
        assert_eq!(settled_us(&back), [START_US + 2_000_000]);
    }

    #[test]
    fn damaged_state_is_refused() {
        let rules = rules();
        let mut engine = Engine::new(rules.clone());
        ids(&mut engine, &frames(&[(0, 0, 1, true), (1, 0, 2, true)]), 10);
        let snapshot = engine.snapshot();
        for cut in 0..snapshot.len() {
            assert!(Engine::restore(rules.clone(), &snapshot[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(Engine::restore(rules, &[9]).unwrap_err(), StateError::Version(9));
    }

    #[test]
    fn a_changed_rule_starts_anew_and_the_others_go_on() {
        let mut engine = Engine::new(rules());
        let calls = [(0, 0, 1, true), (1, 0, 2, true), (2, 0, 3, true)];
        let (before, after) = (frames(&calls[..2]), frames(&calls));
        assert_eq!(ids(&mut engine, &before, 10).len(), 1, "rule each on the first address");
        engine.swap(rules_with(&DENIED.replace("gte = 4", "gte = 2")));
        assert_eq!(engine.position(&before[0].leaf.log.to_string()), 2);
        let found: Vec<String> = ids(&mut engine, &after, 10).into_iter().map(|(rule, _)| rule).collect();
        assert_eq!(found, ["distinct"], "three addresses over the swap, but one call for the changed rule");
    }

    /// Calls of principal 0 from one address: (seconds, count).
    fn engine_after(rules: Arc<RuleSet>, calls: &[(u64, usize)]) -> (Engine, Vec<Finding>) {
        let calls: Vec<Call> =
            calls.iter().flat_map(|&(second, count)| std::iter::repeat_n((second, 0, 1, true), count)).collect();
        let mut engine = Engine::new(rules);
        let mut found = Vec::new();
        for frame in frames(&calls) {
            found.extend(engine.process(&decode(&[frame])).unwrap());
        }
        (engine, found)
    }

    fn spikes(found: &[Finding]) -> Vec<i64> {
        let second = |finding: &Finding| (finding.first_event_us - START_US) / 1_000_000;
        let mut seconds: Vec<i64> = found.iter().filter(|finding| finding.rule.id() == "spike").map(second).collect();
        seconds.dedup();
        seconds
    }

    #[test]
    fn an_incident_does_not_teach_and_a_row_says_what_is_usual() {
        let steady: Vec<(u64, usize)> = (0..12).map(|bucket| (bucket * 10, 2)).collect();
        let attack: Vec<(u64, usize)> = (12..20).map(|bucket| (bucket * 10, 5)).collect();
        let (_, found) = engine_after(rules(), &[steady, attack].concat());
        // One alert for each period of 90 s; had the first ones taught, 5 would be usual by the second.
        assert_eq!(spikes(&found), [120, 180]);
        let row = serde_json::to_string(&found.iter().find(|finding| finding.rule.id() == "spike").unwrap().row);
        let row = row.unwrap();
        assert!(
            row.ends_with(r#""n":4,"last":"2026-01-05T12:02:00Z","threshold":3,"usual_median":2,"usual_high":2}"#),
            "{row}"
        );
    }

    #[test]
    fn what_was_learned_outlives_a_change_of_text_and_numbers_but_not_of_the_question() {
        let calls: Vec<(u64, usize)> = (0..12).map(|bucket| (bucket * 10, 2)).collect();
        let next: Vec<(u64, usize)> = calls.iter().copied().chain([(120, 3)]).collect();
        let fires = |rule: &str, with: &str| {
            let (mut engine, _) = engine_after(rules(), &calls);
            engine.swap(rules_of(&[("spike", SPIKE.replace(rule, with).as_str())]));
            let calls: Vec<Call> =
                next.iter().flat_map(|&(second, count)| std::iter::repeat_n((second, 0, 1, true), count)).collect();
            !ids(&mut engine, &frames(&calls), 1).is_empty()
        };
        assert!(!fires("severity", "title = \"t\"\n-- severity"), "3 is the limit");
        assert!(fires("k = 1.5", "k = 1"), "the limit is 2 over what was learned");
        assert!(!fires("count(*) AS n", "count(mfa) AS n"), "another question starts anew");
    }

    #[test]
    fn rules_that_learn_say_so() {
        let (engine, _) = engine_after(rules(), &[(0, 1), (59, 1)]);
        let until = |rule: &str| {
            let found = engine.learning().into_iter().find(|learning| learning.rule_id == rule);
            found.map(|learning| (learning.until_us - START_US) / 1_000_000)
        };
        assert_eq!((until("fresh"), until("spike"), until("denied")), (Some(60), Some(100), None));
        let (engine, _) = engine_after(rules(), &[(0, 1), (101, 1)]);
        assert_eq!(engine.learning().iter().filter(|learning| learning.rule_id != "scoped").count(), 0);
    }
}
