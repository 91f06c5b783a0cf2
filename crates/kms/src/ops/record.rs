//! What a judged call leaves in the log: its facts, gathered while it is judged, then written once as an event.

use super::refusal::Refusal;
use crate::event::{Additional, AuditEvent, EVENT_VERSION, Resource, TlsDetails, UserIdentity};
use crate::journal::frame::PAYLOAD_BYTES_MAX;
use crate::key::{AccountId, KeyRecord, Region, alias_arn, rfc3339_seconds};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// `resources[].type` of a key.
const KEY_TYPE: &str = "AWS::KMS::Key";
/// `resources[].type` of an alias.
const ALIAS_TYPE: &str = "AWS::KMS::Alias";
/// `resources[].type` of a role.
const ROLE_TYPE: &str = "AWS::IAM::Role";
/// CloudTrail's limit on a user agent.
pub(crate) const USER_AGENT_BYTES_MAX: usize = 1_024;

/// The facts of one call that depend on its operation.
#[derive(Default)]
pub(crate) struct Record {
    /// Inputs that may be recorded.
    pub(crate) request_parameters: Option<Value>,
    /// Outputs that may be recorded.
    pub(crate) response_elements: Option<Value>,
    /// Keys and aliases touched.
    pub(crate) resources: Vec<Resource>,
    /// The owner of what was touched; the caller's account otherwise.
    pub(crate) account: Option<AccountId>,
    /// The statement that decided.
    pub(crate) decided_by: Option<String>,
    /// Material used.
    pub(crate) key_material_id: Option<String>,
    /// State before a change.
    pub(crate) before: Option<Value>,
    /// State after a change.
    pub(crate) after: Option<Value>,
    /// Further facts.
    pub(crate) more: Map<String, Value>,
    /// First event of a repeated action.
    pub(crate) repeat_of: Option<String>,
}

impl Record {
    /// Notes a key as touched.
    pub(crate) fn touch_key(&mut self, key: &KeyRecord) {
        self.touch(key.arn(), key.account, KEY_TYPE);
    }

    /// Notes a key by its ARN as touched, when there is no record of it.
    pub(crate) fn touch_key_arn(&mut self, arn: String, account: AccountId) {
        self.touch(arn, account, KEY_TYPE);
    }

    /// Notes an alias as touched.
    pub(crate) fn touch_alias(&mut self, account: AccountId, name: &str, region: Region) {
        self.touch(alias_arn(region, account, name), account, ALIAS_TYPE);
    }

    /// Notes a role as touched.
    pub(crate) fn touch_role(&mut self, arn: &str, account: AccountId) {
        self.touch(arn.to_owned(), account, ROLE_TYPE);
    }

    /// Notes a user, policy or the like as touched; `kind` is `resources[].type`.
    pub(crate) fn touch_entity(&mut self, arn: &str, account: AccountId, kind: &str) {
        self.touch(arn.to_owned(), account, kind);
    }

    fn touch(&mut self, arn: String, account: AccountId, kind: &str) {
        self.account = Some(account);
        if !self.resources.iter().any(|resource| resource.arn == arn) {
            self.resources.push(Resource { arn, account_id: account.to_string(), kind: kind.to_owned() });
        }
    }

    /// Sets one recorded input, such as `keyId` once the key is known.
    pub(crate) fn parameter(&mut self, name: &str, value: impl Into<Value>) {
        let parameters = self.request_parameters.get_or_insert_with(|| json!({}));
        if let Some(members) = parameters.as_object_mut() {
            members.insert(name.to_owned(), value.into());
        }
    }

    /// Writes the responder-facing fact of one alias as events carry it.
    pub(crate) fn alias_image(region: Region, account: AccountId, name: &str, target_arn: &str) -> Value {
        json!({"aliasName": name, "aliasArn": alias_arn(region, account, name), "targetKeyArn": target_arn})
    }
}

/// Who called what, when; the part of an event that does not depend on the operation.
pub(crate) struct Head<'a> {
    /// The caller.
    pub(crate) identity: UserIdentity,
    /// `kms.amazonaws.com` and so on.
    pub(crate) source: &'a str,
    /// The operation.
    pub(crate) name: &'a str,
    /// Region of the scope.
    pub(crate) region: Region,
    /// Peer address.
    pub(crate) source_ip: &'a str,
    /// Header.
    pub(crate) user_agent: Option<&'a str>,
    /// What the call came through, if that was TLS.
    pub(crate) tls: Option<TlsDetails>,
    /// Absent on service events.
    pub(crate) request_id: Option<Uuid>,
    /// Unique.
    pub(crate) event_id: Uuid,
    /// The time of the judgement.
    pub(crate) judged_at_us: u64,
    /// False for changes.
    pub(crate) read_only: bool,
    /// Number of the store transaction.
    pub(crate) mutation: Option<u64>,
    /// The responder's id.
    pub(crate) action_id: Option<&'a str>,
    /// Account when nothing was touched.
    pub(crate) account: &'a str,
    /// `AwsApiCall` or `AwsServiceEvent`.
    pub(crate) event_type: &'a str,
}

impl<'a> Head<'a> {
    /// Of what the node itself does, without a caller: `by` stands where a caller's address would. In this account, at
    /// this time and under this id.
    pub(crate) fn by_itself(
        by: &'a str,
        (source, name): (&'a str, &'a str),
        (account, region): (&'a str, Region),
        (judged_at_us, event_id): (u64, Uuid),
        mutation: u64,
    ) -> Self {
        Self {
            identity: UserIdentity {
                account_id: Some(account.to_owned()),
                invoked_by: Some(by.to_owned()),
                ..UserIdentity::default()
            },
            source,
            name,
            region,
            source_ip: by,
            user_agent: None,
            tls: None,
            request_id: None,
            event_id,
            judged_at_us,
            read_only: false,
            mutation: Some(mutation),
            action_id: None,
            account,
            event_type: "AwsServiceEvent",
        }
    }
}

/// The event's exact bytes. One too large for a record loses its parameters, as CloudTrail cuts them, then what another
/// event has; it says so. What is left of a change may still be too large: its carrier must look before it commits.
pub(crate) fn write(head: Head<'_>, record: Record, refusal: Option<&Refusal>) -> Bytes {
    let account_id = record.account.map_or_else(|| head.account.to_owned(), |account| account.to_string());
    let mut event = AuditEvent {
        event_version: EVENT_VERSION.to_owned(),
        user_identity: head.identity,
        event_time: rfc3339_seconds(head.judged_at_us),
        event_source: head.source.to_owned(),
        event_name: head.name.to_owned(),
        aws_region: head.region.to_string(),
        source_ip_address: head.source_ip.to_owned(),
        user_agent: head.user_agent.map(str::to_owned),
        error_code: refusal.map(|refusal| refusal.kind.event_code().to_owned()),
        error_message: refusal.and_then(|refusal| refusal.message.as_deref().map(str::to_owned)),
        request_parameters: record.request_parameters,
        response_elements: record.response_elements,
        additional_event_data: Additional {
            judged_at_micros: head.judged_at_us,
            decided_by: record.decided_by,
            key_material_id: record.key_material_id,
            mutation: head.mutation,
            action_id: head.action_id.map(str::to_owned),
            repeat_of: record.repeat_of,
            before: record.before,
            after: record.after,
            more: record.more,
        },
        request_id: head.request_id.map(|id| id.to_string()),
        event_id: head.event_id.to_string(),
        read_only: head.read_only,
        resources: record.resources,
        event_type: head.event_type.to_owned(),
        management_event: true,
        recipient_account_id: account_id,
        event_category: "Management".to_owned(),
        tls_details: head.tls,
    };
    let mut bytes = encode(&event);
    if bytes.len() > PAYLOAD_BYTES_MAX {
        event.request_parameters = Some(json!({"omitted": true}));
        bytes = encode(&event);
    }
    if bytes.len() > PAYLOAD_BYTES_MAX {
        cut_images(&mut event);
        bytes = encode(&event);
    }
    bytes.into()
}

/// Takes away what the log has elsewhere: the event that made a key what it is holds its texts, and a refused change
/// left everything as it was.
fn cut_images(event: &mut AuditEvent) {
    let Additional { before, after, .. } = &mut event.additional_event_data;
    if event.error_code.is_some() {
        (*before, *after, event.response_elements) = (None, None, None);
    } else if let Some(Value::Object(members)) = before {
        members.retain(|name, _| !matches!(name.as_str(), "description" | "tags"));
        members.insert("omitted".to_owned(), true.into());
    }
}

fn encode(event: &AuditEvent) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_536);
    serde_json::to_writer(&mut bytes, event).expect("an event has only string keys");
    bytes
}
