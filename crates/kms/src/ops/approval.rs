//! Approve, Reject, ListApprovalRequests, DescribeApprovalRequest; and the responder's OpenApprovalRequest and
//! ConsumeApprovalRequest.
//!
//! The rules are in `crate::approval`; here is who calls, with which second factor, and what is stored. All requests are under
//! one lock, with the key that a request is about besides, so that an approval and a change of the key have an order.

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::{KeyReference, recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Caller;
use crate::approval::{self, Approval, ApprovalRequest, Kind, MFA_AGE_SECS_MAX, Misuse, QUORUM, Standing};
use crate::key::{AccountId, KeyRecord, Region, epoch_seconds, rfc3339_micros};
use crate::locks::Stripe;
use crate::people::role_of_session;
use crate::policy::{Context, Mfa};
use crate::registry::Publish;
use crate::store::{Change, EntityRow, StoreError};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Their rows among the entities.
pub(crate) const APPROVAL_ROW: &str = "approval-request";

/// Requests of one kind that an account may have open; people decide each of them.
const OPEN_MAX: usize = 1_000;
/// How long what is over can be looked at; the log has it for ever.
const KEPT_US: u64 = 30 * 86_400 * 1_000_000;
/// Of the responder's requests: the state of an incident does not last longer than a day.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 60..=86_400;
/// SHA-256 in hex.
const HASH_CHARS: usize = 64;
const TEXT_BYTES_MAX: usize = 2_048;
const SUSPECTS_MAX: usize = 64;
const PARAMETERS_BYTES_MAX: usize = 16 * 1_024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Approve {
    request_id: Option<String>,
    subject: Option<String>,
    target_state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Reject {
    request_id: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListApprovalRequests {
    include_ended: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DescribeApprovalRequest {
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OpenApprovalRequest {
    operation: Option<String>,
    target: Option<String>,
    parameters: Option<Value>,
    suspects: Option<Vec<String>>,
    subject: Option<String>,
    target_state: Option<String>,
    quorum: Option<u8>,
    ttl_seconds: Option<u64>,
    /// The target is not here but at AWS.
    away: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ConsumeApprovalRequest {
    request_id: Option<String>,
    target_state: Option<String>,
}

impl Mutation for Approve {
    fn parameters(&self) -> Option<Value> {
        let (subject, state) = (self.subject.as_deref().map(cut), self.target_state.as_deref().map(cut));
        recorded(
            None,
            json!({"requestId": self.request_id.as_deref().map(cut), "subject": subject, "targetState": state}),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        request_stripes(judge, self.request_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let (subject, state) = (required(&self.subject, "subject")?, required(&self.target_state, "targetState")?);
        let request = found(judge, self.request_id.as_ref(), "keytrail:Approve").await?;
        check_second_factor(judge)?;
        let caller = judge.caller()?;
        let approval = Approval {
            principal: caller.arn.clone(),
            persons: persons(caller),
            event_id: judge.event_id.to_string(),
            at_us: judge.judged_at_us,
        };
        let after = request.approve(approval, subject, state).map_err(|misuse| refused(judge, &request, misuse))?;
        // What nobody could use any more is not approved either.
        if now_state(judge, &request).is_some_and(|now| now != request.target_state) {
            let text = format!("{} cannot be approved: its target has changed since it was asked for.", request.id);
            return Err(denial(judge, &request.id, text));
        }
        Ok(changed(judge, &request, after))
    }
}

impl Mutation for Reject {
    fn parameters(&self) -> Option<Value> {
        let reason = self.reason.as_deref().map(cut);
        recorded(None, json!({"requestId": self.request_id.as_deref().map(cut), "reason": reason}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        request_stripes(judge, self.request_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let request = found(judge, self.request_id.as_ref(), "keytrail:Reject").await?;
        let persons = persons(judge.caller()?);
        let after = request.reject(&persons, judge.event_id.to_string(), judge.judged_at_us);
        let after = after.map_err(|misuse| refused(judge, &request, misuse))?;
        Ok(changed(judge, &request, after))
    }
}

impl Query for ListApprovalRequests {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"includeEnded": self.include_ended}))
    }

    /// The newest first. No pages: what is open is bounded, and of what is over the log tells more.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:ListApprovalRequests", &Context::default())?;
        let (account, now_us) = (judge.account(), judge.judged_at_us);
        let mut all = judge.approvals(|registry| registry.approvals()).await;
        all.retain(|request| request.account == account.as_str());
        if !self.include_ended.unwrap_or(false) {
            all.retain(|request| request.is_open(now_us));
        }
        all.sort_by_key(|request| std::cmp::Reverse(request.opened_us));
        let listed = all.iter().take(OPEN_MAX).map(|request| {
            let mut answer = described(request, now_us);
            answer.as_object_mut().map(|members| members.remove("Parameters"));
            answer
        });
        Ok(json_body(&json!({"ApprovalRequests": listed.collect::<Vec<_>>()})))
    }
}

impl Query for DescribeApprovalRequest {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"requestId": self.request_id.as_deref().map(cut)}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let request = found(judge, self.request_id.as_ref(), "keytrail:DescribeApprovalRequest").await?;
        Ok(json_body(&described(&request, judge.judged_at_us)))
    }
}

impl Mutation for OpenApprovalRequest {
    fn parameters(&self) -> Option<Value> {
        let (operation, target) = (self.operation.as_deref().map(cut), self.target.as_deref().map(cut));
        let (subject, state) = (self.subject.as_deref().map(cut), self.target_state.as_deref().map(cut));
        let parameters = self.parameters.as_ref().filter(|value| value.to_string().len() <= PARAMETERS_BYTES_MAX);
        let suspects: Option<Vec<&str>> =
            self.suspects.as_ref().map(|all| all.iter().take(SUSPECTS_MAX).map(|arn| cut(arn)).collect());
        recorded(
            None,
            json!({
                "operation": operation, "target": target, "parameters": parameters, "suspects": suspects,
                "subject": subject, "targetState": state, "quorum": self.quorum, "ttlSeconds": self.ttl_seconds,
                "away": self.away,
            }),
        )
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::from([judge.node.locks.approvals()])
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        check_responder(judge)?;
        let request = self.request(judge)?;
        let (mut changes, mut publish) = room(judge, &request).await?;
        judge.record.after = Some(image(&request, judge.judged_at_us));
        judge.record.more.insert("approvalRequestId".to_owned(), request.id.clone().into());
        let answer = json!({"RequestId": request.id, "ExpiresAt": epoch_seconds(request.expires_us)});
        judge.record.response_elements = Some(json!({"requestId": request.id}));
        put(request, &mut changes, &mut publish);
        Ok(Effect { body: json_body(&answer), changes, publish, ..Effect::default() })
    }
}

impl OpenApprovalRequest {
    fn request(&self, judge: &Judge<'_>) -> Result<ApprovalRequest, Refusal> {
        let operation = text(self.operation.as_ref(), "operation")?;
        let target = text(self.target.as_ref(), "target")?;
        let (subject, state) =
            (hash(self.subject.as_ref(), "subject")?, hash(self.target_state.as_ref(), "targetState")?);
        let quorum = *required(&self.quorum, "quorum")?;
        let ttl_seconds = *required(&self.ttl_seconds, "ttlSeconds")?;
        if !QUORUM.contains(&quorum) {
            return Err(Refusal::constraint(None, "quorum", "Member must have value between 1 and 5"));
        }
        if !TTL_SECONDS.contains(&ttl_seconds) {
            return Err(Refusal::constraint(None, "ttlSeconds", "Member must have value between 60 and 86400"));
        }
        let parameters = self.parameters.clone().unwrap_or_else(|| json!({}));
        if parameters.to_string().len() > PARAMETERS_BYTES_MAX {
            return Err(Refusal::constraint(None, "parameters", "Member must have at most 16384 bytes as JSON"));
        }
        let suspects = self.suspects.as_deref().unwrap_or_default();
        if suspects.len() > SUSPECTS_MAX || suspects.iter().any(|arn| arn.len() > TEXT_BYTES_MAX) {
            return Err(Refusal::constraint(None, "suspects", "Member must have length less than or equal to 64"));
        }
        let suspects = suspects.iter().flat_map(|named| {
            let owner = judge.access.owner_of_key(named);
            [Some(named.clone()), role_of_session(named), owner].into_iter().flatten()
        });
        let caller = judge.caller()?;
        // Whoever owns the target decides; nobody's target, and one that is not here, is the node's own.
        let owner = target.split(':').nth(4).filter(|_| self.away != Some(true)).and_then(AccountId::parse);
        let account = owner.unwrap_or(judge.node.account);
        Ok(ApprovalRequest {
            id: new_id(judge),
            account: account.to_string(),
            kind: Kind::Response,
            operation,
            target,
            body_sha256: approval::body_digest(&parameters),
            parameters,
            requester: caller.arn.clone(),
            requester_persons: persons(caller),
            suspects: suspects.collect(),
            subject,
            target_state: state,
            quorum,
            opened_us: judge.judged_at_us,
            expires_us: judge.judged_at_us + ttl_seconds * 1_000_000,
            approvals: Vec::new(),
            end: None,
        })
    }
}

impl Mutation for ConsumeApprovalRequest {
    fn parameters(&self) -> Option<Value> {
        let state = self.target_state.as_deref().map(cut);
        recorded(None, json!({"requestId": self.request_id.as_deref().map(cut), "targetState": state}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        request_stripes(judge, self.request_id.as_deref())
    }

    /// Works for a stale one, too, whose end it is; the answer says which.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        check_responder(judge)?;
        let state = required(&self.target_state, "targetState")?;
        let request = found(judge, self.request_id.as_ref(), "keytrail:ConsumeApprovalRequest").await?;
        if request.kind != Kind::Response {
            let text = format!("{} is for a call, which whoever asked repeats.", request.id);
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        let after = request.consume(state, judge.event_id.to_string(), judge.judged_at_us);
        let after = after.map_err(|misuse| refused(judge, &request, misuse))?;
        Ok(changed(judge, &request, after))
    }
}

/// Who a caller is, as far as can be told: user or role, and whoever opened the session.
pub(super) fn persons(caller: &Caller) -> BTreeSet<String> {
    caller.quarantined_as().map(str::to_owned).collect()
}

/// The requests that the store has.
pub(crate) fn loaded_approvals(rows: &[EntityRow]) -> Result<Vec<Publish>, StoreError> {
    let read = rows.iter().map(|row| {
        let request: ApprovalRequest =
            serde_json::from_str(&row.body).map_err(|_| StoreError::Row { table: "entities" })?;
        Ok(Publish::Approval(Arc::new(request)))
    });
    read.collect()
}

/// Stores a request, new or changed.
pub(super) fn put(request: ApprovalRequest, changes: &mut Vec<Change>, publish: &mut Vec<Publish>) {
    let account = AccountId::parse(&request.account).expect("a request is of an account");
    let body = serde_json::to_string(&request).expect("a request has only string keys");
    let name = request.id.clone();
    changes.push(Change::PutEntity { account, kind: APPROVAL_ROW, name, body, sealed: None });
    publish.push(Publish::Approval(Arc::new(request)));
}

/// Makes room for a new request: forgets what has been over for long, or refuses.
pub(super) async fn room(judge: &mut Judge<'_>, new: &ApprovalRequest) -> Result<(Vec<Change>, Vec<Publish>), Refusal> {
    let now_us = judge.judged_at_us;
    let (mut changes, mut publish, mut open) = (Vec::new(), Vec::new(), 0);
    for request in judge.approvals(|registry| registry.approvals()).await {
        let of_its_kind = request.account == new.account && request.kind == new.kind;
        open += usize::from(of_its_kind && request.is_open(now_us));
        let over_us = request.end.as_ref().map_or(request.expires_us, |end| end.at_us);
        if over_us.saturating_add(KEPT_US) < now_us
            && let Some(account) = AccountId::parse(&request.account)
        {
            changes.push(Change::DeleteEntity { account, kind: APPROVAL_ROW, name: request.id.clone() });
            publish.push(Publish::NoApproval(request.id.clone()));
        }
    }
    if open >= OPEN_MAX {
        return Err(Refusal::new(RefusalKind::LimitExceeded, "Too many requests for approval are open."));
    }
    Ok((changes, publish))
}

/// Of a new request.
pub(super) fn new_id(judge: &Judge<'_>) -> String {
    format!("A-{}", hex::encode(judge.node.random::<8>()))
}

/// A key as an approval binds to it.
pub(super) fn state_of(key: &KeyRecord) -> String {
    approval::key_state(&key.arn(), key.state.name(), &hex::encode(key.policy.sha256))
}

/// What an event says of a request.
pub(super) fn image(request: &ApprovalRequest, now_us: u64) -> Value {
    let approvals: Vec<Value> = request.approvals.iter().map(told).collect();
    json!({
        "approvalRequestId": request.id, "kind": request.kind, "operation": request.operation,
        "target": request.target, "bodySha256": request.body_sha256, "requester": request.requester,
        "suspects": request.suspects, "subject": request.subject, "targetState": request.target_state,
        "quorum": request.quorum, "approvals": approvals, "state": request.standing(now_us),
        "openedAt": rfc3339_micros(request.opened_us), "expiresAt": rfc3339_micros(request.expires_us),
    })
}

/// What an event says of an approval.
pub(super) fn told(approval: &Approval) -> Value {
    json!({"principalArn": approval.principal, "eventId": approval.event_id})
}

fn described(request: &ApprovalRequest, now_us: u64) -> Value {
    let approvals: Vec<Value> = request
        .approvals
        .iter()
        .map(|one| json!({"Principal": one.principal, "EventId": one.event_id, "At": epoch_seconds(one.at_us)}))
        .collect();
    let ended = request.end.as_ref().map(|end| json!({"EventId": end.event_id, "At": epoch_seconds(end.at_us)}));
    json!({
        "RequestId": request.id, "Kind": request.kind, "Operation": request.operation, "Target": request.target,
        "Parameters": request.parameters, "BodySha256": request.body_sha256, "Requester": request.requester,
        "Suspects": request.suspects, "Subject": request.subject, "TargetState": request.target_state,
        "Quorum": request.quorum, "Approvals": approvals, "State": request.standing(now_us),
        "OpenedAt": epoch_seconds(request.opened_us), "ExpiresAt": epoch_seconds(request.expires_us), "Ended": ended,
    })
}

/// The request, if the caller may do this and it is its account's.
async fn found(judge: &mut Judge<'_>, id: Option<&String>, action: &str) -> Result<Arc<ApprovalRequest>, Refusal> {
    let id = id.ok_or_else(|| Refusal::missing("requestId"))?;
    judge.allow_account(action, &Context::default())?;
    let found = judge.approvals(|registry| registry.approval(id)).await;
    let (account, responder) = (judge.account(), judge.is_responder());
    let own = found.filter(|request| responder || request.account == account.as_str());
    let Some(request) = own else {
        return Err(Refusal::new(RefusalKind::NotFound, "There is no such request for approval."));
    };
    if let Some(account) = AccountId::parse(&request.account).filter(|_| request.target.starts_with("arn:aws:kms:")) {
        judge.record.touch_key_arn(request.target.clone(), account);
    }
    judge.record.more.insert("approvalRequestId".to_owned(), request.id.clone().into());
    Ok(request)
}

/// Requests about its own actions are the responder's alone, whatever policies allow others.
fn check_responder(judge: &mut Judge<'_>) -> Result<(), Refusal> {
    if judge.is_responder() {
        return Ok(());
    }
    judge.record.decided_by = Some("BuiltIn".to_owned());
    Err(judge.denied("*"))
}

/// A yes by somebody who has only stolen a key is none.
fn check_second_factor(judge: &mut Judge<'_>) -> Result<(), Refusal> {
    let proved = judge.caller()?.context().map(|context| context.mfa);
    let now_us = judge.judged_at_us;
    let fresh = matches!(proved, Some(Mfa::At(at_us)) if now_us.saturating_sub(at_us) <= MFA_AGE_SECS_MAX * 1_000_000);
    if fresh {
        return Ok(());
    }
    judge.record.decided_by = Some("Mfa".to_owned());
    let text =
        format!("Approving needs credentials with a second factor proved at most {MFA_AGE_SECS_MAX} seconds ago.");
    Err(Refusal::new(RefusalKind::AccessDenied, text))
}

fn refused(judge: &mut Judge<'_>, request: &ApprovalRequest, misuse: Misuse) -> Refusal {
    let text = format!("{}: {misuse}.", request.id);
    match misuse {
        Misuse::Requester | Misuse::Suspect | Misuse::Again | Misuse::Subject | Misuse::TargetState => {
            denial(judge, &request.id, text)
        }
        Misuse::Granted | Misuse::Waiting | Misuse::Expired | Misuse::Ended => {
            Refusal::new(RefusalKind::InvalidState, text)
        }
    }
}

/// A denial that no policy decided.
pub(super) fn denial(judge: &mut Judge<'_>, id: &str, text: String) -> Refusal {
    judge.record.decided_by = Some(format!("DualControl/{id}"));
    Refusal::new(RefusalKind::AccessDenied, text)
}

/// Records and stores what became of a request.
fn changed(judge: &mut Judge<'_>, before: &ApprovalRequest, after: ApprovalRequest) -> Effect {
    let now_us = judge.judged_at_us;
    judge.record.before = Some(image(before, now_us));
    judge.record.after = Some(image(&after, now_us));
    judge.record.response_elements = Some(json!({"requestId": after.id}));
    let standing: Standing = after.standing(now_us);
    let answer = json!({
        "RequestId": after.id, "State": standing, "Approvals": after.approvals.len(), "Quorum": after.quorum,
        "ExpiresAt": epoch_seconds(after.expires_us),
    });
    let (mut changes, mut publish) = (Vec::new(), Vec::new());
    put(after, &mut changes, &mut publish);
    Effect { body: json_body(&answer), changes, publish, ..Effect::default() }
}

/// The lock of all requests, and that of the key this one is about.
fn request_stripes(judge: &Judge<'_>, id: Option<&str>) -> BTreeSet<Stripe> {
    let request = id.and_then(|id| judge.node.registry.approval(id));
    let key = request.and_then(|request| key_named(&request.target));
    let key = key.map(|(account, id)| judge.node.locks.key(account, id));
    key.into_iter().chain([judge.node.locks.approvals()]).collect()
}

/// The state of the key that a request is about; none when it is about something else.
fn now_state(judge: &Judge<'_>, request: &ApprovalRequest) -> Option<String> {
    let (account, id) = key_named(&request.target)?;
    let key = judge.node.registry.key(account, id);
    // One that is not here was never seen: its name stands for it.
    Some(key.map_or_else(|| approval::named_state(&request.target), |key| state_of(&key)))
}

/// The key in an ARN.
pub(super) fn key_named(arn: &str) -> Option<(AccountId, crate::key::KeyId)> {
    let mut parts = arn.strip_prefix("arn:aws:kms:")?.splitn(3, ':');
    let (region, account) = (Region::parse(parts.next()?)?, AccountId::parse(parts.next()?)?);
    match KeyReference::parse(arn, region, account).ok()? {
        KeyReference::Key(account, id) => Some((account, id)),
        KeyReference::Alias(..) => None,
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn text(member: Option<&String>, name: &str) -> Result<String, Refusal> {
    let text = member.ok_or_else(|| Refusal::missing(name))?;
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Refusal::constraint(None, name, "Member must be a line of 1 to 2048 bytes"));
    }
    Ok(text.clone())
}

fn hash(member: Option<&String>, name: &str) -> Result<String, Refusal> {
    let text = member.ok_or_else(|| Refusal::missing(name))?;
    let sane = text.len() == HASH_CHARS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if sane {
        Ok(text.clone())
    } else {
        Err(Refusal::constraint(None, name, "Member must be 64 lower-case hex digits"))
    }
}
