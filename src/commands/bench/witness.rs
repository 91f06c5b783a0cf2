//! `keytrail bench witness`: how long a record waits until a quorum of witnesses covers it, and what a call costs that waits
//! for that.
//!
//! The key service and the witnesses share this process and the machine's disk; each still syncs its own state before it
//! signs, and they talk HTTP over loopback. The witnesses all have to cosign.

use super::kms::{Work, row};
use super::load::{Load, measure};
use super::{ACCOUNT, REGION, Table};
use crate::cli::BenchWitnessArgs;
use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use keytrail_kms::chain::{TrustPolicy, VerifyKey};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::service::RunningKms;
use keytrail_kms::witness::{QuorumSettings, RunningWitness, WitnessSettings, start};
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two records that are watched.
const SAMPLE: Duration = Duration::from_millis(5);
/// Calls a second while they are.
const CALLS_PER_SEC: u32 = 1_000;
/// The operation that waits; any change would do.
const WAITED_FOR: &str = "TagResource";

pub(crate) async fn run(args: BenchWitnessArgs) -> anyhow::Result<()> {
    let duration: Duration = *args.duration;
    ensure!((1..=16).contains(&args.witnesses), "give 1 to 16 witnesses");
    let fsync = super::fdatasync_millis()?;
    let folder = tempfile::tempdir().context("make a folder")?;
    super::super::init::create_at(folder.path(), ACCOUNT, REGION)?;
    let (policy, witnesses) = witnesses(folder.path(), args.witnesses).await?;
    let mut config = super::super::node::bench_config(folder.path(), true);
    config.quorum = Some(QuorumSettings {
        policy,
        roots_pem: None,
        wait_for: BTreeSet::from([WAITED_FOR.to_owned()]),
        wait_bound: Duration::from_secs(10),
    });
    let kms = super::super::node::start_kms(config).await?;
    let work = Work::prepare(kms.addr, folder.path()).await?;
    let load = measure(kms.addr, Arc::clone(&work.decrypt), 16, Load::PerSecond(CALLS_PER_SEC, duration));
    let (window, load) = tokio::join!(window(&kms, duration), load);
    let (window, load) = (window?, load?);
    let mut table = Table::new(&["path", "connections", "calls/s", "p50 ms", "p99 ms", "max ms"]);
    for connections in [1, 16] {
        let waiting = measure(kms.addr, Arc::clone(&work.mutations), connections, Load::Closed(duration)).await?;
        table.row(row(&format!("{WAITED_FOR}, answered under a quorum"), connections, &waiting));
    }
    kms.shutdown().await.context("stop the service")?;
    drop(witnesses);
    table.print();
    let millis = |quantile| window.value_at_quantile(quantile) as f64 / 1_000.0;
    super::say(&format!(
        "\nunwitnessed window at {:.0} calls/s, {} witnesses: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms ({} records watched)",
        load.rate(),
        args.witnesses,
        millis(0.5),
        millis(0.99),
        millis(1.0),
        window.len(),
    ));
    super::say(&format!("raw fdatasync of 4 KiB on a prepared file: p50 {:.2} ms, p99 {:.2} ms", fsync.0, fsync.1));
    Ok(())
}

/// So many witnesses of the folder's log, and the policy that wants all of them.
async fn witnesses(dir: &Path, count: usize) -> anyhow::Result<(TrustPolicy, Vec<RunningWitness>)> {
    let log: VerifyKey = super::super::read_key(&dir.join("checkpoints/vkey"))?;
    let (mut text, mut running) = (String::new(), Vec::new());
    for number in 0..count {
        let settings = WitnessSettings {
            dir: dir.join(format!("witness-{number}")),
            name: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            prefix: "",
            logs: vec![log.clone()],
        };
        let witness = start(settings, Arc::new(SystemClock)).await.context("start a witness")?;
        let _ = writeln!(text, "witness W{number} {} http://{}", witness.witness.cosigner(), witness.addr);
        running.push(witness);
    }
    let names: Vec<String> = (0..count).map(|number| format!("W{number}")).collect();
    let _ = writeln!(text, "group all-of-them all {}\nquorum all-of-them", names.join(" "));
    Ok((TrustPolicy::parse(text.as_bytes()).context("make a policy")?, running))
}

/// From a record's durability to the quorum over it, in microseconds, for the newest record each few milliseconds.
async fn window(kms: &RunningKms, duration: Duration) -> anyhow::Result<Histogram<u64>> {
    let mut seen = Histogram::new(3).context("make a histogram")?;
    let (durable, mut covered) = (kms.durable(), kms.covered().context("no quorum")?);
    let (end, mut ticks) = (Instant::now() + duration, tokio::time::interval(SAMPLE));
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut newest = durable.borrow().next_seq;
    while Instant::now() < end || !waiting.is_empty() {
        tokio::select! {
            _ = ticks.tick(), if Instant::now() < end => {
                let size = durable.borrow().next_seq;
                if size > newest {
                    waiting.push_back((size, Instant::now()));
                    newest = size;
                }
            }
            changed = covered.changed() => {
                changed.context("the service stopped")?;
                let size = *covered.borrow_and_update();
                while let Some((_, since)) = waiting.pop_front_if(|(wanted, _)| *wanted <= size) {
                    seen.record(u64::try_from(since.elapsed().as_micros())?).context("record a wait")?;
                }
            }
        }
    }
    Ok(seen)
}
