//! Events that a change leaves beside its own: one for each further key that it changes, in that key's region.
//!
//! They commit in the change's transaction and reach the journal right behind its event, under the same locks. So each
//! event is about one key, and whoever folds keys from the log needs to know nothing of related keys.

use super::drive::Effect;
use super::judge::Judge;
use super::record::{self, Head, Record};
use crate::event::{SOURCE_KMS, UserIdentity};
use crate::key::{AccountId, KeyRecord, Region};
use crate::node::Node;
use crate::registry::Publish;
use crate::store::Change;
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use uuid::Uuid;

/// Stands where a caller's address or agent would.
const AWS_INTERNAL: &str = "AWS Internal";
/// The event of a key that was made equal to its related keys.
pub(crate) const SYNCHRONIZE: &str = "SynchronizeMultiRegionKey";

/// An event of a key that changes with another one.
pub(crate) struct Companion {
    pub(crate) event_id: Uuid,
    name: &'static str,
    identity: UserIdentity,
    source_ip: String,
    account: AccountId,
    region: Region,
    judged_at_us: u64,
    pub(crate) record: Record,
}

impl Companion {
    /// What a call does in another region: as in CloudTrail it is its caller's, by way of the service.
    pub(crate) fn of_call(judge: &Judge<'_>, name: &'static str, region: Region) -> Self {
        let mut identity = judge.caller().map(|caller| caller.identity.clone()).unwrap_or_default();
        identity.invoked_by = Some(SOURCE_KMS.to_owned());
        Self {
            event_id: judge.node.time_ordered_id(judge.judged_at_us),
            name,
            identity,
            source_ip: judge.call.source_ip.clone(),
            account: judge.account(),
            region,
            judged_at_us: judge.judged_at_us,
            record: Record::default(),
        }
    }

    /// What the service does by itself: a key takes over what its related keys share.
    pub(crate) fn synchronized(node: &Node, before: &KeyRecord, after: &KeyRecord, judged_at_us: u64) -> Self {
        let mut record = Record::default();
        about_synchronized(&mut record, before, after);
        let identity = UserIdentity {
            account_id: Some(after.account.to_string()),
            invoked_by: Some(AWS_INTERNAL.to_owned()),
            ..UserIdentity::default()
        };
        Self {
            event_id: node.time_ordered_id(judged_at_us),
            name: SYNCHRONIZE,
            identity,
            source_ip: AWS_INTERNAL.to_owned(),
            account: after.account,
            region: after.id.region,
            judged_at_us,
            record,
        }
    }

    /// The event's exact bytes; `cause` is the event of the change that it belongs to.
    pub(crate) fn write(mut self, mutation: u64, cause: Uuid) -> Bytes {
        self.record.more.insert("causedBy".to_owned(), cause.to_string().into());
        let account = self.account;
        let head = Head {
            identity: self.identity,
            source: SOURCE_KMS,
            name: self.name,
            region: self.region,
            source_ip: &self.source_ip,
            user_agent: Some(AWS_INTERNAL),
            tls: None,
            // A request has one event: its caller's own.
            request_id: None,
            event_id: self.event_id,
            judged_at_us: self.judged_at_us,
            read_only: false,
            mutation: Some(mutation),
            action_id: None,
            account: account.as_str(),
            event_type: "AwsServiceEvent",
        };
        record::write(head, self.record, None)
    }
}

/// What SynchronizeMultiRegionKey says of a key: which it is, and its state around.
pub(crate) fn about_synchronized(record: &mut Record, before: &KeyRecord, after: &KeyRecord) {
    record.touch_key(after);
    record.response_elements = Some(json!({"keyId": after.arn()}));
    record.before = Some(before.image());
    record.after = Some(after.image());
}

/// Lets a key's related keys follow it, in the transaction that changes it. One lock holds them all.
pub(crate) fn follow(node: &Node, primary: &KeyRecord, judged_at_us: u64, effect: &mut Effect) {
    for region in primary.related_regions() {
        let Some(before) = node.registry.key(primary.account, primary.id.in_region(region)) else { continue };
        let after = before.follow(primary);
        follow_as(node, &before, after, judged_at_us, effect);
    }
}

/// Lets one related key become what it shall be; an event tells of it where its image changes.
pub(crate) fn follow_as(node: &Node, before: &KeyRecord, after: KeyRecord, judged_at_us: u64, effect: &mut Effect) {
    effect.changes.extend(differences(before, &after));
    if before.image() != after.image() {
        effect.companions.push(Companion::synchronized(node, before, &after, judged_at_us));
    }
    effect.publish.push(Publish::Key(Arc::new(after)));
}

/// What the store has of the properties that related keys share, and of the state that they give each other.
fn differences(before: &KeyRecord, after: &KeyRecord) -> Vec<Change> {
    let mut changes = Vec::new();
    if before.state != after.state {
        changes.push(Change::SetState(after.id, after.state));
    }
    if (before.rotation, before.on_demand_us) != (after.rotation, after.on_demand_us) {
        changes.push(Change::SetRotation(after.id, after.rotation, after.on_demand_us));
    }
    if before.material_id() != after.material_id() {
        changes.push(Change::SetMaterial(after.id, after.material_id().unwrap_or_default()));
    }
    let primary = |key: &KeyRecord| key.family.as_ref().map(|family| family.primary);
    if let Some(region) = primary(after).filter(|region| primary(before) != Some(*region)) {
        changes.push(Change::SetPrimaryRegion(after.id, region));
    }
    changes
}
