//! Catalog queries about what there is not: indexes, keys, constraints, triggers.
//!
//! Drivers ask for them in SQL that DataFusion cannot plan (`information_schema._pg_expandarray` and the like). Where such a
//! query joins a catalog table that has no rows here in a way that leaves none in the answer, the answer is known without a
//! plan: its columns, and no row.

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, JoinOperator, Query, Select, SelectItem, SetExpr, Statement, TableFactor, TableWithJoins,
};

/// Tables of `pg_catalog` without rows here.
const EMPTY: [&str; 12] = [
    "pg_attrdef",
    "pg_constraint",
    "pg_enum",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_partitioned_table",
    "pg_policy",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_trigger",
];

/// A query with the same columns and no rows, if the statement's answer has none for sure.
pub(super) fn certainly_empty(statement: &Statement) -> Option<String> {
    let Statement::Query(query) = statement else { return None };
    if query.with.is_some() || !is_empty(query) {
        return None;
    }
    let names: Option<Vec<String>> = first_select(&query.body)?.projection.iter().map(column).collect();
    let columns = names?.into_iter().map(|name| format!("CAST(NULL AS TEXT) AS \"{}\"", name.replace('"', "\"\"")));
    Some(format!("SELECT {} WHERE false", columns.collect::<Vec<_>>().join(", ")))
}

/// Whether a query has no rows for sure.
pub(super) fn is_empty(query: &Query) -> bool {
    query.with.is_none() && body_is_empty(&query.body)
}

fn body_is_empty(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select_is_empty(select),
        SetExpr::Query(query) => is_empty(query),
        SetExpr::SetOperation { left, right, .. } => body_is_empty(left) && body_is_empty(right),
        _ => false,
    }
}

fn select_is_empty(select: &Select) -> bool {
    // An aggregate over nothing is a row.
    let grouped = matches!(&select.group_by, GroupByExpr::Expressions(by, _) if !by.is_empty());
    let aggregates = select.projection.iter().any(|item| {
        let text = item.to_string().to_lowercase();
        ["count(", "max(", "min(", "sum(", "avg(", "agg("].iter().any(|name| text.contains(name))
    });
    (grouped || !aggregates) && select.from.iter().any(from_is_empty)
}

fn from_is_empty(from: &TableWithJoins) -> bool {
    let mut empty = factor_is_empty(&from.relation);
    for join in &from.joins {
        let right = factor_is_empty(&join.relation);
        empty = match join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => empty || right,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => empty,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => right,
            _ => empty && right,
        };
    }
    empty
}

fn factor_is_empty(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            let parts: Vec<String> =
                name.0.iter().filter_map(|part| Some(part.as_ident()?.value.to_lowercase())).collect();
            let own = parts.len() < 2 || parts.first().is_some_and(|schema| schema == "pg_catalog");
            own && parts.last().is_some_and(|table| EMPTY.contains(&table.as_str()))
        }
        TableFactor::Derived { subquery, .. } => is_empty(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => from_is_empty(table_with_joins),
        _ => false,
    }
}

fn first_select(body: &SetExpr) -> Option<&Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_select(&query.body),
        SetExpr::SetOperation { left, .. } => first_select(left),
        _ => None,
    }
}

/// The name that PostgreSQL gives a column; none for `*`.
fn column(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(expression) => Some(name_of(expression)),
        _ => None,
    }
}

fn name_of(expression: &Expr) -> String {
    match expression {
        Expr::Identifier(name) => name.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map(|part| part.value.clone()).unwrap_or_default(),
        Expr::Function(function) => {
            let last = function.name.0.last().and_then(|part| part.as_ident());
            last.map(|name| name.value.to_lowercase()).unwrap_or_default()
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => name_of(expr),
        _ => "?column?".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    fn instead(sql: &str) -> Option<String> {
        certainly_empty(&Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap()[0])
    }

    #[test]
    fn an_inner_join_with_nothing_is_nothing() {
        let keys = "SELECT r.a AS \"A\", (r.keys).x FROM (SELECT ct.relname AS a, information_schema._pg_expandarray(i.indkey) \
                    AS keys FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_index i ON ct.oid = i.indrelid) r ORDER BY 1";
        let expected = "SELECT CAST(NULL AS TEXT) AS \"A\", CAST(NULL AS TEXT) AS \"?column?\" WHERE false";
        assert_eq!(instead(keys).unwrap(), expected);
        assert!(instead("SELECT 1 FROM pg_class c, pg_trigger t").is_some());
    }

    #[test]
    fn what_may_have_rows_is_not_made_empty() {
        for sql in [
            "SELECT c.oid FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid",
            "SELECT count(*) FROM pg_index",
            "SELECT a FROM events JOIN other.pg_index i ON true",
            "SELECT indrelid FROM pg_index UNION SELECT oid FROM pg_class",
            "SELECT oid FROM pg_class WHERE EXISTS (SELECT 1 FROM pg_index)",
            "SELECT * FROM pg_index",
        ] {
            assert_eq!(instead(sql), None, "{sql}");
        }
    }
}
