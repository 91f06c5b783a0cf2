//! A `keytrail up --enforce` of our own, for the demo and the containment bench: started, known by its address, stopped.

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
    /// `http://` and the address of the key service.
    pub(crate) endpoint: String,
}

impl Service {
    /// Starts it with `arguments` and waits until it is ready. Its messages stay quiet unless KEYTRAIL_LOG asks.
    pub(crate) async fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("find the path of this command")?);
        command.args(["up", "--enforce"]).args(arguments);
        let log = std::env::var("KEYTRAIL_LOG").unwrap_or_else(|_| "error".to_owned());
        command.env(super::SUPERVISED, "1").env("KEYTRAIL_LOG", log).stdin(Stdio::null()).stdout(Stdio::piped());
        // Its own group: Ctrl-C reaches only us, and we stop it in order.
        let mut child = command.process_group(0).kill_on_drop(true).spawn().context("start keytrail up")?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout was piped")).lines();
        while let Some(ready) = lines.next_line().await.context("read from keytrail up")? {
            if let Some(endpoint) = ready.strip_prefix("ready kms=").and_then(|rest| rest.split(' ').next()) {
                return Ok(Self { endpoint: endpoint.to_owned(), ready, child });
            }
        }
        bail!("keytrail up ended before it was ready: see its message above")
    }

    /// SIGTERM, then waits.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = pid_of(&self.child) {
            kill_process(pid, Signal::TERM).context("stop keytrail up")?;
        }
        self.child.wait().await.context("wait for keytrail up")
    }
}

/// The child's pid, until it was waited for.
pub(crate) fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}
