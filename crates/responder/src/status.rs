//! A responder in numbers, for whoever watches it: what is open, what waits, what was held or given up.
//!
//! Read from `responder.db` alone, so that any process of the folder can tell.

use crate::notify::silence;
use crate::outbox;
use crate::playbook::Severity;
use crate::self_test::{self, SelfTest};
use crate::standing;
use crate::store::{self, Micros, Store, StoreError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// The numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Incidents by state.
    pub incidents: BTreeMap<String, u64>,
    /// Incidents that nobody has closed, by severity; each severity is there.
    pub open: BTreeMap<String, u64>,
    /// Actions by state: `ready` and `leased` are under way, `dead` and `failed` did not work.
    pub actions: BTreeMap<String, u64>,
    /// Since when the oldest action that may be carried out, or whose call is out, has been waiting.
    pub oldest_us: Option<Micros>,
    /// Actions of open incidents that a guard held until a person decides.
    pub held: u64,
    /// Notices by state: `ready` waits, `dead` was given up.
    pub notices: BTreeMap<String, u64>,
    /// Keys that count for the circuit breaker now.
    pub disables_last_hour: u32,
    /// Somebody paused it.
    pub paused: bool,
    /// Circuit breakers that are tripped.
    pub tripped: u64,
    /// Alerts that did not verify, ever.
    pub alerts_refused: u64,
    /// Configured receivers of notices.
    pub receivers: Vec<ReceiverStatus>,
    /// Silences that hold now.
    pub silences: u32,
    /// Notices that silences or worse incidents hold back now.
    pub notices_muted: u64,
    /// Escalations for want of an acknowledgement, ever.
    pub notices_escalated: u64,
    /// Notices that went to the receiver of last resort, ever.
    pub notices_rescued: u64,
    /// From an alert's first event until it was raised, each alert once.
    pub detection: Latencies,
    /// From an incident's first event until an action's effect was read back, each action once.
    pub containment: Latencies,
    /// From an incident's opening until somebody acknowledged it first.
    pub acknowledgement: Latencies,
    /// The newest self-test.
    pub self_test: Option<SelfTest>,
}

/// A receiver of notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverStatus {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Since when nothing was delivered although something was tried.
    pub failing_us: Option<Micros>,
    /// Notices that wait for it.
    pub waiting: u64,
    /// Notices given up, ever.
    pub dead: u64,
}

/// Upper bounds of what programs take, in seconds.
const PROGRAM_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 60.0, 3600.0];
/// Upper bounds of what people take: a minute to a day.
const PEOPLE_SECONDS: &[f64] = &[60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0];

/// An alarm needs a sample of each, also while there is none.
const SEVERITIES: [Severity; 5] = [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// Upper bounds in seconds, and how many took no longer than each.
    pub below: Vec<(f64, u64)>,
    /// How many there are.
    pub count: u64,
    /// Their sum in seconds.
    pub seconds: f64,
}

/// Reads them.
pub fn read(data_dir: &Path, now_us: Micros) -> Result<Status, StoreError> {
    Store::open_existing(data_dir)?.read_now(|db| {
        Ok(Status {
            incidents: by_state(db, "SELECT state, count(*) FROM incidents GROUP BY state")?,
            open: open(db)?,
            oldest_us: db.query_row(OLDEST, [], |row| row.get(0))?,
            actions: by_state(db, "SELECT state, count(*) FROM actions GROUP BY state")?,
            held: db.query_row(HELD, [], |row| row.get::<_, i64>(0))?.unsigned_abs(),
            notices: by_state(db, "SELECT state, count(*) FROM notices GROUP BY state")?,
            disables_last_hour: outbox::disables_last_hour(db, now_us)?,
            paused: standing::is_paused(db)?,
            tripped: u64::try_from(standing::now(db)?.tripped.len()).unwrap_or(u64::MAX),
            alerts_refused: store::counted(db, "refused")?.unsigned_abs(),
            receivers: receivers(db)?,
            silences: silence::active(db, now_us)?,
            notices_muted: db
                .query_row("SELECT count(*) FROM tellings WHERE muted_by IS NOT NULL", [], |row| row.get::<_, i64>(0))?
                .unsigned_abs(),
            notices_escalated: store::counted(db, "notices/escalated")?.unsigned_abs(),
            notices_rescued: store::counted(db, "notices/rescued")?.unsigned_abs(),
            detection: latencies(db, DETECTION, PROGRAM_SECONDS)?,
            containment: latencies(db, CONTAINMENT, PROGRAM_SECONDS)?,
            acknowledgement: latencies(db, ACKNOWLEDGEMENT, PEOPLE_SECONDS)?,
            self_test: self_test::last(db)?,
        })
    })
}

const HELD: &str = "SELECT count(*) FROM actions JOIN incidents ON incidents.id = actions.incident
  WHERE actions.state = 'suppressed' AND needs_person AND resolved_us IS NULL";

/// What waits for an earlier step, or for people, waits for something else than the key service.
const OLDEST: &str = "SELECT min(planned_us) FROM actions WHERE state IN ('ready', 'leased')";

fn open(db: &Connection) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut open =
        by_state(db, "SELECT severity, count(*) FROM incidents WHERE resolved_us IS NULL GROUP BY severity")?;
    for severity in SEVERITIES {
        open.entry(severity.as_str().to_owned()).or_default();
    }
    Ok(open)
}

fn receivers(db: &Connection) -> Result<Vec<ReceiverStatus>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT name, kind, failing_us, (SELECT count(*) FROM notices WHERE channel = name AND state = 'ready'),
           coalesce((SELECT value FROM counts WHERE counts.name = 'dead/' || receivers.name), 0)
         FROM receivers WHERE active = 1 ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ReceiverStatus {
            name: row.get(0)?,
            kind: row.get(1)?,
            failing_us: row.get(2)?,
            waiting: row.get::<_, i64>(3)?.unsigned_abs(),
            dead: row.get::<_, i64>(4)?.unsigned_abs(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

const DETECTION: &str = "SELECT min(detected_us) - min(first_event_us) FROM alerts WHERE NOT ours GROUP BY alert_id";
const CONTAINMENT: &str = "SELECT finished_us - first_event_us FROM actions JOIN incidents ON incidents.id = incident
  WHERE actions.state = 'done' AND undo_of IS NULL";

const ACKNOWLEDGEMENT: &str =
    "SELECT first_acknowledged_us - opened_us FROM incidents WHERE first_acknowledged_us IS NOT NULL";

fn latencies(db: &Connection, sql: &str, bounds: &[f64]) -> Result<Latencies, StoreError> {
    let below = bounds.iter().map(|bound| (*bound, 0)).collect();
    let mut found = Latencies { below, ..Latencies::default() };
    let mut statement = db.prepare_cached(sql)?;
    for micros in statement.query_map([], |row| row.get::<_, i64>(0))? {
        let seconds = micros?.max(0) as f64 / 1e6;
        found.count += 1;
        found.seconds += seconds;
        for (bound, below) in &mut found.below {
            *below += u64::from(seconds <= *bound);
        }
    }
    Ok(found)
}

fn by_state(db: &Connection, sql: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::incident::{self, Deed, Resolution, person};
    use crate::outbox::{ActionState, End, Start};
    use crate::plan::{Known, plan};
    use crate::testing::{Bench, event, playbook_of};
    use std::time::Duration;

    const SECOND_US: Micros = 1_000_000;

    #[test]
    fn what_is_open_what_waits_and_how_long_people_took_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let alert = Bench::new().alert("key-policy-public", vec![event("PutKeyPolicy").by("mallory").on_key("k1")]);
        let alert = alert.severity(Severity::High).verified();
        let playbooks = [playbook_of("opened", "key-policy-public", r#"{ action = "disable_key" }"#)];
        let at = |seconds: i64| alert.alert().detected_at_micros + seconds * SECOND_US;
        let (id, action) = store
            .write_now(|tx| {
                let (id, _) = incident::find_or_open(tx, &alert, Duration::from_secs(3600), at(0))?;
                incident::join(tx, &id, &alert, false, at(0))?;
                let proposal = plan(&alert, &id, &Known::default(), &playbooks, true, at(0)).remove(0);
                let start =
                    Start { state: ActionState::Ready, reason: None, needs_person: false, next_attempt_us: at(0) };
                outbox::insert(tx, &proposal, None, &start, at(5))?;
                let action = outbox::one(tx, &proposal.id)?.unwrap();
                Ok((id, action))
            })
            .unwrap();
        let status = || read(dir.path(), at(60)).unwrap();
        assert_eq!(status().oldest_us, Some(at(5)));
        let all: Vec<(String, u64)> = status().open.into_iter().collect();
        let expected =
            ["critical", "high", "info", "low", "medium"].map(|one| (one.to_owned(), u64::from(one == "high")));
        assert_eq!(all, expected);
        assert_eq!(status().acknowledgement.count, 0);
        store.write_now(|tx| outbox::finish(tx, &action, &End::not_done(ActionState::Dead, "never"), at(50))).unwrap();
        assert_eq!(status().oldest_us, None, "nothing is left that could be carried out");
        let deed = |deed: Deed, seconds| person::act(&store, id.as_str(), "ann", &deed, at(seconds)).unwrap();
        deed(Deed::Acknowledge, 400);
        deed(Deed::Close(Resolution::Benign, None), 500);
        assert_eq!(status().open["high"], 0);
        deed(Deed::Reopen(None), 600);
        deed(Deed::Acknowledge, 90_000);
        let took = status().acknowledgement;
        assert_eq!((took.count, took.seconds), (1, 400.0), "the first time counts, once");
        let below: Vec<u64> = took.below.iter().map(|(_, count)| *count).collect();
        assert_eq!(below, [0, 0, 1, 1, 1, 1, 1]);
    }
}
