//! Points: what each alert adds to the risk of its principal and of its key, and what an entity has in a day and a week.
//!
//! A rule counts once, with its worst alert, so that one that repeats itself is no danger and several that agree are. Points
//! are committed with the alert that gives them; the sums are kept in memory, and are the same after a restart. Alerts
//! about the log or about a state say nothing of what somebody did.

use super::{Store, StoreError, sqlite};
use crate::alert::grouping::role;
use crate::alert::{Alert, Risk, Severity};
use rusqlite::{Connection, Transaction, params};
use std::collections::{BTreeMap, HashMap};

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

const WEEK_US: i64 = 7 * DAY_US;

/// Most rows kept in trail.db; the oldest go first.
const ROWS_MAX: i64 = 100_000;

/// Most alerts of one entity that count; the oldest go first.
const ALERTS_MAX: usize = 256;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS risk(
    kind TEXT NOT NULL, entity TEXT NOT NULL, alert_id TEXT NOT NULL, rule_id TEXT NOT NULL, time_us INTEGER NOT NULL,
    points INTEGER NOT NULL, PRIMARY KEY(kind, entity, alert_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS risk_time ON risk(time_us);
";

pub(super) fn create(db: &Connection) -> Result<(), StoreError> {
    db.execute_batch(SCHEMA).map_err(sqlite("create tables"))
}

/// Points of an alert.
fn weight(severity: Severity) -> u64 {
    match severity {
        Severity::Info => 1,
        Severity::Low => 5,
        Severity::Medium => 20,
        Severity::High => 45,
        Severity::Critical => 80,
    }
}

/// Whom an alert is about: kind and ARN.
fn entities(alert: &Alert) -> Vec<(&'static str, String)> {
    if ["meta", "posture"].contains(&alert.rule_kind.as_str()) {
        return Vec::new();
    }
    let named = |column: &str| {
        let group = alert.group_by.iter().find(|group| group.name == column).and_then(|group| group.value.as_deref());
        group.or_else(|| alert.row_text(column)).filter(|name| name.starts_with("arn:"))
    };
    let principal =
        named("principal_arn").filter(|arn| !arn.contains(":keytrail/")).map(|arn| ("principal", role(arn)));
    principal.into_iter().chain(named("key_arn").map(|arn| ("key", arn.to_owned()))).collect()
}

/// The rows of one alert. A revision replaces what the alert gave before.
pub(super) fn add(transaction: &Transaction<'_>, alert: &Alert) -> rusqlite::Result<()> {
    for (kind, entity) in entities(alert) {
        let sql = "INSERT OR REPLACE INTO risk(kind, entity, alert_id, rule_id, time_us, points)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let points = i64::try_from(weight(alert.severity)).unwrap_or(0);
        let values = params![kind, entity, alert.alert_id, alert.rule_id, alert.last_event_micros, points];
        transaction.prepare_cached(sql)?.execute(values)?;
    }
    Ok(())
}

/// Takes away what is too old, or too much. Once a commit: the second looks at every row there is.
pub(super) fn trim(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let old = "DELETE FROM risk WHERE time_us <= (SELECT max(time_us) FROM risk) - ?1";
    transaction.prepare_cached(old)?.execute([WEEK_US])?;
    let beyond = "DELETE FROM risk WHERE time_us <= (SELECT time_us FROM risk ORDER BY time_us DESC LIMIT 1 OFFSET ?1)";
    transaction.prepare_cached(beyond)?.execute([ROWS_MAX])?;
    Ok(())
}

/// One alert of an entity.
#[derive(Clone, Debug)]
struct Given {
    rule_id: String,
    time_us: i64,
    points: u64,
}

/// Whose points: kind and ARN.
type Entity = (String, String);

/// The points of all entities of the last week.
#[derive(Debug, Default)]
pub struct Points {
    given: HashMap<Entity, HashMap<String, Given>>,
    /// How many entities the last sweep left.
    left: usize,
}

impl Points {
    /// Adds an alert; gives what its entities have now.
    pub fn take(&mut self, alert: &Alert) -> Vec<Risk> {
        let entities = entities(alert);
        let given =
            Given { rule_id: alert.rule_id.clone(), time_us: alert.last_event_micros, points: weight(alert.severity) };
        let mut risks = Vec::new();
        for (kind, entity) in entities {
            let own = self.given.entry((kind.to_owned(), entity.clone())).or_default();
            own.insert(alert.alert_id.clone(), given.clone());
            own.retain(|_, old| old.time_us > given.time_us - WEEK_US);
            if own.len() > ALERTS_MAX
                && let Some(oldest) = own.iter().min_by_key(|(_, old)| old.time_us).map(|(id, _)| id.clone())
            {
                own.remove(&oldest);
            }
            let within = |span_us: i64| {
                let mut worst: BTreeMap<&str, u64> = BTreeMap::new();
                for old in
                    own.values().filter(|old| (given.time_us - span_us + 1..=given.time_us).contains(&old.time_us))
                {
                    let points = worst.entry(&old.rule_id).or_default();
                    *points = old.points.max(*points);
                }
                (worst.values().sum(), worst.len() as u64)
            };
            let (day, rules) = within(DAY_US);
            risks.push(Risk { kind: kind.to_owned(), entity, day, week: within(WEEK_US).0, rules });
        }
        self.sweep(given.time_us);
        risks
    }

    /// Forgets whom nothing was told of for a day, once there are many, and again when they are twice as many.
    fn sweep(&mut self, now_us: i64) {
        if self.given.len() > usize::try_from(ROWS_MAX).unwrap_or(usize::MAX).max(2 * self.left) {
            self.given.retain(|_, own| own.values().any(|old| old.time_us > now_us - DAY_US));
            self.left = self.given.len();
        }
    }
}

impl Store {
    /// The points as last committed.
    pub fn points(&self) -> Result<Points, StoreError> {
        let step = sqlite("read risk");
        let sql = "SELECT kind, entity, alert_id, rule_id, time_us, points FROM risk";
        let mut statement = self.db.prepare(sql).map_err(&step)?;
        let rows = statement.query_map([], |row| {
            let points = row.get::<_, i64>(5)?.unsigned_abs();
            let given = Given { rule_id: row.get(3)?, time_us: row.get(4)?, points };
            Ok(((row.get(0)?, row.get(1)?), row.get(2)?, given))
        });
        let mut points = Points::default();
        for row in rows.map_err(&step)? {
            let (entity, alert_id, given) = row.map_err(&step)?;
            points.given.entry(entity).or_default().insert(alert_id, given);
        }
        Ok(points)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::alert::{GroupValue, SignedAlert};
    use crate::store::Step;

    const HOUR_US: i64 = 3_600_000_000;
    const USER: &str = "arn:aws:iam::111122223333:user/app";

    fn alert(rule: &str, id: &str, severity: Severity, time_us: i64) -> Alert {
        let group = [("principal_arn", USER), ("key_arn", "arn:aws:kms:eu-west-1:111122223333:key/k")];
        let group = group.map(|(name, value)| GroupValue { name: name.into(), value: Some(value.into()) });
        serde_json::from_value(serde_json::json!({
            "alertVersion": 1, "alertId": id, "revision": 0, "ruleId": rule, "ruleVersion": 1, "ruleHash": "",
            "ruleKind": "event", "title": "", "severity": severity, "origin": "", "log": "", "groupBy": group,
            "bucketStartMicros": 0, "firstEventMicros": time_us, "lastEventMicros": time_us, "detectedAtMicros": 0,
            "matched": 1, "row": {}, "attack": [], "labels": {}, "evidence": [], "evidenceTotal": 0, "checkpoint": "",
        }))
        .unwrap()
    }

    fn day(risks: &[Risk]) -> (u64, u64, u64) {
        (risks[0].day, risks[0].week, risks[0].rules)
    }

    #[test]
    fn rules_that_agree_add_up_and_one_that_repeats_itself_does_not() {
        let mut points = Points::default();
        let first = points.take(&alert("a", "1", Severity::Medium, 0));
        assert_eq!(
            (first[0].kind.as_str(), first[0].entity.as_str(), first[1].kind.as_str()),
            ("principal", USER, "key")
        );
        assert_eq!(day(&first), (20, 20, 1));
        assert_eq!(day(&points.take(&alert("a", "2", Severity::Medium, 1))), (20, 20, 1));
        assert_eq!(day(&points.take(&alert("a", "2", Severity::High, 2))), (45, 45, 1));
        assert_eq!(day(&points.take(&alert("b", "3", Severity::Critical, 3))), (125, 125, 2));
        assert_eq!(day(&points.take(&alert("c", "4", Severity::Low, 24 * HOUR_US))), (130, 130, 3));
        assert_eq!(day(&points.take(&alert("c", "4", Severity::Low, 24 * HOUR_US + 3))), (5, 130, 1));
        assert_eq!(day(&points.take(&alert("c", "5", Severity::Low, 7 * 24 * HOUR_US + 3))), (5, 5, 1));
    }

    #[test]
    fn sessions_count_for_their_role_and_findings_about_the_log_for_nobody() {
        let mut points = Points::default();
        let mut session = alert("a", "1", Severity::Low, 0);
        session.group_by[0].value = Some("arn:aws:sts::111122223333:assumed-role/app/one".into());
        assert_eq!(points.take(&session)[0].entity, "arn:aws:iam::111122223333:role/app");
        session.group_by[0].value = Some("arn:aws:iam::111122223333:keytrail/responder".into());
        assert_eq!(points.take(&session).len(), 1, "the key alone");
        session.rule_kind = "meta".into();
        assert!(points.take(&session).is_empty());
    }

    #[test]
    fn points_are_committed_with_their_alerts_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        let mut store = Store::open(&path).unwrap();
        let commit = |store: &mut Store, alert: &Alert| {
            let alerts = [(alert.clone(), SignedAlert { json: vec![], signature: [0; 64] })];
            store.commit(&Step { alerts: &alerts, state: None, trees: &[], now_us: 1 }).unwrap();
        };
        commit(&mut store, &alert("a", "1", Severity::Medium, 0));
        let revision = Alert { revision: 1, ..alert("a", "1", Severity::High, 5) };
        commit(&mut store, &revision);
        drop(store);
        let mut points = Store::open(&path).unwrap().points().unwrap();
        assert_eq!(day(&points.take(&alert("b", "2", Severity::Medium, 6))), (65, 65, 2));
        let mut store = Store::open(&path).unwrap();
        commit(&mut store, &alert("b", "2", Severity::Medium, 8 * 24 * HOUR_US));
        assert_eq!(
            store.points().unwrap().given.values().map(HashMap::len).sum::<usize>(),
            2,
            "the older ones are gone"
        );
    }
}
