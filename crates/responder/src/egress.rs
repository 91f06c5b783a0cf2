//! What leaves this process over HTTP: a signed POST to an address from the configuration, and nowhere else.
//!
//! Only `https`, or `http` to loopback; redirects are not followed, no proxy is used, and a name that leads to a private,
//! link-local or loopback address is refused unless the configuration lists that network: whoever owns a name, or its DNS,
//! must not make the responder knock at doors inside. The body carries `X-Keytrail-Timestamp` (Unix seconds) and
//! `X-Keytrail-Signature`, `v1=` and the hex HMAC-SHA256 over timestamp, a dot and the body; a receiver refuses old
//! timestamps.

use crate::config::WebhookSettings;
use crate::notify::smtp::is_loopback;
use aws_lc_rs::hmac;
use keytrail_kms::clock::Clock;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, StatusCode, Url, redirect};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Header with the time of sending.
pub const TIMESTAMP_HEADER: &str = "X-Keytrail-Timestamp";
/// Header with the HMAC.
pub const SIGNATURE_HEADER: &str = "X-Keytrail-Signature";
/// Header with the stable id, to drop repeats by.
pub const ID_HEADER: &str = "X-Keytrail-Id";
/// The same under the name that HTTP frameworks know.
pub const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// Shortest secret: less could be guessed from one request.
const SECRET_BYTES_MIN: usize = 16;
/// Largest body sent.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// What of an answer is read; the rest is left on the wire.
pub const REPLY_BYTES_MAX: usize = 4 * 1024;

/// Why an address cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Neither `https://` nor `http://` on loopback.
    #[error("webhook address must be https, or http on loopback")]
    Address,
    /// The address is a number in a network that is not listed.
    #[error("webhook address is private or link-local and not among allow_networks")]
    Private,
    /// `allow_networks` holds something that is no network.
    #[error("allow_networks holds {0}, which is no network")]
    Network(String),
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

/// What a receiver answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// The first [`REPLY_BYTES_MAX`] bytes, as they came.
    pub body: Vec<u8>,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The receiver took it.
    Taken,
    /// Another attempt may succeed.
    Later,
    /// The receiver will never take it.
    Never,
}

impl Reply {
    /// Any 2xx is success; 408, 429 and 5xx are tried again, other answers never.
    pub fn meaning(&self) -> Meaning {
        match self.status {
            status if status.is_success() => Meaning::Taken,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Meaning::Later,
            status if status.is_client_error() || status.is_redirection() => Meaning::Never,
            _ => Meaning::Later,
        }
    }
}

/// Posts to one address.
pub struct SignedPost {
    client: Client,
    url: Url,
    key: hmac::Key,
    clock: Arc<dyn Clock>,
}

impl SignedPost {
    /// Checks the address and reads the secret; does not connect.
    pub fn new(settings: &WebhookSettings, clock: Arc<dyn Clock>) -> Result<Self, WebhookError> {
        let url = Url::parse(&settings.url).map_err(|_| WebhookError::Address)?;
        let host = url.host_str().ok_or(WebhookError::Address)?.trim_matches(['[', ']']).to_owned();
        let to_loopback = is_loopback(&host);
        let allowed = match url.scheme() {
            "https" => true,
            "http" => to_loopback,
            _ => false,
        };
        if !allowed {
            return Err(WebhookError::Address);
        }
        let networks = settings
            .allow_networks
            .iter()
            .map(|text| text.parse::<Network>().map_err(|()| WebhookError::Network(text.clone())));
        let open = OpenNetworks { to_loopback, networks: networks.collect::<Result<_, _>>()? };
        if host.parse().is_ok_and(|address| !open.may_reach(address)) {
            return Err(WebhookError::Private);
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
            .dns_resolver(Arc::new(open))
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("keytrail/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(WebhookError::Client)?;
        Ok(Self { client, url, key: hmac::Key::new(hmac::HMAC_SHA256, secret), clock })
    }

    /// One attempt; the error says what went wrong, without the address, which may hold a token.
    pub async fn send(&self, id: &str, body: &str) -> Result<Reply, SendError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(SendError::Oversized(body.len()));
        }
        let timestamp = (self.clock.now_us() / 1_000_000).to_string();
        let message = [timestamp.as_bytes(), b".", body.as_bytes()].concat();
        let signature = format!("v1={}", hex::encode(hmac::sign(&self.key, &message)));
        let request = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/json")
            .header(ID_HEADER, id)
            .header(IDEMPOTENCY_HEADER, id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, signature)
            .body(body.to_owned());
        let unsent = |error: reqwest::Error| SendError::Unsent(error.without_url().to_string());
        let mut response = request.send().await.map_err(unsent)?;
        let (status, mut body) = (response.status(), Vec::new());
        // A reply that breaks off has still been given: its status decides.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(REPLY_BYTES_MAX - body.len())]);
            if body.len() >= REPLY_BYTES_MAX {
                break;
            }
        }
        Ok(Reply { status, body })
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// More than a receiver should be sent.
    #[error("the body has {0} bytes")]
    Oversized(usize),
    /// No connection, or none that answered in time.
    #[error("{0}")]
    Unsent(String),
}

/// Which addresses a name may lead to.
#[derive(Clone)]
struct OpenNetworks {
    /// The configured host is loopback itself.
    to_loopback: bool,
    networks: Vec<Network>,
}

impl OpenNetworks {
    fn may_reach(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address)
            || (self.to_loopback && address.is_loopback())
            || self.networks.iter().any(|network| network.contains(address))
    }
}

impl Resolve for OpenNetworks {
    fn resolve(&self, name: Name) -> Resolving {
        let open = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let reached: Vec<SocketAddr> = found.filter(|address| open.may_reach(address.ip())).collect();
            if reached.is_empty() {
                return Err("the name leads to no address that may be called".into());
            }
            Ok(Box::new(reached.into_iter()) as Addrs)
        })
    }
}

/// Not loopback, private, link-local, shared, multicast or unspecified.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && (64..128).contains(&second);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || first == 0
                || shared)
        }
        IpAddr::V6(v6) => {
            // An address of NAT64 or 6to4 leads to the one inside it.
            let [first, second, third, .., sixth, seventh] = v6.segments();
            let inside = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
            let embedded = match (first, second) {
                (0x64, 0xff9b) => Some(inside(sixth, seventh)),
                (0x2002, _) => Some(inside(second, third)),
                _ => None,
            };
            !(v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local())
                && embedded.is_none_or(is_public)
        }
    }
}

/// An address and how many of its first bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn contains(&self, other: IpAddr) -> bool {
        let differs = match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (u128::from(one.to_bits() ^ other.to_bits())) << 96,
            (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differs.leading_zeros() >= u32::from(self.bits)
    }
}

impl std::str::FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').ok_or(())?;
        let (address, bits): (IpAddr, u8) = (address.parse().map_err(|_| ())?, bits.parse().map_err(|_| ())?);
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits <= most { Ok(Self { address, bits }) } else { Err(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_kms::clock::FakeClock;
    use std::time::Duration;

    fn post(url: &str, networks: &[&str]) -> Result<SignedPost, WebhookError> {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        std::fs::write(&secret_file, "a secret of thirty-two bytes ...").unwrap();
        let allow_networks = networks.iter().map(|text| (*text).to_owned()).collect();
        let settings =
            WebhookSettings { url: url.into(), secret_file, timeout: Duration::from_secs(5), allow_networks };
        SignedPost::new(&settings, Arc::new(FakeClock::default()))
    }

    #[test]
    fn addresses_inside_are_refused_unless_listed() {
        for url in [
            "https://169.254.169.254/latest",
            "https://10.1.2.3/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://100.64.0.1/",
            "https://0.0.0.0/",
        ] {
            assert!(matches!(post(url, &[]), Err(WebhookError::Private)), "{url}");
        }
        assert!(post("https://10.1.2.3/", &["10.1.0.0/16"]).is_ok());
        assert!(matches!(post("https://10.2.2.3/", &["10.1.0.0/16"]), Err(WebhookError::Private)));
        assert!(post("https://[fd00::1]/", &["fd00::/8"]).is_ok());
        for url in ["https://192.0.2.1/", "https://[2001:db8::1]/", "http://127.0.0.1:1/", "http://[::1]:1/"] {
            assert!(post(url, &[]).is_ok(), "{url}");
        }
        for wrong in ["10.0.0.0", "10.0.0.0/33", "x/8", "/"] {
            assert!(matches!(post("https://192.0.2.1/", &[wrong]), Err(WebhookError::Network(_))), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_called() {
        let open = OpenNetworks { to_loopback: false, networks: vec![] };
        assert!(open.resolve("localhost".parse().unwrap()).await.is_err());
        let open = OpenNetworks { to_loopback: true, networks: vec![] };
        assert!(open.resolve("localhost".parse().unwrap()).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
