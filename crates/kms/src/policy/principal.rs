//! The `Principal` element of key policies and trust policies: whom a statement names.
//!
//! Principals are written whole: no wildcards but `*` alone. Services parse, because AWS's policies have them, and match
//! nobody, because no such caller exists here. An identity provider is allowed something only by its ARN.

use super::json::Json;
use super::operator::scalars;
use super::request::{PrincipalContext, PrincipalKind};

/// One entry of a `Principal`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// `*`.
    Everyone,
    /// An account's root ARN or its twelve digits.
    Account(String),
    /// The ARN of a user, role, session or built-in.
    Arn(String),
    /// A unique id such as `AIDA...`.
    UniqueId(String),
    /// The ARN of an identity provider.
    Federated(String),
    /// A service.
    Foreign,
}

/// How closely an entry names a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closeness {
    /// Not at all.
    No,
    /// Through its account only: the account decides by its identity policies.
    Account,
    /// Through its role, or as everyone: its permissions boundary and session policy still limit it.
    Shared,
    /// Itself: as at AWS, nothing but a Deny limits it.
    Direct,
}

/// Reads `"*"` or `{"AWS": [...], "Service": ...}`.
pub(super) fn parse_principals(json: &Json) -> Result<Vec<Principal>, String> {
    let members = match json {
        Json::Scalar(text) if text == "*" => return Ok(vec![Principal::Everyone]),
        Json::Object(members) if !members.is_empty() => members,
        Json::Null | Json::Scalar(_) | Json::List(_) | Json::Object(_) => {
            return Err("Principal is neither \"*\" nor an object with AWS, Service or Federated".into());
        }
    };
    let mut principals = Vec::new();
    for (kind, values) in members {
        let values = scalars(values).filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| format!("Principal {kind} holds no text or list of texts"))?;
        for value in values {
            principals.push(match kind.as_str() {
                "AWS" => parse_aws(value).ok_or_else(|| format!("Principal '{value}' is not valid"))?,
                "Federated" => Principal::Federated(value.to_owned()),
                "Service" => Principal::Foreign,
                _ => return Err(format!("Principal kind '{kind}' is not supported")),
            });
        }
    }
    Ok(principals)
}

fn parse_aws(text: &str) -> Option<Principal> {
    if text == "*" {
        return Some(Principal::Everyone);
    }
    if is_account_id(text) {
        return Some(Principal::Account(text.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("arn:aws:") {
        let (service, rest) = rest.split_once("::")?;
        let (account, resource) = rest.split_once(':')?;
        let plain = !resource.is_empty() && !resource.contains(['*', '?']) && text.len() <= 2048;
        if !matches!(service, "iam" | "sts") || !is_account_id(account) || !plain {
            return None;
        }
        return Some(if service == "iam" && resource == "root" {
            Principal::Account(account.to_owned())
        } else {
            Principal::Arn(text.to_owned())
        });
    }
    let id_like = (16..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && text.starts_with('A');
    id_like.then(|| Principal::UniqueId(text.to_owned()))
}

/// Twelve digits.
pub(super) fn is_account_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

impl Principal {
    /// How this entry names the caller. An account's root user is its account.
    pub(super) fn closeness(&self, caller: &PrincipalContext) -> Closeness {
        match self {
            Self::Everyone => Closeness::Shared,
            Self::Account(account) if *account == caller.account => match caller.kind {
                PrincipalKind::Root => Closeness::Direct,
                PrincipalKind::User | PrincipalKind::Session | PrincipalKind::Federated => Closeness::Account,
            },
            Self::Federated(arn) if caller.kind == PrincipalKind::Federated && *arn == caller.arn => Closeness::Direct,
            Self::Arn(arn) if *arn == caller.arn => Closeness::Direct,
            Self::Arn(arn) if caller.role_arn.as_ref() == Some(arn) => Closeness::Shared,
            Self::UniqueId(id) if *id == caller.user_id => Closeness::Direct,
            // A session's id is its role's, a colon and its name.
            Self::UniqueId(id) if caller.user_id.split_once(':').is_some_and(|(role, _)| role == id) => {
                Closeness::Shared
            }
            Self::Account(_) | Self::Arn(_) | Self::UniqueId(_) | Self::Federated(_) | Self::Foreign => Closeness::No,
        }
    }
}
