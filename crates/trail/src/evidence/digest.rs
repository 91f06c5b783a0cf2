//! CloudTrail digest files: one an hour for each account and region, also of hours without events, each naming the one
//! before by hash and signature. `aws cloudtrail validate-logs` reads them; the strings signed are AWS's.

use super::cloudtrail::{HOUR_US, LogFile, Place};
use super::keys::{DigestKey, KeyFileError};
use super::{IoError, io, time};
use flate2::Compression;
use flate2::write::GzEncoder;
use keytrail_kms::chain::leaf::sha256;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Bucket that object names are in; there is none, but signatures cover the name.
pub(super) const BUCKET: &str = "keytrail-evidence";
/// Where objects lie below the pack's payload.
pub(super) const OBJECTS: &str = "cloudtrail/";
/// Most hours of a range: ten years of hourly digests.
const HOURS_MAX: u64 = 10 * 366 * 24;

/// A digest, members as AWS documents them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Digest {
    pub(super) aws_account_id: String,
    pub(super) digest_start_time: String,
    pub(super) digest_end_time: String,
    pub(super) digest_s3_bucket: String,
    pub(super) digest_s3_object: String,
    pub(super) digest_public_key_fingerprint: String,
    pub(super) digest_signature_algorithm: String,
    pub(super) newest_event_time: Option<String>,
    pub(super) oldest_event_time: Option<String>,
    pub(super) previous_digest_s3_bucket: Option<String>,
    pub(super) previous_digest_s3_object: Option<String>,
    pub(super) previous_digest_hash_value: Option<String>,
    pub(super) previous_digest_hash_algorithm: Option<String>,
    pub(super) previous_digest_signature: Option<String>,
    pub(super) log_files: Vec<DigestLogFile>,
    /// Ours: the signed root that the records are proved under.
    pub(super) keytrail_checkpoint: String,
}

/// A log file in a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DigestLogFile {
    pub(super) s3_bucket: String,
    pub(super) s3_object: String,
    pub(super) hash_value: String,
    pub(super) hash_algorithm: String,
    pub(super) newest_event_time: String,
    pub(super) oldest_event_time: String,
}

/// Why digests were not written.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// A file.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Signing.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Encoding.
    #[error("digest cannot be encoded")]
    Encode(#[from] serde_json::Error),
    /// The range is longer than [`HOURS_MAX`].
    #[error("range of {0} hours is too long for hourly digests: export shorter periods")]
    Hours(u64),
}

/// What all digests of a log have in common.
pub(super) struct DigestLog<'a> {
    /// The pack's payload folder.
    pub(super) root: &'a Path,
    pub(super) log8: &'a str,
    pub(super) checkpoint: &'a str,
    pub(super) key: &'a DigestKey,
}

/// The digest before, in its chain.
struct Previous {
    object: String,
    hash: String,
    signature: String,
}

impl DigestLog<'_> {
    /// Writes the digests of all hours from that of `first_us` to that of `last_us`; gives their paths, oldest first.
    pub(super) fn write(&self, files: &[LogFile], first_us: u64, last_us: u64) -> Result<Vec<String>, DigestError> {
        let hours = first_us / HOUR_US..=last_us / HOUR_US;
        let count = hours.end().saturating_sub(*hours.start()) + 1;
        if count > HOURS_MAX {
            return Err(DigestError::Hours(count));
        }
        let places: BTreeSet<&Place> = files.iter().map(|file| &file.place).collect();
        let mut of_hour: BTreeMap<(u64, &Place), Vec<&LogFile>> = BTreeMap::new();
        for file in files {
            of_hour.entry((file.oldest_us / HOUR_US, &file.place)).or_default().push(file);
        }
        let mut chains: BTreeMap<&Place, Previous> = BTreeMap::new();
        let mut paths = Vec::new();
        for hour in hours {
            for place in &places {
                let files = of_hour.get(&(hour, place)).map_or(&[][..], Vec::as_slice);
                let written = self.write_one(place, hour, files, chains.get(place))?;
                paths.push(format!("{OBJECTS}{}", written.object));
                chains.insert(place, written);
            }
        }
        Ok(paths)
    }

    fn write_one(
        &self,
        place: &Place,
        hour: u64,
        files: &[&LogFile],
        previous: Option<&Previous>,
    ) -> Result<Previous, DigestError> {
        let digest = self.digest(place, hour, files, previous);
        let bytes = serde_json::to_vec(&digest)?;
        let hash = hex::encode(sha256(&[&bytes]));
        let signature = self.key.sign(string_to_sign(&digest, &hash).as_bytes())?;
        let object = digest.digest_s3_object;
        let path = self.root.join(format!("{OBJECTS}{object}"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("create", folder))?;
        }
        let mut out = GzEncoder::new(Vec::new(), Compression::default());
        let packed = out.write_all(&bytes).and_then(|()| out.finish()).map_err(io("pack", &path))?;
        fs::write(&path, packed).map_err(io("write", &path))?;
        let beside = self.root.join(format!("{OBJECTS}{object}.signature"));
        fs::write(&beside, &signature).map_err(io("write", &beside))?;
        Ok(Previous { object, hash, signature })
    }

    fn digest(&self, place: &Place, hour: u64, files: &[&LogFile], previous: Option<&Previous>) -> Digest {
        let Place { account, region } = place;
        let end = time((hour + 1) * HOUR_US);
        let seconds = |time_us| time(time_us).format("%Y-%m-%dT%H:%M:%SZ").to_string();
        let object = format!(
            "AWSLogs/{account}/CloudTrail-Digest/{region}/{}/{account}_CloudTrail-Digest_{region}_keytrail-{}_{region}_{}.json.gz",
            end.format("%Y/%m/%d"),
            self.log8,
            end.format("%Y%m%dT%H%M%SZ"),
        );
        let log_file = |file: &&LogFile| DigestLogFile {
            s3_bucket: BUCKET.to_owned(),
            s3_object: file.path.strip_prefix(OBJECTS).unwrap_or(&file.path).to_owned(),
            hash_value: file.sha256.clone(),
            hash_algorithm: "SHA-256".to_owned(),
            newest_event_time: seconds(file.newest_us),
            oldest_event_time: seconds(file.oldest_us),
        };
        Digest {
            aws_account_id: account.clone(),
            digest_start_time: seconds(hour * HOUR_US),
            digest_end_time: seconds((hour + 1) * HOUR_US),
            digest_s3_bucket: BUCKET.to_owned(),
            digest_s3_object: object,
            digest_public_key_fingerprint: self.key.fingerprint(),
            digest_signature_algorithm: "SHA256withRSA".to_owned(),
            newest_event_time: files.iter().map(|file| file.newest_us).max().map(seconds),
            oldest_event_time: files.iter().map(|file| file.oldest_us).min().map(seconds),
            previous_digest_s3_bucket: previous.map(|_| BUCKET.to_owned()),
            previous_digest_s3_object: previous.map(|previous| previous.object.clone()),
            previous_digest_hash_value: previous.map(|previous| previous.hash.clone()),
            previous_digest_hash_algorithm: previous.map(|_| "SHA-256".to_owned()),
            previous_digest_signature: previous.map(|previous| previous.signature.clone()),
            log_files: files.iter().map(log_file).collect(),
            keytrail_checkpoint: self.checkpoint.to_owned(),
        }
    }
}

/// The four lines that AWS signs; `hash` is that of the digest before gzip.
pub(super) fn string_to_sign(digest: &Digest, hash: &str) -> String {
    let Digest { digest_end_time, digest_s3_bucket, digest_s3_object, previous_digest_signature, .. } = digest;
    let previous = previous_digest_signature.as_deref().unwrap_or("null");
    format!("{digest_end_time}\n{digest_s3_bucket}/{digest_s3_object}\n{hash}\n{previous}")
}
