//! Users, groups, roles, policies, access keys and MFA devices as plain data: rows of `kms.db`, images in events.
//!
//! A policy's text is parsed when it is read and kept beside its parsed form. Secrets are no part of the data: the
//! store keeps them sealed in a column of their own, and they are joined in memory.

use crate::auth::SecretKey;
use crate::auth::identities::ADMINISTRATOR_ACCESS;
use crate::auth::totp::Seed;
use crate::key::AccountId;
use crate::policy::{Document, Flavor, PolicyError};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Account and name.
pub(crate) type Name = (AccountId, String);

/// A policy text with its parsed form.
#[derive(Clone, Debug)]
pub(crate) struct PolicyText {
    pub(crate) text: String,
    pub(crate) document: Arc<Document>,
}

impl PolicyText {
    /// Parses a text strictly.
    pub(crate) fn parse(text: &str, flavor: Flavor) -> Result<Self, PolicyError> {
        Ok(Self { text: text.to_owned(), document: Arc::new(Document::parse(text, flavor)?) })
    }
}

impl Serialize for PolicyText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for PolicyText {
    /// An identity policy; trust policies are read by [`trust`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, Flavor::IdentityPolicy).map_err(D::Error::custom)
    }
}

fn trust<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PolicyText, D::Error> {
    let text = String::deserialize(deserializer)?;
    PolicyText::parse(&text, Flavor::TrustPolicy).map_err(D::Error::custom)
}

/// What a user, group or role may do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Permissions {
    /// Names of managed policies of the account.
    pub(crate) attached_policies: BTreeSet<String>,
    /// Policies of its own, by name.
    pub(crate) inline_policies: BTreeMap<String, PolicyText>,
    /// Name of the managed policy that limits it; groups have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) permissions_boundary: Option<String>,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) user_name: String,
    /// `AIDA...`.
    pub(crate) user_id: String,
    pub(crate) created_us: u64,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) groups: BTreeSet<String>,
    #[serde(flatten)]
    pub(crate) permissions: Permissions,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub(crate) group_name: String,
    /// `AGPA...`.
    pub(crate) group_id: String,
    pub(crate) created_us: u64,
    #[serde(flatten)]
    pub(crate) permissions: Permissions,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Role {
    pub(crate) role_name: String,
    /// `AROA...`.
    pub(crate) role_id: String,
    pub(crate) created_us: u64,
    pub(crate) description: String,
    pub(crate) max_session_secs: u64,
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(deserialize_with = "trust")]
    pub(crate) assume_role_policy: PolicyText,
    #[serde(flatten)]
    pub(crate) permissions: Permissions,
}

/// A managed policy with its versions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    pub(crate) policy_name: String,
    /// `ANPA...`.
    pub(crate) policy_id: String,
    pub(crate) created_us: u64,
    pub(crate) updated_us: u64,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) versions: BTreeMap<u32, Version>,
    pub(crate) default_version: u32,
    /// Numbers are not used again.
    pub(crate) next_version: u32,
}

/// One version of a managed policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    pub(crate) document: PolicyText,
    pub(crate) created_us: u64,
}

impl Policy {
    /// The version in force.
    pub(crate) fn default_document(&self) -> Option<&PolicyText> {
        self.versions.get(&self.default_version).map(|version| &version.document)
    }
}

/// A long-term access key of a user of this directory or of identities.toml.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccessKey {
    pub(crate) access_key_id: String,
    pub(crate) user_name: String,
    /// A user of the same name made later is somebody else.
    pub(crate) user_id: String,
    pub(crate) active: bool,
    pub(crate) created_us: u64,
    #[serde(skip)]
    pub(crate) secret: Option<Arc<SecretKey>>,
}

/// A virtual MFA device.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) device_name: String,
    /// Whose it is; nobody's before it is enabled and after it is deactivated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Holder>,
    /// How far its clock is off, in steps of thirty seconds.
    pub(crate) drift_steps: i64,
    #[serde(skip)]
    pub(crate) seed: Option<Arc<Seed>>,
}

/// Whose device it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Holder {
    pub(crate) user_name: String,
    pub(crate) user_id: String,
    pub(crate) enabled_us: u64,
}

/// An OpenID Connect provider whose tokens roles may trust.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OidcProvider {
    /// The URL without its scheme.
    pub(crate) name: String,
    /// The issuer, as tokens must have it.
    pub(crate) url: String,
    /// Whom its tokens may be for.
    pub(crate) client_ids: BTreeSet<String>,
    pub(crate) thumbprints: Vec<String>,
    pub(crate) created_us: u64,
    pub(crate) tags: BTreeMap<String, String>,
}

/// All of them, by account and name.
#[derive(Clone, Default)]
pub(crate) struct Entities {
    pub(crate) users: BTreeMap<Name, Arc<User>>,
    pub(crate) groups: BTreeMap<Name, Arc<Group>>,
    pub(crate) roles: BTreeMap<Name, Arc<Role>>,
    pub(crate) policies: BTreeMap<Name, Arc<Policy>>,
    pub(crate) access_keys: BTreeMap<Name, Arc<AccessKey>>,
    pub(crate) devices: BTreeMap<Name, Arc<Device>>,
    pub(crate) oidc_providers: BTreeMap<Name, Arc<OidcProvider>>,
}

/// What all kinds have in common.
pub(crate) trait Entity: Clone + Serialize + Send + Sync + 'static {
    /// In `kms.db`.
    const KIND: &'static str;
    /// In `resources[].type`.
    const TYPE: &'static str;
    /// In error texts.
    const NOUN: &'static str;

    fn name(&self) -> &str;
    fn all(entities: &Entities) -> &BTreeMap<Name, Arc<Self>>;
    fn all_mut(entities: &mut Entities) -> &mut BTreeMap<Name, Arc<Self>>;

    /// Its ARN.
    fn arn(account: AccountId, name: &str) -> String {
        format!("arn:aws:iam::{account}:{}/{name}", Self::KIND)
    }
}

macro_rules! entity {
    ($type:ty, $map:ident, $name:ident, $kind:literal, $aws_type:literal, $noun:literal) => {
        impl Entity for $type {
            const KIND: &'static str = $kind;
            const TYPE: &'static str = $aws_type;
            const NOUN: &'static str = $noun;

            fn name(&self) -> &str {
                &self.$name
            }

            fn all(entities: &Entities) -> &BTreeMap<Name, Arc<Self>> {
                &entities.$map
            }

            fn all_mut(entities: &mut Entities) -> &mut BTreeMap<Name, Arc<Self>> {
                &mut entities.$map
            }
        }
    };
}

entity!(User, users, user_name, "user", "AWS::IAM::User", "user");
entity!(Group, groups, group_name, "group", "AWS::IAM::Group", "group");
entity!(Role, roles, role_name, "role", "AWS::IAM::Role", "role");
entity!(Policy, policies, policy_name, "policy", "AWS::IAM::ManagedPolicy", "policy");
entity!(AccessKey, access_keys, access_key_id, "access-key", "AWS::IAM::AccessKey", "Access Key");
entity!(Device, devices, device_name, "mfa", "AWS::IAM::MFADevice", "MFA device");
entity!(OidcProvider, oidc_providers, name, "oidc-provider", "AWS::IAM::OIDCProvider", "OpenID Connect provider");

/// The ARN of a managed policy; the built-in one is AWS's.
pub(crate) fn policy_arn(account: AccountId, name: &str) -> String {
    if name == ADMINISTRATOR_ACCESS {
        return format!("arn:aws:iam::aws:policy/{name}");
    }
    Policy::arn(account, name)
}

/// The account's entities of one kind, in order of name.
pub(crate) fn of_account<E: Entity>(entities: &Entities, account: AccountId) -> impl Iterator<Item = &Arc<E>> {
    let from = E::all(entities).range((account, String::new())..);
    from.take_while(move |((owner, _), _)| *owner == account).map(|(_, entity)| entity)
}
