//! AWS Signature Version 4 in the `Authorization` header: signing for our client, verifying for our server.
//!
//! Always covers the hash of the body that was really received, whatever `x-amz-content-sha256` claims, and the session
//! token where there is one. Presigned URLs and chunked bodies are refused. `canonical` writes the string both sides hash, `verify` judges
//! a stranger's request; how AWS defines it: "Signature Version 4 signing process" in the IAM user guide.

mod canonical;
#[cfg(test)]
mod signer_tests;
#[cfg(test)]
mod suite_tests;
mod verify;

use aws_lc_rs::{digest, hmac};
use chrono::{DateTime, NaiveDateTime};

use super::credentials::{Credentials, SecretKey};

pub use verify::{AuthError, Verified, Verifier, claimed_access_key_id, claimed_service};

/// The only algorithm spoken.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How far a request's `x-amz-date` may lie from our clock, before or after, in seconds: AWS KMS's five minutes.
pub const CLOCK_SKEW_SECS_MAX: u64 = 300;

const TERMINATOR: &str = "aws4_request";

/// A request as it is signed: what went, or came, over the wire.
#[derive(Clone, Copy)]
pub struct RequestParts<'a> {
    /// Upper-case method.
    pub method: &'a str,
    /// The path as on the request line, still percent-encoded.
    pub path: &'a str,
    /// The query without its `?`; empty when there is none.
    pub query: &'a str,
    /// Lower-case names with their values, in order, repeated when a header is.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> RequestParts<'a> {
    /// The values of one header, in order; `name` in lower case.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(other, _)| *other == name).map(|(_, value)| *value)
    }
}

/// Signs a request: every header given, which must include `host`, and `x-amz-date`. Returns the two headers to add.
pub fn sign(
    credentials: &Credentials,
    parts: &RequestParts<'_>,
    region: &str,
    service: &str,
    now_us: u64,
) -> [(&'static str, String); 2] {
    let stamp = amz_date(now_us);
    let mut headers = parts.headers.to_vec();
    headers.push(("x-amz-date", stamp.as_bytes()));
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let date = &stamp[..8];
    let parts = RequestParts { headers: &headers, ..*parts };
    let canonical = if service == "s3" { canonical::s3_request } else { canonical::request };
    let request_hash = digest::digest(&digest::SHA256, &canonical(&parts, &names));
    let scope = Scope { date, region, service };
    let key = signing_key(&credentials.secret, &scope);
    let signature = hmac::sign(&key, string_to_sign(&stamp, &scope, request_hash.as_ref()).as_bytes());
    let authorization = format!(
        "{ALGORITHM} Credential={}/{date}/{region}/{service}/{TERMINATOR}, SignedHeaders={}, Signature={}",
        credentials.access_key_id,
        names.join(";"),
        hex::encode(signature),
    );
    [("authorization", authorization), ("x-amz-date", stamp)]
}

/// What a signing key is good for, besides its owner.
struct Scope<'a> {
    /// `YYYYMMDD`.
    date: &'a str,
    region: &'a str,
    service: &'a str,
}

fn signing_key(secret: &SecretKey, scope: &Scope<'_>) -> hmac::Key {
    let mut first = zeroize::Zeroizing::new(String::with_capacity(4 + secret.expose().len()));
    first.push_str("AWS4");
    first.push_str(secret.expose());
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
    for step in [scope.date, scope.region, scope.service, TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, step.as_bytes()).as_ref());
    }
    key
}

fn string_to_sign(stamp: &str, scope: &Scope<'_>, request_hash: &[u8]) -> String {
    let Scope { date, region, service } = scope;
    format!("{ALGORITHM}\n{stamp}\n{date}/{region}/{service}/{TERMINATOR}\n{}", hex::encode(request_hash))
}

/// `20260105T120000Z`.
fn amz_date(now_us: u64) -> String {
    let time = i64::try_from(now_us).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default();
    time.format("%Y%m%dT%H%M%SZ").to_string()
}

/// Unix seconds of an `x-amz-date` in exactly the form `20260105T120000Z`, not before 1970.
fn parse_amz_date(text: &str) -> Option<u64> {
    if text.len() != 16 || !text.is_ascii() {
        return None;
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y%m%dT%H%M%SZ").ok()?;
    // The parser allows signs and blanks where digits belong.
    if time.format("%Y%m%dT%H%M%SZ").to_string() != text {
        return None;
    }
    u64::try_from(time.and_utc().timestamp()).ok()
}
