//! Call-outs: a response of the site's own choosing, as a signed POST to an address from the configuration.
//!
//! Playbooks name one of `[responder.call_outs]`; no alert and no playbook can name an address. The action id is the
//! idempotency key: a call-out is made at least once, and it is the receiver who drops repeats. Its answer is a stranger's
//! text: it is cleaned, cut and written down, and leads to nothing.

use crate::config::WebhookSettings;
use crate::egress::{Meaning, Reply, SendError, SignedPost, WebhookError};
use crate::notify::render::clean;
use crate::outbox::Action;
use keytrail_kms::clock::Clock;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Characters of a reply on one line of the timeline, which holds 500.
const LINE_CHARS_MAX: usize = 400;

/// The configured call-outs by name.
#[derive(Default)]
pub struct CallOuts(BTreeMap<String, SignedPost>);

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
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, (String, WebhookError)> {
        let all = settings.iter().map(|(name, one)| {
            let post = SignedPost::new(one, Arc::clone(clock)).map_err(|error| (name.clone(), error))?;
            Ok((name.clone(), post))
        });
        Ok(Self(all.collect::<Result<_, _>>()?))
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
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
        match post.send(&action.id, &body.to_string()).await {
            Ok(reply) => answered(&reply),
            Err(error) => {
                let meaning = if matches!(error, SendError::Unsent(_)) { Meaning::Later } else { Meaning::Never };
                Outcome { meaning, summary: error.to_string(), lines: Vec::new() }
            }
        }
    }
}

fn answered(reply: &Reply) -> Outcome {
    let text = String::from_utf8_lossy(&reply.body);
    let cleaned: Vec<char> = clean(&text, reply.body.len()).chars().collect();
    let lines = cleaned.chunks(LINE_CHARS_MAX).map(|line| line.iter().collect()).collect();
    Outcome { meaning: reply.meaning(), summary: format!("answered {}", reply.status), lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::StatusCode;

    #[test]
    fn a_hostile_reply_is_cleaned_and_cut_into_lines() {
        let hostile = format!("ok\r\nBcc: x\u{202e}\0{}", "y".repeat(900));
        let outcome = answered(&Reply { status: StatusCode::OK, body: hostile.into_bytes() });
        assert_eq!((outcome.meaning, outcome.lines.len()), (Meaning::Taken, 3));
        assert!(outcome.lines[0].starts_with("okBcc: xyyy"));
        assert!(outcome.lines.iter().all(|line| line.chars().count() <= LINE_CHARS_MAX));
    }

    #[test]
    fn the_status_decides_what_comes_next() {
        for (status, meaning) in [
            (StatusCode::NO_CONTENT, Meaning::Taken),
            (StatusCode::TOO_MANY_REQUESTS, Meaning::Later),
            (StatusCode::BAD_GATEWAY, Meaning::Later),
            (StatusCode::FOUND, Meaning::Never),
            (StatusCode::BAD_REQUEST, Meaning::Never),
        ] {
            assert_eq!(answered(&Reply { status, body: vec![] }).meaning, meaning, "{status}");
        }
    }
}
