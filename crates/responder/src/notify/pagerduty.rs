//! PagerDuty Events v2: one alert an incident, triggered, acknowledged and resolved under one `dedup_key`.
//!
//! 202 is the only success; 400 is never sent again, 429 and 5xx are. The routing key is a secret: it is put into the
//! body at delivery and is in no row of the store. The daily sign of life is a change event, which calls nobody.

use crate::incident::IncidentState;
use crate::notify::http::{self, Outbound};
use crate::notify::queue::Notice;
use crate::notify::receivers::{Kind, PagerDutySettings, ReceiverError};
use crate::notify::render::{Message, Story, clean, short, time};
use crate::notify::{Channel, DeliveryError, egress::Egress};
use crate::playbook::Severity;
use async_trait::async_trait;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Longest summary and `dedup_key` that PagerDuty takes, in characters.
const SUMMARY_CHARS_MAX: usize = 1_023;
const KEY_CHARS_MAX: usize = 255;
/// Shortest routing key; PagerDuty's have 32 characters.
const ROUTING_KEY_BYTES_MIN: usize = 20;

/// Sends events.
pub(crate) struct PagerDuty {
    name: String,
    outbound: Outbound,
    change_path: String,
    routing_key: Zeroizing<String>,
}

impl PagerDuty {
    /// Reads the routing key; does not connect.
    pub(crate) fn new(name: &str, settings: &PagerDutySettings, egress: &Egress) -> Result<Self, ReceiverError> {
        let url = egress.url(&settings.url).map_err(http::HttpError::from)?;
        let change_path = format!("{}/change/enqueue", url.path().trim_end_matches("/enqueue"));
        Ok(Self {
            name: name.to_owned(),
            outbound: Outbound::new(&settings.url, settings.timeout, settings.ca_file.as_deref(), egress)?,
            change_path,
            routing_key: http::secret_line(&settings.routing_key_file, ROUTING_KEY_BYTES_MIN)?,
        })
    }

    fn with_key(&self, body: &str) -> Result<(String, bool), DeliveryError> {
        let mut event: Value =
            serde_json::from_str(body).map_err(|_| DeliveryError::Never("the stored event is not JSON".into()))?;
        let is_change = event.get("event_action").is_none();
        event["routing_key"] = Value::String(self.routing_key.to_string());
        Ok((event.to_string(), is_change))
    }
}

#[async_trait]
impl Channel for PagerDuty {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::PagerDuty
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let (event, is_change) = self.with_key(&notice.body)?;
        let answer = if is_change {
            self.outbound.post_beside(&self.change_path, event).await?
        } else {
            self.outbound.post(event, &[]).await?
        };
        if answer.status == 202 { Ok(()) } else { Err(answer.judge()) }
    }
}

/// The event as JSON, without its routing key.
pub(crate) fn body(message: &Message<'_>) -> String {
    let subject = message.subject();
    let summary = clean(subject.trim_start_matches("Re: "), SUMMARY_CHARS_MAX);
    if let Message::Page(page) = message
        && page.heartbeat
    {
        let payload = json!({
            "summary": summary, "timestamp": time(page.at_us), "source": "keytrail",
            "custom_details": details(message),
        });
        return json!({ "payload": payload }).to_string();
    }
    let (action, key) = match message {
        Message::Incident(story) => (action(story), story.thread),
        Message::Page(page) => ("trigger", page.message_id),
    };
    let mut event = json!({ "event_action": action, "dedup_key": clean(key, KEY_CHARS_MAX) });
    if action == "trigger" {
        event["client"] = "Keytrail".into();
        event["payload"] = json!({
            "summary": summary,
            "severity": severity(message.severity()),
            "source": "keytrail",
            "timestamp": time(message.at_us()),
            "custom_details": details(message),
        });
        if let Message::Incident(story) = message {
            let (who, worst) = (story.detail.summary.principal.as_deref(), story.worst());
            event["payload"]["component"] = who.map_or("keys".into(), |arn| clean(short(arn), 100)).into();
            event["payload"]["class"] = worst.map_or("incident".into(), |alert| clean(&alert.rule_id, 80)).into();
        }
        if let Some(link) = message.link() {
            event["links"] = json!([{ "href": link, "text": "Acknowledge" }]);
        }
    }
    event.to_string()
}

/// The parts by their headings, as text: phones show objects within objects as unreadable steps. Programs that want more
/// than words read the webhook.
fn details(message: &Message<'_>) -> Value {
    let mut details = serde_json::Map::new();
    for part in message.parts() {
        let (heading, lines) = match part.heading {
            "" => ("SUMMARY", [message.headline()].into_iter().chain(part.lines).collect::<Vec<_>>()),
            heading => (heading, part.lines),
        };
        let heading = heading.split(" (").next().unwrap_or(heading);
        details.insert(heading.to_lowercase(), lines.join("\n").into());
    }
    Value::Object(details)
}

/// What PagerDuty is to do with its alert.
fn action(story: &Story<'_>) -> &'static str {
    if story.detail.summary.state == IncidentState::Resolved {
        "resolve"
    } else if story.facts.acked_us.is_some() {
        "acknowledge"
    } else {
        "trigger"
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "info",
    }
}
