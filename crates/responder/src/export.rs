//! An incident for other systems: OCSF Incident Finding (class 2005 of version 1.8.0), and its timeline as CSV.
//!
//! A mapping for convenience: what OCSF has no place for rides along in `unmapped`. Nothing of it is believed by anyone
//! here again. Texts come from events and people: they are cut, and a cell that a spreadsheet would take for a formula
//! begins with an apostrophe.

use crate::incident::{IncidentDetail, IncidentState};
use crate::notify::render::{action_json, clean};
use crate::playbook::Severity;
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};

/// Of the schema.
const VERSION: &str = "1.8.0";
const CLASS: u32 = 2005;
/// Alerts, keys and actions in one finding.
const ITEMS_MAX: usize = 1_000;

/// The incident as one Incident Finding.
pub fn ocsf(detail: &IncidentDetail) -> Value {
    let summary = &detail.summary;
    let closed = summary.state == IncidentState::Resolved;
    let (activity_id, activity) = if closed { (3, "Close") } else { (2, "Update") };
    let (status_id, status) = match summary.state {
        IncidentState::Open | IncidentState::Reopened => (1, "New"),
        IncidentState::Acknowledged | IncidentState::Contained => (2, "In Progress"),
        IncidentState::Resolved => (5, "Closed"),
    };
    let (severity_id, severity) = severity(summary.severity);
    let mut finding = json!({
        "activity_id": activity_id, "activity_name": activity, "category_uid": 2, "category_name": "Findings",
        "class_uid": CLASS, "class_name": "Incident Finding", "type_uid": CLASS * 100 + activity_id,
        "type_name": format!("Incident Finding: {activity}"),
        "time": summary.changed_us / 1_000, "start_time": summary.first_event_us / 1_000,
        "end_time": summary.last_event_us / 1_000,
        "severity_id": severity_id, "severity": severity, "status_id": status_id, "status": status,
        "status_detail": summary.resolution.as_deref().unwrap_or(summary.state.as_str()),
        "message": clean(&summary.title, 300),
        "metadata": {
            "version": VERSION, "uid": summary.id.as_str(),
            "product": { "name": "Keytrail", "vendor_name": "Keytrail", "version": env!("CARGO_PKG_VERSION") },
        },
        "finding_info_list": findings(detail),
        "observables": observables(detail),
        "unmapped": unmapped(detail),
    });
    if let Some((verdict_id, verdict)) = summary.resolution.as_deref().map(verdict) {
        finding["verdict_id"] = verdict_id.into();
        finding["verdict"] = verdict.into();
    }
    // The schema wants somebody.
    match &summary.assignee {
        Some(name) => finding["assignee"] = json!({ "name": clean(name, 100) }),
        None => finding["assignee_group"] = json!({ "name": "unassigned" }),
    }
    finding
}

fn findings(detail: &IncidentDetail) -> Vec<Value> {
    let alerts = detail.alerts.iter().take(ITEMS_MAX).map(|alert| {
        json!({
            "uid": alert.alert_id, "title": clean(&alert.title, 300),
            "created_time": alert.detected_us / 1_000, "first_seen_time": alert.first_event_us / 1_000,
            "related_events_count": alert.matched,
            "analytic": {
                "type_id": 1, "type": "Rule", "name": alert.rule_id, "uid": alert.rule_id,
                "version": alert.rule_version.to_string(),
            },
        })
    });
    alerts.collect()
}

fn observables(detail: &IncidentDetail) -> Vec<Value> {
    let keys = detail
        .keys
        .iter()
        .take(ITEMS_MAX)
        .map(|key| json!({ "name": "key", "type_id": 10, "type": "Resource UID", "value": clean(key, 300) }));
    let principal = detail
        .summary
        .principal
        .iter()
        .map(|arn| json!({ "name": "principal", "type_id": 10, "type": "Resource UID", "value": clean(arn, 300) }));
    principal.chain(keys).collect()
}

fn unmapped(detail: &IncidentDetail) -> Value {
    let summary = &detail.summary;
    let actions: Vec<Value> = detail.actions.iter().take(ITEMS_MAX).map(action_json).collect();
    json!({
        "state": summary.state.as_str(), "containedAt": summary.contained_us.map(time),
        "notContained": summary.not_contained, "acknowledgedBy": summary.acknowledged_by,
        "resolvedBy": summary.resolved_by, "mergedInto": summary.merged_into, "reopenings": summary.reopenings,
        "exposure": detail.exposure, "actions": actions,
    })
}

fn severity(severity: Severity) -> (u32, &'static str) {
    match severity.as_str() {
        "critical" => (5, "Critical"),
        "high" => (4, "High"),
        "medium" => (3, "Medium"),
        "low" => (2, "Low"),
        _ => (1, "Informational"),
    }
}

fn verdict(resolution: &str) -> (u32, &'static str) {
    match resolution {
        "true_positive_contained" => (2, "True Positive"),
        "false_positive" => (1, "False Positive"),
        "benign" | "authorised_by_owner" => (5, "Benign"),
        "test" => (6, "Test"),
        "merged" => (10, "Duplicate"),
        _ => (0, "Unknown"),
    }
}

/// The timeline, RFC 4180: a line for each entry in order, with what its digest is over.
pub fn timeline_csv(detail: &IncidentDetail) -> String {
    let mut text = String::from("incident,number,at,at_micros,kind,text,digest\r\n");
    for entry in &detail.timeline {
        let (number, at_us) = (entry.number.to_string(), entry.at_us.to_string());
        let fields =
            [entry.incident.as_str(), &number, &time(entry.at_us), &at_us, &entry.kind, &entry.text, &entry.digest];
        let cells: Vec<String> = fields.into_iter().map(cell).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn cell(field: &str) -> String {
    // Numbers of ours may be negative; nothing else of ours begins so.
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']) && field.parse::<i64>().is_err();
    let quoted = field.replace('"', "\"\"");
    if formula { format!("\"'{quoted}\"") } else { format!("\"{quoted}\"") }
}

fn time(at_us: i64) -> String {
    DateTime::from_timestamp_micros(at_us).unwrap_or(DateTime::UNIX_EPOCH).to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::incident::{IncidentId, TimelineEntry};
    use crate::testing::hostile_detail;

    #[test]
    fn a_cell_is_no_formula_and_keeps_its_quotes() {
        let mut detail = hostile_detail(1);
        let entry = |text: &str| TimelineEntry {
            id: 1,
            incident: IncidentId::new("I-1"),
            at_us: 5,
            kind: "note".into(),
            text: text.into(),
            number: 1,
            digest: "00".into(),
        };
        detail.timeline = vec![entry("=HYPERLINK(\"x\")"), entry("a,b")];
        let csv = timeline_csv(&detail);
        let lines: Vec<&str> = csv.split("\r\n").collect();
        assert!(lines[1].contains("\"'=HYPERLINK(\"\"x\"\")\""), "{csv}");
        assert!(lines[2].contains("\"a,b\",\"00\""), "{csv}");
    }

    #[test]
    fn hostile_text_is_cleaned_in_the_finding() {
        let finding = ocsf(&hostile_detail(3));
        assert_eq!((&finding["class_uid"], &finding["type_uid"]), (&json!(2005), &json!(200_502)));
        assert_eq!(finding["assignee_group"]["name"], "unassigned");
        let text = finding.to_string();
        assert!(!text.contains("\\r") && !text.contains('\u{202e}') && !text.contains("\\u0000"), "{text}");
    }
}
