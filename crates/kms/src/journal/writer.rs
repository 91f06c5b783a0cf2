//! The writing end shared by the journal's appender and the trail's spool: batches into segments, then fdatasync.
//!
//! It knows nothing of callers, queues or time. Batch n+1 is not written before the fdatasync of batch n returned,
//! because both happen in [`Writer::write`].

use super::batch::{BatchBuffer, disk_bytes};
use super::error::JournalError;
use super::head::HeadFile;
use super::segment::{FIRST_BATCH_AT, Segment};
use super::walk::Tail;
use std::os::unix::fs::FileExt;

/// A journal opened for appending.
#[derive(Debug)]
pub(crate) struct Writer {
    segment: Segment,
    offset: u64,
    next_batch: u64,
    prev: [u8; 32],
    head: HeadFile,
    /// False for frames that a restart throws away, and in benches that compare with a journal nobody waits for.
    pub(crate) fdatasync: bool,
}

impl Writer {
    /// Continues at the end of `segment`'s batches.
    pub(crate) fn new(segment: Segment, tail: Tail, next_batch: u64, prev: [u8; 32], head: HeadFile) -> Self {
        Self { segment, offset: tail.offset, next_batch, prev, head, fdatasync: true }
    }

    /// Bytes left in the segment.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.segment.bytes - self.offset
    }

    /// Whether a batch with a body of `body_bytes` fits into the segment.
    pub(crate) fn fits(&self, body_bytes: usize) -> bool {
        disk_bytes(body_bytes as u64) <= self.room_bytes()
    }

    /// Goes on in a freshly prepared segment.
    pub(crate) fn switch(&mut self, next: Segment) {
        self.segment = next;
        self.offset = FIRST_BATCH_AT;
    }

    /// The number of the segment written to.
    pub(crate) fn segment_number(&self) -> u64 {
        self.segment.number
    }

    /// Writes the batch and makes it durable, then publishes `next_seq` in the head file. Any error is fatal: after a
    /// failed fdatasync the kernel may have dropped the pages, so nobody can say what is on the disk.
    pub(crate) fn write(
        &mut self,
        buffer: &mut BatchBuffer,
        first_seq: u64,
        next_seq: u64,
    ) -> Result<(), JournalError> {
        let path = &self.segment.path;
        if !self.segment.is_linked().map_err(JournalError::io("look for", path))? {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(JournalError::io("append to deleted or replaced", path)(gone));
        }
        let (header, bytes) = buffer.close(self.next_batch, first_seq, self.prev);
        crash_point("journal::before_write");
        self.segment.file.write_all_at(bytes, self.offset).map_err(JournalError::io("append to", path))?;
        crash_point("journal::after_write");
        self.sync()?;
        self.prev = header.digest();
        self.next_batch += 1;
        self.offset += header.disk_bytes();
        crash_point("journal::before_head");
        self.head.write(next_seq).map_err(JournalError::io("write the head beside", &self.segment.path))
    }

    fn sync(&self) -> Result<(), JournalError> {
        crash_point("journal::before_fdatasync");
        fail::fail_point!("journal::fdatasync", |_| {
            Err(JournalError::io("sync", &self.segment.path)(std::io::Error::other("injected")))
        });
        if self.fdatasync {
            self.segment.sync()?;
        }
        crash_point("journal::after_fdatasync");
        Ok(())
    }
}

/// Ends the process here when the fail point is set; `pause` holds the thread instead.
fn crash_point(name: &str) {
    let _ = name;
    fail::fail_point!(name, |_| std::process::abort());
}
