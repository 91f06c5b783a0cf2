//! `keytrail notices` and `keytrail silence`: their subcommands and flags.

use super::DataArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `keytrail notices`.
#[derive(Debug, Subcommand)]
pub(crate) enum NoticesCommand {
    /// Who was sent what, newest first
    List {
        #[command(flatten)]
        data: DataArgs,
        /// Only those in this state
        #[arg(long, value_parser = ["ready", "sent", "dead", "dropped"])]
        state: Option<String>,
    },
    /// Send a notice again now, or all that were given up
    Retry {
        #[command(flatten)]
        data: DataArgs,
        /// Its number, as `list` prints it [default: all dead ones]
        number: Option<i64>,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Give a notice up for good
    Drop {
        #[command(flatten)]
        data: DataArgs,
        /// Its number, as `list` prints it
        number: i64,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Send each receiver, or one, a test message now and say whether it was taken
    Test {
        #[command(flatten)]
        data: DataArgs,
        /// Configuration file [default: DIR/keytrail.toml]
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_CONFIG")]
        config: Option<PathBuf>,
        /// Its name in the configuration [default: all]
        receiver: Option<String>,
    },
    /// Set the receivers up without sending: read their files, check their addresses; say what signs mail and what to publish
    Check {
        #[command(flatten)]
        data: DataArgs,
        /// Configuration file [default: DIR/keytrail.toml]
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// `keytrail silence`.
#[derive(Debug, Subcommand)]
pub(crate) enum SilenceCommand {
    /// Hold back notices about incidents that match; never containment
    Add {
        #[command(flatten)]
        data: DataArgs,
        /// severity=, min_severity=, rule=, principal=, key=, label:NAME= or tag:NAME=, with a value that may end in *
        #[arg(long = "match", value_name = "FIELD=VALUE", required = true)]
        matches: Vec<String>,
        /// How long: 30m, 2h, 7d
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        duration: Duration,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Active silences, newest first
    List {
        #[command(flatten)]
        data: DataArgs,
        /// Those that are over, too
        #[arg(long)]
        all: bool,
    },
    /// End a silence now
    Expire {
        #[command(flatten)]
        data: DataArgs,
        /// Its number, as `list` prints it
        number: i64,
        #[command(flatten)]
        author: AuthorArgs,
    },
}

/// Whose name stands beside the change.
#[derive(Debug, Args)]
pub(crate) struct AuthorArgs {
    /// Your name, for the record
    #[arg(long, env = "USER")]
    pub(crate) author: String,
}

fn duration(text: &str) -> Result<Duration, humantime_serde::re::humantime::DurationError> {
    humantime_serde::re::humantime::parse_duration(text)
}
