//! The one pass over a log: all its leaves are hashed, the records of the range are written, nothing is kept.
//!
//! The tree pulls leaf hashes; each batch of records that it makes us read is written on the way. Outside the range
//! only the leaf is looked at.

use super::access::AccessLog;
use super::cloudtrail::{LogFile, LogFiles, Place};
use super::leaves::{LeavesWriter, Status};
use super::ocsf::OcsfFile;
use super::redact::{Condition, RedactError};
use super::rows::RowFiles;
use super::sample::Population;
use super::{IoError, NO_FILE, io};
use crate::lake::Snapshot;
use crate::lake::decode::decode_records;
use crate::lake::file::FileError;
use crate::lake::rebuild::Record;
use crate::land::Position;
use arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use keytrail_kms::chain::leaf::leaf_hash;
use keytrail_kms::chain::{Kind, Leaf, LeafHash, LogId, RangeError, RangeProof, RootHash, SeqRange, Tree};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Leaf hashes in a block of the tree.
const BLOCK: u64 = keytrail_kms::chain::tree::BLOCK_LEAVES;

/// Why a log cannot be passed over.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A file of the lake or of the pack's Parquet.
    #[error("records")]
    File(#[from] FileError),
    /// Another file of the pack.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The condition of a redaction.
    #[error(transparent)]
    Redact(#[from] RedactError),
    /// The lake ends below the checkpoint.
    #[error("records end at seq {0}, below the size of the checkpoint")]
    Short(u64),
    /// A time that falls.
    #[error("leaf time falls at seq {0}")]
    Time(u64),
    /// The tree cannot be built.
    #[error("tree")]
    Tree(#[source] Box<RangeError<PassError>>),
}

/// What to do with a log.
pub(super) struct Job<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) log: LogId,
    /// Of the checkpoint.
    pub(super) size: u64,
    pub(super) range: SeqRange,
    /// Size of an earlier checkpoint that a proof is wanted from.
    pub(super) earlier: Option<u64>,
    /// Leaf times of the population; None takes all.
    pub(super) population: Option<(u64, u64)>,
    pub(super) condition: Option<&'a Condition>,
    /// Whether events are written as OCSF, too.
    pub(super) ocsf: bool,
    /// The pack's payload folder.
    pub(super) root: &'a Path,
    /// A folder for files that are not part of the pack.
    pub(super) scratch: &'a Path,
}

impl Job<'_> {
    /// An imported log is there as a whole, for its events' times are in no order.
    fn imported(&self) -> bool {
        self.population.is_none()
    }

    /// Whose leaf hashes proofs may need: the range, and the block that the earlier size cuts.
    fn kept(&self) -> SeqRange {
        let SeqRange { first, last } = self.range;
        let earlier = self.earlier.unwrap_or(first);
        SeqRange { first: first.min(earlier), last: last.max(earlier) }
    }
}

/// What came of it.
pub(super) struct Passed {
    pub(super) proof: RangeProof,
    pub(super) root: RootHash,
    /// Over all leaves, for proofs of single ones.
    pub(super) tree: Tree,
    pub(super) hashes: HashFile,
    pub(super) written: Written,
}

/// What the range holds.
#[derive(Default)]
pub(super) struct Written {
    pub(super) first: Option<Leaf>,
    pub(super) last: Option<Leaf>,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) erased: u64,
    pub(super) withheld: u64,
    /// Withheld seqs, as runs: start and length.
    pub(super) hidden: Vec<(u64, u64)>,
    pub(super) population: Population,
    pub(super) cloudtrail: Vec<String>,
    pub(super) log_files: Vec<LogFile>,
    pub(super) parquet: Vec<String>,
}

/// The range of a period in a log of `size`: from the last record before it to the first one after it.
pub(super) fn bracket(
    snapshot: &Snapshot,
    log: LogId,
    size: u64,
    (from_us, to_us): (u64, u64),
) -> Result<SeqRange, FileError> {
    let mut range = SeqRange { first: 0, last: size.saturating_sub(1) };
    let Some(state) = snapshot.logs().get(&log) else { return Ok(range) };
    // Whole files before, in and after the period are told by their times alone; the pass checks what it finds.
    let mut skip_below = 0;
    for file in state.files.iter() {
        if file.time_last >= from_us || file.last >= size {
            break;
        }
        range.first = file.last;
        skip_below = file.last;
    }
    for batch in snapshot.batches_from(log, &["seq", "leaf_time_us"], skip_below) {
        let batch = batch?;
        let column = |name| batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(seqs), Some(times)) = (column("seq"), column("leaf_time_us")) else { continue };
        for (seq, time) in seqs.values().iter().zip(times.values()) {
            let (seq, time) = (u64::try_from(*seq).unwrap_or(u64::MAX), u64::try_from(*time).unwrap_or(0));
            if seq >= size {
                return Ok(range);
            }
            if time < from_us {
                range.first = seq;
            }
            if time >= to_us {
                range.last = seq;
                return Ok(range);
            }
        }
    }
    Ok(range)
}

impl Job<'_> {
    /// Reads the log and writes the range.
    pub(super) fn run(&self, access: &mut AccessLog) -> Result<Passed, PassError> {
        let folder = self.root.join(format!("logs/{}", self.log));
        std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let mut pass = Pass {
            records: self.snapshot.records(self.log),
            ready: Vec::new().into_iter(),
            seq: 0,
            time_us: 0,
            range: self.range,
            size: self.size,
            tree: Tree::new(),
            hashes: HashFile::create(&self.scratch.join("hashes"), self.kept())?,
            writers: Writers {
                log: self.log.to_string(),
                job: self,
                leaves: LeavesWriter::create(&folder.join("leaves.gz"))?,
                log_files: LogFiles::new(self.root, &self.log.to_string()[..8]),
                ocsf: self.ocsf.then(|| OcsfFile::create(self.root, &self.log.to_string())).transpose()?,
                rows: None,
                access,
                written: Written::default(),
            },
        };
        let made = RangeProof::of_tree(self.range, self.size, || pass.next());
        let (proof, root) = made.map_err(|error| match error {
            RangeError::Source(error) => error,
            other => PassError::Tree(Box::new(other)),
        })?;
        let Pass { tree, mut hashes, writers, .. } = pass;
        hashes.flush()?;
        Ok(Passed { proof, root, tree, hashes, written: writers.finish()? })
    }
}

struct Pass<'a, I> {
    records: I,
    ready: std::vec::IntoIter<LeafHash>,
    seq: u64,
    time_us: u64,
    range: SeqRange,
    size: u64,
    tree: Tree,
    hashes: HashFile,
    writers: Writers<'a>,
}

impl<I: Iterator<Item = Result<Vec<Record>, FileError>>> Pass<'_, I> {
    fn next(&mut self) -> Result<LeafHash, PassError> {
        loop {
            if let Some(hash) = self.ready.next() {
                return Ok(hash);
            }
            let records = self.records.next().ok_or(PassError::Short(self.seq))??;
            self.take(records)?;
        }
    }

    fn take(&mut self, mut records: Vec<Record>) -> Result<(), PassError> {
        records.truncate(usize::try_from(self.size - self.seq).unwrap_or(usize::MAX));
        let mut hashes = Vec::with_capacity(records.len());
        for Record { leaf, .. } in &records {
            if leaf.time_us < self.time_us {
                return Err(PassError::Time(leaf.seq));
            }
            self.time_us = leaf.time_us;
            let hash = leaf_hash(&leaf.encode());
            self.tree.push(hash);
            self.hashes.push(leaf.seq, hash)?;
            hashes.push(hash);
        }
        self.seq += records.len() as u64;
        self.ready = hashes.into_iter();
        records.retain(|record| (self.range.first..=self.range.last).contains(&record.leaf.seq));
        if records.is_empty() { Ok(()) } else { self.writers.take(records) }
    }
}

/// All that is written of a record of the range.
struct Writers<'a> {
    log: String,
    job: &'a Job<'a>,
    leaves: LeavesWriter,
    log_files: LogFiles,
    ocsf: Option<OcsfFile>,
    rows: Option<RowFiles>,
    access: &'a mut AccessLog,
    written: Written,
}

impl Writers<'_> {
    fn take(&mut self, mut records: Vec<Record>) -> Result<(), PassError> {
        let mut batch = decode_records(&records, self.job.imported());
        let erased: Vec<bool> = records.iter().map(|record| record.body.is_none()).collect();
        if self.withhold(&mut records, &batch)? {
            batch = decode_records(&records, self.job.imported());
        }
        self.access.look(&self.log, &records, &batch)?;
        let texts = Texts::of(&batch);
        for (index, (record, erased)) in records.iter().zip(erased).enumerate() {
            let status = match (&record.body, erased) {
                (_, true) => Status::Erased,
                (Some(_), false) => Status::Present,
                (None, false) => Status::Withheld,
            };
            self.count(&record.leaf, status);
            self.write(record, status, &texts, index)?;
        }
        let first = records.first().map(|record| &record.leaf);
        let start = first.map_or(Position::START, |leaf| Position { next_seq: leaf.seq, link: leaf.prev });
        let rows = self.rows.get_or_insert_with(|| RowFiles::new(self.job.root, self.job.log, start));
        Ok(rows.push(&batch)?)
    }

    /// Takes the payload from records that are to be withheld; says whether there were any.
    fn withhold(&mut self, records: &mut [Record], batch: &RecordBatch) -> Result<bool, PassError> {
        let Some(condition) = self.job.condition else { return Ok(false) };
        let hidden = condition.judge(batch)?;
        let mut any = false;
        for (record, hidden) in records.iter_mut().zip(&hidden) {
            if hidden == Some(true) && record.body.take().is_some() {
                any = true;
                match self.written.hidden.last_mut() {
                    Some((start, length)) if *start + *length == record.leaf.seq => *length += 1,
                    _ => self.written.hidden.push((record.leaf.seq, 1)),
                }
            }
        }
        Ok(any)
    }

    fn count(&mut self, leaf: &Leaf, status: Status) {
        let written = &mut self.written;
        written.first.get_or_insert(*leaf);
        written.last = Some(*leaf);
        *written.counts.entry((leaf.kind as u8).to_string()).or_default() += 1;
        written.erased += u64::from(status == Status::Erased);
        written.withheld += u64::from(status == Status::Withheld);
        let in_period = self.job.population.is_none_or(|(from, to)| (from..to).contains(&leaf.time_us));
        if leaf.kind == Kind::Event && in_period {
            written.population.push(leaf.seq);
        }
    }

    fn write(&mut self, record: &Record, status: Status, texts: &Texts<'_>, row: usize) -> Result<(), PassError> {
        let Record { leaf, body } = record;
        let body = body.as_ref().map(|(salt, payload)| (salt, &**payload));
        let place = body.filter(|_| leaf.kind == Kind::Event).and_then(|(_, payload)| texts.place(row, payload));
        let file = match (place, body) {
            (Some(place), Some((_, payload))) => self.log_files.push(&place, leaf.time_us, payload)?,
            _ => NO_FILE,
        };
        if let (Some(ocsf), Some((_, payload)), Kind::Event) = (&mut self.ocsf, body, leaf.kind) {
            ocsf.push(leaf, payload)?;
        }
        Ok(self.leaves.push(status, file, &leaf.encode(), body)?)
    }

    fn finish(self) -> Result<Written, PassError> {
        let Self { leaves, log_files, ocsf, rows, mut written, .. } = self;
        leaves.finish()?;
        ocsf.map_or(Ok(()), OcsfFile::finish)?;
        (written.cloudtrail, written.log_files) = log_files.finish()?;
        if let Some(rows) = rows {
            written.parquet = rows.finish()?;
        }
        Ok(written)
    }
}

/// The columns that say where an event belongs.
struct Texts<'a> {
    account: Option<&'a StringArray>,
    region: Option<&'a StringArray>,
    parse_error: Option<&'a StringArray>,
}

impl<'a> Texts<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self {
            account: text_column(batch, "account"),
            region: text_column(batch, "region"),
            parse_error: text_column(batch, "parse_error"),
        }
    }

    /// Where an event belongs; None for a payload that is no JSON object, which no CloudTrail file can hold.
    fn place(&self, row: usize, payload: &[u8]) -> Option<Place> {
        let value =
            |column: Option<&'a StringArray>| column.filter(|column| column.is_valid(row)).map(|c| c.value(row));
        let object = payload.trim_ascii_start().starts_with(b"{");
        if object && value(self.parse_error).is_none() {
            return Some(Place::of(value(self.account), value(self.region)));
        }
        // Odd, and perhaps JSON all the same: events of other writers are kept as they came.
        let event: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(payload).ok()?;
        let text = |name| event.get(name).and_then(serde_json::Value::as_str);
        Some(Place::of(text("recipientAccountId"), text("awsRegion")))
    }
}

pub(super) fn text_column<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a StringArray> {
    batch.column_by_name(name).and_then(|column| column.as_string_opt())
}

/// Leaf hashes of the blocks that the range touches, in a file: proofs of sampled records need them afterwards.
pub(super) struct HashFile {
    path: std::path::PathBuf,
    out: BufWriter<File>,
    first: u64,
    end: u64,
}

impl HashFile {
    fn create(path: &Path, range: SeqRange) -> Result<Self, IoError> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let out = BufWriter::with_capacity(1 << 16, file.map_err(io("create", path))?);
        let (first, end) = (range.first / BLOCK * BLOCK, (range.last / BLOCK + 1) * BLOCK);
        Ok(Self { path: path.to_owned(), out, first, end })
    }

    fn push(&mut self, seq: u64, hash: LeafHash) -> Result<(), IoError> {
        if (self.first..self.end).contains(&seq) {
            self.out.write_all(&hash.0).map_err(io("write", &self.path))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoError> {
        self.out.flush().map_err(io("write", &self.path))
    }

    /// Leaf hashes of a block, as many as the log has.
    pub(super) fn block(&self, block: u64) -> Result<Vec<LeafHash>, IoError> {
        let failed = || io("read", &self.path);
        let file = self.out.get_ref();
        let length = file.metadata().map_err(failed())?.len();
        let start = (block * BLOCK).checked_sub(self.first).map_or(length, |leaves| leaves * 32).min(length);
        let mut bytes = vec![0; usize::try_from((length - start).min(BLOCK * 32)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, start).map_err(failed())?;
        Ok(bytes.as_chunks::<32>().0.iter().copied().map(LeafHash).collect())
    }
}
