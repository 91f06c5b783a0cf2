//! ExportEvidence: that someone made an evidence pack of the log, of which period, and which one.
//!
//! Changes nothing but the log itself, of which this event becomes a part that is never erased. The pack is made from files
//! by `keytrail evidence export`, which asks for this before it hands the pack out.

use super::answer::json_body;
use super::drive::{Effect, Mutation};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::locks::Stripe;
use crate::policy::Context;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Longest name of an exporter or of a control set, and longest time.
const TEXT_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ExportEvidence {
    exported_by: Option<String>,
    from: Option<String>,
    to: Option<String>,
    control_set: Option<String>,
    manifest_sha256: Option<String>,
}

impl Mutation for ExportEvidence {
    fn parameters(&self) -> Option<Value> {
        let cut = |text: &Option<String>| {
            text.as_deref().map(|text| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned())
        };
        let told = json!({
            "exportedBy": cut(&self.exported_by),
            "from": cut(&self.from),
            "to": cut(&self.to),
            "controlSet": cut(&self.control_set),
            "manifestSha256": cut(&self.manifest_sha256),
        });
        recorded(None, told)
    }

    fn stripes(&self, _judge: &Judge<'_>) -> BTreeSet<Stripe> {
        BTreeSet::new()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Effect, Refusal> {
        for (name, text) in [("exportedBy", &self.exported_by), ("from", &self.from), ("to", &self.to)] {
            let text = required(text, name)?;
            if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                return Err(Refusal::constraint(None, name, "Member must have length between 1 and 256"));
            }
        }
        if self.control_set.as_ref().is_some_and(|name| name.len() > TEXT_BYTES_MAX) {
            return Err(Refusal::constraint(None, "controlSet", "Member must have length at most 256"));
        }
        let digest = required(&self.manifest_sha256, "manifestSha256")?;
        if digest.len() != 64 || !digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let text = "The digest of the manifest is not a SHA-256 in lower-case hex.";
            return Err(Refusal::new(RefusalKind::Validation, text.to_owned()));
        }
        judge.allow_account("keytrail:ExportEvidence", &Context::default())?;
        Ok(Effect { body: json_body(&json!({})), ..Effect::default() })
    }
}
