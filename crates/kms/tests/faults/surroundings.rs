//! Real file systems in trouble: one that fills up, one that turns read-only under the writer, one that is read-only.
//!
//! These mount file systems and therefore need root; who is not is told that they did not run.

use super::writer::{self, Workload};
use super::{folder, judge};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// More than anybody waits for: the run is ended by what the test does.
const RECORDS: usize = 20_000;

/// A mount that ends with the test.
struct Mount {
    _parent: tempfile::TempDir,
    path: PathBuf,
}

impl Mount {
    /// None, and the reason printed, where mounting is not possible.
    fn new(test: &str, arguments: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("{test} DID NOT RUN: mounting a file system needs root");
            return None;
        }
        let parent = folder();
        let path = parent.path().join("mount");
        std::fs::create_dir(&path).unwrap();
        let out = Command::new("mount").args(arguments(parent.path())).arg(&path).output().unwrap();
        if !out.status.success() {
            println!("{test} DID NOT RUN: mount says {}", String::from_utf8_lossy(&out.stderr).trim());
            return None;
        }
        Some(Self { _parent: parent, path })
    }

    fn again(&self, options: &str) {
        let out = Command::new("mount").args(["-o", options]).arg(&self.path).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: what a failed test still holds open must not keep the folder.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Reads what the writer says until `enough`, does `then`, and reads the rest.
fn follow(child: &mut Child, enough: impl Fn(&[String]) -> bool, then: impl FnOnce()) -> Vec<String> {
    let mut said = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !enough(&said) {
        said.push(lines.next().expect("the writer goes on").unwrap());
    }
    then();
    said.extend(lines.map(Result::unwrap));
    said
}

fn acknowledged(said: &[String]) -> usize {
    said.iter().filter(|line| line.starts_with("ack ")).count()
}

#[test]
fn a_disk_that_fills_up_refuses_records_until_there_is_room() {
    let Some(disk) =
        Mount::new("the full disk", |_| ["-t", "tmpfs", "-o", "size=640k", "tmpfs"].map(str::to_owned).into())
    else {
        return;
    };
    judge::create(&disk.path);
    let mut child = writer::spawn(&[], &disk.path, 0, Workload::Alone);
    let full = |said: &[String]| said.iter().any(|line| line == "refused");
    let said = follow(&mut child, full, || disk.again("remount,size=16m"));
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(acknowledged(&said), 48, "every record was taken in the end");
    judge::restart("the full disk", &disk.path, &said);
}

#[test]
fn a_file_system_that_turns_read_only_ends_the_writer() {
    let image = |parent: &Path| {
        let image = parent.join("image");
        std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
        assert!(made.is_ok_and(|status| status.success()), "make an ext4 image");
        vec!["-o".to_owned(), "loop,errors=remount-ro".to_owned(), image.to_str().unwrap().to_owned()]
    };
    let Some(disk) = Mount::new("the read-only remount", image) else { return };
    let source = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&disk.path).output().unwrap();
    let device = String::from_utf8(source.stdout).unwrap().trim().trim_start_matches("/dev/").to_owned();
    let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));
    judge::create(&disk.path);
    let mut child = writer::spawn_many(&disk.path, RECORDS);
    let said = follow(&mut child, |said| acknowledged(said) >= 10, || std::fs::write(&trigger, "a test").unwrap());
    let status = child.wait().unwrap();
    assert!(!status.success(), "went on writing to a read-only file system");
    assert!(acknowledged(&said) < RECORDS);
    // A start on it refuses, and changes nothing.
    let out = writer::spawn(&[], &disk.path, 1, Workload::Alone).wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stderr).contains("ReadOnlyFilesystem"));
    // What was acknowledged is on the disk: looked at elsewhere, as after a repair.
    let copy = folder();
    super::copy_dir(&disk.path.join("journal"), &copy.path().join("journal"));
    super::copy_dir(&disk.path.join("checkpoints"), &copy.path().join("checkpoints"));
    judge::restart("the read-only remount", copy.path(), &said);
}

#[test]
fn a_segment_that_is_deleted_under_the_writer_ends_it_and_the_next_start_refuses() {
    let dir = folder();
    judge::create(dir.path());
    let mut child = writer::spawn_many(dir.path(), RECORDS);
    let newest = || {
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("journal")).unwrap().flatten().collect();
        names.retain(|entry| entry.file_name().to_string_lossy().starts_with("segment-"));
        names.into_iter().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let delete = || newest().iter().for_each(|path| drop(std::fs::remove_file(path)));
    let said = follow(&mut child, |said| acknowledged(said) >= 10, delete);
    let status = child.wait().unwrap();
    assert!(!status.success(), "went on writing to a deleted file");
    assert!(acknowledged(&said) < RECORDS);
    let out = writer::spawn(&[], dir.path(), 1, Workload::Alone).wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(3), "records are gone: {}", String::from_utf8_lossy(&out.stderr));
}
