//! Pruning: whole segments go once everything that could need them again has said that it does not.
//!
//! Three steps, each durable before the next: a prune record in the journal, `journal/start`, the segments from the
//! first on. A crash after the first changed nothing; after the second the next start takes the rest away.

use super::append::{Draft, Journal};
use super::base::{Base, Pruned};
use super::error::JournalError;
use super::reader::Reader;
use super::segment::{self, FIRST_BATCH_AT, Segment};
use super::walk::Chain;
use crate::chain::leaf::{Kind, Leaf};
use crate::chain::tree::{BLOCK_LEAVES, Tree};
use std::path::Path;

/// What must hold for a record to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneBounds {
    /// Records below this seq are covered by a checkpoint, have landed, and are not needed for the next start.
    pub below_seq: u64,
    /// Records of before this time (Unix microseconds) are past their retention.
    pub before_us: u64,
    /// What the trail says has landed, for the record.
    pub landed_next_seq: u64,
    /// The retention, for the record.
    pub keep_seconds: u64,
}

/// What went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneDone {
    /// The first record that is kept.
    pub minimum_index: u64,
    /// Records removed.
    pub count: u64,
}

impl Journal {
    /// Removes the segments that `bounds` allow, none if there is no whole one. Blocks on the disk.
    pub fn prune(&self, bounds: PruneBounds) -> Result<Option<PruneDone>, JournalError> {
        let dir = self.dir();
        let first_seq = Base::read(dir)?.map_or(0, |base| base.first_seq());
        let Some(base) = self.with_tree(|tree| plan(dir, tree, bounds))?.filter(|base| base.first_seq() > first_seq)
        else {
            return Ok(None);
        };
        let minimum_index = base.first_seq();
        let done = PruneDone { minimum_index, count: minimum_index - first_seq };
        let record = Pruned {
            record_version: 1,
            minimum_index,
            first_removed: first_seq,
            last_removed: minimum_index - 1,
            count: done.count,
            link: base.chain.link.to_string(),
            root_hash: base.root().to_string(),
            landed_next_seq: bounds.landed_next_seq,
            keep_seconds: bounds.keep_seconds,
        };
        let payload = serde_json::to_vec(&record).expect("a prune record is plain data");
        let refused = |step: &'static str| {
            let path = dir.to_owned();
            move |error: String| JournalError::Io { step, path, source: std::io::Error::other(error) }
        };
        let draft = Draft::new(Kind::Prune, payload.into()).map_err(|error| refused("draft for")(error.to_string()))?;
        let pending = self.append(draft).map_err(|error| refused("record in")(error.to_string()))?;
        pending.wait().map_err(|error| refused("record in")(error.to_string()))?;
        base.write(dir)?;
        remove_below(dir, base.segment)?;
        Ok(Some(done))
    }
}

/// Where the journal would begin: at the last segment whose records below may all go.
fn plan(dir: &Path, tree: &Tree, bounds: PruneBounds) -> Result<Option<Base>, JournalError> {
    let mut found = None;
    for number in segment::list(dir)?.into_iter().skip(1) {
        let Some(header) = Segment::open(dir, number, false)?.header_at(FIRST_BATCH_AT)? else { break };
        let first_seq = header.first_seq;
        // A batch above the durable ones may still be in the making.
        if first_seq > bounds.below_seq || first_seq >= tree.size() {
            break;
        }
        let before = leaf_at(dir, first_seq - 1)?;
        if before.time_us >= bounds.before_us {
            break;
        }
        let chain = Chain {
            log: before.log,
            next_seq: first_seq,
            link: leaf_at(dir, first_seq)?.prev,
            time_us: before.time_us,
            epoch: before.epoch,
        };
        found = Some((chain, number, header));
    }
    let Some((chain, segment, header)) = found else { return Ok(None) };
    let tree = tree_at(dir, tree, chain.next_seq)?;
    Ok(Some(Base { chain, segment, batch: header.number, prev: header.prev, tree }))
}

fn leaf_at(dir: &Path, seq: u64) -> Result<Leaf, JournalError> {
    let frames = Reader::open(dir, seq)?.next(1)?;
    let leaf = frames.first().and_then(|frame| frame.verify().ok());
    leaf.ok_or(JournalError::NoSuchSeq { seq, first: 0, next: seq })
}

/// The tree as it was at `size`.
fn tree_at(dir: &Path, tree: &Tree, size: u64) -> Result<Tree, JournalError> {
    let blocks = usize::try_from(size / BLOCK_LEAVES).unwrap_or(usize::MAX);
    let rest = usize::try_from(size % BLOCK_LEAVES).unwrap_or(usize::MAX);
    let mut tail = Reader::open(dir, 0)?.leaf_hashes(size / BLOCK_LEAVES)?;
    tail.truncate(rest);
    let subtrees = tree.subtrees().get(..blocks).map(<[_]>::to_vec);
    let cut = subtrees.and_then(|subtrees| Tree::from_subtrees(subtrees, tail)).filter(|cut| cut.size() == size);
    cut.ok_or(JournalError::NoSuchSeq { seq: size, first: 0, next: tree.size() })
}

/// Removes all segments with lower numbers, in order and one by one, so that a crash never leaves a hole.
pub(super) fn remove_below(dir: &Path, first: u64) -> Result<(), JournalError> {
    for number in segment::list(dir)?.into_iter().take_while(|number| *number < first) {
        let path = segment::segment_path(dir, number);
        std::fs::remove_file(&path).map_err(JournalError::io("remove", &path))?;
        segment::sync_dir(dir)?;
    }
    Ok(())
}
