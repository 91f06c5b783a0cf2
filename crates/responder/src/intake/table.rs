//! Alerts from the `alerts` table of trail.db, opened read-only and asked again when the trail knocks.
//!
//! The knock is one datagram on `DIR/run/alerts.sock`, which we bind; it only makes us look sooner, and the table is
//! looked at every `POLL` anyway. A table that went back behind our position (a trail.db put back from a copy) is read
//! from its start: alerts seen before are known by id and revision.

use crate::intake::{AlertSource, RawAlert, SourceError};
use crate::store::Store;
use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, timeout};

/// Name of this source in `positions`.
pub const TABLE_SOURCE: &str = "trail.db";
/// Longest time without looking at the table.
const POLL: Duration = Duration::from_millis(200);
/// The same where no socket could be bound.
const POLL_WITHOUT_BELL: Duration = Duration::from_millis(50);
/// Bytes of alerts returned at once: one alert may have 1 MiB.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads `DIR/trail.db`.
pub struct TableSource {
    path: PathBuf,
    connection: Option<Connection>,
    next: i64,
    bell: Option<UnixDatagram>,
    socket: PathBuf,
}

impl TableSource {
    /// Binds the socket and starts after the stored position. Call it with `run/responder.lock` held: a socket file that
    /// is there belongs to a process that is gone.
    pub fn open(data_dir: &Path, store: &Store) -> Result<Self, SourceError> {
        let run = data_dir.join("run");
        let socket = socket_path(data_dir);
        let failed = |error: std::io::Error| SourceError::new("alerts.sock", error);
        std::fs::create_dir_all(&run).map_err(failed)?;
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let next = store
            .read_now(|db| crate::store::position(db, TABLE_SOURCE))
            .map_err(|error| SourceError::new(TABLE_SOURCE, error))?
            .unwrap_or(1);
        let bell = bind(&socket);
        Ok(Self { path: data_dir.join("trail.db"), connection: None, next, bell, socket })
    }

    fn look(&mut self, alerts_max: usize) -> Result<Vec<RawAlert>, rusqlite::Error> {
        if self.connection.is_none() {
            if !self.path.exists() {
                return Ok(Vec::new());
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(Duration::from_secs(2))?;
            self.connection = Some(connection);
        }
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        if !has_alerts(connection)? {
            return Ok(Vec::new());
        }
        let mut alerts = rows(connection, self.next, alerts_max)?;
        if alerts.is_empty() && went_back(connection, self.next)? {
            tracing::warn!(position = self.next, "trail.db went back behind our position, reading it from its start");
            self.next = 1;
            alerts = rows(connection, self.next, alerts_max)?;
        }
        if let Some(last) = alerts.last() {
            self.next = last.position + 1;
        }
        Ok(alerts)
    }
}

#[async_trait]
impl AlertSource for TableSource {
    async fn next(&mut self, alerts_max: usize, wait: Duration) -> Result<Vec<RawAlert>, SourceError> {
        let until = Instant::now() + wait;
        loop {
            match tokio::task::block_in_place(|| self.look(alerts_max)) {
                Ok(alerts) if alerts.is_empty() => {}
                Ok(alerts) => return Ok(alerts),
                Err(error) => {
                    self.connection = None;
                    return Err(SourceError::new(TABLE_SOURCE, error));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Vec::new());
            }
            // A knock also comes from `incident undo`, which has no alert to show: the caller looks at its outbox.
            if knocked(self.bell.as_ref(), left.min(POLL)).await {
                return Ok(tokio::task::block_in_place(|| self.look(alerts_max)).unwrap_or_default());
            }
        }
    }
}

impl Drop for TableSource {
    fn drop(&mut self) {
        // Left behind, it would only be removed by the next start.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// True when somebody knocked, false after `wait`.
async fn knocked(bell: Option<&UnixDatagram>, wait: Duration) -> bool {
    let Some(bell) = bell else {
        tokio::time::sleep(wait.min(POLL_WITHOUT_BELL)).await;
        return false;
    };
    let mut byte = [0; 16];
    if !matches!(timeout(wait, bell.recv(&mut byte)).await, Ok(Ok(_))) {
        return false;
    }
    while bell.try_recv(&mut byte).is_ok() {}
    true
}

/// Where the trail and `incident undo` knock.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("alerts.sock")
}

/// The socket only saves time: a data folder whose path is too long for one (about 100 bytes) works without.
fn bind(socket: &Path) -> Option<UnixDatagram> {
    match UnixDatagram::bind(socket) {
        Ok(bell) => Some(bell),
        Err(error) => {
            tracing::warn!(path = %socket.display(), %error, "no socket to be woken by, the table is polled");
            None
        }
    }
}

fn has_alerts(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'alerts'")?;
    Ok(statement.query_row([], |_| Ok(())).optional()?.is_some())
}

fn rows(connection: &Connection, next: i64, alerts_max: usize) -> Result<Vec<RawAlert>, rusqlite::Error> {
    let mut statement = connection
        .prepare_cached("SELECT position, json, signature FROM alerts WHERE position >= ?1 ORDER BY position")?;
    let mut found = statement.query([next])?;
    let (mut alerts, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        let json: Vec<u8> = row.get(1)?;
        bytes += json.len();
        let signature = row.get(2)?;
        alerts.push(RawAlert { source: TABLE_SOURCE.into(), position: row.get(0)?, json, signature });
        if alerts.len() >= alerts_max || bytes >= BATCH_BYTES_MAX {
            break;
        }
    }
    Ok(alerts)
}

fn went_back(connection: &Connection, next: i64) -> Result<bool, rusqlite::Error> {
    let last: Option<i64> = connection
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'alerts'", [], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0) < next - 1)
}
