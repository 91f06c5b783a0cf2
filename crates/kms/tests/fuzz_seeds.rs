//! The fuzz targets without a fuzzer: their seeds, and thousands of inputs made from them by a fixed sequence, so that a
//! failure here is the same on each machine. The search for new ones is `make fuzz` (docs/fuzzing.md).

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use keytrail_kms::fuzz::{TARGETS, seeds};

/// Changed inputs of each target. Reading a private key can take a millisecond, everything else takes microseconds.
fn rounds(target: &str) -> usize {
    if target == "import" { 1_000 } else { 4_000 }
}

/// Marsaglia's xorshift: small, and the same everywhere.
struct Sequence(u64);

impl Sequence {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

/// One to four changes: a bit, a byte, a piece left out, doubled, or taken from another seed.
fn changed(sequence: &mut Sequence, all: &[Vec<u8>]) -> Vec<u8> {
    let mut data = all[sequence.below(all.len())].clone();
    for _ in 0..=sequence.below(4) {
        let at = sequence.below(data.len());
        let end = (at + 1 + sequence.below(16)).min(data.len());
        match sequence.below(6) {
            0 if !data.is_empty() => data[at] ^= 1 << sequence.below(8),
            1 if !data.is_empty() => data[at] = sequence.byte(),
            2 => data.insert(at, sequence.byte()),
            3 if at < end => drop(data.drain(at..end)),
            4 if at < end => {
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = &all[sequence.below(all.len())];
                let from = sequence.below(other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

#[test]
fn each_target_takes_its_seeds_and_what_is_made_from_them() {
    for (target, run) in TARGETS {
        let all = seeds(target).unwrap();
        assert!(all.len() >= 4, "{target} has seeds");
        for seed in &all {
            assert!(run(seed), "{target}: {}", String::from_utf8_lossy(seed));
        }
        let mut sequence = Sequence(0x6b65_7974_7261_696c);
        for _ in 0..rounds(target) {
            run(&changed(&mut sequence, &all));
        }
    }
}
