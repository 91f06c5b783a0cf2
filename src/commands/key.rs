//! `keytrail key retire`: begins a retirement, says how far all are, or calls one off. The key service does the steps.

use super::approval::{call, client, time};
use super::say;
use crate::cli::{KeyCommand, PersonArgs};
use anyhow::Context;
use keytrail_kms::client::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Newest events of the key looked at for who used it: one page of LookupEvents.
const EVENTS_MAX: u32 = 50;

pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::Retire { person, key, watch_days, window_days, status, cancel } = command;
    let client = client(&person)?;
    match key {
        Some(key) if cancel => call_off(&client, &key).await,
        Some(key) if !status => begin(&person, &client, &key, watch_days, window_days).await,
        _ => how_far(&client).await,
    }
}

async fn begin(
    person: &PersonArgs,
    client: &Client,
    key: &str,
    watch_days: u32,
    window_days: u32,
) -> anyhow::Result<()> {
    last_uses(client, key).await?;
    let body = json!({"KeyId": key, "WatchDays": watch_days, "PendingWindowInDays": window_days});
    let told = call(client, "KeytrailService.RetireKey", body).await.context("retire the key")?;
    say(&format!("disabled   {}", text(&told, "KeyId")));
    say(&format!("watched    until {}; whoever calls brings it back", time(&told["WatchUntil"])));
    say(&format!("then       deleted after {window_days} days, with warnings seven and one day before"));
    say(&format!("call off   keytrail key retire --data {} --cancel {key}", person.data.data.display()));
    Ok(())
}

/// Who used it last, as far as the key service remembers and the newest events tell.
async fn last_uses(client: &Client, key: &str) -> anyhow::Result<()> {
    let named = json!({"KeyId": key});
    let used = call(client, "TrentService.GetKeyLastUsage", named.clone()).await.context("ask for the last use")?;
    match used["KeyLastUsage"]["Operation"].as_str() {
        Some(operation) => say(&format!("last use   {operation} at {}", time(&used["KeyLastUsage"]["Timestamp"]))),
        None => say(&format!("last use   none since {}", time(&used["TrackingStartDate"]))),
    }
    let described = call(client, "TrentService.DescribeKey", named).await.context("look at the key")?;
    let lookup = json!({
        "LookupAttributes": [{"AttributeKey": "ResourceName", "AttributeValue": described["KeyMetadata"]["Arn"]}],
        "MaxResults": EVENTS_MAX,
    });
    let target = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents";
    let found = call(client, target, lookup).await.context("look up who used it")?;
    let mut last: BTreeMap<(String, String), Value> = BTreeMap::new();
    for event in found["Events"].as_array().into_iter().flatten() {
        // The newest come first.
        let who = (text(event, "Username").to_owned(), text(event, "EventName").to_owned());
        last.entry(who).or_insert_with(|| event["EventTime"].clone());
    }
    for ((who, operation), at) in last {
        say(&format!("called     {operation} by {who}, last at {}", time(&at)));
    }
    Ok(())
}

async fn call_off(client: &Client, key: &str) -> anyhow::Result<()> {
    let told = call(client, "KeytrailService.CancelRetirement", json!({"KeyId": key})).await;
    let told = told.context("call the retirement off")?;
    say(&format!("called off {}: {}", text(&told, "KeyId"), text(&told, "KeyState")));
    Ok(())
}

async fn how_far(client: &Client) -> anyhow::Result<()> {
    let told = call(client, "KeytrailService.ListRetirements", json!({})).await.context("list retirements")?;
    say(&format!("{:<10} {:<21} {:<21} {}", "STEP", "WATCHED UNTIL", "DELETED", "KEY"));
    for one in told["Retirements"].as_array().into_iter().flatten() {
        let (until, gone) = (time(&one["WatchUntil"]), time(&one["DeletionDate"]));
        say(&format!("{:<10} {until:<21} {gone:<21} {}", text(one, "Step"), text(one, "KeyId")));
    }
    Ok(())
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or("-")
}
