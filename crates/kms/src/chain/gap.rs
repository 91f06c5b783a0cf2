//! The declaration that a log cannot go on: what is missing, and why, under the signatures of two operators.
//!
//! Nobody can continue a log below what its signer or a witness has seen of it. So a folder that was set back begins a new
//! log, and its first record is this declaration, which names the log of before. Who may declare is said in the
//! configuration, and by the log of before in its epoch-start records. Byte by byte: docs/chain.md.

use super::checkpoint::{NoteError, SigningKey, VerifyKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Longest declaration read.
pub const GAP_BYTES_MAX: usize = 32 * 1024;
/// Operators that must have signed.
pub const OPERATORS_MIN: usize = 2;
/// Signatures looked at.
const SIGNATURES_MAX: usize = 16;
const REASON_BYTES_MAX: usize = 1_024;
/// What operators sign begins with this; no key signs anything else that does.
const CONTEXT: &str = "keytrail gap declaration v1";

/// A declaration, signed or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GapDeclaration {
    record_version: u32,
    /// The log that begins with this record.
    pub origin: String,
    /// The log that ends.
    pub former_origin: String,
    /// Its verifier key in force.
    pub former_key: String,
    /// Records of it that are still there, from the first on.
    pub held_size: u64,
    /// Root of the tree over them, hex.
    pub held_root: String,
    /// Records that it is known to have had.
    pub known_size: u64,
    /// Root of the tree over those, hex, where a checkpoint says so.
    pub known_root: Option<String>,
    /// Number of the last change in the state of keys that is taken up.
    pub state_change: u64,
    /// The highest number of a change in the records that are still there.
    pub recorded_change: u64,
    /// When it was written, Unix seconds.
    pub declared_s: u64,
    /// Why.
    pub reason: String,
    /// The operators' signatures.
    pub operators: Vec<OperatorSignature>,
}

/// One operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorSignature {
    /// The verifier key.
    pub key: String,
    signature: String,
}

/// Why a declaration counts for nothing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum GapError {
    /// Not the JSON of one.
    #[error("gap declaration is malformed: {0}")]
    Malformed(&'static str),
    /// A signature in it does not verify.
    #[error("gap declaration is not signed by {0}, whom it names")]
    Signature(String),
    /// Too few signatures count.
    #[error("gap declaration is signed by {found} operators, and needs {OPERATORS_MIN} different ones")]
    Few {
        /// How many count.
        found: usize,
    },
    /// It is of another log.
    #[error("gap declaration is of {0}")]
    Origin(String),
    /// A key.
    #[error("gap declaration names a bad key")]
    Key(#[from] NoteError),
}

/// What a declaration says, without signatures.
#[derive(Clone, Debug)]
pub struct Gap {
    /// See [`GapDeclaration`].
    pub origin: String,
    /// See [`GapDeclaration`].
    pub former_key: VerifyKey,
    /// Size and root, hex, of what is still there.
    pub held: (u64, String),
    /// Size and perhaps root, hex, of what is known to have been.
    pub known: (u64, Option<String>),
    /// Last change in the state, and in the records that are still there.
    pub changes: (u64, u64),
    /// See [`GapDeclaration`].
    pub declared_s: u64,
    /// See [`GapDeclaration`].
    pub reason: String,
}

impl GapDeclaration {
    /// A declaration that nobody has signed yet.
    pub fn new(gap: Gap) -> Result<Self, GapError> {
        let Gap { origin, former_key, held, known, changes, declared_s, reason } = gap;
        let made = Self {
            record_version: 1,
            origin,
            former_origin: former_key.name().to_owned(),
            former_key: former_key.to_string(),
            held_size: held.0,
            held_root: held.1,
            known_size: known.0,
            known_root: known.1,
            state_change: changes.0,
            recorded_change: changes.1,
            declared_s,
            reason,
            operators: Vec::new(),
        };
        made.check().map(|()| made)
    }

    /// Reads a file or a payload; signatures are not checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, GapError> {
        if bytes.len() > GAP_BYTES_MAX {
            return Err(GapError::Malformed("longer than 32 KiB"));
        }
        let read: Self = serde_json::from_slice(bytes).map_err(|_| GapError::Malformed("not its JSON"))?;
        read.check().map(|()| read)
    }

    /// The record's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a declaration is plain data")
    }

    /// What operators sign, and should read before.
    pub fn text(&self) -> String {
        let known_root = self.known_root.as_deref().unwrap_or("-");
        format!(
            "{CONTEXT}\n{}\n{}\n{}\n{}\n{}\n{}\n{known_root}\n{}\n{}\n{}\n{}\n",
            self.origin,
            self.former_origin,
            self.former_key,
            self.held_size,
            self.held_root,
            self.known_size,
            self.state_change,
            self.recorded_change,
            self.declared_s,
            self.reason,
        )
    }

    /// Adds an operator's signature.
    pub fn sign(&mut self, key: &SigningKey) -> Result<(), GapError> {
        let name = key.verify_key().to_string();
        if self.operators.iter().any(|known| known.key == name) {
            return Ok(());
        }
        if self.operators.len() >= SIGNATURES_MAX {
            return Err(GapError::Malformed("more than 16 signatures"));
        }
        let signature = BASE64.encode(key.sign_bytes(self.text().as_bytes()));
        self.operators.push(OperatorSignature { key: name, signature });
        Ok(())
    }

    /// The different keys that have signed; each signature must hold, and `allowed` have a say in which count.
    pub fn signers(&self, allowed: impl Fn(&VerifyKey) -> bool) -> Result<Vec<VerifyKey>, GapError> {
        let (text, mut signers) = (self.text(), Vec::<VerifyKey>::new());
        for OperatorSignature { key, signature } in &self.operators {
            let key: VerifyKey = key.parse()?;
            let signature = BASE64.decode(signature).map_err(|_| GapError::Malformed("signature is not base64"))?;
            if !key.verify_bytes(text.as_bytes(), &signature) {
                return Err(GapError::Signature(key.name().to_owned()));
            }
            // By the key, not by its name: one operator under two names is one.
            if allowed(&key) && !signers.iter().any(|known| known.public() == key.public()) {
                signers.push(key);
            }
        }
        if signers.len() < OPERATORS_MIN {
            return Err(GapError::Few { found: signers.len() });
        }
        Ok(signers)
    }

    /// Seqs of the former log that are missing, both inclusive; None where the records there are others.
    pub fn missing(&self) -> Option<(u64, u64)> {
        (self.known_size > self.held_size).then(|| (self.held_size, self.known_size - 1))
    }

    fn check(&self) -> Result<(), GapError> {
        let malformed = |what| Err(GapError::Malformed(what));
        let root = |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if self.record_version != 1 {
            return malformed("version is not 1");
        }
        if self.operators.len() > SIGNATURES_MAX {
            return malformed("more than 16 signatures");
        }
        if self.reason.is_empty() || self.reason.len() > REASON_BYTES_MAX || self.reason.chars().any(char::is_control) {
            return malformed("reason is not one line of 1 to 1,024 bytes");
        }
        if !root(&self.held_root) || !self.known_root.as_deref().is_none_or(root) {
            return malformed("root is not 32 bytes of hex");
        }
        super::checkpoint::check_name(&self.origin)?;
        let former: VerifyKey = self.former_key.parse()?;
        if former.name() != self.former_origin || self.former_origin == self.origin {
            return malformed("former log is not another one, under its own key");
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(name: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(name, &[seed; 32]).unwrap()
    }

    fn gap(reason: &str) -> Result<GapDeclaration, GapError> {
        GapDeclaration::new(Gap {
            origin: "keytrail/test/n-2".to_owned(),
            former_key: key("keytrail/test/n-1", 1).verify_key().clone(),
            held: (5, "a".repeat(64)),
            known: (9, Some("b".repeat(64))),
            changes: (3, 4),
            declared_s: 7,
            reason: reason.to_owned(),
        })
    }

    #[test]
    fn two_different_operators_make_it_count() {
        let mut gap = gap("disk lost").unwrap();
        let any = |_: &VerifyKey| true;
        assert_eq!(gap.signers(any), Err(GapError::Few { found: 0 }));
        gap.sign(&key("alice", 2)).unwrap();
        gap.sign(&key("alice", 2)).unwrap();
        gap.sign(&key("alice-again", 2)).unwrap();
        assert_eq!(gap.signers(any), Err(GapError::Few { found: 1 }));
        gap.sign(&key("bob", 3)).unwrap();
        assert_eq!(gap.signers(any).unwrap().len(), 2);
        assert_eq!(gap.signers(|key| key.name() == "bob"), Err(GapError::Few { found: 1 }));
        let read = GapDeclaration::parse(gap.to_json().as_bytes()).unwrap();
        assert_eq!((read.missing(), &read), (Some((5, 8)), &gap));
        for (from, to) in [
            ("\"heldSize\":5", "\"heldSize\":4"),
            ("disk lost", "disk last"),
            ("\"stateChange\":3", "\"stateChange\":2"),
        ] {
            let changed = GapDeclaration::parse(gap.to_json().replace(from, to).as_bytes()).unwrap();
            assert!(matches!(changed.signers(any), Err(GapError::Signature(_))), "{to}");
        }
    }

    #[test]
    fn malformed_ones_are_refused() {
        for reason in ["", "two\nlines", &"x".repeat(1_025)] {
            assert!(gap(reason).is_err(), "{reason:?}");
        }
        let good = gap("r").unwrap().to_json();
        for (from, to) in [
            ("\"recordVersion\":1", "\"recordVersion\":2"),
            ("\"origin\":\"keytrail/test/n-2\"", "\"origin\":\"keytrail/test/n-1\""),
            ("\"formerOrigin\":\"keytrail/test/n-1\"", "\"formerOrigin\":\"keytrail/test/n-3\""),
            (&"a".repeat(64), "A"),
            ("\"operators\":[]", "\"operators\":[],\"more\":1"),
        ] {
            assert!(GapDeclaration::parse(good.replace(from, to).as_bytes()).is_err(), "{to}");
        }
        assert!(GapDeclaration::parse(&[b' '; GAP_BYTES_MAX + 1]).is_err());
    }
}
