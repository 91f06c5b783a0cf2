//! `keytrail verify DIR`: prints the verdict on a data folder and on each log imported into it; exit code 0 only when
//! all are VERIFIED.

use super::say;
use super::witness::read_policy;
use crate::cli::VerifyArgs;
use chrono::{DateTime, Utc};
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::verify::{Report, Trusted, Verdict, verify_folder_trusting};
use keytrail_trail::import::{ImportedReport, ORIGIN_PREFIX, verify_imported};
use std::process::ExitCode;

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let key: Option<VerifyKey> = args.vkey.as_deref().map(super::read_key).transpose()?;
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let imported_key = key.as_ref().filter(|key| key.name().starts_with(ORIGIN_PREFIX));
    let imported = verify_imported(&args.dir, imported_key);
    let mut verdicts = Vec::new();
    // A folder may hold imports and nothing else; the key of one asks about that one.
    if imported_key.is_none() && (imported.is_empty() || args.dir.join("journal").exists()) {
        let trusted = Trusted { key: key.as_ref(), policy: policy.as_ref() };
        let report = verify_folder_trusting(&args.dir, trusted, |records| {
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
    if let Some(log) = report.log {
        lines.insert(0, format!("log         {log}"));
    }
    if let Some(checkpoint) = &report.checkpoint {
        lines.push(format!("origin      {}", checkpoint.origin));
        lines.push(format!("checkpoint  {} records, root {}", checkpoint.size, checkpoint.root));
    }
    if let Some(cosigned) = &report.cosigned {
        lines.push(format!("cosigned    {} records, by", cosigned.checkpoint.size));
        for (name, time_s) in &cosigned.witnesses {
            lines.push(format!("            {name} at {}", time(time_s.checked_mul(1_000_000))));
        }
    }
    if !report.key_is_trusted {
        lines.push("key         the folder's own: give --vkey FILE with a key you got elsewhere".to_owned());
    }
    lines
}
