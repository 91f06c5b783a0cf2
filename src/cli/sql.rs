//! `keytrail sql` and `keytrail sql-user`.

use super::DataArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Output of `keytrail sql`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns in a frame
    #[default]
    Table,
    /// Comma-separated with a header
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// `keytrail sql`.
#[derive(Debug, Args)]
pub(crate) struct SqlArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Stop the query after this long
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub(crate) timeout: humantime_serde::re::humantime::Duration,
    /// Most rows to print
    #[arg(long, value_name = "ROWS", default_value_t = 10_000)]
    pub(crate) rows_max: u64,
    /// SELECTs over the tables of docs/sql.md; without them a shell, or what stdin holds
    // A file of SQL may begin with a comment.
    #[arg(allow_hyphen_values = true)]
    pub(crate) query: Option<String>,
}

/// `keytrail sql-user`.
#[derive(Debug, Subcommand)]
pub(crate) enum SqlUserCommand {
    /// Add a user, or give it another password or role; in force at once
    Add {
        #[command(flatten)]
        data: DataArgs,
        /// Name, as it stands in the records of its queries
        name: String,
        /// Role of sql-users.toml; a new user is an analyst without it
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// File with the password; without it a terminal is asked, twice
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Take a user out; queries of its open connections are refused from then on
    Remove {
        #[command(flatten)]
        data: DataArgs,
        /// Name
        name: String,
    },
    /// Names and roles
    List(DataArgs),
}
