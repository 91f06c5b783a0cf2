//! `keytrail policy`: questions about policies, answered from files and from the log of a data folder.
//!
//! Reads and changes nothing; policies hold no secrets. Exit code 0 when there is nothing to tell, 1 when there is, 2 when
//! something cannot be read.

mod generate;
mod lint;
pub(crate) mod past;
mod replay;
mod who_can;

use super::say;
use crate::cli::PolicyCommand;
use keytrail_trail::query::printable;
use std::process::ExitCode;

pub(crate) use replay::replay;

pub(crate) async fn run(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        PolicyCommand::Lint(args) => lint::run(&args).await,
        PolicyCommand::Replay(args) => replay::run(args).await,
        PolicyCommand::WhoCan(args) => who_can::run(args).await,
        PolicyCommand::Generate(args) => generate::run(args).await,
    };
    done.or_else(|error| {
        tracing::error!("{}", keytrail_kms::describe(error.as_ref()));
        Ok(ExitCode::from(2))
    })
}

/// File names, Sids and ARNs come from others: a terminal obeys none of them.
fn say_printable(line: &str) {
    say(&printable(line));
}

/// A time as people read it.
fn when(us: u64) -> String {
    let time = i64::try_from(us).ok().and_then(chrono::DateTime::from_timestamp_micros);
    time.map_or_else(|| us.to_string(), |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}
