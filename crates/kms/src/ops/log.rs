//! ReportLanded and EraseRecords: what the trail and an administrator tell the log about its own records.
//!
//! Neither touches a record. ReportLanded is the trail's signed word that lets the journal be pruned. EraseRecords writes
//! an erasure record; the trail, when that lands, takes payload and salt out of the lake, and the journal's copy goes
//! when its segment is pruned (docs/decisions/0028-erasure-and-pruning.md).

use super::answer::json_body;
use super::drive::{Class, Effect, Mutation, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::access::Role;
use crate::chain::Kind;
use crate::event::is_erasable;
use crate::journal::{JournalError, reader::read_range};
use crate::locks::Stripe;
use crate::policy::Context;
use crate::recover;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Ranges in one request.
const RANGES_MAX: usize = 100;
/// Records in one request: as many are read to see what they are.
const RECORDS_MAX: u64 = 10_000;
const REASON_BYTES_MAX: usize = 1_024;
/// Frames looked at in one step.
const LOOK_FRAMES: usize = 512;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReportLanded {
    next_seq: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EraseRecords {
    ranges: Option<Vec<Range>>,
    reason: Option<String>,
}

/// Seqs, both inclusive.
#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all(deserialize = "PascalCase", serialize = "camelCase"))]
struct Range {
    first: u64,
    last: u64,
}

impl Query for ReportLanded {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"nextSeq": self.next_seq}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let next_seq = *required(&self.next_seq, "nextSeq")?;
        judge.record.decided_by = Some("BuiltIn".to_owned());
        if !matches!(judge.caller()?.role, Role::Trail) {
            return Err(judge.denied("*"));
        }
        let durable = judge.node.journal.durable().borrow().next_seq;
        if next_seq > durable {
            let constraint = format!("Member must have value less than or equal to {durable}");
            return Err(Refusal::constraint(Some(&next_seq.to_string()), "nextSeq", &constraint));
        }
        judge.node.note_landed(next_seq);
        Ok(json_body(&json!({})))
    }
}

impl Mutation for EraseRecords {
    fn parameters(&self) -> Option<Value> {
        let reason = self.reason.as_deref().map(|text| &text[..text.floor_char_boundary(REASON_BYTES_MAX)]);
        let ranges = self.ranges.as_ref().map(|ranges| ranges.iter().take(RANGES_MAX).collect::<Vec<_>>());
        recorded(None, json!({"ranges": ranges, "reason": reason}))
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        let ranges = checked_ranges(required(&self.ranges, "ranges")?)?;
        let reason = required(&self.reason, "reason")?;
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            let constraint = "Member must have length between 1 and 1024";
            return Err(Refusal::constraint(None, "reason", constraint));
        }
        judge.allow_account("keytrail:EraseRecords", &Context::default())?;
        let durable = judge.node.journal.durable().borrow().next_seq;
        if let Some(range) = ranges.iter().find(|range| range.last >= durable) {
            return Err(validation(format!("Record {} does not exist.", range.last)));
        }
        let (dir, looked_at) = (judge.node.journal_dir(), ranges.clone());
        let looked = tokio::task::spawn_blocking(move || first_kept(&dir, &looked_at)).await;
        match looked.map_err(|_| Refusal::internal())? {
            Ok(None) => {}
            Ok(Some(seq)) => {
                let what = "changes, and records that are no events, are kept";
                return Err(validation(format!("Record {seq} cannot be erased: {what}.")));
            }
            Err(error) => {
                tracing::error!(%error, "records to be erased cannot be read");
                return Err(Refusal::internal());
            }
        }
        let payload = json!({
            "recordVersion": 1,
            "ranges": ranges,
            "reason": reason,
            "principalArn": judge.caller()?.arn,
            "eventID": judge.event_id.to_string(),
        });
        // Before the event: an event without its effect would be worse than an effect that names who asked for it.
        let seq = recover::record(judge.node, Kind::Erasure, &payload).await.map_err(|error| {
            tracing::error!(%error, "erasure cannot be recorded");
            Refusal::internal()
        })?;
        let records: u64 = ranges.iter().map(|range| range.last - range.first + 1).sum();
        judge.record.response_elements = Some(json!({"erasureSeq": seq, "records": records}));
        let answer = json!({"ErasureSeq": seq, "Records": records});
        Ok(Effect { body: json_body(&answer), ..Effect::default() })
    }
}

fn validation(text: String) -> Refusal {
    Refusal::new(RefusalKind::Validation, text)
}

fn checked_ranges(ranges: &[Range]) -> Result<Vec<Range>, Refusal> {
    if ranges.is_empty() || ranges.len() > RANGES_MAX {
        return Err(Refusal::constraint(None, "ranges", "Member must have length between 1 and 100"));
    }
    let mut records: u64 = 0;
    for range in ranges {
        if range.last < range.first {
            return Err(validation(format!("The range {} to {} ends before it begins.", range.first, range.last)));
        }
        records = records.saturating_add((range.last - range.first).saturating_add(1));
    }
    if records > RECORDS_MAX {
        return Err(validation(format!("{records} records are more than the {RECORDS_MAX} of one request.")));
    }
    Ok(ranges.to_vec())
}

/// The first record that must not be erased. What the journal does not hold any more is judged by the trail alone, by
/// the same rule.
fn first_kept(journal: &Path, ranges: &[Range]) -> Result<Option<u64>, JournalError> {
    for range in ranges {
        let mut seq = range.first;
        while seq <= range.last {
            let left = usize::try_from(range.last - seq + 1).unwrap_or(LOOK_FRAMES).min(LOOK_FRAMES);
            let frames = match read_range(journal, seq, left) {
                Err(JournalError::NoSuchSeq { first, .. }) if first > seq => {
                    seq = first;
                    continue;
                }
                read => read?,
            };
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                let event = frame.verify().is_ok_and(|leaf| leaf.kind == Kind::Event);
                if !event || !is_erasable(&frame.payload) {
                    return Ok(Some(seq));
                }
                seq += 1;
            }
        }
    }
    Ok(None)
}
