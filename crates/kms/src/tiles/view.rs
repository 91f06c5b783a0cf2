//! A log under one checkpoint, read through tiles: proofs, leaf hashes and leaves, each checked before it is given out.
//!
//! The tiles may come from anyone. What leaves this file leads to the root that the log's key has signed, or is an error.

use super::TilesError;
use crate::chain::leaf::{LEAF_BYTES, Leaf, LeafHash, leaf_hash};
use crate::chain::tile::{self, Tile, TileKind};
use crate::chain::tree::BLOCK_LEAVES;
use crate::chain::{self, Checkpoint, ConsistencyProof, Hash, InclusionProof, RootHash, TlogProof, VerifyKey};
use std::collections::HashMap;

/// Tiles kept in memory from one question to the next: 8 MB of them.
const TILES_MAX: usize = 1_024;
/// Levels of the tree that one level of tiles spans.
const TILE_LEVELS: u32 = 8;

/// Where tiles come from.
pub trait TileSource {
    /// The bytes of a tile, which is in the log under the checkpoint at hand. Blocks on the disk or on the network.
    fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError>;
}

/// The log.
#[derive(Debug)]
pub struct LogView<S> {
    source: S,
    note: String,
    checkpoint: Checkpoint,
    tiles: HashMap<(u8, u64), Vec<Hash>>,
}

impl<S: TileSource> LogView<S> {
    /// The log under a signed note.
    pub fn new(source: S, note: String, key: &VerifyKey) -> Result<Self, TilesError> {
        let checkpoint = key.verify(&note)?;
        Ok(Self { source, note, checkpoint, tiles: HashMap::new() })
    }

    /// The checkpoint under which everything is.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The signed note with whatever signatures it carries.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The source, for what needs no checking.
    pub(super) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// Leaf hashes of the block of 256 numbered `block`, as far as the checkpoint covers it.
    pub fn leaf_hashes(&mut self, block: u64) -> Result<Vec<LeafHash>, TilesError> {
        self.tidy();
        let (first, size) = (block.saturating_mul(BLOCK_LEAVES), self.checkpoint.size);
        let tile = Tile::at(TileKind::Hashes(0), block, size).ok_or(TilesError::Above { seq: first, size })?;
        let hashes = self.hashes(tile)?;
        // The way from one leaf of the tile passes over all others: they are true, or it leads elsewhere.
        self.prove(first)?;
        Ok(hashes.into_iter().map(LeafHash).collect())
    }

    /// The proof that the record with this seq is under the checkpoint.
    pub fn inclusion_proof(&mut self, seq: u64) -> Result<InclusionProof, TilesError> {
        self.tidy();
        Ok(self.prove(seq)?.1)
    }

    /// The leaf with this seq.
    pub fn leaf(&mut self, seq: u64) -> Result<([u8; LEAF_BYTES], Leaf), TilesError> {
        self.tidy();
        let (hash, _) = self.prove(seq)?;
        let above = TilesError::Above { seq, size: self.checkpoint.size };
        let tile = Tile::at(TileKind::Entries, seq / BLOCK_LEAVES, self.checkpoint.size).ok_or(above)?;
        let bytes = self.fetch(tile)?;
        let damaged = |source| TilesError::Damaged { tile, source };
        let leaves = tile::decode_entries(&bytes).map_err(damaged)?;
        let at = usize::try_from(seq % BLOCK_LEAVES).unwrap_or(usize::MAX);
        let bytes = *leaves.get(at).ok_or(TilesError::Missing(tile))?;
        if leaf_hash(&bytes) != hash {
            return Err(TilesError::Foreign(seq));
        }
        let leaf = Leaf::decode(&bytes).map_err(|source| TilesError::Leaf { seq, source })?;
        Ok((bytes, leaf))
    }

    /// A file that proves the record with this seq.
    pub fn tlog_proof(&mut self, seq: u64) -> Result<TlogProof, TilesError> {
        let (leaf, _) = self.leaf(seq)?;
        let proof = self.inclusion_proof(seq)?;
        Ok(TlogProof { leaf, index: seq, proof, note: self.note.clone() })
    }

    /// The root at an earlier size, and the proof that the log has only grown since.
    pub fn consistency_proof(&mut self, old: u64) -> Result<(RootHash, ConsistencyProof), TilesError> {
        self.tidy();
        let Checkpoint { size, root, .. } = self.checkpoint.clone();
        if old > size {
            return Err(TilesError::Above { seq: old - 1, size });
        }
        let old_root = RootHash(chain::range(0, old, &mut |level, index| self.node(level, index))?);
        if old == 0 {
            return Ok((old_root, ConsistencyProof::default()));
        }
        let hashes = chain::consistency(old, size, &mut |level, index| self.node(level, index))?;
        let proof = ConsistencyProof { hashes };
        proof.verify(old, &old_root, size, &root)?;
        Ok((old_root, proof))
    }

    /// Leaf hash and proof, checked against the checkpoint.
    fn prove(&mut self, seq: u64) -> Result<(LeafHash, InclusionProof), TilesError> {
        let Checkpoint { size, root, .. } = self.checkpoint.clone();
        if seq >= size {
            return Err(TilesError::Above { seq, size });
        }
        let hashes = chain::inclusion(seq, 0, size, &mut |level, index| self.node(level, index))?;
        let (leaf, proof) = (LeafHash(self.node(0, seq)?), InclusionProof { hashes });
        proof.verify(leaf, seq, size, &root)?;
        Ok((leaf, proof))
    }

    /// A complete node of the tree, from the tile that holds it or what it is made of.
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, TilesError> {
        let tile_level = u8::try_from(level / TILE_LEVELS).unwrap_or(u8::MAX);
        let (first, count) = (index << (level % TILE_LEVELS), 1_usize << (level % TILE_LEVELS));
        let (kind, block) = (TileKind::Hashes(tile_level), first / BLOCK_LEAVES);
        let size = self.checkpoint.size;
        let tile = Tile::at(kind, block, size).ok_or(TilesError::Above { seq: first, size })?;
        let hashes = self.hashes(tile)?;
        let at = usize::try_from(first % BLOCK_LEAVES).unwrap_or(usize::MAX);
        let nodes = hashes.get(at..at.saturating_add(count)).ok_or(TilesError::Missing(tile))?;
        Ok(tile::tile_hash(nodes))
    }

    fn hashes(&mut self, tile: Tile) -> Result<Vec<Hash>, TilesError> {
        let TileKind::Hashes(level) = tile.kind else { return Err(TilesError::Missing(tile)) };
        if let Some(hashes) = self.tiles.get(&(level, tile.index)) {
            return Ok(hashes.clone());
        }
        let bytes = self.fetch(tile)?;
        let hashes = tile::decode_hashes(&bytes).map_err(|source| TilesError::Damaged { tile, source })?;
        self.tiles.insert((level, tile.index), hashes.clone());
        Ok(hashes)
    }

    /// Forgets tiles, never in the middle of a question: a source could then give another one than was proved.
    fn tidy(&mut self) {
        if self.tiles.len() >= TILES_MAX {
            self.tiles.clear();
        }
    }

    /// The bytes of a tile, as many as its width takes.
    fn fetch(&mut self, tile: Tile) -> Result<Vec<u8>, TilesError> {
        let bytes = self.source.fetch(tile)?;
        if bytes.len() == tile.bytes() {
            return Ok(bytes);
        }
        let source = tile::TileError::Length { found: bytes.len(), wanted: tile.bytes() };
        Err(TilesError::Damaged { tile, source })
    }
}
