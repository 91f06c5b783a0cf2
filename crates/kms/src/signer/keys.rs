//! The log's keys as its folder has them, and what start-up brings to an end of a key transition that a crash cut.
//!
//! A transition is made in this order: the successor's key is durable, the head is signed by the old key, the record is
//! durable, `checkpoints/transitions` has it, the signer takes the successor into use, `checkpoints/vkey` is the new one.
//! Up to the record the old key stays in force; from there on each start goes on to the end.

use super::{
    CheckpointSigner, KEY_NAME, LocalSigner, SignError, TRANSITIONS_NAME, VKEY_NAME, failed, replace, replace_by,
};
use crate::chain::checkpoint::VerifyKey;
use crate::chain::transition::{LogKeys, TransitionError};
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The keys that `checkpoints` knows, from or to `trusted`, or else to its own key.
pub fn read_keys(checkpoints: &Path, trusted: Option<&VerifyKey>) -> Result<LogKeys, SignError> {
    let trusted = match trusted {
        Some(key) => key.clone(),
        None => own_key(checkpoints)?,
    };
    let path = checkpoints.join(TRANSITIONS_NAME);
    let lines = match std::fs::read_to_string(&path) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    LogKeys::parse(&lines, &trusted).map_err(|source| SignError::Transition { path, source })
}

/// Takes over what `checkpoints` knows further: a log's keys change while others run.
pub fn refresh_keys(checkpoints: &Path, keys: &mut LogKeys) {
    if let Ok(known) = read_keys(checkpoints, keys.all().first())
        && known.all().starts_with(keys.all())
    {
        *keys = known;
    }
}

/// Makes the keys known to whoever reads the folder.
pub fn write_keys(checkpoints: &Path, keys: &LogKeys) -> Result<(), SignError> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    // Of its own: a node and a trail in its folder may do this at the same time.
    let temporary = format!("{TRANSITIONS_NAME}.{}-{}.tmp", std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
    replace_by(checkpoints, &temporary, TRANSITIONS_NAME, keys.lines().as_bytes(), 0o644)
}

/// The verifier key in `checkpoints/vkey`.
pub(crate) fn own_key(checkpoints: &Path) -> Result<VerifyKey, SignError> {
    let path = checkpoints.join(VKEY_NAME);
    let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
    text.trim_end().parse().map_err(|source| SignError::Key { path, source })
}

/// Start-up: the keys by the journal's transitions, which are `records` (seq and payload), with everything done that a
/// durable record asks for. `next_seq` is the journal's.
pub fn settle(checkpoints: &Path, records: &[(u64, Bytes)], next_seq: u64) -> Result<LogKeys, SignError> {
    if checkpoints.join(KEY_NAME).exists() && !checkpoints.join(VKEY_NAME).exists() {
        write_own_key(checkpoints, &LocalSigner::open(checkpoints)?.verify_key())?;
    }
    let mut keys = read_keys(checkpoints, None)?;
    let refused = |source| SignError::Transition { path: checkpoints.join(TRANSITIONS_NAME), source };
    let known = keys.transitions().len();
    for (seq, payload) in records {
        if !keys.holds(*seq, payload) {
            keys.extend(*seq, payload).map_err(refused)?;
        }
    }
    if let Some(ahead) = keys.transitions().last().filter(|last| last.size >= next_seq) {
        return Err(refused(TransitionError::Misplaced { size: ahead.size, seq: next_seq }));
    }
    if keys.transitions().len() > known {
        tracing::warn!("a key transition of before is brought to its end");
        write_keys(checkpoints, &keys)?;
    }
    if checkpoints.join(KEY_NAME).exists() {
        LocalSigner::open(checkpoints)?.adopt(keys.current())?;
    }
    write_own_key(checkpoints, keys.current())?;
    Ok(keys)
}

/// Puts the key into `checkpoints/vkey`, if it is another one there.
pub(super) fn write_own_key(checkpoints: &Path, key: &VerifyKey) -> Result<(), SignError> {
    if own_key(checkpoints).ok().as_ref() == Some(key) {
        return Ok(());
    }
    replace(checkpoints, VKEY_NAME, format!("{key}\n").as_bytes(), 0o644)
}
