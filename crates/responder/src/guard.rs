//! May this action be carried out? Nine guards in a fixed order; the first that holds decides, and an error holds.
//!
//! Pure: [`Facts`] are read from the store before (in the transaction that plans), so counts survive a restart and two
//! plans cannot both be the third of three. The ninth guard, re-reading the target just before the call, is in `act`.
//! Research: a response that outsiders can provoke is an attack surface; what cannot be judged is not done but paged.

use crate::act::aws::ACCOUNT_ARG;
use crate::announced::{self, Changes};
use crate::config::{Limits, Protected};
use crate::intake::verify::{Call, VerifiedAlert, is_built_in};
use crate::maintenance::{self, Window};
use crate::outbox::ActionKind;
use crate::plan::Proposal;
use crate::playbook::{GuardSettings, Provenance};
use crate::standing;
use crate::store::Micros;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How the reason begins for which a quarantine is not put because one is in force.
pub(crate) const COVERED: &str = "already quarantined";

/// So many keys may be disabled in an hour whatever share of all they are.
const DISABLES_FREE: u32 = 3;

/// The guards, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Signature, rule and evidence verify.
    VerifiedInput,
    /// The evidence holds a call that entitles to this action.
    Provenance,
    /// The target is on the protected list.
    Protected,
    /// The change was announced beforehand.
    Announced,
    /// We changed the same thing back too often.
    FlipFlop,
    /// The same action on the same target was just taken.
    Cooldown,
    /// Too many actions in the last hour.
    Breaker,
    /// A person must agree.
    Approval,
    /// The target is no longer as the evidence shows it (judged in `act`).
    Precondition,
}

/// What a guard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Pass,
    /// This guard's feature is not there yet.
    NotConfigured,
    /// It cannot say now and is asked again right before the call; why, for people.
    Later(String),
    /// Do not act.
    Hold {
        /// Why, for people.
        reason: String,
        /// When to act after all; `None`: never by itself.
        until_us: Option<Micros>,
        /// Whether a person must look at it.
        needs_person: bool,
    },
}

/// What the store knows about the target and the playbook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Our changes of the same attribute of the same target in the flip-flop window.
    pub attribute_changes: u32,
    /// When we last planned the same action on the same target.
    pub last_same_us: Option<Micros>,
    /// The target's quarantine by another incident lasts until then.
    pub quarantined_until_us: Option<Micros>,
    /// Keys we disabled (or are about to) in the last hour.
    pub disables_last_hour: u32,
    /// Actions of this playbook in the last hour.
    pub playbook_last_hour: u32,
    /// Why and since when the circuit breaker is tripped.
    pub tripped: Option<String>,
}

/// What is known from outside the store.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Announced changes, or why they cannot be read.
    pub changes: Option<Result<Arc<Changes>, String>>,
    /// How many keys can be used, or why they cannot be counted; nothing where no playbook asks.
    pub enabled_keys: Option<Result<u64, String>>,
}

/// What the configuration allows.
pub struct Bounds<'a> {
    /// The protected list.
    pub protected: &'a Protected,
    /// Limits of the whole responder.
    pub limits: &'a Limits,
    /// The playbook's own.
    pub playbook: &'a GuardSettings,
    /// The maintenance windows that there are.
    pub windows: &'a [Window],
    /// What is known from outside the store.
    pub outside: &'a Outside,
}

/// The verdicts so far, the last one being the one that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// In order.
    pub verdicts: Vec<(Guard, Verdict)>,
    /// What the store knew.
    pub facts: Option<Facts>,
}

impl Judgement {
    /// Whether a guard could not say and has to be asked again right before the call.
    pub fn waits_for_the_call(&self) -> bool {
        self.verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Later(_)))
    }

    /// The guard that holds, if one does.
    pub fn hold(&self) -> Option<(Guard, &str, Option<Micros>, bool)> {
        match self.verdicts.last() {
            Some((guard, Verdict::Hold { reason, until_us, needs_person })) => {
                Some((*guard, reason, *until_us, *needs_person))
            }
            _ => None,
        }
    }
}

/// Asks the guards in order and stops at the first that holds. `facts` that could not be read hold everything.
pub fn judge(
    proposal: &Proposal,
    alert: &VerifiedAlert,
    facts: Result<&Facts, &str>,
    bounds: &Bounds<'_>,
    now_us: Micros,
) -> Judgement {
    let mut verdicts = Vec::new();
    for guard in ORDER {
        let verdict = match guard {
            Guard::VerifiedInput => verified_input(proposal, alert),
            Guard::Provenance => provenance(proposal, alert),
            Guard::Protected => protected(proposal, bounds.protected),
            Guard::Announced => announced(proposal, alert, bounds),
            // Passed so that the action may be asked for: `ingest` lets it wait, `approval` carries on.
            Guard::Approval => Verdict::Pass,
            Guard::FlipFlop | Guard::Cooldown | Guard::Breaker => match facts {
                Ok(facts) => counted(guard, proposal, facts, bounds, now_us),
                Err(error) => hold(format!("guard failed: {error}")),
            },
            Guard::Precondition => Verdict::Pass,
        };
        let holds = matches!(verdict, Verdict::Hold { .. });
        verdicts.push((guard, verdict));
        if holds {
            break;
        }
    }
    Judgement { verdicts, facts: facts.ok().cloned() }
}

/// The guards that have something to say about an action that a person has tried again, without the alert that it was
/// planned from; what the others said then has not changed. The precondition is read again before the call.
pub(crate) fn judge_again(
    proposal: &Proposal,
    facts: &Facts,
    list: &Protected,
    limits: &Limits,
) -> Option<(Guard, String)> {
    let held = |verdict| match verdict {
        Verdict::Hold { reason, .. } => Some(reason),
        _ => None,
    };
    if let Some(reason) = held(protected(proposal, list)) {
        return Some((Guard::Protected, reason));
    }
    if let Some(reason) = held(flip_flop(facts, limits)).filter(|_| !proposal.kind.is_beside()) {
        return Some((Guard::FlipFlop, reason));
    }
    if let Some(tripped) = facts.tripped.as_ref().filter(|_| proposal.kind.takes_away()) {
        return Some((Guard::Breaker, format!("tripped {tripped}")));
    }
    let (disables, per_hour) = (facts.disables_last_hour, limits.disable_keys_per_hour);
    let too_many = proposal.kind == ActionKind::DisableKey && disables >= per_hour;
    too_many.then(|| (Guard::Breaker, format!("{per_hour} keys were disabled in the last hour")))
}

/// The guards before the call; the last one has nothing to look at before.
pub(crate) const ORDER: [Guard; 8] = [
    Guard::VerifiedInput,
    Guard::Provenance,
    Guard::Protected,
    Guard::Announced,
    Guard::FlipFlop,
    Guard::Cooldown,
    Guard::Breaker,
    Guard::Approval,
];

fn verified_input(proposal: &Proposal, alert: &VerifiedAlert) -> Verdict {
    // The type says that all verified; an alert without a single record proves nothing about anyone.
    if alert.is_imported() && proposal.args.get(ACCOUNT_ARG).is_none() {
        return hold(
            "imported log: its calls were not made here, and it is believed about no account that is driven".into(),
        );
    }
    if alert.calls().is_empty() { hold("the alert carries no evidence".into()) } else { Verdict::Pass }
}

fn provenance(proposal: &Proposal, alert: &VerifiedAlert) -> Verdict {
    if let Some(reason) = &proposal.impossible {
        return hold(reason.clone());
    }
    let calls = alert.calls();
    let caused = |call: &&Call| call.event.event_id == proposal.cause;
    let entitled = match proposal.kind {
        ActionKind::QuarantinePrincipal => {
            let key = proposal.args.get("keyArn").and_then(serde_json::Value::as_str);
            let whole = kept_as(&proposal.target);
            all_verified(calls, |call| call.principal.as_deref().is_some_and(|caller| kept_as(caller) == whole))
                && key.is_none_or(|key| calls.iter().any(|call| call.key_arn.as_deref() == Some(key)))
        }
        ActionKind::DeactivateAccessKey => all_verified(calls, |call| call.claims_access_key(&proposal.target)),
        ActionKind::SnapshotEvidence | ActionKind::CallOut => {
            calls.iter().any(|call| call.provenance != Provenance::Unauthenticated)
        }
        ActionKind::AliasRestore => {
            calls.iter().filter(caused).any(|call| call.moved_alias().is_some_and(|moved| moved.arn == proposal.target))
        }
        _ => calls.iter().filter(caused).any(|call| {
            let on_target = |key: &str| key == proposal.target || key.split(':').nth(4) == Some(&proposal.target);
            call.is_allowed_administration() && call.key_arn.as_deref().is_some_and(on_target)
        }),
    };
    match (entitled, proposal.kind) {
        (true, _) => Verdict::Pass,
        (false, ActionKind::QuarantinePrincipal | ActionKind::DeactivateAccessKey) => {
            hold("the evidence holds calls in this name whose signature was not verified".into())
        }
        (false, _) => hold("the evidence holds no allowed administrative call on this key".into()),
    }
}

/// Some calls are these, and each of them was signed by whom it names.
fn all_verified(calls: &[Call], these: impl Fn(&Call) -> bool) -> bool {
    let mut any = false;
    let all = calls.iter().filter(|call| these(call)).all(|call| {
        any = true;
        call.provenance != Provenance::Unauthenticated
    });
    any && all
}

fn protected(proposal: &Proposal, list: &Protected) -> Verdict {
    if proposal.kind.is_beside() {
        return Verdict::Pass;
    }
    let also = ["principalArn", "currentTargetKeyArn", "wantedKeyArn"].map(|name| proposal.args.get(name));
    let also = also.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let mut held = std::iter::once(proposal.target.as_str()).chain(also).map(|arn| protected_arn(arn, list));
    held.find(|verdict| *verdict != Verdict::Pass).unwrap_or(Verdict::Pass)
}

fn protected_arn(target: &str, list: &Protected) -> Verdict {
    let role = role_of_session(target);
    let listed = |arn: &String| arn == target || Some(arn) == role.as_ref();
    if is_protected_principal(target) || list.principals.iter().any(listed) {
        return hold("the principal is on the protected list".into());
    }
    let key_id = target.rsplit_once(":key/").map(|(_, id)| id);
    if list.keys.iter().any(|key| key == target || Some(key.as_str()) == key_id) {
        return hold("the key is on the protected list".into());
    }
    Verdict::Pass
}

/// The role that a session is of: the key service quarantines it as a whole.
pub(crate) fn role_of_session(arn: &str) -> Option<String> {
    let (account, session) = arn.strip_prefix("arn:aws:sts::")?.split_once(":assumed-role/")?;
    let (role, _) = session.rsplit_once('/')?;
    Some(format!("arn:aws:iam::{account}:role/{role}"))
}

/// As the key service keeps a quarantine: a session's is its role's.
pub(crate) fn kept_as(arn: &str) -> String {
    role_of_session(arn).unwrap_or_else(|| arn.to_owned())
}

/// The account root, Keytrail's own principals and the break-glass principal: whoever is left to help.
pub(crate) fn is_protected_principal(arn: &str) -> bool {
    let iam = arn.split_once(":iam::").map(|(_, rest)| rest);
    let name = iam.and_then(|rest| rest.split_once(':')).map(|(_, name)| name);
    is_built_in(arn) || matches!(name, Some("root"))
}

/// What was announced is not contained. Neither is it paged: the announcement told people before.
fn announced(proposal: &Proposal, alert: &VerifiedAlert, bounds: &Bounds<'_>) -> Verdict {
    let quiet = |reason: String| Verdict::Hold { reason, until_us: None, needs_person: false };
    let calls = announced::caused_by(proposal, alert);
    if let Some(window) = maintenance::holding(bounds.windows, &bounds.playbook.held_by, &calls) {
        return quiet(format!("maintenance window {window}"));
    }
    match &bounds.outside.changes {
        None => Verdict::Pass,
        Some(Err(error)) => Verdict::Later(format!("announced changes cannot be read: {error}")),
        Some(Ok(changes)) => {
            let deeds = announced::deeds(proposal, alert).unwrap_or_default();
            let whole = announced::is_whole(proposal, alert);
            announced::covering(&changes.all, &deeds, whole).map_or(Verdict::Pass, quiet)
        }
    }
}

fn counted(guard: Guard, proposal: &Proposal, facts: &Facts, bounds: &Bounds<'_>, now_us: Micros) -> Verdict {
    match guard {
        Guard::FlipFlop if proposal.kind.is_beside() => Verdict::Pass,
        Guard::FlipFlop => flip_flop(facts, bounds.limits),
        Guard::Cooldown => cooldown(proposal, facts, bounds.playbook, now_us),
        _ => breaker(proposal, facts, bounds),
    }
}

fn flip_flop(facts: &Facts, limits: &Limits) -> Verdict {
    if facts.attribute_changes < limits.flip_flop_changes {
        return Verdict::Pass;
    }
    hold(format!("flip-flop: we changed this {} times in {:?}", facts.attribute_changes, limits.flip_flop_window))
}

fn cooldown(proposal: &Proposal, facts: &Facts, playbook: &GuardSettings, now_us: Micros) -> Verdict {
    if proposal.kind == ActionKind::QuarantinePrincipal
        && let Some(until) = facts.quarantined_until_us.filter(|until| *until > now_us)
    {
        let reason = format!("{COVERED} for another {} s", (until - now_us) / 1_000_000);
        return Verdict::Hold { reason, until_us: None, needs_person: false };
    }
    let Some(last) = facts.last_same_us else { return Verdict::Pass };
    // A clock that was set back must not make the wait longer than it is.
    let ready = last.min(now_us).saturating_add(micros(playbook.cooldown));
    if ready <= now_us {
        return Verdict::Pass;
    }
    // The attack goes on: the action is late, not lost, and looks at its target again when its time has come.
    let reason = format!("cooldown of {:?}", playbook.cooldown);
    Verdict::Hold { reason, until_us: Some(ready), needs_person: false }
}

fn breaker(proposal: &Proposal, facts: &Facts, bounds: &Bounds<'_>) -> Verdict {
    if let Some(tripped) = facts.tripped.as_ref().filter(|_| proposal.kind.takes_away()) {
        return hold(format!("tripped {tripped}"));
    }
    match overload(proposal, facts, bounds) {
        Ok(None) => Verdict::Pass,
        Ok(Some((_, reason))) => hold(reason),
        Err(error) => hold(format!("guard failed: {error}")),
    }
}

/// Whether an action would be one too many: for whom the breaker trips ([`standing::EVERYTHING`] or the playbook), and
/// why. It must not be guessed, so an error holds.
pub(crate) fn overload<'p>(
    proposal: &'p Proposal,
    facts: &Facts,
    bounds: &Bounds<'_>,
) -> Result<Option<(&'p str, String)>, String> {
    let (disables, per_hour) = (facts.disables_last_hour, bounds.limits.disable_keys_per_hour);
    if proposal.kind == ActionKind::DisableKey {
        if disables >= per_hour {
            return Ok(Some((standing::EVERYTHING, format!("{per_hour} keys were disabled in the last hour"))));
        }
        if let Some(share) = bounds.playbook.max_share_of_enabled_keys.filter(|_| disables >= DISABLES_FREE) {
            // Those that we disabled are not among the enabled ones any more.
            let all = match &bounds.outside.enabled_keys {
                Some(Ok(enabled)) => enabled.saturating_add(u64::from(disables)),
                Some(Err(error)) => return Err(error.clone()),
                None => return Err("the keys were not counted".into()),
            };
            if f64::from(disables + 1) > share * u32::try_from(all).map_or(f64::from(u32::MAX), f64::from) {
                let reason = format!("{disables} of {all} keys were disabled in the last hour, {share} is allowed");
                return Ok(Some((standing::EVERYTHING, reason)));
            }
        }
    }
    let actions = bounds.limits.playbook_actions_per_hour.unwrap_or(bounds.playbook.max_actions_per_hour);
    if facts.playbook_last_hour >= actions {
        return Ok(Some((&proposal.playbook, format!("the playbook took {actions} actions in the last hour"))));
    }
    Ok(None)
}

fn hold(reason: String) -> Verdict {
    Verdict::Hold { reason, until_us: None, needs_person: true }
}

/// A duration in the store's unit.
pub(crate) fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VerifiedInput => "verified input",
            Self::Provenance => "provenance",
            Self::Protected => "protected list",
            Self::Announced => "announced",
            Self::FlipFlop => "flip-flop",
            Self::Cooldown => "cooldown",
            Self::Breaker => "circuit breaker",
            Self::Approval => "approval",
            Self::Precondition => "precondition",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::incident::IncidentId;
    use crate::plan::{Known, plan};
    use crate::playbook::Playbook;
    use crate::testing::{
        Bench, EventBuilder, announcement, event, key_arn, playbook_of, principal_arn, shipped_playbooks,
    };
    use keytrail_kms::chain::checkpoint::SigningKey;

    struct Case {
        alert: VerifiedAlert,
        proposal: Proposal,
        facts: Facts,
        protected: Protected,
        limits: Limits,
        playbook: GuardSettings,
        windows: Vec<Window>,
        outside: Outside,
    }

    /// The first proposal that these playbooks make of an alert.
    fn planned(alert: VerifiedAlert, playbooks: &[Playbook]) -> Case {
        let known = Known::default();
        let proposal = plan(&alert, &IncidentId::new("I-1"), &known, playbooks, true, 0).remove(0);
        Case {
            alert,
            proposal,
            facts: Facts::default(),
            protected: Protected::default(),
            limits: Limits::default(),
            playbook: GuardSettings::default(),
            windows: Vec::new(),
            outside: Outside { changes: Some(Ok(Arc::default())), enabled_keys: None },
        }
    }

    fn case(rule: &str, call: EventBuilder) -> Case {
        planned(Bench::new().alert(rule, vec![call]).verified(), &shipped_playbooks())
    }

    fn tagged() -> Case {
        let call = event("PutKeyPolicy").by("m").on_key("k1").opened("e0").tagged("on-exposure", "disable");
        case("key-policy-public", call)
    }

    fn burst() -> Case {
        case("denied-burst", event("Decrypt").denied().by("m"))
    }

    impl Case {
        fn bounds(&self) -> Bounds<'_> {
            let Self { protected, limits, playbook, windows, outside, .. } = self;
            Bounds { protected, limits, playbook, windows, outside }
        }

        fn judged(&self) -> Judgement {
            judge(&self.proposal, &self.alert, Ok(&self.facts), &self.bounds(), 1_000_000_000_000)
        }

        fn held_by(&self) -> Option<Guard> {
            self.judged().hold().map(|(guard, ..)| guard)
        }

        fn announce(&mut self, by: &str, key: Option<&str>, principal: Option<&str>, operations: &[&str]) {
            let change = announcement(by, key, principal, operations);
            self.outside.changes = Some(Ok(Arc::new(Changes { all: vec![change], as_of_us: Micros::MAX })));
        }

        /// Four keys were disabled of so many that are left.
        fn share(&mut self, share: f64, enabled: Option<Result<u64, String>>) {
            self.playbook.max_share_of_enabled_keys = Some(share);
            self.limits.disable_keys_per_hour = 100;
            self.facts.disables_last_hour = 4;
            self.outside.enabled_keys = enabled;
        }
    }

    fn always_open() -> Window {
        let text = "name = \"always\"\ncron = \"* * * * *\"\nduration = \"1h\"\ntime_zone = \"UTC\"";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_holds_an_ordinary_action() {
        for case in [tagged(), burst()] {
            let judgement = case.judged();
            assert!(judgement.hold().is_none());
            assert!(judgement.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Pass), "{judgement:?}");
            assert_eq!(judgement.verdicts.iter().map(|(guard, _)| *guard).collect::<Vec<_>>(), ORDER);
        }
    }

    #[test]
    fn each_guard_holds_in_its_turn() {
        let now = 1_000_000_000_000;
        let mut table: Vec<(Guard, Case)> = Vec::new();
        let mut add = |guard, mut case: Case, change: &dyn Fn(&mut Case)| {
            change(&mut case);
            table.push((guard, case));
        };
        add(Guard::VerifiedInput, burst(), &|case| {
            case.alert = VerifiedAlert::unchecked(case.alert.alert().clone(), vec![]);
        });
        add(Guard::Provenance, burst(), &|case| {
            let mut calls = case.alert.calls().to_vec();
            calls.push(event("Decrypt").by("m").error("InvalidSignatureException").call(9));
            case.alert = VerifiedAlert::unchecked(case.alert.alert().clone(), calls);
        });
        add(Guard::Provenance, tagged(), &|case| case.proposal.target = key_arn("another"));
        add(Guard::Provenance, tagged(), &|case| case.proposal.impossible = Some("no".into()));
        add(Guard::Protected, burst(), &|case| case.protected.principals.push(principal_arn("m")));
        add(Guard::Protected, tagged(), &|case| case.protected.keys.push("k1".into()));
        add(Guard::Protected, tagged(), &|case| case.protected.keys.push(key_arn("k1")));
        add(Guard::Announced, tagged(), &|case| case.announce("bob", Some("k1"), None, &["PutKeyPolicy"]));
        add(Guard::Announced, burst(), &|case| case.announce("bob", None, Some("m"), &["Decrypt"]));
        add(Guard::Announced, tagged(), &|case| {
            case.windows.push(always_open());
            case.playbook.held_by.push("always".into());
        });
        add(Guard::FlipFlop, tagged(), &|case| case.facts.attribute_changes = 2);
        add(Guard::Cooldown, tagged(), &|case| case.facts.last_same_us = Some(now - 1));
        add(Guard::Cooldown, burst(), &|case| case.facts.quarantined_until_us = Some(now + 5));
        add(Guard::Breaker, tagged(), &|case| case.facts.disables_last_hour = 3);
        add(Guard::Breaker, burst(), &|case| case.facts.playbook_last_hour = 30);
        add(Guard::Breaker, burst(), &|case| case.facts.tripped = Some("by 3 keys".into()));
        add(Guard::Breaker, tagged(), &|case| case.share(0.05, Some(Ok(80))));
        add(Guard::Breaker, tagged(), &|case| case.share(0.05, Some(Err("unreachable".into()))));
        add(Guard::Breaker, tagged(), &|case| case.share(0.05, None));
        for (guard, case) in table {
            assert_eq!(case.held_by(), Some(guard), "{guard}: {:?}", case.judged());
        }
    }

    #[test]
    fn a_cooldown_defers_and_a_breaker_needs_a_person() {
        let mut late = tagged();
        late.facts.last_same_us = Some(999_999_000_000);
        let judgement = late.judged();
        let (_, _, until, needs_person) = judgement.hold().unwrap();
        assert_eq!((until, needs_person), (Some(1_000_009_000_000), false));
        let mut broken = tagged();
        broken.facts.disables_last_hour = 3;
        assert!(broken.judged().hold().unwrap().3);
    }

    /// The first proposal of a step, on evidence of these calls.
    fn of_step(step: &str, calls: Vec<EventBuilder>) -> Case {
        let alert = Bench::new().alert("many-contexts", calls).verified();
        let playbooks = [playbook_of("p", "many-contexts", step)];
        planned(alert, &playbooks)
    }

    #[test]
    fn new_actions_need_the_calls_that_earn_them() {
        let stolen = || event("Decrypt").by("m").with_access_key("AKIA1").on_key("k1");
        let granted = || event("CreateGrant").by("m").granted("k1", "g1", "eve");
        let moved = || event("UpdateAlias").by("m").moved("alias/a", "k1", Some("k2"), "e0");
        let changed = || event("DisableKey").by("m").on_key("k1");
        let table = [
            (r#"{ action = "snapshot_evidence" }"#, stolen()),
            (r#"{ action = "call_out", name = "ticket" }"#, stolen()),
            (r#"{ action = "deactivate_access_key" }"#, stolen()),
            (r#"{ action = "quarantine_principal", scope = "key", ttl = "1h" }"#, stolen()),
            (r#"{ action = "revoke_grants", which = "evidence" }"#, granted()),
            (r#"{ action = "revoke_grants", which = "grantee" }"#, granted()),
            (r#"{ action = "require_mfa", ttl = "1h" }"#, changed()),
            (r#"{ action = "require_mfa", scope = "account", ttl = "1h" }"#, changed()),
            (r#"{ action = "alias_restore" }"#, moved()),
        ];
        for (step, call) in table {
            let case = of_step(step, vec![call.clone()]);
            assert_eq!(case.held_by(), None, "{step}: {:?}", case.judged());
            // With the same calls, but none that anyone signed.
            let mut forged = of_step(step, vec![call.clone()]);
            let forgery = call.error("InvalidSignatureException").call(0);
            forged.alert = VerifiedAlert::unchecked(forged.alert.alert().clone(), vec![forgery]);
            assert_eq!(forged.held_by(), Some(Guard::Provenance), "{step}");
            if case.proposal.kind.is_beside() {
                continue;
            }
            let elsewhere = Bench::new().alert("many-contexts", vec![changed().id("other")]).verified();
            let case = Case { alert: elsewhere, ..case };
            let principal = matches!(case.proposal.kind, ActionKind::QuarantinePrincipal);
            assert_eq!(case.held_by().is_some(), !principal, "{step}: {:?}", case.judged());
        }
    }

    #[test]
    fn the_protected_list_covers_what_an_action_is_really_about() {
        let stolen = event("Decrypt").by("m").with_access_key("AKIA1").on_key("k1");
        let mut key = of_step(r#"{ action = "deactivate_access_key" }"#, vec![stolen.clone()]);
        key.protected.principals.push(principal_arn("m"));
        assert_eq!(key.held_by(), Some(Guard::Protected));
        let moved = event("UpdateAlias").by("m").moved("alias/a", "k1", Some("k2"), "e0");
        let mut alias = of_step(r#"{ action = "alias_restore" }"#, vec![moved]);
        alias.protected.keys.push("k1".into());
        assert_eq!(alias.held_by(), Some(Guard::Protected));
        let mut bundle = of_step(r#"{ action = "snapshot_evidence" }"#, vec![stolen]);
        bundle.protected.keys.push("k1".into());
        bundle.facts.attribute_changes = 9;
        assert_eq!(bundle.held_by(), None, "looking at a protected key changes nothing");
    }

    #[test]
    fn the_share_counts_disabled_keys_alone_and_only_above_three() {
        let mut enough = tagged();
        enough.share(0.05, Some(Ok(96)));
        assert_eq!(enough.held_by(), None, "5 of 100");
        let mut few = tagged();
        few.share(0.01, Some(Ok(2)));
        few.facts.disables_last_hour = 2;
        assert_eq!(few.held_by(), None);
        let mut other = burst();
        other.share(0.01, None);
        assert_eq!(other.held_by(), None, "a quarantine disables no key");
    }

    #[test]
    fn a_tripped_breaker_lets_give_back_and_is_silent_about_nothing() {
        let mut cancel =
            case("key-deletion-scheduled", event("ScheduleKeyDeletion").by("m").on_key("k1").was("Enabled"));
        cancel.facts.tripped = Some("by 3 keys".into());
        assert_eq!(cancel.held_by(), None);
        let mut taking = tagged();
        taking.facts.tripped = Some("by 3 keys".into());
        let judgement = taking.judged();
        let (guard, reason, until, person) = judgement.hold().unwrap();
        assert_eq!((guard, reason, until, person), (Guard::Breaker, "tripped by 3 keys", None, true));
    }

    #[test]
    fn announcements_that_cannot_be_read_are_left_for_the_moment_of_the_call() {
        let mut unread = burst();
        unread.outside.changes = Some(Err("connection refused".into()));
        let judgement = unread.judged();
        assert!(judgement.hold().is_none());
        let later = judgement.verdicts.iter().find(|(guard, _)| *guard == Guard::Announced);
        assert!(matches!(later, Some((_, Verdict::Later(why))) if why.contains("connection refused")));
    }

    #[test]
    fn an_announced_action_is_held_without_a_page() {
        let mut case = tagged();
        case.announce("bob", Some("k1"), None, &["PutKeyPolicy"]);
        let judgement = case.judged();
        assert_eq!(judgement.hold(), Some((Guard::Announced, "CHG-1", None, false)));
        assert_eq!(Guard::Announced.to_string(), "announced");
    }

    #[test]
    fn a_guard_that_fails_holds() {
        let case = burst();
        let judgement = judge(&case.proposal, &case.alert, Err("disk"), &case.bounds(), 0);
        assert!(
            judgement
                .hold()
                .is_some_and(|(_, reason, until, person)| { reason.contains("disk") && until.is_none() && person })
        );
    }

    #[test]
    fn an_imported_log_makes_nothing_happen() {
        let import = SigningKey::from_seed("keytrail-import/aws-01", &[5; 32]).unwrap();
        let mut case = burst();
        let calls = (0..10).map(|_| event("Decrypt").denied().by("mallory")).collect();
        case.alert = Bench::new().alert("denied-burst", calls).in_log(&import).verified();
        let judgement = case.judged();
        let (guard, reason, until_us, needs_person) = judgement.hold().unwrap();
        assert_eq!((guard, until_us, needs_person), (Guard::VerifiedInput, None, true));
        assert!(reason.starts_with("imported log"), "{reason}");
    }

    #[test]
    fn a_session_is_protected_with_its_role() {
        let session = "arn:aws:sts::111122223333:assumed-role/deploy/shift";
        assert_eq!(role_of_session(session).as_deref(), Some("arn:aws:iam::111122223333:role/deploy"));
        assert_eq!(role_of_session("arn:aws:iam::111122223333:user/deploy"), None);
        let mut case = burst();
        case.proposal.target = session.to_owned();
        let list =
            Protected { principals: vec!["arn:aws:iam::111122223333:role/deploy".into()], ..Protected::default() };
        assert!(!matches!(protected(&case.proposal, &list), Verdict::Pass));
        assert!(matches!(protected(&case.proposal, &Protected::default()), Verdict::Pass));
    }

    #[test]
    fn root_built_ins_and_break_glass_are_always_protected() {
        for name in ["root", "keytrail/responder", "keytrail/trail", "keytrail/break-glass"] {
            assert!(is_protected_principal(&format!("arn:aws:iam::111122223333:{name}")), "{name}");
        }
        // Whoever may make users must not make one that nothing stops.
        assert!(!is_protected_principal(&principal_arn("break-glass")));
        assert!(!is_protected_principal(&principal_arn("root-like")));
        assert!(!is_protected_principal(&principal_arn("admin")));
    }
}
