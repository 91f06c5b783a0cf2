//! Grants, folded from the log: the `after` images of CreateGrant, until one is retired or revoked or its key is deleted.

use crate::policy::{GrantConstraints, GrantFacts, GrantOperations, GrantTerms, GrantsOnKey, ListedGrants, Retirable};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The image of a grant in `before` and `after`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrantImage {
    pub(crate) grant_id: String,
    pub(crate) target_key_arn: String,
    pub(crate) name: Option<String>,
    pub(crate) grantee_principal: String,
    pub(crate) retiring_principal: Option<String>,
    pub(crate) issuing_account: String,
    pub(crate) operations: Vec<String>,
    #[serde(default)]
    pub(crate) constraints: GrantConstraints,
}

/// A living grant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PastGrant {
    pub(crate) image: GrantImage,
    pub(crate) terms: GrantTerms,
}

impl PastGrant {
    /// As conditions see it.
    pub(crate) fn facts(&self) -> GrantFacts<'_> {
        let GrantImage { grantee_principal, retiring_principal, .. } = &self.image;
        GrantFacts { grantee: grantee_principal, retiring: retiring_principal.as_deref(), terms: &self.terms }
    }

    pub(crate) fn retirable(&self) -> Retirable<'_> {
        Retirable {
            id: &self.image.grant_id,
            grantee: &self.image.grantee_principal,
            retiring: self.image.retiring_principal.as_deref(),
            issuing_account: &self.image.issuing_account,
            terms: &self.terms,
        }
    }
}

/// The grants on one key, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyGrants {
    all: BTreeMap<String, PastGrant>,
    by_grantee: BTreeMap<String, Vec<String>>,
}

impl KeyGrants {
    pub(crate) fn get(&self, id: &str) -> Option<&PastGrant> {
        self.all.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PastGrant> {
        self.all.values()
    }

    fn insert(&mut self, grant: PastGrant) {
        let (id, grantee) = (grant.image.grant_id.clone(), grant.image.grantee_principal.clone());
        if self.all.insert(id.clone(), grant).is_none() {
            let ids = self.by_grantee.entry(grantee).or_default();
            // In order of id, as the node looks at them.
            let at = ids.binary_search(&id).unwrap_or_else(|at| at);
            ids.insert(at, id);
        }
    }

    fn remove(&mut self, id: &str) {
        if let Some(grant) = self.all.remove(id)
            && let Some(ids) = self.by_grantee.get_mut(&grant.image.grantee_principal)
        {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_grantee.remove(&grant.image.grantee_principal);
            }
        }
    }
}

impl GrantsOnKey for KeyGrants {
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        let ids = self.by_grantee.get(grantee)?;
        ids.iter().find(|id| self.all.get(*id).is_some_and(|grant| fits(&grant.terms))).cloned()
    }
}

impl ListedGrants for KeyGrants {
    fn each(&self, grantee: &str, visit: &mut dyn FnMut(&str, &GrantTerms)) {
        let ids = self.by_grantee.get(grantee).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id)).for_each(|grant| visit(&grant.image.grant_id, &grant.terms));
    }
}

/// All living grants, by the ARN of their key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants(BTreeMap<String, KeyGrants>);

impl Grants {
    pub(crate) fn on(&self, key_arn: &str) -> Option<&KeyGrants> {
        self.0.get(key_arn)
    }

    /// Takes the image of a grant after a call. False when its operations are not ours.
    pub(crate) fn insert(&mut self, image: GrantImage) -> bool {
        let Ok(operations) = GrantOperations::parse(image.operations.iter().map(String::as_str)) else { return false };
        let terms = GrantTerms { operations, constraints: image.constraints.clone() };
        self.0.entry(image.target_key_arn.clone()).or_default().insert(PastGrant { image, terms });
        true
    }

    pub(crate) fn remove(&mut self, key_arn: &str, id: &str) {
        if let Some(grants) = self.0.get_mut(key_arn) {
            grants.remove(id);
        }
    }

    /// A deleted key takes its grants along.
    pub(crate) fn remove_key(&mut self, key_arn: &str) {
        self.0.remove(key_arn);
    }
}
