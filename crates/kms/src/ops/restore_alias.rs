//! RestoreAlias: an alias back to a key that it pointed to, if it still points to where the caller saw it, or is still gone.
//!
//! Compare-and-swap as RestoreKeyPolicy, and like it nothing but the alias's own history is accepted: the responder can undo
//! a move, never make one of its own. For the responder and break-glass alone; whoever may call UpdateAlias needs no other
//! way. A key of another type does not stand in the way, or an attacker would put one there.

use super::alias::{note_setter, point};
use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::enable::key_stripes;
use super::input::{KeyReference, recorded, required};
use super::judge::{Judge, not_pending};
use super::overlay_input::cut;
use super::refusal::{Refusal, RefusalKind};
use crate::key::{AccountId, KeyId, KeyRecord};
use crate::locks::Stripe;
use crate::node::Node;
use crate::ops::answer::Call;
use crate::registry::Alias;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RestoreAlias {
    alias_name: Option<String>,
    current_target_key_id: Option<String>,
    wanted_event_id: Option<String>,
    /// The key to which the wanted event pointed the alias, once it was looked up.
    #[serde(skip)]
    wanted: OnceLock<KeyId>,
}

impl Mutation for RestoreAlias {
    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "aliasName": self.alias_name.as_ref().map(cut),
                "currentTargetKeyId": self.current_target_key_id.as_ref().map(cut),
                "wantedEventId": self.wanted_event_id.as_ref().map(|text| &text[..text.floor_char_boundary(128)]),
            }),
        )
    }

    /// The target has to be known before locks are taken: its list of names changes, too. A place in the history never
    /// changes, so that looking early decides nothing.
    async fn prepare(&self, node: &Arc<Node>, call: &Call) {
        let (Some(name), Some(event_id)) = (&self.alias_name, &self.wanted_event_id) else { return };
        let Ok(KeyReference::Alias(account, name)) = KeyReference::parse(name, call.region, node.account) else {
            return;
        };
        if let Ok(Some(id)) = node.store.alias_target((account, call.region), &name, event_id).await {
            let _ = self.wanted.set(id);
        }
    }

    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        let mut stripes = key_stripes(judge, self.current_target_key_id.as_deref());
        let Ok((account, name)) = self.named(judge) else { return stripes };
        let (locks, registry) = (&judge.node.locks, &judge.node.registry);
        stripes.insert(locks.alias(account, judge.region(), &name));
        stripes.extend(registry.alias(account, judge.region(), &name).map(|alias| locks.key(account, alias.target)));
        stripes.extend(self.wanted.get().map(|id| locks.key(account, *id)));
        stripes
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let (account, name) = self.named(judge)?;
        required(&self.wanted_event_id, "wantedEventId")?;
        judge.only_built_ins()?;
        judge.record.touch_alias(account, &name, judge.region());
        let alias = judge.node.registry.alias(account, judge.region(), &name);
        let old = match alias {
            Some(alias) => Some(judge.find_key(account, alias.target).await?),
            None => None,
        };
        self.compare(judge, old.as_deref())?;
        let Some(wanted) = self.wanted.get() else {
            let text = "The alias never pointed to a key by WantedEventId, or that key is gone.";
            return Err(Refusal::new(RefusalKind::NotFound, text));
        };
        let new = judge.find_key(account, *wanted).await?;
        not_pending(&new)?;
        note_setter(judge, account, &name).await?;
        let now_us = judge.judged_at_us;
        let created_us = alias.map_or(now_us, |alias| alias.created_us);
        let alias = Alias { target: new.id, created_us, updated_us: now_us };
        let mut effect = point(judge, &name, old.as_deref(), &new, alias)?;
        effect.body = json_body(&json!({"AliasName": name, "TargetKeyId": new.arn()}));
        Ok(effect)
    }
}

impl RestoreAlias {
    fn named(&self, judge: &Judge<'_>) -> Result<(AccountId, String), Refusal> {
        let text = required(&self.alias_name, "aliasName")?;
        match KeyReference::parse(text, judge.region(), judge.account())? {
            KeyReference::Alias(account, name) => Ok((account, name)),
            KeyReference::Key(..) => Err(Refusal::constraint(Some(text), "aliasName", "Member must be an alias")),
        }
    }

    /// Whether the alias is as the caller saw it: at that key, or gone where it names none.
    fn compare(&self, judge: &Judge<'_>, old: Option<&KeyRecord>) -> Result<(), Refusal> {
        let seen = match &self.current_target_key_id {
            None => None,
            Some(text) => Some(KeyReference::parse(text, judge.region(), judge.account())?.key_only(text)?),
        };
        if seen == old.map(|old| (old.account, old.id)) {
            return Ok(());
        }
        let text = "The alias points to another key than CurrentTargetKeyId names.";
        Err(Refusal::new(RefusalKind::InvalidState, text))
    }
}
