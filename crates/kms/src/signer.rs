//! Signs the log's head: the checkpoint signer as a trait, and the local one that keeps its key beside the log.
//!
//! The local signer remembers, durably and before it signs, the largest head it has signed for, and never signs a
//! smaller one or another root at the same size: a rolled-back or rewritten log needs its memory changed too. It lives
//! on the machine that it vouches for, so it proves nothing against someone who controls that machine.

use crate::chain::checkpoint::{Checkpoint, NoteError, Pkcs8, SigningKey, VerifyKey};
use crate::chain::leaf::{LeafHash, sha256};
use crate::chain::tree::{RootHash, Tree, TreeError};
use crate::journal::{Head, Journal};
use crate::tiles::TilesError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// File in `checkpoints/` with the newest signed note.
pub const LATEST_NAME: &str = "latest";
/// File in `checkpoints/` with the verifier key.
pub const VKEY_NAME: &str = "vkey";
/// File in `checkpoints/` with the signer's memory.
pub const HEAD_NAME: &str = "head";
/// File in `checkpoints/` with the private key, mode 0600.
pub const KEY_NAME: &str = "signer.key";

const KEY_TITLE: &str = "keytrail signer key v1";
const HEAD_CONTEXT: &[u8] = b"keytrail signer head v1\n";
const HEAD_BYTES: usize = 8 + 32 + 8;

/// Signs log heads. The KMS signs each second when the log has grown, and on request.
pub trait CheckpointSigner: Send + Sync {
    /// The signed note over the head. Blocks on the disk or on the network.
    fn sign(&self, size: u64, root: RootHash) -> Result<String, SignError> {
        self.sign_newest(&mut || SignedHead { size, root })
    }

    /// The signed note over what `head` says once it is this caller's turn. Several callers at once (the second's
    /// tick, requests) would otherwise bring heads out of order, and the older one would be refused as a rollback.
    fn sign_newest(&self, head: &mut dyn FnMut() -> SignedHead) -> Result<String, SignError>;

    /// The key that notes verify under.
    fn verify_key(&self) -> VerifyKey;
}

/// Signs the journal's durable head: each second when it has grown, and on request.
pub fn sign_head(signer: &dyn CheckpointSigner, journal: &Journal) -> Result<String, SignError> {
    signer.sign_newest(&mut || {
        let Head { size, root, .. } = journal.head();
        SignedHead { size, root }
    })
}

/// Why a head is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The log has fewer records than were signed for.
    #[error("log of size {size} is shorter than the {signed} records already signed for")]
    Shrunk {
        /// Size offered.
        size: u64,
        /// Size signed.
        signed: u64,
    },
    /// The log has other records than were signed for.
    #[error("log of size {size} has root {found}, but root {signed} was signed for that size")]
    Forked {
        /// The size.
        size: u64,
        /// Root of the log.
        found: RootHash,
        /// Root signed.
        signed: RootHash,
    },
    /// The key or a note is bad.
    #[error("key in {path} cannot be used")]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why.
        #[source]
        source: NoteError,
    },
    /// A file in `checkpoints/` is not what it should be.
    #[error("{path} is damaged: {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        found: &'static str,
    },
    /// The records that a comparison needs cannot be read.
    #[error("root at the signed size cannot be computed: {0}")]
    Tree(String),
    /// The tiles that the head covers cannot be made durable, so it is not published.
    #[error("tiles under the checkpoint cannot be written")]
    Tiles(#[from] TilesError),
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SignError {
    let path = path.to_owned();
    move |source| SignError::Io { step, path, source }
}

/// The largest head signed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// Records covered.
    pub size: u64,
    /// Root of the tree over them.
    pub root: RootHash,
}

impl SignedHead {
    /// Reads `checkpoints/head`; None when nothing was ever signed.
    pub fn read(checkpoints: &Path) -> Result<Option<Self>, SignError> {
        let path = checkpoints.join(HEAD_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let decoded = <[u8; HEAD_BYTES]>::try_from(bytes).ok().and_then(|bytes| Self::decode(&bytes));
        decoded.map(Some).ok_or(SignError::Damaged { path, found: "signer's head fails its check" })
    }

    /// 48 bytes: size u64, root 32, and the first 8 bytes of SHA-256("keytrail signer head v1\n" || those 40).
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.root.0);
        let check = sha256(&[HEAD_CONTEXT, &bytes[..40]]);
        bytes[40..].copy_from_slice(&check[..8]);
        bytes
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let (root, _) = rest.split_first_chunk::<32>()?;
        let head = Self { size: u64::from_be_bytes(*size), root: RootHash(*root) };
        (head.encode() == *bytes).then_some(head)
    }
}

/// The signer that keeps its key in `DIR/checkpoints`.
pub struct LocalSigner {
    dir: PathBuf,
    key: SigningKey,
    memory: Mutex<Memory>,
}

/// What was signed last in this folder.
#[derive(Default)]
struct Memory {
    signed: Option<SignedHead>,
    /// The note over it, when it was signed in this run.
    note: Option<String>,
}

impl LocalSigner {
    /// Makes the key of the log named `origin` and the files `signer.key` and `vkey`. Never replaces a key.
    pub fn create(checkpoints: &Path, origin: &str) -> Result<VerifyKey, SignError> {
        let path = checkpoints.join(KEY_NAME);
        let (key, pkcs8) =
            SigningKey::generate(origin).map_err(|source| SignError::Key { path: path.clone(), source })?;
        if !checkpoints.is_dir() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(checkpoints).map_err(failed("create", checkpoints))?;
        }
        if path.exists() {
            return Err(failed("replace", &path)(io::ErrorKind::AlreadyExists.into()));
        }
        let encoded = Zeroizing::new(BASE64.encode(pkcs8.expose()));
        let text = Zeroizing::new(format!("{KEY_TITLE}\n{origin}\n{}\n", *encoded));
        replace(checkpoints, KEY_NAME, text.as_bytes(), 0o600)?;
        let public = key.verify_key().clone();
        replace(checkpoints, VKEY_NAME, format!("{public}\n").as_bytes(), 0o644)?;
        Ok(public)
    }

    /// Opens the signer made by [`LocalSigner::create`].
    pub fn open(checkpoints: &Path) -> Result<Self, SignError> {
        let key = read_key(&checkpoints.join(KEY_NAME))?;
        let signed = SignedHead::read(checkpoints)?;
        Ok(Self { dir: checkpoints.to_owned(), key, memory: Mutex::new(Memory { signed, note: None }) })
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        self.key.name()
    }

    /// The largest head signed for.
    pub fn signed(&self) -> Option<SignedHead> {
        self.memory.lock().signed
    }

    /// Start-up's check that the log still has what was signed for: `tree` over all its records, `leaves` their leaf
    /// hashes by block (a journal `Reader` has them).
    pub fn compare<E: std::error::Error + 'static>(
        &self,
        tree: &Tree,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<(), SignError> {
        let Some(signed) = self.signed() else { return Ok(()) };
        let found = match tree.root_at(signed.size, leaves) {
            Ok(root) => root,
            Err(TreeError::Size { tree, .. }) => return Err(SignError::Shrunk { size: tree, signed: signed.size }),
            Err(error) => return Err(SignError::Tree(error.to_string())),
        };
        if found == signed.root {
            return Ok(());
        }
        Err(SignError::Forked { size: signed.size, found, signed: signed.root })
    }

    /// Makes the head durable before it is signed: whatever note exists, the memory covers it.
    fn remember(&self, memory: &mut Memory, head: SignedHead) -> Result<(), SignError> {
        let SignedHead { size, root } = head;
        match memory.signed {
            Some(SignedHead { size: signed, .. }) if size < signed => return Err(SignError::Shrunk { size, signed }),
            Some(signed) if size == signed.size && root != signed.root => {
                return Err(SignError::Forked { size, found: root, signed: signed.root });
            }
            Some(signed) if signed == head => return Ok(()),
            Some(_) | None => {}
        }
        replace(&self.dir, HEAD_NAME, &head.encode(), 0o600)?;
        *memory = Memory { signed: Some(head), note: None };
        Ok(())
    }
}

impl CheckpointSigner for LocalSigner {
    fn sign_newest(&self, head: &mut dyn FnMut() -> SignedHead) -> Result<String, SignError> {
        let mut memory = self.memory.lock();
        let head = head();
        self.remember(&mut memory, head)?;
        if let Some(note) = &memory.note {
            return Ok(note.clone());
        }
        let checkpoint = Checkpoint { origin: self.origin().to_owned(), size: head.size, root: head.root };
        let key_path = || self.dir.join(KEY_NAME);
        let note = self.key.sign(&checkpoint).map_err(|source| SignError::Key { path: key_path(), source })?;
        replace(&self.dir, LATEST_NAME, note.as_bytes(), 0o644)?;
        memory.note = Some(note.clone());
        Ok(note)
    }

    fn verify_key(&self) -> VerifyKey {
        self.key.verify_key().clone()
    }
}

/// Title, origin, base64 of the PKCS#8 document: three lines.
fn read_key(path: &Path) -> Result<SigningKey, SignError> {
    let damaged = |found| SignError::Damaged { path: path.to_owned(), found };
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed("read", path))?);
    let mut lines = text.lines();
    let (Some(KEY_TITLE), Some(origin), Some(encoded), None) = (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(damaged("not the three lines of a signer key"));
    };
    let pkcs8 = Zeroizing::new(BASE64.decode(encoded).map_err(|_| damaged("key is not base64"))?);
    let key = SigningKey::from_pkcs8(origin, &Pkcs8::new(pkcs8));
    key.map_err(|source| SignError::Key { path: path.to_owned(), source })
}

/// Puts a whole file in place of the one before, durably: temporary file, fsync, rename, fsync of the folder.
fn replace(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}.tmp"));
    // A leftover of a crash may have another mode: made anew, not reused.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &temporary)(error)),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(mode).open(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("sync", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(failed("name", &path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
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
}
