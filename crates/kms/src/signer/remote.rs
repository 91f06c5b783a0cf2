//! The signer in a process of its own, as the node sees it: a socket, and a key it can only verify with.
//!
//! The node keeps copies of the newest note and of the head under it in `checkpoints/`, for readers and for its own next
//! start; neither lets anyone sign. A signer that is away costs checkpoints, never answers: the next try is the next
//! second's.

use super::keys::{own_key, write_own_key};
use super::wire::{Reply, Request, framed, length};
use super::{CheckpointSigner, LATEST_NAME, SignError, SignableLog, SignedHead, replace};
use crate::chain::checkpoint::{Checkpoint, VerifyKey};
use crate::chain::transition::KeyTransition;
use crate::chain::tree::Tree;
use parking_lot::{Mutex, RwLock};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the signer may take for one answer: it syncs its disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A signer behind a socket.
pub struct RemoteSigner {
    socket: PathBuf,
    /// The node's copies.
    checkpoints: PathBuf,
    key: RwLock<VerifyKey>,
    link: Mutex<Link>,
    signed: Mutex<Option<SignedHead>>,
}

/// One conversation at a time.
#[derive(Default)]
struct Link {
    stream: Option<UnixStream>,
    /// What the signer signed last, once it has said so; None before.
    known: Option<SignedHead>,
    /// The note over it, when it came in this run.
    note: Option<String>,
}

impl RemoteSigner {
    /// A signer for the log whose verifier key is in `checkpoints/vkey`. Does not connect yet.
    pub fn open(checkpoints: &Path, socket: &Path) -> Result<Self, SignError> {
        Ok(Self {
            socket: socket.to_owned(),
            checkpoints: checkpoints.to_owned(),
            key: RwLock::new(own_key(checkpoints)?),
            link: Mutex::default(),
            signed: Mutex::new(SignedHead::read(checkpoints)?),
        })
    }

    /// Asks for the signer's memory: the log must be no shorter, and the same as far as it goes. Blocks.
    pub fn remembered(&self) -> Result<Option<SignedHead>, SignError> {
        let mut link = self.link.lock();
        self.learn(&mut link).map(|head| (head.size > 0).then_some(head))
    }

    fn learn(&self, link: &mut Link) -> Result<SignedHead, SignError> {
        let (key, mut reply) = (self.verify_key(), self.ask(link, &Request::Head)?);
        // The node's key is the one that the log's transitions lead to: a crash may have kept the signer from its successor.
        if matches!(&reply, Reply::Head(found, _) if *found != key) {
            reply = self.ask(link, &Request::Adopt(key.clone()))?;
        }
        match reply {
            Reply::Head(found, _) if found != key => Err(self.odd("holds another key")),
            Reply::Refused(_) => Err(self.odd("holds the key of another log, or not yet the log's new one")),
            Reply::Head(_, head) => {
                // Nothing signed is the empty log, which any log continues.
                let head = head.unwrap_or(SignedHead { size: 0, root: Tree::new().root() });
                link.known = Some(head);
                Ok(head)
            }
            _ => Err(self.odd("does not tell its head")),
        }
    }

    /// One question and its answer. A stream that broke since the last one is opened again once.
    fn ask(&self, link: &mut Link, request: &Request) -> Result<Reply, SignError> {
        let text = request.write();
        let reused = link.stream.take();
        let first = reused.map(|stream| self.exchange(stream, &text));
        let (stream, reply) = match first {
            Some(Ok(done)) => done,
            Some(Err(_)) | None => {
                let away = |source| SignError::Away { socket: self.socket.clone(), source };
                let stream = UnixStream::connect(&self.socket).map_err(away)?;
                self.exchange(stream, &text).map_err(away)?
            }
        };
        link.stream = Some(stream);
        Reply::read(&reply).ok_or_else(|| self.odd("answers in words of its own"))
    }

    fn exchange(&self, mut stream: UnixStream, text: &str) -> io::Result<(UnixStream, String)> {
        let invalid = |found: &str| io::Error::new(io::ErrorKind::InvalidData, found.to_owned());
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(&framed(text).ok_or_else(|| invalid("question is too long"))?)?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut reply = vec![0; length(head).ok_or_else(|| invalid("answer is too long"))?];
        stream.read_exact(&mut reply)?;
        let reply = String::from_utf8(reply).map_err(|_| invalid("answer is not text"))?;
        Ok((stream, reply))
    }

    /// Believes a note only if it says what was asked for, and keeps it.
    fn take(&self, link: &mut Link, head: SignedHead, note: String) -> Result<String, SignError> {
        let key = self.verify_key();
        let wanted = Checkpoint { origin: key.name().to_owned(), size: head.size, root: head.root };
        if key.verify(&note).as_ref() != Ok(&wanted) {
            return Err(self.odd("gave a note over something else"));
        }
        head.write(&self.checkpoints)?;
        replace(&self.checkpoints, LATEST_NAME, note.as_bytes(), 0o644)?;
        *self.signed.lock() = Some(head);
        (link.known, link.note) = (Some(head), Some(note.clone()));
        Ok(note)
    }

    fn odd(&self, found: impl Into<String>) -> SignError {
        SignError::Answer { socket: self.socket.clone(), found: found.into() }
    }
}

impl CheckpointSigner for RemoteSigner {
    fn sign_newest(&self, log: &dyn SignableLog) -> Result<String, SignError> {
        let mut link = self.link.lock();
        // Twice: an answer that was lost on the way has moved the signer on.
        for _ in 0..2 {
            let known = match link.known {
                Some(known) => known,
                None => self.learn(&mut link)?,
            };
            let head = log.head();
            known.admits(head)?;
            if let Some(note) = link.note.as_ref().filter(|_| known == head) {
                return Ok(note.clone());
            }
            let proof = log.consistency(known.size, head.size)?;
            let origin = self.key.read().name().to_owned();
            let checkpoint = Checkpoint { origin, size: head.size, root: head.root };
            match self.ask(&mut link, &Request::Sign { old: known.size, proof, checkpoint })? {
                Reply::Note(note) => return self.take(&mut link, head, note),
                Reply::Known(_) => link.known = None,
                Reply::Inconsistent => {
                    return Err(SignError::Inconsistent { size: head.size, signed: known.size });
                }
                Reply::Refused(reason) => return Err(self.odd(format!("refused: {reason}"))),
                Reply::Head(..) | Reply::Transition(_) => return Err(self.odd("does not answer what was asked")),
            }
        }
        Err(self.odd("is asked by another node, too"))
    }

    fn verify_key(&self) -> VerifyKey {
        self.key.read().clone()
    }

    fn signed(&self) -> Option<SignedHead> {
        *self.signed.lock()
    }

    fn transition(&self, log: &dyn SignableLog) -> Result<KeyTransition, SignError> {
        self.sign_newest(log)?;
        let mut link = self.link.lock();
        match self.ask(&mut link, &Request::Transition)? {
            Reply::Transition(transition) => Ok(transition),
            Reply::Refused(reason) => Err(self.odd(format!("refused: {reason}"))),
            _ => Err(self.odd("does not answer what was asked")),
        }
    }

    fn adopt(&self, key: &VerifyKey) -> Result<(), SignError> {
        let mut link = self.link.lock();
        match self.ask(&mut link, &Request::Adopt(key.clone()))? {
            Reply::Head(found, head) if found == *key => (link.known, link.note) = (head, None),
            Reply::Refused(reason) => return Err(self.odd(format!("refused: {reason}"))),
            _ => return Err(self.odd("does not take its successor into use")),
        }
        write_own_key(&self.checkpoints, key)?;
        *self.key.write() = key.clone();
        Ok(())
    }
}
