//! HTTP as Amazon SNS posts it, for receivers that were written for a topic: same members, same headers.
//!
//! What SNS does and we cannot is sign with Amazon's certificate: a receiver must know this sender otherwise, by TLS and,
//! with `secret_file`, by the same HMAC headers as the webhook's. `MessageId` is a UUID of the notice and stays the same
//! over repeats, as does the deduplication id among the attributes, so that a receiver can drop what it has seen.

use crate::notify::http::{self, Outbound};
use crate::notify::queue::Notice;
use crate::notify::receivers::{Kind, ReceiverError, SnsSettings};
use crate::notify::render::{Message, clean, time};
use crate::notify::webhook::{SECRET_BYTES_MIN, Signer};
use crate::notify::{Channel, DeliveryError, egress::Egress};
use async_trait::async_trait;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::clock::Clock;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::{Builder, Uuid};

/// Longest subject that SNS knows, in characters, all of them ASCII.
const SUBJECT_CHARS_MAX: usize = 100;

/// Posts notifications.
pub(crate) struct Sns {
    name: String,
    outbound: Outbound,
    topic_arn: String,
    signer: Option<Signer>,
}

impl Sns {
    /// Reads the secret, if there is one; does not connect.
    pub(crate) fn new(
        name: &str,
        settings: &SnsSettings,
        egress: &Egress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ReceiverError> {
        let signer = match &settings.secret_file {
            Some(path) => Some(Signer::new(&http::secret_line(path, SECRET_BYTES_MIN)?, clock)),
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            outbound: Outbound::new(&settings.url, settings.timeout, settings.ca_file.as_deref(), egress)?,
            topic_arn: settings.topic_arn.clone(),
            signer,
        })
    }

    fn body(&self, notice: &Notice) -> Result<(String, Uuid), DeliveryError> {
        let mut post: Value = serde_json::from_str(&notice.body)
            .map_err(|_| DeliveryError::Never("the stored notification is not JSON".into()))?;
        post["TopicArn"] = Value::String(self.topic_arn.clone());
        Ok((post.to_string(), message_uuid(&notice.message_id)))
    }
}

#[async_trait]
impl Channel for Sns {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Sns
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let (body, id) = self.body(notice)?;
        let id = id.to_string();
        let signed = self.signer.as_ref().map(|signer| signer.headers(&notice.message_id, &body));
        let mut headers = vec![
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("x-amz-sns-message-type", "Notification"),
            ("x-amz-sns-message-id", id.as_str()),
            ("x-amz-sns-topic-arn", self.topic_arn.as_str()),
        ];
        headers.extend(signed.iter().flatten().map(|(name, value)| (*name, value.as_str())));
        let answer = self.outbound.post(body, &headers).await?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.judge()) }
    }
}

/// The notification as JSON, without its topic.
pub(crate) fn body(message: &Message<'_>) -> String {
    let ascii: String = message.subject().chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect();
    let attribute = |value: &str| json!({ "Type": "String", "Value": value });
    json!({
        "Type": "Notification",
        "MessageId": message_uuid(message.message_id()).to_string(),
        "TopicArn": "",
        "Subject": clean(&ascii, SUBJECT_CHARS_MAX - 1).replace('…', "~"),
        "Message": message.payload().to_string(),
        "Timestamp": time(message.at_us()),
        "MessageAttributes": {
            "severity": attribute(message.severity().as_str()),
            "MessageDeduplicationId": attribute(message.message_id()),
        },
    })
    .to_string()
}

/// A UUID (version 8) of the first bytes of the id's SHA-256.
fn message_uuid(message_id: &str) -> Uuid {
    let digest = sha256(&[message_id.as_bytes()]);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}
