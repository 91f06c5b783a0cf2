//! `keytrail canary`: what is planted to be touched, and the test that the touch would be seen.

use super::DataArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `keytrail canary`.
#[derive(Debug, Subcommand)]
pub(crate) enum CanaryCommand {
    /// Make a key that nobody uses; any call on it pages
    Key {
        #[command(flatten)]
        planted: Planted,
        /// A name that is worth finding
        #[arg(long, value_name = "NAME", default_value = "alias/prod/master")]
        alias: String,
        /// What the key says it is for
        #[arg(long, value_name = "TEXT", default_value = "Production master key")]
        description: String,
    },
    /// Make an access key that may do nothing, for a file or a repository; any signed call with it pages
    Credential {
        #[command(flatten)]
        planted: Planted,
        /// The user that it is said to be of
        #[arg(long, value_name = "NAME", default_value = "backup-operator")]
        user: String,
        /// Where it is written, as an AWS shared-credentials file; the secret is printed nowhere
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Name the canaries
    List(Planted),
    /// Make the self-test's credential if there is none, and run one test beside a running service; exit code 1 if it fails.
    /// From then on the responder runs one each hour
    SelfTest {
        #[command(flatten)]
        data: DataArgs,
        /// The result as one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Where canaries are named.
#[derive(Debug, Args)]
pub(crate) struct Planted {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Folder of rule files, whose params.toml names the canaries [default: DIR/rules]
    #[arg(long, value_name = "DIR", env = "KEYTRAIL_RULES")]
    pub(crate) rules: Option<PathBuf>,
}
