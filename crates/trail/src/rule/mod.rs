//! Rules: SQL files that turn events into findings.
//!
//! `file` reads one, `load` a folder, `lower` makes physical expressions of the SELECT (`posture` of one over tables), `run`
//! is the one operator that live, tests and replays share, `state` what survives a restart, `test` the streams that each rule must fire on and
//! stay quiet on. Never reads files or clocks while running. To add a rule: copy one in rules/, give it a test that
//! fires and one that stays quiet, and run `keytrail rules test`.

pub mod backtest;
mod by_value;
pub mod calibrate;
pub mod coverage;
pub mod difference;
pub mod exception;
pub mod explain;
pub(crate) mod file;
mod learned;
pub mod lint;
mod load;
mod lower;
pub mod mutate;
pub(crate) mod posture;
pub(crate) mod row;
pub(crate) mod run;
pub mod score;
mod state;
mod steps;
pub mod test;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod traffic_tests;

pub use file::{Confidence, Header, Limits, Overrides, Problem, RuleFile, RuleKind, Status, Threshold};
pub use learned::{Baseline, FirstSeen, Method};
pub use load::{Rule, RuleSet, RuleSetError, TestedFiles};
pub use run::integrity::{Integrity, integrity_schema};
pub use run::meter::RuleRun;
pub use run::{Engine, EngineError, Finding, Learning, worth_revising};
pub use state::StateError;
pub use steps::{Absence, Sequence, Step};
