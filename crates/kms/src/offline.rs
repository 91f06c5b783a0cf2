//! What is done to a stopped node by whoever has its folder: a principal freed, the root key replaced, an export of its log
//! recorded. All are events, as the node is opened for it, which appends what its log owes, and closed again.

use crate::chain::{KeyTransition, Kind};
use crate::clock::Clock;
use crate::crypto::{RootKeyError, SealKey, Successor};
use crate::node::Node;
use crate::ops::{self, Answer, Call, CallerKey, ExportEvidence, LiftQuarantine, NotRotated};
use crate::recover::{self, Opened, StartError};
use crate::service::{KmsConfig, close, give_up};
use crate::signer::{SignError, TRANSITIONS_NAME, write_keys};
use serde::Deserialize as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// For a node that is opened and never serves.
const ANY_LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why a quarantine was not lifted on a stopped node.
#[derive(Debug, thiserror::Error)]
pub enum LiftError {
    /// The node could not be opened or closed.
    #[error("node cannot be opened")]
    Start(#[from] StartError),
    /// The principal is not in quarantine, or the event could not be recorded.
    #[error("quarantine not lifted: {0}")]
    Refused(String),
}

/// Why an export was not recorded in the log of a stopped node.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The node could not be opened or closed.
    #[error("node cannot be opened")]
    Start(#[from] StartError),
    /// The node's own words.
    #[error("export not recorded: {0}")]
    Refused(String),
}

/// Why the root key of a stopped node was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The node could not be opened or closed.
    #[error("node cannot be opened")]
    Start(#[from] StartError),
    /// The next root key.
    #[error("make the next root key")]
    RootKey(#[from] RootKeyError),
    /// The root key of before is still in force.
    #[error("root key not rotated")]
    Refused(#[from] NotRotated),
}

/// Replaces the root key of a stopped node, as an event. Returns the new root key's id and how many generations of key
/// material were wrapped anew.
pub async fn rotate_offline(
    dir: &Path,
    (seal_key, signer_socket): (Option<Arc<SealKey>>, Option<PathBuf>),
    end_tokens: bool,
    clock: Arc<dyn Clock>,
) -> Result<(String, usize), RotateError> {
    let config = KmsConfig { seal_key: seal_key.clone(), signer_socket, ..KmsConfig::new(dir, ANY_LOOPBACK) };
    let Opened { node, lock, .. } = recover::open(&config, clock).await?;
    let path = dir.join("root.key");
    let rotated = match Successor::make(&path, seal_key.as_deref(), end_tokens) {
        Ok((successor, _)) => ops::rotate_root_key(&node, successor).await.map_err(RotateError::from),
        Err(error) => Err(error.into()),
    };
    close(node, lock).await?;
    rotated.map(|rotated| (rotated.root_key_id, rotated.materials))
}

/// Why the key of a stopped node's log was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateSignerError {
    /// The node could not be opened or closed, or the transition not be recorded.
    #[error("node cannot be opened")]
    Start(#[from] StartError),
    /// The key of before is still in force, unless the record is there: then the next start goes on.
    #[error("log's key not rotated")]
    Sign(#[from] SignError),
    /// Something else was recorded in between; nothing has changed.
    #[error("log has grown meanwhile")]
    Grown,
}

/// Gives the log of a stopped node another signing key: a record under the old key, checkpoints under the new one from
/// there on. A signer of its own must have prepared the key. Returns the transition.
pub async fn rotate_signer_offline(
    dir: &Path,
    (seal_key, signer_socket): (Option<Arc<SealKey>>, Option<PathBuf>),
    clock: Arc<dyn Clock>,
) -> Result<KeyTransition, RotateSignerError> {
    let config = KmsConfig { seal_key, signer_socket, ..KmsConfig::new(dir, ANY_LOOPBACK) };
    let Opened { node, lock, .. } = recover::open(&config, clock).await?;
    match rotate_signer(&node).await {
        Ok(transition) => close(node, lock).await.map(|()| Ok(transition))?,
        // Perhaps after the record, where the old key must sign no more: the next start decides.
        Err(error) => give_up(node, lock).await.map(|()| Err(error))?,
    }
}

async fn rotate_signer(node: &Arc<Node>) -> Result<KeyTransition, RotateSignerError> {
    let signing = Arc::clone(node);
    let signed = tokio::task::spawn_blocking(move || {
        // The checkpoint that the old key signs last, published as any other.
        signing.sign_head()?;
        signing.signer.transition(&signing.journal)
    });
    let transition = signed.await.map_err(|_| StartError::Task)??;
    let (payload, mut keys) = (transition.to_json(), node.log_keys());
    let path = node.dir.join("checkpoints").join(TRANSITIONS_NAME);
    keys.extend(transition.size, payload.as_bytes()).map_err(|source| SignError::Transition { path, source })?;
    // A record anywhere else than at the seq that it names would be a forged one; nobody else writes to a stopped node.
    if node.journal.head().size != transition.size {
        return Err(RotateSignerError::Grown);
    }
    fail::fail_point!("kms::signer_before_record", |_| std::process::abort());
    recover::append(node, Kind::KeyTransition, payload.into()).await?;
    fail::fail_point!("kms::signer_after_record", |_| std::process::abort());
    let adopting = Arc::clone(node);
    let adopted = tokio::task::spawn_blocking(move || {
        write_keys(&adopting.dir.join("checkpoints"), &keys)?;
        fail::fail_point!("kms::signer_after_keys", |_| std::process::abort());
        adopting.signer.adopt(keys.current())?;
        fail::fail_point!("kms::signer_after_adopt", |_| std::process::abort());
        *adopting.keys.write() = keys;
        Ok::<_, SignError>(())
    });
    adopted.await.map_err(|_| StartError::Task)??;
    Ok(transition)
}

/// Lifts a quarantine on a stopped node, as an event; whoever has the folder may do that. Returns the event's seq.
pub async fn lift_quarantine_offline(
    dir: &Path,
    principal_arn: &str,
    reason: &str,
    keys: (Option<Arc<SealKey>>, Option<PathBuf>),
    clock: Arc<dyn Clock>,
) -> Result<u64, LiftError> {
    let lift =
        LiftQuarantine { principal_arn: Some(principal_arn.to_owned()), key_id: None, reason: Some(reason.to_owned()) };
    let answer = change(dir, "LiftQuarantine", lift, keys, clock).await?;
    seq_of(answer).map_err(LiftError::Refused)
}

/// Records an export in the log of a stopped node; `body` is that of the call `ExportEvidence`. Returns the event's seq.
pub async fn record_export_offline(
    dir: &Path,
    body: &serde_json::Value,
    keys: (Option<Arc<SealKey>>, Option<PathBuf>),
    clock: Arc<dyn Clock>,
) -> Result<u64, RecordError> {
    let export = ExportEvidence::deserialize(body).map_err(|error| RecordError::Refused(error.to_string()))?;
    let answer = change(dir, "ExportEvidence", export, keys, clock).await?;
    seq_of(answer).map_err(RecordError::Refused)
}

/// Opens the node, makes one change as its operator, closes it.
async fn change(
    dir: &Path,
    operation: &str,
    change: impl ops::Mutation,
    (seal_key, signer_socket): (Option<Arc<SealKey>>, Option<PathBuf>),
    clock: Arc<dyn Clock>,
) -> Result<Answer, StartError> {
    let config = KmsConfig { seal_key, signer_socket, ..KmsConfig::new(dir, ANY_LOOPBACK) };
    let Opened { node, lock, .. } = recover::open(&config, clock).await?;
    let call = Call {
        caller: CallerKey::Operator,
        source: crate::event::SOURCE_INTERNAL,
        operation: operation.to_owned(),
        request_id: node.time_ordered_id(node.clock.now_us()),
        source_ip: crate::event::SOURCE_INTERNAL.to_owned(),
        user_agent: None,
        action: None,
        on_behalf: None,
        tls: None,
        region: node.region,
    };
    let answer = ops::change(&node, Arc::new(call), change).await;
    close(node, lock).await?;
    Ok(answer)
}

/// The event's seq, or why there is none.
fn seq_of(answer: Answer) -> Result<u64, String> {
    match (answer.refusal, answer.receipt) {
        (None, Some(receipt)) => Ok(receipt.seq),
        (Some(refusal), _) => Err(refusal.message.unwrap_or_default().into_owned()),
        (None, None) => Err("event could not be recorded".to_owned()),
    }
}
