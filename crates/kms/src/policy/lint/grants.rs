//! Lint of a living grant: what it lets its grantee do that its maker may not have meant.
//!
//! A grant cannot be corrected, only revoked and made anew, so a finding has an example and no document. The example is a
//! request that `evaluate_with_grants` allows by this grant alone: the key policy leaves it to the account, and the caller
//! has no policies.

use super::super::document::{Document, Flavor};
use super::super::evaluate::CallerPolicies;
use super::super::grant::{GrantOperations, GrantTerms, GrantsOnKey, evaluate_with_grants};
use super::super::lockout::default_key_policy;
use super::super::request::{Context, GrantFacts, Request};
use super::grid::callers_of;
use super::{Example, Finding};
use std::collections::BTreeMap;

/// Operations that read or make data under the key.
const DATA: [&str; 8] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
];

/// A grant on a key.
#[derive(Clone, Copy, Debug)]
pub struct Granted<'a> {
    /// Its id.
    pub id: &'a str,
    /// On which key.
    pub key_arn: &'a str,
    /// Whom it is for.
    pub grantee: &'a str,
    /// Who may retire it.
    pub retiring: Option<&'a str>,
    /// What it permits.
    pub terms: &'a GrantTerms,
}

/// Findings of a grant.
pub fn lint_grant(grant: &Granted<'_>) -> Vec<Finding> {
    let operations = grant.terms.operations;
    let data = DATA.into_iter().find(|name| operations.has(name));
    let account = |arn: &str| arn.split(':').nth(4).map(str::to_owned);
    let mut findings = Vec::new();
    if let Some(name) = data.filter(|_| grant.terms.constraints.is_empty()) {
        let message = "permits operations on data under any encryption context: constrain it to the contexts it is for";
        findings.push(grant.finding("grant-unconstrained", message, name));
    }
    if operations.has("CreateGrant") {
        let message = "lets its grantee make grants of its own, to anyone, that allow no more than this one";
        findings.push(grant.finding("grant-makes-grants", message, "CreateGrant"));
    }
    if account(grant.grantee) != account(grant.key_arn) {
        let message = "is for somebody of another account, whom no identity policy of the key's account limits";
        findings.extend(operations.names().next().map(|name| grant.finding("grant-outside", message, name)));
    }
    if grant.retiring.is_none() && !operations.has("RetireGrant") {
        let message = "nobody but the account that made it can end it, so it outlives the work it was for";
        findings.extend(operations.names().next().map(|name| grant.finding("grant-never-retired", message, name)));
    }
    findings
}

impl Granted<'_> {
    fn finding(&self, code: &'static str, message: &str, operation: &'static str) -> Finding {
        let statement = Some(format!("Grant/{}", self.id));
        let example = self.example(operation);
        Finding { code, statement, message: message.to_owned(), example, correction: None }
    }

    fn example(&self, operation: &str) -> Option<Example> {
        let account = self.key_arn.split(':').nth(4)?;
        let policy = Document::parse(&default_key_policy(account), Flavor::KeyPolicy).ok()?;
        let own = CallerPolicies::default();
        let none = BTreeMap::new();
        let pairs = self.terms.constraints.encryption_context().map_or(&none, |(_, pairs)| pairs);
        let least = GrantTerms { operations: GrantOperations::default(), ..self.terms.clone() };
        let context = Context {
            encryption_context: Some(pairs),
            source_arn: self.terms.constraints.source_arn.as_deref(),
            grant: Some(GrantFacts { grantee: self.grantee, retiring: None, terms: &least }),
            ..Context::default()
        };
        let action = format!("kms:{operation}");
        let by_this = format!("Grant/{}", self.id);
        let callers = callers_of(self.grantee);
        let allowed = callers.iter().find(|principal| {
            let (action, context) = (&action, &context);
            let request = Request { action, resource_arn: self.key_arn, key_account: account, principal, context };
            let decision = evaluate_with_grants(&request, &policy, &own, self);
            decision.allowed && decision.decided_by == by_this
        })?;
        let circumstances = match self.terms.constraints.is_empty() {
            true => "by the grant alone",
            false => "by the grant alone, as its constraints want it",
        };
        Some(Example { principal: allowed.arn.clone(), action, resource: self.key_arn.to_owned(), circumstances })
    }
}

impl GrantsOnKey for Granted<'_> {
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        (grantee == self.grantee && fits(self.terms)).then(|| self.id.to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::super::grant::GrantConstraints;
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    /// Findings of a grant's image, as events carry it.
    fn run(image: &str) -> Vec<Finding> {
        let image: Value = serde_json::from_str(image).unwrap();
        let text = |name: &str| image[name].as_str();
        let names: Vec<&str> = image["operations"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let constraints: GrantConstraints = match &image["constraints"] {
            Value::Null => GrantConstraints::default(),
            some => serde_json::from_value(some.clone()).unwrap(),
        };
        let terms = GrantTerms { operations: GrantOperations::parse(names).unwrap(), constraints };
        lint_grant(&Granted {
            id: text("grantId").unwrap(),
            key_arn: text("targetKeyArn").unwrap(),
            grantee: text("granteePrincipal").unwrap(),
            retiring: text("retiringPrincipal"),
            terms: &terms,
        })
    }

    #[test]
    fn each_check_finds_its_bad_grant_and_passes_its_good_one() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/lint/fixtures");
        for code in ["grant-unconstrained", "grant-makes-grants", "grant-outside", "grant-never-retired"] {
            let read = |which| std::fs::read_to_string(folder.join(format!("grant.{code}.{which}.json"))).unwrap();
            let found = run(&read("bad"));
            let finding =
                found.iter().find(|finding| finding.code == code).unwrap_or_else(|| panic!("{code}: {found:?}"));
            assert!(finding.example.is_some(), "{code}: a request shows it");
            assert!(finding.statement.as_ref().unwrap().starts_with("Grant/"));
            assert_eq!(run(&read("good")), [], "{code}");
        }
    }
}
