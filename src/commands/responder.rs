//! `keytrail responder pause|resume|status|reset`: decisions about the responder, taken in its store while it runs.
//!
//! The running responder sees them at its next look and tells the log; when none runs the next one does.

use super::{now_us, operator, say};
use crate::cli::{DataArgs, DecisionArgs, ResponderCommand};
use anyhow::Context;
use chrono::{DateTime, Utc};
use keytrail_responder::standing::{self, EVERYTHING, Entry, Reset};
use keytrail_responder::store::Store;

pub(crate) fn run(command: ResponderCommand) -> anyhow::Result<()> {
    match command {
        ResponderCommand::Pause(args) => {
            let (store, by) = opened(&args)?;
            store.write_now(|tx| Ok(standing::pause(tx, &by, &args.reason, now_us())))??;
            say(&format!("paused by {by}: it plans and records, and carries out nothing but undos"));
        }
        ResponderCommand::Resume(args) => {
            let (store, by) = opened(&args)?;
            store.write_now(|tx| Ok(standing::resume(tx, &by, &args.reason, now_us())))??;
            say(&format!("resumed by {by}: what is ready is carried out after another look at its target"));
        }
        ResponderCommand::Reset { data, playbook, by } => {
            let subject = playbook.as_deref().unwrap_or(EVERYTHING);
            let reset = store(&data)?.write_now(|tx| Ok(standing::reset(tx, subject, &by, now_us())))??;
            match reset {
                Reset::WaitsForAnother => say("noted: another person has to run the same within an hour"),
                Reset::Done { first } => say(&format!("the circuit breaker works again, by {first} and {by}")),
            }
        }
        ResponderCommand::Status(data) => status(&data)?,
    }
    Ok(())
}

fn status(data: &DataArgs) -> anyhow::Result<()> {
    let store = store(data)?;
    let (now, mode) = store.read_now(|db| Ok((standing::now(db)?, standing::mode(db)?)))?;
    say(&format!("mode      {}", mode.map_or_else(|| "never started".to_owned(), |mode| mode.to_string())));
    match &now.paused {
        Some(pause) => say(&format!("paused    {}", line(pause))),
        None => say("paused    no"),
    }
    if now.tripped.is_empty() {
        say("tripped   no");
    }
    for trip in &now.tripped {
        let whose = if trip.subject == EVERYTHING { "the whole responder" } else { &trip.subject };
        say(&format!("tripped   {whose}: {}", line(trip)));
    }
    for promotion in &now.promoted {
        say(&format!("promoted  {} to {}: {}", promotion.subject, promotion.detail, line(promotion)));
    }
    say(&format!("unlogged  {}", now.unreported));
    Ok(())
}

fn line(entry: &Entry) -> String {
    let time = DateTime::<Utc>::from_timestamp_micros(entry.at_us);
    let time = time.map_or_else(|| "-".to_owned(), |time| time.format("%FT%TZ").to_string());
    let seq = entry.log_seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
    format!("since {time} by {}: {}{seq}", entry.by, entry.reason)
}

fn opened(args: &DecisionArgs) -> anyhow::Result<(Store, String)> {
    Ok((store(&args.data)?, args.by.clone().unwrap_or_else(operator)))
}

/// The store of a responder that has run; `init` makes none.
pub(super) fn store(data: &DataArgs) -> anyhow::Result<Store> {
    Store::open_existing(&data.data).context("open responder.db: has a responder run here?")
}
