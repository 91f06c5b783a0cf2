//! What a recorded call asked of the policies: the same questions in the same order as its operation asks them.

use super::parameters::{Additional, Parameters, text};
use super::state::Past;
use crate::event::{SOURCE_CLOUDTRAIL, SOURCE_IAM, SOURCE_INTERNAL, SOURCE_STS};
use crate::ops::alias_of;
use crate::policy::{Context, GrantFacts, GrantTerms, KeyFacts};
use crate::row::Row;
use std::collections::BTreeMap;

/// Operations whose inputs policies cannot ask about: what of them was left out does not matter.
const NO_FACTS: [&str; 7] = [
    "CancelKeyDeletion",
    "DeleteImportedKeyMaterial",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "RotateKeyOnDemand",
    "UpdateKeyDescription",
];

/// A call with what its texts hold.
pub(super) struct Call<'a> {
    pub(super) row: &'a Row<'a>,
    pub(super) parameters: Parameters<'a>,
    pub(super) additional: Additional<'a>,
    tags: Option<BTreeMap<String, String>>,
    terms: Option<GrantTerms>,
    transitive_tag_keys: Vec<String>,
    /// ARNs of the alias and of the other key that an operation is about.
    alias: Option<String>,
    other_key: Option<String>,
}

/// One question.
pub(super) struct Question<'a> {
    /// `kms:Decrypt`.
    pub(super) action: String,
    pub(super) on: On<'a>,
    /// What the operation knows; the rest is the same for all.
    pub(super) facts: Context<'a>,
}

/// What a question is about.
#[derive(Clone, Copy)]
pub(super) enum On<'a> {
    /// A key with its policy and grants.
    Key(&'a str),
    /// Something without a policy of its own, of the caller's account.
    Own(&'a str),
    /// The end of a grant on a key.
    Retire(&'a str, &'a str),
    /// A role with its trust policy.
    Role(&'a str),
}

/// Why nothing can be said about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Untold {
    /// `requestParameters` was left out of an event that was too large.
    Omitted,
    /// The fold does not have the caller, or the session it called in.
    Caller,
    /// The fold does not have the key, its policy or the grant.
    Key,
    /// The event does not name the grant.
    Grant,
    /// The state folded from the log does not lead to the decision that the log has.
    Otherwise,
    /// Questions of this service are not asked again.
    Service,
}

impl Untold {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Omitted => "its event was too large to have its parameters",
            Self::Caller => "the log does not say which policies its caller had",
            Self::Key => "the log does not say which policy or grants the key had",
            Self::Grant => "its event does not name the grant",
            Self::Otherwise => "what the log says of that time does not lead to the decision that was made",
            Self::Service => "calls of IAM are not replayed",
        }
    }
}

impl<'a> Question<'a> {
    /// About something of which nothing else is known.
    pub(super) fn new(action: String, on: On<'a>) -> Self {
        Self { action, on, facts: Context::default() }
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(row: &'a Row<'a>, past: &Past) -> Self {
        let parameters = Parameters::parse(row.request_parameters);
        let additional = Additional::parse(row.additional).unwrap_or_default();
        let (tags, terms) = (parameters.request_tags(), parameters.terms());
        let transitive_tag_keys = parameters.transitive_tag_keys();
        let mut call =
            Self { row, parameters, additional, tags, terms, transitive_tag_keys, alias: None, other_key: None };
        let account = row.principal_account.unwrap_or_default();
        call.alias =
            text(&call.parameters.alias_name).map(|name| format!("arn:aws:kms:{}:{account}:{name}", row.region));
        let named = match row.event_name {
            "ReEncrypt" => text(&call.parameters.destination_key_id),
            "CreateAlias" | "UpdateAlias" => text(&call.parameters.target_key_id),
            _ => None,
        };
        call.other_key = named.and_then(|named| call.key_named(named, past));
        if row.event_name == "UpdatePrimaryRegion" {
            call.other_key =
                row.key_arn.zip(text(&call.parameters.primary_region)).map(|(arn, region)| moved(arn, region));
        }
        call
    }

    /// The ARN of the key behind an id, an ARN or an alias.
    fn key_named(&self, named: &str, past: &Past) -> Option<String> {
        let (region, account) = (self.row.region, self.row.principal_account?);
        let arn = match named {
            arn if arn.starts_with("arn:") => arn.to_owned(),
            alias if alias_of(alias).is_some() => format!("arn:aws:kms:{region}:{account}:{alias}"),
            id => format!("arn:aws:kms:{region}:{account}:key/{id}"),
        };
        if alias_of(&arn).is_some() { past.aliases.get(&arn).cloned() } else { Some(arn) }
    }

    /// The questions; none when the operation asks nothing.
    pub(super) fn questions<'s>(&'s self, past: &'s Past) -> Result<Vec<Question<'s>>, Untold> {
        let name = self.row.event_name;
        match self.row.event_source {
            SOURCE_IAM => Err(Untold::Service),
            _ if self.parameters.omitted && !NO_FACTS.contains(&name) => Err(Untold::Omitted),
            SOURCE_STS => self.of_sts(),
            SOURCE_INTERNAL if name == "RestoreKeyPolicy" => {
                Ok(vec![Question { action: "kms:PutKeyPolicy".to_owned(), on: self.key()?, facts: Context::default() }])
            }
            SOURCE_INTERNAL if name == "RetireKey" => self.of_two("kms:DisableKey", "kms:ScheduleKeyDeletion"),
            SOURCE_INTERNAL if name == "CancelRetirement" => self.of_two("kms:CancelKeyDeletion", "kms:EnableKey"),
            SOURCE_CLOUDTRAIL => Ok(vec![self.own(&format!("cloudtrail:{name}"), "*", Context::default())]),
            SOURCE_INTERNAL => Ok(vec![self.own(&format!("keytrail:{name}"), "*", Context::default())]),
            _ => self.of_kms(past),
        }
    }

    /// What is two calls of AWS's in one.
    fn of_two(&self, first: &str, second: &str) -> Result<Vec<Question<'_>>, Untold> {
        let on = self.key()?;
        let first = Question { action: first.to_owned(), on, facts: Context::default() };
        Ok(vec![first, Question { action: second.to_owned(), on, facts: self.facts() }])
    }

    fn of_sts(&self) -> Result<Vec<Question<'_>>, Untold> {
        let facts = Context {
            external_id: text(&self.parameters.external_id),
            role_session_name: text(&self.parameters.role_session_name),
            request_tags: self.tags.as_ref(),
            transitive_tag_keys: &self.transitive_tag_keys,
            ..Context::default()
        };
        match self.row.event_name {
            "AssumeRole" => {
                let on = On::Role(text(&self.parameters.role_arn).ok_or(Untold::Omitted)?);
                let mut questions = vec![Question { action: "sts:AssumeRole".to_owned(), on, facts }];
                if self.tags.is_some() {
                    questions.push(Question { action: "sts:TagSession".to_owned(), on, facts });
                }
                Ok(questions)
            }
            "GetAccessKeyInfo" => Ok(vec![self.own("sts:GetAccessKeyInfo", "*", Context::default())]),
            _ => Ok(Vec::new()),
        }
    }

    fn of_kms<'s>(&'s self, past: &'s Past) -> Result<Vec<Question<'s>>, Untold> {
        let (name, parameters) = (self.row.event_name, &self.parameters);
        let action = format!("kms:{name}");
        match name {
            "ListKeys" | "ListAliases" | "GenerateRandom" => Ok(vec![self.own(&action, "*", Context::default())]),
            name if name.contains("CustomKeyStore") => Ok(vec![self.own(&action, "*", Context::default())]),
            "ListRetirableGrants" => {
                let principal = text(&parameters.retiring_principal).ok_or(Untold::Omitted)?;
                // One of another account is refused before any policy is asked.
                let own = principal.split(':').nth(4) == self.row.principal_account;
                let question = || self.own(&action, principal, Context::default());
                Ok(own.then(question).into_iter().collect())
            }
            "CreateKey" => Ok(self.of_create_key()),
            "ReplicateKey" => self.of_replicate_key(past),
            "UpdatePrimaryRegion" => self.of_primary_region(past),
            "CreateAlias" | "UpdateAlias" | "DeleteAlias" => self.of_alias(past, &action),
            "ReEncrypt" => self.of_re_encrypt(),
            "RetireGrant" => {
                let grant = text(&parameters.grant_id).or(text(&self.additional.grant_id)).ok_or(Untold::Grant)?;
                let key = self.row.key_arn.ok_or(Untold::Key)?;
                Ok(vec![Question { action, on: On::Retire(key, grant), facts: Context::default() }])
            }
            "CreateGrant" => {
                let terms = self.terms.as_ref().ok_or(Untold::Omitted)?;
                let grantee = text(&parameters.grantee_principal).ok_or(Untold::Omitted)?;
                let grant = GrantFacts { grantee, retiring: text(&parameters.retiring_principal), terms };
                Ok(vec![Question { action, on: self.key()?, facts: grant.context() }])
            }
            _ => Ok(vec![Question { action, on: self.key()?, facts: self.facts() }]),
        }
    }

    /// What the inputs of an operation on one key say: each operation records only those that it has.
    fn facts(&self) -> Context<'_> {
        let parameters = &self.parameters;
        // Data keys are always encrypted so; only where a caller can choose is it recorded.
        let symmetric = self.row.event_name.starts_with("GenerateDataKey").then_some("SYMMETRIC_DEFAULT");
        Context {
            encryption_context: parameters.encryption_context.as_ref(),
            encryption_algorithm: text(&parameters.encryption_algorithm).or(symmetric),
            signing_algorithm: text(&parameters.signing_algorithm),
            message_type: text(&parameters.message_type),
            mac_algorithm: text(&parameters.mac_algorithm),
            key_agreement_algorithm: text(&parameters.key_agreement_algorithm),
            data_key_pair_spec: text(&parameters.key_pair_spec),
            rotation_period_days: parameters.rotation_period_in_days,
            wrapping_algorithm: text(&parameters.wrapping_algorithm),
            wrapping_key_spec: text(&parameters.wrapping_key_spec),
            expiration_model: text(&parameters.expiration_model),
            valid_to_us: text(&parameters.valid_to).and_then(micros),
            request_alias: text(&parameters.key_id).and_then(alias_of),
            request_tags: self.tags.as_ref(),
            tag_keys: parameters.tag_keys.as_deref().unwrap_or_default(),
            pending_window_days: parameters.pending_window_in_days,
            bypass_lockout: parameters.bypass_policy_lockout_safety_check,
            ..Context::default()
        }
    }

    fn of_create_key(&self) -> Vec<Question<'_>> {
        let parameters = &self.parameters;
        let multi_region = parameters.multi_region.unwrap_or(false);
        let key = KeyFacts {
            spec: text(&parameters.key_spec).unwrap_or("SYMMETRIC_DEFAULT"),
            usage: text(&parameters.key_usage).unwrap_or("ENCRYPT_DECRYPT"),
            origin: text(&parameters.origin).unwrap_or("AWS_KMS"),
            multi_region,
            multi_region_key_type: multi_region.then_some("PRIMARY"),
            tags: None,
            aliases: &[],
        };
        let facts = Context {
            request_tags: self.tags.as_ref(),
            bypass_lockout: Some(parameters.bypass_policy_lockout_safety_check.unwrap_or(false)),
            key: Some(key),
            ..Context::default()
        };
        let mut questions = vec![self.own("kms:CreateKey", "*", facts)];
        if self.tags.is_some() {
            questions.push(self.own("kms:TagResource", "*", facts));
        }
        questions
    }

    /// The primary key here, and a key and its tags in the other region.
    fn of_replicate_key<'s>(&'s self, past: &'s Past) -> Result<Vec<Question<'s>>, Untold> {
        let parameters = &self.parameters;
        let region = text(&parameters.replica_region).ok_or(Untold::Omitted)?;
        let bypass_lockout = Some(parameters.bypass_policy_lockout_safety_check.unwrap_or(false));
        let here = Context { replica_region: Some(region), bypass_lockout, ..Context::default() };
        let primary = self.row.key_arn.and_then(|arn| past.key(arn)).ok_or(Untold::Key)?.facts();
        let replica = KeyFacts {
            multi_region: true,
            multi_region_key_type: Some("REPLICA"),
            tags: None,
            aliases: &[],
            ..primary
        };
        let request_tags = self.tags.as_ref().filter(|tags| !tags.is_empty());
        let there = Context { region, request_tags, bypass_lockout, key: Some(replica), ..Context::default() };
        let mut questions = vec![
            Question { action: "kms:ReplicateKey".to_owned(), on: self.key()?, facts: here },
            self.own("kms:CreateKey", "*", there),
        ];
        if request_tags.is_some() {
            questions.push(self.own("kms:TagResource", "*", there));
        }
        Ok(questions)
    }

    /// The primary key, and the replica that takes its place: that is asked only once the primary key can give it away.
    fn of_primary_region<'s>(&'s self, past: &'s Past) -> Result<Vec<Question<'s>>, Untold> {
        let region = text(&self.parameters.primary_region).ok_or(Untold::Omitted)?;
        let action = || "kms:UpdatePrimaryRegion".to_owned();
        let facts = Context { primary_region: Some(region), ..Context::default() };
        let mut questions = vec![Question { action: action(), on: self.key()?, facts }];
        let refused_otherwise = self.row.error_code.is_some() && !self.row.is_denied();
        if let Some(replica) = self.other_key.as_deref().filter(|arn| !refused_otherwise && past.key(arn).is_some()) {
            questions.push(Question { action: action(), on: On::Key(replica), facts: Context { region, ..facts } });
        }
        Ok(questions)
    }

    /// The alias, the key that it leaves, the key that it goes to.
    fn of_alias<'s>(&'s self, past: &'s Past, action: &str) -> Result<Vec<Question<'s>>, Untold> {
        let alias = self.alias.as_deref().ok_or(Untold::Omitted)?;
        let ask = |key| Question { action: action.to_owned(), on: On::Key(key), facts: Context::default() };
        let mut questions = vec![self.own(action, alias, Context::default())];
        if self.row.event_name != "CreateAlias" {
            questions.push(ask(past.aliases.get(alias).ok_or(Untold::Key)?));
        }
        if self.row.event_name != "DeleteAlias" {
            questions.push(ask(self.other_key.as_deref().ok_or(Untold::Key)?));
        }
        Ok(questions)
    }

    fn of_re_encrypt(&self) -> Result<Vec<Question<'_>>, Untold> {
        let parameters = &self.parameters;
        let (source, destination) =
            (self.row.key_arn.ok_or(Untold::Key)?, self.other_key.as_deref().ok_or(Untold::Key)?);
        let same = Some(source == destination);
        let from = Context {
            encryption_context: parameters.source_encryption_context.as_ref(),
            encryption_algorithm: text(&parameters.source_encryption_algorithm),
            request_alias: text(&parameters.source_key_id).and_then(alias_of),
            re_encrypt_on_same_key: same,
            ..Context::default()
        };
        let to = Context {
            encryption_context: parameters.destination_encryption_context.as_ref(),
            encryption_algorithm: text(&parameters.destination_encryption_algorithm),
            request_alias: text(&parameters.destination_key_id).and_then(alias_of),
            re_encrypt_on_same_key: same,
            ..Context::default()
        };
        let ask = |action: &str, key, facts| Question { action: action.to_owned(), on: On::Key(key), facts };
        Ok(vec![ask("kms:ReEncryptFrom", source, from), ask("kms:ReEncryptTo", destination, to)])
    }

    fn key(&self) -> Result<On<'_>, Untold> {
        self.row.key_arn.map(On::Key).ok_or(Untold::Key)
    }

    fn own<'s>(&'s self, action: &str, resource: &'s str, facts: Context<'s>) -> Question<'s> {
        Question { action: action.to_owned(), on: On::Own(resource), facts }
    }
}

/// The ARN of the related key in another region.
fn moved(arn: &str, region: &str) -> String {
    let mut parts: Vec<_> = arn.splitn(6, ':').collect();
    if let Some(part) = parts.get_mut(3) {
        *part = region;
    }
    parts.join(":")
}

fn micros(text: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_micros()).ok()
}
