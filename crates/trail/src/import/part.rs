//! One part of an import: as many files as memory and disk are meant for, put in order.
//!
//! First pass: each file's records go, as they stand, into a nameless file on disk, and an entry of 48 bytes for each
//! into memory. Then repeats are dropped, those within the part and those of what the log has already, and the rest is
//! sorted by time. The second pass reads the records back in that order. So the order holds within a part, and parts
//! follow each other by the times in their files' names.

use super::source::{Source, SourceFile};
use super::split;
use super::{Counters, Fault, ImportError, Report};
use crate::lake::payload::Head;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::journal::frame::PAYLOAD_BYTES_MAX;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Most records of a part: 384 MiB of entries.
pub const PART_RECORDS_MAX: usize = 8_000_000;

/// Payload bytes after which a part takes no further file: what it may need on disk.
pub const PART_BYTES_MAX: u64 = 16 << 30;

/// What a record is known by: the first 16 bytes of a hash over its eventID, or over the record if it has none.
pub(super) type Id = [u8; 16];

/// A record of the part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    id: Id,
    /// `eventTime`; those without one come last.
    time_us: i64,
    digest: u64,
    at: u64,
    len: u32,
    /// Index of its file in `Part::files`.
    file: u32,
}

/// Records waiting to be written.
pub(super) struct Part {
    /// Shared with whoever looks up what the log has.
    entries: Arc<Vec<Entry>>,
    records: File,
    /// The files it was made of.
    pub(super) files: Vec<SourceFile>,
}

impl Part {
    /// Reads files until the part is full or there are no more; takes them off the end of `left`, which is in reverse.
    pub(super) fn gather(
        source: &Source,
        left: &mut Vec<SourceFile>,
        folder: &Path,
        counters: &Counters,
        report: &mut Report,
    ) -> Result<Self, ImportError> {
        let records = tempfile::tempfile_in(folder).map_err(ImportError::Spool)?;
        let mut spool = BufWriter::with_capacity(1 << 20, records);
        let mut part = Gathering { entries: Vec::new(), files: Vec::new(), bytes: 0 };
        while part.entries.len() < PART_RECORDS_MAX && part.bytes < PART_BYTES_MAX && !counters.is_stopped() {
            let Some(file) = left.pop() else { break };
            let taken = source.read(&file).and_then(|content| {
                let ranges = split::records(&content)?;
                Ok((content, ranges))
            });
            counters.files.fetch_add(1, Ordering::Relaxed);
            counters.bytes.fetch_add(file.bytes, Ordering::Relaxed);
            match taken {
                Ok((content, ranges)) => {
                    part.files.push(file);
                    counters.found.fetch_add(ranges.len() as u64, Ordering::Relaxed);
                    for range in ranges {
                        let record = content.get(range).unwrap_or_default();
                        report.cut += part.take(record, &mut spool).map_err(ImportError::Spool)?;
                    }
                    report.files += 1;
                }
                Err(fault) => report.fault(Fault { name: file.name, reason: super::describe(&fault) }),
            }
        }
        let records = spool.into_inner().map_err(|error| ImportError::Spool(error.into_error()))?;
        Ok(Self { entries: Arc::new(part.entries), records, files: part.files })
    }

    /// Drops what comes twice within the part: the first one stays.
    pub(super) fn drop_repeats(&mut self, report: &mut Report) -> Result<(), ImportError> {
        let entries = Arc::make_mut(&mut self.entries);
        entries.sort_unstable_by_key(|entry| (entry.id, entry.at));
        let mut kept: Option<Entry> = None;
        let mut differing = Vec::new();
        entries.retain(|entry| {
            let repeats = kept.filter(|kept| kept.id == entry.id);
            match repeats {
                None => kept = Some(*entry),
                Some(kept) if kept.digest == entry.digest => report.duplicates += 1,
                Some(_) => differing.push(*entry),
            }
            repeats.is_none()
        });
        self.name_differing(&differing, report)
    }

    /// The entries by id, for looking up what the log has.
    pub(super) fn index(&self) -> Arc<Vec<Entry>> {
        self.entries.clone()
    }

    /// Drops the entries that the log has, as found in [`Part::index`], and puts the rest in order of time.
    pub(super) fn drop_known(&mut self, known: &[Known], report: &mut Report) -> Result<(), ImportError> {
        let mut differing = Vec::new();
        let mut at = 0;
        let entries = Arc::make_mut(&mut self.entries);
        entries.retain(|entry| {
            let known = known.get(at).copied().unwrap_or(Known::No);
            at += 1;
            match known {
                Known::No => return true,
                Known::Same => report.duplicates += 1,
                Known::Differs => differing.push(*entry),
            }
            false
        });
        entries.sort_unstable_by_key(|entry| (entry.time_us, entry.id, entry.at));
        self.name_differing(&differing, report)
    }

    /// Number of records.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The records from `first` on, at most `count` of them and hardly more than `bytes_max` bytes.
    pub(super) fn read(&self, first: usize, count: usize, bytes_max: usize) -> Result<Vec<Vec<u8>>, ImportError> {
        let mut records = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.iter().skip(first).take(count) {
            let record = self.record(entry)?;
            bytes += record.len();
            records.push(record);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(records)
    }

    fn record(&self, entry: &Entry) -> Result<Vec<u8>, ImportError> {
        let mut record = vec![0; usize::try_from(entry.len).unwrap_or_default()];
        self.records.read_exact_at(&mut record, entry.at).map_err(ImportError::Spool)?;
        Ok(record)
    }

    fn name_differing(&self, differing: &[Entry], report: &mut Report) -> Result<(), ImportError> {
        for entry in differing {
            let file = usize::try_from(entry.file).ok().and_then(|file| self.files.get(file));
            let name = file.map(|file| file.name.clone()).unwrap_or_default();
            let record = self.record(entry)?;
            let head: Option<Head<'_>> = serde_json::from_slice(&record).ok();
            let event_id = head.as_ref().and_then(|head| head.event_id.as_ref()?.text()).unwrap_or("-").to_owned();
            report.differs(Fault { name, reason: format!("eventID {event_id}") });
        }
        Ok(())
    }
}

/// What the log knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    No,
    /// The same bytes.
    Same,
    /// Another record with its eventID.
    Differs,
}

impl Entry {
    /// Where `id` is in entries sorted by id.
    pub(super) fn find(entries: &[Self], id: &Id) -> Option<usize> {
        entries.binary_search_by_key(id, |entry| entry.id).ok()
    }

    /// What a record of the log with the same id says about this one.
    pub(super) fn compare(&self, payload: &[u8]) -> Known {
        if digest_of(payload) == self.digest { Known::Same } else { Known::Differs }
    }
}

/// What a record with this eventID is known by.
pub(super) fn id_of_event(event_id: &str) -> Id {
    first_bytes(sha256(&[b"eventID\n", event_id.as_bytes()]))
}

/// What a record is known by, and its time, if they can be read.
pub(super) fn head_of(payload: &[u8]) -> (Id, Option<i64>) {
    let head: Option<Head<'_>> = serde_json::from_slice(payload).ok();
    let event_id = head.as_ref().and_then(|head| head.event_id.as_ref()?.text());
    let id = event_id.map_or_else(|| first_bytes(sha256(&[b"record\n", payload])), id_of_event);
    (id, head.and_then(|head| head.time_us()))
}

fn digest_of(payload: &[u8]) -> u64 {
    u64::from_be_bytes(first_bytes(sha256(&[payload])))
}

fn first_bytes<const N: usize>(hash: [u8; 32]) -> [u8; N] {
    let mut first = [0; N];
    first.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    first
}

struct Gathering {
    entries: Vec<Entry>,
    files: Vec<SourceFile>,
    bytes: u64,
}

impl Gathering {
    /// Takes a record of the newest file; 1 if it had to be cut.
    fn take(&mut self, record: &[u8], spool: &mut impl Write) -> std::io::Result<u64> {
        let payload = record.get(..PAYLOAD_BYTES_MAX).unwrap_or(record);
        let (id, time_us) = head_of(payload);
        // A record that is cut is no JSON any more; its time still says where it belongs.
        let cut = payload.len() < record.len();
        let time_us = if cut { head_of(record).1 } else { time_us };
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let file = u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let digest = digest_of(payload);
        self.entries.push(Entry { id, time_us: time_us.unwrap_or(i64::MAX), digest, at: self.bytes, len, file });
        self.bytes += u64::from(len);
        spool.write_all(payload)?;
        Ok(u64::from(cut))
    }
}
