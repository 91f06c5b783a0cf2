//! `keytrail bench land`: from a frame's bytes over verification and Arrow to committed Parquet.

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchLandArgs;
use anyhow::{Context, bail};
use keytrail_kms::chain::{Link, LogId, Tree};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::journal::{Frame, SpoolWriter};
use keytrail_kms::ship::{ShipConfig, Shipper};
use keytrail_kms::signer::{CheckpointSigner, LocalSigner};
use keytrail_trail::lake::{Lake, LakeOptions};
use keytrail_trail::land::{Lander, LanderOptions};
use keytrail_trail::service::{Status, Trail, WatchedLog};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames handed over at once, as the trail's loop does under load.
const BATCH: usize = 4_096;
/// Longest wait for either half of the way through Kafka.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at the shipper.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) async fn run(args: BenchLandArgs) -> anyhow::Result<()> {
    if let Some(brokers) = &args.brokers {
        return through_kafka(args.events, brokers).await;
    }
    let folder = tempfile::tempdir().context("make a folder")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut stream = Stream::new(7);
    let mut lander = Lander::new([], LanderOptions::for_logs([stream.log()]), Arc::clone(&clock), None);
    let (mut lake, _) = Lake::open(folder.path(), LakeOptions::default(), clock).context("open a lake")?;
    let (mut spent, mut raw_bytes) = (Duration::ZERO, 0_u64);
    let mut left = usize::try_from(args.events)?;
    while left > 0 {
        // Making events is not what is measured.
        let frames = stream.frames(left.min(BATCH));
        left -= frames.len();
        raw_bytes += frames.iter().map(|frame| frame.frame.payload.len() as u64).sum::<u64>();
        let start = Instant::now();
        let outcome = lander.land(frames).await;
        if !outcome.findings.is_empty() {
            bail!("the bench's own stream did not verify: {:?}", outcome.findings);
        }
        for landed in &outcome.landed {
            lake.append(landed).context("append to the lake")?;
        }
        lake.maybe_seal().await.context("seal a file")?;
        spent += start.elapsed();
    }
    let start = Instant::now();
    lake.flush().await.context("seal the last file")?;
    spent += start.elapsed();
    let stored = size_of(&folder.path().join("data"))?;
    let events = args.events as f64;
    let mut table = Table::new(&["events", "seconds", "events/s", "raw B/event", "stored B/event"]);
    table.row(vec![
        args.events.to_string(),
        format!("{:.2}", spent.as_secs_f64()),
        format!("{:.0}", events / spent.as_secs_f64()),
        format!("{:.0}", raw_bytes as f64 / events),
        format!("{:.1}", stored as f64 / events),
    ]);
    table.print();
    say("\nDecoding runs on one thread, writing Parquet on another: `events/s` is for the two together.");
    Ok(())
}

/// Ships a log that was written before, then starts a trail on it: landed means past the rules.
async fn through_kafka(events: u64, brokers: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let dir = folder.path();
    let checkpoints = dir.join("checkpoints");
    // A log of its own in topics that are shared.
    let origin = format!("keytrail/bench/land-{}", std::process::id());
    let log = LogId::of_origin(&origin);
    let signer = LocalSigner::create(&checkpoints, &origin).context("make a signer")?;
    let (tree, end) = write_log(&dir.join("journal"), log, usize::try_from(events)?)?;
    let open = LocalSigner::open(&checkpoints).context("open the signer")?;
    open.sign(events, tree.root()).context("sign the log's head")?;
    let shipper = Shipper::start(ShipConfig {
        brokers: brokers.to_owned(),
        journal_dir: dir.join("journal"),
        checkpoints_dir: checkpoints,
        log,
        replication: Some(1),
    });
    let shipper = shipper.context("ship to Kafka")?;
    let start = Instant::now();
    while shipper.lag().shipped_seq < end {
        if start.elapsed() > PATIENCE {
            bail!("not shipped after {} s: {:?}", PATIENCE.as_secs(), shipper.lag());
        }
        tokio::time::sleep(LOOK).await;
    }
    let shipped = start.elapsed();
    shipper.shutdown();

    let rules = dir.join("rules");
    crate::shipped::write(&rules).context("write the shipped rules")?;
    let (signer, checkpoints) = (signer.into(), dir.join("checkpoints"));
    let watched =
        WatchedLog { origin, signer, checkpoints, frames: dir.join("spool").join(log.to_string()), spool: true };
    let config = crate::commands::node::bench_trail_config(dir, &rules, watched, brokers);
    let start = Instant::now();
    let trail = Trail::start(config).await.context("start the trail")?;
    let landed = |status: &Status| status.positions.get(&log.to_string()).is_some_and(|next_seq| *next_seq >= end);
    let mut status = trail.status();
    let waited = tokio::time::timeout(PATIENCE, status.wait_for(landed)).await;
    let spent = start.elapsed();
    waited.context("land the log")?.context("watch the trail")?;
    trail.shutdown().await.context("stop the trail")?;
    let rate = |duration: Duration| format!("{:.0}", events as f64 / duration.as_secs_f64());
    let mut table = Table::new(&["events", "shipped/s", "landed and judged/s", "stored B/event"]);
    let stored = size_of(&dir.join("lake/data"))? as f64 / events as f64;
    table.row(vec![events.to_string(), rate(shipped), rate(spent), format!("{stored:.1}")]);
    table.print();
    say(
        "\nLanding includes start-up and waiting for checkpoints; broker, consumer, rules and Parquet share the machine.",
    );
    Ok(())
}

/// A journal with the bench's stream in it; gives its tree and next seq.
fn write_log(dir: &Path, log: LogId, events: usize) -> anyhow::Result<(Tree, u64)> {
    let mut stream = Stream::of(log, 7);
    let mut journal = SpoolWriter::open(dir, log, (0, Link::ZERO), 64 << 20).context("make a journal")?;
    let mut tree = Tree::new();
    let mut left = events;
    while left > 0 {
        let frames: Vec<Frame> = stream.frames(left.min(BATCH)).into_iter().map(|sourced| sourced.frame).collect();
        left -= frames.len();
        frames.iter().for_each(|frame| tree.push(frame.leaf_hash()));
        journal.append(&frames).context("write the journal")?;
    }
    Ok((tree, journal.next_seq()))
}

fn size_of(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { size_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
