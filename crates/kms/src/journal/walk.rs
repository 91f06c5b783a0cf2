//! Walks a journal from its first batch to its last, checking everything that is hashed.
//!
//! Recovery and the verifier both go this way, so they cannot disagree about what an intact journal is. The walk reads
//! only; what to do about a torn end is the caller's decision.

use super::base::Base;
use super::batch::{self, BatchHeader};
use super::error::JournalError;
use super::frame::Frame;
use super::segment::{self, FIRST_BATCH_AT, Segment, Slot};
use crate::chain::leaf::{Kind, Leaf, LeafHash, Link, LogId};
use crate::chain::transition::{TRANSITION_BYTES_MAX, TRANSITIONS_MAX};
use crate::chain::tree::Tree;
use bytes::Bytes;
use std::path::Path;

/// Where a journal or spool begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At seq 0 in segment 0, or where `journal/start` and a prune record say: a node's own journal.
    Genesis,
    /// Wherever the first batch says: a trimmed spool. Only what follows is proved.
    Anywhere,
}

/// The state of one log's chain after some record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which log.
    pub log: LogId,
    /// Seq of the next record.
    pub next_seq: u64,
    /// Link that the next record must carry.
    pub link: Link,
    /// Time of the last record; the next is not earlier.
    pub time_us: u64,
    /// Epoch of the last record; the next is not lower. 0 before the first.
    pub epoch: u64,
}

impl Chain {
    /// The chain before seq 0.
    pub fn genesis(log: LogId) -> Self {
        Self::at(log, 0, Link::ZERO)
    }

    /// The chain before `next_seq`, whose record must carry `link`.
    pub fn at(log: LogId, next_seq: u64, link: Link) -> Self {
        Self { log, next_seq, link, time_us: 0, epoch: 0 }
    }

    /// Checks the next record and steps over it. The error says what is wrong; the chain then stays where it was.
    pub fn accept(&mut self, frame: &Frame) -> Result<Leaf, &'static str> {
        let leaf = frame.verify().map_err(|_| "payload does not match its leaf")?;
        if leaf.log != self.log {
            return Err("record belongs to another log");
        }
        if leaf.seq != self.next_seq {
            return Err("seq is not the next one");
        }
        if leaf.prev != self.link {
            return Err("link to the record before is broken");
        }
        if leaf.epoch < self.epoch || leaf.epoch == 0 {
            return Err("epoch falls");
        }
        if leaf.time_us < self.time_us {
            return Err("time falls");
        }
        *self = Self {
            log: self.log,
            next_seq: leaf.seq + 1,
            link: frame.link(),
            time_us: leaf.time_us,
            epoch: leaf.epoch,
        };
        Ok(leaf)
    }
}

/// A batch that holds together and continues the one before.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) header: BatchHeader,
    /// Records with their leaves decoded and leaf hashes.
    pub(crate) records: Vec<(Leaf, LeafHash, Frame)>,
}

/// One step of the walk.
#[derive(Debug)]
pub(crate) enum Step {
    Batch(Walked),
    End(Tail),
}

/// Where the batches end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Index of the segment in which the next batch goes.
    pub(crate) index: usize,
    /// Offset in it.
    pub(crate) offset: u64,
    /// What is wrong there, if it is not clean: a torn last batch.
    pub(crate) torn: Option<&'static str>,
}

/// The walk.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) segments: Vec<Segment>,
    start: Start,
    index: usize,
    offset: u64,
    /// Number of the next batch.
    pub(crate) next_batch: u64,
    /// Digest of the batch before it.
    pub(crate) prev: [u8; 32],
    /// The chain after the records walked so far.
    pub(crate) chain: Chain,
    /// Where a pruned journal begins.
    pub(crate) base: Option<Base>,
    /// A prune record proves the base, or none is needed.
    base_proved: bool,
    /// Key transitions so far, seq and payload; one that is too long to be any is there without its payload.
    pub(crate) transitions: Vec<(u64, Bytes)>,
}

impl Walk {
    /// Opens all segments in `dir`. With `log`, segments of another log are refused; without, the first decides.
    pub(crate) fn open(dir: &Path, log: Option<LogId>, start: Start, write: bool) -> Result<Self, JournalError> {
        loop {
            let base = if start == Start::Genesis { Base::read(dir)? } else { None };
            let began = base.as_ref().map(Base::first_seq);
            match Self::open_at(dir, log, start, write, base) {
                // The node may prune while others read.
                Err(JournalError::MissingSegment { .. })
                    if start == Start::Genesis && Base::read(dir)?.map(|base| base.first_seq()) != began => {}
                opened => return opened,
            }
        }
    }

    fn open_at(
        dir: &Path,
        log: Option<LogId>,
        start: Start,
        write: bool,
        base: Option<Base>,
    ) -> Result<Self, JournalError> {
        let first = base.as_ref().map_or(0, |base| base.segment);
        let mut numbers = segment::list(dir)?;
        if start == Start::Genesis {
            // A crash may have come between `start` and the end of the last segment below.
            numbers.retain(|number| *number >= first);
            if numbers.first().map_or(base.is_some(), |number| *number != first) {
                return Err(JournalError::MissingSegment { path: segment::segment_path(dir, first) });
            }
        }
        let mut segments = Vec::with_capacity(numbers.len());
        for number in numbers {
            segments.push(Segment::open(dir, number, write)?);
        }
        let expected = log
            .or(base.as_ref().map(|base| base.chain.log))
            .or(segments.first().map(|segment| segment.log))
            .ok_or_else(|| JournalError::Absent { path: dir.to_owned() })?;
        if let Some(foreign) = segments.iter().find(|segment| segment.log != expected) {
            return Err(JournalError::ForeignLog { path: foreign.path.clone(), found: foreign.log, expected });
        }
        if let Some(base) = base.as_ref().filter(|base| base.chain.log != expected) {
            let path = dir.join(super::base::START_NAME);
            return Err(JournalError::ForeignLog { path, found: base.chain.log, expected });
        }
        let chain = base.as_ref().map_or(Chain::genesis(expected), |base| base.chain);
        let (next_batch, prev) = base.as_ref().map_or((0, [0; 32]), |base| (base.batch, base.prev));
        let base_proved = base.is_none();
        let (index, offset, transitions) = (0, FIRST_BATCH_AT, Vec::new());
        Ok(Self { segments, start, index, offset, next_batch, prev, chain, base, base_proved, transitions })
    }

    /// The tree over what was pruned; empty for a journal that begins at 0.
    pub(crate) fn base_tree(&self) -> Tree {
        self.base.as_ref().map_or_else(Tree::new, |base| base.tree.clone())
    }

    /// To be asked at the end: whether a record says that the journal may begin where it does.
    pub(crate) fn check_base(&self) -> Result<(), JournalError> {
        match &self.base {
            Some(base) if !self.base_proved => Err(JournalError::Unrecorded { first: base.first_seq() }),
            Some(_) | None => Ok(()),
        }
    }

    /// The next batch, or the end. An error means damage that no crash explains.
    pub(crate) fn step(&mut self) -> Result<Step, JournalError> {
        loop {
            let Some(segment) = self.segments.get(self.index) else {
                return Ok(Step::End(Tail { index: 0, offset: FIRST_BATCH_AT, torn: None }));
            };
            match segment.slot(self.offset)? {
                Slot::Batch(header, body) => return self.enter(header, &body).map(Step::Batch),
                slot => {
                    let torn = if let Slot::Bad(found) = slot { Some(found) } else { None };
                    if let Some(tail) = self.end_of_segment(torn)? {
                        return Ok(Step::End(tail));
                    }
                    (self.index, self.offset) = (self.index + 1, FIRST_BATCH_AT);
                }
            }
        }
    }

    /// The next batch if a whole one stands there, without judging what stands there otherwise. For the verifier, which
    /// looks beyond the durable records of a journal that may be written to at this moment.
    pub(crate) fn step_if_whole(&mut self) -> Result<Option<Walked>, JournalError> {
        while let Some(segment) = self.segments.get(self.index) {
            match segment.slot(self.offset)? {
                Slot::Batch(header, body) => return self.enter(header, &body).map(Some),
                Slot::Bad(_) => return Ok(None),
                Slot::Empty => {
                    // A writer may fill this segment after the look at it: only the very next batch counts.
                    let Some(next) = self.segments.get(self.index + 1) else { return Ok(None) };
                    if next.header_at(FIRST_BATCH_AT)?.is_none_or(|header| header.number != self.next_batch) {
                        return Ok(None);
                    }
                    (self.index, self.offset) = (self.index + 1, FIRST_BATCH_AT);
                }
            }
        }
        Ok(None)
    }

    /// Decides whether the batches end here. `None`: they go on in the next segment.
    fn end_of_segment(&self, torn: Option<&'static str>) -> Result<Option<Tail>, JournalError> {
        let Some(segment) = self.segments.get(self.index) else { return Ok(None) };
        let rest = segment.rest(self.offset)?;
        if let Some((at, number)) = rest.header.filter(|(at, _)| *at > self.offset) {
            let what = torn.unwrap_or("batch is gone");
            return Err(self.damaged(format!("{what}, while batch {number} stands at byte {at} of the same segment")));
        }
        let later = self.first_used_after(self.index)?;
        let Some((later_index, number)) = later else {
            let torn = torn.or(rest.nonzero_at.map(|_| "batch header never reached the disk"));
            return Ok(Some(Tail { index: self.index, offset: self.offset, torn }));
        };
        if torn.is_some() || rest.nonzero_at.is_some() {
            let what = torn.unwrap_or("bytes after the last batch of a segment are not zero");
            return Err(self.damaged(match number {
                Some(number) => format!("{what}, while batch {number} stands in a later segment"),
                None => format!("{what}, while a later segment has been written to"),
            }));
        }
        if later_index != self.index + 1 {
            return Err(self.damaged("the next segment is empty although a later one is not".to_owned()));
        }
        Ok(None)
    }

    /// The first segment after `index` that is not all zeros, and the highest batch number in it.
    fn first_used_after(&self, index: usize) -> Result<Option<(usize, Option<u64>)>, JournalError> {
        for (later, segment) in self.segments.iter().enumerate().skip(index + 1) {
            // Most segments start with a batch: no need to read all 64 MiB to know that they are used.
            if let Some(header) = segment.header_at(FIRST_BATCH_AT)? {
                return Ok(Some((later, Some(header.number))));
            }
            let rest = segment.rest(FIRST_BATCH_AT)?;
            if rest.nonzero_at.is_some() {
                return Ok(Some((later, rest.header.map(|(_, number)| number))));
            }
        }
        Ok(None)
    }

    fn enter(&mut self, header: BatchHeader, body: &Bytes) -> Result<Walked, JournalError> {
        let trusting = self.start == Start::Anywhere && self.index == 0 && self.offset == FIRST_BATCH_AT;
        if trusting {
            (self.next_batch, self.prev) = (header.number, header.prev);
        }
        if header.number != self.next_batch {
            return Err(self.damaged(format!("batch {} stands where batch {} belongs", header.number, self.next_batch)));
        }
        if header.prev != self.prev {
            return Err(self.damaged("batch does not continue the batch before".to_owned()));
        }
        let frames = batch::frames(&header, body).map_err(|found| self.damaged(found.to_owned()))?;
        if trusting && let Some(first) = frames.first().and_then(|frame| Leaf::decode(&frame.leaf).ok()) {
            self.chain = Chain::at(self.chain.log, first.seq, first.prev);
        }
        let mut records = Vec::with_capacity(frames.len());
        for frame in frames {
            let leaf = self.chain.accept(&frame).map_err(|found| self.damaged(found.to_owned()))?;
            if leaf.kind == Kind::Prune && !self.base_proved {
                self.base_proved = self.base.as_ref().is_some_and(|base| base.is_of(&frame.payload));
            }
            if leaf.kind == Kind::KeyTransition && self.transitions.len() <= TRANSITIONS_MAX {
                let fits = frame.payload.len() <= TRANSITION_BYTES_MAX;
                self.transitions.push((leaf.seq, if fits { frame.payload.clone() } else { Bytes::new() }));
            }
            records.push((leaf, frame.leaf_hash(), frame));
        }
        self.next_batch += 1;
        self.prev = header.digest();
        self.offset += header.disk_bytes();
        Ok(Walked { header, records })
    }

    /// Number of the segment in which the walk stands, and the offset behind the last batch there.
    #[cfg(feature = "server")]
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.segments.get(self.index).map_or(0, |segment| segment.number), self.offset)
    }

    pub(crate) fn damaged(&self, found: String) -> JournalError {
        let path = self.segments.get(self.index).map(|segment| segment.path.clone()).unwrap_or_default();
        JournalError::Damaged { path, offset: self.offset, seq: self.chain.next_seq, found }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::batch::BatchBuffer;
    use super::*;
    use crate::chain::leaf;
    use std::os::unix::fs::FileExt;

    fn log() -> LogId {
        LogId::of_origin("keytrail/test/node-0123456789abcdef")
    }

    fn leaf_after(chain: &Chain) -> Leaf {
        Leaf {
            log: chain.log,
            epoch: chain.epoch.max(1),
            seq: chain.next_seq,
            kind: Kind::Event,
            time_us: chain.time_us,
            payload_len: 2,
            payload_digest: leaf::payload_digest(&[7; 16], b"{}"),
            prev: chain.link,
        }
    }

    fn frame(leaf: &Leaf) -> Frame {
        Frame { leaf: leaf.encode(), salt: [7; 16], payload: Bytes::from_static(b"{}") }
    }

    /// Everything that a forger with the right digests could change in a record.
    fn forgeries(chain: &Chain) -> Vec<(Frame, &'static str)> {
        let good = leaf_after(chain);
        let mut forged = vec![
            (frame(&Leaf { log: LogId([0; 16]), ..good }), "another log"),
            (frame(&Leaf { seq: good.seq + 1, ..good }), "seq"),
            (frame(&Leaf { prev: Link([1; 32]), ..good }), "link"),
            (frame(&Leaf { epoch: good.epoch - 1, ..good }), "epoch"),
            (frame(&Leaf { time_us: good.time_us - 1, ..good }), "time"),
            (frame(&Leaf { payload_len: 3, ..good }), "payload"),
        ];
        forged.push((Frame { payload: Bytes::from_static(b"[]"), ..frame(&good) }, "payload"));
        forged.push((Frame { salt: [8; 16], ..frame(&good) }, "payload"));
        forged
    }

    #[test]
    fn a_chain_accepts_the_next_record_only() {
        let mut chain = Chain { time_us: 10, epoch: 2, ..Chain::genesis(log()) };
        for _ in 0..3 {
            for (forged, what) in forgeries(&chain) {
                let before = chain;
                let refused = chain.accept(&forged).unwrap_err();
                assert!(refused.contains(what), "{refused} for {what}");
                assert_eq!(chain, before);
            }
            let next = frame(&leaf_after(&chain));
            chain.accept(&next).unwrap();
            assert!(chain.accept(&next).is_err(), "not twice");
        }
        assert_eq!(chain.next_seq, 3);
    }

    /// Writes each list of frames as one batch with right digests, whatever is in it.
    fn forge(dir: &Path, batches: &[Vec<Frame>], first_number: u64, first_prev: [u8; 32]) {
        let segment = Segment::prepare(dir, log(), 0, 270_336).unwrap();
        let (mut offset, mut prev, mut buffer) = (FIRST_BATCH_AT, first_prev, BatchBuffer::default());
        for (number, frames) in (first_number..).zip(batches) {
            buffer.clear();
            frames.iter().for_each(|frame| buffer.push(&frame.leaf, &frame.salt, &frame.payload));
            let first = Leaf::decode(&frames[0].leaf).unwrap().seq;
            let (header, bytes) = buffer.close(number, first, prev);
            segment.file.write_all_at(bytes, offset).unwrap();
            (offset, prev) = (offset + header.disk_bytes(), header.digest());
        }
    }

    fn walk_all(dir: &Path) -> Result<u64, JournalError> {
        let mut walk = Walk::open(dir, None, Start::Genesis, false)?;
        while let Step::Batch(_) = walk.step()? {}
        Ok(walk.chain.next_seq)
    }

    #[test]
    fn a_forged_record_in_a_batch_with_right_digests_is_damage() {
        let mut chain = Chain::genesis(log());
        let start = Leaf { time_us: 10, epoch: 2, ..leaf_after(&chain) };
        let first = frame(&start);
        chain.accept(&first).unwrap();
        let good = tempfile::tempdir().unwrap();
        forge(good.path(), &[vec![first.clone()], vec![frame(&leaf_after(&chain))]], 0, [0; 32]);
        assert_eq!(walk_all(good.path()).unwrap(), 2);
        for (forged, what) in forgeries(&chain) {
            let dir = tempfile::tempdir().unwrap();
            forge(dir.path(), &[vec![first.clone()], vec![forged]], 0, [0; 32]);
            let error = walk_all(dir.path()).unwrap_err();
            assert!(matches!(error, JournalError::Damaged { seq: 1, .. }), "{what}: {error}");
        }
        for (number, prev, what) in [(1, [0; 32], "batch number"), (0, [1; 32], "digest of the batch before")] {
            let dir = tempfile::tempdir().unwrap();
            forge(dir.path(), &[vec![first.clone()]], number, prev);
            assert!(matches!(walk_all(dir.path()), Err(JournalError::Damaged { seq: 0, .. })), "{what}");
        }
    }
}
