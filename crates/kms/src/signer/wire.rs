//! What a node and its signer's process say to each other: texts behind their length, over a Unix socket.
//!
//! The node asks for the head, to sign one (a [`GrowthText`] above a checkpoint's three lines), or to change to the key that
//! the signer's own user has prepared. Whoever can connect can
//! have any true growth of the log signed, as the node can; nobody can have it forget, shorten or fork the log.

use super::SignedHead;
use crate::chain::ConsistencyProof;
use crate::chain::checkpoint::{Checkpoint, VerifyKey};
use crate::chain::consistency::GrowthText;
use crate::chain::transition::KeyTransition;

/// Longest text: a proof of 63 lines and a note fit twice.
pub(super) const TEXT_BYTES_MAX: usize = 8 * 1024;

/// What the node wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To know the signer's key and memory.
    Head,
    /// A signature over a head.
    Sign {
        /// Size that the proof is from.
        old: u64,
        /// That the log only grew since.
        proof: ConsistencyProof,
        /// The head.
        checkpoint: Checkpoint,
    },
    /// The transition to the key that the signer's user has prepared, over the head signed last.
    Transition,
    /// To take the prepared key into use, which is this one.
    Adopt(VerifyKey),
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Key and memory.
    Head(VerifyKey, Option<SignedHead>),
    /// The signed note.
    Note(String),
    /// A key transition.
    Transition(KeyTransition),
    /// The proof is from another size than this one, which was signed last.
    Known(u64),
    /// The head does not continue what was signed last.
    Inconsistent,
    /// Anything else, for the node's messages.
    Refused(String),
}

impl Request {
    pub(super) fn write(&self) -> String {
        match self {
            Self::Head => "head\n".to_owned(),
            Self::Transition => "transition\n".to_owned(),
            Self::Adopt(key) => format!("adopt\n{key}\n"),
            Self::Sign { old, proof, checkpoint } => {
                let body = checkpoint.body();
                format!("sign\n{}", GrowthText { old: *old, proof: proof.clone(), head: &body }.write())
            }
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        match text.split_once('\n')? {
            ("head", "") => Some(Self::Head),
            ("transition", "") => Some(Self::Transition),
            ("adopt", key) => Some(Self::Adopt(key.strip_suffix('\n')?.parse().ok()?)),
            ("sign", growth) => {
                let GrowthText { old, proof, head } = GrowthText::parse(growth)?;
                Some(Self::Sign { old, proof, checkpoint: Checkpoint::parse_body(head).ok()? })
            }
            _ => None,
        }
    }
}

impl Reply {
    pub(super) fn write(&self) -> String {
        match self {
            Self::Head(key, None) => format!("head\n{key}\n"),
            Self::Head(key, Some(head)) => format!("head\n{key}\n{}\n", hex::encode(head.encode())),
            Self::Note(note) => format!("note\n{note}"),
            Self::Transition(transition) => format!("transition\n{}\n", transition.to_json()),
            Self::Known(size) => format!("known\n{size}\n"),
            Self::Inconsistent => "inconsistent\n".to_owned(),
            Self::Refused(reason) => format!("refused\n{reason}\n"),
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('\n')?;
        let line = rest.strip_suffix('\n').unwrap_or(rest);
        match kind {
            "head" => {
                let mut lines = line.split('\n');
                let key = lines.next()?.parse().ok()?;
                let head = lines.next().map(|head| SignedHead::decode(&hex::decode(head).ok()?.try_into().ok()?));
                match head {
                    None => Some(Self::Head(key, None)),
                    Some(head) => Some(Self::Head(key, Some(head?))),
                }
            }
            "note" => Some(Self::Note(rest.to_owned())),
            "transition" => KeyTransition::parse(line.as_bytes()).ok().map(Self::Transition),
            "known" => line.parse().ok().map(Self::Known),
            "inconsistent" => Some(Self::Inconsistent),
            "refused" => Some(Self::Refused(line.to_owned())),
            _ => None,
        }
    }
}

/// A text behind its length.
pub(super) fn framed(text: &str) -> Option<Vec<u8>> {
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= TEXT_BYTES_MAX)?;
    Some([&length.to_be_bytes(), text.as_bytes()].concat())
}

/// The length in front of a text, if it is within bounds.
pub(super) fn length(bytes: [u8; 4]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(bytes)).ok().filter(|length| *length <= TEXT_BYTES_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::checkpoint::SigningKey;
    use crate::chain::tree::RootHash;

    #[test]
    fn texts_read_back_and_others_are_refused() {
        let checkpoint = Checkpoint { origin: "o".to_owned(), size: 9, root: RootHash([4; 32]) };
        let proof = ConsistencyProof { hashes: vec![[1; 32], [2; 32]] };
        let old = SigningKey::from_seed("o", &[1; 32]).unwrap();
        let key = old.verify_key().clone();
        let sign = Request::Sign { old: 3, proof, checkpoint };
        for request in [Request::Head, sign, Request::Transition, Request::Adopt(key.clone())] {
            assert_eq!(Request::read(&request.write()), Some(request));
        }
        let new = SigningKey::from_seed("o", &[2; 32]).unwrap();
        let head = SignedHead { size: 3, root: RootHash([9; 32]) };
        for reply in [
            Reply::Head(key.clone(), None),
            Reply::Head(key, Some(head)),
            Reply::Note("o\n9\nx\n\nsignature\n".to_owned()),
            Reply::Transition(KeyTransition::sign(&old, &new, 3, &RootHash([9; 32]))),
            Reply::Known(7),
            Reply::Inconsistent,
            Reply::Refused("disk is full".to_owned()),
        ] {
            assert_eq!(Reply::read(&reply.write()), Some(reply));
        }
        for bad in ["", "head", "head\nx", "sign\n", "sign\nold 3\n\no\n9\n", "adopt\n", "other\n"] {
            assert_eq!(Request::read(bad), None, "{bad:?}");
        }
        assert_eq!(length(framed("abc").unwrap()[..4].try_into().unwrap()), Some(3));
        assert_eq!(length([0xff; 4]), None);
    }
}
