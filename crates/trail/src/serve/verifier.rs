//! What is kept of a password: a SCRAM-SHA-256 verifier in PostgreSQL's own form (RFC 5803 as PostgreSQL writes it).
//!
//! `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, the last three in base64. From it a password can be
//! guessed, slowly, but not computed, and nobody can log in with it: the client proves that it knows the key behind the
//! stored one. Whoever reads the server key could play this server to that user.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Of new verifiers. A client computes it once a connection; over HTTP we do at each request, some ten milliseconds.
const ITERATIONS: u32 = 16_384;
/// More would let a file written by somebody else stop us.
const ITERATIONS_MAX: u32 = 1_000_000;
const SALT_BYTES: usize = 16;
const SALT_BYTES_MAX: usize = 64;
const KEY_BYTES: usize = 32;
/// Shortest password of a new verifier.
pub const PASSWORD_BYTES_MIN: usize = 12;
/// Longest; PBKDF2 hashes more anyway.
pub const PASSWORD_BYTES_MAX: usize = 128;

/// Why there is no verifier.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// Not in PostgreSQL's form.
    #[error("verifier is not of the form SCRAM-SHA-256$iterations:salt$stored key:server key")]
    Form,
    /// Every client must prepare it alike.
    #[error("password must have {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} printable ASCII characters")]
    Password,
    /// The machine gives no randomness.
    #[error("no randomness")]
    Random,
}

/// Salt, iterations and the two keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

impl Verifier {
    /// Of a new password, with a salt of its own. Printable ASCII only: SASLprep leaves that as it is, and clients differ
    /// in whether they do SASLprep at all.
    pub fn new(password: &str) -> Result<Self, VerifierError> {
        let length = (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&password.len());
        if !length || !password.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(VerifierError::Password);
        }
        let mut salt = vec![0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| VerifierError::Random)?;
        Ok(Self::derive(password, salt, NonZeroU32::new(ITERATIONS).ok_or(VerifierError::Form)?))
    }

    /// Of nobody: costs as much to check as that of a user, and always with the same salt for a name.
    pub(super) fn of_nobody(secret: &[u8], name: &str) -> Self {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), name.as_bytes());
        let key = |of: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref()), of.as_bytes());
        let mut verifier = Self {
            iterations: NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN),
            salt: tag.as_ref()[..SALT_BYTES].to_vec(),
            stored_key: [0; KEY_BYTES],
            server_key: [0; KEY_BYTES],
        };
        verifier.stored_key.copy_from_slice(key("stored").as_ref());
        verifier.server_key.copy_from_slice(key("server").as_ref());
        verifier
    }

    fn derive(password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        let mut salted = Zeroizing::new([0; KEY_BYTES]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), salted.as_mut());
        let key = hmac::Key::new(hmac::HMAC_SHA256, salted.as_ref());
        let client_key = hmac::sign(&key, b"Client Key");
        let (mut stored_key, mut server_key) = ([0; KEY_BYTES], [0; KEY_BYTES]);
        stored_key.copy_from_slice(digest::digest(&digest::SHA256, client_key.as_ref()).as_ref());
        server_key.copy_from_slice(hmac::sign(&key, b"Server Key").as_ref());
        Self { iterations, salt, stored_key, server_key }
    }

    /// Whether this is the password. Takes the time of PBKDF2: not for an async thread.
    pub(super) fn is(&self, password: &str) -> bool {
        let other = Self::derive(password, self.salt.clone(), self.iterations);
        constant_time::verify_slices_are_equal(&self.stored_key, &other.stored_key).is_ok()
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(VerifierError::Form)?;
        let (head, keys) = rest.split_once('$').ok_or(VerifierError::Form)?;
        let (iterations, salt) = head.split_once(':').ok_or(VerifierError::Form)?;
        let (stored, server) = keys.split_once(':').ok_or(VerifierError::Form)?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| VerifierError::Form);
        let key = |text: &str| <[u8; KEY_BYTES]>::try_from(bytes(text)?).map_err(|_| VerifierError::Form);
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| VerifierError::Form)?;
        let salt = bytes(salt)?;
        if iterations.get() > ITERATIONS_MAX || salt.is_empty() || salt.len() > SALT_BYTES_MAX {
            return Err(VerifierError::Form);
        }
        Ok(Self { iterations, salt, stored_key: key(stored)?, server_key: key(server)? })
    }
}

impl fmt::Display for Verifier {
    /// For the users' file alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| STANDARD.encode(bytes));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The password and proofs of RFC 7677, section 3; keys computed by PostgreSQL's `pg_be_scram_build_secret` rules.
    const RFC_7677: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn postgresqls_form_is_read_and_written() {
        let verifier: Verifier = RFC_7677.parse().unwrap();
        assert_eq!(verifier.to_string(), RFC_7677);
        assert!(verifier.is("pencil") && !verifier.is("Pencil"));
        for wrong in
            ["", "md5abc", "SCRAM-SHA-256$0:YQ==$YQ==:YQ==", "SCRAM-SHA-256$4096:$x:y", "SCRAM-SHA-256$9999999:"]
        {
            assert!(wrong.parse::<Verifier>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_new_one_knows_its_password_and_does_not_show_it() {
        let verifier = Verifier::new("correct horse battery").unwrap();
        assert!(verifier.is("correct horse battery") && !verifier.is("correct horse batterx"));
        assert_ne!(verifier, Verifier::new("correct horse battery").unwrap(), "the salt is its own");
        assert_eq!(format!("{verifier:?}"), "Verifier");
        assert!(Verifier::new("short").is_err() && Verifier::new("motörhead-motörhead").is_err());
    }

    #[test]
    fn nobody_has_one_salt_a_name_and_no_password() {
        let nobody = Verifier::of_nobody(b"secret", "eve");
        assert_eq!(nobody, Verifier::of_nobody(b"secret", "eve"));
        assert_ne!(nobody, Verifier::of_nobody(b"secret", "eva"));
        assert!(!nobody.is("") && !nobody.is("eve"));
    }
}
