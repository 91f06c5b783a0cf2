//! What clients write and DataFusion does not read, written so that it does; after datafusion-pg-catalog's own rewriting.
//!
//! `LIKE ... ESCAPE '/'` becomes the same with a backslash, `to_regclass` and its kin the cast that they are. An array made of
//! a subquery of the catalog, which is about options and memberships, is NULL: there are none of either here. So is a value
//! looked up in a catalog table without rows, or made into JSON, which SQLAlchemy has done to identities and collations; and a
//! CASE with no other outcome. A query of our own tables that says the same is left as it is, for DataFusion to answer or to
//! refuse. Words that PostgreSQL has for who asks are the function that they mean.

use super::empty::is_empty;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, SelectItem, SetExpr,
    Statement, TableFactor, TableWithJoins, Value, VisitMut, VisitorMut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::collections::BTreeSet;
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

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.projection.iter_mut().for_each(label);
            tell_apart(&mut select.projection);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                let escape = match escape_char.as_ref().map(|value| &value.value) {
                    Some(Value::SingleQuotedString(text)) if text.chars().count() == 1 && text != "\\" => text.clone(),
                    _ => return ControlFlow::Continue(()),
                };
                // Said twice, the character is itself; this one stands for it meanwhile, as no name here has it.
                let (escape, itself) = (escape.replace('\'', "''"), '\u{1}');
                let text = format!(
                    "replace(replace(replace(replace(({pattern}), '\\', '\\\\'), '{escape}{escape}', '{itself}'), '{escape}', '\\'), '{itself}', '{escape}')"
                );
                if let Some(replaced) = parsed(&text) {
                    (**pattern, *escape_char) = (replaced, None);
                }
            }
            Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } if is_array_of_query(right.as_ref()) => {
                let left = std::mem::replace(left.as_mut(), Expr::value(Value::Null));
                *expr = left;
            }
            Expr::Subquery(query)
                if is_empty(query) || is_of_catalog(query) && query.to_string().contains("json_build_object(") =>
            {
                if let Some(nothing) = parsed(NOTHING) {
                    *expr = nothing;
                }
            }
            Expr::Subquery(query) => take_one(query),
            // Functions that types are read with stand there by their names; this one marks arrays.
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
                if last_name(left).is_some_and(|name| name == "typinput") && right.to_string().contains("array_in") =>
            {
                let of = left.to_string();
                let of = of.strip_suffix("typinput").unwrap_or_default();
                if let Some(is_array) = parsed(&format!("{of}typcategory = 'A'")) {
                    *expr = is_array;
                }
            }
            Expr::Identifier(name) if is_asker(name) => ask_for_user(expr),
            // A word that sqlparser knows and DataFusion does not.
            Expr::Function(function)
                if matches!(function.args, FunctionArguments::None)
                    && function.name.to_string().eq_ignore_ascii_case("user") =>
            {
                ask_for_user(expr);
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

/// `user` and `current_role`, which sqlparser takes for columns. There is no table with such a column.
fn is_asker(name: &Ident) -> bool {
    name.quote_style.is_none() && ["user", "current_role"].contains(&name.value.to_lowercase().as_str())
}

fn ask_for_user(expr: &mut Expr) {
    if let Some(asker) = parsed("session_user") {
        *expr = asker;
    }
}

/// Gives a column that is a function without arguments the name of the function, as PostgreSQL does.
fn label(item: &mut SelectItem) {
    let SelectItem::UnnamedExpr(expr) = item else { return };
    let name = match expr {
        Expr::Identifier(name) if is_asker(name) => name.value.to_lowercase(),
        Expr::Function(function) if function.over.is_none() => {
            let nothing = match &function.args {
                FunctionArguments::None => true,
                FunctionArguments::List(list) => list.args.is_empty(),
                FunctionArguments::Subquery(_) => false,
            };
            let last = function.name.0.last().and_then(|part| part.as_ident());
            match last.filter(|_| nothing) {
                Some(name) => name.value.to_lowercase(),
                None => return,
            }
        }
        _ => return,
    };
    let expr = std::mem::replace(expr, Expr::value(Value::Null));
    *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
}

/// Gives columns that say the same as one before them names of their own, which DataFusion wants and PostgreSQL does not.
fn tell_apart(items: &mut [SelectItem]) {
    let mut seen = BTreeSet::new();
    for (at, item) in items.iter_mut().enumerate() {
        let expr = match item {
            SelectItem::UnnamedExpr(expr) => expr,
            // Two words for who asks are one function, and have one name here.
            SelectItem::ExprWithAlias { alias, .. } => {
                if !seen.insert(alias.value.clone()) {
                    alias.value = format!("{}_{}", alias.value, at + 1);
                }
                continue;
            }
            _ => continue,
        };
        if !seen.insert(expr.to_string()) {
            let name = last_name(expr).unwrap_or_else(|| "?column?".to_owned());
            let expr = std::mem::replace(expr, Expr::value(Value::Null));
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("{name}_{}", at + 1)) };
        }
    }
}

/// A value looked up by an oid in one catalog table is one value at most; DataFusion wants to read that.
fn take_one(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let by_oid = select.selection.as_ref().is_some_and(|by| by.to_string().to_lowercase().contains("oid = "));
    let [TableWithJoins { relation: TableFactor::Table { name, .. }, joins }] = select.from.as_slice() else { return };
    let catalog = name.0.last().and_then(|part| part.as_ident()).is_some_and(|name| name.value.starts_with("pg_"));
    if !by_oid || !catalog || !joins.is_empty() {
        return;
    }
    if let [SelectItem::UnnamedExpr(expr)] = select.projection.as_mut_slice()
        && !matches!(expr, Expr::Function(_))
        && let Some(one) = parsed(&format!("min({expr})"))
    {
        *expr = one;
    }
}

fn last_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(name.value.to_lowercase()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|part| part.value.to_lowercase()),
        _ => None,
    }
}

/// NULL with a type.
const NOTHING: &str = "CAST(NULL AS TEXT)";

fn is_nothing(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if value.value == Value::Null) || expr.to_string() == NOTHING
}

/// `ARRAY(SELECT ...)` of the catalog.
fn is_array_of_query(expr: &Expr) -> bool {
    let Expr::Function(function) = expr else { return false };
    let FunctionArguments::Subquery(query) = &function.args else { return false };
    function.name.to_string().eq_ignore_ascii_case("array") && is_of_catalog(query)
}

/// Whether it reads PostgreSQL's catalog and nothing else.
fn is_of_catalog(query: &Query) -> bool {
    // Of what is unnested the catalog's options: no column of ours is called so.
    let text = query.to_string().to_lowercase();
    let options = text.contains("unnest(") && text.contains("options");
    let mut relations = 0;
    let read = visit_relations(query, |name| {
        relations += 1;
        let name = name.to_string().to_lowercase();
        let catalog = ["pg_", "information_schema."].iter().any(|of| name.starts_with(of));
        if catalog || options && name == "unnest" { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    read.is_continue() && (relations > 0 || options)
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
                "SELECT a LIKE replace(replace(replace(replace(('pg/_' || '%'), '\\', '\\\\'), '//', '\u{1}'), '/', '\\'), '\u{1}', '/')",
            ),
            ("SELECT a LIKE 'x' ESCAPE '\\'", "SELECT a LIKE 'x' ESCAPE '\\'"),
            ("SELECT c.o || ARRAY(SELECT x FROM unnest(c.reloptions) x)", "SELECT c.o"),
            ("SELECT ARRAY(SELECT x FROM UNNEST(resources) x)", "SELECT ARRAY(SELECT x FROM UNNEST(resources) x)"),
            ("SELECT c.o || ARRAY(SELECT seq FROM events)", "SELECT c.o || ARRAY(SELECT seq FROM events)"),
            ("SELECT ARRAY(SELECT seq FROM events, pg_class)", "SELECT ARRAY(SELECT seq FROM events, pg_class)"),
            (
                "SELECT (SELECT json_build_object('a', event_id) FROM events)",
                "SELECT (SELECT json_build_object('a', event_id) FROM events)",
            ),
            ("SELECT (SELECT json_build_object('a', 1) FROM pg_class)", "SELECT CAST(NULL AS TEXT)"),
            ("SELECT CASE WHEN a THEN (SELECT adbin FROM pg_attrdef) ELSE NULL END", "SELECT CAST(NULL AS TEXT)"),
            ("SELECT CASE WHEN a THEN NULL ELSE 1 END", "SELECT CASE WHEN a THEN NULL ELSE 1 END"),
            ("SELECT ARRAY(SELECT rolname FROM pg_roles)", "SELECT CAST(NULL AS TEXT[])"),
            ("SELECT ARRAY(SELECT 1)", "SELECT ARRAY(SELECT 1)"),
            ("SELECT to_regtype($1)", "SELECT $1::regtype"),
            (
                "SELECT user, 1 FROM t WHERE current_role = a",
                "SELECT session_user AS \"user\", 1 FROM t WHERE session_user = a",
            ),
            ("SELECT \"user\", version() FROM t", "SELECT \"user\", version() AS \"version\" FROM t"),
            (
                "SELECT 1 WHERE t.typrelid = 0 OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid)",
                "SELECT 1 WHERE t.typrelid = 0 OR (SELECT min(c.relkind = 'c') FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid)",
            ),
            ("SELECT (SELECT seq FROM events WHERE oid = 1)", "SELECT (SELECT seq FROM events WHERE oid = 1)"),
            ("SELECT NULL, a, NULL, a", "SELECT NULL, a, NULL AS \"?column?_3\", a AS \"a_4\""),
            ("SELECT row_number() OVER ()", "SELECT row_number() OVER ()"),
            ("SELECT 1 WHERE t.typinput='pg_catalog.array_in'::regproc", "SELECT 1 WHERE t.typcategory = 'A'"),
            ("SELECT to_char(a, 'YYYY')", "SELECT to_char(a, 'YYYY')"),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }
}
