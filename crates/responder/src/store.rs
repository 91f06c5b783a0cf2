//! `responder.db`: positions, alerts seen, incidents, timeline, actions and notices in one SQLite file.
//!
//! Every change goes through [`Store::write`], one immediate transaction with `synchronous=FULL`: what an alert leads to
//! commits together with the position after it, or not at all. The rows' owners are `incident`, `outbox` and
//! `notify::queue`; here are the schema, the file and the transaction. `keytrail incident` opens the same file from
//! another process, which WAL and the busy timeout allow.

use keytrail_kms::clock::Clock;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod schema;

use schema::MIGRATIONS;

/// Unix microseconds, as SQLite holds them.
pub type Micros = i64;

/// How long a process waits for the other one's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// More than there are statements: one that fell out of the cache is parsed again for each alert.
const STATEMENTS_MAX: usize = 512;
/// Refused alerts kept for people to look at; the count goes on.
const REFUSED_ROWS_MAX: i64 = 1_000;

/// Why `responder.db` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("responder store {path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer Keytrail.
    #[error("responder store has schema version {0}, this program knows {newest}", newest = MIGRATIONS.len())]
    Newer(i64),
    /// A statement failed.
    #[error("responder store failed")]
    Sql(#[from] rusqlite::Error),
    /// A value in the file is not what this code writes.
    #[error("responder store holds an unreadable {0}")]
    Damaged(&'static str),
    /// The verify key differs from the one pinned at first use.
    #[error("{0} differs from the one pinned in responder.db: remove it there only if the key was changed on purpose")]
    Pinned(&'static str),
    /// The blocking task was cancelled at shutdown.
    #[error("responder store was closed while in use")]
    Closed,
}

/// The open file. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens or creates `DIR/responder.db`.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(data_dir, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens an existing `DIR/responder.db`, as `keytrail incident` does.
    pub fn open_existing(data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(data_dir, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn open_with(data_dir: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let path = data_dir.join("responder.db");
        let open_error = |source| StoreError::Open { path: path.clone(), source };
        if flags.contains(OpenFlags::SQLITE_OPEN_CREATE) {
            create_private(&path)
                .map_err(|error| open_error(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        }
        let connection =
            Connection::open_with_flags(&path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(open_error)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        // Otherwise SQLite plans a cached statement anew for each value that is bound to it (its feature STAT4).
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let store = Self { connection: Arc::new(Mutex::new(connection)) };
        store.prepare_schema(&path)?;
        Ok(store)
    }

    /// A store that ends with the process: for what only is tried.
    pub(crate) fn in_memory() -> Result<Self, StoreError> {
        let store = Self { connection: Arc::new(Mutex::new(Connection::open_in_memory()?)) };
        store.write_now(|tx| MIGRATIONS.iter().try_for_each(|step| Ok(tx.execute_batch(step)?)))?;
        Ok(store)
    }

    /// Takes the schema forward, one step after the other in one transaction; a file that holds data is copied before.
    fn prepare_schema(&self, path: &Path) -> Result<(), StoreError> {
        let held: i64 = self.read_now(|db| Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?))?;
        let (Ok(done), newest) = (usize::try_from(held), MIGRATIONS.len()) else { return Err(StoreError::Newer(held)) };
        if done > newest {
            return Err(StoreError::Newer(held));
        }
        if done == newest {
            return Ok(());
        }
        if done > 0 {
            self.copy_before(path, held)?;
        }
        self.write_now(|tx| {
            // Another process may have done it meanwhile.
            let now: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
            for step in MIGRATIONS.iter().skip(usize::try_from(now).unwrap_or(newest)) {
                tx.execute_batch(step)?;
            }
            Ok(tx.pragma_update(None, "user_version", i64::try_from(newest).unwrap_or(i64::MAX))?)
        })
    }

    /// `responder.db.v<version>`: for a return to the program of before. It holds no secret and is never used by itself.
    fn copy_before(&self, path: &Path, version: i64) -> Result<(), StoreError> {
        let copy = path.with_extension(format!("db.v{version}"));
        let failed = |error: std::io::Error| StoreError::Open {
            path: copy.clone(),
            source: rusqlite::Error::ToSqlConversionFailure(Box::new(error)),
        };
        // SQLite fills an empty file, and so keeps the mode that this one has.
        File::options().create(true).write(true).truncate(true).mode(0o600).open(&copy).map_err(failed)?;
        self.read_now(|db| Ok(db.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?))?;
        Ok(())
    }

    /// One durable transaction off the async threads; an error rolls everything back.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.write_now(change)).await.map_err(|_| StoreError::Closed)?
    }

    /// Like [`Store::write`], on the calling thread.
    pub fn write_now<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // A panic in an earlier holder rolled its transaction back, so the connection is sound.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    /// Reads off the async threads.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.read_now(look)).await.map_err(|_| StoreError::Closed)?
    }

    /// Reads on the calling thread.
    pub fn read_now<T>(&self, look: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        look(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// SQLite would create the file for everyone to read; its companions take over the mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    File::options().create(true).append(true).mode(0o600).open(path).map(drop)
}

/// The clock's time as SQLite holds it.
pub(crate) fn now_us(clock: &dyn Clock) -> Micros {
    Micros::try_from(clock.now_us()).unwrap_or(Micros::MAX)
}

/// The first position of `source` that was not taken in yet.
pub fn position(db: &Connection, source: &str) -> Result<Option<i64>, StoreError> {
    let mut statement = db.prepare_cached("SELECT next FROM positions WHERE source = ?1")?;
    Ok(statement.query_row([source], |row| row.get(0)).optional()?)
}

/// All positions, to open a source with.
pub fn positions(db: &Connection) -> Result<Vec<(String, i64)>, StoreError> {
    let mut statement = db.prepare_cached("SELECT source, next FROM positions")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Everything of `source` before `next` was taken in.
pub fn set_position(tx: &Transaction<'_>, source: &str, next: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO positions(source, next) VALUES (?1, ?2) ON CONFLICT(source) DO UPDATE SET next = ?2",
    )?
    .execute(params![source, next])?;
    Ok(())
}

/// Adds one to a counter and returns it.
pub fn count(tx: &Transaction<'_>, name: &str) -> Result<i64, StoreError> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO counts(name, value) VALUES (?1, 1) ON CONFLICT(name) DO UPDATE SET value = value + 1
         RETURNING value",
    )?;
    Ok(statement.query_row([name], |row| row.get(0))?)
}

/// A counter's value.
pub fn counted(db: &Connection, name: &str) -> Result<i64, StoreError> {
    let value = db.query_row("SELECT value FROM counts WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    Ok(value.unwrap_or(0))
}

/// Keeps what was refused, the newest `REFUSED_ROWS_MAX`.
pub fn record_refusal(
    tx: &Transaction<'_>,
    at_us: Micros,
    source: &str,
    position: i64,
    reason: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO refused(at_us, source, position, reason) VALUES (?1, ?2, ?3, ?4)",
        params![at_us, source, position, reason],
    )?;
    tx.execute("DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - ?1", [REFUSED_ROWS_MAX])?;
    Ok(())
}

/// Remembers a verify key at first use; a different one later is refused.
pub fn pin(tx: &Transaction<'_>, name: &'static str, value: &str) -> Result<(), StoreError> {
    let held: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE key = ?1", [name], |row| row.get(0)).optional()?;
    match held {
        None => {
            tx.execute("INSERT INTO meta(key, value) VALUES (?1, ?2)", [name, value])?;
            Ok(())
        }
        Some(held) if held == value => Ok(()),
        Some(_) => Err(StoreError::Pinned(name)),
    }
}

/// Lets the next start take another log's key, where operators have ended the log of before.
pub fn forget_log_key(data_dir: &Path) -> Result<(), StoreError> {
    if data_dir.join("responder.db").exists() {
        Store::open(data_dir)?.write_now(|tx| Ok(tx.execute("DELETE FROM meta WHERE key = 'log_vkey'", [])?))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_change_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let failed = store.write_now(|tx| {
            set_position(tx, "s", 7)?;
            Err::<(), _>(StoreError::Damaged("test"))
        });
        assert!(failed.is_err());
        assert_eq!(store.read_now(|db| position(db, "s")).unwrap(), None);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write_now(|tx| Ok(tx.pragma_update(None, "user_version", 999)?)).unwrap();
        drop(store);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Newer(999))));
    }

    #[test]
    fn an_older_store_is_taken_forward_and_copied_before() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(dir.path().join("responder.db")).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute("INSERT INTO positions(source, next) VALUES ('s', 7)", []).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.read_now(|db| position(db, "s")).unwrap(), Some(7));
        let copy = dir.path().join("responder.db.v1");
        assert_eq!(copy.exists(), MIGRATIONS.len() > 1);
    }

    #[test]
    fn a_pinned_key_cannot_be_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.write_now(|tx| pin(tx, "alert_vkey", "a")).unwrap();
        store.write_now(|tx| pin(tx, "alert_vkey", "a")).unwrap();
        assert!(matches!(store.write_now(|tx| pin(tx, "alert_vkey", "b")), Err(StoreError::Pinned(_))));
    }

    #[test]
    fn the_timeline_cannot_be_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store
            .write_now(|tx| {
                tx.execute("INSERT INTO timeline(incident, at_us, kind, text) VALUES ('i', 1, 'k', 't')", [])?;
                Ok(())
            })
            .unwrap();
        for sql in ["UPDATE timeline SET text = 'x'", "DELETE FROM timeline"] {
            assert!(store.write_now(|tx| Ok(tx.execute(sql, [])?)).is_err(), "{sql}");
        }
    }
}
