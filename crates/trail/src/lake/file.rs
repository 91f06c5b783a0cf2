//! One data file: rows of one dense seq range as Parquet, written whole, hashed on the way, renamed when it is durable.
//!
//! Encodings were chosen by measurement: ids, salts and JSON do not repeat, so dictionaries only cost; seqs and times
//! grow steadily, so delta packing halves them. Merged files are sorted by key (`order`) and have bloom filters on ids.

use super::commit::{DataFile, KeptFile, data_folder, data_name, kept_name};
use super::order::{Group, RowOrder, by_seq};
use super::rebuild::{RECORD_COLUMNS, RebuildError, Rows};
use super::schema::{SCHEMA_VERSION, records_schema};
use crate::land::Position;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use aws_lc_rs::digest::{Context, SHA256};
use keytrail_kms::chain::LogId;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Rows of a row group; larger ones gain nothing and cost memory, smaller ones cost pruning work.
pub const ROW_GROUP_ROWS: usize = 131_072;

/// Rows read at once; with the largest payloads that is 256 MiB, far from the 2 GiB where Arrow's offsets end.
const READ_ROWS: usize = 1_024;

/// Rows of a page: what a query for one key reads of a row group at least.
const PAGE_ROWS: usize = 8_192;

/// Columns by whose exact values records are looked up. Random ids are in every file's range; a filter tells files apart.
const BLOOM: [&str; 2] = ["event_id", "request_id"];

/// Share of files that a bloom filter opens in vain.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

/// Columns whose values hardly repeat.
const NO_DICTIONARY: [&str; 9] = [
    "event_id",
    "request_id",
    "action_id",
    "repeat_of",
    "enc_context",
    "request_parameters",
    "additional",
    "salt",
    "raw",
];

/// Columns that grow with seq.
const DELTA: [&str; 3] = ["seq", "leaf_time_us", "event_time"];

/// Columns on whose minimum and maximum no query filters.
const NO_STATISTICS: [&str; 5] = ["salt", "raw", "request_parameters", "response_elements", "additional"];

/// Prefix of files being written. One left behind is debris of a crash and is removed by the next writer.
pub(super) const TEMPORARY: &str = ".tmp-";

/// Why a file was not written or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading, writing, syncing or renaming.
    #[error("{step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Parquet encoding or decoding.
    #[error("parquet file {path}")]
    Parquet {
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: ParquetError,
    },
    /// Decoding a batch.
    #[error("rows of {path}")]
    Arrow {
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: ArrowError,
    },
    /// Somebody asked to end.
    #[error("ended early")]
    Stopped,
    /// Rows that are not the chain's records.
    #[error("rows do not rebuild the chain")]
    Rebuild(#[from] RebuildError),
}

/// Writes the rows of `batches`, which come in order of seq and follow `start`, as one durable file below `root`.
pub(super) fn write(
    root: &Path,
    log: LogId,
    start: Position,
    order: RowOrder,
    batches: impl Iterator<Item = Result<RecordBatch, FileError>>,
) -> Result<DataFile, FileError> {
    let folder = root.join(data_folder(log));
    create_folder(root, &folder)?;
    let mut file = FileWriter::create(&folder, log, start, order)?;
    for batch in batches {
        file.push(&batch?)?;
    }
    let mut data = file.finish()?;
    sync_folder(&folder)?;
    data.path = format!("{}/{}", data_folder(log), data.path);
    Ok(data)
}

/// Writes rows that are no dense range, the changes that stay of the records up to `last`, as one durable file. None
/// where there are no rows.
pub(super) fn write_kept(
    root: &Path,
    log: LogId,
    last: u64,
    batches: impl Iterator<Item = Result<RecordBatch, FileError>>,
) -> Result<Option<KeptFile>, FileError> {
    let folder = root.join(data_folder(log));
    let temporary = folder.join(format!("{TEMPORARY}kept"));
    let parquet = |source| FileError::Parquet { path: temporary.clone(), source };
    let out = File::create(&temporary).map_err(io("create", &temporary))?;
    let properties = properties(log, RowOrder::Seq);
    let mut writer = ArrowWriter::try_new(Hashing::new(out), records_schema(), Some(properties)).map_err(parquet)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        writer.write(&batch).map_err(parquet)?;
    }
    let (bytes, sha256) = close(writer, &temporary)?;
    if rows == 0 {
        fs::remove_file(&temporary).map_err(io("remove", &temporary))?;
        return Ok(None);
    }
    let name = kept_name(last, &sha256);
    let path = folder.join(&name);
    fs::rename(&temporary, &path).map_err(io("rename", &path))?;
    sync_folder(&folder)?;
    Ok(Some(KeptFile { path: format!("{}/{name}", data_folder(log)), last, rows, bytes, sha256 }))
}

/// Ends and syncs a file; gives its length and SHA-256.
fn close(writer: ArrowWriter<Hashing>, path: &Path) -> Result<(u64, String), FileError> {
    let parquet = |source| FileError::Parquet { path: path.to_owned(), source };
    let Hashing { out, hash, bytes } = writer.into_inner().map_err(parquet)?;
    let out = out.into_inner().map_err(|error| io("write", path)(error.into_error()))?;
    out.sync_all().map_err(io("sync", path))?;
    Ok((bytes, hex::encode(hash.finish())))
}

/// A data file being written. The chain is recomputed from the rows themselves, so a file whose rows do not prove their
/// links is never named by a commit.
pub(crate) struct FileWriter {
    folder: PathBuf,
    temporary: PathBuf,
    writer: ArrowWriter<Hashing>,
    start: Position,
    order: RowOrder,
    /// Rows of the next row group, where rows are sorted.
    group: Group,
    rows: Rows,
    event_times: EventTimes,
}

impl FileWriter {
    /// Starts a file in `folder`, under a temporary name.
    pub(crate) fn create(folder: &Path, log: LogId, start: Position, order: RowOrder) -> Result<Self, FileError> {
        let temporary = folder.join(format!("{TEMPORARY}{:020}", start.next_seq));
        let out = File::create(&temporary).map_err(io("create", &temporary))?;
        let writer = ArrowWriter::try_new(Hashing::new(out), records_schema(), Some(properties(log, order)))
            .map_err(|source| FileError::Parquet { path: temporary.clone(), source })?;
        Ok(Self {
            folder: folder.to_owned(),
            temporary,
            writer,
            start,
            order,
            group: Group::default(),
            rows: Rows::new(log, start),
            event_times: EventTimes::default(),
        })
    }

    /// Adds the rows that come next.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        self.rows.take(batch)?;
        self.event_times.take(batch);
        if self.order == RowOrder::Seq {
            let parquet = |source| FileError::Parquet { path: self.temporary.clone(), source };
            return self.writer.write(batch).map_err(parquet);
        }
        let mut left = Some(batch.clone());
        while let Some(batch) = left {
            left = self.group.take(&batch);
            if self.group.is_full() {
                self.end_group()?;
            }
        }
        Ok(())
    }

    /// Writes the rows collected as a row group.
    fn end_group(&mut self) -> Result<(), FileError> {
        let arrow = |source| FileError::Arrow { path: self.temporary.clone(), source };
        let parquet = |source| FileError::Parquet { path: self.temporary.clone(), source };
        for batch in self.group.by_key(READ_ROWS).map_err(arrow)? {
            self.writer.write(&batch.map_err(arrow)?).map_err(parquet)?;
        }
        self.writer.flush().map_err(parquet)
    }

    /// Where the chain stood before the first row.
    pub(crate) fn start(&self) -> Position {
        self.start
    }

    /// Where the chain stands after the rows so far.
    pub(crate) fn position(&self) -> Position {
        self.rows.position
    }

    /// Syncs the file and gives it its name; `path` of the answer is that name alone.
    pub(crate) fn finish(mut self) -> Result<DataFile, FileError> {
        self.end_group()?;
        let Self { folder, temporary, writer, start, order, rows, event_times, .. } = self;
        let event_times = event_times.stated();
        let Rows { position: end, time_first, time_last, .. } = rows;
        let (bytes, sha256) = close(writer, &temporary)?;
        let (first, last) = (start.next_seq, end.next_seq.saturating_sub(1));
        let name = data_name(first, last, &sha256);
        let path = folder.join(&name);
        fs::rename(&temporary, &path).map_err(io("rename", &path))?;
        Ok(DataFile {
            path: name,
            first,
            last,
            rows: end.next_seq - first,
            bytes,
            sha256,
            order: order.name().to_owned(),
            chain_in: start.link.to_string(),
            chain_out: end.link.to_string(),
            time_first,
            time_last,
            event_time_first: event_times.map(|(first, _)| first),
            event_time_last: event_times.map(|(_, last)| last),
        })
    }
}

fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { step, path, source }
}

/// Smallest and largest `event_time` of the rows taken.
#[derive(Default)]
struct EventTimes {
    range: Option<(i64, i64)>,
    /// Some row's differs from its leaf time.
    differ: bool,
}

impl EventTimes {
    fn take(&mut self, batch: &RecordBatch) {
        let column = |name| batch.column_by_name(name);
        let event = column("event_time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let leaf = column("leaf_time_us").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(event), Some(leaf)) = (event, leaf) else { return };
        self.differ |= event.values() != leaf.values();
        for time in event.values() {
            let (first, last) = self.range.unwrap_or((*time, *time));
            self.range = Some((first.min(*time), last.max(*time)));
        }
    }

    /// What a commit has to say: nothing where the leaf times say it.
    fn stated(self) -> Option<(i64, i64)> {
        self.range.filter(|_| self.differ)
    }
}

/// The batches of a data file below `root` in order of seq, whatever its own is; with these columns only, of which `seq`
/// must be one, or all of them.
pub(crate) fn read(
    root: &Path,
    data: &DataFile,
    columns: Option<&[&str]>,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, FileError>>>, FileError> {
    let path = root.join(&data.path);
    if data.order == RowOrder::Seq.name() {
        return Ok(Box::new(read_columns(&path, columns)?));
    }
    let file = File::open(&path).map_err(io("open", &path))?;
    let parquet = |source| FileError::Parquet { path: path.clone(), source };
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(parquet)?;
    let projection = projection(&metadata, columns);
    let groups = 0..metadata.metadata().num_row_groups();
    Ok(Box::new(groups.flat_map(move |group| {
        let read = || {
            let file = file.try_clone().map_err(io("open", &path))?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
            let builder = builder.with_batch_size(READ_ROWS).with_projection(projection.clone());
            let parquet = |source| FileError::Parquet { path: path.clone(), source };
            let reader = builder.with_row_groups(vec![group]).build().map_err(parquet)?;
            in_order(reader, &path)
        };
        read().unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
    })))
}

/// The batches of one row group in order of seq.
pub(super) fn in_order(
    reader: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    path: &Path,
) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, FileError>>>, FileError> {
    let mut batches = Vec::new();
    let mut rows = 0;
    let arrow = |source| FileError::Arrow { path: path.to_owned(), source };
    for batch in reader {
        let batch = batch.map_err(arrow)?;
        rows += batch.num_rows();
        if rows > ROW_GROUP_ROWS {
            return Err(arrow(ArrowError::ParquetError("row group is larger than any that is sorted".to_owned())));
        }
        batches.push(batch);
    }
    let owned = path.to_owned();
    let ordered = by_seq(batches, READ_ROWS).map_err(arrow)?;
    Ok(Box::new(ordered.map(move |batch| batch.map_err(|source| FileError::Arrow { path: owned.clone(), source }))))
}

/// Recomputes leaves and links from a written file and compares where they lead with what its description says.
pub(super) fn prove(
    root: &Path,
    log: LogId,
    data: &DataFile,
    mut each: impl FnMut() -> Result<(), FileError>,
) -> Result<(), FileError> {
    let link = |text: &str, name| super::commit::link(text).map_err(|_| RebuildError::Column(name));
    let mut rows = Rows::new(log, Position { next_seq: data.first, link: link(&data.chain_in, "chainIn")? });
    for batch in read(root, data, Some(&RECORD_COLUMNS))? {
        each()?;
        rows.take(&batch?)?;
    }
    let end = Position { next_seq: data.last + 1, link: link(&data.chain_out, "chainOut")? };
    if rows.position == end { Ok(()) } else { Err(RebuildError::End { seq: data.last }.into()) }
}

/// The batches of a data file as they stand in it, with these columns only, or all of them.
pub(crate) fn read_columns(
    path: &Path,
    columns: Option<&[&str]>,
) -> Result<impl Iterator<Item = Result<RecordBatch, FileError>> + use<>, FileError> {
    let owned = path.to_owned();
    let file = File::open(path).map_err(io("open", path))?;
    let parquet = |source| FileError::Parquet { path: owned.clone(), source };
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(parquet)?;
    let projection = projection(&metadata, columns);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let reader = builder.with_batch_size(READ_ROWS).with_projection(projection).build().map_err(parquet)?;
    Ok(reader.map(move |batch| batch.map_err(|source| FileError::Arrow { path: owned.clone(), source })))
}

fn projection(metadata: &ArrowReaderMetadata, columns: Option<&[&str]>) -> ProjectionMask {
    match columns {
        Some(columns) => ProjectionMask::columns(metadata.parquet_schema(), columns.iter().copied()),
        None => ProjectionMask::all(),
    }
}

/// SHA-256 of a file, hex.
pub(crate) fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(context.finish()));
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
}

/// Creates `folder` and what is missing between it and `root`, each durable in its parent.
pub(super) fn create_folder(root: &Path, folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent()
        && folder != root
    {
        create_folder(root, parent)?;
    }
    fs::create_dir_all(folder).map_err(|source| FileError::Io { step: "create", path: folder.to_owned(), source })?;
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Makes renames and new names in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| FileError::Io {
        step: "sync",
        path: folder.to_owned(),
        source,
    })
}

fn properties(log: LogId, order: RowOrder) -> WriterProperties {
    let column = |name: &str| ColumnPath::from(name);
    let level = ZstdLevel::try_new(3).expect("3 is a zstd level");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(vec![
            KeyValue::new("keytrail.schema".to_owned(), SCHEMA_VERSION.to_string()),
            KeyValue::new("keytrail.log".to_owned(), log.to_string()),
        ]));
    for name in NO_DICTIONARY.into_iter().chain(DELTA) {
        properties = properties.set_column_dictionary_enabled(column(name), false);
    }
    for name in DELTA {
        properties = properties.set_column_encoding(column(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in NO_STATISTICS {
        properties = properties.set_column_statistics_enabled(column(name), EnabledStatistics::None);
    }
    for name in BLOOM.into_iter().filter(|_| order == RowOrder::Key) {
        properties = properties
            .set_column_bloom_filter_fpp(column(name), BLOOM_FALSE_POSITIVES)
            .set_column_bloom_filter_max_ndv(column(name), ROW_GROUP_ROWS as u64);
    }
    properties.build()
}

/// Hashes and counts what passes through to a buffered file.
struct Hashing {
    out: BufWriter<File>,
    hash: Context,
    bytes: u64,
}

impl Hashing {
    fn new(out: File) -> Self {
        Self { out: BufWriter::with_capacity(1 << 20, out), hash: Context::new(&SHA256), bytes: 0 }
    }
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.hash.update(data.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::decode::decode;
    use crate::land::VerifiedFrame;
    use crate::land::tests::{chain, log};

    fn rows(count: u64) -> RecordBatch {
        let frames: Vec<VerifiedFrame> =
            chain(count, "a").into_iter().map(|frame| VerifiedFrame { leaf: frame.verify().unwrap(), frame }).collect();
        decode(&frames)
    }

    #[test]
    fn a_file_holds_its_rows_and_proves_the_chain() {
        let root = tempfile::tempdir().unwrap();
        let batch = rows(100);
        let written = write(
            root.path(),
            log(),
            Position::START,
            RowOrder::Seq,
            [Ok(batch.slice(0, 60)), Ok(batch.slice(60, 40))].into_iter(),
        )
        .unwrap();
        let path = root.path().join(&written.path);
        assert_eq!(hash(&path).unwrap(), written.sha256);
        assert_eq!(fs::metadata(&path).unwrap().len(), written.bytes);
        assert_eq!((written.first, written.last, written.rows), (0, 99, 100));
        assert_eq!(written.chain_out, chain(100, "a")[99].link().to_string());
        let again: Vec<RecordBatch> = read(root.path(), &written, None).unwrap().map(Result::unwrap).collect();
        assert_eq!(arrow::compute::concat_batches(&records_schema(), &again).unwrap(), batch);
    }

    #[test]
    fn rows_that_do_not_follow_are_not_written() {
        let root = tempfile::tempdir().unwrap();
        let batch = rows(10);
        let hole = [Ok(batch.slice(0, 3)), Ok(batch.slice(4, 6))].into_iter();
        assert!(write(root.path(), log(), Position::START, RowOrder::Seq, hole).is_err());
        let names: Vec<_> =
            fs::read_dir(root.path().join(data_folder(log()))).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name.to_string_lossy().starts_with(TEMPORARY)), "{names:?}");
    }
}
