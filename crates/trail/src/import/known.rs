//! What an imported log has already: the files that are in it as a whole, and the records that a part brings again.
//!
//! The list of files (`files.db`) is a shortcut and never needed: without it every file is read again and every record
//! is found in the lake.

use super::part::{Entry, Known, head_of, id_of_event};
use super::source::SourceFile;
use crate::lake::DataFile;
use arrow::array::{Array, AsArray, BooleanArray};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowFilter};
use rusqlite::{Connection, OptionalExtension, params};
use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Rows read at once: with the longest payloads 256 MiB.
const READ_ROWS: usize = 1_024;

/// Name of the list of files.
const DATABASE: &str = "files.db";

/// Number of the list's form.
const VERSION: u32 = 1;

/// What each entry of `index` (sorted by id) is to the records in `files` of the lake at `root`.
pub(super) fn records(
    root: &Path,
    files: &[Arc<DataFile>],
    index: &Arc<Vec<Entry>>,
) -> Result<Vec<Known>, Box<dyn Error + Send + Sync>> {
    let mut known = vec![Known::No; index.len()];
    for file in files.iter().filter(|_| !index.is_empty()) {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(root.join(&file.path))?)?;
        let schema = builder.parquet_schema();
        let wanted = ProjectionMask::columns(schema, ["event_id", "raw"]);
        let event_id = ProjectionMask::columns(schema, ["event_id"]);
        let by = index.clone();
        // Payloads are unpacked of those rows only that may be in the part: by their eventID, or for want of one.
        let filter = ArrowPredicateFn::new(event_id, move |batch| {
            let ids = batch.column(0).as_string::<i32>();
            let is_wanted = |id: Option<&str>| id.is_none_or(|id| Entry::find(&by, &id_of_event(id)).is_some());
            Ok(ids.iter().map(|id| Some(is_wanted(id))).collect::<BooleanArray>())
        });
        let filter = RowFilter::new(vec![Box::new(filter)]);
        let reader = builder.with_projection(wanted).with_row_filter(filter).with_batch_size(READ_ROWS).build()?;
        for batch in reader {
            let batch = batch?;
            let ids = batch.column(0).as_string::<i32>();
            let raw = batch.column(1).as_binary::<i32>();
            // Nobody knows what an erased record was.
            for row in (0..batch.num_rows()).filter(|row| raw.is_valid(*row)) {
                let id = if ids.is_valid(row) { id_of_event(ids.value(row)) } else { head_of(raw.value(row)).0 };
                if let Some(at) = Entry::find(index, &id)
                    && let (Some(entry), Some(slot)) = (index.get(at), known.get_mut(at))
                {
                    *slot = entry.compare(raw.value(row));
                }
            }
        }
    }
    Ok(known)
}

/// The list of files.
pub(super) struct Files(Connection);

impl Files {
    /// Opens the list of the import in `folder`, or begins one.
    pub(super) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open(folder.join(DATABASE))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        let version: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            db.execute_batch(
                "CREATE TABLE files (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, stamp TEXT NOT NULL) WITHOUT ROWID",
            )?;
            db.pragma_update(None, "user_version", VERSION)?;
        } else if version != VERSION {
            return Err(rusqlite::Error::InvalidParameterName(format!("files.db of version {version}")));
        }
        Ok(Self(db))
    }

    /// Whether `file`, unchanged, is in the log as a whole.
    pub(super) fn has(&self, file: &SourceFile) -> rusqlite::Result<bool> {
        let mut query = self.0.prepare_cached("SELECT bytes, stamp FROM files WHERE name = ?1")?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
        let found = query.query_row([&file.name], row).optional()?;
        Ok(found.is_some_and(|(bytes, stamp)| u64::try_from(bytes) == Ok(file.bytes) && stamp == file.stamp))
    }

    /// Adds files that are.
    pub(super) fn add(&mut self, files: &[SourceFile]) -> rusqlite::Result<()> {
        let step = self.0.transaction()?;
        for file in files {
            let bytes = i64::try_from(file.bytes).unwrap_or(i64::MAX);
            step.execute("INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3)", params![file.name, bytes, file.stamp])?;
        }
        step.commit()
    }
}
