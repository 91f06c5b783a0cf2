//! Tables `rules` and `rule_runs`: which rules are loaded and what they did, from trail.db.
//!
//! trail.db belongs to the trail's process and is opened read-only, at the moment a query scans the table.

use crate::lake::schema::{ZONE, timestamp};
use crate::store::open_read_only;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use rusqlite::types::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most rows shown, the newest first to stay.
const ROWS_MAX: usize = 1_000_000;

/// A table of trail.db about rules.
#[derive(Debug)]
pub(crate) struct RuleTable {
    trail_db: Option<PathBuf>,
    table: &'static str,
    /// Column in SQL, column in trail.db, type.
    columns: &'static [(&'static str, &'static str, Type)],
    order: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Text,
    Long,
    Time,
}

const RULES: &[(&str, &str, Type)] = &[
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

const RUNS: &[(&str, &str, Type)] = &[
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
    ("spent_us", "spent_us", Type::Long),
    ("state_entries", "state_entries", Type::Long),
    ("state_bytes", "state_bytes", Type::Long),
    ("error", "error", Type::Text),
];

impl RuleTable {
    /// `rules`: one row a loaded rule.
    pub(crate) fn rules(trail_db: Option<PathBuf>) -> Self {
        Self { trail_db, table: "rules", columns: RULES, order: "id" }
    }

    /// `rule_runs`: what each rule did, a row a rule, log and minute.
    pub(crate) fn runs(trail_db: Option<PathBuf>) -> Self {
        Self { trail_db, table: "rule_runs", columns: RUNS, order: "minute_us DESC" }
    }

    fn sql(&self) -> String {
        let columns: Vec<&str> = self.columns.iter().map(|(_, column, _)| *column).collect();
        format!("SELECT {} FROM {} ORDER BY {} LIMIT {ROWS_MAX}", columns.join(", "), self.table, self.order)
    }
}

#[async_trait]
impl TableProvider for RuleTable {
    fn schema(&self) -> SchemaRef {
        let field = |(name, _, kind): &(&str, &str, Type)| {
            let data_type = match kind {
                Type::Text => DataType::Utf8,
                Type::Long => DataType::Int64,
                Type::Time => timestamp(),
            };
            Field::new(*name, data_type, true)
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (path, sql, width) = (self.trail_db.clone(), self.sql(), self.columns.len());
        let read = tokio::task::spawn_blocking(move || rows(path.as_deref(), &sql, width));
        let rows = read.await.map_err(external)?.map_err(external)?;
        let columns = self.columns.iter().zip(rows).map(|((_, _, kind), column)| array(*kind, column));
        let batch = RecordBatch::try_new(self.schema(), columns.collect())?;
        let source = MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?;
        Ok(source)
    }
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The columns' values; none without a trail.db, or with one that an older Keytrail left.
fn rows(path: Option<&Path>, sql: &str, width: usize) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut columns: Vec<Vec<Value>> = vec![Vec::new(); width];
    let Some(path) = path.filter(|path| path.exists()) else { return Ok(columns) };
    let db = open_read_only(path)?;
    if !db.table_exists(None, "rule_runs")? {
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
        session.register_table("rule_runs", Arc::new(RuleTable::runs(Some(path.clone())))).unwrap();
        session.register_table("rules", Arc::new(RuleTable::rules(Some(path)))).unwrap();
        session.register_table("none", Arc::new(RuleTable::runs(None))).unwrap();
        let sql = "SELECT minute, rule_id, first_seq, last_seq, events, error, (SELECT count(*) FROM rules) AS rules, \
                   (SELECT count(*) FROM none) AS none FROM rule_runs WHERE events > 1";
        let rows = session.sql(sql).await.unwrap().collect().await.unwrap();
        let text = pretty_format_batches(&rows).unwrap().to_string();
        let line = "| 1970-01-01T00:01:00Z | r       |           | 6        | 7      |       | 0     | 0    |";
        assert!(text.contains(line), "{text}");
    }
}
