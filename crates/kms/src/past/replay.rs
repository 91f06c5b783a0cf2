//! Replay: which recorded calls another policy would have refused, and which refused ones it would have let in.
//!
//! Each call is judged by itself, with keys, grants, people and sessions as they were at its seq and the tried policy in
//! place of one. A call that is judged differently would have changed what came after it; that is not followed. The
//! baseline is the recorded decision: where the fold does not lead to it, nothing is claimed. Equal calls are judged once.

use super::judge::Verdict;
use super::parameters::{Additional, text};
use super::question::Untold;
use super::replace::Replacement;
use super::state::Past;
use crate::people::role_of_session;
use crate::row::Row;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write as _;

/// Calls remembered with their judgement; then all are forgotten, so that memory stays bounded whatever the log holds.
const MEMO_MAX: usize = 262_144;
/// Groups told one by one; calls of further ones are only counted.
const GROUPS_MAX: usize = 10_000;
/// Operations that depend on more than the caller, the key and the parameters: judged each time.
const NOT_REMEMBERED: [&str; 12] = [
    "CreateAlias",
    "DeleteAlias",
    "DeleteImportedKeyMaterial",
    "PutKeyPolicy",
    "ReEncrypt",
    "ReplicateKey",
    "RestoreKeyPolicy",
    "RetireGrant",
    "RetireKey",
    "ScheduleKeyDeletion",
    "UpdateAlias",
    "UpdatePrimaryRegion",
];
/// Operations of which the parameters say more than circumstances: what they are about.
const BY_PARAMETERS: [&str; 4] = ["AssumeRole", "CreateGrant", "CreateKey", "ListRetirableGrants"];
/// Parameters that are not there, which is not the same as not asked about.
const OMITTED: &str = r#"{"omitted":true}"#;
/// Operations about a second key, which the row does not name.
const TWO_KEYS: [&str; 4] = ["CreateAlias", "ReEncrypt", "UpdateAlias", "UpdatePrimaryRegion"];

/// A policy asks for aws:SecureTransport, and the rows do not say it: begin again with rows that do.
#[derive(Debug, thiserror::Error)]
#[error("a policy asks for aws:SecureTransport and the rows were read without it")]
pub struct NeedsTls;

/// A run over the log.
pub struct Replay {
    past: Past,
    from_us: u64,
    to_us: u64,
    memo: HashMap<Box<str>, Memo>,
    key: String,
    groups: HashMap<GroupKey, usize>,
    replayed: Replayed,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replayed {
    /// Calls that policies decided, in the time asked about.
    pub calls: u64,
    /// Of these, allowed ones that would have been denied.
    pub denied: u64,
    /// Denied ones that would have been allowed.
    pub allowed: u64,
    /// Those of which nothing can be said.
    pub untold: u64,
    /// Calls that are in none of the groups, because there were too many.
    pub ungrouped: u64,
    /// Calls that the policies in force decide as they did, but by another statement than recorded.
    #[serde(skip)]
    pub by_another: u64,
    /// Events that could not be folded.
    pub unreadable: u64,
    /// What differs, in the order of the first call of each.
    pub groups: Vec<Group>,
}

/// How a call would have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It was allowed and would have been denied.
    Denied,
    /// It was denied and would have been allowed.
    Allowed,
    /// It cannot be told.
    Untold,
}

/// Calls that differ alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// How.
    pub change: Change,
    /// ARN of the user, or of the role of a session.
    pub principal: String,
    /// The operation.
    pub operation: String,
    /// The key, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_arn: Option<String>,
    /// What decided.
    pub was: String,
    /// What would have decided; for untold ones why they are.
    pub would: String,
    /// How many.
    pub calls: u64,
    /// When the first was, Unix microseconds.
    pub first_us: u64,
    /// When the last was.
    pub last_us: u64,
    /// One of them: `keytrail explain` tells more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

#[derive(PartialEq, Eq, Hash)]
struct GroupKey {
    change: Change,
    principal: String,
    operation: String,
    key_arn: Option<String>,
    was: String,
    would: String,
}

/// The outcome of a call, while neither people nor its key change.
#[derive(Clone, Copy)]
struct Memo {
    people: u64,
    key: u64,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    /// No policy was asked.
    NotAsked,
    /// As it was.
    Same,
    /// As a group has it; none past the bound.
    Differs(Change, Option<usize>),
}

impl Replay {
    /// Over the calls with `from_us <= time < to_us`; what came before is folded.
    pub fn new(replacement: Replacement, from_us: u64, to_us: u64) -> Self {
        Self {
            past: Past::new(replacement),
            from_us,
            to_us,
            memo: HashMap::new(),
            key: String::new(),
            groups: HashMap::new(),
            replayed: Replayed::default(),
        }
    }

    /// Takes the next event of a log.
    pub fn take(&mut self, row: &Row<'_>) -> Result<(), NeedsTls> {
        if (self.from_us..self.to_us).contains(&row.time_us) && self.is_concerned(row) {
            if self.past.asked.tls && row.tls.is_none() {
                return Err(NeedsTls);
            }
            self.judge(row);
        }
        self.past.take(row);
        Ok(())
    }

    /// Goes on with the log of another node, which begins at its own start.
    pub fn next_log(&mut self) {
        self.replayed.unreadable += self.past.unreadable();
        self.past = Past::new(self.past.replacement().clone());
        self.memo.clear();
    }

    /// What came out.
    pub fn finish(mut self) -> Replayed {
        self.replayed.unreadable += self.past.unreadable();
        self.replayed
    }

    /// Whether the tried policy may have to do with the call.
    fn is_concerned(&self, row: &Row<'_>) -> bool {
        if row.decided_by.is_none() {
            return false;
        }
        let replacement = self.past.replacement();
        match replacement.only_key() {
            Some(key) => row.key_arn == Some(key) || TWO_KEYS.contains(&row.event_name),
            None => row.principal_arn.is_some_and(|arn| replacement.concerns(arn)),
        }
    }

    fn judge(&mut self, row: &Row<'_>) {
        let remembered = !self.past.asked.time && !NOT_REMEMBERED.contains(&row.event_name);
        if !remembered {
            let outcome = self.outcome(row);
            return self.count(row, outcome);
        }
        self.write_key(row);
        let (people, key) = (self.past.people_generation, self.past.key_generation(row.key_arn));
        let found = self.memo.get(self.key.as_str()).filter(|memo| memo.people == people && memo.key == key);
        let outcome = match found {
            Some(memo) => memo.outcome,
            None => {
                let outcome = self.outcome(row);
                if self.memo.len() >= MEMO_MAX {
                    self.memo.clear();
                }
                self.memo.insert(self.key.as_str().into(), Memo { people, key, outcome });
                outcome
            }
        };
        self.count(row, outcome);
    }

    /// All that a judgement depends on besides people and the key.
    fn write_key(&mut self, row: &Row<'_>) {
        let (asked, key) = (self.past.asked, &mut self.key);
        let by_parameters = asked.parameters || BY_PARAMETERS.contains(&row.event_name);
        key.clear();
        let optional = |key: &mut String, part: Option<&str>| {
            key.push('\u{1f}');
            key.push_str(part.unwrap_or("\u{1e}"));
        };
        key.push_str(row.event_name);
        for part in [
            row.principal_arn,
            row.access_key_id,
            row.invoked_by,
            row.key_arn,
            row.decided_by,
            row.error_code.filter(|_| row.is_denied()),
            Some(row.region),
            row.source_ip.filter(|_| asked.source_ip),
            row.user_agent.filter(|_| asked.user_agent),
            row.request_parameters.filter(|text| by_parameters || *text == OMITTED),
        ] {
            optional(key, part);
        }
        let _ = write!(key, "\u{1f}{}", row.tls.filter(|_| asked.tls).unwrap_or_default());
        if row.invoked_by.is_some() {
            let additional = Additional::parse(row.additional).unwrap_or_default();
            optional(key, text(&additional.via_service));
            optional(key, text(&additional.source_arn));
        }
    }

    fn outcome(&mut self, row: &Row<'_>) -> Outcome {
        let verdict = match self.past.judge(row) {
            Ok(None) => return Outcome::NotAsked,
            Ok(Some(verdict)) => verdict,
            Err(untold) => return self.group(row, Change::Untold, untold.reason()),
        };
        let Verdict { then, now } = verdict;
        if then.allowed == row.is_denied() {
            return self.group(row, Change::Untold, Untold::Otherwise.reason());
        }
        // Only the self-check looks at it, and that remembers nothing wrong: the statement is part of the key.
        self.replayed.by_another += u64::from(row.decided_by != Some(&then.decided_by));
        match (then.allowed, now.allowed) {
            (true, false) => self.group(row, Change::Denied, &now.decided_by),
            (false, true) => self.group(row, Change::Allowed, &now.decided_by),
            (true, true) | (false, false) => Outcome::Same,
        }
    }

    /// The group of a call, made when it is the first of its kind.
    fn group(&mut self, row: &Row<'_>, change: Change, would: &str) -> Outcome {
        let arn = row.principal_arn.unwrap_or("-");
        let group = GroupKey {
            change,
            principal: role_of_session(arn).unwrap_or_else(|| arn.to_owned()),
            operation: row.event_name.to_owned(),
            key_arn: row.key_arn.map(str::to_owned),
            was: row.decided_by.unwrap_or_default().to_owned(),
            would: would.to_owned(),
        };
        if let Some(at) = self.groups.get(&group) {
            return Outcome::Differs(change, Some(*at));
        }
        let at = self.replayed.groups.len();
        if at >= GROUPS_MAX {
            return Outcome::Differs(change, None);
        }
        let GroupKey { principal, operation, key_arn, was, would, .. } = &group;
        self.replayed.groups.push(Group {
            change,
            principal: principal.clone(),
            operation: operation.clone(),
            key_arn: key_arn.clone(),
            was: was.clone(),
            would: would.clone(),
            calls: 0,
            first_us: row.time_us,
            last_us: row.time_us,
            request_id: row.request_id.map(str::to_owned),
        });
        self.groups.insert(group, at);
        Outcome::Differs(change, Some(at))
    }

    fn count(&mut self, row: &Row<'_>, outcome: Outcome) {
        let replayed = &mut self.replayed;
        let (change, group) = match outcome {
            Outcome::NotAsked => return,
            Outcome::Same => {
                replayed.calls += 1;
                return;
            }
            Outcome::Differs(change, group) => (change, group),
        };
        replayed.calls += 1;
        match change {
            Change::Denied => replayed.denied += 1,
            Change::Allowed => replayed.allowed += 1,
            Change::Untold => replayed.untold += 1,
        }
        match group.and_then(|at| replayed.groups.get_mut(at)) {
            Some(group) => {
                group.calls += 1;
                group.last_us = row.time_us;
            }
            None => replayed.ungrouped += 1,
        }
    }
}
