//! `keytrail evidence export`: a pack of a period from a data folder, beside a running service or without one.

use super::{evidence_serve, say};
use crate::cli::{EvidenceCommand, EvidenceExportArgs};
use anyhow::Context;
use keytrail_responder::incident;
use keytrail_trail::evidence::{self, Redaction, Request};
use std::path::Path;

pub(crate) async fn run(command: EvidenceCommand) -> anyhow::Result<()> {
    match command {
        EvidenceCommand::Export(args) => export(args).await,
        EvidenceCommand::Serve(args) => evidence_serve::run(args).await,
    }
}

async fn export(args: EvidenceExportArgs) -> anyhow::Result<()> {
    let (from_us, to_us) = (args.from, args.to);
    let out = args.out;
    let request = Request {
        incidents: incidents(&args.data.data, from_us, to_us)?,
        dir: args.data.data,
        from_us,
        to_us,
        now_us: now_us()?,
        exported_by: operator(),
        tool: concat!("keytrail ", env!("CARGO_PKG_VERSION")).to_owned(),
        control_set: None,
        redaction: args.redact.zip(args.reason).map(|(condition, reason)| Redaction { condition, reason }),
        ocsf: args.ocsf,
        nonce: args.nonce,
        sample: args.sample,
        out: out.clone(),
    };
    let exported = evidence::export(request).await.with_context(|| format!("export {}", out.display()))?;
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
    Ok(())
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

/// The operating system's user, by the name that the machine knows it by.
fn operator() -> String {
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}
