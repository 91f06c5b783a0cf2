//! Running a plan that the gate let through: deadline, cancel and row limit on the stream of records itself.
//!
//! The wrappers that ship with the wire crates bound planning only; there a query with a limit of 200 ms ran for a
//! minute. Here queries run on threads of their own, so that even an operator that never yields holds neither its
//! caller nor the trail's own work, and `alive` ends such an operator from inside.

use super::alive::{Alive, watch};
use super::bounded::bounded;
use super::operators::bounded_rows;
use super::session::Limits;
use super::size::size_of;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CaseExpr, CastExpr, Literal};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Batches between the query and its reader.
const BATCHES_AHEAD: usize = 2;

/// Rows of a batch where operators repeat rows, of which each may be as long as `operators` allows.
const BATCH_ROWS_REPEATED: usize = 1_024;

/// Columns of a batch, and functions called for it, up to which it has the usual number of rows: each may be as long as a
/// whole record.
const BATCH_COLUMNS_USUAL: usize = 32;

/// Bytes of a constant, which is written into each row, that count as a column more.
const COLUMN_BYTES: u64 = 2 << 10;

/// Optimiser and operators recurse over the levels of a plan. A statement may have some hundreds, for which the usual 2 MiB
/// are too few without optimisation.
const STACK_BYTES: usize = 32 << 20;

/// Why a query ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Planning or executing; out of memory is one of these.
    #[error("query failed")]
    Query(#[source] Box<DataFusionError>),
    /// Took too long.
    #[error("query took longer than {} ms", .0.as_millis())]
    Deadline(Duration),
    /// Someone asked it to end.
    #[error("query was cancelled")]
    Cancelled,
    /// Would return more rows than allowed.
    #[error("query returns more than {0} rows; add LIMIT or a narrower filter")]
    Rows(u64),
    /// The threads for queries cannot be started.
    #[error("threads for queries cannot be started: {0}")]
    Threads(io::ErrorKind),
}

/// Ends a query from elsewhere. Cancelling twice, or after the end, does nothing.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Notify>);

impl Cancel {
    /// A handle that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the query that was started with this handle; one that starts later ends at once.
    pub fn cancel(&self) {
        self.0.notify_one();
    }
}

/// The rows of a running query. Dropping it ends the query.
pub struct Rows {
    schema: SchemaRef,
    batches: mpsc::Receiver<Result<RecordBatch, DataFusionError>>,
    task: JoinHandle<()>,
    alive: Alive,
    deadline: Instant,
    limits: Limits,
    rows: u64,
    cancel: Cancel,
    ended: bool,
}

/// Starts a plan from `gate::plan`. The deadline counts from here.
pub fn run(session: &SessionContext, plan: LogicalPlan, limits: &Limits, cancel: Cancel) -> Result<Rows, RunError> {
    let deadline = Instant::now() + limits.deadline;
    let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
    let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
    let (session, alive) = (session.clone(), Alive::new());
    let watched = alive.clone();
    let task = threads()?.spawn(async move {
        let mut stream = match start(&session, plan, &watched).await {
            Ok(stream) => stream,
            Err(error) => return drop(sender.send(Err(error)).await),
        };
        while let Some(batch) = stream.next().await {
            if sender.send(batch).await.is_err() {
                return;
            }
        }
    });
    Ok(Rows { schema, batches, task, alive, deadline, limits: limits.clone(), rows: 0, cancel, ended: false })
}

/// Planning reads too (the folded tables), so it is part of the run and under its deadline.
async fn start(
    session: &SessionContext,
    plan: LogicalPlan,
    alive: &Alive,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let plan = session.execute_logical_plan(bounded(plan)?).await?.create_physical_plan().await?;
    let plan = bounded_rows(plan, &session.runtime_env().memory_pool)?;
    let mut state = session.state();
    let usual = state.config().batch_size();
    let rows = usual.saturating_mul(BATCH_COLUMNS_USUAL) / columns(&plan.data)?.max(BATCH_COLUMNS_USUAL);
    let rows = rows.max(1).min(if plan.transformed { BATCH_ROWS_REPEATED } else { usual });
    *state.config_mut() = state.config().clone().with_batch_size(rows);
    let plan = watch(plan.data, alive)?;
    let stream = execute_stream(plan.clone(), Arc::new(TaskContext::from(&state)))?;
    // It holds what `bounded_rows` takes.
    Ok(Box::pin(RecordBatchStreamAdapter::new(stream.schema(), stream.inspect(move |_| _ = &plan))))
}

/// The columns of the widest batch, and the functions, long constants and grouping sets of all the plan.
fn columns(plan: &Arc<dyn ExecutionPlan>) -> Result<usize, DataFusionError> {
    let (mut widest, mut calls) = (0, 0);
    plan.apply(|node| {
        widest = widest.max(node.schema().fields().len());
        if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
            // A batch is grouped by each of the sets before anybody counts.
            let groups = aggregate.group_expr();
            calls += groups.expr().len() * (groups.groups().len().max(1) - 1);
        }
        node.apply_expressions(&mut |expr| {
            expr.apply(|expr| {
                calls += usize::from(expr.is::<ScalarFunctionExpr>() || expr.is::<CaseExpr>() || expr.is::<CastExpr>());
                if let Some(constant) = expr.downcast_ref::<Literal>() {
                    let bytes = size_of(&constant.value().to_array()?);
                    calls += usize::try_from(bytes / COLUMN_BYTES).unwrap_or(usize::MAX);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(widest + calls)
}

/// The error itself of a filter that was judged while Parquet was read, which hands it on as a text.
fn as_said(error: DataFusionError) -> DataFusionError {
    let text = error.to_string();
    match text.split_once("Error evaluating filter predicate: ResourcesExhausted(\"") {
        Some((_, why)) => DataFusionError::ResourcesExhausted(why.trim_end_matches(['"', ')']).to_owned()),
        None => error,
    }
}

/// Runs something beside queries, on their threads.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<(), RunError> {
    threads()?.spawn(work);
    Ok(())
}

/// The threads on which all queries of this process run, started with the first one.
fn threads() -> Result<&'static Runtime, RunError> {
    static THREADS: OnceLock<Result<Runtime, io::ErrorKind>> = OnceLock::new();
    let started = THREADS.get_or_init(|| {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).max_blocking_threads(16).thread_stack_size(STACK_BYTES);
        builder.thread_name("query").enable_all();
        builder.build().map_err(|error| error.kind())
    });
    started.as_ref().map_err(|kind| RunError::Threads(*kind))
}

impl Rows {
    /// Columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The next batch; `None` at the end. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, RunError>> {
        if self.ended {
            return None;
        }
        let received = tokio::select! {
            biased;
            () = self.cancel.0.notified() => Err(RunError::Cancelled),
            () = tokio::time::sleep_until(self.deadline) => Err(RunError::Deadline(self.limits.deadline)),
            received = self.batches.recv() => Ok(received),
        };
        let result = match received {
            Ok(Some(Ok(batch))) => {
                self.rows += batch.num_rows() as u64;
                if self.rows > self.limits.rows_max { Err(RunError::Rows(self.limits.rows_max)) } else { Ok(batch) }
            }
            Ok(Some(Err(error))) => Err(RunError::Query(Box::new(as_said(error)))),
            // Whoever panicked has sent no last row.
            Ok(None) => match (&mut self.task).await {
                Ok(()) => {
                    self.ended = true;
                    return None;
                }
                Err(error) => Err(RunError::Query(Box::new(DataFusionError::ExecutionJoin(Box::new(error))))),
            },
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.ended = true;
            self.end();
        }
        Some(result)
    }

    fn end(&self) {
        self.alive.end();
        self.task.abort();
    }

    /// All batches; for results known to be small.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>, RunError> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await {
            batches.push(batch?);
        }
        Ok(batches)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.end();
    }
}
