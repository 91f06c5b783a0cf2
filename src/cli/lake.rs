//! `keytrail lake`: the Parquet files by themselves.

use super::DataArgs;
use clap::Subcommand;

/// `keytrail lake`.
#[derive(Debug, Subcommand)]
pub(crate) enum LakeCommand {
    /// Recompute every committed file's digest, leaves and links, while the service runs or when it is stopped
    Check(DataArgs),
    /// Write or bring up to date a Delta log over the lake's files (DIR/lake/_delta_log), for Spark and Trino
    Delta(DataArgs),
}
