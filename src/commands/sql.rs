//! `keytrail sql`: SELECTs over a data folder, in their own process, beside a running service or without one.
//!
//! It reads commits and then frames, takes no lock, and passes the same gate as every other SQL door. Where the folder's
//! node runs, each statement is recorded in the log first. Statements come from the command line, from stdin, or from the
//! shell when stdin is a terminal.

mod shell;

use super::log;
use super::query_log::ShellLog;
use crate::cli::{Format, SqlArgs};
use anyhow::Context;
use keytrail_trail::query::gate::SQL_BYTES_MAX;
use keytrail_trail::query::{self, Cancel, Limits, Output, gate, statements};
use keytrail_trail::serve::{Outcome, QueryError, Recorded, end_with};
use std::io::{BufWriter, IsTerminal as _, Read as _, stdin, stdout};

/// Longest text from stdin: some statements.
const INPUT_BYTES_MAX: u64 = 16 * SQL_BYTES_MAX as u64;

/// Rows go to stdout as they come. The first statement that fails ends it, except in the shell.
pub(crate) async fn run(args: SqlArgs) -> anyhow::Result<()> {
    let text = match &args.query {
        Some(text) => text.clone(),
        None if stdin().is_terminal() => return shell::run(&args).await,
        None => input()?,
    };
    let cancel = Cancel::new();
    let mut signal = super::stop_signal()?;
    let on_signal = cancel.clone();
    tokio::spawn(async move {
        signal.wait().await;
        on_signal.cancel();
    });
    let mut log = ShellLog::open(&args.data.data)?;
    // One statement goes on as it was written, also where it is none: the gate's answer is the better one.
    let several = statements::split(&text).ok().filter(|several| several.len() > 1);
    for statement in several.unwrap_or_else(|| vec![text]) {
        execute(&args, &mut log, &statement, args.format, cancel.clone()).await?;
    }
    Ok(())
}

fn input() -> anyhow::Result<String> {
    let mut text = String::new();
    stdin().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).context("read statements from stdin")?;
    anyhow::ensure!(text.len() as u64 <= INPUT_BYTES_MAX, "stdin has more than {INPUT_BYTES_MAX} bytes");
    Ok(text)
}

/// Records one statement, runs it over what is durable now, and records how it ended.
async fn execute(
    args: &SqlArgs,
    log: &mut ShellLog,
    statement: &str,
    format: Format,
    cancel: Cancel,
) -> anyhow::Result<()> {
    let mut recorded = log.begin(statement).await?;
    let outcome = answer(args, recorded.as_mut(), statement, format, cancel).await;
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

async fn answer(
    args: &SqlArgs,
    mut recorded: Option<&mut Recorded>,
    statement: &str,
    format: Format,
    cancel: Cancel,
) -> anyhow::Result<()> {
    let dir = &args.data.data;
    let limits = Limits { deadline: *args.timeout, rows_max: args.rows_max, ..Limits::default() };
    let snapshot = log::snapshot(dir).await?;
    let session = query::session(&snapshot, &limits, Some(dir.join("trail.db"))).context("open a session")?;
    let plan = gate::plan(&session, statement).await.map_err(QueryError::from)?;
    let mut rows = query::run(&session, plan, &limits, cancel).map_err(QueryError::from)?;
    let mut output = Output::new(BufWriter::new(stdout()), form(format), rows.schema());
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

fn form(format: Format) -> query::Format {
    match format {
        Format::Table => query::Format::Table,
        Format::Csv => query::Format::Csv,
        Format::Jsonl => query::Format::Jsonl,
    }
}
