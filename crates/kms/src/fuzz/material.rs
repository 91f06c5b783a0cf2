//! Bytes that hold or wrap secrets: ciphertext blobs, import tokens, and material that a caller brings.

use super::{ACCOUNT, KEY_ID, REGION};
use crate::crypto::import::ImportToken;
use crate::crypto::material::{KeyMaterial, MaterialId, Owner};
use crate::crypto::signing::Message;
use crate::crypto::{RootKey, SecretHalf, ciphertext as blobs};
use crate::spec::{EncryptionAlgorithm, KeyKind, KeySpec};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Whose everything is.
pub(super) const OWNER: Owner<'static> =
    Owner { account: ACCOUNT, region: REGION, key_id: KEY_ID, material_id: MaterialId([5; 32]) };

pub(super) fn symmetric() -> KeyMaterial {
    KeyMaterial::read(&[7; 32]).expect("32 bytes")
}

pub(super) fn root() -> &'static RootKey {
    static ROOT: OnceLock<RootKey> = OnceLock::new();
    ROOT.get_or_init(|| RootKey::fixed(&[9; 32]).expect("32 bytes"))
}

pub(super) fn context() -> BTreeMap<String, String> {
    BTreeMap::from([("tenant".to_owned(), "7".to_owned())])
}

/// A ciphertext blob. What opens must say whose it is, open under no other context, and not once any of its bytes changed.
pub fn ciphertext(data: &[u8]) -> bool {
    let header = blobs::parse_header(data);
    let material = symmetric();
    let opened = [BTreeMap::new(), context()].map(|context| blobs::decrypt(&material, data, &context).is_ok());
    assert!(opened != [true, true], "one blob opens under two contexts");
    if opened == [false, false] {
        return false;
    }
    let header = header.expect("what opens has a header");
    assert_eq!((header.account, header.region, header.key_id), (ACCOUNT, REGION, KEY_ID));
    assert_eq!(header.material_id, Some(OWNER.material_id));
    for at in 0..data.len() {
        let mut changed = data.to_vec();
        changed[at] ^= 1;
        for context in [BTreeMap::new(), context()] {
            assert!(blobs::decrypt(&material, &changed, &context).is_err(), "byte {at} does not matter");
        }
    }
    true
}

/// Bytes as an import token, as material wrapped for one, and as unwrapped material for a key of each kind. What is read
/// as material must work as such.
pub fn import(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(token) = ImportToken::open(root(), &OWNER, data) {
        accepted = true;
        let _ = token.unwrap(data);
        let stranger = Owner { key_id: "another", ..OWNER };
        assert!(ImportToken::open(root(), &stranger, data).is_err(), "a token opens for another key");
    }
    for spec in KeySpec::ALL.iter().copied() {
        for usage in spec.usages().iter().copied() {
            let kind = KeyKind { spec, usage, ..KeyKind::SYMMETRIC };
            if let Ok(secret) = SecretHalf::read(kind, data) {
                accepted = true;
                works(kind, &secret);
            }
        }
    }
    accepted
}

fn works(kind: KeyKind, secret: &SecretHalf) {
    let public = secret.public_key().map(|public| public.expect("a key that was read has a public half"));
    assert_eq!(public.is_some(), kind.spec.is_asymmetric());
    match secret {
        SecretHalf::Symmetric(_) => {}
        SecretHalf::Mac(key) => assert!(key.verify(b"message", &key.generate(b"message")).is_ok()),
        SecretHalf::Signing(key) => {
            for algorithm in kind.signing_algorithms().iter().copied() {
                let signature = key.sign(algorithm, Message::Raw(b"message")).expect("a key that was read signs");
                assert!(key.verify(algorithm, Message::Raw(b"message"), &signature).is_ok(), "{kind:?} {algorithm:?}");
                assert!(key.verify(algorithm, Message::Raw(b"massage"), &signature).is_err());
            }
        }
        SecretHalf::Decrypting(key) => {
            let blob = key.encrypt(EncryptionAlgorithm::OaepSha256, b"text").expect("a key that was read encrypts");
            let text = key.decrypt(EncryptionAlgorithm::OaepSha256, &blob).expect("it opens what it encrypted");
            assert_eq!(text.expose(), b"text");
        }
        SecretHalf::Agreement(key) => {
            let secret = key.agree(&public.expect("it has one")).expect("it agrees with itself");
            assert!(!secret.is_empty());
        }
    }
}
