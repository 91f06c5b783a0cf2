//! Bytes that must not be seen: plaintexts and data keys.

use zeroize::Zeroizing;

use super::CryptoFailure;

/// A plaintext or data key. Never printed, cloned or serialised; wiped on drop.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes bytes over; the caller must not keep a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// `length` random bytes: a data key.
    pub fn random(length: usize) -> Result<Self, CryptoFailure> {
        let mut bytes = Zeroizing::new(vec![0; length]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CryptoFailure)?;
        Ok(Self(bytes))
    }

    /// The bytes in clear, for the answer to the caller whom they belong to and for encrypting them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends; the room was asked for at the start, as growing leaves a copy behind.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity(), "a grown buffer leaves a copy behind");
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
