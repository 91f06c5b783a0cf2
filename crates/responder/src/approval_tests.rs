//! A step that people must agree to, over the real store and loops: asked for once, done once, and never without them.
#![allow(clippy::unwrap_used)]

use crate::incident::{self, IncidentDetail};
use crate::journey_tests::until;
use crate::outbox::ActionState;
use crate::playbook::Playbook;
use crate::service::{Responder, RunLock, RunningResponder};
use crate::testing::{self, Bench, FakeKms, TrailDb, event, key_arn};
use keytrail_kms::clock::{Clock, FakeClock, SystemClock};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

const VICTIM: &str = "approval_tests::victim";

fn playbook() -> Playbook {
    let text = r#"
id = "agreed"
version = 1
mode = "enforce"
steps = [{ action = "disable_key", approval = { quorum = 2, ttl = "30m", on_expiry = "escalate" } }]
[match]
rules = ["key-policy-public"]
min_severity = "low"
provenance = ["authenticated_allowed"]
"#;
    Playbook::parse(Path::new("agreed.toml"), text).unwrap()
}

fn start(dir: &Path, kms: &Arc<FakeKms>, clock: Arc<dyn Clock>) -> RunningResponder {
    let lock = RunLock::take(dir).unwrap();
    let parts = testing::parts(dir, Arc::<FakeKms>::clone(kms), vec![playbook()]);
    Responder::start_parts(parts, lock, clock).unwrap()
}

struct Rig {
    dir: tempfile::TempDir,
    kms: Arc<FakeKms>,
    clock: Arc<FakeClock>,
    responder: RunningResponder,
    _trail: TrailDb,
}

impl Rig {
    /// A responder that has asked for approval of disabling k1.
    async fn asked() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        kms.set_key("k1", "Enabled", true);
        let clock = Arc::new(FakeClock::default());
        clock.advance(Duration::from_secs(2));
        trail.push(&attack(&bench));
        let responder = start(dir.path(), &kms, Arc::<FakeClock>::clone(&clock));
        let rig = Self { dir, kms, clock, responder, _trail: trail };
        rig.until("people were asked", || rig.notes().iter().any(|text| text.contains("waits for 2 approvals"))).await;
        rig
    }

    /// The responder looks by its own clock, which a test moves.
    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        until(what, || {
            self.clock.advance(Duration::from_secs(1));
            holds()
        })
        .await;
    }

    fn detail(&self) -> Option<IncidentDetail> {
        let id = incident::list(self.dir.path(), 1).unwrap().first()?.id.clone();
        incident::show(self.dir.path(), id.as_str()).unwrap()
    }

    fn notes(&self) -> Vec<String> {
        self.detail().map(|detail| detail.timeline.into_iter().map(|entry| entry.text).collect()).unwrap_or_default()
    }

    fn action(&self) -> (ActionState, String) {
        let action = self.detail().unwrap().actions.remove(0);
        (action.state, action.reason.unwrap_or_default())
    }

    fn disabled(&self) -> usize {
        self.kms.effects().iter().filter(|(call, _)| call == "DisableKey").count()
    }

    async fn held(&self, why: &str) {
        self.until("the action ended", || self.action().0.is_final()).await;
        let (state, reason) = self.action();
        assert_eq!(state, ActionState::Suppressed);
        assert!(reason.contains(why), "{reason}");
        assert!(self.detail().unwrap().actions[0].needs_person);
        assert_eq!((self.kms.key("k1").0.as_str(), self.disabled()), ("Enabled", 0), "nothing was done");
    }
}

fn attack(bench: &Bench) -> keytrail_trail::alert::SignedAlert {
    bench.alert("key-policy-public", vec![event("PutKeyPolicy").by("mallory").on_key("k1").opened("e0")]).signed()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_persons_agree_and_it_is_done_once() {
    let rig = Rig::asked().await;
    assert_eq!(rig.action().0, ActionState::AwaitingApproval);
    assert_eq!(rig.detail().unwrap().summary.state, incident::IncidentState::Open);
    let request = rig.kms.request().unwrap();
    assert_eq!((request.operation.as_str(), request.target.as_str()), ("disable_key", key_arn("k1").as_str()));
    assert!(request.suspects.contains(&testing::principal_arn("mallory")));
    let asked = crate::approval::asked(rig.dir.path(), rig.detail().unwrap().summary.id.as_str()).unwrap();
    assert_eq!(asked[0].request.as_deref(), Some(request.id.as_str()));
    assert!(rig.kms.agree(&request.id, "mallory").is_err());
    rig.kms.agree(&request.id, "alice").unwrap();
    assert!(rig.kms.agree(&request.id, "alice").is_err());
    assert_eq!((rig.action().0, rig.disabled()), (ActionState::AwaitingApproval, 0));
    rig.kms.agree(&request.id, "robert").unwrap();
    rig.until("the key is disabled", || rig.action().0 == ActionState::Done).await;
    assert_eq!((rig.kms.key("k1").0.as_str(), rig.disabled()), ("Disabled", 1));
    assert!(rig.notes().iter().any(|text| text.contains("alice") && text.contains("robert")), "{:?}", rig.notes());
    rig.responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_agreed_to_in_time_is_never_done() {
    let rig = Rig::asked().await;
    rig.kms.agree(&rig.kms.request().unwrap().id, "alice").unwrap();
    rig.kms.wait(Duration::from_secs(30 * 60));
    rig.held("expired").await;
    rig.responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_of_another_state_of_the_key_is_void() {
    let rig = Rig::asked().await;
    let request = rig.kms.request().unwrap().id;
    rig.kms.agree(&request, "alice").unwrap();
    // Its owner closed the policy meanwhile.
    rig.kms.set_key("k1", "Enabled", false);
    rig.kms.agree(&request, "robert").unwrap();
    rig.held("target has changed").await;
    rig.responder.shutdown().await;
}

/// Runs a responder on the folder in the environment until nothing waits any more; people agree when they are asked.
#[test]
fn victim() {
    let Ok(dir) = std::env::var("KEYTRAIL_APPROVAL_VICTIM_DIR") else { return };
    let _faults = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = Path::new(&dir);
        let kms = FakeKms::open(&dir.join("effects"));
        let responder = start(dir, &kms, Arc::new(SystemClock));
        until("all is done", || {
            if let Some(request) = kms.request() {
                // Those who agreed before the crash are refused.
                let _ = (kms.agree(&request.id, "alice"), kms.agree(&request.id, "robert"));
            }
            let left = "SELECT count(*) FROM actions WHERE state NOT IN ('done', 'suppressed')";
            let all = "SELECT count(*) FROM actions";
            let count = |sql: &str| {
                responder.store().read_now(|db| Ok(db.query_row(sql, [], |row| row.get::<_, i64>(0))?)).unwrap()
            };
            count(all) == 1 && count(left) == 0
        })
        .await;
        responder.shutdown().await;
    });
}

fn victim_run(dir: &Path, fault: &str) -> ExitStatus {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args([VICTIM, "--exact", "--quiet"]).env("KEYTRAIL_APPROVAL_VICTIM_DIR", dir).env("FAILPOINTS", fault);
    victim.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_each_step_asks_once_and_acts_once() {
    for fault in [
        "responder::after_plan_commit=return",
        "responder::approval_opened=return",
        "responder::approval_used=return",
        "responder::before_call=return",
        "responder::after_call=return",
        "none=off",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        FakeKms::open(&dir.path().join("effects")).set_key("k1", "Enabled", true);
        trail.push(&attack(&bench));
        let path = dir.path().to_owned();
        let runs = move || (victim_run(&path, fault), victim_run(&path, "none=off"));
        let (first, second) = tokio::task::spawn_blocking(runs).await.unwrap();
        assert_eq!(first.success(), fault == "none=off", "{fault}");
        assert!(second.success(), "{fault}");
        let kms = FakeKms::open(&dir.path().join("effects"));
        let mut calls: Vec<String> = kms.effects().into_iter().map(|(call, _)| call).collect();
        calls.sort();
        assert_eq!(calls, ["ConsumeApprovalRequest", "DisableKey", "OpenApprovalRequest"], "{fault}");
        assert_eq!(kms.key("k1").0, "Disabled", "{fault}");
    }
}
