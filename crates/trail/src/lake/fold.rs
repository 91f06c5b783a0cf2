//! Keys and key policies, folded from the log: the same state that the KMS has, with no link to its store.
//!
//! Each change of a key carries the key's image after it (`additionalEventData.after`) and, where a policy was set, the
//! policy's whole text. Taking these in seq order gives the state at the end and the history of policies.

use super::snapshot::Snapshot;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{col, lit};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A key as its last change left it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) image: KeyImage,
    pub(crate) log: String,
    pub(crate) seq: i64,
    pub(crate) event_id: Option<String>,
    pub(crate) event_time_us: i64,
}

/// A version of a key's policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyPolicy {
    pub(crate) key_arn: String,
    pub(crate) policy: String,
    pub(crate) policy_sha256: String,
    pub(crate) previous_sha256: Option<String>,
    pub(crate) log: String,
    pub(crate) seq: i64,
    pub(crate) event_id: Option<String>,
    pub(crate) event_name: String,
    pub(crate) event_time_us: i64,
    pub(crate) principal_arn: Option<String>,
}

/// `additionalEventData.after` of a change of a key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KeyImage {
    pub(crate) key_arn: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) key_id: Option<String>,
    pub(crate) key_state: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) key_spec: Option<String>,
    pub(crate) key_usage: Option<String>,
    pub(crate) origin: Option<String>,
    pub(crate) key_manager: Option<String>,
    pub(crate) created_at: Option<String>,
    pub(crate) deletion_date: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) policy_sha256: Option<String>,
    pub(crate) key_material_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Additional {
    #[serde(default)]
    after: Option<KeyImage>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    previous_policy_sha256: Option<String>,
}

/// The folded state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Folded {
    pub(crate) keys: BTreeMap<String, Key>,
    /// Policies in the order in which they were set.
    pub(crate) policies: Vec<Arc<KeyPolicy>>,
    /// Events whose image could not be read; stated, because the tables then may be behind.
    pub(crate) unreadable: u64,
}

/// The fold over committed files, made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct FoldBase(OnceCell<Folded>);

/// Columns that the fold reads.
const COLUMNS: [&str; 8] =
    ["log", "seq", "event_time", "event_id", "event_name", "principal_arn", "repeat_of", "additional"];

impl FoldBase {
    /// The base after sealing `batches`, when this one was made already; else one that is made when needed.
    pub(super) fn after(&self, batches: &[RecordBatch]) -> Self {
        let Some(folded) = self.0.get() else { return Self::default() };
        let mut folded = folded.clone();
        for batch in batches {
            folded.take(batch, true);
        }
        Self(OnceCell::new_with(Some(folded)))
    }

    /// Folds the files (once) and the snapshot's tail on top.
    pub(super) async fn fold(&self, snapshot: &Snapshot) -> Result<Arc<Folded>, DataFusionError> {
        let mut folded = self.0.get_or_try_init(|| fold_files(snapshot)).await?.clone();
        for batch in snapshot.tail() {
            folded.take(batch, true);
        }
        Ok(Arc::new(folded))
    }
}

/// Reads the successful changes from the committed files: few rows of many, found by the pushed-down filter.
async fn fold_files(snapshot: &Snapshot) -> Result<Folded, DataFusionError> {
    let mut folded = Folded::default();
    if snapshot.files().next().is_none() {
        return Ok(folded);
    }
    let session = crate::query::session::committed_only(snapshot)?;
    let changes = session
        .table("records")
        .await?
        .filter(col("kind").eq(lit(1)).and(col("read_only").eq(lit(false))).and(col("error_code").is_null()))?
        .select(COLUMNS.map(col))?
        .sort(vec![col("log").sort(true, true), col("seq").sort(true, true)])?;
    let mut stream = changes.execute_stream().await?;
    while let Some(batch) = futures::StreamExt::next(&mut stream).await {
        folded.take(&batch?, false);
    }
    Ok(folded)
}

impl Folded {
    /// Takes rows in seq order; `all` when they were not filtered to successful changes yet.
    fn take(&mut self, batch: &RecordBatch, all: bool) {
        let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let (Some(additional), Some(event_name)) = (text("additional"), text("event_name")) else { return };
        let (Some(log), Some(repeat_of)) = (text("log"), text("repeat_of")) else { return };
        let filter = all.then(|| (batch.column_by_name("read_only"), batch.column_by_name("error_code")));
        for row in 0..batch.num_rows() {
            if let Some((Some(read_only), Some(error_code))) = filter
                && (read_only.is_null(row) || read_only.as_boolean().value(row) || error_code.is_valid(row))
            {
                continue;
            }
            // A repeat had no effect; the first call with its action id had.
            if additional.is_null(row) || repeat_of.is_valid(row) || event_name.is_null(row) {
                continue;
            }
            let row = Row { batch, row, log, event_name };
            self.take_change(&row, additional.value(row.row));
        }
    }

    fn take_change(&mut self, row: &Row<'_>, additional: &str) {
        let Ok(additional) = serde_json::from_str::<Additional>(additional) else {
            self.unreadable += 1;
            return;
        };
        // Images of aliases and overlay entries have no key ARN.
        let Some(image) = additional.after.filter(|image| image.key_arn.is_some()) else { return };
        let Some(key_arn) = image.key_arn.clone() else { return };
        if let Some(policy) = additional.policy {
            self.policies.push(Arc::new(KeyPolicy {
                key_arn: key_arn.clone(),
                policy_sha256: hex::encode(keytrail_kms::chain::leaf::sha256(&[policy.as_bytes()])),
                policy,
                previous_sha256: additional.previous_policy_sha256,
                log: row.log.value(row.row).to_owned(),
                seq: row.seq(),
                event_id: row.text("event_id"),
                event_name: row.event_name.value(row.row).to_owned(),
                event_time_us: row.time(),
                principal_arn: row.text("principal_arn"),
            }));
        }
        let key = Key {
            image,
            log: row.log.value(row.row).to_owned(),
            seq: row.seq(),
            event_id: row.text("event_id"),
            event_time_us: row.time(),
        };
        self.keys.insert(key_arn, key);
    }
}

struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
    log: &'a StringArray,
    event_name: &'a StringArray,
}

impl Row<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(self.row).then(|| column.value(self.row).to_owned())
    }

    fn seq(&self) -> i64 {
        let column = self.batch.column_by_name("seq").and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.map_or(0, |column| column.value(self.row))
    }

    fn time(&self) -> i64 {
        let column = self.batch.column_by_name("event_time");
        column.and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>()).map_or(0, |c| c.value(self.row))
    }
}
