//! What the log says was used: since the effects by those in scope, and before them by anyone.
//!
//! The key service counts (`KeytrailService.GetUsage`); here is whom to ask about and what the answer means. A page of it
//! covers a bounded part of the log, and so does a look: where there is more, the look goes on from there later.

use super::Case;
use crate::act::{Control, ControlError};
use crate::guard::kept_as;
use crate::notify::render::clean;
use crate::outbox::ActionKind;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Pages of one look, each of some 20,000 records.
const PAGES_MAX: usize = 10;
/// Principals or keys in one question.
const NAMES_MAX: usize = 100;
/// Uses that an exposure names; the others are counted.
const EXPOSURE_USES_MAX: usize = 100;
/// Bytes of an encryption context in an exposure.
const CONTEXT_BYTES_MAX: usize = 2_048;

/// Since when nothing of whom may have been used.
pub(crate) struct Scope {
    /// Principals who were quarantined or lost an access key, by the seq of that: whatever they did.
    principals: BTreeMap<String, u64>,
    /// Disabled keys: whoever used them.
    disabled: BTreeMap<String, u64>,
    /// Other keys that we acted on: what those whom it is about did with them.
    acted_on: BTreeMap<String, u64>,
    /// Whom it is about.
    about: BTreeSet<String>,
    /// The first and the last effect; some are on nothing that could be used.
    effects: Option<(u64, u64)>,
}

impl Scope {
    pub(super) fn of(case: &Case) -> Self {
        let mut scope = Self {
            principals: BTreeMap::new(),
            disabled: BTreeMap::new(),
            acted_on: BTreeMap::new(),
            about: case.principals.iter().map(|arn| kept_as(arn)).collect(),
            effects: None,
        };
        // An action that found everything as it should be has no call: what is after the evidence counts.
        let no_call = case.evidence.map_or(0, |(_, last)| last);
        for action in &case.actions {
            let seq = action.log_seq.map_or(no_call, i64::unsigned_abs);
            // A snapshot contains nothing.
            if matches!(action.kind, ActionKind::SnapshotEvidence | ActionKind::CallOut) {
                continue;
            }
            let (first, last) = scope.effects.unwrap_or((seq, seq));
            scope.effects = Some((first.min(seq), last.max(seq)));
            let arg = |name: &str| action.args.get(name).and_then(Value::as_str);
            let (map, name) = match action.kind {
                // One on a key is about what its principal does there.
                ActionKind::QuarantinePrincipal => match arg("keyArn") {
                    Some(key) => (&mut scope.acted_on, key.to_owned()),
                    None => (&mut scope.principals, kept_as(&action.target)),
                },
                // Sessions that were opened with it go on.
                ActionKind::DeactivateAccessKey => match arg("principalArn") {
                    Some(principal) => (&mut scope.principals, kept_as(principal)),
                    None => continue,
                },
                // The key that the alias was moved to.
                ActionKind::AliasRestore => match arg("currentTargetKeyArn") {
                    Some(key) => (&mut scope.acted_on, key.to_owned()),
                    None => continue,
                },
                ActionKind::DisableKey => (&mut scope.disabled, action.target.clone()),
                _ if action.target.contains(":key/") => (&mut scope.acted_on, action.target.clone()),
                _ => continue,
            };
            let held = map.entry(name).or_insert(seq);
            *held = seq.max(*held);
        }
        scope
    }

    pub(super) fn first_effect(&self) -> u64 {
        self.effects.map_or(0, |(first, _)| first)
    }

    pub(super) fn last_effect(&self) -> u64 {
        self.effects.map_or(0, |(_, last)| last)
    }

    /// Whether these uses, the last of which is given by its seq, should not have been.
    fn forbids(&self, used: &Used) -> bool {
        let after = |seq: Option<&u64>| seq.is_some_and(|seq| used.last_seq > *seq);
        let who = used.principal.as_deref().map(kept_as);
        let quarantined = who.as_ref().is_some_and(|who| after(self.principals.get(who)));
        let disabled = after(self.disabled.get(&used.key)) && used.operation != "CreateGrant";
        let about = who.is_some_and(|who| self.about.contains(&who));
        quarantined || disabled || (about && after(self.acted_on.get(&used.key)))
    }
}

/// What happened since.
pub(super) enum Since {
    /// Up to here nothing did.
    Nothing { through: u64 },
    /// This did.
    Used(String),
    /// It cannot be told, or not yet.
    NotYet { through: Option<u64>, why: String },
}

struct Used {
    principal: Option<String>,
    key: String,
    operation: String,
    context: Value,
    count: u64,
    last_seq: u64,
}

struct Page {
    uses: Vec<Used>,
    next_seq: u64,
    end_seq: u64,
    unreadable: u64,
}

/// Looks from `from` to the end of the log.
pub(super) async fn since(kms: &dyn Control, scope: &Scope, from: u64) -> Result<Since, ControlError> {
    let principals: BTreeSet<&String> = scope.principals.keys().chain(&scope.about).collect();
    if principals.len() > NAMES_MAX || scope.disabled.len() > NAMES_MAX {
        return Ok(Since::NotYet { through: None, why: "not known: it is about too many principals or keys".into() });
    }
    if scope.about.is_empty() && !scope.acted_on.is_empty() {
        let why = "not known: it is about no one principal whose use could be looked for";
        return Ok(Since::NotYet { through: None, why: why.into() });
    }
    let mut at = from;
    for _ in 0..PAGES_MAX {
        let page = ask(kms, json!(principals), json!(scope.disabled.keys().collect::<Vec<_>>()), at, None).await?;
        if let Some(used) = page.uses.iter().find(|used| scope.forbids(used)) {
            let who = used.principal.as_deref().unwrap_or("somebody");
            let what = if used.key.is_empty() { String::new() } else { format!(" with {}", used.key) };
            let text = format!("{who} did {}{what} after it, last at log seq {}", used.operation, used.last_seq);
            return Ok(Since::Used(clean(&text, 400)));
        }
        if page.unreadable > 0 {
            let why = format!("not known: {} records after it cannot be read", page.unreadable);
            return Ok(Since::NotYet { through: None, why });
        }
        if page.next_seq >= page.end_seq {
            return Ok(Since::Nothing { through: page.next_seq.max(at) });
        }
        if page.next_seq <= at {
            return Err(unreadable());
        }
        at = page.next_seq;
    }
    Ok(Since::NotYet { through: Some(at), why: "not known yet: the log is long, looking on".into() })
}

/// What was used between two places of the log, as JSON for people and programs.
pub(super) async fn exposure(kms: &dyn Control, case: &Case, first: u64, last: u64) -> Result<Value, ControlError> {
    let names = |names: &[String]| json!(names.iter().take(NAMES_MAX).collect::<Vec<_>>());
    let mut complete = case.principals.len() <= NAMES_MAX && case.keys.len() <= NAMES_MAX;
    let mut uses: BTreeMap<(String, String, String, String), u64> = BTreeMap::new();
    let (mut at, end, mut more) = (first, last.saturating_add(1), 0);
    for page_number in 0.. {
        if at >= end {
            break;
        }
        if page_number == PAGES_MAX {
            complete = false;
            break;
        }
        let page = ask(kms, names(&case.principals), names(&case.keys), at, Some(end)).await?;
        complete &= page.unreadable == 0;
        for used in page.uses.into_iter().filter(|used| exposes(&used.operation)) {
            let who = used.principal.unwrap_or_default();
            let context = if used.context.is_null() { String::new() } else { used.context.to_string() };
            let name = (clean(&who, 300), clean(&used.key, 300), used.operation, context);
            if uses.contains_key(&name) || (uses.len() < EXPOSURE_USES_MAX && name.3.len() <= CONTEXT_BYTES_MAX) {
                *uses.entry(name).or_default() += used.count;
            } else {
                more += used.count;
            }
        }
        if page.next_seq >= page.end_seq {
            break;
        }
        if page.next_seq <= at {
            return Err(unreadable());
        }
        at = page.next_seq;
    }
    let listed: Vec<Value> = uses
        .into_iter()
        .map(|((principal, key, operation, context), count)| {
            let context = serde_json::from_str(&context).unwrap_or(Value::Null);
            json!({ "principal": principal, "key": key, "operation": operation, "context": context, "count": count })
        })
        .collect();
    Ok(json!({ "firstSeq": first, "lastSeq": last, "complete": complete, "uses": listed, "moreUses": more }))
}

/// What hands out plaintext or the means to get at it.
fn exposes(operation: &str) -> bool {
    operation == "Decrypt"
        || operation == "CreateGrant"
        || operation.starts_with("GenerateDataKey")
        || operation.starts_with("ReEncrypt")
}

async fn ask(
    kms: &dyn Control,
    principals: Value,
    keys: Value,
    first: u64,
    end: Option<u64>,
) -> Result<Page, ControlError> {
    let body = json!({ "PrincipalArns": principals, "KeyArns": keys, "FirstSeq": first, "EndSeq": end });
    let answer = kms.call("KeytrailService.GetUsage", body, None).await?.body;
    page(&answer).ok_or_else(unreadable)
}

fn page(answer: &Value) -> Option<Page> {
    let number = |value: &Value, name: &str| value.get(name)?.as_u64();
    let mut uses = Vec::new();
    for one in answer.get("Uses")?.as_array()? {
        let text = |name: &str| one.get(name).and_then(Value::as_str).map(str::to_owned);
        uses.push(Used {
            principal: text("PrincipalArn"),
            key: text("KeyArn").unwrap_or_default(),
            operation: text("Operation")?,
            context: one.get("EncryptionContext").cloned().unwrap_or(Value::Null),
            count: number(one, "Count")?,
            last_seq: number(one, "LastSeq")?,
        });
    }
    let (next_seq, end_seq) = (number(answer, "NextSeq")?, number(answer, "EndSeq")?);
    Some(Page { uses, next_seq, end_seq, unreadable: number(answer, "Unreadable")? })
}

fn unreadable() -> ControlError {
    ControlError::Refused { code: "UnreadableAnswer".into(), message: "the answer is no usage".into() }
}
