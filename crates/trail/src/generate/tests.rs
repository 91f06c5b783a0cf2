//! What traffic is like: equal bytes for equal seeds, events as the node writes them, attacks where the labels say.

use super::*;
use crate::lake::decode::decode;
use crate::rule::test::frame;
use arrow::array::{Array, AsArray, RecordBatch};
use keytrail_kms::chain::Link;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

fn options(attacks: bool) -> Options {
    Options {
        seed: 7,
        start_us: crate::rule::test::START_US - 12 * HOUR_US,
        days: 2,
        principals: 60,
        events_per_day: 2_000,
        attacks: attacks.then(|| Attacks { from_day: 0, each: 1, kinds: Vec::new() }),
    }
}

fn batch(events: &[Generated]) -> RecordBatch {
    let mut prev = Link::ZERO;
    let mut frames = Vec::new();
    for (seq, event) in (0..).zip(events) {
        let payload: Value = serde_json::from_slice(&event.payload).unwrap();
        let verified = frame(seq, u64::try_from(event.time_us).unwrap(), prev, &payload);
        prev = verified.frame.link();
        frames.push(verified);
    }
    decode(&frames)
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    let all = |options: &Options| Traffic::new(options).unwrap().collect::<Vec<_>>();
    let first = all(&options(true));
    assert!(first.len() > 3_000 && first.len() < 20_000, "{}", first.len());
    assert_eq!(first, all(&options(true)));
    assert_ne!(first, all(&Options { seed: 8, ..options(true) }));
    assert!(first.windows(2).all(|pair| pair[0].time_us < pair[1].time_us));
}

#[test]
fn an_attack_does_not_change_what_others_do() {
    let who = |event: &Generated| {
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        (event["userIdentity"]["arn"].clone(), event["eventName"].clone(), event["eventID"].clone())
    };
    let benign: Vec<_> = Traffic::new(&options(false)).unwrap().map(|event| who(&event)).collect();
    let attacked: HashSet<String> =
        Traffic::new(&options(true)).unwrap().map(|event| format!("{:?}", who(&event))).collect();
    let kept = benign.iter().filter(|event| attacked.contains(&format!("{event:?}"))).count();
    assert!(kept * 10 > benign.len() * 9, "{kept} of {}", benign.len());
}

#[test]
fn every_event_reads_as_one_of_the_nodes_own() {
    let events: Vec<_> = Traffic::new(&options(true)).unwrap().collect();
    let rows = batch(&events);
    assert_eq!(rows.column_by_name("parse_error").unwrap().null_count(), rows.num_rows());
    for name in ["event_id", "event_name", "region", "account", "actor_class", "source_ip", "read_only"] {
        assert_eq!(rows.column_by_name(name).unwrap().null_count(), 0, "{name}");
    }
    let column = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let distinct = |name: &str| column(name).iter().flatten().map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(distinct("actor_class").is_superset(&BTreeSet::from(["role", "root", "user"].map(str::to_owned))));
    assert!(distinct("principal_arn").len() >= 45);
    assert!(
        distinct("error_code")
            .is_superset(&BTreeSet::from(["AccessDenied", "InvalidCiphertextException"].map(str::to_owned)))
    );
    assert!(distinct("key_state_after").contains("PendingDeletion"));
    assert_eq!(distinct("event_id").len(), rows.num_rows());
    // Members of the envelope, as docs/event.md names them.
    let known: BTreeSet<&str> = BTreeSet::from([
        "eventVersion",
        "userIdentity",
        "eventTime",
        "eventSource",
        "eventName",
        "awsRegion",
        "sourceIPAddress",
        "userAgent",
        "errorCode",
        "errorMessage",
        "requestParameters",
        "responseElements",
        "additionalEventData",
        "requestID",
        "eventID",
        "readOnly",
        "resources",
        "eventType",
        "managementEvent",
        "recipientAccountId",
        "eventCategory",
    ]);
    for event in &events {
        let value: Value = serde_json::from_slice(&event.payload).unwrap();
        let members = value.as_object().unwrap();
        assert!(members.keys().all(|name| known.contains(name.as_str())), "{members:?}");
    }
}

#[test]
fn every_kind_of_attack_is_labelled_with_its_own_events() {
    let mut traffic = Traffic::new(&options(true)).unwrap();
    let mut events: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for event in &mut traffic {
        let value: Value = serde_json::from_slice(&event.payload).unwrap();
        let arn = value["userIdentity"]["arn"].as_str().unwrap_or_default().to_owned();
        events.insert(value["eventID"].as_str().unwrap().to_owned(), (event.time_us, arn));
    }
    let labels = traffic.labels();
    assert_eq!(labels.iter().map(|label| label.kind.as_str()).collect::<BTreeSet<_>>(), kinds().collect());
    for label in labels {
        assert!(!label.event_ids.is_empty() && !label.principals.is_empty(), "{label:?}");
        for id in &label.event_ids {
            let (time_us, arn) = &events[id];
            assert!((label.from_micros..label.to_micros).contains(time_us), "{label:?} {time_us}");
            assert!(label.principals.contains(arn), "{} {arn}", label.kind);
        }
    }
}

#[test]
fn what_is_written_is_what_an_import_reads() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let written = write(&options(true), &out).unwrap();
    assert_eq!((written.files, written.attacks), (1, kinds().count()));
    let labels = read_labels(&out.join(LABELS_FILE)).unwrap();
    assert_eq!(labels.len(), written.attacks);
    let mut text = String::new();
    let file = std::fs::File::open(out.join("00000000.json.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    let records: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(records["Records"].as_array().unwrap().len() as u64, written.events);
    assert!(matches!(write(&options(true), &out), Err(GenerateError::NotEmpty(_))));
}

#[test]
fn bounds_and_unknown_attacks_are_refused() {
    let refused = |options: Options| Traffic::new(&options).err().unwrap().to_string();
    assert_eq!(refused(Options { principals: 3, ..options(false) }), "principals is not between 30 and 100000");
    let attacks = Some(Attacks { from_day: 0, each: 1, kinds: vec!["theft".into()] });
    assert!(
        refused(Options { attacks, ..options(false) })
            .starts_with("no attack is called \"theft\"; there are mass-decrypt, ")
    );
}
