//! Pruning and erasure as the running node does them.

use super::backup::{restored, take};
use super::*;
use crate::backup::Against;
use crate::journal::PruneDone;
use crate::verify::{Verdict, verify_folder};

/// Enough calls for three of the fixture's segments, and for full tiles over the first of them.
const CALLS: usize = 700;

fn prune(fixture: &Fixture) -> Option<PruneDone> {
    let node = Arc::clone(fixture.kms.as_ref().unwrap().node());
    std::thread::spawn(move || node.prune_journal(Duration::ZERO, false)).join().unwrap().unwrap()
}

fn durable(fixture: &Fixture) -> u64 {
    fixture.kms.as_ref().unwrap().health()().unwrap().durable_records
}

async fn restart(fixture: &mut Fixture) {
    fixture.stop().await;
    assert_eq!(verify_folder(fixture.dir(), |_| ()).verdict, Verdict::Verified);
    fixture.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_pruned_once_everything_has_landed_and_the_node_goes_on() {
    let mut fixture = Fixture::new().await;
    let (admin, key) = (fixture.admin(), create_key(&fixture.admin()).await);
    let context = json!({"filler": "f".repeat(6_000)});
    let mut blob = String::new();
    for _ in 0..CALLS {
        blob = encrypt(&admin, &key, b"kept", context.clone()).await;
    }
    // What the store keeps of the log is brought up to date by a stop.
    restart(&mut fixture).await;
    assert_eq!(prune(&fixture), None, "nobody has said that anything landed");
    let landed = durable(&fixture);
    let (code, _) = refused(&fixture.admin(), "KeytrailService.ReportLanded", json!({"NextSeq": landed})).await;
    assert_eq!(code, "AccessDeniedException", "an administrator is not the trail");
    let trail = fixture.client("service-credentials", "trail");
    let (code, _) = refused(&trail, "KeytrailService.ReportLanded", json!({"NextSeq": landed + 1_000})).await;
    assert_eq!(code, "ValidationException", "what is not there cannot have landed");
    ok(&trail, "KeytrailService.ReportLanded", json!({"NextSeq": landed})).await;
    let done = prune(&fixture).unwrap();
    assert!(done.minimum_index > 100 && done.minimum_index < landed, "{done:?}");
    let record = fixture.records().into_iter().rfind(|(leaf, _)| leaf.kind == Kind::Prune).unwrap();
    let record: Value = serde_json::from_slice(&record.1).unwrap();
    assert_eq!(record["minimumIndex"], done.minimum_index);
    assert_eq!((&record["firstRemoved"], &record["landedNextSeq"]), (&json!(0), &json!(landed)));
    assert_eq!(prune(&fixture), None);
    restart(&mut fixture).await;
    assert_eq!(verify_folder(fixture.dir(), |_| ()).first_seq, done.minimum_index);
    let body = json!({"CiphertextBlob": blob, "EncryptionContext": context});
    ok(&fixture.admin(), "TrentService.Decrypt", body.clone()).await;
    let trail = fixture.client("service-credentials", "trail");
    let frames = ok(&trail, "KeytrailService.GetFrames", json!({"FirstSeq": 0})).await;
    assert_eq!(frames.body["Frames"], json!([]), "what is gone is not made up");
    let (set, manifest) = take(fixture.dir()).await;
    let again = restored(set.path(), Against::Note(manifest.checkpoint), Arc::new(SystemClock)).await;
    ok(&again.admin(), "TrentService.Decrypt", body).await;
    assert_eq!(verify_folder(set.path(), |_| ()).first_seq, done.minimum_index);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_is_recorded_and_what_must_stay_is_refused() {
    let fixture = Fixture::new().await;
    let admin = fixture.admin();
    let key = create_key(&admin).await;
    let created = fixture.events().into_iter().rfind(|(_, event)| event.event_name == "CreateKey").unwrap().0.seq;
    let used = ok(&admin, "TrentService.DescribeKey", json!({"KeyId": key})).await.seq.unwrap();
    let erase = |first: u64, last: u64| json!({"Ranges": [{"First": first, "Last": last}], "Reason": "a person asked"});
    for (first, last, what) in [
        (0, 0, "an epoch-start"),
        (created, created, "a change"),
        (used - 1, used, "a range with a change in it"),
        (1_000_000, 1_000_000, "a record that does not exist"),
        (used, created, "a range that ends before it begins"),
        (0, 20_000, "too many"),
    ] {
        let (code, _) = refused(&admin, "KeytrailService.EraseRecords", erase(first, last)).await;
        assert_eq!(code, "ValidationException", "{what}");
    }
    let none = json!({"Ranges": [{"First": used, "Last": used}], "Reason": ""});
    assert_eq!(refused(&admin, "KeytrailService.EraseRecords", none).await.0, "ValidationException");
    assert!(fixture.records().iter().all(|(leaf, _)| leaf.kind != Kind::Erasure));
    let answer = ok(&admin, "KeytrailService.EraseRecords", erase(used, used)).await;
    assert_eq!(answer.body["Records"], 1);
    let (leaf, payload) = fixture.records().into_iter().find(|(leaf, _)| leaf.kind == Kind::Erasure).unwrap();
    assert_eq!(answer.body["ErasureSeq"], leaf.seq);
    let record: Value = serde_json::from_slice(&payload).unwrap();
    let event = fixture.event(answer.seq.unwrap());
    assert_eq!(record["ranges"], json!([{"first": used, "last": used}]));
    assert_eq!((&record["reason"], &record["eventID"]), (&json!("a person asked"), &json!(event.event_id)));
    assert_eq!(record["principalArn"], json!(event.user_identity.arn));
    assert!(!event.read_only && event.request_parameters.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_trail_says_what_was_queried_and_texts_are_cut() {
    let fixture = Fixture::new().await;
    let statement = "é".repeat(20_000);
    let body = json!({
        "QueryId": "q", "User": "alice", "Door": "postgres", "ClientAddress": "192.0.2.1:5", "Application": "a".repeat(9_000),
        "Statement": statement, "StatementBytes": 40_000, "StatementSha256": "00",
        "Parameters": ["é".repeat(9_000), null], "ParameterCount": 2,
    });
    let (code, _) = refused(&fixture.admin(), "KeytrailService.RunQuery", body.clone()).await;
    assert_eq!(code, "AccessDeniedException", "an administrator is not the trail");
    let trail = fixture.client("service-credentials", "trail");
    let seq = ok(&trail, "KeytrailService.RunQuery", body).await.seq.unwrap();
    let parameters = fixture.event(seq).request_parameters.unwrap();
    assert_eq!((&parameters["user"], &parameters["door"]), (&json!("alice"), &json!("postgres")));
    assert_eq!(parameters["statement"].as_str().unwrap().len(), 16 * 1024);
    assert_eq!(parameters["application"].as_str().unwrap().len(), 256);
    assert_eq!(parameters["parameters"][0].as_str().unwrap().len(), 256);
    assert_eq!((&parameters["parameters"][1], &parameters["parameterCount"]), (&json!(null), &json!(2)));
    let end = json!({"QueryId": "q", "User": "alice", "Outcome": "ok", "Rows": 3, "Bytes": 4, "DurationMicros": 5});
    let event = fixture.event(ok(&trail, "KeytrailService.EndQuery", end).await.seq.unwrap());
    assert_eq!(event.request_parameters.unwrap()["rows"], 3);
    let few = json!({"QueryId": "q", "User": "alice", "Door": "http", "Statement": "SELECT 1"});
    let event = fixture.event(ok(&trail, "KeytrailService.RunQuery", few).await.seq.unwrap());
    assert!(event.request_parameters.unwrap().get("parameters").is_none(), "it had none");
    let (code, _) = refused(&trail, "KeytrailService.RunQuery", json!({"User": "alice"})).await;
    assert_eq!(code, "ValidationException");
}
