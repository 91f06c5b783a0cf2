//! Signs the log's head: the checkpoint signer as a trait, and two that implement it.
//!
//! `local` keeps its key beside the log, `remote` asks a process with a folder and a user of its own (`process`, in words
//! of `wire`). Either remembers, durably and before it signs, the largest head it has signed for, and never signs a
//! smaller one or another root at the same size. The local one lives on the machine and in the folder that it vouches
//! for; the other one demands a proof that the log only grew, and whoever has the node's folder has not its memory.

pub(crate) mod key_file;
mod keys;
mod local;
#[cfg(feature = "server")]
pub mod process;
#[cfg(feature = "server")]
mod remote;
#[cfg(feature = "server")]
mod wire;

pub use keys::{read_keys, refresh_keys, settle, write_keys};
pub use local::{LocalSigner, make_successor, move_key};
#[cfg(feature = "server")]
pub use remote::RemoteSigner;

use crate::chain::ConsistencyProof;
use crate::chain::checkpoint::{NoteError, VerifyKey};
use crate::chain::leaf::{LeafHash, sha256};
use crate::chain::transition::{KeyTransition, TransitionError};
use crate::chain::tree::{RootHash, Tree, TreeError};
use crate::journal::{Head, Journal};
use crate::tiles::TilesError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// File in `checkpoints/` with the newest signed note.
pub const LATEST_NAME: &str = "latest";
/// File in `checkpoints/` with the newest note that the witnesses of the policy have cosigned.
pub const COSIGNED_NAME: &str = "cosigned";
/// File in `checkpoints/` with the verifier key.
pub const VKEY_NAME: &str = "vkey";
/// File in `checkpoints/`, or in the signer's own folder, with the signer's memory.
pub const HEAD_NAME: &str = "head";
/// File in `checkpoints/`, or in the signer's own folder, with the private key, mode 0600.
pub const KEY_NAME: &str = "signer.key";

/// File in `checkpoints/` with the log's key transitions, one a line; absent before the first.
pub const TRANSITIONS_NAME: &str = "transitions";
/// File in `checkpoints/` with the declaration that the log began with, if it follows one that could not go on.
pub const GAP_NAME: &str = "gap";
/// File beside the private key with the one that follows it, while a transition is prepared.
pub const SUCCESSOR_NAME: &str = "signer.key.next";

const HEAD_CONTEXT: &[u8] = b"keytrail signer head v1\n";
const HEAD_BYTES: usize = 8 + 32 + 8;

/// Signs log heads. The KMS signs each second when the log has grown, and on request.
pub trait CheckpointSigner: Send + Sync {
    /// The signed note over the head. Blocks on the disk or on the network.
    fn sign(&self, size: u64, root: RootHash) -> Result<String, SignError> {
        self.sign_newest(&SignedHead { size, root })
    }

    /// The signed note over the head that `log` has once it is this caller's turn. Several callers at once (the second's
    /// tick, requests) would otherwise bring heads out of order, and the older one would be refused as a rollback.
    fn sign_newest(&self, log: &dyn SignableLog) -> Result<String, SignError>;

    /// The key that notes verify under.
    fn verify_key(&self) -> VerifyKey;

    /// The largest head signed for, as far as is known here.
    fn signed(&self) -> Option<SignedHead>;

    /// Signs the head, and over it that the successor's key signs from the next record on. Changes nothing else.
    fn transition(&self, log: &dyn SignableLog) -> Result<KeyTransition, SignError>;

    /// Takes the successor with this key into use, once the record of its transition is durable. Does nothing if it is in
    /// use already.
    fn adopt(&self, key: &VerifyKey) -> Result<(), SignError>;
}

/// A log as its signer sees it.
pub trait SignableLog {
    /// Its durable head.
    fn head(&self) -> SignedHead;
    /// Proof that its first `old` records are the beginning of its first `size`.
    fn consistency(&self, old: u64, size: u64) -> Result<ConsistencyProof, SignError>;
}

impl SignableLog for Journal {
    fn head(&self) -> SignedHead {
        let Head { size, root, .. } = Journal::head(self);
        SignedHead { size, root }
    }

    fn consistency(&self, old: u64, size: u64) -> Result<ConsistencyProof, SignError> {
        self.consistency_proof(old, size).map_err(|error| SignError::Tree(error.to_string()))
    }
}

/// A head alone, for a signer that asks for no proof.
impl SignableLog for SignedHead {
    fn head(&self) -> SignedHead {
        *self
    }

    fn consistency(&self, _: u64, _: u64) -> Result<ConsistencyProof, SignError> {
        Err(SignError::Tree("there is a head only".to_owned()))
    }
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
    /// The signer says that the log is not the one that it signed for.
    #[error("log of size {size} does not continue the {signed} records that the signer knows")]
    Inconsistent {
        /// Size offered.
        size: u64,
        /// Size signed.
        signed: u64,
    },
    /// The signer's process does not answer.
    #[error("signer does not answer at {socket}")]
    Away {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The signer's process says something else than it should.
    #[error("signer at {socket} {found}")]
    Answer {
        /// Its socket.
        socket: PathBuf,
        /// What it said.
        found: String,
    },
    /// Another signer works in the folder.
    #[error("{path} is in use by another signer")]
    Locked {
        /// The lock file.
        path: PathBuf,
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
    /// A key transition is not one of this log.
    #[error("key transitions in {path} and in the journal cannot be followed")]
    Transition {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TransitionError,
    },
    /// The journal says that another key is in force.
    #[error("{path} is not the key that the log's transitions lead to, nor is there a successor that is")]
    NotInForce {
        /// The key file.
        path: PathBuf,
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

impl SignError {
    /// Whether the log is not the one that was signed for: nothing may be written to it any more.
    pub fn is_rollback(&self) -> bool {
        matches!(self, Self::Shrunk { .. } | Self::Forked { .. } | Self::Inconsistent { .. })
    }

    /// Whether the signer's process is the trouble, which may end by itself.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Answer { .. })
    }
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

    /// Whether a head may be signed after this one.
    fn admits(&self, head: SignedHead) -> Result<(), SignError> {
        let SignedHead { size, root } = head;
        if size < self.size {
            return Err(SignError::Shrunk { size, signed: self.size });
        }
        if size == self.size && root != self.root {
            return Err(SignError::Forked { size, found: root, signed: self.root });
        }
        Ok(())
    }

    /// Start-up's check that the log still has what was signed for: `tree` over all its records, `leaves` their leaf
    /// hashes by block (a journal `Reader` has them).
    pub fn compare<E: std::error::Error + 'static>(
        &self,
        tree: &Tree,
        leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, E>,
    ) -> Result<(), SignError> {
        let found = match tree.root_at(self.size, leaves) {
            Ok(root) => root,
            Err(TreeError::Size { tree, .. }) => return Err(SignError::Shrunk { size: tree, signed: self.size }),
            Err(error) => return Err(SignError::Tree(error.to_string())),
        };
        self.admits(SignedHead { size: self.size, root: found })
    }

    /// Makes it durable as the folder's `head`.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), SignError> {
        replace(dir, HEAD_NAME, &self.encode(), 0o600)
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (size, rest) = bytes.split_first_chunk::<8>()?;
        let (root, _) = rest.split_first_chunk::<32>()?;
        let head = Self { size: u64::from_be_bytes(*size), root: RootHash(*root) };
        (head.encode() == *bytes).then_some(head)
    }
}

/// Puts a whole file in place of the one before, durably: temporary file, fsync, rename, fsync of the folder.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    replace_by(dir, &format!("{name}.tmp"), name, bytes, mode)
}

/// The same by a temporary file of this name.
fn replace_by(dir: &Path, temporary: &str, name: &str, bytes: &[u8], mode: u32) -> Result<(), SignError> {
    let (temporary, path) = (dir.join(temporary), dir.join(name));
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
