//! Kind posture: a SELECT over the folded tables at a time, once per `schedule`, through DataFusion.
//!
//! Joins and groups are allowed; the gate, the limits and the query threads are those of every other SQL door. `now()` is the
//! time of the run, so that tests and replays see what a run saw; nothing else that depends on the clock or on chance is let in.
//! Live and tests run [`look`]; what to tell of its rows is decided in `run::posture`.

use super::file::RuleFile;
use super::load::Rule;
use super::lower::{Lowered, Refusal, SeverityOf, check_expression, check_severity, gate_refusal, plain};
use crate::alert::Severity;
use crate::lake::schema::{ZONE, timestamp};
use crate::lake::snapshot::Snapshot;
use crate::query::functions::register_site;
use crate::query::functions::site::Site;
use crate::query::gate::{self, GateError};
use crate::query::{Cancel, Limits, RunError, run, session};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, LogicalPlan, Volatility, create_udf};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::prelude::SessionContext;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of one run. More rows are an error: a list of a thousand findings is read by nobody, and a cut one would be a lie.
const LIMITS: Limits =
    Limits { memory_bytes: 256 << 20, deadline: Duration::from_secs(60), rows_max: 1_000, partitions: 1, shared: None };

/// The bounds of a rule's runs: ours, or its own where those are narrower. A rule that says nothing has ours.
fn limits(rule: &RuleFile) -> Limits {
    let own = rule.header.limits;
    if own == super::file::Limits::default() {
        return LIMITS;
    }
    let memory_bytes = usize::try_from(own.memory_mb.saturating_mul(1024 * 1024)).unwrap_or(usize::MAX);
    Limits {
        memory_bytes: LIMITS.memory_bytes.min(memory_bytes),
        deadline: LIMITS.deadline.min(Duration::from_millis(own.time_ms)),
        rows_max: LIMITS.rows_max.min(own.rows),
        ..LIMITS
    }
}

/// Most output columns, as in other kinds.
const COLUMNS_MAX: usize = 32;

/// Why a run found nothing out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostureError {
    #[error("session cannot be made")]
    Session(#[from] DataFusionError),
    #[error("SELECT cannot be planned")]
    Plan(#[from] GateError),
    #[error("SELECT was not run to its end")]
    Run(#[from] RunError),
    #[error("rows are not as planned")]
    Rows(#[from] ArrowError),
    #[error("threads for queries are gone")]
    Gone,
}

/// Where a rule looks.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Beside which the other stores are.
    pub(crate) trail_db: Option<std::path::PathBuf>,
    pub(crate) site: Site,
    /// When, Unix microseconds.
    pub(crate) now_us: i64,
}

/// Plans and checks a rule of kind posture against empty tables.
pub(super) fn lower(rule: &RuleFile, site: &Site) -> Result<Lowered, Refusal> {
    let view = View { snapshot: Arc::new(Snapshot::of_tail([])), trail_db: None, site: site.clone(), now_us: 0 };
    let session = view.session(&limits(rule)).map_err(|error| (None, plain(&error)))?;
    let plan = futures::executor::block_on(gate::plan(&session, &rule.sql)).map_err(|error| gate_refusal(&error))?;
    check_plan(&plan).map_err(|reason| (None, reason))?;
    lowered(rule, &session, &plan).map_err(|reason| (None, reason))
}

fn lowered(rule: &RuleFile, session: &SessionContext, plan: &LogicalPlan) -> Result<Lowered, String> {
    let fields = plan.schema().fields();
    if fields.len() > COLUMNS_MAX {
        return Err(format!("more than {COLUMNS_MAX} output columns"));
    }
    for (at, field) in fields.iter().enumerate() {
        if fields.iter().take(at).any(|other| other.name() == field.name()) {
            return Err(format!("output column {} appears twice", field.name()));
        }
    }
    let nullable = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
    let schema: SchemaRef = Arc::new(Schema::new(fields.iter().map(nullable).collect::<Vec<_>>()));
    let output = schema.fields().iter().enumerate();
    let output = output.map(|(at, field)| Arc::new(Column::new(field.name(), at)) as Arc<dyn PhysicalExpr>).collect();
    Ok(Lowered {
        event_names: None,
        columns: (0..schema.fields().len()).collect(),
        filter: None,
        groups: None,
        steps: None,
        first_seen: None,
        baseline: None,
        row_schema: schema.clone(),
        output,
        group: group_columns(&rule.header.group_key, &schema)?,
        severity: severity(rule, session, &schema).map_err(|reason| format!("severity: {reason}"))?,
        output_schema: schema,
    })
}

/// Refuses what would answer differently when asked again.
fn check_plan(plan: &LogicalPlan) -> Result<(), String> {
    if !matches!(
        plan,
        LogicalPlan::Projection(_) | LogicalPlan::Sort(_) | LogicalPlan::Distinct(_) | LogicalPlan::Union(_)
    ) {
        return Err("a posture rule is one SELECT".into());
    }
    let mut reason = None;
    let walked = plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            reason = reason.take().or(check_expression(&expr, true).err());
        }
        Ok(if reason.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error| plain(&error))?;
    reason.map_or(Ok(()), Err)
}

fn group_columns(keys: &[String], output: &Schema) -> Result<Vec<usize>, String> {
    for key in keys {
        let index = output.index_of(key).map_err(|_| format!("group_key {key} is not in the output"))?;
        let data_type = output.field(index).data_type();
        let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if !(text || data_type.is_integer() || matches!(data_type, DataType::Boolean)) {
            return Err(format!("group_key {key} is {data_type}, not text, a whole number or a truth value"));
        }
    }
    Ok((0..output.fields().len()).filter(|&index| keys.contains(output.field(index).name())).collect())
}

fn severity(rule: &RuleFile, session: &SessionContext, output: &SchemaRef) -> Result<SeverityOf, String> {
    if let Ok(severity) = Severity::from_str(&rule.severity) {
        return Ok(SeverityOf::Fixed(severity));
    }
    let planned = || -> Result<_, DataFusionError> {
        let schema = DFSchema::try_from(output.as_ref().clone())?;
        let expr = session.parse_sql_expr(&rule.severity, &schema)?;
        Ok((expr, schema))
    };
    let (expr, schema) = planned().map_err(|error| plain(&error))?;
    check_expression(&expr, false)?;
    let worst = check_severity(&expr)?;
    let physical = || {
        let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        session.create_physical_expr(simplifier.simplify(simplifier.coerce(expr, &schema)?)?, &schema)
    };
    Ok(SeverityOf::Case(physical().map_err(|error| plain(&error))?, worst))
}

impl View {
    fn session(&self, limits: &Limits) -> Result<SessionContext, DataFusionError> {
        let session = session(&self.snapshot, limits, self.trail_db.clone())?;
        register_site(&session, &self.site);
        let now = ScalarValue::TimestampMicrosecond(Some(self.now_us), Some(ZONE.into()));
        let run = move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(now.clone()));
        let now = create_udf("now", Vec::new(), timestamp(), Volatility::Immutable, Arc::new(run));
        session.register_udf(now.with_aliases(["current_timestamp"]));
        Ok(session)
    }
}

/// The rows of a rule at a time, as one batch of its output.
pub(crate) async fn look(rule: &Rule, view: &View) -> Result<RecordBatch, PostureError> {
    let limits = limits(&rule.file);
    let session = view.session(&limits)?;
    let plan = gate::plan(&session, &rule.file.sql).await?;
    let batches = run(&session, plan, &limits, Cancel::new())?.collect().await?;
    let schema = rule.lowered.output_schema.clone();
    let same = |batch: RecordBatch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec());
    let batches = batches.into_iter().map(same).collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

/// [`look`] for a thread that waits.
pub(crate) fn look_blocking(rule: &Arc<Rule>, view: View) -> Result<RecordBatch, PostureError> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let rule = rule.clone();
    run::spawn(async move {
        // Whoever asked may be gone.
        sender.send(look(&rule, &view).await).ok();
    })?;
    receiver.recv().unwrap_or(Err(PostureError::Gone))
}

/// An error with its causes, as far as they fit one line.
pub(crate) fn describe(error: &PostureError) -> String {
    crate::describe(error).lines().next().unwrap_or_default().to_owned()
}
