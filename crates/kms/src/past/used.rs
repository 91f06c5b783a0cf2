//! How something was used, and the narrowest conditions that all of these uses meet.

use super::question::Question;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Names of an encryption context listed in a condition; more are left open.
const NAMES_MAX: usize = 32;

/// The uses of one action by one principal on one resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    pub(super) calls: u64,
    /// The service that each call came through; the outer None before the first call or once they differ.
    via: Option<Option<String>>,
    via_differs: bool,
    /// Names that each context had, in lower case as conditions compare them, with the value if it never changed.
    always: Option<BTreeMap<String, Option<String>>>,
    /// Names as they were written.
    names: BTreeSet<String>,
    /// Whether one name was there twice in different case: a condition on it cannot be told then.
    twins: bool,
    /// Whether a call was made without a second factor.
    mfa_missing: bool,
    /// Whether a call was allowed by something else than an identity policy.
    by_others: bool,
    /// What the grants that it made permit, and to whom; one grantee too many stands for any.
    operations: BTreeSet<&'static str>,
    grantees: BTreeSet<String>,
}

impl Used {
    /// Takes one use, and what allowed it.
    pub(super) fn take(&mut self, question: &Question<'_>, via_service: Option<&str>, mfa: bool, decided_by: &str) {
        self.calls += 1;
        self.mfa_missing |= !mfa;
        self.by_others |= !decided_by.starts_with("IdentityPolicy/");
        if let Some(grant) = question.facts.grant {
            self.operations.extend(grant.terms.operations.names());
            if self.grantees.len() <= NAMES_MAX {
                self.grantees.insert(grant.grantee.to_owned());
            }
        }
        let via = via_service.map(str::to_owned);
        match &self.via {
            None if !self.via_differs => self.via = Some(via),
            Some(known) if *known != via => (self.via, self.via_differs) = (None, true),
            _ => {}
        }
        let none = BTreeMap::new();
        let context = question.facts.encryption_context.unwrap_or(&none);
        let mut lower: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (name, value) in context {
            self.twins |= lower.insert(name.to_lowercase(), Some(value.clone())).is_some();
            if self.names.len() <= NAMES_MAX {
                self.names.insert(name.clone());
            }
        }
        match &mut self.always {
            None => self.always = Some(lower),
            Some(always) => {
                always.retain(|name, _| lower.contains_key(name));
                for (name, value) in always {
                    if lower.get(name) != Some(value) {
                        *value = None;
                    }
                }
            }
        }
    }

    /// Whether no call was made without a second factor.
    pub(super) fn always_with_mfa(&self) -> bool {
        self.calls > 0 && !self.mfa_missing
    }

    /// Whether the account's policies alone allowed all calls.
    pub(super) fn by_identity(&self) -> bool {
        !self.by_others
    }

    /// The condition block that all uses meet; none when there is nothing to ask for. Empty without `wanted`.
    pub(super) fn conditions(&self, wanted: bool) -> Map<String, Value> {
        let mut block = Map::new();
        if !wanted {
            return block;
        }
        let mut equal = Map::new();
        if let Some(Some(service)) = &self.via {
            equal.insert("kms:ViaService".to_owned(), json!(service));
        }
        let mut present = Vec::new();
        for (name, value) in self.always.iter().flatten().filter(|_| !self.twins) {
            match value {
                Some(value) => equal.insert(format!("kms:EncryptionContext:{name}"), json!(literal(value))),
                None => {
                    present.push(name.as_str());
                    None
                }
            };
        }
        if !self.operations.is_empty() {
            if self.grantees.len() <= NAMES_MAX {
                equal.insert("kms:GranteePrincipal".to_owned(), json!(self.grantees));
            }
            block.insert("ForAllValues:StringEquals".to_owned(), json!({"kms:GrantOperations": self.operations}));
        }
        if !equal.is_empty() {
            block.insert("StringEquals".to_owned(), equal.into());
        }
        if !present.is_empty() && self.names.len() <= NAMES_MAX {
            // One that has to be there, and none beside those that ever were.
            let names: Vec<String> = self.names.iter().map(|name| literal(name)).collect();
            let spelt: Vec<String> =
                self.names.iter().filter(|name| name.to_lowercase() == present[0]).map(|name| literal(name)).collect();
            block.insert("ForAnyValue:StringEquals".to_owned(), json!({"kms:EncryptionContextKeys": spelt}));
            let all = block.entry("ForAllValues:StringEquals").or_insert_with(|| json!({}));
            all["kms:EncryptionContextKeys"] = json!(names);
        }
        block
    }
}

/// A text that no policy variable is read into.
fn literal(text: &str) -> String {
    text.replace("${", "${$}{")
}
