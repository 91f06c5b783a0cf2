//! The command line: every subcommand and flag, nothing of what they do.
//!
//! A flag wins over its environment variable, which wins over the configuration file (config.rs). Secrets never come
//! in by flag or environment, only by file.

mod approval;
mod canary;
mod evidence;
mod gap;
mod incident;
mod lake;
mod log;
mod notices;
mod outbox;
mod policy;
mod response;
mod rules;
mod sql;

pub(crate) use approval::*;
pub(crate) use canary::*;
pub(crate) use evidence::*;
pub(crate) use gap::*;
pub(crate) use incident::*;
pub(crate) use lake::*;
pub(crate) use log::*;
pub(crate) use notices::*;
pub(crate) use outbox::*;
pub(crate) use policy::*;
pub(crate) use response::*;
pub(crate) use rules::*;
pub(crate) use sql::*;

use crate::config::RootKeySection;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Self-hosted key management with a provable audit log and SQL detective controls.
#[derive(Debug, Parser)]
#[command(name = "keytrail", version, propagate_version = true, max_term_width = 120)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a data folder: keys, administrator credentials, identities, rules, configuration
    Init(InitArgs),
    /// Run kms, trail and responder together on one machine; an empty data folder is initialised first
    Up(UpArgs),
    /// Run the key service alone
    Kms(NodeArgs),
    /// Run the trail alone: land, serve the lake, run rules, raise alerts
    Trail(NodeArgs),
    /// Run the responder alone (incidents, playbooks, actions, notices), or pause it, resume it, reset its breaker
    Responder(Responder),
    /// Announce work beforehand, so that the responder lets it be done
    #[command(subcommand)]
    Change(ChangeCommand),
    /// Check and test playbooks, say why they acted, and set how far they may go
    #[command(subcommand)]
    Playbook(PlaybookCommand),
    /// Query the audit log with SQL, while the service runs or when it is stopped
    Sql(SqlArgs),
    /// Users of the SQL servers: PostgreSQL's protocol and HTTP
    #[command(subcommand)]
    SqlUser(SqlUserCommand),
    /// Check the lake's files, and open them to other engines
    #[command(subcommand)]
    Lake(LakeCommand),
    /// Land records of other systems as a log of their own
    #[command(subcommand)]
    Import(ImportCommand),
    /// Say why a call was allowed or denied, from the log
    Explain(ExplainArgs),
    /// Look at policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Check rules, run them over the past, and score them
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Make weeks of plausible traffic, with attacks in it, to try rules on
    Generate(GenerateArgs),
    /// Re-check a data folder or an evidence pack: every record, link, digest and the signed checkpoint
    Verify(VerifyArgs),
    /// Tiles of the log, proofs that records are in it, and erasure of payloads
    #[command(subcommand)]
    Log(LogCommand),
    /// Check the receipts that callers kept against the log
    #[command(subcommand)]
    Receipts(ReceiptsCommand),
    /// Make evidence packs, which anyone can check offline
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// Look at incidents, deal with them, and undo containment
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// The responder's actions, and what to do with those that were given up
    #[command(subcommand)]
    Outbox(OutboxCommand),
    /// Agree, or not, to what needs a second person
    #[command(subcommand)]
    Approval(ApprovalCommand),
    /// Keys as their owners manage them
    #[command(subcommand)]
    Key(KeyCommand),
    /// The delivery ledger: who was told what, what was given up, tests of receivers
    #[command(subcommand)]
    Notices(NoticesCommand),
    /// Hold back notices for a time, by name and for a reason
    #[command(subcommand)]
    Silence(SilenceCommand),
    /// What a key, a principal or a credential has exposed: contexts, data keys, and what to encrypt anew
    BlastRadius(BlastRadiusArgs),
    /// Keys and credentials that nobody uses, whose every touch pages; and the self-test of the whole path
    #[command(subcommand)]
    Canary(CanaryCommand),
    /// Deal with quarantined principals
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// How the root key's file is protected
    #[command(subcommand)]
    Rootkey(RootkeyCommand),
    /// The log's signing key in a process of its own
    #[command(subcommand)]
    Signer(SignerCommand),
    /// Cosign the checkpoints of other logs, as long as they only grow (C2SP tlog-witness)
    Witness(WitnessArgs),
    /// Copy a data folder as one consistent set, while the service runs or when it is stopped
    Backup(BackupArgs),
    /// Put a set on an empty folder, if it is whole and not older than its log
    Restore(RestoreArgs),
    /// Begin a new log where one cannot go on, by the word of two operators
    #[command(subcommand)]
    Gap(GapCommand),
    /// Measure this machine against the budgets
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Play the sample incident against a service of its own and leave it running
    Demo(DemoArgs),
}

/// Where the data folder is.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArgs {
    /// The data folder
    #[arg(long, value_name = "DIR", env = "KEYTRAIL_DATA")]
    pub(crate) data: PathBuf,
}

/// What all long-running commands take.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Configuration file [default: DIR/keytrail.toml]
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Address of the KMS endpoint; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", env = "KEYTRAIL_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Serve /livez, /readyz and /metrics here; `up` takes this port for kms and the next two for trail and responder
    #[arg(long, value_name = "ADDR:PORT", env = "KEYTRAIL_HEALTH")]
    pub(crate) health: Option<SocketAddr>,
    /// Account of a new data folder, twelve digits
    #[arg(long, value_name = "ACCOUNT", env = "KEYTRAIL_ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Region of a new data folder
    #[arg(long, value_name = "REGION", env = "KEYTRAIL_REGION")]
    pub(crate) region: Option<String>,
    /// Kafka bootstrap servers; without them the trail reads the journal itself
    #[arg(long, value_name = "HOST:PORT,...", env = "KEYTRAIL_BROKERS")]
    pub(crate) brokers: Option<String>,
    /// Folder of rule files and playbooks [default: DIR/rules]
    #[arg(long, value_name = "DIR", env = "KEYTRAIL_RULES")]
    pub(crate) rules: Option<PathBuf>,
    /// File with the passphrase that the root key is sealed under; without it `kms` and `init` ask on a terminal
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// `keytrail import`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// CloudTrail log files: {"Records":[...]}, packed or not
    Cloudtrail(ImportArgs),
}

/// `keytrail import cloudtrail`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ImportArgs {
    /// A file, a folder of any depth, or s3://BUCKET/PREFIX (with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
    /// AWS_ENDPOINT_URL)
    #[arg(value_name = "PATH|s3://BUCKET/PREFIX")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Name of the log; further imports under the same name extend it
    #[arg(long, value_name = "NAME", default_value = "cloudtrail")]
    pub(crate) name: String,
    /// Go on and look for new files each ten seconds, until stopped
    #[arg(long)]
    pub(crate) follow: bool,
}

/// `keytrail init`.
#[derive(Clone, Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// What protects the root key's file
    #[arg(long, value_enum, default_value_t)]
    pub(crate) seal: SealedBy,
    #[command(flatten)]
    pub(crate) token: TokenArgs,
    /// The cluster that the node is of, for the name of its log
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub(crate) cluster: String,
    /// The node within it
    #[arg(long, value_name = "NAME", default_value = "node")]
    pub(crate) node_name: String,
}

/// What protects the root key's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SealedBy {
    /// Its mode alone
    #[default]
    File,
    /// A passphrase, asked for at each start
    Passphrase,
    /// A key inside a token (PKCS#11), needed at each start
    Pkcs11,
}

/// The token of a new data folder; `init` writes it into keytrail.toml as `[root_key]`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TokenArgs {
    /// Library of the token's manufacturer
    #[arg(long, value_name = "FILE")]
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// Label of the token
    #[arg(long, value_name = "LABEL")]
    pub(crate) pkcs11_token: Option<String>,
    /// Label of the key inside the token
    #[arg(long, value_name = "LABEL")]
    pub(crate) pkcs11_key: Option<String>,
    /// File with the token's PIN, readable for its owner only
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
    /// Make the key inside the token if it has none of that label
    #[arg(long)]
    pub(crate) create_token_key: bool,
}

impl TokenArgs {
    /// As the configuration has it.
    pub(crate) fn section(&self) -> Option<RootKeySection> {
        Some(RootKeySection {
            module: self.pkcs11_module.clone()?,
            token: self.pkcs11_token.clone()?,
            key: self.pkcs11_key.clone()?,
            pin_file: self.pin_file.clone()?,
        })
    }
}

/// TLS for the KMS endpoint.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TlsArgs {
    /// Serve TLS with this certificate chain (PEM), read again when the file changes
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate of these authorities (PEM)
    #[arg(long, value_name = "FILE", env = "KEYTRAIL_TLS_CLIENT_CA")]
    pub(crate) tls_client_ca: Option<PathBuf>,
}

/// `keytrail up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) response: ResponseArgs,
}

/// `keytrail responder`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ResponderArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) response: ResponseArgs,
}

/// How far the responder may go and whom it tells.
#[derive(Clone, Debug, Args)]
pub(crate) struct ResponseArgs {
    /// Let playbooks act; without it they only observe and say what they would have done
    #[arg(long, env = "KEYTRAIL_ENFORCE")]
    pub(crate) enforce: bool,
    /// Mail server; plain text is accepted on loopback only
    #[arg(long, value_name = "HOST:PORT", env = "KEYTRAIL_SMTP")]
    pub(crate) smtp: Option<String>,
    /// Where alert mail goes
    #[arg(long, value_name = "ADDRESS", env = "KEYTRAIL_MAIL_TO")]
    pub(crate) mail_to: Option<String>,
}

/// `keytrail explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// The answer's x-amzn-RequestId
    #[arg(value_name = "REQUEST_ID")]
    pub(crate) request_id: String,
}

/// `keytrail blast-radius`.
#[derive(Debug, Args)]
pub(crate) struct BlastRadiusArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) of: BlastRadiusOf,
    /// From when: a time (2026-01-05T12:00:00Z), a day, or how long ago (36h, 7d)
    #[arg(long, value_name = "TIME", value_parser = policy::since_us)]
    pub(crate) since: u64,
    /// Until before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = policy::time_us)]
    pub(crate) until: Option<u64>,
    /// The whole answer as one JSON object; the text names the most used contexts only
    #[arg(long)]
    pub(crate) json: bool,
    /// Longest time it may take
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub(crate) timeout: humantime_serde::re::humantime::Duration,
}

/// Exactly one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct BlastRadiusOf {
    /// A key: ARN, key id or alias/NAME
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// A user, role, session or account root, by its ARN; a role's sessions are included
    #[arg(long, value_name = "ARN")]
    pub(crate) principal: Option<String>,
    /// An access key id, with the sessions that were opened with it
    #[arg(long, value_name = "ID")]
    pub(crate) credential: Option<String>,
}

/// `keytrail verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A data folder, or an evidence pack: a folder with bagit.txt in it, or a .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// File with the log's verifier key, got from somewhere else than the folder; of a pack of several logs one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) vkey: Option<PathBuf>,
    /// File with a checkpoint of the log from elsewhere, with which a pack must agree
    #[arg(long, value_name = "FILE")]
    pub(crate) head: Vec<PathBuf>,
    /// File that says which witnesses must have cosigned (C2SP tlog-policy), got from somewhere else than the folder
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// File with the verifier keys of those who may declare a gap, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) operators: Option<PathBuf>,
}

/// `keytrail signer`.
#[derive(Debug, Subcommand)]
pub(crate) enum SignerCommand {
    /// Sign the checkpoints of a node that asks through a socket, as long as its log only grows
    Run {
        /// The signer's own folder, which nobody else may read
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The socket, open to the user and to the group of this process
        #[arg(long, value_name = "FILE")]
        socket: PathBuf,
    },
    /// Give the log of a stopped node another signing key: a record under the old one says so. The key is made here, or was
    /// prepared by the user of the signer's process
    Rotate {
        #[command(flatten)]
        data: DataArgs,
        /// File with the passphrase that the root key is sealed under
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Prepare the next key in the folder of a signer's process, which may run; `rotate` takes it into use
    Prepare {
        /// The signer's own folder
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Move the signing key of a stopped node, and what it signed last, to a signer's folder
    Move {
        #[command(flatten)]
        data: DataArgs,
        /// The signer's own folder; made if it is missing
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// `keytrail witness`.
#[derive(Debug, Args)]
pub(crate) struct WitnessArgs {
    /// The witness's folder: its key, made at the first start, and what it has seen
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Where to answer; anything but loopback needs a certificate
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7620")]
    pub(crate) listen: SocketAddr,
    /// Files with the verifier keys of the logs to watch
    #[arg(long, value_name = "VKEY_FILE", required = true, num_args = 1..)]
    pub(crate) log: Vec<PathBuf>,
    /// Name of a new key, a URL without scheme by custom [default: keytrail/witness- and 16 random hex digits]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// `keytrail incident`.
#[derive(Debug, Subcommand)]
pub(crate) enum IncidentCommand {
    /// All incidents, newest first
    List(IncidentListArgs),
    /// One incident with its timeline
    Show {
        #[command(flatten)]
        data: DataArgs,
        /// Incident id, as `list` prints it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say that somebody looks at it; responding goes on, and new actions are told
    Ack(IncidentDeedArgs),
    /// Say who shall deal with it
    Assign {
        #[command(flatten)]
        deed: IncidentDeedArgs,
        /// Who
        assignee: String,
    },
    /// Write into the timeline
    Note {
        #[command(flatten)]
        deed: IncidentDeedArgs,
        /// What
        text: String,
    },
    /// Close it; a later alert opens it again
    Close {
        #[command(flatten)]
        deed: IncidentDeedArgs,
        /// Why
        #[arg(long, value_enum)]
        reason: ReasonArg,
        /// More about it
        #[arg(long)]
        text: Option<String>,
    },
    /// Open it again
    Reopen {
        #[command(flatten)]
        deed: IncidentDeedArgs,
        /// Why
        #[arg(long)]
        text: Option<String>,
    },
    /// Make it part of another incident: alerts, keys and actions move there, and undo covers both
    Merge {
        #[command(flatten)]
        deed: IncidentDeedArgs,
        /// The other incident's id
        into: String,
    },
    /// Write it to a file for other systems
    Export(IncidentExportArgs),
    /// Check that timelines link and that the log has the same entries
    Check {
        #[command(flatten)]
        data: DataArgs,
        /// Only this incident
        id: Option<String>,
    },
    /// Agree to the actions of an incident that wait for approval
    Approve {
        #[command(flatten)]
        person: PersonArgs,
        #[command(flatten)]
        factor: FactorArgs,
        /// Incident id, as `list` prints it
        id: String,
        /// Only this action: its kind, such as disable_key, or its id
        action: Option<String>,
    },
    /// People who deal with incidents over HTTP
    #[command(subcommand)]
    User(IncidentUserCommand),
    /// Enable the keys we disabled and lift the quarantines we put; policies and deletions stay as they are
    Undo(IncidentDeedArgs),
}

/// `keytrail quarantine`.
#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Lift a quarantine on a stopped node; the lift is an event in the log
    Lift {
        #[command(flatten)]
        data: DataArgs,
        /// ARN of the quarantined principal
        principal: String,
        /// Why, for the log
        #[arg(long)]
        reason: String,
        /// File with the passphrase that the root key is sealed under
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

/// `keytrail rootkey`.
#[derive(Debug, Subcommand)]
pub(crate) enum RootkeyCommand {
    /// Say how the file is sealed
    Status(DataArgs),
    /// Seal the same root key in another way or under another passphrase, while the service runs or when it is stopped
    Reseal {
        #[command(flatten)]
        data: DataArgs,
        /// What protects the file from now on
        #[arg(long, value_enum)]
        seal: SealedBy,
        /// File with the passphrase in force; without it a terminal is asked
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
        passphrase_file: Option<PathBuf>,
        /// File with the new passphrase; without it a terminal is asked, twice
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Make the key inside the token of `[root_key]` if it has none of that label
        #[arg(long)]
        create_token_key: bool,
    },
    /// Make another root key, sealed like the one in force, and wrap everything under it, while the service runs or when
    /// it is stopped
    Rotate {
        #[command(flatten)]
        data: DataArgs,
        /// File with the passphrase in force; without it a terminal is asked
        #[arg(long, value_name = "FILE", env = "KEYTRAIL_PASSPHRASE_FILE")]
        passphrase_file: Option<PathBuf>,
        /// End all sessions and all import and grant tokens of before at once, instead of letting them last out
        #[arg(long)]
        end_tokens: bool,
    },
}

/// `keytrail backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Folder for the set; absent or empty
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// Put a root key into the set that no passphrase protects: whoever reads the set then has every key
    #[arg(long)]
    pub(crate) with_root_key: bool,
}

/// `keytrail restore`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("against").required(true).args(["newer_than", "brokers", "without_checkpoint"]))]
pub(crate) struct RestoreArgs {
    /// Folder of the set
    #[arg(long, value_name = "FOLDER")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// File with a checkpoint of this log from elsewhere; the set must reach it
    #[arg(long, value_name = "FILE")]
    pub(crate) newer_than: Option<PathBuf>,
    /// Kafka bootstrap servers; the set must reach the newest checkpoint there
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) brokers: Option<String>,
    /// No checkpoint is left anywhere: what was deleted after the set was taken comes back, and the log says so
    #[arg(long)]
    pub(crate) without_checkpoint: bool,
    /// File with the log's verifier key, got from somewhere else than the set
    #[arg(long, value_name = "FILE")]
    pub(crate) vkey: Option<PathBuf>,
}

/// `keytrail bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Calls a second and latency of the key service, with and without the journal gate
    Kms(BenchKmsArgs),
    /// Events a second from JSON to committed Parquet
    Land(BenchLandArgs),
    /// Start and memory of the key service with many keys, and the speed of verify on what that leaves
    Keys(BenchKeysArgs),
    /// Events a second through forty rules and the shipped pack
    Rules(BenchRulesArgs),
    /// Ten analysts' queries over the lake, against DuckDB on the same files
    Query(BenchQueryArgs),
    /// Calls a second through the replay of another policy
    Replay(BenchReplayArgs),
    /// From the reply of a malicious call to containment
    Respond(BenchRespondArgs),
    /// A day that the trail was down for, caught up with: the same alerts as if it had followed
    Outage(BenchOutageArgs),
    /// Decrypt beside a storm of alerts and without one, and what the responder does in it
    Storm(BenchStormArgs),
    /// An evidence pack of a whole log: its export, and how fast it verifies
    Evidence(BenchEvidenceArgs),
    /// How long records wait for their witnesses, and calls that wait for them
    Witness(BenchWitnessArgs),
}

/// `keytrail bench witness`.
#[derive(Debug, Args)]
pub(crate) struct BenchWitnessArgs {
    /// Length of each measurement
    #[arg(long, default_value = "10s")]
    pub(crate) duration: humantime_serde::re::humantime::Duration,
    /// Witnesses, all of which must cosign
    #[arg(long, default_value_t = 2)]
    pub(crate) witnesses: usize,
}

/// `keytrail bench kms`.
#[derive(Debug, Args)]
pub(crate) struct BenchKmsArgs {
    /// Connections of the load tool
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// Length of each measurement
    #[arg(long, default_value = "5s")]
    pub(crate) duration: humantime_serde::re::humantime::Duration,
}

/// `keytrail bench land`.
#[derive(Debug, Args)]
pub(crate) struct BenchLandArgs {
    /// Events to land
    #[arg(long, default_value_t = 500_000)]
    pub(crate) events: u64,
    /// By the whole trail, rules included, through these Kafka brokers
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) brokers: Option<String>,
}

/// `keytrail bench keys`.
#[derive(Debug, Args)]
pub(crate) struct BenchKeysArgs {
    /// Keys to make
    #[arg(long, default_value_t = 100_000)]
    pub(crate) keys: u32,
    /// Grants to make on one key; a key can have 50,000
    #[arg(long, default_value_t = 50_000)]
    pub(crate) grants: u32,
}

/// `keytrail bench rules`.
#[derive(Debug, Args)]
pub(crate) struct BenchRulesArgs {
    /// Events to evaluate
    #[arg(long, default_value_t = 500_000)]
    pub(crate) events: u64,
}

/// `keytrail bench query`.
#[derive(Debug, Args)]
pub(crate) struct BenchQueryArgs {
    /// Events in the lake
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) events: u64,
    /// Runs of each query; the best counts
    #[arg(long, default_value_t = 3)]
    pub(crate) runs: u32,
    /// Python with the duckdb package, to compare with
    #[arg(long, value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,
    /// Use the lake in this folder, and make it there first if it is empty [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// `keytrail bench replay`.
#[derive(Debug, Args)]
pub(crate) struct BenchReplayArgs {
    /// Calls in the log
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) events: u64,
}

/// `keytrail bench evidence`.
#[derive(Debug, Args)]
pub(crate) struct BenchEvidenceArgs {
    /// Events in the log
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) events: u64,
}

/// `keytrail bench respond`.
#[derive(Debug, Args)]
pub(crate) struct BenchRespondArgs {
    /// Incidents, each on its own key and principal
    #[arg(long, default_value_t = 200)]
    pub(crate) incidents: usize,
    /// Ordinary calls beside them, a second
    #[arg(long, value_name = "RATE", default_value_t = 0)]
    pub(crate) calls_per_second: u32,
    /// As many incidents again, spread over this long, while the other calls are ten times as many
    #[arg(long, value_name = "DURATION")]
    pub(crate) burst: Option<humantime_serde::re::humantime::Duration>,
    /// As many incidents again, while an analyst has a join without end run over HTTP, again whenever its limit of 5 s
    /// stops it; makes a certificate with `openssl`
    #[arg(long)]
    pub(crate) planted_join: bool,
    /// Through these Kafka brokers instead of the journal
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) brokers: Option<String>,
}

/// `keytrail bench outage`.
#[derive(Debug, Args)]
pub(crate) struct BenchOutageArgs {
    /// About how many events the day has
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) events: u32,
    /// Attacks of each kind
    #[arg(long, default_value_t = 10)]
    pub(crate) attacks_each: u32,
}

/// `keytrail bench storm`.
#[derive(Debug, Args)]
pub(crate) struct BenchStormArgs {
    /// Alerts that reach the responder during the storm
    #[arg(long, default_value_t = 100_000)]
    pub(crate) alerts: u32,
    /// How long it lasts, and the quiet before it
    #[arg(long, default_value = "60s")]
    pub(crate) duration: humantime_serde::re::humantime::Duration,
    /// Decrypts beside it, a second
    #[arg(long, value_name = "RATE", default_value_t = 500)]
    pub(crate) calls_per_second: u32,
}

/// `keytrail config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration file and say what is wrong
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `keytrail demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) up: UpArgs,
    /// Folder in which the mail server of --smtp drops messages, so that the demo can show them
    #[arg(long, value_name = "DIR")]
    pub(crate) mail_dir: Option<PathBuf>,
    /// Stop the service when the incident has been played instead of leaving it running
    #[arg(long)]
    pub(crate) exit: bool,
}
