//! State as of a period's end, as Parquet files of a pack: what the log says there was, for questions that no event of the
//! period answers.
//!
//! `keys`, `key_policies` and `grants` are folded as for SQL, up to a cut; `key_events` is each successful change of a key from
//! the log's beginning; `log_events` each start, stop and other record about the log itself; `destroyed` what became of
//! destroyed keys; `access` who may use or administer each key, which the command works out with the policy evaluator.

use super::control::Period;
use super::tables::texts;
use crate::lake::fold::Folded;
use crate::lake::snapshot::Snapshot;
use crate::query::gate::{self, GateError};
use crate::query::run::{Cancel, RunError};
use crate::query::session::{Limits, session};
use crate::query::{run, tables};
use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use keytrail_kms::chain::LogId;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Most rows of a state table.
const ROWS_MAX: u64 = 5_000_000;

/// Longest fold or query over the whole log.
const DEADLINE: Duration = Duration::from_hours(1);

/// Why the state was not written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The fold, or the session.
    #[error("fold the log")]
    Fold(#[from] DataFusionError),
    /// Our own SQL.
    #[error("plan state table {table}")]
    Plan {
        /// Which one.
        table: &'static str,
        /// Why not.
        source: GateError,
    },
    /// Running it.
    #[error("make state table {table}")]
    Run {
        /// Which one.
        table: &'static str,
        /// Why not.
        source: RunError,
    },
    /// Writing.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ParquetError,
    },
    /// Opening the file.
    #[error("create {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Columns that do not fit.
    #[error("lay out a state table")]
    Columns(#[from] ArrowError),
}

/// Someone's right to a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The key.
    pub key_arn: String,
    /// User, role or session; `*` for everyone.
    pub principal: String,
    /// `use` or `administer`.
    pub class: String,
    /// The actions asked about that are allowed, joined by blanks.
    pub actions: String,
    /// Policies and grants that allow it.
    pub through: String,
    /// What a request has to be like; empty when any is.
    pub conditions: String,
    /// Whether the log does not know the principal.
    pub unknown: bool,
}

/// What counts: events before the period's end and up to `last` of each log, without withheld ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    pub(super) last: &'a BTreeMap<LogId, u64>,
    pub(super) period: &'a Period,
    /// SQL condition of what the exporter withholds: what state a reader gets must not come from it.
    pub(super) withheld: Option<&'a str>,
}

impl Cut<'_> {
    /// The condition on columns of `records`.
    fn sql(&self) -> String {
        let mut text = format!("event_time < '{}' AND (false", self.period.end());
        for (log, seq) in self.last {
            let _ = write!(text, " OR (log = '{log}' AND seq <= {seq})");
        }
        text.push(')');
        if let Some(withheld) = self.withheld {
            let _ = write!(text, " AND NOT coalesce(({withheld}), false)");
        }
        text
    }
}

/// Writes all state tables below `folder`, which exists.
pub(super) async fn write(
    snapshot: &Arc<Snapshot>,
    cut: &Cut<'_>,
    access: &mut Vec<Access>,
    folder: &Path,
) -> Result<(), StateError> {
    let cut = cut.sql();
    let folded = Folded::until(snapshot, &cut).await?;
    for (name, batch) in tables::folded(&folded)? {
        parquet(&folder.join(format!("{name}.parquet")), &batch.schema(), &[batch])?;
    }
    let limits = Limits { deadline: DEADLINE, rows_max: ROWS_MAX, ..Limits::default() };
    let session = session(snapshot, &limits, None)?;
    for (table, sql) in
        [("key_events", key_events(&cut)), ("log_events", log_events(&cut)), ("destroyed", destroyed(&cut))]
    {
        let plan = gate::plan(&session, &sql).await.map_err(|source| StateError::Plan { table, source })?;
        let rows = run(&session, plan, &limits, Cancel::new()).map_err(|source| StateError::Run { table, source })?;
        let schema = rows.schema();
        let batches = rows.collect().await.map_err(|source| StateError::Run { table, source })?;
        parquet(&folder.join(format!("{table}.parquet")), &schema, &batches)?;
    }
    access.sort();
    access.dedup();
    let batch = access_batch(access)?;
    parquet(&folder.join("access.parquet"), &batch.schema(), &[batch])
}

fn key_events(cut: &str) -> String {
    format!(
        "SELECT log, seq, event_time, leaf_time_us AS event_time_us, event_id, event_name, event_type, principal_arn, actor_class, mfa,
                key_arn, alias_arn, key_state_before,
                CASE WHEN event_name = 'DeleteKey' THEN 'Deleted' ELSE key_state_after END AS key_state_after,
                json_get_str(additional, 'after', 'keySpec') AS key_spec, json_get_str(additional, 'after', 'keyUsage') AS key_usage,
                json_get_str(additional, 'after', 'origin') AS origin, json_get_str(additional, 'after', 'keyManager') AS key_manager,
                json_get_str(additional, 'after', 'keyMaterialId') AS key_material_id,
                json_get_str(additional, 'after', 'policySha256') AS policy_sha256, pending_window_days,
                json_get_str(additional, 'causedBy') AS caused_by
         FROM records
         WHERE kind = 1 AND {CHANGES} AND {cut} AND key_arn IS NOT NULL AND event_name NOT IN ('CreateGrant', 'RetireGrant', 'RevokeGrant')
         ORDER BY log, seq"
    )
}

/// Changes that took effect.
const CHANGES: &str = "read_only = false AND error_code IS NULL AND repeat_of IS NULL";

fn log_events(cut: &str) -> String {
    format!(
        "SELECT log, seq, epoch, kind, event_time, leaf_time_us AS event_time_us, CAST(raw AS VARCHAR) AS payload
         FROM records WHERE kind NOT IN (1, 2, 5) AND {cut} ORDER BY log, seq"
    )
}

/// Each DeleteKey with the last request before it, the uses before and after, and restores after it that were compared with
/// nothing: those alone could bring a key back, for `restore` refuses every other set that is older than the log.
fn destroyed(cut: &str) -> String {
    format!(
        "WITH seen AS (SELECT * FROM records WHERE {cut}),
         gone AS (
           SELECT log, seq, event_time, leaf_time_us, event_id, key_arn FROM seen
           WHERE kind = 1 AND event_name = 'DeleteKey' AND key_arn IS NOT NULL AND {CHANGES}
         ),
         requests AS (
           SELECT e.key_arn, e.log, e.seq, e.event_time, e.leaf_time_us, e.event_id, e.principal_arn, e.mfa, e.pending_window_days,
                  row_number() OVER (PARTITION BY e.key_arn, e.log ORDER BY e.seq DESC) AS place
           FROM seen e JOIN gone g ON g.key_arn = e.key_arn AND g.log = e.log AND e.seq < g.seq
           WHERE e.event_name = 'ScheduleKeyDeletion' AND e.error_code IS NULL AND e.repeat_of IS NULL
         ),
         used AS (
           SELECT g.key_arn, g.log, max(CASE WHEN e.seq < g.seq THEN e.event_time END) AS last_used_at,
                  sum(CASE WHEN e.seq > g.seq THEN 1 ELSE 0 END) AS uses_after
           FROM seen e JOIN gone g ON g.key_arn = e.key_arn AND g.log = e.log
           WHERE e.error_code IS NULL AND e.event_name IN ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair',
             'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt', 'Sign', 'Verify', 'VerifyMac')
           GROUP BY g.key_arn, g.log
         ),
         tokens AS (
           SELECT DISTINCT json_get_str(request_parameters, 'keyId') AS key_arn FROM seen
           WHERE event_name = 'DestroyTokenKey' AND json_get_str(request_parameters, 'tokenObject') = 'orphaned'
         ),
         starts AS (SELECT log, seq, CAST(raw AS VARCHAR) AS payload FROM seen WHERE kind = 3),
         restores AS (
           SELECT g.key_arn, count(*) AS restored_unchecked
           FROM starts r JOIN gone g ON g.log = r.log AND r.seq > g.seq
           WHERE json_get_int(r.payload, 'restored', 'setSize') IS NOT NULL AND json_get_int(r.payload, 'restored', 'comparedSize') IS NULL
           GROUP BY g.key_arn
         )
         SELECT g.key_arn, g.log, g.seq, g.event_time, g.event_id,
                r.event_time AS requested_at, r.principal_arn AS requested_by, coalesce(r.mfa, false) AS requested_with_mfa,
                r.seq AS request_seq, r.event_id AS request_event_id, CAST(r.pending_window_days AS BIGINT) AS waiting_days,
                g.leaf_time_us - r.leaf_time_us AS waited_us,
                u.last_used_at, coalesce(u.uses_after, 0) AS uses_after, t.key_arn IS NOT NULL AS orphaned,
                coalesce(s.restored_unchecked, 0) AS restored_unchecked
         FROM gone g
         LEFT JOIN requests r ON r.key_arn = g.key_arn AND r.log = g.log AND r.place = 1
         LEFT JOIN used u ON u.key_arn = g.key_arn AND u.log = g.log
         LEFT JOIN tokens t ON t.key_arn = g.key_arn
         LEFT JOIN restores s ON s.key_arn = g.key_arn
         ORDER BY g.log, g.seq"
    )
}

fn access_batch(access: &[Access]) -> Result<RecordBatch, ArrowError> {
    let text = |member: fn(&Access) -> &String| texts(access.iter().map(move |one| Some(member(one).clone())));
    let names = ["key_arn", "principal", "class", "actions", "through", "conditions"];
    let mut fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    fields.push(Field::new("unknown", DataType::Boolean, false));
    let columns = vec![
        text(|one| &one.key_arn),
        text(|one| &one.principal),
        text(|one| &one.class),
        text(|one| &one.actions),
        text(|one| &one.through),
        text(|one| &one.conditions),
        Arc::new(access.iter().map(|one| Some(one.unknown)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn parquet(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(), StateError> {
    let wrong = |source| StateError::Write { path: path.to_owned(), source };
    let file = File::create_new(path).map_err(|source| StateError::Create { path: path.to_owned(), source })?;
    let level = ZstdLevel::try_new(3).map_err(wrong)?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(wrong)?;
    for batch in batches {
        writer.write(batch).map_err(wrong)?;
    }
    let file = writer.into_inner().map_err(wrong)?;
    file.sync_all().map_err(|source| StateError::Create { path: path.to_owned(), source })
}
