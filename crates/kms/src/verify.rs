//! Re-checks a data folder: every batch, leaf, payload, link and time, and the tree against the signed checkpoint.
//!
//! Reads only and takes no lock, so it works beside a running node and on a copy. It trusts the verifier key that the
//! caller gives; without one it takes the folder's own, which proves nothing against someone who could write to the
//! folder: the auditor brings the key.

use crate::chain::TileKind;
use crate::chain::checkpoint::{Checkpoint, VerifyKey};
use crate::chain::gap::{GapDeclaration, GapError};
use crate::chain::leaf::{Kind, Leaf, LeafHash, LogId};
use crate::chain::transition::LogKeys;
use crate::chain::tree::{BLOCK_LEAVES, RootHash, Tree};
use crate::chain::trust_policy::TrustPolicy;
use crate::journal::{JournalError, Reader, Start, Step, Walk, Walked};
use crate::signer::{self, COSIGNED_NAME, GAP_NAME, LATEST_NAME, SignedHead, VKEY_NAME};
use crate::tiles::TileFiles;
use bytes::Bytes;
use std::io;
use std::path::Path;

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Intact, and the checkpoint covers every durable record.
    Verified,
    /// Intact, but signed for only up to `seq` (inclusive; None: nothing is signed for).
    VerifiedUpTo {
        /// The last record that the checkpoint covers.
        seq: Option<u64>,
        /// What is above it.
        reason: String,
    },
    /// Not intact.
    Failed {
        /// The first record that cannot be trusted, where that is known.
        seq: Option<u64>,
        /// What is wrong and where.
        reason: String,
    },
}

/// What was looked at, and the verdict.
#[derive(Clone, Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// The log's id, from its first segment.
    pub log: Option<LogId>,
    /// Seq of the first record that is there; those below were pruned, as a record says.
    pub first_seq: u64,
    /// Records found intact, from that one on without a gap.
    pub records: u64,
    /// Batches found intact.
    pub batches: u64,
    /// Highest epoch: how many times the node has started and written.
    pub epochs: u64,
    /// Time of the first record.
    pub first_time_us: Option<u64>,
    /// Time of the last record.
    pub last_time_us: Option<u64>,
    /// The checkpoint, when its signature verifies.
    pub checkpoint: Option<Checkpoint>,
    /// Whether the key was the caller's (true) or the folder's own.
    pub key_is_trusted: bool,
    /// The log's keys, when their transitions verify from or to that key.
    pub keys: Option<LogKeys>,
    /// The declaration that the log began with: it follows one that misses records, and is complete only from there on.
    pub gap: Option<DeclaredGap>,
    /// What the policy's quorum has cosigned, when there is a policy and a quorum.
    pub cosigned: Option<Cosigned>,
}

/// A gap that two operators declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredGap {
    /// What they declared.
    pub declaration: GapDeclaration,
    /// Who.
    pub operators: Vec<VerifyKey>,
}

/// A checkpoint that the quorum of a policy has cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Names of the witnesses that have, in the policy, each with its time in Unix seconds.
    pub witnesses: Vec<(String, u64)>,
}

/// What the caller trusts, from somewhere else than the folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trusted<'a> {
    /// The log's key.
    pub key: Option<&'a VerifyKey>,
    /// Which witnesses must have cosigned.
    pub policy: Option<&'a TrustPolicy>,
    /// Who may declare a gap; whoever it says, when empty.
    pub operators: &'a [VerifyKey],
}

/// Verifies the data folder `dir` under its own verifier key. `progress` is told the records checked so far.
pub fn verify_folder(dir: &Path, progress: impl FnMut(u64)) -> Report {
    verify_folder_with(dir, None, progress)
}

/// Verifies the data folder `dir`, under `key` if the caller has one that it trusts.
pub fn verify_folder_with(dir: &Path, key: Option<&VerifyKey>, progress: impl FnMut(u64)) -> Report {
    verify_folder_trusting(dir, Trusted { key, ..Trusted::default() }, progress)
}

/// Verifies the data folder `dir` with what the caller trusts. With a policy only records under a checkpoint that its
/// quorum has cosigned count as covered.
pub fn verify_folder_trusting(dir: &Path, trusted: Trusted<'_>, progress: impl FnMut(u64)) -> Report {
    let Trusted { key, policy, operators } = trusted;
    let mut check = Check::default();
    // A policy that names this log brings its key.
    let named = policy.map_or(&[][..], TrustPolicy::logs);
    let key = key.or(match named {
        [only] => Some(only),
        _ => None,
    });
    let verdict = match check.run(dir, Trusted { key, policy, operators }, progress) {
        Ok(verdict) => verdict,
        Err(Failure { seq, reason }) => Verdict::Failed { seq, reason },
    };
    Report {
        verdict,
        log: check.log,
        first_seq: check.first_seq,
        records: check.tree.size() - check.first_seq,
        batches: check.batches,
        epochs: check.epochs,
        first_time_us: check.first_time_us,
        last_time_us: check.last_time_us,
        checkpoint: check.checkpoint,
        key_is_trusted: key.is_some(),
        keys: check.keys,
        gap: check.gap.map(|(declaration, operators)| DeclaredGap { declaration, operators }),
        cosigned: check.cosigned,
    }
}

/// Leaf hashes of the tree that `verify_folder` walks are needed again only where the checkpoint cuts a block, so the
/// roots wanted are taken on the way past.
#[derive(Default)]
struct Check {
    log: Option<LogId>,
    first_seq: u64,
    tree: Tree,
    batches: u64,
    epochs: u64,
    first_time_us: Option<u64>,
    last_time_us: Option<u64>,
    keys: Option<LogKeys>,
    gap: Option<(GapDeclaration, Vec<VerifyKey>)>,
    checkpoint: Option<Checkpoint>,
    cosigned: Option<Cosigned>,
    /// Roots that must come out: who says so, at which size.
    wanted: Vec<(&'static str, u64, RootHash)>,
    /// Roots that key transitions name, where the records below are still there.
    roots: Vec<(u64, RootHash)>,
}

struct Failure {
    seq: Option<u64>,
    reason: String,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { seq: None, reason: reason.into() }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self { seq: error.seq(), reason: crate::describe(&error) }
    }
}

impl Check {
    fn run(&mut self, dir: &Path, trusted: Trusted<'_>, mut progress: impl FnMut(u64)) -> Result<Verdict, Failure> {
        // In this order beside a running node: what is cosigned was signed before, and a checkpoint never covers more
        // than the head read after it.
        let checkpoints = dir.join("checkpoints");
        let mut keys = read_keys(&checkpoints, trusted.key)?;
        if let Some(policy) = trusted.policy {
            self.read_cosigned(&checkpoints, policy, keys.as_ref())?;
        }
        self.read_checkpoint(&checkpoints, keys.as_ref())?;
        let journal = dir.join("journal");
        let head = Reader::open(&journal, 0)?.durable()?;
        let signed = self.wanted.iter().map(|(_, size, _)| *size).max().unwrap_or(0);
        let mut walk = Walk::open(&journal, None, Start::Genesis, false)?;
        self.log = Some(walk.chain.log);
        self.tree = walk.base_tree();
        self.first_seq = self.tree.size();
        self.check_log()?;
        self.check_signed_beyond_start()?;
        self.check_roots()?;
        if self.first_seq > 0 {
            // The first record is pruned; what it said is kept beside the checkpoints.
            let kept = read_text(&checkpoints.join(GAP_NAME))?;
            kept.map_or(Ok(()), |text| self.enter_gap(text.as_bytes(), trusted.operators))?;
        }
        while walk.chain.next_seq < head.max(signed) {
            match walk.step()? {
                Step::Batch(batch) => self.enter(&batch, trusted.operators, &mut progress)?,
                Step::End(tail) => return Err(self.ends_early(head, tail.torn)),
            }
        }
        // Whole batches above the head: written by a node that then lost power, or that is at it right now.
        while let Some(batch) = walk.step_if_whole()? {
            self.enter(&batch, trusted.operators, &mut progress)?;
        }
        walk.check_base()?;
        if let Some(keys) = &mut keys {
            self.check_transitions(keys, &walk.transitions)?;
        }
        self.keys = keys;
        self.check_tiles(dir)?;
        Ok(self.conclude(trusted.policy.is_some()))
    }

    /// The largest checkpoint that the policy's quorum has cosigned; the plain one satisfies a policy that wants none.
    fn read_cosigned(&mut self, dir: &Path, policy: &TrustPolicy, keys: Option<&LogKeys>) -> Result<(), Failure> {
        for name in [COSIGNED_NAME, LATEST_NAME] {
            let Some(note) = read_text(&dir.join(name))? else { continue };
            let judged = policy.judge(&note, Some(keys.ok_or_else(no_key)?));
            let judged = judged.map_err(|error| Failure::new(format!("checkpoints/{name}: {error}")))?;
            let size = judged.checkpoint.size;
            if !judged.satisfied || self.cosigned.as_ref().is_some_and(|known| known.checkpoint.size >= size) {
                continue;
            }
            let times = policy.witnesses().iter().zip(judged.cosigned_s);
            let witnesses = times.filter_map(|(witness, time_s)| Some((witness.name.clone(), time_s?))).collect();
            self.wanted.push(("the cosigned checkpoint", size, judged.checkpoint.root));
            self.cosigned = Some(Cosigned { checkpoint: judged.checkpoint, witnesses });
        }
        Ok(())
    }

    /// Tiles are made of the journal, so missing ones are no fault; what is there must be true as far as it is signed for.
    fn check_tiles(&self, dir: &Path) -> Result<(), Failure> {
        let blocks = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size / BLOCK_LEAVES);
        let found = TileFiles::of(dir).first_false(&self.tree, blocks);
        match found.map_err(|error| Failure::new(crate::describe(&error)))? {
            None => Ok(()),
            Some(tile) => {
                let seq = match tile.kind {
                    TileKind::Entries | TileKind::Hashes(0) => Some(tile.index * BLOCK_LEAVES),
                    TileKind::Hashes(_) => None,
                };
                Err(Failure { seq, reason: format!("{tile} in tiles/ is not what the journal says") })
            }
        }
    }

    /// What was pruned is vouched for by a checkpoint over more alone.
    fn check_signed_beyond_start(&self) -> Result<(), Failure> {
        let covered = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        if self.first_seq <= covered {
            return Ok(());
        }
        let reason = format!("the journal begins at seq {}, above the checkpoint of size {covered}", self.first_seq);
        Err(Failure { seq: Some(self.first_seq), reason })
    }

    /// What the folder says of the log's keys is what its journal says: each transition is a record at its seq, over the
    /// root that it names, and there are no others. The record alone may be there yet, above the checkpoint.
    fn check_transitions(&self, keys: &mut LogKeys, records: &[(u64, Bytes)]) -> Result<(), Failure> {
        let covered = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        let end = keys.transitions().len();
        for (seq, payload) in records {
            if keys.holds(*seq, payload) {
                continue;
            }
            let failed = |reason: String| Failure { seq: Some(*seq), reason };
            if *seq < covered {
                return Err(failed("record of a key transition is not in checkpoints/transitions".to_owned()));
            }
            keys.extend(*seq, payload).map_err(|error| failed(error.to_string()))?;
        }
        let recorded = |seq: u64| records.iter().any(|(found, _)| *found == seq);
        let known = keys.transitions().iter().take(end).map(|transition| transition.size);
        match known.filter(|seq| *seq >= self.first_seq).find(|seq| !recorded(*seq)) {
            Some(seq) => {
                let reason = "checkpoints/transitions names a key transition that is not recorded there".to_owned();
                Err(Failure { seq: Some(seq), reason })
            }
            None => Ok(()),
        }
    }

    fn read_checkpoint(&mut self, dir: &Path, keys: Option<&LogKeys>) -> Result<(), Failure> {
        for transition in keys.map_or(&[][..], LogKeys::transitions) {
            let root = hex::decode(&transition.root_hash).ok().and_then(|root| root.try_into().ok());
            let root = root.ok_or_else(|| Failure::new("checkpoints/transitions: root is not 32 bytes of hex"))?;
            self.roots.push((transition.size, RootHash(root)));
        }
        if let Some(note) = read_text(&dir.join(LATEST_NAME))? {
            let own = keys.ok_or_else(no_key)?;
            let checkpoint = own.verify(&note).map_err(|error| Failure::new(format!("checkpoints/latest: {error}")))?;
            self.wanted.push(("the signed checkpoint", checkpoint.size, checkpoint.root));
            self.checkpoint = Some(checkpoint);
        }
        // After the note: the signer writes its memory first, so beside a running node this one may be newer.
        let remembered = SignedHead::read(dir).map_err(|error| Failure::new(crate::describe(&error)))?;
        if let Some(SignedHead { size, root }) = remembered {
            self.wanted.push(("the signer's head file", size, root));
        }
        let covered = self.checkpoint.as_ref().map(|checkpoint| checkpoint.size);
        if covered.is_some_and(|size| remembered.is_none_or(|head| head.size < size)) {
            return Err(Failure::new("checkpoints/latest covers more than the signer remembers signing"));
        }
        Ok(())
    }

    fn check_log(&self) -> Result<(), Failure> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        if self.log == Some(checkpoint.log_id()) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "the checkpoint is of {}, which is another log than the journal's",
            checkpoint.origin
        )))
    }

    fn enter(
        &mut self,
        batch: &Walked,
        operators: &[VerifyKey],
        progress: &mut impl FnMut(u64),
    ) -> Result<(), Failure> {
        for (leaf, hash, frame) in &batch.records {
            self.enter_record(leaf, *hash)?;
            if leaf.kind == Kind::GapDeclaration {
                let failed = |found: Failure| Failure { seq: Some(leaf.seq), ..found };
                if leaf.seq != 0 {
                    return Err(failed(Failure::new("gap declaration is not the first record of a log")));
                }
                self.enter_gap(&frame.payload, operators).map_err(failed)?;
            }
        }
        self.batches += 1;
        progress(self.tree.size());
        Ok(())
    }

    /// A log that follows another one says so under two signatures.
    fn enter_gap(&mut self, payload: &[u8], operators: &[VerifyKey]) -> Result<(), Failure> {
        let read = GapDeclaration::parse(payload).and_then(|declaration| {
            if Some(LogId::of_origin(&declaration.origin)) != self.log {
                return Err(GapError::Origin(declaration.origin));
            }
            let signers = declaration.signers(|key| operators.is_empty() || operators.contains(key))?;
            Ok((declaration, signers))
        });
        self.gap = Some(read.map_err(|error| Failure::new(error.to_string()))?);
        Ok(())
    }

    fn enter_record(&mut self, leaf: &Leaf, hash: LeafHash) -> Result<(), Failure> {
        self.tree.push(hash);
        self.epochs = leaf.epoch;
        self.first_time_us.get_or_insert(leaf.time_us);
        self.last_time_us = Some(leaf.time_us);
        self.check_roots()
    }

    fn check_roots(&self) -> Result<(), Failure> {
        let size = self.tree.size();
        for (who, _, root) in self.wanted.iter().filter(|(_, wanted, _)| *wanted == size) {
            if self.tree.root() != *root {
                let reason = format!("the journal's root at size {size} is not the one of {who}");
                return Err(Failure { seq: size.checked_sub(1), reason });
            }
        }
        if self.roots.iter().any(|(at, root)| *at == size && *root != self.tree.root()) {
            let reason = format!("the journal's root at size {size} is not the one of the key transition there");
            return Err(Failure { seq: Some(size), reason });
        }
        Ok(())
    }

    fn ends_early(&self, head: u64, torn: Option<&'static str>) -> Failure {
        let size = self.tree.size();
        let named = self.wanted.iter().filter(|(_, wanted, _)| *wanted > size).map(|(who, wanted, _)| (*who, *wanted));
        let (who, wanted) = named.max_by_key(|(_, wanted)| *wanted).unwrap_or(("journal/head", head));
        let torn = torn.map(|found| format!(" ({found})")).unwrap_or_default();
        let reason =
            format!("the journal ends before seq {size}{torn} although {who} says that {wanted} records were durable");
        Failure { seq: Some(size), reason }
    }

    fn conclude(&self, by_policy: bool) -> Verdict {
        let records = self.tree.size();
        let cosigned = self.cosigned.as_ref().map(|cosigned| &cosigned.checkpoint);
        let covering = if by_policy { cosigned } else { self.checkpoint.as_ref() };
        let covered = covering.map_or(0, |checkpoint| checkpoint.size);
        if covered == records && covering.is_some() {
            return Verdict::Verified;
        }
        let above = records - covered;
        let reason = match (covering, by_policy) {
            (Some(_), false) => format!("{above} newer records are intact but no checkpoint covers them yet"),
            (None, false) => format!("{above} records are intact but no checkpoint has been signed"),
            (Some(_), true) => format!("{above} newer records are intact but no quorum of witnesses has cosigned them"),
            (None, true) => format!("{above} records are intact but no quorum of witnesses has cosigned any"),
        };
        Verdict::VerifiedUpTo { seq: covered.checked_sub(1), reason }
    }
}

/// The keys that the folder knows; None without a verifier key, which is no fault as long as nothing is signed.
fn read_keys(checkpoints: &Path, trusted: Option<&VerifyKey>) -> Result<Option<LogKeys>, Failure> {
    if trusted.is_none() && !checkpoints.join(VKEY_NAME).exists() {
        return Ok(None);
    }
    signer::read_keys(checkpoints, trusted).map(Some).map_err(|error| Failure::new(crate::describe(&error)))
}

fn no_key() -> Failure {
    Failure::new("checkpoints/vkey is missing although there is a checkpoint")
}

fn read_text(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("cannot read {}: {error}", path.display()))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::leaf::Kind;
    use crate::clock::FakeClock;
    use crate::journal::{Draft, Journal, JournalOptions, PruneBounds};
    use crate::signer::{CheckpointSigner, HEAD_NAME, LocalSigner};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::{Arc, LazyLock};
    use tempfile::TempDir;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    struct Node {
        // Dropped first: its helper thread still prepares segments in the folder.
        journal: Journal,
        signer: LocalSigner,
        dir: TempDir,
    }

    fn node() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let key = LocalSigner::create(&dir.path().join("checkpoints"), ORIGIN).unwrap();
        let signer = LocalSigner::open(&dir.path().join("checkpoints")).unwrap();
        let log = LogId::of_origin(key.name());
        let options = JournalOptions { segment_bytes: 270_336, ..JournalOptions::default() };
        let clock = Arc::new(FakeClock::default());
        let (journal, _) = Journal::open(&dir.path().join("journal"), log, clock, options).unwrap();
        Node { dir, journal, signer }
    }

    impl Node {
        fn append(&self, count: usize) {
            for n in 0..count {
                let payload = Bytes::from(format!("{{\"n\":{n}}}"));
                self.journal.append(Draft::new(Kind::Event, payload).unwrap()).unwrap().wait().unwrap();
            }
        }

        fn sign(&self) -> String {
            let head = self.journal.head();
            self.signer.sign(head.size, head.root).unwrap()
        }

        fn verdict(&self) -> Verdict {
            verify_folder(self.dir.path(), |_| {}).verdict
        }
    }

    fn up_to(verdict: &Verdict) -> Option<u64> {
        let Verdict::VerifiedUpTo { seq, .. } = verdict else { panic!("{verdict:?}") };
        *seq
    }

    fn failure(verdict: Verdict) -> String {
        let Verdict::Failed { reason, .. } = verdict else { panic!("{verdict:?}") };
        reason
    }

    #[test]
    fn a_growing_log_is_verified_up_to_its_checkpoint() {
        let node = node();
        assert_eq!(up_to(&node.verdict()), None);
        node.append(3);
        assert_eq!(up_to(&node.verdict()), None);
        node.sign();
        assert_eq!(node.verdict(), Verdict::Verified);
        node.append(97);
        assert_eq!(up_to(&node.verdict()), Some(2));
        node.sign();
        let mut seen = 0;
        let report = verify_folder(node.dir.path(), |records| seen = records);
        assert_eq!((report.verdict, seen, report.records, report.epochs), (Verdict::Verified, 100, 100, 1));
        assert_eq!(report.first_time_us, Some(FakeClock::START_US));
        assert_eq!(report.checkpoint.unwrap().size, 100);
    }

    #[test]
    fn a_pruned_log_is_verified_from_its_beginning_under_a_checkpoint_over_it() {
        let node = node();
        node.append(200);
        node.sign();
        let bounds = PruneBounds { below_seq: 190, before_us: u64::MAX, landed_next_seq: 190, keep_seconds: 3_600 };
        node.journal.prune(bounds).unwrap().unwrap();
        let report = verify_folder(node.dir.path(), |_| {});
        assert_eq!((up_to(&report.verdict), report.first_seq, report.records), (Some(199), 130, 71));
        node.sign();
        assert_eq!(node.verdict(), Verdict::Verified);
        // An older note is over what is gone: nothing vouches for the beginning then.
        let other = tempfile::tempdir().unwrap();
        for name in [VKEY_NAME, signer::KEY_NAME] {
            std::fs::copy(node.dir.path().join("checkpoints").join(name), other.path().join(name)).unwrap();
        }
        let note = LocalSigner::open(other.path()).unwrap().sign(100, RootHash([1; 32])).unwrap();
        std::fs::write(node.dir.path().join("checkpoints").join(LATEST_NAME), note).unwrap();
        assert!(failure(node.verdict()).contains("above the checkpoint"));
    }

    #[test]
    fn a_running_node_is_never_taken_for_a_broken_one() {
        let node = node();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Some five segments, signed all the time.
                for n in 0..300 {
                    node.append(1);
                    if n % 3 == 0 {
                        node.signer.sign_newest(&node.journal).unwrap();
                    }
                }
                node.sign();
                done.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            scope.spawn(|| {
                let mut reader = Reader::open(&node.dir.path().join("journal"), 0).unwrap();
                let mut chain = crate::journal::Chain::genesis(node.journal.log());
                while chain.next_seq < 300 {
                    reader.next(7).unwrap().iter().for_each(|frame| assert!(chain.accept(frame).is_ok()));
                }
            });
            let mut last = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let report = verify_folder(node.dir.path(), |_| {});
                assert!(!matches!(report.verdict, Verdict::Failed { .. }), "{:?}", report.verdict);
                assert!(report.records >= last);
                last = report.records;
            }
        });
        assert_eq!(node.verdict(), Verdict::Verified);
    }

    #[test]
    fn a_rolled_back_journal_fails_whatever_its_head_says() {
        let node = node();
        node.append(3);
        let old = tempfile::tempdir().unwrap();
        copy(&node.dir.path().join("journal"), &old.path().join("journal"));
        node.append(2);
        node.sign();
        node.journal.close();
        copy(&node.dir.path().join("checkpoints"), &old.path().join("checkpoints"));
        let reason = failure(verify_folder(old.path(), |_| {}).verdict);
        assert!(reason.contains("ends before seq 3"), "{reason}");
    }

    #[test]
    fn a_rewritten_journal_fails_against_the_checkpoint() {
        let (first, second) = (node(), node());
        first.append(3);
        second.append(3);
        first.sign();
        first.journal.close();
        second.journal.close();
        // Whole and consistent in itself, but salts differ: another history.
        let forged = tempfile::tempdir().unwrap();
        copy(&second.dir.path().join("journal"), &forged.path().join("journal"));
        copy(&first.dir.path().join("checkpoints"), &forged.path().join("checkpoints"));
        let verdict = verify_folder(forged.path(), |_| {}).verdict;
        assert!(matches!(verdict, Verdict::Failed { seq: Some(2), .. }), "{verdict:?}");
    }

    #[test]
    fn a_checkpoint_by_another_key_fails() {
        let node = node();
        node.append(3);
        node.sign();
        let other = crate::chain::SigningKey::from_seed(ORIGIN, &[9; 32]).unwrap();
        let report = verify_folder_with(node.dir.path(), Some(other.verify_key()), |_| {});
        assert!(failure(report.verdict).contains("no signature by key"));
        let report = verify_folder_with(node.dir.path(), Some(&node.signer.verify_key()), |_| {});
        assert_eq!((report.verdict, report.key_is_trusted), (Verdict::Verified, true));
    }

    #[test]
    fn missing_pieces_fail() {
        for missing in
            [format!("checkpoints/{VKEY_NAME}"), format!("checkpoints/{HEAD_NAME}"), "journal/head".to_owned()]
        {
            let node = node();
            node.append(3);
            node.sign();
            std::fs::remove_file(node.dir.path().join(&missing)).unwrap();
            failure(node.verdict());
        }
        failure(verify_folder(Path::new("/nonexistent"), |_| {}).verdict);
    }

    static INTACT: LazyLock<TempDir> = LazyLock::new(|| {
        let node = node();
        node.append(70);
        node.sign();
        node.journal.close();
        let Node { dir, .. } = node;
        dir
    });

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_changed_byte_fails(pick: prop::sample::Index, file in 0_usize..5, mask in 1_u8..=127) {
            let names = [
                "journal/segment-00000000000000000000.ktj",
                "journal/segment-00000000000000000001.ktj",
                "journal/head",
                "checkpoints/latest",
                "checkpoints/head",
            ];
            let dir = tempfile::tempdir().unwrap();
            copy(INTACT.path(), dir.path());
            assert_eq!(verify_folder(dir.path(), |_| {}).verdict, Verdict::Verified);
            let path = dir.path().join(names[file]);
            let mut bytes = std::fs::read(&path).unwrap();
            // Segment 1 holds five batches; what is above the head is not part of the log.
            let used = if file == 1 { 6 * 4_096 } else { bytes.len() };
            bytes[pick.index(used)] ^= mask;
            std::fs::write(&path, bytes).unwrap();
            let verdict = verify_folder(dir.path(), |_| {}).verdict;
            prop_assert!(matches!(verdict, Verdict::Failed { .. }), "{:?}", verdict);
        }
    }
}
