//! The kinds over several events against plain references: any order, batches, duplicates and restarts give one alert
//! set. Also here: limits and what the runs of rules say.

use super::*;
use crate::lake::decode::decode;
use crate::land::VerifiedFrame;
use crate::rule::test::{START_US, frame};
use arrow::array::new_null_array;
use keytrail_kms::chain::leaf::Link;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

type Ids = BTreeSet<(String, String)>;

fn rule(id: &str, kind: &str, more: &str) -> String {
    format!(
        "-- +++\n-- id = \"{id}\"\n-- version = 1\n-- kind = \"{kind}\"\n-- group_key = [\"principal_arn\"]\n\
         -- dedup_period = \"90s\"\n-- severity = \"low\"\n{more}\
         -- test = [{{ name = \"a\", given = {{ fixture = \"x\" }}, expect = {{ alerts = 1 }} }}, \
         {{ name = \"b\", given = {{ fixture = \"x\" }}, expect = {{ alerts = 0 }} }}]\n-- +++\n\
         SELECT principal_arn, event_time FROM events\n"
    )
}

fn load(rules: &[(&str, &str, &str)]) -> Result<Arc<RuleSet>, crate::rule::RuleSetError> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("kms")).unwrap();
    fs::create_dir_all(dir.path().join("fixtures")).unwrap();
    fs::write(dir.path().join("fixtures/x.json"), "{}").unwrap();
    for (id, kind, more) in rules {
        fs::write(dir.path().join(format!("kms/{id}.sql")), rule(id, kind, more)).unwrap();
    }
    RuleSet::load(dir.path()).map(Arc::new)
}

const STEPS: &str = "steps = [{ name = \"first\", where = \"event_name = 'A'\" }, \
    { where = \"event_name = $b\", at_least = 2 }, { name = \"last\", where = \"event_name = 'C'\" }], \
    absent = [{ where = \"event_name = 'X'\" }] }";

fn kinds() -> Arc<RuleSet> {
    let params = "-- params = { b = \"B\" }\n";
    let ordered = format!("{params}-- sequence = {{ by = [\"principal_arn\"], within = \"60s\", {STEPS}\n");
    let any =
        format!("{params}-- sequence = {{ by = [\"principal_arn\"], within = \"60s\", ordered = false, {STEPS}\n");
    let missing = "-- absence = { by = [\"principal_arn\"], after = { where = \"event_name = 'A'\" }, \
        expect = { where = \"event_name = 'B'\" }, within = \"30s\" }\n";
    let silent = "-- absence = { by = [\"principal_arn\"], expect = { where = \"event_name = 'B'\" }, \
        within = \"30s\", forget = \"200s\" }\n";
    load(&[
        ("any", "sequence", &any),
        ("missing", "absence", missing),
        ("ordered", "sequence", &ordered),
        ("silent", "absence", silent),
    ])
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Seconds after the start, principal, event name.
type Call = (i64, u8, char);

fn frames(calls: &[Call]) -> Vec<VerifiedFrame> {
    let mut prev = Link::ZERO;
    let mut frames = Vec::new();
    for (seq, (seconds, principal, name)) in calls.iter().enumerate() {
        let event = serde_json::json!({
            "eventName": name.to_string(),
            "userIdentity": { "type": "IAMUser", "arn": principal.to_string() },
            "requestParameters": { "granteePrincipal": "7" },
            "eventID": seq.to_string(),
        });
        let verified = frame(seq as u64, u64::try_from(START_US + seconds * 1_000_000).unwrap(), prev, &event);
        prev = verified.frame.link();
        frames.push(verified);
    }
    frames
}

/// A call `A` a second.
fn frames_of_a(count: i64) -> Vec<VerifiedFrame> {
    frames(&(0..count).map(|n| (n, 1, 'A')).collect::<Vec<_>>())
}

fn ids(engine: &mut Engine, frames: &[VerifiedFrame], rows: usize) -> Ids {
    let found = frames.chunks(rows).flat_map(|chunk| engine.process(&decode(chunk)).unwrap());
    found.map(|finding| (finding.rule.id().to_owned(), finding.alert_id)).collect()
}

fn alert(ids: &mut Ids, rule: &str, principal: u8, seconds: i64) {
    let bucket = alerts::bucket_start(START_US + seconds * 1_000_000, 90_000_000);
    ids.insert((rule.to_owned(), alert_id(rule, &[Some(&principal.to_string())], bucket)));
}

/// What the specification says, over events in order and without any state of the operator.
fn expected(calls: &[Call]) -> Ids {
    let mut ids = Ids::new();
    let end = calls.last().map_or(0, |call| call.0);
    for principal in 0..3 {
        let own: Vec<(i64, char)> =
            calls.iter().filter(|call| call.1 == principal).map(|call| (call.0, call.2)).collect();
        for (at, &(time, name)) in own.iter().enumerate() {
            let window = |from: usize| own.get(from..=at).unwrap_or_default().iter().filter(|call| call.0 > time - 60);
            let count = |from: usize, wanted: char| window(from).filter(|call| call.1 == wanted).count();
            if name != 'X'
                && name != 'Y'
                && count(0, 'X') == 0
                && count(0, 'A') > 0
                && count(0, 'B') > 1
                && count(0, 'C') > 0
            {
                alert(&mut ids, "any", principal, time);
            }
            let begins = |from: usize| own[from].1 == 'A' && own[from].0 > time - 60;
            let chain = |from: usize| begins(from) && count(from, 'X') == 0 && count(from, 'B') > 1;
            if name == 'C' && (0..at).any(chain) {
                alert(&mut ids, "ordered", principal, time);
            }
        }
        let mut since: Option<i64> = None;
        for (time, name) in own.iter().copied().chain([(end, ' ')]) {
            if let Some(began) = since.filter(|began| began + 30 < time) {
                alert(&mut ids, "missing", principal, began + 30);
                since = None;
            }
            match name {
                'B' => since = None,
                'A' => since = since.or(Some(time)),
                _ => {}
            }
        }
        let seen: Vec<i64> = own.iter().filter(|call| call.1 == 'B').map(|call| call.0).collect();
        for (index, last) in seen.iter().enumerate() {
            let next = seen.get(index + 1).copied().unwrap_or(end);
            // Buckets of 90 s, from the start on: it is a multiple of them.
            let later = (1..5).map(|bucket| ((last + 30) / 90 + bucket) * 90).filter(|due| *due < last + 200);
            for due in [last + 30].into_iter().chain(later).filter(|due| *due < next) {
                alert(&mut ids, "silent", principal, due);
            }
        }
    }
    ids
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let name = prop::sample::select(vec!['A', 'A', 'B', 'B', 'B', 'C', 'C', 'X', 'Y']);
    prop::collection::vec((0_i64..500, 0_u8..3, name), 1..120).prop_map(|mut calls| {
        calls.sort_by_key(|call| call.0);
        calls
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn order_duplicates_batches_and_restarts_change_nothing(
        calls in calls(),
        order in prop::collection::vec((any::<u32>(), prop::bool::weighted(0.2), any::<u32>()), 120),
        rows in prop::sample::select(vec![1_usize, 7, 10_000]),
        restart in 0_usize..150,
    ) {
        prop_assert_eq!(START_US % 90_000_000, 0);
        let (rules, frames, wanted) = (kinds(), frames(&calls), expected(&calls));
        prop_assert_eq!(&ids(&mut Engine::new(rules.clone()), &frames, rows), &wanted);

        let mut delivery: Vec<(u32, usize)> = Vec::new();
        for (index, (at, twice, again)) in order.iter().take(frames.len()).enumerate() {
            delivery.push((*at, index));
            delivery.extend(twice.then_some((*again, index)));
        }
        delivery.sort_unstable();
        let shuffled: Vec<VerifiedFrame> = delivery.iter().map(|(_, index)| frames[*index].clone()).collect();
        let cut = restart.min(shuffled.len());
        let mut first = Engine::new(rules.clone());
        let mut found = ids(&mut first, &shuffled[..cut], rows);
        let snapshot = first.snapshot();
        let mut second = Engine::restore(rules, &snapshot).unwrap();
        prop_assert_eq!(second.snapshot(), snapshot);
        found.extend(ids(&mut second, &shuffled[cut.saturating_sub(5)..], rows));
        prop_assert_eq!(&found, &wanted);
    }
}

#[test]
fn a_sequence_names_its_steps_and_proves_them_all() {
    let mut engine = Engine::new(kinds());
    let calls = [(0, 1, 'A'), (1, 1, 'B'), (2, 2, 'A'), (3, 1, 'B'), (4, 1, 'C')];
    let found = engine.process(&decode(&frames(&calls))).unwrap();
    let ordered = found.iter().find(|finding| finding.rule.id() == "ordered").unwrap();
    assert_eq!(ordered.evidence, [0, 1, 3, 4]);
    assert_eq!((ordered.matched, ordered.first_event_us, ordered.last_event_us), (4, START_US, START_US + 4_000_000));
    let steps: Vec<&str> =
        ordered.row["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["first", "step 2", "step 2", "last"]);
    assert_eq!(ordered.row["steps"][3]["seq"], 4);
    assert_eq!(ordered.row["event_time"], "2026-01-05T12:00:04Z");
}

#[test]
fn a_step_may_find_the_entity_in_another_place_and_a_window_of_90_days_is_cheap() {
    let sequence = "-- sequence = { by = [\"principal_arn\"], within = \"90days\", steps = [\
        { where = \"event_name = 'G'\", by = { principal_arn = \"'7'\" } }, { where = \"event_name = 'U'\" }] }\n";
    let rules = load(&[("used", "sequence", sequence)]).unwrap_or_else(|error| panic!("{error}"));
    let mut engine = Engine::new(rules);
    let calls: Vec<Call> =
        (0..2_000).map(|n| (n, 1, 'G')).chain([(80 * 86_400, 8, 'U'), (80 * 86_400, 7, 'U')]).collect();
    let found = engine.process(&decode(&frames(&calls))).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].evidence, [1_999, 2_001]);
    assert!(engine.snapshot().len() < 1_000, "one chain is kept, not 2,000 events");
}

#[test]
fn what_cannot_be_right_is_refused_with_the_reason() {
    let sequence = |table: &str| format!("-- sequence = {{ by = [\"principal_arn\"], {table} }}\n");
    let two = "steps = [{ where = \"mfa\" }, { where = \"read_only\" }]";
    for (kind, more, reason) in [
        ("sequence", String::new(), "needs sequence"),
        ("event", sequence(&format!("within = \"1h\", {two}")), "belongs to kind sequence"),
        ("sequence", sequence("within = \"1h\", steps = [{ where = \"mfa\" }]"), "2 steps at least"),
        ("sequence", sequence(&format!("within = \"91days\", {two}")), "90days"),
        (
            "sequence",
            sequence("within = \"1h\", steps = [{ where = \"mfa\" }, { where = \"mfa\", at_least = 16 }]"),
            "16 events at most",
        ),
        ("sequence", sequence("within = \"1h\", steps = [{ where = \"mfa\" }, { where = \"nothing\" }]"), "nothing"),
        (
            "sequence",
            sequence("within = \"1h\", steps = [{ where = \"mfa\" }, { where = \"random() > 0.5\" }]"),
            "chance",
        ),
        (
            "sequence",
            sequence("within = \"1h\", steps = [{ where = \"mfa\" }, { where = \"key_arn\" }]"),
            "truth value",
        ),
        (
            "absence",
            "-- absence = { expect = { where = \"mfa\" }, within = \"1h\", forget = \"1s\" }\n".into(),
            "shorter than within",
        ),
        (
            "absence",
            "-- absence = { expect = { where = \"mfa\" }, within = \"1h\", forget = \"80days\" }\n".into(),
            "dedup periods",
        ),
        ("event", "-- limits = { rows = 0 }\n".into(), "must not be 0"),
        ("event", "-- status = \"stable\"\n".into(), "blind_spots"),
    ] {
        let error = load(&[("r", kind, &more)]).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason:?} not in {error:?}");
    }
}

#[test]
fn a_rule_beyond_its_limits_is_stopped_and_told_of_while_the_others_go_on() {
    let expensive = "-- sequence = { by = [\"event_id\"], within = \"90days\", steps = [\
        { where = \"event_name = 'A'\" }, { where = \"event_name = 'Z'\" }] }\n-- limits = { state_entries = 50 }\n";
    let health = include_str!("../../../../../rules/meta/rule-health.sql");
    let dir = tempfile::tempdir().unwrap();
    for folder in ["kms", "meta", "fixtures"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("fixtures/x.json"), "{}").unwrap();
    fs::write(dir.path().join("fixtures/integrity.json"), "{}").unwrap();
    fs::write(dir.path().join("kms/expensive.sql"), rule("expensive", "sequence", expensive)).unwrap();
    fs::write(dir.path().join("kms/each.sql"), rule("each", "event", "")).unwrap();
    fs::write(dir.path().join("meta/rule-health.sql"), health).unwrap();
    let rules = Arc::new(RuleSet::load(dir.path()).unwrap_or_else(|error| panic!("{error}")));
    let mut engine = Engine::new(rules.clone());
    let frames = frames_of_a(60);
    let found = engine.process(&decode(&frames[..40])).unwrap();
    assert!(found.iter().all(|finding| finding.rule.id() == "each"));
    let told = engine.process(&decode(&frames[40..])).unwrap();
    let health = told.iter().find(|finding| finding.rule.id() == "rule-health").unwrap();
    assert_eq!(health.row["finding"], "rule-stopped");
    assert!(health.row["detail"].as_str().unwrap().contains("expensive: state_entries is 60, the limit is 50"));

    let runs = engine.take_runs();
    let run = |id: &str| runs.iter().find(|run| run.rule_id == id).unwrap().clone();
    let (each, expensive) = (run("each"), run("expensive"));
    assert_eq!((run("rule-health").runs, run("rule-health").findings), (1, 1));
    assert_eq!((expensive.runs, expensive.failed, expensive.events, expensive.matched), (2, 1, 60, 60));
    assert!(expensive.error.unwrap().starts_with("rule-stopped: state_entries"));
    assert_eq!((each.failed, each.first_seq, each.last_seq, each.error), (0, Some(0), Some(59), None));
    assert!(each.deduplicated > 0, "calls that went into a bucket with an alert");
    assert!(engine.take_runs().is_empty(), "asked once");

    // It stays stopped over a restart, and holds nothing.
    let snapshot = engine.snapshot();
    let mut restored = Engine::restore(rules, &snapshot).unwrap();
    let more: Vec<VerifiedFrame> = frames_of_a(80);
    restored.process(&decode(&more)).unwrap();
    assert!(restored.take_runs().iter().all(|run| run.rule_id != "expensive"));
}

/// Runs one rule over two batches, with its state stored in between; gives what its row in `rule_runs` will say.
fn limited(kind: &str, more: &str, events: i64) -> RuleRun {
    let health = include_str!("../../../../../rules/meta/rule-health.sql");
    let dir = tempfile::tempdir().unwrap();
    for folder in ["kms", "meta", "fixtures"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("fixtures/x.json"), "{}").unwrap();
    fs::write(dir.path().join("fixtures/integrity.json"), "{}").unwrap();
    fs::write(dir.path().join("kms/costly.sql"), rule("costly", kind, more)).unwrap();
    fs::write(dir.path().join("meta/rule-health.sql"), health).unwrap();
    let mut engine = Engine::new(Arc::new(RuleSet::load(dir.path()).unwrap_or_else(|error| panic!("{error}"))));
    let frames = frames_of_a(events);
    let (first, second) = frames.split_at(frames.len() - 10);
    let mut told = engine.process(&decode(first)).unwrap();
    engine.snapshot();
    told.extend(engine.process(&decode(second)).unwrap());
    let health = told.iter().find(|finding| finding.rule.id() == "rule-health").unwrap();
    assert_eq!(health.row["finding"], "rule-stopped");
    engine.take_runs().into_iter().find(|run| run.rule_id == "costly").unwrap()
}

#[test]
fn each_limit_of_a_rule_stops_it_and_stands_in_its_row() {
    let sequence = "-- sequence = { by = [\"event_id\"], within = \"90days\", steps = [\
        { where = \"event_name = 'A'\" }, { where = \"event_name = 'Z'\" }] }\n";
    for (kind, more, events, expected) in [
        // A bucket each ninety seconds.
        ("event", "-- limits = { rows = 5 }\n".to_owned(), 2_000, "rows is "),
        ("sequence", format!("{sequence}-- limits = {{ memory_mb = 1 }}\n"), 60_000, "memory_mb is "),
        // Twenty thousand records in one batch take more than one millisecond on any machine.
        ("sequence", format!("{sequence}-- limits = {{ time_ms = 1 }}\n"), 20_000, "time_ms is "),
    ] {
        let run = limited(kind, &more, events);
        assert_eq!(run.failed, 1, "{expected}: {run:?}");
        let error = run.error.unwrap();
        assert!(error.starts_with("rule-stopped: ") && error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_responder_that_goes_down_twice_on_a_day_is_told_twice() {
    let (shipped, dir) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules"), tempfile::tempdir().unwrap());
    for file in ["meta/responder-down.sql", "fixtures/report-responder.json", "fixtures/epoch-start.json"] {
        let to = dir.path().join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(shipped.join(file), to).unwrap();
    }
    let rules = Arc::new(RuleSet::load(dir.path()).unwrap_or_else(|error| panic!("{error}")));
    let rule = rules.rules()[0].clone();
    let mut engine = Engine::new(rules);
    let mut look = |minute: i64, last_report: &str| {
        let columns = rule.lowered.output_schema.fields().iter().map(|field| {
            let text = if field.name() == "event_id" { last_report } else { "1" };
            if field.name() == "last_report" {
                return new_null_array(field.data_type(), 1);
            }
            arrow::compute::cast(&StringArray::from(vec![text]), field.data_type()).unwrap()
        });
        let rows = RecordBatch::try_new(rule.lowered.output_schema.clone(), columns.collect()).unwrap();
        let now_us = START_US + minute * 60_000_000;
        let run = posture::Run { rule: rule.clone(), log: "log".into(), now_us, as_of: BTreeMap::new(), took_us: 1 };
        engine.posture(&run, &rows).unwrap().len()
    };
    assert_eq!([look(20, "a"), look(25, "a"), look(480, "b"), look(485, "b")], [1, 0, 1, 0]);
}
