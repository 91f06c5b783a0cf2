//! Full tiles in files: one for entry bundles, one for each level of hashes, tile n at n times the length of a tile.
//!
//! Whole tiles have one length, so a file needs no index, and what a second brings is two or three sequential writes and
//! as many fdatasyncs, however many tiles it is. A file of its own for each tile would be 120 syncs a second under load.
//! The writer is the only one that changes them, before each checkpoint; what it finds at the start is compared with the
//! tree that the journal gave, and anything missing, torn or different is written anew from the journal.

use super::TilesError;
use crate::chain::tile::{self, TILE_WIDTH, Tile, TileKind};
use crate::chain::tree::BLOCK_LEAVES;
use crate::chain::{Hash, Leaf, Tree};
use crate::journal::Reader;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Folder in the data folder.
pub const TILES_NAME: &str = "tiles";
/// Blocks of 256 records taken through memory at once: 2.4 MB of tiles.
const CHUNK_BLOCKS: u64 = 64;
/// Levels of tiles in a tree of 2^64 leaves.
const LEVELS_MAX: u8 = 8;

/// The files, for reading.
#[derive(Debug)]
pub struct TileFiles {
    dir: PathBuf,
}

impl TileFiles {
    /// The files of a data folder; they may not be there.
    pub fn of(data: &Path) -> Self {
        Self { dir: data.join(TILES_NAME) }
    }

    /// The first `width` items of a full tile that is kept; none when it is not. Only tiles below a published checkpoint
    /// are sure to be whole.
    pub fn read(&self, tile: Tile) -> Result<Option<Vec<u8>>, TilesError> {
        let path = path_of(&self.dir, tile.kind);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TilesError::io("open", &path)(error)),
        };
        let full = tile.full().bytes() as u64;
        let Some(at) = tile.index.checked_mul(full) else { return Ok(None) };
        // A tile that has not been filled is not begun either.
        if file.metadata().map_err(TilesError::io("look at", &path))?.len() < at.saturating_add(full) {
            return Ok(None);
        }
        let mut bytes = vec![0; tile.bytes()];
        file.read_exact_at(&mut bytes, at).map_err(TilesError::io("read", &path))?;
        Ok(Some(bytes))
    }

    /// The first tile that says something else than `tree`, among those of the first `blocks` blocks that are there.
    pub fn first_false(&self, tree: &Tree, blocks: u64) -> Result<Option<Tile>, TilesError> {
        for index in 0..blocks {
            if let Some(tile) = self.false_block(tree, index)? {
                return Ok(Some(tile));
            }
        }
        for level in 1.. {
            let count = full_tiles(level, blocks);
            if count == 0 {
                break;
            }
            for index in 0..count {
                let tile = Tile { kind: TileKind::Hashes(level), index, width: TILE_WIDTH };
                let there = self.read(tile)?;
                if there.is_some_and(|bytes| bytes != tile::encode_hashes(tree.tile(level, index))) {
                    return Ok(Some(tile));
                }
            }
        }
        Ok(None)
    }

    /// Bundle or leaf hashes of one block that do not lead to the block's hash in the tree.
    fn false_block(&self, tree: &Tree, index: u64) -> Result<Option<Tile>, TilesError> {
        for kind in [TileKind::Hashes(0), TileKind::Entries] {
            let tile = Tile { kind, index, width: TILE_WIDTH };
            let found = self.read(tile)?.map(|bytes| hash_of_block(&bytes, kind));
            if found.is_some_and(|found| found.is_none() || found != block_hash(tree, index)) {
                return Ok(Some(tile));
            }
        }
        Ok(None)
    }
}

/// A block's hash in the tree.
pub(crate) fn block_hash(tree: &Tree, index: u64) -> Option<Hash> {
    let at = usize::try_from(index % BLOCK_LEAVES).ok()?;
    tree.tile(1, index / BLOCK_LEAVES).get(at).copied()
}

/// The block's hash that a full level 0 tile or bundle leads to.
pub(crate) fn hash_of_block(bytes: &[u8], kind: TileKind) -> Option<Hash> {
    let hashes = match kind {
        TileKind::Entries => tile::leaf_hashes(&tile::decode_entries(bytes).ok()?),
        TileKind::Hashes(_) => tile::decode_hashes(bytes).ok()?,
    };
    Some(tile::tile_hash(&hashes))
}

/// Full tiles at a level when so many blocks of 256 leaves are full.
fn full_tiles(level: u8, blocks: u64) -> u64 {
    blocks.checked_shr(u32::from(level) * 8).unwrap_or(0)
}

fn path_of(dir: &Path, kind: TileKind) -> PathBuf {
    match kind {
        TileKind::Entries => dir.join("entries"),
        TileKind::Hashes(level) => dir.join(format!("hashes-{level}")),
    }
}

/// The one who writes them.
#[derive(Debug)]
pub struct TileWriter {
    files: TileFiles,
    journal: Reader,
    /// Blocks whose tiles, on all levels, are durable.
    blocks: u64,
}

impl TileWriter {
    /// Opens the tiles of a data folder, keeps as many as agree with `tree`, and writes those that are missing.
    pub fn open(data: &Path, journal: &Path, tree: &Tree) -> Result<Self, TilesError> {
        let files = TileFiles::of(data);
        if !files.dir.is_dir() {
            DirBuilder::new().mode(0o700).create(&files.dir).map_err(TilesError::io("create", &files.dir))?;
            sync_folder(data)?;
        }
        let mut writer = Self { files, journal: Reader::open(journal, 0)?, blocks: 0 };
        writer.refuse_ahead(tree.size())?;
        writer.blocks = writer.good_blocks(tree)?;
        writer.cut()?;
        writer.grow(tree.size(), |level, index| tree.tile(level, index).to_vec())?;
        Ok(writer)
    }

    /// Records whose leaves are durable in full tiles, on all levels.
    #[cfg(feature = "server")]
    pub(crate) fn full_records(&self) -> u64 {
        self.blocks * BLOCK_LEAVES
    }

    /// Writes all tiles that a tree of `size` has full, and makes them durable. `upper` gives the hashes of a tile at level
    /// 1 or above, as far as the tree has them. After an error the same tiles are written again the next time.
    pub fn grow(&mut self, size: u64, upper: impl Fn(u8, u64) -> Vec<Hash>) -> Result<(), TilesError> {
        let wanted = size / BLOCK_LEAVES;
        if wanted <= self.blocks {
            return Ok(());
        }
        let mut written = vec![TileKind::Entries, TileKind::Hashes(0)];
        let mut next = self.blocks;
        while next < wanted {
            let end = wanted.min(next + CHUNK_BLOCKS);
            self.write_blocks(next, end, &upper)?;
            next = end;
        }
        for level in 1.. {
            let (from, to) = (full_tiles(level, self.blocks), full_tiles(level, wanted));
            if from == to {
                break;
            }
            written.push(TileKind::Hashes(level));
            for index in from..to {
                let bytes = tile::encode_hashes(&upper(level, index));
                self.write(Tile { kind: TileKind::Hashes(level), index, width: TILE_WIDTH }, &bytes)?;
            }
        }
        crash_point("tiles::before_sync");
        for kind in written {
            let path = path_of(&self.files.dir, kind);
            let synced = File::open(&path).and_then(|file| file.sync_data());
            synced.map_err(TilesError::io("sync", &path))?;
        }
        crash_point("tiles::after_sync");
        self.blocks = wanted;
        Ok(())
    }

    fn write_blocks(&mut self, from: u64, to: u64, upper: &impl Fn(u8, u64) -> Vec<Hash>) -> Result<(), TilesError> {
        let (mut entries, mut hashes) = (Vec::new(), Vec::new());
        if self.journal.next_seq() != from * BLOCK_LEAVES {
            self.journal.seek(from * BLOCK_LEAVES);
        }
        for block in from..to {
            let frames = self.journal.next(usize::from(TILE_WIDTH))?;
            let leaves: Vec<_> = frames.iter().map(|frame| frame.leaf).collect();
            let tile = tile::leaf_hashes(&leaves);
            // What is on the disk may have changed since it was hashed for the tree: never handed on.
            let wanted = upper(1, block / BLOCK_LEAVES);
            let at = usize::try_from(block % BLOCK_LEAVES).unwrap_or(usize::MAX);
            if leaves.len() != usize::from(TILE_WIDTH) || wanted.get(at) != Some(&tile::tile_hash(&tile)) {
                return Err(TilesError::Foreign(block * BLOCK_LEAVES));
            }
            entries.extend_from_slice(&tile::encode_entries(&leaves));
            hashes.extend_from_slice(&tile::encode_hashes(&tile));
        }
        self.write(Tile { kind: TileKind::Entries, index: from, width: TILE_WIDTH }, &entries)?;
        self.write(Tile { kind: TileKind::Hashes(0), index: from, width: TILE_WIDTH }, &hashes)
    }

    /// Writes tiles that follow one another, the first of them `tile`.
    fn write(&self, tile: Tile, bytes: &[u8]) -> Result<(), TilesError> {
        let path = path_of(&self.files.dir, tile.kind);
        let fresh = !path.exists();
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let written = opened.and_then(|file| file.write_all_at(bytes, tile.index * tile.bytes() as u64));
        written.map_err(TilesError::io("write", &path))?;
        if fresh { sync_folder(&self.files.dir) } else { Ok(()) }
    }

    /// A bundle of a later block than any that the journal has filled, with the right seq in it, is no torn write.
    fn refuse_ahead(&self, size: u64) -> Result<(), TilesError> {
        let index = size / BLOCK_LEAVES;
        let tile = Tile { kind: TileKind::Entries, index, width: TILE_WIDTH };
        let leaves = self.files.read(tile)?.and_then(|bytes| tile::decode_entries(&bytes).ok()).unwrap_or_default();
        let seqs = leaves.iter().filter_map(|leaf| Leaf::decode(leaf).ok()).map(|leaf| leaf.seq);
        match seqs.filter(|seq| *seq >= size && seq / BLOCK_LEAVES == index).max() {
            Some(tiles) => Err(TilesError::Ahead { tiles, journal: size }),
            None => Ok(()),
        }
    }

    /// Blocks whose tiles are all there and say what the tree says.
    fn good_blocks(&self, tree: &Tree) -> Result<u64, TilesError> {
        let mut blocks = tree.size() / BLOCK_LEAVES;
        for kind in [TileKind::Entries, TileKind::Hashes(0)] {
            blocks = blocks.min(self.kept(kind)?);
        }
        for level in 1.. {
            let needed = full_tiles(level, blocks);
            if needed == 0 {
                break;
            }
            let kept = self.kept(TileKind::Hashes(level))?;
            if kept < needed {
                blocks = kept << (u32::from(level) * 8);
            }
        }
        let Some(tile) = self.files.first_false(tree, blocks)? else { return Ok(blocks) };
        tracing::error!(%tile, "tile on disk is not the one of the tree, it is written anew from the journal");
        Ok(match tile.kind {
            TileKind::Entries | TileKind::Hashes(0) => tile.index,
            TileKind::Hashes(level) => tile.index << (u32::from(level) * 8),
        })
    }

    /// Whole tiles in a file.
    fn kept(&self, kind: TileKind) -> Result<u64, TilesError> {
        let path = path_of(&self.files.dir, kind);
        let tile = u64::from(TILE_WIDTH) * kind.item_bytes() as u64;
        match std::fs::metadata(&path) {
            Ok(found) => Ok(found.len() / tile),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(TilesError::io("look at", &path)(error)),
        }
    }

    /// Takes away what stands behind the good blocks, so that readers never take it for a tile.
    fn cut(&self) -> Result<(), TilesError> {
        let upper = (0..LEVELS_MAX).map(TileKind::Hashes);
        for kind in std::iter::once(TileKind::Entries).chain(upper) {
            let path = path_of(&self.files.dir, kind);
            let tiles = match kind {
                TileKind::Entries => self.blocks,
                TileKind::Hashes(level) => full_tiles(level, self.blocks),
            };
            let length = tiles * u64::from(TILE_WIDTH) * kind.item_bytes() as u64;
            match OpenOptions::new().write(true).open(&path) {
                Ok(file) => {
                    file.set_len(length).and_then(|()| file.sync_all()).map_err(TilesError::io("cut", &path))?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(TilesError::io("open", &path)(error)),
            }
        }
        Ok(())
    }
}

fn sync_folder(dir: &Path) -> Result<(), TilesError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TilesError::io("sync", dir))
}

/// A place where the crash tests end the process.
fn crash_point(name: &str) {
    let _ = name;
    fail::fail_point!(name, |_| std::process::abort());
}
