//! One webhook: a POST of the notice's JSON, signed with a shared secret; see `egress` for what may be called and how.

use crate::config::WebhookSettings;
use crate::egress::{Meaning, SendError, SignedPost};
use crate::notify::queue::Notice;
use crate::notify::{Channel, DeliveryError};
use async_trait::async_trait;
use keytrail_kms::clock::Clock;
use std::sync::Arc;

pub use crate::egress::WebhookError;

/// Posts notices.
pub struct Webhook(SignedPost);

impl Webhook {
    /// Checks the address and reads the secret; does not connect.
    pub fn new(settings: &WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, WebhookError> {
        SignedPost::new(settings, clock).map(Self)
    }
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let reply = match self.0.send(&notice.message_id, &notice.body).await {
            Ok(reply) => reply,
            Err(error @ SendError::Oversized(_)) => return Err(DeliveryError::Never(error.to_string())),
            Err(error @ SendError::Unsent(_)) => return Err(DeliveryError::Later(error.to_string())),
        };
        match reply.meaning() {
            Meaning::Taken => Ok(()),
            Meaning::Later => Err(DeliveryError::Later(reply.status.to_string())),
            Meaning::Never => Err(DeliveryError::Never(reply.status.to_string())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::egress::{SIGNATURE_HEADER, TIMESTAMP_HEADER};
    use crate::testing::{HttpSink, notice};
    use aws_lc_rs::hmac;
    use keytrail_kms::clock::FakeClock;
    use std::time::Duration;

    const SECRET: &[u8] = b"a secret of thirty-two bytes ...";

    fn webhook(url: &str) -> Result<Webhook, WebhookError> {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, [SECRET, b"\n"].concat()).unwrap();
        let timeout = Duration::from_secs(5);
        let settings = WebhookSettings { url: url.into(), secret_file, timeout, allow_networks: vec![] };
        Webhook::new(&settings, Arc::new(FakeClock::default()))
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        assert!(webhook("http://127.0.0.1:1/x").is_ok());
        assert!(webhook("https://hooks.example.org/x").is_ok());
        for url in ["http://hooks.example.org/x", "ftp://127.0.0.1/", "nonsense"] {
            assert!(matches!(webhook(url), Err(WebhookError::Address)), "{url}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_body_is_signed_and_the_status_decides() {
        let sink = HttpSink::start().await;
        let webhook = webhook(&format!("http://127.0.0.1:{}/hook", sink.port)).unwrap();
        let one = notice("{\"version\":1}");
        webhook.deliver(&one).await.unwrap();
        let request = sink.requests().remove(0);
        let header = |name: &str| {
            let lower = format!("{}: ", name.to_lowercase());
            request.lines().find_map(|line| {
                let (head, value) = line.split_at_checked(lower.len())?;
                (head.to_lowercase() == lower).then(|| value.to_owned())
            })
        };
        let timestamp = header(TIMESTAMP_HEADER).unwrap();
        assert_eq!(timestamp, "1767614400");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let given = hex::decode(header(SIGNATURE_HEADER).unwrap().strip_prefix("v1=").unwrap()).unwrap();
        hmac::verify(&key, format!("{timestamp}.{}", one.body).as_bytes(), &given).unwrap();
        for (status, later) in [("503 Busy", true), ("429 Slow", true), ("400 Bad", false), ("302 Found", false)] {
            sink.answer_with(status);
            match webhook.deliver(&one).await {
                Err(DeliveryError::Later(_)) => assert!(later, "{status}"),
                Err(DeliveryError::Never(_)) => assert!(!later, "{status}"),
                Ok(()) => panic!("{status} was taken for a success"),
            }
        }
        assert_eq!(sink.requests().len(), 5);
    }
}
