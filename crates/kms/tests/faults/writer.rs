//! The process under test: a journal and its signer, as a node uses them, and nothing else.
//!
//! It prints a line for what it promised: `ack ID SEQ` once a record is durable, `signed SIZE ROOT` for each note.

use super::judge::{journal_options, origin};
use super::own_binary;
use bytes::Bytes;
use keytrail_kms::chain::{Kind, LogId};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::journal::{Bound, Draft, Journal, JournalOptions, PruneBounds, Reader, SubmitError};
use keytrail_kms::signer::{CheckpointSigner, LocalSigner, SignError};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Records of one run; with their payloads they fill three of the smallest segments.
const RECORDS: usize = 48;
/// A head is signed after so many records.
const SIGN_EVERY: usize = 12;
/// Looks for space again before it gives up.
const TRIES_MAX: usize = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// One record at a time: a batch each.
    Alone,
    /// Eight at a time: batches of several.
    Together,
    /// As Alone, and segments go as soon as they are signed for.
    Pruning,
    /// As Alone, without fdatasync: a wrong journal, which the tests must find.
    Unsynced,
}

/// Starts the writer on `dir`; `before` is what to run it under.
pub(crate) fn spawn(before: &[OsString], dir: &Path, run: u64, workload: Workload) -> Child {
    command(before, dir, run, workload).spawn().expect(STARTED)
}

/// Starts it with other than the usual number of records, one at a time.
pub(crate) fn spawn_many(dir: &Path, records: usize) -> Child {
    let mut command = command(&[], dir, 0, Workload::Alone);
    command.env("KEYTRAIL_FAULTS_RECORDS", records.to_string()).spawn().expect(STARTED)
}

const STARTED: &str = "start the writer, where it is asked for under strace: run `make test`, which installs it";

fn command(before: &[OsString], dir: &Path, run: u64, workload: Workload) -> Command {
    let mut words = before.to_vec();
    words.push(own_binary().into_os_string());
    words.extend(["writer::process", "--exact", "--ignored", "--nocapture", "--test-threads=1"].map(OsString::from));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.env("KEYTRAIL_FAULTS_DIR", dir).env("KEYTRAIL_FAULTS_RUN", run.to_string());
    command.env("KEYTRAIL_FAULTS_RECORDS", RECORDS.to_string());
    command.env("KEYTRAIL_FAULTS_TOGETHER", if workload == Workload::Together { "8" } else { "1" });
    if workload == Workload::Pruning {
        command.env("KEYTRAIL_FAULTS_PRUNES", "1");
    }
    if workload == Workload::Unsynced {
        command.env("KEYTRAIL_FAULTS_UNSYNCED", "1");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
#[ignore = "the process that the fault tests start"]
fn process() {
    let Ok(dir) = std::env::var("KEYTRAIL_FAULTS_DIR") else { return };
    let number = |name| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let (run, records) = (number("KEYTRAIL_FAULTS_RUN"), number("KEYTRAIL_FAULTS_RECORDS"));
    // The test runner has begun a line of its own.
    say("");
    if let Err(error) = write(&PathBuf::from(dir), run, records, number("KEYTRAIL_FAULTS_TOGETHER")) {
        eprintln!("{error:?}");
        std::process::exit(3);
    }
}

fn write(dir: &Path, run: usize, records: usize, together: usize) -> Result<(), Box<dyn std::error::Error>> {
    let signer = LocalSigner::open(&dir.join("checkpoints"))?;
    let fdatasync = std::env::var_os("KEYTRAIL_FAULTS_UNSYNCED").is_none();
    let options = JournalOptions { fdatasync, ..journal_options() };
    let (journal, recovered) =
        Journal::open(&dir.join("journal"), LogId::of_origin(origin()), Arc::new(SystemClock), options)?;
    let mut reader = Reader::open(&dir.join("journal"), 0)?;
    signer.compare(&recovered.tree, |block| reader.leaf_hashes(block))?;
    let mut since_signed = 0;
    for first in (0..records).step_by(together) {
        let mut waiting = Vec::new();
        for n in first..(first + together).min(records) {
            let id = format!("{}-{run}-{n}", recovered.epoch);
            let text = format!("{{\"id\":\"{id}\",\"filler\":\"{}\"}}", "x".repeat(200 + n % 7 * 4_000));
            waiting.push((id, submit(&journal, &text)?));
        }
        for (id, pending) in waiting {
            let receipt = pending.wait()?;
            say(&format!("ack {id} {}", receipt.seq));
            since_signed += 1;
        }
        if since_signed >= SIGN_EVERY {
            since_signed = 0;
            sign(&signer, &journal)?;
            if std::env::var_os("KEYTRAIL_FAULTS_PRUNES").is_some() {
                prune(&signer, &journal);
            }
        }
    }
    journal.close();
    sign(&signer, &journal)
}

/// Everything that was signed for may go, as if it had landed. A full disk and the like are told, and tried again.
fn prune(signer: &LocalSigner, journal: &Journal) {
    let below_seq = signer.signed().map_or(0, |head| head.size);
    let bounds = PruneBounds { below_seq, before_us: u64::MAX, landed_next_seq: below_seq, keep_seconds: 0 };
    match journal.prune(bounds) {
        Ok(done) => say(&format!("pruned {}", done.map_or(0, |done| done.minimum_index))),
        Err(_) => say("unpruned"),
    }
}

/// As the node does: an error is told, the next second tries again; a log that contradicts the memory ends it.
fn sign(signer: &LocalSigner, journal: &Journal) -> Result<(), Box<dyn std::error::Error>> {
    match keytrail_kms::signer::sign_head(signer, journal) {
        Ok(note) => {
            let checkpoint = signer.verify_key().verify(&note)?;
            say(&format!("signed {} {}", checkpoint.size, checkpoint.root));
            Ok(())
        }
        Err(error @ (SignError::Shrunk { .. } | SignError::Forked { .. })) => Err(error.into()),
        Err(_) => {
            say("unsigned");
            Ok(())
        }
    }
}

/// A full disk is waited for, as the callers of a node would.
fn submit(journal: &Journal, text: &str) -> Result<keytrail_kms::journal::Pending, Box<dyn std::error::Error>> {
    for _ in 0..TRIES_MAX {
        let draft = Draft::new(Kind::Event, Bytes::copy_from_slice(text.as_bytes()))?;
        match journal.append(draft) {
            Err(SubmitError::Full(Bound::NoSpace)) => {
                say("refused");
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return Ok(result?),
        }
    }
    Err("the disk stayed full".into())
}

/// One line in one write: whoever reads it afterwards has the promise whole or not at all.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent reads");
}
