//! An expression over one text column, evaluated once for each value that occurs in a batch.
//!
//! Thousands of calls come from a few hundred callers: cutting the session from an ARN, or matching it with a pattern,
//! costs more than finding out that the ARN was there before. The results are those of the expression itself.

use arrow::array::{Array as _, AsArray as _, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{HashMap, Result, internal_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::{CaseExpr, Column, LikeExpr};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Below this many rows it is not worth while.
const ROWS_MIN: usize = 64;

/// Nor where a value occurs less often than this.
const REPEATS_MIN: usize = 4;

/// The same expression, with its parts over one text column evaluated by value.
pub(super) fn by_value(expr: Arc<dyn PhysicalExpr>, input: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let changed = expr.transform_down(|node| {
        let costly = node.downcast_ref::<LikeExpr>().is_some()
            || node.downcast_ref::<CaseExpr>().is_some()
            || node.downcast_ref::<ScalarFunctionExpr>().is_some();
        let columns = collect_columns(&node);
        let (true, 1, Some(column)) = (costly, columns.len(), columns.into_iter().next()) else {
            return Ok(Transformed::no(node));
        };
        if input.fields().get(column.index()).is_none_or(|field| field.data_type() != &DataType::Utf8) {
            return Ok(Transformed::no(node));
        }
        let column: Arc<dyn PhysicalExpr> = Arc::new(column);
        let wrapped: Arc<dyn PhysicalExpr> = Arc::new(ByValue::of(column, node)?);
        Ok(Transformed::new(wrapped, true, TreeNodeRecursion::Jump))
    });
    Ok(changed?.data)
}

#[derive(Debug)]
struct ByValue {
    /// What it reads.
    column: Arc<dyn PhysicalExpr>,
    expr: Arc<dyn PhysicalExpr>,
    /// The same over a batch of that column only.
    alone: Arc<dyn PhysicalExpr>,
}

impl ByValue {
    fn of(column: Arc<dyn PhysicalExpr>, expr: Arc<dyn PhysicalExpr>) -> Result<Self> {
        let alone = reading(&expr, &(Arc::new(Column::new("value", 0)) as Arc<dyn PhysicalExpr>))?;
        Ok(Self { column, expr, alone })
    }
}

/// The expression over another column than its own.
fn reading(expr: &Arc<dyn PhysicalExpr>, column: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let changed = expr.clone().transform_down(|node| {
        Ok(match node.downcast_ref::<Column>() {
            Some(_) => Transformed::new(column.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(node),
        })
    });
    Ok(changed?.data)
}

impl PhysicalExpr for ByValue {
    fn data_type(&self, input_schema: &Schema) -> Result<DataType> {
        self.expr.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> Result<bool> {
        self.expr.nullable(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        if rows < ROWS_MIN {
            return self.expr.evaluate(batch);
        }
        let column = self.column.evaluate(batch)?.into_array(rows)?;
        let text = column.as_string::<i32>();
        // Number of each value, and the row where it occurs first.
        let mut numbers: HashMap<Option<&str>, u32> = HashMap::new();
        let (mut first, mut of_row) = (Vec::new(), Vec::with_capacity(rows));
        for row in 0..u32::try_from(rows).unwrap_or(u32::MAX) {
            let value = text.is_valid(row as usize).then(|| text.value(row as usize));
            let next = u32::try_from(first.len()).unwrap_or(u32::MAX);
            let number = *numbers.entry(value).or_insert(next);
            if number == next {
                first.push(row);
                if first.len() * REPEATS_MIN > rows {
                    return self.expr.evaluate(batch);
                }
            }
            of_row.push(number);
        }
        let values = take(&column, &UInt32Array::from(first), None)?;
        let schema = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]));
        let options = RecordBatchOptions::new().with_row_count(Some(values.len()));
        let values = RecordBatch::try_new_with_options(schema, vec![values], &options)?;
        Ok(match self.alone.evaluate(&values)? {
            ColumnarValue::Array(results) => ColumnarValue::Array(take(&results, &UInt32Array::from(of_row), None)?),
            same @ ColumnarValue::Scalar(_) => same,
        })
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.as_slice() {
            // A CASE around it numbers the columns that it reads anew.
            [column] => Ok(Arc::new(Self::of(column.clone(), reading(&self.expr, column)?)?)),
            _ => internal_err!("an expression by value has one child"),
        }
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.expr.fmt_sql(f)
    }
}

impl Display for ByValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.expr.fmt(f)
    }
}

impl PartialEq for ByValue {
    fn eq(&self, other: &Self) -> bool {
        self.expr.as_ref() == other.expr.as_ref()
    }
}

impl Eq for ByValue {}

impl Hash for ByValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expr.hash(state);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;

    #[test]
    fn the_results_are_those_of_the_expression() {
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("text", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let text = |row: i64| (row % 5 != 0).then(|| format!("arn:{}:role/r{}/s", row % 3, row % 7));
        for rows in [3, 300, 301] {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(0..rows)),
                Arc::new((0..rows).map(text).collect::<StringArray>()),
            ];
            let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
            for sql in [
                "text LIKE '%role/r_/%'",
                "CASE WHEN text LIKE 'arn:1%' THEN split_part(text, '/', 2) ELSE text END",
                "text LIKE 'arn:2%' OR n > 7",
                "CASE WHEN n > 9 THEN concat(text, '/', split_part(text, '/', 3)) ELSE text END",
                "concat(text, n)",
            ] {
                let session = SessionContext::new();
                let df_schema = DFSchema::try_from(schema.as_ref().clone()).unwrap();
                let expr = session.parse_sql_expr(sql, &df_schema).unwrap();
                let plain = session.create_physical_expr(expr, &df_schema).unwrap();
                let by_value = by_value(plain.clone(), &schema).unwrap();
                assert_eq!(by_value.as_ref() != plain.as_ref(), sql != "concat(text, n)", "{sql}");
                let evaluate =
                    |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch).unwrap().into_array(batch.num_rows()).unwrap();
                assert_eq!(&evaluate(&by_value), &evaluate(&plain), "{sql} over {rows}");
            }
        }
    }
}
