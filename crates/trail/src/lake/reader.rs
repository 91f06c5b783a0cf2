//! How scans read Parquet files: footers and page indexes once for all queries, bytes straight from the open file.
//!
//! A query for one key reads hundreds of short ranges. The object store opens the file for each and hands the reading to
//! another thread, which costs more than the bytes do: they are in the page cache, and queries run on threads of their
//! own. The store is still what reads footers, and what a lake elsewhere than on this disk would need.

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetFileMetrics, ParquetFileReaderFactory,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Most bytes of footers and page indexes kept: those of some 100 M events.
const FOOTERS_BYTES_MAX: usize = 128 << 20;

/// Footers and page indexes of files, which never change. Shared by the snapshots of a lake.
#[derive(Clone)]
pub(super) struct Footers(Arc<FileMetadataCache>);

impl Default for Footers {
    fn default() -> Self {
        let runtime = RuntimeEnvBuilder::new().with_metadata_cache_limit(FOOTERS_BYTES_MAX).build();
        Self(runtime.unwrap_or_default().cache_manager.get_file_metadata_cache())
    }
}

impl std::fmt::Debug for Footers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Footers")
    }
}

impl Footers {
    /// A file's footer with its page index. The scan itself asks for a footer alone and, with a filter, then reads the
    /// index again for each query: so whoever plans a scan asks here first.
    pub(super) async fn get(&self, store: &dyn ObjectStore, file: &PartitionedFile) -> Result<Arc<ParquetMetaData>> {
        DFParquetMetadata::new(store, &file.object_meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.0)))
            .fetch_metadata()
            .await
    }
}

/// Makes readers of files below a folder.
#[derive(Debug)]
pub(super) struct Readers {
    folder: PathBuf,
    footers: CachedParquetFileReaderFactory,
}

impl Readers {
    pub(super) fn new(folder: PathBuf, store: Arc<dyn ObjectStore>, footers: &Footers) -> Self {
        Self { folder, footers: CachedParquetFileReaderFactory::new(store, Arc::clone(&footers.0)) }
    }
}

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        // Paths come from commits, whose form is checked when they are read.
        let path = self.folder.join(file.path().as_ref());
        let opened = File::open(&path).map_err(|error| {
            DataFusionError::External(format!("file {} cannot be read: {error}", file.path()).into())
        })?;
        let measured = ParquetFileMetrics::new(partition_index, file.path().as_ref(), metrics);
        let footer = self.footers.create_reader(partition_index, file, metadata_size_hint, metrics)?;
        Ok(Box::new(Reader { file: opened, footer, measured }))
    }
}

struct Reader {
    file: File,
    footer: Box<dyn AsyncFileReader + Send>,
    measured: ParquetFileMetrics,
}

impl Reader {
    fn read(&self, range: &Range<u64>) -> parquet::errors::Result<Bytes> {
        let length = usize::try_from(range.end.saturating_sub(range.start))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|error| ParquetError::External(Box::new(error)))?;
        self.measured.bytes_scanned.add(length);
        Ok(bytes.into())
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        std::future::ready(self.read(&range)).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        std::future::ready(ranges.iter().map(|range| self.read(range)).collect()).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        self.footer.get_metadata(options)
    }
}
