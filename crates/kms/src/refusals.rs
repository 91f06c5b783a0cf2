//! Calls that leave no event of their own: counted by source, recorded each ten seconds.
//!
//! A stranger gets one event for each refused call up to a rate; what comes faster is refused unread, so that nobody
//! without a key can fill the disk. Calls that met a full or stalled journal are counted here too.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Events of strangers from one address each second, on average.
const STRANGERS_PER_SEC: u64 = 10;
/// And at once.
const STRANGERS_BURST: u64 = 20;
/// Addresses kept; the rest share one allowance.
const SOURCES_MAX: usize = 4_096;
/// Addresses named in one record.
const SOURCES_NAMED_MAX: usize = 64;
/// What one event costs, in microseconds of waiting.
const COST_US: u64 = 1_000_000 / STRANGERS_PER_SEC;

/// An allowance that refills with time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    /// When it will be full again, in microseconds of the caller's clock.
    full_at_us: u64,
}

impl Allowance {
    /// A full one.
    pub(crate) const FULL: Self = Self { full_at_us: 0 };

    /// Takes one of `burst` that come back each `cost_us`; false when there is none.
    pub(crate) fn take(&mut self, now_us: u64, cost_us: u64, burst: u64) -> bool {
        let next = self.full_at_us.max(now_us) + cost_us;
        let there = next - now_us <= cost_us * burst;
        if there {
            self.full_at_us = next;
        }
        there
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    unauthenticated: u64,
    unavailable: u64,
}

#[derive(Default)]
struct Inner {
    allowances: HashMap<String, Allowance>,
    counts: BTreeMap<String, Counts>,
    connections: u64,
    since_us: u64,
}

/// Rates and counts of one node.
pub(crate) struct Refusals(Mutex<Inner>);

impl Refusals {
    /// Counting from now.
    pub(crate) fn new(now_us: u64) -> Self {
        Self(Mutex::new(Inner { since_us: now_us, ..Inner::default() }))
    }

    /// Whether a stranger's call from here still gets an event; if not, it is counted.
    pub(crate) fn stranger(&self, source: &str, now_us: u64) -> bool {
        let mut inner = self.0.lock();
        let source = inner.slot(source, now_us);
        let allowed =
            inner.allowances.entry(source.clone()).or_insert(Allowance::FULL).take(now_us, COST_US, STRANGERS_BURST);
        if !allowed {
            inner.counts.entry(source).or_default().unauthenticated += 1;
        }
        allowed
    }

    /// Gives back what a caller took that turned out to be no stranger.
    pub(crate) fn known(&self, source: &str) {
        let mut inner = self.0.lock();
        let name = if inner.allowances.contains_key(source) { source } else { "other" };
        if let Some(allowance) = inner.allowances.get_mut(name) {
            allowance.full_at_us = allowance.full_at_us.saturating_sub(COST_US);
        }
    }

    /// Counts a call that the journal could not take.
    pub(crate) fn unavailable(&self, source: &str) {
        let mut inner = self.0.lock();
        let known = inner.counts.contains_key(source) || inner.counts.len() < SOURCES_MAX;
        let source = if known { source } else { "other" };
        inner.counts.entry(source.to_owned()).or_default().unavailable += 1;
    }

    /// Counts a connection that was closed unread: beyond the cap, or because its handshake failed.
    pub(crate) fn connection(&self) {
        self.0.lock().connections += 1;
    }

    /// The record's payload for what was counted since the last one; none when nothing was.
    pub(crate) fn take(&self, now_us: u64) -> Option<Value> {
        let mut inner = self.0.lock();
        let since_us = std::mem::replace(&mut inner.since_us, now_us);
        let counts = std::mem::take(&mut inner.counts);
        let connections = std::mem::take(&mut inner.connections);
        if counts.is_empty() && connections == 0 {
            return None;
        }
        let total = |of: fn(&Counts) -> u64| counts.values().map(of).sum::<u64>();
        let mut largest: Vec<_> = counts.iter().collect();
        largest.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.unauthenticated + counts.unavailable));
        let named: Vec<Value> = largest
            .iter()
            .take(SOURCES_NAMED_MAX)
            .map(|(source, counts)| {
                json!({
                    "sourceIPAddress": source,
                    "unauthenticated": counts.unauthenticated,
                    "unavailable": counts.unavailable,
                })
            })
            .collect();
        Some(json!({
            "recordVersion": 1,
            "sinceMicros": since_us,
            "untilMicros": now_us,
            "unauthenticated": total(|counts| counts.unauthenticated),
            "unavailable": total(|counts| counts.unavailable),
            "connections": connections,
            "sources": named,
            "sourcesUnnamed": counts.len().saturating_sub(SOURCES_NAMED_MAX),
        }))
    }

    /// Puts back what could not be recorded.
    pub(crate) fn put_back(&self, payload: &Value) {
        let mut inner = self.0.lock();
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        inner.since_us = number(&payload["sinceMicros"]);
        inner.connections += number(&payload["connections"]);
        let (mut unauthenticated, mut unavailable) =
            (number(&payload["unauthenticated"]), number(&payload["unavailable"]));
        for source in payload["sources"].as_array().into_iter().flatten() {
            let name = source["sourceIPAddress"].as_str().unwrap_or("other").to_owned();
            let counts = inner.counts.entry(name).or_default();
            counts.unauthenticated += number(&source["unauthenticated"]);
            counts.unavailable += number(&source["unavailable"]);
            unauthenticated = unauthenticated.saturating_sub(number(&source["unauthenticated"]));
            unavailable = unavailable.saturating_sub(number(&source["unavailable"]));
        }
        if unauthenticated + unavailable > 0 {
            let unnamed = inner.counts.entry("other".to_owned()).or_default();
            unnamed.unauthenticated += unauthenticated;
            unnamed.unavailable += unavailable;
        }
    }
}

impl Inner {
    /// The name under which a source is counted: its own while the table has room.
    fn slot(&mut self, source: &str, now_us: u64) -> String {
        if !self.allowances.contains_key(source) && self.allowances.len() >= SOURCES_MAX {
            self.allowances.retain(|_, allowance| allowance.full_at_us > now_us);
            if self.allowances.len() >= SOURCES_MAX {
                return "other".to_owned();
            }
        }
        source.to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_burst_then_its_rate_and_the_rest_is_counted() {
        let refusals = Refusals::new(0);
        let now_us = 1_000_000_000;
        let at_once = (0..100).filter(|_| refusals.stranger("192.0.2.1", now_us)).count();
        assert_eq!(at_once, 20);
        assert!(!refusals.stranger("192.0.2.1", now_us));
        refusals.known("192.0.2.1");
        assert!(refusals.stranger("192.0.2.1", now_us), "given back");
        assert!(refusals.stranger("192.0.2.2", now_us), "another address has its own allowance");
        let a_second_later = (0..100).filter(|_| refusals.stranger("192.0.2.1", now_us + 1_000_000)).count();
        assert_eq!(a_second_later, 10);
        let payload = refusals.take(now_us + 2_000_000).unwrap();
        assert_eq!(payload["unauthenticated"], 171);
        assert!(refusals.take(now_us + 3_000_000).is_none());
        refusals.put_back(&payload);
        assert_eq!(refusals.take(now_us + 4_000_000).unwrap()["unauthenticated"], 171);
    }

    #[test]
    fn a_full_table_shares_one_allowance() {
        let refusals = Refusals::new(0);
        for source in 0..SOURCES_MAX {
            assert!(refusals.stranger(&format!("source {source}"), 1_000_000));
        }
        let strangers = (0..1_000).filter(|more| refusals.stranger(&format!("more {more}"), 1_000_000)).count();
        assert!(strangers <= 21, "{strangers}");
    }
}
