//! Pruning: whole segments go once everything that could need them again has said that it does not.
//!
//! Three steps, each durable before the next: a prune record in the journal, `journal/start`, the segments from the
//! first on. A crash after the first changed nothing; after the second the next start takes the rest away.

use super::append::{Draft, Journal};
use super::base::{Base, Pruned};
use super::batch::{self, BatchHeader};
use super::error::JournalError;
use super::reader::Reader;
use super::segment::{self, FIRST_BATCH_AT, Segment, Slot};
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
        let durable = self.durable().borrow().next_seq;
        let Some(cut) = last_cut(dir, durable, bounds)?.filter(|cut| cut.chain.next_seq > first_seq) else {
            return Ok(None);
        };
        let minimum_index = cut.chain.next_seq;
        let tree = tree_at(dir, self, minimum_index)?;
        let Cut { chain, segment, batch } = cut;
        let base = Base { chain, segment, batch: batch.number, prev: batch.prev, tree };
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

/// Where a journal may begin.
struct Cut {
    chain: Chain,
    segment: u64,
    batch: BatchHeader,
}

/// The last segment whose records below may all go.
fn last_cut(dir: &Path, durable: u64, bounds: PruneBounds) -> Result<Option<Cut>, JournalError> {
    let mut found = None;
    for number in segment::list(dir)?.into_iter().skip(1) {
        let Slot::Batch(batch, body) = Segment::open(dir, number, false)?.slot(FIRST_BATCH_AT)? else { break };
        // A batch above the durable ones may still be in the making.
        if batch.first_seq > bounds.below_seq || batch.next_seq() > durable {
            break;
        }
        let first = batch::frames(&batch, &body).ok().and_then(|frames| frames.first()?.verify().ok());
        // Time never falls: what is below is not younger.
        let Some(leaf) = first.filter(|leaf| leaf.time_us < bounds.before_us) else { break };
        let Leaf { log, seq: next_seq, prev: link, time_us, epoch, .. } = leaf;
        found = Some(Cut { chain: Chain { log, next_seq, link, time_us, epoch }, segment: number, batch });
    }
    Ok(found)
}

/// The tree as it was at `size`.
fn tree_at(dir: &Path, journal: &Journal, size: u64) -> Result<Tree, JournalError> {
    let blocks = usize::try_from(size / BLOCK_LEAVES).unwrap_or(usize::MAX);
    let rest = usize::try_from(size % BLOCK_LEAVES).unwrap_or(usize::MAX);
    let mut tail = Reader::open(dir, 0)?.leaf_hashes(size / BLOCK_LEAVES)?;
    tail.truncate(rest);
    let subtrees = journal.with_tree(|tree| tree.subtrees().get(..blocks).map(<[_]>::to_vec));
    let cut = subtrees.and_then(|subtrees| Tree::from_subtrees(subtrees, tail)).filter(|cut| cut.size() == size);
    cut.ok_or(JournalError::NoSuchSeq { seq: size, first: 0, next: size })
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
