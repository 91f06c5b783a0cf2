//! `keytrail up`: all three processes on one machine, supervised.
//!
//! Each part is a child process of the same binary, so that no SQL runs where keys are and a crash of one part leaves
//! the others. A part that ends by itself is started again with a growing pause; a key service that keeps ending stops
//! everything, while the others are tried for ever: whoever can end them shall not end it. Stopping goes kms, trail,
//! responder, so that the last records are still landed and acted on.

use crate::cli::{NodeArgs, UpArgs};
use crate::commands::service::pid_of;
use crate::commands::{Settings, init};
use anyhow::{Context, anyhow, bail};
use rustix::process::{Signal, kill_process};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How long one part may take until it prints its ready line; recovery of a large journal is inside.
const READY_SECS_MAX: u64 = 600;
/// How long one part may take to stop before it is killed.
const STOP_SECS_MAX: u64 = 30;
/// A key service that ended this often within [`RESTART_WINDOW`] is not started again, and the pause grows no more.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// Fields of the trail's ready line that say where it serves SQL.
const SQL_FIELDS: [&str; 3] = ["postgres", "http", "incidents"];

/// Runs until SIGTERM, SIGINT or a key service that cannot be kept alive.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    if init::is_needed(&args.node)? {
        init::create(&args.node)?;
        tracing::info!(data = %args.node.data.data.display(), "initialised an empty data folder");
    }
    let settings = Settings::of(&args.node)?;
    let enforce = args.response.enforce || settings.config.response.enforce;
    let mut stop = super::stop_signal()?;
    let mut up = tokio::select! {
        up = Supervisor::start(&args, &settings) => up?,
        () = stop.wait() => return Ok(()),
    };
    let mode = if enforce { "enforce" } else { "observe" };
    let health = if up.health.is_empty() { String::new() } else { format!(" health={}", up.health.join(",")) };
    super::say(&format!(
        "ready kms={} data={} transport={} mode={mode}{}{health}",
        up.endpoint,
        args.node.data.data.display(),
        settings.brokers.as_deref().map_or("journal", |_| "kafka"),
        up.sql,
    ));
    if !enforce {
        tracing::warn!(
            "playbooks only observe: attacks are recorded and nothing is contained. `keytrail playbook promote` shows what \
             each would have done; start with --enforce to let them act"
        );
    }
    let outcome = tokio::select! {
        () = stop.wait() => Ok(()),
        ended = up.keep_alive() => ended,
    };
    up.stop().await;
    outcome
}

/// The three children in the order in which they start and stop.
struct Supervisor {
    parts: Vec<Part>,
    endpoint: String,
    /// Where each part tells how it is.
    health: Vec<String>,
    /// Where the trail serves SQL and the responder incidents, as fields of our own ready line.
    sql: String,
}

/// One child process and how to start it again.
struct Part {
    name: &'static str,
    arguments: Vec<String>,
    child: Child,
    ended: Vec<Instant>,
}

impl Supervisor {
    async fn start(args: &UpArgs, settings: &Settings) -> anyhow::Result<Self> {
        let mut arguments = node_arguments("kms", &args.node);
        pin(&mut arguments, "--health", settings.health.map(|addr| addr.to_string()).as_ref());
        let mut kms = Part::spawn("kms", arguments).await?;
        let endpoint = field(&kms.1, "kms").ok_or_else(|| anyhow!("kms printed no address: {}", kms.1))?;
        // From here on the port is known: a restarted kms must come back on the same one.
        let listen = endpoint.split_once("://").map_or(&*endpoint, |(_, address)| address).to_owned();
        pin(&mut kms.0.arguments, "--listen", Some(&listen));
        let mut health: Vec<String> = field(&kms.1, "health").into_iter().collect();
        pin(&mut kms.0.arguments, "--health", health.first());
        let (mut parts, mut sql) = (vec![kms.0], String::new());
        for (after, (name, extra)) in (1..).zip([("trail", Vec::new()), ("responder", response_arguments(args))]) {
            let mut arguments = node_arguments(name, &args.node);
            pin(&mut arguments, "--listen", Some(&listen));
            pin(&mut arguments, "--health", settings.health.map(|addr| next_port(addr, after)).as_ref());
            arguments.extend(extra);
            match Part::spawn(name, arguments).await {
                Ok((mut part, ready)) => {
                    let found = field(&ready, "health");
                    for door in SQL_FIELDS {
                        sql.extend(field(&ready, door).map(|addr| format!(" {door}={addr}")));
                    }
                    pin(&mut part.arguments, "--health", found.as_ref());
                    health.extend(found);
                    parts.push(part);
                }
                Err(error) => {
                    Self { parts, endpoint, health, sql }.stop().await;
                    return Err(error);
                }
            }
        }
        tracing::debug!(brokers = settings.brokers.as_deref().unwrap_or("none"), "all parts are up");
        Ok(Self { parts, endpoint, health, sql })
    }

    /// Starts ended parts again; returns only when the key service cannot be kept alive.
    async fn keep_alive(&mut self) -> anyhow::Result<()> {
        loop {
            let (index, status) = first_end(&mut self.parts).await?;
            let part = &mut self.parts[index];
            tracing::error!(part = part.name, status = %status, "part ended by itself, starting it again");
            part.ended.retain(|at| at.elapsed() < RESTART_WINDOW);
            part.ended.push(Instant::now());
            if part.ended.len() > RESTARTS_MAX && part.name == "kms" {
                bail!("{} ended {} times within a minute, giving up: see its messages above", part.name, RESTARTS_MAX);
            }
            let pause = Duration::from_millis(100 << part.ended.len().min(RESTARTS_MAX));
            tokio::time::sleep(pause).await;
            match Part::spawn(part.name, part.arguments.clone()).await {
                Ok((fresh, _)) => part.child = fresh.child,
                // The child already said why; its end is seen by the next round.
                Err(error) => {
                    let error = keytrail_kms::describe(error.as_ref());
                    tracing::error!(part = part.name, error, "part did not start");
                }
            }
        }
    }

    async fn stop(&mut self) {
        for part in &mut self.parts {
            part.stop().await;
        }
    }
}

impl Part {
    /// Starts the child and waits for its ready line, which is returned.
    async fn spawn(name: &'static str, arguments: Vec<String>) -> anyhow::Result<(Self, String)> {
        let binary = std::env::current_exe().context("find the path of this command")?;
        let mut child = Command::new(binary)
            .args(&arguments)
            .env(super::SUPERVISED, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Its own group: Ctrl-C reaches only us, and we stop the parts in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut lines = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(Duration::from_secs(READY_SECS_MAX), ready_line(&mut lines)).await;
        match ready {
            Ok(Ok(Some(line))) => {
                tokio::spawn(drain(lines));
                Ok((Self { name, arguments, child, ended: Vec::new() }, line))
            }
            Ok(Ok(None)) => {
                let status = child.wait().await.context("wait for a part that ended")?;
                bail!("{name} ended before it was ready ({status}): see its message above")
            }
            Ok(Err(error)) => Err(error).with_context(|| format!("read from {name}")),
            Err(_) => bail!("{name} was not ready after {READY_SECS_MAX} s"),
        }
    }

    async fn stop(&mut self) {
        let Some(pid) = pid_of(&self.child) else { return };
        if kill_process(pid, Signal::TERM).is_err() {
            return;
        }
        if tokio::time::timeout(Duration::from_secs(STOP_SECS_MAX), self.child.wait()).await.is_err() {
            tracing::error!(part = self.name, "part did not stop in time and is killed");
            // The child may have ended in between; then there is nothing left to kill.
            let _ = self.child.kill().await;
        }
    }
}

async fn first_end(parts: &mut [Part]) -> anyhow::Result<(usize, std::process::ExitStatus)> {
    loop {
        for (index, part) in parts.iter_mut().enumerate() {
            if let Some(status) = part.child.try_wait().with_context(|| format!("look after {}", part.name))? {
                return Ok((index, status));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready_line(lines: &mut Lines<BufReader<ChildStdout>>) -> std::io::Result<Option<String>> {
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("ready ") {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

/// Keeps the pipe empty; the parts print nothing after their ready line.
async fn drain(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(_)) = lines.next_line().await {}
}

/// The value of `name=` in a ready line.
fn field(line: &str, name: &str) -> Option<String> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
}

fn node_arguments(part: &str, node: &NodeArgs) -> Vec<String> {
    let mut arguments = vec![part.to_owned()];
    let mut push = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.extend([flag.to_owned(), value]);
        }
    };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    push("--data", Some(text(&node.data.data)));
    push("--config", node.config.as_deref().map(text));
    push("--listen", node.listen.map(|listen| listen.to_string()));
    push("--tls-cert", node.tls.tls_cert.as_deref().map(text));
    push("--tls-key", node.tls.tls_key.as_deref().map(text));
    push("--tls-client-ca", node.tls.tls_client_ca.as_deref().map(text));
    push("--brokers", node.brokers.clone());
    push("--rules", node.rules.as_deref().map(text));
    push("--passphrase-file", node.passphrase_file.as_deref().map(text));
    arguments
}

fn response_arguments(args: &UpArgs) -> Vec<String> {
    let mut arguments = Vec::new();
    if args.response.enforce {
        arguments.push("--enforce".to_owned());
    }
    for (flag, value) in [("--smtp", &args.response.smtp), ("--mail-to", &args.response.mail_to)] {
        if let Some(value) = value {
            arguments.extend([flag.to_owned(), value.clone()]);
        }
    }
    arguments
}

/// The address with a port further on; port 0 stays what it is.
fn next_port(addr: SocketAddr, after: u16) -> String {
    let port = if addr.port() == 0 { 0 } else { addr.port().saturating_add(after) };
    SocketAddr::new(addr.ip(), port).to_string()
}

/// Sets a flag to what is known by now, so that a restarted part comes back at the same place.
fn pin(arguments: &mut Vec<String>, flag: &str, value: Option<&String>) {
    let Some(value) = value else { return };
    match arguments.iter().position(|argument| argument == flag) {
        Some(at) => value.clone_into(&mut arguments[at + 1]),
        None => arguments.extend([flag.to_owned(), value.clone()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_the_ready_line_is_found_by_its_whole_name() {
        let line = "ready kms=http://127.0.0.1:7610 data=/d";
        assert_eq!(field(line, "kms").as_deref(), Some("http://127.0.0.1:7610"));
        assert_eq!(field(line, "km"), None);
    }

    #[test]
    fn a_pinned_address_replaces_port_zero() {
        let mut arguments = vec!["kms".to_owned(), "--listen".to_owned(), "127.0.0.1:0".to_owned()];
        pin(&mut arguments, "--listen", Some(&"127.0.0.1:7610".to_owned()));
        assert_eq!(arguments, ["kms", "--listen", "127.0.0.1:7610"]);
    }
}
