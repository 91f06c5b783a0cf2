//! The KMS's actions by name, and action patterns.
//!
//! Names of all of AWS's KMS actions are here, also of those not served yet: whether a policy is open to everyone must
//! not depend on what this version implements.

use super::pattern::Pattern;

/// Every action of AWS KMS, without the `kms:` prefix; true marks those that may reach into another account.
pub const KMS_ACTIONS: [(&str, bool); 56] = [
    ("CancelKeyDeletion", false),
    ("ConnectCustomKeyStore", false),
    ("CreateAlias", false),
    ("CreateCustomKeyStore", false),
    ("CreateGrant", true),
    ("CreateKey", false),
    ("Decrypt", true),
    ("DeleteAlias", false),
    ("DeleteCustomKeyStore", false),
    ("DeleteImportedKeyMaterial", false),
    ("DeriveSharedSecret", true),
    ("DescribeCustomKeyStores", false),
    ("DescribeKey", true),
    ("DisableKey", false),
    ("DisableKeyRotation", false),
    ("DisconnectCustomKeyStore", false),
    ("EnableKey", false),
    ("EnableKeyRotation", false),
    ("Encrypt", true),
    ("GenerateDataKey", true),
    ("GenerateDataKeyPair", true),
    ("GenerateDataKeyPairWithoutPlaintext", true),
    ("GenerateDataKeyWithoutPlaintext", true),
    ("GenerateMac", true),
    ("GenerateRandom", false),
    ("GetKeyLastUsage", false),
    ("GetKeyPolicy", false),
    ("GetKeyRotationStatus", true),
    ("GetParametersForImport", false),
    ("GetPublicKey", true),
    ("ImportKeyMaterial", false),
    ("ListAliases", false),
    ("ListGrants", true),
    ("ListKeyPolicies", false),
    ("ListKeyRotations", false),
    ("ListKeys", false),
    ("ListResourceTags", false),
    ("ListRetirableGrants", false),
    ("PutKeyPolicy", false),
    ("ReEncryptFrom", true),
    ("ReEncryptTo", true),
    ("ReplicateKey", false),
    ("RetireGrant", true),
    ("RevokeGrant", true),
    ("RotateKeyOnDemand", false),
    ("ScheduleKeyDeletion", false),
    ("Sign", true),
    ("SynchronizeMultiRegionKey", false),
    ("TagResource", false),
    ("UntagResource", false),
    ("UpdateAlias", false),
    ("UpdateCustomKeyStore", false),
    ("UpdateKeyDescription", false),
    ("UpdatePrimaryRegion", false),
    ("Verify", true),
    ("VerifyMac", true),
];

/// Whether `kms:<Name>` may be allowed to a caller of another account. Assuming a role may, too: roles are made for it.
pub fn is_cross_account_capable(action: &str) -> bool {
    let Some((prefix, name)) = action.split_once(':') else {
        return false;
    };
    if prefix.eq_ignore_ascii_case("sts") {
        return matches!(name, "AssumeRole" | "TagSession");
    }
    prefix.eq_ignore_ascii_case("kms") && KMS_ACTIONS.iter().any(|(other, capable)| *capable && *other == name)
}

/// Compiles `*`, `service:Name` or `service:Na*e`; None when it is none of these.
pub(super) fn action_pattern(text: &str) -> Option<Pattern> {
    if text == "*" || text == "*:*" {
        return Some(Pattern::Any);
    }
    let (service, name) = text.split_once(':')?;
    let service_ok = !service.is_empty() && service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let name_ok = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"*?".contains(&b));
    (service_ok && name_ok).then(|| Pattern::glob(&text.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_answers() {
        assert!(KMS_ACTIONS.is_sorted());
        assert!(is_cross_account_capable("kms:Decrypt"));
        assert!(!is_cross_account_capable("kms:PutKeyPolicy"));
        assert!(!is_cross_account_capable("s3:Decrypt"));
        assert!(is_cross_account_capable("sts:AssumeRole") && !is_cross_account_capable("sts:GetSessionToken"));
    }

    #[test]
    fn patterns_match_without_case() {
        let matches = |pattern, action: &str| action_pattern(pattern).map(|p| p.matches(&action.to_ascii_lowercase()));
        assert_eq!(matches("kms:Dec*", "kms:Decrypt"), Some(true));
        assert_eq!(matches("KMS:decrypt", "kms:Decrypt"), Some(true));
        assert_eq!(matches("kms:*Key?olicy", "kms:PutKeyPolicy"), Some(true));
        assert_eq!(matches("kms:Dec", "kms:Decrypt"), Some(false));
        assert_eq!(matches("*", "kms:Decrypt"), Some(true));
        for wrong in ["", "kms", "kms:", ":Decrypt", "k*:Decrypt", "kms:De crypt", "kms:${aws:username}"] {
            assert_eq!(matches(wrong, "kms:Decrypt"), None, "{wrong}");
        }
    }
}
