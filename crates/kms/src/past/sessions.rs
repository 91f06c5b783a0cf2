//! Sessions, folded from the log: each is opened by an event that says whose it is, how long it lives and what limits it.

use super::parameters::Parameters;
use crate::auth::session::{Claims, Session, Subject};
use crate::people::role_of_session;
use crate::policy::{Document, Flavor, NamedDocument};
use crate::row::Row;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Sessions looked through at once for those that ended.
const SWEEP_MIN: usize = 4_096;

/// Sessions by access key id.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    live: HashMap<String, Arc<Session>>,
    sweep_at: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Opened {
    credentials: Credentials,
    assumed_role_user: Option<AssumedRoleUser>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    access_key_id: String,
    expiration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AssumedRoleUser {
    assumed_role_id: String,
    arn: String,
}

impl Sessions {
    pub(super) fn get(&self, access_key_id: &str) -> Option<&Arc<Session>> {
        self.live.get(access_key_id)
    }

    /// Takes an event that opened one; `caller_id` is the stable id of a user who calls. None when it says too little.
    pub(super) fn take(
        &mut self,
        row: &Row<'_>,
        parameters: &Parameters<'_>,
        judged_at_us: u64,
        caller_id: Option<String>,
    ) -> Option<()> {
        if parameters.omitted {
            return None;
        }
        let opened: Opened = serde_json::from_str(row.response_elements?).ok()?;
        let claims = self.claims(row, parameters, &opened, judged_at_us, caller_id)?;
        let inline = |text: &String| Document::parse(text, Flavor::IdentityPolicy).ok();
        let policy = match &claims.policy {
            None => None,
            Some(text) => Some(NamedDocument { name: "inline".to_owned(), document: Arc::new(inline(text)?) }),
        };
        if self.live.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.live.retain(|_, session| session.claims.expires_us > judged_at_us);
            self.sweep_at = 2 * self.live.len();
        }
        let access_key_id = opened.credentials.access_key_id;
        let session = Session { access_key_id: access_key_id.clone(), claims, policy };
        self.live.insert(access_key_id, Arc::new(session));
        Some(())
    }

    /// What the session's token says: as `AssumeRole` and `GetSessionToken` put it together.
    fn claims(
        &self,
        row: &Row<'_>,
        parameters: &Parameters<'_>,
        opened: &Opened,
        judged_at_us: u64,
        caller_id: Option<String>,
    ) -> Option<Claims> {
        let callers = row.access_key_id.and_then(|id| self.live.get(id)).map(|session| &session.claims);
        let own_code = parameters.serial_number.is_some().then_some(judged_at_us);
        let expires = chrono::DateTime::parse_from_rfc3339(&opened.credentials.expiration).ok()?;
        let mut claims = Claims {
            account: row.principal_account.unwrap_or_default().to_owned(),
            subject: Subject::User { arn: row.principal_arn.unwrap_or_default().to_owned(), id: String::new() },
            issued_us: judged_at_us,
            expires_us: u64::try_from(expires.timestamp_micros()).ok()?,
            mfa_us: own_code,
            policy: None,
            policy_names: Vec::new(),
            tags: parameters.session_tags(),
            transitive_tag_keys: Vec::new(),
            via: Vec::new(),
            web_identity_provider: None,
        };
        let Some(user) = &opened.assumed_role_user else {
            claims.subject = Subject::User { arn: row.principal_arn?.to_owned(), id: caller_id? };
            return Some(claims);
        };
        let (id, session_name) = user.assumed_role_id.split_once(':')?;
        let arn = role_of_session(&user.arn)?;
        claims.account = arn.split(':').nth(4)?.to_owned();
        claims.subject = Subject::Role { arn, id: id.to_owned(), session_name: session_name.to_owned() };
        claims.mfa_us = own_code.or_else(|| callers.and_then(|claims| claims.mfa_us));
        claims.policy = parameters.policy.as_ref().map(|text| text.0.clone().into_owned());
        let names = parameters.policy_arns.iter().flatten();
        claims.policy_names = names.filter_map(|policy| Some(policy.arn.0.rsplit_once('/')?.1.to_owned())).collect();
        let mut transitive: BTreeSet<String> = parameters.transitive_tag_keys().into_iter().collect();
        for key in callers.iter().flat_map(|claims| &claims.transitive_tag_keys) {
            let inherited = callers.and_then(|claims| claims.tags.get(key)).cloned().unwrap_or_default();
            claims.tags.insert(key.clone(), inherited);
            transitive.insert(key.clone());
        }
        claims.transitive_tag_keys = transitive.into_iter().collect();
        Some(claims)
    }
}
