//! Tiles of a data folder, full and partial: from `DIR/tiles` where they are kept, else made from the journal.
//!
//! Works beside a running node and on a stopped one. It checks nothing: whoever asks knows the checkpoint that a tile
//! must lead to.

use super::files::TileFiles;
use super::view::TileSource;
use super::{LogView, TilesError};
use crate::chain::tile::{self, TILE_WIDTH, Tile, TileKind};
use crate::chain::tree::BLOCK_LEAVES;
use crate::chain::{NoteError, VerifyKey};
use crate::journal::Reader;
use crate::signer::{LATEST_NAME, VKEY_NAME};
use std::io;
use std::path::Path;

/// The source.
#[derive(Debug)]
pub struct FolderTiles {
    files: TileFiles,
    journal: Reader,
}

impl FolderTiles {
    /// The tiles of a data folder.
    pub fn open(data: &Path) -> Result<Self, TilesError> {
        Ok(Self { files: TileFiles::of(data), journal: Reader::open(&data.join("journal"), 0)? })
    }

    /// Makes a tile from the journal's records; none when they are not all there.
    pub(crate) fn recorded(&mut self, kind: TileKind, index: u64, width: u16) -> Result<Vec<u8>, TilesError> {
        let tile = Tile { kind, index, width };
        let first = index.checked_mul(BLOCK_LEAVES).ok_or(TilesError::Missing(tile))?;
        if self.journal.next_seq() != first {
            self.journal.seek(first);
        }
        let frames = self.journal.next(usize::from(width))?;
        if frames.len() != usize::from(width) {
            return Err(TilesError::Missing(tile));
        }
        let leaves: Vec<_> = frames.iter().map(|frame| frame.leaf).collect();
        Ok(match kind {
            TileKind::Entries => tile::encode_entries(&leaves),
            TileKind::Hashes(_) => tile::encode_hashes(&tile::leaf_hashes(&leaves)),
        })
    }

    /// A tile as it is kept, if it is.
    pub(crate) fn kept(&self, tile: Tile) -> Result<Option<Vec<u8>>, TilesError> {
        self.files.read(tile)
    }
}

impl TileSource for FolderTiles {
    fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError> {
        if let Some(bytes) = self.kept(tile)? {
            return Ok(bytes);
        }
        let TileKind::Hashes(level) = tile.kind else {
            return self.recorded(tile.kind, tile.index, tile.width);
        };
        let Some(below) = level.checked_sub(1) else {
            return self.recorded(tile.kind, tile.index, tile.width);
        };
        let mut hashes = Vec::with_capacity(usize::from(tile.width));
        for at in 0..u64::from(tile.width) {
            let index = tile.index.saturating_mul(BLOCK_LEAVES).saturating_add(at);
            let below = Tile { kind: TileKind::Hashes(below), index, width: TILE_WIDTH };
            let bytes = self.fetch(below)?;
            let full = tile::decode_hashes(&bytes).map_err(|source| TilesError::Damaged { tile: below, source })?;
            hashes.push(tile::tile_hash(&full));
        }
        Ok(tile::encode_hashes(&hashes))
    }
}

impl LogView<FolderTiles> {
    /// The log of a data folder as of its newest checkpoint, under `key` or else under the folder's own.
    pub fn of_folder(data: &Path, key: Option<&VerifyKey>) -> Result<Self, TilesError> {
        let checkpoints = data.join("checkpoints");
        let note = read_text(&checkpoints.join(LATEST_NAME))?.ok_or(TilesError::NoCheckpoint)?;
        let key = match key {
            Some(key) => key.clone(),
            None => {
                let text = read_text(&checkpoints.join(VKEY_NAME))?.ok_or(NoteError::VerifyKey)?;
                text.trim_end().parse()?
            }
        };
        Self::new(FolderTiles::open(data)?, note, &key)
    }
}

fn read_text(path: &Path) -> Result<Option<String>, TilesError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TilesError::io("read", path)(error)),
    }
}
