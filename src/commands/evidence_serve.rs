//! `keytrail evidence serve PACK`: the pack on a loopback address, for `aws cloudtrail validate-logs`.

use super::{http, say, stop_signal};
use crate::cli::EvidenceServeArgs;
use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use keytrail_trail::evidence::serve::{Bucket, Reply, Request as Asked, Trail};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Connections at once; the command keeps a few.
const CONNECTIONS_MAX: usize = 16;
const SIGNATURE: HeaderName = HeaderName::from_static("x-amz-meta-signature");
const SIGNATURE_ALGORITHM: HeaderName = HeaderName::from_static("x-amz-meta-signature-algorithm");

/// Serves until it is told to stop.
pub(crate) async fn run(args: EvidenceServeArgs) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() {
        anyhow::bail!("{} is not a loopback address: whoever reaches it reads the pack", args.listen);
    }
    let bucket = Bucket::open(&args.pack).with_context(|| format!("open the pack {}", args.pack.display()))?;
    let bucket = Arc::new(bucket);
    let mut stop = stop_signal()?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let addr = listener.local_addr().context("read the address")?;
    for trail in bucket.trails() {
        say(&command(addr, trail));
    }
    say(&format!("ready evidence=http://{addr}"));
    tokio::select! {
        () = http::accept(listener, "evidence pack", CONNECTIONS_MAX, move |request| answer(Arc::clone(&bucket), request)) => {}
        () = stop.wait() => {}
    }
    Ok(())
}

/// What to type in another terminal. Any credentials do: the server asks for none, the command for some.
fn command(addr: SocketAddr, trail: &Trail) -> String {
    let Trail { arn, region, from, to } = trail;
    format!(
        "AWS_ENDPOINT_URL=http://{addr} AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none aws cloudtrail validate-logs \
         --region {region} --trail-arn {arn} --start-time {from} --end-time {to}"
    )
}

/// Bodies are left unread: no call needs one.
async fn answer(bucket: Arc<Bucket>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let (method, target) = (request.method().to_string(), header("x-amz-target").unwrap_or_default().to_owned());
    let host = header(HOST.as_str()).unwrap_or_default().to_owned();
    let uri = request.uri().clone();
    let asked = move || {
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        bucket.answer(&Asked { method: &method, host: &host, path, query, target: &target })
    };
    let reply = tokio::task::spawn_blocking(asked).await;
    reply.map_or_else(|_| failed(), render)
}

fn render(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    if let Some(Ok(signature)) = reply.signature.map(HeaderValue::try_from) {
        headers.insert(SIGNATURE, signature);
        headers.insert(SIGNATURE_ALGORITHM, HeaderValue::from_static("SHA256withRSA"));
    }
    response
}

fn failed() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
