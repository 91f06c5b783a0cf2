//! Ciphertext blobs of keys inside a token: a header that finds the key, then what the token sealed.
//!
//! Header and encryption context are the additional data of AES-256-GCM inside the token, so that a blob opens only as what
//! it was made. The key has one generation: there is no material id. Byte by byte: docs/ciphertext.md.

use super::CryptoFailure;
use super::ciphertext::{Header, InvalidCiphertext, PLAINTEXT_BYTES_MAX, TAG_BYTES, push_names, take_names};

pub use super::ciphertext::additional_data;

pub(super) const VERSION: u8 = 2;
/// AES-256-GCM under the token's key itself.
const ALGORITHM: u8 = 1;
const NONCE_BYTES: usize = 12;

/// A blob cut into its parts.
pub struct Parts<'a> {
    /// A claim until the token has opened what is behind it.
    pub header: Header<'a>,
    /// The header's bytes.
    pub head: &'a [u8],
    /// Nonce, ciphertext and tag.
    pub sealed: &'a [u8],
}

/// The header of a key's blobs.
pub fn head(account: &str, region: &str, key_id: &str) -> Result<Vec<u8>, CryptoFailure> {
    let mut head = Vec::new();
    push_names(&mut head, [VERSION, ALGORITHM], (account, region, key_id))?;
    Ok(head)
}

/// Cuts a blob without any key.
pub fn split(blob: &[u8]) -> Result<Parts<'_>, InvalidCiphertext> {
    let mut rest = blob;
    let (account, region, key_id) = take_names(&mut rest, [VERSION, ALGORITHM])?;
    let overhead = NONCE_BYTES + TAG_BYTES;
    if rest.len() < overhead || rest.len() > PLAINTEXT_BYTES_MAX + overhead {
        return Err(InvalidCiphertext);
    }
    let head = blob.get(..blob.len() - rest.len()).ok_or(InvalidCiphertext)?;
    Ok(Parts { header: Header { account, region, key_id, material_id: None }, head, sealed: rest })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NAMES: (&str, &str, &str) = ("111122223333", "eu-central-1", "1234abcd-12ab-34cd-56ef-1234567890ab");

    #[test]
    fn a_blob_is_cut_where_it_was_joined() {
        let head = head(NAMES.0, NAMES.1, NAMES.2).unwrap();
        let sealed = vec![7; NONCE_BYTES + 5 + TAG_BYTES];
        let blob = [&head[..], &sealed].concat();
        let parts = split(&blob).unwrap();
        assert_eq!((parts.header.account, parts.header.region, parts.header.key_id), NAMES);
        assert_eq!((parts.header.material_id, parts.head, parts.sealed), (None, &head[..], &sealed[..]));
        assert!(split(&blob[..head.len() + NONCE_BYTES + TAG_BYTES - 1]).is_err());
        assert!(split(&[&head[..], &vec![7; PLAINTEXT_BYTES_MAX + 29]].concat()).is_err());
        assert_ne!(
            additional_data(&head, &BTreeMap::new()),
            additional_data(&head, &BTreeMap::from([(String::new(), String::new())]))
        );
        assert!(super::head("1", NAMES.1, NAMES.2).is_err() && super::head(NAMES.0, "", NAMES.2).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&[&[VERSION, ALGORITHM][..], &tail].concat());
        }
    }
}
