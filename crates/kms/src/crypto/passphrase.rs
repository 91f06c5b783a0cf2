//! The passphrase that a root key can be sealed under: where it comes from, and the key that Argon2id makes of it.
//!
//! It comes from a file (a systemd credential, say) or from a terminal, never from a command line or the environment,
//! which every process of the user can read. Somebody with a copy of `root.key` can guess at the speed that the
//! parameters allow; a passphrase that can be guessed protects nothing.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::CryptoFailure;

/// Shortest passphrase, in bytes: below this even the slow derivation does not hold.
pub const PASSPHRASE_BYTES_MIN: usize = 12;
/// Longest passphrase, in bytes: more cannot be typed and adds nothing.
pub const PASSPHRASE_BYTES_MAX: usize = 1_024;

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The file could not be read.
    #[error("read passphrase file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Strangers may read the file, or others than its owner may write it.
    #[error("passphrase file {path} must not be open to others, has mode {mode:04o}")]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too short or too long.
    #[error("passphrase must have {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes")]
    Length,
}

/// A passphrase. Never printed, cloned or serialised; wiped on drop.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes what was typed or read; line ends behind it are not part of it.
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseError> {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if !(PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&bytes.len()) {
            return Err(PassphraseError::Length);
        }
        Ok(Self(bytes))
    }

    /// Reads a file that only its owner may write and no stranger may read. Its group may read it: systemd gives a
    /// credential to the service's user by an access list, whose mask shows in the group's bits.
    pub fn read(path: &Path) -> Result<Self, PassphraseError> {
        let read = |source| PassphraseError::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.mode() & 0o7777;
        if mode & 0o027 != 0 {
            return Err(PassphraseError::Permissions { path: path.into(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 3));
        file.take(PASSPHRASE_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(read)?;
        Self::new(bytes)
    }

    /// The sealing key that this passphrase gives with a file's salt and cost.
    pub(super) fn stretch(&self, salt: &[u8], cost: Cost) -> Result<Zeroizing<[u8; 32]>, CryptoFailure> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| CryptoFailure)?;
        let mut key = Zeroizing::new([0; 32]);
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon.hash_password_into(&self.0, salt, key.as_mut_slice()).map_err(|_| CryptoFailure)?;
        Ok(key)
    }
}

/// What one guess costs, as the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// 256 MiB and three passes: four times the memory that RFC 9106 asks of small machines at as many passes, about a
    /// second at each start, and nothing while the node runs. One lane, because ours are filled one after another: more
    /// would help only the guesser.
    pub const NEW: Self = Self { memory_kib: 256 * 1024, passes: 3, lanes: 1 };

    /// Dearest file that is opened: whoever can write it must not be able to exhaust the machine's memory or time.
    pub const MAX: Self = Self { memory_kib: 1024 * 1024, passes: 16, lanes: 8 };

    /// As cheap as Argon2 gets with the most lanes, for tests.
    #[cfg(test)]
    pub(super) const TEST: Self = Self { memory_kib: 64, passes: 1, lanes: 1 };

    pub(super) fn is_bounded(self) -> bool {
        // Argon2 wants eight KiB a lane at least.
        (1..=Self::MAX.lanes).contains(&self.lanes)
            && (1..=Self::MAX.passes).contains(&self.passes)
            && (8 * self.lanes..=Self::MAX.memory_kib).contains(&self.memory_kib)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_passphrase_file_is_private_and_its_line_end_is_not_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, "correct horse battery\n").unwrap();
        for (mode, allowed) in [(0o600, true), (0o400, true), (0o440, true), (0o444, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Passphrase::read(&path).is_ok(), allowed, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Passphrase::read(&path).unwrap().0.as_slice(), b"correct horse battery");
        for (length, allowed) in [(11, false), (12, true), (1_024, true), (1_025, false), (1 << 20, false)] {
            fs::write(&path, vec![b'x'; length]).unwrap();
            assert_eq!(Passphrase::read(&path).is_ok(), allowed, "{length}");
        }
        assert!(matches!(Passphrase::read(&folder.path().join("none")), Err(PassphraseError::Read { .. })));
    }
}
