//! An alert for a test: fixtures become records of a log of their own, which is signed, proved and verified like any other.

use super::TestCase;
use crate::config::AllowedRule;
use crate::intake::{RawAlert, Refusal, VerifiedAlert, Verifier};
use keytrail_kms::chain::NoteError;
use keytrail_kms::chain::checkpoint::{Checkpoint, SigningKey};
use keytrail_kms::chain::leaf::{self, Kind, Leaf, LeafHash, Link, LogId, payload_digest};
use keytrail_kms::chain::tree::Tree;
use keytrail_trail::alert::{ALERT_VERSION, Alert, AlertError, EVIDENCE_MAX, Evidence};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;

const ORIGIN: &str = "keytrail/test/playbook-0000000000000000";
const SALT: [u8; 16] = [0; 16];
/// Stands for the rule's hash: the alert and the list of allowed rules have the same.
const RULE_HASH: &str = "00";
/// Largest fixture in bytes.
const FIXTURE_BYTES_MAX: u64 = 256 * 1024;

/// Repetitions of one fixture.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Name of a file in fixtures/, without `.json`.
    pub fixture: String,
    /// Members to replace, by path: `additionalEventData.after.tags`, `resources.0.ARN`.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Members to take away, by path.
    #[serde(default)]
    pub unset: Vec<String>,
    /// How many.
    #[serde(default = "one")]
    pub repeat: usize,
}

/// Why no alert can be made.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The file.
    #[error("fixture {name} cannot be read: {reason}")]
    Read {
        /// As the test names it.
        name: String,
        /// Why.
        reason: String,
    },
    /// A member that is to be set or taken away is nowhere.
    #[error("fixture {name} has no place for {path}")]
    Path {
        /// As the test names it.
        name: String,
        /// The member.
        path: String,
    },
    /// An alert shows so many records.
    #[error("the evidence of an alert has between 1 and {EVIDENCE_MAX} records")]
    Count,
    /// The log of the test.
    #[error("the test's log cannot be signed")]
    Log(#[from] NoteError),
    /// The alert of the test.
    #[error("the test's alert cannot be signed")]
    Alert(#[from] AlertError),
    /// What was made is not believed.
    #[error("the test's alert does not verify: {0}")]
    Refused(Refusal),
}

/// Makes the alert of a test.
pub(super) fn made(case: &TestCase, rules_dir: &Path) -> Result<VerifiedAlert, FixtureError> {
    let payloads = payloads(&case.given, rules_dir)?;
    let (trail, log) = (SigningKey::from_seed("trail", &[1; 32])?, SigningKey::from_seed(ORIGIN, &[2; 32])?);
    let mut alert = unsigned(case, &payloads, &log)?;
    alert.alert_id = alert.computed_id();
    let signed = alert.sign(&trail)?;
    let raw = RawAlert {
        source: "test".into(),
        position: 0,
        json: signed.json.clone(),
        signature: signed.signature.to_vec(),
    };
    let allowed = AllowedRule { id: case.rule.clone(), hash: RULE_HASH.into() };
    let verifier = Verifier::new(trail.verify_key().clone(), log.verify_key().clone().into(), vec![allowed]);
    verifier.verify(&raw).map_err(FixtureError::Refused)
}

fn unsigned(case: &TestCase, payloads: &[Vec<u8>], log: &SigningKey) -> Result<Alert, FixtureError> {
    let leaves: Vec<Leaf> = (0..).zip(payloads).map(|(seq, payload)| leaf_of(seq, payload)).collect();
    let hashes: Vec<LeafHash> = leaves.iter().map(|leaf| leaf::leaf_hash(&leaf.encode())).collect();
    let mut tree = Tree::new();
    hashes.iter().for_each(|hash| tree.push(*hash));
    let size = tree.size();
    let mut evidence = Vec::new();
    for (leaf, payload) in leaves.iter().zip(payloads) {
        let proof = tree
            .inclusion_proof(leaf.seq, size, |_| Ok::<_, Infallible>(hashes.clone()))
            .map_err(|_| FixtureError::Count)?;
        evidence.push(Evidence::new(leaf.seq, &leaf.encode(), &SALT, payload, &proof));
    }
    Ok(Alert {
        alert_version: ALERT_VERSION,
        alert_id: String::new(),
        revision: 0,
        rule_id: case.rule.clone(),
        rule_version: 1,
        rule_hash: RULE_HASH.into(),
        rule_kind: "event".into(),
        title: case.name.clone(),
        severity: case.severity,
        origin: ORIGIN.into(),
        log: LogId::of_origin(ORIGIN).to_string(),
        group_by: Vec::new(),
        bucket_start_micros: super::NOW_US,
        first_event_micros: super::NOW_US,
        last_event_micros: super::NOW_US,
        detected_at_micros: super::NOW_US,
        matched: size,
        row: Map::new(),
        attack: Vec::new(),
        runbook: None,
        labels: case.labels.clone(),
        why: None,
        counts: None,
        risk: Vec::new(),
        queries: Vec::new(),
        evidence,
        evidence_total: size,
        checkpoint: log.sign(&Checkpoint { origin: ORIGIN.into(), size, root: tree.root() })?,
    })
}

fn leaf_of(seq: u64, payload: &[u8]) -> Leaf {
    Leaf {
        log: LogId::of_origin(ORIGIN),
        epoch: 1,
        seq,
        kind: Kind::Event,
        time_us: super::NOW_US.unsigned_abs(),
        payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        payload_digest: payload_digest(&SALT, payload),
        prev: Link::ZERO,
    }
}

/// The records' payloads, each with an eventID of its own.
fn payloads(parts: &[Part], rules_dir: &Path) -> Result<Vec<Vec<u8>>, FixtureError> {
    let count: usize = parts.iter().map(|part| part.repeat).sum();
    if !(1..=EVIDENCE_MAX).contains(&count) {
        return Err(FixtureError::Count);
    }
    let mut payloads = Vec::new();
    for part in parts {
        let event = part.event(rules_dir)?;
        for _ in 0..part.repeat {
            let mut one = event.clone();
            let number = payloads.len();
            if !part.set.contains_key("eventID") {
                one["eventID"] = format!("0199b000-0000-7000-8000-{number:012x}").into();
            }
            payloads.push(serde_json::to_vec(&one).map_err(|error| part.unreadable(&error))?);
        }
    }
    Ok(payloads)
}

impl Part {
    fn event(&self, rules_dir: &Path) -> Result<Value, FixtureError> {
        // The name comes from a file that people exchange: it must not lead anywhere else.
        if !self.fixture.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(self.unreadable(&"the name is not one of letters, digits and hyphens"));
        }
        let path = rules_dir.join("fixtures").join(format!("{}.json", self.fixture));
        let length = std::fs::metadata(&path).map_err(|error| self.unreadable(&error))?.len();
        if length > FIXTURE_BYTES_MAX {
            return Err(self.unreadable(&"it is too large"));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| self.unreadable(&error))?;
        let mut event: Value = serde_json::from_str(&text).map_err(|error| self.unreadable(&error))?;
        for (path, value) in &self.set {
            let value = serde_json::to_value(value).map_err(|error| self.unreadable(&error))?;
            self.change(&mut event, path, Some(value))?;
        }
        for path in &self.unset {
            self.change(&mut event, path, None)?;
        }
        Ok(event)
    }

    /// Sets a member or takes it away.
    fn change(&self, event: &mut Value, path: &str, value: Option<Value>) -> Result<(), FixtureError> {
        let missing = || FixtureError::Path { name: self.fixture.clone(), path: path.to_owned() };
        let (holder, name) = path.rsplit_once('.').unwrap_or(("", path));
        let pointer = if holder.is_empty() { String::new() } else { format!("/{}", holder.replace('.', "/")) };
        let holder = event.pointer_mut(&pointer).ok_or_else(missing)?;
        match (holder, value) {
            (Value::Object(members), Some(value)) => {
                members.insert(name.to_owned(), value);
            }
            (Value::Object(members), None) => {
                members.remove(name).ok_or_else(missing)?;
            }
            (Value::Array(items), Some(value)) => {
                let index: usize = name.parse().map_err(|_| missing())?;
                *items.get_mut(index).ok_or_else(missing)? = value;
            }
            _ => return Err(missing()),
        }
        Ok(())
    }

    fn unreadable(&self, reason: &dyn std::fmt::Display) -> FixtureError {
        FixtureError::Read { name: self.fixture.clone(), reason: reason.to_string() }
    }
}

fn one() -> usize {
    1
}
