//! The rows that operations write, and the transaction that ties them to an event.

use super::{FORMER_ROOT_KEYS, Rewrapped, StoreError, integer, key_blob as blob, material_blob};
use crate::grant::{Grant, GrantPlace};
use crate::key::{AccountId, AutomaticRotation, Imports, KeyId, KeyState, Region};
use crate::overlay::{MfaRequirement, Quarantine, Scope, Withdrawal};
use crate::spec::{KeyKind, RotationType};
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::sync::Arc;

/// A new key's row.
#[derive(Clone, Debug)]
pub(crate) struct KeyRow {
    /// The id.
    pub(crate) id: KeyId,
    /// The owner.
    pub(crate) account: AccountId,
    /// Spec, usage and origin.
    pub(crate) kind: KeyKind,
    /// Free text.
    pub(crate) description: String,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// eventID of the creation, which set the first policy.
    pub(crate) policy_event: String,
    /// Enabled, waiting for its material, or a replica that was just made.
    pub(crate) state: KeyState,
    /// Where the primary key is; none for a key of one region.
    pub(crate) primary: Option<Region>,
    /// Id of the material; empty for a key whose material will be imported.
    pub(crate) material_id: String,
    /// The first material; none for a key whose material is imported or that of related keys.
    pub(crate) material: Option<MaterialRow>,
    /// Whether the material is in this key's region.
    pub(crate) material_here: bool,
    /// Text of the first policy.
    pub(crate) policy: String,
    /// The service whose key it is.
    pub(crate) service: Option<String>,
    /// Id of the custom key store whose token has the key.
    pub(crate) custom_key_store: Option<String>,
}

/// One generation of a key's material.
#[derive(Clone, Debug)]
pub(crate) struct MaterialRow {
    /// Its id.
    pub(crate) id: String,
    /// The material, wrapped under the root key.
    pub(crate) wrapped: Vec<u8>,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// The rotation that brought it.
    pub(crate) rotation: Option<RotationType>,
}

/// One change of stored state.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A key with its material and first policy.
    InsertKey(Box<KeyRow>),
    /// Another state.
    SetState(KeyId, KeyState),
    /// Another description.
    SetDescription(KeyId, String),
    /// Another schedule, and when a rotation on demand was asked for.
    SetRotation(KeyId, Option<AutomaticRotation>, Option<u64>),
    /// When imported material ends by itself.
    SetValidTo(KeyId, Option<u64>),
    /// Imported material goes; the key keeps the id of its current one.
    DeleteMaterial(KeyId, String),
    /// New or re-imported material, which becomes the current one.
    AddMaterial(KeyId, Box<MaterialRow>),
    /// New or re-imported material beside the current one.
    PutMaterial(KeyId, Box<MaterialRow>),
    /// What is known of imported material beside the current one, and whether the key comes back disabled.
    SetImports(KeyId, Arc<Imports>, bool),
    /// Other material of its related keys becomes the current one.
    SetMaterial(KeyId, String),
    /// Another policy; the former stays in the history.
    SetPolicy {
        /// Whose.
        id: KeyId,
        /// eventID that sets it.
        event_id: String,
        /// The text.
        policy: String,
        /// Unix microseconds.
        set_us: u64,
        /// ARN of the caller.
        set_by: String,
    },
    /// Another region has the primary key of these related keys.
    SetPrimaryRegion(KeyId, Region),
    /// The key and all that belongs to it, for good; its material unless related keys have it.
    DeleteKey(KeyId),
    /// A new alias or another target.
    PutAlias {
        /// Owner.
        account: AccountId,
        /// With `alias/`.
        name: String,
        /// Target, in the alias's region.
        id: KeyId,
        /// Unix microseconds.
        created_us: u64,
        /// Unix microseconds.
        updated_us: u64,
        /// eventID of the change: the target's place in the alias's history.
        event_id: String,
    },
    /// The alias goes.
    DeleteAlias(AccountId, Region, String),
    /// A new tag or another value.
    PutTag(KeyId, String, String),
    /// The tag goes.
    DeleteTag(KeyId, String),
    /// A new grant.
    InsertGrant(Arc<Grant>),
    /// The grant goes.
    DeleteGrant(GrantPlace),
    /// A new quarantine or another end.
    PutQuarantine {
        /// Who.
        principal_arn: String,
        /// Where.
        scope: Scope,
        /// The rest.
        entry: Quarantine,
    },
    /// The quarantine of a principal in a scope goes.
    DeleteQuarantine(String, Scope),
    /// A new requirement of a second factor, or another in its place.
    PutMfaRequirement(Scope, MfaRequirement),
    /// The requirement goes.
    DeleteMfaRequirement(Scope),
    /// An access key is not honoured any more.
    WithdrawAccessKey(String, Withdrawal),
    /// It is again.
    GiveBackAccessKey(String),
    /// The identities in force.
    SetIdentitiesHash(String),
    /// How the root key is sealed.
    SetRootKeySeal(String),
    /// Everything under the next root key.
    Rewrap(Box<Rewrapped>),
    /// The keys behind what callers hold from under root keys of before; none when the last have ended.
    SetFormerRootKeys(Option<Vec<u8>>),
    /// A user, policy or the like, new or changed. Without `sealed` a secret that is there stays.
    PutEntity {
        /// Owner.
        account: AccountId,
        /// `user`, `group` and so on.
        kind: &'static str,
        /// Unique in its account and kind.
        name: String,
        /// JSON.
        body: String,
        /// Its secret, sealed under the root key.
        sealed: Option<Vec<u8>>,
    },
    /// A user, policy or the like goes.
    DeleteEntity {
        /// Owner.
        account: AccountId,
        /// `user`, `group` and so on.
        kind: &'static str,
        /// Unique in its account and kind.
        name: String,
    },
    /// The step of the code that an MFA device used.
    SetMfaStep(String, u64),
}

/// An event waiting for the journal.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    /// The event's id.
    pub(crate) event_id: String,
    /// The number of the change, also in the payload.
    pub(crate) mutation: u64,
    /// The event's exact bytes.
    pub(crate) payload: Bytes,
}

/// The memory of an action of the responder.
#[derive(Clone, Debug)]
pub(crate) struct ActionRow {
    /// The responder's id for it.
    pub(crate) action_id: String,
    /// SHA-256 over target and body.
    pub(crate) request_sha256: [u8; 32],
    /// The event of the first call.
    pub(crate) event_id: String,
    /// HTTP status of the answer.
    pub(crate) status: u16,
    /// Body of the answer.
    pub(crate) answer: Bytes,
    /// Unix microseconds.
    pub(crate) created_us: u64,
}

/// What commits together.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// The changes, in order.
    pub(crate) changes: Vec<Change>,
    /// Their events, in the order in which the journal gets them.
    pub(crate) outbox: Vec<OutboxRow>,
    /// The action they belong to.
    pub(crate) action: Option<ActionRow>,
}

impl Transaction {
    pub(super) fn apply(&self, connection: &Connection) -> Result<(), StoreError> {
        for change in &self.changes {
            change.apply(connection)?;
        }
        for row in &self.outbox {
            row.insert(connection)?;
        }
        if let Some(action) = &self.action {
            connection.prepare_cached("INSERT INTO actions VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
                action.action_id,
                &action.request_sha256[..],
                action.event_id,
                action.status,
                &action.answer[..],
                integer(action.created_us)
            ])?;
        }
        Ok(())
    }
}

impl OutboxRow {
    fn insert(&self, connection: &Connection) -> Result<(), StoreError> {
        let Self { event_id, mutation, payload } = self;
        connection
            .prepare_cached("INSERT INTO outbox (event_id, mutation, payload) VALUES (?1, ?2, ?3)")?
            .execute(params![event_id, integer(*mutation), &payload[..]])?;
        connection
            .prepare_cached(
                "INSERT INTO meta (name, value) VALUES ('mutation', ?1)
                 ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            )?
            .execute([integer(*mutation)])?;
        Ok(())
    }
}

impl Change {
    fn apply(&self, connection: &Connection) -> Result<(), StoreError> {
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<(), StoreError> {
            connection.prepare_cached(sql)?.execute(values)?;
            Ok(())
        };
        match self {
            Self::InsertKey(row) => insert_key(connection, row),
            Self::SetState(id, state) => run(
                "UPDATE keys SET state = ?2, deletion_us = ?3, pending_window_days = ?4, transient_until_us = ?5
                 WHERE key_id = ?1",
                &[
                    &blob(*id),
                    &state.name(),
                    &state.deletion_us().map(integer),
                    &state.window_days(),
                    &state.until_us().map(integer),
                ],
            ),
            Self::SetDescription(id, text) => {
                run("UPDATE keys SET description = ?2 WHERE key_id = ?1", &[&blob(*id), text])
            }
            Self::SetRotation(id, rotation, on_demand_us) => run(
                "UPDATE keys SET rotation_days = ?2, next_rotation_us = ?3, on_demand_us = ?4 WHERE key_id = ?1",
                &[
                    &blob(*id),
                    &rotation.map(|rotation| rotation.period_days),
                    &rotation.map(|rotation| integer(rotation.next_us)),
                    &on_demand_us.map(integer),
                ],
            ),
            Self::SetValidTo(id, valid_to_us) => {
                run("UPDATE keys SET valid_to_us = ?2 WHERE key_id = ?1", &[&blob(*id), &valid_to_us.map(integer)])
            }
            Self::DeleteMaterial(id, material_id) => {
                run(
                    "UPDATE keys SET material_away = 1 WHERE key_id = ?1 AND material_id = ?2",
                    &[&blob(*id), material_id],
                )?;
                delete_material(connection, *id, Some(material_id))
            }
            Self::AddMaterial(id, row) => {
                insert_material(connection, *id, row)?;
                run("UPDATE keys SET material_id = ?2, material_away = 0 WHERE key_id = ?1", &[&blob(*id), &row.id])
            }
            Self::PutMaterial(id, row) => insert_material(connection, *id, row),
            Self::SetImports(id, imports, disabled) => {
                let text = serde_json::to_string(&**imports).expect("imports are texts and numbers");
                run(
                    "UPDATE keys SET imports = ?2, comes_back_disabled = ?3 WHERE key_id = ?1",
                    &[&blob(*id), &text, disabled],
                )
            }
            Self::SetPolicy { id, event_id, policy, set_us, set_by } => {
                run("UPDATE keys SET policy_event = ?2 WHERE key_id = ?1", &[&blob(*id), event_id])?;
                run(
                    "INSERT INTO key_policies VALUES (?1, ?2, ?3, ?4, ?5)",
                    &[&blob(*id), event_id, policy, &integer(*set_us), set_by],
                )
            }
            Self::SetMaterial(id, material_id) => {
                run("UPDATE keys SET material_id = ?2 WHERE key_id = ?1", &[&blob(*id), material_id])
            }
            Self::SetPrimaryRegion(id, primary) => {
                run("UPDATE keys SET primary_region = ?2 WHERE key_id = ?1", &[&blob(*id), &primary.as_str()])
            }
            Self::DeleteKey(id) => {
                ["keys", "key_policies", "key_usage", "aliases", "alias_targets", "tags", "grants"]
                    .iter()
                    .try_for_each(|table| run(&format!("DELETE FROM {table} WHERE key_id = ?1"), &[&blob(*id)]))?;
                delete_material(connection, *id, None)
            }
            Self::PutAlias { account, name, id, created_us, updated_us, event_id } => {
                let (region, key) = (id.region.as_str(), blob(*id));
                run(
                    "INSERT INTO aliases VALUES (?1, ?6, ?2, ?3, ?4, ?5)
                     ON CONFLICT (account, region, name) DO UPDATE SET key_id = excluded.key_id, updated_us = excluded.updated_us",
                    &[&account.as_str(), name, &key, &integer(*created_us), &integer(*updated_us), &region],
                )?;
                run(
                    "INSERT INTO alias_targets (account, region, name, event_id, key_id) VALUES (?1, ?2, ?3, ?4, ?5)",
                    &[&account.as_str(), &region, name, event_id, &key],
                )
            }
            Self::DeleteAlias(account, region, name) => run(
                "DELETE FROM aliases WHERE account = ?1 AND region = ?2 AND name = ?3",
                &[&account.as_str(), &region.as_str(), name],
            ),
            Self::PutTag(id, name, value) => run(
                "INSERT INTO tags VALUES (?1, ?2, ?3)
                 ON CONFLICT (key_id, name) DO UPDATE SET value = excluded.value",
                &[&blob(*id), name, value],
            ),
            Self::DeleteTag(id, name) => run("DELETE FROM tags WHERE key_id = ?1 AND name = ?2", &[&blob(*id), name]),
            Self::InsertGrant(grant) => insert_grant(connection, grant),
            Self::DeleteGrant(place) => {
                run("DELETE FROM grants WHERE key_id = ?1 AND grant_id = ?2", &[&blob(place.key), &&place.id.0[..]])
            }
            Self::PutQuarantine { principal_arn, scope, entry } => run(
                "INSERT OR REPLACE INTO quarantines VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                &[principal_arn, scope, &entry.key_arn, &integer(entry.expires_us), &entry.reason, &entry.event_id],
            ),
            Self::DeleteQuarantine(principal_arn, scope) => {
                run("DELETE FROM quarantines WHERE principal_arn = ?1 AND scope = ?2", &[principal_arn, scope])
            }
            Self::PutMfaRequirement(scope, entry) => run(
                "INSERT OR REPLACE INTO mfa_requirements VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                &[
                    scope,
                    &entry.on_arn,
                    &entry.actions.join(" "),
                    &integer(entry.expires_us),
                    &entry.reason,
                    &entry.event_id,
                ],
            ),
            Self::DeleteMfaRequirement(scope) => run("DELETE FROM mfa_requirements WHERE scope = ?1", &[scope]),
            Self::WithdrawAccessKey(access_key_id, entry) => run(
                "INSERT OR REPLACE INTO withdrawn_access_keys VALUES (?1, ?2, ?3, ?4)",
                &[access_key_id, &entry.principal_arn, &entry.reason, &entry.event_id],
            ),
            Self::GiveBackAccessKey(access_key_id) => {
                run("DELETE FROM withdrawn_access_keys WHERE access_key_id = ?1", &[access_key_id])
            }
            Self::PutEntity { account, kind, name, body, sealed } => run(
                "INSERT INTO entities VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (account, kind, name)
                 DO UPDATE SET body = excluded.body, sealed = coalesce(excluded.sealed, sealed)",
                &[&account.as_str(), kind, name, body, sealed],
            ),
            Self::DeleteEntity { account, kind, name } => run(
                "DELETE FROM entities WHERE account = ?1 AND kind = ?2 AND name = ?3",
                &[&account.as_str(), kind, name],
            ),
            Self::SetMfaStep(serial, step) => {
                run("INSERT OR REPLACE INTO mfa_steps VALUES (?1, ?2)", &[serial, &integer(*step)])
            }
            Self::SetRootKeySeal(seal) => run("INSERT OR REPLACE INTO meta VALUES ('root_key_seal', ?1)", &[seal]),
            Self::Rewrap(rewrapped) => rewrapped.apply(connection),
            Self::SetFormerRootKeys(None) => run("DELETE FROM meta WHERE name = ?1", &[&FORMER_ROOT_KEYS]),
            Self::SetFormerRootKeys(Some(sealed)) => {
                run("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", &[&FORMER_ROOT_KEYS, sealed])
            }
            Self::SetIdentitiesHash(hash) => run("INSERT OR REPLACE INTO meta VALUES ('identities_hash', ?1)", &[hash]),
        }
    }
}

fn insert_key(connection: &Connection, row: &KeyRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO keys (key_id, account, region, state, description, created_us, policy_event, material_id, spec,
                               usage, origin, service, primary_region, material_away, transient_until_us,
                               custom_key_store)
             VALUES (?1, ?2, ?3, ?11, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            blob(row.id),
            row.account.as_str(),
            row.id.region.as_str(),
            row.description,
            integer(row.created_us),
            row.policy_event,
            row.material_id,
            row.kind.spec.name(),
            row.kind.usage.name(),
            row.kind.origin.name(),
            row.state.name(),
            row.service,
            row.primary.as_ref().map(Region::as_str),
            !row.material_here,
            row.state.until_us().map(integer),
            row.custom_key_store
        ])?;
    if let Some(material) = &row.material {
        insert_material(connection, row.id, material)?;
    }
    connection.prepare_cached("INSERT INTO key_policies VALUES (?1, ?2, ?3, ?4, NULL)")?.execute(params![
        blob(row.id),
        row.policy_event,
        row.policy,
        integer(row.created_us)
    ])?;
    Ok(())
}

fn insert_material(connection: &Connection, id: KeyId, row: &MaterialRow) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO key_materials (material_id, key_id, wrapped, created_us, rotation) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            row.id,
            material_blob(id),
            row.wrapped,
            integer(row.created_us),
            row.rotation.map(RotationType::name)
        ])?;
    Ok(())
}

/// Deletes a key's material, all or one, where neither it nor a related key has it any more.
fn delete_material(connection: &Connection, id: KeyId, one: Option<&String>) -> Result<(), StoreError> {
    let first = material_blob(id);
    // Behind the ids of all related keys: no region's name has such a byte.
    let last = [&first[..], &[0xff]].concat();
    connection
        .prepare_cached(
            "DELETE FROM key_materials WHERE key_id = ?1 AND (?3 IS NULL OR material_id = ?3)
             AND NOT EXISTS (SELECT 1 FROM keys WHERE key_id >= ?1 AND key_id < ?2 AND material_away = 0
                             AND (?3 IS NULL OR material_id = ?3))",
        )?
        .execute(params![first, last, one])?;
    Ok(())
}

fn insert_grant(connection: &Connection, grant: &Grant) -> Result<(), StoreError> {
    let GrantPlace { account, key, id } = grant.place;
    let operations: Vec<&str> = grant.terms.operations.names().collect();
    let constraints = serde_json::to_string(&grant.terms.constraints).expect("constraints are maps of text");
    connection.prepare_cached("INSERT INTO grants VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?.execute(
        params![
            blob(key),
            &id.0[..],
            account.as_str(),
            grant.name,
            grant.grantee,
            grant.retiring,
            grant.issuing_account.as_str(),
            operations.join(" "),
            constraints,
            integer(grant.created_us)
        ],
    )?;
    Ok(())
}
