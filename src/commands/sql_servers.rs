//! The SQL servers of the trail: what `[sql]` of keytrail.toml asks for, over the lake as it grows.

use super::Settings;
use crate::config::SqlTls;
use anyhow::Context;
use keytrail_kms::tls::{self, Tls, TlsFiles};
use keytrail_trail::query::SharedMemory;
use keytrail_trail::serve::{Doors, Users, http, wire};
use keytrail_trail::service::RunningTrail;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Starts them; gives their fields of the ready line. They end with the process.
pub(super) async fn start(settings: &Settings, trail: &RunningTrail) -> anyhow::Result<String> {
    let Some(section) = &settings.config.sql else { return Ok(String::new()) };
    let users = Users::open(&settings.dir).context("read the users: `keytrail sql-user add` makes the first one")?;
    let log = Arc::new(settings.trail_client()?);
    let memory = SharedMemory::new(usize::try_from(section.memory_max.as_u64())?);
    let db = settings.dir.join("trail.db");
    let doors = Doors::new(users, trail.snapshots(), db, log, section.connections_max, memory);
    let mut fields = String::new();
    let SqlTls { cert_file, key_file } = section.tls.clone();
    let files = TlsFiles { cert_file, key_file, client_ca_file: None };
    let tls = |alpn| Tls::open(files.clone(), alpn).context("use TLS for SQL");
    if let Some(addr) = section.postgres {
        let tls = tls(wire::ALPN)?;
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listen for PostgreSQL on {addr}"))?;
        let addr = listener.local_addr().context("read the address for PostgreSQL")?;
        tokio::spawn(wire::serve(listener, Arc::new(tls), doors.clone()));
        fields = format!(" postgres={addr}");
    }
    if let Some(addr) = section.http {
        let tls = tls(tls::HTTP)?;
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listen for SQL over HTTP on {addr}"))?;
        let addr = listener.local_addr().context("read the address for SQL over HTTP")?;
        tokio::spawn(http::serve(listener, Arc::new(tls), doors));
        fields.push_str(&format!(" http={addr}"));
    }
    Ok(fields)
}
