//! `keytrail change`: announces work to the key service, under the name of whoever announces.

use super::{Settings, say, second};
use crate::cli::{AnnounceArgs, CallArgs, ChangeCommand};
use crate::config::Config;
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use humantime_serde::re::humantime::parse_duration;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientOptions};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) async fn run(command: ChangeCommand) -> anyhow::Result<()> {
    match command {
        ChangeCommand::Announce(args) => announce(args).await,
        ChangeCommand::List(call) => list(&call).await,
        ChangeCommand::Withdraw { id, reason, call } => {
            let body = json!({ "ChangeId": id, "Reason": reason });
            let answer = client(&call)?.call("KeytrailService.WithdrawChange", body, None).await;
            let seq = answer.context("withdraw the change")?.seq;
            say(&format!("withdrew {id}{}", at(seq)));
            Ok(())
        }
    }
}

async fn announce(args: AnnounceArgs) -> anyhow::Result<()> {
    let now = Utc::now();
    let from = args.from.as_deref().map(|from| moment(from, now)).transpose()?;
    let until = match &args.until {
        Some(until) => moment(until, now)?,
        None => after(from.unwrap_or(now.timestamp()), args.window.unwrap_or_default()),
    };
    let body = json!({
        "Ticket": args.ticket,
        "KeyId": args.key,
        "PrincipalArn": args.principal,
        "Operations": args.operation,
        "From": from,
        "Until": until,
    });
    let answer = client(&args.call)?.call("KeytrailService.AnnounceChange", body, None).await;
    let answer = answer.context("announce the change")?;
    let id = answer.body["ChangeId"].as_str().unwrap_or_default();
    say(&format!("announced {id}{}", at(answer.seq)));
    say("it counts for calls of others than you, made from now on; `keytrail change withdraw` ends it");
    Ok(())
}

async fn list(call: &CallArgs) -> anyhow::Result<()> {
    let client = client(call)?;
    let now_us = Utc::now().timestamp_micros();
    say(&format!("{:<36} {:<9} {:<20} {:<20} {:<12} {:<24} WHAT", "CHANGE", "STATE", "FROM", "UNTIL", "TICKET", "BY"));
    let mut marker = Value::Null;
    loop {
        let answer = client.call("KeytrailService.ListChanges", json!({ "Marker": marker }), None).await;
        let body = answer.context("list announced changes")?.body;
        for change in body["Changes"].as_array().into_iter().flatten() {
            say(&line(change, now_us));
        }
        marker = body["NextMarker"].clone();
        if marker.is_null() {
            return Ok(());
        }
    }
}

fn line(change: &Value, now_us: i64) -> String {
    let text = |name: &str| change[name].as_str().unwrap_or_default();
    let (from, until) = (change["fromMicros"].as_i64().unwrap_or(0), change["untilMicros"].as_i64().unwrap_or(0));
    let state = if now_us >= until {
        "over"
    } else if now_us < from {
        "to come"
    } else {
        "under way"
    };
    let subject = if text("keyArn").is_empty() { text("principalArn") } else { text("keyArn") };
    let operations: Vec<&str> =
        change["operations"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let by = text("announcedBy").rsplit(':').next().unwrap_or_default();
    format!(
        "{:<36} {state:<9} {:<20} {:<20} {:<12} {by:<24} {} on {subject}",
        text("changeId"),
        second(from),
        second(until),
        text("ticket"),
        operations.join(",")
    )
}

/// A client that signs as whoever announces.
fn client(call: &CallArgs) -> anyhow::Result<Client> {
    let dir = &call.data.data;
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let file = call.credentials.clone().unwrap_or_else(|| dir.join("credentials"));
    let credentials = Credentials::read(&file, &call.by)
        .with_context(|| format!("read the access key of {} in {}", call.by, file.display()))?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let options = ClientOptions { trust, ..ClientOptions::default() };
    Client::with_options(&endpoint, credentials, config.node.region, options).context("make a client")
}

/// Unix seconds of a time as written: RFC 3339, or a duration from now.
fn moment(text: &str, now: DateTime<Utc>) -> anyhow::Result<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp());
    }
    let Ok(later) = parse_duration(text) else {
        bail!("{text} is neither a time like 2026-12-01T02:00:00Z nor a duration from now like 2h");
    };
    Ok(after(now.timestamp(), later))
}

fn after(start: i64, how_long: Duration) -> i64 {
    start.saturating_add(i64::try_from(how_long.as_secs()).unwrap_or(i64::MAX))
}

fn at(seq: Option<u64>) -> String {
    seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_duration_from_now() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        assert_eq!(moment("2h", now).unwrap(), 8_200);
        assert_eq!(moment("1970-01-01T00:00:09Z", now).unwrap(), 9);
        assert_eq!(moment("1970-01-01T02:00:09+02:00", now).unwrap(), 9);
        assert!(moment("tomorrow", now).is_err());
    }
}
