//! The reader of the audit log: verifies and lands it as Parquet, serves SQL, runs rules, signs alerts.
//!
//! `alert` is the contract with the responder and always compiled; everything else sits behind the `engine` feature.

pub mod alert;
#[cfg(feature = "engine")]
pub mod evidence;
#[cfg(feature = "engine")]
pub mod exposure;
#[cfg(feature = "engine")]
pub mod generate;
#[cfg(feature = "engine")]
pub mod import;
#[cfg(feature = "engine")]
pub mod lake;
#[cfg(feature = "engine")]
pub mod land;
#[cfg(feature = "engine")]
pub mod publish;
#[cfg(feature = "engine")]
pub mod query;
#[cfg(feature = "engine")]
pub mod rule;
#[cfg(feature = "engine")]
pub mod serve;
#[cfg(feature = "engine")]
pub mod service;
#[cfg(feature = "engine")]
pub mod source;
#[cfg(feature = "engine")]
pub mod store;

#[cfg(feature = "engine")]
pub(crate) use keytrail_kms::describe;
