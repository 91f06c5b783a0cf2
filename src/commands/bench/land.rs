//! `keytrail bench land`: from a frame's bytes over verification and Arrow to committed Parquet.

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchLandArgs;
use anyhow::{Context, bail};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_trail::lake::{Lake, LakeOptions};
use keytrail_trail::land::{Lander, LanderOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames handed over at once, as the trail's loop does under load.
const BATCH: usize = 4_096;

pub(crate) async fn run(args: BenchLandArgs) -> anyhow::Result<()> {
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

fn size_of(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { size_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
