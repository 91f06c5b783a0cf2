//! The signer's process: a folder with key and memory, and a socket to ask through.
//!
//! The folder is the signer's user's alone (0700); the socket lets its group in, which is the node's. The memory is
//! durable before a signature leaves, and a head is signed only with a proof that it continues the last one. It signs
//! whatever the node's log says: what it rules out is that the log is shortened, rewritten or forked below what it has
//! signed, by anyone who has the node and not the signer.

use super::wire::{Reply, Request, framed, length};
use super::{CheckpointSigner, LocalSigner, SignError, failed};
use crate::chain::checkpoint::VerifyKey;
use crate::chain::consistency::Growth;
use crate::file::bind_socket;
use crate::signer::SignedHead;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Connections at once: a node has one.
const CONNECTIONS_MAX: usize = 16;
/// How long the rest of a question, or the taking of an answer, may last.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Rights of the socket: the signer's user and the group that the node is in.
const SOCKET_MODE: u32 = 0o660;

/// The signer's socket, open to its user and group. Its folder says who gets as far as to it.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    bind_socket(socket, SOCKET_MODE)
}

/// A signer that answers.
pub struct SignerProcess {
    signer: LocalSigner,
    _lock: File,
}

impl SignerProcess {
    /// Opens the signer's folder, in which no other signer may work.
    pub fn open(dir: &Path) -> Result<Arc<Self>, SignError> {
        let path = dir.join("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = opened.map_err(failed("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SignError::Locked { path }),
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        Ok(Arc::new(Self { signer: LocalSigner::open(dir)?, _lock: lock }))
    }

    /// The key that notes verify under.
    pub fn verify_key(&self) -> VerifyKey {
        self.signer.verify_key()
    }

    /// Answers until dropped.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let signer = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _slot = slot;
                        if let Err(error) = signer.talk(stream).await {
                            tracing::debug!(%error, "conversation ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn talk(self: Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        let invalid = |found: &str| io::Error::new(io::ErrorKind::InvalidData, found.to_owned());
        loop {
            let mut head = [0; 4];
            // Between two questions a node may take its time.
            stream.read_exact(&mut head).await?;
            let mut text = vec![0; length(head).ok_or_else(|| invalid("question is too long"))?];
            tokio::time::timeout(EXCHANGE_TIMEOUT, stream.read_exact(&mut text)).await??;
            let request = std::str::from_utf8(&text).ok().and_then(Request::read);
            let request = request.ok_or_else(|| invalid("question cannot be read"))?;
            let signer = Arc::clone(&self);
            let reply = tokio::task::spawn_blocking(move || signer.answer(&request)).await?;
            let reply = framed(&reply.write()).ok_or_else(|| invalid("answer is too long"))?;
            tokio::time::timeout(EXCHANGE_TIMEOUT, stream.write_all(&reply)).await??;
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let (old, proof, checkpoint) = match request {
            Request::Head => return self.head(),
            Request::Transition => return self.signer.to_successor().map_or_else(refused, Reply::Transition),
            Request::Adopt(key) => return self.signer.adopt(key).map_or_else(refused, |()| self.head()),
            Request::Sign { old, proof, checkpoint } => (*old, proof, checkpoint),
        };
        if checkpoint.origin != self.signer.origin() {
            return Reply::Refused(format!("the key is that of {}", self.signer.origin()));
        }
        let head = SignedHead { size: checkpoint.size, root: checkpoint.root };
        match self.signer.grow(old, proof, head) {
            Ok(Ok(note)) => Reply::Note(note),
            Ok(Err(Growth::Unknown { known, .. })) => Reply::Known(known),
            Ok(Err(growth @ (Growth::Inconsistent { .. } | Growth::OldAbove { .. }))) => {
                tracing::error!(%growth, "log is not signed");
                Reply::Inconsistent
            }
            Err(error) => refused(error),
        }
    }

    fn head(&self) -> Reply {
        Reply::Head(self.signer.verify_key(), self.signer.signed())
    }
}

/// The node learns that something is wrong, the signer's user what.
fn refused(error: SignError) -> Reply {
    tracing::error!(error = %crate::service::chain(&error), "node's request is refused");
    Reply::Refused("its disk or its key fails, or no successor is prepared".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{HEAD_NAME, LATEST_NAME, RemoteSigner, SignableLog, VKEY_NAME, move_key};
    use super::*;
    use crate::chain::ConsistencyProof;
    use crate::chain::leaf::LeafHash;
    use crate::chain::tree::Tree;
    use std::convert::Infallible;
    use std::path::PathBuf;
    use tempfile::TempDir;

    struct Log(Vec<LeafHash>);

    impl Log {
        fn tree(&self, size: usize) -> Tree {
            let mut tree = Tree::new();
            self.0[..size].iter().for_each(|leaf| tree.push(*leaf));
            tree
        }
    }

    impl SignableLog for Log {
        fn head(&self) -> SignedHead {
            let tree = self.tree(self.0.len());
            SignedHead { size: tree.size(), root: tree.root() }
        }

        fn consistency(&self, old: u64, size: u64) -> Result<ConsistencyProof, SignError> {
            let tree = self.tree(usize::try_from(size).unwrap());
            Ok(tree.consistency_proof(old, size, |_| Ok::<_, Infallible>(Vec::new())).unwrap())
        }
    }

    /// A log of so many leaves, told apart from others by `fill`.
    fn log(fill: u8, size: u8) -> Log {
        Log((0..size).map(|n| LeafHash([fill ^ n; 32])).collect())
    }

    struct Place {
        folder: TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let place = Self { folder };
            LocalSigner::create(&place.checkpoints(), "keytrail/test/node-1").unwrap();
            move_key(&place.checkpoints(), &place.own()).unwrap();
            place
        }

        fn checkpoints(&self) -> PathBuf {
            self.folder.path().join("checkpoints")
        }

        fn own(&self) -> PathBuf {
            self.folder.path().join("signer")
        }

        fn socket(&self) -> PathBuf {
            self.folder.path().join("sock")
        }

        /// A signer's process: a runtime, which ends with all its connections when it is dropped.
        fn start(&self) -> tokio::runtime::Runtime {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let process = SignerProcess::open(&self.own()).unwrap();
            let _ = std::fs::remove_file(self.socket());
            let listener = {
                let _entered = runtime.enter();
                UnixListener::bind(self.socket()).unwrap()
            };
            runtime.spawn(process.serve(listener));
            runtime
        }

        fn remote(&self) -> RemoteSigner {
            RemoteSigner::open(&self.checkpoints(), &self.socket()).unwrap()
        }
    }

    #[test]
    fn a_growing_log_is_signed_through_the_socket_and_kept_by_both() {
        let place = Place::new();
        let _process = place.start();
        let remote = place.remote();
        for size in [1, 1, 2, 7, 200] {
            let note = remote.sign_newest(&log(0, size)).unwrap();
            assert_eq!(remote.verify_key().verify(&note).unwrap().size, u64::from(size));
            assert_eq!(std::fs::read_to_string(place.checkpoints().join(LATEST_NAME)).unwrap(), note);
        }
        for dir in [place.checkpoints(), place.own()] {
            assert_eq!(SignedHead::read(&dir).unwrap(), Some(log(0, 200).head()));
        }
    }

    #[test]
    fn a_shorter_or_rewritten_log_is_refused_whatever_the_node_remembers() {
        let place = Place::new();
        let _process = place.start();
        place.remote().sign_newest(&log(0, 100)).unwrap();
        // The node's folder was rolled back: its own copies know nothing.
        for name in [HEAD_NAME, LATEST_NAME] {
            std::fs::remove_file(place.checkpoints().join(name)).unwrap();
        }
        let remote = place.remote();
        let error = remote.sign_newest(&log(0, 99)).unwrap_err();
        assert!(matches!(error, SignError::Shrunk { size: 99, signed: 100 }), "{error}");
        let error = remote.sign_newest(&log(1, 100)).unwrap_err();
        assert!(matches!(error, SignError::Forked { size: 100, .. }), "{error}");
        let error = remote.sign_newest(&log(1, 120)).unwrap_err();
        assert!(matches!(error, SignError::Inconsistent { size: 120, signed: 100 }) && error.is_rollback(), "{error}");
        remote.sign_newest(&log(0, 120)).unwrap();
    }

    #[test]
    fn a_signer_that_was_away_goes_on_and_another_logs_is_refused() {
        let place = Place::new();
        let remote = place.remote();
        assert!(matches!(remote.sign_newest(&log(0, 3)), Err(SignError::Away { .. })));
        let process = place.start();
        remote.sign_newest(&log(0, 3)).unwrap();
        drop(process);
        assert!(matches!(remote.sign_newest(&log(0, 5)), Err(SignError::Away { .. })));
        let _process = place.start();
        remote.sign_newest(&log(0, 9)).unwrap();
        // A second node on the same log has moved the signer on: asked anew, once.
        place.remote().sign_newest(&log(0, 12)).unwrap();
        remote.sign_newest(&log(0, 13)).unwrap();
        let other = tempfile::tempdir().unwrap();
        LocalSigner::create(other.path(), "keytrail/test/node-2").unwrap();
        std::fs::copy(other.path().join(VKEY_NAME), place.checkpoints().join(VKEY_NAME)).unwrap();
        let error = place.remote().sign_newest(&log(0, 13)).unwrap_err();
        assert!(matches!(error, SignError::Answer { .. }), "{error}");
    }

    #[test]
    fn two_signers_never_share_a_folder() {
        let place = Place::new();
        let first = SignerProcess::open(&place.own()).unwrap();
        assert!(matches!(SignerProcess::open(&place.own()), Err(SignError::Locked { .. })));
        drop(first);
        assert!(SignerProcess::open(&place.own()).is_ok());
    }
}
