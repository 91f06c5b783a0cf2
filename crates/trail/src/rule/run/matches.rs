//! The rows of a batch that passed a rule's filter.
//!
//! A rule reads a dozen columns for the row of an alert and two for the question whether there is one, so that columns of
//! the chosen rows are copied only when something asks for them. What has to wait for later batches is copied whole.

use super::{RuleFailure, truths};
use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter, take};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use std::sync::{Arc, OnceLock};

/// The rows that a rule is about, with the columns that it reads.
#[derive(Debug)]
pub(crate) struct Matches {
    pub(crate) times_us: Vec<i64>,
    /// Empty for findings about the log itself.
    pub(crate) seqs: Vec<u64>,
    source: RecordBatch,
    /// Rows of `source`, each at most once; None for all.
    rows: Option<UInt32Array>,
    /// Columns of these rows that were copied.
    copied: Vec<OnceLock<ArrayRef>>,
}

impl Matches {
    /// All rows of a batch.
    pub(crate) fn all(batch: RecordBatch, times_us: Vec<i64>, seqs: Vec<u64>) -> Self {
        Self { times_us, seqs, copied: empty(&batch), source: batch, rows: None }
    }

    /// Of `rows` (None for all) of a batch those for which the filter is true; `times_us` and `seqs` are of the whole
    /// batch. None if there is none.
    pub(super) fn of(
        batch: RecordBatch,
        rows: Option<UInt32Array>,
        filter_of: Option<&Arc<dyn PhysicalExpr>>,
        times_us: &[i64],
        seqs: &[u64],
    ) -> Result<Option<Self>, RuleFailure> {
        let mut found = Self { times_us: Vec::new(), seqs: Vec::new(), copied: empty(&batch), source: batch, rows };
        if let Some(expr) = filter_of {
            let mask = found.evaluate(expr)?;
            let mask = truths(mask.as_boolean());
            if mask.true_count() == 0 {
                return Ok(None);
            }
            if mask.true_count() < mask.len() {
                let rows = match &found.rows {
                    Some(rows) => filter(rows, &mask)?.as_primitive().clone(),
                    None => mask.values().set_indices().map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect(),
                };
                (found.rows, found.copied) = (Some(rows), empty(&found.source));
            }
        }
        match &found.rows {
            Some(rows) => {
                found.times_us = rows.values().iter().map(|&row| times_us[row as usize]).collect();
                found.seqs = rows.values().iter().map(|&row| seqs[row as usize]).collect();
            }
            None => (found.times_us, found.seqs) = (times_us.to_vec(), seqs.to_vec()),
        }
        Ok(Some(found))
    }

    /// How many rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.as_ref().map_or(self.source.num_rows(), |rows| rows.len())
    }

    /// An expression's value of each row. Columns that it does not read are not copied.
    pub(crate) fn evaluate(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<ArrayRef, RuleFailure> {
        if self.rows.is_none() {
            return super::array_of(expr, &self.source);
        }
        let mut read = vec![false; self.source.num_columns()];
        for column in collect_columns(expr) {
            read.get_mut(column.index()).into_iter().for_each(|read| *read = true);
        }
        // What is not read only has to have the length and the type.
        let column = |(index, read): (usize, &bool)| match read {
            true => self.column(index),
            false => Ok(self.source.column(index).slice(0, self.len())),
        };
        let columns = read.iter().enumerate().map(column).collect::<Result<_, _>>()?;
        super::array_of(expr, &self.batch_of(columns)?)
    }

    /// The rows with all columns.
    pub(crate) fn batch(&self) -> Result<RecordBatch, RuleFailure> {
        if self.rows.is_none() {
            return Ok(self.source.clone());
        }
        self.batch_of((0..self.source.num_columns()).map(|index| self.column(index)).collect::<Result<_, _>>()?)
    }

    /// The same, copied whole: the batch it came from is let go.
    pub(super) fn kept(self) -> Result<Self, RuleFailure> {
        Ok(Self::all(self.batch()?, self.times_us, self.seqs))
    }

    /// These of the rows, in this order.
    pub(crate) fn chosen(&self, rows: &[usize]) -> Self {
        let source = |&row: &usize| match &self.rows {
            Some(rows) => rows.value(row),
            None => u32::try_from(row).unwrap_or(u32::MAX),
        };
        Self {
            times_us: rows.iter().map(|&row| self.times_us[row]).collect(),
            seqs: rows.iter().map(|&row| self.seqs[row]).collect(),
            source: self.source.clone(),
            rows: Some(rows.iter().map(source).collect()),
            copied: empty(&self.source),
        }
    }

    fn column(&self, index: usize) -> Result<ArrayRef, RuleFailure> {
        let (column, Some(rows)) = (self.source.column(index), &self.rows) else {
            return Ok(self.source.column(index).clone());
        };
        if let Some(copied) = self.copied[index].get() {
            return Ok(copied.clone());
        }
        let copied = take(column, rows, None)?;
        Ok(self.copied[index].get_or_init(|| copied).clone())
    }

    fn batch_of(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch, RuleFailure> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.len()));
        Ok(RecordBatch::try_new_with_options(self.source.schema(), columns, &options)?)
    }
}

fn empty(batch: &RecordBatch) -> Vec<OnceLock<ArrayRef>> {
    batch.columns().iter().map(|_| OnceLock::new()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};

    #[test]
    fn rows_are_chosen_by_number_and_by_filter_and_show_what_a_copy_would() {
        let fields = vec![Field::new("n", DataType::Int64, false), Field::new("text", DataType::Utf8, true)];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5])),
            Arc::new(StringArray::from(vec![Some("a"), None, Some("c"), Some("d"), Some("e")])),
        ];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let n: Arc<dyn PhysicalExpr> = Arc::new(Column::new("n", 0));
        let above_two: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(n.clone(), Operator::Gt, lit(2_i64)));
        let times: Vec<i64> = (10..15).collect();
        let seqs: Vec<u64> = (20..25).collect();
        let of = |rows: Option<Vec<u32>>| {
            let rows = rows.map(UInt32Array::from);
            Matches::of(batch.clone(), rows, Some(&above_two), &times, &seqs).unwrap()
        };
        assert!(of(Some(vec![0, 1])).is_none());
        let all = of(None).unwrap();
        assert_eq!((all.len(), &all.seqs, &all.times_us), (3, &vec![22, 23, 24], &vec![12, 13, 14]));
        let some = of(Some(vec![1, 2, 4])).unwrap();
        assert_eq!(some.evaluate(&n).unwrap().as_primitive::<Int64Type>().values(), &[3, 5]);
        assert_eq!(some.batch().unwrap().column(1).as_string::<i32>(), &StringArray::from(vec!["c", "e"]));
        let turned = some.chosen(&[1, 0]).chosen(&[0]);
        assert_eq!((turned.seqs.as_slice(), turned.batch().unwrap()), (&[24][..], batch.slice(4, 1)));
    }
}
