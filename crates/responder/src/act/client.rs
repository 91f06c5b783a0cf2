//! The real KMS behind [`Control`]: signed calls as the built-in principal `keytrail/responder`.

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
    /// `endpoint` is the KMS's base address, `trust` what TLS to it needs.
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
        match self.client.call(target, body, action_id).await {
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
