//! Copies of `kms.db` from before a new version changed it: `kms.db.v1` and so on, for a return to the version before.
//!
//! A copy serves until the first change commits: from then on the journal is ahead of it, and a start with it would be
//! refused as a rollback. It goes before that change, so that no key that is ever deleted lives on in one. Who can read
//! a copy can read what `kms.db` says, and no key without `root.key`.

use super::StoreError;
use crate::file::folder;
use rusqlite::Connection;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Copies the database as it is, readable for its owner only. A crash leaves the whole copy or none; one that is there
/// is of an earlier try.
pub(super) fn make(connection: &Connection, path: &Path, version: i64) -> Result<(), StoreError> {
    let copy = path.with_extension(format!("db.v{version}"));
    let unfinished = path.with_extension("db.copying");
    let failed = |step| {
        let path = copy.clone();
        move |source| StoreError::Copy { step, path, source }
    };
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace unfinished copy")(error)),
        _ => {}
    }
    // SQLite fills an empty file, and so keeps the mode that this one has.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
    let file = file.map_err(failed("create copy"))?;
    connection.execute("VACUUM INTO ?1", [unfinished.to_string_lossy()])?;
    file.sync_all().map_err(failed("fsync copy"))?;
    std::fs::rename(&unfinished, &copy).map_err(failed("name copy"))?;
    File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(failed("fsync folder of copy"))
}

/// Takes all copies of an open database away; false when that has to be tried again.
pub(super) fn remove(connection: &Connection) -> bool {
    let Some(path) = connection.path().filter(|path| !path.is_empty()).map(PathBuf::from) else { return true };
    match remove_all(&path) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "copies of the store cannot be removed: deleted keys live on in them");
            false
        }
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut removed = false;
    for entry in std::fs::read_dir(folder(path))? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let suffix = found.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
        let version = suffix
            .and_then(|suffix| suffix.strip_prefix('v'))
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        if version || suffix == Some("copying") {
            std::fs::remove_file(entry.path())?;
            removed = true;
        }
    }
    if removed { File::open(folder(path))?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_is_whole_private_and_gone_when_it_is_of_no_more_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (v); INSERT INTO t VALUES (7);").unwrap();
        let copy = folder.path().join("kms.db.v3");
        // A copy that was cut off under its own name, as an older version could leave it, and one under the other.
        std::fs::write(&copy, b"torn").unwrap();
        std::fs::write(folder.path().join("kms.db.copying"), b"torn").unwrap();
        make(&connection, &path, 3).unwrap();
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let copied: i64 = Connection::open(&copy).unwrap().query_row("SELECT v FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(copied, 7);
        std::fs::write(folder.path().join("kms.db.very-own"), b"not ours").unwrap();
        assert!(remove(&connection));
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left: Vec<_> = left.map(|name| name.to_string_lossy().into_owned()).collect();
        left.sort();
        assert_eq!(left, ["kms.db", "kms.db.very-own"]);
        assert!(remove(&connection), "nothing to do");
    }
}
