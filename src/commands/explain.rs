//! `keytrail explain REQUEST_ID`: why a call was answered as it was, for whoever has the data folder.
//!
//! The caller gets AWS's sentence and never the statement that decided; this reads what the log has of the judgement.
//! Nothing is judged again: a policy that changed since does not change the answer.

use super::log::{Log, quoted};
use super::say;
use crate::cli::ExplainArgs;
use anyhow::{Context, bail};
use keytrail_trail::query::printable;
use serde_json::Value;

pub(crate) async fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let log = Log::open(&args.data.data).await?;
    let sql = format!(
        "SELECT seq, log, event_name, event_source, error_code, error_message, principal_arn, key_arn, decided_by \
         FROM events WHERE request_id = {} AND {}",
        quoted(&args.request_id),
        log.own()
    );
    let rows = log.rows(&sql).await?;
    let Some(event) = rows.first() else { bail!("the log has no call with request id {}", args.request_id) };
    let lines = sentences(event);
    lines.iter().for_each(|line| say(&printable(line)));
    if let Some(statement) = deciding_statement(&log, event).await? {
        say("The statement, as it was then:");
        statement.lines().for_each(|line| say(&printable(line)));
    }
    Ok(())
}

fn text<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event[name].as_str()
}

fn sentences(event: &Value) -> Vec<String> {
    let who = text(event, "principal_arn").unwrap_or("a caller that did not prove who it is");
    let what = text(event, "event_name").unwrap_or("Unknown");
    let on = text(event, "key_arn").map(|key| format!(" on {key}")).unwrap_or_default();
    let outcome = text(event, "error_code").map_or_else(|| "it worked".to_owned(), |code| format!("it got {code}"));
    let mut lines = vec![format!("{who} called {what}{on} (seq {}): {outcome}.", event["seq"])];
    let denied = text(event, "error_code") == Some("AccessDenied");
    lines.push(match text(event, "decided_by") {
        None if event["error_code"].is_null() => "No policy had to allow it.".to_owned(),
        None => "It was refused before any policy was asked.".to_owned(),
        Some("Default") if denied => missing(text(event, "key_arn").is_some()).to_owned(),
        Some(decided_by) if denied => denial(decided_by),
        Some(decided_by) => format!("It was allowed by {decided_by}."),
    });
    if denied && text(event, "decided_by") == Some("Default") {
        lines.extend(text(event, "error_message").map(|message| format!("The caller was told: {message}")));
    }
    lines
}

/// What a call takes that nothing allows.
fn missing(on_key: bool) -> &'static str {
    if !on_key {
        return "Nothing allows it.";
    }
    "Nothing allows it. A call on a key takes an Allow in the key policy, besides an Allow of the caller's own where the \
     key policy names only its account or the caller is of another one; or, for what grants can allow, a grant."
}

/// What refused the call.
fn denial(decided_by: &str) -> String {
    let (kind, rest) = decided_by.split_once('/').unwrap_or((decided_by, ""));
    match kind {
        "KeyPolicy" => format!("Statement {rest} of the key policy denies it; no Allow or grant overrides that."),
        "TrustPolicy" => format!("Statement {rest} of the role's trust policy denies it."),
        "IdentityPolicy" => format!("The caller's own policy denies it: {rest} (policy/statement)."),
        "PermissionsBoundary" if rest.contains('/') => format!("The permissions boundary denies it: {rest}."),
        "PermissionsBoundary" => format!("Some policy allows it, but the permissions boundary {rest} does not."),
        "SessionPolicy" if rest.is_empty() => "Some policy allows it, but no policy of the session does.".to_owned(),
        "SessionPolicy" => format!("A policy that the session was opened with denies it: {rest}."),
        "Quarantine" => format!("The caller is in quarantine, set by event {rest}, until it ends or is lifted."),
        "MfaRequirement" => {
            format!("Event {rest} asks for a second factor of the last five minutes, and there was none.")
        }
        "BuiltIn" => "A fixed list of the program, not a policy, refuses it.".to_owned(),
        "ServiceKey" => "The key is a service's own: only that service may do this with it.".to_owned(),
        "Mfa" => "There is no such MFA device, or its code was not taken.".to_owned(),
        _ => format!("{decided_by} refused it."),
    }
}

/// The key policy's statement, from the policy in force at the call.
async fn deciding_statement(log: &Log, event: &Value) -> anyhow::Result<Option<String>> {
    let label = text(event, "decided_by").and_then(|decided_by| decided_by.strip_prefix("KeyPolicy/"));
    let (Some(label), Some(key), Some(log_id)) = (label, text(event, "key_arn"), text(event, "log")) else {
        return Ok(None);
    };
    let seq = event["seq"].as_i64().context("the event has no seq")?;
    let sql = format!(
        "SELECT policy FROM key_policies WHERE key_arn = {} AND log = {} AND seq < {seq} ORDER BY seq DESC LIMIT 1",
        quoted(key),
        quoted(log_id)
    );
    let rows = log.rows(&sql).await?;
    let policy: Option<Value> =
        rows.first().and_then(|row| text(row, "policy")).and_then(|policy| serde_json::from_str(policy).ok());
    Ok(policy.and_then(|policy| statement(&policy, label)))
}

fn statement(policy: &Value, label: &str) -> Option<String> {
    let single = std::slice::from_ref(&policy["Statement"]);
    let list = policy["Statement"].as_array().map_or(single, Vec::as_slice);
    let named = list.iter().find(|statement| statement["Sid"] == label);
    let found = named.or_else(|| list.get(label.parse::<usize>().ok()?))?;
    serde_json::to_string_pretty(found).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_missing_allow_and_a_deny_are_told_apart() {
        let mut event = json!({
            "seq": 7, "event_name": "Decrypt", "error_code": "AccessDenied", "principal_arn": "arn:aws:iam::111122223333:user/a",
            "key_arn": "arn:aws:kms:eu-central-1:111122223333:key/1", "decided_by": "Default",
            "error_message": "because no identity-based policy allows the kms:Decrypt action"
        });
        let missing = sentences(&event).join("\n");
        assert!(missing.contains("Nothing allows it. A call on a key takes"), "{missing}");
        assert!(missing.contains("no identity-based policy"), "{missing}");
        event["key_arn"] = Value::Null;
        assert_eq!(sentences(&event)[1], "Nothing allows it.");
        event["decided_by"] = "KeyPolicy/NoDecrypt".into();
        let denied = sentences(&event).join("\n");
        assert!(denied.contains("Statement NoDecrypt of the key policy denies it"), "{denied}");
        event["error_code"] = Value::Null;
        assert!(sentences(&event)[1].contains("allowed by KeyPolicy/NoDecrypt"));
        event["decided_by"] = Value::Null;
        assert_eq!(sentences(&event)[1], "No policy had to allow it.");
    }

    #[test]
    fn statements_are_found_by_sid_or_index() {
        let policy = json!({"Statement": [{"Sid": "A", "Effect": "Deny"}, {"Effect": "Allow"}]});
        assert!(statement(&policy, "A").unwrap().contains("Deny"));
        assert!(statement(&policy, "1").unwrap().contains("Allow"));
        assert_eq!(statement(&policy, "2"), None);
        assert!(statement(&json!({"Statement": {"Effect": "Deny"}}), "0").unwrap().contains("Deny"));
    }
}
