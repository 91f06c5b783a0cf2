//! One thin file per subcommand, and what they share: effective settings, signals, printing.

mod approval;
mod backup;
pub(crate) mod bench;
mod blast_radius;
mod canary;
mod change;
mod demo;
mod erase;
mod evidence;
mod evidence_serve;
mod explain;
mod gap;
mod generate;
mod health;
mod http;
mod import;
mod incident;
mod index;
pub(crate) mod init;
mod key;
mod lake;
mod log;
mod node;
mod notices;
mod outbox;
mod playbook;
mod policy;
mod progress;
mod proof;
mod quarantine;
mod query_log;
mod receipts;
mod reports;
mod responder;
mod responder_down;
mod rootkey;
mod rules;
mod seal_key;
mod self_test;
mod service;
mod signer;
mod sql;
mod sql_servers;
mod sql_user;
mod up;
mod verify;
mod witness;

use crate::cli::{Command, ConfigCommand, NodeArgs, Responder, TlsArgs};
use crate::config::Config;
use anyhow::Context;
use keytrail_kms::chain::NoteError;
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::tls::TlsFiles;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Set by `up` for its children: they end when it does.
pub(crate) const SUPERVISED: &str = "KEYTRAIL_SUPERVISED";

/// How much trail and responder give way to the key service where all share a machine: for three parts of processor time
/// that go to it, one is still theirs, so that no flood of calls keeps them from finding and ending it.
const GIVE_WAY: i32 = 5;

/// Lets a child of `up` give way to the key service, for which callers wait. Threads take the priority of the one that
/// starts them: before the runtime.
pub(crate) fn give_way(command: &Command) {
    if matches!(command, Command::Trail(_) | Command::Responder(_))
        && std::env::var_os(SUPERVISED).is_some()
        && let Err(error) = rustix::process::nice(GIVE_WAY)
    {
        tracing::warn!(%error, "this part does not give way to the key service");
    }
}

/// Runs one subcommand; the exit code is part of `verify`'s and `rules test`'s contract.
pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Init(args) => init::run(&args).map(done),
        Command::Up(args) => up::run(args).await.map(done),
        Command::Kms(args) => node::kms(args).await.map(done),
        Command::Trail(args) => node::trail(args).await.map(done),
        Command::Responder(Responder::Run(args)) => node::responder(*args).await.map(done),
        Command::Responder(Responder::Decide(command)) => responder::run(command).map(done),
        Command::Change(command) => change::run(command).await.map(done),
        Command::Playbook(command) => playbook::run(command).await,
        Command::Sql(args) => sql::run(args).await.map(done),
        Command::SqlUser(command) => sql_user::run(command).map(done),
        Command::Lake(command) => lake::run(&command).map(done),
        Command::Import(command) => import::run(command).await,
        Command::Explain(args) => explain::run(&args).await.map(done),
        Command::Policy(command) => policy::run(command).await,
        Command::Rules(command) => rules::run(command).await,
        Command::Generate(args) => generate::run(args).await.map(done),
        Command::Verify(args) => verify::run(args),
        Command::Log(command) => proof::run(command).await.map(done),
        Command::Receipts(command) => receipts::run(command).await,
        Command::Evidence(command) => evidence::run(command).await,
        Command::Incident(command) => incident::run(command).await.map(done),
        Command::Outbox(command) => outbox::run(command).map(done),
        Command::Approval(command) => approval::run(command).await.map(done),
        Command::Key(command) => key::run(command).await.map(done),
        Command::Notices(command) => notices::run(command).await.map(done),
        Command::Silence(command) => notices::silences(command).map(done),
        Command::BlastRadius(args) => blast_radius::run(&args).await.map(done),
        Command::Canary(command) => canary::run(command).await,
        Command::Quarantine(command) => quarantine::run(command).await.map(done),
        Command::Rootkey(command) => rootkey::run(command).await.map(done),
        Command::Signer(command) => signer::run(command).await.map(done),
        Command::Witness(args) => witness::run(args).await.map(done),
        Command::Backup(args) => backup::backup(&args).map(done),
        Command::Restore(args) => backup::restore(&args).map(done),
        Command::Gap(command) => gap::run(command).await.map(done),
        Command::Bench(command) => bench::run(command).await.map(done),
        Command::Config(ConfigCommand::Check { file }) => check(&file).map(done),
        Command::Demo(args) => demo::run(args).await.map(done),
    }
}

/// The machine's time in Unix microseconds, as the responder's store holds it.
fn now_us() -> i64 {
    i64::try_from(SystemClock.now_us()).unwrap_or(i64::MAX)
}

/// A time to the millisecond.
fn time(micros: i64) -> String {
    formatted(micros, "%FT%T%.3fZ")
}

/// A time to the second.
fn second(micros: i64) -> String {
    formatted(micros, "%FT%TZ")
}

fn formatted(micros: i64, form: &str) -> String {
    chrono::DateTime::from_timestamp_micros(micros).map_or_else(|| "-".to_owned(), |time| time.format(form).to_string())
}

fn check(file: &std::path::Path) -> anyhow::Result<()> {
    Config::read(file)?;
    say(&format!("{} is valid", file.display()));
    Ok(())
}

/// What flags, environment and file add up to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) config: Config,
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) brokers: Option<String>,
    pub(crate) rules: PathBuf,
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the configuration file of an initialised folder and lays flags over it.
    pub(crate) fn of(args: &NodeArgs) -> anyhow::Result<Self> {
        let dir = args.data.data.clone();
        let file = args.config.clone().unwrap_or_else(|| dir.join("keytrail.toml"));
        let config = Config::read(&file)?;
        let listen = args.listen.unwrap_or(config.kms.listen);
        let tls = tls_files(&args.tls, config.kms.tls.as_ref())?;
        if tls.is_none() && !listen.ip().is_loopback() {
            anyhow::bail!("{listen} is not a loopback address: that needs a certificate (--tls-cert, --tls-key)");
        }
        Ok(Self {
            listen,
            tls,
            health: args.health.or(config.node.health),
            brokers: args.brokers.clone().or_else(|| config.kafka.brokers.clone()),
            rules: args.rules.clone().unwrap_or_else(|| dir.join("rules")),
            passphrase_file: args.passphrase_file.clone(),
            dir,
            config,
        })
    }
}

/// Where the signer of a folder's log answers, if it is a process of its own.
fn signer_socket(dir: &std::path::Path) -> anyhow::Result<Option<PathBuf>> {
    let file = dir.join("keytrail.toml");
    if !file.exists() {
        return Ok(None);
    }
    Ok(Config::read(&file)?.signer.map(|signer| signer.socket))
}

/// A vkey in a file.
fn read_key<K: std::str::FromStr<Err = NoteError>>(file: &std::path::Path) -> anyhow::Result<K> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    text.trim().parse().with_context(|| format!("read the verifier key in {}", file.display()))
}

/// The files of the flags, or else those of the configuration.
fn tls_files(args: &TlsArgs, configured: Option<&TlsFiles>) -> anyhow::Result<Option<TlsFiles>> {
    let flags = args.tls_cert.clone().zip(args.tls_key.clone());
    let flags = flags.map(|(cert_file, key_file)| TlsFiles { cert_file, key_file, client_ca_file: None });
    let client_ca = args.tls_client_ca.clone().or_else(|| configured?.client_ca_file.clone());
    match flags.or_else(|| configured.cloned()) {
        Some(files) => Ok(Some(TlsFiles { client_ca_file: client_ca, ..files })),
        None if client_ca.is_some() => {
            anyhow::bail!("client certificates need TLS: give --tls-cert and --tls-key, too")
        }
        None => Ok(None),
    }
}

/// The operating system's user, by the name that the machine knows it by.
fn operator() -> String {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

/// Prints a result line; a closed pipe is not our failure.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) struct StopSignal {
    term: Signal,
    int: Signal,
}

/// Listens from now on.
pub(crate) fn stop_signal() -> anyhow::Result<StopSignal> {
    die_with_supervisor();
    Ok(StopSignal {
        term: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
        int: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
    })
}

impl StopSignal {
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
        tracing::info!("stopping");
        let second = stop_signal();
        tokio::spawn(async move {
            if let Ok(mut second) = second {
                tokio::select! {
                    _ = second.term.recv() => {}
                    _ = second.int.recv() => {}
                }
                std::process::exit(130);
            }
        });
    }
}

/// A child of `up` is stopped by the kernel when its supervisor is killed, so that none is left behind.
fn die_with_supervisor() {
    if std::env::var_os(SUPERVISED).is_some()
        && let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        tracing::warn!(error = %error, "this part will not notice its supervisor's death");
    }
}

/// Reads FAILPOINTS; the guard must live as long as the process.
#[cfg(feature = "testing")]
pub(crate) fn fail_points() -> impl Drop {
    fail::FailScenario::setup()
}
