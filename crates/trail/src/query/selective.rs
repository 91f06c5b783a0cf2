//! The order in which the parts of a filter are tried: first what picks few rows, last what is costly to read.
//!
//! A scan unpacks a column only where all parts before it hold. DataFusion can order them by the size of their columns,
//! which tries `event_name` on every row before the principal who made one call in a thousand. What an analyst looks
//! for is known here: ids, ARNs, credentials and addresses pick; an event's name does not.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, LogicalPlan, Operator};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Columns of which one value picks few rows.
const PICKING: [&str; 11] = [
    "request_id",
    "event_id",
    "action_id",
    "key_arn",
    "key_id",
    "alias_arn",
    "principal_arn",
    "principal_id",
    "user_name",
    "access_key_id",
    "source_ip",
];

/// Columns of long texts, mostly different ones.
const WIDE: [&str; 8] = [
    "raw",
    "enc_context",
    "policy",
    "user_agent",
    "error_message",
    "request_parameters",
    "response_elements",
    "additional",
];

/// Puts the parts of each filter in order; parts alike stay as they were written.
#[derive(Debug)]
pub(crate) struct SelectiveFirst;

impl OptimizerRule for SelectiveFirst {
    fn name(&self) -> &'static str {
        "selective_first"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(Filter { predicate, input, .. }) = &plan else { return Ok(Transformed::no(plan)) };
        let mut parts = split_conjunction(predicate);
        if parts.is_sorted_by_key(|part| rank(part)) {
            return Ok(Transformed::no(plan));
        }
        parts.sort_by_key(|part| rank(part));
        let Some(ordered) = conjunction(parts.into_iter().cloned()) else { return Ok(Transformed::no(plan)) };
        Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(ordered, input.clone())?)))
    }
}

fn rank(part: &Expr) -> u8 {
    let columns = part.column_refs();
    let any = |names: &[&str]| columns.iter().any(|column| names.contains(&column.name.as_str()));
    if picks(part) {
        0
    } else if any(&WIDE) {
        3
    } else if any(&["error_code"]) {
        // Null in most rows, and then next to nothing to read.
        1
    } else {
        2
    }
}

/// Whether only rows with certain values of picking columns pass.
fn picks(part: &Expr) -> bool {
    let picking = |expr: &Expr| matches!(expr, Expr::Column(column) if PICKING.contains(&column.name.as_str()));
    let given = |expr: &Expr| matches!(expr, Expr::Literal(..));
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            (picking(left) && given(right)) || (given(left) && picking(right))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => picks(left) && picks(right),
        Expr::InList(list) => !list.negated && picking(&list.expr) && list.list.iter().all(given),
        Expr::ScalarFunction(call) if call.name() == "starts_with" => {
            matches!(call.args.as_slice(), [text, prefix] if picking(text) && given(prefix))
        }
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::schema::records_schema;
    use datafusion::functions::expr_fn::starts_with;
    use datafusion::logical_expr::{col, lit};

    #[test]
    fn what_picks_goes_first_and_what_is_wide_last() {
        let by = col("principal_arn").eq(lit("arn:1")).or(starts_with(col("principal_arn"), lit("arn:2/")));
        let parts = [
            col("enc_context").like(lit("%tenant%")),
            col("event_name").eq(lit("Decrypt")),
            by.clone().or(col("access_key_id").in_list(vec![lit("AKIA1")], false)),
            col("error_code").is_null(),
            col("principal_arn").not_eq(lit("arn:3")),
            by.or(col("event_name").eq(lit("Encrypt"))),
        ];
        assert_eq!(parts.iter().map(rank).collect::<Vec<_>>(), [3, 2, 0, 1, 2, 2]);
    }

    #[test]
    fn the_columns_are_those_of_the_lake() {
        for name in PICKING.iter().chain(&WIDE) {
            assert!(records_schema().field_with_name(name).is_ok(), "{name}");
        }
    }
}
