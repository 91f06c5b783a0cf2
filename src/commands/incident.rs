//! `keytrail incident list|show|undo`: what the responder knows, and taking its containment back.

use super::{Settings, say};
use crate::cli::{DataArgs, IncidentCommand};
use crate::config::Config;
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::clock::SystemClock;
use keytrail_responder::act::SignedControl;
use keytrail_responder::incident::{self, IncidentDetail};
use std::sync::Arc;
use std::time::Duration;

/// Most incidents listed.
const INCIDENTS_MAX: u32 = 1_000;
/// Longest wait for an undo to take effect.
const UNDO_WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn run(command: IncidentCommand) -> anyhow::Result<()> {
    match command {
        IncidentCommand::List(data) => list(&data),
        IncidentCommand::Show { data, id } => show(&data, &id),
        IncidentCommand::Undo { data, id } => undo(&data, &id).await,
    }
}

fn list(data: &DataArgs) -> anyhow::Result<()> {
    say(&format!("{:<34} {:<12} {:<9} {:<25} {}", "INCIDENT", "STATE", "SEVERITY", "OPENED", "WHAT"));
    for one in incident::list(&data.data, INCIDENTS_MAX).context("list incidents")? {
        let who = one.principal.as_deref().unwrap_or("-");
        say(&format!(
            "{:<34} {:<12} {:<9} {:<25} {}: {who}",
            one.id.as_str(),
            one.state.as_str(),
            one.severity.as_str(),
            time(one.opened_us),
            one.title
        ));
    }
    Ok(())
}

fn show(data: &DataArgs, id: &str) -> anyhow::Result<()> {
    let Some(detail) = incident::show(&data.data, id).context("read the incident")? else {
        bail!("there is no incident {id}: see `keytrail incident list`");
    };
    for line in lines(&detail) {
        say(&line);
    }
    Ok(())
}

fn lines(detail: &IncidentDetail) -> Vec<String> {
    let summary = &detail.summary;
    let mut lines = vec![
        format!("{} {} {}", summary.id.as_str(), summary.state.as_str(), summary.severity.as_str()),
        format!("principal  {}", summary.principal.as_deref().unwrap_or("-")),
    ];
    let others = detail.principals.iter().filter(|other| Some(*other) != summary.principal.as_ref());
    lines.extend(others.map(|other| format!("with       {other}")));
    lines.extend(detail.keys.iter().map(|key| format!("key        {key}")));
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
        lines.push(format!("  {:<11} {} {}{seq}{why}", action.state.as_str(), action.kind.as_str(), action.target));
    }
    lines.push("\nTIMELINE".to_owned());
    lines.extend(
        detail.timeline.iter().map(|entry| format!("  {}  {:<10} {}", time(entry.at_us), entry.kind, entry.text)),
    );
    lines
}

async fn undo(data: &DataArgs, id: &str) -> anyhow::Result<()> {
    let dir = &data.data;
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let credentials = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let control = SignedControl::new(&endpoint, trust, credentials, &config.node.region).context("make a client")?;
    let report = incident::undo(dir, id, Arc::new(control), Arc::new(SystemClock), UNDO_WAIT).await?;
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

fn time(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros)
        .map_or_else(|| "-".to_owned(), |time| time.format("%FT%T%.3fZ").to_string())
}
