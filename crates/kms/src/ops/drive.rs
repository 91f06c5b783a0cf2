//! The two paths of a call, from judgement to durable event.
//!
//! A query is judged on a snapshot, and sent back to be judged again when the journal's gate finds that the state has
//! changed since. A change holds its locks from judgement to durability, commits to the store first, and is never sent
//! back: its event follows from the outbox whatever happens.

use super::answer::{Answer, Call};
use super::companion::Companion;
use super::input;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::chain::Kind;
use crate::journal::frame::PAYLOAD_BYTES_MAX;
use crate::journal::{AppendError, Draft, Pending, Receipt, SubmitError};
use crate::locks::{Held, Stale, Stripe};
use crate::node::Node;
use crate::outbox::Ticket;
use crate::registry::Publish;
use crate::store::{ActionRow, Change, OutboxRow, StoreError, Transaction};
use crate::usage::LastUse;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often a call is judged again before it is given up; each round means a change of just its key in between.
const JUDGEMENTS_MAX: usize = 16;
/// Pause before a committed change is offered to a full journal again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// What an operation does to keys, for the overlay and for `readOnly`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Describes or lists; a quarantine leaves it alone.
    Read,
    /// Uses material, or opens a session that may.
    Crypto,
    /// Changes state.
    Change,
}

/// An operation that changes nothing.
pub(crate) trait Query: Send + Sync {
    const CLASS: Class;
    /// The inputs that may be recorded.
    fn parameters(&self) -> Option<Value>;
    /// Decides and does; the answer's body.
    fn run(&self, judge: &mut Judge<'_>) -> impl Future<Output = Result<Bytes, Refusal>> + Send;
}

/// An operation that changes state.
pub(crate) trait Mutation: Send + Sync + 'static {
    /// Changes of access stop all judging while they last.
    const ACCESS: bool = false;
    /// The inputs that may be recorded.
    fn parameters(&self) -> Option<Value>;
    /// What takes long and needs no lock, before any is taken. Decides nothing.
    fn prepare(&self, _node: &Arc<Node>, _call: &Call) -> impl Future<Output = ()> + Send {
        async {}
    }
    /// The locks needed as things look now; asked again once they are held.
    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe>;
    /// Decides under the locks; says what to store and publish but does neither.
    fn run(&self, judge: &mut Judge<'_>) -> impl Future<Output = Result<Effect, Refusal>> + Send;
}

/// What an allowed change will do.
#[derive(Default)]
pub(crate) struct Effect {
    /// Answer.
    pub(crate) body: Bytes,
    /// Rows.
    pub(crate) changes: Vec<Change>,
    /// Memory.
    pub(crate) publish: Vec<Publish>,
    /// Identities and overlay.
    pub(crate) access: Option<Arc<crate::access::Access>>,
    /// The next root key.
    pub(crate) root: Option<Arc<crate::crypto::RootKey>>,
    /// Events of further keys that change with the first.
    pub(crate) companions: Vec<Companion>,
    /// The call is refused, and what is stored all the same is the request for an approval.
    pub(crate) refused: Option<Refusal>,
}

/// One event of a change under way.
struct Carried {
    ticket: Ticket,
    event_id: Uuid,
    payload: Bytes,
}

/// Parses and runs a query.
pub(crate) async fn query<Q: Query + DeserializeOwned>(node: &Arc<Node>, call: &Call, body: &[u8]) -> Answer {
    match input::parse::<Q>(body) {
        Ok(query) => answer_query(node, call, &query).await,
        Err(refusal) => refuse(node, call, refusal).await,
    }
}

/// Parses and runs a change, in a task of its own: its locks must outlive a caller that hangs up.
pub(crate) async fn mutation<M: Mutation + DeserializeOwned>(node: &Arc<Node>, call: Arc<Call>, body: &[u8]) -> Answer {
    match input::parse::<M>(body) {
        Ok(mutation) => change(node, call, mutation).await,
        Err(refusal) => refuse(node, &call, refusal).await,
    }
}

/// Runs a change in a task of its own.
pub(crate) async fn change<M: Mutation>(node: &Arc<Node>, call: Arc<Call>, mutation: M) -> Answer {
    let owned = Arc::clone(node);
    let task = tokio::spawn(async move { answer_mutation(&owned, &call, &mutation).await });
    task.await.unwrap_or_else(|_| Answer::refused(Refusal::internal(), None))
}

/// Judges a query until its judgement holds at the moment it gets its seq.
pub(crate) async fn answer_query<Q: Query>(node: &Arc<Node>, call: &Call, query: &Q) -> Answer {
    for round in 0..JUDGEMENTS_MAX {
        let mut judge = Judge::shared(node, call).await;
        judge.counted = round > 0;
        judge.record.request_parameters = query.parameters();
        let result = match judge.admit(Q::CLASS) {
            Ok(()) => query.run(&mut judge).await,
            Err(refusal) => Err(refusal),
        };
        let used = if result.is_ok() { judge.take_use() } else { None };
        let (payload, seen) = judge.event(result.as_ref().err(), true, None);
        let sequenced = |seq| {
            if let Some((keys, last_use)) = used {
                node.usages.note(&keys, LastUse { seq, ..last_use });
            }
        };
        match submit_noting(node, call, payload, || node.locks.unchanged(&seen), sequenced).await {
            Ok(receipt) => return answer(result, Some(receipt)),
            Err(Unsent::Stale) => {}
            Err(unsent) => return unsent.answer(node, call),
        }
    }
    refuse(node, call, Refusal::internal()).await
}

/// Records a refusal that depends on no state.
pub(crate) async fn refuse(node: &Arc<Node>, call: &Call, refusal: Refusal) -> Answer {
    let judge = Judge::shared(node, call).await;
    let (payload, _) = judge.event(Some(&refusal), true, None);
    match submit(node, call, payload, || Ok(())).await {
        Ok(receipt) => Answer::refused(refusal, Some(receipt)),
        Err(unsent) => unsent.answer(node, call),
    }
}

/// Records a refusal of a caller that did not prove who it is.
pub(crate) async fn refuse_unknown(
    node: &Arc<Node>,
    stranger: &Call,
    claimed: Option<&str>,
    refusal: Refusal,
    parameters: Option<Value>,
) -> Answer {
    let payload = super::judge::stranger_event(node, stranger, claimed, &refusal, parameters);
    match submit(node, stranger, payload, || Ok(())).await {
        Ok(receipt) => Answer::refused(refusal, Some(receipt)),
        Err(unsent) => unsent.answer(node, stranger),
    }
}

/// Judges a change under its locks and carries it through.
async fn answer_mutation<M: Mutation>(node: &Arc<Node>, call: &Call, mutation: &M) -> Answer {
    mutation.prepare(node, call).await;
    for _ in 0..JUDGEMENTS_MAX {
        let wanted = mutation.stripes(&Judge::peek(node, call));
        let held = if M::ACCESS { node.locks.hold_access().await } else { node.locks.hold(&wanted).await };
        let mut judge = Judge::exclusive(node, call);
        if mutation.stripes(&judge) != wanted {
            continue;
        }
        judge.record.request_parameters = mutation.parameters();
        if let Ok(answer) = settle(node, call, mutation, judge, held).await {
            return answer;
        }
    }
    refuse(node, call, Refusal::internal()).await
}

/// The same action id was stored by another call in between.
struct Again;

async fn settle<M: Mutation>(
    node: &Arc<Node>,
    call: &Call,
    mutation: &M,
    mut judge: Judge<'_>,
    held: Held,
) -> Result<Answer, Again> {
    let action = judge.action();
    if let Some(action) = action {
        match node.store.action(&action.id).await {
            Ok(None) => {}
            Ok(Some(first)) => return Ok(repeat(node, call, judge, first).await),
            Err(_) => return Ok(unavailable(node, call)),
        }
    }
    let result = match judge.admit(Class::Change) {
        Ok(()) => mutation.run(&mut judge).await,
        Err(refusal) => Err(refusal),
    };
    if let (Err(refusal), None) = (&result, action) {
        let (payload, _) = judge.event(Some(refusal), false, None);
        return Ok(match submit(node, call, payload, || Ok(())).await {
            Ok(receipt) => answer(result.map(|effect| effect.body), Some(receipt)),
            Err(unsent) => unsent.answer(node, call),
        });
    }
    commit(node, call, judge, held, result).await
}

/// Commits an allowed change, or a refused one that belongs to an action.
async fn commit(
    node: &Arc<Node>,
    call: &Call,
    judge: Judge<'_>,
    held: Held,
    result: Result<Effect, Refusal>,
) -> Result<Answer, Again> {
    let (event_id, judged_at_us) = (judge.event_id, judge.judged_at_us);
    let (reply, effect, refusal) = match result {
        Ok(mut effect) => match effect.refused.take() {
            None => (Ok(effect.body.clone()), effect, None),
            Some(refusal) => (Err(refusal.clone()), effect, Some(refusal)),
        },
        Err(refusal) => (Err(refusal.clone()), Effect::default(), Some(refusal)),
    };
    let answered = answer(reply, None);
    let action = judge.action().map(|action| ActionRow {
        action_id: action.id.clone(),
        request_sha256: action.request_sha256,
        event_id: event_id.to_string(),
        status: answered.status,
        answer: answered.body.clone(),
        created_us: judged_at_us,
    });
    let write = |mutation| judge.event(refusal.as_ref(), false, Some(mutation)).0;
    match carry(node, held, event_id, write, effect, action).await {
        Ok(receipt) => {
            fail::fail_point!("kms::before_reply", |_| std::process::abort());
            Ok(Answer { receipt: Some(receipt), ..answered })
        }
        Err(Uncarried::Conflict) => Err(Again),
        Err(Uncarried::Late) => Ok(Answer::refused(Refusal::internal(), None)),
        Err(Uncarried::Oversized) => {
            let text = "The change is too large to be recorded in one event.";
            Ok(refuse(node, call, Refusal::new(RefusalKind::LimitExceeded, text)).await)
        }
        Err(Uncarried::Unavailable) => Ok(unavailable(node, call)),
    }
}

/// Why a change has no receipt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Uncarried {
    /// It contradicts what is stored; nothing happened.
    Conflict,
    /// It could not be stored, or its event comes with the next start.
    Unavailable,
    /// It happened, but so late that the log already says its reply was not sent.
    Late,
    /// Its event is larger than a record can be; nothing happened.
    Oversized,
}

/// Carries a change through: store, then journal, then memory; the locks are let go at the end.
pub(crate) async fn carry(
    node: &Node,
    held: Held,
    event_id: Uuid,
    write: impl FnOnce(u64) -> Bytes,
    effect: Effect,
    action: Option<ActionRow>,
) -> Result<Receipt, Uncarried> {
    if !node.writable() {
        return Err(Uncarried::Unavailable);
    }
    let events = announce(node, event_id, write, effect.companions)?;
    let outbox = events.iter().map(Carried::row).collect();
    match node.store.commit(Transaction { changes: effect.changes, outbox, action }).await {
        Ok(()) => {}
        Err(StoreError::Conflict) => {
            give_up(node, events);
            return Err(Uncarried::Conflict);
        }
        Err(StoreError::NoSpace) => {
            give_up(node, events);
            return Err(Uncarried::Unavailable);
        }
        Err(error) => {
            // Whether it committed is unknown: the tickets stay open, and the next start finds out.
            node.fail(format!("store: {error}"));
            return Err(Uncarried::Unavailable);
        }
    }
    // Committed: from here on only the end of the process keeps the events out of this run's log, and then nothing is
    // published and the outbox brings them at the next start.
    let mut receipts = Vec::with_capacity(events.len());
    for event in &events {
        let recorded = submit_committed(node, event.payload.clone(), || node.locks.bump(&held)).await;
        receipts.push(recorded.ok_or(Uncarried::Unavailable)?);
    }
    node.registry.publish(effect.publish);
    if let Some(access) = effect.access {
        *node.access.write() = access;
    }
    if let Some(root) = effect.root {
        *node.root.write() = root;
    }
    drop(held);
    for Carried { ticket, event_id, .. } in events {
        node.outbox.recorded(ticket, event_id);
    }
    // The caller's own event is the first.
    receipts.into_iter().next().flatten().ok_or(Uncarried::Late)
}

/// Numbers and writes the events of a change, its own first. One that no record can hold stops all of them: once
/// committed it could never be recorded, and this run would end, and so would every start after it.
fn announce(
    node: &Node,
    event_id: Uuid,
    write: impl FnOnce(u64) -> Bytes,
    companions: Vec<Companion>,
) -> Result<Vec<Carried>, Uncarried> {
    let tickets = node.outbox.start_all(1 + companions.len()).ok_or(Uncarried::Unavailable)?;
    let mut tickets = tickets.into_iter();
    let mut events = Vec::with_capacity(1 + companions.len());
    if let Some(ticket) = tickets.next() {
        let payload = write(ticket.mutation);
        events.push(Carried { ticket, event_id, payload });
    }
    let cause = event_id;
    events.extend(tickets.zip(companions).map(|(ticket, companion)| {
        let event_id = companion.event_id;
        let payload = companion.write(ticket.mutation, cause);
        Carried { ticket, event_id, payload }
    }));
    let Some(large) = events.iter().find(|event| event.payload.len() > PAYLOAD_BYTES_MAX) else { return Ok(events) };
    tracing::error!(event_id = %large.event_id, bytes = large.payload.len(), "event of a change is too large");
    give_up(node, events);
    Err(Uncarried::Oversized)
}

fn give_up(node: &Node, events: Vec<Carried>) {
    events.into_iter().for_each(|event| node.outbox.give_up(event.ticket));
}

impl Carried {
    fn row(&self) -> OutboxRow {
        let (event_id, payload) = (self.event_id.to_string(), self.payload.clone());
        OutboxRow { event_id, mutation: self.ticket.mutation, payload }
    }
}

/// A call with a known action id: an event without effect, and the first answer again.
async fn repeat(node: &Arc<Node>, call: &Call, mut judge: Judge<'_>, first: crate::store::StoredAction) -> Answer {
    let same = judge.action().is_some_and(|action| action.request_sha256[..] == first.request_sha256[..]);
    let refusal =
        (!same).then(|| Refusal::new(RefusalKind::Validation, "The action id was used before with another request."));
    judge.record.decided_by = Some("BuiltIn".to_owned());
    judge.record.repeat_of = same.then_some(first.event_id);
    let (payload, _) = judge.event(refusal.as_ref(), false, None);
    match submit(node, call, payload, || Ok(())).await {
        Ok(receipt) => match refusal {
            Some(refusal) => Answer::refused(refusal, Some(receipt)),
            None => Answer { status: first.status, body: first.answer, refusal: None, receipt: Some(receipt) },
        },
        Err(unsent) => unsent.answer(node, call),
    }
}

fn answer(result: Result<Bytes, Refusal>, receipt: Option<Receipt>) -> Answer {
    match result {
        Ok(body) => Answer { status: 200, body, refusal: None, receipt },
        Err(refusal) => Answer::refused(refusal, receipt),
    }
}

/// The call could not be recorded, so it has no effect; it is counted instead.
fn unavailable(node: &Node, call: &Call) -> Answer {
    node.refusals.unavailable(&call.source_ip);
    Answer::refused(Refusal::internal(), None)
}

/// Why an event has no receipt.
enum Unsent {
    /// The state it was judged on has changed.
    Stale,
    /// It is not in the log and never will be.
    Unavailable,
    /// It has a seq; the log says by an addendum that its reply was not sent.
    Late,
}

impl Unsent {
    fn answer(self, node: &Node, call: &Call) -> Answer {
        match self {
            Self::Late => Answer::refused(Refusal::internal(), None),
            Self::Stale | Self::Unavailable => unavailable(node, call),
        }
    }
}

/// Gives an event to the journal and waits until it is durable.
async fn submit(
    node: &Node,
    call: &Call,
    payload: Bytes,
    gate: impl FnOnce() -> Result<(), Stale>,
) -> Result<Receipt, Unsent> {
    submit_noting(node, call, payload, gate, |_| ()).await
}

/// The same; `sequenced` runs when the event has its seq, whether or not the caller waits for what follows.
async fn submit_noting(
    node: &Node,
    call: &Call,
    payload: Bytes,
    gate: impl FnOnce() -> Result<(), Stale>,
    sequenced: impl FnOnce(u64),
) -> Result<Receipt, Unsent> {
    if node.failed.borrow().is_some() {
        return Err(Unsent::Unavailable);
    }
    let draft = Draft::new(Kind::Event, payload).map_err(|error| {
        tracing::error!(operation = call.operation, %error, "event cannot be drafted");
        Unsent::Unavailable
    })?;
    let pending = match node.journal.submit(draft, gate) {
        Ok(pending) => pending,
        Err(SubmitError::Stale(Stale)) => return Err(Unsent::Stale),
        Err(_) => return Err(Unsent::Unavailable),
    };
    sequenced(pending.seq());
    fail::fail_point!("kms::after_append", |_| std::process::abort());
    let receipt = pending.await.map_err(|error| match error {
        AppendError::Bound => Unsent::Late,
        AppendError::Stopped => Unsent::Unavailable,
    })?;
    fail::fail_point!("kms::before_reply", |_| std::process::abort());
    Ok(receipt)
}

/// Gives a committed change's event to the journal, however long a full queue or disk makes it wait. None when the
/// journal has stopped for good; inside, no receipt when the event is durable but came after its bound.
pub(crate) async fn submit_committed(node: &Node, payload: Bytes, bump: impl Fn()) -> Option<Option<Receipt>> {
    loop {
        let draft = match Draft::new(Kind::Event, payload.clone()) {
            Ok(draft) => draft,
            Err(error) => {
                node.fail(format!("committed event cannot be drafted: {error}"));
                return None;
            }
        };
        let submitted = node.journal.submit::<Stale>(draft, || {
            bump();
            Ok(())
        });
        match submitted {
            Ok(pending) => {
                fail::fail_point!("kms::after_append", |_| std::process::abort());
                return until_durable(node, pending).await;
            }
            Err(SubmitError::Full(_) | SubmitError::Stalled) => tokio::time::sleep(FULL_PAUSE).await,
            Err(error @ (SubmitError::Stopped | SubmitError::Stale(Stale))) => {
                node.fail(format!("journal: {error}"));
                return None;
            }
        }
    }
}

async fn until_durable(node: &Node, pending: Pending) -> Option<Option<Receipt>> {
    let seq = pending.seq();
    match pending.await {
        Ok(receipt) => Some(Some(receipt)),
        Err(AppendError::Bound) => {
            let mut durable = node.journal.durable();
            let landed = durable.wait_for(|durable| durable.next_seq > seq).await.is_ok();
            landed.then_some(None)
        }
        Err(error @ AppendError::Stopped) => {
            node.fail(format!("journal: {error}"));
            None
        }
    }
}
