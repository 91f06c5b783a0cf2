//! A Delta log over the lake's own files, for Spark, Trino and whoever else reads Delta: metadata only, nothing is copied.
//!
//! Each call compares what the log in `lake/_delta_log` says with the lake and adds one version with the difference, so
//! files that merging, erasure or retention removed leave the table with the next call. A log that is not ours or
//! cannot be read is begun anew. Protocol reader 1, writer 2; readers trust it like any file beside the lake, and the
//! commits remain what proves anything.

use super::file::{FileError, create_folder, sync_folder};
use super::schema::records_schema;
use super::store::{LakeError, names};
use super::writer::ReadLake;
use arrow::datatypes::DataType;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Folder of the log below the lake.
const FOLDER: &str = "_delta_log";

/// Largest log that is read back.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// Why the Delta log was not written.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The lake.
    #[error("lake cannot be read")]
    Lake(#[from] LakeError),
    /// Folder or file of the log.
    #[error("delta log cannot be written")]
    File(#[from] FileError),
}

/// The table after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaTable {
    /// Newest version.
    pub version: u64,
    /// Files in it.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Whether this call changed anything.
    pub changed: bool,
}

/// A file as the Delta log names it.
struct Listed {
    bytes: u64,
    rows: u64,
    seqs: Option<(u64, u64)>,
}

/// Brings the Delta log of the lake at `root` up to its commits. Two calls at once: one of them fails.
pub fn write_log(root: &Path, now_us: u64) -> Result<DeltaTable, DeltaError> {
    let snapshot = ReadLake::open(root)?.into_snapshot();
    let mut wanted = BTreeMap::new();
    for file in snapshot.files() {
        let seqs = Some((file.first, file.last));
        wanted.insert(file.path.clone(), Listed { bytes: file.bytes, rows: file.rows, seqs });
    }
    for kept in snapshot.logs().values().filter_map(|log| log.kept.as_ref()) {
        wanted.insert(kept.path.clone(), Listed { bytes: kept.bytes, rows: kept.rows, seqs: None });
    }
    let folder = root.join(FOLDER);
    create_folder(root, &folder)?;
    let now_ms = now_us / 1_000;
    let (mut actions, listed, version) = match read_log(&folder)? {
        Some((listed, newest)) => (Vec::new(), listed, newest + 1),
        None => {
            clear(&folder)?;
            (beginning(now_ms), BTreeSet::new(), 0)
        }
    };
    let is_gone = |path: &&String| !wanted.contains_key(*path);
    actions.extend(listed.iter().filter(is_gone).map(|path| remove(path, now_ms)));
    actions
        .extend(wanted.iter().filter(|(path, _)| !listed.contains(*path)).map(|(path, file)| add(path, file, now_ms)));
    let table = |version, changed| DeltaTable {
        version,
        files: wanted.len(),
        rows: wanted.values().map(|file| file.rows).sum(),
        changed,
    };
    if actions.is_empty() {
        return Ok(table(version.saturating_sub(1), false));
    }
    actions.push(json!({"commitInfo": {"timestamp": now_ms, "operation": "WRITE", "engineInfo": "keytrail"}}));
    put(&folder, version, &actions)?;
    Ok(table(version, true))
}

/// The files that the log names, and its newest version; None for a log that is not there, not whole or not ours.
fn read_log(folder: &Path) -> Result<Option<(BTreeSet<String>, u64)>, DeltaError> {
    let mut listed = BTreeSet::new();
    let mut newest = None;
    for (version, name) in versions(folder)?.into_iter().enumerate() {
        let path = folder.join(&name);
        let fits = name == version_name(version as u64) && fs::metadata(&path).is_ok_and(|m| m.len() <= LOG_BYTES_MAX);
        let Some(text) = fits.then(|| fs::read_to_string(&path).ok()).flatten() else { return Ok(None) };
        for line in text.lines() {
            let Ok(action) = serde_json::from_str::<Value>(line) else { return Ok(None) };
            let path = |name: &str| action.get(name).and_then(|action| action.get("path")).and_then(Value::as_str);
            if let Some(path) = path("add") {
                listed.insert(path.to_owned());
            }
            if let Some(path) = path("remove") {
                listed.remove(path);
            }
        }
        newest = Some(version as u64);
    }
    Ok(newest.map(|newest| (listed, newest)))
}

fn versions(folder: &Path) -> Result<Vec<String>, DeltaError> {
    Ok(names(folder)?.into_iter().filter(|name| name.ends_with(".json")).collect())
}

fn clear(folder: &Path) -> Result<(), DeltaError> {
    for name in names(folder)? {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(|source| FileError::Io { step: "remove", path, source })?;
    }
    Ok(())
}

fn version_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// Protocol and schema, the first actions of a table.
fn beginning(now_ms: u64) -> Vec<Value> {
    let schema = records_schema();
    let fields = schema.fields().iter().map(|field| {
        json!({"name": field.name(), "type": delta_type(field.data_type()), "nullable": field.is_nullable(), "metadata": {}})
    });
    let schema = json!({"type": "struct", "fields": fields.collect::<Vec<_>>()}).to_string();
    vec![
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": {
            "id": uuid::Uuid::now_v7().to_string(), "format": {"provider": "parquet", "options": {}},
            "schemaString": schema, "partitionColumns": [], "configuration": {}, "createdTime": now_ms
        }}),
    ]
}

fn delta_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int32 => "integer",
        DataType::Int64 => "long",
        DataType::Boolean => "boolean",
        DataType::Binary => "binary",
        DataType::Timestamp(_, _) => "timestamp",
        _ => "string",
    }
}

fn add(path: &str, file: &Listed, now_ms: u64) -> Value {
    let stats = match file.seqs {
        Some((first, last)) => {
            json!({"numRecords": file.rows, "minValues": {"seq": first}, "maxValues": {"seq": last}, "nullCount": {"seq": 0}})
        }
        None => json!({"numRecords": file.rows}),
    };
    json!({"add": {
        "path": path, "partitionValues": {}, "size": file.bytes, "modificationTime": now_ms, "dataChange": true,
        "stats": stats.to_string()
    }})
}

fn remove(path: &str, now_ms: u64) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": now_ms, "dataChange": true}})
}

/// Puts a version if nobody did, durably.
fn put(folder: &Path, version: u64, actions: &[Value]) -> Result<(), DeltaError> {
    let path = folder.join(version_name(version));
    let temporary = folder.join(format!(".tmp-{}", std::process::id()));
    let io = |step| {
        let path = path.clone();
        move |source| FileError::Io { step, path, source }
    };
    let mut file = File::create(&temporary).map_err(io("create"))?;
    for action in actions {
        writeln!(file, "{action}").map_err(io("write"))?;
    }
    file.sync_all().map_err(io("sync"))?;
    // A link, unlike a rename, does not replace what somebody else put.
    let linked = fs::hard_link(&temporary, &path).map_err(io("put"));
    fs::remove_file(&temporary).map_err(io("remove"))?;
    linked?;
    Ok(sync_folder(folder)?)
}
