//! Typed request members: from here on nothing is unchecked.
//!
//! Missing members are `None` until an operation asks for them; unknown ones are ignored, as AWS does. Error texts
//! never quote secret members.

use super::refusal::{Refusal, RefusalKind};
use crate::crypto::context::{self, CONTEXT_BYTES_MAX};
use crate::key::{AccountId, KeyId, Region};
use crate::place::REGION_BYTES_MAX;
use crate::spec::EncryptionAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use zeroize::Zeroizing;

/// The model's limit on any way to name a key.
const KEY_ID_BYTES_MAX: usize = 2_048;

/// Reads a JSON body into an operation's input.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|_| Refusal::serialization())
}

/// Bytes that travel as base64; wiped on drop, since most are secret.
pub(crate) struct Blob(pub Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(BlobVisitor)
    }
}

struct BlobVisitor;

impl Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64 text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Blob, E> {
        // Room for the longest result at once: a growing buffer would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        STANDARD.decode_vec(text, &mut bytes).map_err(|_| E::custom("not base64"))?;
        Ok(Blob(bytes))
    }
}

impl Blob {
    /// Checks a length without ever quoting the bytes.
    pub(crate) fn checked(&self, member: &str, bytes_max: usize) -> Result<&[u8], Refusal> {
        if self.0.is_empty() {
            return Err(Refusal::constraint(None, member, "Member must have length greater than or equal to 1"));
        }
        if self.0.len() > bytes_max {
            let constraint = format!("Member must have length less than or equal to {bytes_max}");
            return Err(Refusal::constraint(None, member, &constraint));
        }
        Ok(&self.0)
    }
}

/// A text that must not be seen, such as a one-time code; wiped on drop.
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    /// In clear, for comparing it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// A required text that must not be seen.
pub(crate) fn required_secret<'a>(member: &'a Option<SecretText>, name: &str) -> Result<&'a str, Refusal> {
    member.as_ref().map(SecretText::expose).ok_or_else(|| Refusal::missing(name))
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A list of the query protocol. SDKs write an empty one as an empty text.
pub(crate) struct Members<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MembersVisitor(PhantomData))
    }
}

struct MembersVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersVisitor<T> {
    type Value = Members<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Members<T>, E> {
        if text.is_empty() { Ok(Members(Vec::new())) } else { Err(E::custom("not a list")) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Members<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(entry) = list.next_element()? {
            all.push(entry);
        }
        Ok(Members(all))
    }
}

/// Pairs that are bound to a ciphertext; sorted, so that they have one form.
pub(crate) type EncryptionContext = BTreeMap<String, String>;

/// Checks a context's size.
pub(crate) fn checked_context(context: Option<&EncryptionContext>) -> Result<(), Refusal> {
    if context.is_none_or(context::is_acceptable) {
        return Ok(());
    }
    let text = format!("The encryption context has an empty key or more than {CONTEXT_BYTES_MAX} bytes.");
    Err(Refusal::new(RefusalKind::Validation, text))
}

/// A way to name a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyReference {
    /// A key of an account; the caller's when only the id was given.
    Key(AccountId, KeyId),
    /// An alias of an account, with its `alias/` prefix.
    Alias(AccountId, String),
}

impl KeyReference {
    /// Reads an id, a key ARN, an alias name or an alias ARN, in the words AWS uses for what is wrong. All are looked for
    /// in the region of the call; the ARN of another region names nothing there.
    pub(crate) fn parse(text: &str, region: Region, caller: AccountId) -> Result<Self, Refusal> {
        if text.is_empty() || text.len() > KEY_ID_BYTES_MAX {
            let constraint = if text.is_empty() {
                "Member must have length greater than or equal to 1".to_owned()
            } else {
                format!("Member must have length less than or equal to {KEY_ID_BYTES_MAX}")
            };
            return Err(Refusal::constraint(Some(text), "keyId", &constraint));
        }
        if text.starts_with("arn:") {
            return Self::parse_arn(text, region);
        }
        Self::parse_resource(text, region, caller)
    }

    fn parse_arn(text: &str, region: Region) -> Result<Self, Refusal> {
        let invalid = |what: &str| Refusal::new(RefusalKind::NotFound, format!("Invalid arn {what}"));
        let mut parts = text.splitn(6, ':').skip(1);
        let mut part = || parts.next().unwrap_or_default();
        let (partition, service, arn_region, account, resource) = (part(), part(), part(), part(), part());
        if partition != "aws" || service != "kms" {
            return Err(invalid(text));
        }
        if arn_region != region.as_str() {
            return Err(invalid(arn_region));
        }
        let account = AccountId::parse(account).ok_or_else(|| invalid(text))?;
        match resource.strip_prefix("key/") {
            Some(id) => KeyId::parse(id, region).map(|id| Self::Key(account, id)).ok_or_else(|| invalid(text)),
            None if resource.starts_with("alias/") => Ok(Self::Alias(account, resource.to_owned())),
            None => Err(invalid(text)),
        }
    }

    fn parse_resource(text: &str, region: Region, account: AccountId) -> Result<Self, Refusal> {
        if text.starts_with("alias/") {
            return Ok(Self::Alias(account, text.to_owned()));
        }
        KeyId::parse(text, region)
            .map(|id| Self::Key(account, id))
            .ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("Invalid keyId '{text}'")))
    }

    /// For operations that take no alias.
    pub(crate) fn key_only(self, text: &str) -> Result<(AccountId, KeyId), Refusal> {
        match self {
            Self::Key(account, id) => Ok((account, id)),
            Self::Alias(..) => Err(Refusal::new(RefusalKind::NotFound, format!("Invalid keyId '{text}'"))),
        }
    }
}

/// Inputs as an event records them: how the key was named, then the rest; members that were not sent are absent.
pub(crate) fn recorded(key_id: Option<&String>, rest: Value) -> Option<Value> {
    let mut members = Map::new();
    if let Some(text) = key_id {
        members.insert("keyId".to_owned(), text[..text.floor_char_boundary(KEY_ID_BYTES_MAX)].into());
    }
    if let Value::Object(rest) = rest {
        members.extend(rest.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Some(members.into())
}

/// A required member.
pub(crate) fn required<'a, T>(member: &'a Option<T>, name: &str) -> Result<&'a T, Refusal> {
    member.as_ref().ok_or_else(|| Refusal::missing(name))
}

/// A member that must have one of the model's values. Those that AWS has and this node has not (`elsewhere`) are
/// refused as unsupported, all others as a broken constraint.
pub(crate) fn member_of<T: Copy>(
    member: &str,
    value: &str,
    here: &[T],
    name: fn(T) -> &'static str,
    elsewhere: &[&str],
) -> Result<T, Refusal> {
    if let Some(found) = here.iter().copied().find(|known| name(*known) == value) {
        return Ok(found);
    }
    if elsewhere.contains(&value) {
        let text = format!("{value} is not supported by this node.");
        return Err(Refusal::new(RefusalKind::UnsupportedOperation, text));
    }
    let names: Vec<&str> = here.iter().map(|known| name(*known)).chain(elsewhere.iter().copied()).collect();
    let constraint = format!("Member must satisfy enum value set: [{}]", names.join(", "));
    Err(Refusal::constraint(Some(value), member, &constraint))
}

/// A member that names a region.
pub(crate) fn region_member(member: &str, text: &str) -> Result<Region, Refusal> {
    if text.len() > REGION_BYTES_MAX {
        let constraint = format!("Member must have length less than or equal to {REGION_BYTES_MAX}");
        return Err(Refusal::constraint(Some(text), member, &constraint));
    }
    Region::parse(text).ok_or_else(|| {
        let constraint = r"Member must satisfy regular expression pattern: ^([a-z]+-){2,3}\d+$";
        Refusal::constraint(Some(text), member, constraint)
    })
}

/// How to encrypt or decrypt; symmetric unless the caller says otherwise.
pub(crate) fn encryption_algorithm(member: &str, value: Option<&str>) -> Result<EncryptionAlgorithm, Refusal> {
    let value = value.unwrap_or(EncryptionAlgorithm::Symmetric.name());
    member_of(member, value, EncryptionAlgorithm::ALL, EncryptionAlgorithm::name, &["SM2PKE"])
}

/// The page of a listing that a caller asked for.
pub(crate) struct Page {
    /// Most entries of one answer.
    pub(crate) limit: usize,
    /// Where the previous page ended.
    pub(crate) after: Option<String>,
}

impl Page {
    /// Checks limit and marker; a marker is the base64 of the last name given out.
    pub(crate) fn parse(
        limit: Option<i64>,
        marker: Option<&str>,
        usual: usize,
        limit_max: usize,
    ) -> Result<Self, Refusal> {
        let limit = match limit {
            None => usual,
            Some(limit) => {
                usize::try_from(limit).ok().filter(|limit| (1..=limit_max).contains(limit)).ok_or_else(|| {
                    let (side, bound) = if limit < 1 { ("greater", 1) } else { ("less", limit_max) };
                    let constraint = format!("Member must have value {side} than or equal to {bound}");
                    Refusal::constraint(Some(&limit.to_string()), "limit", &constraint)
                })?
            }
        };
        let after = marker.map(|marker| {
            let name = STANDARD.decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            name.ok_or_else(|| Refusal::bare(RefusalKind::InvalidMarker))
        });
        Ok(Self { limit, after: after.transpose()? })
    }

    /// The marker for the page behind `last`.
    pub(crate) fn marker(last: &str) -> String {
        STANDARD.encode(last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_key_id_is_read_and_the_rest_refused() {
        let own = AccountId::parse("123456789012").unwrap();
        let other = AccountId::parse("210987654321").unwrap();
        let id = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let region = Region::parse("eu-central-1").unwrap();
        let read = |text: &str| KeyReference::parse(text, region, own);
        assert_eq!(read(id), Ok(KeyReference::Key(own, KeyId::parse(id, region).unwrap())));
        let arn = format!("arn:aws:kms:eu-central-1:210987654321:key/{id}");
        assert_eq!(read(&arn), Ok(KeyReference::Key(other, KeyId::parse(id, region).unwrap())));
        assert_eq!(read("alias/a"), Ok(KeyReference::Alias(own, "alias/a".into())));
        let arn = "arn:aws:kms:eu-central-1:210987654321:alias/a";
        assert_eq!(read(arn), Ok(KeyReference::Alias(other, "alias/a".into())));
        for wrong in [
            "x",
            "arn:aws:kms:us-east-1:210987654321:alias/a",
            "arn:aws:kms",
            "arn:aws:s3:eu-central-1:210987654321:key/x",
        ] {
            assert_eq!(read(wrong).unwrap_err().kind, RefusalKind::NotFound, "{wrong}");
        }
        assert_eq!(read("").unwrap_err().kind, RefusalKind::Validation);
    }

    #[test]
    fn bad_base64_is_refused_without_quoting_it() {
        #[derive(Deserialize)]
        struct Input {
            #[allow(dead_code)]
            plaintext: Blob,
        }
        let refusal = parse::<Input>(br#"{"plaintext": "hunter2!"}"#).err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::Serialization);
        assert!(!refusal.message.unwrap().contains("hunter2"));
    }
}
