//! HMAC keys: as long as their digest, compared in constant time.

use aws_lc_rs::hmac;

use super::secret_half::InvalidMaterial;
use crate::spec::MacAlgorithm;

/// Not the MAC of this message under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message authentication code does not hold")]
pub struct InvalidMac;

/// A key that authenticates messages.
pub struct MacKey {
    /// Boxed: the states of its hashes take hundreds of bytes.
    key: Box<hmac::Key>,
}

impl MacKey {
    /// Takes a secret of exactly the digest's length, as AWS makes and imports them.
    pub fn read(algorithm: MacAlgorithm, secret: &[u8]) -> Result<Self, InvalidMaterial> {
        if secret.len() != mac_bytes(algorithm) {
            return Err(InvalidMaterial);
        }
        Ok(Self { key: Box::new(hmac::Key::new(hmac_of(algorithm), secret)) })
    }

    /// The message's MAC.
    pub fn generate(&self, message: &[u8]) -> Vec<u8> {
        hmac::sign(&self.key, message).as_ref().to_vec()
    }

    /// Checks a whole MAC; a shortened one is none.
    pub fn verify(&self, message: &[u8], mac: &[u8]) -> Result<(), InvalidMac> {
        hmac::verify(&self.key, message, mac).map_err(|_| InvalidMac)
    }
}

/// Length of keys and MACs.
pub fn mac_bytes(algorithm: MacAlgorithm) -> usize {
    hmac_of(algorithm).tag_len()
}

fn hmac_of(algorithm: MacAlgorithm) -> hmac::Algorithm {
    match algorithm {
        MacAlgorithm::Sha224 => hmac::HMAC_SHA224,
        MacAlgorithm::Sha256 => hmac::HMAC_SHA256,
        MacAlgorithm::Sha384 => hmac::HMAC_SHA384,
        MacAlgorithm::Sha512 => hmac::HMAC_SHA512,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_holds_for_its_message_and_key_only() {
        for algorithm in MacAlgorithm::ALL.iter().copied() {
            let length = mac_bytes(algorithm);
            let key = MacKey::read(algorithm, &vec![1; length]).unwrap();
            let mac = key.generate(b"message");
            assert_eq!((mac.len(), key.verify(b"message", &mac)), (length, Ok(())));
            assert!(key.verify(b"massage", &mac).is_err() && key.verify(b"message", &mac[..length - 1]).is_err());
            assert!(MacKey::read(algorithm, &vec![2; length]).unwrap().verify(b"message", &mac).is_err());
            assert!(MacKey::read(algorithm, &vec![1; length - 1]).is_err());
        }
    }

    /// RFC 4231, test case 6 has a longer key than we take; this one is from NIST's HMAC example with a 32-byte key.
    #[test]
    fn a_known_answer() {
        let secret: Vec<u8> = (0..32).collect();
        let mac = MacKey::read(MacAlgorithm::Sha256, &secret).unwrap().generate(b"Sample message for keylen<blocklen");
        assert_eq!(hex::encode(mac), "a28cf43130ee696a98f14a37678b56bcfcbdd9e5cf69717fecf5480f0ebdf790");
    }
}
