//! What people read: one mail of at most 40 lines that fits a phone; and the webhook's JSON. Other forms build on both.
//!
//! Everything that came from an event is hostile text: control and direction characters are taken out and lengths cut
//! here, before anything else sees it. Queries are written out with their values, so that the next step is a paste.

use crate::incident::{IncidentAlert, IncidentDetail, IncidentId, IncidentState};
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

/// The longest beginning that has at most so many bytes within JSON, said if it is not all.
pub(crate) fn cut_json(text: &str, bytes_max: usize) -> String {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
        used > bytes_max
    });
    end.map_or_else(|| text.to_owned(), |(at, _)| format!("{}…", &text[..at]))
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

/// A piece of a notice: what stands over it, and its lines.
pub(crate) struct Part {
    /// In capitals; empty over the first part.
    pub(crate) heading: &'static str,
    /// What is meant to be copied is left as it is and may be shown as code: SQL and commands.
    pub(crate) code: bool,
    pub(crate) lines: Vec<String>,
}

impl Part {
    fn prose(heading: &'static str, lines: Vec<String>) -> Self {
        Self { heading, code: false, lines }
    }

    fn code(heading: &'static str, lines: Vec<String>) -> Self {
        Self { heading, code: true, lines }
    }

    /// The first `most` of these, and how many there are beyond; `none` if there are none.
    fn some(heading: &'static str, mut lines: Vec<String>, most: usize, none: &str) -> Self {
        let left = lines.len().saturating_sub(most);
        lines.truncate(most);
        if left > 0 {
            lines.push(format!("and {left} more: see incident show"));
        }
        if lines.is_empty() {
            lines.push(none.into());
        }
        Self::prose(heading, lines)
    }
}

/// What a receiver is told.
pub(crate) enum Message<'a> {
    Incident(Story<'a>),
    Page(Page<'a>),
}

impl Message<'_> {
    /// The mail's subject: what happened and who did it. It stays the same for all notices about an incident unless that
    /// gets worse, as some mail programs keep mails of one subject together only.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::Incident(story) => subject(story),
            Self::Page(page) if page.heartbeat => format!("[keytrail] {}", clean(page.kind, 60)),
            Self::Page(page) => format!("[keytrail] PAGE {}: {}", clean(page.kind, 60), clean(page.text, 90)),
        }
    }

    /// What stands over the parts, in one line.
    pub(crate) fn headline(&self) -> String {
        match self {
            Self::Incident(story) => headline(story),
            Self::Page(page) if page.heartbeat => clean(page.kind, 60),
            Self::Page(page) => format!("PAGE {}", clean(page.kind, 60)),
        }
    }

    /// All below the headline but for the link.
    pub(crate) fn parts(&self) -> Vec<Part> {
        match self {
            Self::Incident(story) => parts(story),
            Self::Page(page) => page_parts(page),
        }
    }

    /// The mail's text. Empty lines between the parts as long as all stays within the bound.
    pub(crate) fn text(&self) -> String {
        let (mut blocks, indent): (Vec<Vec<String>>, _) = (Vec::new(), |line: &String| format!("  {line}"));
        for mut part in self.parts() {
            if part.heading.is_empty() {
                // Second: the subject says nearly the same, and phones show it beside the first line. A page says it itself.
                if matches!(self, Self::Incident(_)) {
                    part.lines.insert(1.min(part.lines.len()), self.headline());
                }
                part.lines.extend(self.link().map(|link| format!("Acknowledge: {}", clean(link, 500))));
                blocks.push(part.lines);
            } else {
                blocks.push([part.heading.to_owned()].into_iter().chain(part.lines.iter().map(indent)).collect());
            }
        }
        let count = blocks.iter().map(Vec::len).sum::<usize>();
        debug_assert!(count <= MAIL_LINES_MAX, "the bounds of the parts add up to more than a mail");
        let between = if count + blocks.len() - 1 <= MAIL_LINES_MAX { "\n\n" } else { "\n" };
        blocks.iter().map(|lines| lines.join("\n")).collect::<Vec<_>>().join(between) + "\n"
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

    /// Where it is acknowledged, while that is of use.
    pub(crate) fn link(&self) -> Option<&str> {
        match self {
            Self::Incident(story) => story.acknowledge(),
            Self::Page(_) => None,
        }
    }
}

impl Story<'_> {
    fn acknowledge(&self) -> Option<&str> {
        let over = self.detail.summary.state == IncidentState::Resolved;
        self.link.filter(|_| !over && self.facts.acked_us.is_none())
    }

    /// The worst alert, of these the first; not those about our own calls.
    pub(crate) fn worst(&self) -> Option<&IncidentAlert> {
        let alerts = self.detail.alerts.iter().filter(|alert| !alert.ours);
        alerts.min_by_key(|alert| Reverse(alert.severity))
    }

    fn title(&self) -> &str {
        self.worst().map_or(&self.detail.summary.title, |alert| &alert.title)
    }

    fn who(&self) -> String {
        self.detail.summary.principal.as_deref().map_or("no one principal".into(), |arn| clean(short(arn), 40))
    }
}

fn subject(story: &Story<'_>) -> String {
    let again = if story.number > 1 { "Re: " } else { "" };
    let escalated = match story.occasion {
        Occasion::Escalation => "ESCALATED ",
        Occasion::Rescue => "LAST RESORT ",
        Occasion::News | Occasion::Repeat => "",
    };
    let (severity, title, who) = (story.detail.summary.severity, clean(story.title(), 60), story.who());
    let severity = severity.as_str().to_uppercase();
    format!("{again}[keytrail] {escalated}{severity}: {title} ({who}) {}", story.detail.summary.id)
}

fn headline(story: &Story<'_>) -> String {
    let summary = &story.detail.summary;
    let more = match story.detail.alerts.iter().filter(|alert| !alert.ours).count().saturating_sub(1) {
        0 => String::new(),
        1 => ", and 1 more alert".into(),
        more => format!(", and {more} more alerts"),
    };
    let (severity, state) = (summary.severity.as_str().to_uppercase(), summary.state.as_str());
    format!("{severity}, {state}: {}{more} ({})", clean(story.title(), 60), story.who())
}

fn parts(story: &Story<'_>) -> Vec<Part> {
    let (detail, facts) = (story.detail, story.facts);
    let summary = &detail.summary;
    let resolved = summary.state == IncidentState::Resolved;
    // The worst first: a mail has room for a few.
    let mut worst: Vec<_> = detail.alerts.iter().filter(|alert| !alert.ours).collect();
    worst.sort_by_key(|alert| Reverse(alert.severity));
    let done = detail.actions.iter().filter(|action| action.state == ActionState::Done);
    let mut open: Vec<String> = detail.open_actions().map(open_line).collect();
    let why_open = summary.not_contained.as_deref().filter(|_| !resolved);
    let mut open_max = OPEN_MAX;
    if let Some(reason) = why_open {
        open.insert(0, format!("not contained: {}", clean(reason, 200)));
        open_max += 1;
    }
    // The shell takes what ends with a semicolon.
    let queries = queries(story).map(|query| format!("{};", query.trim_end_matches(';')));
    let why = worst.into_iter().map(|alert| alert_line(alert, facts)).collect();
    let failing = facts.failing.iter().map(failing_line).collect();
    let first = [outcome_line(detail), occasion_line(story)];
    vec![
        Part::prose("", first.into_iter().filter(|line| !line.is_empty()).collect()),
        Part::prose("WHAT HAPPENED", happened(detail)),
        Part::some("WHY IT FIRED", why, ALERTS_MAX, "nothing but our own calls"),
        Part::some("WHAT WAS DONE", done.map(done_line).collect(), DONE_MAX, "nothing"),
        Part::some(if resolved { "WHAT WAS NOT DONE" } else { "STILL OPEN" }, open, open_max, "nothing"),
        Part::some("WHO FAILS SINCE (as far as alerts show)", failing, FAILING_MAX, "nobody"),
        Part::code("LOOK CLOSER (in the shell of: keytrail sql --data DIR)", queries.to_vec()),
        Part::code("UNDO (gives back what we took; says what stays)", vec![undo_command(&summary.id)]),
    ]
}

fn undo_command(id: &IncidentId) -> String {
    format!("keytrail incident undo --data DIR {id}")
}

/// What became of it so far.
fn outcome_line(detail: &IncidentDetail) -> String {
    let summary = &detail.summary;
    let done = done_words(&detail.actions);
    if summary.state == IncidentState::Resolved {
        let by = summary.resolved_by.as_deref().unwrap_or("somebody");
        let why = summary.resolution.as_deref().unwrap_or("no reason").replace('_', " ");
        return format!("Closed by {}: {}. Done: {done}.", clean(by, 60), clean(&why, 60));
    }
    let open = match detail.open_actions().count() {
        0 => "nothing".into(),
        1 => "1 action".into(),
        many => format!("{many} actions"),
    };
    format!("Done: {done}. Open: {open}.")
}

fn happened(detail: &IncidentDetail) -> Vec<String> {
    let summary = &detail.summary;
    let who = summary.principal.iter().map(|principal| format!("who   {}", clean(principal, 200)));
    let rest = [
        format!("from  {}", clean(&addresses(detail), 120)),
        format!("keys  {}", keys(detail)),
        format!("when  {}", period(summary.first_event_us, summary.last_event_us)),
    ];
    who.chain(rest).collect()
}

fn occasion_line(story: &Story<'_>) -> String {
    let held = match story.facts.muted {
        0 => String::new(),
        1 => " One notice was held back by a silence or a worse incident.".into(),
        many => format!(" {many} notices were held back by silences or worse incidents."),
    };
    let resolved = story.detail.summary.state == IncidentState::Resolved;
    match (story.occasion, story.number) {
        (Occasion::News, number) if resolved => format!("Update {number}: it was closed.{held}"),
        (Occasion::Escalation, _) => format!("ESCALATED: nobody acknowledged it in time.{held}"),
        (Occasion::Rescue, _) => format!("LAST RESORT: none of its own receivers could be reached.{held}"),
        (Occasion::Repeat, number) => format!("Reminder (notice {number}): something is still open.{held}"),
        (Occasion::News, number) if number > 1 => format!("Update {number}: more is known or was done since.{held}"),
        (Occasion::News, _) => held.trim_start().to_owned(),
    }
}

/// What it is and the value that it fired for, then where to look it up.
fn alert_line(alert: &IncidentAlert, facts: &Facts) -> String {
    let why = facts.why.get(&alert.alert_id).map(|why| format!(": {why}")).unwrap_or_default();
    let events = if alert.matched == 1 { "event" } else { "events" };
    format!(
        "{}{why} ({} v{}, {}; {} {events}, log seq {})",
        clean(&alert.title, 80),
        clean(&alert.rule_id, 80),
        alert.rule_version,
        alert.severity,
        alert.matched,
        clean(&alert.seqs, 40)
    )
}

fn failing_line(failing: &Failing) -> String {
    let calls = if failing.calls == 1 { "call" } else { "calls" };
    format!("{} {calls}, {}: {}", failing.calls, clean(&failing.error_code, 60), clean(&failing.principal, 160))
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
        "acknowledge": story.acknowledge(),
        "incident": {
            "id": summary.id.as_str(), "state": summary.state.as_str(), "severity": summary.severity.as_str(),
            "title": clean(&summary.title, 200),
            "principal": summary.principal.as_deref().map(|arn| clean(arn, 300)),
            "keys": keys, "firstEvent": time(summary.first_event_us), "lastEvent": time(summary.last_event_us),
            "notContained": summary.not_contained, "exposure": exposure(detail),
            "acknowledged": facts.acked_us.map(time), "noticesHeldBack": facts.muted,
            "alerts": alerts, "actions": actions, "failing": failing, "queries": queries(story),
            "undo": undo_command(&summary.id),
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

fn page_parts(page: &Page<'_>) -> Vec<Part> {
    let look = match page.incident {
        Some(id) => format!("keytrail incident show --data DIR {id}"),
        None => "keytrail incident list --data DIR".into(),
    };
    vec![Part::prose("", vec![clean(page.text, 1_000)]), Part::code("LOOK CLOSER", vec![look])]
}

fn page_payload(page: &Page<'_>) -> Value {
    json!({
        "version": 1, "kind": if page.heartbeat { "heartbeat" } else { "page" }, "id": page.message_id,
        "page": clean(page.kind, 60), "text": clean(page.text, 1_000),
        "incidentId": page.incident.map(IncidentId::as_str),
    })
}

fn done_line(action: &Action) -> String {
    let at = action.finished_us.map_or_else(String::new, |at| clock_time(at) + " ");
    let mut line = format!("{at}{} {}", action.kind, clean(&action.target, 160));
    if let Some(ends) = action.ends_us() {
        line = format!("{line} until {}", period(ends, ends));
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
    let state = match action.state {
        ActionState::Planned => "waits for the step before it",
        ActionState::AwaitingApproval => "waits for approval",
        ActionState::Ready => "is next",
        ActionState::Leased => "under way",
        ActionState::Done => "done",
        ActionState::Failed => "failed",
        ActionState::Dead => "given up",
        ActionState::Dropped => "dropped",
        ActionState::Suppressed => "held back",
        ActionState::Observed => "recorded only",
    };
    let reason = action.reason.as_deref().map(|reason| format!(": {}", clean(reason, 140))).unwrap_or_default();
    format!("{} {} {state}{reason}", action.kind, clean(&action.target, 160))
}

fn done_words(actions: &[Action]) -> String {
    let count = |kind: ActionKind| {
        let same = actions.iter().filter(|action| action.kind == kind && action.state == ActionState::Done);
        same.filter(|action| action.undo_of.is_none()).map(|action| &action.target).collect::<BTreeSet<_>>().len()
    };
    let words: Vec<String> = [
        (ActionKind::QuarantinePrincipal, "principal quarantined", "principals quarantined"),
        (ActionKind::DisableKey, "key disabled", "keys disabled"),
        (ActionKind::RestoreKeyPolicy, "key policy restored", "key policies restored"),
        (ActionKind::CancelKeyDeletion, "deletion cancelled", "deletions cancelled"),
        (ActionKind::RevokeGrant, "key rid of grants", "keys rid of grants"),
        (ActionKind::AliasRestore, "alias restored", "aliases restored"),
        (ActionKind::DeactivateAccessKey, "access key withdrawn", "access keys withdrawn"),
        (ActionKind::RequireMfa, "second factor required", "second factors required"),
    ]
    .into_iter()
    .map(|(kind, one, many)| (count(kind), one, many))
    .filter(|(count, _, _)| *count > 0)
    .map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }))
    .collect();
    if words.is_empty() { "nothing".into() } else { words.join(", ") }
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

/// Three questions with their values filled in: the rule's own, then ours.
fn queries(story: &Story<'_>) -> [String; QUERIES] {
    let detail = story.detail;
    let from = time(detail.summary.first_event_us);
    let who = match (&detail.summary.principal, detail.keys.first()) {
        (Some(principal), _) => format!("principal_arn = {}", literal(principal)),
        (None, Some(key)) => format!("key_arn = {}", literal(key)),
        (None, None) => "error_code IS NOT NULL".into(),
    };
    let since = format!("{who} AND event_time >= '{from}'");
    let ours = [
        format!("SELECT event_time, seq, event_name, error_code, key_arn FROM events WHERE {since} ORDER BY seq"),
        format!(
            "SELECT key_arn, enc_context, count(*) FROM events WHERE {since} AND error_code IS NULL \
             AND event_name IN ('Decrypt', 'GenerateDataKey') GROUP BY 1, 2"
        ),
        format!(
            "SELECT seq, event_name, key_arn, error_code FROM events WHERE actor_class = 'responder' \
             AND action_id IS NOT NULL AND event_time >= '{from}' ORDER BY seq"
        ),
    ];
    let mut all = story.facts.queries.iter().cloned().chain(ours);
    std::array::from_fn(|_| all.next().unwrap_or_default())
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
    utc(at_us).format("%H:%M:%SZ").to_string()
}

/// From when to when, without what is the same.
fn period(from_us: Micros, to_us: Micros) -> String {
    let (from, to) = (utc(from_us), utc(to_us));
    let start = from.format("%Y-%m-%d %H:%M:%S");
    if from.timestamp() == to.timestamp() {
        format!("{start} UTC")
    } else if from.date_naive() == to.date_naive() {
        format!("{start} to {} UTC", to.format("%H:%M:%S"))
    } else {
        format!("{start} to {} UTC", to.format("%Y-%m-%d %H:%M:%S"))
    }
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
        let mut detail = hostile_detail(30);
        detail.summary.not_contained = Some("a key is used".into());
        let facts = hostile_facts(30);
        for occasion in [Occasion::News, Occasion::Repeat, Occasion::Escalation, Occasion::Rescue] {
            let message = Message::Incident(story(&detail, &facts, 2, occasion));
            let text = message.text();
            assert_eq!(text.lines().count(), MAIL_LINES_MAX, "{text}");
            assert!(text.trim_end().ends_with(&format!("keytrail incident undo --data DIR {}", detail.summary.id)));
            assert_eq!(text.matches("  SELECT ").count(), 3);
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            assert!(!message.subject().chars().any(char::is_control));
            assert_eq!(message.payload()["incident"]["actions"].as_array().map(Vec::len), Some(60));
        }
    }

    #[test]
    fn a_mail_begins_with_what_happened_and_what_was_done() {
        let (detail, facts) = (hostile_detail(2), hostile_facts(2));
        let text = Message::Incident(story(&detail, &facts, 1, Occasion::News)).text();
        let first: Vec<&str> = text.lines().take(4).collect();
        assert_eq!(first[0], "Done: 2 keys disabled. Open: 2 actions.");
        assert!(first[1].starts_with("HIGH, open: x") && first[1].contains(", and 1 more alert ("), "{text}");
        assert!(first[3].starts_with("Acknowledge: https://"), "{text}");
        assert!(text.contains("\n\nWHY IT FIRED\n"), "there is room for empty lines");
    }

    #[test]
    fn what_cannot_be_acknowledged_has_no_link() {
        let (mut detail, mut facts) = (hostile_detail(1), hostile_facts(1));
        let link = |detail: &IncidentDetail, facts: &Facts| {
            let message = Message::Incident(story(detail, facts, 2, Occasion::News));
            assert_eq!(message.text().contains("Acknowledge"), message.link().is_some());
            message.link().is_some()
        };
        assert!(link(&detail, &facts));
        facts.acked_us = Some(1);
        assert!(!link(&detail, &facts), "somebody has it");
        facts.acked_us = None;
        detail.summary.state = IncidentState::Resolved;
        assert!(!link(&detail, &facts), "it is over");
    }

    #[test]
    fn the_subject_is_the_same_until_it_gets_worse() {
        let (mut detail, facts) = (hostile_detail(1), hostile_facts(1));
        let subject = |detail: &IncidentDetail, number| {
            Message::Incident(story(detail, &facts, number, Occasion::News)).subject()
        };
        let first = subject(&detail, 1);
        detail.actions.clear();
        detail.alerts.push(IncidentAlert { title: "later".into(), ..detail.alerts[0].clone() });
        detail.summary.state = IncidentState::Contained;
        assert_eq!(subject(&detail, 3), format!("Re: {first}"));
        detail.alerts[1].severity = Severity::Critical;
        assert!(subject(&detail, 3).contains(": later ("), "the worst alert is what it is about");
    }

    #[test]
    fn a_period_says_no_day_twice() {
        let second = 1_000_000;
        assert_eq!(period(0, 999_999), "1970-01-01 00:00:00 UTC");
        assert_eq!(period(0, second), "1970-01-01 00:00:00 to 00:00:01 UTC");
        assert_eq!(period(0, 86_400 * second), "1970-01-01 00:00:00 to 1970-01-02 00:00:00 UTC");
    }
}
