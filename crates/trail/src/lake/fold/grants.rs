//! Grants, folded from the log: the live ones, and how the others ended.
//!
//! CreateGrant carries the grant's image; RetireGrant and RevokeGrant name it; DeleteKey takes all of its key's. A repeated
//! CreateGrant has the same image and changes nothing.

use super::Step;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Ended grants that are remembered, the newest; services make and retire them by the million.
const ENDED_MAX: usize = 100_000;

/// A grant and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grant {
    pub(crate) image: GrantImage,
    pub(crate) created: Step,
    pub(crate) ended: Option<Step>,
}

/// `additionalEventData.after` of CreateGrant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GrantImage {
    pub(crate) grant_id: String,
    pub(crate) target_key_arn: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) grantee_principal: Option<String>,
    #[serde(default)]
    pub(crate) retiring_principal: Option<String>,
    #[serde(default)]
    pub(crate) issuing_account: Option<String>,
    #[serde(default)]
    pub(crate) operations: Vec<String>,
    #[serde(default)]
    pub(crate) constraints: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) created_at: Option<String>,
}

/// All grants known at one position of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Grants {
    /// By key ARN, then grant id: a key's deletion takes all of them.
    live: BTreeMap<String, BTreeMap<String, Arc<Grant>>>,
    ended: VecDeque<Arc<Grant>>,
}

impl Grants {
    /// Ended grants in the order in which they ended, then the live ones by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.ended.iter().chain(self.live.values().flat_map(BTreeMap::values)).map(AsRef::as_ref)
    }

    pub(super) fn create(&mut self, image: GrantImage, created: Step) {
        let of_key = self.live.entry(image.target_key_arn.clone()).or_default();
        of_key.entry(image.grant_id.clone()).or_insert_with(|| Arc::new(Grant { image, created, ended: None }));
    }

    pub(super) fn end(&mut self, key_arn: &str, grant_id: &str, step: Step) {
        let Some(of_key) = self.live.get_mut(key_arn) else { return };
        if let Some(grant) = of_key.remove(grant_id) {
            self.remember(&grant, step);
        }
    }

    pub(super) fn end_all(&mut self, key_arn: &str, step: &Step) {
        for grant in self.live.remove(key_arn).into_iter().flat_map(BTreeMap::into_values) {
            self.remember(&grant, step.clone());
        }
    }

    fn remember(&mut self, grant: &Grant, step: Step) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(Arc::new(Grant { ended: Some(step), ..grant.clone() }));
    }
}
