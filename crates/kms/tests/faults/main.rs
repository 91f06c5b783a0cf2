//! Faults under the journal and the signer: errors and kills at each of their system calls, and power cuts.
//!
//! A process of its own (`writer`, this same binary) appends records and signs heads; what it acknowledged it has
//! printed. After each fault the folder is opened without faults and judged (`judge`): every acknowledged record is
//! there exactly once, under its seq; every signed head is the log's; `verify` says VERIFIED. KEYTRAIL_FAULTS is the
//! number of faults wanted of each kind (docs/faults.md); a failure prints what to run again.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod judge;
mod power;
mod strace;
mod surroundings;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// Faults of each kind without KEYTRAIL_FAULTS: some seconds.
const FAULTS: usize = 250;
const WORKLOADS: [writer::Workload; 3] =
    [writer::Workload::Alone, writer::Workload::Together, writer::Workload::Pruning];
/// Processes that are under test at a time.
const WORKERS: usize = 2;

fn faults_wanted() -> usize {
    std::env::var("KEYTRAIL_FAULTS").map_or(FAULTS, |text| text.parse().expect("KEYTRAIL_FAULTS is a number"))
}

/// A folder in memory where there is one: a fault's place does not depend on the disk, its speed does.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Numbers that look random and come again with the same seed.
struct Random(u64);

impl Random {
    /// Below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// Runs `work` on each job in some threads.
fn on_each<J: Sync>(jobs: &[J], work: impl Fn(&J) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(job);
                }
            });
        }
    });
}

/// Folders to start from: a new log, and one that a former run left with two segments.
fn starts() -> Vec<(&'static str, TempDir)> {
    let fresh = folder();
    judge::create(fresh.path());
    let grown = folder();
    copy_dir(fresh.path(), grown.path());
    let run = writer::spawn(&[], grown.path(), 0, writer::Workload::Alone).wait_with_output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    vec![("new log", fresh), ("log of a former run", grown)]
}

#[test]
fn an_error_or_a_kill_at_any_system_call_loses_and_doubles_nothing() {
    let starts = starts();
    let mut points = Vec::new();
    for (at, (_, start)) in starts.iter().enumerate() {
        for workload in WORKLOADS {
            points.extend(strace::points(start.path(), workload).into_iter().map(|point| (at, workload, point)));
        }
    }
    println!("{} places for a fault in {} starts", points.len(), starts.len());
    // All places where there are enough faults for it, else an even choice; then again with other records.
    let (wanted, mut random) = (faults_wanted(), Random(1));
    for at in (1..points.len()).rev() {
        points.swap(at, random.below(at + 1));
    }
    let jobs: Vec<_> = points.iter().cycle().take(wanted).zip(1_u64..).collect();
    let tally = Mutex::new(strace::Tally::default());
    on_each(&jobs, |((at, workload, point), run)| {
        let dir = folder();
        copy_dir(starts[*at].1.path(), dir.path());
        let case = format!("{} {workload:?} run {run} {}", starts[*at].0, point.inject());
        let outcome = strace::run(dir.path(), *run, *workload, point);
        strace::judge_end(&case, point, &outcome);
        let restarted = judge::restart(&case, dir.path(), &outcome.said);
        tally.lock().unwrap().count(point, &outcome, &restarted);
    });
    let tally = tally.into_inner().unwrap();
    println!("{tally}");
    assert!(tally.hits * 4 >= jobs.len() * 3, "places move between runs, but not by a quarter");
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_synced() {
    let wanted = faults_wanted();
    let mut cuts = 0;
    let mut round = 0;
    let mut dropped = 0;
    while cuts < wanted {
        round += 1;
        for (name, start) in starts() {
            for workload in WORKLOADS {
                let trace = power::record(start.path(), round, workload);
                let jobs: Vec<u64> = (0..wanted.div_ceil(6).min(1_000) as u64).map(|n| round * 1_000_000 + n).collect();
                let torn = AtomicUsize::new(0);
                on_each(&jobs, |seed| {
                    let dir = folder();
                    let said = trace.cut(&mut Random(*seed), dir.path());
                    let case = format!("{name} {workload:?} round {round} seed {seed}");
                    let restarted = judge::restart(&case, dir.path(), &said);
                    torn.fetch_add(usize::from(restarted.dropped), Ordering::Relaxed);
                });
                cuts += jobs.len();
                dropped += torn.into_inner();
            }
        }
    }
    println!("{cuts} power cuts, {dropped} of them left a torn batch");
    // One in fifteen does.
    assert!(dropped > 0 || cuts < 200, "cuts tear batches");
}

/// The model is worth something only if it finds a journal that acknowledges before it syncs.
#[test]
fn power_cuts_find_a_journal_that_does_not_sync() {
    let (_, start) = starts().remove(0);
    let trace = power::record(start.path(), 0, writer::Workload::Unsynced);
    let found = (0..100).filter(|seed| {
        let dir = folder();
        let said = trace.cut(&mut Random(*seed), dir.path());
        // The judge panics; what it says is of no use here.
        std::panic::catch_unwind(|| judge::restart("unsynced", dir.path(), &said)).is_err()
    });
    assert!(found.count() > 50);
}

/// Absolute path of the test binary: the writer's process is this program.
fn own_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}
