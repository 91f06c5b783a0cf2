//! From the SELECT of a rule to what the operator runs: physical expressions over the shared batch.
//!
//! A rule has a fixed shape, Projection(Aggregate?(Filter?(table))), checked on the logical plan that the gate let
//! through: whatever text leads to another plan is refused with the reason. Functions whose answer depends on when or
//! how often they run are refused, so that live, tests and replays agree. Read `run` next for the evaluation.

use super::by_value::by_value;
use super::file::{RuleFile, RuleKind};
use super::learned::{BaselineSpec, FirstSeenSpec};
use super::run::integrity::integrity_schema;
use super::steps::{self, Planned, Steps};
use crate::alert::Severity;
use crate::lake::schema::{events_schema, timestamp};
use crate::query::gate::{self, GateError};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use std::collections::{BTreeSet, HashSet};
use std::error::Error as _;
use std::str::FromStr as _;
use std::sync::Arc;

/// Most output columns; a row travels in every alert.
const COLUMNS_MAX: usize = 32;

/// What kind baseline adds to each row: its limit, and the entity's median and high quantile if it is learned.
const BASELINE_COLUMNS: [&str; 3] = ["threshold", "usual_median", "usual_high"];

/// What a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Calls: kind 1 of the log.
    Events,
    /// Findings about the log itself.
    Integrity,
    /// All tables of SQL sessions: planned and run by `posture`.
    Tables,
}

impl Source {
    pub(crate) fn of(kind: RuleKind) -> Self {
        match kind {
            RuleKind::Event
            | RuleKind::Threshold
            | RuleKind::FirstSeen
            | RuleKind::Baseline
            | RuleKind::Sequence
            | RuleKind::Absence => Self::Events,
            RuleKind::Meta => Self::Integrity,
            RuleKind::Posture => Self::Tables,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Integrity => "integrity",
            Self::Tables => "tables",
        }
    }

    pub(crate) fn schema(self) -> SchemaRef {
        match self {
            Self::Events => events_schema(),
            Self::Integrity => integrity_schema(),
            Self::Tables => Arc::new(Schema::empty()),
        }
    }
}

/// A rule ready to run. The expressions of filter, keys, arguments and row output read the batch projected to
/// `columns`; the output expressions of groups read keys and aggregates.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// Only these event names can match; None if the filter does not say.
    pub(crate) event_names: Option<BTreeSet<String>>,
    /// Indices into the source's schema.
    pub(crate) columns: Vec<usize>,
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(crate) groups: Option<Groups>,
    pub(crate) first_seen: Option<FirstSeen>,
    pub(crate) baseline: Option<Baseline>,
    /// Predicates of the kinds over several events.
    pub(crate) steps: Option<Steps>,
    pub(crate) output: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) output_schema: SchemaRef,
    /// The output, then what the kind adds to each row.
    pub(crate) row_schema: SchemaRef,
    /// Output columns that name the entity, in column order.
    pub(crate) group: Vec<usize>,
    pub(crate) severity: SeverityOf,
}

/// What a first_seen rule looks for.
#[derive(Debug)]
pub(crate) struct FirstSeen {
    pub(crate) spec: FirstSeenSpec,
    /// Output columns that are the key.
    pub(crate) keys: Vec<usize>,
    /// Output columns that learn for themselves.
    pub(crate) per: Vec<usize>,
}

/// What a baseline rule compares.
#[derive(Debug)]
pub(crate) struct Baseline {
    pub(crate) spec: BaselineSpec,
    pub(crate) groups: Groups,
}

impl Lowered {
    /// Schema of the columns that the rule reads.
    pub(crate) fn read_schema(&self) -> SchemaRef {
        let schema = events_schema();
        Arc::new(Schema::new(self.columns.iter().map(|&index| schema.field(index).clone()).collect::<Vec<_>>()))
    }
}

/// The aggregate of a threshold or baseline rule.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) aggregates: Vec<Aggregate>,
    /// Keys, then aggregates.
    pub(crate) schema: SchemaRef,
    /// Which aggregate the threshold or the baseline is on.
    pub(crate) condition: usize,
    pub(crate) gte: u64,
    /// For each group key in output order, the index of its key.
    pub(crate) group_keys: Vec<usize>,
}

/// One aggregate and its argument.
#[derive(Debug)]
pub(crate) struct Aggregate {
    pub(crate) function: Function,
    pub(crate) argument: Option<Arc<dyn PhysicalExpr>>,
    /// Type of the argument; of no meaning without one.
    pub(crate) argument_type: DataType,
}

/// The aggregates we can keep in state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    CountAll,
    Count,
    CountDistinct,
    Min,
    Max,
    Sum,
    BoolOr,
    BoolAnd,
}

/// How bad a row is.
#[derive(Debug)]
pub(crate) enum SeverityOf {
    Fixed(Severity),
    /// A CASE over the output row whose every result is one of the five words, and the worst of them.
    Case(Arc<dyn PhysicalExpr>, Severity),
}

impl SeverityOf {
    /// No row is worse.
    pub(crate) fn worst(&self) -> Severity {
        match self {
            Self::Fixed(worst) | Self::Case(_, worst) => *worst,
        }
    }
}

/// The session that rules are planned in: empty tables, and the functions of every other door.
pub(crate) fn session() -> Result<SessionContext, DataFusionError> {
    let session = SessionContext::new();
    for source in [Source::Events, Source::Integrity] {
        let table = MemTable::try_new(source.schema(), vec![vec![]])?;
        session.register_table(source.name(), Arc::new(table))?;
    }
    crate::query::functions::register(&session)?;
    Ok(session)
}

/// A reason, and the line of the SELECT (from 1) if one is known.
pub(crate) type Refusal = (Option<usize>, String);

/// Plans, checks and lowers one rule.
pub(crate) fn lower(session: &SessionContext, rule: &RuleFile) -> Result<Lowered, Refusal> {
    let plan = futures::executor::block_on(gate::plan(session, &rule.sql)).map_err(|error| gate_refusal(&error))?;
    let source = Source::of(rule.header.kind);
    let shape = Shape::of(&plan, source).map_err(|reason| (None, reason))?;
    let steps = steps::plan(session, rule).map_err(|reason| (None, reason))?;
    Lowering { session, rule, source, shape, steps }.run().map_err(|reason| (None, reason))
}

pub(super) fn gate_refusal(error: &GateError) -> Refusal {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        reason = format!("{reason}: {inner}");
        cause = inner.source();
    }
    let reason = reason.lines().next().unwrap_or_default().to_owned();
    (reason_line(&reason), reason)
}

/// The parser says "at Line: 3, Column: 5".
fn reason_line(reason: &str) -> Option<usize> {
    let rest = reason.split_once("Line: ")?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The parts of a plan that has the shape of a rule.
struct Shape<'a> {
    projection: &'a [Expr],
    schema: &'a DFSchemaRef,
    aggregate: Option<&'a datafusion::logical_expr::Aggregate>,
    predicate: Option<&'a Expr>,
}

impl<'a> Shape<'a> {
    fn of(plan: &'a LogicalPlan, source: Source) -> Result<Self, String> {
        let LogicalPlan::Projection(projection) = plan else { return Err(refused(plan)) };
        let mut shape =
            Self { projection: &projection.expr, schema: &projection.schema, aggregate: None, predicate: None };
        let mut below = projection.input.as_ref();
        if let LogicalPlan::Filter(filter) = below
            && matches!(filter.input.as_ref(), LogicalPlan::Aggregate(_))
        {
            return Err("HAVING is not allowed in a rule, use threshold".into());
        }
        if let LogicalPlan::Aggregate(aggregate) = below {
            shape.aggregate = Some(aggregate);
            below = aggregate.input.as_ref();
        }
        if let LogicalPlan::Filter(filter) = below {
            shape.predicate = Some(&filter.predicate);
            below = filter.input.as_ref();
        }
        match below {
            LogicalPlan::TableScan(scan) if scan.table_name.table() == source.name() => {}
            LogicalPlan::TableScan(scan) => {
                return Err(format!("this kind reads table {}, not {}", source.name(), scan.table_name.table()));
            }
            other => return Err(refused(other)),
        }
        for expr in shape.expressions() {
            check_expression(expr, false)?;
        }
        Ok(shape)
    }

    fn expressions(&self) -> impl Iterator<Item = &'a Expr> {
        let aggregate =
            self.aggregate.into_iter().flat_map(|aggregate| aggregate.group_expr.iter().chain(&aggregate.aggr_expr));
        self.projection.iter().chain(aggregate).chain(self.predicate)
    }
}

fn refused(plan: &LogicalPlan) -> String {
    let what = match plan {
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Sort(_) => "ORDER BY",
        LogicalPlan::Limit(_) => "LIMIT",
        LogicalPlan::Distinct(_) => "DISTINCT",
        LogicalPlan::Union(_) => "UNION",
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Subquery(_) | LogicalPlan::Projection(_) => {
            "a subquery, WITH or table alias"
        }
        LogicalPlan::EmptyRelation(_) => "a SELECT without a table",
        LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => "EXPLAIN",
        _ => "this statement",
    };
    format!("{what} is not allowed in a rule, its shape is SELECT .. FROM one table [WHERE ..] [GROUP BY ..]")
}

/// Refuses what would answer differently when asked again and, unless it may be `whole_sql`, what would read anything but
/// the row.
pub(super) fn check_expression(expr: &Expr, whole_sql: bool) -> Result<(), String> {
    let mut reason = None;
    let outcome = expr.apply(|node| {
        let refuse = match node {
            Expr::ScalarFunction(function) if function.func.signature().volatility != Volatility::Immutable => {
                Some(format!("function {} depends on the clock or on chance", function.name()))
            }
            Expr::Placeholder(placeholder) => Some(format!("unknown param {}", placeholder.id)),
            Expr::ScalarVariable(..) => Some("a session variable is not allowed in a rule".into()),
            _ if whole_sql => None,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("a subquery is not allowed in a rule".into())
            }
            Expr::WindowFunction(_) => Some("a window function is not allowed in a rule".into()),
            Expr::GroupingSet(_) => Some("grouping sets are not allowed in a rule".into()),
            Expr::Unnest(_) => Some("unnest is not allowed in a rule".into()),
            _ => None,
        };
        if refuse.is_some() {
            reason = refuse;
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match (outcome, reason) {
        (_, Some(reason)) => Err(reason),
        (Err(error), None) => Err(plain(&error)),
        (Ok(_), None) => Ok(()),
    }
}

struct Lowering<'a> {
    session: &'a SessionContext,
    rule: &'a RuleFile,
    source: Source,
    shape: Shape<'a>,
    steps: Option<Planned>,
}

impl Lowering<'_> {
    fn run(&self) -> Result<Lowered, String> {
        let (columns, input) = self.input()?;
        if self.shape.projection.len() > COLUMNS_MAX {
            return Err(format!("more than {COLUMNS_MAX} output columns"));
        }
        let filter = self.shape.predicate.map(|predicate| self.physical(predicate, &input)).transpose()?;
        let steps = self
            .steps
            .as_ref()
            .map(|steps| steps.lower(input.as_arrow(), |expr| self.physical(expr, &input)))
            .transpose()?;
        let header = &self.rule.header;
        let groups = match (self.shape.aggregate, header.kind) {
            (Some(aggregate), RuleKind::Threshold) => {
                let threshold = header.threshold.as_ref().ok_or("kind threshold needs threshold")?;
                Some(self.groups(aggregate, &input, &threshold.column)?)
            }
            (_, RuleKind::Posture) => return Err("kind posture has a plan of its own".into()),
            (Some(aggregate), RuleKind::Baseline) => {
                let baseline = header.baseline.as_ref().ok_or("kind baseline needs baseline")?;
                Some(self.groups(aggregate, &input, &baseline.column)?)
            }
            (None, _) if !matches!(header.kind, RuleKind::Threshold | RuleKind::Baseline) => None,
            (Some(_), _) => {
                return Err(format!("kind {} has no aggregate, use kind threshold", header.kind.as_str()));
            }
            (None, _) => return Err(format!("kind {} needs an aggregate", header.kind.as_str())),
        };
        let output_input = self.shape.aggregate.map_or(input, |aggregate| aggregate.schema.as_ref().clone());
        let output = self.shape.projection.iter().map(|expr| self.physical(expr, &output_input));
        let output = output.collect::<Result<Vec<_>, _>>()?;
        let output_schema = self.output_schema(&output, &output_input)?;
        let row_schema = self.row_schema(&output_schema)?;
        let first_seen = self.rule.first_seen.clone().map(|spec| self.first_seen(spec, &output_schema)).transpose()?;
        let (groups, baseline) = match (groups, &self.rule.baseline) {
            (Some(groups), Some(spec)) => (None, Some(Baseline { spec: spec.clone(), groups })),
            (groups, _) => (groups, None),
        };
        Ok(Lowered {
            event_names: self
                .shape
                .predicate
                .and_then(event_names)
                .or_else(|| self.steps.as_ref().and_then(Planned::event_names)),
            columns,
            filter,
            groups,
            first_seen,
            baseline,
            steps,
            output,
            group: self.group_columns(&output_schema)?,
            severity: self.severity(&row_schema)?,
            output_schema,
            row_schema,
        })
    }

    /// What a kind adds to each row is there for the severity and for people.
    fn row_schema(&self, output: &SchemaRef) -> Result<SchemaRef, String> {
        let returning = self.rule.first_seen.as_ref().is_some_and(|spec| spec.returning);
        let added: Vec<Field> = match self.rule.header.kind {
            RuleKind::Baseline => BASELINE_COLUMNS.map(|name| Field::new(name, DataType::Int64, true)).to_vec(),
            RuleKind::FirstSeen if returning => vec![Field::new("last_seen", timestamp(), true)],
            _ => return Ok(output.clone()),
        };
        if let Some(field) = added.iter().find(|field| output.index_of(field.name()).is_ok()) {
            return Err(format!("output column {} is added by this kind", field.name()));
        }
        let fields = output.fields().iter().map(|field| field.as_ref().clone()).chain(added);
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    fn first_seen(&self, spec: FirstSeenSpec, output: &SchemaRef) -> Result<FirstSeen, String> {
        let header = self.rule.header.first_seen.as_ref().ok_or("kind first_seen needs first_seen")?;
        let indices = |names: &[String]| {
            let index = |name: &String| {
                output.index_of(name).map_err(|_| format!("first_seen column {name} is not in the output"))
            };
            names.iter().map(index).collect::<Result<Vec<_>, _>>()
        };
        // One null group then names what is beyond max_new_per_hour and nothing else.
        if !header.keys.iter().any(|key| self.rule.header.group_key.contains(key)) {
            return Err("group_key has none of first_seen.keys".into());
        }
        Ok(FirstSeen { spec, keys: indices(&header.keys)?, per: indices(&header.per)? })
    }

    /// The source's columns that the expressions below the output read.
    fn input(&self) -> Result<(Vec<usize>, DFSchema), String> {
        let mut names: HashSet<&str> = HashSet::new();
        let aggregate = self.shape.aggregate;
        let inner: Vec<&Expr> = match aggregate {
            Some(aggregate) => aggregate.group_expr.iter().chain(&aggregate.aggr_expr).collect(),
            None => self.shape.projection.iter().collect(),
        };
        let steps = self.steps.iter().flat_map(Planned::expressions);
        for expr in inner.into_iter().chain(self.shape.predicate).chain(steps) {
            names.extend(expr.column_refs().into_iter().map(Column::name));
        }
        let schema = self.source.schema();
        let mut columns: Vec<usize> =
            (0..schema.fields().len()).filter(|&index| names.contains(schema.field(index).name().as_str())).collect();
        if columns.is_empty() {
            // A batch needs a column to have rows.
            columns.push(0);
        }
        let projected = schema.project(&columns).map_err(|error| error.to_string())?;
        let input =
            DFSchema::try_from_qualified_schema(self.source.name(), &projected).map_err(|error| plain(&error))?;
        Ok((columns, input))
    }

    fn physical(&self, expr: &Expr, input: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, String> {
        let lower = || {
            // Some functions, coalesce among them, exist as what the simplifier makes of them only.
            let context = SimplifyContext::builder().with_schema(Arc::new(input.clone())).build();
            let simplifier = ExprSimplifier::new(context);
            let expr = simplifier.simplify(simplifier.coerce(strip_alias(expr).clone(), input)?)?;
            by_value(self.session.create_physical_expr(expr, input)?, input.as_arrow())
        };
        lower().map_err(|error| plain(&error))
    }

    /// Names from the plan, types as the lowered expressions give them.
    fn output_schema(&self, output: &[Arc<dyn PhysicalExpr>], input: &DFSchema) -> Result<SchemaRef, String> {
        let mut fields: Vec<Field> = Vec::with_capacity(output.len());
        for (planned, expr) in self.shape.schema.fields().iter().zip(output) {
            if fields.iter().any(|field| field.name() == planned.name()) {
                return Err(format!("output column {} appears twice", planned.name()));
            }
            let data_type = expr.data_type(input.as_arrow()).map_err(|error| plain(&error))?;
            fields.push(Field::new(planned.name(), data_type, true));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    fn groups(
        &self,
        aggregate: &datafusion::logical_expr::Aggregate,
        input: &DFSchema,
        column: &str,
    ) -> Result<Groups, String> {
        let kind = self.rule.header.kind.as_str();
        let keys = aggregate.group_expr.iter().map(|expr| self.physical(expr, input)).collect::<Result<Vec<_>, _>>()?;
        let aggregates =
            aggregate.aggr_expr.iter().map(|expr| self.aggregate(expr, input)).collect::<Result<Vec<_>, _>>()?;
        let condition = self
            .aggregate_column(aggregate, column)?
            .checked_sub(keys.len())
            .ok_or_else(|| format!("{kind} column {column} is a group key, not an aggregate"))?;
        let function = aggregates.get(condition).map(|aggregate| aggregate.function);
        if !matches!(function, Some(Function::CountAll | Function::Count | Function::CountDistinct)) {
            // Only what grows with every event may fire at once; anything else could be undone by a late one.
            return Err(format!("{kind} column {column} is not a count"));
        }
        let mut group_keys = Vec::new();
        for (index, expr) in self.shape.projection.iter().enumerate() {
            let name = self.shape.schema.field(index).name();
            if self.rule.header.group_key.contains(name) {
                let key = match strip_alias(expr) {
                    Expr::Column(column) => aggregate.schema.maybe_index_of_column(column),
                    _ => None,
                };
                let key = key.filter(|&key| key < keys.len());
                group_keys.push(key.ok_or_else(|| format!("group_key {name} is not a column of GROUP BY"))?);
            }
        }
        if group_keys.iter().collect::<BTreeSet<_>>().len() != keys.len() {
            return Err("group_key and GROUP BY name different columns".into());
        }
        let fields = aggregate.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let floor = self.rule.baseline.as_ref().map(|baseline| baseline.floor);
        let gte = self.rule.gte.or(floor).ok_or("kind threshold needs threshold")?;
        Ok(Groups { keys, aggregates, schema, condition, gte, group_keys })
    }

    /// The index in the aggregate's schema that output column `name` shows unchanged.
    fn aggregate_column(&self, aggregate: &datafusion::logical_expr::Aggregate, name: &str) -> Result<usize, String> {
        let index = self.shape.schema.index_of_column_by_name(None, name);
        let kind = self.rule.header.kind.as_str();
        let index = index.ok_or_else(|| format!("{kind} column {name} is not in the output"))?;
        let expr = self.shape.projection.get(index).map(strip_alias);
        let found = match expr {
            Some(Expr::Column(column)) => aggregate.schema.maybe_index_of_column(column),
            _ => None,
        };
        found.ok_or_else(|| format!("{kind} column {name} is an expression, not a plain count"))
    }

    fn aggregate(&self, expr: &Expr, input: &DFSchema) -> Result<Aggregate, String> {
        let Expr::AggregateFunction(call) = strip_alias(expr) else { return Err("not an aggregate".into()) };
        let params = &call.params;
        if params.filter.is_some() || !params.order_by.is_empty() || params.null_treatment.is_some() {
            return Err(format!("{} takes no FILTER, ORDER BY or null treatment in a rule", call.func.name()));
        }
        let function = function_of(call)?;
        if function == Function::CountAll {
            return Ok(Aggregate { function, argument: None, argument_type: DataType::Null });
        }
        let [argument] = params.args.as_slice() else { return Err(format!("{} takes one argument", call.func.name())) };
        let argument = self.physical(argument, input)?;
        let argument_type = argument.data_type(input.as_arrow()).map_err(|error| plain(&error))?;
        if !fits(function, &argument_type) {
            return Err(format!("{} over {argument_type} is not kept in state", call.func.name()));
        }
        Ok(Aggregate { function, argument: Some(argument), argument_type })
    }

    fn group_columns(&self, output: &Schema) -> Result<Vec<usize>, String> {
        let keys = &self.rule.header.group_key;
        for key in keys {
            let index = output.index_of(key).map_err(|_| format!("group_key {key} is not in the output"))?;
            if keys.iter().filter(|other| *other == key).count() > 1 {
                return Err(format!("group_key {key} appears twice"));
            }
            let data_type = output.field(index).data_type();
            if !(is_text(data_type) || data_type.is_integer() || matches!(data_type, DataType::Boolean)) {
                return Err(format!("group_key {key} is {data_type}, not text, a whole number or a truth value"));
            }
        }
        Ok((0..output.fields().len()).filter(|&index| keys.contains(output.field(index).name())).collect())
    }

    fn severity(&self, output: &SchemaRef) -> Result<SeverityOf, String> {
        if let Ok(severity) = Severity::from_str(&self.rule.severity) {
            return Ok(SeverityOf::Fixed(severity));
        }
        let schema = DFSchema::try_from(output.as_ref().clone()).map_err(|error| plain(&error))?;
        let expr = self.session.parse_sql_expr(&self.rule.severity, &schema);
        let expr = expr.map_err(|error| format!("severity: {}", plain(&error)))?;
        check_expression(&expr, false).map_err(|reason| format!("severity: {reason}"))?;
        let worst = check_severity(&expr)?;
        Ok(SeverityOf::Case(self.physical(&expr, &schema).map_err(|reason| format!("severity: {reason}"))?, worst))
    }
}

/// Every result is one of the five words, so that no row is without a severity; returns the worst of them.
pub(super) fn check_severity(expr: &Expr) -> Result<Severity, String> {
    match strip_alias(expr) {
        Expr::Case(case) => {
            let Some(otherwise) = &case.else_expr else { return Err("severity: CASE has no ELSE".into()) };
            let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
            results.map(check_severity).try_fold(check_severity(otherwise)?, |worst, severity| Ok(worst.max(severity?)))
        }
        Expr::Literal(ScalarValue::Utf8(Some(word)), _) => Severity::from_str(word).map_err(|_| no_severity(expr)),
        other => Err(no_severity(other)),
    }
}

fn no_severity(expr: &Expr) -> String {
    format!("severity: {expr} is not one of info, low, medium, high, critical")
}

fn function_of(call: &AggregateFunction) -> Result<Function, String> {
    let name = call.func.name();
    let all = match call.params.args.as_slice() {
        [] => true,
        [Expr::Literal(value, _)] => !value.is_null(),
        #[expect(deprecated, reason = "the planner still makes it for count(*)")]
        [Expr::Wildcard { .. }] => true,
        _ => false,
    };
    Ok(match (name, call.params.distinct) {
        ("count", false) if all => Function::CountAll,
        ("count", false) => Function::Count,
        ("count", true) => Function::CountDistinct,
        ("min", _) => Function::Min,
        ("max", _) => Function::Max,
        ("sum", false) => Function::Sum,
        ("bool_or", _) => Function::BoolOr,
        ("bool_and", _) => Function::BoolAnd,
        _ => return Err(format!("aggregate {name} is not one of count, min, max, sum, bool_or, bool_and")),
    })
}

fn fits(function: Function, argument: &DataType) -> bool {
    match function {
        Function::CountAll | Function::Count => true,
        Function::CountDistinct => is_text(argument) || argument.is_integer() || matches!(argument, DataType::Boolean),
        Function::Min | Function::Max => {
            is_text(argument) || argument.is_integer() || matches!(argument, DataType::Timestamp(..))
        }
        Function::Sum => argument.is_integer(),
        Function::BoolOr | Function::BoolAnd => matches!(argument, DataType::Boolean),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The names in a conjunct `event_name = '..'` or `event_name IN (..)`.
pub(super) fn event_names(predicate: &Expr) -> Option<BTreeSet<String>> {
    split_conjunction(predicate).into_iter().find_map(|conjunct| match conjunct {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
            let literal = match (binary.left.as_ref(), binary.right.as_ref()) {
                (Expr::Column(column), literal) | (literal, Expr::Column(column)) if column.name == "event_name" => {
                    literal
                }
                _ => return None,
            };
            Some(BTreeSet::from([text_literal(literal)?]))
        }
        Expr::InList(list) if !list.negated => match list.expr.as_ref() {
            Expr::Column(column) if column.name == "event_name" => list.list.iter().map(text_literal).collect(),
            _ => None,
        },
        _ => None,
    })
}

fn text_literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(text) | ScalarValue::Utf8View(text), _) => text.clone(),
        _ => None,
    }
}

fn strip_alias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => strip_alias(&alias.expr),
        other => other,
    }
}

/// The first line of a planner error.
pub(super) fn plain(error: &DataFusionError) -> String {
    error.strip_backtrace().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rule::file::{Overrides, parse};

    fn file(kind: &str, group_key: &str, severity: &str, sql: &str) -> RuleFile {
        let threshold = "-- window = \"5m\"\n-- threshold = { column = \"n\", gte = 2 }\n";
        let text = format!(
            "-- +++\n-- id = \"r\"\n-- version = 1\n-- kind = \"{kind}\"\n-- group_key = [{group_key}]\n\
             -- dedup_period = \"1h\"\n-- severity = \"{severity}\"\n{}\
             -- test = [{{ name = \"a\", given = {{ fixture = \"x\" }}, expect = {{ alerts = 1 }} }}, \
             {{ name = \"b\", given = {{ fixture = \"x\" }}, expect = {{ alerts = 0 }} }}]\n-- +++\n{sql}\n",
            if kind == "threshold" { threshold } else { "" },
        );
        parse("kms/r.sql", text.as_bytes(), &Overrides::new()).unwrap()
    }

    fn refusal(kind: &str, group_key: &str, severity: &str, sql: &str) -> String {
        lower(&session().unwrap(), &file(kind, group_key, severity, sql)).unwrap_err().1
    }

    #[test]
    fn the_event_names_of_the_filter_are_found() {
        let names = |sql: &str| {
            let lowered = lower(&session().unwrap(), &file("event", "\"key_arn\"", "low", sql)).unwrap();
            lowered.event_names.map(|names| names.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(
            names("SELECT key_arn FROM events WHERE error_code IS NULL AND event_name = 'DisableKey'"),
            Some(vec!["DisableKey".to_owned()])
        );
        assert_eq!(
            names("SELECT key_arn FROM events WHERE event_name IN ('B', 'A')"),
            Some(vec!["A".to_owned(), "B".to_owned()])
        );
        assert_eq!(names("SELECT key_arn FROM events WHERE event_name NOT IN ('A')"), None);
        assert_eq!(names("SELECT key_arn FROM events WHERE event_name = 'A' OR mfa"), None);
        assert_eq!(names("SELECT key_arn FROM events"), None);
    }

    #[test]
    fn only_needed_columns_are_read() {
        let sql = "SELECT key_arn FROM events WHERE event_name = 'A' AND policy_is_public(policy)";
        let lowered = lower(&session().unwrap(), &file("event", "\"key_arn\"", "low", sql)).unwrap();
        let schema = events_schema();
        let names: Vec<&str> = lowered.columns.iter().map(|&index| schema.field(index).name().as_str()).collect();
        assert_eq!(names, ["event_name", "key_arn", "policy"]);
    }

    #[test]
    fn other_shapes_are_refused_with_the_reason() {
        let event = |sql: &str| refusal("event", "\"key_arn\"", "low", sql);
        let group = "SELECT key_arn, count(*) AS n FROM events GROUP BY key_arn";
        for (reason, expected) in [
            (event("SELECT a.key_arn FROM events a JOIN events b ON a.seq = b.seq"), "join"),
            (event("SELECT key_arn, row_number() OVER () AS n FROM events"), "window function"),
            (event("SELECT key_arn FROM events ORDER BY seq"), "ORDER BY"),
            (event("SELECT key_arn FROM events LIMIT 1"), "LIMIT"),
            (event("SELECT DISTINCT key_arn FROM events"), "DISTINCT"),
            (event("SELECT key_arn FROM events UNION ALL SELECT key_arn FROM events"), "UNION"),
            (event("SELECT key_arn FROM (SELECT key_arn FROM events)"), "subquery"),
            (event("SELECT key_arn FROM events WHERE seq IN (SELECT seq FROM events)"), "subquery"),
            (event("WITH e AS (SELECT * FROM events) SELECT key_arn FROM e"), "subquery"),
            (event("SELECT 'x' AS key_arn"), "without a table"),
            (event("SELECT key_arn FROM events WHERE event_time > now()"), "clock"),
            (event("SELECT key_arn, random() AS x FROM events"), "clock or on chance"),
            (event("SELECT log AS key_arn FROM integrity"), "reads table events"),
            (event("SELECT nothing FROM events"), "planned"),
            (event("SELECT key_arn FROM events WHERE"), "planned"),
            (event("SELECT key_arn FROM '/etc/passwd'"), "does not exist"),
            (event("DROP TABLE events"), "only queries"),
            (event("SELECT account FROM events"), "not in the output"),
            (event("SELECT key_arn FROM events WHERE event_name"), "non-boolean"),
            (event(group), "kind threshold"),
            (refusal("threshold", "\"key_arn\"", "low", &format!("{group} HAVING count(*) > 1")), "HAVING"),
            (refusal("threshold", "\"key_arn\"", "low", "SELECT key_arn, 1 AS n FROM events"), "needs an aggregate"),
            (refusal("threshold", "", "low", group), "different columns"),
            (
                refusal(
                    "threshold",
                    "\"key_arn\"",
                    "low",
                    "SELECT key_arn, sum(seq) AS n FROM events GROUP BY key_arn",
                ),
                "not a count",
            ),
            (
                refusal(
                    "threshold",
                    "\"key_arn\"",
                    "low",
                    "SELECT key_arn, count(*) + 1 AS n FROM events GROUP BY key_arn",
                ),
                "plain count",
            ),
            (
                refusal(
                    "threshold",
                    "\"key_arn\"",
                    "low",
                    "SELECT key_arn, count(*) AS n, avg(seq) AS a FROM events GROUP BY key_arn",
                ),
                "aggregate avg",
            ),
            (
                refusal("event", "\"key_arn\"", "CASE WHEN mfa THEN 'low' END", "SELECT key_arn, mfa FROM events"),
                "no ELSE",
            ),
            (
                refusal(
                    "event",
                    "\"key_arn\"",
                    "CASE WHEN mfa THEN 'low' ELSE 'bad' END",
                    "SELECT key_arn, mfa FROM events",
                ),
                "not one of",
            ),
            (
                refusal(
                    "event",
                    "\"key_arn\"",
                    "CASE WHEN mfa THEN 'low' ELSE 'high' END",
                    "SELECT key_arn FROM events",
                ),
                "severity",
            ),
        ] {
            assert!(reason.contains(expected), "{expected:?} not in {reason:?}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let rule = file("event", "\"key_arn\"", "low", "SELECT key_arn\nFROM events\nWHERE = 1");
        assert_eq!(lower(&session().unwrap(), &rule).unwrap_err().0, Some(3));
    }
}
