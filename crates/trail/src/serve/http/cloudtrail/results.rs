//! Rows of a query as texts, collected in the background: the form of `QueryResultRows`.
//!
//! Every value is a text there; NULL is the empty one, times are UTC with milliseconds, structs and lists are written out.
//! Columns of the view have CloudTrail's own spelling again.

use super::queries::{End, Queries, RESULT_BYTES_MAX, Status};
use crate::serve::wire::error::WireError;
use crate::serve::{Answer, Outcome, Session};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use std::sync::Arc;
use uuid::Uuid;

/// As CloudTrail Lake shows times.
const TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";
/// What a value takes in memory beside its text.
const VALUE_BYTES: usize = size_of::<String>();
/// Columns of the view and members of its structs whose names have capitals.
const SPELLINGS: [&str; 22] = [
    "accessKeyId",
    "accountId",
    "additionalEventData",
    "awsRegion",
    "errorCode",
    "errorMessage",
    "eventID",
    "eventName",
    "eventSource",
    "eventTime",
    "eventType",
    "invokedBy",
    "principalId",
    "readOnly",
    "recipientAccountId",
    "requestID",
    "requestParameters",
    "responseElements",
    "sourceIPAddress",
    "userAgent",
    "userIdentity",
    "userName",
];

/// Reads a query to its end and keeps what it gave.
pub(super) async fn collect(queries: Arc<Queries>, id: Uuid, session: Session, answer: Answer, sql: String) {
    let end = rows(&queries, id, answer, &sql).await;
    // It counts as a connection until here.
    drop(session);
    queries.end(id, end);
}

async fn rows(queries: &Queries, id: Uuid, mut answer: Answer, sql: &str) -> End {
    let columns = columns(&answer.schema());
    let mut rows = Vec::new();
    while let Some(batch) = answer.next().await {
        let read = match batch {
            Ok(batch) => texts(&batch),
            Err(error) => {
                let status = match error.outcome() {
                    Outcome::Cancelled => Status::Cancelled,
                    Outcome::Deadline => Status::TimedOut,
                    _ => Status::Failed,
                };
                return End::Without(status, WireError::of_query(&error, sql, 0).message);
            }
        };
        let failed = match read {
            Ok((more, bytes)) if queries.grow(id, bytes) => {
                rows.extend(more);
                continue;
            }
            Ok(_) => {
                format!("the result is larger than is kept ({RESULT_BYTES_MAX} bytes, less when many are); add LIMIT")
            }
            Err(error) => format!("a value has no form as text: {error}"),
        };
        answer.fail(&failed).await;
        return End::Without(Status::Failed, failed);
    }
    End::Rows(columns, rows)
}

fn columns(schema: &Schema) -> Vec<String> {
    let spelled = |name: &String| {
        let known = SPELLINGS.iter().find(|known| known.to_lowercase() == *name);
        known.map_or_else(|| name.clone(), |known| (*known).to_owned())
    };
    schema.fields().iter().map(|field| spelled(field.name())).collect()
}

/// The rows of a batch, and about how many bytes they take.
fn texts(batch: &RecordBatch) -> Result<(Vec<Vec<String>>, usize), ArrowError> {
    let options = FormatOptions::default().with_timestamp_format(Some(TIME)).with_timestamp_tz_format(Some(TIME));
    let formatters: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
    let mut bytes = 0;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let row: Vec<String> =
            formatters.iter().map(|column| column.value(at).try_to_string()).collect::<Result<_, _>>()?;
        bytes += row.iter().map(|text| text.len() + VALUE_BYTES).sum::<usize>();
        rows.push(row);
    }
    Ok((rows, bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, TimeUnit};

    #[test]
    fn values_are_texts_and_columns_spelled_as_cloudtrail_does() {
        let zone = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = [
            ("eventtime", zone),
            ("readonly", DataType::Boolean),
            ("errorcode", DataType::Utf8),
            ("n", DataType::Utf8),
        ];
        let schema = Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec());
        assert_eq!(columns(&schema), ["eventTime", "readOnly", "errorCode", "n"]);
        let time = TimestampMicrosecondArray::from(vec![1_767_614_400_123_456]).with_timezone("UTC");
        let batch = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(time),
                Arc::new(BooleanArray::from(vec![true])),
                Arc::new(StringArray::from(vec![None::<&str>])),
                Arc::new(StringArray::from(vec!["1"])),
            ],
        );
        let (rows, bytes) = texts(&batch.unwrap()).unwrap();
        assert_eq!(rows, [["2026-01-05 12:00:00.123", "true", "", "1"]]);
        assert_eq!(bytes, 28 + 4 * VALUE_BYTES);
    }
}
