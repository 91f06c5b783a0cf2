//! What start-up reads: every key, alias and quarantine, and the events that may have missed the journal.

use super::{OutboxRow, StoreError, key_of_blob, meta_number, meta_text, unsigned};
use crate::grant::{Grant, GrantId, GrantPlace};
use crate::key::{AccountId, AutomaticRotation, Imports, KeyId, KeyState, Region};
use crate::overlay::{MfaRequirement, Overlay, Quarantine, Withdrawal};
use crate::policy::{GrantOperations, GrantTerms};
use crate::spec::{KeyKind, KeySpec, KeyUsage, Origin, RotationType};
use crate::usage::{self, LastUse, UsedKey};
use rusqlite::{Connection, Row};
use uuid::Uuid;

/// A key as stored, its material still wrapped.
pub(crate) struct LoadedKey {
    /// The id.
    pub(crate) id: KeyId,
    /// The owner.
    pub(crate) account: AccountId,
    /// Spec, usage and origin.
    pub(crate) kind: KeyKind,
    /// The state.
    pub(crate) state: KeyState,
    /// Free text.
    pub(crate) description: String,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// Text of the policy in force.
    pub(crate) policy: String,
    /// eventID of the call that set it.
    pub(crate) policy_event: Uuid,
    /// The schedule of automatic rotation.
    pub(crate) rotation: Option<AutomaticRotation>,
    /// When a rotation on demand was asked for that has not happened yet.
    pub(crate) on_demand_us: Option<u64>,
    /// When imported material ends by itself.
    pub(crate) valid_to_us: Option<u64>,
    /// Whether imported material that is away finds the key disabled.
    pub(crate) comes_back_disabled: bool,
    /// What is known of imported material beside the current one.
    pub(crate) imports: Imports,
    /// The service whose key it is.
    pub(crate) service: Option<String>,
    /// Id of the custom key store whose token has the key.
    pub(crate) custom_key_store: Option<String>,
    /// Id of the current material, also while imported material is away; none before the first import.
    pub(crate) material_id: Option<String>,
    /// The current material; none while imported material is away.
    pub(crate) material: Option<LoadedMaterial>,
    /// Where the primary key is; none for a key of one region.
    pub(crate) primary: Option<Region>,
}

/// One generation of material as stored, still wrapped.
pub(crate) struct LoadedMaterial {
    /// Its id.
    pub(crate) id: String,
    /// Wrapped under the root key.
    pub(crate) wrapped: Vec<u8>,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// The rotation that brought it.
    pub(crate) rotation: Option<RotationType>,
}

/// An alias as stored.
pub(crate) struct AliasRow {
    /// The owner.
    pub(crate) account: AccountId,
    /// With `alias/`.
    pub(crate) name: String,
    /// Target.
    pub(crate) id: KeyId,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// Unix microseconds.
    pub(crate) updated_us: u64,
}

/// A user, policy or the like as stored.
pub(crate) struct EntityRow {
    /// The owner.
    pub(crate) account: AccountId,
    /// `user`, `group` and so on.
    pub(crate) kind: String,
    /// Unique in its account and kind.
    pub(crate) name: String,
    /// JSON.
    pub(crate) body: String,
    /// Its secret, sealed under the root key.
    pub(crate) sealed: Option<Vec<u8>>,
}

/// The small tables and numbers; keys come through [`Loaded::keys`] one by one.
pub(crate) struct Loaded {
    /// All tags in order of key and name.
    pub(crate) tags: Vec<(KeyId, String, String)>,
    /// Material that is no longer any key's current one, oldest first.
    pub(crate) former: Vec<(KeyId, LoadedMaterial)>,
    /// All aliases in order of account and name.
    pub(crate) aliases: Vec<AliasRow>,
    /// Quarantines, expired ones too, requirements of a second factor, and access keys withdrawn.
    pub(crate) overlay: Overlay,
    /// What the IAM API made.
    pub(crate) entities: Vec<EntityRow>,
    /// The step of the last code used of each MFA device.
    pub(crate) mfa_steps: Vec<(String, u64)>,
    /// Events of committed changes that may have missed the journal, in commit order.
    pub(crate) outbox: Vec<OutboxRow>,
    /// The last use of each key, as far as it was stored.
    pub(crate) usage: Vec<(UsedKey, LastUse)>,
    /// Unix microseconds since when uses are noted; none before the first time.
    pub(crate) usage_since_us: Option<u64>,
    /// All uses up to this seq are stored.
    pub(crate) usage_through: Option<u64>,
    /// Highest mutation number ever committed.
    pub(crate) mutation: u64,
    /// No event of a row still in the outbox has a seq up to this one; none before the first cleaning.
    pub(crate) clean_through: Option<u64>,
    /// Hash of the identities in force.
    pub(crate) identities_hash: Option<String>,
}

impl Loaded {
    /// Reads the small tables and numbers.
    pub(crate) fn read(connection: &Connection) -> Result<Self, StoreError> {
        Ok(Self {
            tags: rows(
                connection,
                "SELECT t.key_id, k.region, t.name, t.value FROM tags t JOIN keys k ON k.key_id = t.key_id
                 ORDER BY t.key_id, t.name",
                |row| Ok((key_id(row, 0, "tags")?, row.get(2)?, row.get(3)?)),
            )?,
            former: rows(
                connection,
                "SELECT k.key_id, k.region, m.material_id, m.wrapped, m.created_us, m.rotation
                 FROM keys k JOIN key_materials m ON m.key_id = substr(k.key_id, 1, 16)
                 WHERE m.material_id <> k.material_id ORDER BY k.key_id, m.created_us",
                |row| Ok((key_id(row, 0, "key_materials")?, material(row, 2)?)),
            )?,
            aliases: rows(
                connection,
                "SELECT account, name, key_id, region, created_us, updated_us FROM aliases
                 ORDER BY account, region, name",
                alias,
            )?,
            overlay: overlay(connection)?,
            entities: entities(connection)?,
            mfa_steps: rows(connection, "SELECT serial, step FROM mfa_steps", |row| {
                Ok((row.get(0)?, unsigned(row.get(1)?, "mfa_steps")?))
            })?,
            outbox: rows(connection, "SELECT event_id, mutation, payload FROM outbox ORDER BY commit_order", |row| {
                Ok(OutboxRow {
                    event_id: row.get(0)?,
                    mutation: unsigned(row.get(1)?, "outbox")?,
                    payload: row.get::<_, Vec<u8>>(2)?.into(),
                })
            })?,
            usage: rows(
                connection,
                "SELECT u.key_id, k.region, u.operation, u.used_us, u.event_id, u.request_id, u.seq, k.account
                 FROM key_usage u JOIN keys k ON k.key_id = u.key_id",
                last_use,
            )?,
            usage_since_us: meta_number(connection, "usage_since_us")?,
            usage_through: meta_number(connection, super::USAGE_THROUGH)?,
            mutation: meta_number(connection, "mutation")?.unwrap_or(0),
            clean_through: meta_number(connection, super::CLEAN_THROUGH)?,
            identities_hash: meta_text(connection, "identities_hash")?,
        })
    }

    /// Gives every key to `take`, in order of id.
    pub(crate) fn keys<E: From<StoreError>>(
        connection: &Connection,
        mut take: impl FnMut(LoadedKey) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut statement = connection
            .prepare(
                "SELECT k.key_id, k.account, k.state, k.deletion_us, k.description, k.created_us, p.policy,
                        k.policy_event, k.spec, k.usage, k.origin, k.rotation_days, k.next_rotation_us, k.on_demand_us,
                        m.material_id, m.wrapped, m.created_us, m.rotation, k.valid_to_us, k.material_id,
                        k.comes_back_disabled, k.service, k.region, k.primary_region, k.pending_window_days,
                        k.transient_until_us, k.custom_key_store, k.imports
                 FROM keys k
                 JOIN key_policies p ON p.key_id = k.key_id AND p.event_id = k.policy_event
                 LEFT JOIN key_materials m ON m.material_id = k.material_id AND k.material_away = 0
                 ORDER BY k.key_id",
            )
            .map_err(StoreError::from)?;
        let mut found = statement.query([]).map_err(StoreError::from)?;
        while let Some(row) = found.next().map_err(StoreError::from)? {
            take(key(row)?)?;
        }
        Ok(())
    }

    /// Gives every grant to `take`.
    pub(crate) fn grants(connection: &Connection, mut take: impl FnMut(Grant)) -> Result<(), StoreError> {
        let mut statement = connection.prepare(
            "SELECT g.key_id, k.region, g.grant_id, g.account, g.name, g.grantee, g.retiring, g.issuing_account,
                    g.operations, g.constraints, g.created_us
             FROM grants g JOIN keys k ON k.key_id = g.key_id",
        )?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            take(grant(row)?);
        }
        Ok(())
    }

    /// Number of keys, to compare with what [`Loaded::keys`] gave: a lost row of a joined table must not hide a key.
    pub(crate) fn key_count(connection: &Connection) -> Result<u64, StoreError> {
        unsigned(connection.query_row("SELECT count(*) FROM keys", [], |row| row.get(0))?, "keys")
    }
}

fn overlay(connection: &Connection) -> Result<Overlay, StoreError> {
    let mut overlay = Overlay::default();
    let quarantines = rows(
        connection,
        "SELECT principal_arn, scope, key_arn, expires_us, reason, event_id FROM quarantines",
        |row| {
            let expires_us = unsigned(row.get(3)?, "quarantines")?;
            let entry = Quarantine { key_arn: row.get(2)?, expires_us, reason: row.get(4)?, event_id: row.get(5)? };
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, entry))
        },
    )?;
    for (principal_arn, scope, entry) in quarantines {
        overlay.quarantines.entry(principal_arn).or_default().insert(scope, entry);
    }
    let requirements =
        rows(connection, "SELECT scope, on_arn, actions, expires_us, reason, event_id FROM mfa_requirements", |row| {
            let expires_us = unsigned(row.get(3)?, "mfa_requirements")?;
            let actions = row.get::<_, String>(2)?.split(' ').map(str::to_owned).collect();
            let entry =
                MfaRequirement { on_arn: row.get(1)?, actions, expires_us, reason: row.get(4)?, event_id: row.get(5)? };
            Ok((row.get::<_, String>(0)?, entry))
        })?;
    overlay.mfa.extend(requirements);
    let withdrawn =
        rows(connection, "SELECT access_key_id, principal_arn, reason, event_id FROM withdrawn_access_keys", |row| {
            let entry = Withdrawal { principal_arn: row.get(1)?, reason: row.get(2)?, event_id: row.get(3)? };
            Ok((row.get::<_, String>(0)?, entry))
        })?;
    overlay.withdrawn.extend(withdrawn);
    Ok(overlay)
}

/// All that the IAM API made.
pub(super) fn entities(connection: &Connection) -> Result<Vec<EntityRow>, StoreError> {
    rows(connection, "SELECT account, kind, name, body, sealed FROM entities", |row| {
        let account = AccountId::parse(&row.get::<_, String>(0)?);
        Ok(EntityRow {
            account: account.ok_or(StoreError::Row { table: "entities" })?,
            kind: row.get(1)?,
            name: row.get(2)?,
            body: row.get(3)?,
            sealed: row.get(4)?,
        })
    })
}

fn key(row: &Row<'_>) -> Result<LoadedKey, StoreError> {
    let wrong = StoreError::Row { table: "keys" };
    let date = |column| -> Result<Option<u64>, StoreError> {
        row.get::<_, Option<i64>>(column)?.map(|at_us| unsigned(at_us, "keys")).transpose()
    };
    let state = match (row.get::<_, String>(2)?.as_str(), date(3)?, row.get(24)?, date(25)?) {
        ("Enabled", None, None, None) => KeyState::Enabled,
        ("Disabled", None, None, None) => KeyState::Disabled,
        ("PendingImport", None, None, None) => KeyState::PendingImport,
        ("Creating", None, None, Some(until_us)) => KeyState::Creating { until_us },
        ("Updating", None, None, Some(until_us)) => KeyState::Updating { until_us },
        ("PendingDeletion", Some(deletion_us), None, None) => KeyState::PendingDeletion { deletion_us },
        ("PendingReplicaDeletion", None, Some(window_days), None) => KeyState::PendingReplicaDeletion { window_days },
        _ => return Err(wrong),
    };
    let kind = kind(row, 8)?;
    let stored = row.get::<_, Option<String>>(14)?.map(|_| material(row, 14)).transpose()?;
    // A lost row of material must not pass for imported material that is away.
    let needs_it = matches!(state, KeyState::Enabled | KeyState::Disabled | KeyState::Updating { .. });
    let custom_key_store: Option<String> = row.get(26)?;
    let in_token = kind.origin == Origin::CloudHsm;
    if custom_key_store.is_some() != in_token {
        return Err(wrong);
    }
    let may_be_away = in_token || (kind.origin == Origin::External && !needs_it);
    let imports: Option<String> = row.get(27)?;
    let imports = imports.map_or(Ok(Imports::default()), |text| serde_json::from_str(&text));
    let imports = imports.map_err(|_| StoreError::Row { table: "keys" })?;
    // A key may wait for former material while the current one is here.
    let waits_for_it = state == KeyState::PendingImport && imports.former.is_empty();
    if (stored.is_none() && !may_be_away) || (stored.is_some() && waits_for_it) {
        return Err(StoreError::Row { table: "key_materials" });
    }
    let id = key_id_of(row, (0, 22), "keys")?;
    let primary: Option<String> = row.get(23)?;
    let primary = primary.map(|name| Region::parse(&name).ok_or(StoreError::Row { table: "keys" })).transpose()?;
    if primary.is_some() != id.multi_region {
        return Err(StoreError::Row { table: "keys" });
    }
    Ok(LoadedKey {
        id,
        account: AccountId::parse(&row.get::<_, String>(1)?).ok_or(wrong)?,
        kind,
        state,
        description: row.get(4)?,
        created_us: unsigned(row.get(5)?, "keys")?,
        policy: row.get(6)?,
        policy_event: Uuid::parse_str(&row.get::<_, String>(7)?).map_err(|_| StoreError::Row { table: "keys" })?,
        rotation: rotation(row, 11)?,
        on_demand_us: row.get::<_, Option<i64>>(13)?.map(|at_us| unsigned(at_us, "keys")).transpose()?,
        valid_to_us: row.get::<_, Option<i64>>(18)?.map(|at_us| unsigned(at_us, "keys")).transpose()?,
        comes_back_disabled: row.get(20)?,
        imports,
        service: row.get(21)?,
        custom_key_store,
        material_id: Some(row.get::<_, String>(19)?).filter(|id| !id.is_empty()),
        material: stored,
        primary,
    })
}

/// Spec, usage and origin from three columns.
pub(super) fn kind(row: &Row<'_>, column: usize) -> Result<KeyKind, StoreError> {
    let text = |offset: usize| row.get::<_, String>(column + offset);
    let (spec, usage, origin) = (text(0)?, text(1)?, text(2)?);
    let found = KeySpec::parse(&spec).zip(KeyUsage::parse(&usage)).zip(Origin::parse(&origin));
    let ((spec, usage), origin) = found.ok_or(StoreError::Row { table: "keys" })?;
    if !spec.usages().contains(&usage) {
        return Err(StoreError::Row { table: "keys" });
    }
    Ok(KeyKind { spec, usage, origin })
}

/// A schedule from two columns, which are set together.
fn rotation(row: &Row<'_>, column: usize) -> Result<Option<AutomaticRotation>, StoreError> {
    match (row.get::<_, Option<u32>>(column)?, row.get::<_, Option<i64>>(column + 1)?) {
        (None, None) => Ok(None),
        (Some(period_days), Some(next_us)) => {
            Ok(Some(AutomaticRotation { period_days, next_us: unsigned(next_us, "keys")? }))
        }
        _ => Err(StoreError::Row { table: "keys" }),
    }
}

/// One generation of material from four columns.
fn material(row: &Row<'_>, column: usize) -> Result<LoadedMaterial, StoreError> {
    let wrong = || StoreError::Row { table: "key_materials" };
    let rotation: Option<String> = row.get(column + 3)?;
    Ok(LoadedMaterial {
        id: row.get(column)?,
        wrapped: row.get(column + 1)?,
        created_us: unsigned(row.get(column + 2)?, "key_materials")?,
        rotation: rotation.map(|name| RotationType::parse(&name).ok_or_else(wrong)).transpose()?,
    })
}

/// A grant that cannot be read whole must not be read in part: it could permit more than its maker wanted.
fn grant(row: &Row<'_>) -> Result<Grant, StoreError> {
    let wrong = || StoreError::Row { table: "grants" };
    let account = |column| -> Result<AccountId, StoreError> {
        AccountId::parse(&row.get::<_, String>(column)?).ok_or_else(wrong)
    };
    let id: Vec<u8> = row.get(2)?;
    let operations: String = row.get(8)?;
    let constraints: String = row.get(9)?;
    Ok(Grant {
        place: GrantPlace {
            account: account(3)?,
            key: key_id(row, 0, "grants")?,
            id: GrantId(id.try_into().map_err(|_| wrong())?),
        },
        name: row.get(4)?,
        grantee: row.get(5)?,
        retiring: row.get(6)?,
        issuing_account: account(7)?,
        terms: GrantTerms {
            operations: GrantOperations::parse(operations.split(' ')).map_err(|_| wrong())?,
            constraints: serde_json::from_str(&constraints).map_err(|_| wrong())?,
        },
        created_us: unsigned(row.get(10)?, "grants")?,
    })
}

fn last_use(row: &Row<'_>) -> Result<(UsedKey, LastUse), StoreError> {
    let wrong = || StoreError::Row { table: "key_usage" };
    let account = AccountId::parse(&row.get::<_, String>(7)?).ok_or_else(wrong)?;
    let last_use = LastUse {
        operation: usage::operation(&row.get::<_, String>(2)?).ok_or_else(wrong)?,
        at_us: unsigned(row.get(3)?, "key_usage")?,
        event_id: Uuid::parse_str(&row.get::<_, String>(4)?).map_err(|_| wrong())?,
        request_id: Uuid::parse_str(&row.get::<_, String>(5)?).map_err(|_| wrong())?,
        seq: unsigned(row.get(6)?, "key_usage")?,
    };
    Ok(((account, key_id(row, 0, "key_usage")?), last_use))
}

fn alias(row: &Row<'_>) -> Result<AliasRow, StoreError> {
    Ok(AliasRow {
        account: AccountId::parse(&row.get::<_, String>(0)?).ok_or(StoreError::Row { table: "aliases" })?,
        name: row.get(1)?,
        id: key_id(row, 2, "aliases")?,
        created_us: unsigned(row.get(4)?, "aliases")?,
        updated_us: unsigned(row.get(5)?, "aliases")?,
    })
}

/// A key's id from its column and the region behind it.
pub(super) fn key_id(row: &Row<'_>, column: usize, table: &'static str) -> Result<KeyId, StoreError> {
    key_id_of(row, (column, column + 1), table)
}

pub(super) fn key_id_of(row: &Row<'_>, (id, region): (usize, usize), table: &'static str) -> Result<KeyId, StoreError> {
    let (bytes, region): (Vec<u8>, String) = (row.get(id)?, row.get(region)?);
    key_of_blob(&bytes, &region).ok_or(StoreError::Row { table })
}

pub(super) fn rows<T>(
    connection: &Connection,
    sql: &str,
    mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}
