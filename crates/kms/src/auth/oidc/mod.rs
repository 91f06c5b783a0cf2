//! OpenID Connect tokens: who an identity provider says somebody is, checked against the provider's own keys.
//!
//! A token is a credential of a stranger until its signature holds: it is bounded, read strictly, and never recorded.
//! Only RS256 and ES256 are accepted, so that no header can ask for another check, or for none; keys come from the issuer
//! that the administrator registered, never from the token. Whoever holds a living token may use it again until it
//! expires, as at AWS. Why: docs/decisions/0022-web-identity.md.

mod keys;

pub(crate) use keys::{IssuerKeys, KeysError, is_loopback};

use crate::directory::entity::{Entity, OidcProvider};
use crate::key::AccountId;
use crate::policy::WebIdentityFacts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The model's bound on a token.
const TOKEN_BYTES_MAX: usize = 20_000;
/// Longest subject: OpenID Connect's own bound.
const SUBJECT_CHARS_MAX: usize = 255;
/// How far an issuer's clock may be ahead of ours.
const SKEW_SECS: f64 = 60.0;

/// Someone whose token was verified.
#[derive(Clone, Debug)]
pub(crate) struct WebIdentity {
    pub(crate) provider_arn: String,
    pub(crate) account: AccountId,
    /// The provider's name: its URL without the scheme.
    pub(crate) provider: String,
    pub(crate) facts: WebIdentityFacts,
}

/// Why a token is not accepted. No message quotes more of the token than its issuer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not a signed token of the kinds we read.
    #[error("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")]
    Malformed,
    /// The issuer is not registered in the role's account.
    #[error("No OpenIDConnect provider found in your account for {issuer}")]
    NoProvider {
        /// What the token says.
        issuer: String,
    },
    /// The keys cannot be had.
    #[error("Couldn't retrieve verification key from your identity provider: {0}")]
    Keys(#[source] KeysError),
    /// Not signed by the issuer.
    #[error("The token's signature cannot be verified with the identity provider's keys.")]
    Signature,
    /// For somebody else.
    #[error("Incorrect token audience")]
    Audience,
    /// Over.
    #[error("Token expired: current date/time {now_secs} must be before the expiration date/time {expires_secs}")]
    Expired {
        /// Unix seconds.
        now_secs: u64,
        /// Unix seconds.
        expires_secs: f64,
    },
    /// Issued or valid only later.
    #[error("The token is not valid yet.")]
    NotYet,
    /// No subject that an event could name.
    #[error("The token's subject is missing or not acceptable.")]
    Subject,
}

/// A token as it was read, before anything in it is believed.
pub(crate) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    header: Header,
    claims: Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: String,
    /// Extensions that must be understood: none is.
    crit: Option<serde::de::IgnoredAny>,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Algorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "ES256")]
    Es256,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    #[serde(default)]
    amr: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl<'a> Token<'a> {
    /// Reads a token strictly.
    pub(crate) fn read(text: &'a str) -> Result<Self, TokenError> {
        Self::parse(text).ok_or(TokenError::Malformed)
    }

    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
        let plain = claims.iss.len() <= 2_048 && claims.iss.bytes().all(|byte| byte.is_ascii_graphic());
        (plain && header.crit.is_none()).then_some(Self { signed, signature: decode(signature)?, header, claims })
    }

    /// The issuer that it claims.
    pub(crate) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Believes the token if the provider's keys say so and it is for this provider's clients, now.
    pub(crate) async fn verify(
        self,
        keys: &IssuerKeys,
        account: AccountId,
        provider: &OidcProvider,
        now_us: u64,
    ) -> Result<WebIdentity, TokenError> {
        if self.claims.iss != provider.url {
            return Err(TokenError::NoProvider { issuer: self.claims.iss });
        }
        let key = keys.key(&provider.url, &self.header.kid, now_us).await.map_err(TokenError::Keys)?;
        if !key.verifies(self.header.alg, self.signed.as_bytes(), &self.signature) {
            return Err(TokenError::Signature);
        }
        self.claims.check_times(now_us)?;
        let Claims { sub, aud, azp, amr, .. } = self.claims;
        let audience = match (azp, aud) {
            // As at AWS the authorized party stands for the audience where it is given.
            (Some(party), _) => party,
            (None, Audience::One(audience)) => audience,
            (None, Audience::Many(mut all)) => all.pop().filter(|_| all.is_empty()).ok_or(TokenError::Audience)?,
        };
        if !provider.client_ids.contains(&audience) {
            return Err(TokenError::Audience);
        }
        if !(1..=SUBJECT_CHARS_MAX).contains(&sub.chars().count()) || sub.chars().any(char::is_control) {
            return Err(TokenError::Subject);
        }
        Ok(WebIdentity {
            provider_arn: OidcProvider::arn(account, &provider.name),
            account,
            provider: provider.name.clone(),
            facts: WebIdentityFacts { issuer: provider.name.clone(), audience, subject: sub, amr },
        })
    }
}

impl Claims {
    fn check_times(&self, now_us: u64) -> Result<(), TokenError> {
        let now_secs = now_us / 1_000_000;
        // Seconds since 1970 are far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let now = now_secs as f64;
        if self.exp <= now {
            return Err(TokenError::Expired { now_secs, expires_secs: self.exp });
        }
        if self.iat > now + SKEW_SECS || self.nbf.is_some_and(|at| at > now + SKEW_SECS) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.AAAA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn whatever_is_no_plain_token_of_two_algorithms_is_not_read() {
        let header = r#"{"alg":"RS256","kid":"1"}"#;
        let claims = r#"{"iss":"https://a","sub":"s","aud":"a","exp":2,"iat":1}"#;
        assert!(Token::read(&token(header, claims)).is_ok());
        for (header, claims) in [
            (r#"{"alg":"none","kid":"1"}"#, claims),
            (r#"{"alg":"HS256","kid":"1"}"#, claims),
            (r#"{"alg":"RS256"}"#, claims),
            (r#"{"alg":"RS256","kid":"1","crit":["b64"]}"#, claims),
            (r#"{"alg":"RS256","alg":"ES256","kid":"1"}"#, claims),
            (header, r#"{"iss":"https://a","sub":"s","aud":"a","iat":1}"#),
            (header, r#"{"iss":"https://a","sub":"s","aud":"a","exp":2}"#),
            (header, r#"{"iss":"https://a","aud":"a","exp":2,"iat":1}"#),
            (header, r#"{"iss":"https://a","sub":"s","exp":2,"iat":1}"#),
            (header, r#"{"iss":"https://a","sub":"s","sub":"t","aud":"a","exp":2,"iat":1}"#),
            (header, r#"{"iss":"a b","sub":"s","aud":"a","exp":2,"iat":1}"#),
            (header, r#"{"iss":"https://a","sub":"s","aud":"a","exp":"2","iat":1}"#),
        ] {
            assert!(Token::read(&token(header, claims)).is_err(), "{header} {claims}");
        }
        let good = token(header, claims);
        for wrong in [&good[1..], &format!("{good}."), &format!("{good}.A"), "", ".", "..", &"a".repeat(20_001)] {
            assert!(Token::read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "[A-Za-z0-9_.=-]{0,200}") {
            let _ = Token::read(&text);
        }
    }
}
