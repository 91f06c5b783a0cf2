//! LoadIdentities: other users, groups and policies take effect, after the log has them in full and without secrets.

use super::drive::Effect;
use super::internal::carry_internal;
use crate::auth::identities::Identities;
use crate::directory::DirectoryError;
use crate::node::Node;
use crate::store::Change;
use serde_json::json;
use std::sync::Arc;

/// Largest identities that fit into one event with room for the rest of it.
const IDENTITIES_BYTES_MAX: usize = 224 * 1024;

/// Why identities did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// They must be in the log before they count.
    #[error("identities take {0} bytes, more than the {IDENTITIES_BYTES_MAX} that one event can hold")]
    TooLarge(usize),
    /// Names or policies that what the IAM API made does not fit to.
    #[error("identities do not fit to what was made through the IAM API")]
    Directory(#[from] DirectoryError),
    /// The store or the journal cannot take the event now.
    #[error("identities cannot be recorded now")]
    Unavailable,
}

/// Records identities, then puts them in force. All judging waits meanwhile.
pub(crate) async fn load_identities(node: &Arc<Node>, identities: Arc<Identities>) -> Result<(), LoadError> {
    let parameters =
        json!({"identitiesHash": hex::encode(identities.content_hash()), "identities": identities.public_json()});
    let bytes = parameters.to_string().len();
    if bytes > IDENTITIES_BYTES_MAX {
        return Err(LoadError::TooLarge(bytes));
    }
    let held = node.locks.hold_access().await;
    let hash = hex::encode(identities.content_hash());
    let access = Some(Arc::new(node.access.read().with_identities(identities)?));
    let effect = Effect { changes: vec![Change::SetIdentitiesHash(hash)], access, ..Effect::default() };
    carry_internal(node, held, "LoadIdentities", parameters, effect).await.map_err(|_| LoadError::Unavailable)
}
