//! One connection after its login: simple and extended protocol over a session.
//!
//! Each query takes a snapshot of its own, when it is executed; a transaction holds nothing and COMMIT and ROLLBACK only end
//! it, since nothing can be written. Cursors and portals are the same thing, as in PostgreSQL, and end with the transaction.

use super::cancel::Registered;
use super::catalog::Catalog;
use super::cursor::{Cursor, description, fields, rows};
use super::empty::certainly_empty;
use super::error::WireError;
use super::functions::Asker;
use super::rewrite::rewrite;
use super::settings::Settings;
use super::statement::{Command, Statement, statements};
use super::stream::{Ended, Stream};
use crate::query::gate;
use crate::serve::{QueryError, Session, end_with};
use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_pg::datatypes::df::deserialize_parameters;
use arrow_pg::datatypes::into_pg_type;
use datafusion::common::ParamValues;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use pgwire::api::Type;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::results::Tag;
use pgwire::api::stmt::StoredStatement;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
    TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Prepared statements of one connection; pgx keeps 512.
const STATEMENTS_MAX: usize = 1_024;
/// Portals and cursors of one connection, each of which may hold a started query.
const PORTALS_MAX: usize = 16;
/// Parameters of one statement.
const PARAMETERS_MAX: usize = 1_000;

static PARSER: LazyLock<PostgresCompatibilityParser> = LazyLock::new(PostgresCompatibilityParser::new);

pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) settings: Settings,
    pub(super) cancel: Registered,
    pub(super) catalog: Catalog,
    prepared: BTreeMap<String, Arc<Prepared>>,
    portals: BTreeMap<String, Bound>,
    status: TransactionStatus,
    /// After an error in the extended protocol everything up to the next Sync is passed over.
    skipping: bool,
}

/// A statement after Parse.
struct Prepared {
    /// None: a text without a statement.
    statement: Option<Statement>,
    /// By the client, where it said so.
    wanted: Vec<Option<Type>>,
    parameters: Vec<Type>,
    /// Of a query; other statements say at Describe.
    schema: Option<SchemaRef>,
}

/// A statement after Bind, or a cursor after DECLARE.
struct Bound {
    prepared: Arc<Prepared>,
    bind: Option<Bind>,
    formats: Format,
    cursor: Option<Cursor>,
    /// It has been executed to its end.
    done: bool,
    hold: bool,
}

/// What an execution sends behind its rows.
enum Done {
    Tag(Tag),
    Suspended,
    Nothing,
}

type Step<T> = Result<T, Failure>;

/// An error for the client, or the connection's end.
enum Failure {
    Wire(WireError),
    Ended(Ended),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<Ended> for Failure {
    fn from(error: Ended) -> Self {
        Self::Ended(error)
    }
}

impl From<pgwire::error::PgWireError> for Failure {
    fn from(error: pgwire::error::PgWireError) -> Self {
        Self::Wire(error.into())
    }
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        session: Session,
        settings: Settings,
        cancel: Registered,
        catalog: Catalog,
    ) -> Self {
        let (prepared, portals) = (BTreeMap::new(), BTreeMap::new());
        let status = TransactionStatus::Idle;
        Self { stream, session, settings, cancel, catalog, prepared, portals, status, skipping: false }
    }

    /// Until the client ends it, or an error that nothing can follow.
    pub(super) async fn serve(mut self) -> Result<(), Ended> {
        loop {
            let message = match self.stream.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(Ended::Protocol(error)) => {
                    self.stream.put(PgWireBackendMessage::ErrorResponse(error.response())).await?;
                    self.stream.close().await;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let extended = message.is_extended_query();
            let outcome = match message {
                PgWireFrontendMessage::Terminate(_) => return Ok(()),
                PgWireFrontendMessage::Sync(_) => self.sync().await,
                _ if self.skipping && extended => Ok(()),
                message => self.message(message).await,
            };
            self.cancel.idle();
            match outcome {
                Ok(()) => {}
                Err(Failure::Ended(error)) => return Err(error),
                Err(Failure::Wire(error)) => {
                    self.fail(&error).await?;
                    if error.fatal {
                        self.stream.close().await;
                        return Ok(());
                    }
                    if extended {
                        self.skipping = true;
                    } else {
                        self.ready().await?;
                    }
                }
            }
        }
    }

    async fn fail(&mut self, error: &WireError) -> Result<(), Ended> {
        if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
        }
        self.stream.put(PgWireBackendMessage::ErrorResponse(error.response())).await
    }

    async fn ready(&mut self) -> Result<(), Ended> {
        self.stream.put(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(self.status))).await
    }

    async fn sync(&mut self) -> Step<()> {
        self.skipping = false;
        if self.status == TransactionStatus::Idle {
            self.end_portals();
        }
        Ok(self.ready().await?)
    }

    /// The transaction is over.
    fn end_portals(&mut self) {
        self.portals.retain(|_, bound| bound.hold);
    }

    async fn message(&mut self, message: PgWireFrontendMessage) -> Step<()> {
        match message {
            PgWireFrontendMessage::Query(query) => self.simple(&query.query).await,
            PgWireFrontendMessage::Parse(parse) => self.parse(parse).await,
            PgWireFrontendMessage::Bind(bind) => self.bind(bind).await,
            PgWireFrontendMessage::Describe(describe) => self.describe(&describe).await,
            PgWireFrontendMessage::Execute(execute) => self.execute(&execute).await,
            PgWireFrontendMessage::Close(close) => self.close(&close).await,
            PgWireFrontendMessage::Flush(_) => Ok(self.stream.flush().await?),
            // What is left of a COPY that was refused.
            PgWireFrontendMessage::CopyData(_)
            | PgWireFrontendMessage::CopyDone(_)
            | PgWireFrontendMessage::CopyFail(_) => Ok(()),
            _ => Err(WireError::protocol("message out of place").into()),
        }
    }

    /// All statements of a text, one after the other, until one fails.
    async fn simple(&mut self, text: &str) -> Step<()> {
        self.portals.remove("");
        let all = self.split(text).await?;
        if all.is_empty() {
            self.stream.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for statement in all {
            let prepared = Arc::new(Prepared {
                statement: Some(statement),
                wanted: Vec::new(),
                parameters: Vec::new(),
                schema: None,
            });
            let mut bound = Bound::of(prepared, Format::UnifiedText);
            self.check_status(&bound)?;
            let done = self.run(&mut bound, usize::MAX, true).await?;
            self.finish(done).await?;
        }
        Ok(self.ready().await?)
    }

    /// The statements of a text; one that cannot be read at all is recorded as refused, like any that is not let through.
    async fn split(&self, text: &str) -> Result<Vec<Statement>, WireError> {
        let split = match gate::check_size(text) {
            Ok(()) => statements(text),
            Err(error) => Err(WireError::of_query(&error.into(), text, 0)),
        };
        if let Err(error) = &split {
            self.record_refusal(text, &error.message).await?;
        }
        split
    }

    async fn record_refusal(&self, text: &str, reason: &str) -> Result<(), WireError> {
        let recorded = self.session.record(text, &[]).await;
        let mut recorded = recorded.map_err(|error| WireError::of_query(&error, text, 0))?;
        recorded.end(crate::serve::Outcome::Refused, Some(reason)).await;
        Ok(())
    }

    /// In a transaction that has failed nothing but its end is taken.
    fn check_status(&self, bound: &Bound) -> Result<(), WireError> {
        let command = bound.prepared.statement.as_ref().map(|statement| &statement.command);
        let ends = matches!(command, None | Some(Command::Commit | Command::Rollback | Command::Savepoint("ROLLBACK")));
        if self.status == TransactionStatus::Error && !ends {
            let text = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(WireError::new("25P02", text));
        }
        Ok(())
    }

    async fn finish(&mut self, done: Done) -> Result<(), Ended> {
        match done {
            Done::Tag(tag) => self.stream.put(PgWireBackendMessage::CommandComplete(tag.into())).await,
            Done::Suspended => self.stream.put(PgWireBackendMessage::PortalSuspended(PortalSuspended::new())).await,
            Done::Nothing => Ok(()),
        }
    }

    async fn parse(&mut self, parse: Parse) -> Step<()> {
        let name = parse.name.unwrap_or_default();
        if parse.type_oids.len() > PARAMETERS_MAX {
            return Err(WireError::new("54023", format!("more than {PARAMETERS_MAX} parameters")).into());
        }
        if self.prepared.len() >= STATEMENTS_MAX && !self.prepared.contains_key(&name) {
            return Err(WireError::new("53400", format!("more than {STATEMENTS_MAX} prepared statements")).into());
        }
        if !name.is_empty() && self.prepared.contains_key(&name) {
            return Err(WireError::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        let mut all = self.split(&parse.query).await?;
        if all.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(WireError::syntax(text.to_owned(), None).into());
        }
        let wanted = parse.type_oids.iter().map(|oid| Type::from_oid(*oid).filter(|found| *found != Type::UNKNOWN));
        let mut prepared =
            Prepared { statement: all.pop(), wanted: wanted.collect(), parameters: Vec::new(), schema: None };
        let bound = Bound::of(
            Arc::new(Prepared { statement: prepared.statement.clone(), ..Prepared::empty() }),
            Format::UnifiedText,
        );
        self.check_status(&bound)?;
        if let Some(statement) = &prepared.statement
            && statement.command == Command::Query
        {
            match self.plan(&statement.text).await {
                Ok((_, plan)) => {
                    prepared.parameters = parameter_types(&plan, &prepared.wanted)?;
                    prepared.schema = Some(Arc::new(plan.schema().as_arrow().clone()));
                }
                Err(error) => {
                    let wire = WireError::of_query(&error, &statement.text, statement.offset_chars);
                    self.record_refusal(&statement.text, &wire.message).await?;
                    return Err(wire.into());
                }
            }
        }
        self.prepared.insert(name, Arc::new(prepared));
        Ok(self.stream.put(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?)
    }

    async fn bind(&mut self, bind: Bind) -> Step<()> {
        let prepared = self.prepared_of(bind.statement_name.as_deref().unwrap_or_default())?;
        let expected = prepared.parameters.len();
        if bind.parameters.len() != expected && prepared.schema.is_some() {
            let text =
                format!("bind message supplies {} parameters, the statement has {expected}", bind.parameters.len());
            return Err(WireError::new("08P01", text).into());
        }
        let codes = bind.parameter_format_codes.len();
        if codes > 1 && codes != bind.parameters.len() {
            return Err(
                WireError::new("08P01", format!("{codes} formats for {} parameters", bind.parameters.len())).into()
            );
        }
        let formats = match bind.result_column_format_codes.as_slice() {
            [] => Format::UnifiedText,
            [one] => Format::from(*one),
            codes => Format::Individual(codes.to_vec()),
        };
        if let Some(schema) = &prepared.schema {
            fields(schema, &formats)?;
        }
        let name = bind.portal_name.clone().unwrap_or_default();
        self.portals.remove("");
        self.room_for(&name)?;
        let bound = Bound { bind: Some(bind), ..Bound::of(prepared, formats) };
        self.portals.insert(name, bound);
        Ok(self.stream.put(PgWireBackendMessage::BindComplete(BindComplete::new())).await?)
    }

    fn prepared_of(&self, name: &str) -> Result<Arc<Prepared>, WireError> {
        let found = self.prepared.get(name).cloned();
        found.ok_or_else(|| WireError::new("26000", format!("prepared statement \"{name}\" does not exist")))
    }

    fn room_for(&self, name: &str) -> Result<(), WireError> {
        if self.portals.contains_key(name) {
            return Err(WireError::new("42P03", format!("cursor \"{name}\" already exists")));
        }
        if self.portals.len() >= PORTALS_MAX {
            return Err(WireError::new("53400", format!("more than {PORTALS_MAX} open cursors")));
        }
        Ok(())
    }

    async fn describe(&mut self, describe: &Describe) -> Step<()> {
        let name = describe.name.as_deref().unwrap_or_default();
        let (prepared, formats, schema) = if describe.target_type == TARGET_TYPE_BYTE_STATEMENT {
            let prepared = self.prepared_of(name)?;
            let oids = prepared.parameters.iter().map(Type::oid).collect();
            self.stream.put(PgWireBackendMessage::ParameterDescription(ParameterDescription::new(oids))).await?;
            (prepared, Format::UnifiedText, None)
        } else {
            let bound = self.portals.get(name).ok_or_else(|| no_portal(name))?;
            let schema = bound.cursor.as_ref().map(|cursor| cursor.schema().clone());
            (bound.prepared.clone(), bound.formats.clone(), schema)
        };
        let schema = match (schema, &prepared.statement) {
            (Some(schema), _) => Some(schema),
            (None, Some(statement)) => self.schema_of(statement, &prepared)?,
            (None, None) => None,
        };
        let message = match schema {
            Some(schema) => PgWireBackendMessage::RowDescription(description(&fields(&schema, &formats)?)),
            None => PgWireBackendMessage::NoData(NoData::new()),
        };
        Ok(self.stream.put(message).await?)
    }

    /// Columns of a statement before it runs.
    fn schema_of(&self, statement: &Statement, prepared: &Prepared) -> Result<Option<SchemaRef>, WireError> {
        Ok(match &statement.command {
            Command::Query => prepared.schema.clone(),
            Command::Show(name) => Some(shown(name, self.settings.value(name)?)?.schema()),
            Command::Fetch { name, moves: false, .. } => {
                let bound = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                bound.cursor.as_ref().map(|cursor| cursor.schema().clone())
            }
            _ => None,
        })
    }

    async fn execute(&mut self, execute: &Execute) -> Step<()> {
        let name = execute.name.clone().unwrap_or_default();
        let mut bound = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        self.check_status(&bound)?;
        let rows_max = usize::try_from(execute.max_rows).ok().filter(|rows| *rows > 0).unwrap_or(usize::MAX);
        if bound.prepared.statement.is_none() {
            self.stream.put(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
            self.portals.insert(name, bound);
            return Ok(());
        }
        let done = self.run(&mut bound, rows_max, false).await?;
        // COMMIT and CLOSE ALL took the others; this one goes with them.
        if matches!(done, Done::Suspended) || self.status != TransactionStatus::Idle || bound.cursor.is_some() {
            self.portals.insert(name, bound);
        }
        Ok(self.finish(done).await?)
    }

    async fn close(&mut self, close: &Close) -> Step<()> {
        let name = close.name.as_deref().unwrap_or_default();
        if close.target_type == TARGET_TYPE_BYTE_STATEMENT {
            self.prepared.remove(name);
        } else {
            self.portals.remove(name);
        }
        Ok(self.stream.put(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?)
    }

    /// Runs a statement, or goes on with one. `describes`: its columns go before the rows.
    async fn run(&mut self, bound: &mut Bound, rows_max: usize, describes: bool) -> Step<Done> {
        let Some(statement) = bound.prepared.statement.clone() else { return Ok(Done::Nothing) };
        match &statement.command {
            Command::Query | Command::Show(_) => {
                if bound.cursor.is_none() && !bound.done {
                    bound.cursor = Some(self.open(bound, &statement).await?);
                }
                self.send(bound, rows_max, describes).await
            }
            Command::Fetch { name, rows, moves } => self.fetch(name, *rows, *moves, &bound.formats, describes).await,
            command => self.command(command, &statement).await,
        }
    }

    async fn open(&mut self, bound: &Bound, statement: &Statement) -> Step<Cursor> {
        if let Command::Show(name) = &statement.command {
            return Ok(Cursor::given(shown(name, self.settings.value(name)?)?));
        }
        self.start(&statement.text, statement.offset_chars, bound.bind.as_ref(), &bound.prepared.wanted).await
    }

    /// Records, plans and starts a query.
    async fn start(
        &mut self,
        text: &str,
        offset_chars: usize,
        bind: Option<&Bind>,
        wanted: &[Option<Type>],
    ) -> Step<Cursor> {
        let told = |error: &QueryError| WireError::of_query(error, text, offset_chars);
        let cancel = self.cancel.begin();
        let parameters = bind.map(values).unwrap_or_default();
        let mut recorded = self.session.record(text, &parameters).await.map_err(|error| told(&error))?;
        let (context, plan) = match self.plan(text).await {
            Ok(planned) => planned,
            Err(error) => {
                end_with(&mut recorded, &error).await;
                return Err(told(&error).into());
            }
        };
        let plan = match bind.map(|bind| with_parameters(plan.clone(), bind, wanted)).unwrap_or(Ok(plan)) {
            Ok(plan) => plan,
            Err(error) => {
                recorded.end(crate::serve::Outcome::Refused, Some(&error.message)).await;
                return Err(error.into());
            }
        };
        let timeout = self.settings.timeout;
        let started = self.session.start(recorded, &context, plan, timeout, cancel.clone()).await;
        let answer = started.map_err(|error| told(&error))?;
        Ok(Cursor::new(answer, text.to_owned(), offset_chars, cancel))
    }

    /// Plans one query over the lake as it is now, and has the gate judge it.
    async fn plan(&self, text: &str) -> Result<(SessionContext, LogicalPlan), QueryError> {
        let context = self.context()?;
        gate::check_size(text)?;
        let parsed = PARSER.parse(text);
        let mut parsed =
            parsed.map_err(|error| gate::GateError::Plan(Box::new(datafusion::error::DataFusionError::from(error))))?;
        let (Some(mut statement), true) = (parsed.pop(), parsed.is_empty()) else {
            return Err(gate::GateError::Table("several statements".to_owned()).into());
        };
        if rewrite(&mut statement) {
            statement = PARSER.rewrite(statement);
        }
        // About indexes, keys and the like, of which there are none here.
        if let Some(instead) = certainly_empty(&statement) {
            let plan = gate::plan(&context, &instead).await?;
            return Ok((context, plan));
        }
        let wrapped = datafusion::sql::parser::Statement::Statement(Box::new(statement));
        let plan = gate::plan_statement(&context, wrapped).await?;
        Ok((context, plan))
    }

    fn context(&self) -> Result<SessionContext, QueryError> {
        let asker = Asker {
            user: self.session.user().name.clone(),
            pid: self.cancel.pid,
            settings: self.settings.values().clone(),
        };
        let dressed = self.catalog.dress(self.session.context()?, &asker);
        dressed.map_err(|error| QueryError::Session(Box::new(error)))
    }

    async fn send(&mut self, bound: &mut Bound, rows_max: usize, describes: bool) -> Step<Done> {
        let Some(cursor) = &mut bound.cursor else { return Ok(Done::Tag(Tag::new("SELECT").with_rows(0))) };
        let (sent, more) = self.send_rows(cursor, rows_max, &bound.formats, describes).await?;
        if more {
            return Ok(Done::Suspended);
        }
        (bound.cursor, bound.done) = (None, true);
        let shows = bound.prepared.statement.as_ref().is_some_and(|of| matches!(of.command, Command::Show(_)));
        Ok(Done::Tag(if shows { Tag::new("SHOW") } else { Tag::new("SELECT").with_rows(sent) }))
    }

    /// Gives how many rows went out, and whether there may be more.
    async fn send_rows(
        &mut self,
        cursor: &mut Cursor,
        rows_max: usize,
        formats: &Format,
        describes: bool,
    ) -> Step<(usize, bool)> {
        self.cancel.now(&cursor.cancel);
        let fields = fields(cursor.schema(), formats)?;
        if describes {
            self.stream.put(PgWireBackendMessage::RowDescription(description(&fields))).await?;
        }
        let mut sent = 0;
        while sent < rows_max {
            let Some(batch) = cursor.take(rows_max - sent).await? else { return Ok((sent, false)) };
            sent += batch.num_rows();
            for row in rows(&fields, batch) {
                self.stream.put(PgWireBackendMessage::DataRow(row?)).await?;
            }
        }
        Ok((sent, true))
    }

    async fn fetch(
        &mut self,
        name: &str,
        rows: Option<u64>,
        moves: bool,
        formats: &Format,
        describes: bool,
    ) -> Step<Done> {
        let mut bound = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let rows_max = rows.map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let outcome = match &mut bound.cursor {
            Some(cursor) if moves => self.pass(cursor, rows_max).await.map(|passed| (passed, true)),
            Some(cursor) => self.send_rows(cursor, rows_max, formats, describes).await,
            None => Err(WireError::new("34000", format!("cursor \"{name}\" is not open")).into()),
        };
        let (sent, _) = outcome?;
        self.portals.insert(name.to_owned(), bound);
        Ok(Done::Tag(Tag::new(if moves { "MOVE" } else { "FETCH" }).with_rows(sent)))
    }

    async fn pass(&mut self, cursor: &mut Cursor, rows_max: usize) -> Step<usize> {
        self.cancel.now(&cursor.cancel);
        let mut passed = 0;
        while passed < rows_max {
            let Some(batch) = cursor.take(rows_max - passed).await? else { break };
            passed += batch.num_rows();
        }
        Ok(passed)
    }

    /// The commands that touch the connection alone.
    async fn command(&mut self, command: &Command, statement: &Statement) -> Step<Done> {
        let tag = match command {
            Command::Begin => {
                self.status = TransactionStatus::Transaction;
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let failed = self.status == TransactionStatus::Error || *command == Command::Rollback;
                self.status = TransactionStatus::Idle;
                self.end_portals();
                if failed { "ROLLBACK" } else { "COMMIT" }
            }
            Command::Savepoint(tag) => {
                if self.status == TransactionStatus::Error {
                    self.status = TransactionStatus::Transaction;
                }
                tag
            }
            Command::Set(name, value) => {
                let told = self.settings.set(name, value)?;
                self.tell(told).await?;
                "SET"
            }
            Command::Reset(name) => {
                self.settings.reset(name.as_deref())?;
                self.tell(Some("application_name")).await?;
                "RESET"
            }
            Command::Discard => {
                self.settings.reset(None)?;
                self.prepared.clear();
                self.portals.clear();
                "DISCARD ALL"
            }
            Command::Deallocate(Some(name)) => {
                self.prepared_of(name)?;
                self.prepared.remove(name);
                "DEALLOCATE"
            }
            Command::Deallocate(None) => {
                self.prepared.clear();
                "DEALLOCATE ALL"
            }
            Command::Close(Some(name)) => {
                self.portals.remove(name).ok_or_else(|| no_portal(name))?;
                "CLOSE CURSOR"
            }
            Command::Close(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL"
            }
            Command::Declare { name, hold, query } => {
                self.declare(name, *hold, query, statement).await?;
                "DECLARE CURSOR"
            }
            Command::Nothing(tag) => tag,
            Command::Query | Command::Show(_) | Command::Fetch { .. } => return Ok(Done::Nothing),
        };
        Ok(Done::Tag(Tag::new(tag)))
    }

    async fn declare(&mut self, name: &str, hold: bool, query: &str, statement: &Statement) -> Step<()> {
        if self.status != TransactionStatus::Transaction && !hold {
            return Err(WireError::new("25P01", "DECLARE CURSOR can only be used in transaction blocks").into());
        }
        self.room_for(name)?;
        let chars = |text: &str| text.chars().count();
        let offset = statement.offset_chars + chars(&statement.text).saturating_sub(chars(query));
        let cursor = self.start(query, offset, None, &[]).await?;
        let bound = Bound { cursor: Some(cursor), hold, ..Bound::of(Arc::new(Prepared::empty()), Format::UnifiedText) };
        self.portals.insert(name.to_owned(), bound);
        Ok(())
    }

    /// Clients follow some settings.
    async fn tell(&mut self, name: Option<&'static str>) -> Result<(), Failure> {
        let Some(name) = name else { return Ok(()) };
        let value = self.settings.value(name)?.to_owned();
        self.session.set_application(&value);
        let message = ParameterStatus::new(name.to_owned(), value);
        Ok(self.stream.put(PgWireBackendMessage::ParameterStatus(message)).await?)
    }
}

impl Prepared {
    fn empty() -> Self {
        Self { statement: None, wanted: Vec::new(), parameters: Vec::new(), schema: None }
    }
}

impl Bound {
    fn of(prepared: Arc<Prepared>, formats: Format) -> Self {
        Self { prepared, bind: None, formats, cursor: None, done: false, hold: false }
    }
}

fn no_portal(name: &str) -> WireError {
    WireError::new("34000", format!("cursor \"{}\" does not exist", crate::query::printable(name)))
}

/// A setting as a table of one row.
fn shown(name: &str, value: &str) -> Result<RecordBatch, WireError> {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
    let column = Arc::new(StringArray::from(vec![value]));
    RecordBatch::try_new(schema, vec![column]).map_err(|error| WireError::new("XX000", error.to_string()))
}

/// Types of `$1`, `$2`...: what the client says, else what the plan needs, else text.
fn parameter_types(plan: &LogicalPlan, wanted: &[Option<Type>]) -> Result<Vec<Type>, WireError> {
    let found = inferred(plan)?;
    let count = found.len().max(wanted.len());
    let of = |at: usize| {
        let hinted = wanted.get(at).cloned().flatten();
        let planned = found.get(at).and_then(|found| found.as_ref()).and_then(|found| into_pg_type(found).ok());
        hinted.or(planned).unwrap_or(Type::TEXT)
    };
    Ok((0..count).map(of).collect())
}

/// What the plan needs of each parameter, in their order.
fn inferred(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, WireError> {
    let types = plan.get_parameter_types();
    let types = types.map_err(|error| WireError::new("42P18", error.to_string().lines().next().unwrap_or_default()))?;
    let casts = casts(plan);
    let mut found = Vec::new();
    for (name, data_type) in types {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let Some(at) = number.and_then(|number| number.checked_sub(1)).filter(|at| *at < PARAMETERS_MAX) else {
            return Err(WireError::new("42P02", format!("there is no parameter {name}")));
        };
        if found.len() <= at {
            found.resize(at + 1, None);
        }
        found[at] = data_type.or_else(|| casts.get(&name).cloned());
    }
    Ok(found)
}

/// `$1::int` says what `$1` is.
fn casts(plan: &LogicalPlan) -> BTreeMap<String, DataType> {
    let mut found = BTreeMap::new();
    // Neither walk ends with an error of its own.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|expression| {
                if let Expr::Cast(cast) = expression
                    && let Expr::Placeholder(placeholder) = cast.expr.as_ref()
                {
                    found.insert(placeholder.id.clone(), cast.field.data_type().clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    found
}

/// What the parameters stand for, for the record, which is made before anything is planned: text as it is, and the bytes of
/// PostgreSQL's binary forms in hex.
fn values(bind: &Bind) -> Vec<Option<String>> {
    // None: all are text. One code is for all of them.
    let is_text = |at: usize| match bind.parameter_format_codes.as_slice() {
        [] => true,
        [one] => *one == 0,
        codes => codes.get(at) == Some(&0),
    };
    let value = |(at, bytes): (usize, &Option<bytes::Bytes>)| {
        let bytes = bytes.as_ref()?;
        match std::str::from_utf8(bytes) {
            Ok(text) if is_text(at) => Some(text.to_owned()),
            _ => Some(format!("\\x{}", hex::encode(bytes))),
        }
    };
    bind.parameters.iter().enumerate().map(value).collect()
}

fn with_parameters(plan: LogicalPlan, bind: &Bind, wanted: &[Option<Type>]) -> Result<LogicalPlan, WireError> {
    if bind.parameters.is_empty() {
        return Ok(plan);
    }
    let found = inferred(&plan)?;
    // Only what a client says is a hint; the rest is read as the plan needs it.
    let hints = (0..bind.parameters.len()).map(|at| {
        let hinted = wanted.get(at).cloned().flatten();
        let known = found.get(at).is_some_and(Option::is_some);
        hinted.or((!known).then_some(Type::TEXT))
    });
    let statement = StoredStatement::new(String::new(), (), hints.collect());
    let portal = Portal::try_new(bind, Arc::new(statement))?;
    let types: Vec<Option<&DataType>> = found.iter().map(Option::as_ref).collect();
    let values: ParamValues = deserialize_parameters(&portal, &types)?;
    plan.with_param_values(values)
        .map_err(|error| WireError::new("22023", error.to_string().lines().next().unwrap_or_default()))
}
