//! `keytrail policy`: its subcommands and their flags.

use super::DataArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `keytrail policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Find what policies say that their authors may not have meant; exit code 1 with findings, 2 with bad input
    Lint(PolicyLintArgs),
    /// Try a policy on the recorded calls: which it would have denied or let in; exit code 1 if any, 2 with bad input
    Replay(PolicyReplayArgs),
    /// List everybody who may do something on a key, through what and under which conditions
    WhoCan(PolicyWhoCanArgs),
    /// Write the policy that the recorded calls needed, and no more
    Generate(PolicyGenerateArgs),
}

/// What the linted files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyKind {
    /// On keys
    Key,
    /// On users, groups and roles
    Identity,
}

/// Output of `keytrail policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyFormat {
    /// Text
    #[default]
    Table,
    /// One JSON array
    Json,
}

/// `keytrail policy lint`.
#[derive(Debug, Args)]
pub(crate) struct PolicyLintArgs {
    /// Policy documents
    #[arg(value_name = "FILE", required_unless_present = "data")]
    pub(crate) files: Vec<PathBuf>,
    /// What the files are
    #[arg(long, value_enum, default_value = "key")]
    pub(crate) kind: PolicyKind,
    /// The account that the files' keys or principals belong to
    #[arg(long, value_name = "ACCOUNT", default_value = "111122223333")]
    pub(crate) account: String,
    /// Look at the files, which are key policies, together with the people of this identities.toml; a file's name without
    /// its end is its key's id
    #[arg(long, value_name = "FILE", requires = "files", conflicts_with_all = ["data", "kind"])]
    pub(crate) identities: Option<PathBuf>,
    /// The region of the files' keys
    #[arg(long, value_name = "REGION", default_value = "us-east-1", requires = "identities")]
    pub(crate) region: String,
    /// Also the current policy of each key of this data folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: PolicyFormat,
}

/// `keytrail policy replay`.
#[derive(Debug, Args)]
pub(crate) struct PolicyReplayArgs {
    /// The policy to try; without one it is checked that each recorded decision comes out as it was
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) subject: PolicySubject,
    #[command(flatten)]
    pub(crate) time: CallTimes,
    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `keytrail policy who-can`.
#[derive(Debug, Args)]
pub(crate) struct PolicyWhoCanArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// An action such as kms:Decrypt; more than once for several [default: all of KMS's on keys]
    #[arg(long = "action", value_name = "ACTION")]
    pub(crate) actions: Vec<String>,
    /// ARN, id or alias of the key [default: every key]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// As it was at this time, such as 2026-01-05 or 2026-01-05T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    pub(crate) at: Option<u64>,
    /// One JSON array instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `keytrail policy generate`.
#[derive(Debug, Args)]
pub(crate) struct PolicyGenerateArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) subject: PolicySubject,
    #[command(flatten)]
    pub(crate) time: CallTimes,
}

/// Which policy a command is about.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct PolicySubject {
    /// The key policy of this key: ARN, id or alias
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The policy of this user, group or role in place of all its own, or this managed policy
    #[arg(long, value_name = "ARN")]
    pub(crate) identity: Option<String>,
}

/// Which calls a command looks at.
#[derive(Debug, Args)]
pub(crate) struct CallTimes {
    /// Calls from this time on, such as 2026-01-05 or 2026-01-05T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    pub(crate) from: Option<u64>,
    /// Calls before this time
    #[arg(long, value_name = "TIME", value_parser = time_us)]
    pub(crate) to: Option<u64>,
    /// Calls of the last days
    #[arg(long, value_name = "DAYS", conflicts_with = "from")]
    pub(crate) days: Option<u32>,
}

impl CallTimes {
    /// From when to when, Unix microseconds.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        const DAY_US: u64 = 86_400_000_000;
        let now_us = u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or_default();
        let last = self.days.map(|days| now_us.saturating_sub(u64::from(days) * DAY_US));
        self.from.or(last).unwrap_or(0)..self.to.unwrap_or(u64::MAX)
    }
}

/// A day or a time as Unix microseconds.
pub(super) fn time_us(text: &str) -> Result<u64, String> {
    let day = || Some(chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0)?.and_utc());
    let time = chrono::DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).ok().or_else(day);
    let time = time.ok_or("not a day (2026-01-05) or a time (2026-01-05T12:00:00Z)")?;
    u64::try_from(time.timestamp_micros()).map_err(|_| "before 1970".to_owned())
}

/// A day, a time, or how long ago.
pub(super) fn since_us(text: &str) -> Result<u64, String> {
    match humantime_serde::re::humantime::parse_duration(text) {
        Ok(ago) => {
            let now_us = u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or_default();
            Ok(now_us.saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX)))
        }
        Err(_) => time_us(text).map_err(|error| format!("{error}, and no time span (36h, 7d) either")),
    }
}
