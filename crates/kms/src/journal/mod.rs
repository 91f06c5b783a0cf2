//! The journal: the record of every answered call, and the outbox for everything downstream.
//!
//! One appender writes batches into preallocated segments and answers a caller only after fdatasync. Readers in this
//! and other processes never see beyond `journal/head`. Format: docs/chain.md. Read `append` first (what callers see),
//! then `appender` (the threads), `recovery`, `reader`.

mod append;
mod appender;
mod base;
mod batch;
#[cfg(feature = "server")]
mod cut;
mod error;
pub mod frame;
mod head;
mod prune;
pub mod reader;
mod recovery;
mod segment;
pub mod spool;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod vectors;
mod walk;
mod writer;

pub use append::{
    AppendError, Bound, Draft, DraftError, Durable, FatalHook, Head, Journal, JournalOptions, Pending, Receipt,
    Recovered, SubmitError,
};
pub use error::{JournalError, ReadError};
pub use frame::Frame;
pub use prune::{PruneBounds, PruneDone};
pub use reader::Reader;
pub use spool::SpoolWriter;
pub use walk::Chain;

#[cfg(feature = "server")]
pub(crate) use cut::{copy_first, tree_of};

pub(crate) use walk::{Start, Step, Walk, Walked};
