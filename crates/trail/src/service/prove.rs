//! Evidence for findings: records of one log, with proofs under a checkpoint that our own tree agrees with.
//!
//! The prover's tree grows with every verified frame, behind Kafka with every released one; there the records that wait in
//! `unproved` are part of the tree for proofs, because a checkpoint may be over more than was released. After an outage the
//! journal holds far more than has landed, and the node signs all of it: [`Ahead`] is the tree over that. A checkpoint whose root differs from ours at its size means that
//! the signer and the records tell two stories: nothing is proved under it and the log itself becomes the finding.

use super::unproved::Unproved;
use super::{WatchedLog, describe, why};
use crate::alert::{ALERT_VERSION, Alert, Counts, EVIDENCE_MAX, EVIDENCE_PAYLOAD_BYTES_MAX, Evidence};
use crate::land::VerifiedFrame;
use crate::rule::Finding;
use keytrail_kms::chain::proof::InclusionProof;
use keytrail_kms::chain::tree::BLOCK_LEAVES;
use keytrail_kms::chain::{Checkpoint, Kind, LeafHash, LogId, NoteError, Tree, TreeError};
use keytrail_kms::journal::{Frame, ReadError, Reader};
use keytrail_kms::signer;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Newest frames kept in memory: evidence nearly always is among them.
const RECENT_FRAMES_MAX: usize = 16_384;

/// Payload bytes of the frames kept.
const RECENT_BYTES_MAX: usize = 32 << 20;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProveError {
    /// Not signed by the log's signer, or for another log.
    #[error("checkpoint is not this log's")]
    Note(#[from] NoteError),
    /// Another root than ours.
    #[error("checkpoint over {size} records has root {theirs}, our records give {ours}")]
    Mismatch { size: u64, theirs: String, ours: String },
    /// The same of an imported log.
    #[error("rows for a proof cannot be read: {0}")]
    Imported(String),
    /// The records needed are gone or damaged.
    #[error("records for a proof cannot be read")]
    Read(#[from] TreeError<ReadError>),
}

/// A tree over records of the journal that have not landed yet, up to a checkpoint. Of these records only the hashes are
/// looked at; they are verified when they land, and the tree proves nothing before its root is the checkpoint's.
struct Ahead {
    tree: Tree,
    reader: Reader,
    note: String,
    checkpoint: Checkpoint,
}

/// One log's tree and newest frames.
pub(super) struct Prover {
    pub(super) watched: WatchedLog,
    pub(super) log: LogId,
    /// Over what spool, lake and rules were given.
    pub(super) tree: Tree,
    /// What they were not given yet, behind Kafka.
    pub(super) unproved: Option<Unproved>,
    /// What has not landed yet but is under the node's checkpoint.
    ahead: Option<Ahead>,
    recent: VecDeque<VerifiedFrame>,
    recent_bytes: usize,
    reader: Option<Reader>,
}

impl Prover {
    pub(super) fn new(watched: WatchedLog, tree: Tree) -> Self {
        let log = LogId::of_origin(&watched.origin);
        Self { watched, log, tree, unproved: None, ahead: None, recent: VecDeque::new(), recent_bytes: 0, reader: None }
    }

    /// Takes the next verified frames; those it has already are only remembered.
    pub(super) fn extend(&mut self, frames: &[VerifiedFrame]) {
        for verified in frames {
            if verified.leaf.seq == self.tree.size() {
                self.tree.push(verified.frame.leaf_hash());
            }
            self.recent_bytes += verified.frame.payload.len();
            self.recent.push_back(verified.clone());
        }
        while self.recent.len() > RECENT_FRAMES_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.recent_bytes -= oldest.frame.payload.len();
        }
    }

    /// Learns a further key of the log from a record that its key of before has signed, wherever that record came from.
    /// False for one that the log's keys do not lead to.
    pub(super) fn follow_key(&mut self, verified: &VerifiedFrame) -> bool {
        let (seq, payload) = (verified.leaf.seq, &verified.frame.payload);
        let keys = &mut self.watched.signer;
        if verified.leaf.kind != Kind::KeyTransition || keys.holds(seq, payload) {
            return true;
        }
        if let Err(error) = keys.extend(seq, payload) {
            tracing::debug!(log = %self.log, seq, %error, "key transition is not followed");
            return false;
        }
        tracing::info!(log = %self.log, seq, key = %keys.current(), "log has another key");
        // For the next start, where the folder is not the node's own.
        let folder = &self.watched.checkpoints;
        let known = signer::read_keys(folder, keys.all().first()).map_or(0, |known| known.transitions().len());
        if known < keys.transitions().len()
            && let Err(error) = signer::write_keys(folder, keys)
        {
            tracing::error!(log = %self.log, error = describe(&error), "log's new key cannot be kept");
        }
        true
    }

    /// Keys that the folder knows and this trail has not seen the records of yet.
    pub(super) fn refresh_keys(&mut self) {
        signer::refresh_keys(&self.watched.checkpoints, &mut self.watched.signer);
    }

    /// The checkpoint in a note, if it is this log's.
    pub(super) fn read_note(&self, note: &str) -> Result<Checkpoint, ProveError> {
        let checkpoint = self.watched.signer.verify(note)?;
        if checkpoint.origin != self.watched.origin {
            return Err(ProveError::Note(NoteError::Checkpoint("origin is another log's")));
        }
        Ok(checkpoint)
    }

    /// Records in the tree, waiting ones included.
    pub(super) fn size(&self) -> u64 {
        self.unproved.as_ref().map_or(self.tree.size(), Unproved::size)
    }

    /// The checkpoint under which records were released or that was read ahead to, if it covers as many.
    pub(super) fn proof(&self, size_min: u64) -> Option<(String, Checkpoint)> {
        let ahead = self.ahead.as_ref().filter(|ahead| ahead.tree.size() == ahead.checkpoint.size);
        let proof = match ahead {
            Some(ahead) => (&ahead.note, &ahead.checkpoint),
            None => self.unproved.as_ref()?.proof().map(|(note, checkpoint)| (note, checkpoint))?,
        };
        (proof.1.size >= size_min).then(|| (proof.0.clone(), proof.1.clone()))
    }

    /// Reads ahead in the journal, so many records of it, until all that the checkpoint covers were read and agree with it.
    /// Whoever asks for a proof after that gets this checkpoint, until its records have landed. False: there is no more
    /// to read.
    pub(super) fn look_ahead(
        &mut self,
        note: &str,
        checkpoint: &Checkpoint,
        frames_max: usize,
    ) -> Result<bool, ProveError> {
        let block = self.tree.size() / BLOCK_LEAVES;
        let read = |source| ProveError::Read(TreeError::Source { block, source });
        let ahead = match &mut self.ahead {
            Some(ahead) => ahead,
            None => {
                let reader = Reader::open(&self.watched.frames, self.tree.size()).map_err(read)?;
                let (tree, note, checkpoint) = (self.tree.clone(), note.to_owned(), checkpoint.clone());
                self.ahead.insert(Ahead { tree, reader, note, checkpoint })
            }
        };
        let left = usize::try_from(ahead.checkpoint.size - ahead.tree.size()).unwrap_or(usize::MAX);
        let frames = ahead.reader.next(left.min(frames_max)).map_err(read)?;
        frames.iter().for_each(|frame| ahead.tree.push(frame.leaf_hash()));
        if frames.len() == left {
            let checkpoint = ahead.checkpoint.clone();
            self.agree(&checkpoint).inspect_err(|_| self.ahead = None)?;
        }
        Ok(!frames.is_empty())
    }

    /// Lets go of what was read ahead once it has landed, if that were the same records.
    pub(super) fn catch_up(&mut self) -> Result<(), ProveError> {
        let landed = self.tree.size();
        match self.ahead.take_if(|ahead| ahead.checkpoint.size <= landed) {
            Some(ahead) => self.agree(&ahead.checkpoint),
            None => Ok(()),
        }
    }

    /// That the checkpoint is over our records. The tree must have grown to its size.
    pub(super) fn agree(&mut self, checkpoint: &Checkpoint) -> Result<(), ProveError> {
        let ours = self.with_tree(|tree, leaves| tree.root_at(checkpoint.size, leaves))?;
        if ours == checkpoint.root {
            return Ok(());
        }
        let (theirs, ours) = (hex::encode(checkpoint.root.0), hex::encode(ours.0));
        Err(ProveError::Mismatch { size: checkpoint.size, theirs, ours })
    }

    /// The finding as an alert under a checkpoint that agrees with our records.
    pub(super) fn alert(&mut self, finding: &Finding, note: &str, size: u64, told: Told) -> Result<Alert, ProveError> {
        let log = self.log;
        let this = RefCell::new(&mut *self);
        let frame = |seq| this.borrow_mut().frame(seq);
        let prove = |seq| {
            let proof = this.borrow_mut().with_tree(|tree, leaves| tree.inclusion_proof(seq, size, leaves));
            proof.map_err(ProveError::Read)
        };
        let evidence = evidence(&finding.evidence, log, frame, prove)?;
        Ok(Alert { evidence, checkpoint: note.to_owned(), ..plain(finding, &self.watched.origin, told) })
    }

    /// Looks at the tree over all records, with a source for its leaf hashes.
    fn with_tree<T>(&mut self, look: impl FnOnce(&Tree, Leaves<'_>) -> T) -> T {
        if let Some(ahead) = self.ahead.take() {
            let seen = look(&ahead.tree, &mut |block| self.leaf_hashes(block));
            self.ahead = Some(ahead);
            return seen;
        }
        let Some(mut unproved) = self.unproved.take() else {
            let tree = std::mem::take(&mut self.tree);
            let seen = look(&tree, &mut |block| self.leaf_hashes(block));
            self.tree = tree;
            return seen;
        };
        let (tree, mut blocks) = unproved.parts();
        let seen = look(tree, &mut |block| blocks.leaf_hashes(block).unwrap_or_else(|| self.leaf_hashes(block)));
        self.unproved = Some(unproved);
        seen
    }

    fn frame(&mut self, seq: u64) -> Option<Frame> {
        if let Some(found) = self.recent_from(seq).next().filter(|found| found.leaf.seq == seq) {
            return Some(found.frame.clone());
        }
        let log = self.log;
        let read = self.reader().and_then(|reader| {
            reader.seek(seq);
            reader.next(1)
        });
        match read {
            Ok(mut frames) => frames.pop(),
            Err(error) => {
                self.reader = None;
                tracing::warn!(%log, seq, %error, "record for evidence cannot be read");
                None
            }
        }
    }

    fn recent_from(&self, seq: u64) -> impl Iterator<Item = &VerifiedFrame> {
        let at = self.recent.partition_point(|verified| verified.leaf.seq < seq);
        self.recent.range(at..)
    }

    fn leaf_hashes(&mut self, block: u64) -> Result<Vec<LeafHash>, ReadError> {
        let first = block * BLOCK_LEAVES;
        let wanted = usize::try_from(BLOCK_LEAVES).unwrap_or(usize::MAX);
        let recent = self.recent_from(first).take(wanted).enumerate();
        let dense = recent.take_while(|(index, found)| found.leaf.seq == first + *index as u64);
        let hashes: Vec<LeafHash> = dense.map(|(_, found)| found.frame.leaf_hash()).collect();
        if hashes.len() == wanted {
            return Ok(hashes);
        }
        self.reader()?.leaf_hashes(block)
    }

    fn reader(&mut self) -> Result<&mut Reader, ReadError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.watched.frames, 0)?);
        }
        Ok(self.reader.as_mut().expect("it was just opened"))
    }
}

/// Records with their proofs, as many as an alert has room for.
pub(super) fn evidence(
    seqs: &[u64],
    log: LogId,
    mut frame: impl FnMut(u64) -> Option<Frame>,
    mut prove: impl FnMut(u64) -> Result<InclusionProof, ProveError>,
) -> Result<Vec<Evidence>, ProveError> {
    let mut evidence = Vec::new();
    let mut bytes = 0;
    // The newest first, because it is what made the rule fire; the list ends where the room does.
    for &seq in seqs.iter().rev().take(EVIDENCE_MAX) {
        let Some(frame) = frame(seq) else {
            tracing::warn!(%log, seq, "record for evidence is not kept any more");
            continue;
        };
        bytes += frame.payload.len();
        if bytes > EVIDENCE_PAYLOAD_BYTES_MAX && !evidence.is_empty() {
            break;
        }
        evidence.push(Evidence::new(seq, &frame.leaf, &frame.salt, &frame.payload, &prove(seq)?));
    }
    evidence.reverse();
    Ok(evidence)
}

/// Gives the leaf hashes of a block.
type Leaves<'a> = &'a mut dyn FnMut(u64) -> Result<Vec<LeafHash>, ReadError>;

/// Number of the revision, when it was found, and what an alert says beside the finding.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) revision: u32,
    pub(super) now_us: u64,
    /// How many keys a first_seen rule knows.
    pub(super) known: Option<u64>,
    pub(super) counts: Counts,
}

/// The finding as an alert without evidence.
pub(super) fn plain(finding: &Finding, origin: &str, told: Told) -> Alert {
    let header = finding.rule.header();
    Alert {
        alert_version: ALERT_VERSION,
        alert_id: finding.alert_id.clone(),
        revision: told.revision,
        rule_id: finding.rule.id().to_owned(),
        rule_version: header.version,
        rule_hash: finding.rule.hash().to_owned(),
        rule_kind: finding.rule.kind().as_str().to_owned(),
        title: finding.rule.title().to_owned(),
        severity: finding.severity,
        origin: origin.to_owned(),
        log: finding.log.clone(),
        group_by: finding.group.clone(),
        bucket_start_micros: finding.bucket_start_us,
        first_event_micros: finding.first_event_us,
        last_event_micros: finding.last_event_us,
        detected_at_micros: i64::try_from(told.now_us).unwrap_or(i64::MAX),
        matched: finding.matched,
        row: finding.row.clone(),
        attack: header.attack.clone(),
        runbook: header.runbook.clone(),
        labels: header.labels.clone(),
        why: Some(why::why(finding, told.known)),
        counts: Some(told.counts),
        risk: Vec::new(),
        queries: why::queries(finding),
        evidence: Vec::new(),
        evidence_total: if finding.evidence.is_empty() { 0 } else { finding.matched },
        checkpoint: String::new(),
    }
}
