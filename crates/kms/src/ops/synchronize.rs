//! The end of Creating and Updating: a multi-Region key is found to be equal to its related keys, as a service event.
//!
//! What related keys share is one row and one allocation, so there is nothing to copy: the states are AWS's, and so that
//! its clients' way of waiting for them works.

use super::companion::{SYNCHRONIZE, about_synchronized};
use super::drive::Effect;
use super::service_event::ServiceEvent;
use crate::key::{AccountId, KeyId};
use crate::node::Node;
use crate::registry::Publish;
use crate::store::Change;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Ends one key's transient state; false when the node cannot record that now.
pub(crate) async fn synchronize(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let held = node.locks.hold(&BTreeSet::from([node.locks.key(account, id)])).await;
    let Some(key) = node.registry.key(account, id) else { return true };
    let judged_at_us = node.clock.now_us();
    if key.state.until_us().is_none_or(|until_us| until_us > judged_at_us) {
        return true;
    }
    let state = key.synchronized_state();
    let after = key.with_state(state);
    let mut event = ServiceEvent::new(node, SYNCHRONIZE, &key, judged_at_us);
    about_synchronized(&mut event.record, &key, &after);
    let effect = Effect {
        changes: vec![Change::SetState(id, state)],
        publish: vec![Publish::Key(Arc::new(after))],
        ..Effect::default()
    };
    event.carry(held, effect).await
}
