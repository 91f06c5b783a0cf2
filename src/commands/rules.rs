//! `keytrail rules`: a folder of rules, its tests, and what can be said of it without data. Over data: `history`.
//!
//! The exit code says whether all passed, so that a pipeline can ask.

mod history;
mod new;

use super::say;
use crate::cli::RulesCommand;
use crate::shipped;
use anyhow::Context;
use keytrail_trail::rule::{RuleSet, coverage, explain, lint, mutate, test};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) async fn run(command: RulesCommand) -> anyhow::Result<ExitCode> {
    match command {
        RulesCommand::Test { dir, mutate, rule } => Folder::of(dir)?.test(mutate, rule.as_deref()),
        RulesCommand::Lint { dir } => Folder::of(dir)?.lint(),
        RulesCommand::Explain { rule, rules } => {
            let set = RuleSet::load(Folder::of(rules)?.path())?;
            let rule = set.rule(&rule).with_context(|| format!("no rule is called {rule:?}"))?;
            explain::explain(rule).map_err(anyhow::Error::msg)?.iter().for_each(|line| say(line));
            Ok(ExitCode::SUCCESS)
        }
        RulesCommand::Coverage { dir, controls } => Folder::of(dir)?.coverage(controls),
        RulesCommand::New { id, rules, pack } => new::write(&id, &rules, &pack),
        RulesCommand::Backtest(args) => history::backtest(args).await,
        RulesCommand::Calibrate(args) => history::calibrate(args).await,
        RulesCommand::Diff { old, new, over } => history::diff(&old, &new, over).await,
        RulesCommand::Score { history, labels } => history::score(history, &labels).await,
    }
}

/// A folder of rules: the one named, or a copy of the shipped ones.
pub(super) enum Folder {
    Named(PathBuf),
    Shipped(tempfile::TempDir),
}

impl Folder {
    pub(super) fn of(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(dir) = dir {
            return Ok(Self::Named(dir));
        }
        let copy = tempfile::tempdir().context("make a folder")?;
        shipped::write(copy.path()).context("write the shipped rules")?;
        Ok(Self::Shipped(copy))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Named(dir) => dir,
            Self::Shipped(copy) => copy.path(),
        }
    }

    fn test(&self, mutate: bool, rule: Option<&str>) -> anyhow::Result<ExitCode> {
        RuleSet::load(self.path())?;
        let set = RuleSet::as_written(self.path())?;
        let wanted = |id: &str| rule.is_none_or(|rule| rule == id);
        let results = test::run(&set, |rule| wanted(rule.id()));
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
        if !mutate || failed > 0 {
            return Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        let mutants = mutate::mutate(&set, |rule| wanted(rule.id())).map_err(anyhow::Error::msg)?;
        let alive: Vec<_> = mutants.iter().filter(|mutant| mutant.killed_by.is_none()).collect();
        for mutant in &alive {
            say(&format!("ALIVE {}: {}", mutant.file, mutant.change));
        }
        say(&format!("{} mutants, {} noticed by no test", mutants.len(), alive.len()));
        Ok(if alive.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn lint(&self) -> anyhow::Result<ExitCode> {
        let set = RuleSet::load(self.path())?;
        let remarks = lint::lint(&set);
        for remark in &remarks {
            say(&format!("{:<6}{}: {}", if remark.warning { "warn" } else { "note" }, remark.file, remark.text));
        }
        let warnings = remarks.iter().filter(|remark| remark.warning).count();
        say(&format!("{} rules, {warnings} warnings, {} notes", set.rules().len(), remarks.len() - warnings));
        Ok(if warnings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn coverage(&self, controls: bool) -> anyhow::Result<ExitCode> {
        let set = RuleSet::load(self.path())?;
        if !controls {
            say(&serde_json::to_string_pretty(&coverage::layer(&set)).context("write the layer")?);
            return Ok(ExitCode::SUCCESS);
        }
        for (control, rules) in coverage::controls(&set) {
            say(&format!("{control:<28}{}", rules.into_iter().collect::<Vec<_>>().join(", ")));
        }
        Ok(ExitCode::SUCCESS)
    }
}
