//! How far behind the watch is: nothing was judged for a while though a node writes a heartbeat each ten seconds.
//!
//! It does not matter where records are late: a node that is off, a broker that is slow, a checkpoint that does not come, rules
//! that cannot keep up. What is not judged is not watched. How much is too much is the rule's business (audit-lag).

use super::{FOUND_MAX, Watch};
use crate::rule::Integrity;
use keytrail_kms::chain::LogId;
use std::collections::BTreeMap;

/// Less than this is no finding: twice a heartbeat's time.
const TOLD_FROM_US: u64 = 20 * 1_000_000;

/// How long it has to last before it is told, and pause until it is told again.
const PAUSE_US: u64 = 10 * 1_000_000;

/// Which logs are behind: Unix microseconds.
pub(super) struct Lag {
    /// Since when the trail could have judged something.
    started_us: u64,
    /// When each log that is behind was first seen so, or told of last.
    noted_us: BTreeMap<LogId, u64>,
}

impl Lag {
    pub(super) fn new(started_us: u64) -> Self {
        Self { started_us, noted_us: BTreeMap::new() }
    }
}

impl Watch {
    /// A finding for each log whose newest judged record is old, as seen by our clock.
    pub(super) fn look_for_lag(&mut self) {
        let now_us = self.clock.now_us();
        for &log in self.provers.keys() {
            let name = log.to_string();
            let judged_us = self.engine.judged_us(&name).and_then(|time_us| u64::try_from(time_us).ok()).unwrap_or(0);
            // What happened while no trail ran is late, but not by our doing.
            let lag_us = now_us.saturating_sub(judged_us.max(self.lag.started_us));
            if lag_us < TOLD_FROM_US {
                self.lag.noted_us.remove(&log);
                continue;
            }
            let noted_us = self.lag.noted_us.entry(log).or_insert(now_us);
            if now_us.saturating_sub(*noted_us) < PAUSE_US || self.found.len() >= FOUND_MAX {
                continue;
            }
            *noted_us = now_us;
            let (seconds, next_seq) = (lag_us / 1_000_000, self.engine.position(&name));
            let detail = format!("no record beyond seq {next_seq} was judged for {seconds} s");
            tracing::warn!(%log, seconds, next_seq, "the watch over this log is behind");
            self.found.push_back(Integrity {
                log: name,
                time_us: i64::try_from(now_us).unwrap_or(i64::MAX),
                finding: "lag".to_owned(),
                first_seq: Some(next_seq),
                detail,
                value: Some(seconds),
                ..Integrity::default()
            });
        }
    }
}
