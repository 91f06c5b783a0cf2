//! The one thread that writes the store: whatever waits commits together, one fsync for all.
//!
//! Each transaction sits in its own savepoint, so that one that contradicts the stored state fails alone. A failed
//! COMMIT other than for want of space stops the writer: whether it reached the disk is unknown, and only a restart,
//! which compares store and journal, can tell.

use super::{CLEAN_THROUGH, Change, RECORDED_THROUGH, StoreError, Transaction, copies, integer, key_blob, key_of_blob};
use crate::key::{AccountId, KeyId, Region};
use crate::outbox::Clean;
use crate::usage::LastUse;
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// Changes waiting for the writer; beyond it their callers wait.
const QUEUE_REQUESTS_MAX: usize = 1_024;
/// Requests in one SQLite transaction; a thousand small changes commit in a few milliseconds.
const BATCH_REQUESTS_MAX: usize = 512;

/// An action as first answered.
#[derive(Clone, Debug)]
pub(crate) struct StoredAction {
    /// SHA-256 over target and body.
    pub(crate) request_sha256: Vec<u8>,
    /// The event of the first call.
    pub(crate) event_id: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// Body.
    pub(crate) answer: Bytes,
}

/// Handle of the writer thread.
pub(crate) struct Store {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

enum Task {
    Commit(Box<Transaction>),
    FindAction(String),
    FindPolicy(KeyId, String),
    FindPolicySetter(KeyId, String),
    FindAliasTarget(AccountId, Region, String, String),
    FindAliasEvent(AccountId, Region, String),
    Clean(Clean),
    PruneActions { before_us: u64 },
    NoteUsage { uses: Vec<(KeyId, LastUse)>, through: Option<u64>, since_us: u64 },
}

impl Task {
    fn rewraps(&self) -> bool {
        matches!(self, Self::Commit(transaction) if transaction.changes.iter().any(|change| matches!(change, Change::Rewrap(_))))
    }
}

enum Found {
    Nothing,
    Action(StoredAction),
    Policy(String),
    Principal(String),
    Key(KeyId),
    Event(String),
}

struct Request {
    task: Task,
    reply: oneshot::Sender<Result<Found, StoreError>>,
}

impl Store {
    /// Moves the connection to a thread of its own.
    pub(crate) fn spawn(connection: Connection) -> std::io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let thread = std::thread::Builder::new()
            .name("kms-store".to_owned())
            .spawn(move || write_batches(&connection, queue))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Commits; durable when it returns.
    pub(crate) async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        self.ask(Task::Commit(Box::new(transaction))).await.map(|_| ())
    }

    /// The first answer to an action id.
    pub(crate) async fn action(&self, action_id: &str) -> Result<Option<StoredAction>, StoreError> {
        match self.ask(Task::FindAction(action_id.to_owned())).await? {
            Found::Action(action) => Ok(Some(action)),
            _ => Ok(None),
        }
    }

    /// The policy that an event set on a key.
    pub(crate) async fn policy(&self, id: KeyId, event_id: &str) -> Result<Option<String>, StoreError> {
        match self.ask(Task::FindPolicy(id, event_id.to_owned())).await? {
            Found::Policy(text) => Ok(Some(text)),
            _ => Ok(None),
        }
    }

    /// Who set that policy, if it is known.
    pub(crate) async fn policy_setter(&self, id: KeyId, event_id: &str) -> Result<Option<String>, StoreError> {
        match self.ask(Task::FindPolicySetter(id, event_id.to_owned())).await? {
            Found::Principal(arn) => Ok(Some(arn)),
            _ => Ok(None),
        }
    }

    /// The key to which an event pointed an alias.
    pub(crate) async fn alias_target(
        &self,
        (account, region): (AccountId, Region),
        name: &str,
        event_id: &str,
    ) -> Result<Option<KeyId>, StoreError> {
        match self.ask(Task::FindAliasTarget(account, region, name.to_owned(), event_id.to_owned())).await? {
            Found::Key(id) => Ok(Some(id)),
            _ => Ok(None),
        }
    }

    /// The event that pointed an alias to where it points, or pointed before it was deleted.
    pub(crate) async fn alias_event(
        &self,
        (account, region): (AccountId, Region),
        name: &str,
    ) -> Result<Option<String>, StoreError> {
        match self.ask(Task::FindAliasEvent(account, region, name.to_owned())).await? {
            Found::Event(id) => Ok(Some(id)),
            _ => Ok(None),
        }
    }

    /// Deletes outbox rows whose events are durable, and notes from where start-up must scan and how far a copy of the
    /// journal must reach.
    pub(crate) async fn clean(&self, clean: Clean) -> Result<(), StoreError> {
        self.ask(Task::Clean(clean)).await.map(|_| ())
    }

    /// Forgets actions first seen before a time.
    pub(crate) async fn prune_actions(&self, before_us: u64) -> Result<(), StoreError> {
        self.ask(Task::PruneActions { before_us }).await.map(|_| ())
    }

    /// Notes the last uses of keys, and up to where none is missing.
    pub(crate) async fn note_usage(
        &self,
        uses: Vec<(KeyId, LastUse)>,
        through: Option<u64>,
        since_us: u64,
    ) -> Result<(), StoreError> {
        self.ask(Task::NoteUsage { uses, through, since_us }).await.map(|_| ())
    }

    async fn ask(&self, task: Task) -> Result<Found, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or(StoreError::Failed)?;
        requests.send(Request { task, reply }).await.map_err(|_| StoreError::Failed)?;
        answer.await.map_err(|_| StoreError::Failed)?
    }

    /// Ends the thread after what is queued.
    pub(crate) fn close(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was already seen by its callers as StoreError::Failed.
            let _ = thread.join();
        }
    }
}

const STILL_THERE: &str = "the store's write-ahead log still holds what the former root key wrapped";

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

fn write_batches(connection: &Connection, mut queue: mpsc::Receiver<Request>) {
    let (mut failed, mut alone) = (false, false);
    let mut batch = Vec::with_capacity(BATCH_REQUESTS_MAX);
    while queue.blocking_recv_many(&mut batch, BATCH_REQUESTS_MAX) > 0 {
        let (tasks, replies): (Vec<_>, Vec<_>) = batch.drain(..).map(|request| (request.task, request.reply)).unzip();
        if !alone && tasks.iter().any(|task| matches!(task, Task::Commit(_))) {
            alone = copies::remove(connection);
        }
        let outcome = if failed { Err(StoreError::Failed) } else { run(connection, &tasks) };
        if outcome.is_ok() && tasks.iter().any(Task::rewraps) {
            fail::fail_point!("kms::after_rewrap", |_| std::process::abort());
            // What lies in the write-ahead log is wrapped under the root key of before.
            match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
                Ok(0) => {}
                // A reader of another process, such as a backup, was in the way for longer than we wait.
                Ok(_) => tracing::warn!("{STILL_THERE}: rotate once more when nothing reads it"),
                Err(error) => tracing::warn!(%error, "{STILL_THERE}"),
            }
        }
        if outcome.is_ok() {
            fail::fail_point!("kms::after_store_commit", |_| std::process::abort());
        }
        match outcome {
            // A caller that went away gave up its answer only.
            Ok(found) => replies.into_iter().zip(found).for_each(|(reply, found)| drop(reply.send(found))),
            Err(error) => {
                let full = matches!(error, StoreError::NoSpace);
                if !full && !std::mem::replace(&mut failed, true) {
                    tracing::error!(error = %crate::describe(&error), "store stopped: a commit's outcome is unknown");
                }
                for reply in replies {
                    let _ = reply.send(Err(if full { StoreError::NoSpace } else { StoreError::Failed }));
                }
            }
        }
    }
}

/// All tasks in one SQLite transaction.
fn run(connection: &Connection, tasks: &[Task]) -> Result<Vec<Result<Found, StoreError>>, StoreError> {
    let all = || -> Result<_, StoreError> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(run_one(connection, task)?);
        }
        connection.execute_batch("COMMIT")?;
        Ok(answers)
    };
    all().map_err(|error| {
        if !connection.is_autocommit() {
            // The error that led here is the one to report.
            let _ = connection.execute_batch("ROLLBACK");
        }
        match error {
            StoreError::Query(source) if source.sqlite_error_code() == Some(ErrorCode::DiskFull) => StoreError::NoSpace,
            other => other,
        }
    })
}

/// One task in its savepoint; the outer error ends the batch, the inner one is the caller's alone.
fn run_one(connection: &Connection, task: &Task) -> Result<Result<Found, StoreError>, StoreError> {
    let Task::Commit(transaction) = task else {
        return find(connection, task).map(Ok);
    };
    connection.prepare_cached("SAVEPOINT change")?.execute([])?;
    match transaction.apply(connection) {
        Ok(()) => {
            connection.prepare_cached("RELEASE change")?.execute([])?;
            Ok(Ok(Found::Nothing))
        }
        Err(error) if contradicts(&error) => {
            connection.execute_batch("ROLLBACK TO change; RELEASE change")?;
            Ok(Err(StoreError::Conflict))
        }
        Err(error) => Err(error),
    }
}

fn contradicts(error: &StoreError) -> bool {
    match error {
        StoreError::Conflict => true,
        StoreError::Query(error) => error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation),
        _ => false,
    }
}

fn find(connection: &Connection, task: &Task) -> Result<Found, StoreError> {
    match task {
        Task::Commit(_) => Ok(Found::Nothing),
        Task::FindAction(action_id) => {
            let mut statement = connection
                .prepare_cached("SELECT request_sha256, event_id, status, answer FROM actions WHERE action_id = ?1")?;
            let action = statement.query_row([action_id], |row| {
                Ok(StoredAction {
                    request_sha256: row.get(0)?,
                    event_id: row.get(1)?,
                    status: row.get(2)?,
                    answer: row.get::<_, Vec<u8>>(3)?.into(),
                })
            });
            Ok(action.optional()?.map_or(Found::Nothing, Found::Action))
        }
        Task::FindPolicy(id, event_id) => {
            let mut statement =
                connection.prepare_cached("SELECT policy FROM key_policies WHERE key_id = ?1 AND event_id = ?2")?;
            let text = statement.query_row(params![key_blob(*id), event_id], |row| row.get(0)).optional()?;
            Ok(text.map_or(Found::Nothing, Found::Policy))
        }
        Task::FindPolicySetter(id, event_id) => {
            let mut statement =
                connection.prepare_cached("SELECT set_by FROM key_policies WHERE key_id = ?1 AND event_id = ?2")?;
            let arn = statement.query_row(params![key_blob(*id), event_id], |row| row.get(0)).optional()?.flatten();
            Ok(arn.map_or(Found::Nothing, Found::Principal))
        }
        Task::FindAliasTarget(account, region, name, event_id) => {
            let mut statement = connection.prepare_cached(
                "SELECT key_id FROM alias_targets WHERE account = ?1 AND region = ?2 AND name = ?3 AND event_id = ?4",
            )?;
            let named = params![account.as_str(), region.as_str(), name, event_id];
            let id: Option<Vec<u8>> = statement.query_row(named, |row| row.get(0)).optional()?;
            let wrong = StoreError::Row { table: "alias_targets" };
            Ok(match id {
                Some(id) => Found::Key(key_of_blob(&id, region.as_str()).ok_or(wrong)?),
                None => Found::Nothing,
            })
        }
        Task::FindAliasEvent(account, region, name) => {
            let mut statement = connection.prepare_cached(
                "SELECT event_id FROM alias_targets WHERE account = ?1 AND region = ?2 AND name = ?3
                 ORDER BY number DESC LIMIT 1",
            )?;
            let named = params![account.as_str(), region.as_str(), name];
            let id = statement.query_row(named, |row| row.get(0)).optional()?;
            Ok(id.map_or(Found::Nothing, Found::Event))
        }
        Task::Clean(rows) => clean(connection, rows),
        Task::NoteUsage { uses, through, since_us } => note_usage(connection, uses, *through, *since_us),
        Task::PruneActions { before_us } => {
            connection.execute("DELETE FROM actions WHERE created_us < ?1", [integer(*before_us)])?;
            Ok(Found::Nothing)
        }
    }
}

fn clean(connection: &Connection, clean: &Clean) -> Result<Found, StoreError> {
    fail::fail_point!("kms::before_row_delete", |_| std::process::abort());
    let mut statement = connection.prepare_cached("DELETE FROM outbox WHERE event_id = ?1")?;
    for event_id in &clean.event_ids {
        statement.execute([event_id])?;
    }
    let marks = [(CLEAN_THROUGH, clean.clean_through), (RECORDED_THROUGH, clean.recorded_through)];
    for (name, seq) in marks.into_iter().filter_map(|(name, seq)| Some((name, seq?))) {
        connection
            .prepare_cached(
                "INSERT INTO meta (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            )?
            .execute(params![name, integer(seq)])?;
    }
    Ok(Found::Nothing)
}

fn note_usage(
    connection: &Connection,
    uses: &[(KeyId, LastUse)],
    through: Option<u64>,
    since_us: u64,
) -> Result<Found, StoreError> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO key_usage VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for (id, LastUse { operation, at_us, event_id, request_id, seq }) in uses {
        let id = key_blob(*id);
        let (event_id, request_id) = (event_id.to_string(), request_id.to_string());
        statement.execute(params![id, operation, integer(*at_us), event_id, request_id, integer(*seq)])?;
    }
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('usage_since_us', ?1)", [integer(since_us)])?;
    if let Some(seq) = through {
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('usage_through_seq', ?1)", [integer(seq)])?;
    }
    Ok(Found::Nothing)
}
