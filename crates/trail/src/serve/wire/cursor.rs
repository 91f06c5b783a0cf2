//! Rows of one statement on their way out: all at once, or as many as a client asks for at a time.

use super::error::WireError;
use crate::query::Cancel;
use crate::serve::Answer;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_pg::datatypes::{arrow_schema_to_pg_fields, encode_recordbatch};
use pgwire::api::portal::Format;
use pgwire::api::results::FieldInfo;
use pgwire::error::PgWireResult;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use std::sync::Arc;

/// A query that was started, with the rows that were taken from it and not yet sent.
pub(super) struct Cursor {
    source: Source,
    schema: SchemaRef,
    pending: Option<RecordBatch>,
    /// Of the statement, for positions in its errors.
    text: String,
    offset_chars: usize,
    pub(super) cancel: Cancel,
}

enum Source {
    Query(Box<Answer>),
    /// An answer of the connection's own, such as SHOW's.
    Given,
    Ended,
}

impl Cursor {
    pub(super) fn new(answer: Answer, text: String, offset_chars: usize, cancel: Cancel) -> Self {
        let schema = answer.schema();
        Self { source: Source::Query(Box::new(answer)), schema, pending: None, text, offset_chars, cancel }
    }

    /// Over rows that are there already.
    pub(super) fn given(batch: RecordBatch) -> Self {
        let schema = batch.schema();
        let (text, cancel) = (String::new(), Cancel::new());
        Self { source: Source::Given, schema, pending: Some(batch), text, offset_chars: 0, cancel }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Up to `rows_max` rows; None when there are no more.
    pub(super) async fn take(&mut self, rows_max: usize) -> Result<Option<RecordBatch>, WireError> {
        loop {
            if let Some(batch) = self.pending.take().filter(|batch| batch.num_rows() > 0) {
                if batch.num_rows() <= rows_max {
                    return Ok(Some(batch));
                }
                self.pending = Some(batch.slice(rows_max, batch.num_rows() - rows_max));
                return Ok(Some(batch.slice(0, rows_max)));
            }
            let Source::Query(answer) = &mut self.source else { return Ok(None) };
            match answer.next().await {
                Some(Ok(batch)) => self.pending = Some(batch),
                Some(Err(error)) => {
                    self.source = Source::Ended;
                    return Err(WireError::of_query(&error, &self.text, self.offset_chars));
                }
                None => self.source = Source::Ended,
            }
        }
    }
}

/// Columns as PostgreSQL's types, in the formats asked for.
pub(super) fn fields(schema: &SchemaRef, format: &Format) -> Result<Arc<Vec<FieldInfo>>, WireError> {
    if let Format::Individual(codes) = format
        && codes.len() != schema.fields().len()
    {
        let text = format!("{} result formats for {} columns", codes.len(), schema.fields().len());
        return Err(WireError::new("08P01", text));
    }
    let fields = arrow_schema_to_pg_fields(schema, format, None)?;
    Ok(Arc::new(fields.into_iter().map(sized).collect()))
}

/// With the width that PostgreSQL's catalog gives the type.
fn sized(field: FieldInfo) -> FieldInfo {
    let size = match field.datatype().name() {
        "bool" | "char" => 1,
        "int2" => 2,
        "int4" | "oid" | "float4" | "date" => 4,
        "int8" | "float8" | "timestamp" | "timestamptz" | "time" => 8,
        "interval" => 16,
        _ => -1,
    };
    field.with_type_size(size)
}

pub(super) fn description(fields: &[FieldInfo]) -> RowDescription {
    RowDescription::new(fields.iter().map(FieldDescription::from).collect())
}

/// The rows as messages. Types that have no form in PostgreSQL are errors, never a panic.
pub(super) fn rows(fields: &Arc<Vec<FieldInfo>>, batch: RecordBatch) -> impl Iterator<Item = PgWireResult<DataRow>> {
    encode_recordbatch(fields.clone(), batch)
}
