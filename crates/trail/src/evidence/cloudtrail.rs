//! Events as CloudTrail log files: `{"Records":[...]}` of the exact payloads, one gzip member a file.
//!
//! A file holds one account, one region and one hour of leaf time. Account and region come from the payload and end up
//! in paths, so only their plain forms are used there.

use super::{IoError, io, time};
use aws_lc_rs::digest::{Context, SHA256};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Most records in a file.
pub(super) const RECORDS_MAX: u32 = 10_000;
/// Most bytes in a file before gzip: readers, the AWS CLI among them, hold a file in memory.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most files open at once; an imported log may have events of many accounts.
const OPEN_MAX: usize = 64;
/// Stands for an account that is not twelve digits.
const NO_ACCOUNT: &str = "000000000000";
/// Stands for a region that is not letters, digits and hyphens.
const NO_REGION: &str = "unknown";
/// An hour in the unit of leaf times.
pub(super) const HOUR_US: u64 = 3_600_000_000;
/// What stands before the first record.
pub(super) const HEAD: &[u8] = br#"{"Records":["#;
/// What stands after the last.
pub(super) const TAIL: &[u8] = b"]}";

/// Whose events a file holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) account: String,
    pub(super) region: String,
}

impl Place {
    /// From what the event says.
    pub(super) fn of(account: Option<&str>, region: Option<&str>) -> Self {
        let account = account.filter(|text| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit()));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let region = region.filter(|text| (1..=32).contains(&text.len()) && text.bytes().all(plain));
        Self { account: account.unwrap_or(NO_ACCOUNT).to_owned(), region: region.unwrap_or(NO_REGION).to_owned() }
    }
}

/// A finished file.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    pub(super) place: Place,
    /// Below the pack's payload.
    pub(super) path: String,
    /// SHA-256 before gzip, hex.
    pub(super) sha256: String,
    pub(super) oldest_us: u64,
    pub(super) newest_us: u64,
}

/// Writes the files.
pub(super) struct LogFiles {
    /// The pack's payload folder.
    root: PathBuf,
    log8: String,
    open: BTreeMap<Place, Open>,
    names: Vec<String>,
    done: Vec<LogFile>,
}

struct Open {
    index: u32,
    path: PathBuf,
    out: GzEncoder<BufWriter<File>>,
    hash: Context,
    records: u32,
    bytes: u64,
    oldest_us: u64,
    newest_us: u64,
}

impl LogFiles {
    pub(super) fn new(root: &Path, log8: &str) -> Self {
        Self {
            root: root.to_owned(),
            log8: log8.to_owned(),
            open: BTreeMap::new(),
            names: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Adds an event; the answer is the index of its file. Times must not fall.
    pub(super) fn push(&mut self, place: &Place, time_us: u64, payload: &[u8]) -> Result<u32, IoError> {
        self.close_where(|file| {
            file.newest_us / HOUR_US != time_us / HOUR_US || file.records == RECORDS_MAX || file.bytes > FILE_BYTES_MAX
        })?;
        if !self.open.contains_key(place) {
            while self.open.len() >= OPEN_MAX {
                let oldest = self.open.values().map(|file| file.index).min();
                self.close_where(|file| Some(file.index) == oldest)?;
            }
            let file = self.create(place, time_us)?;
            self.open.insert(place.clone(), file);
        }
        let file = self.open.get_mut(place).expect("a file was opened for this place");
        file.push(payload)?;
        file.newest_us = time_us;
        Ok(file.index)
    }

    /// Ends all files; gives their names by index and what digests say about them.
    pub(super) fn finish(mut self) -> Result<(Vec<String>, Vec<LogFile>), IoError> {
        self.close_where(|_| true)?;
        Ok((self.names, self.done))
    }

    fn create(&mut self, place: &Place, time_us: u64) -> Result<Open, IoError> {
        let Place { account, region } = place;
        let index = u32::try_from(self.names.len()).unwrap_or(u32::MAX - 1);
        let folder = format!("cloudtrail/AWSLogs/{account}/CloudTrail/{region}/{}", time(time_us).format("%Y/%m/%d"));
        let minute = time(time_us).format("%Y%m%dT%H%MZ");
        let name = format!("{folder}/{account}_CloudTrail_{region}_{minute}_{}{index:08x}.json.gz", self.log8);
        let folder = self.root.join(folder);
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let path = self.root.join(&name);
        let out = File::create_new(&path).map_err(io("create", &path))?;
        self.names.push(name);
        Ok(Open {
            index,
            path,
            out: GzEncoder::new(BufWriter::with_capacity(1 << 16, out), Compression::new(4)),
            hash: Context::new(&SHA256),
            records: 0,
            bytes: 0,
            oldest_us: time_us,
            newest_us: time_us,
        })
    }

    fn close_where(&mut self, end: impl Fn(&Open) -> bool) -> Result<(), IoError> {
        let ended: Vec<Place> =
            self.open.iter().filter(|(_, file)| end(file)).map(|(place, _)| place.clone()).collect();
        for place in ended {
            let Some(mut file) = self.open.remove(&place) else { continue };
            file.write(TAIL)?;
            let Open { index, path, out, hash, oldest_us, newest_us, .. } = file;
            out.finish().and_then(|mut out| out.flush()).map_err(io("write", &path))?;
            let name = usize::try_from(index).ok().and_then(|index| self.names.get(index));
            let path = name.expect("an open file has a name").clone();
            self.done.push(LogFile { place, path, sha256: hex::encode(hash.finish()), oldest_us, newest_us });
        }
        Ok(())
    }
}

impl Open {
    fn push(&mut self, payload: &[u8]) -> Result<(), IoError> {
        self.write(if self.records == 0 { HEAD } else { b"," })?;
        self.write(payload)?;
        self.records += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.out.write_all(bytes).map_err(io("write", &self.path))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
