//! Reads a journal or spool in seq order, also while another process writes it.
//!
//! Nothing at or above `journal/head` is ever looked at, so whatever is read is whole; anything bad below it is damage
//! and an error. Batch digests are checked here, links by whoever lands the frames.

use super::base::Base;
use super::batch::{self, BatchHeader};
use super::error::{JournalError, ReadError};
use super::frame::Frame;
use super::head::{HEAD_NAME, HeadFile};
use super::segment::{self, FIRST_BATCH_AT, Segment, Slot};
use crate::chain::leaf::LeafHash;
use crate::chain::tile::{TILE_WIDTH, Tile, TileKind, decode_hashes};
use crate::chain::tree::BLOCK_LEAVES;
use crate::tiles::TileFiles;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Indexed segments kept in memory by a reader that jumps about.
const INDEXES_MAX: usize = 4;

/// A position in a journal that moves forward.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    head: HeadFile,
    /// Seq of the next frame handed out.
    next_seq: u64,
    /// Frames read but not handed out.
    ready: VecDeque<Frame>,
    place: Option<Place>,
    indexes: VecDeque<Index>,
}

/// Where the next batch stands.
#[derive(Debug)]
struct Place {
    segment: Segment,
    offset: u64,
    /// Number and previous digest that it must carry; None right after a jump.
    expect: Option<(u64, [u8; 32])>,
    next_seq: u64,
}

/// Batches of one segment: (first seq, offset), ascending.
#[derive(Debug)]
struct Index {
    number: u64,
    batches: Vec<(u64, u64)>,
    /// Where to look for more.
    end: u64,
}

impl Reader {
    /// A reader whose first frame has seq `from_seq`, which may not be written yet.
    pub fn open(dir: &Path, from_seq: u64) -> Result<Self, ReadError> {
        let head = HeadFile::open_read(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => JournalError::Absent { path: dir.to_owned() },
            _ => JournalError::io("open", &dir.join(HEAD_NAME))(error),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            head,
            next_seq: from_seq,
            ready: VecDeque::new(),
            place: None,
            indexes: VecDeque::new(),
        })
    }

    /// Up to `frames_max` durable frames in seq order; none when there is nothing new.
    pub fn next(&mut self, frames_max: usize) -> Result<Vec<Frame>, ReadError> {
        let mut frames = Vec::new();
        let mut durable = None;
        while frames.len() < frames_max {
            if let Some(frame) = self.ready.pop_front() {
                self.next_seq += 1;
                frames.push(frame);
                continue;
            }
            let durable = match durable {
                Some(durable) => durable,
                None => *durable.insert(self.durable()?),
            };
            if self.next_seq >= durable {
                break;
            }
            self.load(durable)?;
        }
        Ok(frames)
    }

    /// Seq of the frame that comes next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Jumps.
    pub fn seek(&mut self, seq: u64) {
        if let Some(skip) = seq.checked_sub(self.next_seq)
            && let Ok(skip) = usize::try_from(skip)
            && skip < self.ready.len()
        {
            self.ready.drain(..skip);
        } else {
            self.ready.clear();
            self.place = None;
        }
        self.next_seq = seq;
    }

    /// Seq of the first record that a node's own journal holds: 0 unless it was pruned.
    pub fn first_seq(&self) -> Result<u64, ReadError> {
        Ok(Base::read(&self.dir)?.map_or(0, |base| base.first_seq()))
    }

    /// Seq after the last durable record.
    pub fn durable(&self) -> Result<u64, ReadError> {
        self.head.read().map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                JournalError::Head { path: self.dir.join(HEAD_NAME) }
            }
            _ => JournalError::io("read", &self.dir.join(HEAD_NAME))(error),
        })
    }

    /// Leaf hashes of the block of 256 leaves numbered `block`, as far as they are durable.
    pub fn leaf_hashes(&mut self, block: u64) -> Result<Vec<LeafHash>, ReadError> {
        let first = block * BLOCK_LEAVES;
        let mut hashes = self.pruned_hashes(block)?;
        if hashes.len() as u64 == BLOCK_LEAVES {
            return Ok(hashes);
        }
        let count = usize::try_from(BLOCK_LEAVES).unwrap_or(usize::MAX) - hashes.len();
        self.seek(first + hashes.len() as u64);
        hashes.extend(self.next(count)?.iter().map(Frame::leaf_hash));
        Ok(hashes)
    }

    /// The hashes of the pruned records in a block: of the one that the beginning of a pruned journal cuts from `start`, of
    /// whole ones below from the tiles beside the journal. Nothing here is checked: a tree compares each whole block.
    fn pruned_hashes(&self, block: u64) -> Result<Vec<LeafHash>, ReadError> {
        // Only a block that is not whole any more needs the file.
        if segment::list(&self.dir)?.first().is_none_or(|number| *number == 0) {
            return Ok(Vec::new());
        }
        let Some(base) = Base::read(&self.dir)? else { return Ok(Vec::new()) };
        match block.cmp(&(base.first_seq() / BLOCK_LEAVES)) {
            Ordering::Greater => Ok(Vec::new()),
            Ordering::Equal => Ok(base.tree.tail().to_vec()),
            Ordering::Less => {
                let tile = Tile { kind: TileKind::Hashes(0), index: block, width: TILE_WIDTH };
                let kept = self.dir.parent().and_then(|data| TileFiles::of(data).read(tile).ok().flatten());
                let hashes = kept.and_then(|bytes| decode_hashes(&bytes).ok());
                let hashes = hashes.map(|hashes| hashes.into_iter().map(LeafHash).collect());
                let (seq, first, next) = (block * BLOCK_LEAVES, base.first_seq(), base.first_seq());
                hashes.ok_or(ReadError::NoSuchSeq { seq, first, next })
            }
        }
    }

    /// Reads the batch that holds `next_seq`.
    fn load(&mut self, durable: u64) -> Result<(), ReadError> {
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.find(durable)?,
        };
        loop {
            let slot = place.segment.slot(place.offset)?;
            match slot {
                Slot::Batch(header, body) => {
                    place.check(&header)?;
                    let frames = batch::frames(&header, &body).map_err(|found| place.damaged(found))?;
                    let skip = usize::try_from(self.next_seq.saturating_sub(header.first_seq)).unwrap_or(usize::MAX);
                    self.ready.extend(frames.into_iter().skip(skip));
                    place.step(&header);
                    self.place = Some(place);
                    return Ok(());
                }
                Slot::Bad(found) => return Err(place.damaged(found)),
                Slot::Empty => {
                    if place.offset == FIRST_BATCH_AT {
                        return Err(place.damaged("durable records are missing"));
                    }
                    let number = place.segment.number + 1;
                    place.segment = Segment::open(&self.dir, number, false)?;
                    place.offset = FIRST_BATCH_AT;
                }
            }
        }
    }

    /// Finds the batch that holds `next_seq`, which is durable.
    fn find(&mut self, durable: u64) -> Result<Place, ReadError> {
        let numbers = segment::list(&self.dir)?;
        let wanted = self.next_seq;
        // Segments ascend in first seq; one without a batch yet counts as beyond.
        let first_of = |number: u64| -> Result<Option<u64>, ReadError> {
            let header = Segment::open(&self.dir, number, false)?.header_at(FIRST_BATCH_AT)?;
            Ok(header.map(|header| header.first_seq))
        };
        let (mut low, mut high) = (0, numbers.len());
        while low < high {
            let middle = low.midpoint(high);
            let number = numbers.get(middle).copied().unwrap_or_default();
            if first_of(number)?.is_some_and(|first| first <= wanted) { low = middle + 1 } else { high = middle }
        }
        let Some(number) = low.checked_sub(1).and_then(|at| numbers.get(at)).copied() else {
            let first = numbers.first().copied().map(first_of).transpose()?.flatten().unwrap_or(durable);
            return Err(JournalError::NoSuchSeq { seq: wanted, first, next: durable });
        };
        let segment = Segment::open(&self.dir, number, false)?;
        let index = self.index(&segment, wanted)?;
        let at = index.batches.partition_point(|(first, _)| *first <= wanted);
        let offset = at.checked_sub(1).and_then(|at| index.batches.get(at)).map_or(FIRST_BATCH_AT, |(_, at)| *at);
        let mut place = Place { segment, offset, expect: None, next_seq: wanted };
        let header = place.segment.header_at(offset)?.ok_or_else(|| place.damaged("batch header is damaged"))?;
        if header.next_seq() <= wanted {
            return Err(place.damaged("durable records are missing"));
        }
        place.next_seq = header.first_seq;
        Ok(place)
    }

    /// The index of a segment, grown until it reaches beyond `wanted` or the segment's last batch.
    fn index(&mut self, segment: &Segment, wanted: u64) -> Result<&Index, ReadError> {
        let at = self.indexes.iter().position(|index| index.number == segment.number);
        let mut index = match at.and_then(|at| self.indexes.remove(at)) {
            Some(index) => index,
            None => Index { number: segment.number, batches: Vec::new(), end: FIRST_BATCH_AT },
        };
        while index.batches.last().is_none_or(|(first, _)| *first <= wanted) {
            let Some(header) = segment.header_at(index.end)? else { break };
            // Above the head a batch may still be in the making: never beyond what is wanted, which is below it.
            if header.first_seq > wanted {
                break;
            }
            index.batches.push((header.first_seq, index.end));
            index.end += header.disk_bytes();
        }
        if self.indexes.len() >= INDEXES_MAX {
            self.indexes.pop_front();
        }
        self.indexes.push_back(index);
        Ok(self.indexes.back().expect("one was pushed"))
    }
}

impl Place {
    fn check(&self, header: &BatchHeader) -> Result<(), ReadError> {
        let continues = self.expect.is_none_or(|expect| expect == (header.number, header.prev));
        if continues && header.first_seq == self.next_seq {
            return Ok(());
        }
        Err(self.damaged("batch does not continue the batch before"))
    }

    fn step(&mut self, header: &BatchHeader) {
        self.expect = Some((header.number + 1, header.digest()));
        self.next_seq = header.next_seq();
        self.offset += header.disk_bytes();
    }

    fn damaged(&self, found: &str) -> ReadError {
        JournalError::Damaged {
            path: self.segment.path.clone(),
            offset: self.offset,
            seq: self.next_seq,
            found: found.to_owned(),
        }
    }
}

/// Durable frames from seq `first` on, at most `count`; fewer where the durable journal ends.
pub fn read_range(dir: &Path, first: u64, count: usize) -> Result<Vec<Frame>, ReadError> {
    Reader::open(dir, first)?.next(count)
}

/// Leaf hashes of the block of 256 leaves numbered `block`: what [`crate::chain::Tree::inclusion_proof`] asks for.
/// Whoever asks often keeps a [`Reader`], which remembers where batches are.
pub fn leaf_hashes(dir: &Path, block: u64) -> Result<Vec<LeafHash>, ReadError> {
    Reader::open(dir, 0)?.leaf_hashes(block)
}
