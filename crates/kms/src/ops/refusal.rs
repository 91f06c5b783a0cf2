//! Why a call is refused: the AWS exception, what the event says and what the caller may know.

use crate::auth::sigv4::AuthError;
use std::borrow::Cow;

/// Longest message in bytes, in an answer and in an event (CloudTrail's limit).
const MESSAGE_BYTES_MAX: usize = 1_024;

/// The exceptions of the wire, by what they mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalKind {
    /// Policy, quarantine or a built-in's list says no.
    AccessDenied,
    /// No such key, alias or policy.
    NotFound,
    /// The key is disabled.
    Disabled,
    /// The key's state does not allow it.
    InvalidState,
    /// A member breaks the model's constraints.
    Validation,
    /// Not JSON, or members of the wrong type.
    Serialization,
    /// No such operation at AWS.
    UnknownOperation,
    /// AWS has it, this node does not.
    UnsupportedOperation,
    /// The ciphertext or its context is not what was encrypted.
    InvalidCiphertext,
    /// Not a signature of this message by this key.
    InvalidSignatureValue,
    /// Not a MAC of this message under this key.
    InvalidMac,
    /// The named key is not the ciphertext's.
    IncorrectKey,
    /// The algorithm does not fit the key.
    InvalidKeyUsage,
    /// The alias exists.
    AlreadyExists,
    /// Alias names of AWS's own.
    NotAuthorized,
    /// A pagination marker we did not give out.
    InvalidMarker,
    /// Something that events cannot be looked up by.
    InvalidLookupAttributes,
    /// No span of time.
    InvalidTimeRange,
    /// More events than a page has, or none.
    InvalidMaxResults,
    /// Not a page token of this lookup.
    InvalidNextToken,
    /// No category of events.
    InvalidEventCategory,
    /// A quota.
    LimitExceeded,
    /// A policy that is not accepted.
    MalformedPolicy,
    /// Tags that are not accepted.
    Tag,
    /// It would have worked.
    DryRun,
    /// Not the token of a living grant.
    InvalidGrantToken,
    /// Not the id of a living grant.
    InvalidGrantId,
    /// An ARN that names nobody.
    InvalidArn,
    /// Not the material that the key has had, or not of its spec.
    IncorrectKeyMaterial,
    /// An import token past its date.
    ExpiredImportToken,
    /// Not an import token of this key.
    InvalidImportToken,
    /// Something of the kind is under way already.
    Conflict,
    /// No such custom key store.
    CustomKeyStoreNotFound,
    /// Another custom key store has the name.
    CustomKeyStoreNameInUse,
    /// A custom key store with keys in it.
    CustomKeyStoreHasCmks,
    /// The custom key store's connection does not allow it.
    CustomKeyStoreInvalidState,
    /// The configuration has no such cluster.
    CloudHsmClusterNotFound,
    /// Another custom key store has the cluster.
    CloudHsmClusterInUse,
    /// Not the certificate that the configuration has for the cluster.
    IncorrectTrustAnchor,
    /// A token did not answer in time.
    DependencyTimeout,
    /// Too many calls.
    Throttling,
    /// No signature.
    MissingAuthenticationToken,
    /// A signature that cannot be read or covers too little.
    IncompleteSignature,
    /// A wrong, expired or misdirected signature.
    InvalidSignature,
    /// No such access key.
    UnrecognizedClient,
    /// A session that is over.
    ExpiredToken,
    /// A token of an identity provider that is not believed.
    InvalidIdentityToken,
    /// A token of an identity provider that is over.
    ExpiredIdentityToken,
    /// The identity provider's keys cannot be had.
    IdpCommunication,
    /// What a token says is not acceptable.
    IdpRejectedClaim,
    /// A session whose policies and tags are too large.
    PackedPolicyTooLarge,
    /// IAM has nothing of that name.
    NoSuchEntity,
    /// IAM has something of that name.
    EntityAlreadyExists,
    /// Something else still needs it.
    DeleteConflict,
    /// A member that IAM does not take.
    InvalidInput,
    /// Session tags that contradict each other.
    InvalidParameterValue,
    /// Not the codes of the MFA device.
    InvalidAuthenticationCode,
    /// It is defined in identities.toml.
    UnmodifiableEntity,
    /// The body is larger than any request of the service.
    TooLarge,
    /// Our fault, or no room to record the call; worth a retry.
    Internal,
}

impl RefusalKind {
    /// The `__type` of the JSON protocol.
    pub(crate) fn wire_name(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDeniedException",
            Self::NotFound => "NotFoundException",
            Self::Disabled => "DisabledException",
            Self::InvalidState => "KMSInvalidStateException",
            Self::Validation => "ValidationException",
            Self::Serialization => "SerializationException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::UnsupportedOperation => "UnsupportedOperationException",
            Self::InvalidCiphertext => "InvalidCiphertextException",
            Self::InvalidSignatureValue => "KMSInvalidSignatureException",
            Self::InvalidMac => "KMSInvalidMacException",
            Self::IncorrectKey => "IncorrectKeyException",
            Self::InvalidKeyUsage => "InvalidKeyUsageException",
            Self::AlreadyExists => "AlreadyExistsException",
            Self::NotAuthorized => "NotAuthorizedException",
            Self::InvalidMarker => "InvalidMarkerException",
            Self::InvalidLookupAttributes => "InvalidLookupAttributesException",
            Self::InvalidTimeRange => "InvalidTimeRangeException",
            Self::InvalidMaxResults => "InvalidMaxResultsException",
            Self::InvalidNextToken => "InvalidNextTokenException",
            Self::InvalidEventCategory => "InvalidEventCategoryException",
            Self::LimitExceeded => "LimitExceededException",
            Self::MalformedPolicy => "MalformedPolicyDocumentException",
            Self::Tag => "TagException",
            Self::DryRun => "DryRunOperationException",
            Self::InvalidGrantToken => "InvalidGrantTokenException",
            Self::InvalidGrantId => "InvalidGrantIdException",
            Self::InvalidArn => "InvalidArnException",
            Self::IncorrectKeyMaterial => "IncorrectKeyMaterialException",
            Self::ExpiredImportToken => "ExpiredImportTokenException",
            Self::InvalidImportToken => "InvalidImportTokenException",
            Self::Conflict => "ConflictException",
            Self::CustomKeyStoreNotFound => "CustomKeyStoreNotFoundException",
            Self::CustomKeyStoreNameInUse => "CustomKeyStoreNameInUseException",
            Self::CustomKeyStoreHasCmks => "CustomKeyStoreHasCMKsException",
            Self::CustomKeyStoreInvalidState => "CustomKeyStoreInvalidStateException",
            Self::CloudHsmClusterNotFound => "CloudHsmClusterNotFoundException",
            Self::CloudHsmClusterInUse => "CloudHsmClusterInUseException",
            Self::IncorrectTrustAnchor => "IncorrectTrustAnchorException",
            Self::DependencyTimeout => "DependencyTimeoutException",
            Self::Throttling => "ThrottlingException",
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::ExpiredToken | Self::ExpiredIdentityToken => "ExpiredTokenException",
            Self::InvalidIdentityToken => "InvalidIdentityTokenException",
            Self::IdpCommunication => "IDPCommunicationErrorException",
            Self::IdpRejectedClaim => "IDPRejectedClaimException",
            Self::PackedPolicyTooLarge => "PackedPolicyTooLargeException",
            Self::NoSuchEntity => "NoSuchEntityException",
            Self::EntityAlreadyExists => "EntityAlreadyExistsException",
            Self::DeleteConflict => "DeleteConflictException",
            Self::InvalidInput => "InvalidInputException",
            Self::InvalidParameterValue => "InvalidParameterValueException",
            Self::InvalidAuthenticationCode => "InvalidAuthenticationCodeException",
            Self::UnmodifiableEntity => "UnmodifiableEntityException",
            Self::TooLarge => "RequestEntityTooLargeException",
            Self::Internal => "KMSInternalException",
        }
    }

    /// The event's `errorCode`: CloudTrail cuts one name.
    pub(crate) fn event_code(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            other => other.wire_name(),
        }
    }

    /// HTTP status of the JSON protocol: 400 for whatever is the caller's.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::DependencyTimeout => 503,
            Self::TooLarge => 413,
            _ => 400,
        }
    }
}

/// A refused call. The message is safe for the caller and never says which statement decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What.
    pub(crate) kind: RefusalKind,
    /// One sentence; AWS sends none with some exceptions.
    pub(crate) message: Option<Cow<'static, str>>,
}

/// AWS's exception for a signature that does not hold.
impl From<&AuthError> for Refusal {
    fn from(error: &AuthError) -> Self {
        let kind = match error {
            AuthError::MissingToken => RefusalKind::MissingAuthenticationToken,
            AuthError::Incomplete(_) => RefusalKind::IncompleteSignature,
            AuthError::InvalidSignature(_) => RefusalKind::InvalidSignature,
            AuthError::UnknownAccessKey => RefusalKind::UnrecognizedClient,
        };
        Self::new(kind, error.to_string())
    }
}

impl Refusal {
    /// With a sentence, cut to what an event may hold.
    pub(crate) fn new(kind: RefusalKind, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
            message = message[..end].to_owned().into();
        }
        Self { kind, message: Some(message) }
    }

    /// Without a sentence, where AWS sends none.
    pub(crate) fn bare(kind: RefusalKind) -> Self {
        Self { kind, message: None }
    }

    /// A constraint of the model: `value` is echoed as AWS does, so never give it a secret one.
    pub(crate) fn constraint(value: Option<&str>, member: &str, constraint: &str) -> Self {
        let behind = format!(" at '{member}' failed to satisfy constraint: {constraint}");
        let text = match value {
            // What is behind the value must survive the message's limit.
            Some(value) => {
                let before = "1 validation error detected: Value '";
                let room = MESSAGE_BYTES_MAX.saturating_sub(before.len() + "'".len() + behind.len());
                format!("{before}{}'{behind}", &value[..value.floor_char_boundary(room)])
            }
            None => format!("1 validation error detected: Value{behind}"),
        };
        Self::new(RefusalKind::Validation, text)
    }

    /// A required member is missing.
    pub(crate) fn missing(member: &str) -> Self {
        let text = format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
        );
        Self::new(RefusalKind::Validation, text)
    }

    /// The session is over.
    pub(crate) fn expired() -> Self {
        Self::new(RefusalKind::ExpiredToken, "The security token included in the request is expired")
    }

    /// Too many calls, in AWS's words; SDKs try again by themselves.
    pub(crate) fn throttled() -> Self {
        let text = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.";
        Self::new(RefusalKind::Throttling, text)
    }

    /// What a caller learns when the node cannot record or do its call.
    pub(crate) fn internal() -> Self {
        Self::new(RefusalKind::Internal, "The request could not be processed; try again.")
    }

    /// Not JSON, or a member of the wrong type; the parser's own words could quote a secret.
    pub(crate) fn serialization() -> Self {
        Self::new(RefusalKind::Serialization, "The request body is not valid JSON for this operation.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_leaves_room_for_its_constraint() {
        let refusal = Refusal::constraint(
            Some(&"é".repeat(3_000)),
            "keyId",
            "Member must have length less than or equal to 2048",
        );
        let message = refusal.message.unwrap_or_default();
        assert!(message.len() <= 1_024 && message.ends_with("2048"), "{message}");
    }
}
