//! Takes a set from a folder whose node may be running: it reads only, and holds up nobody.
//!
//! The order is what makes the set consistent. Whatever follows the log is copied before it (responder, then trail, then
//! lake, by the caller), so that nothing in the set has seen more than the set's journal. Then the signer's files, then
//! one snapshot of the store, and the journal last: up to what was durable when the snapshot was begun, or to where the
//! snapshot says that rows of its outbox were deleted for, whichever is later. All that far was durable, and a change commits to the
//! store before its event goes to the journal: so the store knows every change in the journal, and what the journal lacks
//! is in the outbox. Start-up finds what a crash at that moment would have left.

use super::{BackupError, MANIFEST_NAME, MANIFEST_VERSION, Manifest, SetFile, empty_folder, failed, make_folder};
use crate::chain::VerifyKey;
use crate::crypto::{Seal, find_root_key};
use crate::gap::FORMER_NAME;
use crate::journal::{JournalError, Reader, START_NAME, copy_first};
use crate::signer::{
    COSIGNED_NAME, CheckpointSigner, GAP_NAME, HEAD_NAME, KEY_NAME, LATEST_NAME, LocalSigner, SUCCESSOR_NAME,
    SignedHead, TRANSITIONS_NAME, VKEY_NAME, replace,
};
use crate::store::{RECORDED_THROUGH, StoreError, meta_number, meta_text};
use crate::tiles::TILES_NAME;
use crate::verify::{Verdict, verify_folder};
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a database may be locked by somebody else.
const BUSY: Duration = Duration::from_secs(10);
/// How long a signer elsewhere may take for a note over what is durable now; a node asks it each second.
const SIGNER: Duration = Duration::from_secs(10);
const SIGNER_POLL: Duration = Duration::from_millis(50);
/// Files of the folder beside store, journal and signer. Not `break-glass`, which belongs elsewhere and whose secret is in
/// the store, sealed.
const FILES: &[&str] = &["keytrail.toml", "identities.toml", "credentials", "service-credentials"];

/// A set in the making. Without a manifest it is none.
pub struct Taking {
    from: PathBuf,
    to: PathBuf,
}

impl Taking {
    /// Starts a set of the data folder `from` in `to`, which must be absent or empty.
    pub fn begin(from: &Path, to: &Path) -> Result<Self, BackupError> {
        empty_folder(to)?;
        Ok(Self { from: from.to_owned(), to: to.to_owned() })
    }

    /// A snapshot of a database; one that is absent is left out.
    pub fn database(&self, name: &str) -> Result<(), BackupError> {
        let (from, to) = (self.from.join(name), self.to.join(name));
        if !from.exists() {
            return Ok(());
        }
        let database = |source| BackupError::Database { path: from.clone(), source };
        make_folder(to.parent().unwrap_or(&self.to))?;
        // SQLite fills an empty file, and so keeps the mode that this one has.
        create(&to)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&from, flags).map_err(database)?;
        connection.busy_timeout(BUSY).map_err(database)?;
        // What was deleted is not in the copy, not even in free pages.
        connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(database)?;
        File::open(&to).and_then(|file| file.sync_all()).map_err(failed("sync", &to))
    }

    /// A file as it is; false when there is none.
    pub fn file(&self, path: &str) -> Result<bool, BackupError> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        let mut source = match File::open(&from) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &from)(error)),
        };
        make_folder(to.parent().unwrap_or(&self.to))?;
        let mut copy = create(&to)?;
        io::copy(&mut source, &mut copy).map_err(failed("copy to", &to))?;
        copy.sync_all().map_err(failed("sync", &to))?;
        Ok(true)
    }

    /// A folder with all that is in it; one that is absent is left out.
    pub fn folder(&self, path: &str) -> Result<(), BackupError> {
        let from = self.from.join(path);
        let paths = if from.is_dir() { files_below(&from, path)? } else { Vec::new() };
        paths.iter().try_for_each(|path| self.file(path).map(|_| ()))
    }

    /// Store, journal and signer as of one size of the log, then the manifest. `with_root_key` puts a root key into the
    /// set that lies bare; one that is sealed by a passphrase always goes along.
    pub fn finish(self, with_root_key: bool, taken_at_micros: u64) -> Result<Manifest, BackupError> {
        FILES.iter().try_for_each(|path| self.file(path).map(|_| ()))?;
        // Tiles can be made anew of a whole journal only. Before its end is looked at: they must not be ahead of it.
        let pruned = self.from.join("journal").join(START_NAME).exists();
        if pruned {
            self.folder(TILES_NAME)?;
        }
        self.folder("rules")?;
        self.folder(FORMER_NAME)?;
        // The newest note before the signer's memory, as everywhere.
        for name in
            [COSIGNED_NAME, LATEST_NAME, HEAD_NAME, KEY_NAME, SUCCESSOR_NAME, VKEY_NAME, TRANSITIONS_NAME, GAP_NAME]
        {
            self.file(&format!("checkpoints/{name}"))?;
        }
        // The note may be a moment ahead of `journal/head`, which is written after the batch it tells of.
        let signed = SignedHead::read(&self.to.join("checkpoints"))?.map_or(0, |head| head.size);
        let durable = Reader::open(&self.from.join("journal"), 0)?.durable()?.max(signed);
        self.database("kms.db")?;
        let store = Connection::open_with_flags(self.to.join("kms.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(StoreError::from)?;
        let recorded = meta_number(&store, RECORDED_THROUGH)?.ok_or(BackupError::NeverStarted)?;
        // What the store knows of uses must not be ahead of the set's journal either.
        let used = meta_number(&store, "usage_through_seq")?.map_or(0, |seq| seq + 1);
        let next_seq = durable.max(recorded + 1).max(used);
        let text = |name| meta_text(&store, name)?.ok_or(StoreError::Row { table: "meta" });
        let (origin, root_key_id) = (text("origin")?, text("root_key_id")?);
        drop(store);
        let journal = self.to.join("journal");
        make_folder(&journal)?;
        // Notes are over whole batches, as the copy is.
        let note = self.note_of_signer(next_seq)?;
        let next_seq = note.as_ref().map_or(next_seq, |(size, _)| *size);
        let tree = copy_first(&self.from.join("journal"), &journal, next_seq)?;
        if !pruned && journal.join(START_NAME).exists() {
            return Err(JournalError::PrunedMeanwhile.into());
        }
        let (size, root) = (tree.size(), tree.root());
        // Under the log's own key, over a true part of the log: the set needs nothing else to prove itself, and its
        // signer cannot be brought to sign less.
        let checkpoint = match note {
            Some((_, note)) => {
                let checkpoints = self.to.join("checkpoints");
                SignedHead { size, root }.write(&checkpoints)?;
                replace(&checkpoints, LATEST_NAME, note.as_bytes(), 0o600)?;
                note
            }
            None => LocalSigner::open(&self.to.join("checkpoints"))?.sign(size, root)?,
        };
        let root_key = self.root_key(&root_key_id, with_root_key)?;
        let report = verify_folder(&self.to, |_| ());
        if report.verdict != Verdict::Verified {
            return Err(BackupError::Unverified(format!("{:?}", report.verdict)));
        }
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            log: report.log.map(|log| log.to_string()).unwrap_or_default(),
            origin,
            size,
            root_hash: root.to_string(),
            checkpoint,
            taken_at_micros,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            root_key_id,
            root_key_included: root_key,
            files: self.hashed()?,
        };
        self.write_manifest(&manifest)?;
        Ok(manifest)
    }

    /// Where the signer's key is in a folder of its own, which no set goes near: the node's next note over at least so
    /// many records.
    fn note_of_signer(&self, next_seq: u64) -> Result<Option<(u64, String)>, BackupError> {
        if self.to.join("checkpoints").join(KEY_NAME).exists() {
            return Ok(None);
        }
        let path = self.from.join("checkpoints").join(VKEY_NAME);
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        let key: VerifyKey = text.trim_end().parse().map_err(BackupError::Note)?;
        let end = Instant::now() + SIGNER;
        loop {
            let path = self.from.join("checkpoints").join(LATEST_NAME);
            let note = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
            let size = key.verify(&note).map_err(BackupError::Note)?.size;
            if size >= next_seq {
                return Ok(Some((size, note)));
            }
            if Instant::now() >= end {
                return Err(BackupError::Unsigned { size, wanted: next_seq });
            }
            std::thread::sleep(SIGNER_POLL);
        }
    }

    /// The file of the root key that the set's store was written under; refuses the set when that was replaced meanwhile.
    fn root_key(&self, id: &str, bare_too: bool) -> Result<bool, BackupError> {
        let Some((file, seal)) = find_root_key(&self.from.join("root.key"), id)? else { return Ok(false) };
        let wanted = bare_too || seal != Seal::File;
        if wanted {
            let to = self.to.join("root.key");
            let written = create(&to)?.write_all(&file).and_then(|()| File::open(&to)?.sync_all());
            written.map_err(failed("write", &to))?;
        }
        Ok(wanted)
    }

    fn hashed(&self) -> Result<Vec<SetFile>, BackupError> {
        let mut paths = files_below(&self.to, "")?;
        paths.sort();
        let hash = |path: String| -> Result<SetFile, BackupError> {
            let full = self.to.join(&path);
            let mut hasher = blake3::Hasher::new();
            let file = File::open(&full).map_err(failed("open", &full))?;
            hasher.update_reader(file).map_err(failed("read", &full))?;
            Ok(SetFile { path, bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
        };
        paths.into_iter().map(hash).collect()
    }

    fn write_manifest(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let path = self.to.join(MANIFEST_NAME);
        let text = serde_json::to_string_pretty(manifest).expect("a manifest is plain data");
        let mut file = create(&path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", &path))?;
        File::open(&self.to).and_then(|folder| folder.sync_all()).map_err(failed("sync", &self.to))
    }
}

fn create(path: &Path) -> Result<File, BackupError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(failed("create", path))
}

/// Paths of all files below a folder, each behind `prefix`. Links and the like are left out.
fn files_below(folder: &Path, prefix: &str) -> Result<Vec<String>, BackupError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().map_err(failed("look at", &entry.path()))?;
        if kind.is_dir() {
            paths.extend(files_below(&entry.path(), &path)?);
        } else if kind.is_file() {
            paths.push(path);
        }
    }
    Ok(paths)
}
