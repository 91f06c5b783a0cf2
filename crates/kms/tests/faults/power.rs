//! Power cuts: the writer's system calls are recorded, then played up to some moment onto a model of a file system that
//! keeps what was synced and, of the rest, whatever chance lets it keep.
//!
//! The model is harsher than real ones: of unsynced writes any pages, or halves of one, may be there or not, whatever
//! came later; of unsynced names each may be there or not. A folder's fsync makes its names durable, a file's its bytes.

use super::writer::{self, Workload};
use super::{Random, copy_dir, folder};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const CALLS: &str = "trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,?fallocate,?rename,?unlink,?mkdir";
/// A disk writes sectors whole.
const SECTOR_BYTES: usize = 512;
/// Longest write: zeros are written a MiB at a time.
const STRING_BYTES_MAX: &str = "1100000";

/// One call, with paths relative to the folder.
#[derive(Clone, Debug)]
enum Op {
    /// Opened for creating; true: and emptied.
    Create(PathBuf, bool),
    Write {
        path: PathBuf,
        /// None: at the file's end.
        at: Option<usize>,
        bytes: Vec<u8>,
    },
    Length(PathBuf, usize),
    /// The call began; what was written until now is durable when it ends.
    SyncBegins(PathBuf),
    SyncEnds(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    Say(String),
}

/// A recorded run.
pub(crate) struct Trace {
    before: tempfile::TempDir,
    ops: Vec<Op>,
}

/// Runs the writer on a copy of `start` and records it.
pub(crate) fn record(start: &Path, run: u64, workload: Workload) -> Trace {
    let (before, dir) = (folder(), folder());
    copy_dir(start, before.path());
    copy_dir(start, dir.path());
    let file = folder();
    let trace = file.path().join("trace");
    let mut words: Vec<OsString> =
        ["strace", "-f", "-y", "-xx", "--seccomp-bpf", "-s", STRING_BYTES_MAX, "-e", CALLS].map(Into::into).into();
    words.extend(["-o".into(), trace.clone().into_os_string()]);
    let out = writer::spawn(&words, dir.path(), run, workload).wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let ops = parse(&std::fs::read_to_string(&trace).unwrap(), dir.path());
    assert!(ops.iter().any(|op| matches!(op, Op::SyncEnds(_))), "a run syncs");
    Trace { before, ops }
}

impl Trace {
    /// Makes `dir` what a power cut at some moment leaves; gives what had been said by then.
    pub(crate) fn cut(&self, random: &mut Random, dir: &Path) -> Vec<String> {
        let mut disk = Disk::load(self.before.path());
        let mut said = Vec::new();
        for op in &self.ops[..random.below(self.ops.len() + 1)] {
            match op {
                Op::Say(line) => said.push(line.clone()),
                op => disk.play(op),
            }
        }
        disk.cut(random, dir);
        said
    }
}

/// A change of a file that is not synced.
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    length: usize,
    changes: Vec<Change>,
    syncing: usize,
}

/// A name that was set (to an inode) or removed and is not synced.
struct Naming {
    path: PathBuf,
    inode: Option<usize>,
    /// A rename takes the old name away in the same step.
    from: Option<PathBuf>,
}

#[derive(Default)]
struct Disk {
    inodes: Vec<Inode>,
    durable: BTreeMap<PathBuf, usize>,
    names: BTreeMap<PathBuf, usize>,
    namings: Vec<Naming>,
}

impl Disk {
    fn load(dir: &Path) -> Self {
        let mut disk = Self::default();
        for folder in ["journal", "checkpoints"] {
            for entry in std::fs::read_dir(dir.join(folder)).unwrap() {
                let name = Path::new(folder).join(entry.unwrap().file_name());
                let bytes = std::fs::read(dir.join(&name)).unwrap();
                disk.inodes.push(Inode { length: bytes.len(), durable: bytes, ..Inode::default() });
                disk.durable.insert(name, disk.inodes.len() - 1);
            }
        }
        disk.names = disk.durable.clone();
        disk
    }

    fn play(&mut self, op: &Op) {
        match op {
            Op::Create(path, empties) => {
                let inode = match self.names.get(path) {
                    Some(inode) => *inode,
                    None => {
                        self.inodes.push(Inode::default());
                        let inode = self.inodes.len() - 1;
                        self.name(path, Some(inode), None);
                        inode
                    }
                };
                if *empties {
                    self.inodes[inode].change(Change::Length(0));
                }
            }
            Op::Write { path, at, bytes } => {
                let Some(inode) = self.names.get(path).map(|inode| &mut self.inodes[*inode]) else { return };
                let at = at.unwrap_or(inode.length);
                inode.change(Change::Write { at, bytes: bytes.clone() });
            }
            Op::Length(path, length) => {
                let Some(inode) = self.names.get(path) else { return };
                self.inodes[*inode].change(Change::Length(*length));
            }
            Op::SyncBegins(path) => {
                if let Some(inode) = self.names.get(path) {
                    let inode = &mut self.inodes[*inode];
                    inode.syncing = inode.changes.len();
                }
            }
            Op::SyncEnds(path) => self.sync(path),
            Op::Rename(from, to) => {
                let Some(inode) = self.names.remove(from) else { return };
                self.name(to, Some(inode), Some(from.clone()));
            }
            Op::Unlink(path) => self.name(path, None, None),
            Op::Say(_) => {}
        }
    }

    fn name(&mut self, path: &Path, inode: Option<usize>, from: Option<PathBuf>) {
        match inode {
            Some(inode) => self.names.insert(path.to_owned(), inode),
            None => self.names.remove(path),
        };
        self.namings.push(Naming { path: path.to_owned(), inode, from });
    }

    fn sync(&mut self, path: &Path) {
        if let Some(inode) = self.names.get(path) {
            let inode = &mut self.inodes[*inode];
            for change in inode.changes.drain(..inode.syncing) {
                apply(&mut inode.durable, &change, |_| true);
            }
            inode.syncing = 0;
            return;
        }
        // A folder.
        for naming in std::mem::take(&mut self.namings) {
            if naming.path.parent() == Some(path) {
                set_name(&mut self.durable, &naming);
            } else {
                self.namings.push(naming);
            }
        }
    }

    /// Writes what the cut leaves.
    fn cut(mut self, random: &mut Random, dir: &Path) {
        for naming in std::mem::take(&mut self.namings) {
            if random.below(2) == 0 {
                set_name(&mut self.durable, &naming);
            }
        }
        for folder in ["journal", "checkpoints"] {
            std::fs::create_dir(dir.join(folder)).unwrap();
        }
        for (path, inode) in self.durable {
            let Inode { mut durable, changes, .. } = std::mem::take(&mut self.inodes[inode]);
            for change in &changes {
                match random.below(3) {
                    0 => {}
                    1 => apply(&mut durable, change, |_| true),
                    _ => apply(&mut durable, change, |_| random.below(2) == 0),
                }
            }
            std::fs::write(dir.join(path), durable).unwrap();
        }
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        self.length = match &change {
            Change::Write { at, bytes } => self.length.max(at + bytes.len()),
            Change::Length(length) => *length,
        };
        self.changes.push(change);
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, usize>, naming: &Naming) {
    if let Some(from) = &naming.from {
        names.remove(from);
    }
    match naming.inode {
        Some(inode) => drop(names.insert(naming.path.clone(), inode)),
        None => drop(names.remove(&naming.path)),
    }
}

/// Applies a change, of a write those sectors that `keeps` wants.
fn apply(file: &mut Vec<u8>, change: &Change, mut keeps: impl FnMut(usize) -> bool) {
    match change {
        Change::Length(length) => file.resize(*length, 0),
        Change::Write { at, bytes } => {
            file.resize(file.len().max(at + bytes.len()), 0);
            for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if keeps(index) {
                    let from = at + index * SECTOR_BYTES;
                    file[from..from + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }
}

/// Reads strace's lines. A call that another thread's interrupted has two: its writes count from the first, its syncs
/// from the second.
fn parse(text: &str, dir: &Path) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some(call) = rest.strip_suffix("<unfinished ...>") {
            begin(call, dir, &mut ops);
            begun.insert(thread, call);
        } else if rest.starts_with("<... ") {
            if let Some(call) = begun.remove(thread) {
                end(call, dir, &mut ops);
            }
        } else if rest.contains('(') && !rest.contains("= -1 E") {
            begin(rest, dir, &mut ops);
            end(rest, dir, &mut ops);
        }
    }
    ops
}

fn begin(call: &str, dir: &Path, ops: &mut Vec<Op>) {
    let Some((name, rest)) = call.split_once('(') else { return };
    let strings: Vec<Vec<u8>> = rest.split('"').skip(1).step_by(2).map(unescape).collect();
    let inside = |bytes: &[u8]| relative(bytes, dir);
    let open = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| unescape(path));
    let file = open.as_deref().and_then(inside);
    let numbers = |skip: usize| {
        let mut words = rest.rsplit_once(')').map_or(rest, |(words, _)| words).rsplit(',').map(str::trim);
        words.nth(skip).and_then(|word| word.parse::<usize>().ok())
    };
    match (name, strings.first(), file) {
        ("write", Some(bytes), _) if rest.starts_with("1<") => {
            let text = String::from_utf8_lossy(bytes).into_owned();
            ops.extend(text.lines().map(|line| Op::Say(line.to_owned())));
        }
        ("write", Some(bytes), Some(path)) => ops.push(Op::Write { path, at: None, bytes: bytes.clone() }),
        ("pwrite64", Some(bytes), Some(path)) => ops.push(Op::Write { path, at: numbers(0), bytes: bytes.clone() }),
        ("ftruncate", None, Some(path)) => ops.push(Op::Length(path, numbers(0).unwrap())),
        ("fsync" | "fdatasync", None, Some(path)) => ops.push(Op::SyncBegins(path)),
        ("openat", Some(path), _) if rest.contains("O_CREAT") => {
            ops.extend(inside(path).map(|path| Op::Create(path, rest.contains("O_TRUNC"))));
        }
        ("rename", Some(from), _) => {
            let to = strings.get(1).and_then(|to| inside(to));
            ops.extend(inside(from).zip(to).map(|(from, to)| Op::Rename(from, to)));
        }
        ("unlink", Some(path), _) => ops.extend(inside(path).map(Op::Unlink)),
        _ => {}
    }
}

fn end(call: &str, dir: &Path, ops: &mut Vec<Op>) {
    let Some((name, rest)) = call.split_once('(') else { return };
    if !["fsync", "fdatasync"].contains(&name) {
        return;
    }
    let open = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| unescape(path));
    ops.extend(open.as_deref().and_then(|path| relative(path, dir)).map(Op::SyncEnds));
}

fn relative(path: &[u8], dir: &Path) -> Option<PathBuf> {
    let path = PathBuf::from(String::from_utf8_lossy(path).into_owned());
    let inside = path.strip_prefix(dir).ok()?.to_owned();
    (!inside.as_os_str().is_empty()).then_some(inside)
}

/// strace writes `\x2f` for each byte.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("\\x") {
        let (digits, later) = after.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        rest = later;
    }
    if bytes.is_empty() { text.as_bytes().to_vec() } else { bytes }
}
