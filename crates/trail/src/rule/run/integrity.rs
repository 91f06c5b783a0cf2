//! Findings about the log itself, as a table that rules of kind meta read.
//!
//! The lander, the prover and the engine raise them; table `integrity` has a row per finding. They have no position in
//! the log, so they carry the time they were found.

use crate::lake::schema::timestamp;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::{Arc, LazyLock};

/// Something is wrong with a log, or with the watch over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Log id, 32 hex digits.
    pub log: String,
    /// When it was found, Unix microseconds.
    pub time_us: i64,
    /// `gap`, `fork`, `forged`, `unknown-log`, `source-damaged`, `rollback`, `checkpoint-mismatch`, `checkpoint-forged`,
    /// `key-forged`, `unproved`, `exception-young`, `exception-expired`, `rule-failed`,
    /// `rule-stopped`, `lag`, `late` or `risk`.
    pub finding: String,
    /// First seq concerned, if known.
    pub first_seq: Option<u64>,
    /// Last seq concerned, if known.
    pub last_seq: Option<u64>,
    /// One sentence.
    pub detail: String,
    /// Whom it is about, of findings about somebody.
    pub entity: Option<String>,
    /// How much, of findings that measure: seconds of lag or lateness, points of risk.
    pub value: Option<u64>,
    /// How many, of findings that count: different rules behind the risk.
    pub count: Option<u64>,
}

/// Columns of table `integrity`.
pub fn integrity_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![
            Field::new("log", DataType::Utf8, false),
            Field::new("event_time", timestamp(), false),
            Field::new("finding", DataType::Utf8, false),
            Field::new("first_seq", DataType::Int64, true),
            Field::new("last_seq", DataType::Int64, true),
            Field::new("detail", DataType::Utf8, false),
            Field::new("entity", DataType::Utf8, true),
            Field::new("value", DataType::Int64, true),
            Field::new("count", DataType::Int64, true),
        ]))
    });
    SCHEMA.clone()
}

impl Integrity {
    /// One row of table `integrity`.
    pub(crate) fn batch(&self) -> RecordBatch {
        let seq = |seq: Option<u64>| -> ArrayRef {
            Arc::new(Int64Array::from(vec![seq.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX))]))
        };
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        let time = TimestampMicrosecondArray::from(vec![self.time_us]).with_timezone(crate::lake::schema::ZONE);
        let columns = vec![
            text(&self.log),
            Arc::new(time) as ArrayRef,
            text(&self.finding),
            seq(self.first_seq),
            seq(self.last_seq),
            text(&self.detail),
            Arc::new(StringArray::from(vec![self.entity.as_deref()])),
            seq(self.value),
            seq(self.count),
        ];
        RecordBatch::try_new(integrity_schema(), columns).expect("columns are built to the schema")
    }
}
