//! Ciphertext blobs of keys inside a token: a header that finds the key, then what the token sealed.
//!
//! Header and encryption context are the additional data of AES-256-GCM inside the token, so that a blob opens only as what
//! it was made. The key has one generation: there is no material id. Byte by byte: docs/ciphertext.md.

use std::collections::BTreeMap;

use super::ciphertext::{
    ACCOUNT_BYTES, CIPHERTEXT_BYTES_MAX, Header, InvalidCiphertext, PLAINTEXT_BYTES_MAX, TAG_BYTES, ascii, short, take,
};
use super::context::push_canonical;
use super::material::{KEY_ID_BYTES_MAX, REGION_BYTES_MAX};
use super::{CryptoFailure, is_account, is_label, push_short};

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
    if !is_account(account) || !is_label(region, REGION_BYTES_MAX) || !is_label(key_id, KEY_ID_BYTES_MAX) {
        return Err(CryptoFailure);
    }
    let mut head = vec![VERSION, ALGORITHM];
    head.extend_from_slice(account.as_bytes());
    push_short(&mut head, region);
    push_short(&mut head, key_id);
    Ok(head)
}

/// What is sealed with the plaintext: header and context.
pub fn additional_data(head: &[u8], context: &BTreeMap<String, String>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + 128);
    bytes.extend_from_slice(head);
    push_canonical(&mut bytes, context);
    bytes
}

/// Cuts a blob without any key.
pub fn split(blob: &[u8]) -> Result<Parts<'_>, InvalidCiphertext> {
    if blob.len() > CIPHERTEXT_BYTES_MAX {
        return Err(InvalidCiphertext);
    }
    let mut rest = blob;
    if take(&mut rest, 2)? != [VERSION, ALGORITHM] {
        return Err(InvalidCiphertext);
    }
    let account = ascii(take(&mut rest, ACCOUNT_BYTES)?)?;
    let region = short(&mut rest)?;
    let key_id = short(&mut rest)?;
    let named_ok = is_account(account) && is_label(region, REGION_BYTES_MAX) && is_label(key_id, KEY_ID_BYTES_MAX);
    let overhead = NONCE_BYTES + TAG_BYTES;
    if !named_ok || rest.len() < overhead || rest.len() > PLAINTEXT_BYTES_MAX + overhead {
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
