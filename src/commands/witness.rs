//! `keytrail witness`: a witness that stands alone, on an auditor's machine for one.

use super::{read_key, say, stop_signal, tls_files};
use crate::cli::WitnessArgs;
use anyhow::Context;
use keytrail_kms::chain::TrustPolicy;
use keytrail_kms::chain::trust_policy::POLICY_BYTES_MAX;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::witness::{WitnessSettings, start};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

pub(crate) async fn run(args: WitnessArgs) -> anyhow::Result<()> {
    let mut stop = stop_signal()?;
    let logs = args.log.iter().map(|file| read_key(file)).collect::<anyhow::Result<_>>()?;
    let tls = tls_files(&args.tls, None)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let settings = WitnessSettings { dir: args.dir, name: args.name, listen: args.listen, tls, prefix: "", logs };
    let running = start(settings, Arc::new(SystemClock)).await.context("start the witness")?;
    for (origin, size) in running.witness.logs() {
        tracing::info!(origin, size, "log is watched");
    }
    say(&format!("ready witness={scheme}://{} vkey={}", running.addr, running.witness.cosigner()));
    stop.wait().await;
    Ok(())
}

/// A trust policy's file.
pub(super) fn read_policy(file: &Path) -> anyhow::Result<TrustPolicy> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file);
    let read = opened.and_then(|opened| opened.take(POLICY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("read {}", file.display()))?;
    TrustPolicy::parse(&bytes).with_context(|| format!("read {}", file.display()))
}
