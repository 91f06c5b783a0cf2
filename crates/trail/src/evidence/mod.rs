//! Evidence: what a pack shows beside the records themselves.
//!
//! `state` folds keys, policies and grants as of the period's end, `tables` makes a session over a pack's own files, `control` reads
//! control files, `controls` runs them, `statement` says it all to people. Nothing here proves anything: proofs
//! are the leaves, and these are computed from what the leaves cover. Format: docs/evidence.md, clauses: docs/controls.md.

pub mod control;
pub mod controls;
pub mod document;
mod shipped;
pub mod state;
pub mod statement;
pub mod tables;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod control_tests;

pub use control::{Control, ControlError, Period, Site};
pub use controls::{Outcome, Scope, Verdict, run};
pub use shipped::SETS;
