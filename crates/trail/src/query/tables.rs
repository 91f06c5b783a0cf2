//! Tables that are not scans of the lake: `keys`, `key_policies`, `grants`, `aliases`, `principals` and `identity_policies`
//! folded from the log, `logs` of the snapshot itself, `alerts` from trail.db. Those of other stores are in `stores`.
//!
//! Each is materialised when a query first scans it; the fold is kept per snapshot. trail.db belongs to the trail's
//! process and is opened read-only.

use super::stores::{Stored, external, has_table, open};
use crate::lake::fold::grants::Grant;
use crate::lake::fold::people::Entity;
use crate::lake::fold::{Alias, Folded, Key, KeyPolicy, Step};
use crate::lake::schema::{ZONE, timestamp};
use crate::lake::snapshot::{LogSnapshot, Snapshot};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Most alerts shown, the newest first to stay.
const ALERTS_MAX: i64 = 100_000;

/// A table of the state that is folded from the log.
#[derive(Debug)]
pub(crate) struct FoldedTable {
    snapshot: Arc<Snapshot>,
    columns: fn() -> Vec<Field>,
    rows: fn(&Folded) -> Vec<ArrayRef>,
}

impl FoldedTable {
    /// `keys`: each key as its last change left it.
    pub(crate) fn keys(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: key_columns, rows: keys }
    }

    /// `key_policies`: each policy text that was ever set, with which one is current.
    pub(crate) fn key_policies(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: policy_columns, rows: policies }
    }

    /// `grants`: the live ones and the newest that ended, with who made and who ended them.
    pub(crate) fn grants(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: grant_columns, rows: grants }
    }

    /// `aliases`: each alias that exists, and the key that it names.
    pub(crate) fn aliases(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: alias_columns, rows: aliases }
    }

    /// `principals`: the users, roles and groups that exist.
    pub(crate) fn principals(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: principal_columns, rows: principals }
    }

    /// `identity_policies`: each policy of a principal, and the managed ones that nobody has.
    pub(crate) fn identity_policies(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, columns: identity_policy_columns, rows: identity_policies }
    }
}

/// The folded tables by name, for writing them elsewhere.
pub(crate) fn folded(folded: &Folded) -> Result<[(&'static str, RecordBatch); 3]> {
    let batch = |columns: Vec<Field>, rows| RecordBatch::try_new(schema(&columns), rows);
    Ok([
        ("keys", batch(key_columns(), keys(folded))?),
        ("key_policies", batch(policy_columns(), policies(folded))?),
        ("grants", batch(grant_columns(), grants(folded))?),
    ])
}

/// `alerts`: what the trail raised.
pub(super) fn alerts_table(dir: Option<&Path>) -> Stored {
    Stored::new(dir, alert_columns, alerts)
}

#[async_trait]
impl TableProvider for FoldedTable {
    fn schema(&self) -> SchemaRef {
        schema(&(self.columns)())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = (self.rows)(&*self.snapshot.folded().await?);
        table(RecordBatch::try_new(self.schema(), rows)?, projection, limit)
    }
}

fn key_columns() -> Vec<Field> {
    vec![
        text("key_arn"),
        text("key_id"),
        text("account"),
        text("region"),
        text("key_state"),
        text("description"),
        text("key_spec"),
        text("key_usage"),
        text("origin"),
        text("key_manager"),
        time("created_at"),
        time("deletion_date"),
        text("tags"),
        text("policy_sha256"),
        text("key_material_id"),
        text("log"),
        long("last_seq"),
        text("last_event_id"),
        time("updated_at"),
        Field::new("rotation_period_days", DataType::Int64, true),
        time("next_rotation_at"),
        text("expiration_model"),
        time("material_valid_to"),
        text("multi_region_key_type"),
        text("primary_region"),
        text("service"),
    ]
}

fn keys(folded: &Folded) -> Vec<ArrayRef> {
    let keys: Vec<&Key> = folded.keys.values().collect();
    let image = |member: fn(&Key) -> Option<&String>| texts(keys.iter().map(|key| member(key).cloned()));
    let tags = |key: &&Key| serde_json::to_string(&key.image.tags).ok();
    vec![
        image(|key| key.image.key_arn.as_ref()),
        image(|key| key.image.key_id.as_ref()),
        image(|key| key.image.account.as_ref()),
        image(|key| key.image.region.as_ref()),
        image(|key| key.image.key_state.as_ref()),
        image(|key| key.image.description.as_ref()),
        image(|key| key.image.key_spec.as_ref()),
        image(|key| key.image.key_usage.as_ref()),
        image(|key| key.image.origin.as_ref()),
        image(|key| key.image.key_manager.as_ref()),
        times(keys.iter().map(|key| when(&key.image.created_at))),
        times(keys.iter().map(|key| when(&key.image.deletion_date))),
        texts(keys.iter().map(tags)),
        image(|key| key.image.policy_sha256.as_ref()),
        image(|key| key.image.key_material_id.as_ref()),
        image(|key| Some(&key.changed.log)),
        longs(keys.iter().map(|key| key.changed.seq)),
        image(|key| key.changed.event_id.as_ref()),
        times(keys.iter().map(|key| Some(key.changed.event_time_us))),
        Arc::new(keys.iter().map(|key| key.image.rotation_period_in_days).collect::<Int64Array>()),
        times(keys.iter().map(|key| when(&key.image.next_rotation_date))),
        image(|key| key.image.expiration_model.as_ref()),
        times(keys.iter().map(|key| when(&key.image.valid_to))),
        image(|key| key.image.multi_region_key_type.as_ref()),
        image(|key| key.image.primary_region.as_ref()),
        image(|key| key.image.service.as_ref()),
    ]
}

/// Columns of `keys`, and their values of one key; no row where there is none.
pub(super) fn key_row(folded: &Folded, key_arn: &str) -> (Vec<Field>, Vec<ArrayRef>) {
    let one = folded.keys.get_key_value(key_arn).map(|(arn, key)| (arn.clone(), key.clone()));
    let only = Folded { keys: one.into_iter().collect(), ..Folded::default() };
    (key_columns(), keys(&only))
}

fn policy_columns() -> Vec<Field> {
    vec![
        text("key_arn"),
        text("policy"),
        text("policy_sha256"),
        text("previous_policy_sha256"),
        Field::new("current", DataType::Boolean, false),
        text("log"),
        long("seq"),
        text("event_id"),
        text("event_name"),
        time("event_time"),
        text("principal_arn"),
    ]
}

fn policies(folded: &Folded) -> Vec<ArrayRef> {
    let policies: Vec<&KeyPolicy> = folded.policies.iter().map(AsRef::as_ref).collect();
    let column = |member: fn(&KeyPolicy) -> Option<&String>| texts(policies.iter().map(|p| member(p).cloned()));
    // The last one set on each key.
    let mut seen = HashSet::new();
    let mut current: Vec<bool> = policies.iter().rev().map(|policy| seen.insert(policy.key_arn.as_str())).collect();
    current.reverse();
    vec![
        column(|policy| Some(&policy.key_arn)),
        column(|policy| Some(&policy.policy)),
        column(|policy| Some(&policy.policy_sha256)),
        column(|policy| policy.previous_sha256.as_ref()),
        Arc::new(BooleanArray::from(current)),
        column(|policy| Some(&policy.set.log)),
        longs(policies.iter().map(|policy| policy.set.seq)),
        column(|policy| policy.set.event_id.as_ref()),
        column(|policy| Some(&policy.set.event_name)),
        times(policies.iter().map(|policy| Some(policy.set.event_time_us))),
        column(|policy| policy.set.principal_arn.as_ref()),
    ]
}

fn grant_columns() -> Vec<Field> {
    vec![
        text("grant_id"),
        text("key_arn"),
        text("name"),
        text("grantee_principal"),
        text("retiring_principal"),
        text("issuing_account"),
        text("operations"),
        text("constraints"),
        Field::new("current", DataType::Boolean, false),
        time("created_at"),
        text("created_by"),
        text("log"),
        long("seq"),
        text("event_id"),
        time("ended_at"),
        text("ended_by"),
        text("ended_event_name"),
        text("ended_event_id"),
    ]
}

fn grants(folded: &Folded) -> Vec<ArrayRef> {
    let grants: Vec<&Grant> = folded.grants.iter().collect();
    let image = |member: fn(&Grant) -> Option<&String>| texts(grants.iter().map(|grant| member(grant).cloned()));
    let ended = |member: fn(&Step) -> Option<&String>| {
        texts(grants.iter().map(|grant| grant.ended.as_ref().and_then(member).cloned()))
    };
    let constraints = |grant: &&Grant| grant.image.constraints.as_ref().map(ToString::to_string);
    vec![
        image(|grant| Some(&grant.image.grant_id)),
        image(|grant| Some(&grant.image.target_key_arn)),
        image(|grant| grant.image.name.as_ref()),
        image(|grant| grant.image.grantee_principal.as_ref()),
        image(|grant| grant.image.retiring_principal.as_ref()),
        image(|grant| grant.image.issuing_account.as_ref()),
        texts(grants.iter().map(|grant| serde_json::to_string(&grant.image.operations).ok())),
        texts(grants.iter().map(constraints)),
        Arc::new(grants.iter().map(|grant| Some(grant.ended.is_none())).collect::<BooleanArray>()),
        times(grants.iter().map(|grant| when(&grant.image.created_at))),
        image(|grant| grant.created.principal_arn.as_ref()),
        image(|grant| Some(&grant.created.log)),
        longs(grants.iter().map(|grant| grant.created.seq)),
        image(|grant| grant.created.event_id.as_ref()),
        times(grants.iter().map(|grant| grant.ended.as_ref().map(|step| step.event_time_us))),
        ended(|step| step.principal_arn.as_ref()),
        ended(|step| Some(&step.event_name)),
        ended(|step| step.event_id.as_ref()),
    ]
}

fn alias_columns() -> Vec<Field> {
    vec![
        text("alias_arn"),
        text("alias_name"),
        text("key_arn"),
        text("account"),
        text("region"),
        text("log"),
        long("seq"),
        text("event_id"),
        time("updated_at"),
        text("updated_by"),
    ]
}

fn aliases(folded: &Folded) -> Vec<ArrayRef> {
    let aliases: Vec<&Alias> = folded.aliases.values().collect();
    let column =
        |member: fn(&Alias) -> Option<&str>| texts(aliases.iter().map(|alias| member(alias).map(str::to_owned)));
    // arn:aws:kms:<region>:<account>:alias/..
    vec![
        column(|alias| Some(&alias.image.alias_arn)),
        column(|alias| Some(&alias.image.alias_name)),
        column(|alias| Some(&alias.image.target_key_arn)),
        column(|alias| alias.image.alias_arn.split(':').nth(4)),
        column(|alias| alias.image.alias_arn.split(':').nth(3)),
        column(|alias| Some(&alias.changed.log)),
        longs(aliases.iter().map(|alias| alias.changed.seq)),
        column(|alias| alias.changed.event_id.as_deref()),
        times(aliases.iter().map(|alias| Some(alias.changed.event_time_us))),
        column(|alias| alias.changed.principal_arn.as_deref()),
    ]
}

fn principal_columns() -> Vec<Field> {
    vec![
        text("principal_arn"),
        text("kind"),
        text("account"),
        text("name"),
        text("principal_id"),
        text("source"),
        time("created_at"),
        text("groups"),
        text("attached_policies"),
        text("inline_policies"),
        text("permissions_boundary"),
        text("tags"),
        text("log"),
        long("seq"),
        text("event_id"),
        time("updated_at"),
        text("updated_by"),
    ]
}

fn principals(folded: &Folded) -> Vec<ArrayRef> {
    let all: Vec<(&str, &Entity)> = folded.people.iter().filter(|(_, entity)| entity.kind != "policy").collect();
    let column =
        |member: fn(&Entity) -> Option<&str>| texts(all.iter().map(|(_, entity)| member(entity).map(str::to_owned)));
    let inline = |entity: &Entity| -> Vec<String> { entity.inline.iter().map(|(name, _)| name.clone()).collect() };
    let list = |list: fn(&Entity) -> &Vec<String>| {
        texts(all.iter().map(|(_, entity)| serde_json::to_string(list(entity)).ok()))
    };
    vec![
        column(|entity| Some(&entity.arn)),
        column(|entity| Some(entity.kind)),
        column(|entity| Some(&entity.account)),
        column(|entity| Some(&entity.name)),
        column(|entity| entity.unique_id.as_deref()),
        texts(all.iter().map(|(source, _)| Some((*source).to_owned()))),
        times(all.iter().map(|(_, entity)| entity.created_us)),
        list(|entity| &entity.groups),
        list(|entity| &entity.attached),
        texts(all.iter().map(|(_, entity)| serde_json::to_string(&inline(entity)).ok())),
        column(|entity| entity.permissions_boundary.as_deref()),
        column(|entity| entity.tags.as_deref()),
        column(|entity| Some(&entity.changed.log)),
        longs(all.iter().map(|(_, entity)| entity.changed.seq)),
        column(|entity| entity.changed.event_id.as_deref()),
        times(all.iter().map(|(_, entity)| Some(entity.changed.event_time_us))),
        column(|entity| entity.changed.principal_arn.as_deref()),
    ]
}

fn identity_policy_columns() -> Vec<Field> {
    vec![
        text("account"),
        text("principal_arn"),
        text("policy_name"),
        Field::new("managed", DataType::Boolean, false),
        text("policy"),
        text("log"),
        long("seq"),
        text("event_id"),
        time("updated_at"),
        text("updated_by"),
    ]
}

/// A policy as one principal has it; of a managed one that nobody has, there is a row without a principal.
struct Held<'a> {
    holder: Option<&'a Entity>,
    account: &'a str,
    name: &'a str,
    managed: bool,
    document: Option<&'a str>,
    changed: &'a Step,
}

fn held(folded: &Folded) -> Vec<Held<'_>> {
    let mut all = Vec::new();
    let mut attached = HashSet::new();
    for (_, entity) in folded.people.iter().filter(|(_, entity)| entity.kind != "policy") {
        let (holder, account, changed) = (Some(entity), entity.account.as_str(), &*entity.changed);
        for (name, document) in &entity.inline {
            all.push(Held { holder, account, name, managed: false, document: Some(document), changed });
        }
        for name in &entity.attached {
            attached.insert((account, name.as_str()));
            let document = folded.people.document(account, name);
            all.push(Held { holder, account, name, managed: true, document, changed });
        }
    }
    for (_, policy) in folded.people.iter().filter(|(_, entity)| entity.kind == "policy") {
        let (account, name) = (policy.account.as_str(), policy.name.as_str());
        if !attached.contains(&(account, name)) {
            let document = policy.document.as_deref();
            all.push(Held { holder: None, account, name, managed: true, document, changed: &policy.changed });
        }
    }
    all
}

fn identity_policies(folded: &Folded) -> Vec<ArrayRef> {
    let all = held(folded);
    let column = |member: fn(&Held<'_>) -> Option<String>| texts(all.iter().map(member));
    vec![
        column(|held| Some(held.account.to_owned())),
        column(|held| held.holder.map(|holder| holder.arn.clone())),
        column(|held| Some(held.name.to_owned())),
        Arc::new(all.iter().map(|held| Some(held.managed)).collect::<BooleanArray>()),
        column(|held| held.document.map(str::to_owned)),
        column(|held| Some(held.changed.log.clone())),
        longs(all.iter().map(|held| held.changed.seq)),
        column(|held| held.changed.event_id.clone()),
        times(all.iter().map(|held| Some(held.changed.event_time_us))),
        column(|held| held.changed.principal_arn.clone()),
    ]
}

/// Microseconds of a time as images have it.
fn when(text: &Option<String>) -> Option<i64> {
    Some(chrono::DateTime::parse_from_rfc3339(text.as_deref()?).ok()?.timestamp_micros())
}

struct AlertRow {
    position: i64,
    alert_id: String,
    revision: i64,
    created_us: i64,
    json: String,
    body: serde_json::Value,
}

fn alert_columns() -> Vec<Field> {
    vec![
        long("position"),
        text("alert_id"),
        long("revision"),
        text("rule_id"),
        text("severity"),
        text("title"),
        time("created"),
        text("json"),
    ]
}

fn alerts(dir: &Path) -> Result<Vec<ArrayRef>> {
    let rows = read_alerts(&dir.join("trail.db")).map_err(external)?;
    let member = |name: &'static str| {
        texts(rows.iter().map(move |row| row.body.get(name).and_then(|value| value.as_str()).map(str::to_owned)))
    };
    Ok(vec![
        longs(rows.iter().map(|row| row.position)),
        texts(rows.iter().map(|row| Some(row.alert_id.clone()))),
        longs(rows.iter().map(|row| row.revision)),
        member("ruleId"),
        member("severity"),
        member("title"),
        times(rows.iter().map(|row| Some(row.created_us))),
        texts(rows.iter().map(|row| Some(row.json.clone()))),
    ])
}

fn read_alerts(path: &Path) -> rusqlite::Result<Vec<AlertRow>> {
    let Some(db) = open(path)? else { return Ok(Vec::new()) };
    if !has_table(&db, "alerts")? {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare(
        "SELECT position, alert_id, revision, json, created_us FROM \
         (SELECT * FROM alerts ORDER BY position DESC LIMIT ?1) ORDER BY position",
    )?;
    let rows = statement.query_map([ALERTS_MAX], |row| {
        let json: Vec<u8> = row.get(3)?;
        let json = String::from_utf8_lossy(&json).into_owned();
        Ok(AlertRow {
            position: row.get(0)?,
            alert_id: row.get(1)?,
            revision: row.get(2)?,
            created_us: row.get(4)?,
            body: serde_json::from_str(&json).unwrap_or_default(),
            json,
        })
    })?;
    rows.collect()
}

pub(super) fn table(
    batch: RecordBatch,
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = batch.schema();
    let source = MemorySourceConfig::try_new(&[vec![batch]], schema, projection.cloned())?;
    Ok(datafusion::datasource::source::DataSourceExec::from_data_source(source.with_limit(limit)))
}

pub(super) fn schema(fields: &[Field]) -> SchemaRef {
    Arc::new(Schema::new(fields.to_vec()))
}

/// `logs`: each log of the snapshot, and from where on it is whole.
pub(super) fn logs_table(snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>> {
    let fields = [
        text("log"),
        Field::new("imported", DataType::Boolean, false),
        long("whole_from"),
        time("whole_since"),
        long("next_seq"),
    ];
    let seq = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let logs: Vec<_> = snapshot.logs().iter().collect();
    // What never lost a record is whole since it began.
    let since = |log: &LogSnapshot| {
        let first = log.files.first().filter(|_| log.start.next_seq > 0)?;
        Some(first.event_times().0)
    };
    let columns = vec![
        texts(logs.iter().map(|(id, _)| Some(id.to_string()))),
        Arc::new(logs.iter().map(|(_, log)| Some(log.imported)).collect::<BooleanArray>()),
        longs(logs.iter().map(|(_, log)| seq(log.start.next_seq))),
        times(logs.iter().map(|(_, log)| since(log))),
        longs(logs.iter().map(|(_, log)| seq(log.end.next_seq))),
    ];
    let batch = RecordBatch::try_new(schema(&fields), columns)?;
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

pub(super) fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

pub(super) fn long(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

pub(super) fn time(name: &str) -> Field {
    Field::new(name, timestamp(), true)
}

pub(super) fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub(super) fn longs(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

pub(super) fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone(ZONE))
}
