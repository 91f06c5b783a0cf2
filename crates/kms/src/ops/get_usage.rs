//! GetUsage: which uses of keys and changes were allowed between two places of the log, for the responder.
//!
//! An incident is contained when nobody it is about has used anything since: only the log can say so, and the responder
//! has none. It answers for all accounts, so no policy of one may open it; the answer counts, with names, keys and
//! encryption contexts, and holds nothing that an event does not.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Role;
use crate::journal::JournalError;
use crate::uses::{Question, Use, look};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Principals, and keys, in one question.
const NAMES_MAX: usize = 100;
/// Of a name.
const NAME_BYTES_MAX: usize = 2_048;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetUsage {
    principal_arns: Option<Vec<String>>,
    key_arns: Option<Vec<String>>,
    first_seq: Option<u64>,
    end_seq: Option<u64>,
}

impl Query for GetUsage {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let names = |names: &Option<Vec<String>>| {
            let cut = |name: &String| name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned();
            names.as_ref().map(|names| names.iter().take(NAMES_MAX).map(cut).collect::<Vec<_>>())
        };
        recorded(
            None,
            json!({
                "principalArns": names(&self.principal_arns), "keyArns": names(&self.key_arns),
                "firstSeq": self.first_seq, "endSeq": self.end_seq,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.record.decided_by = Some("BuiltIn".to_owned());
        if !matches!(judge.caller()?.role, Role::Responder) {
            return Err(judge.denied("*"));
        }
        let first_seq = *required(&self.first_seq, "firstSeq")?;
        let principals = checked(self.principal_arns.as_deref(), "principalArns")?;
        let keys = checked(self.key_arns.as_deref(), "keyArns")?;
        let question = Question::new(principals, keys, first_seq, self.end_seq);
        let dir = judge.node.journal_dir();
        let looked = tokio::task::spawn_blocking(move || look(&dir, &question)).await;
        match looked.map_err(|_| Refusal::internal())? {
            Ok(found) => Ok(json_body(&json!({
                "Uses": found.uses.iter().map(one).collect::<Vec<_>>(),
                "NextSeq": found.next_seq, "EndSeq": found.end_seq, "Unreadable": found.unreadable,
            }))),
            Err(JournalError::NoSuchSeq { .. }) => {
                let text = format!("The journal does not hold record {first_seq} any more.");
                Err(Refusal::new(RefusalKind::NotFound, text))
            }
            Err(error) => {
                tracing::error!(first_seq, %error, "usage cannot be read");
                Err(Refusal::internal())
            }
        }
    }
}

fn checked<'a>(names: Option<&'a [String]>, member: &str) -> Result<&'a [String], Refusal> {
    let names = names.unwrap_or_default();
    if names.len() > NAMES_MAX || names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Refusal::constraint(None, member, "Member must have at most 100 names of at most 2048 bytes"));
    }
    Ok(names)
}

fn one(found: &Use) -> Value {
    json!({
        "PrincipalArn": found.principal, "KeyArn": found.key, "Operation": found.operation,
        "EncryptionContext": found.context, "Count": found.count, "FirstSeq": found.first_seq, "LastSeq": found.last_seq,
    })
}
