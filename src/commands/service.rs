//! A `keytrail up`, or one of its parts, of our own, for the demo and the benches: started, known by its address, stopped.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The running service; killed when dropped.
pub(crate) struct Service {
    pub(crate) child: Child,
    /// The line it printed when it was ready.
    pub(crate) ready: String,
    /// What the first field of that line says: of a key service, `http://` and its address.
    pub(crate) endpoint: String,
}

impl Service {
    /// Starts `subcommand` and waits until it is ready. Its messages stay quiet unless KEYTRAIL_LOG asks.
    pub(crate) async fn start(
        subcommand: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find the path of this command")?);
        command.arg(subcommand).args(arguments);
        let log = std::env::var("KEYTRAIL_LOG").unwrap_or_else(|_| "error".to_owned());
        command.env(super::SUPERVISED, "1").env("KEYTRAIL_LOG", log).stdin(Stdio::null()).stdout(Stdio::piped());
        // Its own group: Ctrl-C reaches only us, and we stop it in order.
        let mut child = command
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start keytrail {subcommand}"))?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout was piped")).lines();
        while let Some(ready) = lines.next_line().await.context("read from a service")? {
            let first = ready.strip_prefix("ready ").and_then(|rest| rest.split(' ').next());
            if let Some((_, endpoint)) = first.and_then(|field| field.split_once('=')) {
                return Ok(Self { endpoint: endpoint.to_owned(), ready, child });
            }
        }
        bail!("keytrail {subcommand} ended before it was ready: see its message above")
    }

    /// SIGTERM, then waits.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = pid_of(&self.child) {
            kill_process(pid, Signal::TERM).context("stop a service")?;
        }
        self.child.wait().await.context("wait for a service")
    }
}

/// The child's pid, until it was waited for.
pub(crate) fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}
