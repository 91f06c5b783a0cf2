//! How long the journal keeps records: which may be pruned now, and the job that does it.
//!
//! A record goes when all of this holds: a checkpoint on the disk covers it, the trail has said in a signed call that it
//! has landed, the tiles have its leaf, Kafka has it where there is one, the next start does not need to read it, and it is older than the
//! retention. Whoever could fake one of these needs the others, too.

use crate::chain::LogKeys;
use crate::journal::{JournalError, PruneBounds, PruneDone};
use crate::node::Node;
use crate::ship;
use crate::signer::LATEST_NAME;
use crate::store::{self, CLEAN_THROUGH, StoreError, USAGE_THROUGH};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Shortest retention: a mistake in the settings must not empty the journal of an incident under way.
pub const JOURNAL_KEEP_MIN: Duration = Duration::from_secs(3_600);

/// Why nothing was pruned although something may be due.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The journal.
    #[error("journal cannot be pruned")]
    Journal(#[from] JournalError),
    /// The store does not say what the next start needs.
    #[error("store cannot be asked what the next start needs")]
    Store(#[from] StoreError),
}

impl Node {
    /// Takes the trail's word that all records below `next_seq` have landed. It never takes it back.
    pub(crate) fn note_landed(&self, next_seq: u64) {
        self.landed.fetch_max(next_seq, Ordering::SeqCst);
    }

    /// Prunes what is older than `keep` and needed by nobody. Blocks on the disk.
    pub fn prune_journal(&self, keep: Duration, shipped: bool) -> Result<Option<PruneDone>, RetentionError> {
        let landed_next_seq = self.landed.load(Ordering::SeqCst);
        let mut below_seq = landed_next_seq.min(self.needed_from()?);
        below_seq = below_seq.min(signed_size(&self.dir.join("checkpoints"), &self.log_keys()));
        // Proofs for what goes come from the tiles, which are made of the journal.
        below_seq = below_seq.min(self.tiles.lock().full_records());
        if shipped {
            below_seq = below_seq.min(ship::shipped_through(&self.journal_dir()));
        }
        let keep_us = u64::try_from(keep.as_micros()).unwrap_or(u64::MAX);
        let before_us = self.clock.now_us().saturating_sub(keep_us);
        let bounds = PruneBounds { below_seq, before_us, landed_next_seq, keep_seconds: keep.as_secs() };
        Ok(self.journal.prune(bounds)?)
    }

    /// The first record that the next start reads: it looks for events of the outbox and for the last uses of keys.
    fn needed_from(&self) -> Result<u64, StoreError> {
        let store = store::open(&self.dir.join("kms.db"), false)?;
        let from = |name| Ok::<u64, StoreError>(store::meta_number(&store, name)?.map_or(0, |seq| seq + 1));
        Ok(from(CLEAN_THROUGH)?.min(from(USAGE_THROUGH)?))
    }
}

/// Size of the newest note on the disk; 0 without one that verifies.
fn signed_size(checkpoints: &Path, keys: &LogKeys) -> u64 {
    let note = std::fs::read_to_string(checkpoints.join(LATEST_NAME)).unwrap_or_default();
    keys.verify(&note).map_or(0, |checkpoint| checkpoint.size)
}
