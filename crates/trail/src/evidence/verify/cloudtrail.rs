//! Step 6, first half: CloudTrail log files hold exactly the payloads that leaves commit to.
//!
//! Payloads are found by their length in the leaf, not by parsing: JSON has too many readings.

use super::Failure;
use crate::evidence::cloudtrail::{HEAD, HOUR_US, RECORDS_MAX, TAIL};
use aws_lc_rs::digest::{Context, SHA256};
use flate2::bufread::GzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

/// Most files open at once; an exporter has 64.
const OPEN_MAX: usize = 256;

/// The log files of one log while their records go by.
pub(super) struct LogFiles<'a> {
    root: &'a Path,
    names: &'a [String],
    open: BTreeMap<u32, Reader>,
    done: Vec<Option<Read>>,
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// SHA-256 before gzip, hex.
    pub(super) sha256: String,
    /// The hour of its records' leaf times.
    pub(super) hour: u64,
}

struct Reader {
    input: BufReader<GzDecoder<BufReader<File>>>,
    hash: Context,
    hour: u64,
    records: u32,
}

impl<'a> LogFiles<'a> {
    pub(super) fn new(root: &'a Path, names: &'a [String]) -> Self {
        Self { root, names, open: BTreeMap::new(), done: vec![None; names.len()] }
    }

    /// The next record of a file, which has `payload.len()` bytes.
    pub(super) fn next(&mut self, index: u32, time_us: u64, payload: &mut [u8]) -> Result<(), Failure> {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let name =
            self.names.get(at).ok_or_else(|| Failure::new("record names a CloudTrail file that is not there"))?;
        let bad = |what: &str| Failure::new(format!("{name}: {what}"));
        if self.done.get(at).is_some_and(Option::is_some) {
            return Err(bad("file has ended before this record"));
        }
        if !self.open.contains_key(&index) {
            if self.open.len() == OPEN_MAX {
                return Err(bad("more than 256 CloudTrail files are interleaved"));
            }
            let file = File::open(self.root.join(name)).map_err(|error| bad(&error.to_string()))?;
            let input = BufReader::with_capacity(1 << 16, GzDecoder::new(BufReader::new(file)));
            let hour = time_us / HOUR_US;
            let mut reader = Reader { input, hash: Context::new(&SHA256), hour, records: 0 };
            reader.expect(HEAD).map_err(|what| bad(&what))?;
            self.open.insert(index, reader);
        }
        let Some(reader) = self.open.get_mut(&index) else { return Err(bad("file was not opened")) };
        if reader.hour != time_us / HOUR_US || reader.records == RECORDS_MAX {
            return Err(bad("file holds more than an hour or than 10,000 records"));
        }
        reader.records += 1;
        reader.read(payload).map_err(|what| bad(&what))?;
        if reader.ends().map_err(|what| bad(&what))?
            && let Some(reader) = self.open.remove(&index)
            && let Some(done) = self.done.get_mut(at)
        {
            *done = Some(Read { sha256: hex::encode(reader.hash.finish()), hour: reader.hour });
        }
        Ok(())
    }

    /// What was read, by index; every file must have been read whole.
    pub(super) fn finish(self) -> Result<Vec<Read>, Failure> {
        let Self { names, done, .. } = self;
        let unread = |name: &String| Failure::new(format!("{name}: file holds records that no leaf commits to"));
        done.into_iter().zip(names).map(|(read, name)| read.ok_or_else(|| unread(name))).collect()
    }
}

impl Reader {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.input.read_exact(bytes).map_err(|error| error.to_string())?;
        self.hash.update(bytes);
        Ok(())
    }

    fn expect(&mut self, wanted: &[u8]) -> Result<(), String> {
        let mut found = vec![0; wanted.len()];
        self.read(&mut found)?;
        if found == wanted { Ok(()) } else { Err("file is not a list of records".to_owned()) }
    }

    /// Whether the file ends here; otherwise a comma was passed.
    fn ends(&mut self) -> Result<bool, String> {
        let failed = |error: std::io::Error| error.to_string();
        if self.input.fill_buf().map_err(failed)?.first() == Some(&b',') {
            self.expect(b",")?;
            return Ok(false);
        }
        self.expect(TAIL)?;
        let trailing = !self.input.fill_buf().map_err(failed)?.is_empty()
            || !self.input.get_mut().get_mut().fill_buf().map_err(failed)?.is_empty();
        if trailing { Err("file goes on after its end".to_owned()) } else { Ok(true) }
    }
}
