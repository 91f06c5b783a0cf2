//! A token's PIN: from a file that only its owner may read, or from a caller who sets up a key store; never printed.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::HsmError;
use zeroize::Zeroizing;

/// Longest PIN, in bytes; tokens take far shorter ones.
const PIN_BYTES_MAX: usize = 255;

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The file could not be read.
    #[error("read PIN file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Strangers may read the file, or others than its owner may write it.
    #[error("PIN file {path} must not be open to others, has mode {mode:04o}")]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Empty, too long, or not text.
    #[error("PIN must be a text of 1 to {PIN_BYTES_MAX} bytes")]
    Form,
}

/// Remembers across processes that a PIN's file holds a wrong one: a node that is started again and again would lock its
/// token. What is written tells the file's version and nothing of the PIN.
pub(crate) struct Refusals {
    note: PathBuf,
    file: PathBuf,
    version: String,
}

impl Refusals {
    /// `note` is where it is remembered.
    pub(crate) fn of(file: &Path, note: PathBuf) -> Result<Self, PinError> {
        let metadata = std::fs::metadata(file).map_err(|source| PinError::Read { path: file.into(), source })?;
        Ok(Self { note, file: file.to_owned(), version: version(&metadata) })
    }

    /// Runs what sends the PIN, unless this version of the file was refused, and remembers how that ends.
    pub(crate) fn watch<T>(&self, send: impl FnOnce() -> Result<T, HsmError>) -> Result<T, HsmError> {
        if std::fs::read_to_string(&self.note).is_ok_and(|noted| noted == self.version) {
            return Err(HsmError::RefusedBefore { file: self.file.clone() });
        }
        let sent = send();
        let noted = match &sent {
            Err(HsmError::WrongPin { .. }) => self.remember(),
            _ => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(%error, path = %self.note.display(), "wrong PIN cannot be remembered: the next start tries it again");
        }
        sent
    }

    fn remember(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.note.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&self.note, &self.version)
    }
}

fn version(metadata: &Metadata) -> String {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    // Not its length, which is nearly the PIN's.
    format!("{} {} {seconds}.{nanos:09}\n", metadata.dev(), metadata.ino())
}

/// A PIN. Never printed, cloned or serialised; wiped on drop.
pub struct Pin(Zeroizing<String>);

impl Pin {
    /// Takes what was read; line ends behind it are not part of it.
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PinError> {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| PinError::Form)?;
        if !(1..=PIN_BYTES_MAX).contains(&text.len()) || text.contains('\0') {
            return Err(PinError::Form);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// Reads a file that only its owner may write and no stranger may read. Its group may read it: systemd gives a
    /// credential to the service's user by an access list, whose mask shows in the group's bits.
    pub fn read(path: &Path) -> Result<Self, PinError> {
        let read = |source| PinError::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        let mode = file.metadata().map_err(read)?.mode() & 0o7777;
        if mode & 0o027 != 0 {
            return Err(PinError::Permissions { path: path.into(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(PIN_BYTES_MAX + 3));
        file.take(PIN_BYTES_MAX as u64 + 3).read_to_end(&mut bytes).map_err(read)?;
        Self::new(bytes)
    }

    /// The PIN in clear, for the token.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_refused_pin_is_sent_again_only_when_its_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, note) = (folder.path().join("pin"), folder.path().join("run/pin-refused"));
        fs::write(&file, "1234").unwrap();
        let sent = |answer: fn() -> Result<u8, HsmError>| Refusals::of(&file, note.clone()).unwrap().watch(answer);
        assert!(matches!(sent(|| Ok(7)), Ok(7)));
        assert!(matches!(sent(|| Err(HsmError::NotOpened)), Err(HsmError::NotOpened)));
        assert!(matches!(sent(|| Ok(7)), Ok(7)), "only a wrong PIN counts");
        let wrong = || Err(HsmError::WrongPin { label: "t".to_owned() });
        assert!(matches!(sent(wrong), Err(HsmError::WrongPin { .. })));
        assert!(!fs::read_to_string(&note).unwrap().contains("1234"));
        assert!(matches!(sent(|| panic!("it is sent")), Err(HsmError::RefusedBefore { .. })));
        let beside = folder.path().join("pin.new");
        fs::write(&beside, "4321").unwrap();
        fs::rename(&beside, &file).unwrap();
        assert!(matches!(sent(|| Ok(7)), Ok(7)));
    }

    #[test]
    fn a_pin_file_is_private_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, "1234\n").unwrap();
        for (mode, allowed) in [(0o600, true), (0o440, true), (0o444, false), (0o620, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Pin::read(&path).is_ok(), allowed, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Pin::read(&path).unwrap().expose(), "1234");
        for (bytes, allowed) in
            [(&b"\n"[..], false), (&[b'x'; 255], true), (&[b'x'; 256], false), (&[0xff, 0xfe], false)]
        {
            fs::write(&path, bytes).unwrap();
            assert_eq!(Pin::read(&path).is_ok(), allowed);
        }
    }
}
