//! The root key's file: made once, opened at each start, sealed in another way or replaced by the next root key.
//!
//! Losing the file loses everything that it wraps, so `create` never overwrites one, and each change replaces it in one
//! step. The next root key waits beside it (`root.key.next`) until the store is wrapped under it; at a start, the one whose
//! name the store holds is the right one. How the file protects the key is `root_seal`'s.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::passphrase::{Cost, Passphrase};
use super::root_key::{ROOT_KEY_BYTES, RootKey};
use super::root_seal::{self, SEALED_BYTES_MAX, Seal};
use super::token_seal::TokenSeal;
use super::{CryptoFailure, random};
use crate::file::folder;
use crate::hsm::HsmError;

/// Why there is no root key.
#[derive(Debug, thiserror::Error)]
pub enum RootKeyError {
    /// The file could not be read.
    #[error("read root key {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be created; it may be there already.
    #[error("create root key {path}")]
    Create {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("root key {path} must have mode 0600, has {mode:04o}")]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be replaced.
    #[error("replace root key {path}")]
    Replace {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a bare key nor a sealed one.
    #[error("root key {path} is neither {ROOT_KEY_BYTES} bytes nor sealed in a form that this version opens")]
    Form {
        /// Which file.
        path: PathBuf,
    },
    /// A passphrase is needed.
    #[error("root key {path} is sealed by a passphrase: give --passphrase-file")]
    Sealed {
        /// Which file.
        path: PathBuf,
    },
    /// The passphrase is another one, or the file was changed; the cipher cannot tell which.
    #[error("root key {path} does not open: wrong passphrase or damaged file")]
    WrongPassphrase {
        /// Which file.
        path: PathBuf,
    },
    /// The file holds a root key, but not the one that is asked for.
    #[error("root key {path} is not the one that this store was written under")]
    Other {
        /// Which file.
        path: PathBuf,
    },
    /// Another command is changing the file.
    #[error("root key {path} is being changed by another command")]
    Busy {
        /// Which file.
        path: PathBuf,
    },
    /// Where the next root key waits, only a start can tell which of the two files is needed.
    #[error("a change of the root key {path} was cut off: start the node, which ends it, then try again")]
    CutOff {
        /// Which file.
        path: PathBuf,
    },
    /// A token is needed.
    #[error("root key {path} is sealed by key {key:?} of token {token:?}: [root_key] of keytrail.toml must name these")]
    SealedByToken {
        /// Which file.
        path: PathBuf,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
    },
    /// The token did not open or seal it.
    #[error("root key {path} under its token")]
    Token {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: HsmError,
    },
    /// Random source or cipher.
    #[error("set up root key")]
    Crypto(#[from] CryptoFailure),
}

/// What seals a root key's file and opens it again. A bare file needs none.
pub enum SealKey {
    /// A passphrase.
    Passphrase(Passphrase),
    /// A key inside a token.
    Token(TokenSeal),
}

impl RootKey {
    /// Makes a new root key file, fsynced with its folder. Never replaces one.
    pub fn create(path: &Path) -> Result<Self, RootKeyError> {
        Self::create_sealed(path, None)
    }

    /// As [`RootKey::create`], sealed if there is something to seal with.
    pub fn create_sealed(path: &Path, seal: Option<&SealKey>) -> Result<Self, RootKeyError> {
        let fresh = Fresh::random(path, seal)?;
        write_new(path, &fresh.file).map_err(|source| RootKeyError::Create { path: path.into(), source })?;
        Ok(fresh.root)
    }

    /// Opens a root key file; its mode must be 0600 or less. A seal key is used only where the file asks for one.
    pub fn open(path: &Path, seal: Option<&SealKey>) -> Result<Self, RootKeyError> {
        let bytes = open_bytes(path, seal)?;
        Ok(Self::from_bytes(&bytes)?)
    }

    /// Opens the root key that a store was written under, by its id, and ends a change of root keys that was cut off: the
    /// next one takes its place if the store is wrapped under it already, and goes if it is not.
    pub fn open_for(path: &Path, id: &str, seal: Option<&SealKey>) -> Result<Self, RootKeyError> {
        let next = next(path);
        let root = Self::open(path, seal)?;
        if root.id() == id {
            discard(path).map_err(|source| RootKeyError::Replace { path: next, source })?;
            return Ok(root);
        }
        let other = || RootKeyError::Other { path: path.into() };
        if !next.exists() {
            return Err(other());
        }
        let root = Self::open(&next, seal)?;
        if root.id() != id {
            return Err(other());
        }
        promote(path).map_err(|source| RootKeyError::Replace { path: path.into(), source })?;
        Ok(root)
    }

    /// How a root key file is sealed, without opening it.
    pub fn seal_of(path: &Path) -> Result<Seal, RootKeyError> {
        read_file(path).map(|(_, seal)| seal)
    }

    /// Seals the same root key anew: under `new`, or bare without. A crash leaves the old file or the new one, whole.
    /// What the disk keeps of the old one is not wiped: a bare key may outlive its file on a flash disk.
    pub fn reseal(path: &Path, old: Option<&SealKey>, new: Option<&SealKey>) -> Result<Seal, RootKeyError> {
        let failed = |source| RootKeyError::Replace { path: path.into(), source };
        let _lock = FileLock::take(path)?;
        if next(path).exists() {
            return Err(RootKeyError::CutOff { path: path.into() });
        }
        let fresh = Fresh::of(path, open_bytes(path, old)?, new)?;
        let beside = path.with_extension("key.new");
        remove(&beside).map_err(failed)?;
        write_new(&beside, &fresh.file).map_err(failed)?;
        fail::fail_point!("kms::before_reseal_rename", |_| std::process::abort());
        std::fs::rename(&beside, path).and_then(|()| File::open(folder(path))?.sync_all()).map_err(failed)?;
        Self::seal_of(path)
    }
}

/// A root key and the file that holds it.
pub(super) struct Fresh {
    pub(super) bytes: Zeroizing<[u8; ROOT_KEY_BYTES]>,
    pub(super) root: RootKey,
    pub(super) file: Zeroizing<Vec<u8>>,
}

impl Fresh {
    /// `path` is where it will live, for errors.
    pub(super) fn random(path: &Path, seal: Option<&SealKey>) -> Result<Self, RootKeyError> {
        Self::of(path, Zeroizing::new(random::<ROOT_KEY_BYTES>()?), seal)
    }

    fn of(path: &Path, bytes: Zeroizing<[u8; ROOT_KEY_BYTES]>, seal: Option<&SealKey>) -> Result<Self, RootKeyError> {
        let root = RootKey::from_bytes(&bytes)?;
        let file = match seal {
            None => bytes.to_vec(),
            Some(SealKey::Passphrase(passphrase)) => {
                root_seal::seal((&bytes, root.public_id()), passphrase, Cost::NEW)?
            }
            Some(SealKey::Token(token)) => {
                let sealed = token.seal(&bytes, root.public_id());
                sealed.map_err(|source| RootKeyError::Token { path: path.into(), source })?
            }
        };
        Ok(Self { bytes, root, file: Zeroizing::new(file) })
    }
}

/// Held while the file is replaced, so that two commands do not undo each other's change.
pub(crate) struct FileLock {
    _folder: File,
}

impl FileLock {
    pub(crate) fn take(path: &Path) -> Result<Self, RootKeyError> {
        let read = |source| RootKeyError::Read { path: path.into(), source };
        let folder = File::open(folder(path)).map_err(read)?;
        match rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: folder }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(RootKeyError::Busy { path: path.into() }),
            Err(error) => Err(read(error.into())),
        }
    }
}

/// Where the next root key waits.
pub(crate) fn next(path: &Path) -> PathBuf {
    path.with_extension("key.next")
}

/// Puts the next root key beside the one in force, which must be this one: what waits there already may be needed else.
/// Durable when it returns.
pub(super) fn stage(path: &Path, current: &RootKey, seal: &str, file: &[u8]) -> Result<(), RootKeyError> {
    let (in_force, found) = read_file(path)?;
    if !holds(&in_force, &found, &current.id())? {
        return Err(RootKeyError::Other { path: path.into() });
    }
    if found.name() != seal {
        return Err(RootKeyError::Busy { path: path.into() });
    }
    let staged = remove(&next(path)).and_then(|()| write_new(&next(path), file));
    staged.map_err(|source| RootKeyError::Replace { path: path.into(), source })
}

/// The next root key takes the place of the one in force.
pub(crate) fn promote(path: &Path) -> io::Result<()> {
    std::fs::rename(next(path), path)?;
    File::open(folder(path))?.sync_all()
}

/// Takes the next root key away, if there is one.
pub(crate) fn discard(path: &Path) -> io::Result<()> {
    remove(&next(path))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(()),
        Ok(()) => File::open(folder(path))?.sync_all(),
    }
}

fn open_bytes(path: &Path, key: Option<&SealKey>) -> Result<Zeroizing<[u8; ROOT_KEY_BYTES]>, RootKeyError> {
    let form = || RootKeyError::Form { path: path.into() };
    let (file, seal) = read_file(path)?;
    match (seal, key) {
        (Seal::File, _) => Ok(Zeroizing::new(file.as_slice().try_into().map_err(|_| form())?)),
        (Seal::Passphrase { cost, salt, .. }, Some(SealKey::Passphrase(passphrase))) => {
            root_seal::open(&file, passphrase, cost, &salt)?
                .ok_or_else(|| RootKeyError::WrongPassphrase { path: path.into() })
        }
        (Seal::Passphrase { .. }, _) => Err(RootKeyError::Sealed { path: path.into() }),
        (Seal::Token { token, key, .. }, Some(SealKey::Token(seal))) if seal.is(&token, &key) => {
            seal.open(&file).map_err(|source| RootKeyError::Token { path: path.into(), source })
        }
        (Seal::Token { token, key, .. }, _) => Err(RootKeyError::SealedByToken { path: path.into(), token, key }),
    }
}

/// A root key's file as read, and how it is sealed.
type SealedFile = (Zeroizing<Vec<u8>>, Seal);

/// The file of the root key that a copy of a store was written under, by its id: the one in force, or the next one in the
/// moment before it is. None when there is no file at all, as where it is kept elsewhere while the node runs.
pub(crate) fn find(path: &Path, id: &str) -> Result<Option<SealedFile>, RootKeyError> {
    let mut any = false;
    // First the next one, which always says whose it is; a file of an earlier version could be of any. Once more at the
    // end: it may take its place between the two looks.
    for candidate in [&next(path), path, &next(path), path] {
        let (file, seal) = match read_file(candidate) {
            Err(RootKeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        any = true;
        if holds(&file, &seal, id)? {
            return Ok(Some((file, seal)));
        }
    }
    if any { Err(RootKeyError::Other { path: path.into() }) } else { Ok(None) }
}

/// Whether a file is of this root key, as far as it says so: one of an earlier version could be of any.
fn holds(file: &[u8], seal: &Seal, id: &str) -> Result<bool, RootKeyError> {
    let named = match seal {
        Seal::File => {
            <&[u8; ROOT_KEY_BYTES]>::try_from(file).ok().map(RootKey::from_bytes).transpose()?.map(|root| root.id())
        }
        Seal::Passphrase { id, .. } => id.map(|id| id.to_string()),
        Seal::Token { id, .. } => Some(id.to_string()),
    };
    Ok(named.is_none_or(|named| named == id))
}

/// A file's bytes, its mode checked, and how they are sealed.
pub(super) fn read_file(path: &Path) -> Result<SealedFile, RootKeyError> {
    let read = |source| RootKeyError::Read { path: path.into(), source };
    let file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(RootKeyError::Permissions { path: path.into(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_BYTES_MAX + 2));
    file.take(SEALED_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
    let seal = Seal::of(&bytes).ok_or_else(|| RootKeyError::Form { path: path.into() })?;
    Ok((bytes, seal))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    File::open(folder(path))?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_root_key_file_is_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let id = RootKey::create(&path).unwrap().id();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(RootKey::open(&path, None).unwrap().id(), id);
        assert!(matches!(RootKey::create(&path), Err(RootKeyError::Create { .. })));
        assert_eq!(RootKey::open(&path, None).unwrap().id(), id);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(RootKey::open(&path, None), Err(RootKeyError::Permissions { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for length in [0, 31, 33] {
            fs::write(&path, vec![7; length]).unwrap();
            assert!(matches!(RootKey::open(&path, None), Err(RootKeyError::Form { .. })));
        }
        assert!(matches!(RootKey::open(&folder.path().join("none"), None), Err(RootKeyError::Read { .. })));
    }
    #[test]
    fn resealing_keeps_the_key_and_needs_the_passphrase_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let phrase =
            |text: &str| SealKey::Passphrase(Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap());
        let (first, second) = (phrase("the first passphrase"), phrase("the second passphrase"));
        let id = RootKey::create(&path).unwrap().id();
        let bare = fs::read(&path).unwrap();
        // As a crash before the rename leaves it.
        fs::write(path.with_extension("key.new"), b"torn").unwrap();
        let one = RootKey::reseal(&path, None, Some(&first)).unwrap();
        let sealed = fs::read(&path).unwrap();
        assert!(!sealed.windows(8).any(|window| bare.windows(8).any(|part| part == window)));
        assert!(matches!(RootKey::open(&path, None), Err(RootKeyError::Sealed { .. })));
        assert!(matches!(RootKey::open(&path, Some(&second)), Err(RootKeyError::WrongPassphrase { .. })));
        assert!(RootKey::reseal(&path, Some(&second), None).is_err());
        assert_eq!(fs::read(&path).unwrap(), sealed, "a refused change changes nothing");
        assert_eq!(RootKey::open(&path, Some(&first)).unwrap().id(), id);
        let two = RootKey::reseal(&path, Some(&first), Some(&second)).unwrap();
        assert_ne!(one.name(), two.name());
        assert_eq!(RootKey::open(&path, Some(&second)).unwrap().id(), id);
        assert_eq!(RootKey::reseal(&path, Some(&second), None).unwrap(), Seal::File);
        assert_eq!(fs::read(&path).unwrap(), bare);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
