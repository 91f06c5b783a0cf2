//! Grants in memory, found by key and grantee, by name and by retiring principal.
//!
//! The registry holds it among its tables. A judgement looks up one grantee of one key, so the other 50,000 grants on
//! that key cost it nothing.

use crate::grant::{Grant, GrantId, GrantPlace};
use crate::key::{AccountId, KeyId, Region};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

type ById = BTreeMap<GrantId, Arc<Grant>>;

/// All grants of a node.
#[derive(Default)]
pub(crate) struct GrantTable {
    of_key: BTreeMap<(AccountId, KeyId), KeyGrants>,
    retirable: BTreeMap<Box<str>, BTreeSet<GrantPlace>>,
}

#[derive(Default)]
struct KeyGrants {
    all: ById,
    by_grantee: BTreeMap<Box<str>, ById>,
    /// By name and grantee: a program that gives all its grants one name must not make each new one slower.
    names: BTreeSet<(Box<str>, Box<str>, GrantId)>,
}

impl GrantTable {
    /// A grant.
    pub(crate) fn grant(&self, place: &GrantPlace) -> Option<&Arc<Grant>> {
        self.of_key.get(&(place.account, place.key))?.all.get(&place.id)
    }

    /// Number of grants on a key.
    pub(crate) fn count(&self, account: AccountId, key: KeyId) -> usize {
        self.of_key.get(&(account, key)).map_or(0, |grants| grants.all.len())
    }

    /// The grants of a key to exactly this principal.
    pub(crate) fn to(&self, account: AccountId, key: KeyId, grantee: &str) -> impl Iterator<Item = &Arc<Grant>> {
        let found = self.of_key.get(&(account, key)).and_then(|grants| grants.by_grantee.get(grantee));
        found.into_iter().flat_map(BTreeMap::values)
    }

    /// The grant on the same key that was asked for under the same name in the same words.
    pub(crate) fn same_request(&self, wanted: &Grant) -> Option<&Arc<Grant>> {
        let grants = self.of_key.get(&(wanted.place.account, wanted.place.key))?;
        let name = wanted.name.as_ref()?;
        let first = (name.clone(), wanted.grantee.clone(), GrantId([0; 32]));
        let same = |other: &(Box<str>, Box<str>, GrantId)| other.0 == *name && other.1 == wanted.grantee;
        let named = grants.names.range(first..).take_while(|other| same(other));
        named.filter_map(|(_, _, id)| grants.all.get(id)).find(|grant| grant.is_same_request(wanted))
    }

    /// Up to `limit` grants of a key behind `after`, in order of id, to one grantee or all.
    pub(crate) fn page(
        &self,
        (account, key): (AccountId, KeyId),
        grantee: Option<&str>,
        after: Option<GrantId>,
        limit: usize,
    ) -> Vec<Arc<Grant>> {
        let Some(grants) = self.of_key.get(&(account, key)) else { return Vec::new() };
        let wanted = match grantee {
            Some(grantee) => grants.by_grantee.get(grantee),
            None => Some(&grants.all),
        };
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = wanted.into_iter().flat_map(|grants| grants.range((first, Bound::Unbounded)));
        behind.take(limit).map(|(_, grant)| Arc::clone(grant)).collect()
    }

    /// Up to `limit` grants of all keys of a region behind `after` that a principal may retire.
    pub(crate) fn retirable_page(
        &self,
        (principal, region): (&str, Region),
        after: Option<GrantPlace>,
        limit: usize,
    ) -> Vec<Arc<Grant>> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = self.retirable.get(principal);
        let behind = places.into_iter().flat_map(|places| places.range((first, Bound::Unbounded)));
        let here = behind.filter(|place| place.key.region == region);
        here.take(limit).filter_map(|place| self.grant(place)).cloned().collect()
    }

    pub(crate) fn insert(&mut self, grant: Arc<Grant>) {
        let GrantPlace { account, key, id } = grant.place;
        let grants = self.of_key.entry((account, key)).or_default();
        grants.by_grantee.entry(grant.grantee.clone()).or_default().insert(id, Arc::clone(&grant));
        grants.names.extend(grant.name.clone().map(|name| (name, grant.grantee.clone(), id)));
        if let Some(retiring) = &grant.retiring {
            self.retirable.entry(retiring.clone()).or_default().insert(grant.place);
        }
        grants.all.insert(id, grant);
    }

    pub(crate) fn remove(&mut self, place: &GrantPlace) {
        let Some(grants) = self.of_key.get_mut(&(place.account, place.key)) else { return };
        let Some(grant) = grants.all.remove(&place.id) else { return };
        if let Some(name) = &grant.name {
            grants.names.remove(&(name.clone(), grant.grantee.clone(), place.id));
        }
        if let Some(others) = grants.by_grantee.get_mut(&grant.grantee) {
            others.remove(&place.id);
            if others.is_empty() {
                grants.by_grantee.remove(&grant.grantee);
            }
        }
        if grants.all.is_empty() {
            self.of_key.remove(&(place.account, place.key));
        }
        self.forget_retirable(&grant);
    }

    pub(crate) fn remove_key(&mut self, account: AccountId, key: KeyId) {
        let Some(grants) = self.of_key.remove(&(account, key)) else { return };
        for grant in grants.all.values() {
            self.forget_retirable(grant);
        }
    }

    fn forget_retirable(&mut self, grant: &Grant) {
        let Some(retiring) = &grant.retiring else { return };
        if let Some(places) = self.retirable.get_mut(retiring) {
            places.remove(&grant.place);
            if places.is_empty() {
                self.retirable.remove(retiring);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn region(name: &str) -> Region {
        Region::parse(name).unwrap()
    }

    fn grant(key: u128, id: u8, grantee: &str) -> Arc<Grant> {
        let account = AccountId::parse("123456789012").unwrap();
        Arc::new(Grant {
            place: GrantPlace {
                account,
                key: KeyId::single(region("eu-central-1"), Uuid::from_u128(key)),
                id: GrantId([id; 32]),
            },
            name: Some("n".into()),
            grantee: grantee.into(),
            retiring: Some("r".into()),
            issuing_account: account,
            terms: crate::policy::GrantTerms::default(),
            created_us: u64::from(id),
        })
    }

    #[test]
    fn what_is_inserted_is_found_each_way_until_it_is_removed() {
        let mut table = GrantTable::default();
        let grants = [grant(1, 1, "a"), grant(1, 2, "b"), grant(2, 3, "a"), grant(1, 4, "a")];
        grants.iter().for_each(|grant| table.insert(Arc::clone(grant)));
        let GrantPlace { account, key, .. } = grants[0].place;
        let ids = |found: Vec<Arc<Grant>>| found.iter().map(|grant| grant.place.id.0[0]).collect::<Vec<_>>();
        assert_eq!(ids(table.to(account, key, "a").cloned().collect()), [1, 4]);
        assert_eq!(ids(table.page((account, key), None, None, 9)), [1, 2, 4]);
        assert_eq!(ids(table.page((account, key), None, Some(GrantId([1; 32])), 1)), [2]);
        assert_eq!(ids(table.page((account, key), Some("a"), None, 9)), [1, 4]);
        assert_eq!(ids(table.retirable_page(("r", region("eu-central-1")), None, 9)), [1, 2, 4, 3]);
        assert!(table.retirable_page(("r", region("us-east-1")), None, 9).is_empty());
        assert_eq!(ids(table.retirable_page(("r", region("eu-central-1")), Some(grants[1].place), 1)), [4]);
        assert_eq!(table.same_request(&grant(1, 9, "b")).unwrap().place.id.0[0], 2);
        assert!(table.same_request(&grant(1, 9, "c")).is_none());
        table.remove(&grants[0].place);
        table.remove(&grants[0].place);
        assert_eq!((table.count(account, key), ids(table.to(account, key, "a").cloned().collect())), (2, vec![4]));
        table.remove_key(account, key);
        assert_eq!(ids(table.retirable_page(("r", region("eu-central-1")), None, 9)), [3]);
        table.remove(&grants[2].place);
        assert!(table.of_key.is_empty() && table.retirable.is_empty());
    }
}
