//! Traffic as CloudTrail delivers it: packed files of `{"Records":[...]}`, which `keytrail import cloudtrail` lands, and
//! beside them the labels of the attacks.
//!
//! One thread makes events, one packs them. The labels lie outside of what an import reads: its list of file names
//! passes over them.

use super::{Label, Options, OptionsError, Traffic};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Name of the file with the labels.
pub const LABELS_FILE: &str = "labels.jsonl";

/// Events in a file: some 3 MiB packed.
const FILE_EVENTS: usize = 32_768;

/// Bytes handed to the packing thread at once, and how many such pieces may wait.
const PIECE_BYTES: usize = 1 << 20;
const PIECES_AHEAD: usize = 8;

/// Longest line of labels: a sweep of a million calls.
const LABELS_BYTES_MAX: u64 = 256 << 20;

/// Why traffic was not written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// What was asked for.
    #[error("traffic cannot be made")]
    Options(#[from] OptionsError),
    /// A file or folder.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something is there already.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// A line of labels.
    #[error("line {line} of {path} is no label")]
    Label {
        /// From 1.
        line: usize,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The packing thread ended by a bug of ours.
    #[error("the packing thread ended without an answer")]
    Thread,
}

fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GenerateError {
    let path = path.to_owned();
    move |source| GenerateError::Io { step, path, source }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Events.
    pub events: u64,
    /// Their bytes, not packed.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Attacks in them.
    pub attacks: usize,
}

/// Writes traffic into the folder `out`, which must be empty or absent.
pub fn write(options: &Options, out: &Path) -> Result<Written, GenerateError> {
    let mut traffic = Traffic::new(options)?;
    fs::create_dir_all(out).map_err(io("create", out))?;
    if fs::read_dir(out).map_err(io("list", out))?.next().is_some() {
        return Err(GenerateError::NotEmpty(out.to_owned()));
    }
    let (sender, pieces) = sync_channel(PIECES_AHEAD);
    let folder = out.to_owned();
    let packing = thread::spawn(move || pack(&folder, &pieces));
    let mut written = Written::default();
    let mut piece = Vec::with_capacity(PIECE_BYTES + 4_096);
    let mut in_file = 0;
    for event in &mut traffic {
        piece.extend_from_slice(if in_file == 0 { b"{\"Records\":[" } else { b"," });
        piece.extend_from_slice(&event.payload);
        written.events += 1;
        written.bytes += event.payload.len() as u64;
        in_file += 1;
        if in_file == FILE_EVENTS || piece.len() >= PIECE_BYTES {
            let ends = in_file == FILE_EVENTS;
            // The other end only goes away with an error, which is told below.
            if sender.send(Piece { bytes: std::mem::take(&mut piece), ends }).is_err() {
                break;
            }
            in_file = if ends { 0 } else { in_file };
        }
    }
    if in_file > 0 {
        let _ = sender.send(Piece { bytes: piece, ends: true });
    }
    drop(sender);
    written.files = packing.join().map_err(|_| GenerateError::Thread)??;
    write_labels(&out.join(LABELS_FILE), traffic.labels())?;
    Ok(Written { attacks: traffic.labels().len(), ..written })
}

/// Text of a file; `ends` when it is the file's last.
struct Piece {
    bytes: Vec<u8>,
    ends: bool,
}

fn pack(folder: &Path, pieces: &Receiver<Piece>) -> Result<u64, GenerateError> {
    let mut files = 0;
    while let Ok(first) = pieces.recv() {
        let path = folder.join(format!("{files:08}.json.gz"));
        let file = File::create(&path).map_err(io("create", &path))?;
        let mut packed = GzEncoder::new(BufWriter::new(file), Compression::fast());
        let mut piece = first;
        loop {
            packed.write_all(&piece.bytes).map_err(io("write", &path))?;
            if piece.ends {
                break;
            }
            let Ok(next) = pieces.recv() else { break };
            piece = next;
        }
        packed.write_all(b"]}").map_err(io("write", &path))?;
        packed.finish().and_then(|mut file| file.flush()).map_err(io("write", &path))?;
        files += 1;
    }
    Ok(files)
}

fn write_labels(path: &Path, labels: &[Label]) -> Result<(), GenerateError> {
    let mut file = BufWriter::new(File::create(path).map_err(io("create", path))?);
    for label in labels {
        let line = serde_json::to_string(label).map_err(io::Error::from).map_err(io("write", path))?;
        writeln!(file, "{line}").map_err(io("write", path))?;
    }
    file.flush().map_err(io("write", path))
}

/// The labels of a file.
pub fn read_labels(path: &Path) -> Result<Vec<Label>, GenerateError> {
    let file = File::open(path).map_err(io("open", path))?;
    let length = file.metadata().map_err(io("open", path))?.len();
    if length > LABELS_BYTES_MAX {
        let error = io::Error::other(format!("{length} bytes, the limit is {LABELS_BYTES_MAX}"));
        return Err(io("read", path)(error));
    }
    let mut labels = Vec::new();
    for (line, text) in (1..).zip(BufReader::new(file).lines()) {
        let text = text.map_err(io("read", path))?;
        labels.push(serde_json::from_str(&text).map_err(|source| GenerateError::Label {
            line,
            path: path.to_owned(),
            source,
        })?);
    }
    Ok(labels)
}
