//! Re-checks imported logs: from the lake's rows to leaves, chain and tree, and these against the signed checkpoint.
//!
//! Reads only and takes no lock. The key is the one beside the log unless the auditor brings another, as for a node's
//! own log (`keytrail_kms::verify`).

use super::{FOLDER, ORIGIN_PREFIX, describe};
use crate::lake::snapshot::Snapshot;
use crate::lake::writer::ReadLake;
use keytrail_kms::chain::{Checkpoint, LogId, Tree, VerifyKey};
use keytrail_kms::signer::{LATEST_NAME, SignedHead, VKEY_NAME};
use keytrail_kms::verify::Verdict;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What was found of one imported log.
#[derive(Clone, Debug)]
pub struct ImportedReport {
    /// Name of the import, or the log's id where nothing but its rows is there.
    pub name: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Records found intact.
    pub records: u64,
    /// The checkpoint, when its signature verifies.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the key was the caller's (true) or the folder's own.
    pub key_is_trusted: bool,
}

/// Verifies each imported log of the data folder `dir`, or the one that `key` is named after; none when there are none.
/// Reads every row.
pub fn verify_imported(dir: &Path, key: Option<&VerifyKey>) -> Vec<ImportedReport> {
    let failed = |name: &str, reason| ImportedReport {
        name: name.to_owned(),
        verdict: Verdict::Failed { seq: None, reason },
        records: 0,
        checkpoint: None,
        key_is_trusted: key.is_some(),
    };
    if let Some(key) = key {
        return match of_key(dir, key) {
            Ok(report) => vec![report],
            Err(reason) => vec![failed(key.name(), reason)],
        };
    }
    let names = super::names(dir);
    let lake = match ReadLake::open(&dir.join("lake")) {
        Ok(lake) => lake.into_snapshot(),
        Err(error) if names.is_empty() => {
            tracing::debug!(%error, "no imported logs, and no lake to look at");
            return Vec::new();
        }
        Err(error) => return names.iter().map(|name| failed(name, describe(&error))).collect(),
    };
    let mut seen = BTreeSet::new();
    let mut reports = Vec::new();
    for name in names {
        let folder = dir.join(FOLDER).join(&name);
        let report = folder_key(&folder).and_then(|key| {
            seen.insert(LogId::of_origin(key.name()));
            of_folder(&folder, &key, &lake)
        });
        reports.push(match report {
            Ok((verdict, records, checkpoint)) => {
                ImportedReport { name, verdict, records, checkpoint, key_is_trusted: false }
            }
            Err(reason) => failed(&name, reason),
        });
    }
    let orphans = lake.logs().iter().filter(|(log, state)| state.imported && !seen.contains(*log));
    let reason = || "rows without the folder of their import: nothing says what they should be".to_owned();
    reports.extend(orphans.map(|(log, _)| failed(&log.to_string(), reason())));
    reports
}

type Found = (Verdict, u64, Option<Checkpoint>);

/// The log that `key` is named after, in the folder that its origin names.
fn of_key(dir: &Path, key: &VerifyKey) -> Result<ImportedReport, String> {
    let origin = key.name().strip_prefix(ORIGIN_PREFIX).and_then(|rest| rest.rsplit_once('-'));
    let name = origin.map_or("", |(name, _)| name);
    super::check_name(name).map_err(|error| error.to_string())?;
    let lake = ReadLake::open(&dir.join("lake")).map_err(|error| describe(&error))?.into_snapshot();
    let (verdict, records, checkpoint) = of_folder(&dir.join(FOLDER).join(name), key, &lake)?;
    Ok(ImportedReport { name: name.to_owned(), verdict, records, checkpoint, key_is_trusted: true })
}

fn folder_key(folder: &Path) -> Result<VerifyKey, String> {
    read(folder, VKEY_NAME)?.trim().parse().map_err(|error| format!("vkey is no key: {error}"))
}

fn read(folder: &Path, name: &str) -> Result<String, String> {
    fs::read_to_string(folder.join(name)).map_err(|error| format!("{name} cannot be read: {error}"))
}

fn of_folder(folder: &Path, key: &VerifyKey, lake: &Snapshot) -> Result<Found, String> {
    let log = LogId::of_origin(key.name());
    let head = SignedHead::read(folder).map_err(|error| describe(&error))?;
    let Some(head) = head else {
        let rows = lake.logs().get(&log).map_or(0, |state| state.cut.next_seq);
        let reason = format!("{rows} records and no checkpoint");
        return Ok((Verdict::VerifiedUpTo { seq: None, reason }, 0, None));
    };
    let checkpoint =
        key.verify(&read(folder, LATEST_NAME)?).map_err(|error| format!("checkpoint: {}", describe(&error)))?;
    let mut tree = Tree::new();
    let mut roots = [(checkpoint.size, checkpoint.root), (head.size, head.root)].map(|wanted| (wanted, false));
    let mut note = |tree: &Tree| {
        for ((size, root), fits) in &mut roots {
            *fits |= *size == tree.size() && tree.root() == *root;
        }
    };
    note(&tree);
    let end = lake.leaf_hashes(log, 0, |leaf| {
        tree.push(leaf);
        if tree.size() == checkpoint.size || tree.size() == head.size {
            note(&tree);
        }
    });
    let records = tree.size();
    let failed = |seq, reason: String| Ok((Verdict::Failed { seq, reason }, records, Some(checkpoint.clone())));
    if let Err(error) = end {
        return failed(Some(records), describe(&error));
    }
    if let Some(((size, _), _)) = roots.iter().find(|((size, _), _)| *size > records) {
        return failed(Some(records), format!("{records} records, and a checkpoint over {size}"));
    }
    if let Some(((size, _), _)) = roots.iter().find(|(_, fits)| !fits) {
        return failed(None, format!("rows have another root than the one signed at size {size}"));
    }
    let verdict = match records - checkpoint.size {
        0 => Verdict::Verified,
        more => Verdict::VerifiedUpTo {
            seq: checkpoint.size.checked_sub(1),
            reason: format!("{more} records above the checkpoint"),
        },
    };
    Ok((verdict, records, Some(checkpoint)))
}
