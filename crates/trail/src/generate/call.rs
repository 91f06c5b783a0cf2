//! One call: what it is about, what it does to the world, and the event that says so (docs/event.md).
//!
//! A call on a key whose state does not allow it fails as it would at the service; further errors come by chance or
//! because an attack wants them. Members and their order are those of the node's own events.

use super::calendar::DAY_US;
use super::chance::Chance;
use super::world::{CallerId, FOREIGN, KeyId, World, micros, seconds, sha256_hex};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Whose data it is, and what for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) tenant: u32,
    pub(super) purpose: &'static str,
}

/// Whom a key policy lets in besides the account.
#[derive(Clone, Debug)]
pub(super) enum Policy {
    /// Nobody.
    Default,
    /// This principal, to decrypt.
    Allow(String),
    /// The world, to decrypt.
    Public,
    /// This principal alone: the account is shut out.
    Only(String),
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Encrypt, Decrypt, GenerateDataKey.
    Use {
        name: &'static str,
        key: KeyId,
        context: Context,
    },
    /// To a key of somebody else.
    ReEncryptAway {
        from: KeyId,
        context: Context,
    },
    Sign {
        key: KeyId,
    },
    /// Reading operations.
    Look {
        name: &'static str,
        key: Option<KeyId>,
    },
    /// DisableKey, EnableKey, CancelKeyDeletion, EnableKeyRotation, DisableKeyRotation, TagResource.
    Change {
        name: &'static str,
        key: KeyId,
    },
    ScheduleDeletion {
        key: KeyId,
        days: i64,
    },
    CreateKey {
        key: KeyId,
    },
    PutPolicy {
        key: KeyId,
        policy: Policy,
        bypass: bool,
    },
    /// CreateAlias, UpdateAlias.
    Alias {
        name: &'static str,
        alias: String,
        key: KeyId,
        before: Option<KeyId>,
    },
    CreateGrant {
        key: KeyId,
        grantee: String,
        operations: &'static [&'static str],
        context: Option<Context>,
    },
    /// RevokeGrant, RetireGrant of the key's oldest grant.
    EndGrant {
        name: &'static str,
        key: KeyId,
    },
    ImportMaterial {
        key: KeyId,
        valid_days: Option<i64>,
    },
    DeleteMaterial {
        key: KeyId,
    },
    Replicate {
        key: KeyId,
        region: &'static str,
    },
    /// DisconnectCustomKeyStore, DeleteCustomKeyStore.
    KeyStore {
        name: &'static str,
    },
    /// KMS rotates the key.
    Rotate {
        key: KeyId,
    },
}

/// A call to be made.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) who: CallerId,
    pub(super) op: Op,
    /// Fails with this whatever the key's state.
    pub(super) error: Option<&'static str>,
    /// Which attack it belongs to.
    pub(super) attack: Option<usize>,
}

impl Call {
    pub(super) fn new(who: CallerId, op: Op) -> Self {
        Self { who, op, error: None, attack: None }
    }

    pub(super) fn failing(self, error: &'static str) -> Self {
        Self { error: Some(error), ..self }
    }
}

/// What is particular to an operation.
struct Parts {
    name: &'static str,
    read_only: bool,
    key: Option<KeyId>,
    parameters: String,
    response: String,
    /// Members of `additionalEventData` behind `decidedBy`, each with a comma before it.
    additional: String,
    alias: Option<String>,
}

impl Op {
    fn key(&self) -> Option<KeyId> {
        match self {
            Self::Look { key, .. } => *key,
            Self::KeyStore { .. } => None,
            Self::Use { key, .. }
            | Self::ReEncryptAway { from: key, .. }
            | Self::Sign { key }
            | Self::Change { key, .. }
            | Self::ScheduleDeletion { key, .. }
            | Self::CreateKey { key }
            | Self::PutPolicy { key, .. }
            | Self::Alias { key, .. }
            | Self::CreateGrant { key, .. }
            | Self::EndGrant { key, .. }
            | Self::ImportMaterial { key, .. }
            | Self::DeleteMaterial { key }
            | Self::Replicate { key, .. }
            | Self::Rotate { key } => Some(*key),
        }
    }

    /// What the key's state makes of the call.
    fn refusal(&self, world: &World) -> Option<&'static str> {
        let state = self.key().map(|key| world.keys[key].state)?;
        match (self, state) {
            (Self::Use { .. } | Self::ReEncryptAway { .. } | Self::Sign { .. }, "Disabled") => {
                Some("DisabledException")
            }
            (
                Self::Use { .. } | Self::ReEncryptAway { .. } | Self::Sign { .. },
                "PendingDeletion" | "PendingImport",
            )
            | (Self::Change { name: "EnableKey" | "DisableKey", .. }, "PendingDeletion") => {
                Some("KMSInvalidStateException")
            }
            _ => None,
        }
    }
}

/// Makes the call: changes the world and gives the event's bytes and id.
pub(super) fn perform(world: &mut World, chance: &mut Chance, call: &Call, time_us: i64) -> (Vec<u8>, String) {
    let error = call.error.or_else(|| call.op.refusal(world));
    let parts = match &call.op {
        Op::Use { .. } | Op::ReEncryptAway { .. } | Op::Sign { .. } | Op::Look { .. } => read(world, &call.op),
        _ => change(world, chance, &call.op, time_us, error.is_some()),
    };
    event(world, chance, call, &parts, error, time_us)
}

fn read(world: &World, op: &Op) -> Parts {
    let key = op.key();
    let arn = key.map_or("", |key| world.keys[key].arn.as_str());
    let material = key.map_or("", |key| world.keys[key].material.as_str());
    let mut additional = format!(",\"keyMaterialId\":\"{material}\"");
    let (name, parameters) = match op {
        Op::Use { name, context, .. } => {
            let context = context_json(*context);
            let how = match *name {
                "GenerateDataKey" => "\"keySpec\":\"AES_256\"",
                _ => "\"encryptionAlgorithm\":\"SYMMETRIC_DEFAULT\"",
            };
            (*name, format!("{{\"keyId\":\"{arn}\",{how},\"encryptionContext\":{context}}}"))
        }
        Op::ReEncryptAway { context, .. } => {
            let context = context_json(*context);
            let foreign = foreign_key(world);
            (
                "ReEncrypt",
                format!(
                    "{{\"sourceKeyId\":\"{arn}\",\"sourceEncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\
                     \"sourceEncryptionContext\":{context},\"destinationKeyId\":\"{foreign}\",\
                     \"destinationEncryptionAlgorithm\":\"SYMMETRIC_DEFAULT\",\
                     \"destinationEncryptionContext\":{context}}}"
                ),
            )
        }
        Op::Sign { .. } => (
            "Sign",
            format!("{{\"keyId\":\"{arn}\",\"messageType\":\"DIGEST\",\"signingAlgorithm\":\"ECDSA_SHA_256\"}}"),
        ),
        Op::Look { name, key } => {
            additional.clear();
            let parameters = match (key, *name) {
                (Some(_), "GetKeyPolicy") => format!("{{\"keyId\":\"{arn}\",\"policyName\":\"default\"}}"),
                (Some(_), "ListGrants" | "ListResourceTags") => format!("{{\"keyId\":\"{arn}\",\"limit\":50}}"),
                (Some(_), _) => format!("{{\"keyId\":\"{arn}\"}}"),
                (None, _) => "{\"limit\":100}".to_owned(),
            };
            (*name, parameters)
        }
        _ => ("Unknown", "null".to_owned()),
    };
    Parts { name, read_only: true, key, parameters, response: "null".into(), additional, alias: None }
}

/// The ARN of the key that data is carried off to.
fn foreign_key(world: &World) -> String {
    let id = world.keys.first().map_or("", |key| key.id.as_str());
    format!("arn:aws:kms:us-east-1:{FOREIGN}:key/{id}")
}

fn context_json(context: Context) -> String {
    format!("{{\"tenant\":\"tenant-{}\",\"purpose\":\"{}\"}}", context.tenant, context.purpose)
}

fn context_value(context: Context) -> Value {
    json!({"tenant": format!("tenant-{}", context.tenant), "purpose": context.purpose})
}

/// Images around a change, unless it was refused.
#[derive(Default)]
struct Images {
    before: Option<Value>,
    after: Option<Value>,
    /// Further members of `additionalEventData`.
    more: Vec<(&'static str, Value)>,
}

fn change(world: &mut World, chance: &mut Chance, op: &Op, time_us: i64, refused: bool) -> Parts {
    let key = op.key();
    let arn = key.map_or(String::new(), |key| world.keys[key].arn.clone());
    let mut images = Images::default();
    let mut alias_arn = None;
    let mut response = json!({"keyId": arn});
    let before = key.map(|key| world.keys[key].image());
    let (name, parameters) = match op {
        Op::Change { name, key } => {
            if !refused {
                set_state(world, name, *key);
            }
            let mut parameters = json!({"keyId": arn});
            match *name {
                "EnableKeyRotation" => parameters["rotationPeriodInDays"] = json!(365),
                "TagResource" => parameters["tags"] = json!([{"tagKey": "stack", "tagValue": "main"}]),
                _ => {}
            }
            (*name, parameters)
        }
        Op::ScheduleDeletion { key, days } => {
            let deletion_us = time_us + days * DAY_US;
            if !refused {
                (world.keys[*key].state, world.keys[*key].deletion_us) = ("PendingDeletion", Some(deletion_us));
            }
            response = json!({"keyId": arn, "keyState": "PendingDeletion", "deletionDate": micros(deletion_us),
                "pendingWindowInDays": days});
            ("ScheduleKeyDeletion", json!({"keyId": arn, "pendingWindowInDays": days}))
        }
        Op::CreateKey { key } => {
            world.keys[*key].created_us = time_us;
            let made = &world.keys[*key];
            images.more.push(("policy", json!(keytrail_kms::policy::default_key_policy(made.account))));
            response = json!({"keyMetadata": {"aWSAccountId": made.account, "keyId": made.id, "arn": arn,
                "creationDate": seconds(time_us), "enabled": true, "description": made.description,
                "keyUsage": made.usage, "keyState": "Enabled", "origin": made.origin, "keyManager": "CUSTOMER",
                "customerMasterKeySpec": made.spec, "keySpec": made.spec, "encryptionAlgorithms": [made.spec],
                "multiRegion": false, "currentKeyMaterialId": made.material}});
            let parameters = json!({"description": made.description, "keySpec": made.spec,
                "customerMasterKeySpec": made.spec, "keyUsage": made.usage, "origin": made.origin,
                "bypassPolicyLockoutSafetyCheck": false, "multiRegion": false,
                "tags": [{"tagKey": "team", "tagValue": made.description}]});
            ("CreateKey", parameters)
        }
        Op::PutPolicy { key, policy, bypass } => {
            let text = policy_text(world.keys[*key].account, policy);
            images.more.push(("policy", json!(text)));
            images.more.push(("previousPolicySha256", json!(world.keys[*key].policy_sha256)));
            if !refused {
                world.keys[*key].policy_sha256 = sha256_hex(&text);
            }
            let parameters = json!({"keyId": arn, "policyName": "default", "policy": text,
                "bypassPolicyLockoutSafetyCheck": bypass});
            ("PutKeyPolicy", parameters)
        }
        Op::Alias { name, alias, key, before } => {
            let owner = &world.keys[*key];
            let full = format!("arn:aws:kms:{}:{}:alias/{alias}", owner.region, owner.account);
            let image = |target: KeyId| json!({"aliasName": format!("alias/{alias}"), "aliasArn": full, "targetKeyArn": world.keys[target].arn});
            images.before = before.map(image);
            images.after = Some(image(*key));
            alias_arn = Some(full.clone());
            (*name, json!({"aliasName": format!("alias/{alias}"), "targetKeyId": arn}))
        }
        Op::CreateGrant { key, grantee, operations, context } => {
            let id = chance.hex();
            let constraints = context.map(|context| json!({"encryptionContextSubset": context_value(context)}));
            let mut image = json!({"grantId": id, "targetKeyArn": arn, "granteePrincipal": grantee,
                "issuingAccount": world.keys[*key].account, "operations": operations});
            let mut parameters = json!({"keyId": arn, "granteePrincipal": grantee, "operations": operations});
            if let Some(constraints) = constraints {
                image["constraints"] = constraints.clone();
                parameters["constraints"] = constraints;
            }
            image["createdAt"] = json!(micros(time_us));
            images.after = Some(image.clone());
            response = json!({"grantId": id, "keyId": arn});
            if !refused {
                world.keys[*key].grants.push(image);
            }
            ("CreateGrant", parameters)
        }
        Op::EndGrant { name, key } => {
            let ended = if world.keys[*key].grants.is_empty() { None } else { Some(world.keys[*key].grants.remove(0)) };
            let id = ended.as_ref().map_or_else(|| json!(chance.hex()), |grant| grant["grantId"].clone());
            images.before = ended;
            images.more.push(("grantId", id.clone()));
            (*name, json!({"keyId": arn, "grantId": id}))
        }
        Op::ImportMaterial { key, valid_days } => {
            let valid_to_us = valid_days.map(|days| time_us + days * DAY_US);
            if !refused {
                (world.keys[*key].state, world.keys[*key].valid_to_us) = ("Enabled", valid_to_us);
                world.keys[*key].material = chance.hex();
            }
            let material = world.keys[*key].material.clone();
            response = json!({"keyId": arn, "keyMaterialId": material});
            let mut parameters = json!({"keyId": arn, "expirationModel": if valid_to_us.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" }});
            if let Some(valid_to_us) = valid_to_us {
                parameters["validTo"] = json!(micros(valid_to_us));
            }
            parameters["importType"] = json!("NEW_KEY_MATERIAL");
            parameters["keyMaterialId"] = json!(material);
            ("ImportKeyMaterial", parameters)
        }
        Op::DeleteMaterial { key } => {
            let material = world.keys[*key].material.clone();
            if !refused {
                world.keys[*key].state = "PendingImport";
            }
            response = json!({"keyId": arn, "keyMaterialId": material});
            ("DeleteImportedKeyMaterial", json!({"keyId": arn, "keyMaterialId": material}))
        }
        Op::Replicate { key, region } => {
            response = json!({"replicaKeyMetadata": {"arn": arn.replace(super::world::REGION, region),
                "keyId": world.keys[*key].id, "keyState": "Creating", "multiRegion": true}, "replicaPolicy": "default"});
            let parameters = json!({"keyId": arn, "replicaRegion": region, "description": "",
                "bypassPolicyLockoutSafetyCheck": false});
            ("ReplicateKey", parameters)
        }
        Op::KeyStore { name } => {
            let store = json!({"customKeyStoreId": "cks-0f1e2d3c4b5a69788"});
            response = store.clone();
            (*name, store)
        }
        Op::Rotate { key } => {
            let former = std::mem::replace(&mut world.keys[*key].material, chance.hex());
            images.more.push((
                "serviceEventDetails",
                json!({"keyId": arn, "rotationType": "AUTOMATIC", "keyOrigin": "AWS_KMS",
                    "previousKeyMaterialId": former, "currentKeyMaterialId": world.keys[*key].material}),
            ));
            response = Value::Null;
            ("RotateKey", Value::Null)
        }
        Op::Use { .. } | Op::ReEncryptAway { .. } | Op::Sign { .. } | Op::Look { .. } => ("Unknown", Value::Null),
    };
    if !matches!(op, Op::Alias { .. } | Op::CreateGrant { .. } | Op::EndGrant { .. }) {
        images.after = key.map(|key| world.keys[key].image());
        images.before = before.filter(|_| !matches!(op, Op::CreateKey { .. }));
    }
    let additional = if refused { String::new() } else { changed(world, images) };
    let response = if refused { "null".to_owned() } else { response.to_string() };
    Parts { name, read_only: false, key, parameters: parameters.to_string(), response, additional, alias: alias_arn }
}

fn changed(world: &mut World, images: Images) -> String {
    world.mutation += 1;
    let mut text = format!(",\"mutation\":{}", world.mutation);
    let named = [("before", images.before), ("after", images.after)];
    let named = named.into_iter().filter_map(|(name, image)| Some((name, image?)));
    for (name, value) in named.chain(images.more) {
        // Writing to a string does not fail.
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text
}

fn set_state(world: &mut World, name: &str, key: KeyId) {
    let key = &mut world.keys[key];
    match name {
        "DisableKey" => key.state = "Disabled",
        "EnableKey" => key.state = "Enabled",
        // A key whose deletion is cancelled comes back disabled.
        "CancelKeyDeletion" => (key.state, key.deletion_us) = ("Disabled", None),
        "EnableKeyRotation" => key.rotates = true,
        "DisableKeyRotation" => key.rotates = false,
        _ => {}
    }
}

fn policy_text(account: &str, policy: &Policy) -> String {
    let owner = json!({"Sid": "Enable IAM User Permissions", "Effect": "Allow",
        "Principal": {"AWS": format!("arn:aws:iam::{account}:root")}, "Action": "kms:*", "Resource": "*"});
    let allow = |who: &str, action: Value| json!({"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": who}, "Action": action, "Resource": "*"});
    let statements = match policy {
        Policy::Default => json!([owner]),
        Policy::Allow(who) => json!([owner, allow(who, json!(["kms:Decrypt", "kms:DescribeKey"]))]),
        Policy::Public => json!([owner, allow("*", json!(["kms:Decrypt", "kms:GenerateDataKey"]))]),
        Policy::Only(who) => json!([allow(who, json!("kms:*"))]),
    };
    json!({"Version": "2012-10-17", "Id": "key-default-1", "Statement": statements}).to_string()
}

/// The event, in the order of members that the node writes.
fn event(
    world: &mut World,
    chance: &mut Chance,
    call: &Call,
    parts: &Parts,
    error: Option<&'static str>,
    time_us: i64,
) -> (Vec<u8>, String) {
    let (request_id, event_id) = (chance.uuid(time_us).to_string(), chance.uuid(time_us).to_string());
    let caller = &world.callers[call.who];
    let key = parts.key.map(|key| &world.keys[key]);
    let service = matches!(call.op, Op::Rotate { .. });
    let (region, owner) = key.map_or((super::world::REGION, caller.account), |key| (key.region.as_str(), key.account));
    let arn = key.map_or("", |key| key.arn.as_str());
    let mut text = String::with_capacity(1_600);
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "{{\"eventVersion\":\"1.11\",\"userIdentity\":{},\"eventTime\":\"{}\",\"eventSource\":\"kms.amazonaws.com\",\
         \"eventName\":\"{}\",\"awsRegion\":\"{region}\",\"sourceIPAddress\":\"{}\",\"userAgent\":\"{}\",",
        caller.identity,
        seconds(time_us),
        parts.name,
        caller.ip,
        caller.agent,
    );
    if let Some(error) = error {
        let message = message(error, parts.name, &caller.arn, arn);
        let _ = write!(text, "\"errorCode\":\"{error}\",\"errorMessage\":\"{message}\",");
    }
    let decided = if error == Some("AccessDenied") { "Default" } else { "IdentityPolicy/KeyUse/0" };
    let decided = if service { String::new() } else { format!(",\"decidedBy\":\"{decided}\"") };
    let additional = if error.is_some() { "" } else { parts.additional.as_str() };
    let _ = write!(
        text,
        "\"requestParameters\":{},\"responseElements\":{},\"additionalEventData\":{{\"judgedAtMicros\":{time_us}\
         {decided}{additional}}},",
        parts.parameters,
        if error.is_some() { "null" } else { parts.response.as_str() },
    );
    if !service {
        let _ = write!(text, "\"requestID\":\"{request_id}\",");
    }
    let _ = write!(text, "\"eventID\":\"{event_id}\",\"readOnly\":{},", parts.read_only);
    if key.is_some() {
        let resource = |arn: &str, kind: &str| {
            format!("{{\"ARN\":\"{arn}\",\"accountId\":\"{owner}\",\"type\":\"AWS::KMS::{kind}\"}}")
        };
        let alias = parts.alias.as_deref().map_or(String::new(), |alias| format!(",{}", resource(alias, "Alias")));
        let _ = write!(text, "\"resources\":[{}{alias}],", resource(arn, "Key"));
    }
    let _ = write!(
        text,
        "\"eventType\":\"{}\",\"managementEvent\":true,\"recipientAccountId\":\"{owner}\",\"eventCategory\":\"Management\"}}",
        if service { "AwsServiceEvent" } else { "AwsApiCall" },
    );
    (text.into_bytes(), event_id)
}

fn message(error: &str, name: &str, caller: &str, key: &str) -> String {
    match error {
        "AccessDenied" => format!(
            "User: {caller} is not authorized to perform: kms:{name} on resource: {key} because no identity-based policy \
             allows the kms:{name} action"
        ),
        "DisabledException" => format!("{key} is disabled."),
        "KMSInvalidStateException" => format!("{key} is pending deletion."),
        "ThrottlingException" => "Rate exceeded".to_owned(),
        "NotFoundException" => format!("Key {key} does not exist"),
        _ => "null".to_owned(),
    }
}
