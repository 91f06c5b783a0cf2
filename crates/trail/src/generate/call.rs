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

/// A change while it is being written down.
struct Change<'a> {
    world: &'a mut World,
    chance: &'a mut Chance,
    time_us: i64,
    /// Nothing comes of it.
    refused: bool,
    /// ARN of the key.
    arn: String,
    before: Option<Value>,
    after: Option<Value>,
    /// Further members of `additionalEventData`.
    more: Vec<(&'static str, Value)>,
    response: Value,
    alias: Option<String>,
}

/// An operation's name and its recorded parameters.
type Asked = (&'static str, Value);

fn change(world: &mut World, chance: &mut Chance, op: &Op, time_us: i64, refused: bool) -> Parts {
    let key = op.key();
    let arn = key.map_or(String::new(), |key| world.keys[key].arn.clone());
    let image = key.map(|key| world.keys[key].image());
    let response = json!({"keyId": arn});
    let (before, after, more, alias) = (None, None, Vec::new(), None);
    let mut change = Change { world, chance, time_us, refused, arn, before, after, more, response, alias };
    let (name, parameters) = match op {
        Op::Change { name, key } => change.state(name, *key),
        Op::ScheduleDeletion { key, days } => change.deletion(*key, *days),
        Op::CreateKey { key } => change.creation(*key),
        Op::PutPolicy { key, policy, bypass } => change.policy(*key, policy, *bypass),
        Op::Alias { name, alias, key, before } => change.alias(name, alias, *key, *before),
        Op::CreateGrant { key, grantee, operations, context } => change.grant(*key, grantee, operations, *context),
        Op::EndGrant { name, key } => change.end_grant(name, *key),
        Op::ImportMaterial { key, valid_days } => change.import(*key, *valid_days),
        Op::DeleteMaterial { key } => change.delete_material(*key),
        Op::Replicate { key, region } => change.replication(*key, region),
        Op::KeyStore { name } => change.key_store(name),
        Op::Rotate { key } => change.rotation(*key),
        Op::Use { .. } | Op::ReEncryptAway { .. } | Op::Sign { .. } | Op::Look { .. } => ("Unknown", Value::Null),
    };
    if !matches!(op, Op::Alias { .. } | Op::CreateGrant { .. } | Op::EndGrant { .. }) {
        change.after = key.map(|key| change.world.keys[key].image());
        change.before = image.filter(|_| !matches!(op, Op::CreateKey { .. }));
    }
    let additional = if refused { String::new() } else { change.additional() };
    let response = if refused { "null".to_owned() } else { change.response.to_string() };
    let alias = change.alias;
    Parts { name, read_only: false, key, parameters: parameters.to_string(), response, additional, alias }
}

impl Change<'_> {
    fn additional(&mut self) -> String {
        self.world.mutation += 1;
        let mut text = format!(",\"mutation\":{}", self.world.mutation);
        let named = [("before", self.before.take()), ("after", self.after.take())];
        let named = named.into_iter().filter_map(|(name, image)| Some((name, image?)));
        for (name, value) in named.chain(self.more.drain(..)) {
            // Writing to a string does not fail.
            let _ = write!(text, ",\"{name}\":{value}");
        }
        text
    }

    fn state(&mut self, name: &'static str, key: KeyId) -> Asked {
        let key = &mut self.world.keys[key];
        match name {
            _ if self.refused => {}
            "DisableKey" => key.state = "Disabled",
            "EnableKey" => key.state = "Enabled",
            // A key whose deletion is cancelled comes back disabled.
            "CancelKeyDeletion" => (key.state, key.deletion_us) = ("Disabled", None),
            "EnableKeyRotation" => key.rotates = true,
            "DisableKeyRotation" => key.rotates = false,
            _ => {}
        }
        let mut parameters = json!({"keyId": self.arn});
        match name {
            "EnableKeyRotation" => parameters["rotationPeriodInDays"] = json!(365),
            "TagResource" => parameters["tags"] = json!([{"tagKey": "stack", "tagValue": "main"}]),
            _ => {}
        }
        (name, parameters)
    }

    fn deletion(&mut self, key: KeyId, days: i64) -> Asked {
        let deletion_us = self.time_us + days * DAY_US;
        if !self.refused {
            (self.world.keys[key].state, self.world.keys[key].deletion_us) = ("PendingDeletion", Some(deletion_us));
        }
        self.response = json!({"keyId": self.arn, "keyState": "PendingDeletion", "deletionDate": micros(deletion_us),
            "pendingWindowInDays": days});
        ("ScheduleKeyDeletion", json!({"keyId": self.arn, "pendingWindowInDays": days}))
    }

    fn creation(&mut self, key: KeyId) -> Asked {
        self.world.keys[key].created_us = self.time_us;
        let made = &self.world.keys[key];
        self.more.push(("policy", json!(keytrail_kms::policy::default_key_policy(made.account))));
        self.response = json!({"keyMetadata": {"aWSAccountId": made.account, "keyId": made.id, "arn": self.arn,
            "creationDate": seconds(self.time_us), "enabled": true, "description": made.description,
            "keyUsage": made.usage, "keyState": "Enabled", "origin": made.origin, "keyManager": "CUSTOMER",
            "customerMasterKeySpec": made.spec, "keySpec": made.spec, "encryptionAlgorithms": [made.spec],
            "multiRegion": false, "currentKeyMaterialId": made.material}});
        let parameters = json!({"description": made.description, "keySpec": made.spec,
            "customerMasterKeySpec": made.spec, "keyUsage": made.usage, "origin": made.origin,
            "bypassPolicyLockoutSafetyCheck": false, "multiRegion": false,
            "tags": [{"tagKey": "team", "tagValue": made.description}]});
        ("CreateKey", parameters)
    }

    fn policy(&mut self, key: KeyId, policy: &Policy, bypass: bool) -> Asked {
        let key = &mut self.world.keys[key];
        let text = policy_text(key.account, policy);
        self.more.push(("policy", json!(text)));
        self.more.push(("previousPolicy", json!(key.policy)));
        self.more.push(("previousPolicySha256", json!(key.policy_sha256)));
        if !self.refused {
            key.policy_sha256 = sha256_hex(&text);
            key.policy.clone_from(&text);
        }
        let parameters = json!({"keyId": self.arn, "policyName": "default", "policy": text,
            "bypassPolicyLockoutSafetyCheck": bypass});
        ("PutKeyPolicy", parameters)
    }

    fn alias(&mut self, name: &'static str, alias: &str, key: KeyId, before: Option<KeyId>) -> Asked {
        let owner = &self.world.keys[key];
        let full = format!("arn:aws:kms:{}:{}:alias/{alias}", owner.region, owner.account);
        let image = |target: KeyId| {
            let target = &self.world.keys[target].arn;
            json!({"aliasName": format!("alias/{alias}"), "aliasArn": full, "targetKeyArn": target})
        };
        (self.before, self.after) = (before.map(image), Some(image(key)));
        self.alias = Some(full);
        (name, json!({"aliasName": format!("alias/{alias}"), "targetKeyId": self.arn}))
    }

    fn grant(&mut self, key: KeyId, grantee: &str, operations: &[&str], context: Option<Context>) -> Asked {
        let id = self.chance.hex();
        let mut image = json!({"grantId": id, "targetKeyArn": self.arn, "granteePrincipal": grantee,
            "issuingAccount": self.world.keys[key].account, "operations": operations});
        let mut parameters = json!({"keyId": self.arn, "granteePrincipal": grantee, "operations": operations});
        if let Some(context) = context {
            let constraints = json!({"encryptionContextSubset": context_value(context)});
            image["constraints"] = constraints.clone();
            parameters["constraints"] = constraints;
        }
        image["createdAt"] = json!(micros(self.time_us));
        self.after = Some(image.clone());
        self.response = json!({"grantId": id, "keyId": self.arn});
        if !self.refused {
            self.world.keys[key].grants.push(image);
        }
        ("CreateGrant", parameters)
    }

    fn end_grant(&mut self, name: &'static str, key: KeyId) -> Asked {
        let grants = &mut self.world.keys[key].grants;
        self.before = (!grants.is_empty()).then(|| grants.remove(0));
        let id = self.before.as_ref().map(|grant| grant["grantId"].clone());
        let id = id.unwrap_or_else(|| json!(self.chance.hex()));
        self.more.push(("grantId", id.clone()));
        (name, json!({"keyId": self.arn, "grantId": id}))
    }

    fn import(&mut self, key: KeyId, valid_days: Option<i64>) -> Asked {
        let valid_to_us = valid_days.map(|days| self.time_us + days * DAY_US);
        let key = &mut self.world.keys[key];
        if !self.refused {
            (key.state, key.valid_to_us, key.material) = ("Enabled", valid_to_us, self.chance.hex());
        }
        self.response = json!({"keyId": self.arn, "keyMaterialId": key.material});
        let model = if valid_to_us.is_some() { "KEY_MATERIAL_EXPIRES" } else { "KEY_MATERIAL_DOES_NOT_EXPIRE" };
        let mut parameters = json!({"keyId": self.arn, "expirationModel": model});
        if let Some(valid_to_us) = valid_to_us {
            parameters["validTo"] = json!(micros(valid_to_us));
        }
        parameters["importType"] = json!("NEW_KEY_MATERIAL");
        parameters["keyMaterialId"] = json!(key.material);
        ("ImportKeyMaterial", parameters)
    }

    fn delete_material(&mut self, key: KeyId) -> Asked {
        let key = &mut self.world.keys[key];
        if !self.refused {
            key.state = "PendingImport";
        }
        let about = json!({"keyId": self.arn, "keyMaterialId": key.material});
        self.response = about.clone();
        ("DeleteImportedKeyMaterial", about)
    }

    fn replication(&mut self, key: KeyId, region: &str) -> Asked {
        self.response = json!({"replicaKeyMetadata": {"arn": self.arn.replace(super::world::REGION, region),
            "keyId": self.world.keys[key].id, "keyState": "Creating", "multiRegion": true}, "replicaPolicy": "default"});
        let parameters = json!({"keyId": self.arn, "replicaRegion": region, "description": "",
            "bypassPolicyLockoutSafetyCheck": false});
        ("ReplicateKey", parameters)
    }

    fn key_store(&mut self, name: &'static str) -> Asked {
        let store = json!({"customKeyStoreId": "cks-0f1e2d3c4b5a69788"});
        self.response = store.clone();
        (name, store)
    }

    fn rotation(&mut self, key: KeyId) -> Asked {
        let key = &mut self.world.keys[key];
        let former = std::mem::replace(&mut key.material, self.chance.hex());
        let details = json!({"keyId": self.arn, "rotationType": "AUTOMATIC", "keyOrigin": "AWS_KMS",
            "previousKeyMaterialId": former, "currentKeyMaterialId": key.material});
        self.more.push(("serviceEventDetails", details));
        self.response = Value::Null;
        ("RotateKey", Value::Null)
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

/// Whether the grant lets this principal, by its own name, make the call.
fn grants(grant: &Value, principal: &str, operation: &str) -> bool {
    let covers = |operations: &Vec<Value>| operations.iter().any(|covered| covered.as_str() == Some(operation));
    grant["granteePrincipal"].as_str() == Some(principal) && grant["operations"].as_array().is_some_and(covers)
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
    let grant = key.and_then(|key| key.grants.iter().find(|grant| grants(grant, &caller.arn, parts.name)));
    let decided = match (error, grant.and_then(|grant| grant["grantId"].as_str())) {
        (Some("AccessDenied"), _) => "Default".to_owned(),
        (_, Some(id)) => format!("Grant/{id}"),
        _ => "IdentityPolicy/KeyUse/0".to_owned(),
    };
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
