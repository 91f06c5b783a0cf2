//! Tiles of a real journal: what the writer keeps, what the view believes, and what an independent crate makes of it.

use super::*;
use crate::chain::leaf::{Leaf, Link, leaf_hash, payload_digest};
use crate::chain::tile::{ENTRY_BYTES, HASH_BYTES, TileKind, decode_entries};
use crate::chain::{LogId, Tree, VerifyKey};
use crate::clock::FakeClock;
use crate::journal::{Draft, Frame, Journal, JournalOptions, Reader, SpoolWriter};
use crate::signer::{CheckpointSigner, LocalSigner};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;
use tlog_tiles::{HashReader, TileHashReader, TileReader};

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";
/// Bytes of a full bundle and of a full hash tile.
const BUNDLE: usize = 256 * ENTRY_BYTES;
const TILE: usize = 256 * HASH_BYTES;

/// A folder with a journal, a signer and, when asked for, tiles.
pub(crate) struct Folder {
    // Closed before its folder goes.
    pub(crate) journal: Journal,
    pub(crate) signer: LocalSigner,
    pub(crate) clock: Arc<FakeClock>,
    dir: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        LocalSigner::create(&dir.path().join("checkpoints"), ORIGIN).unwrap();
        let signer = LocalSigner::open(&dir.path().join("checkpoints")).unwrap();
        Self::with(dir, signer)
    }

    fn with(dir: TempDir, signer: LocalSigner) -> Self {
        let options = JournalOptions { segment_bytes: 4 * 1024 * 1024, ..JournalOptions::default() };
        let clock = Arc::new(FakeClock::default());
        let log = LogId::of_origin(ORIGIN);
        let (journal, _) = Journal::open(&dir.path().join("journal"), log, clock.clone(), options).unwrap();
        Self { journal, signer, clock, dir }
    }

    /// What whoever has the log's key can make of it: the records that `keep` wants, numbered and linked anew, then some
    /// others a minute later, under a checkpoint that the key has signed.
    pub(crate) fn forged(&self, keep: impl Fn(u64) -> bool, others: usize) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = dir.path().join("checkpoints");
        std::fs::create_dir(&checkpoints).unwrap();
        for name in ["signer.key", "vkey"] {
            std::fs::copy(self.path().join("checkpoints").join(name), checkpoints.join(name)).unwrap();
        }
        let mut reader = Reader::open(&self.path().join("journal"), 0).unwrap();
        let all = reader.next(usize::MAX).unwrap();
        let mut frames: Vec<Frame> =
            (0..).zip(&all).filter(|(seq, _)| keep(*seq)).map(|(_, frame)| frame.clone()).collect();
        let mut other = frames.last().unwrap().clone();
        other.payload = Bytes::from_static(b"{\"n\":\"other\"}");
        let leaf = Leaf::decode(&other.leaf).unwrap();
        let (time_us, payload_len) = (leaf.time_us + 60_000_000, u32::try_from(other.payload.len()).unwrap());
        let payload_digest = payload_digest(&other.salt, &other.payload);
        other.leaf = Leaf { time_us, payload_len, payload_digest, ..leaf }.encode();
        frames.extend(std::iter::repeat_n(other, others));
        let (mut prev, mut tree) = (Link::ZERO, Tree::new());
        for (seq, frame) in (0..).zip(&mut frames) {
            frame.leaf = Leaf { seq, prev, ..Leaf::decode(&frame.leaf).unwrap() }.encode();
            prev = frame.link();
            tree.push(frame.leaf_hash());
        }
        let log = LogId::of_origin(ORIGIN);
        let spool = SpoolWriter::open(&dir.path().join("journal"), log, (0, Link::ZERO), SpoolWriter::SEGMENT_BYTES);
        spool.unwrap().append(&frames).unwrap();
        LocalSigner::open(&checkpoints).unwrap().sign(tree.size(), tree.root()).unwrap();
        dir
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn append(&self, payloads: impl IntoIterator<Item = String>) -> Vec<crate::journal::Receipt> {
        let draft = |text: String| Draft::new(crate::chain::Kind::Event, Bytes::from(text)).unwrap();
        let mut receipts = Vec::new();
        let payloads: Vec<String> = payloads.into_iter().collect();
        for some in payloads.chunks(8_192) {
            let pending: Vec<_> = some.iter().map(|text| self.journal.append(draft(text.clone())).unwrap()).collect();
            receipts.extend(pending.into_iter().map(|pending| pending.wait().unwrap()));
        }
        receipts
    }

    pub(crate) fn sign(&self) {
        let head = self.journal.head();
        self.signer.sign(head.size, head.root).unwrap();
    }

    fn tree(&self) -> Tree {
        self.journal.with_tree(Clone::clone)
    }

    fn writer(&self) -> TileWriter {
        TileWriter::open(self.path(), &self.path().join("journal"), &self.tree()).unwrap()
    }

    fn key(&self) -> VerifyKey {
        self.signer.verify_key()
    }

    pub(crate) fn view(&self) -> LogView<FolderTiles> {
        self.view_of(self.path())
    }

    /// Another folder under this log's key.
    pub(crate) fn view_of(&self, data: &Path) -> LogView<FolderTiles> {
        LogView::of_folder(data, Some(&self.key())).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(TILES_NAME).join(name)
    }

    fn lengths(&self) -> Vec<u64> {
        let names = ["entries", "hashes-0", "hashes-1"];
        names.iter().map(|name| std::fs::metadata(self.file(name)).map_or(0, |found| found.len())).collect()
    }
}

pub(crate) fn numbered(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("{{\"n\":{n}}}"))
}

/// A log whose first tile at level 1 is full: 65,536 leaves and some.
static LARGE: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    folder.append(numbered(65_536 + 700));
    folder.sign();
    folder
});

#[test]
fn tiles_are_written_as_they_fill_and_go_on_after_a_restart() {
    let folder = Folder::new();
    let mut writer = folder.writer();
    folder.append(numbered(255));
    let grow = |writer: &mut TileWriter| {
        let tree = folder.tree();
        writer.grow(tree.size(), |level, index| tree.tile(level, index).to_vec()).unwrap();
    };
    grow(&mut writer);
    assert_eq!(folder.lengths(), [0, 0, 0]);
    folder.append(numbered(600));
    grow(&mut writer);
    assert_eq!(folder.lengths(), [3 * BUNDLE as u64, 3 * TILE as u64, 0]);
    drop(writer);
    let mut writer = folder.writer();
    folder.append(numbered(200));
    grow(&mut writer);
    assert_eq!(folder.lengths(), [4 * BUNDLE as u64, 4 * TILE as u64, 0]);
    let entries = std::fs::read(folder.file("entries")).unwrap();
    for (seq, leaf) in decode_entries(&entries).unwrap().iter().enumerate() {
        assert_eq!(Leaf::decode(leaf).unwrap().seq, seq as u64);
    }
    assert_eq!(TileFiles::of(folder.path()).first_false(&folder.tree(), 4).unwrap(), None);
}

#[test]
fn what_is_missing_torn_or_changed_is_written_anew() {
    let folder = Folder::new();
    folder.append(numbered(1_300));
    drop(folder.writer());
    let [entries, hashes] = ["entries", "hashes-0"].map(|name| folder.file(name));
    let (good_entries, good_hashes) = (std::fs::read(&entries).unwrap(), std::fs::read(&hashes).unwrap());
    assert_eq!((good_entries.len(), good_hashes.len()), (5 * BUNDLE, 5 * TILE));
    let mend = |what: &str| {
        drop(folder.writer());
        assert!(std::fs::read(&entries).unwrap() == good_entries, "{what}");
        assert!(std::fs::read(&hashes).unwrap() == good_hashes, "{what}");
    };
    std::fs::remove_file(&entries).unwrap();
    mend("no bundles");
    std::fs::remove_dir_all(folder.path().join(TILES_NAME)).unwrap();
    mend("no folder");
    std::fs::write(&hashes, &good_hashes[..2 * TILE + 100]).unwrap();
    mend("a power cut in the third tile");
    std::fs::write(&entries, [&good_entries[..4 * BUNDLE], &vec![0; BUNDLE]].concat()).unwrap();
    mend("a length that reached the disk before the bytes");
    std::fs::write(&entries, [&good_entries[..], &vec![7; BUNDLE + 5]].concat()).unwrap();
    mend("tiles beyond what is durable");
    for (path, good) in [(&entries, &good_entries), (&hashes, &good_hashes)] {
        for at in [0, 1, good.len() / 2, good.len() - 1] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            std::fs::write(path, changed).unwrap();
            mend("a changed byte");
        }
    }
}

#[test]
fn a_journal_that_is_shorter_than_its_tiles_is_refused() {
    let folder = Folder::new();
    folder.append(numbered(400));
    let short = folder.tree();
    folder.append(numbered(400));
    drop(folder.writer());
    let opened = TileWriter::open(folder.path(), &folder.path().join("journal"), &short);
    assert!(matches!(opened, Err(TilesError::Ahead { tiles: 511, journal: 400 })), "{opened:?}");
    assert_eq!(folder.lengths()[0], 3 * BUNDLE as u64, "what the tiles know is left alone");
}

#[test]
fn a_tile_is_never_made_of_other_records_than_the_tree() {
    let (folder, other) = (Folder::new(), Folder::new());
    folder.append(numbered(300));
    other.append(numbered(300));
    let opened = TileWriter::open(folder.path(), &folder.path().join("journal"), &other.tree());
    assert!(matches!(opened, Err(TilesError::Foreign(0))));
}

#[test]
fn proofs_come_from_tiles_and_from_the_journal_alike() {
    for kept in [false, true] {
        if kept {
            drop(LARGE.writer());
            assert_eq!(LARGE.lengths()[2], TILE as u64, "a full tile at level 1");
        }
        let mut view = LARGE.view();
        let size = view.checkpoint().size;
        for seq in [0, 255, 256, 40_000, 65_535, 65_536, size - 1] {
            let (bytes, leaf) = view.leaf(seq).unwrap();
            assert_eq!(leaf.seq, seq);
            let proof = view.tlog_proof(seq).unwrap();
            assert_eq!((proof.leaf, proof.verify(&LARGE.key()).unwrap().1), (bytes, leaf));
            let block = view.leaf_hashes(seq / 256).unwrap();
            assert_eq!(block[usize::try_from(seq % 256).unwrap()], leaf_hash(&bytes));
        }
        assert!(matches!(view.leaf(size), Err(TilesError::Above { .. })));
        for old in [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, size - 1, size] {
            let (root, proof) = view.consistency_proof(old).unwrap();
            let checkpoint = view.checkpoint();
            assert_eq!(proof.verify(old, &root, size, &checkpoint.root), Ok(()), "{old}");
        }
        assert!(view.consistency_proof(size + 1).is_err());
    }
}

#[test]
fn an_earlier_checkpoint_is_consistent_with_a_later_one_and_with_no_other_history() {
    let folder = Folder::new();
    let mut earlier = Vec::new();
    for _ in 0..12 {
        folder.append(numbered(97));
        let head = folder.journal.head();
        earlier.push((head.size, head.root));
    }
    folder.sign();
    let without_first = folder.forged(|seq| seq > 0, 100);
    let (mut view, mut forged) = (folder.view(), folder.view_of(without_first.path()));
    for (size, root) in earlier {
        assert_eq!(view.consistency_proof(size).unwrap().0, root);
        assert_ne!(forged.consistency_proof(size).unwrap().0, root);
    }
}

/// A static folder as other people's code reads it.
struct Exported(TempDir);

impl Exported {
    fn of(folder: &Folder) -> Self {
        let out = tempfile::tempdir().unwrap();
        let checkpoint = export(&mut folder.view(), out.path(), |_| ()).unwrap();
        assert_eq!(checkpoint.size, folder.journal.head().size);
        Self(out)
    }
}

impl TileReader for Exported {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &tlog_tiles::Tile| {
            // The crate writes sumdb's `tile/8/<L>/...`, C2SP leaves the height out.
            let path = tile.path().replacen("tile/8/", "tile/", 1);
            std::fs::read(self.0.path().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        Ok(tiles.iter().map(read).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[test]
fn the_crate_tlog_tiles_reads_an_export_and_proves_from_it() {
    let exported = Exported::of(&LARGE);
    let note = std::fs::read(exported.0.path().join("checkpoint")).unwrap();
    let body =
        note.split(|byte| *byte == b'\n').take(3).map(|line| [line, b"\n"].concat()).collect::<Vec<_>>().concat();
    let checkpoint = tlog_tiles::Checkpoint::from_bytes(&body).unwrap();
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    assert_eq!((checkpoint.origin(), size), (ORIGIN, 66_236));
    let reader = TileHashReader::new(size, root, &exported);
    assert_eq!(tlog_tiles::tree_hash(size, &reader).unwrap(), root);
    let mut view = LARGE.view();
    for seq in [0, 255, 256, 65_535, 65_536, 66_047, 66_048, size - 1] {
        let hash = reader.read_hashes(&[tlog_tiles::stored_hash_index(0, seq)]).unwrap()[0];
        let path = Tile::at(TileKind::Entries, seq / 256, size).unwrap().to_string();
        let bundle = decode_entries(&std::fs::read(exported.0.path().join(path)).unwrap()).unwrap();
        assert_eq!(tlog_tiles::record_hash(&bundle[usize::try_from(seq % 256).unwrap()]), hash);
        let theirs = tlog_tiles::prove_record(size, seq, &reader).unwrap();
        let ours = view.inclusion_proof(seq).unwrap();
        assert_eq!(theirs.iter().map(|hash| hash.0).collect::<Vec<_>>(), ours.hashes);
        tlog_tiles::check_record(&theirs, size, root, seq, hash).unwrap();
    }
    for old in [1, 256, 257, 65_536, 66_000, size] {
        let theirs = tlog_tiles::prove_tree(size, old, &reader).unwrap();
        let (old_root, ours) = view.consistency_proof(old).unwrap();
        assert_eq!(theirs.iter().map(|hash| hash.0).collect::<Vec<_>>(), ours.hashes);
        tlog_tiles::check_tree(&theirs, size, root, old, tlog_tiles::Hash(old_root.0)).unwrap();
    }
}

#[test]
fn an_export_has_the_tiles_of_its_size_and_no_others() {
    let exported = Exported::of(&LARGE);
    let mut paths = Vec::new();
    let mut folders = vec![exported.0.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
    let size = 66_236;
    for path in &paths {
        let path = path.strip_prefix(exported.0.path()).unwrap().to_str().unwrap();
        if path != "checkpoint" {
            let tile = Tile::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(Tile::at(tile.kind, tile.index, size), Some(tile), "{path}");
        }
    }
    // 258 full and one partial of each sort at the bottom, 1 and 1 at level 1, 1 at level 2, and the checkpoint.
    assert_eq!(paths.len(), 2 * 259 + 2 + 1 + 1);
    assert!(export(&mut LARGE.view(), exported.0.path(), |_| ()).is_err(), "never over something");
}

/// A source that changes one byte of what a folder gives.
struct Tampered {
    folder: FolderTiles,
    pick: prop::sample::Index,
    mask: u8,
    kind: TileKind,
}

impl TileSource for Tampered {
    fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError> {
        let mut bytes = self.folder.fetch(tile)?;
        if tile.kind == self.kind {
            let at = self.pick.index(bytes.len());
            bytes[at] ^= self.mask;
        }
        Ok(bytes)
    }
}

static SMALL: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    folder.append(numbered(1_000));
    folder.sign();
    folder
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_changed_byte_of_a_tile_fails(pick: prop::sample::Index, mask in 1_u8..=255, kind in 0..3_u8, seq in 0_u64..1_000) {
        let kind = if kind == 2 { TileKind::Entries } else { TileKind::Hashes(kind) };
        let note = std::fs::read_to_string(SMALL.path().join("checkpoints/latest")).unwrap();
        let folder = FolderTiles::open(SMALL.path()).unwrap();
        let mut view = LogView::new(Tampered { folder, pick, mask, kind }, note, &SMALL.key()).unwrap();
        if kind == TileKind::Entries {
            let width = if seq < 768 { 256 } else { 1_000 - 768 };
            let changed = seq / 256 * 256 + (pick.index(width * ENTRY_BYTES) / ENTRY_BYTES) as u64;
            // A length that is not ours spoils the bundle, a leaf only itself.
            if pick.index(width * ENTRY_BYTES) % ENTRY_BYTES < 2 || changed == seq {
                prop_assert!(view.leaf(seq).is_err());
            }
            prop_assert!(view.leaf(changed).is_err());
        } else if kind == TileKind::Hashes(1) && (pick.index(3 * HASH_BYTES) / HASH_BYTES) as u64 == seq / 256 {
            // A block's own hash is on the way from every leaf but its own, where it is made of them.
            prop_assert!(view.inclusion_proof((seq + 256) % 1_000).is_err());
        } else {
            prop_assert!(view.inclusion_proof(seq).is_err());
            prop_assert!(view.leaf_hashes(seq / 256).is_err());
            prop_assert!(view.leaf(seq).is_err());
        }
    }
}

#[test]
fn tiles_of_the_wrong_length_are_no_tiles() {
    struct Short(FolderTiles, isize);
    impl TileSource for Short {
        fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError> {
            let mut bytes = self.0.fetch(tile)?;
            bytes.resize(bytes.len().saturating_add_signed(self.1), 0);
            Ok(bytes)
        }
    }
    let note = std::fs::read_to_string(SMALL.path().join("checkpoints/latest")).unwrap();
    for by in [-32, -1, 1, 32, isize::MIN] {
        let source = Short(FolderTiles::open(SMALL.path()).unwrap(), by);
        let mut view = LogView::new(source, note.clone(), &SMALL.key()).unwrap();
        assert!(matches!(view.inclusion_proof(5), Err(TilesError::Damaged { .. })), "{by}");
    }
}
