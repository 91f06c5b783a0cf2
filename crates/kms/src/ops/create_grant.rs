//! CreateGrant: lets one principal use a key, within narrow terms, without touching any policy.
//!
//! The grant counts for whatever is judged behind its event; nobody has to wait, or to send its token. Asking again
//! under the same name in the same words gives the same grant and another token.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::enable::key_stripes;
use super::encrypt::would_work;
use super::input::{recorded, required};
use super::judge::{Judge, key_facts, usable};
use super::refusal::{Refusal, RefusalKind};
use crate::grant::{Grant, GrantId, GrantPlace, issue_token, open_token};
use crate::key::{KeyRecord, KeyState};
use crate::locks::Stripe;
use crate::policy::{GrantConstraints, GrantFacts, GrantOperations, GrantTerms, key_supports};
use crate::registry::Publish;
use crate::store::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// AWS's quota of grants on one key.
const GRANTS_MAX: usize = 50_000;
const PRINCIPAL_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 256;
/// AWS's limits on an encryption context constraint.
const PAIRS_MAX: usize = 8;
const PAIR_CHARS_MAX: usize = 384;
const SOURCE_ARN_BYTES: std::ops::RangeInclusive<usize> = 20..=512;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateGrant {
    key_id: Option<String>,
    grantee_principal: Option<String>,
    retiring_principal: Option<String>,
    operations: Option<Vec<String>>,
    constraints: Option<GrantConstraints>,
    grant_tokens: Option<Vec<String>>,
    name: Option<String>,
    dry_run: Option<bool>,
    grantee_service_principal: Option<String>,
    retiring_service_principal: Option<String>,
}

impl Mutation for CreateGrant {
    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(PRINCIPAL_BYTES_MAX)]);
        recorded(
            self.key_id.as_ref(),
            json!({
                "granteePrincipal": self.grantee_principal.as_ref().map(cut),
                "retiringPrincipal": self.retiring_principal.as_ref().map(cut),
                "granteeServicePrincipal": self.grantee_service_principal.as_ref().map(cut),
                "retiringServicePrincipal": self.retiring_service_principal.as_ref().map(cut),
                "operations": self.operations,
                "constraints": self.constraints,
                "name": self.name.as_ref().map(cut),
                "dryRun": self.dry_run,
            }),
        )
    }

    /// The key's, and those of the keys whose grants the tokens name: whether they live is part of the judgement.
    fn stripes(&self, judge: &Judge<'_>) -> BTreeSet<Stripe> {
        let mut stripes = key_stripes(judge, self.key_id.as_deref());
        let node = judge.node;
        let open = |token: &String| open_token(&node.root(), node.region, token);
        let places = self.grant_tokens.iter().flatten().filter_map(open);
        stripes.extend(places.map(|place| judge.node.locks.key(place.account, place.key)));
        stripes
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let terms = self.terms()?;
        let (grantee, retiring) = self.principals()?;
        let name = self.checked_name()?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key_without_alias(text).await?;
        let grant = GrantFacts { grantee, retiring, terms: &terms };
        judge.allow_key("kms:CreateGrant", &key, &grant.context())?;
        // As at AWS a key whose store is away can be granted.
        if key.shown_state() != KeyState::Unavailable || key.state != KeyState::Enabled {
            usable(judge, &key)?;
        }
        fit_key(&terms, &key)?;
        for principal in [Some(grantee), retiring].into_iter().flatten() {
            if !judge.access.is_grantable(principal) {
                let text = format!("ARN does not refer to a valid principal: {principal}");
                return Err(Refusal::new(RefusalKind::InvalidArn, text));
            }
        }
        let id = GrantId(judge.node.random());
        let grant = Grant {
            place: GrantPlace { account: key.account, key: key.id, id },
            name: name.map(Into::into),
            grantee: grantee.into(),
            retiring: retiring.map(Into::into),
            issuing_account: judge.account(),
            terms,
            created_us: judge.judged_at_us,
        };
        self.make(judge, grant)
    }
}

impl CreateGrant {
    fn terms(&self) -> Result<GrantTerms, Refusal> {
        let names = required(&self.operations, "operations")?;
        if names.is_empty() {
            let constraint = "Member must have length greater than or equal to 1";
            return Err(Refusal::constraint(Some("[]"), "operations", constraint));
        }
        let operations = GrantOperations::parse(names.iter().map(String::as_str)).map_err(|unknown| {
            let known: Vec<&str> = GrantOperations::known().collect();
            let constraint =
                format!("Member must satisfy constraint: [Member must satisfy enum value set: [{}]]", known.join(", "));
            Refusal::constraint(Some(&format!("[{unknown}]")), "operations", &constraint)
        })?;
        let constraints = self.constraints.clone().unwrap_or_default();
        check_constraints(&constraints)?;
        Ok(GrantTerms { operations, constraints })
    }

    /// Grantee and retiring principal.
    fn principals(&self) -> Result<(&str, Option<&str>), Refusal> {
        if self.grantee_service_principal.is_some() || self.retiring_service_principal.is_some() {
            let text = "Service principals of grants are not supported by this node.";
            return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
        }
        let grantee = checked_principal(required(&self.grantee_principal, "granteePrincipal")?, "granteePrincipal")?;
        let retiring = self.retiring_principal.as_deref();
        Ok((grantee, retiring.map(|text| checked_principal(text, "retiringPrincipal")).transpose()?))
    }

    fn checked_name(&self) -> Result<Option<&str>, Refusal> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
        match self.name.as_deref() {
            Some(name) if name.len() > NAME_BYTES_MAX => {
                let constraint = format!("Member must have length less than or equal to {NAME_BYTES_MAX}");
                Err(Refusal::constraint(Some(name), "name", &constraint))
            }
            Some(name) if name.is_empty() || !name.bytes().all(allowed) => {
                let constraint = "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$";
                Err(Refusal::constraint(Some(name), "name", constraint))
            }
            name => Ok(name),
        }
    }

    fn make(&self, judge: &mut Judge<'_>, wanted: Grant) -> Result<Effect, Refusal> {
        let node = judge.node;
        let found = node.registry.same_grant(&wanted);
        let GrantPlace { account, key, .. } = wanted.place;
        if found.is_none() && node.registry.grant_count(account, key) >= GRANTS_MAX {
            return Err(Refusal::new(RefusalKind::LimitExceeded, "A key can have 50000 grants."));
        }
        would_work(self.dry_run)?;
        let (grant, is_new) = match found {
            Some(grant) => (grant, false),
            None => (Arc::new(wanted), true),
        };
        let token = issue_token(&node.root(), &grant.place, node.random());
        let id = grant.place.id.to_string();
        let image = grant.image();
        let record = &mut judge.record;
        record.response_elements = Some(json!({"grantId": id, "keyId": image["targetKeyArn"]}));
        record.before = (!is_new).then(|| image.clone());
        record.after = Some(image);
        let mut effect = Effect { body: json_body(&json!({"GrantId": id, "GrantToken": token})), ..Effect::default() };
        if is_new {
            effect.changes.push(Change::InsertGrant(Arc::clone(&grant)));
            effect.publish.push(Publish::Grant(grant));
        }
        Ok(effect)
    }
}

/// Checks the form of a principal's ARN; whether there is such a principal is told only to who may make grants.
pub(crate) fn checked_principal<'t>(text: &'t str, member: &str) -> Result<&'t str, Refusal> {
    if text.len() > PRINCIPAL_BYTES_MAX {
        let constraint = format!("Member must have length less than or equal to {PRINCIPAL_BYTES_MAX}");
        return Err(Refusal::constraint(Some(text), member, &constraint));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        let constraint = r"Member must satisfy regular expression pattern: ^[\w+=,.@:/-]+$";
        return Err(Refusal::constraint(Some(text), member, constraint));
    }
    if !text.starts_with("arn:aws:iam::") && !text.starts_with("arn:aws:sts::") {
        return Err(Refusal::new(RefusalKind::InvalidArn, format!("Invalid arn {text}")));
    }
    Ok(text)
}

fn check_constraints(constraints: &GrantConstraints) -> Result<(), Refusal> {
    let (equals, subset) = (&constraints.encryption_context_equals, &constraints.encryption_context_subset);
    if equals.is_some() && subset.is_some() {
        let text = "A grant can have EncryptionContextEquals or EncryptionContextSubset, not both.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    for pairs in equals.iter().chain(subset) {
        check_pairs(pairs)?;
    }
    let Some(arn) = &constraints.source_arn else { return Ok(()) };
    let mut segments = arn.splitn(6, ':').skip(4);
    let account = segments.next().is_some_and(|account| crate::key::AccountId::parse(account).is_some());
    let resource = segments.next().is_some_and(|resource| !resource.is_empty());
    if !arn.starts_with("arn:aws:") || !account || !resource || !SOURCE_ARN_BYTES.contains(&arn.len()) {
        let constraint =
            "Member must satisfy regular expression pattern: ^arn:aws[a-z0-9-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]{12}:.+$";
        return Err(Refusal::constraint(Some(arn), "constraints.sourceArn", constraint));
    }
    Ok(())
}

fn check_pairs(pairs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if !(1..=PAIRS_MAX).contains(&pairs.len()) {
        let text = "An encryption context constraint has 1 to 8 pairs.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    let sane = |(name, value): (&String, &String)| {
        !name.is_empty() && name.chars().count() <= PAIR_CHARS_MAX && value.chars().count() <= PAIR_CHARS_MAX
    };
    if !pairs.iter().all(sane) {
        let text = "A pair of an encryption context constraint has a name, and at most 384 characters in each half.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    let names: BTreeSet<String> = pairs.keys().map(|name| name.to_lowercase()).collect();
    if names.len() != pairs.len() {
        // Names have no case in a constraint: such a pair could never be met.
        let text = "Names in an encryption context constraint must differ in more than case.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    Ok(())
}

/// A key must know each operation, and take the encryption context that a constraint is about.
fn fit_key(terms: &GrantTerms, key: &KeyRecord) -> Result<(), Refusal> {
    let facts = key_facts(key);
    if let Some(foreign) = terms.operations.names().find(|name| !key_supports(name, facts.spec, facts.usage)) {
        let text = format!("Operation {foreign} is not supported on a key with KeySpec {}.", facts.spec);
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    if terms.constraints.encryption_context().is_some() && !key.kind.is_symmetric_encryption() {
        let text = "Encryption context constraints are only for symmetric encryption keys.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    Ok(())
}
