//! Seeded chance: one ChaCha stream for each actor, so that a change in one actor's behaviour moves nobody else's.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, Exp1, LogNormal};

/// A stream of chance; equal seeds and numbers give equal streams.
pub(super) struct Chance(ChaCha8Rng);

impl Chance {
    /// Stream `number` of `seed`.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        Self(random)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to `bound` - 1; 0 for a bound of 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % (bound.max(1) as u64)).unwrap_or(0)
    }

    /// From `low` to `high`, both inclusive.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = u64::try_from(high.saturating_sub(low).max(0)).unwrap_or(0) + 1;
        low + i64::try_from(self.number() % span).unwrap_or(0)
    }

    /// From 0 up to 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Waiting time until the next of events that come `mean_us` apart on average.
    pub(super) fn gap_us(&mut self, mean_us: f64) -> i64 {
        let unit: f64 = Exp1.sample(&mut self.0);
        micros(unit * mean_us)
    }

    /// A weight as busy and idle applications have them: most are small, a few are large.
    pub(super) fn weight(&mut self) -> f64 {
        LogNormal::new(0.0, 1.0).map_or(1.0, |spread| spread.sample(&mut self.0))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Upper-case letters and digits, as ids of AWS end in.
    pub(super) fn token(&mut self, length: usize) -> String {
        const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        (0..length).map(|_| char::from(LETTERS[self.below(LETTERS.len())])).collect()
    }

    pub(super) fn hex(&mut self) -> String {
        hex::encode(self.bytes::<32>())
    }

    /// A UUIDv7 of this time.
    pub(super) fn uuid(&mut self, time_us: i64) -> uuid::Uuid {
        let millis = u64::try_from(time_us / 1_000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.bytes::<10>()).into_uuid()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "waiting times are far below 2^63 microseconds; `as` saturates")]
fn micros(value: f64) -> i64 {
    value as i64
}
