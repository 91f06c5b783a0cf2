//! Is an incident contained? Every effect is looked at again, and the log is asked whether anything was used since.
//!
//! The responder believes neither its own outbox nor the absence of alerts: the effects must still be there (`effect`),
//! and the key service must say that nobody in scope made an allowed use after them (`usage`; order of effects is the
//! order of the log). What cannot be told is not contained, and says so. What was used before is the exposure and is kept
//! with the incident. Looked at when the last action took effect, after each alert, when a quarantine ends, and now and
//! then while the incident is not closed.

mod effect;
mod usage;

use crate::act::aws;
use crate::act::{Control, ControlError};
use crate::incident::{self, IncidentId, name_state};
use crate::outbox::{self, Action, ActionState};
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::clock::Clock;
use rusqlite::{Connection, Transaction, params};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

pub(crate) use usage::Scope;

/// Longest time without looking for an incident that is due.
const POLL: Duration = Duration::from_millis(100);
/// Incidents looked at in one go.
const INCIDENTS_MAX: u32 = 16;
/// From one look to the next at an incident that is not closed, doubled each time, up to the second.
const AGAIN_FIRST_US: Micros = 60_000_000;
const AGAIN_MAX_US: Micros = 3_600_000_000;
/// The same where the key service could not tell.
const RETRY_FIRST_US: Micros = 1_000_000;
/// An incident that nobody closes is not looked at any more when nothing has happened for this long.
const STALE_US: Micros = 7 * 86_400_000_000;

/// Looks at incidents.
pub(crate) struct Containment {
    pub(crate) store: Store,
    pub(crate) kms: Arc<dyn Control>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) told: Arc<Notify>,
}

/// What a look needs, as of one moment.
pub(crate) struct Case {
    id: IncidentId,
    /// What this look is for; another value in the store means that something happened meanwhile.
    check_us: Micros,
    checks: u32,
    was_contained: bool,
    checked_through: Option<u64>,
    /// Of this containment: one that comes anew has more to it.
    has_exposure: bool,
    changed_us: Micros,
    /// Done and not undone.
    actions: Vec<Action>,
    principals: Vec<String>,
    keys: Vec<String>,
    /// First and last of the evidence.
    evidence: Option<(u64, u64)>,
}

/// What a look found.
#[derive(Debug, PartialEq)]
enum Finding {
    /// Nothing was used up to this seq.
    Contained { checked_through: u64, exposure: Option<Value> },
    /// Something is gone, or was used.
    Open(String),
    /// Nobody can tell; with a seq, the look goes on there.
    Unknown(String, Option<u64>),
}

impl From<ControlError> for Finding {
    fn from(error: ControlError) -> Self {
        Self::Unknown(format!("not known: {error}"), None)
    }
}

impl Containment {
    /// Runs until `stop` turns true.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            if let Err(error) = self.look_at_due().await {
                tracing::error!(error = &error as &dyn std::error::Error, "containment cannot be judged");
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Looks at what is due.
    pub(crate) async fn look_at_due(&self) -> Result<(), StoreError> {
        let now = self.now_us();
        for case in self.store.read(move |db| due(db, now)).await? {
            let finding = self.look(&case).await;
            let now = self.now_us();
            let told = self.store.write(move |tx| settle(tx, &case, &finding, now)).await?;
            if told {
                self.told.notify_one();
            }
        }
        Ok(())
    }

    async fn look(&self, case: &Case) -> Finding {
        if case.actions.iter().any(aws::is_there) {
            return Finding::Unknown("not known: what is used in an AWS account stands in no log of ours".into(), None);
        }
        match effect::first_gone(self.kms.as_ref(), &case.actions).await {
            Ok(None) => {}
            Ok(Some(what)) => return Finding::Open(what),
            Err(error) => return error.into(),
        }
        let scope = Scope::of(case);
        let from = case.checked_through.unwrap_or_else(|| scope.first_effect().saturating_add(1));
        let checked_through = match usage::since(self.kms.as_ref(), &scope, from).await {
            Ok(usage::Since::Nothing { through }) => through,
            Ok(usage::Since::Used(what)) => return Finding::Open(what),
            Ok(usage::Since::NotYet { through, why }) => return Finding::Unknown(why, through),
            Err(error) => return error.into(),
        };
        let exposure = match (case.has_exposure, case.evidence) {
            (false, Some((first, _))) => {
                usage::exposure(self.kms.as_ref(), case, first, scope.last_effect()).await.ok()
            }
            _ => None,
        };
        Finding::Contained { checked_through, exposure }
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}

fn due(db: &Connection, now_us: Micros) -> Result<Vec<Case>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id, check_us, checks, contained_us IS NOT NULL, checked_through,
           exposure IS NOT NULL AND contained_us IS NOT NULL, changed_us
         FROM incidents WHERE check_us <= ?1 AND resolved_us IS NULL ORDER BY check_us LIMIT ?2",
    )?;
    let rows = statement.query_map(params![now_us, INCIDENTS_MAX], |row| {
        Ok(Case {
            id: IncidentId::new(&row.get::<_, String>(0)?),
            check_us: row.get(1)?,
            checks: row.get(2)?,
            was_contained: row.get(3)?,
            checked_through: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
            has_exposure: row.get(5)?,
            changed_us: row.get(6)?,
            actions: Vec::new(),
            principals: Vec::new(),
            keys: Vec::new(),
            evidence: None,
        })
    })?;
    let mut cases = rows.collect::<Result<Vec<_>, _>>()?;
    for case in &mut cases {
        fill(db, case)?;
    }
    Ok(cases)
}

fn fill(db: &Connection, case: &mut Case) -> Result<(), StoreError> {
    let all = outbox::of_incident(db, &case.id)?;
    let undone = |action: &Action| {
        all.iter().any(|undo| undo.undo_of.as_ref() == Some(&action.id) && undo.state != ActionState::Suppressed)
    };
    let stands = |action: &&Action| action.undo_of.is_none() && action.state == ActionState::Done && !undone(action);
    case.actions = all.iter().filter(stands).cloned().collect();
    case.principals = incident::principals(db, &case.id)?.into_iter().collect();
    let Some(detail) = incident::without_timeline(db, &case.id)? else { return Err(StoreError::Damaged("incident")) };
    let seqs = || detail.alerts.iter().filter(|alert| !alert.ours).flat_map(|alert| alert.seqs.split(' '));
    let seqs = || seqs().filter_map(|seq| seq.parse::<u64>().ok());
    case.evidence = seqs().min().zip(seqs().max());
    case.keys = detail.keys;
    Ok(())
}

/// Writes down what was found, unless something happened meanwhile; true when people are to be told.
fn settle(tx: &Transaction<'_>, case: &Case, finding: &Finding, now_us: Micros) -> Result<bool, StoreError> {
    let (again, retry) = (wait(AGAIN_FIRST_US, case.checks), wait(RETRY_FIRST_US, case.checks));
    let stale = now_us.saturating_sub(case.changed_us) > STALE_US;
    let at = |wait: Micros| (!stale).then(|| now_us.saturating_add(wait));
    let ends = case
        .actions
        .iter()
        .filter_map(Action::ends_us)
        .map(|end| end.saturating_add(1_000_000))
        .filter(|end| *end > now_us);
    let (contained, why, check_us, through, exposure) = match finding {
        Finding::Contained { checked_through, exposure } => {
            (true, None, at(again).into_iter().chain(ends).min(), Some(*checked_through), exposure.as_ref())
        }
        Finding::Open(why) => (false, Some(why), at(again), None, None),
        // What was contained stays so for as long as nobody says otherwise.
        Finding::Unknown(why, through) => {
            let soon = if through.is_some() { RETRY_FIRST_US } else { retry };
            (case.was_contained, Some(why), at(soon), through.or(case.checked_through), None)
        }
    };
    let why = why.filter(|_| !contained);
    let written = tx.execute(
        "UPDATE incidents SET contained_us = CASE WHEN ?3 THEN coalesce(contained_us, ?4) END, not_contained = ?5,
           check_us = ?6, checks = checks + 1, checked_through = ?7, exposure = coalesce(?8, exposure)
         WHERE id = ?1 AND check_us = ?2 AND resolved_us IS NULL",
        params![
            case.id.as_str(),
            case.check_us,
            contained,
            now_us,
            why,
            check_us,
            through.map(u64::cast_signed),
            exposure.map(Value::to_string)
        ],
    )?;
    if written == 0 {
        return Ok(false);
    }
    let newest: Option<Micros> = tx.query_row(
        "SELECT max(planned_us) FROM actions WHERE incident = ?1 AND undo_of IS NULL",
        [case.id.as_str()],
        |row| row.get(0),
    )?;
    name_state(tx, &case.id, newest, now_us)?;
    match finding {
        // The first look that finds it says so, or one after it was contained.
        Finding::Open(why) if case.was_contained || case.checks == 0 => {
            incident::note(tx, &case.id, now_us, "check", &format!("not contained: {why}"))?;
            incident::tell_more(tx, &case.id, now_us)?;
            Ok(true)
        }
        Finding::Unknown(why, _) if case.checks == 0 && !case.was_contained => {
            incident::note(tx, &case.id, now_us, "check", why)?;
            Ok(false)
        }
        _ => Ok(false),
    }
}

fn wait(first: Micros, checks: u32) -> Micros {
    first.saturating_mul(1 << checks.min(16)).min(AGAIN_MAX_US)
}

/// As if a look at everything that is due had found nothing wrong.
#[cfg(test)]
pub(crate) fn found_nothing(tx: &Transaction<'_>, now_us: Micros) -> Result<(), StoreError> {
    let finding = Finding::Contained { checked_through: 9, exposure: None };
    due(tx, now_us)?.iter().try_for_each(|case| settle(tx, case, &finding, now_us).map(drop))
}
