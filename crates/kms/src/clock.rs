//! The clock as a trait, so that time comes in through the constructor.
//!
//! Nothing else in the crate asks the system for wall time. Tests drive [`FakeClock`]; deadlines inside the process
//! (append bounds, retries) use the monotonic clock and are not covered here.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall time in Unix microseconds, the only form in which Keytrail stores time.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970-01-01T00:00:00Z. May step backwards; whoever needs order takes the larger of two.
    fn now_us(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        // A clock before 1970 reads as 0: the log's own time never falls, so it stays at its last value.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// A clock that stands still until it is moved.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct FakeClock(std::sync::atomic::AtomicU64);

#[cfg(any(test, feature = "testing"))]
impl FakeClock {
    /// 2026-01-05T12:00:00Z, where all fixtures start.
    pub const START_US: u64 = 1_767_614_400_000_000;

    /// A clock standing at `now_us`.
    pub fn new(now_us: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(now_us))
    }

    /// Moves to `now_us`, also backwards.
    pub fn set(&self, now_us: u64) {
        self.0.store(now_us, std::sync::atomic::Ordering::SeqCst);
    }

    /// Moves forward.
    pub fn advance(&self, by: std::time::Duration) {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_add(by_us, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "testing"))]
impl Default for FakeClock {
    fn default() -> Self {
        Self::new(Self::START_US)
    }
}

#[cfg(any(test, feature = "testing"))]
impl Clock for FakeClock {
    fn now_us(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_fake_clock_moves_only_when_told() {
        let clock = FakeClock::default();
        assert_eq!(clock.now_us(), FakeClock::START_US);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now_us(), FakeClock::START_US + 2_000);
        clock.set(5);
        assert_eq!(clock.now_us(), 5);
    }

    #[test]
    fn the_system_clock_is_past_2020() {
        assert!(SystemClock.now_us() > 1_577_836_800_000_000);
    }
}
