//! What the crate's tests stand on: events, alerts with real signatures and proofs, and a trail.db.
//!
//! Beside it `kms`, a KMS that counts effects, and `sinks`, an SMTP and an HTTP server that remember what they got. The
//! fakes implement the real traits; none of this is compiled outside tests.

mod hostile;
mod kms;
mod sinks;

use crate::announced::AnnouncedChange;
use crate::config::{AllowedRule, Settings};
use crate::incident::{IncidentAlert, IncidentDetail, IncidentId, IncidentState, IncidentSummary};
use crate::intake::{Call, RawAlert, TableSource, VerifiedAlert, Verifier};
use crate::notify::facts::{Facts, Failing};
use crate::notify::queue::Notice;
use crate::notify::render::{Occasion, Story};
use crate::outbox::{Action, ActionKind, ActionState};
use crate::playbook::{self, Playbook, Severity};
use crate::service::Parts;
use crate::store::Store;
use keytrail_kms::chain::checkpoint::{Checkpoint, SigningKey};
use keytrail_kms::chain::leaf::{self, Kind, Leaf, LeafHash, Link, LogId, payload_digest, sha256};
use keytrail_kms::chain::tree::Tree;
use keytrail_kms::event::{Additional, AuditEvent, Resource, UserIdentity};
use keytrail_trail::alert::{Alert, Evidence, GroupValue, SignedAlert, VerifiedEvidence};
use rusqlite::{Connection, params};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

pub(crate) use hostile::{Behaviour, Hostile};
pub(crate) use kms::FakeKms;
pub(crate) use sinks::{HttpSink, SmtpSink};

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";
const ACCOUNT: &str = "111122223333";
const START_US: i64 = 1_767_614_400_000_000;
const RULE_HASH: &str = "ab";
const OPEN_POLICY: &str = r#"{"Principal":"*"}"#;
const CLOSED_POLICY: &str = r#"{"Principal":"root"}"#;

pub(crate) fn principal_arn(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

pub(crate) fn key_arn(id: &str) -> String {
    format!("arn:aws:kms:eu-west-1:{ACCOUNT}:key/{id}")
}

pub(crate) fn alias_arn(name: &str) -> String {
    format!("arn:aws:kms:eu-west-1:{ACCOUNT}:{name}")
}

/// A playbook of one or more steps for one rule, in force.
pub(crate) fn playbook_of(id: &str, rule: &str, steps: &str) -> Playbook {
    let text = format!(
        "id = \"{id}\"\nversion = 1\nmode = \"enforce\"\nsteps = [{steps}]\n[match]\nrules = [\"{rule}\"]\n\
         min_severity = \"low\"\nprovenance = [\"authenticated_allowed\"]\n[guard]\ncooldown = \"0s\"\n"
    );
    Playbook::parse(Path::new(&format!("{id}.toml")), &text).unwrap()
}

/// A change of a key or of a principal's, announced an hour before the events of these tests and good for two.
pub(crate) fn announcement(
    by: &str,
    key: Option<&str>,
    principal: Option<&str>,
    operations: &[&str],
) -> AnnouncedChange {
    let hour_us = 3_600_000_000;
    AnnouncedChange {
        change_id: "0199b000-0000-7000-8000-000000000001".into(),
        ticket: "CHG-1".into(),
        key_arn: key.map(key_arn),
        principal_arn: principal.map(principal_arn),
        operations: operations.iter().map(|name| (*name).to_owned()).collect(),
        from_micros: START_US - hour_us,
        until_micros: START_US + hour_us,
        announced_at_micros: START_US - hour_us,
        announced_by: principal_arn(by),
        announced_as: vec![principal_arn(by)],
    }
}

fn hash(text: &str) -> String {
    hex::encode(sha256(&[text.as_bytes()]))
}

pub(crate) fn shipped_playbooks() -> Vec<Playbook> {
    // Without the one that adds a quarantine to every opened key: these tests count the actions of the others. The
    // sample incident in tests/journeys runs with all of them.
    let all = playbook::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules/playbooks")).unwrap();
    all.into_iter().filter(|playbook| playbook.id != "exposure-author").collect()
}

pub(crate) fn event(name: &str) -> EventBuilder {
    EventBuilder(AuditEvent {
        event_version: "1.11".into(),
        user_identity: UserIdentity::default(),
        event_time: "2026-01-05T12:00:00Z".into(),
        event_source: "kms.amazonaws.com".into(),
        event_name: name.into(),
        aws_region: "eu-west-1".into(),
        source_ip_address: "192.0.2.7".into(),
        user_agent: None,
        error_code: None,
        error_message: None,
        request_parameters: None,
        response_elements: None,
        additional_event_data: Additional::default(),
        request_id: None,
        event_id: format!("event-{name}"),
        read_only: matches!(name, "Decrypt" | "DescribeKey" | "GetKeyPolicy"),
        resources: vec![],
        event_type: "AwsApiCall".into(),
        management_event: true,
        recipient_account_id: ACCOUNT.into(),
        event_category: "Management".into(),
        tls_details: None,
    })
}

#[derive(Clone)]
pub(crate) struct EventBuilder(AuditEvent);

impl EventBuilder {
    pub(crate) fn id(mut self, id: &str) -> Self {
        self.0.event_id = id.into();
        self
    }

    pub(crate) fn by(mut self, user: &str) -> Self {
        self.0.user_identity.kind = Some("IAMUser".into());
        self.0.user_identity.arn = Some(principal_arn(user));
        self
    }

    pub(crate) fn by_responder(mut self, action_id: Option<&str>) -> Self {
        self.0.user_identity.kind = Some("IAMUser".into());
        self.0.user_identity.arn = Some(format!("arn:aws:iam::{ACCOUNT}:keytrail/responder"));
        self.0.additional_event_data.action_id = action_id.map(str::to_owned);
        self
    }

    pub(crate) fn on_key(mut self, id: &str) -> Self {
        let arn = key_arn(id);
        self.0.resources =
            vec![Resource { arn: arn.clone(), account_id: ACCOUNT.into(), kind: "AWS::KMS::Key".into() }];
        self.image()["keyArn"] = arn.into();
        self
    }

    pub(crate) fn opened(mut self, previous_event_id: &str) -> Self {
        self.image()["policySha256"] = hash(OPEN_POLICY).into();
        let more = &mut self.0.additional_event_data.more;
        more.insert("policy".into(), OPEN_POLICY.into());
        more.insert("previousPolicyEventId".into(), previous_event_id.into());
        self
    }

    pub(crate) fn with(mut self, parameter: &str, value: Value) -> Self {
        self.0.request_parameters.get_or_insert_with(|| json!({}))[parameter] = value;
        self
    }

    pub(crate) fn answered(mut self, answer: Value) -> Self {
        self.0.response_elements = Some(answer);
        self
    }

    pub(crate) fn tagged(mut self, name: &str, value: &str) -> Self {
        self.image()["tags"] = json!({ name: value });
        self
    }

    pub(crate) fn was(mut self, state: &str) -> Self {
        self.0.additional_event_data.before = Some(json!({ "keyState": state }));
        self
    }

    /// CreateGrant's image of what it made.
    pub(crate) fn granted(mut self, key: &str, id: &str, grantee: &str) -> Self {
        let image = json!({ "grantId": id, "targetKeyArn": key_arn(key), "granteePrincipal": principal_arn(grantee) });
        self = self.on_key(key);
        self.0.additional_event_data.after = Some(image);
        self
    }

    /// UpdateAlias, or with no `to` DeleteAlias.
    pub(crate) fn moved(mut self, alias: &str, from: &str, to: Option<&str>, set_by: &str) -> Self {
        let arn = alias_arn(alias);
        let image = |key: &str| json!({ "aliasName": alias, "aliasArn": arn, "targetKeyArn": key_arn(key) });
        self.0.additional_event_data.before = Some(image(from));
        self.0.additional_event_data.after = to.map(image);
        self.0.additional_event_data.more.insert("previousTargetEventId".into(), set_by.into());
        let resource = |arn: String, kind: &str| Resource { arn, account_id: ACCOUNT.into(), kind: kind.into() };
        self.0.resources = vec![resource(arn.clone(), "AWS::KMS::Alias"), resource(key_arn(from), "AWS::KMS::Key")];
        self.0.resources.extend(to.map(|to| resource(key_arn(to), "AWS::KMS::Key")));
        self
    }

    pub(crate) fn with_access_key(mut self, id: &str) -> Self {
        self.0.user_identity.access_key_id = Some(id.into());
        self
    }

    pub(crate) fn via_service(mut self, service: &str) -> Self {
        self.0.user_identity.invoked_by = Some(service.into());
        self
    }

    /// In a session of a role that these opened, one through the other; `None` where the event does not say.
    pub(crate) fn in_role(mut self, role: &str, opened_by: Option<&[&str]>) -> Self {
        self.0.user_identity.kind = Some("AssumedRole".into());
        self.0.user_identity.arn = Some(format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/shift"));
        if let Some(users) = opened_by {
            let arns: Vec<String> = users.iter().map(|user| principal_arn(user)).collect();
            self.0.additional_event_data.more.insert("openedBy".into(), arns.into());
        }
        self
    }

    /// Gives its session another name.
    pub(crate) fn rename_session(&mut self, name: &str) {
        let arn = self.0.user_identity.arn.as_deref().and_then(|arn| arn.rsplit_once('/'));
        self.0.user_identity.arn = arn.map(|(role, _)| format!("{role}/{name}"));
    }

    pub(crate) fn denied(self) -> Self {
        self.error("AccessDenied")
    }

    pub(crate) fn error(mut self, code: &str) -> Self {
        self.0.error_code = Some(code.into());
        self
    }

    pub(crate) fn call(self, seq: u64) -> Call {
        Call::of(VerifiedEvidence { leaf: leaf_of(seq, b"{}"), event: self.0 })
    }

    fn image(&mut self) -> &mut Value {
        self.0.additional_event_data.after.get_or_insert_with(|| json!({}))
    }
}

fn leaf_of(seq: u64, payload: &[u8]) -> Leaf {
    Leaf {
        log: LogId::of_origin(ORIGIN),
        epoch: 1,
        seq,
        kind: Kind::Event,
        time_us: START_US.unsigned_abs(),
        payload_len: u32::try_from(payload.len()).unwrap(),
        payload_digest: payload_digest(&[7; 16], payload),
        prev: Link::ZERO,
    }
}

/// The trail's and the log's keys.
pub(crate) struct Bench {
    trail: SigningKey,
    log: SigningKey,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            trail: SigningKey::from_seed("trail", &[1; 32]).unwrap(),
            log: SigningKey::from_seed(ORIGIN, &[2; 32]).unwrap(),
        }
    }

    pub(crate) fn rules() -> Vec<AllowedRule> {
        let ids = [
            "denied-burst",
            "key-policy-public",
            "key-deletion-scheduled",
            "key-disabled",
            "many-contexts",
            "alias-repointed",
            "grant-to-self",
        ];
        ids.map(|id| AllowedRule { id: id.into(), hash: RULE_HASH.into() }).to_vec()
    }

    pub(crate) fn verifier(&self) -> Verifier {
        Verifier::new(self.trail.verify_key().clone(), self.log.verify_key().clone().into(), Self::rules())
    }

    /// An alert of `rule` about `events`, which are the whole log.
    pub(crate) fn alert(&self, rule: &str, events: Vec<EventBuilder>) -> AlertBuilder {
        let payloads: Vec<Vec<u8>> = events.iter().map(|event| serde_json::to_vec(&event.0).unwrap()).collect();
        let leaves: Vec<Leaf> = (0..).zip(&payloads).map(|(seq, payload)| leaf_of(seq, payload)).collect();
        let hashes: Vec<LeafHash> = leaves.iter().map(|leaf| leaf::leaf_hash(&leaf.encode())).collect();
        let mut tree = Tree::new();
        hashes.iter().for_each(|hash| tree.push(*hash));
        let size = tree.size();
        let evidence = leaves.iter().zip(&payloads).map(|(leaf, payload)| {
            let proof = tree.inclusion_proof(leaf.seq, size, |_| Ok::<_, Infallible>(hashes.clone())).unwrap();
            Evidence::new(leaf.seq, &leaf.encode(), &[7; 16], payload, &proof)
        });
        let principal = events.first().and_then(|event| event.0.user_identity.arn.clone());
        let alert = Alert {
            alert_version: 1,
            alert_id: String::new(),
            revision: 0,
            rule_id: rule.into(),
            rule_version: 1,
            rule_hash: RULE_HASH.into(),
            rule_kind: "event".into(),
            title: format!("Title of {rule}"),
            severity: Severity::High,
            origin: ORIGIN.into(),
            log: LogId::of_origin(ORIGIN).to_string(),
            group_by: vec![GroupValue { name: "principal_arn".into(), value: principal }],
            bucket_start_micros: START_US,
            first_event_micros: START_US,
            last_event_micros: START_US + 1_000_000,
            detected_at_micros: START_US + 1_100_000,
            matched: size,
            row: Map::new(),
            attack: vec![],
            runbook: None,
            labels: BTreeMap::new(),
            why: None,
            counts: None,
            risk: vec![],
            queries: vec![],
            evidence: evidence.collect(),
            evidence_total: size,
            checkpoint: self.log.sign(&Checkpoint { origin: ORIGIN.into(), size, root: tree.root() }).unwrap(),
        };
        let calls = (0..).zip(events).map(|(seq, event)| event.call(seq)).collect();
        AlertBuilder { alert, calls, trail: SigningKey::from_seed("trail", &[1; 32]).unwrap() }
    }

    /// `trail.db` and `checkpoints/vkey` as the trail and the KMS write them.
    pub(crate) fn folder(&self, dir: &Path) -> TrailDb {
        std::fs::create_dir_all(dir.join("checkpoints")).unwrap();
        std::fs::write(dir.join("checkpoints/vkey"), format!("{}\n", self.log.verify_key())).unwrap();
        TrailDb::create(dir, &self.trail.verify_key().to_string())
    }
}

pub(crate) struct AlertBuilder {
    alert: Alert,
    calls: Vec<Call>,
    trail: SigningKey,
}

impl AlertBuilder {
    pub(crate) fn about(mut self, principal: &str) -> Self {
        self.alert.group_by[0].value = Some(principal.into());
        self
    }

    pub(crate) fn rule_hash(mut self, hash: &str) -> Self {
        self.alert.rule_hash = hash.into();
        self
    }

    pub(crate) fn revision(mut self, revision: u32) -> Self {
        self.alert.revision = revision;
        self
    }

    pub(crate) fn bucket(mut self, bucket: i64) -> Self {
        self.alert.bucket_start_micros = START_US + bucket * 1_000_000;
        self
    }

    pub(crate) fn severity(mut self, severity: Severity) -> Self {
        self.alert.severity = severity;
        self
    }

    pub(crate) fn signed_by_stranger(mut self) -> Self {
        self.trail = SigningKey::from_seed("trail", &[9; 32]).unwrap();
        self
    }

    pub(crate) fn checkpoint_by_stranger(mut self) -> Self {
        let stranger = SigningKey::from_seed(ORIGIN, &[9; 32]).unwrap();
        let honest = SigningKey::from_seed(ORIGIN, &[2; 32]).unwrap();
        let checkpoint = honest.verify_key().verify(&self.alert.checkpoint).unwrap();
        self.alert.checkpoint = stranger.sign(&checkpoint).unwrap();
        self
    }

    /// The same records in another log, under its key.
    pub(crate) fn in_log(mut self, signer: &SigningKey) -> Self {
        let origin = signer.verify_key().name().to_owned();
        let log = LogId::of_origin(&origin);
        let payloads: Vec<Vec<u8>> = self.calls.iter().map(|call| serde_json::to_vec(&call.event).unwrap()).collect();
        let leaves: Vec<Leaf> =
            (0..).zip(&payloads).map(|(seq, payload)| Leaf { log, ..leaf_of(seq, payload) }).collect();
        let hashes: Vec<LeafHash> = leaves.iter().map(|leaf| leaf::leaf_hash(&leaf.encode())).collect();
        let mut tree = Tree::new();
        hashes.iter().for_each(|hash| tree.push(*hash));
        let size = tree.size();
        let evidence = leaves.iter().zip(&payloads).map(|(leaf, payload)| {
            let proof = tree.inclusion_proof(leaf.seq, size, |_| Ok::<_, Infallible>(hashes.clone())).unwrap();
            Evidence::new(leaf.seq, &leaf.encode(), &[7; 16], payload, &proof)
        });
        self.alert.evidence = evidence.collect();
        self.alert.checkpoint = signer.sign(&Checkpoint { origin: origin.clone(), size, root: tree.root() }).unwrap();
        (self.alert.origin, self.alert.log) = (origin, log.to_string());
        self
    }

    pub(crate) fn evidence_changed(mut self) -> Self {
        let other = Bench::new().alert("denied-burst", vec![event("Decrypt").by("alice")]);
        self.alert.evidence[0].payload.clone_from(&other.alert.evidence[0].payload);
        self
    }

    pub(crate) fn signed(mut self) -> SignedAlert {
        self.alert.alert_id = self.alert.computed_id();
        self.alert.sign(&self.trail).unwrap()
    }

    pub(crate) fn raw(self, position: i64) -> RawAlert {
        let signed = self.signed();
        let signature = signed.signature.to_vec();
        RawAlert { source: "trail.db".into(), position, json: signed.json, signature }
    }

    pub(crate) fn verified(mut self) -> VerifiedAlert {
        self.alert.alert_id = self.alert.computed_id();
        VerifiedAlert::unchecked(self.alert, self.calls)
    }
}

/// The trail's side of the table source.
pub(crate) struct TrailDb(Connection);

/// A responder on this folder that may act, by one KMS and trail.db, and tells nobody.
pub(crate) fn parts(dir: &Path, kms: Arc<FakeKms>, playbooks: Vec<Playbook>) -> Parts {
    let store = Store::open(dir).unwrap();
    Parts {
        data_dir: dir.to_owned(),
        source: Box::new(TableSource::open(dir, &store).unwrap()),
        store,
        kms,
        playbooks,
        enforce: true,
        rules: Bench::rules(),
        log_vkey: None,
        alert_vkey: None,
        settings: Settings::default(),
        channels: Vec::new(),
    }
}

impl TrailDb {
    fn create(dir: &Path, vkey: &str) -> Self {
        let connection = Connection::open(dir.join("trail.db")).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE IF NOT EXISTS alerts(position INTEGER PRIMARY KEY AUTOINCREMENT, alert_id TEXT,
                   revision INTEGER, json BLOB, signature BLOB, created_us INTEGER, UNIQUE(alert_id, revision));
                 CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB);",
            )
            .unwrap();
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('alert_vkey', ?1)", [vkey]).unwrap();
        Self(connection)
    }

    /// All at once: a reader sees none or all of them.
    pub(crate) fn push_all(&self, signed: &[SignedAlert]) {
        let together = self.0.unchecked_transaction().unwrap();
        signed.iter().for_each(|one| self.push(one));
        together.commit().unwrap();
    }

    pub(crate) fn push(&self, signed: &SignedAlert) {
        let alert: Value = serde_json::from_slice(&signed.json).unwrap_or_default();
        self.0
            .execute(
                "INSERT INTO alerts(alert_id, revision, json, signature, created_us) VALUES (?1, ?2, ?3, ?4, 0)",
                params![alert["alertId"].as_str(), alert["revision"].as_i64(), signed.json, signed.signature],
            )
            .unwrap();
    }
}

pub(crate) fn notice(body: &str) -> Notice {
    Notice {
        row: 1,
        incident: Some(IncidentId::new("I-1")),
        channel: "mail".into(),
        recipient: String::new(),
        number: 2,
        message_id: "I-1.2.mail@x".into(),
        in_reply_to: None,
        subject: "subject".into(),
        body: body.into(),
        attempts: 0,
        created_us: START_US,
    }
}

/// A notice's worth of an incident.
pub(crate) fn story<'a>(detail: &'a IncidentDetail, facts: &'a Facts, number: u32, occasion: Occasion) -> Story<'a> {
    Story {
        detail,
        facts,
        number,
        occasion,
        link: Some("https://keytrail.example.org/ack/I-0123456789ab"),
        message_id: "I-0123456789ab.2.mail@0.keytrail.invalid",
        thread: "I-0123456789ab@0.keytrail.invalid",
        at_us: START_US + 2_000_000,
    }
}

/// What goes with [`hostile_detail`].
pub(crate) fn hostile_facts(count: usize) -> Facts {
    let hostile = "x\r\nBcc: evil@example.org\r\n.\r\n\u{202e}'; DROP TABLE events --\u{0}";
    Facts {
        why: (0..count).map(|index| (index.to_string(), "denied 12, fires from 10".into())).collect(),
        queries: vec![],
        failing: (0..count)
            .map(|index| Failing {
                principal: format!("{}{hostile}", principal_arn(&index.to_string())),
                error_code: "DisabledException".into(),
                calls: 3,
            })
            .collect(),
        acked_us: None,
        muted: 2,
    }
}

/// An incident with `count` alerts, `2 * count` actions, and hostile text wherever an event could bring it.
pub(crate) fn hostile_detail(count: usize) -> IncidentDetail {
    let hostile = "x\r\nBcc: evil@example.org\r\n.\r\n\u{202e}'; DROP TABLE events --\u{0}";
    let summary = IncidentSummary {
        id: IncidentId::new("I-0123456789ab"),
        state: IncidentState::Open,
        severity: Severity::High,
        title: hostile.into(),
        principal: Some(format!("arn:aws:iam::{ACCOUNT}:user/{hostile}")),
        opened_us: START_US,
        changed_us: START_US,
        first_event_us: START_US,
        last_event_us: START_US,
        resolved_us: None,
        notices: 2,
        acknowledged_by: None,
        acknowledged_us: None,
        assignee: None,
        resolution: None,
        resolved_by: None,
        reopened_us: None,
        reopenings: 0,
        merged_into: None,
        contained_us: None,
        not_contained: None,
    };
    let alert = |index: usize| IncidentAlert {
        alert_id: index.to_string(),
        revision: 0,
        rule_id: "denied-burst".into(),
        rule_version: 1,
        severity: Severity::High,
        title: hostile.into(),
        matched: 10,
        first_event_us: START_US,
        detected_us: START_US,
        received_us: START_US,
        seqs: "1 2 3".into(),
        source_ips: hostile.into(),
        ours: false,
    };
    let action = |index: usize| Action {
        row: 1,
        id: index.to_string(),
        incident: IncidentId::new("I-0123456789ab"),
        playbook: "p".into(),
        playbook_version: 1,
        step: "1".into(),
        kind: ActionKind::DisableKey,
        target: format!("{}{hostile}", key_arn(&index.to_string())),
        generation: 0,
        cause: String::new(),
        undo_of: None,
        requires: None,
        stop_on_error: false,
        args: json!({}),
        state: if index.is_multiple_of(2) { ActionState::Done } else { ActionState::Failed },
        reason: Some(hostile.into()),
        needs_person: true,
        attempts: 1,
        next_attempt_us: 0,
        planned_us: START_US,
        leased_us: None,
        finished_us: Some(START_US),
        pre_state: None,
        changed: Some(true),
        log_seq: Some(9),
    };
    IncidentDetail {
        summary,
        principals: vec![],
        keys: (0..count).map(|index| format!("{}{hostile}", key_arn(&index.to_string()))).collect(),
        alerts: (0..count).map(alert).collect(),
        actions: (0..2 * count).map(action).collect(),
        timeline: vec![],
        recorded_through: 0,
        exposure: None,
    }
}
