//! Records that came through Kafka and that no signed checkpoint covers yet: nothing acts on them, nobody queries them.
//!
//! `DIR/unproved/<log>`, in the spool's format. Links alone do not tell a genuine record from one that somebody who knows
//! the last leaf published ahead of it. So what the lander links waits here for a checkpoint of the log's signer. Under one that agrees it is released to spool,
//! lake and rules; if one disagrees, everything from the last proved record on is thrown away and comes from the node.
//! On disk, because an outage of the transport leaves more than memory holds; what a restart finds is thrown away, for
//! whatever was not released comes from Kafka or the node again.

use super::TrailError;
use crate::land::{Position, VerifiedFrame};
use keytrail_kms::chain::tree::BLOCK_LEAVES;
use keytrail_kms::chain::{Checkpoint, Leaf, LeafHash, LogId, Tree};
use keytrail_kms::journal::{Frame, JournalError, ReadError, Reader, SpoolWriter};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Notes kept for sizes that the records have not reached; beyond it every second one is dropped, so that they still
/// reach over the whole way.
const NOTES_MAX: usize = 16_384;

/// How long records wait for a note from Kafka before the node is asked: notes are signed five times a second.
pub(super) const NOTE_PATIENCE: Duration = Duration::from_millis(750);

/// Payload bytes that may wait whatever the disk says.
const WAITING_BYTES_FREE: u64 = 64 << 20;

/// Beyond that, records wait only while the disk has this much left: a journal may be on it.
const DISK_BYTES_LEFT_MIN: u64 = 2 << 30;

/// Blocks of leaf hashes that are remembered, 8 KiB each.
const RECALLED_BLOCKS_MAX: usize = 64;

/// One log's waiting records.
pub(super) struct Unproved {
    dir: PathBuf,
    log: LogId,
    writer: SpoolWriter,
    reader: Reader,
    /// Jumps about for leaf hashes, which `reader` must not.
    jumps: Reader,
    /// Leaf hashes of whole blocks that were asked for last, the newest at the end. All proofs under one checkpoint need
    /// its last block, and each jump reads a batch of up to 4 MiB.
    recalled: VecDeque<(u64, Vec<LeafHash>)>,
    first_seq: u64,
    /// Leaf hashes below `first_seq`, back to where its block of 256 begins.
    before: Vec<LeafHash>,
    /// Over all records, waiting ones included.
    tree: Tree,
    waiting_bytes: u64,
    released: Position,
    /// Over the released ones.
    released_tree: Tree,
    /// The checkpoint under which records are released.
    proof: Option<(String, Checkpoint)>,
    /// Further ones, by size.
    notes: BTreeMap<u64, (String, Checkpoint)>,
    /// Since when a note is missed.
    missed_since: Instant,
}

/// What can be done now.
pub(super) enum Step {
    /// The next proved records, in order. Empty: nothing yet.
    Release(Vec<VerifiedFrame>),
    /// The waiting records do not lead to this checkpoint; [`Unproved::discard`] is next.
    Forged(Checkpoint),
}

impl Unproved {
    /// Nothing waits after `position`; `tree` is over all records below it. Removes what was in the folder.
    pub(super) fn open(dir: &Path, log: LogId, position: Position, tree: Tree) -> Result<Self, TrailError> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(TrailError::Clear(error)),
            Ok(()) | Err(_) => {}
        }
        let start = (position.next_seq, position.link);
        let writer = SpoolWriter::open(dir, log, start, SpoolWriter::SEGMENT_BYTES).map_err(TrailError::Spool)?;
        Ok(Self {
            writer: writer.unsynced(),
            dir: dir.to_owned(),
            log,
            reader: Reader::open(dir, position.next_seq)?,
            jumps: Reader::open(dir, position.next_seq)?,
            recalled: VecDeque::new(),
            first_seq: position.next_seq,
            before: tree.tail().to_vec(),
            released_tree: tree.clone(),
            tree,
            waiting_bytes: 0,
            released: position,
            proof: None,
            notes: BTreeMap::new(),
            missed_since: Instant::now(),
        })
    }

    /// Adds linked records. False, and nothing is added, if epoch or time fall: no node writes that.
    pub(super) fn push(&mut self, frames: &[VerifiedFrame]) -> Result<bool, TrailError> {
        let plain: Vec<Frame> = frames.iter().map(|verified| verified.frame.clone()).collect();
        match self.writer.append(&plain) {
            Ok(()) => {}
            Err(JournalError::NotNext { .. }) => return Ok(false),
            Err(error) => return Err(TrailError::Spool(error)),
        }
        for frame in &plain {
            self.tree.push(frame.leaf_hash());
            self.waiting_bytes += frame.payload.len() as u64;
        }
        Ok(true)
    }

    /// Whether more records may wait.
    pub(super) fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES_FREE
            || rustix::fs::statvfs(&self.dir).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > DISK_BYTES_LEFT_MIN)
    }

    /// Takes a checkpoint whose signature was verified.
    pub(super) fn offer(&mut self, note: String, checkpoint: Checkpoint) {
        // One below what is released says nothing new, and the leaf hashes for its root are elsewhere.
        let new = self.proof.as_ref().is_none_or(|(_, proof)| checkpoint.size > proof.size);
        if new && checkpoint.size >= self.released.next_seq {
            self.notes.insert(checkpoint.size, (note, checkpoint));
        }
        if self.notes.len() > NOTES_MAX {
            let newest = self.notes.last_key_value().map(|(size, _)| *size);
            let mut keep = false;
            self.notes.retain(|size, _| {
                keep = !keep;
                keep || Some(*size) == newest
            });
        }
    }

    /// At most `frames_max` records to release. A further checkpoint is looked at when all under the last are released.
    pub(super) fn step(&mut self, frames_max: usize) -> Result<Step, TrailError> {
        if self.left() == 0
            && let Some(disagreeing) = self.prove()?
        {
            return Ok(Step::Forged(disagreeing));
        }
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let mut released = Vec::new();
        for frame in self.reader.next(left.min(frames_max))? {
            let leaf = Leaf::decode(&frame.leaf).expect("what is written here was verified before");
            self.released = Position { next_seq: leaf.seq + 1, link: frame.link() };
            self.released_tree.push(frame.leaf_hash());
            self.waiting_bytes = self.waiting_bytes.saturating_sub(frame.payload.len() as u64);
            released.push(VerifiedFrame { leaf, frame });
        }
        if !released.is_empty() {
            self.missed_since = Instant::now();
            let block_first = self.released.next_seq.saturating_sub(BLOCK_LEAVES);
            self.writer.trim_below(block_first).map_err(TrailError::Spool)?;
        }
        Ok(Step::Release(released))
    }

    /// How many records a note must cover that has been missed for too long: for what waits, or, after a restart, for what
    /// was released before.
    pub(super) fn wants_note(&mut self) -> Option<u64> {
        let released = self.released();
        let waits = self.size() > released;
        let missed = waits || (self.proof.is_none() && released > 0);
        if missed && self.missed_since.elapsed() < NOTE_PATIENCE {
            return None;
        }
        self.missed_since = Instant::now();
        missed.then(|| released + u64::from(waits))
    }

    /// Throws away what was not released. Gives the position to land from.
    pub(super) fn discard(&mut self) -> Result<Position, TrailError> {
        let (proof, notes) = (self.proof.take(), std::mem::take(&mut self.notes));
        let fresh = Self::open(&self.dir, self.log, self.released, self.released_tree.clone())?;
        *self = Self { proof, notes, ..fresh };
        Ok(self.released)
    }

    /// Records below this seq are released.
    pub(super) fn released(&self) -> u64 {
        self.released.next_seq
    }

    /// The checkpoint that covers all that was released.
    pub(super) fn proof(&self) -> Option<&(String, Checkpoint)> {
        self.proof.as_ref()
    }

    /// Records in the tree, waiting ones included.
    pub(super) fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The tree, and leaf hashes of the blocks that are not wholly released.
    pub(super) fn parts(&mut self) -> (&Tree, Blocks<'_>) {
        let Self { tree, before, jumps, recalled, first_seq, released, .. } = self;
        (tree, Blocks { before, jumps, recalled, first_seq: *first_seq, released: released.next_seq })
    }

    /// Records under the checkpoint that are still to be released.
    fn left(&self) -> u64 {
        self.proof.as_ref().map_or(0, |(_, proof)| proof.size.saturating_sub(self.released.next_seq))
    }

    /// Takes the largest checkpoint that agrees; gives the smallest that does not, if there is no such.
    fn prove(&mut self) -> Result<Option<Checkpoint>, TrailError> {
        let reached: Vec<u64> = self.notes.range(..=self.tree.size()).map(|(size, _)| *size).collect();
        // Whatever agrees, all smaller ones do, too.
        for size in reached.iter().rev() {
            if self.agrees(*size)? {
                self.accept(*size);
                return Ok(None);
            }
        }
        let smallest = reached.first().and_then(|size| self.notes.get(size));
        Ok(smallest.map(|(_, checkpoint)| checkpoint.clone()))
    }

    fn agrees(&mut self, size: u64) -> Result<bool, TrailError> {
        let wanted = self.notes.get(&size).map(|(_, checkpoint)| checkpoint.root);
        let (tree, mut blocks) = self.parts();
        let root = tree.root_at(size, |block| blocks.leaf_hashes(block).unwrap_or_else(|| Ok(Vec::new())));
        Ok(Some(root.map_err(TrailError::Waiting)?) == wanted)
    }

    fn accept(&mut self, size: u64) {
        let later = self.notes.split_off(&(size + 1));
        self.proof = std::mem::replace(&mut self.notes, later).remove(&size);
    }
}

/// Where leaf hashes of waiting records come from.
pub(super) struct Blocks<'a> {
    before: &'a [LeafHash],
    jumps: &'a mut Reader,
    recalled: &'a mut VecDeque<(u64, Vec<LeafHash>)>,
    first_seq: u64,
    released: u64,
}

impl Blocks<'_> {
    /// Leaf hashes of a block of 256; None if all of it is released and to be had elsewhere.
    pub(super) fn leaf_hashes(&mut self, block: u64) -> Option<Result<Vec<LeafHash>, ReadError>> {
        let first = block * BLOCK_LEAVES;
        if first + BLOCK_LEAVES <= self.released {
            return None;
        }
        if let Some((_, hashes)) = self.recalled.iter().find(|(known, _)| *known == block) {
            return Some(Ok(hashes.clone()));
        }
        let read = self.read(first);
        if let Ok(hashes) = &read
            && hashes.len() as u64 == BLOCK_LEAVES
        {
            if self.recalled.len() >= RECALLED_BLOCKS_MAX {
                self.recalled.pop_front();
            }
            self.recalled.push_back((block, hashes.clone()));
        }
        Some(read)
    }

    fn read(&mut self, first: u64) -> Result<Vec<LeafHash>, ReadError> {
        let mut hashes = if first < self.first_seq { self.before.to_vec() } else { Vec::new() };
        self.jumps.seek(first.max(self.first_seq));
        let rest = usize::try_from(BLOCK_LEAVES).unwrap_or(usize::MAX).saturating_sub(hashes.len());
        hashes.extend(self.jumps.next(rest)?.iter().map(Frame::leaf_hash));
        Ok(hashes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::land::tests::{chain, extend, log};
    use keytrail_kms::chain::SigningKey;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    fn verified(frames: &[Frame]) -> Vec<VerifiedFrame> {
        frames.iter().map(|frame| VerifiedFrame { leaf: frame.verify().unwrap(), frame: frame.clone() }).collect()
    }

    fn tree_of(frames: &[Frame]) -> Tree {
        let mut tree = Tree::new();
        frames.iter().for_each(|frame| tree.push(frame.leaf_hash()));
        tree
    }

    fn note_over(frames: &[Frame]) -> (String, Checkpoint) {
        let tree = tree_of(frames);
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size: tree.size(), root: tree.root() };
        (SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap().sign(&checkpoint).unwrap(), checkpoint)
    }

    fn offer(unproved: &mut Unproved, frames: &[Frame]) {
        let (note, checkpoint) = note_over(frames);
        unproved.offer(note, checkpoint);
    }

    /// Releases all that can be; None when a checkpoint disagrees.
    fn release(unproved: &mut Unproved) -> Option<Vec<Frame>> {
        let mut released = Vec::new();
        loop {
            match unproved.step(100).unwrap() {
                Step::Forged(_) => return None,
                Step::Release(frames) if frames.is_empty() => return Some(released),
                Step::Release(frames) => released.extend(frames.into_iter().map(|verified| verified.frame)),
            }
        }
    }

    fn after(frames: &[Frame]) -> Position {
        frames.last().map_or(Position::START, |last| Position { next_seq: frames.len() as u64, link: last.link() })
    }

    #[test]
    fn records_are_released_in_order_as_far_as_checkpoints_reach() {
        let dir = tempfile::tempdir().unwrap();
        let frames = chain(1_500, "a");
        // Begins in the middle of a block, as after a restart.
        let (old, new) = frames.split_at(300);
        let mut unproved = Unproved::open(&dir.path().join("log"), log(), after(old), tree_of(old)).unwrap();
        offer(&mut unproved, &frames[..1_000]);
        assert_eq!(release(&mut unproved), Some(vec![]), "nothing is there yet");
        assert!(unproved.push(&verified(&new[..500])).unwrap());
        assert_eq!(release(&mut unproved), Some(vec![]), "the checkpoint is over more than is there");
        offer(&mut unproved, &frames[..310]);
        assert_eq!(release(&mut unproved).unwrap(), frames[300..310]);
        unproved.push(&verified(&new[500..])).unwrap();
        assert_eq!(release(&mut unproved).unwrap(), frames[310..1_000]);
        assert_eq!(unproved.proof().unwrap().1.size, 1_000);
        offer(&mut unproved, &frames[..900]);
        assert_eq!(release(&mut unproved), Some(vec![]), "an older checkpoint says nothing new");
        offer(&mut unproved, &frames);
        assert_eq!(release(&mut unproved).unwrap(), frames[1_000..]);
    }

    #[test]
    fn forged_records_are_never_released_and_genuine_ones_take_their_place() {
        let dir = tempfile::tempdir().unwrap();
        let genuine = chain(700, "a");
        let mut unproved = Unproved::open(&dir.path().join("log"), log(), Position::START, Tree::new()).unwrap();
        unproved.push(&verified(&genuine[..520])).unwrap();
        unproved.push(&verified(&extend(after(&genuine[..520]), 80, "forged"))).unwrap();
        for size in [400, 510, 590] {
            offer(&mut unproved, &genuine[..size]);
        }
        let mut released = Vec::new();
        while let Step::Release(frames) = unproved.step(100).unwrap() {
            released.extend(frames.into_iter().map(|verified| verified.frame));
        }
        assert_eq!(released, genuine[..510], "as far as the last checkpoint that agrees");
        assert_eq!(unproved.discard().unwrap(), after(&genuine[..510]));
        assert_eq!(release(&mut unproved), Some(vec![]));
        unproved.push(&verified(&genuine[510..])).unwrap();
        assert_eq!(release(&mut unproved).unwrap(), genuine[510..590]);
    }

    #[test]
    fn after_a_restart_older_notes_are_passed_over_and_the_last_one_proves_again() {
        let dir = tempfile::tempdir().unwrap();
        let frames = chain(1_100, "a");
        let old = &frames[..1_000];
        let mut unproved = Unproved::open(&dir.path().join("log"), log(), after(old), tree_of(old)).unwrap();
        offer(&mut unproved, &frames[..300]);
        assert_eq!(release(&mut unproved), Some(vec![]));
        assert!(unproved.proof().is_none());
        offer(&mut unproved, old);
        assert_eq!(release(&mut unproved), Some(vec![]));
        assert_eq!(unproved.proof().unwrap().1.size, 1_000);
        unproved.push(&verified(&frames[1_000..])).unwrap();
        offer(&mut unproved, &frames);
        assert_eq!(release(&mut unproved).unwrap(), frames[1_000..]);
    }

    #[test]
    fn a_linked_record_whose_epoch_falls_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let frames = chain(3, "a");
        let mut unproved = Unproved::open(&dir.path().join("log"), log(), Position::START, Tree::new()).unwrap();
        assert!(unproved.push(&verified(&frames)).unwrap());
        let mut odd = extend(after(&frames), 1, "forged").remove(0);
        odd.leaf = Leaf { epoch: 0, ..Leaf::decode(&odd.leaf).unwrap() }.encode();
        assert!(!unproved.push(&verified(&[odd])).unwrap());
        assert_eq!(unproved.size(), 3);
        offer(&mut unproved, &frames);
        assert_eq!(release(&mut unproved).unwrap(), frames);
    }

    #[test]
    fn notes_for_sizes_far_ahead_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut unproved = Unproved::open(&dir.path().join("log"), log(), Position::START, Tree::new()).unwrap();
        let (note, checkpoint) = note_over(&chain(1, "a"));
        for size in 0..3 * NOTES_MAX as u64 {
            unproved.offer(note.clone(), Checkpoint { size: size + 1, ..checkpoint.clone() });
        }
        assert!(unproved.notes.len() <= NOTES_MAX);
        assert_eq!(unproved.notes.keys().next_back(), Some(&(3 * NOTES_MAX as u64)), "the newest is kept");
    }
}
