//! `keytrail bench rules`: the shipped pack, and forty event and threshold rules, over Arrow batches; what each rule of the
//! pack costs; and what a million first-seen entities hold of memory.
//!
//! Time is the processor's for this thread: what one core can do, whatever else the machine does.

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchRulesArgs;
use anyhow::Context;
use keytrail_kms::clock::SystemClock;
use keytrail_trail::lake::decode::decode;
use keytrail_trail::land::{Lander, LanderOptions};
use keytrail_trail::rule::{Engine, RuleRun, RuleSet};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Rows of a batch; the budget speaks of batches from 1,000 rows.
const BATCH: usize = 4_096;

/// How many of the costliest rules are shown.
const COSTLIEST: usize = 12;

/// Entities of the budget for memory.
const ENTITIES: usize = 1_000_000;

pub(crate) async fn run(args: BenchRulesArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    // First, while the process is small: what the others leave with the allocator would hide what it takes.
    let memory = first_seen_memory(&folder.path().join("seen")).await?;
    let (shipped, forty) = (folder.path().join("shipped"), folder.path().join("forty"));
    crate::shipped::write(&shipped).context("write the shipped rules")?;
    crate::shipped::write_fixtures(&forty).context("write the fixtures")?;
    write_forty(&forty.join("bench")).context("write forty rules")?;
    let mut table = Table::new(&["rules", "events", "seconds", "events/s", "alerts", "last third / second third"]);
    let mut runs = Vec::new();
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
        if runs.is_empty() {
            runs = seen.runs;
        }
    }
    table.print();
    say("\nThe costliest of the shipped pack:\n");
    costliest(runs);
    say("");
    memory.print();
    Ok(())
}

/// Where the time of a pack goes.
fn costliest(mut runs: Vec<RuleRun>) {
    let whole: u64 = runs.iter().map(|run| run.micros).sum();
    runs.sort_by_key(|run| std::cmp::Reverse(run.micros));
    let mut table = Table::new(&["rule", "matched", "state entries", "ns/event", "share"]);
    for run in runs.into_iter().take(COSTLIEST) {
        table.row(vec![
            run.rule_id,
            run.matched.to_string(),
            run.state_entries.to_string(),
            format!("{:.0}", run.micros as f64 * 1_000.0 / run.events.max(1) as f64),
            format!("{:.0} %", run.micros as f64 * 100.0 / whole.max(1) as f64),
        ]);
    }
    table.print();
}

/// What a first_seen rule that has seen a million keys holds of memory, and with a copy of its state being written.
async fn first_seen_memory(dir: &Path) -> anyhow::Result<Table> {
    crate::shipped::write_fixtures(dir).context("write the fixtures")?;
    write_first_seen(&dir.join("bench")).context("write a rule")?;
    let rules = Arc::new(RuleSet::load(dir).context("load a rule")?);
    // So that what the process takes for decoding is there before.
    drop(evaluate(&rules, ENTITIES / 20).await?);
    let before = super::memory_bytes("self", "VmRSS")?;
    let mut seen = evaluate(&rules, ENTITIES).await?;
    let held = super::memory_bytes("self", "VmRSS")?.saturating_sub(before);
    let state = seen.engine.snapshot();
    let written = super::memory_bytes("self", "VmRSS")?.saturating_sub(before);
    let mebi = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new(&["first-seen entities", "resident MiB", "state MiB", "resident MiB with it written"]);
    table.row(vec![ENTITIES.to_string(), mebi(held), mebi(state.len() as u64), mebi(written)]);
    Ok(table)
}

/// Time in the engine, by third: the windows fill up in the first, and after that the cost of an event must not depend
/// on the history before it.
struct Seen {
    engine: Engine,
    thirds: [Duration; 3],
    alerts: usize,
    runs: Vec<RuleRun>,
}

impl Seen {
    fn spent(&self) -> Duration {
        self.thirds.iter().sum()
    }
}

async fn evaluate(rules: &Arc<RuleSet>, events: usize) -> anyhow::Result<Seen> {
    let engine = Engine::new(Arc::clone(rules));
    let mut stream = Stream::new(11);
    let mut lander = Lander::new([], LanderOptions::for_logs([stream.log()]), Arc::new(SystemClock), None);
    let mut seen = Seen { engine, thirds: [Duration::ZERO; 3], alerts: 0, runs: Vec::new() };
    let mut done = 0;
    while done < events {
        let frames = stream.frames((events - done).min(BATCH));
        let third = (3 * done / events).min(2);
        done += frames.len();
        for landed in lander.land(frames).await.landed {
            let batch = decode(&landed.frames);
            let start = thread_time();
            seen.alerts += seen.engine.process(&batch).context("evaluate a batch")?.len();
            seen.thirds[third] += thread_time().saturating_sub(start);
        }
    }
    seen.runs = seen.engine.take_runs();
    Ok(seen)
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A rule to which each event is new.
fn write_first_seen(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let rule = "-- +++\n-- id = \"bench-first-seen\"\n-- version = 1\n-- kind = \"first_seen\"\n-- group_key = [\"request_id\"]\n\
        -- dedup_period = \"1d\"\n-- first_seen = { keys = [\"request_id\"], history = \"30d\", learning = \"14d\", max_new_per_hour = 10 }\n\
        -- severity = \"low\"\n-- [[test]]\n-- name = \"fires\"\n-- given = { fixture = \"decrypt\" }\n-- expect = { alerts = 1 }\n\
        -- [[test]]\n-- name = \"quiet\"\n-- given = { fixture = \"decrypt\" }\n-- expect = { alerts = 0 }\n-- +++\n\
        SELECT request_id, principal_arn FROM events\nWHERE event_source = 'kms.amazonaws.com'\n";
    Ok(std::fs::write(dir.join("bench-first-seen.sql"), rule)?)
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
