//! RetireGrant and RevokeGrant: the end of a grant. The grant itself says who may retire it, policies who may revoke it.

use super::drive::{Effect, Mutation};
use super::enable::key_stripes;
use super::encrypt::would_work;
use super::input::{KeyReference, recorded, required};
use super::judge::{Judge, KEY_ID};
use super::refusal::{Refusal, RefusalKind};
use crate::grant::{Grant, GrantId, GrantPlace, open_token};
use crate::key::KeyRecord;
use crate::locks::Stripe;
use crate::policy::Context;
use crate::registry::Publish;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The model's limit on a grant id.
const GRANT_ID_BYTES_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RetireGrant {
    grant_token: Option<String>,
    key_id: Option<String>,
    grant_id: Option<String>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RevokeGrant {
    key_id: Option<String>,
    grant_id: Option<String>,
    dry_run: Option<bool>,
}

impl Mutation for RetireGrant {
    /// Never the token.
    fn parameters(&self) -> Option<Value> {
        parameters(self.key_id.as_ref(), self.grant_id.as_ref(), self.dry_run)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        let mut stripes = key_stripes(judge, self.key_id.as_deref());
        let node = judge.node;
        let place = self.grant_token.as_ref().and_then(|token| open_token(&node.root(), node.region, token));
        stripes.extend(place.map(|place| judge.node.locks.key(place.account, place.key)));
        stripes
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let (key, grant) = match (&self.grant_token, &self.key_id, &self.grant_id) {
            (Some(token), None, None) => {
                let grant = judge.grant_of_token(token).await?;
                (judge.key_by_id(KEY_ID, grant.place.account, grant.place.key).await?, grant)
            }
            (None, Some(key_id), Some(grant_id)) => find(judge, key_id, grant_id).await?,
            _ => {
                let text = "You must specify either a grant token, or a key ID and a grant ID.";
                return Err(Refusal::new(RefusalKind::Validation, text));
            }
        };
        // Also of a refused or dry call: a token names its grant to nobody who reads the log.
        judge.record.more.insert("grantId".to_owned(), grant.place.id.to_string().into());
        judge.allow_retire(&key, &grant)?;
        end(judge, &grant, self.dry_run)
    }
}

impl Mutation for RevokeGrant {
    fn parameters(&self) -> Option<Value> {
        parameters(self.key_id.as_ref(), self.grant_id.as_ref(), self.dry_run)
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let key_id = required(&self.key_id, "keyId")?;
        let grant_id = required(&self.grant_id, "grantId")?;
        let key = judge.key_without_alias(key_id).await?;
        // Before the grant is looked for: who may not revoke must not learn which ids there are.
        judge.allow_key("kms:RevokeGrant", &key, &Context::default())?;
        let grant = grant_on(judge, &key, grant_id).await?;
        end(judge, &grant, self.dry_run)
    }
}

fn parameters(key_id: Option<&String>, grant_id: Option<&String>, dry_run: Option<bool>) -> Option<Value> {
    let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(GRANT_ID_BYTES_MAX)]);
    recorded(key_id, json!({"grantId": grant_id.map(cut), "dryRun": dry_run}))
}

/// The grant that key and id name. Only the key's own account learns that there is none; others are denied.
async fn find(judge: &mut Judge<'_>, key_id: &str, grant_id: &str) -> Result<(Arc<KeyRecord>, Arc<Grant>), Refusal> {
    let (account, _) = KeyReference::parse(key_id, judge.region(), judge.account())?.key_only(key_id)?;
    let key = judge.key_without_alias(key_id).await?;
    match grant_on(judge, &key, grant_id).await {
        Ok(grant) => Ok((key, grant)),
        Err(_) if account != judge.account() => Err(judge.denied_abroad()),
        Err(refusal) => Err(refusal),
    }
}

/// A grant of a key by its id.
pub(crate) async fn grant_on(judge: &mut Judge<'_>, key: &KeyRecord, text: &str) -> Result<Arc<Grant>, Refusal> {
    let invalid = || Refusal::bare(RefusalKind::InvalidGrantId);
    let id = GrantId::parse(text).ok_or_else(invalid)?;
    judge.grant(&GrantPlace { account: key.account, key: key.id, id }).await.ok_or_else(invalid)
}

fn end(judge: &mut Judge<'_>, grant: &Grant, dry_run: Option<bool>) -> Result<Effect, Refusal> {
    would_work(dry_run)?;
    let image = grant.image();
    judge.record.response_elements = Some(json!({"keyId": image["targetKeyArn"]}));
    judge.record.more.insert("grantId".to_owned(), image["grantId"].clone());
    judge.record.before = Some(image);
    Ok(Effect {
        changes: vec![Change::DeleteGrant(grant.place)],
        publish: vec![Publish::NoGrant(grant.place)],
        ..Effect::default()
    })
}
