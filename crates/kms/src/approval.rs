//! A request for approval: what two persons must agree on before it happens, and the state machine of their agreement.
//!
//! Pure: no clock, no store. Two kinds: a call of the API that a key's dual control holds (`ops::dual_control`), and an action
//! of the responder. An approval is for one subject (what will be done) and one state of its target (what it will be done
//! to); neither a principal that asked for it nor one that it is about can give it, and it is used once. Read `approve`.

use crate::chain::leaf::sha256;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Approvals that one request may ask for.
pub const QUORUM: std::ops::RangeInclusive<u8> = 1..=5;
/// The calls that wait for an approval where a policy asks for one (`keytrail:ApprovedBySecondPrincipal`).
pub const APPROVABLE: [&str; 5] =
    ["DeleteImportedKeyMaterial", "PutKeyPolicy", "RestoreKeyPolicy", "RetireKey", "ScheduleKeyDeletion"];
/// A second factor proves presence for this long.
pub const MFA_AGE_SECS_MAX: u64 = 300;

/// Names what will be done: lower-case hex of SHA-256 over "keytrail approval subject v1" and each part, all with their
/// length (u32, big-endian) before them.
pub fn subject(parts: &[&str]) -> String {
    digest("keytrail approval subject v1", parts)
}

/// Names a key as it is: its ARN, its state and the lower-case hex of its policy's SHA-256.
pub fn key_state(arn: &str, key_state: &str, policy_sha256: &str) -> String {
    digest("keytrail target state v1", &[arn, key_state, policy_sha256])
}

/// Names a target of which nothing but its name matters, such as a principal.
pub fn named_state(name: &str) -> String {
    digest("keytrail target state v1", &[name])
}

/// SHA-256 of a JSON value whatever the order of its members.
pub fn body_digest(body: &Value) -> String {
    let mut sorted = body.clone();
    sorted.sort_all_objects();
    hex::encode(sha256(&[sorted.to_string().as_bytes()]))
}

fn digest(context: &str, parts: &[&str]) -> String {
    let mut message = Vec::new();
    for part in std::iter::once(&context).chain(parts) {
        message.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(part.as_bytes());
    }
    hex::encode(sha256(&[&message]))
}

/// What asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A call that dual control holds; whoever made it repeats it.
    ApiCall,
    /// An action of the responder.
    Response,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// For approvals.
    Waiting,
    /// They are there; it has not been used.
    Granted,
    /// Nobody may use it any more.
    Expired,
    /// What it is for was done, or begun.
    Used,
    /// Somebody said no.
    Rejected,
    /// Its target is not what it was when it was asked for.
    Stale,
}

/// One person's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// As the event names the caller.
    pub principal: String,
    /// Who that is: user or role, and whoever opened the session.
    pub persons: BTreeSet<String>,
    /// The event of the call.
    pub event_id: String,
    /// Unix microseconds.
    pub at_us: u64,
}

/// How a request ended before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `Used`, `Rejected` or `Stale`.
    pub how: Standing,
    /// The event that ended it.
    pub event_id: String,
    /// Unix microseconds.
    pub at_us: u64,
}

/// A request, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRequest {
    /// `A-` and 16 hex digits.
    pub id: String,
    /// Twelve digits: whose people decide.
    pub account: String,
    /// What asks.
    pub kind: Kind,
    /// What will be done: an operation, or an action of the responder.
    pub operation: String,
    /// To what: the ARN of a key or principal.
    pub target: String,
    /// With which inputs, for people to read before they agree.
    pub parameters: Value,
    /// [`body_digest`] of them.
    pub body_sha256: String,
    /// Who asked, as the event names the caller.
    pub requester: String,
    /// Who that is.
    pub requester_persons: BTreeSet<String>,
    /// Whom it is about.
    pub suspects: BTreeSet<String>,
    /// [`subject`].
    pub subject: String,
    /// [`key_state`] or [`named_state`].
    pub target_state: String,
    /// Approvals needed.
    pub quorum: u8,
    /// Unix microseconds.
    pub opened_us: u64,
    /// Unix microseconds.
    pub expires_us: u64,
    /// At most as many as needed.
    pub approvals: Vec<Approval>,
    /// None while it lasts.
    pub end: Option<End>,
}

/// Why an approval, a rejection or a use is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// Four eyes need two pairs.
    #[error("whoever asked for it cannot approve it")]
    Requester,
    /// Nobody judges themselves.
    #[error("it is about this principal")]
    Suspect,
    /// One approval each.
    #[error("this principal has approved it already")]
    Again,
    /// The approver saw something else.
    #[error("the subject is not that of the request")]
    Subject,
    /// The target has changed, or the approver saw another one.
    #[error("the target state is not that of the request")]
    TargetState,
    /// Enough have approved.
    #[error("it has its approvals already")]
    Granted,
    /// Not enough have approved.
    #[error("it does not have its approvals")]
    Waiting,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// It is over.
    #[error("it was used, rejected or became stale")]
    Ended,
}

impl ApprovalRequest {
    /// Where it stands at a time.
    pub fn standing(&self, now_us: u64) -> Standing {
        match &self.end {
            Some(end) => end.how,
            None if self.expires_us <= now_us => Standing::Expired,
            None if self.approvals.len() >= usize::from(self.quorum) => Standing::Granted,
            None => Standing::Waiting,
        }
    }

    /// Whether it is neither over nor past its time.
    pub fn is_open(&self, now_us: u64) -> bool {
        matches!(self.standing(now_us), Standing::Waiting | Standing::Granted)
    }

    /// With one more approval of what the approver saw.
    pub fn approve(&self, approval: Approval, subject: &str, target_state: &str) -> Result<Self, Misuse> {
        match self.standing(approval.at_us) {
            Standing::Waiting => {}
            Standing::Granted => return Err(Misuse::Granted),
            Standing::Expired => return Err(Misuse::Expired),
            Standing::Used | Standing::Rejected | Standing::Stale => return Err(Misuse::Ended),
        }
        if !approval.persons.is_disjoint(&self.requester_persons) {
            return Err(Misuse::Requester);
        }
        if !approval.persons.is_disjoint(&self.suspects) {
            return Err(Misuse::Suspect);
        }
        // Two sessions of one role are one person, as far as can be told.
        if self.approvals.iter().any(|earlier| !earlier.persons.is_disjoint(&approval.persons)) {
            return Err(Misuse::Again);
        }
        if self.subject != subject {
            return Err(Misuse::Subject);
        }
        if self.target_state != target_state {
            return Err(Misuse::TargetState);
        }
        let mut after = self.clone();
        after.approvals.push(approval);
        Ok(after)
    }

    /// Ended by a no. Whoever asked may take it back; whom it is about may not stop it.
    pub fn reject(&self, persons: &BTreeSet<String>, event_id: String, now_us: u64) -> Result<Self, Misuse> {
        match self.standing(now_us) {
            Standing::Waiting | Standing::Granted => {}
            Standing::Expired => return Err(Misuse::Expired),
            Standing::Used | Standing::Rejected | Standing::Stale => return Err(Misuse::Ended),
        }
        if !persons.is_disjoint(&self.suspects) {
            return Err(Misuse::Suspect);
        }
        Ok(self.ended(Standing::Rejected, event_id, now_us))
    }

    /// Used, once, for the target as it is now; stale when that is not what was approved.
    pub fn consume(&self, target_state: &str, event_id: String, now_us: u64) -> Result<Self, Misuse> {
        match self.standing(now_us) {
            Standing::Granted if self.target_state == target_state => Ok(self.ended(Standing::Used, event_id, now_us)),
            Standing::Granted => Ok(self.ended(Standing::Stale, event_id, now_us)),
            Standing::Waiting => Err(Misuse::Waiting),
            Standing::Expired => Err(Misuse::Expired),
            Standing::Used | Standing::Rejected | Standing::Stale => Err(Misuse::Ended),
        }
    }

    /// Void, because its target has changed.
    #[must_use]
    pub fn stale(&self, event_id: String, now_us: u64) -> Self {
        self.ended(Standing::Stale, event_id, now_us)
    }

    fn ended(&self, how: Standing, event_id: String, at_us: u64) -> Self {
        Self { end: Some(End { how, event_id, at_us }), ..self.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    fn request(quorum: u8) -> ApprovalRequest {
        ApprovalRequest {
            id: "A-1".into(),
            account: "111122223333".into(),
            kind: Kind::ApiCall,
            operation: "ScheduleKeyDeletion".into(),
            target: "key".into(),
            parameters: json!({}),
            body_sha256: body_digest(&json!({})),
            requester: "asker".into(),
            requester_persons: names(&["asker"]),
            suspects: names(&["suspect"]),
            subject: "s".into(),
            target_state: "t".into(),
            quorum,
            opened_us: 0,
            expires_us: 100,
            approvals: Vec::new(),
            end: None,
        }
    }

    fn by(persons: &[&str], at_us: u64) -> Approval {
        Approval { principal: persons[0].into(), persons: names(persons), event_id: "e".into(), at_us }
    }

    #[test]
    fn each_misuse_is_refused() {
        let one = request(2).approve(by(&["a"], 1), "s", "t").unwrap();
        let table = [
            (by(&["asker"], 1), "s", "t", Misuse::Requester),
            (by(&["role", "asker"], 1), "s", "t", Misuse::Requester),
            (by(&["suspect"], 1), "s", "t", Misuse::Suspect),
            (by(&["a"], 1), "s", "t", Misuse::Again),
            (by(&["role", "a"], 1), "s", "t", Misuse::Again),
            (by(&["b"], 1), "x", "t", Misuse::Subject),
            (by(&["b"], 1), "s", "x", Misuse::TargetState),
            (by(&["b"], 100), "s", "t", Misuse::Expired),
        ];
        for (approval, subject, state, misuse) in table {
            assert_eq!(one.approve(approval, subject, state), Err(misuse));
        }
        assert_eq!(one.consume("t", "e".into(), 2), Err(Misuse::Waiting));
        let two = one.approve(by(&["b"], 2), "s", "t").unwrap();
        assert_eq!(two.approve(by(&["c"], 2), "s", "t"), Err(Misuse::Granted));
        assert_eq!(two.consume("t", "e".into(), 100), Err(Misuse::Expired));
        assert_eq!(two.consume("other", "e".into(), 3).unwrap().standing(3), Standing::Stale);
        let used = two.consume("t", "e".into(), 3).unwrap();
        assert_eq!(used.standing(1_000), Standing::Used);
        assert_eq!(used.consume("t", "e".into(), 4), Err(Misuse::Ended), "once");
        assert_eq!(used.approve(by(&["c"], 4), "s", "t"), Err(Misuse::Ended));
        assert_eq!(two.reject(&names(&["suspect"]), "e".into(), 3), Err(Misuse::Suspect));
        assert_eq!(two.reject(&names(&["asker"]), "e".into(), 3).unwrap().standing(3), Standing::Rejected);
    }

    #[test]
    fn digests_tell_parts_apart_and_do_not_hang_on_the_order_of_members() {
        assert_ne!(subject(&["ab", "c"]), subject(&["a", "bc"]));
        assert_ne!(key_state("k", "Enabled", "p"), key_state("k", "Disabled", "p"));
        assert_eq!(
            body_digest(&json!({"a": 1, "b": {"c": 2, "d": 3}})),
            body_digest(&json!({"b": {"d": 3, "c": 2}, "a": 1}))
        );
        assert_ne!(body_digest(&json!({"a": 1})), body_digest(&json!({"a": "1"})));
    }

    /// What a person, or a moment, does to a request.
    #[derive(Clone, Debug)]
    enum Step {
        Approve(usize, bool, bool),
        Reject(usize),
        Consume(bool),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_usize, prop::bool::weighted(0.9), prop::bool::weighted(0.9)).prop_map(|(who, s, t)| Step::Approve(who, s, t)),
            1 => (0..6_usize).prop_map(Step::Reject),
            2 => prop::bool::weighted(0.8).prop_map(Step::Consume),
            1 => (0..40_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a plain model: a set of people who agreed, a time, and whether it is over.
        #[test]
        fn it_is_used_at_most_once_and_only_by_enough_others_in_time(quorum in QUORUM, steps in prop::collection::vec(step(), 0..40)) {
            // The last one is a role that the second opened.
            let people: [&[&str]; 6] = [&["asker"], &["a"], &["b"], &["c"], &["suspect"], &["role", "a"]];
            let (mut now, mut found) = (1, request(quorum));
            let (mut agreed, mut over, mut used) = (BTreeSet::new(), false, 0);
            for step in steps {
                match step {
                    Step::Wait(us) => now += us,
                    Step::Approve(who, subject, state) => {
                        let enough = agreed.len() >= usize::from(quorum);
                        let person = if who == 5 { 1 } else { who };
                        let expected = now < 100 && !over && !enough && subject && state
                            && !matches!(who, 0 | 4) && !agreed.contains(&person);
                        let after = found.approve(by(people[who], now), if subject { "s" } else { "x" }, if state { "t" } else { "x" });
                        prop_assert_eq!(after.is_ok(), expected);
                        if let Ok(after) = after {
                            agreed.insert(person);
                            found = after;
                        }
                    }
                    Step::Reject(who) => {
                        let after = found.reject(&names(people[who]), "e".into(), now);
                        prop_assert_eq!(after.is_ok(), now < 100 && !over && who != 4);
                        if let Ok(after) = after {
                            (found, over) = (after, true);
                        }
                    }
                    Step::Consume(same) => {
                        let after = found.consume(if same { "t" } else { "x" }, "e".into(), now);
                        prop_assert_eq!(after.is_ok(), now < 100 && !over && agreed.len() >= usize::from(quorum));
                        if let Ok(after) = after {
                            used += usize::from(after.standing(now) == Standing::Used);
                            (found, over) = (after, true);
                        }
                    }
                }
                let text = serde_json::to_string(&found).unwrap();
                prop_assert_eq!(&serde_json::from_str::<ApprovalRequest>(&text).unwrap(), &found);
            }
            prop_assert!(used <= 1);
            prop_assert_eq!(found.is_open(now), now < 100 && !over);
        }
    }
}
