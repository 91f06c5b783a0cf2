//! Keys, key policies, aliases, grants and principals, folded from the log: the same state that the KMS has, with no link to its store.
//!
//! Each change of a key carries the key's image after it (`additionalEventData.after`) and, where a policy was set, the
//! policy's whole text. Taking these in seq order gives the state at the end and the history of policies. A key that was
//! deleted stays, in state `Deleted`. Imported logs say nothing here: their records are others' word.

pub(crate) mod grants;
pub(crate) mod people;

use self::grants::{GrantImage, Grants};
use self::people::People;
use super::snapshot::Snapshot;
use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{col, lit};
use datafusion::prelude::DataFrame;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The event that changed something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) log: String,
    pub(crate) seq: i64,
    pub(crate) event_id: Option<String>,
    pub(crate) event_name: String,
    pub(crate) event_time_us: i64,
    /// None on events of the service.
    pub(crate) principal_arn: Option<String>,
}

/// A key as its last change left it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) image: KeyImage,
    pub(crate) changed: Step,
}

/// A version of a key's policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyPolicy {
    pub(crate) key_arn: String,
    pub(crate) policy: String,
    pub(crate) policy_sha256: String,
    pub(crate) previous_sha256: Option<String>,
    pub(crate) set: Step,
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
    pub(crate) expiration_model: Option<String>,
    pub(crate) valid_to: Option<String>,
    pub(crate) multi_region_key_type: Option<String>,
    pub(crate) primary_region: Option<String>,
    pub(crate) rotation_period_in_days: Option<i64>,
    pub(crate) next_rotation_date: Option<String>,
    pub(crate) service: Option<String>,
}

/// An alias and the key behind it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alias {
    pub(crate) image: AliasImage,
    pub(crate) changed: Step,
}

/// Image of an alias, around a change.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AliasImage {
    pub(crate) alias_name: String,
    pub(crate) alias_arn: String,
    pub(crate) target_key_arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Additional {
    #[serde(default)]
    before: Option<KeyImage>,
    #[serde(default)]
    after: Option<KeyImage>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    previous_policy_sha256: Option<String>,
    #[serde(default)]
    grant_id: Option<String>,
    #[serde(default)]
    service_event_details: Option<ServiceEventDetails>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceEventDetails {
    #[serde(default)]
    alias_name: Option<String>,
}

/// Images around a change of something that is no key.
#[derive(Deserialize)]
struct Other {
    #[serde(default)]
    before: Option<Value>,
    #[serde(default)]
    after: Option<Value>,
}

/// The image of a CreateGrant, which is no key's.
#[derive(Deserialize)]
struct WithGrant {
    after: GrantImage,
}

/// The folded state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Folded {
    pub(crate) keys: BTreeMap<String, Key>,
    /// Policies in the order in which they were set.
    pub(crate) policies: Vec<Arc<KeyPolicy>>,
    pub(crate) grants: Grants,
    /// By ARN.
    pub(crate) aliases: BTreeMap<String, Alias>,
    pub(crate) people: People,
    /// Events whose image could not be read; stated, because the tables then may be behind.
    pub(crate) unreadable: u64,
}

/// The fold over committed files, made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct FoldBase(OnceCell<Folded>);

/// Columns that the fold reads.
const COLUMNS: [&str; 10] = [
    "log",
    "seq",
    "event_time",
    "event_id",
    "event_name",
    "principal_arn",
    "key_arn",
    "repeat_of",
    "additional",
    "request_parameters",
];

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
        for batch in snapshot.own_logs().flat_map(|(_, log)| &log.tail) {
            folded.take(batch, true);
        }
        Ok(Arc::new(folded))
    }
}

/// Reads the successful changes from the committed files: few rows of many, found by the pushed-down filter.
async fn fold_files(snapshot: &Snapshot) -> Result<Folded, DataFusionError> {
    let mut folded = Folded::default();
    if snapshot.own_logs().all(|(_, log)| log.files.is_empty()) {
        return Ok(folded);
    }
    let session = crate::query::session::committed_only(snapshot)?;
    folded.take_changes(session.table("records").await?).await?;
    Ok(folded)
}

impl Folded {
    /// The state behind the records that `cut` lets through, a condition of our own on columns of `records`.
    pub(crate) async fn until(snapshot: &Arc<Snapshot>, cut: &str) -> Result<Self, DataFusionError> {
        let session = crate::query::session::session(snapshot, &crate::query::Limits::default(), None)?;
        let records = session.table("records").await?;
        let cut = records.parse_sql_expr(cut)?;
        let mut folded = Self::default();
        folded.take_changes(records.filter(cut)?).await?;
        Ok(folded)
    }

    async fn take_changes(&mut self, records: DataFrame) -> Result<(), DataFusionError> {
        let changes = records
            .filter(col("kind").eq(lit(1)).and(col("read_only").eq(lit(false))).and(col("error_code").is_null()))?
            .select(COLUMNS.map(col))?
            .sort(vec![col("log").sort(true, true), col("seq").sort(true, true)])?;
        let mut stream = changes.execute_stream().await?;
        while let Some(batch) = futures::StreamExt::next(&mut stream).await {
            self.take(&batch?, false);
        }
        Ok(())
    }

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
        let taken = match row.event_name.value(row.row) {
            "CreateGrant" => self.take_grant(row, additional),
            "RetireGrant" | "RevokeGrant" => self.take_end_of_grant(row, additional),
            "DeleteKey" => self.take_deletion(row, additional),
            "LoadIdentities" => self.people.load(row.text("request_parameters").as_deref(), &row.step()),
            _ => self.take_key(row, additional),
        };
        self.unreadable += u64::from(taken.is_err());
    }

    fn take_grant(&mut self, row: &Row<'_>, additional: &str) -> serde_json::Result<()> {
        self.grants.create(serde_json::from_str::<WithGrant>(additional)?.after, row.step());
        Ok(())
    }

    fn take_end_of_grant(&mut self, row: &Row<'_>, additional: &str) -> serde_json::Result<()> {
        let grant_id = serde_json::from_str::<Additional>(additional)?.grant_id;
        if let (Some(key_arn), Some(grant_id)) = (row.text("key_arn"), grant_id) {
            self.grants.end(&key_arn, &grant_id, row.step());
        }
        Ok(())
    }

    fn take_deletion(&mut self, row: &Row<'_>, additional: &str) -> serde_json::Result<()> {
        let Some(mut image) = serde_json::from_str::<Additional>(additional)?.before else { return Ok(()) };
        let Some(key_arn) = image.key_arn.clone() else { return Ok(()) };
        image.key_state = Some("Deleted".to_owned());
        self.grants.end_all(&key_arn, &row.step());
        self.aliases.retain(|_, alias| alias.image.target_key_arn != key_arn);
        self.keys.insert(key_arn, Key { image, changed: row.step() });
        Ok(())
    }

    fn take_key(&mut self, row: &Row<'_>, text: &str) -> serde_json::Result<()> {
        let additional = serde_json::from_str::<Additional>(text)?;
        let image = additional.after.filter(|image| image.key_arn.is_some());
        let Some(image) = image else { return self.take_other(row, text) };
        let Some(key_arn) = image.key_arn.clone() else { return Ok(()) };
        let alias = additional.service_event_details.and_then(|details| details.alias_name);
        if let (Some(alias_name), Some((head, _))) = (alias, key_arn.split_once(":key/")) {
            let alias_arn = format!("{head}:{alias_name}");
            self.point(AliasImage { alias_name, alias_arn, target_key_arn: key_arn.clone() }, row);
        }
        if let Some(policy) = additional.policy {
            self.policies.push(Arc::new(KeyPolicy {
                key_arn: key_arn.clone(),
                policy_sha256: hex::encode(keytrail_kms::chain::leaf::sha256(&[policy.as_bytes()])),
                policy,
                previous_sha256: additional.previous_policy_sha256,
                set: row.step(),
            }));
        }
        self.keys.insert(key_arn, Key { image, changed: row.step() });
        Ok(())
    }
}

impl Folded {
    /// Aliases, and what the IAM API makes; entries of the overlay and custom key stores are in no table.
    fn take_other(&mut self, row: &Row<'_>, additional: &str) -> serde_json::Result<()> {
        let Other { before, after } = serde_json::from_str(additional)?;
        let Some(either) = after.as_ref().or(before.as_ref()) else { return Ok(()) };
        if either["aliasArn"].is_string() {
            if let Some(before) = before {
                self.aliases.remove(&serde_json::from_value::<AliasImage>(before)?.alias_arn);
            }
            if let Some(after) = after {
                self.point(serde_json::from_value(after)?, row);
            }
        } else if let Some(arn) = either["arn"].as_str().filter(|arn| arn.starts_with("arn:aws:iam::")) {
            self.people.change(arn, after.as_ref(), &row.step());
        }
        Ok(())
    }

    fn point(&mut self, image: AliasImage, row: &Row<'_>) {
        self.aliases.insert(image.alias_arn.clone(), Alias { image, changed: row.step() });
    }
}

struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
    log: &'a StringArray,
    event_name: &'a StringArray,
}

impl Row<'_> {
    fn step(&self) -> Step {
        Step {
            log: self.log.value(self.row).to_owned(),
            seq: self.seq(),
            event_id: self.text("event_id"),
            event_name: self.event_name.value(self.row).to_owned(),
            event_time_us: self.time(),
            principal_arn: self.text("principal_arn"),
        }
    }

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
