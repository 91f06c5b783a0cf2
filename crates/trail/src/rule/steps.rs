//! Header tables of the kinds that look at several events: `sequence` and `absence`. Their predicates are SQL over the
//! columns of `events`, lowered like the filter of the SELECT.
//!
//! `run::sequence` and `run::absence` say what they mean; this file knows their shape and bounds only.

use super::file::RuleFile;
use super::lower::{check_expression, event_names, plain};
use crate::lake::schema::events_schema;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Most records of one sequence, `at_least` included: they are all kept, and travel as evidence.
pub(crate) const RECORDS_MAX: u32 = 16;

/// Most entities of one event that names a list.
pub(crate) const EACH_MAX: usize = 16;

/// Most `absent` predicates.
const ABSENT_MAX: usize = 8;

/// Most columns of `by`.
const BY_MAX: usize = 8;

/// Longest time between the first and the last event.
const WITHIN_MAX: Duration = Duration::from_hours(90 * 24);

/// Most times an absence is told of one entity before it is forgotten.
const REPEATS_MAX: u128 = 1_000;

/// Events that belong together (kind sequence).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// Columns whose values are equal in all steps; rows in which one is null take no part.
    pub by: Vec<String>,
    /// All steps lie in (t - within, t] of the event that completes them.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Whether the steps come in the order written; otherwise in any.
    #[serde(default = "yes")]
    pub ordered: bool,
    /// What must happen.
    pub steps: Vec<Step>,
    /// What must not happen in between.
    #[serde(default)]
    pub absent: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// How the alert calls it; `step 1` and so on if absent.
    pub name: Option<String>,
    /// Predicate over the columns of `events`.
    #[serde(rename = "where")]
    pub predicate: String,
    /// How many such events, one if absent.
    #[serde(default = "once")]
    pub at_least: u32,
    /// For names in `by` whose value is in another place in this step: an expression.
    #[serde(default)]
    pub by: BTreeMap<String, String>,
    /// The name in `by` whose value in this step is a JSON list: the event is a step of each entry's entity, of the first
    /// `EACH_MAX`.
    pub each: Option<String>,
}

/// Something that should have come (kind absence).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// Columns that name the entity; none for the log as a whole.
    #[serde(default)]
    pub by: Vec<String>,
    /// The event after which another one is due. Absent: each expected event makes the next one due.
    pub after: Option<Step>,
    /// What is due.
    pub expect: Step,
    /// How soon.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// How long it is missed, from the event on that made it due: told once a dedup period. `within` if absent, which is
    /// once.
    #[serde(default, with = "humantime_serde")]
    pub forget: Option<Duration>,
}

fn yes() -> bool {
    true
}

fn once() -> u32 {
    1
}

impl Sequence {
    /// Everything that may hold `$params`.
    pub(super) fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        self.steps.iter_mut().chain(&mut self.absent).flat_map(Step::texts_mut)
    }

    /// The name of a step, for alerts.
    pub(crate) fn name(&self, index: usize) -> String {
        let name = self.steps.get(index).and_then(|step| step.name.clone());
        name.unwrap_or_else(|| format!("step {}", index + 1))
    }

    /// What is wrong with it, beyond what the types say.
    pub(super) fn check(&self) -> Result<(), String> {
        let records = self.steps.iter().fold(0_u32, |sum, step| sum.saturating_add(step.at_least));
        if self.steps.len() < 2 || records > RECORDS_MAX || self.steps.iter().any(|step| step.at_least == 0) {
            return Err(format!("sequence needs 2 steps at least and {RECORDS_MAX} events at most, at_least included"));
        }
        if self.absent.len() > ABSENT_MAX || self.absent.iter().any(|step| step.at_least != 1) {
            return Err(format!("sequence.absent is more than {ABSENT_MAX} predicates, or has at_least"));
        }
        let names: BTreeSet<String> = (0..self.steps.len()).map(|index| self.name(index)).collect();
        if names.len() < self.steps.len() {
            return Err("two steps have the same name".into());
        }
        if self.by.is_empty() {
            return Err("sequence.by is empty".into());
        }
        check_by(&self.by, self.steps.iter().chain(&self.absent))?;
        check_within("sequence.within", self.within)
    }
}

impl Absence {
    /// Everything that may hold `$params`.
    pub(super) fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        self.after.iter_mut().chain([&mut self.expect]).flat_map(Step::texts_mut)
    }

    /// How long an entity is missed.
    pub(crate) fn forget(&self) -> Duration {
        self.forget.unwrap_or(self.within)
    }

    /// What is wrong with it, beyond what the types say.
    pub(super) fn check(&self, dedup_period: Duration) -> Result<(), String> {
        check_by(&self.by, self.after.iter().chain([&self.expect]))?;
        if self.after.iter().chain([&self.expect]).any(|step| step.at_least != 1) {
            return Err("absence takes no at_least".into());
        }
        check_within("absence.within", self.within)?;
        check_within("absence.forget", self.forget())?;
        if self.forget() < self.within || self.forget().as_micros() / dedup_period.as_micros().max(1) > REPEATS_MAX {
            return Err(format!("absence.forget is shorter than within, or more than {REPEATS_MAX} dedup periods"));
        }
        Ok(())
    }
}

impl Step {
    fn texts_mut(&mut self) -> impl Iterator<Item = &mut String> {
        std::iter::once(&mut self.predicate).chain(self.by.values_mut())
    }
}

fn check_by<'a>(by: &[String], steps: impl Iterator<Item = &'a Step>) -> Result<(), String> {
    if by.len() > BY_MAX || by.iter().collect::<BTreeSet<_>>().len() < by.len() {
        return Err(format!("by is not up to {BY_MAX} different names"));
    }
    let known = |step: &Step| step.by.keys().chain(&step.each).find(|name| !by.contains(name)).cloned();
    steps.into_iter().find_map(known).map_or(Ok(()), |name| Err(format!("a step maps {name}, which is not in by")))
}

fn check_within(name: &str, value: Duration) -> Result<(), String> {
    if value < Duration::from_millis(1) || value > WITHIN_MAX {
        return Err(format!("{name} is not between 1ms and 90days"));
    }
    Ok(())
}

/// The predicates of a rule as expressions over `events`.
pub(super) struct Planned {
    steps: Vec<PlannedStep>,
    absent: Vec<PlannedStep>,
}

struct PlannedStep {
    predicate: Expr,
    by: Vec<Expr>,
    each: Option<usize>,
}

/// A rule's predicates, ready to run.
#[derive(Debug)]
pub(crate) struct Steps {
    /// Of an absence: `after`, if there is one, then `expect`.
    pub(crate) steps: Vec<LoweredStep>,
    pub(crate) absent: Vec<LoweredStep>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct LoweredStep {
    /// Only these can be it; None if the predicate does not say.
    pub(crate) event_names: Option<BTreeSet<String>>,
    pub(crate) predicate: Arc<dyn PhysicalExpr>,
    pub(crate) by: Vec<Arc<dyn PhysicalExpr>>,
    /// Which of `by` is a list.
    pub(crate) each: Option<usize>,
}

/// Parses the predicates of a rule; None for kinds without any.
pub(super) fn plan(session: &SessionContext, rule: &RuleFile) -> Result<Option<Planned>, String> {
    let schema = DFSchema::try_from_qualified_schema("events", &events_schema()).map_err(|error| plain(&error))?;
    let parse = |text: &str| {
        let expr = session.parse_sql_expr(text, &schema).map_err(|error| format!("{text:?}: {}", plain(&error)))?;
        check_expression(&expr, false).map(|()| expr).map_err(|reason| format!("{text:?}: {reason}"))
    };
    let step = |step: &Step, by: &[String]| {
        let each = step.each.as_ref().and_then(|each| by.iter().position(|name| name == each));
        let by = by.iter().map(|name| parse(step.by.get(name).unwrap_or(name))).collect::<Result<_, _>>()?;
        Ok::<_, String>(PlannedStep { predicate: parse(&step.predicate)?, by, each })
    };
    let all = |steps: &[Step], by: &[String]| steps.iter().map(|found| step(found, by)).collect::<Result<Vec<_>, _>>();
    if let Some(sequence) = &rule.sequence {
        let (steps, absent) = (all(&sequence.steps, &sequence.by)?, all(&sequence.absent, &sequence.by)?);
        return Ok(Some(Planned { steps, absent }));
    }
    let Some(absence) = &rule.absence else { return Ok(None) };
    let steps: Vec<Step> = absence.after.iter().chain([&absence.expect]).cloned().collect();
    Ok(Some(Planned { steps: all(&steps, &absence.by)?, absent: Vec::new() }))
}

impl Planned {
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expr> {
        self.all().flat_map(|step| step.by.iter().chain([&step.predicate]))
    }

    fn all(&self) -> impl Iterator<Item = &PlannedStep> {
        self.steps.iter().chain(&self.absent)
    }

    /// The event names that can be a step at all; None if some step does not say.
    pub(super) fn event_names(&self) -> Option<BTreeSet<String>> {
        let names: Option<Vec<_>> = self.all().map(|step| event_names(&step.predicate)).collect();
        Some(names?.into_iter().flatten().collect())
    }

    pub(super) fn lower(
        &self,
        input: &Schema,
        physical: impl Fn(&Expr) -> Result<Arc<dyn PhysicalExpr>, String>,
    ) -> Result<Steps, String> {
        let step = |step: &PlannedStep| {
            let by = step.by.iter().map(&physical).collect::<Result<_, _>>()?;
            let predicate = physical(&step.predicate)?;
            if predicate.data_type(input).map_err(|error| plain(&error))? != DataType::Boolean {
                return Err(format!("{} is no truth value", step.predicate));
            }
            let event_names = event_names(&step.predicate);
            Ok::<_, String>(LoweredStep { event_names, predicate, by, each: step.each })
        };
        Ok(Steps {
            steps: self.steps.iter().map(step).collect::<Result<_, _>>()?,
            absent: self.absent.iter().map(step).collect::<Result<_, _>>()?,
        })
    }
}
