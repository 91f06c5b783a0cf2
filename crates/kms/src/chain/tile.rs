//! Tiles of the tree and bundles of leaves, as C2SP tlog-tiles lays them out: paths and bytes, no I/O.
//!
//! A hash tile at level l holds up to 256 hashes, each over 256^l leaves; an entry bundle holds up to 256 leaves, each
//! behind its length in two bytes. Our leaves are all of one length, so whole tiles are, too. <https://c2sp.org/tlog-tiles>

use super::leaf::{LEAF_BYTES, LeafHash, leaf_hash};
use super::subtree::{Hash, hash_of};
use super::tree::BLOCK_LEAVES;
use std::fmt;

/// Hashes in a full tile.
pub const TILE_WIDTH: u16 = 256;
/// Bytes of one hash in a tile.
pub const HASH_BYTES: usize = 32;
/// Bytes of one entry in a bundle: a length in two bytes, and a leaf.
pub const ENTRY_BYTES: usize = 2 + LEAF_BYTES;
/// Highest level that the specification knows.
const LEVEL_MAX: u8 = 63;
/// Elements of three digits in an index; more than any tree of 2^64 leaves has.
const INDEX_ELEMENTS_MAX: usize = 6;
/// Length in front of each entry.
const ENTRY_LENGTH: [u8; 2] = [0, 110];

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileKind {
    /// Leaves.
    Entries,
    /// Hashes at a level, 0 for leaf hashes.
    Hashes(u8),
}

impl TileKind {
    /// Length of one hash or entry.
    pub fn item_bytes(self) -> usize {
        match self {
            Self::Entries => ENTRY_BYTES,
            Self::Hashes(_) => HASH_BYTES,
        }
    }

    /// How many of them a tree of `size` has.
    fn items(self, size: u64) -> u64 {
        match self {
            Self::Entries => size,
            Self::Hashes(level) => size.checked_shr(u32::from(level) * 8).unwrap_or(0),
        }
    }
}

/// One tile: full, or as much of it as some size of the tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// What it holds.
    pub kind: TileKind,
    /// Its index at its level.
    pub index: u64,
    /// Hashes or entries in it, 1 to 256.
    pub width: u16,
}

/// Why bytes are not a tile.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TileError {
    /// Too few or too many bytes for its width.
    #[error("tile has {found} bytes instead of {wanted}")]
    Length {
        /// Bytes there.
        found: usize,
        /// Bytes that its width takes.
        wanted: usize,
    },
    /// An entry of another length than a leaf.
    #[error("entry {0} of the bundle is not a leaf")]
    Entry(usize),
}

impl Tile {
    /// The tile at `index` as a tree of `size` has it; none when nothing of it is there.
    pub fn at(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let items = kind.items(size).checked_sub(index.checked_mul(BLOCK_LEAVES)?)?.min(BLOCK_LEAVES);
        let width = u16::try_from(items).ok().filter(|width| *width > 0)?;
        Some(Self { kind, index, width })
    }

    /// Whether a tree of `size` has at least this much of the tile.
    pub fn is_in(&self, size: u64) -> bool {
        Self::at(self.kind, self.index, size).is_some_and(|there| there.width >= self.width)
    }

    /// The same tile with all of its 256 items.
    pub fn full(&self) -> Self {
        Self { width: TILE_WIDTH, ..*self }
    }

    /// Length of its bytes.
    pub fn bytes(&self) -> usize {
        usize::from(self.width) * self.kind.item_bytes()
    }

    /// Reads `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]` in the one form that the specification gives it.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, index) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match level {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes(level.parse().ok().filter(|level| *level <= LEVEL_MAX)?),
        };
        let (index, width) = match index.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (index, TILE_WIDTH),
        };
        let mut number = 0_u64;
        if index.split('/').count() > INDEX_ELEMENTS_MAX {
            return None;
        }
        for element in index.split('/') {
            let digits = element.strip_prefix('x').unwrap_or(element);
            number = number * 1_000 + digits.parse::<u16>().ok().map(u64::from)?;
        }
        let tile = Self { kind, index: number, width };
        // Leading zeros, signs, missing or surplus `x`: whatever is not how it would be written.
        (tile.to_string() == path).then_some(tile)
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries/")?,
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let mut elements = vec![self.index % 1_000];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            elements.push(rest % 1_000);
            rest /= 1_000;
        }
        while let Some(element) = elements.pop() {
            if elements.is_empty() { write!(f, "{element:03}")? } else { write!(f, "x{element:03}/")? }
        }
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

/// The bytes of a hash tile.
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile.
pub fn decode_hashes(bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    if rest.is_empty() { Ok(hashes.to_vec()) } else { Err(odd(bytes, HASH_BYTES)) }
}

/// The bytes of an entry bundle.
pub fn encode_entries<'a>(leaves: impl IntoIterator<Item = &'a [u8; LEAF_BYTES]>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(TILE_WIDTH) * ENTRY_BYTES);
    for leaf in leaves {
        bytes.extend_from_slice(&ENTRY_LENGTH);
        bytes.extend_from_slice(leaf);
    }
    bytes
}

/// The leaves of an entry bundle.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<[u8; LEAF_BYTES]>, TileError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(odd(bytes, ENTRY_BYTES));
    }
    let leaf = |(at, entry): (usize, &[u8; ENTRY_BYTES])| match entry.split_first_chunk::<2>() {
        Some((&ENTRY_LENGTH, leaf)) => <[u8; LEAF_BYTES]>::try_from(leaf).map_err(|_| TileError::Entry(at)),
        Some(_) | None => Err(TileError::Entry(at)),
    };
    entries.iter().enumerate().map(leaf).collect()
}

/// Hashes of leaves, as a level 0 tile has them.
pub fn leaf_hashes(leaves: &[[u8; LEAF_BYTES]]) -> Vec<Hash> {
    leaves.iter().map(leaf_hash).map(|LeafHash(hash)| hash).collect()
}

/// The hash over a full tile's hashes: what the level above holds for it.
pub fn tile_hash(hashes: &[Hash]) -> Hash {
    hash_of(hashes)
}

fn odd(bytes: &[u8], item: usize) -> TileError {
    TileError::Length { found: bytes.len(), wanted: bytes.len() / item * item }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tile(kind: TileKind, index: u64, width: u16) -> Tile {
        Tile { kind, index, width }
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        for (path, expected) in [
            ("tile/0/000", tile(TileKind::Hashes(0), 0, 256)),
            ("tile/0/x001/x234/067", tile(TileKind::Hashes(0), 1_234_067, 256)),
            ("tile/63/999.p/255", tile(TileKind::Hashes(63), 999, 255)),
            ("tile/entries/x001/000.p/1", tile(TileKind::Entries, 1_000, 1)),
        ] {
            assert_eq!(Tile::parse(path), Some(expected));
            assert_eq!(expected.to_string(), path);
        }
        for wrong in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/1000",
            "tile/00/000",
            "tile/+1/000",
            "tile/64/000",
            "tile/0/001/000",
            "tile/0/x000/001",
            "tile/0/x001",
            "tile/0/x01/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/000.p",
            "tile/0/000/",
            "tile/-1/000",
            "tile/0/x+12/000",
            "tile/data/000",
            "/tile/0/000",
            "tile/0/../000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_tree_of_70_000_has_the_tiles_that_the_specification_counts() {
        let width = |level, index| Tile::at(TileKind::Hashes(level), index, 70_000).map(|tile| tile.width);
        assert_eq!([width(0, 272), width(0, 273), width(0, 274)], [Some(256), Some(112), None]);
        assert_eq!([width(1, 0), width(1, 1), width(1, 2)], [Some(256), Some(17), None]);
        assert_eq!([width(2, 0), width(2, 1), width(3, 0)], [Some(1), None, None]);
        let at_256 = |level| Tile::at(TileKind::Hashes(level), 0, 256).map(|tile| tile.width);
        assert_eq!([at_256(0), at_256(1), at_256(2), at_256(63)], [Some(256), Some(1), None, None]);
        assert!(tile(TileKind::Hashes(1), 1, 17).is_in(70_000) && !tile(TileKind::Hashes(1), 1, 18).is_in(70_000));
        assert!(!tile(TileKind::Entries, u64::MAX, 1).is_in(u64::MAX));
    }

    proptest! {
        #[test]
        fn every_tile_reads_back_from_its_path(level in 0_u8..64, entries: bool, index in 0_u64..1_000_000_000_000, width in 1_u16..=256) {
            let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
            let one = tile(kind, index, width);
            prop_assert_eq!(Tile::parse(&one.to_string()), Some(one));
        }

        #[test]
        fn no_path_is_read_twice_or_panics(path in "(tile/)?([0-9]{1,2}|entries)/(x?[0-9]{2,4}/){0,7}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.to_string(), path);
            }
        }
    }

    #[test]
    fn bundles_read_back_and_any_other_length_is_refused() {
        let leaves: Vec<[u8; LEAF_BYTES]> = (0..3).map(|fill| [fill; LEAF_BYTES]).collect();
        let bytes = encode_entries(&leaves);
        assert_eq!((bytes.len(), &bytes[..3]), (3 * 112, &[0, 110, 0][..]));
        assert_eq!(decode_entries(&bytes), Ok(leaves.clone()));
        assert_eq!(decode_entries(&bytes[..335]), Err(TileError::Length { found: 335, wanted: 224 }));
        let mut longer = bytes;
        longer[113] = 111;
        assert_eq!(decode_entries(&longer), Err(TileError::Entry(1)));
        let hashes = leaf_hashes(&leaves);
        assert_eq!(decode_hashes(&encode_hashes(&hashes)), Ok(hashes));
        assert_eq!(decode_hashes(&[0; 33]), Err(TileError::Length { found: 33, wanted: 32 }));
    }
}
