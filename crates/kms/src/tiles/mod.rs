//! The log as C2SP tlog-tiles: full tiles kept in `DIR/tiles`, and the whole log read through tiles, wherever they are.
//!
//! `files` keeps full tiles durably and in order, so that proofs go on when journal segments are pruned; `folder` makes
//! every other tile from the journal; `remote` fetches them over HTTP; `view` reads a log through any of these and
//! believes only what leads to the signed checkpoint; `export` writes a static folder. Formats: docs/chain.md.

mod export;
mod files;
mod folder;
mod remote;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
mod view;

pub use export::export;
pub use files::{TILES_NAME, TileFiles, TileWriter};
#[cfg(feature = "server")]
pub(crate) use files::{block_hash, hash_of_block};
pub use folder::FolderTiles;
pub use remote::HttpTiles;
pub use view::{LogView, TileSource};

use crate::chain::tile::TileError;
use crate::chain::{ConsistencyError, LeafError, NoteError, ProofError, Tile};
use crate::journal::JournalError;
use std::io;
use std::path::{Path, PathBuf};

/// Why tiles cannot be kept, read or believed.
#[derive(Debug, thiserror::Error)]
pub enum TilesError {
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The records that a tile is made of cannot be read.
    #[error("records for a tile cannot be read from the journal")]
    Journal(#[source] Box<JournalError>),
    /// The journal has other or fewer records than the tree.
    #[error("journal's records from seq {0} on are not those of the tree")]
    Foreign(u64),
    /// Tiles are only ever made of durable records: the journal has lost some, or is an older copy.
    #[error(
        "journal was rolled back: it ends before seq {journal}, tiles hold seq {tiles}; restore the newest copy of the journal"
    )]
    Ahead {
        /// A seq that the tiles have.
        tiles: u64,
        /// Where the journal ends.
        journal: u64,
    },
    /// A tile that must be there is not.
    #[error("{0} is missing")]
    Missing(Tile),
    /// A tile is not one.
    #[error("{tile} is damaged")]
    Damaged {
        /// Which.
        tile: Tile,
        /// How.
        #[source]
        source: TileError,
    },
    /// The checkpoint does not hold.
    #[error("checkpoint does not hold")]
    Note(#[from] NoteError),
    /// Nothing has been signed yet.
    #[error("log has no checkpoint yet")]
    NoCheckpoint,
    /// The checkpoint does not reach that far.
    #[error("seq {seq} is not under the checkpoint of size {size}")]
    Above {
        /// What was asked for.
        seq: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// Tiles do not lead to the checkpoint's root.
    #[error("tiles are not those of the checkpoint")]
    Untrue(#[from] ProofError),
    /// Tiles do not lead to the roots of both sizes.
    #[error("log does not begin as it did")]
    Inconsistent(#[from] ConsistencyError),
    /// An entry is not a leaf.
    #[error("entry of seq {seq} is not a leaf")]
    Leaf {
        /// Which.
        seq: u64,
        /// How.
        #[source]
        source: LeafError,
    },
    /// The log's server did not give what it was asked for.
    #[error("cannot fetch {url}: {found}")]
    Fetch {
        /// What.
        url: String,
        /// Why not.
        found: String,
    },
}

impl From<JournalError> for TilesError {
    fn from(error: JournalError) -> Self {
        Self::Journal(Box::new(error))
    }
}

impl TilesError {
    fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }
}
