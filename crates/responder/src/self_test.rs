//! The self-test: a call that must be detected, contained and given back, so that a broken path is noticed before it is needed.
//!
//! A credential that may do nothing calls the key service and is refused. Rule `self-test` makes that an alert, playbook
//! `self-test` quarantines the credential's user, `undo` lifts it: every part that a real incident needs has then worked,
//! and how long each took is kept. A test that does not come through is a page. The incident is below what people are
//! told of, and is closed by the undo.

use crate::act::{Control, ControlError};
use crate::incident::{self, Resolution, UndoError};
use crate::notify::queue;
use crate::outbox::ActionState;
use crate::store::{Micros, Store, StoreError, now_us};
use keytrail_kms::clock::Clock;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The rule that watches for the test's call.
pub const RULE: &str = "self-test";
/// The call: refused, as no policy allows the credential anything.
const CALL: &str = "TrentService.ListKeys";
/// Longest wait for each stage. The budget through Kafka is 3 s; beyond this something is broken.
const STAGE_MAX: Duration = Duration::from_secs(60);
/// How often the store is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Tests that are kept.
const ROWS_MAX: i64 = 10_000;

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Detected, contained and given back.
    Passed,
    /// Detected; playbooks observe, so nothing was contained.
    Observed,
    /// Some stage did not come: the path is broken there.
    Failed,
}

impl Outcome {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Observed => "observed",
            Self::Failed => "failed",
        }
    }
}

/// One test, with the time from the call's event to each stage in microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfTest {
    /// When it began, Unix microseconds.
    pub at_micros: Micros,
    /// How it ended.
    pub outcome: Outcome,
    /// Until its alert was taken in.
    pub detected_micros: Option<Micros>,
    /// Until the effect was read back.
    pub contained_micros: Option<Micros>,
    /// From the wish to undo it until that took effect.
    pub undone_micros: Option<Micros>,
    /// What did not come, for people.
    pub reason: Option<String>,
}

/// Why a test could not be run or kept.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// responder.db.
    #[error("self-test cannot be kept")]
    Store(#[from] StoreError),
    /// The undo.
    #[error("self-test cannot be given back")]
    Undo(#[from] UndoError),
}

/// Runs one test beside a running responder. `caller` calls with the test's credential, `kms` with the responder's own.
pub async fn run(
    data_dir: &Path,
    caller: &dyn Control,
    kms: Arc<dyn Control>,
    clock: Arc<dyn Clock>,
) -> Result<SelfTest, SelfTestError> {
    run_within(data_dir, caller, kms, clock, STAGE_MAX).await
}

async fn run_within(
    data_dir: &Path,
    caller: &dyn Control,
    kms: Arc<dyn Control>,
    clock: Arc<dyn Clock>,
    stage_max: Duration,
) -> Result<SelfTest, SelfTestError> {
    let store = Store::open_existing(data_dir)?;
    let mut test = SelfTest {
        at_micros: now_us(clock.as_ref()),
        outcome: Outcome::Failed,
        detected_micros: None,
        contained_micros: None,
        undone_micros: None,
        reason: None,
    };
    let ended = stages(data_dir, &store, &mut test, caller, kms, &clock, stage_max).await?;
    match ended {
        Ok(outcome) => test.outcome = outcome,
        Err(reason) => test.reason = Some(reason),
    }
    let (kept, now) = (test.clone(), now_us(clock.as_ref()));
    store.write(move |tx| keep(tx, &kept, now)).await?;
    Ok(test)
}

/// The stages in order; the reason where one does not come.
async fn stages(
    data_dir: &Path,
    store: &Store,
    test: &mut SelfTest,
    caller: &dyn Control,
    kms: Arc<dyn Control>,
    clock: &Arc<dyn Clock>,
    stage_max: Duration,
) -> Result<Result<Outcome, String>, SelfTestError> {
    match caller.call(CALL, json!({}), None).await {
        Err(ControlError::Refused { code, .. }) if code.contains("AccessDenied") => {}
        Err(error) => return Ok(Err(format!("the key service did not answer as it should: {error}"))),
        Ok(_) => return Ok(Err("the self-test's credential may list keys: it must not be allowed anything".into())),
    }
    let since = test.at_micros;
    let Some(alert) = wait(store, stage_max, move |db| alert_since(db, since)).await? else {
        return Ok(Err(
            "no alert about the self-test's call: detection is broken, or rule self-test is not there".into()
        ));
    };
    test.detected_micros = Some(alert.received_us - alert.event_us);
    let of = alert.incident.clone();
    let Some((state, finished_us)) = wait(store, stage_max, move |db| quarantine(db, &of, since)).await? else {
        return Ok(Err("no action about the self-test's alert: playbook self-test is not there or holds".into()));
    };
    let outcome = match state {
        ActionState::Done => {
            test.contained_micros = finished_us.map(|at| at - alert.event_us);
            Outcome::Passed
        }
        ActionState::Observed => Outcome::Observed,
        other => return Ok(Err(format!("the self-test's action ended as {other}"))),
    };
    let start = Instant::now();
    // Closed as a test: the next one is no part of it.
    let who = ("the self-test", Resolution::Test);
    let undone = incident::undo(data_dir, &alert.incident, who, kms, Arc::clone(clock), stage_max).await?;
    if !undone.complete {
        return Ok(Err("the self-test's quarantine could not be lifted".into()));
    }
    if outcome == Outcome::Passed {
        test.undone_micros = Some(Micros::try_from(start.elapsed().as_micros()).unwrap_or(Micros::MAX));
    }
    Ok(Ok(outcome))
}

struct Alerted {
    incident: String,
    event_us: Micros,
    received_us: Micros,
}

fn alert_since(db: &Connection, since_us: Micros) -> Result<Option<Alerted>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT incident, last_event_us, received_us FROM alerts
         WHERE rule_id = ?1 AND received_us >= ?2 AND NOT ours ORDER BY received_us LIMIT 1",
    )?;
    let found = statement.query_row(params![RULE, since_us], |row| {
        Ok(Alerted { incident: row.get(0)?, event_us: row.get(1)?, received_us: row.get(2)? })
    });
    Ok(found.optional()?)
}

/// The incident's newest quarantine, once nothing more happens to it.
fn quarantine(
    db: &Connection,
    incident: &str,
    since_us: Micros,
) -> Result<Option<(ActionState, Option<Micros>)>, StoreError> {
    let id = incident::IncidentId::new(incident);
    let actions = crate::outbox::of_incident(db, &id)?;
    let mut planned = actions.into_iter().filter(|action| action.undo_of.is_none() && action.planned_us >= since_us);
    Ok(planned.next_back().filter(|action| action.state.is_final()).map(|action| (action.state, action.finished_us)))
}

/// Looks until there is something, no longer than a stage may take.
async fn wait<T: Send + 'static>(
    store: &Store,
    stage_max: Duration,
    look: impl Fn(&Connection) -> Result<Option<T>, StoreError> + Clone + Send + 'static,
) -> Result<Option<T>, StoreError> {
    let end = Instant::now() + stage_max;
    loop {
        let found = store.read(look.clone()).await?;
        if found.is_some() || Instant::now() >= end {
            return Ok(found);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Keeps the test, and pages when it failed.
fn keep(tx: &rusqlite::Transaction<'_>, test: &SelfTest, now_us: Micros) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO self_tests(at_us, outcome, detected_us, contained_us, undone_us, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            test.at_micros,
            test.outcome.as_str(),
            test.detected_micros,
            test.contained_micros,
            test.undone_micros,
            test.reason
        ],
    )?;
    tx.execute("DELETE FROM self_tests WHERE id <= (SELECT max(id) FROM self_tests) - ?1", [ROWS_MAX])?;
    if let Some(reason) = &test.reason {
        let text = format!("The hourly self-test failed, so a real incident might go unseen or uncontained: {reason}.");
        queue::page(tx, None, "self-test-failed", &text, now_us)?;
    }
    Ok(())
}

/// The newest test that was kept.
pub fn last(db: &Connection) -> Result<Option<SelfTest>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT at_us, outcome, detected_us, contained_us, undone_us, reason FROM self_tests ORDER BY id DESC LIMIT 1",
    )?;
    let row = statement.query_row([], |row| {
        let outcome = match row.get::<_, String>(1)?.as_str() {
            "passed" => Outcome::Passed,
            "observed" => Outcome::Observed,
            _ => Outcome::Failed,
        };
        Ok(SelfTest {
            at_micros: row.get(0)?,
            outcome,
            detected_micros: row.get(2)?,
            contained_micros: row.get(3)?,
            undone_micros: row.get(4)?,
            reason: row.get(5)?,
        })
    });
    Ok(row.optional()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::act::Answer;
    use crate::notify::receivers::{Kind, Receiver};
    use async_trait::async_trait;
    use keytrail_kms::clock::SystemClock;
    use serde_json::Value;

    /// Answers as told, whoever asks.
    struct Says(fn() -> Result<Answer, ControlError>);

    #[async_trait]
    impl Control for Says {
        async fn call(&self, _: &str, _: Value, _: Option<&str>) -> Result<Answer, ControlError> {
            (self.0)()
        }
    }

    fn refused() -> Result<Answer, ControlError> {
        Err(ControlError::Refused { code: "AccessDeniedException".into(), message: String::new() })
    }

    fn allowed() -> Result<Answer, ControlError> {
        Ok(Answer { body: json!({}), log_seq: None })
    }

    /// A test that nobody detects: there is no responder.
    async fn tested(caller: fn() -> Result<Answer, ControlError>) -> (SelfTest, i64) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mail = Receiver { name: "mail".into(), kind: Kind::Smtp, recipients: vec![] };
        store.write_now(|tx| queue::set_receivers(tx, &[mail], 0)).unwrap();
        let (caller, kms) = (Says(caller), Arc::new(Says(refused)));
        let test = run_within(dir.path(), &caller, kms, Arc::new(SystemClock), POLL).await.unwrap();
        assert_eq!(store.read_now(last).unwrap().as_ref(), Some(&test));
        let pages = "SELECT count(*) FROM notices WHERE dedup LIKE 'page/self-test-failed/%'";
        (test, store.read_now(|db| Ok(db.query_row(pages, [], |row| row.get(0))?)).unwrap())
    }

    #[tokio::test]
    async fn a_call_that_nobody_sees_fails_the_test_and_pages() {
        let (test, pages) = tested(refused).await;
        assert_eq!((test.outcome, pages), (Outcome::Failed, 1));
        assert!(test.reason.unwrap().contains("detection"));
    }

    #[tokio::test]
    async fn a_credential_that_may_do_something_is_no_test() {
        let (test, pages) = tested(allowed).await;
        assert_eq!((test.outcome, pages), (Outcome::Failed, 1));
        assert!(test.reason.unwrap().contains("must not"));
    }
}
