//! Counts and times of answered calls, for whoever runs the node.
//!
//! By operation and outcome only: who called what with which key is the log's to tell, and there to be read under its rules.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// Upper bounds of the buckets, in seconds. The budget for a durable answer is some milliseconds.
pub const SECONDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Operations told apart. There are fewer; made-up names of authenticated callers share one place beyond.
const OPERATIONS_MAX: usize = 256;

/// Counting since the start.
#[derive(Default)]
pub(crate) struct Calls(Mutex<CallCounts>);

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct CallCounts {
    /// By operation, then by `OK` or the event's error code.
    pub by_operation: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Calls that took at most as long as [`SECONDS`] says, each in its first bucket only.
    pub buckets: [u64; SECONDS.len()],
    /// All calls.
    pub count: u64,
    /// Seconds of all calls together.
    pub seconds: f64,
}

impl Calls {
    /// Counts one; `code` is None when it worked.
    pub(crate) fn count(&self, operation: &str, code: Option<&'static str>, took: Duration) {
        let mut counts = self.0.lock();
        let room = counts.by_operation.len() < OPERATIONS_MAX;
        let name = if room || counts.by_operation.contains_key(operation) { operation } else { "other" };
        let outcomes = match counts.by_operation.get_mut(name) {
            Some(outcomes) => outcomes,
            None => counts.by_operation.entry(name.to_owned()).or_default(),
        };
        *outcomes.entry(code.unwrap_or("OK")).or_default() += 1;
        let seconds = took.as_secs_f64();
        if let Some(bucket) = SECONDS.iter().position(|bound| seconds <= *bound) {
            counts.buckets[bucket] += 1;
        }
        counts.count += 1;
        counts.seconds += seconds;
    }

    pub(crate) fn read(&self) -> CallCounts {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_operation_and_outcome_and_bounded() {
        let calls = Calls::default();
        calls.count("Decrypt", None, Duration::from_millis(3));
        calls.count("Decrypt", Some("AccessDenied"), Duration::from_secs(60));
        for number in 0..2 * OPERATIONS_MAX {
            calls.count(&format!("Made{number}"), Some("UnknownOperationException"), Duration::ZERO);
        }
        let counts = calls.read();
        assert_eq!(counts.by_operation["Decrypt"], BTreeMap::from([("AccessDenied", 1), ("OK", 1)]));
        assert_eq!(counts.by_operation.len(), OPERATIONS_MAX + 1);
        assert_eq!(counts.by_operation["other"]["UnknownOperationException"], OPERATIONS_MAX as u64 + 1);
        assert_eq!(counts.count, 2 + 2 * OPERATIONS_MAX as u64);
        assert_eq!(counts.buckets[3], 1, "three milliseconds are at most five");
        assert_eq!(counts.buckets.iter().sum::<u64>(), counts.count - 1, "a minute is beyond all bounds");
    }
}
