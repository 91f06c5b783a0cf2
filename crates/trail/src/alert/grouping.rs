//! Which alerts are one incident: asked by the responder, and by the score of labelled traffic.
//!
//! An alert is about the principal that its rule names, else the only one in its evidence, else a key. It joins an incident about the
//! same, or one that its evidence leads to: who changed something and who called after that in one alert, who was given a grant, let in
//! by a policy, or made as a user or session, act together until the opposite is known. What is linked stays small: within the
//! window, a day at most, a few principals, and never by way of an account's root, a service or Keytrail's own principals,
//! which touch everything. Works on records whose proofs were checked or that are only scored; it proves nothing itself.

use super::Alert;
use keytrail_kms::event::{AuditEvent, Resource};
use keytrail_kms::policy;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Alerts about the same thing this far apart are one incident, unless the site says otherwise.
pub const WINDOW: Duration = Duration::from_secs(4 * 3_600);

/// Most principals of an incident.
pub const PRINCIPALS_MAX: usize = 16;

/// Whoever is linked to an incident is so within this time of what opened it. Not of its first event: an alert about a
/// cancelled deletion begins when somebody else scheduled that, weeks ago.
const SPAN_US: i64 = 24 * 3_600 * 1_000_000;

/// A change that lets in more than this is no hand-over: a deployment, or a door opened to a crowd.
const LET_IN_MAX: usize = 4;

/// What alerts are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `principal`, `key` or `alert`.
    pub kind: &'static str,
    /// Its ARN, or the alert's id.
    pub value: String,
}

/// A call of the evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    pub principal: Option<String>,
    /// The key.
    pub key_arn: Option<String>,
    /// It changed something, and no service made it for somebody.
    pub changes: bool,
    /// Whom it made, or let in.
    pub lets_in: BTreeSet<String>,
}

impl Call {
    /// Reads what matters out of a record.
    pub fn of(event: &AuditEvent, key_arn: Option<&str>) -> Self {
        let own = event.error_code.is_none() && event.user_identity.invoked_by.is_none();
        Self {
            principal: event.user_identity.arn.clone(),
            key_arn: key_arn.map(str::to_owned),
            changes: own && !event.read_only,
            lets_in: if own { lets_in(event) } else { BTreeSet::new() },
        }
    }
}

/// Whom a call that worked made or let in: a grantee, principals that a policy newly names, a user, a session of a role.
fn lets_in(event: &AuditEvent) -> BTreeSet<String> {
    let more = &event.additional_event_data.more;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let parameters = event.request_parameters.as_ref();
    let answer = event.response_elements.as_ref();
    match event.event_name.as_str() {
        "CreateGrant" => text(parameters.and_then(|all| all.get("granteePrincipal"))).into_iter().collect(),
        "PutKeyPolicy" | "CreateKey" | "ReplicateKey" => {
            let new = text(more.get("policy").or_else(|| parameters.and_then(|all| all.get("policy"))));
            let old = text(more.get("previousPolicy"));
            let added = new.and_then(|new| policy::let_in(old.as_deref(), &new).ok()).unwrap_or_default();
            added.into_iter().filter(|name| name.starts_with("arn:")).collect()
        }
        "AssumeRole" => text(answer.and_then(|all| all.pointer("/assumedRoleUser/arn"))).into_iter().collect(),
        "CreateUser" | "CreateAccessKey" => {
            let user = |resource: &&Resource| resource.kind == "AWS::IAM::User";
            event.resources.iter().filter(user).map(|resource| resource.arn.clone()).collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Whether others may be linked by way of this principal.
fn links(arn: &str) -> bool {
    arn.starts_with("arn:")
        && !arn.ends_with(":root")
        && !arn.contains(":keytrail/")
        && !arn.contains("aws-service-role/")
        && !arn.ends_with(".amazonaws.com")
}

/// The role of a session; of all others themselves.
pub fn role(arn: &str) -> String {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts.as_slice() {
        ["arn", partition, "sts", region, account, resource] => {
            match resource.strip_prefix("assumed-role/").and_then(|rest| rest.split_once('/')) {
                Some((role, _)) => format!("arn:{partition}:iam:{region}:{account}:role/{role}"),
                None => arn.to_owned(),
            }
        }
        _ => arn.to_owned(),
    }
}

/// Grants and policies name a role and let in its sessions; two sessions are not the same.
fn same(one: &str, other: &str) -> bool {
    one == other || role(one) == other || role(other) == one
}

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is grouped by.
    pub group: Group,
    /// Who acts together here, the group's principal among them, of a role the sessions that called. Empty if nobody may be
    /// linked by way of it.
    pub principals: BTreeSet<String>,
    /// In whose name the group's principal called last: of several incidents, theirs comes first.
    pub latest: Option<String>,
    /// Time of its first event, Unix microseconds.
    pub first_us: i64,
    /// Time of its last one.
    pub last_us: i64,
}

impl Subject {
    /// Of an alert with these calls as evidence, in the order of the log.
    pub fn of(alert: &Alert, calls: &[Call]) -> Self {
        let claimed = alert.group_by.iter().find(|group| group.name == "principal_arn");
        let claimed = claimed.and_then(|group| group.value.as_deref());
        // Findings about somebody without evidence: told with what was told of them before, nothing is done because of them.
        let entity = alert.group_by.iter().find(|group| group.name == "entity" && calls.is_empty());
        let entity = entity.and_then(|group| group.value.as_deref());
        if let Some(key) = entity.filter(|name| name.contains(":kms:") && claimed.is_none()) {
            let (first_us, last_us) = (alert.first_event_micros, alert.last_event_micros);
            let group = Group { kind: "key", value: key.to_owned() };
            return Self { group, principals: BTreeSet::new(), latest: None, first_us, last_us };
        }
        let claimed = claimed.or(entity);
        let times = (alert.first_event_micros, alert.last_event_micros);
        Self::new(claimed, &alert.alert_id, times, calls)
    }

    /// The same from its parts: the principal that the rule's group names, the alert's id, its first and last event.
    pub fn new(claimed: Option<&str>, alert_id: &str, (first_us, last_us): (i64, i64), calls: &[Call]) -> Self {
        let mut group = group(claimed, alert_id, calls);
        let mut principals = accomplices(calls);
        let mut latest = None;
        if group.kind == "principal" {
            let own = callers(&group.value, calls);
            latest = calls.iter().rev().filter_map(|call| call.principal.clone()).find(|caller| own.contains(caller));
            if let Some(only) = own.first().filter(|_| own.len() == 1) {
                group.value.clone_from(only);
            }
            if own.is_disjoint(&principals) {
                principals.clear();
            }
            principals.extend(own.into_iter().filter(|name| links(name)));
        }
        Self { group, principals, latest, first_us, last_us }
    }
}

/// In whose names the principal acts. A rule that counts for a role names it: its sessions in the evidence act together, the
/// role's other sessions may be other people. Where there is only one, the alert is about that one.
fn callers(principal: &str, calls: &[Call]) -> BTreeSet<String> {
    let all = calls.iter().filter_map(|call| call.principal.as_deref());
    let own: BTreeSet<String> =
        all.filter(|caller| *caller == principal || role(caller) == principal).map(str::to_owned).collect();
    if own.is_empty() { BTreeSet::from([principal.to_owned()]) } else { own }
}

/// The principal that is claimed, else the only one in the evidence, else the only key.
fn group(claimed: Option<&str>, alert_id: &str, calls: &[Call]) -> Group {
    let of = |kind, value: &str| Group { kind, value: value.to_owned() };
    // An empty claim is no claim.
    if let Some(principal) = claimed.filter(|arn| !arn.is_empty()) {
        return of("principal", principal);
    }
    let only = |names: BTreeSet<&str>| names.first().copied().filter(|_| names.len() == 1).map(str::to_owned);
    let principal = only(calls.iter().filter_map(|call| call.principal.as_deref()).collect());
    let key = || only(calls.iter().filter_map(|call| call.key_arn.as_deref()).collect());
    match principal {
        Some(principal) => of("principal", &principal),
        None => key().map_or_else(|| of("alert", alert_id), |key| of("key", &key)),
    }
}

/// Those who changed something, with whom they let in and who called afterwards.
fn accomplices(calls: &[Call]) -> BTreeSet<String> {
    let mut together = BTreeSet::new();
    for (at, call) in calls.iter().enumerate() {
        let Some(who) = call.principal.as_deref().filter(|who| links(who)) else { continue };
        let later = calls[at + 1..].iter().filter(|_| call.changes).filter_map(|later| later.principal.as_deref());
        let others: BTreeSet<&str> = later
            .chain(call.lets_in.iter().map(String::as_str))
            .filter(|other| *other != who && links(other))
            .collect();
        if !others.is_empty() && others.len() <= LET_IN_MAX {
            together.insert(who.to_owned());
            together.extend(others.into_iter().map(str::to_owned));
        }
    }
    together
}

/// An incident that may be the one.
#[derive(Clone, Debug)]
pub struct Candidate<I> {
    /// Its id.
    pub id: I,
    /// What its first alert was about.
    pub group: Group,
    /// Its principals.
    pub principals: BTreeSet<String>,
    /// Its keys.
    pub keys: BTreeSet<String>,
    /// Time of its first event, Unix microseconds.
    pub first_us: i64,
    /// Time of the event that completed its first alert.
    pub opened_us: i64,
    /// Time of its last one.
    pub last_us: i64,
}

impl<I> Candidate<I> {
    /// How well the subject fits, the best first; None: not at all.
    fn fit(&self, subject: &Subject, window_us: i64) -> Option<u8> {
        let near = self.last_us >= subject.first_us.saturating_sub(window_us)
            && self.first_us <= subject.last_us.saturating_add(window_us);
        if !near {
            return None;
        }
        if self.group == subject.group {
            return Some(0);
        }
        let soon = subject.last_us.saturating_sub(self.opened_us) <= SPAN_US;
        if soon && subject.latest.as_ref().is_some_and(|latest| self.principals.contains(latest)) {
            return Some(1);
        }
        let linked = |own: &String| subject.principals.iter().any(|other| same(own, other));
        if soon && self.principals.iter().any(linked) {
            return Some(2);
        }
        // About a key and nobody in particular: it joins whoever's incident has that key.
        (subject.group.kind == "key" && self.keys.contains(&subject.group.value)).then_some(3)
    }
}

/// The incidents that the subject belongs to, the best first. Candidates come with the newest first.
pub fn fitting<I: Clone>(
    subject: &Subject,
    candidates: impl IntoIterator<Item = Candidate<I>>,
    window_us: i64,
) -> Vec<I> {
    let mut found: Vec<(u8, I)> = candidates
        .into_iter()
        .filter_map(|candidate| Some((candidate.fit(subject, window_us)?, candidate.id)))
        .collect();
    found.sort_by_key(|(fit, _)| *fit);
    found.into_iter().map(|(_, id)| id).collect()
}

/// Takes the subject's principals into an incident's, as many as there is room for; gives those that are new.
pub fn extend(principals: &mut BTreeSet<String>, subject: &Subject) -> Vec<String> {
    let mut new = Vec::new();
    for principal in &subject.principals {
        if principals.len() < PRINCIPALS_MAX && principals.insert(principal.clone()) {
            new.push(principal.clone());
        }
    }
    new
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALICE: &str = "arn:aws:iam::111122223333:user/alice";
    const BOB: &str = "arn:aws:iam::111122223333:user/bob";
    const WORKER: &str = "arn:aws:iam::111122223333:role/worker";
    const SESSION: &str = "arn:aws:sts::111122223333:assumed-role/worker/one";
    const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/k";
    const HOUR_US: i64 = 3_600_000_000;
    const WINDOW_US: i64 = 4 * HOUR_US;

    fn call(who: &str, changes: bool, lets_in: &[&str]) -> Call {
        let lets_in = lets_in.iter().map(|name| (*name).to_owned()).collect();
        Call { principal: Some(who.into()), key_arn: Some(KEY.into()), changes, lets_in }
    }

    fn subject(claimed: Option<&str>, at_us: i64, calls: &[Call]) -> Subject {
        Subject::new(claimed, "a1", (at_us, at_us), calls)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn incident(id: u8, subject: &Subject) -> Candidate<u8> {
        Candidate {
            id,
            group: subject.group.clone(),
            principals: subject.principals.clone(),
            keys: names(&[KEY]),
            first_us: subject.first_us,
            opened_us: subject.last_us,
            last_us: subject.last_us,
        }
    }

    #[test]
    fn what_began_long_ago_is_linked_from_when_it_was_completed() {
        let calls = [call(ALICE, true, &[]), call(BOB, true, &[])];
        let cancelled = Subject::new(None, "a1", (-7 * 24 * HOUR_US, 0), &calls);
        let open = incident(1, &cancelled);
        let alone = [call(BOB, true, &[])];
        assert_eq!(fitting(&subject(Some(BOB), HOUR_US, &alone), [open.clone()], WINDOW_US), [1]);
        let later = Subject::new(Some(BOB), "a2", (HOUR_US, 25 * HOUR_US), &alone);
        assert!(fitting(&later, [open], WINDOW_US).is_empty());
    }

    #[test]
    fn a_claim_comes_before_the_evidence_and_a_principal_before_a_key() {
        let both = [call(ALICE, false, &[]), call(BOB, false, &[])];
        assert_eq!(subject(Some(BOB), 0, &both).group.value, BOB);
        assert_eq!(subject(Some(""), 0, &both[..1]).group.value, ALICE);
        assert_eq!(subject(None, 0, &both).group, Group { kind: "key", value: KEY.into() });
        assert_eq!(subject(None, 0, &[]).group, Group { kind: "alert", value: "a1".into() });
        // Two who merely use a key have nothing to do with each other.
        assert_eq!(subject(None, 0, &both).principals, names(&[]));
    }

    #[test]
    fn who_changes_something_is_linked_to_who_calls_after_it_and_not_to_who_called_before() {
        let after = [call(ALICE, true, &[]), call(BOB, false, &[])];
        assert_eq!(subject(None, 0, &after).principals, names(&[ALICE, BOB]));
        assert_eq!(subject(Some(BOB), 0, &after).principals, names(&[ALICE, BOB]));
        let victim = [call(BOB, false, &[]), call(ALICE, true, &[])];
        assert_eq!(subject(Some(ALICE), 0, &victim).principals, names(&[ALICE]));
        let crowd: Vec<Call> = (0..5).map(|n| call(&format!("{BOB}{n}"), false, &[])).collect();
        let crowd = [vec![call(ALICE, true, &[])], crowd].concat();
        assert_eq!(subject(Some(ALICE), 0, &crowd).principals, names(&[ALICE]));
    }

    #[test]
    fn nobody_is_linked_by_way_of_root_services_or_ourselves() {
        for name in [
            "arn:aws:iam::111122223333:root",
            "arn:aws:iam::111122223333:keytrail/responder",
            "arn:aws:iam::111122223333:role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS",
            "ec2.amazonaws.com",
        ] {
            assert_eq!(subject(Some(name), 0, &[call(name, true, &[BOB])]).principals, names(&[]), "{name}");
            assert_eq!(subject(Some(ALICE), 0, &[call(ALICE, true, &[name])]).principals, names(&[ALICE]), "{name}");
            assert_eq!(subject(Some(name), 0, &[]).group.value, name);
        }
    }

    #[test]
    fn a_grantee_joins_the_incident_of_who_made_the_grant_as_a_session_too() {
        let grant = subject(Some(ALICE), 0, &[call(ALICE, true, &[WORKER])]);
        let incidents = || vec![incident(1, &grant)];
        let used = |who, at_us| subject(Some(who), at_us, &[call(who, false, &[])]);
        assert_eq!(fitting(&used(SESSION, HOUR_US), incidents(), WINDOW_US), [1]);
        assert_eq!(fitting(&used(WORKER, WINDOW_US), incidents(), WINDOW_US), [1]);
        assert!(fitting(&used(WORKER, WINDOW_US + 1), incidents(), WINDOW_US).is_empty());
        assert!(fitting(&used(BOB, HOUR_US), incidents(), WINDOW_US).is_empty());
        let other = "arn:aws:sts::111122223333:assumed-role/worker/two";
        let session = incident(2, &used(SESSION, 0));
        assert!(fitting(&used(other, HOUR_US), [session], WINDOW_US).is_empty());
    }

    #[test]
    fn a_rule_that_names_the_role_is_about_its_sessions_in_the_evidence() {
        let other = "arn:aws:sts::111122223333:assumed-role/worker/two";
        let (one, two) = (call(SESSION, true, &[]), call(other, false, &[]));
        let by_one = subject(Some(WORKER), 0, &[one.clone(), call(BOB, false, &[])]);
        assert_eq!(by_one.group, Group { kind: "principal", value: SESSION.into() });
        assert_eq!(by_one.principals, names(&[SESSION, BOB]));
        let by_two = subject(Some(WORKER), HOUR_US, std::slice::from_ref(&two));
        assert!(fitting(&by_two, [incident(1, &by_one)], WINDOW_US).is_empty(), "another person, as far as is known");
        let by_both = subject(Some(WORKER), 0, &[one, two]);
        assert_eq!(by_both.group, Group { kind: "principal", value: WORKER.into() });
        assert_eq!(by_both.principals, names(&[SESSION, other]));
        assert_eq!(fitting(&by_both, [incident(1, &by_one)], WINDOW_US), [1]);
        assert_eq!(fitting(&by_two, [incident(2, &by_both)], WINDOW_US), [2]);
        assert_eq!(
            fitting(&by_both, [incident(1, &by_one), incident(2, &by_two)], WINDOW_US),
            [2, 1],
            "who called last"
        );
    }

    #[test]
    fn ones_own_incident_comes_first_and_links_end_with_the_day() {
        let grant = subject(Some(ALICE), 0, &[call(ALICE, true, &[BOB])]);
        let used = |at_us| subject(Some(BOB), at_us, &[call(BOB, false, &[])]);
        let incidents = [incident(1, &grant), incident(2, &used(0))];
        assert_eq!(fitting(&used(HOUR_US), incidents, WINDOW_US), [2, 1]);
        let mut long = incident(1, &grant);
        long.last_us = 30 * HOUR_US;
        assert_eq!(fitting(&used(24 * HOUR_US), [long.clone()], WINDOW_US), [1]);
        assert!(fitting(&used(24 * HOUR_US + 1), [long], WINDOW_US).is_empty());
    }

    #[test]
    fn an_alert_about_a_key_joins_whoever_has_it() {
        let one = incident(1, &subject(Some(ALICE), 0, &[call(ALICE, true, &[])]));
        let about_key = subject(None, 0, &[call(BOB, false, &[]), call(WORKER, false, &[])]);
        assert_eq!(fitting(&about_key, [one], WINDOW_US), [1]);
    }

    #[test]
    fn an_incident_does_not_become_everything() {
        let mut all: BTreeSet<String> = (0..PRINCIPALS_MAX - 1).map(|n| n.to_string()).collect();
        let pair = subject(Some(ALICE), 0, &[call(ALICE, true, &[BOB])]);
        assert_eq!(extend(&mut all, &pair), [ALICE]);
        assert_eq!(all.len(), PRINCIPALS_MAX);
        assert!(extend(&mut all, &pair).is_empty());
    }

    fn event(name: &str, change: Value) -> AuditEvent {
        let mut event = serde_json::json!({
            "eventVersion": "1.11", "userIdentity": {"type": "IAMUser", "arn": ALICE},
            "eventTime": "2026-01-05T12:00:00Z", "eventSource": "kms.amazonaws.com", "eventName": name,
            "awsRegion": "eu-west-1", "sourceIPAddress": "192.0.2.1", "requestParameters": null,
            "responseElements": null, "additionalEventData": {"judgedAtMicros": 1}, "eventID": "e", "readOnly": false,
            "resources": [], "eventType": "AwsApiCall", "managementEvent": true, "recipientAccountId": "111122223333",
            "eventCategory": "Management",
        });
        for (member, value) in change.as_object().unwrap() {
            event[member] = value.clone();
        }
        serde_json::from_value(event).unwrap()
    }

    fn allowing(names: &[&str]) -> String {
        let statement = serde_json::json!({"Effect": "Allow", "Principal": {"AWS": names}, "Action": "kms:Decrypt",
            "Resource": "*"});
        serde_json::json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
    }

    #[test]
    fn a_call_says_whom_it_lets_in() {
        let of = |name, change| Call::of(&event(name, change), Some(KEY)).lets_in;
        let grant = serde_json::json!({"requestParameters": {"granteePrincipal": BOB}});
        assert_eq!(of("CreateGrant", grant.clone()), names(&[BOB]));
        let mut refused = grant;
        refused["errorCode"] = "AccessDenied".into();
        assert!(of("CreateGrant", refused).is_empty());
        let root = "arn:aws:iam::111122223333:root";
        let policy = serde_json::json!({"additionalEventData": {"judgedAtMicros": 1,
            "policy": allowing(&[root, WORKER, BOB]), "previousPolicy": allowing(&[root, WORKER])}});
        assert_eq!(of("PutKeyPolicy", policy), names(&[BOB]));
        let first = serde_json::json!({"requestParameters": {"policy": allowing(&[WORKER])}});
        assert_eq!(of("PutKeyPolicy", first), names(&[WORKER]));
        let session = serde_json::json!({"readOnly": true, "responseElements": {"assumedRoleUser": {"arn": SESSION}}});
        assert_eq!(of("AssumeRole", session), names(&[SESSION]));
        let user =
            serde_json::json!({"resources": [{"ARN": BOB, "accountId": "111122223333", "type": "AWS::IAM::User"}]});
        assert_eq!(of("CreateUser", user.clone()), names(&[BOB]));
        assert!(of("GetUser", user).is_empty());
        assert!(
            of("Decrypt", serde_json::json!({"userIdentity": {"arn": ALICE, "invokedBy": "s3.amazonaws.com"}}))
                .is_empty()
        );
    }
}
