//! `keytrail rules` and `keytrail generate`.

use super::DataArgs;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `keytrail rules`.
#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Load a folder of rules and run the tests inside them
    Test {
        /// Folder of rule files [default: the rules shipped with this command]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Also change each rule on purpose (threshold, window, conjuncts) and report changes that no test notices
        #[arg(long)]
        mutate: bool,
        /// This rule alone
        #[arg(long, value_name = "ID")]
        rule: Option<String>,
    },
    /// Remarks on rules that load: warnings fail, notes are to know
    Lint {
        /// Folder of rule files [default: the rules shipped with this command]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Say what a rule reads, when it fires and what it may cost
    Explain {
        /// The rule
        #[arg(value_name = "ID")]
        rule: String,
        /// Folder of rule files [default: the rules shipped with this command]
        #[arg(long, value_name = "DIR")]
        rules: Option<PathBuf>,
    },
    /// What the rules cover: a layer for the ATT&CK Navigator, or the rules of each control
    Coverage {
        /// Folder of rule files [default: the rules shipped with this command]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        /// A table of control ids instead of the layer
        #[arg(long)]
        controls: bool,
    },
    /// Write a rule to begin with, and the fixtures if the folder has none
    New {
        /// The rule's id: lower-case letters, digits and hyphens
        #[arg(value_name = "ID")]
        id: String,
        /// Folder of rule files
        #[arg(long, value_name = "DIR")]
        rules: PathBuf,
        /// Folder below it
        #[arg(long, value_name = "PACK", default_value = "kms")]
        pack: String,
    },
    /// Run rules over what is in the lake and compare with the alerts raised live
    Backtest(HistoryArgs),
    /// What other values of the rules' params would have done
    Calibrate(HistoryArgs),
    /// Alerts gained and lost by a change of rules
    Diff {
        /// Folder of rules, or one rule, as it was
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// As it shall be
        #[arg(value_name = "NEW")]
        new: PathBuf,
        #[command(flatten)]
        over: RangeArgs,
    },
    /// Precision and recall on labelled traffic (`keytrail generate`); fails below the bar
    Score {
        #[command(flatten)]
        history: HistoryArgs,
        /// The labels of the traffic
        #[arg(long, value_name = "FILE")]
        labels: PathBuf,
    },
}

/// Which rules run over which records.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Folder of rule files [default: DIR/rules, or the rules shipped with this command]
    #[arg(long, value_name = "DIR")]
    pub(crate) rules: Option<PathBuf>,
    /// This rule alone
    #[arg(long, value_name = "ID")]
    pub(crate) rule: Option<String>,
    #[command(flatten)]
    pub(crate) over: RangeArgs,
}

/// Which records.
#[derive(Debug, Args)]
pub(crate) struct RangeArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Alerts from here on (RFC 3339); what was before is read all the same, for windows and profiles
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<DateTime<Utc>>,
    /// Events before this (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<DateTime<Utc>>,
    /// This log alone: its id, or the name of an import
    #[arg(long, value_name = "LOG")]
    pub(crate) log: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// `keytrail generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Folder for CloudTrail files and labels; absent or empty
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Equal seeds give equal bytes
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// First day (UTC)
    #[arg(long, value_name = "DATE", default_value = "2026-01-05")]
    pub(crate) start: chrono::NaiveDate,
    /// Number of days
    #[arg(long, default_value_t = 14)]
    pub(crate) days: u32,
    /// Number of principals
    #[arg(long, default_value_t = 200)]
    pub(crate) principals: u32,
    /// About how many events a day
    #[arg(long, value_name = "EVENTS", default_value_t = 100_000)]
    pub(crate) events_per_day: u32,
    /// Mix attacks in
    #[arg(long)]
    pub(crate) attacks: bool,
    /// From this day on, counted from 0 [default: half of the days]
    #[arg(long, value_name = "DAY", requires = "attacks")]
    pub(crate) attacks_from: Option<u32>,
    /// Attacks of each kind
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "attacks")]
    pub(crate) attacks_each: u32,
    /// These kinds of attacks alone
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', requires = "attacks")]
    pub(crate) attack_kinds: Vec<String>,
}
