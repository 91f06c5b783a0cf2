//! What clients write and DataFusion does not read, written so that it does; after datafusion-pg-catalog's own rewriting.
//!
//! `LIKE ... ESCAPE '/'` becomes the same with a backslash, `to_regclass` and its kin the cast that they are, and an array made
//! of a subquery, which only catalog queries about options and memberships have, is NULL: there are none of either here. So is a
//! value looked up in a catalog table without rows, or made into JSON, which SQLAlchemy has done to identities and collations;
//! and a CASE with no other outcome.

use super::empty::is_empty;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Statement, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::ops::ControlFlow;

/// The statement, and whether casts were made that have to be looked at again.
pub(super) fn rewrite(statement: &mut Statement) -> bool {
    let mut rewriter = Rewriter { casts: false };
    // It never breaks off.
    let _ = statement.visit(&mut rewriter);
    rewriter.casts
}

struct Rewriter {
    casts: bool,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                let escape = match escape_char.as_ref().map(|value| &value.value) {
                    Some(Value::SingleQuotedString(text)) if text.chars().count() == 1 && text != "\\" => text.clone(),
                    _ => return ControlFlow::Continue(()),
                };
                let text =
                    format!("replace(replace(({pattern}), '\\', '\\\\'), '{}', '\\')", escape.replace('\'', "''"));
                if let Some(replaced) = parsed(&text) {
                    (**pattern, *escape_char) = (replaced, None);
                }
            }
            Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } if is_array_of_query(right.as_ref()) => {
                let left = std::mem::replace(left.as_mut(), Expr::value(Value::Null));
                *expr = left;
            }
            Expr::Subquery(query) if is_empty(query) || query.to_string().contains("json_build_object(") => {
                if let Some(nothing) = parsed(NOTHING) {
                    *expr = nothing;
                }
            }
            _ if is_array_of_query(expr) => {
                if let Some(nothing) = parsed("CAST(NULL AS TEXT[])") {
                    *expr = nothing;
                }
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                let kind = name
                    .strip_prefix("to_")
                    .filter(|kind| ["regclass", "regtype", "regproc", "regnamespace"].contains(kind));
                let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
                if let (Some(kind), [FunctionArg::Unnamed(FunctionArgExpr::Expr(name))]) = (kind, list.args.as_slice())
                    && let Some(cast) = parsed(&format!("({name})::{kind}"))
                {
                    (*expr, self.casts) = (unnested(cast), true);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Case { conditions, else_result, .. } = expr
            && conditions.iter().all(|when| is_nothing(&when.result))
            && else_result.as_deref().is_none_or(is_nothing)
            && let Some(nothing) = parsed(NOTHING)
        {
            *expr = nothing;
        }
        ControlFlow::Continue(())
    }
}

/// NULL with a type.
const NOTHING: &str = "CAST(NULL AS TEXT)";

fn is_nothing(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null) || expr.to_string() == NOTHING
}

/// `ARRAY(SELECT ...)`
fn is_array_of_query(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => {
            function.name.to_string().eq_ignore_ascii_case("array")
                && matches!(function.args, FunctionArguments::Subquery(_))
        }
        _ => false,
    }
}

fn parsed(text: &str) -> Option<Expr> {
    Parser::new(&PostgreSqlDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}

/// A cast of the value itself: the casts of names are only known without parentheses.
fn unnested(expr: Expr) -> Expr {
    match expr {
        Expr::Cast { kind, expr, data_type, array, format } => {
            let inner = match *expr {
                Expr::Nested(inner) => inner,
                other => Box::new(other),
            };
            Expr::Cast { kind, expr: inner, data_type, array, format }
        }
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        rewrite(&mut statement);
        statement.to_string()
    }

    #[test]
    fn the_same_is_said_in_words_that_are_read() {
        for (sql, expected) in [
            (
                "SELECT a LIKE 'pg/_' || '%' ESCAPE '/'",
                "SELECT a LIKE replace(replace(('pg/_' || '%'), '\\', '\\\\'), '/', '\\')",
            ),
            ("SELECT a LIKE 'x' ESCAPE '\\'", "SELECT a LIKE 'x' ESCAPE '\\'"),
            ("SELECT c.o || ARRAY(SELECT 1)", "SELECT c.o"),
            ("SELECT CASE WHEN a THEN (SELECT adbin FROM pg_attrdef) ELSE NULL END", "SELECT CAST(NULL AS TEXT)"),
            ("SELECT CASE WHEN a THEN NULL ELSE 1 END", "SELECT CASE WHEN a THEN NULL ELSE 1 END"),
            ("SELECT ARRAY(SELECT 1)", "SELECT CAST(NULL AS TEXT[])"),
            ("SELECT to_regtype($1)", "SELECT $1::regtype"),
            ("SELECT to_char(a, 'YYYY')", "SELECT to_char(a, 'YYYY')"),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }
}
