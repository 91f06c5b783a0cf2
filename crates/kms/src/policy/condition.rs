//! Conditions: whether one holds for a request, and whether it ties the caller to somebody.
//!
//! Semantics as AWS documents them: an absent key fails a positive operator and satisfies a negated one; `...IfExists`
//! satisfies on absence; `ForAllValues:` holds for no values, `ForAnyValue:` does not. How they are written: `operator`.

use std::net::IpAddr;

use super::fact::{ConditionKey, Fact, Name};
use super::pattern::{ArnTemplate, Template};
use super::request::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One operator on one key with its values.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) key: ConditionKey,
    pub(super) quantifier: Option<Quantifier>,
    /// `StringNotEquals` and the like: holds when no value matches.
    pub(super) negated: bool,
    pub(super) if_exists: bool,
    pub(super) test: Test,
    /// As it was written, for people.
    pub(super) text: Box<str>,
}

/// How a set of values in the request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantifier {
    AllValues,
    AnyValue,
}

/// What one value is compared with; any of the listed ones suffices.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Text {
        templates: Vec<Template>,
        fold_case: bool,
    },
    Arn(Vec<ArnTemplate>),
    Number(Comparison, Vec<f64>),
    /// Unix seconds.
    Date(Comparison, Vec<i64>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<Network>),
    /// True: the key must be absent.
    Null(Vec<bool>),
    /// An operator that we do not know, in a document that is read but not enforced.
    Unsupported,
}

/// Order of numbers and dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A CIDR block; a single address is a block of its full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

impl Condition {
    /// Whether it holds; None when that cannot be told.
    pub(super) fn holds(&self, request: &Request<'_>) -> Option<bool> {
        let fact = self.key.fact(request);
        if let Test::Null(absent_wanted) = &self.test {
            return match fact {
                Fact::Unclear => None,
                fact => Some(absent_wanted.contains(&matches!(fact, Fact::Absent))),
            };
        }
        match (fact, self.quantifier) {
            (Fact::Unclear, _) => None,
            (Fact::Absent, Some(Quantifier::AllValues)) => Some(true),
            (Fact::Absent, Some(Quantifier::AnyValue)) => Some(self.if_exists),
            (Fact::Absent, None) => Some(self.negated || self.if_exists),
            (Fact::Many(values), Some(quantifier)) => {
                let each = values.into_iter().map(|value| {
                    let fact = Fact::Text(value.into());
                    self.test.matches(&fact, request).map(|matched| matched != self.negated)
                });
                match quantifier {
                    Quantifier::AnyValue => any(each),
                    // All hold exactly when none fails.
                    Quantifier::AllValues => any(each.map(|held| held.map(|held| !held))).map(|failed| !failed),
                }
            }
            (Fact::Many(values), None) => {
                let each = values.into_iter().map(|value| self.test.matches(&Fact::Text(value.into()), request));
                any(each).map(|matched| matched != self.negated)
            }
            (fact, _) => self.test.matches(&fact, request).map(|matched| matched != self.negated),
        }
    }
}

impl Test {
    /// Whether any of the listed values fits this one.
    fn matches(&self, fact: &Fact<'_>, request: &Request<'_>) -> Option<bool> {
        match (self, fact) {
            (Self::Text { templates, fold_case }, fact) => {
                let text = fact.as_text()?;
                let text = if *fold_case { text.to_lowercase().into() } else { text };
                any(templates.iter().map(|template| template.matches(&text, request)))
            }
            (Self::Arn(templates), Fact::Text(arn)) => any(templates.iter().map(|t| t.matches(arn, request))),
            (Self::Number(comparison, wanted), Fact::Number(number)) => {
                // Conditions compare days and seconds, far below 2^53.
                #[allow(clippy::cast_precision_loss)]
                let number = *number as f64;
                Some(wanted.iter().any(|wanted| comparison.holds(number.partial_cmp(wanted))))
            }
            (Self::Number(comparison, wanted), Fact::Time(secs)) => {
                #[allow(clippy::cast_precision_loss)]
                let secs = *secs as f64;
                Some(wanted.iter().any(|wanted| comparison.holds(secs.partial_cmp(wanted))))
            }
            (Self::Date(comparison, wanted), Fact::Time(secs)) => {
                Some(wanted.iter().any(|wanted| comparison.holds(Some(secs.cmp(wanted)))))
            }
            (Self::Bool(wanted), Fact::Bool(value)) => Some(wanted.contains(value)),
            (Self::Binary(wanted), Fact::Text(text)) => {
                let bytes = STANDARD.decode(text.as_bytes()).ok();
                Some(bytes.is_some_and(|bytes| wanted.contains(&bytes)))
            }
            (Self::Address(networks), Fact::Address(address)) => {
                Some(networks.iter().any(|network| network.contains(*address)))
            }
            // Parsing pairs operators with keys, so the rest is a test we cannot run.
            (
                Self::Arn(_)
                | Self::Number(..)
                | Self::Date(..)
                | Self::Bool(_)
                | Self::Binary(_)
                | Self::Address(_)
                | Self::Null(_)
                | Self::Unsupported,
                _,
            ) => None,
        }
    }
}

/// True if one is true, else unknown if one is unknown, else false.
fn any(mut results: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let unknown = results.try_fold(false, |unknown, result| match result {
        Some(true) => Err(()),
        Some(false) => Ok(unknown),
        None => Ok(true),
    });
    match unknown {
        Err(()) => Some(true),
        Ok(true) => None,
        Ok(false) => Some(false),
    }
}

impl Comparison {
    fn holds(self, order: Option<std::cmp::Ordering>) -> bool {
        match self {
            Self::Equal => order.is_some_and(|order| order.is_eq()),
            Self::Less => order.is_some_and(|order| order.is_lt()),
            Self::LessOrEqual => order.is_some_and(|order| order.is_le()),
            Self::Greater => order.is_some_and(|order| order.is_gt()),
            Self::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        }
    }
}

impl Network {
    /// `10.0.0.0/8`, `2001:db8::/32`, or one address.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            None => full,
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().ok().filter(|bits| *bits <= full)?,
            Some(_) => return None,
        };
        Some(Self { address, prefix_bits })
    }

    /// Whether an address is in it; never when it is of the other family.
    pub fn contains(&self, other: IpAddr) -> bool {
        let same_head = |a: u128, b: u128, width: u32| {
            let shift = width - self.prefix_bits;
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same_head(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same_head(a.into(), b.into(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl Condition {
    /// Whether a value has a policy variable.
    pub(super) fn has_variables(&self) -> bool {
        match &self.test {
            Test::Text { templates, .. } => templates.iter().any(Template::has_variables),
            Test::Arn(templates) => templates.iter().any(ArnTemplate::has_variables),
            Test::Number(..)
            | Test::Date(..)
            | Test::Bool(_)
            | Test::Binary(_)
            | Test::Address(_)
            | Test::Null(_)
            | Test::Unsupported => false,
        }
    }

    /// Whether it can hold only for callers whom it names: a positive test, on a key that every caller has, for concrete
    /// accounts or principals.
    pub(super) fn is_fence(&self) -> bool {
        !self.negated && !self.if_exists && self.quantifier != Some(Quantifier::AllValues) && self.names_insiders()
    }

    /// Whether it holds for everyone but callers whom it names.
    pub(super) fn holds_for_outsiders(&self) -> bool {
        self.negated && self.quantifier.is_none() && self.names_insiders()
    }

    /// Whether the key identifies the caller and every value is concrete. An address is no identity: everyone behind it
    /// passes. Neither is `kms:ViaService` (every account calls through the same services), nor an encryption context,
    /// which the caller chooses, nor `aws:username`, which any account may hand out.
    fn names_insiders(&self) -> bool {
        let ConditionKey::Plain(name) = self.key else {
            return false;
        };
        let identifies =
            matches!(name, Name::CallerAccount | Name::PrincipalAccount | Name::PrincipalOrgId | Name::UserId);
        match &self.test {
            Test::Text { templates, .. } if identifies => templates.iter().all(Template::is_literal),
            Test::Text { templates, .. } if name == Name::PrincipalArn => {
                templates.iter().all(Template::names_one_account)
            }
            Test::Arn(templates) if name == Name::PrincipalArn => templates.iter().all(ArnTemplate::names_one_account),
            Test::Text { .. }
            | Test::Arn(_)
            | Test::Number(..)
            | Test::Date(..)
            | Test::Bool(_)
            | Test::Binary(_)
            | Test::Address(_)
            | Test::Null(_)
            | Test::Unsupported => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, want) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::/32", "2001:db8::1", true),
            ("::/0", "2001:db8::1", true),
            ("::/0", "1.2.3.4", false),
        ] {
            let network_ = Network::parse(network).unwrap();
            assert_eq!(network_.contains(address.parse().unwrap()), want, "{network} {address}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "ten", "", "::/129"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
