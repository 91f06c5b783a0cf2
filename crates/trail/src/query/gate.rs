//! The one gate of every SQL door: shell, HTTP, PostgreSQL wire and rules plan their statements here.
//!
//! Judges the logical plan, not the text: an allow-list over the syntax tree that lets EXPLAIN through was shown to
//! let `EXPLAIN ANALYZE INSERT` duplicate audit rows. What passes reads our tables and nothing else. Running a plan
//! under limits is `query::run`.

use datafusion::error::DataFusionError;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArguments, Query, Select, TableFactor, Visit, Visitor, visit_expressions, visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer, TokenizerError};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Longest statement in bytes; dashboards' queries are a few thousand.
pub const SQL_BYTES_MAX: usize = 64 * 1024;

/// Most operators and set operations in a statement. Each adds a level to the plan, and planner and optimiser recurse
/// over levels: thousands of them would overflow the stack and end the process.
pub const SQL_OPERATORS_MAX: usize = 400;

/// Most members that structs of structs may come to. Planner and optimiser walk over types again and again, without an end
/// that anybody could hasten, and a struct of twice the one before it, forty times over, has 2^40.
pub const STRUCT_MEMBERS_MAX: u64 = 100_000;

/// Most relations of a plan. Each mention of a WITH query is one more copy of it, so that one that reads the one before it
/// twice, forty times over, has 2^40.
pub const RELATIONS_MAX: u64 = 1_000;

/// Why a statement was not planned.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Longer than [`SQL_BYTES_MAX`].
    #[error("statement has {0} bytes, more than {SQL_BYTES_MAX}")]
    TooLong(usize),
    /// More operators than [`SQL_OPERATORS_MAX`].
    #[error("statement has {0} operators, more than {SQL_OPERATORS_MAX}")]
    TooDeep(usize),
    /// Its structs may come to more members than [`STRUCT_MEMBERS_MAX`].
    #[error("structs of the statement may have {0} members, more than {STRUCT_MEMBERS_MAX}")]
    TooWide(u64),
    /// Its WITH queries come to more relations than [`RELATIONS_MAX`].
    #[error("WITH queries of the statement come to {0} relations, more than {RELATIONS_MAX}")]
    TooMany(u64),
    /// Not even tokens.
    #[error("statement cannot be read")]
    Tokens(#[from] TokenizerError),
    /// Not SQL, several statements, or names that do not exist.
    #[error("statement cannot be planned")]
    Plan(#[source] Box<DataFusionError>),
    /// A table that is not one of ours: a path, a URL, another catalog.
    #[error("table {0} does not exist")]
    Table(String),
    /// A statement that would change something.
    #[error("only queries are allowed")]
    Refused(#[source] Box<DataFusionError>),
}

/// Parses, plans and judges one statement against the tables of `session`. Nothing is executed.
pub async fn plan(session: &SessionContext, sql: &str) -> Result<LogicalPlan, GateError> {
    check_size(sql)?;
    let state = session.state();
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect).map_err(|error| GateError::Plan(Box::new(error)))?;
    plan_statement(session, statement).await
}

/// Plans and judges a statement whose text passed `check_size`.
pub(crate) async fn plan_statement(session: &SessionContext, statement: Statement) -> Result<LogicalPlan, GateError> {
    let planning = |error: DataFusionError| GateError::Plan(Box::new(error));
    let members = struct_members(&statement);
    if members > STRUCT_MEMBERS_MAX {
        return Err(GateError::TooWide(members));
    }
    let relations = relations(&statement);
    if relations > RELATIONS_MAX {
        return Err(GateError::TooMany(relations));
    }
    let state = session.state();
    let references = state.resolve_table_references(&statement).map_err(planning)?;
    let plan = state.statement_to_plan(statement).await;
    // Looked at before the plan's own error: a missing table is the mistake people make, and a path as a table the
    // probe that attackers make; both get the same plain answer.
    for reference in references {
        let name = reference.to_string();
        let information_schema = reference.schema() == Some("information_schema");
        // `key_at`, and `generate_series` and the like, which make rows out of nothing.
        let function = reference.schema().is_none() && state.table_functions().contains_key(reference.table());
        if !information_schema && !function && !session.table_exist(reference).map_err(planning)? {
            return Err(GateError::Table(name));
        }
    }
    let plan = plan.map_err(planning)?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(&plan).map_err(|error| GateError::Refused(Box::new(error)))?;
    super::cloudtrail::labelled(plan).map_err(planning)
}

/// Refuses what is too long or too deep to be planned.
pub(crate) fn check_size(sql: &str) -> Result<(), GateError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(GateError::TooLong(sql.len()));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize()?;
    let operators = tokens.iter().filter(|token| is_operator(token)).count();
    if operators > SQL_OPERATORS_MAX {
        return Err(GateError::TooDeep(operators));
    }
    Ok(())
}

/// Anything that can nest an expression or a relation, except commas and parentheses (those the parser itself limits).
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::IS
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::SELECT
                | Keyword::CASE
                | Keyword::WHEN
        ),
        Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::EOF => false,
        _ => true,
    }
}

/// How many members a struct may have, if each that the statement makes is made of those before it.
fn struct_members(statement: &Statement) -> u64 {
    let statement = match statement {
        Statement::Statement(statement) => statement,
        Statement::Explain(explain) => return struct_members(&explain.statement),
        _ => return 1,
    };
    let mut members = Members(1);
    _ = statement.visit(&mut members);
    members.0
}

/// How many relations the plan may have.
fn relations(statement: &Statement) -> u64 {
    let statement = match statement {
        Statement::Statement(statement) => statement,
        Statement::Explain(explain) => return relations(&explain.statement),
        _ => return 1,
    };
    let mut with = With::default();
    _ = statement.visit(&mut with);
    with.relations(statement.as_ref()).max(with.most)
}

/// Relations of each WITH query by its name, whichever query it belongs to.
#[derive(Default)]
struct With {
    named: HashMap<String, u64>,
    most: u64,
}

impl With {
    fn relations(&self, query: &impl Visit) -> u64 {
        let mut all = 0_u64;
        _ = visit_relations(query, |name| {
            let name = name.0.last().map(|part| part.to_string().trim_matches('"').to_lowercase());
            all = all.saturating_add(name.and_then(|name| self.named.get(&name).copied()).unwrap_or(1));
            ControlFlow::<()>::Continue(())
        });
        all
    }
}

impl Visitor for With {
    type Break = ();

    /// After those within it.
    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let relations = self.relations(&cte.query).max(1);
            let named = self.named.entry(cte.alias.name.value.to_lowercase()).or_default();
            *named = relations.max(*named);
            self.most = self.most.max(*named);
        }
        ControlFlow::Continue(())
    }
}

struct Members(u64);

impl Members {
    fn add(&mut self, made: &impl Visit) {
        _ = visit_expressions(made, |expr| {
            self.0 = self.0.saturating_mul(members_of(expr).max(1) as u64);
            ControlFlow::<()>::Continue(())
        });
    }
}

impl Visitor for Members {
    type Break = ();

    /// What a relation hands on; rows that are only compared, `(a, b) IN ((1, 2), (3, 4))`, are in no column.
    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.add(&select.projection);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::UNNEST { array_exprs, .. } = factor {
            self.add(array_exprs);
        }
        ControlFlow::Continue(())
    }
}

fn members_of(expr: &Expr) -> usize {
    match expr {
        Expr::Tuple(members) | Expr::Struct { values: members, .. } => members.len(),
        Expr::Dictionary(members) => members.len(),
        Expr::Map(_) => 2,
        Expr::Function(function) => {
            let FunctionArguments::List(list) = &function.args else { return 1 };
            let name = function.name.to_string().to_lowercase();
            match name.rsplit('.').next().unwrap_or_default().trim_matches('"') {
                "struct" | "row" | "map" | "arrays_zip" | "list_zip" => list.args.len(),
                "named_struct" => list.args.len() / 2,
                _ => 1,
            }
        }
        _ => 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::schema::events_schema;
    use datafusion::datasource::MemTable;
    use std::sync::Arc;

    fn session() -> SessionContext {
        let session = SessionContext::new();
        let table = MemTable::try_new(events_schema(), vec![vec![]]).unwrap();
        session.register_table("events", Arc::new(table)).unwrap();
        session
    }

    #[tokio::test]
    async fn structs_of_structs_have_an_end() {
        for made in [
            "struct(s, s)",
            "(s, s)",
            "{'a': s, 'b': s}",
            "named_struct('a', s, 'b', s)",
            "ROW(s, s)",
            "map([s], [s])",
            "arrays_zip([s], [s])",
            "\"struct\"(s, s)",
            "array_agg(struct(s, s))",
        ] {
            let levels = (1..40).map(|level| format!("t{level} AS (SELECT {made} AS s FROM t{})", level - 1));
            let levels = levels.collect::<Vec<_>>().join(", ");
            let sql = format!("WITH t0 AS (SELECT event_id AS s FROM events), {levels} SELECT count(*) FROM t39");
            for sql in [format!("EXPLAIN {sql}"), sql] {
                let refused = plan(&session(), &sql).await;
                assert!(matches!(refused, Err(GateError::TooWide(_))), "{sql}: {refused:?}");
            }
        }
        let lateral = (0..40).map(|at| format!("unnest([({at}, {at})])")).collect::<Vec<_>>().join(", ");
        let refused = plan(&session(), &format!("SELECT 1 FROM {lateral}")).await;
        assert!(matches!(refused, Err(GateError::TooWide(_))), "{refused:?}");
        let pairs = (0..200).map(|at| format!("('{at}', '{at}')")).collect::<Vec<_>>().join(", ");
        plan(&session(), &format!("SELECT * FROM (VALUES {pairs}) AS t(a, b)")).await.unwrap();
        plan(&session(), "SELECT (event_id, seq), named_struct('a', seq, 'b', event_name) FROM events").await.unwrap();
    }

    #[tokio::test]
    async fn queries_that_double_have_an_end() {
        for twice in ["SELECT n FROM t{} UNION ALL SELECT n FROM \"t{}\"", "SELECT a.n FROM t{} a, T{} b"] {
            let levels =
                (1..40).map(|level| format!("t{level} AS ({})", twice.replace("{}", &(level - 1).to_string())));
            let levels = levels.collect::<Vec<_>>().join(", ");
            let first = "t0 AS (SELECT seq AS n FROM events)";
            for sql in [
                format!("WITH {first}, {levels} SELECT count(*) FROM t39"),
                format!("EXPLAIN WITH {first}, {levels} SELECT 1"),
                format!("SELECT * FROM (WITH {first}, {levels} SELECT count(*) FROM t39) AS s"),
                format!("WITH a AS (WITH {first}, {levels} SELECT n FROM t39) SELECT count(*) FROM a"),
            ] {
                let refused = plan(&session(), &sql).await;
                assert!(matches!(refused, Err(GateError::TooMany(_))), "{sql}: {refused:?}");
            }
        }
        let chain = (1..30).map(|level| format!("t{level} AS (SELECT n + 1 AS n FROM t{})", level - 1));
        let chain = chain.collect::<Vec<_>>().join(", ");
        plan(&session(), &format!("WITH t0 AS (SELECT seq AS n FROM events), {chain} SELECT b.n FROM t29, t29 b"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn queries_pass() {
        let session = session();
        for sql in [
            "SELECT count(*) FROM events",
            "WITH denied AS (SELECT * FROM events WHERE error_code = 'AccessDenied') SELECT event_name FROM denied",
            "EXPLAIN SELECT * FROM events",
            "SELECT 1",
            "SELECT * FROM events WHERE seq IN (SELECT max(seq) FROM events)",
        ] {
            plan(&session, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let session = session();
        for sql in [
            "INSERT INTO events SELECT * FROM events",
            "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events",
            "EXPLAIN INSERT INTO events SELECT * FROM events",
            "UPDATE events SET event_name = 'x'",
            "DELETE FROM events",
            "TRUNCATE TABLE events",
            "COPY events TO '/tmp/out.parquet'",
            "COPY (SELECT * FROM events) TO '/tmp/out.csv'",
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc'",
            "CREATE TABLE t AS SELECT * FROM events",
            "CREATE VIEW v AS SELECT * FROM events",
            "CREATE FUNCTION f() RETURNS INT RETURN 1",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "DROP TABLE events",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE p",
            "BEGIN",
            "SELECT 1; SELECT 2",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM \"data/x.parquet\"",
            "SELECT * FROM 'file:///etc/passwd'",
            "SELECT * FROM read_parquet('x.parquet')",
            "SELECT * FROM other.public.events",
            "SELECT * FROM parquet_metadata('x.parquet')",
            "not sql",
            "",
        ] {
            assert!(plan(&session, sql).await.is_err(), "{sql}");
        }
    }

    #[tokio::test]
    async fn oversized_statements_are_refused_unparsed() {
        let session = session();
        let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
        assert!(matches!(plan(&session, &long).await, Err(GateError::TooLong(_))));
        let deep = format!("SELECT 1{}", " + 1".repeat(SQL_OPERATORS_MAX + 1));
        assert!(matches!(plan(&session, &deep).await, Err(GateError::TooDeep(_))));
        let nested = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
        assert!(plan(&session, &nested).await.is_err());
    }
}
