//! A node with witnesses: what is cosigned, what waits for it, and what a witness's memory says at the start.

use super::*;
use crate::chain::{TrustPolicy, VerifyKey};
use crate::service::Witnessed;
use crate::ship::PublishedError;
use crate::signer::COSIGNED_NAME;
use crate::verify::{Trusted, Verdict, verify_folder_trusting};
use crate::witness::{QuorumSettings, RunningWitness, WitnessSettings, start};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A witness of a fixture's log, with a folder of its own.
async fn witness(fixture: &Fixture, dir: &Path, listen: SocketAddr) -> RunningWitness {
    let key = std::fs::read_to_string(fixture.dir().join("checkpoints/vkey")).unwrap();
    let log: VerifyKey = key.trim().parse().unwrap();
    let settings = WitnessSettings { dir: dir.to_owned(), name: None, listen, tls: None, prefix: "", logs: vec![log] };
    start(settings, Arc::new(SystemClock)).await.unwrap()
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn settings(witness: &RunningWitness, wait_for: &[&str]) -> QuorumSettings {
    let text = format!("witness W {} http://{}\nquorum W\n", witness.witness.cosigner(), witness.addr);
    QuorumSettings {
        policy: TrustPolicy::parse(text.as_bytes()).unwrap(),
        roots_pem: None,
        wait_for: wait_for.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
        wait_bound: Duration::from_millis(500),
    }
}

fn witnessed(fixture: &Fixture) -> Witnessed {
    fixture.kms.as_ref().unwrap().health()().unwrap().witnessed.unwrap()
}

/// Payloads of one kind, as JSON.
fn payloads(fixture: &Fixture, kind: Kind) -> Vec<Value> {
    let records = fixture.records().into_iter().filter(|(leaf, _)| leaf.kind == kind);
    records.map(|(_, payload)| serde_json::from_slice(&payload).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_answers_wait_for_the_quorum_and_fail_without_one() {
    let mut fixture = Fixture::new().await;
    let memory = tempfile::tempdir().unwrap();
    let running = witness(&fixture, memory.path(), any_port()).await;
    fixture.stop().await;
    fixture.quorum = Some(settings(&running, &["TagResource"]));
    fixture.start().await.unwrap();
    let admin = fixture.admin();
    let key = ok(&admin, "TrentService.CreateKey", json!({})).await.body["KeyMetadata"]["KeyId"].clone();
    let tag = |value: &str| json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": value}]});
    let answer = ok(&admin, "TrentService.TagResource", tag("1")).await;
    assert!(witnessed(&fixture).records > answer.seq.unwrap(), "answered before it was cosigned");
    let policy = fixture.quorum.as_ref().unwrap().policy.clone();
    let note = std::fs::read_to_string(fixture.dir().join("checkpoints").join(COSIGNED_NAME)).unwrap();
    let key_of_log = fixture.kms.as_ref().unwrap().node().signer.verify_key();
    assert!(policy.judge(&note, Some(&key_of_log.clone().into())).unwrap().satisfied);

    let addr = running.addr;
    drop(running);
    let error = admin.call("TrentService.TagResource", tag("2"), None).await.unwrap_err();
    assert_eq!(error.code(), Some("KMSInternalException"));
    let tags = ok(&admin, "TrentService.ListResourceTags", json!({"KeyId": key})).await;
    assert_eq!(tags.body["Tags"][0]["TagValue"], "2", "decided, not delivered");
    let late = fixture.events().iter().rfind(|(_, event)| event.event_name == "TagResource").unwrap().0.seq;
    assert_eq!(payloads(&fixture, Kind::Addendum)[0]["repliesNotSent"], json!([[late, late]]));
    assert_eq!(witnessed(&fixture).replies_not_sent, 1);
    assert!(witnessed(&fixture).unwitnessed_s > 0.0);

    let running = loop {
        // Its former connections hold the folder's lock until they notice the stop.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let key = std::fs::read_to_string(fixture.dir().join("checkpoints/vkey")).unwrap().trim().parse().unwrap();
        let dir = memory.path().to_owned();
        let settings = WitnessSettings { dir, name: None, listen: addr, tls: None, prefix: "", logs: vec![key] };
        if let Ok(running) = start(settings, Arc::new(SystemClock)).await {
            break running;
        }
    };
    fixture.stop().await;
    let trusted = Trusted { key: Some(&key_of_log), policy: Some(&policy), ..Trusted::default() };
    let report = verify_folder_trusting(fixture.dir(), trusted, |_| ());
    assert_eq!(report.verdict, Verdict::Verified, "the last round came before the end");
    assert_eq!(report.cosigned.unwrap().witnesses[0].0, "W");
    drop(running);
    fixture.start().await.unwrap();
    fixture.stop().await;
    let report = verify_folder_trusting(fixture.dir(), trusted, |_| ());
    assert!(matches!(report.verdict, Verdict::VerifiedUpTo { .. }), "{:?}", report.verdict);
    let starts = payloads(&fixture, Kind::EpochStart);
    assert_eq!(starts[1]["witnesses"], json!([{"name": "W", "reached": true}]));
    assert_eq!(starts[2]["witnesses"], json!([{"name": "W", "reached": false}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_rolled_back_is_refused_by_what_a_witness_shows() {
    let mut fixture = Fixture::new().await;
    let memory = tempfile::tempdir().unwrap();
    let running = witness(&fixture, memory.path(), any_port()).await;
    fixture.stop_and_close().await;
    let old = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(status.success());
    };
    copy(fixture.dir(), old.path());
    fixture.quorum = Some(settings(&running, &[]));
    fixture.start().await.unwrap();
    ok(&fixture.admin(), "TrentService.CreateKey", json!({})).await;
    fixture.stop_and_close().await;
    let size = witness_size(&running);
    let newest = tempfile::tempdir().unwrap();
    copy(fixture.dir(), newest.path());
    copy_over(old.path(), fixture.dir());
    let Err(StartError::Published(error)) = fixture.start().await else { panic!("it started") };
    let text = error.to_string();
    assert!(text.contains("rolled back") && text.contains(&format!("witness W a checkpoint over {size}")), "{text}");
    copy_over(newest.path(), fixture.dir());
    fixture.start().await.unwrap();
    let starts = payloads(&fixture, Kind::EpochStart);
    assert_eq!(starts[2]["witnesses"], json!([{"name": "W", "reached": true, "comparedSize": size}]));
    fixture.stop().await;
}

fn witness_size(running: &RunningWitness) -> u64 {
    running.witness.logs().find_map(|(_, size)| size).unwrap()
}

/// A folder's content in place of another's.
fn copy_over(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        // After a start that failed the database closes meanwhile, and takes its companions away.
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}

/// A witness as C2SP wants it and no more: it takes checkpoints and shows none.
async fn bare(running: &RunningWitness) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let (addr, behind) = (listener.local_addr().unwrap(), running.addr);
    let serving = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = [0; 4];
                near.read_exact(&mut first).await.unwrap();
                if &first != b"POST" {
                    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    return near.write_all(answer).await.unwrap();
                }
                let mut far = tokio::net::TcpStream::connect(behind).await.unwrap();
                far.write_all(&first).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (addr, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_shows_no_checkpoint_contradicts_a_rollback_by_its_size() {
    let mut fixture = Fixture::new().await;
    let memory = tempfile::tempdir().unwrap();
    let running = witness(&fixture, memory.path(), any_port()).await;
    let (addr, serving) = bare(&running).await;
    fixture.stop_and_close().await;
    let text = format!("witness W {} http://{addr}\nquorum W\n", running.witness.cosigner());
    let policy = TrustPolicy::parse(text.as_bytes()).unwrap();
    fixture.quorum = Some(QuorumSettings { policy, ..settings(&running, &[]) });
    let old = tempfile::tempdir().unwrap();
    copy_over(fixture.dir(), old.path());
    fixture.start().await.unwrap();
    ok(&fixture.admin(), "TrentService.CreateKey", json!({})).await;
    fixture.stop_and_close().await;
    let (size, newest) = (witness_size(&running), tempfile::tempdir().unwrap());
    copy_over(fixture.dir(), newest.path());
    copy_over(old.path(), fixture.dir());
    let Err(StartError::Published(error)) = fixture.start().await else { panic!("it started") };
    assert!(matches!(error, PublishedError::Claimed { claimed, .. } if claimed == size), "{error}");
    copy_over(newest.path(), fixture.dir());
    fixture.start().await.unwrap();
    let starts = payloads(&fixture, Kind::EpochStart);
    assert_eq!(starts[2]["witnesses"], json!([{"name": "W", "reached": true, "comparedSize": size}]));
    fixture.stop().await;
    serving.abort();
}
