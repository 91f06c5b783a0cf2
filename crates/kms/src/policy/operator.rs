//! Condition operators: parsing a `Condition` block.
//!
//! Operators must fit the type of their key and values the operator, or the document is refused: a Deny that silently
//! never applies is worse than an error. What conditions mean: `condition`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, NaiveDateTime};

use super::condition::{Comparison, Condition, Network, Quantifier, Test};
use super::fact::{ConditionKey, Type};
use super::json::Json;
use super::pattern::{ArnTemplate, Template, parse_parts, template};

/// How a document is read: what it may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    /// Whether `${...}` is a variable: policy version 2012-10-17.
    pub(super) variables: bool,
    /// Whether unknown keys and operators refuse the document.
    pub(super) strict: bool,
}

/// Parses `{"StringEquals": {"kms:CallerAccount": "..."}}`.
pub(super) fn parse_block(block: &Json, mode: Mode) -> Result<Vec<Condition>, String> {
    let Json::Object(operators) = block else {
        return Err("Condition is not an object".into());
    };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Json::Object(keys) = keys else {
            return Err(format!("condition operator {operator} does not hold an object"));
        };
        if keys.is_empty() {
            return Err(format!("condition operator {operator} names no key"));
        }
        for (key, values) in keys {
            conditions.push(parse_condition(operator, key, values, mode)?);
        }
    }
    Ok(conditions)
}

fn parse_condition(operator: &str, key_name: &str, values: &Json, mode: Mode) -> Result<Condition, String> {
    let values = scalars(values).ok_or_else(|| format!("condition key {key_name} has no list of values"))?;
    if values.is_empty() {
        return Err(format!("condition key {key_name} has an empty list of values"));
    }
    let text = format!("{operator} {key_name} {}", values.join(" or ")).into_boxed_str();
    let (quantifier, rest) = match operator.split_once(':') {
        Some(("ForAllValues", rest)) => (Some(Quantifier::AllValues), rest),
        Some(("ForAnyValue", rest)) => (Some(Quantifier::AnyValue), rest),
        _ => (None, operator),
    };
    let (name, if_exists) = match rest.strip_suffix("IfExists") {
        Some(name) => (name, true),
        None => (rest, false),
    };
    let key = ConditionKey::parse(key_name);
    let found = operator_named(name).filter(|found| found.kind != Kind::Null || (quantifier.is_none() && !if_exists));
    let (key, found) = match (key, found) {
        (Some(key), Some(found)) => (key, found),
        (None, _) if mode.strict => return Err(format!("condition key '{key_name}' is not supported")),
        (_, None) if mode.strict => return Err(format!("condition operator '{operator}' is not supported")),
        (key, _) => {
            let key = key.unwrap_or(ConditionKey::Unsupported);
            return Ok(Condition { key, quantifier, negated: false, if_exists, test: Test::Unsupported, text });
        }
    };
    if !found.kind.fits(&key) {
        return Err(format!("condition operator '{operator}' does not fit condition key '{key_name}'"));
    }
    let test = found.kind.test(&values, mode.variables)?;
    Ok(Condition { key, quantifier, negated: found.negated, if_exists, test, text })
}

struct Operator {
    kind: Kind,
    negated: bool,
}

/// What an operator compares, without its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text { glob: bool, fold_case: bool },
    Arn,
    Number(Comparison),
    Date(Comparison),
    Bool,
    Binary,
    Address,
    Null,
}

fn operator_named(name: &str) -> Option<Operator> {
    const EQUALS: Kind = Kind::Text { glob: false, fold_case: false };
    const FOLDED: Kind = Kind::Text { glob: false, fold_case: true };
    const LIKE: Kind = Kind::Text { glob: true, fold_case: false };
    let (kind, negated) = match name {
        "StringEquals" => (EQUALS, false),
        "StringNotEquals" => (EQUALS, true),
        "StringEqualsIgnoreCase" => (FOLDED, false),
        "StringNotEqualsIgnoreCase" => (FOLDED, true),
        "StringLike" => (LIKE, false),
        "StringNotLike" => (LIKE, true),
        // AWS gives both names the same meaning.
        "ArnEquals" | "ArnLike" => (Kind::Arn, false),
        "ArnNotEquals" | "ArnNotLike" => (Kind::Arn, true),
        "NumericEquals" => (Kind::Number(Comparison::Equal), false),
        "NumericNotEquals" => (Kind::Number(Comparison::Equal), true),
        "NumericLessThan" => (Kind::Number(Comparison::Less), false),
        "NumericLessThanEquals" => (Kind::Number(Comparison::LessOrEqual), false),
        "NumericGreaterThan" => (Kind::Number(Comparison::Greater), false),
        "NumericGreaterThanEquals" => (Kind::Number(Comparison::GreaterOrEqual), false),
        "DateEquals" => (Kind::Date(Comparison::Equal), false),
        "DateNotEquals" => (Kind::Date(Comparison::Equal), true),
        "DateLessThan" => (Kind::Date(Comparison::Less), false),
        "DateLessThanEquals" => (Kind::Date(Comparison::LessOrEqual), false),
        "DateGreaterThan" => (Kind::Date(Comparison::Greater), false),
        "DateGreaterThanEquals" => (Kind::Date(Comparison::GreaterOrEqual), false),
        "Bool" => (Kind::Bool, false),
        "BinaryEquals" => (Kind::Binary, false),
        "IpAddress" => (Kind::Address, false),
        "NotIpAddress" => (Kind::Address, true),
        "Null" => (Kind::Null, false),
        _ => return None,
    };
    Some(Operator { kind, negated })
}

impl Kind {
    fn fits(self, key: &ConditionKey) -> bool {
        let value_type = key.value_type();
        match self {
            // CIDR blocks in a string comparison would never match.
            Self::Text { .. } => value_type != Type::Address,
            Self::Arn => value_type == Type::Arn,
            Self::Number(_) => matches!(value_type, Type::Number | Type::Epoch),
            Self::Date(_) => matches!(value_type, Type::Date | Type::Epoch),
            Self::Bool => value_type == Type::Bool,
            Self::Binary => value_type == Type::Text,
            Self::Address => value_type == Type::Address,
            Self::Null => true,
        }
    }

    fn test(self, values: &[&str], variables: bool) -> Result<Test, String> {
        Ok(match self {
            Self::Text { glob, fold_case } => {
                let templates = all(values, "text", |value| {
                    let value = if fold_case { lower_outside_variables(value) } else { value.to_owned() };
                    parse_parts(&value, glob, variables).map(template)
                })?;
                if fold_case && templates.iter().any(Template::has_variables) {
                    return Err("policy variables in case-insensitive operators are not supported".into());
                }
                Test::Text { templates, fold_case }
            }
            Self::Arn => Test::Arn(all(values, "ARN", |value| ArnTemplate::parse(value, variables))?),
            Self::Number(comparison) => Test::Number(comparison, all_some(values, "a number", number)?),
            Self::Date(comparison) => Test::Date(comparison, all_some(values, "a date", date_secs)?),
            Self::Bool => Test::Bool(all_some(values, "true or false", boolean)?),
            Self::Binary => Test::Binary(all_some(values, "base64", |value| STANDARD.decode(value).ok())?),
            Self::Address => Test::Address(all_some(values, "an address or CIDR block", Network::parse)?),
            Self::Null => Test::Null(all_some(values, "true or false", boolean)?),
        })
    }
}

fn all<T>(values: &[&str], what: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let parsed =
        values.iter().map(|value| parse(value).map_err(|reason| format!("condition value ({what}): {reason}")));
    parsed.collect()
}

fn all_some<T>(values: &[&str], what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let parsed =
        values.iter().map(|value| parse(value).ok_or_else(|| format!("condition value '{value}' is not {what}")));
    parsed.collect()
}

fn lower_outside_variables(value: &str) -> String {
    // With a variable inside the operator is refused anyway; without one this is the whole value.
    if value.contains("${") { value.to_owned() } else { value.to_lowercase() }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Unix seconds of `2026-01-05T12:00:00Z`, with an offset, to the minute or to the day; or a count of seconds itself.
fn date_secs(text: &str) -> Option<i64> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() > 4 {
        return text.parse().ok();
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp());
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%MZ") {
        return Some(time.and_utc().timestamp());
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp())
}

/// A string, number or boolean, or a list of them.
pub(super) fn scalars(json: &Json) -> Option<Vec<&str>> {
    match json {
        Json::Scalar(text) => Some(vec![text]),
        Json::List(items) => {
            items.iter().map(|item| if let Json::Scalar(text) = item { Some(text.as_str()) } else { None }).collect()
        }
        Json::Null | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_all_their_forms() {
        for (text, want) in [
            ("2026-01-05T12:00:00Z", Some(1_767_614_400)),
            ("2026-01-05T13:00:00+01:00", Some(1_767_614_400)),
            ("2026-01-05T12:00Z", Some(1_767_614_400)),
            ("2026-01-05", Some(1_767_571_200)),
            ("1767614400", Some(1_767_614_400)),
            ("noon", None),
            ("", None),
        ] {
            assert_eq!(date_secs(text), want, "{text}");
        }
    }
}
