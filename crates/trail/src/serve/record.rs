//! The record of each query in the audit log itself: RunQuery before it runs, EndQuery when it has ended.
//!
//! RunQuery is a signed call to the key service, answered when the record is durable. Without that answer nothing is
//! planned and no row is handed out. EndQuery brings what only the end knows; a query without one was cut off by a crash of
//! this process. No rule and no part of Keytrail runs a query because of these records, so they cannot multiply.

use arrow::array::{Array, ArrayRef, RecordBatch};
use async_trait::async_trait;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::client::{Client, ClientError};
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use uuid::Uuid;

/// Bytes of a statement that are recorded; the digest is of the whole.
const STATEMENT_BYTES_MAX: usize = 16 * 1024;
/// Values of parameters that are recorded, of a statement with more of them.
const PARAMETERS_MAX: usize = 64;
/// Bytes of any other text.
const TEXT_BYTES_MAX: usize = 256;

/// How somebody came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// PostgreSQL's protocol.
    Postgres,
    /// HTTP.
    Http,
    /// CloudTrail's own operations over AWS JSON.
    Api,
    /// `keytrail sql`.
    Shell,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Http => "http",
            Self::Api => "api",
            Self::Shell => "shell",
        })
    }
}

/// Who runs a query, and from where.
#[derive(Clone, Debug)]
pub struct Who {
    /// User of the users' file; of the operating system in the shell.
    pub user: String,
    /// The door.
    pub door: Door,
    /// Address and port; empty in the shell.
    pub client_address: String,
    /// What the client calls itself: not proved.
    pub application: String,
}

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its last row.
    Ok,
    /// It never ran: the gate let it not through, or it cannot be planned.
    Refused,
    /// Someone asked it to end.
    Cancelled,
    /// It took too long.
    Deadline,
    /// Its answer had too many rows or bytes.
    Limit,
    /// An error on the way.
    Failed,
    /// Its reader went away.
    Abandoned,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::Limit => "limit",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        })
    }
}

/// Why a query is not recorded, and so does not run.
#[derive(Debug, thiserror::Error)]
#[error("query cannot be recorded in the log")]
pub struct RecordError(#[from] pub ClientError);

/// Where records of queries go, and callers with the key service's own credentials are judged.
#[async_trait]
pub trait QueryLog: Send + Sync {
    /// Who signed a call that we received, and may make it; what was called is then in the log.
    async fn authorize(&self, received: serde_json::Value) -> Result<serde_json::Value, ClientError>;

    /// Returns when the record is durable.
    async fn record(&self, operation: &str, body: serde_json::Value) -> Result<(), RecordError>;
}

/// The node itself, told by the trail's own principal.
#[async_trait]
impl QueryLog for Client {
    async fn authorize(&self, received: serde_json::Value) -> Result<serde_json::Value, ClientError> {
        Ok(self.call("KeytrailService.AuthorizeQuery", received, None).await?.body)
    }

    async fn record(&self, operation: &str, body: serde_json::Value) -> Result<(), RecordError> {
        self.call(&format!("KeytrailService.{operation}"), body, None).await?;
        Ok(())
    }
}

/// A query whose start is in the log. Dropping it without an end says that its reader went away.
pub struct Recorded {
    log: Arc<dyn QueryLog>,
    id: Uuid,
    user: String,
    began: Instant,
    rows: u64,
    bytes: u64,
    ended: bool,
}

impl Recorded {
    /// Returns when the log has it. `parameters`: what `$1` and so on stand for.
    pub async fn begin(
        log: &Arc<dyn QueryLog>,
        who: &Who,
        statement: &str,
        parameters: &[Option<String>],
    ) -> Result<Self, RecordError> {
        let id = Uuid::now_v7();
        let mut body = json!({
            "QueryId": id.to_string(), "User": cut(&who.user, TEXT_BYTES_MAX), "Door": who.door.to_string(),
            "ClientAddress": cut(&who.client_address, TEXT_BYTES_MAX),
            "Application": cut(&who.application, TEXT_BYTES_MAX),
            "Statement": cut(statement, STATEMENT_BYTES_MAX), "StatementBytes": statement.len(),
            "StatementSha256": hex::encode(sha256(&[statement.as_bytes()])),
        });
        if !parameters.is_empty() {
            let value = |value: &Option<String>| value.as_ref().map(|value| cut(value, TEXT_BYTES_MAX).to_owned());
            let values: Vec<_> = parameters.iter().take(PARAMETERS_MAX).map(value).collect();
            (body["Parameters"], body["ParameterCount"]) = (json!(values), json!(parameters.len()));
        }
        let began = Instant::now();
        log.record("RunQuery", body).await?;
        Ok(Self { log: log.clone(), id, user: who.user.clone(), began, rows: 0, bytes: 0, ended: false })
    }

    /// Its id in the log.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Counts rows that are about to be handed out, and the bytes that they take in memory.
    pub fn count_batch(&mut self, batch: &RecordBatch) {
        // Without the rest of the buffers that they may be slices of.
        let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0) as u64;
        self.rows += batch.num_rows() as u64;
        self.bytes += batch.columns().iter().map(bytes).sum::<u64>();
    }

    /// Bytes handed out so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns when the log has the end; only the first one counts. That it cannot be recorded is said on stderr: the
    /// start is in the log, and the rows are out.
    pub async fn end(&mut self, outcome: Outcome, error: Option<&str>) {
        if let Some(body) = self.closing(outcome, error) {
            tell(&self.log, body).await;
        }
    }

    fn closing(&mut self, outcome: Outcome, error: Option<&str>) -> Option<serde_json::Value> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Some(json!({
            "QueryId": self.id.to_string(), "User": cut(&self.user, TEXT_BYTES_MAX), "Outcome": outcome.to_string(),
            "Error": error.map(|text| cut(text, TEXT_BYTES_MAX)), "Rows": self.rows, "Bytes": self.bytes,
            "DurationMicros": micros,
        }))
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let Some(body) = self.closing(Outcome::Abandoned, None) else { return };
        let log = self.log.clone();
        // Outside of a runtime nobody could send it; our doors are all inside one.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { tell(&log, body).await });
        }
    }
}

async fn tell(log: &Arc<dyn QueryLog>, body: serde_json::Value) {
    if let Err(error) = log.record("EndQuery", body).await {
        tracing::error!(error = super::describe(&error), "end of a query cannot be recorded");
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
