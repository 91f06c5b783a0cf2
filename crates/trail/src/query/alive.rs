//! Stops a query whose operators do not yield.
//!
//! What makes more rows than it takes can do so for hours, and neither abort nor deadline reach a task that is never
//! pending (seen, not assumed): DataFusion lets its scans yield, which a join reads a few of. So each operator that makes
//! rows gives way after some batches. A join that keeps none of the pairs gives no batch either: its filter is evaluated
//! all the time, so that is where such a plan is given a check.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::exec_err;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether somebody still wants the rows. Never true again once false.
#[derive(Clone, Debug)]
pub(super) struct Alive(Arc<AtomicBool>);

impl Alive {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The plan, its joins with a check in their filter, and all that makes rows giving way.
pub(super) fn watch(plan: Arc<dyn ExecutionPlan>, alive: &Alive) -> Result<Arc<dyn ExecutionPlan>> {
    let watched = plan.transform_up(|node| {
        // Two inputs: joins, unions, and what recurs.
        let makes_rows = node.children().len() > 1 || node.is::<UnnestExec>();
        if !makes_rows {
            return Ok(Transformed::no(node));
        }
        let node = with_check(&node, alive)?.unwrap_or(node);
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>))
    })?;
    Ok(watched.data)
}

/// None for what has no filter to check in.
fn with_check(node: &Arc<dyn ExecutionPlan>, alive: &Alive) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let checked = |filter: &JoinFilter| {
        let check = Arc::new(Check { inner: filter.expression().clone(), alive: alive.clone() });
        Some(JoinFilter::new(check, filter.column_indices().to_vec(), filter.schema().clone()))
    };
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let Some(filter) = join.filter() else { return Ok(None) };
        return join.builder().with_filter(checked(filter)).build_exec().map(Some);
    }
    let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else { return Ok(None) };
    let Some(filter) = join.filter() else { return Ok(None) };
    let projection = join.projection().as_ref().map(|columns| columns.to_vec());
    let (left, right) = (join.left().clone(), join.right().clone());
    let join = NestedLoopJoinExec::try_new(left, right, checked(filter), join.join_type(), projection)?;
    Ok(Some(Arc::new(join)))
}

/// An expression that fails once nobody wants its value.
#[derive(Debug)]
struct Check {
    inner: Arc<dyn PhysicalExpr>,
    alive: Alive,
}

impl PhysicalExpr for Check {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if !self.alive.is() {
            return exec_err!("the query was ended");
        }
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let Some(inner) = children.pop() else { return exec_err!("a check has one child") };
        Ok(Arc::new(Self { inner, alive: self.alive.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Check {}

impl Hash for Check {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}
