//! What waits for a moment, after the clock was set back: it goes on waiting for as long as it would have.
//!
//! The store holds moments, not durations, since both survive a restart and only one needs no running process. A clock that
//! went back by a day would else put each retry, look and notice a day off. Noticed by the last time that was seen, which is
//! kept in the store too. What was counted within an hour stays counted for that much longer: limits err on the safe side.

use crate::store::{Micros, Store, StoreError, now_us};
use keytrail_kms::clock::Clock;
use rusqlite::{Connection, OptionalExtension, Transaction};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(200);
/// The last time seen is written down this often: what a restart does not notice is at most as much.
const KEEP_US: Micros = 10_000_000;
/// A clock that is kept right steps by less.
const STEP_US: Micros = 1_000_000;
/// Where the last time seen is kept.
const SEEN: &str = "clock_us";
/// Moments that something waits for.
const AHEAD: [(&str, &str, &str); 8] = [
    ("actions", "next_attempt_us", "state IN ('ready', 'leased')"),
    ("notices", "next_attempt_us", "state = 'ready'"),
    ("approvals", "next_look_us", "state IN ('wanted', 'open', 'using')"),
    ("approvals", "expires_us", "state IN ('wanted', 'open', 'using')"),
    ("resets", "expires_us", "state IN ('wanted', 'open', 'using')"),
    ("tellings", "due_us", "due_us IS NOT NULL"),
    ("tellings", "escalate_us", "escalate_us IS NOT NULL"),
    ("incidents", "check_us", "check_us IS NOT NULL"),
];
/// Moments that something is so and so long after: they cannot lie ahead.
const PASSED: [(&str, &str, &str); 6] = [
    ("notices", "created_us", "state = 'ready'"),
    ("tellings", "since_us", "due_us IS NOT NULL"),
    ("tellings", "told_us", "repeat_us IS NOT NULL"),
    ("incidents", "tell_since_us", "tell_since_us IS NOT NULL"),
    ("incidents", "tell_last_us", "tell_since_us IS NOT NULL"),
    ("receivers", "heartbeat_us", "active = 1"),
];

/// Watches the clock.
pub(crate) struct Waits {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Waits {
    /// Until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut seen_us = None;
        while !*stop.borrow() {
            match self.look(seen_us).await {
                Ok(now_us) => seen_us = Some(now_us),
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "waits cannot be looked at"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Compares with the last time seen, by this process or the one before; the time now.
    async fn look(&self, seen_us: Option<Micros>) -> Result<Micros, StoreError> {
        let now = now_us(self.clock.as_ref());
        let kept = self.store.read(kept).await?;
        let last = seen_us.max(kept);
        let back_us = last.map_or(0, |last| last.saturating_sub(now));
        if back_us > STEP_US {
            tracing::warn!(back_ms = back_us / 1_000, "the clock was set back, waits are moved with it");
            self.store.write(move |tx| set_back(tx, back_us, now)).await?;
        } else if kept.is_none_or(|kept| now.saturating_sub(kept) >= KEEP_US) {
            self.store.write(move |tx| keep(tx, now)).await?;
        }
        Ok(now)
    }
}

fn set_back(tx: &Transaction<'_>, back_us: Micros, now_us: Micros) -> Result<(), StoreError> {
    for (table, column, which) in AHEAD {
        let sql = format!("UPDATE {table} SET {column} = max(?2, {column} - ?1) WHERE {column} > ?2 AND {which}");
        tx.execute(&sql, [back_us, now_us])?;
    }
    for (table, column, which) in PASSED {
        tx.execute(&format!("UPDATE {table} SET {column} = ?1 WHERE {column} > ?1 AND {which}"), [now_us])?;
    }
    keep(tx, now_us)
}

fn kept(db: &Connection) -> Result<Option<Micros>, StoreError> {
    let text: Option<String> =
        db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([SEEN], |row| row.get(0)).optional()?;
    text.map(|text| text.parse().map_err(|_| StoreError::Damaged("time"))).transpose()
}

fn keep(tx: &Transaction<'_>, now_us: Micros) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO meta(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2")?
        .execute([SEEN, &now_us.to_string()])?;
    Ok(())
}
