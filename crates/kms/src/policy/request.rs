//! What is being decided: who wants to do what to which key, under which circumstances.
//!
//! Filled by the server for each call and borrowed throughout. A member that is absent makes its condition keys absent,
//! which is not the same as empty or false: see AWS's `...IfExists`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::grant::GrantTerms;

/// One authorization question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `kms:Decrypt`.
    pub action: &'a str,
    /// The key's or alias's ARN; `*` for operations on no resource (ListKeys, CreateKey).
    pub resource_arn: &'a str,
    /// The account that owns the resource; the caller's own when there is none.
    pub key_account: &'a str,
    /// The caller.
    pub principal: &'a PrincipalContext,
    /// The circumstances.
    pub context: &'a Context<'a>,
}

/// An authenticated caller as policies see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrincipalContext {
    /// `arn:aws:iam::111122223333:user/alice`, `...:root`, or `arn:aws:sts::111122223333:assumed-role/reader/alice`.
    pub arn: String,
    /// Twelve digits.
    pub account: String,
    /// User, account root or a role's session.
    pub kind: PrincipalKind,
    /// `aws:userid`: `AIDA...`, the account's id for its root, `AROA...:session` for a role's session.
    pub user_id: String,
    /// `aws:username`; none for an account root and for roles.
    pub user_name: Option<String>,
    /// Names of the user's groups.
    pub groups: Vec<String>,
    /// `arn:aws:iam::111122223333:role/reader` behind a session: policies may name either.
    pub role_arn: Option<String>,
    /// Unix microseconds at which temporary credentials were issued: `aws:TokenIssueTime`; none for long-term keys.
    pub issued_us: Option<u64>,
    /// Whether the caller proved a second factor.
    pub mfa: Mfa,
    /// `aws:PrincipalTag/...`.
    pub tags: BTreeMap<String, String>,
}

/// What kind of principal called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrincipalKind {
    /// An IAM user.
    #[default]
    User,
    /// An account's root user.
    Root,
    /// A session of a role.
    Session,
    /// Somebody for whom an identity provider vouches, before it has a session; `arn` is the provider's.
    Federated,
}

/// What is known about the caller's second factor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mfa {
    /// Long-term keys: both MFA condition keys are absent, which is not the same as false.
    #[default]
    Unknown,
    /// Temporary credentials made without one.
    Without,
    /// Proved at this time, in Unix microseconds.
    At(u64),
}

/// The circumstances of a request. Build it with struct update syntax over `Context::default()`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// `judgedAtMicros`: the only time that the decision uses.
    pub time_us: u64,
    /// `aws:RequestedRegion`.
    pub region: &'a str,
    /// The peer's address.
    pub source_ip: Option<IpAddr>,
    /// Whether the connection is TLS.
    pub secure_transport: bool,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// The encryption context of a cryptographic call, on CreateGrant and RetireGrant that of the grant's constraint; an
    /// empty one counts as absent.
    pub encryption_context: Option<&'a BTreeMap<String, String>>,
    /// `kms:EncryptionAlgorithm`, also when it is the default.
    pub encryption_algorithm: Option<&'a str>,
    /// `kms:SigningAlgorithm`.
    pub signing_algorithm: Option<&'a str>,
    /// `kms:MessageType`, also when it is the default.
    pub message_type: Option<&'a str>,
    /// `kms:MacAlgorithm`.
    pub mac_algorithm: Option<&'a str>,
    /// `kms:KeyAgreementAlgorithm`.
    pub key_agreement_algorithm: Option<&'a str>,
    /// `kms:DataKeyPairSpec`.
    pub data_key_pair_spec: Option<&'a str>,
    /// EnableKeyRotation's period, also when it is the default.
    pub rotation_period_days: Option<u32>,
    /// `kms:WrappingAlgorithm` of GetParametersForImport.
    pub wrapping_algorithm: Option<&'a str>,
    /// `kms:WrappingKeySpec` of GetParametersForImport.
    pub wrapping_key_spec: Option<&'a str>,
    /// `kms:ExpirationModel` of ImportKeyMaterial, also when it is the default.
    pub expiration_model: Option<&'a str>,
    /// `kms:ValidTo` of ImportKeyMaterial, in Unix microseconds.
    pub valid_to_us: Option<u64>,
    /// Whether ReEncrypt's source and destination are one key.
    pub re_encrypt_on_same_key: Option<bool>,
    /// The alias (`alias/...`) by which the request named the key.
    pub request_alias: Option<&'a str>,
    /// Tags that CreateKey or TagResource set.
    pub request_tags: Option<&'a BTreeMap<String, String>>,
    /// Tag keys that UntagResource names; those of `request_tags` count by themselves.
    pub tag_keys: &'a [String],
    /// ScheduleKeyDeletion's waiting period, also when it is the default.
    pub pending_window_days: Option<u32>,
    /// BypassPolicyLockoutSafetyCheck of CreateKey, ReplicateKey and PutKeyPolicy, also when it is the default.
    pub bypass_lockout: Option<bool>,
    /// Whether a second principal has approved this very call, of calls that can wait for that.
    pub approved: Option<bool>,
    /// What a verified token says of the caller of AssumeRoleWithWebIdentity.
    pub web_identity: Option<&'a WebIdentityFacts>,
    /// `sts:ExternalId` of AssumeRole.
    pub external_id: Option<&'a str>,
    /// `sts:RoleSessionName` of AssumeRole.
    pub role_session_name: Option<&'a str>,
    /// `sts:TransitiveTagKeys` of AssumeRole.
    pub transitive_tag_keys: &'a [String],
    /// Tags of the IAM user or role that the call is about.
    pub resource_tags: Option<&'a BTreeMap<String, String>>,
    /// `iam:PolicyARN`: the managed policy that is attached or detached.
    pub policy_arn: Option<&'a str>,
    /// `iam:PermissionsBoundary`: the boundary that a user or role has, or will have.
    pub permissions_boundary: Option<&'a str>,
    /// `kms:PrimaryRegion` of UpdatePrimaryRegion.
    pub primary_region: Option<&'a str>,
    /// `kms:ReplicaRegion` of ReplicateKey.
    pub replica_region: Option<&'a str>,
    /// `kms:ViaService`: the service that makes the request for the caller, such as `ec2.eu-central-1.amazonaws.com`.
    pub via_service: Option<&'a str>,
    /// The resource on whose behalf a service makes the request: `aws:SourceArn`.
    pub source_arn: Option<&'a str>,
    /// On CreateGrant the grant to be, on RetireGrant the one to go.
    pub grant: Option<GrantFacts<'a>>,
    /// The key, or on CreateKey the key to be.
    pub key: Option<KeyFacts<'a>>,
}

/// What conditions may ask about a token of an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebIdentityFacts {
    /// The provider's name, by which its condition keys begin: `issuer.example.org/tenant`.
    pub issuer: String,
    /// `<issuer>:aud`.
    pub audience: String,
    /// `<issuer>:sub`.
    pub subject: String,
    /// `<issuer>:amr`.
    pub amr: Vec<String>,
}

/// What conditions may ask about a grant.
#[derive(Clone, Copy, Debug)]
pub struct GrantFacts<'a> {
    /// Whom it is for.
    pub grantee: &'a str,
    /// Who may retire it.
    pub retiring: Option<&'a str>,
    /// What it permits.
    pub terms: &'a GrantTerms,
}

impl<'a> GrantFacts<'a> {
    /// The circumstances of a call about this grant: conditions on an encryption context look at its constraint.
    pub fn context(self) -> Context<'a> {
        let pairs = self.terms.constraints.encryption_context().map(|(_, pairs)| pairs);
        Context { encryption_context: pairs, grant: Some(self), ..Context::default() }
    }
}

/// What conditions may ask about a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyFacts<'a> {
    /// `SYMMETRIC_DEFAULT`.
    pub spec: &'a str,
    /// `ENCRYPT_DECRYPT`.
    pub usage: &'a str,
    /// `AWS_KMS`.
    pub origin: &'a str,
    /// Whether it is a multi-Region key.
    pub multi_region: bool,
    /// `PRIMARY` or `REPLICA`; none for a key of one region.
    pub multi_region_key_type: Option<&'a str>,
    /// The key's tags; none on CreateKey.
    pub tags: Option<&'a BTreeMap<String, String>>,
    /// Names (`alias/...`) of all aliases of the key.
    pub aliases: &'a [String],
}
