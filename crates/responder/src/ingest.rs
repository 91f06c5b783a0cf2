//! What one alert changes, in one transaction: position, alert, incident, actions, timeline, and when to tell people.
//!
//! Runs inside [`crate::store::Store::write`]; if anything fails nothing of it happened and the alert comes again. A
//! refused alert changes the position, the counters and a page, never an incident. An alert that is only about our own
//! actions joins their incident and ends there: the responder must not answer itself.

use crate::act::{aws, snapshot};
use crate::announced;
use crate::approval;
use crate::config::{AwsAccount, Limits, Protected};
use crate::explain;
use crate::guard::{self, Bounds, Guard, Judgement, Outside, Verdict, judge};
use crate::incident::{self, IncidentId};
use crate::intake::{Call, RawAlert, Refusal, VerifiedAlert};
use crate::maintenance::Window;
use crate::notify::render::clean;
use crate::notify::{self, queue};
use crate::offence;
use crate::outbox::{self, ActionKind, ActionState, Start};
use crate::plan::{Known, Proposal, plan};
use crate::playbook::{Mode, Playbook, Severity};
use crate::reset;
use crate::standing;
use crate::store::{self, Micros, StoreError};
use rusqlite::Transaction;
use std::collections::HashMap;
use std::error::Error;

/// Calls of ours that carry no action id, because they change nothing.
const READS: [&str; 14] = [
    "CountKeys",
    "DescribeApprovalRequest",
    "DescribeKey",
    "GetKeyPolicy",
    "ListAliases",
    "ListDeactivatedAccessKeys",
    "ListChanges",
    "ListGrants",
    "ReportResponder",
    "ListQuarantines",
    "GetUsage",
    "RecordIncident",
    "ListMfaRequirements",
    "ListResourceTags",
];

/// What taking in an alert depends on.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) playbooks: Vec<Playbook>,
    pub(crate) enforce: bool,
    pub(crate) limits: Limits,
    pub(crate) protected: Protected,
    pub(crate) tell_from: Severity,
    pub(crate) windows: Vec<Window>,
    pub(crate) aws: Vec<AwsAccount>,
}

/// What an alert led to, for the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Refused(&'static str),
    Known,
    Ours(IncidentId),
    Joined { incident: IncidentId, opened: bool, actions: Vec<(String, String, ActionState)> },
}

/// Takes in one alert.
pub(crate) fn take_in(
    tx: &Transaction<'_>,
    rules: &Rules,
    raw: &RawAlert,
    verdict: &Result<VerifiedAlert, Refusal>,
    outside: &Outside,
    now_us: Micros,
) -> Result<Outcome, StoreError> {
    store::set_position(tx, &raw.source, raw.position.saturating_add(1))?;
    let alert = match verdict {
        Ok(alert) => alert,
        Err(refusal) => return refuse(tx, raw, refusal, now_us),
    };
    if incident::is_known(tx, alert)? {
        return Ok(Outcome::Known);
    }
    // What an imported log says under our name is not ours, whatever ids it carries.
    let ours = if alert.is_imported() { None } else { about_ourselves(tx, alert)? };
    if let Some(id) = ours {
        incident::join(tx, &id, alert, true, now_us)?;
        incident::note(tx, &id, now_us, "alert", &format!("{} saw our own actions", alert_line(alert)))?;
        return Ok(Outcome::Ours(id));
    }
    let (id, opened) = incident::find_or_open(tx, alert, rules.limits.incident_window, now_us)?;
    let before = incident::severity(tx, &id)?;
    incident::join(tx, &id, alert, false, now_us)?;
    notify::remember(tx, &id, alert, now_us)?;
    incident::note(tx, &id, now_us, "alert", &alert_line(alert))?;
    if !alert.is_imported() {
        watch_our_name(tx, &id, alert, now_us)?;
    }
    let summary = incident::summary_of(tx, &id)?.ok_or(StoreError::Damaged("incident"))?;
    let actions =
        if summary.resolved_us.is_none() { propose(tx, rules, &id, alert, outside, now_us)? } else { Vec::new() };
    let worse = summary.severity > before;
    if worse && summary.resolved_us.is_none() {
        incident::person::take_back_acknowledgement(tx, &summary, now_us)?;
    }
    let news = opened || worse || !actions.is_empty() || summary.notices == 0;
    if news && summary.severity >= rules.tell_from && summary.resolved_us.is_none() {
        incident::tell(tx, &id, now_us)?;
    } else {
        incident::keep_quiet(tx, &id, now_us)?;
    }
    incident::settle(tx, &id, now_us)?;
    Ok(Outcome::Joined { incident: id, opened, actions })
}

fn refuse(tx: &Transaction<'_>, raw: &RawAlert, refusal: &Refusal, now_us: Micros) -> Result<Outcome, StoreError> {
    let kind = refusal.kind();
    let total = store::count(tx, "refused")?;
    store::count(tx, &format!("refused/{kind}"))?;
    let mut reason = refusal.to_string();
    let mut cause = refusal.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    let reason = clean(&reason, 300);
    store::record_refusal(tx, now_us, &raw.source, raw.position, &reason)?;
    let text = format!(
        "An alert at {} position {} was refused and nothing was done about it: {reason}. \
         {total} alerts were refused so far; further ones of this kind are told at most every ten minutes.",
        raw.source, raw.position
    );
    queue::page(tx, None, &format!("refused-{kind}"), &text, now_us)?;
    Ok(Outcome::Refused(kind))
}

/// The incident whose actions are all that this alert is about.
fn about_ourselves(tx: &Transaction<'_>, alert: &VerifiedAlert) -> Result<Option<IncidentId>, StoreError> {
    if alert.calls().is_empty() || !alert.is_complete() {
        return Ok(None);
    }
    let mut incident = None;
    for call in alert.calls() {
        let Some(action_id) = call.action_id() else { return Ok(None) };
        match incident::knows_action(tx, approval::action_of_call(action_id))? {
            Some(id) => incident = incident.or(Some(id)),
            None => return Ok(None),
        }
    }
    Ok(incident)
}

/// Somebody acts under our name: our credential is out.
fn watch_our_name(
    tx: &Transaction<'_>,
    id: &IncidentId,
    alert: &VerifiedAlert,
    now_us: Micros,
) -> Result<(), StoreError> {
    for call in alert.calls().iter().filter(|call| call.is_responders()) {
        if READS.contains(&call.event.event_name.as_str()) || is_ours(tx, call)? {
            continue;
        }
        incident::raise(tx, id, Severity::Critical)?;
        let text = format!(
            "A call under the responder's name (log seq {}) carries no action id that this responder knows. \
             Its credential may be stolen: replace it now.",
            call.seq
        );
        incident::note(tx, id, now_us, "alert", &text)?;
        queue::page(tx, Some(id), "stray-responder-call", &text, now_us)?;
    }
    Ok(())
}

fn is_ours(tx: &Transaction<'_>, call: &Call) -> Result<bool, StoreError> {
    match call.action_id() {
        Some(call_id) => {
            let id = approval::action_of_call(call_id);
            Ok(incident::knows_action(tx, id)?.is_some() || reset::is_ours(tx, id)?)
        }
        None => Ok(false),
    }
}

type Planned = Vec<(String, String, ActionState)>;

fn propose(
    tx: &Transaction<'_>,
    rules: &Rules,
    id: &IncidentId,
    alert: &VerifiedAlert,
    outside: &Outside,
    now_us: Micros,
) -> Result<Planned, StoreError> {
    let playbooks = standing::effective(tx, &rules.playbooks)?;
    // Once without knowing anything, to see what must be known: an incident may hold far more than one alert is about.
    let possible = plan(alert, id, &Known::default(), &playbooks, rules.enforce, now_us);
    let known = incident::known(tx, id, alert, &possible)?;
    let mut planned = Vec::new();
    let mut starts: HashMap<String, ActionState> = HashMap::new();
    for mut proposal in plan(alert, id, &known, &playbooks, rules.enforce, now_us) {
        // An access key has no ARN; whose it is has one.
        let whose = proposal.args.get("principalArn").and_then(serde_json::Value::as_str);
        let arn = whose.filter(|_| proposal.kind == ActionKind::DeactivateAccessKey).unwrap_or(&proposal.target);
        if let Some(account) = aws::driven(&rules.aws, &alert.alert().origin, arn) {
            proposal.args[aws::ACCOUNT_ARG] = account.into();
        }
        let judged = judged(tx, rules, &proposal, alert, outside, &starts, now_us)?;
        let Judged { start, note, judgement } = judged;
        // Held before and still held: nothing new for anybody.
        if proposal.again && start.state.is_final() {
            continue;
        }
        if !outbox::insert(tx, &proposal, None, &start, now_us)? {
            continue;
        }
        if proposal.kind == ActionKind::SnapshotEvidence && !start.state.is_final() {
            snapshot::keep(tx, &proposal.id, alert)?;
        }
        if start.state == ActionState::AwaitingApproval {
            approval::want(tx, &proposal, alert, now_us)?;
        }
        explain::record(tx, &proposal.id, &judgement)?;
        if start.state != ActionState::Observed && judgement.waits_for_the_call() {
            let deeds = announced::deeds(&proposal, alert);
            announced::ask_before_acting(tx, &proposal.id, &deeds, announced::is_whole(&proposal, alert))?;
        }
        let playbook = playbooks.iter().find(|playbook| playbook.id == proposal.playbook);
        let counted = |call: &&Call| playbook.is_some_and(|playbook| playbook.matches.counts(call));
        offence::wanted_back(tx, &proposal, alert.calls().iter().filter(counted))?;
        starts.insert(proposal.id.clone(), start.state);
        let kind = if start.needs_person { "guard" } else { "plan" };
        incident::note(tx, id, now_us, kind, &note)?;
        planned.push((proposal.kind.to_string(), proposal.target, start.state));
    }
    Ok(planned)
}

/// How a proposal starts, the line for the timeline, and what the guards said.
struct Judged {
    start: Start,
    note: String,
    judgement: Judgement,
}

fn judged(
    tx: &Transaction<'_>,
    rules: &Rules,
    proposal: &Proposal,
    alert: &VerifiedAlert,
    outside: &Outside,
    starts: &HashMap<String, ActionState>,
    now_us: Micros,
) -> Result<Judged, StoreError> {
    let playbook = rules
        .playbooks
        .iter()
        .find(|playbook| playbook.id == proposal.playbook)
        .ok_or(StoreError::Damaged("playbook name"))?;
    let bounds = Bounds {
        protected: &rules.protected,
        limits: &rules.limits,
        playbook: &playbook.guard,
        windows: &rules.windows,
        outside,
    };
    let facts = outbox::facts(tx, proposal, rules.limits.flip_flop_window, now_us).map_err(|error| error.to_string());
    let judgement = judge(proposal, alert, facts.as_ref().map_err(String::as_str), &bounds, now_us);
    if let Err(error) = &facts {
        let text = format!("A guard failed, so {} was not carried out: {error}", proposal.kind);
        queue::page(tx, Some(&proposal.incident), "guard-failed", &text, now_us)?;
    }
    let stopped = breaker(tx, proposal, &judgement, facts.as_ref().ok(), &bounds, now_us)?;
    let mut start = Start { state: ActionState::Ready, reason: None, needs_person: false, next_attempt_us: now_us };
    match judgement.hold() {
        None => {}
        Some((guard, reason, Some(until_us), _)) => {
            start.reason = Some(format!("{guard}: {reason}"));
            start.next_attempt_us = until_us;
        }
        Some((guard, reason, None, needs_person)) => {
            start.state = if stopped { ActionState::Observed } else { ActionState::Suppressed };
            start.reason = Some(format!("{guard}: {reason}"));
            start.needs_person = needs_person;
        }
    }
    if start.state == ActionState::Ready
        && let Some(first) = &proposal.requires
    {
        match starts.get(first) {
            Some(ActionState::Ready | ActionState::AwaitingApproval | ActionState::Planned) => {
                start.state = ActionState::Planned;
            }
            _ => {
                start.state = ActionState::Suppressed;
                start.reason = Some("the step before it is not carried out".into());
            }
        }
    }
    if start.state == ActionState::Ready && approval::is_asked(proposal) {
        start.state = ActionState::AwaitingApproval;
        start.reason.get_or_insert_with(|| "approval: people must agree first".into());
    }
    if proposal.mode == Mode::Observe {
        let would = start.reason.take().map_or("would have acted".into(), |why| format!("would have been held: {why}"));
        start = Start { state: ActionState::Observed, reason: Some(would), needs_person: false, ..start };
    }
    let missing: Vec<String> = judgement
        .verdicts
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::NotConfigured)
        .map(|(guard, _): &(Guard, Verdict)| guard.to_string())
        .collect();
    let mut note = format!("{} {}: {}", proposal.kind, proposal.target, start.state);
    if let Some(reason) = &start.reason {
        note = format!("{note} ({reason})");
    } else if !missing.is_empty() {
        note = format!("{note} (not configured: {})", missing.join(", "));
    }
    Ok(Judged { start, note, judgement })
}

/// Trips the breaker when this action is one too many; true when it was tripped before, so that what takes something
/// away is only recorded. A playbook that only observes trips nothing.
fn breaker(
    tx: &Transaction<'_>,
    proposal: &Proposal,
    judgement: &Judgement,
    facts: Option<&guard::Facts>,
    bounds: &Bounds<'_>,
    now_us: Micros,
) -> Result<bool, StoreError> {
    let (Some((Guard::Breaker, ..)), Some(facts)) = (judgement.hold(), facts) else { return Ok(false) };
    if proposal.mode == Mode::Enforce
        && let Ok(Some((subject, reason))) = guard::overload(proposal, facts, bounds)
    {
        standing::trip(tx, subject, &reason, now_us)?;
    }
    Ok(facts.tripped.is_some() && proposal.kind.takes_away())
}

fn alert_line(alert: &VerifiedAlert) -> String {
    let body = alert.alert();
    format!(
        "{} v{} revision {} ({}, {} events): {}",
        body.rule_id,
        body.rule_version,
        body.revision,
        body.severity,
        body.matched,
        clean(&body.title, 120)
    )
}
