//! A snapshot of evidence: how a key looks before anything is changed and what it was used for lately, with the alert's
//! records and their proofs, in one file under its own SHA-256.
//!
//! It must never keep containment waiting: whatever was not read within the budget is named as missing, and the file is
//! written all the same. Proofs need nothing but the file: records, inclusion proofs and a signed checkpoint are in it.
//! Whoever can write to `incidents/` can take bundles away or plant others; the SHA-256 on the timeline, which is in the log,
//! tells which ones are ours.

use crate::act::{Control, ControlError, aws};
use crate::intake::verify::VerifiedAlert;
use crate::outbox::Action;
use crate::store::{Micros, Store, StoreError};
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::signer::LATEST_NAME;
use keytrail_trail::alert::IMPORT_ORIGIN_PREFIX;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Time for all reads: a few milliseconds when the KMS is well.
const BUDGET: Duration = Duration::from_millis(500);
/// Largest alert that is kept; of a larger one the seqs are on the timeline.
const ALERT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pages of one list; beyond them the list is named as missing in part.
const PAGES_MAX: usize = 20;
/// Largest bundle: the alert, and lists of a key with the most grants and tags that a busy key has.
const BUNDLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Newest uses kept of the target.
const USES_MAX: usize = 50;
/// Records around the newest of the evidence in which uses are looked for: some tens of milliseconds' work for the KMS.
const RECORDS_BEFORE: u64 = 10_000;
const RECORDS_AFTER: u64 = 2_000;
/// Largest checkpoint note read.
const CHECKPOINT_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store.
    #[error("evidence cannot be read")]
    Store(#[from] StoreError),
    /// The folder or the file.
    #[error("bundle {path} cannot be written")]
    File {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A bundle that is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Hex SHA-256 of the file.
    pub sha256: String,
    /// Below the data folder.
    pub path: String,
    /// What could not be read in time.
    pub missing: Vec<String>,
}

/// Keeps the alert until its snapshot is taken; in the transaction that plans it.
pub(crate) fn keep(tx: &Transaction<'_>, action_id: &str, alert: &VerifiedAlert) -> Result<(), StoreError> {
    let text = serde_json::to_string(alert.alert()).map_err(|_| StoreError::Damaged("alert"))?;
    let text = if text.len() <= ALERT_BYTES_MAX { text } else { json!({ "omitted": text.len() }).to_string() };
    tx.execute("INSERT OR IGNORE INTO evidence_kept(action_id, alert) VALUES (?1, ?2)", params![action_id, text])?;
    Ok(())
}

/// The bundle has the alert: it need not be kept here any longer.
pub(crate) fn forget(tx: &Transaction<'_>, action_id: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM evidence_kept WHERE action_id = ?1", [action_id])?;
    Ok(())
}

/// Takes the snapshot, or finds the one that this action took before a crash.
pub async fn take(
    kms: &dyn Control,
    store: &Store,
    data_dir: &Path,
    action: &Action,
    now_us: Micros,
) -> Result<Bundle, SnapshotError> {
    let folder = data_dir.join("incidents").join(action.incident.as_str());
    if let Some(found) = find(&folder, action)? {
        return Ok(found);
    }
    let id = action.id.clone();
    let kept = store
        .read(move |db| {
            let sql = "SELECT alert FROM evidence_kept WHERE action_id = ?1";
            Ok(db.query_row(sql, [id], |row| row.get::<_, String>(0)).optional()?)
        })
        .await?;
    let alert: Option<Value> = kept.and_then(|text| serde_json::from_str(&text).ok());
    let mut reading = Reading { kms, until: Instant::now() + BUDGET, reads: Map::new(), missing: Vec::new() };
    if action.target.contains(":key/") {
        reading.key(&action.target).await;
    }
    match alert.as_ref().filter(|_| !aws::is_there(action)).and_then(newest_seq) {
        Some(seq) => reading.uses(&action.target, seq).await,
        // What was used elsewhere stands in no log of ours.
        None => reading.missing.push("GetUsage".to_owned()),
    }
    let Reading { reads, mut missing, .. } = reading;
    if alert.is_none() {
        missing.push("alert".to_owned());
    }
    let log_head = log_head(data_dir);
    let bundle = json!({
        "bundleVersion": 1, "incident": action.incident.as_str(), "actionId": action.id, "target": action.target,
        "takenAtMicros": now_us, "logHead": log_head, "alert": alert, "reads": reads, "missing": missing,
    });
    let mut text = bundle.to_string();
    if text.len() > BUNDLE_BYTES_MAX {
        missing.push("reads".to_owned());
        let mut smaller = bundle;
        smaller["reads"] = Value::Null;
        smaller["missing"] = json!(missing);
        text = smaller.to_string();
    }
    write(&folder, action, &text, missing)
}

/// Calls within the budget.
struct Reading<'a> {
    kms: &'a dyn Control,
    until: Instant,
    reads: Map<String, Value>,
    missing: Vec<String>,
}

impl Reading<'_> {
    async fn key(&mut self, key: &str) {
        for (operation, more) in [("DescribeKey", json!({})), ("GetKeyPolicy", json!({ "PolicyName": "default" }))] {
            match self.call(operation, key, more).await {
                Some(answer) => drop(self.reads.insert(operation.to_owned(), answer)),
                None => self.missing.push(operation.to_owned()),
            }
        }
        for (operation, list) in [("ListGrants", "Grants"), ("ListAliases", "Aliases"), ("ListResourceTags", "Tags")] {
            self.list(operation, list, key).await;
        }
    }

    async fn list(&mut self, operation: &str, list: &str, key: &str) {
        let (mut all, mut marker, mut whole) = (Vec::new(), None, false);
        for _ in 0..PAGES_MAX {
            let more = marker.take().map_or_else(|| json!({}), |marker: Value| json!({ "Marker": marker }));
            let Some(mut answer) = self.call(operation, key, more).await else { break };
            if let Some(Value::Array(entries)) = answer.get_mut(list).map(Value::take) {
                all.extend(entries);
            }
            match answer.get_mut("NextMarker").map(Value::take) {
                Some(next) if next.is_string() => marker = Some(next),
                _ => {
                    whole = true;
                    break;
                }
            }
        }
        self.reads.insert(operation.to_owned(), Value::Array(all));
        if !whole {
            self.missing.push(operation.to_owned());
        }
    }

    /// What was allowed with this key, or of this principal, around a place in the log: last of all, for it takes longest.
    async fn uses(&mut self, target: &str, seq: u64) {
        let (mut first, end) = (seq.saturating_sub(RECORDS_BEFORE), seq.saturating_add(RECORDS_AFTER));
        let (key, principal) = if target.contains(":key/") { (Some(target), None) } else { (None, Some(target)) };
        let (mut from, mut uses, mut whole) = (first, Vec::new(), false);
        for _ in 0..PAGES_MAX {
            let body = json!({
                "PrincipalArns": Vec::from_iter(principal), "KeyArns": Vec::from_iter(key), "FirstSeq": from,
                "EndSeq": end,
            });
            let Some(mut page) = self.ask("KeytrailService.GetUsage", body).await else { break };
            // The journal was pruned up to somewhere between: the evidence itself is younger.
            if page.get("refused").is_some_and(|code| code == "NotFoundException") && from == first && first < seq {
                (first, from) = (seq, seq);
                continue;
            }
            if page.get("refused").is_some() {
                self.reads.insert("GetUsage".to_owned(), page);
                return;
            }
            if let Some(Value::Array(more)) = page.get_mut("Uses").map(Value::take) {
                uses.extend(more);
            }
            let number = |name: &str| page.get(name).and_then(Value::as_u64);
            match (number("NextSeq"), number("EndSeq")) {
                (Some(next), Some(end)) if next < end && next > from => from = next,
                (Some(next), Some(end)) => {
                    (from, whole) = (next, next >= end);
                    break;
                }
                _ => break,
            }
        }
        uses.sort_by_key(|one| Reverse(one.get("LastSeq").and_then(Value::as_u64)));
        let more = uses.len().saturating_sub(USES_MAX);
        uses.truncate(USES_MAX);
        let found = json!({ "FirstSeq": first, "EndSeq": from, "Uses": uses, "MoreUses": more });
        self.reads.insert("GetUsage".to_owned(), found);
        if !whole {
            self.missing.push("GetUsage".to_owned());
        }
    }

    async fn call(&self, operation: &str, key: &str, mut body: Value) -> Option<Value> {
        body["KeyId"] = key.into();
        self.ask(&format!("TrentService.{operation}"), body).await
    }

    async fn ask(&self, target: &str, body: Value) -> Option<Value> {
        let call = self.kms.call(target, body, None);
        match tokio::time::timeout_at(self.until, call).await {
            Ok(Ok(answer)) => Some(answer.body),
            Ok(Err(ControlError::Refused { code, .. })) => Some(json!({ "refused": code })),
            Ok(Err(ControlError::Unreachable(_))) | Err(_) => None,
        }
    }
}

/// The newest record of an alert about our own log.
fn newest_seq(alert: &Value) -> Option<u64> {
    let origin = alert.get("origin")?.as_str()?;
    let evidence = alert.get("evidence")?.as_array().filter(|_| !origin.starts_with(IMPORT_ORIGIN_PREFIX))?;
    evidence.iter().filter_map(|one| one.get("seq")?.as_u64()).max()
}

/// The newest signed head of the log, if this folder has it.
fn log_head(data_dir: &Path) -> Option<String> {
    let file = File::open(data_dir.join("checkpoints").join(LATEST_NAME)).ok()?;
    let mut text = String::new();
    file.take(CHECKPOINT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// `<first of the action id>-<SHA-256>.json`: content-addressed, and found again by the action.
fn prefix(action: &Action) -> String {
    format!("{}-", action.id.get(..16).unwrap_or(&action.id))
}

fn find(folder: &Path, action: &Action) -> Result<Option<Bundle>, SnapshotError> {
    let failed = |source| SnapshotError::File { path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(hash) = name.strip_prefix(&prefix(action)).and_then(|rest| rest.strip_suffix(".json")) else {
            continue;
        };
        let path = entry.path();
        let bytes = fs::read(&path).map_err(failed)?;
        // Only a whole file was given this name; one that was changed since is not ours.
        if hex::encode(sha256(&[&bytes])) == hash {
            return Ok(Some(Bundle { sha256: hash.to_owned(), path: shown(action, &name), missing: Vec::new() }));
        }
    }
    Ok(None)
}

fn write(folder: &Path, action: &Action, text: &str, missing: Vec<String>) -> Result<Bundle, SnapshotError> {
    let hash = hex::encode(sha256(&[text.as_bytes()]));
    let name = format!("{}{hash}.json", prefix(action));
    let (part, path) = (folder.join(format!("{}part", prefix(action))), folder.join(&name));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SnapshotError::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
    let written =
        File::options().create(true).write(true).truncate(true).mode(0o600).open(&part).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(failed(&part))?;
    fs::rename(&part, &path).map_err(failed(&path))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
    Ok(Bundle { sha256: hash, path: shown(action, &name), missing })
}

fn shown(action: &Action, name: &str) -> String {
    format!("incidents/{}/{name}", action.incident.as_str())
}

impl Bundle {
    /// The line on the timeline.
    pub fn line(&self) -> String {
        let missing = match self.missing.as_slice() {
            [] => String::new(),
            missing => format!(", without {}", missing.join(", ")),
        };
        format!("sha256 {} in {}{missing}", self.sha256, self.path)
    }
}
