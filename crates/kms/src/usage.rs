//! When each key was last used, as GetKeyLastUsage answers it: a fact of the log, kept at hand.
//!
//! A use is noted at the moment its event gets its seq; the answer that tells of it has a later one, so nobody reads of
//! a use before it is durable. Notes go to the store now and then; what a crash loses is read back from the end of the
//! journal at the next start. Only the last use is kept: the log has all of them.

use crate::journal::{ReadError, Reader};
use crate::key::{AccountId, KeyId, Region};
use crate::store::{Store, StoreError};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use uuid::Uuid;

/// What AWS counts as use.
const OPERATIONS: [&str; 12] = [
    "Decrypt",
    "DeriveSharedSecret",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "ReEncrypt",
    "Sign",
    "Verify",
    "VerifyMac",
];
/// Uses in one transaction.
const STORED_AT_ONCE: usize = 1_000;
/// Frames looked at in one step of a scan.
const SCAN_FRAMES: usize = 1_024;

/// The last use of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastUse {
    /// The operation.
    pub(crate) operation: &'static str,
    /// Unix microseconds of its judgement.
    pub(crate) at_us: u64,
    /// Its event.
    pub(crate) event_id: Uuid,
    /// Its request.
    pub(crate) request_id: Uuid,
    /// Where in the log.
    pub(crate) seq: u64,
}

/// A key by its owner and id.
pub(crate) type UsedKey = (AccountId, KeyId);

#[derive(Default)]
struct Inner {
    last: HashMap<UsedKey, LastUse>,
    /// Not in the store yet.
    changed: HashSet<UsedKey>,
    /// All uses up to this seq are noted.
    noted_through: Option<u64>,
}

/// The last use of every key.
pub(crate) struct Usages {
    inner: Mutex<Inner>,
    /// Unix microseconds since when uses are noted.
    pub(crate) since_us: u64,
}

impl Usages {
    /// Starts with what the store has; all uses up to `noted_through` are among them or will be read back.
    pub(crate) fn new(
        since_us: u64,
        stored: impl IntoIterator<Item = (UsedKey, LastUse)>,
        noted_through: Option<u64>,
    ) -> Self {
        let inner = Inner { last: stored.into_iter().collect(), changed: HashSet::new(), noted_through };
        Self { inner: Mutex::new(inner), since_us }
    }

    /// Notes a use of some keys, unless a later one is noted already.
    pub(crate) fn note(&self, keys: &[UsedKey], last_use: LastUse) {
        let mut inner = self.inner.lock();
        for key in keys {
            if inner.last.get(key).is_none_or(|noted| noted.seq < last_use.seq) {
                inner.last.insert(*key, last_use);
                inner.changed.insert(*key);
            }
        }
    }

    /// A key's last use.
    pub(crate) fn last(&self, key: UsedKey) -> Option<LastUse> {
        self.inner.lock().last.get(&key).copied()
    }

    /// Forgets a key that is gone.
    pub(crate) fn forget(&self, key: UsedKey) {
        let mut inner = self.inner.lock();
        inner.last.remove(&key);
        inner.changed.remove(&key);
    }

    /// Stores what is durable. Up to where all uses are stored is what was durable the time before: a call under way may
    /// have its seq but not be noted yet, though never for so long.
    pub(crate) async fn store(&self, store: &Store, durable_seq: Option<u64>) -> Result<(), StoreError> {
        loop {
            let uses = self.take(durable_seq, STORED_AT_ONCE);
            let all = uses.len() < STORED_AT_ONCE;
            let through = if all { self.inner.lock().noted_through } else { None };
            let rows = uses.iter().map(|((_, id), last_use)| (*id, *last_use)).collect();
            if let Err(error) = store.note_usage(rows, through, self.since_us).await {
                self.inner.lock().changed.extend(uses.iter().map(|(key, _)| *key));
                return Err(error);
            }
            if all {
                self.inner.lock().noted_through = durable_seq;
                return Ok(());
            }
        }
    }

    /// Up to `limit` uses that are durable and not in the store yet.
    fn take(&self, durable_seq: Option<u64>, limit: usize) -> Vec<(UsedKey, LastUse)> {
        let mut inner = self.inner.lock();
        let Inner { last, changed, .. } = &mut *inner;
        let durable = changed.iter().filter_map(|key| {
            let last_use = last.get(key).filter(|last_use| Some(last_use.seq) <= durable_seq)?;
            Some((*key, *last_use))
        });
        let taken: Vec<_> = durable.take(limit).collect();
        for (key, _) in &taken {
            changed.remove(key);
        }
        taken
    }

    /// Notes what the journal holds from a seq on: at start, what a crash kept out of the store.
    pub(crate) fn read_back(&self, journal: &Path, from_seq: u64) -> Result<(), ReadError> {
        let mut reader = Reader::open(journal, from_seq)?;
        loop {
            let frames = reader.next(SCAN_FRAMES)?;
            if frames.is_empty() {
                return Ok(());
            }
            let first = reader.next_seq() - frames.len() as u64;
            for (seq, frame) in (first..).zip(&frames) {
                if let Some((keys, last_use)) = use_of(&frame.payload, seq) {
                    self.note(&keys, last_use);
                }
            }
        }
    }
}

/// AWS's name of an operation that counts as use.
pub(crate) fn operation(name: &str) -> Option<&'static str> {
    OPERATIONS.into_iter().find(|known| *known == name)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scanned {
    event_name: String,
    error_code: Option<String>,
    #[serde(rename = "eventID")]
    event_id: String,
    #[serde(rename = "requestID")]
    request_id: Option<String>,
    #[serde(default)]
    resources: Vec<ScannedResource>,
    additional_event_data: ScannedAdditional,
}

#[derive(Deserialize)]
struct ScannedResource {
    #[serde(rename = "ARN")]
    arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScannedAdditional {
    judged_at_micros: u64,
}

/// The use that a payload tells of, if it is the event of one that worked.
fn use_of(payload: &[u8], seq: u64) -> Option<(Vec<UsedKey>, LastUse)> {
    let scanned: Scanned = serde_json::from_slice(payload).ok()?;
    if scanned.error_code.is_some() {
        return None;
    }
    let last_use = LastUse {
        operation: operation(&scanned.event_name)?,
        at_us: scanned.additional_event_data.judged_at_micros,
        event_id: Uuid::parse_str(&scanned.event_id).ok()?,
        request_id: Uuid::parse_str(&scanned.request_id?).ok()?,
        seq,
    };
    let keys = scanned.resources.iter().filter_map(|resource| {
        let mut parts = resource.arn.splitn(6, ':').skip(3);
        let region = Region::parse(parts.next()?)?;
        let account = AccountId::parse(parts.next()?)?;
        let id = KeyId::parse(parts.next()?.strip_prefix("key/")?, region)?;
        Some((account, id))
    });
    Some((keys.collect(), last_use))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn use_at(seq: u64) -> LastUse {
        LastUse { operation: "Sign", at_us: seq, event_id: Uuid::nil(), request_id: Uuid::nil(), seq }
    }

    #[test]
    fn the_latest_use_wins_and_only_durable_ones_are_stored() {
        let key = (
            AccountId::parse("123456789012").unwrap(),
            KeyId::single(Region::parse("eu-central-1").unwrap(), Uuid::nil()),
        );
        let usages = Usages::new(1, [], None);
        usages.note(&[key], use_at(7));
        usages.note(&[key], use_at(5));
        assert_eq!(usages.last(key), Some(use_at(7)));
        assert!(usages.take(None, 9).is_empty() && usages.take(Some(6), 9).is_empty());
        assert!(usages.take(Some(7), 0).is_empty());
        assert_eq!(usages.take(Some(7), 9), [(key, use_at(7))]);
        assert!(usages.take(Some(7), 9).is_empty());
        usages.note(&[key], use_at(8));
        usages.forget(key);
        assert!(usages.take(Some(8), 9).is_empty() && usages.last(key).is_none());
    }

    #[test]
    fn only_uses_that_worked_are_read_back() {
        let id = Uuid::nil();
        let event = |name: &str, error: &str| {
            format!(
                r#"{{"eventName":"{name}",{error}"eventID":"{id}","requestID":"{id}","additionalEventData":{{"judgedAtMicros":3}},
                "resources":[{{"ARN":"arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}}]}}"#
            )
        };
        let (keys, last_use) = use_of(event("ReEncrypt", "").as_bytes(), 4).unwrap();
        assert_eq!((keys.len(), last_use.operation, last_use.at_us, last_use.seq), (1, "ReEncrypt", 3, 4));
        assert!(use_of(event("Decrypt", r#""errorCode":"AccessDenied","#).as_bytes(), 4).is_none());
        assert!(use_of(event("DescribeKey", "").as_bytes(), 4).is_none());
        assert!(use_of(b"garbage", 4).is_none());
    }
}
