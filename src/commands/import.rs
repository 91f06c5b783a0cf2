//! `keytrail import cloudtrail`: lands CloudTrail files, shows how far it is, says what came of it.
//!
//! Exit code 0 only when every file was read and nothing stopped it.

use super::progress::{Progress, left};
use super::say;
use crate::cli::{ImportArgs, ImportCommand};
use anyhow::Context;
use keytrail_kms::clock::SystemClock;
use keytrail_trail::import::{Bucket, Counters, Fault, Report, Source, import};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Faults and differing records that are printed; all are counted.
const PRINTED_MAX: usize = 100;

/// Pause between two looks for new files.
const FOLLOW_PAUSE: Duration = Duration::from_secs(10);

pub(crate) async fn run(ImportCommand::Cloudtrail(args): ImportCommand) -> anyhow::Result<ExitCode> {
    if args.follow {
        return follow(&args).await;
    }
    let source = source(&args)?;
    let counters = Arc::new(Counters::default());
    let mut signal = super::stop_signal()?;
    let stop = counters.clone();
    tokio::spawn(async move {
        signal.wait().await;
        stop.stop();
    });
    let watched = counters.clone();
    let progress = Progress::begin(move |took| state(&watched, took));
    let started = Instant::now();
    let imported = import(&args.data.data, &args.name, source, Arc::new(SystemClock), counters).await;
    progress.end().await;
    let report = imported.with_context(|| format!("import {}", args.source))?;
    for line in lines(&report, started.elapsed()) {
        say(&line);
    }
    Ok(if report.stopped || report.faults > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Imports what is new, again and again. A look that fails is told and tried again: whoever left this running is not there.
async fn follow(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let mut signal = super::stop_signal()?;
    // What cannot work is told at once.
    source(args)?;
    say(&format!("ready import={}", args.name));
    let mut last_fault = String::new();
    loop {
        let counters = Arc::new(Counters::default());
        let started = Instant::now();
        let clock = Arc::new(SystemClock);
        let importing = import(&args.data.data, &args.name, source(args)?, clock, Arc::clone(&counters));
        tokio::pin!(importing);
        let (imported, stopped) = tokio::select! {
            imported = &mut importing => (imported, false),
            () = signal.wait() => {
                counters.stop();
                (importing.await, true)
            }
        };
        match imported.with_context(|| format!("import {}", args.source)) {
            Ok(report) if report.landed > 0 => lines(&report, started.elapsed()).iter().for_each(|line| say(line)),
            Ok(_) => last_fault.clear(),
            Err(error) => {
                let fault = format!("{error:#}");
                if fault != last_fault {
                    tracing::error!(error = fault, "import failed, it is tried again");
                }
                last_fault = fault;
            }
        }
        let stopped = stopped
            || tokio::select! {
                () = signal.wait() => true,
                () = tokio::time::sleep(FOLLOW_PAUSE) => false,
            };
        if stopped {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn source(args: &ImportArgs) -> anyhow::Result<Source> {
    if !args.source.starts_with("s3://") {
        return Ok(Source::Local(args.source.clone().into()));
    }
    let bucket = Bucket::new(&args.source, |name| std::env::var(name).ok());
    Ok(Source::S3(Box::new(bucket.with_context(|| format!("reach {}", args.source))?)))
}

/// The report, a line each.
fn lines(report: &Report, took: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    let rate = report.landed as f64 / took.as_secs_f64().max(0.001);
    let nothing = report.landed == 0 && report.faults == 0 && !report.stopped;
    lines.push(match nothing {
        true => "nothing new".to_owned(),
        false => format!("landed      {} records in {:.1} s, {rate:.0}/s", report.landed, took.as_secs_f64()),
    });
    lines.push(format!(
        "files       {} read, {} known, {} passed over, {} failed",
        report.files, report.files_known, report.passed_over, report.faults
    ));
    lines.push(format!("duplicates  {}, and {} that differ under one eventID", report.duplicates, report.differing));
    lines.push(format!("odd         {} with parse_error, {} of them cut", report.unparsed, report.cut));
    lines.push(format!("log         {}", report.origin));
    let root = report.root.map_or_else(|| "-".to_owned(), |root| root.to_string());
    lines.push(format!("checkpoint  {} records, root {root}", report.size));
    lines.extend(named("differs", &report.differing_named, report.differing));
    lines.extend(named("failed", &report.faults_named, report.faults));
    if report.stopped {
        lines.push("stopped before the end; the same command goes on".to_owned());
    }
    lines
}

fn named(what: &str, faults: &[Fault], count: u64) -> Vec<String> {
    let printed = faults.iter().take(PRINTED_MAX);
    let mut lines: Vec<String> =
        printed.map(|Fault { name, reason }| format!("{what:<12}{}: {}", plain(name), plain(reason))).collect();
    let more = count.saturating_sub(lines.len() as u64);
    if more > 0 {
        lines.push(format!("{what:<12}and {more} more"));
    }
    lines
}

/// Names come from strangers: a terminal must not obey them.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

/// How much is done, and what there is to say of it.
fn state(counters: &Counters, took: Duration) -> (f64, String) {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (files, files_total) = (of(&counters.files), of(&counters.files_total));
    let (bytes, bytes_total) = (of(&counters.bytes), of(&counters.bytes_total));
    let (landed, waiting) = (of(&counters.landed), of(&counters.waiting));
    // Reading and writing take turns: what was read and is not written yet counts half.
    let read = if bytes_total == 0 { 0.0 } else { bytes as f64 / bytes_total as f64 };
    let found = of(&counters.found).max(landed + waiting);
    let written = if found == 0 { 0.0 } else { 1.0 - (found.saturating_sub(landed)) as f64 / found as f64 };
    let done = read * (0.5 + 0.5 * written.clamp(0.0, 1.0));
    let rate = landed as f64 / took.as_secs_f64().max(0.001);
    let left = left(done, took);
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let text = format!(
        "{files}/{files_total} files, {:.1}/{:.1} MiB, {landed} records, {rate:.0}/s, {left}",
        megabytes(bytes),
        megabytes(bytes_total)
    );
    (done, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_how_far_and_how_long() {
        let counters = Counters::default();
        let (done, text) = state(&counters, Duration::from_secs(1));
        assert_eq!((done, text.as_str()), (0.0, "0/0 files, 0.0/0.0 MiB, 0 records, 0/s, - left"));
        for (counter, value) in [
            (&counters.files_total, 4),
            (&counters.files, 2),
            (&counters.bytes_total, 8 << 20),
            (&counters.bytes, 4 << 20),
            (&counters.found, 1_000),
            (&counters.landed, 1_000),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
        let (done, text) = state(&counters, Duration::from_secs(10));
        assert_eq!((done, text.as_str()), (0.5, "2/4 files, 4.0/8.0 MiB, 1000 records, 100/s, 0:10 left"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let fault = Fault { name: "a\x1b]0;x\x07".into(), reason: "b\nc".into() };
        assert_eq!(
            named("failed", &[fault], 3),
            ["failed      a\u{fffd}]0;x\u{fffd}: b\u{fffd}c", "failed      and 2 more"]
        );
    }
}
