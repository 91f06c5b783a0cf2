//! What is done inside a token: AES-256-GCM under keys that are made there and stay there.
//!
//! The nonce is random and ours; a token that insists on its own writes it over ours, and what it wrote is kept. Sealed:
//! 12 bytes of nonce, ciphertext, 16 bytes of tag.

use super::{HsmError, Pin, TokenAddress, module};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
const KEY_BYTES: u64 = 32;

/// A session of a token, logged in. Each call blocks.
pub(crate) struct Session(cryptoki::session::Session);

/// A key inside a token, found to be fit.
#[derive(Clone, Copy)]
pub(crate) struct TokenKey(ObjectHandle);

impl Session {
    pub(crate) fn open(address: &TokenAddress, pin: &Pin) -> Result<Self, HsmError> {
        module::session(address, pin).map(Self)
    }

    /// The one key of a label, which must be of no use outside.
    pub(crate) fn key(&self, label: &str) -> Result<TokenKey, HsmError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        let found = self.0.find_objects(&template)?;
        let [key] = found[..] else {
            return Err(HsmError::Key { label: label.to_owned(), found: found.len() });
        };
        let asked =
            [AttributeType::KeyType, AttributeType::Sensitive, AttributeType::Extractable, AttributeType::ValueLen];
        let told = self.0.get_attributes(key, &asked)?;
        let needed = [
            Attribute::KeyType(KeyType::AES),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::ValueLen(KEY_BYTES.into()),
        ];
        if needed.iter().all(|attribute| told.contains(attribute)) {
            Ok(TokenKey(key))
        } else {
            Err(HsmError::Unfit { label: label.to_owned() })
        }
    }

    /// A new key of a label that no key has.
    pub(crate) fn make_key(&self, label: &str) -> Result<TokenKey, HsmError> {
        let template = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(KEY_BYTES.into()),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        Ok(TokenKey(self.0.generate_key(&Mechanism::AesKeyGen, &template)?))
    }

    /// Destroys the keys of a label, of which there may be none.
    pub(crate) fn destroy_keys(&self, label: &str) -> Result<(), HsmError> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        for key in self.0.find_objects(&template)? {
            self.0.destroy_object(key)?;
        }
        Ok(())
    }

    /// Encrypts inside the token.
    pub(crate) fn seal(&self, key: TokenKey, aad: &[u8], text: &[u8]) -> Result<Vec<u8>, HsmError> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Error::InvalidValue)?;
        let sealed = {
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, aad, TAG_BITS.into())?);
            self.0.encrypt(&mechanism, key.0, text)?
        };
        Ok([&nonce[..], &sealed].concat())
    }

    /// Decrypts inside the token what [`Session::seal`] made.
    pub(crate) fn unseal(&self, key: TokenKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(HsmError::NotOpened)?;
        let mut nonce = *nonce;
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, aad, TAG_BITS.into())?);
        self.0.decrypt(&mechanism, key.0, sealed).map(Zeroizing::new).map_err(|error| match error {
            // What a token says to a tag that does not fit is not agreed upon.
            Error::Pkcs11(
                RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange | RvError::GeneralError,
                _,
            ) => HsmError::NotOpened,
            error => error.into(),
        })
    }
}
