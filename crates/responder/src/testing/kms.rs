//! A KMS for tests: behind the same trait as the real client, idempotent by action id, its effects in a file.

use super::{CLOSED_POLICY, OPEN_POLICY, alias_arn, hash, key_arn, principal_arn};
use crate::act::{Answer, Control, ControlError};
use crate::announced::AnnouncedChange;
use crate::guard::kept_as;
use async_trait::async_trait;
use keytrail_kms::approval::{Approval, ApprovalRequest, Kind, Misuse, body_digest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A KMS with keys, policies and quarantines, idempotent by action id, that writes every effect to a file.
pub(crate) struct FakeKms {
    effects: PathBuf,
    state: Mutex<FakeState>,
}

#[derive(Default)]
struct FakeState {
    keys: HashMap<String, (String, String)>,
    /// Principal and, of one key, its ARN.
    quarantined: HashMap<(String, String), u32>,
    /// Id to key and grantee.
    grants: BTreeMap<String, (String, String)>,
    /// ARN to key.
    aliases: HashMap<String, String>,
    /// Key or account to actions.
    mfa: HashMap<String, Value>,
    inactive: BTreeSet<String>,
    answers: HashMap<String, (String, Value)>,
    unreachable: u32,
    refused: Option<String>,
    lost_answers: u32,
    calls: Vec<String>,
    approvals: HashMap<String, ApprovalRequest>,
    now_us: u64,
    /// Bodies of RecordIncident.
    recorded: Vec<Value>,
    /// What GetUsage answers.
    usage: Vec<Value>,
    changes: Vec<AnnouncedChange>,
    refuses_lists: bool,
    reports: Vec<Value>,
}

impl FakeKms {
    /// Effects of an earlier process are read back, so a crash test's second run meets the same KMS.
    pub(crate) fn open(effects: &Path) -> Arc<Self> {
        let kms = Self { effects: effects.to_owned(), state: Mutex::default() };
        let text = std::fs::read_to_string(effects).unwrap_or_default();
        for line in text.lines() {
            let effect: Value = serde_json::from_str(line).unwrap();
            let (id, target) = (effect["id"].as_str().map(str::to_owned), effect["call"].as_str().unwrap().to_owned());
            let mut state = kms.state.lock().unwrap();
            let answer = apply(&mut state, &target, &effect["body"]).unwrap();
            if let Some(id) = id {
                state.answers.insert(id, (format!("{target}{}", effect["body"]), answer));
            }
        }
        Arc::new(kms)
    }

    /// What an attacker or a test does to a key; an effect without an action id.
    pub(crate) fn set_key(&self, id: &str, key_state: &str, open: bool) {
        let policy = if open { OPEN_POLICY } else { CLOSED_POLICY };
        self.set("SetKey", json!({ "KeyId": key_arn(id), "KeyState": key_state, "Policy": policy }));
    }

    /// Gives a key that there is a policy that is neither of the two.
    pub(crate) fn set_other_policy(&self, id: &str) {
        self.set("SetKey", json!({ "KeyId": key_arn(id), "KeyState": "Enabled", "Policy": "{}" }));
    }

    pub(crate) fn set_grant(&self, id: &str, key: &str, grantee: &str) {
        self.set(
            "SetGrant",
            json!({ "GrantId": id, "KeyId": key_arn(key), "GranteePrincipal": principal_arn(grantee) }),
        );
    }

    /// Points an alias to a key, or deletes it.
    pub(crate) fn set_alias(&self, name: &str, key: Option<&str>) {
        self.set("SetAlias", json!({ "AliasName": alias_arn(name), "Target": key.map(key_arn) }));
    }

    fn set(&self, operation: &str, body: Value) {
        self.write_effect(None, operation, &body);
        apply(&mut self.state.lock().unwrap(), operation, &body).unwrap();
    }

    pub(crate) fn alias(&self, name: &str) -> Option<String> {
        self.state.lock().unwrap().aliases.get(&alias_arn(name)).cloned()
    }

    pub(crate) fn grants(&self) -> Vec<String> {
        self.state.lock().unwrap().grants.keys().cloned().collect()
    }

    pub(crate) fn requires_mfa(&self, on: &str) -> bool {
        self.state.lock().unwrap().mfa.contains_key(on)
    }

    pub(crate) fn is_inactive(&self, access_key_id: &str) -> bool {
        self.state.lock().unwrap().inactive.contains(access_key_id)
    }

    pub(crate) fn is_quarantined_on(&self, user: &str, key: &str) -> bool {
        self.state.lock().unwrap().quarantined.contains_key(&(principal_arn(user), key_arn(key)))
    }

    pub(crate) fn key(&self, id: &str) -> (String, bool) {
        let state = self.state.lock().unwrap();
        let (key_state, policy) = state.keys[&key_arn(id)].clone();
        (key_state, policy == OPEN_POLICY)
    }

    pub(crate) fn is_quarantined(&self, user: &str) -> bool {
        self.state.lock().unwrap().quarantined.contains_key(&(principal_arn(user), String::new()))
    }

    /// The newest request for approval.
    pub(crate) fn request(&self) -> Option<ApprovalRequest> {
        self.state.lock().unwrap().approvals.values().max_by_key(|request| request.opened_us).cloned()
    }

    /// A person agrees; an effect without an action id.
    pub(crate) fn agree(&self, request: &str, person: &str) -> Result<Value, ControlError> {
        let body = json!({ "RequestId": request, "Principal": principal_arn(person) });
        // Written before anyone can act on it: effects are read back in this order.
        let mut state = self.state.lock().unwrap();
        let answer = apply(&mut state, "Agree", &body)?;
        self.write_effect(None, "Agree", &body);
        Ok(answer)
    }

    /// These people agree to whatever is asked; what they agreed to before is refused.
    pub(crate) fn agree_to_all(&self, people: &[&str]) {
        let waiting = |request: &&ApprovalRequest| request.approvals.len() < people.len() && request.end.is_none();
        let state = self.state.lock().unwrap();
        let requests: Vec<String> = state.approvals.values().filter(waiting).map(|one| one.id.clone()).collect();
        drop(state);
        for request in requests {
            people.iter().for_each(|person| drop(self.agree(&request, person)));
        }
    }

    /// Time goes by for requests for approval.
    pub(crate) fn wait(&self, duration: std::time::Duration) {
        self.state.lock().unwrap().now_us += u64::try_from(duration.as_micros()).unwrap();
    }

    pub(crate) fn unreachable_for(&self, calls: u32) {
        self.state.lock().unwrap().unreachable = calls;
    }

    /// The next mutations take effect, but their answers are lost.
    pub(crate) fn lose_answers(&self, calls: u32) {
        self.state.lock().unwrap().lost_answers = calls;
    }

    /// This operation is refused from now on.
    pub(crate) fn refuse(&self, operation: &str) {
        self.state.lock().unwrap().refused = Some(operation.to_owned());
    }

    pub(crate) fn announce(&self, change: AnnouncedChange) {
        self.state.lock().unwrap().changes.push(change);
    }

    /// From now on nobody may list announced changes.
    pub(crate) fn refuse_lists(&self) {
        self.state.lock().unwrap().refuses_lists = true;
    }

    /// What the responder told the log about itself.
    pub(crate) fn reports(&self) -> Vec<Value> {
        self.state.lock().unwrap().reports.clone()
    }

    /// Operations called about keys and principals, in order; not the lists that guards read.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = self.state.lock().unwrap().calls.clone();
        calls.into_iter().filter(|call| call != "ListChanges").collect()
    }

    /// How often the announced changes were asked for.
    pub(crate) fn asked_for_changes(&self) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| *call == "ListChanges").count()
    }

    /// What of timelines the log was told.
    pub(crate) fn recorded(&self) -> Vec<Value> {
        self.state.lock().unwrap().recorded.clone()
    }

    /// Uses that the log holds from now on: `PrincipalArn`, `KeyArn`, `Operation`, `Count`, `LastSeq`...
    pub(crate) fn was_used(&self, uses: Value) {
        self.state.lock().unwrap().usage.push(uses);
    }

    /// Somebody else lifts it.
    pub(crate) fn lift(&self, user: &str) {
        self.state.lock().unwrap().quarantined.remove(&(principal_arn(user), String::new()));
    }

    /// Operation and target of every effect that carried an action id.
    pub(crate) fn effects(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.effects).unwrap_or_default();
        let effects = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        effects
            .filter(|effect| effect["id"].is_string())
            .map(|effect| {
                let body = &effect["body"];
                let named = [
                    "GrantId",
                    "AliasName",
                    "AccessKeyId",
                    "AccountId",
                    "KeyId",
                    "PrincipalArn",
                    "Target",
                    "RequestId",
                ];
                let target = named.into_iter().find_map(|name| body[name].as_str()).unwrap();
                (effect["call"].as_str().unwrap().to_owned(), target.to_owned())
            })
            .collect()
    }

    fn write_effect(&self, id: Option<&str>, call: &str, body: &Value) {
        let mut file = std::fs::File::options().create(true).append(true).open(&self.effects).unwrap();
        // In one piece: a test reads while effects are written, and must not see half a line.
        let line = format!("{}\n", json!({ "id": id, "call": call, "body": body }));
        file.write_all(line.as_bytes()).unwrap();
    }
}

#[async_trait]
impl Control for FakeKms {
    async fn call(&self, target: &str, body: Value, action_id: Option<&str>) -> Result<Answer, ControlError> {
        let operation = target.split_once('.').unwrap().1;
        let mut state = self.state.lock().unwrap();
        if operation == "RecordIncident" {
            state.recorded.push(body);
            return Ok(Answer { body: json!({}), log_seq: Some(1_000) });
        }
        state.calls.push(operation.to_owned());
        if state.unreachable > 0 {
            state.unreachable -= 1;
            return Err(ControlError::Unreachable("connection refused".into()));
        }
        if state.refused.as_deref() == Some(operation) {
            return Err(ControlError::Refused { code: "AccessDeniedException".into(), message: "no".into() });
        }
        let Some(id) = action_id else {
            return apply(&mut state, operation, &body).map(|body| Answer { body, log_seq: Some(7) });
        };
        let sent = format!("{operation}{body}");
        if let Some((first, answer)) = state.answers.get(id) {
            assert_eq!(*first, sent, "one action id for two calls");
            return Ok(Answer { body: answer.clone(), log_seq: Some(7) });
        }
        let answer = apply(&mut state, operation, &body)?;
        self.write_effect(Some(id), operation, &body);
        state.answers.insert(id.to_owned(), (sent, answer.clone()));
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(ControlError::Unreachable("timed out".into()));
        }
        Ok(Answer { body: answer, log_seq: Some(7) })
    }
}

fn opened(state: &mut FakeState, body: &Value) -> Value {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let id = format!("A-{}", &text("Subject")[..16]);
    let ttl_us = body["TtlSeconds"].as_u64().unwrap() * 1_000_000;
    let suspects = body["Suspects"].as_array().unwrap().iter().map(|arn| arn.as_str().unwrap().to_owned());
    let request = ApprovalRequest {
        id: id.clone(),
        account: "111122223333".into(),
        kind: Kind::Response,
        operation: text("Operation"),
        target: text("Target"),
        body_sha256: body_digest(&body["Parameters"]),
        parameters: body["Parameters"].clone(),
        requester: "responder".into(),
        requester_persons: [principal_arn("responder")].into(),
        suspects: suspects.collect(),
        subject: text("Subject"),
        target_state: text("TargetState"),
        quorum: body["Quorum"].as_u64().unwrap().try_into().unwrap(),
        opened_us: state.now_us,
        expires_us: state.now_us + ttl_us,
        approvals: Vec::new(),
        end: None,
    };
    state.approvals.insert(id.clone(), request);
    json!({ "RequestId": id })
}

fn apply(state: &mut FakeState, operation: &str, body: &Value) -> Result<Value, ControlError> {
    let refused = |code: &str| ControlError::Refused { code: code.into(), message: "no".into() };
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match operation {
        "PutQuarantine" => {
            *state.quarantined.entry((kept_as(&text("PrincipalArn")), text("KeyId"))).or_default() += 1;
            return Ok(json!({ "PrincipalArn": text("PrincipalArn"), "ExpiresAt": 1 }));
        }
        "LiftQuarantine" => {
            state.quarantined.remove(&(kept_as(&text("PrincipalArn")), text("KeyId")));
            return Ok(json!({}));
        }
        "PutMfaRequirement" => {
            let on = format!("{}{}", text("KeyId"), text("AccountId"));
            state.mfa.insert(on.clone(), body["Actions"].clone());
            return Ok(json!({ "OnArn": on }));
        }
        "LiftMfaRequirement" => {
            let found = state.mfa.remove(&format!("{}{}", text("KeyId"), text("AccountId")));
            return found.map(|_| json!({})).ok_or_else(|| refused("NotFoundException"));
        }
        "ListMfaRequirements" => {
            let all: Vec<Value> = state.mfa.keys().map(|on| json!({ "OnArn": on })).collect();
            return Ok(json!({ "MfaRequirements": all }));
        }
        "DeactivateAccessKey" => {
            state.inactive.insert(text("AccessKeyId"));
            return Ok(json!({}));
        }
        "ActivateAccessKey" => {
            state.inactive.remove(&text("AccessKeyId"));
            return Ok(json!({}));
        }
        "ListDeactivatedAccessKeys" => {
            let all: Vec<Value> = state.inactive.iter().map(|id| json!({ "AccessKeyId": id })).collect();
            return Ok(json!({ "AccessKeys": all }));
        }
        "SetGrant" => {
            state.grants.insert(text("GrantId"), (text("KeyId"), text("GranteePrincipal")));
            return Ok(json!({}));
        }
        "ListGrants" => {
            let on_key = state.grants.iter().filter(|(_, (key, _))| *key == text("KeyId"));
            let of = on_key
                .filter(|(_, (_, grantee))| body["GranteePrincipal"].is_null() || *grantee == text("GranteePrincipal"));
            let one = of.filter(|(id, _)| body["GrantId"].is_null() || **id == text("GrantId"));
            let all: Vec<Value> =
                one.map(|(id, (_, grantee))| json!({ "GrantId": id, "GranteePrincipal": grantee })).collect();
            let gone = all.is_empty() && !body["GrantId"].is_null();
            return if gone { Err(refused("InvalidGrantIdException")) } else { Ok(json!({ "Grants": all })) };
        }
        "RevokeGrant" => {
            let found = state.grants.remove(&text("GrantId"));
            return found.map(|_| json!({})).ok_or_else(|| refused("InvalidGrantIdException"));
        }
        "SetAlias" => {
            match body["Target"].as_str() {
                Some(key) => drop(state.aliases.insert(text("AliasName"), key.to_owned())),
                None => drop(state.aliases.remove(&text("AliasName"))),
            }
            return Ok(json!({}));
        }
        "RestoreAlias" => {
            let alias = text("AliasName");
            if state.aliases.get(&alias).map(String::as_str) != body["CurrentTargetKeyId"].as_str() {
                return Err(refused("KMSInvalidStateException"));
            }
            // In these tests `set-<key>` is the event that pointed the alias to the key.
            let wanted = text("WantedEventId");
            let key = wanted.strip_prefix("set-").ok_or_else(|| refused("NotFoundException"))?;
            state.aliases.insert(alias, key_arn(key));
            return Ok(json!({ "TargetKeyId": key_arn(key) }));
        }
        "DescribeKey" if text("KeyId").contains(":alias/") => {
            let key = state.aliases.get(&text("KeyId")).ok_or_else(|| refused("NotFoundException"))?;
            return Ok(json!({ "KeyMetadata": { "Arn": key, "KeyState": "Enabled" } }));
        }
        "ListAliases" => return Ok(json!({ "Aliases": [] })),
        "ListResourceTags" => return Ok(json!({ "Tags": [{ "TagKey": "owner", "TagValue": "fin" }] })),
        "OpenApprovalRequest" => return Ok(opened(state, body)),
        "DescribeApprovalRequest" | "ConsumeApprovalRequest" | "Agree" => {
            let now = state.now_us;
            let request = state.approvals.get_mut(&text("RequestId")).ok_or_else(|| refused("NotFoundException"))?;
            let misuse = |misuse: Misuse| ControlError::Refused { code: "Misuse".into(), message: misuse.to_string() };
            match operation {
                "ConsumeApprovalRequest" => {
                    *request = request.consume(&text("TargetState"), "e".into(), now).map_err(misuse)?;
                }
                "Agree" => {
                    let (principal, persons) = (text("Principal"), [text("Principal")].into());
                    let approval = Approval { principal, persons, event_id: "e".into(), at_us: now };
                    let (subject, seen) = (request.subject.clone(), request.target_state.clone());
                    *request = request.approve(approval, &subject, &seen).map_err(misuse)?;
                }
                _ => {}
            }
            let people: Vec<Value> = request.approvals.iter().map(|one| json!({"Principal": one.principal})).collect();
            return Ok(json!({ "State": request.standing(now), "Approvals": people }));
        }
        "ListQuarantines" => {
            let list: Vec<Value> = state
                .quarantined
                .keys()
                .map(|(arn, key)| match key.as_str() {
                    "" => json!({ "PrincipalArn": arn }),
                    key => json!({ "PrincipalArn": arn, "KeyArn": key }),
                })
                .collect();
            return Ok(json!({ "Quarantines": list }));
        }
        // Our calls have log seq 7 here, evidence begins at 0.
        "GetUsage" => {
            let first = body["FirstSeq"].as_u64().unwrap_or_default();
            let end = body["EndSeq"].as_u64().unwrap_or(100);
            let within = |one: &&Value| one["LastSeq"].as_u64().is_some_and(|seq| seq >= first && seq < end);
            let uses: Vec<Value> = state.usage.iter().filter(within).cloned().collect();
            return Ok(json!({ "Uses": uses, "NextSeq": end, "EndSeq": end, "Unreadable": 0 }));
        }
        "ListChanges" if state.refuses_lists => return Err(refused("AccessDeniedException")),
        "ListChanges" => {
            return Ok(json!({ "Changes": state.changes, "NextMarker": null, "AsOfMicros": i64::MAX }));
        }
        "CountKeys" => {
            return Ok(json!({ "Enabled": state.keys.values().filter(|(state, _)| state == "Enabled").count() }));
        }
        "ReportResponder" => {
            state.reports.push(body.clone());
            return Ok(json!({}));
        }
        "SetKey" => {
            state.keys.insert(text("KeyId"), (text("KeyState"), text("Policy")));
            return Ok(json!({}));
        }
        _ => {}
    }
    let key = state.keys.get_mut(&text("KeyId")).ok_or_else(|| refused("NotFoundException"))?;
    match operation {
        "DescribeKey" => return Ok(json!({ "KeyMetadata": { "KeyState": key.0 } })),
        "GetKeyPolicy" => return Ok(json!({ "Policy": key.1 })),
        "DisableKey" if key.0 == "Enabled" => key.0 = "Disabled".into(),
        "EnableKey" if key.0 == "Disabled" => key.0 = "Enabled".into(),
        "DisableKey" | "EnableKey" if key.0 != "PendingDeletion" => {}
        "CancelKeyDeletion" if key.0 == "PendingDeletion" => key.0 = "Disabled".into(),
        "RestoreKeyPolicy" => {
            let as_seen = hash(&key.1) == text("CurrentPolicySha256");
            if !as_seen && key.1 == CLOSED_POLICY {
                return Err(refused("AlreadyExistsException"));
            }
            if !as_seen || text("WantedEventId").is_empty() {
                return Err(refused("KMSInvalidStateException"));
            }
            key.1 = CLOSED_POLICY.into();
            return Ok(json!({ "PolicySha256": hash(CLOSED_POLICY) }));
        }
        _ => return Err(refused("KMSInvalidStateException")),
    }
    Ok(json!({}))
}
