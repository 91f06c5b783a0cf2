//! The one operator that live, tests and replays share: batches in, findings out.
//!
//! A batch of records is split by log, stripped of positions seen before, and dispatched to each rule by event name;
//! the rule's filter runs over the columns it needs, then `event` or `threshold` keeps the state. State is kept per log:
//! windows never mix logs, so that a silent or lagging log neither stalls nor falsifies another, and every alert's
//! evidence is proved under one checkpoint. Uses no clock: time is the events' own.

pub(crate) mod alerts;
mod event;
pub(crate) mod integrity;
mod threshold;

use super::load::{Rule, RuleSet};
use super::lower::{Lowered, SeverityOf, Source};
use super::row;
use super::state::{Reader, SeqSet, StateError, Writer};
use crate::alert::{GroupValue, Severity, alert_id};
use crate::lake::schema::{events_schema, records_schema};
pub use alerts::worth_revising;
use alerts::{Buckets, GroupBytes};
use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter, filter_record_batch, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use integrity::Integrity;
use keytrail_kms::chain::leaf::Kind;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Highest threshold: half of what a group keeps.
pub(crate) const THRESHOLD_MAX: u64 = 65_536;

/// Version of the stored state.
const STATE_VERSION: u8 = 1;

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

/// The rows of a batch that passed a rule's filter, with the columns that it reads.
pub(crate) struct Matches {
    pub(crate) batch: RecordBatch,
    pub(crate) times_us: Vec<i64>,
    /// Empty for findings about the log itself.
    pub(crate) seqs: Vec<u64>,
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
    /// Why a rule failed, for the rules' own tests.
    failure: Option<String>,
}

#[derive(Debug)]
struct LogState {
    seen: SeqSet,
    /// Latest event time.
    watermark_us: i64,
    /// One per rule, in the set's order.
    states: Vec<RuleState>,
}

#[derive(Debug)]
enum RuleState {
    Rows(Buckets),
    Groups(threshold::ThresholdState),
}

impl RuleState {
    fn new(rule: &Rule) -> Self {
        match rule.lowered.groups {
            Some(_) => Self::Groups(threshold::ThresholdState::default()),
            None => Self::Rows(Buckets::default()),
        }
    }
}

impl LogState {
    fn new(rules: &RuleSet) -> Self {
        let states = rules.rules.iter().map(|rule| RuleState::new(rule)).collect();
        Self { seen: SeqSet::default(), watermark_us: i64::MIN, states }
    }
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self { rules, logs: BTreeMap::new(), failure: None }
    }

    /// The rules it runs.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Changes to another set. Rules whose hash stays keep their state, others begin with the next event.
    pub fn swap(&mut self, rules: Arc<RuleSet>) {
        let before = std::mem::replace(&mut self.rules, rules);
        for log in self.logs.values_mut() {
            let states = std::mem::take(&mut log.states);
            let mut known: HashMap<&str, RuleState> = before.rules.iter().map(|rule| rule.hash()).zip(states).collect();
            let state = |rule: &Arc<Rule>| known.remove(rule.hash()).unwrap_or_else(|| RuleState::new(rule));
            log.states = self.rules.rules.iter().map(state).collect();
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
        for row in 0..batch.num_rows() {
            let log = logs.value(row);
            if !self.logs.contains_key(log) {
                self.logs.insert(log.to_owned(), LogState::new(&self.rules));
            }
            let Some(state) = self.logs.get_mut(log) else { continue };
            let new = u64::try_from(seqs[row]).is_ok_and(|seq| state.seen.insert(seq));
            if new && kinds[row] == Kind::Event as i32 {
                rows_of.entry(log).or_insert_with(|| vec![false; batch.num_rows()])[row] = true;
            }
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
        let state = self.logs.entry(found.log.clone()).or_insert_with(|| LogState::new(&rules));
        let batch = found.batch();
        for (rule, state) in rules.rules.iter().zip(&mut state.states) {
            let RuleState::Rows(buckets) = state else { continue };
            if Source::of(rule.kind()) != Source::Integrity {
                continue;
            }
            match run_rows(rule, buckets, &batch, vec![found.time_us], Vec::new()) {
                Ok(told) => findings.extend(told.into_iter().map(|told| finding(rule, &found.log, told))),
                // It cannot be told by the rules that tell of failures.
                Err(error) => {
                    tracing::error!(rule_id = rule.id(), %error, "meta rule failed");
                    self.failure = Some(error.to_string());
                }
            }
            buckets.prune(
                micros(rule.header().dedup_period),
                found.time_us.saturating_sub(micros(rule.header().lateness())),
            );
        }
        findings
    }

    fn process_log(&mut self, log: &str, events: &RecordBatch) -> Vec<Finding> {
        let rules = self.rules.clone();
        let Some(state) = self.logs.get_mut(log) else { return Vec::new() };
        let shared = Shared::of(events);
        state.watermark_us = shared.times_us.iter().copied().fold(state.watermark_us, i64::max);
        let (mut findings, mut failures) = (Vec::new(), Vec::new());
        for (rule, rule_state) in rules.rules.iter().zip(&mut state.states) {
            if Source::of(rule.kind()) != Source::Events {
                continue;
            }
            match run_events(rule, rule_state, &shared) {
                Ok(told) => findings.extend(told.into_iter().map(|told| finding(rule, log, told))),
                Err(error) => failures.push((rule.id(), error)),
            }
            advance(rule, rule_state, state.watermark_us);
        }
        let time_us = state.watermark_us;
        for (rule_id, error) in failures {
            tracing::error!(rule_id, %error, "rule failed");
            self.failure = Some(error.to_string());
            findings.extend(self.integrity(&Integrity {
                log: log.to_owned(),
                time_us,
                finding: "rule-failed".into(),
                first_seq: shared.seqs.iter().copied().min(),
                last_seq: shared.seqs.iter().copied().max(),
                detail: format!("rule {rule_id}: {error}"),
            }));
        }
        findings
    }

    /// Why the last rule that failed did, if one has since this was asked.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// The state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(STATE_VERSION);
        to.length(self.logs.len());
        for (log, state) in &self.logs {
            to.text(log);
            to.i64(state.watermark_us);
            state.seen.write(&mut to);
            to.length(state.states.len());
            for (rule, state) in self.rules.rules.iter().zip(&state.states) {
                let mut inner = Writer::default();
                match state {
                    RuleState::Rows(buckets) => buckets.write(&mut inner),
                    RuleState::Groups(groups) => groups.write(&mut inner),
                }
                to.text(rule.hash());
                to.bytes(&inner.0);
            }
        }
        to.0
    }

    /// An engine that goes on where the snapshot was taken. State of rules that are not in the set any more is dropped.
    pub fn restore(rules: Arc<RuleSet>, bytes: &[u8]) -> Result<Self, StateError> {
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if version != STATE_VERSION {
            return Err(StateError::Version(version));
        }
        let mut logs = BTreeMap::new();
        for _ in 0..from.length()? {
            let log = from.text()?;
            let mut state = LogState::new(&rules);
            state.watermark_us = from.i64()?;
            state.seen = SeqSet::read(&mut from)?;
            for _ in 0..from.length()? {
                let hash = from.text()?;
                let mut inner = Reader::new(from.bytes()?);
                let known = rules.rules.iter().zip(&mut state.states).find(|(rule, _)| rule.hash() == hash);
                let Some((rule, slot)) = known else { continue };
                *slot = match &rule.lowered.groups {
                    Some(groups) => RuleState::Groups(threshold::ThresholdState::read(rule, groups, &mut inner)?),
                    None => RuleState::Rows(Buckets::read(&mut inner)?),
                };
                inner.end()?;
            }
            logs.insert(log, state);
        }
        from.end()?;
        Ok(Self { rules, logs, failure: None })
    }
}

/// What all rules read of one batch of events.
struct Shared<'a> {
    batch: &'a RecordBatch,
    times_us: Vec<i64>,
    seqs: Vec<u64>,
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
        Self {
            batch,
            times_us: times.values().to_vec(),
            seqs: seqs.values().iter().map(|&seq| u64::try_from(seq).unwrap_or(0)).collect(),
            by_name,
        }
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

fn run_events(rule: &Rule, state: &mut RuleState, shared: &Shared<'_>) -> Result<Vec<Told>, RuleFailure> {
    let lowered = &rule.lowered;
    let candidates = shared.candidates(lowered);
    if candidates.as_ref().is_some_and(|rows| rows.is_empty()) {
        return Ok(Vec::new());
    }
    let mut batch = shared.batch.project(&lowered.columns)?;
    if let Some(rows) = &candidates {
        batch = take_record_batch(&batch, rows)?;
    }
    let mask = match &lowered.filter {
        Some(filter) => Some(array_of(filter, &batch)?),
        None => None,
    };
    let mask = mask.as_ref().map(|mask| mask.as_boolean());
    let kept = |row: usize| mask.is_none_or(|mask| mask.is_valid(row) && mask.value(row));
    let rows: Vec<usize> = (0..batch.num_rows()).filter(|&row| kept(row)).collect();
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let source = |row: usize| candidates.as_ref().map_or(row, |candidates| candidates.value(row) as usize);
    let times_us = rows.iter().map(|&row| shared.times_us[source(row)]).collect();
    let seqs = rows.iter().map(|&row| shared.seqs[source(row)]).collect();
    if let Some(mask) = mask
        && rows.len() < batch.num_rows()
    {
        batch = filter_record_batch(&batch, mask)?;
    }
    let matches = Matches { batch, times_us, seqs };
    match (state, &lowered.groups) {
        (RuleState::Groups(state), Some(groups)) => threshold::process(rule, groups, state, &matches),
        (RuleState::Rows(buckets), None) => event::process(rule, buckets, &matches),
        _ => Err(RuleFailure::internal("state is of another kind")),
    }
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
    event::process(rule, buckets, &Matches { batch, times_us, seqs })
}

fn advance(rule: &Rule, state: &mut RuleState, watermark_us: i64) {
    match (state, &rule.lowered.groups) {
        (RuleState::Groups(state), Some(groups)) => state.advance(rule, groups, watermark_us),
        (RuleState::Rows(buckets), _) if buckets.len() > 0 => {
            let header = rule.header();
            buckets.prune(micros(header.dedup_period), watermark_us.saturating_sub(micros(header.lateness())));
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

/// The output row of every row of `batch`.
pub(crate) fn evaluate_output(lowered: &Lowered, batch: &RecordBatch) -> Result<RecordBatch, RuleFailure> {
    let columns = lowered.output.iter().map(|expr| array_of(expr, batch)).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(lowered.output_schema.clone(), columns)?)
}

/// The severity of every output row.
pub(crate) fn severities(lowered: &Lowered, output: &RecordBatch) -> Result<Vec<Severity>, RuleFailure> {
    match &lowered.severity {
        SeverityOf::Fixed(severity) => Ok(vec![*severity; output.num_rows()]),
        SeverityOf::Case(expr) => {
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
    let mut bytes = Vec::with_capacity(96);
    for column in columns {
        match row::text_at(column, index) {
            Some(text) => {
                bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            None => bytes.extend_from_slice(&u32::MAX.to_be_bytes()),
        }
    }
    bytes.into_boxed_slice()
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
    events: Vec<usize>,
}

static COLUMNS: LazyLock<RecordColumns> = LazyLock::new(|| {
    let schema = records_schema();
    let index = |name: &str| schema.index_of(name).expect("the records schema has this column");
    RecordColumns {
        log: index("log"),
        seq: index("seq"),
        kind: index("kind"),
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
    use crate::lake::decode::decode;
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

    fn rules() -> Arc<RuleSet> {
        rules_with(DENIED)
    }

    fn rules_with(denied: &str) -> Arc<RuleSet> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kms")).unwrap();
        fs::create_dir_all(dir.path().join("fixtures")).unwrap();
        fs::write(dir.path().join("fixtures/x.json"), "{}").unwrap();
        for (id, text) in [("denied", denied), ("distinct", DISTINCT), ("each", EACH)] {
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
        ids
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
}
