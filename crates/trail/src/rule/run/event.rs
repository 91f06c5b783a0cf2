//! Kinds event and meta: every matching row belongs to an alert.

use super::alerts::{Buckets, GroupBytes, bucket_start};
use super::{Matches, RuleFailure, Told, evaluate_output, group_of, severities};
use crate::alert::{EVIDENCE_MAX, Severity};
use crate::rule::load::Rule;
use crate::rule::row;
use arrow::array::{RecordBatch, StringArray};
use std::collections::BTreeMap;

/// Adds the matching rows to their buckets; returns what is worth telling, in order of bucket and group.
pub(crate) fn process(rule: &Rule, buckets: &mut Buckets, matches: &Matches) -> Result<Vec<Told>, RuleFailure> {
    let output = evaluate_output(&rule.lowered, &matches.batch()?)?;
    let severities = severities(&rule.lowered, &output)?;
    let columns = group_columns(rule, &output)?;
    let period_us = super::micros(rule.header().dedup_period);
    let mut touched = Touched::default();
    for (index, &time_us) in matches.times_us.iter().enumerate() {
        let key = (group_of(&columns, index), bucket_start(time_us, period_us));
        let seq = matches.seqs.get(index).copied();
        touched.add(buckets, key, Row { index, time_us, seq, severity: severities[index] });
    }
    Ok(touched.told(buckets, &output, true))
}

/// The output columns that name the entity, as text.
pub(crate) fn group_columns(rule: &Rule, output: &RecordBatch) -> Result<Vec<StringArray>, RuleFailure> {
    let columns = rule.lowered.group.iter().map(|&index| row::text_column(output.column(index)));
    Ok(columns.collect::<Result<Vec<_>, _>>()?)
}

/// A row that belongs to an alert.
pub(crate) struct Row {
    /// In the output.
    pub(crate) index: usize,
    pub(crate) time_us: i64,
    pub(crate) seq: Option<u64>,
    pub(crate) severity: Severity,
}

/// For each bucket that a batch touched, the newest row of those with the highest severity.
#[derive(Default)]
pub(crate) struct Touched(BTreeMap<(i64, GroupBytes), (usize, Severity)>);

impl Touched {
    /// Counts a row in its bucket.
    pub(crate) fn add(&mut self, buckets: &mut Buckets, key: (GroupBytes, i64), row: Row) {
        let (group, start) = key;
        let bucket = buckets.entry((group.clone(), start), row.time_us);
        bucket.value += 1;
        bucket.first_us = bucket.first_us.min(row.time_us);
        bucket.last_us = bucket.last_us.max(row.time_us);
        bucket.severity = bucket.severity.max(row.severity);
        if let Some(seq) = row.seq {
            keep_seq(&mut bucket.seqs, seq);
        }
        let shown = self.0.entry((start, group)).or_insert((row.index, row.severity));
        if row.severity >= shown.1 {
            *shown = (row.index, row.severity);
        }
    }

    /// What of it is worth telling; `each` as in [`Buckets::tell`].
    pub(crate) fn told(self, buckets: &mut Buckets, output: &RecordBatch, each: bool) -> Vec<Told> {
        let tell = |((start, group), (index, _))| buckets.tell((group, start), each, || row::row(output, index));
        self.0.into_iter().filter_map(tell).collect()
    }
}

/// Keeps the first seq and the newest ones, sorted.
pub(super) fn keep_seq(seqs: &mut Vec<u64>, seq: u64) {
    if let Err(at) = seqs.binary_search(&seq) {
        seqs.insert(at, seq);
    }
    if seqs.len() > EVIDENCE_MAX {
        seqs.remove(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_newest_seqs_are_kept() {
        let mut seqs = Vec::new();
        for seq in (5..100).rev() {
            keep_seq(&mut seqs, seq);
        }
        for seq in 5..100 {
            keep_seq(&mut seqs, seq);
        }
        assert_eq!(seqs.len(), EVIDENCE_MAX);
        assert_eq!((seqs[0], seqs[1], seqs[19]), (5, 81, 99));
    }
}
