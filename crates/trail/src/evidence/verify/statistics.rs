//! Of step 7: what a Parquet file claims about its columns. Readers pass over row groups and pages by their minimum, maximum
//! and number of nulls, so a claim that does not fit the rows would hide them from a query without changing any.
//!
//! Checked beside the rows: bounds of row groups and of pages hold for every value, bounds said to be exact are reached,
//! nulls are as many as said. Claims that the lake never makes (bloom filters, distinct counts, sort orders) are refused.

use super::Failure;
use arrow::array::{Array as _, ArrayRef, RecordBatch, UInt64Array, make_comparator};
use arrow::compute::SortOptions;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use std::cmp::Ordering;
use std::fs::File;
use std::path::Path;

/// What one file claims, as far as its rows have gone by.
pub(super) struct Statistics {
    columns: Vec<Column>,
    rows: usize,
}

struct Column {
    name: String,
    /// Of row groups, and of pages.
    claims: Vec<Claims>,
}

/// Claims about runs of rows that follow one another.
struct Claims {
    /// First row behind each run.
    ends: Vec<usize>,
    mins: ArrayRef,
    maxes: ArrayRef,
    nulls: Vec<Option<u64>>,
    /// Whether minimum and maximum are said to be exact.
    exact: Vec<(bool, bool)>,
    seen: Vec<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    min: bool,
    max: bool,
    nulls: u64,
}

fn damaged(error: &ParquetError) -> Failure {
    Failure::new(format!("statistics cannot be read: {error}"))
}

impl Statistics {
    /// Reads the claims of a file.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| Failure::new(error.to_string()))?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let read = ArrowReaderMetadata::load(&file, options).map_err(|error| damaged(&error))?;
        let metadata = read.metadata();
        refuse_others(metadata)?;
        let column = |name: &str| {
            let converter = StatisticsConverter::try_new(name, read.schema(), read.parquet_schema())?;
            let converter = converter.with_missing_null_counts_as_zero(false);
            let mut claims = vec![Claims::of_row_groups(&converter, metadata)?];
            claims.extend(Claims::of_pages(&converter, metadata)?);
            Ok(Column { name: name.to_owned(), claims })
        };
        let columns = read.schema().fields().iter().map(|field| column(field.name()));
        let columns = columns.collect::<Result<_, ParquetError>>().map_err(|error| damaged(&error))?;
        Ok(Self { columns, rows: 0 })
    }

    /// Compares the next rows of the file.
    pub(super) fn take(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        for column in &mut self.columns {
            let Some(values) = batch.column_by_name(&column.name) else { continue };
            for claims in &mut column.claims {
                let fits = claims.take(values, self.rows);
                fits.map_err(|what| Failure::new(format!("statistics of column {}: {what}", column.name)))?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// What can only be said of whole runs.
    pub(super) fn finish(self) -> Result<(), Failure> {
        for Column { name, claims } in self.columns {
            for claims in claims {
                if let Some(what) = claims.not_met(self.rows) {
                    return Err(Failure::new(format!("statistics of column {name}: {what}")));
                }
            }
        }
        Ok(())
    }
}

/// Claims that the lake's writer does not make and nothing here checks.
fn refuse_others(metadata: &ParquetMetaData) -> Result<(), Failure> {
    for group in metadata.row_groups() {
        let odd = group.columns().iter().any(|column| {
            let old = |statistics: &parquet::file::statistics::Statistics| {
                // Where all is null, neither kind is there.
                let bounds = statistics.min_bytes_opt().is_some() || statistics.max_bytes_opt().is_some();
                statistics.is_min_max_deprecated() && bounds || statistics.distinct_count_opt().is_some()
            };
            column.bloom_filter_offset().is_some() || column.statistics().is_some_and(old)
        });
        if odd || group.sorting_columns().is_some() {
            return Err(Failure::new(
                "a bloom filter, distinct count, sort order or old kind of statistics is claimed",
            ));
        }
    }
    Ok(())
}

impl Claims {
    fn of_row_groups(converter: &StatisticsConverter<'_>, metadata: &ParquetMetaData) -> Result<Self, ParquetError> {
        let groups = metadata.row_groups();
        let rows = groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        let exact_min = converter.row_group_is_min_value_exact(groups)?;
        let exact_max = converter.row_group_is_max_value_exact(groups)?;
        let exact = exact_min.iter().zip(&exact_max).map(|(min, max)| (min == Some(true), max == Some(true)));
        let nulls = converter.row_group_null_counts(groups)?;
        Ok(Self {
            ends: ends(rows),
            mins: converter.row_group_mins(groups)?,
            maxes: converter.row_group_maxes(groups)?,
            nulls: nulls.iter().collect(),
            exact: exact.collect(),
            seen: vec![Seen::default(); groups.len()],
        })
    }

    /// None where the file has no index of pages.
    fn of_pages(converter: &StatisticsConverter<'_>, metadata: &ParquetMetaData) -> Result<Option<Self>, ParquetError> {
        let groups: Vec<usize> = (0..metadata.num_row_groups()).collect();
        let (Some(index), Some(offsets)) = (metadata.column_index(), metadata.offset_index()) else { return Ok(None) };
        let counts = converter.data_page_row_counts(offsets, metadata.row_groups(), &groups)?;
        let (Some(counts), Some(at)) = (counts, converter.parquet_column_index()) else { return Ok(None) };
        let rows: Vec<u64> = counts.iter().map(|count| count.unwrap_or(u64::MAX)).collect();
        let nulls: UInt64Array = converter.data_page_null_counts(index, offsets, &groups)?;
        // A page said to be all null is passed over like one with that many nulls.
        let pages = groups.iter().flat_map(|group| {
            let pages =
                offsets.get(*group).and_then(|columns| columns.get(at)).map_or(0, |one| one.page_locations().len());
            (0..pages).map(move |page| (*group, page))
        });
        let whole = pages.map(|(group, page)| {
            let column = index.get(group).and_then(|columns| columns.get(at));
            column.is_some_and(|column| !matches!(column, ColumnIndexMetaData::NONE) && column.is_null_page(page))
        });
        let nulls = nulls.iter().zip(whole).zip(&rows).map(|((nulls, whole), rows)| nulls.or(whole.then_some(*rows)));
        Ok(Some(Self {
            mins: converter.data_page_mins(index, offsets, &groups)?,
            maxes: converter.data_page_maxes(index, offsets, &groups)?,
            nulls: nulls.collect(),
            exact: vec![(false, false); rows.len()],
            seen: vec![Seen::default(); rows.len()],
            ends: ends(rows.into_iter()),
        }))
    }

    /// Compares the rows from `start` on.
    fn take(&mut self, values: &ArrayRef, start: usize) -> Result<(), String> {
        let compare = |bounds: &ArrayRef| make_comparator(values, bounds, SortOptions::default());
        let (below, above) = (compare(&self.mins), compare(&self.maxes));
        let (below, above) = below.and_then(|below| Ok((below, above?))).map_err(|error| error.to_string())?;
        for row in 0..values.len() {
            let run = self.ends.partition_point(|end| *end <= start + row);
            let Some(seen) = self.seen.get_mut(run) else { return Err("rows go on behind them".to_owned()) };
            if values.is_null(row) {
                seen.nulls += 1;
                continue;
            }
            if self.mins.len() > run && self.mins.is_valid(run) {
                match below(row, run) {
                    Ordering::Less => return Err("a value is below the minimum".to_owned()),
                    Ordering::Equal => seen.min = true,
                    Ordering::Greater => {}
                }
            }
            if self.maxes.len() > run && self.maxes.is_valid(run) {
                match above(row, run) {
                    Ordering::Greater => return Err("a value is above the maximum".to_owned()),
                    Ordering::Equal => seen.max = true,
                    Ordering::Less => {}
                }
            }
        }
        Ok(())
    }

    fn not_met(&self, rows: usize) -> Option<&'static str> {
        if self.ends.last().copied().unwrap_or(0) != rows {
            return Some("they are of another number of rows");
        }
        let runs = self.seen.iter().zip(&self.nulls).zip(&self.exact).enumerate();
        for (run, ((seen, nulls), (exact_min, exact_max))) in runs {
            if nulls.is_some_and(|nulls| nulls != seen.nulls) {
                return Some("nulls are not as many");
            }
            let unmet = |exact: &bool, bound: &ArrayRef, met: bool| *exact && bound.is_valid(run) && !met;
            if unmet(exact_min, &self.mins, seen.min) || unmet(exact_max, &self.maxes, seen.max) {
                return Some("a bound that is said to be exact is no value");
            }
        }
        None
    }
}

/// First row behind each run of so many rows.
fn ends(rows: impl Iterator<Item = u64>) -> Vec<usize> {
    let sum = |end: &mut u64, rows: u64| {
        *end = end.saturating_add(rows);
        Some(usize::try_from(*end).unwrap_or(usize::MAX))
    };
    rows.scan(0, sum).collect()
}
