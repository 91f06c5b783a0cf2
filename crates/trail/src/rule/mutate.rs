//! Rules changed on purpose: a test that still passes does not test what was changed.
//!
//! Each rule is tried with its threshold one higher and one lower, its windows halved and doubled, its other numeric
//! params one higher and one lower where they decide what matches, and each conjunct of its WHERE dropped and negated.
//! A mutant that does not load is no mutant. Works on the header's members by name and on the SELECT's tree, so that new
//! kinds of rules need nothing here.

use super::file::{self, Overrides, RuleFile};
use super::lower;
use super::test::run_one;
use super::{Rule, RuleSet};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SetExpr, Statement, UnaryOperator};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use humantime_serde::re::humantime::{format_duration, parse_duration};
use std::sync::Arc;

/// Header members that are windows of time, wherever they stand.
const WINDOWS: [&str; 2] = ["window", "within"];

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
    let session = lower::session().map_err(|error| error.to_string())?;
    let mut mutants = Vec::new();
    for rule in set.rules().iter().filter(|rule| wanted(rule)) {
        for (change, file) in changed(&rule.file) {
            let Ok(lowered) = lower::lower(&session, &file) else { continue };
            let mutant = Arc::new(Rule { file, lowered });
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
    mutants.extend(predicates(rule));
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

/// Params that decide what matches: those in the SELECT, and those that the header names outside of the severity.
fn params(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let mut mutants = Vec::new();
    for (name, value) in &rule.header.params {
        let Some(number) = value.as_integer() else { continue };
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
        for other in [number - 1, number + 1] {
            let mut params: Overrides = rule.header.params.clone();
            params.insert(name.clone(), toml::Value::Integer(other));
            if let Ok(file) = file::parse(&rule.path, rule.text.as_bytes(), &params) {
                mutants.push((format!("${name} {other} instead of {number}"), file));
            }
        }
    }
    mutants
}

/// Each conjunct dropped and negated. On the SELECT with its params in place, so that none is missed afterwards.
fn predicates(rule: &RuleFile) -> Vec<(String, RuleFile)> {
    let Some(predicate) = select_of(&rule.sql, |selection| selection.clone()).flatten() else { return Vec::new() };
    let mut conjuncts = Vec::new();
    split(predicate, &mut conjuncts);
    let mut mutants = Vec::new();
    for (at, conjunct) in conjuncts.iter().enumerate() {
        let others = conjuncts.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other.clone());
        let negated =
            Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(Box::new(conjunct.clone()))) };
        let with = |more: Option<Expr>| others.clone().chain(more).reduce(and);
        for (what, selection) in [("without", with(None)), ("negated", with(Some(negated)))] {
            let sql = replaced(&rule.sql, selection);
            mutants.extend(sql.map(|sql| (format!("{what}: {conjunct}"), RuleFile { sql, ..rule.clone() })));
        }
    }
    mutants
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

/// What `look` makes of the WHERE of a SELECT.
fn select_of<T>(sql: &str, look: impl FnOnce(&mut Option<Expr>) -> T) -> Option<T> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let Some(Statement::Query(query)) = statements.first_mut() else { return None };
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    Some(look(&mut select.selection))
}

fn replaced(sql: &str, selection: Option<Expr>) -> Option<String> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let Some(Statement::Query(query)) = statements.first_mut() else { return None };
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    select.selection = selection;
    Some(query.to_string())
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
