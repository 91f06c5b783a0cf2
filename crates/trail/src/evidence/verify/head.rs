//! Step 3, and the comparing part of step 5: the signed head of a log, and heads that the auditor saw elsewhere.

use super::bag::read_text;
use super::{Failure, Trust};
use crate::evidence::manifest::LogEntry;
use keytrail_kms::chain::{Checkpoint, Frontier, LogId, RootHash, VerifyKey};
use std::path::Path;

/// Largest note read.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// A log's head and what to compare on the way to it.
pub(super) struct Head {
    pub(super) id: LogId,
    pub(super) note: String,
    pub(super) checkpoint: Checkpoint,
    /// Heads seen elsewhere, the smallest first.
    pub(super) seen: Vec<Checkpoint>,
}

/// Step 3.
pub(super) fn checkpoint(root: &Path, log: &LogEntry, trust: &Trust) -> Result<Head, Failure> {
    let id = LogId::of_origin(&log.origin);
    if id.to_string() != log.log {
        return Err(Failure::new("log id is not that of its origin"));
    }
    let key = key(log, trust)?;
    let note = read_text(&root.join(format!("logs/{id}/checkpoint")), NOTE_BYTES_MAX)?;
    let checkpoint = key.verify(&note).map_err(|error| Failure::new(format!("checkpoint: {error}")))?;
    if checkpoint.origin != log.origin || checkpoint.size != log.size || checkpoint.root.to_string() != log.root {
        return Err(Failure::new("checkpoint is not the one that the manifest names"));
    }
    let mut seen = Vec::new();
    for note in trust.heads.iter().filter(|note| note.lines().next() == Some(log.origin.as_str())) {
        seen.push(key.verify(note).map_err(|error| Failure::new(format!("checkpoint seen elsewhere: {error}")))?);
    }
    seen.sort_by_key(|checkpoint| checkpoint.size);
    Ok(Head { id, note, checkpoint, seen })
}

fn key(log: &LogEntry, trust: &Trust) -> Result<VerifyKey, Failure> {
    if trust.vkeys.is_empty() {
        return log.vkey.parse().map_err(|error| Failure::new(format!("vkey of the manifest: {error}")));
    }
    let key = trust.vkeys.iter().find(|key| key.name() == log.origin);
    key.cloned().ok_or_else(|| Failure::new(format!("none of the keys given is of {}", log.origin)))
}

/// Compares roots with heads seen elsewhere while the leaves go by.
pub(super) struct Comparison<'a> {
    frontier: Frontier,
    left: std::iter::Peekable<std::slice::Iter<'a, Checkpoint>>,
    size: u64,
    root: RootHash,
    /// Sizes of heads that nothing here can be compared with.
    skipped: Vec<u64>,
}

impl<'a> Comparison<'a> {
    /// `before` is the tree below the range.
    pub(super) fn new(head: &'a Head, before: Frontier) -> Self {
        let left = head.seen.iter().peekable();
        let (size, root) = (head.checkpoint.size, head.checkpoint.root);
        Self { frontier: before, left, size, root, skipped: Vec::new() }
    }

    /// Whether there is nothing to compare below the checkpoint.
    pub(super) fn is_done(&mut self) -> bool {
        self.left.peek().is_none()
    }

    /// Takes the next leaf of the range.
    pub(super) fn push(&mut self, leaf: keytrail_kms::chain::LeafHash) -> Result<(), Failure> {
        self.compare()?;
        self.frontier.push(leaf);
        Ok(())
    }

    /// Compares what is left after the last leaf; a sentence about the first head that could not be compared.
    pub(super) fn finish(mut self) -> Result<Option<String>, Failure> {
        self.compare()?;
        for seen in self.left {
            if seen.size == self.size && seen.root != self.root {
                return Err(other_root(seen.size));
            }
            if seen.size != self.size {
                self.skipped.push(seen.size);
            }
        }
        let sentence = |size: &u64| format!("the pack has nothing to compare the checkpoint of size {size} with");
        Ok(self.skipped.first().map(sentence))
    }

    fn compare(&mut self) -> Result<(), Failure> {
        let size = self.frontier.size();
        while let Some(seen) = self.left.next_if(|seen| seen.size <= size) {
            match self.frontier.root() {
                Some(root) if seen.size == size && root != seen.root => return Err(other_root(size)),
                Some(_) if seen.size == size => {}
                _ => self.skipped.push(seen.size),
            }
        }
        Ok(())
    }
}

fn other_root(size: u64) -> Failure {
    Failure::at(
        size.saturating_sub(1),
        format!("the log has another root at size {size} than a checkpoint seen elsewhere"),
    )
}
