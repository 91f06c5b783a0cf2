//! `keytrail verify DIR`: prints the verdict on a data folder and on each log imported into it; exit code 0 only when
//! all are VERIFIED.

use super::say;
use crate::cli::VerifyArgs;
use anyhow::Context;
use chrono::{DateTime, Utc};
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::verify::{Report, Verdict, verify_folder_with};
use keytrail_trail::import::{ImportedReport, ORIGIN_PREFIX, verify_imported};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let key = args.vkey.as_deref().map(read_vkey).transpose()?;
    let imported_key = key.as_ref().filter(|key| key.name().starts_with(ORIGIN_PREFIX));
    let imported = verify_imported(&args.dir, imported_key);
    let mut verdicts = Vec::new();
    // A folder may hold imports and nothing else; the key of one asks about that one.
    if imported_key.is_none() && (imported.is_empty() || args.dir.join("journal").exists()) {
        let report = verify_folder_with(&args.dir, key.as_ref(), |records| {
            tracing::debug!(records, "checked");
        });
        say(&headline(&report.verdict));
        for line in details(&report) {
            say(&line);
        }
        verdicts.push(report.verdict);
    }
    for report in imported {
        say_imported(&report);
        verdicts.push(report.verdict);
    }
    Ok(exit_code(&verdicts))
}

/// The worst of them; a folder without any log is not verified.
fn exit_code(verdicts: &[Verdict]) -> ExitCode {
    let failed = verdicts.is_empty() || verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed { .. }));
    if failed {
        ExitCode::FAILURE
    } else if verdicts.iter().all(|verdict| *verdict == Verdict::Verified) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    }
}

fn say_imported(report: &ImportedReport) {
    say(&format!("imported log {}: {}", report.name, headline(&report.verdict)));
    say(&format!("records     {}", report.records));
    if let Some(checkpoint) = &report.checkpoint {
        say(&format!("origin      {}", checkpoint.origin));
        say(&format!("checkpoint  {} records, root {}", checkpoint.size, checkpoint.root));
    }
    if !report.key_is_trusted {
        say("key         the folder's own: give --vkey FILE with a key you got elsewhere");
    }
}

/// A verifier key from a file.
pub(crate) fn read_vkey(file: &Path) -> anyhow::Result<VerifyKey> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    text.trim().parse().with_context(|| format!("read the verifier key in {}", file.display()))
}

fn headline(verdict: &Verdict) -> String {
    let at = |seq: &Option<u64>| seq.map_or_else(String::new, |seq| format!(" seq {seq}"));
    match verdict {
        Verdict::Verified => "VERIFIED".to_owned(),
        Verdict::VerifiedUpTo { seq, reason } => format!("VERIFIED-UP-TO{}: {reason}", at(seq)),
        Verdict::Failed { seq, reason } => format!("FAILED{}: {reason}", at(seq)),
    }
}

fn details(report: &Report) -> Vec<String> {
    let time = |micros: Option<u64>| {
        let micros = micros.and_then(|micros| i64::try_from(micros).ok());
        micros.and_then(DateTime::<Utc>::from_timestamp_micros).map_or_else(|| "-".to_owned(), |time| time.to_rfc3339())
    };
    let mut lines = vec![
        format!("records     {} in {} batches, {} starts", report.records, report.batches, report.epochs),
        format!("first       {}", time(report.first_time_us)),
        format!("last        {}", time(report.last_time_us)),
    ];
    if report.first_seq > 0 {
        lines
            .insert(1, format!("pruned      {} records; verified from seq {0} under the checkpoint", report.first_seq));
    }
    if let Some(log) = report.log {
        lines.insert(0, format!("log         {log}"));
    }
    if let Some(checkpoint) = &report.checkpoint {
        lines.push(format!("origin      {}", checkpoint.origin));
        lines.push(format!("checkpoint  {} records, root {}", checkpoint.size, checkpoint.root));
    }
    if !report.key_is_trusted {
        lines.push("key         the folder's own: give --vkey FILE with a key you got elsewhere".to_owned());
    }
    lines
}
