//! A log that cannot go on ends, and another one begins in its folder, by the word of two operators.
//!
//! What start-up refuses (a journal that is shorter than its signer, a witness or Kafka knows, one that is another, a
//! damaged one, a store that was set back) has one way past it: [`declare`] writes down what is there and what is known
//! to be missing, operators sign that elsewhere, and [`apply`] begins a new log whose first record it is. The former
//! log's files go to `former/<log id>/`, its signing key is destroyed; nothing is ever appended to it again.

use crate::chain::gap::{Gap, GapDeclaration, GapError};
use crate::chain::tree::{RootHash, Tree};
use crate::chain::{Checkpoint, Kind, LogId, SigningKey, VerifyKey};
use crate::clock::Clock;
use crate::event::AuditEvent;
use crate::file::read_bounded;
use crate::journal::{Draft, Journal, JournalError, JournalOptions, Reader, Start, Walk};
use crate::recover::{FolderLock, StartError};
use crate::signer::key_file::{KeyFile, make_folder};
use crate::signer::{
    CheckpointSigner, GAP_NAME, KEY_NAME, LATEST_NAME, LocalSigner, RemoteSigner, SUCCESSOR_NAME, SignError,
    SignedHead, VKEY_NAME, read_keys, replace,
};
use crate::store::{self, CLEAN_THROUGH, RECORDED_THROUGH, StoreError, USAGE_THROUGH};
use crate::tiles::TILES_NAME;
use rusqlite::Connection;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// While this file is in the data folder, a declaration is being applied and no node starts.
pub(crate) const MARKER_NAME: &str = "gap.json";
/// Folder of the logs of before.
pub const FORMER_NAME: &str = "former";
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Why a gap was not declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// The folder.
    #[error("data folder cannot be taken")]
    Start(#[from] StartError),
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("store cannot be read")]
    Store(#[from] StoreError),
    /// The signer's files.
    #[error("keys of the log cannot be used")]
    Sign(#[from] SignError),
    /// The new log's journal.
    #[error("new journal cannot be begun")]
    Journal(#[from] JournalError),
    /// The declaration.
    #[error("declaration counts for nothing")]
    Gap(#[from] GapError),
    /// A note from elsewhere is not one of this log, or an operator's key is none.
    #[error("key or checkpoint cannot be used")]
    Note(#[from] crate::chain::NoteError),
    /// Everything that is known to have been is there.
    #[error("nothing is known to be missing: start the node")]
    Nothing,
    /// The folder is not what was declared.
    #[error("folder is not as it was declared: declare it anew")]
    Changed,
    /// Another declaration is under way.
    #[error("another declaration is being applied: {path}")]
    Another {
        /// Its file.
        path: PathBuf,
    },
    /// The declaration cannot be recorded.
    #[error("declaration cannot be recorded: {0}")]
    Record(String),
    /// The system's random source.
    #[error("system gave no random bytes")]
    Random,
}

/// An operator's key file.
const OPERATOR: KeyFile = KeyFile { name: "operator.key", title: "keytrail operator key v1" };

/// Makes the key of an operator in a folder of theirs; gives its public half, which is in `vkey` there, too.
pub fn make_operator(dir: &Path, name: &str) -> Result<VerifyKey, DeclareError> {
    let (key, pkcs8) = SigningKey::generate(name)?;
    OPERATOR.create(dir, name, &pkcs8)?;
    replace(dir, VKEY_NAME, format!("{}\n", key.verify_key()).as_bytes(), 0o644)?;
    Ok(key.verify_key().clone())
}

/// The key that [`make_operator`] made.
pub fn operator(dir: &Path) -> Result<SigningKey, DeclareError> {
    let (name, pkcs8) = OPERATOR.read(dir)?;
    Ok(SigningKey::from_pkcs8(&name, &pkcs8)?)
}

/// What the folder has of a log, and what is known beyond.
struct Facts {
    key: VerifyKey,
    held: (u64, String),
    known: (u64, Option<String>),
    changes: (u64, u64),
    /// Something contradicts what the folder has.
    missing: bool,
}

/// Writes down what a stopped node has and what it lacks, for operators to sign. `notes` are checkpoints of its log from
/// elsewhere; the folder's own files and a signer that answers count, too.
pub fn declare(
    dir: &Path,
    (notes, signer_socket): (&[String], Option<&Path>),
    reason: &str,
    clock: &dyn Clock,
) -> Result<GapDeclaration, DeclareError> {
    let _lock = FolderLock::take(dir)?;
    let facts = facts(dir, notes, signer_socket)?;
    if !facts.missing {
        return Err(DeclareError::Nothing);
    }
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| DeclareError::Random)?;
    let former = facts.key.name();
    // The node keeps its name; the number at the end of an origin is what tells its logs apart.
    let node = former.rsplit_once('-').map_or(former, |(node, _)| node);
    Ok(GapDeclaration::new(Gap {
        origin: format!("{node}-{}", hex::encode(random)),
        held: facts.held,
        known: facts.known,
        changes: facts.changes,
        former_key: facts.key,
        declared_s: clock.now_us() / 1_000_000,
        reason: reason.to_owned(),
    })?)
}

/// Begins the declared log in the folder of a stopped node, if two of the operators have signed. What a crash leaves is
/// the folder of before, or one that starts only when this has been called again with the same declaration.
pub fn apply(
    dir: &Path,
    declaration: &GapDeclaration,
    operators: &[VerifyKey],
    clock: Arc<dyn Clock>,
) -> Result<(), DeclareError> {
    let _lock = FolderLock::take(dir)?;
    declaration.signers(|key| operators.contains(key))?;
    let marker = dir.join(MARKER_NAME);
    match std::fs::read(&marker) {
        Ok(bytes) if GapDeclaration::parse(&bytes).as_ref() == Ok(declaration) => {}
        Ok(_) => return Err(DeclareError::Another { path: marker }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            still_true(dir, declaration)?;
            replace(dir, MARKER_NAME, declaration.to_json().as_bytes(), 0o600)?;
        }
        Err(error) => return Err(failed("read", &marker)(error)),
    }
    fail::fail_point!("kms::gap_after_marker", |_| std::process::abort());
    put_away(dir, &declaration.former_origin)?;
    fail::fail_point!("kms::gap_after_moves", |_| std::process::abort());
    begin(dir, declaration, clock)?;
    fail::fail_point!("kms::gap_after_record", |_| std::process::abort());
    rename_log(dir, declaration)?;
    fail::fail_point!("kms::gap_after_names", |_| std::process::abort());
    std::fs::remove_file(&marker).map_err(failed("remove", &marker))?;
    sync(dir)
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeclareError {
    let path = path.to_owned();
    move |source| DeclareError::Io { step, path, source }
}

fn sync(dir: &Path) -> Result<(), DeclareError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn facts(dir: &Path, notes: &[String], signer_socket: Option<&Path>) -> Result<Facts, DeclareError> {
    let (checkpoints, journal) = (dir.join("checkpoints"), dir.join("journal"));
    let store = store::open(&dir.join("kms.db"), false)?;
    let origin = store::meta_text(&store, "origin")?.ok_or(StoreError::Row { table: "meta" })?;
    let keys = read_keys(&checkpoints, None)?;
    let log = LogId::of_origin(&origin);
    let (tree, recorded_change) = held(&journal, log);
    let mut known: Vec<(u64, Option<RootHash>)> = Vec::new();
    for note in notes {
        let Checkpoint { size, root, .. } = keys.verify(note)?;
        known.push((size, Some(root)));
    }
    // What the folder says of itself may be damaged, too.
    let latest = std::fs::read_to_string(checkpoints.join(LATEST_NAME)).ok();
    let latest =
        latest.and_then(|note| keys.verify(&note).ok()).map(|Checkpoint { size, root, .. }| (size, Some(root)));
    let remote = signer_socket.and_then(|socket| RemoteSigner::open(&checkpoints, socket).ok()?.remembered().ok()?);
    let heads = SignedHead::read(&checkpoints).ok().flatten().into_iter().chain(remote);
    known.extend(latest.into_iter().chain(heads.map(|head| (head.size, Some(head.root)))));
    let durable = Reader::open(&journal, 0).and_then(|reader| reader.durable()).unwrap_or(0);
    for name in [CLEAN_THROUGH, RECORDED_THROUGH] {
        known.push((store::meta_number(&store, name)?.map_or(0, |seq| seq + 1), None));
    }
    known.push((durable, None));
    let state_change = store::meta_number(&store, "mutation")?.unwrap_or(0);
    let held = (tree.size(), tree.root().to_string());
    // A contradiction below what is held counts before the longest log that is known of.
    let other = known.iter().find(|(size, root)| root.is_some_and(|root| differs(&tree, &journal, *size, root)));
    let (size, root) =
        other.or(known.iter().max_by_key(|(size, root)| (*size, root.is_some()))).copied().unwrap_or((0, None));
    let missing = other.is_some() || size > held.0 || recorded_change > state_change;
    let known = (size, root.map(|root| root.to_string()));
    Ok(Facts { key: keys.current().clone(), held, known, changes: (state_change, recorded_change), missing })
}

/// The intact records from the first on, as a tree, and the highest number of a change in them.
fn held(journal: &Path, log: LogId) -> (Tree, u64) {
    let nothing = (Tree::new(), 0);
    let Ok(mut walk) = Walk::open(journal, Some(log), Start::Genesis, false) else { return nothing };
    let (mut tree, mut change) = (walk.base_tree(), 0);
    // Damage ends what is held as a clean end does.
    while let Ok(Some(batch)) = walk.step_if_whole() {
        for (leaf, hash, frame) in &batch.records {
            tree.push(*hash);
            if leaf.kind == Kind::Event
                && let Ok(event) = serde_json::from_slice::<AuditEvent>(&frame.payload)
            {
                change = event.additional_event_data.mutation.unwrap_or(0).max(change);
            }
        }
    }
    if walk.check_base().is_ok() { (tree, change) } else { nothing }
}

/// Whether the records that are held are others than those under a head within them.
fn differs(tree: &Tree, journal: &Path, size: u64, root: RootHash) -> bool {
    let Ok(mut reader) = Reader::open(journal, 0) else { return false };
    size <= tree.size() && tree.root_at(size, |block| reader.leaf_hashes(block)).is_ok_and(|found| found != root)
}

fn still_true(dir: &Path, declaration: &GapDeclaration) -> Result<(), DeclareError> {
    let Facts { key, held, changes, .. } = facts(dir, &[], None)?;
    let declared = (declaration.held_size, declaration.held_root.clone());
    let declared_changes = (declaration.state_change, declaration.recorded_change);
    let same = key.to_string() == declaration.former_key && held == declared && changes == declared_changes;
    if same { Ok(()) } else { Err(DeclareError::Changed) }
}

/// Moves the former log's files away, each once, and destroys its signing key.
fn put_away(dir: &Path, former_origin: &str) -> Result<(), DeclareError> {
    let former = dir.join(FORMER_NAME).join(LogId::of_origin(former_origin).to_string());
    make_folder(&former)?;
    for name in ["journal", TILES_NAME, "checkpoints"] {
        let (from, to) = (dir.join(name), former.join(name));
        if from.exists() && !to.exists() {
            std::fs::rename(&from, &to).map_err(failed("move", &from))?;
            sync(&former)?;
            sync(dir)?;
        }
    }
    for name in [KEY_NAME, SUCCESSOR_NAME] {
        let path = former.join("checkpoints").join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    sync(&former)
}

/// A key, and a journal whose first record is the declaration.
fn begin(dir: &Path, declaration: &GapDeclaration, clock: Arc<dyn Clock>) -> Result<(), DeclareError> {
    let checkpoints = dir.join("checkpoints");
    if !checkpoints.join(KEY_NAME).exists() {
        LocalSigner::create(&checkpoints, &declaration.origin)?;
    }
    let log = LogId::of_origin(&declaration.origin);
    let (journal, found) = Journal::open(&dir.join("journal"), log, clock, JournalOptions::default())?;
    if found.next_seq == 0 {
        let wrong = |error: String| DeclareError::Record(error);
        let draft = Draft::new(Kind::GapDeclaration, declaration.to_json().into());
        let pending = journal.append(draft.map_err(|error| wrong(error.to_string()))?);
        let pending = pending.map_err(|error| wrong(error.to_string()))?;
        pending.wait().map_err(|error| wrong(error.to_string()))?;
    }
    replace(&checkpoints, GAP_NAME, declaration.to_json().as_bytes(), 0o644)?;
    // Signed at once: from here on nobody can put another first record there.
    LocalSigner::open(&checkpoints)?.sign_newest(&journal)?;
    journal.close();
    Ok(())
}

/// Store and configuration name the new log; what the store says of places in the former one is forgotten.
fn rename_log(dir: &Path, declaration: &GapDeclaration) -> Result<(), DeclareError> {
    let mut store: Connection = store::open(&dir.join("kms.db"), false)?;
    let change = store.transaction().map_err(StoreError::from)?;
    let changed = (|| {
        change.execute("UPDATE meta SET value = ?1 WHERE name = 'origin'", [&declaration.origin])?;
        // The new log says anew whose identities count.
        for name in [CLEAN_THROUGH, RECORDED_THROUGH, USAGE_THROUGH, "identities_hash"] {
            change.execute("DELETE FROM meta WHERE name = ?1", [name])?;
        }
        change.execute("UPDATE key_usage SET seq = 0", [])?;
        change.commit()
    })();
    changed.map_err(StoreError::from)?;
    let path = dir.join("keytrail.toml");
    let text = match read_bounded(&path, CONFIG_BYTES_MAX) {
        Ok(bytes) => bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let named = format!("\"{}\"", declaration.former_origin);
    if text.contains(&named) {
        let text = text.replace(&named, &format!("\"{}\"", declaration.origin));
        replace(dir, "keytrail.toml", text.as_bytes(), 0o600)?;
    }
    Ok(())
}
