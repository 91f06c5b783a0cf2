//! Each action beside disabling, cancelling and restoring policies: planned from evidence, guarded, carried out once, read
//! back, undone; and carried out once when the process is killed at any transition.
#![allow(clippy::unwrap_used)]

use crate::act::{Answer, Control, ControlError};
use crate::config::{Settings, WebhookSettings};
use crate::incident::{self, IncidentDetail, IncidentState};
use crate::outbox::ActionState;
use crate::playbook::Playbook;
use crate::service::{Parts, Responder, RunLock, RunningResponder, StartError};
use crate::store::Store;
use crate::testing::{
    self, Bench, EventBuilder, FakeKms, HttpSink, TrailDb, alias_arn, event, key_arn, playbook_of, principal_arn,
};
use async_trait::async_trait;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const VICTIM: &str = "action_tests::victim";
const MALLORYS_KEY: &str = "AKIAMALLORY000000001";

/// All new steps, each on alerts of one rule.
fn playbooks() -> Vec<Playbook> {
    vec![
        playbook_of("aliases", "alias-repointed", r#"{ action = "alias_restore" }"#),
        playbook_of(
            "credential",
            "many-contexts",
            r#"
            { action = "snapshot_evidence" }, { action = "quarantine_principal", scope = "key", ttl = "1h" },
            { action = "deactivate_access_key" }"#
                .replace('\n', " ")
                .as_str(),
        ),
        playbook_of(
            "grants",
            "grant-to-self",
            r#"
            { action = "revoke_grants", which = "grantee" }, { action = "require_mfa", ttl = "1h" },
            { action = "call_out", name = "ticket" }"#
                .replace('\n', " ")
                .as_str(),
        ),
    ]
}

fn parts(dir: &Path, settings: Settings, playbooks: Vec<Playbook>) -> Parts {
    Parts { settings, ..testing::parts(dir, FakeKms::open(&dir.join("effects")), playbooks) }
}

fn with_call_out(dir: &Path, port: u16) -> Settings {
    let secret_file = dir.join("secret");
    std::fs::write(&secret_file, "a secret of thirty-two bytes ...").unwrap();
    let url = format!("http://127.0.0.1:{port}/hook");
    let webhook = WebhookSettings { url, secret_file, ca_file: None, timeout: Duration::from_secs(5) };
    Settings { call_outs: BTreeMap::from([("ticket".to_owned(), webhook)]), ..Settings::default() }
}

/// A folder with a KMS in which mallory did everything.
struct Stage {
    dir: tempfile::TempDir,
    bench: Bench,
    trail: TrailDb,
    sink: HttpSink,
}

impl Stage {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        for key in ["k1", "k2"] {
            kms.set_key(key, "Enabled", false);
        }
        for (id, grantee) in [("g1", "eve"), ("g2", "eve"), ("g3", "app")] {
            kms.set_grant(id, "k1", grantee);
        }
        kms.set_alias("alias/app", Some("k2"));
        std::fs::write(dir.path().join("checkpoints/latest"), "a signed head\n").unwrap();
        Self { dir, bench, trail, sink: HttpSink::start().await }
    }

    fn push(&self, rule: &str, events: Vec<EventBuilder>) {
        self.trail.push(&self.bench.alert(rule, events).signed());
    }

    fn attack(&self) {
        let uses = |key: &str| event("Decrypt").id(key).by("mallory").with_access_key(MALLORYS_KEY).on_key(key);
        self.push("many-contexts", vec![uses("k1"), uses("k2")]);
        self.push("grant-to-self", vec![event("CreateGrant").id("e-g").by("mallory").granted("k1", "g1", "eve")]);
        let moved = event("UpdateAlias").id("set-k2").by("mallory").moved("alias/app", "k1", Some("k2"), "set-k1");
        self.push("alias-repointed", vec![moved]);
    }

    fn kms(&self) -> Arc<FakeKms> {
        FakeKms::open(&self.dir.path().join("effects"))
    }

    fn start(&self) -> RunningResponder {
        let parts = parts(self.dir.path(), with_call_out(self.dir.path(), self.sink.port), playbooks());
        let lock = RunLock::take(self.dir.path()).unwrap();
        Responder::start_parts(parts, lock, Arc::new(SystemClock)).unwrap()
    }

    fn incident(&self) -> IncidentDetail {
        let list = incident::list(self.dir.path(), 10).unwrap();
        assert_eq!(list.len(), 1, "one principal, one incident");
        incident::show(self.dir.path(), list[0].id.as_str()).unwrap().unwrap()
    }

    async fn settled(&self, actions: usize) -> IncidentDetail {
        crate::journey_tests::until("all actions are final", || {
            let list = incident::list(self.dir.path(), 10).unwrap();
            let shown = list.first().map(|one| incident::show(self.dir.path(), one.id.as_str()).unwrap().unwrap());
            shown.is_some_and(|detail| {
                detail.actions.len() >= actions && detail.actions.iter().all(|action| action.state.is_final())
            })
        })
        .await;
        self.incident()
    }

    /// Settled, and looked at: nothing was used since.
    async fn contained(&self, actions: usize) -> IncidentDetail {
        self.settled(actions).await;
        let contained = || self.incident().summary.state == IncidentState::Contained;
        crate::journey_tests::until("the incident is contained", contained).await;
        self.incident()
    }

    /// The bundles that are there, by the key they are about.
    fn bundles(&self) -> BTreeMap<String, Value> {
        let folder = self.dir.path().join("incidents").join(self.incident().summary.id.as_str());
        let mut bundles = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let Some(hash) = name.strip_suffix(".json").and_then(|name| name.split_once('-')) else { continue };
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(hex::encode(sha256(&[&bytes])), hash.1, "the file's name is its hash");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let bundle: Value = serde_json::from_slice(&bytes).unwrap();
            let target = bundle["target"].as_str().unwrap().to_owned();
            assert!(bundles.insert(target, bundle).is_none(), "one bundle of each key");
        }
        bundles
    }
}

/// Number of rows of the attack: two snapshots, two quarantines, one access key; the grantee's grants, one for each, a
/// second factor, a call-out; an alias.
const ACTIONS: usize = 11;

fn expected_effects() -> Vec<(String, String)> {
    let mut expected = [
        ("DeactivateAccessKey", MALLORYS_KEY.to_owned()),
        ("PutMfaRequirement", key_arn("k1")),
        ("PutQuarantine", key_arn("k1")),
        ("PutQuarantine", key_arn("k2")),
        ("RestoreAlias", alias_arn("alias/app")),
        ("RevokeGrant", "g1".to_owned()),
        ("RevokeGrant", "g2".to_owned()),
    ]
    .map(|(call, target)| (call.to_owned(), target))
    .to_vec();
    expected.sort();
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_takes_effect_once_and_undo_gives_back_what_can_be_given_back() {
    let stage = Stage::new().await;
    stage.attack();
    let responder = stage.start();
    let detail = stage.contained(ACTIONS).await;
    responder.shutdown().await;
    assert_eq!(detail.actions.len(), ACTIONS);
    for action in &detail.actions {
        assert_eq!(action.state, ActionState::Done, "{action:?}");
    }
    let kms = stage.kms();
    let mut effects = kms.effects();
    effects.sort();
    assert_eq!(effects, expected_effects());
    assert!(kms.is_quarantined_on("mallory", "k1") && !kms.is_quarantined("mallory"));
    assert_eq!(kms.grants(), ["g3"], "another grantee keeps its grant");
    assert_eq!(kms.alias("alias/app"), Some(key_arn("k1")));
    assert!(kms.requires_mfa(&key_arn("k1")) && kms.is_inactive(MALLORYS_KEY));

    let bundles = stage.bundles();
    assert_eq!(bundles.keys().cloned().collect::<Vec<_>>(), [key_arn("k1"), key_arn("k2")]);
    let bundle = &bundles[&key_arn("k1")];
    assert_eq!(bundle["logHead"], "a signed head\n");
    assert_eq!(bundle["alert"]["evidence"].as_array().map(Vec::len), Some(2));
    assert!(bundle["alert"]["checkpoint"].is_string() && bundle["reads"]["DescribeKey"].is_object());
    assert_eq!(bundle["reads"]["ListGrants"].as_array().map(Vec::len), Some(3));
    assert_eq!(bundle["missing"], Value::Array(vec![]));
    let told = |text: &str| detail.timeline.iter().any(|entry| entry.text.contains(text));
    assert!(told("sha256 ") && told("call_out ticket: done (answered 200 OK)"));
    let kept: i64 = Store::open(stage.dir.path())
        .unwrap()
        .read_now(|db| Ok(db.query_row("SELECT count(*) FROM evidence_kept", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(kept, 0, "the bundle has the evidence");

    let id = detail.summary.id.as_str();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let report = incident::undo(
        stage.dir.path(),
        id,
        ("tester", incident::Resolution::Undone),
        kms.clone(),
        clock,
        Duration::from_secs(20),
    )
    .await
    .unwrap();
    assert!(report.complete, "{report:?}");
    assert_eq!(report.actions.len(), 5, "two quarantines, a second factor, an access key, an alias");
    assert!(!kms.is_quarantined_on("mallory", "k1") && !kms.is_quarantined_on("mallory", "k2"));
    assert!(!kms.requires_mfa(&key_arn("k1")) && !kms.is_inactive(MALLORYS_KEY));
    assert_eq!(kms.alias("alias/app"), Some(key_arn("k2")));
    assert_eq!(kms.grants(), ["g3"]);
    let left = |text: &str| report.left.iter().filter(|line| line.contains(text)).count();
    assert_eq!((left("not made again"), left("call-out ticket"), report.left.len()), (2, 1, 3), "{:?}", report.left);
}

/// A KMS that says nothing to the first question about uses.
struct Silent(Arc<FakeKms>, AtomicBool);

#[async_trait]
impl Control for Silent {
    async fn call(&self, target: &str, body: Value, action_id: Option<&str>) -> Result<Answer, ControlError> {
        if target == "KeytrailService.GetUsage" && !self.1.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.0.call(target, body, action_id).await
    }
}

/// The bundle about one key that mallory used, taken with this KMS.
async fn bundle_of(stage: &Stage, kms: Arc<dyn Control>) -> (Value, IncidentDetail) {
    let uses = event("Decrypt").id("e").by("mallory").with_access_key(MALLORYS_KEY).on_key("k1");
    stage.push("many-contexts", vec![uses]);
    let settings = with_call_out(stage.dir.path(), stage.sink.port);
    let parts = Parts { kms, ..parts(stage.dir.path(), settings, playbooks()) };
    let lock = RunLock::take(stage.dir.path()).unwrap();
    let responder = Responder::start_parts(parts, lock, Arc::new(SystemClock)).unwrap();
    let detail = stage.settled(3).await;
    responder.shutdown().await;
    assert!(detail.actions.iter().all(|action| action.state == ActionState::Done), "nothing waits for a snapshot");
    (stage.bundles().remove(&key_arn("k1")).unwrap(), detail)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_the_newest_uses_of_its_key() {
    let stage = Stage::new().await;
    let kms = stage.kms();
    for seq in 0..60 {
        kms.was_used(json!({ "KeyArn": key_arn("k1"), "Operation": "Decrypt", "Count": 1, "LastSeq": seq }));
    }
    let (bundle, _) = bundle_of(&stage, kms).await;
    let found = &bundle["reads"]["GetUsage"];
    let seqs: Vec<u64> = found["Uses"].as_array().unwrap().iter().map(|one| one["LastSeq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (10..60).rev().collect::<Vec<_>>());
    assert_eq!((&found["MoreUses"], &found["FirstSeq"]), (&json!(10), &json!(0)));
    assert_eq!(bundle["missing"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_goes_without_uses_that_nobody_tells_in_time() {
    let stage = Stage::new().await;
    let (bundle, detail) = bundle_of(&stage, Arc::new(Silent(stage.kms(), AtomicBool::new(false)))).await;
    assert_eq!((&bundle["missing"], &bundle["reads"]["GetUsage"]["Uses"]), (&json!(["GetUsage"]), &json!([])));
    assert!(bundle["reads"]["DescribeKey"].is_object(), "what is quick comes first");
    assert!(detail.timeline.iter().any(|entry| entry.text.contains("without GetUsage")));
    let stage = Stage::new().await;
    let kms = stage.kms();
    kms.refuse("GetUsage");
    let (bundle, _) = bundle_of(&stage, kms).await;
    assert_eq!(bundle["reads"]["GetUsage"], json!({ "refused": "AccessDeniedException" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_call_out_is_signed_named_by_the_action_and_its_reply_is_kept() {
    let stage = Stage::new().await;
    stage.push("grant-to-self", vec![event("CreateGrant").by("mallory").granted("k1", "g1", "eve")]);
    stage.sink.answer_with("503 Busy");
    let responder = stage.start();
    crate::journey_tests::until("it was tried twice", || stage.sink.requests().len() >= 2).await;
    stage.sink.answer_with("202 Accepted");
    // A call-out contains nothing and opens nothing.
    let detail = stage.contained(5).await;
    responder.shutdown().await;
    let call_out = detail.actions.iter().find(|action| action.target == "ticket").unwrap();
    assert_eq!((call_out.state, call_out.reason.as_deref()), (ActionState::Done, Some("answered 202 Accepted")));
    for request in stage.sink.requests() {
        let head = request.to_lowercase();
        assert!(head.contains(&format!("idempotency-key: {}", call_out.id)), "{request}");
        assert!(head.contains("x-keytrail-signature: v1="));
        let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["about"]["principal"], principal_arn("mallory"));
        assert_eq!(body["about"]["keys"][0], key_arn("k1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirecting_receiver_fails_once_and_a_missing_name_stops_the_start() {
    let stage = Stage::new().await;
    stage.push("grant-to-self", vec![event("CreateGrant").by("mallory").granted("k1", "g1", "eve")]);
    stage.sink.answer_with("302 Found");
    let responder = stage.start();
    // A call-out contains nothing and opens nothing.
    let detail = stage.contained(5).await;
    responder.shutdown().await;
    let call_out = detail.actions.iter().find(|action| action.target == "ticket").unwrap();
    assert_eq!((call_out.state, stage.sink.requests().len()), (ActionState::Failed, 1));
    let lock = RunLock::take(stage.dir.path()).unwrap();
    let parts = parts(stage.dir.path(), Settings::default(), playbooks());
    let refused = Responder::start_parts(parts, lock, Arc::new(SystemClock)).err();
    assert!(matches!(refused, Some(StartError::NoCallOut { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_does_not_answer_keeps_no_containment_waiting_and_the_bundle_says_what_is_missing() {
    let stage = Stage::new().await;
    let kms = stage.kms();
    // All reads of both snapshots.
    kms.unreachable_for(10);
    stage.push("many-contexts", vec![event("Decrypt").by("mallory").with_access_key(MALLORYS_KEY).on_key("k1")]);
    let lock = RunLock::take(stage.dir.path()).unwrap();
    let mut parts = parts(stage.dir.path(), with_call_out(stage.dir.path(), stage.sink.port), playbooks());
    parts.kms = kms.clone();
    let responder = Responder::start_parts(parts, lock, Arc::new(SystemClock)).unwrap();
    stage.settled(3).await;
    responder.shutdown().await;
    let bundle = stage.bundles().remove(&key_arn("k1")).unwrap();
    assert!(!bundle["missing"].as_array().unwrap().is_empty(), "{}", bundle["missing"]);
    assert!(bundle["alert"]["evidence"].is_array());
    assert!(kms.is_quarantined_on("mallory", "k1"));
}

/// Effects on aliases and access keys are on nothing that is used itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_until_an_alias_was_back_is_the_exposure() {
    let stage = Stage::new().await;
    let kms = stage.kms();
    let used = |by: &str, seq: u64| {
        json!({ "PrincipalArn": principal_arn(by), "KeyArn": key_arn("k2"), "Operation": "Decrypt", "Count": 2,
                "FirstSeq": seq, "LastSeq": seq })
    };
    kms.was_used(used("app", 3));
    let moved = event("UpdateAlias").id("set-k2").by("mallory").moved("alias/app", "k1", Some("k2"), "set-k1");
    stage.push("alias-repointed", vec![moved]);
    let (parts, lock) =
        (testing::parts(stage.dir.path(), kms, playbooks()[..1].to_vec()), RunLock::take(stage.dir.path()).unwrap());
    let responder = Responder::start_parts(parts, lock, Arc::new(SystemClock)).unwrap();
    let detail = stage.contained(1).await;
    responder.shutdown().await;
    let exposure = detail.exposure.unwrap();
    assert_eq!(exposure["uses"][0]["principal"], principal_arn("app"), "{exposure}");
    assert_eq!((exposure["lastSeq"].as_u64(), exposure["complete"].as_bool()), (Some(7), Some(true)));
}

/// Whoever moved it since, and what is gone already.
#[tokio::test(flavor = "multi_thread")]
async fn targets_that_changed_since_are_left_alone() {
    let stage = Stage::new().await;
    let kms = stage.kms();
    kms.set_alias("alias/app", Some("k3"));
    let moved = event("UpdateAlias").id("set-k2").by("mallory").moved("alias/app", "k1", Some("k2"), "set-k1");
    stage.push("alias-repointed", vec![moved]);
    let responder = stage.start();
    let detail = stage.settled(1).await;
    assert_eq!(detail.actions[0].state, ActionState::Suppressed);
    assert_eq!(stage.kms().alias("alias/app"), Some(key_arn("k3")));
    responder.shutdown().await;
}

/// Runs a responder on the folder in the environment until all is done.
#[test]
fn victim() {
    let (Ok(dir), Ok(port)) = (std::env::var("KEYTRAIL_ACTIONS_DIR"), std::env::var("KEYTRAIL_ACTIONS_PORT")) else {
        return;
    };
    let _faults = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = Path::new(&dir);
        let parts = parts(dir, with_call_out(dir, port.parse().unwrap()), playbooks());
        let responder = Responder::start_parts(parts, RunLock::take(dir).unwrap(), Arc::new(SystemClock)).unwrap();
        crate::journey_tests::until("all is done", || {
            let (alerts, left): (i64, i64) = responder
                .store()
                .read_now(|db| {
                    let sql = "SELECT (SELECT count(*) FROM alerts),
                                 (SELECT count(*) FROM actions WHERE state IN ('planned', 'ready', 'leased'))";
                    Ok(db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
                })
                .unwrap();
            (alerts, left) == (3, 0)
        })
        .await;
        responder.shutdown().await;
    });
}

fn victim_run(dir: &Path, port: u16, fault: &str) -> ExitStatus {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args([VICTIM, "--exact", "--quiet"]).env("KEYTRAIL_ACTIONS_DIR", dir);
    victim.env("KEYTRAIL_ACTIONS_PORT", port.to_string()).env("FAILPOINTS", fault);
    victim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap()
}

/// The process is killed before or after the call of each action in turn, and before each end is written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_anywhere_leads_to_one_effect_of_each_new_action() {
    let mut faults = vec!["responder::after_plan_commit=return".to_owned(), "none=off".to_owned()];
    for skip in 0..ACTIONS {
        for point in ["before_call", "after_call", "before_done"] {
            faults.push(format!("responder::{point}={skip}*off->return"));
        }
    }
    for fault in faults {
        let stage = Stage::new().await;
        stage.attack();
        let (path, port, first) = (stage.dir.path().to_owned(), stage.sink.port, fault.clone());
        tokio::task::spawn_blocking(move || {
            victim_run(&path, port, &first);
            assert!(victim_run(&path, port, "none=off").success(), "{first}");
        })
        .await
        .unwrap();
        let mut effects = stage.kms().effects();
        effects.sort();
        assert_eq!(effects, expected_effects(), "{fault}");
        let detail = stage.incident();
        assert_eq!(detail.actions.len(), ACTIONS, "{fault}");
        assert!(detail.actions.iter().all(|action| action.state == ActionState::Done), "{fault}: {detail:?}");
        assert_eq!(stage.bundles().len(), 2, "{fault}: one bundle of each key");
        let mut ids: Vec<String> = stage.sink.requests().iter().filter_map(|one| idempotency_key(one)).collect();
        assert!(!ids.is_empty(), "{fault}: the call-out was made");
        ids.dedup();
        assert_eq!(ids.len(), 1, "{fault}: under one id");
    }
}

/// None of a request that broke off when its sender was killed.
fn idempotency_key(request: &str) -> Option<String> {
    let mut lines = request.lines().map(str::to_lowercase);
    lines.find_map(|line| line.strip_prefix("idempotency-key: ").map(str::to_owned))
}
