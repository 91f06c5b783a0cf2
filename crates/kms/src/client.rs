//! A client of the KMS for our own processes: signed AWS JSON 1.1 calls over HTTP.
//!
//! Used by the responder to act, by the trail to fetch frames and checkpoints, and by the command's own journeys. It
//! never follows redirects, never retries by itself (a retry is a second event in the log, so the caller decides) and
//! reads no more than a bounded answer.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HOST, HeaderMap};
use reqwest::{Certificate, Identity, StatusCode, Url, redirect};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::auth::credentials::{Credentials, SecretKey};
use crate::auth::sigv4::{RequestParts, sign};

/// Header that makes a responder's call idempotent; always under the signature.
pub const ACTION_ID_HEADER: &str = "x-keytrail-action-id";

/// Header of a service's call: the ARN of the user it is made for; always under the signature.
pub const ON_BEHALF_OF_HEADER: &str = "x-keytrail-on-behalf-of";
/// Header of a service's call: the ARN of the resource it is made for; always under the signature.
pub const SOURCE_ARN_HEADER: &str = "x-keytrail-source-arn";

/// Longest action id that is sent.
const ACTION_ID_BYTES_MAX: usize = 128;

const JSON_1_1: &str = "application/x-amz-json-1.1";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
/// Begins the targets of the one operation that is another service's.
const CLOUDTRAIL: &str = "com.amazonaws.cloudtrail.";
const SECURITY_TOKEN_HEADER: &str = "x-amz-security-token";
/// Of a session that a second factor opened: STS has no shorter one.
const SESSION_SECS: u32 = 900;

/// What is trusted beyond the system's authorities, and what we show, over TLS.
#[derive(Clone, Default)]
pub struct Trust {
    /// PEM certificates of further authorities: a node's own.
    pub roots_pem: Option<Vec<u8>>,
    /// PEM certificate and private key, for a node that asks its clients for one.
    pub identity_pem: Option<Arc<Zeroizing<Vec<u8>>>>,
}

/// Bounds and trust of a [`Client`].
#[derive(Clone)]
pub struct ClientOptions {
    /// From the first byte sent to the last received.
    pub deadline: Duration,
    /// For the connection alone.
    pub connect_timeout: Duration,
    /// Longest answer read; 50 frames of 256 KiB in base64 fit.
    pub answer_bytes_max: usize,
    /// For an endpoint with TLS.
    pub trust: Trust,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            answer_bytes_max: 32 * 1024 * 1024,
            trust: Trust::default(),
        }
    }
}

/// A connection pool to one KMS endpoint, signing as one principal. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// As it goes on the wire and under the signature: with the port unless it is the scheme's own.
    host: String,
    credentials: Arc<Credentials>,
    /// Of temporary credentials.
    token: Option<Arc<Zeroizing<String>>>,
    region: String,
    answer_bytes_max: usize,
}

/// A call that succeeded, with the receipt of its record in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The operation's output; an empty object when there is none.
    pub body: Value,
    /// `x-amzn-RequestId`, also the event's requestID.
    pub request_id: String,
    /// `x-keytrail-log`: the log's id, empty when the endpoint is not ours.
    pub log: String,
    /// `x-keytrail-seq`.
    pub seq: Option<u64>,
    /// `x-keytrail-leaf`: the tree leaf hash in lower-case hex.
    pub leaf: Option<String>,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The endpoint, or an argument, cannot be made into a request.
    #[error("build request: {0}")]
    Request(String),
    /// Certificates or key are of no use.
    #[error("use certificates")]
    Trust(#[source] reqwest::Error),
    /// The service answered with an error; it may have been recorded.
    #[error("{code} from the service: {message}")]
    Service {
        /// HTTP status.
        status: u16,
        /// The exception's bare name: `NotFoundException`.
        code: String,
        /// The service's sentence; empty when it gave none.
        message: String,
        /// `x-amzn-RequestId`.
        request_id: String,
        /// `x-keytrail-seq` of the refusal's own record.
        seq: Option<u64>,
    },
    /// No whole answer arrived; whether the call had its effect is unknown.
    #[error("talk to the service")]
    Transport(#[source] reqwest::Error),
    /// The deadline passed; whether the call had its effect is unknown.
    #[error("call timed out")]
    Timeout,
    /// The answer is longer than we read, or not JSON.
    #[error("read answer: {0}")]
    Answer(&'static str),
}

impl ClientError {
    /// Whether the same call may work later. A call with an action id may then be sent again without a second effect.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Service { status, code, .. } => *status >= 500 || code == "ThrottlingException",
            Self::Transport(_) | Self::Timeout => true,
            Self::Request(_) | Self::Trust(_) | Self::Answer(_) => false,
        }
    }

    /// Whether nobody answers at that address at all.
    pub fn is_nobody_there(&self) -> bool {
        matches!(self, Self::Transport(error) if error.is_connect())
    }

    /// The exception's name, when the service gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Service { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl Client {
    /// A client with the default bounds. `endpoint` is `http://host:port`, `https://...` or `unix:` and a socket's path.
    pub fn new(
        endpoint: &str,
        credentials: impl Into<Arc<Credentials>>,
        region: impl Into<String>,
    ) -> Result<Self, ClientError> {
        Self::with_options(endpoint, credentials, region, ClientOptions::default())
    }

    /// A client with bounds and trust of its own.
    pub fn with_options(
        endpoint: &str,
        credentials: impl Into<Arc<Credentials>>,
        region: impl Into<String>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let socket = endpoint.strip_prefix("unix:");
        let endpoint = if socket.is_some() { "http://localhost" } else { endpoint };
        let mut endpoint = Url::parse(endpoint).map_err(|error| ClientError::Request(format!("endpoint: {error}")))?;
        let Some(name) = endpoint.host_str().filter(|_| matches!(endpoint.scheme(), "http" | "https")) else {
            return Err(ClientError::Request("endpoint is not an http or https address".into()));
        };
        let host = match endpoint.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        endpoint.set_path("/");
        endpoint.set_query(None);
        // Calls to the KMS go straight there: a proxy from the environment would see plaintexts and data keys.
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(options.deadline)
            .connect_timeout(options.connect_timeout)
            .user_agent(concat!("keytrail/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = socket {
            builder = builder.unix_socket(Path::new(path));
        }
        if let Some(pem) = &options.trust.roots_pem {
            let roots = Certificate::from_pem_bundle(pem).map_err(ClientError::Trust)?;
            builder = builder.tls_certs_merge(roots);
        }
        if let Some(pem) = &options.trust.identity_pem {
            builder = builder.identity(Identity::from_pem(pem).map_err(ClientError::Trust)?);
        }
        Ok(Self {
            http: builder.build().map_err(ClientError::Trust)?,
            endpoint,
            host,
            credentials: credentials.into(),
            token: None,
            region: region.into(),
            answer_bytes_max: options.answer_bytes_max,
        })
    }

    /// The same client, signing for another region of the endpoint.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Self {
        Self { region: region.to_owned(), ..self.clone() }
    }

    /// The same client in a new session of its user, with a second factor proved now: the device's ARN and its code.
    pub async fn with_second_factor(&self, serial: &str, code: &str) -> Result<Self, ClientError> {
        let seconds = SESSION_SECS.to_string();
        let call = [
            ("Action", "GetSessionToken"),
            ("Version", "2011-06-15"),
            ("DurationSeconds", seconds.as_str()),
            ("SerialNumber", serial),
            ("TokenCode", code),
        ];
        let xml = self.query("sts", &call).await?;
        let xml = xml.as_str();
        let whole = ClientError::Answer("no credentials");
        let (Some(id), Some(secret), Some(token)) =
            (element(xml, "AccessKeyId"), element(xml, "SecretAccessKey"), element(xml, "SessionToken"))
        else {
            return Err(whole);
        };
        let secret = SecretKey::new(secret.to_owned()).map_err(|_| ClientError::Answer("no secret key"))?;
        let credentials = Credentials::new(id, secret).map_err(|_| ClientError::Answer("no access key"))?;
        let token = Some(Arc::new(Zeroizing::new(token.to_owned())));
        Ok(Self { credentials: Arc::new(credentials), token, ..self.clone() })
    }

    /// Calls `target`, such as `TrentService.DisableKey`, with a JSON object.
    pub async fn call(&self, target: &str, body: Value, action_id: Option<&str>) -> Result<Answer, ClientError> {
        let request = self.signed_request(target, body.to_string().into_bytes(), action_id)?;
        let response = self.http.execute(request).await.map_err(transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = self.read_bounded(response).await?;
        answer(status, &headers, &bytes)
    }

    /// Calls an operation of AWS's query protocol, as STS and IAM have it, and gives the XML of the answer, which is wiped
    /// after use. `service` is the one in the credential scope.
    pub async fn query(&self, service: &str, parameters: &[(&str, &str)]) -> Result<Zeroizing<String>, ClientError> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let body = Zeroizing::new(pairs.join("&"));
        let signing = [("content-type", FORM.as_bytes()), ("host", self.host.as_bytes())];
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &signing, body: body.as_bytes() };
        let signed = sign(&self.credentials, &parts, &self.region, service, now_us());
        let mut request = self.http.post(self.endpoint.clone()).header(CONTENT_TYPE, FORM).header(HOST, &self.host);
        for (name, value) in signed {
            request = request.header(name, value);
        }
        let response = request.body(body.as_bytes().to_vec()).send().await.map_err(transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = Zeroizing::new(self.read_bounded(response).await?);
        let xml = std::str::from_utf8(&bytes).map_err(|_| ClientError::Answer("not text"))?;
        if status != StatusCode::OK {
            return Err(refusal_of(xml, status, &headers));
        }
        Ok(Zeroizing::new(xml.to_owned()))
    }

    fn signed_request(
        &self,
        target: &str,
        body: Vec<u8>,
        action_id: Option<&str>,
    ) -> Result<reqwest::Request, ClientError> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain(target) || action_id.is_some_and(|id| !plain(id) || id.len() > ACTION_ID_BYTES_MAX) {
            return Err(ClientError::Request("target or action id has characters that no header may have".into()));
        }
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("content-type", JSON_1_1.as_bytes()),
            ("host", self.host.as_bytes()),
            ("x-amz-target", target.as_bytes()),
        ];
        headers.extend(action_id.map(|id| (ACTION_ID_HEADER, id.as_bytes())));
        headers.extend(self.token.as_ref().map(|token| (SECURITY_TOKEN_HEADER, token.as_bytes())));
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &headers, body: &body };
        let service = if target.starts_with(CLOUDTRAIL) { "cloudtrail" } else { "kms" };
        let signed = sign(&self.credentials, &parts, &self.region, service, now_us());
        let mut request = self
            .http
            .post(self.endpoint.clone())
            .header(CONTENT_TYPE, JSON_1_1)
            .header(HOST, &self.host)
            .header("x-amz-target", target);
        for (name, value) in signed {
            request = request.header(name, value);
        }
        if let Some(id) = action_id {
            request = request.header(ACTION_ID_HEADER, id);
        }
        if let Some(token) = &self.token {
            request = request.header(SECURITY_TOKEN_HEADER, token.as_str());
        }
        request.body(body).build().map_err(ClientError::Transport)
    }

    async fn read_bounded(&self, mut response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if bytes.len() + chunk.len() > self.answer_bytes_max {
                return Err(ClientError::Answer("longer than the bound"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn answer(status: StatusCode, headers: &HeaderMap, bytes: &[u8]) -> Result<Answer, ClientError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let request_id = header("x-amzn-requestid").unwrap_or_default();
    let seq = header("x-keytrail-seq").and_then(|text| text.parse().ok());
    if status == StatusCode::OK {
        let body = if bytes.is_empty() {
            Value::Object(serde_json::Map::new())
        } else {
            serde_json::from_slice(bytes).map_err(|_| ClientError::Answer("not JSON"))?
        };
        let log = header("x-keytrail-log").unwrap_or_default();
        return Ok(Answer { body, request_id, log, seq, leaf: header("x-keytrail-leaf") });
    }
    let body: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    // AWS writes the bare name or `namespace#Name`.
    let code = text("__type").and_then(|name| name.rsplit('#').next()).unwrap_or("UnknownError").to_owned();
    let message = text("message").or_else(|| text("Message")).unwrap_or_default().to_owned();
    Err(ClientError::Service { status: status.as_u16(), code, message, request_id, seq })
}

/// What the query protocol refuses with.
fn refusal_of(xml: &str, status: StatusCode, headers: &HeaderMap) -> ClientError {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = |name: &str| element(xml, name).unwrap_or_default().to_owned();
    ClientError::Service {
        status: status.as_u16(),
        code: text("Code"),
        message: text("Message"),
        request_id: header("x-amzn-requestid").unwrap_or_default(),
        seq: header("x-keytrail-seq").and_then(|text| text.parse().ok()),
    }
}

/// The text of an element that holds text alone; ids, names, keys and tokens need no escapes in XML.
pub fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

fn transport(error: reqwest::Error) -> ClientError {
    if error.is_timeout() { ClientError::Timeout } else { ClientError::Transport(error.without_url()) }
}

/// SigV4 needs the real time of day; a wrong one only makes the service refuse.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::auth::sigv4::Verifier;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers one request with `response` and returns what was sent.
    async fn serve_one(listener: TcpListener, response: &'static str) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let (head, length) = loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            seen.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            if let Some(end) = text.find("\r\n\r\n") {
                let length =
                    text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                break (end + 4, length.unwrap_or(0));
            }
        };
        while seen.len() < head + length {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            seen.extend_from_slice(&chunk[..read]);
        }
        stream.write_all(response.as_bytes()).await.unwrap();
        let headers = String::from_utf8_lossy(&seen[..head])
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.as_bytes().to_vec()))
            .collect();
        (headers, seen[head..].to_vec())
    }

    #[tokio::test]
    async fn a_call_verifies_and_brings_its_receipt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let credentials = Arc::new(Credentials::generate().unwrap());
        let client = Client::new(&endpoint, credentials.clone(), "eu-central-1").unwrap();
        let response = "HTTP/1.1 200 OK\r\nx-amzn-RequestId: r\r\nx-keytrail-log: l\r\nx-keytrail-seq: 7\r\n\
                        x-keytrail-leaf: ab\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        let server = tokio::spawn(serve_one(listener, response));
        let answer = client.call("TrentService.DisableKey", json!({"KeyId": "k"}), Some("act-1")).await.unwrap();
        assert_eq!((answer.body, answer.seq, answer.log.as_str()), (json!({"a": 1}), Some(7), "l"));
        let (headers, body) = server.await.unwrap();
        let view: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
        let parts = RequestParts { method: "POST", path: "/", query: "", headers: &view, body: &body };
        let verifier = Verifier::new(["eu-central-1"], &["kms"]);
        let verified = verifier.verify(&parts, now_us(), |_, _| Some(&credentials.secret)).unwrap();
        assert!(verified.is_signed(ACTION_ID_HEADER) && verified.is_signed("x-amz-target"));
        assert_eq!(body, br#"{"KeyId":"k"}"#);
    }

    #[tokio::test]
    async fn errors_keep_their_names() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&endpoint, Credentials::generate().unwrap(), "eu-central-1").unwrap();
        let response = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n\
                        {\"__type\":\"a.b#NotFoundException\",\"message\":\"no\"}";
        let server = tokio::spawn(serve_one(listener, response));
        let error = client.call("TrentService.DisableKey", json!({}), None).await.unwrap_err();
        assert_eq!(error.code(), Some("NotFoundException"));
        assert!(!error.is_retryable());
        server.await.unwrap();
        let gone = client.call("TrentService.DisableKey", json!({}), None).await.unwrap_err();
        assert!(gone.is_retryable());
        assert!(Client::new("ftp://host", Credentials::generate().unwrap(), "r").is_err());
        assert!(client.call("Trent\r\nService", json!({}), None).await.is_err());
    }
}
