//! A KMS for tests: behind the same trait as the real client, idempotent by action id, its effects in a file.

use super::{CLOSED_POLICY, OPEN_POLICY, hash, key_arn, principal_arn};
use crate::act::{Answer, Control, ControlError};
use crate::announced::AnnouncedChange;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::HashMap;
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
    quarantined: HashMap<String, u32>,
    answers: HashMap<String, (String, Value)>,
    unreachable: u32,
    lost_answers: u32,
    calls: Vec<String>,
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
        let body = json!({ "KeyId": key_arn(id), "KeyState": key_state, "Policy": policy });
        self.write_effect(None, "SetKey", &body);
        apply(&mut self.state.lock().unwrap(), "SetKey", &body).unwrap();
    }

    pub(crate) fn key(&self, id: &str) -> (String, bool) {
        let state = self.state.lock().unwrap();
        let (key_state, policy) = state.keys[&key_arn(id)].clone();
        (key_state, policy == OPEN_POLICY)
    }

    pub(crate) fn is_quarantined(&self, user: &str) -> bool {
        self.state.lock().unwrap().quarantined.contains_key(&principal_arn(user))
    }

    pub(crate) fn unreachable_for(&self, calls: u32) {
        self.state.lock().unwrap().unreachable = calls;
    }

    /// The next mutations take effect, but their answers are lost.
    pub(crate) fn lose_answers(&self, calls: u32) {
        self.state.lock().unwrap().lost_answers = calls;
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

    /// Operation and target of every effect that carried an action id.
    pub(crate) fn effects(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.effects).unwrap_or_default();
        let effects = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        effects
            .filter(|effect| effect["id"].is_string())
            .map(|effect| {
                let body = &effect["body"];
                let target = body["KeyId"].as_str().or(body["PrincipalArn"].as_str()).unwrap();
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
        state.calls.push(operation.to_owned());
        if state.unreachable > 0 {
            state.unreachable -= 1;
            return Err(ControlError::Unreachable("connection refused".into()));
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

fn apply(state: &mut FakeState, operation: &str, body: &Value) -> Result<Value, ControlError> {
    let refused = |code: &str| ControlError::Refused { code: code.into(), message: "no".into() };
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match operation {
        "PutQuarantine" => {
            *state.quarantined.entry(text("PrincipalArn")).or_default() += 1;
            return Ok(json!({ "PrincipalArn": text("PrincipalArn"), "ExpiresAt": 1 }));
        }
        "LiftQuarantine" => {
            state.quarantined.remove(&text("PrincipalArn"));
            return Ok(json!({}));
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
            if hash(&key.1) != text("CurrentPolicySha256") || text("WantedEventId").is_empty() {
                return Err(refused("ConflictException"));
            }
            key.1 = CLOSED_POLICY.into();
            return Ok(json!({ "PolicySha256": hash(CLOSED_POLICY) }));
        }
        _ => return Err(refused("KMSInvalidStateException")),
    }
    Ok(json!({}))
}
