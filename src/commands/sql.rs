//! `keytrail sql`: one SELECT over a data folder, in its own process, beside a running service or without one.
//!
//! It reads commits and then frames, takes no lock, and passes the same gate as every other SQL door. Where the folder's
//! node runs, the query is recorded in the log first.

use super::log;
use super::query_log::ShellLog;
use crate::cli::{Format, SqlArgs};
use anyhow::Context;
use keytrail_trail::query::{self, Cancel, Limits, Output, gate};
use keytrail_trail::serve::{Outcome, QueryError, Recorded, end_with};
use std::io::{BufWriter, stdout};

/// Rows go to stdout as they come.
pub(crate) async fn run(args: SqlArgs) -> anyhow::Result<()> {
    let mut recorded = ShellLog::open(&args.data.data)?.begin(&args.query).await?;
    let outcome = answer(&args, recorded.as_mut()).await;
    if let Some(recorded) = &mut recorded {
        match &outcome {
            Ok(()) => recorded.end(Outcome::Ok, None).await,
            Err(error) => match error.downcast_ref::<QueryError>() {
                Some(error) => end_with(recorded, error).await,
                None => recorded.end(Outcome::Failed, Some(&format!("{error:#}"))).await,
            },
        }
    }
    outcome
}

async fn answer(args: &SqlArgs, mut recorded: Option<&mut Recorded>) -> anyhow::Result<()> {
    let dir = &args.data.data;
    let limits = Limits { deadline: *args.timeout, rows_max: args.rows_max, ..Limits::default() };
    let snapshot = log::snapshot(dir).await?;
    let session = query::session(&snapshot, &limits, Some(dir.join("trail.db"))).context("open a session")?;
    let plan = gate::plan(&session, &args.query).await.map_err(QueryError::from)?;
    let cancel = Cancel::new();
    let mut signal = super::stop_signal()?;
    let on_signal = cancel.clone();
    tokio::spawn(async move {
        signal.wait().await;
        on_signal.cancel();
    });
    let mut rows = query::run(&session, plan, &limits, cancel).map_err(QueryError::from)?;
    let mut output = Output::new(BufWriter::new(stdout()), format(args.format), rows.schema());
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(QueryError::from)?;
        if let Some(recorded) = &mut recorded {
            recorded.count_batch(&batch);
        }
        output.write(&batch)?;
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
