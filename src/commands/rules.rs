//! `keytrail rules test [DIR]`: loads a folder of rules and runs the tests written inside them.
//!
//! Prints one line a test and a closing count; the exit code says whether all passed.

use super::say;
use crate::cli::RulesCommand;
use crate::shipped;
use anyhow::Context;
use keytrail_trail::rule::test;
use std::process::ExitCode;

pub(crate) fn run(command: RulesCommand) -> anyhow::Result<ExitCode> {
    let RulesCommand::Test { dir } = command;
    let shipped_copy = tempfile::tempdir().context("make a folder")?;
    let dir = match dir {
        Some(dir) => dir,
        None => {
            shipped::write(shipped_copy.path()).context("write the shipped rules")?;
            shipped_copy.path().to_owned()
        }
    };
    let results = test::run_dir(&dir)?;
    let mut failed = 0;
    for result in &results {
        match &result.outcome {
            Ok(()) => say(&format!("ok    {}: {}", result.rule_id, result.name)),
            Err(reason) => {
                failed += 1;
                say(&format!(
                    "FAIL  {}: {}\n      {}:{}: {reason}",
                    result.rule_id, result.name, result.file, result.line
                ));
            }
        }
    }
    say(&format!("{} passed, {failed} failed", results.len() - failed));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
