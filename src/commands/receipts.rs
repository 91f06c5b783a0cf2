//! `keytrail receipts check FILE`: names every receipt whose record is not in the log.
//!
//! Exit code 0 only when all are there; 1 when one is missing; 2 when some cannot be judged yet, or there are none.

use super::say;
use super::verify::read_vkey;
use crate::cli::{ReceiptsCheckArgs, ReceiptsCommand};
use anyhow::{Context, bail};
use keytrail_kms::receipts::{Finding, Summary, check};
use keytrail_kms::tiles::{LogView, TileSource};
use keytrail_trail::query::printable;
use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;
use tokio::runtime::Handle;

pub(crate) async fn run(command: ReceiptsCommand) -> anyhow::Result<ExitCode> {
    let ReceiptsCommand::Check(args) = command;
    let runtime = Handle::current();
    // Tiles over HTTP are waited for on this thread.
    tokio::task::spawn_blocking(move || check_file(&args, runtime)).await.context("check receipts")?
}

fn check_file(args: &ReceiptsCheckArgs, runtime: Handle) -> anyhow::Result<ExitCode> {
    let key = args.vkey.as_deref().map(read_vkey).transpose()?;
    match (&args.data, &args.url, key) {
        // --data may come from the environment; an address says more.
        (_, Some(url), Some(key)) => {
            let log = LogView::of_url(url, &key, runtime).with_context(|| format!("open the log at {url}"))?;
            judge(log, args, true)
        }
        (Some(data), None, key) => {
            let log = LogView::of_folder(data, key.as_ref());
            judge(log.with_context(|| format!("open the log in {}", data.display()))?, args, key.is_some())
        }
        (_, Some(_), None) => bail!("--url needs --vkey"),
        (None, None, _) => bail!("give --data or --url"),
    }
}

fn judge<S: TileSource>(
    mut log: LogView<S>,
    args: &ReceiptsCheckArgs,
    key_is_trusted: bool,
) -> anyhow::Result<ExitCode> {
    let file = File::open(&args.file).with_context(|| format!("open {}", args.file.display()))?;
    let summary = check(&mut log, BufReader::new(file), |finding| say(&printable(&line(finding))))?;
    let checkpoint = log.checkpoint();
    say(&format!("checkpoint  {} records of {}, root {}", checkpoint.size, checkpoint.origin, checkpoint.root));
    if !key_is_trusted {
        say("key         the folder's own: give --vkey FILE with a key you got elsewhere");
    }
    let Summary { present, failed, open } = summary;
    say(&format!("receipts    {present} in the log, {failed} not, {open} cannot be judged"));
    Ok(match summary {
        Summary { failed: 1.., .. } => ExitCode::FAILURE,
        Summary { open: 0, present: 1.., .. } => ExitCode::SUCCESS,
        Summary { .. } => ExitCode::from(2),
    })
}

fn line(finding: &Finding) -> String {
    let Finding { line, request_id, seq, fault } = finding;
    let verdict = if fault.is_failure() { "MISSING" } else { "OPEN" };
    match seq {
        Some(seq) => format!("{verdict} request {request_id} seq {seq}: {}", fault.text()),
        None => format!("{verdict} line {line}: {}", fault.text()),
    }
}
