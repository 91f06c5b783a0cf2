//! What a key policy gives to whom, when no request is at hand: to search policies and to compare two of them.
//!
//! The parser and matchers are those of decisions, so that every way of writing an action or "anyone" counts. What depends
//! on a request is listed, not guessed. As in `public`, which key the policy is on is not known: every Allow counts as
//! being about it. What decides calls is never this.

use super::action::KMS_ACTIONS;
use super::document::{Document, Effect, Flavor, PolicyError, Principals, Statement};
use super::evaluate::CallerPolicies;
use super::grant::{GrantTerms, GrantsOnKey, ListedGrants};
use super::lint::{ADMINISTER, USE};
use super::pattern::Pattern;
use super::principal::{Principal, is_account_id};
use super::public::denies_outsiders;
use super::request::{Context, PrincipalContext, PrincipalKind, Request};
use super::survey::survey;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Most permissions told; a policy of 32 KiB can name a thousand principals.
const TOLD_MAX: usize = 64;

/// Longest list of conditions told of one permission, in bytes.
const CONDITIONS_BYTES_MAX: usize = 4 * 1024;

/// Somebody may do something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Permission {
    /// An ARN, an account's number, a unique id, or `*` for everyone.
    pub principal: String,
    /// What a call has to be like, as the statement says it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// Of denials that apply to some calls: what these are like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<String>,
}

/// Some permissions, with how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// At most 64, sorted.
    pub permissions: Vec<Permission>,
    /// How many were left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// A permission for several actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who, under which conditions.
    #[serde(flatten)]
    pub permission: Permission,
    /// `kms:Decrypt` and the like; `kms:*` alone when all are.
    pub actions: Vec<String>,
}

/// What one policy gives that another does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyDiff {
    /// Given by the new one only.
    pub added: Vec<Change>,
    /// Given by the old one only.
    pub removed: Vec<Change>,
    /// How many of both were left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// Why a question about a policy has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The text is no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There is no such action.
    #[error("'{0}' is no KMS action")]
    Action(String),
    /// Not twelve digits.
    #[error("'{0}' is no account")]
    Account(String),
}

/// Who may do `action` (`kms:Decrypt`) by this key policy: principals that match `pattern`, in which `*` and `?` are
/// wildcards. An account matches by its number or its root's ARN; everyone matches whatever the pattern is. A Deny without conditions
/// takes back what it covers.
pub fn grants(policy_text: &str, action: &str, pattern: &str) -> Result<Permissions, QuestionError> {
    let known = KMS_ACTIONS.iter().any(|(name, _)| {
        action
            .split_once(':')
            .is_some_and(|(kms, own)| kms.eq_ignore_ascii_case("kms") && own.eq_ignore_ascii_case(name))
    });
    if !known {
        return Err(QuestionError::Action(action.chars().take(64).collect()));
    }
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?;
    let pattern = Pattern::glob(pattern);
    let all = permissions(&document, &action.to_ascii_lowercase());
    let mut found: Vec<Permission> = all.into_iter().filter(|one| one.matches(&pattern)).collect();
    let more = found.len().saturating_sub(TOLD_MAX);
    found.truncate(TOLD_MAX);
    Ok(Permissions { permissions: found, more })
}

/// What `new` gives that `old` does not, and the other way round.
pub fn diff(old: &str, new: &str) -> Result<PolicyDiff, QuestionError> {
    let (old, new) = (by_permission(old)?, by_permission(new)?);
    let mut more = 0;
    let added = beyond(&new, &old, &mut more);
    let removed = beyond(&old, &new, &mut more);
    Ok(PolicyDiff { added, removed, more })
}

/// Whom `new` gives something that `old` (nothing, where there is none) does not: ARNs, accounts, unique ids or `*`, sorted.
pub fn let_in(old: Option<&str>, new: &str) -> Result<BTreeSet<String>, PolicyError> {
    let old = old.map(by_permission).transpose()?.unwrap_or_default();
    let new = by_permission(new)?;
    let more = new.iter().filter(|(permission, actions)| {
        old.get(permission).is_none_or(|known| actions.iter().any(|name| !known.contains(name)))
    });
    Ok(more.map(|(permission, _)| permission.principal.clone()).collect())
}

/// Whether nobody of `account` could change this key policy again: neither by the account's own policies nor because it names
/// a user or role of it. A call is taken to be as the conditions about it want it.
pub fn locks_out_account(policy_text: &str, account: &str) -> Result<bool, QuestionError> {
    if !is_account_id(account) {
        return Err(QuestionError::Account(account.chars().take(64).collect()));
    }
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?.about_any_key();
    let named = document.statements.iter().filter(|statement| statement.effect == Effect::Allow).flat_map(entries);
    let mut candidates: BTreeSet<String> = named
        .filter_map(|entry| if let Principal::Arn(arn) = entry { Some(arn.clone()) } else { None })
        .filter(|arn| account_of(arn) == Some(account))
        .collect();
    candidates.insert(super::grant::root_arn(account));
    Ok(!candidates.iter().any(|arn| can_write_policy(&document, account, arn)))
}

/// The accounts that an Allow of this key policy names by themselves or by their users and roles, sorted.
pub fn named_accounts(policy_text: &str) -> Result<Vec<String>, PolicyError> {
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?;
    let allows = document.statements.iter().filter(|statement| statement.effect == Effect::Allow);
    let accounts: BTreeSet<String> = allows
        .flat_map(entries)
        .filter_map(|entry| match entry {
            Principal::Account(account) => Some(account.clone()),
            Principal::Arn(arn) | Principal::Federated(arn) => account_of(arn).map(str::to_owned),
            Principal::Everyone | Principal::UniqueId(_) | Principal::Foreign => None,
        })
        .collect();
    Ok(accounts.into_iter().collect())
}

/// The users, roles and other principals that this key policy lets both administer and use the key, sorted, at most 64.
/// Accounts are not among them: who of them does what is for their own policies.
pub fn mixed_duties(policy_text: &str) -> Result<Vec<String>, PolicyError> {
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?;
    let holders = |actions: &[&str]| -> BTreeSet<String> {
        let all = actions.iter().flat_map(|name| permissions(&document, &format!("kms:{}", name.to_ascii_lowercase())));
        all.map(|permission| permission.principal).filter(|principal| !is_account_id(principal)).collect()
    };
    let (administer, using) = (holders(&ADMINISTER), holders(&USE));
    Ok(administer.intersection(&using).take(TOLD_MAX).cloned().collect())
}

/// Whether an identity policy allows `action` on every key of `account` in some region, without a condition.
pub fn on_all_keys(policy_text: &str, action: &str, account: &str) -> Result<bool, QuestionError> {
    let document = Document::read(policy_text, Flavor::IdentityPolicy, false)?;
    let action = action.to_ascii_lowercase();
    // A key that nobody can have named: whatever covers it does so by a wildcard.
    let any = format!("arn:aws:kms:us-east-1:{account}:key/zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz");
    let allows = document.statements.iter().filter(|statement| statement.effect == Effect::Allow);
    let mut plain = allows.filter(|statement| statement.conditions.is_empty() && statement.covers_action(&action));
    let context = Context::default();
    let principal = root(account);
    let request =
        Request { action: &action, resource_arn: &any, key_account: account, principal: &principal, context: &context };
    Ok(plain.any(|statement| statement.applies(&request, &action)))
}

/// The account in an ARN of the user, role, key or other thing.
pub fn account_of(arn: &str) -> Option<&str> {
    let mut parts = arn.split(':');
    let account = (parts.next() == Some("arn")).then(|| parts.nth(3)).flatten()?;
    (is_account_id(account) && parts.next().is_some()).then_some(account)
}

/// All that the document gives of one action, in lower case.
fn permissions(document: &Document, action: &str) -> BTreeSet<Permission> {
    let covering: Vec<&Statement> = document.statements.iter().filter(|s| s.covers_action(action)).collect();
    let denies: Vec<&Statement> = covering.iter().copied().filter(|s| s.effect == Effect::Deny).collect();
    let mut all = BTreeSet::new();
    for allow in covering.into_iter().filter(|statement| statement.effect == Effect::Allow) {
        let fenced = allow.conditions.iter().any(|condition| condition.is_fence());
        for entry in entries(allow) {
            let Some(principal) = shown(entry) else { continue };
            if let Some(unless) = denials(entry, fenced, &denies) {
                all.insert(Permission { principal, conditions: texts(allow), unless });
            }
        }
    }
    all
}

/// What takes it back from some calls; None when it is taken back altogether.
fn denials(entry: &Principal, fenced: bool, denies: &[&Statement]) -> Option<Vec<String>> {
    let mut unless = Vec::new();
    let caller = caller(entry);
    for deny in denies {
        let about = match entry {
            Principal::Everyone if !fenced && denies_outsiders(deny) => return None,
            Principal::Everyone => entries(deny).contains(&Principal::Everyone),
            _ => deny.principals.deny_names(&caller, false),
        };
        if about && deny.conditions.is_empty() && deny.covers_all_resources() {
            return None;
        }
        if about && !deny.conditions.is_empty() {
            unless.extend(texts(deny));
        }
    }
    unless.sort();
    unless.dedup();
    Some(unless)
}

fn entries(statement: &Statement) -> &[Principal] {
    match &statement.principals {
        Principals::These(entries) => entries,
        // Everyone but some: as open as everyone, unless nobody is left.
        Principals::AllBut(entries) if entries.contains(&Principal::Everyone) => &[],
        Principals::AllBut(_) => &[Principal::Everyone],
        Principals::Attached => &[],
    }
}

fn shown(entry: &Principal) -> Option<String> {
    match entry {
        Principal::Everyone => Some("*".to_owned()),
        Principal::Account(text) | Principal::Arn(text) | Principal::UniqueId(text) | Principal::Federated(text) => {
            Some(text.clone())
        }
        // No call comes from a service by itself.
        Principal::Foreign => None,
    }
}

fn texts(statement: &Statement) -> Vec<String> {
    let mut bytes = 0;
    let all = statement.conditions.iter().map(|condition| condition.text.to_string());
    let fits = |text: &String| {
        bytes += text.len();
        bytes <= CONDITIONS_BYTES_MAX
    };
    let mut told: Vec<String> = all.take_while(fits).collect();
    if told.len() < statement.conditions.len() {
        told.push("and further conditions".to_owned());
    }
    told
}

/// The entry as a caller, for what denials say of it.
fn caller(entry: &Principal) -> PrincipalContext {
    match entry {
        Principal::Account(account) => root(account),
        Principal::Arn(arn) => named(arn),
        Principal::UniqueId(id) => PrincipalContext { user_id: id.clone(), ..PrincipalContext::default() },
        Principal::Federated(arn) => PrincipalContext { kind: PrincipalKind::Federated, ..named(arn) },
        Principal::Everyone | Principal::Foreign => PrincipalContext::default(),
    }
}

fn root(account: &str) -> PrincipalContext {
    let (arn, account) = (super::grant::root_arn(account), account.to_owned());
    PrincipalContext {
        arn,
        user_id: account.clone(),
        account,
        kind: PrincipalKind::Root,
        ..PrincipalContext::default()
    }
}

fn named(arn: &str) -> PrincipalContext {
    let account = account_of(arn).unwrap_or_default().to_owned();
    PrincipalContext { arn: arn.to_owned(), account, ..PrincipalContext::default() }
}

fn can_write_policy(document: &Document, account: &str, arn: &str) -> bool {
    let principal = if arn == super::grant::root_arn(account) { root(account) } else { named(arn) };
    let request = Request {
        action: "kms:PutKeyPolicy",
        resource_arn: "*",
        key_account: account,
        principal: &principal,
        context: &Context::default(),
    };
    !survey(&request, document, &CallerPolicies::default(), &NoGrants).ways.is_empty()
}

/// Nobody may change a policy by a grant.
struct NoGrants;

impl GrantsOnKey for NoGrants {
    fn find(&self, _: &str, _: &mut dyn FnMut(&GrantTerms) -> bool) -> Option<String> {
        None
    }
}

impl ListedGrants for NoGrants {
    fn each(&self, _: &str, _: &mut dyn FnMut(&str, &GrantTerms)) {}
}

impl Permission {
    fn matches(&self, pattern: &Pattern) -> bool {
        self.principal == "*"
            || pattern.matches(&self.principal)
            || (is_account_id(&self.principal) && pattern.matches(&super::grant::root_arn(&self.principal)))
    }
}

/// Each permission with the actions that it is for.
type ByPermission = BTreeMap<Permission, BTreeSet<&'static str>>;

fn by_permission(policy_text: &str) -> Result<ByPermission, PolicyError> {
    let document = Document::read(policy_text, Flavor::KeyPolicy, false)?;
    let mut all = ByPermission::new();
    // Actions that the same statements are about give the same.
    let mut known: BTreeMap<Vec<usize>, BTreeSet<Permission>> = BTreeMap::new();
    for (name, _) in &KMS_ACTIONS {
        let action = format!("kms:{}", name.to_ascii_lowercase());
        let statements = document.statements.iter().enumerate();
        let covering = statements.filter(|(_, statement)| statement.covers_action(&action)).map(|(at, _)| at).collect();
        let given = known.entry(covering).or_insert_with(|| permissions(&document, &action));
        for permission in given.iter() {
            all.entry(permission.clone()).or_default().insert(name);
        }
    }
    Ok(all)
}

/// What `these` gives beyond `those`.
fn beyond(these: &ByPermission, those: &ByPermission, more: &mut usize) -> Vec<Change> {
    let mut changes = Vec::new();
    for (permission, actions) in these {
        let known = those.get(permission);
        let new: Vec<&str> = actions.iter().copied().filter(|name| known.is_none_or(|k| !k.contains(name))).collect();
        if new.is_empty() {
            continue;
        }
        if changes.len() == TOLD_MAX {
            *more += 1;
            continue;
        }
        let all = new.len() == KMS_ACTIONS.len();
        let actions =
            if all { vec!["kms:*".to_owned()] } else { new.iter().map(|name| format!("kms:{name}")).collect() };
        changes.push(Change { permission: permission.clone(), actions });
    }
    changes
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const OWN: &str = "111122223333";

    fn policy(statements: &str) -> String {
        format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#)
    }

    fn allow(principal: &str, action: &str, more: &str) -> String {
        format!(r#"{{"Effect":"Allow","Principal":{principal},"Action":{action},"Resource":"*"{more}}}"#)
    }

    fn aws(name: &str) -> String {
        format!(r#"{{"AWS":"arn:aws:iam::{name}"}}"#)
    }

    #[test]
    fn who_is_let_in_is_who_may_more_than_before() {
        let (app, stranger) = (aws("111122223333:user/app"), aws("999988887777:root"));
        let both = |action: &str| policy(&[allow(&app, action, ""), allow(&stranger, action, "")].join(","));
        let names = |old: Option<&str>, new: &str| Vec::from_iter(let_in(old, new).unwrap());
        let decrypt = policy(&allow(&app, r#""kms:Decrypt""#, ""));
        assert_eq!(names(None, &decrypt), ["arn:aws:iam::111122223333:user/app"]);
        assert_eq!(names(Some(&decrypt), &both(r#""kms:Decrypt""#)), ["999988887777"]);
        assert!(names(Some(&both(r#""kms:Decrypt""#)), &decrypt).is_empty());
        assert!(names(Some(&decrypt), &decrypt).is_empty());
        assert_eq!(names(Some(&both(r#""kms:Decrypt""#)), &both(r#""kms:De*""#)).len(), 2);
        assert!(let_in(Some("{"), &decrypt).is_err());
    }

    fn who(policy: &str, action: &str, pattern: &str) -> Vec<String> {
        grants(policy, action, pattern).unwrap().permissions.into_iter().map(|one| one.principal).collect()
    }

    #[test]
    fn who_may_do_it_whichever_way_it_is_written() {
        let user = "arn:aws:iam::111122223333:user/app";
        for action in [r#""kms:Decrypt""#, r#"["kms:Encrypt","kms:Decrypt"]"#, r#""kms:De*""#, r#""kms:*""#, r#""*""#] {
            let text = policy(&allow(&aws("111122223333:user/app"), action, ""));
            assert_eq!(who(&text, "kms:decrypt", "*"), [user], "{action}");
            assert_eq!(who(&text, "kms:Decrypt", "arn:aws:iam::*:user/a?p"), [user]);
            assert!(who(&text, "kms:Decrypt", "arn:aws:iam::*:role/*").is_empty());
            assert!(who(&text, "kms:Sign", "*").is_empty() || action.contains("*\""));
        }
        let root = policy(&allow(&aws("111122223333:root"), r#""kms:*""#, ""));
        assert_eq!(who(&root, "kms:Decrypt", "1111*"), [OWN]);
        assert_eq!(who(&root, "kms:Decrypt", "arn:aws:iam::1111*:root"), [OWN]);
        let everyone = policy(&allow(r#""*""#, r#""kms:Decrypt""#, ""));
        assert_eq!(who(&everyone, "kms:Decrypt", user), ["*"], "everyone is whoever is asked about");
        assert_eq!(grants(&root, "kms:Decript", "*"), Err(QuestionError::Action("kms:Decript".into())));
        assert!(matches!(grants("{", "kms:Decrypt", "*"), Err(QuestionError::Policy(_))));
    }

    #[test]
    fn conditions_are_told_and_denials_count() {
        let tenant = r#","Condition":{"StringEquals":{"kms:EncryptionContext:tenant":"7"}}"#;
        let given = allow(&aws("111122223333:user/app"), r#""kms:Decrypt""#, tenant);
        let told = grants(&policy(&given), "kms:Decrypt", "*").unwrap().permissions;
        assert_eq!(told[0].conditions, ["StringEquals kms:EncryptionContext:tenant 7"]);
        let deny = |principal: &str, more: &str| allow(principal, r#""kms:*""#, more).replace("Allow", "Deny");
        for principal in [r#""*""#.to_owned(), aws("111122223333:root"), aws("111122223333:user/app")] {
            assert!(who(&policy(&format!("{given},{}", deny(&principal, ""))), "kms:Decrypt", "*").is_empty());
        }
        let other = deny(&aws("111122223333:user/other"), "");
        assert_eq!(who(&policy(&format!("{given},{other}")), "kms:Decrypt", "*").len(), 1);
        let outside = deny(r#""*""#, r#","Condition":{"NotIpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#);
        let told = grants(&policy(&format!("{given},{outside}")), "kms:Decrypt", "*").unwrap().permissions;
        assert_eq!(told[0].unless, ["NotIpAddress aws:SourceIp 10.0.0.0/8"]);
    }

    #[test]
    fn a_diff_tells_what_came_and_went() {
        let root = allow(&aws("111122223333:root"), r#""kms:*""#, "");
        let old = policy(&format!("{root},{}", allow(&aws("111122223333:user/a"), r#""kms:Decrypt""#, "")));
        let new =
            policy(&format!("{root},{}", allow(&aws("444455556666:root"), r#"["kms:Decrypt","kms:Encrypt"]"#, "")));
        let found = diff(&old, &new).unwrap();
        assert_eq!(found.added.len(), 1);
        assert_eq!(found.added[0].permission.principal, "444455556666");
        assert_eq!(found.added[0].actions, ["kms:Decrypt", "kms:Encrypt"]);
        assert_eq!(found.removed[0].permission.principal, "arn:aws:iam::111122223333:user/a");
        assert_eq!(diff(&old, &old).unwrap(), PolicyDiff::default());
        let all = diff(&policy(&allow(&aws("111122223333:user/a"), r#""kms:Decrypt""#, "")), &policy(&root)).unwrap();
        assert_eq!(all.added[0].actions, ["kms:*"]);
    }

    #[test]
    fn a_key_that_nobody_can_manage_is_seen() {
        let locked = |statements: &str| locks_out_account(&policy(statements), OWN).unwrap();
        let root = allow(&aws("111122223333:root"), r#""kms:*""#, "");
        assert!(!locked(&root));
        assert!(!locked(&allow(&aws("111122223333:role/admin"), r#""kms:Put*""#, "")));
        assert!(!locked(
            &root.replace(r#""Resource":"*""#, r#""Resource":"arn:aws:kms:eu-west-1:111122223333:key/1""#)
        ));
        let mfa = r#","Condition":{"Bool":{"aws:MultiFactorAuthPresent":"true"}}"#;
        assert!(!locked(&allow(&aws("111122223333:role/admin"), r#""kms:*""#, mfa)), "a second factor can be had");
        assert!(locked(&allow(&aws("111122223333:user/app"), r#"["kms:Decrypt","kms:GetKeyPolicy"]"#, "")));
        assert!(locked(&allow(&aws("444455556666:root"), r#""kms:*""#, "")), "another account's word does not help");
        let deny = root.replace("Allow", "Deny");
        assert!(locked(&format!("{root},{deny}")));
        assert!(locks_out_account(&policy(&root), "12").is_err());
        assert!(locks_out_account("[]", OWN).is_err());
        assert!(!locks_out_account(&super::super::default_key_policy(OWN), OWN).unwrap());
    }

    #[test]
    fn accounts_are_read_from_arns() {
        assert_eq!(account_of("arn:aws:kms:eu-west-1:111122223333:key/1"), Some(OWN));
        assert_eq!(account_of("arn:aws:sts::111122223333:assumed-role/r/s"), Some(OWN));
        for text in
            ["", "arn", "arn:aws:s3:::bucket", "111122223333", "arn:aws:iam::1:user/a", "arn:aws:iam::111122223333"]
        {
            assert_eq!(account_of(text), None, "{text}");
        }
        let text = policy(&format!(
            "{},{}",
            allow(
                r#"{"AWS":["444455556666","arn:aws:iam::111122223333:user/a"],"Service":"s3.amazonaws.com"}"#,
                r#""kms:*""#,
                ""
            ),
            allow(&aws("777788889999:root"), r#""kms:*""#, "").replace("Allow", "Deny"),
        ));
        assert_eq!(named_accounts(&text).unwrap(), [OWN, "444455556666"]);
    }

    #[test]
    fn duties_and_all_keys() {
        let both = policy(&allow(&aws("111122223333:user/a"), r#"["kms:PutKeyPolicy","kms:Decrypt"]"#, ""));
        assert_eq!(mixed_duties(&both).unwrap(), ["arn:aws:iam::111122223333:user/a"]);
        let apart = policy(&format!(
            "{},{}",
            allow(&aws("111122223333:user/a"), r#""kms:PutKeyPolicy""#, ""),
            allow(&aws("111122223333:user/b"), r#""kms:Decrypt""#, "")
        ));
        assert!(mixed_duties(&apart).unwrap().is_empty());
        assert!(mixed_duties(&policy(&allow(&aws("111122223333:root"), r#""kms:*""#, ""))).unwrap().is_empty());
        let identity = |resource: &str, more: &str| {
            policy(&format!(r#"{{"Effect":"Allow","Action":"kms:De*","Resource":{resource}{more}}}"#))
        };
        let all = |resource: &str, more: &str| on_all_keys(&identity(resource, more), "kms:Decrypt", OWN).unwrap();
        assert!(all(r#""*""#, "") && all(r#"["arn:aws:s3:::b","arn:aws:kms:*:111122223333:key/*"]"#, ""));
        assert!(!all(r#""arn:aws:kms:us-east-1:111122223333:key/1""#, ""));
        assert!(!all(r#""*""#, r#","Condition":{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}"#));
        assert!(!on_all_keys(&identity(r#""*""#, ""), "kms:Encrypt", OWN).unwrap());
    }

    #[test]
    fn a_large_policy_is_told_in_part() {
        let users: Vec<String> = (0..500).map(|n| format!("\"arn:aws:iam::111122223333:user/u{n}\"")).collect();
        let text = policy(&allow(&format!("{{\"AWS\":[{}]}}", users.join(",")), r#""kms:*""#, ""));
        let told = grants(&text, "kms:Decrypt", "*").unwrap();
        assert_eq!((told.permissions.len(), told.more), (TOLD_MAX, 500 - TOLD_MAX));
        assert_eq!(
            diff(&policy(&allow(&aws("111122223333:root"), r#""kms:*""#, "")), &text).unwrap().more,
            500 - TOLD_MAX
        );
    }
}
