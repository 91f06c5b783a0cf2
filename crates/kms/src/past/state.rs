//! The fold: each change's event carries the image after it, so taking them in order gives the state at any seq.

use super::grants::{GrantImage, Grants};
use super::parameters::{Additional, Parameters, text};
use super::replace::Replacement;
use super::sessions::Sessions;
use crate::auth::identities::Identities;
use crate::auth::session::Session;
use crate::directory::Directory;
use crate::directory::entity::{Entities, Entity, Group, Policy, Role, User};
use crate::event::{SOURCE_IAM, SOURCE_INTERNAL};
use crate::key::AccountId;
use crate::people::People;
use crate::policy::{Document, Flavor, KeyFacts, PolicyError};
use crate::row::Row;
use crate::spec::KeyKind;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Everything that a judgement looks at, as it was behind the last event taken.
pub struct Past {
    pub(super) keys: BTreeMap<String, PastKey>,
    /// ARNs of keys by the ARNs of their aliases.
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) grants: Grants,
    sessions: Sessions,
    file: Value,
    entities: Entities,
    in_force: Arc<Resolved>,
    /// With what stands in for a policy; the same where nothing does.
    proposed: Arc<Resolved>,
    resolved: bool,
    /// Grows with each change of people.
    pub(super) people_generation: u64,
    replacement: Replacement,
    /// Policies by the hash that images name.
    documents: HashMap<String, Arc<PastPolicy>>,
    pub(super) asked: Asked,
    unreadable: u64,
    /// The account of the built-in principals.
    pub(super) node_account: Option<String>,
}

/// A key as its last change left it.
pub(super) struct PastKey {
    pub(super) image: KeyImage,
    pub(super) policy: Option<Arc<PastPolicy>>,
    pub(super) aliases: Vec<String>,
    /// Grows with each change of the key, its aliases and grants.
    pub(super) generation: u64,
}

/// A key policy with its text.
pub(super) struct PastPolicy {
    pub(super) text: String,
    pub(super) document: Document,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KeyImage {
    pub(super) key_arn: String,
    pub(super) account: String,
    pub(super) key_state: String,
    key_spec: String,
    key_usage: String,
    origin: String,
    multi_region_key_type: Option<String>,
    pub(super) service: Option<String>,
    pub(super) policy_sha256: Option<String>,
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AliasImage {
    alias_name: String,
    alias_arn: String,
    target_key_arn: String,
}

/// Which circumstances some policy asks about. Found in the texts, so that one too many may be here and none is missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) source_ip: bool,
    pub(super) user_agent: bool,
    pub(super) time: bool,
    pub(super) tls: bool,
    /// Something of the request's own parameters, the encryption context above all.
    pub(super) parameters: bool,
}

/// Condition keys about what a call on one key was asked for; the names of all of them begin like one of these.
const OF_PARAMETERS: [&str; 18] = [
    "aws:requesttag",
    "aws:tagkeys",
    "keytrail:approvedbysecondprincipal",
    "kms:bypasspolicylockoutsafetycheck",
    "kms:datakeypairspec",
    "kms:encryption",
    "kms:expirationmodel",
    "kms:grant",
    "kms:keyagreementalgorithm",
    "kms:macalgorithm",
    "kms:messagetype",
    "kms:reencryptonsamekey",
    "kms:requestalias",
    "kms:rotationperiodindays",
    "kms:schedulekeydeletionpendingwindowindays",
    "kms:signingalgorithm",
    "kms:validto",
    "kms:wrapping",
];

/// People of both sources.
pub(super) struct Resolved {
    file: Identities,
    directory: Directory,
}

impl Resolved {
    pub(super) fn people(&self) -> People<'_> {
        People { file: &self.file, directory: &self.directory }
    }
}

impl PastKey {
    /// A symmetric key under a policy that no log has.
    fn of_file(arn: &str, account: &str, text: &str) -> Result<Self, PolicyError> {
        let document = Document::parse(text, Flavor::KeyPolicy)?;
        let KeyKind { spec, usage, origin } = KeyKind::SYMMETRIC;
        let image = KeyImage {
            key_arn: arn.to_owned(),
            account: account.to_owned(),
            key_state: "Enabled".to_owned(),
            key_spec: spec.name().to_owned(),
            key_usage: usage.name().to_owned(),
            origin: origin.name().to_owned(),
            ..KeyImage::default()
        };
        let policy = Some(Arc::new(PastPolicy { text: text.to_owned(), document }));
        Ok(Self { image, policy, aliases: Vec::new(), generation: 0 })
    }

    /// What conditions may ask about it.
    pub(super) fn facts(&self) -> KeyFacts<'_> {
        let KeyImage { key_spec, key_usage, origin, multi_region_key_type, tags, .. } = &self.image;
        KeyFacts {
            spec: key_spec,
            usage: key_usage,
            origin,
            multi_region: multi_region_key_type.is_some(),
            multi_region_key_type: multi_region_key_type.as_deref(),
            tags: Some(tags),
            aliases: &self.aliases,
        }
    }
}

impl Asked {
    pub(super) fn note(&mut self, text: &str) {
        let text = text.to_ascii_lowercase();
        // A letter may be written by its number: then any name may be meant.
        let numbered = text.contains("\\u");
        let has = |names: &[&str]| numbered || names.iter().any(|name| text.contains(name));
        self.source_ip |= has(&["aws:sourceip"]);
        self.user_agent |= has(&["aws:useragent"]);
        self.time |= has(&["aws:currenttime", "aws:epochtime", "aws:multifactorauthage"]);
        self.tls |= has(&["aws:securetransport"]);
        self.parameters |= has(&OF_PARAMETERS);
    }
}

impl Past {
    /// The state before the first event, with something to try in place of a policy.
    pub fn new(replacement: Replacement) -> Self {
        let nobody = || Resolved {
            file: Identities::parse("").expect("no identities are valid ones"),
            directory: Directory::default(),
        };
        let in_force = Arc::new(nobody());
        let mut asked = Asked::default();
        asked.note(replacement.text());
        Self {
            keys: BTreeMap::new(),
            aliases: BTreeMap::new(),
            grants: Grants::default(),
            sessions: Sessions::default(),
            file: Value::Null,
            entities: Entities::default(),
            proposed: Arc::clone(&in_force),
            in_force,
            resolved: true,
            people_generation: 0,
            replacement,
            documents: HashMap::new(),
            asked,
            unreadable: 0,
            node_account: None,
        }
    }

    /// What files say where there is no log: people as `identities.toml` has them, and keys of an account, by ARN, with their
    /// policies.
    pub fn of_files(identities: &Identities, account: &str, keys: &[(String, String)]) -> Result<Self, PolicyError> {
        let mut past = Self::new(Replacement::default());
        past.file = identities.public_json().clone();
        past.people_changed();
        for (arn, text) in keys {
            past.keys.insert(arn.clone(), PastKey::of_file(arn, account, text)?);
        }
        Ok(past)
    }

    /// ARNs of the keys that an id or an alias names, in whatever account.
    pub fn keys_named(&self, named: &str) -> Vec<String> {
        let by_alias = self
            .aliases
            .iter()
            .filter(|(arn, _)| *arn == named || arn.rsplit_once(":").is_some_and(|(_, name)| name == named));
        let by_id = self.keys.keys().filter(|arn| arn.rsplit_once(":key/").is_some_and(|(_, id)| id == named));
        by_alias.map(|(_, key)| key.clone()).chain(by_id.cloned()).collect()
    }

    /// Events whose images could not be read; the state may be behind.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// What LoadIdentities recorded last.
    pub(super) fn file(&self) -> &Value {
        &self.file
    }

    /// What the IAM API made.
    pub(super) fn entities(&self) -> &Entities {
        &self.entities
    }

    pub(super) fn key(&self, arn: &str) -> Option<&PastKey> {
        self.keys.get(arn)
    }

    /// Whether a call was made in a session opened with a second factor.
    pub(super) fn mfa(&self, row: &Row<'_>) -> bool {
        let session = row.access_key_id.and_then(|id| self.session(id));
        session.is_some_and(|session| session.claims.mfa_us.is_some())
    }

    /// How often a key changed.
    pub(super) fn key_generation(&self, key_arn: Option<&str>) -> u64 {
        key_arn.and_then(|arn| self.keys.get(arn)).map_or(0, |key| key.generation)
    }

    /// What stands in for a policy.
    pub(super) fn replacement(&self) -> &Replacement {
        &self.replacement
    }

    pub(super) fn session(&self, access_key_id: &str) -> Option<&Arc<Session>> {
        self.sessions.get(access_key_id)
    }

    /// People in force, and as they would be.
    pub(super) fn people(&mut self) -> (Arc<Resolved>, Arc<Resolved>) {
        if !self.resolved {
            self.resolve();
        }
        (Arc::clone(&self.in_force), Arc::clone(&self.proposed))
    }

    fn resolve(&mut self) {
        self.resolved = true;
        let Some(in_force) = resolved(&self.file, self.entities.clone()) else {
            self.unreadable += 1;
            return;
        };
        self.in_force = Arc::new(in_force);
        let (mut file, mut entities) = (self.file.clone(), self.entities.clone());
        let replaced = self.replacement.replace(&mut file, &mut entities);
        self.proposed = match replaced.then(|| resolved(&file, entities)).flatten() {
            Some(proposed) => Arc::new(proposed),
            None => Arc::clone(&self.in_force),
        };
    }

    /// Takes an event; rows that change nothing are passed over.
    pub fn take(&mut self, row: &Row<'_>) {
        if row.opens_session() {
            self.take_session(row);
        }
        if !row.is_change() {
            return;
        }
        match (row.event_source, row.event_name) {
            (SOURCE_INTERNAL, "LoadIdentities") => self.take_identities(row),
            _ if Additional::parse(row.additional)
                .is_none_or(|additional| self.take_images(row, &additional).is_none()) =>
            {
                self.unreadable += 1;
            }
            _ => {}
        }
    }

    fn take_session(&mut self, row: &Row<'_>) {
        let parameters = Parameters::parse(row.request_parameters);
        let judged_at_us = Additional::parse(row.additional).map_or(0, |additional| additional.judged_at_micros);
        if let Some(policy) = text(&parameters.policy) {
            self.asked.note(policy);
        }
        let (in_force, _) = self.people();
        let caller = row.principal_arn.and_then(|arn| in_force.people().user(arn));
        let caller_id = caller.map(|caller| caller.context.user_id.clone());
        // A session that cannot be read is one whose calls cannot be told.
        let _ = self.sessions.take(row, &parameters, judged_at_us, caller_id);
    }

    fn take_identities(&mut self, row: &Row<'_>) {
        #[derive(Deserialize)]
        struct Loaded {
            identities: Value,
        }
        self.node_account = row.principal_account.map(str::to_owned);
        let Some(text) = row.request_parameters else { return };
        self.asked.note(text);
        match serde_json::from_str::<Loaded>(text) {
            Ok(loaded) => {
                self.file = loaded.identities;
                self.people_changed();
            }
            Err(_) => self.unreadable += 1,
        }
    }

    fn people_changed(&mut self) {
        self.resolved = false;
        self.people_generation += 1;
    }

    /// None when an image cannot be read.
    fn take_images(&mut self, row: &Row<'_>, additional: &Additional<'_>) -> Option<()> {
        let image = |raw: Option<&serde_json::value::RawValue>| match raw {
            None => Some(None),
            Some(raw) => serde_json::from_str::<Value>(raw.get()).ok().map(Some),
        };
        let (before, after) = (image(additional.before)?, image(additional.after)?);
        let Some(either) = after.as_ref().or(before.as_ref()) else { return Some(()) };
        if row.event_source == SOURCE_IAM {
            return self.take_entity(either["arn"].as_str()?, after.clone());
        }
        if either["keyArn"].is_string() {
            return self.take_key(row, additional, before, after);
        }
        if either["aliasArn"].is_string() {
            return self.take_alias(before, after);
        }
        if either["grantId"].is_string() {
            return self.take_grant(before, after);
        }
        Some(())
    }

    fn take_key(
        &mut self,
        row: &Row<'_>,
        additional: &Additional<'_>,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Option<()> {
        let Some(after) = after else {
            let arn = before?["keyArn"].as_str()?.to_owned();
            self.keys.remove(&arn);
            self.grants.remove_key(&arn);
            self.aliases.retain(|_, target| *target != arn);
            return Some(());
        };
        let image: KeyImage = serde_json::from_value(after).ok()?;
        let policy = self.policy(row, additional, &image);
        let arn = image.key_arn.clone();
        let (generation, aliases) = match self.keys.remove(&arn) {
            Some(former) => (former.generation + 1, former.aliases),
            // Never one that a key of this ARN had before: a replica can be deleted and made again.
            None => (row.seq + 1, Vec::new()),
        };
        self.keys.insert(arn.clone(), PastKey { image, policy, aliases, generation });
        if let Some(name) = additional.service_event_details.as_ref().and_then(|details| text(&details.alias_name)) {
            let (head, _) = arn.split_once(":key/")?;
            self.point(&format!("{head}:{name}"), name, &arn);
        }
        Some(())
    }

    /// The policy that the image names: the event's own, or one that was set before.
    fn policy(&mut self, row: &Row<'_>, additional: &Additional<'_>, image: &KeyImage) -> Option<Arc<PastPolicy>> {
        let sha256 = image.policy_sha256.clone()?;
        if let Some(found) = self.documents.get(&sha256) {
            return Some(Arc::clone(found));
        }
        let set = text(&additional.policy).filter(|_| row.is_change())?;
        self.asked.note(set);
        let document = Document::parse(set, Flavor::KeyPolicy).ok()?;
        let policy = Arc::new(PastPolicy { text: set.to_owned(), document });
        self.documents.insert(sha256, Arc::clone(&policy));
        Some(policy)
    }

    fn take_alias(&mut self, before: Option<Value>, after: Option<Value>) -> Option<()> {
        if let Some(before) = before {
            let AliasImage { alias_name, alias_arn, target_key_arn } = serde_json::from_value(before).ok()?;
            self.aliases.remove(&alias_arn);
            if let Some(key) = self.keys.get_mut(&target_key_arn) {
                key.aliases.retain(|name| *name != alias_name);
                key.generation += 1;
            }
        }
        if let Some(after) = after {
            let AliasImage { alias_name, alias_arn, target_key_arn } = serde_json::from_value(after).ok()?;
            self.point(&alias_arn, &alias_name, &target_key_arn);
        }
        Some(())
    }

    fn point(&mut self, alias_arn: &str, name: &str, key_arn: &str) {
        self.aliases.insert(alias_arn.to_owned(), key_arn.to_owned());
        if let Some(key) = self.keys.get_mut(key_arn) {
            key.aliases.push(name.to_owned());
            key.generation += 1;
        }
    }

    fn take_grant(&mut self, before: Option<Value>, after: Option<Value>) -> Option<()> {
        let image: GrantImage = serde_json::from_value(after.clone().or(before)?).ok()?;
        let arn = image.target_key_arn.clone();
        self.asked.parameters |= !image.constraints.is_empty();
        if after.is_none() {
            self.grants.remove(&arn, &image.grant_id);
        } else if !self.grants.insert(image) {
            return None;
        }
        if let Some(key) = self.keys.get_mut(&arn) {
            key.generation += 1;
        }
        Some(())
    }

    fn take_entity(&mut self, arn: &str, after: Option<Value>) -> Option<()> {
        let (account, resource) = arn.strip_prefix("arn:aws:iam::")?.split_once(':')?;
        let (kind, name) = resource.split_once('/')?;
        let account = AccountId::parse(account)?;
        if let Some(image) = &after {
            // Texts inside texts: a name in them is found all the same.
            self.asked.note(&image.to_string());
        }
        let all = &mut self.entities;
        match kind {
            User::KIND => put::<User>(all, account, name, after)?,
            Group::KIND => put::<Group>(all, account, name, after)?,
            Role::KIND => put::<Role>(all, account, name, after)?,
            Policy::KIND => put::<Policy>(all, account, name, after)?,
            // Access keys, devices and providers carry no rights of their own.
            _ => return Some(()),
        }
        self.people_changed();
        Some(())
    }
}

fn put<E: Entity + DeserializeOwned>(
    all: &mut Entities,
    account: AccountId,
    name: &str,
    after: Option<Value>,
) -> Option<()> {
    let at = (account, name.to_owned());
    match after {
        Some(image) => E::all_mut(all).insert(at, Arc::new(serde_json::from_value(image).ok()?)),
        None => E::all_mut(all).remove(&at),
    };
    Some(())
}

/// None when they do not fit together, which a node does not let happen.
fn resolved(file: &Value, entities: Entities) -> Option<Resolved> {
    let file = match file {
        Value::Null => Identities::parse("").ok()?,
        recorded => Identities::of_recorded(recorded).ok()?,
    };
    let directory = Directory::resolve(&file, entities).ok()?;
    Some(Resolved { file, directory })
}
