//! Bounds what operators make of the rows that they are given.
//!
//! DataFusion accounts for what sorts, joins and groups keep. Not for the batches in which a join, an `unnest` or a
//! subquery's value writes one row again and again, so that a long text beside each event asks for more than the machine
//! has and ends the process; and not for what window functions keep. So such operators get their rows through a check.

use super::bounded::CALL_BYTES_MAX;
use super::size::{longest_of, size_of, sum};
use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{JoinType, not_impl_err, resources_err};
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, replace_children_if_necessary};
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties, StatisticsArgs,
    StatisticsContext,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::fmt;
use std::sync::Arc;

/// What a value of a set, a list or a frame takes beside itself.
const STATE_BYTES: u64 = 128;

/// The longest row that may come again beside others: a record of the greatest length, as it is and taken apart.
const ROW_BYTES_MAX: u64 = 512 << 10;

/// The plan, its operators that repeat or keep rows behind a check. What they keep is taken from `pool` until the plan is
/// dropped: operators let go of their input before they let go of its rows.
pub(super) fn bounded_rows(
    plan: Arc<dyn ExecutionPlan>,
    pool: &Arc<dyn MemoryPool>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    plan.transform_up(|node| {
        let makes = Makes::of(&node)?;
        if makes.iter().all(Option::is_none) {
            return Ok(Transformed::no(node));
        }
        let checked = |(input, makes): (&Arc<dyn ExecutionPlan>, Option<Makes>)| -> Arc<dyn ExecutionPlan> {
            let Some(makes) = makes else { return input.clone() };
            let partitions = input.output_partitioning().partition_count();
            let kept = (0..partitions).map(|_| MemoryConsumer::new("window functions").register(pool)).collect();
            Arc::new(BoundedRows { input: input.clone(), makes, kept })
        };
        let inputs = node.children().into_iter().zip(makes).map(checked).collect();
        replace_children_if_necessary(node, inputs).map(Transformed::yes)
    })
}

/// What an operator makes of the rows of an input.
#[derive(Clone, Debug, Default)]
struct Makes {
    /// Whether a row may come again.
    repeats: bool,
    /// Columns that are taken apart: the rest of a row comes as often as the longest of them has values.
    lists: Vec<usize>,
    /// Copies of all rows which are kept until the end.
    copies: u64,
    /// What is computed from each row for results that are as long: one of them may come with every row.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// What is computed from each row and kept.
    states: Vec<Arc<dyn PhysicalExpr>>,
}

impl Makes {
    /// For each input; none for those that are handed on, or accounted for.
    fn of(node: &Arc<dyn ExecutionPlan>) -> Result<Vec<Option<Self>>> {
        if let Some(unnest) = node.downcast_ref::<UnnestExec>() {
            if unnest.list_column_indices().iter().any(|list| list.depth > 1) {
                return not_impl_err!("unnest of unnest: take the inner one apart in a subquery");
            }
            let lists = unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect();
            return Ok(vec![Some(Self { repeats: true, lists, ..Self::default() })]);
        }
        if let Some(window) = node.downcast_ref::<WindowAggExec>() {
            // As they came, and all in one.
            return Ok(vec![Some(Self::of_window(window.window_expr(), 2)?)]);
        }
        if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
            let functions = window.window_expr();
            return Ok(vec![Some(Self::of_window(functions, u64::from(!functions.iter().all(numbers_rows)))?)]);
        }
        let repeats = |repeats: bool| repeats.then(|| Self { repeats, ..Self::default() });
        let inputs = node.children();
        Ok(match inputs.as_slice() {
            // A subquery's value is written into each row; the rows themselves are not.
            [rows, values @ ..] if node.is::<ScalarSubqueryExec>() => {
                let many = !one_row(rows);
                std::iter::once(None).chain(values.iter().map(|_| repeats(many))).collect()
            }
            [left, right] if joins(node) => vec![repeats(!one_row(right)), repeats(!one_row(left))],
            inputs => inputs.iter().map(|_| None).collect(),
        })
    }

    fn of_window(functions: &[Arc<dyn WindowExpr>], copies: u64) -> Result<Self> {
        let mut states = Vec::new();
        for function in functions {
            states.extend(kept_arguments(function)?);
        }
        Ok(Self { copies, arguments: long_arguments(functions), states, ..Self::default() })
    }

    fn check(&self, batch: &RecordBatch, seen: &mut Seen, kept: &MemoryReservation) -> Result<()> {
        if self.repeats {
            self.check_rows(batch)?;
        }
        for argument in &self.arguments {
            let value = longest_of(&computed(argument, batch)?);
            if value > ROW_BYTES_MAX {
                return resources_err!("a value of {value} bytes would be repeated, more than {ROW_BYTES_MAX}");
            }
            seen.longest = seen.longest.max(value);
        }
        for state in &self.states {
            let bytes = size_of(&computed(state, batch)?).saturating_mul(2);
            let each = STATE_BYTES.saturating_mul(batch.num_rows() as u64);
            seen.states = sum([seen.states, bytes, each].into_iter());
        }
        if self.copies > 0 || !self.states.is_empty() { self.keep(batch, seen, kept) } else { Ok(()) }
    }

    fn check_rows(&self, batch: &RecordBatch) -> Result<()> {
        let columns = batch.columns().iter().enumerate();
        let repeated: Vec<&ArrayRef> = columns.filter(|(at, _)| !self.lists.contains(at)).map(|(_, of)| of).collect();
        let row_bytes = |row: usize| sum(repeated.iter().map(|column| size_of(&column.slice(row, 1))));
        let mut longest = sum(repeated.iter().map(|column| longest_of(column)));
        if longest > ROW_BYTES_MAX {
            // The longest values need not be in one row.
            longest = (0..batch.num_rows()).map(row_bytes).max().unwrap_or(0);
        }
        if longest > ROW_BYTES_MAX {
            return resources_err!("a row of {longest} bytes would be repeated, more than {ROW_BYTES_MAX}");
        }
        if self.lists.is_empty() {
            return Ok(());
        }
        let lists: Vec<&ArrayRef> = self.lists.iter().filter_map(|at| batch.columns().get(*at)).collect();
        for row in 0..batch.num_rows() {
            let times = lists.iter().map(|list| values_in(list, row)).max().unwrap_or(0);
            let too_much = |bytes: u64| times.saturating_mul(bytes) > CALL_BYTES_MAX;
            if too_much(longest) && too_much(row_bytes(row)) {
                return resources_err!("a row would be repeated for {times} values, beyond {CALL_BYTES_MAX} bytes");
            }
        }
        Ok(())
    }

    fn keep(&self, batch: &RecordBatch, seen: &mut Seen, kept: &MemoryReservation) -> Result<()> {
        let bytes = sum(batch.columns().iter().map(|column| size_of(column)));
        seen.bytes = seen.bytes.saturating_add(bytes);
        seen.rows += batch.num_rows() as u64;
        // Only of all rows at once; what comes out in batches need not be kept.
        let results = if self.copies > 1 { self.arguments.len() as u64 } else { 0 };
        let results = results.saturating_mul(seen.rows).saturating_mul(seen.longest);
        let wanted = sum([self.copies.saturating_mul(seen.bytes), results, seen.states].into_iter());
        kept.try_resize(usize::try_from(wanted).unwrap_or(usize::MAX))
    }
}

/// Whether rows of one input come with each of the other that matches.
fn joins(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
        // Whether there is a match is all that is asked of the other; a condition is asked of rows of both.
        let asks = matches!(join.join_type(), LeftAnti | LeftMark | LeftSemi | RightAnti | RightMark | RightSemi);
        return !asks || join.filter().is_some();
    }
    !(node.is::<UnionExec>() || node.is::<InterleaveExec>() || node.is::<RecursiveQueryExec>())
}

/// Whether a plan has one row at most: beside it, nothing comes twice.
fn one_row(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let whole = matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::Single);
        return whole && aggregate.group_expr().is_true_no_grouping();
    }
    if plan.fetch().is_some_and(|rows| rows <= 1) && plan.output_partitioning().partition_count() == 1 {
        return true;
    }
    match plan.children().as_slice() {
        [] => {
            let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
            statistics.is_ok_and(|all| matches!(all.num_rows, Precision::Exact(0 | 1)))
        }
        [input] => {
            matches!(plan.cardinality_effect(), CardinalityEffect::Equal | CardinalityEffect::LowerEqual)
                && one_row(input)
        }
        [rows, ..] if plan.is::<ScalarSubqueryExec>() => one_row(rows),
        [left, right] => joins(plan) && one_row(left) && one_row(right),
        _ => false,
    }
}

fn computed(expr: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expr.evaluate(batch)?.into_array(batch.num_rows())
}

/// The arguments of which a window function keeps all values, or all of a frame.
fn kept_arguments(function: &Arc<dyn WindowExpr>) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
    let function = function.as_any();
    let plain = function.downcast_ref::<PlainAggregateWindowExpr>().map(|of| (of.get_aggregate_expr(), false));
    let slides = || function.downcast_ref::<SlidingAggregateWindowExpr>().map(|of| (of.get_aggregate_expr(), true));
    let Some((aggregate, slides)) = plain.or_else(slides) else { return Ok(Vec::new()) };
    let lists = aggregate.state_fields()?.iter().any(|state| state.data_type().is_nested());
    let extremes = slides && matches!(aggregate.fun().name(), "max" | "min");
    Ok(if lists || extremes || aggregate.is_distinct() { aggregate.expressions() } else { Vec::new() })
}

fn long_arguments(functions: &[Arc<dyn WindowExpr>]) -> Vec<Arc<dyn PhysicalExpr>> {
    let short = |kind: &DataType| kind.is_primitive() || matches!(kind, DataType::Boolean | DataType::Null);
    let long = functions.iter().filter(|function| !function.field().is_ok_and(|field| short(field.data_type())));
    long.flat_map(|function| function.expressions()).collect()
}

/// Whether a window function looks at no row but its own, so that none is kept.
fn numbers_rows(function: &Arc<dyn WindowExpr>) -> bool {
    let function = function.as_any().downcast_ref::<StandardWindowExpr>();
    let function =
        function.and_then(|function| function.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>());
    function.is_some_and(|function| matches!(function.fun().name(), "row_number" | "rank" | "dense_rank"))
}

/// How many values the list of a row has.
fn values_in(list: &ArrayRef, row: usize) -> u64 {
    match list.data_type() {
        DataType::List(_) => list.as_list::<i32>().value_length(row).max(0) as u64,
        DataType::LargeList(_) => list.as_list::<i64>().value_length(row).max(0) as u64,
        DataType::FixedSizeList(_, length) => u64::try_from(*length).unwrap_or(0),
        _ => 1,
    }
}

/// Of the rows of one partition that were kept.
#[derive(Default)]
struct Seen {
    bytes: u64,
    rows: u64,
    longest: u64,
    states: u64,
}

/// Hands on rows that the operator above may repeat and keep, in batches of the usual length.
#[derive(Clone, Debug)]
struct BoundedRows {
    input: Arc<dyn ExecutionPlan>,
    makes: Makes,
    /// Of each partition.
    kept: Arc<[MemoryReservation]>,
}

impl DisplayAs for BoundedRows {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for BoundedRows {
    fn name(&self) -> &'static str {
        "BoundedRows"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { input: inputs.swap_remove(0), ..Self::clone(&self) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = context.session_config().batch_size().max(1);
        let input = self.input.execute(partition, context)?;
        let (makes, kept, mut seen) = (self.makes.clone(), self.kept.clone(), Seen::default());
        // A recursive query runs its term again and again, each time without the rows of the time before.
        kept[partition].free();
        let checked = input.map(move |batch| -> Result<_> {
            let batch = batch?;
            makes.check(&batch, &mut seen, &kept[partition])?;
            // One row's list can have made a batch of millions, which a join would repeat at once.
            let parts = (0..batch.num_rows()).step_by(rows);
            let parts = parts.map(move |first| Ok(batch.slice(first, rows.min(batch.num_rows() - first))));
            Ok(stream::iter(parts))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), checked.try_flatten())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::query::{Cancel, Limits, RunError, gate, run};
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};
    use std::sync::Arc;

    const MEMORY_BYTES_MAX: usize = 64 << 20;

    /// Rows of the answer.
    async fn rows(sql: &str) -> Result<usize, RunError> {
        let pool = Arc::new(GreedyMemoryPool::new(MEMORY_BYTES_MAX));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool.clone()).build_arc().unwrap();
        let session =
            SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(2), runtime.clone());
        let plan = gate::plan(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let answer = run(&session, plan, &Limits::default(), Cancel::new())?.collect().await;
        answer.map(|batches| batches.iter().map(|batch| batch.num_rows()).sum())
    }

    /// `s` is 3 MB, in a row of its own.
    const LONG: &str = "(SELECT string_agg(x::text, ',') AS s FROM generate_series(1, 500000) a(x))";
    const MANY: &str = "generate_series(1, 300000) t(n)";

    #[tokio::test]
    async fn long_rows_are_not_repeated() {
        for (sql, why) in [
            (format!("SELECT count(length(s || n)) FROM {MANY} CROSS JOIN {LONG}"), "a row of 3388910 bytes"),
            (format!("SELECT max(s) FROM {MANY}, {LONG} WHERE n > 0"), "a row of"),
            (format!("SELECT count(s) FROM {MANY} JOIN {LONG} ON n % 2 < length(s) + n"), "a row of"),
            (format!("SELECT n, s FROM {MANY} LEFT JOIN {LONG} ON n % 2 = length(s) % 2"), "a row of"),
            (format!("SELECT n, s FROM {MANY} CROSS JOIN {LONG} WHERE s > n::text"), "a row of"),
            (format!("SELECT n, (SELECT s FROM {LONG}) AS s FROM {MANY}"), "a row of"),
            (format!("SELECT s, unnest(range(0, length(s))) FROM {LONG}"), "a row of"),
            (format!("SELECT [s] AS s, unnest(range(0, length(s))) FROM {LONG}"), "a row of"),
            (format!("SELECT struct(s) AS s, unnest(range(0, length(s))) FROM {LONG}"), "a row of"),
            (
                "SELECT n, first_value(repeat(n::text, 600000)) OVER (ORDER BY n) FROM generate_series(1, 50) t(n)"
                    .to_owned(),
                "a value of",
            ),
            (
                "SELECT n, max(repeat(n::text, 600000)) OVER () FROM generate_series(1, 50) t(n)".to_owned(),
                "a value of",
            ),
            (
                "SELECT repeat('x', 60000) AS s, unnest(range(0, n * 10000000)) FROM generate_series(1, 1) t(n)"
                    .to_owned(),
                "for 10000000 values",
            ),
            (
                "SELECT [n] AS s, unnest(range(0, n * 30000000)) FROM generate_series(1, 1) t(n)".to_owned(),
                "for 30000000 values",
            ),
        ] {
            let refused = rows(&sql).await;
            let Err(RunError::Query(error)) = &refused else { panic!("{sql}: {refused:?}") };
            assert!(error.to_string().contains(why), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn what_windows_keep_is_counted() {
        for sql in [
            format!("SELECT s, count(*) OVER () FROM (SELECT n, lpad(n::text, 300, 'x') AS s FROM {MANY})"),
            format!(
                "SELECT first_value(CASE WHEN n = 7 THEN repeat('x', 5000) ELSE '' END) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM {MANY}"
            ),
            format!("SELECT s, lag(s, 200000) OVER () FROM (SELECT n, lpad(n::text, 300, 'x') AS s FROM {MANY})"),
            // What the functions keep of them.
            "SELECT n, count(DISTINCT n::text) OVER () FROM generate_series(1, 600000) t(n)".to_owned(),
            "SELECT n, median(n) OVER () FROM generate_series(1, 600000) t(n)".to_owned(),
            "SELECT n, max(n) OVER (ORDER BY n ROWS BETWEEN 200000 PRECEDING AND CURRENT ROW) FROM generate_series(1, 600000) t(n)".to_owned(),
        ] {
            let refused = rows(&sql).await;
            let Err(RunError::Query(error)) = &refused else { panic!("{sql}: {refused:?}") };
            assert!(error.to_string().contains("window functions"), "{sql}: {error}");
        }
    }

    #[tokio::test]
    async fn what_people_write_is_answered() {
        for (sql, found) in [
            // Fixed-length values, and texts of 300 bytes of which none has to be kept.
            (format!("SELECT n, count(*) OVER () FROM {MANY}"), 300_000),
            (format!("SELECT s, row_number() OVER () FROM (SELECT lpad(n::text, 300, 'x') AS s FROM {MANY})"), 300_000),
            (
                format!("SELECT n, lag(n) OVER (ORDER BY n), sum(n) OVER (PARTITION BY n % 7 ORDER BY n) FROM {MANY}"),
                300_000,
            ),
            (format!("SELECT n, max(n::text) OVER (PARTITION BY n % 7) FROM {MANY}"), 300_000),
            // A record of the greatest length beside each row, and a row that is long only over all its rows.
            (
                    "SELECT length(s || n) FROM generate_series(1, 2000) t(n) CROSS JOIN (SELECT repeat(m::text, 60000) AS s FROM generate_series(1, 1) b(m))".to_owned(),
                2_000,
            ),
            (format!("SELECT s, unnest([1, 2, 3]) FROM (SELECT lpad(n::text, 300, 'x') AS s FROM {MANY})"), 900_000),
            ("SELECT unnest(range(0, n * 9000000)) FROM generate_series(1, 1) t(n)".to_owned(), 9_000_000),
            (
                format!(
                    "SELECT length(s) FROM {LONG} UNION ALL SELECT n FROM {MANY} WHERE n IN (SELECT m % 9 FROM generate_series(1, 99) b(m))"
                ),
                9,
            ),
            (format!("SELECT s, row_number() OVER (), count(*) OVER () FROM {LONG}"), 1),
            (format!("SELECT n FROM {MANY} WHERE n = (SELECT max(m) FROM generate_series(1, 99) b(m))"), 1),
            // Long rows beside one row, or asked about only.
            (format!("SELECT (SELECT count(*) FROM {MANY}) AS n, (SELECT s FROM {LONG}) AS s"), 1),
            (format!("SELECT length(s), n FROM {LONG} CROSS JOIN (SELECT n FROM {MANY} LIMIT 1)"), 1),
            (format!("SELECT s FROM {LONG} WHERE length(s) IN (SELECT n + 3000000 FROM {MANY})"), 0),
            // Each turn of a recursive query lets go of the rows of the one before.
            (
                "WITH RECURSIVE r AS (SELECT n, 0 AS turn FROM generate_series(1, 100000) t(n) UNION ALL SELECT sum(1) OVER (PARTITION BY n), turn + 1 FROM r WHERE turn < 60) SELECT count(*) FROM (SELECT turn FROM r GROUP BY turn)".to_owned(),
                1,
            ),
        ] {
            assert_eq!(rows(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")), found, "{sql}");
        }
    }
}
