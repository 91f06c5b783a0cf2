//! Which rows are withheld: a SQL condition over the columns of a record, judged row by row.
//!
//! The condition sees one row and nothing else: no tables, no clock, no chance. The same pack comes out each time.

use crate::lake::schema::records_schema;
use crate::query::{functions, gate};
use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// Why a condition is not accepted or cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum RedactError {
    /// Too long, or no SQL.
    #[error("condition of the rows to withhold")]
    Gate(#[from] gate::GateError),
    /// Not a condition over the columns of a record.
    #[error("condition of the rows to withhold cannot be used")]
    Condition(#[source] Box<DataFusionError>),
    /// A function whose answer is another one each time.
    #[error("condition of the rows to withhold calls {0}, which does not depend on the row alone")]
    Volatile(String),
    /// No boolean.
    #[error("condition of the rows to withhold is neither true nor false")]
    NotBoolean,
}

/// A condition, ready to be judged.
pub(super) struct Condition(Arc<dyn PhysicalExpr>);

impl Condition {
    /// Reads the condition.
    pub(super) fn parse(sql: &str) -> Result<Self, RedactError> {
        let refused = |error| RedactError::Condition(Box::new(error));
        gate::check_size(sql)?;
        let session = SessionContext::new();
        functions::register(&session).map_err(refused)?;
        let schema = DFSchema::try_from(records_schema()).map_err(refused)?;
        let expression = session.parse_sql_expr(sql, &schema).map_err(refused)?;
        let mut volatile = None;
        let looked = expression.apply(|part| {
            if let Expr::ScalarFunction(call) = part
                && call.func.signature().volatility != Volatility::Immutable
            {
                volatile = Some(call.func.name().to_owned());
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        });
        looked.map_err(refused)?;
        if let Some(name) = volatile {
            return Err(RedactError::Volatile(name));
        }
        let physical = session.create_physical_expr(expression, &schema).map_err(refused)?;
        Ok(Self(physical))
    }

    /// Which rows are to be withheld; a condition that is null does not say so.
    pub(super) fn judge(&self, rows: &RecordBatch) -> Result<BooleanArray, RedactError> {
        let judged = self
            .0
            .evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
            .map_err(|error| RedactError::Condition(Box::new(error)))?;
        let judged = judged.as_boolean_opt().ok_or(RedactError::NotBoolean)?;
        Ok(judged.iter().map(|value| Some(value == Some(true))).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_sees_the_row_alone() {
        let empty = RecordBatch::new_empty(records_schema());
        for good in ["user_name = 'ann'", "(enc_context ->> 'patient') IS NOT NULL", "event_name LIKE 'Decrypt%'"] {
            assert_eq!(Condition::parse(good).unwrap().judge(&empty).unwrap().len(), 0, "{good}");
        }
        for bad in ["", "nobody = 1", "random() > 0.5", "event_time < now()", "seq IN (SELECT 1)", "true; true"] {
            assert!(Condition::parse(bad).is_err(), "{bad}");
        }
        let number = Condition::parse("seq").and_then(|condition| condition.judge(&empty));
        assert!(matches!(number, Err(RedactError::NotBoolean)));
    }
}
