//! RunQuery and EndQuery: what the trail tells the log about the SQL that people run over it.
//!
//! RunQuery comes before the first row is handed out, so that no answer exists without its record; EndQuery says what came
//! of it. Neither does anything else, and no key is involved: only the trail may call them (docs/sql-servers.md).

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::{recorded, required};
use super::judge::Judge;
use super::refusal::Refusal;
use crate::access::Role;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// Of a statement; the trail sends no more, and with it the digest of the whole.
const STATEMENT_BYTES_MAX: usize = 16 * 1024;
/// Values of `$1` and so on that are recorded, of a statement with more of them.
const PARAMETERS_MAX: usize = 64;
/// Of any other text.
const TEXT_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RunQuery {
    query_id: Option<String>,
    user: Option<String>,
    door: Option<String>,
    client_address: Option<String>,
    application: Option<String>,
    statement: Option<String>,
    statement_bytes: Option<u64>,
    statement_sha256: Option<String>,
    parameters: Option<Vec<Option<String>>>,
    parameter_count: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EndQuery {
    query_id: Option<String>,
    user: Option<String>,
    outcome: Option<String>,
    error: Option<String>,
    rows: Option<u64>,
    bytes: Option<u64>,
    duration_micros: Option<u64>,
}

impl Query for RunQuery {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let values = self.parameters.as_ref().map(|values| values.iter().take(PARAMETERS_MAX).map(bounded));
        recorded(
            None,
            json!({
                "queryId": bounded(&self.query_id), "user": bounded(&self.user), "door": bounded(&self.door),
                "clientAddress": bounded(&self.client_address), "application": bounded(&self.application),
                "statement": cut(&self.statement, STATEMENT_BYTES_MAX), "statementBytes": self.statement_bytes,
                "statementSha256": bounded(&self.statement_sha256), "parameters": values.map(Iterator::collect::<Vec<_>>),
                "parameterCount": self.parameter_count,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        only_the_trail(judge)?;
        required(&self.query_id, "queryId")?;
        required(&self.user, "user")?;
        required(&self.door, "door")?;
        required(&self.statement, "statement")?;
        Ok(json_body(&json!({})))
    }
}

impl Query for EndQuery {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(
            None,
            json!({
                "queryId": bounded(&self.query_id), "user": bounded(&self.user), "outcome": bounded(&self.outcome),
                "error": bounded(&self.error), "rows": self.rows, "bytes": self.bytes,
                "durationMicros": self.duration_micros,
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        only_the_trail(judge)?;
        required(&self.query_id, "queryId")?;
        required(&self.outcome, "outcome")?;
        Ok(json_body(&json!({})))
    }
}

fn only_the_trail(judge: &mut Judge<'_>) -> Result<(), Refusal> {
    judge.record.decided_by = Some("BuiltIn".to_owned());
    if matches!(judge.caller()?.role, Role::Trail) { Ok(()) } else { Err(judge.denied("*")) }
}

fn bounded(text: &Option<String>) -> Option<&str> {
    cut(text, TEXT_BYTES_MAX)
}

fn cut(text: &Option<String>, bytes_max: usize) -> Option<&str> {
    text.as_deref().map(|text| &text[..text.floor_char_boundary(bytes_max)])
}
