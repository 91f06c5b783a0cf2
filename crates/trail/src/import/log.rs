//! The imported log: leaves, chain, tree and lake files as of any log, under a signer of its own.
//!
//! Order: rows, commit, then the checkpoint. A crash before the checkpoint leaves committed records that nothing signs
//! for yet; the next run signs them first. The tree is kept in a file beside the signer's key as a shortcut: it counts
//! only where it has the root that was signed, else the tree is made anew from the lake's rows.

use super::{ImportError, Report};
use crate::lake::{Lake, LakeOptions};
use crate::land::{Landed, Position, VerifiedFrame};
use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use aws_lc_rs::rand;
use bytes::Bytes;
use keytrail_kms::chain::leaf::{link, payload_digest};
use keytrail_kms::chain::{Kind, Leaf, LeafHash, LogId, Tree};
use keytrail_kms::clock::Clock;
use keytrail_kms::journal::Frame;
use keytrail_kms::signer::{CheckpointSigner, KEY_NAME, LocalSigner, VKEY_NAME};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the lock that one import holds.
const LOCK_NAME: &str = "lock";
/// Name of the file with the tree.
const TREE_NAME: &str = "tree";
/// First bytes of it.
const TREE_MAGIC: &[u8; 8] = b"KTTREE\x00\x01";

/// What a checkpoint of the log says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed {
    pub(super) size: u64,
    pub(super) root: keytrail_kms::chain::RootHash,
}

/// The log, open for writing.
pub(super) struct ImportedLog {
    folder: PathBuf,
    lake: Lake,
    signer: LocalSigner,
    tree: Tree,
    log: LogId,
    position: Position,
    epoch: u64,
    time_us: u64,
    clock: Arc<dyn Clock>,
    _lock: File,
}

impl ImportedLog {
    /// Opens the log named `name` of the data folder `dir`, or begins one. Reads files: not for an async thread.
    pub(super) fn open(dir: &Path, name: &str, clock: Arc<dyn Clock>) -> Result<Self, ImportError> {
        let folder = folder_of(dir, name);
        fs::create_dir_all(&folder).map_err(ImportError::io("create", &folder))?;
        let lock = lock(&folder)?;
        if !folder.join(KEY_NAME).exists() {
            let mut random = [0; 8];
            rand::fill(&mut random).map_err(|_| ImportError::Random)?;
            LocalSigner::create(&folder, &format!("{}{name}-{}", super::ORIGIN_PREFIX, hex::encode(random)))?;
        }
        let signer = LocalSigner::open(&folder)?;
        let vkey = folder.join(VKEY_NAME);
        if !vkey.exists() {
            // A crash came between key and verifier key.
            fs::write(&vkey, format!("{}\n", signer.verify_key())).map_err(ImportError::io("write", &vkey))?;
        }
        let log = LogId::of_origin(signer.origin());
        let root = dir.join("lake");
        let (lake, opened) = Lake::open_imported(&root, signer.origin(), lake_options(), clock.clone())?;
        let position = opened.positions.get(&log).copied().unwrap_or(Position::START);
        let (epoch, time_us) = last_of(&lake, log)?;
        let mut this = Self {
            tree: read_tree(&folder.join(TREE_NAME)).unwrap_or_default(),
            folder,
            lake,
            signer,
            log,
            position,
            epoch: epoch + 1,
            time_us,
            clock,
            _lock: lock,
        };
        this.catch_up()?;
        Ok(this)
    }

    /// Brings the tree to the end of the lake, compares it with what was signed, and signs what is not yet.
    fn catch_up(&mut self) -> Result<(), ImportError> {
        let signed = self.signer.signed();
        let fits = signed.is_some_and(|head| head.size == self.tree.size() && head.root == self.tree.root());
        if !fits || self.tree.size() > self.position.next_seq {
            self.tree = Tree::new();
        }
        let (first, tree) = (self.tree.size(), &mut self.tree);
        self.lake.snapshot().leaf_hashes(self.log, first, |leaf| tree.push(leaf))?;
        let snapshot = self.lake.snapshot();
        let leaves = |block: u64| {
            let mut leaves = Vec::new();
            let first = block * keytrail_kms::chain::tree::BLOCK_LEAVES;
            // What cannot be read is too short a block, which the comparison refuses.
            let read = snapshot.leaf_hashes(self.log, first, |leaf| leaves.push(leaf));
            if read.is_err() {
                leaves.clear();
            }
            Ok::<Vec<LeafHash>, Infallible>(leaves)
        };
        self.signer.compare(&self.tree, leaves)?;
        if self.tree.size() > signed.map_or(0, |head| head.size) {
            self.sign()?;
        }
        Ok(())
    }

    /// The log's name, also its key's.
    pub(super) fn origin(&self) -> &str {
        self.signer.origin()
    }

    /// Its files in the lake.
    pub(super) fn files(&self) -> Arc<Vec<Arc<crate::lake::DataFile>>> {
        self.lake.snapshot().logs().get(&self.log).map(|log| log.files.clone()).unwrap_or_default()
    }

    /// What its checkpoint covers.
    pub(super) fn signed(&self) -> Signed {
        Signed { size: self.tree.size(), root: self.tree.root() }
    }

    /// Appends records as they are.
    pub(super) async fn append(&mut self, records: Vec<Vec<u8>>, report: &mut Report) -> Result<(), ImportError> {
        self.time_us = self.time_us.max(self.clock.now_us());
        let mut salts = vec![0; records.len() * 16];
        rand::fill(&mut salts).map_err(|_| ImportError::Random)?;
        let first_seq = self.position.next_seq;
        let mut frames = Vec::with_capacity(records.len());
        for (record, salt) in records.into_iter().zip(salts.as_chunks::<16>().0) {
            frames.push(self.frame(record, *salt));
        }
        report.landed += frames.len() as u64;
        for batch in self.lake.append(&Landed { log: self.log, first_seq, frames })? {
            let errors = batch.column_by_name("parse_error").map_or(0, |column| column.len() - column.null_count());
            report.unparsed += errors as u64;
        }
        fail::fail_point!("import::after_append", |_| std::process::abort());
        self.lake.maybe_seal().await?;
        Ok(())
    }

    fn frame(&mut self, record: Vec<u8>, salt: [u8; 16]) -> VerifiedFrame {
        let leaf = Leaf {
            log: self.log,
            epoch: self.epoch,
            seq: self.position.next_seq,
            kind: Kind::Event,
            time_us: self.time_us,
            payload_len: u32::try_from(record.len()).unwrap_or(u32::MAX),
            payload_digest: payload_digest(&salt, &record),
            prev: self.position.link,
        };
        let bytes = leaf.encode();
        self.position = Position { next_seq: leaf.seq + 1, link: link(&bytes) };
        let frame = Frame { leaf: bytes, salt, payload: Bytes::from(record) };
        self.tree.push(frame.leaf_hash());
        VerifiedFrame { leaf, frame }
    }

    /// Commits everything appended, merges small files, and signs.
    pub(super) async fn seal(&mut self) -> Result<(), ImportError> {
        self.lake.flush().await?;
        fail::fail_point!("import::before_checkpoint", |_| std::process::abort());
        self.sign()?;
        self.lake.compact().await?;
        self.lake.remove_replaced()?;
        Ok(())
    }

    fn sign(&self) -> Result<(), ImportError> {
        self.signer.sign(self.tree.size(), self.tree.root())?;
        let path = self.folder.join(TREE_NAME);
        write_tree(&path, &self.tree).map_err(ImportError::io("write", &path))
    }
}

/// As for any log; in tests a file is full soon, so that a kill finds some.
fn lake_options() -> LakeOptions {
    let usual = LakeOptions::default();
    if cfg!(feature = "testing") { LakeOptions { seal_rows: 100, ..usual } } else { usual }
}

/// Folder of an import's key, checkpoint and list of files.
pub(super) fn folder_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(super::FOLDER).join(name)
}

fn lock(folder: &Path) -> Result<File, ImportError> {
    let path = folder.join(LOCK_NAME);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(ImportError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ImportError::Busy { folder: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(ImportError::io("lock", &path)(source)),
    }
}

/// Epoch and leaf time of the log's last record; zeros before the first.
fn last_of(lake: &Lake, log: LogId) -> Result<(u64, u64), ImportError> {
    let snapshot = lake.snapshot();
    let Some(file) = snapshot.logs().get(&log).and_then(|log| log.files.last()) else { return Ok((0, 0)) };
    let path = snapshot.root().join(&file.path);
    let read = || -> Result<Option<i64>, Box<dyn std::error::Error + Send + Sync>> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)?;
        let epoch = ProjectionMask::columns(builder.parquet_schema(), ["epoch"]);
        let mut last = None;
        for batch in builder.with_projection(epoch).build()? {
            // Epochs never fall.
            last = arrow::compute::max(batch?.column(0).as_primitive::<Int64Type>()).max(last);
        }
        Ok(last)
    };
    let epoch = read().map_err(|source| ImportError::Known { source })?;
    Ok((epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or_default(), file.time_last))
}

/// Magic, number of leaves in the last block (u64), hashes of full blocks, leaf hashes of the last block.
fn write_tree(path: &Path, tree: &Tree) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut bytes = Vec::with_capacity(16 + 32 * (tree.subtrees().len() + tree.tail().len()));
    bytes.extend(TREE_MAGIC);
    bytes.extend((tree.tail().len() as u64).to_be_bytes());
    tree.subtrees().iter().for_each(|hash| bytes.extend(hash));
    tree.tail().iter().for_each(|leaf| bytes.extend(leaf.0));
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// None for whatever is no tree: it is made anew.
fn read_tree(path: &Path) -> Option<Tree> {
    let bytes = fs::read(path).ok()?;
    let (tail, hashes) = bytes.strip_prefix(TREE_MAGIC)?.split_first_chunk::<8>()?;
    let (hashes, rest) = hashes.as_chunks::<32>();
    let full = hashes.len().checked_sub(usize::try_from(u64::from_be_bytes(*tail)).ok()?)?;
    let (full, tail) = hashes.split_at_checked(full)?;
    rest.is_empty().then_some(())?;
    Tree::from_subtrees(full.to_vec(), tail.iter().map(|hash| LeafHash(*hash)).collect())
}
