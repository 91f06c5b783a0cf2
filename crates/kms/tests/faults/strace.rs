//! The writer under `strace`: which system calls it makes on its files, and runs with an error or a kill at one of them.
//!
//! strace counts the calls of each thread by themselves; `when=N` therefore may hit one call in each of several threads.
//! A run with any hit counts as one fault.

use super::folder;
use super::judge::Restarted;
use super::writer::{self, Workload};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

/// Everything that the journal and the signer ask of the file system.
const CALLS: &[&str] = &[
    "openat",
    "read",
    "write",
    "pread64",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "rename",
    "unlink",
    "statx",
    "fstat",
    "newfstatat",
    "flock",
    "getdents64",
];
/// Segments that a run may come to.
const SEGMENTS: usize = 12;
const KILL: &str = "signal=SIGKILL";
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// A fault: the `when`th call of this name in a thread.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    call: &'static str,
    when: usize,
    fault: &'static str,
}

impl Point {
    /// As strace wants it.
    pub(crate) fn inject(&self) -> String {
        format!("inject={}:{}:when={}", self.call, self.fault, self.when)
    }
}

/// What makes sense for a call. EINTR is what a signal does to a call that can be begun again: it must not show.
fn faults(call: &str) -> &'static [&'static str] {
    match call {
        "pwrite64" | "write" | "fallocate" | "ftruncate" => {
            &["error=EIO", "error=ENOSPC", "error=EROFS", "error=EDQUOT", "error=EINTR", KILL]
        }
        "fsync" | "fdatasync" => &["error=EIO", "error=ENOSPC", "error=EINTR", KILL],
        "openat" | "rename" | "unlink" => &["error=EIO", "error=ENOSPC", "error=EROFS", KILL],
        _ => &["error=EIO", KILL],
    }
}

/// How a run ended.
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) said: Vec<String>,
    /// Calls that strace changed, as it wrote them.
    hits: Vec<String>,
    errors: String,
}

/// All places for a fault, from a run without.
pub(crate) fn points(start: &Path, workload: Workload) -> Vec<Point> {
    let dir = folder();
    super::copy_dir(start, dir.path());
    let outcome = traced(dir.path(), 0, workload, None);
    assert!(outcome.status.success(), "{}", outcome.errors);
    let trace = std::fs::read_to_string(dir.path().join("trace")).unwrap();
    let mut counts: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if let Some(call) = CALLS.iter().find(|call| **call == name) {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&'static str, usize> = BTreeMap::new();
    for ((_, call), count) in counts {
        let largest = most.entry(call).or_default();
        *largest = count.max(*largest);
    }
    let mut points = Vec::new();
    for (call, count) in most {
        for when in 1..=count {
            points.extend(faults(call).iter().map(|fault| Point { call, when, fault }));
        }
    }
    points
}

/// Runs the writer with one fault.
pub(crate) fn run(dir: &Path, run: u64, workload: Workload, point: &Point) -> Outcome {
    traced(dir, run, workload, Some(point))
}

fn traced(dir: &Path, run: u64, workload: Workload, point: Option<&Point>) -> Outcome {
    let trace = dir.join("trace");
    let mut words: Vec<OsString> = ["strace", "-f", "-y", "-s", "0", "-o"].map(Into::into).into();
    words.push(trace.clone().into());
    for path in paths(dir) {
        words.extend(["-P".into(), path]);
    }
    let names: Vec<String> = CALLS.iter().map(|call| format!("?{call}")).collect();
    words.extend(["-e".into(), format!("trace={}", names.join(",")).into()]);
    let kills = point.is_some_and(|point| point.fault == KILL);
    if !kills {
        // Other calls then cost nothing; but strace 6.1 delivers no signals with it.
        words.insert(1, "--seccomp-bpf".into());
    }
    if let Some(point) = point {
        words.extend(["-e".into(), point.inject().into()]);
    }
    let out = writer::spawn(&words, dir, run, workload).wait_with_output().unwrap();
    let text = std::fs::read_to_string(&trace).unwrap();
    let killed = kills && text.contains("killed by SIGKILL");
    let mut hits: Vec<String> = text.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect();
    hits.extend(killed.then(|| "killed".to_owned()));
    Outcome {
        status: out.status,
        said: String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect(),
        hits,
        errors: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// strace takes calls by exact path.
fn paths(dir: &Path) -> Vec<OsString> {
    let journal = dir.join("journal");
    let segments = (0..SEGMENTS).map(|number| journal.join(format!("segment-{number:020}.ktj")));
    let checkpoints = dir.join("checkpoints");
    let names = ["latest", "latest.tmp", "head", "head.tmp", "signer.key", "vkey"];
    let mut paths: Vec<OsString> = segments.map(Into::into).collect();
    paths.extend(names.map(|name| checkpoints.join(name).into_os_string()));
    paths.extend(["head", "segment.tmp", "start", "start.tmp"].map(|name| journal.join(name).into_os_string()));
    paths.extend([journal.into_os_string(), checkpoints.into_os_string()]);
    paths
}

/// Judges how the process ended: what may have lost a record ends it, what passes by itself does not.
pub(crate) fn judge_end(case: &str, point: &Point, outcome: &Outcome) {
    let Outcome { status, hits, errors, said } = outcome;
    match status.signal() {
        // strace ends itself as the process it ran ended.
        Some(SIGKILL) => assert_eq!(point.fault, KILL, "{case}: {errors}"),
        Some(SIGABRT) => assert!(point.fault.starts_with("error="), "{case}: {errors}"),
        Some(signal) => panic!("{case}: ended by signal {signal}: {errors}"),
        None => assert!(matches!(status.code(), Some(0 | 3)), "{case}: {status} {errors}"),
    }
    if point.fault == "error=EINTR" {
        assert!(status.success(), "{case}: an interrupted call is begun again: {hits:?} {errors}");
    }
    // A call whose failure leaves it open what is on the disk.
    let doubt = |hit: &&String| {
        let in_journal = hit.contains("/journal/segment-") && !hit.contains("/journal/segment.tmp");
        in_journal && ["pwrite64(", "fsync(", "fdatasync("].iter().any(|call| hit.contains(call))
    };
    if point.fault != "error=EINTR" && hits.iter().any(|hit| doubt(&hit)) {
        assert!(!status.success(), "{case}: went on after {hits:?}");
    }
    let full = ["error=ENOSPC", "error=EDQUOT"].contains(&point.fault);
    if full && !hits.is_empty() && hits.iter().all(|hit| hit.contains("/journal/segment.tmp")) && !said.is_empty() {
        let opened = said.iter().any(|line| line.starts_with("ack "));
        assert!(status.success() || !opened, "{case}: a full disk passes: {status} {hits:?} {errors}");
    }
}

/// What was run.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) hits: usize,
    missed: usize,
    by_fault: BTreeMap<String, usize>,
    ended: usize,
    went_on: usize,
    torn: usize,
}

impl Tally {
    pub(crate) fn count(&mut self, point: &Point, outcome: &Outcome, restarted: &Restarted) {
        if outcome.hits.is_empty() {
            self.missed += 1;
            return;
        }
        self.hits += 1;
        *self.by_fault.entry(format!("{} {}", point.call, point.fault)).or_default() += 1;
        if outcome.status.success() {
            self.went_on += 1
        } else {
            self.ended += 1
        }
        self.torn += usize::from(restarted.dropped);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, missed, by_fault, ended, went_on, torn } = self;
        writeln!(f, "{hits} faults injected and judged ({missed} more runs met no call to fail)")?;
        writeln!(f, "the process ended: {ended}, went on: {went_on}; a torn batch was dropped: {torn}")?;
        by_fault.iter().try_for_each(|(fault, count)| writeln!(f, "  {fault}: {count}"))
    }
}
