//! Pages past the store: the sign of life of `keytrail notices test`, and what somebody else has to tell while the
//! responder does not run. Each delivery is tried once, and told whether it was taken. Writes nothing to the store.

use crate::config::Settings;
use crate::notify::DeliveryError;
use crate::notify::queue::Notice;
use crate::notify::receivers::ReceiverError;
use crate::notify::render::{Message, Page};
use crate::store::Micros;
use keytrail_kms::clock::Clock;
use std::sync::Arc;

const TEXT: &str =
    "This is a test of the way to you, asked for by an operator. Nothing happened and nothing is to be done.";

/// What became of one delivery.
#[derive(Debug)]
pub struct Probe {
    /// The receiver's name.
    pub receiver: String,
    /// The address, of receivers that have several.
    pub recipient: String,
    /// Whether it was taken.
    pub result: Result<(), DeliveryError>,
}

/// Tries the receiver of this name, or all of them, once each.
pub async fn probe(
    settings: &Settings,
    name: Option<&str>,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Probe>, ReceiverError> {
    send(settings, name, ("test", TEXT, true), clock).await
}

/// Pages all receivers, once each. `kind` goes into the subject and the message id.
pub async fn page(
    settings: &Settings,
    kind: &str,
    text: &str,
    clock: Arc<dyn Clock>,
) -> Result<Vec<Probe>, ReceiverError> {
    send(settings, None, (kind, text, false), clock).await
}

async fn send(
    settings: &Settings,
    name: Option<&str>,
    (kind, text, heartbeat): (&str, &str, bool),
    clock: Arc<dyn Clock>,
) -> Result<Vec<Probe>, ReceiverError> {
    let now_us = Micros::try_from(clock.now_us()).unwrap_or(Micros::MAX);
    let mut probes = Vec::new();
    for channel in settings.channels(&clock)? {
        if name.is_some_and(|name| name != channel.name()) {
            continue;
        }
        let message_id = format!("{kind}.{now_us}.{}@keytrail.invalid", channel.name());
        let message =
            Message::Page(Page { incident: None, kind, text, message_id: &message_id, at_us: now_us, heartbeat });
        let mut recipients = channel.recipients();
        if recipients.is_empty() {
            recipients.push(String::new());
        }
        for recipient in recipients {
            let notice = Notice {
                row: 0,
                incident: None,
                channel: channel.name().to_owned(),
                recipient: recipient.clone(),
                number: 0,
                message_id: message_id.clone(),
                in_reply_to: None,
                subject: message.subject(),
                body: channel.kind().body(&message),
                attempts: 0,
                created_us: now_us,
            };
            let result = channel.deliver(&notice).await;
            probes.push(Probe { receiver: notice.channel, recipient, result });
        }
    }
    Ok(probes)
}
