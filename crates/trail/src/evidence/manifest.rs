//! `manifest.json`: what a pack says about itself, and the exporter's signature over it.
//!
//! Members and their meaning: docs/evidence.md. Readers ignore members that they do not know.

use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::chain::{NoteError, SigningKey, VerifyKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The only version written and read so far.
pub(super) const MANIFEST_VERSION: u32 = 1;

/// First line of the note.
const NOTE_TITLE: &str = "keytrail evidence pack v1";

/// First number that browsers do not have, as their numbers are doubles; the others stand in a manifest.
const NUMBER_END: u64 = 1 << 53;

/// The whole of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always `MANIFEST_VERSION`.
    pub version: u32,
    /// Program and version.
    pub tool: String,
    /// RFC 3339 UTC.
    pub created_at: String,
    /// Principal or operating-system user.
    pub exported_by: String,
    /// What the pack is about.
    pub period: Period,
    /// Name of the set of controls.
    pub control_set: Option<String>,
    /// What was withheld, and why.
    pub redaction: Option<RedactionNote>,
    /// Alerts of the period that are not in the pack, because their evidence was withheld.
    #[serde(default, deserialize_with = "number")]
    pub alerts_withheld: u64,
    /// Why the export is no event in the log; absent when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<String>,
    /// Verifier key of `manifest.note`.
    pub evidence_vkey: String,
    /// Keys of the CloudTrail digests.
    pub digest_keys: Vec<DigestKeyEntry>,
    /// The logs, sorted by id.
    pub logs: Vec<LogEntry>,
    /// Each file below `data/` but `manifest.json` and `manifest.note`.
    pub files: BTreeMap<String, FileEntry>,
}

/// A period; RFC 3339 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    /// Inclusive.
    pub from: String,
    /// Exclusive.
    pub to: String,
}

impl Period {
    /// Both ends as Unix microseconds, if they are times from 1970 on, and in order.
    pub fn micros(&self) -> Option<(u64, u64)> {
        let micros = |text: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
            u64::try_from(time.timestamp_micros()).ok()
        };
        Some((micros(&self.from)?, micros(&self.to)?)).filter(|(from, to)| from < to)
    }
}

/// The redaction of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactionNote {
    /// SQL condition of the rows withheld.
    pub r#where: String,
    /// Why.
    pub reason: String,
}

/// A public key of digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DigestKeyEntry {
    /// Hex, as digests name it.
    pub fingerprint: String,
    /// Base64 of PKCS#1 DER.
    pub public_key: String,
}

/// A log in a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Log id.
    pub log: String,
    /// Its origin.
    pub origin: String,
    /// Its verifier key.
    pub vkey: String,
    /// Whether its events came from elsewhere: their times are in no order then, and the range is the whole log.
    #[serde(default)]
    pub imported: bool,
    /// First seq in the pack.
    pub first: u64,
    /// Last one, inclusive.
    pub last: u64,
    /// Size of the checkpoint.
    pub size: u64,
    /// Its root, hex.
    pub root: String,
    /// Leaf time of `first`, Unix microseconds.
    pub time_first: u64,
    /// Leaf time of `last`.
    pub time_last: u64,
    /// Kind to number of records.
    pub counts: BTreeMap<String, u64>,
    /// Records whose payload is in the log, not in the pack.
    pub withheld: u64,
    /// Records whose payload is not in the log any more.
    pub erased: u64,
    /// CloudTrail log files, by index.
    pub cloudtrail: Vec<String>,
    /// Digest files, oldest first.
    pub digests: Vec<String>,
    /// Parquet files in seq order.
    pub parquet: Vec<String>,
}

/// A file in a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Hex.
    pub sha256: String,
    /// Length.
    pub bytes: u64,
}

/// Refuses a number that only some verifiers could read. The others of a manifest are compared with what they count.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let found = u64::deserialize(from)?;
    if found < NUMBER_END { Ok(found) } else { Err(D::Error::custom("a number of 2^53 or more")) }
}

/// The signed note over the bytes of a manifest.
pub(super) fn sign(manifest: &[u8], key: &SigningKey) -> String {
    key.sign_text(&note_text(manifest))
}

/// Whether `note` is that over the bytes of this manifest.
pub(super) fn check_note(manifest: &[u8], note: &str, key: &VerifyKey) -> Result<bool, NoteError> {
    Ok(key.verify_text(note)? == note_text(manifest))
}

fn note_text(manifest: &[u8]) -> String {
    format!("{NOTE_TITLE}\n{}\n", hex::encode(sha256(&[manifest])))
}
