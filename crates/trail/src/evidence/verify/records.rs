//! Steps 4 and 5, and what of step 6 is about records: one pass over the leaves of a log up to the signed root.

use super::Failure;
use super::bag::hashes;
use super::cloudtrail::{LogFiles, Read};
use super::head::{Comparison, Head};
use crate::evidence::leaves::{Entry, LeavesReader, Status};
use crate::evidence::manifest::LogEntry;
use crate::evidence::sample::Population;
use keytrail_kms::chain::leaf::{leaf_hash, link, payload_digest};
use keytrail_kms::chain::{Kind, Leaf, LeafHash, Link, LogId, RangeError, RangeProof, SeqRange};
use std::collections::BTreeMap;
use std::path::Path;

/// A range whose leaves are the log's.
pub(super) struct Ranged {
    pub(super) id: LogId,
    pub(super) note: String,
    pub(super) records: u64,
    /// CloudTrail files by index.
    pub(super) files: Vec<Read>,
    /// Kind 1 in the period, or in the whole of an imported log.
    pub(super) population: Population,
    /// What keeps this from being verified: a head that could not be compared, cosignatures that are missing.
    pub(super) limit: Option<String>,
}

/// Checks leaves, payloads and the way to the root.
pub(super) fn check(root: &Path, log: &LogEntry, head: Head, period: (u64, u64)) -> Result<Ranged, Failure> {
    let range = SeqRange { first: log.first, last: log.last };
    let proof = RangeProof { hashes: hashes(&root.join(format!("logs/{}/range-proof", head.id)))? };
    let before = proof.before(range).ok_or_else(|| Failure::new("range proof is too short"))?;
    let mut walk = Walk {
        log: head.id,
        leaves: LeavesReader::open(&root.join(format!("logs/{}/leaves.gz", head.id)))?,
        files: LogFiles::new(root, &log.cloudtrail),
        period: (!log.imported).then_some(period),
        before: None,
        seq: log.first,
        first_time_us: 0,
        counts: BTreeMap::new(),
        withheld: 0,
        erased: 0,
        population: Population::default(),
        comparison: Comparison::new(&head, before),
    };
    let found = proof.root(range, log.size, || walk.next().map_err(Stop));
    let found = found.map_err(|error| match error {
        RangeError::Source(Stop(failure)) => failure,
        other => Failure::new(other.to_string()),
    })?;
    if found != head.checkpoint.root {
        return Err(Failure::new("leaves do not lead to the root of the checkpoint"));
    }
    if let Some(Entry { leaf, .. }) = walk.leaves.next()? {
        return Err(Failure::at(leaf.seq, "leaves go on after the range"));
    }
    walk.compare_with(log)?;
    let Walk { files, population, comparison, .. } = walk;
    let not_cosigned =
        (!head.is_cosigned).then(|| "the quorum of the policy has not cosigned the checkpoint".to_owned());
    Ok(Ranged {
        id: head.id,
        records: log.last - log.first + 1,
        files: files.finish()?,
        population,
        limit: comparison.finish()?.or(not_cosigned),
        note: head.note,
    })
}

/// Ends the walk over the tree.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stop(Failure);

/// Whether a payload is a JSON object, as the exporter judges it.
fn is_object(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(payload).is_ok()
}

struct Walk<'a> {
    log: LogId,
    leaves: LeavesReader,
    files: LogFiles<'a>,
    period: Option<(u64, u64)>,
    before: Option<(Leaf, Link)>,
    seq: u64,
    first_time_us: u64,
    counts: BTreeMap<String, u64>,
    withheld: u64,
    erased: u64,
    population: Population,
    comparison: Comparison<'a>,
}

impl Walk<'_> {
    fn next(&mut self) -> Result<LeafHash, Failure> {
        let seq = self.seq;
        let at = |failure: Failure| Failure { seq: failure.seq.or(Some(seq)), ..failure };
        let entry = self.leaves.next().map_err(|error| at(error.into()))?;
        let entry = entry.ok_or_else(|| Failure::at(seq, "leaves end before the range does"))?;
        self.leaf(&entry)?;
        self.payload(&entry).map_err(at)?;
        let hash = leaf_hash(&entry.bytes);
        if !self.comparison.is_done() {
            self.comparison.push(hash)?;
        }
        self.count(&entry);
        self.before = Some((entry.leaf, link(&entry.bytes)));
        self.seq += 1;
        Ok(hash)
    }

    fn leaf(&self, entry: &Entry) -> Result<(), Failure> {
        let leaf = &entry.leaf;
        let fail = |reason: &str| Err(Failure::at(self.seq, reason));
        if leaf.log != self.log {
            return fail("leaf is of another log");
        }
        if leaf.seq != self.seq {
            return fail("leaf has another seq: a record is missing, repeated or out of order");
        }
        match &self.before {
            Some((_, link)) if leaf.prev != *link => fail("leaf does not link to the one before"),
            Some((before, _)) if leaf.epoch < before.epoch || leaf.time_us < before.time_us => {
                fail("epoch or time falls")
            }
            None if leaf.epoch == 0 => fail("leaf is of no epoch"),
            None if self.seq == 0 && leaf.prev != Link::ZERO => fail("first leaf of the log links to something"),
            _ => Ok(()),
        }
    }

    fn payload(&mut self, entry: &Entry) -> Result<(), Failure> {
        let Some(salt) = &entry.salt else { return Ok(()) };
        let mut read = Vec::new();
        let payload = match &entry.payload {
            // Whoever reads the CloudTrail files alone must not miss an event.
            Some(payload) if entry.leaf.kind == Kind::Event && is_object(payload) => {
                return Err(Failure::new("event stands beside its leaf instead of in a CloudTrail file"));
            }
            Some(payload) => payload,
            None => {
                if entry.leaf.kind != Kind::Event {
                    return Err(Failure::new("record that is no event stands in a CloudTrail file"));
                }
                read.resize(usize::try_from(entry.leaf.payload_len).unwrap_or(0), 0);
                self.files.next(entry.file, entry.leaf.time_us, &mut read)?;
                &read
            }
        };
        let matches = payload_digest(salt, payload) == entry.leaf.payload_digest;
        if matches { Ok(()) } else { Err(Failure::new("payload is not the one that the leaf commits to")) }
    }

    fn count(&mut self, entry: &Entry) {
        let leaf = &entry.leaf;
        if self.before.is_none() {
            self.first_time_us = leaf.time_us;
        }
        *self.counts.entry((leaf.kind as u8).to_string()).or_default() += 1;
        self.withheld += u64::from(entry.status == Status::Withheld);
        self.erased += u64::from(entry.status == Status::Erased);
        if leaf.kind == Kind::Event && self.period.is_none_or(|(from, to)| (from..to).contains(&leaf.time_us)) {
            self.population.push(leaf.seq);
        }
    }

    fn compare_with(&self, log: &LogEntry) -> Result<(), Failure> {
        let last_time_us = self.before.as_ref().map_or(0, |(leaf, _)| leaf.time_us);
        let found = (&self.counts, self.withheld, self.erased, self.first_time_us, last_time_us);
        if found == (&log.counts, log.withheld, log.erased, log.time_first, log.time_last) {
            Ok(())
        } else {
            Err(Failure::new("counts or times of the manifest are not those of the leaves"))
        }
    }
}
