//! How good the rules are on labelled traffic: what they find, what they raise for nothing, and how often a day.
//!
//! An alert belongs to the attack whose events are in its evidence, else to one about the same principal or key at that
//! time: what an attack does to bystanders is found with it. Incidents are put together by the responder's own code,
//! `alert::grouping`, within its default window.

use super::backtest::{BacktestError, Detail, Progress, Raised, Range, Report, details};
use crate::alert::Severity;
use crate::alert::grouping::{Call, Candidate, Subject, WINDOW, extend, fitting};
use crate::generate::Label;
use crate::lake::snapshot::Snapshot;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const DAY_US: i64 = 86_400_000_000;

/// Most high and critical alerts on a day without attacks.
pub const HIGH_PER_BENIGN_DAY_MAX: u64 = 3;

/// How one kind of attack fared.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KindScore {
    /// Attacks.
    pub attacks: u64,
    /// Of them with an alert.
    pub found: u64,
    /// Of them with a high or critical alert.
    pub found_high: u64,
    /// Share of true alerts among all that the rules raised which found it.
    pub precision: f64,
    /// Most incidents that one of them was spread over.
    pub incidents_max: u64,
    /// Rules that found it.
    pub rules: BTreeSet<String>,
}

impl KindScore {
    /// Share of the attacks that were found.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.attacks.max(1) as f64
    }
}

/// How one rule fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleScore {
    /// Alerts that belong to an attack.
    pub true_alerts: u64,
    /// Alerts that belong to none.
    pub false_alerts: u64,
    /// Of them high or critical.
    pub false_high: u64,
}

/// The whole.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// By kind of attack.
    pub kinds: BTreeMap<String, KindScore>,
    /// By rule, of those that raised any.
    pub rules: BTreeMap<String, RuleScore>,
    /// Days (UTC) on which no attack was under way.
    pub benign_days: u64,
    /// Alerts on them.
    pub benign_alerts: u64,
    /// Of them high or critical.
    pub benign_high: u64,
    /// The most of these on one of them.
    pub benign_high_max: u64,
    /// Incidents that have alerts of an attack, and the most attacks in one of them: what is one incident must not be everything.
    pub incidents: u64,
    /// See there.
    pub attacks_per_incident_max: u64,
}

impl Score {
    /// Whether every attack was found as one incident, and few were woken for nothing.
    pub fn reaches_the_bar(&self) -> bool {
        let found = self.kinds.values().all(|kind| kind.found == kind.attacks && kind.incidents_max <= 1);
        found && self.benign_high_max <= HIGH_PER_BENIGN_DAY_MAX
    }
}

/// Judges a backtest's alerts by the labels. Reads the evidence's rows: not for an async thread.
pub fn score(
    snapshot: &Snapshot,
    report: &Report,
    labels: &[Label],
    range: &Range,
    progress: &Progress,
) -> Result<Score, BacktestError> {
    let wanted = report.alerts.iter().flat_map(|raised| raised.evidence.iter().map(|&seq| (raised.log.clone(), seq)));
    let details = details(snapshot, range, progress, &wanted.collect())?;
    Ok(judge(report, labels, &details))
}

fn judge(report: &Report, labels: &[Label], details: &BTreeMap<(String, u64), Detail>) -> Score {
    let mut by_event: HashMap<&str, usize> = HashMap::new();
    for (at, label) in labels.iter().enumerate() {
        by_event.extend(label.event_ids.iter().map(|id| (id.as_str(), at)));
    }
    let known: Vec<Known<'_>> = report.alerts.iter().map(|raised| Known::of(raised, details)).collect();
    let attacks: Vec<Option<usize>> = known.iter().map(|alert| alert.attack(labels, &by_event)).collect();
    let incidents = incidents(&known);
    let mut score = Score::default();
    let mut shared: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (incident, attack) in incidents.iter().zip(&attacks) {
        shared.entry(*incident).or_default().extend(attack);
    }
    let attacked = shared.values().map(BTreeSet::len).filter(|attacks| *attacks > 0);
    score.incidents = attacked.clone().count() as u64;
    score.attacks_per_incident_max = attacked.max().unwrap_or(0) as u64;
    for (raised, attack) in report.alerts.iter().zip(&attacks) {
        let rule = score.rules.entry(raised.rule_id.clone()).or_default();
        match attack {
            Some(_) => rule.true_alerts += 1,
            None => {
                rule.false_alerts += 1;
                rule.false_high += u64::from(raised.severity >= Severity::High);
            }
        }
    }
    for (at, label) in labels.iter().enumerate() {
        let own: Vec<usize> = (0..attacks.len()).filter(|&alert| attacks[alert] == Some(at)).collect();
        let kind = score.kinds.entry(label.kind.clone()).or_default();
        kind.attacks += 1;
        kind.found += u64::from(!own.is_empty());
        kind.found_high += u64::from(own.iter().any(|&alert| report.alerts[alert].severity >= Severity::High));
        let spread = own.iter().map(|&alert| incidents[alert]).collect::<BTreeSet<_>>().len() as u64;
        kind.incidents_max = kind.incidents_max.max(spread);
        kind.rules.extend(own.iter().map(|&alert| report.alerts[alert].rule_id.clone()));
    }
    for kind in score.kinds.values_mut() {
        let of = |count: fn(&RuleScore) -> u64| {
            kind.rules.iter().filter_map(|rule| score.rules.get(rule)).map(count).sum::<u64>()
        };
        let (right, wrong): (u64, u64) = (of(|rule| rule.true_alerts), of(|rule| rule.false_alerts));
        kind.precision = right as f64 / (right + wrong).max(1) as f64;
    }
    benign(&mut score, report, labels);
    score
}

/// Counts the alerts of whole days that no attack touches.
fn benign(score: &mut Score, report: &Report, labels: &[Label]) {
    let Some((first, last)) = report.span_us else { return };
    let day = |time_us: i64| time_us.div_euclid(DAY_US);
    let attacked: BTreeSet<i64> =
        labels.iter().flat_map(|label| day(label.from_micros)..=day(label.to_micros)).collect();
    let mut high: BTreeMap<i64, u64> =
        (day(first)..=day(last)).filter(|day| !attacked.contains(day)).map(|day| (day, 0)).collect();
    score.benign_days = high.len() as u64;
    for raised in &report.alerts {
        let Some(count) = high.get_mut(&day(raised.last_event_micros)) else { continue };
        score.benign_alerts += 1;
        *count += u64::from(raised.severity >= Severity::High);
    }
    score.benign_high = high.values().sum();
    score.benign_high_max = high.values().copied().max().unwrap_or(0);
}

/// An alert with what its evidence says.
struct Known<'a> {
    raised: &'a Raised,
    /// Newest first: what completes an alert says whose it is, a use long before may be another attack's.
    events: Vec<&'a str>,
    principals: BTreeSet<&'a str>,
    keys: BTreeSet<&'a str>,
    /// Oldest first.
    calls: Vec<Call>,
}

impl<'a> Known<'a> {
    fn of(raised: &'a Raised, details: &'a BTreeMap<(String, u64), Detail>) -> Self {
        let rows: Vec<&Detail> =
            raised.evidence.iter().rev().filter_map(|&seq| details.get(&(raised.log.clone(), seq))).collect();
        let all = |of: fn(&Detail) -> Option<&str>| rows.iter().filter_map(|row| of(row)).collect();
        Self {
            raised,
            events: rows.iter().filter_map(|row| row.event_id.as_deref()).collect(),
            principals: all(|row| row.principal.as_deref()),
            keys: all(|row| row.key_arn.as_deref()),
            calls: rows.iter().rev().map(|row| row.call.clone()).collect(),
        }
    }

    fn attack(&self, labels: &[Label], by_event: &HashMap<&str, usize>) -> Option<usize> {
        if let Some(attack) = self.events.iter().find_map(|id| by_event.get(id)) {
            return Some(*attack);
        }
        labels.iter().position(|label| {
            let during =
                self.raised.first_event_micros <= label.to_micros && self.raised.last_event_micros >= label.from_micros;
            let about = |own: &BTreeSet<&str>, named: &[String]| named.iter().any(|name| own.contains(name.as_str()));
            during && (about(&self.principals, &label.principals) || about(&self.keys, &label.keys))
        })
    }
}

/// The number of each alert's incident, which they join in the order in which they are told.
fn incidents(alerts: &[Known<'_>]) -> Vec<usize> {
    let window_us = i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX);
    let mut open: Vec<Candidate<usize>> = Vec::new();
    let mut order: Vec<usize> = (0..alerts.len()).collect();
    order.sort_by_key(|&at| alerts[at].raised.told_micros);
    let mut homes = vec![0; alerts.len()];
    for index in order {
        let alert = &alerts[index];
        let raised = alert.raised;
        let times = (raised.first_event_micros, raised.last_event_micros);
        let subject = Subject::new(raised.entity("principal_arn"), &raised.alert_id, times, &alert.calls);
        let home = fitting(&subject, open.iter().rev().cloned(), window_us).first().copied();
        let at = home.unwrap_or(open.len());
        if at == open.len() {
            open.push(Candidate {
                id: at,
                group: subject.group.clone(),
                principals: BTreeSet::new(),
                keys: BTreeSet::new(),
                first_us: subject.first_us,
                opened_us: raised.told_micros,
                last_us: subject.last_us,
            });
        }
        let incident = &mut open[at];
        extend(&mut incident.principals, &subject);
        incident.first_us = incident.first_us.min(subject.first_us);
        incident.last_us = incident.last_us.max(subject.last_us);
        incident.keys.extend(alert.keys.iter().map(|key| (*key).to_owned()));
        homes[index] = at;
    }
    homes
}
