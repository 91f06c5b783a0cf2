//! The socket through which `keytrail rootkey rotate` gives a running node its next root key.
//!
//! One message, sealed under the root key in force, and one line of JSON back. Only the folder's owner can connect, and
//! who cannot open the root key in force cannot say anything. Nothing of the message touches the disk but the file that
//! the next root key will live in.

use crate::crypto::{RootKey, SealKey, Successor};
use crate::node::Node;
use crate::ops::{self, NotRotated, Rotated};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Below the data folder.
pub(crate) const ROOT_KEY_SOCKET: &str = "run/rootkey.sock";
/// A sealed message has some 300 bytes.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024;
/// How long a message may take to come.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a change may take: everything is wrapped anew, tens of thousands of rows a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: u64 = 4_096;

/// Why a running node did not take the next root key.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The root key in force.
    #[error("make the next root key")]
    RootKey(#[from] crate::crypto::RootKeyError),
    /// The node is not there or did not answer.
    #[error("reach the node through {path}")]
    Reach {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The cipher.
    #[error("seal the next root key for the node")]
    Crypto(#[from] crate::crypto::CryptoFailure),
    /// The node's own words.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// Takes next root keys, one after another.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener) {
    // A stopped node's folder has nothing in it that cannot be copied.
    let _gone = RemovedOnDrop(node.dir.join(ROOT_KEY_SOCKET));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let node = Arc::clone(&node);
                // In a task of its own: a change under way must not be dropped at the stop.
                if let Err(error) = tokio::spawn(async move { answer(&node, stream).await }).await {
                    tracing::error!(%error, "change of the root key ended badly");
                }
            }
            Err(error) => {
                tracing::error!(%error, "root key socket");
                tokio::time::sleep(READ_TIMEOUT).await;
            }
        }
    }
}

struct RemovedOnDrop(PathBuf);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn answer(node: &Arc<Node>, mut stream: UnixStream) {
    let mut message = Vec::new();
    let mut bounded = (&mut stream).take(MESSAGE_BYTES_MAX);
    let read = tokio::time::timeout(READ_TIMEOUT, bounded.read_to_end(&mut message)).await;
    if !matches!(read, Ok(Ok(_))) {
        return;
    }
    let line = match rotate(node, &message).await {
        Ok(Rotated { root_key_id, materials, secrets }) => {
            json!({"rootKeyId": root_key_id, "keyMaterials": materials, "secrets": secrets})
        }
        Err(reason) => {
            tracing::warn!(reason, "root key not rotated");
            json!({"refused": reason})
        }
    };
    // The change is made or not, whoever listens.
    let _ = stream.write_all(line.to_string().as_bytes()).await;
}

async fn rotate(node: &Arc<Node>, message: &[u8]) -> Result<Rotated, String> {
    let successor = Successor::open(&node.root(), message);
    let successor = successor.map_err(|_| "the message is not under the root key in force".to_owned())?;
    ops::rotate_root_key(node, successor).await.map_err(|error: NotRotated| crate::service::chain(&error))
}

/// Has the node that runs on a folder replace its root key; gives the line that it answered. Blocks.
pub fn rotate_running(dir: &Path, seal: Option<&SealKey>, end_tokens: bool) -> Result<Value, DoorError> {
    let (successor, current): (Successor, RootKey) = Successor::make(&dir.join("root.key"), seal, end_tokens)?;
    let path = dir.join(ROOT_KEY_SOCKET);
    let message = successor.sealed(&current)?;
    let answered = || -> std::io::Result<Vec<u8>> {
        let mut stream = BlockingStream::connect(&path)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(&message)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = answered().map_err(|source| DoorError::Reach { path, source })?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
    match answer["refused"].as_str() {
        Some(reason) => Err(DoorError::Refused(reason.to_owned())),
        None if answer["rootKeyId"].is_string() => Ok(answer),
        None => Err(DoorError::Refused("no answer; its log says whether the root key was rotated".to_owned())),
    }
}
