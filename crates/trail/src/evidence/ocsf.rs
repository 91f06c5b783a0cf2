//! Events as OCSF API Activity (class 6003 of version 1.8.0), for readers that want that form.
//!
//! A mapping for convenience: the payload rides along as `raw_data`, and proofs are about that alone. Which activity an
//! operation is stands in a table; everything that is not in it, all use of keys included, is 99 under its own name.

use super::{IoError, io};
use flate2::Compression;
use flate2::write::GzEncoder;
use keytrail_kms::chain::Leaf;
use keytrail_kms::chain::leaf::sha256;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

const VERSION: &str = "1.8.0";
/// Stands where the schema wants a name and the event has none.
const UNKNOWN: &str = "Unknown";
pub(crate) const CLASS: u32 = 6003;

const CREATES: [&str; 15] = [
    "CreateAccessKey",
    "CreateAlias",
    "CreateCustomKeyStore",
    "CreateGrant",
    "CreateGroup",
    "CreateKey",
    "CreateOpenIDConnectProvider",
    "CreatePolicy",
    "CreatePolicyVersion",
    "CreateRole",
    "CreateUser",
    "CreateVirtualMFADevice",
    "ReplicateKey",
    "PutMfaRequirement",
    "PutQuarantine",
];

const READS: [&str; 56] = [
    "CountKeys",
    "DescribeCustomKeyStores",
    "DescribeKey",
    "GetAccessKeyInfo",
    "GetCallerIdentity",
    "GetCheckpoint",
    "GetFrames",
    "GetGroup",
    "GetGroupPolicy",
    "GetKeyLastUsage",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "GetOpenIDConnectProvider",
    "GetParametersForImport",
    "GetPolicy",
    "GetPolicyVersion",
    "GetPublicKey",
    "GetRole",
    "GetRolePolicy",
    "GetUsage",
    "GetUser",
    "GetUserPolicy",
    "ListAccessKeys",
    "ListAliases",
    "ListAttachedGroupPolicies",
    "ListAttachedRolePolicies",
    "ListAttachedUserPolicies",
    "ListChanges",
    "ListDeactivatedAccessKeys",
    "ListEntitiesForPolicy",
    "ListGrants",
    "ListGroupPolicies",
    "ListGroups",
    "ListGroupsForUser",
    "ListInstanceProfilesForRole",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListKeys",
    "ListMFADevices",
    "ListMfaRequirements",
    "ListOpenIDConnectProviderTags",
    "ListOpenIDConnectProviders",
    "ListPolicies",
    "ListPolicyTags",
    "ListPolicyVersions",
    "ListQuarantines",
    "ListResourceTags",
    "ListRetirableGrants",
    "ListRolePolicies",
    "ListRoleTags",
    "ListRoles",
    "ListUserPolicies",
    "ListUserTags",
    "ListUsers",
    "ListVirtualMFADevices",
    "LookupEvents",
];

const UPDATES: [&str; 57] = [
    "ActivateAccessKey",
    "AddClientIDToOpenIDConnectProvider",
    "AddUserToGroup",
    "AttachGroupPolicy",
    "AttachRolePolicy",
    "AttachUserPolicy",
    "CancelKeyDeletion",
    "ConnectCustomKeyStore",
    "DeactivateAccessKey",
    "DeactivateMFADevice",
    "DetachGroupPolicy",
    "DetachRolePolicy",
    "DetachUserPolicy",
    "DisableKey",
    "DisableKeyRotation",
    "DisconnectCustomKeyStore",
    "EnableKey",
    "EnableKeyRotation",
    "EnableMFADevice",
    "ImportKeyMaterial",
    "LoadIdentities",
    "PutGroupPolicy",
    "PutKeyPolicy",
    "PutRolePermissionsBoundary",
    "PutRolePolicy",
    "PutUserPermissionsBoundary",
    "PutUserPolicy",
    "RemoveClientIDFromOpenIDConnectProvider",
    "RemoveUserFromGroup",
    "ResealRootKey",
    "RestoreAlias",
    "RestoreKeyPolicy",
    "ResyncMFADevice",
    "RotateKey",
    "RotateKeyOnDemand",
    "RotateRootKey",
    "SetDefaultPolicyVersion",
    "SettleCustomKeyStoreConnection",
    "SynchronizeMultiRegionKey",
    "TagOpenIDConnectProvider",
    "TagPolicy",
    "TagResource",
    "TagRole",
    "TagUser",
    "UntagOpenIDConnectProvider",
    "UntagPolicy",
    "UntagResource",
    "UntagRole",
    "UntagUser",
    "UpdateAccessKey",
    "UpdateAlias",
    "UpdateAssumeRolePolicy",
    "UpdateCustomKeyStore",
    "UpdateKeyDescription",
    "UpdateOpenIDConnectProviderThumbprint",
    "UpdatePrimaryRegion",
    "UpdateRole",
];

const DELETES: [&str; 24] = [
    "DeleteAccessKey",
    "DeleteAlias",
    "DeleteCustomKeyStore",
    "DeleteExpiredKeyMaterial",
    "DeleteGroup",
    "DeleteGroupPolicy",
    "DeleteImportedKeyMaterial",
    "DeleteKey",
    "DeleteOpenIDConnectProvider",
    "DeletePolicy",
    "DeletePolicyVersion",
    "DeleteRole",
    "DeleteRolePermissionsBoundary",
    "DeleteRolePolicy",
    "DeleteUser",
    "DeleteUserPermissionsBoundary",
    "DeleteUserPolicy",
    "DeleteVirtualMFADevice",
    "DestroyTokenKey",
    "LiftMfaRequirement",
    "LiftQuarantine",
    "RetireGrant",
    "RevokeGrant",
    "ScheduleKeyDeletion",
];

/// Members of the event that have a place of their own.
const MAPPED: [&str; 16] = [
    "apiVersion",
    "awsRegion",
    "errorCode",
    "errorMessage",
    "eventID",
    "eventName",
    "eventSource",
    "eventTime",
    "eventType",
    "requestID",
    "requestParameters",
    "resources",
    "responseElements",
    "sourceIPAddress",
    "userAgent",
    "userIdentity",
];

/// Activity number and name of an operation.
pub(crate) fn activity(operation: &str) -> (u32, &str) {
    let tables: [(u32, &str, &[&str]); 4] =
        [(1, "Create", &CREATES), (2, "Read", &READS), (3, "Update", &UPDATES), (4, "Delete", &DELETES)];
    let found = tables.into_iter().find(|(_, _, operations)| operations.contains(&operation));
    found.map_or((99, operation), |(id, name, _)| (id, name))
}

/// Writes `ocsf/<log>.jsonl.gz`.
pub(super) struct OcsfFile {
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
}

impl OcsfFile {
    pub(super) fn create(root: &Path, log: &str) -> Result<Self, IoError> {
        let path = root.join(format!("ocsf/{log}.jsonl.gz"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("create", folder))?;
        }
        let file = File::create_new(&path).map_err(io("create", &path))?;
        Ok(Self { path, out: GzEncoder::new(BufWriter::new(file), Compression::new(4)) })
    }

    /// Adds an event; a payload that is no object has no OCSF form.
    pub(super) fn push(&mut self, leaf: &Leaf, payload: &[u8]) -> Result<(), IoError> {
        let Some(event) = event(&leaf.log.to_string(), leaf.seq, leaf.time_us, payload) else { return Ok(()) };
        writeln!(self.out, "{event}").map_err(io("write", &self.path))
    }

    pub(super) fn finish(self) -> Result<(), IoError> {
        let Self { path, out } = self;
        out.finish().and_then(|mut out| out.flush()).map_err(io("write", &path))
    }
}

/// The event in OCSF: its log, seq and the time of its leaf, and its payload.
pub(crate) fn event(log: &str, seq: u64, leaf_time_us: u64, payload: &[u8]) -> Option<Value> {
    let raw = std::str::from_utf8(payload).ok()?;
    let event: Map<String, Value> = serde_json::from_str(raw).ok()?;
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let operation = text("eventName").unwrap_or("Unknown");
    let (activity_id, activity_name) = activity(operation);
    let failed = text("errorCode");
    let parsed = text("eventTime").and_then(millis);
    let mut out = json!({
        "activity_id": activity_id,
        "activity_name": activity_name,
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "type_uid": CLASS * 100 + activity_id,
        "severity_id": 1,
        "severity": "Informational",
        "time": parsed.unwrap_or(i64::try_from(leaf_time_us / 1_000).unwrap_or(0)),
        "timezone_offset": 0,
        "status_id": if failed.is_some() { 2 } else { 1 },
        "status": if failed.is_some() { "Failure" } else { "Success" },
        "status_code": failed,
        "status_detail": text("errorMessage"),
        "metadata": {
            "uid": text("eventID"),
            "event_code": text("eventType"),
            "log_name": log,
            "sequence": seq,
            "original_time": text("eventTime"),
            "logged_time": leaf_time_us / 1_000,
            "product": { "name": "Keytrail", "vendor_name": "Keytrail" },
            "profiles": ["cloud"],
            "version": VERSION,
        },
        "api": {
            "operation": operation,
            "service": { "name": text("eventSource") },
            "version": text("apiVersion"),
            "request": { "uid": text("requestID").or(text("eventID")), "data": event.get("requestParameters") },
            "response": { "error": failed, "error_message": text("errorMessage"), "data": event.get("responseElements") },
        },
        "actor": actor(&event),
        "src_endpoint": endpoint(&event),
        "http_request": { "user_agent": text("userAgent") },
        "cloud": {
            "provider": "Keytrail",
            "region": text("awsRegion"),
            "account": { "uid": text("recipientAccountId") },
        },
        "resources": resources(&event),
        "raw_data": raw,
        "raw_data_hash": { "algorithm_id": 3, "algorithm": "SHA-256", "value": hex::encode(sha256(&[payload])) },
        "raw_data_size": payload.len(),
        "unmapped": unmapped(&event),
    });
    prune(&mut out);
    // Required by the class, also where nothing is known; and each wants at least one member.
    for (name, least) in [("actor", json!({ "app_name": UNKNOWN })), ("src_endpoint", json!({ "name": UNKNOWN }))] {
        if let Some(object) = out.as_object_mut() {
            object.entry(name).or_insert(least);
        }
    }
    Some(out)
}

fn actor(event: &Map<String, Value>) -> Value {
    let Some(identity) = event.get("userIdentity").and_then(Value::as_object) else { return Value::Null };
    let text = |name: &str| identity.get(name).and_then(Value::as_str);
    let session = identity.get("sessionContext");
    let attribute = |name: &str| session.and_then(|session| session.pointer(&format!("/attributes/{name}")));
    // CloudTrail writes it as text.
    let mfa = attribute("mfaAuthenticated").and_then(Value::as_str).and_then(|text| text.parse::<bool>().ok());
    let created = attribute("creationDate").and_then(Value::as_str).and_then(millis);
    json!({
        "user": {
            "type": text("type"),
            "uid": text("arn"),
            "uid_alt": text("principalId"),
            "name": text("userName").or(if text("arn").is_none() { text("invokedBy").or(Some(UNKNOWN)) } else { None }),
            "account": { "uid": text("accountId") },
            "credential_uid": text("accessKeyId"),
        },
        "session": {
            "uid": session.and(text("principalId")),
            "issuer": session.and_then(|session| session.pointer("/sessionIssuer/arn")),
            "is_mfa": mfa,
            "created_time": created,
        },
        "idp": { "name": session.and_then(|session| session.pointer("/webIdFederationData/federatedProvider"))
            .or(identity.get("identityProvider")) },
        "app_name": text("invokedBy"),
    })
}

fn endpoint(event: &Map<String, Value>) -> Value {
    let source = event.get("sourceIPAddress").and_then(Value::as_str);
    let member = if source.is_some_and(|source| source.parse::<IpAddr>().is_ok()) { "ip" } else { "domain" };
    json!({ member: source, "uid": event.get("vpcEndpointId") })
}

fn resources(event: &Map<String, Value>) -> Value {
    let resources = event.get("resources").and_then(Value::as_array);
    let resource = |resource: &Value| {
        json!({
            "uid": resource.get("ARN"),
            "type": resource.get("type"),
            "owner": { "account": { "uid": resource.get("accountId") } },
        })
    };
    resources.map_or(Value::Null, |resources| resources.iter().map(resource).collect())
}

fn unmapped(event: &Map<String, Value>) -> Value {
    let mut rest: Map<String, Value> = event.clone();
    rest.retain(|name, _| !MAPPED.contains(&name.as_str()));
    Value::Object(rest)
}

fn millis(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

/// Takes out what is null, and objects that nothing is left of.
fn prune(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|name, member| {
            // What the caller sent is shown as it is.
            if name != "data" && name != "unmapped" {
                prune(member);
            }
            !member.is_null() && member.as_object().is_none_or(|object| !object.is_empty())
        });
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(prune);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of_leaf(payload: &[u8]) -> Option<Value> {
        let leaf = leaf();
        event(&leaf.log.to_string(), leaf.seq, leaf.time_us, payload)
    }
    use keytrail_kms::chain::{Kind, Link, LogId};

    fn leaf() -> Leaf {
        Leaf {
            log: LogId([7; 16]),
            epoch: 1,
            seq: 42,
            kind: Kind::Event,
            time_us: 1_767_614_400_500_000,
            payload_len: 0,
            payload_digest: [0; 32],
            prev: Link::ZERO,
        }
    }

    #[test]
    fn operations_are_told_by_the_table_not_by_parts_of_their_names() {
        let expected = [
            ("CreateKey", 1, "Create"),
            ("GenerateDataKey", 99, "GenerateDataKey"),
            ("Decrypt", 99, "Decrypt"),
            ("DescribeKey", 2, "Read"),
            ("CancelKeyDeletion", 3, "Update"),
            ("UpdatePrimaryRegion", 3, "Update"),
            ("ScheduleKeyDeletion", 4, "Delete"),
            ("RetireGrant", 4, "Delete"),
            ("CreateSomethingNew", 99, "CreateSomethingNew"),
        ];
        for (operation, id, name) in expected {
            assert_eq!(activity(operation), (id, name), "{operation}");
        }
        let mut all: Vec<&str> = [&CREATES[..], &READS, &UPDATES, &DELETES].concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "an operation stands in the table once");
    }

    #[test]
    fn a_call_becomes_an_api_activity() {
        let payload = json!({
            "eventVersion": "1.11", "eventID": "e", "eventTime": "2026-01-05T12:00:00Z", "eventType": "AwsApiCall",
            "eventSource": "kms.amazonaws.com", "eventName": "ScheduleKeyDeletion", "awsRegion": "eu-west-1",
            "recipientAccountId": "111122223333", "sourceIPAddress": "192.0.2.1", "userAgent": "cli", "requestID": "r",
            "errorCode": "AccessDenied", "errorMessage": "no", "requestParameters": { "keyId": "k", "x": null },
            "responseElements": null, "readOnly": false, "tlsDetails": { "tlsVersion": "TLSv1.3" },
            "userIdentity": { "type": "AssumedRole", "arn": "a", "principalId": "p", "accountId": "111122223333",
                "accessKeyId": "ASIA", "sessionContext": { "sessionIssuer": { "arn": "role" },
                    "attributes": { "creationDate": "2026-01-05T11:00:00Z", "mfaAuthenticated": "true" } } },
            "resources": [{ "ARN": "key", "accountId": "444455556666", "type": "AWS::KMS::Key" }],
        });
        let raw = payload.to_string();
        let event = of_leaf(raw.as_bytes()).unwrap();
        let at = |path: &str| event.pointer(path).cloned().unwrap_or_default();
        assert_eq!(
            (at("/class_uid"), at("/type_uid"), at("/activity_name")),
            (json!(6003), json!(600_304), json!("Delete"))
        );
        assert_eq!((at("/status_id"), at("/status_code")), (json!(2), json!("AccessDenied")));
        assert_eq!(at("/time"), json!(1_767_614_400_000_i64));
        assert_eq!((at("/metadata/logged_time"), at("/metadata/sequence")), (json!(1_767_614_400_500_i64), json!(42)));
        assert_eq!(at("/api/request"), json!({ "uid": "r", "data": { "keyId": "k", "x": null } }));
        assert_eq!((at("/actor/session/is_mfa"), at("/actor/session/issuer")), (json!(true), json!("role")));
        assert_eq!(at("/actor/user/credential_uid"), json!("ASIA"));
        assert_eq!(at("/src_endpoint"), json!({ "ip": "192.0.2.1" }));
        assert_eq!(at("/resources/0/owner/account/uid"), json!("444455556666"));
        assert_eq!(at("/unmapped/tlsDetails/tlsVersion"), json!("TLSv1.3"));
        assert_eq!(at("/raw_data"), json!(raw));
        for required in [
            "activity_id",
            "category_uid",
            "class_uid",
            "metadata",
            "severity_id",
            "time",
            "type_uid",
            "actor",
            "api",
            "src_endpoint",
            "cloud",
        ] {
            assert!(event.get(required).is_some(), "{required}");
        }
    }

    #[test]
    fn an_event_of_nobody_still_has_what_the_class_requires() {
        let event = of_leaf(br#"{"eventName":"RotateKey","sourceIPAddress":"AWS Internal"}"#).unwrap();
        assert_eq!(event["src_endpoint"], json!({ "domain": "AWS Internal" }));
        assert_eq!((&event["status_id"], &event["actor"]), (&json!(1), &json!({ "app_name": "Unknown" })));
        assert_eq!(event["time"], json!(1_767_614_400_500_i64));
        assert!(of_leaf(b"no JSON").is_none());
    }
}
