//! Files that somebody else writes while we run: read within a bound, and looked at for changes.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::net::UnixListener;
use tokio::time::Interval;

/// The folder that a file is in, to make its name durable.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A whole file, or None if it is longer than `bytes_max`.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// A socket with these rights. Made under another name, so that nobody connects before they are set.
pub(crate) fn bind_socket(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// What tells that a file was replaced or written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    inode: u64,
    bytes: u64,
}

impl Stamp {
    /// None while there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self { modified: meta.modified().ok()?, inode: meta.ino(), bytes: meta.len() })
    }

    /// How long ago the file was written to; None if that is in the future.
    pub fn age(&self) -> Option<Duration> {
        self.modified.elapsed().ok()
    }

    /// Looks at each tick until the file is another than `seen`.
    pub(crate) async fn change(path: &Path, seen: Option<Self>, ticks: &mut Interval) -> Option<Self> {
        loop {
            ticks.tick().await;
            let now = Self::of(path);
            if now != seen {
                return now;
            }
        }
    }
}
