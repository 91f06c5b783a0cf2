//! The small HTTP servers beside the KMS endpoint: health checks, evidence packs, incidents.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use keytrail_kms::tls::Tls;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// For the headers of a request, and between two of one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers each request until the process ends, in clear text: see [`accept_over`].
pub(super) async fn accept<A, F>(listener: TcpListener, what: &'static str, connections_max: usize, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    accept_over(listener, None, what, connections_max, answer).await;
}

/// Answers each request until the process ends, over TLS where that is given. `what` names the connections in messages; no more than
/// `connections_max` are open at once.
pub(super) async fn accept_over<A, F>(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    what: &'static str,
    connections_max: usize,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(connections_max));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, what, "connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (answer, tls) = (answer.clone(), tls.clone());
        tokio::spawn(async move {
            let _slot = slot;
            match tls {
                None => serve(stream, what, answer).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, what, answer).await,
                    Err(error) => tracing::debug!(%error, what, "handshake failed"),
                },
            }
        });
    }
}

async fn serve<S, A, F>(stream: S, what: &'static str, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, what, "connection ended");
    }
}
