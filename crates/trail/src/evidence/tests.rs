//! Packs of small logs: what is in them, and that whatever is changed in one is found, also by whoever holds the keys of
//! the exporter and closes the pack again.

use super::export::{Redaction, Request, export};
use super::keys::Keys;
use super::manifest::{self, Manifest};
use super::verify::{Trust, Verdict, unpack, verify};
use super::{ExportError, PAYLOAD, Rerun, RerunError, bag, rerun};
use crate::lake::{Lake, LakeOptions};
use crate::land::{Landed, Position, VerifiedFrame};
use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use keytrail_kms::chain::leaf::{leaf_hash, link, payload_digest};
use keytrail_kms::chain::{Kind, Leaf, Link, LogId, Tree};
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::{Frame, SpoolWriter};
use keytrail_kms::signer::{CheckpointSigner as _, LocalSigner};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";
const START_US: u64 = FakeClock::START_US;
const MINUTE_US: u64 = 60_000_000;

fn log() -> LogId {
    LogId::of_origin(ORIGIN)
}

/// A data folder with `count` records, one a minute: events of two regions, heartbeats, and what is no JSON object.
struct Folder {
    dir: TempDir,
    frames: Vec<VerifiedFrame>,
}

impl Folder {
    async fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut frames: Vec<VerifiedFrame> = Vec::new();
        let mut prev = Link::ZERO;
        for seq in 0..count {
            let (kind, payload) = payload(seq);
            let salt = [u8::try_from(seq % 251).unwrap(); 16];
            let leaf = Leaf {
                log: log(),
                epoch: 1,
                seq,
                kind,
                time_us: START_US + seq * MINUTE_US,
                payload_len: u32::try_from(payload.len()).unwrap(),
                payload_digest: payload_digest(&salt, payload.as_bytes()),
                prev,
            };
            prev = link(&leaf.encode());
            frames.push(VerifiedFrame {
                leaf,
                frame: Frame { leaf: leaf.encode(), salt, payload: Bytes::from(payload) },
            });
        }
        let folder = Self { dir, frames };
        folder.store().await;
        folder.sign(count);
        folder
    }

    /// All records in the journal, two thirds of them in the lake.
    async fn store(&self) {
        let frames: Vec<Frame> = self.frames.iter().map(|verified| verified.frame.clone()).collect();
        let mut journal = SpoolWriter::open(&self.path().join("journal"), log(), (0, Link::ZERO), 1 << 20).unwrap();
        journal.append(&frames).unwrap();
        let clock = Arc::new(FakeClock::default());
        let (mut lake, opened) = Lake::open(&self.path().join("lake"), LakeOptions::default(), clock).unwrap();
        assert_eq!(opened.positions.get(&log()).copied().unwrap_or(Position::START), Position::START);
        let landed = self.frames[..self.frames.len() * 2 / 3].to_vec();
        lake.append(&Landed { log: log(), first_seq: 0, frames: landed }).unwrap();
        lake.flush().await.unwrap();
        let checkpoints = self.path().join("checkpoints");
        LocalSigner::create(&checkpoints, ORIGIN).unwrap();
    }

    fn sign(&self, size: u64) -> String {
        let mut tree = Tree::new();
        let below = &self.frames[..usize::try_from(size).unwrap()];
        below.iter().for_each(|verified| tree.push(leaf_hash(&verified.frame.leaf)));
        LocalSigner::open(&self.path().join("checkpoints")).unwrap().sign(size, tree.root()).unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Of the minutes from `from` up to `to`, counted from the first record.
    fn request(&self, from: u64, to: u64, out: &str) -> Request {
        Request {
            dir: self.path().to_owned(),
            from_us: START_US + from * MINUTE_US,
            to_us: START_US + to * MINUTE_US,
            now_us: START_US + 1_000_000 * MINUTE_US,
            exported_by: "tests".to_owned(),
            tool: "keytrail test".to_owned(),
            control_set: None,
            site: super::Site::default(),
            access: Vec::new(),
            remarks: Vec::new(),
            redaction: None,
            ocsf: true,
            nonce: "auditor".to_owned(),
            sample: 5,
            previous: None,
            policy: None,
            unrecorded: None,
            incidents: Vec::new(),
            out: self.path().join(out),
        }
    }

    async fn pack(&self, from: u64, to: u64) -> PathBuf {
        let out = format!("pack-{from}-{to}");
        export(self.request(from, to, &out)).await.unwrap();
        self.path().join(out)
    }
}

fn payload(seq: u64) -> (Kind, String) {
    match seq % 10 {
        0 => (Kind::Heartbeat, format!("{{\"recordVersion\":1,\"n\":{seq}}}")),
        7 if seq % 20 == 7 => (Kind::Event, format!("no JSON {seq}")),
        8 if seq % 20 == 8 => (Kind::Event, format!("{{\"eventName\":1,\"awsRegion\":\"../up\",\"n\":{seq}}}")),
        digit => {
            let region = if digit % 2 == 0 { "eu-west-1" } else { "us-east-1" };
            let event = serde_json::json!({
                "eventName": if digit == 3 { "GetFrames" } else { "Decrypt" },
                "eventSource": if digit == 3 { "keytrail.internal" } else { "kms.amazonaws.com" },
                "awsRegion": region,
                "recipientAccountId": "111122223333",
                "userIdentity": { "type": "IAMUser", "userName": format!("user-{digit}") },
                "eventID": format!("event-{seq}"),
            });
            (Kind::Event, event.to_string())
        }
    }
}

fn verdict(pack: &Path) -> Verdict {
    verify(pack, &Trust::default()).verdict
}

fn manifest(pack: &Path) -> Manifest {
    serde_json::from_slice(&fs::read(pack.join(PAYLOAD).join("manifest.json")).unwrap()).unwrap()
}

fn failed(pack: &Path) -> (Option<u64>, String) {
    match verdict(pack) {
        Verdict::Failed(failure) => (failure.seq, failure.reason),
        other => panic!("{other}"),
    }
}

/// Closes a changed pack again, as someone with the exporter's keys can.
fn close(folder: &Folder, pack: &Path, change: impl FnOnce(&mut Manifest)) {
    let root = pack.join(PAYLOAD);
    let mut manifest = manifest(pack);
    fs::remove_file(root.join("manifest.json")).unwrap();
    fs::remove_file(root.join("manifest.note")).unwrap();
    change(&mut manifest);
    manifest.files = bag::entries(&root).unwrap();
    let bytes = serde_json::to_vec(&manifest).unwrap();
    fs::write(root.join("manifest.json"), &bytes).unwrap();
    let keys = Keys::open(folder.path()).unwrap();
    fs::write(root.join("manifest.note"), manifest::sign(&bytes, &keys.pack)).unwrap();
    bag::close(pack, &bag::entries(&root).unwrap(), "2026-01-05").unwrap();
}

fn unzip(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn zip(path: &Path, bytes: &[u8]) {
    let mut out = GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap();
}

#[tokio::test]
async fn a_pack_of_a_period_holds_it_and_verifies() {
    let folder = Folder::new(400).await;
    let pack = folder.pack(30, 310).await;
    assert_eq!(verdict(&pack), Verdict::Verified);
    let manifest = manifest(&pack);
    let entry = &manifest.logs[0];
    assert_eq!((entry.first, entry.last, entry.size), (29, 310, 400));
    assert_eq!(entry.counts.values().sum::<u64>(), 282);
    assert_eq!((entry.withheld, entry.erased), (0, 0));
    // Three places over five or six hours, and the odd ones by their default names.
    assert!(entry.cloudtrail.iter().any(|name| name.contains("/000000000000/CloudTrail/unknown/")));
    assert_eq!(entry.digests.len(), 6 * 3);
    let records: usize = entry
        .cloudtrail
        .iter()
        .map(|name| {
            let text: serde_json::Value = serde_json::from_slice(&unzip(&pack.join(PAYLOAD).join(name))).unwrap();
            text["Records"].as_array().unwrap().len()
        })
        .sum();
    let objects = (29..=310).filter(|seq| payload(*seq).0 == Kind::Event && seq % 20 != 7).count();
    assert_eq!(records, objects);
    let access = fs::read_to_string(pack.join(PAYLOAD).join("access.jsonl")).unwrap();
    assert_eq!(access.lines().count(), (30..310).filter(|seq| seq % 10 == 3).count());
    let sample: serde_json::Value =
        serde_json::from_slice(&fs::read(pack.join(PAYLOAD).join("sample/population.json")).unwrap()).unwrap();
    assert_eq!(sample["logs"][0]["drawn"].as_array().unwrap().len(), 5);
    assert!(
        fs::read_dir(folder.path()).unwrap().all(|entry| !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("tmp-"))
    );
}

#[tokio::test]
async fn every_edge_of_a_log_can_be_an_edge_of_a_period() {
    let folder = Folder::new(300).await;
    for (from, to) in [(0, 1), (0, 299), (1, 2), (255, 257), (298, 299), (199, 201), (5, 6)] {
        assert_eq!(verdict(&folder.pack(from, to).await), Verdict::Verified, "{from} to {to}");
    }
    for (from, to) in [(0, 300), (299, 300), (400, 500)] {
        let verdict = verdict(&folder.pack(from, to).await);
        assert!(matches!(verdict, Verdict::VerifiedUpTo { seq: 299, .. }), "{from} to {to}: {verdict}");
    }
    assert!(matches!(export(folder.request(5, 5, "empty")).await, Err(ExportError::Period)));
}

#[tokio::test]
async fn a_tar_holds_the_same_pack() {
    let folder = Folder::new(50).await;
    export(folder.request(5, 40, "pack.tar")).await.unwrap();
    export(folder.request(5, 40, "again.tar")).await.unwrap();
    let out = tempfile::tempdir().unwrap();
    unpack(&folder.path().join("pack.tar"), out.path()).unwrap();
    assert_eq!(verdict(out.path()), Verdict::Verified);
    assert!(matches!(export(folder.request(5, 40, "pack.tar")).await, Err(ExportError::Exists(_))));
}

#[tokio::test]
async fn withheld_rows_keep_their_leaves() {
    let folder = Folder::new(100).await;
    let mut request = folder.request(10, 90, "redacted");
    let redaction = Redaction { condition: "user_name = 'user-4'".to_owned(), reason: "not in scope".to_owned() };
    request.redaction = Some(redaction);
    export(request).await.unwrap();
    let pack = folder.path().join("redacted");
    assert_eq!(verdict(&pack), Verdict::Verified);
    assert_eq!(manifest(&pack).logs[0].withheld, 8);
    for (name, path) in bag::files(&pack).unwrap() {
        let bytes = if name.ends_with(".gz") { unzip(&path) } else { fs::read(&path).unwrap() };
        assert!(!bytes.windows(8).any(|window| window == b"\"user-4\""), "{name}");
    }
}

#[tokio::test]
async fn any_changed_byte_of_any_file_fails() {
    let folder = Folder::new(60).await;
    let pack = folder.pack(5, 50).await;
    for path in bag::files(&pack).unwrap().values() {
        let bytes = fs::read(path).unwrap();
        for at in [0, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            let mut changed = bytes.clone();
            let Some(byte) = changed.get_mut(at) else { continue };
            *byte ^= 1;
            fs::write(path, &changed).unwrap();
            assert!(matches!(verdict(&pack), Verdict::Failed(_)), "{} at {at}", path.display());
        }
        fs::remove_file(path).unwrap();
        assert!(matches!(verdict(&pack), Verdict::Failed(_)), "without {}", path.display());
        fs::write(path, &bytes).unwrap();
    }
    fs::write(pack.join("data/more"), "x").unwrap();
    assert!(matches!(verdict(&pack), Verdict::Failed(_)));
    fs::remove_file(pack.join("data/more")).unwrap();
    std::os::unix::fs::symlink("manifest.json", pack.join("data/more")).unwrap();
    assert!(matches!(verdict(&pack), Verdict::Failed(_)));
    fs::remove_file(pack.join("data/more")).unwrap();
    assert_eq!(verdict(&pack), Verdict::Verified);
}

#[tokio::test]
async fn what_the_exporter_changes_is_found_by_the_log() {
    let folder = Folder::new(200).await;
    let id = log().to_string();
    let leaves = format!("data/logs/{id}/leaves.gz");
    let change = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let (name, edit) = (name.to_owned(), edit);
        let pack = folder.path().join("pack-20-180");
        let path = pack.join(&name);
        let mut bytes = if name.ends_with(".gz") { unzip(&path) } else { fs::read(&path).unwrap() };
        edit(&mut bytes);
        if name.ends_with(".gz") { zip(&path, &bytes) } else { fs::write(&path, &bytes).unwrap() }
    };
    let fresh = async || {
        let pack = folder.path().join("pack-20-180");
        if pack.exists() {
            fs::remove_dir_all(&pack).unwrap();
        }
        folder.pack(20, 180).await
    };

    // A time in a leaf.
    let pack = fresh().await;
    change(&leaves, &|bytes| bytes[5 + 41] ^= 1);
    close(&folder, &pack, |_| ());
    assert_eq!(failed(&pack).0, Some(20));

    // A record that is missing at the end.
    let pack = fresh().await;
    change(&leaves, &|bytes| bytes.truncate(bytes.len() - 131));
    close(&folder, &pack, |_| ());
    assert!(matches!(verdict(&pack), Verdict::Failed(_)));

    // A payload in a CloudTrail file.
    let pack = fresh().await;
    let name = manifest(&pack).logs[0].cloudtrail[0].clone();
    change(&format!("data/{name}"), &|bytes| bytes[20] ^= 1);
    close(&folder, &pack, |_| ());
    assert!(failed(&pack).1.contains("payload is not the one"), "{:?}", failed(&pack));

    // A record more in a CloudTrail file.
    let pack = fresh().await;
    change(&format!("data/{name}"), &|bytes| {
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b",{}]}");
    });
    close(&folder, &pack, |_| ());
    assert!(failed(&pack).1.contains("no leaf commits to"), "{:?}", failed(&pack));

    // The newest digest is gone.
    let pack = fresh().await;
    let digest = manifest(&pack).logs[0].digests.last().unwrap().clone();
    fs::remove_file(pack.join(PAYLOAD).join(&digest)).unwrap();
    fs::remove_file(pack.join(PAYLOAD).join(format!("{digest}.signature"))).unwrap();
    close(&folder, &pack, |manifest| drop(manifest.logs[0].digests.pop()));
    assert!(failed(&pack).1.contains("digest"), "{:?}", failed(&pack));

    // The Parquet is of another period.
    let pack = fresh().await;
    let other = folder.pack(20, 170).await;
    fs::remove_dir_all(pack.join("data/parquet")).unwrap();
    let parquet = manifest(&other).logs[0].parquet.clone();
    fs::create_dir_all(pack.join(PAYLOAD).join(&parquet[0]).parent().unwrap()).unwrap();
    fs::copy(other.join(PAYLOAD).join(&parquet[0]), pack.join(PAYLOAD).join(&parquet[0])).unwrap();
    close(&folder, &pack, |manifest| manifest.logs[0].parquet = parquet);
    assert_eq!(failed(&pack), (Some(171), "record is not in the Parquet files".to_owned()));

    // The range is cut before the period ends.
    let pack = other;
    close(&folder, &pack, |manifest| manifest.period.to = "2026-01-05T15:00:00Z".to_owned());
    assert!(failed(&pack).1.contains("population") || failed(&pack).1.contains("range ends"), "{:?}", failed(&pack));

    // The sample is another one.
    let pack = fresh().await;
    change("data/sample/population.json", &|bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap().replace("\"auditor\"", "\"other\"");
        *bytes = text.into_bytes();
    });
    close(&folder, &pack, |_| ());
    assert!(failed(&pack).1.contains("sample"), "{:?}", failed(&pack));
}

#[tokio::test]
async fn heads_seen_elsewhere_must_agree() {
    let folder = Folder::new(300).await;
    let pack = folder.pack(100, 200).await;
    let other = Folder::new(300).await;
    let key: keytrail_kms::chain::VerifyKey =
        fs::read_to_string(folder.path().join("checkpoints/vkey")).unwrap().trim().parse().unwrap();
    // The signer signs no smaller head than before: another one with the same key does.
    let smaller = |size: u64, flip: bool| {
        fs::remove_file(folder.path().join("checkpoints/head")).unwrap();
        let mut tree = Tree::new();
        let below = &folder.frames[..usize::try_from(size).unwrap()];
        below.iter().for_each(|verified| tree.push(leaf_hash(&verified.frame.leaf)));
        let mut root = tree.root();
        root.0[0] ^= u8::from(flip);
        LocalSigner::open(&folder.path().join("checkpoints")).unwrap().sign(size, root).unwrap()
    };
    let with = |heads: Vec<String>| verify(&pack, &Trust { vkeys: vec![key.clone()], heads, policy: None }).verdict;
    for size in [99, 100, 150, 201, 300] {
        assert_eq!(with(vec![smaller(size, false)]), Verdict::Verified, "{size}");
        assert!(matches!(with(vec![smaller(size, true)]), Verdict::Failed(_)), "{size}");
    }
    for size in [50, 250] {
        assert!(matches!(with(vec![smaller(size, false)]), Verdict::VerifiedUpTo { .. }), "{size}");
    }
    let foreign: keytrail_kms::chain::VerifyKey =
        fs::read_to_string(other.path().join("checkpoints/vkey")).unwrap().trim().parse().unwrap();
    let trust = Trust { vkeys: vec![foreign], ..Trust::default() };
    assert!(matches!(verify(&pack, &trust).verdict, Verdict::Failed(_)));
}

#[tokio::test]
async fn a_log_that_does_not_give_its_signed_root_is_not_exported() {
    let folder = Folder::new(30).await;
    fs::remove_file(folder.path().join("checkpoints/head")).unwrap();
    let signer = LocalSigner::open(&folder.path().join("checkpoints")).unwrap();
    signer.sign(30, keytrail_kms::chain::RootHash([7; 32])).unwrap();
    assert!(matches!(export(folder.request(5, 20, "pack")).await, Err(ExportError::Root(_))));
    assert!(!folder.path().join("pack").exists());
}

#[tokio::test]
async fn controls_run_again_give_the_same_and_what_was_changed_is_named() {
    let folder = Folder::new(60).await;
    let withheld = Redaction { condition: "user_name = 'user-4'".to_owned(), reason: "not asked for".to_owned() };
    for (out, redaction) in [("whole", None), ("redacted", Some(withheld))] {
        let redacted = redaction.is_some();
        let control_set = Some("nist-800-53".to_owned());
        export(Request { control_set, redaction, ..folder.request(5, 50, out) }).await.unwrap();
        let pack = folder.path().join(out);
        let same = rerun(&pack).await.unwrap();
        assert_eq!((same.controls, same.differences, same.other_sql), (17, vec![], vec![]));
        assert_eq!(verdict(&pack), Verdict::Verified);
        let results = fs::read_to_string(pack.join("data/controls/results.json")).unwrap();
        assert_eq!(results.contains("\"met\""), !redacted, "{results}");
        let page = fs::read_to_string(pack.join("data/statement.html")).unwrap();
        assert!(page.contains("NIST SP 800-53") && page.contains("not asked for") == redacted);
    }

    let pack = folder.path().join("whole");
    let changed = async |name: &str, change: fn(&mut String)| {
        let path = pack.join(PAYLOAD).join(name);
        let before = fs::read_to_string(&path).unwrap();
        let mut text = before.clone();
        change(&mut text);
        fs::write(&path, text).unwrap();
        let said = rerun(&pack).await;
        fs::write(&path, before).unwrap();
        said
    };
    let named = |said: Result<Rerun, RerunError>| {
        said.unwrap().differences.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(named(changed("controls/AU-3.csv", |text| text.push(' ')).await), ["controls/AU-3.csv"]);
    assert_eq!(
        named(changed("alerts/incidents.jsonl", |text| text.push_str("{}\n")).await),
        ["alerts/incidents.jsonl"]
    );
    let said = changed("controls/results.json", |text| *text = text.replacen("\"met\"", "\"exceptions\"", 1)).await;
    assert_eq!(named(said), ["controls/results.json"]);
    // SQL that finds nothing: its rows are others, and it is not what this build asks.
    let said = changed("controls/AU-7.sql", |text| *text = text.replace("GROUP BY log", "AND false GROUP BY log"))
        .await
        .unwrap();
    assert_eq!(said.other_sql, ["controls/AU-7.sql"]);
    assert_eq!(said.differences.len(), 2, "{:?}", said.differences);
    let said = changed("controls/AU-7.sql", |text| *text = text.replace("FROM events", "FROM '/etc/passwd'")).await;
    assert!(matches!(said, Err(RerunError::Run(_))), "{said:?}");
    fs::remove_file(pack.join("data/controls/AU-8.sql")).unwrap();
    let said = rerun(&pack).await.unwrap().differences;
    assert!(said.iter().all(|(name, _)| name == "controls/AU-8.sql") && !said.is_empty(), "{said:?}");
    fs::remove_dir_all(pack.join("data/controls")).unwrap();
    assert!(matches!(rerun(&pack).await, Err(RerunError::NoControls)));
}
