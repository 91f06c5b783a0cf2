//! Errors as PostgreSQL's clients know them: SQLSTATE, a sentence, and where in the text when that is known.

use super::statement::chars_before;
use crate::query::RunError;
use crate::query::gate::GateError;
use crate::serve::{EnterError, QueryError, describe};
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::response::ErrorResponse;

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct WireError {
    pub(in crate::serve) code: &'static str,
    pub(in crate::serve) message: String,
    pub(in crate::serve) hint: Option<String>,
    /// Counted in characters from 1.
    pub(in crate::serve) position: Option<usize>,
    /// The connection ends with it.
    pub(super) fatal: bool,
}

impl WireError {
    pub(in crate::serve) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, position: None, fatal: false }
    }

    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::new(code, message) }
    }

    pub(super) fn syntax(message: String, position: Option<usize>) -> Self {
        Self { position, ..Self::new("42601", message) }
    }

    /// A command that would change something.
    pub(super) fn refused(what: String) -> Self {
        Self::new("25006", format!("cannot execute {what}: this server only answers queries"))
    }

    pub(super) fn unsupported(what: String) -> Self {
        Self::new("0A000", format!("not supported: {what}"))
    }

    pub(super) fn protocol(message: &str) -> Self {
        Self::fatal("08P01", message)
    }

    /// An error of a query; `statement` is its text, which begins after `offset_chars` of what the client sent.
    pub(in crate::serve) fn of_query(error: &QueryError, statement: &str, offset_chars: usize) -> Self {
        let mut wire = match error {
            QueryError::Gate(error) => of_gate(error, statement),
            QueryError::Run(RunError::Cancelled) => Self::new("57014", "canceling statement due to user request"),
            QueryError::Run(RunError::Deadline(_)) => {
                Self::new("57014", "canceling statement due to statement timeout")
            }
            QueryError::Run(RunError::Rows(_)) | QueryError::Bytes(_) => Self::new("54000", error.to_string()),
            QueryError::Run(RunError::Query(inner)) => of_datafusion(inner, statement),
            QueryError::Run(RunError::Threads(_)) | QueryError::Session(_) => Self::new("53000", error.to_string()),
            QueryError::Record(_) => Self {
                hint: Some(
                    "Every query is recorded in the audit log before it runs; the log does not answer.".to_owned(),
                ),
                ..Self::new("58000", "query cannot be recorded, so it is not run")
            },
            QueryError::Gone => Self::fatal("28000", "this user may not run SQL any more"),
        };
        wire.position = wire.position.map(|position| position + offset_chars);
        wire
    }

    /// As it goes on the wire.
    pub(super) fn response(&self) -> ErrorResponse {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut info = ErrorInfo::new(severity.to_owned(), self.code.to_owned(), self.message.clone());
        info.severity_nonlocalized = Some(severity.to_owned());
        info.hint.clone_from(&self.hint);
        info.position = self.position.map(|position| position.to_string());
        info.into()
    }
}

impl From<EnterError> for WireError {
    fn from(error: EnterError) -> Self {
        Self::fatal("53300", error.to_string())
    }
}

/// Parameters that cannot be read and values that have no form in PostgreSQL.
impl From<PgWireError> for WireError {
    fn from(error: PgWireError) -> Self {
        match error {
            PgWireError::UserError(info) => Self::new("22023", info.message.clone()),
            PgWireError::FailedToParseParameter(error) => {
                Self::new("22P02", format!("parameter cannot be read: {error}"))
            }
            other => Self::new("22023", other.to_string()),
        }
    }
}

fn of_gate(error: &GateError, statement: &str) -> WireError {
    match error {
        GateError::TooLong(_) | GateError::TooDeep(_) | GateError::TooWide(_) | GateError::TooMany(_) => {
            WireError::new("54001", error.to_string())
        }
        GateError::Tokens(error) => {
            WireError::syntax(error.message.clone(), Some(chars_before(statement, error.location) + 1))
        }
        GateError::Table(name) => WireError {
            position: place_of(statement, name.rsplit('.').next().unwrap_or(name)),
            ..WireError::new("42P01", format!("relation \"{name}\" does not exist"))
        },
        GateError::Refused(_) => WireError::refused(first_word(statement)),
        GateError::Plan(error) => of_datafusion(error, statement),
    }
}

fn of_datafusion(error: &DataFusionError, statement: &str) -> WireError {
    match error.find_root() {
        DataFusionError::SQL(error, _) => of_parser(error, statement),
        DataFusionError::SchemaError(error, _) => match error.as_ref() {
            SchemaError::FieldNotFound { field, .. } => WireError {
                position: place_of(statement, field.name()),
                ..WireError::new("42703", format!("column \"{}\" does not exist", field.name()))
            },
            SchemaError::AmbiguousReference { field } => WireError {
                position: place_of(statement, field.name()),
                ..WireError::new("42702", format!("column reference \"{}\" is ambiguous", field.name()))
            },
            error => WireError::new("42P10", error.to_string()),
        },
        DataFusionError::ResourcesExhausted(text) => WireError::new("53200", format!("out of memory: {}", line(text))),
        DataFusionError::NotImplemented(text) => {
            of_unknown(text, statement).unwrap_or_else(|| WireError::new("0A000", line(text)))
        }
        DataFusionError::Plan(text) => {
            of_unknown(text, statement).unwrap_or_else(|| WireError::new("42000", line(text)))
        }
        DataFusionError::Execution(text) if text.contains("unrecognized configuration parameter") => {
            WireError::new("42704", line(text))
        }
        DataFusionError::Execution(text) => WireError::new("22000", line(text)),
        DataFusionError::ArrowError(error, _) => WireError::new("22000", line(&error.to_string())),
        root => WireError::new("XX000", line(&describe(root))),
    }
}

/// Statements that DataFusion cannot plan at all, and functions that there are not.
fn of_unknown(text: &str, statement: &str) -> Option<WireError> {
    if text.contains("Invalid function") {
        let name = text.split('\'').nth(1).unwrap_or_default();
        let position = place_of(statement, name);
        return Some(WireError { position, ..WireError::new("42883", format!("function {name} does not exist")) });
    }
    let query =
        matches!(first_word(statement).as_str(), "SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "SHOW" | "TABLE" | "(");
    (!query).then(|| WireError::refused(first_word(statement)))
}

fn of_parser(error: &ParserError, statement: &str) -> WireError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => return WireError::new("54001", "statement is nested too deep"),
    };
    // The words before a query are what clients try; the parser's own complaint would say less.
    if !starts_a_query(statement) && Parser::parse_sql(&PostgreSqlDialect {}, statement).is_err() {
        let word = first_word(statement);
        if KNOWN_COMMANDS.contains(&word.as_str()) {
            return WireError::refused(word);
        }
    }
    let (message, at) = text.split_once(" at Line: ").unwrap_or((&text, ""));
    let at = at
        .split_once(", Column: ")
        .and_then(|(line, column)| Some(Location { line: line.parse().ok()?, column: column.trim().parse().ok()? }));
    // The statement was rewritten before it was parsed; asked again as it stands, the parser knows where.
    let at = at.or_else(|| place_of_error(statement));
    WireError::syntax(format!("syntax error: {message}"), at.map(|at| chars_before(statement, at) + 1))
}

fn place_of_error(statement: &str) -> Option<Location> {
    let error = Parser::parse_sql(&PostgreSqlDialect {}, statement).err()?.to_string();
    let (line, column) = error.rsplit_once("Line: ")?.1.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.trim().parse().ok()? })
}

fn starts_a_query(statement: &str) -> bool {
    matches!(first_word(statement).as_str(), "SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "TABLE" | "(")
}

/// Commands of PostgreSQL that some parser may not know.
const KNOWN_COMMANDS: [&str; 18] = [
    "ALTER",
    "ANALYZE",
    "CALL",
    "CHECKPOINT",
    "CLUSTER",
    "COPY",
    "CREATE",
    "DO",
    "DROP",
    "GRANT",
    "IMPORT",
    "LISTEN",
    "LOCK",
    "NOTIFY",
    "REINDEX",
    "REVOKE",
    "SECURITY",
    "VACUUM",
];

/// Upper-case first word of a statement, which may begin with a comment.
pub(super) fn first_word(statement: &str) -> String {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, statement).tokenize().unwrap_or_default();
    let first = tokens.into_iter().find(|token| !matches!(token, Token::Whitespace(_)));
    first.map(|token| token.to_string().to_uppercase().chars().take(63).collect()).unwrap_or_default()
}

/// Where a name stands in the text first, counted from 1.
fn place_of(statement: &str, name: &str) -> Option<usize> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, statement).tokenize_with_location().ok()?;
    let found = tokens.iter().find(|token| match &token.token {
        Token::Word(word) => word.value.eq_ignore_ascii_case(name),
        _ => false,
    })?;
    Some(chars_before(statement, found.span.start) + 1)
}

/// The first line, without DataFusion's own trace.
fn line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(500).collect()
}
