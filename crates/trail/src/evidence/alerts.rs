//! Alerts of a period, exactly as the trail signed them.
//!
//! An alert holds payloads of its evidence under one signature. One that shows a withheld record therefore stays out as
//! a whole, and is counted.

use super::{IoError, io};
use crate::alert::{Alert, SignedAlert};
use crate::store::open_read_only;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// A line of `alerts/alerts.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AlertLine {
    /// The text that was signed.
    pub(super) alert: String,
    /// Base64.
    pub(super) signature: String,
}

impl AlertLine {
    /// The alert as it was signed; None if the signature is not 64 bytes of base64.
    pub(super) fn signed(&self) -> Option<SignedAlert> {
        let signature = BASE64.decode(&self.signature).ok()?.try_into().ok()?;
        Some(SignedAlert { json: self.alert.clone().into_bytes(), signature })
    }
}

/// Why alerts cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// trail.db.
    #[error("trail.db cannot be read")]
    Sqlite(#[from] rusqlite::Error),
    /// Not an alert.
    #[error("trail.db holds an alert that cannot be read")]
    Alert(#[from] serde_json::Error),
}

/// Writes `alerts.jsonl` and `vkey` into `folder`: the alerts that were raised in the period or are about events in it.
/// `hidden(log, seq)` says which records are withheld; the answer is the ids of the alerts that are with them.
pub(super) fn write(
    trail_db: &Path,
    folder: &Path,
    (from_us, to_us): (u64, u64),
    hidden: impl Fn(&str, u64) -> bool,
) -> Result<BTreeSet<String>, AlertsError> {
    fs::create_dir_all(folder).map_err(io("create", folder))?;
    let path = folder.join("alerts.jsonl");
    let mut out = BufWriter::new(File::create(&path).map_err(io("create", &path))?);
    let mut withheld = BTreeSet::new();
    if trail_db.is_file() {
        let db = open_read_only(trail_db)?;
        let vkey: Option<Vec<u8>> =
            db.query_row("SELECT value FROM meta WHERE key = 'alert_vkey'", [], |row| row.get(0)).optional()?;
        if let Some(vkey) = vkey {
            let path = folder.join("vkey");
            fs::write(&path, [&vkey[..], b"\n"].concat()).map_err(io("write", &path))?;
        }
        let mut statement = db.prepare("SELECT json, signature FROM alerts ORDER BY position")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (json, signature): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let alert: Alert = serde_json::from_slice(&json)?;
            if !touches(&alert, from_us, to_us) {
                continue;
            }
            if alert.evidence.iter().any(|evidence| hidden(&alert.log, evidence.seq)) {
                withheld.insert(alert.alert_id);
                continue;
            }
            let alert = String::from_utf8_lossy(&json).into_owned();
            let line = serde_json::to_string(&AlertLine { alert, signature: BASE64.encode(signature) })?;
            writeln!(out, "{line}").map_err(io("write", &path))?;
        }
    }
    out.flush().map_err(io("write", &path))?;
    Ok(withheld)
}

fn touches(alert: &Alert, from_us: u64, to_us: u64) -> bool {
    let micros = |time: i64| u64::try_from(time).unwrap_or(0);
    let raised = micros(alert.detected_at_micros);
    let (first, last) = (micros(alert.first_event_micros), micros(alert.last_event_micros));
    (from_us..to_us).contains(&raised) || (first < to_us && last >= from_us)
}
