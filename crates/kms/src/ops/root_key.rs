//! RotateRootKey: another root key takes over, and everything in the store is wrapped under it, in one transaction.
//!
//! Changes wait meanwhile; calls that only use keys do not, as what they use is in memory. The order is what a crash needs:
//! the next root key's file is durable before the store is wrapped under it, and takes the old one's place after that, so
//! that at each moment the root key that the store names is in the folder. What callers hold is honoured for as long as any
//! of it can last, then EndFormerTokens takes the keys behind it away.

use super::drive::{Effect, Uncarried};
use super::internal::carry_internal;
use super::reseal::described;
use crate::access::{self, FixedError};
use crate::crypto::{
    CryptoFailure, FORMER_MAX, FileLock, FormerKeys, MaterialId, RootKey, RootKeyError, Successor, WrapError, discard,
    promote, wrap,
};
use crate::directory;
use crate::key::{self, rfc3339_seconds};
use crate::locks::RootGuard;
use crate::node::Node;
use crate::store::{Change, Rewrapped, StoreError, WrappedRows};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest that anything in callers' hands lasts: a session of GetSessionToken. Import tokens last a day.
const TOKENS_KEPT_US: u64 = 36 * 3_600 * 1_000_000;

/// What a change of root keys came to.
#[derive(Clone, Debug)]
pub(crate) struct Rotated {
    /// Id of the root key in force.
    pub(crate) root_key_id: String,
    /// Generations of key material that were wrapped anew.
    pub(crate) materials: usize,
    /// Secrets of access keys and MFA devices that were.
    pub(crate) secrets: usize,
}

/// Why the root key of before is still in force.
#[derive(Debug, thiserror::Error)]
pub enum NotRotated {
    /// The next root key's file.
    #[error("next root key cannot be put in place")]
    File(#[from] RootKeyError),
    /// The store.
    #[error("what is wrapped cannot be read")]
    Store(#[from] StoreError),
    /// One of the rows does not open; nothing was changed.
    #[error("material of key {key_id} does not open")]
    Material {
        /// Whose.
        key_id: String,
        /// Why.
        source: WrapError,
    },
    /// The break-glass credentials do not open; nothing was changed.
    #[error("break-glass credentials")]
    BreakGlass(#[from] FixedError),
    /// Tokens of too many root keys would have to be honoured.
    #[error("{FORMER_MAX} root keys of before are still honoured: wait a day, or end their tokens")]
    TooMany,
    /// Random source or cipher.
    #[error("derive keys of the next root key")]
    Crypto(#[from] CryptoFailure),
    /// The node takes no changes now.
    #[error("change cannot be recorded")]
    Unavailable,
    /// A task ended.
    #[error("task ended early")]
    Task,
}

/// Replaces the root key. Must run in a task of its own: nobody who waits for it may stop it midway.
pub(crate) async fn rotate_root_key(node: &Arc<Node>, successor: Successor) -> Result<Rotated, NotRotated> {
    let (held, guard) = node.locks.hold_root().await;
    let staging =
        Staging { node: Arc::clone(node), path: node.dir.join("root.key"), successor, now_us: node.clock.now_us() };
    let prepared = tokio::task::spawn_blocking(move || staging.prepare()).await.map_err(|_| NotRotated::Task)?;
    let Prepared { next, rewrapped, parameters, seal_name, file_lock } = prepared?;
    let rotated =
        Rotated { root_key_id: next.id(), materials: rewrapped.materials.len(), secrets: rewrapped.secrets.len() };
    let effect = Effect {
        changes: vec![Change::Rewrap(Box::new(rewrapped)), Change::SetRootKeySeal(seal_name.clone())],
        root: Some(Arc::new(next)),
        ..Effect::default()
    };
    let carried = carry_internal(node, held, "RotateRootKey", parameters, effect).await;
    fail::fail_point!("kms::rotate_before_promote", |_| std::process::abort());
    let path = node.dir.join("root.key");
    let settled = tokio::task::spawn_blocking(move || {
        let settled = match &carried {
            Ok(()) => promote(&path),
            // Nothing happened, and nothing is left behind.
            Err(Uncarried::Conflict | Uncarried::Oversized) => discard(&path),
            // Whether it is in the store, only a restart can tell, and that one settles the files.
            Err(Uncarried::Unavailable | Uncarried::Late) => Ok(()),
        };
        (carried, settled.map_err(|source| RootKeyError::Replace { path, source }))
    });
    let (carried, settled) = settled.await.map_err(|_| NotRotated::Task)?;
    fail::fail_point!("kms::rotate_after_promote", |_| std::process::abort());
    carried.map_err(|_| NotRotated::Unavailable)?;
    *node.seal.lock() = seal_name;
    drop((guard, file_lock));
    // In force and recorded all the same; the next start puts the file in its place.
    settled?;
    tracing::info!(root_key_id = rotated.root_key_id, materials = rotated.materials, "root key rotated");
    Ok(rotated)
}

/// What is needed to prepare a change, away from the threads of requests.
struct Staging {
    node: Arc<Node>,
    path: PathBuf,
    successor: Successor,
    now_us: u64,
}

/// A change that has only to be committed.
struct Prepared {
    next: RootKey,
    rewrapped: Rewrapped,
    parameters: serde_json::Value,
    seal_name: String,
    file_lock: FileLock,
}

impl Staging {
    /// Wraps everything anew and puts the next root key's file beside the one in force, in this order: a row that does
    /// not open leaves no file behind.
    fn prepare(self) -> Result<Prepared, NotRotated> {
        let Self { node, path, successor, now_us } = self;
        let file_lock = FileLock::take(&path)?;
        let seal = successor.seal().ok_or_else(|| RootKeyError::Form { path: path.clone() })?;
        let current = node.root();
        let former = if successor.end_tokens { Vec::new() } else { honoured(&current, now_us)? };
        let next = successor.root()?.with_former(former);
        let rewrapped = rewrap(&node, &current, &next)?;
        let mut parameters = json!({
            "formerRootKeyId": current.id(), "rootKeyId": next.id(),
            "formerSeal": node.seal.lock().clone(), "seal": seal.name(), "sealedBy": described(&seal),
            "keyMaterials": rewrapped.materials.len(), "secrets": rewrapped.secrets.len(),
            "formerTokens": if successor.end_tokens { "ended" } else { "honoured" },
        });
        if let Some(former) = next.former().last() {
            parameters["formerTokensEnd"] = rfc3339_seconds(former.until_us).into();
        }
        // A failed change may have reached the store: the file that waits from then is the one that the next start needs.
        if !node.writable() {
            return Err(NotRotated::Unavailable);
        }
        fail::fail_point!("kms::rotate_before_stage", |_| std::process::abort());
        successor.stage(&path, &current)?;
        fail::fail_point!("kms::rotate_after_stage", |_| std::process::abort());
        Ok(Prepared { next, rewrapped, parameters, seal_name: seal.name(), file_lock })
    }
}

/// The root keys whose tokens the next one honours: those of before, and the one in force now.
fn honoured(current: &RootKey, now_us: u64) -> Result<Vec<Arc<FormerKeys>>, NotRotated> {
    let mut former: Vec<_> = current.former().iter().filter(|former| former.until_us > now_us).cloned().collect();
    former.push(Arc::new(current.retired(now_us + TOKENS_KEPT_US)));
    if former.len() > FORMER_MAX { Err(NotRotated::TooMany) } else { Ok(former) }
}

fn rewrap(node: &Node, current: &RootKey, next: &RootKey) -> Result<Rewrapped, NotRotated> {
    let rows = WrappedRows::read(&node.dir.join("kms.db"))?;
    let roots = (current, next);
    let mut materials = Vec::with_capacity(rows.materials.len());
    for row in rows.materials {
        let key_id = row.key.to_string();
        let material_id = MaterialId::from_hex(&row.id).ok_or(StoreError::Row { table: "key_materials" })?;
        let owner = key::owner(row.account.as_str(), &row.key, &key_id, material_id);
        let wrapped = wrap::rewrap(roots, &owner, row.kind, &row.wrapped);
        let wrapped = wrapped.map_err(|source| NotRotated::Material { key_id: key_id.clone(), source })?;
        materials.push((row.key, row.id, wrapped));
    }
    let mut secrets = Vec::with_capacity(rows.secrets.len());
    for row in rows.secrets {
        let sealed = directory::resealed(&row, roots)?;
        secrets.push((row.account, row.kind, row.name, sealed));
    }
    let break_glass = access::rewrap_break_glass(&rows.connection, roots, node.account, node.region.as_str())?;
    let former = next.former();
    let former = if former.is_empty() { None } else { Some(FormerKeys::seal(next, former)?) };
    Ok(Rewrapped { root_key_id: next.id(), materials, secrets, break_glass, former })
}

/// Takes away the keys behind tokens that have all ended by themselves; false when the node cannot do that now.
pub(crate) async fn end_former_tokens(node: &Arc<Node>) -> bool {
    let now_us = node.clock.now_us();
    let ended = |former: &Arc<FormerKeys>| former.until_us <= now_us;
    if !node.root().former().iter().any(ended) {
        return true;
    }
    let (held, _guard): (_, RootGuard) = node.locks.hold_root().await;
    let root = node.root();
    let (gone, kept): (Vec<_>, Vec<_>) = root.former().iter().cloned().partition(ended);
    let sealed = if kept.is_empty() { Ok(None) } else { FormerKeys::seal(&root, &kept).map(Some) };
    let Ok(sealed) = sealed else { return false };
    let ids: Vec<_> = gone.iter().map(|former| former.id.to_string()).collect();
    let effect = Effect {
        changes: vec![Change::SetFormerRootKeys(sealed)],
        root: Some(Arc::new(root.with_former(kept))),
        ..Effect::default()
    };
    carry_internal(node, held, "EndFormerTokens", json!({"formerRootKeyIds": ids}), effect).await.is_ok()
}
