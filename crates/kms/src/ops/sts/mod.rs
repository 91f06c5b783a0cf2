//! STS: operations that open sessions. No session is remembered: what they answer proves itself (auth/session.rs), and
//! the event says who opened what. A call with an MFA code is a change all the same, for the code is used up.

mod access_key_info;
mod assume_role;
mod session_token;
mod web_identity;

pub(super) use access_key_info::GetAccessKeyInfo;
pub(super) use assume_role::AssumeRole;
pub(crate) use assume_role::tag_named;
pub(super) use session_token::GetSessionToken;
pub(super) use web_identity::assume as assume_with_web_identity;

use super::answer::{Answer, Call};
use super::drive::{self, Class, Effect, Mutation, Query};
use super::input::{self, SecretText};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::auth::session::{self, Claims, IssueError, Issued};
use crate::auth::totp::CodeError;
use crate::key::rfc3339_seconds;
use crate::locks::Stripe;
use crate::node::Node;
use crate::policy::Mfa;
use crate::store::Change;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Shortest session in seconds: AWS's.
const SESSION_SECS_MIN: u64 = 900;

/// The device and its code, as both operations take them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Code {
    serial_number: Option<String>,
    token_code: Option<SecretText>,
}

/// An operation that opens a session.
pub(super) trait Opens: Send + Sync + 'static {
    /// The inputs that may be recorded.
    fn parameters(&self) -> Option<Value>;
    /// Decides and makes the credentials. `mfa`: what the call itself has proved.
    fn open(&self, judge: &mut Judge<'_>, mfa: Mfa) -> Result<Bytes, Refusal>;
}

/// Runs one: as a change if it uses a code up.
pub(super) async fn open<O: Opens + DeserializeOwned>(node: &Arc<Node>, call: Arc<Call>, body: &[u8]) -> Answer {
    match (input::parse::<O>(body), input::parse::<Code>(body)) {
        (Ok(opens), Ok(Code { serial_number: None, token_code: None })) => {
            drive::answer_query(node, &call, &Plain(opens)).await
        }
        (Ok(opens), Ok(code)) => drive::change(node, call, WithCode { opens, code }).await,
        (Err(refusal), _) | (_, Err(refusal)) => drive::refuse(node, &call, refusal).await,
    }
}

/// How many inputs of STS's operations take a form's JSON.
#[cfg(feature = "testing")]
pub(super) fn records(body: &[u8]) -> usize {
    let role = input::parse::<AssumeRole>(body).is_ok_and(|role| {
        let _ = role.parameters();
        true
    });
    let token = input::parse::<GetSessionToken>(body).is_ok_and(|token| {
        let _ = token.parameters();
        true
    });
    let rest = [input::parse::<Code>(body).is_ok(), input::parse::<web_identity::Proof>(body).is_ok()];
    [role, token].into_iter().chain(rest).filter(|taken| *taken).count()
}

struct Plain<O>(O);

impl<O: Opens> Query for Plain<O> {
    // It opens a way to use keys: whoever is in quarantine must not get away from it so.
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        self.0.open(judge, Mfa::Unknown)
    }
}

struct WithCode<O> {
    opens: O,
    code: Code,
}

impl<O: Opens> Mutation for WithCode<O> {
    fn parameters(&self) -> Option<Value> {
        self.opens.parameters()
    }

    /// None: a code is used up under a lock of its own, before anything is stored.
    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let (serial, step) = self.code.redeem(judge)?;
        let body = self.opens.open(judge, Mfa::At(judge.judged_at_us))?;
        Ok(Effect { body, changes: vec![Change::SetMfaStep(serial, step)], ..Effect::default() })
    }
}

impl Code {
    /// Uses the code up. The texts are AWS's.
    fn redeem(&self, judge: &mut Judge<'_>) -> Result<(String, u64), Refusal> {
        let denied = |text: &'static str| Refusal::new(RefusalKind::AccessDenied, text);
        judge.record.decided_by = Some("Mfa".to_owned());
        let (Some(serial), Some(code)) = (&self.serial_number, &self.token_code) else {
            let text = "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code.";
            return Err(denied(text));
        };
        let access = Arc::clone(&judge.access);
        let Some((seed, drift_steps)) = access.mfa_seed(judge.caller()?, serial) else {
            let text = "MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial \
                        number is valid and associated with this user.";
            return Err(denied(text));
        };
        let step =
            judge.node.codes.redeem(serial, seed, drift_steps, code.expose(), judge.judged_at_us).map_err(|error| {
                match error {
                    CodeError::Wrong => {
                        denied("MultiFactorAuthentication failed with invalid MFA one time pass code. ")
                    }
                    CodeError::Locked => {
                        denied("MultiFactorAuthentication failed, too many wrong codes; try again later.")
                    }
                }
            })?;
        judge.record.decided_by = None;
        Ok((serial.clone(), step))
    }
}

/// Reads DurationSeconds within the model's bounds; `usual` when it is absent.
fn duration_secs(text: Option<&str>, usual: u64, longest: u64) -> Result<u64, Refusal> {
    let Some(text) = text else { return Ok(usual) };
    let refuse = |constraint: &str| Refusal::constraint(Some(text), "durationSeconds", constraint);
    match text.parse::<u64>() {
        Ok(secs) if secs < SESSION_SECS_MIN => {
            Err(refuse(&format!("Member must have value greater than or equal to {SESSION_SECS_MIN}")))
        }
        Ok(secs) if secs > longest => Err(refuse(&format!("Member must have value less than or equal to {longest}"))),
        Ok(secs) => Ok(secs),
        Err(_) => Err(refuse("Member must be a whole number")),
    }
}

/// Makes the credentials and says in percent how full their token is.
fn issue(judge: &Judge<'_>, claims: Claims) -> Result<(Issued, usize), Refusal> {
    session::issue(&judge.node.root(), claims).map_err(|error| match error {
        IssueError::TooLarge => Refusal::new(
            RefusalKind::PackedPolicyTooLarge,
            "Packed size of session tags and policies consumes more than 100% of allotted space.",
        ),
        IssueError::Credentials(_) | IssueError::Crypto(_) => Refusal::internal(),
    })
}

/// The head of an answer, up to and including `Credentials`, in a buffer that is wiped.
fn credentials_body(issued: &Issued, expires_us: u64) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1_024 + issued.token.len()));
    // Ids, secrets and tokens are base64 at most: nothing to escape in JSON.
    text.push_str("{\"Credentials\":{\"AccessKeyId\":\"");
    text.push_str(&issued.access_key_id);
    text.push_str("\",\"SecretAccessKey\":\"");
    text.push_str(issued.secret.expose());
    text.push_str("\",\"SessionToken\":\"");
    text.push_str(&issued.token);
    text.push_str("\",\"Expiration\":\"");
    text.push_str(&rfc3339_seconds(expires_us));
    text.push_str("\"}");
    text
}

/// What an event says of new credentials: which, not what opens them.
fn credentials_image(issued: &Issued, expires_us: u64) -> Value {
    json!({"accessKeyId": issued.access_key_id, "expiration": rfc3339_seconds(expires_us)})
}
