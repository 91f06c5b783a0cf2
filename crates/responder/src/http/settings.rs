//! `[responder.http]`: where people reach incidents over HTTP.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Longest public address.
const URL_BYTES_MAX: usize = 512;

/// The listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address to listen on; anything but loopback needs `tls`.
    pub listen: SocketAddr,
    /// The address by which people reach it, `https://...`, for the links in mails; without it mails have none.
    #[serde(default)]
    pub public_url: Option<String>,
    /// Certificate and key.
    #[serde(default)]
    pub tls: Option<HttpTls>,
}

/// `[responder.http.tls]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTls {
    /// PEM: the certificate, then those that lead to its authority.
    pub cert_file: PathBuf,
    /// PEM: the private key, not readable by everyone.
    pub key_file: PathBuf,
}

impl HttpSettings {
    /// What is wrong with them, if something is.
    pub fn fault(&self) -> Option<&'static str> {
        if self.tls.is_none() && !self.listen.ip().is_loopback() {
            return Some("responder.http.listen is not a loopback address: that needs responder.http.tls");
        }
        let url = self.public_url.as_deref()?;
        let rest = url.strip_prefix("https://").or_else(|| {
            let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
            local.into_iter().find_map(|prefix| url.strip_prefix(prefix)).map(|_| "local")
        });
        let plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
        (rest.is_none_or(str::is_empty) || !plain || url.len() > URL_BYTES_MAX)
            .then_some("responder.http.public_url is not an https address without query")
    }
}
