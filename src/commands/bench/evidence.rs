//! `keytrail bench evidence`: a pack of a whole log, exported and verified; the parts of verifying apart.

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchEvidenceArgs;
use anyhow::{Context, bail};
use keytrail_kms::chain::{LogId, Tree};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::signer::{CheckpointSigner, LocalSigner};
use keytrail_trail::evidence::verify::{Depth, Trust, Verdict, check_parquet, verify};
use keytrail_trail::evidence::{Request, Site, export};
use keytrail_trail::lake::{Lake, LakeOptions};
use keytrail_trail::land::{Lander, LanderOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Frames handed over at once.
const BATCH: usize = 4_096;
const ORIGIN: &str = "keytrail/bench/evidence";

pub(crate) async fn run(args: BenchEvidenceArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let dir = folder.path();
    land(dir, args.events).await?;
    let pack = dir.join("pack");
    let request = Request {
        dir: dir.to_owned(),
        from_us: 0,
        to_us: SystemClock.now_us(),
        now_us: SystemClock.now_us(),
        exported_by: "bench".to_owned(),
        tool: "bench".to_owned(),
        control_set: None,
        site: Site::default(),
        access: Vec::new(),
        remarks: Vec::new(),
        redaction: None,
        ocsf: false,
        nonce: String::new(),
        sample: 25,
        previous: None,
        policy: None,
        unrecorded: None,
        incidents: Vec::new(),
        out: pack.clone(),
    };
    let start = Instant::now();
    export(request).await.context("export")?;
    let exported = start.elapsed();
    let start = Instant::now();
    let report = verify(&pack, &Trust::default());
    let verified = start.elapsed();
    // No record of the bench is from now.
    if !matches!(report.verdict, Verdict::VerifiedUpTo { .. }) {
        bail!("the bench's own pack: {}", report.verdict);
    }
    let mut table = Table::new(&["step", "records", "seconds", "records/s"]);
    let mut row = |step: &str, spent: Duration| {
        let rate = args.events as f64 / spent.as_secs_f64();
        let seconds = format!("{:.2}", spent.as_secs_f64());
        table.row(vec![step.to_owned(), args.events.to_string(), seconds, format!("{rate:.0}")]);
    };
    row("export", exported);
    row("verify, everything", verified);
    for (step, depth) in [("of it Parquet: leaves", Depth::Leaves), ("of it Parquet: all columns", Depth::Columns)] {
        let start = Instant::now();
        let rows = check_parquet(&pack, depth).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        row(step, start.elapsed());
        if rows != args.events {
            bail!("{rows} rows instead of {}", args.events);
        }
    }
    table.print();
    say("\nVerifying runs on one core.");
    Ok(())
}

/// A log in the lake, with a signed head.
async fn land(dir: &Path, events: u64) -> anyhow::Result<()> {
    let log = LogId::of_origin(ORIGIN);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut stream = Stream::of(log, 7);
    let mut lander = Lander::new([], LanderOptions::for_logs([log]), Arc::clone(&clock), None);
    let (mut lake, _) = Lake::open(&dir.join("lake"), LakeOptions::default(), clock).context("open a lake")?;
    let mut tree = Tree::new();
    let mut left = usize::try_from(events)?;
    while left > 0 {
        let frames = stream.frames(left.min(BATCH));
        left -= frames.len();
        frames.iter().for_each(|frame| tree.push(frame.frame.leaf_hash()));
        for landed in &lander.land(frames).await.landed {
            lake.append(landed).context("append to the lake")?;
        }
        lake.maybe_seal().await.context("seal a file")?;
    }
    lake.flush().await.context("seal the last file")?;
    let checkpoints = dir.join("checkpoints");
    LocalSigner::create(&checkpoints, ORIGIN).context("make a signer")?;
    let signer = LocalSigner::open(&checkpoints).context("open the signer")?;
    signer.sign(events, tree.root()).context("sign the log's head")?;
    Ok(())
}
