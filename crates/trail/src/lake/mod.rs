//! The lake: every record as a row of Parquet, in files that only commits make visible, plus a tail in memory.
//!
//! Read `schema` for the columns, `decode` for how a frame becomes a row, `commit` for what makes a file part of the
//! lake, `writer` for the life of a record between landing and file. Formats byte by byte: docs/lake.md.

mod backup;
pub mod commit;
mod compact;
pub mod decode;
pub mod delta;
mod erase;
pub mod events;
pub mod file;
pub(crate) mod fold;
mod imported;
pub(crate) mod order;
pub(crate) mod payload;
pub mod provider;
mod reader;
pub mod rebuild;
mod retain;
pub mod schema;
pub mod snapshot;
pub mod store;
mod tail;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod writer;

pub use backup::committed;
pub use commit::DataFile;
pub use snapshot::{LogSnapshot, Snapshot};
pub use store::LakeError;
pub use writer::{Checked, Committed, Lake, LakeOptions, Opened, check};
