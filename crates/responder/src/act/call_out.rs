//! Call-outs: a response of the site's own choosing, as a signed POST to an address from the configuration.
//!
//! Playbooks name one of `[responder.call_outs]`; no alert and no playbook can name an address. The action id is the
//! idempotency key: a call-out is made at least once, and it is the receiver who drops repeats. Its answer is a stranger's
//! text: it is cleaned, cut and written down, and leads to nothing.

use crate::config::WebhookSettings;
use crate::notify::egress::Egress;
use crate::notify::receivers::ReceiverError;
use crate::notify::render::clean;
use crate::notify::{DeliveryError, Webhook};
use crate::outbox::Action;
use keytrail_kms::clock::Clock;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Characters of a reply on one line of the timeline, which holds 500.
const LINE_CHARS_MAX: usize = 400;

/// The configured call-outs by name.
#[derive(Default)]
pub struct CallOuts(BTreeMap<String, Webhook>);

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The receiver took it.
    Taken,
    /// Another attempt may succeed.
    Later,
    /// The receiver will never take it.
    Never,
}

/// How a call-out went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the answer means.
    pub meaning: Meaning,
    /// The status, or what went wrong.
    pub summary: String,
    /// The reply, one line of the timeline each.
    pub lines: Vec<String>,
}

impl CallOuts {
    /// Checks addresses and reads secrets; the error names the call-out.
    pub fn new(
        settings: &BTreeMap<String, WebhookSettings>,
        egress: &Egress,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, (String, ReceiverError)> {
        let all = settings.iter().map(|(name, one)| {
            let post = Webhook::new(name, one, egress, Arc::clone(clock)).map_err(|error| (name.clone(), error))?;
            Ok((name.clone(), post))
        });
        Ok(Self(all.collect::<Result<_, _>>()?))
    }

    /// One attempt.
    pub async fn call(&self, action: &Action) -> Outcome {
        let Some(post) = self.0.get(&action.target) else {
            let summary = format!("no call-out {} is configured any more", clean(&action.target, 60));
            return Outcome { meaning: Meaning::Never, summary, lines: Vec::new() };
        };
        let body = json!({
            "version": 1, "kind": "call_out", "id": action.id, "incident": action.incident.as_str(),
            "playbook": action.playbook, "playbookVersion": action.playbook_version, "step": action.step,
            "about": action.args,
        });
        let mut answer = match post.post(&action.id, &body.to_string()).await {
            Ok(answer) => answer,
            Err(error) => return Outcome { meaning: meaning(&error), summary: error.to_string(), lines: Vec::new() },
        };
        let meaning = if answer.status.is_success() { Meaning::Taken } else { meaning(&answer.judge()) };
        Outcome { meaning, summary: format!("answered {}", answer.status), lines: lines(&answer.body().await) }
    }
}

fn meaning(error: &DeliveryError) -> Meaning {
    match error {
        DeliveryError::Never(_) => Meaning::Never,
        DeliveryError::Later(_) | DeliveryError::After(..) => Meaning::Later,
    }
}

/// A stranger's text as lines of a timeline.
fn lines(reply: &str) -> Vec<String> {
    let cleaned: Vec<char> = clean(reply, reply.len()).chars().collect();
    cleaned.chunks(LINE_CHARS_MAX).map(|line| line.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_reply_is_cleaned_and_cut_into_lines() {
        let hostile = format!("ok\r\nBcc: x\u{202e}\0{}", "y".repeat(900));
        let lines = lines(&hostile);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("okBcc: xyyy"));
        assert!(lines.iter().all(|line| line.chars().count() <= LINE_CHARS_MAX));
    }
}
