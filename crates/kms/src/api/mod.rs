//! The HTTP server: the one place where requests become calls and outcomes become HTTP.
//!
//! AWS JSON 1.1 for KMS, the query protocol (`query`) for STS and IAM. A caller is refused before its body is read when its access key
//! is unknown; everything it can make grow has a bound. Read `request` for the way of one request.

mod query;
mod request;
mod response;

use crate::auth::session::Sessions;
use crate::auth::sigv4::Verifier;
use crate::node::Node;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

/// Open connections; SDKs keep tens each.
const CONNECTIONS_MAX: usize = 4_096;
/// For the headers of the next request, idle time included; SDKs keep connections for a minute.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
/// Headers of one request; SDKs send some fifteen.
const HEADERS_MAX: usize = 64;
/// Bytes of request line and headers.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long a stop waits for answers that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections share.
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    pub(crate) verifier: Verifier,
    pub(crate) sessions: Sessions,
}

impl Api {
    /// An API for a node; it accepts signatures for the node's region, KMS, STS and IAM only.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        let verifier = Verifier::new(node.region.clone(), &["kms", "sts", "iam"]);
        Self { node, verifier, sessions: Sessions::default() }
    }
}

/// Serves until `stop` says so, then lets answers under way go out.
pub(crate) async fn serve(api: Arc<Api>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = told(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    connections.spawn(connection(Arc::clone(&api), stream, peer.ip(), slot, stop.clone()));
                }
                Err(_) => api.node.refusals.connection(),
            },
            Err(error) => {
                // Out of descriptors, most likely: a pause keeps this from spinning until one comes back.
                tracing::warn!(%error, "connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off at the stop");
    }
}

/// Waits for the stop; a service whose handle is gone stops, too.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    api: Arc<Api>,
    stream: TcpStream,
    peer: IpAddr,
    slot: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let _slot = slot;
    // Answers are small and complete: waiting to fill a packet only costs latency.
    let _ = stream.set_nodelay(true);
    let source_ip: Arc<str> = peer.to_canonical().to_string().into();
    let service = service_fn(move |request| request::handle(Arc::clone(&api), Arc::clone(&source_ip), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
