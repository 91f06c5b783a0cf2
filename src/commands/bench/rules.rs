//! `keytrail bench rules`: the shipped pack, and forty event and threshold rules, over Arrow batches.

use super::Table;
use super::stream::Stream;
use crate::cli::BenchRulesArgs;
use anyhow::Context;
use keytrail_kms::clock::SystemClock;
use keytrail_trail::lake::decode::decode;
use keytrail_trail::land::{Lander, LanderOptions};
use keytrail_trail::rule::{Engine, RuleSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of a batch; the budget speaks of batches from 1,000 rows.
const BATCH: usize = 4_096;

pub(crate) async fn run(args: BenchRulesArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let (shipped, forty) = (folder.path().join("shipped"), folder.path().join("forty"));
    crate::shipped::write(&shipped).context("write the shipped rules")?;
    crate::shipped::write_fixtures(&forty).context("write the fixtures")?;
    write_forty(&forty.join("bench")).context("write forty rules")?;
    let mut table = Table::new(&["rules", "events", "seconds", "events/s", "alerts", "last third / second third"]);
    for (name, dir) in [("shipped pack", &shipped), ("20 event + 20 threshold", &forty)] {
        let rules = Arc::new(RuleSet::load(dir).with_context(|| format!("load {name}"))?);
        let seen = evaluate(&rules, usize::try_from(args.events)?).await?;
        table.row(vec![
            format!("{name} ({})", rules.rules().len()),
            args.events.to_string(),
            format!("{:.2}", seen.spent().as_secs_f64()),
            format!("{:.0}", args.events as f64 / seen.spent().as_secs_f64()),
            seen.alerts.to_string(),
            format!("{:.2}", seen.thirds[2].as_secs_f64() / seen.thirds[1].as_secs_f64()),
        ]);
    }
    table.print();
    Ok(())
}

/// Time in the engine, by third: the windows fill up in the first, and after that the cost of an event must not depend
/// on the history before it.
struct Seen {
    thirds: [Duration; 3],
    alerts: usize,
}

impl Seen {
    fn spent(&self) -> Duration {
        self.thirds.iter().sum()
    }
}

async fn evaluate(rules: &Arc<RuleSet>, events: usize) -> anyhow::Result<Seen> {
    let mut engine = Engine::new(Arc::clone(rules));
    let mut stream = Stream::new(11);
    let mut lander = Lander::new([], LanderOptions::for_logs([stream.log()]), Arc::new(SystemClock), None);
    let mut seen = Seen { thirds: [Duration::ZERO; 3], alerts: 0 };
    let mut done = 0;
    while done < events {
        let frames = stream.frames((events - done).min(BATCH));
        let third = (3 * done / events).min(2);
        done += frames.len();
        for landed in lander.land(frames).await.landed {
            let batch = decode(&landed.frames);
            let start = Instant::now();
            seen.alerts += engine.process(&batch).context("evaluate a batch")?.len();
            seen.thirds[third] += start.elapsed();
        }
    }
    Ok(seen)
}

/// Rules like those that analysts write. Their limits are out of reach of the stream, so no alert is written; the
/// tests in them are what the loader asks for and are not run here.
fn write_forty(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let names = ["Decrypt", "GenerateDataKey", "Encrypt", "DescribeKey", "TagResource"];
    for index in 0..20 {
        let name = names[index % names.len()];
        let event = format!(
            "-- +++\n-- id = \"bench-event-{index}\"\n-- version = 1\n-- kind = \"event\"\n-- group_key = [\"principal_arn\"]\n-- dedup_period = \"1h\"\n\
             -- severity = \"low\"\n-- [[test]]\n-- name = \"fires\"\n\
             -- given = {{ fixture = \"decrypt\", set = {{ eventName = \"{name}\", sourceIPAddress = \"198.51.100.{index}\" }} }}\n\
             -- expect = {{ alerts = 1 }}\n-- [[test]]\n-- name = \"quiet\"\n\
             -- given = {{ fixture = \"decrypt\", set = {{ eventName = \"{name}\" }} }}\n-- expect = {{ alerts = 0 }}\n\
             -- +++\nSELECT principal_arn, key_arn FROM events\n\
             WHERE event_name = '{name}' AND source_ip = '198.51.100.{index}' AND actor_class <> 'service'\n"
        );
        std::fs::write(dir.join(format!("bench-event-{index}.sql")), event)?;
        let aggregate = if index % 2 == 0 { "count(*)" } else { "count(DISTINCT enc_context)" };
        let threshold = format!(
            "-- +++\n-- id = \"bench-threshold-{index}\"\n-- version = 1\n-- kind = \"threshold\"\n-- window = \"5m\"\n\
             -- group_key = [\"principal_arn\"]\n-- dedup_period = \"1h\"\n-- params = {{ limit = 65536 }}\n\
             -- threshold = {{ column = \"seen\", gte = \"$limit\" }}\n-- severity = \"medium\"\n-- [[test]]\n\
             -- name = \"fires\"\n\
             -- given = {{ fixture = \"decrypt\", set = {{ eventName = \"{name}\" }}, vary = \"requestParameters.encryptionContext.tenant\", repeat = 100000, spread = \"1m\" }}\n\
             -- expect = {{ alerts = 1 }}\n-- [[test]]\n-- name = \"quiet\"\n\
             -- given = {{ fixture = \"decrypt\", set = {{ eventName = \"{name}\" }} }}\n-- expect = {{ alerts = 0 }}\n\
             -- +++\nSELECT principal_arn, {aggregate} AS seen FROM events\n\
             WHERE event_name = '{name}' AND error_code IS NULL GROUP BY principal_arn\n"
        );
        std::fs::write(dir.join(format!("bench-threshold-{index}.sql")), threshold)?;
    }
    Ok(())
}
