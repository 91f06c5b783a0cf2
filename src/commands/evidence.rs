//! `keytrail evidence`: `export` makes a pack of a period from a data folder, beside a running service or without one;
//! `rerun` computes a pack's controls again.

mod access;
mod record;

use super::{evidence_serve, say};
use crate::cli::{EvidenceCommand, EvidenceExportArgs};
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_responder::incident;
use keytrail_trail::evidence::{self, Redaction, Request, Site};
use keytrail_trail::query::printable;
use std::path::Path;
use std::process::ExitCode;

/// Longest `controls.toml` in bytes.
const SITE_BYTES_MAX: u64 = 1 << 20;

pub(crate) async fn run(command: EvidenceCommand) -> anyhow::Result<ExitCode> {
    match command {
        EvidenceCommand::Export(args) => export(args).await.map(|()| ExitCode::SUCCESS),
        EvidenceCommand::Serve(args) => evidence_serve::run(args).await.map(|()| ExitCode::SUCCESS),
        EvidenceCommand::Rerun { pack } => rerun(&pack).await,
    }
}

async fn rerun(pack: &Path) -> anyhow::Result<ExitCode> {
    let unpacked = unpacked(pack)?;
    let folder = unpacked.as_ref().map_or(pack, |folder| folder.path());
    let rerun = evidence::rerun(folder).await.with_context(|| format!("rerun the controls of {}", pack.display()))?;
    for file in &rerun.other_sql {
        tracing::warn!("{} is not the SQL that this build has for the clause: read it", printable(file));
    }
    for (file, why) in &rerun.differences {
        say(&printable(&format!("DIFFERS {file} {why}")));
    }
    if !rerun.differences.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("EQUAL {} controls give the same rows and verdicts", rerun.controls));
    Ok(ExitCode::SUCCESS)
}

/// The files of a tar, beside it: a pack may be larger than what /tmp holds.
fn unpacked(pack: &Path) -> anyhow::Result<Option<tempfile::TempDir>> {
    if !pack.is_file() {
        return Ok(None);
    }
    let beside = pack.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(beside).context("make a folder for the files of the tar")?;
    evidence::verify::unpack(pack, folder.path()).with_context(|| format!("unpack {}", pack.display()))?;
    Ok(Some(folder))
}

/// The site's values for controls; none without the file.
fn site(dir: &Path) -> anyhow::Result<Site> {
    let path = dir.join("controls.toml");
    if !path.exists() {
        return Ok(Site::default());
    }
    let bytes = std::fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.len();
    if bytes > SITE_BYTES_MAX {
        bail!("{} has {bytes} bytes, the limit is {SITE_BYTES_MAX}", path.display());
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Site::parse(&text).with_context(|| format!("use {}", path.display()))
}

async fn export(args: EvidenceExportArgs) -> anyhow::Result<()> {
    let (from_us, to_us) = (args.from, args.to);
    let (dir, out) = (args.data.data, args.out);
    let (access, remarks) = access::at(&dir, to_us).await?;
    let unrecorded = record::impossible(&dir, args.unrecorded);
    let earlier = args.previous.as_deref().map(unpacked).transpose()?.flatten();
    let previous = earlier.as_ref().map(|folder| folder.path().to_owned()).or(args.previous);
    let request = Request {
        incidents: incidents(&dir, from_us, to_us)?,
        policy: policy(&dir)?,
        previous,
        unrecorded: unrecorded.clone(),
        from_us,
        to_us,
        now_us: now_us()?,
        exported_by: super::operator(),
        tool: concat!("keytrail ", env!("CARGO_PKG_VERSION")).to_owned(),
        control_set: args.control_set,
        site: site(&dir)?,
        access,
        remarks,
        redaction: args.redact.zip(args.reason).map(|(condition, reason)| Redaction { condition, reason }),
        ocsf: args.ocsf,
        nonce: args.nonce,
        sample: args.sample,
        out: out.clone(),
        dir: dir.clone(),
    };
    let sealed = evidence::seal(request).await.with_context(|| format!("export {}", out.display()))?;
    let recorded = match &unrecorded {
        Some(why) => format!("NOT in the log: {why}"),
        None => {
            let seq = record::write(&dir, record::body(&sealed.exported), args.passphrase_file.as_deref()).await;
            let seq = seq.context("record the export in the log; --unrecorded is for a copy of a data folder")?;
            format!("in the log, seq {seq}")
        }
    };
    let exported = sealed.publish()?;
    for notice in &exported.notices {
        tracing::warn!("{notice}");
    }
    say(&format!("pack        {}", out.display()));
    for log in &exported.manifest.logs {
        let records = log.last - log.first + 1;
        say(&format!("log         {} seq {} to {}, {records} records of {}", log.log, log.first, log.last, log.size));
        say(&format!("withheld    {}, erased {}", log.withheld, log.erased));
    }
    say(&format!("signed by   {}", exported.manifest.evidence_vkey));
    say(&format!("recorded    {recorded}"));
    Ok(())
}

/// The node's trust policy, where its configuration names one.
fn policy(dir: &Path) -> anyhow::Result<Option<String>> {
    let file = dir.join("keytrail.toml");
    if !file.is_file() {
        return Ok(None);
    }
    let Some(quorum) = Config::read(&file)?.quorum else { return Ok(None) };
    // Parsed for its bounds and errors; the pack gets the operator's own words.
    super::witness::read_policy(&quorum.policy_file)?;
    let text = std::fs::read_to_string(&quorum.policy_file);
    text.map(Some).with_context(|| format!("read {}", quorum.policy_file.display()))
}

/// What became of alerts; a folder without a responder has no incidents.
fn incidents(dir: &Path, from_us: u64, to_us: u64) -> anyhow::Result<Vec<serde_json::Value>> {
    if !dir.join("responder.db").is_file() {
        return Ok(Vec::new());
    }
    let (from_us, to_us) = (i64::try_from(from_us)?, i64::try_from(to_us)?);
    let incidents = incident::between(dir, from_us, to_us).context("read the incidents")?;
    incidents.iter().map(|incident| serde_json::to_value(incident).context("encode an incident")).collect()
}

fn now_us() -> anyhow::Result<u64> {
    u64::try_from(chrono::Utc::now().timestamp_micros()).context("the clock is before 1970")
}
