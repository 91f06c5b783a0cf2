//! The end of a waiting period: the key's material, policies, tags and aliases go for good, as a service event.

use super::drive::{Effect, carry};
use super::record::{self, Head, Record};
use crate::event::{SOURCE_KMS, UserIdentity};
use crate::key::{AccountId, KeyId, KeyRecord};
use crate::node::Node;
use crate::registry::Publish;
use crate::store::Change;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Keys deleted in one run of the job; the next run comes within seconds.
const KEYS_MAX: usize = 64;

/// Deletes keys whose date has come. Looks at what is and may run at any time, twice too.
pub(crate) async fn delete_due_keys(node: &Arc<Node>) {
    let now_us = node.clock.now_us();
    for (account, id) in node.registry.due_for_deletion(now_us, KEYS_MAX) {
        if !delete(node, account, id).await {
            return;
        }
    }
}

/// Deletes one key if it is still due; false when the node cannot record that now.
async fn delete(node: &Arc<Node>, account: AccountId, id: KeyId) -> bool {
    let Some(seen) = node.registry.key(account, id) else { return true };
    let mut stripes: BTreeSet<_> = seen.aliases.iter().map(|name| node.locks.alias(account, name)).collect();
    stripes.insert(node.locks.key(account, id));
    let held = node.locks.hold(&stripes).await;
    let judged_at_us = node.clock.now_us();
    let Some(key) = node.registry.key(account, id) else { return true };
    let due = key.state.deletion_us().is_some_and(|deletion_us| deletion_us <= judged_at_us);
    if !due || key.aliases != seen.aliases {
        return true;
    }
    let event_id = node.time_ordered_id(judged_at_us);
    let mut record = Record::default();
    record.touch_key(&key, &node.region);
    record.before = Some(key.image(&node.region));
    let arn = key.arn(&node.region);
    record.more.insert("serviceEventDetails".to_owned(), json!({"keyId": arn}));
    let head = |mutation| Head {
        identity: UserIdentity {
            account_id: Some(account.to_string()),
            invoked_by: Some("AWS Internal".to_owned()),
            ..UserIdentity::default()
        },
        source: SOURCE_KMS,
        name: "DeleteKey",
        region: &node.region,
        source_ip: "AWS Internal",
        user_agent: None,
        request_id: None,
        event_id,
        judged_at_us,
        read_only: false,
        mutation: Some(mutation),
        action_id: None,
        account: account.as_str(),
        event_type: "AwsServiceEvent",
    };
    let write = |mutation| record::write(head(mutation), record, None);
    carry(node, held, event_id, write, effect(&key), None).await.is_ok()
}

fn effect(key: &KeyRecord) -> Effect {
    let mut publish: Vec<_> =
        key.aliases.iter().map(|name| Publish::NoAlias(key.account, name.as_str().into())).collect();
    publish.push(Publish::NoKey(key.account, key.id));
    Effect { changes: vec![Change::DeleteKey(key.id)], publish, ..Effect::default() }
}
