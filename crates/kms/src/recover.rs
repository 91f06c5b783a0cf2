//! Start-up: lock the folder, open store and journal, compare them, and bring the log up to the store.
//!
//! The journal is the record, the store the state; a crash may leave events missing that committed changes owe, and
//! those are appended first. Whatever no crash explains (a journal without a change the store has deleted the row of,
//! a change in the journal that the store never saw, a journal shorter than its own checkpoint) is a rollback of one
//! of them: the node refuses to start and says which.

use crate::access::{Access, Fixed, FixedError};
use crate::announced::AnnouncedChange;
use crate::auth::identities::{Identities, IdentitiesError, IdentitiesFile, IdentitySource};
use crate::auth::oidc::IssuerKeys;
use crate::auth::totp::Codes;
use crate::backup::{self, BackupError};
use crate::calls::Calls;
use crate::chain::{Checkpoint, Kind, LogId, LogKeys};
use crate::clock::Clock;
use crate::crypto::{FormerKeys, MaterialId, RootKey, RootKeyError, Seal, WrapError};
use crate::directory::{self, Directory, DirectoryError};
use crate::gap::MARKER_NAME;
use crate::generation::Turns;
use crate::journal::{Draft, Journal, JournalError, Reader, Recovered};
use crate::key::{AccountId, Imports, KeyId, KeyRecord, KeyState, PolicyPool, Region};
use crate::key_store::{Clusters, KeyStore};
use crate::locks::Locks;
use crate::node::Node;
use crate::ops::{self, LoadError};
use crate::outbox::{Clean, Outbox};
use crate::policy::{Document, Flavor, PolicyError};
use crate::quota::Quotas;
use crate::refusals::{Allowance, Refusals};
use crate::registry::{Alias, Publish, Registry};
use crate::related::Related;
use crate::service::KmsConfig;
use crate::ship::PublishedError;
use crate::ship::published;
use crate::signer::{self, CheckpointSigner, KEY_NAME, LATEST_NAME, LocalSigner, RemoteSigner, SignError};
use crate::store::{self, Loaded, LoadedMaterial, OutboxRow, Store, StoreError};
use crate::tiles::{FolderTiles, TileWriter, TilesError};
use crate::usage::Usages;
use crate::witness::quorum::{self, Comparing, Heard, Quorum, SignedNote};
use crate::witness::{AskError, WitnessError};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// How long Kafka may take to say what was published, before the node starts without knowing.
const KAFKA_BOUND: Duration = Duration::from_secs(5);
/// As refusals name it.
const KAFKA: &str = "Kafka";
/// Regions of one node: AWS has not many more.
const REGIONS_MAX: usize = 64;
/// Frames looked at in one step of the scan.
const SCAN_FRAMES: usize = 1_024;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder has no node in it.
    #[error("{path} is not a Keytrail data folder; run `keytrail init` first")]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is in use.
    #[error("{path} is in use by another Keytrail process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error("store cannot be read")]
    Store(#[from] StoreError),
    /// The journal.
    #[error("journal cannot be opened")]
    Journal(#[from] JournalError),
    /// Kafka holds a checkpoint that the journal contradicts.
    #[error("journal is not the one that was published")]
    Published(#[from] PublishedError),
    /// The signer, or the checkpoint that the journal contradicts.
    #[error("checkpoints and journal do not agree")]
    Checkpoint(#[from] SignError),
    /// The tiles, which must be there before anything is signed.
    #[error("tiles of the log cannot be opened")]
    Tiles(#[from] TilesError),
    /// The witnesses that must cosign.
    #[error("witnesses cannot be asked")]
    Quorum(#[from] AskError),
    /// The witness that this node is for its peers.
    #[error("witness for other logs does not start")]
    Witness(#[from] WitnessError),
    /// The root key.
    #[error("root key cannot be opened")]
    RootKey(#[from] RootKeyError),
    /// The store was written under another root key.
    #[error("root.key is not the one this store was written under")]
    OtherRootKey,
    /// A key's material does not open.
    #[error("material of key {key_id} does not open")]
    Material {
        /// Whose.
        key_id: String,
        /// Why.
        source: WrapError,
    },
    /// A stored policy is not one.
    #[error("policy of key {key_id} cannot be parsed")]
    Policy {
        /// Whose.
        key_id: String,
        /// Why.
        source: PolicyError,
    },
    /// The fixed principals' credentials.
    #[error("credentials of the built-in principals cannot be read")]
    Fixed(#[from] FixedError),
    /// identities.toml.
    #[error("identities.toml cannot be loaded")]
    Identities(#[from] IdentitiesError),
    /// identities.toml, for the log.
    #[error("identities cannot be put in force")]
    LoadIdentities(#[from] LoadError),
    /// identities.toml and what the IAM API made contradict each other.
    #[error("identities.toml does not fit to what was made through the IAM API")]
    Directory(#[from] DirectoryError),
    /// The store is older than the journal.
    #[error(
        "kms.db was rolled back: the journal holds change {journal} at seq {seq}, the store ends at change {store}; \
         restore the newest copy of kms.db"
    )]
    StoreBehind {
        /// Highest number in the journal.
        journal: u64,
        /// Where.
        seq: u64,
        /// Highest number in the store.
        store: u64,
    },
    /// A declaration is being applied.
    #[error("a declared gap is being applied, as {path} says: `keytrail gap apply` again brings it to its end")]
    GapUnderWay {
        /// The declaration.
        path: PathBuf,
    },
    /// The journal is older than the store.
    #[error(
        "journal was rolled back: it ends before seq {next_seq}, the store has seen seq {seen}; restore the newest copy \
         of the journal"
    )]
    JournalBehind {
        /// Where the journal ends.
        next_seq: u64,
        /// What the store has seen.
        seen: u64,
    },
    /// What a restore left behind, for the log.
    #[error("note of the restore cannot be read")]
    Restored(#[from] BackupError),
    /// A record of the start itself cannot be written.
    #[error("start cannot be recorded: {0}")]
    Record(String),
    /// A thread of the start ended.
    #[error("start-up task ended early")]
    Task,
    /// Not a region's name.
    #[error("{name} in `regions` is not the name of a region")]
    Region {
        /// As configured.
        name: String,
    },
    /// The region of `init` must be served: its keys are there.
    #[error("`regions` must name the node's own region {home}")]
    HomeRegion {
        /// That region.
        home: String,
    },
    /// Too many regions.
    #[error("`regions` names more than {regions_max} regions")]
    Regions {
        /// The bound.
        regions_max: usize,
    },
    /// The listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Keys and data would cross the network in clear.
    #[error("{address} is not a loopback address: that needs a certificate (--tls-cert, --tls-key)")]
    NotLoopback {
        /// Where.
        address: std::net::SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error("set TLS up")]
    Tls(#[source] crate::tls::TlsError),
    /// The socket for our own parts cannot be made; a path of more than 107 bytes is too long for one.
    #[error("make the socket {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl StartError {
    pub(crate) fn io(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { step, path, source }
    }
}

/// The exclusive lock on a data folder, held while this lives.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock, or says that somebody has it.
    pub(crate) fn take(dir: &Path) -> Result<Self, StartError> {
        let path = dir.join("lock");
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&path);
        let file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StartError::NoFolder { path: dir.to_owned() },
            _ => StartError::io("open", &path)(error),
        })?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Locked { path }),
            Err(error) => Err(StartError::io("lock", &path)(error.into())),
        }
    }
}

/// A node that has recorded its start and its debts, but does not serve.
pub(crate) struct Opened {
    pub(crate) node: Arc<Node>,
    pub(crate) lock: FolderLock,
    pub(crate) published: Published,
}

/// What the comparison with Kafka came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// No brokers are configured.
    NotAsked,
    /// Kafka did not answer in time.
    Unreachable,
    /// Kafka answered and has no checkpoint of this log among its newest.
    NoCheckpoint,
    /// The journal is the one under a checkpoint of this size.
    Agrees(u64),
}

impl Published {
    /// As epoch-start has it; absent when nothing is shipped.
    fn json(self) -> Option<Value> {
        match self {
            Self::NotAsked => None,
            Self::Unreachable => Some(json!({"reached": false})),
            Self::NoCheckpoint => Some(json!({"reached": true})),
            Self::Agrees(size) => Some(json!({"reached": true, "comparedSize": size})),
        }
    }
}

/// What is read and compared before anything is written.
struct Found {
    node: Node,
    recovered: Recovered,
    missing: Vec<OutboxRow>,
    recorded: Vec<String>,
    identities: Arc<Identities>,
    identities_hash: Option<String>,
    lock: FolderLock,
    published: Published,
    heard: Heard,
    /// What epoch-start says of a signer in a process of its own.
    asked_signer: Option<Value>,
}

/// Opens a node and appends what its log owes.
pub(crate) async fn open(config: &KmsConfig, clock: Arc<dyn Clock>) -> Result<Opened, StartError> {
    let looking = config.clone();
    let found = tokio::task::spawn_blocking(move || look(&looking, clock)).await;
    let Found { node, recovered, missing, recorded, identities, identities_hash, lock, published, heard, asked_signer } =
        found.map_err(|_| StartError::Task)??;
    let node = Arc::new(node);
    let mut start = epoch_start(&node, &recovered, &identities, &config.config_hash);
    if let Some(published) = published.json() {
        start["kafka"] = published;
    }
    if let Some(heard) = heard.json() {
        start["witnesses"] = heard;
    }
    if !config.operators.is_empty() {
        start["operators"] = config.operators.iter().map(ToString::to_string).collect();
    }
    if let Some(asked) = asked_signer {
        start["signer"] = asked;
    }
    let restored = backup::restored(&config.dir)?;
    if let Some(restored) = restored {
        start["restored"] = restored;
    }
    record(&node, Kind::EpochStart, &start).await?;
    backup::forget_restored(&config.dir)?;
    let mut clean = recorded;
    for row in missing {
        tracing::warn!(event_id = row.event_id, mutation = row.mutation, "event of a committed change was missing");
        let receipt = ops::submit_committed(&node, row.payload, || ()).await;
        receipt.ok_or_else(|| StartError::Record("journal stopped".to_owned()))?;
        clean.push(row.event_id);
    }
    let through = node.journal.durable().borrow().next_seq.checked_sub(1);
    node.store.clean(Clean { event_ids: clean, clean_through: through, recorded_through: through }).await?;
    if identities_hash != Some(hex::encode(identities.content_hash())) {
        ops::load_identities(&node, identities).await?;
    }
    if !ops::note_seal(&node).await? {
        return Err(StartError::Record("the root key's seal".to_owned()));
    }
    if !ops::end_former_tokens(&node).await {
        return Err(StartError::Record("the end of tokens of a former root key".to_owned()));
    }
    Ok(Opened { node, lock, published })
}

/// Writes one record that is not an event, and waits until it is durable.
pub(crate) async fn record(node: &Node, kind: Kind, payload: &Value) -> Result<u64, StartError> {
    append(node, kind, payload.to_string().into()).await
}

/// The same for a payload whose bytes count.
pub(crate) async fn append(node: &Node, kind: Kind, payload: Bytes) -> Result<u64, StartError> {
    let wrong = |error: String| StartError::Record(error);
    let draft = Draft::new(kind, payload).map_err(|error| wrong(error.to_string()))?;
    let pending = node.journal.append(draft).map_err(|error| wrong(error.to_string()))?;
    pending.await.map(|receipt| receipt.seq).map_err(|error| wrong(error.to_string()))
}

fn epoch_start(node: &Node, recovered: &Recovered, identities: &Identities, config_hash: &str) -> Value {
    let unknown = recovered.last_batch.map(|(first, last)| json!({"firstSeq": first, "lastSeq": last}));
    json!({
        "recordVersion": 1,
        "epoch": recovered.epoch,
        "origin": node.origin,
        "priorSize": recovered.next_seq,
        "priorRoot": hex::encode(recovered.tree.root().0),
        "build": env!("CARGO_PKG_VERSION"),
        "configHash": config_hash,
        "identitiesHash": hex::encode(identities.content_hash()),
        "repliesUnknown": unknown,
        "droppedBatch": recovered.dropped,
        "timeMicros": node.clock.now_us(),
    })
}

/// Asks Kafka for its newest checkpoint of this node's log and compares. Blocks.
pub(crate) fn compare_published(node: &Node, brokers: &str) -> Result<Published, PublishedError> {
    let mut reader = Reader::open(&node.journal_dir(), 0).map_err(PublishedError::Read)?;
    agreement(brokers, &node.log_keys(), |checkpoint| {
        node.journal.with_tree(|tree| published::compare(checkpoint, KAFKA, tree, |block| reader.leaf_hashes(block)))
    })
}

/// The signer of the folder, or the one behind a socket, once the log is found to be the one that it signed for.
/// Also what epoch-start says of the latter: one that does not answer compares when it is asked to sign.
fn open_signer(
    config: &KmsConfig,
    recovered: &Recovered,
    reader: &mut Reader,
) -> Result<(Box<dyn CheckpointSigner>, Option<Value>), StartError> {
    let checkpoints = config.dir.join("checkpoints");
    let Some(socket) = &config.signer_socket else {
        let signer = LocalSigner::open(&checkpoints)?;
        signer.compare(&recovered.tree, |block| reader.leaf_hashes(block))?;
        return Ok((Box::new(signer), None));
    };
    if checkpoints.join(KEY_NAME).exists() {
        tracing::warn!("checkpoints/signer.key is still in the data folder: `keytrail signer move` takes it away");
    }
    let signer = RemoteSigner::open(&checkpoints, socket)?;
    // What the node kept of it, then what it says itself.
    let (told, asked) = match signer.remembered() {
        Ok(told) => (told, json!({"reached": true, "comparedSize": told.map(|head| head.size)})),
        Err(error @ SignError::Away { .. }) => {
            tracing::warn!(error = %crate::service::chain(&error), "signer cannot be asked what it signed, comparing later");
            (None, json!({"reached": false}))
        }
        Err(error) => return Err(error.into()),
    };
    for head in signer.signed().into_iter().chain(told) {
        head.compare(&recovered.tree, |block| reader.leaf_hashes(block))?;
    }
    Ok((Box::new(signer), Some(asked)))
}

/// The newest note of before, if it is over no more than the journal.
fn newest_note(checkpoints: &Path, keys: &LogKeys, durable: u64) -> Option<SignedNote> {
    let note = std::fs::read_to_string(checkpoints.join(LATEST_NAME)).ok()?;
    let size = keys.verify(&note).ok()?.size;
    (size <= durable && size > 0).then_some(SignedNote { size, note })
}

fn agreement(
    brokers: &str,
    signer: &LogKeys,
    compare: impl FnOnce(&Checkpoint) -> Result<(), PublishedError>,
) -> Result<Published, PublishedError> {
    match published::newest_checkpoint(brokers, signer, KAFKA_BOUND) {
        Err(error) => {
            tracing::warn!(%error, "Kafka cannot be asked what was published, comparing later");
            Ok(Published::Unreachable)
        }
        Ok(None) => Ok(Published::NoCheckpoint),
        Ok(Some(checkpoint)) => compare(&checkpoint).map(|()| Published::Agrees(checkpoint.size)),
    }
}

fn look(config: &KmsConfig, clock: Arc<dyn Clock>) -> Result<Found, StartError> {
    let dir = config.dir.as_path();
    let lock = FolderLock::take(dir)?;
    let marker = dir.join(MARKER_NAME);
    if marker.exists() {
        return Err(StartError::GapUnderWay { path: marker });
    }
    let connection = store::open(&dir.join("kms.db"), false)?;
    let text = |name| store::meta_text(&connection, name)?.ok_or(StoreError::Row { table: "meta" });
    let origin = text("origin")?;
    let region = Region::parse(&text("region")?).ok_or(StoreError::Row { table: "meta" })?;
    let regions = regions(region, &config.regions)?;
    let account = AccountId::parse(&text("account")?).ok_or(StoreError::Row { table: "meta" })?;
    let root = root_key(dir, &connection, config)?;
    // Folders of earlier versions do not say; they knew no other way.
    let seal = store::meta_text(&connection, "root_key_seal")?.unwrap_or_else(|| Seal::File.name());
    let loaded = Loaded::read(&connection)?;
    let (journal, recovered) =
        Journal::open(&dir.join("journal"), LogId::of_origin(&origin), Arc::clone(&clock), config.journal.clone())?;
    let mut reader = Reader::open(&dir.join("journal"), 0)?;
    let keys = signer::settle(&dir.join("checkpoints"), &recovered.transitions, recovered.next_seq)?;
    let (signer, asked_signer) = open_signer(config, &recovered, &mut reader)?;
    let published = match &config.brokers {
        None => Published::NotAsked,
        Some(brokers) => agreement(brokers, &keys, |checkpoint| {
            published::compare(checkpoint, KAFKA, &recovered.tree, |block| reader.leaf_hashes(block))
        })?,
    };
    let quorum = config.quorum.clone().map(Quorum::new).transpose()?;
    let mut heard = Heard::default();
    if let Some(quorum) = &quorum {
        let newest = newest_note(&dir.join("checkpoints"), &keys, recovered.next_seq);
        let mut comparing = Comparing { tree: &recovered.tree, reader: &mut reader };
        heard = Handle::current().block_on(quorum::hear(quorum, &keys, newest.as_ref(), &mut comparing))?;
        quorum.resume(&dir.join("checkpoints"), &keys, recovered.next_seq);
    }
    let recorded = compare(dir, &loaded, recovered.next_seq)?;
    // After every comparison: a journal that is refused must leave no trace in the tiles.
    let tiles = TileWriter::open(dir, &dir.join("journal"), &recovered.tree)?;
    let (recorded, missing): (Vec<_>, Vec<_>) =
        loaded.outbox.into_iter().partition(|row| recorded.contains(&row.event_id));
    let policies = PolicyPool::default();
    let (stores, entities): (Vec<_>, Vec<_>) = loaded.entities.into_iter().partition(|row| row.kind == KeyStore::KIND);
    let (approvals, entities): (Vec<_>, Vec<_>) = entities.into_iter().partition(|row| row.kind == ops::APPROVAL_ROW);
    let (retirements, entities): (Vec<_>, Vec<_>) =
        entities.into_iter().partition(|row| row.kind == ops::RETIREMENT_ROW);
    let (announced, entities): (Vec<_>, Vec<_>) =
        entities.into_iter().partition(|row| row.kind == AnnouncedChange::KIND);
    let announced = announced.iter().map(|row| Ok((row.name.clone(), AnnouncedChange::load(row)?)));
    let announced = announced.collect::<Result<_, StoreError>>()?;
    let stores = stores.iter().map(|row| KeyStore::load(row, &root)).collect::<Result<Vec<_>, _>>()?;
    let trust_anchors = trust_anchors(&config.clusters)?;
    let registry = registry(&connection, stores, &loaded.tags, loaded.former, &loaded.aliases, &policies, &root)?;
    registry.publish(ops::loaded_approvals(&approvals)?);
    registry.publish(ops::loaded_retirements(&retirements)?);
    let identities = Arc::new(IdentitiesFile::new(dir.join("identities.toml")).load()?);
    let fixed = Fixed::read(dir, &connection, &root, account, region.as_str())?;
    let directory = Directory::resolve(&identities, directory::load(entities, &root)?)?;
    let access = Access::new(Arc::clone(&identities), directory, fixed, loaded.overlay).with_announced(announced);
    let now_us = clock.now_us();
    let usages = Usages::new(loaded.usage_since_us.unwrap_or(now_us), loaded.usage, recovered.next_seq.checked_sub(1));
    if loaded.usage_since_us.is_some() {
        usages.read_back(&dir.join("journal"), loaded.usage_through.map_or(0, |seq| seq + 1))?;
    }
    let outbox = Outbox::new(loaded.mutation, journal.durable());
    let store = Store::spawn(connection).map_err(StartError::io("start the writer of", &dir.join("kms.db")))?;
    let node = Node {
        dir: dir.to_owned(),
        account,
        region,
        regions,
        origin,
        clock,
        journal,
        store,
        signer,
        keys: RwLock::new(keys),
        tiles: Mutex::new(tiles),
        folder_tiles: Mutex::new(FolderTiles::open(dir)?),
        newest_note: watch::Sender::new(None),
        checkpoint_wanted: Notify::new(),
        quorum,
        root: RwLock::new(Arc::new(root)),
        locks: Locks::default(),
        registry,
        policies,
        access: RwLock::new(Arc::new(access)),
        codes: Codes::new(loaded.mfa_steps),
        issuer_keys: IssuerKeys::new(config.issuer_keys.clone()),
        outbox,
        refusals: Refusals::new(now_us),
        calls: Calls::default(),
        turns: Turns::new(),
        quotas: Quotas::new(config.quotas.clone()),
        usages,
        failing: Mutex::default(),
        clusters: config.clusters.clone(),
        trust_anchors,
        checkpoints: Mutex::new(Allowance::FULL),
        seal: Mutex::new(seal),
        landed: AtomicU64::new(0),
        failed: watch::Sender::new(None),
    };
    let recorded = recorded.into_iter().map(|row| row.event_id).collect();
    Ok(Found {
        node,
        recovered,
        missing,
        recorded,
        identities,
        identities_hash: loaded.identities_hash,
        lock,
        published,
        heard,
        asked_signer,
    })
}

/// The root key that the store was written under, with the keys behind what callers still hold from before.
fn root_key(dir: &Path, connection: &Connection, config: &KmsConfig) -> Result<RootKey, StartError> {
    let id = store::meta_text(connection, store::ROOT_KEY_ID)?.ok_or(StoreError::Row { table: "meta" })?;
    let opened = RootKey::open_for(&dir.join("root.key"), &id, config.seal_key.as_deref());
    let root = opened.map_err(|error| match error {
        RootKeyError::Other { .. } => StartError::OtherRootKey,
        error => error.into(),
    })?;
    let Some(former) = store::meta_blob(connection, store::FORMER_ROOT_KEYS)? else { return Ok(root) };
    let former = FormerKeys::open(&root, &former).map_err(|_| StoreError::Row { table: "meta" })?;
    Ok(root.with_former(former))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scanned {
    #[serde(rename = "eventID")]
    event_id: String,
    additional_event_data: ScannedAdditional,
}

#[derive(Deserialize)]
struct ScannedAdditional {
    mutation: Option<u64>,
}

/// Compares store and journal; gives the eventIDs of outbox rows that the journal has.
fn compare(dir: &Path, loaded: &Loaded, next_seq: u64) -> Result<HashSet<String>, StartError> {
    if let Some(seen) = loaded.clean_through.filter(|seen| *seen >= next_seq) {
        return Err(StartError::JournalBehind { next_seq, seen });
    }
    let waiting: HashSet<&str> = loaded.outbox.iter().map(|row| row.event_id.as_str()).collect();
    let mut recorded = HashSet::new();
    let mut reader = Reader::open(&dir.join("journal"), loaded.clean_through.map_or(0, |seen| seen + 1))?;
    loop {
        let frames = reader.next(SCAN_FRAMES)?;
        if frames.is_empty() {
            return Ok(recorded);
        }
        let first = reader.next_seq() - frames.len() as u64;
        for (seq, frame) in (first..).zip(&frames) {
            // Kind is behind version, log id, epoch and seq; other kinds carry no change.
            if frame.leaf[33] != Kind::Event as u8 {
                continue;
            }
            let Ok(scanned) = serde_json::from_slice::<Scanned>(&frame.payload) else { continue };
            let Some(mutation) = scanned.additional_event_data.mutation else { continue };
            if mutation > loaded.mutation {
                return Err(StartError::StoreBehind { journal: mutation, seq, store: loaded.mutation });
            }
            if waiting.contains(scanned.event_id.as_str()) {
                recorded.insert(scanned.event_id);
            }
        }
    }
}

/// Reads the trust anchors that the configuration names.
fn trust_anchors(clusters: &Clusters) -> Result<BTreeMap<String, String>, StartError> {
    let named = clusters.iter().filter_map(|(id, cluster)| Some((id, cluster.trust_anchor_file.as_ref()?)));
    let read = named.map(|(id, path)| {
        let text = std::fs::read_to_string(path).map_err(StartError::io("read trust anchor", path))?;
        Ok((id.clone(), text))
    });
    read.collect()
}

fn registry(
    connection: &Connection,
    stores: Vec<KeyStore>,
    tags: &[(KeyId, String, String)],
    former: Vec<(KeyId, LoadedMaterial)>,
    aliases: &[store::AliasRow],
    policies: &PolicyPool,
    root: &RootKey,
) -> Result<Registry, StartError> {
    let mut tags_of: HashMap<_, BTreeMap<String, String>> = HashMap::new();
    for (id, name, value) in tags {
        tags_of.entry(*id).or_default().insert(name.clone(), value.clone());
    }
    let mut former_of: HashMap<_, Vec<LoadedMaterial>> = HashMap::new();
    for (id, material) in former {
        former_of.entry(id).or_default().push(material);
    }
    let mut names_of: HashMap<_, Vec<String>> = HashMap::new();
    for row in aliases {
        names_of.entry(row.id).or_default().push(row.name.clone());
    }
    let registry = Registry::default();
    for store in stores {
        store.link.follow_at_start(&store);
        registry.publish([Publish::KeyStore(Arc::new(store))]);
    }
    let mut count = 0;
    let mut related = Related::default();
    Loaded::keys(connection, |row| {
        let key_id = row.id.to_string();
        let parsed = policies.policy(&row.policy, |text| Document::parse(text, Flavor::KeyPolicy));
        let policy = parsed.map_err(|source| StartError::Policy { key_id: key_id.clone(), source })?;
        let mut opened = |stored: LoadedMaterial| related.material(root, (row.account, row.id, row.kind), stored);
        let former = former_of.remove(&row.id).unwrap_or_default().into_iter().map(&mut opened);
        let former = former.collect::<Result<Vec<_>, _>>()?;
        let waits = row.imports.pending.as_ref().map(|import| import.id);
        let (pending, former): (Vec<_>, Vec<_>) = former.into_iter().partition(|other| Some(other.id) == waits);
        let material = row.material.map(&mut opened).transpose()?;
        let current = row.material_id.map(|id| MaterialId::from_hex(&id).ok_or(StoreError::Row { table: "keys" }));
        let policy = (policy, row.policy_event);
        let mut record = KeyRecord::new(row.id, row.account, row.kind, row.created_us, policy, material);
        record = record.with_former(former).with_pending(pending.into_iter().next()).with_current(current.transpose()?);
        record.state = row.state;
        if row.imports != Imports::default() {
            record.imports = Arc::new(row.imports);
        }
        record.rotation = row.rotation;
        record.on_demand_us = row.on_demand_us;
        record.valid_to_us = row.valid_to_us;
        record.comes_back_disabled = row.comes_back_disabled;
        record.service = row.service.map(Into::into);
        if let Some(id) = row.custom_key_store {
            let store = registry.key_store(row.account, row.id.region, &id);
            record.store = Some(Arc::clone(&store.ok_or(StoreError::Row { table: "keys" })?.link));
        }
        // A lost row of material must not pass for imported material that is away.
        if !record.has_material() && matches!(row.state, KeyState::Enabled | KeyState::Disabled) {
            return Err(StoreError::Row { table: "key_materials" }.into());
        }
        record.description = row.description.into();
        record.tags = tags_of.remove(&row.id).unwrap_or_default();
        record.aliases = names_of.remove(&row.id).unwrap_or_default();
        match row.primary {
            None => registry.publish([Publish::Key(Arc::new(record))]),
            Some(primary) => related.records.push((record, primary)),
        }
        count += 1;
        Ok::<(), StartError>(())
    })?;
    registry.publish(related.keys()?.into_iter().map(|key| Publish::Key(Arc::new(key))));
    if count != Loaded::key_count(connection)? {
        return Err(StoreError::Row { table: "keys" }.into());
    }
    registry.publish(aliases.iter().map(|row| {
        let alias = Alias { target: row.id, created_us: row.created_us, updated_us: row.updated_us };
        Publish::Alias(row.account, row.name.as_str().into(), alias)
    }));
    Loaded::grants(connection, |grant| registry.publish([Publish::Grant(Arc::new(grant))]))?;
    Ok(registry)
}

/// The regions that are served: those of the configuration, or else the home region alone.
fn regions(home: Region, configured: &[String]) -> Result<BTreeSet<Region>, StartError> {
    let mut regions = BTreeSet::from([home]);
    for name in configured {
        regions.insert(Region::parse(name).ok_or_else(|| StartError::Region { name: name.clone() })?);
    }
    if !configured.is_empty() && !configured.iter().any(|name| name == home.as_str()) {
        return Err(StartError::HomeRegion { home: home.to_string() });
    }
    if regions.len() > REGIONS_MAX {
        return Err(StartError::Regions { regions_max: REGIONS_MAX });
    }
    Ok(regions)
}
