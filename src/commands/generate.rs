//! `keytrail generate`: seeded traffic as CloudTrail files, with the labels of its attacks.

use super::say;
use crate::cli::GenerateArgs;
use anyhow::Context;
use keytrail_trail::generate::{Attacks, LABELS_FILE, Options, write};
use std::time::Instant;

pub(crate) async fn run(args: GenerateArgs) -> anyhow::Result<()> {
    let start = args.start.and_hms_opt(0, 0, 0).context("read the first day")?.and_utc();
    let attacks = args.attacks.then(|| Attacks {
        from_day: args.attacks_from.unwrap_or(args.days / 2),
        each: args.attacks_each,
        kinds: args.attack_kinds.clone(),
    });
    let options = Options {
        seed: args.seed,
        start_us: start.timestamp_micros(),
        days: args.days,
        principals: args.principals,
        events_per_day: args.events_per_day,
        attacks,
    };
    let (out, started) = (args.out.clone(), Instant::now());
    let written =
        tokio::task::spawn_blocking(move || write(&options, &out)).await.context("wait for the traffic")??;
    let secs = started.elapsed().as_secs_f64().max(0.001);
    say(&format!(
        "{} events in {} files, {:.1} MiB before packing, in {secs:.1} s, {:.0} events/s",
        written.events,
        written.files,
        written.bytes as f64 / f64::from(1 << 20),
        written.events as f64 / secs
    ));
    if written.attacks > 0 {
        say(&format!("{} attacks, labelled in {}", written.attacks, args.out.join(LABELS_FILE).display()));
    }
    say(&format!("keytrail import cloudtrail {} --data DIR --name NAME lands it", args.out.display()));
    Ok(())
}
