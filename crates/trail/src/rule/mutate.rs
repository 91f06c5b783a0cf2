//! Rules changed on purpose: a test that still passes does not test what was changed.
//!
//! Each rule is tried with its threshold one higher and one lower, its windows halved and doubled, its other numeric
//! params one higher and one lower where they decide what matches (a tenth, if they are no whole numbers), each conjunct
//! of its conditions and of its steps' dropped and negated, each step once more and once less, and in the other order. A
//! mutant that does not load is no mutant. Works on the header's members by name and on the SELECT's tree, so that new
//! kinds of rules need nothing here.

use super::file::{self, Overrides, RuleFile};
use super::load::Planner;
use super::test::run_one;
use super::{Rule, RuleSet, Sequence, Step};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, JoinConstraint, JoinOperator, Query, SetExpr, Statement, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use humantime_serde::re::humantime::{format_duration, parse_duration};
use std::sync::Arc;

/// Header members that are windows of time, wherever they stand.
const WINDOWS: [&str; 7] = ["window", "within", "forget", "bucket", "history", "min_history", "learning"];

/// What begins a length of time in SQL.
const INTERVAL: &str = "INTERVAL '";

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// The rule's file.
    pub file: String,
    /// The rule.
    pub rule_id: String,
    /// What was changed.
    pub change: String,
    /// The test that noticed, if any did.
    pub killed_by: Option<String>,
}

/// Tries every mutant of the rules that `wanted` names.
pub fn mutate(set: &RuleSet, wanted: impl Fn(&Rule) -> bool) -> Result<Vec<Mutant>, String> {
    let planner = Planner::new(set).map_err(|error| error.to_string())?;
    let mut mutants = Vec::new();
    for rule in set.rules().iter().filter(|rule| wanted(rule)) {
        for (change, file) in changed(&rule.file) {
            let Some(mutant) = planner.plan(file).map(Arc::new) else { continue };
            let mut tests = mutant.header().test.iter();
            let killer = tests.find(|test| run_one(set, &mutant, test).is_err());
            mutants.push(Mutant {
                file: rule.file.path.clone(),
                rule_id: rule.id().to_owned(),
                change,
                killed_by: killer.map(|test| test.name.clone()),
            });
        }
    }
    Ok(mutants)
}

fn changed(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = thresholds(rule);
    mutants.extend(windows(rule));
    mutants.extend(params(rule));
    mutants.extend(intervals(rule));
    mutants.extend(predicates(rule));
    mutants.extend(steps(rule));
    mutants
}

fn thresholds(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let Some(gte) = rule.gte else { return Vec::new() };
    let of =
        |value: u64| (format!("threshold {value} instead of {gte}"), RuleFile { gte: Some(value), ..rule.clone() });
    [gte.checked_sub(1).filter(|&lower| lower > 0), Some(gte + 1)].into_iter().flatten().map(of).collect()
}

/// Windows halved and doubled, in the text: what they are called is all that is known of them.
fn windows(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    for (at, line) in rule.text.lines().enumerate() {
        let Some(content) = line.strip_prefix("-- ") else { continue };
        for name in WINDOWS {
            let Some((start, end)) = quoted_after(content, name) else { continue };
            let Ok(window) = parse_duration(&content[start..end]) else { continue };
            for (word, other) in [("halved", window / 2), ("doubled", window * 2)] {
                let line = format!("-- {}{}{}", &content[..start], format_duration(other), &content[end..]);
                let lines =
                    rule.text.lines().enumerate().map(|(other, text)| if other == at { line.as_str() } else { text });
                let text = lines.collect::<Vec<_>>().join("\n");
                let params = rule.header.params.clone();
                if let Ok(file) = file::parse(&rule.path, text.as_bytes(), &params) {
                    mutants.push((format!("{name} {word}"), file));
                }
            }
        }
    }
    mutants
}

/// Where the text of `name = ".."` is in a line, if the line has it.
fn quoted_after(line: &str, name: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(found) = line[from..].find(name) {
        let (before, start) = (line[..from + found].chars().next_back(), from + found + name.len());
        let rest = line[start..].trim_start();
        let whole = before.is_none_or(|before| !before.is_alphanumeric() && before != '_');
        if whole
            && let Some(value) = rest.strip_prefix('=').map(str::trim_start).and_then(|value| value.strip_prefix('"'))
        {
            let at = line.len() - value.len();
            return Some((at, at + value.find('"')?));
        }
        from = start;
    }
    None
}

/// Lengths of time in the SELECT halved and doubled.
fn intervals(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    for (at, _) in rule.sql.match_indices(INTERVAL) {
        let (before, rest) = rule.sql.split_at(at + INTERVAL.len());
        let Some((text, after)) = rest.split_once('\'') else { continue };
        let Ok(length) = parse_duration(text) else { continue };
        for (word, other) in [("halved", length / 2), ("doubled", length * 2)] {
            let sql = format!("{before}{} seconds'{after}", other.as_secs());
            mutants.push((format!("interval of {text} {word}"), RuleFile { sql, ..rule.clone() }));
        }
    }
    mutants
}

/// Params that decide what matches: those in the SELECT, and those that the header names outside of the severity.
fn params(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    for (name, value) in &rule.header.params {
        let others = match value {
            toml::Value::Integer(number) => [number - 1, number + 1].map(toml::Value::Integer),
            toml::Value::Float(number) => [number * 0.9, number * 1.1].map(toml::Value::Float),
            _ => continue,
        };
        let placeholder = format!("${name}");
        let names = |line: &str| {
            let at = line.find(&placeholder).map(|at| at + placeholder.len());
            at.is_some_and(|end| !line[end..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        let decides = |line: &str| {
            let content = line.strip_prefix("-- ").unwrap_or(line).trim_start();
            names(line) && !content.starts_with("severity") && !content.starts_with("threshold")
        };
        if !rule.text.lines().any(decides) {
            continue;
        }
        for other in others {
            let mut params: Overrides = rule.header.params.clone();
            params.insert(name.clone(), other.clone());
            if let Ok(file) = file::parse(&rule.path, rule.text.as_bytes(), &params) {
                mutants.push((format!("${name} {other} instead of {value}"), file));
            }
        }
    }
    mutants
}

/// Each conjunct dropped and negated: of the SELECT, with its params in place so that none is missed afterwards, and of
/// what steps match.
fn predicates(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    let query = parsed(&rule.sql);
    let count = query.clone().map_or(0, |mut query| conditions(&mut query).len());
    for (query, at) in query.iter().flat_map(|query| (0..count).map(move |at| (query, at))) {
        let condition = conditions(&mut query.clone()).into_iter().nth(at).cloned();
        for (what, changed) in condition.map(changed_conjuncts).unwrap_or_default() {
            let mut query = query.clone();
            conditions(&mut query).into_iter().nth(at).into_iter().for_each(|place| *place = changed.clone());
            mutants.push((what, RuleFile { sql: query.to_string(), ..rule.clone() }));
        }
    }
    mutants
}

/// What steps match, how often, and in which order.
fn steps(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    for at in 0..steps_of(&mut rule.clone()).len() {
        let mut with = |change: &mut dyn FnMut(&mut Step) -> Option<String>| {
            let mut rule = rule.clone();
            let what = steps_of(&mut rule).into_iter().nth(at).and_then(change);
            mutants.extend(what.map(|what| (format!("step {}, {what}", at + 1), rule)));
        };
        let mut conditions = Vec::new();
        with(&mut |step| {
            let parser = Parser::new(&GenericDialect {}).try_with_sql(&step.predicate);
            conditions = parser.and_then(|mut parser| parser.parse_expr()).map(changed_conjuncts).unwrap_or_default();
            None
        });
        for (what, condition) in conditions {
            with(&mut |step| {
                step.predicate = condition.to_string();
                Some(what.clone())
            });
        }
        with(&mut |step| {
            step.at_least = step.at_least.checked_sub(1).filter(|&fewer| fewer > 0)?;
            Some("once less".into())
        });
        with(&mut |step| {
            step.at_least += 1;
            Some("once more".into())
        });
    }
    if let Some(Sequence { ordered, .. }) = &rule.sequence {
        let mut other = rule.clone();
        other.sequence.iter_mut().for_each(|sequence| sequence.ordered = !ordered);
        mutants.push((if *ordered { "in any order" } else { "in order" }.into(), other));
    }
    mutants
}

fn steps_of(rule: &mut RuleFile) -> Vec<&mut Step> {
    let sequence = rule.sequence.iter_mut().flat_map(|sequence| sequence.steps.iter_mut().chain(&mut sequence.absent));
    let absence = rule.absence.iter_mut();
    sequence.chain(absence.flat_map(|absence| absence.after.iter_mut().chain([&mut absence.expect]))).collect()
}

/// A condition without one of its conjuncts, and with that negated.
fn changed_conjuncts(condition: Expr) -> Vec<(String, Expr)> {
    let mut conjuncts = Vec::new();
    split(condition, &mut conjuncts);
    let mut changed = Vec::new();
    for (at, conjunct) in conjuncts.iter().enumerate() {
        let others = conjuncts.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other.clone());
        let negated =
            Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(Box::new(conjunct.clone()))) };
        let with = |more: Option<Expr>| {
            others.clone().chain(more).reduce(and).unwrap_or_else(|| Expr::value(Value::Boolean(true)))
        };
        changed.push((format!("without: {conjunct}"), with(None)));
        changed.push((format!("negated: {conjunct}"), with(Some(negated))));
    }
    changed
}

fn and(left: Expr, right: Expr) -> Expr {
    let nested = |expr: Expr| match expr {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => Box::new(Expr::Nested(Box::new(expr))),
        other => Box::new(other),
    };
    Expr::BinaryOp { left: nested(left), op: BinaryOperator::And, right: nested(right) }
}

fn split(expr: Expr, into: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            split(*left, into);
            split(*right, into);
        }
        Expr::Nested(inner) if matches!(*inner, Expr::BinaryOp { op: BinaryOperator::And, .. }) => split(*inner, into),
        other => into.push(other),
    }
}

fn parsed(sql: &str) -> Option<Query> {
    match Parser::parse_sql(&GenericDialect {}, sql).ok()?.into_iter().next() {
        Some(Statement::Query(query)) => Some(*query),
        _ => None,
    }
}

/// The conditions of a SELECT: of its joins, WHERE and HAVING.
fn conditions(query: &mut Query) -> Vec<&mut Expr> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Vec::new() };
    let joins = select.from.iter_mut().flat_map(|table| &mut table.joins);
    let on = joins.filter_map(|join| match &mut join.join_operator {
        JoinOperator::Join(JoinConstraint::On(on))
        | JoinOperator::Inner(JoinConstraint::On(on))
        | JoinOperator::Left(JoinConstraint::On(on))
        | JoinOperator::LeftOuter(JoinConstraint::On(on)) => Some(on),
        _ => None,
    });
    on.chain(&mut select.selection).chain(&mut select.having).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn shipped() -> RuleSet {
        RuleSet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")).unwrap()
    }

    #[test]
    fn no_mutant_of_a_shipped_rule_survives_its_tests() {
        let mutants = mutate(&shipped(), |_| true).unwrap();
        let alive: Vec<String> = mutants
            .iter()
            .filter(|mutant| mutant.killed_by.is_none())
            .map(|mutant| format!("{}: {}", mutant.file, mutant.change))
            .collect();
        assert!(alive.is_empty(), "{} of {} mutants live:\n{}", alive.len(), mutants.len(), alive.join("\n"));
        assert!(mutants.len() > 80, "{}", mutants.len());
    }

    #[test]
    fn a_rule_is_changed_in_each_of_its_parts() {
        let rule = shipped().rule("denied-burst").unwrap().file.clone();
        let changes: Vec<String> = changed(&rule).into_iter().map(|(change, _)| change).collect();
        assert_eq!(
            changes,
            [
                "threshold 9 instead of 10",
                "threshold 11 instead of 10",
                "window halved",
                "window doubled",
                "without: error_code = 'AccessDenied'",
                "negated: error_code = 'AccessDenied'",
                "without: actor_class NOT IN ('service', 'trail')",
                "negated: actor_class NOT IN ('service', 'trail')",
            ]
        );
    }

    #[test]
    fn windows_are_found_by_their_names() {
        let found = |line: &str, name: &str| quoted_after(line, name).map(|(start, end)| line[start..end].to_owned());
        assert_eq!(found("window = \"5m\"", "window"), Some("5m".into()));
        assert_eq!(found("sequence = { by = [\"a\"], within = \"1h\" }", "within"), Some("1h".into()));
        assert_eq!(found("short_window = \"5m\"", "window"), None);
        assert_eq!(found("params = { window_days = 7 }", "window"), None);
    }
}
