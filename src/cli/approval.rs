//! `keytrail approval` and `keytrail key`: calls that a person makes with credentials of their own.

use super::DataArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Who calls.
#[derive(Debug, Args)]
pub(crate) struct PersonArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Your AWS-style credentials file; the data folder's own, which is the administrator's, when left out
    #[arg(long, value_name = "FILE", env = "AWS_SHARED_CREDENTIALS_FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// The profile in it
    #[arg(long, value_name = "NAME", env = "AWS_PROFILE", default_value = "default")]
    pub(crate) profile: String,
}

/// A second factor. Its code comes from standard input: command lines are for everyone to see.
#[derive(Debug, Args)]
pub(crate) struct FactorArgs {
    /// ARN of your MFA device; its code is read from standard input
    #[arg(long, value_name = "ARN")]
    pub(crate) mfa_serial: String,
}

/// `keytrail approval`.
#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalCommand {
    /// Requests that wait, newest first
    List {
        #[command(flatten)]
        person: PersonArgs,
        /// Also those that are over
        #[arg(long)]
        ended: bool,
    },
    /// One request: what will be done, to what, who asked, who has agreed
    Show {
        #[command(flatten)]
        person: PersonArgs,
        /// Request id, as `list` prints it
        id: String,
    },
    /// Agree to a request as it is now
    Approve {
        #[command(flatten)]
        person: PersonArgs,
        #[command(flatten)]
        factor: FactorArgs,
        /// Request id, as `list` prints it
        id: String,
    },
    /// Say no: nobody can use the request any more
    Reject {
        #[command(flatten)]
        person: PersonArgs,
        /// Request id, as `list` prints it
        id: String,
        /// Why, for the log
        #[arg(long)]
        reason: Option<String>,
    },
}

/// `keytrail key`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Retire a key: say who used it last, disable it, watch for callers, delete it; or not, when anyone still calls
    Retire {
        #[command(flatten)]
        person: PersonArgs,
        /// Key id or ARN
        #[arg(required_unless_present = "status")]
        key: Option<String>,
        /// Days to watch for callers before the deletion is scheduled; 0 schedules it at once
        #[arg(long, value_name = "DAYS", default_value_t = 7)]
        watch_days: u32,
        /// Days between scheduling and deletion, 7 to 30
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        window_days: u32,
        /// Say how far all retirements are, and change nothing
        #[arg(long, conflicts_with_all = ["cancel", "watch_days", "window_days"])]
        status: bool,
        /// Call it off: the key gets back the state that it had
        #[arg(long, conflicts_with_all = ["watch_days", "window_days"])]
        cancel: bool,
    },
}
