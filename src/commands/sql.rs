//! `keytrail sql`: SELECTs over a data folder, in their own process, beside a running service or without one.
//!
//! It reads commits and then frames, takes no lock, and passes the same gate as every other SQL door. Statements come from
//! the command line, from stdin, or from the shell when stdin is a terminal.

mod shell;

use super::log;
use crate::cli::{Format, SqlArgs};
use anyhow::Context;
use keytrail_trail::query::gate::SQL_BYTES_MAX;
use keytrail_trail::query::{self, Cancel, Limits, Output, gate, statements};
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
    // One statement goes on as it was written, also where it is none: the gate's answer is the better one.
    let several = statements::split(&text).ok().filter(|several| several.len() > 1);
    for statement in several.unwrap_or_else(|| vec![text]) {
        execute(&args, &statement, args.format, cancel.clone()).await?;
    }
    Ok(())
}

fn input() -> anyhow::Result<String> {
    let mut text = String::new();
    stdin().take(INPUT_BYTES_MAX + 1).read_to_string(&mut text).context("read statements from stdin")?;
    anyhow::ensure!(text.len() as u64 <= INPUT_BYTES_MAX, "stdin has more than {INPUT_BYTES_MAX} bytes");
    Ok(text)
}

/// Runs one statement over what is durable now.
async fn execute(args: &SqlArgs, statement: &str, format: Format, cancel: Cancel) -> anyhow::Result<()> {
    let dir = &args.data.data;
    let limits = Limits { deadline: *args.timeout, rows_max: args.rows_max, ..Limits::default() };
    let snapshot = log::snapshot(dir).await?;
    let session = query::session(&snapshot, &limits, Some(dir.join("trail.db"))).context("open a session")?;
    let plan = gate::plan(&session, statement).await?;
    let mut rows = query::run(&session, plan, &limits, cancel)?;
    let mut output = Output::new(BufWriter::new(stdout()), form(format), rows.schema());
    while let Some(batch) = rows.next().await {
        output.write(&batch?)?;
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
