//! Events of the node about itself, without a caller and about no key: what all of them have in common.

use super::drive::{Effect, Uncarried, carry};
use super::record::{self, Head, Record};
use crate::event::{SOURCE_INTERNAL, UserIdentity};
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
    let head = |mutation| Head {
        identity: UserIdentity {
            account_id: Some(node.account.to_string()),
            invoked_by: Some(SOURCE_INTERNAL.to_owned()),
            ..UserIdentity::default()
        },
        source: SOURCE_INTERNAL,
        name,
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
    match carry(node, held, event_id, write, effect, None).await {
        // Late: recorded, and nobody waits for an answer.
        Ok(_) | Err(Uncarried::Late) => Ok(()),
        Err(error) => Err(error),
    }
}
