//! Microsoft Teams by a Workflows webhook and an Adaptive Card. Its address is the secret, so it comes from a file.
//!
//! Text goes into `TextRun`s, which know no markdown: a principal named `[pay](https://...)` is no link. A workflow
//! answers 202 when it has taken the message. The connectors of before, which told failures in the body of a 200, are gone.

use crate::notify::http::Outbound;
use crate::notify::queue::Notice;
use crate::notify::receivers::{HookSettings, Kind, ReceiverError};
use crate::notify::render::Message;
use crate::notify::{Channel, DeliveryError, egress::Egress, http};
use crate::playbook::Severity;
use async_trait::async_trait;
use serde_json::{Value, json};

/// Text of one card in characters: with its frame the message stays under Teams' 28 KiB.
const CARD_CHARS_MAX: usize = 5_500;

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
    let color = match message.severity() {
        Severity::Critical | Severity::High => "Attention",
        Severity::Medium => "Warning",
        Severity::Low | Severity::Info => "Default",
    };
    let title = json!({ "type": "TextRun", "text": message.subject(), "weight": "Bolder", "color": color });
    let mut rows = vec![json!({ "type": "RichTextBlock", "inlines": [title] })];
    rows.extend(lines(&message.text()));
    let mut card = json!({
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": rows,
        "msteams": { "width": "Full" },
    });
    if let Some(link) = message.link() {
        card["actions"] = json!([{ "type": "Action.OpenUrl", "title": "Acknowledge", "url": link }]);
    }
    let attachment =
        json!({ "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card });
    json!({ "type": "message", "attachments": [attachment] }).to_string()
}

/// A block a line; headings, which are in capitals at the line's start, are bold.
fn lines(text: &str) -> Vec<Value> {
    let mut left = CARD_CHARS_MAX;
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let cut: String = line.chars().take(left).collect();
        left -= cut.chars().count();
        if cut.is_empty() {
            break;
        }
        let heading = line.chars().take(4).all(|c| c.is_ascii_uppercase() || c == ' ') && !line.starts_with(' ');
        let weight = if heading { "Bolder" } else { "Default" };
        let run = json!({ "type": "TextRun", "text": cut.trim_end(), "size": "Small", "weight": weight });
        rows.push(json!({ "type": "RichTextBlock", "inlines": [run], "spacing": "Small" }));
    }
    rows
}
