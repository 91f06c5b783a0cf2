//! Exceptions at work: what they mute is counted, and what is odd about it is a finding about the watch itself.

use super::{TrailError, Watch};
use crate::rule::{Finding, Integrity, RuleSet};
use crate::store::{Store, StoreError};
use keytrail_kms::clock::Clock;
use std::collections::HashMap;

/// Keeps what a loaded set says beside the alerts; gives when each rule and exception was first seen.
pub(super) fn keep(store: &mut Store, rules: &RuleSet, clock: &dyn Clock) -> Result<HashMap<String, i64>, StoreError> {
    store.keep_site(&rules.site.to_json())?;
    let exceptions = rules.exceptions().iter().map(|exception| exception.hash.clone());
    let hashes: Vec<String> = rules.hashes().into_values().chain(exceptions).collect();
    store.keep_rules(rules.exceptions(), &hashes, i64::try_from(clock.now_us()).unwrap_or(i64::MAX))
}

impl Watch {
    /// The findings without those that exceptions mute.
    pub(super) fn mute(&mut self, findings: Vec<Finding>) -> Result<Vec<Finding>, TrailError> {
        let rules = self.engine.rules().clone();
        if rules.exceptions().is_empty() {
            return Ok(findings);
        }
        let since = &self.rules_since;
        let (raised, hits) = rules.mute(findings, &|hash| since.get(hash).copied());
        for hit in hits {
            if !self.store.count_hit(&hit)? {
                continue;
            }
            if hit.muted {
                *self.suppressed.entry((hit.rule_id.clone(), hit.log.clone())).or_default() += 1;
            }
            tracing::info!(exception = hit.exception, rule_id = hit.rule_id, muted = hit.muted, "exception matched");
            if let Some(odd) = hit.odd {
                let detail = format!("exception {} and rule {}: alert {}", hit.exception, hit.rule_id, hit.alert_id);
                let (finding, time_us) = (odd.to_owned(), hit.event_us);
                let found = Integrity { log: hit.log.clone(), time_us, finding, detail, ..Integrity::default() };
                self.found.push_back(found);
            }
        }
        Ok(raised)
    }
}
