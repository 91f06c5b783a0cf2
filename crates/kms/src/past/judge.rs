//! The judgement of a recorded call, by the policies of its time and with another one in place.

use super::question::{Call, On, Question, Untold};
use super::state::{Past, PastKey, Resolved};
use crate::approval::APPROVABLE;
use crate::auth::identities::Principal;
use crate::people::role_of_session;
use crate::policy::{
    Context, Decision, Document, Mfa, PrincipalContext, PrincipalKind, Request, evaluate, evaluate_retire,
    evaluate_with_grants,
};
use crate::row::Row;
use std::sync::Arc;

/// What decides calls before any policy is asked.
const NOT_POLICIES: [&str; 6] = ["BuiltIn", "Quarantine", "MfaRequirement", "ServiceKey", "Mfa", "DualControl"];

/// A call judged twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// By what was in force.
    pub(super) then: Decision,
    /// With the replacement.
    pub(super) now: Decision,
}

/// One judgement, as far as policies see it.
struct Bench<'a> {
    past: &'a Past,
    call: &'a Call<'a>,
    people: &'a Resolved,
    caller: &'a Principal,
    tried: bool,
}

impl Past {
    /// Judges a call; None when no policy was asked about it.
    pub(super) fn judge(&mut self, row: &Row<'_>) -> Result<Option<Verdict>, Untold> {
        if !asked_policies(row) {
            return Ok(None);
        }
        let (in_force, proposed) = self.people();
        let past = &*self;
        let call = Call::new(row, past);
        let questions = match call.questions(past) {
            // Refused in the words of a denial, because there was no such key or it was not to be known.
            Err(Untold::Key) if row.is_denied() && row.decided_by == Some("Default") => return Ok(None),
            questions => questions?,
        };
        // Operations about two keys come here whichever they are.
        let elsewhere = past.replacement().only_key().is_some() && !past.touches(&questions);
        if questions.is_empty() || elsewhere || past.names_nothing(row, &questions, &in_force) {
            return Ok(None);
        }
        let by = |people: &Arc<Resolved>, tried| {
            let caller = past.caller(row, people).ok_or(Untold::Caller)?;
            let bench = Bench { past, call: &call, people, caller: &caller, tried };
            bench.answer(&questions)
        };
        let then = by(&in_force, false)?;
        let untouched =
            past.replacement().is_nothing() || (Arc::ptr_eq(&in_force, &proposed) && !past.touches(&questions));
        let now = if untouched { then.clone() } else { by(&proposed, true)? };
        Ok(Some(Verdict { then, now }))
    }

    /// Whether a question is about the key whose policy is tried.
    fn touches(&self, questions: &[Question<'_>]) -> bool {
        questions.iter().any(|question| match question.on {
            On::Key(key) | On::Retire(key, _) => self.replacement().key_policy(key).is_some(),
            On::Own(_) | On::Role(_) => false,
        })
    }

    /// Whether the call was denied for what it names, which policies have no part in: keys, grants and roles that are not
    /// there, and roles that an account's root user wants.
    fn names_nothing(&self, row: &Row<'_>, questions: &[Question<'_>], people: &Resolved) -> bool {
        row.is_denied()
            && row.decided_by == Some("Default")
            && questions.iter().any(|question| match question.on {
                On::Key(key) => !self.keys.contains_key(key),
                On::Retire(key, grant) => self.grants.on(key).and_then(|grants| grants.get(grant)).is_none(),
                On::Role(role) => row.principal_type == Some("Root") || people.people().role(role).is_none(),
                On::Own(_) => false,
            })
    }

    /// The caller as policies saw it.
    fn caller(&self, row: &Row<'_>, people: &Resolved) -> Option<Arc<Principal>> {
        let (people, arn) = (people.people(), row.principal_arn?);
        if let Some(service) = row.invoked_by {
            let named = role_of_session(arn);
            let service = service.strip_suffix(".amazonaws.com")?;
            return people.served(row.principal_account?, service, named.as_deref().unwrap_or(arn));
        }
        if row.access_key_id.is_some_and(|id| id.starts_with("ASIA")) {
            let session = self.session(row.access_key_id?)?;
            return people.in_session(&session.claims, session.policy.as_ref()).map(Arc::new);
        }
        people.user(arn).cloned()
    }
}

/// Whether policies decided. A call that was refused before has nothing that decided; a built-in principal has no
/// policies; one of a web identity is decided by the role's trust policy alone, which nothing here stands in for; and what
/// a call does in another region, an event without a request, is asked with the call.
pub(super) fn asked_policies(row: &Row<'_>) -> bool {
    let Some(decided_by) = row.decided_by.filter(|_| row.request_id.is_some()) else { return false };
    let kind = decided_by.split_once('/').map_or(decided_by, |(kind, _)| kind);
    let built_in =
        row.principal_arn.is_some_and(|arn| arn.split(':').nth(5).is_some_and(|name| name.starts_with("keytrail/")));
    !built_in && !NOT_POLICIES.contains(&kind) && row.principal_type != Some("WebIdentityUser")
}

impl Bench<'_> {
    /// The first refusal, else the last answer: as the operations go through them.
    fn answer(&self, questions: &[Question<'_>]) -> Result<Decision, Untold> {
        let mut first = None;
        let mut last = None;
        for question in questions {
            let decision = self.decide(question)?;
            if !decision.allowed {
                return Ok(decision);
            }
            first.get_or_insert_with(|| decision.clone());
            last = Some(decision);
        }
        // These keep what allowed them, not what allowed the tags of a session or the work in the other region.
        let of_first = ["AssumeRole", "ReplicateKey", "UpdatePrimaryRegion"].contains(&self.call.row.event_name);
        let kept = if of_first { first } else { last };
        kept.ok_or(Untold::Key)
    }

    fn decide(&self, question: &Question<'_>) -> Result<Decision, Untold> {
        let (row, own) = (self.call.row, self.caller.own());
        let account = row.principal_account.unwrap_or_default();
        match question.on {
            On::Own(resource) => {
                let context = self.context(None, &question.facts);
                Ok(evaluate(&self.request(question, resource, account, &self.caller.context, &context), None, &own))
            }
            On::Key(arn) => {
                let key = self.past.keys.get(arn).ok_or(Untold::Key)?;
                let context = self.context(Some(key), &question.facts);
                let request = self.request(question, arn, &key.image.account, &self.caller.context, &context);
                let policy = self.policy(arn, key)?;
                Ok(match self.past.grants.on(arn) {
                    Some(grants) => evaluate_with_grants(&request, policy, &own, grants),
                    None => evaluate(&request, Some(policy), &own),
                })
            }
            On::Retire(arn, grant) => {
                let key = self.past.keys.get(arn).ok_or(Untold::Key)?;
                let grant = self.past.grants.on(arn).and_then(|grants| grants.get(grant)).ok_or(Untold::Key)?;
                let facts = grant.facts().context();
                let context = self.context(Some(key), &facts);
                let request = self.request(question, arn, &key.image.account, &self.caller.context, &context);
                Ok(evaluate_retire(&request, self.policy(arn, key)?, &own, &grant.retirable()))
            }
            On::Role(arn) => {
                let role = self.people.people().role(arn).ok_or(Untold::Key)?;
                let context = self.context(None, &question.facts);
                let with_code = self.call.parameters.serial_number.is_some();
                let mfa = if with_code { Mfa::At(context.time_us) } else { self.caller.context.mfa };
                let principal = PrincipalContext { mfa, ..self.caller.context.clone() };
                let request = self.request(question, arn, &role.account, &principal, &context);
                if principal.kind == PrincipalKind::Root {
                    return Err(Untold::Caller);
                }
                Ok(evaluate(&request, Some(&role.trust), &own))
            }
        }
    }

    fn policy<'k>(&'k self, arn: &str, key: &'k PastKey) -> Result<&'k Document, Untold> {
        let tried = self.tried.then(|| self.past.replacement().key_policy(arn)).flatten();
        tried.or_else(|| key.policy.as_ref().map(|policy| &policy.document)).ok_or(Untold::Key)
    }

    fn request<'r>(
        &self,
        question: &'r Question<'_>,
        resource_arn: &'r str,
        key_account: &'r str,
        principal: &'r PrincipalContext,
        context: &'r Context<'r>,
    ) -> Request<'r> {
        Request { action: &question.action, resource_arn, key_account, principal, context }
    }

    /// The circumstances, put together as for a call.
    fn context<'c>(&'c self, key: Option<&'c PastKey>, facts: &Context<'c>) -> Context<'c> {
        let (row, additional) = (self.call.row, &self.call.additional);
        let via = row.invoked_by.is_some();
        Context {
            time_us: additional.judged_at_micros,
            region: if facts.region.is_empty() { row.region } else { facts.region },
            source_ip: row.source_ip.filter(|_| !via).and_then(|text| text.parse().ok()),
            via_service: additional.via_service.as_ref().map(|text| &*text.0),
            source_arn: additional.source_arn.as_ref().map(|text| &*text.0),
            secure_transport: row.tls.unwrap_or_default(),
            user_agent: row.user_agent,
            approved: APPROVABLE.contains(&row.event_name).then_some(additional.approved_by.is_some()),
            key: key.map(PastKey::facts).or(facts.key),
            ..*facts
        }
    }
}
