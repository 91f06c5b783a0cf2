//! `keytrail gap`: a log that cannot go on, and the one that follows it.

use super::DataArgs;
use clap::Subcommand;
use std::path::PathBuf;

/// `keytrail gap`.
#[derive(Debug, Subcommand)]
pub(crate) enum GapCommand {
    /// Make an operator's key, once, on the operator's own machine; its vkey goes into operators_file of section recovery
    Key {
        /// Folder for the key
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The operator, without white space or a plus sign
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Write down what a stopped node has of its log and what is known to be missing, for two operators to sign
    Declare {
        #[command(flatten)]
        data: DataArgs,
        /// Files with checkpoints of the log from elsewhere: a witness, Kafka, an auditor
        #[arg(long, value_name = "NOTE_FILE", num_args = 1..)]
        known: Vec<PathBuf>,
        /// Why, for the log
        #[arg(long)]
        reason: String,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show a declaration and sign it, offline, with an operator's key
    Sign {
        /// The declaration; the signature is added to it
        file: PathBuf,
        /// The operator's folder; without it the declaration is only shown
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Begin the declared log on the stopped node, if two of its operators have signed
    Apply {
        #[command(flatten)]
        data: DataArgs,
        /// The declaration
        file: PathBuf,
    },
}
