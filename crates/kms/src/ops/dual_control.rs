//! Dual control: calls about a key that wait until a second person has approved them.
//!
//! A key asks for it by its tag `keytrail:dual-control`, a policy by the condition key `keytrail:ApprovedBySecondPrincipal`: a
//! call that it would allow if that were true, and does not, waits instead of being denied. The first call is refused and opens a request; once that has its
//! approval the same principal repeats the very same call, which is carried out and uses the approval up. Opening, approving
//! and using are decided under the key's lock and that of the requests. Break-glass passes, and is critical wherever it is
//! used; the responder passes, whose list holds nothing that destroys a key.

use super::approval::{self, denial, image, new_id, persons, put, room, state_of};
use super::drive::Effect;
use super::enable::key_stripes;
use super::input::KeyReference;
use super::judge::Judge;
use super::refusal::Refusal;
use crate::access::Role;
use crate::approval::{ApprovalRequest, Kind, Standing, body_digest, subject};
use crate::key::{KeyRecord, rfc3339_seconds};
use crate::locks::Stripe;
use crate::policy::Context;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The tag that asks for it.
const TAG: &str = "keytrail:dual-control";
/// The one value that does not: a value with a slip in it still protects.
const OFF: &str = "off";
/// Whoever asked and one more.
const QUORUM: u8 = 1;
/// How long a request waits, and its approval can be used.
const LASTS_US: u64 = 24 * 3_600 * 1_000_000;

/// Whether a key is under dual control.
pub(super) fn is_required(key: &KeyRecord) -> bool {
    key.tags.get(TAG).is_some_and(|value| value != OFF)
}

/// The locks of a call that any policy may hold: the key's, and the requests'.
pub(super) fn all_stripes(judge: &Judge<'_>, text: Option<&str>) -> BTreeSet<Stripe> {
    let mut stripes = key_stripes(judge, text);
    stripes.insert(judge.node.locks.approvals());
    stripes
}

/// The locks of a call that only the tag may hold: the key's, and the requests' if it has the tag.
pub(super) fn stripes(judge: &Judge<'_>, text: Option<&str>) -> BTreeSet<Stripe> {
    let mut stripes = key_stripes(judge, text);
    let named = text.and_then(|text| KeyReference::parse(text, judge.region(), judge.account()).ok());
    if let Some(KeyReference::Key(account, id)) = named
        && judge.node.registry.key(account, id).is_some_and(|key| is_required(&key))
    {
        stripes.insert(judge.node.locks.approvals());
    }
    stripes
}

/// Asks the policies and grants about a call that may have to wait. They see whether this very call has its approval; where
/// only that is missing the call goes on to [`guarded`], which holds it.
pub(super) async fn allow(
    judge: &mut Judge<'_>,
    action: &str,
    key: &KeyRecord,
    facts: &Context<'_>,
) -> Result<(), Refusal> {
    let waits = judge.caller()?.role == Role::Identity;
    let granted = if waits { granted(judge, key).await? } else { None };
    if let Some(request) = &granted {
        say(judge, request);
    }
    let with = |approved| Context { approved: Some(approved), ..*facts };
    judge.by_approval |= granted.is_some();
    let Err(refusal) = judge.allow_key(action, key, &with(granted.is_some())) else { return Ok(()) };
    let decided_by = judge.record.decided_by.clone();
    if waits && granted.is_none() && judge.allow_key(action, key, &with(true)).is_ok() {
        // No policy has the last word: whatever becomes of the call now, its replay asks none.
        judge.record.decided_by = Some("DualControl".to_owned());
        judge.by_approval = true;
        return Ok(());
    }
    judge.record.decided_by = decided_by;
    Err(refusal)
}

/// The request for this very call on the key as it is, if it has its approval and was not used.
async fn granted(judge: &mut Judge<'_>, key: &KeyRecord) -> Result<Option<Arc<ApprovalRequest>>, Refusal> {
    let (asked, now_us) = (asked(judge, key)?, judge.judged_at_us);
    let same = same(judge, &asked).await;
    let usable = |request: &Arc<ApprovalRequest>| {
        request.standing(now_us) == Standing::Granted && request.target_state == asked.target_state
    };
    Ok(same.filter(usable))
}

/// The open request for the same call.
async fn same(judge: &mut Judge<'_>, asked: &ApprovalRequest) -> Option<Arc<ApprovalRequest>> {
    let now_us = judge.judged_at_us;
    let all = judge.approvals(|registry| registry.approvals()).await;
    let is_same = |request: &Arc<ApprovalRequest>| {
        request.kind == Kind::ApiCall && request.subject == asked.subject && request.is_open(now_us)
    };
    all.into_iter().find(is_same)
}

/// Lets an allowed change of this key through, or holds it: what is then stored is the request alone.
pub(super) async fn guarded(judge: &mut Judge<'_>, key: &KeyRecord, effect: Effect) -> Result<Effect, Refusal> {
    if !(is_required(key) || judge.by_approval) || judge.caller()?.role != Role::Identity {
        return Ok(effect);
    }
    let asked = asked(judge, key)?;
    let now_us = judge.judged_at_us;
    match same(judge, &asked).await {
        Some(request) if request.target_state != asked.target_state => {
            let stale = request.stale(judge.event_id.to_string(), now_us);
            open(judge, asked, Some(stale)).await
        }
        Some(request) if request.standing(now_us) == Standing::Granted => use_up(judge, &request, effect),
        Some(request) => Err(held(judge, &request)),
        None => open(judge, asked, None).await,
    }
}

/// The request that this call would open.
fn asked(judge: &Judge<'_>, key: &KeyRecord) -> Result<ApprovalRequest, Refusal> {
    let caller = judge.caller()?;
    let parameters = judge.record.request_parameters.clone().unwrap_or(Value::Null);
    let (body_sha256, operation, arn) = (body_digest(&parameters), judge.call.operation.clone(), key.arn());
    // Whoever repeats it in another session of the same role is the same principal.
    let role = caller.context().and_then(|context| context.role_arn.as_deref());
    let principal = role.unwrap_or(&caller.arn);
    Ok(ApprovalRequest {
        id: new_id(judge),
        account: key.account.to_string(),
        kind: Kind::ApiCall,
        subject: subject(&[&operation, &arn, &body_sha256, principal]),
        operation,
        target: arn,
        parameters,
        body_sha256,
        requester: caller.arn.clone(),
        requester_persons: persons(caller),
        suspects: BTreeSet::new(),
        target_state: state_of(key),
        quorum: QUORUM,
        opened_us: judge.judged_at_us,
        expires_us: judge.judged_at_us + LASTS_US,
        approvals: Vec::new(),
        end: None,
    })
}

/// Opens a request, in place of one that became stale.
async fn open(
    judge: &mut Judge<'_>,
    request: ApprovalRequest,
    stale: Option<ApprovalRequest>,
) -> Result<Effect, Refusal> {
    let (mut changes, mut publish) = room(judge, &request).await?;
    let shown = Arc::new(request.clone());
    let before = stale.as_ref().map(|stale| stale.id.clone());
    if let Some(stale) = stale {
        put(stale, &mut changes, &mut publish);
    }
    put(request, &mut changes, &mut publish);
    let refused = Some(held(judge, &shown));
    let more = &mut judge.record.more;
    more.insert("approvalRequest".to_owned(), image(&shown, shown.opened_us));
    more.extend(before.map(|id| ("staleApprovalRequestId".to_owned(), id.into())));
    Ok(Effect { changes, publish, refused, ..Effect::default() })
}

/// Refuses the call; nothing of what it would have done is recorded as done.
fn held(judge: &mut Judge<'_>, request: &ApprovalRequest) -> Refusal {
    let record = &mut judge.record;
    (record.before, record.after, record.response_elements) = (None, None, None);
    record.more.clear();
    record.more.insert("approvalRequestId".to_owned(), request.id.clone().into());
    let (id, until) = (&request.id, rfc3339_seconds(request.expires_us));
    let text = format!(
        "{} is under dual control: {} waits for the approval of a second person until {until}. To approve: keytrail \
         approval approve {id}. Then repeat the very same call. Request {id}",
        request.target, request.operation
    );
    denial(judge, id, text)
}

/// Carries the call out, with the approval used up in the same transaction.
fn use_up(judge: &mut Judge<'_>, request: &ApprovalRequest, mut effect: Effect) -> Result<Effect, Refusal> {
    let used = request.consume(&request.target_state, judge.event_id.to_string(), judge.judged_at_us);
    let used = used.map_err(|misuse| denial(judge, &request.id, format!("{}: {misuse}.", request.id)))?;
    say(judge, request);
    put(used, &mut effect.changes, &mut effect.publish);
    Ok(effect)
}

/// By whose word the call is made, in its event.
fn say(judge: &mut Judge<'_>, request: &ApprovalRequest) {
    let more = &mut judge.record.more;
    more.insert("approvalRequestId".to_owned(), request.id.clone().into());
    more.insert("approvedBy".to_owned(), request.approvals.iter().map(approval::told).collect());
}
