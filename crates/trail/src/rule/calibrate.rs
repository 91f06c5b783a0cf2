//! What other values of a rule's params would have done: a row for each value, from one pass over the data.
//!
//! Each value makes a variant of the rule, as a site's params file would; all variants run beside each other in one
//! engine. So it holds for params of any kind, in whatever part of the rule they are used.

use super::backtest::{BacktestError, Progress, Raised, Range, backtest};
use super::file::{self, Overrides};
use super::load::Planner;
use super::{RuleKind, RuleSet};
use crate::alert::Severity;
use crate::lake::snapshot::Snapshot;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Multiples of the value in force that are tried.
const FACTORS: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0];

/// One value of one param.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The rule.
    pub rule_id: String,
    /// The param, without its `$`.
    pub param: String,
    /// The value.
    pub value: f64,
    /// The one in force.
    pub in_force: bool,
    /// Alerts it would have raised.
    pub alerts: u64,
    /// Alerts a day.
    pub alerts_per_day: f64,
    /// Of them high or critical.
    pub high: u64,
    /// Different entities they were about.
    pub entities: u64,
}

struct Variant {
    param: String,
    value: f64,
    hash: String,
    in_force: bool,
}

/// Tries values of every number among the params of the rules, but for posture: it looks at the state, not at a range.
pub fn calibrate(
    snapshot: &Snapshot,
    rules: &RuleSet,
    range: &Range,
    progress: &Progress,
) -> Result<Vec<Setting>, BacktestError> {
    let mut variants: Vec<(String, Variant)> = Vec::new();
    let mut set = rules.only(|_| false);
    let planner = Planner::new(rules)?;
    for rule in rules.rules().iter().filter(|rule| rule.header().kind != RuleKind::Posture) {
        let mut known: BTreeSet<String> = BTreeSet::new();
        for (param, value) in &rule.header().params {
            for number in values(value) {
                let mut params: Overrides = rule.header().params.clone();
                let in_force = number == *value;
                params.insert(param.clone(), number.clone());
                // What a rule refuses, zero for a threshold, is no value to compare.
                let text = rule.file.text.as_bytes();
                let file = file::parse(&rule.file.path, text, &params).ok();
                let Some(other) = file.and_then(|file| planner.plan(file)) else { continue };
                let value = number.as_float().or(number.as_integer().map(|number| number as f64)).unwrap_or(0.0);
                let hash = other.hash().to_owned();
                variants.push((
                    rule.id().to_owned(),
                    Variant { param: param.clone(), value, hash: hash.clone(), in_force },
                ));
                if known.insert(hash) {
                    set.rules.push(Arc::new(other));
                }
            }
        }
    }
    if set.rules.is_empty() {
        return Ok(Vec::new());
    }
    let report = backtest(snapshot, &Arc::new(set), range, progress)?;
    let mut by_hash: BTreeMap<&str, Vec<&Raised>> = BTreeMap::new();
    for raised in &report.alerts {
        by_hash.entry(raised.rule.hash()).or_default().push(raised);
    }
    Ok(variants.into_iter().map(|(rule_id, variant)| setting(rule_id, variant, &by_hash, report.days())).collect())
}

fn setting(rule_id: String, variant: Variant, by_hash: &BTreeMap<&str, Vec<&Raised>>, days: f64) -> Setting {
    let alerts = by_hash.get(variant.hash.as_str()).map(Vec::as_slice).unwrap_or_default();
    let entities: BTreeSet<Vec<Option<&str>>> =
        alerts.iter().map(|alert| alert.entities.iter().map(|entity| entity.value.as_deref()).collect()).collect();
    Setting {
        rule_id,
        param: variant.param,
        value: variant.value,
        in_force: variant.in_force,
        alerts: alerts.len() as u64,
        alerts_per_day: alerts.len() as f64 / days,
        high: alerts.iter().filter(|alert| alert.severity >= Severity::High).count() as u64,
        entities: entities.len() as u64,
    }
}

/// Values around a number, without repeats; none for other types.
#[expect(clippy::cast_possible_truncation, reason = "a multiple of a param; `as` saturates and the loader judges it")]
fn values(value: &toml::Value) -> Vec<toml::Value> {
    let mut found: Vec<toml::Value> = Vec::new();
    for factor in FACTORS {
        let next = match value {
            toml::Value::Integer(number) => toml::Value::Integer((*number as f64 * factor).round() as i64),
            toml::Value::Float(number) => toml::Value::Float(number * factor),
            _ => return Vec::new(),
        };
        if !found.contains(&next) {
            found.push(next);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_surround_the_one_in_force_without_repeats() {
        let numbers = |value: i64| {
            values(&toml::Value::Integer(value)).iter().filter_map(toml::Value::as_integer).collect::<Vec<_>>()
        };
        assert_eq!(numbers(20), [2, 5, 10, 15, 20, 30, 40, 80, 200]);
        assert_eq!(numbers(1), [0, 1, 2, 4, 10]);
        assert!(values(&toml::Value::String("x".into())).is_empty());
    }
}
