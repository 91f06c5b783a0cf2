//! Kinds event and meta: every matching row belongs to an alert.

use super::alerts::{Buckets, bucket_start, worth_revising};
use super::{Matches, RuleFailure, Told, evaluate_output, group_of, severities};
use crate::alert::EVIDENCE_MAX;
use crate::rule::load::Rule;
use crate::rule::row;
use std::collections::BTreeMap;

/// Adds the matching rows to their buckets; returns what is worth telling, in order of bucket and group.
pub(crate) fn process(rule: &Rule, buckets: &mut Buckets, matches: &Matches) -> Result<Vec<Told>, RuleFailure> {
    let output = evaluate_output(&rule.lowered, &matches.batch)?;
    let severities = severities(&rule.lowered, &output)?;
    let columns = rule.lowered.group.iter().map(|&index| row::text_column(output.column(index)));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let period_us = super::micros(rule.header().dedup_period);
    // For each bucket of this batch, the newest row of those with the highest severity.
    let mut rows: BTreeMap<(i64, Box<[u8]>), usize> = BTreeMap::new();
    for (index, &time_us) in matches.times_us.iter().enumerate() {
        let group = group_of(&columns, index);
        let start = bucket_start(time_us, period_us);
        let bucket = buckets.entry((group.clone(), start), time_us);
        bucket.value += 1;
        bucket.first_us = bucket.first_us.min(time_us);
        bucket.last_us = bucket.last_us.max(time_us);
        bucket.severity = bucket.severity.max(severities[index]);
        if let Some(&seq) = matches.seqs.get(index) {
            keep_seq(&mut bucket.seqs, seq);
        }
        let shown = rows.entry((start, group)).or_insert(index);
        if severities[index] >= severities[*shown] {
            *shown = index;
        }
    }
    let mut told = Vec::new();
    for ((start, group), index) in rows {
        let Some(bucket) = buckets.bucket_mut(&(group.clone(), start)) else { continue };
        let now = (bucket.severity, bucket.value);
        if bucket.told.is_some_and(|before| !worth_revising(before, now, true)) {
            continue;
        }
        bucket.told = Some(now);
        told.push(Told {
            group,
            bucket_start_us: start,
            first_event_us: bucket.first_us,
            last_event_us: bucket.last_us,
            matched: bucket.value,
            severity: bucket.severity,
            row: row::row(&output, index),
            evidence: bucket.seqs.clone(),
        });
    }
    Ok(told)
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
