//! The audit event: the payload of a kind-1 record, shaped like a CloudTrail record.
//!
//! Serialised once, when the call is decided; from then on only the bytes travel. Members that do not apply are
//! absent, except `responseElements` and `requestParameters`, which CloudTrail writes as null. Fields per operation:
//! docs/event.md. Never holds plaintext, ciphertext, key material, tokens or secrets.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Whether the payload of an event may be erased: only where it changed nothing. What keys, policies, grants and
/// identities were is folded from the others, and they say who changed it. The lake tells the same from its columns.
pub fn is_erasable(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Looked {
        read_only: Option<bool>,
        error_code: Option<String>,
    }
    serde_json::from_slice::<Looked>(payload)
        .is_ok_and(|looked| looked.read_only == Some(true) || looked.error_code.is_some())
}

/// The CloudTrail record version this follows.
pub const EVENT_VERSION: &str = "1.11";

/// `eventSource` of AWS-shaped key operations.
pub const SOURCE_KMS: &str = "kms.amazonaws.com";
/// `eventSource` of STS operations.
pub const SOURCE_STS: &str = "sts.amazonaws.com";
/// `eventSource` of IAM operations.
pub const SOURCE_IAM: &str = "iam.amazonaws.com";
/// `eventSource` of CloudTrail operations.
pub const SOURCE_CLOUDTRAIL: &str = "cloudtrail.amazonaws.com";
/// `eventSource` of Keytrail's own operations (quarantine, identity loads, restores).
pub const SOURCE_INTERNAL: &str = "keytrail.internal";

/// One call as CloudTrail would record it. Field order is the order in the JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// Always `1.11`.
    pub event_version: String,
    /// Who called.
    pub user_identity: UserIdentity,
    /// Completion time, UTC, whole seconds: `2026-01-05T12:00:00Z`.
    pub event_time: String,
    /// One of the `SOURCE_` texts of this file.
    pub event_source: String,
    /// The operation: `Decrypt`.
    pub event_name: String,
    /// Region of the request's credential scope.
    pub aws_region: String,
    /// The peer's address, or `keytrail.internal` for internal events.
    #[serde(rename = "sourceIPAddress")]
    pub source_ip_address: String,
    /// The `User-Agent` header, cut at 1 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// AWS exception name without the `Exception` where CloudTrail cuts it: `AccessDenied`, `DisabledException`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// One safe sentence, at most 1 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The inputs that may be recorded, or null.
    pub request_parameters: Option<Value>,
    /// The outputs that may be recorded, null unless the call changes state.
    pub response_elements: Option<Value>,
    /// Keytrail's own facts: see [`Additional`].
    pub additional_event_data: Additional,
    /// UUIDv7; absent on service events.
    #[serde(rename = "requestID", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// UUIDv7, unique in the log.
    #[serde(rename = "eventID")]
    pub event_id: String,
    /// False for calls that change state.
    pub read_only: bool,
    /// The keys (and aliases) touched; rules take the key from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Resource>,
    /// `AwsApiCall` or `AwsServiceEvent`.
    pub event_type: String,
    /// Always true: KMS calls are management events.
    pub management_event: bool,
    /// The account whose key or identity is concerned.
    pub recipient_account_id: String,
    /// Always `Management`.
    pub event_category: String,
    /// What the call came through, if that was TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_details: Option<TlsDetails>,
}

/// A TLS connection, in CloudTrail's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsDetails {
    /// `TLSv1.3`.
    pub tls_version: String,
    /// `TLS_AES_128_GCM_SHA256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher_suite: Option<String>,
    /// The `Host` header, cut at 261 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_provided_host_header: Option<String>,
}

/// Who called, in CloudTrail's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserIdentity {
    /// `IAMUser`, `Root`, `AssumedRole`, `WebIdentityUser`, `AWSService`, `Unknown`; absent on service events.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Stable id of the principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal_id: Option<String>,
    /// The principal's ARN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// Twelve digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The access key id used, never its secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Of temporary credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_context: Option<SessionContext>,
    /// The ARN of the provider that vouches for a `WebIdentityUser`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_provider: Option<String>,
    /// A service that made the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invoked_by: Option<String>,
}

/// Where temporary credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionContext {
    /// The role; absent on sessions of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_issuer: Option<SessionIssuer>,
    /// The identity provider; absent on sessions that were opened without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub web_id_federation_data: Option<WebIdFederationData>,
    /// When and how.
    pub attributes: SessionAttributes,
}

/// The role behind a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionIssuer {
    /// `Role`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `AROA...`.
    pub principal_id: String,
    /// The role's ARN.
    pub arn: String,
    /// Twelve digits.
    pub account_id: String,
    /// The role's name.
    pub user_name: String,
}

/// The identity provider by which a session was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebIdFederationData {
    /// Its ARN.
    pub federated_provider: String,
    /// Empty, as at AWS for OpenID Connect.
    pub attributes: Map<String, Value>,
}

/// When and how a session was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAttributes {
    /// UTC, whole seconds.
    pub creation_date: String,
    /// `true` or `false`, a text as at AWS: whether a second factor was proved.
    pub mfa_authenticated: String,
}

/// A resource the call touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// The key's or alias's ARN.
    #[serde(rename = "ARN")]
    pub arn: String,
    /// The owning account.
    #[serde(rename = "accountId")]
    pub account_id: String,
    /// `AWS::KMS::Key` or `AWS::KMS::Alias`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Keytrail's own part of an event, under `additionalEventData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Additional {
    /// Unix microseconds: the only time that the evaluation of this call used.
    pub judged_at_micros: u64,
    /// The statement that decided: `KeyPolicy/Sid`, `IdentityPolicy/name/Sid`, `Quarantine/id`, `BuiltIn`, `Default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// Id of the key material used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
    /// Number of the store transaction that this event belongs to; only on changes of state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mutation: Option<u64>,
    /// The responder's action id (header `x-keytrail-action-id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action_id: Option<String>,
    /// eventID of the first call with the same action id; this one had no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_of: Option<String>,
    /// The key's (or overlay's) state before a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The key's (or overlay's) state after a change; the tables fold this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Anything else an operation records.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}
