//! The past of a data folder for the commands: folded in order, log by log.

use crate::commands::log;
use anyhow::{Context, bail};
use keytrail_kms::past::{Past, Replacement};
use keytrail_kms::row::Row;
use keytrail_trail::lake::Snapshot;
use keytrail_trail::lake::events::{Wanted, events};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

/// Everything durable now.
pub(crate) async fn snapshot(dir: &Path) -> anyhow::Result<Arc<Snapshot>> {
    log::snapshot(dir).await
}

/// The state of each log behind its last event before a time.
pub(crate) fn folded(snapshot: &Snapshot, before_us: u64) -> anyhow::Result<Vec<Past>> {
    let wanted = Wanted { time_us: 0..0, key_arn: None, tls: false };
    let mut all = Vec::new();
    for (log, _) in snapshot.own_logs() {
        let mut past = Past::new(Replacement::default());
        let visit = |row: &Row<'_>| {
            if row.time_us < before_us {
                past.take(row);
            }
            Ok::<(), Infallible>(())
        };
        events(snapshot, log, &wanted, visit).context("fold the log")?;
        all.push(past);
    }
    Ok(all)
}

/// The ARN of a key: given as such, or the one behind an id or alias at the end of the log.
pub(super) fn key_arn(snapshot: &Snapshot, named: &str) -> anyhow::Result<String> {
    if named.starts_with("arn:") && named.contains(":key/") {
        return Ok(named.to_owned());
    }
    let mut found: Vec<String> = folded(snapshot, u64::MAX)?.iter().flat_map(|past| past.keys_named(named)).collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("the log has no key {named}"),
        several => bail!("{named} names several keys: {}", several.join(", ")),
    }
}
