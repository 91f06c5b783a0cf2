//! Runs controls over the files of a pack and says what they come to: rows as CSV, a hash of them, and a verdict.
//!
//! The verdict is computed here and nowhere else. `met` needs records in the period, something that the control is about, no
//! row that is an exception and none that a person has to judge; it is never the answer to silence. What a result
//! depends on is the control's text and the pack's files: no clock, no chance, one order of rows.

use super::control::{Control, Period};
use crate::query::gate::{self, GateError};
use crate::query::run::{Cancel, RunError};
use crate::query::session::Limits;
use crate::query::{Format, Output, output::OutputError, run as run_plan};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::SessionContext;
use keytrail_kms::chain::leaf::sha256;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds of one control. More rows than these nobody reads; the queries group what can be many.
pub fn limits() -> Limits {
    Limits { deadline: Duration::from_mins(10), rows_max: 1_000_000, ..Limits::default() }
}

/// Exceptions and rows to judge that a result names in words; the CSV has all of them.
const NAMED_MAX: usize = 5;

/// Why a control was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunControlError {
    /// Its SQL.
    #[error("control {id} cannot be planned")]
    Plan {
        /// Which one.
        id: String,
        /// Why not.
        source: GateError,
    },
    /// Its SQL answers differently when asked again.
    #[error("control {id} depends on the clock or on chance ({what})")]
    Volatile {
        /// Which one.
        id: String,
        /// The function.
        what: String,
    },
    /// The session.
    #[error("control {id} cannot be looked at")]
    Look {
        /// Which one.
        id: String,
        /// Why not.
        source: Box<DataFusionError>,
    },
    /// While running.
    #[error("control {id} failed")]
    Run {
        /// Which one.
        id: String,
        /// Why.
        source: RunError,
    },
    /// Writing rows as CSV.
    #[error("control {id} has rows that cannot be written")]
    Write {
        /// Which one.
        id: String,
        /// Why.
        source: OutputError,
    },
    /// Its order: rows that are equal in all columns may stand in any order, others not.
    #[error("control {id} does not sort its rows by all of its columns")]
    Unsorted {
        /// Which one.
        id: String,
    },
    /// Its columns.
    #[error("control {id} has no text columns finding and why, or another finding than ok, review and exception")]
    Columns {
        /// Which one.
        id: String,
    },
}

/// What the log shows for a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Something to look at, nothing wrong with it.
    #[serde(rename = "met")]
    Met,
    /// At least one row is an exception.
    #[serde(rename = "exceptions")]
    Exceptions,
    /// Nothing to look at, or what there is has to be judged by a person.
    #[serde(rename = "cannot be shown")]
    CannotBeShown,
}

impl Verdict {
    /// The words in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Exceptions => "exceptions",
            Self::CannotBeShown => "cannot be shown",
        }
    }
}

/// What controls are run over.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The period of the pack.
    pub period: Period,
    /// Whether the exporter withheld records: then nothing is met where events of the period were not looked at.
    pub redacted: bool,
}

/// What a control came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The control.
    pub control: Control,
    /// Its rows as CSV.
    pub csv: Vec<u8>,
    /// What stands in `controls/results.json`.
    pub result: ControlResult,
}

/// A member of `results` in `controls/results.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControlResult {
    /// Name of the control's files.
    pub id: String,
    /// Standard and number.
    pub clause: String,
    /// What it is about.
    pub title: String,
    /// What was asked.
    pub question: String,
    /// What it came to.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// How many things the control is about.
    pub population: u64,
    /// What was counted.
    pub population_of: String,
    /// Rows in the CSV.
    pub rows: u64,
    /// Rows that are exceptions.
    pub exceptions: u64,
    /// Rows that a person has to judge.
    pub reviews: u64,
    /// The first exceptions, or else the first rows to judge, in words.
    pub named: Vec<String>,
    /// SHA-256 of the CSV, hex.
    pub sha256: String,
}

/// Runs the controls over a session of `tables::session`.
pub async fn run(
    session: &SessionContext,
    controls: Vec<Control>,
    scope: &Scope,
) -> Result<Vec<Outcome>, RunControlError> {
    let held = Held::of(session, &scope.period).await?;
    let mut outcomes = Vec::with_capacity(controls.len());
    for control in controls {
        outcomes.push(run_one(session, control, scope, held).await?);
    }
    Ok(outcomes)
}

/// What the pack holds of the period.
#[derive(Clone, Copy)]
struct Held {
    records: u64,
    /// Events without their payload in the pack.
    unseen: u64,
}

impl Held {
    async fn of(session: &SessionContext, period: &Period) -> Result<Self, RunControlError> {
        let within = format!("event_time >= '{}' AND event_time < '{}'", period.start(), period.end());
        let count = |what: &str| format!("SELECT count(*) FROM records WHERE {within}{what}");
        let id = "period";
        let records = number(session, id, &count("")).await?;
        let unseen = number(session, id, &count(" AND kind = 1 AND raw IS NULL")).await?;
        Ok(Self { records, unseen })
    }
}

async fn run_one(
    session: &SessionContext,
    control: Control,
    scope: &Scope,
    held: Held,
) -> Result<Outcome, RunControlError> {
    let id = control.header.id.clone();
    let population = number(session, &id, &control.header.population).await?;
    let batches = rows(session, &id, &control.sql, true).await?;
    let findings = Findings::of(&batches.batches).ok_or_else(|| RunControlError::Columns { id: id.clone() })?;
    let (verdict, reason) = judge(&control, scope, held, population, &findings);
    let csv = batches.csv(&id)?;
    let header = &control.header;
    let result = ControlResult {
        id,
        clause: header.clause.clone(),
        title: header.title.clone(),
        question: header.question.clone(),
        verdict,
        reason,
        population,
        population_of: header.population_of.clone(),
        rows: findings.rows,
        exceptions: findings.exceptions,
        reviews: findings.reviews,
        named: findings.named,
        sha256: hex::encode(sha256(&[&csv])),
    };
    Ok(Outcome { control, csv, result })
}

fn judge(control: &Control, scope: &Scope, held: Held, population: u64, findings: &Findings) -> (Verdict, String) {
    let of = &control.header.population_of;
    if findings.exceptions > 0 {
        let rows = if findings.exceptions == 1 { "exception" } else { "exceptions" };
        return (Verdict::Exceptions, format!("{} {rows}; looked at: {population} {of}", findings.exceptions));
    }
    let reason = if held.records == 0 {
        "the log has no record from this period".to_owned()
    } else if population == 0 {
        format!("there are no {of}")
    } else if scope.redacted && held.unseen > 0 {
        format!("{} events of the period are withheld from this pack and were not looked at", held.unseen)
    } else if findings.reviews > 0 {
        format!("{} rows are for a person to judge; looked at: {population} {of}", findings.reviews)
    } else {
        let erased =
            if held.unseen > 0 { format!("; {} events have no payload any more", held.unseen) } else { String::new() };
        return (Verdict::Met, format!("no exception; looked at: {population} {of}{erased}"));
    };
    (Verdict::CannotBeShown, reason)
}

/// What the first two columns say.
#[derive(Default)]
struct Findings {
    rows: u64,
    exceptions: u64,
    reviews: u64,
    named: Vec<String>,
}

impl Findings {
    /// None when the columns are not what they have to be.
    fn of(batches: &[RecordBatch]) -> Option<Self> {
        let mut found = Self::default();
        for batch in batches {
            let schema = batch.schema();
            if schema.fields().len() < 2 || schema.field(0).name() != "finding" || schema.field(1).name() != "why" {
                return None;
            }
            let column = |index: usize| arrow::compute::cast(batch.column(index), &DataType::Utf8).ok();
            let (finding, why) = (column(0)?, column(1)?);
            let (finding, why) = (finding.as_string::<i32>(), why.as_string::<i32>());
            for row in 0..batch.num_rows() {
                // What odd records make of a sentence must neither stop an export nor pass as in order.
                let finding = if finding.is_null(row) { "exception" } else { finding.value(row) };
                let why = if why.is_null(row) { "a row that says nothing" } else { why.value(row) };
                found.take(finding, why)?;
            }
        }
        Some(found)
    }

    /// Exceptions sort before rows to judge, so they are named first.
    fn take(&mut self, finding: &str, why: &str) -> Option<()> {
        self.rows += 1;
        match finding {
            "ok" => return Some(()),
            "exception" => self.exceptions += 1,
            "review" => self.reviews += 1,
            _ => return None,
        }
        if self.named.len() < NAMED_MAX && (finding == "exception" || self.exceptions == 0) {
            self.named.push(why.to_owned());
        }
        Some(())
    }
}

struct Batches {
    schema: arrow::datatypes::SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Batches {
    fn csv(&self, id: &str) -> Result<Vec<u8>, RunControlError> {
        let wrong = |source| RunControlError::Write { id: id.to_owned(), source };
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, Format::Csv, self.schema.clone());
        for batch in self.batches.iter().filter(|batch| batch.num_rows() > 0) {
            output.write(batch).map_err(wrong)?;
        }
        output.finish().map_err(wrong)?;
        Ok(bytes)
    }
}

async fn rows(session: &SessionContext, id: &str, sql: &str, sorted: bool) -> Result<Batches, RunControlError> {
    let plan = gate::plan(session, sql).await.map_err(|source| RunControlError::Plan { id: id.to_owned(), source })?;
    refuse_volatile(&plan, id)?;
    let by_all = matches!(&plan, LogicalPlan::Sort(sort) if sort.expr.len() == plan.schema().fields().len());
    if sorted && !by_all {
        return Err(RunControlError::Unsorted { id: id.to_owned() });
    }
    let wrong = |source| RunControlError::Run { id: id.to_owned(), source };
    let rows = run_plan(session, plan, &limits(), Cancel::new()).map_err(wrong)?;
    let schema = rows.schema();
    Ok(Batches { schema, batches: rows.collect().await.map_err(wrong)? })
}

async fn number(session: &SessionContext, id: &str, sql: &str) -> Result<u64, RunControlError> {
    let rows = rows(session, id, sql, false).await?;
    let value = rows.batches.iter().find(|batch| batch.num_rows() > 0).and_then(|batch| {
        let column = batch.columns().first()?.as_primitive_opt::<Int64Type>()?;
        column.is_valid(0).then(|| column.value(0))
    });
    value.and_then(|value| u64::try_from(value).ok()).ok_or_else(|| RunControlError::Columns { id: id.to_owned() })
}

fn refuse_volatile(plan: &LogicalPlan, id: &str) -> Result<(), RunControlError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::ScalarFunction(function) = part
                    && function.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(function.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(|source| RunControlError::Look { id: id.to_owned(), source: Box::new(source) })?;
    found.map_or(Ok(()), |what| Err(RunControlError::Volatile { id: id.to_owned(), what }))
}

/// `controls/results.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// 1.
    pub version: u32,
    /// The set.
    pub control_set: String,
    /// Start of the period.
    pub from: String,
    /// End of the period.
    pub to: String,
    /// Program and query engine that ran them.
    pub engine: String,
    /// Files that they were run over, path below `data/` to SHA-256.
    pub inputs: std::collections::BTreeMap<String, String>,
    /// By clause.
    pub results: Vec<ControlResult>,
}

/// The engine of this build, as results name it.
pub fn engine() -> String {
    format!("keytrail {}, datafusion {}", env!("CARGO_PKG_VERSION"), datafusion::DATAFUSION_VERSION)
}
