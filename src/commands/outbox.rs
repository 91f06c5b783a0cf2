//! `keytrail outbox`: the responder's actions, and what people do with those that were given up.
//!
//! Works on `responder.db` beside a running responder, which carries a retried action out at its next look.

use super::responder::store;
use super::{now_us, operator, say, time};
use crate::cli::{ActionDeedArgs, DataArgs, OutboxCommand};
use crate::config::Config;
use anyhow::Context;
use keytrail_responder::notify::render::clean;
use keytrail_responder::outbox::dead::{self, Deed};
use keytrail_responder::outbox::{Action, ActionState};

/// Longest line about an action.
const LINE_CHARS_MAX: usize = 600;

pub(crate) fn run(command: OutboxCommand) -> anyhow::Result<()> {
    match command {
        OutboxCommand::List { data, state, json } => list(&data, state.as_deref(), json),
        OutboxCommand::Retry { deed, reason, config } => {
            let file = config.unwrap_or_else(|| deed.data.data.join("keytrail.toml"));
            let responder = Config::read(&file)?.responder;
            let (by, reason) = (by(&deed), reason.as_deref());
            let deed_of = Deed { by: &by, reason };
            let store = store(&deed.data)?;
            let action = dead::retry(&store, &deed.id, &deed_of, &responder.limits, &responder.protected, now_us())?;
            say(&format!("{} is {}: it is carried out when a responder runs", dead::short(&action.id), action.state));
            Ok(())
        }
        OutboxCommand::Drop { deed, reason } => {
            let by = by(&deed);
            let deed_of = Deed { by: &by, reason: Some(&reason) };
            let action = dead::drop_dead(&store(&deed.data)?, &deed.id, &deed_of, now_us())?;
            say(&format!("{} is dropped", dead::short(&action.id)));
            Ok(())
        }
    }
}

fn list(data: &DataArgs, state: Option<&str>, json: bool) -> anyhow::Result<()> {
    let state = state.and_then(|word| ActionState::ALL.into_iter().find(|state| state.as_str() == word));
    let found = store(data)?.read_now(|db| dead::list(db, state)).context("list actions")?;
    if json {
        found.iter().try_for_each(|one| serde_json::to_string(one).map(|line| say(&line)))?;
        return Ok(());
    }
    say(&format!("{:<17} {:<17} {:<25} {:<15} WHAT", "ACTION", "STATE", "PLANNED", "INCIDENT"));
    found.iter().for_each(|one| say(&line(one)));
    Ok(())
}

fn line(one: &Action) -> String {
    let why = one.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let what = clean(&format!("{} {} ({} calls){why}", one.kind, one.target, one.attempts), LINE_CHARS_MAX);
    let (id, incident) = (dead::short(&one.id), one.incident.as_str());
    format!("{id:<17} {:<17} {:<25} {incident:<15} {what}", one.state.as_str(), time(one.planned_us))
}

fn by(deed: &ActionDeedArgs) -> String {
    deed.by.clone().unwrap_or_else(operator)
}
