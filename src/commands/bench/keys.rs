//! `keytrail bench keys`: how the key service starts, and what memory it takes, with many keys; then how fast `verify`
//! reads the journal that making them left. Last what many grants on one key cost (`grants`).

use super::Table;
use super::kms::request;
use super::load::{Load, measure};
use crate::cli::BenchKeysArgs;
use crate::commands::service::Service;
use anyhow::{Context, bail};
use keytrail_kms::verify::{Verdict, verify_folder};
use serde_json::json;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const CONNECTIONS: usize = 64;

pub(crate) async fn run(args: BenchKeysArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    super::create_lifted(folder.path())?;
    let mut service = start(folder.path()).await?;
    let host = service.endpoint.trim_start_matches("http://");
    let create = request(&super::administrator(folder.path())?, host, "CreateKey", &json!({}));
    let addr = host.parse().context("read the service's address")?;
    let made = measure(addr, Arc::new(vec![create]), CONNECTIONS, Load::Calls(args.keys)).await?;
    service.stop().await?;

    let begin = Instant::now();
    let mut service = start(folder.path()).await?;
    let start = begin.elapsed();
    let mebibytes = resident_mebibytes(&service)?;
    service.stop().await?;

    let begin = Instant::now();
    let report = verify_folder(folder.path(), |_| ());
    let verify = begin.elapsed().as_secs_f64();
    if !matches!(report.verdict, Verdict::Verified) {
        bail!("the bench's own folder does not verify: {:?}", report.verdict);
    }
    let mut table = Table::new(&["keys", "CreateKey/s", "start s", "resident MiB", "records", "verified records/s"]);
    table.row(vec![
        args.keys.to_string(),
        format!("{:.0}", made.rate()),
        format!("{:.2}", start.as_secs_f64()),
        mebibytes.to_string(),
        report.records.to_string(),
        format!("{:.0}", report.records as f64 / verify),
    ]);
    table.print();
    super::grants::run(args.grants).await
}

pub(super) async fn start(dir: &Path) -> anyhow::Result<Service> {
    Service::start("kms", [OsStr::new("--listen"), OsStr::new("127.0.0.1:0"), OsStr::new("--data"), dir.as_os_str()])
        .await
}

/// Memory of the process that the kernel counts as resident.
fn resident_mebibytes(service: &Service) -> anyhow::Result<u64> {
    let pid = service.child.id().context("the service has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok(kibibytes / 1024)
}
