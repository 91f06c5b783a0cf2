//! Key material of each kind, its wrapping at rest, and the ciphertext blobs that callers keep.
//!
//! Primitives are aws-lc-rs's and nothing else. `root_key` protects all material by way of `wrap`. A `secret_half` is
//! what a key does its work with: symmetric `material` protects what callers send through `ciphertext` (`context` is
//! the rule for the encryption context), the others sign, authenticate, decrypt or agree. Byte formats with test
//! vectors: docs/ciphertext.md. Nothing here does I/O except for the root key: its file,
//! and the token that may seal it.

#![warn(clippy::indexing_slicing)]

pub mod agreement;
mod caller_keys;
pub mod ciphertext;
pub mod context;
pub mod import;
pub mod mac;
pub mod material;
pub mod oaep;
pub mod passphrase;
mod root_file;
pub mod root_key;
mod root_seal;
pub mod sealed;
mod secret;
pub mod secret_half;
pub mod signing;
mod successor;
pub mod token_blob;
mod token_seal;
pub mod wrap;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod wycheproof_tests;

pub(crate) use caller_keys::{FORMER_MAX, FormerKeys};
pub use ciphertext::{Header, InvalidCiphertext};
pub use material::{KeyMaterial, MaterialId};
pub use oaep::DecryptingKey;
pub use passphrase::{Passphrase, PassphraseError};
pub(crate) use root_file::{FileLock, discard, find as find_root_key, promote};
pub use root_file::{RootKeyError, SealKey};
pub use root_key::{RootKey, RootKeyId};
pub use root_seal::Seal;
pub use sealed::{NotSealed, Purpose};
pub use secret::SecretBytes;
pub use secret_half::SecretHalf;
pub use successor::Successor;
pub use token_seal::TokenSeal;
pub use wrap::WrapError;

/// The system's random source, or the cipher itself, failed: nothing may be answered.
#[derive(Debug, thiserror::Error)]
#[error("cryptographic library failed")]
pub struct CryptoFailure;

/// Fills a buffer with random bytes.
fn random<const N: usize>() -> Result<[u8; N], CryptoFailure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CryptoFailure)?;
    Ok(bytes)
}

/// Appends a text of at most 255 bytes behind its length.
fn push_short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("checked to be at most 255 bytes"));
    out.extend_from_slice(text.as_bytes());
}

/// Whether `text` is a region or key id as headers hold them: 1 to `max` of lower-case letters, digits and `-`.
fn is_label(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether `text` is an account id: twelve digits.
fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}
