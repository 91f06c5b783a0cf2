//! What the kinds over several events share: which entity a row is a step of, what its alert would show, and the buckets
//! that tell it.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::event::keep_seq;
use super::{Matches, RuleFailure, Told, array_of, encode_group, evaluate_output, group_of, severities};
use crate::alert::Severity;
use crate::rule::load::Rule;
use crate::rule::row;
use crate::rule::state::{Reader, StateError, Writer};
use crate::rule::steps::{EACH_MAX, LoweredStep, Steps};
use arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Bit of the predicates that must not happen; steps have the bits from 0.
pub(super) const ABSENT: u32 = 1 << 31;

/// Position and time of a record.
pub(super) type Record = (i64, u64);

/// One event that is a step of something.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Occurrence {
    /// Entities with the steps that it is of each, as bits.
    pub(super) touches: Vec<(GroupBytes, u32)>,
    /// What an alert would show, of events that can lead to one.
    pub(super) shown: Option<Shown>,
}

/// The output row of an event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    group: GroupBytes,
    severity: Severity,
    /// As JSON.
    row: Box<str>,
}

/// The events of a batch that are a step; `leading` has the bits of those steps whose rows may be shown.
pub(super) fn occurrences(
    rule: &Rule,
    steps: &Steps,
    matches: &Matches,
    leading: u32,
) -> Result<Vec<(Record, Occurrence)>, RuleFailure> {
    let touches = touches(steps, &matches.batch)?;
    let leads = |touches: &[(GroupBytes, u32)]| touches.iter().any(|(_, bits)| bits & leading != 0);
    let rows: Vec<u32> = (0..).zip(&touches).filter(|(_, touches)| leads(touches)).map(|(row, _)| row).collect();
    let mut shown = shown(rule, &matches.batch, &rows)?.into_iter();
    let mut found = Vec::new();
    for (row, touches) in touches.into_iter().enumerate().filter(|(_, touches)| !touches.is_empty()) {
        let shown = if leads(&touches) { shown.next() } else { None };
        let record = (matches.times_us[row], matches.seqs.get(row).copied().unwrap_or(0));
        found.push((record, Occurrence { touches, shown }));
    }
    Ok(found)
}

fn touches(steps: &Steps, batch: &RecordBatch) -> Result<Vec<Vec<(GroupBytes, u32)>>, RuleFailure> {
    let mut rows: Vec<Vec<(GroupBytes, u32)>> = vec![Vec::new(); batch.num_rows()];
    let bits = (0..31_u32).map(|bit| 1 << bit).zip(&steps.steps).chain(steps.absent.iter().map(|step| (ABSENT, step)));
    for (bit, LoweredStep { predicate, by, each }) in bits {
        let mask = array_of(predicate, batch)?;
        let mask = mask.as_boolean();
        if mask.true_count() == 0 {
            continue;
        }
        let by = by.iter().map(|expr| Ok(row::text_column(&array_of(expr, batch)?)?));
        let by = by.collect::<Result<Vec<_>, RuleFailure>>()?;
        for (index, touches) in rows.iter_mut().enumerate() {
            if mask.is_null(index) || !mask.value(index) || by.iter().any(|column| column.is_null(index)) {
                continue;
            }
            for key in keys(&by, *each, index) {
                match touches.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, bits)) => *bits |= bit,
                    None => touches.push((key, bit)),
                }
            }
        }
    }
    Ok(rows)
}

/// The entities that a row is a step of: one, or one for each entry of a list.
fn keys(by: &[StringArray], each: Option<usize>, index: usize) -> Vec<GroupBytes> {
    let Some(each) = each else { return vec![group_of(by, index)] };
    // What is no list names nobody.
    let entries: Vec<String> =
        by.get(each).and_then(|column| serde_json::from_str(column.value(index)).ok()).unwrap_or_default();
    let key = |entry: &String| {
        let value = |(at, column)| if at == each { Some(entry.as_str()) } else { row::text_at(column, index) };
        encode_group(by.iter().enumerate().map(value))
    };
    entries.iter().take(EACH_MAX).map(key).collect()
}

fn shown(rule: &Rule, batch: &RecordBatch, rows: &[u32]) -> Result<Vec<Shown>, RuleFailure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let output = evaluate_output(&rule.lowered, &take_record_batch(batch, &UInt32Array::from(rows.to_vec()))?)?;
    let severities = severities(&rule.lowered, &output)?;
    let columns = rule.lowered.group.iter().map(|&index| row::text_column(output.column(index)));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let shown = severities.into_iter().enumerate().map(|(index, severity)| Shown {
        group: group_of(&columns, index),
        severity,
        row: Value::Object(row::row(&output, index)).to_string().into(),
    });
    Ok(shown.collect())
}

impl Occurrence {
    pub(super) fn write(&self, to: &mut Writer) {
        to.length(self.touches.len());
        for (key, bits) in &self.touches {
            to.bytes(key);
            to.u64(u64::from(*bits));
        }
        to.u8(u8::from(self.shown.is_some()));
        self.shown.iter().for_each(|shown| shown.write(to));
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, StateError> {
        let mut touches = Vec::new();
        for _ in 0..from.length()? {
            let key = GroupBytes::from(from.bytes()?);
            touches.push((key, u32::try_from(from.u64()?).map_err(|_| StateError::Damaged)?));
        }
        let shown = if from.u8()? == 0 { None } else { Some(Shown::read(from)?) };
        Ok(Self { touches, shown })
    }
}

impl Shown {
    pub(super) fn write(&self, to: &mut Writer) {
        to.bytes(&self.group);
        to.u8(self.severity as u8);
        to.text(&self.row);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, StateError> {
        let group = GroupBytes::from(from.bytes()?);
        let severity = super::alerts::severity(from.u8()?).ok_or(StateError::Damaged)?;
        Ok(Self { group, severity, row: from.text()?.into() })
    }
}

/// What happened in one turn, by bucket and group: the row with the highest severity, of those the newest.
#[derive(Default)]
pub(super) struct Happened(BTreeMap<(i64, GroupBytes), (Severity, Map<String, Value>)>);

impl Happened {
    /// Adds something that happened at `time_us` with these records to its bucket. `extra` becomes a member of the row.
    pub(super) fn note(
        &mut self,
        rule: &Rule,
        buckets: &mut Buckets,
        (time_us, shown): (i64, &Shown),
        records: &[Record],
        extra: (&str, Value),
    ) {
        let start = bucket_start(time_us, super::micros(rule.header().dedup_period));
        let bucket = buckets.entry((shown.group.clone(), start), time_us);
        for &(time_us, seq) in records {
            if bucket.seqs.binary_search(&seq).is_err() {
                bucket.value += 1;
                keep_seq(&mut bucket.seqs, seq);
            }
            bucket.first_us = bucket.first_us.min(time_us);
        }
        bucket.last_us = records.iter().map(|record| record.0).fold(bucket.last_us, i64::max);
        bucket.severity = bucket.severity.max(shown.severity);
        let now = self.0.entry((start, shown.group.clone())).or_insert((shown.severity, Map::new()));
        if shown.severity >= now.0 {
            let mut row: Map<String, Value> = serde_json::from_str(&shown.row).unwrap_or_default();
            row.insert(extra.0.to_owned(), extra.1);
            *now = (shown.severity, row);
        }
    }

    /// What of it is worth telling, in order of bucket and group.
    pub(super) fn tell(self, buckets: &mut Buckets) -> Vec<Told> {
        self.0.into_iter().filter_map(|((start, group), (_, row))| buckets.tell((group, start), true, || row)).collect()
    }
}
