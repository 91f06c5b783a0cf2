//! AssumeRoleWithWebIdentity: a session of a role for someone whom an identity provider vouches for. The token is the
//! credential: there is no signature, and until the token is verified its sender is a stranger.

use super::super::answer::{Answer, Call, CallerKey};
use super::super::drive;
use super::super::input::{self, SecretText, required_secret};
use super::super::judge::Judge;
use super::super::refusal::{Refusal, RefusalKind};
use super::assume_role::AssumeRole;
use super::{Opens, Plain};
use crate::auth::oidc::{KeysError, Token, TokenError, WebIdentity};
use crate::key::AccountId;
use crate::node::Node;
use crate::policy::Mfa;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The members beside those of AssumeRole.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Proof {
    /// Never recorded.
    web_identity_token: Option<SecretText>,
    provider_id: Option<String>,
}

/// The call, once its token was believed.
struct AssumeRoleWithWebIdentity {
    role: AssumeRole,
    identity: Arc<WebIdentity>,
}

/// Runs one. `stranger` is the call before anybody is known to make it.
pub(in crate::ops) async fn assume(node: &Arc<Node>, stranger: Call, body: &[u8]) -> Answer {
    let (role, proof) = match (input::parse::<AssumeRole>(body), input::parse::<Proof>(body)) {
        (Ok(role), Ok(proof)) => (role, proof),
        (Err(refusal), _) | (_, Err(refusal)) => {
            return drive::refuse_unknown(node, &stranger, None, refusal, None).await;
        }
    };
    match believe(node, &role, &proof).await {
        Ok(identity) => {
            // Whoever is known does not use up what strangers from the same address have.
            node.refusals.known(&stranger.source_ip);
            let identity = Arc::new(identity);
            let call = Call { caller: CallerKey::WebIdentity(Arc::clone(&identity)), ..stranger };
            drive::answer_query(node, &call, &Plain(AssumeRoleWithWebIdentity { role, identity })).await
        }
        Err(refusal) => {
            let parameters = role.parameters();
            drive::refuse_unknown(node, &stranger, None, refusal, parameters).await
        }
    }
}

/// Who the token says it is, if its issuer is a provider of the role's account and signed it.
async fn believe(node: &Node, role: &AssumeRole, proof: &Proof) -> Result<WebIdentity, Refusal> {
    role.check_for_web_identity()?;
    let token = required_secret(&proof.web_identity_token, "webIdentityToken")?;
    if proof.provider_id.is_some() {
        let text = "ProviderId is for OAuth 2.0 access tokens, which are not supported by this node.";
        return Err(Refusal::new(RefusalKind::Validation, text));
    }
    let token = Token::read(token).map_err(refusal)?;
    let no_provider = || TokenError::NoProvider { issuer: token.issuer().to_owned() };
    let account = role.account().and_then(AccountId::parse).ok_or_else(|| refusal(no_provider()))?;
    let access = Arc::clone(&node.access.read());
    let provider = access.oidc_provider(account, token.issuer()).ok_or_else(|| refusal(no_provider()))?;
    token.verify(&node.issuer_keys, account, provider, node.clock.now_us()).await.map_err(refusal)
}

/// AWS's exception for a token that is not believed.
fn refusal(error: TokenError) -> Refusal {
    let kind = match &error {
        TokenError::Keys(KeysError::UnknownKey)
        | TokenError::Malformed
        | TokenError::NoProvider { .. }
        | TokenError::Signature
        | TokenError::Audience => RefusalKind::InvalidIdentityToken,
        TokenError::Keys(KeysError::NoSource | KeysError::Unavailable) => RefusalKind::IdpCommunication,
        TokenError::Expired { .. } => RefusalKind::ExpiredIdentityToken,
        TokenError::NotYet | TokenError::Subject => RefusalKind::IdpRejectedClaim,
    };
    Refusal::new(kind, error.to_string())
}

impl Opens for AssumeRoleWithWebIdentity {
    fn parameters(&self) -> Option<Value> {
        self.role.parameters()
    }

    fn open(&self, judge: &mut Judge<'_>, mfa: Mfa) -> Result<Bytes, Refusal> {
        let opened = self.role.opened(judge, mfa, "sts:AssumeRoleWithWebIdentity");
        let mut body = opened.map_err(|refusal| match refusal.kind {
            // AWS does not tell a stranger whose role it is, or whether there is one.
            RefusalKind::AccessDenied => {
                Refusal::new(RefusalKind::AccessDenied, "Not authorized to perform sts:AssumeRoleWithWebIdentity")
            }
            _ => refusal,
        })?;
        let WebIdentity { provider_arn, facts, .. } = &*self.identity;
        if let Some(elements) = judge.record.response_elements.as_mut() {
            elements["subjectFromWebIdentityToken"] = facts.subject.as_str().into();
            elements["provider"] = provider_arn.as_str().into();
            elements["audience"] = facts.audience.as_str().into();
        }
        let said = json!({
            "SubjectFromWebIdentityToken": facts.subject, "Provider": provider_arn, "Audience": facts.audience,
        });
        body.push(',');
        body.push_str(said.to_string().trim_start_matches('{'));
        Ok(Bytes::from_owner(body))
    }
}
