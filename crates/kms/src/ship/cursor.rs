//! `journal/ship.cursor`: up to which record the broker has everything.
//!
//! Only a hint: a lost, old or damaged cursor means that records are sent again, and the lander drops what it has. It
//! names log and Kafka cluster, so that a new cluster gets the whole log. JSON, replaced as a whole and fsynced.

use crate::chain::LogId;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "ship.cursor";
const VERSION: u32 = 1;

/// The cursor of one log in one cluster.
#[derive(Debug)]
pub(super) struct Cursor {
    dir: PathBuf,
    kept: Kept,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    cursor_version: u32,
    log: String,
    cluster: String,
    next_seq: u64,
}

/// Up to which record some cluster has everything; 0 where the file does not say.
pub(crate) fn shipped_through(dir: &Path) -> u64 {
    let kept = std::fs::read(dir.join(NAME)).ok().and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    kept.filter(|kept| kept.cursor_version == VERSION).map_or(0, |kept| kept.next_seq)
}

impl Cursor {
    /// What the last run left, or the journal's beginning at `first`. A cursor beyond `durable` cannot be this journal's.
    pub(super) fn load(dir: &Path, log: LogId, cluster: &str, (first, durable): (u64, u64)) -> Self {
        let beginning =
            Kept { cursor_version: VERSION, log: log.to_string(), cluster: cluster.to_owned(), next_seq: first };
        let ours = |kept: &Kept| {
            let named = (kept.cursor_version, &kept.log, &kept.cluster);
            named == (VERSION, &beginning.log, &beginning.cluster) && (first..=durable).contains(&kept.next_seq)
        };
        let bytes = std::fs::read(dir.join(NAME)).ok();
        let kept = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(ours);
        Self { dir: dir.to_owned(), kept: kept.unwrap_or(beginning) }
    }

    /// Records below this seq need not be sent again.
    pub(super) fn next_seq(&self) -> u64 {
        self.kept.next_seq
    }

    /// Keeps `next_seq`, durably; nothing to do when it is the one kept.
    pub(super) fn save(&mut self, next_seq: u64) -> io::Result<()> {
        if next_seq == self.kept.next_seq {
            return Ok(());
        }
        self.kept.next_seq = next_seq;
        let bytes = serde_json::to_vec(&self.kept)?;
        let fresh = self.dir.join("ship.cursor.tmp");
        let mut file = File::create(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&fresh, self.dir.join(NAME))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_holds_for_its_log_and_cluster_and_never_beyond_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let (log, other) = (LogId::of_origin("a"), LogId::of_origin("b"));
        let next_seq = |log, cluster, durable| Cursor::load(dir.path(), log, cluster, (0, durable)).next_seq();
        assert_eq!(next_seq(log, "one", 100), 0);
        Cursor::load(dir.path(), log, "one", (0, 100)).save(7).unwrap();
        assert_eq!(next_seq(log, "one", 7), 7);
        assert_eq!(next_seq(log, "one", 6), 0, "beyond the journal");
        assert_eq!(next_seq(log, "two", 7), 0, "another cluster");
        let pruned = Cursor::load(dir.path(), log, "two", (5, 100)).next_seq();
        assert_eq!(pruned, 5, "another cluster gets what is kept");
        assert_eq!(Cursor::load(dir.path(), log, "one", (9, 100)).next_seq(), 9, "what was pruned is not sent");
        assert_eq!(next_seq(other, "one", 7), 0, "another log");
        std::fs::write(dir.path().join(NAME), b"{").unwrap();
        assert_eq!(next_seq(log, "one", 7), 0, "damaged");
    }
}
