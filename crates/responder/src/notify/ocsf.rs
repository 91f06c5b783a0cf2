//! Notices as OCSF 1.8.0 for a SIEM: an incident as Incident Finding (class 2005), pages and signs of life as Detection
//! Finding (class 2004). What OCSF has no member for is below `unmapped.keytrail`, in the webhook's form.

use crate::incident::IncidentState;
use crate::notify::render::{Message, Page, Story, clean};
use crate::playbook::Severity;
use crate::store::Micros;
use serde_json::{Value, json};

const VERSION: &str = "1.8.0";
/// Alerts and observables told of one incident.
const ITEMS_MAX: usize = 50;

/// The finding.
pub(crate) fn finding(message: &Message<'_>) -> Value {
    let mut finding = match message {
        Message::Incident(story) => incident(story),
        Message::Page(page) => detection(page),
    };
    let (severity_id, severity) = severity(message.severity());
    finding["severity_id"] = severity_id.into();
    finding["severity"] = severity.into();
    finding["category_uid"] = 2.into();
    finding["category_name"] = "Findings".into();
    finding["time"] = millis(message.at_us()).into();
    finding["message"] = clean(&message.headline(), 300).into();
    finding["metadata"] = metadata(message);
    finding["unmapped"] = json!({ "keytrail": message.payload() });
    finding
}

fn incident(story: &Story<'_>) -> Value {
    let (detail, summary) = (story.detail, &story.detail.summary);
    let (activity, activity_name) = match (summary.state, story.number) {
        (IncidentState::Resolved, _) => (3, "Close"),
        (_, 1) => (1, "Create"),
        _ => (2, "Update"),
    };
    let (status, status_name) = match (summary.state, story.facts.acked_us) {
        (IncidentState::Resolved, _) => (4, "Resolved"),
        (_, Some(_)) => (2, "In Progress"),
        _ => (1, "New"),
    };
    let findings = detail.alerts.iter().take(ITEMS_MAX).map(|alert| {
        json!({
            "uid": alert.alert_id,
            "title": clean(&alert.title, 200),
            "desc": story.facts.why.get(&alert.alert_id),
            "analytic": {
                "type_id": 1, "type": "Rule", "name": clean(&alert.rule_id, 100), "uid": clean(&alert.rule_id, 100),
                "version": alert.rule_version.to_string(),
            },
            "first_seen_time": millis(alert.first_event_us),
            "created_time": millis(alert.detected_us),
            "related_events_count": alert.matched,
        })
    });
    let findings: Vec<Value> = findings.map(without_nulls).collect();
    let principal = summary.principal.iter().map(|arn| ("principal", 99, "ARN", arn));
    let keys = detail.keys.iter().map(|arn| ("key", 10, "Resource UID", arn));
    let observables: Vec<Value> = principal
        .chain(keys)
        .take(ITEMS_MAX)
        .map(|(name, type_id, kind, value)| {
            json!({ "name": name, "type_id": type_id, "type": kind, "value": clean(value, 300) })
        })
        .collect();
    json!({
        "class_uid": 2005, "class_name": "Incident Finding",
        "activity_id": activity, "activity_name": activity_name,
        "type_uid": 200_500 + activity, "type_name": format!("Incident Finding: {activity_name}"),
        "status_id": status, "status": status_name,
        "start_time": millis(summary.first_event_us), "end_time": millis(summary.last_event_us),
        // OCSF wants somebody; who acknowledged it is the incident's business.
        "assignee_group": { "name": "unassigned" },
        "finding_info_list": findings,
        "observables": observables,
    })
}

fn detection(page: &Page<'_>) -> Value {
    let title = clean(page.kind, 60);
    json!({
        "class_uid": 2004, "class_name": "Detection Finding",
        "activity_id": 1, "activity_name": "Create", "type_uid": 200_401, "type_name": "Detection Finding: Create",
        "status_id": 1, "status": "New",
        "finding_info": { "uid": page.message_id, "title": title, "desc": clean(page.text, 1_000) },
    })
}

fn metadata(message: &Message<'_>) -> Value {
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": "Keytrail", "vendor_name": "Keytrail", "version": env!("CARGO_PKG_VERSION") },
        "uid": message.message_id(),
    });
    let incident = match message {
        Message::Incident(story) => Some(&story.detail.summary.id),
        Message::Page(page) => page.incident,
    };
    if let Some(id) = incident {
        metadata["correlation_uid"] = id.as_str().into();
    }
    metadata
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

fn severity(severity: Severity) -> (u8, &'static str) {
    match severity {
        Severity::Info => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    }
}

fn millis(at_us: Micros) -> i64 {
    at_us / 1_000
}
