//! `[responder.http]`: brings requests to `keytrail_responder::http`, on loopback or over TLS.
//!
//! Bounds of everything a stranger can send are here: connections, time for headers and body, bytes of both.

use crate::commands::http;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use keytrail_kms::tls::{self, Tls, TlsFiles};
use keytrail_responder::http::settings::{HttpSettings, HttpTls};
use keytrail_responder::http::{BODY_BYTES_MAX, Door, HEADERS, Reply, Request as Asked};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts it; gives its field of the ready line. It ends with the process.
pub(crate) async fn start(settings: &HttpSettings, door: Door) -> anyhow::Result<String> {
    if let Some(fault) = settings.fault() {
        bail!("{fault}");
    }
    let tls = settings.tls.clone().map(|HttpTls { cert_file, key_file }| {
        Tls::open(TlsFiles { cert_file, key_file, client_ca_file: None }, tls::HTTP)
    });
    let tls = tls.transpose().context("use TLS for incidents")?.map(Arc::new);
    let addr = settings.listen;
    let listener = TcpListener::bind(addr).await.with_context(|| format!("listen for incidents on {addr}"))?;
    let addr = listener.local_addr().context("read the address for incidents")?;
    let door = Arc::new(door);
    let answer = move |request: Request<Incoming>| answered(Arc::clone(&door), request);
    tokio::spawn(http::accept_over(listener, tls, "incident", CONNECTIONS_MAX, answer));
    Ok(format!(" incidents={addr}"))
}

async fn answered(door: Arc<Door>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    let body = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the request takes too long\n"),
    };
    let reply = tokio::task::spawn_blocking(move || {
        let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let asked = Asked {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            authorization,
            body: &body,
        };
        door.answer(&asked)
    });
    match reply.await {
        Ok(Reply { status, content_type, body }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response(status, content_type, body)
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it could not be done\n"),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
