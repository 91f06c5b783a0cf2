//! Behind Kafka: what arrives waits in `unproved` until a signed checkpoint covers it, and goes on from there.
//!
//! Notes come from the topic; for records that none comes for, the folder or the node is asked.

use super::{TURN_FRAMES_MAX, TrailError, Watch};
use crate::land::Landed;
use crate::service::describe;
use crate::service::unproved::{NOTE_PATIENCE, Step as Proving};
use keytrail_kms::chain::LogId;

/// Notes looked at in one turn; most cost a signature check.
const NOTES_PER_TURN: usize = 256;

impl Watch {
    /// What came through Kafka waits for a checkpoint, unless it did so before the last stop.
    pub(super) async fn admit(&mut self, mut landed: Landed) -> Result<(), TrailError> {
        let Some(spool) = self.spools.get(&landed.log) else { return self.feed(&landed).await };
        let proved = usize::try_from(spool.next_seq().saturating_sub(landed.first_seq)).unwrap_or(usize::MAX);
        let waiting = landed.frames.split_off(proved.min(landed.frames.len()));
        if !landed.frames.is_empty() {
            self.feed(&landed).await?;
        }
        if let Some(prover) = self.provers.get_mut(&landed.log) {
            // Before it is proved: the checkpoint that proves it is under the new key. A stranger's is passed over.
            waiting.iter().for_each(|verified| {
                prover.follow_key(verified);
            });
        }
        let unproved = self.provers.get_mut(&landed.log).and_then(|prover| prover.unproved.as_mut());
        match unproved.map(|unproved| unproved.push(&waiting)).transpose()? {
            Some(false) => self.take_back(landed.log, "epoch or time falls"),
            Some(true) | None => Ok(()),
        }
    }

    /// Releases the next records that a checkpoint covers. True: there may be more.
    pub(super) async fn settle(&mut self) -> Result<bool, TrailError> {
        for _ in 0..NOTES_PER_TURN {
            let Some(note) = self.notes.as_mut().and_then(|notes| notes.try_recv().ok()) else { break };
            self.offer(&note);
        }
        let mut more = false;
        let logs: Vec<LogId> = self.spools.keys().copied().collect();
        for log in logs {
            let Some(unproved) = self.provers.get_mut(&log).and_then(|prover| prover.unproved.as_mut()) else {
                continue;
            };
            match unproved.step(TURN_FRAMES_MAX)? {
                Proving::Release(frames) => {
                    if let Some(first) = frames.first() {
                        more = true;
                        self.feed(&Landed { log, first_seq: first.leaf.seq, frames }).await?;
                    } else if let Some(size_min) = unproved.wants_note() {
                        more = true;
                        self.ask_for_note(log, size_min).await;
                    }
                }
                Proving::Forged(checkpoint) => {
                    let why = format!("records do not lead to the checkpoint over {} of them", checkpoint.size);
                    self.take_back(log, &why)?;
                }
            }
        }
        Ok(more)
    }

    /// The same while something waits for it: goes on reading, and does not spin.
    pub(super) async fn settle_or_pause(&mut self) -> Result<(), TrailError> {
        self.releasing = self.settle().await?;
        if !self.releasing {
            self.pause().await;
        }
        let frames = self.read().await?;
        self.take(frames).await
    }

    /// Throws away what waits for a checkpoint; it is landed again, from the node.
    pub(super) fn take_back(&mut self, log: LogId, why: &str) -> Result<(), TrailError> {
        let Some(unproved) = self.provers.get_mut(&log).and_then(|prover| prover.unproved.as_mut()) else {
            return Ok(());
        };
        let end = unproved.size();
        let position = unproved.discard()?;
        self.lander.rewind(log, position);
        self.find("forged", log.to_string(), (Some(position.next_seq), Some(end)), why.to_owned());
        Ok(())
    }

    fn offer(&mut self, note: &str) {
        for prover in self.provers.values_mut() {
            // Most are another log's or nobody's: the topic is open to many.
            if let Ok(checkpoint) = prover.read_note(note)
                && let Some(unproved) = &mut prover.unproved
            {
                unproved.offer(note.to_owned(), checkpoint);
            }
        }
    }

    /// No note came for the records that wait: the folder or the node has one.
    async fn ask_for_note(&mut self, log: LogId, size_min: u64) {
        match tokio::time::timeout(NOTE_PATIENCE, self.checkpoints.checkpoint(log, size_min)).await {
            Ok(Ok(note)) => self.offer(&note),
            Ok(Err(error)) => tracing::warn!(%log, error = describe(&error), "records wait for a checkpoint"),
            Err(_) => tracing::warn!(%log, "records wait for a checkpoint, and the node does not answer"),
        }
    }
}
