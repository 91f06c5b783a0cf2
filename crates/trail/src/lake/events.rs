//! The events of a log in seq order, a few columns of each: for folding the past and replaying calls over it.
//!
//! SQL gives rows in any order and would have to sort ten million of them; the files are in order already. One thread
//! reads and decodes ahead of the one that looks. Files are read whole, so nothing of the time before is missed; what is
//! no change and not asked about is dropped while it is decoded.

use super::file::{FileError, in_order};
use super::order::RowOrder;
use super::snapshot::Snapshot;
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use keytrail_kms::chain::LogId;
use keytrail_kms::row::Row;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::errors::ParquetError;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Rows of a batch, and batches decoded ahead: some ten MiB of the columns read.
const BATCH_ROWS: usize = 8_192;
const BATCHES_AHEAD: usize = 4;

/// Columns of each event besides those of text.
const NUMBERS: [&str; 3] = ["seq", "event_time", "read_only"];
/// Columns by which rows are dropped before the others are decoded.
const FILTERED_BY: [&str; 4] = ["event_time", "event_name", "read_only", "key_arn"];
/// Operations that are looked at whatever key the row names: they open sessions, or are about two keys.
const ALWAYS: [&str; 6] =
    ["AssumeRole", "AssumeRoleWithWebIdentity", "CreateAlias", "GetSessionToken", "ReEncrypt", "UpdateAlias"];

/// Which events: all changes and openings of sessions, and of other calls those asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Calls of this time, Unix microseconds.
    pub time_us: Range<u64>,
    /// Calls about this key only.
    pub key_arn: Option<String>,
    /// Whether each came over TLS, which takes reading the whole events.
    pub tls: bool,
}

/// Why the events were not all seen.
#[derive(Debug, thiserror::Error)]
pub enum EventsError<E: std::error::Error + 'static> {
    /// A file.
    #[error("read the lake")]
    File(#[from] FileError),
    /// Whoever looks at them.
    #[error("look at an event")]
    Visit(#[source] E),
}

/// Shows the events of a log to `visit`, in order. Reads files: not for an async thread.
pub fn events<E: std::error::Error + 'static>(
    snapshot: &Snapshot,
    log: LogId,
    wanted: &Wanted,
    mut visit: impl FnMut(&Row<'_>) -> Result<(), E>,
) -> Result<(), EventsError<E>> {
    let Some(state) = snapshot.logs().get(&log) else { return Ok(()) };
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        scope.spawn(move || {
            // What stayed of records that left comes first.
            let kept = state.kept.iter().map(|kept| (kept.path.as_str(), RowOrder::Seq.name()));
            for (path, order) in kept.chain(state.files.iter().map(|file| (file.path.as_str(), file.order.as_str()))) {
                if !send(&snapshot.root().join(path), order, wanted, &sender) {
                    return;
                }
            }
        });
        for batch in batches {
            rows(&batch?, wanted, &mut visit).map_err(EventsError::Visit)?;
        }
        state.tail.iter().try_for_each(|batch| rows(batch, wanted, &mut visit)).map_err(EventsError::Visit)
    })
}

/// Sends a file's batches in order of seq; false when nobody wants more, or after an error.
fn send(path: &Path, order: &str, wanted: &Wanted, to: &SyncSender<Result<RecordBatch, FileError>>) -> bool {
    let sent = (|| {
        let file = File::open(path).map_err(|source| FileError::Io { step: "open", path: path.to_owned(), source })?;
        let parquet = |source| FileError::Parquet { path: path.to_owned(), source };
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(parquet)?;
        for group in 0..metadata.metadata().num_row_groups() {
            let file =
                file.try_clone().map_err(|source| FileError::Io { step: "open", path: path.to_owned(), source })?;
            let reader = reader(file, &metadata, group, wanted).map_err(parquet)?;
            let arrow = |source| FileError::Arrow { path: path.to_owned(), source };
            let batches: Box<dyn Iterator<Item = _>> = if order == RowOrder::Seq.name() {
                Box::new(reader.map(|batch| batch.map_err(arrow)))
            } else {
                in_order(reader, path)?
            };
            for batch in batches {
                if to.send(Ok(batch?)).is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })();
    sent.unwrap_or_else(|error| {
        let _ = to.send(Err(error));
        false
    })
}

fn reader(
    file: File,
    metadata: &ArrowReaderMetadata,
    group: usize,
    wanted: &Wanted,
) -> Result<ParquetRecordBatchReader, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
    let schema = builder.parquet_schema();
    let raw = wanted.tls.then_some("raw");
    let columns = ProjectionMask::columns(schema, NUMBERS.into_iter().chain(TEXTS).chain(raw));
    let filtered_by = ProjectionMask::columns(schema, FILTERED_BY);
    let by = wanted.clone();
    let filter = ArrowPredicateFn::new(filtered_by, move |batch| keep(&batch, &by));
    builder
        .with_row_groups(vec![group])
        .with_projection(columns)
        .with_row_filter(RowFilter::new(vec![Box::new(filter)]))
        .with_batch_size(BATCH_ROWS)
        .build()
}

/// Whether each row is a change, opens a session, or is a call asked for.
fn keep(batch: &RecordBatch, wanted: &Wanted) -> Result<BooleanArray, ArrowError> {
    let columns = Columns::of(batch);
    Ok((0..batch.num_rows()).map(|row| Some(columns.is_wanted(row, wanted))).collect())
}

fn rows<E>(batch: &RecordBatch, wanted: &Wanted, visit: &mut impl FnMut(&Row<'_>) -> Result<(), E>) -> Result<(), E> {
    let columns = Columns::of(batch);
    // The tail was not filtered while it was read.
    (0..batch.num_rows())
        .filter(|row| columns.is_wanted(*row, wanted))
        .try_for_each(|row| visit(&columns.row(row, wanted)))
}

/// The columns of a batch by name.
struct Columns<'a> {
    batch: &'a RecordBatch,
    texts: [Option<&'a StringArray>; 18],
}

/// Columns of text; `Columns` and `row` go by their places.
const TEXTS: [&str; 18] = [
    "event_source",
    "event_name",
    "request_id",
    "error_code",
    "principal_type",
    "principal_arn",
    "principal_account",
    "access_key_id",
    "invoked_by",
    "source_ip",
    "user_agent",
    "region",
    "key_arn",
    "decided_by",
    "repeat_of",
    "request_parameters",
    "response_elements",
    "additional",
];

const EVENT_NAME: usize = 1;
const KEY_ARN: usize = 12;

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        let texts = TEXTS.map(|name| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>()));
        Self { batch, texts }
    }

    fn text(&self, at: usize, row: usize) -> Option<&'a str> {
        let column = (*self.texts.get(at)?)?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn time_us(&self, row: usize) -> u64 {
        let column = self.batch.column_by_name("event_time");
        let time = column.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()).map_or(0, |c| c.value(row));
        u64::try_from(time).unwrap_or_default()
    }

    fn read_only(&self, row: usize) -> bool {
        let column = self.batch.column_by_name("read_only").and_then(|column| column.as_boolean_opt());
        column.is_none_or(|column| column.is_null(row) || column.value(row))
    }

    fn is_wanted(&self, row: usize, wanted: &Wanted) -> bool {
        // What is no event has no name.
        let Some(name) = self.text(EVENT_NAME, row) else { return false };
        if !self.read_only(row) || ALWAYS.contains(&name) {
            return true;
        }
        let key = wanted.key_arn.as_deref();
        (key.is_none() || self.text(KEY_ARN, row) == key) && wanted.time_us.contains(&self.time_us(row))
    }

    fn row(&self, row: usize, wanted: &Wanted) -> Row<'a> {
        let seq = self.batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let raw = self.batch.column_by_name("raw").and_then(|column| column.as_binary_opt::<i32>());
        let raw = raw.filter(|column| wanted.tls && column.is_valid(row)).map(|column| column.value(row));
        Row {
            seq: seq.and_then(|column| u64::try_from(column.value(row)).ok()).unwrap_or_default(),
            time_us: self.time_us(row),
            event_source: self.text(0, row).unwrap_or_default(),
            event_name: self.text(EVENT_NAME, row).unwrap_or_default(),
            request_id: self.text(2, row),
            read_only: self.read_only(row),
            error_code: self.text(3, row),
            principal_type: self.text(4, row),
            principal_arn: self.text(5, row),
            principal_account: self.text(6, row),
            access_key_id: self.text(7, row),
            invoked_by: self.text(8, row),
            source_ip: self.text(9, row),
            user_agent: self.text(10, row),
            region: self.text(11, row).unwrap_or_default(),
            key_arn: self.text(KEY_ARN, row),
            decided_by: self.text(13, row),
            repeat_of: self.text(14, row),
            request_parameters: self.text(15, row),
            response_elements: self.text(16, row),
            additional: self.text(17, row),
            tls: raw.map(is_tls),
        }
    }
}

/// Whether an event has `tlsDetails`.
fn is_tls(raw: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Event {
        tls_details: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Event>(raw).is_ok_and(|event| event.tls_details.is_some())
}
