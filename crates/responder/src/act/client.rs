//! The real KMS behind [`Control`]: signed calls as the built-in principal `keytrail/responder`.
//!
//! A call about a key is signed for the region in the key's ARN: the KMS looks for a key there only. All others are signed
//! for the home region.

use crate::act::{Answer, Control, ControlError};
use async_trait::async_trait;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientError, ClientOptions, Trust};
use serde_json::Value;
use std::time::Duration;

/// Bound of one call: beyond it another attempt is better than more patience.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Bound of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer: a key policy has 32 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Calls the KMS over HTTP.
pub struct SignedControl {
    client: Client,
}

impl SignedControl {
    /// `endpoint` is the KMS's base address, `trust` what TLS to it needs, `region` its home region.
    pub fn new(endpoint: &str, trust: Trust, credentials: Credentials, region: &str) -> Result<Self, ClientError> {
        let options = ClientOptions {
            deadline: CALL_DEADLINE,
            connect_timeout: CONNECT_TIMEOUT,
            answer_bytes_max: ANSWER_BYTES_MAX,
            trust,
        };
        Ok(Self { client: Client::with_options(endpoint, credentials, region, options)? })
    }
}

#[async_trait]
impl Control for SignedControl {
    async fn call(&self, target: &str, body: Value, action_id: Option<&str>) -> Result<Answer, ControlError> {
        let elsewhere = region_of_key(&body).map(|region| self.client.in_region(region));
        match elsewhere.as_ref().unwrap_or(&self.client).call(target, body, action_id).await {
            Ok(answer) => {
                let log_seq = answer.seq.and_then(|seq| i64::try_from(seq).ok());
                Ok(Answer { body: answer.body, log_seq })
            }
            Err(error) if error.is_retryable() => Err(ControlError::Unreachable(error.into())),
            Err(ClientError::Service { code, message, .. }) => Err(ControlError::Refused { code, message }),
            Err(other) => Err(ControlError::Refused { code: "ClientError".into(), message: other.to_string() }),
        }
    }
}

/// The region of the key or alias that a call names by its ARN.
fn region_of_key(body: &Value) -> Option<&str> {
    let mut parts = body.get("KeyId").or_else(|| body.get("AliasName"))?.as_str()?.splitn(6, ':');
    let head = [parts.next()?, parts.next()?, parts.next()?];
    (head == ["arn", "aws", "kms"]).then(|| parts.next())?.filter(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_region_is_that_of_the_arn() {
        let arn = "arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab";
        assert_eq!(region_of_key(&json!({"KeyId": arn})), Some("eu-west-1"));
        let alias = "arn:aws:kms:eu-west-1:123456789012:alias/app";
        assert_eq!(region_of_key(&json!({"AliasName": alias, "WantedEventId": "e"})), Some("eu-west-1"));
        for other in
            [json!({}), json!({"KeyId": 7}), json!({"KeyId": "mrk-1"}), json!({"KeyId": "arn:aws:kms::1:key/x"})]
        {
            assert_eq!(region_of_key(&other), None, "{other}");
        }
    }
}
