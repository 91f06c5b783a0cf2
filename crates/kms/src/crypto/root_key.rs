//! The root key: 32 random bytes in a file that only its owner may read, under which all key material is wrapped.
//!
//! Whoever has this file and kms.db has every key. Only a key derived from it stays in memory; losing the file loses
//! everything that it wraps, so `create` never overwrites one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::material::KeyMaterial;
use super::{CryptoFailure, random};

/// Length of the file.
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
    /// Not 32 bytes.
    #[error("root key {path} is not {ROOT_KEY_BYTES} bytes long")]
    Length {
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
        let bytes = Zeroizing::new(random::<ROOT_KEY_BYTES>()?);
        write_new(path, bytes.as_slice()).map_err(|source| RootKeyError::Create { path: path.into(), source })?;
        Ok(Self::from_bytes(&bytes)?)
    }

    /// Opens a root key file; its mode must be 0600 or less.
    pub fn open(path: &Path) -> Result<Self, RootKeyError> {
        let read = |source| RootKeyError::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(RootKeyError::Permissions { path: path.into(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(ROOT_KEY_BYTES + 2));
        file.take(ROOT_KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(read)?;
        let bytes: &[u8; ROOT_KEY_BYTES] =
            bytes.as_slice().try_into().map_err(|_| RootKeyError::Length { path: path.into() })?;
        Ok(Self::from_bytes(bytes)?)
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
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
        assert_eq!(RootKey::open(&path).unwrap().id(), id);
        assert!(matches!(RootKey::create(&path), Err(RootKeyError::Create { .. })));
        assert_eq!(RootKey::open(&path).unwrap().id(), id);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(RootKey::open(&path), Err(RootKeyError::Permissions { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for length in [0, 31, 33] {
            fs::write(&path, vec![7; length]).unwrap();
            assert!(matches!(RootKey::open(&path), Err(RootKeyError::Length { .. })));
        }
        assert!(matches!(RootKey::open(&folder.path().join("none")), Err(RootKeyError::Read { .. })));
    }
}
