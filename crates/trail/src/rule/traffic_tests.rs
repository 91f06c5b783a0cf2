//! The shipped rules over generated traffic with attacks: one set of alerts, however the stream is delivered and cut, and
//! the same from the lake.

use super::backtest::{Progress, Range, Report, backtest, columns, widen};
use super::calibrate::calibrate;
use super::difference::change;
use super::load::tests::copy;
use super::score::score;
use super::test::{Random, START_US, frame};
use super::{Engine, RuleSet};
use crate::generate::{Attacks, LABELS_FILE, Options, Traffic, kinds, read_labels, write};
use crate::import::{Source, import};
use crate::lake::decode::decode;
use crate::lake::snapshot::Snapshot;
use crate::land::VerifiedFrame;
use crate::query::open_folder;
use keytrail_kms::chain::Link;
use keytrail_kms::clock::SystemClock;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

fn rules_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
}

fn options(events_per_day: u32) -> Options {
    let attacks = Some(Attacks { from_day: 0, each: 1, kinds: Vec::new() });
    Options { seed: 11, start_us: START_US - 43_200_000_000, days: 1, principals: 40, events_per_day, attacks }
}

fn frames() -> Vec<VerifiedFrame> {
    let mut prev = Link::ZERO;
    let traffic = Traffic::new(&options(400)).unwrap();
    let frames = (0..).zip(traffic).map(|(seq, event)| {
        let payload: Value = serde_json::from_slice(&event.payload).unwrap();
        let verified = frame(seq, u64::try_from(event.time_us).unwrap(), prev, &payload);
        prev = verified.frame.link();
        verified
    });
    frames.collect()
}

/// Rules and alert ids.
type Alerts = BTreeSet<String>;

fn run(engine: &mut Engine, frames: &[&VerifiedFrame], rows: usize, into: &mut Alerts) {
    for chunk in frames.chunks(rows) {
        let owned: Vec<VerifiedFrame> = chunk.iter().map(|frame| (*frame).clone()).collect();
        for finding in engine.process(&decode(&owned)).unwrap() {
            into.insert(format!("{} {}", finding.rule.id(), finding.alert_id));
        }
    }
}

/// Out of order by up to 100 s, which is within the lateness, and every fifth event twice.
fn disordered(frames: &[VerifiedFrame]) -> Vec<&VerifiedFrame> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut delivery: Vec<(u64, usize)> = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let at = frame.leaf.time_us + random.below(50_000_000);
        delivery.push((at, index));
        if random.below(5) == 0 {
            delivery.push((at + random.below(50_000_000), index));
        }
    }
    delivery.sort_unstable();
    delivery.into_iter().map(|(_, index)| &frames[index]).collect()
}

#[test]
fn one_set_of_alerts_however_traffic_is_delivered_and_cut() {
    let rules = Arc::new(RuleSet::load(&rules_dir()).unwrap());
    let frames = frames();
    let sorted: Vec<&VerifiedFrame> = frames.iter().collect();
    let mut wanted = Alerts::new();
    run(&mut Engine::new(rules.clone()), &sorted, 10_000, &mut wanted);
    let fired: BTreeSet<&str> = wanted.iter().filter_map(|alert| alert.split(' ').next()).collect();
    assert!(fired.len() >= 10, "{fired:?}");
    for (name, delivery) in [("sorted", &sorted), ("disordered", &disordered(&frames))] {
        for rows in [1, 7, 10_000] {
            let mut found = Alerts::new();
            run(&mut Engine::new(rules.clone()), delivery, rows, &mut found);
            assert!(found.iter().eq(wanted.iter()), "{name}, batches of {rows}: {} and {}", found.len(), wanted.len());
        }
    }
    // Killed in mid-window: what was not stored comes again.
    let delivery = disordered(&frames);
    let (mut engine, mut found, mut at) = (Engine::new(rules.clone()), Alerts::new(), 0);
    while at < delivery.len() {
        let to = (at + 613).min(delivery.len());
        run(&mut engine, &delivery[at..to], 64, &mut found);
        let stored = engine.snapshot();
        run(&mut engine, &delivery[to..(to + 100).min(delivery.len())], 64, &mut found);
        engine = Engine::restore(rules.clone(), &stored).unwrap();
        at = to;
    }
    assert!(found.iter().eq(wanted.iter()), "{} and {}", found.len(), wanted.len());
}

async fn lake(dir: &Path) -> Snapshot {
    std::fs::create_dir_all(dir.join("data")).unwrap();
    write(&options(600), &dir.join("traffic")).unwrap();
    let source = Source::Local(dir.join("traffic"));
    import(&dir.join("data"), "traffic", source, Arc::new(SystemClock), Arc::default()).await.unwrap();
    open_folder(&dir.join("data")).await.unwrap()
}

fn run_lake(snapshot: &Snapshot, rules: &Arc<RuleSet>, range: &Range) -> Report {
    backtest(snapshot, rules, range, &Progress::default()).unwrap()
}

#[tokio::test]
async fn a_backtest_finds_what_the_engine_finds_and_the_score_knows_why() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = lake(dir.path()).await;
    let rules = Arc::new(RuleSet::load(&rules_dir()).unwrap());
    let report = run_lake(&snapshot, &rules, &Range::default());
    // All columns give the same as those that the rules name.
    let read = columns(&rules);
    assert!(!read.iter().any(|name| name == "salt"), "{read:?}");
    let (log, _) = snapshot.logs().iter().next().unwrap();
    let mut engine = Engine::new(rules.clone());
    let mut alerts = BTreeSet::new();
    let all: Vec<String> =
        crate::lake::schema::records_schema().fields().iter().map(|field| field.name().clone()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for batch in snapshot.batches_from(*log, &all, 0) {
        let findings = engine.process(&widen(&batch.unwrap()).unwrap()).unwrap();
        alerts.extend(findings.into_iter().map(|finding| finding.alert_id));
    }
    assert_eq!(report.alerts.iter().map(|raised| raised.alert_id.clone()).collect::<BTreeSet<_>>(), alerts);

    let labels = read_labels(&dir.path().join("traffic").join(LABELS_FILE)).unwrap();
    let score = score(&snapshot, &report, &labels, &Range::default(), &Progress::default()).unwrap();
    assert_eq!(score.kinds.len(), kinds().count());
    // Those that need no past: the traffic is a day long.
    for kind in ["context-sweep", "policy-public", "policy-then-destroy", "grant-to-self", "used-key-deleted"] {
        assert_eq!(score.kinds[kind].found, 1, "{kind}");
    }
    assert!(score.kinds["policy-public"].rules.contains("key-policy-public"));
    assert_eq!(score.rules["key-policy-public"].false_alerts, 0);
    assert_eq!(score.benign_days, 0);

    // Half the day raises no more than the whole, and the same where it raises.
    let (first, last) = report.span_us.unwrap();
    let half = Range { to_us: Some(first + (last - first) / 2), ..Range::default() };
    let half = run_lake(&snapshot, &rules, &half);
    assert!(half.alerts.len() < report.alerts.len() && !half.alerts.is_empty());
    assert!(half.alerts.iter().all(|raised| alerts.contains(&raised.alert_id)));
}

#[tokio::test]
async fn what_exceptions_mute_is_muted_in_a_backtest_too() {
    let (lake_dir, rules) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = lake(lake_dir.path()).await;
    copy(&rules_dir(), rules.path());
    let raised = || {
        let rules = Arc::new(RuleSet::load(rules.path()).unwrap().only(|rule| rule.id() == "many-contexts"));
        run_lake(&snapshot, &rules, &Range::default()).alerts.len()
    };
    assert!(raised() > 0);
    std::fs::create_dir_all(rules.path().join("exceptions")).unwrap();
    let exception = |created: &str, expires: &str| {
        let text = format!(
            "rules = [\"many-contexts\"]\npredicate = \"principal_arn IS NOT NULL\"\nowner = \"sec\"\nticket = \"T-1\"\n\
             reason = \"r\"\ncreated = \"{created}T00:00:00Z\"\nexpires = \"{expires}T00:00:00Z\"\n"
        );
        std::fs::write(rules.path().join("exceptions/sweep.toml"), text).unwrap();
    };
    exception("2026-01-01", "2026-02-01");
    assert_eq!(raised(), 0);
    exception("2025-01-01", "2025-02-01");
    assert!(raised() > 0, "judged by the events' time");
}

#[tokio::test]
async fn calibration_and_difference_agree_with_the_rules_they_vary() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = lake(dir.path()).await;
    let rules = RuleSet::load(&rules_dir()).unwrap();
    let sweep = rules.only(|rule| rule.id() == "many-contexts");
    let mut settings = calibrate(&snapshot, &sweep, &Range::default(), &Progress::default()).unwrap();
    settings.retain(|setting| setting.param == "limit");
    let in_force: Vec<_> = settings.iter().filter(|setting| setting.in_force).collect();
    assert_eq!((in_force.len(), in_force[0].value), (1, 20.0));
    let report = run_lake(&snapshot, &Arc::new(sweep), &Range::default());
    assert_eq!(in_force[0].alerts, report.alerts.len() as u64);
    assert!(settings.is_sorted_by(|a, b| a.value <= b.value && a.alerts >= b.alerts), "{settings:?}");
    assert!(settings[0].alerts > settings[settings.len() - 1].alerts);

    let changed = dir.path().join("many-contexts.sql");
    let text = std::fs::read_to_string(rules_dir().join("kms/many-contexts.sql")).unwrap();
    std::fs::write(&changed, text.replace("limit = 20", "limit = 100000")).unwrap();
    assert!(RuleSet::load_path(&changed).is_err(), "beyond the bound of a threshold");
    std::fs::write(&changed, text.replace("limit = 20", "limit = 60000")).unwrap();
    let old = RuleSet::load_path(&rules_dir().join("kms/many-contexts.sql")).unwrap();
    let new = RuleSet::load_path(&changed).unwrap();
    let change = change(&snapshot, &old, &new, &Range::default(), &Progress::default()).unwrap();
    assert_eq!((change.gained.len(), change.lost.len()), (0, report.alerts.len()));
    let nothing = super::difference::change(&snapshot, &old, &old, &Range::default(), &Progress::default()).unwrap();
    assert_eq!((nothing.rules.len(), nothing.rows), (0, 0));
}
