//! CloudTrail Lake's query operations over AWS JSON 1.1, so that hunting scripts written for its SDKs run.
//!
//! Whose call it is and whether that one may is judged by the key service, which has the secrets, for each call anew
//! (docs/decisions/0049-cloudtrail-queries.md). `queries` keeps what was started, `statement` puts our view in the place of
//! an event data store, `results` writes rows. A query runs under the limits of role `cloudtrail` of `sql-users.toml`; without
//! that role nobody comes in this way.

mod operations;
mod queries;
mod results;
mod statement;

pub(super) use queries::Queries;

use super::Shared;
use super::request::Reply;
use crate::serve::User;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
use keytrail_kms::client::ClientError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Prefix of the operations' names.
const TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.";
const TARGET_HEADER: &str = "x-amz-target";
/// A statement of 10,000 characters, were each of its bytes escaped.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
const MEDIA_TYPE: &str = "application/x-amz-json-1.1";

/// An error as AWS's SDKs read it.
#[derive(Debug, PartialEq, Eq)]
struct Exception {
    status: StatusCode,
    name: String,
    message: String,
}

impl Exception {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, name: name.to_owned(), message: message.into() }
    }

    /// SDKs try these again by themselves.
    fn unavailable(message: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, ..Self::new("ServiceUnavailableException", message) }
    }
}

/// What the key service says goes on to the caller: it is about the caller's own call.
impl From<ClientError> for Exception {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Service { status, code, message, .. } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Self { status, name: code, message }
            }
            error => {
                tracing::warn!(error = super::describe(&error), "caller of a query cannot be judged");
                Self::unavailable("The key service, which judges callers, does not answer.")
            }
        }
    }
}

/// Who calls, as the key service says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Principal {
    arn: String,
    account: String,
    operation: String,
}

/// Someone who may call what is called.
struct Caller {
    user: Arc<User>,
    account: String,
    peer: SocketAddr,
    agent: String,
}

/// Whether a request is for these operations.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    headers.contains_key(TARGET_HEADER)
}

/// Answers one call.
pub(super) async fn answer(shared: &Shared, peer: SocketAddr, parts: &Parts, body: Incoming) -> Reply {
    let (status, body) = match call(shared, peer, parts, body).await {
        Ok(answer) => (StatusCode::OK, answer),
        Err(error) => (error.status, json!({"__type": error.name, "message": error.message})),
    };
    let mut reply = Response::new(Either::Left(Full::new(Bytes::from(body.to_string()))));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()) {
        headers.insert("x-amzn-requestid", id);
    }
    reply
}

async fn call(shared: &Shared, peer: SocketAddr, parts: &Parts, body: Incoming) -> Result<Value, Exception> {
    let operation = operation(parts)?.to_owned();
    let body = read(body).await?;
    let caller = judged(shared, peer, parts, &operation, &body).await?;
    operations::run(shared, &caller, &operation, &body).await
}

fn operation(parts: &Parts) -> Result<&str, Exception> {
    let target = parts.headers.get(TARGET_HEADER).and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.strip_prefix(TARGET).unwrap_or_default();
    let http = parts.version == Version::HTTP_11 && parts.method == Method::POST && parts.uri.path() == "/";
    if !http || !operations::NAMES.contains(&operation) || parts.headers.contains_key(header::ORIGIN) {
        let text = format!("Of CloudTrail there are {} here.", operations::NAMES.join(", "));
        return Err(Exception::new("UnknownOperationException", text));
    }
    Ok(operation)
}

async fn read(body: Incoming) -> Result<String, Exception> {
    let late = || Exception::new("RequestTimeoutException", "The request did not arrive in time.");
    let reading = Limited::new(body, BODY_BYTES_MAX).collect();
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(|_| late())?;
    let bytes = read.map_err(|error| match error.is::<LengthLimitError>() {
        true => Exception::new("RequestEntityTooLargeException", format!("The limit is {BODY_BYTES_MAX} bytes.")),
        false => late(),
    })?;
    let text = String::from_utf8(bytes.to_bytes().into());
    text.map_err(|_| Exception::new("SerializationException", "The body is not UTF-8."))
}

/// Has the key service judge the call as it came.
async fn judged(
    shared: &Shared,
    peer: SocketAddr,
    parts: &Parts,
    operation: &str,
    body: &str,
) -> Result<Caller, Exception> {
    let mut headers = Vec::with_capacity(parts.headers.len());
    for (name, value) in &parts.headers {
        let value = value.to_str().map_err(|_| Exception::new("SerializationException", "A header is not ASCII."))?;
        headers.push(json!([name.as_str(), value]));
    }
    let received = json!({
        "Method": parts.method.as_str(), "Path": parts.uri.path(), "Query": parts.uri.query().unwrap_or_default(),
        "Headers": headers, "Body": body, "ClientAddress": peer.ip().to_string(),
    });
    // It does not close.
    let turn = shared.judgements.acquire().await;
    let answer = shared.doors.query_log().authorize(received).await?;
    drop(turn);
    let principal: Option<Principal> = serde_json::from_value(answer).ok();
    let principal = principal.filter(|principal| principal.operation == operation);
    let principal = principal.ok_or_else(|| Exception::unavailable("The key service's answer cannot be read."))?;
    let user = shared.doors.users().principal(&principal.arn).ok_or_else(|| {
        let text = "sql-users.toml of the trail has no role `cloudtrail`, so nobody may call these operations.";
        Exception::new("AccessDeniedException", text)
    })?;
    let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    Ok(Caller { user, account: principal.account, peer, agent: agent.unwrap_or_default().to_owned() })
}
