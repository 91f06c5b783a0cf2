//! Evidence packs: what the log holds for a period, in a folder that anyone can check offline.
//!
//! `export` makes a pack, `verify` judges one; both read `manifest` and `leaves`, and the format is docs/evidence.md.
//! The exporter believes no file: everything in a pack was recomputed from rows up to the signed root first.
//!
//! `derived` adds what follows from those records: `state` as of the period's end, the controls (`control` reads their files,
//! `controls` runs them over the session of `tables`, `rerun` does so again later), and the `statement` for people.

mod access;
mod alerts;
mod bag;
mod cloudtrail;
pub mod control;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod control_tests;
pub mod controls;
mod derived;
mod digest;
pub mod document;
mod earlier;
mod export;
mod keys;
mod leaves;
mod manifest;
pub(crate) mod ocsf;
mod pass;
mod redact;
mod rerun;
mod rows;
mod sample;
pub mod serve;
mod shipped;
mod source;
pub mod state;
pub mod statement;
pub mod tables;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
pub mod verify;

pub use control::{ControlError, Site};
pub use derived::DerivedError;
pub use earlier::EarlierError;
pub use export::{ExportError, Exported, Redaction, Request, Sealed, export, seal};
pub use keys::KeyFileError;
pub use manifest::Manifest;
pub use redact::RedactError;
pub use rerun::{Rerun, RerunError, rerun};
pub use shipped::SETS;
pub use source::SourceError;
pub use state::Access;

/// Folder of a pack's payload, as BagIt calls it.
pub(crate) const PAYLOAD: &str = "data";

/// In `leaves.gz`: the payload of this record stands there or nowhere, not in a CloudTrail file.
pub(crate) const NO_FILE: u32 = u32::MAX;

/// A Unix time in microseconds as RFC 3339 in UTC, without a fraction where it is zero.
pub(crate) fn rfc3339(time_us: u64) -> String {
    time(time_us).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// Times of leaves are far inside what chrono can show; one that is not becomes the epoch's begin.
pub(crate) fn time(time_us: u64) -> chrono::DateTime<chrono::Utc> {
    i64::try_from(time_us).ok().and_then(chrono::DateTime::from_timestamp_micros).unwrap_or_default()
}

/// An I/O error with what was tried on which file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {path}")]
pub struct IoError {
    step: &'static str,
    path: std::path::PathBuf,
    source: std::io::Error,
}

pub(crate) fn io(step: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> IoError {
    let path = path.to_owned();
    move |source| IoError { step, path, source }
}
