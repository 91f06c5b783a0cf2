//! The keys behind what callers hold: session tokens, import tokens, grant tokens.
//!
//! The store can be wrapped anew when the root key changes; what is in callers' hands cannot. So the keys behind it are
//! kept, sealed under the next root key, until the longest-lived token of theirs has ended by itself.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::material::{KeyMaterial, MATERIAL_BYTES};
use super::root_key::{RootKey, RootKeyId};
use super::sealed::{self, NotSealed, Purpose};
use super::{CryptoFailure, SecretBytes};

/// Most root keys of before whose tokens are honoured; each is kept for a day and a half.
pub(crate) const FORMER_MAX: usize = 8;

const IMPORT_TOKEN_LABEL: &[u8] = b"import token key";
const SEALING_LABEL: &[u8] = b"secret sealing key";
const GRANT_TOKEN_LABEL: &[u8] = b"grant token key";
const VERSION: u8 = 1;
const OWNER: &str = "former root keys";
const ENTRY_BYTES: usize = 16 + 8 + 3 * MATERIAL_BYTES;

/// What one root key gives for tokens. `sealing` also seals what the store keeps, which is sealed anew with the root key.
pub(crate) struct CallerKeys {
    pub(super) sealing: KeyMaterial,
    import_tokens: KeyMaterial,
    grant_tokens: KeyMaterial,
}

/// The keys of a root key of before, and when they end.
pub(crate) struct FormerKeys {
    /// Of which root key.
    pub(crate) id: RootKeyId,
    /// Unix microseconds.
    pub(crate) until_us: u64,
    pub(super) keys: CallerKeys,
}

impl CallerKeys {
    pub(super) fn derive(root: &Prk) -> Result<Self, CryptoFailure> {
        let derived = |label: &[u8]| {
            let mut bytes = Zeroizing::new([0; MATERIAL_BYTES]);
            let label = [label];
            let okm = root.expand(&label, HKDF_SHA256).map_err(|_| CryptoFailure)?;
            okm.fill(bytes.as_mut_slice()).map_err(|_| CryptoFailure)?;
            Ok(KeyMaterial::from_bytes(bytes))
        };
        Ok(Self {
            sealing: derived(SEALING_LABEL)?,
            import_tokens: derived(IMPORT_TOKEN_LABEL)?,
            grant_tokens: derived(GRANT_TOKEN_LABEL)?,
        })
    }

    /// For the next root key to keep.
    pub(super) fn copied(&self) -> Self {
        let copy = |key: &KeyMaterial| {
            let mut bytes = Zeroizing::new([0; MATERIAL_BYTES]);
            bytes.copy_from_slice(key.expose());
            KeyMaterial::from_bytes(bytes)
        };
        Self {
            sealing: copy(&self.sealing),
            import_tokens: copy(&self.import_tokens),
            grant_tokens: copy(&self.grant_tokens),
        }
    }

    pub(super) fn import_tokens(&self) -> Result<LessSafeKey, CryptoFailure> {
        let key = UnboundKey::new(&AES_256_GCM, self.import_tokens.expose()).map_err(|_| CryptoFailure)?;
        Ok(LessSafeKey::new(key))
    }

    pub(crate) fn grant_tokens(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.grant_tokens.expose())
    }

    fn all(&self) -> [&KeyMaterial; 3] {
        [&self.sealing, &self.import_tokens, &self.grant_tokens]
    }
}

impl FormerKeys {
    /// Seals keys of before under the root key in force, for the store.
    pub(crate) fn seal(root: &RootKey, former: &[Arc<Self>]) -> Result<Vec<u8>, CryptoFailure> {
        let mut text = SecretBytes::new(Vec::with_capacity(1 + former.len() * ENTRY_BYTES));
        text.push(&[VERSION]);
        for Self { id, until_us, keys } in former.iter().map(AsRef::as_ref) {
            text.push(&id.0);
            text.push(&until_us.to_be_bytes());
            keys.all().iter().for_each(|key| text.push(key.expose()));
        }
        sealed::seal(root, Purpose::FormerKeys, OWNER, text.expose())
    }

    /// Reads what [`FormerKeys::seal`] made.
    pub(crate) fn open(root: &RootKey, blob: &[u8]) -> Result<Vec<Arc<Self>>, NotSealed> {
        let text = sealed::open(root, Purpose::FormerKeys, OWNER, blob)?;
        let (version, entries) = text.expose().split_first().ok_or(NotSealed)?;
        let entries = entries.chunks_exact(ENTRY_BYTES);
        if *version != VERSION || !entries.remainder().is_empty() || entries.len() > FORMER_MAX {
            return Err(NotSealed);
        }
        entries.map(|entry| Self::read(entry).map(Arc::new).ok_or(NotSealed)).collect()
    }

    fn read(entry: &[u8]) -> Option<Self> {
        let (id, rest) = entry.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (sealing, rest) = rest.split_at_checked(MATERIAL_BYTES)?;
        let (import_tokens, grant_tokens) = rest.split_at_checked(MATERIAL_BYTES)?;
        let keys = CallerKeys {
            sealing: KeyMaterial::read(sealing)?,
            import_tokens: KeyMaterial::read(import_tokens)?,
            grant_tokens: KeyMaterial::read(grant_tokens)?,
        };
        Some(Self { id: RootKeyId(*id), until_us: u64::from_be_bytes(*until), keys })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn former_keys_open_under_their_root_key_only_and_are_bounded() {
        let (old, new) = (RootKey::from_bytes(&[1; 32]).unwrap(), RootKey::from_bytes(&[2; 32]).unwrap());
        let former = vec![Arc::new(old.retired(5))];
        let blob = FormerKeys::seal(&new, &former).unwrap();
        let opened = FormerKeys::open(&new, &blob).unwrap();
        assert_eq!((opened.len(), opened[0].until_us, opened[0].id), (1, 5, old.public_id()));
        let bytes = |keys: &CallerKeys| keys.all().map(|key| key.expose().to_vec());
        assert_eq!(bytes(&opened[0].keys), bytes(old.caller_keys().next().unwrap()));
        assert!(FormerKeys::open(&old, &blob).is_err());
        assert!(FormerKeys::open(&new, &FormerKeys::seal(&new, &[]).unwrap()).unwrap().is_empty());
        let many: Vec<_> = std::iter::repeat_n(Arc::clone(&former[0]), FORMER_MAX + 1).collect();
        assert!(FormerKeys::open(&new, &FormerKeys::seal(&new, &many).unwrap()).is_err());
    }
}
