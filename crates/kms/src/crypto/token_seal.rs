//! The root key sealed by a key inside a token: the file holds the sealed key and the labels, the token everything else.
//!
//! Whoever has the file alone has nothing; whoever has the token and its PIN, and the file, has the root key. The token is
//! needed at a start, and for another seal; while the node runs, it is not. Layout: docs/root-key.md.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::NONCE_LEN;
use zeroize::Zeroizing;

use super::push_short;
use super::root_key::{ROOT_KEY_BYTES, RootKeyId};
use super::root_seal::{ID_BYTES, MAGIC, Seal, TAG_BYTES};
use crate::hsm::{HsmError, Pin, PinError, Refusals, Session, TokenAddress, within};

/// In a file's head.
pub(super) const VERSION_TOKEN: u8 = 3;
/// As long as PKCS#11 lets a token's label be.
const TOKEN_LABEL_BYTES_MAX: usize = 32;
const KEY_LABEL_BYTES_MAX: usize = 64;
const SEALED_BYTES: usize = NONCE_LEN + ROOT_KEY_BYTES + TAG_BYTES;
/// Longest file.
pub(super) const TOKEN_SEALED_BYTES_MAX: usize =
    MAGIC.len() + 1 + ID_BYTES + 1 + TOKEN_LABEL_BYTES_MAX + 1 + KEY_LABEL_BYTES_MAX + SEALED_BYTES;
/// Below the data folder: which version of the PIN's file was refused.
const REFUSED: &str = "run/pin-refused";
/// Longest wait for a token: at a start and in commands. One over a network answers in seconds, or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A key inside a token, and what gives access to it.
pub struct TokenSeal(Arc<Access>);

struct Access {
    address: TokenAddress,
    key: String,
    pin: Pin,
    create: bool,
    refusals: Option<Refusals>,
}

impl TokenSeal {
    /// Names a key. `create`: sealing makes it if the token has none of this name; opening never does. None: a label is
    /// empty or too long.
    pub fn new(address: TokenAddress, key: String, pin: Pin, create: bool) -> Option<Self> {
        let fits = |label: &str, max| (1..=max).contains(&label.len());
        let fit = fits(&address.token, TOKEN_LABEL_BYTES_MAX) && fits(&key, KEY_LABEL_BYTES_MAX);
        fit.then(|| Self(Arc::new(Access { address, key, pin, create, refusals: None })))
    }

    /// The same with the PIN of a file, remembering below `dir` if the token refuses it: a node that is started again and
    /// again must not lock its token. Also none when a label does not fit.
    pub fn with_pin_file(
        address: TokenAddress,
        key: String,
        pin_file: &Path,
        dir: &Path,
        create: bool,
    ) -> Result<Option<Self>, PinError> {
        let pin = Pin::read(pin_file)?;
        let refusals = Refusals::of(pin_file, dir.join(REFUSED))?;
        let seal = Self::new(address, key, pin, create).and_then(|seal| Arc::into_inner(seal.0));
        Ok(seal.map(|access| Self(Arc::new(Access { refusals: Some(refusals), ..access }))))
    }

    /// Whether it is the key of these labels.
    pub(super) fn is(&self, token: &str, key: &str) -> bool {
        self.0.address.token == token && self.0.key == key
    }

    /// The file of a root key.
    pub(super) fn seal(&self, root: &[u8; ROOT_KEY_BYTES], id: RootKeyId) -> Result<Vec<u8>, HsmError> {
        let mut file = Vec::with_capacity(TOKEN_SEALED_BYTES_MAX);
        file.extend_from_slice(MAGIC);
        file.push(VERSION_TOKEN);
        file.extend_from_slice(&id.0);
        push_short(&mut file, &self.0.address.token);
        push_short(&mut file, &self.0.key);
        let (access, head, root) = (Arc::clone(&self.0), file.clone(), Zeroizing::new(*root));
        let sealed = within(ANSWER_TIMEOUT, move || {
            let session = access.session()?;
            let key = match session.key(&access.key) {
                Err(HsmError::Key { found: 0, .. }) if access.create => session.make_key(&access.key)?,
                found => found?,
            };
            let sealed = session.seal(key, &head, root.as_slice())?;
            // What cannot be opened again must not take the place of what can.
            let opened = session.unseal(key, &head, &sealed)?;
            if sealed.len() == SEALED_BYTES && *opened == root.as_slice() {
                Ok(sealed)
            } else {
                Err(HsmError::NotOpened)
            }
        })?;
        file.extend_from_slice(&sealed);
        Ok(file)
    }

    /// Opens a file whose labels are this key's.
    pub(super) fn open(&self, file: &[u8]) -> Result<Zeroizing<[u8; ROOT_KEY_BYTES]>, HsmError> {
        let head_bytes = file.len().checked_sub(SEALED_BYTES).ok_or(HsmError::NotOpened)?;
        let (head, sealed) = file.split_at_checked(head_bytes).ok_or(HsmError::NotOpened)?;
        let (access, head, sealed) = (Arc::clone(&self.0), head.to_vec(), sealed.to_vec());
        let root = within(ANSWER_TIMEOUT, move || {
            let session = access.session()?;
            session.unseal(session.key(&access.key)?, &head, &sealed)
        })?;
        let root: &[u8; ROOT_KEY_BYTES] = root.as_slice().try_into().map_err(|_| HsmError::NotOpened)?;
        Ok(Zeroizing::new(*root))
    }
}

impl Access {
    fn session(&self) -> Result<Session, HsmError> {
        let open = || Session::open(&self.address, &self.pin);
        match &self.refusals {
            Some(refusals) => refusals.watch(open),
            None => open(),
        }
    }
}

/// Reads a file's head from behind its version.
pub(super) fn head(rest: &[u8]) -> Option<Seal> {
    let (id, rest) = rest.split_first_chunk()?;
    let (token, rest) = short(rest, TOKEN_LABEL_BYTES_MAX)?;
    let (key, rest) = short(rest, KEY_LABEL_BYTES_MAX)?;
    let (nonce, _) = rest.split_first_chunk().filter(|_| rest.len() == SEALED_BYTES)?;
    Some(Seal::Token { id: RootKeyId(*id), token, key, nonce: *nonce })
}

fn short(bytes: &[u8], max: usize) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    let fits = (1..=max).contains(&text.len());
    Some((std::str::from_utf8(text).ok().filter(|_| fits)?.to_owned(), rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_whole_and_within_its_bounds() {
        let file = |token: &str, key: &str, sealed: usize| {
            let mut file = [MAGIC.as_slice(), &[VERSION_TOKEN], &[7; ID_BYTES]].concat();
            push_short(&mut file, token);
            push_short(&mut file, key);
            file.extend_from_slice(&vec![9; sealed]);
            file
        };
        let seal = Seal::of(&file("hsm", "root", SEALED_BYTES)).unwrap();
        let (token, key) = ("hsm".to_owned(), "root".to_owned());
        assert_eq!(seal, Seal::Token { id: RootKeyId([7; ID_BYTES]), token, key, nonce: [9; NONCE_LEN] });
        let longest = file(&"t".repeat(32), &"k".repeat(64), SEALED_BYTES);
        assert!(Seal::of(&longest).is_some() && longest.len() == TOKEN_SEALED_BYTES_MAX);
        for (token, key, sealed) in [("", "k", 60), ("t", "", 60), ("t", "k", 59), ("t", "k", 61)] {
            assert_eq!(Seal::of(&file(token, key, sealed)), None, "{token} {key} {sealed}");
        }
        for (token, key) in [(33, 1), (1, 65)] {
            assert_eq!(Seal::of(&file(&"t".repeat(token), &"k".repeat(key), SEALED_BYTES)), None);
        }
    }
}
