//! Access keys: the secret type, generation, and the AWS shared-credentials file.
//!
//! A secret key has no Debug, Clone or Serialize, is wiped on drop and leaves this type only by [`SecretKey::expose`].
//! Files are written 0600, whole, by rename; reading keeps to the subset of INI that the AWS tools write.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::rand;
use zeroize::{Zeroize as _, Zeroizing};

/// Longest credentials file that is read; a real one has a few hundred bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Base32 as AWS uses it in ids.
const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// 64 characters that need no quoting in INI, TOML or a shell.
const SECRET_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What can go wrong with a credentials file or a new access key.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file could not be read.
    #[error("read credentials file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("write credentials file {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is neither a section, a setting, a comment nor empty.
    #[error("credentials file {path}, line {line}: not a section, setting or comment")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The profile is missing, or lacks one of its two settings.
    #[error("credentials file {path} has no complete profile [{profile}]")]
    NoProfile {
        /// Which file.
        path: PathBuf,
        /// The profile asked for.
        profile: String,
    },
    /// An access key id or secret has characters or a length that no such thing has.
    #[error("malformed access key id or secret")]
    Malformed,
    /// The system's random source failed.
    #[error("draw random bytes")]
    Random,
}

/// A secret access key. Never printed, copied or serialised; wiped on drop.
pub struct SecretKey {
    text: Zeroizing<String>,
    /// Differs for every value made in this process, so that caches of derived keys never outlive a reload.
    serial: u64,
}

impl SecretKey {
    /// Takes a secret as read from a file: 16 to 128 printable ASCII characters without blanks.
    pub fn new(mut text: String) -> Result<Self, CredentialsError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        if !(16..=128).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            text.zeroize();
            return Err(CredentialsError::Malformed);
        }
        Ok(Self { text: Zeroizing::new(text), serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Forty random characters, as AWS's.
    pub fn generate() -> Result<Self, CredentialsError> {
        Self::new(random_text(SECRET_ALPHABET, 40)?)
    }

    /// The secret in clear: for deriving a signing key and for writing the owner's file, nothing else.
    pub fn expose(&self) -> &str {
        &self.text
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }
}

/// An access key: its public id and its secret.
pub struct Credentials {
    /// `AKIA...`; may be logged.
    pub access_key_id: String,
    /// Never logged.
    pub secret: SecretKey,
}

impl Credentials {
    /// Joins an id and a secret; the id must look like one.
    pub fn new(access_key_id: impl Into<String>, secret: SecretKey) -> Result<Self, CredentialsError> {
        let access_key_id = access_key_id.into();
        if !is_access_key_id(&access_key_id) {
            return Err(CredentialsError::Malformed);
        }
        Ok(Self { access_key_id, secret })
    }

    /// A new random long-term access key.
    pub fn generate() -> Result<Self, CredentialsError> {
        let id = format!("AKIA{}", random_text(ID_ALPHABET, 16)?);
        Self::new(id, SecretKey::generate()?)
    }

    /// Reads one profile of an AWS shared-credentials file.
    pub fn read(path: &Path, profile: &str) -> Result<Self, CredentialsError> {
        let text = read_file(path).map_err(|source| CredentialsError::Read { path: path.into(), source })?;
        let (mut id, mut secret) = (None, None);
        let mut inside = false;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                inside = name.trim() == profile;
                continue;
            }
            let Some((name, value)) = line.split_once('=') else {
                return Err(CredentialsError::Syntax { path: path.into(), line: index + 1 });
            };
            match name.trim() {
                "aws_access_key_id" if inside => id = Some(value.trim().to_owned()),
                "aws_secret_access_key" if inside => secret = Some(SecretKey::new(value.trim().to_owned())?),
                _ => {}
            }
        }
        match (id, secret) {
            (Some(id), Some(secret)) => Self::new(id, secret),
            _ => Err(CredentialsError::NoProfile { path: path.into(), profile: profile.into() }),
        }
    }
}

/// A new random id of a principal: `AIDA...` and so on.
#[cfg(feature = "server")]
pub(crate) fn principal_id(head: &str) -> Result<String, CredentialsError> {
    Ok(format!("{head}{}", random_text(ID_ALPHABET, 17)?))
}

/// A new random id for temporary credentials.
#[cfg(feature = "server")]
pub(crate) fn session_access_key_id() -> Result<String, CredentialsError> {
    Ok(format!("ASIA{}", random_text(ID_ALPHABET, 16)?))
}

/// Writes a shared-credentials file with these profiles: 0600, fsynced, put in place by rename. `head` becomes
/// comment lines at the top.
pub fn write_file(path: &Path, head: &str, profiles: &[(&str, &Credentials)]) -> Result<(), CredentialsError> {
    let mut text = Zeroizing::new(String::with_capacity(512 + 160 * profiles.len()));
    for line in head.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
    for (name, credentials) in profiles {
        text.push_str(&format!(
            "[{name}]\naws_access_key_id = {}\naws_secret_access_key = ",
            credentials.access_key_id
        ));
        text.push_str(credentials.secret.expose());
        text.push('\n');
    }
    replace_file(path, text.as_bytes()).map_err(|source| CredentialsError::Write { path: path.into(), source })
}

/// Whether `text` could be an access key id: 16 to 128 upper-case letters and digits.
pub fn is_access_key_id(text: &str) -> bool {
    (16..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// Replaces a secret file's content in one step: 0600 from its first byte, fsync before and after the rename.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = folder.join(temporary);
    // A leftover of a crash may have any mode; a new file has ours.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(folder)?.sync_all()
}

fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    // Sized ahead so that growing the buffer leaves no unwiped copies behind.
    let mut text = Zeroizing::new(String::with_capacity(16 * 1024));
    let read = fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than a credentials file may be"));
    }
    Ok(text)
}

/// `length` characters drawn evenly from an alphabet whose size divides 256.
fn random_text(alphabet: &[u8], length: usize) -> Result<String, CredentialsError> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    rand::fill(&mut bytes).map_err(|_| CredentialsError::Random)?;
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_written_file_reads_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let (first, second) = (Credentials::generate().unwrap(), Credentials::generate().unwrap());
        write_file(&path, "two keys\nfor a test", &[("default", &first), ("other", &second)]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = Credentials::read(&path, "other").unwrap();
        assert_eq!(read.access_key_id, second.access_key_id);
        assert_eq!(read.secret.expose(), second.secret.expose());
        assert!(matches!(Credentials::read(&path, "third"), Err(CredentialsError::NoProfile { .. })));
        write_file(&path, "", &[("default", &second)]).unwrap();
        assert_eq!(Credentials::read(&path, "default").unwrap().access_key_id, second.access_key_id);
    }

    #[test]
    fn odd_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        assert!(matches!(Credentials::read(&path, "default"), Err(CredentialsError::Read { .. })));
        fs::write(&path, "[default]\nnonsense\n").unwrap();
        assert!(matches!(Credentials::read(&path, "default"), Err(CredentialsError::Syntax { line: 2, .. })));
        fs::write(&path, "[default]\naws_access_key_id = AKIDEXAMPLE12345\n").unwrap();
        assert!(matches!(Credentials::read(&path, "default"), Err(CredentialsError::NoProfile { .. })));
        fs::write(&path, vec![b'#'; 70_000]).unwrap();
        assert!(matches!(Credentials::read(&path, "default"), Err(CredentialsError::Read { .. })));
    }

    #[test]
    fn generated_keys_look_like_keys() {
        let credentials = Credentials::generate().unwrap();
        assert_eq!(credentials.access_key_id.len(), 20);
        assert_eq!(credentials.secret.expose().len(), 40);
        assert!(SecretKey::new("has a blank in it".into()).is_err());
        assert!(Credentials::new("lower-case", SecretKey::generate().unwrap()).is_err());
    }
}
