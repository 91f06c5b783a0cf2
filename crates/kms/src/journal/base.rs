//! `journal/start`: where a journal begins whose first segments were pruned, and the tree over what they held.
//!
//! Nothing in this file is believed alone: recovery and the verifier want a prune record further up in the journal that
//! names the same seq, link and root, and the tree that is built on this one must have the checkpoint's root. It is
//! durable before the first segment goes. Byte by byte: docs/chain.md.

use super::error::JournalError;
use super::segment::sync_dir;
use super::walk::Chain;
use crate::chain::leaf::{LeafHash, Link, LogId};
use crate::chain::tree::{BLOCK_LEAVES, RootHash, Tree};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Name inside the journal folder.
pub(crate) const START_NAME: &str = "start";
/// Starts the file; the last byte is the version.
const MAGIC: [u8; 8] = *b"KTSTART\x01";
/// Bytes before the hashes.
const FIXED_BYTES: usize = 8 + 16 + 8 * 5 + 32 + 32 + 8 + 8;
/// Far above any journal: hashes over 2^40 records.
const START_BYTES_MAX: u64 = 1 << 37;

/// Where a journal begins.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// The chain before the first record that is kept.
    pub(crate) chain: Chain,
    /// Number of the first segment that is kept.
    pub(crate) segment: u64,
    /// Number of its first batch.
    pub(crate) batch: u64,
    /// Digest of the batch before.
    pub(crate) prev: [u8; 32],
    /// The tree over all records below.
    pub(crate) tree: Tree,
}

/// A prune record, as far as it proves a [`Base`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pruned {
    pub(crate) record_version: u32,
    /// The first record that is kept: the log's minimum index.
    pub(crate) minimum_index: u64,
    /// Records that this pruning removed: first and last seq, both inclusive, and how many.
    pub(crate) first_removed: u64,
    pub(crate) last_removed: u64,
    pub(crate) count: u64,
    /// Link that the record at the minimum index carries, hex.
    pub(crate) link: String,
    /// Root of the tree of that size, hex.
    pub(crate) root_hash: String,
    /// Records below this seq have landed, says the trail.
    pub(crate) landed_next_seq: u64,
    /// How long records are kept, in seconds.
    pub(crate) keep_seconds: u64,
}

impl Base {
    /// What the folder says; None for a journal that begins at 0.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, JournalError> {
        let path = dir.join(START_NAME);
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > START_BYTES_MAX => return Err(JournalError::Start { path }),
            Ok(_) => std::fs::read(&path).map_err(JournalError::io("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::io("look for", &path)(error)),
        };
        Self::decode(&bytes).map(Some).ok_or(JournalError::Start { path })
    }

    /// Puts the file in place of the one before, durably.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), JournalError> {
        let (path, fresh) = (dir.join(START_NAME), dir.join("start.tmp"));
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let mut file: File = opened.map_err(JournalError::io("create", &fresh))?;
        let written = file.write_all(&self.encode()).and_then(|()| file.sync_all());
        written.map_err(JournalError::io("write", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(JournalError::io("name", &path))?;
        sync_dir(dir)
    }

    /// The first record that is kept.
    pub(crate) fn first_seq(&self) -> u64 {
        self.chain.next_seq
    }

    pub(crate) fn root(&self) -> RootHash {
        self.tree.root()
    }

    /// Whether `payload` is the prune record of this beginning.
    pub(crate) fn is_of(&self, payload: &[u8]) -> bool {
        serde_json::from_slice::<Pruned>(payload).is_ok_and(|pruned| {
            let proved = (pruned.minimum_index, pruned.link, pruned.root_hash);
            proved == (self.first_seq(), self.chain.link.to_string(), self.root().to_string())
        })
    }

    fn encode(&self) -> Vec<u8> {
        let (blocks, tail) = (self.tree.subtrees(), self.tree.tail());
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 32 * (blocks.len() + tail.len() + 1));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.chain.log.0);
        for number in [self.chain.next_seq, self.segment, self.batch, self.chain.time_us, self.chain.epoch] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.prev);
        bytes.extend_from_slice(&self.chain.link.0);
        bytes.extend_from_slice(&(blocks.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&(tail.len() as u64).to_be_bytes());
        blocks.iter().for_each(|hash| bytes.extend_from_slice(hash));
        tail.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, check) = bytes.split_last_chunk::<32>()?;
        if !bytes.starts_with(&MAGIC) || blake3::hash(bytes).as_bytes() != check {
            return None;
        }
        let mut rest = bytes.get(MAGIC.len()..)?;
        let log = LogId(take(&mut rest)?);
        let mut number = || take(&mut rest).map(u64::from_be_bytes);
        let (next_seq, segment, batch) = (number()?, number()?, number()?);
        let (time_us, epoch) = (number()?, number()?);
        let (prev, link) = (take(&mut rest)?, Link(take(&mut rest)?));
        let (blocks, tail) = (u64::from_be_bytes(take(&mut rest)?), u64::from_be_bytes(take(&mut rest)?));
        let (hashes, left) = rest.as_chunks::<32>();
        let size = blocks.checked_mul(BLOCK_LEAVES)?.checked_add(tail)?;
        let blocks = usize::try_from(blocks).ok()?;
        let whole = left.is_empty() && u64::try_from(hashes.len()).ok()? == (blocks as u64).checked_add(tail)?;
        if !whole || size != next_seq || size == 0 || segment == 0 {
            return None;
        }
        let (blocks, tail) = hashes.split_at_checked(blocks)?;
        let tree = Tree::from_subtrees(blocks.to_vec(), tail.iter().map(|hash| LeafHash(*hash)).collect())?;
        Some(Self { chain: Chain { log, next_seq, link, time_us, epoch }, segment, batch, prev, tree })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn base(size: u64) -> Base {
        let mut tree = Tree::new();
        (0..size).for_each(|n| tree.push(LeafHash([u8::try_from(n % 251).unwrap(); 32])));
        let chain = Chain { log: LogId([1; 16]), next_seq: size, link: Link([2; 32]), time_us: 3, epoch: 4 };
        Base { chain, segment: 5, batch: 6, prev: [7; 32], tree }
    }

    #[test]
    fn a_start_survives_and_any_changed_byte_breaks_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Base::read(dir.path()).unwrap().is_none());
        for size in [1, 255, 256, 700] {
            let base = base(size);
            base.write(dir.path()).unwrap();
            let read = Base::read(dir.path()).unwrap().unwrap();
            assert_eq!((read.chain, read.segment, read.batch, read.prev), (base.chain, 5, 6, [7; 32]));
            assert_eq!((read.root(), read.tree.tail()), (base.root(), base.tree.tail()));
        }
        let bytes = base(300).encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Base::decode(&changed).is_none(), "byte {at}");
            assert!(Base::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn a_record_of_another_place_link_or_root_proves_nothing() {
        let base = base(300);
        let pruned = |minimum_index: u64, link: Link, root: RootHash| {
            let record = Pruned {
                record_version: 1,
                minimum_index,
                first_removed: 0,
                last_removed: 299,
                count: 300,
                link: link.to_string(),
                root_hash: root.to_string(),
                landed_next_seq: 300,
                keep_seconds: 1,
            };
            serde_json::to_vec(&record).unwrap()
        };
        assert!(base.is_of(&pruned(300, Link([2; 32]), base.root())));
        assert!(!base.is_of(&pruned(299, Link([2; 32]), base.root())));
        assert!(!base.is_of(&pruned(300, Link([3; 32]), base.root())));
        assert!(!base.is_of(&pruned(300, Link([2; 32]), RootHash([0; 32]))));
        assert!(!base.is_of(b"{}"));
    }
}
