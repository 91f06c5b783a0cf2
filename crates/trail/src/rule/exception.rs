//! Exceptions: findings that somebody answers for, until a date.
//!
//! `rules/exceptions/<id>.toml` names rules, a predicate over the row of their findings, an owner, a reason and an end at most
//! 90 days after its beginning. A finding is muted when its newest event lies between the two and the predicate holds: judged
//! by event time, so that an exception that ends mutes nothing of what comes after, and what it muted stays muted. A predicate that
//! would take away an alert of a rule's own test is too wide and refuses the set. What is muted is counted and shown
//! (table `exceptions`), and exceptions are watched: see `Hit`.

use super::file::Problem;
use super::load::{Rule, RuleSet};
use super::lower::{check_expression, plain};
use super::run::Finding;
use super::{RuleKind, test};
use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::json::ReaderBuilder;
use chrono::{DateTime, Utc};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use keytrail_kms::chain::leaf::sha256;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Longest time from `created` to `expires`.
const DAYS_MAX: i64 = 90;

/// Most rules of one exception.
const RULES_MAX: usize = 64;

/// Longest predicate in bytes.
const PREDICATE_BYTES_MAX: usize = 4 * 1024;

/// An exception that is younger than this mutes in view of everybody: whoever wants to hide something changes the watch just
/// before.
const YOUNG: Duration = Duration::from_hours(1);

/// The file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionFile {
    /// Ids of the rules.
    pub rules: Vec<String>,
    /// SQL over the row of a finding.
    pub predicate: String,
    /// Who answers for it.
    pub owner: String,
    /// Where it was agreed.
    pub ticket: String,
    /// Why.
    pub reason: String,
    /// From when on.
    pub created: DateTime<Utc>,
    /// Until when, at most 90 days later.
    pub expires: DateTime<Utc>,
}

/// An exception ready to judge.
#[derive(Debug)]
pub struct Exception {
    /// The file's name.
    pub id: String,
    /// SHA-256 of the file's bytes, hex.
    pub hash: String,
    /// What it says.
    pub file: ExceptionFile,
    /// The predicate over the row of each rule.
    lowered: Vec<(Arc<Rule>, Arc<dyn PhysicalExpr>)>,
}

/// A finding that an exception was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The exception.
    pub exception: String,
    /// The rule.
    pub rule_id: String,
    /// Log id of the finding.
    pub log: String,
    /// The alert that was not raised, or was.
    pub alert_id: String,
    /// Its newest event, Unix microseconds.
    pub event_us: i64,
    /// What is to be told of it.
    pub odd: Option<&'static str>,
    /// Whether it was muted; not after the exception's end.
    pub muted: bool,
}

/// Reads and lowers one file.
pub(super) fn parse(
    path: &str,
    bytes: &[u8],
    rules: &[Arc<Rule>],
    session: &SessionContext,
) -> Result<Exception, Problem> {
    let problem = |line, reason: String| Problem { file: path.to_owned(), line, reason };
    let text = std::str::from_utf8(bytes).map_err(|_| problem(0, "file is not UTF-8".into()))?;
    let file: ExceptionFile = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let line = text.get(..offset).map_or(0, |before| before.matches('\n').count());
        problem(line + 1, error.message().replace('\n', ", "))
    })?;
    check(&file).map_err(|reason| problem(0, reason))?;
    let lowered = file.rules.iter().map(|id| {
        let rule = rules.iter().find(|rule| rule.id() == id).ok_or_else(|| format!("no rule {id:?}"))?;
        if rule.kind() == RuleKind::Meta {
            return Err(format!("rule {id} watches the watch: it has no exceptions"));
        }
        let predicate = lower(&file.predicate, rule, session).map_err(|reason| format!("rule {id}: {reason}"))?;
        Ok((rule.clone(), predicate))
    });
    let lowered = lowered.collect::<Result<_, String>>().map_err(|reason| problem(0, reason))?;
    let id = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".toml").to_owned();
    Ok(Exception { id, hash: hex::encode(sha256(&[bytes])), file, lowered })
}

fn check(file: &ExceptionFile) -> Result<(), String> {
    for (name, text) in [("owner", &file.owner), ("ticket", &file.ticket), ("reason", &file.reason)] {
        if text.trim().is_empty() || text.len() > 1_024 {
            return Err(format!("{name} is not 1 to 1024 bytes of text"));
        }
    }
    if file.rules.is_empty() || file.rules.len() > RULES_MAX {
        return Err(format!("rules are not 1 to {RULES_MAX}"));
    }
    if file.predicate.len() > PREDICATE_BYTES_MAX {
        return Err(format!("predicate is longer than {PREDICATE_BYTES_MAX} bytes"));
    }
    let days = file.expires.signed_duration_since(file.created);
    if days <= chrono::TimeDelta::zero() || days > chrono::TimeDelta::days(DAYS_MAX) {
        return Err(format!("expires is not within {DAYS_MAX} days after created"));
    }
    Ok(())
}

fn lower(predicate: &str, rule: &Rule, session: &SessionContext) -> Result<Arc<dyn PhysicalExpr>, String> {
    let schema = DFSchema::try_from(rule.lowered.output_schema.as_ref().clone()).map_err(|error| plain(&error))?;
    crate::query::gate::check_size(predicate).map_err(|error| error.to_string())?;
    let expr = session.parse_sql_expr(predicate, &schema).map_err(|error| plain(&error))?;
    check_expression(&expr, false)?;
    let lower = || -> Result<_, DataFusionError> {
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build());
        let expr = simplifier.simplify(simplifier.coerce(expr, &schema)?)?;
        let physical = session.create_physical_expr(expr, &schema)?;
        let truth = physical.data_type(schema.as_arrow())?;
        Ok((physical, truth))
    };
    match lower().map_err(|error| plain(&error))? {
        (physical, arrow::datatypes::DataType::Boolean) => Ok(physical),
        (_, other) => Err(format!("predicate is {other}, not a truth value")),
    }
}

impl Exception {
    /// Whether the predicate holds for the row of a finding. What cannot be judged is not muted.
    fn covers(&self, finding: &Finding) -> bool {
        let predicate = self.lowered.iter().find(|(rule, _)| rule.hash() == finding.rule.hash());
        let Some((rule, predicate)) = predicate else { return false };
        let holds = || -> Option<bool> {
            let batch = row(rule, finding)?;
            let judged = predicate.evaluate(&batch).ok()?.into_array(1).ok()?;
            let judged = judged.as_boolean_opt()?;
            Some(judged.is_valid(0) && judged.value(0))
        };
        holds().unwrap_or(false)
    }

    /// Whether events of this time are muted.
    fn in_force(&self, event_us: i64) -> bool {
        (self.file.created.timestamp_micros()..self.file.expires.timestamp_micros()).contains(&event_us)
    }
}

/// The row as a batch again, by the types that the rule's output has.
fn row(rule: &Rule, finding: &Finding) -> Option<RecordBatch> {
    let mut decoder = ReaderBuilder::new(rule.lowered.output_schema.clone()).build_decoder().ok()?;
    decoder.serialize(std::slice::from_ref(&finding.row)).ok()?;
    decoder.flush().ok()?.filter(|batch| batch.num_rows() == 1)
}

impl RuleSet {
    /// Takes out what exceptions mute. `since_us`: when this trail first saw an exception or the rule, by hash.
    pub(crate) fn mute(
        &self,
        findings: Vec<Finding>,
        since_us: &dyn Fn(&str) -> Option<i64>,
    ) -> (Vec<Finding>, Vec<Hit>) {
        let mut hits = Vec::new();
        let raised = findings.into_iter().filter(|finding| {
            let covering: Vec<&Exception> =
                self.exceptions.iter().map(AsRef::as_ref).filter(|exception| exception.covers(finding)).collect();
            let event_us = finding.last_event_us;
            let by = covering.iter().find(|exception| exception.in_force(event_us)).copied();
            let Some(exception) = by.or_else(|| covering.first().copied()) else { return true };
            let young = |hash: &str| {
                since_us(hash).is_some_and(|since| event_us < since.saturating_add(super::run::micros(YOUNG)))
            };
            let odd = match by {
                Some(_) if young(&exception.hash) || young(finding.rule.hash()) => Some("exception-young"),
                Some(_) => None,
                None if event_us >= exception.file.expires.timestamp_micros() => Some("exception-expired"),
                None => return true,
            };
            hits.push(Hit {
                exception: exception.id.clone(),
                rule_id: finding.rule.id().to_owned(),
                log: finding.log.clone(),
                alert_id: finding.alert_id.clone(),
                event_us,
                odd,
                muted: by.is_some(),
            });
            by.is_none()
        });
        let raised = raised.collect();
        (raised, hits)
    }

    /// The exceptions that would take away an alert of a rule's own test, whatever their dates.
    pub(super) fn too_wide(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for exception in &self.exceptions {
            for (rule, _) in &exception.lowered {
                let covered = |finding: &Finding| exception.covers(finding);
                if let Some(name) = test::first_covered(self, rule, &covered) {
                    problems.push(Problem {
                        file: format!("exceptions/{}.toml", exception.id),
                        line: 0,
                        reason: format!("would mute what test {name:?} of rule {} must find", rule.id()),
                    });
                }
            }
        }
        problems
    }
}
