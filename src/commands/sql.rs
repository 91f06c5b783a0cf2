//! `keytrail sql`: one SELECT over a data folder, in its own process, beside a running service or without one.
//!
//! It reads commits and then frames, takes no lock, and passes the same gate as every other SQL door.

use super::log;
use crate::cli::{Format, SqlArgs};
use anyhow::Context;
use keytrail_trail::query::{self, Cancel, Limits, Output, gate};
use std::io::{BufWriter, stdout};

/// Rows go to stdout as they come.
pub(crate) async fn run(args: SqlArgs) -> anyhow::Result<()> {
    let dir = &args.data.data;
    let limits = Limits { deadline: *args.timeout, rows_max: args.rows_max, ..Limits::default() };
    let snapshot = log::snapshot(dir).await?;
    let session = query::session(&snapshot, &limits, Some(dir.join("trail.db"))).context("open a session")?;
    let plan = gate::plan(&session, &args.query).await?;
    let cancel = Cancel::new();
    let mut signal = super::stop_signal()?;
    let on_signal = cancel.clone();
    tokio::spawn(async move {
        signal.wait().await;
        on_signal.cancel();
    });
    let mut rows = query::run(&session, plan, &limits, cancel)?;
    let mut output = Output::new(BufWriter::new(stdout()), format(args.format), rows.schema());
    while let Some(batch) = rows.next().await {
        output.write(&batch?)?;
    }
    output.finish()?;
    Ok(())
}

fn format(format: Format) -> query::Format {
    match format {
        Format::Table => query::Format::Table,
        Format::Csv => query::Format::Csv,
        Format::Jsonl => query::Format::Jsonl,
    }
}
