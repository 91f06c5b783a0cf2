//! A grant as the node holds it, and the tokens that name one.
//!
//! A token is not stored anywhere: it carries the grant's place and a MAC under a key derived from the root key
//! (docs/decisions/0008-grant-tokens.md). Grants count at once here, so a token adds nothing to a judgement; it only
//! has to be one. What a grant permits: `policy::grant`. Where it is found: `grant_table`.

use crate::crypto::RootKey;
use crate::key::{AccountId, KeyId, Region, epoch_seconds, key_arn, rfc3339_micros};
use crate::place::REGION_BYTES_MAX;
use crate::policy::{GrantFacts, GrantTerms, Retirable, root_arn};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::fmt;
use uuid::Uuid;

const TOKEN_VERSION: u8 = 2;
/// Without region and kind of id: of a node that had its home region only.
const TOKEN_VERSION_1: u8 = 1;
const TOKEN_LABEL: &[u8] = b"keytrail grant token v1";
/// Version, account, region filled up with zeros, 1 for a multi-Region key, key id, grant id, nonce.
const TOKEN_HEAD_BYTES: usize = 1 + 12 + REGION_BYTES_MAX + 1 + 16 + 32 + 16;
const TOKEN_HEAD_BYTES_1: usize = 1 + 12 + 16 + 32 + 16;
const TAG_BYTES: usize = 32;
const TOKEN_BYTES: usize = TOKEN_HEAD_BYTES + TAG_BYTES;

/// A grant's id: random, 64 lower-case hex digits as at AWS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GrantId(pub(crate) [u8; 32]);

impl GrantId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Self(bytes))
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a grant is: on which key, under which id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GrantPlace {
    /// The key's account.
    pub(crate) account: AccountId,
    /// The key.
    pub(crate) key: KeyId,
    /// The grant.
    pub(crate) id: GrantId,
}

/// One grant, immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Where it is.
    pub(crate) place: GrantPlace,
    /// What its maker calls it.
    pub(crate) name: Option<Box<str>>,
    /// ARN of whom it is for.
    pub(crate) grantee: Box<str>,
    /// ARN of who may retire it.
    pub(crate) retiring: Option<Box<str>>,
    /// The account of its maker.
    pub(crate) issuing_account: AccountId,
    /// What it permits.
    pub(crate) terms: GrantTerms,
    /// Unix microseconds.
    pub(crate) created_us: u64,
}

impl Grant {
    /// Whether both were asked for in the same words; ids and dates aside.
    pub(crate) fn is_same_request(&self, other: &Self) -> bool {
        let Self { place, name, grantee, retiring, issuing_account, terms, created_us: _ } = self;
        let same_key = (place.account, place.key) == (other.place.account, other.place.key);
        same_key
            && (name, grantee, retiring) == (&other.name, &other.grantee, &other.retiring)
            && (issuing_account, terms) == (&other.issuing_account, &other.terms)
    }

    /// As conditions see it.
    pub(crate) fn facts(&self) -> GrantFacts<'_> {
        GrantFacts { grantee: &self.grantee, retiring: self.retiring.as_deref(), terms: &self.terms }
    }

    /// As far as its end is concerned; `id` is its own, as text.
    pub(crate) fn retirable<'a>(&'a self, id: &'a str) -> Retirable<'a> {
        Retirable {
            id,
            grantee: &self.grantee,
            retiring: self.retiring.as_deref(),
            issuing_account: self.issuing_account.as_str(),
            terms: &self.terms,
        }
    }

    /// The image that events carry in `before` and `after`; a `grants` table is folded from it.
    pub(crate) fn image(&self) -> Value {
        let GrantPlace { account, key, id } = self.place;
        let mut image = Map::new();
        let mut put = |name: &str, value: Value| image.insert(name.to_owned(), value);
        put("grantId", id.to_string().into());
        // Not `keyArn`: an image with that is of a key.
        put("targetKeyArn", key_arn(account, key).into());
        if let Some(name) = &self.name {
            put("name", (**name).into());
        }
        put("granteePrincipal", (*self.grantee).into());
        if let Some(retiring) = &self.retiring {
            put("retiringPrincipal", (**retiring).into());
        }
        put("issuingAccount", self.issuing_account.as_str().into());
        put("operations", self.terms.operations.names().collect());
        if !self.terms.constraints.is_empty() {
            put("constraints", json!(self.terms.constraints));
        }
        put("createdAt", rfc3339_micros(self.created_us).into());
        image.into()
    }

    /// As ListGrants answers it; members that do not apply are absent.
    pub(crate) fn list_entry(&self) -> Value {
        let GrantPlace { account, key, id } = self.place;
        let operations: Value = self.terms.operations.names().collect();
        let mut entry = json!({
            "KeyId": key_arn(account, key),
            "GrantId": id.to_string(),
            "CreationDate": epoch_seconds(self.created_us),
            "GranteePrincipal": &*self.grantee,
            "IssuingAccount": root_arn(self.issuing_account.as_str()),
            "Operations": operations,
            // Of all members that may not apply AWS lists this one, as an empty text.
            "Name": self.name.as_deref().unwrap_or_default(),
        });
        if let Some(retiring) = &self.retiring {
            entry["RetiringPrincipal"] = (**retiring).into();
        }
        let constraints = &self.terms.constraints;
        let mut listed = Map::new();
        if let Some((name, pairs)) = constraints.encryption_context() {
            listed.insert(name.to_owned(), json!(pairs));
        }
        if let Some(arn) = &constraints.source_arn {
            listed.insert("SourceArn".to_owned(), arn.as_str().into());
        }
        if !listed.is_empty() {
            entry["Constraints"] = listed.into();
        }
        entry
    }
}

/// A new token for a grant; each is another one.
pub(crate) fn issue_token(root: &RootKey, place: &GrantPlace, nonce: [u8; 16]) -> String {
    let mut token = Vec::with_capacity(TOKEN_BYTES);
    token.push(TOKEN_VERSION);
    token.extend_from_slice(place.account.as_str().as_bytes());
    let region = place.key.region.as_str().as_bytes();
    token.extend_from_slice(region);
    token.resize(token.len() + REGION_BYTES_MAX - region.len(), 0);
    token.push(place.key.multi_region.into());
    token.extend_from_slice(place.key.uuid.as_bytes());
    token.extend_from_slice(&place.id.0);
    token.extend_from_slice(&nonce);
    let tag = hmac::sign(&root.grant_tokens(), &labelled(&token));
    token.extend_from_slice(tag.as_ref());
    URL_SAFE_NO_PAD.encode(token)
}

/// The place that one of our tokens names; whether the grant still lives is the caller's to look up. `home` is where the
/// keys of the first version's tokens are.
pub(crate) fn open_token(root: &RootKey, home: Region, text: &str) -> Option<GrantPlace> {
    let mut token = [0; TOKEN_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut token).ok()?;
    let (head, tag) = token.get(..length)?.split_at_checked(length.checked_sub(TAG_BYTES)?)?;
    let ours = |key: hmac::Key| hmac::verify(&key, &labelled(head), tag).is_ok();
    root.caller_keys().find(|keys| ours(keys.grant_tokens()))?;
    let (version, rest) = head.split_first()?;
    let (account, rest) = rest.split_first_chunk::<12>()?;
    let (region, multi_region, rest) = match (*version, head.len()) {
        (TOKEN_VERSION_1, TOKEN_HEAD_BYTES_1) => (home, false, rest),
        (TOKEN_VERSION, TOKEN_HEAD_BYTES) => {
            let (region, rest) = rest.split_first_chunk::<REGION_BYTES_MAX>()?;
            let (multi_region, rest) = rest.split_first()?;
            let region = std::str::from_utf8(region).ok()?.trim_end_matches('\0');
            (Region::parse(region)?, *multi_region == 1, rest)
        }
        _ => return None,
    };
    let (key, rest) = rest.split_first_chunk::<16>()?;
    let (id, _) = rest.split_first_chunk::<32>()?;
    let account = AccountId::parse(std::str::from_utf8(account).ok()?)?;
    let key = KeyId { region, multi_region, uuid: Uuid::from_bytes(*key) };
    Some(GrantPlace { account, key, id: GrantId(*id) })
}

fn labelled(head: &[u8]) -> Vec<u8> {
    [TOKEN_LABEL, head].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_as_it_was_issued_and_under_its_root_key() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("root.key")).unwrap();
        let other = RootKey::create(&folder.path().join("other.key")).unwrap();
        let home = Region::parse("eu-central-1").unwrap();
        let key = KeyId { region: Region::parse("us-east-1").unwrap(), multi_region: true, uuid: Uuid::max() };
        let place = GrantPlace { account: AccountId::parse("123456789012").unwrap(), key, id: GrantId([7; 32]) };
        let token = issue_token(&root, &place, [1; 16]);
        assert_ne!(token, issue_token(&root, &place, [2; 16]));
        assert_eq!(open_token(&root, home, &token), Some(place));
        assert_eq!(open_token(&other, home, &token), None);
        for at in 0..TOKEN_BYTES {
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            bytes[at] ^= 1;
            assert_eq!(open_token(&root, home, &URL_SAFE_NO_PAD.encode(bytes)), None, "byte {at}");
        }
        for wrong in ["", "x", &token[1..], &format!("{token}AA"), &"A".repeat(8_192)] {
            assert_eq!(open_token(&root, home, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_of_the_first_version_is_of_the_home_region() {
        let folder = tempfile::tempdir().unwrap();
        let root = RootKey::create(&folder.path().join("root.key")).unwrap();
        let home = Region::parse("eu-central-1").unwrap();
        let mut token = [&[TOKEN_VERSION_1][..], b"123456789012", &[5; 16], &[7; 32], &[1; 16]].concat();
        let tag = hmac::sign(&root.grant_tokens(), &labelled(&token));
        token.extend_from_slice(tag.as_ref());
        let place = open_token(&root, home, &URL_SAFE_NO_PAD.encode(&token)).unwrap();
        assert_eq!(place.key, KeyId::single(home, Uuid::from_bytes([5; 16])));
    }

    #[test]
    fn ids_take_only_their_exact_form() {
        let text = "0c237476b39f8bc44e45212e08498fbe3151305030726c0590dd8d3e9f3d6a60";
        assert_eq!(GrantId::parse(text).unwrap().to_string(), text);
        for wrong in ["", "0c", &text.to_uppercase(), &format!("{text}0"), &text.replace('0', "g")] {
            assert_eq!(GrantId::parse(wrong), None, "{wrong}");
        }
    }
}
