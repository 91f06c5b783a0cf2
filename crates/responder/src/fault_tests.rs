//! What goes wrong around a responder: a locked or full store, a clock that jumps, a position that goes back, playbooks
//! that are changed or broken under it. Nothing is lost, nothing is done twice, and nothing is done early.
#![allow(clippy::unwrap_used)]

use crate::incident;
use crate::journey_tests::until;
use crate::notify::queue;
use crate::outbox::ActionState;
use crate::playbook::{Playbook, Severity};
use crate::service::{Responder, RunLock, RunningResponder};
use crate::store::{self, StoreError};
use crate::testing::{self, Bench, EventBuilder, FakeKms, TrailDb, event, key_arn, playbook_of, principal_arn};
use keytrail_kms::clock::FakeClock;
use keytrail_trail::alert::SignedAlert;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The clock of the fixtures, two seconds on.
const STARTED_US: u64 = FakeClock::START_US + 2_000_000;
const DAY_US: u64 = 86_400_000_000;

struct Rig {
    dir: tempfile::TempDir,
    bench: Bench,
    trail: TrailDb,
    kms: Arc<FakeKms>,
    clock: Arc<FakeClock>,
    playbooks: Vec<Playbook>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        let kms = FakeKms::open(&dir.path().join("effects"));
        kms.set_key("k1", "Enabled", true);
        kms.set_key("k2", "Enabled", true);
        let clock = Arc::new(FakeClock::new(STARTED_US));
        let playbooks = vec![playbook_of("opened", "key-policy-public", r#"{ action = "disable_key" }"#)];
        Self { dir, bench, trail, kms, clock, playbooks }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn alert(&self, key: &str) -> SignedAlert {
        let number = key[1..].parse().unwrap();
        let opened: EventBuilder = event("PutKeyPolicy").id(key).by("mallory").on_key(key).opened("e0");
        self.bench.alert("key-policy-public", vec![opened]).severity(Severity::High).bucket(number).signed()
    }

    fn push(&self, key: &str) {
        self.trail.push(&self.alert(key));
    }

    fn start(&self) -> RunningResponder {
        let parts = testing::parts(self.path(), Arc::<FakeKms>::clone(&self.kms), self.playbooks.clone());
        let lock = RunLock::take(self.path()).unwrap();
        Responder::start_parts(parts, lock, Arc::<FakeClock>::clone(&self.clock)).unwrap()
    }

    fn count(&self, sql: &str) -> i64 {
        let db = Connection::open(self.path().join("responder.db")).unwrap();
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn states(&self) -> Vec<ActionState> {
        let list = incident::list(self.path(), 9).unwrap();
        let details = list.iter().map(|one| incident::show(self.path(), one.id.as_str()).unwrap().unwrap());
        details.flat_map(|detail| detail.actions.into_iter().map(|action| action.state)).collect()
    }

    async fn done(&self, actions: usize) {
        until("all is done", || self.states() == vec![ActionState::Done; actions]).await;
    }

    fn disabled(&self) -> Vec<(String, String)> {
        self.kms.effects().into_iter().filter(|(call, _)| call == "DisableKey").collect()
    }

    /// A responder whose one action was put off, since the key service could not be reached, until the clock moves.
    async fn put_off(&self) -> RunningResponder {
        self.kms.unreachable_for(u32::MAX);
        self.push("k1");
        let responder = self.start();
        let waits = "SELECT count(*) FROM actions WHERE state = 'ready' AND next_attempt_us > planned_us";
        until("it was tried", || self.count(waits) == 1).await;
        self.kms.unreachable_for(0);
        responder
    }

    fn looks(&self) -> usize {
        self.kms.calls().iter().filter(|call| *call == "DescribeKey").count()
    }
}

fn disables(keys: &[&str]) -> Vec<(String, String)> {
    keys.iter().map(|key| ("DisableKey".to_owned(), key_arn(key))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_store_makes_actions_wait_and_loses_none() {
    let rig = Rig::new();
    let responder = rig.put_off().await;
    // What another process may do for longer than this one waits for it.
    responder.store().read_now(|db| Ok(db.busy_timeout(Duration::from_millis(20))?)).unwrap();
    let other = Connection::open(rig.path().join("responder.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    rig.push("k2");
    rig.clock.advance(Duration::from_secs(60));
    let before = rig.looks();
    until("it has looked again and again", || rig.looks() > before + 2).await;
    assert!(rig.disabled().is_empty(), "no call without its lease");
    assert_eq!(rig.count("SELECT count(*) FROM alerts"), 1);
    other.execute_batch("ROLLBACK").unwrap();
    rig.done(2).await;
    responder.shutdown().await;
    assert_eq!(rig.disabled(), disables(&["k1", "k2"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_nothing_in_by_halves_and_goes_on_when_there_is_room() {
    let rig = Rig::new();
    let responder = rig.start();
    let limit = |pages: i64| {
        responder.store().read_now(|db| Ok(db.pragma_update(None, "max_page_count", pages)?)).unwrap();
    };
    let pages = rig.count("PRAGMA page_count");
    limit(pages);
    let fill = |bytes: usize| {
        responder.store().write_now(|tx| {
            for table in [
                "refused(at_us, source, position, reason) VALUES (1, 's', 1, ?1)",
                "counts(name, value) VALUES (?1, 1)",
            ] {
                tx.execute(&format!("INSERT INTO {table}"), ["x".repeat(bytes)])?;
            }
            Ok(())
        })
    };
    let full = fill(100_000);
    assert!(
        matches!(&full, Err(StoreError::Sql(error)) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)),
        "{full:?}"
    );
    let keys: Vec<String> = (0..24).map(|number| format!("f{number}")).collect();
    keys.iter().for_each(|key| rig.kms.set_key(key, "Enabled", true));
    rig.trail.push_all(&keys.iter().map(|key| rig.alert(key)).collect::<Vec<_>>());
    until("intake has asked what it needs", || rig.kms.asked_for_changes() > 0).await;
    assert!(fill(100_000).is_err(), "still full");
    assert_eq!(rig.count("SELECT count(*) FROM alerts"), 0);
    assert_eq!(rig.count("SELECT coalesce(max(next), 1) FROM positions"), 1, "the position stays before them");
    assert!(rig.disabled().is_empty());
    limit(1_000_000);
    until("all were taken in", || rig.count("SELECT count(*) FROM alerts") == 24).await;
    until("all have ended", || rig.states().iter().all(|state| state.is_final())).await;
    responder.shutdown().await;
    // The breaker lets three through.
    assert_eq!(rig.disabled().len(), 3);
    assert_eq!(rig.count("SELECT count(*) FROM actions"), 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_a_day_makes_nothing_wait_for_a_day() {
    let rig = Rig::new();
    let responder = rig.put_off().await;
    until("the time was kept", || rig.count("SELECT count(*) FROM meta WHERE key = 'clock_us'") == 1).await;
    rig.clock.set(STARTED_US - DAY_US);
    let ahead = format!("SELECT count(*) FROM actions WHERE next_attempt_us > {}", STARTED_US - DAY_US + 60_000_000);
    until("its wait was moved", || rig.count(&ahead) == 0).await;
    assert!(rig.disabled().is_empty(), "not early");
    rig.clock.advance(Duration::from_secs(60));
    rig.done(1).await;
    responder.shutdown().await;
    assert_eq!(rig.disabled(), disables(&["k1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_while_no_responder_ran_is_noticed_by_the_next() {
    let rig = Rig::new();
    let responder = rig.put_off().await;
    until("the time was kept", || rig.count("SELECT count(*) FROM meta WHERE key = 'clock_us'") == 1).await;
    responder.shutdown().await;
    rig.clock.set(STARTED_US - DAY_US);
    let responder = rig.start();
    let ahead = format!("SELECT count(*) FROM actions WHERE next_attempt_us > {}", STARTED_US - DAY_US + 60_000_000);
    until("its wait was moved", || rig.count(&ahead) == 0).await;
    rig.clock.advance(Duration::from_secs(60));
    rig.done(1).await;
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_does_what_waited_once() {
    let rig = Rig::new();
    let responder = rig.put_off().await;
    rig.clock.advance(Duration::from_micros(DAY_US));
    rig.done(1).await;
    rig.push("k2");
    rig.done(2).await;
    responder.shutdown().await;
    assert_eq!(rig.disabled(), disables(&["k1", "k2"]));
}

/// How long a quarantine lasts is for the key service, whose clock it is: what it is told is a duration.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_is_neither_lifted_early_nor_put_twice_when_the_clock_jumps() {
    let mut rig = Rig::new();
    let mut stop = playbook_of("stop", "denied-burst", r#"{ action = "quarantine_principal", ttl = "1h" }"#);
    stop.matches.provenance.push(crate::playbook::Provenance::AuthenticatedDenied);
    rig.playbooks = vec![stop];
    let burst = |rig: &Rig, bucket: i64| {
        let burst = rig.bench.alert("denied-burst", vec![event("Decrypt").denied().by("mallory")]);
        rig.trail.push(&burst.severity(Severity::High).bucket(bucket).signed());
    };
    burst(&rig, 1);
    let responder = rig.start();
    rig.done(1).await;
    rig.clock.set(STARTED_US - DAY_US);
    burst(&rig, 2);
    until("it was taken in", || rig.count("SELECT count(*) FROM alerts") == 2).await;
    assert!(rig.kms.is_quarantined("mallory"));
    let put = [("PutQuarantine".to_owned(), principal_arn("mallory"))];
    assert_eq!(rig.kms.effects(), put, "neither lifted nor put again");
    responder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_goes_back_leads_to_no_second_action() {
    let rig = Rig::new();
    rig.push("k1");
    let responder = rig.start();
    rig.done(1).await;
    responder.store().write_now(|tx| store::set_position(tx, "trail.db", 1)).unwrap();
    responder.shutdown().await;
    // Given back by a person; an old alert must not take it again.
    rig.kms.set_key("k1", "Enabled", false);
    let responder = rig.start();
    rig.push("k2");
    rig.done(2).await;
    responder.shutdown().await;
    assert_eq!(rig.disabled(), disables(&["k1", "k2"]));
    assert_eq!(rig.count("SELECT count(*) FROM alerts"), 2);
    assert_eq!(rig.count("SELECT count(*) FROM timeline WHERE kind = 'alert'"), 2, "it is not told twice either");
}

#[tokio::test(flavor = "multi_thread")]
async fn playbooks_are_loaded_anew_as_a_whole_or_not_at_all() {
    let rig = Rig::new();
    let mail = crate::notify::receivers::Receiver {
        name: "mail".into(),
        kind: crate::notify::receivers::Kind::Smtp,
        recipients: vec![],
    };
    let responder = rig.start();
    responder.store().write_now(|tx| queue::set_receivers(tx, &[mail], 1)).unwrap();
    let folder = rig.path().join("playbooks");
    std::fs::create_dir(&folder).unwrap();
    let text = |id: &str, mode: &str, step: &str| {
        format!(
            "id = \"{id}\"\nversion = 2\nmode = \"{mode}\"\nsteps = [{step}]\n[match]\nrules = [\"key-policy-public\"]\n\
             min_severity = \"low\"\nprovenance = [\"authenticated_allowed\"]\n"
        )
    };
    let refused = "SELECT count(*) FROM notices WHERE dedup LIKE 'page/playbooks-refused/%'";
    for bad in [
        text("opened", "enforce", "{ action = \"no_such_action\" }"),
        text("opened", "enforce", "{ action = \"call_out\", name = \"gone\" }"),
    ] {
        std::fs::write(folder.join("another.toml"), text("another", "off", "{ action = \"disable_key\" }")).unwrap();
        std::fs::write(folder.join("opened.toml"), bad).unwrap();
        assert!(responder.reload_playbooks(&folder).is_err());
    }
    assert_eq!(rig.count(refused), 1, "one page in ten minutes");
    rig.push("k1");
    rig.done(1).await;
    assert_eq!(rig.count("SELECT max(playbook_version) FROM actions"), 1, "the earlier ones are in force");
    std::fs::write(folder.join("opened.toml"), text("opened", "observe", "{ action = \"disable_key\" }")).unwrap();
    assert_eq!(responder.reload_playbooks(&folder).unwrap(), 2);
    rig.push("k2");
    until("the other alert led to something", || rig.states().len() == 2).await;
    assert_eq!(rig.count("SELECT count(*) FROM actions WHERE state = 'observed' AND playbook_version = 2"), 1);
    let told = "SELECT count(*) FROM standing WHERE kind = 'playbooks'";
    assert_eq!(rig.count(told), 1, "the log is told which files");
    responder.reload_playbooks(&folder).unwrap();
    assert_eq!(rig.count(told), 1, "of the same files once");
    responder.shutdown().await;
    assert_eq!(rig.disabled(), disables(&["k1"]));
}
