//! Files with secrets: their owner's alone, and read within a bound.

use std::fs::File;
use std::io::{Error, Read as _, Result};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use zeroize::Zeroizing;

/// The bytes of a file that nobody but its owner can open; what has more than `bytes_max` is refused.
pub(crate) fn read_private(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::other("it is open to others than its owner: chmod 600"));
    }
    // Room for all of it from the start: a vector that grows leaves copies behind.
    let room = usize::try_from(metadata.len()).unwrap_or(bytes_max).min(bytes_max) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(Error::other(format!("it is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}
