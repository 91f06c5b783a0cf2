//! A copy of a journal's first batches, taken while the journal grows: the same bytes up to where the copy ends, zeros
//! after that, so that it is a journal like any other.

use super::batch::BLOCK_BYTES;
use super::error::JournalError;
use super::head::{self, HEAD_NAME};
use super::segment::{self, segment_path};
use super::walk::{Start, Step, Walk};
use crate::chain::tree::Tree;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Copies the batches below `next_seq`, all of which are durable, of the journal in `from` into the new folder `to`.
/// Gives the tree over what was copied. Everything that is hashed is checked on the way.
pub(crate) fn copy_first(from: &Path, to: &Path, next_seq: u64) -> Result<Tree, JournalError> {
    let mut walk = Walk::open(from, None, Start::Genesis, false)?;
    let (mut tree, mut end) = (walk.base_tree(), walk.place());
    while walk.chain.next_seq < next_seq {
        let Step::Batch(batch) = walk.step()? else {
            return Err(walk.damaged("durable records are missing".to_owned()));
        };
        batch.records.iter().for_each(|(_, hash, _)| tree.push(*hash));
        end = walk.place();
    }
    // The record that proves the beginning may be above where the copy ends.
    walk.check_base().map_err(|_| JournalError::PrunedMeanwhile)?;
    if let Some(base) = &walk.base {
        base.write(to)?;
    }
    let (last, end) = end;
    for segment in walk.segments.iter().filter(|segment| segment.number <= last) {
        let bytes = if segment.number == last { end } else { segment.bytes };
        copy_head(&segment.path, &segment_path(to, segment.number), bytes, segment.bytes)?;
    }
    let head_path = to.join(HEAD_NAME);
    let mut head = create(&head_path)?;
    let written = head.write_all(&head::encode(tree.size())).and_then(|()| head.sync_all());
    written.map_err(JournalError::io("write", &head_path))?;
    segment::sync_dir(to)?;
    Ok(tree)
}

/// The tree over all records of a journal that nobody writes to.
pub(crate) fn tree_of(dir: &Path) -> Result<Tree, JournalError> {
    let mut walk = Walk::open(dir, None, Start::Genesis, false)?;
    let mut tree = walk.base_tree();
    while let Step::Batch(batch) = walk.step()? {
        batch.records.iter().for_each(|(_, hash, _)| tree.push(*hash));
    }
    Ok(tree)
}

/// The first `bytes` of a segment, and zeros up to `length`.
fn copy_head(from: &Path, to: &Path, bytes: u64, length: u64) -> Result<(), JournalError> {
    debug_assert_eq!(bytes % BLOCK_BYTES, 0, "batches end at block boundaries");
    let source = File::open(from).map_err(JournalError::io("open", from))?;
    let mut copy = create(to)?;
    std::io::copy(&mut source.take(bytes), &mut copy).map_err(JournalError::io("copy to", to))?;
    copy.set_len(length).and_then(|()| copy.sync_all()).map_err(JournalError::io("write", to))
}

fn create(path: &Path) -> Result<File, JournalError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(JournalError::io("create", path))
}
