//! What the statement looks up in the pack's tables.

use crate::evidence::control::Period;
use crate::evidence::controls::{RunControlError, limits};
use crate::query::gate;
use crate::query::run::Cancel;
use crate::query::{Format, Output, run};
use datafusion::prelude::SessionContext;
use serde_json::Value;

/// What the pack's tables say.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Starts, stops and other records about the logs.
    pub(super) log_events: Vec<Value>,
    pub(super) heartbeats: Vec<Value>,
    pub(super) silences: Vec<Value>,
    pub(super) operations: Vec<Value>,
    pub(super) alerts: Vec<Value>,
    pub(super) destroyed: Vec<Value>,
    pub(super) keys: Vec<Value>,
    pub(super) access: Vec<Value>,
}

impl Seen {
    /// Asks all of it.
    pub(super) async fn look(session: &SessionContext, period: &Period) -> Result<Self, RunControlError> {
        let within = format!("event_time >= '{}' AND event_time < '{}'", period.start(), period.end());
        let rows = |sql: String| async move { rows(session, &sql).await };
        Ok(Self {
            log_events: rows(
                "SELECT e.*, lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before,
                   lag(event_time) OVER (PARTITION BY log ORDER BY seq) AS time_before
                 FROM log_events e WHERE kind NOT IN (9) ORDER BY log, seq"
                    .to_owned(),
            )
            .await?
            .into_iter()
            .filter(|row| row["event_time_us"].as_i64().is_some_and(|at| at >= period.from_us && at < period.to_us))
            .collect(),
            heartbeats: rows(format!(
                "SELECT log, count(*) AS n, max(abs(json_get_int(CAST(raw AS VARCHAR), 'clockOffsetMicros'))) AS offset_us
                 FROM records WHERE kind = 5 AND {within} GROUP BY log ORDER BY log"
            ))
            .await?,
            silences: rows(format!(
                "SELECT * FROM (SELECT log, seq, kind, event_time, lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before,
                   leaf_time_us - lag(leaf_time_us) OVER (PARTITION BY log ORDER BY seq) AS lasted_us FROM records WHERE kind IN (3, 4, 5))
                 WHERE kind = 5 AND kind_before = 5 AND lasted_us > 60000000 AND {within} ORDER BY log, seq"
            ))
            .await?,
            operations: rows(format!(
                "SELECT event_source, event_name, count(*) AS n, count(error_code) AS refused FROM events
                 WHERE {within} AND event_name IS NOT NULL GROUP BY event_source, event_name ORDER BY n DESC, event_source, event_name"
            ))
            .await?,
            alerts: rows(format!(
                "SELECT a.detected_at, a.severity, a.rule_id, a.title, i.incident_id, i.state FROM alerts a LEFT JOIN incidents i ON i.alert_id = a.alert_id
                 WHERE a.detected_at >= '{}' AND a.detected_at < '{}' ORDER BY a.detected_at, a.alert_id, i.incident_id",
                period.start(),
                period.end()
            ))
            .await?,
            destroyed: rows(format!("SELECT * FROM destroyed WHERE {within} ORDER BY log, seq")).await?,
            keys: rows("SELECT key_state, key_spec, origin, count(*) AS n FROM keys GROUP BY key_state, key_spec, origin ORDER BY key_state, key_spec, origin".to_owned()).await?,
            access: rows("SELECT principal, class, count(DISTINCT key_arn) AS n FROM access GROUP BY principal, class ORDER BY n DESC, principal, class".to_owned()).await?,
        })
    }
}

async fn rows(session: &SessionContext, sql: &str) -> Result<Vec<Value>, RunControlError> {
    let id = || "statement".to_owned();
    let plan = gate::plan(session, sql).await.map_err(|source| RunControlError::Plan { id: id(), source })?;
    let mut rows =
        run(session, plan, &limits(), Cancel::new()).map_err(|source| RunControlError::Run { id: id(), source })?;
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes, Format::Jsonl, rows.schema());
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|source| RunControlError::Run { id: id(), source })?;
        output.write(&batch).map_err(|source| RunControlError::Write { id: id(), source })?;
    }
    output.finish().map_err(|source| RunControlError::Write { id: id(), source })?;
    let lines = String::from_utf8_lossy(&bytes);
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A member as text; nothing where there is none.
pub(super) fn text(row: &Value, name: &str) -> String {
    match &row[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A member as a number; 0 where there is none.
pub(super) fn number(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or_default()
}

/// The payload of a row of `log_events`.
pub(super) fn payload(event: &Value) -> Value {
    serde_json::from_str(&text(event, "payload")).unwrap_or_default()
}
