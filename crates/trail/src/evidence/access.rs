//! `access.jsonl`: who read the log through the service in the period, from the log itself.
//!
//! Exports of packs are among them, as they record themselves. Other reads past the service, as by `keytrail sql` on the
//! machine, leave no event and are not here; VERIFY.md says so.

use super::pass::text_column;
use super::{IoError, io, rfc3339};
use crate::lake::rebuild::Record;
use arrow::array::{Array as _, RecordBatch};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Operations that give records, what was in them, or heads of the log, and who serves them.
const READS: [(&str, &str); 5] = [
    ("keytrail.internal", "GetFrames"),
    ("keytrail.internal", "GetCheckpoint"),
    ("keytrail.internal", "GetUsage"),
    ("keytrail.internal", "ExportEvidence"),
    ("cloudtrail.amazonaws.com", "LookupEvents"),
];

/// Writes the file.
pub(super) struct AccessLog {
    path: PathBuf,
    out: BufWriter<File>,
    from_us: u64,
    to_us: u64,
}

impl AccessLog {
    /// Of reads with a leaf time in the period.
    pub(super) fn create(path: &Path, (from_us, to_us): (u64, u64)) -> Result<Self, IoError> {
        let out = BufWriter::new(File::create(path).map_err(io("create", path))?);
        Ok(Self { path: path.to_owned(), out, from_us, to_us })
    }

    /// Notes those rows that are reads of the log.
    pub(super) fn look(&mut self, log: &str, records: &[Record], batch: &RecordBatch) -> Result<(), IoError> {
        let (Some(sources), Some(names)) = (text_column(batch, "event_source"), text_column(batch, "event_name"))
        else {
            return Ok(());
        };
        for (row, Record { leaf, .. }) in records.iter().enumerate() {
            let read = names.is_valid(row)
                && sources.is_valid(row)
                && (self.from_us..self.to_us).contains(&leaf.time_us)
                && READS.contains(&(sources.value(row), names.value(row)));
            if !read {
                continue;
            }
            let text = |name| text_column(batch, name).filter(|column| column.is_valid(row)).map(|c| c.value(row));
            let line = json!({
                "log": log,
                "seq": leaf.seq,
                "time": rfc3339(leaf.time_us),
                "eventName": names.value(row),
                "principalArn": text("principal_arn"),
                "sourceIPAddress": text("source_ip"),
                "userAgent": text("user_agent"),
                "requestID": text("request_id"),
                "errorCode": text("error_code"),
            });
            writeln!(self.out, "{line}").map_err(io("write", &self.path))?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), IoError> {
        self.out.flush().map_err(io("write", &self.path))
    }
}
