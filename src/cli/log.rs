//! `keytrail log` and `keytrail receipts`: the log's tiles and proofs, and what callers kept of their answers.

use super::DataArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `keytrail log`.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Write the log as a static folder of C2SP tlog-tiles, while the service runs or when it is stopped
    Tiles {
        #[command(flatten)]
        data: DataArgs,
        /// Folder to write; absent or empty
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Write a C2SP tlog-proof that one record is in the log
    Proof(ProofArgs),
    /// Check a tlog-proof offline and say which record it proves
    Check {
        /// The tlog-proof
        file: PathBuf,
        /// File with the log's verifier key, got from somewhere else than the proof
        #[arg(long, value_name = "FILE")]
        vkey: PathBuf,
    },
    /// Ask the running service to erase the payloads of events that changed nothing; proofs stay valid
    Erase(EraseArgs),
    /// The signed list of a cluster's logs, so that one that is withheld is missed
    #[command(subcommand)]
    Index(IndexCommand),
    /// Prove that the log has only grown since an earlier size or checkpoint
    Consistency {
        #[command(flatten)]
        data: DataArgs,
        /// A size, or a file with an earlier checkpoint
        #[arg(long, value_name = "SIZE|FILE")]
        from: String,
        /// File with the log's verifier key, got from somewhere else than the folder
        #[arg(long, value_name = "FILE")]
        vkey: Option<PathBuf>,
    },
}

/// `keytrail log index`.
#[derive(Debug, Subcommand)]
pub(crate) enum IndexCommand {
    /// Sign the next edition from the folders of all nodes; refused when a log shrank or is another
    Update {
        /// The edition of before, replaced by the next one; made if it is missing
        file: PathBuf,
        /// Folder of the key that signs, as `keytrail gap key` makes it
        #[arg(long, value_name = "DIR")]
        key: PathBuf,
        /// Data folders of the cluster's nodes, or copies of their `checkpoints`, `journal` and `tiles`
        #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
        node: Vec<PathBuf>,
        /// Origins of logs that are not expected to go on
        #[arg(long, value_name = "ORIGIN", num_args = 1..)]
        retire: Vec<String>,
    },
    /// Compare an edition with the folders: each log that it names must be there, no shorter and no other
    Check {
        /// The edition
        file: PathBuf,
        /// File with the verifier key of who signed it
        #[arg(long, value_name = "FILE")]
        vkey: PathBuf,
        /// Data folders of the cluster's nodes, or copies of their `checkpoints`, `journal` and `tiles`
        #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
        node: Vec<PathBuf>,
    },
}

/// `keytrail log proof`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("record").required(true).args(["seq", "request_id"]))]
pub(crate) struct ProofArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Seq of the record, as x-keytrail-seq says it
    #[arg(long, value_name = "SEQ")]
    pub(crate) seq: Option<u64>,
    /// The answer's x-amzn-RequestId
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// File to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `keytrail log erase`.
#[derive(Debug, Args)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Records, by number or range: 17 or 17,20-31
    #[arg(long, value_name = "SEQ", value_delimiter = ',', required = true)]
    pub(crate) seq: Vec<String>,
    /// Why, for the log
    #[arg(long)]
    pub(crate) reason: String,
}

/// `keytrail receipts`.
#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptsCommand {
    /// Find the receipts whose records are not in the log
    Check(ReceiptsCheckArgs),
}

/// `keytrail receipts check`.
#[derive(Debug, Args)]
// The folder may come from the environment: an address then says more.
#[command(group = clap::ArgGroup::new("log").required(true).multiple(true).args(["data", "url"]))]
pub(crate) struct ReceiptsCheckArgs {
    /// Receipts, one JSON object a line: log, seq, leaf, requestId, time
    pub(crate) file: PathBuf,
    /// The data folder
    #[arg(long, value_name = "DIR", env = "KEYTRAIL_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// The log over HTTP, such as `https://kms.example.org/log/LOG_ID`
    #[arg(long, value_name = "URL", requires = "vkey")]
    pub(crate) url: Option<String>,
    /// File with the log's verifier key, got from somewhere else than the log
    #[arg(long, value_name = "FILE")]
    pub(crate) vkey: Option<PathBuf>,
}
