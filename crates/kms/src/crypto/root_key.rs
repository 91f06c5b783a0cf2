//! The root key: 32 random bytes under which all key material is wrapped, and the keys derived from them.
//!
//! Whoever has the root key and kms.db has every key. Only derived keys stay in memory. How the bytes lie on disk and are
//! replaced is `root_file`'s; what callers hold under a root key (`caller_keys`) outlives it by a while, nothing else does.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac;

use super::CryptoFailure;
use super::caller_keys::{CallerKeys, FormerKeys};
use super::material::KeyMaterial;

/// Length of the key, and of a file that holds it bare.
pub const ROOT_KEY_BYTES: usize = 32;

const EXTRACT_SALT: &[u8] = b"keytrail root key v1";
const WRAP_LABEL: &[u8] = b"material wrapping key";
const ID_LABEL: &[u8] = b"root key id";

/// The keys that wrap key material and seal secrets. Never printed; the cipher wipes its schedules on drop.
pub struct RootKey {
    own: Arc<Own>,
    former: Vec<Arc<FormerKeys>>,
}

/// What one root key gives.
struct Own {
    wrapping: LessSafeKey,
    callers: CallerKeys,
    id: RootKeyId,
}

/// A public name of a root key, to tell whether a store was written under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootKeyId(pub(super) [u8; 16]);

impl std::fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl RootKey {
    /// A root key that is in no file and no secret: for the fuzz targets.
    #[cfg(feature = "testing")]
    pub(crate) fn fixed(bytes: &[u8; ROOT_KEY_BYTES]) -> Result<Self, CryptoFailure> {
        Self::from_bytes(bytes)
    }

    pub(super) fn from_bytes(bytes: &[u8; ROOT_KEY_BYTES]) -> Result<Self, CryptoFailure> {
        let root = Salt::new(HKDF_SHA256, EXTRACT_SALT).extract(bytes);
        let wrapping = root.expand(&[WRAP_LABEL], &AES_256_GCM).map_err(|_| CryptoFailure)?;
        let own = Own {
            wrapping: LessSafeKey::new(UnboundKey::from(wrapping)),
            callers: CallerKeys::derive(&root)?,
            id: public_id(&root)?,
        };
        Ok(Self { own: Arc::new(own), former: Vec::new() })
    }

    /// With the keys behind what callers still hold from under root keys of before.
    pub(crate) fn with_former(&self, former: Vec<Arc<FormerKeys>>) -> Self {
        Self { own: Arc::clone(&self.own), former }
    }

    /// What callers still hold from under root keys of before, oldest first.
    pub(crate) fn former(&self) -> &[Arc<FormerKeys>] {
        &self.former
    }

    /// What the next root key must know to honour what callers hold under this one until a time.
    pub(crate) fn retired(&self, until_us: u64) -> FormerKeys {
        FormerKeys { id: self.own.id, until_us, keys: self.own.callers.copied() }
    }

    /// The names of the root keys whose tokens are honoured.
    pub(crate) fn honoured(&self) -> String {
        let former = self.former.iter().map(|former| format!(",{}", former.id));
        std::iter::once(self.id()).chain(former).collect()
    }

    /// A public name of this root key, 32 hex digits, to tell at start-up whether a store was written under it.
    pub fn id(&self) -> String {
        self.own.id.to_string()
    }

    pub(super) fn public_id(&self) -> RootKeyId {
        self.own.id
    }

    pub(super) fn wrapping(&self) -> &LessSafeKey {
        &self.own.wrapping
    }

    /// Behind `sealed`, for what the store keeps and for new tokens: each secret has a key of its own, derived from this.
    pub(super) fn sealing(&self) -> &KeyMaterial {
        &self.own.callers.sealing
    }

    /// Behind `import`, for new tokens: what callers hold must not meet the key of what the store holds.
    pub(super) fn import_tokens(&self) -> Result<LessSafeKey, CryptoFailure> {
        self.own.callers.import_tokens()
    }

    /// The key that new grant tokens are authenticated with.
    pub(crate) fn grant_tokens(&self) -> hmac::Key {
        self.own.callers.grant_tokens()
    }

    /// The keys behind what callers may hold, this root key's first.
    pub(crate) fn caller_keys(&self) -> impl Iterator<Item = &CallerKeys> {
        std::iter::once(&self.own.callers).chain(self.former.iter().map(|former| &former.keys))
    }
}

fn public_id(root: &Prk) -> Result<RootKeyId, CryptoFailure> {
    let mut id = [0; 32];
    let okm = root.expand(&[ID_LABEL], HKDF_SHA256).map_err(|_| CryptoFailure)?;
    okm.fill(&mut id).map_err(|_| CryptoFailure)?;
    let (head, _) = id.split_first_chunk().ok_or(CryptoFailure)?;
    Ok(RootKeyId(*head))
}
