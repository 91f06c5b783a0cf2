//! Outcomes as HTTP: status, body and headers of both protocols.

use super::query::{self, Service};
use crate::ops::Answer;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const LOG: HeaderName = HeaderName::from_static("x-keytrail-log");
const SEQ: HeaderName = HeaderName::from_static("x-keytrail-seq");
const LEAF: HeaderName = HeaderName::from_static("x-keytrail-leaf");

/// How a request and its answer are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// AWS JSON 1.1.
    Json,
    /// Form in, XML out.
    Query(Service),
}

/// The answer on the wire. `Date` comes from the server; SDKs set their clocks by it.
pub(crate) fn render(answer: Answer, protocol: Protocol, operation: &str, request_id: Uuid) -> Response<Full<Bytes>> {
    let request_id = request_id.to_string();
    let receipt = answer.receipt;
    let (status, content_type, body) = match protocol {
        Protocol::Json => (answer.status, "application/x-amz-json-1.1", answer.body),
        Protocol::Query(service) => {
            let (status, xml) = query::render(service, &answer, operation, &request_id);
            (status, "text/xml", xml)
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let text = |text: String| HeaderValue::try_from(text).expect("ids, numbers and hex are ASCII");
    headers.insert(REQUEST_ID, text(request_id));
    if let Some(receipt) = receipt {
        headers.insert(LOG, text(receipt.log.to_string()));
        headers.insert(SEQ, text(receipt.seq.to_string()));
        headers.insert(LEAF, text(receipt.leaf_hash.to_string()));
    }
    response
}
