//! The root key: 32 random bytes in a file that only its owner may read, under which all key material is wrapped.
//!
//! Whoever has the key and kms.db has every key. Only keys derived from it stay in memory; losing the file loses
//! everything that it wraps, so `create` never overwrites one, and `reseal` replaces it in one step. How the file
//! protects the key (by its mode, or by a passphrase) is `root_seal`'s.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::material::KeyMaterial;
use super::passphrase::{Cost, Passphrase};
use super::root_seal::{self, SEALED_BYTES, Seal};
use super::{CryptoFailure, random};

/// Length of the key, and of a file that holds it bare.
pub const ROOT_KEY_BYTES: usize = 32;

const EXTRACT_SALT: &[u8] = b"keytrail root key v1";
const WRAP_LABEL: &[u8] = b"material wrapping key";
const TOKEN_LABEL: &[u8] = b"import token key";
const SEALING_LABEL: &[u8] = b"secret sealing key";
const ID_LABEL: &[u8] = b"root key id";
const GRANT_TOKEN_LABEL: &[u8] = b"grant token key";

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
    /// Random source or cipher.
    #[error("set up root key")]
    Crypto(#[from] CryptoFailure),
}

/// The keys that wrap key material and seal secrets. Never printed; the cipher wipes its schedules on drop.
pub struct RootKey {
    pub(super) wrapping: LessSafeKey,
    /// Behind `import`: what callers hold and hand in again must not meet the key of what the store holds.
    pub(super) tokens: LessSafeKey,
    /// Behind `sealed`: each secret has a key of its own, derived from this.
    pub(super) sealing: KeyMaterial,
    grant_tokens: hmac::Key,
    id: [u8; 16],
}

impl RootKey {
    /// Makes a new root key file, fsynced with its folder. Never replaces one.
    pub fn create(path: &Path) -> Result<Self, RootKeyError> {
        Self::create_sealed(path, None)
    }

    /// As [`RootKey::create`], sealed under the passphrase if there is one.
    pub fn create_sealed(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self, RootKeyError> {
        let bytes = Zeroizing::new(random::<ROOT_KEY_BYTES>()?);
        let file = contents(&bytes, passphrase)?;
        write_new(path, &file).map_err(|source| RootKeyError::Create { path: path.into(), source })?;
        Ok(Self::from_bytes(&bytes)?)
    }

    /// Opens a root key file; its mode must be 0600 or less. A passphrase is used only where the file asks for one.
    pub fn open(path: &Path, passphrase: Option<&Passphrase>) -> Result<Self, RootKeyError> {
        let bytes = open_bytes(path, passphrase)?;
        Ok(Self::from_bytes(&bytes)?)
    }

    /// How a root key file is sealed, without opening it.
    pub fn seal_of(path: &Path) -> Result<Seal, RootKeyError> {
        read_file(path).map(|(_, seal)| seal)
    }

    /// Seals the same root key anew: under `new`, or bare without. A crash leaves the old file or the new one, whole.
    /// What the disk keeps of the old one is not wiped: a bare key may outlive its file on a flash disk.
    pub fn reseal(path: &Path, old: Option<&Passphrase>, new: Option<&Passphrase>) -> Result<Seal, RootKeyError> {
        let failed = |source| RootKeyError::Replace { path: path.into(), source };
        let bytes = open_bytes(path, old)?;
        let file = contents(&bytes, new)?;
        let fresh = path.with_extension("key.new");
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            // Left behind by a crash.
            Ok(()) | Err(_) => {}
        }
        write_new(&fresh, &file).map_err(failed)?;
        fail::fail_point!("kms::before_reseal_rename", |_| std::process::abort());
        std::fs::rename(&fresh, path).and_then(|()| File::open(folder(path))?.sync_all()).map_err(failed)?;
        Self::seal_of(path)
    }

    /// A root key that is in no file and no secret: for the fuzz targets.
    #[cfg(feature = "testing")]
    pub(crate) fn fixed(bytes: &[u8; ROOT_KEY_BYTES]) -> Result<Self, CryptoFailure> {
        Self::from_bytes(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8; ROOT_KEY_BYTES]) -> Result<Self, CryptoFailure> {
        let root = Salt::new(HKDF_SHA256, EXTRACT_SALT).extract(bytes);
        let wrapping = root.expand(&[WRAP_LABEL], &AES_256_GCM).map_err(|_| CryptoFailure)?;
        let grant_tokens = root.expand(&[GRANT_TOKEN_LABEL], hmac::HMAC_SHA256).map_err(|_| CryptoFailure)?;
        let tokens = root.expand(&[TOKEN_LABEL], &AES_256_GCM).map_err(|_| CryptoFailure)?;
        let mut sealing = Zeroizing::new([0; ROOT_KEY_BYTES]);
        let okm = root.expand(&[SEALING_LABEL], HKDF_SHA256).map_err(|_| CryptoFailure)?;
        okm.fill(sealing.as_mut_slice()).map_err(|_| CryptoFailure)?;
        Ok(Self {
            wrapping: LessSafeKey::new(UnboundKey::from(wrapping)),
            tokens: LessSafeKey::new(UnboundKey::from(tokens)),
            sealing: KeyMaterial::from_bytes(sealing),
            grant_tokens: grant_tokens.into(),
            id: public_id(&root)?,
        })
    }

    /// The key that grant tokens are authenticated with.
    pub(crate) fn grant_tokens(&self) -> &hmac::Key {
        &self.grant_tokens
    }

    /// A public name of this root key, 32 hex digits, to tell at start-up whether a store was written under it.
    pub fn id(&self) -> String {
        hex::encode(self.id)
    }
}

fn public_id(root: &Prk) -> Result<[u8; 16], CryptoFailure> {
    let mut id = [0; 32];
    let okm = root.expand(&[ID_LABEL], HKDF_SHA256).map_err(|_| CryptoFailure)?;
    okm.fill(&mut id).map_err(|_| CryptoFailure)?;
    let (head, _) = id.split_first_chunk().ok_or(CryptoFailure)?;
    Ok(*head)
}

/// What goes into the file.
fn contents(
    bytes: &[u8; ROOT_KEY_BYTES],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, CryptoFailure> {
    match passphrase {
        Some(passphrase) => root_seal::seal(bytes, passphrase, Cost::NEW).map(Zeroizing::new),
        None => Ok(Zeroizing::new(bytes.to_vec())),
    }
}

fn open_bytes(path: &Path, passphrase: Option<&Passphrase>) -> Result<Zeroizing<[u8; ROOT_KEY_BYTES]>, RootKeyError> {
    let form = || RootKeyError::Form { path: path.into() };
    let (file, seal) = read_file(path)?;
    match (seal, passphrase) {
        (Seal::File, _) => Ok(Zeroizing::new(file.as_slice().try_into().map_err(|_| form())?)),
        (Seal::Passphrase { .. }, None) => Err(RootKeyError::Sealed { path: path.into() }),
        (Seal::Passphrase { cost, salt }, Some(passphrase)) => root_seal::open(&file, passphrase, cost, &salt)?
            .ok_or_else(|| RootKeyError::WrongPassphrase { path: path.into() }),
    }
}

fn read_file(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Seal), RootKeyError> {
    let read = |source| RootKeyError::Read { path: path.into(), source };
    let file = File::open(path).map_err(read)?;
    let mode = file.metadata().map_err(read)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(RootKeyError::Permissions { path: path.into(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_BYTES + 2));
    file.take(SEALED_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
    let seal = Seal::of(&bytes).ok_or_else(|| RootKeyError::Form { path: path.into() })?;
    Ok((bytes, seal))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
        let phrase = |text: &str| Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap();
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
