//! The loop over a real journal and a real signer: alerts once, provable, over restarts, reloads and bad checkpoints.

#![allow(clippy::unwrap_used)]

mod outage;

use super::*;
use crate::alert::{Alert, SignedAlert, verify_evidence};
use crate::land::tests::frame;
use crate::land::{FetchError, Position};
use crate::source::SourceFrame;
use crate::source::journal::JournalSource;
use async_trait::async_trait;
use keytrail_kms::chain::{Checkpoint, KeyTransition, Kind, RootHash, SigningKey, VerifyKey};
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::{Draft, Frame, Journal, JournalOptions, PruneBounds, Reader};
use keytrail_kms::signer::{CheckpointSigner as _, LocalSigner, read_keys, write_keys};
use parking_lot::Mutex;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

/// Rules and fixtures as they ship: they pass their tests elsewhere, and need not at each start here.
static SHIPPED: LazyLock<Vec<(&'static str, &'static str)>> = LazyLock::new(|| {
    let mut files: Vec<(&str, &str)> = Vec::new();
    for folder in std::fs::read_dir(fixtures()).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(fixtures()).unwrap().to_str().unwrap().to_owned();
            files.push((name.leak(), std::fs::read_to_string(&path).unwrap().leak()));
        }
    }
    files
});

/// A node's folder with its journal and signer, and the rules that ship.
struct Node {
    dir: TempDir,
    journal: Arc<Journal>,
    signer: Arc<LocalSigner>,
    clock: Arc<FakeClock>,
}

/// What the signer's side does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Honest,
    Away,
    /// Signs another root.
    Lying,
    /// Somebody on the way signs.
    Forged,
}

struct Signs {
    journal: Arc<Journal>,
    signer: Arc<LocalSigner>,
    mood: Mutex<Mood>,
    /// What the trail said has landed.
    landed: Mutex<u64>,
}

#[async_trait]
impl CheckpointSource for Signs {
    async fn checkpoint(&self, log: LogId, _size_min: u64) -> Result<String, CheckpointError> {
        match *self.mood.lock() {
            Mood::Honest => Ok(self.signer.sign_newest(self.journal.as_ref()).unwrap()),
            Mood::Away => Err(CheckpointError::Unknown(log)),
            Mood::Forged => {
                let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 1, root: RootHash([0; 32]) };
                Ok(SigningKey::generate(ORIGIN).unwrap().0.sign(&checkpoint).unwrap())
            }
            Mood::Lying => Ok(self.signer.sign(self.journal.head().size, RootHash([9; 32])).unwrap()),
        }
    }

    async fn landed(&self, _log: LogId, next_seq: u64) -> Result<(), CheckpointError> {
        *self.landed.lock() = next_seq;
        Ok(())
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
}

/// An event of somebody with a second factor: the rule about those without is tested in its own file.
fn fixture(name: &str) -> Value {
    let bytes = std::fs::read(fixtures().join("fixtures").join(format!("{name}.json"))).unwrap();
    let mut event: Value = serde_json::from_slice(&bytes).unwrap();
    event["userIdentity"]["sessionContext"]["attributes"] =
        json!({ "creationDate": "2026-01-05T11:00:00Z", "mfaAuthenticated": "true" });
    event
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(FakeClock::default());
        LocalSigner::create(&dir.path().join("checkpoints"), ORIGIN).unwrap();
        let signer = Arc::new(LocalSigner::open(&dir.path().join("checkpoints")).unwrap());
        let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::default() };
        let log = LogId::of_origin(ORIGIN);
        let (journal, _) = Journal::open(&dir.path().join("journal"), log, clock.clone(), options).unwrap();
        std::fs::create_dir_all(dir.path().join("run")).unwrap();
        Self { dir, journal: Arc::new(journal), signer, clock }
    }

    async fn call(&self, event: &Value) -> u64 {
        let draft = Draft::new(Kind::Event, event.to_string().into()).unwrap();
        let pending = self.journal.submit(draft, || Ok::<(), std::convert::Infallible>(())).unwrap();
        pending.await.unwrap().seq
    }

    async fn quiet(&self, calls: u64) {
        for _ in 0..calls {
            self.call(&fixture("describe-key")).await;
        }
    }

    /// Another key signs from here on, as `keytrail signer rotate` has it.
    async fn rotate(&self) {
        let checkpoints = self.dir.path().join("checkpoints");
        let transition = self.signer.transition(self.journal.as_ref()).unwrap();
        let payload = transition.to_json();
        let mut keys = read_keys(&checkpoints, None).unwrap();
        keys.extend(transition.size, payload.as_bytes()).unwrap();
        self.journal.append(Draft::new(Kind::KeyTransition, payload.into()).unwrap()).unwrap().await.unwrap();
        write_keys(&checkpoints, &keys).unwrap();
        self.signer.adopt(keys.current()).unwrap();
    }

    fn signs(&self, mood: Mood) -> Arc<Signs> {
        let (journal, signer) = (self.journal.clone(), self.signer.clone());
        Arc::new(Signs { journal, signer, mood: Mutex::new(mood), landed: Mutex::new(0) })
    }

    fn watched(&self) -> WatchedLog {
        WatchedLog {
            origin: ORIGIN.into(),
            signer: self.signer.verify_key().into(),
            checkpoints: self.dir.path().join("checkpoints"),
            frames: self.dir.path().join("journal"),
            spool: false,
        }
    }

    fn config(&self, signs: &Arc<Signs>) -> TrailConfig {
        let journal = self.dir.path().join("journal");
        TrailConfig {
            dir: self.dir.path().to_owned(),
            rules_dir: fixtures(),
            tested: SHIPPED.as_slice(),
            report_landed: false,
            logs: vec![self.watched()],
            source: Box::new(move |positions| {
                let from = positions.values().copied().next().unwrap_or(0);
                Ok(Box::new(JournalSource::open(&journal, from)?))
            }),
            notes: None,
            fetcher: None,
            checkpoints: signs.clone(),
            lake: LakeOptions::default(),
            clock: self.clock.clone(),
        }
    }

    /// The stored alerts, each verified with everything it carries.
    fn alerts(&self) -> Vec<Alert> {
        self.alerts_of(self.dir.path())
    }

    /// The same of a trail with a folder of its own.
    fn alerts_of(&self, dir: &Path) -> Vec<Alert> {
        let db = Connection::open(dir.join("trail.db")).unwrap();
        let vkey: String = db
            .query_row("SELECT value FROM meta WHERE key = 'alert_vkey'", [], |row| row.get::<_, Vec<u8>>(0))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .unwrap();
        let vkey: VerifyKey = vkey.parse().unwrap();
        let mut statement = db.prepare("SELECT json, signature FROM alerts ORDER BY position").unwrap();
        let rows =
            statement.query_map([], |row| Ok(SignedAlert { json: row.get(0)?, signature: row.get(1)? })).unwrap();
        let alerts = rows.map(|signed| signed.unwrap().verify(&vkey).unwrap());
        alerts
            .inspect(|alert| {
                let keys = match alert.is_imported() {
                    false => read_keys(&self.dir.path().join("checkpoints"), None).unwrap(),
                    true => {
                        let vkey = std::fs::read_to_string(self.dir.path().join("imports/aws/vkey")).unwrap();
                        vkey.trim().parse::<VerifyKey>().unwrap().into()
                    }
                };
                let evidence = verify_evidence(alert, &keys).unwrap();
                assert_eq!(evidence.len(), alert.evidence.len());
                assert!(["meta", "posture"].contains(&alert.rule_kind.as_str()) || !evidence.is_empty());
            })
            .collect()
    }
}

async fn until(trail: &RunningTrail, reached: impl FnMut(&Status) -> bool) {
    let mut status = trail.status();
    tokio::time::timeout(Duration::from_secs(60), status.wait_for(reached)).await.unwrap().unwrap();
}

async fn until_alerts(trail: &RunningTrail, count: u64) {
    until(trail, |status| status.alerts >= count).await;
}

fn rules_of(alerts: &[Alert]) -> Vec<&str> {
    alerts.iter().map(|alert| alert.rule_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_landed_is_reported_and_a_pruned_journal_is_followed_and_proved_on() {
    let node = Node::new();
    let signs = node.signs(Mood::Honest);
    let trail = Trail::start(node.config(&signs)).await.unwrap();
    node.quiet(600).await;
    trail.shutdown().await.unwrap();
    assert_eq!(*signs.landed.lock(), 0, "nobody asked for it");
    let config = TrailConfig { report_landed: true, ..node.config(&signs) };
    let trail = Trail::start(config).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), async {
        while *signs.landed.lock() < 600 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let below_seq = *signs.landed.lock();
    let bounds = PruneBounds { below_seq, before_us: u64::MAX, landed_next_seq: below_seq, keep_seconds: 0 };
    let journal = node.journal.clone();
    let done = tokio::task::spawn_blocking(move || journal.prune(bounds)).await.unwrap().unwrap().unwrap();
    assert!(done.minimum_index > 400, "{done:?}");
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    trail.shutdown().await.unwrap();
    // And after a start that finds no record below.
    let trail = Trail::start(node.config(&signs)).await.unwrap();
    node.call(&fixture("schedule-key-deletion")).await;
    until_alerts(&trail, 1).await;
    trail.shutdown().await.unwrap();
    let alerts = node.alerts();
    assert!(alerts.len() >= 2 && alerts.iter().all(|alert| !alert.evidence.is_empty()), "{:?}", rules_of(&alerts));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_becomes_one_provable_alert_and_wakes_the_responder() {
    let node = Node::new();
    let bell = UnixDatagram::bind(node.dir.path().join("run/alerts.sock")).unwrap();
    bell.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    node.quiet(300).await;
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    let seq = node.call(&fixture("schedule-key-deletion")).await;
    until_alerts(&trail, 1).await;
    assert_eq!(bell.recv(&mut [0; 8]).unwrap(), 1);
    let alerts = node.alerts();
    assert_eq!(rules_of(&alerts), ["key-deletion-scheduled"]);
    let alert = &alerts[0];
    assert_eq!(alert.evidence.iter().map(|evidence| evidence.seq).collect::<Vec<_>>(), [seq]);
    assert_eq!(alert.row_text("key_arn"), fixture("schedule-key-deletion")["resources"][0]["ARN"].as_str());
    assert_eq!(alert.row_text("principal_arn"), Some("arn:aws:iam::111122223333:user/administrator"));
    trail.shutdown().await.unwrap();

    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    node.clock.advance(Duration::from_secs(1));
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    assert_eq!(rules_of(&node.alerts()), ["key-deletion-scheduled", "key-disabled"]);
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_lost_its_database_raises_the_same_alerts_again() {
    let node = Node::new();
    node.quiet(20).await;
    for _ in 0..12 {
        let mut denied = fixture("decrypt");
        denied["errorCode"] = "AccessDenied".into();
        node.call(&denied).await;
        node.clock.advance(Duration::from_secs(1));
    }
    node.call(&fixture("put-key-policy-public")).await;
    let end = |status: &Status| status.positions.values().any(|&position| position == 33);
    let ids = |alerts: &[Alert]| alerts.iter().map(|alert| alert.alert_id.clone()).collect::<BTreeSet<_>>();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    until(&trail, end).await;
    trail.shutdown().await.unwrap();
    let before = node.alerts();
    let rules = ["denied-burst", "key-policy-changed", "key-policy-public"];
    assert_eq!(rules_of(&before).into_iter().collect::<BTreeSet<_>>(), rules.into());

    // The rules' state is lost, the alerts are not: the log is read again and nothing is told twice.
    let db = Connection::open(node.dir.path().join("trail.db")).unwrap();
    db.execute_batch("DELETE FROM engine; DELETE FROM tails; DELETE FROM subtrees;").unwrap();
    drop(db);
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    until(&trail, end).await;
    trail.shutdown().await.unwrap();
    assert_eq!(node.alerts(), before);

    for file in ["trail.db", "trail.db-wal", "trail.db-shm"] {
        std::fs::remove_file(node.dir.path().join(file)).unwrap_or_default();
    }
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    until(&trail, end).await;
    trail.shutdown().await.unwrap();
    assert_eq!(ids(&node.alerts()), ids(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_wait_for_a_checkpoint_and_nothing_is_lost_by_a_stop_meanwhile() {
    let node = Node::new();
    let signs = node.signs(Mood::Away);
    let trail = Trail::start(node.config(&signs)).await.unwrap();
    let mut snapshots = trail.snapshots();
    node.call(&fixture("disable-key")).await;
    node.quiet(10).await;
    // Landing goes on while the alert waits.
    let landed = |snapshot: &Arc<Snapshot>| snapshot.tail().map(|batch| batch.num_rows()).sum::<usize>() >= 11;
    tokio::time::timeout(Duration::from_secs(60), snapshots.wait_for(landed)).await.unwrap().unwrap();
    assert!(node.alerts().is_empty());
    trail.shutdown().await.unwrap();
    assert!(node.alerts().is_empty());

    let trail = Trail::start(node.config(&signs)).await.unwrap();
    *signs.mood.lock() = Mood::Honest;
    until_alerts(&trail, 1).await;
    assert_eq!(rules_of(&node.alerts()), ["key-disabled"]);
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_tells_another_story_is_the_finding() {
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Lying))).await.unwrap();
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 2).await;
    let alerts = node.alerts();
    assert_eq!(rules_of(&alerts), ["audit-chain-gap", "audit-chain-gap"]);
    let findings: Vec<_> = alerts.iter().map(|alert| alert.row_text("finding")).collect();
    assert_eq!(findings, [Some("checkpoint-mismatch"), Some("unproved")]);
    assert!(alerts[1].row_text("detail").unwrap().contains("key-disabled"));
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_checkpoint_is_a_finding_and_holds_the_alert_up_no_longer_than_it_lasts() {
    let node = Node::new();
    let signs = node.signs(Mood::Forged);
    let trail = Trail::start(node.config(&signs)).await.unwrap();
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    *signs.mood.lock() = Mood::Honest;
    until_alerts(&trail, 2).await;
    let alerts = node.alerts();
    assert_eq!(rules_of(&alerts), ["audit-chain-gap", "key-disabled"]);
    assert_eq!(alerts[0].row_text("finding"), Some("checkpoint-forged"));
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_below_what_was_read_is_a_rollback() {
    struct Short(SigningKey);
    #[async_trait]
    impl CheckpointSource for Short {
        async fn checkpoint(&self, _: LogId, _: u64) -> Result<String, CheckpointError> {
            let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 0, root: RootHash([0; 32]) };
            Ok(self.0.sign(&checkpoint).unwrap())
        }
    }
    let node = Node::new();
    let key = SigningKey::generate(ORIGIN).unwrap().0;
    let watched = WatchedLog { signer: key.verify_key().clone().into(), ..node.watched() };
    let config = node.config(&node.signs(Mood::Honest));
    let config = TrailConfig { logs: vec![watched], checkpoints: Arc::new(Short(key)), ..config };
    let trail = Trail::start(config).await.unwrap();
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    assert_eq!(node.alerts()[0].row_text("finding"), Some("rollback"));
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_rule_set_is_refused_and_the_running_one_stays() {
    let node = Node::new();
    let rules = node.dir.path().join("rules");
    for folder in ["kms", "meta", "fixtures"] {
        std::fs::create_dir_all(rules.join(folder)).unwrap();
        for entry in std::fs::read_dir(fixtures().join(folder)).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), rules.join(folder).join(entry.file_name())).unwrap();
        }
    }
    let config = TrailConfig { rules_dir: rules.clone(), ..node.config(&node.signs(Mood::Honest)) };
    let trail = Trail::start(config).await.unwrap();
    let path = rules.join("kms/key-disabled.sql");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("'DisableKey'", "'EnableKey'")).unwrap();
    let Err(ReloadError::Refused(error)) = trail.reload().await else {
        panic!("a rule that fails its tests was loaded")
    };
    assert!(error.problems.iter().all(|problem| problem.file == "kms/key-disabled.sql" && problem.line > 1));
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    std::fs::write(&path, good.replace("version = 2", "version = 3")).unwrap();
    let shipped = ["kms", "meta"].map(|pack| std::fs::read_dir(rules.join(pack)).unwrap().count());
    assert_eq!(trail.reload().await.unwrap(), shipped.iter().sum::<usize>());
    node.clock.advance(Duration::from_secs(120));
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 2).await;
    let versions: Vec<u32> = node.alerts().iter().map(|alert| alert.rule_version).collect();
    assert_eq!(versions, [2, 3]);
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_beside_a_running_trail_is_judged_and_proved_under_the_imports_key() {
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    let files = node.dir.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let put = |name: &str, records: &[Value]| {
        std::fs::write(files.join(name), json!({ "Records": records }).to_string()).unwrap();
    };
    let import = || {
        let source = crate::import::Source::Local(files.clone());
        crate::import::import(node.dir.path(), "aws", source, node.clock.clone(), Arc::default())
    };
    // As AWS writes them: without what only we record. One tells of long ago.
    let foreign = |name: &str, id: &str, time: &str| {
        let mut record = fixture(name);
        record.as_object_mut().unwrap().remove("additionalEventData");
        record["eventID"] = id.into();
        record["eventTime"] = time.into();
        record
    };
    put(
        "1.json",
        &[foreign("disable-key", "e-1", "2025-11-05T11:59:00Z"), foreign("disable-key", "e-2", "2026-01-05T11:59:00Z")],
    );
    import().await.unwrap();
    until_alerts(&trail, 1).await;
    put("2.json", &[foreign("schedule-key-deletion", "e-3", "2026-01-05T11:59:30Z")]);
    import().await.unwrap();
    until_alerts(&trail, 2).await;
    let alerts = node.alerts();
    assert_eq!(rules_of(&alerts), ["key-disabled", "key-deletion-scheduled"]);
    assert!(alerts.iter().all(|alert| alert.origin.starts_with("keytrail-import/aws-")), "{alerts:?}");
    assert_eq!(alerts[0].evidence.iter().map(|evidence| evidence.seq).collect::<Vec<_>>(), [1]);
    assert_eq!(trail.status().borrow().positions.len(), 0, "positions are of our own logs");
    // Our own log is judged as before, also after a restart, which finds nothing to tell in the import.
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 3).await;
    trail.shutdown().await.unwrap();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    put("3.json", &[foreign("delete-key-material", "e-4", "2026-01-05T11:59:40Z")]);
    import().await.unwrap();
    until_alerts(&trail, 1).await;
    trail.shutdown().await.unwrap();
    // By the way, several rules tell of the key by now.
    let alerts = node.alerts();
    assert_eq!(alerts[3].rule_id, "key-material-deleted");
    assert!(alerts[3..].iter().skip(1).all(|alert| alert.rule_id == "entity-risk"), "{:?}", rules_of(&alerts));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_stands_still_is_told_as_long_as_it_does() {
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    node.quiet(1).await;
    until(&trail, |status| status.positions.values().any(|&position| position == 1)).await;
    let mut status = trail.status();
    let told = async {
        while status.borrow_and_update().alerts == 0 {
            node.clock.advance(Duration::from_secs(11));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
    trail.shutdown().await.unwrap();
    let alerts = node.alerts();
    assert!(rules_of(&alerts).iter().all(|rule| *rule == "audit-lag"), "{:?}", rules_of(&alerts));
    assert!(alerts[0].row["value"].as_u64().unwrap() >= 60, "{:?}", alerts[0].row);
    assert_eq!(alerts[0].row["first_seq"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_says_why_and_what_its_entity_has_and_several_rules_are_a_finding() {
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    node.call(&fixture("disable-key")).await;
    node.call(&fixture("put-key-policy-public")).await;
    node.call(&fixture("schedule-key-deletion")).await;
    // The same table that the responder reads; verifying all of it each time would take longer than the rest.
    let found = || {
        let db = Connection::open(node.dir.path().join("trail.db")).unwrap();
        let sql = "SELECT count(*) FROM alerts WHERE json_extract(CAST(json AS TEXT), '$.ruleId') = 'entity-risk'";
        db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() > 0
    };
    let mut status = trail.status();
    tokio::time::timeout(Duration::from_secs(60), async {
        while !found() {
            status.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    trail.shutdown().await.unwrap();
    let alerts = node.alerts();
    let of = |rule: &str| alerts.iter().find(|alert| alert.rule_id == rule).unwrap();
    let first = of("key-disabled");
    assert_eq!(first.counts, Some(crate::alert::Counts::default()));
    // Of what landed together with it, other rules may have told before.
    assert_eq!(first.risk.iter().map(|risk| risk.kind.as_str()).collect::<Vec<_>>(), ["principal", "key"]);
    assert!(first.risk.iter().all(|risk| (1..=4).contains(&risk.rules)), "{:?}", first.risk);
    let sequence = of("policy-then-destroy").why.clone().unwrap();
    assert_eq!(sequence.steps.len(), 2, "{sequence:?}");
    assert!(sequence.text.contains(", then "), "{sequence:?}");
    let risk = of("entity-risk");
    assert!(risk.row["value"].as_u64().unwrap() >= 100 && risk.row["rules"].as_u64().unwrap() >= 3, "{:?}", risk.row);
    assert!(alerts.iter().all(|alert| alert.queries.len() == 3 && !alert.why.clone().unwrap().text.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_about_a_key_in_use_asks_who_depends_on_it() {
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    for name in ["app", "app", "batch"] {
        let mut decrypt = fixture("decrypt");
        decrypt["userIdentity"]["arn"] = format!("arn:aws:iam::111122223333:user/{name}").into();
        node.call(&decrypt).await;
    }
    let mut denied = fixture("decrypt");
    denied["userIdentity"]["arn"] = "arn:aws:iam::111122223333:user/denied".into();
    denied["errorCode"] = "AccessDenied".into();
    node.call(&denied).await;
    node.call(&fixture("disable-key")).await;
    let found = || node.alerts().into_iter().find(|alert| alert.rule_id == "deletion-of-key-in-use");
    let mut status = trail.status();
    let alert = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match found() {
                Some(alert) => break alert,
                None => status.changed().await.unwrap(),
            }
        }
    });
    let alert = alert.await.unwrap();
    let session = crate::query::session(&trail.snapshots().borrow(), &crate::query::Limits::default(), None).unwrap();
    let batches = session.sql(&alert.queries[0]).await.unwrap().collect().await.unwrap();
    let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    for told in [
        ["user/app ", " Decrypt ", " 2 "],
        ["user/batch ", " Decrypt ", " 1 "],
        ["user/administrator ", " DisableKey ", " 1 "],
    ] {
        assert!(text.lines().any(|line| told.iter().all(|part| line.contains(part))), "{told:?} in {text}");
    }
    assert!(!text.contains("user/denied"), "{text}");
    trail.shutdown().await.unwrap();
}

/// The rules that ship, with an exception for somebody's DisableKey until a time.
fn rules_with_exception(dir: &Path, expires: &str) -> PathBuf {
    let rules = dir.join("rules-with-exception");
    for folder in ["kms", "meta", "fixtures", "exceptions"] {
        std::fs::create_dir_all(rules.join(folder)).unwrap();
        for entry in std::fs::read_dir(fixtures().join(folder)).into_iter().flatten().map(Result::unwrap) {
            std::fs::copy(entry.path(), rules.join(folder).join(entry.file_name())).unwrap();
        }
    }
    let text = format!(
        "rules = [\"key-disabled\"]\npredicate = \"principal_arn = 'arn:aws:iam::111122223333:user/deploy'\"\nowner = \"sec\"\n\
         ticket = \"T-1\"\nreason = \"teardown of test keys\"\ncreated = \"2026-01-01T00:00:00Z\"\nexpires = \"{expires}\"\n"
    );
    std::fs::write(rules.join("exceptions/deploy.toml"), text).unwrap();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_mutes_until_its_end_and_is_counted_and_watched() {
    let node = Node::new();
    let now = chrono::DateTime::from_timestamp_micros(i64::try_from(node.clock.now_us()).unwrap()).unwrap();
    let expires = (now + chrono::TimeDelta::hours(2)).to_rfc3339();
    let created = (now - chrono::TimeDelta::days(2)).to_rfc3339();
    let rules = rules_with_exception(node.dir.path(), &expires);
    let path = rules.join("exceptions/deploy.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("2026-01-01T00:00:00Z", &created);
    std::fs::write(&path, &text).unwrap();
    let config = TrailConfig { rules_dir: rules, ..node.config(&node.signs(Mood::Honest)) };
    let trail = Trail::start(config).await.unwrap();
    let mut deploy = fixture("disable-key");
    deploy["userIdentity"]["arn"] = "arn:aws:iam::111122223333:user/deploy".into();
    node.call(&deploy).await;
    node.call(&fixture("disable-key")).await;
    until_alerts(&trail, 1).await;
    let principals = |alerts: &[Alert]| -> Vec<String> {
        let disabled = alerts.iter().filter(|alert| alert.rule_id == "key-disabled");
        disabled.map(|alert| alert.row_text("principal_arn").unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(principals(&node.alerts()), ["administrator"]);
    let snapshot = trail.snapshots().borrow().clone();
    let limits = crate::query::Limits::default();
    let session = crate::query::session(&snapshot, &limits, Some(node.dir.path().join("trail.db"))).unwrap();
    let hits = session.sql("SELECT hits FROM exceptions WHERE exception_id = 'deploy' AND loaded").await.unwrap();
    let hits = hits.collect().await.unwrap();
    let hits = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(hits[0].column(0)).value(0);
    assert_eq!(hits, 1);
    // Changed shortly before it mutes: told, and muted all the same.
    std::fs::write(&path, text.replace("teardown of test keys", "another reason")).unwrap();
    trail.reload().await.unwrap();
    node.clock.advance(Duration::from_secs(120));
    node.call(&deploy).await;
    until_alerts(&trail, 2).await;
    assert_eq!(node.alerts()[1].row_text("finding"), Some("exception-young"));
    // After its end: raised, and told that it still matches.
    node.clock.advance(Duration::from_secs(3 * 60 * 60));
    node.call(&deploy).await;
    // Other findings may come between: nobody landed anything for three hours.
    let told = async {
        loop {
            let alerts = node.alerts();
            let over = alerts.iter().any(|alert| alert.row_text("finding") == Some("exception-expired"));
            if over && principals(&alerts) == ["administrator", "deploy"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
    trail.shutdown().await.unwrap();
}

/// A folder of rules of kind posture alone: that which ships, and one that cannot be run to its end.
fn posture_rules(dir: &Path) -> PathBuf {
    let rules = dir.join("posture-rules");
    for (folder, files) in [
        ("posture", &["key-without-owner.sql"][..]),
        ("meta", &["rule-health.sql", "audit-chain-gap.sql"]),
        ("fixtures", &["put-key-policy.json", "integrity.json"]),
    ] {
        std::fs::create_dir_all(rules.join(folder)).unwrap();
        for file in files {
            std::fs::copy(fixtures().join(folder).join(file), rules.join(folder).join(file)).unwrap();
        }
    }
    let too_many = std::fs::read_to_string(rules.join("posture/key-without-owner.sql")).unwrap();
    let too_many = too_many.replace("key-without-owner", "too-many").replace("FROM keys k", "FROM keys k, events");
    std::fs::write(rules.join("posture/too-many.sql"), too_many).unwrap();
    rules
}

#[tokio::test(flavor = "multi_thread")]
async fn posture_is_looked_at_on_its_schedule_and_a_run_that_is_cut_is_told() {
    let node = Node::new();
    let config = TrailConfig { rules_dir: posture_rules(node.dir.path()), ..node.config(&node.signs(Mood::Honest)) };
    let trail = Trail::start(config).await.unwrap();
    node.call(&fixture("put-key-policy")).await;
    // More pairs of key and event than a run may find.
    node.quiet(1_100).await;
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_101).await;
    assert!(node.alerts().is_empty(), "nobody looks yet");
    node.clock.advance(Duration::from_secs(11 * 60));
    until_alerts(&trail, 2).await;
    let alerts = node.alerts();
    let of = |rule: &str| alerts.iter().find(|alert| alert.rule_id == rule).unwrap();
    let owner = of("key-without-owner");
    assert_eq!((owner.rule_kind.as_str(), owner.evidence.len()), ("posture", 0));
    assert_eq!(owner.row["as_of"][owner.log.as_str()], 1_101);
    let cut = of("rule-health").row_text("detail").unwrap();
    assert!(cut.contains("too-many") && cut.contains("more than 1000 rows"), "{cut}");
    // The next looks find the same: nothing to tell, until the key has an owner and then none again.
    let mut owned = fixture("put-key-policy");
    owned["additionalEventData"]["after"]["tags"] = json!({ "owner": "payroll" });
    node.call(&owned).await;
    node.clock.advance(Duration::from_secs(2 * 60 * 60));
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_102).await;
    trail.shutdown().await.unwrap();
    let told = rules_of(&alerts).len();
    assert_eq!(node.alerts().iter().filter(|alert| alert.rule_id == "key-without-owner").count(), 1, "{told}");
}

/// Frames as a broker would bring them: each once, then nothing.
struct Brings(Vec<SourceFrame>, Arc<Mutex<u64>>);

#[async_trait]
impl FrameSource for Brings {
    async fn next(&mut self, frames_max: usize) -> Result<Vec<SourceFrame>, SourceError> {
        if self.0.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let count = self.0.len().min(frames_max);
        Ok(self.0.drain(..count).collect())
    }

    async fn committed(&mut self, _: LogId, next_seq: u64) -> Result<(), SourceError> {
        *self.1.lock() = next_seq;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_by_the_next_key_prove_what_follows_its_record() {
    let node = Node::new();
    node.call(&fixture("disable-key")).await;
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    until_alerts(&trail, 1).await;
    node.rotate().await;
    node.call(&fixture("schedule-key-deletion")).await;
    until_alerts(&trail, 2).await;
    let alerts = node.alerts();
    assert!(alerts.iter().all(|alert| alert.rule_kind != "meta" && !alert.evidence.is_empty()), "{alerts:?}");
    // A stranger's transition is a finding, and is not followed.
    let stranger = |seed| SigningKey::from_seed(ORIGIN, &[seed; 32]).unwrap();
    let size = node.journal.head().size;
    let forged = KeyTransition::sign(&stranger(1), &stranger(2), size, &node.journal.head().root).to_json();
    node.journal.append(Draft::new(Kind::KeyTransition, forged.into()).unwrap()).unwrap().await.unwrap();
    until_alerts(&trail, 3).await;
    trail.shutdown().await.unwrap();
    assert_eq!(node.alerts()[2].row_text("finding"), Some("key-forged"));
}

/// The node as the gap fetcher knows it.
struct FromJournal(PathBuf);

#[async_trait]
impl GapFetcher for FromJournal {
    async fn fetch(&self, _: LogId, first: u64, count: u64) -> Result<Vec<Frame>, FetchError> {
        let frames = Reader::open(&self.0, first).and_then(|mut reader| reader.next(usize::try_from(count).unwrap()));
        frames.map_err(|error| FetchError(Box::new(error)))
    }
}

/// A trail behind a broker that brings frames and notes, and the seq below which it told the broker to forget.
struct Behind<'a> {
    node: &'a Node,
    signs: Arc<Signs>,
    committed: Arc<Mutex<u64>>,
}

impl<'a> Behind<'a> {
    fn new(node: &'a Node, mood: Mood) -> Self {
        Self { node, signs: node.signs(mood), committed: Arc::default() }
    }

    fn frames(&self) -> Vec<Frame> {
        Reader::open(&self.node.dir.path().join("journal"), 0).unwrap().next(1_000).unwrap()
    }

    /// The node's own note over all it has.
    fn note(&self) -> String {
        self.node.signer.sign_newest(self.node.journal.as_ref()).unwrap()
    }

    async fn start(&self, frames: Vec<Frame>, notes: Vec<String>) -> RunningTrail {
        self.start_watching(self.node.watched(), frames, notes).await
    }

    async fn start_watching(&self, watched: WatchedLog, frames: Vec<Frame>, notes: Vec<String>) -> RunningTrail {
        let log = LogId::of_origin(ORIGIN);
        let brings = frames.into_iter().map(|frame| SourceFrame { log, frame }).collect();
        let committed = self.committed.clone();
        let dir = self.node.dir.path();
        let config = TrailConfig {
            logs: vec![WatchedLog { frames: dir.join("spool"), spool: true, ..watched }],
            source: Box::new(move |_| Ok(Box::new(Brings(brings, committed)))),
            notes: Some(Box::new(move |_| {
                let (sender, receiver) = mpsc::channel(64);
                notes.into_iter().for_each(|note| sender.try_send(note).unwrap());
                Ok(receiver)
            })),
            fetcher: Some(Arc::new(FromJournal(dir.join("journal")))),
            ..self.node.config(&self.signs)
        };
        Trail::start(config).await.unwrap()
    }

    async fn until_committed(&self, next_seq: u64) {
        let reached = async {
            while *self.committed.lock() < next_seq {
                // Between two fetches from the node is a pause.
                self.node.clock.advance(Duration::from_millis(100));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_broker_the_record_of_the_next_key_is_proved_by_that_key() {
    let node = Node::new();
    node.quiet(3).await;
    let first = read_keys(&node.dir.path().join("checkpoints"), None).unwrap();
    let behind = Behind::new(&node, Mood::Away);
    let before = behind.note();
    node.rotate().await;
    let seq = node.call(&fixture("disable-key")).await;
    let notes = vec![before, behind.note()];
    // A machine of its own: it was given the first key, and keeps what it learns.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("vkey"), format!("{}\n", first.current())).unwrap();
    let watched = WatchedLog { signer: first, checkpoints: elsewhere.path().to_owned(), ..node.watched() };
    let running = behind.start_watching(watched.clone(), behind.frames(), notes).await;
    behind.until_committed(seq + 1).await;
    running.shutdown().await.unwrap();
    assert_eq!(node.alerts().len(), 1);
    let kept = read_keys(elsewhere.path(), Some(watched.signer.current())).unwrap();
    assert_eq!(kept.current(), &node.signer.verify_key());
    // The next start has only notes under the new key.
    let later = node.call(&fixture("disable-key")).await;
    let watched = WatchedLog { signer: kept, ..watched };
    let running = behind.start_watching(watched, behind.frames(), vec![behind.note()]).await;
    behind.until_committed(later + 1).await;
    running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_broker_records_wait_for_a_checkpoint_and_a_restart_needs_no_broker() {
    let node = Node::new();
    node.quiet(300).await;
    node.call(&fixture("disable-key")).await;
    let behind = Behind::new(&node, Mood::Away);
    // A stranger's note proves nothing.
    let stranger = Checkpoint { origin: ORIGIN.into(), size: 301, root: node.journal.head().root };
    let stranger = SigningKey::generate(ORIGIN).unwrap().0.sign(&stranger).unwrap();
    let trail = behind.start(behind.frames(), vec![stranger, "no note".to_owned()]).await;
    trail.shutdown().await.unwrap();
    assert_eq!(*behind.committed.lock(), 0, "nothing is kept that no checkpoint covers");
    assert!(node.alerts().is_empty());

    let trail = behind.start(behind.frames(), vec![behind.note()]).await;
    until_alerts(&trail, 1).await;
    behind.until_committed(301).await;
    trail.shutdown().await.unwrap();
    assert_eq!(rules_of(&node.alerts()), ["key-disabled"]);

    // The rules begin anew from the spool; their checkpoint comes from the node.
    std::fs::remove_file(node.dir.path().join("trail.db")).unwrap();
    *behind.signs.mood.lock() = Mood::Honest;
    let trail = behind.start(Vec::new(), Vec::new()).await;
    until_alerts(&trail, 1).await;
    assert_eq!(rules_of(&node.alerts()), ["key-disabled"]);
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn records_linked_ahead_of_the_genuine_ones_are_found_out_and_detection_goes_on() {
    let node = Node::new();
    node.quiet(20).await;
    let behind = Behind::new(&node, Mood::Away);
    let mut frames = behind.frames();
    let proved = behind.note();
    // Somebody who reads the topic knows the last link and writes first.
    let position = Position { next_seq: 20, link: frames[19].link() };
    let mut forged = position;
    for _ in 0..5 {
        let payload = fixture("put-key-policy-public").to_string();
        let frame = frame(forged.next_seq, forged.link, payload.into(), Kind::Event);
        forged = Position { next_seq: forged.next_seq + 1, link: frame.link() };
        frames.push(frame);
    }
    node.call(&fixture("disable-key")).await;
    node.quiet(10).await;
    frames.extend(behind.frames().split_off(20));
    let mut trail = behind.start(frames, vec![proved, behind.note()]).await;
    tokio::select! {
        error = trail.ended() => panic!("{error:?}"),
        () = behind.until_committed(31) => {}
    }
    until(&trail, |status| status.positions.values().all(|position| *position == 31)).await;
    let alerts = node.alerts();
    let mut rules = rules_of(&alerts);
    rules.sort_unstable();
    rules.dedup();
    assert_eq!(rules, ["audit-chain-gap", "key-disabled"], "nothing of what was forged");
    trail.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rules_and_a_missing_journal_stop_the_start() {
    let node = Node::new();
    let signs = node.signs(Mood::Honest);
    let config = TrailConfig { rules_dir: node.dir.path().join("nothing"), ..node.config(&signs) };
    assert!(matches!(Trail::start(config).await, Err(TrailError::Rules(_))));
    let missing = node.dir.path().join("missing");
    let source: SourceOpener = Box::new(move |_| Ok(Box::new(JournalSource::open(&missing, 0)?)));
    assert!(matches!(Trail::start(TrailConfig { source, ..node.config(&signs) }).await, Err(TrailError::Source(_))));
}

/// Rules of kind posture that cost too much, each beyond one of its limits, beside the ones that ship.
fn costly_rules(dir: &Path) -> PathBuf {
    let rules = posture_rules(dir);
    std::fs::remove_file(rules.join("posture/too-many.sql")).unwrap();
    std::fs::create_dir_all(rules.join("kms")).unwrap();
    for file in [
        "kms/key-disabled.sql",
        "kms/responder-without-action.sql",
        "fixtures/decrypt.json",
        "fixtures/describe-key.json",
        "fixtures/disable-key.json",
        "fixtures/put-quarantine.json",
        "fixtures/schedule-key-deletion.json",
        "fixtures/responder-disable-key.json",
    ] {
        std::fs::copy(fixtures().join(file), rules.join(file)).unwrap();
    }
    let shipped = std::fs::read_to_string(rules.join("posture/key-without-owner.sql")).unwrap();
    for (id, limits, from) in [
        // A row at last, after hours: its own test has one event.
        (
            "planted-join",
            "time_ms = 1000",
            "FROM keys k JOIN (SELECT count(*) AS n FROM events a JOIN events b ON a.seq + b.seq >= 0 \
             JOIN events c ON a.seq + b.seq + c.seq >= 0) j ON j.n > 0",
        ),
        ("many-rows", "rows = 5", "FROM keys k, events"),
        (
            "much-memory",
            "memory_mb = 1",
            "FROM keys k JOIN (SELECT array_length(array_agg(repeat(event_name, 2000))) AS n FROM events) e ON e.n > 0",
        ),
    ] {
        let text = shipped.replace("key-without-owner", id).replace("FROM keys k", from);
        let text = text.replace("-- schedule", &format!("-- limits = {{ {limits} }}\n-- schedule"));
        std::fs::write(rules.join(format!("posture/{id}.sql")), text).unwrap();
    }
    rules
}

/// What is in `rule_runs` of a rule: failed runs, and the last error.
async fn runs_of(node: &Node, trail: &RunningTrail, rule: &str) -> (i64, String) {
    let snapshot = trail.snapshots().borrow().clone();
    let limits = crate::query::Limits::default();
    let session = crate::query::session(&snapshot, &limits, Some(node.dir.path().join("trail.db"))).unwrap();
    let sql = format!(
        "SELECT coalesce(sum(failed), 0) AS failed, coalesce(max(error), '') AS error FROM rule_runs WHERE rule_id = '{rule}'"
    );
    let rows = session.sql(&sql).await.unwrap().collect().await.unwrap();
    let failed = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(rows[0].column(0)).value(0);
    let error = arrow::util::display::array_value_to_string(rows[0].column(1), 0).unwrap();
    (failed, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posture_rule_beyond_a_limit_is_stopped_and_told_while_records_land_and_the_others_fire() {
    let node = Node::new();
    let config = TrailConfig { rules_dir: costly_rules(node.dir.path()), ..node.config(&node.signs(Mood::Honest)) };
    let trail = Trail::start(config).await.unwrap();
    node.call(&fixture("put-key-policy")).await;
    node.quiet(1_100).await;
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_101).await;
    // From here on the rules look, one after the other.
    node.clock.advance(Duration::from_secs(11 * 60));
    for _ in 0..5 {
        node.quiet(40).await;
        node.call(&fixture("disable-key")).await;
    }
    // All of it lands; key-disabled, key-without-owner and three times rule-health tell.
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_101 + 205).await;
    until_alerts(&trail, 5).await;
    let mut stopped = Vec::new();
    for (rule, reason) in [
        ("planted-join", "query took longer than 1000 ms"),
        ("many-rows", "query returns more than 5 rows"),
        ("much-memory", "Resources exhausted"),
    ] {
        // The row is written with the state, a little later.
        let told = async {
            loop {
                let (failed, error) = runs_of(&node, &trail, rule).await;
                if failed > 0 {
                    return (failed, error);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
        assert_eq!(told.0, 1, "{rule}");
        assert!(told.1.starts_with("rule-failed: ") && told.1.contains(reason), "{rule}: {}", told.1);
        stopped.push(rule);
    }
    assert_eq!(runs_of(&node, &trail, "key-without-owner").await, (0, String::new()));
    trail.shutdown().await.unwrap();
    let alerts = node.alerts();
    let told = rules_of(&alerts);
    assert!(told.contains(&"key-disabled") && told.contains(&"key-without-owner"), "{told:?}");
    let health: Vec<&str> = alerts
        .iter()
        .filter(|alert| alert.rule_id == "rule-health")
        .filter_map(|alert| alert.row_text("detail"))
        .collect();
    assert!(stopped.iter().all(|rule| health.iter().any(|detail| detail.contains(rule))), "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analysts_planted_join_is_stopped_while_records_land_and_rules_fire() {
    use crate::serve::tests::{FakeLog, PASSWORD};
    use crate::serve::{Door, Doors, Outcome, Users, Who, users};
    let node = Node::new();
    let trail = Trail::start(node.config(&node.signs(Mood::Honest))).await.unwrap();
    node.quiet(1_100).await;
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_100).await;
    users::add_user(node.dir.path(), "alice", PASSWORD, None).unwrap();
    let (log, memory) = (Arc::<FakeLog>::default(), crate::query::SharedMemory::new(1 << 30));
    let users = Users::open(node.dir.path()).unwrap();
    let doors = Doors::new(users, trail.snapshots(), node.dir.path().join("trail.db"), log.clone(), 4, memory);
    let who = Who {
        user: "alice".to_owned(),
        door: Door::Postgres,
        client_address: "192.0.2.1:9".to_owned(),
        application: String::new(),
    };
    let planted = "SELECT count(*) FROM events a, events b, events c WHERE a.seq + b.seq + c.seq = -1";
    let asked = doors.users().user("alice").map(|user| doors.enter(user, who).unwrap()).unwrap();
    let asking = tokio::spawn(async move {
        let timeout = Some(Duration::from_secs(2));
        let mut answer = asked.run(planted, timeout, crate::query::Cancel::new()).await?;
        while let Some(batch) = answer.next().await {
            batch?;
        }
        Ok::<_, crate::serve::QueryError>(())
    });
    for _ in 0..5 {
        node.quiet(40).await;
        node.call(&fixture("disable-key")).await;
    }
    until(&trail, |status| status.positions.values().sum::<u64>() == 1_100 + 205).await;
    until_alerts(&trail, 1).await;
    let ended = asking.await.unwrap().unwrap_err();
    assert_eq!(ended.outcome(), Outcome::Deadline, "{ended:?}");
    assert_eq!(log.outcomes(), ["deadline"]);
    trail.shutdown().await.unwrap();
    assert!(rules_of(&node.alerts()).contains(&"key-disabled"));
}
