//! The load tool of the benches: pre-signed requests over kept connections, latencies in a histogram.

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// A request signed ahead of time; AWS accepts a signature again within five minutes, and so do we.
pub(crate) struct Signed {
    /// Header names and values, authorization included.
    pub(crate) headers: Vec<(String, String)>,
    /// The JSON body that was signed.
    pub(crate) body: Bytes,
}

/// What one measurement saw.
pub(crate) struct Outcome {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// The quantile of the latency in milliseconds.
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// How the load arrives.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// For this long, each connection sends its next call when the last was answered.
    Closed(Duration),
    /// This many calls in all, sent like that.
    Calls(u32),
    /// For this long, this many calls a second in all, spread evenly over the connections.
    PerSecond(u32, Duration),
}

/// Sends `requests` round robin over `connections`; any answer but 200 ends the measurement.
pub(crate) async fn measure(
    addr: SocketAddr,
    requests: Arc<Vec<Signed>>,
    connections: usize,
    load: Load,
) -> anyhow::Result<Outcome> {
    let begin = Instant::now();
    let left = Arc::new(AtomicU32::new(if let Load::Calls(calls) = load { calls } else { u32::MAX }));
    let mut tasks = Vec::with_capacity(connections);
    let mut starts = Vec::with_capacity(connections);
    for first in 0..connections {
        let turn = match load {
            Load::Closed(duration) => Turn::Until(begin + duration),
            Load::Calls(_) => Turn::Left(Arc::clone(&left)),
            Load::PerSecond(..) => {
                let (start, due) = mpsc::unbounded_channel();
                starts.push(start);
                Turn::Due(due)
            }
        };
        tasks.push(tokio::spawn(connection(addr, Arc::clone(&requests), first, turn)));
    }
    if let Load::PerSecond(rate, duration) = load {
        let calls = u32::try_from(duration.as_millis())? / 1000 * rate;
        std::thread::spawn(move || pace(begin, Duration::from_secs(1) / rate, calls, &starts));
    }
    let mut latency = histogram()?;
    for task in tasks {
        latency.add(task.await.context("join a load connection")??).context("add up latencies")?;
    }
    Ok(Outcome { calls: latency.len(), elapsed: begin.elapsed(), latency })
}

/// When a connection's next call starts.
enum Turn {
    Until(Instant),
    Left(Arc<AtomicU32>),
    Due(mpsc::UnboundedReceiver<Instant>),
}

impl Turn {
    /// The time from which the latency counts: when the call was due, so that a stalled server cannot hide behind calls
    /// not sent. None: no more calls.
    async fn next(&mut self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Until(end) => (now < *end).then_some(now),
            Self::Left(left) => {
                let one = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                one.is_ok().then_some(now)
            }
            Self::Due(due) => due.recv().await,
        }
    }
}

/// Tells the connections in turn that a call is due, evenly spread. On a thread of its own, because the runtime's timers
/// count whole milliseconds, which is as long as a call takes.
fn pace(begin: Instant, period: Duration, calls: u32, starts: &[mpsc::UnboundedSender<Instant>]) {
    for (call, start) in (0..calls).zip(starts.iter().cycle()) {
        let due = begin + period * call;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A connection that failed has ended; its error ends the measurement.
        let _ = start.send(due);
    }
}

async fn connection(
    addr: SocketAddr,
    requests: Arc<Vec<Signed>>,
    first: usize,
    mut turn: Turn,
) -> anyhow::Result<Histogram<u64>> {
    let mut sender = connect(addr).await?;
    let mut latency = histogram()?;
    for request in requests.iter().cycle().skip(first % requests.len().max(1)) {
        let Some(start) = turn.next().await else { break };
        send(&mut sender, addr, request).await?;
        latency.saturating_record(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(latency)
}

/// Opens one kept connection.
pub(crate) async fn connect(addr: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(addr).await.context("connect to the service under load")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await.context("open an HTTP connection")?;
    tokio::spawn(driver);
    Ok(sender)
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, addr: SocketAddr, signed: &Signed) -> anyhow::Result<Bytes> {
    let mut request = Request::builder().method(Method::POST).uri("/");
    for (name, value) in &signed.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(signed.body.clone())).context("build a request")?;
    sender.ready().await.with_context(|| format!("keep the connection to {addr}"))?;
    let answer = sender.send_request(request).await.context("send a request")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("read an answer")?.to_bytes();
    if status != StatusCode::OK {
        bail!("the service answered {status} under load: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000, 3).context("make a histogram")
}
