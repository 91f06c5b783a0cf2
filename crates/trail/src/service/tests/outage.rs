//! A day that one trail follows as it comes, and another catches up with.

use super::*;
use crate::alert::Severity;
use crate::generate::{Attacks, Options, Traffic};
use std::collections::BTreeMap;

/// The alerts by id, each with its rule and the severity of its last revision. How many revisions lead there depends on the
/// batches in which the log was read. Without those about the moment: posture is what somebody saw who looked, and lag is
/// about the trail.
fn told(alerts: Vec<Alert>) -> BTreeMap<String, (String, Severity)> {
    let about_the_log = |alert: &Alert| alert.rule_kind != "posture" && alert.rule_id != "audit-lag";
    let told = alerts.into_iter().filter(about_the_log);
    told.map(|alert| (alert.alert_id, (alert.rule_id, alert.severity))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_a_trail_is_caught_up_with_by_the_same_alerts() {
    let node = Node::new();
    let signs = node.signs(Mood::Honest);
    let attacks = Some(Attacks { from_day: 0, each: 1, kinds: Vec::new() });
    let start_us = i64::try_from(FakeClock::START_US).unwrap();
    let options = Options { seed: 11, start_us, days: 1, principals: 40, events_per_day: 2_500, attacks };
    let events: Vec<_> = Traffic::new(&options).unwrap().collect();
    assert!(events.len() > 2_000, "{}", events.len());
    let trail = Trail::start(node.config(&signs)).await.unwrap();
    let mut next_seq = 0;
    for step in events.chunks(200) {
        let mut pending = Vec::new();
        for event in step {
            node.clock.set(event.time_us.unsigned_abs());
            let draft = Draft::new(Kind::Event, event.payload.clone().into()).unwrap();
            pending.push(node.journal.submit(draft, || Ok::<(), std::convert::Infallible>(())).unwrap());
        }
        for appended in pending {
            next_seq = appended.await.unwrap().seq + 1;
        }
        until(&trail, |status| status.positions.values().any(|&position| position == next_seq)).await;
    }
    trail.shutdown().await.unwrap();
    let followed = told(node.alerts());
    assert!(followed.len() > 50, "{}", followed.len());

    let dir = tempfile::tempdir().unwrap();
    let config = TrailConfig { dir: dir.path().to_owned(), ..node.config(&signs) };
    let trail = Trail::start(config).await.unwrap();
    until(&trail, |status| status.positions.values().any(|&position| position == next_seq)).await;
    trail.shutdown().await.unwrap();
    let caught_up = told(node.alerts_of(dir.path()));
    let only = |one: &BTreeMap<String, (String, Severity)>, other: &BTreeMap<String, (String, Severity)>| -> Vec<_> {
        one.iter().filter(|(id, told)| other.get(*id) != Some(told)).map(|(_, told)| told.clone()).collect()
    };
    assert_eq!((only(&followed, &caught_up), only(&caught_up, &followed)), (Vec::new(), Vec::new()));
}
