//! `kms.db`: the node's state in SQLite, with the outbox that ties each change to its event.
//!
//! A change, its outbox row and its action row commit in one transaction; the event then goes to the journal and the
//! row is deleted later. Whoever can write this file can undo changes unseen by the log's readers until the next
//! start compares mutation numbers, but holds no key: materials are wrapped under `root.key`. `writer` is the one
//! connection that writes, `change` the rows, `load` what start-up reads, `copies` what a new version keeps of an old one,
//! `rewrap` all that another root key wraps anew.

mod change;
mod copies;
mod load;
mod rewrap;
mod writer;

pub(crate) use change::{ActionRow, Change, KeyRow, MaterialRow, OutboxRow, Transaction};
pub(crate) use load::{AliasRow, EntityRow, Loaded, LoadedMaterial};
pub(crate) use rewrap::{Rewrapped, WrappedRows};
pub(crate) use writer::{Store, StoredAction};

use crate::key::{KeyId, Region};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or created.
    #[error("store {path} cannot be opened")]
    Open {
        /// The database file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer Keytrail: going on could lose what it added.
    #[error("store has schema version {found}, this build knows up to {known}")]
    Version {
        /// What the file says.
        found: i64,
        /// The newest this build knows.
        known: i64,
    },
    /// A statement failed.
    #[error("store statement failed")]
    Query(#[from] rusqlite::Error),
    /// The file's copy cannot be kept or taken away.
    #[error("{step} {path}")]
    Copy {
        /// What was tried.
        step: &'static str,
        /// The copy.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A row holds something no version of Keytrail writes.
    #[error("store row of {table} cannot be read")]
    Row {
        /// Which table.
        table: &'static str,
    },
    /// The disk is full; nothing was committed and later calls may succeed.
    #[error("no space to commit to the store")]
    NoSpace,
    /// The transaction contradicts what is stored; nothing was committed.
    #[error("transaction contradicts the stored state")]
    Conflict,
    /// An earlier commit failed in a way that leaves its outcome unknown; a restart reads the truth.
    #[error("store stopped after a failed commit")]
    Failed,
}

/// In `meta`: no outbox row's event has a seq up to this one.
pub(crate) const CLEAN_THROUGH: &str = "outbox_clean_through_seq";
/// In `meta`: up to which record the last uses of keys were stored.
pub(crate) const USAGE_THROUGH: &str = "usage_through_seq";
/// In `meta`: id of the root key that everything is wrapped under.
pub(crate) const ROOT_KEY_ID: &str = "root_key_id";
/// In `meta`: the keys behind what callers hold from under root keys of before, sealed.
pub(crate) const FORMER_ROOT_KEYS: &str = "former_root_keys";
/// In `meta`: the material behind the break-glass credentials, wrapped.
pub(crate) const BREAK_GLASS_MATERIAL: &str = "break_glass_material";
/// In `meta`: no deleted outbox row's event has a seq above this one.
pub(crate) const RECORDED_THROUGH: &str = "outbox_recorded_through_seq";

/// Forward-only: the database at version n has had the first n applied.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (
  key_id BLOB PRIMARY KEY, account TEXT NOT NULL, region TEXT NOT NULL, state TEXT NOT NULL, deletion_us INTEGER,
  description TEXT NOT NULL, created_us INTEGER NOT NULL, policy_event TEXT NOT NULL, material_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE key_materials (
  material_id TEXT PRIMARY KEY, key_id BLOB NOT NULL, wrapped BLOB NOT NULL, created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX key_materials_of_key ON key_materials (key_id);
CREATE TABLE key_policies (
  key_id BLOB NOT NULL, event_id TEXT NOT NULL, policy TEXT NOT NULL, set_us INTEGER NOT NULL,
  PRIMARY KEY (key_id, event_id)
) WITHOUT ROWID;
CREATE TABLE aliases (
  account TEXT NOT NULL, name TEXT NOT NULL, key_id BLOB NOT NULL, created_us INTEGER NOT NULL,
  updated_us INTEGER NOT NULL, PRIMARY KEY (account, name)
) WITHOUT ROWID;
CREATE TABLE tags (
  key_id BLOB NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key_id, name)
) WITHOUT ROWID;
CREATE TABLE quarantines (
  principal_arn TEXT PRIMARY KEY, expires_us INTEGER NOT NULL, reason TEXT NOT NULL, event_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE actions (
  action_id TEXT PRIMARY KEY, request_sha256 BLOB NOT NULL, event_id TEXT NOT NULL, status INTEGER NOT NULL,
  answer BLOB NOT NULL, created_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX actions_by_age ON actions (created_us);
CREATE TABLE outbox (
  commit_order INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE, mutation INTEGER NOT NULL,
  payload BLOB NOT NULL
);
",
    "
ALTER TABLE keys ADD COLUMN spec TEXT NOT NULL DEFAULT 'SYMMETRIC_DEFAULT';
ALTER TABLE keys ADD COLUMN usage TEXT NOT NULL DEFAULT 'ENCRYPT_DECRYPT';
ALTER TABLE keys ADD COLUMN origin TEXT NOT NULL DEFAULT 'AWS_KMS';
",
    "
ALTER TABLE keys ADD COLUMN rotation_days INTEGER;
ALTER TABLE keys ADD COLUMN next_rotation_us INTEGER;
ALTER TABLE keys ADD COLUMN on_demand_us INTEGER;
ALTER TABLE key_materials ADD COLUMN rotation TEXT;
",
    "
ALTER TABLE keys ADD COLUMN valid_to_us INTEGER;
",
    "
CREATE TABLE mfa_steps (serial TEXT PRIMARY KEY, step INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entities (
  account TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, sealed BLOB,
  PRIMARY KEY (account, kind, name)
) WITHOUT ROWID;
",
    "
CREATE TABLE grants (
  key_id BLOB NOT NULL, grant_id BLOB NOT NULL, account TEXT NOT NULL, name TEXT, grantee TEXT NOT NULL, retiring TEXT,
  issuing_account TEXT NOT NULL, operations TEXT NOT NULL, constraints TEXT NOT NULL, created_us INTEGER NOT NULL,
  PRIMARY KEY (key_id, grant_id)
) WITHOUT ROWID;
",
    "
ALTER TABLE keys ADD COLUMN comes_back_disabled INTEGER NOT NULL DEFAULT 0;
",
    "
CREATE TABLE key_usage (
  key_id BLOB PRIMARY KEY, operation TEXT NOT NULL, used_us INTEGER NOT NULL, event_id TEXT NOT NULL,
  request_id TEXT NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;
",
    "
ALTER TABLE keys ADD COLUMN service TEXT;
",
    // From here on the key_id of a multi-Region key is its UUID and then its region; its material is under the UUID.
    "
ALTER TABLE keys ADD COLUMN primary_region TEXT;
ALTER TABLE keys ADD COLUMN material_away INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN pending_window_days INTEGER;
ALTER TABLE keys ADD COLUMN transient_until_us INTEGER;
CREATE TABLE aliases_of_regions (
  account TEXT NOT NULL, region TEXT NOT NULL, name TEXT NOT NULL, key_id BLOB NOT NULL, created_us INTEGER NOT NULL,
  updated_us INTEGER NOT NULL, PRIMARY KEY (account, region, name)
) WITHOUT ROWID;
INSERT INTO aliases_of_regions
  SELECT a.account, k.region, a.name, a.key_id, a.created_us, a.updated_us
  FROM aliases a JOIN keys k ON k.key_id = a.key_id;
DROP TABLE aliases;
ALTER TABLE aliases_of_regions RENAME TO aliases;
",
    // The custom key store whose token has the key; the stores themselves are among the entities.
    "
ALTER TABLE keys ADD COLUMN custom_key_store TEXT;
",
    // What is known of imported material beside the current one, as JSON; none for a key that has one at most.
    "
ALTER TABLE keys ADD COLUMN imports TEXT;
",
    // Quarantines of one key beside those of everything, whose scope is empty; requirements of a second factor; access keys
    // that are withdrawn; and to which keys aliases pointed. What set those of before is not known.
    "
CREATE TABLE scoped_quarantines (
  principal_arn TEXT NOT NULL, scope TEXT NOT NULL, key_arn TEXT, expires_us INTEGER NOT NULL, reason TEXT NOT NULL,
  event_id TEXT NOT NULL, PRIMARY KEY (principal_arn, scope)
) WITHOUT ROWID;
INSERT INTO scoped_quarantines SELECT principal_arn, '', NULL, expires_us, reason, event_id FROM quarantines;
DROP TABLE quarantines;
ALTER TABLE scoped_quarantines RENAME TO quarantines;
CREATE TABLE mfa_requirements (
  scope TEXT PRIMARY KEY, on_arn TEXT NOT NULL, actions TEXT NOT NULL, expires_us INTEGER NOT NULL,
  reason TEXT NOT NULL, event_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE withdrawn_access_keys (
  access_key_id TEXT PRIMARY KEY, principal_arn TEXT NOT NULL, reason TEXT NOT NULL, event_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE alias_targets (
  number INTEGER PRIMARY KEY, account TEXT NOT NULL, region TEXT NOT NULL, name TEXT NOT NULL, event_id TEXT NOT NULL,
  key_id BLOB NOT NULL, UNIQUE (account, region, name, event_id)
);
CREATE INDEX alias_targets_of_key ON alias_targets (key_id);
INSERT INTO alias_targets (account, region, name, event_id, key_id)
  SELECT account, region, name, 'unrecorded', key_id FROM aliases;
",
    // Who set a policy; nothing for those of before and for the first one of a key.
    "
ALTER TABLE key_policies ADD COLUMN set_by TEXT;
",
];

/// Opens the database, creating it only when `create` says so, and brings its schema up to date.
pub(crate) fn open(path: &Path, create: bool) -> Result<Connection, StoreError> {
    let opening = |source| StoreError::Open { path: path.to_owned(), source };
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(path, flags).map_err(opening)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(opening)?;
    // FULL: a commit is on disk when it returns; the journal builds on that.
    connection.pragma_update(None, "synchronous", "FULL").map_err(opening)?;
    connection.pragma_update(None, "secure_delete", "ON").map_err(opening)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Otherwise SQLite plans a cached statement anew for each value that is bound to it (its feature STAT4).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(opening)?;
    migrate(&connection, path)?;
    Ok(connection)
}

fn migrate(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).expect("a handful of migrations");
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Version { found, known });
    }
    if (1..known).contains(&found) {
        copies::make(connection, path, found)?;
    }
    for (index, statements) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {statements} PRAGMA user_version = {}; COMMIT;", index + 1))?;
    }
    Ok(())
}

/// A key's id as the store has it.
fn key_blob(id: KeyId) -> Vec<u8> {
    let mut bytes = id.uuid.as_bytes().to_vec();
    if id.multi_region {
        bytes.extend_from_slice(id.region.as_str().as_bytes());
    }
    bytes
}

/// Under what the store has a key's material: all related keys have one.
fn material_blob(id: KeyId) -> Vec<u8> {
    id.uuid.as_bytes().to_vec()
}

/// Reads what [`key_blob`] wrote, of a row of this region.
fn key_of_blob(bytes: &[u8], region: &str) -> Option<KeyId> {
    let (uuid, tail) = bytes.split_first_chunk::<16>()?;
    let multi_region = !tail.is_empty();
    let sane = !multi_region || tail == region.as_bytes();
    sane.then_some(KeyId { region: Region::parse(region)?, multi_region, uuid: Uuid::from_bytes(*uuid) })
}

/// A text value of `meta`.
pub(crate) fn meta_text(connection: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()?)
}

/// A number of `meta`; zero when it was never set.
pub(crate) fn meta_number(connection: &Connection, name: &str) -> Result<Option<u64>, StoreError> {
    let value: Option<i64> =
        connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    value.map(|value| u64::try_from(value).map_err(|_| StoreError::Row { table: "meta" })).transpose()
}

/// A binary value of `meta`.
pub(crate) fn meta_blob(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()?)
}

/// SQLite holds signed 64-bit integers; times and numbers of ours fit far below that.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64, table: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Row { table })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::key::KeyState;
    use crate::spec::KeyKind;

    /// A key that the first version wrote is the symmetric key it was, and its file is copied before it changes.
    #[test]
    fn a_store_of_the_first_version_is_brought_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(&format!("{} PRAGMA user_version = 1;", MIGRATIONS[0])).unwrap();
        let id = Uuid::nil();
        old.execute(
            "INSERT INTO keys VALUES (?1, '123456789012', 'eu-central-1', 'Disabled', NULL, 'old', 5, ?2, 'aa')",
            rusqlite::params![&id.as_bytes()[..], id.to_string()],
        )
        .unwrap();
        let key_id = &id.as_bytes()[..];
        old.execute("INSERT INTO key_materials VALUES ('aa', ?1, x'01', 5)", [key_id]).unwrap();
        let policy = rusqlite::params![key_id, id.to_string()];
        old.execute("INSERT INTO key_policies VALUES (?1, ?2, '{}', 5)", policy).unwrap();
        old.execute("INSERT INTO aliases VALUES ('123456789012', 'alias/old', ?1, 5, 5)", [key_id]).unwrap();
        drop(old);
        let connection = open(&path, false).unwrap();
        assert!(path.with_extension("db.v1").exists());
        let mut keys = Vec::new();
        Loaded::keys(&connection, |key| {
            keys.push(key);
            Ok::<(), StoreError>(())
        })
        .unwrap();
        let [key] = keys.as_slice() else { panic!("one key") };
        let region = Region::parse("eu-central-1").unwrap();
        assert_eq!((key.id, key.kind, key.state), (KeyId::single(region, id), KeyKind::SYMMETRIC, KeyState::Disabled));
        let loaded = Loaded::read(&connection).unwrap();
        let [alias] = loaded.aliases.as_slice() else { panic!("one alias") };
        assert_eq!((alias.name.as_str(), alias.id), ("alias/old", key.id));
        assert_eq!((key.rotation, key.on_demand_us, key.valid_to_us), (None, None, None));
        let material = key.material.as_ref().unwrap();
        assert_eq!((material.id.as_str(), material.wrapped.as_slice(), material.rotation), ("aa", &[1][..], None));
        // A lost row of material must not pass for imported material that is away.
        connection.execute("DELETE FROM key_materials", []).unwrap();
        assert!(Loaded::keys(&connection, |_| Ok::<(), StoreError>(())).is_err());
    }
}
