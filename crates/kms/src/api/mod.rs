//! The HTTP server: the one place where requests become calls and outcomes become HTTP.
//!
//! AWS JSON 1.1 for KMS and CloudTrail, the query protocol (`query`) for STS and IAM, tiles of the log (`log`) for everyone.
//! A caller is refused before its body is read when its access key is unknown; everything it can make grow has a bound.
//! Read `request` for the way of one request.

mod log;
pub(crate) mod query;
mod request;
mod response;

use crate::auth::session::Sessions;
use crate::auth::sigv4::Verifier;
use crate::key::Region;
use crate::node::Node;
use crate::tls::{Tls, TlsSession};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
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
/// `sourceIPAddress` of what comes through the socket in the data folder.
const LOCAL_PEER: &str = "127.0.0.1";
/// How long a stop waits for answers that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections share.
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    pub(crate) verifier: Verifier,
    pub(crate) sessions: Sessions,
    /// Readers of the log, when it is served.
    log: Option<log::Readers>,
}

impl Api {
    /// An API for a node; it accepts signatures for the node's regions, KMS, STS, IAM and CloudTrail only. `serve_log`: whether whoever
    /// reaches it may read the log's tiles.
    pub(crate) fn new(node: Arc<Node>, serve_log: bool) -> Self {
        let verifier = Verifier::new(node.regions.iter().map(Region::as_str), &["kms", "sts", "iam", "cloudtrail"]);
        Self { node, verifier, sessions: Sessions::default(), log: serve_log.then(log::Readers::default) }
    }
}

/// Where connections come from.
pub(crate) enum Door {
    /// Plain HTTP, on loopback.
    Plain(TcpListener),
    /// TLS, on any address.
    Tls(TcpListener, Arc<Tls>),
    /// A socket in the data folder, which only the user of the node can open: for Keytrail's own parts beside TLS, as
    /// they need neither trust in a certificate nor one of their own.
    Local(UnixListener),
}

/// One connection.
enum Stream {
    Plain(TcpStream),
    Tls(TcpStream, Arc<Tls>),
    Local(UnixStream),
}

impl Door {
    async fn accept(&self) -> std::io::Result<(Stream, Arc<str>)> {
        let (stream, peer) = match self {
            Self::Plain(listener) | Self::Tls(listener, _) => listener.accept().await?,
            Self::Local(listener) => return Ok((Stream::Local(listener.accept().await?.0), LOCAL_PEER.into())),
        };
        // Answers are small and complete: waiting to fill a packet only costs latency.
        let _ = stream.set_nodelay(true);
        let peer = peer.ip().to_canonical().to_string().into();
        Ok(match self {
            Self::Tls(_, tls) => (Stream::Tls(stream, Arc::clone(tls)), peer),
            Self::Plain(_) | Self::Local(_) => (Stream::Plain(stream), peer),
        })
    }
}

/// Serves until `stop` says so, then lets answers under way go out.
pub(crate) async fn serve(api: Arc<Api>, door: Door, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = told(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    connections.spawn(connection(Arc::clone(&api), stream, peer, slot, stop.clone()));
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
    drop(door);
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
    stream: Stream,
    peer: Arc<str>,
    slot: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    let _slot = slot;
    match stream {
        Stream::Plain(stream) => talk(api, Peer { source_ip: peer, tls: None }, stream, stop).await,
        Stream::Local(stream) => talk(api, Peer { source_ip: peer, tls: None }, stream, stop).await,
        Stream::Tls(stream, tls) => match tls.accept(stream).await {
            Ok(stream) => {
                let tls = TlsSession::of(stream.get_ref().1);
                talk(api, Peer { source_ip: peer, tls: Some(tls) }, stream, stop).await;
            }
            Err(error) => {
                api.node.refusals.connection();
                tracing::debug!(%peer, %error, "handshake failed");
            }
        },
    }
}

/// Who is at the other end, as far as the connection tells.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) source_ip: Arc<str>,
    pub(crate) tls: Option<TlsSession>,
}

async fn talk(api: Arc<Api>, peer: Peer, stream: impl AsyncRead + AsyncWrite + Unpin, mut stop: watch::Receiver<bool>) {
    let source_ip = Arc::clone(&peer.source_ip);
    let service = service_fn(move |request| request::handle(Arc::clone(&api), peer.clone(), request));
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
        tracing::debug!(peer = %source_ip, %error, "connection ended");
    }
}
