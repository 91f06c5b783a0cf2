//! The running node: what operations, the API and the background jobs share.

use crate::access::Access;
use crate::auth::oidc::IssuerKeys;
use crate::auth::totp::Codes;
use crate::calls::Calls;
use crate::chain::cosignature::Note;
use crate::chain::tile::encode_hashes;
use crate::chain::{ConsistencyProof, LogId, LogKeys, Tile, TileKind};
use crate::clock::Clock;
use crate::crypto::import::{ImportToken, InvalidToken, Terms};
use crate::crypto::material::Owner;
use crate::crypto::{MaterialId, RootKey, SecretBytes, SecretHalf, WrapError};
use crate::generation::{GenerateError, Turns};
use crate::journal::{Head, Journal};
use crate::key::{AccountId, KeyRecord, PolicyPool, Region};
use crate::key_store::Clusters;
use crate::locks::Locks;
use crate::outbox::Outbox;
use crate::quota::Quotas;
use crate::refusals::{Allowance, Refusals};
use crate::registry::Registry;
use crate::retirement::Failing;
use crate::signer::{CheckpointSigner, SignError, SignableLog, SignedHead};
use crate::spec::KeyKind;
use crate::store::Store;
use crate::tiles::{FolderTiles, TileWriter, TilesError, block_hash, hash_of_block};
use crate::usage::{Usages, UsedKey};
use crate::witness::quorum::{Quorum, SignedNote};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::{Notify, watch};
use uuid::{Builder, Uuid};

/// Checkpoints signed on request each second; each costs an fsync.
const CHECKPOINTS_PER_SEC: u64 = 50;

/// One node's state and the ways to change it.
pub struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) account: AccountId,
    /// The home region: that of `init`.
    pub(crate) region: Region,
    /// All regions that are served.
    pub(crate) regions: BTreeSet<Region>,
    pub(crate) origin: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    pub(crate) signer: Box<dyn CheckpointSigner>,
    /// The log's keys: those of before verify what was signed before.
    pub(crate) keys: RwLock<LogKeys>,
    /// Writes tiles before each checkpoint.
    pub(crate) tiles: Mutex<TileWriter>,
    /// Reads them for whoever asks over HTTP.
    pub(crate) folder_tiles: Mutex<FolderTiles>,
    /// The newest signed note of this run, for the witnesses.
    pub(crate) newest_note: watch::Sender<Option<Arc<SignedNote>>>,
    /// Somebody waits for a checkpoint: the next second is too late.
    pub(crate) checkpoint_wanted: Notify,
    /// The witnesses, if a policy names any.
    pub(crate) quorum: Option<Quorum>,
    pub(crate) root: RwLock<Arc<RootKey>>,
    pub(crate) locks: Locks,
    pub(crate) registry: Registry,
    pub(crate) policies: PolicyPool,
    pub(crate) access: RwLock<Arc<Access>>,
    pub(crate) codes: Codes,
    pub(crate) issuer_keys: IssuerKeys,
    pub(crate) outbox: Outbox,
    pub(crate) refusals: Refusals,
    pub(crate) calls: Calls,
    pub(crate) turns: Turns,
    pub(crate) quotas: Quotas,
    pub(crate) usages: Usages,
    /// First calls that keys on their way out have refused, until the service has seen to them.
    pub(crate) failing: Mutex<BTreeMap<UsedKey, Failing>>,
    /// The tokens that custom key stores may be in.
    pub(crate) clusters: Clusters,
    /// Their trust anchors, as far as the configuration has them.
    pub(crate) trust_anchors: BTreeMap<String, String>,
    pub(crate) checkpoints: Mutex<Allowance>,
    /// How the log says that the root key is sealed.
    pub(crate) seal: Mutex<String>,
    /// Records below this seq have landed, as the trail has said since the start.
    pub(crate) landed: AtomicU64,
    pub(crate) failed: watch::Sender<Option<String>>,
}

impl Node {
    /// The account that `init` was told.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The node's home region.
    pub fn region(&self) -> &str {
        self.region.as_str()
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The log's id.
    pub fn log(&self) -> LogId {
        self.journal.log()
    }

    /// Number of keys.
    pub fn key_count(&self) -> usize {
        self.registry.key_count()
    }

    /// The keys that the log's checkpoints are signed by.
    pub(crate) fn log_keys(&self) -> LogKeys {
        self.keys.read().clone()
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// Whether a call can be recorded now; if not, it must have no effect.
    pub(crate) fn writable(&self) -> bool {
        self.failed.borrow().is_none() && self.journal.refusing().is_none()
    }

    /// Stops the node for all calls: going on could let the log and the state part.
    pub(crate) fn fail(&self, reason: String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                tracing::error!(reason, "node stops serving");
                *failed = Some(reason);
            }
            first
        });
    }

    /// A UUIDv7 of the node's clock, so that ids sort as the log does.
    pub(crate) fn time_ordered_id(&self, now_us: u64) -> Uuid {
        let mut random = [0; 10];
        fill_random(&mut random);
        Builder::from_unix_timestamp_millis(now_us / 1_000, &random).into_uuid()
    }

    /// A random id, for keys.
    pub(crate) fn random_id(&self) -> Uuid {
        Builder::from_random_bytes(self.random()).into_uuid()
    }

    /// Random bytes, for grant ids and tokens.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut random = [0; N];
        fill_random(&mut random);
        random
    }

    /// The root key in force. What is wrapped under it for the store is wrapped by whoever holds locks: they keep it.
    pub(crate) fn root(&self) -> Arc<RootKey> {
        Arc::clone(&self.root.read())
    }

    /// A key's current material as the store keeps it.
    pub(crate) fn wrap(&self, record: &KeyRecord, secret: &SecretBytes) -> Result<Vec<u8>, WrapError> {
        record.wrapped(&self.root(), secret)
    }

    /// Makes a key's import token for a wrapping key pair.
    pub(crate) fn seal_token(
        &self,
        key: &KeyRecord,
        terms: &Terms,
        private: &SecretBytes,
    ) -> Result<Vec<u8>, WrapError> {
        ImportToken::seal(&self.root(), &token_owner(key, &key.id.to_string()), terms, private)
    }

    /// Opens an import token that must be of this key.
    pub(crate) fn open_token(&self, key: &KeyRecord, token: &[u8]) -> Result<ImportToken, InvalidToken> {
        ImportToken::open(&self.root(), &token_owner(key, &key.id.to_string()), token)
    }

    /// New material of a kind for an account. RSA takes up to seconds: it waits for its turn, away from the threads of
    /// requests.
    pub(crate) async fn generate(&self, account: AccountId, kind: KeyKind) -> Result<SecretBytes, GenerateError> {
        if !kind.spec.is_rsa() {
            return Ok(SecretHalf::generate(kind)?);
        }
        Ok(self.turns.run(account, move || SecretHalf::generate(kind)).await??)
    }

    /// Whether a checkpoint may be signed on request now.
    pub(crate) fn checkpoint_allowed(&self) -> bool {
        self.checkpoints.lock().take(self.clock.now_us(), 1_000_000 / CHECKPOINTS_PER_SEC, CHECKPOINTS_PER_SEC)
    }

    /// Signs the durable head, after the tiles that it covers are durable. Blocks on the disk, or on the signer's process.
    pub(crate) fn sign_head(&self) -> Result<String, SignError> {
        let note = {
            // Whoever holds the writer has its turn, so heads come to the signer in order.
            let mut tiles = self.tiles.lock();
            let Head { size, root, .. } = self.journal.head();
            tiles.grow(size, |level, index| self.journal.with_tree(|tree| tree.tile(level, index).to_vec()))?;
            self.signer.sign_newest(&HeadOf { head: SignedHead { size, root }, journal: &self.journal })?
        };
        let size = Note::parse(&note).and_then(|note| note.checkpoint()).map_or(0, |checkpoint| checkpoint.size);
        self.newest_note.send_if_modified(|newest| {
            // Several sign at once; the largest counts.
            let newer = newest.as_ref().is_none_or(|newest| newest.size < size);
            if newer {
                *newest = Some(Arc::new(SignedNote { size, note: note.clone() }));
            }
            newer
        });
        Ok(note)
    }

    /// The bytes of a tile, checked against the tree; none when the newest checkpoint does not reach that far. Blocks on the
    /// disk.
    pub(crate) fn tile(&self, tile: Tile, size: u64) -> Result<Option<Vec<u8>>, TilesError> {
        if !tile.is_in(size) {
            return Ok(None);
        }
        let width = usize::from(tile.width);
        if let TileKind::Hashes(level @ 1..) = tile.kind {
            let hashes = self.journal.with_tree(|tree| tree.tile(level, tile.index).to_vec());
            return hashes.get(..width).map(|hashes| Some(encode_hashes(hashes))).ok_or(TilesError::Missing(tile));
        }
        let mut folder = self.folder_tiles.lock();
        // None for the block that is being filled: it is on nobody's disk but the journal's.
        if let Some(wanted) = self.journal.with_tree(|tree| block_hash(tree, tile.index))
            && let Some(mut bytes) = folder.kept(tile.full())?
        {
            if hash_of_block(&bytes, tile.kind) == Some(wanted) {
                bytes.truncate(tile.bytes());
                return Ok(Some(bytes));
            }
            tracing::error!(%tile, "tile on disk is not the one of the tree, the journal is asked instead");
        }
        folder.recorded(tile.kind, tile.index, tile.width).map(Some)
    }
}

/// The journal at the head that the tiles have reached.
struct HeadOf<'a> {
    head: SignedHead,
    journal: &'a Journal,
}

impl SignableLog for HeadOf<'_> {
    fn head(&self) -> SignedHead {
        self.head
    }

    fn consistency(&self, old: u64, size: u64) -> Result<ConsistencyProof, SignError> {
        self.journal.consistency(old, size)
    }
}

/// A token is for the key in one region, also where related keys share its material.
fn token_owner<'a>(key: &'a KeyRecord, key_id: &'a str) -> Owner<'a> {
    let (account, region) = (key.account.as_str(), key.id.region.as_str());
    Owner { account, region, key_id, material_id: MaterialId([0; 32]) }
}

/// Without random bytes there are no ids, keys or salts: the process cannot go on.
fn fill_random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system gives random bytes");
}
