//! Acts on alerts: verifies them, groups them into incidents, plans by playbook, guards, acts once, and tells people.
//!
//! An alert passes `intake` (signature, rule hash, evidence), `incident` (grouping), `plan` (pure), `guard`, `outbox`
//! (durable), `act` (signed calls to the KMS, effect read back) and `notify` (mail, webhook). `store` is the one SQLite
//! file behind all of it, `service` wires the loops. It never decrypts and never writes a policy of its own making.
//! Read `ingest` for what one alert changes, docs/responder.md for files, states and guards.

pub mod act;
pub mod announced;
pub mod approval;
pub mod config;
mod contain;
pub mod explain;
pub mod export;
mod file;
pub mod guard;
pub mod http;
pub mod incident;
mod ingest;
pub mod intake;
pub mod maintenance;
pub mod notify;
mod offence;
pub mod outbox;
pub mod plan;
pub mod playbook;
pub mod rehearse;
mod report;
pub mod reset;
mod retention;
pub mod self_test;
pub mod service;
pub mod standing;
pub mod status;
pub mod store;
pub mod undo;
mod waits;

#[cfg(test)]
mod action_tests;
#[cfg(test)]
mod approval_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod dead_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod journey_tests;
#[cfg(test)]
mod matrix_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod reset_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;

pub use config::{AlertOrigin, AllowedRule, ResponderConfig, Settings};
pub use service::{Responder, RunningResponder, StartError};
pub use store::forget_log_key;
