//! What a playbook would have done: the trail's alerts of the past, taken in by a responder of its own in memory.
//!
//! Same verification, planning, guards and breaker as live, with each alert's own time as the clock; only the calls are not
//! made, and each counts as done. Alerts of earlier versions of a rule count as well. Announcements are kept for a week
//! after their end, so what was announced before that shows as something that would have been done.

use super::Playbook;
use crate::announced::Changes;
use crate::config::{AllowedRule, Settings};
use crate::guard::Outside;
use crate::ingest::{Outcome, Rules, take_in};
use crate::intake::{RawAlert, Verifier};
use crate::playbook::{Mode, Severity};
use crate::service::{log_key, trail_key};
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::chain::LogKeys;
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::signer::read_keys;
use rusqlite::{Connection, OpenFlags, params};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How far the report of a promotion looks back.
pub const LOOK_BACK: Duration = Duration::from_hours(30 * 24);
/// Most alerts that are taken in; a report that says so is still one.
const ALERTS_MAX: i64 = 100_000;
/// Most lines of one kind in a report.
const LINES_MAX: u32 = 50;

/// What would have been done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Alerts that were looked at.
    pub alerts: u64,
    /// Those that do not verify now, and led to nothing.
    pub refused: u64,
    /// There were more alerts than are looked at.
    pub cut: bool,
    /// Actions that would have been carried out.
    pub actions: u64,
    /// Actions that a guard would have held.
    pub held: u64,
    /// Carried out, by action and target, most frequent first.
    pub by_target: Vec<Line>,
    /// Held, by action and reason, most frequent first.
    pub by_reason: Vec<Line>,
}

/// A count in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What.
    pub action: String,
    /// On what, or why not.
    pub about: String,
    /// How often.
    pub count: u64,
}

impl Report {
    /// In one line, for the record of a promotion.
    pub fn summary(&self) -> String {
        let days = LOOK_BACK.as_secs() / 86_400;
        let Self { alerts, actions, held, .. } = self;
        format!("in {days} days of {alerts} alerts it would have taken {actions} actions and held {held}")
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// No trail has run here.
    #[error("{0} has no alerts: run this where the trail is")]
    NoAlerts(String),
    /// The verify keys of trail and log are not there.
    #[error("the verify keys of trail and log cannot be read")]
    NoKeys,
    /// The table.
    #[error("alerts cannot be read")]
    Read(#[from] rusqlite::Error),
    /// The responder of the rehearsal.
    #[error("alerts cannot be taken in")]
    Store(#[from] StoreError),
}

/// Takes in the alerts of a data folder since `since_us` with this playbook alone, set to act.
pub fn replay(
    data_dir: &Path,
    playbook: &Playbook,
    settings: &Settings,
    changes: Option<Result<Arc<Changes>, String>>,
    since_us: Micros,
) -> Result<Report, PastError> {
    let alerts = stored(data_dir, since_us)?;
    let (trail, log) = keys(data_dir)?;
    // An alert of an older version of its rule is as good an example; its signature says that the trail raised it.
    let allowed = alerts.iter().filter_map(|(raw, _)| claimed_rule(raw)).collect();
    let verifier = Verifier::new(trail, log, allowed);
    let rules = Rules {
        playbooks: vec![Playbook { mode: Mode::Enforce, ..playbook.clone() }],
        enforce: true,
        limits: settings.limits.clone(),
        protected: settings.protected.clone(),
        tell_from: Severity::Critical,
        windows: settings.maintenance.clone(),
        aws: settings.aws.clone(),
    };
    // Nobody counted the keys then; a breaker that asks for their share holds, and the report says so.
    let outside = Outside { changes, enabled_keys: None };
    let store = Store::in_memory()?;
    let mut report = Report { cut: i64::try_from(alerts.len()) == Ok(ALERTS_MAX), ..Report::default() };
    store.write_now(|tx| {
        for (raw, at_us) in &alerts {
            report.alerts += 1;
            if let Outcome::Refused(_) = take_in(tx, &rules, raw, &verifier.verify(raw), &outside, *at_us)? {
                report.refused += 1;
            }
            tx.prepare_cached(
                "UPDATE actions SET state = 'done', changed = 1, finished_us = ?1 WHERE state IN ('planned', 'ready')",
            )?
            .execute([at_us])?;
        }
        Ok(())
    })?;
    count(&store, report)
}

fn count(store: &Store, report: Report) -> Result<Report, PastError> {
    Ok(store.read_now(|db| {
        let total = |done: bool| -> Result<u64, StoreError> {
            let count: i64 =
                db.query_row("SELECT count(*) FROM actions WHERE (state = 'done') = ?1", [done], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        };
        let lines = |sql: &str| -> Result<Vec<Line>, StoreError> {
            let mut statement = db.prepare(sql)?;
            let rows = statement.query_map([LINES_MAX], |row| {
                Ok(Line { action: row.get(0)?, about: row.get(1)?, count: row.get::<_, i64>(2)?.unsigned_abs() })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        Ok(Report {
            actions: total(true)?,
            held: total(false)?,
            by_target: lines(
                "SELECT kind, target, count(*) FROM actions WHERE state = 'done'
                 GROUP BY kind, target ORDER BY count(*) DESC, kind, target LIMIT ?1",
            )?,
            by_reason: lines(
                "SELECT kind, coalesce(reason, '-'), count(*) FROM actions WHERE state <> 'done'
                 GROUP BY kind, reason ORDER BY count(*) DESC, kind, reason LIMIT ?1",
            )?,
            ..report
        })
    })?)
}

/// The alerts with the times at which the trail raised them, oldest first.
fn stored(data_dir: &Path, since_us: Micros) -> Result<Vec<(RawAlert, Micros)>, PastError> {
    let path = data_dir.join("trail.db");
    if !path.exists() {
        return Err(PastError::NoAlerts(data_dir.display().to_string()));
    }
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(5))?;
    // The newest ones when there are too many, and then in order.
    let mut statement = db.prepare(
        "SELECT position, json, signature, created_us FROM (SELECT * FROM alerts WHERE created_us >= ?1
           ORDER BY position DESC LIMIT ?2) ORDER BY position",
    )?;
    let rows = statement.query_map(params![since_us, ALERTS_MAX], |row| {
        let raw =
            RawAlert { source: "trail.db".into(), position: row.get(0)?, json: row.get(1)?, signature: row.get(2)? };
        Ok((raw, row.get(3)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn keys(data_dir: &Path) -> Result<(VerifyKey, LogKeys), PastError> {
    let trail = trail_key(data_dir).ok_or(PastError::NoKeys)?;
    let log = log_key(data_dir).ok_or(PastError::NoKeys)?;
    let log = read_keys(&data_dir.join("checkpoints"), Some(&log)).map_err(|_| PastError::NoKeys)?;
    Ok((trail, log))
}

fn claimed_rule(raw: &RawAlert) -> Option<AllowedRule> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Claim {
        rule_id: String,
        rule_hash: String,
    }
    let Claim { rule_id, rule_hash } = serde_json::from_slice(&raw.json).ok()?;
    Some(AllowedRule { id: rule_id, hash: rule_hash })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{Bench, announcement, event, shipped_playbooks};

    fn playbook(id: &str) -> Playbook {
        shipped_playbooks().into_iter().find(|playbook| playbook.id == id).unwrap()
    }

    #[test]
    fn the_past_is_planned_and_guarded_as_it_would_have_been() {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        for number in 0..6 {
            let key = format!("k{number}");
            let open =
                event("PutKeyPolicy").id(&key).by(&key).on_key(&key).opened("e0").tagged("on-exposure", "disable");
            trail.push(&bench.alert("key-policy-public", vec![open]).signed());
        }
        let denied = event("PutKeyPolicy").id("d").by("m").on_key("k9").opened("e0").denied();
        trail.push(&bench.alert("key-policy-public", vec![denied]).rule_hash("of an older version").signed());
        trail.push(&bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).signed_by_stranger().signed());
        let announced = Changes { all: vec![announcement("bob", Some("k0"), None, &["PutKeyPolicy"])], as_of_us: 0 };
        let report =
            replay(dir.path(), &playbook("key-policy-public"), &Settings::default(), Some(Ok(Arc::new(announced))), 0)
                .unwrap();
        assert_eq!((report.alerts, report.refused, report.cut), (8, 1, false));
        // Of six keys one was announced; of the other five three are disabled, then the breaker trips; policies come back.
        assert_eq!((report.actions, report.held), (3 + 5, 2 + 2));
        let reasons: Vec<(&str, u64)> = report.by_reason.iter().map(|line| (line.about.as_str(), line.count)).collect();
        assert!(reasons.contains(&("announced: CHG-1", 1)), "{reasons:?}");
        assert!(reasons.iter().any(|(why, _)| why.contains("3 keys were disabled")), "{reasons:?}");
        assert!(report.summary().contains("8 alerts"));
        assert!(!dir.path().join("responder.db").exists());
    }

    #[test]
    fn a_folder_without_a_trail_gives_no_report() {
        let dir = tempfile::tempdir().unwrap();
        let none = replay(dir.path(), &playbook("key-policy-public"), &Settings::default(), None, 0);
        assert!(matches!(none, Err(PastError::NoAlerts(_))));
    }
}
