//! A session per query: our tables over one snapshot, a memory bound, no files, nothing that can be written.
//!
//! The catalog refuses registrations, the runtime knows no object store but the lake's folder and may not spill to
//! disk. Statements still have to pass `gate`.

use super::cloudtrail;
use super::functions;
use super::key_at::{self, KeyAt};
use super::memory::{QueryMemory, SharedMemory};
use super::ocsf;
use super::rule_tables;
use super::selective::SelectiveFirst;
use super::stores::{self, Stored};
use super::tables::{FoldedTable, alerts_table, logs_table};
use crate::lake::provider::{Records, confine};
use crate::lake::schema::{events_schema, records_schema};
use crate::lake::snapshot::Snapshot;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::exec_err;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::Result;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col, lit};
use datafusion::prelude::{SessionConfig, SessionContext};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Name of the one catalog and of its schema.
pub(crate) const CATALOG: &str = "keytrail";
pub(crate) const SCHEMA: &str = "public";

/// Bounds of one query.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Memory for sorts, joins and groups.
    pub memory_bytes: usize,
    /// Time from start to last row.
    pub deadline: Duration,
    /// Rows returned; more is an error, not a silent cut.
    pub rows_max: u64,
    /// Threads of one query.
    pub partitions: usize,
    /// What the query takes its memory from, with others.
    pub shared: Option<Arc<SharedMemory>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 << 20,
            deadline: Duration::from_secs(60),
            rows_max: 10_000_000,
            partitions: 2,
            shared: None,
        }
    }
}

/// Makes the session of one query or connection, with the tables of docs/sql.md. Those of other stores (`alerts`,
/// `rules`, `rule_runs`, `risk`, `exceptions`, `incidents`, `checkpoints`) are empty unless the path of a trail.db is given, beside which they are.
pub fn session(snapshot: &Arc<Snapshot>, limits: &Limits, trail_db: Option<PathBuf>) -> Result<SessionContext> {
    session_of(snapshot, limits, trail_db, None)
}

/// The same with these tables only, for a user who may not see all.
pub(crate) fn session_of(
    snapshot: &Arc<Snapshot>,
    limits: &Limits,
    trail_db: Option<PathBuf>,
    only: Option<&BTreeSet<String>>,
) -> Result<SessionContext> {
    let site = trail_db.as_deref().map(stores::site);
    let mut tables = tables(snapshot, trail_db)?;
    let shown = |name: &str| only.is_none_or(|only| only.contains(name));
    tables.retain(|name, _| shown(name));
    let session = with_tables(folder(snapshot), limits, tables)?;
    functions::register_site(&session, &site.unwrap_or_default());
    // It reads both.
    if shown("keys") && shown("events") {
        session.register_udtf(key_at::NAME, Arc::new(KeyAt(snapshot.clone())));
    }
    Ok(session)
}

/// All tables over a snapshot, by name.
fn tables(snapshot: &Arc<Snapshot>, trail_db: Option<PathBuf>) -> Result<BTreeMap<String, Arc<dyn TableProvider>>> {
    let records: Arc<dyn TableProvider> = Arc::new(Records::new(snapshot));
    let mut tables: BTreeMap<String, Arc<dyn TableProvider>> = BTreeMap::new();
    let calls = events(records.clone())?;
    tables.insert("ocsf".to_owned(), ocsf::view(calls.clone())?);
    tables.insert("cloudtrail".to_owned(), cloudtrail::view(calls.clone())?);
    tables.insert("events".to_owned(), calls);
    tables.insert("records".to_owned(), records);
    tables.insert("logs".to_owned(), logs_table(snapshot)?);
    tables.insert("keys".to_owned(), Arc::new(FoldedTable::keys(snapshot.clone())));
    tables.insert("key_policies".to_owned(), Arc::new(FoldedTable::key_policies(snapshot.clone())));
    tables.insert("grants".to_owned(), Arc::new(FoldedTable::grants(snapshot.clone())));
    tables.insert("aliases".to_owned(), Arc::new(FoldedTable::aliases(snapshot.clone())));
    tables.insert("principals".to_owned(), Arc::new(FoldedTable::principals(snapshot.clone())));
    tables.insert("identity_policies".to_owned(), Arc::new(FoldedTable::identity_policies(snapshot.clone())));
    // What other parts keep is beside trail.db.
    let dir = trail_db.as_deref().and_then(Path::parent);
    tables.insert("incidents".to_owned(), Arc::new(Stored::incidents(dir)));
    tables.insert("exceptions".to_owned(), Arc::new(Stored::exceptions(dir)));
    tables.insert("checkpoints".to_owned(), Arc::new(Stored::checkpoints(dir)));
    tables.insert("rules".to_owned(), Arc::new(rule_tables::rules(dir)));
    tables.insert("rule_runs".to_owned(), Arc::new(rule_tables::runs(dir)));
    tables.insert("risk".to_owned(), Arc::new(rule_tables::risk(dir)));
    tables.insert("alerts".to_owned(), Arc::new(alerts_table(dir)));
    Ok(tables)
}

/// A session over the committed files alone, for folding.
pub(crate) fn committed_only(snapshot: &Snapshot) -> Result<SessionContext> {
    let records: Arc<dyn TableProvider> = Arc::new(Records::committed(snapshot));
    with_tables(folder(snapshot), &Limits::default(), BTreeMap::from([("records".to_owned(), records)]))
}

/// The lake folder, when there is a file in it to read.
fn folder(snapshot: &Snapshot) -> Option<&Path> {
    snapshot.files().next().is_some().then(|| snapshot.root())
}

/// A session over these tables, which knows no files but those below `folder`.
pub(crate) fn with_tables(
    folder: Option<&Path>,
    limits: &Limits,
    tables: BTreeMap<String, Arc<dyn TableProvider>>,
) -> Result<SessionContext> {
    let runtime = runtime(limits)?;
    confine(&runtime, folder)?;
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_target_partitions(limits.partitions.max(1));
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    // Names come from CloudTrail in capitals and are compared as they are; SQL itself stays case-insensitive.
    options.execution.time_zone = Some("UTC".to_owned());
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features();
    let state = state.with_optimizer_rule(Arc::new(SelectiveFirst)).build();
    let session = SessionContext::new_with_state(state);
    let schema: Arc<dyn SchemaProvider> = Arc::new(OnlySchema(tables));
    session.register_catalog(CATALOG, Arc::new(OnlyCatalog(BTreeMap::from([(SCHEMA.to_owned(), schema)]))));
    functions::register(&session)?;
    Ok(session)
}

fn runtime(limits: &Limits) -> Result<Arc<RuntimeEnv>> {
    let told = NonZeroUsize::new(3).expect("3 is not zero");
    let pool: Arc<dyn MemoryPool> = match &limits.shared {
        Some(shared) => Arc::new(TrackConsumersPool::new(QueryMemory::new(limits.memory_bytes, shared.clone()), told)),
        None => Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(limits.memory_bytes), told)),
    };
    RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
}

/// `events`: kind 1 of `records`, without the columns of the verifier.
pub(crate) fn events(records: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let columns: Vec<Expr> = events_schema().fields().iter().map(|field| col(field.name().as_str())).collect();
    debug_assert!(records_schema().field_with_name("kind").is_ok());
    let plan = LogicalPlanBuilder::scan("records", provider_as_source(records), None)?
        .filter(col("kind").eq(lit(1)))?
        .project(columns)?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Puts more schemas beside our own: PostgreSQL's.
pub(crate) fn with_schemas(session: &SessionContext, more: &BTreeMap<String, Arc<dyn SchemaProvider>>) -> Result<()> {
    let Some(own) = session.catalog(CATALOG).and_then(|catalog| catalog.schema(SCHEMA)) else {
        return exec_err!("the session has no catalog");
    };
    let mut schemas = more.clone();
    schemas.insert(SCHEMA.to_owned(), own);
    session.register_catalog(CATALOG, Arc::new(OnlyCatalog(schemas)));
    Ok(())
}

/// A catalog whose schemas are fixed.
#[derive(Debug)]
struct OnlyCatalog(BTreeMap<String, Arc<dyn SchemaProvider>>);

impl CatalogProvider for OnlyCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.0.get(name).cloned()
    }

    fn register_schema(&self, _: &str, _: Arc<dyn SchemaProvider>) -> Result<Option<Arc<dyn SchemaProvider>>> {
        exec_err!("the catalog is read-only")
    }
}

/// The tables; registering and deregistering are refused by the trait's own defaults.
#[derive(Debug)]
struct OnlySchema(BTreeMap<String, Arc<dyn TableProvider>>);

#[async_trait]
impl SchemaProvider for OnlySchema {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.get(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
