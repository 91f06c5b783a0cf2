//! The signed log head: a C2SP tlog-checkpoint in a C2SP signed note, Ed25519.
//!
//! Three text lines (origin, size, base64 root), an empty line, then signature lines. Keytrail writes no extension
//! lines and refuses them, so that nothing unchecked rides along. Byte by byte with vectors: docs/chain.md.

use super::leaf::{LogId, sha256};
use super::tree::RootHash;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Signature type byte of Ed25519 in the signed-note format.
const ALGORITHM_ED25519: u8 = 1;
/// Longest note read: three lines and a hundred witness cosignatures fit well.
const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Longest key name (origin) accepted.
const NAME_BYTES_MAX: usize = 256;
/// Starts each signature line: an em dash and a space.
pub(super) const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A log head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, `keytrail/<cluster>/<node>-<16 hex>`; also the name of the key that signs.
    pub origin: String,
    /// Leaves covered.
    pub size: u64,
    /// Root of the tree over them.
    pub root: RootHash,
}

/// Why a key or a note is not accepted.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoteError {
    /// Key names are the origin: no white space, no plus sign, 1 to 256 bytes.
    #[error("key name is empty, too long, or holds white space or a plus sign")]
    Name,
    /// Not `name+hash+base64` of an Ed25519 key, or the hash is not the key's.
    #[error("verifier key is malformed")]
    VerifyKey,
    /// Not a PKCS#8 Ed25519 key.
    #[error("signing key is not an Ed25519 key in PKCS#8")]
    SigningKey,
    /// Not a signed note.
    #[error("signed note is malformed: {0}")]
    Note(&'static str),
    /// Not a checkpoint's three lines.
    #[error("checkpoint is malformed: {0}")]
    Checkpoint(&'static str),
    /// No line is signed by this key.
    #[error("note has no signature by key {0}")]
    Unsigned(String),
    /// The line that names this key does not verify.
    #[error("signature by key {0} does not verify")]
    Signature(String),
    /// Another key of the log signs for this size.
    #[error("checkpoint over {size} records is signed by a key of the log that was not in force there")]
    NotInForce {
        /// Records covered.
        size: u64,
    },
    /// A key signs only for the origin that it is named after.
    #[error("checkpoint of {origin} is signed by the key of {key}")]
    Origin {
        /// First line of the checkpoint.
        origin: String,
        /// Name of the key.
        key: String,
    },
}

impl Checkpoint {
    /// The id that leaves of this log carry.
    pub fn log_id(&self) -> LogId {
        LogId::of_origin(&self.origin)
    }

    /// The three lines that are signed.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0))
    }

    /// Reads the three lines; anything besides them is an error.
    pub fn parse_body(text: &str) -> Result<Self, NoteError> {
        match Self::parse_head(text)? {
            (checkpoint, true) => Ok(checkpoint),
            (_, false) => Err(NoteError::Checkpoint("not exactly three lines")),
        }
    }

    /// Reads the first three lines, and whether they are all: a witness cosigns other logs' extension lines unread.
    pub(super) fn parse_head(text: &str) -> Result<(Self, bool), NoteError> {
        let text = text.strip_suffix('\n').ok_or(NoteError::Checkpoint("last line does not end"))?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Checkpoint("not exactly three lines"));
        };
        let mut bare = true;
        for extension in lines {
            bare = false;
            if extension.is_empty() {
                return Err(NoteError::Checkpoint("extension line is empty"));
            }
        }
        check_name(origin)?;
        let number: u64 = size.parse().map_err(|_| NoteError::Checkpoint("size is not a number"))?;
        if number.to_string() != size {
            return Err(NoteError::Checkpoint("size has leading zeros or a sign"));
        }
        let root = BASE64
            .decode(root)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or(NoteError::Checkpoint("root is not 32 bytes of base64"))?;
        Ok((Self { origin: origin.to_owned(), size: number, root: RootHash(root) }, bare))
    }
}

/// The private key of a log (or of the trail's alerts). No Debug, no Clone; aws-lc wipes the key on drop.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyKey,
}

/// A private key in PKCS#8 (version 2, with the public key), wiped on drop.
pub struct Pkcs8(Zeroizing<Vec<u8>>);

impl Pkcs8 {
    /// Takes bytes read from a key file.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, to be written to a key file with mode 0600 and nowhere else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl SigningKey {
    /// A new key named `name`, which for a log is its origin.
    pub fn generate(name: &str) -> Result<(Self, Pkcs8), NoteError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| NoteError::SigningKey)?;
        let pkcs8 = Pkcs8(Zeroizing::new(document.as_ref().to_vec()));
        Ok((Self::from_pkcs8(name, &pkcs8)?, pkcs8))
    }

    /// The key named `name` from its PKCS#8 bytes.
    pub fn from_pkcs8(name: &str, pkcs8: &Pkcs8) -> Result<Self, NoteError> {
        Self::of_pair(name, Ed25519KeyPair::from_pkcs8(&pkcs8.0).map_err(|_| NoteError::SigningKey)?)
    }

    /// The key's PKCS#8 bytes.
    pub fn to_pkcs8(&self) -> Result<Pkcs8, NoteError> {
        let document = self.pair.to_pkcs8().map_err(|_| NoteError::SigningKey)?;
        Ok(Pkcs8(Zeroizing::new(document.as_ref().to_vec())))
    }

    /// A key that everyone knows, for test vectors and rehearsals: what it signs proves nothing.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        Self::of_pair(name, Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NoteError::SigningKey)?)
    }

    /// The public half.
    pub fn verify_key(&self) -> &VerifyKey {
        &self.public
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.public.name
    }

    /// The signed note over `checkpoint`. Fails when its origin is not the key's name.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Result<String, NoteError> {
        if checkpoint.origin != self.public.name {
            return Err(NoteError::Origin { origin: checkpoint.origin.clone(), key: self.public.name.clone() });
        }
        Ok(self.sign_text(&checkpoint.body()))
    }

    /// The signed note over `body`, whose last line ends and which is no checkpoint: its first line says what it is.
    pub fn sign_text(&self, body: &str) -> String {
        let mut signature = self.public.hash().to_vec();
        signature.extend_from_slice(&self.sign_bytes(body.as_bytes()));
        format!("{body}\n{SIGNATURE_PREFIX}{} {}\n", self.public.name, BASE64.encode(signature))
    }

    /// A plain Ed25519 signature. The caller's bytes start with a context of their own.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.pair.sign(bytes).as_ref());
        out
    }

    fn of_pair(name: &str, pair: Ed25519KeyPair) -> Result<Self, NoteError> {
        check_name(name)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| NoteError::SigningKey)?;
        Ok(Self { public: VerifyKey { name: name.to_owned(), public }, pair })
    }
}

/// The public key of a log, written as `name+hash+base64` (a C2SP vkey).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VerifyKey {
    name: String,
    public: [u8; 32],
}

impl VerifyKey {
    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 public bytes.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// A key whose name was checked.
    pub(super) fn of_public(name: &str, public: [u8; 32]) -> Self {
        Self { name: name.to_owned(), public }
    }

    /// The key's hash in a signature line: four bytes of SHA-256(name || 0x0A || 0x01 || key).
    pub fn hash(&self) -> [u8; 4] {
        key_hash(&self.name, ALGORITHM_ED25519, &self.public)
    }

    /// Checks a signed note and reads its checkpoint. Signatures by other keys (witnesses) are passed over.
    pub fn verify(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let checkpoint = Checkpoint::parse_body(self.verify_text(note)?)?;
        if checkpoint.origin != self.name {
            return Err(NoteError::Origin { origin: checkpoint.origin, key: self.name.clone() });
        }
        Ok(checkpoint)
    }

    /// Checks a signed note and gives its text, with its last newline.
    pub fn verify_text<'n>(&self, note: &'n str) -> Result<&'n str, NoteError> {
        let (body, signatures) = split_note(note)?;
        if !self.signed(body, signatures)? {
            return Err(NoteError::Unsigned(self.name.clone()));
        }
        Ok(body)
    }

    /// Whether one of the signature lines is by this key; one that is and does not verify is an error.
    pub(super) fn signed(&self, body: &str, signatures: &str) -> Result<bool, NoteError> {
        let mut signed = false;
        for line in signatures.lines() {
            let Some(signature) = self.signature_in(line)? else { continue };
            if !self.verify_bytes(body.as_bytes(), &signature) {
                return Err(NoteError::Signature(self.name.clone()));
            }
            signed = true;
        }
        Ok(signed)
    }

    /// Checks a plain Ed25519 signature.
    pub fn verify_bytes(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(bytes, signature).is_ok()
    }

    /// The 64 bytes of a signature line, if the line is by this key.
    fn signature_in(&self, line: &str) -> Result<Option<[u8; 64]>, NoteError> {
        let (name, hash, signature) = signature_line(line)?;
        if name != self.name || hash != self.hash() {
            return Ok(None);
        }
        let signature = <[u8; 64]>::try_from(signature);
        signature.map(Some).map_err(|_| NoteError::Note("Ed25519 signature is not 64 bytes"))
    }
}

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write_vkey(&self.name, ALGORITHM_ED25519, &self.public))
    }
}

impl FromStr for VerifyKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, public) = parse_vkey(text, ALGORITHM_ED25519)?;
        Ok(Self { name: name.to_owned(), public })
    }
}

/// Four bytes of SHA-256(name || 0x0A || algorithm || key).
pub(super) fn key_hash(name: &str, algorithm: u8, public: &[u8; 32]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[name.as_bytes(), b"\n", &[algorithm], public]);
    [a, b, c, d]
}

/// `name+hash+base64` of an Ed25519 key.
pub(super) fn write_vkey(name: &str, algorithm: u8, public: &[u8; 32]) -> String {
    let mut key = vec![algorithm];
    key.extend_from_slice(public);
    format!("{name}+{}+{}", hex::encode(key_hash(name, algorithm, public)), BASE64.encode(key))
}

/// Name and key of a vkey of this signature type.
pub(super) fn parse_vkey(text: &str, algorithm: u8) -> Result<(&str, [u8; 32]), NoteError> {
    // Base64 may hold a plus sign, a name and a hash may not.
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(hash), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::VerifyKey);
    };
    check_name(name)?;
    let bytes = BASE64.decode(encoded).map_err(|_| NoteError::VerifyKey)?;
    let Some((found, public)) = bytes.split_first() else { return Err(NoteError::VerifyKey) };
    let public = public.try_into().map_err(|_| NoteError::VerifyKey)?;
    let good = *found == algorithm && hex::encode(key_hash(name, algorithm, &public)) == hash;
    if good { Ok((name, public)) } else { Err(NoteError::VerifyKey) }
}

/// Name, key hash and signature of a signature line.
pub(super) fn signature_line(line: &str) -> Result<(&str, [u8; 4], Vec<u8>), NoteError> {
    let bad = NoteError::Note("signature line is not a name and base64");
    let rest = line.strip_prefix(SIGNATURE_PREFIX).ok_or_else(|| bad.clone())?;
    let (name, encoded) = rest.split_once(' ').ok_or_else(|| bad.clone())?;
    let bytes = BASE64.decode(encoded).map_err(|_| bad.clone())?;
    let (hash, signature) = bytes.split_first_chunk::<4>().ok_or(bad)?;
    Ok((name, *hash, signature.to_vec()))
}

/// Body (with its last newline) and signature lines of a note.
pub(super) fn split_note(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(NoteError::Note("longer than 64 KiB"));
    }
    if note.chars().any(|c| c != '\n' && c.is_control()) {
        return Err(NoteError::Note("control characters"));
    }
    let split = note.rfind("\n\n").ok_or(NoteError::Note("no empty line before signatures"))?;
    let (body, rest) = note.split_at(split + 1);
    let signatures = rest.strip_prefix('\n').ok_or(NoteError::Note("no empty line before signatures"))?;
    if signatures.is_empty() || !signatures.ends_with('\n') {
        return Err(NoteError::Note("last signature line does not end"));
    }
    Ok((body, signatures))
}

pub(super) fn check_name(name: &str) -> Result<(), NoteError> {
    let good = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+');
    if good { Ok(()) } else { Err(NoteError::Name) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "keytrail/test/node-0123456789abcdef";

    fn key() -> SigningKey {
        SigningKey::from_seed(NAME, &[1; 32]).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: NAME.to_owned(), size: 42, root: RootHash([7; 32]) }
    }

    #[test]
    fn a_signed_checkpoint_reads_back() {
        let note = key().sign(&checkpoint()).unwrap();
        assert_eq!(key().verify_key().verify(&note), Ok(checkpoint()));
    }

    #[test]
    fn a_key_survives_pkcs8_and_vkey_text() {
        let (key, pkcs8) = SigningKey::generate(NAME).unwrap();
        let again = SigningKey::from_pkcs8(NAME, &pkcs8).unwrap();
        assert_eq!(again.verify_key(), key.verify_key());
        let third = SigningKey::from_pkcs8(NAME, &key.to_pkcs8().unwrap()).unwrap();
        assert_eq!(third.verify_key(), key.verify_key());
        assert_eq!(key.verify_key().to_string().parse(), Ok(key.verify_key().clone()));
    }

    #[test]
    fn the_vkey_of_the_go_note_package_is_read() {
        // From golang.org/x/mod/sumdb/note's documentation.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key: VerifyKey = text.parse().unwrap();
        assert_eq!((key.name(), key.to_string().as_str()), ("PeterNeumann", text));
        let body =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let signature = key.signature_in(line).unwrap().unwrap();
        assert!(key.verify_bytes(body.as_bytes(), &signature));
    }

    #[test]
    fn the_example_of_the_signed_note_specification_verifies() {
        // c2sp.org/signed-note, "Example".
        let key: VerifyKey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k".parse().unwrap();
        let note = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
        let (body, signatures) = split_note(note).unwrap();
        let signature = key.signature_in(signatures.trim_end()).unwrap().unwrap();
        assert!(key.verify_bytes(body.as_bytes(), &signature));
        assert!(!key.verify_bytes(b"This is another message.\n", &signature));
        // Signed, but no checkpoint.
        assert_eq!(key.verify(note), Err(NoteError::Checkpoint("not exactly three lines")));
        // The checkpoint of c2sp.org/tlog-checkpoint is by a key that is not published: it can be read, not verified.
        let example = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let read = Checkpoint::parse_body(example).unwrap();
        assert_eq!((read.size, read.body().as_str()), (20_852_163, example));
    }

    #[test]
    fn foreign_signatures_are_passed_over_but_ours_must_be_there() {
        let note = key().sign(&checkpoint()).unwrap();
        let other = SigningKey::from_seed("witness.example", &[2; 32]).unwrap();
        let cosigned = format!("{note}\u{2014} witness.example {}\n", BASE64.encode([9; 76]));
        assert_eq!(key().verify_key().verify(&cosigned), Ok(checkpoint()));
        assert_eq!(other.verify_key().verify(&note), Err(NoteError::Unsigned("witness.example".to_owned())));
        let same_name = SigningKey::from_seed(NAME, &[2; 32]).unwrap();
        assert_eq!(same_name.verify_key().verify(&note), Err(NoteError::Unsigned(NAME.to_owned())));
    }

    #[test]
    fn a_key_signs_only_its_own_origin() {
        let mut other = checkpoint();
        other.origin = "keytrail/else/node-1".to_owned();
        assert!(matches!(key().sign(&other), Err(NoteError::Origin { .. })));
    }

    #[test]
    fn extension_lines_and_odd_numbers_are_refused() {
        let body = checkpoint().body();
        assert_eq!(Checkpoint::parse_body(&body), Ok(checkpoint()));
        let root = BASE64.encode([7; 32]);
        for bad in [
            format!("{body}extension\n"),
            format!("{NAME}\n042\n{root}\n"),
            format!("{NAME}\n+42\n{root}\n"),
            format!("{NAME}\n-1\n{root}\n"),
            format!("{NAME}\n42\n{}\n", &root[4..]),
            format!("{NAME}\n42\n"),
            format!("\n42\n{root}\n"),
            body.trim_end().to_owned(),
        ] {
            assert!(Checkpoint::parse_body(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_breaks_a_note(index: prop::sample::Index, mask in 1_u8..=127) {
            let note = key().sign(&checkpoint()).unwrap();
            let mut bytes = note.into_bytes();
            let at = index.index(bytes.len());
            bytes[at] ^= mask;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(key().verify_key().verify(&text).is_err());
            }
        }

        #[test]
        fn anything_at_all_is_an_error_and_no_panic(text in "\\PC{0,200}(\n\\PC{0,80}){0,6}") {
            prop_assert!(key().verify_key().verify(&text).is_err());
            let _ = text.parse::<VerifyKey>();
        }
    }
}
