//! `keytrail rules backtest | calibrate | diff | score`: rules over what is in the lake, beside a running node or without.

use crate::cli::{HistoryArgs, RangeArgs};
use crate::commands::progress::{self, left};
use crate::commands::{log, say};
use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use keytrail_kms::chain::LogId;
use keytrail_trail::generate::read_labels;
use keytrail_trail::lake::Snapshot;
use keytrail_trail::rule::backtest::{self, BacktestError, Progress, Raised, Range, Report};
use keytrail_trail::rule::difference::{self, Difference};
use keytrail_trail::rule::score::{self, Score};
use keytrail_trail::rule::{RuleSet, calibrate as calibration};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What calibration looks at unless told otherwise.
const CALIBRATED_DAYS: i64 = 30;
const DAY_US: i64 = 86_400_000_000;

pub(super) async fn backtest(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let history = History::open(&args.over).await?;
    let rules = Arc::new(rules(&args)?);
    let report = history.report(&rules).await?;
    report.alerts.iter().for_each(|raised| print(raised, args.over.json));
    let trail_db = args.over.data.data.join("trail.db");
    let difference = if trail_db.exists() {
        let live = difference::live(&trail_db).with_context(|| format!("read {}", trail_db.display()))?;
        Some(difference::against_live(&report.alerts, live, &history.snapshot, &rules, &history.range))
    } else {
        None
    };
    if args.over.json {
        say(&summary(&report, difference.as_ref()).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("{} alerts over {} records of {:.1} days", report.alerts.len(), report.rows, report.days()));
    if let Some(difference) = &difference {
        tell(difference);
    }
    Ok(ExitCode::SUCCESS)
}

/// The line after the alerts.
fn summary(report: &Report, difference: Option<&Difference>) -> serde_json::Value {
    let live = difference.map(|difference| {
        json!({"same": difference.same, "missing": difference.missing,
            "extra": difference.extra.iter().map(|raised| &raised.alert_id).collect::<Vec<_>>(),
            "severity": difference.severity.iter().map(|(live, now)| json!({"alertId": live.alert_id, "live": live.severity, "now": now.severity})).collect::<Vec<_>>(),
            "changedRules": difference.changed})
    });
    json!({"alerts": report.alerts.len(), "records": report.rows, "live": live})
}

fn tell(difference: &Difference) {
    for live in &difference.missing {
        say(&format!("missing  {} {} {}, raised live only", live.severity, live.rule_id, live.alert_id));
    }
    for raised in &difference.extra {
        say(&format!("extra    {} {} {}, not raised live", raised.severity, raised.rule_id, raised.alert_id));
    }
    for (live, raised) in &difference.severity {
        say(&format!("severity {} {}: {} live, {} now", live.rule_id, live.alert_id, live.severity, raised.severity));
    }
    if !difference.changed.is_empty() {
        let changed: Vec<&str> = difference.changed.iter().map(String::as_str).collect();
        say(&format!("changed since they raised alerts live: {}", changed.join(", ")));
    }
    say(&format!(
        "compared with live: {} the same, {} missing, {} extra, {} of another severity",
        difference.same,
        difference.missing.len(),
        difference.extra.len(),
        difference.severity.len()
    ));
}

pub(super) async fn calibrate(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    let mut history = History::open(&args.over).await?;
    if history.range.from_us.is_none() {
        history.range.from_us = history.last_us().map(|last| last - CALIBRATED_DAYS * DAY_US);
    }
    let rules = rules(&args)?;
    let settings =
        history.run(move |snapshot, range, progress| calibration::calibrate(snapshot, &rules, range, progress)).await?;
    if args.over.json {
        for setting in &settings {
            say(&serde_json::to_string(setting).context("write a setting")?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut before = String::new();
    for setting in &settings {
        let name = format!("{} ${}", setting.rule_id, setting.param);
        if name != before {
            say(&format!(
                "{name}\n{:>14} {:>10} {:>12} {:>10} {:>10}",
                "value", "alerts", "alerts/day", "high", "entities"
            ));
        }
        before = name;
        let mark = if setting.in_force { " <- in force" } else { "" };
        say(&format!(
            "{:>14} {:>10} {:>12.2} {:>10} {:>10}{mark}",
            setting.value, setting.alerts, setting.alerts_per_day, setting.high, setting.entities
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn diff(old: &Path, new: &Path, over: RangeArgs) -> anyhow::Result<ExitCode> {
    let (old, new) = (RuleSet::load_path(old)?, RuleSet::load_path(new)?);
    let history = History::open(&over).await?;
    let change =
        history.run(move |snapshot, range, progress| difference::change(snapshot, &old, &new, range, progress)).await?;
    for (word, alerts) in [("gained", &change.gained), ("lost", &change.lost)] {
        for raised in alerts {
            if over.json {
                say(&json!({"change": word, "alert": raised}).to_string());
            } else {
                say(&format!("{word:<7} {}", line(raised)));
            }
        }
    }
    for (old, new) in &change.severity {
        if over.json {
            say(&json!({"change": "severity", "from": old.severity, "alert": new}).to_string());
        } else {
            say(&format!("was {}: {}", old.severity, line(new)));
        }
    }
    if !over.json {
        say(&format!(
            "{} rules differ; {} alerts gained, {} lost, {} of another severity, {} the same, over {} records",
            change.rules.len(),
            change.gained.len(),
            change.lost.len(),
            change.severity.len(),
            change.same,
            change.rows
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn score(args: HistoryArgs, labels: &Path) -> anyhow::Result<ExitCode> {
    let labels = read_labels(labels)?;
    let history = History::open(&args.over).await?;
    let rules = Arc::new(rules(&args)?);
    let report = history.report(&rules).await?;
    let score =
        history.run(move |snapshot, range, progress| score::score(snapshot, &report, &labels, range, progress)).await?;
    if args.over.json {
        say(&serde_json::to_string(&score).context("write the score")?);
    } else {
        table(&score);
    }
    Ok(if score.reaches_the_bar() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(score: &Score) {
    say(&format!(
        "{:<26} {:>7} {:>6} {:>6} {:>7} {:>10} {:>10}  rules",
        "attack", "attacks", "found", "high", "recall", "precision", "incidents"
    ));
    for (kind, own) in &score.kinds {
        let rules: Vec<&str> = own.rules.iter().map(String::as_str).collect();
        say(&format!(
            "{kind:<26} {:>7} {:>6} {:>6} {:>7.2} {:>10.2} {:>10}  {}",
            own.attacks,
            own.found,
            own.found_high,
            own.recall(),
            own.precision,
            own.incidents_max,
            rules.join(", ")
        ));
    }
    say(&format!("\n{:<32} {:>6} {:>6} {:>11}", "rule", "true", "false", "false high"));
    for (rule, own) in &score.rules {
        say(&format!("{rule:<32} {:>6} {:>6} {:>11}", own.true_alerts, own.false_alerts, own.false_high));
    }
    let days = score.benign_days.max(1) as f64;
    say(&format!(
        "\n{} days without attacks: {:.2} alerts a day, {:.2} of them high or critical, at most {} on one day",
        score.benign_days,
        score.benign_alerts as f64 / days,
        score.benign_high as f64 / days,
        score.benign_high_max
    ));
    let (found, all) = score.kinds.values().fold((0, 0), |(found, all), kind| (found + kind.found, all + kind.attacks));
    let spread = score.kinds.values().filter(|kind| kind.incidents_max > 1).count();
    say(&format!("{found} of {all} attacks found; {spread} kinds in more than one incident"));
    let (incidents, shared) = (score.incidents, score.attacks_per_incident_max);
    say(&format!("{incidents} incidents have alerts of attacks, at most {shared} attacks in one"));
    let bar = format!(
        "every attack found as one incident, at most {} high or critical alerts on a benign day",
        score::HIGH_PER_BENIGN_DAY_MAX
    );
    say(&format!("bar ({bar}): {}", if score.reaches_the_bar() { "reached" } else { "not reached" }));
}

fn print(raised: &Raised, json: bool) {
    let text = if json { serde_json::to_string(raised).unwrap_or_default() } else { line(raised) };
    say(&text);
}

fn line(raised: &Raised) -> String {
    let time = DateTime::from_timestamp_micros(raised.first_event_micros).unwrap_or_default();
    let entities = raised.entities.iter().map(|entity| entity.value.as_deref().unwrap_or("-"));
    format!(
        "{} {:<8} {} {} ({} events, seq {})",
        time.to_rfc3339_opts(SecondsFormat::Secs, true),
        raised.severity.as_str(),
        raised.rule_id,
        plain(&entities.collect::<Vec<_>>().join(" ")),
        raised.matched,
        raised.evidence.first().map_or_else(|| "-".to_owned(), ToString::to_string)
    )
}

/// Names come from strangers: a terminal must not obey them.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// The rules asked for: a folder named, the data folder's own, or the shipped ones.
fn rules(args: &HistoryArgs) -> anyhow::Result<RuleSet> {
    let own = args.over.data.data.join("rules");
    let dir = args.rules.clone().or_else(|| own.is_dir().then_some(own));
    let set = RuleSet::load(super::Folder::of(dir)?.path())?;
    let Some(id) = &args.rule else { return Ok(set) };
    if set.rule(id).is_none() {
        bail!("no rule is called {id:?}");
    }
    Ok(set.only(|rule| rule.id() == id))
}

/// Records to run over.
struct History {
    snapshot: Arc<Snapshot>,
    range: Range,
}

impl History {
    async fn open(args: &RangeArgs) -> anyhow::Result<Self> {
        let dir = &args.data.data;
        let snapshot = log::snapshot(dir).await?;
        let log = args.log.as_deref().map(|name| named(dir, &snapshot, name)).transpose()?;
        let micros = |time: Option<DateTime<chrono::Utc>>| time.map(|time| time.timestamp_micros());
        Ok(Self { snapshot, range: Range { from_us: micros(args.from), to_us: micros(args.to), log } })
    }

    /// Time of the last event.
    fn last_us(&self) -> Option<i64> {
        let logs = self.snapshot.logs().iter().filter(|(log, _)| self.range.log.is_none_or(|own| own == **log));
        logs.filter_map(|(_, log)| log.files.last().map(|file| file.event_times().1)).max()
    }

    async fn report(&self, rules: &Arc<RuleSet>) -> anyhow::Result<Report> {
        let rules = rules.clone();
        self.run(move |snapshot, range, progress| backtest::backtest(snapshot, &rules, range, progress)).await
    }

    /// Runs on a thread of its own, shows how far it is, and stops it on a signal.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshot, &Range, &Progress) -> Result<T, BacktestError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let progress = Arc::new(Progress::default());
        let (shown, stop) = (progress.clone(), progress.clone());
        let mut signal = crate::commands::stop_signal()?;
        let waiting = tokio::spawn(async move {
            signal.wait().await;
            stop.stop();
        });
        let bar = progress::Progress::begin(move |took| state(&shown, took));
        let (snapshot, range) = (self.snapshot.clone(), self.range);
        let done = tokio::task::spawn_blocking(move || work(&snapshot, &range, &progress)).await;
        bar.end().await;
        waiting.abort();
        Ok(done.context("wait for the run")??)
    }
}

fn state(progress: &Progress, took: Duration) -> (f64, String) {
    let (rows, total) = (progress.rows.load(Ordering::Relaxed), progress.rows_total.load(Ordering::Relaxed));
    let done = rows as f64 / total.max(1) as f64;
    let rate = rows as f64 / took.as_secs_f64().max(0.001);
    (done, format!("{rows}/{total} records, {rate:.0}/s, {}", left(done, took)))
}

/// The log with this id, or that of the import with this name.
fn named(dir: &Path, snapshot: &Snapshot, name: &str) -> anyhow::Result<LogId> {
    let id = LogId::from_hex(name).or_else(|| {
        let vkey = dir.join(keytrail_trail::import::FOLDER).join(name).join("vkey");
        let text = std::fs::read_to_string(vkey).ok()?;
        let key: keytrail_kms::chain::VerifyKey = text.trim().parse().ok()?;
        Some(LogId::of_origin(key.name()))
    });
    id.filter(|log| snapshot.logs().contains_key(log)).with_context(|| format!("no log or import is called {name:?}"))
}
