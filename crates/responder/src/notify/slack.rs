//! Slack by an incoming webhook. Its address is the secret, so it comes from a file.
//!
//! All text is `plain_text`: Slack reads neither formatting nor mentions there, so a key named `<!channel>` calls nobody.
//! Webhooks know no threads, so updates say their number. Limits are Slack's: 3,000 characters a section, 50 blocks, and
//! a bound of the whole message that is not documented and was met near 13,200 characters.

use crate::notify::http::Outbound;
use crate::notify::queue::Notice;
use crate::notify::receivers::{HookSettings, Kind, ReceiverError};
use crate::notify::render::{Message, clean};
use crate::notify::{Channel, DeliveryError, egress::Egress, http};
use async_trait::async_trait;
use serde_json::{Value, json};

/// Characters of one section; Slack counts UTF-16, and so do we.
const SECTION_UNITS_MAX: usize = 2_900;
/// Of all sections together; in JSON with escapes this stays under what Slack takes.
const MESSAGE_UNITS_MAX: usize = 9_000;
/// Of the line that notifications show.
const TEXT_CHARS_MAX: usize = 200;

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
    let subject = message.subject();
    let mut blocks: Vec<Value> = sections(&format!("{subject}\n{}", message.text()))
        .into_iter()
        .map(|text| json!({ "type": "section", "text": { "type": "plain_text", "text": text, "emoji": false } }))
        .collect();
    if let Some(link) = message.link() {
        let label = json!({ "type": "plain_text", "text": "Acknowledge", "emoji": false });
        blocks.push(json!({ "type": "actions", "elements": [{ "type": "button", "text": label, "url": link }] }));
    }
    // Shown in notifications only, and read as formatted: its three signs are escaped.
    let line = clean(&subject, TEXT_CHARS_MAX).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    json!({ "text": line, "blocks": blocks, "unfurl_links": false, "unfurl_media": false }).to_string()
}

/// Whole lines in pieces that fit a section; what is beyond the message's bound is left out, and said.
fn sections(text: &str) -> Vec<String> {
    let (mut pieces, mut piece, mut total) = (Vec::new(), String::new(), 0);
    for line in text.lines() {
        let line = cut(line, SECTION_UNITS_MAX);
        let units = units(line) + 1;
        if total + units > MESSAGE_UNITS_MAX {
            piece.push_str("(cut: see keytrail incident show)\n");
            break;
        }
        if self::units(&piece) + units > SECTION_UNITS_MAX {
            pieces.push(std::mem::take(&mut piece));
        }
        piece.push_str(line);
        piece.push('\n');
        total += units;
    }
    if !piece.trim().is_empty() {
        pieces.push(piece);
    }
    pieces
}

fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The longest beginning that fits.
fn cut(text: &str, units_max: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.len_utf16();
        used > units_max
    });
    end.map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_whole_lines_within_slacks_bounds() {
        let text = ["short".to_owned(), "😀".repeat(5_000), "x".repeat(2_000), "y".repeat(2_000)].join("\n");
        let pieces = sections(&text);
        assert!(
            pieces.iter().all(|piece| units(piece) <= 3_000),
            "{:?}",
            pieces.iter().map(|p| units(p)).collect::<Vec<_>>()
        );
        assert!(pieces.iter().any(|piece| piece.contains(&"y".repeat(2_000))));
        let long = sections(&"z\n".repeat(20_000));
        assert!(long.iter().map(|piece| units(piece)).sum::<usize>() < 13_000);
        assert!(long.last().is_some_and(|last| last.ends_with("show)\n")));
    }
}
