//! Population and sample: the events of the period, and a few of them drawn by a rule that nobody here can steer.
//!
//! The seed is the hash of the checkpoint's note and of a nonce that the auditor may choose after the log was signed.

use aws_lc_rs::digest::{Context, SHA256};
use keytrail_kms::chain::leaf::sha256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most records drawn from one log.
pub(super) const SAMPLE_MAX: u32 = 10_000;

/// `sample/population.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) version: u32,
    /// The auditor's.
    pub(super) nonce: String,
    /// In the order of the manifest.
    pub(super) logs: Vec<LogSample>,
}

/// One log's population and what was drawn from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LogSample {
    pub(super) log: String,
    /// Hex.
    pub(super) seed: String,
    /// Records in the population.
    pub(super) count: u64,
    /// Hex of SHA-256 over their seqs, eight bytes each.
    pub(super) sha256: String,
    /// Seqs, in the order in which they were drawn.
    pub(super) drawn: Vec<u64>,
}

/// The seed of a log's sample.
pub(super) fn seed(note: &str, nonce: &str) -> [u8; 32] {
    sha256(&[note.as_bytes(), nonce.as_bytes()])
}

/// A population while it is being collected: runs of seqs, so that it costs little whatever its size.
pub(super) struct Population {
    runs: Vec<(u64, u64)>,
    count: u64,
    hash: Context,
}

impl Default for Population {
    fn default() -> Self {
        Self { runs: Vec::new(), count: 0, hash: Context::new(&SHA256) }
    }
}

impl Population {
    /// Adds the next seq.
    pub(super) fn push(&mut self, seq: u64) {
        match self.runs.last_mut() {
            Some((start, length)) if *start + *length == seq => *length += 1,
            _ => self.runs.push((seq, 1)),
        }
        self.count += 1;
        self.hash.update(&seq.to_be_bytes());
    }

    /// Draws at most `wanted` of it.
    pub(super) fn draw(&self, log: &str, seed: [u8; 32], wanted: u32) -> LogSample {
        let indexes = draw(seed, self.count, wanted);
        LogSample {
            log: log.to_owned(),
            seed: hex::encode(seed),
            count: self.count,
            sha256: hex::encode(self.hash.clone().finish()),
            drawn: indexes.into_iter().filter_map(|index| self.at(index)).collect(),
        }
    }

    fn at(&self, mut index: u64) -> Option<u64> {
        for (start, length) in &self.runs {
            if index < *length {
                return Some(start + index);
            }
            index -= length;
        }
        None
    }
}

/// Indexes into a population of `count`: for counter 0, 1, 2 and so on, the first eight bytes of SHA-256(seed ||
/// counter), as a number, modulo `count`; one that came before is passed over.
fn draw(seed: [u8; 32], count: u64, wanted: u32) -> Vec<u64> {
    let wanted = count.min(u64::from(wanted.min(SAMPLE_MAX)));
    let mut seen = BTreeSet::new();
    let mut drawn = Vec::new();
    for counter in 0_u64.. {
        if drawn.len() as u64 == wanted {
            break;
        }
        let hash = sha256(&[&seed, &counter.to_be_bytes()]);
        let number = hash.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let index = number % count;
        if seen.insert(index) {
            drawn.push(index);
        }
    }
    drawn
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn population(seqs: impl IntoIterator<Item = u64>) -> Population {
        let mut population = Population::default();
        seqs.into_iter().for_each(|seq| population.push(seq));
        population
    }

    #[test]
    fn a_sample_is_drawn_without_repeats_and_again_the_same() {
        let seqs: Vec<u64> = (0..1_000).filter(|seq| seq % 7 != 0).collect();
        let sample = population(seqs.iter().copied()).draw("l", seed("note", "nonce"), 25);
        assert_eq!(sample.count, seqs.len() as u64);
        assert_eq!(sample.drawn.iter().collect::<BTreeSet<_>>().len(), 25);
        assert!(sample.drawn.iter().all(|seq| seqs.contains(seq)));
        assert_eq!(population(seqs.iter().copied()).draw("l", seed("note", "nonce"), 25), sample);
        assert_ne!(population(seqs).draw("l", seed("note", "other"), 25).drawn, sample.drawn);
    }

    #[test]
    fn a_small_population_is_taken_whole() {
        let mut drawn = population([3, 4, 9]).draw("l", [1; 32], 25).drawn;
        drawn.sort_unstable();
        assert_eq!(drawn, [3, 4, 9]);
        assert_eq!(population([]).draw("l", [1; 32], 25).drawn, Vec::<u64>::new());
    }

    #[test]
    fn the_rule_in_numbers() {
        // Computed with Python's hashlib.
        assert_eq!(draw([1; 32], 1_000, 5), [478, 990, 13, 821, 79]);
    }
}
