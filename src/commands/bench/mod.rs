//! `keytrail bench`: figures for DESIGN's budgets, printed as tables that go into benches/RESULTS.md.
//!
//! Each bench answers a user's question, runs the real parts, and prints the machine's own limits beside its figures.

mod analyst;
mod evidence;
mod grants;
mod keys;
mod kms;
mod land;
mod load;
mod mailbox;
mod outage;
mod query;
mod replay;
mod respond;
mod rules;
mod storm;
mod stream;
mod witness;

use super::say;
use crate::cli::BenchCommand;
use anyhow::Context;
use keytrail_kms::auth::credentials::Credentials;
use std::io::{Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

pub(crate) const REGION: &str = "us-east-1";
pub(crate) const ACCOUNT: &str = "123456789012";

/// Runs one bench.
pub(crate) async fn run(command: BenchCommand) -> anyhow::Result<()> {
    say(&machine());
    match command {
        BenchCommand::Kms(args) => kms::run(args).await,
        BenchCommand::Land(args) => land::run(args).await,
        BenchCommand::Keys(args) => keys::run(args).await,
        BenchCommand::Rules(args) => rules::run(args).await,
        BenchCommand::Query(args) => query::run(args).await,
        BenchCommand::Replay(args) => replay::run(args).await,
        BenchCommand::Respond(args) => respond::run(args).await,
        BenchCommand::Outage(args) => outage::run(args).await,
        BenchCommand::Storm(args) => storm::run(args).await,
        BenchCommand::Evidence(args) => evidence::run(args).await,
        BenchCommand::Witness(args) => witness::run(args).await,
    }
}

/// Processor, cores, build and date, as RESULTS.md wants them.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |pair| pair.1);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "UNOPTIMISED" } else { "optimised" };
    format!("{model}, {cores} cores, {build} build, {}\n", chrono::Utc::now().format("%Y-%m-%d"))
}

/// Median and 99th percentile of fdatasync after writing 4 KiB into a prepared file, in milliseconds.
pub(crate) fn fdatasync_millis() -> anyhow::Result<(f64, f64)> {
    const WRITES: usize = 500;
    let mut file = tempfile::tempfile().context("make a file")?;
    file.write_all(&vec![0; WRITES * 4096]).context("prepare a file")?;
    file.sync_all().context("prepare a file")?;
    file.seek(SeekFrom::Start(0)).context("rewind a file")?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        let start = Instant::now();
        file.write_all(&[1; 4096]).context("write to a file")?;
        file.sync_data().context("sync a file")?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[WRITES / 2], times[WRITES * 99 / 100]))
}

/// A Markdown table, printed when it is whole.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self(vec![columns.iter().map(|column| (*column).to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub(crate) fn print(&self) {
        for (index, row) in self.0.iter().enumerate() {
            say(&format!("| {} |", row.join(" | ")));
            if index == 0 {
                say(&format!("|{}", "---|".repeat(row.len())));
            }
        }
    }
}

/// Quotas of a bench that starts the command itself: it measures what the node can do, not what an account may.
const LIFTED: &str = "\n[quotas]\nCreateGrant = \"unlimited\"\nCreateKey = \"unlimited\"\nGetKeyPolicy = \"unlimited\"\nPutKeyPolicy = \"unlimited\"\nTagResource = \"unlimited\"\nsymmetric = \"unlimited\"\n\
                      keys = \"1_000_000_000\"\n";

/// Makes a folder whose account may call as often as it likes.
pub(crate) fn create_lifted(dir: &Path) -> anyhow::Result<()> {
    super::init::create_at(dir, ACCOUNT, REGION)?;
    add_to(&dir.join("keytrail.toml"), LIFTED)
}

/// Adds text to a file that `init` made.
pub(crate) fn add_to(file: &Path, text: &str) -> anyhow::Result<()> {
    let written =
        std::fs::OpenOptions::new().append(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", file.display()))
}

/// A number of kibibytes that the kernel tells of a process, in bytes: `VmRSS` is what it holds, `VmHWM` the most so far.
pub(crate) fn memory_bytes(process: &str, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("read a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
    Ok(line.with_context(|| format!("no {name} of a process"))?.trim().parse::<u64>()? * 1024)
}

/// The key service in this process, on a temporary folder.
pub(crate) struct Service {
    pub(crate) addr: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    kms: keytrail_kms::service::RunningKms,
}

impl Service {
    pub(crate) async fn start(journal_gate: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("make a folder")?;
        super::init::create_at(folder.path(), ACCOUNT, REGION)?;
        let config = super::node::bench_config(folder.path(), journal_gate);
        let kms = super::node::start_kms(config).await?;
        Ok(Self { addr: kms.addr, folder, kms })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.kms.shutdown().await.context("stop the service")
    }
}

/// The administrator's access key of a folder.
pub(crate) fn administrator(dir: &Path) -> anyhow::Result<Credentials> {
    Credentials::read(&dir.join("credentials"), "default").context("read the administrator's key")
}
