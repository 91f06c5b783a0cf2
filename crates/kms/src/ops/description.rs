//! UpdateKeyDescription: the free text that says what a key is for.

use super::create_key::{checked_description, checked_image, recorded_description};
use super::drive::{Effect, Mutation};
use super::enable::{change_key, key_stripes};
use super::input::{recorded, required};
use super::judge::{Judge, not_pending};
use super::refusal::Refusal;
use crate::locks::Stripe;
use crate::policy::Context;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdateKeyDescription {
    key_id: Option<String>,
    description: Option<String>,
}

impl Mutation for UpdateKeyDescription {
    fn parameters(&self) -> Option<Value> {
        let description = self.description.as_deref().map(recorded_description);
        recorded(self.key_id.as_ref(), json!({"description": description}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let description = required(&self.description, "description")?;
        checked_description(description)?;
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:UpdateKeyDescription", &key, &Context::default())?;
        not_pending(&key)?;
        let after = key.with_description(description);
        checked_image(&after)?;
        let row = Change::SetDescription(key.id, description.clone());
        Ok(change_key(judge, &key, after, vec![row]))
    }
}
