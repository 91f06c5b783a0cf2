//! Opening a journal after any end of the process before: clean, killed, or cut from power.
//!
//! One write was in flight at most, so at most the last batch may be bad. A bad last batch was never acknowledged: it
//! is zeroed. A whole last batch may have been, and is kept. Anything else was not done by a crash and is refused.
//! The whole journal is read and every link checked; that also rebuilds the tree (about a second per 300,000 records).

use super::base::Base;
use super::error::JournalError;
use super::head::{Found, HeadFile};
use super::prune;
use super::segment::{self, Segment};
use super::walk::{Chain, Start, Step, Tail, Walk};
use super::writer::Writer;
use crate::chain::leaf::LogId;
use crate::chain::tree::Tree;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// A journal ready for appending.
pub(crate) struct Opened {
    pub(crate) writer: Writer,
    /// Prepared segments after the writer's own.
    pub(crate) spares: VecDeque<Segment>,
    pub(crate) chain: Chain,
    pub(crate) tree: Tree,
    /// First and last seq of the last batch.
    pub(crate) last_batch: Option<(u64, u64)>,
    /// What was wrong with a last batch that was dropped.
    pub(crate) dropped: Option<&'static str>,
    /// Key transitions, seq and payload.
    pub(crate) transitions: Vec<(u64, Bytes)>,
}

/// Opens or creates the journal in `dir`.
pub(crate) fn open(
    dir: &Path,
    empty: Chain,
    start: Start,
    segment_bytes: u64,
    with_tree: bool,
) -> Result<Opened, JournalError> {
    create_dir(dir)?;
    let (head, found) = HeadFile::open_write(dir)?;
    segment::remove_temporary(dir)?;
    let durable = durable_before(dir, found)?;
    let base = if start == Start::Genesis { Base::read(dir)? } else { None };
    if segment::list(dir)?.is_empty() && base.is_none() {
        if durable > empty.next_seq {
            return Err(JournalError::Shorter { found: 0, durable, witness: "journal/head" });
        }
        publish(&head, dir, empty.next_seq)?;
        Segment::prepare(dir, empty.log, 0, segment_bytes)?;
    }
    let mut read = read_all(dir, empty.log, start, with_tree)?;
    if read.last_batch.is_none() && base.is_none() {
        read.walk.chain = empty;
    }
    let next_seq = read.walk.chain.next_seq;
    if next_seq < durable {
        return Err(JournalError::Shorter { found: next_seq, durable, witness: "journal/head" });
    }
    read.walk.check_base()?;
    if let Some(base) = base {
        prune::remove_below(dir, base.segment)?;
    }
    finish(dir, read, head)
}

/// Everything in the journal, checked; nothing changed yet.
struct ReadAll {
    walk: Walk,
    tail: Tail,
    tree: Tree,
    last_batch: Option<(u64, u64)>,
}

fn read_all(dir: &Path, log: LogId, start: Start, with_tree: bool) -> Result<ReadAll, JournalError> {
    let mut walk = Walk::open(dir, Some(log), start, true)?;
    let mut tree = walk.base_tree();
    let mut last_batch = None;
    loop {
        match walk.step()? {
            Step::Batch(batch) => {
                last_batch = Some((batch.header.first_seq, batch.header.next_seq() - 1));
                if with_tree {
                    batch.records.iter().for_each(|(_, hash, _)| tree.push(*hash));
                }
            }
            Step::End(tail) => return Ok(ReadAll { walk, tail, tree, last_batch }),
        }
    }
}

/// Clears a torn end, makes a whole one durable, and only then tells readers.
fn finish(dir: &Path, read: ReadAll, head: HeadFile) -> Result<Opened, JournalError> {
    let ReadAll { walk, tail, tree, last_batch } = read;
    let Walk { segments, next_batch, prev, chain, transitions, .. } = walk;
    let mut spares: VecDeque<Segment> = segments.into_iter().skip(tail.index).collect();
    let current = spares.pop_front().expect("an opened journal has a segment at its tail");
    if let Some(found) = tail.torn {
        tracing::warn!(segment = current.number, offset = tail.offset, found, "torn last batch dropped");
        current.erase_from(tail.offset)?;
    }
    // The last batch may sit in the page cache only, in this segment or, at a segment's very end, in the one before.
    current.sync()?;
    if current.number > 0 && tail.offset == segment::FIRST_BATCH_AT {
        match Segment::open(dir, current.number - 1, true) {
            Ok(before) => before.sync()?,
            Err(JournalError::MissingSegment { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    segment::sync_dir(dir)?;
    publish(&head, dir, chain.next_seq)?;
    let writer = Writer::new(current, tail, next_batch, prev, head);
    Ok(Opened { writer, spares, chain, tree, last_batch, dropped: tail.torn, transitions })
}

/// The lower bound that the head file gives.
fn durable_before(dir: &Path, found: Found) -> Result<u64, JournalError> {
    match found {
        Found::NextSeq(next_seq) => Ok(next_seq),
        Found::Damaged => Err(JournalError::Head { path: dir.join(super::head::HEAD_NAME) }),
        Found::Absent => {
            if !segment::list(dir)?.is_empty() {
                tracing::warn!("journal/head was missing; the checkpoint alone bounds what may be lost");
            }
            Ok(0)
        }
    }
}

fn publish(head: &HeadFile, dir: &Path, next_seq: u64) -> Result<(), JournalError> {
    let path = dir.join(super::head::HEAD_NAME);
    head.write(next_seq).and_then(|()| head.sync()).map_err(JournalError::io("write", &path))?;
    segment::sync_dir(dir)
}

fn create_dir(dir: &Path) -> Result<(), JournalError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(JournalError::io("create", dir))?;
    dir.parent().map_or(Ok(()), segment::sync_dir)
}
