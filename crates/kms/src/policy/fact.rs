//! Condition keys: their names, their types, and their value in a request.
//!
//! A key that is here is filled whenever AWS would fill it for the operations served; one that is not here refuses the
//! document. `kms:GranteeServicePrincipal`, `kms:RetiringServicePrincipal` and `aws:PrincipalOrgID` are known but never
//! present yet. One key is no AWS's: `keytrail:ApprovedBySecondPrincipal`, see `ops::dual_control`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::{DateTime, SecondsFormat};

use super::request::{Mfa, PrincipalKind, Request};

/// A condition key that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConditionKey {
    Plain(Name),
    /// `kms:EncryptionContext:<key>`, the key in lower case: names of condition keys have no case.
    EncryptionContext(String),
    PrincipalTag(String),
    RequestTag(String),
    ResourceTag(String),
    /// `<issuer>:aud` and the like, the issuer in lower case.
    WebIdentity(String, TokenClaim),
    /// Met only where a document is read without being enforced; never decides anything in a caller's favour.
    Unsupported,
}

/// Claims of a token that conditions may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenClaim {
    Audience,
    Subject,
    Methods,
}

/// Condition keys without a variable tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    ApprovedBySecondPrincipal,
    BypassLockout,
    CallerAccount,
    DataKeyPairSpec,
    EncryptionAlgorithm,
    EncryptionContextKeys,
    ExpirationModel,
    GrantConstraintSourceArn,
    GrantConstraintType,
    GranteePrincipal,
    GranteeServicePrincipal,
    GrantIsForAwsResource,
    GrantOperations,
    KeyAgreementAlgorithm,
    KeyOrigin,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    MessageType,
    MultiRegion,
    MultiRegionKeyType,
    PrimaryRegion,
    ReplicaRegion,
    PendingWindowDays,
    ReEncryptOnSameKey,
    RequestAlias,
    ResourceAliases,
    RetiringPrincipal,
    RetiringServicePrincipal,
    RotationPeriodDays,
    SigningAlgorithm,
    ValidTo,
    ViaAwsService,
    ViaService,
    WrappingAlgorithm,
    WrappingKeySpec,
    CurrentTime,
    EpochTime,
    MfaAge,
    MfaPresent,
    PrincipalAccount,
    PrincipalArn,
    PrincipalIsAwsService,
    PrincipalOrgId,
    PrincipalType,
    RequestedRegion,
    SecureTransport,
    SourceAccount,
    SourceArn,
    SourceIp,
    TagKeys,
    TokenIssueTime,
    UserAgent,
    UserId,
    Username,
    ExternalId,
    RoleSession,
    TransitiveTagKeys,
    PolicyArn,
    PermissionsBoundary,
}

/// How a key's values compare; decides which operators fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Arn,
    Bool,
    Number,
    Date,
    /// Seconds since 1970: a number and a date.
    Epoch,
    Address,
}

pub(super) const NAMES: &[(&str, Name, Type)] = &[
    ("keytrail:approvedbysecondprincipal", Name::ApprovedBySecondPrincipal, Type::Bool),
    ("kms:bypasspolicylockoutsafetycheck", Name::BypassLockout, Type::Bool),
    ("kms:calleraccount", Name::CallerAccount, Type::Text),
    ("kms:datakeypairspec", Name::DataKeyPairSpec, Type::Text),
    ("kms:encryptionalgorithm", Name::EncryptionAlgorithm, Type::Text),
    ("kms:encryptioncontextkeys", Name::EncryptionContextKeys, Type::Text),
    ("kms:expirationmodel", Name::ExpirationModel, Type::Text),
    ("kms:grantconstraintsourcearn", Name::GrantConstraintSourceArn, Type::Arn),
    ("kms:grantconstrainttype", Name::GrantConstraintType, Type::Text),
    ("kms:granteeprincipal", Name::GranteePrincipal, Type::Arn),
    ("kms:granteeserviceprincipal", Name::GranteeServicePrincipal, Type::Text),
    ("kms:grantisforawsresource", Name::GrantIsForAwsResource, Type::Bool),
    ("kms:grantoperations", Name::GrantOperations, Type::Text),
    ("kms:keyagreementalgorithm", Name::KeyAgreementAlgorithm, Type::Text),
    ("kms:keyorigin", Name::KeyOrigin, Type::Text),
    ("kms:keyspec", Name::KeySpec, Type::Text),
    ("kms:keyusage", Name::KeyUsage, Type::Text),
    ("kms:macalgorithm", Name::MacAlgorithm, Type::Text),
    ("kms:messagetype", Name::MessageType, Type::Text),
    ("kms:multiregion", Name::MultiRegion, Type::Bool),
    ("kms:multiregionkeytype", Name::MultiRegionKeyType, Type::Text),
    ("kms:primaryregion", Name::PrimaryRegion, Type::Text),
    ("kms:replicaregion", Name::ReplicaRegion, Type::Text),
    ("kms:schedulekeydeletionpendingwindowindays", Name::PendingWindowDays, Type::Number),
    ("kms:reencryptonsamekey", Name::ReEncryptOnSameKey, Type::Bool),
    ("kms:requestalias", Name::RequestAlias, Type::Text),
    ("kms:resourcealiases", Name::ResourceAliases, Type::Text),
    ("kms:retiringprincipal", Name::RetiringPrincipal, Type::Arn),
    ("kms:retiringserviceprincipal", Name::RetiringServicePrincipal, Type::Text),
    ("kms:rotationperiodindays", Name::RotationPeriodDays, Type::Number),
    ("kms:signingalgorithm", Name::SigningAlgorithm, Type::Text),
    ("kms:validto", Name::ValidTo, Type::Date),
    ("kms:viaservice", Name::ViaService, Type::Text),
    ("kms:wrappingalgorithm", Name::WrappingAlgorithm, Type::Text),
    ("kms:wrappingkeyspec", Name::WrappingKeySpec, Type::Text),
    ("aws:currenttime", Name::CurrentTime, Type::Date),
    ("aws:epochtime", Name::EpochTime, Type::Epoch),
    ("aws:multifactorauthage", Name::MfaAge, Type::Number),
    ("aws:multifactorauthpresent", Name::MfaPresent, Type::Bool),
    ("aws:principalaccount", Name::PrincipalAccount, Type::Text),
    ("aws:principalarn", Name::PrincipalArn, Type::Arn),
    ("aws:principalisawsservice", Name::PrincipalIsAwsService, Type::Bool),
    ("aws:principalorgid", Name::PrincipalOrgId, Type::Text),
    ("aws:principaltype", Name::PrincipalType, Type::Text),
    ("aws:requestedregion", Name::RequestedRegion, Type::Text),
    ("aws:securetransport", Name::SecureTransport, Type::Bool),
    ("aws:sourceaccount", Name::SourceAccount, Type::Text),
    ("aws:sourcearn", Name::SourceArn, Type::Arn),
    ("aws:sourceip", Name::SourceIp, Type::Address),
    ("aws:tagkeys", Name::TagKeys, Type::Text),
    ("aws:tokenissuetime", Name::TokenIssueTime, Type::Date),
    ("aws:useragent", Name::UserAgent, Type::Text),
    ("aws:userid", Name::UserId, Type::Text),
    ("aws:username", Name::Username, Type::Text),
    ("aws:viaawsservice", Name::ViaAwsService, Type::Bool),
    ("sts:externalid", Name::ExternalId, Type::Text),
    ("sts:rolesessionname", Name::RoleSession, Type::Text),
    ("sts:transitivetagkeys", Name::TransitiveTagKeys, Type::Text),
    ("iam:policyarn", Name::PolicyArn, Type::Arn),
    ("iam:permissionsboundary", Name::PermissionsBoundary, Type::Arn),
];

/// A key's value in one request.
#[derive(Debug)]
pub(super) enum Fact<'a> {
    Absent,
    Text(Cow<'a, str>),
    Many(Vec<&'a str>),
    Bool(bool),
    Number(u64),
    /// Unix seconds.
    Time(i64),
    Address(IpAddr),
    /// Cannot be told: the request has two candidates that differ only in case.
    Unclear,
}

impl ConditionKey {
    /// Finds a key by its name, in any case. None when it is not supported.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let lower = name.to_lowercase();
        if let Some((_, key, _)) = NAMES.iter().find(|(known, _, _)| *known == lower) {
            return Some(Self::Plain(*key));
        }
        type Make = fn(String) -> ConditionKey;
        let tails: [(&str, Make); 5] = [
            ("kms:encryptioncontext:", Self::EncryptionContext),
            ("aws:principaltag/", Self::PrincipalTag),
            ("aws:requesttag/", Self::RequestTag),
            ("aws:resourcetag/", Self::ResourceTag),
            ("iam:resourcetag/", Self::ResourceTag),
        ];
        let tailed = tails.iter().find_map(|(head, make)| {
            let tail = lower.strip_prefix(head)?;
            (!tail.is_empty()).then(|| make(tail.to_owned()))
        });
        tailed.or_else(|| Self::of_token(&lower))
    }

    /// An issuer has a dot in its host, and no service's prefix has one.
    fn of_token(lower: &str) -> Option<Self> {
        let (issuer, claim) = lower.rsplit_once(':')?;
        let claim = match claim {
            "aud" => TokenClaim::Audience,
            "sub" => TokenClaim::Subject,
            "amr" => TokenClaim::Methods,
            _ => return None,
        };
        let host = issuer.split(['/', ':']).next()?;
        (host.contains('.') || issuer.starts_with('[')).then(|| Self::WebIdentity(issuer.to_owned(), claim))
    }

    pub(super) fn value_type(&self) -> Type {
        match self {
            Self::Plain(name) => {
                NAMES.iter().find(|(_, known, _)| known == name).map_or(Type::Text, |(_, _, value_type)| *value_type)
            }
            Self::EncryptionContext(_)
            | Self::PrincipalTag(_)
            | Self::RequestTag(_)
            | Self::ResourceTag(_)
            | Self::WebIdentity(..)
            | Self::Unsupported => Type::Text,
        }
    }

    pub(super) fn is_multivalued(&self) -> bool {
        matches!(
            self,
            Self::WebIdentity(_, TokenClaim::Methods)
                | Self::Plain(
                    Name::EncryptionContextKeys
                        | Name::GrantOperations
                        | Name::ResourceAliases
                        | Name::TagKeys
                        | Name::TransitiveTagKeys
                )
        )
    }

    /// The key's value in this request.
    pub(super) fn fact<'a>(&self, request: &Request<'a>) -> Fact<'a> {
        let context = request.context;
        match self {
            Self::Plain(name) => name.fact(request),
            Self::EncryptionContext(key) => member(context.encryption_context, key),
            Self::PrincipalTag(key) => member(Some(&request.principal.tags), key),
            Self::RequestTag(key) => member(context.request_tags, key),
            Self::ResourceTag(key) => member(context.key.and_then(|key| key.tags).or(context.resource_tags), key),
            Self::WebIdentity(issuer, claim) => {
                let Some(facts) = context.web_identity.filter(|facts| is_lower_of(&facts.issuer, issuer)) else {
                    return Fact::Absent;
                };
                match claim {
                    TokenClaim::Audience => text(Some(&facts.audience)),
                    TokenClaim::Subject => text(Some(&facts.subject)),
                    TokenClaim::Methods => many(facts.amr.iter()),
                }
            }
            Self::Unsupported => Fact::Unclear,
        }
    }
}

impl Name {
    fn fact<'a>(self, request: &Request<'a>) -> Fact<'a> {
        let (context, principal) = (request.context, request.principal);
        // RetireGrant knows the type of its grant's constraint and nothing else of it.
        let made = context.grant.filter(|_| request.action == "kms:CreateGrant");
        let key = context.key;
        match self {
            Self::ApprovedBySecondPrincipal => context.approved.map_or(Fact::Absent, Fact::Bool),
            Self::BypassLockout => context.bypass_lockout.map_or(Fact::Absent, Fact::Bool),
            Self::CallerAccount | Self::PrincipalAccount => text(Some(&principal.account)),
            Self::DataKeyPairSpec => text(context.data_key_pair_spec),
            Self::EncryptionAlgorithm => text(context.encryption_algorithm),
            Self::EncryptionContextKeys => many(context.encryption_context.into_iter().flat_map(BTreeMap::keys)),
            Self::ExpirationModel => text(context.expiration_model),
            Self::GrantConstraintSourceArn => {
                text(made.and_then(|grant| grant.terms.constraints.source_arn.as_deref()))
            }
            Self::GrantConstraintType => {
                text(context.grant.and_then(|grant| grant.terms.constraints.encryption_context()).map(|(name, _)| name))
            }
            Self::GranteePrincipal => text(made.map(|grant| grant.grantee)),
            Self::GrantIsForAwsResource => match request.action {
                "kms:CreateGrant" | "kms:ListGrants" | "kms:RevokeGrant" => Fact::Bool(context.via_service.is_some()),
                _ => Fact::Absent,
            },
            Self::GrantOperations => {
                let names: Vec<&str> = made.into_iter().flat_map(|grant| grant.terms.operations.names()).collect();
                if names.is_empty() { Fact::Absent } else { Fact::Many(names) }
            }
            Self::KeyAgreementAlgorithm => text(context.key_agreement_algorithm),
            Self::KeyOrigin => text(key.map(|key| key.origin)),
            Self::KeySpec => text(key.map(|key| key.spec)),
            Self::KeyUsage => text(key.map(|key| key.usage)),
            Self::MacAlgorithm => text(context.mac_algorithm),
            Self::MessageType => text(context.message_type),
            Self::MultiRegionKeyType => text(key.and_then(|key| key.multi_region_key_type)),
            Self::PrimaryRegion => text(context.primary_region),
            Self::ReplicaRegion => text(context.replica_region),
            Self::MultiRegion => key.map_or(Fact::Absent, |key| Fact::Bool(key.multi_region)),
            Self::PendingWindowDays => {
                context.pending_window_days.map_or(Fact::Absent, |days| Fact::Number(days.into()))
            }
            Self::ReEncryptOnSameKey => context.re_encrypt_on_same_key.map_or(Fact::Absent, Fact::Bool),
            Self::RequestAlias => text(context.request_alias),
            Self::RetiringPrincipal => text(made.and_then(|grant| grant.retiring)),
            Self::ResourceAliases => many(key.map_or(&[][..], |key| key.aliases).iter()),
            Self::RotationPeriodDays => {
                context.rotation_period_days.map_or(Fact::Absent, |days| Fact::Number(days.into()))
            }
            Self::SigningAlgorithm => text(context.signing_algorithm),
            Self::ValidTo => context.valid_to_us.map_or(Fact::Absent, time),
            Self::WrappingAlgorithm => text(context.wrapping_algorithm),
            Self::WrappingKeySpec => text(context.wrapping_key_spec),
            Self::ViaService => text(context.via_service),
            Self::ViaAwsService => Fact::Bool(context.via_service.is_some()),
            Self::GranteeServicePrincipal | Self::RetiringServicePrincipal | Self::PrincipalOrgId => Fact::Absent,
            Self::CurrentTime | Self::EpochTime => time(context.time_us),
            Self::TokenIssueTime => principal.issued_us.map_or(Fact::Absent, time),
            Self::MfaAge => match principal.mfa {
                Mfa::At(at_us) => Fact::Number(context.time_us.saturating_sub(at_us) / 1_000_000),
                Mfa::Unknown | Mfa::Without => Fact::Absent,
            },
            Self::MfaPresent => match principal.mfa {
                Mfa::At(_) => Fact::Bool(true),
                Mfa::Without => Fact::Bool(false),
                Mfa::Unknown => Fact::Absent,
            },
            // As at AWS the role's, not the session's: a condition written for a role holds for all its sessions.
            Self::PrincipalArn => text(Some(principal.role_arn.as_ref().unwrap_or(&principal.arn))),
            Self::PrincipalIsAwsService => Fact::Bool(false),
            Self::PrincipalType => text(match principal.kind {
                PrincipalKind::User => Some("User"),
                PrincipalKind::Root => Some("Account"),
                PrincipalKind::Session => Some("AssumedRole"),
                PrincipalKind::Federated => None,
            }),
            Self::RequestedRegion => text(Some(context.region).filter(|region| !region.is_empty())),
            Self::SecureTransport => Fact::Bool(context.secure_transport),
            Self::SourceAccount => text(context.source_arn.and_then(|arn| arn.split(':').nth(4))),
            Self::SourceArn => text(context.source_arn),
            Self::SourceIp => context.source_ip.map_or(Fact::Absent, |address| Fact::Address(address.to_canonical())),
            Self::TagKeys => {
                let set = context.request_tags.into_iter().flat_map(BTreeMap::keys);
                many(set.chain(context.tag_keys))
            }
            Self::UserAgent => text(context.user_agent),
            Self::UserId => text(Some(&principal.user_id)),
            Self::Username => text(principal.user_name.as_deref()),
            Self::ExternalId => text(context.external_id),
            Self::RoleSession => text(context.role_session_name),
            Self::TransitiveTagKeys => many(context.transitive_tag_keys.iter()),
            Self::PolicyArn => text(context.policy_arn),
            Self::PermissionsBoundary => text(context.permissions_boundary),
        }
    }
}

impl Fact<'_> {
    /// The text that string operators see; None unless there is exactly one value.
    pub(super) fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
            Self::Time(secs) => DateTime::from_timestamp(*secs, 0)
                .map(|time| Cow::Owned(time.to_rfc3339_opts(SecondsFormat::Secs, true))),
            Self::Address(address) => Some(Cow::Owned(address.to_string())),
            Self::Absent | Self::Many(_) | Self::Unclear => None,
        }
    }
}

fn time<'a>(us: u64) -> Fact<'a> {
    i64::try_from(us / 1_000_000).map_or(Fact::Unclear, Fact::Time)
}

fn text(value: Option<&str>) -> Fact<'_> {
    value.map_or(Fact::Absent, |value| Fact::Text(Cow::Borrowed(value)))
}

fn many<'a>(values: impl Iterator<Item = &'a String>) -> Fact<'a> {
    let values: Vec<&str> = values.map(String::as_str).collect();
    if values.is_empty() { Fact::Absent } else { Fact::Many(values) }
}

/// The member whose key is `lower` without regard to case. Two such members are unclear: choosing one of them would let
/// a caller show one value to the policy and use another.
fn member<'a>(map: Option<&'a BTreeMap<String, String>>, lower: &str) -> Fact<'a> {
    let mut found = map.into_iter().flatten().filter(|(key, _)| is_lower_of(key, lower));
    match (found.next(), found.next()) {
        (None, _) => Fact::Absent,
        (Some((_, value)), None) => Fact::Text(Cow::Borrowed(value)),
        (Some(_), Some(_)) => Fact::Unclear,
    }
}

fn is_lower_of(key: &str, lower: &str) -> bool {
    if key.is_ascii() { key.eq_ignore_ascii_case(lower) } else { key.to_lowercase() == lower }
}
