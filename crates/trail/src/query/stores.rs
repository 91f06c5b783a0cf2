//! Tables over what other parts keep beside the lake: `incidents` of responder.db, `checkpoints` of the node's folder,
//! `exceptions` of trail.db.
//!
//! Everything is opened read-only, and what is not there is empty: SQL works on a folder that has no responder. The files
//! belong to processes of the same operator; what is in them is shown, not believed: no row of these proves anything.

use super::functions::site::Site;
use super::tables::{long, longs, schema, table, text, texts, time, times};
use crate::store::open_read_only;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use keytrail_kms::chain::Checkpoint;
use rusqlite::{Connection, OptionalExtension as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most incidents shown, the newest first to stay.
const INCIDENTS_MAX: i64 = 100_000;

/// Longest note read from the checkpoints' folder.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// A table that is read whole from a data folder when a query scans it.
#[derive(Debug)]
pub(crate) struct Stored {
    dir: Option<PathBuf>,
    columns: fn() -> Vec<Field>,
    rows: fn(&Path) -> Result<Vec<ArrayRef>, DataFusionError>,
}

impl Stored {
    pub(super) fn new(
        dir: Option<&Path>,
        columns: fn() -> Vec<Field>,
        rows: fn(&Path) -> Result<Vec<ArrayRef>, DataFusionError>,
    ) -> Self {
        Self { dir: dir.map(Path::to_owned), columns, rows }
    }

    /// `incidents`: what the responder made of alerts.
    pub(crate) fn incidents(dir: Option<&Path>) -> Self {
        Self::new(dir, incident_columns, incidents)
    }

    /// `exceptions`: what they say, and what they muted.
    pub(crate) fn exceptions(dir: Option<&Path>) -> Self {
        Self::new(dir, exception_columns, exceptions)
    }

    /// `checkpoints`: the newest signed ones in the node's folder.
    pub(crate) fn checkpoints(dir: Option<&Path>) -> Self {
        Self::new(dir, checkpoint_columns, checkpoints)
    }
}

#[async_trait]
impl TableProvider for Stored {
    fn schema(&self) -> SchemaRef {
        schema(&(self.columns)())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.schema();
        let Some(dir) = self.dir.clone() else { return table(RecordBatch::new_empty(schema), projection, limit) };
        let rows = self.rows;
        let columns = tokio::task::spawn_blocking(move || rows(&dir)).await.map_err(external)??;
        table(RecordBatch::try_new(schema, columns)?, projection, limit)
    }
}

/// What the running trail's site says; nobody is trusted where no trail has run.
pub(crate) fn site(trail_db: &Path) -> Site {
    let read = || -> rusqlite::Result<Option<Vec<u8>>> {
        let Some(db) = open(trail_db)? else { return Ok(None) };
        let sql = "SELECT value FROM meta WHERE key = 'trusted_accounts'";
        db.query_row(sql, [], |row| row.get(0)).optional()
    };
    read().ok().flatten().map_or_else(Site::default, |json| Site::of_json(&json))
}

pub(super) fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The database, if the file is there.
pub(super) fn open(path: &Path) -> rusqlite::Result<Option<Connection>> {
    if !path.exists() {
        return Ok(None);
    }
    open_read_only(path).map(Some)
}

pub(super) fn has_table(db: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    db.query_row(sql, [name], |row| row.get(0))
}

fn incident_columns() -> Vec<Field> {
    vec![
        text("incident_id"),
        text("state"),
        text("severity"),
        text("title"),
        text("principal"),
        text("keys"),
        text("rule_ids"),
        long("alerts"),
        time("opened_at"),
        time("changed_at"),
        time("first_event_at"),
        time("last_event_at"),
        time("resolved_at"),
        text("acknowledged_by"),
        text("assignee"),
        text("resolution"),
        text("resolved_by"),
        text("merged_into"),
        text("not_contained"),
        text("exposure"),
        long("reopenings"),
        time("acknowledged_at"),
        time("contained_at"),
        time("reopened_at"),
    ]
}

/// Columns in the order of [`incident_columns`]: seven texts, a number, five times, and once more seven, one, three.
struct Incident {
    texts: [Option<String>; 14],
    numbers: [i64; 2],
    times: [Option<i64>; 8],
}

/// What a responder of before did not keep: these columns may be missing.
const LATER: [&str; 11] = [
    "acknowledged_by",
    "assignee",
    "resolution",
    "resolved_by",
    "merged_into",
    "not_contained",
    "exposure",
    "reopenings",
    "acknowledged_us",
    "contained_us",
    "reopened_us",
];

fn incidents(dir: &Path) -> Result<Vec<ArrayRef>> {
    let rows = read_incidents(&dir.join("responder.db")).map_err(external)?;
    let text = |at: usize| texts(rows.iter().map(|row| row.texts[at].clone()));
    let time = |at: usize| times(rows.iter().map(|row| row.times[at]));
    let number = |at: usize| longs(rows.iter().map(|row| row.numbers[at]));
    let mut columns: Vec<ArrayRef> = (0..7).map(text).collect();
    columns.push(number(0));
    columns.extend((0..5).map(time));
    columns.extend((7..14).map(text));
    columns.push(number(1));
    columns.extend((5..8).map(time));
    Ok(columns)
}

fn read_incidents(path: &Path) -> rusqlite::Result<Vec<Incident>> {
    let Some(db) = open(path)? else { return Ok(Vec::new()) };
    if !has_table(&db, "incidents")? {
        return Ok(Vec::new());
    }
    let mut held = db.prepare("SELECT name FROM pragma_table_info('incidents')")?;
    let held = held.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let later = LATER.map(|name| if held.iter().any(|one| one == name) { name } else { "NULL" });
    let mut statement = db.prepare(&format!(
        "SELECT id, state, severity, title, principal,
           (SELECT json_group_array(key_arn) FROM incident_keys WHERE incident = i.id),
           (SELECT json_group_array(rule_id) FROM (SELECT DISTINCT rule_id FROM alerts WHERE incident = i.id)),
           {},
           (SELECT count(DISTINCT alert_id) FROM alerts WHERE incident = i.id), coalesce({}, 0),
           opened_us, changed_us, first_event_us, last_event_us, resolved_us, {}
         FROM (SELECT * FROM incidents ORDER BY opened_us DESC LIMIT ?1) i ORDER BY opened_us",
        later[..7].join(", "),
        later[7],
        later[8..].join(", ")
    ))?;
    let rows = statement.query_map([INCIDENTS_MAX], |row| {
        let numbers = [row.get(14)?, row.get(15)?];
        let mut incident = Incident { texts: Default::default(), numbers, times: Default::default() };
        for (at, text) in incident.texts.iter_mut().enumerate() {
            *text = row.get(at)?;
        }
        for (at, time) in incident.times.iter_mut().enumerate() {
            *time = row.get(16 + at)?;
        }
        Ok(incident)
    })?;
    rows.collect()
}

fn exception_columns() -> Vec<Field> {
    vec![
        text("exception_id"),
        text("rules"),
        text("predicate"),
        text("owner"),
        text("ticket"),
        text("reason"),
        text("last_alert_id"),
        long("hits"),
        Field::new("loaded", DataType::Boolean, false),
        time("created_at"),
        time("expires_at"),
        time("last_event_at"),
    ]
}

struct ExceptionRow {
    texts: [Option<String>; 7],
    hits: i64,
    loaded: bool,
    times: [Option<i64>; 3],
}

fn exceptions(dir: &Path) -> Result<Vec<ArrayRef>> {
    let rows = read_exceptions(&dir.join("trail.db")).map_err(external)?;
    let text = |at: usize| texts(rows.iter().map(|row| row.texts[at].clone()));
    let time = |at: usize| times(rows.iter().map(|row| row.times[at]));
    let mut columns: Vec<ArrayRef> = (0..7).map(text).collect();
    columns.push(longs(rows.iter().map(|row| row.hits)));
    columns.push(Arc::new(rows.iter().map(|row| Some(row.loaded)).collect::<BooleanArray>()));
    columns.extend((0..3).map(time));
    Ok(columns)
}

fn read_exceptions(path: &Path) -> rusqlite::Result<Vec<ExceptionRow>> {
    let Some(db) = open(path)? else { return Ok(Vec::new()) };
    if !has_table(&db, "exceptions")? {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare(
        "SELECT id, rules, predicate, owner, ticket, reason, last_alert_id, hits, loaded, created_us, expires_us, last_event_us
         FROM exceptions ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let (hits, loaded) = (row.get(7)?, row.get(8)?);
        let mut exception = ExceptionRow { texts: Default::default(), hits, loaded, times: Default::default() };
        for (at, text) in exception.texts.iter_mut().enumerate() {
            *text = row.get(at)?;
        }
        for (at, time) in exception.times.iter_mut().enumerate() {
            *time = row.get(9 + at)?;
        }
        Ok(exception)
    })?;
    rows.collect()
}

fn checkpoint_columns() -> Vec<Field> {
    vec![
        text("origin"),
        text("log"),
        long("tree_size"),
        text("root_hash"),
        Field::new("cosigned", DataType::Boolean, false),
        long("signatures"),
        text("note"),
    ]
}

/// `latest` and, where there are witnesses, `cosigned`.
fn checkpoints(dir: &Path) -> Result<Vec<ArrayRef>> {
    let names = [("latest", false), ("cosigned", true)];
    let read = |(name, cosigned): (&str, bool)| -> Option<(Checkpoint, bool, String)> {
        let path = dir.join("checkpoints").join(name);
        if std::fs::metadata(&path).ok()?.len() > NOTE_BYTES_MAX {
            return None;
        }
        let note = std::fs::read_to_string(path).ok()?;
        let (body, _) = note.split_at(note.find("\n\n")? + 1);
        Some((Checkpoint::parse_body(body).ok()?, cosigned, note))
    };
    let rows: Vec<(Checkpoint, bool, String)> = names.into_iter().filter_map(read).collect();
    let signatures = |note: &str| note.lines().filter(|line| line.starts_with('\u{2014}')).count();
    Ok(vec![
        texts(rows.iter().map(|(checkpoint, ..)| Some(checkpoint.origin.clone()))),
        texts(rows.iter().map(|(checkpoint, ..)| Some(checkpoint.log_id().to_string()))),
        longs(rows.iter().map(|(checkpoint, ..)| i64::try_from(checkpoint.size).unwrap_or(i64::MAX))),
        texts(rows.iter().map(|(checkpoint, ..)| Some(hex::encode(checkpoint.root.0)))),
        Arc::new(rows.iter().map(|(_, cosigned, _)| Some(*cosigned)).collect::<BooleanArray>()),
        longs(rows.iter().map(|(.., note)| i64::try_from(signatures(note)).unwrap_or(i64::MAX))),
        texts(rows.iter().map(|(.., note)| Some(note.clone()))),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::AsArray as _;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::prelude::SessionContext;
    use keytrail_kms::chain::{LogId, RootHash, SigningKey};

    /// The tables of a responder before and after people could mark incidents.
    const BEFORE: &str = "
        CREATE TABLE incidents(id TEXT PRIMARY KEY, principal TEXT, title TEXT, severity TEXT, state TEXT,
          opened_us INTEGER, changed_us INTEGER, first_event_us INTEGER, last_event_us INTEGER, resolved_us INTEGER);
        CREATE TABLE incident_keys(incident TEXT, key_arn TEXT);
        CREATE TABLE alerts(alert_id TEXT, revision INTEGER, incident TEXT, rule_id TEXT);
        INSERT INTO incidents VALUES ('I-1', 'arn:m', 'a title', 'high', 'resolved', 1, 2, 3, 4, 5);
        INSERT INTO incident_keys VALUES ('I-1', 'k1'), ('I-1', 'k2'), ('I-2', 'k3');
        INSERT INTO alerts VALUES ('a', 0, 'I-1', 'r1'), ('a', 1, 'I-1', 'r1'), ('b', 0, 'I-1', 'r2');";
    const AFTER: &str = "
        ALTER TABLE incidents ADD COLUMN acknowledged_by TEXT; ALTER TABLE incidents ADD COLUMN assignee TEXT;
        ALTER TABLE incidents ADD COLUMN resolution TEXT; ALTER TABLE incidents ADD COLUMN resolved_by TEXT;
        ALTER TABLE incidents ADD COLUMN merged_into TEXT; ALTER TABLE incidents ADD COLUMN not_contained TEXT;
        ALTER TABLE incidents ADD COLUMN exposure TEXT; ALTER TABLE incidents ADD COLUMN reopenings INTEGER;
        ALTER TABLE incidents ADD COLUMN acknowledged_us INTEGER; ALTER TABLE incidents ADD COLUMN contained_us INTEGER;
        ALTER TABLE incidents ADD COLUMN reopened_us INTEGER;
        UPDATE incidents SET acknowledged_by = 'alice', resolution = 'benign', merged_into = 'I-9', reopenings = 2,
          acknowledged_us = 6, contained_us = 7;";

    #[test]
    fn incidents_are_read_from_an_older_and_a_newer_store() {
        use arrow::array::{Array, AsArray};
        use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("responder.db")).unwrap();
        db.execute_batch(BEFORE).unwrap();
        let read = || RecordBatch::try_new(schema(&incident_columns()), incidents(dir.path()).unwrap()).unwrap();
        let text = |batch: &RecordBatch, name: &str| {
            let column = batch.column_by_name(name).unwrap().as_string::<i32>();
            column.is_valid(0).then(|| column.value(0).to_owned())
        };
        let number =
            |batch: &RecordBatch, name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().value(0);
        let older = read();
        assert_eq!((older.num_rows(), number(&older, "alerts"), number(&older, "reopenings")), (1, 2, 0));
        for (name, expected) in [
            ("incident_id", Some("I-1")),
            ("state", Some("resolved")),
            ("keys", Some(r#"["k1","k2"]"#)),
            ("rule_ids", Some(r#"["r1","r2"]"#)),
            ("acknowledged_by", None),
        ] {
            assert_eq!(text(&older, name).as_deref(), expected, "{name}");
        }
        db.execute_batch(AFTER).unwrap();
        let newer = read();
        for (name, expected) in [
            ("acknowledged_by", Some("alice")),
            ("resolution", Some("benign")),
            ("merged_into", Some("I-9")),
            ("assignee", None),
        ] {
            assert_eq!(text(&newer, name).as_deref(), expected, "{name}");
        }
        assert_eq!(number(&newer, "reopenings"), 2);
        for (name, at) in [("resolved_at", 5), ("acknowledged_at", 6), ("contained_at", 7)] {
            let column = newer.column_by_name(name).unwrap();
            assert_eq!(column.as_primitive::<TimestampMicrosecondType>().value(0), at, "{name}");
        }
    }

    #[test]
    fn a_folder_without_stores_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(incidents(dir.path()).unwrap()[0].len(), 0);
        assert_eq!(checkpoints(dir.path()).unwrap()[0].len(), 0);
        assert_eq!(site(&dir.path().join("trail.db")), Site::default());
    }

    #[tokio::test]
    async fn checkpoints_are_shown_as_they_are_signed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("checkpoints");
        std::fs::create_dir_all(&folder).unwrap();
        let origin = "keytrail/test/node-0123456789abcdef";
        let (key, _) = SigningKey::generate(origin).unwrap();
        let signed = |size: u64, byte: u8| {
            key.sign(&Checkpoint { origin: origin.to_owned(), size, root: RootHash([byte; 32]) }).unwrap()
        };
        std::fs::write(folder.join("latest"), signed(9, 7)).unwrap();
        // A witness's line below the log's own; nobody checks it here.
        let cosigned = format!("{}\u{2014} witness.example/w1 AAAAAAAA\n", signed(8, 6));
        std::fs::write(folder.join("cosigned"), &cosigned).unwrap();
        let session = SessionContext::new();
        session.register_table("checkpoints", Arc::new(Stored::checkpoints(Some(dir.path())))).unwrap();
        let sql = "SELECT origin, log, tree_size, root_hash, cosigned, signatures FROM checkpoints ORDER BY tree_size";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let text = pretty_format_batches(&rows).unwrap().to_string();
        let log = LogId::of_origin(origin);
        for (size, byte, cosigned, signatures) in [(8, "06", true, 2), (9, "07", false, 1)] {
            let root = byte.repeat(32);
            let cells =
                [origin, &log.to_string(), &size.to_string(), &root, &cosigned.to_string(), &signatures.to_string()];
            let line = text.lines().find(|line| line.contains(&root)).unwrap();
            assert!(cells.iter().all(|cell| line.contains(&format!("| {cell} "))), "{line}");
        }
        let notes = session.sql("SELECT note FROM checkpoints WHERE cosigned").await.unwrap().collect().await.unwrap();
        assert_eq!(notes[0].column(0).as_string::<i32>().value(0), cosigned);
        // What is no checkpoint, or far too long to be one, is no row.
        std::fs::write(folder.join("cosigned"), "no checkpoint\n\n").unwrap();
        std::fs::write(folder.join("latest"), format!("{}{}", signed(9, 7), "x".repeat(70_000))).unwrap();
        assert_eq!(checkpoints(dir.path()).unwrap()[0].len(), 0);
    }
}
