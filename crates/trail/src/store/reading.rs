//! Reading a store that belongs to another process, trail.db or responder.db, without a trace.

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// How long a reader waits for a writer's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens an existing store to read it. SQLite lays the files of its write-ahead log beside a store that it opens, also to
/// read; where there is none, no process has the store open, and it is read as a file that nobody changes.
pub(crate) fn open_read_only(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let db = if Path::new(&log).exists() {
        Connection::open_with_flags(path, flags)?
    } else {
        let path = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
        Connection::open_with_flags(format!("file:{path}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)?
    };
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reading_leaves_no_trace_and_sees_what_a_writer_committed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a store?.db");
        let count = || -> i64 {
            open_read_only(&path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        };
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1);").unwrap();
        assert_eq!(count(), 1, "beside its writer");
        writer.execute("INSERT INTO t VALUES (2)", []).unwrap();
        assert_eq!(count(), 2);
        drop(writer);
        assert_eq!(count(), 2, "alone");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(open_read_only(&dir.path().join("none.db")).is_err());
    }
}
