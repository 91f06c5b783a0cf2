//! The snapshot as a DataFusion table: exactly the committed files, and the tail.
//!
//! Files come from commits with the explicit schema of `schema`, never from a folder listing, so a stray file is not
//! there. Ranges of seq and time from the commits leave whole files out of the plan, so that threads share what is left;
//! filters go down into the Parquet scan. Newest files come first: most questions with a LIMIT are about them, and the
//! rows found then rule out the older ones. How bytes are read is in `reader`.

use super::commit::{DataFile, KeptFile};
use super::reader::{Footers, Readers};
use super::schema::{ZONE, records_schema};
use super::snapshot::Snapshot;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use object_store::local::LocalFileSystem;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics as ColumnChunkStatistics;
use std::path::PathBuf;
use std::sync::Arc;

/// The only store a session knows: the lake folder.
pub(crate) const STORE_URL: &str = "keytrail://lake";

/// All records of a snapshot.
#[derive(Debug)]
pub(crate) struct Records {
    snapshot: Arc<Files>,
}

/// The parts of a snapshot that a scan reads.
#[derive(Debug)]
struct Files {
    /// The lake folder.
    root: PathBuf,
    files: Vec<Arc<DataFile>>,
    /// Changes that stayed when their records left.
    kept: Vec<Arc<KeptFile>>,
    tail: Vec<RecordBatch>,
    footers: Footers,
}

impl Records {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        Self {
            snapshot: Arc::new(Files {
                root: snapshot.root().to_owned(),
                files: snapshot.files().cloned().collect(),
                kept: snapshot.logs().values().filter_map(|log| log.kept.clone()).collect(),
                tail: snapshot.tail().cloned().collect(),
                footers: snapshot.footers().clone(),
            }),
        }
    }

    /// The committed part of our own logs only.
    pub(crate) fn committed(snapshot: &Snapshot) -> Self {
        let files = snapshot.own_logs().flat_map(|(_, log)| log.files.iter().cloned()).collect();
        let kept = snapshot.own_logs().filter_map(|(_, log)| log.kept.clone()).collect();
        let footers = snapshot.footers().clone();
        let root = snapshot.root().to_owned();
        Self { snapshot: Arc::new(Files { root, files, kept, tail: Vec::new(), footers }) }
    }

    async fn scan_files(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = records_schema();
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        let store = state.runtime_env().object_store(&url)?;
        let readers = Readers::new(self.snapshot.root.clone(), Arc::clone(&store), &self.snapshot.footers);
        // The filters come down from the plan's own, in the order of `query::selective`; given here as well, each row
        // would be judged twice.
        let source = ParquetSource::new(schema.clone())
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_parquet_file_reader_factory(Arc::new(readers))
            .with_pushdown_filters(true)
            .with_enable_page_index(true);
        let mut files = self.newest_first(&schema)?;
        if let Some(filter) = conjunction(filters.to_vec()) {
            let df_schema = DFSchema::try_from(schema.clone())?;
            let predicate = state.create_physical_expr(filter, &df_schema)?;
            files = needed(files, &predicate, &schema);
        }
        for file in &mut files {
            let footer = self.snapshot.footers.get(store.as_ref(), file).await?;
            note_kind(file, &footer, &schema)?;
        }
        files.extend(self.snapshot.kept.iter().map(|kept| {
            let statistics = Statistics::new_unknown(&schema).with_num_rows(Precision::Exact(count(kept.rows)));
            PartitionedFile::new(kept.path.clone(), kept.bytes).with_statistics(Arc::new(statistics))
        }));
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_statistics(total(&files, &schema))
            .with_file_groups(dealt(files, state.config().target_partitions().max(1)))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn newest_first(&self, schema: &SchemaRef) -> Result<Vec<PartitionedFile>> {
        let mut files: Vec<&Arc<DataFile>> = self.snapshot.files.iter().collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.event_times().1));
        files.into_iter().map(|file| partitioned(file, schema)).collect()
    }

    fn scan_tail(&self, projection: Option<&Vec<usize>>, limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = [self.snapshot.tail.clone()];
        let source = MemorySourceConfig::try_new(&partitions, records_schema(), projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }
}

/// The files that may hold a row for which `predicate` holds, and one at least: a scan of nothing is no plan.
fn needed(files: Vec<PartitionedFile>, predicate: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Vec<PartitionedFile> {
    let statistics: Vec<Arc<Statistics>> = files.iter().filter_map(|file| file.statistics.clone()).collect();
    let judged = PruningPredicateBuilder::new()
        .with_file_schema(schema.clone())
        .try_build(Arc::clone(predicate))
        .and_then(|pruning| pruning.prune(&PrunableStatistics::new(statistics, schema.clone())));
    // What cannot be judged is read: leaving files out only saves work.
    let Some(keep) = judged.ok().filter(|keep| keep.len() == files.len()) else { return files };
    let first = keep.iter().position(|keep| *keep).unwrap_or(0);
    let judged = files.into_iter().zip(keep).enumerate();
    judged.filter(|(index, (_, keep))| *keep || *index == first).map(|(_, (file, _))| file).collect()
}

/// Files dealt like cards, so that each thread has new and old ones.
fn dealt(files: Vec<PartitionedFile>, groups: usize) -> Vec<FileGroup> {
    let groups = groups.min(files.len()).max(1);
    let mut dealt = vec![Vec::new(); groups];
    for (index, file) in files.into_iter().enumerate() {
        if let Some(group) = dealt.get_mut(index % groups) {
            group.push(file);
        }
    }
    dealt.into_iter().map(FileGroup::new).collect()
}

fn total(files: &[PartitionedFile], schema: &SchemaRef) -> Statistics {
    let rows = |file: &PartitionedFile| file.statistics.as_ref().and_then(|known| known.num_rows.get_value().copied());
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(files.iter().filter_map(rows).sum());
    statistics.total_byte_size = Precision::Inexact(files.iter().map(|file| count(file.object_meta.size)).sum());
    statistics
}

#[async_trait]
impl TableProvider for Records {
    fn schema(&self) -> SchemaRef {
        records_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Filters that only narrow the files' scan leave the limit to the operators above.
        let limit = limit.filter(|_| filters.is_empty());
        match (self.snapshot.files.is_empty(), self.snapshot.tail.is_empty()) {
            (true, _) => self.scan_tail(projection, limit),
            (false, true) => self.scan_files(state, projection, filters, limit).await,
            (false, false) => {
                let files = self.scan_files(state, projection, filters, limit).await?;
                UnionExec::try_new(vec![files, self.scan_tail(projection, limit)?])
            }
        }
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // Inexact: the files apply them, the tail does not, so the plan keeps its own filter above both.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Gives a session one folder and takes away the file system that DataFusion knows by default.
pub(crate) fn confine(runtime: &RuntimeEnv, folder: Option<&std::path::Path>) -> Result<()> {
    let everything = ObjectStoreUrl::local_filesystem();
    runtime.deregister_object_store(everything.as_ref())?;
    if let Some(folder) = folder {
        let store =
            LocalFileSystem::new_with_prefix(folder).map_err(|error| DataFusionError::ObjectStore(Box::new(error)))?;
        runtime.register_object_store(ObjectStoreUrl::parse(STORE_URL)?.as_ref(), Arc::new(store));
    }
    Ok(())
}

fn partitioned(file: &DataFile, schema: &SchemaRef) -> Result<PartitionedFile> {
    let mut statistics = Statistics::new_unknown(schema).with_num_rows(Precision::Exact(count(file.rows)));
    let long = |value: u64| ScalarValue::Int64(Some(i64::try_from(value).unwrap_or(i64::MAX)));
    let time = |value: i64| ScalarValue::TimestampMicrosecond(Some(value), Some(ZONE.into()));
    let (event_time_first, event_time_last) = file.event_times();
    let ranges = [
        ("seq", long(file.first), long(file.last)),
        ("leaf_time_us", long(file.time_first), long(file.time_last)),
        ("event_time", time(event_time_first), time(event_time_last)),
    ];
    for (name, min, max) in ranges {
        let index = schema.index_of(name)?;
        if let Some(column) = statistics.column_statistics.get_mut(index) {
            *column = ColumnStatistics::new_unknown()
                .with_min_value(Precision::Exact(min))
                .with_max_value(Precision::Exact(max))
                .with_null_count(Precision::Exact(0));
        }
    }
    Ok(PartitionedFile::new(file.path.clone(), file.bytes).with_statistics(Arc::new(statistics)))
}

/// Adds the range of a file's kinds, so that `events` does not look at each row of a file that holds nothing but calls.
fn note_kind(file: &mut PartitionedFile, footer: &ParquetMetaData, schema: &SchemaRef) -> Result<()> {
    let chunk = footer.file_metadata().schema_descr().columns().iter().position(|column| column.name() == "kind");
    let range = |chunk: usize| {
        let ranges = footer.row_groups().iter().map(|group| match group.column(chunk).statistics() {
            Some(ColumnChunkStatistics::Int32(known)) => Some((*known.min_opt()?, *known.max_opt()?)),
            _ => None,
        });
        ranges.reduce(|a, b| a.zip(b).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1)))).flatten()
    };
    let (Some((min, max)), Some(statistics)) = (chunk.and_then(range), &mut file.statistics) else { return Ok(()) };
    let index = schema.index_of("kind")?;
    if let Some(column) = Arc::make_mut(statistics).column_statistics.get_mut(index) {
        *column = ColumnStatistics::new_unknown()
            .with_min_value(Precision::Exact(ScalarValue::Int32(Some(min))))
            .with_max_value(Precision::Exact(ScalarValue::Int32(Some(max))))
            .with_null_count(Precision::Exact(0));
    }
    Ok(())
}

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
