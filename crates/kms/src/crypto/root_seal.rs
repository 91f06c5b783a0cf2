//! The root key at rest: bare (32 bytes), sealed under a passphrase (116 bytes; 100 in files of earlier versions), or by a
//! key inside a token (`token_seal`).
//! Layout with test vectors: docs/root-key.md.
//!
//! Whoever reads a bare file has the root key; whoever reads a sealed one can only guess. Whoever can write the file can
//! make the node lose its root key, but not make it use another one: its id stands in kms.db. A sealed file names the root
//! key that is in it, so that a file of another root key is told without opening it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::passphrase::{Cost, Passphrase};
use super::root_key::{ROOT_KEY_BYTES, RootKeyId};
use super::token_seal::{self, TOKEN_SEALED_BYTES_MAX, VERSION_TOKEN};
use super::{CryptoFailure, random};

/// Longest sealed file.
pub(super) const SEALED_BYTES_MAX: usize = TOKEN_SEALED_BYTES_MAX;
/// Length of a file sealed under a passphrase.
const PASSPHRASE_BYTES_MAX: usize = HEAD_2_BYTES + ROOT_KEY_BYTES + TAG_BYTES;

pub(super) const MAGIC: &[u8; 11] = b"KTROOTKEY\0\0";
/// A passphrase, without the root key's name; read, never written.
const VERSION_1: u8 = 1;
/// A passphrase.
const VERSION_2: u8 = 2;
pub(super) const ID_BYTES: usize = 16;
const SALT_BYTES: usize = 16;
pub(super) const TAG_BYTES: usize = 16;
const HEAD_1_BYTES: usize = MAGIC.len() + 1 + 3 * 4 + SALT_BYTES + NONCE_LEN;
const HEAD_2_BYTES: usize = HEAD_1_BYTES + ID_BYTES;

/// How a root key file protects its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seal {
    /// By its mode alone.
    File,
    /// By a passphrase.
    Passphrase {
        /// Which root key is in it; files of earlier versions do not say.
        id: Option<RootKeyId>,
        /// What a guess costs.
        cost: Cost,
        /// New with each sealing, so that a change of the passphrase shows.
        salt: [u8; SALT_BYTES],
    },
    /// By a key inside a token.
    Token {
        /// Which root key is in it.
        id: RootKeyId,
        /// The token's label.
        token: String,
        /// The key's label.
        key: String,
        /// New with each sealing.
        nonce: [u8; NONCE_LEN],
    },
}

impl Seal {
    /// Reads the head of a file; None when it is no known form, or dearer than what is opened.
    pub(super) fn of(file: &[u8]) -> Option<Self> {
        if file.len() == ROOT_KEY_BYTES {
            return Some(Self::File);
        }
        let (version, rest) = file.strip_prefix(MAGIC)?.split_first()?;
        let (id, rest) = match *version {
            VERSION_1 => (None, rest),
            VERSION_TOKEN => return token_seal::head(rest),
            VERSION_2 => rest.split_first_chunk().map(|(id, rest)| (Some(RootKeyId(*id)), rest))?,
            _ => return None,
        };
        let (memory, rest) = rest.split_first_chunk::<4>()?;
        let (passes, rest) = rest.split_first_chunk::<4>()?;
        let (lanes, rest) = rest.split_first_chunk::<4>()?;
        let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>()?;
        let [memory_kib, passes, lanes] = [memory, passes, lanes].map(|bytes| u32::from_be_bytes(*bytes));
        let cost = Cost { memory_kib, passes, lanes };
        let whole = rest.len() == NONCE_LEN + ROOT_KEY_BYTES + TAG_BYTES;
        (whole && cost.is_bounded()).then_some(Self::Passphrase { id, cost, salt: *salt })
    }

    /// As the store and the log have it; tells one sealing from another and nothing of the key.
    pub fn name(&self) -> String {
        match self {
            Self::File => "file".to_owned(),
            Self::Passphrase { salt, .. } => format!("passphrase/{}", hex::encode(salt)),
            Self::Token { nonce, .. } => format!("pkcs11/{}", hex::encode(nonce)),
        }
    }
}

/// Seals a root key under a passphrase.
pub(super) fn seal(
    (root, id): (&[u8; ROOT_KEY_BYTES], RootKeyId),
    passphrase: &Passphrase,
    cost: Cost,
) -> Result<Vec<u8>, CryptoFailure> {
    seal_with((root, Some(id)), passphrase, cost, &random()?, &random()?)
}

fn seal_with(
    (root, id): (&[u8; ROOT_KEY_BYTES], Option<RootKeyId>),
    passphrase: &Passphrase,
    cost: Cost,
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_LEN],
) -> Result<Vec<u8>, CryptoFailure> {
    // Large enough from the start: growing would leave copies of the key behind.
    let mut file = Vec::with_capacity(PASSPHRASE_BYTES_MAX);
    file.extend_from_slice(MAGIC);
    file.push(if id.is_some() { VERSION_2 } else { VERSION_1 });
    file.extend_from_slice(id.as_ref().map_or(&[], |id| id.0.as_slice()));
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        file.extend_from_slice(&number.to_be_bytes());
    }
    file.extend_from_slice(salt);
    file.extend_from_slice(nonce);
    let head = Aad::from(file.clone());
    let head_bytes = file.len();
    file.extend_from_slice(root);
    let key = sealing_key(passphrase, salt, cost)?;
    let text = file.get_mut(head_bytes..).ok_or(CryptoFailure)?;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), head, text);
    file.extend_from_slice(tag.map_err(|_| CryptoFailure)?.as_ref());
    Ok(file)
}

/// Opens a sealed file whose head was read as `cost` and `salt`. None: another passphrase, or a damaged file; which of
/// them, nobody can tell.
pub(super) fn open(
    file: &[u8],
    passphrase: &Passphrase,
    cost: Cost,
    salt: &[u8; SALT_BYTES],
) -> Result<Option<Zeroizing<[u8; ROOT_KEY_BYTES]>>, CryptoFailure> {
    let head_bytes = file.len().checked_sub(ROOT_KEY_BYTES + TAG_BYTES).ok_or(CryptoFailure)?;
    let (head, sealed) = file.split_at_checked(head_bytes).ok_or(CryptoFailure)?;
    let nonce: &[u8; NONCE_LEN] = head.last_chunk().ok_or(CryptoFailure)?;
    let key = sealing_key(passphrase, salt, cost)?;
    let mut text = Zeroizing::new(sealed.to_vec());
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(head), &mut text);
    Ok(opened
        .ok()
        .and_then(|bytes| <&[u8; ROOT_KEY_BYTES]>::try_from(&*bytes).ok())
        .map(|bytes| Zeroizing::new(*bytes)))
}

fn sealing_key(passphrase: &Passphrase, salt: &[u8], cost: Cost) -> Result<LessSafeKey, CryptoFailure> {
    let key = passphrase.stretch(salt, cost)?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| CryptoFailure)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const ROOT: [u8; ROOT_KEY_BYTES] = [7; ROOT_KEY_BYTES];
    const ID: RootKeyId = RootKeyId([3; ID_BYTES]);

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    fn reopened(file: &[u8], phrase: &str) -> Option<[u8; ROOT_KEY_BYTES]> {
        let Some(Seal::Passphrase { cost, salt, .. }) = Seal::of(file) else { return None };
        open(file, &passphrase(phrase), cost, &salt).unwrap().map(|root| *root)
    }

    #[test]
    fn the_documented_vector_holds() {
        let root: [u8; ROOT_KEY_BYTES] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let salt = std::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap());
        let nonce = std::array::from_fn(|index| 0xf0 + u8::try_from(index).unwrap());
        let cost = Cost { memory_kib: 64, passes: 3, lanes: 1 };
        let document = include_str!("../../../../docs/root-key.md");
        let id = RootKeyId(std::array::from_fn(|index| 0x40 + u8::try_from(index).unwrap()));
        for (vector, id) in [(1, None), (2, Some(id))] {
            let file = seal_with((&root, id), &passphrase("correct horse battery"), cost, &salt, &nonce).unwrap();
            assert!(document.contains(&format!("vector {vector}: {}\n", hex::encode(&file))), "{}", hex::encode(&file));
            assert_eq!(Seal::of(&file), Some(Seal::Passphrase { id, cost, salt }));
            assert_eq!(reopened(&file, "correct horse battery"), Some(root));
        }
    }

    #[test]
    fn only_the_passphrase_opens_and_any_changed_bit_is_refused() {
        let file = seal((&ROOT, ID), &passphrase("correct horse battery"), Cost::TEST).unwrap();
        assert_eq!(file.len(), PASSPHRASE_BYTES_MAX);
        assert!(!file.windows(8).any(|window| window == &ROOT[..8]));
        assert_eq!(reopened(&file, "correct horse battery"), Some(ROOT));
        assert_eq!(reopened(&file, "correct horse batterz"), None);
        for bit in 0..PASSPHRASE_BYTES_MAX * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // A dearer cost than the tests can pay for is covered by the bound below.
            if Seal::of(&changed)
                .is_some_and(|seal| matches!(seal, Seal::Passphrase { cost, .. } if cost.memory_kib > 65_536))
            {
                continue;
            }
            assert_eq!(reopened(&changed, "correct horse battery"), None, "bit {bit}");
        }
        for length in [0, 31, 33, PASSPHRASE_BYTES_MAX - 1, PASSPHRASE_BYTES_MAX + 1] {
            let mut changed = file.clone();
            changed.resize(length, 0);
            assert_eq!(Seal::of(&changed), None, "{length} bytes");
        }
    }

    #[test]
    fn a_file_that_would_exhaust_the_machine_is_not_opened() {
        let file = seal((&ROOT, ID), &passphrase("correct horse battery"), Cost::TEST).unwrap();
        for (at, most) in [(28, Cost::MAX.memory_kib), (32, Cost::MAX.passes), (36, Cost::MAX.lanes)] {
            for (value, allowed) in [(0, false), (most, true), (most + 1, false), (u32::MAX, false)] {
                let mut changed = file.clone();
                changed[at..at + 4].copy_from_slice(&value.to_be_bytes());
                assert_eq!(Seal::of(&changed).is_some(), allowed, "{value} at byte {at}");
            }
        }
    }
}
