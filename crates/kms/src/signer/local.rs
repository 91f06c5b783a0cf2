//! The signer that keeps its key and its memory in one folder: `DIR/checkpoints`, or that of the signer's process.

use super::key_file::KeyFile;
use super::keys::write_own_key;
use super::{
    CheckpointSigner, KEY_NAME, LATEST_NAME, SUCCESSOR_NAME, SignError, SignableLog, SignedHead, VKEY_NAME, failed,
    replace,
};
#[cfg(feature = "server")]
use crate::chain::ConsistencyProof;
use crate::chain::checkpoint::{Checkpoint, SigningKey, VerifyKey};
#[cfg(feature = "server")]
use crate::chain::consistency::Growth;
use crate::chain::leaf::LeafHash;
use crate::chain::transition::KeyTransition;
use crate::chain::tree::Tree;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The signer that keeps its key in `DIR/checkpoints`.
pub struct LocalSigner {
    dir: PathBuf,
    origin: String,
    memory: Mutex<Memory>,
}

/// The key in force, and what was signed last in this folder.
struct Memory {
    key: SigningKey,
    signed: Option<SignedHead>,
    /// The note over it, when it was signed in this run.
    note: Option<String>,
}

impl LocalSigner {
    const KEY: KeyFile = KeyFile { name: KEY_NAME, title: "keytrail signer key v1" };
    const SUCCESSOR: KeyFile = KeyFile { name: SUCCESSOR_NAME, ..Self::KEY };

    /// Makes the key of the log named `origin` and the files `signer.key` and `vkey`. Never replaces a key.
    pub fn create(checkpoints: &Path, origin: &str) -> Result<VerifyKey, SignError> {
        let path = checkpoints.join(KEY_NAME);
        let (key, pkcs8) = SigningKey::generate(origin).map_err(|source| SignError::Key { path, source })?;
        Self::KEY.create(checkpoints, origin, &pkcs8)?;
        let public = key.verify_key().clone();
        replace(checkpoints, VKEY_NAME, format!("{public}\n").as_bytes(), 0o644)?;
        Ok(public)
    }

    /// Opens the signer made by [`LocalSigner::create`].
    pub fn open(checkpoints: &Path) -> Result<Self, SignError> {
        let key = Self::read(checkpoints, &Self::KEY)?;
        let (origin, signed) = (key.name().to_owned(), SignedHead::read(checkpoints)?);
        Ok(Self { dir: checkpoints.to_owned(), origin, memory: Mutex::new(Memory { key, signed, note: None }) })
    }

    fn read(dir: &Path, file: &KeyFile) -> Result<SigningKey, SignError> {
        let (origin, pkcs8) = file.read(dir)?;
        SigningKey::from_pkcs8(&origin, &pkcs8).map_err(|source| SignError::Key { path: dir.join(file.name), source })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Start-up's check that the log still has what was signed for; see [`SignedHead::compare`].
    pub fn compare<E: std::error::Error + 'static>(
        &self,
        tree: &Tree,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<(), SignError> {
        self.signed().map_or(Ok(()), |signed| signed.compare(tree, leaves))
    }

    /// Makes the head durable before it is signed: whatever note exists, the memory covers it.
    fn remember(&self, memory: &mut Memory, head: SignedHead) -> Result<(), SignError> {
        if let Some(signed) = memory.signed {
            signed.admits(head)?;
            if signed == head {
                return Ok(());
            }
        }
        head.write(&self.dir)?;
        (memory.signed, memory.note) = (Some(head), None);
        Ok(())
    }

    fn note(&self, memory: &Memory, head: SignedHead) -> Result<String, SignError> {
        let checkpoint = Checkpoint { origin: self.origin.clone(), size: head.size, root: head.root };
        memory.key.sign(&checkpoint).map_err(|source| SignError::Key { path: self.dir.join(KEY_NAME), source })
    }

    /// Over the head signed last, by the key in force and by the prepared one.
    pub(super) fn to_successor(&self) -> Result<KeyTransition, SignError> {
        let memory = self.memory.lock();
        let next = Self::read(&self.dir, &Self::SUCCESSOR)?;
        let nothing = || SignError::Damaged { path: self.dir.join(SUCCESSOR_NAME), found: "no checkpoint to follow" };
        let head = memory.signed.ok_or_else(nothing)?;
        if next.name() != self.origin {
            return Err(SignError::Damaged { path: self.dir.join(SUCCESSOR_NAME), found: "key of another log" });
        }
        Ok(KeyTransition::sign(&memory.key, &next, head.size, &head.root))
    }
}

#[cfg(feature = "server")]
impl LocalSigner {
    /// Signs a head that is proved to continue what was signed for, for whoever asks; the inner error says why not.
    pub(super) fn grow(
        &self,
        old: u64,
        proof: &ConsistencyProof,
        head: SignedHead,
    ) -> Result<Result<String, Growth>, SignError> {
        let mut memory = self.memory.lock();
        let known = memory.signed.unwrap_or(SignedHead { size: 0, root: Tree::new().root() });
        if let Err(growth) = Growth::check((known.size, &known.root), old, proof, (head.size, &head.root)) {
            return Ok(Err(growth));
        }
        self.remember(&mut memory, head)?;
        self.note(&memory, head).map(Ok)
    }
}

impl CheckpointSigner for LocalSigner {
    fn sign_newest(&self, log: &dyn SignableLog) -> Result<String, SignError> {
        let mut memory = self.memory.lock();
        let head = log.head();
        self.remember(&mut memory, head)?;
        if let Some(note) = &memory.note {
            return Ok(note.clone());
        }
        let note = self.note(&memory, head)?;
        replace(&self.dir, LATEST_NAME, note.as_bytes(), 0o644)?;
        memory.note = Some(note.clone());
        Ok(note)
    }

    fn verify_key(&self) -> VerifyKey {
        self.memory.lock().key.verify_key().clone()
    }

    fn signed(&self) -> Option<SignedHead> {
        self.memory.lock().signed
    }

    fn transition(&self, log: &dyn SignableLog) -> Result<KeyTransition, SignError> {
        make_successor(&self.dir)?;
        self.sign_newest(log)?;
        self.to_successor()
    }

    fn adopt(&self, key: &VerifyKey) -> Result<(), SignError> {
        let mut memory = self.memory.lock();
        if memory.key.verify_key() != key {
            let (path, next) = (self.dir.join(KEY_NAME), self.dir.join(SUCCESSOR_NAME));
            if !next.exists() {
                return Err(SignError::NotInForce { path });
            }
            let successor = Self::read(&self.dir, &Self::SUCCESSOR)?;
            if successor.verify_key() != key {
                return Err(SignError::NotInForce { path });
            }
            // In the place of the old key, which is gone with it.
            std::fs::rename(&next, &path).map_err(failed("name", &path))?;
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.dir))?;
            fail::fail_point!("kms::signer_after_rename", |_| std::process::abort());
            (memory.key, memory.note) = (successor, None);
        }
        write_own_key(&self.dir, key)
    }
}

/// Makes the key that is to follow the one in a signer's folder, unless there is one already; gives its verifier key.
pub fn make_successor(dir: &Path) -> Result<VerifyKey, SignError> {
    let origin = LocalSigner::read(dir, &LocalSigner::KEY)?.name().to_owned();
    let path = dir.join(SUCCESSOR_NAME);
    if !path.exists() {
        let made = SigningKey::generate(&origin);
        let (_, pkcs8) = made.map_err(|source| SignError::Key { path: path.clone(), source })?;
        LocalSigner::SUCCESSOR.create(dir, &origin, &pkcs8)?;
    }
    Ok(LocalSigner::read(dir, &LocalSigner::SUCCESSOR)?.verify_key().clone())
}

/// Moves key and memory of a stopped node's signer from `checkpoints` to the folder of a signer of its own. What a crash
/// leaves is a copy in both places; a second run goes on from there.
pub fn move_key(checkpoints: &Path, to: &Path) -> Result<VerifyKey, SignError> {
    let signer = LocalSigner::open(checkpoints)?;
    if to.join(KEY_NAME).exists() {
        let there = LocalSigner::open(to)?;
        // Another log's key is not replaced, and a memory that has moved on is the newer one.
        if there.verify_key() != signer.verify_key()
            || there.signed().map(|head| head.size) > signer.signed().map(|head| head.size)
        {
            return Err(failed("replace", &to.join(KEY_NAME))(io::ErrorKind::AlreadyExists.into()));
        }
    }
    if let Some(signed) = signer.signed() {
        super::key_file::make_folder(to)?;
        signed.write(to)?;
    }
    // The memory first: a key without one would sign anything.
    let (origin, pkcs8) = LocalSigner::KEY.read(checkpoints)?;
    LocalSigner::KEY.write(to, &origin, &pkcs8)?;
    let path = checkpoints.join(KEY_NAME);
    std::fs::remove_file(&path).map_err(failed("remove", &path))?;
    File::open(checkpoints).and_then(|dir| dir.sync_all()).map_err(failed("sync", checkpoints))?;
    Ok(signer.verify_key())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::tree::RootHash;
    use crate::signer::HEAD_NAME;
    use std::convert::Infallible;
    use std::os::unix::fs::PermissionsExt;

    const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";

    fn signer() -> (tempfile::TempDir, LocalSigner) {
        let dir = tempfile::tempdir().unwrap();
        LocalSigner::create(dir.path(), ORIGIN).unwrap();
        let signer = LocalSigner::open(dir.path()).unwrap();
        (dir, signer)
    }

    #[test]
    fn a_signed_head_is_published_and_remembered() {
        let (dir, signer) = signer();
        let note = signer.sign(3, RootHash([1; 32])).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(LATEST_NAME)).unwrap(), note);
        let vkey = std::fs::read_to_string(dir.path().join(VKEY_NAME)).unwrap();
        let key: VerifyKey = vkey.trim_end().parse().unwrap();
        assert_eq!(key, signer.verify_key());
        let checkpoint = key.verify(&note).unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), (ORIGIN, 3));
        let again = LocalSigner::open(dir.path()).unwrap();
        assert_eq!(again.signed(), Some(SignedHead { size: 3, root: RootHash([1; 32]) }));
    }

    #[test]
    fn a_shorter_or_other_log_is_never_signed_even_after_a_restart() {
        let (dir, signer) = signer();
        signer.sign(3, RootHash([1; 32])).unwrap();
        for signer in [signer, LocalSigner::open(dir.path()).unwrap()] {
            assert!(matches!(signer.sign(2, RootHash([1; 32])), Err(SignError::Shrunk { size: 2, signed: 3 })));
            assert!(matches!(signer.sign(3, RootHash([2; 32])), Err(SignError::Forked { size: 3, .. })));
            assert!(signer.sign(3, RootHash([1; 32])).is_ok());
        }
        assert!(LocalSigner::open(dir.path()).unwrap().sign(4, RootHash([2; 32])).is_ok());
    }

    #[test]
    fn start_up_compares_the_log_with_what_was_signed() {
        let (_dir, signer) = signer();
        let leaves = |fill: u8| (0..5).map(|n| LeafHash([fill + n; 32])).collect::<Vec<_>>();
        let tree_of = |leaves: &[LeafHash]| {
            let mut tree = Tree::new();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            tree
        };
        let none = |_| Ok::<_, Infallible>(Vec::new());
        let all = leaves(0);
        signer.compare(&tree_of(&all), none).unwrap();
        signer.sign(3, tree_of(&all[..3]).root()).unwrap();
        signer.compare(&tree_of(&all), none).unwrap();
        assert!(matches!(signer.compare(&tree_of(&all[..2]), none), Err(SignError::Shrunk { size: 2, signed: 3 })));
        assert!(matches!(signer.compare(&tree_of(&leaves(1)), none), Err(SignError::Forked { size: 3, .. })));
    }

    #[test]
    fn the_key_is_private_and_never_replaced() {
        let (dir, _) = signer();
        let mode = std::fs::metadata(dir.path().join(KEY_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(LocalSigner::create(dir.path(), ORIGIN).is_err());
        std::fs::write(dir.path().join(KEY_NAME), "keytrail signer key v1\nname\n!\n").unwrap();
        assert!(matches!(LocalSigner::open(dir.path()), Err(SignError::Damaged { .. })));
    }

    #[test]
    fn a_changed_memory_is_damage() {
        let (dir, signer) = signer();
        signer.sign(3, RootHash([1; 32])).unwrap();
        let path = dir.path().join(HEAD_NAME);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&path, changed).unwrap();
            assert!(matches!(LocalSigner::open(dir.path()), Err(SignError::Damaged { .. })));
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn what_grows_is_signed_on_proof_and_nothing_else() {
        let (_dir, signer) = signer();
        let leaves: Vec<_> = (0..9).map(|n| LeafHash([n; 32])).collect();
        let tree_of = |count: usize| {
            let mut tree = Tree::new();
            leaves[..count].iter().for_each(|leaf| tree.push(*leaf));
            tree
        };
        let head = |count: usize| SignedHead { size: count as u64, root: tree_of(count).root() };
        let proof = |old, size: usize| {
            tree_of(size).consistency_proof(old, size as u64, |_| Ok::<_, Infallible>(Vec::new())).unwrap()
        };
        let note = signer.grow(0, &proof(0, 3), head(3)).unwrap().unwrap();
        assert_eq!(signer.verify_key().verify(&note).unwrap().size, 3);
        assert_eq!(signer.grow(0, &proof(0, 9), head(9)).unwrap(), Err(Growth::Unknown { old: 0, known: 3 }));
        let forged = SignedHead { size: 9, root: RootHash([7; 32]) };
        let inconsistent = Err(Growth::Inconsistent { old: 3, size: 9 });
        assert_eq!(signer.grow(3, &proof(3, 9), forged).unwrap(), inconsistent);
        assert_eq!(signer.grow(3, &proof(2, 9), head(9)).unwrap(), inconsistent);
        assert!(signer.grow(3, &proof(3, 9), head(9)).unwrap().is_ok());
        assert!(signer.grow(9, &proof(9, 9), head(9)).unwrap().is_ok(), "the same head again");
        assert_eq!(signer.signed(), Some(head(9)));
    }

    #[test]
    fn a_moved_key_takes_its_memory_along_and_replaces_no_other() {
        let (dir, signer) = signer();
        signer.sign(3, RootHash([1; 32])).unwrap();
        let to = tempfile::tempdir().unwrap();
        let own = to.path().join("signer");
        assert_eq!(move_key(dir.path(), &own).unwrap(), signer.verify_key());
        let moved = LocalSigner::open(&own).unwrap();
        assert!(matches!(moved.sign(2, RootHash([1; 32])), Err(SignError::Shrunk { .. })));
        assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(LocalSigner::open(dir.path()).is_err(), "the node has no key any more");
        let other = tempfile::tempdir().unwrap();
        LocalSigner::create(other.path(), ORIGIN).unwrap();
        assert!(move_key(other.path(), &own).is_err(), "another log's key");
        assert!(LocalSigner::open(other.path()).is_ok());
    }
}
