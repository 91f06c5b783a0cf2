//! What must hold after any fault, found by a start without faults.

use bytes::Bytes;
use keytrail_kms::chain::{Kind, LogId, Tree};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::journal::{Draft, Journal, JournalOptions, Reader};
use keytrail_kms::signer::{LocalSigner, sign_head};
use keytrail_kms::verify::{Verdict, verify_folder};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn origin() -> &'static str {
    "keytrail/test/node-0123456789abcdef"
}

pub(crate) fn journal_options() -> JournalOptions {
    JournalOptions { segment_bytes: 270_336, prepare_retry: Duration::from_millis(5), ..JournalOptions::default() }
}

/// A folder with a signer and no records yet.
pub(crate) fn create(dir: &Path) {
    LocalSigner::create(&dir.join("checkpoints"), origin()).unwrap();
    std::fs::create_dir(dir.join("journal")).unwrap();
}

/// What a start found.
pub(crate) struct Restarted {
    /// A batch was torn and dropped.
    pub(crate) dropped: bool,
}

/// Opens the folder after `said` was promised, appends, signs, verifies, and holds the log against the promises.
pub(crate) fn restart(case: &str, dir: &Path, said: &[String]) -> Restarted {
    let signer = LocalSigner::open(&dir.join("checkpoints")).unwrap_or_else(|error| panic!("{case}: {error}"));
    let opened =
        Journal::open(&dir.join("journal"), LogId::of_origin(origin()), Arc::new(SystemClock), journal_options());
    let (journal, recovered) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
    let mut reader = Reader::open(&dir.join("journal"), 0).unwrap();
    let compared = signer.compare(&recovered.tree, |block| reader.leaf_hashes(block));
    compared.unwrap_or_else(|error| panic!("{case}: {error}"));
    let draft = Draft::new(Kind::Event, Bytes::from_static(b"{\"id\":\"after\"}")).unwrap();
    journal.append(draft).unwrap().wait().unwrap_or_else(|error| panic!("{case}: {error}"));
    sign_head(&signer, &journal).unwrap_or_else(|error| panic!("{case}: {error}"));
    journal.close();
    let report = verify_folder(dir, |_| {});
    assert_eq!(report.verdict, Verdict::Verified, "{case}");
    hold_promises(case, dir, report.first_seq, said);
    Restarted { dropped: recovered.dropped.is_some() }
}

/// Records below `first_seq` were pruned, as the log itself says.
fn hold_promises(case: &str, dir: &Path, first_seq: u64, said: &[String]) {
    let mut reader = Reader::open(&dir.join("journal"), first_seq).unwrap();
    let frames = reader.next(100_000).unwrap();
    let mut seqs: HashMap<String, u64> = HashMap::new();
    let mut roots = vec![Tree::new().root()];
    let mut tree = Tree::new();
    for (seq, frame) in (first_seq..).zip(&frames) {
        tree.push(frame.leaf_hash());
        roots.push(tree.root());
        let payload: serde_json::Value = serde_json::from_slice(&frame.payload).unwrap();
        if let Some(id) = payload["id"].as_str().filter(|id| *id != "after") {
            assert_eq!(seqs.insert(id.to_owned(), seq), None, "{case}: {id} is recorded twice");
        }
    }
    for line in said {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["ack", _, seq] if seq.parse::<u64>().unwrap() < first_seq => {}
            ["ack", id, seq] => {
                assert_eq!(seqs.get(id).map(u64::to_string).as_deref(), Some(seq), "{case}: {line}")
            }
            // The start compared its newest head with the tree; older ones need the leaves from 0 on.
            ["signed", size, root] if first_seq == 0 => {
                let found = roots.get(size.parse::<usize>().unwrap()).map(ToString::to_string);
                assert_eq!(found.as_deref(), Some(root), "{case}: {line}");
            }
            _ => {}
        }
    }
}
