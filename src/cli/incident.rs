//! What the subcommands of `keytrail incident` take.

use super::DataArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `keytrail incident list`.
#[derive(Debug, Args)]
pub(crate) struct IncidentListArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Only incidents in this state
    #[arg(long, value_enum)]
    pub(crate) state: Option<StateArg>,
    /// As JSON, one incident a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// A state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    /// Something is left to do
    Open,
    /// The same, and somebody looks at it
    Acknowledged,
    /// All was done, and nothing was used since
    Contained,
    /// A person closed it
    Resolved,
    /// Open again after that
    Reopened,
}

/// Which incident, and who does it.
#[derive(Debug, Args)]
pub(crate) struct IncidentDeedArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Incident id, as `list` prints it
    pub(crate) id: String,
    /// Who does it, for timeline and log [default: the operating system's user]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

/// Why an incident is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum ReasonArg {
    /// An attack, or a mistake as bad as one, and it is over
    TruePositiveContained,
    /// It happened, and it is harmless
    Benign,
    /// It did not happen as the alert says
    FalsePositive,
    /// The owner of the key wanted it
    AuthorisedByOwner,
    /// Somebody tried whether this works
    Test,
}

/// `keytrail incident user`: people who deal with incidents over HTTP.
#[derive(Debug, Subcommand)]
pub(crate) enum IncidentUserCommand {
    /// Add a person and print the token, which cannot be shown again
    Add {
        #[command(flatten)]
        data: DataArgs,
        /// Name that stands in timelines
        name: String,
        /// Mail address
        #[arg(long, value_name = "ADDRESS")]
        mail: Option<String>,
    },
    /// Take a person out; the token is of no use from then on
    Remove {
        #[command(flatten)]
        data: DataArgs,
        /// Name of the person
        name: String,
    },
    /// Names and mail addresses
    List(DataArgs),
}

/// `keytrail incident export`.
#[derive(Debug, Args)]
pub(crate) struct IncidentExportArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Incident id, as `list` prints it
    pub(crate) id: String,
    /// File to write, which must not be there: NAME.json is an OCSF Incident Finding, NAME.csv the timeline
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}
