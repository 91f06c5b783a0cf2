//! `keytrail policy lint`: findings on policy files, alone or with the people of an identities.toml, or on all that a data
//! folder has as its log has it.
//!
//! Exit code 0 without findings, 1 with some, 2 when something cannot be read. Reads files and the log, changes
//! nothing; policies hold no secrets.

use super::past::{folded, snapshot};
use super::say_printable;
use crate::cli::{PolicyFormat, PolicyKind, PolicyLintArgs};
use crate::commands::log::Log;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_kms::auth::identities::Identities;
use keytrail_kms::past::Past;
use keytrail_kms::policy::Flavor;
use keytrail_kms::policy::lint::{Example, Finding, lint};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// Findings on several documents together.
const TOGETHER: [&str; 2] = ["administers-and-uses-across", "reaches-decrypt"];

pub(super) async fn run(args: &PolicyLintArgs) -> anyhow::Result<ExitCode> {
    let found = findings(args).await?;
    print(&found, args.format);
    let clean = found.iter().all(|(_, findings)| findings.is_empty());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Findings by file or key.
async fn findings(args: &PolicyLintArgs) -> anyhow::Result<Vec<(String, Vec<Finding>)>> {
    let flavor = match args.kind {
        PolicyKind::Key => Flavor::KeyPolicy,
        PolicyKind::Identity => Flavor::IdentityPolicy,
    };
    let mut found = Vec::new();
    for file in &args.files {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
        let other = || lint(&text, Flavor::IdentityPolicy, &args.account).is_ok();
        let findings = lint(&text, flavor, &args.account).with_context(|| match flavor {
            Flavor::KeyPolicy if other() => {
                format!("{name} reads as a policy of users, groups or roles (--kind identity)")
            }
            _ => format!("parse {name}"),
        })?;
        found.push((name, findings));
    }
    if let Some(identities) = &args.identities {
        found.extend(files_together(args, identities)?);
    }
    if let Some(dir) = &args.data {
        let log = Log::open(dir).await?;
        let current = "SELECT k.key_arn AS key_arn, k.policy AS policy FROM key_policies k WHERE k.current";
        for row in log.rows(current).await? {
            let (Some(key), Some(policy)) = (row["key_arn"].as_str(), row["policy"].as_str()) else { continue };
            let account = key.split(':').nth(4).unwrap_or(&args.account);
            let findings =
                lint(policy, Flavor::KeyPolicy, account).with_context(|| format!("parse policy of {key}"))?;
            found.push((key.to_owned(), findings));
        }
        found.extend(together(dir).await?);
    }
    Ok(found)
}

/// What the files say together with the people of an `identities.toml`.
fn files_together(args: &PolicyLintArgs, identities: &Path) -> anyhow::Result<Vec<(String, Vec<Finding>)>> {
    let text = std::fs::read_to_string(identities).with_context(|| format!("read {}", identities.display()))?;
    let people = Identities::parse(&text).with_context(|| format!("parse {}", identities.display()))?;
    let mut keys = BTreeMap::new();
    for file in &args.files {
        let id = file.file_stem().unwrap_or_default().to_string_lossy();
        let arn = format!("arn:aws:kms:{}:{}:key/{id}", args.region, args.account);
        let policy = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        if keys.insert(arn, policy).is_some() {
            bail!("two files are named {id}: which key is which?");
        }
    }
    let keys: Vec<(String, String)> = keys.into_iter().collect();
    let mut past = Past::of_files(&people, &args.account, &keys).context("parse a key policy")?;
    past.lint(now_us()).context("lint an identity policy")
}

/// What the log has besides key policies: identity policies, grants, and all documents together.
async fn together(dir: &Path) -> anyhow::Result<Vec<(String, Vec<Finding>)>> {
    let snapshot = snapshot(dir).await?;
    let now_us = now_us();
    let linted = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        for mut past in folded(&snapshot, u64::MAX)? {
            if past.unreadable() > 0 {
                bail!("{} changes in the log could not be read", past.unreadable());
            }
            found.extend(past.lint(now_us).context("lint an identity policy of the log")?);
        }
        Ok(found)
    });
    linted.await.context("join the lint")?
}

fn now_us() -> u64 {
    u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or_default()
}

fn print(found: &[(String, Vec<Finding>)], format: PolicyFormat) {
    match format {
        PolicyFormat::Json => {
            let all: Vec<Value> = found.iter().map(|(name, list)| json!({"policy": name, "findings": list})).collect();
            say(&json!(all).to_string());
        }
        PolicyFormat::Table => found.iter().for_each(|(name, list)| list.iter().for_each(|one| print_one(name, one))),
    }
    let count: usize = found.iter().map(|(_, list)| list.len()).sum();
    if format == PolicyFormat::Table {
        say(&format!("{count} findings in {} policies", found.len()));
    }
}

fn print_one(name: &str, finding: &Finding) {
    let statement = finding.statement.as_deref().unwrap_or("-");
    say_printable(&format!("{}  {name}  statement {statement}", finding.code));
    say_printable(&format!("  {}", finding.message));
    if let Some(example) = &finding.example {
        let Example { principal, action, resource, circumstances } = example;
        say_printable(&format!("  allows {action} to {principal} on {resource} ({circumstances})"));
    }
    match &finding.correction {
        Some(correction) if correction.no_wider => say("  corrected, no wider:"),
        Some(_) => say("  corrected, which adds a right:"),
        // Of grants and of several documents together there is none.
        None if finding.code.starts_with("grant-") || TOGETHER.contains(&finding.code) => {}
        None => say("  no correction could be shown to allow no more"),
    }
    let lines = finding.correction.iter().flat_map(|correction| correction.policy.lines());
    lines.for_each(|line| say_printable(&format!("    {line}")));
}
