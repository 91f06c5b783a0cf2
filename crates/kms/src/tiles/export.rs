//! A log as a static folder in C2SP's layout: every tile of one checkpoint's size, partial ones too, and the checkpoint.
//!
//! Written for other people's tools and for any web server. It goes over all leaves once, builds the tree of them, and
//! writes the checkpoint last, after the tree's root was found to be the signed one.

use super::view::TileSource;
use super::{FolderTiles, LogView, TilesError};
use crate::chain::tile::{self, Tile, TileKind};
use crate::chain::{Checkpoint, LeafHash, ProofError, Tree};
use std::io;
use std::path::Path;

/// Writes the log under its newest checkpoint to `out`, which must be absent or empty. `progress` is told the leaves
/// written so far.
pub fn export(
    log: &mut LogView<FolderTiles>,
    out: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Checkpoint, TilesError> {
    empty_folder(out)?;
    let checkpoint = log.checkpoint().clone();
    let size = checkpoint.size;
    let mut tree = Tree::new();
    for index in 0.. {
        let Some(entries) = Tile::at(TileKind::Entries, index, size) else { break };
        let bytes = log.source().fetch(entries)?;
        let damaged = |source| TilesError::Damaged { tile: entries, source };
        let hashes = tile::leaf_hashes(&tile::decode_entries(&bytes).map_err(damaged)?);
        hashes.iter().for_each(|hash| tree.push(LeafHash(*hash)));
        write(out, entries, &bytes)?;
        write(out, Tile { kind: TileKind::Hashes(0), ..entries }, &tile::encode_hashes(&hashes))?;
        progress(tree.size());
    }
    for level in 1.. {
        let kind = TileKind::Hashes(level);
        if Tile::at(kind, 0, size).is_none() {
            break;
        }
        for index in 0.. {
            let Some(tile) = Tile::at(kind, index, size) else { break };
            write(out, tile, &tile::encode_hashes(tree.tile(level, index)))?;
        }
    }
    if tree.root() != checkpoint.root {
        return Err(ProofError::Root { seq: 0, size }.into());
    }
    let path = out.join("checkpoint");
    std::fs::write(&path, log.note()).map_err(TilesError::io("write", &path))?;
    Ok(checkpoint)
}

fn empty_folder(out: &Path) -> Result<(), TilesError> {
    std::fs::create_dir_all(out).map_err(TilesError::io("create", out))?;
    let mut entries = std::fs::read_dir(out).map_err(TilesError::io("list", out))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => {
            Err(TilesError::io("write into the folder, which is not empty,", out)(io::ErrorKind::AlreadyExists.into()))
        }
    }
}

fn write(out: &Path, tile: Tile, bytes: &[u8]) -> Result<(), TilesError> {
    let path = out.join(tile.to_string());
    let folder = path.parent().unwrap_or(out);
    std::fs::create_dir_all(folder).map_err(TilesError::io("create", folder))?;
    std::fs::write(&path, bytes).map_err(TilesError::io("write", &path))
}
