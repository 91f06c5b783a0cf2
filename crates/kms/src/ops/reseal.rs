//! ResealRootKey: the file of the root key protects it in another way than the log last said.
//!
//! `keytrail rootkey reseal` changes the file, which needs the old passphrase and no node; the node sees the file's new
//! head, at once or at its next start, and puts it into the log. A change by hand, or a copy put in place, shows as well.

use super::drive::Effect;
use super::internal::carry_internal;
use crate::crypto::{RootKey, RootKeyError, Seal};
use crate::node::Node;
use crate::store::Change;
use serde_json::{Value, json};
use std::sync::Arc;

/// Records how the root key is sealed now, if that is news; false when it could not be recorded now.
pub(crate) async fn note_seal(node: &Arc<Node>) -> Result<bool, RootKeyError> {
    // Under the lock: the next root key brings its own seal, file and memory together.
    let held = node.locks.hold_access().await;
    let seal = RootKey::seal_of(&node.dir.join("root.key"))?;
    let before = node.seal.lock().clone();
    if before == seal.name() {
        return Ok(true);
    }
    let parameters = json!({"sealedBy": described(&seal), "formerSeal": before, "seal": seal.name()});
    let effect = Effect { changes: vec![Change::SetRootKeySeal(seal.name())], ..Effect::default() };
    let recorded = carry_internal(node, held, "ResealRootKey", parameters, effect).await.is_ok();
    if recorded {
        *node.seal.lock() = seal.name();
    }
    Ok(recorded)
}

/// As the log has it.
pub(super) fn described(seal: &Seal) -> Value {
    match seal {
        Seal::File => json!({"method": "file"}),
        Seal::Passphrase { cost, .. } => json!({
            "method": "passphrase", "derivation": "Argon2id", "memoryKiB": cost.memory_kib, "passes": cost.passes,
            "lanes": cost.lanes,
        }),
        Seal::Token { token, key, .. } => json!({"method": "pkcs11", "token": token, "key": key}),
    }
}
