//! `keytrail evidence`: its subcommands and their flags.

use super::DataArgs;
use super::policy::time_us;
use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `keytrail evidence`.
#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Export what the log holds for a period, with all that is needed to check it
    Export(EvidenceExportArgs),
    /// Offer a pack to `aws cloudtrail validate-logs`, on a loopback address
    Serve(EvidenceServeArgs),
    /// Compute a pack's controls again from its own records and compare byte for byte; exit code 1 names what differs
    Rerun {
        /// The pack: a folder, or a .tar of one
        #[arg(value_name = "PACK")]
        pack: PathBuf,
    },
}

/// `keytrail evidence export`.
#[derive(Debug, Args)]
pub(crate) struct EvidenceExportArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Begin of the period, inclusive: YYYY-MM-DD (midnight UTC) or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    pub(crate) from: u64,
    /// Its end, exclusive
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    pub(crate) to: u64,
    /// Answer the questions of this set in the pack; the site's values are taken from DIR/controls.toml
    #[arg(long, value_name = "SET", value_parser = clap::builder::PossibleValuesParser::new(keytrail_trail::evidence::SETS))]
    pub(crate) control_set: Option<String>,
    /// Withhold the payloads of rows for which this SQL condition holds; their leaves stay
    #[arg(long, value_name = "SQL", requires = "reason")]
    pub(crate) redact: Option<String>,
    /// Why they are withheld
    #[arg(long, value_name = "TEXT", requires = "redact")]
    pub(crate) reason: Option<String>,
    /// Write the events as OCSF API Activity, too
    #[arg(long)]
    pub(crate) ocsf: bool,
    /// The auditor's part of the seed of the sample
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) nonce: String,
    /// Records drawn for the sample
    #[arg(long, value_name = "N", default_value_t = 25)]
    pub(crate) sample: u32,
    /// An earlier pack of the same logs: the new one proves that they were only continued since
    #[arg(long, value_name = "PACK")]
    pub(crate) previous: Option<PathBuf>,
    /// Do not record the export in the log: for a copy of a data folder. The pack says so
    #[arg(long)]
    pub(crate) unrecorded: bool,
    /// File with the passphrase that the root key is sealed under, to record the export while the node is stopped
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The pack: a folder, or a file if the name ends in .tar; must not exist
    #[arg(long, value_name = "PACK")]
    pub(crate) out: PathBuf,
}

/// `keytrail evidence serve`.
#[derive(Debug, Args)]
pub(crate) struct EvidenceServeArgs {
    /// The pack's folder
    #[arg(value_name = "PACK")]
    pub(crate) pack: PathBuf,
    /// Loopback address; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
}
