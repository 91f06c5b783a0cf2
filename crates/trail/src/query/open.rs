//! Opening a data folder for SQL from a process of its own: commits first, then the frames above them.
//!
//! Takes no lock and changes nothing, so it works while the service runs and when it is stopped. The writer may commit
//! and trim its spool between the two reads; then the frames no longer reach down to the cut and both are read again.

use crate::lake::snapshot::Snapshot;
use crate::lake::store::LakeError;
use crate::lake::writer::ReadLake;
use crate::land::{Integrity, Lander, LanderOptions, Position};
use crate::source::SourceFrame;
use keytrail_kms::chain::{Leaf, LogId};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::journal::{JournalError, Reader};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most payload bytes taken above the last commit. In service there are at most some 100 MiB; more means that the
/// trail has not run for long, and it should before anybody queries.
const TAIL_BYTES_MAX: u64 = 1 << 30;

/// Frames read at once.
const READ_FRAMES: usize = 1_024;

/// Attempts when the writer moves on between commits and frames.
const ATTEMPTS: u32 = 5;

/// Why a folder cannot be queried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Commits.
    #[error("lake cannot be read")]
    Lake(#[from] LakeError),
    /// Frames of the journal or spool.
    #[error("frames in {path} cannot be read")]
    Frames {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: JournalError,
    },
    /// Frames that do not follow the lake.
    #[error("frames in {path} do not continue the lake: {finding}")]
    Integrity {
        /// The folder.
        path: PathBuf,
        /// What does not hold.
        finding: String,
    },
    /// Neither lake nor journal is there.
    #[error("{0} is no data folder")]
    NoFolder(PathBuf),
    /// The trail is too far behind.
    #[error("more than {TAIL_BYTES_MAX} bytes of records are not in the lake yet; start the trail first")]
    Behind,
}

/// The lake of the data folder `dir` with everything durable above it, as one snapshot.
pub async fn open_folder(dir: &Path) -> Result<Snapshot, OpenError> {
    let mut attempt = 1;
    loop {
        match open_once(dir).await {
            Err(OpenError::Frames { path, source }) if attempt < ATTEMPTS => {
                tracing::debug!(path = %path.display(), error = %source, attempt, "frames moved on, reading again");
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn open_once(dir: &Path) -> Result<Snapshot, OpenError> {
    if !dir.join("lake").is_dir() && frame_folders(dir).is_empty() {
        return Err(OpenError::NoFolder(dir.to_owned()));
    }
    let mut lake = ReadLake::open(&dir.join("lake"))?;
    let positions = lake.positions();
    let mut bytes = 0;
    for folder in frame_folders(dir) {
        let frames = |source| OpenError::Frames { path: folder.clone(), source };
        let Some((log, position)) = log_of(&folder, &positions).map_err(frames)? else { continue };
        let mut reader = Reader::open(&folder, position.next_seq).map_err(frames)?;
        let options = LanderOptions::for_logs([log]);
        let mut lander = Lander::new([(log, position)], options, Arc::new(SystemClock), None);
        loop {
            let read = reader.next(READ_FRAMES).map_err(frames)?;
            if read.is_empty() {
                break;
            }
            bytes += read.iter().map(|frame| frame.payload.len() as u64).sum::<u64>();
            if bytes > TAIL_BYTES_MAX {
                return Err(OpenError::Behind);
            }
            let outcome = lander.land(read.into_iter().map(|frame| SourceFrame { log, frame }).collect()).await;
            if let Some(finding) = outcome.findings.first() {
                return Err(OpenError::Integrity { path: folder.clone(), finding: describe(finding) });
            }
            for landed in &outcome.landed {
                lake.append(landed)?;
            }
        }
    }
    Ok(lake.into_snapshot())
}

/// The spool where there is one (frames came through Kafka), else the journal.
fn frame_folders(dir: &Path) -> Vec<PathBuf> {
    let spool = dir.join("spool");
    if spool.is_dir() {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(&spool)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("head").is_file())
            .collect();
        if spool.join("head").is_file() {
            folders.push(spool);
        }
        folders.sort_unstable();
        return folders;
    }
    let journal = dir.join("journal");
    if journal.join("head").is_file() { vec![journal] } else { Vec::new() }
}

/// Which log a folder holds and where to read on; `None` when nothing is above the lake.
fn log_of(folder: &Path, positions: &BTreeMap<LogId, Position>) -> Result<Option<(LogId, Position)>, JournalError> {
    let mut reader = Reader::open(folder, 0)?;
    let durable = reader.durable()?;
    let Some(last) = durable.checked_sub(1) else { return Ok(None) };
    reader.seek(last);
    let Some(log) = reader.next(1)?.first().and_then(|frame| Leaf::decode(&frame.leaf).ok()).map(|leaf| leaf.log)
    else {
        return Ok(None);
    };
    let position = positions.get(&log).copied().unwrap_or(Position::START);
    Ok((position.next_seq < durable).then_some((log, position)))
}

fn describe(finding: &Integrity) -> String {
    format!("{finding:?}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lake::{Lake, LakeOptions};
    use crate::source::FrameSource;
    use crate::source::journal::JournalSource;
    use bytes::Bytes;
    use keytrail_kms::chain::{Kind, Link};
    use keytrail_kms::clock::FakeClock;
    use keytrail_kms::journal::{Draft, Journal, JournalOptions, SpoolWriter};

    fn log() -> LogId {
        LogId::of_origin("keytrail/test/node-0123456789abcdef")
    }

    fn journal(dir: &Path) -> Journal {
        let clock = Arc::new(FakeClock::default());
        Journal::open(&dir.join("journal"), log(), clock, JournalOptions::default()).unwrap().0
    }

    async fn write(journal: &Journal, count: u64) {
        for n in 0..count {
            let payload = Bytes::from(format!("{{\"eventName\":\"Decrypt\",\"n\":{n}}}"));
            journal.append(Draft::new(Kind::Event, payload).unwrap()).unwrap().await.unwrap();
        }
    }

    /// Lands everything in the journal and commits it.
    async fn land(dir: &Path, count: u64) {
        let clock = Arc::new(FakeClock::default());
        let (mut lake, opened) = Lake::open(&dir.join("lake"), LakeOptions::default(), clock.clone()).unwrap();
        let from = opened.positions.get(&log()).copied().unwrap_or(Position::START);
        let mut lander = Lander::new(opened.positions, LanderOptions::for_logs([log()]), clock, None);
        let mut source = JournalSource::open(&dir.join("journal"), from.next_seq).unwrap();
        while lander.position(log()).next_seq < from.next_seq + count {
            for landed in lander.land(source.next(100).await.unwrap()).await.landed {
                lake.append(&landed).unwrap();
            }
        }
        lake.flush().await.unwrap();
    }

    fn seqs(snapshot: &Snapshot) -> (u64, u64) {
        let state = &snapshot.logs()[&log()];
        (state.cut.next_seq, state.end.next_seq)
    }

    #[tokio::test]
    async fn commits_and_frames_above_them_make_one_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open_folder(dir.path()).await, Err(OpenError::NoFolder(_))));
        let journal = journal(dir.path());
        write(&journal, 30).await;
        assert_eq!(seqs(&open_folder(dir.path()).await.unwrap()), (0, 30), "before the trail ever ran");
        land(dir.path(), 30).await;
        assert_eq!(seqs(&open_folder(dir.path()).await.unwrap()), (30, 30));
        write(&journal, 12).await;
        let snapshot = open_folder(dir.path()).await.unwrap();
        assert_eq!(seqs(&snapshot), (30, 42));
        let frames = snapshot.frames(log(), 25, 10).unwrap();
        assert_eq!(frames.iter().map(|frame| frame.leaf.seq).collect::<Vec<_>>(), (25..35).collect::<Vec<_>>());
        assert_eq!(frames[9].frame, Reader::open(&dir.path().join("journal"), 34).unwrap().next(1).unwrap()[0]);
        // Beside a running writer, which keeps its lock, and after it stopped.
        let _writer =
            Lake::open(&dir.path().join("lake"), LakeOptions::default(), Arc::new(FakeClock::default())).unwrap();
        assert_eq!(seqs(&open_folder(dir.path()).await.unwrap()), (30, 42));
        drop(journal);
        assert_eq!(seqs(&open_folder(dir.path()).await.unwrap()), (30, 42));
    }

    #[tokio::test]
    async fn a_spool_takes_the_journals_place() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(dir.path());
        write(&journal, 10).await;
        let frames = Reader::open(&dir.path().join("journal"), 0).unwrap().next(10).unwrap();
        let spool = dir.path().join("spool").join(log().to_string());
        std::fs::create_dir_all(&spool).unwrap();
        let mut writer = SpoolWriter::open(&spool, log(), (0, Link::ZERO), 1 << 20).unwrap();
        writer.append(&frames[..7]).unwrap();
        assert_eq!(seqs(&open_folder(dir.path()).await.unwrap()), (0, 7));
    }

    #[tokio::test]
    async fn frames_of_another_chain_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = journal(dir.path());
        write(&first, 5).await;
        land(dir.path(), 5).await;
        drop(first);
        std::fs::remove_dir_all(dir.path().join("journal")).unwrap();
        let second = journal(dir.path());
        write(&second, 9).await;
        assert!(matches!(open_folder(dir.path()).await, Err(OpenError::Integrity { .. })));
    }
}
