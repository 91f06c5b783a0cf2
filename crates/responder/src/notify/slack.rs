//! Slack by an incoming webhook. Its address is the secret, so it comes from a file.
//!
//! Text is in `plain_text` or in the runs of `rich_text`: Slack reads neither formatting nor mentions there, so a key named
//! `<!channel>` calls nobody. Webhooks know no threads, so updates say their number. A message's bound is not documented
//! and was met near 13,200 characters: lines are cut, so that all of them fit and none is left out.

use crate::notify::http::Outbound;
use crate::notify::queue::Notice;
use crate::notify::receivers::{HookSettings, Kind, ReceiverError};
use crate::notify::render::{Message, Part, clean, cut_json};
use crate::notify::{Channel, DeliveryError, egress::Egress, http};
use async_trait::async_trait;
use serde_json::{Value, json};

/// Bytes of one line: 36 lines and four to copy then stay below what Slack takes, headings and frame included.
const LINE_BYTES_MAX: usize = 200;
/// Of one above the headings, which may be all that a page says.
const FIRST_BYTES_MAX: usize = 1_200;
const CODE_BYTES_MAX: usize = 700;
/// Of the line that notifications show, and of the header, which takes 150.
const TEXT_CHARS_MAX: usize = 200;
const HEADER_CHARS_MAX: usize = 140;

/// Posts to an incoming webhook.
pub(crate) struct Slack {
    name: String,
    outbound: Outbound,
}

impl Slack {
    /// Reads the address; does not connect.
    pub(crate) fn new(name: &str, settings: &HookSettings, egress: &Egress) -> Result<Self, ReceiverError> {
        let url = http::secret_line(&settings.url_file, 1)?;
        let outbound = Outbound::new(&url, settings.timeout, settings.ca_file.as_deref(), egress)?;
        Ok(Self { name: name.to_owned(), outbound })
    }
}

#[async_trait]
impl Channel for Slack {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Slack
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let mut answer = self.outbound.post(notice.body.clone(), &[]).await?;
        if answer.status != 200 {
            return Err(answer.judge());
        }
        // Slack has answered 200 with an error in the body: only this word is a success.
        match answer.body().await.trim() {
            "ok" => Ok(()),
            other => Err(DeliveryError::Later(format!("slack answered 200 and {:?}", clean(other, 100)))),
        }
    }
}

/// The message as JSON.
pub(crate) fn body(message: &Message<'_>) -> String {
    let headline = cut_json(&message.headline(), HEADER_CHARS_MAX);
    let mut blocks = vec![json!({ "type": "header", "text": plain(&headline) })];
    for part in message.parts() {
        blocks.push(block(&part));
        // Below what happened, not below the queries: it is the first thing to do.
        if part.heading.is_empty()
            && let Some(link) = message.link()
        {
            let button = json!({ "type": "button", "text": plain("Acknowledge"), "url": link });
            blocks.push(json!({ "type": "actions", "elements": [button] }));
        }
    }
    blocks.retain(|block| block["elements"].as_array().is_none_or(|elements| !elements.is_empty()));
    // Shown in notifications only, and read as formatted: its three signs are escaped.
    let line = clean(&message.subject(), TEXT_CHARS_MAX);
    let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": line, "blocks": blocks, "unfurl_links": false, "unfurl_media": false }).to_string()
}

fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

/// A heading, and lines below it; each line to copy in a box of its own.
fn block(part: &Part) -> Value {
    let mut elements = Vec::new();
    let mut runs = Vec::new();
    if !part.heading.is_empty() {
        runs.push(json!({ "type": "text", "text": part.heading, "style": { "bold": true } }));
    }
    if !part.code && !part.lines.is_empty() {
        let most = if part.heading.is_empty() { FIRST_BYTES_MAX } else { LINE_BYTES_MAX };
        let lines: Vec<String> = part.lines.iter().map(|line| cut_json(line, most)).collect();
        let start = if runs.is_empty() { "" } else { "\n" };
        runs.push(json!({ "type": "text", "text": format!("{start}{}", lines.join("\n")) }));
    }
    if !runs.is_empty() {
        elements.push(json!({ "type": "rich_text_section", "elements": runs }));
    }
    for line in part.lines.iter().filter(|_| part.code) {
        let run = json!({ "type": "text", "text": cut_json(line, CODE_BYTES_MAX) });
        elements.push(json!({ "type": "rich_text_preformatted", "elements": [run] }));
    }
    json!({ "type": "rich_text", "elements": elements })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::render::Occasion;
    use crate::testing::{hostile_detail, hostile_facts, story};

    #[test]
    fn the_fullest_message_stays_within_what_slack_takes() {
        for sign in ["\"", "\\", "😀", "漢", "x"] {
            let (mut detail, mut facts) = (hostile_detail(30), hostile_facts(30));
            let long = sign.repeat(5_000);
            detail.summary.principal = Some(long.clone());
            detail.summary.not_contained = Some(long.clone());
            detail.alerts.iter_mut().for_each(|alert| alert.title.clone_from(&long));
            detail.actions.iter_mut().for_each(|action| {
                (action.target, action.reason) = (long.clone(), Some(long.clone()));
            });
            facts.failing.iter_mut().for_each(|one| one.principal.clone_from(&long));
            facts.queries = vec![long; 3];
            let body = body(&Message::Incident(story(&detail, &facts, 2, Occasion::Rescue)));
            let units: usize = body.chars().map(char::len_utf16).sum();
            assert!(units <= 13_000, "{units} of {sign}");
            assert!(body.contains(&format!("keytrail incident undo --data DIR {}", detail.summary.id)));
        }
    }
}
