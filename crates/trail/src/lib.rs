//! The reader of the audit log: verifies and lands it as Parquet, serves SQL, runs rules, signs alerts.
//!
//! `alert` is the contract with the responder and always compiled; everything else sits behind the `engine` feature.
