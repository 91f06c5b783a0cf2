//! What the kinds over several events share: which entity a row is a step of, what its alert would show, and the buckets
//! that tell it.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::event::keep_seq;
use super::{
    Matches, RuleFailure, Shared, Told, encode_group, evaluate_output, group_of, severities, truths, write_group,
};
use crate::alert::Severity;
use crate::rule::load::Rule;
use crate::rule::row;
use crate::rule::state::{Reader, StateError, Writer};
use crate::rule::steps::{EACH_MAX, Steps};
use arrow::array::{Array as _, AsArray as _, StringArray};
use datafusion::physical_expr::PhysicalExpr;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

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

/// The columns by which a step names its entity, and which of them is a list.
type By<'a> = (&'a [Arc<dyn PhysicalExpr>], Option<usize>);

/// Which rows of a batch are steps of what.
#[derive(Debug)]
pub(super) struct Touches(Vec<Touching>);

/// Steps that name their entity by the same columns.
#[derive(Debug)]
struct Touching {
    by: Vec<StringArray>,
    /// Which of `by` is a list: the row is a step of each of its entries.
    each: Option<usize>,
    /// The steps that each row is, as bits.
    bits: Vec<u32>,
}

/// The entities that one row touches.
pub(super) enum Touched {
    /// One, whose key was written to the buffer.
    One(u32),
    Several(Vec<(GroupBytes, u32)>),
}

impl Touches {
    /// Steps of which no event can be in the batch by their names are not evaluated.
    pub(super) fn of(steps: &Steps, matches: &Matches, shared: &Shared<'_>) -> Result<Self, RuleFailure> {
        let mut found: Vec<(By<'_>, Vec<u32>)> = Vec::new();
        let bits = (0..31_u32).map(|bit| 1 << bit).zip(&steps.steps);
        for (bit, step) in bits.chain(steps.absent.iter().map(|step| (ABSENT, step))) {
            if !shared.may_hold(step.event_names.as_ref()) {
                continue;
            }
            let mask = matches.evaluate(&step.predicate)?;
            let mask = truths(mask.as_boolean());
            if mask.true_count() == 0 {
                continue;
            }
            let by = (step.by.as_slice(), step.each);
            let known = found.iter().position(|(other, _)| *other == by);
            let at = known.unwrap_or(found.len());
            if known.is_none() {
                found.push((by, vec![0; matches.len()]));
            }
            mask.values().set_indices().for_each(|row| found[at].1[row] |= bit);
        }
        let touching = found.into_iter().map(|((by, each), mut bits)| {
            let by = by.iter().map(|expr| Ok(row::text_column(&matches.evaluate(expr)?)?));
            let by = by.collect::<Result<Vec<_>, RuleFailure>>()?;
            // Who is not named is nobody.
            for nulls in by.iter().filter_map(|column| column.nulls()) {
                bits.iter_mut().zip(nulls).filter(|(_, valid)| !valid).for_each(|(bits, _)| *bits = 0);
            }
            if let Some(list) = each.and_then(|each| by.get(each)) {
                let named = |row: usize| !entries(list, row).is_empty();
                (0..).zip(&mut bits).filter(|(row, bits)| **bits != 0 && !named(*row)).for_each(|(_, bits)| *bits = 0);
            }
            Ok(Touching { by, each, bits })
        });
        Ok(Self(touching.collect::<Result<_, RuleFailure>>()?))
    }

    /// All steps that a row is, whosever they are.
    pub(super) fn bits(&self, row: usize) -> u32 {
        self.0.iter().fold(0, |all, touching| all | touching.bits[row])
    }

    /// The entities that a row with any steps touches; `key` is a buffer.
    pub(super) fn touched(&self, row: usize, key: &mut Vec<u8>) -> Touched {
        let mut touching = self.0.iter().filter(|touching| touching.bits[row] != 0);
        match (touching.next(), touching.next()) {
            (Some(one), None) if one.each.is_none() => {
                key.clear();
                write_group(&one.by, row, key);
                Touched::One(one.bits[row])
            }
            _ => Touched::Several(self.all(row)),
        }
    }

    /// Entities with the steps that a row is of each, by their first step.
    fn all(&self, row: usize) -> Vec<(GroupBytes, u32)> {
        let mut all: Vec<(GroupBytes, u32)> = Vec::new();
        for touching in self.0.iter().filter(|touching| touching.bits[row] != 0) {
            for key in touching.keys(row) {
                match all.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, bits)) => *bits |= touching.bits[row],
                    None => all.push((key, touching.bits[row])),
                }
            }
        }
        all.sort_by_key(|(_, bits)| bits.trailing_zeros());
        all
    }
}

impl Touching {
    /// The entities that a row is a step of: one, or one for each entry of a list.
    fn keys(&self, row: usize) -> Vec<GroupBytes> {
        let list = self.each.and_then(|each| Some((each, self.by.get(each)?)));
        let Some((each, list)) = list else { return vec![group_of(&self.by, row)] };
        let key = |entry: &String| {
            let value = |(at, column)| if at == each { Some(entry.as_str()) } else { row::text_at(column, row) };
            encode_group(self.by.iter().enumerate().map(value))
        };
        entries(list, row).iter().map(key).collect()
    }
}

/// Whom a list in JSON names. What is no list names nobody.
fn entries(list: &StringArray, row: usize) -> Vec<String> {
    let mut entries: Vec<String> = serde_json::from_str(list.value(row)).unwrap_or_default();
    entries.truncate(EACH_MAX);
    entries
}

/// These rows, to be kept; `leading` has the bits of those steps whose rows may be shown.
pub(super) fn occurrences(
    rule: &Rule,
    touches: &Touches,
    matches: &Matches,
    rows: &[u32],
    leading: u32,
) -> Result<Vec<(Record, Occurrence)>, RuleFailure> {
    let leads = |row: u32| touches.bits(row as usize) & leading != 0;
    let leaders: Vec<u32> = rows.iter().copied().filter(|&row| leads(row)).collect();
    let mut shown = shown(rule, matches, &leaders)?.into_iter();
    let occurrence = |&row: &u32| {
        let shown = if leads(row) { shown.next() } else { None };
        (record(matches, row), Occurrence { touches: touches.all(row as usize), shown })
    };
    Ok(rows.iter().map(occurrence).collect())
}

/// Time and position of a row.
pub(super) fn record(matches: &Matches, row: u32) -> Record {
    let row = row as usize;
    (matches.times_us[row], matches.seqs.get(row).copied().unwrap_or(0))
}

/// The rows that are a step of anything, in order of time and seq.
pub(super) fn steps_in_order(touches: &Touches, matches: &Matches) -> Vec<u32> {
    let rows = 0..u32::try_from(matches.times_us.len()).unwrap_or(u32::MAX);
    let mut rows: Vec<u32> = rows.filter(|&row| touches.bits(row as usize) != 0).collect();
    rows.sort_by_key(|&row| record(matches, row));
    rows
}

/// What alerts of these rows would show.
pub(super) fn shown(rule: &Rule, matches: &Matches, rows: &[u32]) -> Result<Vec<Shown>, RuleFailure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
    let output = evaluate_output(&rule.lowered, &matches.chosen(&rows).batch()?)?;
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
