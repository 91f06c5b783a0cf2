//! Carries out one action: look, write down, call, look again.
//!
//! [`Control`] is the KMS as the responder sees it: one signed call at a time. `steps` says what each action reads and
//! calls, `snapshot`, `call_out` and `grants` do what is no single call, `worker` takes due rows and drives them, actions on
//! different targets side by side. DESIGN 18 lists the calls;
//! none of them decrypts or sets a policy of our making.

pub mod aws;
pub mod call_out;
pub mod client;
pub(crate) mod grants;
pub mod snapshot;
pub mod steps;
pub mod worker;

use async_trait::async_trait;
use serde_json::Value;

pub use call_out::CallOuts;
pub use client::SignedControl;
pub use worker::{Means, Worker};

/// What the KMS answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The operation's output.
    pub body: Value,
    /// Index of the call's record in the log.
    pub log_seq: Option<i64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The KMS said no; the same call would be refused again.
    #[error("{code}: {message}")]
    Refused {
        /// The exception's name.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// No answer, or one that asks for patience. The call may have taken effect.
    #[error("kms cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The calls that the responder is allowed, as `Service.Operation` and a JSON body.
#[async_trait]
pub trait Control: Send + Sync {
    /// One call. With an action id a repeat has no second effect and gets the first answer.
    async fn call(&self, target: &str, body: Value, action_id: Option<&str>) -> Result<Answer, ControlError>;
}
