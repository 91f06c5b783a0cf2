//! `keytrail log index update|check`: which logs a cluster has, and whether all of them are still there.

use super::{read_key, say};
use crate::cli::IndexCommand;
use anyhow::{Context, bail};
use keytrail_kms::chain::VerifyKey;
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::gap;
use keytrail_kms::index::{ClusterIndex, Fault, INDEX_BYTES_MAX, SeenLog};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

pub(crate) fn run(command: IndexCommand) -> anyhow::Result<()> {
    match command {
        IndexCommand::Update { file, key, node, retire } => update(&file, &key, &node, &retire),
        IndexCommand::Check { file, vkey, node } => check(&file, &vkey, &node),
    }
}

fn update(file: &Path, key: &Path, nodes: &[PathBuf], retire: &[String]) -> anyhow::Result<()> {
    let key = gap::operator(key).context("read the key")?;
    let note = read(file)?;
    let before = note.as_deref().map(|note| ClusterIndex::parse(note, key.verify_key()));
    let before = before.transpose().with_context(|| format!("read {}", file.display()))?;
    let made_s = SystemClock.now_us() / 1_000_000;
    let next = ClusterIndex::next(before.as_ref().zip(note.as_deref()), seen(nodes)?, retire, made_s)?;
    let next = match next {
        Ok(next) => next,
        Err(faults) => return Err(failed(&faults)),
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder).context("make the next edition")?;
    fresh
        .write_all(next.sign(&key).as_bytes())
        .and_then(|()| fresh.as_file().sync_all())
        .context("write the next edition")?;
    fresh.persist(file).with_context(|| format!("replace {}", file.display()))?;
    say(&format!(
        "edition {} of {}: {} logs, signed by {}",
        next.edition,
        next.cluster,
        next.logs.len(),
        key.verify_key()
    ));
    Ok(())
}

fn check(file: &Path, vkey: &Path, nodes: &[PathBuf]) -> anyhow::Result<()> {
    let key: VerifyKey = read_key(vkey)?;
    let note = read(file)?.with_context(|| format!("{} does not exist", file.display()))?;
    let index = ClusterIndex::parse(&note, &key).with_context(|| format!("read {}", file.display()))?;
    say(&format!("edition {} of {}, {} logs", index.edition, index.cluster, index.logs.len()));
    let faults = index.check(seen(nodes)?)?;
    for log in &index.logs {
        let fault = faults.iter().find(|(origin, _)| origin == log.key.name());
        let state = if log.retired { " retired" } else { "" };
        let found = fault.map_or_else(|| "ok".to_owned(), |(_, fault)| fault.to_string());
        say(&format!("{} from {} to {} records{state}: {found}", log.key.name(), log.first.0, log.last.0));
    }
    if faults.is_empty() { Ok(()) } else { Err(failed(&faults)) }
}

fn failed(faults: &[(String, Fault)]) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(|(origin, fault)| format!("{origin} {fault}")).collect();
    anyhow::anyhow!("the logs are not those of the index: {}", lines.join("; "))
}

fn seen(nodes: &[PathBuf]) -> anyhow::Result<Vec<SeenLog>> {
    nodes.iter().map(|node| Ok(SeenLog::read(node)?)).collect()
}

/// The whole file; None when there is none.
fn read(file: &Path) -> anyhow::Result<Option<String>> {
    let opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("read {}", file.display()))?,
    };
    let mut text = String::new();
    opened.take(INDEX_BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("read {}", file.display()))?;
    if text.len() as u64 > INDEX_BYTES_MAX {
        bail!("{} is longer than 64 KiB", file.display());
    }
    Ok(Some(text))
}
