//! `keytrail playbook explain`: of an incident what was planned and what each guard said, of a rule which playbooks answer.

use super::{load, rules_of, store};
use crate::cli::DataArgs;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_responder::explain;
use keytrail_responder::incident::{self, IncidentDetail};
use keytrail_responder::playbook::Playbook;

pub(super) fn run(data: &DataArgs, id: &str) -> anyhow::Result<()> {
    if !id.starts_with("I-") {
        return rule(data, id);
    }
    let Some(detail) = incident::show(&data.data, id).context("read the incident")? else {
        bail!("there is no incident {id}: see `keytrail incident list`");
    };
    of_incident(data, &detail)
}

fn of_incident(data: &DataArgs, detail: &IncidentDetail) -> anyhow::Result<()> {
    let (store, playbooks) = (store(data)?, load(&rules_of(data))?);
    for alert in &detail.alerts {
        let answering: Vec<&str> = playbooks
            .iter()
            .filter(|one| one.matches.rules.contains(&alert.rule_id) && alert.severity >= one.matches.min_severity)
            .map(|one| one.id.as_str())
            .collect();
        let answering = if answering.is_empty() { "no playbook".to_owned() } else { answering.join(", ") };
        say(&format!("alert {} ({}): {answering}", alert.rule_id, alert.severity));
    }
    for action in detail.actions.iter().filter(|action| action.undo_of.is_none()) {
        let why = action.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        say(&format!(
            "\n{} v{} step {}: {} {}: {}{why}",
            action.playbook, action.playbook_version, action.step, action.kind, action.target, action.state
        ));
        let said = store.read_now(|db| explain::recorded(db, &action.id))?;
        if said.is_empty() {
            say("  what its guards said was not kept");
        }
        for one in said {
            say(format!("  {:<16} {:<15} {}", one.guard, one.verdict, one.about).trim_end());
        }
    }
    Ok(())
}

fn rule(data: &DataArgs, id: &str) -> anyhow::Result<()> {
    let playbooks = load(&rules_of(data))?;
    let answering: Vec<&Playbook> =
        playbooks.iter().filter(|one| one.matches.rules.iter().any(|rule| rule == id)).collect();
    if answering.is_empty() {
        say(&format!("no playbook answers rule {id}: its alerts become incidents and are told"));
    }
    for playbook in answering {
        let matches = &playbook.matches;
        say(&format!("{} v{} ({})", playbook.id, playbook.version, playbook.mode));
        say(&format!("  from severity    {}", matches.min_severity));
        say(&format!(
            "  calls            {}",
            matches.provenance.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
        for (name, value) in &matches.labels {
            say(&format!("  only with        {name} = {value}"));
        }
        for (number, step) in (1..).zip(&playbook.steps) {
            let tag = step.only_if_tag.as_deref().map(|tag| format!(", only keys with tag {tag}")).unwrap_or_default();
            say(&format!("  step {number}           {}{tag}", step.action));
        }
        let guard = &playbook.guard;
        let share = guard.max_share_of_enabled_keys.map(|share| format!(", {share} of all keys")).unwrap_or_default();
        say(&format!("  cooldown         {:?}", guard.cooldown));
        say(&format!("  circuit breaker  {} actions an hour{share}", guard.max_actions_per_hour));
        if !guard.held_by.is_empty() {
            say(&format!("  held by          {}", guard.held_by.join(", ")));
        }
    }
    Ok(())
}
