//! The SQL servers of the trail: what `[sql]` of keytrail.toml asks for, over the lake as it grows.

use super::Settings;
use anyhow::Context;
use keytrail_trail::serve::tls::Tls;
use keytrail_trail::serve::{Doors, Users, wire};
use keytrail_trail::service::RunningTrail;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Starts them; gives their fields of the ready line. They end with the process.
pub(super) async fn start(settings: &Settings, trail: &RunningTrail) -> anyhow::Result<String> {
    let Some(section) = &settings.config.sql else { return Ok(String::new()) };
    let users = Users::open(&settings.dir).context("read the users: `keytrail sql-user add` makes the first one")?;
    let log = Arc::new(settings.trail_client()?);
    let db = settings.dir.join("trail.db");
    let doors = Doors::new(users, trail.snapshots(), db, log, section.connections_max);
    let mut fields = String::new();
    if let Some(addr) = section.postgres {
        let tls = Tls::open(&section.tls.cert_file, &section.tls.key_file, wire::ALPN).context("use TLS for SQL")?;
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listen for PostgreSQL on {addr}"))?;
        let addr = listener.local_addr().context("read the address for PostgreSQL")?;
        tokio::spawn(wire::serve(listener, Arc::new(tls), doors));
        fields = format!(" postgres={addr}");
    }
    Ok(fields)
}
