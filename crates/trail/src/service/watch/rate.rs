//! What an alert says beside its finding: what was not told by itself, and the risk of those it is about.
//!
//! An entity that several rules tell of is a finding of its own (rule entity-risk): each of its alerts may be small.

use super::{FOUND_MAX, Watch};
use crate::alert::{Alert, Counts};
use crate::rule::{Finding, Integrity, RuleRun};

/// Fewer points than this, or fewer rules, are no finding; the rule asks for more.
const TOLD_FROM_POINTS: u64 = 40;
const TOLD_FROM_RULES: u64 = 2;

impl Watch {
    /// What the alert's revisions so far left out, and what was muted.
    pub(super) fn counts(&self, finding: &Finding) -> Counts {
        // Counts are for people: an alert goes out without them rather than not at all.
        let before = self.store.told(&finding.alert_id).ok().flatten();
        let deduplicated =
            before.map_or(0, |told| told.deduplicated + finding.matched.saturating_sub(told.matched).saturating_sub(1));
        Counts { deduplicated, suppressed: self.store.suppressed(&finding.alert_id).unwrap_or(0) }
    }

    /// Adds the alert to what its entities have, and says so in it.
    pub(super) fn rate(&mut self, alert: &mut Alert) {
        alert.risk = self.points.take(alert);
        for risk in &alert.risk {
            if risk.day < TOLD_FROM_POINTS || risk.rules < TOLD_FROM_RULES || self.found.len() >= FOUND_MAX {
                continue;
            }
            let detail =
                format!("{} points by {} rules within a day, {} within a week", risk.day, risk.rules, risk.week);
            self.found.push_back(Integrity {
                log: alert.log.clone(),
                time_us: alert.last_event_micros,
                finding: "risk".to_owned(),
                detail,
                entity: Some(risk.entity.clone()),
                value: Some(risk.day),
                count: Some(risk.rules),
                ..Integrity::default()
            });
        }
    }

    /// What the rules did since this was asked, with what exceptions took away.
    pub(super) fn runs(&mut self) -> Vec<RuleRun> {
        let mut runs = self.engine.take_runs();
        for run in &mut runs {
            run.suppressed = self.suppressed.remove(&(run.rule_id.clone(), run.log.clone())).unwrap_or(0);
        }
        runs
    }
}
