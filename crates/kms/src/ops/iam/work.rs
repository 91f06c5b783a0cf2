//! One IAM call at work: what it may look at, what it changes, and how it asks for permission.
//!
//! Entities of identities.toml are found like others and refuse to be changed. A change works on a copy that is
//! published whole, after its rows and its event are durable.

use super::super::answer::json_body;
use super::super::drive::Effect;
use super::super::judge::Judge;
use super::super::refusal::{Refusal, RefusalKind};
use super::input::{Input, Page};
use crate::auth::identities::ADMINISTRATOR_ACCESS;
use crate::directory::entity::{self, Entities, Entity, Policy, User, of_account, policy_arn};
use crate::directory::{Directory, DirectoryError};
use crate::key::AccountId;
use crate::policy::{Context, Mfa};
use crate::store::Change;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Largest entity as JSON: its images before and after a change fit into one event with the rest of it.
const ENTITY_BYTES_MAX: usize = 96 * 1024;

/// An answer, and what the event says of it.
pub(super) struct Reply {
    pub(super) body: Bytes,
    pub(super) recorded: Option<Value>,
}

impl Reply {
    /// For operations that answer nothing.
    pub(super) fn nothing() -> Self {
        Self { body: json_body(&json!({})), recorded: None }
    }
}

impl From<Value> for Reply {
    /// An answer without secrets: the event has the same, in CloudTrail's case.
    fn from(answer: Value) -> Self {
        Self { body: json_body(&answer), recorded: Some(camel(answer)) }
    }
}

/// `UserName` to `userName`, at every level.
fn camel(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let renamed = members.into_iter().map(|(name, value)| {
                let mut letters = name.chars();
                let head = letters.next().map(|letter| letter.to_ascii_lowercase());
                (head.into_iter().chain(letters).collect::<String>(), camel(value))
            });
            Value::Object(renamed.collect::<Map<_, _>>())
        }
        Value::Array(entries) => Value::Array(entries.into_iter().map(camel).collect()),
        other => other,
    }
}

/// What conditions may ask about an IAM call.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    /// Tags of the user or role it is about.
    pub(super) resource_tags: Option<&'a BTreeMap<String, String>>,
    /// Tags it sets.
    pub(super) request_tags: Option<&'a BTreeMap<String, String>>,
    /// Tag keys it takes away.
    pub(super) tag_keys: &'a [String],
    /// The managed policy it attaches or detaches.
    pub(super) policy_arn: Option<&'a str>,
    /// The boundary that the user or role has, or will have.
    pub(super) boundary: Option<&'a str>,
}

pub(super) struct Work<'w, 'j> {
    pub(super) judge: &'w mut Judge<'j>,
    pub(super) input: &'w Input,
    pub(super) account: AccountId,
    directory: Arc<Directory>,
    in_file: Arc<crate::auth::identities::Identities>,
    /// The copy that a change works on.
    edited: Option<Entities>,
    pub(super) changes: Vec<Change>,
}

impl<'w, 'j> Work<'w, 'j> {
    /// For the caller's own account.
    pub(super) fn new(judge: &'w mut Judge<'j>, input: &'w Input) -> Result<Self, Refusal> {
        let caller = judge.caller()?;
        let user_session = caller.session.is_some() && caller.context().is_some_and(|c| c.role_arn.is_none());
        if user_session && caller.context().is_some_and(|context| context.mfa == Mfa::Without) {
            // AWS's rule: a user's temporary keys administer only with a second factor.
            judge.record.decided_by = Some("Default".to_owned());
            return Err(judge.denied("*"));
        }
        let account = caller.account;
        let (directory, in_file) = (judge.access.directory(), judge.access.identities());
        Ok(Self { judge, input, account, directory, in_file, edited: None, changes: Vec::new() })
    }

    pub(super) fn now_us(&self) -> u64 {
        self.judge.judged_at_us
    }

    /// Entities made through the API, as they will be after this call.
    pub(super) fn stored(&self) -> &Entities {
        self.edited.as_ref().unwrap_or(&self.directory.entities)
    }

    /// Entities of identities.toml.
    pub(super) fn in_file(&self) -> &Entities {
        self.in_file.entities()
    }

    fn edit(&mut self) -> &mut Entities {
        self.edited.get_or_insert_with(|| self.directory.entities.clone())
    }

    /// Asks the caller's policies about this operation on one entity, and notes it as touched.
    pub(super) fn allow<E: Entity>(&mut self, name: &str, facts: &Facts<'_>) -> Result<(), Refusal> {
        self.allow_on(&E::arn(self.account, name), E::TYPE, facts)
    }

    /// Asks about an ARN, such as a managed policy's.
    pub(super) fn allow_on(&mut self, arn: &str, kind: &str, facts: &Facts<'_>) -> Result<(), Refusal> {
        self.judge.record.touch_entity(arn, self.account, kind);
        let context = Context {
            resource_tags: facts.resource_tags,
            request_tags: facts.request_tags.filter(|tags| !tags.is_empty()),
            tag_keys: facts.tag_keys,
            policy_arn: facts.policy_arn,
            permissions_boundary: facts.boundary,
            ..Context::default()
        };
        let action = format!("iam:{}", self.judge.call.operation);
        self.judge.allow_entity(&action, arn, &context)
    }

    /// Asks about a listing of all entities of a kind.
    pub(super) fn allow_listing<E: Entity>(&mut self) -> Result<(), Refusal> {
        let context = Context::default();
        let action = format!("iam:{}", self.judge.call.operation);
        self.judge.allow_entity(&action, &E::arn(self.account, ""), &context)
    }

    /// The entity of this name, wherever it is.
    pub(super) fn find<E: Entity>(&self, name: &str) -> Option<Arc<E>> {
        let at = (self.account, name.to_owned());
        E::all(self.stored()).get(&at).or_else(|| E::all(self.in_file()).get(&at)).cloned()
    }

    /// The entity of this name, or AWS's answer when there is none.
    pub(super) fn existing<E: Entity>(&self, name: &str) -> Result<Arc<E>, Refusal> {
        self.find(name).ok_or_else(|| {
            Refusal::new(RefusalKind::NoSuchEntity, format!("The {} with name {name} cannot be found.", E::NOUN))
        })
    }

    /// The entity of this name, to be changed: not one of identities.toml.
    pub(super) fn changeable<E: Entity>(&self, name: &str) -> Result<Arc<E>, Refusal> {
        let found = self.existing::<E>(name)?;
        if E::all(self.in_file()).contains_key(&(self.account, name.to_owned())) {
            let text = format!("The {} {name} is defined in identities.toml and can be changed only there.", E::NOUN);
            return Err(Refusal::new(RefusalKind::UnmodifiableEntity, text));
        }
        Ok(found)
    }

    /// Refuses a name that is taken, in any case, and more entities than an account may have.
    pub(super) fn room_for<E: Entity>(&self, name: &str, entities_max: usize) -> Result<(), Refusal> {
        let mut count = 0;
        for entities in [self.stored(), self.in_file()] {
            for other in of_account::<E>(entities, self.account) {
                count += 1;
                if other.name().eq_ignore_ascii_case(name) {
                    let noun = capital(E::NOUN);
                    let text = format!("{noun} with name {name} already exists.");
                    return Err(Refusal::new(RefusalKind::EntityAlreadyExists, text));
                }
            }
        }
        if count >= entities_max {
            let text = format!("Cannot exceed quota for {}sPerAccount: {entities_max}", capital(E::NOUN));
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        Ok(())
    }

    /// All entities of a kind in the account, in order of name.
    pub(super) fn all<E: Entity>(&self) -> Vec<Arc<E>> {
        let mut all: Vec<Arc<E>> = of_account(self.stored(), self.account).cloned().collect();
        all.extend(of_account::<E>(self.in_file(), self.account).cloned());
        all.sort_by(|one, other| one.name().cmp(other.name()));
        all
    }

    /// Stores a new or changed entity; `sealed` is its secret, when that is new.
    pub(super) fn put<E: Entity>(&mut self, entity: E, sealed: Option<Vec<u8>>) {
        let name = entity.name().to_owned();
        let at = (self.account, name.clone());
        self.note::<E>(&at, Some(&entity));
        let body = serde_json::to_string(&entity).expect("entities have text keys only");
        self.changes.push(Change::PutEntity { account: self.account, kind: E::KIND, name, body, sealed });
        E::all_mut(self.edit()).insert(at, Arc::new(entity));
    }

    /// Takes an entity away.
    pub(super) fn remove<E: Entity>(&mut self, name: &str) {
        let at = (self.account, name.to_owned());
        self.note::<E>(&at, None);
        self.changes.push(Change::DeleteEntity { account: self.account, kind: E::KIND, name: name.to_owned() });
        E::all_mut(self.edit()).remove(&at);
    }

    /// The images before and after, for the event. The first entity that a call changes is the one it is about.
    fn note<E: Entity>(&mut self, at: &entity::Name, after: Option<&E>) {
        if self.judge.record.before.is_some() || self.judge.record.after.is_some() {
            return;
        }
        let before = E::all(self.stored()).get(at).map(|entity| image(self.account, &**entity));
        self.judge.record.before = before;
        self.judge.record.after = after.map(|entity| image(self.account, entity));
    }

    /// UserName, or the calling user itself.
    pub(super) fn user_name_or_caller(&self) -> Result<String, Refusal> {
        if let Some(name) = &self.input.user_name {
            return Ok(name.clone());
        }
        let own = self.judge.caller()?.context().and_then(|context| context.user_name.clone());
        own.ok_or_else(|| {
            Refusal::new(RefusalKind::Validation, "Must specify userName when calling with non-User credentials")
        })
    }

    /// Tags of a user, for conditions.
    pub(super) fn tags_of_user(&self, name: &str) -> BTreeMap<String, String> {
        self.find::<User>(name).map(|user| user.tags.clone()).unwrap_or_default()
    }

    /// The name of a managed policy that can be attached in this account.
    pub(super) fn attachable(&self, arn: &str) -> Result<String, Refusal> {
        if !arn.starts_with("arn:") || arn.splitn(6, ':').count() < 6 {
            return Err(Refusal::new(RefusalKind::Validation, "Invalid ARN:  Could not be parsed!"));
        }
        let own = format!("arn:aws:iam::{}:policy/", self.account);
        let built_in = arn.strip_prefix("arn:aws:iam::aws:policy/").filter(|name| *name == ADMINISTRATOR_ACCESS);
        let name = match (arn.strip_prefix(&own), built_in) {
            (_, Some(name)) => Some(name),
            (Some(name), None) => self.find::<Policy>(name).is_some().then_some(name),
            (None, None) => None,
        };
        let missing = format!("Policy {arn} does not exist or is not attachable.");
        name.map(str::to_owned).ok_or_else(|| Refusal::new(RefusalKind::NoSuchEntity, missing))
    }

    /// The ARN of the boundary that something has.
    pub(super) fn boundary_arn(&self, name: Option<&String>) -> Option<String> {
        name.map(|name| policy_arn(self.account, name))
    }

    /// One page of a listing of named things, under a member's name.
    pub(super) fn page(
        &self,
        member: &str,
        entries: impl IntoIterator<Item = (String, Value)>,
    ) -> Result<Value, Refusal> {
        let Page { items, after } = self.input.page()?;
        let mut rest = entries.into_iter().filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        let page: Vec<(String, Value)> = rest.by_ref().take(items).collect();
        let truncated = rest.next().is_some();
        let last = page.last().map(|(name, _)| STANDARD.encode(name));
        let mut answer = json!({member: page.into_iter().map(|(_, value)| value).collect::<Vec<_>>()});
        answer["IsTruncated"] = truncated.into();
        if let (true, Some(marker)) = (truncated, last) {
            answer["Marker"] = marker.into();
        }
        Ok(answer)
    }

    /// What the change does: rows, and everything resolved anew.
    pub(super) fn finish(mut self, reply: Reply) -> Result<Effect, Refusal> {
        self.judge.record.response_elements = reply.recorded;
        let large = |change: &Change| matches!(change, Change::PutEntity { body, .. } if body.len() > ENTITY_BYTES_MAX);
        if self.changes.iter().any(large) {
            let text = format!("Cannot exceed quota for policies and tags of one entity: {ENTITY_BYTES_MAX} bytes");
            return Err(Refusal::new(RefusalKind::LimitExceeded, text));
        }
        let access = match self.edited.take() {
            None => None,
            Some(entities) => {
                let resolved = Directory::resolve(&self.in_file, entities).map_err(|error| conflict(&error))?;
                Some(Arc::new(self.judge.access.with_directory(Arc::new(resolved))))
            }
        };
        Ok(Effect { body: reply.body, changes: self.changes, access, ..Effect::default() })
    }
}

/// An operation that would leave something without what it needs: each checks for itself, this is the last line.
fn conflict(error: &DirectoryError) -> Refusal {
    Refusal::new(RefusalKind::DeleteConflict, error.to_string())
}

/// An entity as events carry it.
fn image<E: Entity>(account: AccountId, entity: &E) -> Value {
    let mut image = serde_json::to_value(entity).expect("entities have text keys only");
    if let Some(members) = image.as_object_mut() {
        members.insert("arn".to_owned(), E::arn(account, entity.name()).into());
    }
    image
}

fn capital(noun: &str) -> String {
    let mut letters = noun.chars();
    letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
