//! `keytrail bench replay`: another key policy, and another identity policy, on a log of many calls.

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchReplayArgs;
use crate::commands::policy::replay;
use anyhow::{Context, bail};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::past::Replacement;
use keytrail_trail::lake::{Lake, LakeOptions};
use keytrail_trail::land::{Lander, LanderOptions};
use keytrail_trail::query::open_folder;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 4_096;

pub(crate) async fn run(args: BenchReplayArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let mut stream = Stream::new(7);
    let key = stream.key_arn(0);
    // Who may do what must be in the log before the calls are.
    write(&mut stream, usize::try_from(args.events)?, &folder.path().join("lake")).await?;
    let snapshot = Arc::new(open_folder(folder.path()).await.context("open the lake")?);
    let by_context = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{account}:root"}},"Action":"kms:*","Resource":"*",
            "Condition":{{"StringEquals":{{"kms:EncryptionContext:purpose":"orders"}}}}}}]}}"#,
        account = super::ACCOUNT
    );
    let only_decrypt =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"kms:Decrypt","Resource":"*"}]}"#;
    let managed = format!("arn:aws:iam::{}:policy/service", super::ACCOUNT);
    let tried = [
        ("key policy of one key of 200", Replacement::key(&key, &by_context).context("parse the key policy")?),
        ("managed policy of all 300 callers", Replacement::identity(&managed, only_decrypt).context("parse")?),
    ];
    let mut table = Table::new(&["tried", "calls in the log", "judged", "denied", "untold", "seconds", "calls/s"]);
    for (name, replacement) in tried {
        let start = Instant::now();
        let (snapshot, replacement) = (Arc::clone(&snapshot), replacement);
        let replayed = tokio::task::spawn_blocking(move || replay(&snapshot, &replacement, &(0..u64::MAX)));
        let replayed = replayed.await.context("join the replay")??;
        let seconds = start.elapsed().as_secs_f64();
        table.row(vec![
            name.to_owned(),
            args.events.to_string(),
            replayed.calls.to_string(),
            replayed.denied.to_string(),
            replayed.untold.to_string(),
            format!("{seconds:.2}"),
            format!("{:.0}", args.events as f64 / seconds),
        ]);
    }
    table.print();
    say("\nThe stream denies one call of 500 at random, which no policy reproduces: those are the untold ones.");
    Ok(())
}

async fn write(stream: &mut Stream, events: usize, dir: &Path) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut lander = Lander::new([], LanderOptions::for_logs([stream.log()]), Arc::clone(&clock), None);
    let (mut lake, _) = Lake::open(dir, LakeOptions::default(), clock).context("open a lake")?;
    let mut frames = stream.beginning();
    let mut left = events;
    loop {
        let outcome = lander.land(frames).await;
        if !outcome.findings.is_empty() {
            bail!("the bench's own stream did not verify: {:?}", outcome.findings);
        }
        for landed in &outcome.landed {
            lake.append(landed).context("append to the lake")?;
        }
        lake.maybe_seal().await.context("seal a file")?;
        if left == 0 {
            break;
        }
        frames = stream.frames(left.min(BATCH));
        left -= frames.len();
    }
    lake.flush().await.context("seal the last file")?;
    Ok(())
}
