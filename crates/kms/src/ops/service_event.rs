//! Events of the service itself: what it does to a key without being asked for it, such as when a date comes.

use super::drive::{Effect, Uncarried, carry};
use super::record::{self, Head, Record};
use crate::event::{SOURCE_INTERNAL, SOURCE_KMS};
use crate::key::{AccountId, KeyRecord, Region};
use crate::locks::Held;
use crate::node::Node;
use serde_json::{Value, json};
use uuid::Uuid;

/// One change that the service makes to a key.
pub(crate) struct ServiceEvent<'a> {
    node: &'a Node,
    source: &'static str,
    name: &'static str,
    account: String,
    region: Region,
    judged_at_us: u64,
    pub(crate) event_id: Uuid,
    pub(crate) record: Record,
}

impl<'a> ServiceEvent<'a> {
    /// Starts the event with the key as it was before.
    pub(crate) fn new(node: &'a Node, name: &'static str, key: &KeyRecord, judged_at_us: u64) -> Self {
        let mut event = Self::without_key(node, name, (key.account, key.id.region), judged_at_us);
        event.about(key);
        event.record.before = Some(key.image());
        event
    }

    /// Starts the event of a key that is not there yet.
    pub(crate) fn without_key(
        node: &'a Node,
        name: &'static str,
        (account, region): (AccountId, Region),
        judged_at_us: u64,
    ) -> Self {
        let event_id = node.time_ordered_id(judged_at_us);
        let account = account.to_string();
        Self { node, source: SOURCE_KMS, name, account, region, judged_at_us, event_id, record: Record::default() }
    }

    /// Something that AWS does not have.
    pub(crate) fn internal(mut self) -> Self {
        self.source = SOURCE_INTERNAL;
        self
    }

    /// Notes the key that it is about.
    pub(crate) fn about(&mut self, key: &KeyRecord) {
        let arn = key.arn();
        self.record.touch_key(key);
        self.record.more.insert("serviceEventDetails".to_owned(), json!({"keyId": arn}));
    }

    /// Adds to `serviceEventDetails`.
    pub(crate) fn detail(&mut self, name: &str, value: impl Into<Value>) {
        self.record.more["serviceEventDetails"][name] = value.into();
    }

    /// Carries the change through; false when the node cannot record it now. One that no event can hold, of a key that no
    /// version should have made so large, must not keep the others waiting.
    pub(crate) async fn carry(self, held: Held, effect: Effect) -> bool {
        let Self { node, source, name, account, region, judged_at_us, event_id, record } = self;
        let write = |mutation| {
            let what = (source, name);
            let head = Head::by_itself("AWS Internal", what, (&account, region), (judged_at_us, event_id), mutation);
            record::write(head, record, None)
        };
        matches!(carry(node, held, event_id, write, effect, None).await, Ok(_) | Err(Uncarried::Oversized))
    }
}
