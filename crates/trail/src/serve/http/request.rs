//! One request: who asks for what.
//!
//! The password is checked before the body is read, at the same cost for a name that does not exist. A page in somebody's
//! browser must not ask with the password that the browser keeps, so requests that name an origin are refused.

use super::Shared;
use super::answer::{self, Rows};
use super::cloudtrail;
use crate::query::gate::SQL_BYTES_MAX;
use crate::query::printable;
use crate::serve::wire::error::WireError;
use crate::serve::{Door, User, Who};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use serde::Deserialize;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use zeroize::Zeroizing;

const PATH: &str = "/v1/sql";
/// A statement of the greatest length, were each of its bytes escaped.
const BODY_BYTES_MAX: usize = 6 * SQL_BYTES_MAX + 1_024;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// Before the next guess of a password can be made on this connection.
const FAILED_PAUSE: Duration = Duration::from_millis(300);
/// Of a name in the service's own log.
const NAME_CHARS_MAX: usize = 63;

/// What goes out: all of it, or rows as they come.
pub(super) type Reply = Response<Either<Full<Bytes>, Rows>>;

/// What is asked for.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) query: String,
    #[serde(default)]
    pub(super) format: Format,
}

/// Form of the rows.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// RFC 4180 with a header line.
    Csv,
    /// Arrow's IPC stream.
    Arrow,
}

impl Format {
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Why there are no rows.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: WireError,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: WireError::new(code, message) }
    }

    fn reply(self) -> Reply {
        let mut reply = Response::new(Either::Left(Full::new(line(&self.error))));
        *reply.status_mut() = self.status;
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"keytrail\""));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        reply
    }
}

impl From<WireError> for Refusal {
    /// By the class of the SQLSTATE.
    fn from(error: WireError) -> Self {
        let status = match error.code {
            "28000" => StatusCode::UNAUTHORIZED,
            "25006" => StatusCode::FORBIDDEN,
            // Not 408, after which clients may ask again by themselves.
            "57014" => StatusCode::GATEWAY_TIMEOUT,
            "53300" | "53200" | "53000" | "58000" => StatusCode::SERVICE_UNAVAILABLE,
            "XX000" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, error }
    }
}

/// An error as one line of JSON.
pub(super) fn line(error: &WireError) -> Bytes {
    let mut members = json!({"code": error.code, "message": error.message});
    if let Some(position) = error.position {
        members["position"] = position.into();
    }
    if let Some(hint) = &error.hint {
        members["hint"] = hint.as_str().into();
    }
    Bytes::from(format!("{}\n", json!({"error": members})))
}

/// Answers one request.
pub(super) async fn answer(
    shared: &Shared,
    peer: SocketAddr,
    request: Request<Incoming>,
    stalled: Arc<Notify>,
) -> Reply {
    let (parts, body) = request.into_parts();
    if cloudtrail::is_call(&parts.headers) {
        return cloudtrail::answer(shared, peer, &parts, body).await;
    }
    let answered = async {
        check(&parts)?;
        let user = log_in(shared, peer, &parts.headers).await?;
        let application = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let who = Who {
            user: user.name.clone(),
            door: Door::Http,
            client_address: peer.to_string(),
            application: application.unwrap_or_default().to_owned(),
        };
        let session = shared.doors.enter(user, who).map_err(|error| Refusal::from(WireError::from(error)))?;
        let asked = read(&parts.headers, body).await?;
        answer::start(session, asked, stalled).await
    };
    answered.await.unwrap_or_else(Refusal::reply)
}

fn check(parts: &Parts) -> Result<(), Refusal> {
    // Without chunks a client could not tell a broken answer from a whole one.
    if parts.version != Version::HTTP_11 {
        return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "0A000", "HTTP/1.1 is spoken here"));
    }
    if parts.uri.path() != PATH {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "0A000", format!("there is {PATH} and nothing else")));
    }
    if parts.method != Method::POST {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "0A000", "queries are sent by POST"));
    }
    if parts.headers.contains_key(header::ORIGIN) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "28000", "requests of web pages are not answered"));
    }
    Ok(())
}

async fn log_in(shared: &Shared, peer: SocketAddr, headers: &HeaderMap) -> Result<Arc<User>, Refusal> {
    let refused = |message: String| Refusal::new(StatusCode::UNAUTHORIZED, "28P01", message);
    let Some((name, password)) = headers.get(header::AUTHORIZATION).and_then(basic) else {
        return Err(refused("name and password are needed (HTTP Basic)".to_owned()));
    };
    let turn = Arc::clone(&shared.password_checks).acquire_owned().await;
    let (doors, asked) = (shared.doors.clone(), name.clone());
    // A task of its own: going away in the middle must not give the turn back before the work is done.
    let checking = tokio::spawn(async move {
        let _turn = turn;
        doors.users().authenticate(&asked, &password).await
    });
    if let Ok(Some(user)) = checking.await {
        return Ok(user);
    }
    let name: String = printable(&name).chars().take(NAME_CHARS_MAX).collect();
    tracing::warn!(user = name, %peer, "login failed");
    tokio::time::sleep(FAILED_PAUSE).await;
    Err(refused(format!("password authentication failed for user \"{name}\"")))
}

/// Name and password of RFC 7617.
fn basic(value: &HeaderValue) -> Option<(String, Zeroizing<String>)> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(token.trim()).ok()?);
    let (name, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
    Some((name.to_owned(), Zeroizing::new(password.to_owned())))
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Asked, Refusal> {
    let too_long = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "54000", "request is too long");
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "08P01", "request did not arrive in time");
    let reading = Limited::new(body, BODY_BYTES_MAX).collect();
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(|_| late())?;
    let body = read.map_err(|error| if error.is::<LengthLimitError>() { too_long() } else { late() })?.to_bytes();
    asked(headers, &body)
}

/// JSON says all of it; of a bare text, `Accept` says the format.
fn asked(headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refusal> {
    let media_type = |name| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        value.split([';', ',']).next().unwrap_or_default().trim().to_ascii_lowercase()
    };
    let wrong = |message: String| Refusal::new(StatusCode::BAD_REQUEST, "08P01", message);
    match media_type(header::CONTENT_TYPE).as_str() {
        "application/json" => serde_json::from_slice(body).map_err(|error| wrong(format!("request: {error}"))),
        "text/plain" => {
            let query = std::str::from_utf8(body).map_err(|_| wrong("query is not UTF-8".to_owned()))?.to_owned();
            let format = match media_type(header::ACCEPT).as_str() {
                "text/csv" => Format::Csv,
                "application/vnd.apache.arrow.stream" => Format::Arrow,
                _ => Format::Jsonl,
            };
            Ok(Asked { query, format })
        }
        _ => {
            let message = "content-type is application/json or text/plain";
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "08P01", message))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn what_is_asked_is_read() {
        let json = headers(&[(header::CONTENT_TYPE, "application/json; charset=utf-8")]);
        let read = |body: &str| asked(&json, body.as_bytes());
        let csv = Asked { query: "SELECT 1".to_owned(), format: Format::Csv };
        assert_eq!(read(r#"{"query": "SELECT 1", "format": "csv"}"#).unwrap(), csv);
        assert_eq!(read(r#"{"query": "SELECT 1"}"#).unwrap().format, Format::Jsonl);
        for wrong in
            ["", "[]", "{}", r#"{"query": 1}"#, r#"{"query": "", "format": "xml"}"#, r#"{"query": "", "a": 1}"#]
        {
            assert_eq!(read(wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
        let text = headers(&[(header::CONTENT_TYPE, "text/plain"), (header::ACCEPT, "text/csv, */*")]);
        assert_eq!(asked(&text, b"SELECT 1").unwrap(), csv);
        assert_eq!(asked(&text, b"\xff").unwrap_err().status, StatusCode::BAD_REQUEST);
        let form = headers(&[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")]);
        assert_eq!(asked(&form, b"query=1").unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn names_and_passwords_are_read() {
        let basic = |text: &str| basic(&HeaderValue::from_str(text).unwrap());
        let (name, password) = basic(&format!("basic {}", STANDARD.encode("alice:a:b"))).unwrap();
        assert_eq!((name.as_str(), password.as_str()), ("alice", "a:b"));
        for wrong in ["", "Basic", "Basic !", "Bearer YTpi", &format!("Basic {}", STANDARD.encode("alice"))] {
            assert!(basic(wrong).is_none(), "{wrong}");
        }
    }
}
