//! A responder in numbers, for whoever watches it: what is open, what waits, what was held or given up.
//!
//! Read from `responder.db` alone, so that any process of the folder can tell.

use crate::notify::silence;
use crate::outbox;
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
    /// Actions by state: `ready` and `leased` are under way, `dead` and `failed` did not work.
    pub actions: BTreeMap<String, u64>,
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

/// Upper bounds of [`Latencies::below`], in seconds.
pub const LATENCY_SECONDS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 10.0, 60.0, 3600.0];

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// How many took no longer than each of [`LATENCY_SECONDS`].
    pub below: [u64; LATENCY_SECONDS.len()],
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
            detection: latencies(db, DETECTION)?,
            containment: latencies(db, CONTAINMENT)?,
            self_test: self_test::last(db)?,
        })
    })
}

const HELD: &str = "SELECT count(*) FROM actions JOIN incidents ON incidents.id = actions.incident
  WHERE actions.state = 'suppressed' AND needs_person AND resolved_us IS NULL";

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

fn latencies(db: &Connection, sql: &str) -> Result<Latencies, StoreError> {
    let mut found = Latencies::default();
    let mut statement = db.prepare_cached(sql)?;
    for micros in statement.query_map([], |row| row.get::<_, i64>(0))? {
        let seconds = micros?.max(0) as f64 / 1e6;
        found.count += 1;
        found.seconds += seconds;
        for (bound, below) in LATENCY_SECONDS.iter().zip(&mut found.below) {
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
