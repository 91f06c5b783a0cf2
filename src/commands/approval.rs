//! `keytrail approval list|show|approve|reject` and `keytrail incident approve`: one person's word, under their own name.
//!
//! Approving opens a session with the code of the person's device and sends back what the request says will be done and to what:
//! whoever exchanges either in between has an approval of nothing.

use super::{Settings, say};
use crate::cli::{ApprovalCommand, FactorArgs, PersonArgs};
use crate::config::Config;
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientOptions};
use serde_json::{Value, json};
use std::io::BufRead as _;
use zeroize::Zeroizing;

pub(crate) async fn run(command: ApprovalCommand) -> anyhow::Result<()> {
    match command {
        ApprovalCommand::List { person, ended } => list(&client(&person)?, ended).await,
        ApprovalCommand::Show { person, id } => {
            let request = describe(&client(&person)?, &id).await?;
            lines(&request).iter().for_each(|line| say(line));
            Ok(())
        }
        ApprovalCommand::Approve { person, factor, id } => {
            let client = with_code(&client(&person)?, &factor).await?;
            approve(&client, &id).await
        }
        ApprovalCommand::Reject { person, id, reason } => {
            let body = json!({"RequestId": id, "Reason": reason});
            call(&client(&person)?, "KeytrailService.Reject", body).await.context("reject the request")?;
            say(&format!("rejected {id}"));
            Ok(())
        }
    }
}

/// Agrees to what of an incident waits for approval, with one code.
pub(crate) async fn approve_incident(
    person: &PersonArgs,
    factor: &FactorArgs,
    incident: &str,
    action: Option<&str>,
) -> anyhow::Result<()> {
    let asked = keytrail_responder::approval::asked(&person.data.data, incident).context("read the incident")?;
    let wanted = asked.iter().filter(|one| action.is_none_or(|action| one.kind == action || one.action == action));
    let requests: Vec<&str> = wanted.filter_map(|one| one.request.as_deref()).collect();
    if requests.is_empty() {
        bail!("nothing of incident {incident} waits for approval: see `keytrail incident show {incident}`");
    }
    let client = with_code(&client(person)?, factor).await?;
    for request in requests {
        approve(&client, request).await?;
    }
    Ok(())
}

/// A client that signs as the person.
pub(crate) fn client(person: &PersonArgs) -> anyhow::Result<Client> {
    let dir = &person.data.data;
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let file = person.credentials.clone().unwrap_or_else(|| dir.join("credentials"));
    let credentials = Credentials::read(&file, &person.profile).context("read your credentials")?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let options = ClientOptions { trust, ..ClientOptions::default() };
    Client::with_options(&endpoint, credentials, &config.node.region, options).context("make a client")
}

/// Calls, and gives the answer.
pub(crate) async fn call(client: &Client, target: &str, body: Value) -> anyhow::Result<Value> {
    Ok(client.call(target, body, None).await?.body)
}

/// A time of an answer, for people.
pub(crate) fn time(seconds: &Value) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "times of an answer are thirteen digits at most")]
    let millis = seconds.as_f64().map(|seconds| (seconds * 1_000.0) as i64);
    let time = millis.and_then(DateTime::<Utc>::from_timestamp_millis);
    time.map_or_else(|| "-".to_owned(), |time| time.format("%FT%TZ").to_string())
}

async fn with_code(client: &Client, factor: &FactorArgs) -> anyhow::Result<Client> {
    say("MFA code:");
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line).context("read the MFA code")?;
    client.with_second_factor(&factor.mfa_serial, line.trim()).await.context("prove the second factor")
}

async fn list(client: &Client, ended: bool) -> anyhow::Result<()> {
    let body = json!({"IncludeEnded": ended});
    let answer = call(client, "KeytrailService.ListApprovalRequests", body).await.context("list requests")?;
    say(&format!("{:<20} {:<9} {:<9} {:<21} {}", "REQUEST", "STATE", "APPROVALS", "EXPIRES", "WHAT"));
    for request in answer["ApprovalRequests"].as_array().into_iter().flatten() {
        say(&format!(
            "{:<20} {:<9} {:<9} {:<21} {} {}",
            text(request, "RequestId"),
            text(request, "State"),
            count(request),
            time(&request["ExpiresAt"]),
            text(request, "Operation"),
            text(request, "Target")
        ));
    }
    Ok(())
}

async fn describe(client: &Client, id: &str) -> anyhow::Result<Value> {
    let body = json!({"RequestId": id});
    call(client, "KeytrailService.DescribeApprovalRequest", body).await.context("read the request")
}

async fn approve(client: &Client, id: &str) -> anyhow::Result<()> {
    let request = describe(client, id).await?;
    lines(&request).iter().for_each(|line| say(line));
    let body = json!({"RequestId": id, "Subject": request["Subject"], "TargetState": request["TargetState"]});
    let answer = call(client, "KeytrailService.Approve", body).await.context("approve the request")?;
    say(&format!("approved {id}: {} of {} approvals", answer["Approvals"], answer["Quorum"]));
    Ok(())
}

fn lines(request: &Value) -> Vec<String> {
    let mut lines = vec![
        format!("{} {} ({} approvals)", text(request, "RequestId"), text(request, "State"), count(request)),
        format!("what       {} {}", text(request, "Operation"), text(request, "Target")),
        format!("with       {}", request["Parameters"]),
        format!("asked by   {}", text(request, "Requester")),
    ];
    let suspects = request["Suspects"].as_array().into_iter().flatten();
    lines.extend(suspects.filter_map(Value::as_str).map(|suspect| format!("about      {suspect}")));
    let approvals = request["Approvals"].as_array().into_iter().flatten();
    lines.extend(approvals.map(|one| format!("agreed     {} at {}", text(one, "Principal"), time(&one["At"]))));
    lines.push(format!("expires    {}", time(&request["ExpiresAt"])));
    lines.push(format!("subject    {}", text(request, "Subject")));
    lines.push(format!("target     {}", text(request, "TargetState")));
    lines
}

fn count(request: &Value) -> String {
    let agreed = request["Approvals"].as_array().map_or(0, Vec::len);
    format!("{agreed}/{}", request["Quorum"])
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value[member].as_str().unwrap_or("-")
}
