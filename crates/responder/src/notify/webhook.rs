//! One webhook: a POST of the notice's JSON, signed with a shared secret.
//!
//! `X-Keytrail-Timestamp` holds Unix seconds, `X-Keytrail-Signature` is `v1=` and the hex HMAC-SHA256 over timestamp, a
//! dot and the body; a receiver refuses old timestamps. Where it may go and how it is called is `http`'s and `egress`'s
//! business; of the answer only the status is read.

use crate::config::WebhookSettings;
use crate::notify::egress::Egress;
use crate::notify::http::{self, Answer, Outbound};
use crate::notify::queue::Notice;
use crate::notify::receivers::{Kind, ReceiverError};
use crate::notify::{Channel, DeliveryError};
use async_trait::async_trait;
use aws_lc_rs::hmac;
use keytrail_kms::clock::Clock;
use std::sync::Arc;

/// Header with the time of sending.
pub const TIMESTAMP_HEADER: &str = "X-Keytrail-Timestamp";
/// Header with the HMAC.
pub const SIGNATURE_HEADER: &str = "X-Keytrail-Signature";
/// Header with the notice's stable id, to drop repeats by.
pub const ID_HEADER: &str = "X-Keytrail-Id";
/// The same id under the name that HTTP frameworks know.
pub const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// Shortest secret: less could be guessed from one request.
pub(crate) const SECRET_BYTES_MIN: usize = 16;

/// Posts notices.
pub struct Webhook {
    name: String,
    outbound: Outbound,
    signer: Signer,
}

impl Webhook {
    /// Checks the address and reads the secret; does not connect.
    pub(crate) fn new(
        name: &str,
        settings: &WebhookSettings,
        egress: &Egress,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ReceiverError> {
        let path = settings.secret_file.clone();
        let file = http::read(&path)?;
        let secret = file.strip_suffix(b"\n").unwrap_or(&file);
        if secret.len() < SECRET_BYTES_MIN {
            return Err(http::HttpError::ShortSecret { path, min: SECRET_BYTES_MIN }.into());
        }
        let outbound = Outbound::new(&settings.url, settings.timeout, settings.ca_file.as_deref(), egress)?;
        let signer = Signer { key: hmac::Key::new(hmac::HMAC_SHA256, secret), clock };
        Ok(Self { name: name.to_owned(), outbound, signer })
    }
}

impl Webhook {
    /// One attempt with a body of any kind; the receiver drops repeats by `id`.
    pub(crate) async fn post(&self, id: &str, body: &str) -> Result<Answer, DeliveryError> {
        let signed = self.signer.headers(id, body);
        let mut headers: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push((IDEMPOTENCY_HEADER, id));
        self.outbound.post(body.to_owned(), &headers).await
    }
}

/// Signs a body and the time of sending.
pub(crate) struct Signer {
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl Signer {
    pub(crate) fn new(secret: &str, clock: Arc<dyn Clock>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), clock }
    }

    /// The three headers.
    pub(crate) fn headers(&self, message_id: &str, body: &str) -> [(&'static str, String); 3] {
        let timestamp = (self.clock.now_us() / 1_000_000).to_string();
        let signed = [timestamp.as_bytes(), b".", body.as_bytes()].concat();
        let signature = format!("v1={}", hex::encode(hmac::sign(&self.key, &signed)));
        [(ID_HEADER, message_id.to_owned()), (TIMESTAMP_HEADER, timestamp), (SIGNATURE_HEADER, signature)]
    }
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Webhook
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let answer = self.post(&notice.message_id, &notice.body).await?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.judge()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{HttpSink, notice};
    use keytrail_kms::clock::FakeClock;
    use std::time::Duration;

    const SECRET: &[u8] = b"a secret of thirty-two bytes ...";

    fn webhook(url: &str) -> Result<Webhook, ReceiverError> {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, [SECRET, b"\n"].concat()).unwrap();
        let settings = WebhookSettings { url: url.into(), secret_file, ca_file: None, timeout: Duration::from_secs(5) };
        Webhook::new("webhook", &settings, &Egress::default(), Arc::new(FakeClock::default()))
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        assert!(webhook("http://127.0.0.1:1/x").is_ok());
        assert!(webhook("https://hooks.example.org/x").is_ok());
        for url in ["http://hooks.example.org/x", "ftp://127.0.0.1/", "nonsense", "https://169.254.169.254/"] {
            assert!(matches!(webhook(url), Err(ReceiverError::Http(http::HttpError::Address(_)))), "{url}");
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
                Err(DeliveryError::Later(_) | DeliveryError::After(..)) => assert!(later, "{status}"),
                Err(DeliveryError::Never(_)) => assert!(!later, "{status}"),
                Ok(()) => panic!("{status} was taken for a success"),
            }
        }
        assert_eq!(sink.requests().len(), 5);
    }
}
