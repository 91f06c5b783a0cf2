//! `keytrail notices` and `keytrail silence`: the delivery ledger, and what is held back by whom.

use super::{now_us, say, time};
use crate::cli::{NoticesCommand, SilenceCommand};
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_responder::notify::dkim::{SIGNED, Signer};
use keytrail_responder::notify::ledger::{self, Delivery};
use keytrail_responder::notify::receivers::ReceiverSettings;
use keytrail_responder::notify::{probe, silence};
use std::path::Path;
use std::sync::Arc;

pub(crate) async fn run(command: NoticesCommand) -> anyhow::Result<()> {
    match command {
        NoticesCommand::List { data, state } => list(&data.data, state.as_deref()),
        NoticesCommand::Retry { data, number, author } => {
            let count = ledger::retry(&data.data, number, &author.author, now_us()).context("retry")?;
            say(&format!("{count} to be sent again"));
            Ok(())
        }
        NoticesCommand::Drop { data, number, reason, author } => {
            ledger::drop_notice(&data.data, number, &author.author, &reason, now_us()).context("drop")?;
            say(&format!("notice {number} dropped"));
            Ok(())
        }
        NoticesCommand::Test { data, config, receiver } => {
            let file = config.unwrap_or_else(|| data.data.join("keytrail.toml"));
            test(&file, receiver.as_deref()).await
        }
        NoticesCommand::Check { data, config } => check(&config.unwrap_or_else(|| data.data.join("keytrail.toml"))),
    }
}

fn list(dir: &Path, state: Option<&str>) -> anyhow::Result<()> {
    say(&format!("{:<7} {:<8} {:<25} {:<34} WHAT", "NOTICE", "STATE", "WRITTEN", "TO"));
    for one in ledger::list(dir, state).context("list notices")? {
        say(&line(&one));
    }
    Ok(())
}

fn line(one: &Delivery) -> String {
    let to =
        if one.recipient.is_empty() { one.receiver.clone() } else { format!("{} {}", one.receiver, one.recipient) };
    let mut line = format!("{:<7} {:<8} {:<25} {to:<34} {}", one.row, one.state, time(one.created_us), one.subject);
    if let Some(error) = one.error.as_deref().filter(|_| one.state != "sent") {
        line = format!("{line}: {error} ({} attempts)", one.attempts);
    }
    line
}

async fn test(file: &Path, receiver: Option<&str>) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    let probes =
        probe::probe(&config.responder, receiver, Arc::new(SystemClock)).await.context("set the receivers up")?;
    if probes.is_empty() {
        bail!("no such receiver is configured");
    }
    let failed = probes.iter().filter(|probe| probe.result.is_err()).count();
    for probe in &probes {
        let said = probe.result.as_ref().map_or_else(|error| format!("failed: {error}"), |()| "taken".to_owned());
        say(&format!("{:<20} {:<30} {said}", probe.receiver, probe.recipient));
    }
    if failed > 0 {
        bail!("{failed} of {} deliveries failed", probes.len());
    }
    Ok(())
}

fn check(file: &Path) -> anyhow::Result<()> {
    let settings = Config::read(file)?.responder;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for channel in settings.channels(&clock).context("set the receivers up")? {
        say(&format!("{:<20} {:<10} can be set up", channel.name(), channel.kind().as_str()));
    }
    for (name, receiver) in settings.all_receivers().context("set the receivers up")? {
        let ReceiverSettings::Smtp(smtp) = receiver else { continue };
        say("");
        let Some(dkim) = &smtp.dkim else {
            say(&format!("{name}: its mail is not signed here (no dkim section): let the relay sign"));
            continue;
        };
        let signer = Signer::read(dkim).context("set the receivers up")?;
        say(&format!(
            "{name}: DKIM signs as {} ({}) the whole text and {}; each field once more than it is there, so that none \
             can be added.",
            signer.domain(),
            signer.algorithm(),
            SIGNED.join(", ")
        ));
        say(&format!("Publish in the DNS:\n{}", signer.record()));
    }
    Ok(())
}

pub(crate) fn silences(command: SilenceCommand) -> anyhow::Result<()> {
    match command {
        SilenceCommand::Add { data, matches, duration, reason, author } => {
            let id = silence::add(&data.data, &matches, &author.author, &reason, duration, now_us())
                .context("add the silence")?;
            say(&format!("silence {id}: notices only, containment goes on"));
        }
        SilenceCommand::List { data, all } => {
            say(&format!("{:<8} {:<25} {:<6} {:<16} MATCH, REASON", "SILENCE", "ENDS", "MUTED", "AUTHOR"));
            for one in silence::list(&data.data, all, now_us()).context("list silences")? {
                let ended = one.expired_by.map(|by| format!(" (ended by {by})")).unwrap_or_default();
                let matches = one.matches.join(" ");
                say(&format!(
                    "{:<8} {:<25} {:<6} {:<16} {matches}: {}{ended}",
                    one.id,
                    time(one.ends_us),
                    one.muted,
                    one.author,
                    one.reason
                ));
            }
        }
        SilenceCommand::Expire { data, number, author } => {
            silence::expire(&data.data, number, &author.author, now_us()).context("expire the silence")?;
            say(&format!("silence {number} ended"));
        }
    }
    Ok(())
}
