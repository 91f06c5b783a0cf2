//! `keytrail incident`: what the responder knows, what people say about it, and taking its containment back.
//!
//! Everything here reads and writes `responder.db`, whether a responder runs on the folder or not; `undo` alone calls the
//! key service.

mod check;
mod listener;
mod users;

pub(super) use listener::start as start_listener;

use super::{Settings, approval, now_us, operator, say, time};
use crate::cli::{
    DataArgs, IncidentCommand, IncidentDeedArgs, IncidentExportArgs, IncidentListArgs, ReasonArg, StateArg,
};
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::clock::SystemClock;
use keytrail_responder::act::SignedControl;
use keytrail_responder::incident::{self, Deed, IncidentDetail, IncidentState, Resolution};
use keytrail_responder::notify::render::clean;
use keytrail_responder::store::Store;
use keytrail_responder::{export, http};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

/// Most incidents listed.
const INCIDENTS_MAX: u32 = 1_000;
/// Longest wait for an undo to take effect.
const UNDO_WAIT: Duration = Duration::from_secs(30);
/// Longest text of an event's making on one line.
const LINE_CHARS_MAX: usize = 600;

pub(crate) async fn run(command: IncidentCommand) -> anyhow::Result<()> {
    match command {
        IncidentCommand::List(args) => list(&args),
        IncidentCommand::Show { data, id, json } => show(&data, &id, json),
        IncidentCommand::Ack(deed) => act(&deed, &Deed::Acknowledge),
        IncidentCommand::Assign { deed, assignee } => act(&deed, &Deed::Assign(assignee)),
        IncidentCommand::Note { deed, text } => act(&deed, &Deed::Note(text)),
        IncidentCommand::Close { deed, reason, text } => act(&deed, &Deed::Close(resolution(reason), text)),
        IncidentCommand::Reopen { deed, text } => act(&deed, &Deed::Reopen(text)),
        IncidentCommand::Merge { deed, into } => act(&deed, &Deed::Merge(into)),
        IncidentCommand::Export(args) => export_to(&args),
        IncidentCommand::Check { data, id } => check::run(&data.data, id.as_deref()).await,
        IncidentCommand::User(command) => users::run(command),
        IncidentCommand::Undo(deed) => undo(&deed).await,
        IncidentCommand::Approve { person, factor, id, action } => {
            approval::approve_incident(&person, &factor, &id, action.as_deref()).await
        }
    }
}

fn list(args: &IncidentListArgs) -> anyhow::Result<()> {
    let state = args.state.map(|state| match state {
        StateArg::Open => IncidentState::Open,
        StateArg::Acknowledged => IncidentState::Acknowledged,
        StateArg::Contained => IncidentState::Contained,
        StateArg::Resolved => IncidentState::Resolved,
        StateArg::Reopened => IncidentState::Reopened,
    });
    let store = Store::open_existing(&args.data.data).context("list incidents")?;
    let found = store.read_now(|db| incident::listed(db, state, INCIDENTS_MAX)).context("list incidents")?;
    if args.json {
        found.iter().try_for_each(|one| serde_json::to_string(one).map(|line| say(&line)))?;
        return Ok(());
    }
    say(&format!("{:<34} {:<12} {:<9} {:<25} {}", "INCIDENT", "STATE", "SEVERITY", "OPENED", "WHAT"));
    for one in found {
        let who = one.principal.as_deref().unwrap_or("-");
        let merged = one.merged_into.map_or_else(String::new, |into| format!(" (merged into {into})"));
        let what = clean(&format!("{}: {who}{merged}", one.title), LINE_CHARS_MAX);
        let (state, severity) = (one.state.as_str(), one.severity.as_str());
        say(&format!("{:<34} {state:<12} {severity:<9} {:<25} {what}", one.id.as_str(), time(one.opened_us)));
    }
    Ok(())
}

fn show(data: &DataArgs, id: &str, json: bool) -> anyhow::Result<()> {
    let detail = found(data, id)?;
    if json {
        say(&http::whole(&detail).to_string());
        return Ok(());
    }
    for line in lines(&detail) {
        say(&line);
    }
    Ok(())
}

fn found(data: &DataArgs, id: &str) -> anyhow::Result<IncidentDetail> {
    let detail = incident::show(&data.data, id).context("read the incident")?;
    detail.with_context(|| format!("there is no incident {id}: see `keytrail incident list`"))
}

fn lines(detail: &IncidentDetail) -> Vec<String> {
    let summary = &detail.summary;
    let mut lines = vec![format!("{} {} {}", summary.id.as_str(), summary.state.as_str(), summary.severity.as_str())];
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(clean(&format!("{name:<14} {value}"), LINE_CHARS_MAX));
        }
    };
    fact("principal", Some(summary.principal.clone().unwrap_or_else(|| "-".to_owned())));
    let others = detail.principals.iter().filter(|other| Some(*other) != summary.principal.as_ref());
    others.for_each(|other| fact("with", Some(other.clone())));
    detail.keys.iter().for_each(|key| fact("key", Some(key.clone())));
    fact("merged into", summary.merged_into.as_ref().map(ToString::to_string));
    fact("acknowledged", summary.acknowledged_by.as_ref().map(|by| format!("by {by}")));
    fact("assignee", summary.assignee.clone());
    let by = summary.resolved_by.as_deref().unwrap_or("-");
    fact("closed", summary.resolution.as_ref().map(|reason| format!("as {reason} by {by}")));
    fact("contained", summary.contained_us.map(|at| format!("since {}", time(at))));
    fact("not contained", summary.not_contained.clone().filter(|_| summary.resolved_us.is_none()));
    lines.push("\nALERTS".to_owned());
    for alert in &detail.alerts {
        let what =
            format!("{:<9} {} ({} events, seq {})", alert.severity.as_str(), alert.rule_id, alert.matched, alert.seqs);
        lines.push(format!("  {}  {what}", time(alert.detected_us)));
    }
    lines.push("\nACTIONS".to_owned());
    for action in &detail.actions {
        let seq = action.log_seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
        let why = action.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let line = format!("{:<11} {} {}{seq}{why}", action.state.as_str(), action.kind.as_str(), action.target);
        lines.push(format!("  {}", clean(&line, LINE_CHARS_MAX)));
    }
    if let Some(exposure) = &detail.exposure {
        lines.push("\nEXPOSURE (allowed between the first evidence and the effect)".to_owned());
        lines.extend(exposed(exposure));
    }
    let own = detail.timeline.iter().rfind(|entry| entry.incident == summary.id).map_or(0, |entry| entry.number);
    lines.push(format!("\nTIMELINE (the log has {} of {own} entries)", detail.recorded_through));
    for entry in &detail.timeline {
        let of = if entry.incident == summary.id { String::new() } else { format!("[{}] ", entry.incident) };
        let text = clean(&format!("{of}{}", entry.text), LINE_CHARS_MAX);
        lines.push(format!("  {}  {:<10} {text}", time(entry.at_us), entry.kind));
    }
    lines
}

fn exposed(exposure: &Value) -> Vec<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let uses = exposure.get("uses").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = uses
        .iter()
        .map(|one| {
            let context = one.get("context").filter(|context| !context.is_null());
            let context = context.map_or_else(String::new, |context| format!(" {context}"));
            let count = one.get("count").and_then(Value::as_u64).unwrap_or(0);
            let what =
                format!("{count} {} {} {}{context}", text(one, "operation"), text(one, "principal"), text(one, "key"));
            format!("  {}", clean(&what, LINE_CHARS_MAX))
        })
        .collect();
    if lines.is_empty() {
        lines.push("  nothing".to_owned());
    }
    let more = exposure.get("moreUses").and_then(Value::as_u64).unwrap_or(0);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    if exposure.get("complete") != Some(&Value::Bool(true)) {
        lines.push("  there may be more: not all of the log could be looked at".to_owned());
    }
    lines
}

fn resolution(reason: ReasonArg) -> Resolution {
    match reason {
        ReasonArg::TruePositiveContained => Resolution::TruePositiveContained,
        ReasonArg::Benign => Resolution::Benign,
        ReasonArg::FalsePositive => Resolution::FalsePositive,
        ReasonArg::AuthorisedByOwner => Resolution::AuthorisedByOwner,
        ReasonArg::Test => Resolution::Test,
    }
}

fn act(args: &IncidentDeedArgs, deed: &Deed) -> anyhow::Result<()> {
    let by = args.by.clone().unwrap_or_else(operator);
    let now_us = now_us();
    let detail = incident::person::act_on(&args.data.data, &args.id, &by, deed, now_us)?;
    say(&format!("{} {}", detail.summary.id, detail.summary.state.as_str()));
    Ok(())
}

fn export_to(args: &IncidentExportArgs) -> anyhow::Result<()> {
    let detail = found(&args.data, &args.id)?;
    let text = match args.out.extension().and_then(OsStr::to_str) {
        Some("json") => format!("{}\n", export::ocsf(&detail)),
        Some("csv") => export::timeline_csv(&detail),
        _ => bail!("{} ends neither in .json nor in .csv", args.out.display()),
    };
    let context = || format!("write {}", args.out.display());
    let mut file = File::options().create_new(true).write(true).mode(0o600).open(&args.out).with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
}

async fn undo(args: &IncidentDeedArgs) -> anyhow::Result<()> {
    let (dir, id) = (&args.data.data, args.id.as_str());
    let by = args.by.clone().unwrap_or_else(operator);
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let credentials = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let control = SignedControl::new(&endpoint, trust, credentials, &config.node.region).context("make a client")?;
    let report =
        incident::undo(dir, id, (&by, Resolution::Undone), Arc::new(control), Arc::new(SystemClock), UNDO_WAIT).await?;
    for action in &report.actions {
        let seq = action.log_seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
        say(&format!("{:<8} {} {}{seq}", action.state.as_str(), action.kind.as_str(), action.target));
    }
    for sentence in &report.left {
        say(&format!("left     {sentence}"));
    }
    if !report.complete {
        bail!("not everything is undone yet: see `keytrail incident show {id}`");
    }
    Ok(())
}
