//! The root key at rest: bare (32 bytes), or sealed under a passphrase (100 bytes). Layout with a test vector:
//! docs/root-key.md.
//!
//! Whoever reads a bare file has the root key; whoever reads a sealed one can only guess. Whoever can write the file can
//! make the node lose its root key, but not make it use another one: its id stands in kms.db.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::passphrase::{Cost, Passphrase};
use super::root_key::ROOT_KEY_BYTES;
use super::{CryptoFailure, random};

/// Length of a sealed file.
pub(super) const SEALED_BYTES: usize = HEAD_BYTES + ROOT_KEY_BYTES + TAG_BYTES;

const MAGIC: &[u8; 12] = b"KTROOTKEY\0\0\x01";
const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = MAGIC.len() + 3 * 4 + SALT_BYTES + NONCE_LEN;

/// How a root key file protects its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// By its mode alone.
    File,
    /// By a passphrase.
    Passphrase {
        /// What a guess costs.
        cost: Cost,
        /// New with each sealing, so that a change of the passphrase shows.
        salt: [u8; SALT_BYTES],
    },
}

impl Seal {
    /// Reads the head of a file; None when it is neither form, or dearer than what is opened.
    pub(super) fn of(file: &[u8]) -> Option<Self> {
        if file.len() == ROOT_KEY_BYTES {
            return Some(Self::File);
        }
        let rest = file.strip_prefix(MAGIC).filter(|_| file.len() == SEALED_BYTES)?;
        let (memory, rest) = rest.split_first_chunk::<4>()?;
        let (passes, rest) = rest.split_first_chunk::<4>()?;
        let (lanes, rest) = rest.split_first_chunk::<4>()?;
        let (salt, _) = rest.split_first_chunk::<SALT_BYTES>()?;
        let [memory_kib, passes, lanes] = [memory, passes, lanes].map(|bytes| u32::from_be_bytes(*bytes));
        let cost = Cost { memory_kib, passes, lanes };
        cost.is_bounded().then_some(Self::Passphrase { cost, salt: *salt })
    }

    /// As the store and the log have it; tells one sealing from another and nothing of the key.
    pub fn name(&self) -> String {
        match self {
            Self::File => "file".to_owned(),
            Self::Passphrase { salt, .. } => format!("passphrase/{}", hex::encode(salt)),
        }
    }
}

/// Seals a root key under a passphrase.
pub(super) fn seal(root: &[u8; ROOT_KEY_BYTES], passphrase: &Passphrase, cost: Cost) -> Result<Vec<u8>, CryptoFailure> {
    seal_with(root, passphrase, cost, &random()?, &random()?)
}

fn seal_with(
    root: &[u8; ROOT_KEY_BYTES],
    passphrase: &Passphrase,
    cost: Cost,
    salt: &[u8; SALT_BYTES],
    nonce: &[u8; NONCE_LEN],
) -> Result<Vec<u8>, CryptoFailure> {
    // Large enough from the start: growing would leave copies of the key behind.
    let mut file = Vec::with_capacity(SEALED_BYTES);
    file.extend_from_slice(MAGIC);
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        file.extend_from_slice(&number.to_be_bytes());
    }
    file.extend_from_slice(salt);
    file.extend_from_slice(nonce);
    let head = Aad::from(file.clone());
    file.extend_from_slice(root);
    let key = sealing_key(passphrase, salt, cost)?;
    let text = file.get_mut(HEAD_BYTES..).ok_or(CryptoFailure)?;
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
    let (head, sealed) = file.split_at_checked(HEAD_BYTES).ok_or(CryptoFailure)?;
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

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    fn reopened(file: &[u8], phrase: &str) -> Option<[u8; ROOT_KEY_BYTES]> {
        let Some(Seal::Passphrase { cost, salt }) = Seal::of(file) else { return None };
        open(file, &passphrase(phrase), cost, &salt).unwrap().map(|root| *root)
    }

    #[test]
    fn the_documented_vector_holds() {
        let root = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let salt = std::array::from_fn(|index| 0x80 + u8::try_from(index).unwrap());
        let nonce = std::array::from_fn(|index| 0xf0 + u8::try_from(index).unwrap());
        let cost = Cost { memory_kib: 64, passes: 3, lanes: 1 };
        let file = seal_with(&root, &passphrase("correct horse battery"), cost, &salt, &nonce).unwrap();
        let document = include_str!("../../../../docs/root-key.md");
        assert!(document.contains(&format!("vector 1: {}\n", hex::encode(&file))), "{}", hex::encode(&file));
    }

    #[test]
    fn only_the_passphrase_opens_and_any_changed_bit_is_refused() {
        let file = seal(&ROOT, &passphrase("correct horse battery"), Cost::TEST).unwrap();
        assert_eq!(file.len(), SEALED_BYTES);
        assert!(!file.windows(8).any(|window| window == &ROOT[..8]));
        assert_eq!(reopened(&file, "correct horse battery"), Some(ROOT));
        assert_eq!(reopened(&file, "correct horse batterz"), None);
        for bit in 0..SEALED_BYTES * 8 {
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
        for length in [0, 31, 33, SEALED_BYTES - 1, SEALED_BYTES + 1] {
            let mut changed = file.clone();
            changed.resize(length, 0);
            assert_eq!(Seal::of(&changed), None, "{length} bytes");
        }
    }

    #[test]
    fn a_file_that_would_exhaust_the_machine_is_not_opened() {
        let file = seal(&ROOT, &passphrase("correct horse battery"), Cost::TEST).unwrap();
        for (at, most) in [(12, Cost::MAX.memory_kib), (16, Cost::MAX.passes), (20, Cost::MAX.lanes)] {
            for (value, allowed) in [(0, false), (most, true), (most + 1, false), (u32::MAX, false)] {
                let mut changed = file.clone();
                changed[at..at + 4].copy_from_slice(&value.to_be_bytes());
                assert_eq!(Seal::of(&changed).is_some(), allowed, "{value} at byte {at}");
            }
        }
    }
}
