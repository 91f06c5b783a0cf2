//! Reach: what follows from all documents together and from none of them alone.
//!
//! Two questions about each user and role, asked of `evaluate` as a plain call would be: no second factor, no service, no
//! encryption context. Does it administer keys by one document and use keys by another? Can it come to decrypt a key
//! that it may not decrypt, by assuming roles, by writing identity policies or trust policies, by writing the key policy
//! or making a grant? Steps are followed to a bounded depth; what asks for a second factor on the way stops it.

use super::grants::KeyGrants;
use super::state::{Past, Resolved};
use crate::auth::identities::{Principal, Role};
use crate::policy::lint::{ADMINISTER, USE};
use crate::policy::{
    Context, GrantConstraints, GrantFacts, GrantOperations, GrantTerms, NamedDocument, PrincipalKind, Request,
    evaluate, evaluate_with_grants,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Roles assumed one after another, and rights given besides.
const DEPTH_MAX: usize = 4;
/// Questions asked in all; beyond, the rest is not looked at and that is said.
const QUESTIONS_MAX: usize = 2_000_000;

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// `administers-and-uses-across` or `reaches-decrypt`.
    pub code: &'static str,
    /// ARN of the user or role.
    pub principal: String,
    /// What is wrong.
    pub message: String,
    /// How it goes: each step as `action on resource by what allows it`.
    pub steps: Vec<String>,
}

/// What was found, and whether everything was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// By principal.
    pub found: Vec<Reached>,
    /// Whether the bound on questions was met.
    pub cut: bool,
}

struct Asker<'a> {
    past: &'a Past,
    people: &'a Resolved,
    now_us: u64,
    left: usize,
}

/// Somebody, and how a principal came to act as them.
#[derive(Clone)]
struct Step {
    principal: Arc<Principal>,
    steps: Vec<String>,
}

impl Past {
    /// Asks about everybody. `now_us` is the time of the calls that are thought of.
    pub fn reach(&mut self, now_us: u64) -> Reach {
        let (people, _) = self.people();
        let mut asker = Asker { past: self, people: &people, now_us, left: QUESTIONS_MAX };
        let mut found = Vec::new();
        for principal in asker.principals() {
            found.extend(asker.across(&principal));
            found.extend(asker.leads(&principal));
        }
        Reach { found, cut: asker.left == 0 }
    }
}

impl Asker<'_> {
    /// Users and roles; an account's root user and whoever may do everything are what they are.
    fn principals(&self) -> Vec<Arc<Principal>> {
        let people = self.people.people();
        let users = people.users().filter(|user| user.context.kind == PrincipalKind::User).cloned();
        let mut all: Vec<Arc<Principal>> = users.chain(people.roles().filter_map(|role| self.as_role(role))).collect();
        all.sort_by(|one, other| name_of(one).cmp(name_of(other)));
        all
    }

    fn as_role(&self, role: &Role) -> Option<Arc<Principal>> {
        self.people.people().served(&role.account, "somebody", &role.arn)
    }

    /// Administers by one document and uses by another; where one document gives both, its own lint says so.
    fn across(&mut self, principal: &Principal) -> Option<Reached> {
        let past = self.past;
        let (mut administers, mut uses) = (BTreeMap::new(), BTreeMap::new());
        for key in past.keys.keys() {
            for (names, by) in [(&ADMINISTER[..], &mut administers), (&USE[..], &mut uses)] {
                let step = names.iter().find_map(|name| self.on_key(principal, &format!("kms:{name}"), key));
                by.extend(step.map(|step| (document(&step), step)));
            }
        }
        let pairs = administers.iter().flat_map(|one| uses.iter().map(move |other| (one, other)));
        let (administers, uses) = pairs.into_iter().find(|((one, _), (other, _))| one != other)?;
        Some(Reached {
            code: "administers-and-uses-across",
            principal: name_of(principal).to_owned(),
            message: "administers keys by one document and uses keys by another".to_owned(),
            steps: vec![administers.1.clone(), uses.1.clone()],
        })
    }

    /// Comes to decrypt a key that it may not decrypt, as somebody else or with other rights. What it can do by itself,
    /// such as writing the key policy, the lint of each document finds.
    fn leads(&mut self, principal: &Arc<Principal>) -> Option<Reached> {
        let keys: Vec<String> = self.past.keys.keys().cloned().collect();
        let own = Step { principal: Arc::clone(principal), steps: Vec::new() };
        let closed: Vec<&String> = keys.iter().filter(|key| self.opens(&own, key).is_none()).collect();
        let mut seen = BTreeSet::from([state_of(&own)]);
        let mut queue = VecDeque::from([own]);
        while let Some(step) = queue.pop_front() {
            if !step.steps.is_empty()
                && let Some((key, last)) = closed.iter().find_map(|key| Some((key, self.opens(&step, key)?)))
            {
                let steps: Vec<String> = step.steps.iter().cloned().chain([last]).collect();
                let message = format!("may not decrypt {key}, but comes to it in {} steps", steps.len());
                return Some(Reached {
                    code: "reaches-decrypt",
                    principal: name_of(principal).to_owned(),
                    message,
                    steps,
                });
            }
            if step.steps.len() < DEPTH_MAX {
                queue.extend(self.next(&step).into_iter().filter(|next| seen.insert(state_of(next))));
            }
        }
        None
    }

    /// How somebody decrypts a key: at once, or after writing its policy or a grant.
    fn opens(&mut self, step: &Step, key: &str) -> Option<String> {
        ["kms:Decrypt", "kms:PutKeyPolicy", "kms:CreateGrant"]
            .iter()
            .find_map(|action| self.on_key(&step.principal, action, key))
    }

    /// Whom it can become: a role that it may assume, as it is or with a trust policy that it writes, or itself with every
    /// right that an identity policy can give.
    fn next(&mut self, step: &Step) -> Vec<Step> {
        let people = self.people.people();
        let mut all = Vec::new();
        let then = |how: String| step.steps.iter().cloned().chain([how]).collect::<Vec<_>>();
        if let Some(how) = self.gives_itself(&step.principal) {
            all.push(Step { principal: with_everything(&step.principal), steps: then(how) });
        }
        for role in people.roles() {
            let Some(principal) = self.as_role(role) else { continue };
            let how = self.on_role(&step.principal, "sts:AssumeRole", role, true);
            let how = how.or_else(|| self.on_role(&step.principal, "iam:UpdateAssumeRolePolicy", role, false));
            all.extend(how.map(|how| Step { principal, steps: then(how) }));
        }
        all
    }

    /// Whether it may write a policy that it then bears itself.
    fn gives_itself(&mut self, principal: &Principal) -> Option<String> {
        let own = principal.context.role_arn.as_ref().unwrap_or(&principal.context.arn);
        let kind = if principal.context.role_arn.is_some() { "Role" } else { "User" };
        let actions = [format!("iam:Put{kind}Policy"), format!("iam:Attach{kind}Policy")];
        actions.iter().find_map(|action| self.own(principal, action, own))
    }

    fn on_key(&mut self, principal: &Principal, action: &str, key_arn: &str) -> Option<String> {
        let key = self.past.keys.get(key_arn)?;
        let policy = key.policy.as_ref()?;
        // Nobody administers or opens a service's own key.
        if key.image.service.is_some() || !self.ask() {
            return None;
        }
        let decrypt = GrantOperations::parse(["Decrypt"]).unwrap_or_default();
        let terms = GrantTerms { operations: decrypt, constraints: GrantConstraints::default() };
        let grant = GrantFacts { grantee: &principal.context.arn, retiring: None, terms: &terms };
        let context = Context {
            key: Some(key.facts()),
            grant: (action == "kms:CreateGrant").then_some(grant),
            ..self.context(region_of(key_arn))
        };
        let account = &key.image.account;
        let request = Request {
            action,
            resource_arn: key_arn,
            key_account: account,
            principal: &principal.context,
            context: &context,
        };
        let none = KeyGrants::default();
        let grants = self.past.grants.on(key_arn).unwrap_or(&none);
        let decision = evaluate_with_grants(&request, &policy.document, &principal.own(), grants);
        decision.allowed.then(|| format!("{action} on {key_arn} by {}", decision.decided_by))
    }

    fn on_role(&mut self, principal: &Principal, action: &str, role: &Role, by_trust: bool) -> Option<String> {
        if !by_trust {
            // As in the API: of its own account only.
            return self.own(principal, action, &role.arn).filter(|_| role.account == principal.context.account);
        }
        if !self.ask() {
            return None;
        }
        let context = self.context(self.home());
        let request = Request {
            action,
            resource_arn: &role.arn,
            key_account: &role.account,
            principal: &principal.context,
            context: &context,
        };
        let decision = evaluate(&request, Some(&role.trust), &principal.own());
        decision.allowed.then(|| format!("{action} on {} by {}", role.arn, decision.decided_by))
    }

    fn own(&mut self, principal: &Principal, action: &str, resource: &str) -> Option<String> {
        if !self.ask() {
            return None;
        }
        let context = self.context(self.home());
        let request = Request {
            action,
            resource_arn: resource,
            key_account: &principal.context.account,
            principal: &principal.context,
            context: &context,
        };
        let decision = evaluate(&request, None, &principal.own());
        decision.allowed.then(|| format!("{action} on {resource} by {}", decision.decided_by))
    }

    /// A plain call over TLS.
    fn context<'c>(&self, region: &'c str) -> Context<'c> {
        let (time_us, bypass_lockout) = (self.now_us, Some(false));
        Context { time_us, region, secure_transport: true, bypass_lockout, ..Context::default() }
    }

    /// Where calls that are about no key are made: where there are keys.
    fn home(&self) -> &str {
        self.past.keys.keys().next().map_or("", |arn| region_of(arn))
    }

    fn ask(&mut self) -> bool {
        let before = self.left;
        self.left = self.left.saturating_sub(1);
        before > 0
    }
}

fn region_of(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

/// The ARN by which people know it: a role's for its sessions.
fn name_of(principal: &Principal) -> &str {
    principal.context.role_arn.as_deref().unwrap_or(&principal.context.arn)
}

/// What allowed a step, without the statement: the document. Key policies and grants are told apart by their key.
fn document(step: &str) -> String {
    let (on, decided_by) = step.rsplit_once(" by ").unwrap_or(("", step));
    let document = decided_by.rsplit_once('/').map_or(decided_by, |(document, _)| document);
    let key = on.rsplit_once(" on ").map_or("", |(_, key)| key);
    if matches!(document, "KeyPolicy" | "Grant") { format!("{document} {key}") } else { document.to_owned() }
}

/// The same principal with an identity policy that allows everything; what limits it stays.
fn with_everything(principal: &Principal) -> Arc<Principal> {
    let everything = super::who_can::everything();
    let own = NamedDocument { name: "of its own making".to_owned(), document: Arc::new(everything) };
    let policies = principal.policies.iter().cloned().chain([own]).collect();
    let Principal { context, boundary, session, .. } = principal;
    Arc::new(Principal { context: context.clone(), policies, boundary: boundary.clone(), session: session.clone() })
}

/// By what a step is known again: who it is, and with how many policies.
fn state_of(step: &Step) -> String {
    format!("{} {}", name_of(&step.principal), step.principal.policies.len())
}
