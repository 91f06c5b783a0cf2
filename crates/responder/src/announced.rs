//! Changes that people announced: what the key service's log holds of them, and which calls they cover.
//!
//! A call is covered when an announcement made before it names its key or its caller, its operation and its time, and
//! comes from somebody else: whoever could announce for himself would only have to say what he is about to do. Calls of
//! break-glass and of Keytrail's own principals are never covered. Read through `ListChanges`, never from our own store,
//! so that whoever writes `responder.db` announces nothing. Decision 46 says what happens while they cannot be read.

use crate::act::{Control, ControlError};
use crate::guard::{kept_as, role_of_session};
use crate::intake::verify::{Call, VerifiedAlert, is_built_in};
use crate::plan::Proposal;
use crate::playbook::Provenance;
use crate::store::{Micros, StoreError};
use rusqlite::{Connection, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Most answers that are read for one list: the key service keeps 500 announcements, 50 in an answer.
const PAGES_MAX: usize = 20;
/// Longest use of a list; its own time decides within that, so that a clock set back cannot make it last.
const AGE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the list before alerts are taken in without it.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(1);
/// For so long after a failure alerts are taken in without another try: a storm must not wait a second for each batch.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// One announcement, as `ListChanges` gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedChange {
    /// eventID of its announcement.
    pub change_id: String,
    /// Where the work is described.
    pub ticket: String,
    /// The key that is worked on; absent when a principal is named.
    pub key_arn: Option<String>,
    /// The principal that works; absent when a key is named.
    pub principal_arn: Option<String>,
    /// What will be called.
    pub operations: Vec<String>,
    /// Unix microseconds.
    pub from_micros: Micros,
    /// Unix microseconds.
    pub until_micros: Micros,
    /// Unix microseconds.
    pub announced_at_micros: Micros,
    /// Who announced it.
    pub announced_by: String,
    /// All that the announcer is: itself, its role, and whoever opened its session.
    pub announced_as: Vec<String>,
}

/// What a call is judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    actor: String,
    /// The actor's role and whoever opened the session; `None` for a session that does not say.
    also: Option<BTreeSet<String>>,
    operation: String,
    key_arn: Option<String>,
    at_us: Micros,
}

impl Deed {
    fn of(call: &Call) -> Option<Self> {
        let actor = call.principal.clone()?;
        let opened_by = call.event.additional_event_data.more.get("openedBy").and_then(|names| {
            let names = names.as_array()?.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<BTreeSet<String>>>()
        });
        let role = role_of_session(&actor);
        let also = match (role, opened_by) {
            (None, opened_by) => Some(opened_by.unwrap_or_default()),
            (Some(role), Some(opened_by)) => Some(opened_by.into_iter().chain([role]).collect()),
            (Some(_), None) => None,
        };
        let at_us = at_us(call)?;
        Some(Self { actor, also, operation: call.event.event_name.clone(), key_arn: call.key_arn.clone(), at_us })
    }

    /// Whether the announcement is about this very call, and somebody else's.
    fn is_covered_by(&self, change: &AnnouncedChange) -> bool {
        let Some(also) = &self.also else { return false };
        let is_actor = |name: &String| *name == self.actor || also.contains(name);
        let named = match (&change.key_arn, &change.principal_arn) {
            (Some(key), None) => Some(key) == self.key_arn.as_ref(),
            (None, Some(principal)) => is_actor(principal),
            _ => false,
        };
        let from = change.from_micros.max(change.announced_at_micros);
        let elsewhere = !is_actor(&change.announced_by) && !change.announced_as.iter().any(is_actor);
        named
            && elsewhere
            && !is_never_covered(&self.actor)
            && change.operations.contains(&self.operation)
            && (from..=change.until_micros).contains(&self.at_us)
    }
}

/// When the key service judged the call: the time that it gave the announcement, too.
pub(crate) fn at_us(call: &Call) -> Option<Micros> {
    match Micros::try_from(call.event.additional_event_data.judged_at_micros) {
        Ok(at_us) if at_us > 0 => Some(at_us),
        _ => Some(chrono::DateTime::parse_from_rfc3339(&call.event.event_time).ok()?.timestamp_micros()),
    }
}

fn is_never_covered(arn: &str) -> bool {
    is_built_in(arn) || arn.ends_with(":user/break-glass") || arn.ends_with(":break-glass")
}

/// What announcements have to cover before an action is left undone; `None` when one of the calls cannot be judged.
pub fn deeds(proposal: &Proposal, alert: &VerifiedAlert) -> Option<Vec<Deed>> {
    caused_by(proposal, alert).into_iter().map(Deed::of).collect()
}

/// The calls that lead to an action: the one that it names, or all of the principal's.
pub(crate) fn caused_by<'a>(proposal: &Proposal, alert: &'a VerifiedAlert) -> Vec<&'a Call> {
    let calls = alert.calls().iter().filter(|call| call.provenance != Provenance::Unauthenticated);
    if proposal.cause.is_empty() {
        // A role is stopped as a whole: one session's announced work must not hide what another one does.
        let who = alert.principal().map(kept_as);
        return calls.filter(|call| call.principal.as_deref().map(kept_as) == who).collect();
    }
    calls.filter(|call| call.event.event_id == proposal.cause).collect()
}

/// Whether [`deeds`] are all that the action is about. Of a busy principal an alert shows some calls only.
pub fn is_whole(proposal: &Proposal, alert: &VerifiedAlert) -> bool {
    !proposal.cause.is_empty() || alert.is_complete()
}

/// The tickets under which all of these calls were announced; `None` when one of them was not. Evidence that is only a
/// part of what happened is covered by announcements of the principal alone.
pub fn covering(changes: &[AnnouncedChange], deeds: &[Deed], is_complete: bool) -> Option<String> {
    let usable = || changes.iter().filter(|change| is_complete || change.principal_arn.is_some());
    let found = deeds.iter().map(|deed| usable().find(|change| deed.is_covered_by(change)));
    let found: Vec<&AnnouncedChange> = found.collect::<Option<_>>()?;
    let mut tickets: Vec<&str> = found.iter().map(|change| change.ticket.as_str()).collect();
    tickets.sort_unstable();
    tickets.dedup();
    (!tickets.is_empty()).then(|| tickets.join(", "))
}

/// The list as it was read, and as of when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All of them.
    pub all: Vec<AnnouncedChange>,
    /// No call judged up to then can be covered by another one.
    pub as_of_us: Micros,
}

/// Reads announcements, and keeps them as long as they decide the same.
pub struct Announcements {
    kms: Arc<dyn Control>,
    kept: Mutex<Option<(Arc<Changes>, Instant)>>,
    failed: Mutex<Option<(String, Instant)>>,
}

impl Announcements {
    /// `kms` is the key service that the alerts are about.
    pub fn new(kms: Arc<dyn Control>) -> Self {
        Self { kms, kept: Mutex::new(None), failed: Mutex::new(None) }
    }

    /// All announcements that may cover a call judged at `needed_us` or before.
    pub async fn as_of(&self, needed_us: Micros) -> Result<Arc<Changes>, ControlError> {
        let mut kept = self.kept.lock().await;
        if let Some((changes, read)) = &*kept
            && changes.as_of_us >= needed_us
            && read.elapsed() < AGE_MAX
        {
            return Ok(Arc::clone(changes));
        }
        let changes = Arc::new(read(self.kms.as_ref()).await?);
        *kept = Some((Arc::clone(&changes), Instant::now()));
        Ok(changes)
    }

    /// The same for whoever must not wait; in words why not.
    pub async fn soon(&self, needed_us: Micros) -> Result<Arc<Changes>, String> {
        let mut failed = self.failed.lock().await;
        if let Some((error, _)) = failed.as_ref().filter(|(_, at)| at.elapsed() < FAILED_FOR) {
            return Err(error.clone());
        }
        let error = match timeout(WAIT_MAX, self.as_of(needed_us)).await {
            Ok(Ok(changes)) => {
                *failed = None;
                return Ok(changes);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {WAIT_MAX:?}"),
        };
        *failed = Some((error.clone(), Instant::now()));
        Err(error)
    }
}

/// Reads all of them from the key service.
pub async fn read(kms: &dyn Control) -> Result<Changes, ControlError> {
    let unreadable = |message: &str| ControlError::Refused { code: "UnreadableAnswer".into(), message: message.into() };
    let mut found = Changes::default();
    let mut marker = None;
    for page in 0..PAGES_MAX {
        let answer = kms.call("KeytrailService.ListChanges", json!({ "Marker": marker }), None).await?;
        let changes: Vec<AnnouncedChange> = serde_json::from_value(answer.body["Changes"].clone())
            .map_err(|error| unreadable(&format!("the answer has no readable Changes: {error}")))?;
        found.all.extend(changes);
        if page == 0 {
            let as_of = answer.body["AsOfMicros"].as_i64();
            found.as_of_us = as_of.ok_or_else(|| unreadable("the answer has no AsOfMicros"))?;
        }
        marker = answer.body["NextMarker"].as_str().map(str::to_owned);
        if marker.is_none() {
            return Ok(found);
        }
    }
    Err(unreadable("there are more announced changes than can be"))
}

/// Keeps what decides about an action that was planned while announcements could not be read.
pub(crate) fn ask_before_acting(
    tx: &Transaction<'_>,
    action_id: &str,
    deeds: &Option<Vec<Deed>>,
    is_complete: bool,
) -> Result<(), StoreError> {
    let deeds = serde_json::to_string(deeds).map_err(|_| StoreError::Damaged("deed"))?;
    tx.execute("INSERT OR IGNORE INTO unread_changes VALUES (?1, ?2, ?3)", params![action_id, deeds, is_complete])?;
    Ok(())
}

/// The calls of an action as far as they can be judged, and whether they are all.
type Unread = (Option<Vec<Deed>>, bool);

/// What [`ask_before_acting`] kept of an action: its calls, and whether they are all.
pub(crate) fn asked_before_acting(db: &Connection, action_id: &str) -> Result<Option<Unread>, StoreError> {
    let mut statement = db.prepare_cached("SELECT deeds, complete FROM unread_changes WHERE action = ?1")?;
    let mut rows = statement.query([action_id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let deeds = serde_json::from_str(&row.get::<_, String>(0)?).map_err(|_| StoreError::Damaged("deed"))?;
    Ok(Some((deeds, row.get(1)?)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::act::Answer;
    use async_trait::async_trait;
    use serde_json::Value;
    use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

    /// A key service that lists announcements page by page, as of a time that the test sets.
    #[derive(Default)]
    struct Lists {
        asked: AtomicU32,
        as_of_us: AtomicI64,
        pages: u32,
        broken: bool,
    }

    #[async_trait]
    impl Control for Lists {
        async fn call(&self, _: &str, body: Value, _: Option<&str>) -> Result<Answer, ControlError> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.broken {
                return Err(ControlError::Unreachable("refused".into()));
            }
            let page = body["Marker"].as_str().map_or(0, |marker| marker.parse::<u32>().unwrap());
            let next = (page < self.pages).then(|| (page + 1).to_string());
            let change = crate::testing::announcement("lead", Some("k1"), None, &["PutKeyPolicy"]);
            let as_of = self.as_of_us.load(Ordering::SeqCst);
            let body = json!({ "Changes": [change], "NextMarker": next, "AsOfMicros": as_of });
            Ok(Answer { body, log_seq: None })
        }
    }

    #[tokio::test]
    async fn a_list_is_read_again_only_for_calls_that_are_newer_than_it() {
        let kms = Arc::new(Lists::default());
        kms.as_of_us.store(100, Ordering::SeqCst);
        let announcements = Announcements::new(kms.clone());
        for (needed_us, asked) in [(50, 1), (100, 1), (0, 1), (101, 2), (99, 2)] {
            assert_eq!(announcements.as_of(needed_us).await.unwrap().all.len(), 1);
            assert_eq!(kms.asked.load(Ordering::SeqCst), asked, "{needed_us}");
        }
    }

    #[tokio::test]
    async fn all_pages_are_read_and_a_list_without_end_is_an_error() {
        let two = Lists { pages: 1, ..Lists::default() };
        assert_eq!(read(&two).await.unwrap().all.len(), 2);
        let endless = Lists { pages: u32::MAX, ..Lists::default() };
        assert!(read(&endless).await.is_err());
    }

    #[tokio::test]
    async fn a_key_service_that_is_away_is_not_asked_for_each_batch() {
        let kms = Arc::new(Lists { broken: true, ..Lists::default() });
        let announcements = Announcements::new(kms.clone());
        for _ in 0..100 {
            assert!(announcements.soon(1).await.is_err());
        }
        assert_eq!(kms.asked.load(Ordering::SeqCst), 1);
        assert!(announcements.as_of(1).await.is_err(), "whoever is about to act asks all the same");
        assert_eq!(kms.asked.load(Ordering::SeqCst), 2);
    }
}
