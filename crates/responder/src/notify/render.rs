//! What people read: one mail of at most 40 lines that fits a phone; and the webhook's JSON. Other forms build on both.
//!
//! Everything that came from an event is hostile text: control and direction characters are taken out and lengths cut
//! here, before anything else sees it. Queries are written out with their values, so that the next step is a paste.

use crate::incident::{IncidentAlert, IncidentDetail, IncidentId};
use crate::notify::facts::{Facts, Failing};
use crate::outbox::{Action, ActionKind, ActionState};
use crate::playbook::Severity;
use crate::store::Micros;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Most lines of a mail.
pub const MAIL_LINES_MAX: usize = 40;
const ALERTS_MAX: usize = 4;
const DONE_MAX: usize = 6;
const OPEN_MAX: usize = 4;
const FAILING_MAX: usize = 2;
const QUERIES: usize = 3;
/// Alerts and actions in a webhook's payload, which then stays well under 256 KiB.
const PAYLOAD_ITEMS_MAX: usize = 100;
/// Bytes of an exposure in a payload.
const EXPOSURE_BYTES_MAX: usize = 64 * 1024;
const SUBJECT_CHARS_MAX: usize = 140;

/// Takes out control characters and those that turn or hide text, and cuts to `chars_max`.
pub fn clean(text: &str, chars_max: usize) -> String {
    let visible = |c: &char| {
        // Direction marks, joiners, soft hyphen, variation selectors, tags: what hides or turns other text.
        let hides = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}');
        !c.is_control() && !hides
    };
    let mut cut: String = text.chars().filter(visible).take(chars_max).collect();
    if text.chars().filter(visible).nth(chars_max).is_some() {
        cut.push('…');
    }
    cut
}

/// Why somebody is told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// It began, or more happened.
    News,
    /// Something is open for a long time.
    Repeat,
    /// Nobody acknowledged it in time.
    Escalation,
    /// None of its own receivers could be reached.
    Rescue,
}

impl Occasion {
    /// The word in the store and in payloads.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::News => "news",
            Self::Repeat => "repeat",
            Self::Escalation => "escalation",
            Self::Rescue => "rescue",
        }
    }

    /// The word of the store; what it does not know is news.
    pub(crate) fn read(word: &str) -> Self {
        [Self::Repeat, Self::Escalation, Self::Rescue]
            .into_iter()
            .find(|one| one.as_str() == word)
            .unwrap_or(Self::News)
    }
}

/// An incident as one receiver is told of it.
pub(crate) struct Story<'a> {
    pub(crate) detail: &'a IncidentDetail,
    pub(crate) facts: &'a Facts,
    /// Counts this receiver's notices about the incident, from 1.
    pub(crate) number: u32,
    pub(crate) occasion: Occasion,
    /// Where a person acknowledges it by one touch.
    pub(crate) link: Option<&'a str>,
    /// Stable over repeats of this notice.
    pub(crate) message_id: &'a str,
    /// Stable over all notices about the incident.
    pub(crate) thread: &'a str,
    pub(crate) at_us: Micros,
}

/// Something that must not wait for an incident's quiet time, or the daily sign of life.
pub(crate) struct Page<'a> {
    pub(crate) incident: Option<&'a IncidentId>,
    pub(crate) kind: &'a str,
    pub(crate) text: &'a str,
    pub(crate) message_id: &'a str,
    pub(crate) at_us: Micros,
    pub(crate) heartbeat: bool,
}

/// What a receiver is told.
pub(crate) enum Message<'a> {
    Incident(Story<'a>),
    Page(Page<'a>),
}

impl Message<'_> {
    /// One line.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::Incident(story) => subject(story.detail, story.number),
            Self::Page(page) if page.heartbeat => "[keytrail] heartbeat".into(),
            Self::Page(page) => page_subject(page.kind),
        }
    }

    /// Text for people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Incident(story) => text(story),
            Self::Page(page) => page_text(page.incident, page.text),
        }
    }

    /// The webhook's JSON.
    pub(crate) fn payload(&self) -> Value {
        match self {
            Self::Incident(story) => payload(story),
            Self::Page(page) => page_payload(page),
        }
    }

    /// The worst word that it needs.
    pub(crate) fn severity(&self) -> Severity {
        match self {
            Self::Incident(story) => story.detail.summary.severity,
            Self::Page(page) if page.heartbeat => Severity::Info,
            Self::Page(_) => Severity::High,
        }
    }

    pub(crate) fn message_id(&self) -> &str {
        match self {
            Self::Incident(story) => story.message_id,
            Self::Page(page) => page.message_id,
        }
    }

    pub(crate) fn at_us(&self) -> Micros {
        match self {
            Self::Incident(story) => story.at_us,
            Self::Page(page) => page.at_us,
        }
    }

    pub(crate) fn link(&self) -> Option<&str> {
        match self {
            Self::Incident(story) => story.link,
            Self::Page(_) => None,
        }
    }
}

/// The mail's subject.
pub(crate) fn subject(detail: &IncidentDetail, number: u32) -> String {
    let summary = &detail.summary;
    let again = if number > 1 { "Re: " } else { "" };
    let who = summary.principal.as_deref().map_or("no one principal", short);
    let text = format!(
        "{again}[keytrail] {} {}: {} ({}) {}",
        summary.severity.as_str().to_uppercase(),
        summary.state.as_str(),
        done_words(&detail.actions),
        clean(who, 60),
        summary.id
    );
    clean(&text, SUBJECT_CHARS_MAX)
}

/// The mail's text.
pub(crate) fn text(story: &Story<'_>) -> String {
    let (detail, facts) = (story.detail, story.facts);
    let summary = &detail.summary;
    let mut lines = vec![
        format!("{} incident {}, {}", summary.severity.as_str().to_uppercase(), summary.id, summary.state.as_str()),
        occasion_line(story),
        "WHAT HAPPENED".into(),
    ];
    if let Some(principal) = &summary.principal {
        lines.push(format!("  who   {}", clean(principal, 200)));
    }
    lines.push(format!("  from  {}", clean(&addresses(detail), 120)));
    lines.push(format!("  keys  {}", keys(detail)));
    lines.push(format!("  when  {} to {}", time(summary.first_event_us), time(summary.last_event_us)));
    lines.push("WHY IT FIRED".into());
    // The worst first: a mail has room for a few.
    let mut worst: Vec<_> = detail.alerts.iter().collect();
    worst.sort_by_key(|alert| Reverse(alert.severity));
    push_some(&mut lines, worst.into_iter().map(|alert| alert_line(alert, facts)).collect(), ALERTS_MAX);
    lines.push("WHAT WAS DONE".into());
    let done = detail.actions.iter().filter(|action| action.state == ActionState::Done);
    push_some(&mut lines, done.map(done_line).collect(), DONE_MAX);
    lines.push("STILL OPEN".into());
    push_some(&mut lines, detail.open_actions().map(open_line).collect(), OPEN_MAX);
    lines.push("WHO IS FAILING SINCE (as far as alerts show)".into());
    push_some(&mut lines, facts.failing.iter().map(failing_line).collect(), FAILING_MAX);
    lines.push("LOOK CLOSER (keytrail sql --data DIR '...')".into());
    lines.extend(facts.queries.iter().map(|query| format!("  {query}")).chain(queries(detail)).take(QUERIES));
    if let Some(link) = story.link {
        lines.push(format!("ACKNOWLEDGE  {}", clean(link, 500)));
    }
    lines.push("UNDO (gives back what we took; says what stays)".into());
    lines.push(format!("  keytrail incident undo --data DIR {}", summary.id));
    lines.retain(|line| !line.is_empty());
    debug_assert!(lines.len() <= MAIL_LINES_MAX, "the bounds of the parts add up to more than a mail");
    lines.join("\n") + "\n"
}

fn occasion_line(story: &Story<'_>) -> String {
    let held = match story.facts.muted {
        0 => String::new(),
        1 => " One notice was held back by a silence or a worse incident.".into(),
        many => format!(" {many} notices were held back by silences or worse incidents."),
    };
    match (story.occasion, story.number) {
        (Occasion::Escalation, _) => format!("ESCALATED: nobody acknowledged it in time.{held}"),
        (Occasion::Rescue, _) => format!("LAST RESORT: none of its own receivers could be reached.{held}"),
        (Occasion::Repeat, number) => format!("Reminder (notice {number}): something is still open.{held}"),
        (Occasion::News, number) if number > 1 => format!("Update {number}: more is known or was done since.{held}"),
        (Occasion::News, _) => held.trim_start().to_owned(),
    }
}

fn alert_line(alert: &IncidentAlert, facts: &Facts) -> String {
    let why = facts.why.get(&alert.alert_id).map(|why| format!("; {why}")).unwrap_or_default();
    format!(
        "  {} v{} ({}): {}, {} events, log seq {}{why}",
        clean(&alert.rule_id, 80),
        alert.rule_version,
        alert.severity,
        clean(&alert.title, 80),
        alert.matched,
        clean(&alert.seqs, 40)
    )
}

fn failing_line(failing: &Failing) -> String {
    let calls = if failing.calls == 1 { "call" } else { "calls" };
    format!("  {}: {} {calls}, {}", clean(&failing.principal, 160), failing.calls, clean(&failing.error_code, 60))
}

/// The webhook's body: the incident as facts.
fn payload(story: &Story<'_>) -> Value {
    let (detail, facts) = (story.detail, story.facts);
    let summary = &detail.summary;
    let alerts: Vec<Value> = detail
        .alerts
        .iter()
        .take(PAYLOAD_ITEMS_MAX)
        .map(|alert| {
            json!({
                "ruleId": clean(&alert.rule_id, 80), "ruleVersion": alert.rule_version, "severity": alert.severity.as_str(),
                "title": clean(&alert.title, 200), "matched": alert.matched, "alertId": alert.alert_id,
                "why": facts.why.get(&alert.alert_id),
            })
        })
        .collect();
    let actions: Vec<Value> = detail.actions.iter().take(PAYLOAD_ITEMS_MAX).map(action_json).collect();
    let keys: Vec<String> = detail.keys.iter().take(PAYLOAD_ITEMS_MAX).map(|key| clean(key, 300)).collect();
    let failing = facts.failing.iter().map(|one| {
        json!({
            "principal": clean(&one.principal, 300), "errorCode": clean(&one.error_code, 60), "calls": one.calls,
        })
    });
    let failing: Vec<Value> = failing.collect();
    json!({
        "version": 1,
        "kind": "incident",
        "id": story.message_id,
        "number": story.number,
        "occasion": story.occasion.as_str(),
        "acknowledge": story.link,
        "incident": {
            "id": summary.id.as_str(), "state": summary.state.as_str(), "severity": summary.severity.as_str(),
            "title": clean(&summary.title, 200),
            "principal": summary.principal.as_deref().map(|arn| clean(arn, 300)),
            "keys": keys, "firstEvent": time(summary.first_event_us), "lastEvent": time(summary.last_event_us),
            "alerts": alerts, "actions": actions, "notContained": summary.not_contained,
            "exposure": exposure(detail),
            "acknowledged": facts.acked_us.map(time), "noticesHeldBack": facts.muted,
            "alerts": alerts, "actions": actions, "failing": failing, "queries": facts.queries,
        },
    })
}

/// What was used before it was contained; without encryption contexts where they would not fit.
fn exposure(detail: &IncidentDetail) -> Option<Value> {
    let mut exposure = detail.exposure.clone()?;
    if exposure.to_string().len() > EXPOSURE_BYTES_MAX {
        let uses = exposure.get_mut("uses").and_then(Value::as_array_mut);
        uses.into_iter().flatten().for_each(|one| one["context"] = Value::Null);
        exposure["contextsLeftOut"] = true.into();
    }
    Some(exposure)
}

/// An action as other systems read it.
pub(crate) fn action_json(action: &Action) -> Value {
    json!({
        "actionId": action.id, "action": action.kind.as_str(), "target": clean(&action.target, 300),
        "state": action.state.as_str(), "reason": action.reason.as_deref().map(|why| clean(why, 300)),
        "logSeq": action.log_seq, "undo": action.undo_of.is_some(),
    })
}

fn page_subject(kind: &str) -> String {
    format!("[keytrail] PAGE: {}", clean(kind, 60))
}

fn page_text(incident: Option<&IncidentId>, text: &str) -> String {
    let look = match incident {
        Some(id) => format!("keytrail incident show {id}"),
        None => "keytrail incident list".into(),
    };
    format!("{}\n\nLook closer: {look}\n", clean(text, 1_000))
}

fn page_payload(page: &Page<'_>) -> Value {
    json!({
        "version": 1, "kind": if page.heartbeat { "heartbeat" } else { "page" }, "id": page.message_id,
        "page": clean(page.kind, 60), "text": clean(page.text, 1_000),
        "incidentId": page.incident.map(IncidentId::as_str),
    })
}

fn push_some(lines: &mut Vec<String>, items: Vec<String>, most: usize) {
    if items.is_empty() {
        lines.push("  nothing".into());
    }
    let left = items.len().saturating_sub(most);
    lines.extend(items.into_iter().take(most));
    if left > 0 {
        lines.push(format!("  and {left} more: see incident show"));
    }
}

fn done_line(action: &Action) -> String {
    let at = action.finished_us.map_or_else(String::new, clock_time);
    let mut line = format!("  {at} {} {}", action.kind, clean(&action.target, 160));
    if let Some(ends) = action.ends_us() {
        line = format!("{line} until {}", clock_time(ends));
    }
    if let Some(reason) = &action.reason {
        line = format!("{line} ({})", clean(reason, 100));
    }
    if let Some(seq) = action.log_seq {
        line = format!("{line}, log seq {seq}");
    }
    line
}

fn open_line(action: &Action) -> String {
    let reason = action.reason.as_deref().unwrap_or("under way");
    format!("  {} {}: {}, {}", action.kind, clean(&action.target, 160), action.state, clean(reason, 140))
}

fn done_words(actions: &[Action]) -> String {
    let count = |kind: ActionKind| {
        let same = actions.iter().filter(|action| action.kind == kind && action.state == ActionState::Done);
        same.filter(|action| action.undo_of.is_none()).map(|action| &action.target).collect::<BTreeSet<_>>().len()
    };
    let words: Vec<String> = [
        (ActionKind::QuarantinePrincipal, "quarantined"),
        (ActionKind::DisableKey, "keys disabled"),
        (ActionKind::RestoreKeyPolicy, "policies restored"),
        (ActionKind::CancelKeyDeletion, "deletions cancelled"),
        (ActionKind::RevokeGrant, "keys with grants revoked"),
        (ActionKind::AliasRestore, "aliases restored"),
        (ActionKind::DeactivateAccessKey, "access keys withdrawn"),
        (ActionKind::RequireMfa, "second factors required"),
    ]
    .into_iter()
    .map(|(kind, word)| (count(kind), word))
    .filter(|(count, _)| *count > 0)
    .map(|(count, word)| format!("{count} {word}"))
    .collect();
    if words.is_empty() { "nothing was done".into() } else { words.join(", ") }
}

fn addresses(detail: &IncidentDetail) -> String {
    let all: BTreeSet<&str> = detail.alerts.iter().flat_map(|alert| alert.source_ips.split(' ')).collect();
    let all: Vec<&str> = all.into_iter().filter(|address| !address.is_empty()).collect();
    if all.is_empty() { "unknown".into() } else { all.join(", ") }
}

fn keys(detail: &IncidentDetail) -> String {
    match detail.keys.as_slice() {
        [] => "none".into(),
        [one] => clean(one, 160),
        many => {
            let short_names: Vec<&str> = many.iter().take(3).map(|key| short(key)).collect();
            let more = if many.len() > 3 { ", ..." } else { "" };
            clean(&format!("{}: {}{more}", many.len(), short_names.join(", ")), 200)
        }
    }
}

/// Three questions with their values filled in.
fn queries(detail: &IncidentDetail) -> [String; 3] {
    let from = time(detail.summary.first_event_us);
    let who = match (&detail.summary.principal, detail.keys.first()) {
        (Some(principal), _) => format!("principal_arn = {}", literal(principal)),
        (None, Some(key)) => format!("key_arn = {}", literal(key)),
        (None, None) => "error_code IS NOT NULL".into(),
    };
    let since = format!("{who} AND event_time >= '{from}'");
    [
        format!("  SELECT event_time, seq, event_name, error_code, key_arn FROM events WHERE {since} ORDER BY seq"),
        format!(
            "  SELECT key_arn, enc_context, count(*) FROM events WHERE {since} AND error_code IS NULL \
             AND event_name IN ('Decrypt', 'GenerateDataKey') GROUP BY 1, 2"
        ),
        format!(
            "  SELECT seq, event_name, key_arn, error_code FROM events WHERE actor_class = 'responder' \
             AND action_id IS NOT NULL AND event_time >= '{from}' ORDER BY seq"
        ),
    ]
}

/// A SQL string: one line, quotes doubled.
fn literal(text: &str) -> String {
    format!("'{}'", clean(text, 300).replace('\'', "''"))
}

pub(crate) fn short(arn: &str) -> &str {
    arn.rsplit(['/', ':']).next().unwrap_or(arn)
}

pub(crate) fn time(at_us: Micros) -> String {
    utc(at_us).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn clock_time(at_us: Micros) -> String {
    utc(at_us).format("%H:%M:%S%.3fZ").to_string()
}

fn utc(at_us: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at_us).unwrap_or(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hostile_detail, hostile_facts, story};

    #[test]
    fn hostile_text_is_cleaned_and_cut() {
        assert_eq!(clean("a\r\nb\0c\u{1b}[31m\u{202e}d", 99), "abc[31md");
        assert_eq!(clean("abcdef", 3), "abc…");
        assert_eq!(clean("abc", 3), "abc");
        assert_eq!(literal("x'; DROP TABLE events --\n"), "'x''; DROP TABLE events --'");
    }

    #[test]
    fn the_fullest_mail_has_at_most_forty_lines_and_ends_with_undo() {
        let detail = hostile_detail(30);
        let facts = hostile_facts(30);
        for occasion in [Occasion::News, Occasion::Repeat, Occasion::Escalation, Occasion::Rescue] {
            let story = story(&detail, &facts, 2, occasion);
            let text = text(&story);
            assert!(text.lines().count() <= MAIL_LINES_MAX, "{} lines\n{text}", text.lines().count());
            assert!(text.trim_end().ends_with(&format!("keytrail incident undo --data DIR {}", detail.summary.id)));
            assert_eq!(text.matches("  SELECT ").count(), 3);
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            assert!(!subject(&detail, 1).chars().any(char::is_control));
            assert_eq!(payload(&story)["incident"]["actions"].as_array().map(Vec::len), Some(60));
        }
    }
}
