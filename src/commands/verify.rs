//! `keytrail verify PATH`: prints the verdict on an evidence pack, or on a data folder and each log imported into it; exit
//! code 0 only when all are VERIFIED.

use super::say;
use super::witness::read_policy;
use crate::cli::VerifyArgs;
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use keytrail_kms::chain::GapDeclaration;
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::verify::{Report, Trusted, Verdict, verify_folder_trusting};
use keytrail_trail::evidence::verify::{self as evidence, Trust};
use keytrail_trail::import::{ImportedReport, ORIGIN_PREFIX, verify_imported};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let is_tar = args.path.is_file() && args.path.extension().is_some_and(|extension| extension == "tar");
    if is_tar || args.path.join("bagit.txt").is_file() {
        let keys = args.vkey.as_deref().map_or_else(|| Ok(Vec::new()), keys)?;
        return pack(&args, keys, is_tar);
    }
    if !args.head.is_empty() {
        bail!("--head is for evidence packs; a data folder is compared by `keytrail restore`");
    }
    let key: Option<VerifyKey> = args.vkey.as_deref().map(super::read_key).transpose()?;
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let imported_key = key.as_ref().filter(|key| key.name().starts_with(ORIGIN_PREFIX));
    let imported = verify_imported(&args.path, imported_key);
    let (mut verdicts, mut incomplete) = (Vec::new(), false);
    // A folder may hold imports and nothing else; the key of one asks about that one.
    if imported_key.is_none() && (imported.is_empty() || args.path.join("journal").exists()) {
        let operators = args.operators.as_deref().map_or_else(|| Ok(Vec::new()), keys)?;
        let trusted = Trusted { key: key.as_ref(), policy: policy.as_ref(), operators: &operators };
        let report = verify_folder_trusting(&args.path, trusted, |records| {
            tracing::debug!(records, "checked");
        });
        say(&match &report.gap {
            Some(_) if report.verdict == Verdict::Verified => "VERIFIED, but for a declared gap before it".to_owned(),
            Some(_) | None => headline(&report.verdict),
        });
        for line in details(&report) {
            say(&line);
        }
        // What follows a gap is never complete.
        incomplete = report.gap.is_some();
        verdicts.push(report.verdict);
    }
    for report in imported {
        say_imported(&report);
        verdicts.push(report.verdict);
    }
    Ok(exit_code(&verdicts, incomplete))
}

/// The worst of them; a folder without any log is not verified.
fn exit_code(verdicts: &[Verdict], incomplete: bool) -> ExitCode {
    let failed = verdicts.is_empty() || verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed { .. }));
    if failed {
        ExitCode::FAILURE
    } else if !incomplete && verdicts.iter().all(|verdict| *verdict == Verdict::Verified) {
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

/// Keys in a file, one a line.
fn keys(file: &Path) -> anyhow::Result<Vec<VerifyKey>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let keys: Result<Vec<VerifyKey>, _> = text.split_whitespace().map(str::parse).collect();
    let keys = keys.with_context(|| format!("read the verifier key in {}", file.display()))?;
    if keys.is_empty() {
        bail!("{} holds no verifier key", file.display());
    }
    Ok(keys)
}

fn pack(args: &VerifyArgs, vkeys: Vec<VerifyKey>, is_tar: bool) -> anyhow::Result<ExitCode> {
    let read = |file: &PathBuf| std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    let heads = args.head.iter().map(read).collect::<anyhow::Result<_>>()?;
    let trust = Trust { vkeys, heads, policy: args.policy.as_deref().map(read_policy).transpose()? };
    // Files of a tar are written out beside it: a pack may be larger than what /tmp holds.
    let beside = args.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unpacked = if is_tar {
        let folder = tempfile::tempdir_in(beside).context("make a folder for the files of the tar")?;
        if let Err(error) = evidence::unpack(&args.path, folder.path()) {
            say(&format!("FAILED {:#}", anyhow::Error::from(error)));
            return Ok(ExitCode::FAILURE);
        }
        Some(folder)
    } else {
        None
    };
    let report = evidence::verify(unpacked.as_ref().map_or(args.path.as_path(), |folder| folder.path()), &trust);
    say(&plain(&report.verdict.to_string()));
    for line in pack_details(&report) {
        say(&plain(&line));
    }
    Ok(match report.verdict {
        evidence::Verdict::Verified => ExitCode::SUCCESS,
        evidence::Verdict::VerifiedUpTo { .. } => ExitCode::from(2),
        evidence::Verdict::Failed(_) => ExitCode::FAILURE,
    })
}

/// A pack's own words must not move the cursor, nor end a line.
fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

fn pack_details(report: &evidence::Report) -> Vec<String> {
    let mut lines = vec![format!("records     {}", report.records)];
    if let Some(manifest) = &report.manifest {
        lines.push(format!("period      {} to {}", manifest.period.from, manifest.period.to));
        lines.push(format!("exported    {} by {}", manifest.created_at, manifest.exported_by));
        lines.push(format!("signed by   {}", manifest.evidence_vkey));
        for log in &manifest.logs {
            lines.push(format!("log         {} {}", log.log, log.origin));
            lines.push(format!("range       seq {} to {} of {}, root {}", log.first, log.last, log.size, log.root));
            lines.push(format!("withheld    {}, erased {}", log.withheld, log.erased));
        }
    }
    if !report.keys_are_trusted {
        lines.push(
            "key         the pack's own: give --vkey FILE or --policy FILE with a key you got elsewhere".to_owned(),
        );
    }
    lines
}

fn headline(verdict: &Verdict) -> String {
    let at = |seq: &Option<u64>| seq.map_or_else(String::new, |seq| format!(" seq {seq}"));
    match verdict {
        Verdict::Verified => "VERIFIED".to_owned(),
        Verdict::VerifiedUpTo { seq, reason } => format!("VERIFIED-UP-TO{}: {reason}", at(seq)),
        Verdict::Failed { seq, reason } => format!("FAILED{}: {reason}", at(seq)),
    }
}

/// What a declaration says.
pub(super) fn gap_lines(gap: &GapDeclaration) -> Vec<String> {
    let missing = match gap.missing() {
        Some((first, last)) => format!("records {first} to {last} are missing"),
        None if gap.recorded_change > gap.state_change => {
            format!("no record is known to be missing; keys went back from change {}", gap.recorded_change)
        }
        None => format!("its records are others than a checkpoint over {} says", gap.known_size),
    };
    vec![
        format!("gap         {} ended: {missing}", gap.former_origin),
        format!("former key  {}", gap.former_key),
        format!("held        {} records, root {}", gap.held_size, gap.held_root),
        format!("known       {} records, root {}", gap.known_size, gap.known_root.as_deref().unwrap_or("unknown")),
        format!("state       of change {}", gap.state_change),
        format!("because     {}", plain(&gap.reason)),
        format!("new log     {}", gap.origin),
    ]
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
    if let Some(gap) = &report.gap {
        lines.extend(gap_lines(&gap.declaration));
        lines.extend(gap.operators.iter().map(|key| format!("declared by {key}")));
    }
    if let Some(keys) = report.keys.as_ref().filter(|keys| !keys.transitions().is_empty()) {
        lines.push(format!("signed by   {}", keys.all().first().map(VerifyKey::to_string).unwrap_or_default()));
        for transition in keys.transitions() {
            lines.push(format!("            {} from seq {} on", transition.new_key, transition.size));
        }
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
