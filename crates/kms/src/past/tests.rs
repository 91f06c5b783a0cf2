//! The fold and the replay on logs of real nodes. Each service test ends with `reproduces`: with nothing to try, every
//! decision in its log comes out as it was.

use super::{Change, Past, Replacement, Replay, Replayed};
use crate::auth::identities::Identities;
use crate::chain::Leaf;
use crate::event::AuditEvent;
use crate::row::Row;

/// The texts of an event that a row borrows.
pub(crate) struct Texts {
    event: AuditEvent,
    seq: u64,
    time_us: u64,
    key_arn: Option<String>,
    parameters: Option<String>,
    response: Option<String>,
    additional: String,
}

impl Texts {
    pub(crate) fn of(leaf: &Leaf, event: &AuditEvent) -> Self {
        let key = event.resources.iter().find(|resource| resource.kind == "AWS::KMS::Key");
        Self {
            seq: leaf.seq,
            time_us: leaf.time_us,
            key_arn: key.map(|key| key.arn.clone()),
            parameters: event.request_parameters.as_ref().map(ToString::to_string),
            response: event.response_elements.as_ref().map(ToString::to_string),
            additional: serde_json::to_string(&event.additional_event_data).unwrap(),
            event: event.clone(),
        }
    }

    pub(crate) fn row(&self) -> Row<'_> {
        let (event, identity) = (&self.event, &self.event.user_identity);
        Row {
            seq: self.seq,
            time_us: self.time_us,
            event_source: &event.event_source,
            event_name: &event.event_name,
            request_id: event.request_id.as_deref(),
            read_only: event.read_only,
            error_code: event.error_code.as_deref(),
            principal_type: identity.kind.as_deref(),
            principal_arn: identity.arn.as_deref(),
            principal_account: identity.account_id.as_deref(),
            access_key_id: identity.access_key_id.as_deref(),
            invoked_by: identity.invoked_by.as_deref(),
            source_ip: Some(&event.source_ip_address),
            user_agent: event.user_agent.as_deref(),
            region: &event.aws_region,
            key_arn: self.key_arn.as_deref(),
            decided_by: event.additional_event_data.decided_by.as_deref(),
            repeat_of: event.additional_event_data.repeat_of.as_deref(),
            request_parameters: self.parameters.as_deref(),
            response_elements: self.response.as_deref(),
            additional: Some(&self.additional),
            tls: Some(event.tls_details.is_some()),
        }
    }
}

/// Replays a log.
pub(crate) fn replay(events: &[(Leaf, AuditEvent)], replacement: Replacement) -> Replayed {
    let mut replay = Replay::new(replacement, 0, u64::MAX);
    for (leaf, event) in events {
        replay.take(&Texts::of(leaf, event).row()).unwrap();
    }
    replay.finish()
}

/// With nothing to try, all decisions come out as recorded, by the statement that is recorded. Left over are calls of IAM,
/// which are not asked again, and events that were too large to be whole.
pub(crate) fn reproduces(events: &[(Leaf, AuditEvent)]) {
    let replayed = replay(events, Replacement::default());
    assert_eq!(replayed.unreadable, 0, "every change is folded");
    let others: Vec<_> = replayed
        .groups
        .iter()
        .filter(|group| !group.would.contains("IAM") && !group.would.contains("too large"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(replayed.groups.iter().all(|group| group.change == Change::Untold));
    assert_eq!(replayed.by_another, 0, "each by the statement that decided");
}

#[test]
fn what_policies_ask_about_is_found_however_it_is_written() {
    use super::state::Asked;
    let asked = |text: &str| {
        let mut asked = Asked::default();
        asked.note(text);
        asked
    };
    assert_eq!(asked(r#"{"StringEquals":{"kms:CallerAccount":"1"}}"#), Asked::default());
    let address = asked(r#"{"IpAddress":{"AWS:sourceIp":"10.0.0.0/8"}}"#);
    assert_eq!(address, Asked { source_ip: true, ..Asked::default() });
    assert!(asked(r#"{"Null":{"kms:EncryptionContext:a":"true"}}"#).parameters);
    assert!(asked(r#"{"Null":{"kms:GranteePrincipal":"true"}}"#).parameters);
    assert!(asked(r#"{"Bool":{"aws:SecureTransport":"false"}}"#).tls);
    let numbered = asked(r#"{"IpAddress":{"aws:Source\u0049p":"10.0.0.0/8"}}"#);
    assert!(numbered.source_ip && numbered.tls && numbered.time && numbered.parameters && numbered.user_agent);
}

/// The same questions as of a log (service_tests/past.rs), of files.
#[test]
fn files_are_looked_at_together() {
    const ACCOUNT: &str = "111122223333";
    let text = r#"
[[account]]
id = "111122223333"
[[policy]]
account = "111122223333"
name = "keeps"
document = '{"Version":"2012-10-17","Statement":{"Sid":"Keep","Effect":"Allow","Action":"kms:DisableKey","Resource":"*"}}'
[[policy]]
account = "111122223333"
name = "climbs"
document = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"iam:PutUserPolicy","Resource":"*"}}'
[[user]]
account = "111122223333"
name = "keeper"
policies = ["keeps"]
[[user]]
account = "111122223333"
name = "climber"
policies = ["climbs"]
"#;
    let arn = |name: &str| format!("arn:aws:iam::{ACCOUNT}:{name}");
    let statement = |principal: &str, action: &str| serde_json::json!({"Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "*"});
    let statements = [statement(&arn("root"), "kms:*"), statement(&arn("user/keeper"), "kms:Decrypt")];
    let policy = serde_json::json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    let identities = Identities::parse(text).unwrap();
    let key = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/orders");
    let mut past = Past::of_files(&identities, ACCOUNT, &[(key.clone(), policy)]).unwrap();
    let found = past.lint(1).unwrap();
    let together: Vec<(&str, &str)> = found
        .iter()
        .flat_map(|(name, list)| list.iter().map(move |finding| (name.as_str(), finding.code)))
        .filter(|(name, code)| {
            name.contains("user/") && ["reaches-decrypt", "administers-and-uses-across"].contains(code)
        })
        .collect();
    let (climber, keeper) = (arn("user/climber"), arn("user/keeper"));
    assert_eq!(
        together,
        [(climber.as_str(), "reaches-decrypt"), (keeper.as_str(), "administers-and-uses-across")],
        "{found:#?}"
    );
    assert!(Past::of_files(&identities, ACCOUNT, &[(key, "{}".to_owned())]).is_err());
}
