//! Tells the key service's log how the responder stands: each entry of `standing` once, and a heartbeat between them.
//!
//! At least once: an entry whose answer was lost is told again with the same number. The heartbeat is what rule
//! `responder-down` misses when this process, its credential or the way to the key service is gone.

use crate::act::{Control, ControlError};
use crate::standing;
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::clock::Clock;
use serde_json::{Value, json};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the table is looked at: a command of another process may have added to it.
const POLL: Duration = Duration::from_millis(500);
/// Rule `responder-down` waits for three of them.
const HEARTBEAT: Duration = Duration::from_mins(5);
/// Longest wait after a failed call.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Entries told in one go.
const ENTRIES_MAX: u32 = 32;

/// Sends what the log does not know.
pub(crate) struct Reporter {
    pub(crate) store: Store,
    pub(crate) kms: Arc<dyn Control>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) enforce: bool,
}

/// Why nothing was told.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("standing cannot be read")]
    Store(#[from] StoreError),
    #[error("log cannot be told")]
    Control(#[from] ControlError),
}

impl Reporter {
    /// Works until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut beat, mut wait) = (Instant::now() + HEARTBEAT, POLL);
        while !*stop.borrow() {
            wait = match self.turn(&mut beat).await {
                Ok(()) => POLL,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, "the log was not told how the responder stands");
                    wait.saturating_mul(2).min(RETRY_MAX)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn turn(&self, beat: &mut Instant) -> Result<(), ReportError> {
        for entry in self.store.read(|db| standing::unreported(db, ENTRIES_MAX)).await? {
            let body = json!({
                "EntryId": entry.id, "Kind": entry.kind.as_str(), "Subject": entry.subject, "By": entry.by,
                "Reason": entry.reason, "Detail": entry.detail,
            });
            let log_seq = self.tell(body).await?;
            self.store.write(move |tx| standing::reported(tx, entry.id, log_seq)).await?;
        }
        if Instant::now() >= *beat {
            self.tell(self.heartbeat().await?).await?;
            *beat = Instant::now() + HEARTBEAT;
        }
        Ok(())
    }

    async fn heartbeat(&self) -> Result<Value, StoreError> {
        let now = self.store.read(standing::now).await?;
        let detail = json!({
            "mode": if self.enforce { "enforce" } else { "observe" },
            "paused": now.paused.is_some(),
            "tripped": now.tripped.iter().map(|trip| trip.subject.as_str()).collect::<Vec<_>>(),
            "clockMicros": Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX),
        });
        Ok(json!({
            "Kind": "heartbeat", "Subject": standing::EVERYTHING, "By": "keytrail/responder", "Reason": "at work",
            "Detail": detail.to_string(),
        }))
    }

    async fn tell(&self, body: Value) -> Result<i64, ControlError> {
        let answer = self.kms.call("KeytrailService.ReportResponder", body, None).await?;
        // An answer without a number is still a record; entries only have to know that there is one.
        Ok(answer.log_seq.unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::FakeKms;
    use keytrail_kms::clock::FakeClock;

    fn reporter(dir: &std::path::Path, kms: &Arc<FakeKms>) -> Reporter {
        let kms: Arc<dyn Control> = kms.clone();
        Reporter { store: Store::open(dir).unwrap(), kms, clock: Arc::new(FakeClock::default()), enforce: true }
    }

    #[tokio::test]
    async fn each_entry_is_told_once_and_again_after_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let kms = FakeKms::open(&dir.path().join("effects"));
        let reporter = reporter(dir.path(), &kms);
        reporter
            .store
            .write_now(|tx| {
                standing::pause(tx, "ann", "migration", 1).unwrap();
                Ok(())
            })
            .unwrap();
        let mut beat = Instant::now() + HEARTBEAT;
        kms.unreachable_for(1);
        assert!(reporter.turn(&mut beat).await.is_err());
        assert!(kms.reports().is_empty());
        reporter.turn(&mut beat).await.unwrap();
        reporter.turn(&mut beat).await.unwrap();
        let reports = kms.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!((&reports[0]["Kind"], &reports[0]["By"]), (&json!("pause"), &json!("ann")));
        assert_eq!(reporter.store.read_now(standing::now).unwrap().unreported, 0);
    }

    #[tokio::test]
    async fn a_heartbeat_says_how_things_stand() {
        let dir = tempfile::tempdir().unwrap();
        let kms = FakeKms::open(&dir.path().join("effects"));
        let reporter = reporter(dir.path(), &kms);
        reporter.store.write_now(|tx| standing::trip(tx, standing::EVERYTHING, "3 keys", 1)).unwrap();
        let mut beat = Instant::now();
        reporter.turn(&mut beat).await.unwrap();
        reporter.turn(&mut beat).await.unwrap();
        let kinds: Vec<Value> = kms.reports().iter().map(|report| report["Kind"].clone()).collect();
        assert_eq!(kinds, ["trip", "heartbeat"], "the next one is due in five minutes");
        let detail: Value = serde_json::from_str(kms.reports()[1]["Detail"].as_str().unwrap()).unwrap();
        assert_eq!((&detail["tripped"], &detail["paused"]), (&json!(["*"]), &json!(false)));
    }
}
