//! A witness: its key, and for each log the last head it has cosigned.
//!
//! A folder of its own holds `witness.key` (0600), `vkey`, `lock` and `logs/<SHA-256 of the origin>`, each the cosigned
//! note itself: a changed one no longer verifies under the witness's own key and stops the start. What it cannot notice is
//! that such a file is gone: whoever can write here can make the witness forget a log. The note is durable before the
//! cosignature leaves, and one log is looked at by one request at a time.

use crate::chain::checkpoint::{NoteError, VerifyKey};
use crate::chain::consistency::{Growth, GrowthText};
use crate::chain::cosignature::{Cosigner, CosigningKey, Note};
use crate::chain::leaf::sha256;
use crate::chain::tree::{RootHash, Tree};
use crate::clock::Clock;
use crate::file::read_bounded;
use crate::signer::key_file::{KeyFile, make_folder};
use crate::signer::{SignError, replace};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KEY: KeyFile = KeyFile { name: "witness.key", title: "keytrail witness key v1" };
const VKEY_NAME: &str = "vkey";
const LOGS_NAME: &str = "logs";
/// Longest note kept.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Why a witness does not start.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// Its files.
    #[error("witness cannot use its folder")]
    Folder(#[from] SignError),
    /// Its name, or that of a log.
    #[error("witness cannot be named {name}")]
    Name {
        /// As asked for.
        name: String,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another witness works in the folder.
    #[error("{path} is in use by another witness")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// What is kept of a log is not what the witness wrote.
    #[error("{path} is damaged: it is no checkpoint of {origin} under this witness's key")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The log.
        origin: String,
    },
    /// The listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Answers would cross the network in clear.
    #[error("{address} is not a loopback address: that needs a certificate")]
    NotLoopback {
        /// Where.
        address: std::net::SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error("set TLS up")]
    Tls(#[source] crate::tls::TlsError),
}

/// What comes of a request, each with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200: the cosignature line.
    Cosigned(String),
    /// 400: not a request, or one that contradicts itself.
    Malformed,
    /// 403: no signature of the log, or one that does not verify.
    Unsigned,
    /// 404: a log that is not watched.
    UnknownLog,
    /// 409: the size that the witness knows.
    Known(u64),
    /// 422: the log was rewritten, or the proof is none.
    Inconsistent,
    /// 500: nothing was signed.
    Failed,
}

/// A witness at work.
pub struct Witness {
    key: CosigningKey,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    logs: BTreeMap<String, Log>,
    _lock: File,
}

/// One log that is watched.
struct Log {
    keys: Vec<VerifyKey>,
    /// Its file in `logs/`.
    name: String,
    kept: Mutex<Option<Kept>>,
}

/// The last head cosigned.
#[derive(Clone)]
struct Kept {
    size: u64,
    root: RootHash,
    note: String,
}

impl Witness {
    /// Opens the witness in `dir` for these logs, by the names of their keys. The first time it makes a key, named `name`
    /// or else at random.
    pub fn open(
        dir: &Path,
        name: Option<&str>,
        logs: &[VerifyKey],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WitnessError> {
        make_folder(&dir.join(LOGS_NAME))?;
        let lock = lock(&dir.join("lock"))?;
        if !dir.join(KEY.name).exists() {
            make_key(dir, name)?;
        }
        let (name, pkcs8) = KEY.read(dir)?;
        let key = CosigningKey::from_pkcs8(&name, &pkcs8).map_err(|source| WitnessError::Name { name, source })?;
        let mut watched: BTreeMap<String, Log> = BTreeMap::new();
        for log in logs {
            if let Some(known) = watched.get_mut(log.name()) {
                known.keys.push(log.clone());
                continue;
            }
            let name = origin_hash(log.name());
            let kept = read_kept(&dir.join(LOGS_NAME).join(&name), log.name(), key.cosigner())?;
            watched.insert(log.name().to_owned(), Log { keys: vec![log.clone()], name, kept: Mutex::new(kept) });
        }
        Ok(Self { key, clock, dir: dir.join(LOGS_NAME), logs: watched, _lock: lock })
    }

    /// The key that its cosignatures verify under.
    pub fn cosigner(&self) -> &Cosigner {
        self.key.cosigner()
    }

    /// Judges a request's body, and cosigns if the log only grew. Blocks on the disk.
    pub fn add_checkpoint(&self, body: &str) -> Outcome {
        let Some(GrowthText { old, proof, head: text }) = GrowthText::parse(body) else { return Outcome::Malformed };
        let Ok(note) = Note::parse(text) else { return Outcome::Malformed };
        let (Ok(checkpoint), Ok(())) = (note.checkpoint(), note.check_lines()) else { return Outcome::Malformed };
        let Some(log) = self.logs.get(&checkpoint.origin) else { return Outcome::UnknownLog };
        let Some(signatures) = log.signatures(&note) else { return Outcome::Unsigned };
        let mut kept = log.kept.lock();
        let empty = Tree::new().root();
        let known = kept.as_ref().map_or((0, &empty), |kept| (kept.size, &kept.root));
        match Growth::check(known, old, &proof, (checkpoint.size, &checkpoint.root)) {
            Ok(()) => {}
            Err(Growth::OldAbove { .. }) => return Outcome::Malformed,
            Err(Growth::Unknown { known, .. }) => return Outcome::Known(known),
            Err(growth @ Growth::Inconsistent { .. }) => {
                // The note is signed by the log: it may be the proof that the log was rewritten.
                tracing::error!(origin = checkpoint.origin, %growth, note = text, "checkpoint is not cosigned");
                return Outcome::Inconsistent;
            }
        }
        let line = self.key.cosign(note.body, self.clock.now_us() / 1_000_000);
        let grown = kept.as_ref().is_none_or(|kept| kept.size != checkpoint.size);
        let cosigned = format!("{}\n{signatures}{line}", note.body);
        // The same head again is on the disk already, with an older time.
        if grown && let Err(error) = replace(&self.dir, &log.name, cosigned.as_bytes(), 0o644) {
            tracing::error!(error = %crate::service::chain(&error), "head cannot be kept, nothing is cosigned");
            return Outcome::Failed;
        }
        *kept = Some(Kept { size: checkpoint.size, root: checkpoint.root, note: cosigned });
        Outcome::Cosigned(line)
    }

    /// The last checkpoint cosigned of the log with this origin hash, in hex.
    pub fn checkpoint(&self, origin_hash: &str) -> Option<String> {
        let log = self.logs.values().find(|log| log.name == origin_hash)?;
        log.kept.lock().as_ref().map(|kept| kept.note.clone())
    }

    /// Names of the logs that are watched, each with the size cosigned last.
    pub fn logs(&self) -> impl Iterator<Item = (&str, Option<u64>)> {
        self.logs.iter().map(|(origin, log)| (origin.as_str(), log.kept.lock().as_ref().map(|kept| kept.size)))
    }
}

impl Log {
    /// The signature lines of this log's keys; None without one, or with one that does not verify.
    fn signatures(&self, note: &Note<'_>) -> Option<String> {
        let mut signatures = String::new();
        for line in note.signatures.lines() {
            let alone = Note { body: note.body, signatures: line };
            for key in &self.keys {
                if alone.is_signed_by(key).ok()? {
                    signatures += line;
                    signatures.push('\n');
                }
            }
        }
        (!signatures.is_empty()).then_some(signatures)
    }
}

/// SHA-256 of an origin in hex, as the protocol's paths have it.
pub(super) fn origin_hash(origin: &str) -> String {
    hex::encode(sha256(&[origin.as_bytes()]))
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WitnessError {
    let path = path.to_owned();
    move |source| WitnessError::Io { step, path, source }
}

fn lock(path: &Path) -> Result<File, WitnessError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(io_error("open", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(WitnessError::Locked { path: path.to_owned() }),
        Err(error) => Err(io_error("lock", path)(error.into())),
    }
}

fn make_key(dir: &Path, name: Option<&str>) -> Result<(), WitnessError> {
    let mut random = [0; 8];
    let failed = |_| io_error("draw a name for", dir)(io::Error::other("system gave no random bytes"));
    aws_lc_rs::rand::fill(&mut random).map_err(failed)?;
    let name = name.map_or_else(|| format!("keytrail/witness-{}", hex::encode(random)), str::to_owned);
    let made = CosigningKey::generate(&name);
    let (key, pkcs8) = made.map_err(|source| WitnessError::Name { name: name.clone(), source })?;
    // The public half first: a key without it would never be written again.
    replace(dir, VKEY_NAME, format!("{}\n", key.cosigner()).as_bytes(), 0o644)?;
    KEY.create(dir, &name, &pkcs8)?;
    Ok(())
}

fn read_kept(path: &Path, origin: &str, own: &Cosigner) -> Result<Option<Kept>, WitnessError> {
    let bytes = match read_bounded(path, NOTE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let kept = || {
        let note = String::from_utf8(bytes?).ok()?;
        let parsed = Note::parse(&note).ok()?;
        let checkpoint = parsed.checkpoint().ok()?;
        let ours = parsed.cosigned_by(own).ok()?.is_some() && checkpoint.origin == origin;
        ours.then(|| Kept { size: checkpoint.size, root: checkpoint.root, note: note.clone() })
    };
    kept().map(Some).ok_or_else(|| WitnessError::Damaged { path: path.to_owned(), origin: origin.to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::chain::ConsistencyProof;
    use crate::chain::checkpoint::{Checkpoint, SigningKey};
    use crate::chain::leaf::LeafHash;
    use crate::clock::FakeClock;
    use std::convert::Infallible;

    pub(crate) const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    pub(crate) fn log_key() -> SigningKey {
        SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap()
    }

    /// A log of one's choice, and requests about it.
    pub(crate) struct Log(pub(crate) u8);

    impl Log {
        fn tree(&self, size: u64) -> Tree {
            let mut tree = Tree::new();
            (0..size).for_each(|seq| tree.push(LeafHash(sha256(&[&[self.0], &seq.to_be_bytes()]))));
            tree
        }

        pub(crate) fn note(&self, size: u64) -> String {
            let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: self.tree(size).root() };
            log_key().sign(&checkpoint).unwrap()
        }

        fn proof(&self, old: u64, size: u64) -> ConsistencyProof {
            // Sizes of tests stay below one block.
            self.tree(size).consistency_proof(old, size, |_| Ok::<_, Infallible>(Vec::new())).unwrap()
        }

        pub(crate) fn request(&self, old: u64, size: u64) -> String {
            GrowthText { old, proof: self.proof(old, size), head: &self.note(size) }.write()
        }
    }

    fn witness(dir: &Path) -> Witness {
        let clock = Arc::new(FakeClock::default());
        Witness::open(dir, Some("witness.example/w1"), &[log_key().verify_key().clone()], clock).unwrap()
    }

    fn line(outcome: &Outcome) -> &str {
        let Outcome::Cosigned(line) = outcome else { panic!("{outcome:?}") };
        line
    }

    #[test]
    fn a_growing_log_is_cosigned_and_remembered_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log(0);
        for (old, size) in [(0, 3), (3, 3), (3, 7), (7, 200)] {
            // A new one each time: only what is on the disk counts.
            let witness = witness(dir.path());
            let outcome = witness.add_checkpoint(&log.request(old, size));
            let cosigned = format!("{}{}", log.note(size), line(&outcome));
            let time = Note::parse(&cosigned).unwrap().cosigned_by(witness.cosigner()).unwrap();
            assert_eq!(time, Some(FakeClock::START_US / 1_000_000));
            assert_eq!(witness.checkpoint(&origin_hash(ORIGIN)), Some(cosigned));
        }
        let vkey = std::fs::read_to_string(dir.path().join(VKEY_NAME)).unwrap();
        assert_eq!(vkey.trim_end().parse(), Ok(witness(dir.path()).cosigner().clone()));
    }

    #[test]
    fn every_refusal_has_the_status_of_the_protocol_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let witness = witness(dir.path());
        let (log, fork) = (Log(0), Log(1));
        line(&witness.add_checkpoint(&log.request(0, 5)));
        let text =
            |old: u64, proof: &ConsistencyProof, head: &str| GrowthText { old, proof: proof.clone(), head }.write();
        let none = ConsistencyProof::default();
        let forged = log.note(9).replace("\n9\n", "\n8\n");
        let stranger = SigningKey::from_seed(ORIGIN, &[9; 32]).unwrap();
        let by_stranger =
            stranger.sign(&Checkpoint { origin: ORIGIN.to_owned(), size: 9, root: log.tree(9).root() }).unwrap();
        let elsewhere = SigningKey::from_seed("elsewhere", &[1; 32]).unwrap();
        let other = elsewhere.sign(&Checkpoint { origin: "elsewhere".to_owned(), size: 9, root: RootHash([0; 32]) });
        let long = ConsistencyProof { hashes: vec![[0; 32]; 64] };
        for (what, body, expected) in [
            ("empty", String::new(), Outcome::Malformed),
            ("no note", "old 5\n\n".to_owned(), Outcome::Malformed),
            ("no empty line", log.request(5, 9).replace("\n\n", "\n"), Outcome::Malformed),
            ("leading zero", log.request(5, 9).replace("old 5", "old 05"), Outcome::Malformed),
            ("too long a proof", text(5, &long, &log.note(9)), Outcome::Malformed),
            ("old above", text(10, &none, &log.note(9)), Outcome::Malformed),
            ("bad signature line", text(5, &none, &(log.note(9) + "garbage\n")), Outcome::Malformed),
            ("changed body", text(5, &log.proof(5, 9), &forged), Outcome::Unsigned),
            ("other key", text(5, &log.proof(5, 9), &by_stranger), Outcome::Unsigned),
            ("other log", text(5, &none, &other.unwrap()), Outcome::UnknownLog),
            ("from zero", log.request(0, 9), Outcome::Known(5)),
            ("from elsewhere", log.request(4, 9), Outcome::Known(5)),
            ("wrong proof", text(5, &log.proof(4, 9), &log.note(9)), Outcome::Inconsistent),
            ("no proof", text(5, &none, &log.note(9)), Outcome::Inconsistent),
            ("fork", fork.request(5, 9), Outcome::Inconsistent),
            ("same size, other root", fork.request(5, 5), Outcome::Inconsistent),
        ] {
            assert_eq!(witness.add_checkpoint(&body), expected, "{what}");
        }
        line(&witness.add_checkpoint(&log.request(5, 9)));
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_strangers_send_breaks_it(start in "(old [0-9]{0,21}\\n)?", middle in "([A-Za-z0-9+/=]{0,50}\\n){0,3}", rest in "\\PC{0,80}(\\n\\PC{0,60}){0,8}") {
            let dir = tempfile::tempdir().unwrap();
            let body = format!("{start}{middle}\n{rest}");
            let outcome = witness(dir.path()).add_checkpoint(&body);
            proptest::prop_assert!(matches!(outcome, Outcome::Malformed | Outcome::UnknownLog), "{:?}", outcome);
        }
    }

    #[test]
    fn an_empty_log_has_the_root_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let witness = witness(dir.path());
        let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 0, root: RootHash([1; 32]) };
        let head = log_key().sign(&checkpoint).unwrap();
        let body = GrowthText { old: 0, proof: ConsistencyProof::default(), head: &head }.write();
        assert_eq!(witness.add_checkpoint(&body), Outcome::Inconsistent);
        line(&witness.add_checkpoint(&Log(0).request(0, 0)));
        line(&witness.add_checkpoint(&Log(0).request(0, 4)));
    }

    #[test]
    fn damage_and_a_second_witness_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let first = witness(dir.path());
        line(&first.add_checkpoint(&Log(0).request(0, 5)));
        let keys = [log_key().verify_key().clone()];
        let again = || Witness::open(dir.path(), None, &keys, Arc::new(FakeClock::default()));
        assert!(matches!(again(), Err(WitnessError::Locked { .. })));
        drop(first);
        let path = dir.path().join(LOGS_NAME).join(origin_hash(ORIGIN));
        let text = std::fs::read_to_string(&path).unwrap();
        for changed in [text.replace("\n5\n", "\n4\n"), String::new(), Log(0).note(5)] {
            std::fs::write(&path, changed).unwrap();
            assert!(matches!(again(), Err(WitnessError::Damaged { .. })));
        }
        std::fs::write(&path, text).unwrap();
        assert!(again().is_ok());
    }

    #[test]
    fn a_disk_that_fails_yields_no_cosignature() {
        let dir = tempfile::tempdir().unwrap();
        let witness = witness(dir.path());
        line(&witness.add_checkpoint(&Log(0).request(0, 5)));
        std::fs::rename(dir.path().join(LOGS_NAME), dir.path().join("gone")).unwrap();
        assert_eq!(witness.add_checkpoint(&Log(0).request(5, 9)), Outcome::Failed);
        std::fs::rename(dir.path().join("gone"), dir.path().join(LOGS_NAME)).unwrap();
        line(&witness.add_checkpoint(&Log(0).request(5, 9)));
    }
}
