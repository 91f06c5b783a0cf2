//! `keytrail kms`, `keytrail trail`, `keytrail responder`: one part each, until a signal.
//!
//! Each prints one `ready` line on stdout when it serves; scripts and `up` wait for it.

use super::health::Report;
use super::{Settings, reports, say, seal_key, stop_signal};
use crate::cli::{NodeArgs, ResponderArgs, ResponseArgs};
use crate::config::{Config, QuorumSection, WitnessSection};
use crate::shipped;
use anyhow::{Context, bail};
use async_trait::async_trait;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::chain::{LogId, VerifyKey};
use keytrail_kms::client::{Client, ClientOptions, Trust};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_kms::file::Stamp;
use keytrail_kms::journal::{JournalOptions, Reader};
use keytrail_kms::service::{Kms, KmsConfig, LOCAL_SOCKET, QuotaSettings, RunningKms};
use keytrail_kms::ship::{RunningShipper, ShipConfig, Shipper};
use keytrail_kms::signer::read_keys;
use keytrail_kms::topics::{ALERTS, AUDIT};
use keytrail_kms::witness::{QuorumSettings, WitnessSettings};
use keytrail_responder::config::{AlertOrigin, AllowedRule, SmtpSettings, TlsMode};
use keytrail_responder::http::Door;
use keytrail_responder::{Responder, ResponderConfig, RunningResponder};
use keytrail_trail::lake::LakeOptions;
use keytrail_trail::publish::AlertRelay;
use keytrail_trail::rule::RuleSet;
use keytrail_trail::service::{
    CheckpointError, CheckpointSource, NodeCheckpoints, NotesOpener, RunningTrail, SourceOpener, Trail, TrailConfig,
    WatchedLog,
};
use keytrail_trail::source::FrameSource;
use keytrail_trail::source::journal::JournalSource;
use keytrail_trail::source::kafka::{KafkaConfig, KafkaSource};
use keytrail_trail::source::node::NodeFrames;
use keytrail_trail::source::notes::kafka_notes;
use keytrail_trail::store::Store;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Where our own parts reach the running key service is written here, for commands on the same machine.
const ENDPOINT_FILE: &str = "run/kms.endpoint";
/// The credential of the hourly self-test, where there is one.
pub(super) const SELF_TEST_FILE: &str = "self-test";
/// How often the site's values are looked at.
const SITE_EVERY: Duration = Duration::from_millis(500);
/// How long a trail lets a change of them rest: the responder has taken it by then, and knows the rules of each alert.
const SITE_RESTS: Duration = Duration::from_secs(2);
/// How long a stop waits for the last records to reach the broker.
const SHIP_REST: Duration = Duration::from_secs(5);

/// The key service, with shipping to Kafka when brokers are given.
pub(crate) async fn kms(args: NodeArgs) -> anyhow::Result<()> {
    if super::init::is_needed(&args)? {
        bail!("{} is not initialised: run `keytrail init` first", args.data.data.display());
    }
    let settings = Settings::of(&args)?;
    if settings.config.endpoint.is_some() {
        bail!("keytrail.toml has an [endpoint], which is for machines without a key service");
    }
    let mut signal = stop_signal()?;
    let kms = start_kms(settings.kms_config()?).await?;
    if kms.origin != settings.config.node.origin {
        let found = kms.origin.clone();
        kms.shutdown().await.context("stop the key service")?;
        bail!("keytrail.toml names the log {}, but this folder's log is {found}", settings.config.node.origin);
    }
    let settings = Settings { listen: kms.addr, ..settings };
    write_endpoint(&settings)?;
    let shipping: Arc<Mutex<Weak<RunningShipper>>> = Arc::default();
    let stopping = Arc::new(AtomicBool::new(false));
    let health = settings.health(reports::kms(&kms, &settings.dir, &stopping, &shipping)).await?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let witness = kms.witness().map_or_else(String::new, |witness| format!(" witness={}", witness.addr));
    say(&format!("ready kms={scheme}://{} origin={}{witness}{health}", kms.addr, kms.origin));
    let mut shipper = None;
    let failed = loop {
        tokio::select! {
            () = signal.wait() => break None,
            reason = kms.failed() => break Some(reason),
            () = kms.compared(), if shipper.is_none() && settings.brokers.is_some() => {
                let brokers = settings.brokers.as_deref().unwrap_or_default();
                let started = Shipper::start(settings.ship_config(brokers, kms.log)).context("ship to Kafka")?;
                let started = shipper.insert(Arc::new(started));
                *shipping.lock().expect("nothing panics under it") = Arc::downgrade(started);
            }
        }
    };
    stopping.store(true, Ordering::Relaxed);
    forget_endpoint(&settings.dir);
    kms.shutdown().await.context("stop the key service")?;
    if let Some(shipper) = shipper {
        ship_the_rest(&settings.dir, &shipper).await;
    }
    failed.map_or(Ok(()), |reason| bail!("the key service cannot go on: {reason}"))
}

/// Lets the last records reach the broker, if it is there; what is left is shipped at the next start.
async fn ship_the_rest(dir: &Path, shipper: &RunningShipper) {
    let durable = Reader::open(&dir.join("journal"), 0).and_then(|reader| reader.durable());
    let Ok(durable) = durable else { return };
    let end = tokio::time::Instant::now() + SHIP_REST;
    while shipper.lag().shipped_seq < durable && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the service; also the benches do.
pub(crate) async fn start_kms(config: KmsConfig) -> anyhow::Result<RunningKms> {
    let dir = config.dir.clone();
    Kms::start(config, Arc::new(SystemClock))
        .await
        .with_context(|| format!("start the key service on {}", dir.display()))
}

/// The trail: journal or Kafka in, lake, rules and alerts out.
pub(crate) async fn trail(args: NodeArgs) -> anyhow::Result<()> {
    let settings = Settings::of(&args)?;
    let mut signal = stop_signal()?;
    let mut trail = Trail::start(settings.trail_config()?).await.context("start the trail")?;
    let relay = match &settings.brokers {
        Some(brokers) => {
            Some(AlertRelay::start(&settings.dir.join("trail.db"), brokers).context("publish alerts to Kafka")?)
        }
        None => None,
    };
    let health = settings.health(reports::trail(&trail, &settings.dir)).await?;
    let sql = super::sql_servers::start(&settings, &trail).await?;
    say(&format!("ready trail={}{sql}{health}", settings.dir.join("lake").display()));
    let mut site = SiteFile::new(&settings.rules, SITE_RESTS);
    let mut reload =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).context("listen for SIGHUP")?;
    let watch_over = super::responder_down::tell_people(settings.dir.clone(), settings.config.responder.clone());
    tokio::pin!(watch_over);
    let failed = loop {
        tokio::select! {
            () = signal.wait() => break None,
            () = &mut watch_over => {}
            error = trail.ended() => break Some(error),
            _ = reload.recv() => reload_rules(&trail).await,
            () = site.changed() => reload_rules(&trail).await,
        }
    };
    let stopped = match failed {
        None => trail.shutdown().await.context("stop the trail"),
        Some(error) => Err(error).context("the trail cannot go on"),
    };
    // After the trail: its last records may have raised an alert.
    drop(relay);
    stopped
}

async fn reload_rules(trail: &RunningTrail) {
    match trail.reload().await {
        Ok(rules) => tracing::info!(rules, "rules loaded again"),
        Err(error) => tracing::error!("{:#}", anyhow::Error::new(error)),
    }
}

/// params.toml, the site's values for rules: `keytrail canary` changes it, or people do.
struct SiteFile {
    path: PathBuf,
    rests: Duration,
    seen: Option<Stamp>,
    tick: tokio::time::Interval,
}

impl SiteFile {
    fn new(rules: &Path, rests: Duration) -> Self {
        let path = rules.join("params.toml");
        let mut tick = tokio::time::interval(SITE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { seen: Stamp::of(&path), path, rests, tick }
    }

    /// Comes back when the file is another one and has been left alone for a while.
    async fn changed(&mut self) {
        loop {
            self.tick.tick().await;
            let found = Stamp::of(&self.path);
            let rested = found.is_none_or(|stamp| stamp.age().is_some_and(|age| age >= self.rests));
            if found != self.seen && rested {
                self.seen = found;
                return;
            }
        }
    }
}

/// The responder: alerts in, actions and notices out.
pub(crate) async fn responder(args: ResponderArgs) -> anyhow::Result<()> {
    let settings = Settings::of(&args.node)?;
    let mut signal = stop_signal()?;
    let config = settings.responder_config(&args.response)?;
    let mode = if config.enforce { "enforce" } else { "observe" };
    let playbooks_dir = config.playbooks_dir.clone();
    let mut responder = Responder::start(config, Arc::new(SystemClock)).context("start the responder")?;
    let disables_max = settings.config.responder.limits.disable_keys_per_hour;
    let failing_bound = settings.config.responder.notify.last_resort_after;
    let health = settings.health(reports::responder(&settings.dir, disables_max, failing_bound)).await?;
    let incidents = match &settings.config.responder.http {
        Some(http) => {
            let door = Door::new(settings.dir.clone(), responder.store().clone(), Arc::new(SystemClock));
            super::incident::start_listener(http, door).await?
        }
        None => String::new(),
    };
    say(&format!("ready responder={}{incidents}{health}", settings.dir.join("responder.db").display()));
    tracing::debug!(mode, "playbooks");
    let mut site = SiteFile::new(&settings.rules, Duration::ZERO);
    let mut reload =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).context("listen for SIGHUP")?;
    let tests = super::self_test::regularly(&settings.dir, settings.config.responder.self_test_every);
    tokio::pin!(tests);
    let allowed =
        |responder: &RunningResponder| responder.allow_rules(&settings.allowed_rules()?).context("keep the rules");
    let allow = |responder: &RunningResponder| match allowed(responder) {
        Ok(()) => {}
        Err(error) => tracing::error!("{error:#}; the earlier rules stay allowed"),
    };
    let reload_playbooks = |responder: &RunningResponder| match responder.reload_playbooks(&playbooks_dir) {
        Ok(playbooks) => tracing::info!(playbooks, "playbooks loaded again"),
        Err(error) => tracing::error!("{:#}; the earlier playbooks stay in force", anyhow::Error::new(error)),
    };
    let failed = loop {
        tokio::select! {
            () = signal.wait() => break None,
            () = responder.failed() => break Some("one of its loops ended"),
            _ = reload.recv() => {
                allow(&responder);
                reload_playbooks(&responder);
            }
            () = site.changed() => allow(&responder),
            () = &mut tests => {}
        }
    };
    responder.shutdown().await;
    failed.map_or(Ok(()), |reason| bail!("the responder cannot go on: {reason}"))
}

impl Settings {
    /// Where the key service of this folder is reached, and what TLS to it needs.
    pub(crate) fn endpoint(dir: &Path, config: &Config) -> anyhow::Result<(String, Trust)> {
        if let Some(endpoint) = &config.endpoint {
            return Ok((endpoint.url.clone(), endpoint.trust()?));
        }
        let file = dir.join(ENDPOINT_FILE);
        let endpoint = std::fs::read_to_string(&file);
        let endpoint = endpoint.with_context(|| format!("read {}: does the key service run here?", file.display()))?;
        Ok((endpoint.trim().to_owned(), Trust::default()))
    }

    /// Where trail and responder reach it: on another machine as they are told, on the same one beside TLS by a socket,
    /// which takes neither trust nor a client certificate.
    fn own_endpoint(&self) -> anyhow::Result<(String, Trust)> {
        match (&self.config.endpoint, &self.tls) {
            (Some(endpoint), _) => Ok((endpoint.url.clone(), endpoint.trust()?)),
            (None, Some(_)) => Ok((format!("unix:{}", self.dir.join(LOCAL_SOCKET).display()), Trust::default())),
            (None, None) => Ok((format!("http://{}", self.listen), Trust::default())),
        }
    }

    /// Serves what a part says about itself, if that is wanted; gives the field for its ready line.
    async fn health(&self, report: impl Fn() -> Report + Send + Sync + 'static) -> anyhow::Result<String> {
        match self.health {
            Some(addr) => Ok(format!(" health={}", super::health::serve(addr, report).await?)),
            None => Ok(String::new()),
        }
    }

    fn kms_config(&self) -> anyhow::Result<KmsConfig> {
        let file = self.dir.join("keytrail.toml");
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let mut config = KmsConfig::new(&self.dir, self.listen);
        config.config_hash = hex::encode(sha256(&[&bytes]));
        config.journal = JournalOptions {
            segment_bytes: self.config.kms.segment_size.as_u64(),
            append_bound: self.config.kms.append_bound,
            ..JournalOptions::default()
        };
        config.tls.clone_from(&self.tls);
        config.journal_keep = self.config.kms.journal_keep;
        config.brokers.clone_from(&self.brokers);
        config.seal_key = seal_key::of_root_key(&self.dir, self.passphrase_file.as_deref())?.map(Arc::new);
        config.quotas = self.config.quotas.clone();
        config.issuer_keys.clone_from(&self.config.issuer_keys);
        config.regions.clone_from(&self.config.node.regions);
        config.clusters.clone_from(&self.config.hsm);
        config.serve_log = self.config.kms.serve_log;
        config.signer_socket = self.config.signer.as_ref().map(|signer| signer.socket.clone());
        config.quorum = self.config.quorum.as_ref().map(|quorum| quorum_settings(&self.dir, quorum)).transpose()?;
        config.operators = self.config.recovery.operators()?;
        config.witness = self.config.witness.as_ref().map(|own| witness_settings(&self.dir, own)).transpose()?;
        Ok(config)
    }

    fn ship_config(&self, brokers: &str, log: LogId) -> ShipConfig {
        ShipConfig {
            brokers: brokers.to_owned(),
            journal_dir: self.dir.join("journal"),
            checkpoints_dir: self.dir.join("checkpoints"),
            log,
            replication: Some(self.config.kafka.replication),
        }
    }

    /// Signs as the trail.
    pub(super) fn trail_client(&self) -> anyhow::Result<Client> {
        let (endpoint, trust) = self.own_endpoint()?;
        let (credentials, region) = (self.service_credentials("trail")?, self.config.node.region.clone());
        let options = ClientOptions { trust, ..ClientOptions::default() };
        Client::with_options(&endpoint, credentials, region, options).context("make a client")
    }

    fn trail_config(&self) -> anyhow::Result<TrailConfig> {
        let trail = &self.config.trail;
        let log = self.watched_log()?;
        let client = self.trail_client()?;
        let checkpoints = NodeCheckpoints { client: client.clone(), latest: Some(self.dir.join("checkpoints/latest")) };
        Ok(TrailConfig {
            dir: self.dir.clone(),
            rules_dir: self.rules.clone(),
            tested: shipped::FILES,
            source: match &self.brokers {
                Some(brokers) => kafka_source(brokers),
                None => journal_source(&log),
            },
            notes: self.brokers.as_deref().map(notes_opener),
            fetcher: Some(Arc::new(NodeFrames { log: LogId::of_origin(&log.origin), client })),
            logs: vec![log],
            checkpoints: Arc::new(checkpoints),
            report_landed: self.config.kms.journal_keep.is_some(),
            lake: LakeOptions {
                seal_after: trail.seal_after,
                seal_rows: trail.seal_rows,
                seal_raw_bytes: trail.seal_size.as_u64(),
                keep: trail.lake_keep,
                ..LakeOptions::default()
            },
            clock: Arc::new(SystemClock),
        })
    }

    fn watched_log(&self) -> anyhow::Result<WatchedLog> {
        let text = match &self.config.response.log_vkey {
            Some(text) => text.clone(),
            None => std::fs::read_to_string(self.dir.join("checkpoints/vkey")).context("read the log's verify key")?,
        };
        let key: VerifyKey = text.trim().parse().context("read the log's verify key")?;
        let checkpoints = self.dir.join("checkpoints");
        let signer = read_keys(&checkpoints, Some(&key)).context("follow the log's keys")?;
        let origin = self.config.node.origin.clone();
        let spool = self.brokers.is_some();
        let frames = if spool {
            self.dir.join("spool").join(LogId::of_origin(&origin).to_string())
        } else {
            self.dir.join("journal")
        };
        Ok(WatchedLog { origin, signer, checkpoints, frames, spool })
    }

    fn responder_config(&self, args: &ResponseArgs) -> anyhow::Result<ResponderConfig> {
        let mut settings = self.config.responder.clone();
        if let Some(smtp) = &args.smtp {
            settings.smtp = Some(smtp_settings(smtp, args.mail_to.as_deref())?);
        }
        let response = &self.config.response;
        let (endpoint, trust) = self.own_endpoint()?;
        Ok(ResponderConfig {
            data_dir: self.dir.clone(),
            endpoint,
            trust,
            region: self.config.node.region.clone(),
            credentials: self.service_credentials("responder")?,
            rules: self.allowed_rules()?,
            playbooks_dir: self.rules.join("playbooks"),
            enforce: args.enforce || response.enforce,
            alerts: match &self.brokers {
                Some(brokers) => AlertOrigin::Kafka { brokers: brokers.clone(), topic: ALERTS.to_owned() },
                None => AlertOrigin::Table,
            },
            log_vkey: response.log_vkey.clone(),
            alert_vkey: match (&response.alert_vkey, &self.brokers) {
                (Some(key), _) => Some(key.clone()),
                // Trail and responder on one machine: the key is in the folder they share.
                (None, Some(_)) => {
                    Some(alert_vkey(&self.dir).context("read the alert key, or set response.alert_vkey")?)
                }
                (None, None) => None,
            },
            settings,
        })
    }

    /// Ids and hashes of the rules in force, which are those whose alerts the responder believes.
    fn allowed_rules(&self) -> anyhow::Result<Vec<AllowedRule>> {
        let rules = RuleSet::load(&self.rules).with_context(|| format!("load rules from {}", self.rules.display()))?;
        Ok(rules
            .rules()
            .iter()
            .map(|rule| AllowedRule { id: rule.id().to_owned(), hash: rule.hash().to_owned() })
            .collect())
    }

    fn service_credentials(&self, profile: &str) -> anyhow::Result<Credentials> {
        let file = self.dir.join("service-credentials");
        Credentials::read(&file, profile).with_context(|| format!("read [{profile}] of {}", file.display()))
    }
}

/// The trust policy that must be about this folder's log, and must be able to be met.
fn quorum_settings(dir: &Path, section: &QuorumSection) -> anyhow::Result<QuorumSettings> {
    let policy = super::witness::read_policy(&section.policy_file)?;
    let own: VerifyKey = super::read_key(&dir.join("checkpoints/vkey"))?;
    if !policy.logs().is_empty() && !policy.logs().contains(&own) {
        bail!("{} does not name this log: it wants a line `log {own}`", section.policy_file.display());
    }
    if !policy.is_quorum(|index| policy.witnesses().get(index).is_some_and(|witness| witness.url.is_some())) {
        bail!("{}: too few witnesses of the quorum have an address", section.policy_file.display());
    }
    let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("read {}", file.display()));
    Ok(QuorumSettings {
        policy,
        roots_pem: section.ca_file.as_ref().map(read).transpose()?,
        wait_for: section.wait_for.clone(),
        wait_bound: section.wait_bound,
    })
}

fn witness_settings(dir: &Path, section: &WitnessSection) -> anyhow::Result<WitnessSettings> {
    let logs = section.logs.iter().map(|file| super::read_key(file)).collect::<anyhow::Result<_>>()?;
    Ok(WitnessSettings {
        dir: dir.join("witness"),
        name: section.name.clone(),
        listen: section.listen,
        tls: section.tls.clone(),
        prefix: "/witness",
        logs,
    })
}

/// The key that the trail of this folder signs alerts with.
fn alert_vkey(dir: &Path) -> anyhow::Result<String> {
    Ok(Store::open(&dir.join("trail.db"))?.alert_key()?.verify_key().to_string())
}

/// The topic as the source; the trail spools what it lands, so the journal need not be on this machine.
fn kafka_source(brokers: &str) -> SourceOpener {
    let config =
        KafkaConfig { brokers: brokers.to_owned(), topic: AUDIT.to_owned(), group: "keytrail-trail".to_owned() };
    Box::new(move |wanted| Ok(Box::new(KafkaSource::open(config, wanted)?) as Box<dyn FrameSource>))
}

fn notes_opener(brokers: &str) -> NotesOpener {
    let brokers = brokers.to_owned();
    Box::new(move |since_us| kafka_notes(&brokers, since_us))
}

/// The journal itself as the source, read from where the least advanced consumer is.
fn journal_source(log: &WatchedLog) -> SourceOpener {
    let (id, frames) = (LogId::of_origin(&log.origin), log.frames.clone());
    Box::new(move |wanted| {
        let from = wanted.get(&id).copied().unwrap_or(0);
        let source = JournalSource::open(&frames, from)?;
        Ok(Box::new(source) as Box<dyn FrameSource>)
    })
}

/// `--smtp` is for a relay on this machine: plain text on loopback, STARTTLS anywhere else.
fn smtp_settings(address: &str, to: Option<&str>) -> anyhow::Result<SmtpSettings> {
    let (host, port) = address.rsplit_once(':').with_context(|| format!("--smtp {address}: give HOST:PORT"))?;
    let to = to.context("--smtp needs --mail-to")?;
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Ok(SmtpSettings {
        host: host.to_owned(),
        port: port.parse().with_context(|| format!("--smtp {address}: port"))?,
        tls: if loopback { TlsMode::None } else { TlsMode::Starttls },
        ca_file: None,
        username: None,
        password_file: None,
        from: "Keytrail <keytrail@localhost>".to_owned(),
        to: vec![to.to_owned()],
        timeout: Duration::from_secs(10),
        dkim: None,
    })
}

fn write_endpoint(settings: &Settings) -> anyhow::Result<()> {
    let file: PathBuf = settings.dir.join(ENDPOINT_FILE);
    if let Some(run) = file.parent() {
        std::fs::create_dir_all(run).with_context(|| format!("create {}", run.display()))?;
    }
    let (endpoint, _) = settings.own_endpoint()?;
    std::fs::write(&file, endpoint).with_context(|| format!("write {}", file.display()))
}

/// Another node may listen there next: it would answer our commands with a refusal.
fn forget_endpoint(dir: &Path) {
    if let Err(error) = std::fs::remove_file(dir.join(ENDPOINT_FILE)) {
        tracing::warn!(%error, "cannot take back where the key service is reached");
    }
}

/// What the benches run: a free port, no quotas, and the journal gate taken out for comparison.
pub(crate) fn bench_config(dir: &Path, journal_gate: bool) -> KmsConfig {
    let mut config = KmsConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)));
    config.journal.fdatasync = journal_gate;
    config.quotas = QuotaSettings::unlimited();
    config
}

/// A trail on a log that is on the topics already; its node is gone, so there is nobody to ask.
pub(crate) fn bench_trail_config(dir: &Path, rules: &Path, log: WatchedLog, brokers: &str) -> TrailConfig {
    struct Nobody;
    #[async_trait]
    impl CheckpointSource for Nobody {
        async fn checkpoint(&self, log: LogId, _size_min: u64) -> Result<String, CheckpointError> {
            Err(CheckpointError::Unknown(log))
        }
    }
    let config = bench_journal_config(dir, rules, log, Arc::new(Nobody), Arc::new(SystemClock));
    TrailConfig { source: kafka_source(brokers), notes: Some(notes_opener(brokers)), ..config }
}

/// A trail on a journal that the bench writes.
pub(crate) fn bench_journal_config(
    dir: &Path,
    rules: &Path,
    log: WatchedLog,
    checkpoints: Arc<dyn CheckpointSource>,
    clock: Arc<dyn Clock>,
) -> TrailConfig {
    TrailConfig {
        dir: dir.to_owned(),
        rules_dir: rules.to_owned(),
        tested: shipped::FILES,
        source: journal_source(&log),
        notes: None,
        fetcher: None,
        logs: vec![log],
        checkpoints,
        report_landed: false,
        lake: LakeOptions::default(),
        clock,
    }
}
