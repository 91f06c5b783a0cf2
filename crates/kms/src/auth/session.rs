//! Temporary credentials: an access key `ASIA...` whose token says by itself whose session it is.
//!
//! A token is sealed under the root key (crypto/sealed.rs) and bound to its access key id; nothing is stored, so
//! opening a session costs no write and every node with the same root key knows it. What a token grants is looked up at
//! each call: the role's policies, whether role and user still exist, the quarantine of whoever opened it. Why:
//! docs/decisions/0010-session-tokens.md.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::credentials::{CredentialsError, SecretKey, session_access_key_id};
use crate::crypto::sealed::{self, SEALED_PLAINTEXT_BYTES_MAX};
use crate::crypto::{CryptoFailure, Purpose, RootKey};
use crate::policy::{Document, Flavor, NamedDocument};

/// Longest token that is looked at, in base64.
const TOKEN_BYTES_MAX: usize = SEALED_PLAINTEXT_BYTES_MAX * 4 / 3 + 256;
/// Longest claims that are put into a token: all tags and policies at their limits stay below HTTP's bound on headers.
pub(crate) const CLAIMS_BYTES_MAX: usize = 10 * 1024;
/// Opened tokens kept: the largest take some thirty KiB, and opening one again costs tens of microseconds.
const OPENED_MAX: usize = 1_024;

/// What a token says. No member is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Twelve digits.
    pub(crate) account: String,
    /// Whose session.
    pub(crate) subject: Subject,
    /// Unix microseconds.
    pub(crate) issued_us: u64,
    /// Unix microseconds.
    pub(crate) expires_us: u64,
    /// When a second factor was proved, in Unix microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mfa_us: Option<u64>,
    /// Texts of the session policy, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    /// Names of policies in the role's account that limit the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) policy_names: Vec<String>,
    /// Session tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, String>,
    /// Keys of those tags that go on into sessions opened by this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) transitive_tag_keys: Vec<String>,
    /// ARNs of the users and roles by which this session was reached: their quarantine ends it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) via: Vec<String>,
    /// The ARN of the identity provider whose token opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) web_identity_provider: Option<String>,
}

/// Whose session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// A user or account root, with its stable id: one of the same name made later is somebody else.
    User { arn: String, id: String },
    /// A role, with its stable id, under a name the opener chose.
    Role { arn: String, id: String, session_name: String },
}

/// An opened token, without its secret.
#[derive(Debug)]
pub(crate) struct Session {
    /// `ASIA...`.
    pub(crate) access_key_id: String,
    pub(crate) claims: Claims,
    /// The session policy, parsed.
    pub(crate) policy: Option<NamedDocument>,
}

/// An opened token.
pub(crate) struct Opened {
    pub(crate) session: Arc<Session>,
    pub(crate) secret: SecretKey,
}

/// New temporary credentials.
pub(crate) struct Issued {
    pub(crate) access_key_id: String,
    pub(crate) secret: SecretKey,
    pub(crate) token: Zeroizing<String>,
}

/// Why a session was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// Policies and tags do not fit into a token.
    #[error("session policies and tags do not fit into a token")]
    TooLarge,
    /// Random source.
    #[error("draw access key")]
    Credentials(#[from] CredentialsError),
    /// Cipher.
    #[error("seal session token")]
    Crypto(#[from] CryptoFailure),
}

#[derive(Serialize, Deserialize)]
struct Sealed<'a> {
    #[serde(borrow)]
    secret: &'a str,
    claims: Claims,
}

/// Makes credentials whose token carries these claims. Also gives how full the token is, in percent.
pub(crate) fn issue(root: &RootKey, claims: Claims) -> Result<(Issued, usize), IssueError> {
    let access_key_id = session_access_key_id()?;
    let secret = SecretKey::generate()?;
    let mut text = Zeroizing::new(Vec::with_capacity(SEALED_PLAINTEXT_BYTES_MAX));
    let sealed = Sealed { secret: secret.expose(), claims };
    serde_json::to_writer(&mut *text, &sealed).map_err(|_| IssueError::TooLarge)?;
    if text.len() > CLAIMS_BYTES_MAX {
        return Err(IssueError::TooLarge);
    }
    let percent = text.len() * 100 / CLAIMS_BYTES_MAX;
    let blob = sealed::seal(root, Purpose::SessionToken, &access_key_id, &text)?;
    let token = Zeroizing::new(STANDARD.encode(blob));
    Ok((Issued { access_key_id, secret, token }, percent))
}

/// Opens a token of this access key. None for whatever is not one.
fn open(root: &RootKey, access_key_id: &str, token: &[u8]) -> Option<Opened> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let blob = STANDARD.decode(token).ok()?;
    let text = sealed::open(root, Purpose::SessionToken, access_key_id, &blob).ok()?;
    let Sealed { secret, claims } = serde_json::from_slice(text.expose()).ok()?;
    let secret = SecretKey::new(secret.to_owned()).ok()?;
    let policy = match &claims.policy {
        None => None,
        Some(text) => Some(session_policy(text)?),
    };
    let session = Arc::new(Session { access_key_id: access_key_id.to_owned(), claims, policy });
    Some(Opened { session, secret })
}

fn session_policy(text: &str) -> Option<NamedDocument> {
    let document = Document::parse(text, Flavor::IdentityPolicy).ok()?;
    Some(NamedDocument { name: "inline".to_owned(), document: Arc::new(document) })
}

/// Opens tokens and remembers them: one that is in use is opened once.
#[derive(Default)]
pub(crate) struct Sessions {
    opened: Mutex<HashMap<[u8; 32], Arc<Opened>>>,
}

impl Sessions {
    /// The session of an access key and its token.
    pub(crate) fn open(&self, root: &RootKey, access_key_id: &str, token: &[u8]) -> Option<Arc<Opened>> {
        let name = name(root, access_key_id, token);
        if let Some(opened) = self.opened.lock().get(&name) {
            return Some(Arc::clone(opened));
        }
        let opened = Arc::new(open(root, access_key_id, token)?);
        let mut all = self.opened.lock();
        if all.len() >= OPENED_MAX {
            // Expired ones mostly; those in use are opened again.
            all.clear();
        }
        all.insert(name, Arc::clone(&opened));
        Some(opened)
    }
}

/// A token's name in the cache: tokens themselves are not kept. What ends with a root key is not found under the next.
fn name(root: &RootKey, access_key_id: &str, token: &[u8]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    // An access key id has no such byte, so that no two pairs read alike.
    for part in [root.honoured().as_bytes(), access_key_id.as_bytes(), b"\n", token] {
        hash.update(part);
    }
    let mut name = [0; 32];
    name.copy_from_slice(hash.finish().as_ref());
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            account: "111122223333".into(),
            subject: Subject::Role {
                arn: "arn:aws:iam::111122223333:role/r".into(),
                id: "AROA".into(),
                session_name: "s".into(),
            },
            issued_us: 1,
            expires_us: 2,
            mfa_us: None,
            policy: None,
            policy_names: Vec::new(),
            tags: BTreeMap::new(),
            transitive_tag_keys: Vec::new(),
            via: vec!["arn:aws:iam::111122223333:user/a".into()],
            web_identity_provider: None,
        }
    }

    #[test]
    fn a_token_opens_with_its_own_access_key_and_root_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("a")).unwrap();
        let other = RootKey::create(&folder.path().join("b")).unwrap();
        let (issued, percent) = issue(&root, claims()).unwrap();
        assert!(issued.access_key_id.starts_with("ASIA") && percent < 10);
        assert!(!issued.token.contains(issued.secret.expose()));
        let sessions = Sessions::default();
        let opened = sessions.open(&root, &issued.access_key_id, issued.token.as_bytes()).unwrap();
        assert_eq!((&opened.session.claims, opened.secret.expose()), (&claims(), issued.secret.expose()));
        let again = sessions.open(&root, &issued.access_key_id, issued.token.as_bytes()).unwrap();
        assert!(Arc::ptr_eq(&opened, &again));
        assert!(sessions.open(&root, "ASIAANOTHERACCESSKEY", issued.token.as_bytes()).is_none());
        assert!(open(&other, &issued.access_key_id, issued.token.as_bytes()).is_none());
        assert!(open(&root, &issued.access_key_id, &issued.token.as_bytes()[1..]).is_none());
        assert!(open(&root, &issued.access_key_id, &vec![b'A'; 100_000]).is_none());
        let large = Claims { policy: Some("x".repeat(CLAIMS_BYTES_MAX)), ..claims() };
        assert!(matches!(issue(&root, large), Err(IssueError::TooLarge)));
    }
}
