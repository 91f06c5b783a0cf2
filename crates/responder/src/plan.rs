//! From an alert to proposals: a pure function of the alert, what the incident already holds, the playbooks and the time.
//!
//! The same alert planned twice gives the same action ids, so a replay adds nothing. Nothing here asks whether an action
//! is allowed (`guard`) or possible (`act`). Targets come from calls that the log provably holds, and an action on a key
//! names the call that caused it.

use crate::approval;
use crate::incident::IncidentId;
use crate::intake::verify::{Call, VerifiedAlert};
use crate::outbox::{ActionKind, ActionState};
use crate::playbook::{Mode, OnError, Playbook, Scope, Step, StepAction};
use crate::store::Micros;
use keytrail_kms::chain::leaf::sha256;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

mod steps;

/// First bytes of what is hashed into an action id.
const ID_CONTEXT: &str = "keytrail action v1";
/// Most steps back through a key's policies in search of one that no alert was about.
pub(crate) const POLICY_STEPS_MAX: usize = 100;

/// An action that a playbook asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// [`action_id`].
    pub id: String,
    /// The incident it belongs to.
    pub incident: IncidentId,
    /// Which playbook.
    pub playbook: String,
    /// Which version of it.
    pub playbook_version: u32,
    /// The step's number from 1, with `/enable` or `/undo` behind it for calls that a step implies.
    pub step: String,
    /// What to do.
    pub kind: ActionKind,
    /// Key or principal ARN.
    pub target: String,
    /// Counts how often this step was caused anew for this target.
    pub generation: u32,
    /// eventID of the offending call; empty for quarantines.
    pub cause: String,
    /// What the call needs to know.
    pub args: Value,
    /// Whether it may be carried out or is only recorded.
    pub mode: Mode,
    /// The action that must be done before this one.
    pub requires: Option<String>,
    /// A failure suppresses the later steps on this target.
    pub stop_on_error: bool,
    /// Why it cannot be carried out although the playbook asks for it.
    pub impossible: Option<String>,
    /// The last one like it was held or only observed: worth a row only if this one goes ahead.
    pub again: bool,
}

impl Proposal {
    /// What it changes of its target: the flip-flop guard and the cooldown count by this. Quarantines on different keys and
    /// different grants of one key have nothing to do with each other.
    pub fn attribute(&self) -> String {
        let of = ["keyArn", "grantId"].map(|name| self.args.get(name).and_then(Value::as_str));
        let attribute = self.kind.attribute();
        of.into_iter().flatten().next().map_or_else(|| attribute.to_owned(), |of| format!("{attribute} {of}"))
    }
}

/// An earlier action of the same incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAction {
    /// Which playbook.
    pub playbook: String,
    /// Which step.
    pub step: String,
    /// Key or principal.
    pub target: String,
    /// Its generation.
    pub generation: u32,
    /// Its cause.
    pub cause: String,
    /// Where it stands.
    pub state: ActionState,
    /// When its effect ends by itself.
    pub ends_us: Option<Micros>,
}

impl KnownAction {
    /// Held by a guard, called off, or only observed.
    fn was_held(&self) -> bool {
        matches!(self.state, ActionState::Suppressed | ActionState::Observed)
    }

    /// Under way, done or refused; the rest never came to be.
    fn stands(&self) -> bool {
        !self.was_held() && !matches!(self.state, ActionState::Dead | ActionState::Dropped)
    }
}

/// What planning needs to know besides the alert.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Earlier actions of the incident.
    pub actions: Vec<KnownAction>,
    /// Policy changes that alerts were about, with the eventID that had set the policy before.
    pub offences: HashMap<String, Option<String>>,
    /// Moves of aliases that alerts were about, with the eventID that had set the target before, and that target.
    pub alias_offences: HashMap<String, (Option<String>, String)>,
}

/// What the playbooks ask for, in the order of playbooks, steps and seq.
pub fn plan(
    alert: &VerifiedAlert,
    incident: &IncidentId,
    known: &Known,
    playbooks: &[Playbook],
    enforce: bool,
    now_us: Micros,
) -> Vec<Proposal> {
    let ceiling = if enforce { Mode::Enforce } else { Mode::Observe };
    let mut planner = Planner { alert, incident, known, now_us, proposals: Vec::new() };
    for playbook in playbooks {
        let mode = playbook.mode.min(ceiling);
        if mode > Mode::Off && playbook.matches.takes(alert.alert()) {
            planner.steps_of(playbook, mode);
        }
    }
    planner.proposals
}

/// Hex SHA-256 over the context and each field with its length (u32, big-endian) before it.
pub fn action_id(
    incident: &IncidentId,
    playbook: &str,
    version: u32,
    step: &str,
    target: &str,
    generation: u32,
) -> String {
    let (version, generation) = (version.to_string(), generation.to_string());
    let mut message = ID_CONTEXT.as_bytes().to_vec();
    for field in [incident.as_str(), playbook, &version, step, target, &generation] {
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(field.as_bytes());
    }
    hex::encode(sha256(&[&message]))
}

struct Planner<'a> {
    alert: &'a VerifiedAlert,
    incident: &'a IncidentId,
    known: &'a Known,
    now_us: Micros,
    proposals: Vec<Proposal>,
}

impl<'a> Planner<'a> {
    fn steps_of(&mut self, playbook: &Playbook, mode: Mode) {
        let calls: Vec<&'a Call> =
            self.alert.calls().iter().filter(|call| playbook.matches.counts(call) && !call.is_responders()).collect();
        for (index, step) in playbook.steps.iter().enumerate() {
            let mut order = Order { playbook, mode, step, number: (index + 1).to_string() };
            match step.action {
                StepAction::QuarantinePrincipal => self.quarantine(&mut order, &calls),
                StepAction::DisableKey => self.disable(&order, &calls),
                StepAction::CancelKeyDeletion => self.cancel_deletion(&order, &calls),
                StepAction::RestoreKeyPolicy => self.restore_policy(&order, &calls),
                StepAction::SnapshotEvidence => self.snapshot(&order, &calls),
                StepAction::RevokeGrants => self.revoke_grants(&order, &calls),
                StepAction::RequireMfa => self.require_mfa(&order, &calls),
                StepAction::AliasRestore => self.restore_alias(&order, &calls),
                StepAction::DeactivateAccessKey => self.deactivate(&order, &calls),
                StepAction::CallOut => self.call_out(&order, &calls),
            }
        }
    }

    fn quarantine(&mut self, order: &mut Order<'_>, calls: &[&Call]) {
        let Some(target) = self.alert.principal() else { return };
        if !calls.iter().any(|call| call.principal.as_deref() == Some(target)) {
            return;
        }
        let Some(ttl) = order.step.ttl else { return };
        let args = json!({ "ttlSeconds": ttl.as_secs(), "reason": self.reason() });
        if order.step.scope == Some(Scope::Key) {
            return self.quarantine_on_keys(order, target, calls, &args);
        }
        self.for_a_while(order, ActionKind::QuarantinePrincipal, target, "", args);
    }

    /// Proposes what ends by itself: one at a time, put anew only when the last one ran out or never came to be.
    fn for_a_while(&mut self, order: &Order<'_>, kind: ActionKind, target: &str, cause: &str, args: Value) {
        self.unless_it_stands(order, kind, target, cause, args, |last, now_us| {
            last.state != ActionState::Failed && last.ends_us.is_some_and(|at| at > now_us)
        });
    }

    /// Proposes it for the first time, or anew if the last one does not last: it ended, was held, or was only observed.
    fn unless_it_stands(
        &mut self,
        order: &Order<'_>,
        kind: ActionKind,
        target: &str,
        cause: &str,
        args: Value,
        lasts: impl Fn(&KnownAction, Micros) -> bool,
    ) {
        let last = self.latest(order, target);
        if last.is_some_and(|last| last.stands() && lasts(last, self.now_us)) {
            return;
        }
        let generation = last.map_or(0, |last| last.generation + 1);
        self.propose(order, kind, target, generation, cause, args);
        if let Some(proposal) = self.proposals.last_mut() {
            proposal.again = last.is_some_and(KnownAction::was_held);
        }
    }

    /// For people who look at the KMS.
    fn reason(&self) -> String {
        format!("incident {}, rule {}", self.incident.as_str(), self.alert.alert().rule_id)
    }

    fn disable(&mut self, order: &Order<'_>, calls: &[&Call]) {
        for (key, call) in latest_by_key(calls.iter().filter(|call| call.is_allowed_administration())) {
            if let Some(tag) = &order.step.only_if_tag {
                let Some((name, value)) = tag.split_once('=') else { continue };
                if call.tag(name) != Some(value) {
                    continue;
                }
            }
            self.on_key(order, ActionKind::DisableKey, key, call, json!({}));
        }
    }

    fn cancel_deletion(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let scheduled = calls.iter().filter(|call| call.is_allowed_administration());
        let scheduled = scheduled.filter(|call| call.event.event_name == "ScheduleKeyDeletion");
        for (key, call) in latest_by_key(scheduled) {
            let Some(cancel) = self.on_key(order, ActionKind::CancelKeyDeletion, key, call, json!({})) else {
                continue;
            };
            if call.before("keyState") != Some("Enabled") {
                continue;
            }
            let enable = Order { number: format!("{}/enable", order.number), ..*order };
            if self.on_key(&enable, ActionKind::EnableKey, key, call, json!({})).is_some()
                && let Some(proposal) = self.proposals.last_mut()
            {
                proposal.requires = Some(cancel);
            }
        }
    }

    fn restore_policy(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let changed = calls.iter().filter(|call| call.is_allowed_administration());
        let changed = changed.filter(|call| sets_policy(call));
        for (key, call) in latest_by_key(changed) {
            let wanted = self.innocent_policy(call);
            let (args, impossible) = match (policy_hash(call), wanted) {
                (Some(current), Some(wanted)) => {
                    let offender = call.principal.as_deref();
                    (json!({ "currentPolicySha256": current, "wantedEventId": wanted, "setBy": offender }), None)
                }
                (None, _) => (json!({}), Some("the event does not say which policy it set")),
                (_, None) => (json!({}), Some("there is no policy from before to go back to")),
            };
            if self.on_key(order, ActionKind::RestoreKeyPolicy, key, call, args).is_some()
                && let Some(proposal) = self.proposals.last_mut()
            {
                proposal.impossible = impossible.map(str::to_owned);
            }
        }
    }

    /// The event that set the last policy before `call` which no alert was about: a second offending change must not
    /// make us put the first one back.
    fn innocent_policy(&self, call: &Call) -> Option<String> {
        let mut wanted = call.more("previousPolicyEventId")?.to_owned();
        for _ in 0..POLICY_STEPS_MAX {
            match self.offence(&wanted) {
                None => return Some(wanted),
                Some(before) => wanted = before?,
            }
        }
        None
    }

    /// `Some(previous)` when the event with this id set a policy that an alert was about.
    fn offence(&self, event_id: &str) -> Option<Option<String>> {
        let here = self.alert.calls().iter().find(|call| call.event.event_id == event_id && sets_policy(call));
        match here {
            Some(call) => Some(call.more("previousPolicyEventId").map(str::to_owned)),
            None => self.known.offences.get(event_id).cloned(),
        }
    }

    /// Proposes an action on a key unless this very call already led to it; returns its id.
    fn on_key(&mut self, order: &Order<'_>, kind: ActionKind, key: &str, call: &Call, args: Value) -> Option<String> {
        let cause = call.event.event_id.as_str();
        let same = self.same_step(order, key);
        if same.iter().any(|known| known.cause == cause) {
            return None;
        }
        let generation = same.iter().map(|known| known.generation + 1).max().unwrap_or(0);
        Some(self.propose(order, kind, key, generation, cause, args))
    }

    fn propose(
        &mut self,
        order: &Order<'_>,
        kind: ActionKind,
        target: &str,
        generation: u32,
        cause: &str,
        args: Value,
    ) -> String {
        let Order { playbook, mode, step, number } = order;
        let id = action_id(self.incident, &playbook.id, playbook.version, number, target, generation);
        let mut args = args;
        approval::into_args(step.approval.as_ref(), &mut args);
        self.proposals.push(Proposal {
            id: id.clone(),
            incident: self.incident.clone(),
            playbook: playbook.id.clone(),
            playbook_version: playbook.version,
            step: number.clone(),
            kind,
            target: target.to_owned(),
            generation,
            cause: cause.to_owned(),
            args,
            mode: *mode,
            requires: None,
            stop_on_error: step.on_error == OnError::Stop,
            impossible: None,
            again: false,
        });
        id
    }

    fn same_step(&self, order: &Order<'_>, target: &str) -> Vec<&'a KnownAction> {
        let same = |known: &&KnownAction| {
            known.playbook == order.playbook.id && known.step == order.number && known.target == target
        };
        self.known.actions.iter().filter(same).collect()
    }

    fn latest(&self, order: &Order<'_>, target: &str) -> Option<&'a KnownAction> {
        self.same_step(order, target).into_iter().max_by_key(|known| known.generation)
    }
}

struct Order<'a> {
    playbook: &'a Playbook,
    mode: Mode,
    step: &'a Step,
    number: String,
}

/// True for calls that set a key's policy.
pub(crate) fn sets_policy(call: &Call) -> bool {
    matches!(call.event.event_name.as_str(), "PutKeyPolicy" | "CreateKey")
}

/// SHA-256 of the policy that the call set, hex: from the key image, which must agree with the text where both are there.
fn policy_hash(call: &Call) -> Option<String> {
    let image = call.after("policySha256").map(str::to_owned);
    let text = call.more("policy").map(|text| hex::encode(sha256(&[text.as_bytes()])));
    match (image, text) {
        (Some(image), Some(text)) => (image == text).then_some(image),
        (image, text) => image.or(text),
    }
}

/// For each key the last of the calls.
fn latest_by_key<'a, 'b: 'a>(calls: impl Iterator<Item = &'a &'b Call>) -> BTreeMap<&'b str, &'b Call> {
    let mut latest: BTreeMap<&str, &Call> = BTreeMap::new();
    for call in calls {
        let Some(key) = call.key_arn.as_deref() else { continue };
        match latest.get(key) {
            Some(held) if held.seq >= call.seq => {}
            _ => {
                latest.insert(key, call);
            }
        }
    }
    latest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::playbook::Provenance;
    use crate::testing::{Bench, EventBuilder, event, key_arn, playbook_of, principal_arn, shipped_playbooks};
    use keytrail_kms::chain::checkpoint::SigningKey;
    use proptest::prelude::*;

    fn incident() -> IncidentId {
        IncidentId::new("I-test")
    }

    fn known_of(proposals: &[Proposal]) -> Known {
        let actions = proposals.iter().map(|proposal| KnownAction {
            playbook: proposal.playbook.clone(),
            step: proposal.step.clone(),
            target: proposal.target.clone(),
            generation: proposal.generation,
            cause: proposal.cause.clone(),
            state: ActionState::Done,
            ends_us: Some(3_600_000_000),
        });
        Known { actions: actions.collect(), ..Known::default() }
    }

    fn planned(alert: &VerifiedAlert, known: &Known) -> Vec<Proposal> {
        plan(alert, &incident(), known, &shipped_playbooks(), true, 0)
    }

    #[test]
    fn a_public_policy_is_restored_and_only_a_tagged_key_disabled() {
        let bench = Bench::new();
        let plain = bench.alert("key-policy-public", vec![event("PutKeyPolicy").by("m").on_key("k1").opened("e0")]);
        let proposals = planned(&plain.verified(), &Known::default());
        assert_eq!(proposals.len(), 1);
        assert_eq!(proposals[0].kind, ActionKind::RestoreKeyPolicy);
        assert_eq!(proposals[0].args["wantedEventId"], "e0");
        let tagged = event("PutKeyPolicy").by("m").on_key("k2").opened("e0").tagged("on-exposure", "disable");
        let proposals = planned(&bench.alert("key-policy-public", vec![tagged]).verified(), &Known::default());
        let kinds: Vec<ActionKind> = proposals.iter().map(|proposal| proposal.kind).collect();
        assert_eq!(kinds, [ActionKind::DisableKey, ActionKind::RestoreKeyPolicy]);
    }

    #[test]
    fn a_second_opening_goes_back_to_the_policy_before_the_first() {
        let bench = Bench::new();
        let first = event("PutKeyPolicy").id("e1").by("m").on_key("k1").opened("e0");
        let second = event("PutKeyPolicy").id("e2").by("m").on_key("k1").opened("e1");
        let together = bench.alert("key-policy-public", vec![first, second]).verified();
        assert_eq!(planned(&together, &Known::default())[0].args["wantedEventId"], "e0");
        let second = event("PutKeyPolicy").id("e2").by("m").on_key("k1").opened("e1");
        let alone = bench.alert("key-policy-public", vec![second]).verified();
        let known = Known { offences: HashMap::from([("e1".into(), Some("e0".into()))]), ..Known::default() };
        assert_eq!(planned(&alone, &known)[0].args["wantedEventId"], "e0");
    }

    #[test]
    fn a_grant_in_an_imported_log_is_revoked_by_what_was_asked_and_answered() {
        let import = SigningKey::from_seed("keytrail-import/aws-01", &[5; 32]).unwrap();
        let planned = |which: &str, on: &str| {
            let steps = format!(r#"{{ action = "revoke_grants", which = "{which}" }}"#);
            let playbook = playbook_of("grants", "grant-to-self", &steps);
            let call = event("CreateGrant").by("m").on_key("k1").with("granteePrincipal", principal_arn("eve").into());
            let call = call.answered(json!({ "grantId": "g1", "keyId": key_arn(on) }));
            let alert = Bench::new().alert("grant-to-self", vec![call]).in_log(&import).verified();
            let all = plan(&alert, &incident(), &Known::default(), &[playbook], true, 0);
            all.into_iter().map(|one| (one.kind, one.target, one.args)).collect::<Vec<_>>()
        };
        let (one, all) = (json!({ "grantId": "g1" }), json!({ "granteePrincipal": principal_arn("eve") }));
        assert_eq!(planned("evidence", "k1"), [(ActionKind::RevokeGrant, key_arn("k1"), one)]);
        assert_eq!(planned("grantee", "k1"), [(ActionKind::RevokeGrants, key_arn("k1"), all)]);
        assert_eq!(planned("evidence", "k2"), [], "the answer names another key than the record");
    }

    #[test]
    fn a_deletion_is_cancelled_and_the_key_enabled_only_if_it_was() {
        let bench = Bench::new();
        for (before, kinds) in [
            ("Enabled", vec![ActionKind::CancelKeyDeletion, ActionKind::EnableKey]),
            ("Disabled", vec![ActionKind::CancelKeyDeletion]),
        ] {
            let call = event("ScheduleKeyDeletion").by("m").on_key("k1").was(before);
            let proposals = planned(&bench.alert("key-deletion-scheduled", vec![call]).verified(), &Known::default());
            assert_eq!(proposals.iter().map(|proposal| proposal.kind).collect::<Vec<_>>(), kinds);
            assert_eq!(proposals.get(1).and_then(|enable| enable.requires.clone()).is_some(), before == "Enabled");
        }
    }

    #[test]
    fn denied_or_anonymous_calls_never_touch_a_key() {
        let bench = Bench::new();
        let denied = event("PutKeyPolicy").by("m").on_key("k1").opened("e0").denied();
        assert!(planned(&bench.alert("key-policy-public", vec![denied]).verified(), &Known::default()).is_empty());
        let unsigned = event("Decrypt").by("victim").error("InvalidSignatureException");
        assert!(planned(&bench.alert("denied-burst", vec![unsigned]).verified(), &Known::default()).is_empty());
    }

    #[test]
    fn a_quarantine_is_put_again_only_after_it_ran_out() {
        let bench = Bench::new();
        let alert = bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).verified();
        let first = planned(&alert, &Known::default());
        assert_eq!(first[0].target, principal_arn("m"));
        assert!(planned(&alert, &known_of(&first)).is_empty());
        let later = plan(&alert, &incident(), &known_of(&first), &shipped_playbooks(), true, 3_600_000_001);
        assert_eq!(later[0].generation, 1);
        assert_ne!(later[0].id, first[0].id);
    }

    #[test]
    fn the_lower_of_command_and_playbook_mode_holds() {
        let bench = Bench::new();
        let alert = bench.alert("denied-burst", vec![event("Decrypt").denied().by("m")]).verified();
        let observed = plan(&alert, &incident(), &Known::default(), &shipped_playbooks(), false, 0);
        assert_eq!(observed[0].mode, Mode::Observe);
        let mut off = shipped_playbooks();
        off.iter_mut().for_each(|playbook| playbook.mode = Mode::Off);
        assert!(plan(&alert, &incident(), &Known::default(), &off, true, 0).is_empty());
    }

    proptest! {
        #[test]
        fn planning_is_repeatable_and_replays_add_nothing(
            calls in proptest::collection::vec((0usize..3, 0usize..4, any::<bool>(), any::<bool>()), 1..12),
            rule in 0usize..3,
        ) {
            let bench = Bench::new();
            let names = ["PutKeyPolicy", "ScheduleKeyDeletion", "Decrypt"];
            let rules = ["key-policy-public", "key-deletion-scheduled", "denied-burst"];
            let events = calls.iter().enumerate().map(|(index, (name, key, denied, tagged))| {
                let mut one = event(names[*name]).id(&format!("e{index}")).by("m").on_key(&format!("k{key}")).opened("e");
                if *tagged { one = one.tagged("on-exposure", "disable"); }
                if *denied { one = one.denied(); }
                one
            });
            let alert = bench.alert(rules[rule], events.collect()).verified();
            let first = planned(&alert, &Known::default());
            prop_assert_eq!(&first, &planned(&alert, &Known::default()));
            prop_assert!(planned(&alert, &known_of(&first)).is_empty());
            let mut ids: Vec<&str> = first.iter().map(|proposal| proposal.id.as_str()).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), first.len());
            for proposal in &first {
                if proposal.kind != ActionKind::QuarantinePrincipal {
                    let caused = alert.calls().iter().find(|call| call.event.event_id == proposal.cause).unwrap();
                    prop_assert!(caused.is_allowed_administration());
                    prop_assert_eq!(caused.key_arn.as_deref(), Some(proposal.target.as_str()));
                }
            }
        }
    }

    /// Every step there is, on alerts of one rule.
    fn all_steps() -> Vec<Playbook> {
        let steps = [
            r#"{ action = "snapshot_evidence" }"#,
            r#"{ action = "quarantine_principal", ttl = "1h" }"#,
            r#"{ action = "quarantine_principal", scope = "key", ttl = "1h" }"#,
            r#"{ action = "deactivate_access_key" }"#,
            r#"{ action = "disable_key" }"#,
            r#"{ action = "cancel_key_deletion" }"#,
            r#"{ action = "restore_key_policy" }"#,
            r#"{ action = "revoke_grants", which = "evidence" }"#,
            r#"{ action = "revoke_grants", which = "grantee" }"#,
            r#"{ action = "require_mfa", ttl = "1h" }"#,
            r#"{ action = "require_mfa", scope = "account", ttl = "1h" }"#,
            r#"{ action = "alias_restore" }"#,
            r#"{ action = "call_out", name = "ticket" }"#,
        ];
        vec![playbook_of("all", "many-contexts", &steps.join(", "))]
    }

    /// One call of any kind that matters, by number.
    fn any_call(name: usize, key: usize, other: usize) -> EventBuilder {
        let (key, other) = (format!("k{key}"), format!("k{other}"));
        match name {
            0 => event("PutKeyPolicy").on_key(&key).opened("e"),
            1 => event("ScheduleKeyDeletion").on_key(&key).was("Enabled").opened("e"),
            2 => event("Decrypt").on_key(&key),
            3 => event("CreateGrant").granted(&key, &format!("g-{key}-{other}"), &other),
            4 => event("UpdateAlias").moved("alias/a", &key, Some(&other), "e"),
            _ => event("DeleteAlias").moved("alias/b", &key, None, "e"),
        }
    }

    proptest! {
        #[test]
        fn all_steps_are_repeatable_unique_and_earned(
            calls in proptest::collection::vec(
                (0usize..6, 0usize..3, 0usize..3, any::<bool>(), any::<bool>(), any::<bool>()), 1..10),
        ) {
            let bench = Bench::new();
            let events = calls.iter().enumerate().map(|(index, (name, key, other, denied, unsigned, service))| {
                let mut one = any_call(*name, *key, *other).id(&format!("e{index}")).by("m");
                one = one.with_access_key(&format!("AKIA{}", index % 2));
                if *denied { one = one.denied(); }
                if *unsigned { one = one.error("InvalidSignatureException"); }
                if *service { one = one.via_service("ec2.amazonaws.com"); }
                one
            });
            let alert = bench.alert("many-contexts", events.collect()).verified();
            let playbooks = all_steps();
            let planned = |known: &Known| plan(&alert, &incident(), known, &playbooks, true, 0);
            let first = planned(&Known::default());
            prop_assert_eq!(&first, &planned(&Known::default()));
            prop_assert!(planned(&known_of(&first)).is_empty());
            let mut ids: Vec<&str> = first.iter().map(|proposal| proposal.id.as_str()).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), first.len());
            for proposal in &first {
                let caused = alert.calls().iter().find(|call| call.event.event_id == proposal.cause);
                match proposal.kind {
                    ActionKind::QuarantinePrincipal => {
                        prop_assert_eq!(&proposal.target, &principal_arn("m"));
                    }
                    // Never for calls that others made in this name, and never a service's key.
                    ActionKind::DeactivateAccessKey => {
                        let call = caused.unwrap();
                        prop_assert!(call.provenance != Provenance::Unauthenticated);
                        prop_assert!(call.event.user_identity.invoked_by.is_none());
                    }
                    ActionKind::SnapshotEvidence | ActionKind::CallOut => {
                        prop_assert!(caused.unwrap().provenance != Provenance::Unauthenticated);
                    }
                    ActionKind::AliasRestore => {
                        let moved = caused.unwrap().moved_alias();
                        prop_assert_eq!(moved.map(|moved| moved.arn), Some(proposal.target.as_str()));
                    }
                    ActionKind::RequireMfa if !proposal.target.starts_with("arn:") => {
                        prop_assert!(caused.unwrap().is_allowed_administration());
                    }
                    _ => {
                        let call = caused.unwrap();
                        prop_assert!(call.is_allowed_administration());
                        prop_assert_eq!(call.key_arn.as_deref(), Some(proposal.target.as_str()));
                    }
                }
            }
        }
    }

    #[test]
    fn an_alias_moved_twice_goes_back_to_where_it_was_before_the_first_time() {
        let bench = Bench::new();
        let first = || event("UpdateAlias").id("e1").by("m").moved("alias/a", "k0", Some("k1"), "e0");
        let second = || event("UpdateAlias").id("e2").by("m").moved("alias/a", "k1", Some("k2"), "e1");
        let playbooks = all_steps();
        let restored = |alert: &VerifiedAlert, known: &Known| {
            let planned = plan(alert, &incident(), known, &playbooks, true, 0);
            let one = planned.into_iter().find(|proposal| proposal.kind == ActionKind::AliasRestore).unwrap();
            one.args
        };
        let wanted = json!({
            "currentTargetKeyArn": key_arn("k2"), "wantedEventId": "e0", "wantedKeyArn": key_arn("k0"),
        });
        let together = bench.alert("many-contexts", vec![first(), second()]).verified();
        assert_eq!(restored(&together, &Known::default()), wanted);
        let alone = bench.alert("many-contexts", vec![second()]).verified();
        let before = ("e1".to_owned(), (Some("e0".to_owned()), key_arn("k0")));
        let known = Known { alias_offences: HashMap::from([before]), ..Known::default() };
        assert_eq!(restored(&alone, &known), wanted);
        let gone = event("DeleteAlias").id("e3").by("m").moved("alias/a", "k0", None, "e0");
        let args = restored(&bench.alert("many-contexts", vec![gone]).verified(), &Known::default());
        assert!(args["currentTargetKeyArn"].is_null());
    }

    #[test]
    fn the_action_id_has_a_test_vector() {
        let id = action_id(&IncidentId::new("I-1"), "p", 1, "1", &key_arn("k1"), 0);
        let mut message = b"keytrail action v1".to_vec();
        for field in ["I-1", "p", "1", "1", &key_arn("k1"), "0"] {
            message.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            message.extend_from_slice(field.as_bytes());
        }
        assert_eq!(id, hex::encode(sha256(&[&message])));
    }
}
