//! What the steps beside disabling, cancelling and restoring policies make of the calls of an alert.

use super::{Order, POLICY_STEPS_MAX, Planner, latest_by_key};
use crate::intake::verify::{Call, MovedAlias};
use crate::outbox::ActionKind;
use crate::playbook::{Provenance, Scope, Which};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of one alert that are looked at before anything is changed; reading takes time that containment waits for.
const SNAPSHOT_KEYS_MAX: usize = 8;
/// Keys of one alert on which a principal is stopped: more than that is a matter for the whole principal.
const QUARANTINE_KEYS_MAX: usize = 20;
/// Keys that a call-out names.
const CALL_OUT_KEYS_MAX: usize = 20;

impl<'a> Planner<'a> {
    /// Stops the principal on each key that it called about.
    pub(super) fn quarantine_on_keys(&mut self, order: &Order<'_>, target: &str, calls: &[&Call], args: &Value) {
        let theirs = calls.iter().filter(|call| call.principal.as_deref() == Some(target));
        // Related keys of several regions have one id, and one quarantine.
        let keys: BTreeMap<&str, &str> = theirs.filter_map(|call| key_and_id(call.key_arn.as_deref()?)).collect();
        for (id, key) in keys.into_iter().take(QUARANTINE_KEYS_MAX) {
            let mut args = args.clone();
            args["keyArn"] = key.into();
            self.for_a_while(&order.part(id), ActionKind::QuarantinePrincipal, target, "", args);
        }
    }

    /// One bundle for each key, or for the principal where there is none; once in an incident.
    pub(super) fn snapshot(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let mut latest: BTreeMap<&str, &Call> = BTreeMap::new();
        for call in calls.iter().filter(|call| call.provenance != Provenance::Unauthenticated) {
            if let Some(key) = call.key_arn.as_deref() {
                latest.insert(key, call);
            }
        }
        let principal = self.alert.principal().zip(calls.last());
        let targets: Vec<(&str, &Call)> = match latest.is_empty() {
            false => latest.into_iter().take(SNAPSHOT_KEYS_MAX).collect(),
            true => principal.map(|(arn, call)| (arn, *call)).into_iter().collect(),
        };
        for (target, call) in targets {
            self.once(order, ActionKind::SnapshotEvidence, target, &call.event.event_id, json!({}));
        }
    }

    /// The grants that the calls made, or all that their grantees have on the key.
    pub(super) fn revoke_grants(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let made = calls.iter().filter(|call| call.is_allowed_administration());
        let made: Vec<&&Call> = made.filter(|call| call.event.event_name == "CreateGrant").collect();
        let mut wanted: BTreeMap<(&str, &str), &Call> = BTreeMap::new();
        for call in made {
            let (member, key) = match order.step.which {
                Some(Which::Grantee) => ("granteePrincipal", call.key_arn.as_deref()),
                _ => ("grantId", call.key_arn.as_deref()),
            };
            // The grant's own image says which key it is on; it must not say otherwise than the event. CloudTrail has no
            // image: what was asked for, and what was answered.
            let (named, on) = match self.alert.is_imported() {
                true => (said(call, member), said(call, "keyId").or(key)),
                false => (call.after(member), call.after("targetKeyArn")),
            };
            if let (Some(key), Some(named)) = (key, named)
                && on == Some(key)
            {
                wanted.insert((key, named), call);
            }
        }
        for ((key, named), call) in wanted {
            let (kind, args) = match order.step.which {
                Some(Which::Grantee) => (ActionKind::RevokeGrants, json!({ "granteePrincipal": named })),
                _ => (ActionKind::RevokeGrant, json!({ "grantId": named })),
            };
            self.on_key(&order.part(named), kind, key, call, args);
        }
    }

    /// On each key that was changed, or on all of its account.
    pub(super) fn require_mfa(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let Some(ttl) = order.step.ttl else { return };
        let args = json!({
            "actions": order.step.mfa_actions(), "ttlSeconds": ttl.as_secs(), "reason": self.reason(),
        });
        let mut accounts = BTreeSet::new();
        for (key, call) in latest_by_key(calls.iter().filter(|call| call.is_allowed_administration())) {
            let cause = call.event.event_id.as_str();
            if order.step.scope != Some(Scope::Account) {
                self.for_a_while(order, ActionKind::RequireMfa, key, cause, args.clone());
            } else if let Some(account) = key.split(':').nth(4)
                && accounts.insert(account)
            {
                self.for_a_while(order, ActionKind::RequireMfa, account, cause, args.clone());
            }
        }
    }

    /// Each alias that was moved or deleted, back to the last key that no alert was about.
    pub(super) fn restore_alias(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let mut latest: BTreeMap<&str, (&Call, MovedAlias<'_>)> = BTreeMap::new();
        for call in calls {
            if let Some(moved) = call.moved_alias() {
                latest.insert(moved.arn, (call, moved));
            }
        }
        for (alias, (call, moved)) in latest {
            let (args, impossible) = match self.innocent_target(&moved) {
                Some((event_id, key)) => {
                    let args = json!({
                        "currentTargetKeyArn": moved.to, "wantedEventId": event_id, "wantedKeyArn": key,
                    });
                    (args, None)
                }
                None => (json!({}), Some("there is no target from before to go back to".to_owned())),
            };
            if self.on_key(order, ActionKind::AliasRestore, alias, call, args).is_some()
                && let Some(proposal) = self.proposals.last_mut()
            {
                proposal.impossible = impossible;
            }
        }
    }

    /// The event that set the last target before this move which no alert was about, and the target: a second move must
    /// not make us go back to the first one.
    fn innocent_target(&self, moved: &MovedAlias<'_>) -> Option<(String, String)> {
        let (mut event_id, mut key) = (moved.set_by?.to_owned(), moved.from.to_owned());
        for _ in 0..POLICY_STEPS_MAX {
            match self.alias_offence(&event_id) {
                None => return Some((event_id, key)),
                Some((before, from)) => (event_id, key) = (before?, from),
            }
        }
        None
    }

    fn alias_offence(&self, event_id: &str) -> Option<(Option<String>, String)> {
        let here = self.alert.calls().iter().filter(|call| call.event.event_id == event_id);
        let here = here.filter_map(Call::moved_alias).next();
        let here = here.map(|moved| (moved.set_by.map(str::to_owned), moved.from.to_owned()));
        here.or_else(|| self.known.alias_offences.get(event_id).cloned())
    }

    /// The long-term keys that the principal called with. A session's ends with a quarantine, a service's is not its user's.
    pub(super) fn deactivate(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let Some(principal) = self.alert.principal() else { return };
        let theirs = calls.iter().filter(|call| call.principal.as_deref() == Some(principal));
        let mut latest: BTreeMap<&str, &Call> = BTreeMap::new();
        for call in theirs.filter(|call| call.provenance != Provenance::Unauthenticated) {
            let id = call.event.user_identity.access_key_id.as_deref();
            if let Some(id) = id.filter(|id| id.starts_with("AKIA") && call.claims_access_key(id)) {
                latest.insert(id, call);
            }
        }
        for (id, call) in latest {
            let args = json!({ "principalArn": principal, "reason": self.reason() });
            self.once(order, ActionKind::DeactivateAccessKey, id, &call.event.event_id, args);
        }
    }

    /// The site's own response, told what this is about; once in an incident.
    pub(super) fn call_out(&mut self, order: &Order<'_>, calls: &[&Call]) {
        let verified = calls.iter().rfind(|call| call.provenance != Provenance::Unauthenticated);
        let (Some(name), Some(call)) = (order.step.name.as_deref(), verified) else { return };
        let alert = self.alert.alert();
        let keys: Vec<&str> = self.alert.keys().into_iter().take(CALL_OUT_KEYS_MAX).collect();
        let args = json!({
            "principal": self.alert.principal(), "keys": keys, "ruleId": alert.rule_id, "alertId": alert.alert_id,
            "severity": alert.severity.as_str(), "seqs": calls.iter().map(|call| call.seq).collect::<Vec<_>>(),
        });
        self.once(order, ActionKind::CallOut, name, &call.event.event_id, args);
    }

    /// Proposes what is done once for a target, unless it never came to be.
    fn once(&mut self, order: &Order<'_>, kind: ActionKind, target: &str, cause: &str, args: Value) {
        self.unless_it_stands(order, kind, target, cause, args, |_, _| true);
    }
}

impl Order<'_> {
    /// The same step for one of several things on a target: each has an id of its own.
    fn part(&self, of: &str) -> Self {
        Order { number: format!("{}/{of}", self.number), ..*self }
    }
}

/// A member of CreateGrant's answer, or else of its request.
fn said<'a>(call: &'a Call, member: &str) -> Option<&'a str> {
    let answer = call.event.response_elements.as_ref().and_then(|answer| answer.get(member));
    let request = || call.event.request_parameters.as_ref().filter(|_| member != "keyId")?.get(member);
    answer.or_else(request)?.as_str()
}

/// A key's id, and its ARN.
fn key_and_id(arn: &str) -> Option<(&str, &str)> {
    arn.split_once(":key/").map(|(_, id)| (id, arn))
}
