//! CreateKey: a new key of any spec with fresh material, wrapped at rest under the root key.

use super::answer::{Call, json_body};
use super::drive::{Class, Effect, Mutation};
use super::encrypt::token_refusal;
use super::input::{member_of, recorded, required};
use super::judge::Judge;
use super::key_policy::{check_lockout, parse_policy};
use super::key_store::{found, key_stores_stripe, recorded_id, wrong_state};
use super::refusal::{Refusal, RefusalKind};
use super::tags::{self, Tag};
use crate::crypto::{MaterialId, SecretBytes, SecretHalf};
use crate::key::{KeyId, KeyRecord, KeyState, Material, MultiRegionKeyType, rfc3339_seconds};
use crate::key_store::{Connection, KeyStore, Link};
use crate::locks::Stripe;
use crate::node::Node;
use crate::policy::{Context, KeyFacts, default_key_policy};
use crate::registry::Publish;
use crate::spec::{KeyKind, KeySpec, KeyUsage, Origin};
use crate::store::{Change, KeyRow, MaterialRow};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

const DESCRIPTION_CHARS_MAX: usize = 8_192;
/// Longest image of a new or changed key: before and after a change, with the longest policy and each of its characters
/// escaped, they leave 16 KiB of an event for the rest. AWS's limits need less, but for texts that JSON must escape.
const IMAGE_BYTES_MAX: usize = 88 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateKey {
    policy: Option<String>,
    description: Option<String>,
    key_usage: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    origin: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
    tags: Option<Vec<Tag>>,
    multi_region: Option<bool>,
    custom_key_store_id: Option<String>,
    xks_key_id: Option<String>,
    /// Bytes of the new material, or why there are none; made before the locks are taken where that takes long.
    #[serde(skip)]
    secret: OnceLock<Result<SecretBytes, Refusal>>,
    /// Id and place of the key that was made inside a token, or why there is none. A token may hang: no lock waits for it.
    #[serde(skip)]
    in_token: OnceLock<Result<(Uuid, Arc<Link>), Refusal>>,
}

impl Mutation for CreateKey {
    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "description": recorded_description(self.description.as_deref().unwrap_or_default()),
                "keySpec": self.spec(),
                "customerMasterKeySpec": self.spec(),
                "keyUsage": self.key_usage.as_deref().unwrap_or(KeyUsage::EncryptDecrypt.name()),
                "origin": self.origin.as_deref().unwrap_or(Origin::AwsKms.name()),
                "bypassPolicyLockoutSafetyCheck": self.bypass_policy_lockout_safety_check.unwrap_or(false),
                "multiRegion": self.is_multi_region(),
                "tags": self.tags,
                "customKeyStoreId": self.custom_key_store_id.as_deref().map(recorded_id),
            }),
        )
    }

    /// Seconds for an RSA key or one in a token, so only for a caller who may make it and asks for it rightly. Judged twice,
    /// such a call counts twice against its quota.
    async fn prepare(&self, node: &Arc<Node>, call: &Call) {
        let Ok(kind) = self.kind() else { return };
        let slow = kind.origin == Origin::CloudHsm || (kind.origin == Origin::AwsKms && kind.spec.is_rsa());
        if !slow {
            return;
        }
        let mut judge = Judge::shared(node, call).await;
        let admitted = judge.admit(Class::Change).and_then(|()| self.check(&mut judge, kind));
        if admitted.is_err() {
            return;
        }
        let record = self.record(&judge, kind, None);
        if kind.origin == Origin::CloudHsm {
            let made = match record {
                Ok(record) => self.make_in_token(&judge, &record).await,
                Err(refusal) => Err(refusal),
            };
            let _ = self.in_token.set(made);
        } else {
            let made = match record.map(drop) {
                Ok(()) => judge.generate(kind).await,
                Err(refusal) => Err(refusal),
            };
            let _ = self.secret.set(made);
        }
    }

    /// A key that nobody knows yet needs no lock of its own; its custom key store must not go meanwhile.
    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        self.custom_key_store_id.iter().map(|_| key_stores_stripe(judge.node)).collect()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let kind = self.kind()?;
        self.check(judge, kind)?;
        let secret = self.secret(kind)?;
        let mut record = self.record(judge, kind, secret)?;
        if kind.origin == Origin::CloudHsm {
            // Missing only where the call was not to be done when it was prepared: the caller learns why, or tries again.
            let store = self.store(judge)?;
            let (uuid, link) = self.in_token.get().ok_or_else(Refusal::internal)?.as_ref().map_err(Clone::clone)?;
            if !Arc::ptr_eq(link, &store.0.link) {
                return Err(Refusal::internal());
            }
            record.id.uuid = *uuid;
            record.store = Some(Arc::clone(link));
            record.state = KeyState::Enabled;
        }
        effect(judge, record, secret)
    }
}

impl CreateKey {
    fn is_multi_region(&self) -> bool {
        self.multi_region.unwrap_or(false)
    }

    fn spec(&self) -> &str {
        let spec = self.key_spec.as_deref().or(self.customer_master_key_spec.as_deref());
        spec.unwrap_or(KeySpec::SymmetricDefault.name())
    }

    /// What kind of key is wanted. What AWS could make and this node cannot is said plainly.
    fn kind(&self) -> Result<KeyKind, Refusal> {
        if self.key_spec.is_some() && self.customer_master_key_spec.is_some() {
            let text = "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.";
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        let elsewhere = ["SM2", "ML_KEM_512", "ML_KEM_768", "ML_KEM_1024"];
        let spec = member_of("keySpec", self.spec(), KeySpec::ALL, KeySpec::name, &elsewhere)?;
        let usage = self.usage(spec)?;
        let unsupported = |what: &str| Err(Refusal::new(RefusalKind::UnsupportedOperation, what.to_owned()));
        let origin = self.origin.as_deref().unwrap_or(Origin::AwsKms.name());
        let origin = member_of("origin", origin, Origin::ALL, Origin::name, &["EXTERNAL_KEY_STORE"])?;
        if self.xks_key_id.is_some() {
            return unsupported("External key stores are not supported by this node.");
        }
        let kind = KeyKind { spec, usage, origin };
        if origin != Origin::CloudHsm && self.custom_key_store_id.is_some() {
            let text = "CustomKeyStoreId is valid only with Origin AWS_CLOUDHSM.";
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        if origin == Origin::CloudHsm && (!kind.is_symmetric_encryption() || self.is_multi_region()) {
            return unsupported("A custom key store can have symmetric encryption keys of one region only.");
        }
        Ok(kind)
    }

    /// AWS guesses a usage for symmetric keys only: what an asymmetric key is for cannot be changed later.
    fn usage(&self, spec: KeySpec) -> Result<KeyUsage, Refusal> {
        let usage = match self.key_usage.as_deref() {
            Some(usage) => member_of("keyUsage", usage, KeyUsage::ALL, KeyUsage::name, &["ENCAPSULATE_DECAPSULATE"])?,
            None if spec == KeySpec::SymmetricDefault => KeyUsage::EncryptDecrypt,
            None => {
                let text = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.";
                return Err(Refusal::new(RefusalKind::Validation, text));
            }
        };
        if !spec.usages().contains(&usage) {
            let text = format!("KeyUsage {} is not compatible with KeySpec {}", usage.name(), spec.name());
            return Err(Refusal::new(RefusalKind::Validation, text));
        }
        Ok(usage)
    }

    /// The connected custom key store that shall have the key.
    fn store(&self, judge: &Judge<'_>) -> Result<(Arc<KeyStore>, Arc<Connection>), Refusal> {
        let store = found(judge, required(&self.custom_key_store_id, "customKeyStoreId")?)?;
        let connection = store.link.connection().ok_or_else(|| wrong_state(&store))?;
        Ok((store, connection))
    }

    /// Makes the key inside its token, under its id. Should the change fail behind this, a key is left there that nobody
    /// can use: no KMS key has its id.
    async fn make_in_token(&self, judge: &Judge<'_>, record: &KeyRecord) -> Result<(Uuid, Arc<Link>), Refusal> {
        let (store, connection) = self.store(judge)?;
        let label = record.id.to_string();
        let made = connection.with(move |session| session.make_key(&label).and_then(|_| session.key(&label))).await;
        made.map_err(|error| token_refusal(record, &error))?;
        Ok((record.id.uuid, Arc::clone(&store.link)))
    }

    /// Checks the texts, then asks the policies.
    fn check(&self, judge: &mut Judge<'_>, kind: KeyKind) -> Result<(), Refusal> {
        checked_description(self.description.as_deref().unwrap_or_default())?;
        tags::checked(self.tags.as_deref().unwrap_or_default())?;
        self.allow(judge, kind)?;
        // Calls at the same time may each see room for the last key.
        if judge.node.registry.key_count_of(judge.account(), judge.region()) >= judge.node.quotas.keys_max() {
            return Err(Refusal::new(RefusalKind::LimitExceeded, "The account has as many keys as it can have."));
        }
        Ok(())
    }

    fn allow(&self, judge: &mut Judge<'_>, kind: KeyKind) -> Result<(), Refusal> {
        let tags = tags::by_key(self.tags.as_deref().unwrap_or_default());
        let facts = Context {
            request_tags: (!tags.is_empty()).then_some(&tags),
            bypass_lockout: Some(self.bypass_policy_lockout_safety_check.unwrap_or(false)),
            key: Some(KeyFacts {
                spec: kind.spec.name(),
                usage: kind.usage.name(),
                origin: kind.origin.name(),
                multi_region: self.is_multi_region(),
                multi_region_key_type: self.is_multi_region().then_some(MultiRegionKeyType::Primary.name()),
                tags: None,
                aliases: &[],
            }),
            ..Context::default()
        };
        allow_creation(judge, &facts)
    }

    /// The bytes of the new material; none for a key whose material will be imported.
    fn secret(&self, kind: KeyKind) -> Result<Option<&SecretBytes>, Refusal> {
        if kind.origin != Origin::AwsKms {
            return Ok(None);
        }
        let secret = if kind.spec.is_rsa() {
            // Missing only where a policy began to allow the call after it was prepared: the caller tries again.
            self.secret.get().ok_or_else(Refusal::internal)?
        } else {
            self.secret.get_or_init(|| SecretHalf::generate(kind).map_err(not_made))
        };
        secret.as_ref().map(Some).map_err(Clone::clone)
    }

    /// Makes the key, in memory only.
    fn record(&self, judge: &Judge<'_>, kind: KeyKind, secret: Option<&SecretBytes>) -> Result<KeyRecord, Refusal> {
        let account = judge.account();
        let text = match &self.policy {
            Some(text) => text.clone(),
            None => default_key_policy(account.as_str()),
        };
        let policy = (parse_policy(judge.node, &text)?, judge.event_id);
        let id = KeyId { region: judge.region(), multi_region: self.is_multi_region(), uuid: judge.node.random_id() };
        let material = secret.map(|secret| first_material(kind, secret, judge.judged_at_us)).transpose()?;
        let mut record = KeyRecord::new(id, account, kind, judge.judged_at_us, policy, material);
        record.description = self.description.as_deref().unwrap_or_default().into();
        record.tags = tags::by_key(self.tags.as_deref().unwrap_or_default());
        checked_image(&record)?;
        if self.policy.is_some() && !self.bypass_policy_lockout_safety_check.unwrap_or(false) {
            check_lockout(judge, &record)?;
        }
        Ok(record)
    }
}

/// The material of a new key.
pub(crate) fn first_material(kind: KeyKind, secret: &SecretBytes, created_us: u64) -> Result<Arc<Material>, Refusal> {
    let secret = SecretHalf::read(kind, secret.expose()).map_err(not_made)?;
    Ok(Arc::new(Material::new(MaterialId::generate().map_err(not_made)?, secret, created_us, None)))
}

/// A new key as the store keeps it.
pub(crate) fn key_row(node: &Node, record: &KeyRecord, secret: Option<&SecretBytes>) -> Result<KeyRow, Refusal> {
    let material = match secret {
        None => None,
        Some(secret) => Some(MaterialRow {
            id: record.material_id().unwrap_or_default(),
            wrapped: node.wrap(record, secret).map_err(not_made)?,
            created_us: record.created_us,
            rotation: None,
        }),
    };
    Ok(KeyRow {
        id: record.id,
        account: record.account,
        kind: record.kind,
        description: record.description.to_string(),
        created_us: record.created_us,
        policy_event: record.policy_event.to_string(),
        state: record.state,
        primary: record.family.as_ref().map(|family| family.primary),
        material_id: record.material_id().unwrap_or_default(),
        material_here: record.has_material(),
        material,
        policy: record.policy.text.to_string(),
        service: record.service.as_deref().map(str::to_owned),
        custom_key_store: record.store.as_ref().map(|store| store.id.to_string()),
    })
}

/// Asks whether the caller may make a key, and give it the tags that it shall have.
pub(crate) fn allow_creation(judge: &mut Judge<'_>, facts: &Context<'_>) -> Result<(), Refusal> {
    judge.allow_account("kms:CreateKey", facts)?;
    if facts.request_tags.is_some() {
        judge.allow_account("kms:TagResource", facts)?;
    }
    Ok(())
}

fn effect(judge: &mut Judge<'_>, record: KeyRecord, secret: Option<&SecretBytes>) -> Result<Effect, Refusal> {
    let node = judge.node;
    let mut changes = vec![Change::InsertKey(Box::new(key_row(node, &record, secret)?))];
    changes.extend(record.tags.iter().map(|(name, value)| Change::PutTag(record.id, name.clone(), value.clone())));
    let metadata = json!({"KeyMetadata": record.metadata()});
    judge.record.touch_key(&record);
    judge.record.after = Some(record.image());
    judge.record.more.insert("policy".to_owned(), (*record.policy.text).into());
    judge.record.response_elements = Some(json!({"keyMetadata": recorded_metadata(&record)}));
    Ok(Effect {
        body: json_body(&metadata),
        changes,
        publish: vec![Publish::Key(Arc::new(record))],
        ..Effect::default()
    })
}

/// Refuses a description that is too long.
pub(crate) fn checked_description(description: &str) -> Result<(), Refusal> {
    if description.chars().count() > DESCRIPTION_CHARS_MAX {
        let constraint = "Member must have length less than or equal to 8192";
        return Err(Refusal::constraint(Some(description), "description", constraint));
    }
    Ok(())
}

/// Refuses a key whose later events, which nobody may be there to shorten, would not fit into the log.
pub(crate) fn checked_image(key: &KeyRecord) -> Result<(), Refusal> {
    if key.image().to_string().len() > IMAGE_BYTES_MAX {
        let text = format!("The description and the tags of a key can have {IMAGE_BYTES_MAX} bytes as JSON.");
        return Err(Refusal::new(RefusalKind::LimitExceeded, text));
    }
    Ok(())
}

/// A description as far as an event may hold it: whole, unless it will be refused.
pub(crate) fn recorded_description(description: &str) -> &str {
    &description[..description.floor_char_boundary(4 * DESCRIPTION_CHARS_MAX)]
}

fn not_made(error: impl std::error::Error) -> Refusal {
    tracing::error!(%error, "key material cannot be made");
    Refusal::internal()
}

/// `keyMetadata` as CloudTrail spells it: the answer's members with a small first letter, dates as text.
pub(crate) fn recorded_metadata(record: &KeyRecord) -> Value {
    let mut metadata = spelled(record.metadata());
    metadata["creationDate"] = rfc3339_seconds(record.created_us).into();
    metadata
}

fn spelled(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let small = |name: String| name[..1].to_ascii_lowercase() + &name[1..];
            members.into_iter().map(|(name, value)| (small(name), spelled(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(entries) => entries.into_iter().map(spelled).collect(),
        other => other,
    }
}
