//! `keytrail policy replay`: a proposed policy on the recorded calls.
//!
//! Exit code 0 when every call can be told and none changes.

use super::past::{key_arn, snapshot};
use super::{say_printable, when};
use crate::cli::PolicyReplayArgs;
use crate::commands::say;
use anyhow::{Context, bail};
use keytrail_kms::past::{Change, Group, Replacement, Replay, Replayed};
use keytrail_trail::lake::Snapshot;
use keytrail_trail::lake::events::{EventsError, Wanted, events};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;

pub(super) async fn run(args: PolicyReplayArgs) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(&args.data.data).await?;
    let json = args.json;
    let replayed = tokio::task::spawn_blocking(move || {
        let replacement = replacement(&args, &snapshot)?;
        replay(&snapshot, &replacement, &args.time.range())
    });
    let replayed = replayed.await.context("join the replay")??;
    if json {
        say(&serde_json::to_string(&replayed).context("write the result")?);
    } else {
        print(&replayed);
    }
    let same = replayed.denied + replayed.allowed + replayed.untold + replayed.unreadable == 0;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn replacement(args: &PolicyReplayArgs, snapshot: &Snapshot) -> anyhow::Result<Replacement> {
    let Some(file) = &args.file else {
        if args.subject.key.is_some() || args.subject.identity.is_some() {
            bail!("give the file of the policy to try");
        }
        return Ok(Replacement::default());
    };
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    let replacement = match (&args.subject.key, &args.subject.identity) {
        (Some(key), _) => Replacement::key(&key_arn(snapshot, key)?, &text),
        (None, Some(arn)) => Replacement::identity(arn, &text),
        (None, None) => bail!("say whose policy {name} is: --key or --identity"),
    };
    replacement.with_context(|| format!("use {name}"))
}

/// Replays all logs of a snapshot. Reads files: not for an async thread.
pub(crate) fn replay(
    snapshot: &Arc<Snapshot>,
    replacement: &Replacement,
    time_us: &Range<u64>,
) -> anyhow::Result<Replayed> {
    let mut wanted =
        Wanted { time_us: time_us.clone(), key_arn: replacement.only_key().map(str::to_owned), tls: false };
    loop {
        match attempt(snapshot, replacement, &wanted) {
            // Some policy asks for aws:SecureTransport, which only the whole events have: read those, too.
            Err(EventsError::Visit(_)) if !wanted.tls => wanted.tls = true,
            replayed => return replayed.context("replay the log"),
        }
    }
}

fn attempt(
    snapshot: &Snapshot,
    replacement: &Replacement,
    wanted: &Wanted,
) -> Result<Replayed, EventsError<keytrail_kms::past::NeedsTls>> {
    let mut replay = Replay::new(replacement.clone(), wanted.time_us.start, wanted.time_us.end);
    for (log, _) in snapshot.own_logs() {
        events(snapshot, log, wanted, |row| replay.take(row))?;
        replay.next_log();
    }
    Ok(replay.finish())
}

fn print(replayed: &Replayed) {
    for group in &replayed.groups {
        print_group(group);
    }
    let Replayed { calls, denied, allowed, untold, ungrouped, unreadable, .. } = replayed;
    if *ungrouped > 0 {
        say(&format!("{ungrouped} more calls differ in further ways"));
    }
    if *unreadable > 0 {
        say(&format!("{unreadable} changes in the log could not be read: the result may be wrong"));
    }
    say(&format!(
        "{calls} calls that policies decided: {denied} would have been denied, {allowed} allowed, {untold} cannot be told"
    ));
}

fn print_group(group: &Group) {
    let Group { change, principal, operation, key_arn, was, would, calls, first_us, last_us, request_id } = group;
    let on = key_arn.as_ref().map(|key| format!(" on {key}")).unwrap_or_default();
    let (word, reason) = match change {
        Change::Denied => ("denied", format!("was allowed by {was}; would have been refused: {would}")),
        Change::Allowed => ("allowed", format!("was refused: {was}; would have been allowed by {would}")),
        Change::Untold => ("cannot be told", format!("was decided by {was}; {would}")),
    };
    say_printable(&format!("{word}  {operation}{on} by {principal}: {calls} calls"));
    say_printable(&format!("  {reason}"));
    let example = request_id.as_ref().map(|id| format!("; the first is {id}")).unwrap_or_default();
    say_printable(&format!("  {} to {}{example}", when(*first_us), when(*last_us)));
}
