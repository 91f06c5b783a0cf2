//! The log over HTTP: read back and proved by our own client, mended where a tile on the disk is not true, and bounded.

use super::*;
use crate::chain::VerifyKey;
use crate::tiles::LogView;
use reqwest::StatusCode;

/// As api/log.rs has it.
const READS_BURST: usize = 1_000;

async fn answer(url: &str) -> (StatusCode, Vec<u8>) {
    let response = reqwest::get(url).await.unwrap();
    (response.status(), response.bytes().await.unwrap().to_vec())
}

async fn sign(fixture: &Fixture) -> u64 {
    let node = Arc::clone(fixture.kms.as_ref().unwrap().node());
    let note = tokio::task::spawn_blocking(move || node.sign_head()).await.unwrap().unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

fn log_url(fixture: &Fixture) -> String {
    format!("{}/log/{}", fixture.endpoint(), fixture.kms.as_ref().unwrap().log)
}

async fn random(fixture: &Fixture, calls: usize) {
    let admin = fixture.admin();
    for _ in 0..calls {
        admin.call("TrentService.GenerateRandom", json!({"NumberOfBytes": 8}), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_and_proved_over_http() {
    let fixture = Fixture::new().await;
    random(&fixture, 300).await;
    let size = sign(&fixture).await;
    let vkey = std::fs::read_to_string(fixture.dir().join("checkpoints/vkey")).unwrap();
    let key: VerifyKey = vkey.trim_end().parse().unwrap();
    let url = log_url(&fixture);
    let read = {
        let (url, runtime) = (url.clone(), tokio::runtime::Handle::current());
        move || {
            let mut view = LogView::of_url(&url, &key, runtime).unwrap();
            let size = view.checkpoint().size;
            for seq in [0, 1, 255, 256, size - 1] {
                assert_eq!(view.tlog_proof(seq).unwrap().verify(&key).unwrap().1.seq, seq);
            }
            view.consistency_proof(257).unwrap();
            size
        }
    };
    assert!(tokio::task::spawn_blocking(read.clone()).await.unwrap() >= size);

    // A tile that was changed on the disk is never given out: the tree knows it, and the journal has the records.
    let good = answer(&format!("{url}/tile/0/000")).await.1;
    for name in ["tiles/hashes-0", "tiles/entries"] {
        let path = fixture.dir().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(answer(&format!("{url}/tile/0/000")).await, (StatusCode::OK, good));
    assert!(tokio::task::spawn_blocking(read).await.unwrap() >= size);
    let verdict = crate::verify::verify_folder(fixture.dir(), |_| ()).verdict;
    let crate::verify::Verdict::Failed { seq: Some(0), reason } = verdict else { panic!("{verdict:?}") };
    assert!(reason.contains("tile/0/000"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_above_the_checkpoint_is_given_out_and_a_flood_is_told_to_wait() {
    // Its clock stands still: nobody signs but this test, and no allowance comes back.
    let fixture = Fixture::with_clock(Arc::new(FakeClock::new(SystemClock.now_us()))).await;
    let size = sign(&fixture).await;
    random(&fixture, 20).await;
    let url = log_url(&fixture);
    let note = answer(&format!("{url}/checkpoint")).await.1;
    let covered: u64 = String::from_utf8(note).unwrap().lines().nth(1).unwrap().parse().unwrap();
    assert!(covered >= size);
    let beyond = format!("{url}/tile/0/000.p/{}", covered + 100);
    let (there, status) = (format!("{url}/tile/0/000.p/{size}"), StatusCode::NOT_FOUND);
    assert_eq!(answer(&beyond).await.0, status, "{covered} are covered");
    let mut refused = 0;
    for _ in 0..READS_BURST {
        match answer(&there).await.0 {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(refused, 2, "after the two before");
    // Calls do not share that allowance.
    random(&fixture, 1).await;
}
