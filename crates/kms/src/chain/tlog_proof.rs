//! A C2SP tlog-proof: one text file that shows offline that a leaf is in the log under a signed checkpoint.
//!
//! The `extra` line carries the leaf itself, 110 bytes, so that the file needs nothing beside it but the log's key.
//! Extra data is not authenticated by the format: here it is, because the leaf is what the proof is about.
//! <https://c2sp.org/tlog-proof>

use super::checkpoint::{Checkpoint, NoteError, VerifyKey};
use super::leaf::{LEAF_BYTES, Leaf, LeafError, leaf_hash};
use super::proof::{InclusionProof, ProofError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;

const TITLE: &str = "c2sp.org/tlog-proof@v1";
/// Longest file read: the longest note, and a proof of 64 hashes.
pub const TLOG_PROOF_BYTES_MAX: usize = 72 * 1024;
/// Hashes of the deepest tree.
const HASHES_MAX: usize = 64;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// The encoded leaf.
    pub leaf: [u8; LEAF_BYTES],
    /// Its index in the log.
    pub index: u64,
    /// The way from the leaf to the root.
    pub proof: InclusionProof,
    /// The signed note, with whatever signatures it carries.
    pub note: String,
}

/// Why a file proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlogProofError {
    /// Not in the format.
    #[error("not a tlog-proof: {0}")]
    Format(&'static str),
    /// The checkpoint does not hold under the key.
    #[error("checkpoint of the proof does not hold")]
    Note(#[from] NoteError),
    /// The extra data is not a leaf.
    #[error("extra line holds no leaf")]
    Leaf(#[from] LeafError),
    /// The leaf says that it belongs elsewhere.
    #[error("leaf is of another log or has another seq than the proof says")]
    Elsewhere,
    /// The hashes do not lead to the checkpoint's root.
    #[error("leaf is not under the checkpoint")]
    Proof(#[from] ProofError),
}

impl TlogProof {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let wrong = TlogProofError::Format;
        if text.len() > TLOG_PROOF_BYTES_MAX {
            return Err(wrong("longer than 72 KiB"));
        }
        let (head, note) = text.split_once("\n\n").ok_or(wrong("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(TITLE) {
            return Err(wrong("first line is not c2sp.org/tlog-proof@v1"));
        }
        let extra = lines.next().and_then(|line| line.strip_prefix("extra ")).ok_or(wrong("no extra line"))?;
        let leaf = BASE64.decode(extra).map_err(|_| wrong("extra data is not base64"))?;
        let leaf = <[u8; LEAF_BYTES]>::try_from(leaf.as_slice()).map_err(|_| LeafError::Length(leaf.len()))?;
        let digits = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(wrong("no index line"))?;
        let index: u64 = digits.parse().map_err(|_| wrong("index is not a number"))?;
        if index.to_string() != digits {
            return Err(wrong("index has leading zeros or a sign"));
        }
        let mut hashes = Vec::new();
        for line in lines {
            let hash = BASE64.decode(line).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            hashes.push(hash.ok_or(wrong("hash is not 32 bytes of base64"))?);
            if hashes.len() > HASHES_MAX {
                return Err(wrong("more than 64 hashes"));
            }
        }
        Ok(Self { leaf, index, proof: InclusionProof { hashes }, note: note.to_owned() })
    }

    /// Checks everything against the log's key; gives the checkpoint and the leaf that is in the log under it.
    pub fn verify(&self, key: &VerifyKey) -> Result<(Checkpoint, Leaf), TlogProofError> {
        let checkpoint = key.verify(&self.note)?;
        let leaf = Leaf::decode(&self.leaf)?;
        if leaf.seq != self.index || leaf.log != checkpoint.log_id() {
            return Err(TlogProofError::Elsewhere);
        }
        self.proof.verify(leaf_hash(&self.leaf), self.index, checkpoint.size, &checkpoint.root)?;
        Ok((checkpoint, leaf))
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TITLE}\nextra {}\nindex {}", BASE64.encode(self.leaf), self.index)?;
        for hash in &self.proof.hashes {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::checkpoint::SigningKey;
    use super::super::leaf::{Kind, Link, LogId};
    use super::super::subtree;
    use super::super::tree::RootHash;
    use super::*;
    use proptest::prelude::*;

    /// A name as `init` makes it, on a host with a long one.
    const NAME: &str = "keytrail/default/ip-10-101-202-303-0123456789abcdef";

    /// A proof at `size` in a tree whose other nodes are made up, which is all the same to whoever checks it.
    fn made(seq: u64, size: u64) -> (SigningKey, TlogProof) {
        let leaf = Leaf {
            log: LogId::of_origin(NAME),
            epoch: 3,
            seq,
            kind: Kind::Event,
            time_us: 1_767_614_400_000_000,
            payload_len: 1_500,
            payload_digest: [9; 32],
            prev: Link([8; 32]),
        };
        let bytes = leaf.encode();
        let mut node = |level: u32, index: u64| {
            let own = level == 0 && index == seq;
            let made_up = super::super::leaf::sha256(&[&level.to_be_bytes(), &index.to_be_bytes()]);
            Ok::<_, std::convert::Infallible>(if own { leaf_hash(&bytes).0 } else { made_up })
        };
        let Ok(hashes) = subtree::inclusion(seq, 0, size, &mut node);
        let proof = InclusionProof { hashes };
        let root: RootHash = proof.root(leaf_hash(&bytes), seq, size).unwrap();
        let key = SigningKey::from_seed(NAME, &[1; 32]).unwrap();
        let note = key.sign(&Checkpoint { origin: NAME.to_owned(), size, root }).unwrap();
        (key, TlogProof { leaf: bytes, index: seq, proof, note })
    }

    #[test]
    fn a_file_at_100_million_leaves_keeps_its_budget() {
        // The leaf with the longest way: 27 hashes.
        let (key, proof) = made(3, 100_000_000);
        assert_eq!(proof.proof.hashes.len(), 27);
        let text = proof.to_string();
        assert!(text.len() <= 1_700, "{} bytes", text.len());
        assert_eq!(TlogProof::parse(&text), Ok(proof.clone()));
        let (checkpoint, leaf) = proof.verify(key.verify_key()).unwrap();
        assert_eq!((checkpoint.size, leaf.seq), (100_000_000, 3));
    }

    #[test]
    fn what_the_specification_does_not_write_is_not_read() {
        let (_, proof) = made(5, 6);
        let text = proof.to_string();
        assert_eq!(TlogProof::parse(&text), Ok(proof));
        for (part, other) in [
            ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
            ("\nextra ", "\nother "),
            ("index 5", "index 05"),
            ("index 5", "index +5"),
            ("index 5\n", "index 5\n\n"),
            ("\n\n", "\n"),
            ("index 5\n", "index 5\nAAAA\n"),
            ("extra A", "extra *"),
        ] {
            let changed = text.replacen(part, other, 1);
            assert_ne!(changed, text, "{part}");
            let read = TlogProof::parse(&changed);
            let note_only = read.as_ref().is_ok_and(|read| read.verify(made(5, 6).0.verify_key()).is_err());
            assert!(read.is_err() || note_only, "{part} as {other}");
        }
        assert!(TlogProof::parse(&text.replacen("index 5\n", &format!("index 5\n{}", "A\n".repeat(70)), 1)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_changed_byte_fails(pick: prop::sample::Index, mask in 1_u8..=127, seq in 0_u64..1_000, more in 1_u64..1_000) {
            let (key, proof) = made(seq, seq + more);
            let mut bytes = proof.to_string().into_bytes();
            let at = pick.index(bytes.len());
            bytes[at] ^= mask;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                let holds = TlogProof::parse(text).ok().is_some_and(|proof| proof.verify(key.verify_key()).is_ok());
                prop_assert!(!holds, "{}", text);
            }
        }
    }
}
