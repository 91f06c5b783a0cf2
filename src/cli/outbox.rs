//! `keytrail outbox`: its subcommands and flags.

use super::DataArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `keytrail outbox`.
#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// What is to be done, was done and was given up, newest first
    List {
        #[command(flatten)]
        data: DataArgs,
        /// Only those in this state
        #[arg(long, value_parser = [
            "planned", "awaiting_approval", "ready", "leased", "done", "failed", "dead", "dropped", "suppressed", "observed",
        ])]
        state: Option<String>,
        /// As JSON, one action a line
        #[arg(long)]
        json: bool,
    },
    /// Have a dead action carried out after all, if no guard would hold it now; its target is looked at again first
    Retry {
        #[command(flatten)]
        deed: ActionDeedArgs,
        /// Why, for timeline and log
        #[arg(long)]
        reason: Option<String>,
        /// Configuration file, for limits and the protected list [default: DIR/keytrail.toml]
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Give a dead action up for good
    Drop {
        #[command(flatten)]
        deed: ActionDeedArgs,
        /// Why, for timeline and log
        #[arg(long)]
        reason: String,
    },
}

/// Which action, and who does it.
#[derive(Debug, Args)]
pub(crate) struct ActionDeedArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The action's id, or its beginning, as `list` prints it
    pub(crate) id: String,
    /// Who does it, for timeline and log [default: the operating system's user]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}
