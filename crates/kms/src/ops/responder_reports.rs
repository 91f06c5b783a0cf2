//! ReportResponder and CountKeys: what the responder tells the log about itself, and the number its breaker needs.
//!
//! A pause, a tripped breaker, a promotion or another set of playbooks decides what an attack meets, so each is an event
//! that nobody with `responder.db` can take back; a heartbeat between them shows that the responder was at work. Only the
//! responder may call them, and neither changes anything.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::Refusal;
use crate::access::Role;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Of `detail`: the hashes of 200 playbooks, the most that a responder loads.
const DETAIL_BYTES_MAX: usize = 32 * 1024;
/// Of any other text.
const TEXT_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReportResponder {
    entry_id: Option<u64>,
    kind: Option<String>,
    subject: Option<String>,
    by: Option<String>,
    reason: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CountKeys {}

impl Query for ReportResponder {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let cut = |text: &Option<String>, bytes_max: usize| {
            text.as_deref().map(|text| text[..text.floor_char_boundary(bytes_max)].to_owned())
        };
        recorded(
            None,
            json!({
                "entryId": self.entry_id, "kind": cut(&self.kind, TEXT_BYTES_MAX),
                "subject": cut(&self.subject, TEXT_BYTES_MAX), "by": cut(&self.by, TEXT_BYTES_MAX),
                "reason": cut(&self.reason, TEXT_BYTES_MAX), "detail": cut(&self.detail, DETAIL_BYTES_MAX),
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        only_the_responder(judge)?;
        required(&self.kind, "kind")?;
        Ok(json_body(&json!({})))
    }
}

impl Query for CountKeys {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        only_the_responder(judge)?;
        Ok(json_body(&json!({"Enabled": judge.node.registry.enabled_count()})))
    }
}

fn only_the_responder(judge: &mut Judge<'_>) -> Result<(), Refusal> {
    judge.record.decided_by = Some("BuiltIn".to_owned());
    if matches!(judge.caller()?.role, Role::Responder) { Ok(()) } else { Err(judge.denied("*")) }
}
