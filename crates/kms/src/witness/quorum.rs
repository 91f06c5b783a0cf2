//! Asks the witnesses of the trust policy about each new checkpoint, and says which part of the log a quorum covers.
//!
//! Nothing here stands in the way of the log: a round begins when a note was signed, each witness is asked at its own
//! pace and about the newest note only, and with a quorum the note goes to `checkpoints/cosigned` with all cosignatures so
//! far. Calls that must not be answered before (`wait_for`) wait here, within a bound. A witness whose memory contradicts
//! the journal, and that shows a note under the log's own key for it, stops the node: the journal was rolled back.

use super::ask::{Answered, AskError, Asked};
use crate::chain::ConsistencyProof;
use crate::chain::checkpoint::Checkpoint;
use crate::chain::transition::LogKeys;
use crate::chain::tree::Tree;
use crate::chain::trust_policy::TrustPolicy;
use crate::journal::Reader;
use crate::node::Node;
use crate::ship::PublishedError;
use crate::ship::published;
use crate::signer::{COSIGNED_NAME, replace};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// For one witness and one note, whatever it takes.
const ASK_BOUND: Duration = Duration::from_secs(2);
/// Before the same note is offered again when too few have cosigned it.
const AGAIN: Duration = Duration::from_secs(1);
/// How long start-up asks the witnesses, all at once.
const START_BOUND: Duration = Duration::from_secs(5);
/// Answers on their way to the round; one a witness is enough.
const ANSWERS: usize = 64;

/// Whose cosignatures are wanted, and by which calls they are waited for.
#[derive(Clone, Debug)]
pub struct QuorumSettings {
    /// Who must cosign.
    pub policy: TrustPolicy,
    /// PEM: authorities of the witnesses' certificates besides those that the system trusts.
    pub roots_pem: Option<Vec<u8>>,
    /// Operations whose answer waits for the quorum.
    pub wait_for: BTreeSet<String>,
    /// For how long.
    pub wait_bound: Duration,
}

/// A signed note and what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedNote {
    pub(crate) size: u64,
    pub(crate) note: String,
}

/// How one witness is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessState {
    /// Its name in the policy.
    pub name: String,
    /// Size that it cosigned last in this run.
    pub cosigned: Option<u64>,
    /// Why it has not cosigned what it was last asked about.
    pub trouble: Option<String>,
}

/// The policy at work.
pub(crate) struct Quorum {
    settings: QuorumSettings,
    /// By index in the policy; None for a witness without an address.
    asked: Vec<Option<Arc<Asked>>>,
    /// Records below this seq are under a checkpoint that the quorum has cosigned.
    covered: watch::Sender<u64>,
    states: Mutex<Vec<WitnessState>>,
    /// Calls whose wait was in vain.
    unwitnessed: AtomicU64,
}

/// What one witness says to the note of a size.
struct Answer {
    index: usize,
    size: u64,
    line: Result<String, AskError>,
}

impl Quorum {
    /// Clients for all witnesses of the policy.
    pub(crate) fn new(settings: QuorumSettings) -> Result<Self, AskError> {
        let roots = settings.roots_pem.as_deref();
        let witnesses = settings.policy.witnesses();
        let asked = witnesses.iter().map(|witness| Asked::new(witness, roots).map(|asked| asked.map(Arc::new)));
        let asked = asked.collect::<Result<_, _>>()?;
        let state = |name: &String| WitnessState { name: name.clone(), cosigned: None, trouble: None };
        let states = witnesses.iter().map(|witness| state(&witness.name)).collect();
        let (covered, states) = (watch::Sender::new(0), Mutex::new(states));
        Ok(Self { settings, asked, covered, states, unwitnessed: AtomicU64::new(0) })
    }

    /// Takes up where the last run ended: the note in `checkpoints/cosigned`, if the quorum is still one.
    pub(crate) fn resume(&self, checkpoints: &Path, log: &LogKeys, durable: u64) {
        let Ok(note) = std::fs::read_to_string(checkpoints.join(COSIGNED_NAME)) else { return };
        match self.settings.policy.judge(&note, Some(log)) {
            Ok(judged) if judged.satisfied && judged.checkpoint.size <= durable => {
                self.covered.send_replace(judged.checkpoint.size);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "checkpoints/cosigned is not believed"),
        }
    }

    /// Records below this seq are covered.
    pub(crate) fn covered(&self) -> u64 {
        *self.covered.borrow()
    }

    /// The same, with notice whenever it moves.
    pub(crate) fn follow_covered(&self) -> watch::Receiver<u64> {
        self.covered.subscribe()
    }

    /// How the witnesses are, in the policy's order.
    pub(crate) fn states(&self) -> Vec<WitnessState> {
        self.states.lock().clone()
    }

    /// Calls that got an error because no quorum covered them in time.
    pub(crate) fn unwitnessed(&self) -> u64 {
        self.unwitnessed.load(Ordering::Relaxed)
    }

    /// Whether the answer to this operation waits.
    pub(crate) fn is_waited_for(&self, operation: &str) -> bool {
        self.settings.wait_for.contains(operation)
    }

    /// Waits until the record is covered; false when that takes too long, which is counted.
    pub(crate) async fn wait(&self, node: &Node, seq: u64) -> bool {
        node.checkpoint_wanted.notify_one();
        let covered = self.reached(seq + 1, self.settings.wait_bound).await;
        if !covered {
            self.unwitnessed.fetch_add(1, Ordering::Relaxed);
        }
        covered
    }

    /// Waits until so many records are covered.
    pub(crate) async fn reached(&self, size: u64, bound: Duration) -> bool {
        let mut covered = self.covered.subscribe();
        matches!(tokio::time::timeout(bound, covered.wait_for(|covered| *covered >= size)).await, Ok(Ok(_)))
    }

    /// Whether so many hold of these lines.
    fn is_met(&self, lines: &[Option<String>]) -> bool {
        self.settings.policy.is_quorum(|index| lines.get(index).is_some_and(Option::is_some))
    }

    fn note_state(&self, answer: &Answer) {
        let mut states = self.states.lock();
        let Some(state) = states.get_mut(answer.index) else { return };
        let trouble = answer.line.as_ref().err().map(|error| crate::service::chain(error));
        match (&trouble, &state.trouble) {
            (Some(trouble), None) => tracing::warn!(witness = state.name, trouble, "witness does not cosign"),
            (None, Some(_)) => tracing::info!(witness = state.name, size = answer.size, "witness cosigns again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if trouble.is_none() {
            state.cosigned = Some(answer.size);
        }
        state.trouble = trouble;
    }
}

/// Asks for as long as it is not dropped.
pub(crate) async fn follow(node: Arc<Node>) {
    let Some(quorum) = &node.quorum else { return };
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    let offers = watch::Sender::new(None);
    let mut witnesses = JoinSet::new();
    for (index, asked) in quorum.asked.iter().enumerate() {
        let Some(asked) = asked else { continue };
        witnesses.spawn(ask_each(Arc::clone(&node), index, Arc::clone(asked), offers.subscribe(), answers.clone()));
    }
    let mut newest = node.newest_note.subscribe();
    loop {
        let Some(note) = newest.borrow_and_update().clone() else {
            if newest.changed().await.is_err() {
                return;
            }
            continue;
        };
        offers.send_replace(Some(Arc::clone(&note)));
        let met = round(&node, quorum, &note, &mut answered, (&mut newest, witnesses.len())).await;
        let newer = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.size != note.size));
        if met {
            if newer.await.is_err() {
                return;
            }
        } else {
            // The same note again, if there is no newer one.
            let _ = tokio::time::timeout(AGAIN, newer).await;
        }
    }
}

/// Gathers answers about one note until all have come, or until the quorum has and a newer note waits.
async fn round(
    node: &Arc<Node>,
    quorum: &Quorum,
    note: &SignedNote,
    answered: &mut mpsc::Receiver<Answer>,
    (newest, mut open): (&mut watch::Receiver<Option<Arc<SignedNote>>>, usize),
) -> bool {
    let mut lines: Vec<Option<String>> = vec![None; quorum.asked.len()];
    let mut met = quorum.is_met(&lines);
    let mut published = 0;
    if met {
        published = publish(node, quorum, note, &lines).await;
    }
    while open > 0 {
        let answer = tokio::select! {
            answer = answered.recv() => answer,
            _ = newest.wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.size != note.size)), if met => break,
        };
        let Some(answer) = answer else { break };
        quorum.note_state(&answer);
        // About an earlier note: that round is over, and the witness takes up this one next.
        if answer.size != note.size {
            continue;
        }
        open -= 1;
        if let (Ok(line), Some(slot)) = (answer.line, lines.get_mut(answer.index)) {
            *slot = Some(line);
        }
        if !met && quorum.is_met(&lines) {
            met = true;
            published = publish(node, quorum, note, &lines).await;
        }
    }
    if met && lines.iter().flatten().count() > published {
        publish(node, quorum, note, &lines).await;
    }
    met
}

/// Puts the note with its cosignatures where verifiers look, then tells who waits. Gives how many there are.
async fn publish(node: &Arc<Node>, quorum: &Quorum, note: &SignedNote, lines: &[Option<String>]) -> usize {
    let cosigned: String =
        std::iter::once(note.note.as_str()).chain(lines.iter().flatten().map(String::as_str)).collect();
    let dir = node.dir.join("checkpoints");
    let written = tokio::task::spawn_blocking(move || replace(&dir, COSIGNED_NAME, cosigned.as_bytes(), 0o644)).await;
    match written {
        Ok(Ok(())) => {
            quorum.covered.send_if_modified(|covered| {
                let grown = *covered < note.size;
                *covered = note.size.max(*covered);
                grown
            });
            lines.iter().flatten().count()
        }
        Ok(Err(error)) => {
            tracing::error!(error = %crate::service::chain(&error), "cosigned checkpoint cannot be kept");
            0
        }
        Err(_) => 0,
    }
}

/// Asks one witness about each offer, or the newest of those that came meanwhile.
async fn ask_each(
    node: Arc<Node>,
    index: usize,
    asked: Arc<Asked>,
    mut offers: watch::Receiver<Option<Arc<SignedNote>>>,
    answers: mpsc::Sender<Answer>,
) {
    // What the witness knows, once it has said so; from nothing it would take any note the first time.
    let mut known = 0;
    while offers.changed().await.is_ok() {
        let Some(note) = offers.borrow_and_update().clone() else { continue };
        let line = tokio::time::timeout(ASK_BOUND, ask(&node, &asked, &note, &mut known)).await;
        let answer = Answer { index, size: note.size, line: line.unwrap_or(Err(AskError::Late)) };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// A witness's cosignature over a note, with as many questions as that takes.
async fn ask(node: &Arc<Node>, asked: &Asked, note: &SignedNote, known: &mut u64) -> Result<String, AskError> {
    // Once to learn its size, once with a proof from there, once more if another node of the log came in between.
    for _ in 0..3 {
        if *known > note.size {
            return Err(contradiction(node, asked).await);
        }
        let proof = proof(node, *known, note.size).await?;
        match asked.submit(&note.note, *known, proof).await? {
            Answered::Cosigned(line) => {
                *known = note.size;
                return Ok(line);
            }
            Answered::Known(size) => *known = size,
            Answered::Inconsistent => return Err(contradiction(node, asked).await),
        }
    }
    Err(AskError::Answer("its size changes while it is asked"))
}

async fn proof(node: &Arc<Node>, old: u64, size: u64) -> Result<ConsistencyProof, AskError> {
    let node = Arc::clone(node);
    let made = tokio::task::spawn_blocking(move || node.journal.consistency_proof(old, size)).await;
    let made = made.map_err(|_| AskError::Proof("its task ended".to_owned()))?;
    made.map_err(|error| AskError::Proof(crate::service::chain(&error)))
}

/// The witness knows more than this log, or another one: it has to show the note for it. One that the journal contradicts
/// ends the node.
async fn contradiction(node: &Arc<Node>, asked: &Asked) -> AskError {
    let checkpoint = match asked.newest(&node.log_keys()).await {
        Ok(Some(checkpoint)) => checkpoint,
        Ok(None) => return AskError::Unproved,
        Err(error) => return error,
    };
    let (comparing, holder) = (Arc::clone(node), holder(asked));
    let compared = tokio::task::spawn_blocking(move || compare_running(&comparing, &checkpoint, &holder)).await;
    if let Ok(Err(error)) = compared
        && matches!(error, PublishedError::Shorter { .. } | PublishedError::Other { .. })
    {
        node.fail(crate::service::chain(&error));
    }
    AskError::Unproved
}

fn compare_running(node: &Node, checkpoint: &Checkpoint, holder: &str) -> Result<(), PublishedError> {
    let mut reader = Reader::open(&node.journal_dir(), 0).map_err(PublishedError::Read)?;
    node.journal.with_tree(|tree| published::compare(checkpoint, holder, tree, |block| reader.leaf_hashes(block)))
}

fn holder(asked: &Asked) -> String {
    format!("witness {}", asked.name())
}

/// What start-up learns from the witnesses, as epoch-start has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard(Vec<(String, Option<Option<u64>>)>);

impl Heard {
    /// None when nobody was asked.
    pub(crate) fn json(&self) -> Option<Value> {
        let one = |(name, size): &(String, Option<Option<u64>>)| match size {
            None => json!({"name": name, "reached": false}),
            Some(None) => json!({"name": name, "reached": true}),
            Some(Some(size)) => json!({"name": name, "reached": true, "comparedSize": size}),
        };
        (!self.0.is_empty()).then(|| self.0.iter().map(one).collect())
    }
}

/// The journal as start-up compares witnesses with it.
pub(crate) struct Comparing<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) reader: &'a mut Reader,
}

impl Comparing<'_> {
    fn compare(&mut self, checkpoint: &Checkpoint, holder: &str) -> Result<(), PublishedError> {
        published::compare(checkpoint, holder, self.tree, |block| self.reader.leaf_hashes(block))
    }

    fn consistency(&mut self, old: u64, size: u64) -> Result<ConsistencyProof, AskError> {
        let made = self.tree.consistency_proof(old, size, |block| self.reader.leaf_hashes(block));
        made.map_err(|error| AskError::Proof(crate::service::chain(&error)))
    }
}

/// Asks all witnesses at once what they cosigned last, and compares each answer. One that shows no checkpoint, as C2SP
/// does not ask it to, is handed the newest note of before and answers by the size that it knows. Those that do not answer
/// in time are compared with when they are asked to cosign.
pub(crate) async fn hear(
    quorum: &Quorum,
    log: &LogKeys,
    newest: Option<&SignedNote>,
    journal: &mut Comparing<'_>,
) -> Result<Heard, PublishedError> {
    let mut asking = JoinSet::new();
    let asked: Vec<&Arc<Asked>> = quorum.asked.iter().flatten().collect();
    for (index, asked) in asked.iter().enumerate() {
        let (asked, log) = (Arc::clone(asked), log.clone());
        asking.spawn(async move { (index, tokio::time::timeout(START_BOUND, asked.newest(&log)).await) });
    }
    let mut heard: Vec<_> = asked.iter().map(|asked| (asked.name().to_owned(), None)).collect();
    while let Some(answered) = asking.join_next().await {
        let Ok((index, answer)) = answered else { continue };
        let Some(((name, size), asked)) = heard.get_mut(index).zip(asked.get(index)) else { continue };
        let shown = match answer {
            Ok(Ok(Some(checkpoint))) => {
                journal.compare(&checkpoint, &holder(asked))?;
                Ok(Some(checkpoint.size))
            }
            Ok(Ok(None) | Err(AskError::Status(_))) => size_by_note(asked, newest, journal).await?,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AskError::Late),
        };
        match shown {
            Ok(known) => *size = Some(known),
            Err(error) => {
                let error = crate::service::chain(&error);
                tracing::warn!(witness = name, error, "witness cannot be asked what it cosigned, comparing later");
            }
        }
    }
    Ok(Heard(heard))
}

/// What a witness of any make says to a note that was signed before: 409 with its size unless it knows just that note. A
/// size above the journal, or a proof from it that the witness refuses, ends the start: the policy's own witness says that
/// the log is not the one it knew.
async fn size_by_note(
    asked: &Asked,
    newest: Option<&SignedNote>,
    journal: &mut Comparing<'_>,
) -> Result<Result<Option<u64>, AskError>, PublishedError> {
    let Some(SignedNote { size, note }) = newest else { return Ok(Ok(None)) };
    let mut old = *size;
    // Once to learn its size, once with a proof from there.
    for _ in 0..2 {
        let proof = match journal.consistency(old, *size) {
            Ok(proof) => proof,
            Err(error) => return Ok(Err(error)),
        };
        let disputed = || PublishedError::Disputed { holder: holder(asked), size: old };
        match tokio::time::timeout(ASK_BOUND, asked.submit(note, old, proof)).await {
            Ok(Ok(Answered::Cosigned(_))) => return Ok(Ok(Some(*size))),
            Ok(Ok(Answered::Inconsistent)) => return Err(disputed()),
            Ok(Ok(Answered::Known(0))) => return Ok(Ok(None)),
            Ok(Ok(Answered::Known(claimed))) if claimed > journal.tree.size() => {
                return Err(PublishedError::Claimed { holder: holder(asked), journal: journal.tree.size(), claimed });
            }
            // Between the note and the journal's end: compared when it is asked to cosign.
            Ok(Ok(Answered::Known(claimed))) if claimed > *size => return Ok(Ok(Some(claimed))),
            Ok(Ok(Answered::Known(claimed))) => old = claimed,
            Ok(Err(error)) => return Ok(Err(error)),
            Err(_) => return Ok(Err(AskError::Late)),
        }
    }
    Ok(Err(AskError::Answer("its size changes while it is asked")))
}
