//! The alert: what a rule found, with its evidence and its signature. The contract between trail and responder.
//!
//! An alert is serialised once and signed; from then on only the bytes travel. It carries the log's checkpoint and, for
//! at most [`EVIDENCE_MAX`] records, leaf, salt, payload and inclusion proof, so that whoever acts on it can check that
//! the log really holds what the alert claims, trusting neither the trail nor the way it came. Imports nothing else of
//! this crate and always compiles. Read `rule` next for how alerts come to be.

pub mod grouping;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keytrail_kms::chain::LogKeys;
use keytrail_kms::chain::checkpoint::{Checkpoint, SigningKey, VerifyKey};
use keytrail_kms::chain::leaf::{self, Kind, LEAF_BYTES, Leaf, LogId, Salt};
use keytrail_kms::chain::proof::InclusionProof;
use keytrail_kms::event::AuditEvent;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The only alert version written and read so far.
pub const ALERT_VERSION: u32 = 1;

/// Most records of evidence in one alert; `evidenceTotal` says how many there were.
pub const EVIDENCE_MAX: usize = 20;

/// Most payload bytes of all evidence together: in base64 they stay under Kafka's message limit of 1 MiB with the rest.
pub const EVIDENCE_PAYLOAD_BYTES_MAX: usize = 384 * 1024;

/// What origins of imported logs begin with: CloudTrail files that somebody put in, under a key of their own.
pub const IMPORT_ORIGIN_PREFIX: &str = "keytrail-import/";

/// Largest alert in bytes that is read.
pub const ALERT_BYTES_MAX: usize = 1024 * 1024;

/// Most hashes in an inclusion proof: a tree of 2^63 leaves needs no more.
const PROOF_HASHES_MAX: usize = 64;

/// First bytes of what is hashed into an alert id.
const ID_CONTEXT: &[u8] = b"keytrail alert v1";

/// First bytes of what is signed; the newline keeps it apart from [`ID_CONTEXT`].
const SIGNATURE_CONTEXT: &[u8] = b"keytrail alert v1\n";

/// How bad it is; the order is the order of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a line, nobody is called.
    Info,
    /// Look at it this week.
    Low,
    /// Look at it today.
    Medium,
    /// Look at it now.
    High,
    /// Act now.
    Critical,
}

impl Severity {
    /// The word in rules and alerts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = AlertError;

    fn from_str(text: &str) -> Result<Self, AlertError> {
        Ok(match text {
            "info" => Self::Info,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "critical" => Self::Critical,
            _ => return Err(AlertError::Severity),
        })
    }
}

/// One column of the group that an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupValue {
    /// Column name.
    pub name: String,
    /// Its value as text, or null.
    pub value: Option<String>,
}

/// One record of the log with all that is needed to check it against the alert's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// Index of the record in its log.
    pub seq: u64,
    /// The 110 bytes of the leaf, base64.
    pub leaf: String,
    /// The payload's salt, base64.
    pub salt: String,
    /// The payload exactly as first written, base64.
    pub payload: String,
    /// Inclusion proof under the checkpoint, lowest hash first, each base64.
    pub proof: Vec<String>,
}

impl Evidence {
    /// Encodes one record.
    pub fn new(seq: u64, leaf: &[u8; LEAF_BYTES], salt: &Salt, payload: &[u8], proof: &InclusionProof) -> Self {
        Self {
            seq,
            leaf: BASE64.encode(leaf),
            salt: BASE64.encode(salt),
            payload: BASE64.encode(payload),
            proof: proof.hashes.iter().map(|hash| BASE64.encode(hash)).collect(),
        }
    }
}

/// Why a rule fired. Which members there are follows from the rule's kind; `text` says it in one sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Why {
    /// Column of the row that is compared (threshold, baseline).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<u64>,
    /// From where on the rule fires; of a baseline the entity's own limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u64>,
    /// The entity's median in the past (baseline), if it is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_median: Option<u64>,
    /// Its high quantile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_high: Option<u64>,
    /// What happened in which order (sequence).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<WhyStep>,
    /// How many other keys the rule knows in this log (first_seen).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known: Option<u64>,
    /// How far back it looked, in days (first_seen).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_days: Option<u64>,
    /// When it was seen before (absence, first_seen that returns).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// By when it should have come (absence).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyStep {
    /// Its name in the rule.
    pub step: String,
    /// When it happened.
    pub event_time: String,
    /// The record.
    pub seq: u64,
}

/// What was not told by an alert of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// Matching events that went into this alert without a revision of their own, so far.
    pub deduplicated: u64,
    /// Findings of this alert that exceptions muted, so far.
    pub suppressed: u64,
}

/// What the alerts about an entity amount to, this one included. Each rule counts once, with its worst alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Risk {
    /// `principal` or `key`.
    pub kind: String,
    /// Its ARN; sessions count for their role.
    pub entity: String,
    /// Points of the 24 hours before the alert's last event.
    pub day: u64,
    /// Points of the seven days before it.
    pub week: u64,
    /// Different rules in the 24 hours.
    pub rules: u64,
}

/// What a rule found. Field order is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alert {
    /// Always [`ALERT_VERSION`].
    pub alert_version: u32,
    /// [`alert_id`] in hex: one per rule, group and bucket.
    pub alert_id: String,
    /// From 0; a later one replaces the ones before it with more evidence or a higher severity.
    pub revision: u32,
    /// The rule's id.
    pub rule_id: String,
    /// The rule's version.
    pub rule_version: u32,
    /// SHA-256 of the rule's file and effective parameters, hex.
    pub rule_hash: String,
    /// `event`, `threshold` or `meta`.
    pub rule_kind: String,
    /// The rule's title.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// Origin of the log; its hash is `log`.
    pub origin: String,
    /// Log id, 32 hex digits.
    pub log: String,
    /// The group: the entity that this alert is about.
    pub group_by: Vec<GroupValue>,
    /// Start of the dedup bucket, Unix microseconds.
    pub bucket_start_micros: i64,
    /// Event time of the earliest matching event.
    pub first_event_micros: i64,
    /// Event time of the latest matching event.
    pub last_event_micros: i64,
    /// When the trail found it, Unix microseconds of its clock.
    pub detected_at_micros: i64,
    /// How many events matched.
    pub matched: u64,
    /// The rule's output row.
    pub row: Map<String, Value>,
    /// ATT&CK technique ids.
    pub attack: Vec<String>,
    /// Where to read what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// The rule's labels.
    pub labels: BTreeMap<String, String>,
    /// Why it fired; absent in alerts of older trails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// What was not told by itself; absent in alerts of older trails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Risk of the principal and of the key that it is about; empty where it is about neither.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk: Vec<Risk>,
    /// Where to look next: at most three queries with the values filled in. For people; nothing runs them by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<String>,
    /// The newest matching records and the first one, at most [`EVIDENCE_MAX`], in seq order.
    pub evidence: Vec<Evidence>,
    /// How many matching records there were.
    pub evidence_total: u64,
    /// The signed note that the proofs lead to; empty when there is no evidence.
    pub checkpoint: String,
}

/// Why an alert is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The alert cannot be written as JSON.
    #[error("alert cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// Longer than [`ALERT_BYTES_MAX`].
    #[error("alert has {0} bytes, the limit is {ALERT_BYTES_MAX}")]
    TooLong(usize),
    /// The signature is not the trail's.
    #[error("alert signature does not verify")]
    Signature,
    /// Not the JSON of an alert.
    #[error("alert cannot be decoded")]
    Decode(#[source] serde_json::Error),
    /// Written by a newer Keytrail.
    #[error("alert version {0} is not known")]
    Version(u32),
    /// Not one of the five words.
    #[error("severity is not one of info, low, medium, high, critical")]
    Severity,
    /// The id is not the hash of rule, group and bucket.
    #[error("alert id does not follow from its rule, group and bucket")]
    Id,
    /// The checkpoint is not signed by the log's signer.
    #[error("checkpoint does not verify")]
    Checkpoint(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Checkpoint, log id and origin name different logs.
    #[error("alert, checkpoint and evidence name different logs")]
    Log,
    /// More evidence than allowed.
    #[error("alert carries {0} records of evidence, the limit is {EVIDENCE_MAX}")]
    EvidenceCount(usize),
    /// A record of evidence cannot be read or does not match its leaf.
    #[error("evidence of seq {seq} is malformed: {what}")]
    EvidenceMalformed {
        /// Which record.
        seq: u64,
        /// Which part.
        what: &'static str,
    },
    /// The log's tree does not hold this record.
    #[error("evidence of seq {seq} is not included under the checkpoint")]
    NotIncluded {
        /// Which record.
        seq: u64,
        /// What the proof said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An alert as it is stored and sent: the exact bytes and the trail's signature over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAlert {
    /// The alert's JSON, exactly as first written.
    pub json: Vec<u8>,
    /// Ed25519 over "keytrail alert v1\n" and the JSON.
    pub signature: [u8; 64],
}

impl SignedAlert {
    /// Checks the signature over the bytes, then reads them: nothing is parsed that the trail did not sign.
    pub fn verify(&self, trail: &VerifyKey) -> Result<Alert, AlertError> {
        if self.json.len() > ALERT_BYTES_MAX {
            return Err(AlertError::TooLong(self.json.len()));
        }
        if !trail.verify_bytes(&signed_message(&self.json), &self.signature) {
            return Err(AlertError::Signature);
        }
        let alert: Alert = serde_json::from_slice(&self.json).map_err(AlertError::Decode)?;
        if alert.alert_version != ALERT_VERSION {
            return Err(AlertError::Version(alert.alert_version));
        }
        if alert.alert_id != alert.computed_id() {
            return Err(AlertError::Id);
        }
        Ok(alert)
    }
}

impl Alert {
    /// Writes the JSON once and signs it.
    pub fn sign(&self, trail: &SigningKey) -> Result<SignedAlert, AlertError> {
        let json = serde_json::to_vec(self).map_err(AlertError::Encode)?;
        if json.len() > ALERT_BYTES_MAX {
            return Err(AlertError::TooLong(json.len()));
        }
        let signature = trail.sign_bytes(&signed_message(&json));
        Ok(SignedAlert { json, signature })
    }

    /// About an imported log: what its records tell did not happen here, and was signed for by whoever imported them.
    pub fn is_imported(&self) -> bool {
        self.origin.starts_with(IMPORT_ORIGIN_PREFIX)
    }

    /// The id that rule, group and bucket give.
    pub fn computed_id(&self) -> String {
        let values: Vec<Option<&str>> = self.group_by.iter().map(|group| group.value.as_deref()).collect();
        alert_id(&self.rule_id, &values, self.bucket_start_micros)
    }

    /// The text in this column of the row, if the rule selected it and it is not null.
    pub fn row_text(&self, column: &str) -> Option<&str> {
        self.row.get(column).and_then(Value::as_str)
    }
}

/// SHA-256 over "keytrail alert v1", the rule id and the group values in column order (each as u32 length and bytes,
/// null as 0xFFFFFFFF alone), then the bucket's start (i64, Unix microseconds). All numbers are big-endian.
pub fn alert_id(rule_id: &str, group_values: &[Option<&str>], bucket_start_us: i64) -> String {
    let mut message = ID_CONTEXT.to_vec();
    let mut put = |value: Option<&str>| match value {
        Some(text) => {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX - 1);
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(text.as_bytes());
        }
        None => message.extend_from_slice(&u32::MAX.to_be_bytes()),
    };
    put(Some(rule_id));
    group_values.iter().copied().for_each(&mut put);
    message.extend_from_slice(&bucket_start_us.to_be_bytes());
    hex::encode(leaf::sha256(&[&message]))
}

/// A record that the log provably holds.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedEvidence {
    /// Its leaf.
    pub leaf: Leaf,
    /// The call it records.
    pub event: AuditEvent,
}

/// Checks the checkpoint's signature and, for each record, payload digest and inclusion under that checkpoint. Call it
/// on an alert whose own signature was verified, with the keys of the log's signer. Alerts of kind meta are about
/// the log itself and carry neither evidence nor checkpoint: the answer is an empty list, which proves nothing.
pub fn verify_evidence(alert: &Alert, signer: &LogKeys) -> Result<Vec<VerifiedEvidence>, AlertError> {
    if alert.evidence.len() > EVIDENCE_MAX {
        return Err(AlertError::EvidenceCount(alert.evidence.len()));
    }
    if alert.evidence.is_empty() && alert.checkpoint.is_empty() {
        return Ok(Vec::new());
    }
    let checkpoint = signer.verify(&alert.checkpoint).map_err(|error| AlertError::Checkpoint(error.into()))?;
    let log = LogId::of_origin(&checkpoint.origin);
    if checkpoint.origin != alert.origin || LogId::from_hex(&alert.log) != Some(log) {
        return Err(AlertError::Log);
    }
    alert.evidence.iter().map(|evidence| verify_one(evidence, log, &checkpoint)).collect()
}

fn verify_one(evidence: &Evidence, log: LogId, checkpoint: &Checkpoint) -> Result<VerifiedEvidence, AlertError> {
    let imported = checkpoint.origin.starts_with(IMPORT_ORIGIN_PREFIX);
    let seq = evidence.seq;
    let malformed = |what| AlertError::EvidenceMalformed { seq, what };
    let bytes: [u8; LEAF_BYTES] = decode_exact(&evidence.leaf).ok_or(malformed("leaf"))?;
    let salt: Salt = decode_exact(&evidence.salt).ok_or(malformed("salt"))?;
    let payload = BASE64.decode(&evidence.payload).map_err(|_| malformed("payload"))?;
    let leaf = Leaf::decode(&bytes).map_err(|_| malformed("leaf"))?;
    if leaf.log != log {
        return Err(AlertError::Log);
    }
    if leaf.seq != seq {
        return Err(malformed("seq"));
    }
    if leaf.kind != Kind::Event {
        return Err(malformed("kind"));
    }
    if leaf.payload_digest != leaf::payload_digest(&salt, &payload)
        || usize::try_from(leaf.payload_len) != Ok(payload.len())
    {
        return Err(malformed("payload digest"));
    }
    inclusion_proof(evidence)?
        .verify(leaf::leaf_hash(&bytes), seq, checkpoint.size, &checkpoint.root)
        .map_err(|error| AlertError::NotIncluded { seq, source: error.into() })?;
    let event = match imported {
        false => serde_json::from_slice(&payload).ok(),
        true => foreign_event(&payload),
    };
    Ok(VerifiedEvidence { leaf, event: event.ok_or(malformed("event"))? })
}

/// An event of a CloudTrail file, which may lack members that ours always have.
pub(crate) fn foreign_event(payload: &[u8]) -> Option<AuditEvent> {
    let mut members: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    for name in [
        "eventVersion",
        "eventTime",
        "eventSource",
        "eventName",
        "awsRegion",
        "sourceIPAddress",
        "eventID",
        "eventType",
        "recipientAccountId",
        "eventCategory",
    ] {
        members.entry(name).or_insert_with(|| "".into());
    }
    members.entry("readOnly").or_insert(false.into());
    members.entry("managementEvent").or_insert(true.into());
    for name in ["userIdentity", "additionalEventData"] {
        if !members.get(name).is_some_and(Value::is_object) {
            members.insert(name.to_owned(), Map::new().into());
        }
    }
    let additional = members.get_mut("additionalEventData").and_then(Value::as_object_mut)?;
    additional.entry("judgedAtMicros").or_insert(0.into());
    serde_json::from_value(members.into()).ok()
}

fn inclusion_proof(evidence: &Evidence) -> Result<InclusionProof, AlertError> {
    let malformed = || AlertError::EvidenceMalformed { seq: evidence.seq, what: "proof" };
    if evidence.proof.len() > PROOF_HASHES_MAX {
        return Err(malformed());
    }
    let hashes: Option<Vec<[u8; 32]>> = evidence.proof.iter().map(|hash| decode_exact(hash)).collect();
    Ok(InclusionProof { hashes: hashes.ok_or_else(malformed)? })
}

fn decode_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn signed_message(json: &[u8]) -> Vec<u8> {
    [SIGNATURE_CONTEXT, json].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_kms::chain::leaf::{Link, payload_digest};
    use keytrail_kms::chain::tree::Tree;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    fn key(name: &str) -> SigningKey {
        SigningKey::generate(name).unwrap().0
    }

    fn event_json() -> Vec<u8> {
        serde_json::to_vec(&AuditEvent {
            event_version: "1.11".into(),
            user_identity: keytrail_kms::event::UserIdentity::default(),
            event_time: "2026-01-05T12:00:00Z".into(),
            event_source: "kms.amazonaws.com".into(),
            event_name: "Decrypt".into(),
            aws_region: "eu-west-1".into(),
            source_ip_address: "192.0.2.1".into(),
            user_agent: None,
            error_code: None,
            error_message: None,
            request_parameters: None,
            response_elements: None,
            additional_event_data: keytrail_kms::event::Additional::default(),
            request_id: None,
            event_id: "e".into(),
            read_only: true,
            resources: vec![],
            event_type: "AwsApiCall".into(),
            management_event: true,
            recipient_account_id: "111122223333".into(),
            event_category: "Management".into(),
            tls_details: None,
        })
        .unwrap()
    }

    /// A log of `size` leaves whose leaf 0 is an event, and an alert with it as evidence.
    fn alert(signer: &SigningKey) -> Alert {
        let payload = event_json();
        let first = Leaf {
            log: LogId::of_origin(ORIGIN),
            epoch: 1,
            seq: 0,
            kind: Kind::Event,
            time_us: 1_767_614_400_000_000,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: payload_digest(&[7; 16], &payload),
            prev: Link::ZERO,
        };
        let mut tree = Tree::new();
        tree.push(leaf::leaf_hash(&first.encode()));
        let note = signer.sign(&Checkpoint { origin: ORIGIN.into(), size: 1, root: tree.root() }).unwrap();
        let mut alert = Alert {
            alert_version: ALERT_VERSION,
            alert_id: String::new(),
            revision: 0,
            rule_id: "key-disabled".into(),
            rule_version: 1,
            rule_hash: "00".repeat(32),
            rule_kind: "event".into(),
            title: "A key was disabled".into(),
            severity: Severity::High,
            origin: ORIGIN.into(),
            log: first.log.to_string(),
            group_by: vec![GroupValue { name: "principal_arn".into(), value: None }],
            bucket_start_micros: 0,
            first_event_micros: 1,
            last_event_micros: 1,
            detected_at_micros: 2,
            matched: 1,
            row: Map::new(),
            attack: vec![],
            runbook: None,
            labels: BTreeMap::new(),
            why: None,
            counts: None,
            risk: vec![],
            queries: vec![],
            evidence: vec![Evidence::new(0, &first.encode(), &[7; 16], &payload, &InclusionProof { hashes: vec![] })],
            evidence_total: 1,
            checkpoint: note,
        };
        alert.alert_id = alert.computed_id();
        alert
    }

    #[test]
    fn the_alert_id_has_a_test_vector() {
        // sha256("keytrail alert v1" 0000000c "key-disabled" 00000003 "abc" ffffffff 00064724fa0f8000)
        let id = alert_id("key-disabled", &[Some("abc"), None], 1_767_614_400_000_000);
        let mut message = b"keytrail alert v1\x00\x00\x00\x0ckey-disabled\x00\x00\x00\x03abc\xff\xff\xff\xff".to_vec();
        message.extend_from_slice(&1_767_614_400_000_000_i64.to_be_bytes());
        assert_eq!(id, hex::encode(leaf::sha256(&[&message])));
        assert_ne!(id, alert_id("key-disabled", &[Some("ab"), None], 1_767_614_400_000_000));
        assert_ne!(alert_id("r", &[None], 0), alert_id("r", &[Some("")], 0));
    }

    #[test]
    fn a_signed_alert_and_its_evidence_verify() {
        let (trail, signer) = (key("trail"), key(ORIGIN));
        let signed = alert(&signer).sign(&trail).unwrap();
        let read = signed.verify(trail.verify_key()).unwrap();
        assert_eq!(read, alert_of(&signed));
        let evidence = verify_evidence(&read, &signer.verify_key().clone().into()).unwrap();
        assert_eq!(evidence[0].event.event_name, "Decrypt");
    }

    #[test]
    fn an_alert_of_an_older_trail_is_read_and_a_newer_one_says_why() {
        let trail = key("trail");
        let mut newer = alert(&key(ORIGIN));
        let text = |alert: &Alert| String::from_utf8(alert.sign(&trail).unwrap().json).unwrap();
        assert!(!text(&newer).contains("\"why\"") && !text(&newer).contains("\"queries\""));
        newer.why = Some(Why { column: Some("n".into()), value: Some(12), threshold: Some(10), ..Why::default() });
        newer.queries = vec!["SELECT 1".into()];
        assert!(
            text(&newer)
                .contains(r#""why":{"column":"n","value":12,"threshold":10},"queries":["SELECT 1"],"evidence""#)
        );
        assert_eq!(newer.sign(&trail).unwrap().verify(trail.verify_key()).unwrap(), newer);
    }

    fn alert_of(signed: &SignedAlert) -> Alert {
        serde_json::from_slice(&signed.json).unwrap()
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let (trail, signer) = (key("trail"), key(ORIGIN));
        let signed = alert(&signer).sign(&trail).unwrap();
        for index in (0..signed.json.len()).step_by(17) {
            let mut forged = signed.clone();
            forged.json[index] ^= 1;
            assert!(matches!(forged.verify(trail.verify_key()), Err(AlertError::Signature)));
        }
        assert!(matches!(signed.verify(signer.verify_key()), Err(AlertError::Signature)));
    }

    #[test]
    fn forged_evidence_is_refused() {
        let signer = key(ORIGIN);
        let good = alert(&signer);
        let check = |change: &dyn Fn(&mut Alert)| {
            let mut forged = good.clone();
            change(&mut forged);
            verify_evidence(&forged, &signer.verify_key().clone().into()).unwrap_err()
        };
        let other_payload = BASE64.encode(b"{}");
        assert!(matches!(
            check(&|forged| forged.evidence[0].payload.clone_from(&other_payload)),
            AlertError::EvidenceMalformed { what: "payload digest", .. }
        ));
        assert!(matches!(check(&|forged| forged.origin = "keytrail/other".into()), AlertError::Log));
        assert!(matches!(check(&|forged| forged.evidence[0].seq = 1), AlertError::EvidenceMalformed { .. }));
        assert!(matches!(
            check(&|forged| forged.evidence[0].proof.push(BASE64.encode([0; 32]))),
            AlertError::NotIncluded { .. }
        ));
        let one = good.evidence[0].clone();
        assert!(matches!(
            check(&|forged| forged.evidence = vec![one.clone(); EVIDENCE_MAX + 1]),
            AlertError::EvidenceCount(21)
        ));
        let stranger = key(ORIGIN);
        assert!(matches!(
            verify_evidence(&good, &stranger.verify_key().clone().into()),
            Err(AlertError::Checkpoint(_))
        ));
    }

    #[test]
    fn a_record_of_a_cloudtrail_file_is_an_event_though_it_lacks_what_ours_have() {
        let event = foreign_event(
            br#"{"eventName":"Decrypt","userIdentity":{"type":"IAMUser","arn":"arn:a"},"additionalEventData":null}"#,
        );
        let event = event.unwrap();
        assert_eq!((event.event_name.as_str(), event.user_identity.arn.as_deref()), ("Decrypt", Some("arn:a")));
        assert!(!event.read_only && event.additional_event_data.judged_at_micros == 0);
        assert!(foreign_event(b"[]").is_none() && foreign_event(br#"{"eventName":1}"#).is_none());
    }

    #[test]
    fn an_alert_whose_id_does_not_follow_is_refused() {
        let (trail, signer) = (key("trail"), key(ORIGIN));
        let mut forged = alert(&signer);
        forged.bucket_start_micros = 1;
        let signed = forged.sign(&trail).unwrap();
        assert!(matches!(signed.verify(trail.verify_key()), Err(AlertError::Id)));
    }
}
