//! The journal as a whole: append, read, recover; a table of torn ends; any changed byte is found.

use super::batch::{BatchHeader, HEADER_BYTES};
use super::segment::{FIRST_BATCH_AT, segment_path};
use super::*;
use crate::chain::leaf::{Kind, Leaf, LogId};
use crate::chain::tree::Tree;
use crate::clock::FakeClock;
use bytes::Bytes;
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";
/// The smallest segment allowed, so that tests cross segments.
const SEGMENT_BYTES: u64 = 270_336;

fn log() -> LogId {
    LogId::of_origin(ORIGIN)
}

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT_BYTES, ..JournalOptions::default() }
}

fn open(dir: &Path) -> Result<(Journal, Recovered), JournalError> {
    Journal::open(dir, log(), Arc::new(FakeClock::default()), options())
}

fn draft(text: &str) -> Draft {
    Draft::new(Kind::Event, Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// Appends each text in a batch of its own.
fn append_each(journal: &Journal, texts: impl IntoIterator<Item = String>) -> Vec<Receipt> {
    texts.into_iter().map(|text| journal.append(draft(&text)).unwrap().wait().unwrap()).collect()
}

fn filled(batches: usize) -> (TempDir, Vec<Receipt>) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    let receipts = append_each(&journal, (0..batches).map(|n| format!("{{\"n\":{n}}}")));
    journal.close();
    (dir, receipts)
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn segment(dir: &Path, number: u64) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(segment_path(dir, number)).unwrap()
}

fn set_head(dir: &Path, next_seq: u64) {
    std::fs::write(dir.join(head::HEAD_NAME), head::encode(next_seq)).unwrap();
}

#[test]
fn records_come_back_in_order_over_restarts_and_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut texts = Vec::new();
    let mut receipts = Vec::new();
    for run in 1..=3_u64 {
        let (journal, recovered) = open(dir.path()).unwrap();
        assert_eq!((recovered.next_seq, recovered.epoch), (texts.len() as u64, run));
        assert_eq!(recovered.tree.size(), recovered.next_seq);
        let more: Vec<_> = (0..50).map(|n| format!("{run}-{n}-{}", "x".repeat(n * 97))).collect();
        receipts.extend(append_each(&journal, more.clone()));
        texts.extend(more);
        assert_eq!(journal.durable().borrow().next_seq, texts.len() as u64);
        let head = journal.head();
        assert_eq!((head.size, head.link), (texts.len() as u64, journal.durable().borrow().link));
    }
    assert!(segment_path(dir.path(), 2).exists(), "the test crosses segments");
    let frames = reader::read_range(dir.path(), 0, 1_000).unwrap();
    let mut chain = Chain::genesis(log());
    let mut tree = Tree::new();
    for ((frame, text), receipt) in frames.iter().zip(&texts).zip(&receipts) {
        let leaf = chain.accept(frame).unwrap();
        assert_eq!(frame.payload, text.as_bytes());
        assert_eq!((leaf.seq, frame.leaf_hash(), leaf.time_us), (receipt.seq, receipt.leaf_hash, receipt.time_us));
        tree.push(frame.leaf_hash());
    }
    assert_eq!(frames.len(), texts.len());
    let (journal, recovered) = open(dir.path()).unwrap();
    assert_eq!((journal.head().root, recovered.tree.root()), (tree.root(), tree.root()));
    assert_eq!(recovered.last_batch, Some((149, 149)));
    assert_eq!((recovered.last_link, recovered.dropped), (chain.link, None));
}

#[test]
fn readers_follow_from_any_seq_and_jump() {
    let (dir, receipts) = filled(120);
    for from in [0, 1, 63, 64, 65, 119] {
        let mut reader = Reader::open(dir.path(), from).unwrap();
        let frames = reader.next(7).unwrap();
        assert_eq!(Leaf::decode(&frames[0].leaf).unwrap().seq, from);
        assert_eq!(frames.len() as u64, 7.min(120 - from));
        assert_eq!(reader.next_seq(), from + frames.len() as u64);
    }
    let mut reader = Reader::open(dir.path(), 120).unwrap();
    assert!(reader.next(10).unwrap().is_empty());
    for seq in [100, 3, 4, 119, 50] {
        reader.seek(seq);
        assert_eq!(reader.next(1).unwrap()[0].leaf_hash(), receipts[usize::try_from(seq).unwrap()].leaf_hash);
    }
    let (journal, _) = open(dir.path()).unwrap();
    reader.seek(120);
    assert!(reader.next(10).unwrap().is_empty());
    append_each(&journal, ["late".to_owned()]);
    assert_eq!(reader.next(10).unwrap()[0].payload, "late");
    let hashes = reader::leaf_hashes(dir.path(), 0).unwrap();
    assert_eq!(hashes.len(), 121);
    assert_eq!(hashes[..120], receipts.iter().map(|receipt| receipt.leaf_hash).collect::<Vec<_>>());
    assert!(matches!(Reader::open(&dir.path().join("none"), 0), Err(JournalError::Absent { .. })));
}

#[test]
fn proofs_come_from_the_journal_itself() {
    let (dir, receipts) = filled(700);
    let (journal, _) = open(dir.path()).unwrap();
    let mut reader = Reader::open(dir.path(), 0).unwrap();
    for (seq, size) in [(0, 700), (255, 700), (256, 513), (300, 301), (699, 700)] {
        let (proof, root) = journal.with_tree(|tree| {
            let proof = tree.inclusion_proof(seq, size, |block| reader.leaf_hashes(block)).unwrap();
            (proof, tree.root_at(size, |block| reader.leaf_hashes(block)).unwrap())
        });
        let leaf = receipts[usize::try_from(seq).unwrap()].leaf_hash;
        assert_eq!(proof.verify(leaf, seq, size, &root), Ok(()));
    }
}

#[test]
fn gates_run_in_seq_order_and_a_refused_one_takes_no_seq() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    let order = parking_lot::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (journal, order) = (&journal, &order);
            scope.spawn(move || {
                for n in 0..100 {
                    let text = format!("{thread}-{n}");
                    let gate = || {
                        if n % 10 == 9 {
                            return Err("stale");
                        }
                        order.lock().push(text.clone());
                        Ok(())
                    };
                    match journal.submit(draft(&text), gate) {
                        Ok(pending) => drop(pending),
                        Err(error) => assert_eq!(error, SubmitError::Stale("stale")),
                    }
                }
            });
        }
    });
    journal.close();
    let frames = reader::read_range(dir.path(), 0, 1_000).unwrap();
    let written: Vec<_> = frames.iter().map(|frame| String::from_utf8(frame.payload.to_vec()).unwrap()).collect();
    assert_eq!(written, *order.lock());
    assert_eq!(written.len(), 360);
    assert_eq!(journal.append(draft("late")).unwrap_err(), SubmitError::Stopped);
}

#[test]
fn time_never_falls_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(FakeClock::new(1_000));
    let times = |clock: &Arc<FakeClock>, now_us| {
        clock.set(now_us);
        let (journal, recovered) = Journal::open(dir.path(), log(), Arc::<FakeClock>::clone(clock), options()).unwrap();
        (recovered.last_time_us, append_each(&journal, ["a".to_owned()])[0].time_us)
    };
    assert_eq!(times(&clock, 1_000), (0, 1_000));
    assert_eq!(times(&clock, 400), (1_000, 1_000));
    assert_eq!(times(&clock, 1_001), (1_000, 1_001));
}

#[tokio::test]
async fn a_pending_record_resolves_in_async_code() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    let pending = journal.append(draft("a")).unwrap();
    assert_eq!(pending.seq(), 0);
    let receipt = pending.await.unwrap();
    assert_eq!((receipt.seq, receipt.log), (0, log()));
}

#[test]
fn a_second_journal_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(JournalError::InUse { .. })));
    drop(journal);
    assert!(open(dir.path()).is_ok());
    let other = Journal::open(dir.path(), LogId::of_origin("b"), Arc::new(FakeClock::default()), options());
    assert!(matches!(other, Err(JournalError::ForeignLog { .. })));
}

#[test]
fn bounds_are_checked_and_the_largest_record_fits() {
    let dir = tempfile::tempdir().unwrap();
    let small = JournalOptions { segment_bytes: SEGMENT_BYTES - 4_096, ..options() };
    let refused = Journal::open(dir.path(), log(), Arc::new(FakeClock::default()), small);
    assert!(matches!(refused, Err(JournalError::Options(_))));
    let (journal, _) = open(dir.path()).unwrap();
    let largest = "x".repeat(frame::PAYLOAD_BYTES_MAX);
    append_each(&journal, [largest.clone(), "small".to_owned(), largest.clone()]);
    assert!(Draft::new(Kind::Event, Bytes::from(largest + "x")).is_err());
    assert_eq!(reader::read_range(dir.path(), 2, 1).unwrap()[0].payload.len(), frame::PAYLOAD_BYTES_MAX);
}

/// A journal whose last batch holds several records and spans several blocks; head as after a power cut that lost it.
struct Torn {
    dir: TempDir,
    /// Where the last batch starts in segment 0, and its length.
    at: u64,
    bytes: u64,
    first_seq: u64,
    next_seq: u64,
}

static TORN: LazyLock<Torn> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    append_each(&journal, (0..3).map(|n| n.to_string()));
    append_each(&journal, ["y".repeat(9_000)]);
    journal.close();
    set_head(dir.path(), 3);
    let at = FIRST_BATCH_AT + 3 * 4_096;
    let mut bytes = [0; HEADER_BYTES];
    segment(dir.path(), 0).read_exact_at(&mut bytes, at).unwrap();
    let header = BatchHeader::decode(&bytes).unwrap();
    Torn { dir, at, bytes: header.disk_bytes(), first_seq: header.first_seq, next_seq: header.next_seq() }
});

/// After any crash: opens, has all records that were durable, takes more, and reads back whole.
fn assert_recovers(dir: &Path, next_seq: u64, case: &str) {
    let (journal, recovered) = open(dir).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(recovered.next_seq, next_seq, "{case}");
    append_each(&journal, ["after".to_owned(), "z".repeat(20_000)]);
    journal.close();
    let mut chain = Chain::genesis(log());
    for frame in reader::read_range(dir, 0, 100).unwrap() {
        chain.accept(&frame).unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    assert_eq!(chain.next_seq, next_seq + 2, "{case}");
    assert_eq!(open(dir).unwrap().1.next_seq, next_seq + 2, "{case}");
}

#[test]
fn a_last_batch_torn_at_any_sector_is_dropped_and_a_whole_one_kept() {
    let torn = &*TORN;
    for cut in (0..=torn.bytes).step_by(512) {
        let dir = copy(torn.dir.path());
        let keep = usize::try_from(torn.bytes - cut).unwrap();
        segment(dir.path(), 0).write_all_at(&vec![0; keep], torn.at + cut).unwrap();
        // The padding is zeros already, so a cut inside it loses nothing.
        let whole = torn.bytes - cut < 4_096 && cut >= HEADER_BYTES as u64 + 126 + 9_000;
        let next_seq = if whole { torn.next_seq } else { torn.first_seq };
        assert_recovers(dir.path(), next_seq, &format!("first {cut} bytes written"));
    }
}

#[test]
fn sectors_that_reached_the_disk_in_any_order_are_dropped_too() {
    let torn = &*TORN;
    for missing in (0..torn.bytes).step_by(512) {
        let dir = copy(torn.dir.path());
        let file = segment(dir.path(), 0);
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, torn.at + missing).unwrap();
        file.write_all_at(&[0; 512], torn.at + missing).unwrap();
        let whole = sector == [0; 512];
        let next_seq = if whole { torn.next_seq } else { torn.first_seq };
        assert_recovers(dir.path(), next_seq, &format!("sector at {missing} missing"));
    }
    for garbage in (0..torn.bytes).step_by(512) {
        let dir = copy(torn.dir.path());
        segment(dir.path(), 0).write_all_at(&[0xAA; 512], torn.at + garbage).unwrap();
        let case = format!("sector at {garbage} garbage");
        assert_recovers(dir.path(), torn.first_seq, &case);
    }
}

#[test]
fn a_torn_batch_that_was_durable_is_a_refusal() {
    let torn = &*TORN;
    let dir = copy(torn.dir.path());
    set_head(dir.path(), torn.next_seq);
    segment(dir.path(), 0).write_all_at(&[1], torn.at + 200).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Shorter { found: 3, durable: 4, .. }), "{error}");
    // Nothing was changed: the evidence is still there.
    let mut byte = [0];
    segment(dir.path(), 0).read_exact_at(&mut byte, torn.at + 200).unwrap();
    assert_eq!(byte, [1]);
}

#[test]
fn a_bad_batch_before_the_last_is_a_refusal() {
    let (dir, _) = filled(130);
    assert!(segment_path(dir.path(), 1).exists());
    set_head(dir.path(), 0);
    // Header, body and padding of the first batch, of one in the middle, and of the last in its segment.
    for at in [0, 5, 100, 4_000].into_iter().flat_map(|byte| [0, 30, 64].map(|batch| (1 + batch) * 4_096 + byte)) {
        let copied = copy(dir.path());
        segment(copied.path(), 0).write_all_at(&[0xAA], at).unwrap();
        let error = open(copied.path()).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "byte {at}: {error}");
        assert!(error.to_string().contains("restore it from a backup"), "{error}");
    }
    // A whole batch gone, in the middle and at the end of the first segment.
    for batch in [10, 64] {
        let copied = copy(dir.path());
        segment(copied.path(), 0).write_all_at(&[0; 4_096], (1 + batch) * 4_096).unwrap();
        assert!(matches!(open(copied.path()).unwrap_err(), JournalError::Damaged { .. }), "batch {batch}");
    }
    // Segments gone.
    let copied = copy(dir.path());
    std::fs::remove_file(segment_path(copied.path(), 0)).unwrap();
    assert!(matches!(open(copied.path()).unwrap_err(), JournalError::MissingSegment { .. }));
    let copied = copy(dir.path());
    set_head(copied.path(), 130);
    for number in 1..4 {
        let _ = std::fs::remove_file(segment_path(copied.path(), number));
    }
    assert!(matches!(open(copied.path()).unwrap_err(), JournalError::Shorter { durable: 130, .. }));
}

#[test]
fn a_bad_batch_with_a_good_one_behind_it_in_the_same_segment_is_a_refusal() {
    let (dir, _) = filled(10);
    set_head(dir.path(), 0);
    for damage in [&[0xAA_u8][..], &[0; 4_096]] {
        for batch in [0, 4, 8] {
            let copied = copy(dir.path());
            segment(copied.path(), 0).write_all_at(damage, (1 + batch) * 4_096).unwrap();
            let error = open(copied.path()).unwrap_err();
            assert!(error.to_string().contains("while batch 9 stands at byte 40960"), "{error}");
        }
    }
}

#[test]
fn a_torn_end_is_zeroed_before_anything_else() {
    let torn = &*TORN;
    let dir = copy(torn.dir.path());
    let file = segment(dir.path(), 0);
    file.write_all_at(&[0; 200], torn.at).unwrap();
    drop(open(dir.path()).unwrap());
    let segment = segment::Segment::open(dir.path(), 0, false).unwrap();
    assert_eq!(segment.rest(torn.at).unwrap().nonzero_at, None);
}

#[test]
fn a_torn_batch_at_the_start_of_a_segment_is_dropped() {
    let (dir, receipts) = filled(66);
    let in_first = (SEGMENT_BYTES - FIRST_BATCH_AT) / 4_096;
    assert_eq!(in_first, 65);
    assert_eq!(receipts.len(), 66);
    set_head(dir.path(), 65);
    segment(dir.path(), 1).write_all_at(&[0; 200], FIRST_BATCH_AT).unwrap();
    segment(dir.path(), 1).write_all_at(&[7; 20], FIRST_BATCH_AT + 3_000).unwrap();
    assert_recovers(dir.path(), 65, "torn first batch of a segment");
}

#[test]
fn a_damaged_or_lost_head_is_told_apart() {
    let (dir, _) = filled(3);
    let copied = copy(dir.path());
    std::fs::write(copied.path().join(head::HEAD_NAME), [1; 16]).unwrap();
    assert!(matches!(open(copied.path()).unwrap_err(), JournalError::Head { .. }));
    let copied = copy(dir.path());
    std::fs::remove_file(copied.path().join(head::HEAD_NAME)).unwrap();
    assert_eq!(open(copied.path()).unwrap().1.next_seq, 3);
    let copied = copy(dir.path());
    set_head(copied.path(), 4);
    assert!(matches!(open(copied.path()).unwrap_err(), JournalError::Shorter { found: 3, durable: 4, .. }));
}

static INTACT: LazyLock<TempDir> = LazyLock::new(|| filled(70).0);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_changed_byte_is_found_by_recovery_and_by_readers(pick: prop::sample::Index, mask in 1_u8..) {
        let used = FIRST_BATCH_AT + 70 * 4_096 + FIRST_BATCH_AT;
        let at = pick.index(usize::try_from(used).unwrap()) as u64;
        let (number, at) = if at < SEGMENT_BYTES { (0, at) } else { (1, at - SEGMENT_BYTES) };
        let dir = copy(INTACT.path());
        let file = segment(dir.path(), number);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ mask], at).unwrap();
        prop_assert!(reader::read_range(dir.path(), 0, 1_000).is_err());
        prop_assert!(open(dir.path()).is_err());
    }
}

#[test]
fn a_spool_takes_frames_as_they_are_and_the_same_reader_reads_them() {
    let (dir, _) = filled(150);
    let frames = reader::read_range(dir.path(), 0, 1_000).unwrap();
    let spool_dir = tempfile::tempdir().unwrap();
    let start = (40, frames[39].link());
    let mut spool = SpoolWriter::open(spool_dir.path(), log(), start, SEGMENT_BYTES).unwrap();
    assert!(matches!(spool.append(&frames[41..42]), Err(JournalError::NotNext { seq: 40, .. })));
    for frame in &frames[40..110] {
        spool.append(std::slice::from_ref(frame)).unwrap();
    }
    drop(spool);
    let mut spool = SpoolWriter::open(spool_dir.path(), log(), (0, crate::chain::Link::ZERO), SEGMENT_BYTES).unwrap();
    assert_eq!((spool.next_seq(), spool.link()), (110, frames[109].link()));
    assert!(spool.append(&frames[109..120]).is_err());
    spool.append(&frames[110..]).unwrap();
    assert_eq!(reader::read_range(spool_dir.path(), 40, 1_000).unwrap(), frames[40..]);
    assert!(matches!(
        reader::read_range(spool_dir.path(), 39, 1).unwrap_err(),
        JournalError::NoSuchSeq { seq: 39, first: 40, next: 150 }
    ));
    assert_eq!(spool.trim_below(104).unwrap(), 0);
    assert_eq!(spool.trim_below(110).unwrap(), 1);
    drop(spool);
    let spool = SpoolWriter::open(spool_dir.path(), log(), (0, crate::chain::Link::ZERO), SEGMENT_BYTES).unwrap();
    assert_eq!(spool.next_seq(), 150);
    assert_eq!(reader::read_range(spool_dir.path(), 105, 1_000).unwrap(), frames[105..]);
}

/// A journal of 200 batches in four segments, and what pruning may take of it.
fn bounds(below_seq: u64) -> PruneBounds {
    PruneBounds { below_seq, before_us: u64::MAX, landed_next_seq: below_seq, keep_seconds: 60 }
}

#[test]
fn a_pruned_journal_goes_on_with_the_same_tree_and_proofs() {
    let (dir, receipts) = filled(600);
    let (journal, _) = open(dir.path()).unwrap();
    // 65 batches fill a segment: the last boundary at or below 580 is 520.
    assert_eq!(journal.prune(PruneBounds { before_us: 0, ..bounds(580) }).unwrap(), None, "nothing is old enough");
    assert_eq!(journal.prune(bounds(64)).unwrap(), None, "no whole segment");
    let done = journal.prune(bounds(580)).unwrap().unwrap();
    assert_eq!((done.minimum_index, done.count), (520, 520));
    assert_eq!(journal.prune(bounds(580)).unwrap(), None, "nothing twice");
    assert!(!segment_path(dir.path(), 7).exists() && segment_path(dir.path(), 8).exists());
    let mut reader = Reader::open(dir.path(), 0).unwrap();
    for (seq, size) in [(520, 601), (530, 560), (599, 600)] {
        let (proof, root) = journal.with_tree(|tree| {
            let proof = tree.inclusion_proof(seq, size, |block| reader.leaf_hashes(block)).unwrap();
            (proof, tree.root_at(size, |block| reader.leaf_hashes(block)).unwrap())
        });
        let leaf = receipts[usize::try_from(seq).unwrap()].leaf_hash;
        assert_eq!(proof.verify(leaf, seq, size, &root), Ok(()));
    }
    reader.seek(3);
    assert!(matches!(reader.next(1), Err(JournalError::NoSuchSeq { seq: 3, first: 520, next: 601 })));
    let head = journal.head();
    journal.close();
    let (journal, recovered) = open(dir.path()).unwrap();
    assert_eq!((recovered.next_seq, recovered.tree.root(), recovered.epoch), (601, head.root, 3));
    append_each(&journal, (0..100).map(|n| n.to_string()));
    let again = journal.prune(bounds(700)).unwrap().unwrap();
    assert_eq!((again.minimum_index, again.count), (650, 130));
    journal.close();
    assert_eq!(open(dir.path()).unwrap().1.next_seq, 702);
}

#[test]
fn a_crash_between_any_two_steps_of_pruning_is_finished_or_forgotten() {
    let (before, _) = filled(200);
    let after = copy(before.path());
    let (journal, _) = open(after.path()).unwrap();
    journal.prune(bounds(199)).unwrap().unwrap();
    let head = journal.head();
    journal.close();
    assert!(!segment_path(after.path(), 1).exists() && !segment_path(after.path(), 2).exists());
    let start = after.path().join("start");
    // Which segments are still there, and whether `start` is.
    for (left, started) in
        [(vec![0, 1, 2], false), (vec![0, 1, 2], true), (vec![1, 2], true), (vec![2], true), (vec![], true)]
    {
        let crashed = copy(after.path());
        for number in &left {
            let path = segment_path(before.path(), *number);
            std::fs::copy(&path, crashed.path().join(path.file_name().unwrap())).unwrap();
        }
        if !started {
            std::fs::remove_file(crashed.path().join("start")).unwrap();
        }
        let (journal, recovered) = open(crashed.path()).unwrap();
        assert_eq!((recovered.next_seq, recovered.tree.root()), (201, head.root), "{left:?}");
        assert_eq!(segment_path(crashed.path(), 2).exists(), !started, "{left:?}");
        append_each(&journal, ["after".to_owned()]);
        let pruned = journal.prune(bounds(199)).unwrap();
        assert_eq!(pruned.is_some(), !started, "what was forgotten is done now");
    }
    assert!(start.exists());
}

#[test]
fn a_beginning_that_nothing_proves_is_refused() {
    let (dir, _) = filled(200);
    let whole = copy(dir.path());
    let (journal, _) = open(dir.path()).unwrap();
    journal.prune(bounds(199)).unwrap().unwrap();
    journal.close();
    let start = std::fs::read(dir.path().join("start")).unwrap();
    let refused = |change: &dyn Fn(&Path)| {
        let changed = copy(dir.path());
        change(changed.path());
        open(changed.path()).map(|_| ()).unwrap_err()
    };
    let gone = refused(&|dir| std::fs::remove_file(dir.join("start")).unwrap());
    assert!(matches!(gone, JournalError::MissingSegment { .. }));
    let damaged = refused(&|dir| std::fs::write(dir.join("start"), &start[1..]).unwrap());
    assert!(matches!(damaged, JournalError::Start { .. }));
    let more = refused(&|dir| std::fs::remove_file(segment_path(dir, 3)).unwrap());
    assert!(matches!(more, JournalError::MissingSegment { .. }));
    // Someone takes the first segments and makes a beginning that fits, without a record.
    std::fs::write(whole.path().join("start"), &start).unwrap();
    (0..3).for_each(|number| std::fs::remove_file(segment_path(whole.path(), number)).unwrap());
    assert!(matches!(open(whole.path()).map(|_| ()).unwrap_err(), JournalError::Unrecorded { first: 195 }));
}
