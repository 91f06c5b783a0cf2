//! May this action be carried out? Nine guards in a fixed order; the first that holds decides, and an error holds.
//!
//! Pure: [`Facts`] are read from the store before (in the transaction that plans), so counts survive a restart and two
//! plans cannot both be the third of three. The ninth guard, re-reading the target just before the call, is in `act`.
//! Research: a response that outsiders can provoke is an attack surface; what cannot be judged is not done but paged.

use crate::config::{Limits, Protected};
use crate::intake::verify::{VerifiedAlert, is_built_in};
use crate::outbox::ActionKind;
use crate::plan::Proposal;
use crate::playbook::{GuardSettings, Provenance};
use crate::store::Micros;
use std::fmt;
use std::time::Duration;

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
}

/// What the configuration allows.
pub struct Bounds<'a> {
    /// The protected list.
    pub protected: &'a Protected,
    /// Limits of the whole responder.
    pub limits: &'a Limits,
    /// The playbook's own.
    pub playbook: &'a GuardSettings,
}

/// The verdicts so far, the last one being the one that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// In order.
    pub verdicts: Vec<(Guard, Verdict)>,
}

impl Judgement {
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
            Guard::VerifiedInput => verified_input(alert),
            Guard::Provenance => provenance(proposal, alert),
            Guard::Protected => protected(proposal, bounds.protected),
            Guard::Announced | Guard::Approval => Verdict::NotConfigured,
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
    Judgement { verdicts }
}

const ORDER: [Guard; 8] = [
    Guard::VerifiedInput,
    Guard::Provenance,
    Guard::Protected,
    Guard::Announced,
    Guard::FlipFlop,
    Guard::Cooldown,
    Guard::Breaker,
    Guard::Approval,
];

fn verified_input(alert: &VerifiedAlert) -> Verdict {
    // The type says that all verified; an alert without a single record proves nothing about anyone.
    if alert.is_imported() {
        return hold("imported log: its calls were not made here".into());
    }
    if alert.calls().is_empty() { hold("the alert carries no evidence".into()) } else { Verdict::Pass }
}

fn provenance(proposal: &Proposal, alert: &VerifiedAlert) -> Verdict {
    if let Some(reason) = &proposal.impossible {
        return hold(reason.clone());
    }
    let entitled = match proposal.kind {
        ActionKind::QuarantinePrincipal => {
            let mut theirs = alert.calls().iter().filter(|call| call.principal.as_deref() == Some(&proposal.target));
            let mut any = false;
            let all = theirs.all(|call| {
                any = true;
                call.provenance != Provenance::Unauthenticated
            });
            any && all
        }
        _ => alert.calls().iter().any(|call| {
            call.is_allowed_administration()
                && call.event.event_id == proposal.cause
                && call.key_arn.as_deref() == Some(&proposal.target)
        }),
    };
    match (entitled, proposal.kind) {
        (true, _) => Verdict::Pass,
        (false, ActionKind::QuarantinePrincipal) => {
            hold("the evidence holds calls in this name whose signature was not verified".into())
        }
        (false, _) => hold("the evidence holds no allowed administrative call on this key".into()),
    }
}

fn protected(proposal: &Proposal, list: &Protected) -> Verdict {
    let target = proposal.target.as_str();
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
fn role_of_session(arn: &str) -> Option<String> {
    let (account, session) = arn.strip_prefix("arn:aws:sts::")?.split_once(":assumed-role/")?;
    let (role, _) = session.rsplit_once('/')?;
    Some(format!("arn:aws:iam::{account}:role/{role}"))
}

/// The account root, Keytrail's own principals and the break-glass principal: whoever is left to help.
pub(crate) fn is_protected_principal(arn: &str) -> bool {
    let iam = arn.split_once(":iam::").map(|(_, rest)| rest);
    let name = iam.and_then(|rest| rest.split_once(':')).map(|(_, name)| name);
    is_built_in(arn) || matches!(name, Some("root" | "break-glass" | "user/break-glass"))
}

fn counted(guard: Guard, proposal: &Proposal, facts: &Facts, bounds: &Bounds<'_>, now_us: Micros) -> Verdict {
    match guard {
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
        let reason = format!("already quarantined for another {} s", (until - now_us) / 1_000_000);
        return Verdict::Hold { reason, until_us: None, needs_person: false };
    }
    let Some(last) = facts.last_same_us else { return Verdict::Pass };
    let ready = last.saturating_add(micros(playbook.cooldown));
    if ready <= now_us {
        return Verdict::Pass;
    }
    // The attack goes on: the action is late, not lost, and looks at its target again when its time has come.
    let reason = format!("cooldown of {:?}", playbook.cooldown);
    Verdict::Hold { reason, until_us: Some(ready), needs_person: false }
}

fn breaker(proposal: &Proposal, facts: &Facts, bounds: &Bounds<'_>) -> Verdict {
    let disables = bounds.limits.disable_keys_per_hour;
    if proposal.kind == ActionKind::DisableKey && facts.disables_last_hour >= disables {
        return hold(format!("circuit breaker: {disables} keys were disabled in the last hour"));
    }
    let actions = bounds.limits.playbook_actions_per_hour.unwrap_or(bounds.playbook.max_actions_per_hour);
    if facts.playbook_last_hour >= actions {
        return hold(format!("circuit breaker: the playbook took {actions} actions in the last hour"));
    }
    Verdict::Pass
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
            Self::Announced => "announced change",
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
    use crate::testing::{Bench, EventBuilder, event, key_arn, principal_arn, shipped_playbooks};
    use keytrail_kms::chain::checkpoint::SigningKey;

    struct Case {
        alert: VerifiedAlert,
        proposal: Proposal,
        facts: Facts,
        protected: Protected,
        limits: Limits,
    }

    fn case(rule: &str, call: EventBuilder) -> Case {
        let alert = Bench::new().alert(rule, vec![call]).verified();
        let known = Known::default();
        let proposal = plan(&alert, &IncidentId::new("I-1"), &known, &shipped_playbooks(), true, 0).remove(0);
        Case { alert, proposal, facts: Facts::default(), protected: Protected::default(), limits: Limits::default() }
    }

    fn tagged() -> Case {
        let call = event("PutKeyPolicy").by("m").on_key("k1").opened("e0").tagged("on-exposure", "disable");
        case("key-policy-public", call)
    }

    fn burst() -> Case {
        case("denied-burst", event("Decrypt").denied().by("m"))
    }

    impl Case {
        fn judged(&self) -> Judgement {
            let playbook = GuardSettings::default();
            let bounds = Bounds { protected: &self.protected, limits: &self.limits, playbook: &playbook };
            judge(&self.proposal, &self.alert, Ok(&self.facts), &bounds, 1_000_000_000_000)
        }

        fn held_by(&self) -> Option<Guard> {
            self.judged().hold().map(|(guard, ..)| guard)
        }
    }

    #[test]
    fn nothing_holds_an_ordinary_action_and_missing_features_say_so() {
        for case in [tagged(), burst()] {
            let judgement = case.judged();
            assert!(judgement.hold().is_none());
            let missing = judgement.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::NotConfigured);
            assert_eq!(missing.map(|(guard, _)| *guard).collect::<Vec<_>>(), [Guard::Announced, Guard::Approval]);
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
        add(Guard::FlipFlop, tagged(), &|case| case.facts.attribute_changes = 2);
        add(Guard::Cooldown, tagged(), &|case| case.facts.last_same_us = Some(now - 1));
        add(Guard::Cooldown, burst(), &|case| case.facts.quarantined_until_us = Some(now + 5));
        add(Guard::Breaker, tagged(), &|case| case.facts.disables_last_hour = 3);
        add(Guard::Breaker, burst(), &|case| case.facts.playbook_last_hour = 30);
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

    #[test]
    fn a_guard_that_fails_holds() {
        let case = burst();
        let playbook = GuardSettings::default();
        let bounds = Bounds { protected: &case.protected, limits: &case.limits, playbook: &playbook };
        let judgement = judge(&case.proposal, &case.alert, Err("disk"), &bounds, 0);
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
        for name in ["root", "keytrail/responder", "keytrail/trail", "user/break-glass", "keytrail/break-glass"] {
            assert!(is_protected_principal(&format!("arn:aws:iam::111122223333:{name}")), "{name}");
        }
        assert!(!is_protected_principal(&principal_arn("root-like")));
        assert!(!is_protected_principal(&principal_arn("admin")));
    }
}
