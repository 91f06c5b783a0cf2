//! `keytrail responder pause|resume|status|reset`: decisions about the responder, taken in its store while it runs.
//!
//! The running responder sees them at its next look and tells the log; when none runs the next one does.

use super::{now_us, operator, say};
use crate::cli::{DataArgs, DecisionArgs, ResponderCommand};
use anyhow::Context;
use chrono::{DateTime, Utc};
use keytrail_responder::reset;
use keytrail_responder::standing::{self, EVERYTHING, Entry};
use keytrail_responder::store::Store;
use std::time::{Duration, Instant};

/// How long a running responder is given to open a request for approval, and how often it is looked for.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
const REQUEST_LOOK: Duration = Duration::from_millis(100);

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
            ask_for_reset(&store(&data)?, playbook.as_deref().unwrap_or(EVERYTHING), &by.unwrap_or_else(operator))?;
        }
        ResponderCommand::Status(data) => status(&data)?,
    }
    Ok(())
}

/// The running responder opens the request for approval; what to do with it is said here if it comes soon.
fn ask_for_reset(store: &Store, of: &str, by: &str) -> anyhow::Result<()> {
    store.write_now(|tx| Ok(reset::want(tx, of, by, now_us())))??;
    say("noted: two people must agree within an hour, each with a second factor");
    let until = Instant::now() + REQUEST_WAIT;
    while Instant::now() < until {
        if let Some(request) = store.read_now(|db| reset::request(db, of))? {
            say(&format!("agree with: keytrail approval approve {request} --mfa-serial ARN"));
            return Ok(());
        }
        std::thread::sleep(REQUEST_LOOK);
    }
    say("the request is opened when the responder runs and reaches the key service: see `keytrail approval list`");
    Ok(())
}

fn status(data: &DataArgs) -> anyhow::Result<()> {
    let store = store(data)?;
    let (now, mode, resets) =
        store.read_now(|db| Ok((standing::now(db)?, standing::mode(db)?, reset::waiting(db)?)))?;
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
    for (subject, request) in &resets {
        let whose = if subject == EVERYTHING { "the whole responder" } else { subject };
        let request = request.as_deref().unwrap_or("not opened yet");
        say(&format!("reset     {whose}: waits for approvals, request {request}"));
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
