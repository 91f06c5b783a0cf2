//! GetCheckpoint and GetFrames: what the trail needs to prove evidence and to fill gaps.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Role;
use crate::journal::{Frame, JournalError, reader::read_range};
use crate::policy::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Frames in one answer.
const FRAMES_MAX: usize = 1_000;
/// Bytes of payload in one answer, beyond which it ends after the frame at hand.
const PAYLOADS_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
pub(crate) struct GetCheckpoint {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetFrames {
    first_seq: Option<u64>,
    max: Option<usize>,
}

impl Query for GetCheckpoint {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        None
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        judge.allow_account("keytrail:GetCheckpoint", &Context::default())?;
        let node = std::sync::Arc::clone(judge.node);
        if !node.checkpoint_allowed() {
            return Err(Refusal::new(RefusalKind::Throttling, "Rate exceeded"));
        }
        let note = tokio::task::spawn_blocking(move || node.sign_head()).await.map_err(|_| Refusal::internal())?;
        let note = note.map_err(|error| {
            tracing::error!(%error, "checkpoint cannot be signed");
            Refusal::internal()
        })?;
        Ok(json_body(&json!({"Checkpoint": note})))
    }
}

impl Query for GetFrames {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"firstSeq": self.first_seq, "max": self.max}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let first_seq = *required(&self.first_seq, "firstSeq")?;
        let count = self.max.unwrap_or(100);
        if !(1..=FRAMES_MAX).contains(&count) {
            let constraint = "Member must have value between 1 and 1000";
            return Err(Refusal::constraint(Some(&count.to_string()), "max", constraint));
        }
        // The frames hold every account's calls: no policy of one account may open them.
        if !matches!(judge.caller()?.role, Role::Trail | Role::BreakGlass) {
            judge.record.decided_by = Some("BuiltIn".to_owned());
            return Err(judge.denied("*"));
        }
        judge.record.decided_by = Some("BuiltIn".to_owned());
        let dir = judge.node.journal_dir();
        let read = tokio::task::spawn_blocking(move || read_range(&dir, first_seq, count)).await;
        match read.map_err(|_| Refusal::internal())? {
            Ok(frames) => Ok(body(&frames)),
            Err(JournalError::NoSuchSeq { .. }) => Ok(body(&[])),
            Err(error) => {
                tracing::error!(first_seq, %error, "frames cannot be read");
                Err(Refusal::internal())
            }
        }
    }
}

fn body(frames: &[Frame]) -> Bytes {
    let mut bytes = 0;
    let fitting = frames.iter().take_while(|frame| {
        let fits = bytes < PAYLOADS_BYTES_MAX;
        bytes += frame.payload.len();
        fits
    });
    let listed: Vec<Value> = fitting
        .map(|frame| {
            json!({
                "Leaf": STANDARD.encode(frame.leaf),
                "Salt": STANDARD.encode(frame.salt),
                "Payload": STANDARD.encode(&frame.payload),
            })
        })
        .collect();
    json_body(&json!({"Frames": listed}))
}
