//! What of closed incidents leaves after `[responder] keep`: timelines, notices, facts of alerts, judgements, bundles.
//!
//! What stays is small and still needed: the incident with its marks, its alerts (a repeat must be known), its actions (calls
//! of ours must be known, and what a restore goes back to follows from them), who was told how often, and what guards count
//! by. An incident that is
//! open, or part of an open one, loses nothing. The timeline says in a last entry what leaves, and nothing does before the
//! log has that entry, and with it all before: `keytrail incident check` compares what is left with the log. One bounded
//! batch is one transaction, so that nobody waits for it.

use crate::guard::micros;
use crate::incident::{IncidentId, timeline};
use crate::store::{Micros, Store, StoreError, now_us};
use keytrail_kms::clock::Clock;
use rusqlite::{OptionalExtension as _, Transaction, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Shortest time that may be configured. The key service remembers action ids for 30 days.
pub(crate) const KEEP_MIN: Duration = Duration::from_secs(35 * 86_400);
/// Between two looks for incidents that are old enough.
const LOOK: Duration = Duration::from_secs(10);
/// Between two batches.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows of one batch.
const ROWS_MAX: u32 = 500;

/// The schema step of this file. `leaves` is the number of the entry that says so, until all before it has gone.
pub(crate) const SCHEMA: &str = "
ALTER TABLE incidents ADD COLUMN leaves INTEGER;
ALTER TABLE incidents ADD COLUMN left_us INTEGER;
CREATE INDEX incidents_leave ON incidents(leaves) WHERE leaves IS NOT NULL;
CREATE INDEX incidents_resolved ON incidents(resolved_us) WHERE resolved_us IS NOT NULL;
CREATE INDEX notices_incident ON notices(incident) WHERE incident IS NOT NULL;
DROP TRIGGER timeline_no_delete;
CREATE TRIGGER timeline_no_delete BEFORE DELETE ON timeline
  WHEN NOT EXISTS (SELECT 1 FROM timeline_links l JOIN incidents i ON i.id = l.incident
    WHERE l.entry = OLD.id AND l.number < i.leaves)
  BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
DROP TRIGGER timeline_links_no_delete;
CREATE TRIGGER timeline_links_no_delete BEFORE DELETE ON timeline_links
  WHEN NOT EXISTS (SELECT 1 FROM incidents i WHERE i.id = OLD.incident AND OLD.number < i.leaves)
  BEGIN SELECT RAISE(ABORT, 'timeline is append-only'); END;
";

/// What else leaves: rows of these tables, by their incident or by their action's.
const LEAVING: [&str; 5] = [
    "notices WHERE incident = ?1 AND state <> 'ready'",
    "alert_facts WHERE incident = ?1",
    "refused_calls WHERE incident = ?1",
    "judgements WHERE action IN (SELECT id FROM actions WHERE incident = ?1)",
    "unread_changes WHERE action IN (SELECT id FROM actions WHERE incident = ?1)",
];

/// Lets old incidents go.
pub(crate) struct Retention {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) data_dir: PathBuf,
    pub(crate) keep: Duration,
}

impl Retention {
    /// Runs until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let wait = match self.step().await {
                Ok(true) => PAUSE,
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "closed incidents cannot be let go");
                    LOOK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// One batch; false when there is nothing to do.
    pub(crate) async fn step(&self) -> Result<bool, StoreError> {
        let now = now_us(self.clock.as_ref());
        let before = now.saturating_sub(micros(self.keep));
        let keep_days = self.keep.as_secs() / 86_400;
        let step = self.store.write(move |tx| {
            call_off(tx)?;
            if let Some((id, leaves)) = leaving(tx)? {
                return Ok(Some(batch(tx, &id, leaves)?.map_or(Step::Emptied(id), Step::Rows)));
            }
            Ok(announce(tx, before, keep_days, now)?.map(Step::Announced))
        });
        match step.await? {
            None => return Ok(false),
            Some(Step::Rows(rows)) => tracing::debug!(rows, "rows of a closed incident left"),
            Some(Step::Announced(id)) => {
                tracing::info!(
                    incident_id = id.as_str(),
                    keep_days,
                    "a closed incident's timeline, notices and bundles leave"
                );
            }
            Some(Step::Emptied(id)) => {
                let (dir, of) = (self.data_dir.clone(), id.clone());
                let gone = tokio::task::spawn_blocking(move || remove_bundles(&dir, &of)).await;
                if let Ok(Err(error)) = gone {
                    tracing::error!(
                        incident_id = id.as_str(),
                        error = &error as &dyn std::error::Error,
                        "bundles of a closed incident stay"
                    );
                }
                self.store.write(move |tx| done(tx, &id)).await?;
            }
        }
        Ok(true)
    }
}

enum Step {
    Announced(IncidentId),
    Rows(usize),
    Emptied(IncidentId),
}

/// What was opened again before anything left stays, and so does what is part of it. Once the first entries have gone the rest
/// follows, or the timeline would begin anywhere.
fn call_off(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE incidents SET leaves = NULL, left_us = NULL
         WHERE leaves IS NOT NULL
           AND (resolved_us IS NULL OR resolved_us >= left_us
             OR EXISTS (SELECT 1 FROM incidents h WHERE h.id = incidents.merged_into AND h.resolved_us IS NULL))
           AND EXISTS (SELECT 1 FROM timeline t JOIN timeline_links l ON l.entry = t.id
             WHERE t.incident = incidents.id AND (l.number = 1 OR (t.kind = ?1 AND l.number < incidents.leaves)))",
    )?
    .execute([timeline::LEAVES])?;
    Ok(())
}

/// An incident that leaves, and the number of the entry that says so, which the log has.
fn leaving(tx: &Transaction<'_>) -> Result<Option<(IncidentId, i64)>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT i.id, i.leaves FROM incidents i JOIN timeline_recorded r ON r.incident = i.id
         WHERE i.leaves IS NOT NULL AND r.through >= i.leaves LIMIT 1",
    )?;
    Ok(statement.query_row([], |row| Ok((IncidentId::new(&row.get::<_, String>(0)?), row.get(1)?))).optional()?)
}

/// Some rows less; nothing when there are none any more.
fn batch(tx: &Transaction<'_>, id: &IncidentId, leaves: i64) -> Result<Option<usize>, StoreError> {
    // The entry first: its trigger asks its link.
    let old = "SELECT entry FROM timeline_links WHERE incident = ?1 AND number < ?2 ORDER BY number LIMIT ?3";
    let which = params![id.as_str(), leaves, ROWS_MAX];
    let gone = tx.prepare_cached(&format!("DELETE FROM timeline WHERE id IN ({old})"))?.execute(which)?;
    tx.prepare_cached(&format!("DELETE FROM timeline_links WHERE entry IN ({old})"))?.execute(which)?;
    if gone > 0 {
        return Ok(Some(gone));
    }
    for table in LEAVING {
        let name = table.split_once(' ').map_or(table, |(name, _)| name);
        let sql = format!("DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {table} LIMIT ?2)");
        let gone = tx.prepare_cached(&sql)?.execute(params![id.as_str(), ROWS_MAX])?;
        if gone > 0 {
            return Ok(Some(gone));
        }
    }
    Ok(None)
}

/// Writes into the timeline of one incident that it leaves.
fn announce(
    tx: &Transaction<'_>,
    before_us: Micros,
    keep_days: u64,
    now_us: Micros,
) -> Result<Option<IncidentId>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT i.id FROM incidents i LEFT JOIN incidents home ON home.id = i.merged_into
         WHERE i.resolved_us < ?1 AND i.leaves IS NULL AND (i.left_us IS NULL OR i.left_us <= i.resolved_us)
           AND (home.id IS NULL OR home.resolved_us < ?1)
           AND NOT EXISTS (SELECT 1 FROM actions a WHERE a.incident = i.id
             AND a.state IN ('planned', 'awaiting_approval', 'ready', 'leased'))
         ORDER BY i.resolved_us LIMIT 1",
    )?;
    let found: Option<String> = statement.query_row([before_us], |row| row.get(0)).optional()?;
    let Some(id) = found.map(|id| IncidentId::new(&id)) else { return Ok(None) };
    let text = format!(
        "closed for longer than {keep_days} days: the entries before this one, notices, facts and bundles leave \
         responder.db; the log has the entries"
    );
    timeline::append(tx, &id, now_us, timeline::LEAVES, &text)?;
    let (number, _) = timeline::end(tx, &id)?;
    tx.prepare_cached("UPDATE incidents SET leaves = ?2, left_us = ?3 WHERE id = ?1")?.execute(params![
        id.as_str(),
        number.cast_signed(),
        now_us
    ])?;
    Ok(Some(id))
}

fn done(tx: &Transaction<'_>, id: &IncidentId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE incidents SET leaves = NULL WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Only a folder that an id of ours names: whoever can write to the file must not name another one.
fn remove_bundles(data_dir: &Path, id: &IncidentId) -> std::io::Result<()> {
    let digits = id.as_str().strip_prefix("I-").unwrap_or_default();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    match std::fs::remove_dir_all(data_dir.join("incidents").join(id.as_str())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::incident::timeline::{Recorded, TimelineEntry, agree, fault};
    use crate::incident::{self, Deed, IncidentDetail, Resolution, person};
    use crate::testing::{Bench, event};
    use keytrail_kms::clock::FakeClock;

    const KEEP: Duration = Duration::from_secs(400 * 86_400);

    struct Rig {
        dir: tempfile::TempDir,
        retention: Retention,
        clock: Arc<FakeClock>,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let clock = Arc::new(FakeClock::default());
            let retention = Retention {
                store: Store::open(dir.path()).unwrap(),
                clock: Arc::<FakeClock>::clone(&clock),
                data_dir: dir.path().to_owned(),
                keep: KEEP,
            };
            Self { dir, retention, clock }
        }

        fn now(&self) -> Micros {
            now_us(self.clock.as_ref())
        }

        fn open(&self, who: &str) -> IncidentId {
            let alert = Bench::new().alert("denied-burst", vec![event("Decrypt").denied().by(who)]).verified();
            let now = self.now();
            self.retention
                .store
                .write_now(|tx| {
                    let (id, _) = incident::find_or_open(tx, &alert, Duration::from_secs(3600), now)?;
                    incident::join(tx, &id, &alert, false, now)?;
                    for table in ["alert_facts(alert_id, revision, incident, labels, queries) VALUES (?1, 0, ?1, '', '')",
                        "tellings(incident, receiver, occasion) VALUES (?1, 'mail', 'news')",
                        "notices(dedup, incident, channel, number, message_id, subject, body, state, created_us, next_attempt_us)
                           VALUES (?1, ?1, 'mail', 1, '', '', '', 'sent', 1, 1)"] {
                        tx.execute(&format!("INSERT INTO {table}"), [id.as_str()])?;
                    }
                    Ok(id)
                })
                .unwrap()
        }

        fn act(&self, id: &IncidentId, deed: Deed) {
            person::act(&self.retention.store, id.as_str(), "ann", &deed, self.now()).unwrap();
        }

        /// As the recorder does: the log has all of it.
        fn record(&self) {
            let sql = "DELETE FROM timeline_unsent;
                INSERT OR REPLACE INTO timeline_recorded SELECT incident, max(number), 1 FROM timeline_links GROUP BY incident";
            self.retention.store.write_now(|tx| Ok(tx.execute_batch(sql)?)).unwrap();
        }

        async fn run(&self) -> usize {
            let mut steps = 0;
            while self.retention.step().await.unwrap() {
                steps += 1;
                assert!(steps < 50, "it comes to an end");
            }
            steps
        }

        fn shown(&self, id: &IncidentId) -> IncidentDetail {
            incident::show(self.dir.path(), id.as_str()).unwrap().unwrap()
        }

        fn rows(&self, table: &str) -> i64 {
            let sql = format!("SELECT count(*) FROM {table}");
            self.retention.store.read_now(|db| Ok(db.query_row(&sql, [], |row| row.get(0))?)).unwrap()
        }
    }

    fn told(entries: &[TimelineEntry]) -> Vec<Recorded> {
        let one = |entry: &TimelineEntry| Recorded {
            number: entry.number,
            at_micros: entry.at_us,
            kind: entry.kind.clone(),
            text: entry.text.clone(),
            digest: entry.digest.clone(),
        };
        entries.iter().map(one).collect()
    }

    #[tokio::test]
    async fn a_closed_incident_leaves_once_the_log_has_all_of_it_and_what_is_left_agrees_with_the_log() {
        let rig = Rig::new();
        let (old, open) = (rig.open("eve"), rig.open("mallory"));
        let kept = rig.shown(&open).timeline;
        let bundles = rig.dir.path().join("incidents").join(old.as_str());
        std::fs::create_dir_all(&bundles).unwrap();
        std::fs::write(bundles.join("b.json"), "{}").unwrap();
        rig.act(&old, Deed::Close(Resolution::Benign, None));
        rig.clock.advance(KEEP - Duration::from_secs(1));
        assert_eq!(rig.run().await, 0, "not yet");
        rig.clock.advance(Duration::from_secs(2));
        assert_eq!(rig.run().await, 1, "said, and then waits for the log");
        let whole = rig.shown(&old).timeline;
        assert!(whole.len() > 2 && bundles.exists());
        rig.record();
        assert!(rig.run().await > 1);
        let left = rig.shown(&old).timeline;
        assert_eq!((left.len(), left.as_slice()), (1, &whole[whole.len() - 1..]));
        assert_eq!(rig.shown(&old).summary.resolution.as_deref(), Some("benign"));
        assert_eq!(rig.shown(&old).alerts.len(), 1, "a repeat is known");
        assert!(!bundles.exists());
        assert_eq!([rig.rows("notices"), rig.rows("alert_facts")], [1, 1], "the open one's");
        assert_eq!(rig.rows("tellings"), 2, "numbers of notices go on");
        assert_eq!(rig.shown(&open).timeline, kept);
        // Checked against the log, as `keytrail incident check` does.
        let log = told(&whole);
        assert_eq!(fault(&left), None);
        assert_eq!(agree(&left, &log), Ok(left[0].number));
        assert!(agree(&left, &log[..log.len() - 1]).is_err(), "the log must know that it left");
        let mut other = left;
        other[0].text.push('x');
        assert!(agree(&other, &log).is_err());
        assert!(fault(&whole[1..]).is_some(), "only where it says so");
    }

    #[tokio::test]
    async fn nothing_of_an_open_incident_leaves_and_what_comes_later_leaves_again() {
        let rig = Rig::new();
        let (part, home) = (rig.open("eve"), rig.open("mallory"));
        rig.act(&part, Deed::Merge(home.to_string()));
        rig.clock.advance(KEEP + Duration::from_secs(1));
        rig.record();
        assert_eq!(rig.run().await, 0, "it is part of an open one");
        rig.act(&home, Deed::Close(Resolution::Benign, None));
        rig.clock.advance(KEEP + Duration::from_secs(1));
        assert_eq!(rig.run().await, 2);
        rig.record();
        rig.run().await;
        assert_eq!(rig.shown(&home).timeline.len(), 2, "the last entry of each");
        rig.act(&home, Deed::Reopen(None));
        rig.record();
        assert_eq!(rig.run().await, 0);
        let entries: Vec<TimelineEntry> =
            rig.shown(&home).timeline.into_iter().filter(|entry| entry.incident == home).collect();
        assert!(entries.len() > 1);
        assert_eq!(fault(&entries), None, "it goes on where it ended");
        rig.act(&home, Deed::Close(Resolution::Benign, None));
        rig.clock.advance(KEEP + Duration::from_secs(1));
        assert_eq!(rig.run().await, 1);
    }

    #[tokio::test]
    async fn what_is_opened_again_before_it_left_stays() {
        let rig = Rig::new();
        let (part, home) = (rig.open("eve"), rig.open("mallory"));
        rig.act(&part, Deed::Merge(home.to_string()));
        rig.act(&home, Deed::Close(Resolution::Benign, None));
        rig.clock.advance(KEEP + Duration::from_secs(1));
        assert_eq!(rig.run().await, 2, "both were said to leave");
        rig.act(&home, Deed::Reopen(None));
        rig.record();
        let before = rig.shown(&home).timeline;
        assert_eq!(rig.run().await, 0);
        assert_eq!(rig.shown(&home).timeline, before);
        let own: Vec<TimelineEntry> = before.into_iter().filter(|entry| entry.incident == home).collect();
        assert_eq!((own[0].number, fault(&own)), (1, None), "an entry that was said in vain is one like any other");
        rig.act(&home, Deed::Close(Resolution::Benign, None));
        rig.clock.advance(KEEP + Duration::from_secs(1));
        assert_eq!(rig.run().await, 2);
        rig.record();
        rig.run().await;
        assert_eq!(rig.shown(&home).timeline.len(), 2);
    }

    #[test]
    fn a_folder_that_no_id_of_ours_names_stays() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("journal");
        std::fs::create_dir_all(&elsewhere).unwrap();
        for id in ["../journal", "", ".", "I-", "I-../../journal", "I-00000000000g"] {
            remove_bundles(dir.path(), &IncidentId::new(id)).unwrap();
        }
        assert!(elsewhere.exists());
    }

    #[test]
    fn entries_that_do_not_leave_cannot_be_deleted() {
        let rig = Rig::new();
        rig.open("eve");
        let first = "DELETE FROM timeline WHERE id = (SELECT min(id) FROM timeline)";
        for sql in [first, "DELETE FROM timeline_links"] {
            assert!(rig.retention.store.write_now(|tx| Ok(tx.execute(sql, [])?)).is_err(), "{sql}");
        }
    }
}
