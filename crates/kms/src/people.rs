//! People as identities.toml and the IAM API together have them: users, roles and sessions with the policies they bring.
//!
//! The node asks it for each caller; `past` asks the same of what the log says there was at a time, so that both read
//! identities in one way. Who an access key belongs to is `access`.

use crate::auth::identities::{Identities, Principal, Role};
use crate::auth::session::{Claims, Subject};
use crate::directory::Directory;
use crate::key::AccountId;
use crate::policy::{Document, Mfa, NamedDocument, PrincipalContext, PrincipalKind};
use std::sync::Arc;

/// A view of both sources.
#[derive(Clone, Copy)]
pub(crate) struct People<'a> {
    pub(crate) file: &'a Identities,
    pub(crate) directory: &'a Directory,
}

impl<'a> People<'a> {
    /// A user or an account's root user.
    pub(crate) fn user(self, arn: &str) -> Option<&'a Arc<Principal>> {
        self.file.principal_by_arn(arn).or_else(|| self.directory.principal_by_arn(arn))
    }

    /// All users, account roots among them.
    pub(crate) fn users(self) -> impl Iterator<Item = &'a Arc<Principal>> {
        self.file.principals().chain(self.directory.principals())
    }

    /// All roles.
    pub(crate) fn roles(self) -> impl Iterator<Item = &'a Arc<Role>> {
        self.file.roles().chain(self.directory.roles())
    }

    /// A role by its ARN.
    pub(crate) fn role(self, arn: &str) -> Option<&'a Arc<Role>> {
        self.file.role(arn).or_else(|| self.directory.role(arn))
    }

    /// A managed policy in force.
    pub(crate) fn policy(self, account: &str, name: &str) -> Option<&'a Arc<Document>> {
        let in_file = self.file.policy(account, name);
        in_file.or_else(|| self.directory.policy(AccountId::parse(account)?, name))
    }

    /// Whom a service of an account may act for under this ARN. For a role it acts in a session of its own name, without
    /// a second factor.
    pub(crate) fn served(self, account: &str, service: &str, arn: &str) -> Option<Arc<Principal>> {
        if let Some(user) = self.user(arn) {
            let served = user.context.account == account && user.context.kind == PrincipalKind::User;
            return served.then(|| Arc::clone(user));
        }
        let role = self.role(arn).filter(|role| role.account == account)?;
        let context = PrincipalContext {
            arn: session_arn(role, service),
            account: role.account.clone(),
            kind: PrincipalKind::Session,
            user_id: format!("{}:{service}", role.id),
            role_arn: Some(arn.to_owned()),
            mfa: Mfa::Without,
            tags: role.tags.clone(),
            ..PrincipalContext::default()
        };
        let (policies, boundary) = (Arc::clone(&role.policies), role.boundary.clone());
        Some(Arc::new(Principal { context, policies, boundary, session: None }))
    }

    /// Whose session it is, while the user or role is there and all policies that limit it are; `inline` is the policy of
    /// the claims, parsed. A user or role of the same name with another id is somebody else.
    pub(crate) fn in_session(self, claims: &Claims, inline: Option<&NamedDocument>) -> Option<Principal> {
        let mfa = claims.mfa_us.map_or(Mfa::Without, Mfa::At);
        match &claims.subject {
            Subject::User { arn, id } => {
                let user = self.user(arn).filter(|user| user.context.user_id == *id)?;
                let context = PrincipalContext { issued_us: Some(claims.issued_us), mfa, ..user.context.clone() };
                let (policies, boundary) = (Arc::clone(&user.policies), user.boundary.clone());
                Some(Principal { context, policies, boundary, session: None })
            }
            Subject::Role { arn, id, session_name } => {
                let role = self.role(arn).filter(|role| role.id == *id)?;
                let mut tags = role.tags.clone();
                tags.extend(claims.tags.clone());
                let context = PrincipalContext {
                    arn: session_arn(role, session_name),
                    account: role.account.clone(),
                    kind: PrincipalKind::Session,
                    user_id: format!("{id}:{session_name}"),
                    role_arn: Some(arn.clone()),
                    issued_us: Some(claims.issued_us),
                    mfa,
                    tags,
                    ..PrincipalContext::default()
                };
                let session = self.session_policies(claims, inline, &role.account)?;
                let (policies, boundary) = (Arc::clone(&role.policies), role.boundary.clone());
                Some(Principal { context, policies, boundary, session })
            }
        }
    }

    /// The policies a session was opened with; inside, none when there were none. Outside, none when one is gone: its
    /// denials must not go with it.
    #[allow(clippy::option_option)]
    fn session_policies(
        self,
        claims: &Claims,
        inline: Option<&NamedDocument>,
        account: &str,
    ) -> Option<Option<Arc<[NamedDocument]>>> {
        let mut all: Vec<NamedDocument> = inline.cloned().into_iter().collect();
        for name in &claims.policy_names {
            let document = Arc::clone(self.policy(account, name)?);
            all.push(NamedDocument { name: name.clone(), document });
        }
        Some((!all.is_empty()).then(|| all.into()))
    }
}

/// `arn:aws:sts::111122223333:assumed-role/reader/alice`.
pub(crate) fn session_arn(role: &Role, session_name: &str) -> String {
    format!("arn:aws:sts::{}:assumed-role/{}/{session_name}", role.account, role.name)
}

/// The role's ARN in a session's; none for what is no session's ARN.
pub(crate) fn role_of_session(arn: &str) -> Option<String> {
    let (account, rest) = arn.strip_prefix("arn:aws:sts::")?.split_once(":assumed-role/")?;
    let (role, session) = rest.split_once('/')?;
    let plain = !account.contains([':', '/']) && !session.contains('/') && !role.is_empty() && !session.is_empty();
    plain.then(|| format!("arn:aws:iam::{account}:role/{role}"))
}
