//! One judgement: who calls, what is named, whether it is allowed, under which generations.
//!
//! Order: a built-in's fixed list, the quarantine overlay, whether the key is a service's own, what the overlay says of the
//! key, then policy, then (in the operation) the key's state. The deciding statement goes into the event, never to the caller. All times come from one
//! reading of the clock, which the event carries as judgedAtMicros.

use super::answer::{ActionId, Call, CallerKey};
use super::denial::{self, Place};
use super::drive::Class;
use super::input::KeyReference;
use super::record::{self, Head, Record};
use super::refusal::{Refusal, RefusalKind};
use super::retire;
use super::service_key;
use crate::access::{Access, Caller, Question, Role, SERVICE_CALLS};
use crate::auth::identities::Role as IamRole;
use crate::crypto::SecretBytes;
use crate::event::{SOURCE_CLOUDTRAIL, SOURCE_IAM, SOURCE_INTERNAL, SOURCE_STS, UserIdentity};
use crate::generation::{Busy, GenerateError};
use crate::grant::{Grant, GrantPlace, open_token};
use crate::key::{AccountId, KeyId, KeyRecord, KeyState, MultiRegionKeyType, Region, UsableKey, alias_arn, key_arn};
use crate::locks::Seen;
use crate::node::Node;
use crate::overlay::{FRESH_MFA_SECONDS, key_scope};
use crate::policy::{Context, Decision, GrantsOnKey, KeyFacts, Mfa, Reason};
use crate::quota::Group;
use crate::registry::Registry;
use crate::spec::KeyKind;
use crate::usage::{self, LastUse, UsedKey};
use bytes::Bytes;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

/// The member by which nearly all operations name their key.
pub(crate) const KEY_ID: &str = "keyId";
/// `decidedBy` of what wants a fresh second factor; the eventID that set it follows.
const MFA_REQUIREMENT: &str = "MfaRequirement";
/// Calls that change the overlay.
const OVERLAY_CALLS: [&str; 6] = [
    "PutQuarantine",
    "LiftQuarantine",
    "PutMfaRequirement",
    "LiftMfaRequirement",
    "DeactivateAccessKey",
    "ActivateAccessKey",
];
/// The model's limit on tokens of one call.
const GRANT_TOKENS_MAX: usize = 10;

/// The state and outcome of one judgement.
pub(crate) struct Judge<'a> {
    pub(crate) node: &'a Arc<Node>,
    pub(crate) call: &'a Call,
    pub(crate) access: Arc<Access>,
    /// None when the access key was withdrawn after its signature was checked.
    caller: Option<Caller>,
    pub(crate) judged_at_us: u64,
    pub(crate) event_id: Uuid,
    pub(crate) record: Record,
    /// The action that keys are looked up for, where it is not named like the operation: a key that another account does
    /// not have must be refused in the same words as one that it does not share.
    pub(crate) action_asked: Option<&'static str>,
    /// The action whose key no caller named: a ciphertext did.
    pub(crate) by_ciphertext: Option<&'static str>,
    /// Policies allow the call with the approval of a second principal, which it may not have yet (`dual_control`).
    pub(crate) by_approval: bool,
    seen: Vec<Seen>,
    /// `kms:ViaService`, when a service calls for the caller.
    via_service: Option<String>,
    /// Keys whose material the call uses.
    used: Vec<UsedKey>,
    /// Under exclusive locks nothing needs to be noted or waited for.
    exclusive: bool,
    /// Whether the call was counted against its account's quota when it was judged before.
    pub(crate) counted: bool,
    /// What the operation does to keys; a look until it is admitted.
    class: Class,
}

impl<'a> Judge<'a> {
    /// For a call that changes nothing: notes what it sees.
    pub(crate) async fn shared(node: &'a Arc<Node>, call: &'a Call) -> Self {
        let (access, seen) = node.locks.read_access(|| Arc::clone(&node.access.read())).await;
        let mut judge = Self::new(node, call, access, false);
        judge.seen.push(seen);
        judge
    }

    /// For a change that holds its locks.
    pub(crate) fn exclusive(node: &'a Arc<Node>, call: &'a Call) -> Self {
        let access = Arc::clone(&node.access.read());
        Self::new(node, call, access, true)
    }

    /// For finding out which locks a change needs; decides nothing.
    pub(crate) fn peek(node: &'a Arc<Node>, call: &'a Call) -> Self {
        Self::exclusive(node, call)
    }

    fn new(node: &'a Arc<Node>, call: &'a Call, access: Arc<Access>, exclusive: bool) -> Self {
        let caller = access.caller(&call.caller, call.on_behalf.as_ref());
        let via = caller.as_ref().and_then(|caller| caller.via.as_ref());
        let via_service = via.map(|via| format!("{}.{}.amazonaws.com", via.service, call.region));
        let judged_at_us = node.clock.now_us();
        Self {
            node,
            call,
            access,
            caller,
            judged_at_us,
            event_id: node.time_ordered_id(judged_at_us),
            record: Record::default(),
            action_asked: None,
            by_ciphertext: None,
            by_approval: false,
            seen: Vec::new(),
            via_service,
            used: Vec::new(),
            exclusive,
            counted: false,
            class: Class::Read,
        }
    }

    /// The region of the call: its keys, aliases and grants are there.
    pub(crate) fn region(&self) -> Region {
        self.call.region
    }

    /// The caller's account; the node's own when the caller is gone.
    pub(crate) fn account(&self) -> AccountId {
        self.caller.as_ref().map_or(self.node.account, |caller| caller.account)
    }

    /// The caller.
    pub(crate) fn caller(&self) -> Result<&Caller, Refusal> {
        if self.call.caller.expires_us().is_some_and(|expires_us| expires_us <= self.judged_at_us) {
            return Err(Refusal::expired());
        }
        let gone =
            || Refusal::new(RefusalKind::UnrecognizedClient, "The security token included in the request is invalid.");
        self.caller.as_ref().ok_or_else(gone)
    }

    /// Whether the responder calls.
    pub(crate) fn is_responder(&self) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.role == Role::Responder)
    }

    /// The action id, if the caller is the one whose ids count.
    pub(crate) fn action(&self) -> Option<&'a ActionId> {
        self.call.action.as_ref().filter(|_| self.is_responder())
    }

    /// The first questions: is the caller still there, on a list that allows this, in quarantine?
    pub(crate) fn admit(&mut self, class: Class) -> Result<(), Refusal> {
        self.class = class;
        let (role, acts_for) = (self.caller()?.role, self.caller()?.via.is_some());
        let listed = SERVICE_CALLS.contains(&self.call.operation.as_str());
        // Whoever is no service and names somebody else must not be answered as itself.
        if (acts_for && !listed) || (!acts_for && self.call.on_behalf.is_some()) {
            self.record.decided_by = Some("BuiltIn".to_owned());
            return Err(self.denied("*"));
        }
        if let Some(list) = role.fixed_calls() {
            self.record.decided_by = Some("BuiltIn".to_owned());
            let listed = list.contains(&self.call.operation.as_str());
            return if listed { Ok(()) } else { Err(self.denied("*")) };
        }
        self.count(Group::of_call(self.call.source, &self.call.operation))?;
        if class == Class::Read || role == Role::BreakGlass {
            return Ok(());
        }
        let (overlay, at_us) = (self.access.overlay(), self.judged_at_us);
        // Whoever is stopped on one key must not lift that, nor stop others.
        let on_any = self.call.source == SOURCE_INTERNAL && OVERLAY_CALLS.contains(&self.call.operation.as_str());
        let mut arns = self.caller()?.quarantined_as();
        let stopped =
            arns.find_map(
                |arn| {
                    if on_any { overlay.any_quarantine(arn, at_us) } else { overlay.quarantine(arn, "", at_us) }
                },
            );
        let event_id = stopped.map(|quarantine| quarantine.event_id.clone());
        drop(arns);
        if let Some(event_id) = event_id {
            self.record.decided_by = Some(format!("Quarantine/{event_id}"));
            return Err(self.denied("*"));
        }
        Ok(())
    }

    /// What the overlay says about an action on a key: a quarantine on it, or a second factor that is wanted. The responder
    /// and break-glass never come here.
    fn above_policies(&mut self, action: &str, key: &KeyRecord) -> Result<(), Refusal> {
        let (overlay, at_us) = (self.access.overlay(), self.judged_at_us);
        let stopped = if self.class == Class::Read || overlay.quarantines.is_empty() {
            None
        } else {
            let scope = key_scope(key.account, key.id);
            self.caller()?.quarantined_as().find_map(|arn| overlay.quarantine(arn, &scope, at_us))
        };
        let name = action.strip_prefix("kms:").unwrap_or(action);
        let wanted = overlay.mfa_required(name, (key.account, key.id), at_us);
        let wanted = wanted.filter(|_| !self.has_fresh_mfa());
        let decided_by = match (stopped, wanted) {
            (Some(quarantine), _) => format!("Quarantine/{}", quarantine.event_id),
            (None, Some(requirement)) => format!("{MFA_REQUIREMENT}/{}", requirement.event_id),
            (None, None) => return Ok(()),
        };
        self.record.decided_by = Some(decided_by);
        Err(self.denial(action, self.place(action, &key.arn(), key.account), None))
    }

    /// Whether the caller may do what wants a fresh second factor: with one, or because it stands above the overlay.
    pub(crate) fn has_fresh_mfa(&self) -> bool {
        let Some(caller) = &self.caller else { return false };
        match caller.context().map(|context| context.mfa) {
            Some(Mfa::At(at_us)) => self.judged_at_us.saturating_sub(at_us) <= FRESH_MFA_SECONDS * 1_000_000,
            Some(Mfa::Unknown | Mfa::Without) => false,
            None => matches!(caller.role, Role::Responder | Role::BreakGlass),
        }
    }

    /// Refuses what a requirement of a second factor stands in the way of.
    pub(crate) fn mfa_missing(&mut self, event_id: &str) -> Refusal {
        self.record.decided_by = Some(format!("{MFA_REQUIREMENT}/{event_id}"));
        self.denied("*")
    }

    /// Refuses everyone but the responder and break-glass.
    pub(crate) fn only_built_ins(&mut self) -> Result<(), Refusal> {
        let above = self.caller()?.context().is_none();
        self.record.decided_by = Some("BuiltIn".to_owned());
        if above { Ok(()) } else { Err(self.denied("*")) }
    }

    /// Counts the call against the quota of the caller's account. Built-ins and break-glass have a lane of their own.
    fn count(&self, group: Option<Group>) -> Result<(), Refusal> {
        self.count_in(self.region(), group)
    }

    /// Counts what the call does in another region, too.
    pub(crate) fn count_in(&self, region: Region, group: Option<Group>) -> Result<(), Refusal> {
        let caller = self.caller()?;
        let Some(group) = group.filter(|_| !self.counted && caller.role == Role::Identity) else { return Ok(()) };
        let taken = self.node.quotas.take((caller.account, region), group, self.judged_at_us);
        match self.call.source {
            _ if taken => Ok(()),
            SOURCE_STS | SOURCE_IAM | SOURCE_CLOUDTRAIL => Err(Refusal::new(RefusalKind::Throttling, "Rate exceeded")),
            _ => Err(Refusal::throttled()),
        }
    }

    /// Finds the key that a reference names; another account's missing key is a denial, which tells nothing.
    pub(crate) async fn key(&mut self, text: &str) -> Result<Arc<KeyRecord>, Refusal> {
        self.key_as(KEY_ID, text).await
    }

    /// Finds the key that a reference in a member of another name than `keyId` names.
    pub(crate) async fn key_as(&mut self, member: &'static str, text: &str) -> Result<Arc<KeyRecord>, Refusal> {
        let reference = self.reference(member, text)?;
        let (account, id) = match reference {
            KeyReference::Key(account, id) => (account, id),
            KeyReference::Alias(account, name) => (account, self.alias_target(account, &name).await?),
        };
        self.key_by_id(member, account, id).await
    }

    /// Finds a key for an operation that takes no alias.
    pub(crate) async fn key_without_alias(&mut self, text: &str) -> Result<Arc<KeyRecord>, Refusal> {
        let (account, id) = self.reference(KEY_ID, text)?.key_only(text)?;
        self.key_by_id(KEY_ID, account, id).await
    }

    /// Finds the key that the call is about by its id, and notes it so.
    pub(crate) async fn key_by_id(
        &mut self,
        member: &'static str,
        account: AccountId,
        id: KeyId,
    ) -> Result<Arc<KeyRecord>, Refusal> {
        let key = self.find_key(account, id).await?;
        if !self.named_by_alias(member) {
            self.record.parameter(member, key.arn());
        }
        Ok(key)
    }

    /// Finds a key and notes it as touched.
    pub(crate) async fn find_key(&mut self, account: AccountId, id: KeyId) -> Result<Arc<KeyRecord>, Refusal> {
        let node = self.node;
        let found = if self.exclusive {
            node.registry.key(account, id)
        } else {
            let (found, seen) = node.locks.read(node.locks.key(account, id), || node.registry.key(account, id)).await;
            self.seen.push(seen);
            found
        };
        let arn = key_arn(account, id);
        let Some(key) = found else {
            return Err(self.not_found(account, format!("Key '{arn}' does not exist")));
        };
        self.record.touch_key_arn(arn, account);
        Ok(key)
    }

    /// Reads a reference and notes it as it was given.
    fn reference(&mut self, member: &'static str, text: &str) -> Result<KeyReference, Refusal> {
        self.record.parameter(member, &text[..text.floor_char_boundary(2_048)]);
        KeyReference::parse(text, self.region(), self.account())
    }

    fn named_by_alias(&self, member: &str) -> bool {
        let named = self.record.request_parameters.as_ref().and_then(|parameters| parameters[member].as_str());
        named.is_some_and(|text| text.contains("alias/"))
    }

    async fn alias_target(&mut self, account: AccountId, name: &str) -> Result<KeyId, Refusal> {
        let node = self.node;
        self.make_service_key(account, name).await?;
        let region = self.region();
        let found = if self.exclusive {
            node.registry.alias(account, region, name)
        } else {
            let stripe = node.locks.alias(account, region, name);
            let (found, seen) = node.locks.read(stripe, || node.registry.alias(account, region, name)).await;
            self.seen.push(seen);
            found
        };
        let arn = alias_arn(region, account, name);
        match found {
            Some(alias) => Ok(alias.target),
            None => Err(self.not_found(account, format!("Alias {arn} is not found."))),
        }
    }

    /// The key of the service that calls comes into being when its alias is first named.
    async fn make_service_key(&self, account: AccountId, name: &str) -> Result<(), Refusal> {
        let via =
            self.caller.as_ref().filter(|caller| caller.account == account).and_then(|caller| caller.via.as_ref());
        let Some(via) = via.filter(|via| service_key::alias_of(&via.service).as_deref() == Some(name)) else {
            return Ok(());
        };
        // Under exclusive locks nothing can be waited for; no change is made by such an alias.
        let region = self.region();
        if self.exclusive || self.node.registry.alias(account, region, name).is_some() {
            return Ok(());
        }
        service_key::make(self.node, (account, region), &via.service, name).await
    }

    fn not_found(&mut self, account: AccountId, text: String) -> Refusal {
        let own =
            account == self.account() || self.caller.as_ref().is_some_and(|caller| caller.role.fixed_calls().is_some());
        if own {
            return Refusal::new(RefusalKind::NotFound, text);
        }
        self.denied_abroad()
    }

    /// Checks the tokens that a caller sent along. Grants count at once here, so a token adds nothing to a judgement, but
    /// one of no living grant refuses the call as at AWS.
    pub(crate) async fn grant_tokens(&mut self, tokens: Option<&Vec<String>>) -> Result<(), Refusal> {
        let tokens = tokens.map(Vec::as_slice).unwrap_or_default();
        if tokens.len() > GRANT_TOKENS_MAX {
            let constraint = format!("Member must have length less than or equal to {GRANT_TOKENS_MAX}");
            return Err(Refusal::constraint(None, "grantTokens", &constraint));
        }
        for token in tokens {
            self.grant_of_token(token).await?;
        }
        Ok(())
    }

    /// The living grant that a token names.
    pub(crate) async fn grant_of_token(&mut self, token: &str) -> Result<Arc<Grant>, Refusal> {
        let invalid = || Refusal::bare(RefusalKind::InvalidGrantToken);
        let place = open_token(&self.node.root(), self.node.region, token).ok_or_else(invalid)?;
        if place.key.region != self.region() {
            return Err(invalid());
        }
        self.grant(&place).await.ok_or_else(invalid)
    }

    /// Finds a grant.
    pub(crate) async fn grant(&mut self, place: &GrantPlace) -> Option<Arc<Grant>> {
        let node = self.node;
        if self.exclusive {
            return node.registry.grant(place);
        }
        let stripe = node.locks.key(place.account, place.key);
        let (found, seen) = node.locks.read(stripe, || node.registry.grant(place)).await;
        self.seen.push(seen);
        found
    }

    /// Looks at requests for approval.
    pub(crate) async fn approvals<T>(&mut self, look: impl FnOnce(&Registry) -> T) -> T {
        let node = self.node;
        if self.exclusive {
            return look(&node.registry);
        }
        let (found, seen) = node.locks.read(node.locks.approvals(), || look(&node.registry)).await;
        self.seen.push(seen);
        found
    }

    /// Asks the policies and grants about an action on a key.
    pub(crate) fn allow_key(&mut self, action: &str, key: &KeyRecord, facts: &Context<'_>) -> Result<(), Refusal> {
        self.count(Group::of_use(action, key.kind.spec, facts.data_key_pair_spec))?;
        let arn = key.arn();
        self.allow(action, &arn, key.account, Some(key), facts)
    }

    /// Asks the caller's own policies about an action on an alias.
    pub(crate) fn allow_alias(&mut self, action: &str, account: AccountId, name: &str) -> Result<(), Refusal> {
        let arn = alias_arn(self.region(), account, name);
        self.allow(action, &arn, account, None, &Context::default())
    }

    /// Asks the caller's own policies about an action on a principal of its account.
    pub(crate) fn allow_principal(&mut self, action: &str, arn: &str) -> Result<(), Refusal> {
        let account = self.account();
        self.allow(action, arn, account, None, &Context::default())
    }

    /// Asks the caller's own policies about an action that names nothing.
    pub(crate) fn allow_account(&mut self, action: &str, facts: &Context<'_>) -> Result<(), Refusal> {
        let account = self.account();
        self.allow(action, "*", account, None, facts)
    }

    /// Asks the caller's own policies about an action on something of its account that has no policy of its own.
    pub(crate) fn allow_entity(&mut self, action: &str, arn: &str, facts: &Context<'_>) -> Result<(), Refusal> {
        let account = self.account();
        self.allow(action, arn, account, None, facts)
    }

    fn allow(
        &mut self,
        action: &str,
        resource: &str,
        account: AccountId,
        key: Option<&KeyRecord>,
        facts: &Context<'_>,
    ) -> Result<(), Refusal> {
        let caller = self.caller()?;
        if key.is_some_and(|key| service_key::is_closed(key, caller, action)) {
            let (decided_by, reason) = ("ServiceKey".to_owned(), Reason::KeyPolicySilent);
            return self.conclude(Decision { allowed: false, decided_by, reason }, action, resource, account);
        }
        let listed = caller.role.fixed_calls().is_some_and(|list| list.contains(&self.call.operation.as_str()));
        if listed || (caller.role == Role::BreakGlass && account == caller.account) {
            self.record.decided_by = Some("BuiltIn".to_owned());
            return Ok(());
        }
        if let Some(key) = key {
            self.above_policies(action, key)?;
        }
        let caller = self.caller()?;
        let context = self.context(key, facts);
        let grants = key.map(|key| self.node.registry.grants_on(key.account, key.id));
        let key = key.zip(grants.as_ref().map(|grants| grants as &dyn GrantsOnKey));
        let question = Question { action, resource, account, key, context: &context };
        let decision = self.access.evaluate(caller, &question);
        self.conclude(decision, action, resource, account)
    }

    /// Asks a grant whether the caller may retire it.
    pub(crate) fn allow_retire(&mut self, key: &KeyRecord, grant: &Grant) -> Result<(), Refusal> {
        let (action, resource) = ("kms:RetireGrant", key.arn());
        let caller = self.caller()?;
        if caller.role == Role::BreakGlass && key.account == caller.account {
            self.record.decided_by = Some("BuiltIn".to_owned());
            return Ok(());
        }
        self.above_policies(action, key)?;
        let caller = self.caller()?;
        let facts = grant.facts().context();
        let context = self.context(Some(key), &facts);
        let question = Question { action, resource: &resource, account: key.account, key: None, context: &context };
        let decision = self.access.evaluate_retire(caller, &question, key, grant);
        self.conclude(decision, action, &resource, key.account)
    }

    fn conclude(
        &mut self,
        decision: Decision,
        action: &str,
        resource: &str,
        account: AccountId,
    ) -> Result<(), Refusal> {
        self.record.decided_by = Some(decision.decided_by);
        if decision.allowed {
            return Ok(());
        }
        Err(self.denial(action, self.place(action, resource, account), Some(decision.reason)))
    }

    /// What a refused caller may read about what it named.
    fn place<'r>(&self, action: &str, resource: &'r str, account: AccountId) -> Place<'r> {
        match (self.by_ciphertext == Some(action), account == self.account()) {
            (false, true) => Place::Named(resource),
            (true, true) => Place::Ciphertext,
            (false, false) => Place::Abroad,
            (true, false) => Place::CiphertextAbroad,
        }
    }

    /// The role, if its trust policy and the caller's own policies allow the caller an action on it. `mfa`: what the call
    /// itself proved. A role that is not there is refused in the same words.
    pub(crate) fn allow_role(
        &mut self,
        action: &str,
        role_arn: &str,
        mfa: Mfa,
        facts: &Context<'_>,
    ) -> Result<Arc<IamRole>, Refusal> {
        let caller = self.caller()?;
        let Some(role) = self.access.iam_role(role_arn).cloned() else {
            self.record.decided_by = Some("Default".to_owned());
            return Err(self.denial(action, Place::Named(role_arn), None));
        };
        let decision = self.access.may_assume(caller, &role, action, mfa, &self.context(None, facts));
        let allowed = decision.allowed;
        self.record.decided_by = Some(decision.decided_by);
        if let Some(account) = AccountId::parse(&role.account) {
            self.record.touch_role(role_arn, account);
        }
        if allowed { Ok(role) } else { Err(self.denial(action, Place::Named(role_arn), None)) }
    }

    /// Whether a new policy would lock its author out of changing it again. Fixed principals need no policy.
    pub(crate) fn locks_out(&self, after: &KeyRecord) -> bool {
        let Some(caller) = &self.caller else { return true };
        let resource = after.arn();
        let region = after.id.region;
        // Whoever could with an approval is not locked out.
        let (bypass_lockout, approved) = (Some(false), Some(true));
        let facts = Context { region: region.as_str(), bypass_lockout, approved, ..Context::default() };
        let context = self.context(Some(after), &facts);
        let question = Question {
            action: "kms:PutKeyPolicy",
            resource: &resource,
            account: after.account,
            key: None,
            context: &context,
        };
        self.access.locks_out(caller, &question, after)
    }

    fn context<'c>(&'c self, key: Option<&'c KeyRecord>, facts: &Context<'c>) -> Context<'c> {
        let via = self.caller.as_ref().and_then(|caller| caller.via.as_ref());
        Context {
            time_us: self.judged_at_us,
            region: if facts.region.is_empty() { self.call.region.as_str() } else { facts.region },
            // As at AWS the peer is the service then, not the user.
            source_ip: if via.is_some() { None } else { self.call.source_ip.parse().ok() },
            via_service: self.via_service.as_deref(),
            source_arn: via.and_then(|via| via.source_arn.as_deref()),
            secure_transport: self.call.tls.is_some(),
            user_agent: self.call.user_agent.as_deref(),
            key: key.map(key_facts).or(facts.key),
            web_identity: match &self.call.caller {
                CallerKey::WebIdentity(identity) => Some(&identity.facts),
                CallerKey::AccessKey(_) | CallerKey::Session(_) | CallerKey::Operator => None,
            },
            ..*facts
        }
    }

    /// New material for the caller's account.
    pub(crate) async fn generate(&self, kind: KeyKind) -> Result<SecretBytes, Refusal> {
        self.node.generate(self.account(), kind).await.map_err(|error| match error {
            GenerateError::Busy(Busy) => Refusal::throttled(),
            GenerateError::Crypto(error) => {
                tracing::error!(%error, "key material cannot be made");
                Refusal::internal()
            }
        })
    }

    /// New material that is made once for a call, however often the call is judged again.
    pub(crate) async fn generate_once<'s>(
        &self,
        once: &'s OnceLock<SecretBytes>,
        kind: KeyKind,
    ) -> Result<&'s SecretBytes, Refusal> {
        if let Some(made) = once.get() {
            return Ok(made);
        }
        let made = self.generate(kind).await?;
        Ok(once.get_or_init(|| made))
    }

    /// A denial that no policy decided.
    pub(crate) fn denied(&self, resource: &str) -> Refusal {
        self.denial(&self.asked(), Place::Named(resource), None)
    }

    /// A denial about something of another account, which may not be there.
    pub(crate) fn denied_abroad(&mut self) -> Refusal {
        self.record.decided_by = Some("Default".to_owned());
        let action = self.asked();
        let place = if self.by_ciphertext == Some(&*action) { Place::CiphertextAbroad } else { Place::Abroad };
        self.denial(&action, place, None)
    }

    /// The action that is asked for.
    fn asked(&self) -> Cow<'static, str> {
        let service = match self.call.source {
            SOURCE_INTERNAL => "keytrail",
            SOURCE_STS => "sts",
            SOURCE_IAM => "iam",
            SOURCE_CLOUDTRAIL => "cloudtrail",
            _ => "kms",
        };
        match self.action_asked {
            Some(action) => action.into(),
            None => format!("{service}:{}", self.call.operation).into(),
        }
    }

    fn denial(&self, action: &str, place: Place<'_>, reason: Option<Reason>) -> Refusal {
        let arn = self.caller.as_ref().map_or("unknown", |caller| &caller.arn);
        Refusal::new(RefusalKind::AccessDenied, denial::sentence(arn, action, place, reason))
    }

    /// Notes that the call uses a key's material, by default its current one.
    pub(crate) fn uses(&mut self, key: &KeyRecord, material_id: Option<String>) {
        self.record.key_material_id = material_id.or_else(|| key.material_id());
        self.used.push((key.account, key.id));
    }

    /// What is to be noted once the call has its seq: the keys it used, and how.
    pub(crate) fn take_use(&mut self) -> Option<(Vec<UsedKey>, LastUse)> {
        let keys = std::mem::take(&mut self.used);
        let operation = usage::operation(&self.call.operation).filter(|_| !keys.is_empty())?;
        let (event_id, request_id) = (self.event_id, self.call.request_id);
        Some((keys, LastUse { operation, at_us: self.judged_at_us, event_id, request_id, seq: 0 }))
    }

    /// The event of this judgement, and what it depends on.
    pub(crate) fn event(mut self, refusal: Option<&Refusal>, reads: bool, mutation: Option<u64>) -> (Bytes, Vec<Seen>) {
        if let Some(via) = self.caller.as_ref().and_then(|caller| caller.via.as_ref()) {
            let more = &mut self.record.more;
            more.extend(self.via_service.take().map(|service| ("viaService".to_owned(), service.into())));
            more.extend(via.source_arn.clone().map(|arn| ("sourceArn".to_owned(), arn.into())));
        }
        // A session of a role is its opener's deed, too: who acts must not pass for somebody else by changing roles.
        let session = self.caller.as_ref().and_then(|caller| caller.session.as_ref());
        if let Some(via) = session.map(|session| &session.claims.via).filter(|via| !via.is_empty()) {
            self.record.more.insert("openedBy".to_owned(), via.clone().into());
        }
        let action_id = self.action().map(|action| action.id.as_str());
        let account = self.account();
        let head = Head {
            identity: self.caller.map_or_else(|| unknown(&self.call.caller), |caller| caller.identity),
            source: self.call.source,
            name: &self.call.operation,
            region: self.call.region,
            source_ip: &self.call.source_ip,
            user_agent: self.call.user_agent.as_deref(),
            tls: self.call.tls.clone(),
            request_id: Some(self.call.request_id),
            event_id: self.event_id,
            judged_at_us: self.judged_at_us,
            read_only: reads && !changes(&self.call.operation),
            mutation,
            action_id,
            account: account.as_str(),
            event_type: "AwsApiCall",
        };
        (record::write(head, self.record, refusal), self.seen)
    }
}

/// What conditions may ask about a key.
pub(crate) fn key_facts(key: &KeyRecord) -> KeyFacts<'_> {
    KeyFacts {
        spec: key.kind.spec.name(),
        usage: key.kind.usage.name(),
        origin: key.kind.origin.name(),
        multi_region: key.family.is_some(),
        multi_region_key_type: key.key_type().map(MultiRegionKeyType::name),
        tags: Some(&key.tags),
        aliases: &key.aliases,
    }
}

/// Refuses a key whose state does not allow cryptographic use, in AWS's words.
pub(crate) fn usable<'k>(judge: &Judge<'_>, key: &'k KeyRecord) -> Result<UsableKey<'k>, Refusal> {
    key.usable(judge.judged_at_us).map_err(|state| {
        retire::note_failing(judge, key);
        state_refusal(key, state)
    })
}

/// A key of the wrong usage for this operation, in AWS's words.
pub(crate) fn wrong_usage(judge: &Judge<'_>, key: &KeyRecord) -> Refusal {
    let (arn, operation) = (key.arn(), &judge.call.operation);
    let usage = key.kind.usage.name();
    Refusal::new(
        RefusalKind::InvalidKeyUsage,
        format!("{arn} key usage is {usage} which is not valid for {operation}."),
    )
}

/// An algorithm that keys of this spec do not have, in AWS's words.
pub(crate) fn wrong_algorithm(key: &KeyRecord, algorithm: &str) -> Refusal {
    let text = format!("Algorithm {algorithm} is incompatible with key spec {}.", key.kind.spec.name());
    Refusal::new(RefusalKind::InvalidKeyUsage, text)
}

/// An operation for keys of another origin, in AWS's words.
pub(crate) fn wrong_origin(key: &KeyRecord) -> Refusal {
    let (arn, origin) = (key.arn(), key.kind.origin.name());
    Refusal::new(
        RefusalKind::UnsupportedOperation,
        format!("{arn} origin is {origin} which is not valid for this operation."),
    )
}

/// Refuses a key that waits for its deletion.
pub(crate) fn not_pending(key: &KeyRecord) -> Result<(), Refusal> {
    if key.state.is_pending_deletion() { Err(state_refusal(key, key.state)) } else { Ok(()) }
}

/// Refuses a key that has no material or waits for its deletion, in AWS's words.
pub(crate) fn not_waiting(key: &KeyRecord) -> Result<(), Refusal> {
    not_pending(key)?;
    if key.state == KeyState::PendingImport { Err(state_refusal(key, key.state)) } else { Ok(()) }
}

/// Refuses a key that is being made of its primary key, or made that, in AWS's words.
pub(crate) fn not_synchronizing(key: &KeyRecord) -> Result<(), Refusal> {
    not_creating(key)?;
    if matches!(key.state, KeyState::Updating { .. }) { Err(state_refusal(key, key.state)) } else { Ok(()) }
}

/// Refuses a replica that is being made of its primary key, in AWS's words.
pub(crate) fn not_creating(key: &KeyRecord) -> Result<(), Refusal> {
    if matches!(key.state, KeyState::Creating { .. }) { Err(state_refusal(key, key.state)) } else { Ok(()) }
}

/// Says what state is in the way.
pub(crate) fn state_refusal(key: &KeyRecord, state: KeyState) -> Refusal {
    let is = match state {
        KeyState::Enabled => "enabled",
        KeyState::Disabled => "disabled",
        KeyState::PendingImport => "pending import",
        KeyState::Creating { .. } => "creating",
        KeyState::Updating { .. } => "updating",
        KeyState::Unavailable => "unavailable",
        KeyState::PendingDeletion { .. } => "pending deletion",
        KeyState::PendingReplicaDeletion { .. } => "pending replica deletion",
    };
    let kind = if state == KeyState::Disabled { RefusalKind::Disabled } else { RefusalKind::InvalidState };
    Refusal::new(kind, format!("{} is {is}.", key.arn()))
}

/// The event of a caller that did not prove who it is.
pub(crate) fn stranger_event(
    node: &Node,
    call: &Call,
    claimed: Option<&str>,
    refusal: &Refusal,
    parameters: Option<Value>,
) -> Bytes {
    let judged_at_us = node.clock.now_us();
    let head = Head {
        identity: UserIdentity {
            kind: Some("Unknown".to_owned()),
            access_key_id: claimed.map(str::to_owned),
            ..UserIdentity::default()
        },
        source: call.source,
        name: &call.operation,
        region: call.region,
        source_ip: &call.source_ip,
        user_agent: call.user_agent.as_deref(),
        tls: call.tls.clone(),
        request_id: Some(call.request_id),
        event_id: node.time_ordered_id(judged_at_us),
        judged_at_us,
        read_only: !changes(&call.operation),
        mutation: None,
        action_id: None,
        account: node.account.as_str(),
        event_type: "AwsApiCall",
    };
    record::write(head, Record { request_parameters: parameters, ..Record::default() }, Some(refusal))
}

fn unknown(key: &CallerKey) -> UserIdentity {
    let access_key_id = match key {
        CallerKey::AccessKey(id) => Some(id.clone()),
        CallerKey::Session(session) => Some(session.access_key_id.clone()),
        CallerKey::WebIdentity(_) | CallerKey::Operator => None,
    };
    UserIdentity { kind: Some("Unknown".to_owned()), access_key_id, ..UserIdentity::default() }
}

/// Whether an operation changes state when it works; decides `readOnly` for refusals before parsing, too.
fn changes(operation: &str) -> bool {
    const VERBS: &[&str] = &[
        "Announce",
        "Withdraw",
        "Create",
        "Update",
        "Delete",
        "Put",
        "Lift",
        "Restore",
        "Enable",
        "Disable",
        "Schedule",
        "Cancel",
        "Tag",
        "Untag",
        "Add",
        "Remove",
        "Attach",
        "Detach",
        "Deactivate",
        "Activate",
        "Resync",
        "SetDefault",
        "Rotate",
        "Import",
        "Retire",
        "Revoke",
        "Replicate",
        "Connect",
        "Disconnect",
        "Approve",
        "Reject",
        "Open",
        "Consume",
    ];
    VERBS.iter().any(|verb| operation.starts_with(verb))
}
