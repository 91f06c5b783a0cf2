//! Rules over what is in the lake, by the operator that runs live: nothing here evaluates anything itself.
//!
//! Each log is read in seq order from its first record, because windows, profiles and what was seen before depend on the
//! past; the range says which alerts are shown. Of the files only columns are read that some rule's text names. One thread
//! reads and decodes ahead of those that judge, which share the rules. `difference` compares with what was raised live.

use super::{Engine, EngineError, Finding, Rule, RuleSet};
use crate::alert::grouping::Call;
use crate::alert::{GroupValue, Severity, foreign_event};
use crate::lake::file::FileError;
use crate::lake::schema::records_schema;
use crate::lake::snapshot::Snapshot;
use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use keytrail_kms::chain::LogId;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

/// Batches read ahead.
const BATCHES_AHEAD: usize = 4;

/// Rows judged at once: what a rule costs for each batch is then little, and the values in one repeat.
const BATCH_ROWS: usize = 4_096;

/// Bytes after which a batch is judged though it has fewer rows: payloads may be large.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// Most threads that judge.
const THREADS_MAX: usize = 2;

/// Most alerts of one run: some hundred MiB. More is no list that anybody reads.
pub const ALERTS_MAX: usize = 200_000;

/// Most seqs kept of an alert over all its revisions.
const EVIDENCE_MAX: usize = 100;

/// Why a run over the lake ended early.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// A file.
    #[error("read the lake")]
    File(#[from] FileError),
    /// A batch.
    #[error("put columns together")]
    Arrow(#[from] ArrowError),
    /// The engine.
    #[error("evaluate a batch")]
    Engine(#[from] EngineError),
    /// Nothing can be planned.
    #[error("start the planner")]
    Planner(#[from] datafusion::error::DataFusionError),
    /// Too many alerts.
    #[error("more than {ALERTS_MAX} alerts; name a rule or a shorter range")]
    Alerts,
    /// Asked to.
    #[error("stopped")]
    Stopped,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Alerts with an event at or after this, Unix microseconds.
    pub from_us: Option<i64>,
    /// Events before this.
    pub to_us: Option<i64>,
    /// This log alone.
    pub log: Option<LogId>,
}

/// How far it is, for whoever watches; and the way to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Records that will be read.
    pub rows_total: AtomicU64,
    /// Records that were.
    pub rows: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Ends the run with its next batch.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// An alert with all its revisions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Raised {
    /// The rule.
    #[serde(skip)]
    pub rule: Arc<Rule>,
    /// Its id.
    pub rule_id: String,
    /// The highest.
    pub severity: Severity,
    /// As the live alert's.
    pub alert_id: String,
    /// Log id.
    pub log: String,
    /// The group: the entity that it is about.
    #[serde(serialize_with = "entities")]
    pub entities: Vec<GroupValue>,
    /// Start of the dedup bucket, Unix microseconds.
    pub bucket_start_micros: i64,
    /// Earliest event.
    pub first_event_micros: i64,
    /// Latest event.
    pub last_event_micros: i64,
    /// Latest event of the first revision, with which it was told.
    #[serde(skip)]
    pub told_micros: i64,
    /// Events, as the last revision says.
    pub matched: u64,
    /// The last revision's row.
    pub row: Map<String, Value>,
    /// Seqs of all revisions' evidence.
    pub evidence: BTreeSet<u64>,
}

fn entities<S: serde::Serializer>(group: &[GroupValue], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(group.iter().map(|group| (&group.name, &group.value)))
}

impl Raised {
    fn of(finding: Finding) -> Self {
        Self {
            rule_id: finding.rule.id().to_owned(),
            rule: finding.rule,
            severity: finding.severity,
            alert_id: finding.alert_id,
            log: finding.log,
            entities: finding.group,
            bucket_start_micros: finding.bucket_start_us,
            first_event_micros: finding.first_event_us,
            last_event_micros: finding.last_event_us,
            told_micros: finding.last_event_us,
            matched: finding.matched,
            row: finding.row,
            evidence: finding.evidence.into_iter().collect(),
        }
    }

    fn revise(&mut self, finding: Finding) {
        self.severity = self.severity.max(finding.severity);
        self.first_event_micros = self.first_event_micros.min(finding.first_event_us);
        self.last_event_micros = self.last_event_micros.max(finding.last_event_us);
        self.matched = self.matched.max(finding.matched);
        self.row = finding.row;
        let room = EVIDENCE_MAX.saturating_sub(self.evidence.len());
        self.evidence.extend(finding.evidence.into_iter().rev().take(room));
    }

    /// The value of a group column.
    pub fn entity(&self, name: &str) -> Option<&str> {
        self.entities.iter().find(|group| group.name == name)?.value.as_deref()
    }
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Report {
    /// The alerts, in order of their first event.
    pub alerts: Vec<Raised>,
    /// Records read.
    pub rows: u64,
    /// Logs read.
    pub logs: BTreeSet<String>,
    /// Times of the first and the last event.
    pub span_us: Option<(i64, i64)>,
}

impl Report {
    /// Days that were read; at least a thousandth.
    pub fn days(&self) -> f64 {
        let micros = self.span_us.map_or(0, |(first, last)| last - first);
        (micros as f64 / 86_400e6).max(0.001)
    }
}

/// Alerts of a rule set, each found once: a set may hold variants of a rule, whose alerts have the same id.
#[derive(Default)]
pub(super) struct Alerts(BTreeMap<(String, String), Raised>);

impl Alerts {
    pub(super) fn take(&mut self, findings: Vec<Finding>) -> Result<(), BacktestError> {
        for finding in findings {
            let key = (finding.alert_id.clone(), finding.rule.hash().to_owned());
            let full = self.0.len() >= ALERTS_MAX;
            match self.0.get_mut(&key) {
                Some(raised) => raised.revise(finding),
                None if full => return Err(BacktestError::Alerts),
                None => drop(self.0.insert(key, Raised::of(finding))),
            }
        }
        Ok(())
    }

    pub(super) fn sorted(self) -> Vec<Raised> {
        let mut alerts: Vec<Raised> = self.0.into_values().collect();
        alerts.sort_by(|a, b| {
            let key = |raised: &Raised| (raised.first_event_micros, raised.rule_id.clone(), raised.alert_id.clone());
            key(a).cmp(&key(b))
        });
        alerts
    }
}

/// Runs the rules over the snapshot's records. Reads files: not for an async thread.
pub fn backtest(
    snapshot: &Snapshot,
    rules: &Arc<RuleSet>,
    range: &Range,
    progress: &Progress,
) -> Result<Report, BacktestError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
    let mut engine = Engine::new(rules.clone()).on_threads(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN));
    let mut alerts = Alerts::default();
    let mut report = Report::default();
    let columns = columns(rules);
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    scan(snapshot, &columns, range, progress, |batch| {
        let widened = widen(batch)?;
        report.rows += batch.num_rows() as u64;
        note_times(&mut report.span_us, batch);
        // As the trail does before it signs; since when it knew an exception only matters to the watch over exceptions.
        let (raised, _) = rules.mute(engine.process(&widened)?, &|_| None);
        alerts.take(raised)
    })?;
    report.logs = engine.positions().map(|(log, _)| log.to_owned()).collect();
    report.alerts = alerts.sorted();
    if let Some(from_us) = range.from_us {
        report.alerts.retain(|alert| alert.last_event_micros >= from_us);
        report.span_us = report.span_us.map(|(first, last)| (first.max(from_us), last.max(from_us)));
    }
    Ok(report)
}

/// Shows the wanted logs' batches with these columns, in seq order.
pub(super) fn scan(
    snapshot: &Snapshot,
    columns: &[&str],
    range: &Range,
    progress: &Progress,
    mut visit: impl FnMut(&RecordBatch) -> Result<(), BacktestError>,
) -> Result<(), BacktestError> {
    let logs: Vec<LogId> =
        snapshot.logs().keys().copied().filter(|log| range.log.is_none_or(|own| own == *log)).collect();
    let rows = logs.iter().filter_map(|log| snapshot.logs().get(log)).map(|log| log.end.next_seq).sum();
    progress.rows_total.store(rows, Ordering::Relaxed);
    progress.rows.store(0, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        scope.spawn(move || {
            for log in logs {
                for batch in large(snapshot.batches_from(log, columns, 0)) {
                    // The other end goes away when it has failed.
                    if sender.send(batch).is_err() {
                        return;
                    }
                }
            }
        });
        for batch in batches {
            if progress.stopped.load(Ordering::Relaxed) {
                return Err(BacktestError::Stopped);
            }
            let batch = batch?;
            progress.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            let batch = match range.to_us {
                Some(to_us) => before(&batch, to_us)?,
                None => batch,
            };
            visit(&batch)?;
        }
        Ok(())
    })
}

/// The same rows in batches of [`BATCH_ROWS`] and a little more, as far as neighbours have the same columns.
fn large(
    batches: impl Iterator<Item = Result<RecordBatch, FileError>>,
) -> impl Iterator<Item = Result<RecordBatch, BacktestError>> {
    let mut batches = batches.peekable();
    std::iter::from_fn(move || {
        let first = match batches.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error.into())),
        };
        let schema = first.schema();
        let (mut rows, mut bytes) = (first.num_rows(), first.get_array_memory_size());
        let mut parts = vec![first];
        while rows < BATCH_ROWS
            && bytes < BATCH_BYTES_MAX
            && let Some(Ok(next)) =
                batches.next_if(|next| matches!(next, Ok(next) if next.schema_ref().fields() == schema.fields()))
        {
            (rows, bytes) = (rows + next.num_rows(), bytes + next.get_array_memory_size());
            parts.push(next);
        }
        Some(concat_batches(&schema, &parts).map_err(Into::into))
    })
}

/// The rows of events before `to_us`.
fn before(batch: &RecordBatch, to_us: i64) -> Result<RecordBatch, ArrowError> {
    let times =
        batch.column_by_name("event_time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let Some(times) = times else { return Ok(batch.clone()) };
    let mask: BooleanArray = times.values().iter().map(|time_us| Some(*time_us < to_us)).collect();
    filter_record_batch(batch, &mask)
}

fn note_times(span_us: &mut Option<(i64, i64)>, batch: &RecordBatch) {
    let times =
        batch.column_by_name("event_time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let Some(times) = times else { return };
    for &time_us in times.values() {
        let (first, last) = span_us.unwrap_or((time_us, time_us));
        *span_us = Some((first.min(time_us), last.max(time_us)));
    }
}

/// The columns that the engine itself needs and those that the rules name. Whatever a rule reads it has to name, so words
/// of its text are enough, and nothing here has to know the kinds of rules; a word too many costs a column.
pub(super) fn columns(rules: &RuleSet) -> Vec<String> {
    let mut words: BTreeSet<&str> = BTreeSet::from(["event_name"]);
    let mut all = false;
    for rule in rules.rules() {
        words.extend(rule.file.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        words.extend(rule.file.severity.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        // `SELECT *` names nothing and reads everything; it shows in the output.
        all |= rule.lowered.output_schema.index_of("raw").is_ok();
    }
    let schema = records_schema();
    let wanted =
        schema.fields().iter().filter(|field| all || !field.is_nullable() || words.contains(field.name().as_str()));
    wanted.map(|field| field.name().clone()).collect()
}

/// The batch with all columns of `records`, null where they were not read.
pub(super) fn widen(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = records_schema();
    let column = |name: &str| batch.column_by_name(name).cloned();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        column(field.name()).unwrap_or_else(|| new_null_array(field.data_type(), batch.num_rows()))
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

/// Rows of the wanted seqs: eventID, principal, key and what grouping asks of each, for the score and its incidents.
pub(super) fn details(
    snapshot: &Snapshot,
    range: &Range,
    progress: &Progress,
    wanted: &BTreeSet<(String, u64)>,
) -> Result<BTreeMap<(String, u64), Detail>, BacktestError> {
    let columns = ["log", "seq", "event_time", "event_id", "principal_arn", "key_arn", "raw"];
    let mut found = BTreeMap::new();
    scan(snapshot, &columns, range, progress, |batch| {
        let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()).cloned();
        let seqs =
            batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<arrow::datatypes::Int64Type>());
        let (Some(logs), Some(seqs)) = (text("log"), seqs) else { return Ok(()) };
        let texts = [text("event_id"), text("principal_arn"), text("key_arn")];
        let raws = batch.column_by_name("raw").and_then(|column| column.as_binary_opt::<i32>());
        for row in 0..batch.num_rows() {
            let key = (logs.value(row).to_owned(), u64::try_from(seqs.value(row)).unwrap_or(0));
            if wanted.contains(&key) {
                let [event_id, principal, key_arn] = texts.each_ref().map(|column| {
                    column.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row).to_owned())
                });
                let raw = raws.filter(|raws| raws.is_valid(row)).map(|raws| raws.value(row));
                let call = match raw.and_then(foreign_event) {
                    Some(event) => Call::of(&event, key_arn.as_deref()),
                    None => Call { principal: principal.clone(), key_arn: key_arn.clone(), ..Call::default() },
                };
                found.insert(key, Detail { event_id, principal, key_arn, call });
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// What [`details`] gives of a record.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub(super) event_id: Option<String>,
    pub(super) principal: Option<String>,
    pub(super) key_arn: Option<String>,
    /// For grouping.
    pub(super) call: Call,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    fn batch(column: &str, values: std::ops::Range<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(values))]).unwrap()
    }

    #[test]
    fn small_batches_become_large_ones_of_the_same_columns_and_errors_come_in_their_place() {
        let given = (0..6).map(|n| Ok(batch("a", n * 1_024..(n + 1) * 1_024)));
        let given = given.chain([Ok(batch("b", 0..2)), Err(FileError::Stopped), Ok(batch("b", 2..3))]);
        let made: Vec<Result<RecordBatch, BacktestError>> = large(given).collect();
        let rows: Vec<Option<usize>> = made.iter().map(|made| made.as_ref().ok().map(RecordBatch::num_rows)).collect();
        assert_eq!(rows, [Some(4_096), Some(2_048), Some(2), None, Some(1)]);
        let values = made[..2].iter().flat_map(|made| {
            made.as_ref().unwrap().column(0).as_primitive::<Int64Type>().values().iter().copied().collect::<Vec<_>>()
        });
        assert!(values.eq(0..6_144));
    }
}
