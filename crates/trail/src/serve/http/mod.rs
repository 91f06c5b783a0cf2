//! SQL over HTTP: the listener. `POST /v1/sql` over TLS, for the users of `sql-users.toml` by name and password.
//!
//! `request` says who asks for what, `answer` runs it and streams the rows; `cloudtrail` is the same for SDKs of CloudTrail Lake. Clear text is refused in words. A stranger costs
//! a handshake and a password check, both bounded in time and number; nobody can do more than ask queries that pass the
//! gate of every SQL door.

mod answer;
mod cloudtrail;
mod request;

use super::{Doors, describe};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keytrail_kms::tls::Tls;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

/// Open connections, idle ones among them; the users' own bound is on their queries.
const CONNECTIONS_MAX: usize = 256;
/// From the accepted connection to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// For the headers of the next request, idle time included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 64;
/// Bytes of request line and headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Passwords checked at once, some ten milliseconds each; whoever waits is served in turn.
const PASSWORD_CHECKS_MAX: usize = 2;
/// Callers about whom the key service is asked at once; whoever waits is served in turn.
const JUDGEMENTS_MAX: usize = 8;
/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// Bytes of a request in clear text that are read before the connection ends.
const CLEAR_BYTES_MAX: usize = 16 * 1024;

/// What all connections share.
struct Shared {
    doors: Arc<Doors>,
    password_checks: Arc<Semaphore>,
    /// Turns for asking the key service about a caller.
    judgements: Semaphore,
    queries: Arc<cloudtrail::Queries>,
}

/// Accepts connections until the process ends.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, doors: Arc<Doors>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let shared = Arc::new(Shared {
        doors,
        password_checks: Arc::new(Semaphore::new(PASSWORD_CHECKS_MAX)),
        judgements: Semaphore::new(JUDGEMENTS_MAX),
        queries: Arc::default(),
    });
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, peer)) => {
                tokio::spawn(Box::pin(connection(tcp, peer, tls.clone(), shared.clone(), slot)));
            }
            Err(error) => {
                tracing::warn!(%error, "connection for SQL over HTTP cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(tcp: TcpStream, peer: SocketAddr, tls: Arc<Tls>, shared: Arc<Shared>, _slot: OwnedSemaphorePermit) {
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(tcp, &tls)).await {
        Ok(Ok(Some(stream))) => stream,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "handshake failed"),
        Err(_) => return tracing::debug!(%peer, "no handshake in time"),
    };
    let stalled = Arc::new(Notify::new());
    let on_request = stalled.clone();
    let service = service_fn(move |request| {
        let (shared, stalled) = (shared.clone(), on_request.clone());
        async move { Ok::<_, Infallible>(request::answer(&shared, peer, request, stalled).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::debug!(%peer, error = describe(&error), "connection for SQL over HTTP ended");
        },
        () = stalled.notified() => tracing::debug!(%peer, "client takes no more of its answer"),
    }
}

/// None: whoever speaks clear text has been told.
async fn handshake(mut tcp: TcpStream, tls: &Tls) -> io::Result<Option<TlsStream<TcpStream>>> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first == [TLS_HANDSHAKE] {
        return tls.accept(tcp).await.map(Some);
    }
    let body = "{\"error\":{\"code\":\"28000\",\"message\":\"this server speaks TLS only: use https\"}}\n";
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n";
    tcp.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    tcp.shutdown().await?;
    // Read what the client has sent, or its reset would take the answer away before it is seen.
    let mut rest = [0; 1_024];
    for _ in 0..CLEAR_BYTES_MAX / rest.len() {
        if tcp.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(None)
}
