//! Tables `rules`, `rule_runs` and `risk`: which rules are loaded, what they did, and which points their alerts gave, from
//! trail.db.
//!
//! trail.db belongs to the trail's process and is opened read-only, at the moment a query scans the table.

use super::stores::{Stored, external, has_table, open};
use crate::lake::schema::{ZONE, timestamp};
use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use datafusion::error::Result;
use rusqlite::types::Value;
use std::path::Path;
use std::sync::Arc;

/// Most rows shown, the newest first to stay.
const ROWS_MAX: usize = 1_000_000;

/// Column in SQL, column in trail.db, type.
type Columns = &'static [(&'static str, &'static str, Type)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Long,
    Time,
}

const RULES: Columns = &[
    ("id", "id", Type::Text),
    ("version", "version", Type::Long),
    ("kind", "kind", Type::Text),
    ("title", "title", Type::Text),
    ("severity", "severity", Type::Text),
    ("hash", "hash", Type::Text),
    ("attack", "attack", Type::Text),
    ("status", "status", Type::Text),
    ("loaded_since", "loaded_us", Type::Time),
    ("last_error", "error", Type::Text),
];

const RUNS: Columns = &[
    ("minute", "minute_us", Type::Time),
    ("rule_id", "rule_id", Type::Text),
    ("rule_version", "rule_version", Type::Long),
    ("rule_hash", "rule_hash", Type::Text),
    ("log", "log", Type::Text),
    ("first_seq", "first_seq", Type::Long),
    ("last_seq", "last_seq", Type::Long),
    ("runs", "runs", Type::Long),
    ("failed", "failed", Type::Long),
    ("events", "events", Type::Long),
    ("matched", "matched", Type::Long),
    ("findings", "findings", Type::Long),
    ("deduplicated", "deduplicated", Type::Long),
    ("suppressed", "suppressed", Type::Long),
    ("spent_us", "spent_us", Type::Long),
    ("state_entries", "state_entries", Type::Long),
    ("state_bytes", "state_bytes", Type::Long),
    ("error", "error", Type::Text),
];

const RISK: Columns = &[
    ("entity_kind", "kind", Type::Text),
    ("entity", "entity", Type::Text),
    ("rule_id", "rule_id", Type::Text),
    ("alert_id", "alert_id", Type::Text),
    ("event_time", "time_us", Type::Time),
    ("points", "points", Type::Long),
];

/// `risk`: the points that each alert gave to its principal and its key, of a week.
pub(super) fn risk(dir: Option<&Path>) -> Stored {
    Stored::new(dir, || fields(RISK), |dir| read(dir, "risk", RISK, "time_us DESC"))
}

/// `rules`: one row a loaded rule.
pub(super) fn rules(dir: Option<&Path>) -> Stored {
    Stored::new(dir, || fields(RULES), |dir| read(dir, "rules", RULES, "id"))
}

/// `rule_runs`: what each rule did, a row a rule, log and minute.
pub(super) fn runs(dir: Option<&Path>) -> Stored {
    Stored::new(dir, || fields(RUNS), |dir| read(dir, "rule_runs", RUNS, "minute_us DESC"))
}

fn fields(columns: Columns) -> Vec<Field> {
    let field = |(name, _, kind): &(&str, &str, Type)| {
        let data_type = match kind {
            Type::Text => DataType::Utf8,
            Type::Long => DataType::Int64,
            Type::Time => timestamp(),
        };
        Field::new(*name, data_type, true)
    };
    columns.iter().map(field).collect()
}

fn read(dir: &Path, table: &str, columns: Columns, order: &str) -> Result<Vec<ArrayRef>> {
    let names: Vec<&str> = columns.iter().map(|(_, column, _)| *column).collect();
    let sql = format!("SELECT {} FROM {table} ORDER BY {order} LIMIT {ROWS_MAX}", names.join(", "));
    let rows = rows(&dir.join("trail.db"), &sql, columns.len()).map_err(external)?;
    Ok(columns.iter().zip(rows).map(|((_, _, kind), column)| array(*kind, column)).collect())
}

/// The columns' values; none without a trail.db, or with one that an older Keytrail left.
fn rows(path: &Path, sql: &str, width: usize) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut columns: Vec<Vec<Value>> = vec![Vec::new(); width];
    let Some(db) = open(path)? else { return Ok(columns) };
    // The newest of them: where it is, all are as this program knows them.
    if !has_table(&db, "risk")? {
        return Ok(columns);
    }
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for (index, column) in columns.iter_mut().enumerate() {
            column.push(row.get(index)?);
        }
    }
    Ok(columns)
}

fn array(kind: Type, column: Vec<Value>) -> ArrayRef {
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(*number),
        _ => None,
    };
    match kind {
        Type::Long => Arc::new(column.iter().map(number).collect::<Int64Array>()),
        Type::Time => Arc::new(column.iter().map(number).collect::<TimestampMicrosecondArray>().with_timezone(ZONE)),
        Type::Text => {
            let text = |value: Value| match value {
                Value::Text(text) => Some(text),
                _ => None,
            };
            Arc::new(column.into_iter().map(text).collect::<StringArray>())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rule::RuleRun;
    use crate::store::Store;
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::context::SessionContext;

    #[tokio::test]
    async fn runs_are_a_table_and_nothing_without_a_trail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        let mut store = Store::open(&path).unwrap();
        let run = RuleRun { rule_id: "r".into(), runs: 2, events: 7, last_seq: Some(6), ..RuleRun::default() };
        store.add_runs(&[run], 61_000_000).unwrap();
        let session = SessionContext::new();
        session.register_table("rule_runs", Arc::new(runs(Some(dir.path())))).unwrap();
        session.register_table("rules", Arc::new(rules(Some(dir.path())))).unwrap();
        session.register_table("none", Arc::new(runs(None))).unwrap();
        let sql = "SELECT minute, rule_id, first_seq, last_seq, events, error, (SELECT count(*) FROM rules) AS rules, \
                   (SELECT count(*) FROM none) AS none FROM rule_runs WHERE events > 1";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let text = pretty_format_batches(&rows).unwrap().to_string();
        let line = "| 1970-01-01T00:01:00Z | r       |           | 6        | 7      |       | 0     | 0    |";
        assert!(text.contains(line), "{text}");
    }
}
