//! Real AWS accounts behind [`Control`]: the same actions, by the calls that exist there.
//!
//! An alert about an imported CloudTrail log leads to actions only on accounts in `[[responder.aws]]`, and only if that log
//! is among those that are believed about the account: whoever can write the files of an import could otherwise choose whom
//! we stop. The calls go to AWS's endpoints with credentials of that account. AWS knows no action ids, so what our service does by them is
//! done by looking: an action whose effect is there already is answered as done. A quarantine is a policy of the user or
//! role that denies everything until a time; AWS keeps no history of key policies, so none can be put back there.

use crate::act::steps::unreadable;
use crate::act::{Answer, Control, ControlError};
use crate::config::AwsAccount;
use crate::outbox::Action;
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use keytrail_kms::auth::credentials::{Credentials, CredentialsError};
use keytrail_kms::client::{Client, ClientError, ClientOptions, element};
use keytrail_kms::clock::Clock;
use keytrail_trail::alert::IMPORT_ORIGIN_PREFIX;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Name of the inline policy that is a quarantine.
pub const QUARANTINE_POLICY: &str = "keytrail-quarantine";
/// Bound of one call; AWS is farther away than our own service.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// IAM answers in this region, wherever an account's keys are.
const IAM_REGION: &str = "us-east-1";
/// Calls that are the same on both sides: reads, and changes.
const READS: [&str; 5] = ["DescribeKey", "GetKeyPolicy", "ListGrants", "ListAliases", "ListResourceTags"];
const CHANGES: [&str; 4] = ["DisableKey", "EnableKey", "CancelKeyDeletion", "RevokeGrant"];

/// Why an account cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// The credentials file.
    #[error("credentials for AWS account {account} cannot be read")]
    Credentials {
        /// Which account.
        account: String,
        /// What is wrong with the file.
        #[source]
        source: CredentialsError,
    },
    /// An address or a bound is of no use.
    #[error("a client for AWS account {account} cannot be made")]
    Client {
        /// Which account.
        account: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// Twelve digits, once each.
    #[error("{0:?} is not an AWS account, or is there twice")]
    Account(String),
}

/// The member of an action's arguments that names the account whose AWS endpoints carry it out.
pub(crate) const ACCOUNT_ARG: &str = "awsAccount";

/// Whether an action is carried out at AWS, and not by our own key service.
pub(crate) fn is_there(action: &Action) -> bool {
    action.args.get(ACCOUNT_ARG).is_some()
}

/// What comes of an action is carried out where that one was.
pub(crate) fn carry_account(from: &Value, to: &mut Value) {
    if let Some(account) = from.get(ACCOUNT_ARG) {
        to[ACCOUNT_ARG] = account.clone();
    }
}

/// The accounts by their number, with the credentials of each read.
pub fn accounts(
    settings: &[AwsAccount],
    clock: &Arc<dyn Clock>,
) -> Result<BTreeMap<String, Arc<dyn Control>>, AwsError> {
    let mut all: BTreeMap<String, Arc<dyn Control>> = BTreeMap::new();
    for one in settings {
        let digits = one.account.len() == 12 && one.account.bytes().all(|byte| byte.is_ascii_digit());
        let control = AwsControl::new(one, Arc::clone(clock))?;
        if !digits || all.insert(one.account.clone(), Arc::new(control)).is_some() {
            return Err(AwsError::Account(one.account.clone()));
        }
    }
    Ok(all)
}

/// The account that an action on this ARN is for, if what this imported log says about it is believed.
pub(crate) fn driven<'a>(settings: &'a [AwsAccount], origin: &str, arn: &str) -> Option<&'a str> {
    let account = account_of(arn)?;
    let log = origin.strip_prefix(IMPORT_ORIGIN_PREFIX)?.rsplit_once('-').map(|(name, _)| name)?;
    let found = settings.iter().find(|one| one.account == account)?;
    found.logs.iter().any(|name| name == log).then_some(found.account.as_str())
}

/// The account in an ARN.
fn account_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(3).filter(|account| !account.is_empty())
}

/// One AWS account.
pub struct AwsControl {
    account: AwsAccount,
    credentials: Arc<Credentials>,
    iam: Client,
    clock: Arc<dyn Clock>,
}

impl AwsControl {
    fn new(account: &AwsAccount, clock: Arc<dyn Clock>) -> Result<Self, AwsError> {
        let name = || account.account.clone();
        let credentials = Credentials::read(&account.credentials_file, &account.profile)
            .map_err(|source| AwsError::Credentials { account: name(), source })?;
        let credentials = Arc::new(credentials);
        let endpoint = account.iam_endpoint.as_deref().unwrap_or("https://iam.amazonaws.com");
        let iam = Client::with_options(endpoint, Arc::clone(&credentials), IAM_REGION, options())
            .map_err(|source| AwsError::Client { account: name(), source })?;
        let control = Self { account: account.clone(), credentials, iam, clock };
        // A bad address shows at start.
        control.kms(IAM_REGION).map_err(|source| AwsError::Client { account: name(), source })?;
        Ok(control)
    }

    fn kms(&self, region: &str) -> Result<Client, ClientError> {
        let own = || format!("https://kms.{region}.amazonaws.com");
        let endpoint = self.account.kms_endpoint.clone().unwrap_or_else(own);
        Client::with_options(&endpoint, Arc::clone(&self.credentials), region, options())
    }

    async fn on_key(&self, operation: &str, body: &Value) -> Result<Value, ControlError> {
        let arn = body.get("KeyId").and_then(Value::as_str).unwrap_or_default();
        let region = arn.split(':').nth(3).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || !region.bytes().all(plain) {
            return Err(refused("ValidationException", format!("{arn} names no region")));
        }
        let client = self.kms(region).map_err(control_error)?;
        let target = format!("TrentService.{operation}");
        // Region and account are the client's, so the id says as much as the ARN; not everyone takes both.
        let mut body = body.clone();
        body["KeyId"] = arn.rsplit('/').next().unwrap_or(arn).into();
        client.call(&target, body, None).await.map(|answer| answer.body).map_err(control_error)
    }

    /// A change; refused for its state, it is done all the same when the key is as it should be. So a call whose answer
    /// was lost is told from one that never worked.
    async fn change_key(&self, operation: &str, body: &Value) -> Result<Value, ControlError> {
        let error = match self.on_key(operation, body).await {
            Err(ControlError::Refused { code, message }) if code.contains("InvalidState") => {
                ControlError::Refused { code, message }
            }
            other => return other,
        };
        let look = json!({ "KeyId": body.get("KeyId") });
        let state = self.on_key("DescribeKey", &look).await?;
        let state = state.get("KeyMetadata").and_then(|metadata| metadata.get("KeyState")).and_then(Value::as_str);
        let there = match operation {
            "DisableKey" => state == Some("Disabled"),
            "EnableKey" => state == Some("Enabled"),
            "CancelKeyDeletion" => matches!(state, Some("Disabled" | "Enabled")),
            _ => false,
        };
        if there { Ok(json!({})) } else { Err(error) }
    }

    async fn quarantine(&self, body: &Value) -> Result<Value, ControlError> {
        let arn = body.get("PrincipalArn").and_then(Value::as_str).unwrap_or_default();
        if body.get("KeyId").is_some() {
            return Err(unsupported("a quarantine for one key alone"));
        }
        let ttl = body.get("TtlSeconds").and_then(Value::as_i64).unwrap_or_default();
        let holder = Holder::of(arn)?;
        let now = i64::try_from(self.clock.now_us()).unwrap_or(i64::MAX);
        let ends = DateTime::<Utc>::from_timestamp_micros(now.saturating_add(ttl.saturating_mul(1_000_000)));
        let ends = ends.ok_or_else(|| refused("ValidationException", format!("a ttl of {ttl} s")))?;
        let document = deny_until(ends).to_string();
        let call = [
            ("Action", holder.put),
            (holder.member, holder.name),
            ("PolicyName", QUARANTINE_POLICY),
            ("PolicyDocument", &document),
        ];
        self.iam(&call).await?;
        Ok(json!({ "PrincipalArn": arn, "ExpiresAt": ends.timestamp() }))
    }

    async fn lift(&self, body: &Value) -> Result<Value, ControlError> {
        let arn = body.get("PrincipalArn").and_then(Value::as_str).unwrap_or_default();
        let holder = Holder::of(arn)?;
        let call = [("Action", holder.delete), (holder.member, holder.name), ("PolicyName", QUARANTINE_POLICY)];
        match self.iam(&call).await {
            Ok(_) => Ok(json!({ "PrincipalArn": arn })),
            // As our own service says it.
            Err(ControlError::Refused { code, message }) if code == "NoSuchEntity" => {
                Err(refused("NotFoundException", message))
            }
            Err(error) => Err(error),
        }
    }

    async fn iam(&self, call: &[(&str, &str)]) -> Result<Zeroizing<String>, ControlError> {
        self.iam.query("iam", &[call, &[("Version", IAM_VERSION)]].concat()).await.map_err(control_error)
    }

    /// Whose a long-term access key is, which IAM knows by the key's id.
    async fn user_of(&self, access_key_id: &str) -> Result<String, ControlError> {
        let xml = self.iam(&[("Action", "GetAccessKeyLastUsed"), ("AccessKeyId", access_key_id)]).await?;
        element(&xml, "UserName").map(str::to_owned).ok_or_else(|| unreadable("UserName"))
    }

    async fn set_access_key(&self, body: &Value, status: &str) -> Result<Value, ControlError> {
        let id = access_key_id(body);
        let user = self.user_of(id).await?;
        let call = [("Action", "UpdateAccessKey"), ("UserName", &user), ("AccessKeyId", id), ("Status", status)];
        self.iam(&call).await?;
        Ok(json!({ "AccessKeyId": id }))
    }

    /// The one that is asked about, if it is inactive.
    async fn deactivated(&self, body: &Value) -> Result<Value, ControlError> {
        let id = access_key_id(body);
        let user = self.user_of(id).await?;
        let xml = self.iam(&[("Action", "ListAccessKeys"), ("UserName", &user)]).await?;
        let listed = xml.split("<member>").find(|entry| element(entry, "AccessKeyId") == Some(id));
        let status = listed.and_then(|entry| element(entry, "Status")).ok_or_else(|| unreadable("Status"))?;
        let inactive = (status == "Inactive").then(|| json!({ "AccessKeyId": id }));
        Ok(json!({ "AccessKeys": Vec::from_iter(inactive) }))
    }
}

#[async_trait]
impl Control for AwsControl {
    async fn call(&self, target: &str, body: Value, _: Option<&str>) -> Result<Answer, ControlError> {
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body = match operation {
            read if READS.contains(&read) => self.on_key(read, &body).await?,
            change if CHANGES.contains(&change) => self.change_key(change, &body).await?,
            "PutQuarantine" => self.quarantine(&body).await?,
            "LiftQuarantine" => self.lift(&body).await?,
            "DeactivateAccessKey" => self.set_access_key(&body, "Inactive").await?,
            "ActivateAccessKey" => self.set_access_key(&body, "Active").await?,
            "ListDeactivatedAccessKeys" => self.deactivated(&body).await?,
            other => return Err(unsupported(other)),
        };
        Ok(Answer { body, log_seq: None })
    }
}

const IAM_VERSION: &str = "2010-05-08";

fn access_key_id(body: &Value) -> &str {
    body.get("AccessKeyId").and_then(Value::as_str).unwrap_or_default()
}

/// Who holds the inline policy: a user, or the role of a session.
struct Holder<'a> {
    member: &'static str,
    name: &'a str,
    put: &'static str,
    delete: &'static str,
}

impl<'a> Holder<'a> {
    fn of(arn: &'a str) -> Result<Self, ControlError> {
        let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
        let mut parts = resource.split('/');
        let kind = parts.next().unwrap_or_default();
        let last = resource.rsplit('/').next().unwrap_or_default();
        let found = match kind {
            "user" => Some(("UserName", last, "PutUserPolicy", "DeleteUserPolicy")),
            "role" => Some(("RoleName", last, "PutRolePolicy", "DeleteRolePolicy")),
            "assumed-role" => Some(("RoleName", parts.next().unwrap_or_default(), "PutRolePolicy", "DeleteRolePolicy")),
            _ => None,
        };
        match found {
            Some((member, name, put, delete)) if !name.is_empty() => Ok(Self { member, name, put, delete }),
            _ => Err(unsupported(&format!("a quarantine of {arn}"))),
        }
    }
}

/// Nothing is allowed until then. It ends by itself, also when nobody is there to take it back.
fn deny_until(ends: DateTime<Utc>) -> Value {
    let ends = ends.to_rfc3339_opts(SecondsFormat::Secs, true);
    json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Sid": "KeytrailQuarantine", "Effect": "Deny", "Action": "*", "Resource": "*",
            "Condition": { "DateLessThan": { "aws:CurrentTime": ends } },
        }],
    })
}

fn options() -> ClientOptions {
    ClientOptions {
        deadline: CALL_DEADLINE,
        connect_timeout: CONNECT_TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
        ..ClientOptions::default()
    }
}

fn refused(code: &str, message: String) -> ControlError {
    ControlError::Refused { code: code.to_owned(), message }
}

fn unsupported(what: &str) -> ControlError {
    refused("UnsupportedOperation", format!("{what} cannot be done in an AWS account"))
}

fn control_error(error: ClientError) -> ControlError {
    match error {
        // IAM's word for patience.
        ClientError::Service { ref code, .. } if code == "Throttling" => ControlError::Unreachable(error.into()),
        error if error.is_retryable() => ControlError::Unreachable(error.into()),
        ClientError::Service { code, message, .. } => ControlError::Refused { code, message },
        other => refused("ClientError", other.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_driven_by_the_logs_that_are_believed_about_it() {
        let account = AwsAccount {
            account: "123456789012".into(),
            logs: vec!["trail".into()],
            credentials_file: "x".into(),
            profile: "default".into(),
            kms_endpoint: None,
            iam_endpoint: None,
        };
        let of = |origin: &str, target: &str| driven(std::slice::from_ref(&account), origin, target).map(str::to_owned);
        let key = "arn:aws:kms:eu-west-1:123456789012:key/1";
        assert_eq!(of("keytrail-import/trail-0123456789abcdef", key).as_deref(), Some("123456789012"));
        let session = "arn:aws:sts::123456789012:assumed-role/reader/night";
        assert!(of("keytrail-import/trail-01", session).is_some());
        for (origin, target) in [
            ("keytrail-import/other-01", key),
            ("keytrail-import/trail", key),
            ("keytrail/local/trail-01", key),
            ("keytrail-import/trail-01", "arn:aws:kms:eu-west-1:210987654321:key/1"),
            ("keytrail-import/trail-01", "alias/x"),
            ("keytrail-import/trail-01", "arn:aws:kms:eu-west-1"),
        ] {
            assert_eq!(of(origin, target), None, "{origin} {target}");
        }
    }

    #[test]
    fn the_holder_is_a_user_or_a_role() {
        let session = "arn:aws:sts::123456789012:assumed-role/reader/night";
        let holder = |arn: &'static str| Holder::of(arn).map(|holder| (holder.member, holder.name)).ok();
        assert_eq!(holder(session), Some(("RoleName", "reader")));
        assert_eq!(holder("arn:aws:iam::123456789012:user/team/alice"), Some(("UserName", "alice")));
        assert_eq!(holder("arn:aws:iam::123456789012:role/path/reader"), Some(("RoleName", "reader")));
        for other in ["arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:user/", "alice"] {
            assert_eq!(holder(other), None, "{other}");
        }
    }

    #[test]
    fn a_quarantine_ends_by_itself() {
        let ends = DateTime::from_timestamp(1_767_614_400, 0).unwrap();
        let statement = &deny_until(ends)["Statement"][0];
        assert_eq!(statement["Condition"]["DateLessThan"]["aws:CurrentTime"], "2026-01-05T12:00:00Z");
        assert_eq!(statement["Effect"], "Deny");
    }
}
