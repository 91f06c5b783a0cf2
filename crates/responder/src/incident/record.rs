//! Tells the log of each timeline entry: `KeytrailService.RecordIncident`, in order, at least once.
//!
//! What was not told yet stands in `timeline_unsent`, put there by the transaction that wrote the entry. One call is
//! under way at a time and waits after it, so that neither actions nor mail notice. A repeat after a crash has the same
//! numbers and digests. These calls add nothing to a timeline, and no alert is about them.

use super::{IncidentId, timeline};
use crate::act::{Control, ControlError};
use crate::store::{Store, StoreError};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Entries in one call; the key service takes as many.
const ENTRIES_MAX: u32 = 32;
/// Between two calls: some fifty a second.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time without looking for entries.
const POLL: Duration = Duration::from_millis(500);
/// After a failure, doubled each time, up to the second.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Tells the log.
pub(crate) struct Recorder {
    pub(crate) store: Store,
    pub(crate) kms: Arc<dyn Control>,
}

/// Why entries are not in the log yet.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("responder store failed")]
    Store(#[from] StoreError),
    #[error("key service did not record it")]
    Kms(#[from] ControlError),
}

impl Recorder {
    /// Runs until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut failures: u32 = 0;
        while !*stop.borrow() {
            let wait = match self.send_next().await {
                Ok(sent) => {
                    failures = 0;
                    if sent { PAUSE } else { POLL }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, failures, "timeline is recorded later");
                    failures += 1;
                    RETRY_FIRST.saturating_mul(1 << failures.min(12)).min(RETRY_MAX)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Sends the oldest entries of one incident; false when there are none.
    async fn send_next(&self) -> Result<bool, RecordError> {
        let Some((id, body, last)) = self.store.read(next).await? else { return Ok(false) };
        let answer = self.kms.call("KeytrailService.RecordIncident", body, None).await?;
        fail::fail_point!("responder::after_record", |_| std::process::abort());
        self.store.write(move |tx| sent(tx, &id, last, answer.log_seq)).await?;
        Ok(true)
    }
}

/// Entry and number of the last one in a call.
type Last = (i64, u64);

fn next(db: &Connection) -> Result<Option<(IncidentId, Value, Last)>, StoreError> {
    let first = db
        .prepare_cached("SELECT incident FROM timeline_unsent ORDER BY entry LIMIT 1")?
        .query_row([], |row| row.get::<_, String>(0))
        .optional()?;
    let Some(id) = first.map(|id| IncidentId::new(&id)) else { return Ok(None) };
    let mut statement = db.prepare_cached(&format!(
        "SELECT {} FROM {} JOIN timeline_unsent u ON u.entry = t.id WHERE u.incident = ?1 ORDER BY u.entry LIMIT ?2",
        timeline::COLUMNS,
        timeline::TABLES
    ))?;
    let entries = statement.query_map(params![id.as_str(), ENTRIES_MAX], timeline::entry)?;
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    let Some(last) = entries.last().map(|entry| (entry.id, entry.number)) else { return Ok(None) };
    let told: Vec<Value> = entries
        .iter()
        .map(|entry| {
            json!({
                "Number": entry.number, "AtMicros": entry.at_us, "Kind": entry.kind, "Text": entry.text,
                "Digest": entry.digest,
            })
        })
        .collect();
    let body = json!({ "IncidentId": id.as_str(), "Entries": told });
    Ok(Some((id, body, last)))
}

fn sent(tx: &Transaction<'_>, id: &IncidentId, (entry, number): Last, seq: Option<i64>) -> Result<(), StoreError> {
    tx.execute("DELETE FROM timeline_unsent WHERE incident = ?1 AND entry <= ?2", params![id.as_str(), entry])?;
    tx.execute(
        "INSERT INTO timeline_recorded(incident, through, log_seq) VALUES (?1, ?2, ?3)
         ON CONFLICT(incident) DO UPDATE SET through = max(through, ?2), log_seq = ?3",
        params![id.as_str(), number.cast_signed(), seq],
    )?;
    Ok(())
}
