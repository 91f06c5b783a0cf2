//! A policy document: parsed once, strictly, then only evaluated.
//!
//! Accepted is the grammar that AWS documents for key policies and identity policies, versions 2012-10-17 and
//! 2008-10-17. Errors name the statement, counted from 0, and are safe to send to the caller who wrote the policy.

use super::action::action_pattern;
use super::condition::Condition;
use super::json::Json;
use super::operator::{Mode, parse_block, scalars};
use super::pattern::{Pattern, Template, resource_template};
use super::principal::{Closeness, Principal, parse_principals};
use super::request::{PrincipalContext, PrincipalKind, Request};

/// Longest policy text in bytes: AWS's quota for key policies.
pub const DOCUMENT_BYTES_MAX: usize = 32 * 1024;

/// Longest Sid; it is written into every event that it decides.
const SID_BYTES_MAX: usize = 256;

/// Where a policy is attached, which decides what it must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// On a key: every statement names principals.
    KeyPolicy,
    /// On a role: who may assume it. Names principals and STS actions, no resource: that is the role.
    TrustPolicy,
    /// On a user, group or role, as boundary or session policy: no statement names principals.
    IdentityPolicy,
}

impl Flavor {
    /// How decisions name it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::KeyPolicy => "KeyPolicy",
            Self::TrustPolicy => "TrustPolicy",
            Self::IdentityPolicy => "IdentityPolicy",
        }
    }
}

/// Why a policy text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than [`DOCUMENT_BYTES_MAX`].
    #[error("policy is longer than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or a member appears twice.
    #[error("policy is not valid JSON: {0}")]
    Json(String),
    /// Something outside the statements.
    #[error("policy: {0}")]
    Document(String),
    /// Something in a statement.
    #[error("policy statement {index}: {reason}")]
    Statement {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A policy that can be evaluated.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) flavor: Flavor,
    pub(super) statements: Vec<Statement>,
}

/// One statement, compiled.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    /// Its Sid, or its index: how decisions name it.
    pub(super) label: String,
    pub(super) effect: Effect,
    pub(super) principals: Principals,
    actions: Actions,
    resources: Resources,
    pub(super) conditions: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// Whom a statement is about.
#[derive(Clone, Debug)]
pub(super) enum Principals {
    /// Whoever the policy is attached to.
    Attached,
    These(Vec<Principal>),
    AllBut(Vec<Principal>),
}

#[derive(Clone, Debug)]
enum Actions {
    These(Vec<Pattern>),
    AllBut(Vec<Pattern>),
}

#[derive(Clone, Debug)]
enum Resources {
    These(Vec<Template>),
    AllBut(Vec<Template>),
}

impl Document {
    /// Parses a policy strictly.
    pub fn parse(text: &str, flavor: Flavor) -> Result<Self, PolicyError> {
        Self::read(text, flavor, true)
    }

    /// Parses a policy. Not `strict`: condition keys and operators that we do not know are kept as such.
    pub(super) fn read(text: &str, flavor: Flavor, strict: bool) -> Result<Self, PolicyError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(PolicyError::TooLong);
        }
        let json: Json = serde_json::from_str(text).map_err(|error| PolicyError::Json(error.to_string()))?;
        let Json::Object(members) = json else {
            return Err(PolicyError::Document("not an object".into()));
        };
        let mut version = "2008-10-17".to_owned();
        let mut statements = None;
        for (name, value) in members {
            match (name.as_str(), value) {
                ("Version", Json::Scalar(text)) => version = text,
                ("Id", Json::Scalar(text)) if text.len() <= SID_BYTES_MAX => {}
                ("Statement", Json::List(list)) => statements = Some(list),
                ("Statement", object @ Json::Object(_)) => statements = Some(vec![object]),
                ("Version" | "Id" | "Statement", _) => {
                    return Err(PolicyError::Document(format!("{name} is not of the right type or size")));
                }
                _ => return Err(PolicyError::Document(format!("unknown element '{name}'"))),
            }
        }
        let variables = match version.as_str() {
            "2012-10-17" => true,
            "2008-10-17" => false,
            _ => return Err(PolicyError::Document(format!("unknown version '{version}'"))),
        };
        let statements = statements.filter(|list| !list.is_empty());
        let statements = statements.ok_or_else(|| PolicyError::Document("has no statements".into()))?;
        Self::of_statements(&statements, flavor, Mode { variables, strict })
    }

    /// As if every Allow were about the key at hand, for readers who do not know which one that is.
    pub(super) fn about_any_key(mut self) -> Self {
        for statement in self.statements.iter_mut().filter(|statement| statement.effect == Effect::Allow) {
            statement.resources = Resources::These(vec![Template::Fixed(Pattern::Any)]);
        }
        self
    }

    fn of_statements(list: &[Json], flavor: Flavor, mode: Mode) -> Result<Self, PolicyError> {
        let mut statements: Vec<Statement> = Vec::with_capacity(list.len());
        let mut labels = std::collections::HashSet::new();
        for (index, json) in list.iter().enumerate() {
            let refuse = |reason| PolicyError::Statement { index, reason };
            let statement = Statement::parse(json, index, flavor, mode).map_err(refuse)?;
            if !labels.insert(statement.label.clone()) {
                return Err(refuse(format!("Sid '{}' is not unique", statement.label)));
            }
            statements.push(statement);
        }
        Ok(Self { flavor, statements })
    }
}

impl Statement {
    fn parse(json: &Json, index: usize, flavor: Flavor, mode: Mode) -> Result<Self, String> {
        let Json::Object(members) = json else {
            return Err("not an object".into());
        };
        let (mut label, mut effect, mut conditions) = (index.to_string(), None, Vec::new());
        let (mut principals, mut actions, mut resources) = (None, None, None);
        for (name, value) in members {
            match name.as_str() {
                "Sid" => label = parse_sid(value)?.unwrap_or(label),
                "Effect" => effect = Some(parse_effect(value)?),
                "Principal" => once(&mut principals, "Principal", Principals::These(parse_principals(value)?))?,
                "NotPrincipal" => once(&mut principals, "Principal", Principals::AllBut(parse_principals(value)?))?,
                "Action" => once(&mut actions, "Action", Actions::These(parse_actions(value)?))?,
                "NotAction" => once(&mut actions, "Action", Actions::AllBut(parse_actions(value)?))?,
                "Resource" => once(&mut resources, "Resource", Resources::These(parse_resources(value, mode)?))?,
                "NotResource" => once(&mut resources, "Resource", Resources::AllBut(parse_resources(value, mode)?))?,
                "Condition" => conditions = parse_block(value, mode)?,
                _ => return Err(format!("unknown element '{name}'")),
            }
        }
        let principals = match (flavor, principals) {
            (Flavor::KeyPolicy | Flavor::TrustPolicy, Some(principals)) => principals,
            (Flavor::KeyPolicy | Flavor::TrustPolicy, None) => return Err("names no Principal".into()),
            (Flavor::IdentityPolicy, None) => Principals::Attached,
            (Flavor::IdentityPolicy, Some(_)) => return Err("an identity policy names no Principal".into()),
        };
        let resources = match (flavor, resources) {
            (Flavor::TrustPolicy, None) => Resources::These(vec![Template::Fixed(Pattern::Any)]),
            (Flavor::TrustPolicy, Some(_)) => return Err("a trust policy names no Resource".into()),
            (Flavor::KeyPolicy | Flavor::IdentityPolicy, resources) => resources.ok_or("names no Resource")?,
        };
        if flavor == Flavor::TrustPolicy && !members.iter().all(|(name, value)| is_trust_action(name, value)) {
            return Err("a trust policy names actions of sts only".into());
        }
        Ok(Self {
            label,
            effect: effect.ok_or("has no Effect")?,
            principals,
            actions: actions.ok_or("names no Action")?,
            resources,
            conditions,
        })
    }

    /// Whether everything but the principal applies. `action` in lower case. What cannot be told counts as applying
    /// for a Deny and as not applying for an Allow.
    pub(super) fn applies(&self, request: &Request<'_>, action: &str) -> bool {
        if !self.covers_action(action) {
            return false;
        }
        let undecided = self.effect == Effect::Deny;
        self.covers_resource(request).unwrap_or(undecided)
            && self.conditions.iter().all(|condition| condition.holds(request).unwrap_or(undecided))
    }

    /// `action` in lower case.
    pub(super) fn covers_action(&self, action: &str) -> bool {
        match &self.actions {
            Actions::These(patterns) => patterns.iter().any(|pattern| pattern.matches(action)),
            Actions::AllBut(patterns) => !patterns.iter().any(|pattern| pattern.matches(action)),
        }
    }

    /// Whether it is about all resources, whatever their name.
    pub(super) fn covers_all_resources(&self) -> bool {
        match &self.resources {
            Resources::These(templates) => {
                templates.iter().any(|template| matches!(template, Template::Fixed(Pattern::Any)))
            }
            Resources::AllBut(_) => false,
        }
    }

    fn covers_resource(&self, request: &Request<'_>) -> Option<bool> {
        let any = |templates: &[Template]| -> Option<bool> {
            let mut unknown = false;
            for template in templates {
                match template.matches(request.resource_arn, request) {
                    Some(true) => return Some(true),
                    Some(false) => {}
                    None => unknown = true,
                }
            }
            (!unknown).then_some(false)
        };
        match &self.resources {
            Resources::These(templates) => any(templates),
            Resources::AllBut(templates) => any(templates).map(|covered| !covered),
        }
    }
}

impl Principals {
    /// How closely an Allow names the caller.
    pub(super) fn allow_closeness(&self, caller: &PrincipalContext) -> Closeness {
        match self {
            Self::Attached => Closeness::Direct,
            // Everyone and an account are meant for AWS's own principals: whom an issuer vouches for must be named.
            Self::These(entries) if caller.kind == PrincipalKind::Federated => {
                let providers = entries.iter().filter(|entry| matches!(entry, Principal::Federated(_)));
                providers.map(|entry| entry.closeness(caller)).max().unwrap_or(Closeness::No)
            }
            Self::AllBut(_) if caller.kind == PrincipalKind::Federated => Closeness::No,
            Self::These(entries) => closest(entries, caller),
            // Whoever is excepted, even by account alone, is not given anything.
            Self::AllBut(entries) if closest(entries, caller) == Closeness::No => Closeness::Shared,
            Self::AllBut(_) => Closeness::No,
        }
    }

    /// Whether a Deny is about the caller. An exception must name the caller and its account, as AWS has it: a Deny on
    /// an account reaches everyone in it. For a session it must name the role as well. Whoever has a permissions boundary
    /// is excepted by no list: also AWS's rule.
    pub(super) fn deny_names(&self, caller: &PrincipalContext, has_boundary: bool) -> bool {
        match self {
            Self::Attached => true,
            Self::These(entries) => closest(entries, caller) != Closeness::No,
            Self::AllBut(_) if has_boundary => true,
            Self::AllBut(entries) => {
                let has = |closeness| entries.iter().any(|entry| entry.closeness(caller) == closeness);
                let everyone = entries.contains(&Principal::Everyone);
                let by_account = entries.iter().any(|e| matches!(e, Principal::Account(a) if *a == caller.account));
                let itself = has(Closeness::Direct) && (caller.role_arn.is_none() || has(Closeness::Shared));
                !(everyone || (itself && by_account))
            }
        }
    }
}

fn closest(entries: &[Principal], caller: &PrincipalContext) -> Closeness {
    entries.iter().map(|entry| entry.closeness(caller)).max().unwrap_or(Closeness::No)
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("has both {name} and Not{name}")),
    }
}

fn parse_sid(json: &Json) -> Result<Option<String>, String> {
    match json {
        Json::Scalar(text) if text.len() > SID_BYTES_MAX || text.chars().any(char::is_control) => {
            Err(format!("Sid is longer than {SID_BYTES_MAX} bytes or has control characters"))
        }
        Json::Scalar(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Json::Null | Json::List(_) | Json::Object(_) => Err("Sid is not text".into()),
    }
}

fn parse_effect(json: &Json) -> Result<Effect, String> {
    match json {
        Json::Scalar(text) if text == "Allow" => Ok(Effect::Allow),
        Json::Scalar(text) if text == "Deny" => Ok(Effect::Deny),
        Json::Null | Json::Scalar(_) | Json::List(_) | Json::Object(_) => {
            Err("Effect is neither Allow nor Deny".into())
        }
    }
}

/// Whether a member of a trust policy's statement is no action or only STS actions.
fn is_trust_action(member: &str, value: &Json) -> bool {
    let sts = |text: &str| text.split_once(':').is_some_and(|(service, _)| service.eq_ignore_ascii_case("sts"));
    match member {
        "Action" => scalars(value).is_some_and(|texts| texts.into_iter().all(sts)),
        "NotAction" => false,
        _ => true,
    }
}

fn parse_actions(json: &Json) -> Result<Vec<Pattern>, String> {
    let texts = scalars(json).filter(|list| !list.is_empty()).ok_or("Action is no text or list of texts")?;
    texts.into_iter().map(|text| action_pattern(text).ok_or_else(|| format!("action '{text}' is not valid"))).collect()
}

fn parse_resources(json: &Json, mode: Mode) -> Result<Vec<Template>, String> {
    let texts = scalars(json).filter(|list| !list.is_empty()).ok_or("Resource is no text or list of texts")?;
    texts.into_iter().map(|text| resource_template(text, mode.variables)).collect()
}
