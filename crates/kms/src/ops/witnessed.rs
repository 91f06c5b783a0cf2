//! Answers that wait for witnesses: to operations that the operator chose, once they have done something.
//!
//! The locks are given up by then and the record is durable: what waits is the answer alone. Without a quorum in time the
//! caller learns of an error and the log, by an addendum, that the reply was not sent; recorded means decided, not
//! delivered.

use super::answer::{Answer, Call};
use super::refusal::Refusal;
use crate::chain::Kind;
use crate::node::Node;
use crate::recover;
use serde_json::json;
use std::sync::Arc;

/// Holds an answer back until a checkpoint that the quorum has cosigned covers its record.
pub(crate) async fn witnessed(node: &Arc<Node>, call: &Call, answer: Answer) -> Answer {
    let (Some(quorum), None, Some(receipt)) = (&node.quorum, &answer.refusal, answer.receipt) else { return answer };
    if !quorum.is_waited_for(&call.operation) || quorum.wait(node, receipt.seq).await {
        return answer;
    }
    tracing::warn!(
        operation = call.operation,
        seq = receipt.seq,
        "no quorum of witnesses in time, the reply is not sent"
    );
    let payload = json!({"recordVersion": 1, "repliesNotSent": [[receipt.seq, receipt.seq]]});
    if let Err(error) = recover::record(node, Kind::Addendum, &payload).await {
        tracing::warn!(%error, "reply that was not sent is not recorded");
    }
    Answer::refused(Refusal::internal(), None)
}
