//! `keytrail playbook`: what playbooks say, whether they do it, why they did, and how far they may go.

mod explain;
mod promote;

use super::responder::store;
use super::rules::Folder;
use super::say;
use crate::cli::{DataArgs, FolderArgs, PlaybookCommand};
use crate::config::Config;
use anyhow::Context;
use keytrail_responder::playbook::{self, Mode, Playbook};
use keytrail_responder::{rehearse, standing};
use keytrail_trail::rule::RuleSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) async fn run(command: PlaybookCommand) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        PlaybookCommand::Check(args) => check(args).map(done),
        PlaybookCommand::Test(args) => test(args),
        PlaybookCommand::List { data } => list(&data).map(done),
        PlaybookCommand::Explain { data, id } => explain::run(&data, &id).map(done),
        PlaybookCommand::Promote { data, id, to, yes, by } => promote::run(&data, &id, to, yes, by).await.map(done),
    }
}

/// The playbooks below a folder of rules.
fn load(rules: &Path) -> anyhow::Result<Vec<Playbook>> {
    playbook::load(&rules.join("playbooks")).context("load the playbooks")
}

fn rules_of(data: &DataArgs) -> PathBuf {
    data.data.join("rules")
}

fn check(args: FolderArgs) -> anyhow::Result<()> {
    let folder = Folder::of(args.dir)?;
    let playbooks = load(folder.path())?;
    let rules = RuleSet::load(folder.path()).context("load the rules")?;
    let windows = windows_beside(folder.path())?;
    let mut warnings = 0;
    let mut warn = |text: String| {
        warnings += 1;
        say(&format!("warn  {text}"));
    };
    for playbook in &playbooks {
        let missing: Vec<&String> = playbook.matches.rules.iter().filter(|rule| rules.rule(rule).is_none()).collect();
        for rule in &missing {
            warn(format!("{}: rule {rule} is not in this folder", playbook.id));
        }
        if missing.len() == playbook.matches.rules.len() {
            warn(format!("{}: no rule feeds it", playbook.id));
        }
        if playbook.tests.is_empty() {
            warn(format!("{}: it has no tests", playbook.id));
        }
        for name in &playbook.guard.held_by {
            if windows.as_ref().is_some_and(|windows| !windows.contains(name)) {
                warn(format!("{}: maintenance window {name} is not in keytrail.toml", playbook.id));
            }
        }
        let steps: Vec<String> = playbook.steps.iter().map(|step| step.action.to_string()).collect();
        say(&format!("ok    {} v{} {}: {}", playbook.id, playbook.version, playbook.mode, steps.join(", ")));
    }
    say(&format!("{} playbooks, {warnings} warnings", playbooks.len()));
    Ok(())
}

/// Names of the maintenance windows of the data folder that the rules are in, where they are in one.
fn windows_beside(rules: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let Some(file) = rules.parent().map(|dir| dir.join("keytrail.toml")).filter(|file| file.is_file()) else {
        return Ok(None);
    };
    let windows = Config::read(&file)?.responder.maintenance;
    Ok(Some(windows.into_iter().map(|window| window.name).collect()))
}

fn test(args: FolderArgs) -> anyhow::Result<ExitCode> {
    let folder = Folder::of(args.dir)?;
    let (mut passed, mut failed) = (0, 0);
    for playbook in load(folder.path())? {
        for result in rehearse::test(&playbook, folder.path()) {
            match result.outcome {
                Ok(()) => {
                    passed += 1;
                    say(&format!("ok    {}: {}", result.playbook, result.name));
                }
                Err(reason) => {
                    failed += 1;
                    say(&format!("FAIL  {}: {}\n      {reason}", result.playbook, result.name));
                }
            }
        }
    }
    say(&format!("{passed} passed, {failed} failed"));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(data: &DataArgs) -> anyhow::Result<()> {
    let playbooks = load(&rules_of(data))?;
    let (node, promoted) = match store(data) {
        Ok(store) => store.read_now(|db| Ok((standing::mode(db)?, standing::promoted(db)?)))?,
        // Before the first start everything is as the files have it.
        Err(_) => Default::default(),
    };
    say(&format!("{:<28} {:<8} {:<8} {:<9} {:<10} RULES", "PLAYBOOK", "VERSION", "FILE", "SET TO", "EFFECTIVE"));
    for playbook in playbooks {
        let set = promoted.get(&playbook.id).copied();
        let lower = playbook.mode.min(set.unwrap_or(Mode::Enforce));
        let effective = node.map_or_else(|| "-".to_owned(), |node| lower.min(node).to_string());
        let set = set.map_or_else(|| "-".to_owned(), |mode| mode.to_string());
        let (id, version, mode) = (&playbook.id, playbook.version, playbook.mode.to_string());
        say(&format!("{id:<28} {version:<8} {mode:<8} {set:<9} {effective:<10} {}", playbook.matches.rules.join(",")));
    }
    let node = node.map_or_else(|| "has never run here".to_owned(), |mode| format!("runs to {mode}"));
    say(&format!("the responder {node}; the lowest of responder, file and what was set holds"));
    Ok(())
}
