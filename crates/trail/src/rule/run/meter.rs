//! What each rule did and what it cost, per log, and whether that is within its limits.
//!
//! Durations are measured; they decide nothing but whether a rule is stopped.

use crate::rule::file::Limits;
use crate::rule::load::Rule;

/// What one rule did in one log, since this was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleRun {
    /// The rule's id.
    pub rule_id: String,
    /// Its version.
    pub rule_version: u32,
    /// Its hash.
    pub rule_hash: String,
    /// Log id, 32 hex digits.
    pub log: String,
    /// First seq of the events it was given, if any.
    pub first_seq: Option<u64>,
    /// Last seq of the events it was given, if any.
    pub last_seq: Option<u64>,
    /// Batches.
    pub runs: u64,
    /// Batches in which it failed or was stopped.
    pub failed: u64,
    /// Events it was given.
    pub events: u64,
    /// Events that passed its filter.
    pub matched: u64,
    /// Alerts and revisions it led to.
    pub findings: u64,
    /// What went into buckets that had an alert already.
    pub deduplicated: u64,
    /// Findings that exceptions muted.
    pub suppressed: u64,
    /// Time spent, microseconds.
    pub micros: u64,
    /// Entries of its state.
    pub state_entries: u64,
    /// Bytes of its state, as stored last.
    pub state_bytes: u64,
    /// Why it failed last.
    pub error: Option<String>,
}

impl RuleRun {
    pub(super) fn new(rule: &Rule, log: &str) -> Self {
        Self {
            rule_id: rule.id().to_owned(),
            rule_version: rule.header().version,
            rule_hash: rule.hash().to_owned(),
            log: log.to_owned(),
            ..Self::default()
        }
    }

    /// What it says, and from now on nothing but who it is and how large its state was.
    pub(super) fn take(&mut self) -> Self {
        let next = Self {
            rule_id: self.rule_id.clone(),
            rule_version: self.rule_version,
            rule_hash: self.rule_hash.clone(),
            log: self.log.clone(),
            state_bytes: self.state_bytes,
            state_entries: self.state_entries,
            ..Self::default()
        };
        std::mem::replace(self, next)
    }

    /// Adds a batch: how many events, their first and last seq, and the time it took.
    pub(super) fn given(&mut self, events: u64, seqs: Option<(u64, u64)>, micros: u64) {
        self.runs += 1;
        self.micros += micros;
        self.events += events;
        self.first_seq = self.first_seq.into_iter().chain(seqs.map(|(first, _)| first)).min();
        self.last_seq = self.last_seq.into_iter().chain(seqs.map(|(_, last)| last)).max();
    }

    pub(super) fn failed(&mut self, reason: String) {
        self.failed += 1;
        self.error = Some(reason);
    }
}

/// What one batch cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) micros: u64,
    pub(super) findings: u64,
    pub(super) state_entries: u64,
    pub(super) state_bytes: u64,
}

/// Which limit is breached, if any.
pub(super) fn breach(limits: Limits, cost: Cost) -> Option<String> {
    [
        ("time_ms", cost.micros / 1_000, limits.time_ms),
        ("rows", cost.findings, limits.rows),
        ("state_entries", cost.state_entries, limits.state_entries),
        ("memory_mb", cost.state_bytes / (1024 * 1024), limits.memory_mb),
    ]
    .into_iter()
    .find(|(_, used, limit)| used > limit)
    .map(|(name, used, limit)| format!("{name} is {used}, the limit is {limit}"))
}
