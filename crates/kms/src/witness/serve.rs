//! A witness over HTTP: `POST PREFIX/add-checkpoint`, and `GET PREFIX/<SHA-256 of origin>/checkpoint` for everyone.
//!
//! Nobody has to prove who they are: what counts is the log's signature in the request. A stranger costs a bounded body
//! and, for a note that a log has signed, a few signatures checked and made; the disk is written to for growth only.

use super::record::{Outcome, Witness, WitnessError};
use crate::chain::checkpoint::VerifyKey;
use crate::clock::Clock;
use crate::tls::{self, Tls, TlsFiles};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Longest body: a note of 64 KiB, 63 lines of proof and the first line.
const BODY_BYTES_MAX: usize = 68 * 1024;
/// Connections at once: each log keeps one.
const CONNECTIONS_MAX: usize = 256;
/// For headers, idle time included: a log that grows slowly comes back each ten seconds.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers of one request, and bytes of request line and headers.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// For the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a witness is run.
#[derive(Clone, Debug)]
pub struct WitnessSettings {
    /// Its folder.
    pub dir: PathBuf,
    /// Name of a key that has to be made; at random if None.
    pub name: Option<String>,
    /// Where to listen; loopback only without TLS.
    pub listen: SocketAddr,
    /// TLS for the listener.
    pub tls: Option<TlsFiles>,
    /// What paths begin with: empty, or `/witness`.
    pub prefix: &'static str,
    /// The keys of the logs that it cosigns.
    pub logs: Vec<VerifyKey>,
}

/// A witness that answers. Dropped, it stops.
pub struct RunningWitness {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The witness, for looking at.
    pub witness: Arc<Witness>,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<()>,
}

/// Opens a witness and serves it.
pub async fn start(settings: WitnessSettings, clock: Arc<dyn Clock>) -> Result<RunningWitness, WitnessError> {
    let WitnessSettings { dir, name, listen, tls, prefix, logs } = settings;
    if !listen.ip().is_loopback() && tls.is_none() {
        return Err(WitnessError::NotLoopback { address: listen });
    }
    let tls = tls.map(|files| Tls::open(files, tls::HTTP)).transpose().map_err(WitnessError::Tls)?.map(Arc::new);
    let listening = |source| WitnessError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(listening)?;
    let addr = listener.local_addr().map_err(listening)?;
    let witness = Arc::new(Witness::open(&dir, name.as_deref(), &logs, clock)?);
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(listener, tls, Arc::clone(&witness), prefix, stopped));
    Ok(RunningWitness { addr, witness, _tasks: tasks, _stop: stop })
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    witness: Arc<Witness>,
    prefix: &'static str,
    stopped: watch::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "connection to the witness cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, witness, mut stopped) = (tls.clone(), Arc::clone(&witness), stopped.clone());
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = connection(stream, tls, witness, prefix) => {}
                // The sender is gone: the witness stops, and what was signed is on the disk.
                _ = stopped.changed() => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, tls: Option<Arc<Tls>>, witness: Arc<Witness>, prefix: &'static str) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => talk(stream, witness, prefix).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => talk(stream, witness, prefix).await,
            Err(error) => tracing::debug!(%error, "handshake with the witness failed"),
        },
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, witness: Arc<Witness>, prefix: &'static str) {
    let service = service_fn(move |request: Request<Incoming>| {
        let witness = Arc::clone(&witness);
        async move { Ok::<_, Infallible>(answer(request, witness, prefix).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to the witness ended");
    }
}

async fn answer(request: Request<Incoming>, witness: Arc<Witness>, prefix: &str) -> Response<Full<Bytes>> {
    let path = request.uri().path().strip_prefix(prefix).unwrap_or_default();
    let hash = path.strip_prefix('/').and_then(|rest| rest.strip_suffix("/checkpoint")).map(str::to_owned);
    match (request.method(), path, hash) {
        (&Method::POST, "/add-checkpoint", _) => {
            let Some(body) = read(request.into_body()).await else {
                return respond(StatusCode::BAD_REQUEST, "body is too long, too slow or not text\n".to_owned());
            };
            let judged = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
            outcome(judged.unwrap_or(Outcome::Failed))
        }
        (&Method::GET, _, Some(hash)) => match witness.checkpoint(&hash) {
            Some(note) => respond(StatusCode::OK, note),
            None => respond(StatusCode::NOT_FOUND, "nothing cosigned\n".to_owned()),
        },
        (_, "/add-checkpoint", _) | (_, _, Some(_)) => {
            respond(StatusCode::METHOD_NOT_ALLOWED, "POST add-checkpoint, GET checkpoint\n".to_owned())
        }
        _ => respond(StatusCode::NOT_FOUND, "see c2sp.org/tlog-witness\n".to_owned()),
    }
}

async fn read(body: Incoming) -> Option<String> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    String::from_utf8(whole.ok()?.ok()?.to_bytes().to_vec()).ok()
}

fn outcome(outcome: Outcome) -> Response<Full<Bytes>> {
    let (status, text) = match outcome {
        Outcome::Cosigned(line) => (StatusCode::OK, line),
        Outcome::Malformed => (StatusCode::BAD_REQUEST, "request is malformed\n".to_owned()),
        Outcome::Unsigned => (StatusCode::FORBIDDEN, "no valid signature of the log\n".to_owned()),
        Outcome::UnknownLog => (StatusCode::NOT_FOUND, "log is not watched\n".to_owned()),
        Outcome::Known(size) => {
            let mut response = respond(StatusCode::CONFLICT, format!("{size}\n"));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/x.tlog.size"));
            return response;
        }
        Outcome::Inconsistent => (StatusCode::UNPROCESSABLE_ENTITY, "log does not continue\n".to_owned()),
        Outcome::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "cannot remember\n".to_owned()),
    };
    respond(status, text)
}

fn respond(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::record::origin_hash;
    use super::super::record::tests::{Log, ORIGIN, log_key};
    use super::*;
    use crate::clock::SystemClock;

    async fn running(dir: &std::path::Path, prefix: &'static str) -> RunningWitness {
        let settings = WitnessSettings {
            dir: dir.to_owned(),
            name: Some("witness.example/w1".to_owned()),
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            prefix,
            logs: vec![log_key().verify_key().clone()],
        };
        start(settings, Arc::new(SystemClock)).await.unwrap()
    }

    async fn post(addr: SocketAddr, path: &str, body: impl Into<reqwest::Body>) -> (u16, String, String) {
        let url = format!("http://{addr}{path}");
        let response = reqwest::Client::new().post(url).body(body).send().await.unwrap();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (response.status().as_u16(), kind, response.text().await.unwrap())
    }

    #[tokio::test]
    async fn the_statuses_and_types_are_those_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let running = running(dir.path(), "").await;
        let log = Log(0);
        let (status, _, line) = post(running.addr, "/add-checkpoint", log.request(0, 5)).await;
        assert_eq!(status, 200);
        assert!(line.starts_with("\u{2014} witness.example/w1 ") && line.ends_with('\n'), "{line}");
        let (status, kind, size) = post(running.addr, "/add-checkpoint", log.request(0, 9)).await;
        assert_eq!((status, kind.as_str(), size.as_str()), (409, "text/x.tlog.size", "5\n"));
        let long = vec![b'a'; BODY_BYTES_MAX + 1];
        for (body, expected) in [
            (b"garbage".to_vec(), 400),
            (b"\xff\xfe".to_vec(), 400),
            (long, 400),
            (log.request(5, 9).replace(ORIGIN, "elsewhere").into_bytes(), 404),
            (log.request(5, 9).replace("\n9\n", "\n8\n").into_bytes(), 403),
            (Log(1).request(5, 9).into_bytes(), 422),
            (log.request(5, 9).into_bytes(), 200),
        ] {
            assert_eq!(post(running.addr, "/add-checkpoint", body).await.0, expected);
        }
        assert_eq!(post(running.addr, "/elsewhere", "").await.0, 404);
        let get = |path: String| reqwest::get(format!("http://{}{path}", running.addr));
        let served = get(format!("/{}/checkpoint", origin_hash(ORIGIN))).await.unwrap().text().await.unwrap();
        assert_eq!(log_key().verify_key().verify(&served).unwrap().size, 9);
        assert!(served.contains("witness.example/w1"), "{served}");
        assert_eq!(get(format!("/{}/checkpoint", origin_hash("x"))).await.unwrap().status(), 404);
        assert_eq!(get("/add-checkpoint".to_owned()).await.unwrap().status(), 405);
    }

    #[tokio::test]
    async fn two_requests_at_once_never_take_the_log_back() {
        let dir = tempfile::tempdir().unwrap();
        let running = running(dir.path(), "/witness").await;
        let log = Log(0);
        assert_eq!(post(running.addr, "/witness/add-checkpoint", log.request(0, 5)).await.0, 200);
        let mut requests = JoinSet::new();
        for size in 6..30 {
            requests.spawn(post(running.addr, "/witness/add-checkpoint", log.request(5, size)));
        }
        let statuses: Vec<u16> = requests.join_all().await.into_iter().map(|answered| answered.0).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 409)), "{statuses:?}");
    }

    #[tokio::test]
    async fn beyond_loopback_it_wants_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let settings = WitnessSettings {
            dir: dir.path().to_owned(),
            name: None,
            listen: "0.0.0.0:0".parse().unwrap(),
            tls: None,
            prefix: "",
            logs: Vec::new(),
        };
        assert!(matches!(start(settings, Arc::new(SystemClock)).await, Err(WitnessError::NotLoopback { .. })));
    }
}
