//! LoadIdentities: other users, groups and policies take effect, after the log has them in full and without secrets.

use super::drive::{Effect, Uncarried, carry};
use super::record::{self, Head, Record};
use crate::auth::identities::Identities;
use crate::directory::DirectoryError;
use crate::event::{SOURCE_INTERNAL, UserIdentity};
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
    let judged_at_us = node.clock.now_us();
    let event_id = node.time_ordered_id(judged_at_us);
    let record = Record { request_parameters: Some(parameters), ..Record::default() };
    let head = |mutation| Head {
        identity: UserIdentity {
            account_id: Some(node.account.to_string()),
            invoked_by: Some(SOURCE_INTERNAL.to_owned()),
            ..UserIdentity::default()
        },
        source: SOURCE_INTERNAL,
        name: "LoadIdentities",
        region: &node.region,
        source_ip: SOURCE_INTERNAL,
        user_agent: None,
        tls: None,
        request_id: None,
        event_id,
        judged_at_us,
        read_only: false,
        mutation: Some(mutation),
        action_id: None,
        account: node.account.as_str(),
        event_type: "AwsServiceEvent",
    };
    let write = |mutation| record::write(head(mutation), record, None);
    let effect = Effect { changes: vec![Change::SetIdentitiesHash(hash)], access, ..Effect::default() };
    match carry(node, held, event_id, write, effect, None).await {
        Ok(_) | Err(Uncarried::Late) => Ok(()),
        Err(Uncarried::Conflict | Uncarried::Unavailable | Uncarried::Oversized) => Err(LoadError::Unavailable),
    }
}
