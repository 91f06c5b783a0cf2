//! Drives due actions to their end: look, lease, call, look again, finish.
//!
//! The lease commits before the call goes out, so a crash leaves a row that says "may have happened"; it is carried out
//! again under the same action id, which the KMS answers without a second effect. Actions on one target run one after the
//! other in the order of planning, on different targets side by side up to a bound. An unreachable KMS is tried again
//! with growing, scattered waits until the deadline; then the action is dead and people are paged.

use crate::act::aws::{self, ACCOUNT_ARG};
use crate::act::call_out::Meaning;
use crate::act::steps::{self, Before};
use crate::act::{CallOuts, Control, ControlError, grants, snapshot};
use crate::announced::{self, Announcements};
use crate::guard::Guard;
use crate::incident::{self, IncidentId};
use crate::notify::queue;
use crate::outbox::{self, Action, ActionKind, ActionState, End, Start};
use crate::store::{Micros, Store, StoreError};
use crate::undo;
use keytrail_kms::clock::Clock;
use rusqlite::Transaction;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// Longest time without looking for due rows: `incident undo` of another process may have added some.
const POLL: Duration = Duration::from_millis(200);
/// Rows looked at in one go; the rest waits for the next.
const DUE_ROWS_MAX: u32 = 256;
/// First wait after an unreachable KMS: a restart takes about this long.
const RETRY_FIRST_US: Micros = 200_000;
/// Longest wait between attempts.
const RETRY_MAX_US: Micros = 30_000_000;

/// What actions need besides the KMS.
#[derive(Default)]
pub struct Means {
    /// The data folder, for bundles of evidence; without one none are taken.
    pub data_dir: Option<PathBuf>,
    /// Webhooks of the site's own.
    pub call_outs: CallOuts,
    /// AWS accounts that are driven, by their number.
    pub aws: BTreeMap<String, Arc<dyn Control>>,
}

/// Carries out the outbox.
pub struct Worker {
    means: Means,
    store: Store,
    kms: Arc<dyn Control>,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    slots: Arc<Semaphore>,
    /// Of what goes out of the house, to AWS and to call-outs: those may be slow, and ours must not wait for them.
    away_slots: Arc<Semaphore>,
    busy: Mutex<HashSet<String>>,
    work: Notify,
    told: Arc<Notify>,
    announcements: Announcements,
}

impl Worker {
    /// `told` is rung whenever there may be something to tell people.
    pub fn new(
        store: Store,
        kms: Arc<dyn Control>,
        clock: Arc<dyn Clock>,
        parallel: usize,
        deadline: Duration,
        told: Arc<Notify>,
        means: Means,
    ) -> Arc<Self> {
        Arc::new(Self {
            means,
            announcements: Announcements::new(Arc::clone(&kms)),
            store,
            kms,
            clock,
            deadline,
            slots: Arc::new(Semaphore::new(parallel.max(1))),
            away_slots: Arc::new(Semaphore::new(parallel.max(1))),
            busy: Mutex::new(HashSet::new()),
            work: Notify::new(),
            told,
        })
    }

    /// Look for due rows now.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// Works until `stop` turns true, then waits for the actions under way.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let all = self.all_slots();
        while !*stop.borrow() {
            match self.start_due(None).await {
                Ok(_) => {}
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "outbox cannot be read"),
            }
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(POLL) => {}
                _ = stop.changed() => {}
            }
        }
        self.idle(all).await;
    }

    /// Carries out what is due of one incident and waits for it: the `undo` of a stopped responder must not start what
    /// else was left in the outbox.
    pub async fn drain_incident(self: &Arc<Self>, incident: &IncidentId) -> Result<(), StoreError> {
        let all = self.all_slots();
        while self.start_due(Some(incident)).await? > 0 {
            self.idle(all).await;
        }
        Ok(())
    }

    fn all_slots(&self) -> u32 {
        u32::try_from(self.slots.available_permits()).unwrap_or(u32::MAX)
    }

    /// Waits until nothing is under way: every permit is back.
    async fn idle(&self, all: u32) {
        let _here = self.slots.acquire_many(all).await;
        let _away = self.away_slots.acquire_many(all).await;
    }

    /// Starts every due action whose target is free; returns how many were started.
    async fn start_due(self: &Arc<Self>, only: Option<&IncidentId>) -> Result<usize, StoreError> {
        let now = self.now_us();
        let of = only.cloned();
        let due = self.store.read(move |db| outbox::due(db, now, DUE_ROWS_MAX, of.as_ref())).await?;
        let mut started = 0;
        for action in due {
            if !self.claim(&action.target) {
                continue;
            }
            let is_away = action.kind == ActionKind::CallOut || aws::is_there(&action);
            let slot = if is_away {
                Arc::clone(&self.away_slots).try_acquire_owned().ok()
            } else {
                Arc::clone(&self.slots).acquire_owned().await.ok()
            };
            let Some(slot) = slot else {
                self.release(&action.target);
                continue;
            };
            let worker = Arc::clone(self);
            started += 1;
            tokio::spawn(async move {
                let target = action.target.clone();
                if let Err(error) = worker.carry_out(action).await {
                    // The row stays as it is and is due again.
                    tracing::error!(error = &error as &dyn std::error::Error, "action cannot be written down");
                    tokio::time::sleep(POLL).await;
                }
                worker.release(&target);
                drop(slot);
                worker.work.notify_one();
                worker.told.notify_one();
            });
        }
        Ok(started)
    }

    async fn carry_out(&self, action: Action) -> Result<(), StoreError> {
        // Between reading the row and claiming its target another turn may have finished it.
        let Some(action) = self.still_due(&action).await? else { return Ok(()) };
        let Some(kms) = self.kms_of(&action) else {
            let gone =
                End::not_done(ActionState::Failed, "its AWS account is not in the configuration of this process");
            return self.finish(&action, gone).await;
        };
        match action.kind {
            ActionKind::SnapshotEvidence => return self.take_snapshot(kms, action).await,
            ActionKind::RevokeGrants => return self.spread(kms, action).await,
            ActionKind::CallOut => return self.call_out(action).await,
            _ => {}
        }
        match self.announced(&action).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(end))) => return self.finish(&action, end).await,
            Ok(Err(error)) => return self.put_off(&action, &error).await,
            Err(error) => return Err(error),
        }
        if action.undo_of.is_some() && action.state == ActionState::Ready {
            let (row, now) = (action.clone(), self.now_us());
            if self.store.write(move |tx| undo::hand_over(tx, &row, now)).await? {
                return Ok(());
            }
        }
        let before = match steps::look(kms.as_ref(), &action).await {
            Ok(before) => before,
            Err(error) => return self.put_off(&action, &error).await,
        };
        // A call that may be out is made again whatever the target looks like: its answer says whether it was ours.
        let was_out = action.state == ActionState::Leased;
        let pre_state = match (before, was_out) {
            (Before::Ready(state), _) | (Before::Already(state), true) => state,
            (Before::Already(state), false) => {
                return self.finish(&action, End::done(false, None, Some(format!("already: {state}")))).await;
            }
            (Before::Changed(state), was_out) if was_out || steps::is_judged_there(action.kind) => state,
            (Before::Changed(reason), _) => {
                return self.finish(&action, End::not_done(ActionState::Suppressed, reason)).await;
            }
        };
        if !self.lease(&action, &pre_state).await? {
            return Ok(());
        }
        fail::fail_point!("responder::before_call", |_| std::process::abort());
        let answer = match steps::act(kms.as_ref(), &action).await {
            Ok(answer) => answer,
            Err(error) => return self.refused(&action, &error).await,
        };
        fail::fail_point!("responder::after_call", |_| std::process::abort());
        let end = match steps::verify(kms.as_ref(), &action, &answer).await {
            Ok(None) if steps::was_kept(&answer) => {
                End::done(false, answer.log_seq, Some("already: what is in force does more, or for longer".into()))
            }
            Ok(None) => End::done(true, answer.log_seq, None),
            Ok(Some(instead)) => {
                End { log_seq: answer.log_seq, ..End::not_done(ActionState::Failed, format!("no effect: {instead}")) }
            }
            Err(error) => return self.put_off(&action, &error).await,
        };
        fail::fail_point!("responder::before_done", |_| std::process::abort());
        let restored = steps::restored_policy(&action, &answer).map(str::to_owned);
        self.finish_with(&action, end, move |tx, row| match restored {
            Some(digest) => outbox::note_restored(tx, &row.id, &digest),
            None => Ok(()),
        })
        .await
    }

    /// A bundle, or why there is none; nothing waits for a second try.
    async fn take_snapshot(&self, kms: &Arc<dyn Control>, action: Action) -> Result<(), StoreError> {
        if !self.lease(&action, "-").await? {
            return Ok(());
        }
        fail::fail_point!("responder::before_call", |_| std::process::abort());
        let end = match &self.means.data_dir {
            None => End::not_done(ActionState::Failed, "there is no folder for bundles"),
            Some(dir) => match snapshot::take(kms.as_ref(), &self.store, dir, &action, self.now_us()).await {
                Ok(bundle) => End::done(true, None, Some(bundle.line())),
                Err(error) => {
                    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                    End::not_done(ActionState::Failed, format!("{error}{cause}"))
                }
            },
        };
        fail::fail_point!("responder::before_done", |_| std::process::abort());
        self.finish_with(&action, end, |tx, row| snapshot::forget(tx, &row.id)).await
    }

    /// Plans an action for each grant of the grantee, in the transaction that ends this one.
    async fn spread(&self, kms: &Arc<dyn Control>, action: Action) -> Result<(), StoreError> {
        let (ids, whole) = match grants::of_grantee(kms.as_ref(), &action).await {
            Ok(found) => found,
            Err(error) => return self.put_off(&action, &error).await,
        };
        let reason = format!("{} grants found, each has a row of its own", ids.len());
        let mut end = End::done(false, None, Some(reason));
        if !whole {
            end = End::not_done(ActionState::Failed, format!("there are more than {} grants", grants::GRANTS_MAX));
        }
        fail::fail_point!("responder::before_done", |_| std::process::abort());
        let now = self.now_us();
        self.finish_with(&action, end, move |tx, row| {
            let start = Start { state: ActionState::Ready, reason: None, needs_person: false, next_attempt_us: now };
            for id in &ids {
                outbox::insert(tx, &grants::of_one(row, id), None, &start, now)?;
            }
            Ok(())
        })
        .await
    }

    /// One attempt; what the receiver said goes onto the timeline.
    async fn call_out(&self, action: Action) -> Result<(), StoreError> {
        if !self.lease(&action, "-").await? {
            return Ok(());
        }
        fail::fail_point!("responder::before_call", |_| std::process::abort());
        let outcome = self.means.call_outs.call(&action).await;
        fail::fail_point!("responder::after_call", |_| std::process::abort());
        let end = match outcome.meaning {
            Meaning::Taken => End::done(true, None, Some(outcome.summary.clone())),
            Meaning::Never => End::not_done(ActionState::Failed, outcome.summary.clone()),
            Meaning::Later => {
                let error = ControlError::Unreachable(outcome.summary.into());
                return self.put_off(&action, &error).await;
            }
        };
        fail::fail_point!("responder::before_done", |_| std::process::abort());
        let now = self.now_us();
        self.finish_with(&action, end, move |tx, row| {
            outcome.lines.iter().enumerate().try_for_each(|(index, line)| {
                let text = format!("{} said ({} of {}): {line}", row.target, index + 1, outcome.lines.len());
                incident::note(tx, &row.incident, now, "reply", &text)
            })
        })
        .await
    }

    /// Whose key service carries it out.
    fn kms_of(&self, action: &Action) -> Option<&Arc<dyn Control>> {
        match action.args.get(ACCOUNT_ARG).and_then(Value::as_str) {
            Some(account) => self.means.aws.get(account),
            None => Some(&self.kms),
        }
    }

    async fn lease(&self, action: &Action, pre_state: &str) -> Result<bool, StoreError> {
        let (id, pre_state, now) = (action.id.clone(), pre_state.to_owned(), self.now_us());
        self.store.write(move |tx| outbox::lease(tx, &id, &pre_state, now)).await
    }

    /// Whether the action must not be taken because what it answers was announced: of those that were planned while
    /// that could not be known. A key service that cannot be reached could not carry it out either: both are tried again.
    async fn announced(&self, action: &Action) -> Result<Result<Option<End>, ControlError>, StoreError> {
        let id = action.id.clone();
        let kept = self.store.read(move |db| announced::asked_before_acting(db, &id)).await?;
        let Some((deeds, whole)) = kept.filter(|_| action.state == ActionState::Ready) else { return Ok(Ok(None)) };
        let changes = match self.announcements.as_of(Micros::MAX).await {
            Ok(changes) => changes,
            Err(error @ ControlError::Unreachable(_)) => return Ok(Err(error)),
            Err(error @ ControlError::Refused { .. }) => return Ok(Ok(Some(self.unjudged(action, &error).await?))),
        };
        let tickets = deeds.and_then(|deeds| announced::covering(&changes.all, &deeds, whole));
        Ok(Ok(tickets.map(|tickets| {
            let reason = format!("{}: {tickets}", Guard::Announced);
            End { needs_person: false, ..End::not_done(ActionState::Suppressed, reason) }
        })))
    }

    /// A guard that cannot judge holds, and pages.
    async fn unjudged(&self, action: &Action, error: &ControlError) -> Result<End, StoreError> {
        let reason = format!("{}: the list cannot be read: {error}", Guard::Announced);
        let text = format!("A guard failed, so {} was not carried out: {reason}", action.kind);
        let (incident, now) = (action.incident.clone(), self.now_us());
        self.store.write(move |tx| queue::page(tx, Some(&incident), "guard-failed", &text, now)).await?;
        Ok(End::not_done(ActionState::Suppressed, reason))
    }

    async fn still_due(&self, action: &Action) -> Result<Option<Action>, StoreError> {
        let (id, now) = (action.id.clone(), self.now_us());
        let row = self.store.read(move |db| outbox::one(db, &id)).await?;
        Ok(row.filter(|row| !row.state.is_final() && row.next_attempt_us <= now))
    }

    /// The call was not answered as wished. Where our own key service said no to the first attempt nothing was done, so that
    /// an undo must not take back what somebody else did meanwhile.
    async fn refused(&self, action: &Action, error: &ControlError) -> Result<(), StoreError> {
        // An answer that could not be read says nothing.
        let unread = ["ClientError", "UnreadableAnswer"];
        let said_no = matches!(error, ControlError::Refused { code, .. } if !unread.contains(&code.as_str()));
        let is_known = said_no && action.attempts == 0 && !aws::is_there(action);
        self.end_or_retry(action, error, is_known.then_some(false)).await
    }

    async fn put_off(&self, action: &Action, error: &ControlError) -> Result<(), StoreError> {
        self.end_or_retry(action, error, None).await
    }

    /// Later, or never again if the KMS said no or the deadline has passed.
    async fn end_or_retry(
        &self,
        action: &Action,
        error: &ControlError,
        changed: Option<bool>,
    ) -> Result<(), StoreError> {
        if let ControlError::Refused { code, .. } = error {
            if let Some(reason) = steps::is_done_already(action.kind, code) {
                return self.finish(action, End::done(false, None, Some(reason.into()))).await;
            }
            if let Some(reason) = steps::is_changed_since(action.kind, code) {
                return self.finish(action, End::not_done(ActionState::Suppressed, reason)).await;
            }
            let end = End { changed, ..End::not_done(ActionState::Failed, error.to_string()) };
            return self.finish(action, end).await;
        }
        let now = self.now_us();
        if now.saturating_sub(action.planned_us) > crate::guard::micros(self.deadline) {
            let who = if action.kind == ActionKind::CallOut { "the receiver" } else { "the KMS" };
            let reason = format!("{who} could not be reached for {:?}", self.deadline);
            return self.finish(action, End::not_done(ActionState::Dead, reason)).await;
        }
        tracing::warn!(
            incident_id = action.incident.as_str(),
            action = action.kind.as_str(),
            target = action.target,
            error = error as &dyn std::error::Error,
            "action is tried again"
        );
        let (id, reason) = (action.id.clone(), error.to_string());
        let waited = now.saturating_sub(action.planned_us).clamp(RETRY_FIRST_US, RETRY_MAX_US);
        let at = now.saturating_add(scatter(waited));
        self.store.write(move |tx| outbox::retry(tx, &id, &reason, at)).await
    }

    async fn finish(&self, action: &Action, end: End) -> Result<(), StoreError> {
        self.finish_with(action, end, |_, _| Ok(())).await
    }

    /// The end, and in the same transaction what comes of it.
    async fn finish_with(
        &self,
        action: &Action,
        end: End,
        with: impl FnOnce(&Transaction<'_>, &Action) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (row, ended, now) = (action.clone(), end.clone(), self.now_us());
        self.store
            .write(move |tx| {
                with(tx, &row)?;
                outbox::finish(tx, &row, &ended, now)?;
                if row.undo_of.is_some() {
                    if matches!(ended.state, ActionState::Dead | ActionState::Failed) {
                        queue::page(tx, Some(&row.incident), "undo-failed", &undo_text(&row, &ended), now)?;
                    }
                    return Ok(());
                }
                undo::when_ended(tx, &row, &ended, now)?;
                if ended.state == ActionState::Dead {
                    queue::page(tx, Some(&row.incident), "dead-action", &dead_text(&row), now)?;
                }
                incident::tell_more(tx, &row.incident, now)
            })
            .await?;
        tracing::info!(
            incident_id = action.incident.as_str(),
            action = action.kind.as_str(),
            target = action.target,
            outcome = end.state.as_str(),
            reason = end.reason,
            log_seq = end.log_seq,
            "action ended"
        );
        Ok(())
    }

    fn claim(&self, target: &str) -> bool {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(target.to_owned())
    }

    fn release(&self, target: &str) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
    }

    fn now_us(&self) -> Micros {
        Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX)
    }
}

fn undo_text(action: &Action, end: &End) -> String {
    format!(
        "What was done to {} is not taken back: {} {}{}. `keytrail incident undo {}` tries again.",
        action.target,
        action.kind,
        end.state,
        end.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default(),
        action.incident.as_str()
    )
}

fn dead_text(action: &Action) -> String {
    format!(
        "{} on {} could not be carried out and was given up. `keytrail outbox retry {}` tries again, `keytrail outbox drop` \
         ends it.",
        action.kind,
        action.target,
        outbox::dead::short(&action.id)
    )
}

/// Between half of `longest` and all of it, so that many actions do not come back in one moment.
pub(crate) fn scatter(longest: Micros) -> Micros {
    let mut random = [0; 2];
    // Without randomness the waits are merely equal.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let half = longest / 2;
    half + half.saturating_mul(Micros::from(u16::from_be_bytes(random))) / Micros::from(u16::MAX)
}
