//! `keytrail change`, `keytrail playbook` and the decisions of `keytrail responder`.

use super::{DataArgs, ResponderArgs};
use clap::error::Error;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};
use humantime_serde::re::humantime::parse_duration;
use std::path::PathBuf;
use std::time::Duration;

/// `keytrail change`.
#[derive(Debug, Subcommand)]
pub(crate) enum ChangeCommand {
    /// Tell beforehand what somebody else is going to do, so that the responder lets it be done
    Announce(AnnounceArgs),
    /// Announced changes, those of the last week included
    List(CallArgs),
    /// End an announced change now; what was done under it before stays announced
    Withdraw {
        /// The change's id, as `announce` and `list` print it
        #[arg(value_name = "ID")]
        id: String,
        /// Why, for the log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        call: CallArgs,
    },
}

/// Whose name a call is made in.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Shared-credentials file with the access key to sign with [default: DIR/credentials]
    #[arg(long, value_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// Section of that file: who announces. It must be somebody other than who does the work
    #[arg(long, value_name = "PROFILE", default_value = "default")]
    pub(crate) by: String,
}

/// `keytrail change announce`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).args(["key", "principal"]))]
pub(crate) struct AnnounceArgs {
    /// Where the work is described
    #[arg(long, value_name = "TICKET")]
    pub(crate) ticket: String,
    /// Id or ARN of the key that is worked on
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// ARN of the user or role that works
    #[arg(long, value_name = "ARN")]
    pub(crate) principal: Option<String>,
    /// What will be called: PutKeyPolicy,DisableKey
    #[arg(long, value_name = "OPERATION,...", value_delimiter = ',', required = true)]
    pub(crate) operation: Vec<String>,
    /// When it begins, as 2026-12-01T02:00:00Z or as 2h from now [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// When it ends, written likewise
    #[arg(long, value_name = "TIME", required_unless_present = "window", conflicts_with = "window")]
    pub(crate) until: Option<String>,
    /// How long it takes from its beginning, instead of an end: 2h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) window: Option<Duration>,
    #[command(flatten)]
    pub(crate) call: CallArgs,
}

/// `keytrail responder`: runs it, or decides about it.
#[derive(Debug)]
pub(crate) enum Responder {
    /// Until a signal.
    Run(Box<ResponderArgs>),
    /// Once.
    Decide(ResponderCommand),
}

/// Decisions about the responder.
#[derive(Debug, Subcommand)]
pub(crate) enum ResponderCommand {
    /// Carry out nothing from now on but undos: it plans, records and holds what is ready
    Pause(DecisionArgs),
    /// Go on; what is ready is carried out after another look at its target
    Resume(DecisionArgs),
    /// Whether it is paused or its circuit breaker tripped, since when and by whom
    Status(DataArgs),
    /// Ask for a tripped circuit breaker to work again: two people must agree, each with a second factor, within an hour
    Reset {
        #[command(flatten)]
        data: DataArgs,
        /// Whose breaker: a playbook's [default: that of the whole responder]
        #[arg(long, value_name = "PLAYBOOK")]
        playbook: Option<String>,
        /// Who you are [default: the name you are logged in with]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// What a decision needs.
#[derive(Debug, Args)]
pub(crate) struct DecisionArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Why, for the log and for whoever is paged
    #[arg(long)]
    pub(crate) reason: String,
    /// Who you are [default: the operating system's user]
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
}

// By hand: the derived code asks for what running needs also when a decision is given.
impl FromArgMatches for Responder {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match matches.subcommand() {
            Some(_) => ResponderCommand::from_arg_matches(matches).map(Self::Decide),
            None => ResponderArgs::from_arg_matches(matches).map(|args| Self::Run(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Responder {
    fn augment_args(command: Command) -> Command {
        let command = ResponderCommand::augment_subcommands(ResponderArgs::augment_args(command));
        command.args_conflicts_with_subcommands(true).subcommand_negates_reqs(true).subcommand_required(false)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `keytrail playbook`.
#[derive(Debug, Subcommand)]
pub(crate) enum PlaybookCommand {
    /// Load a folder of rules and playbooks, and warn of rules that are not there
    Check(FolderArgs),
    /// Run the tests inside playbooks
    Test(FolderArgs),
    /// Playbooks with their modes: the file's, the one that people set, and the lower of both and of the responder
    List {
        #[command(flatten)]
        data: DataArgs,
    },
    /// Why an incident's actions were judged as they were, or which playbooks answer a rule and how
    Explain {
        #[command(flatten)]
        data: DataArgs,
        /// An incident's id, or a rule's
        #[arg(value_name = "INCIDENT|RULE")]
        id: String,
    },
    /// Set a playbook's mode, after showing what it would have done in the last 30 days
    Promote {
        #[command(flatten)]
        data: DataArgs,
        /// The playbook
        #[arg(value_name = "ID")]
        id: String,
        /// Its mode from now on; the file's own is never exceeded
        #[arg(long, value_enum)]
        to: PromotedMode,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Who you are [default: the operating system's user]
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
    },
}

/// A folder of rules with playbooks in it.
#[derive(Debug, Args)]
pub(crate) struct FolderArgs {
    /// Folder of rule files and playbooks [default: those shipped with this command]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// A mode to promote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PromotedMode {
    /// Plan, guard and record
    Observe,
    /// Act
    Enforce,
}
