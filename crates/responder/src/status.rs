//! A responder in numbers, for whoever watches it: what is open, what waits, what was held or given up.
//!
//! Read from `responder.db` alone, so that any process of the folder can tell.

use crate::outbox;
use crate::standing;
use crate::store::{self, Micros, Store, StoreError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// The numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        })
    })
}

const HELD: &str = "SELECT count(*) FROM actions JOIN incidents ON incidents.id = actions.incident
  WHERE actions.state = 'suppressed' AND needs_person AND resolved_us IS NULL";

fn by_state(db: &Connection, sql: &str) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
