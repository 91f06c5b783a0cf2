//! Who exists: accounts, users, groups, roles, policies and access keys, from `identities.toml`.
//!
//! ```toml
//! [[account]]
//! id = "123456789012"            # twelve digits
//! name = "production"            # optional
//!
//! [[policy]]                     # for use by name, within its account
//! account = "123456789012"
//! name = "app-use"
//! document = '''{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"}]}'''
//!
//! [[group]]
//! account = "123456789012"
//! name = "apps"
//! policies = ["app-use"]         # names, or JSON documents in place; AdministratorAccess is built in
//!
//! [[user]]
//! account = "123456789012"
//! name = "billing"
//! groups = ["apps"]              # optional, as are the next four
//! policies = []
//! permissions_boundary = "app-use"  # a name or a document in place: what it does not allow, no policy can
//! tags = { team = "red" }
//! id = "AIDAEXAMPLEEXAMPLE123"   # the stable principal id; derived from account and name when left out
//!
//! [[role]]
//! account = "123456789012"
//! name = "key-administrator"
//! trust = '''{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}}'''
//! policies = []                  # optional, as are permissions_boundary, tags and id (AROA...)
//! max_session_secs = 3600        # 3600 to 43200; 3600 when left out
//!
//! [[access_key]]
//! id = "AKIA..."
//! secret = "..."
//! account = "123456789012"
//! user = "billing"               # or: root = true, for the account's root user
//! status = "Active"              # or "Inactive"; Active when left out
//!
//! [[mfa_device]]                 # arn:aws:iam::123456789012:mfa/billing-phone
//! account = "123456789012"
//! name = "billing-phone"
//! user = "billing"               # or: root = true
//! seed = "..."                   # Base32, 26 characters or more, as the authenticator program has it
//!
//! [[service_key]]                # for a service that acts for users of the account: `service`
//! id = "AKIA..."
//! secret = "..."
//! account = "123456789012"
//! service = "ec2"                # kms:ViaService is then ec2.<region>.amazonaws.com
//! status = "Active"
//! ```
//!
//! Read whole or refused whole: unknown fields, dangling names, doubles and policies that do not parse are errors that
//! name the entry. The file holds secrets and must be 0600. Built-in principals and break-glass are not in it.

mod file;
mod service;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use serde_json::Value;
use zeroize::Zeroizing;

pub use service::ServiceKey;

use super::credentials::{Credentials, SecretKey};
use super::totp::Seed;
use crate::directory::entity::Entities;
use crate::policy::{CallerPolicies, Document, NamedDocument, PolicyError, PrincipalContext};

/// Longest file read.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Name of the policy that every account has: everything on everything.
pub const ADMINISTRATOR_ACCESS: &str = "AdministratorAccess";

/// Where identities come from.
pub trait IdentitySource: Send + Sync {
    /// All identities as they are now; an error leaves those in force untouched.
    fn load(&self) -> Result<Identities, IdentitiesError>;
}

/// Why identities were not loaded. Never quotes a secret.
#[derive(Debug, thiserror::Error)]
pub enum IdentitiesError {
    /// The file could not be read.
    #[error("read identities {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("identities {path} must have mode 0600, has {mode:04o}")]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not TOML, or not of this shape.
    #[error("identities, line {line}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What is wrong, without the line's content.
        reason: String,
    },
    /// An entry is wrong in itself or refers to nothing.
    #[error("identities, {entry}: {reason}")]
    Entry {
        /// Such as `user 123456789012/billing`.
        entry: String,
        /// What is wrong.
        reason: String,
    },
    /// A policy does not parse.
    #[error("identities, {entry}")]
    Policy {
        /// Whose policy.
        entry: String,
        /// Why.
        source: PolicyError,
    },
}

/// A principal that may call: how policies see it, and its own policies with those of its groups.
#[derive(Debug)]
pub struct Principal {
    /// How policies see it.
    pub context: PrincipalContext,
    /// Its identity policies; empty for an account's root user.
    pub policies: Arc<[NamedDocument]>,
    /// What limits them.
    pub boundary: Option<NamedDocument>,
    /// What limits a session besides; none for sessions opened without policies, and for long-term keys.
    pub session: Option<Arc<[NamedDocument]>>,
}

impl Principal {
    /// Its policies for an evaluation.
    pub fn own(&self) -> CallerPolicies<'_> {
        CallerPolicies { identity: &self.policies, boundary: self.boundary.as_ref(), session: self.session.as_deref() }
    }
}

/// A role: who may assume it, and what its sessions may do.
#[derive(Debug)]
pub struct Role {
    /// `arn:aws:iam::111122223333:role/reader`.
    pub arn: String,
    /// The stable id, `AROA...`.
    pub id: String,
    /// Twelve digits.
    pub account: String,
    /// As in the ARN.
    pub name: String,
    /// Who may assume it.
    pub trust: Arc<Document>,
    /// Its identity policies.
    pub policies: Arc<[NamedDocument]>,
    /// What limits them.
    pub boundary: Option<NamedDocument>,
    /// Longest session.
    pub max_session_secs: u64,
    /// Its tags; a session's own are laid over them.
    pub tags: BTreeMap<String, String>,
}

/// All identities, checked. Immutable; a changed file makes a new value.
pub struct Identities {
    accounts: BTreeMap<String, Option<String>>,
    policies: file::Policies,
    principals: BTreeMap<String, Arc<Principal>>,
    roles: BTreeMap<String, Arc<Role>>,
    access_keys: HashMap<String, AccessKey>,
    service_keys: HashMap<String, ServiceKey>,
    /// By ARN, with the ARN of the user.
    mfa_devices: HashMap<String, (String, Seed)>,
    entities: Entities,
    public: Value,
    content_hash: [u8; 32],
    /// Over the public content and all secrets: for comparing, never shown.
    private_hash: [u8; 32],
}

struct AccessKey {
    secret: SecretKey,
    active: bool,
    principal: Arc<Principal>,
}

impl Identities {
    /// Reads the text of an `identities.toml`.
    pub fn parse(text: &str) -> Result<Self, IdentitiesError> {
        file::parse(text)
    }

    /// Reads what [`Self::public_json`] gave: everybody, without access keys, services' keys and MFA devices, for which
    /// the secrets would be needed.
    pub(crate) fn of_recorded(public: &Value) -> Result<Self, IdentitiesError> {
        file::parse_recorded(public)
    }

    /// The secret of an **active** access key, a user's or a service's.
    pub fn secret(&self, access_key_id: &str) -> Option<&SecretKey> {
        let user = self.access_keys.get(access_key_id).filter(|key| key.active).map(|key| &key.secret);
        user.or_else(|| self.service_key(access_key_id).map(|key| &key.secret))
    }

    /// An **active** key of a service.
    pub fn service_key(&self, access_key_id: &str) -> Option<&ServiceKey> {
        self.service_keys.get(access_key_id).filter(|key| key.active)
    }

    /// The principal that an access key belongs to, active or not.
    pub fn principal(&self, access_key_id: &str) -> Option<&Arc<Principal>> {
        self.access_keys.get(access_key_id).map(|key| &key.principal)
    }

    /// A user by its ARN, or an account's root user.
    pub fn principal_by_arn(&self, arn: &str) -> Option<&Arc<Principal>> {
        self.principals.get(arn)
    }

    /// A role by its ARN.
    pub fn role(&self, arn: &str) -> Option<&Arc<Role>> {
        self.roles.get(arn)
    }

    /// All roles, by ARN.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values()
    }

    /// A policy of an account by its name.
    pub fn policy(&self, account: &str, name: &str) -> Option<&Arc<Document>> {
        self.policies.get(&(account.to_owned(), name.to_owned()))
    }

    /// The seed of a user's MFA device, by the user's and the device's ARN.
    pub fn mfa_seed(&self, user_arn: &str, serial: &str) -> Option<&Seed> {
        self.mfa_devices.get(serial).filter(|(owner, _)| owner == user_arn).map(|(_, seed)| seed)
    }

    /// All users and root users, by ARN.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.principals.values()
    }

    /// Ids of all accounts, with their names.
    pub fn accounts(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.accounts.iter().map(|(id, name)| (id.as_str(), name.as_deref()))
    }

    /// The entries as the IAM API lists them.
    pub(crate) fn entities(&self) -> &Entities {
        &self.entities
    }

    /// Everything but secrets, in a fixed order: what `LoadIdentities` records. An object of the lists `accounts`,
    /// `policies`, `groups`, `users`, `roles`, `accessKeys`, `serviceKeys` and `mfaDevices`.
    pub fn public_json(&self) -> &Value {
        &self.public
    }

    /// SHA-256 over the bytes of [`Self::public_json`]: what epoch-start names.
    pub fn content_hash(&self) -> [u8; 32] {
        self.content_hash
    }

    /// Whether nothing changed, secrets included. A new secret under an old id leaves the content hash as it was.
    pub fn is_same(&self, other: &Self) -> bool {
        self.private_hash == other.private_hash
    }

    fn hash(
        public: &Value,
        access_keys: &HashMap<String, AccessKey>,
        service_keys: &HashMap<String, ServiceKey>,
        mfa_devices: &HashMap<String, (String, Seed)>,
    ) -> ([u8; 32], [u8; 32]) {
        let content = digest::digest(&SHA256, public.to_string().as_bytes());
        let mut private = digest::Context::new(&SHA256);
        private.update(content.as_ref());
        let keys = access_keys.iter().map(|(id, key)| (id, key.secret.expose().as_bytes()));
        let services = service_keys.iter().map(|(id, key)| (id, key.secret.expose().as_bytes()));
        let seeds = mfa_devices.iter().map(|(serial, (_, seed))| (serial, seed.expose()));
        let sorted: BTreeMap<&String, &[u8]> = keys.chain(services).chain(seeds).collect();
        for (id, secret) in sorted {
            for bytes in [id.as_bytes(), secret] {
                private.update(&bytes.len().to_be_bytes());
                private.update(bytes);
            }
        }
        (to_array(&content), to_array(&private.finish()))
    }
}

/// `identities.toml` on disk.
pub struct IdentitiesFile {
    path: PathBuf,
}

impl IdentitiesFile {
    /// The file at `path`; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl IdentitySource for IdentitiesFile {
    fn load(&self) -> Result<Identities, IdentitiesError> {
        let read = |source| IdentitiesError::Read { path: self.path.clone(), source };
        let file = fs::File::open(&self.path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentitiesError::Permissions { path: self.path.clone(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(read(io::Error::new(io::ErrorKind::FileTooLarge, "larger than identities may be")));
        }
        let capacity = usize::try_from(metadata.len()).unwrap_or_default() + 1;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(read)?;
        Identities::parse(&text)
    }
}

/// A first `identities.toml`: one account, and one administrator with an access key.
pub fn starter(account: &str, administrator: &str, credentials: &Credentials) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2048));
    text.push_str(&format!(
        "# Who may call this KMS. Changes are logged as LoadIdentities and then take effect; a file with an error is\n\
         # refused whole and the identities in force stay. Holds secrets: keep it at mode 0600.\n\n\
         [[account]]\nid = \"{account}\"\n\n\
         [[user]]\naccount = \"{account}\"\nname = \"{administrator}\"\npolicies = [\"{ADMINISTRATOR_ACCESS}\"]\n\n\
         [[access_key]]\nid = \"{}\"\naccount = \"{account}\"\nuser = \"{administrator}\"\nsecret = \"",
        credentials.access_key_id
    ));
    text.push_str(credentials.secret.expose());
    text.push_str("\"\n");
    text
}

/// Writes `text` to `path` as a private file, in one step.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    super::credentials::replace_file(path, text.as_bytes())
}

/// `arn:aws:iam::111122223333:user/alice`.
pub(crate) fn user_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:user/{name}")
}

/// `arn:aws:iam::111122223333:role/reader`.
pub(crate) fn role_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:role/{name}")
}

/// `arn:aws:iam::111122223333:mfa/phone`.
pub(crate) fn mfa_arn(account: &str, name: &str) -> String {
    format!("arn:aws:iam::{account}:mfa/{name}")
}

fn root_arn(account: &str) -> String {
    format!("arn:aws:iam::{account}:root")
}

fn to_array(hash: &digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash.as_ref());
    out
}

#[cfg(test)]
mod tests;
