//! A bucket: lists and reads objects, nothing else.
//!
//! Two calls of S3's REST API, signed by the code that signs our own calls. object_store, which the lake is written
//! through, could do this, but its `aws` feature brings a second cryptographic library (docs/decisions/0029). Credentials,
//! region and endpoint come from AWS's environment variables. Answers are bounded, redirects are not followed, and what
//! may pass by itself is tried again.

use super::source::{FILE_BYTES_MAX, Listing, SourceError, SourceFile};
use keytrail_kms::auth::credentials::{Credentials, SecretKey};
use keytrail_kms::auth::sigv4::{RequestParts, sign};
use keytrail_kms::clock::{Clock, SystemClock};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use std::fmt;
use std::time::Duration;
use tokio::runtime::Handle;

/// All but RFC 3986's unreserved characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest list of objects, of which S3 gives 1,000 at a time.
const LIST_BYTES_MAX: u64 = 16 << 20;

/// Longest answer that says why there is no object.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// SHA-256 of no body.
const NO_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Attempts at a call, and the first pause between two.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// For a connection, and for each part of an answer to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a bucket gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// Not `s3://bucket/prefix`, or a name that no address can hold.
    #[error("{0:?} is not s3://BUCKET/PREFIX, or has a part that is a dot or two")]
    Address(String),
    /// A variable is missing or wrong.
    #[error("environment variable {0} is missing or cannot be used")]
    Variable(&'static str),
    /// No answer.
    #[error("the endpoint does not answer")]
    Transport(#[source] reqwest::Error),
    /// An answer that says no.
    #[error("the endpoint says {status} {code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// S3's name for it.
        code: String,
        /// S3's sentence.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("the endpoint's answer {0}")]
    Answer(&'static str),
}

impl S3Error {
    fn may_pass(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// A prefix of a bucket, and how it is reached.
pub struct Bucket {
    bucket: String,
    prefix: String,
    endpoint: Url,
    host: String,
    region: String,
    credentials: Credentials,
    token: Option<String>,
    http: Client,
    runtime: Handle,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{} at {}", self.bucket, self.prefix, self.endpoint)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    #[serde(default)]
    contents: Vec<Object>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    #[serde(rename = "ETag", default)]
    etag: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refusal {
    code: String,
    message: String,
}

impl Bucket {
    /// The bucket of `address`, reached as `variable` (the environment) says. To be called on a runtime.
    pub fn new(address: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, S3Error> {
        let (bucket, prefix) = split_address(address).ok_or_else(|| S3Error::Address(address.to_owned()))?;
        let given = |name| variable(name).filter(|value| !value.is_empty());
        let region = given("AWS_REGION").or_else(|| given("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
        let access_key_id = given("AWS_ACCESS_KEY_ID").ok_or(S3Error::Variable("AWS_ACCESS_KEY_ID"))?;
        let secret = given("AWS_SECRET_ACCESS_KEY").and_then(|text| SecretKey::new(text).ok());
        let secret = secret.ok_or(S3Error::Variable("AWS_SECRET_ACCESS_KEY"))?;
        let endpoint = given("AWS_ENDPOINT_URL_S3").or_else(|| given("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let endpoint = Url::parse(&endpoint).map_err(|_| S3Error::Variable("AWS_ENDPOINT_URL"))?;
        let name = endpoint.host_str().filter(|_| matches!(endpoint.scheme(), "http" | "https"));
        let name = name.ok_or(S3Error::Variable("AWS_ENDPOINT_URL"))?;
        let host = endpoint.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .user_agent(concat!("keytrail/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(S3Error::Transport)?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            host,
            endpoint,
            region,
            credentials: Credentials { access_key_id, secret },
            token: given("AWS_SESSION_TOKEN"),
            http,
            runtime: Handle::current(),
        })
    }

    /// All log files below the prefix. Not for an async thread.
    pub(super) fn list(&self) -> Result<Listing, SourceError> {
        let mut listing = Listing::default();
        let mut token: Option<String> = None;
        loop {
            let mut query = Vec::new();
            query.extend(token.as_deref().map(|token| format!("continuation-token={}", encoded(token))));
            query.push("encoding-type=url&list-type=2".to_owned());
            query.push(format!("prefix={}", encoded(&self.prefix)));
            let path = format!("/{}", encoded(&self.bucket));
            let bytes = self.get(&path, &query.join("&"), LIST_BYTES_MAX)?.ok_or(S3Error::Answer("is too long"))?;
            let answer: ListAnswer = std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| quick_xml::de::from_str(text).ok())
                .ok_or(S3Error::Answer("is no list of objects"))?;
            for object in answer.contents {
                // Names are encoded as in a form: a blank is a plus.
                let spaced = object.key.replace('+', " ");
                let key = percent_decode_str(&spaced).decode_utf8().map_err(|_| S3Error::Answer("names no object"))?;
                let name = format!("s3://{}/{key}", self.bucket);
                listing.add(SourceFile { name, bytes: object.size, stamp: object.etag })?;
            }
            match answer.next_continuation_token.filter(|_| answer.is_truncated) {
                // Otherwise an endpoint could keep us for ever.
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => return Ok(listing),
            }
        }
    }

    /// The object of this URL; None when it is longer than any file may be. Not for an async thread.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, S3Error> {
        let key = name.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).map_or("", |(_, key)| key);
        // An address would resolve these, and lead to another object or bucket.
        if key.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(S3Error::Address(name.to_owned()));
        }
        let key: Vec<String> = key.split('/').map(encoded).collect();
        self.get(&format!("/{}/{}", encoded(&self.bucket), key.join("/")), "", FILE_BYTES_MAX)
    }

    fn get(&self, path: &str, query: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, S3Error> {
        let mut attempt = 1;
        loop {
            match self.runtime.block_on(self.get_once(path, query, bytes_max)) {
                Err(error) if error.may_pass() && attempt < ATTEMPTS => {
                    tracing::debug!(path, attempt, %error, "bucket is asked again");
                    std::thread::sleep(PAUSE * attempt);
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn get_once(&self, path: &str, query: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, S3Error> {
        let mut headers: Vec<(&str, &[u8])> =
            vec![("host", self.host.as_bytes()), ("x-amz-content-sha256", NO_BODY.as_bytes())];
        headers.extend(self.token.as_ref().map(|token| ("x-amz-security-token", token.as_bytes())));
        let mut url = self.endpoint.clone();
        url.set_path(path);
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        // As it goes over the wire, should the address parser have seen it otherwise.
        let parts = RequestParts { method: "GET", path: url.path(), query, headers: &headers, body: b"" };
        let signed = sign(&self.credentials, &parts, &self.region, "s3", SystemClock.now_us());
        let mut request = self.http.get(url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in signed {
            request = request.header(name, value);
        }
        let transport = |error: reqwest::Error| S3Error::Transport(error.without_url());
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        if status == StatusCode::OK {
            return bounded(response, bytes_max).await.map_err(transport);
        }
        let bytes = bounded(response, REFUSAL_BYTES_MAX).await.map_err(transport)?.unwrap_or_default();
        let refusal: Refusal = quick_xml::de::from_str(&String::from_utf8_lossy(&bytes)).unwrap_or_default();
        Err(S3Error::Refused { status: status.as_u16(), code: refusal.code, message: refusal.message })
    }
}

async fn bounded(mut response: Response, bytes_max: u64) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn split_address(address: &str) -> Option<(&str, &str)> {
    let rest = address.strip_prefix("s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then_some((bucket, prefix))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_bucket_and_prefix() {
        assert_eq!(split_address("s3://trail/AWSLogs/1/"), Some(("trail", "AWSLogs/1/")));
        assert_eq!(split_address("s3://trail"), Some(("trail", "")));
        assert_eq!(split_address("s3:///x"), None);
        assert_eq!(split_address("/trail"), None);
    }

    #[tokio::test]
    async fn the_environment_says_how_a_bucket_is_reached() {
        let with = |more: &[(&str, &str)]| {
            let known = [
                ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "not-a-real-secret-key"),
                ("AWS_REGION", "eu-central-1"),
            ];
            let all: std::collections::HashMap<String, String> =
                known.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Bucket::new("s3://trail/a", move |name| all.get(name).cloned())
        };
        assert_eq!(with(&[]).unwrap().host, "s3.eu-central-1.amazonaws.com");
        assert_eq!(with(&[("AWS_ENDPOINT_URL", "http://127.0.0.1:5000")]).unwrap().host, "127.0.0.1:5000");
        let both = [("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "https://b")];
        assert_eq!(with(&both).unwrap().host, "b");
        assert!(matches!(with(&[("AWS_ENDPOINT_URL", "ftp://a")]), Err(S3Error::Variable("AWS_ENDPOINT_URL"))));
        assert!(matches!(with(&[("AWS_ACCESS_KEY_ID", "")]), Err(S3Error::Variable("AWS_ACCESS_KEY_ID"))));
        assert!(!format!("{:?}", with(&[]).unwrap()).contains("not-a-real"));
    }

    #[test]
    fn lists_are_read() {
        let xml = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>t</Name>\
            <IsTruncated>true</IsTruncated><Contents><Key>a%2Bb+c.json</Key><LastModified>x</LastModified><ETag>&quot;e&quot;</ETag>\
            <Size>7</Size></Contents><NextContinuationToken>n=</NextContinuationToken></ListBucketResult>";
        let answer: ListAnswer = quick_xml::de::from_str(xml).unwrap();
        assert_eq!((answer.is_truncated, answer.next_continuation_token.as_deref()), (true, Some("n=")));
        let [object] = answer.contents.as_slice() else { panic!("one object") };
        assert_eq!((object.key.as_str(), object.size, object.etag.as_str()), ("a%2Bb+c.json", 7, "\"e\""));
        let empty: ListAnswer =
            quick_xml::de::from_str("<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>").unwrap();
        assert!(empty.contents.is_empty() && !empty.is_truncated);
    }
}
