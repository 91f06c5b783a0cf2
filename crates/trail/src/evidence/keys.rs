//! The exporter's own keys in `DIR/evidence`: one signs manifests, one CloudTrail digests.
//!
//! Both lie beside the service. Whoever takes them can sign manifests and digests of packs that hold what they like;
//! such a pack still needs a checkpoint of the log's signer over a tree with these leaves, which these keys cannot sign.

use super::{IoError, io};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keytrail_kms::chain::{NoteError, Pkcs8, SigningKey};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Folder of the keys, below the data folder.
const FOLDER: &str = "evidence";
/// Name of the key that signs manifests.
const KEY_NAME: &str = "keytrail-evidence";
const PEM_FIRST: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_LAST: &str = "-----END PRIVATE KEY-----";
/// Longest key file read; an RSA key has less than 2 KiB.
const KEY_BYTES_MAX: u64 = 16 * 1024;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Reading, writing or creating.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Not PKCS#8 in PEM, or of another kind.
    #[error("{0} is no key of this kind in PKCS#8")]
    Key(PathBuf),
    /// The name or the key is not accepted.
    #[error("evidence key cannot be used")]
    Note(#[from] NoteError),
    /// The library made no key or no signature.
    #[error("evidence key cannot be made or used")]
    Crypto,
}

/// Both keys.
pub(super) struct Keys {
    /// Signs manifests.
    pub(super) pack: SigningKey,
    /// Signs digests.
    pub(super) digest: DigestKey,
}

impl Keys {
    /// Opens the keys of the data folder `dir`, making them at first use.
    pub(super) fn open(dir: &Path) -> Result<Self, KeyFileError> {
        let folder = dir.join(FOLDER);
        if !folder.is_dir() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(io("create", &folder))?;
        }
        let pack = stored(&folder.join("pack.key"), || {
            let (_, pkcs8) = SigningKey::generate(KEY_NAME)?;
            Ok(Zeroizing::new(pkcs8.expose().to_vec()))
        })?;
        let digest_path = folder.join("digest.key");
        let digest = stored(&digest_path, || {
            let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyFileError::Crypto)?;
            let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| KeyFileError::Crypto)?;
            Ok(Zeroizing::new(der.as_ref().to_vec()))
        })?;
        let pair = RsaKeyPair::from_pkcs8(&digest).map_err(|_| KeyFileError::Key(digest_path))?;
        Ok(Self { pack: SigningKey::from_pkcs8(KEY_NAME, &Pkcs8::new(pack))?, digest: DigestKey { pair } })
    }
}

/// The RSA key of digests. As at AWS it has 2048 bits: it serves their tool, the root is signed by the log's key.
pub(super) struct DigestKey {
    pair: RsaKeyPair,
}

impl DigestKey {
    /// PKCS#1 DER of the public half.
    pub(super) fn public_der(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// How digests name it: hex of SHA-256 over that.
    pub(super) fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, self.public_der()))
    }

    /// PKCS#1 v1.5 with SHA-256, hex.
    pub(super) fn sign(&self, message: &[u8]) -> Result<String, KeyFileError> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| KeyFileError::Crypto)?;
        Ok(hex::encode(signature))
    }
}

/// The key in `path`, made by `make` if there is none. Of two exports that both find none, the first one's stays.
fn stored(
    path: &Path,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, KeyFileError>,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    if let Some(key) = read(path)? {
        return Ok(key);
    }
    let encoded = Zeroizing::new(BASE64.encode(&*make()?));
    let mut text = Zeroizing::new(format!("{PEM_FIRST}\n"));
    for start in (0..encoded.len()).step_by(64) {
        text.push_str(encoded.get(start..encoded.len().min(start + 64)).unwrap_or_default());
        text.push('\n');
    }
    text.push_str(PEM_LAST);
    text.push('\n');
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(io("remove", &temporary))?;
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io("name", path)(error).into()),
        Ok(()) | Err(_) => {}
    }
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync", folder))?;
    }
    read(path)?.ok_or_else(|| KeyFileError::Key(path.to_owned()))
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("read", path)(error).into()),
        Ok(metadata) if metadata.len() > KEY_BYTES_MAX => return Err(KeyFileError::Key(path.to_owned())),
        Ok(_) => {}
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(io("read", path))?);
    let body = text.trim().strip_prefix(PEM_FIRST).and_then(|rest| rest.strip_suffix(PEM_LAST));
    let body = Zeroizing::new(body.unwrap_or_default().split_ascii_whitespace().collect::<String>());
    let key = BASE64.decode(&*body).ok().filter(|key| !key.is_empty());
    key.map(|key| Some(Zeroizing::new(key))).ok_or_else(|| KeyFileError::Key(path.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_private_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = Keys::open(dir.path()).unwrap();
        let again = Keys::open(dir.path()).unwrap();
        assert_eq!(first.pack.verify_key(), again.pack.verify_key());
        assert_eq!(first.digest.fingerprint(), again.digest.fingerprint());
        for name in ["pack.key", "digest.key"] {
            let mode = fs::metadata(dir.path().join(FOLDER).join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let signature = hex::decode(again.digest.sign(b"text").unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, first.digest.public_der().to_vec());
        public.verify(b"text", &signature).unwrap();
        assert!(public.verify(b"other", &signature).is_err());
    }

    #[test]
    fn a_damaged_key_is_refused_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Keys::open(dir.path()).unwrap();
        let path = dir.path().join(FOLDER).join("digest.key");
        fs::write(&path, "nothing").unwrap();
        assert!(matches!(Keys::open(dir.path()), Err(KeyFileError::Key(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "nothing");
    }
}
