//! RecordIncident: what the responder tells the log about an incident's timeline.
//!
//! Entries come in order and at least once, each with a number that stays the same and a digest over the one before it
//! (docs/responder.md): a repeat is recognised by its number, a change by its digest. Nothing else happens and no key is
//! involved; only the responder may call it.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Role;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Entries in one call: with the longest texts, all escaped, still one event.
const ENTRIES_MAX: usize = 32;
/// Of an incident's id.
const ID_BYTES_MAX: usize = 64;
/// Of an entry's kind.
const KIND_BYTES_MAX: usize = 32;
/// Of an entry's text: 501 characters.
const TEXT_BYTES_MAX: usize = 2_004;
/// SHA-256 in hex.
const DIGEST_BYTES: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RecordIncident {
    incident_id: Option<String>,
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    number: u64,
    at_micros: i64,
    kind: String,
    text: String,
    digest: String,
}

impl Query for RecordIncident {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let entries = self.entries.as_ref().map(|entries| {
            let shown = entries.iter().take(ENTRIES_MAX).map(|entry| {
                json!({
                    "number": entry.number, "atMicros": entry.at_micros, "kind": cut(&entry.kind, KIND_BYTES_MAX),
                    "text": cut(&entry.text, TEXT_BYTES_MAX), "digest": cut(&entry.digest, DIGEST_BYTES),
                })
            });
            shown.collect::<Vec<_>>()
        });
        let id = self.incident_id.as_deref().map(|id| cut(id, ID_BYTES_MAX));
        recorded(None, json!({"incidentId": id, "entries": entries}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.record.decided_by = Some("BuiltIn".to_owned());
        if !matches!(judge.caller()?.role, Role::Responder) {
            return Err(judge.denied("*"));
        }
        let id = required(&self.incident_id, "incidentId")?;
        let entries = required(&self.entries, "entries")?;
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Refusal::constraint(None, "incidentId", "Member must have length between 1 and 64"));
        }
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(Refusal::constraint(None, "entries", "Member must have length between 1 and 32"));
        }
        // What is recorded must be what was sent: a cut text would not fit to its digest.
        if !entries.iter().all(Entry::is_sound) {
            return Err(Refusal::new(RefusalKind::Validation, "An entry has a member that is too long or no digest."));
        }
        if !entries
            .windows(2)
            .all(|pair| matches!(pair, [first, next] if first.number.checked_add(1) == Some(next.number)))
        {
            return Err(Refusal::new(RefusalKind::Validation, "The numbers of the entries do not follow each other."));
        }
        Ok(json_body(&json!({})))
    }
}

impl Entry {
    fn is_sound(&self) -> bool {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        self.kind.len() <= KIND_BYTES_MAX
            && self.text.len() <= TEXT_BYTES_MAX
            && self.digest.len() == DIGEST_BYTES
            && self.digest.bytes().all(hex)
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
