//! Errors and kills at the system calls of the real `keytrail kms` (append, seal, checkpoint, store) and `keytrail trail`
//! (land, commit), injected with strace; then a start without faults and the judgement.
//!
//! The journal and the signer alone, and power cuts, are in crates/kms/tests/faults. KEYTRAIL_FAULTS is the number of
//! faults that `make faults` wants there; here a twentieth of it is run, because each takes the start of a whole service.

use crate::support::{Caller, Folder, keytrail, wait_for};
use keytrail_kms::journal::Reader;
use keytrail_kms::verify::{Verdict, verify_folder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs of each part without KEYTRAIL_FAULTS.
const RUNS: usize = 40;
const KILL: &str = "signal=SIGKILL";
const SIGABRT: i32 = 6;

fn runs() -> usize {
    std::env::var("KEYTRAIL_FAULTS").map_or(RUNS, |text| text.parse::<usize>().expect("a number") / 20)
}

/// The `when`th call of this name in some thread goes wrong like this.
#[derive(Clone, Debug)]
struct Point {
    call: &'static str,
    when: usize,
    fault: &'static str,
}

impl Point {
    fn inject(&self) -> String {
        format!("inject={}:{}:when={}", self.call, self.fault, self.when)
    }
}

/// A part of Keytrail with the calls that matter to it.
struct Part {
    name: &'static str,
    calls: &'static [&'static str],
    /// Only calls on these files count; all calls where there is none.
    paths: fn(&Path) -> Vec<PathBuf>,
}

const KMS: Part = Part {
    name: "kms",
    calls: &[
        "openat",
        "write",
        "pwrite64",
        "fsync",
        "fdatasync",
        "ftruncate",
        "fallocate",
        "rename",
        "unlink",
        "statx",
    ],
    paths: |dir| {
        let journal = dir.join("journal");
        let mut paths: Vec<_> = (0..8).map(|n| journal.join(format!("segment-{n:020}.ktj"))).collect();
        paths.extend([journal.join("head"), journal.join("segment.tmp"), journal]);
        paths.extend(["kms.db", "kms.db-wal", "checkpoints"].map(|name| dir.join(name)));
        paths.extend(["head", "head.tmp", "latest", "latest.tmp"].map(|name| dir.join("checkpoints").join(name)));
        paths
    },
};

/// Names of the lake's files hold their digests, so no path can be told beforehand: these calls on any file.
const TRAIL: Part = Part {
    name: "trail",
    calls: &["mkdir", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "link", "linkat", "unlink", "flock"],
    paths: |_| Vec::new(),
};

/// How a run under strace ended.
struct Run {
    status: ExitStatus,
    trace: String,
    hits: Vec<String>,
}

/// A part that runs under strace.
struct Traced {
    child: Child,
    trace: PathBuf,
    /// None: it ended before it was ready.
    ready: Option<String>,
    kills: bool,
    _folder: tempfile::TempDir,
}

impl Traced {
    fn start(part: &Part, dir: &Path, arguments: &[&str], point: Option<&Point>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("trace");
        let kills = point.is_some_and(|point| point.fault == KILL);
        let mut command = Command::new("strace");
        // As its grandchild: the process under test is ours to signal and to wait for.
        command.args(["-D", "-f", "-y", "-s", "0", "-o"]).arg(&trace);
        if !kills {
            // Other calls then cost nothing; but strace 6.1 delivers no signals with it.
            command.arg("--seccomp-bpf");
        }
        for path in (part.paths)(dir) {
            command.arg("-P").arg(path);
        }
        let calls: Vec<String> = part.calls.iter().map(|call| format!("?{call}")).collect();
        command.args(["-e", &format!("trace={}", calls.join(","))]);
        if let Some(point) = point {
            command.args(["-e", &point.inject()]);
        }
        command.arg(keytrail().get_program()).args(arguments).arg("--data").arg(dir);
        command.env("KEYTRAIL_LOG", "error").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("start strace: run `make test`, which installs it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ready = lines.find(|line| line.starts_with("ready "));
        // What it says later is of no use, but a closed pipe would be one fault more.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, trace, ready, kills, _folder: folder }
    }

    /// Asks it to stop, if it has not ended by itself.
    fn stop(mut self) -> Run {
        let pid = self.child.id();
        if self.child.try_wait().unwrap().is_none() {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let status = wait_for("the process under strace to end", || self.child.try_wait().unwrap());
        let trace = wait_for("the end of the trace", || {
            let text = std::fs::read_to_string(&self.trace).unwrap();
            let ended = |line: &str| line.starts_with(&pid.to_string()) && line.contains("+++ ");
            text.lines().any(ended).then_some(text)
        });
        let mut hits: Vec<_> = trace.lines().filter(|line| line.contains("(INJECTED)")).map(str::to_owned).collect();
        hits.extend((self.kills && trace.contains("killed by SIGKILL")).then(|| "killed".to_owned()));
        Run { status, trace, hits }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All places for a fault in a trace, in an order that looks random.
fn points(part: &Part, trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<(&str, &'static str), usize> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(char::is_whitespace) else { continue };
        let name = rest.trim_start().split('(').next().unwrap_or_default();
        if let Some(call) = part.calls.iter().find(|call| **call == name) {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&'static str, usize> = BTreeMap::new();
    counts.into_iter().for_each(|((_, call), count)| {
        let largest = most.entry(call).or_default();
        *largest = count.max(*largest);
    });
    let faults = ["error=EIO", "error=ENOSPC", "error=EROFS", KILL];
    let mut points = Vec::new();
    for (call, count) in most {
        points.extend((1..=count).flat_map(|when| faults.map(|fault| Point { call, when, fault })));
    }
    let mut state = 1_u64;
    for at in (1..points.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        points.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
    }
    points
}

/// A folder whose journal has the smallest segments.
fn template() -> Folder {
    let folder = Folder::with_people();
    let file = folder.path().join("keytrail.toml");
    let config = std::fs::read_to_string(&file).unwrap().replace("\"64 MiB\"", "\"1 MiB\"");
    assert!(config.contains("1 MiB"), "{config}");
    std::fs::write(&file, config).unwrap();
    folder
}

/// Calls of an administrator that fill more than a segment; gives the request ids that must be recorded.
fn load(endpoint: &str, folder: &Folder) -> Vec<String> {
    let admin = Caller::new(endpoint, folder.administrator());
    let mut answered = Vec::new();
    let mut call = |operation: &str, body: Value| match admin.recorded(operation, body) {
        Some((id, body)) => {
            answered.push(id);
            body
        }
        None => Value::Null,
    };
    let key = call("CreateKey", json!({}))["KeyMetadata"]["Arn"].clone();
    let context = json!({ "filler": "f".repeat(4_000) });
    for round in 0..12 {
        let body = json!({ "KeyId": key, "Plaintext": "aGk=", "EncryptionContext": context });
        let blob = call("Encrypt", body)["CiphertextBlob"].clone();
        call("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context }));
        let operation = if round % 2 == 0 { "DisableKey" } else { "EnableKey" };
        call(operation, json!({ "KeyId": key }));
    }
    answered
}

/// Every answered call has one event, none has two, and the folder verifies.
fn judge(case: &str, folder: &Folder, answered: &[String]) {
    let report = verify_folder(folder.path(), |_| {});
    assert_eq!(report.verdict, Verdict::Verified, "{case}");
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut reader = Reader::open(&folder.path().join("journal"), 0).unwrap();
    for frame in reader.next(100_000).unwrap() {
        let payload: Value = serde_json::from_slice(&frame.payload).unwrap();
        if let Some(id) = payload["requestID"].as_str() {
            *seen.entry(id.to_owned()).or_default() += 1;
        }
    }
    for id in answered {
        assert_eq!(seen.get(id), Some(&1), "{case}: events of answered request {id}");
    }
    assert!(seen.values().all(|count| *count == 1), "{case}: a request has two events");
}

fn kms_run(template: &Folder, point: Option<&Point>) -> Run {
    let folder = template.copy();
    let case = point.map_or_else(|| "no fault".to_owned(), |point| format!("kms {}", point.inject()));
    let traced = Traced::start(&KMS, folder.path(), &["kms", "--listen", "127.0.0.1:0"], point);
    let endpoint =
        traced.ready.as_deref().and_then(|line| line.split_whitespace().find_map(|w| w.strip_prefix("kms=")));
    let answered = endpoint.map(|endpoint| load(endpoint, &folder)).unwrap_or_default();
    let run = traced.stop();
    let doubt = |hit: &&String| {
        let segment = hit.contains("/journal/segment-") && !hit.contains("/journal/segment.tmp");
        segment && ["pwrite64(", "fsync(", "fdatasync("].iter().any(|call| hit.contains(call))
    };
    if run.hits.iter().any(|hit| doubt(&hit)) {
        assert!(!run.status.success(), "{case}: went on after {:?}", run.hits);
    }
    if let Some(SIGABRT) = run.status.signal() {
        // Of a call that another thread's output interrupts, strace's second half has no path.
        let journal = |hit: &String| hit.contains("/journal/") || hit.contains(" resumed>");
        assert!(run.hits.iter().any(journal), "{case}: aborted after {:?}", run.hits);
    }
    let again = folder_service(&folder, "kms", &["--listen", "127.0.0.1:0"]);
    let admin = Caller::new(&again.field("kms"), folder.administrator());
    admin.call("ListKeys", json!({})).unwrap_or_else(|error| panic!("{case}: {error}"));
    again.stop();
    judge(&case, &folder, &answered);
    run
}

fn folder_service(folder: &Folder, part: &str, arguments: &[&str]) -> crate::support::Running {
    let mut command = keytrail();
    command.arg(part).args(arguments).arg("--data").arg(folder.path()).env("KEYTRAIL_LOG", "error");
    crate::support::Running::start(&mut command)
}

fn trail_run(written: &Folder, records: u64, point: Option<&Point>) -> Run {
    let folder = written.copy();
    let case = point.map_or_else(|| "no fault".to_owned(), |point| format!("trail {}", point.inject()));
    let run = Traced::start(&TRAIL, folder.path(), &["trail"], point).stop();
    folder_service(&folder, "trail", &[]).stop();
    let rows = folder.sql("SELECT count(*) AS n, count(DISTINCT seq) AS seqs, max(seq) AS last FROM records");
    let expected = json!({ "n": records, "seqs": records, "last": records - 1 });
    assert_eq!(rows, [expected], "{case}");
    let answers =
        folder.sql("SELECT request_id FROM events WHERE request_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1");
    assert!(answers.is_empty(), "{case}: {answers:?}");
    run
}

/// Runs each of the first points in two threads; prints what was met.
fn on_points(part: &Part, points: &[Point], run: impl Fn(&Point) -> Run + Sync) {
    let wanted: Vec<&Point> = points.iter().cycle().take(runs()).collect();
    let (next, hits) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(point) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let met = !run(point).hits.is_empty();
                    hits.fetch_add(usize::from(met), Ordering::Relaxed);
                }
            });
        }
    });
    let hits = hits.into_inner();
    println!("{}: {} places, {} runs, {hits} faults injected and judged", part.name, points.len(), wanted.len());
    assert!(hits * 2 > wanted.len(), "most places are met again");
}

#[test]
fn the_service_loses_and_doubles_nothing_whatever_call_fails() {
    let template = template();
    let whole = kms_run(&template, None);
    assert!(whole.status.success() && whole.hits.is_empty());
    on_points(&KMS, &points(&KMS, &whole.trace), |point| kms_run(&template, Some(point)));
}

#[test]
fn the_trail_lands_everything_once_whatever_call_fails() {
    let written = template();
    let kms = folder_service(&written, "kms", &["--listen", "127.0.0.1:0"]);
    load(&kms.field("kms"), &written);
    kms.stop();
    let records = verify_folder(written.path(), |_| {}).records;
    let whole = trail_run(&written, records, None);
    assert!(whole.status.success() && whole.hits.is_empty());
    on_points(&TRAIL, &points(&TRAIL, &whole.trace), |point| trail_run(&written, records, Some(point)));
}
