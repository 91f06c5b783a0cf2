//! Users, roles and groups with their policies, folded from the log.
//!
//! Two sources, as in the node: identities.toml, which LoadIdentities records whole each time, and the IAM API, whose events
//! carry the image of what they changed. Secrets are in neither.

use super::Step;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A user, role, group or managed policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entity {
    pub(crate) arn: String,
    /// `user`, `role`, `group` or `policy`.
    pub(crate) kind: &'static str,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) unique_id: Option<String>,
    /// Unix microseconds; not known of those in the file.
    pub(crate) created_us: Option<i64>,
    pub(crate) groups: Vec<String>,
    pub(crate) permissions_boundary: Option<String>,
    pub(crate) tags: Option<String>,
    /// Names of managed policies.
    pub(crate) attached: Vec<String>,
    /// Policies of its own: name and text.
    pub(crate) inline: Vec<(String, String)>,
    /// A managed policy's own text.
    pub(crate) document: Option<String>,
    pub(crate) changed: Arc<Step>,
}

/// All that is known at one position of the log, by ARN.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct People {
    file: BTreeMap<String, Arc<Entity>>,
    iam: BTreeMap<String, Arc<Entity>>,
}

impl People {
    /// Entities with the source they are from, those of the file first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Entity)> {
        let file = self.file.values().map(|entity| ("identities.toml", entity.as_ref()));
        file.chain(self.iam.values().map(|entity| ("IAM", entity.as_ref())))
    }

    /// The text of a managed policy of `account`.
    pub(crate) fn document(&self, account: &str, name: &str) -> Option<&str> {
        let arn = format!("arn:aws:iam::{account}:policy/{name}");
        self.file.get(&arn).or_else(|| self.iam.get(&arn))?.document.as_deref()
    }

    /// Takes what LoadIdentities recorded in place of what it recorded before.
    pub(super) fn load(&mut self, parameters: Option<&str>, step: &Step) -> serde_json::Result<()> {
        let parameters: Value = serde_json::from_str(parameters.unwrap_or("null"))?;
        let identities = &parameters["identities"];
        if !identities.is_object() {
            return Err(serde::de::Error::custom("identities are missing"));
        }
        let step = Arc::new(step.clone());
        self.file.clear();
        for (list, kind) in [("users", "user"), ("roles", "role"), ("groups", "group"), ("policies", "policy")] {
            for entry in identities[list].as_array().into_iter().flatten() {
                let entity = of_file(kind, entry, &step);
                self.file.insert(entity.arn.clone(), Arc::new(entity));
            }
        }
        Ok(())
    }

    /// Takes the image after a change by the IAM API; none when it is gone.
    pub(super) fn change(&mut self, arn: &str, after: Option<&Value>, step: &Step) {
        let Some((account, resource)) = arn.strip_prefix("arn:aws:iam::").and_then(|rest| rest.split_once(':')) else {
            return;
        };
        let kinds = ["user", "role", "group", "policy"];
        let kind = kinds.into_iter().find(|kind| resource.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/')));
        // Access keys, devices and providers are no principals.
        let Some(kind) = kind else { return };
        match after {
            Some(image) => {
                let entity = of_image(arn, kind, account, image, step);
                self.iam.insert(arn.to_owned(), Arc::new(entity));
            }
            None => drop(self.iam.remove(arn)),
        }
    }
}

fn of_file(kind: &'static str, entry: &Value, step: &Arc<Step>) -> Entity {
    let text = |name: &str| entry[name].as_str().map(str::to_owned);
    let name = text(&format!("{kind}Name")).unwrap_or_default();
    let account = text("accountId").unwrap_or_default();
    let policies = || entry["policies"].as_array().into_iter().flatten();
    let policy_name = |policy: &Value| policy["policyName"].as_str().unwrap_or_default().to_owned();
    let own = |policy: &Value| policy["policyDocument"].is_object();
    Entity {
        arn: text("arn").unwrap_or_else(|| format!("arn:aws:iam::{account}:{kind}/{name}")),
        kind,
        unique_id: text(&format!("{kind}Id")),
        created_us: None,
        groups: texts(&entry["groups"]),
        permissions_boundary: text("permissionsBoundary"),
        tags: entry["tags"].is_object().then(|| entry["tags"].to_string()),
        attached: policies().filter(|policy| !own(policy)).map(policy_name).collect(),
        inline: policies()
            .filter(|policy| own(policy))
            .map(|policy| (policy_name(policy), policy["policyDocument"].to_string()))
            .collect(),
        document: (kind == "policy").then(|| entry["policyDocument"].to_string()),
        changed: step.clone(),
        account,
        name,
    }
}

fn of_image(arn: &str, kind: &'static str, account: &str, image: &Value, step: &Step) -> Entity {
    let text = |name: &str| image[name].as_str().map(str::to_owned);
    let inline = image["inlinePolicies"].as_object().into_iter().flatten();
    let version = match &image["defaultVersion"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Entity {
        arn: arn.to_owned(),
        kind,
        account: account.to_owned(),
        name: text(&format!("{kind}Name")).unwrap_or_default(),
        unique_id: text(&format!("{kind}Id")),
        created_us: image["createdUs"].as_i64(),
        groups: texts(&image["groups"]),
        permissions_boundary: text("permissionsBoundary"),
        tags: image["tags"].is_object().then(|| image["tags"].to_string()),
        attached: texts(&image["attachedPolicies"]),
        inline: inline.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect(),
        document: image["versions"][version.as_str()]["document"].as_str().map(str::to_owned),
        changed: Arc::new(step.clone()),
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}
