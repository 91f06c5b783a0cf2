//! Survey: whether a principal could do something at all, by which statements or grants, and what would have to hold.
//!
//! Has no semantics of its own: it asks `evaluate` about documents from which everything that depends on the request was
//! taken, as if it spoke for the caller: conditions of an Allow are met, a Deny with one does not apply. What was taken is
//! listed. Two listed conditions may exclude each other; that is for the reader to see. What decides is never this.

use std::sync::Arc;

use super::condition::Condition;
use super::document::{Document, Effect, Principals, Statement};
use super::evaluate::{CallerPolicies, NamedDocument, evaluate};
use super::fact::{ConditionKey, Name};
use super::grant::{GrantConstraints, GrantTerms, GrantsOnKey, ListedGrants, evaluate_with_grants};
use super::principal::{Closeness, Principal};
use super::request::{PrincipalContext, PrincipalKind, Request};
use serde::Serialize;

/// One way to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// `KeyPolicy/<Sid>`, `IdentityPolicy/<name>/<Sid>`, `PermissionsBoundary/...`, `SessionPolicy/...`, `Grant/<id>`: all
    /// that together allow it.
    pub through: Vec<String>,
    /// What the request has to be like; none when any is.
    pub conditions: Vec<String>,
}

/// What speaks for and against a principal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    /// Ways to be allowed; none when nothing could allow it.
    pub ways: Vec<Way>,
    /// Denials that apply to some requests: their statement, and what the request is like then.
    pub unless: Vec<Way>,
}

/// Most ways told; a policy of 32 KiB holds more statements than anybody reads.
const WAYS_MAX: usize = 16;

/// Asks about one principal and action on a key. `request.context` holds what does not depend on the request: the key,
/// region and time.
pub fn survey(
    request: &Request<'_>,
    key_policy: &Document,
    own: &CallerPolicies<'_>,
    grants: &dyn ListedGrants,
) -> Survey {
    let mut left = Sides { key_policy: key_policy.clone(), identity: own.identity.to_vec() };
    let caller = request.principal;
    let (boundary, session) =
        (own.boundary.map(|document| assumed(document, caller)), own.session.map(|all| all_assumed(all, caller)));
    let mut survey = Survey::default();
    while survey.ways.len() < WAYS_MAX {
        let (policy, identity) = (left.key_policy.assumed(caller), all_assumed(&left.identity, caller));
        let favourable =
            CallerPolicies { identity: &identity, boundary: boundary.as_ref(), session: session.as_deref() };
        let decision = evaluate(request, Some(&policy), &favourable);
        if !decision.allowed {
            break;
        }
        let mut way = Way { through: Vec::new(), conditions: Vec::new() };
        if !left.take(request, &decision.decided_by, &mut way) {
            break;
        }
        limits(request, own, &way.through, key_policy, &mut way.conditions);
        survey.ways.push(way);
    }
    // Grants speak where policies are silent, and under the same denials and limits.
    let (policy, identity) = (key_policy.assumed(caller), all_assumed(own.identity, caller));
    let silent = policy.without_allows();
    let favourable = CallerPolicies { identity: &identity, boundary: boundary.as_ref(), session: session.as_deref() };
    let told = Told { grants, skipped: std::cell::RefCell::default() };
    while survey.ways.len() < WAYS_MAX {
        let decision = evaluate_with_grants(request, &silent, &favourable, &told);
        let Some(id) = decision.decided_by.strip_prefix("Grant/").filter(|_| decision.allowed) else { break };
        let conditions = told.skip(id, request);
        survey.ways.push(Way { through: vec![decision.decided_by.clone()], conditions });
    }
    if !survey.ways.is_empty() {
        survey.unless = denials(request, key_policy, own);
    }
    survey
}

/// The documents, without the statements that were told.
struct Sides {
    key_policy: Document,
    identity: Vec<NamedDocument>,
}

impl Sides {
    /// Takes out what decided, with its conditions. False when it is not there.
    fn take(&mut self, request: &Request<'_>, decided_by: &str, way: &mut Way) -> bool {
        let caller = request.principal;
        let label = |name: &str, statement: &Statement| format!("IdentityPolicy/{name}/{}", statement.label);
        for named in &mut self.identity {
            let mut statements = named.document.statements.iter();
            let Some(at) = statements.position(|statement| label(&named.name, statement) == decided_by) else {
                continue;
            };
            // The key policy's statement that leaves it to the caller's account stands beside it, and stays for others.
            if let Some(statement) = opening(&self.key_policy, request) {
                way.tell("KeyPolicy", statement, caller);
            }
            let mut document = (*named.document).clone();
            let statement = document.statements.remove(at);
            way.tell(&format!("IdentityPolicy/{}", named.name), &statement, caller);
            named.document = Arc::new(document);
            return true;
        }
        let mut statements = self.key_policy.statements.iter();
        let at = statements.position(|statement| format!("KeyPolicy/{}", statement.label) == decided_by);
        let Some(at) = at else { return false };
        let statement = self.key_policy.statements.remove(at);
        way.tell("KeyPolicy", &statement, caller);
        true
    }
}

/// The Allow by which a key policy leaves the caller to its account, the one with the fewest conditions.
fn opening<'d>(key_policy: &'d Document, request: &Request<'_>) -> Option<&'d Statement> {
    let (caller, action) = (request.principal, request.action.to_ascii_lowercase());
    let allows = key_policy.statements.iter().filter(|statement| statement.effect == Effect::Allow);
    let open = allows.filter(|statement| {
        statement.principals.allow_closeness(caller) != Closeness::No && could_apply(statement, request, &action)
    });
    open.min_by_key(|statement| of_request(statement, caller).count())
}

impl Way {
    fn tell(&mut self, kind: &str, statement: &Statement, caller: &PrincipalContext) {
        self.through.push(format!("{kind}/{}", statement.label));
        self.conditions.extend(of_request(statement, caller).map(|condition| condition.text.to_string()));
    }
}

/// Conditions of the boundary and session policies that a way has to pass, unless a key policy names the caller itself.
fn limits(
    request: &Request<'_>,
    own: &CallerPolicies<'_>,
    through: &[String],
    key_policy: &Document,
    conditions: &mut Vec<String>,
) {
    let direct = through.iter().all(|label| label.starts_with("KeyPolicy/"))
        && key_policy.statements.iter().any(|statement| {
            through.contains(&format!("KeyPolicy/{}", statement.label))
                && statement.principals.allow_closeness(request.principal) == Closeness::Direct
        });
    if direct {
        return;
    }
    let action = request.action.to_ascii_lowercase();
    for document in own.boundary.into_iter().chain(own.session.into_iter().flatten()) {
        let mut allows = document.document.statements.iter().filter(|statement| statement.effect == Effect::Allow);
        if let Some(statement) = allows.find(|statement| could_apply(statement, request, &action)) {
            conditions.extend(of_request(statement, request.principal).map(|condition| condition.text.to_string()));
        }
    }
}

/// Denials that apply to the caller in some circumstances.
fn denials(request: &Request<'_>, key_policy: &Document, own: &CallerPolicies<'_>) -> Vec<Way> {
    let action = request.action.to_ascii_lowercase();
    let caller = request.principal;
    let mut all = Vec::new();
    let mut look = |kind: &str, document: &Document| {
        let denies = document.statements.iter().filter(|statement| statement.effect == Effect::Deny);
        for statement in denies.filter(|statement| {
            statement.principals.deny_names(caller, own.boundary.is_some()) && could_apply(statement, request, &action)
        }) {
            let mut way = Way { through: Vec::new(), conditions: Vec::new() };
            way.tell(kind, statement, caller);
            all.push(way);
        }
    };
    look("KeyPolicy", key_policy);
    own.identity.iter().for_each(|named| look(&format!("IdentityPolicy/{}", named.name), &named.document));
    own.boundary.iter().for_each(|named| look(&format!("PermissionsBoundary/{}", named.name), &named.document));
    let session = own.session.into_iter().flatten();
    session.for_each(|named| look(&format!("SessionPolicy/{}", named.name), &named.document));
    all
}

/// Whether a statement applies if what depends on the request is as it wants.
fn could_apply(statement: &Statement, request: &Request<'_>, action: &str) -> bool {
    statement.assumed(request.principal).applies(request, action)
}

fn of_request<'s>(statement: &'s Statement, caller: &PrincipalContext) -> impl Iterator<Item = &'s Condition> {
    let is_session = caller.kind == PrincipalKind::Session;
    statement.conditions.iter().filter(move |condition| depends_on_request(condition, is_session))
}

fn assumed(named: &NamedDocument, caller: &PrincipalContext) -> NamedDocument {
    NamedDocument { name: named.name.clone(), document: Arc::new(named.document.assumed(caller)) }
}

fn all_assumed(all: &[NamedDocument], caller: &PrincipalContext) -> Vec<NamedDocument> {
    all.iter().map(|named| assumed(named, caller)).collect()
}

impl Document {
    /// As if what depends on the request spoke for the caller.
    fn assumed(&self, caller: &PrincipalContext) -> Self {
        let kept = self
            .statements
            .iter()
            .filter(|statement| statement.effect == Effect::Allow || of_request(statement, caller).next().is_none());
        Self { flavor: self.flavor, statements: kept.map(|statement| statement.assumed(caller)).collect() }
    }

    fn without_allows(&self) -> Self {
        let denies = self.statements.iter().filter(|statement| statement.effect == Effect::Deny);
        Self { flavor: self.flavor, statements: denies.cloned().collect() }
    }

    /// The principals that statements name, by their ARN or account; `*` for everyone.
    pub fn named_principals(&self) -> Vec<String> {
        let mut all = Vec::new();
        for statement in self.statements.iter().filter(|statement| statement.effect == Effect::Allow) {
            let entries = match &statement.principals {
                Principals::These(entries) => entries.as_slice(),
                // Everyone but some: as open as everyone.
                Principals::AllBut(_) => &[Principal::Everyone],
                Principals::Attached => &[],
            };
            all.extend(entries.iter().filter_map(|entry| match entry {
                Principal::Everyone => Some("*".to_owned()),
                Principal::Account(text) | Principal::Arn(text) => Some(text.clone()),
                // Ids are of users and roles that are asked about anyway, or of nobody any more; no call comes from a
                // service or provider by itself.
                Principal::UniqueId(_) | Principal::Federated(_) | Principal::Foreign => None,
            }));
        }
        all.sort();
        all.dedup();
        all
    }
}

impl Statement {
    fn assumed(&self, caller: &PrincipalContext) -> Self {
        let is_session = caller.kind == PrincipalKind::Session;
        let mut statement = self.clone();
        statement.conditions.retain(|condition| !depends_on_request(condition, is_session));
        statement
    }
}

/// Whether a condition is about the request rather than about principal and key. One with a policy variable counts as
/// such, whatever the variable is.
fn depends_on_request(condition: &Condition, is_session: bool) -> bool {
    condition.has_variables()
        || match &condition.key {
            ConditionKey::Plain(name) => is_of_request(*name, is_session),
            // A session may bring tags of its own.
            ConditionKey::PrincipalTag(_) => is_session,
            ConditionKey::ResourceTag(_) => false,
            ConditionKey::EncryptionContext(_)
            | ConditionKey::RequestTag(_)
            | ConditionKey::WebIdentity(..)
            | ConditionKey::Unsupported => true,
        }
}

fn is_of_request(name: Name, is_session: bool) -> bool {
    match name {
        // A session's name is part of its id.
        Name::UserId => is_session,
        Name::CallerAccount
        | Name::PrincipalAccount
        | Name::PrincipalArn
        | Name::PrincipalIsAwsService
        | Name::PrincipalOrgId
        | Name::PrincipalType
        | Name::Username
        | Name::KeyOrigin
        | Name::KeySpec
        | Name::KeyUsage
        | Name::MultiRegion
        | Name::MultiRegionKeyType
        | Name::ResourceAliases
        | Name::RequestedRegion
        | Name::GranteeServicePrincipal
        | Name::RetiringServicePrincipal => false,
        Name::ApprovedBySecondPrincipal
        | Name::BypassLockout
        | Name::DataKeyPairSpec
        | Name::EncryptionAlgorithm
        | Name::EncryptionContextKeys
        | Name::ExpirationModel
        | Name::GrantConstraintSourceArn
        | Name::GrantConstraintType
        | Name::GranteePrincipal
        | Name::GrantIsForAwsResource
        | Name::GrantOperations
        | Name::KeyAgreementAlgorithm
        | Name::MacAlgorithm
        | Name::MessageType
        | Name::PendingWindowDays
        | Name::PrimaryRegion
        | Name::ReEncryptOnSameKey
        | Name::ReplicaRegion
        | Name::RequestAlias
        | Name::RetiringPrincipal
        | Name::RotationPeriodDays
        | Name::SigningAlgorithm
        | Name::ValidTo
        | Name::ViaAwsService
        | Name::ViaService
        | Name::WrappingAlgorithm
        | Name::WrappingKeySpec
        | Name::CurrentTime
        | Name::EpochTime
        | Name::MfaAge
        | Name::MfaPresent
        | Name::SecureTransport
        | Name::SourceAccount
        | Name::SourceArn
        | Name::SourceIp
        | Name::TagKeys
        | Name::TokenIssueTime
        | Name::UserAgent
        | Name::ExternalId
        | Name::RoleSession
        | Name::TransitiveTagKeys
        | Name::PolicyArn
        | Name::PermissionsBoundary => true,
    }
}

/// The grants on the key as if every constraint held, without those that were told.
struct Told<'a> {
    grants: &'a dyn ListedGrants,
    skipped: std::cell::RefCell<Vec<String>>,
}

impl Told<'_> {
    /// Tells a grant: its constraints, and what a grant made by it may be.
    fn skip(&self, id: &str, request: &Request<'_>) -> Vec<String> {
        self.skipped.borrow_mut().push(id.to_owned());
        let mut conditions = Vec::new();
        // Grantees are exact, so looking for the terms again means asking for all that could have been it.
        for grantee in grantees(request.principal) {
            self.grants.each(&grantee, &mut |other, terms| {
                if other == id {
                    conditions.extend(constraints(&terms.constraints));
                }
            });
        }
        if request.action == "kms:CreateGrant" {
            conditions.push("the new grant allows no more than this one".to_owned());
        }
        conditions
    }
}

impl GrantsOnKey for Told<'_> {
    fn find(&self, grantee: &str, fits: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        let mut found = None;
        self.grants.each(grantee, &mut |id, terms| {
            let free = GrantTerms { operations: terms.operations, constraints: GrantConstraints::default() };
            if found.is_none() && !self.skipped.borrow().iter().any(|other| other == id) && fits(&free) {
                found = Some(id.to_owned());
            }
        });
        found
    }
}

fn grantees(caller: &PrincipalContext) -> Vec<String> {
    let account = super::grant::root_arn(&caller.account);
    std::iter::once(caller.arn.clone()).chain(caller.role_arn.clone()).chain([account]).collect()
}

fn constraints(of: &GrantConstraints) -> Vec<String> {
    let json = serde_json::to_value(of).unwrap_or_default();
    json.as_object().into_iter().flatten().map(|(name, value)| format!("grant constraint {name} {value}")).collect()
}
