//! Each control on a clean log, on one with its seeded violation, and on an empty period.

mod seeds;
mod world;

use super::control::{Control, Period, Site};
use super::controls::{self, Outcome, Scope, Verdict};
use super::shipped::SETS;
use super::statement::{self, Facts, LogFacts};
use super::tables;
use crate::query::Limits;
use seeds::Seed;
use std::collections::BTreeMap;
use std::path::Path;
use world::{DAY_US, START_US, World};

/// Ten days that hold everything of the clean log.
const PERIOD: Period = Period { from_us: START_US, to_us: START_US + 10 * DAY_US };
/// Before there was a log.
const EMPTY: Period = Period { from_us: START_US - 30 * DAY_US, to_us: START_US - 20 * DAY_US };

/// What a site says about itself.
const SITE: &str = r#"
[key-custodians]
approved = ["arn:aws:iam::111122223333:user/administrator", "arn:aws:iam::111122223333:user/keymaker", "arn:aws:iam::111122223333:user/app"]
[tagged-decrypts]
approved = ["arn:aws:iam::111122223333:user/app"]
[key-inventory]
origins = ["AWS_KMS", "EXTERNAL"]
"#;

async fn outcomes(data: &Path, set: &str, site: &str, period: Period, limits: &Limits) -> Vec<Outcome> {
    let session = tables::session(data, limits).unwrap();
    let all = Control::of_set(set, &Site::parse(site).unwrap(), &period).unwrap();
    controls::run(&session, all, &Scope { period, redacted: false }).await.unwrap()
}

/// Everything that went wrong, at once: there are sixty controls.
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_clean_period_meets_every_control_and_says_the_same_twice() {
    let pack = World::clean().pack(&PERIOD).await;
    let mut wrong = Vec::new();
    for set in SETS {
        let first = outcomes(pack.path(), set, SITE, PERIOD, &controls::limits()).await;
        for Outcome { result, csv, .. } in first.iter().filter(|outcome| outcome.result.verdict != Verdict::Met) {
            wrong.push(format!(
                "{set} {}: {} {:?}\n{}",
                result.id,
                result.reason,
                result.named,
                String::from_utf8_lossy(csv)
            ));
        }
        let other = Limits { partitions: 5, ..controls::limits() };
        let again = outcomes(pack.path(), set, SITE, PERIOD, &other).await;
        for (one, two) in first.iter().zip(&again) {
            assert_eq!(one.csv, two.csv, "{}", one.result.id);
            assert_eq!(one.result, two.result);
        }
    }
    assert_none(&wrong);
}

#[tokio::test]
async fn an_empty_period_is_never_met() {
    let pack = World::clean().pack(&EMPTY).await;
    for set in SETS {
        for outcome in outcomes(pack.path(), set, SITE, EMPTY, &controls::limits()).await {
            assert_eq!(outcome.result.verdict, Verdict::CannotBeShown, "{set} {:?}", outcome.result);
            assert_eq!(outcome.result.reason, "the log has no record from this period");
        }
    }
}

#[tokio::test]
async fn every_control_finds_its_seeded_violation() {
    type Shared = (Seed, Vec<(&'static str, Control)>);
    let mut wrong = Vec::new();
    // Clauses that share a violation share the pack, too.
    let mut by_seed: BTreeMap<&str, Shared> = BTreeMap::new();
    for set in SETS {
        for control in Control::of_set(set, &Site::parse(SITE).unwrap(), &PERIOD).unwrap() {
            match seeds::of(&control.header) {
                Some(seed) => by_seed.entry(seed.id).or_insert((seed, Vec::new())).1.push((set, control)),
                None => wrong.push(format!("{set} {} has no seeded violation", control.header.id)),
            }
        }
    }
    for (seed, asked) in by_seed.into_values() {
        let mut world = World::clean();
        (seed.plant)(&mut world);
        let pack = world.pack(&PERIOD).await;
        let session = tables::session(pack.path(), &controls::limits()).unwrap();
        let (sets, all): (Vec<&str>, Vec<Control>) = asked.into_iter().unzip();
        let scope = Scope { period: PERIOD, redacted: false };
        for (set, Outcome { result, csv, .. }) in sets.iter().zip(controls::run(&session, all, &scope).await.unwrap()) {
            let named = result.named.iter().any(|why| why.contains(seed.names));
            if result.verdict != Verdict::Exceptions || !named {
                let (id, reason, csv) = (&result.id, &result.reason, String::from_utf8_lossy(&csv));
                wrong.push(format!("{set} {id} does not name {:?}: {reason} {:?}\n{csv}", seed.names, result.named));
            }
        }
    }
    assert_none(&wrong);
}

#[tokio::test]
async fn what_nobody_approved_and_what_is_withheld_is_not_met() {
    let pack = World::clean().pack(&PERIOD).await;
    let all = outcomes(pack.path(), "pci-dss-4", "", PERIOD, &controls::limits()).await;
    let custodians = &all.iter().find(|outcome| outcome.result.id == "3.6.1").unwrap().result;
    assert_eq!((custodians.verdict, custodians.exceptions), (Verdict::CannotBeShown, 0));
    assert!(custodians.reviews > 0 && custodians.reason.contains("for a person to judge"), "{custodians:?}");

    let mut world = World::clean();
    world.erase_one();
    let pack = world.pack(&PERIOD).await;
    let session = tables::session(pack.path(), &controls::limits()).unwrap();
    for (redacted, verdict) in [(false, Verdict::Met), (true, Verdict::CannotBeShown)] {
        let all = Control::of_set("iso27001", &Site::parse(SITE).unwrap(), &PERIOD).unwrap();
        let all = controls::run(&session, all, &Scope { period: PERIOD, redacted }).await.unwrap();
        let fields = &all.iter().find(|outcome| outcome.result.id == "A.8.15").unwrap().result;
        assert_eq!(fields.verdict, verdict, "{fields:?}");
        assert!(fields.reason.contains("1 events"), "{fields:?}");
    }
}

#[tokio::test]
async fn a_control_file_may_neither_write_nor_ask_the_clock() {
    let pack = World::clean().pack(&PERIOD).await;
    let session = tables::session(pack.path(), &controls::limits()).unwrap();
    let control = Control::of_set("soc2", &Site::default(), &PERIOD).unwrap().remove(0);
    for sql in [
        "SELECT 'ok' AS finding, 'x' AS why FROM events WHERE event_time < now() ORDER BY 1, 2",
        "SELECT 'ok' AS finding, CAST(random() AS VARCHAR) AS why ORDER BY 1, 2",
        "SELECT 'ok' AS finding, 'x' AS why FROM events WHERE seq IN (SELECT CAST(random() AS BIGINT)) ORDER BY 1, 2",
        "INSERT INTO keys SELECT * FROM keys ORDER BY 1, 2",
        "SELECT 'ok' AS finding, 'x' AS why FROM '/etc/passwd' ORDER BY 1, 2",
        "SELECT 'ok' AS finding, 'x' AS why, seq FROM records ORDER BY 1, 2",
        "SELECT 'ok' AS finding, 'x' AS why, seq FROM records",
        "SELECT 'fine' AS finding, 'x' AS why ORDER BY 1, 2",
        "SELECT 'ok' AS verdict, 'x' AS why ORDER BY 1, 2",
    ] {
        let control = Control { sql: sql.to_owned(), ..control.clone() };
        let scope = Scope { period: PERIOD, redacted: false };
        assert!(controls::run(&session, vec![control], &scope).await.is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_destroyed_key_is_proved_gone() {
    let pack = World::clean().pack(&PERIOD).await;
    let all = outcomes(pack.path(), "pci-dss-4", SITE, PERIOD, &controls::limits()).await;
    let destroyed = all.iter().find(|outcome| outcome.result.id == "3.7.5").unwrap();
    let csv = String::from_utf8_lossy(&destroyed.csv);
    let row = csv.lines().nth(1).unwrap();
    assert!(
        row.contains(
            "was destroyed after 8 days of waiting, by request of arn:aws:iam::111122223333:user/administrator"
        ),
        "{row}"
    );
    assert!(row.ends_with(",2026-01-05T12:00:28.000000Z,0,0"), "last use before it, none after, no restore: {row}");
}

#[tokio::test]
async fn the_statement_says_what_was_found_and_a_name_stays_a_name() {
    let mut world = World::clean();
    world.call(world::grant("<b>eve</b>\"#panic()", "<b>eve</b>\"#panic()"));
    world.at(9 * 86_400, keytrail_kms::chain::Kind::EpochStart, world::start(2, true));
    world.at(9 * 86_400 + 5, keytrail_kms::chain::Kind::EpochStart, world::start(3, true));
    let pack = world.pack(&PERIOD).await;
    let results = outcomes(pack.path(), "soc2", SITE, PERIOD, &controls::limits()).await;
    let log = LogFacts {
        origin: "keytrail/test/node-0123456789abcdef".to_owned(),
        first: 0,
        last: 1_234,
        time_first: START_US.unsigned_abs(),
        time_last: (START_US + DAY_US).unsigned_abs(),
        size: 1_235,
        root: "ab".repeat(32),
        counts: [(1, 1_200), (5, 35)].into(),
        withheld: 0,
        erased: 2,
        cosigned: Vec::new(),
    };
    let cosigned = LogFacts {
        time_last: (START_US + 11 * DAY_US).unsigned_abs(),
        cosigned: vec![("witness.example".to_owned(), Some(1_768_000_000))],
        ..log.clone()
    };
    let facts = Facts {
        tool: "keytrail test".to_owned(),
        created_at: "2026-02-01T00:00:00Z".to_owned(),
        exported_by: "auditor <a@b>".to_owned(),
        period: PERIOD,
        control_set: Some("soc2".to_owned()),
        redaction: None,
        logs: vec![log, cosigned],
        results: results.into_iter().map(|outcome| outcome.result).collect(),
        remarks: vec!["A remark.".to_owned()],
    };
    let session = tables::session(pack.path(), &controls::limits()).unwrap();
    let page = statement::render(&session, &facts).await.unwrap().html();
    for sentence in [
        "user/&lt;b&gt;eve&lt;/b&gt;&quot;#panic() gave themselves a grant on",
        "Made 2026-02-01T00:00:00Z by auditor &lt;a@b&gt;",
        "A run ended without a recorded stop; logging went on at 2026-01-14 12:00.",
        "The end of the period is not covered",
        "2 records of keytrail/test/node-0123456789abcdef were erased",
        "Nobody outside cosigned it",
        "cosigned by witness.example at 2026-01-09 23:06:40 UTC",
        "proved to record 1,234, cosigned at 2026-01-09 23:06:40 UTC",
        "8 days 0 h, of 7",
        "A remark.",
    ] {
        assert!(page.contains(sentence), "{sentence}\n{page}");
    }
    assert!(!page.contains("<b>eve"));
}
