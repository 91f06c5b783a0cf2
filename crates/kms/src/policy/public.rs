//! Whether a key policy is open to everyone.
//!
//! The same parser and matchers as for decisions, so that every way of writing "anyone" counts: `"*"`, `{"AWS": "*"}`,
//! lists, `NotPrincipal`, `kms:Dec*`, `NotAction`. Condition keys that we do not enforce are read and never count as a
//! fence, so that policies imported from AWS are judged as well.

use super::action::KMS_ACTIONS;
use super::document::{Document, Effect, Flavor, PolicyError, Principals, Statement};
use super::principal::Principal;

/// Whether some KMS action is allowed to principals that the policy does not name.
///
/// A condition fences a statement off when it ties the caller to concrete accounts or principals: `kms:CallerAccount`,
/// `aws:PrincipalAccount`, `aws:PrincipalOrgID`, `aws:userid` or `aws:PrincipalArn` with a concrete account, positive,
/// not `...IfExists`, not `ForAllValues:`. Not fences: `aws:SourceIp` (whoever stands behind the address passes),
/// `kms:ViaService` alone, encryption contexts, tags, dates. A Deny on everyone, or on everyone outside, takes back
/// what it covers. Which key the policy is on is not known: every Allow counts as being about it.
pub fn is_public(policy_text: &str) -> Result<bool, PolicyError> {
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?;
    Ok(KMS_ACTIONS.iter().any(|(name, _)| {
        let action = format!("kms:{}", name.to_ascii_lowercase());
        let covering = || document.statements.iter().filter(|statement| statement.covers_action(&action));
        covering().any(allows_outsiders) && !covering().any(denies_outsiders)
    }))
}

pub(super) fn allows_outsiders(statement: &Statement) -> bool {
    let reaches = match &statement.principals {
        Principals::Attached => false,
        Principals::These(entries) => entries.contains(&Principal::Everyone),
        Principals::AllBut(entries) => !entries.contains(&Principal::Everyone),
    };
    statement.effect == Effect::Allow && reaches && !statement.conditions.iter().any(|condition| condition.is_fence())
}

pub(super) fn denies_outsiders(statement: &Statement) -> bool {
    let reaches = match &statement.principals {
        Principals::Attached => false,
        Principals::These(entries) => entries.contains(&Principal::Everyone),
        // Everyone but those named, who are insiders.
        Principals::AllBut(entries) => !entries.contains(&Principal::Everyone),
    };
    statement.effect == Effect::Deny
        && reaches
        && statement.covers_all_resources()
        && statement.conditions.iter().all(|condition| condition.holds_for_outsiders())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judge(statements: &str) -> bool {
        is_public(&format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#)).unwrap()
    }

    fn allow(principal: &str, action: &str, more: &str) -> String {
        format!(r#"{{"Effect":"Allow",{principal},{action},"Resource":"*"{more}}}"#)
    }

    const ANYONE: &str = r#""Principal":"*""#;
    const DECRYPT: &str = r#""Action":"kms:Decrypt""#;

    #[test]
    fn all_ways_of_saying_anyone() {
        for principal in [
            ANYONE,
            r#""Principal":{"AWS":"*"}"#,
            r#""Principal":{"AWS":["*"]}"#,
            r#""Principal":{"AWS":["arn:aws:iam::111122223333:user/a","*"]}"#,
            r#""NotPrincipal":{"AWS":"arn:aws:iam::111122223333:user/a"}"#,
        ] {
            for action in [
                DECRYPT,
                r#""Action":["kms:DescribeKey"]"#,
                r#""Action":"kms:Dec*""#,
                r#""Action":"kms:*""#,
                r#""Action":"*""#,
                r#""Action":"KMS:DECRYPT""#,
                r#""NotAction":"kms:Encrypt""#,
                r#""NotAction":["s3:*"]"#,
            ] {
                assert!(judge(&allow(principal, action, "")), "{principal} {action}");
            }
        }
    }

    #[test]
    fn named_callers_and_foreign_actions_are_not_public() {
        for (principal, action) in [
            (r#""Principal":{"AWS":"arn:aws:iam::111122223333:root"}"#, r#""Action":"kms:*""#),
            (r#""Principal":{"AWS":"444455556666"}"#, r#""Action":"kms:*""#),
            (r#""Principal":{"Service":"s3.amazonaws.com"}"#, r#""Action":"kms:*""#),
            (r#""NotPrincipal":"*""#, r#""Action":"kms:*""#),
            (ANYONE, r#""Action":"s3:GetObject""#),
            (ANYONE, r#""Action":"kms:NoSuch*""#),
            (ANYONE, r#""NotAction":"kms:*""#),
        ] {
            assert!(!judge(&allow(principal, action, "")), "{principal} {action}");
        }
        assert!(!is_public(&super::super::default_key_policy("111122223333")).unwrap());
    }

    #[test]
    fn fences_and_what_only_looks_like_one() {
        let condition = |text: &str| judge(&allow(ANYONE, DECRYPT, &format!(r#","Condition":{text}"#)));
        for fence in [
            r#"{"StringEquals":{"kms:CallerAccount":"111122223333"}}"#,
            r#"{"StringEquals":{"kms:CallerAccount":"111122223333","kms:ViaService":"s3.us-east-1.amazonaws.com"}}"#,
            r#"{"StringEquals":{"aws:PrincipalAccount":["111122223333","444455556666"]}}"#,
            r#"{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}"#,
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/*"}}"#,
            r#"{"StringLike":{"aws:PrincipalArn":"arn:aws:iam::111122223333:*"}}"#,
            r#"{"ForAnyValue:StringEquals":{"aws:PrincipalOrgID":"o-1"}}"#,
            r#"{"StringLike":{"kms:CallerAccount":"111122223333"},"Bool":{"aws:SecureTransport":"true"}}"#,
        ] {
            assert!(!condition(fence), "{fence}");
        }
        for open in [
            r#"{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}"#,
            r#"{"StringEqualsIfExists":{"kms:CallerAccount":"111122223333"}}"#,
            r#"{"StringNotEquals":{"kms:CallerAccount":"111122223333"}}"#,
            r#"{"StringLike":{"kms:CallerAccount":"*"}}"#,
            r#"{"StringLike":{"kms:CallerAccount":["111122223333","4*"]}}"#,
            r#"{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/app"}}"#,
            r#"{"StringLike":{"aws:PrincipalArn":"arn:aws:iam::*"}}"#,
            r#"{"StringLike":{"aws:PrincipalArn":"arn:aws:iam::1111*"}}"#,
            r#"{"StringEquals":{"aws:PrincipalAccount":"${aws:PrincipalAccount}"}}"#,
            r#"{"ForAllValues:StringEquals":{"aws:PrincipalOrgID":"o-1"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"203.0.113.0/24"}}"#,
            r#"{"StringEquals":{"kms:EncryptionContext:app":"x"}}"#,
            r#"{"StringEquals":{"aws:SourceVpce":"vpce-1"}}"#,
            r#"{"StringSomething":{"kms:CallerAccount":"111122223333"}}"#,
            r#"{"Null":{"aws:PrincipalOrgID":"false"}}"#,
        ] {
            assert!(condition(open), "{open}");
        }
    }

    #[test]
    fn a_deny_on_outsiders_takes_it_back() {
        let open = allow(ANYONE, r#""Action":["kms:Decrypt","kms:Encrypt"]"#, "");
        let outside = r#","Condition":{"StringNotEquals":{"aws:PrincipalAccount":"111122223333"}}"#;
        let deny = |action: &str, more: &str| allow(ANYONE, action, more).replace("Allow", "Deny");
        assert!(!judge(&format!("{open},{}", deny(r#""Action":"kms:*""#, outside))));
        assert!(!judge(&format!("{open},{}", deny(r#""Action":"*""#, ""))));
        assert!(judge(&format!("{open},{}", deny(DECRYPT, outside))));
        let night = r#","Condition":{"DateLessThan":{"aws:CurrentTime":"2026-01-01"}}"#;
        assert!(judge(&format!("{open},{}", deny(r#""Action":"kms:*""#, night))));
    }

    #[test]
    fn broken_documents_are_errors() {
        for text in ["", "{}", "[]", "null", r#"{"Statement":[]}"#, r#"{"Statement":{},"Statement":{}}"#] {
            assert!(is_public(text).is_err(), "{text}");
        }
    }
}
