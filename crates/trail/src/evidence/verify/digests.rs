//! Step 6, second half: the chain of CloudTrail digests, which the AWS CLI follows from its newest end only.

use super::Failure;
use super::records::Ranged;
use crate::evidence::cloudtrail::{HOUR_US, Place};
use crate::evidence::digest::{BUCKET, Digest, OBJECTS, string_to_sign};
use crate::evidence::manifest::{LogEntry, Manifest};
use crate::evidence::rfc3339;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::bufread::GzDecoder;
use keytrail_kms::chain::leaf::sha256;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

/// Largest digest read: an hour of a million files.
const DIGEST_BYTES_MAX: u64 = 256 << 20;
/// Largest signature in hex: RSA with 16,384 bits.
const SIGNATURE_BYTES_MAX: u64 = 4_096;

/// The end of a chain so far.
struct Previous {
    object: String,
    hash: String,
    signature: String,
    hour: u64,
}

/// Checks all digests of a log.
pub(super) fn check(root: &Path, manifest: &Manifest, log: &LogEntry, ranged: &Ranged) -> Result<(), Failure> {
    let mut chains: BTreeMap<Place, Previous> = BTreeMap::new();
    let mut unclaimed: BTreeMap<&str, usize> =
        log.cloudtrail.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    for name in &log.digests {
        let one = One { root, manifest, log, ranged, name };
        let in_file = |failure: Failure| Failure { reason: format!("{name}: {}", failure.reason), ..failure };
        one.check(&mut chains, &mut unclaimed).map_err(in_file)?;
    }
    if let Some(name) = unclaimed.keys().next() {
        return Err(Failure::new(format!("{name} is in no digest")));
    }
    for (Place { account, region }, chain) in chains {
        if chain.hour != log.time_last / HOUR_US {
            return Err(Failure::new(format!("digests of {account} in {region} end before the range does")));
        }
    }
    Ok(())
}

struct One<'a> {
    root: &'a Path,
    manifest: &'a Manifest,
    log: &'a LogEntry,
    ranged: &'a Ranged,
    name: &'a str,
}

impl One<'_> {
    fn check(
        &self,
        chains: &mut BTreeMap<Place, Previous>,
        unclaimed: &mut BTreeMap<&str, usize>,
    ) -> Result<(), Failure> {
        let (digest, hash) = self.read()?;
        if digest.digest_s3_bucket != BUCKET || format!("{OBJECTS}{}", digest.digest_s3_object) != self.name {
            return Err(Failure::new("digest is of another object"));
        }
        if digest.keytrail_checkpoint != self.ranged.note {
            return Err(Failure::new("digest holds another checkpoint"));
        }
        let signature = self.signature(&digest, &hash)?;
        let place = place_of(self.name, "CloudTrail-Digest");
        let place = place.ok_or_else(|| Failure::new("file has no digest's name"))?;
        if place.account != digest.aws_account_id {
            return Err(Failure::new("digest is of another account"));
        }
        let hour = self.hour(&digest)?;
        match chains.get(&place) {
            Some(previous) if !follows(&digest, previous) || hour != previous.hour + 1 => {
                return Err(Failure::new("digest does not continue the one before it"));
            }
            None if digest.previous_digest_signature.is_some() || hour != self.log.time_first / HOUR_US => {
                return Err(Failure::new("first digest is not that of the range's first hour"));
            }
            _ => {}
        }
        for file in &digest.log_files {
            let name = format!("{OBJECTS}{}", file.s3_object);
            let index = unclaimed.remove(name.as_str());
            let read = index.and_then(|index| self.ranged.files.get(index));
            let read =
                read.ok_or_else(|| Failure::new(format!("digest names {name} again, or no such file is there")))?;
            if place_of(&name, "CloudTrail").as_ref() != Some(&place) {
                return Err(Failure::new(format!("digest names {name} of another account or region")));
            }
            if file.s3_bucket != BUCKET || read.sha256 != file.hash_value || read.hour != hour {
                return Err(Failure::new(format!("digest has another hash or hour for {name}")));
            }
        }
        chains.insert(place, Previous { object: digest.digest_s3_object, hash, signature, hour });
        Ok(())
    }

    /// The digest, and the hash of its bytes.
    fn read(&self) -> Result<(Digest, String), Failure> {
        let failed = |error: std::io::Error| Failure::new(error.to_string());
        let file = File::open(self.root.join(self.name)).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut input = GzDecoder::new(BufReader::new(file));
        let read = (&mut input).take(DIGEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if read as u64 > DIGEST_BYTES_MAX || !input.get_mut().fill_buf().map_err(failed)?.is_empty() {
            return Err(Failure::new("digest is too long, or goes on after its end"));
        }
        let digest = serde_json::from_slice(&bytes).map_err(|error| Failure::new(error.to_string()))?;
        Ok((digest, hex::encode(sha256(&[&bytes]))))
    }

    fn signature(&self, digest: &Digest, hash: &str) -> Result<String, Failure> {
        let fingerprint = &digest.digest_public_key_fingerprint;
        let key = self.manifest.digest_keys.iter().find(|key| key.fingerprint == *fingerprint);
        let key = key.and_then(|key| BASE64.decode(&key.public_key).ok());
        let key = key.ok_or_else(|| Failure::new("digest is signed by a key that the manifest does not name"))?;
        let path = self.root.join(format!("{}.signature", self.name));
        let signature = super::bag::read_text(&path, SIGNATURE_BYTES_MAX)?;
        let bytes = hex::decode(&signature).ok().filter(|bytes| hex::encode(bytes) == signature);
        let bytes = bytes.ok_or_else(|| Failure::new("signature is not hex"))?;
        let signed = string_to_sign(digest, hash);
        let verified = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(signed.as_bytes(), &bytes);
        verified.map(|()| signature).map_err(|_| Failure::new("signature does not verify"))
    }

    /// The hour that the digest is about, counted from 1970.
    fn hour(&self, digest: &Digest) -> Result<u64, Failure> {
        let micros = |text: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
            u64::try_from(time.timestamp_micros()).ok().filter(|micros| micros.is_multiple_of(HOUR_US))
        };
        let (start, end) = (micros(&digest.digest_start_time), micros(&digest.digest_end_time));
        match (start, end) {
            (Some(start), Some(end)) if end == start + HOUR_US && rfc3339(start) == digest.digest_start_time => {
                Ok(start / HOUR_US)
            }
            _ => Err(Failure::new("digest is not about one hour")),
        }
    }
}

/// Account and region in the name of a file of this kind.
fn place_of(name: &str, kind: &str) -> Option<Place> {
    let mut parts = name.strip_prefix(OBJECTS)?.strip_prefix("AWSLogs/")?.split('/');
    let (account, found, region) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    (found == kind).then(|| Place { account: account.to_owned(), region: region.to_owned() })
}

fn follows(digest: &Digest, previous: &Previous) -> bool {
    digest.previous_digest_s3_bucket.as_deref() == Some(BUCKET)
        && digest.previous_digest_s3_object.as_deref() == Some(&previous.object)
        && digest.previous_digest_hash_value.as_deref() == Some(&previous.hash)
        && digest.previous_digest_signature.as_deref() == Some(&previous.signature)
}
