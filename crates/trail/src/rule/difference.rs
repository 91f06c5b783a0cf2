//! What two runs of rules disagree about: a backtest with the alerts raised live, or two versions of the rules.
//!
//! Alerts are the same when their ids are: rule, group and bucket. Rules of kinds meta and posture are left out where live
//! alerts are compared: what they tell of is not in the records, or was looked at by the clock. trail.db is opened read-only.

use super::backtest::{BacktestError, Progress, Raised, Range, backtest};
use super::{RuleKind, RuleSet};
use crate::alert::{Alert, Severity};
use crate::lake::snapshot::Snapshot;
use crate::store::open_read_only;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A live alert as its last revision left it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Its rule.
    pub rule_id: String,
    /// The rule's hash when it was raised.
    pub rule_hash: String,
    /// Its severity.
    pub severity: Severity,
    /// Its id.
    pub alert_id: String,
    /// Its log.
    pub log: String,
    /// Its latest event.
    pub last_event_micros: i64,
    #[serde(skip)]
    kind: String,
}

/// What differs.
#[derive(Debug, Default)]
pub struct Difference {
    /// In both, with the same severity.
    pub same: u64,
    /// Raised live and not now.
    pub missing: Vec<Live>,
    /// Raised now and not live.
    pub extra: Vec<Raised>,
    /// In both with another severity: live, now.
    pub severity: Vec<(Live, Raised)>,
    /// Rules whose file or params are others than when they raised alerts live.
    pub changed: BTreeSet<String>,
}

/// The alerts in trail.db.
pub fn live(trail_db: &Path) -> Result<BTreeMap<String, Live>, rusqlite::Error> {
    let db = open_read_only(trail_db)?;
    let mut statement = db.prepare("SELECT json FROM alerts ORDER BY position")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let json: Vec<u8> = row.get(0)?;
        // One that cannot be read is no alert that could be compared.
        let Ok(alert) = serde_json::from_slice::<Alert>(&json) else { continue };
        found.insert(
            alert.alert_id.clone(),
            Live {
                rule_id: alert.rule_id,
                rule_hash: alert.rule_hash,
                severity: alert.severity,
                alert_id: alert.alert_id,
                log: alert.log,
                last_event_micros: alert.last_event_micros,
                kind: alert.rule_kind,
            },
        );
    }
    Ok(found)
}

/// Compares a backtest's alerts with those raised live, for these rules, over own logs and the same range.
pub fn against_live(
    alerts: &[Raised],
    mut live: BTreeMap<String, Live>,
    snapshot: &Snapshot,
    rules: &RuleSet,
    range: &Range,
) -> Difference {
    let own: BTreeSet<String> = snapshot.own_logs().map(|(log, _)| log.to_string()).collect();
    let from_us = range.from_us.unwrap_or(i64::MIN);
    let is_of_records = |kind: &str| ![RuleKind::Meta, RuleKind::Posture].map(RuleKind::as_str).contains(&kind);
    live.retain(|_, alert| {
        let time =
            alert.last_event_micros >= from_us && range.to_us.is_none_or(|to_us| alert.last_event_micros < to_us);
        let log = own.contains(&alert.log) && range.log.is_none_or(|log| log.to_string() == alert.log);
        time && log && is_of_records(&alert.kind) && rules.rule(&alert.rule_id).is_some()
    });
    let mut difference = Difference::default();
    for alert in live.values() {
        if rules.rule(&alert.rule_id).is_some_and(|rule| rule.hash() != alert.rule_hash) {
            difference.changed.insert(alert.rule_id.clone());
        }
    }
    let compared = |raised: &&Raised| own.contains(&raised.log) && is_of_records(raised.rule.kind().as_str());
    for raised in alerts.iter().filter(compared) {
        match live.remove(&raised.alert_id) {
            None => difference.extra.push(raised.clone()),
            Some(alert) if alert.severity == raised.severity => difference.same += 1,
            Some(alert) => difference.severity.push((alert, raised.clone())),
        }
    }
    difference.missing = live.into_values().collect();
    difference
}

/// What a change of rules changes.
#[derive(Debug, Default)]
pub struct Change {
    /// Alerts of the new rules only.
    pub gained: Vec<Raised>,
    /// Alerts of the old rules only.
    pub lost: Vec<Raised>,
    /// Alerts of both whose severity differs: old, new.
    pub severity: Vec<(Raised, Raised)>,
    /// Alerts of both.
    pub same: u64,
    /// Rules that differ; the others were not run.
    pub rules: BTreeSet<String>,
    /// Records read.
    pub rows: u64,
}

/// Runs the rules that differ, old and new ones in one pass.
pub fn change(
    snapshot: &Snapshot,
    old: &RuleSet,
    new: &RuleSet,
    range: &Range,
    progress: &Progress,
) -> Result<Change, BacktestError> {
    let hashes = |set: &RuleSet| set.rules().iter().map(|rule| rule.hash().to_owned()).collect::<BTreeSet<_>>();
    let (before, after) = (hashes(old), hashes(new));
    let mut both = old.only(|rule| !after.contains(rule.hash()));
    both.rules.extend(new.rules.iter().filter(|rule| !before.contains(rule.hash())).cloned());
    both.exceptions.extend(new.exceptions.iter().cloned());
    let mut change =
        Change { rules: both.rules.iter().map(|rule| rule.id().to_owned()).collect(), ..Change::default() };
    if both.rules.is_empty() {
        return Ok(change);
    }
    let report = backtest(snapshot, &Arc::new(both), range, progress)?;
    change.rows = report.rows;
    let (old, new): (Vec<Raised>, Vec<Raised>) =
        report.alerts.into_iter().partition(|raised| before.contains(raised.rule.hash()));
    let mut old: BTreeMap<String, Raised> = old.into_iter().map(|raised| (raised.alert_id.clone(), raised)).collect();
    for raised in new {
        match old.remove(&raised.alert_id) {
            None => change.gained.push(raised),
            Some(former) if former.severity == raised.severity => change.same += 1,
            Some(former) => change.severity.push((former, raised)),
        }
    }
    change.lost = old.into_values().collect();
    Ok(change)
}
