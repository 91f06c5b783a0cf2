//! Events of the node about itself, without a caller and about no key: what all of them have in common.

use super::drive::{Effect, Uncarried, carry};
use super::record::{self, Head, Record};
use crate::event::SOURCE_INTERNAL;
use crate::locks::Held;
use crate::node::Node;
use serde_json::Value;
use std::sync::Arc;

/// Carries a change of the node's own through, as an event from `keytrail.internal` with these parameters.
pub(crate) async fn carry_internal(
    node: &Arc<Node>,
    held: Held,
    name: &'static str,
    parameters: Value,
    effect: Effect,
) -> Result<(), Uncarried> {
    let judged_at_us = node.clock.now_us();
    let event_id = node.time_ordered_id(judged_at_us);
    let record = Record { request_parameters: Some(parameters), ..Record::default() };
    let write = |mutation| {
        let (what, place) = ((SOURCE_INTERNAL, name), (node.account.as_str(), node.region));
        let head = Head::by_itself(SOURCE_INTERNAL, what, place, (judged_at_us, event_id), mutation);
        record::write(head, record, None)
    };
    match carry(node, held, event_id, write, effect, None).await {
        // Late: recorded, and nobody waits for an answer.
        Ok(_) | Err(Uncarried::Late) => Ok(()),
        Err(error) => Err(error),
    }
}
