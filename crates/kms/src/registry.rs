//! Keys, aliases and grants in memory: what has been published, after its event was durable.
//!
//! Readers clone an `Arc` and let go; only publication writes. Consistency between a judgement and the log comes from
//! `locks`, not from here.

use crate::approval::ApprovalRequest;
use crate::grant::{Grant, GrantId, GrantPlace};
use crate::grant_table::GrantTable;
use crate::key::{AccountId, DueKind, KeyId, KeyRecord, KeyState, Region};
use crate::key_store::KeyStore;
use crate::policy::{GrantTerms, GrantsOnKey};
use crate::retirement::Retirement;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// An alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alias {
    /// The key it points to, in the same account and region.
    pub(crate) target: KeyId,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// Unix microseconds of the last change of target.
    pub(crate) updated_us: u64,
}

/// What a change makes visible.
#[derive(Clone)]
pub(crate) enum Publish {
    /// A new key or a new record of one.
    Key(Arc<KeyRecord>),
    /// A key is gone.
    NoKey(AccountId, KeyId),
    /// A new alias or another target, in the target's region.
    Alias(AccountId, Box<str>, Alias),
    /// An alias is gone.
    NoAlias(AccountId, Region, Box<str>),
    /// A new grant.
    Grant(Arc<Grant>),
    /// A grant is gone.
    NoGrant(GrantPlace),
    /// A new custom key store or a new record of one; its connection follows.
    KeyStore(Arc<KeyStore>),
    /// A custom key store is gone.
    NoKeyStore(AccountId, Region, Arc<str>),
    /// A new request for approval, or a new record of one.
    Approval(Arc<ApprovalRequest>),
    /// A request for approval is forgotten.
    NoApproval(String),
    /// A key is on its way out, or a step further.
    Retirement(AccountId, KeyId, Arc<Retirement>),
    /// A key is not on its way out any more.
    NoRetirement(AccountId, KeyId),
}

#[derive(Default)]
struct Tables {
    keys: BTreeMap<(AccountId, KeyId), Arc<KeyRecord>>,
    key_counts: BTreeMap<(AccountId, Region), usize>,
    aliases: BTreeMap<(AccountId, Region), BTreeMap<Box<str>, Alias>>,
    /// What the service itself does to keys, by date.
    due: BTreeSet<(u64, DueKind, AccountId, KeyId)>,
    grants: GrantTable,
    stores: BTreeMap<(AccountId, Region, Arc<str>), Arc<KeyStore>>,
    approvals: BTreeMap<String, Arc<ApprovalRequest>>,
    retirements: BTreeMap<(AccountId, KeyId), Arc<Retirement>>,
}

/// All keys, aliases and grants of a node.
#[derive(Default)]
pub(crate) struct Registry(RwLock<Tables>);

impl Registry {
    /// A key.
    pub(crate) fn key(&self, account: AccountId, id: KeyId) -> Option<Arc<KeyRecord>> {
        self.0.read().keys.get(&(account, id)).cloned()
    }

    /// An alias by its name with `alias/`.
    pub(crate) fn alias(&self, account: AccountId, region: Region, name: &str) -> Option<Alias> {
        self.0.read().aliases.get(&(account, region))?.get(name).copied()
    }

    /// Up to `limit` key ids of an account in a region behind `after`, in order.
    pub(crate) fn keys_after(
        &self,
        account: AccountId,
        region: Region,
        after: Option<KeyId>,
        limit: usize,
    ) -> Vec<KeyId> {
        let first = match after {
            Some(id) => Bound::Excluded((account, id)),
            None => Bound::Included((account, KeyId::single(region, uuid::Uuid::nil()))),
        };
        let last = Bound::Included((account, KeyId { region, multi_region: true, uuid: uuid::Uuid::max() }));
        self.0.read().keys.range((first, last)).take(limit).map(|((_, id), _)| *id).collect()
    }

    /// Up to `limit` aliases of an account in a region behind `after`, in order, of one key or all.
    pub(crate) fn aliases_after(
        &self,
        (account, region): (AccountId, Region),
        target: Option<KeyId>,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<(Box<str>, Alias)> {
        let tables = self.0.read();
        let Some(aliases) = tables.aliases.get(&(account, region)) else { return Vec::new() };
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = aliases.range::<str, _>((first, Bound::Unbounded));
        let wanted = behind.filter(|(_, alias)| target.is_none_or(|target| alias.target == target));
        wanted.take(limit).map(|(name, alias)| (name.clone(), *alias)).collect()
    }

    /// A custom key store.
    pub(crate) fn key_store(&self, account: AccountId, region: Region, id: &str) -> Option<Arc<KeyStore>> {
        self.0.read().stores.get(&(account, region, id.into())).cloned()
    }

    /// All custom key stores, of which there are few, in order.
    pub(crate) fn key_stores(&self) -> Vec<Arc<KeyStore>> {
        self.0.read().stores.values().cloned().collect()
    }

    /// Whether a custom key store has keys.
    pub(crate) fn has_keys(&self, store: &KeyStore) -> bool {
        let first = (store.account, KeyId::single(store.region, uuid::Uuid::nil()));
        let last = (store.account, KeyId { region: store.region, multi_region: true, uuid: uuid::Uuid::max() });
        let tables = self.0.read();
        let mut keys = tables.keys.range(first..=last);
        keys.any(|(_, key)| key.store.as_ref().is_some_and(|link| Arc::ptr_eq(link, &store.link)))
    }

    /// A request for approval.
    pub(crate) fn approval(&self, id: &str) -> Option<Arc<ApprovalRequest>> {
        self.0.read().approvals.get(id).cloned()
    }

    /// All requests for approval, those that are over among them, in order of id.
    pub(crate) fn approvals(&self) -> Vec<Arc<ApprovalRequest>> {
        self.0.read().approvals.values().cloned().collect()
    }

    /// The retirement of a key.
    pub(crate) fn retirement(&self, account: AccountId, key: KeyId) -> Option<Arc<Retirement>> {
        self.0.read().retirements.get(&(account, key)).cloned()
    }

    /// All keys on their way out, of which there are few.
    pub(crate) fn retirements(&self) -> Vec<(AccountId, KeyId, Arc<Retirement>)> {
        let tables = self.0.read();
        tables.retirements.iter().map(|((account, id), one)| (*account, *id, Arc::clone(one))).collect()
    }

    /// Keys whose date has come, and for what.
    pub(crate) fn due(&self, now_us: u64, limit: usize) -> Vec<(DueKind, AccountId, KeyId)> {
        let tables = self.0.read();
        let due = tables.due.iter().take_while(|(at_us, ..)| *at_us <= now_us);
        due.take(limit).map(|(_, kind, account, id)| (*kind, *account, *id)).collect()
    }

    /// A grant.
    pub(crate) fn grant(&self, place: &GrantPlace) -> Option<Arc<Grant>> {
        self.0.read().grants.grant(place).cloned()
    }

    /// Number of grants on a key.
    pub(crate) fn grant_count(&self, account: AccountId, key: KeyId) -> usize {
        self.0.read().grants.count(account, key)
    }

    /// The grant on the same key that was asked for under the same name in the same words.
    pub(crate) fn same_grant(&self, wanted: &Grant) -> Option<Arc<Grant>> {
        self.0.read().grants.same_request(wanted).cloned()
    }

    /// Up to `limit` grants of a key behind `after`, in order of id, to one grantee or all.
    pub(crate) fn grants_after(
        &self,
        key: (AccountId, KeyId),
        grantee: Option<&str>,
        after: Option<GrantId>,
        limit: usize,
    ) -> Vec<Arc<Grant>> {
        self.0.read().grants.page(key, grantee, after, limit)
    }

    /// Up to `limit` grants of all keys of a region behind `after` that a principal may retire.
    pub(crate) fn retirable_after(
        &self,
        (principal, region): (&str, Region),
        after: Option<GrantPlace>,
        limit: usize,
    ) -> Vec<Arc<Grant>> {
        self.0.read().grants.retirable_page((principal, region), after, limit)
    }

    /// The grants on a key, for a judgement.
    pub(crate) fn grants_on(&self, account: AccountId, key: KeyId) -> GrantsOn<'_> {
        GrantsOn { registry: self, account, key }
    }

    /// Number of keys.
    pub(crate) fn key_count(&self) -> usize {
        self.0.read().keys.len()
    }

    /// Number of keys that can be used.
    pub(crate) fn enabled_count(&self) -> usize {
        self.0.read().keys.values().filter(|key| key.state == KeyState::Enabled).count()
    }

    /// Numbers of keys by region.
    pub(crate) fn key_counts(&self) -> BTreeMap<Region, usize> {
        let mut counts = BTreeMap::new();
        for ((_, region), keys) in &self.0.read().key_counts {
            *counts.entry(*region).or_default() += keys;
        }
        counts
    }

    /// Number of an account's keys in a region.
    pub(crate) fn key_count_of(&self, account: AccountId, region: Region) -> usize {
        self.0.read().key_counts.get(&(account, region)).copied().unwrap_or(0)
    }

    /// Makes changes visible, all at once.
    pub(crate) fn publish(&self, changes: impl IntoIterator<Item = Publish>) {
        let mut tables = self.0.write();
        for change in changes {
            tables.publish(change);
        }
    }
}

impl Tables {
    fn publish(&mut self, change: Publish) {
        match change {
            Publish::Key(record) => {
                let at = (record.account, record.id);
                let dates: Vec<_> = record.due_dates().collect();
                let before = self.keys.insert(at, record);
                *self.key_counts.entry((at.0, at.1.region)).or_default() += usize::from(before.is_none());
                self.forget_dates(before);
                self.due.extend(dates.into_iter().map(|(at_us, kind)| (at_us, kind, at.0, at.1)));
            }
            Publish::NoKey(account, id) => {
                let before = self.keys.remove(&(account, id));
                *self.key_counts.entry((account, id.region)).or_default() -= usize::from(before.is_some());
                self.forget_dates(before);
                self.grants.remove_key(account, id);
            }
            Publish::Alias(account, name, alias) => {
                self.aliases.entry((account, alias.target.region)).or_default().insert(name, alias);
            }
            Publish::NoAlias(account, region, name) => {
                if let Some(aliases) = self.aliases.get_mut(&(account, region)) {
                    aliases.remove(&name);
                }
            }
            Publish::Grant(grant) => self.grants.insert(grant),
            Publish::NoGrant(place) => self.grants.remove(&place),
            Publish::KeyStore(store) => {
                store.link.follow(&store);
                self.stores.insert((store.account, store.region, Arc::clone(&store.id)), store);
            }
            Publish::NoKeyStore(account, region, id) => {
                self.stores.remove(&(account, region, id));
            }
            Publish::Approval(request) => {
                self.approvals.insert(request.id.clone(), request);
            }
            Publish::NoApproval(id) => {
                self.approvals.remove(&id);
            }
            Publish::Retirement(account, id, retirement) => {
                self.retirements.insert((account, id), retirement);
            }
            Publish::NoRetirement(account, id) => {
                self.retirements.remove(&(account, id));
            }
        }
    }

    fn forget_dates(&mut self, record: Option<Arc<KeyRecord>>) {
        let Some(record) = record else { return };
        for (at_us, kind) in record.due_dates() {
            self.due.remove(&(at_us, kind, record.account, record.id));
        }
    }
}

/// The grants on one key. Read when they are asked for, which may be after the key was: whatever was published in
/// between has bumped the key's generation before, and the judgement is sent back.
pub(crate) struct GrantsOn<'a> {
    registry: &'a Registry,
    account: AccountId,
    key: KeyId,
}

impl GrantsOnKey for GrantsOn<'_> {
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        let tables = self.registry.0.read();
        let mut grants = tables.grants.to(self.account, self.key, grantee);
        grants.find(|grant| fits(&grant.terms)).map(|grant| grant.place.id.to_string())
    }
}
