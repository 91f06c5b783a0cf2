//! Consistency proofs over the durable log, for whoever signs it and remembers only sizes and roots.
//!
//! The leaf hashes that a proof needs are read from the segments before the tree is looked at: appending waits while
//! somebody looks. One reader is kept, since its index of the newest segment makes the next proof cheap.

use super::Reader;
use super::append::Journal;
use super::error::JournalError;
use crate::chain::ConsistencyProof;
use crate::chain::consistency::cut_blocks;
use crate::chain::tree::TreeError;

impl Journal {
    /// Proof that this log's first `old` records are the beginning of its first `size`, which are durable. Blocks.
    pub fn consistency_proof(&self, old: u64, size: u64) -> Result<ConsistencyProof, TreeError<JournalError>> {
        let mut kept = self.proofs().lock();
        let failed = |block| move |source| TreeError::Source { block, source };
        let mut reader = match kept.take() {
            Some(reader) => reader,
            None => Reader::open(self.dir(), 0).map_err(failed(0))?,
        };
        let mut blocks = Vec::new();
        for block in cut_blocks(old, size) {
            blocks.push((block, reader.leaf_hashes(block).map_err(failed(block))?));
        }
        *kept = Some(reader);
        drop(kept);
        self.with_tree(|tree| {
            tree.consistency_proof(old, size, |wanted| {
                let found = blocks.iter().find(|(block, _)| *block == wanted);
                Ok(found.map(|(_, leaves)| leaves.clone()).unwrap_or_default())
            })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::{Kind, LogId};
    use crate::clock::FakeClock;
    use crate::journal::{Draft, JournalOptions, PruneBounds};
    use crate::tiles::TileWriter;
    use bytes::Bytes;
    use std::sync::Arc;

    #[test]
    fn proofs_between_any_two_heads_of_a_growing_journal_hold() {
        let dir = tempfile::tempdir().unwrap();
        let options = JournalOptions { segment_bytes: 270_336, ..JournalOptions::default() };
        let clock = Arc::new(FakeClock::default());
        let (journal, _) = Journal::open(dir.path(), LogId::of_origin("o"), clock, options).unwrap();
        let mut heads = vec![journal.head()];
        for step in [1, 2, 30, 222, 1, 1, 255, 256, 400] {
            let pending = (0..step).map(|n| {
                journal.append(Draft::new(Kind::Event, Bytes::from(format!("{{\"n\":{n}}}"))).unwrap()).unwrap()
            });
            let pending: Vec<_> = pending.collect();
            for pending in pending {
                pending.wait().unwrap();
            }
            heads.push(journal.head());
        }
        for (at, new) in heads.iter().enumerate() {
            for old in &heads[..=at] {
                let proof = journal.consistency_proof(old.size, new.size).unwrap();
                assert!(proof.leads((old.size, &old.root), (new.size, &new.root)), "{} to {}", old.size, new.size);
            }
        }
        assert!(journal.consistency_proof(0, 2_000).is_err());
    }

    #[test]
    fn proofs_from_behind_the_beginning_of_a_pruned_journal_come_from_its_tiles() {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().join("journal");
        let options = JournalOptions { segment_bytes: 270_336, ..JournalOptions::default() };
        let clock = Arc::new(FakeClock::default());
        let (journal, _) = Journal::open(&dir, LogId::of_origin("o"), clock, options).unwrap();
        let mut heads = vec![journal.head()];
        for step in [1, 99, 200, 300, 1_500] {
            let payload = Bytes::from(format!("{{\"n\":\"{}\"}}", "x".repeat(400)));
            let pending: Vec<_> =
                (0..step).map(|_| journal.append(Draft::new(Kind::Event, payload.clone()).unwrap()).unwrap()).collect();
            pending.into_iter().for_each(|pending| {
                pending.wait().unwrap();
            });
            heads.push(journal.head());
        }
        let size = journal.head().size;
        let mut tiles = journal.with_tree(|tree| TileWriter::open(data.path(), &dir, tree)).unwrap();
        tiles.grow(size, |level, index| journal.with_tree(|tree| tree.tile(level, index).to_vec())).unwrap();
        let bounds = PruneBounds {
            below_seq: tiles.full_records(),
            before_us: u64::MAX,
            landed_next_seq: size,
            keep_seconds: 1,
        };
        let pruned = journal.prune(bounds).unwrap().unwrap().minimum_index;
        assert!(pruned > 600, "what is cut below lies in blocks that are gone: {pruned}");
        let newest = journal.head();
        for old in &heads {
            let proof = journal.consistency_proof(old.size, newest.size).unwrap();
            assert!(proof.leads((old.size, &old.root), (newest.size, &newest.root)), "from {}", old.size);
            let mut reader = Reader::open(&dir, 0).unwrap();
            let root = journal.with_tree(|tree| tree.root_at(old.size, |block| reader.leaf_hashes(block)));
            assert_eq!(root.unwrap(), old.root);
        }
        // A false tile gives no proof, not a false one.
        let path = data.path().join("tiles/hashes-0");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[32] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = journal.consistency_proof(100, newest.size).unwrap_err();
        assert!(matches!(error, TreeError::ForeignBlock { block: 0 }), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(journal.consistency_proof(100, newest.size), Err(TreeError::Source { block: 0, .. })));
    }
}
