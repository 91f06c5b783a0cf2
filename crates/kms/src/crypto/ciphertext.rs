//! Ciphertext blobs: self-describing, bound to their key and encryption context, each under a key of its own.
//!
//! The header names account, region, key id and material id, so that [`parse_header`] can find the key before anything
//! is decrypted; it is a claim until [`decrypt`] succeeds. Every damage is one and the same error, whatever it hit.
//! Byte by byte, with test vectors: docs/ciphertext.md.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};

use super::context::push_canonical;
use super::material::{KEY_ID_BYTES_MAX, KeyMaterial, MaterialId, Owner, REGION_BYTES_MAX};
use super::secret::SecretBytes;
use super::token_blob;
use super::{CryptoFailure, is_account, is_label, push_short, random};

/// Longest plaintext in bytes: AWS's limit.
pub const PLAINTEXT_BYTES_MAX: usize = 4096;
/// Longest blob in bytes that is looked at: AWS's limit.
pub const CIPHERTEXT_BYTES_MAX: usize = 6144;

const VERSION: u8 = 1;
/// HKDF-SHA256 with AES-256-GCM.
const ALGORITHM: u8 = 1;
const SALT_BYTES: usize = 32;
pub(super) const TAG_BYTES: usize = 16;
pub(super) const ACCOUNT_BYTES: usize = 12;
const KEY_LABEL: &[u8] = b"keytrail message key v1";

/// Not a blob of ours, damaged, of another key, or under another encryption context. Deliberately says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ciphertext does not open")]
pub struct InvalidCiphertext;

/// What a blob says about itself; to be believed only after it opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Account of the key.
    pub account: &'a str,
    /// Region of the key.
    pub region: &'a str,
    /// Id of the key.
    pub key_id: &'a str,
    /// Which generation of the key's material; none for a key inside a token.
    pub material_id: Option<MaterialId>,
}

/// A blob cut into its parts.
struct Parts<'a> {
    header: Header<'a>,
    /// Everything before salt and nonce.
    named: &'a [u8],
    salt: &'a [u8; SALT_BYTES],
    nonce: &'a [u8; NONCE_LEN],
    /// Everything before the sealed text: the first half of the additional data.
    head: &'a [u8],
    /// Ciphertext and tag.
    sealed: &'a [u8],
}

/// Reads the header of a blob without any key.
pub fn parse_header(blob: &[u8]) -> Result<Header<'_>, InvalidCiphertext> {
    if blob.first() == Some(&token_blob::VERSION) {
        return token_blob::split(blob).map(|parts| parts.header);
    }
    split(blob).map(|parts| parts.header)
}

/// Encrypts under a fresh message key. The owner's names must be of the form that headers hold and the plaintext at
/// most [`PLAINTEXT_BYTES_MAX`]; both are the caller's to check, and an error here.
pub fn encrypt(
    material: &KeyMaterial,
    owner: &Owner<'_>,
    plaintext: &[u8],
    context: &BTreeMap<String, String>,
) -> Result<Vec<u8>, CryptoFailure> {
    seal(material, owner, &random()?, &random()?, plaintext, context)
}

/// Decrypts with the material that the header names; the caller has looked it up.
pub fn decrypt(
    material: &KeyMaterial,
    blob: &[u8],
    context: &BTreeMap<String, String>,
) -> Result<SecretBytes, InvalidCiphertext> {
    let parts = split(blob)?;
    let key = material.message_key(parts.salt, &[KEY_LABEL, parts.named]).map_err(|_| InvalidCiphertext)?;
    let mut text = SecretBytes::new(parts.sealed.to_vec());
    let nonce = Nonce::assume_unique_for_key(*parts.nonce);
    let aad = Aad::from(additional_data(parts.head, context));
    let opened = key.open_in_place(nonce, aad, text.as_mut());
    let length = opened.map_err(|_| InvalidCiphertext)?.len();
    text.truncate(length);
    Ok(text)
}

fn seal(
    material: &KeyMaterial,
    owner: &Owner<'_>,
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_LEN],
    plaintext: &[u8],
    context: &BTreeMap<String, String>,
) -> Result<Vec<u8>, CryptoFailure> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(CryptoFailure);
    }
    // Large enough from the start: growing would leave copies of the plaintext behind.
    let mut blob = Vec::with_capacity(256 + plaintext.len());
    push_names(&mut blob, [VERSION, ALGORITHM], (owner.account, owner.region, owner.key_id))?;
    blob.extend_from_slice(&owner.material_id.0);
    let key = material.message_key(salt, &[KEY_LABEL, &blob])?;
    blob.extend_from_slice(salt);
    blob.extend_from_slice(nonce);
    let aad = Aad::from(additional_data(&blob, context));
    let head_bytes = blob.len();
    blob.extend_from_slice(plaintext);
    let text = blob.get_mut(head_bytes..).ok_or(CryptoFailure)?;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), aad, text);
    blob.extend_from_slice(tag.map_err(|_| CryptoFailure)?.as_ref());
    Ok(blob)
}

/// What is sealed with the plaintext, in blobs of every version: header and context.
pub fn additional_data(head: &[u8], context: &BTreeMap<String, String>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + 128);
    bytes.extend_from_slice(head);
    push_canonical(&mut bytes, context);
    bytes
}

/// Account, region and key id: what blobs of every version begin with.
pub(super) type Names<'a> = (&'a str, &'a str, &'a str);

/// Writes a blob's version, algorithm and names.
pub(super) fn push_names(to: &mut Vec<u8>, form: [u8; 2], names: Names<'_>) -> Result<(), CryptoFailure> {
    if !are_names(names) {
        return Err(CryptoFailure);
    }
    let (account, region, key_id) = names;
    to.extend_from_slice(&form);
    to.extend_from_slice(account.as_bytes());
    push_short(to, region);
    push_short(to, key_id);
    Ok(())
}

/// Reads what [`push_names`] wrote, from a blob of this form.
pub(super) fn take_names<'a>(rest: &mut &'a [u8], form: [u8; 2]) -> Result<Names<'a>, InvalidCiphertext> {
    if rest.len() > CIPHERTEXT_BYTES_MAX || take(rest, 2)? != form {
        return Err(InvalidCiphertext);
    }
    let names = (ascii(take(rest, ACCOUNT_BYTES)?)?, short(rest)?, short(rest)?);
    if are_names(names) { Ok(names) } else { Err(InvalidCiphertext) }
}

fn are_names((account, region, key_id): Names<'_>) -> bool {
    is_account(account) && is_label(region, REGION_BYTES_MAX) && is_label(key_id, KEY_ID_BYTES_MAX)
}

fn split(blob: &[u8]) -> Result<Parts<'_>, InvalidCiphertext> {
    let mut rest = blob;
    let (account, region, key_id) = take_names(&mut rest, [VERSION, ALGORITHM])?;
    let material_id = MaterialId(*chunk(&mut rest)?);
    let named_bytes = blob.len() - rest.len();
    let salt = chunk(&mut rest)?;
    let nonce = chunk(&mut rest)?;
    let head_bytes = blob.len() - rest.len();
    if rest.len() < TAG_BYTES || rest.len() > PLAINTEXT_BYTES_MAX + TAG_BYTES {
        return Err(InvalidCiphertext);
    }
    let header = Header { account, region, key_id, material_id: Some(material_id) };
    let named = blob.get(..named_bytes).ok_or(InvalidCiphertext)?;
    let head = blob.get(..head_bytes).ok_or(InvalidCiphertext)?;
    Ok(Parts { header, named, salt, nonce, head, sealed: rest })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], InvalidCiphertext> {
    let (taken, left) = rest.split_at_checked(length).ok_or(InvalidCiphertext)?;
    *rest = left;
    Ok(taken)
}

fn chunk<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], InvalidCiphertext> {
    let (taken, left) = rest.split_first_chunk().ok_or(InvalidCiphertext)?;
    *rest = left;
    Ok(taken)
}

fn short<'a>(rest: &mut &'a [u8]) -> Result<&'a str, InvalidCiphertext> {
    let [length] = *chunk(rest)?;
    ascii(take(rest, length.into())?)
}

fn ascii(bytes: &[u8]) -> Result<&str, InvalidCiphertext> {
    std::str::from_utf8(bytes).map_err(|_| InvalidCiphertext)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: Owner<'static> = Owner {
        account: "111122223333",
        region: "eu-central-1",
        key_id: "1234abcd-12ab-34cd-56ef-1234567890ab",
        material_id: MaterialId([0x42; 32]),
    };

    fn context(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn material() -> KeyMaterial {
        KeyMaterial::from_bytes(zeroize::Zeroizing::new(std::array::from_fn(|index| u8::try_from(index).unwrap())))
    }

    /// The vectors of docs/ciphertext.md: `name: hex` lines inside its code blocks.
    #[test]
    fn the_documented_vectors_hold() {
        let document = include_str!("../../../../docs/ciphertext.md");
        let salt: [u8; 32] = std::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap());
        let nonce: [u8; 12] = std::array::from_fn(|index| 0xf0 + u8::try_from(index).unwrap());
        for (name, plaintext, context) in [
            ("vector 1", &b"attack at dawn"[..], context(&[])),
            ("vector 2", &b""[..], context(&[("b", ""), ("a", "1"), ("\u{e9}", "\u{2713}")])),
        ] {
            let blob = seal(&material(), &OWNER, &salt, &nonce, plaintext, &context).unwrap();
            let line = document.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default();
            assert_eq!(hex::encode(&blob), line, "{name}");
            assert_eq!(decrypt(&material(), &blob, &context).unwrap().expose(), plaintext);
        }
    }

    #[test]
    fn any_flipped_bit_cut_or_addition_is_the_one_error() {
        let context = context(&[("app", "x")]);
        let blob = encrypt(&material(), &OWNER, b"secret", &context).unwrap();
        assert_eq!(parse_header(&blob).unwrap().key_id, OWNER.key_id);
        for bit in 0..blob.len() * 8 {
            let mut bad = blob.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decrypt(&material(), &bad, &context).is_err(), "bit {bit}");
        }
        for length in 0..blob.len() {
            assert!(decrypt(&material(), &blob[..length], &context).is_err());
        }
        assert!(decrypt(&material(), &[&blob[..], &[0]].concat(), &context).is_err());
        assert!(decrypt(&material(), &vec![1; 7000], &context).is_err());
    }

    #[test]
    fn another_context_or_another_key_does_not_open_it() {
        let right = context(&[("app", "x"), ("env", "prod")]);
        let blob = encrypt(&material(), &OWNER, b"secret", &right).unwrap();
        for wrong in [
            context(&[]),
            context(&[("app", "x")]),
            context(&[("app", "X"), ("env", "prod")]),
            context(&[("appx", ""), ("env", "prod")]),
            context(&[("app", "x"), ("env", "prod"), ("more", "")]),
        ] {
            assert!(decrypt(&material(), &blob, &wrong).is_err());
        }
        assert!(decrypt(&KeyMaterial::generate().unwrap(), &blob, &right).is_err());
    }

    #[test]
    fn sizes_are_bounded_and_two_blobs_differ() {
        let none = context(&[]);
        let full = vec![7; PLAINTEXT_BYTES_MAX];
        let blob = encrypt(&material(), &OWNER, &full, &none).unwrap();
        assert!(blob.len() < CIPHERTEXT_BYTES_MAX);
        assert_eq!(decrypt(&material(), &blob, &none).unwrap().expose(), full);
        assert_ne!(blob, encrypt(&material(), &OWNER, &full, &none).unwrap());
        assert!(encrypt(&material(), &OWNER, &vec![7; PLAINTEXT_BYTES_MAX + 1], &none).is_err());
        for wrong in [
            Owner { account: "1", ..OWNER },
            Owner { region: "", ..OWNER },
            Owner { key_id: "UPPER", ..OWNER },
            Owner { key_id: &"k".repeat(65), ..OWNER },
        ] {
            assert!(encrypt(&material(), &wrong, b"x", &none).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decrypt(&material(), &bytes, &context(&[])).is_err());
        }

        #[test]
        fn any_tail_behind_a_good_start_is_refused(tail in proptest::collection::vec(any::<u8>(), 0..200), keep in 0usize..100) {
            let blob = encrypt(&material(), &OWNER, b"secret", &context(&[])).unwrap();
            let mangled = [&blob[..keep], &tail[..]].concat();
            let _ = parse_header(&mangled);
            prop_assert!(decrypt(&material(), &mangled, &context(&[])).is_err());
        }

        #[test]
        fn what_goes_in_comes_out(
            text in proptest::collection::vec(any::<u8>(), 0..300),
            pairs in proptest::collection::btree_map("\\PC{1,8}", "\\PC{0,8}", 0..5),
        ) {
            let blob = encrypt(&material(), &OWNER, &text, &pairs).unwrap();
            let opened = decrypt(&material(), &blob, &pairs).unwrap();
            prop_assert_eq!(opened.expose(), &text[..]);
        }
    }
}
