//! Which logs were imported: marks in the lake, so that the trail neither adopts nor disturbs them.
//!
//! An imported log has a writer of its own, which holds the lock of its mark; the lake's one writer only looks at it.
//! Its records tell when they happened (`eventTime`), and it is no source of the tables folded from our own logs: whoever
//! made the files could have written anything into them.

use super::file::{create_folder, sync_folder};
use super::store::{LakeError, names};
use keytrail_kms::chain::LogId;
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::Path;

/// Folder of marks below the lake; a mark is named after the log and holds its origin.
pub(super) const FOLDER: &str = "imported";

/// The logs that are marked.
pub(super) fn logs(root: &Path) -> Result<BTreeSet<LogId>, LakeError> {
    Ok(names(&root.join(FOLDER))?.iter().filter_map(|name| LogId::from_hex(name)).collect())
}

/// Whether `log` is marked. Marks are never taken away, and come before anything else of their log.
pub(super) fn is_marked(root: &Path, log: LogId) -> bool {
    root.join(FOLDER).join(log.to_string()).exists()
}

/// Marks the log of `origin` durably and locks it for writing, as long as the file is held.
pub(super) fn lock(root: &Path, origin: &str) -> Result<File, LakeError> {
    let folder = root.join(FOLDER);
    create_folder(root, &folder)?;
    let path = folder.join(LogId::of_origin(origin).to_string());
    let io = |step| {
        let path = path.clone();
        move |source| LakeError::Io { step, path, source }
    };
    let mut file = File::options().create(true).append(true).open(&path).map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LakeError::Locked),
        Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
    }
    // The mark counts by its name; what a crash left half written is written again.
    if fs::read(&path).map_err(io("read"))? != format!("{origin}\n").into_bytes() {
        file.set_len(0).map_err(io("write"))?;
        file.write_all(format!("{origin}\n").as_bytes()).map_err(io("write"))?;
    }
    file.sync_all().map_err(io("sync"))?;
    sync_folder(&folder)?;
    Ok(file)
}
