//! Why an alert was raised, and where to look next: queries with the values filled in, for whoever opens it.
//!
//! They are text for people and for `keytrail sql`; nothing runs them by itself. Values come from events, which strangers
//! wrote: every one is a quoted literal, and a query that would be too long is left out.

use crate::alert::{Why, WhyStep};
use crate::lake::schema::events_schema;
use crate::rule::{Finding, RuleKind, row};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

/// Longest query in bytes.
const QUERY_BYTES_MAX: usize = 2_048;

/// Most columns of a row that are told, and characters of each.
const VALUES_MAX: usize = 8;
const VALUE_CHARS_MAX: usize = 128;

/// Longest sentence, in characters.
const TEXT_CHARS_MAX: usize = 500;

const HOUR_US: i64 = 3_600 * 1_000_000;

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Why the finding is one; `known`: how many keys a first_seen rule knows.
pub(super) fn why(finding: &Finding, known: Option<u64>) -> Why {
    let mut why = match finding.rule.kind() {
        RuleKind::Threshold => threshold(finding),
        RuleKind::Baseline => baseline(finding),
        RuleKind::Sequence => sequence(finding),
        RuleKind::FirstSeen => first_seen(finding, known),
        RuleKind::Absence => absence(finding),
        RuleKind::Event | RuleKind::Meta => Why { text: values(finding), ..Why::default() },
        RuleKind::Posture => Why { text: format!("at this moment {}", values(finding)), ..Why::default() },
    };
    why.text = why.text.chars().take(TEXT_CHARS_MAX).collect();
    why
}

fn number(finding: &Finding, column: &str) -> Option<u64> {
    let value = finding.row.get(column)?;
    let rounded = || format!("{:.0}", value.as_f64()?).parse().ok();
    value.as_u64().or_else(rounded)
}

fn threshold(finding: &Finding) -> Why {
    let column = finding.rule.header().threshold.as_ref().map(|threshold| threshold.column.clone());
    let value = column.as_ref().and_then(|column| number(finding, column));
    let threshold = finding.rule.file.gte;
    let text = match (&column, value, threshold, finding.rule.header().window) {
        (Some(column), Some(value), Some(threshold), Some(window)) => {
            let window = humantime_serde::re::humantime::format_duration(window);
            format!("{column} was {value} within {window}; it fires from {threshold} on")
        }
        _ => String::new(),
    };
    Why { column, value, threshold, text, ..Why::default() }
}

fn baseline(finding: &Finding) -> Why {
    let column = finding.rule.header().baseline.as_ref().map(|baseline| baseline.column.clone());
    let value = column.as_ref().and_then(|column| number(finding, column));
    let [threshold, usual_median, usual_high] =
        ["threshold", "usual_median", "usual_high"].map(|name| number(finding, name));
    let usual = match (usual_median, usual_high) {
        (Some(median), Some(high)) => format!("usual are {median}, seldom more than {high}"),
        _ => "it has no past yet".to_owned(),
    };
    let told = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let name = column.as_deref().unwrap_or("the count");
    let text = format!("{name} was {}, the limit of this entity is {}; {usual}", told(value), told(threshold));
    Why { column, value, threshold, usual_median, usual_high, text, ..Why::default() }
}

fn sequence(finding: &Finding) -> Why {
    let steps: Vec<WhyStep> =
        finding.row.get("steps").and_then(|steps| serde_json::from_value(steps.clone()).ok()).unwrap_or_default();
    let told: Vec<String> = steps.iter().map(|step| format!("{} at {}", step.step, step.event_time)).collect();
    Why { text: told.join(", then "), steps, ..Why::default() }
}

fn first_seen(finding: &Finding, known: Option<u64>) -> Why {
    let lowered = finding.rule.lowered.first_seen.as_ref();
    let keys = finding.rule.header().first_seen.as_ref().map(|spec| spec.keys.clone()).unwrap_or_default();
    let named: Vec<String> = keys.iter().map(|key| value_of(finding, key)).collect();
    let history_days = lowered.map(|lowered| (lowered.spec.history_us / DAY_US).unsigned_abs());
    let days = history_days.unwrap_or(0);
    let last_seen = finding.row.get("last_seen").and_then(Value::as_str).map(str::to_owned);
    let text = match &last_seen {
        Some(last_seen) => format!("{} was last seen at {last_seen}, more than {days} days before", named.join(", ")),
        None => {
            let others = known.map(|known| format!("; {known} are known")).unwrap_or_default();
            format!("{} was not seen in the {days} days before{others}", named.join(", "))
        }
    };
    Why { known, history_days, last_seen, text, ..Why::default() }
}

fn absence(finding: &Finding) -> Why {
    let due = finding.row.get("due").and_then(Value::as_str).map(str::to_owned);
    let last_seen = Some(row::time_text(finding.first_event_us));
    let text = format!(
        "expected by {}, and did not come; what made it due was at {}",
        due.as_deref().unwrap_or("?"),
        last_seen.as_deref().unwrap_or("?")
    );
    Why { due, last_seen, text, ..Why::default() }
}

/// What the row says, without what is long.
fn values(finding: &Finding) -> String {
    let short = finding.row.iter().filter(|(_, value)| !value.is_null() && !value.is_object());
    let told: Vec<String> = short.take(VALUES_MAX).map(|(name, _)| value_of(finding, name)).collect();
    told.join(", ")
}

fn value_of(finding: &Finding, column: &str) -> String {
    let value = match finding.row.get(column) {
        Some(Value::String(text)) => text.chars().take(VALUE_CHARS_MAX).collect(),
        Some(value) => value.to_string().chars().take(VALUE_CHARS_MAX).collect(),
        None => "?".to_owned(),
    };
    format!("{column} = {value}")
}

/// What the entity did meanwhile, the records themselves, and what this rule said before.
pub(super) fn queries(finding: &Finding) -> Vec<String> {
    let schema = events_schema();
    let entity: String = finding
        .group
        .iter()
        .filter(|group| group.name != "log" && schema.column_with_name(&group.name).is_some())
        .filter_map(|group| Some(condition(&group.name, group.value.as_deref()?)))
        .collect();
    let log = literal(&finding.log);
    let rule = literal(finding.rule.id());
    let mut queries = Vec::new();
    let (first, last) = (time(finding.first_event_us.saturating_sub(HOUR_US)), time(finding.last_event_us));
    if finding.evidence.is_empty() {
        let about = finding.row.get("entity").and_then(Value::as_str).map(literal);
        let about = about.map(|name| format!(" AND {name} IN (principal_arn, key_arn)")).unwrap_or(entity.clone());
        queries.push(format!(
            "SELECT event_time, event_name, principal_arn, key_arn, error_code, source_ip FROM events \
             WHERE log = {log} AND event_time BETWEEN {first} AND {last}{about} ORDER BY seq"
        ));
        queries.push(match finding.row.get("entity").and_then(Value::as_str).map(literal) {
            Some(name) => format!("SELECT * FROM risk WHERE entity = {name} ORDER BY event_time DESC"),
            None => format!("SELECT * FROM rule_runs WHERE rule_id = {rule} ORDER BY minute DESC"),
        });
    }
    if !finding.evidence.is_empty() {
        let (first, last) = (time(finding.first_event_us), time(finding.last_event_us));
        queries.push(others(finding).unwrap_or_else(|| {
            format!(
                "SELECT event_time, event_name, principal_arn, key_arn, error_code, source_ip FROM events \
                 WHERE log = {log} AND event_time BETWEEN {first} AND {last}{entity} ORDER BY seq"
            )
        }));
        let seqs: Vec<String> = finding.evidence.iter().map(u64::to_string).collect();
        queries.push(format!("SELECT * FROM events WHERE log = {log} AND seq IN ({}) ORDER BY seq", seqs.join(", ")));
    }
    queries.push(format!("SELECT created, severity, json FROM alerts WHERE rule_id = {rule} ORDER BY position DESC"));
    queries.retain(|query| query.len() <= QUERY_BYTES_MAX);
    queries
}

/// Of a sequence whose steps are not one principal's: who did what with the key within its time. It keeps one record a
/// step, and whoever else used a key that goes depends on it, too.
fn others(finding: &Finding) -> Option<String> {
    let sequence = finding.rule.file.sequence.as_ref().filter(|sequence| sequence.by == ["key_arn"])?;
    let key = condition("key_arn", finding.row.get("key_arn")?.as_str()?);
    let within_us = i64::try_from(sequence.within.as_micros()).unwrap_or(i64::MAX);
    let (first, last) = (time(finding.last_event_us.saturating_sub(within_us)), time(finding.last_event_us));
    Some(format!(
        "SELECT principal_arn, event_name, count(*) AS calls, max(event_time) AS newest FROM events \
         WHERE log = {} AND event_time BETWEEN {first} AND {last}{key} AND error_code IS NULL GROUP BY 1, 2 ORDER BY newest DESC",
        literal(&finding.log)
    ))
}

/// That a record is of this entity: events name a role by its sessions.
fn condition(column: &str, value: &str) -> String {
    let column = match column {
        "principal_arn" if value.contains(":role/") => "arn_role(principal_arn)",
        column => column,
    };
    format!(" AND {column} = {}", literal(value))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn time(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    format!("TIMESTAMP '{}'", time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_asked_for_by_its_sessions() {
        let (user, role) = ("arn:aws:iam::111122223333:user/ann", "arn:aws:iam::111122223333:role/app");
        assert_eq!(condition("principal_arn", user), format!(" AND principal_arn = '{user}'"));
        assert_eq!(condition("principal_arn", role), format!(" AND arn_role(principal_arn) = '{role}'"));
        assert_eq!(condition("event_name", "a:role/b"), " AND event_name = 'a:role/b'");
    }

    #[test]
    fn a_value_never_becomes_syntax() {
        assert_eq!(literal("a' OR ''='"), "'a'' OR ''''='''");
        assert_eq!(time(1_767_614_400_000_001), "TIMESTAMP '2026-01-05T12:00:00.000001Z'");
    }
}
