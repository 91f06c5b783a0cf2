//! A session over the files of a pack: the same tables as over the lake, and those that only packs have.
//!
//! Records come from `parquet/`, everything else from `state/` and `alerts/`. Controls run here at export and again at rerun, so what
//! they say is a function of what the pack holds. Files are bounded in size, statements pass the gate as everywhere.

use crate::alert::ALERT_BYTES_MAX;
use crate::lake::provider::STORE_URL;
use crate::lake::schema::{ZONE, records_schema};
use crate::query::session::{Limits, events, with_tables};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tables that are whole files below `state/`.
pub const STATE_TABLES: [&str; 7] =
    ["access", "destroyed", "grants", "key_events", "key_policies", "keys", "log_events"];

/// Largest state file in bytes; they are read into memory.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// Most alerts and incidents read.
const LINES_MAX: usize = 200_000;

/// Longest line of `alerts/*.jsonl` in bytes: an alert with its signature, or an incident with its timeline.
const LINE_BYTES_MAX: usize = 8 * ALERT_BYTES_MAX;

/// Why a pack's tables cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A file that is not there or cannot be read.
    #[error("read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A Parquet file that is none.
    #[error("read {path} as Parquet")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ParquetError,
    },
    /// Rows that do not decode.
    #[error("decode {path}")]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ArrowError,
    },
    /// A file beyond its bound.
    #[error("{path} is larger than allowed")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no JSON.
    #[error("line {line} of {path} is not a JSON object")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// The session.
    #[error("make the tables of the pack")]
    Session(#[from] DataFusionError),
}

/// A session over the pack whose payload folder (`data/`) this is.
pub fn session(data: &Path, limits: &Limits) -> Result<SessionContext, TablesError> {
    let records = records(data)?;
    let mut tables: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    tables.insert("events".to_owned(), events(records.clone())?);
    tables.insert("records".to_owned(), records);
    for name in STATE_TABLES {
        tables.insert(name.to_owned(), state(&data.join(format!("state/{name}.parquet")))?);
    }
    tables.insert("alerts".to_owned(), memory(alerts(&data.join("alerts/alerts.jsonl"))?)?);
    tables.insert("incidents".to_owned(), memory(incidents(&data.join("alerts/incidents.jsonl"))?)?);
    Ok(with_tables(Some(data), limits, tables)?)
}

/// The record files of a pack, in order, as paths below `data`.
pub fn parquet_files(data: &Path) -> Result<Vec<String>, TablesError> {
    let mut found = Vec::new();
    for folder in entries(&data.join("parquet"))? {
        for file in entries(&folder)? {
            if file.extension().is_some_and(|extension| extension == "parquet")
                && let Some(path) = file.strip_prefix(data).ok().and_then(Path::to_str)
            {
                found.push(path.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, TablesError> {
    let failed = |source| TablesError::Io { path: folder.to_owned(), source };
    std::fs::read_dir(folder).map_err(failed)?.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

fn records(data: &Path) -> Result<Arc<dyn TableProvider>, TablesError> {
    let files = parquet_files(data)?;
    if files.is_empty() {
        return memory(RecordBatch::new_empty(records_schema()));
    }
    let urls = files.iter().map(|file| ListingTableUrl::parse(format!("{STORE_URL}/{file}")));
    let urls = urls.collect::<Result<Vec<_>, _>>()?;
    let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
    let config =
        ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(records_schema());
    Ok(Arc::new(ListingTable::try_new(config)?))
}

fn state(path: &Path) -> Result<Arc<dyn TableProvider>, TablesError> {
    let io = |source| TablesError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > STATE_BYTES_MAX {
        return Err(TablesError::TooLarge { path: path.to_owned() });
    }
    let wrong = |source| TablesError::Parquet { path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(wrong)?;
    let schema = reader.schema().clone();
    let batches: Result<Vec<RecordBatch>, ArrowError> = reader.build().map_err(wrong)?.collect();
    let batches = batches.map_err(|source| TablesError::Arrow { path: path.to_owned(), source })?;
    Ok(Arc::new(MemTable::try_new(schema, vec![batches])?))
}

fn memory(batch: RecordBatch) -> Result<Arc<dyn TableProvider>, TablesError> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

/// `alerts`: the newest revision of each.
fn alerts(path: &Path) -> Result<RecordBatch, TablesError> {
    let mut newest: BTreeMap<String, Value> = BTreeMap::new();
    for line in lines(path)? {
        let body = alert_body(line);
        let Some(id) = body["alertId"].as_str().map(str::to_owned) else { continue };
        let revision = |value: &Value| value["revision"].as_u64();
        if newest.get(&id).is_none_or(|held| revision(held) < revision(&body)) {
            newest.insert(id, body);
        }
    }
    let rows: Vec<&Value> = newest.values().collect();
    let text = |name: &'static str| texts(rows.iter().map(|row| row[name].as_str().map(str::to_owned)));
    let long = |name: &'static str| longs(rows.iter().map(|row| row[name].as_i64()));
    let time = |name: &'static str| times(rows.iter().map(|row| row[name].as_i64()));
    let columns = [
        ("alert_id", text("alertId")),
        ("revision", long("revision")),
        ("rule_id", text("ruleId")),
        ("rule_kind", text("ruleKind")),
        ("severity", text("severity")),
        ("title", text("title")),
        ("log", text("log")),
        ("first_event_at", time("firstEventMicros")),
        ("last_event_at", time("lastEventMicros")),
        ("last_event_us", long("lastEventMicros")),
        ("detected_at", time("detectedAtMicros")),
        ("detected_at_us", long("detectedAtMicros")),
        ("matched", long("matched")),
    ];
    table(path, columns)
}

/// The alert inside a line: bare, or beside its signature as an object or as its exact text.
fn alert_body(line: Value) -> Value {
    match &line["alert"] {
        Value::Object(_) => line["alert"].clone(),
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        _ => line,
    }
}

/// `incidents`: a row for each alert that belongs to one.
fn incidents(path: &Path) -> Result<RecordBatch, TablesError> {
    let mut rows: Vec<(Value, Option<String>)> = Vec::new();
    for line in lines(path)? {
        let alerts = line["alerts"].as_array().cloned().unwrap_or_default();
        let summary = if line["summary"].is_object() { line["summary"].clone() } else { line };
        let id_of = |alert: &Value| alert.as_str().or(alert["alert_id"].as_str()).map(str::to_owned);
        rows.extend(alerts.iter().map(|alert| (summary.clone(), id_of(alert))));
    }
    let text = |name: &'static str| texts(rows.iter().map(|(row, _)| row[name].as_str().map(str::to_owned)));
    let time = |name: &'static str| times(rows.iter().map(|(row, _)| row[name].as_i64()));
    let columns = [
        ("incident_id", text("id")),
        ("state", text("state")),
        ("severity", text("severity")),
        ("title", text("title")),
        ("principal", text("principal")),
        ("opened_at", time("opened_us")),
        ("changed_at", time("changed_us")),
        ("alert_id", texts(rows.iter().map(|(_, alert)| alert.clone()))),
    ];
    table(path, columns)
}

/// The objects of a file of JSON lines; none where there is no such file.
fn lines(path: &Path) -> Result<Vec<Value>, TablesError> {
    let io = |source| TablesError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut reader = BufReader::new(file);
    let mut found = Vec::new();
    loop {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(io)?;
        if read == 0 {
            return Ok(found);
        }
        if line.len() > LINE_BYTES_MAX || found.len() == LINES_MAX {
            return Err(TablesError::TooLarge { path: path.to_owned() });
        }
        let value: Option<Value> = serde_json::from_slice(&line).ok().filter(Value::is_object);
        found.push(value.ok_or_else(|| TablesError::Line { path: path.to_owned(), line: found.len() + 1 })?);
    }
}

fn table<const N: usize>(path: &Path, columns: [(&str, ArrayRef); N]) -> Result<RecordBatch, TablesError> {
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(schema, arrays).map_err(|source| TablesError::Arrow { path: path.to_owned(), source })
}

pub(super) fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn longs(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone(ZONE))
}
