//! The overlay: what stands above every policy for a time. Principals in quarantine (everywhere, or on one key),
//! administrative actions that want a fresh second factor, and access keys that are withdrawn.
//!
//! It never touches what it stands above: policies, identities.toml and the IAM API's entries stay as their owners left
//! them, so that lifting an entry gives back exactly what was before. Entries of a key are kept under account and key id:
//! related keys of all regions have one material, so an entry on one of them is on all.

use crate::key::{AccountId, KeyId};
use std::collections::BTreeMap;

/// How old a second factor may be where one is required, in seconds: the five minutes of AWS's whitepaper.
pub(crate) const FRESH_MFA_SECONDS: u64 = 300;

/// What an entry is about: a key and its related ones, an account, or (empty) everything.
pub(crate) type Scope = String;

/// A principal stopped for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) expires_us: u64,
    pub(crate) reason: String,
    pub(crate) event_id: String,
    /// The key on which it is stopped; everywhere without one.
    pub(crate) key_arn: Option<String>,
}

/// Actions that want a fresh second factor for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MfaRequirement {
    /// ARN of the key, or of the account's root for all keys of an account.
    pub(crate) on_arn: String,
    /// Without `kms:`, in order.
    pub(crate) actions: Vec<String>,
    pub(crate) expires_us: u64,
    pub(crate) reason: String,
    pub(crate) event_id: String,
}

/// An access key that is not honoured until it is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withdrawal {
    /// Whose key it is.
    pub(crate) principal_arn: String,
    pub(crate) reason: String,
    pub(crate) event_id: String,
}

/// All entries; expired ones too, until something of their kind changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    /// By principal ARN, then by scope.
    pub(crate) quarantines: BTreeMap<String, BTreeMap<Scope, Quarantine>>,
    /// By scope.
    pub(crate) mfa: BTreeMap<Scope, MfaRequirement>,
    /// By access key id.
    pub(crate) withdrawn: BTreeMap<String, Withdrawal>,
}

/// The scope of a key and its related keys.
pub(crate) fn key_scope(account: AccountId, id: KeyId) -> Scope {
    format!("{account}:key/{id}")
}

/// The scope of all keys of an account.
pub(crate) fn account_scope(account: AccountId) -> Scope {
    account.to_string()
}

impl Overlay {
    /// The quarantine that stops a principal everywhere (no scope) or on a key.
    pub(crate) fn quarantine(&self, arn: &str, scope: &str, at_us: u64) -> Option<&Quarantine> {
        self.quarantines.get(arn)?.get(scope).filter(|entry| entry.expires_us > at_us)
    }

    /// Any quarantine that a principal is in.
    pub(crate) fn any_quarantine(&self, arn: &str, at_us: u64) -> Option<&Quarantine> {
        self.quarantines.get(arn)?.values().find(|entry| entry.expires_us > at_us)
    }

    /// The requirement that an action on a key falls under: the key's own, or its account's.
    pub(crate) fn mfa_required(
        &self,
        action: &str,
        (account, id): (AccountId, KeyId),
        at_us: u64,
    ) -> Option<&MfaRequirement> {
        if self.mfa.is_empty() {
            return None;
        }
        let wanted = |scope: Scope| {
            let entry = self.mfa.get(&scope)?;
            let named = entry.actions.iter().any(|named| named == action);
            (named && entry.expires_us > at_us).then_some(entry)
        };
        wanted(key_scope(account, id)).or_else(|| wanted(account_scope(account)))
    }

    /// How many quarantines there are.
    pub(crate) fn quarantine_count(&self) -> usize {
        self.quarantines.values().map(BTreeMap::len).sum()
    }

    /// Takes out quarantines that are over; returns whose they were, with their scopes.
    pub(crate) fn take_ended_quarantines(&mut self, at_us: u64) -> Vec<(String, Scope)> {
        let mut ended = Vec::new();
        self.quarantines.retain(|arn, scopes| {
            scopes.retain(|scope, entry| {
                let live = entry.expires_us > at_us;
                if !live {
                    ended.push((arn.clone(), scope.clone()));
                }
                live
            });
            !scopes.is_empty()
        });
        ended
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::key::Region;
    use uuid::Uuid;

    fn entry(expires_us: u64) -> Quarantine {
        Quarantine { expires_us, reason: String::new(), event_id: "e".into(), key_arn: None }
    }

    #[test]
    fn related_keys_have_one_scope_and_others_their_own() {
        let account = AccountId::parse("123456789012").unwrap();
        let id = |region: &str, multi_region| KeyId {
            region: Region::parse(region).unwrap(),
            multi_region,
            uuid: Uuid::nil(),
        };
        let scope = |region, multi_region| key_scope(account, id(region, multi_region));
        assert_eq!(scope("eu-west-1", true), scope("us-east-1", true));
        assert_ne!(scope("eu-west-1", true), scope("eu-west-1", false));
        assert_ne!(scope("eu-west-1", false), account_scope(account));
    }

    #[test]
    fn quarantines_end_each_by_itself() {
        let mut overlay = Overlay::default();
        let of = overlay.quarantines.entry("a".into()).or_default();
        of.insert(String::new(), entry(10));
        of.insert("k".into(), entry(20));
        assert!(overlay.quarantine("a", "", 9).is_some() && overlay.quarantine("a", "", 10).is_none());
        assert!(overlay.any_quarantine("a", 15).is_some() && overlay.quarantine("a", "j", 15).is_none());
        assert_eq!(overlay.take_ended_quarantines(15), [("a".to_owned(), String::new())]);
        assert_eq!(overlay.quarantine_count(), 1);
        assert_eq!(overlay.take_ended_quarantines(20).len(), 1);
        assert!(overlay.quarantines.is_empty());
    }
}
