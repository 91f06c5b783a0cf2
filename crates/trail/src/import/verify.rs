//! Re-checks imported logs: from the lake's rows to leaves, chain and tree, and these against the signed checkpoint.
//!
//! Reads only and takes no lock. The key is the one beside the log unless the auditor brings another, as for a node's
//! own log (`keytrail_kms::verify`).

use super::{FOLDER, describe};
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
}

/// Verifies each imported log of the data folder `dir`; none when there are none. Reads every row.
pub fn verify_imported(dir: &Path) -> Vec<ImportedReport> {
    let failed = |name: &str, reason| ImportedReport {
        name: name.to_owned(),
        verdict: Verdict::Failed { seq: None, reason },
        records: 0,
        checkpoint: None,
    };
    let mut names: Vec<String> = match fs::read_dir(dir.join(FOLDER)) {
        Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
        Err(_) => Vec::new(),
    };
    names.sort_unstable();
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
        match of_folder(&dir.join(FOLDER).join(&name), &lake, &mut seen) {
            Ok((verdict, records, checkpoint)) => {
                reports.push(ImportedReport { name, verdict, records, checkpoint });
            }
            Err(reason) => reports.push(failed(&name, reason)),
        }
    }
    let orphans = lake.logs().iter().filter(|(log, state)| state.imported && !seen.contains(*log));
    let reason = || "rows without the folder of their import: nothing says what they should be".to_owned();
    reports.extend(orphans.map(|(log, _)| failed(&log.to_string(), reason())));
    reports
}

type Found = (Verdict, u64, Option<Checkpoint>);

fn of_folder(folder: &Path, lake: &Snapshot, seen: &mut BTreeSet<LogId>) -> Result<Found, String> {
    let read = |name| fs::read_to_string(folder.join(name)).map_err(|error| format!("{name} cannot be read: {error}"));
    let key: VerifyKey = read(VKEY_NAME)?.trim().parse().map_err(|error| format!("vkey is no key: {error}"))?;
    let log = LogId::of_origin(key.name());
    seen.insert(log);
    let head = SignedHead::read(folder).map_err(|error| describe(&error))?;
    let Some(head) = head else {
        let rows = lake.logs().get(&log).map_or(0, |state| state.cut.next_seq);
        let reason = format!("{rows} records and no checkpoint");
        return Ok((Verdict::VerifiedUpTo { seq: None, reason }, 0, None));
    };
    let checkpoint = key.verify(&read(LATEST_NAME)?).map_err(|error| format!("checkpoint: {}", describe(&error)))?;
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
