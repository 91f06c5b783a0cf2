//! Everything in the store that the root key wraps: read for wrapping it anew, and put back in one transaction.
//!
//! Rows are read on a connection of their own while the change of root keys keeps every other change out. What is wrapped
//! but not listed here would be lost with the root key of before, so the counts of rows must agree.

use super::load::{EntityRow, entities, key_id, kind, rows};
use super::{BREAK_GLASS_MATERIAL, FORMER_ROOT_KEYS, ROOT_KEY_ID, StoreError, material_blob};
use crate::key::{AccountId, KeyId};
use crate::spec::KeyKind;
use rusqlite::{Connection, OpenFlags, params};
use std::path::Path;

/// One generation of material, with what it is bound to.
pub(crate) struct WrappedMaterial {
    pub(crate) account: AccountId,
    pub(crate) key: KeyId,
    pub(crate) kind: KeyKind,
    pub(crate) id: String,
    pub(crate) wrapped: Vec<u8>,
}

/// All that is wrapped under the root key in force.
pub(crate) struct WrappedRows {
    /// Key material, former generations too.
    pub(crate) materials: Vec<WrappedMaterial>,
    /// Access keys and MFA devices.
    pub(crate) secrets: Vec<EntityRow>,
    /// For the few rows of `meta`.
    pub(crate) connection: Connection,
}

/// The same under the next root key.
#[derive(Clone, Debug)]
pub(crate) struct Rewrapped {
    /// Id of the next root key.
    pub(crate) root_key_id: String,
    /// Key material.
    pub(crate) materials: Vec<(KeyId, String, Vec<u8>)>,
    /// Account, kind, name and secret.
    pub(crate) secrets: Vec<(AccountId, String, String, Vec<u8>)>,
    /// The material behind the break-glass credentials.
    pub(crate) break_glass: Vec<u8>,
    /// The keys behind what callers still hold; none when nothing is honoured.
    pub(crate) former: Option<Vec<u8>>,
}

impl WrappedRows {
    /// Reads what is committed. Blocks.
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(path, flags);
        let connection = opened.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        let materials = materials(&connection)?;
        let all: u32 = connection.query_row("SELECT count(*) FROM key_materials", [], |row| row.get(0))?;
        if u32::try_from(materials.len()) != Ok(all) {
            return Err(StoreError::Row { table: "key_materials" });
        }
        let secrets = entities(&connection)?.into_iter().filter(|row| row.sealed.is_some()).collect();
        Ok(Self { materials, secrets, connection })
    }
}

fn materials(connection: &Connection) -> Result<Vec<WrappedMaterial>, StoreError> {
    // Of related multi-Region keys, which share a row, any: it is bound to what they share.
    let sql = "SELECT k.key_id, k.region, m.material_id, m.wrapped, k.account, k.spec, k.usage, k.origin
               FROM keys k JOIN key_materials m ON m.key_id = substr(k.key_id, 1, 16) GROUP BY m.material_id";
    rows(connection, sql, |row| {
        Ok(WrappedMaterial {
            account: AccountId::parse(&row.get::<_, String>(4)?).ok_or(StoreError::Row { table: "keys" })?,
            key: key_id(row, 0, "key_materials")?,
            kind: kind(row, 5)?,
            id: row.get(2)?,
            wrapped: row.get(3)?,
        })
    })
}

impl Rewrapped {
    /// Puts everything in place of what it was wrapped anew from; a row that is not there any more is a contradiction.
    pub(super) fn apply(&self, connection: &Connection) -> Result<(), StoreError> {
        let one = |changed| if changed == 1 { Ok(()) } else { Err(StoreError::Conflict) };
        let sql = "UPDATE key_materials SET wrapped = ?3 WHERE material_id = ?2 AND key_id = ?1";
        let mut update = connection.prepare_cached(sql)?;
        for (key, id, wrapped) in &self.materials {
            one(update.execute(params![material_blob(*key), id, wrapped])?)?;
        }
        let sql = "UPDATE entities SET sealed = ?4 WHERE account = ?1 AND kind = ?2 AND name = ?3";
        let mut update = connection.prepare_cached(sql)?;
        for (account, kind, name, sealed) in &self.secrets {
            one(update.execute(params![account.as_str(), kind, name, sealed])?)?;
        }
        let sql = "UPDATE meta SET value = ?2 WHERE name = ?1";
        one(connection.execute(sql, params![BREAK_GLASS_MATERIAL, self.break_glass])?)?;
        one(connection.execute(sql, params![ROOT_KEY_ID, self.root_key_id])?)?;
        connection.execute("DELETE FROM meta WHERE name = ?1", [FORMER_ROOT_KEYS])?;
        if let Some(former) = &self.former {
            connection.execute("INSERT INTO meta VALUES (?1, ?2)", params![FORMER_ROOT_KEYS, former])?;
        }
        Ok(())
    }
}
