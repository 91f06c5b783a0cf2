//! Who signs a log's checkpoints, from which size on: a chain of key transitions, each signed by the key of before and by
//! the one after it.
//!
//! A transition is the payload of a record of kind 7, at the seq that it names as its size, and a line of
//! `checkpoints/transitions`. It proves itself: whoever knows one key of the chain follows it to the others, forwards by
//! the signature of the old key, backwards by that of the new one. Byte by byte: docs/chain.md.

use super::checkpoint::{Checkpoint, NoteError, SigningKey, VerifyKey};
use super::tree::RootHash;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Longest payload of a transition; two keys, two signatures and the root need about 1 KiB.
pub const TRANSITION_BYTES_MAX: usize = 4 * 1024;
/// Transitions of one log: one a week for twenty years would still be fewer.
pub const TRANSITIONS_MAX: usize = 1_024;
/// What both keys sign begins with this; no origin has a space in it.
const CONTEXT: &str = "keytrail key transition v1";

/// One change of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyTransition {
    record_version: u32,
    /// The log.
    pub origin: String,
    /// Records before this one, which is its seq: the new key signs all larger sizes, the old one this and smaller ones.
    pub size: u64,
    /// Root of the tree over those, hex.
    pub root_hash: String,
    /// Verifier key of before.
    pub old_key: String,
    /// Verifier key from then on.
    pub new_key: String,
    old_signature: String,
    new_signature: String,
}

/// Why a transition is not one of this log's key.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransitionError {
    /// Not the JSON of a transition, or not a key in it.
    #[error("key transition is malformed")]
    Malformed,
    /// It stands at another place than it names.
    #[error("key transition over {size} records stands at seq {seq}")]
    Misplaced {
        /// What it names.
        size: u64,
        /// Where it stands.
        seq: u64,
    },
    /// It is of another log.
    #[error("key transition is of {0}")]
    Origin(String),
    /// The key that it replaces was not in force.
    #[error("key transition replaces a key that was not in force")]
    OtherKey,
    /// The new key was in force before.
    #[error("key transition goes back to a key that was in force before")]
    Reused,
    /// A signature does not verify.
    #[error("key transition is not signed by its {0} key")]
    Signature(&'static str),
    /// Sizes must rise.
    #[error("key transition is not above the one before")]
    Order,
    /// Too many.
    #[error("log has more key transitions than {TRANSITIONS_MAX}")]
    Many,
}

impl KeyTransition {
    /// Signs over the log from one key to the next.
    pub fn sign(old: &SigningKey, new: &SigningKey, size: u64, root: &RootHash) -> Self {
        let (old_key, new_key) = (old.verify_key().to_string(), new.verify_key().to_string());
        let mut made = Self {
            record_version: 1,
            origin: old.name().to_owned(),
            size,
            root_hash: root.to_string(),
            old_key,
            new_key,
            old_signature: String::new(),
            new_signature: String::new(),
        };
        let text = made.text();
        made.old_signature = BASE64.encode(old.sign_bytes(text.as_bytes()));
        made.new_signature = BASE64.encode(new.sign_bytes(text.as_bytes()));
        made
    }

    /// Reads a record's payload, or a line; nothing in it is checked.
    pub fn parse(payload: &[u8]) -> Result<Self, TransitionError> {
        let fits = payload.len() <= TRANSITION_BYTES_MAX;
        let read = fits.then(|| serde_json::from_slice(payload).ok()).flatten();
        read.filter(|read: &Self| read.record_version == 1).ok_or(TransitionError::Malformed)
    }

    /// The record's payload, and the line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a transition is plain data")
    }

    /// What both keys sign.
    fn text(&self) -> String {
        let Self { origin, size, root_hash, old_key, new_key, .. } = self;
        format!("{CONTEXT}\n{origin}\n{size}\n{root_hash}\n{old_key}\n{new_key}\n")
    }

    /// The keys, if both have signed.
    fn keys(&self) -> Result<(VerifyKey, VerifyKey), TransitionError> {
        let key = |text: &str| text.parse::<VerifyKey>().map_err(|_| TransitionError::Malformed);
        let (old, new) = (key(&self.old_key)?, key(&self.new_key)?);
        if [&old, &new].iter().any(|key| key.name() != self.origin) {
            return Err(TransitionError::Origin(self.origin.clone()));
        }
        let text = self.text();
        for (key, signature, which) in [(&old, &self.old_signature, "old"), (&new, &self.new_signature, "new")] {
            let signature = BASE64.decode(signature).map_err(|_| TransitionError::Malformed)?;
            if !key.verify_bytes(text.as_bytes(), &signature) {
                return Err(TransitionError::Signature(which));
            }
        }
        Ok((old, new))
    }
}

/// A log's keys, in the order in which they were in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKeys {
    /// Never empty; each but the first came with the transition before it.
    keys: Vec<VerifyKey>,
    transitions: Vec<KeyTransition>,
}

impl From<VerifyKey> for LogKeys {
    fn from(key: VerifyKey) -> Self {
        Self { keys: vec![key], transitions: Vec::new() }
    }
}

impl LogKeys {
    /// Reads lines of transitions that lead to or from a key that is trusted, or past it. Without lines it stands alone.
    pub fn parse(lines: &str, trusted: &VerifyKey) -> Result<Self, TransitionError> {
        let mut keys: Option<Self> = None;
        for line in lines.lines() {
            let transition = KeyTransition::parse(line.as_bytes())?;
            let chain = match &mut keys {
                Some(keys) => keys,
                None => {
                    keys.insert(transition.old_key.parse::<VerifyKey>().map_err(|_| TransitionError::Malformed)?.into())
                }
            };
            chain.extend(transition.size, line.as_bytes())?;
        }
        let keys = keys.unwrap_or_else(|| trusted.clone().into());
        if keys.keys.contains(trusted) { Ok(keys) } else { Err(TransitionError::OtherKey) }
    }

    /// Takes the next transition, found at a seq.
    pub fn extend(&mut self, seq: u64, payload: &[u8]) -> Result<(), TransitionError> {
        let transition = KeyTransition::parse(payload)?;
        if transition.size != seq {
            return Err(TransitionError::Misplaced { size: transition.size, seq });
        }
        let (old, new) = transition.keys()?;
        if old != *self.current() {
            return Err(TransitionError::OtherKey);
        }
        if self.keys.iter().any(|key| key.public() == new.public()) {
            return Err(TransitionError::Reused);
        }
        if self.transitions.last().is_some_and(|last| last.size >= transition.size) {
            return Err(TransitionError::Order);
        }
        if self.transitions.len() >= TRANSITIONS_MAX {
            return Err(TransitionError::Many);
        }
        self.keys.push(new);
        self.transitions.push(transition);
        Ok(())
    }

    /// Whether this record is one of the chain's transitions.
    pub fn holds(&self, seq: u64, payload: &[u8]) -> bool {
        let found = self.transitions.binary_search_by_key(&seq, |transition| transition.size).ok();
        let held = found.and_then(|at| self.transitions.get(at));
        held.is_some_and(|held| KeyTransition::parse(payload).as_ref() == Ok(held))
    }

    /// The key in force.
    pub fn current(&self) -> &VerifyKey {
        self.keys.last().expect("a log has a key")
    }

    /// All keys, the first one first.
    pub fn all(&self) -> &[VerifyKey] {
        &self.keys
    }

    /// The transitions between them.
    pub fn transitions(&self) -> &[KeyTransition] {
        &self.transitions
    }

    /// The lines of the file.
    pub fn lines(&self) -> String {
        self.transitions.iter().map(|transition| transition.to_json() + "\n").collect()
    }

    /// Checks a signed note: by the key that was in force at its size.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, NoteError> {
        for (at, key) in self.keys.iter().enumerate().rev() {
            let checkpoint = match key.verify(note) {
                Err(NoteError::Unsigned(_)) => continue,
                read => read?,
            };
            let from = at.checked_sub(1).and_then(|before| self.transitions.get(before)).map(|begun| begun.size);
            let until = self.transitions.get(at).map(|ended| ended.size);
            let in_force =
                from.is_none_or(|from| checkpoint.size > from) && until.is_none_or(|end| checkpoint.size <= end);
            return if in_force { Ok(checkpoint) } else { Err(NoteError::NotInForce { size: checkpoint.size }) };
        }
        Err(NoteError::Unsigned(self.current().name().to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(ORIGIN, &[seed; 32]).unwrap()
    }

    fn step(old: u8, new: u8, size: u64) -> String {
        KeyTransition::sign(&key(old), &key(new), size, &RootHash([7; 32])).to_json()
    }

    fn note(signer: u8, size: u64) -> String {
        key(signer).sign(&Checkpoint { origin: ORIGIN.to_owned(), size, root: RootHash([9; 32]) }).unwrap()
    }

    #[test]
    fn any_key_of_the_chain_leads_to_all_others() {
        let lines = format!("{}\n{}\n", step(1, 2, 10), step(2, 3, 20));
        for trusted in [1, 2, 3] {
            let keys = LogKeys::parse(&lines, key(trusted).verify_key()).unwrap();
            assert_eq!((keys.current(), keys.all().len()), (key(3).verify_key(), 3));
            assert_eq!(keys.lines(), lines);
        }
        assert_eq!(LogKeys::parse(&lines, key(4).verify_key()), Err(TransitionError::OtherKey));
        assert_eq!(LogKeys::parse("", key(4).verify_key()).unwrap().current(), key(4).verify_key());
    }

    #[test]
    fn a_key_signs_for_the_sizes_of_its_time_only() {
        let keys = LogKeys::parse(&format!("{}\n", step(1, 2, 10)), key(1).verify_key()).unwrap();
        for (signer, size, good) in [(1, 10, true), (1, 11, false), (2, 11, true), (2, 10, false)] {
            let read = keys.verify(&note(signer, size));
            assert_eq!(read.is_ok(), good, "{signer} over {size}");
            assert!(good || read == Err(NoteError::NotInForce { size }));
        }
        assert!(matches!(keys.verify(&note(3, 11)), Err(NoteError::Unsigned(_))));
    }

    #[test]
    fn forged_misplaced_and_reused_transitions_are_refused() {
        let good = step(1, 2, 10);
        let extended = |seq, payload: &str| LogKeys::from(key(1).verify_key().clone()).extend(seq, payload.as_bytes());
        assert_eq!(extended(10, &good), Ok(()));
        assert_eq!(extended(11, &good), Err(TransitionError::Misplaced { size: 10, seq: 11 }));
        // By a stranger who puts the old key's name on it, and with either signature of another transition.
        let forged = good.replace(&key(2).verify_key().to_string(), &key(3).verify_key().to_string());
        assert_eq!(extended(10, &forged), Err(TransitionError::Signature("old")));
        let mut mixed = KeyTransition::parse(good.as_bytes()).unwrap();
        mixed.new_signature = KeyTransition::parse(step(1, 3, 10).as_bytes()).unwrap().new_signature;
        assert_eq!(extended(10, &mixed.to_json()), Err(TransitionError::Signature("new")));
        assert_eq!(extended(10, &step(3, 2, 10)), Err(TransitionError::OtherKey));
        assert_eq!(extended(10, &step(1, 1, 10)), Err(TransitionError::Reused));
        let mut keys = LogKeys::from(key(1).verify_key().clone());
        keys.extend(10, good.as_bytes()).unwrap();
        assert_eq!(keys.extend(20, step(2, 1, 20).as_bytes()), Err(TransitionError::Reused));
        assert_eq!(keys.extend(9, step(2, 3, 9).as_bytes()), Err(TransitionError::Order));
        assert!(keys.holds(10, good.as_bytes()) && !keys.holds(11, good.as_bytes()) && !keys.holds(10, b"{}"));
        for bad in ["", "{}", &good.replace("\"recordVersion\":1", "\"recordVersion\":2"), &" ".repeat(5_000)] {
            assert_eq!(extended(10, bad), Err(TransitionError::Malformed), "{bad}");
        }
    }
}
