//! UpdatePrimaryRegion: a replica becomes the primary key, and the primary key a replica.
//!
//! All related keys change in one transaction; the two are Updating until the job of due changes finds them.

use super::companion::{self, Companion};
use super::drive::{Effect, Mutation};
use super::enable::{change_key, key_stripes};
use super::input::{recorded, region_member, required};
use super::judge::{Judge, not_synchronizing, usable};
use super::refusal::{Refusal, RefusalKind};
use super::replicate_key::primary_key;
use crate::key::{KeyRecord, KeyState, Region, key_arn};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::registry::Publish;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdatePrimaryRegion {
    key_id: Option<String>,
    primary_region: Option<String>,
}

impl Mutation for UpdatePrimaryRegion {
    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(64)]);
        recorded(self.key_id.as_ref(), json!({"primaryRegion": self.primary_region.as_ref().map(cut)}))
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        key_stripes(judge, self.key_id.as_deref())
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let region = region_member("primaryRegion", required(&self.primary_region, "primaryRegion")?)?;
        let primary = judge.key_without_alias(text).await?;
        let facts = Context { primary_region: Some(region.as_str()), ..Context::default() };
        judge.allow_key("kms:UpdatePrimaryRegion", &primary, &facts)?;
        usable(judge, &primary)?;
        not_synchronizing(&primary)?;
        primary_key(&primary)?;
        let replica = replica_in(judge, &primary, region)?;
        let decided_by = judge.record.decided_by.clone();
        judge.allow_key("kms:UpdatePrimaryRegion", &replica, &Context { region: region.as_str(), ..facts })?;
        let allowed_there = std::mem::replace(&mut judge.record.decided_by, decided_by);
        usable(judge, &replica)?;
        not_synchronizing(&replica)?;
        Ok(effect(judge, &primary, &replica, allowed_there))
    }
}

/// The replica that shall be the primary key.
fn replica_in(judge: &Judge<'_>, primary: &KeyRecord, region: Region) -> Result<Arc<KeyRecord>, Refusal> {
    if region == primary.id.region {
        let text = format!("{} is the primary key already.", primary.arn());
        return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
    }
    let id = primary.id.in_region(region);
    let text = || format!("Key '{}' does not exist", key_arn(primary.account, id));
    judge.node.registry.key(primary.account, id).ok_or_else(|| Refusal::new(RefusalKind::NotFound, text()))
}

fn effect(judge: &mut Judge<'_>, primary: &KeyRecord, replica: &KeyRecord, allowed_there: Option<String>) -> Effect {
    let node = judge.node;
    let region = replica.id.region;
    let Some(family) = primary.family.as_ref().map(|family| Arc::new(family.with_primary(region))) else {
        return Effect::default();
    };
    let state = KeyState::updating(judge.judged_at_us);
    let updating = |key: &KeyRecord| key.with_family(Arc::clone(&family)).with_state(state);
    let changes = |key: &KeyRecord| [Change::SetPrimaryRegion(key.id, region), Change::SetState(key.id, key.state)];
    let (old, new) = (updating(primary), updating(replica));

    let mut announced = Companion::of_call(judge, "UpdatePrimaryRegion", region);
    announced.record.decided_by = allowed_there;
    announced.record.touch_key(&new);
    announced.record.request_parameters = Some(json!({"keyId": new.arn(), "primaryRegion": region.as_str()}));
    announced.record.before = Some(replica.image());
    announced.record.after = Some(new.image());

    let mut effect = change_key(judge, primary, old.clone(), changes(&old).into());
    effect.changes.extend(changes(&new));
    effect.companions.push(announced);
    for other in new.related_regions().filter(|other| *other != primary.id.region) {
        if let Some(before) = node.registry.key(new.account, new.id.in_region(other)) {
            let after = before.with_family(Arc::clone(&family));
            companion::follow_as(node, &before, after, judge.judged_at_us, &mut effect);
        }
    }
    effect.publish.push(Publish::Key(Arc::new(new)));
    effect
}
