//! One POST to a receiver, bounded on every side: no redirect, no proxy, one deadline for all of it, a short answer.
//!
//! What a status means is the same for every receiver (`judge`); what counts as success each channel says itself.
//! Errors are told without the URL, which for some receivers is the secret.

use crate::notify::DeliveryError;
use crate::notify::egress::{Egress, EgressError};
use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, Response, StatusCode, Url, redirect};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// Largest body sent.
pub(crate) const BODY_BYTES_MAX: usize = 512 * 1024;
/// As much of an answer as is read.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Largest file with a secret, an address or certificates.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Why a receiver over HTTP cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address may not be called.
    #[error("receiver's address cannot be used")]
    Address(#[from] EgressError),
    /// A file cannot be read.
    #[error("receiver's file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The secret is too short to be one.
    #[error("receiver's secret {path} has fewer than {min} bytes")]
    ShortSecret {
        /// The file.
        path: PathBuf,
        /// What it must have.
        min: usize,
    },
    /// A certificate cannot be read, or the client cannot be built.
    #[error("receiver's client cannot be built")]
    Client(#[source] reqwest::Error),
}

/// A receiver's address and the client for it.
pub(crate) struct Outbound {
    client: Client,
    url: Url,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    retry_after: Option<Duration>,
    response: Response,
}

impl Outbound {
    pub(crate) fn new(
        url: &str,
        timeout: Duration,
        ca_file: Option<&Path>,
        egress: &Egress,
    ) -> Result<Self, HttpError> {
        let url = egress.url(url)?;
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(egress.resolver(&url))
            .timeout(timeout)
            .connect_timeout(timeout)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("keytrail/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca_file {
            let pem = read(path)?;
            builder = builder.tls_certs_merge(Certificate::from_pem_bundle(&pem).map_err(HttpError::Client)?);
        }
        Ok(Self { client: builder.build().map_err(HttpError::Client)?, url })
    }

    /// Posts to the address itself.
    pub(crate) async fn post(&self, body: String, headers: &[(&str, &str)]) -> Result<Answer, DeliveryError> {
        self.post_to(self.url.clone(), body, headers).await
    }

    /// Posts to another path of the same host.
    pub(crate) async fn post_beside(&self, path: &str, body: String) -> Result<Answer, DeliveryError> {
        let mut url = self.url.clone();
        url.set_path(path);
        self.post_to(url, body, &[]).await
    }

    async fn post_to(&self, url: Url, body: String, headers: &[(&str, &str)]) -> Result<Answer, DeliveryError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(DeliveryError::Never(format!("the body has {} bytes", body.len())));
        }
        let has_type = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let mut request = self.client.post(url).body(body);
        if !has_type {
            request = request.header("Content-Type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.map_err(|error| DeliveryError::Later(told(error)))?;
        let retry_after = retry_after(response.headers());
        Ok(Answer { status: response.status(), retry_after, response })
    }
}

impl Answer {
    /// The first bytes of the answer's body; what does not come in time, or too much, is left.
    pub(crate) async fn body(&mut self) -> String {
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = self.response.chunk().await
        {
            body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]);
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// What a status that is no success means: try again, or never.
    pub(crate) fn judge(&self) -> DeliveryError {
        let status = self.status;
        if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
        {
            return match self.retry_after {
                Some(wait) => DeliveryError::After(status.to_string(), wait),
                None => DeliveryError::Later(status.to_string()),
            };
        }
        if status.is_success() || status.is_informational() {
            // A proxy or another program answers in its place.
            return DeliveryError::Later(format!("{status} is not this receiver's success"));
        }
        DeliveryError::Never(status.to_string())
    }
}

/// Seconds, or a date; at most an hour.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc) - Utc::now()).to_std().ok()?,
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The error with its causes, without the address.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, HttpError> {
    let failed = |source| HttpError::File { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(failed)
}

/// A file's first line, which must not be shorter than `min` bytes.
pub(crate) fn secret_line(path: &Path, min: usize) -> Result<Zeroizing<String>, HttpError> {
    let bytes = read(path)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    match std::str::from_utf8(line) {
        Ok(line) if line.len() >= min => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(HttpError::ShortSecret { path: path.to_owned(), min }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("Fri, 31 Dec 2100 23:59:59 GMT"), Some(RETRY_AFTER_MAX));
        for nothing in ["-1", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", ""] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }
}
