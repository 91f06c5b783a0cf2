//! Who may call: identities, the fixed principals and the quarantine overlay, as one immutable snapshot.
//!
//! A judgement takes one snapshot and its generation; a change of identities or overlay makes a new one, under the
//! exclusive access lock.

use crate::auth::credentials::{Credentials, CredentialsError, SecretKey};
use crate::auth::identities::{Identities, Principal};
use crate::crypto::material::Owner;
use crate::crypto::{KeyMaterial, MaterialId, RootKey, ciphertext};
use crate::event::UserIdentity;
use crate::key::{AccountId, KeyRecord};
use crate::ops::CallerKey;
use crate::policy::{self, Context, Decision, PrincipalContext, PrincipalKind, Request};
use crate::store::{self, StoreError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the responder may call, above key policies, identity denies and the overlay.
const RESPONDER_CALLS: &[&str] = &[
    "DescribeKey",
    "GetKeyPolicy",
    "CancelKeyDeletion",
    "EnableKey",
    "DisableKey",
    "PutQuarantine",
    "LiftQuarantine",
    "ListQuarantines",
    "RestoreKeyPolicy",
];
/// What the trail may call.
const TRAIL_CALLS: &[&str] = &["GetCheckpoint", "GetFrames"];

/// Path of the fixed principals in ARNs.
const FIXED_PATH: &str = "keytrail/";
/// Key id under which the break-glass secret is sealed; no KMS key has it, theirs are UUIDs.
const BREAK_GLASS: &str = "break-glass";

/// What kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A user or root of identities.toml: policies decide.
    Identity,
    /// The responder: its list decides.
    Responder,
    /// The trail: its list decides.
    Trail,
    /// The emergency administrator: everything in its account, never in quarantine.
    BreakGlass,
}

impl Role {
    /// The list of a built-in; none where policies decide.
    pub(crate) fn fixed_calls(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Responder => Some(RESPONDER_CALLS),
            Self::Trail => Some(TRAIL_CALLS),
            Self::Identity | Self::BreakGlass => None,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Responder => Some("responder"),
            Self::Trail => Some("trail"),
            Self::BreakGlass => Some("break-glass"),
            Self::Identity => None,
        }
    }
}

/// An authenticated caller.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    pub(crate) arn: String,
    pub(crate) account: AccountId,
    /// As events have it.
    pub(crate) identity: UserIdentity,
    /// As policies see it, with its policies; none for fixed principals.
    principal: Option<Arc<Principal>>,
}

/// A principal stopped for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) expires_us: u64,
    pub(crate) reason: String,
    pub(crate) event_id: String,
}

/// The principals that exist whatever identities.toml says.
pub(crate) struct Fixed {
    account: AccountId,
    responder: Credentials,
    trail: Credentials,
    break_glass: Credentials,
}

/// Why the fixed principals' credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FixedError {
    /// The file `service-credentials`.
    #[error("service-credentials")]
    File(#[from] CredentialsError),
    /// The row in the store.
    #[error("break-glass credentials in the store")]
    Store(#[from] StoreError),
    /// The break-glass secret does not open under this root key.
    #[error("break-glass credentials do not open")]
    Sealed,
}

impl Fixed {
    /// Reads the built-ins' credentials from the folder and the break-glass ones, sealed, from the store: their file is
    /// meant to be moved away.
    pub(crate) fn read(
        dir: &Path,
        connection: &Connection,
        root: &RootKey,
        account: AccountId,
        region: &str,
    ) -> Result<Self, FixedError> {
        let path = dir.join("service-credentials");
        Ok(Self {
            account,
            responder: Credentials::read(&path, "responder")?,
            trail: Credentials::read(&path, "trail")?,
            break_glass: open_break_glass(connection, root, account, region)?,
        })
    }

    fn find(&self, access_key_id: &str) -> Option<(Role, &Credentials)> {
        let all =
            [(Role::Responder, &self.responder), (Role::Trail, &self.trail), (Role::BreakGlass, &self.break_glass)];
        all.into_iter().find(|(_, credentials)| credentials.access_key_id == access_key_id)
    }

    fn caller(&self, role: Role, access_key_id: Option<&str>) -> Caller {
        let name = format!("{FIXED_PATH}{}", role.name().unwrap_or_default());
        let arn = format!("arn:aws:iam::{}:{name}", self.account);
        let identity = UserIdentity {
            kind: Some("IAMUser".to_owned()),
            principal_id: Some(name.clone()),
            arn: Some(arn.clone()),
            account_id: Some(self.account.to_string()),
            access_key_id: access_key_id.map(str::to_owned),
            user_name: Some(name),
            invoked_by: None,
        };
        Caller { role, arn, account: self.account, identity, principal: None }
    }
}

/// Seals the break-glass credentials for the store: (name, value) pairs of `meta`.
pub(crate) fn seal_break_glass(
    credentials: &Credentials,
    root: &RootKey,
    account: AccountId,
    region: &str,
) -> Result<Vec<(&'static str, Vec<u8>)>, FixedError> {
    let sealed = |_| FixedError::Sealed;
    let material = KeyMaterial::generate().map_err(sealed)?;
    let material_id = MaterialId::generate().map_err(sealed)?;
    let owner = Owner { account: account.as_str(), region, key_id: BREAK_GLASS, material_id };
    let secret = credentials.secret.expose().as_bytes();
    Ok(vec![
        ("break_glass_id", credentials.access_key_id.as_bytes().to_vec()),
        ("break_glass_material_id", material_id.0.to_vec()),
        ("break_glass_material", material.wrap(root, &owner).map_err(|_| FixedError::Sealed)?),
        ("break_glass_secret", ciphertext::encrypt(&material, &owner, secret, &BTreeMap::new()).map_err(sealed)?),
    ])
}

fn open_break_glass(
    connection: &Connection,
    root: &RootKey,
    account: AccountId,
    region: &str,
) -> Result<Credentials, FixedError> {
    let blob = |name| store::meta_blob(connection, name)?.ok_or(StoreError::Row { table: "meta" });
    let material_id = blob("break_glass_material_id")?.try_into().map_err(|_| FixedError::Sealed)?;
    let owner = Owner { account: account.as_str(), region, key_id: BREAK_GLASS, material_id: MaterialId(material_id) };
    let material = KeyMaterial::unwrap(root, &owner, &blob("break_glass_material")?).map_err(|_| FixedError::Sealed)?;
    let secret = ciphertext::decrypt(&material, &blob("break_glass_secret")?, &BTreeMap::new());
    let secret = secret.map_err(|_| FixedError::Sealed)?;
    let text = std::str::from_utf8(secret.expose()).map_err(|_| FixedError::Sealed)?;
    let id = String::from_utf8(blob("break_glass_id")?).map_err(|_| FixedError::Sealed)?;
    Ok(Credentials::new(id, SecretKey::new(text.to_owned())?)?)
}

/// One snapshot of who may call.
pub(crate) struct Access {
    identities: Arc<Identities>,
    fixed: Arc<Fixed>,
    /// By principal ARN; expired ones too, until something changes.
    pub(crate) quarantines: BTreeMap<String, Quarantine>,
}

impl Access {
    pub(crate) fn new(identities: Arc<Identities>, fixed: Fixed, quarantines: BTreeMap<String, Quarantine>) -> Self {
        Self { identities, fixed: Arc::new(fixed), quarantines }
    }

    /// With other identities.
    pub(crate) fn with_identities(&self, identities: Arc<Identities>) -> Self {
        Self { identities, fixed: Arc::clone(&self.fixed), quarantines: self.quarantines.clone() }
    }

    /// With another overlay.
    pub(crate) fn with_quarantines(&self, quarantines: BTreeMap<String, Quarantine>) -> Self {
        Self { identities: Arc::clone(&self.identities), fixed: Arc::clone(&self.fixed), quarantines }
    }

    /// Whether these identities are in force already, secrets included.
    pub(crate) fn same_identities(&self, other: &Identities) -> bool {
        self.identities.is_same(other)
    }

    /// The secret of an active access key.
    pub(crate) fn secret(&self, access_key_id: &str) -> Option<&SecretKey> {
        let fixed = self.fixed.find(access_key_id).map(|(_, credentials)| &credentials.secret);
        fixed.or_else(|| self.identities.secret(access_key_id))
    }

    /// Who an access key belongs to, while it is active.
    pub(crate) fn caller(&self, key: &CallerKey) -> Option<Caller> {
        let access_key_id = match key {
            CallerKey::Operator => return Some(self.fixed.caller(Role::BreakGlass, None)),
            CallerKey::AccessKey(id) => id,
        };
        if let Some((role, _)) = self.fixed.find(access_key_id) {
            return Some(self.fixed.caller(role, Some(access_key_id)));
        }
        self.identities.secret(access_key_id)?;
        let principal = self.identities.principal(access_key_id)?;
        let context = &principal.context;
        let kind = match context.kind {
            PrincipalKind::User => "IAMUser",
            PrincipalKind::Root => "Root",
        };
        let identity = UserIdentity {
            kind: Some(kind.to_owned()),
            principal_id: Some(context.user_id.clone()),
            arn: Some(context.arn.clone()),
            account_id: Some(context.account.clone()),
            access_key_id: Some(access_key_id.clone()),
            user_name: context.user_name.clone(),
            invoked_by: None,
        };
        Some(Caller {
            role: Role::Identity,
            arn: context.arn.clone(),
            account: AccountId::parse(&context.account)?,
            identity,
            principal: Some(Arc::clone(principal)),
        })
    }

    /// The quarantine a principal is in at a time.
    pub(crate) fn quarantine(&self, arn: &str, at_us: u64) -> Option<&Quarantine> {
        self.quarantines.get(arn).filter(|quarantine| quarantine.expires_us > at_us)
    }

    /// Account roots and fixed principals: someone must always be able to lift a quarantine.
    pub(crate) fn is_protected(&self, arn: &str) -> bool {
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
        resource == "root" || resource.starts_with(FIXED_PATH)
    }

    /// Asks the policies. `key` brings its policy; without one the caller's own decide.
    pub(crate) fn evaluate(&self, caller: &Caller, question: &Question<'_>) -> Decision {
        let Some(principal) = &caller.principal else {
            // Fixed principals never get here; if one did, nothing speaks for it.
            return Decision {
                allowed: false,
                decided_by: "Default".to_owned(),
                reason: policy::Reason::IdentityPolicySilent,
            };
        };
        let request = question.request(&principal.context);
        policy::evaluate(&request, question.key.map(|key| &key.policy.document), &principal.policies)
    }

    /// Whether a policy would leave the caller unable to change it again.
    pub(crate) fn locks_out(&self, caller: &Caller, question: &Question<'_>, after: &KeyRecord) -> bool {
        caller.principal.as_ref().is_some_and(|principal| {
            let request = question.request(&principal.context);
            policy::locks_out(&after.policy.document, question.resource, &request, &principal.policies)
        })
    }
}

/// What is asked of the policies.
pub(crate) struct Question<'a> {
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) account: AccountId,
    pub(crate) key: Option<&'a KeyRecord>,
    pub(crate) context: &'a Context<'a>,
}

impl Question<'_> {
    fn request<'b>(&'b self, principal: &'b PrincipalContext) -> Request<'b> {
        Request {
            action: self.action,
            resource_arn: self.resource,
            key_account: self.account.as_str(),
            principal,
            context: self.context,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn roots_and_fixed_principals_are_protected_from_quarantine() {
        let account = AccountId::parse("123456789012").unwrap();
        let credentials = || Credentials::generate().unwrap();
        let fixed = Fixed { account, responder: credentials(), trail: credentials(), break_glass: credentials() };
        let access = Access::new(Arc::new(Identities::parse("").unwrap()), fixed, BTreeMap::new());
        for arn in ["arn:aws:iam::999999999999:root", "arn:aws:iam::123456789012:keytrail/responder"] {
            assert!(access.is_protected(arn), "{arn}");
        }
        assert!(!access.is_protected("arn:aws:iam::123456789012:user/root"));
        let operator = access.caller(&CallerKey::Operator).unwrap();
        assert_eq!(operator.arn, "arn:aws:iam::123456789012:keytrail/break-glass");
    }
}
