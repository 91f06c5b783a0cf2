//! `--health`: `/livez`, `/readyz` and `/metrics` of one part, away from the AWS endpoint.
//!
//! Nobody has to prove anything here: whoever reaches the address learns how many calls of which kind were answered, how
//! far the log is and how full the disk, never who, which key or what. A few connections at a time, GET only, bodies unread.

use super::http;
use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Connections at once; a scraper keeps one.
const CONNECTIONS_MAX: usize = 32;

/// What a part says about itself.
#[derive(Default)]
pub(crate) struct Report {
    /// Why it is not ready; empty when it is.
    pub(crate) trouble: Vec<String>,
    /// What works less well than it should, told at `/readyz?verbose` without making the part unready.
    pub(crate) degraded: Vec<String>,
    /// In Prometheus's text format.
    pub(crate) metrics: Metrics,
}

/// Metrics in Prometheus's text exposition format 0.0.4.
#[derive(Default)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Begins a metric: name, `counter`, `gauge` or `histogram`, and what it is.
    pub(crate) fn begin(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One sample; `labels` as they stand between braces, made of our own words only.
    pub(crate) fn sample(&mut self, name: &str, labels: &str, value: impl Display) -> &mut Self {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
        self
    }

    /// A metric of one sample that may fall.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> &mut Self {
        self.begin(name, "gauge", help).sample(name, "", value)
    }

    /// A metric of one sample that only grows.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) -> &mut Self {
        self.begin(name, "counter", help).sample(name, "", value)
    }
}

/// Serves until the process ends; gives the address.
pub(crate) async fn serve(
    addr: SocketAddr,
    report: impl Fn() -> Report + Send + Sync + 'static,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("listen for health checks on {addr}"))?;
    let addr = listener.local_addr().context("read the address for health checks")?;
    let report = Arc::new(report);
    let answer = move |request: Request<Incoming>| {
        let report = Arc::clone(&report);
        async move { answer(&request, &*report) }
    };
    tokio::spawn(http::accept(listener, "health check", CONNECTIONS_MAX, answer));
    Ok(addr)
}

fn answer(request: &Request<Incoming>, report: &impl Fn() -> Report) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match report() {
            Report { trouble, degraded, .. } if trouble.is_empty() => {
                let verbose = request.uri().query() == Some("verbose");
                let told = degraded.iter().filter(|_| verbose).map(|what| format!("degraded: {what}\n"));
                (StatusCode::OK, "ok\n".to_owned() + &told.collect::<String>())
            }
            Report { trouble, .. } => (StatusCode::SERVICE_UNAVAILABLE, trouble.join("\n") + "\n"),
        },
        (&Method::GET, "/metrics") => (StatusCode::OK, report().metrics.0),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "see /livez, /readyz, /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// The disk under a folder, and when it will be full if it goes on filling as since the start.
pub(crate) struct Disk {
    began: Instant,
    free_bytes: Option<u64>,
}

impl Disk {
    /// Looks for the first time.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { began: Instant::now(), free_bytes: free_bytes(dir) }
    }

    /// Looks again.
    pub(crate) fn report(&self, dir: &Path, metrics: &mut Metrics) {
        let Some(free) = free_bytes(dir) else { return };
        metrics.gauge("keytrail_disk_free_bytes", "Bytes left to us on the disk of the data folder", free);
        if let Some(days) = self.days_to_full(free, self.began.elapsed()) {
            let help = "Days until that disk is full, at the mean rate since this process started";
            metrics.gauge("keytrail_disk_days_to_full", help, format!("{days:.2}"));
        }
    }

    /// None while nothing was filled, or too early to tell.
    fn days_to_full(&self, free: u64, elapsed: Duration) -> Option<f64> {
        let filled = self.free_bytes?.checked_sub(free).filter(|filled| *filled > 0)?;
        let days = elapsed.as_secs_f64() / 86_400.0;
        (elapsed >= Duration::from_secs(60)).then(|| free as f64 / (filled as f64 / days))
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_follows_the_mean_rate() {
        let disk = Disk { began: Instant::now(), free_bytes: Some(100) };
        let hour = Duration::from_secs(3_600);
        assert_eq!(disk.days_to_full(100, hour), None, "nothing was filled");
        assert_eq!(disk.days_to_full(120, hour), None, "it got emptier");
        assert_eq!(disk.days_to_full(50, Duration::from_secs(1)), None, "too early");
        let days = disk.days_to_full(50, 24 * hour);
        assert!(days.is_some_and(|days| (days - 1.0).abs() < 1e-9), "{days:?}");
    }
}
