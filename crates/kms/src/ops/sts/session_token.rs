//! GetSessionToken: a user's own rights for a time, with proof of a second factor when a code came along.
//!
//! No policy can forbid it, as at AWS: it authenticates. Sessions of roles and of users cannot renew themselves by it.

use super::super::input::recorded;
use super::super::judge::Judge;
use super::super::refusal::{Refusal, RefusalKind};
use super::{Opens, credentials_body, credentials_image, duration_secs, issue};
use crate::auth::session::{Claims, Subject};
use crate::policy::{Mfa, PrincipalKind};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// When a call says nothing.
const SESSION_SECS_USUAL: u64 = 43_200;
/// The model's bound.
const SESSION_SECS_MAX: u64 = 129_600;
/// For account roots, asked for or not: AWS's bound.
const ROOT_SECS_MAX: u64 = 3_600;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::ops) struct GetSessionToken {
    duration_seconds: Option<String>,
    serial_number: Option<String>,
}

impl Opens for GetSessionToken {
    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"durationSeconds": self.duration_seconds, "serialNumber": self.serial_number}))
    }

    fn open(&self, judge: &mut Judge<'_>, mfa: Mfa) -> Result<Bytes, Refusal> {
        let asked = duration_secs(self.duration_seconds.as_deref(), SESSION_SECS_USUAL, SESSION_SECS_MAX)?;
        let caller = judge.caller()?;
        let denied = |text: &'static str| Refusal::new(RefusalKind::AccessDenied, text);
        if caller.session.is_some() {
            return Err(denied("Cannot call GetSessionToken with session credentials"));
        }
        let Some(context) = caller.context() else {
            return Err(denied("This principal has no sessions."));
        };
        let longest = if context.kind == PrincipalKind::Root { ROOT_SECS_MAX } else { SESSION_SECS_MAX };
        let expires_us = judge.judged_at_us + asked.min(longest) * 1_000_000;
        let claims = Claims {
            account: context.account.clone(),
            subject: Subject::User { arn: context.arn.clone(), id: context.user_id.clone() },
            issued_us: judge.judged_at_us,
            expires_us,
            mfa_us: match mfa {
                Mfa::At(at_us) => Some(at_us),
                Mfa::Unknown | Mfa::Without => None,
            },
            policy: None,
            policy_names: Vec::new(),
            tags: BTreeMap::new(),
            transitive_tag_keys: Vec::new(),
            via: Vec::new(),
            web_identity_provider: None,
        };
        let (issued, _) = issue(judge, claims)?;
        judge.record.response_elements = Some(json!({"credentials": credentials_image(&issued, expires_us)}));
        let mut body = credentials_body(&issued, expires_us);
        body.push('}');
        Ok(Bytes::from_owner(body))
    }
}
