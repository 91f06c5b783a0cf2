//! Step 3, and the comparing part of step 5: the signed head of a log, and heads that the auditor saw elsewhere.

use super::bag::{hashes, read_text};
use super::{Failure, Trust};
use crate::evidence::manifest::LogEntry;
use keytrail_kms::chain::cosignature::Note;
use keytrail_kms::chain::{
    Checkpoint, ConsistencyProof, Frontier, LogId, NoteError, RootHash, Tree, TrustPolicy, VerifyKey,
};
use std::path::Path;

/// Largest note read.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// A log's head and what to compare on the way to it.
pub(super) struct Head {
    pub(super) id: LogId,
    pub(super) note: String,
    pub(super) checkpoint: Checkpoint,
    /// Heads seen elsewhere that the leaves have to be compared with, the smallest first.
    pub(super) seen: Vec<Checkpoint>,
    /// Whether the auditor's policy has its quorum; true without one.
    pub(super) is_cosigned: bool,
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
    let bad_note = |error: NoteError| Failure::new(format!("cosignatures of the checkpoint: {error}"));
    let is_cosigned = trust.policy.as_ref().map_or(Ok(true), |policy| cosigned(policy, &note)).map_err(bad_note)?;
    let mut notes: Vec<String> =
        trust.heads.iter().filter(|note| note.lines().next() == Some(&log.origin)).cloned().collect();
    let previous = root.join(format!("logs/{id}/previous"));
    if previous.exists() {
        notes.push(read_text(&previous, NOTE_BYTES_MAX)?);
    }
    let mut seen = Vec::new();
    for note in notes {
        let head = key.verify(&note).map_err(|error| Failure::new(format!("checkpoint seen elsewhere: {error}")))?;
        if !is_continued(&root.join(format!("logs/{id}/consistency-{}", head.size)), &head, &checkpoint)? {
            seen.push(head);
        }
    }
    seen.sort_by_key(|checkpoint| checkpoint.size);
    Ok(Head { id, note, checkpoint, seen, is_cosigned })
}

fn key(log: &LogEntry, trust: &Trust) -> Result<VerifyKey, Failure> {
    if trust.keys().next().is_none() {
        return log.vkey.parse().map_err(|error| Failure::new(format!("vkey of the manifest: {error}")));
    }
    let key = trust.keys().find(|key| key.name() == log.origin);
    key.cloned().ok_or_else(|| Failure::new(format!("none of the keys given is of {}", log.origin)))
}

/// Whether the quorum has cosigned. A bad cosignature of any witness of the policy is an error, as of the log's key.
fn cosigned(policy: &TrustPolicy, note: &str) -> Result<bool, NoteError> {
    let note = Note::parse(note)?;
    let by = policy.witnesses().iter().map(|witness| Ok(note.cosigned_by(&witness.key)?.is_some()));
    let by: Vec<bool> = by.collect::<Result<_, NoteError>>()?;
    Ok(policy.is_quorum(|index| by.get(index) == Some(&true)))
}

/// Whether the pack's proof shows that `head` continues `old`; false when that is for the leaves to show.
fn is_continued(proof: &Path, old: &Checkpoint, head: &Checkpoint) -> Result<bool, Failure> {
    if old.size == 0 {
        return if old.root == Tree::new().root() { Ok(true) } else { Err(other_root(0)) };
    }
    if old.size >= head.size || !proof.exists() {
        return Ok(false);
    }
    let proof = ConsistencyProof { hashes: hashes(proof)? };
    if proof.leads((old.size, &old.root), (head.size, &head.root)) { Ok(true) } else { Err(other_root(old.size)) }
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
