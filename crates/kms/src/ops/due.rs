//! What dates do to keys: the service job that deletes, rotates and lets material expire when its time has come, and ends
//! the transient states of multi-Region keys.
//!
//! It takes no input, looks at what is, and may run at any time, twice too. Each change takes the key's lock, looks
//! again, and is an event of the service.

use super::{delete_key, expire_material, rotate_key, synchronize};
use crate::key::DueKind;
use crate::node::Node;
use std::sync::Arc;

/// Changes of one run of the job; the next run comes within seconds.
const CHANGES_MAX: usize = 64;

/// Makes the changes that are due.
pub(crate) async fn make_due_changes(node: &Arc<Node>) {
    for (kind, account, id) in node.registry.due(node.clock.now_us(), CHANGES_MAX) {
        let recorded = match kind {
            DueKind::Deletion => delete_key::delete(node, account, id).await,
            DueKind::Expiry => expire_material::expire(node, account, id).await,
            DueKind::Synchronization => synchronize::synchronize(node, account, id).await,
            DueKind::Rotation => rotate_key::rotate(node, account, id).await,
        };
        if !recorded {
            return;
        }
    }
}
