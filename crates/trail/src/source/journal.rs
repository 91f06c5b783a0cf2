//! Tails a journal or spool folder read-only, also while another process writes it.
//!
//! A thread of its own reads ahead within a bound, so that a slow disk never blocks the async side. It looks at
//! `journal/head` every few milliseconds; nothing above what is durable is ever handed on.

use super::{FrameSource, SourceError, SourceFrame};
use async_trait::async_trait;
use keytrail_kms::chain::{Leaf, LogId};
use keytrail_kms::journal::{Frame, JournalError, Reader};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// Frames read at once; with the largest payloads that is 128 MiB, commonly half a megabyte.
const READ_FRAMES: usize = 512;

/// Reads in flight between the thread and the caller.
const READ_AHEAD: usize = 4;

/// Pause before the head is looked at again. Far below the 100 ms in which an attack should be contained.
const POLL: Duration = Duration::from_millis(5);

/// How long `next` waits before it says that nothing came.
const WAIT: Duration = Duration::from_millis(100);

/// Frames of one journal folder, from a seq on.
pub struct JournalSource {
    frames: mpsc::Receiver<Result<Vec<Frame>, SourceError>>,
    ready: VecDeque<Frame>,
}

impl JournalSource {
    /// Tails the journal in `dir`; the first frame has seq `from_seq`, which may not be written yet.
    pub fn open(dir: &Path, from_seq: u64) -> Result<Self, SourceError> {
        let reader = Reader::open(dir, from_seq).map_err(classify)?;
        let (sender, frames) = mpsc::channel(READ_AHEAD);
        std::thread::Builder::new()
            .name("journal-tail".to_owned())
            .spawn(move || tail(reader, &sender))
            .map_err(|error| SourceError::Unavailable(Box::new(error)))?;
        Ok(Self { frames, ready: VecDeque::new() })
    }
}

#[async_trait]
impl FrameSource for JournalSource {
    async fn next(&mut self, frames_max: usize) -> Result<Vec<SourceFrame>, SourceError> {
        if self.ready.is_empty() {
            match tokio::time::timeout(WAIT, self.frames.recv()).await {
                Err(_) => return Ok(Vec::new()),
                Ok(read) => self.ready.extend(read.unwrap_or_else(|| Err(ended()))?),
            }
        }
        while self.ready.len() < frames_max
            && let Ok(Ok(more)) = self.frames.try_recv()
        {
            self.ready.extend(more);
        }
        let count = self.ready.len().min(frames_max);
        self.ready.drain(..count).map(sourced).collect()
    }

    /// The journal is the KMS's; nothing is forgotten on a reader's word.
    async fn committed(&mut self, _log: LogId, _next_seq: u64) -> Result<(), SourceError> {
        Ok(())
    }
}

fn sourced(frame: Frame) -> Result<SourceFrame, SourceError> {
    let leaf = Leaf::decode(&frame.leaf).map_err(|error| SourceError::Damaged(Box::new(error)))?;
    Ok(SourceFrame { log: leaf.log, frame })
}

fn tail(mut reader: Reader, sender: &mpsc::Sender<Result<Vec<Frame>, SourceError>>) {
    loop {
        match reader.next(READ_FRAMES) {
            Ok(frames) if frames.is_empty() => {
                if sender.is_closed() {
                    return;
                }
                std::thread::sleep(POLL);
            }
            Ok(frames) => {
                if sender.blocking_send(Ok(frames)).is_err() {
                    return;
                }
            }
            Err(error) => {
                // Nobody is left to tell when this fails.
                let _ = sender.blocking_send(Err(classify(error)));
                return;
            }
        }
    }
}

fn classify(error: JournalError) -> SourceError {
    match error {
        JournalError::Io { .. } | JournalError::Absent { .. } => SourceError::Unavailable(Box::new(error)),
        _ => SourceError::Damaged(Box::new(error)),
    }
}

fn ended() -> SourceError {
    SourceError::Damaged("the journal's reader ended after an error".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::land::Position;
    use crate::source::suite::{self, Harness};
    use bytes::Bytes;
    use keytrail_kms::chain::Kind;
    use keytrail_kms::clock::FakeClock;
    use keytrail_kms::journal::{Draft, Journal, JournalOptions};
    use std::sync::Arc;

    struct JournalHarness {
        dir: tempfile::TempDir,
        journal: Journal,
        log: LogId,
    }

    impl JournalHarness {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = LogId::of_origin("keytrail/test/node-0123456789abcdef");
            let clock = Arc::new(FakeClock::default());
            let (journal, _) = Journal::open(dir.path(), log, clock, JournalOptions::default()).unwrap();
            Self { dir, journal, log }
        }
    }

    #[async_trait]
    impl Harness for JournalHarness {
        fn log(&self) -> LogId {
            self.log
        }

        async fn write(&mut self, payloads: &[Bytes]) {
            for payload in payloads {
                let pending = self.journal.append(Draft::new(Kind::Event, payload.clone()).unwrap()).unwrap();
                pending.await.unwrap();
            }
        }

        async fn open(&mut self, from: Position) -> Box<dyn FrameSource> {
            Box::new(JournalSource::open(self.dir.path(), from.next_seq).unwrap())
        }
    }

    #[tokio::test]
    async fn the_journal_passes_the_source_suite() {
        suite::run(&mut JournalHarness::new()).await;
    }

    #[tokio::test]
    async fn a_missing_journal_is_unavailable() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(JournalSource::open(dir.path(), 0), Err(SourceError::Unavailable(_))));
    }
}
