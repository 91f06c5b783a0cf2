//! trail.db: the alerts, and where the rules stand, in one transaction each.
//!
//! SQLite in WAL mode with every commit synced. Table `alerts` is what the responder reads (read-only) and what `SELECT
//! .. FROM alerts` shows; alerts are only ever added. `meta` holds the key that signs them. Whoever can write this file
//! can sign alerts: it is created 0600 and the responder still checks every piece of evidence against the log.

mod reading;
mod risk;
mod runs;

use crate::alert::{Alert, Severity, SignedAlert};
use crate::rule::exception::{Exception, Hit};
use keytrail_kms::chain::{LeafHash, LogId, NoteError, Pkcs8, SigningKey, Tree};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

pub(crate) use reading::open_read_only;
pub use risk::Points;

/// Version of the tables.
const SCHEMA_VERSION: i64 = 1;

/// Name in the alerts' verify key.
const ALERT_KEY_NAME: &str = "keytrail-alerts";

const SCHEMA: &str = "
CREATE TABLE alerts(
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    alert_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    json BLOB NOT NULL,
    signature BLOB NOT NULL,
    created_us INTEGER NOT NULL,
    UNIQUE(alert_id, revision)
);
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE engine(id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB NOT NULL);
CREATE TABLE subtrees(log TEXT NOT NULL, block INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY(log, block)) WITHOUT ROWID;
CREATE TABLE tails(log TEXT PRIMARY KEY, leaves BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// What exceptions say, what they muted (each alert's newest event once), and when this trail first saw a rule or exception, by hash.
const EXCEPTIONS: &str = "
CREATE TABLE IF NOT EXISTS exceptions(
    id TEXT PRIMARY KEY, rules TEXT NOT NULL, predicate TEXT NOT NULL, owner TEXT NOT NULL, ticket TEXT NOT NULL,
    reason TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL, hits INTEGER NOT NULL DEFAULT 0,
    last_event_us INTEGER, last_alert_id TEXT, loaded INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS exception_hits(
    exception TEXT NOT NULL, alert_id TEXT NOT NULL, event_us INTEGER NOT NULL, muted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(exception, alert_id, event_us)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exception_hits_alert ON exception_hits(alert_id);
CREATE INDEX IF NOT EXISTS exception_hits_time ON exception_hits(event_us);
CREATE TABLE IF NOT EXISTS first_seen_rules(hash TEXT PRIMARY KEY, seen_us INTEGER NOT NULL) WITHOUT ROWID;
";

/// Hits remembered to tell repeats from new ones.
const HITS_MAX: i64 = 100_000;

/// Why trail.db cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be created.
    #[error("cannot create {path}")]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("trail.db: {step}")]
    Sqlite {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer Keytrail.
    #[error("trail.db has version {0}, this program knows {SCHEMA_VERSION}")]
    Version(i64),
    /// The alert key cannot be made or read.
    #[error("alert key in trail.db cannot be used")]
    Key(#[source] NoteError),
    /// The stored tree does not hold together.
    #[error("stored tree of log {0} is damaged")]
    Tree(LogId),
}

fn sqlite(step: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { step, source }
}

/// What the newest revision of an alert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub revision: u32,
    /// Its severity.
    pub severity: Severity,
    /// How many events it counted.
    pub matched: u64,
    /// How many of them it did not tell of by themselves.
    pub deduplicated: u64,
}

/// All that one step changes.
pub struct Step<'a> {
    /// New alerts and revisions, in order.
    pub alerts: &'a [(Alert, SignedAlert)],
    /// The engine's snapshot, which includes its position; None while findings of it are still to be stored.
    pub state: Option<&'a [u8]>,
    /// The tree of each log.
    pub trees: &'a [(LogId, &'a Tree)],
    /// The time, Unix microseconds.
    pub now_us: u64,
}

/// The open file.
pub struct Store {
    db: Connection,
}

impl Store {
    /// Opens trail.db, creating it readable by its owner only.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite would create it with the umask's mode; its side files inherit the mode of this one.
        let created = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        created.map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        let db = Connection::open(path).map_err(sqlite("open"))?;
        db.busy_timeout(Duration::from_secs(5)).map_err(sqlite("open"))?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(sqlite("open"))?;
        db.pragma_update(None, "synchronous", "FULL").map_err(sqlite("open"))?;
        // Otherwise SQLite plans a cached statement anew for each value that is bound to it (its feature STAT4).
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sqlite("open"))?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sqlite("read version"))?;
        match version {
            0 => {
                let script = format!("BEGIN IMMEDIATE;{SCHEMA}COMMIT;");
                db.execute_batch(&script).map_err(sqlite("create tables"))?;
            }
            SCHEMA_VERSION => {}
            newer => return Err(StoreError::Version(newer)),
        }
        runs::create(&db)?;
        // Added without a new version: who does not know them loses nothing by them.
        db.execute_batch(EXCEPTIONS).map_err(sqlite("create tables"))?;
        add_column(&db, "exception_hits", "muted")?;
        risk::create(&db)?;
        Ok(Self { db })
    }

    /// The key that signs alerts, made on first use. Its verify key is in `meta` under `alert_vkey`.
    pub fn alert_key(&mut self) -> Result<SigningKey, StoreError> {
        let stored: Option<Vec<u8>> = self.meta("alert_key")?;
        if let Some(bytes) = stored {
            let pkcs8 = Pkcs8::new(Zeroizing::new(bytes));
            return SigningKey::from_pkcs8(ALERT_KEY_NAME, &pkcs8).map_err(StoreError::Key);
        }
        let (key, pkcs8) = SigningKey::generate(ALERT_KEY_NAME).map_err(StoreError::Key)?;
        let step = sqlite("store alert key");
        let transaction = self.db.transaction().map_err(&step)?;
        put_meta(&transaction, "alert_key", pkcs8.expose()).map_err(&step)?;
        put_meta(&transaction, "alert_vkey", key.verify_key().to_string().as_bytes()).map_err(&step)?;
        transaction.commit().map_err(&step)?;
        Ok(key)
    }

    /// Keeps what the site says of itself beside the alerts: sessions for analysts answer by what the rules answer by.
    pub fn keep_site(&self, trusted_accounts: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO meta(key, value) VALUES ('trusted_accounts', ?1)
                   ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value";
        self.db.execute(sql, [trusted_accounts.as_bytes()]).map_err(sqlite("keep the site's values"))?;
        Ok(())
    }

    /// Keeps what the loaded exceptions say; counts of those that are gone stay. Gives when each hash was first seen; those of
    /// the first set that a trail.db sees are as old as the log.
    pub fn keep_rules(
        &mut self,
        exceptions: &[Arc<Exception>],
        hashes: &[String],
        now_us: i64,
    ) -> Result<HashMap<String, i64>, StoreError> {
        let step = sqlite("keep exceptions");
        let transaction = self.db.transaction().map_err(&step)?;
        transaction.execute("UPDATE exceptions SET loaded = 0", []).map_err(&step)?;
        for exception in exceptions {
            let file = &exception.file;
            let rules = serde_json::to_string(&file.rules).unwrap_or_default();
            let (created, expires) = (file.created.timestamp_micros(), file.expires.timestamp_micros());
            let sql =
                "INSERT INTO exceptions(id, rules, predicate, owner, ticket, reason, created_us, expires_us, loaded)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)
                       ON CONFLICT(id) DO UPDATE SET rules = ?2, predicate = ?3, owner = ?4, ticket = ?5, reason = ?6,
                         created_us = ?7, expires_us = ?8, loaded = 1";
            let values =
                params![exception.id, rules, file.predicate, file.owner, file.ticket, file.reason, created, expires];
            transaction.execute(sql, values).map_err(&step)?;
        }
        let known: i64 =
            transaction.query_row("SELECT count(*) FROM first_seen_rules", [], |row| row.get(0)).map_err(&step)?;
        let first_us = if known == 0 { i64::MIN } else { now_us };
        for hash in hashes {
            let sql = "INSERT OR IGNORE INTO first_seen_rules(hash, seen_us) VALUES (?1, ?2)";
            transaction.execute(sql, params![hash, first_us]).map_err(&step)?;
        }
        transaction.commit().map_err(&step)?;
        let mut statement = self.db.prepare("SELECT hash, seen_us FROM first_seen_rules").map_err(&step)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(&step)?;
        rows.collect::<Result<_, _>>().map_err(&step)
    }

    /// Counts what an exception muted; false when it is counted already.
    pub fn count_hit(&self, hit: &Hit) -> Result<bool, StoreError> {
        let step = sqlite("count a hit");
        let sql = "INSERT OR IGNORE INTO exception_hits(exception, alert_id, event_us, muted) VALUES (?1, ?2, ?3, ?4)";
        let values = params![hit.exception, hit.alert_id, hit.event_us, hit.muted];
        if self.db.execute(sql, values).map_err(&step)? == 0 {
            return Ok(false);
        }
        if hit.muted {
            let sql = "UPDATE exceptions SET hits = hits + 1, last_event_us = max(coalesce(last_event_us, ?2), ?2),
                       last_alert_id = ?3 WHERE id = ?1";
            self.db.execute(sql, params![hit.exception, hit.event_us, hit.alert_id]).map_err(&step)?;
        }
        let sql = "DELETE FROM exception_hits WHERE event_us <=
                   (SELECT event_us FROM exception_hits ORDER BY event_us DESC LIMIT 1 OFFSET ?1)";
        self.db.execute(sql, [HITS_MAX]).map_err(&step)?;
        Ok(true)
    }

    /// How many findings of this alert were muted.
    pub fn suppressed(&self, alert_id: &str) -> Result<u64, StoreError> {
        let sql = "SELECT count(*) FROM exception_hits WHERE alert_id = ?1 AND muted";
        let step = sqlite("read hits");
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let found = self.db.prepare_cached(sql).and_then(|mut found| found.query_row([alert_id], count));
        Ok(found.map_err(step)?.unsigned_abs())
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement =
            self.db.prepare_cached("SELECT value FROM meta WHERE key = ?1").map_err(sqlite("read meta"))?;
        statement.query_row([key], |row| row.get(0)).optional().map_err(sqlite("read meta"))
    }

    /// The engine's snapshot as last committed.
    pub fn engine_state(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.db.query_row("SELECT state FROM engine WHERE id = 1", [], |row| row.get(0));
        found.optional().map_err(sqlite("read engine state"))
    }

    /// What was told about an alert, if anything.
    pub fn told(&self, alert_id: &str) -> Result<Option<Told>, StoreError> {
        let step = sqlite("read alert");
        let sql = "SELECT revision, json FROM alerts WHERE alert_id = ?1 ORDER BY revision DESC LIMIT 1";
        let mut statement = self.db.prepare_cached(sql).map_err(&step)?;
        let found = statement.query_row([alert_id], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let Some((revision, json)) = found.optional().map_err(&step)? else { return Ok(None) };
        // An alert that cannot be read any more must not stop its next revision.
        let told = serde_json::from_slice::<Alert>(&json).ok();
        let deduplicated = told.as_ref().and_then(|alert| alert.counts).unwrap_or_default().deduplicated;
        let (severity, matched) = told.map_or((Severity::Info, 0), |alert| (alert.severity, alert.matched));
        Ok(Some(Told { revision, severity, matched, deduplicated }))
    }

    /// The tree of a log as last committed; empty for a new one.
    pub fn tree(&self, log: LogId) -> Result<Tree, StoreError> {
        let step = sqlite("read tree");
        let mut statement =
            self.db.prepare_cached("SELECT hash FROM subtrees WHERE log = ?1 ORDER BY block").map_err(&step)?;
        let subtrees = statement.query_map([log.to_string()], |row| row.get::<_, [u8; 32]>(0)).map_err(&step)?;
        let subtrees = subtrees.collect::<Result<Vec<_>, _>>().map_err(&step)?;
        let tail: Option<Vec<u8>> = self
            .db
            .query_row("SELECT leaves FROM tails WHERE log = ?1", [log.to_string()], |row| row.get(0))
            .optional()
            .map_err(&step)?;
        let (leaves, rest) = tail.as_deref().unwrap_or_default().as_chunks::<32>();
        let tree = Tree::from_subtrees(subtrees, leaves.iter().copied().map(LeafHash).collect());
        tree.filter(|_| rest.is_empty()).ok_or(StoreError::Tree(log))
    }

    /// Everything of one step, or nothing.
    pub fn commit(&mut self, step: &Step<'_>) -> Result<(), StoreError> {
        let failed = sqlite("commit");
        let transaction = self.db.transaction().map_err(&failed)?;
        for (alert, signed) in step.alerts {
            let created_us = i64::try_from(step.now_us).unwrap_or(i64::MAX);
            transaction
                .prepare_cached(
                    "INSERT INTO alerts(alert_id, revision, json, signature, created_us) VALUES (?1, ?2, ?3, ?4, ?5)",
                )
                .and_then(|mut insert| {
                    insert.execute(params![alert.alert_id, alert.revision, signed.json, signed.signature, created_us])
                })
                .map_err(&failed)?;
            risk::add(&transaction, alert).map_err(&failed)?;
        }
        if !step.alerts.is_empty() {
            risk::trim(&transaction).map_err(&failed)?;
        }
        let sql = "INSERT INTO engine(id, state) VALUES (1, ?1) ON CONFLICT(id) DO UPDATE SET state = excluded.state";
        if let Some(state) = step.state {
            transaction.execute(sql, [state]).map_err(&failed)?;
        }
        for (log, tree) in step.trees {
            put_tree(&transaction, *log, tree).map_err(&failed)?;
        }
        fail::fail_point!("trail-before-alert-commit", |_| std::process::abort());
        transaction.commit().map_err(&failed)?;
        fail::fail_point!("trail-after-alert-commit", |_| std::process::abort());
        Ok(())
    }
}

/// A count that an older file's table has not: it starts at 0.
fn add_column(db: &Connection, table: &str, column: &str) -> Result<(), StoreError> {
    let step = sqlite("add a column");
    let sql = "SELECT count(*) > 0 FROM pragma_table_info(?1) WHERE name = ?2";
    if db.query_row(sql, [table, column], |row| row.get(0)).map_err(&step)? {
        return Ok(());
    }
    db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")).map_err(&step)
}

fn put_meta(transaction: &Transaction<'_>, key: &str, value: &[u8]) -> rusqlite::Result<usize> {
    transaction.execute("INSERT INTO meta(key, value) VALUES (?1, ?2)", params![key, value])
}

/// Full blocks never change, so that only new ones are written.
fn put_tree(transaction: &Transaction<'_>, log: LogId, tree: &Tree) -> rusqlite::Result<()> {
    let log = log.to_string();
    let known: i64 = transaction
        .prepare_cached("SELECT coalesce(max(block) + 1, 0) FROM subtrees WHERE log = ?1")?
        .query_row([&log], |row| row.get(0))?;
    let mut insert = transaction.prepare_cached("INSERT INTO subtrees(log, block, hash) VALUES (?1, ?2, ?3)")?;
    for (block, hash) in (0_i64..).zip(tree.subtrees()).skip(usize::try_from(known).unwrap_or(usize::MAX)) {
        insert.execute(params![log, block, hash])?;
    }
    let leaves: Vec<u8> = tree.tail().iter().flat_map(|leaf| leaf.0).collect();
    let sql = "INSERT INTO tails(log, leaves) VALUES (?1, ?2) ON CONFLICT(log) DO UPDATE SET leaves = excluded.leaves";
    transaction.prepare_cached(sql)?.execute(params![log, leaves])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_kms::chain::leaf::sha256;
    use std::os::unix::fs::PermissionsExt as _;

    fn tree(leaves: u64) -> Tree {
        let mut tree = Tree::new();
        (0..leaves).for_each(|leaf| tree.push(LeafHash(sha256(&[&leaf.to_be_bytes()]))));
        tree
    }

    #[test]
    fn the_alert_key_stays_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        let first = Store::open(&path).unwrap().alert_key().unwrap().verify_key().to_string();
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.alert_key().unwrap().verify_key().to_string(), first);
        assert_eq!(store.meta("alert_vkey").unwrap().unwrap(), first.as_bytes());
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_tree_grows_over_commits_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        let log = LogId([7; 16]);
        for size in [0, 1, 255, 256, 257, 1_000, 1_024] {
            let grown = tree(size);
            let mut store = Store::open(&path).unwrap();
            store.commit(&Step { alerts: &[], state: Some(b"s"), trees: &[(log, &grown)], now_us: 1 }).unwrap();
            let back = Store::open(&path).unwrap();
            assert_eq!(back.tree(log).unwrap().size(), size);
            assert_eq!(back.tree(log).unwrap().root(), grown.root());
            assert_eq!(back.engine_state().unwrap().as_deref(), Some(&b"s"[..]));
        }
    }

    #[test]
    fn a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        Store::open(&path).unwrap().db.pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Version(2))));
    }
}
