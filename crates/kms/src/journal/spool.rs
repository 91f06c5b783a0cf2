//! The trail's spool in Kafka mode: frames that already have their seqs, kept in the journal's own format.
//!
//! One folder per log. Frames are durable before the Kafka offset is committed, the same `Reader` reads them, and on
//! start the spool says where to go on. Unlike a journal it may begin at any seq, and gives up its oldest segments.

use super::append::JournalOptions;
use super::batch::{BatchBuffer, LONE_RECORD_BYTES_MAX, record_bytes};
use super::error::JournalError;
use super::frame::Frame;
use super::recovery::{self, Opened};
use super::segment::{self, FIRST_BATCH_AT, SEGMENT_BYTES_MAX, Segment, Zeros};
use super::walk::{Chain, Start};
use super::writer::Writer;
use crate::chain::leaf::{Link, LogId};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// A spool open for appending.
pub struct SpoolWriter {
    dir: PathBuf,
    segment_bytes: u64,
    writer: Writer,
    spares: VecDeque<Segment>,
    chain: Chain,
    buffer: BatchBuffer,
}

impl SpoolWriter {
    /// Length of a spool's segments: smaller than a journal's, because they are prepared while frames wait.
    pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

    /// Opens (or creates) the spool of `log` in `dir`. An empty spool waits for seq `start.0` carrying link `start.1`;
    /// one with frames goes on after its last frame whatever `start` says.
    pub fn open(dir: &Path, log: LogId, start: (u64, Link), segment_bytes: u64) -> Result<Self, JournalError> {
        let smallest = FIRST_BATCH_AT + LONE_RECORD_BYTES_MAX;
        if !segment_bytes.is_multiple_of(4_096) || !(smallest..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(JournalError::Options("segment_bytes is not a multiple of 4096 from 270336 up to 1 GiB"));
        }
        let empty = Chain::at(log, start.0, start.1);
        let opened = recovery::open(dir, empty, Start::Anywhere, segment_bytes, false)?;
        let Opened { writer, spares, chain, .. } = opened;
        Ok(Self { dir: dir.to_owned(), segment_bytes, writer, spares, chain, buffer: BatchBuffer::default() })
    }

    /// The same without syncing anything, for frames that a restart throws away.
    pub fn unsynced(mut self) -> Self {
        self.writer.fdatasync = false;
        self
    }

    /// Seq of the next frame to be given.
    pub fn next_seq(&self) -> u64 {
        self.chain.next_seq
    }

    /// Link that the next frame must carry.
    pub fn link(&self) -> Link {
        self.chain.link
    }

    /// Time of the last frame in Unix microseconds; 0 in an empty spool.
    pub fn time_us(&self) -> u64 {
        self.chain.time_us
    }

    /// Verifies that `frames` continue the chain and makes them durable. Nothing is written if one does not continue
    /// it. After an I/O error other than a full disk the spool must be opened anew.
    pub fn append(&mut self, frames: &[Frame]) -> Result<(), JournalError> {
        let mut chain = self.chain;
        for frame in frames {
            let seq = chain.next_seq;
            chain.accept(frame).map_err(|found| JournalError::NotNext { seq, found: found.to_owned() })?;
        }
        let mut rest = frames;
        while !rest.is_empty() {
            let taken = self.fill(rest)?;
            let first_seq = self.chain.next_seq;
            let (batch, later) = rest.split_at(taken);
            self.writer.write(&mut self.buffer, first_seq, first_seq + taken as u64)?;
            for frame in batch {
                self.chain.accept(frame).expect("frames were checked before the first was written");
            }
            rest = later;
        }
        Ok(())
    }

    /// Deletes segments all of whose frames are below `seq`, never the one being written. Returns how many.
    pub fn trim_below(&mut self, seq: u64) -> Result<usize, JournalError> {
        let current = self.writer.segment_number();
        let mut removed = 0;
        for pair in segment::list(&self.dir)?.windows(2) {
            let &[number, after] = pair else { continue };
            if after > current {
                break;
            }
            // A segment ends where the next begins; an unused next one says nothing.
            let next_first = Segment::open(&self.dir, after, false)?.header_at(FIRST_BATCH_AT)?;
            if next_first.is_none_or(|header| header.first_seq > seq) {
                break;
            }
            let path = segment::segment_path(&self.dir, number);
            std::fs::remove_file(&path).map_err(JournalError::io("remove", &path))?;
            // In order and one by one, so that a crash never leaves a hole.
            if self.writer.fdatasync {
                segment::sync_dir(&self.dir)?;
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// Puts as many frames as fit into the batch buffer, at least one.
    fn fill(&mut self, frames: &[Frame]) -> Result<usize, JournalError> {
        let batch_bytes_max = JournalOptions::default().batch_bytes_max;
        let first_bytes = frames.first().map_or(0, |frame| record_bytes(frame.payload.len()));
        if !self.writer.fits(first_bytes) {
            let next = match self.spares.pop_front() {
                Some(spare) => spare,
                None => {
                    let number = self.writer.segment_number() + 1;
                    let zeros = if self.writer.fdatasync { Zeros::Reserved } else { Zeros::Sparse };
                    Segment::make(&self.dir, self.chain.log, number, self.segment_bytes, zeros)?
                }
            };
            self.writer.switch(next);
        }
        self.buffer.clear();
        let (mut taken, mut bytes) = (0, 0);
        for frame in frames {
            bytes += record_bytes(frame.payload.len());
            if taken > 0 && (bytes > batch_bytes_max || !self.writer.fits(bytes)) {
                break;
            }
            self.buffer.push(&frame.leaf, &frame.salt, &frame.payload);
            taken += 1;
        }
        Ok(taken)
    }
}
