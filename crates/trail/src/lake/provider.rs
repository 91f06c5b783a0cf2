//! The snapshot as a DataFusion table: exactly the committed files, and the tail.
//!
//! Files come from commits with the explicit schema of `schema`, never from a folder listing, so a stray file is not
//! there. Filters go down into the Parquet scan; sizes, row counts and ranges of seq and time from the commits let it
//! skip whole files unopened.

use super::commit::DataFile;
use super::schema::{ZONE, records_schema};
use super::snapshot::Snapshot;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use object_store::local::LocalFileSystem;
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
    files: Vec<Arc<DataFile>>,
    tail: Vec<RecordBatch>,
}

impl Records {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        Self {
            snapshot: Arc::new(Files {
                files: snapshot.files().cloned().collect(),
                tail: snapshot.tail().cloned().collect(),
            }),
        }
    }

    /// The committed part of our own logs only.
    pub(crate) fn committed(snapshot: &Snapshot) -> Self {
        let files = snapshot.own_logs().flat_map(|(_, log)| log.files.iter().cloned()).collect();
        Self { snapshot: Arc::new(Files { files, tail: Vec::new() }) }
    }

    fn scan_files(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = records_schema();
        let mut source = ParquetSource::new(schema.clone())
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true);
        if let Some(filter) = conjunction(filters.to_vec()) {
            let df_schema = DFSchema::try_from(schema.clone())?;
            source = source.with_predicate(state.create_physical_expr(filter, &df_schema)?);
        }
        let files = self.snapshot.files.iter().map(|file| partitioned(file, &schema)).collect::<Result<Vec<_>>>()?;
        let groups = FileGroup::new(files).split_files(state.config().target_partitions().max(1));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.file_statistics(&schema))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn scan_tail(&self, projection: Option<&Vec<usize>>, limit: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = [self.snapshot.tail.clone()];
        let source = MemorySourceConfig::try_new(&partitions, records_schema(), projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit)))
    }

    fn file_statistics(&self, schema: &SchemaRef) -> Statistics {
        let rows = self.snapshot.files.iter().map(|file| count(file.rows)).sum();
        let mut statistics = Statistics::new_unknown(schema);
        statistics.num_rows = Precision::Exact(rows);
        statistics.total_byte_size = Precision::Inexact(self.snapshot.files.iter().map(|file| count(file.bytes)).sum());
        statistics
    }
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
            (false, true) => self.scan_files(state, projection, filters, limit),
            (false, false) => {
                let files = self.scan_files(state, projection, filters, limit)?;
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
pub(crate) fn confine(
    runtime: &datafusion::execution::runtime_env::RuntimeEnv,
    folder: Option<&std::path::Path>,
) -> Result<()> {
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

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
