//! Backup sets: taken under load they open what was acknowledged before, and what is damaged or too old is refused.

use super::rotation::{fails, fixture_and_clock, works};
use super::*;
use crate::backup::{Against, BackupError, Manifest, Restored, Taking, restore};
use crate::verify::{Verdict, verify_folder};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Takes a set beside the running node.
pub(super) async fn take(dir: &Path) -> (TempDir, Manifest) {
    let (from, out) = (dir.to_owned(), tempfile::tempdir().unwrap());
    let to = out.path().to_owned();
    let taken = tokio::task::spawn_blocking(move || Taking::begin(&from, &to)?.finish(true, 7)).await.unwrap();
    (out, taken.unwrap())
}

async fn put(set: &Path, to: &Path, against: Against) -> Result<Restored, BackupError> {
    let (from, to) = (set.to_owned(), to.to_owned());
    tokio::task::spawn_blocking(move || restore(&from, &to, None, &against)).await.unwrap()
}

/// A node on what a set gives.
pub(super) async fn restored(set: &Path, against: Against, clock: Arc<dyn Clock>) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    put(set, folder.path(), against).await.unwrap();
    let quotas = QuotaSettings::unlimited();
    let mut fixture = Fixture {
        folder,
        kms: None,
        clock,
        quotas,
        issuer_keys: Default::default(),
        regions: Vec::new(),
        clusters: Default::default(),
        quorum: None,
    };
    fixture.start().await.unwrap();
    fixture
}

fn newest_note(dir: &Path) -> Against {
    Against::Note(std::fs::read_to_string(dir.join("checkpoints/latest")).unwrap())
}

/// Makes keys and uses them until told to stop; gives what was acknowledged, in order.
async fn load(client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let key = create_key(&client).await;
        let blob = encrypt(&client, &key, key.as_bytes(), Value::Null).await;
        ok(&client, "TrentService.TagResource", json!({"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]}))
            .await;
        acknowledged.push((key, blob));
        done.fetch_add(1, Ordering::AcqRel);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_taken_under_load_opens_every_ciphertext_acknowledged_before() {
    let mut fixture = Fixture::new().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let loads: Vec<_> =
        (0..4).map(|_| tokio::spawn(load(fixture.admin(), Arc::clone(&stop), Arc::clone(&done)))).collect();
    let mut sets = Vec::new();
    for round in 1..=3 {
        wait_until(|| done.load(Ordering::Acquire) >= 20 * round).await;
        let before = fixture.events().into_iter().filter(|(_, event)| event.event_name == "CreateKey").count();
        let (set, manifest) = take(fixture.dir()).await;
        // Somebody was at work meanwhile, or this proves nothing.
        assert!(fixture.events().len() as u64 > manifest.size / 2);
        sets.push((set, manifest, before));
    }
    stop.store(true, Ordering::Release);
    let mut acknowledged = Vec::new();
    for load in loads {
        acknowledged.extend(load.await.unwrap());
    }
    fixture.stop().await;
    for (set, manifest, before) in sets {
        assert_eq!(verify_folder(set.path(), |_| ()).verdict, Verdict::Verified);
        let mut again = restored(set.path(), Against::Note(manifest.checkpoint.clone()), Arc::new(SystemClock)).await;
        let start = again.records().into_iter().find(|(leaf, _)| leaf.seq == manifest.size).unwrap();
        let start: Value = serde_json::from_slice(&start.1).unwrap();
        assert_eq!(start["restored"]["comparedSize"], manifest.size);
        assert_eq!(start["restored"]["setTakenAtMicros"], 7);
        let mut opened = 0;
        for (key, blob) in &acknowledged {
            let body = json!({"CiphertextBlob": blob});
            if let Ok(answer) = again.admin().call("TrentService.Decrypt", body, None).await {
                assert_eq!(answer.body["Plaintext"], STANDARD.encode(key));
                opened += 1;
            }
        }
        assert!(opened + 4 >= before && before > 0, "{opened} of {before} keys opened");
        // Each key that the set's log knows is there: store and journal are of one moment.
        let created: Vec<String> = again
            .events()
            .into_iter()
            .filter(|(_, event)| event.event_name == "CreateKey")
            .map(|(_, event)| event.resources[0].arn.clone())
            .collect();
        for key in &created {
            ok(&again.admin(), "TrentService.DescribeKey", json!({"KeyId": key})).await;
        }
        assert_eq!(again.kms.as_ref().unwrap().node().key_count(), created.len());
        again.stop().await;
        assert_eq!(verify_folder(again.dir(), |_| ()).verdict, Verdict::Verified);
        assert!(!again.dir().join("restored.json").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_keys_stay_deleted_and_a_set_from_before_is_refused() {
    let (mut fixture, clock) = fixture_and_clock().await;
    let key = create_key(&fixture.admin()).await;
    let (before, old) = take(fixture.dir()).await;
    works(&fixture, "ScheduleKeyDeletion", json!({"KeyId": key, "PendingWindowInDays": 7})).await;
    clock.advance(Duration::from_secs(7 * 86_400 + 1));
    crate::ops::make_due_changes(fixture.kms.as_ref().unwrap().node()).await;
    assert_eq!(fails(&fixture, "DescribeKey", json!({"KeyId": key})).await, "NotFoundException");
    let (after, _) = take(fixture.dir()).await;
    let mut again = restored(after.path(), Against::Nothing, Arc::<FakeClock>::clone(&clock)).await;
    assert_eq!(fails(&again, "DescribeKey", json!({"KeyId": key})).await, "NotFoundException");
    let database = std::fs::read(after.path().join("kms.db")).unwrap();
    let id = uuid::Uuid::parse_str(key.rsplit('/').next().unwrap()).unwrap();
    assert!(!database.windows(16).any(|window| window == id.as_bytes()), "nothing of the key is in the set's store");
    again.stop().await;
    fixture.stop().await;
    let target = tempfile::tempdir().unwrap();
    let refused = put(before.path(), target.path(), newest_note(fixture.dir())).await.unwrap_err();
    assert!(matches!(refused, BackupError::Older(_)), "{refused}");
    let unfinished = Kms::start(KmsConfig::new(target.path(), "127.0.0.1:0".parse().unwrap()), clock).await.err();
    assert!(matches!(unfinished, Some(StartError::NoFolder { .. })), "no node starts on a refused set");
    // The same set with another history behind it, and with a note of somebody else's log.
    let other = Fixture::new().await;
    let target = tempfile::tempdir().unwrap();
    wait_until(|| other.dir().join("checkpoints/latest").exists()).await;
    let foreign = put(before.path(), target.path(), newest_note(other.dir())).await.unwrap_err();
    assert!(matches!(foreign, BackupError::Note(_)), "{foreign}");
    let target = tempfile::tempdir().unwrap();
    let own = put(before.path(), target.path(), Against::Note(old.checkpoint)).await.unwrap();
    assert_eq!(own.compared_size, Some(old.size));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_missing_file_and_a_hostile_manifest_are_refused() {
    let mut fixture = Fixture::new().await;
    create_key(&fixture.admin()).await;
    let (set, manifest) = take(fixture.dir()).await;
    fixture.stop().await;
    let refused = async || {
        let target = tempfile::tempdir().unwrap();
        put(set.path(), target.path(), Against::Nothing).await.unwrap_err()
    };
    for file in &manifest.files {
        let path = set.path().join(&file.path);
        let bytes = std::fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        for damage in [changed, bytes[..bytes.len() - 1].to_vec(), [&bytes[..], b"x"].concat()] {
            std::fs::write(&path, damage).unwrap();
            let error = refused().await;
            assert!(matches!(&error, BackupError::Damaged { path } if *path == file.path), "{}: {error}", file.path);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(refused().await, BackupError::Io { .. }), "{}", file.path);
        std::fs::write(&path, bytes).unwrap();
    }
    let path = set.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for hostile in ["../root.key", "/etc/keytrail", "lock", "journal/../../x", ""] {
        std::fs::write(&path, text.replace("\"kms.db\"", &json!(hostile).to_string())).unwrap();
        assert!(matches!(refused().await, BackupError::Manifest { .. }), "{hostile}");
    }
    let other_size = text.replace(&format!("\"size\": {}", manifest.size), &format!("\"size\": {}", manifest.size - 1));
    std::fs::write(&path, other_size).unwrap();
    assert!(matches!(refused().await, BackupError::Unverified(_)));
    std::fs::write(&path, &text).unwrap();
    let full: PathBuf = fixture.dir().to_owned();
    assert!(matches!(put(set.path(), &full, Against::Nothing).await, Err(BackupError::NotEmpty { .. })));
    assert!(matches!(Taking::begin(&full, set.path()).err(), Some(BackupError::NotEmpty { .. })));
    let target = tempfile::tempdir().unwrap();
    put(set.path(), target.path(), Against::Nothing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_root_key_goes_along_only_when_asked_for() {
    let fixture = Fixture::new().await;
    let (set, asked) = take(fixture.dir()).await;
    assert!(asked.root_key_included && set.path().join("root.key").exists());
    let (from, out) = (fixture.dir().to_owned(), tempfile::tempdir().unwrap());
    let to = out.path().to_owned();
    let taken = tokio::task::spawn_blocking(move || Taking::begin(&from, &to)?.finish(false, 7)).await.unwrap();
    assert!(!taken.unwrap().root_key_included);
    let root = std::fs::read(fixture.dir().join("root.key")).unwrap();
    for file in &asked.files {
        let Ok(bytes) = std::fs::read(out.path().join(&file.path)) else { continue };
        assert!(!bytes.windows(32).any(|window| window == root), "{} holds the root key", file.path);
    }
    assert!(!out.path().join("break-glass").exists());
}
