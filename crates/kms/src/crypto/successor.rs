//! The next root key on its way into force: made by a command, sealed like the one in force, and told to the node only
//! under that one. Its file waits beside `root.key` until the store is wrapped under it.

use std::path::Path;

use zeroize::Zeroizing;

use super::root_file::{Fresh, SealKey, stage};
use super::root_key::{ROOT_KEY_BYTES, RootKey};
use super::root_seal::Seal;
use super::sealed::{self, NotSealed, Purpose};
use super::{CryptoFailure, RootKeyError, SecretBytes};

/// Longest seal's name.
const NAME_BYTES_MAX: usize = 255;

/// The next root key, with the file that will hold it.
pub struct Successor {
    bytes: Zeroizing<[u8; ROOT_KEY_BYTES]>,
    file: Zeroizing<Vec<u8>>,
    former_seal: String,
    /// Tokens in callers' hands end with the root key of before, instead of being honoured until they end by themselves.
    pub end_tokens: bool,
}

impl Successor {
    /// Makes the next root key for a file, sealed as that file is; gives the root key in force too.
    pub fn make(path: &Path, seal: Option<&SealKey>, end_tokens: bool) -> Result<(Self, RootKey), RootKeyError> {
        let current = RootKey::open(path, seal)?;
        let former = RootKey::seal_of(path)?;
        let Fresh { bytes, file, .. } = Fresh::random(path, if former == Seal::File { None } else { seal })?;
        Ok((Self { bytes, file, former_seal: former.name(), end_tokens }, current))
    }

    /// The next root key, with nothing of before.
    pub(crate) fn root(&self) -> Result<RootKey, CryptoFailure> {
        RootKey::from_bytes(&self.bytes)
    }

    /// How its file is sealed.
    pub(crate) fn seal(&self) -> Option<Seal> {
        Seal::of(&self.file)
    }

    /// Puts its file beside the one in force, unless that is no longer sealed as it was when the next one was made.
    pub(crate) fn stage(&self, path: &Path, current: &RootKey) -> Result<(), RootKeyError> {
        stage(path, current, &self.former_seal, &self.file)
    }

    /// For the node, under the root key in force: whoever cannot open that cannot change it.
    pub fn sealed(&self, current: &RootKey) -> Result<Vec<u8>, CryptoFailure> {
        let name = self.former_seal.as_bytes();
        let length = u8::try_from(name.len()).map_err(|_| CryptoFailure)?;
        let mut text = SecretBytes::new(Vec::with_capacity(ROOT_KEY_BYTES + 2 + NAME_BYTES_MAX + self.file.len()));
        text.push(self.bytes.as_slice());
        text.push(&[u8::from(self.end_tokens), length]);
        text.push(name);
        text.push(&self.file);
        sealed::seal(current, Purpose::Successor, &current.id(), text.expose())
    }

    /// Opens what [`Successor::sealed`] made.
    pub(crate) fn open(current: &RootKey, blob: &[u8]) -> Result<Self, NotSealed> {
        let text = sealed::open(current, Purpose::Successor, &current.id(), blob)?;
        let (bytes, rest) = text.expose().split_first_chunk::<ROOT_KEY_BYTES>().ok_or(NotSealed)?;
        let ([end_tokens, length], rest) = rest.split_first_chunk::<2>().ok_or(NotSealed)?;
        let (name, file) = rest.split_at_checked(usize::from(*length)).ok_or(NotSealed)?;
        Ok(Self {
            bytes: Zeroizing::new(*bytes),
            file: Zeroizing::new(file.to_vec()),
            former_seal: String::from_utf8(name.to_vec()).map_err(|_| NotSealed)?,
            end_tokens: *end_tokens != 0,
        })
    }
}
