//! Why an alert was raised, and where to look next: queries with the values filled in, for whoever opens it.
//!
//! They are text for people and for `keytrail sql`; nothing runs them by itself. Values come from events, which strangers
//! wrote: every one is a quoted literal, and a query that would be too long is left out.

use crate::alert::Why;
use crate::lake::schema::events_schema;
use crate::rule::Finding;
use chrono::{DateTime, SecondsFormat};

/// Longest query in bytes.
const QUERY_BYTES_MAX: usize = 2_048;

/// The value and the threshold, of kinds that have them.
pub(super) fn why(finding: &Finding) -> Option<Why> {
    let threshold = finding.rule.header().threshold.as_ref()?;
    let value = finding.row.get(&threshold.column).and_then(serde_json::Value::as_u64)?;
    Some(Why { column: threshold.column.clone(), value, threshold: finding.rule.file.gte? })
}

/// What the entity did meanwhile, the records themselves, and what this rule said before.
pub(super) fn queries(finding: &Finding) -> Vec<String> {
    let schema = events_schema();
    let entity: String = finding
        .group
        .iter()
        .filter(|group| group.name != "log" && schema.column_with_name(&group.name).is_some())
        .filter_map(|group| Some(format!(" AND {} = {}", group.name, literal(group.value.as_deref()?))))
        .collect();
    let log = literal(&finding.log);
    let mut queries = Vec::new();
    if !finding.evidence.is_empty() {
        let (first, last) = (time(finding.first_event_us), time(finding.last_event_us));
        queries.push(format!(
            "SELECT event_time, event_name, principal_arn, key_arn, error_code, source_ip FROM events \
             WHERE log = {log} AND event_time BETWEEN {first} AND {last}{entity} ORDER BY seq"
        ));
        let seqs: Vec<String> = finding.evidence.iter().map(u64::to_string).collect();
        queries.push(format!("SELECT * FROM events WHERE log = {log} AND seq IN ({}) ORDER BY seq", seqs.join(", ")));
    }
    let rule = literal(finding.rule.id());
    queries.push(format!("SELECT created, severity, json FROM alerts WHERE rule_id = {rule} ORDER BY position DESC"));
    queries.retain(|query| query.len() <= QUERY_BYTES_MAX);
    queries
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
    fn a_value_never_becomes_syntax() {
        assert_eq!(literal("a' OR ''='"), "'a'' OR ''''='''");
        assert_eq!(time(1_767_614_400_000_001), "TIMESTAMP '2026-01-05T12:00:00.000001Z'");
    }
}
