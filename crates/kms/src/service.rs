//! The KMS as a service: start, background jobs, stop.
//!
//! Jobs look at what is and what should be and may run twice without harm: heartbeat and refusals each ten seconds,
//! a checkpoint each second (five times behind Kafka) when the log has grown, identities.toml when it changed, what dates
//! do to keys, when keys were last used, outbox rows that may go.

pub use crate::access::FixedError;
use crate::api::{self, Api, Door};
use crate::auth::identities::{IdentitiesFile, IdentitySource};
use crate::calls::CallCounts;
use crate::chain::Leaf;
use crate::chain::VerifyKey;
use crate::chain::{Kind, LogId};
use crate::clock::Clock;
use crate::crypto::SealKey;
use crate::file::{self, Stamp};
use crate::init::is_initialised;
use crate::journal::reader::read_range;
use crate::journal::{Durable, JournalOptions};
use crate::key_store::Clusters;
use crate::node::Node;
pub use crate::offline::{
    LiftError, RecordError, RotateError, RotateSignerError, lift_quarantine_offline, record_export_offline,
    rotate_offline, rotate_signer_offline,
};
use crate::ops;
pub use crate::ops::{LoadError, NotRotated};
pub use crate::quota::{QuotaError, QuotaSettings};
pub use crate::recover::StartError;
use crate::recover::{self, FolderLock, Opened, Published};
use crate::root_door::{self, ROOT_KEY_SOCKET};
pub use crate::root_door::{DoorError, rotate_running};
use crate::signer::move_key;
pub use crate::store::StoreError;
use crate::tls::{self, Tls, TlsFiles};
use crate::witness::quorum;
use crate::witness::{QuorumSettings, RunningWitness, WitnessSettings, WitnessState};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Between two looks at identities.toml, at due dates and at the log's growth.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked for custom key stores that shall be connected.
const CONNECT_LOOK: Duration = Duration::from_millis(200);
/// Between two looks at the log's growth, when records wait behind Kafka for a checkpoint.
const LOOK_SHIPPED: Duration = Duration::from_millis(200);
/// How long a stop waits for changes whose callers have gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for the witnesses.
const LAST_ROUND: Duration = Duration::from_secs(2);
/// Rows wait this long for company before they are deleted.
const CLEAN_PAUSE: Duration = Duration::from_millis(200);
/// An idle store is told how far the journal has come each time it has grown by this much.
const CLEAN_RECORDS: u64 = 100_000;
/// How long an action id is remembered.
const ACTIONS_KEPT_US: u64 = 30 * 86_400 * 1_000_000;
const PRUNE: Duration = Duration::from_secs(3_600);
/// Between two looks for segments that may go.
const PRUNE_JOURNAL: Duration = Duration::from_secs(60);
/// Below the data folder: where our own parts reach a key service that speaks TLS.
pub const LOCAL_SOCKET: &str = "run/kms.sock";

/// How a node is run.
#[derive(Clone)]
pub struct KmsConfig {
    /// The data folder, made by `init`.
    pub dir: PathBuf,
    /// Where to listen; loopback only without TLS.
    pub listen: SocketAddr,
    /// TLS for the listener. Our own parts then use [`LOCAL_SOCKET`].
    pub tls: Option<TlsFiles>,
    /// SHA-256 of the configuration in force, in hex, for the log.
    pub config_hash: String,
    /// Bounds of the journal.
    pub journal: JournalOptions,
    /// How long the journal keeps records; None for ever.
    pub journal_keep: Option<Duration>,
    /// Kafka brokers whose newest checkpoint the journal is compared with; None when nothing is shipped.
    pub brokers: Option<String>,
    /// What opens a sealed root key.
    pub seal_key: Option<Arc<SealKey>>,
    /// What accounts may call how often.
    pub quotas: QuotaSettings,
    /// Files with the public keys (JWKS) of identity providers, by issuer.
    pub issuer_keys: BTreeMap<String, PathBuf>,
    /// The regions that are served, that of `init` among them; empty for that one alone.
    pub regions: Vec<String>,
    /// The tokens that custom key stores may be in, by cluster id.
    pub clusters: Clusters,
    /// Whether the listener gives the log's checkpoint and tiles to whoever asks.
    pub serve_log: bool,
    /// Where the signer's own process answers; None for a signer whose key is in the data folder.
    pub signer_socket: Option<PathBuf>,
    /// Which witnesses must cosign.
    pub quorum: Option<QuorumSettings>,
    /// Who may declare a gap, two at least of them; the log says so at each start.
    pub operators: Vec<VerifyKey>,
    /// The witness that this node is for its peers.
    pub witness: Option<WitnessSettings>,
}

impl KmsConfig {
    /// The defaults for a folder and an address.
    pub fn new(dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            dir: dir.into(),
            listen,
            tls: None,
            config_hash: String::new(),
            journal: JournalOptions::default(),
            journal_keep: None,
            brokers: None,
            seal_key: None,
            quotas: QuotaSettings::default(),
            issuer_keys: BTreeMap::new(),
            regions: Vec::new(),
            clusters: Clusters::new(),
            serve_log: true,
            signer_socket: None,
            quorum: None,
            operators: Vec::new(),
            witness: None,
        }
    }
}

/// Moves the signing key of a stopped node, and its memory, to the folder of a signer of its own.
pub fn move_signer(dir: &Path, to: &Path) -> Result<VerifyKey, StartError> {
    let _lock = FolderLock::take(dir)?;
    Ok(move_key(&dir.join("checkpoints"), to)?)
}

/// Whether a node has the folder open. Its lock is tried for that, and let go.
pub fn is_running(dir: &Path) -> bool {
    matches!(FolderLock::take(dir), Err(StartError::Locked { .. }))
}

/// The KMS service.
pub struct Kms;

/// A service that runs.
pub struct RunningKms {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The log's name.
    pub origin: String,
    /// The log's id.
    pub log: LogId,
    node: Arc<Node>,
    tls: Option<Arc<Tls>>,
    compared: watch::Receiver<bool>,
    /// Asks the witnesses, until the last checkpoint was offered to them.
    asking: JoinSet<()>,
    witness: Option<RunningWitness>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    jobs: JoinSet<()>,
    lock: FolderLock,
}

impl Kms {
    /// Opens the folder, appends what the log owes, and serves.
    pub async fn start(config: KmsConfig, clock: Arc<dyn Clock>) -> Result<RunningKms, StartError> {
        if !config.listen.ip().is_loopback() && config.tls.is_none() {
            return Err(StartError::NotLoopback { address: config.listen });
        }
        let tls = config
            .tls
            .clone()
            .map(|files| Tls::open(files, tls::HTTP))
            .transpose()
            .map_err(StartError::Tls)?
            .map(Arc::new);
        let listening = |source| StartError::Listen { address: config.listen, source };
        // Before anything is recorded: a busy port must not leave an epoch behind.
        let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
        let addr = listener.local_addr().map_err(listening)?;
        // Not in an empty folder, which `init` could then not use.
        let witness = match config.witness.clone().filter(|_| is_initialised(&config.dir)) {
            Some(settings) => Some(crate::witness::start(settings, Arc::clone(&clock)).await?),
            None => None,
        };
        let Opened { node, lock, published } = recover::open(&config, clock).await?;
        for (region, keys) in node.registry.key_counts() {
            if !node.regions.contains(&region) {
                tracing::warn!(%region, keys, "keys are in a region that the configuration does not name: nobody reaches them");
            }
        }
        let (stop, stopped) = watch::channel(false);
        let api = Arc::new(Api::new(Arc::clone(&node), config.serve_log));
        let mut servers = JoinSet::new();
        let door = match &tls {
            None => Door::Plain(listener),
            Some(tls) => {
                let local = local_socket(&config.dir.join(LOCAL_SOCKET))?;
                servers.spawn(api::serve(Arc::clone(&api), Door::Local(local), stopped.clone()));
                Door::Tls(listener, Arc::clone(tls))
            }
        };
        servers.spawn(api::serve(api, door, stopped.clone()));
        let look = if config.brokers.is_some() { LOOK_SHIPPED } else { LOOK };
        let mut jobs = jobs(&node, &stopped, look);
        let mut asking = JoinSet::new();
        if node.quorum.is_some() {
            asking.spawn(quorum::follow(Arc::clone(&node)));
        }
        match local_socket(&config.dir.join(ROOT_KEY_SOCKET)) {
            Ok(listener) => {
                jobs.spawn(until(stopped.clone(), root_door::serve(Arc::clone(&node), listener)));
            }
            // Everything else works; the root key can be rotated while the node is stopped.
            Err(error) => tracing::warn!(error = %chain(&error), "the root key cannot be rotated while the node runs"),
        }
        let (comparing, compared) = watch::channel(published != Published::Unreachable);
        if let Some(keep) = config.journal_keep {
            let shipped = config.brokers.is_some();
            jobs.spawn(until(stopped.clone(), prune_journal(Arc::clone(&node), keep, shipped)));
        }
        if let (Some(brokers), Published::Unreachable) = (config.brokers, published) {
            jobs.spawn(until(stopped, compare_later(Arc::clone(&node), brokers, comparing)));
        }
        tracing::info!(%addr, origin = node.origin, keys = node.key_count(), "kms serves");
        let (origin, log) = (node.origin.clone(), node.log());
        Ok(RunningKms { addr, origin, log, node, tls, compared, asking, witness, stop, servers, jobs, lock })
    }
}

/// How a node is, for whoever runs it.
#[derive(Clone, Debug)]
pub struct Health {
    /// Why it cannot answer calls as it should; empty when it can.
    pub trouble: Vec<String>,
    /// Records that are durable.
    pub durable_records: u64,
    /// Records under the newest checkpoint.
    pub signed_records: u64,
    /// Age of the oldest record that no checkpoint covers, in seconds.
    pub unsigned_s: f64,
    /// The witnesses' side, where a policy names any.
    pub witnessed: Option<Witnessed>,
    /// Keys.
    pub keys: usize,
    /// Unix time at which the certificate in use ends; None without TLS.
    pub certificate_ends_s: Option<i64>,
    /// What was answered since the start.
    pub calls: CallCounts,
}

/// What the witnesses have covered.
#[derive(Clone, Debug)]
pub struct Witnessed {
    /// Records under a checkpoint that the quorum has cosigned.
    pub records: u64,
    /// Age of the oldest record that none covers, in seconds: the unwitnessed window.
    pub unwitnessed_s: f64,
    /// Calls that got an error because the quorum did not cover them in time.
    pub replies_not_sent: u64,
    /// Each witness.
    pub witnesses: Vec<WitnessState>,
}

impl RunningKms {
    /// Tells how the node is, as long as there is one.
    pub fn health(&self) -> impl Fn() -> Option<Health> + Send + Sync + 'static {
        let (node, compared, tls) = (Arc::downgrade(&self.node), self.compared.clone(), self.tls.clone());
        move || {
            let node = node.upgrade()?;
            let failed = node.failed.borrow().clone();
            let refusing = node.journal.refusing().map(|refusal| format!("journal: {refusal}"));
            let comparing = (!*compared.borrow()).then(|| "not compared with Kafka yet".to_owned());
            let durable_records = node.journal.durable().borrow().next_seq;
            let signed_records = node.signer.signed().map_or(0, |head| head.size);
            let witnessed = node.quorum.as_ref().map(|quorum| Witnessed {
                records: quorum.covered(),
                unwitnessed_s: age_s(&node, quorum.covered(), durable_records),
                replies_not_sent: quorum.unwitnessed(),
                witnesses: quorum.states(),
            });
            Some(Health {
                trouble: failed.into_iter().chain(refusing).chain(comparing).collect(),
                durable_records,
                signed_records,
                unsigned_s: age_s(&node, signed_records, durable_records),
                witnessed,
                keys: node.key_count(),
                certificate_ends_s: tls.as_ref().and_then(|tls| tls.current().ends_s),
                calls: node.calls.read(),
            })
        }
    }

    /// The node, for looking at.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Waits until the node can serve no more, and says why. It must then be shut down and started anew.
    pub async fn failed(&self) -> String {
        let mut failed = self.node.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_default()
    }

    /// Waits until the journal was found to be the one that Kafka holds, or nothing was there to compare with. Nothing
    /// may be shipped before: it would publish another history, and agree with it later.
    pub async fn compared(&self) {
        let mut compared = self.compared.clone();
        // The job is gone only when the node is.
        if compared.wait_for(|done| *done).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets answers under way go out, records the stop, signs the last checkpoint and gives up the folder.
    pub async fn shutdown(mut self) -> Result<(), StartError> {
        self.stop.send_replace(true);
        while let Some(ended) = self.servers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "server ended badly");
            }
        }
        while self.jobs.join_next().await.is_some() {}
        drop(self.witness);
        let stopped = finish(&self.node).await;
        if let (Ok(size), Some(quorum)) = (&stopped, &self.node.quorum)
            && !quorum.reached(*size, LAST_ROUND).await
        {
            tracing::warn!(covered = quorum.covered(), size, "the last records are not cosigned by the quorum");
        }
        self.asking.shutdown().await;
        give_up(self.node, self.lock).await?;
        stopped.map(|_| ())
    }

    /// Where the witness for other logs listens, if this node is one.
    pub fn witness(&self) -> Option<&RunningWitness> {
        self.witness.as_ref()
    }

    /// How many records are durable, and notice whenever that moves.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.node.journal.durable()
    }

    /// How many records are under a checkpoint that the quorum has cosigned, and notice whenever that moves; None without
    /// a policy.
    pub fn covered(&self) -> Option<watch::Receiver<u64>> {
        self.node.quorum.as_ref().map(|quorum| quorum.follow_covered())
    }
}

/// The end of a node that never served.
pub(crate) async fn close(node: Arc<Node>, lock: FolderLock) -> Result<(), StartError> {
    let stopped = finish(&node).await;
    give_up(node, lock).await?;
    stopped.map(|_| ())
}

/// The end of a node as a crash would end it: nothing more is recorded, nothing signed.
pub(crate) async fn give_up(node: Arc<Node>, lock: FolderLock) -> Result<(), StartError> {
    let dropping = tokio::task::spawn_blocking(move || {
        drop(node);
        drop(lock);
    });
    dropping.await.map_err(|_| StartError::Task)
}

/// The last records and the last checkpoint of a node, served or not; gives the log's size.
async fn finish(node: &Arc<Node>) -> Result<u64, StartError> {
    if tokio::time::timeout(STOP_TIMEOUT, node.outbox.close()).await.is_err() {
        tracing::error!("changes still under way at the stop; the next start appends their events");
    }
    let clean = node.outbox.to_clean();
    if let Err(error) = node.store.clean(clean).await {
        tracing::warn!(%error, "outbox not cleaned at the stop");
    }
    let durable_seq = node.journal.durable().borrow().next_seq.checked_sub(1);
    if let Err(error) = node.usages.store(&node.store, durable_seq).await {
        tracing::warn!(%error, "last uses of keys not stored at the stop; the next start reads them back");
    }
    let stopped = record_refusals(node).await;
    let payload = json!({"recordVersion": 1, "epoch": node.journal.epoch(), "timeMicros": node.clock.now_us()});
    let stopped = match stopped {
        Ok(()) => recover::record(node, Kind::Stop, &payload).await,
        Err(error) => Err(error),
    };
    let closing = Arc::clone(node);
    let signed = tokio::task::spawn_blocking(move || {
        closing.journal.close();
        closing.sign_head()
    });
    match signed.await.map_err(|_| StartError::Task)? {
        Ok(_) => {}
        // The next start, or the next second of it, signs what this one leaves.
        Err(error) if error.is_away() => tracing::warn!(error = %chain(&error), "the last checkpoint is not signed"),
        Err(error) => return Err(error.into()),
    }
    stopped.map(|seq| seq + 1)
}

/// Seconds since the record at `covered` got its seq; none if nothing is there yet.
fn age_s(node: &Node, covered: u64, durable: u64) -> f64 {
    if covered >= durable {
        return 0.0;
    }
    let frames = read_range(&node.journal_dir(), covered, 1).unwrap_or_default();
    let time_us = frames.first().and_then(|frame| Leaf::decode(&frame.leaf).ok()).map(|leaf| leaf.time_us);
    time_us.map_or(f64::NAN, |time_us| node.clock.now_us().saturating_sub(time_us) as f64 / 1e6)
}

fn jobs(node: &Arc<Node>, stopped: &watch::Receiver<bool>, look: Duration) -> JoinSet<()> {
    let mut jobs = JoinSet::new();
    jobs.spawn(until(stopped.clone(), heartbeats(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), checkpoints(Arc::clone(node), look)));
    jobs.spawn(until(stopped.clone(), clean_outbox(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), due_changes(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), store_usage(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), watch_identities(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), watch_seal(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), connect_key_stores(Arc::clone(node))));
    jobs.spawn(until(stopped.clone(), prune_actions(Arc::clone(node))));
    jobs
}

/// The socket for our own parts.
fn local_socket(path: &Path) -> Result<UnixListener, StartError> {
    let made = std::fs::create_dir_all(path.parent().unwrap_or(path)).and_then(|()| file::bind_socket(path, 0o600));
    made.map_err(|source| StartError::Socket { path: path.to_owned(), source })
}

/// Changes carried by a job go through even when the stop comes: they run in tasks of their own.
async fn until(mut stopped: watch::Receiver<bool>, job: impl Future<Output = ()>) {
    tokio::select! {
        () = job => {}
        _ = stopped.wait_for(|stop| *stop) => {}
    }
}

async fn heartbeats(node: Arc<Node>) {
    let mut offset = ClockOffset::new(&node);
    let mut ticks = ticks(HEARTBEAT);
    loop {
        ticks.tick().await;
        let payload = json!({
            "recordVersion": 1,
            "timeMicros": node.clock.now_us(),
            "clockOffsetMicros": offset.micros(&node),
            "keys": node.key_count(),
        });
        if let Err(error) = recover::record(&node, Kind::Heartbeat, &payload).await {
            tracing::warn!(%error, "heartbeat not recorded");
        }
        if let Err(error) = record_refusals(&node).await {
            tracing::warn!(%error, "refusals not recorded");
        }
    }
}

/// How far the wall clock has moved against the monotonic one since the start: a jump shows at once.
struct ClockOffset {
    wall_us: u64,
    monotonic: Instant,
}

impl ClockOffset {
    fn new(node: &Node) -> Self {
        Self { wall_us: node.clock.now_us(), monotonic: Instant::now() }
    }

    fn micros(&mut self, node: &Node) -> i64 {
        let wall = i128::from(node.clock.now_us()) - i128::from(self.wall_us);
        let elapsed = i128::try_from(self.monotonic.elapsed().as_micros()).unwrap_or(i128::MAX);
        i64::try_from(wall - elapsed).unwrap_or(i64::MAX)
    }
}

async fn record_refusals(node: &Node) -> Result<(), StartError> {
    let Some(payload) = node.refusals.take(node.clock.now_us()) else { return Ok(()) };
    let recorded = recover::record(node, Kind::Refusals, &payload).await;
    if recorded.is_err() {
        node.refusals.put_back(&payload);
    }
    recorded.map(|_| ())
}

async fn checkpoints(node: Arc<Node>, look: Duration) {
    let durable = node.journal.durable();
    let (mut signed, mut away) = (None, false);
    let mut ticks = ticks(look);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.checkpoint_wanted.notified() => {}
        }
        let size = durable.borrow().next_seq;
        if signed == Some(size) {
            continue;
        }
        let signing = Arc::clone(&node);
        match tokio::task::spawn_blocking(move || signing.sign_head()).await {
            Ok(Ok(_)) => {
                signed = Some(size);
                if std::mem::take(&mut away) {
                    tracing::info!(size, "signer is back");
                }
            }
            // Calls are answered all the same; said once.
            Ok(Err(error)) if error.is_away() => {
                if !std::mem::replace(&mut away, true) {
                    tracing::error!(error = %chain(&error), "checkpoint cannot be signed");
                }
            }
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), "checkpoint cannot be signed");
                if error.is_rollback() {
                    node.fail(format!("checkpoint: {error}"));
                }
            }
            Err(error) => tracing::error!(%error, "checkpoint task ended"),
        }
    }
}

/// Kafka did not answer at the start: asks until it does, then compares once. A conflict stops the node.
async fn compare_later(node: Arc<Node>, brokers: String, compared: watch::Sender<bool>) {
    let mut ticks = ticks(HEARTBEAT);
    // The first tick is at once, and that has just been tried.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let (comparing, brokers) = (Arc::clone(&node), brokers.clone());
        match tokio::task::spawn_blocking(move || recover::compare_published(&comparing, &brokers)).await {
            Ok(Ok(Published::Unreachable)) => {}
            Ok(Ok(published)) => {
                tracing::info!(?published, "journal compared with what Kafka holds");
                compared.send_replace(true);
                return;
            }
            Ok(Err(error)) => return node.fail(chain(&error)),
            Err(error) => tracing::error!(%error, "comparison with Kafka ended"),
        }
    }
}

async fn clean_outbox(node: Arc<Node>) {
    let mut told = 0;
    let mut ticks = ticks(HEARTBEAT);
    loop {
        tokio::select! {
            () = node.outbox.something_recorded() => tokio::time::sleep(CLEAN_PAUSE).await,
            _ = ticks.tick() => {}
        }
        let clean = node.outbox.to_clean();
        let through = clean.clean_through.unwrap_or(0);
        if clean.event_ids.is_empty() && through < told + CLEAN_RECORDS {
            continue;
        }
        match node.store.clean(clean.clone()).await {
            Ok(()) => {
                told = through;
                node.outbox.cleaned(&clean);
            }
            // The rows stay, and are asked for again.
            Err(error) => tracing::warn!(%error, "outbox rows not deleted"),
        }
    }
}

async fn due_changes(node: Arc<Node>) {
    let mut ticks = ticks(LOOK);
    loop {
        ticks.tick().await;
        let changing = Arc::clone(&node);
        let changes = async move {
            ops::make_due_changes(&changing).await;
            ops::advance_retirements(&changing).await;
            ops::end_former_tokens(&changing).await
        };
        // In a task of its own: a change under way must not be dropped at the stop.
        if tokio::spawn(changes).await.is_err() {
            tracing::error!("job of due changes panicked");
        }
    }
}

async fn store_usage(node: Arc<Node>) {
    let durable = node.journal.durable();
    let mut ticks = ticks(HEARTBEAT);
    loop {
        ticks.tick().await;
        let durable_seq = durable.borrow().next_seq.checked_sub(1);
        if let Err(error) = node.usages.store(&node.store, durable_seq).await {
            tracing::warn!(%error, "last uses of keys not stored");
        }
    }
}

async fn watch_identities(node: Arc<Node>) {
    let path = node.dir.join("identities.toml");
    let mut ticks = ticks(LOOK);
    let mut seen = None;
    loop {
        seen = Stamp::change(&path, seen, &mut ticks).await;
        let reloading = Arc::clone(&node);
        let path = path.clone();
        let reloaded = tokio::spawn(async move { reload_identities(&reloading, &path).await }).await;
        match reloaded {
            Ok(Ok(true)) => tracing::info!("identities.toml loaded"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&*error), "identities.toml refused, the former stay in force")
            }
            Err(error) => tracing::error!(%error, "identities task ended"),
        }
    }
}

/// Puts another sealing of the root key into the log. The key itself is in memory and stays the same.
async fn watch_seal(node: Arc<Node>) {
    let path = node.dir.join("root.key");
    let mut ticks = ticks(LOOK);
    let mut seen = None;
    loop {
        let now = Stamp::change(&path, seen, &mut ticks).await;
        let changed = Arc::clone(&node);
        // In a task of its own: a change under way must not be dropped at the stop.
        let noted = tokio::spawn(async move {
            ops::note_seal(&changed).await.unwrap_or_else(|error| {
                tracing::error!(error = %chain(&error), "the node could not start again with this root key file");
                true
            })
        });
        if noted.await.unwrap_or(true) {
            seen = now;
        }
    }
}

/// Loads identities.toml if it says something else than what is in force.
async fn reload_identities(node: &Arc<Node>, path: &Path) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let path = path.to_owned();
    let identities = tokio::task::spawn_blocking(move || IdentitiesFile::new(path).load()).await??;
    if node.access.read().same_identities(&identities) {
        return Ok(false);
    }
    ops::load_identities(node, Arc::new(identities)).await?;
    Ok(true)
}

/// Connects the custom key stores that shall be connected, and records when one hangs.
async fn connect_key_stores(node: Arc<Node>) {
    let mut ticks = ticks(CONNECT_LOOK);
    loop {
        ticks.tick().await;
        for store in node.registry.key_stores() {
            if let Some(attempt) = store.link.begin() {
                // In a task of its own: a token that hangs must not keep others waiting, nor the stop drop its event.
                tokio::spawn(ops::connect_key_store(Arc::clone(&node), store, attempt));
            } else if store.link.has_turned() {
                tokio::spawn(ops::note_key_store(Arc::clone(&node), store));
            }
        }
    }
}

async fn prune_actions(node: Arc<Node>) {
    let mut ticks = ticks(PRUNE);
    loop {
        ticks.tick().await;
        let before_us = node.clock.now_us().saturating_sub(ACTIONS_KEPT_US);
        if let Err(error) = node.store.prune_actions(before_us).await {
            tracing::warn!(%error, "old actions not forgotten");
        }
    }
}

/// Removes journal segments that are past their retention and needed by nobody.
async fn prune_journal(node: Arc<Node>, keep: Duration, shipped: bool) {
    let mut ticks = ticks(PRUNE_JOURNAL);
    loop {
        ticks.tick().await;
        let pruning = Arc::clone(&node);
        match tokio::task::spawn_blocking(move || pruning.prune_journal(keep, shipped)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(done))) => {
                tracing::info!(minimum_index = done.minimum_index, count = done.count, "journal pruned")
            }
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "journal is not pruned"),
            Err(error) => tracing::error!(%error, "pruning ended"),
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    crate::describe(error)
}
