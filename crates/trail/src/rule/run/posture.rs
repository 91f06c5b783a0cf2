//! Kind posture: which rows of a run are worth telling.
//!
//! A finding stands until somebody mends it, and the rule looks every hour: so there is one alert per group and dedup period,
//! and a revision only when it became worse. A run's time is the time of the alert; there is no evidence, but the row says up
//! to which record of each log the tables were folded.

use super::alerts::{Buckets, bucket_start};
use super::{
    Engine, Finding, LogState, RuleFailure, RuleRun, RuleState, Told, evaluate_output, finding, group_of, micros,
    severities,
};
use crate::rule::load::Rule;
use crate::rule::row;
use arrow::array::RecordBatch;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Column of the row that says how far the logs were read; added to what the rule selects.
const AS_OF: &str = "as_of";

/// One run of a rule.
pub(crate) struct Run {
    /// The rule, which may be replaced by now.
    pub(crate) rule: Arc<Rule>,
    /// Log that the alerts are filed under.
    pub(crate) log: String,
    /// When it looked, Unix microseconds.
    pub(crate) now_us: i64,
    /// Log id to the number of records that the tables were folded from.
    pub(crate) as_of: BTreeMap<String, u64>,
    /// How long it took, microseconds.
    pub(crate) took_us: u64,
}

impl Engine {
    /// Takes what a rule of kind posture found.
    pub(crate) fn posture(&mut self, run: &Run, rows: &RecordBatch) -> Result<Vec<Finding>, RuleFailure> {
        let rules = self.rules.clone();
        let Some(at) = rules.rules.iter().position(|rule| rule.hash() == run.rule.hash()) else {
            return Ok(Vec::new());
        };
        let log = self.logs.entry(run.log.clone()).or_insert_with(|| LogState::new(&rules));
        let Some(RuleState::Rows(buckets)) = log.states.get_mut(at) else {
            return Err(RuleFailure::internal("state is of another kind"));
        };
        let told = process(run, buckets, rows)?;
        let header = run.rule.header();
        buckets.prune(micros(header.dedup_period), run.now_us.saturating_sub(micros(header.lateness(false))));
        Ok(told.into_iter().map(|told| finding(&run.rule, &run.log, told)).collect())
    }

    /// Notes what a run did: how many findings it told, or why there are none.
    pub(crate) fn note_posture(&mut self, run: &Run, outcome: Result<usize, &str>) {
        let rules = self.rules.clone();
        let log = self.logs.entry(run.log.clone()).or_insert_with(|| LogState::new(&rules));
        let fresh = || RuleRun::new(&run.rule, &run.log);
        let noted = log.runs.entry(run.rule.hash().to_owned()).or_insert_with(fresh);
        noted.given(0, None, run.took_us);
        match outcome {
            Ok(findings) => noted.findings += findings as u64,
            Err(reason) => noted.failed(format!("rule-failed: {reason}")),
        }
    }
}

fn process(run: &Run, buckets: &mut Buckets, rows: &RecordBatch) -> Result<Vec<Told>, RuleFailure> {
    let lowered = &run.rule.lowered;
    let output = evaluate_output(lowered, rows)?;
    let severities = severities(lowered, &output)?;
    let columns = lowered.group.iter().map(|&index| row::text_column(output.column(index)));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    // Of each group, how many rows, and the first of those with the highest severity.
    let mut groups: BTreeMap<Box<[u8]>, (u64, usize)> = BTreeMap::new();
    for index in 0..output.num_rows() {
        let (count, worst) = groups.entry(group_of(&columns, index)).or_insert((0, index));
        *count += 1;
        if severities[index] > severities[*worst] {
            *worst = index;
        }
    }
    let start = bucket_start(run.now_us, micros(run.rule.header().dedup_period));
    let mut told = Vec::new();
    for (group, (count, worst)) in groups {
        let bucket = buckets.entry((group.clone(), start), run.now_us);
        (bucket.last_us, bucket.value) = (run.now_us, count);
        bucket.severity = bucket.severity.max(severities[worst]);
        if !bucket.is_news(count, false) {
            continue;
        }
        told.push(Told {
            group,
            bucket_start_us: start,
            first_event_us: bucket.first_us,
            last_event_us: run.now_us,
            matched: count,
            severity: bucket.severity,
            row: with_position(row::row(&output, worst), run),
            evidence: Vec::new(),
        });
    }
    Ok(told)
}

fn with_position(mut row: Map<String, Value>, run: &Run) -> Map<String, Value> {
    let as_of: Map<String, Value> = run.as_of.iter().map(|(log, next)| (log.clone(), (*next).into())).collect();
    row.insert(AS_OF.to_owned(), as_of.into());
    row
}
