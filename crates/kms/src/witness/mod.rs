//! Witnesses (C2SP tlog-witness): somebody else's memory of a log's head, and a cosignature that says so.
//!
//! `record` is a witness: one durable size and root a log, and the judgement whether a new head continues it. `serve`
//! answers for it over HTTP, in a process of its own or inside a node that witnesses its peers. `ask` is the other side,
//! one witness as a node sees it; `quorum` asks all witnesses of a trust policy about each new checkpoint and says what
//! they have covered. A witness sees origins, sizes and hashes, never a record.

pub(crate) mod ask;
pub(crate) mod quorum;
mod record;
mod serve;

pub use ask::AskError;
pub use quorum::{QuorumSettings, WitnessState};
pub use record::{Outcome, Witness, WitnessError};
pub use serve::{RunningWitness, WitnessSettings, start};
