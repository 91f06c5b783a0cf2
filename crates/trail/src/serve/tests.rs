//! The core behind every door: recorded before answered, limits of the role, bounds on connections.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::query::open_folder;
use async_trait::async_trait;
use bytes::Bytes;
use keytrail_kms::chain::{Kind, LogId};
use keytrail_kms::client::ClientError;
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::{Draft, Journal, JournalOptions};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Of all sessions together.
const MEMORY_BYTES_MAX: usize = 16 << 20;
pub(crate) const PASSWORD: &str = "correct horse battery";

/// Keeps what it is told, or fails as a node does that cannot be reached.
#[derive(Default)]
pub(crate) struct FakeLog {
    pub(crate) told: Mutex<Vec<(String, Value)>>,
    pub(crate) fails: AtomicBool,
}

#[async_trait]
impl QueryLog for FakeLog {
    /// Nobody has credentials here; tests/clients has a key service.
    async fn authorize(&self, _: Value) -> Result<Value, ClientError> {
        Err(ClientError::Timeout)
    }

    async fn record(&self, operation: &str, body: Value) -> Result<(), RecordError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(ClientError::Timeout.into());
        }
        self.told.lock().unwrap().push((operation.to_owned(), body));
        Ok(())
    }
}

impl FakeLog {
    /// Outcomes in the order in which queries ended.
    pub(crate) fn outcomes(&self) -> Vec<String> {
        let told = self.told.lock().unwrap();
        let ended = told.iter().filter(|(operation, _)| operation == "EndQuery");
        ended.map(|(_, body)| body["Outcome"].as_str().unwrap().to_owned()).collect()
    }
}

/// A folder with ten events in its journal and the users alice (analyst) and grace (a role with narrow bounds).
pub(super) async fn folder(dir: &Path) {
    let log = LogId::of_origin("keytrail/test/node-0123456789abcdef");
    let clock = Arc::new(FakeClock::default());
    let journal = Journal::open(&dir.join("journal"), log, clock, JournalOptions::default()).unwrap().0;
    for n in 0..10 {
        let payload = serde_json::json!({"eventName": "Decrypt", "eventTime": "2026-01-05T12:00:00Z", "n": n});
        let payload = Bytes::from(payload.to_string());
        journal.append(Draft::new(Kind::Event, payload).unwrap()).unwrap().await.unwrap();
    }
    users::add_user(dir, "alice", PASSWORD, None).unwrap();
    let path = dir.join(users::USERS_FILE);
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(
        "[roles.narrow]\ntimeout = \"500ms\"\nmemory_bytes_max = 1048576\nrows_max = 5\nanswer_bytes_max = 100000\n\
         connections_max = 1\ntables = [\"events\"]\n",
    );
    std::fs::write(&path, text).unwrap();
    users::add_user(dir, "grace", PASSWORD, Some("narrow")).unwrap();
}

pub(super) async fn doors(dir: &Path, log: &Arc<FakeLog>) -> Arc<Doors> {
    folder(dir).await;
    let snapshot = Arc::new(open_folder(dir).await.unwrap());
    let (sender, receiver) = watch::channel(snapshot);
    // Nothing lands any more; the receiver keeps the last value.
    drop(sender);
    let memory = SharedMemory::new(MEMORY_BYTES_MAX);
    Doors::new(Users::open(dir).unwrap(), receiver, dir.join("trail.db"), log.clone(), 3, memory)
}

fn session(doors: &Arc<Doors>, name: &str) -> Session {
    let user = doors.users().user(name).unwrap();
    let who = Who {
        user: name.to_owned(),
        door: Door::Http,
        client_address: "192.0.2.1:9".to_owned(),
        application: "tests".to_owned(),
    };
    doors.enter(user, who).unwrap()
}

async fn rows(session: &Session, sql: &str) -> Result<u64, QueryError> {
    let mut answer = session.run(sql, None, Cancel::new()).await?;
    let mut rows = 0;
    while let Some(batch) = answer.next().await {
        rows += batch?.num_rows() as u64;
    }
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_query_is_recorded_before_and_after() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let alice = session(&doors, "alice");
    let mut answer = alice.run("SELECT seq FROM events", None, Cancel::new()).await.unwrap();
    assert_eq!(log.told.lock().unwrap()[0].0, "RunQuery", "before a row is out");
    let id = answer.id().to_string();
    while let Some(batch) = answer.next().await {
        batch.unwrap();
    }
    let told = log.told.lock().unwrap().clone();
    let (run, end) = (&told[0].1, &told[1].1);
    assert_eq!((&run["User"], &run["Door"], &run["Application"]), (&"alice".into(), &"http".into(), &"tests".into()));
    assert_eq!((&run["Statement"], &run["QueryId"]), (&"SELECT seq FROM events".into(), &id.as_str().into()));
    assert_eq!((&end["Outcome"], &end["Rows"], &end["QueryId"]), (&"ok".into(), &10.into(), &id.as_str().into()));
    assert!(end["Bytes"].as_u64().unwrap() >= 80 && end["DurationMicros"].as_u64().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_there_is_no_answer() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let alice = session(&doors, "alice");
    log.fails.store(true, Ordering::Relaxed);
    assert!(matches!(rows(&alice, "SELECT 1").await, Err(QueryError::Record(_))));
    log.fails.store(false, Ordering::Relaxed);
    assert_eq!(rows(&alice, "SELECT 1").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_recorded_too() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let alice = session(&doors, "alice");
    assert!(matches!(rows(&alice, "INSERT INTO events SELECT * FROM events").await, Err(QueryError::Gate(_))));
    assert_eq!(log.outcomes(), ["refused"]);
    assert!(log.told.lock().unwrap()[0].1["Statement"].as_str().unwrap().starts_with("INSERT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_bounds_time_rows_bytes_tables_and_connections() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let grace = session(&doors, "grace");
    assert!(matches!(rows(&grace, "SELECT * FROM events").await, Err(QueryError::Run(RunError::Rows(5)))));
    assert!(matches!(rows(&grace, "SELECT * FROM records").await, Err(QueryError::Gate(GateError::Table(_)))));
    let long = "SELECT repeat('x', 60000), repeat('y', 60000)";
    assert!(matches!(rows(&grace, long).await, Err(QueryError::Bytes(100_000))));
    let slow = "SELECT count(*) FROM events a, events b, events c, events d, events e, events f, events g, events h, \
                events i, events j, events k WHERE a.seq + b.seq + c.seq + d.seq + e.seq + f.seq + g.seq + h.seq \
                + i.seq + j.seq + k.seq = 7";
    let ended = rows(&grace, slow).await.unwrap_err();
    assert!(matches!(ended.outcome(), Outcome::Deadline | Outcome::Failed), "{ended:?}");
    let user = doors.users().user("grace").unwrap();
    assert!(matches!(doors.enter(user.clone(), grace.who().clone()), Err(EnterError::UserFull)));
    let _others = [session(&doors, "alice"), session(&doors, "alice")];
    let alice = doors.users().user("alice").unwrap();
    assert!(matches!(doors.enter(alice, grace.who().clone()), Err(EnterError::Full)));
    let who = grace.who().clone();
    drop(grace);
    assert!(doors.enter(user, who).is_ok(), "a connection that ended counts no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_and_an_abandoned_query_are_told_apart() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let alice = session(&doors, "alice");
    let cancel = Cancel::new();
    let mut answer = alice.run("SELECT * FROM events", None, cancel.clone()).await.unwrap();
    cancel.cancel();
    assert!(matches!(answer.next().await, Some(Err(QueryError::Run(RunError::Cancelled)))));
    drop(answer);
    drop(alice.run("SELECT * FROM events", None, Cancel::new()).await.unwrap());
    while log.outcomes().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.outcomes(), ["cancelled", "abandoned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_taken_out_of_the_file_asks_nothing_more() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let alice = session(&doors, "alice");
    assert_eq!(rows(&alice, "SELECT 1").await.unwrap(), 1);
    users::remove_user(dir.path(), "alice").unwrap();
    assert!(matches!(rows(&alice, "SELECT 1").await, Err(QueryError::Gone)));
    users::add_user(dir.path(), "alice", "another one of hers", None).unwrap();
    assert!(matches!(rows(&alice, "SELECT 1").await, Err(QueryError::Gone)), "nor under her old password");
}

/// Sorts so many rows of about 100 bytes, all of which it holds until the last one is out.
fn sort_of(rows: u64) -> String {
    format!("SELECT value, repeat('x', 80) || value AS text FROM generate_series(1, {rows}) ORDER BY value DESC")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_together_have_one_memory() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let (alice, other) = (session(&doors, "alice"), session(&doors, "alice"));
    let mut first = alice.run(&sort_of(60_000), None, Cancel::new()).await.unwrap();
    let mut read = first.next().await.unwrap().unwrap().num_rows();
    assert!(doors.memory.bytes() > MEMORY_BYTES_MAX / 4, "{}", doors.memory.bytes());
    // Each alone would fit.
    let error = rows(&other, &sort_of(60_000)).await.unwrap_err();
    let wire = wire::error::WireError::of_query(&error, "", 0);
    assert_eq!(wire.code, "53200", "{wire:?}");
    assert!(doors.memory.bytes() <= MEMORY_BYTES_MAX);
    // Small queries go on beside it, and it is not disturbed.
    assert_eq!(rows(&other, "SELECT seq FROM events ORDER BY seq").await.unwrap(), 10);
    while let Some(batch) = first.next().await {
        read += batch.unwrap().num_rows();
    }
    assert_eq!(read, 60_000);
    drop(first);
    while doors.memory.bytes() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rows(&other, &sort_of(60_000)).await.unwrap(), 60_000);
    assert_eq!(log.outcomes(), ["failed", "ok", "ok", "ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_at_once_stay_within_it() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Arc::<FakeLog>::default());
    let doors = doors(dir.path(), &log).await;
    let sessions: Vec<Session> = (0..3).map(|_| session(&doors, "alice")).collect();
    let sql = sort_of(60_000);
    let asked = sessions.iter().map(|session| rows(session, &sql));
    let most = async {
        let mut most = 0;
        while log.outcomes().len() < sessions.len() {
            most = doors.memory.bytes().max(most);
            tokio::task::yield_now().await;
        }
        most
    };
    let (answers, most) = futures::join!(futures::future::join_all(asked), most);
    assert!(most <= MEMORY_BYTES_MAX && most > 0, "{most}");
    for answer in answers {
        match answer {
            Ok(rows) => assert_eq!(rows, 60_000),
            Err(error) => assert_eq!(wire::error::WireError::of_query(&error, "", 0).code, "53200"),
        }
    }
}
