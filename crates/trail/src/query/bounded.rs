//! Bounds what a call of a function may make at once.
//!
//! The memory limit is over sorts, joins and groups. Functions take what they like, so that `repeat(event_id, 50000000)`
//! would ask for more than the machine has, and end the process. The ones that make much out of little are asked first how
//! much it would be. What joins, `unnest` and windows make of a long value is bounded in `operators`.

use super::growth::{Grows, copies, growth};
use super::size::{PLACE_BYTES, size_of};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, not_impl_err, plan_err, resources_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable as _, Like, LogicalPlan, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TryCast, Volatility,
};
use std::sync::Arc;

/// What one call may make: for a batch of 8,192 rows that is 32 KiB a row.
pub(super) const CALL_BYTES_MAX: u64 = 256 << 20;
/// What all calls of a statement may make at once, in even shares.
const CALLS_BYTES_MAX: u64 = 1 << 30;
/// Most points of a sketch that `approx_percentile_cont` may keep, for each group; it keeps 100 unless told.
const CENTROIDS_MAX: u64 = 1_000;
/// What a constant may have: it is written into every row.
const CONSTANT_BYTES_MAX: u64 = (64 << 10) + PLACE_BYTES;
/// What a list may have in which a value is looked for, as `= ANY ($1)` does: some ten thousand ids. It is in no row.
const LIST_BYTES_MAX: u64 = 512 << 10;
/// Bytes of a type whose values all have the same length, which NULL has, too.
pub(super) const FIXED_BYTES_MAX: u64 = 256;
/// What a value of a usual type has of them.
pub(super) const FIXED_BYTES_USUAL: u64 = 16;

/// Functions that look for a value in a list, and hand on none of it.
const LOOK_FOR: [&str; 3] = ["array_has", "array_has_all", "array_has_any"];
/// Operators whose right side is a regular expression.
const MATCHES: [Operator; 4] =
    [Operator::RegexMatch, Operator::RegexIMatch, Operator::RegexNotMatch, Operator::RegexNotIMatch];

/// The plan, each call that makes much out of little behind its bound.
pub(crate) fn bounded(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut calls = 0;
    plan.apply_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                calls += u64::from(grows(expr, &schema) || copies_text(expr));
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let bytes_max = CALL_BYTES_MAX.min(CALLS_BYTES_MAX / calls.max(1));
    let bounded = plan.transform_up_with_subqueries(|plan| {
        let names = NamePreserver::new(&plan);
        // A list that a client binds for `unnest ($1)` is in one row.
        let within = Within { bytes_max, schema: &merge_schema(&plan.inputs()) };
        let one_row = plan.inputs().iter().all(|input| matches!(input, LogicalPlan::EmptyRelation(_)));
        let plan = plan.map_expressions(|expr| {
            let name = names.save(&expr);
            if one_row && is_list(unaliased(&expr)) {
                check_constant(&expr, LIST_BYTES_MAX)?;
                return Ok(Transformed::no(expr));
            }
            let expr = expr.transform_down(|expr| bounded_call(expr, within))?;
            Ok(if expr.transformed { expr.update_data(|expr| name.restore(expr)) } else { expr })
        })?;
        plan.transform_data(told_apart)
    })?;
    Ok(bounded.data)
}

/// What calls of a node of the plan have.
#[derive(Clone, Copy)]
struct Within<'a> {
    bytes_max: u64,
    /// Of the rows that they are given.
    schema: &'a DFSchema,
}

/// A struct of columns holds them once; one of structs, lists and maps may hold the same again and again, at every level. The
/// first kind is left to the optimizer, which finds filters on its members.
fn growth_of(call: &ScalarFunction, schema: &DFSchema) -> Option<Grows> {
    let flat = |arg: &Expr| arg.get_type(schema).is_ok_and(|kind| !kind.is_nested());
    let columns = matches!(call.func.name(), "named_struct" | "struct") && call.args.iter().all(flat);
    if columns { None } else { growth(call) }
}

/// What growing calls made may be there once more.
fn copies_text(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => copies(call),
        expr => matches!(expr, Expr::Case(_)),
    }
}

fn grows(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::ScalarFunction(call) => growth_of(call, schema).is_some(),
        Expr::BinaryExpr(BinaryExpr { op, .. }) => *op == Operator::StringConcat,
        _ => false,
    }
}

/// From the outermost call to its arguments: what a constant may have depends on what is asked of it.
fn bounded_call(expr: Expr, within: Within<'_>) -> Result<Transformed<Expr>> {
    let bytes_max = within.bytes_max;
    Ok(match expr {
        Expr::ScalarFunction(call) if LOOK_FOR.contains(&call.func.name()) => {
            let mut args = Vec::with_capacity(call.args.len());
            for arg in call.args {
                args.push(if is_list(&arg) {
                    check_constant(&arg, LIST_BYTES_MAX)?;
                    arg
                } else {
                    arg.transform_down(|expr| bounded_call(expr, within))?.data
                });
            }
            let call = Expr::ScalarFunction(ScalarFunction { args, ..call });
            Transformed::new(call, true, TreeNodeRecursion::Jump)
        }
        Expr::ScalarFunction(mut call) => {
            if let (true, Some(kind)) = (matches!(call.func.name(), "arrow_cast" | "arrow_try_cast"), type_in(&call)) {
                let from = call.args.swap_remove(0);
                call.args.insert(0, cast_from(from, &kind, bytes_max)?);
            }
            let call = constant_flags(call, bytes_max)?;
            match growth_of(&call, within.schema) {
                Some(grows) => {
                    let func = Arc::new(ScalarUDF::new_from_impl(Bounded { inner: call.func, grows, bytes_max }));
                    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, ..call }))
                }
                None => Transformed::yes(Expr::ScalarFunction(call)),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
            let measured = |expr: Box<Expr>| Box::new(measured(*expr, Grows::Sum(1), bytes_max));
            let (left, right) = (measured(left), measured(right));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if MATCHES.contains(&op) => {
            let right = Box::new(compiled(*right, bytes_max));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::SimilarTo(like) => {
            let pattern = Box::new(compiled(*like.pattern, bytes_max));
            Transformed::yes(Expr::SimilarTo(Like { pattern, ..like }))
        }
        literal @ Expr::Literal(..) => {
            check_constant(&literal, CONSTANT_BYTES_MAX)?;
            Transformed::no(literal)
        }
        Expr::Cast(Cast { expr, field }) => {
            let expr = Box::new(cast_from(*expr, field.data_type(), bytes_max)?);
            Transformed::yes(Expr::Cast(Cast { expr, field }))
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let expr = Box::new(cast_from(*expr, field.data_type(), bytes_max)?);
            Transformed::yes(Expr::TryCast(TryCast { expr, field }))
        }
        Expr::AggregateFunction(function) => {
            check_sketch(function.func.name(), &function.params.args)?;
            Transformed::no(Expr::AggregateFunction(function))
        }
        Expr::WindowFunction(function) => {
            check_sketch(function.fun.name(), &function.params.args)?;
            if matches!(function.fun.name(), "array_agg" | "string_agg") {
                return not_impl_err!(
                    "{} over a window, of which each row would have its own: use GROUP BY",
                    function.fun.name()
                );
            }
            Transformed::no(Expr::WindowFunction(function))
        }
        expr => Transformed::no(expr),
    })
}

fn unaliased(expr: &Expr) -> &Expr {
    if let Expr::Alias(alias) = expr { unaliased(&alias.expr) } else { expr }
}

/// Whether it is a list of constants.
fn is_list(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => value.data_type().is_nested(),
        Expr::Cast(Cast { expr, .. }) => is_list(expr),
        Expr::ScalarFunction(call) => {
            call.func.name() == "make_array" && call.args.iter().all(|arg| matches!(arg, Expr::Literal(..)))
        }
        _ => false,
    }
}

/// Refuses a constant, or a list of them, beyond so many bytes.
fn check_constant(expr: &Expr, bytes_max: u64) -> Result<()> {
    let mut bytes = 0_u64;
    expr.apply(|expr| {
        if let Expr::Literal(value, _) = expr {
            bytes = bytes.saturating_add(size_of(&value.to_array()?));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if bytes > bytes_max {
        return resources_err!("a constant has {bytes} bytes, more than {bytes_max}");
    }
    Ok(())
}

/// A call whose patterns are bounded, if they are regular expressions, and the same in all that a flag says.
fn constant_flags(mut call: ScalarFunction, bytes_max: u64) -> Result<ScalarFunction> {
    let flags = match call.func.name() {
        "regexp_like" | "regexp_match" => 2,
        "regexp_count" | "regexp_replace" => 3,
        "regexp_instr" => 4,
        _ => return Ok(call),
    };
    if call.args.get(flags).is_some_and(varies) {
        return plan_err!("{}: flags are the same for all rows", call.func.name());
    }
    if call.args.len() > 1 {
        let pattern = call.args.remove(1);
        call.args.insert(1, compiled(pattern, bytes_max));
    }
    Ok(call)
}

/// A pattern, of which a column may have another one in each row.
fn compiled(pattern: Expr, bytes_max: u64) -> Expr {
    if varies(&pattern) { measured(pattern, Grows::Patterns, bytes_max) } else { pattern }
}

fn varies(expr: &Expr) -> bool {
    expr.any_column_refs() || expr.contains_outer() || expr.is_volatile()
}

/// What is cast to values of fixed length; they may be longer than those before.
fn cast_from(expr: Expr, kind: &DataType, bytes_max: u64) -> Result<Expr> {
    let bytes = fixed_bytes(kind);
    if bytes > FIXED_BYTES_MAX {
        return plan_err!("each value of {kind} would have {bytes} bytes, more than {FIXED_BYTES_MAX}");
    }
    let times = bytes.div_ceil(FIXED_BYTES_USUAL);
    Ok(if times > 1 { measured(expr, Grows::Sum(times), bytes_max) } else { expr })
}

/// A sketch has room for all its points from the start.
fn check_sketch(name: &str, args: &[Expr]) -> Result<()> {
    let at = match name {
        "approx_percentile_cont" => 2,
        "approx_percentile_cont_with_weight" => 3,
        _ => return Ok(()),
    };
    let Some(points) = args.get(at) else { return Ok(()) };
    let few = |value: &ScalarValue| value.to_string().parse().is_ok_and(|points: u64| points <= CENTROIDS_MAX);
    if !matches!(points, Expr::Literal(value, _) if few(value)) {
        return plan_err!("{name} may keep a number of points up to {CENTROIDS_MAX}, not {points}");
    }
    Ok(())
}

/// What `arrow_cast` is asked for.
fn type_in(call: &ScalarFunction) -> Option<DataType> {
    let Some(Expr::Literal(name, _)) = call.args.get(1) else { return None };
    name.try_as_str().flatten()?.parse().ok()
}

/// Bytes of a value whatever it is.
fn fixed_bytes(kind: &DataType) -> u64 {
    match kind {
        DataType::FixedSizeBinary(bytes) => u64::try_from(*bytes).unwrap_or(0),
        DataType::FixedSizeList(of, times) => {
            u64::try_from(*times).unwrap_or(0).saturating_mul(fixed_bytes(of.data_type()))
        }
        DataType::Struct(fields) => {
            fields.iter().fold(0, |sum, field| fixed_bytes(field.data_type()).saturating_add(sum))
        }
        DataType::List(of) | DataType::LargeList(of) | DataType::Map(of, _) => fixed_bytes(of.data_type()),
        DataType::Dictionary(_, of) => fixed_bytes(of),
        kind => kind.primitive_width().map_or(0, |bytes| bytes as u64).max(FIXED_BYTES_USUAL),
    }
}

/// A projection that says the same as the one below it, said otherwise: DataFusion 55 takes the two for one, so that
/// `SELECT n + 1 AS n FROM (SELECT n + 1 AS n ..)` adds one (apache/datafusion#24686 mends it).
fn told_apart(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Projection(outer) = &plan else { return Ok(Transformed::no(plan)) };
    let LogicalPlan::Projection(inner) = outer.input.as_ref() else { return Ok(Transformed::no(plan)) };
    if outer.expr != inner.expr {
        return Ok(Transformed::no(plan));
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(match expr.unalias() {
            Expr::Column(column) => Transformed::no(name.restore(Expr::Column(column))),
            expr => Transformed::yes(name.restore(measured(expr, Grows::Sum(1), CALL_BYTES_MAX))),
        })
    })
}

fn measured(expr: Expr, grows: Grows, bytes_max: u64) -> Expr {
    let signature = Signature::any(1, Volatility::Immutable);
    ScalarUDF::new_from_impl(Measured { signature, grows, bytes_max }).call(vec![expr])
}

/// A function that is asked first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    grows: Grows,
    bytes_max: u64,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self { inner, ..*self }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.grows.bytes(&args.args, args.number_rows)?;
        check(self.name(), bytes, self.bytes_max, &args.args)?;
        self.inner.invoke_with_args(args)
    }
}

/// What it is given, if that is not too much.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Measured {
    signature: Signature,
    grows: Grows,
    bytes_max: u64,
}

impl ScalarUDFImpl for Measured {
    fn name(&self) -> &'static str {
        "measured"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.grows.bytes(&args.args, args.number_rows)?;
        check("an expression", bytes, self.bytes_max, &args.args)?;
        Ok(args.args.swap_remove(0))
    }
}

fn check(name: &str, bytes: u64, bytes_max: u64, args: &[ColumnarValue]) -> Result<()> {
    let constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let (bytes_max, what) = if constant { (CONSTANT_BYTES_MAX, "constant") } else { (bytes_max, "batch of rows") };
    if bytes > bytes_max {
        return resources_err!("{name} would make about {bytes} bytes of a {what}, more than {bytes_max}");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use datafusion::common::ParamValues;
    use datafusion::prelude::SessionContext;

    async fn rows(sql: &str) -> Result<usize> {
        let session = SessionContext::new();
        let plan = session.state().create_logical_plan(sql).await?;
        let names: Vec<String> = plan.schema().field_names();
        let plan = bounded(plan)?;
        assert_eq!(plan.schema().field_names(), names, "{sql}");
        let batches = session.execute_logical_plan(plan).await?.collect().await?;
        Ok(batches.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn what_would_make_too_much_is_refused() {
        let from = "FROM generate_series(1, 20000) t(n)";
        let deep = (0..8).fold("SELECT n::text AS s ".to_owned() + from, |inner, _| {
            format!("SELECT s || s || s || s AS s FROM ({inner})")
        });
        let deeper = (0..8).fold("SELECT array_concat(['a'], [n::text]) AS s ".to_owned() + from, |inner, _| {
            format!("SELECT array_concat(s, s, s, s) AS s FROM ({inner})")
        });
        let empty = (0..9).fold("SELECT [left(n::text, 0)] AS s ".to_owned() + from, |inner, _| {
            format!("SELECT array_concat(s, s, s, s) AS s FROM ({inner})")
        });
        let grouped = format!("SELECT regexp_match(s, '{}.*{}') {from}", "(".repeat(48), ")".repeat(48))
            .replace("(s,", "(lpad(n::text, 3000, 'x'),");
        let paired = (0..14).fold(format!("SELECT lpad(n::text, 300, 'x') AS s {from}"), |inner, _| {
            format!("SELECT struct(s, s) AS s FROM ({inner})")
        });
        for sql in [
            // Many values without a byte of their own.
            "SELECT array_length(array_repeat('', 2000000000))".to_owned(),
            format!("SELECT array_length(array_repeat(NULL, 2000000000 + n * 0)) {from}"),
            format!("SELECT array_length(array_repeat(n % 2 = 0, 200000)) {from}"),
            format!("SELECT array_length(array_repeat(left(n::text, 1), 30000)) {from}"),
            format!("SELECT array_length(array_repeat([true, true, true, true], n * 1000)) {from}"),
            empty,
            grouped,
            paired,
            format!("SELECT regexp_replace(lpad(n::text, 3000, 'x'), '(.*)', repeat('\\1', 100)) {from}"),
            format!("SELECT regexp_replace(lpad(n::text, 3000, 'x'), '.', 'abcdefghijklm', 'g') {from}"),
            format!("SELECT replace(lpad(n::text, 3000, 'x'), '', 'abcdefghijklm') {from}"),
            format!("SELECT array_to_string(array_repeat(nullif(n, n), 200), ',', repeat('x', 5000)) {from}"),
            format!("SELECT array_replace_all(array_repeat([n], 100), [n], range(0, 1000)) {from}"),
            // A regular expression of each row has up to 10 MiB.
            format!("SELECT regexp_count('a', '\\w{{' || (n % 800) || '}}') {from}"),
            format!("SELECT count(*) {from} WHERE 'a' ~ ('\\w{{' || (n % 800) || '}}')"),
            format!("SELECT count(*) {from} WHERE n::text NOT SIMILAR TO ('\\w{{' || (n % 800) || '}}')"),
            format!("SELECT string_to_array(lpad(n::text, 7000, 'x'), NULL) {from}"),
            format!("SELECT arrow_cast(array_repeat(NULL, (n % 100) + 500), 'List(FixedSizeBinary(256))') {from}"),
            format!("SELECT arrow_cast(range(0, 3900 + n % 2), 'List(Decimal256(70, 2))') {from}"),
            "SELECT repeat('x', 2000000000)".to_owned(),
            "SELECT repeat('x', 2000000000000)".to_owned(),
            format!("SELECT repeat(n::text, 50000000) {from}"),
            format!("SELECT repeat('x', n * 1000000) {from}"),
            format!("SELECT lpad(n::text, 1000000000), 1 {from}"),
            format!("SELECT rpad('x', n * 100000, 'yz') {from}"),
            "SELECT array_repeat(1, 2000000000)".to_owned(),
            format!("SELECT array_repeat(n, 2000000000) {from}"),
            format!("SELECT array_resize([n], 2000000000, 7) {from}"),
            "SELECT range(1, 2000000000)".to_owned(),
            format!("SELECT generate_series(n, 2000000000) {from}"),
            format!("SELECT range(0, n * 1000000, 2) {from}"),
            "SELECT generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2026-01-01', INTERVAL '1 second')".to_owned(),
            format!("SELECT count(*) {from} WHERE length(repeat(n::text, 5000000)) > 1"),
            format!("SELECT length(replace(lpad('', 3000, 'x'), 'x', lpad(n::text, 3000, 'y'))) {from}"),
            format!(
                "SELECT n, count(*) {from} WHERE n IN (SELECT length(repeat(m::text, 50000000)) FROM generate_series(1, 9) u(m)) GROUP BY n"
            ),
            // Each alone would do.
            {
                let calls: Vec<String> = (0..200).map(|at| format!("count(lpad(n::text, {}))", 1_000 + at)).collect();
                format!("SELECT {} {from}", calls.join(", "))
            },
            deep,
            deeper,
        ] {
            let refused = rows(&sql).await;
            assert!(
                matches!(&refused, Err(error) if error.to_string().contains("would make about")),
                "{sql}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_has_no_end_of_its_own_is_not_planned() {
        let from = "FROM generate_series(1, 20000) t(n)";
        for (sql, why) in [
            (format!("SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)') {from}"), "2000000000 bytes"),
            (format!("SELECT arrow_try_cast([n], 'List(FixedSizeList(1000, Int64))') {from}"), "16000 bytes"),
            (format!("SELECT [n]::BIGINT[2000000000] {from}"), "32000000000 bytes"),
            (format!("SELECT approx_percentile_cont(n::double, 0.5, 2000000000) {from}"), "not Int64(2000000000)"),
            (
                format!("SELECT approx_percentile_cont(0.5, 20000 * 100000) WITHIN GROUP (ORDER BY n) {from}"),
                "not Int64(20000)",
            ),
            (format!("SELECT approx_percentile_cont(n, 0.5, 9 + 2000000000) OVER () {from}"), "not Int64(9)"),
            (format!("SELECT regexp_count('a', 'a', 1, left('imsx', n % 4)) {from}"), "the same for all rows"),
            (format!("SELECT ['{}'] {from}", "x".repeat(66_000)), "a constant has"),
            (format!("SELECT string_agg(n::text, '') OVER (ORDER BY n) {from}"), "use GROUP BY"),
            (format!("SELECT max(a[1]) FROM (SELECT array_agg(n) OVER () AS a {from})"), "use GROUP BY"),
            (
                format!(
                    "SELECT length(array_to_string(array_replace_all(array_repeat('x', 300), 'x', lpad(n::text, 300, 'y')), '')) {from}"
                ),
                "would make about",
            ),
        ] {
            let refused = rows(&sql).await;
            assert!(matches!(&refused, Err(error) if error.to_string().contains(why)), "{sql}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn what_a_client_binds_is_a_constant() {
        let session = SessionContext::new();
        let bound = |sql: &'static str, value: ScalarValue| {
            let plan = session.state();
            async move {
                let plan = plan.create_logical_plan(sql).await.unwrap();
                bounded(plan.replace_params_with_values(&ParamValues::from(vec![value])).unwrap()).map(drop)
            }
        };
        let text = |bytes| ScalarValue::Utf8(Some("x".repeat(bytes)));
        let list = |texts| ScalarValue::List(ScalarValue::new_list_nullable(&vec![text(36); texts], &DataType::Utf8));
        let (all, once) = ("SELECT $1 FROM generate_series(1, 20000)", "SELECT unnest($1::text[])");
        let looked_for = "SELECT n FROM generate_series(1, 20000) t(n) WHERE n::text = ANY ($1)";
        bound(all, text(64 << 10)).await.unwrap();
        bound(all, list(1_000)).await.unwrap();
        bound(looked_for, list(10_000)).await.unwrap();
        bound(once, list(10_000)).await.unwrap();
        for (sql, value) in
            [(all, text((64 << 10) + 1)), (all, list(2_000)), (looked_for, list(20_000)), (once, list(20_000))]
        {
            let refused = bound(sql, value).await.unwrap_err().to_string();
            assert!(refused.contains("a constant has"), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_said_twice_is_done_twice() {
        for (sql, found) in [
            ("SELECT n + 1 AS n FROM (SELECT n + 1 AS n FROM (SELECT n + 1 AS n FROM (SELECT 5 AS n)))", "8"),
            (
                "SELECT concat(s, s) AS s, n FROM (SELECT concat(s, s) AS s, n FROM (SELECT 'ab' AS s, 1 AS n))",
                "abababab",
            ),
            (
                "SELECT substr(s, 2) FROM (SELECT substr(s, 2) AS s FROM (SELECT substr(s, 2) AS s FROM (SELECT 'abcd' AS s)))",
                "d",
            ),
            ("SELECT n AS n FROM (SELECT n AS n FROM (SELECT 5 AS n))", "5"),
        ] {
            let session = SessionContext::new();
            let plan = bounded(session.state().create_logical_plan(sql).await.unwrap()).unwrap();
            let batches = session.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
            let value = arrow::util::display::array_value_to_string(batches[0].column(0), 0).unwrap();
            assert_eq!(value, found, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_statement_of_many_levels_ends_as_an_error_and_not_the_process() {
        use crate::query::{Cancel, Limits, run::run};
        let levels = (1..180).map(|level| format!("t{level} AS (SELECT s || s AS s FROM t{})", level - 1));
        let levels = levels.collect::<Vec<_>>().join(", ");
        let first = "t0 AS (SELECT n::text AS s FROM generate_series(1, 9000) u(n))";
        let session = SessionContext::new();
        let sql = format!("WITH {first}, {levels} SELECT count(s) FROM t179");
        let plan = crate::query::gate::plan(&session, &sql).await.unwrap();
        let error = run(&session, plan, &Limits::default(), Cancel::new()).unwrap().collect().await.unwrap_err();
        assert!(format!("{error:?}").contains("would make about"), "{error:?}");
    }

    #[tokio::test]
    async fn what_people_write_is_not() {
        let from = "FROM generate_series(1, 20000) t(n)";
        for (sql, found) in [
            (
                "SELECT repeat('=', 60), rpad('a', 20), lpad('7', 8, '0'), repeat('x', -1), repeat(NULL, 3)".to_owned(),
                1,
            ),
            (format!("SELECT lpad(n::text, 20, '0') || '/' || n, concat(n, 'x') {from}"), 20_000),
            (
                format!("SELECT replace(n::text, '1', 'one'), regexp_replace(n::text, '[0-9]', '<\\0>', 'g') {from}"),
                20_000,
            ),
            (
                format!(
                    "SELECT replace(lpad(n::text, 2000, 'x'), 'eventVersion', '{0}'), regexp_replace(lpad(n::text, 2000, 'x'), '(password=)[^&]+', '\\1{0}') {from}",
                    "*".repeat(60)
                ),
                20_000,
            ),
            ("SELECT unnest(range(1, 1001))".to_owned(), 1_000),
            ("SELECT unnest(generate_series(DATE '2026-01-01', DATE '2026-01-31', INTERVAL '1 day'))".to_owned(), 31),
            (format!("SELECT n || 'x' AS s, count(*) {from} GROUP BY n || 'x' ORDER BY n || 'x'"), 20_000),
            (format!("SELECT array_to_string([n::text, 'a', 'b'], ', ') {from}"), 20_000),
            (format!("SELECT approx_percentile_cont(n, 0.5), approx_percentile_cont(n, 0.5, 1000) {from}"), 1),
            (format!("SELECT ARRAY[n, n]::BIGINT[2] {from}"), 20_000),
            (
                format!(
                    "SELECT string_to_array(lpad(n::text, 2000, ','), ','), regexp_match(n::text, '(1)(2)?') {from}"
                ),
                20_000,
            ),
            (
                format!(
                    "SELECT count(*) {from} JOIN (VALUES ('^1+$'), ('2.*9'), ('[0-4]+5')) AS p(p) ON n::text ~ p WHERE n::text ~* '^[0-9]{{1,9}}$'"
                ),
                1,
            ),
            (format!("SELECT array_sort(array_distinct(array_agg(n % 1000))), array_repeat('a', 3) {from}"), 1),
        ] {
            assert_eq!(rows(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")), found, "{sql}");
        }
    }
}
