//! Microsoft Teams by a Workflows webhook and an Adaptive Card. Its address is the secret, so it comes from a file.
//!
//! Text goes into `TextRun`s, which know no markdown: a principal named `[pay](https://...)` is no link. A workflow
//! answers 202 when it has taken the message. The connectors of before, which told failures in the body of a 200, are gone.

use crate::incident::IncidentState;
use crate::notify::http::Outbound;
use crate::notify::queue::Notice;
use crate::notify::receivers::{HookSettings, Kind, ReceiverError};
use crate::notify::render::{Message, Part, cut_json};
use crate::notify::{Channel, DeliveryError, egress::Egress, http};
use crate::playbook::Severity;
use async_trait::async_trait;
use serde_json::{Value, json};

/// Bytes of one line: 36 lines and four to copy then stay under Teams' 28 KiB, a frame around each line included.
const LINE_BYTES_MAX: usize = 300;
/// Of one above the headings, which may be all that a page says.
const FIRST_BYTES_MAX: usize = 1_200;
const CODE_BYTES_MAX: usize = 800;

/// Posts to a workflow.
pub(crate) struct Teams {
    name: String,
    outbound: Outbound,
}

impl Teams {
    /// Reads the address; does not connect.
    pub(crate) fn new(name: &str, settings: &HookSettings, egress: &Egress) -> Result<Self, ReceiverError> {
        let url = http::secret_line(&settings.url_file, 1)?;
        let outbound = Outbound::new(&url, settings.timeout, settings.ca_file.as_deref(), egress)?;
        Ok(Self { name: name.to_owned(), outbound })
    }
}

#[async_trait]
impl Channel for Teams {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Teams
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let answer = self.outbound.post(notice.body.clone(), &[]).await?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.judge()) }
    }
}

/// The message with its one card, as JSON.
pub(crate) fn body(message: &Message<'_>) -> String {
    let over = matches!(message, Message::Incident(story) if story.detail.summary.state == IncidentState::Resolved);
    let color = match message.severity() {
        _ if over => "Good",
        Severity::Critical | Severity::High => "Attention",
        Severity::Medium => "Warning",
        Severity::Low | Severity::Info => "Default",
    };
    let title = json!({
        "type": "TextRun", "text": cut_json(&message.headline(), LINE_BYTES_MAX),
        "size": "Medium", "weight": "Bolder", "color": color,
    });
    let mut rows = vec![row(title, false)];
    for part in message.parts() {
        rows.extend(part_rows(&part));
        // Below what happened, not at the card's end: it is the first thing to do.
        if part.heading.is_empty()
            && let Some(link) = message.link()
        {
            let button = json!({ "type": "Action.OpenUrl", "title": "Acknowledge", "url": link });
            rows.push(json!({ "type": "ActionSet", "actions": [button] }));
        }
    }
    let card = json!({
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": rows,
        "msteams": { "width": "Full" },
    });
    let attachment =
        json!({ "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card });
    json!({ "type": "message", "attachments": [attachment] }).to_string()
}

/// A block a line; the heading apart from what is above it, what is to be copied in one width.
fn part_rows(part: &Part) -> Vec<Value> {
    let heading = json!({ "type": "TextRun", "text": part.heading, "weight": "Bolder" });
    let heading = (!part.heading.is_empty()).then(|| row(heading, true));
    let most = if part.heading.is_empty() { FIRST_BYTES_MAX } else { LINE_BYTES_MAX };
    let line = |line: &String| {
        let run = match part.code {
            true => json!({
                "type": "TextRun", "text": cut_json(line, CODE_BYTES_MAX), "size": "Small", "fontType": "Monospace",
            }),
            false => json!({ "type": "TextRun", "text": cut_json(line, most) }),
        };
        row(run, false)
    };
    heading.into_iter().chain(part.lines.iter().map(line)).collect()
}

fn row(run: Value, apart: bool) -> Value {
    let spacing = if apart { "Medium" } else { "Small" };
    json!({ "type": "RichTextBlock", "inlines": [run], "spacing": spacing })
}
