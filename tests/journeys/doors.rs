//! The shell's SQL door: reads everything, writes nothing, and a stray file is not evidence.

use crate::support::{Caller, Folder, text};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Every file below a folder with its bytes' length and modification time.
fn digest(dir: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                open.push(entry.path());
            // Where SQLite keeps the locks of those who read a store.
            } else if !entry.path().to_string_lossy().ends_with("-shm") {
                found.insert(entry.path().display().to_string(), (meta.len(), meta.modified().unwrap()));
            }
        }
    }
    found
}

#[test]
fn no_statement_but_a_select_gets_through_and_nothing_on_disk_changes() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    admin.create_key(json!([]));
    up.stop();
    let out_file = folder.path().join("stolen.csv");
    let before = digest(folder.path());
    let refused = [
        "INSERT INTO events SELECT * FROM events".to_owned(),
        format!("COPY events TO '{}'", out_file.display()),
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO events SELECT * FROM events".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        "DROP TABLE events".to_owned(),
        "CREATE VIEW v AS SELECT 1".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "SELECT * FROM '/etc/passwd'".to_owned(),
        "DELETE FROM events".to_owned(),
        "UPDATE events SET seq = 1".to_owned(),
    ];
    for statement in &refused {
        let out = folder.sql_output(statement);
        assert!(!out.status.success(), "{statement} got through: {}", text(&out.stdout));
        assert!(out.stdout.is_empty(), "{statement} printed {}", text(&out.stdout));
    }
    // Statements run in order until one is refused.
    let out = folder.sql_output("SELECT 1 AS one; DROP TABLE events; SELECT 2 AS two");
    assert!(!out.status.success() && text(&out.stdout).trim() == r#"{"one":1}"#, "{}", text(&out.stdout));
    assert_eq!(digest(folder.path()), before);
    let rows = folder.sql("SELECT count(*) AS n FROM events WHERE event_name = 'CreateKey'");
    assert_eq!(rows[0]["n"], 1);
}

#[test]
fn a_stray_parquet_file_is_invisible_and_reported() {
    let folder = Folder::with_people();
    let up = folder.up(&[]);
    Caller::new(&up.field("kms"), folder.administrator()).create_key(json!([]));
    up.stop();
    let count = folder.sql("SELECT count(*) AS n FROM records")[0]["n"].clone();
    let log = std::fs::read_dir(folder.path().join("lake/data")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(log.join("00000000000000000000-00000000000000000009-deadbeef.parquet"), b"PAR1 not really").unwrap();
    let out = folder.sql_output("SELECT count(*) AS n FROM records");
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()["n"], count);
    assert!(text(&out.stderr).contains("deadbeef"), "the stray file is named: {}", text(&out.stderr));
}
