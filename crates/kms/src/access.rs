//! Who may call: identities, the fixed principals and the quarantine overlay, as one immutable snapshot.
//!
//! A judgement takes one snapshot and its generation; a change of identities or overlay makes a new one, under the
//! exclusive access lock.

use crate::announced::Announced;
use crate::auth::credentials::{Credentials, CredentialsError, SecretKey};
use crate::auth::identities::{Identities, Principal, Role as IamRole, ServiceKey};
use crate::auth::oidc::WebIdentity;
use crate::auth::session::{Opened, Session, Subject};
use crate::auth::totp::Seed;
use crate::crypto::material::Owner;
use crate::crypto::{KeyMaterial, MaterialId, RootKey, ciphertext, wrap};
use crate::directory::entity::OidcProvider;
use crate::directory::{Directory, DirectoryError};
use crate::event::{SessionAttributes, SessionContext, SessionIssuer, UserIdentity, WebIdFederationData};
use crate::grant::Grant;
use crate::key::{AccountId, KeyRecord, rfc3339_seconds};
use crate::ops::{CallerKey, OnBehalf};
use crate::overlay::Overlay;
use crate::people::{People, role_of_session};
use crate::policy::{self, Context, Decision, Document, GrantsOnKey, Mfa, PrincipalContext, PrincipalKind, Request};
use crate::spec::KeyKind;
use crate::store::{self, StoreError};
use rusqlite::Connection;
use serde_json::Map;
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
    "ListGrants",
    "ListAliases",
    "ListResourceTags",
    "RevokeGrant",
    "RestoreAlias",
    "PutMfaRequirement",
    "LiftMfaRequirement",
    "ListMfaRequirements",
    "DeactivateAccessKey",
    "ActivateAccessKey",
    "ListDeactivatedAccessKeys",
    "OpenApprovalRequest",
    "DescribeApprovalRequest",
    "ConsumeApprovalRequest",
    "RecordIncident",
    "GetUsage",
    "ListChanges",
    "ReportResponder",
    "CountKeys",
];
/// What the trail may call.
const TRAIL_CALLS: &[&str] = &["GetCheckpoint", "GetFrames", "ReportLanded", "RunQuery", "EndQuery", "AuthorizeQuery"];

/// The fixed principals by name, with their lists; break-glass has none, everything of its account is open to it.
pub(crate) const BUILT_INS: [(&str, Option<&[&str]>); 3] =
    [("break-glass", None), ("responder", Some(RESPONDER_CALLS)), ("trail", Some(TRAIL_CALLS))];

/// What a service may call for a user: what services that encrypt for their users need, and nothing that administers.
pub(crate) const SERVICE_CALLS: &[&str] = &[
    "CreateGrant",
    "Decrypt",
    "DescribeKey",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GetPublicKey",
    "ListGrants",
    "ReEncrypt",
    "RetireGrant",
    "RevokeGrant",
    "Sign",
    "Verify",
    "VerifyMac",
];

/// Path of the fixed principals in ARNs.
const FIXED_PATH: &str = "keytrail/";
/// Key id under which the break-glass secret is sealed; no KMS key has it, theirs are UUIDs.
const BREAK_GLASS: &str = "break-glass";

/// What kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A user, an account's root or a session: policies decide.
    Identity,
    /// The responder: its list decides.
    Responder,
    /// The trail: its list decides.
    Trail,
    /// The emergency administrator: everything in its account, never in quarantine.
    BreakGlass,
    /// A service that names nobody it may act for: nothing.
    Service,
}

impl Role {
    /// The list of a built-in; none where policies decide.
    pub(crate) fn fixed_calls(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Responder => Some(RESPONDER_CALLS),
            Self::Trail => Some(TRAIL_CALLS),
            Self::Service => Some(&[]),
            Self::Identity | Self::BreakGlass => None,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Responder => Some("responder"),
            Self::Trail => Some("trail"),
            Self::BreakGlass => Some("break-glass"),
            Self::Identity | Self::Service => None,
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
    /// The session it calls in; none for long-term keys.
    pub(crate) session: Option<Arc<Session>>,
    /// The service that calls for it.
    pub(crate) via: Option<Via>,
}

/// A service's part in a call for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Via {
    /// Its short name, such as `ec2`.
    pub(crate) service: String,
    /// The resource that it names.
    pub(crate) source_arn: Option<String>,
}

impl Caller {
    /// As policies see it; none for fixed principals.
    pub(crate) fn context(&self) -> Option<&PrincipalContext> {
        self.principal.as_deref().map(|principal| &principal.context)
    }

    /// The ARNs whose quarantine stops it: its own, its role's, and whoever opened its session.
    pub(crate) fn quarantined_as(&self) -> impl Iterator<Item = &str> {
        let role = self.context().and_then(|context| context.role_arn.as_deref());
        let via = self.session.iter().flat_map(|session| session.claims.via.iter().map(String::as_str));
        std::iter::once(self.arn.as_str()).chain(role).chain(via)
    }
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
            ..UserIdentity::default()
        };
        Caller { role, arn, account: self.account, identity, principal: None, session: None, via: None }
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
        (store::BREAK_GLASS_MATERIAL, material.wrap(root, &owner).map_err(|_| FixedError::Sealed)?),
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
    let material =
        KeyMaterial::unwrap(root, &owner, &blob(store::BREAK_GLASS_MATERIAL)?).map_err(|_| FixedError::Sealed)?;
    let secret = ciphertext::decrypt(&material, &blob("break_glass_secret")?, &BTreeMap::new());
    let secret = secret.map_err(|_| FixedError::Sealed)?;
    let text = std::str::from_utf8(secret.expose()).map_err(|_| FixedError::Sealed)?;
    let id = String::from_utf8(blob("break_glass_id")?).map_err(|_| FixedError::Sealed)?;
    Ok(Credentials::new(id, SecretKey::new(text.to_owned())?)?)
}

/// Wraps the material behind the break-glass credentials anew.
pub(crate) fn rewrap_break_glass(
    connection: &Connection,
    roots: (&RootKey, &RootKey),
    account: AccountId,
    region: &str,
) -> Result<Vec<u8>, FixedError> {
    let blob = |name| store::meta_blob(connection, name)?.ok_or(StoreError::Row { table: "meta" });
    let material_id = blob("break_glass_material_id")?.try_into().map_err(|_| FixedError::Sealed)?;
    let owner = Owner { account: account.as_str(), region, key_id: BREAK_GLASS, material_id: MaterialId(material_id) };
    wrap::rewrap(roots, &owner, KeyKind::SYMMETRIC, &blob(store::BREAK_GLASS_MATERIAL)?).map_err(|_| FixedError::Sealed)
}

/// One snapshot of who may call.
#[derive(Clone)]
pub(crate) struct Access {
    identities: Arc<Identities>,
    directory: Arc<Directory>,
    fixed: Arc<Fixed>,
    overlay: Arc<Overlay>,
    /// Work that was told beforehand; what is over stays for a while.
    pub(crate) announced: Arc<Announced>,
}

impl Access {
    pub(crate) fn new(identities: Arc<Identities>, directory: Directory, fixed: Fixed, overlay: Overlay) -> Self {
        let (directory, fixed, overlay) = (Arc::new(directory), Arc::new(fixed), Arc::new(overlay));
        Self { identities, directory, fixed, overlay, announced: Arc::default() }
    }

    /// With other identities, if what the IAM API made fits to them.
    pub(crate) fn with_identities(&self, identities: Arc<Identities>) -> Result<Self, DirectoryError> {
        let directory = Directory::resolve(&identities, self.directory.entities.clone())?;
        Ok(Self { identities, directory: Arc::new(directory), ..self.clone() })
    }

    /// With what the IAM API has made of it.
    pub(crate) fn with_directory(&self, directory: Arc<Directory>) -> Self {
        Self { directory, ..self.clone() }
    }

    /// With another overlay.
    pub(crate) fn with_overlay(&self, overlay: Overlay) -> Self {
        Self { overlay: Arc::new(overlay), ..self.clone() }
    }

    /// What stands above policies.
    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// With other announced changes.
    pub(crate) fn with_announced(&self, announced: Announced) -> Self {
        Self { announced: Arc::new(announced), ..self.clone() }
    }

    /// What is in identities.toml.
    pub(crate) fn identities(&self) -> Arc<Identities> {
        Arc::clone(&self.identities)
    }

    /// What was made through the IAM API.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Whether these identities are in force already, secrets included.
    pub(crate) fn same_identities(&self, other: &Identities) -> bool {
        self.identities.is_same(other)
    }

    /// The secret of an active access key that is not withdrawn.
    pub(crate) fn secret(&self, access_key_id: &str) -> Option<&SecretKey> {
        if self.overlay.withdrawn.contains_key(access_key_id) {
            return None;
        }
        let fixed = self.fixed.find(access_key_id).map(|(_, credentials)| &credentials.secret);
        fixed.or_else(|| self.identities.secret(access_key_id)).or_else(|| self.directory.secret(access_key_id))
    }

    /// The secret that a request's signature must be under: of the session that its token opened, else of the access key. A token
    /// that opened nothing makes the key beside it worthless, whosesoever it is.
    pub(crate) fn secret_for<'s>(
        &'s self,
        opened: Option<&'s Opened>,
        has_token: bool,
        access_key_id: &str,
    ) -> Option<&'s SecretKey> {
        match opened {
            Some(opened) if opened.session.access_key_id == access_key_id => Some(&opened.secret),
            Some(_) => None,
            None if has_token => None,
            None => self.secret(access_key_id),
        }
    }

    /// Who an access key belongs to, or whom a service's key acts for, while it is active.
    pub(crate) fn caller(&self, key: &CallerKey, on_behalf: Option<&OnBehalf>) -> Option<Caller> {
        let access_key_id = match key {
            CallerKey::Operator => return Some(self.fixed.caller(Role::BreakGlass, None)),
            CallerKey::AccessKey(id) => id,
            CallerKey::Session(session) => return self.session_caller(session),
            CallerKey::WebIdentity(identity) => return self.web_identity_caller(identity),
        };
        if let Some((role, _)) = self.fixed.find(access_key_id) {
            return Some(self.fixed.caller(role, Some(access_key_id)));
        }
        if self.overlay.withdrawn.contains_key(access_key_id) {
            return None;
        }
        if let Some(key) = self.identities.service_key(access_key_id) {
            return Some(self.service_caller(key, access_key_id, on_behalf));
        }
        let in_file = self.identities.secret(access_key_id).and_then(|_| self.identities.principal(access_key_id));
        let principal = in_file.or_else(|| self.directory.principal(access_key_id))?;
        identity_caller(Arc::clone(principal), access_key_id, None)
    }

    /// Someone whose token was believed, while the provider is there and has its client.
    fn web_identity_caller(&self, identity: &WebIdentity) -> Option<Caller> {
        let WebIdentity { provider_arn, account, facts, .. } = identity;
        self.directory.oidc_provider(*account, &identity.provider)?.client_ids.get(&facts.audience)?;
        let id = format!("{provider_arn}:{}:{}", facts.audience, facts.subject);
        let context = PrincipalContext {
            arn: provider_arn.clone(),
            account: account.to_string(),
            kind: PrincipalKind::Federated,
            user_id: id.clone(),
            mfa: Mfa::Without,
            ..PrincipalContext::default()
        };
        let identity = UserIdentity {
            kind: Some("WebIdentityUser".to_owned()),
            principal_id: Some(id),
            user_name: Some(facts.subject.clone()),
            identity_provider: Some(provider_arn.clone()),
            ..UserIdentity::default()
        };
        let principal = Principal { context, policies: Arc::default(), boundary: None, session: None };
        Some(Caller {
            role: Role::Identity,
            arn: provider_arn.clone(),
            account: *account,
            identity,
            principal: Some(Arc::new(principal)),
            session: None,
            via: None,
        })
    }

    /// The provider of an account that a token's issuer may be.
    pub(crate) fn oidc_provider(&self, account: AccountId, issuer: &str) -> Option<&Arc<OidcProvider>> {
        let (_, name) = issuer.split_once("://")?;
        self.directory.oidc_provider(account, name)
    }

    /// A service acts for users and roles of its account, never for an account's root user or a fixed principal.
    fn service_caller(&self, key: &ServiceKey, access_key_id: &str, on_behalf: Option<&OnBehalf>) -> Caller {
        let found = on_behalf.and_then(|on| self.people().served(&key.account, &key.service, &on.principal));
        let service = format!("{}.amazonaws.com", key.service);
        let acting = found.and_then(|principal| identity_caller(principal, access_key_id, None));
        let mut caller = acting.unwrap_or_else(|| Caller {
            role: Role::Service,
            arn: service.clone(),
            account: self.fixed.account,
            identity: UserIdentity {
                kind: Some("AWSService".to_owned()),
                account_id: Some(key.account.clone()),
                access_key_id: Some(access_key_id.to_owned()),
                ..UserIdentity::default()
            },
            principal: None,
            session: None,
            via: None,
        });
        caller.identity.invoked_by = Some(service);
        let source_arn = on_behalf.and_then(|on_behalf| on_behalf.source_arn.clone());
        caller.via = Some(Via { service: key.service.clone(), source_arn });
        caller
    }

    /// Whose session it is.
    fn session_caller(&self, session: &Arc<Session>) -> Option<Caller> {
        let principal = self.people().in_session(&session.claims, session.policy.as_ref())?;
        identity_caller(Arc::new(principal), &session.access_key_id, Some(session))
    }

    fn people(&self) -> People<'_> {
        People { file: &self.identities, directory: &self.directory }
    }

    fn user(&self, arn: &str) -> Option<&Arc<Principal>> {
        self.people().user(arn)
    }

    /// A role by its ARN.
    pub(crate) fn iam_role(&self, arn: &str) -> Option<&Arc<IamRole>> {
        self.people().role(arn)
    }

    fn policy(&self, account: &str, name: &str) -> Option<&Arc<Document>> {
        self.people().policy(account, name)
    }

    /// The seed of a caller's MFA device. A session of a role has none: the code is a person's.
    /// With how far its clock is off.
    pub(crate) fn mfa_seed(&self, caller: &Caller, serial: &str) -> Option<(&Seed, i64)> {
        let in_file = self.identities.mfa_seed(&caller.arn, serial).map(|seed| (seed, 0));
        in_file.or_else(|| {
            let proof = self.directory.proof(&caller.arn, serial)?;
            Some((&*proof.seed, proof.drift_steps))
        })
    }

    /// Whether an account has a policy of this name.
    pub(crate) fn has_policy(&self, account: &str, name: &str) -> bool {
        self.policy(account, name).is_some()
    }

    /// Whether a caller may assume a role, as the role's trust policy and the caller's own policies have it. `mfa`: what
    /// the call itself proved.
    pub(crate) fn may_assume(
        &self,
        caller: &Caller,
        role: &IamRole,
        action: &str,
        mfa: Mfa,
        context: &Context<'_>,
    ) -> Decision {
        let Some(principal) = &caller.principal else { return silent() };
        let mut seen = principal.context.clone();
        if mfa != Mfa::Unknown {
            seen.mfa = mfa;
        }
        let request =
            Request { action, resource_arn: &role.arn, key_account: &role.account, principal: &seen, context };
        policy::evaluate(&request, Some(&role.trust), &principal.own())
    }

    /// The account of a long-term access key, active or not.
    pub(crate) fn account_of_key(&self, access_key_id: &str) -> Option<String> {
        if self.fixed.find(access_key_id).is_some() {
            return Some(self.fixed.account.to_string());
        }
        let in_file = self.identities.principal(access_key_id).map(|principal| principal.context.account.clone());
        in_file.or_else(|| {
            let mut keys = self.directory.entities.access_keys.keys();
            keys.find(|(_, id)| id == access_key_id).map(|(account, _)| account.to_string())
        })
    }

    /// Whose long-term access key this is, a service's among them; none for one of a fixed principal or one that is not
    /// there.
    pub(crate) fn owner_of_key(&self, access_key_id: &str) -> Option<String> {
        if let Some(principal) = self.identities.principal(access_key_id) {
            return Some(principal.context.arn.clone());
        }
        if let Some(key) = self.identities.service_key(access_key_id) {
            return Some(format!("{}.amazonaws.com", key.service));
        }
        let mut stored = self.directory.entities.access_keys.values();
        let key = stored.find(|key| key.access_key_id == access_key_id)?;
        let account = self.account_of_key(access_key_id)?;
        Some(format!("arn:aws:iam::{account}:user/{}", key.user_name))
    }

    /// Account roots and fixed principals: someone must always be able to lift a quarantine.
    pub(crate) fn is_protected(&self, arn: &str) -> bool {
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
        resource == "root" || resource.starts_with(FIXED_PATH)
    }

    /// Whether an ARN names a principal that a grant may be for: a user, role or account that is there, or a session of
    /// such a role; never a fixed principal.
    pub(crate) fn is_grantable(&self, arn: &str) -> bool {
        let role = role_of_session(arn);
        self.user(arn).is_some() || self.iam_role(role.as_deref().unwrap_or(arn)).is_some()
    }

    /// Asks the policies. `key` brings its policy and its grants; without one the caller's own policies decide.
    pub(crate) fn evaluate(&self, caller: &Caller, question: &Question<'_>) -> Decision {
        let Some(principal) = &caller.principal else { return silent() };
        let request = question.request(&principal.context);
        match question.key {
            Some((key, grants)) => {
                policy::evaluate_with_grants(&request, &key.policy.document, &principal.own(), grants)
            }
            None => policy::evaluate(&request, None, &principal.own()),
        }
    }

    /// Asks a grant, and the policies for denials, whether the caller may retire it.
    pub(crate) fn evaluate_retire(
        &self,
        caller: &Caller,
        question: &Question<'_>,
        key: &KeyRecord,
        grant: &Grant,
    ) -> Decision {
        let Some(principal) = &caller.principal else { return silent() };
        let request = question.request(&principal.context);
        let id = grant.place.id.to_string();
        policy::evaluate_retire(&request, &key.policy.document, &principal.own(), &grant.retirable(&id))
    }

    /// Whether a policy would leave the caller unable to change it again.
    pub(crate) fn locks_out(&self, caller: &Caller, question: &Question<'_>, after: &KeyRecord) -> bool {
        caller.principal.as_ref().is_some_and(|principal| {
            let request = question.request(&principal.context);
            policy::locks_out(&after.policy.document, question.resource, &request, &principal.own())
        })
    }
}

/// Fixed principals are never judged by policies; if one were, nothing would speak for it.
fn silent() -> Decision {
    Decision { allowed: false, decided_by: "Default".to_owned(), reason: policy::Reason::IdentityPolicySilent }
}

fn identity_caller(principal: Arc<Principal>, access_key_id: &str, session: Option<&Arc<Session>>) -> Option<Caller> {
    let context = &principal.context;
    let kind = match context.kind {
        PrincipalKind::User => "IAMUser",
        PrincipalKind::Root => "Root",
        PrincipalKind::Session => "AssumedRole",
        PrincipalKind::Federated => "WebIdentityUser",
    };
    let identity = UserIdentity {
        kind: Some(kind.to_owned()),
        principal_id: Some(context.user_id.clone()),
        arn: Some(context.arn.clone()),
        account_id: Some(context.account.clone()),
        access_key_id: Some(access_key_id.to_owned()),
        user_name: context.user_name.clone(),
        session_context: session.map(|session| session_context(session, context)),
        invoked_by: None,
        identity_provider: None,
    };
    Some(Caller {
        role: Role::Identity,
        arn: context.arn.clone(),
        account: AccountId::parse(&context.account)?,
        identity,
        principal: Some(principal),
        session: session.cloned(),
        via: None,
    })
}

/// As CloudTrail writes it: the second factor is a text.
fn session_context(session: &Session, context: &PrincipalContext) -> SessionContext {
    let session_issuer = match &session.claims.subject {
        Subject::User { .. } => None,
        Subject::Role { arn, id, .. } => Some(SessionIssuer {
            kind: "Role".to_owned(),
            principal_id: id.clone(),
            arn: arn.clone(),
            account_id: context.account.clone(),
            user_name: arn.rsplit('/').next().unwrap_or_default().to_owned(),
        }),
    };
    let attributes = SessionAttributes {
        creation_date: rfc3339_seconds(session.claims.issued_us),
        mfa_authenticated: session.claims.mfa_us.is_some().to_string(),
    };
    let web_id_federation_data = session
        .claims
        .web_identity_provider
        .clone()
        .map(|federated_provider| WebIdFederationData { federated_provider, attributes: Map::new() });
    SessionContext { session_issuer, web_id_federation_data, attributes }
}

/// What is asked of the policies.
pub(crate) struct Question<'a> {
    pub(crate) action: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) account: AccountId,
    pub(crate) key: Option<(&'a KeyRecord, &'a dyn GrantsOnKey)>,
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
        let access =
            Access::new(Arc::new(Identities::parse("").unwrap()), Directory::default(), fixed, Overlay::default());
        for arn in ["arn:aws:iam::999999999999:root", "arn:aws:iam::123456789012:keytrail/responder"] {
            assert!(access.is_protected(arn), "{arn}");
        }
        assert!(!access.is_protected("arn:aws:iam::123456789012:user/root"));
        let operator = access.caller(&CallerKey::Operator, None).unwrap();
        assert_eq!(operator.arn, "arn:aws:iam::123456789012:keytrail/break-glass");
    }
}
