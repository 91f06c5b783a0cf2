//! The columns of the lake, once: files, tail, rules and SQL use the same schema.
//!
//! `records` holds every seq of every kind; `events` shows kind 1 without the columns that only matter to a verifier.
//! Columns are only ever added at the end (docs/lake.md). No FixedSizeBinary and no Map: SQL clients choke on them.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use std::sync::{Arc, LazyLock};

/// Number of the column set; written to each file's metadata.
pub const SCHEMA_VERSION: u32 = 1;

/// Zone of every timestamp column.
pub const ZONE: &str = "UTC";

/// Columns of `records` that `events` leaves out.
pub const RECORD_ONLY: [&str; 3] = ["kind", "payload_len", "payload_digest"];

/// All columns, in the order of the files.
pub fn records_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| Arc::new(Schema::new(fields())));
    SCHEMA.clone()
}

/// The columns of `events`: those of `records` without [`RECORD_ONLY`].
pub fn events_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let kept = fields().into_iter().filter(|field| !RECORD_ONLY.contains(&field.name().as_str()));
        Arc::new(Schema::new(kept.collect::<Vec<_>>()))
    });
    SCHEMA.clone()
}

/// Type of the timestamp columns.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into()))
}

fn fields() -> Vec<Field> {
    let required = |name: &str, data_type| Field::new(name, data_type, false);
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let optional = |name: &str, data_type| Field::new(name, data_type, true);
    vec![
        required("log", DataType::Utf8),
        required("seq", DataType::Int64),
        required("epoch", DataType::Int64),
        required("kind", DataType::Int32),
        required("leaf_time_us", DataType::Int64),
        required("event_time", timestamp()),
        text("event_id"),
        text("request_id"),
        text("event_source"),
        text("event_name"),
        text("event_type"),
        optional("read_only", DataType::Boolean),
        text("error_code"),
        text("error_message"),
        text("principal_arn"),
        text("principal_type"),
        text("principal_id"),
        text("principal_account"),
        text("user_name"),
        text("access_key_id"),
        text("invoked_by"),
        text("actor_class"),
        optional("mfa", DataType::Boolean),
        text("source_ip"),
        text("user_agent"),
        text("region"),
        text("account"),
        text("key_arn"),
        text("key_id"),
        text("key_account"),
        text("alias_arn"),
        text("enc_context"),
        text("policy"),
        optional("pending_window_days", DataType::Int32),
        text("key_state_before"),
        text("key_state_after"),
        text("decided_by"),
        text("action_id"),
        text("repeat_of"),
        text("request_parameters"),
        text("response_elements"),
        text("additional"),
        text("parse_error"),
        required("payload_len", DataType::Int32),
        optional("payload_digest", DataType::Binary),
        optional("salt", DataType::Binary),
        optional("raw", DataType::Binary),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_records_without_the_verifiers_columns() {
        let records = records_schema();
        let events = events_schema();
        assert_eq!(events.fields().len() + RECORD_ONLY.len(), records.fields().len());
        for field in events.fields() {
            assert_eq!(records.field_with_name(field.name()).ok(), Some(field.as_ref()));
        }
    }
}
