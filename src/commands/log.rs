//! Rows of a folder's log for commands that explain it: the same door as `keytrail sql`, so also beside a running node.

use anyhow::Context;
use keytrail_trail::lake::snapshot::Snapshot;
pub(crate) use keytrail_trail::query::quoted;
use keytrail_trail::query::{self, Cancel, Format, Limits, Output, gate};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Most rows that one command takes into memory.
const ROWS_MAX: u64 = 100_000;

/// Runs SELECTs over one snapshot; each row is a JSON object.
pub(crate) struct Log {
    dir: std::path::PathBuf,
    snapshot: Arc<Snapshot>,
}

impl Log {
    /// Everything durable now.
    pub(crate) async fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { dir: dir.to_owned(), snapshot: snapshot(dir).await? })
    }

    /// What is read.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The condition on rows of our own logs: an imported record could claim to be any of our calls.
    pub(crate) fn own(&self) -> String {
        let logs: Vec<String> = self.snapshot.own_logs().map(|(log, _)| quoted(&log.to_string())).collect();
        if logs.is_empty() { "false".to_owned() } else { format!("log IN ({})", logs.join(", ")) }
    }

    /// `sql` must hold no text from outside that `quoted` has not seen.
    pub(crate) async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Value>> {
        let limits = Limits { rows_max: ROWS_MAX, ..Limits::default() };
        let session =
            query::session(&self.snapshot, &limits, Some(self.dir.join("trail.db"))).context("open a session")?;
        let plan = gate::plan(&session, sql).await?;
        let mut rows = query::run(&session, plan, &limits, Cancel::new())?;
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, Format::Jsonl, rows.schema());
        while let Some(batch) = rows.next().await {
            output.write(&batch?)?;
        }
        output.finish()?;
        let lines = std::str::from_utf8(&bytes).context("read the rows")?.lines();
        lines.map(|line| serde_json::from_str(line).context("read a row")).collect()
    }
}

/// Everything durable now; anything odd about the folder goes to stderr.
pub(crate) async fn snapshot(dir: &Path) -> anyhow::Result<Arc<Snapshot>> {
    let snapshot = query::open_folder(dir).await.with_context(|| format!("open {}", dir.display()))?;
    for notice in snapshot.notices() {
        tracing::warn!("{notice}");
    }
    Ok(Arc::new(snapshot))
}
