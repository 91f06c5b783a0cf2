//! One webhook: a POST of the notice's JSON, signed with a shared secret.
//!
//! `X-Keytrail-Timestamp` holds Unix seconds, `X-Keytrail-Signature` is `v1=` and the hex HMAC-SHA256 over timestamp, a
//! dot and the body; a receiver refuses old timestamps. Redirects are not followed and no proxy is used, so a receiver
//! cannot send us elsewhere; of its answer only the status is read.

use crate::config::WebhookSettings;
use crate::notify::queue::Notice;
use crate::notify::smtp::is_loopback;
use crate::notify::{Channel, DeliveryError};
use async_trait::async_trait;
use aws_lc_rs::hmac;
use keytrail_kms::clock::Clock;
use reqwest::{Client, StatusCode, Url, redirect};
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Header with the time of sending.
pub const TIMESTAMP_HEADER: &str = "X-Keytrail-Timestamp";
/// Header with the HMAC.
pub const SIGNATURE_HEADER: &str = "X-Keytrail-Signature";
/// Header with the notice's stable id, to drop repeats by.
pub const ID_HEADER: &str = "X-Keytrail-Id";
/// Shortest secret: less could be guessed from one request.
const SECRET_BYTES_MIN: usize = 16;
/// Largest body sent.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Why the webhook cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Neither `https://` nor `http://` on loopback.
    #[error("webhook address must be https, or http on loopback")]
    Address,
    /// The secret file cannot be read.
    #[error("webhook secret {path} cannot be read")]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Too short.
    #[error("webhook secret has fewer than {SECRET_BYTES_MIN} bytes")]
    ShortSecret,
    /// The HTTP client cannot be built.
    #[error("webhook client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// Posts notices.
pub struct Webhook {
    client: Client,
    url: Url,
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl Webhook {
    /// Checks the address and reads the secret; does not connect.
    pub fn new(settings: &WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, WebhookError> {
        let url = Url::parse(&settings.url).map_err(|_| WebhookError::Address)?;
        let allowed = match url.scheme() {
            "https" => true,
            "http" => url.host_str().is_some_and(is_loopback),
            _ => false,
        };
        if !allowed {
            return Err(WebhookError::Address);
        }
        let path = settings.secret_file.clone();
        let file = std::fs::read(&path).map_err(|source| WebhookError::Secret { path, source })?;
        let secret = Zeroizing::new(file);
        let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
        if secret.len() < SECRET_BYTES_MIN {
            return Err(WebhookError::ShortSecret);
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("keytrail/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self { client, url, key: hmac::Key::new(hmac::HMAC_SHA256, secret), clock })
    }

    fn signature(&self, timestamp: &str, body: &str) -> String {
        let message = [timestamp.as_bytes(), b".", body.as_bytes()].concat();
        format!("v1={}", hex::encode(hmac::sign(&self.key, &message)))
    }
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        if notice.body.len() > BODY_BYTES_MAX {
            return Err(DeliveryError::Never(format!("the body has {} bytes", notice.body.len())));
        }
        let timestamp = (self.clock.now_us() / 1_000_000).to_string();
        let signature = self.signature(&timestamp, &notice.body);
        let request = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/json")
            .header(ID_HEADER, &notice.message_id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, signature)
            .body(notice.body.clone());
        // Without its address: it may hold a token.
        let response = request.send().await.map_err(|error| DeliveryError::Later(error.without_url().to_string()))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
                Err(DeliveryError::Later(status.to_string()))
            }
            status if status.is_client_error() || status.is_redirection() => {
                Err(DeliveryError::Never(status.to_string()))
            }
            status => Err(DeliveryError::Later(status.to_string())),
        }
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

    fn webhook(url: &str) -> Result<Webhook, WebhookError> {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, [SECRET, b"\n"].concat()).unwrap();
        let settings = WebhookSettings { url: url.into(), secret_file, timeout: Duration::from_secs(5) };
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
