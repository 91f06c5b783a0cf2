//! `keytrail lake check|delta`: whether the lake's files prove their chains, and a Delta log over them.

use super::say;
use crate::cli::LakeCommand;
use anyhow::Context;
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_trail::lake::{check, delta};
use std::path::Path;

pub(crate) fn run(command: &LakeCommand) -> anyhow::Result<()> {
    match command {
        LakeCommand::Check(args) => run_check(&args.data.join("lake")),
        LakeCommand::Delta(args) => run_delta(&args.data.join("lake")),
    }
}

/// That rows lead from the first link to the last says nothing of who wrote them: `verify` compares with signatures.
fn run_check(lake: &Path) -> anyhow::Result<()> {
    let checked = check(lake).context("check the lake")?;
    for notice in &checked.notices {
        say(&format!("notice  {notice}"));
    }
    for (log, end) in &checked.positions {
        let first = checked.starts.get(log).map_or(0, |start| start.next_seq);
        let last = end.next_seq.checked_sub(1).filter(|last| *last >= first);
        let range = last.map_or_else(|| "no records".to_owned(), |last| format!("seq {first} to {last}"));
        say(&format!("log     {log}: {range}, chain intact"));
        if let Some(pruned) = first.checked_sub(1) {
            say(&format!("pruned  up to seq {pruned} by retention: those records were not checked"));
        }
    }
    say(&format!("rows    {}", checked.rows));
    Ok(())
}

fn run_delta(lake: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(lake.is_dir(), "{} is no lake", lake.display());
    let table = delta::write_log(lake, SystemClock.now_us()).context("write the Delta log")?;
    let state = if table.changed { "written" } else { "is up to date" };
    say(&format!("Delta version {} {state}: {} files, {} rows", table.version, table.files, table.rows));
    Ok(())
}
