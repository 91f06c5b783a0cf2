//! `GET /log/<log id>/checkpoint` and `/log/<log id>/tile/...`: the log as C2SP tlog-tiles, for everyone who gets here.
//!
//! No credentials are asked for and no event is left: leaves hold digests with a salt, no names and no payloads. What
//! they tell (how many records, when, of which kind) is said in docs/chain.md, and the configuration can switch this off.
//! Nothing above the newest published checkpoint is given out. A rate for all readers together keeps calls alive.

use crate::chain::Tile;
use crate::node::Node;
use crate::refusals::Allowance;
use crate::signer::LATEST_NAME;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Semaphore;

const PREFIX: &str = "/log/";
/// Answers in one second, on average, for all readers: a tile costs some 0.2 ms, so this is a tenth of a core.
const READS_PER_SEC: u64 = 500;
/// And at once.
const READS_BURST: u64 = 1_000;
/// Threads that readers may keep busy.
const READS_AT_ONCE: usize = 4;
/// Tiles never change.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// Whether a request is for the log.
pub(super) fn is_read(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD) && parts.uri.path().starts_with(PREFIX)
}

/// The bounds of all readers together.
pub(super) struct Readers {
    allowance: Mutex<Allowance>,
    slots: Semaphore,
}

impl Default for Readers {
    fn default() -> Self {
        Self { allowance: Mutex::new(Allowance::FULL), slots: Semaphore::new(READS_AT_ONCE) }
    }
}

/// What can be asked for.
enum Wanted {
    Checkpoint,
    Tile(Tile),
}

impl Readers {
    /// Answers a request below `/log/`.
    pub(super) async fn answer(&self, node: &Arc<Node>, path: &str) -> Response<Full<Bytes>> {
        let Some(wanted) = wanted(node, path) else { return bare(StatusCode::NOT_FOUND) };
        if !self.allowance.lock().take(node.clock.now_us(), 1_000_000 / READS_PER_SEC, READS_BURST) {
            return later(StatusCode::TOO_MANY_REQUESTS);
        }
        let Ok(_slot) = self.slots.acquire().await else { return later(StatusCode::SERVICE_UNAVAILABLE) };
        let reading = Arc::clone(node);
        let read = tokio::task::spawn_blocking(move || read(&reading, &wanted)).await;
        read.unwrap_or_else(|error| {
            tracing::error!(%error, "log cannot be read");
            bare(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

fn wanted(node: &Node, path: &str) -> Option<Wanted> {
    let (log, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
    if log != node.log().to_string() {
        return None;
    }
    if rest == "checkpoint" { Some(Wanted::Checkpoint) } else { Tile::parse(rest).map(Wanted::Tile) }
}

fn read(node: &Node, wanted: &Wanted) -> Response<Full<Bytes>> {
    let note = match std::fs::read_to_string(node.dir.join("checkpoints").join(LATEST_NAME)) {
        Ok(note) => note,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return bare(StatusCode::NOT_FOUND),
        Err(error) => return failed(&error),
    };
    match wanted {
        Wanted::Checkpoint => found("text/plain; charset=utf-8", "no-cache", note.into()),
        Wanted::Tile(tile) => {
            // Ours, so only its second line is looked at: the size up to which tiles are published.
            let size = note.lines().nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
            match node.tile(*tile, size) {
                Ok(Some(bytes)) => found("application/octet-stream", FOREVER, bytes.into()),
                Ok(None) => bare(StatusCode::NOT_FOUND),
                Err(error) => failed(&error),
            }
        }
    }
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    tracing::error!(error = %crate::service::chain(error), "log cannot be read");
    bare(StatusCode::INTERNAL_SERVER_ERROR)
}

fn found(content_type: &'static str, cache: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

fn later(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = bare(status);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    // A tile that is not there yet will be.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
