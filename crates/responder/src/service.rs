//! Wires the loops of a running responder: intake, worker, notifier; one process per data folder.
//!
//! Intake takes alerts in and wakes the worker the moment they are committed; mail waits for nobody and nobody for mail.
//! The two verify keys are pinned in responder.db at first use. `run/responder.lock` keeps a second responder (and an
//! `incident undo` that would act by itself) away.

use crate::act::{CallOuts, Control, Means, SignedControl, Worker, aws};
use crate::announced::{self, Announcements};
use crate::approval::Approver;
use crate::config::{AlertOrigin, AllowedRule, ResponderConfig, Settings};
use crate::contain::Containment;
use crate::guard::Outside;
use crate::http::link;
use crate::incident::record::Recorder;
use crate::ingest::{Outcome, Rules, take_in};
use crate::intake::{
    AlertSource, BATCH_ALERTS_MAX, KafkaAlertSource, RawAlert, Refusal, SourceError, TableSource, VerifiedAlert,
    Verifier,
};
use crate::notify::{Channel, Notifier, queue, receivers::ReceiverError};
use crate::outbox::ActionState;
use crate::playbook::{self, PlaybookError};
use crate::report::Reporter;
use crate::reset::Resetter;
use crate::retention::Retention;
use crate::standing;
use crate::store::{self, Micros, Store, StoreError};
use crate::waits::Waits;
use keytrail_kms::chain::LogKeys;
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::client::ClientError;
use keytrail_kms::clock::Clock;
use keytrail_kms::describe;
use keytrail_kms::signer::{read_keys, refresh_keys};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Longest wait for alerts before the loop looks whether it should stop.
const WAIT: Duration = Duration::from_millis(500);
/// Pause after something failed that may work later.
const PAUSE: Duration = Duration::from_millis(500);
/// Largest verify key file.
const VKEY_BYTES_MAX: u64 = 4_096;

/// Why a responder did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process holds `run/responder.lock`.
    #[error("a responder already runs on this data folder")]
    Running,
    /// `run/` or the lock cannot be used.
    #[error("responder cannot use {path}")]
    Folder {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// responder.db.
    #[error("responder cannot open its store")]
    Store(#[from] StoreError),
    /// A playbook is bad: none is used.
    #[error("responder cannot load its playbooks")]
    Playbooks(#[from] PlaybookError),
    /// A receiver of notices, or the routes to them.
    #[error("responder cannot set up its receivers")]
    Receivers(#[from] ReceiverError),
    /// The endpoint.
    #[error("responder cannot set up its KMS client")]
    Client(#[from] ClientError),
    /// An AWS account.
    #[error("responder cannot set up an AWS account")]
    Aws(#[from] aws::AwsError),
    /// The alert source.
    #[error("responder cannot open its alert source")]
    Source(#[from] SourceError),
    /// A configured verify key is malformed.
    #[error("verify key {0} is malformed")]
    VerifyKey(&'static str),
    /// A call-out's settings.
    #[error("responder cannot set up the call-out {name}")]
    CallOut {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: ReceiverError,
    },
    /// A playbook names a call-out that the configuration does not have.
    #[error("playbook {playbook} names the call-out {name}, which is not configured")]
    NoCallOut {
        /// The playbook.
        playbook: String,
        /// The call-out.
        name: String,
    },
    /// Alerts from Kafka need their key in the configuration.
    #[error("alerts from kafka need the trail's alert_vkey in the configuration")]
    NoAlertKey,
}

/// Starts responders.
pub struct Responder;

/// What the loops need that tests replace.
pub struct Parts {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The open store.
    pub store: Store,
    /// The KMS.
    pub kms: Arc<dyn Control>,
    /// The alerts.
    pub source: Box<dyn AlertSource>,
    /// Playbooks, in order.
    pub playbooks: Vec<playbook::Playbook>,
    /// Whether they may act.
    pub enforce: bool,
    /// Rules believed.
    pub rules: Vec<AllowedRule>,
    /// The log's verify key, else `DIR/checkpoints/vkey`.
    pub log_vkey: Option<VerifyKey>,
    /// The trail's verify key, else the one in `DIR/trail.db`.
    pub alert_vkey: Option<VerifyKey>,
    /// Limits, protected list, waits.
    pub settings: Settings,
    /// Where notices go.
    pub channels: Vec<Arc<dyn Channel>>,
}

/// A responder at work. Dropping it without [`RunningResponder::shutdown`] leaves rows that the next start carries on.
pub struct RunningResponder {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    rules: Arc<RwLock<Vec<AllowedRule>>>,
    playbooks: Arc<RwLock<Arc<Rules>>>,
    call_outs: BTreeSet<String>,
    clock: Arc<dyn Clock>,
    store: Store,
    _lock: RunLock,
}

impl Responder {
    /// Takes the lock, reads playbooks, keys and secrets, and starts the loops. Call it on a multi-thread runtime.
    pub fn start(config: ResponderConfig, clock: Arc<dyn Clock>) -> Result<RunningResponder, StartError> {
        let lock = RunLock::take(&config.data_dir)?;
        let store = Store::open(&config.data_dir)?;
        let (playbooks, hashes) = playbook::load_hashed(&config.playbooks_dir)?;
        let now_us = Micros::try_from(clock.now_us()).unwrap_or(Micros::MAX);
        store.write_now(|tx| standing::note_playbooks(tx, &hashes, now_us))?;
        warn_of_unknown_windows(&playbooks, &config.settings.maintenance);
        warn_of_unknown_rules(&playbooks, &config.rules);
        let source: Box<dyn AlertSource> = match &config.alerts {
            AlertOrigin::Table => Box::new(TableSource::open(&config.data_dir, &store)?),
            AlertOrigin::Kafka { .. } if config.alert_vkey.is_none() => return Err(StartError::NoAlertKey),
            AlertOrigin::Kafka { brokers, topic } => Box::new(KafkaAlertSource::open(brokers, topic, &store)?),
        };
        let parts = Parts {
            kms: Arc::new(SignedControl::new(&config.endpoint, config.trust, config.credentials, &config.region)?),
            log_vkey: parse_key("log_vkey", config.log_vkey.as_deref())?,
            alert_vkey: parse_key("alert_vkey", config.alert_vkey.as_deref())?,
            data_dir: config.data_dir,
            store,
            source,
            playbooks,
            enforce: config.enforce,
            rules: config.rules,
            channels: config.settings.channels(&clock)?,
            settings: config.settings,
        };
        Self::start_parts(parts, lock, clock)
    }

    /// Starts the loops over given parts; [`Responder::start`] for everyone but tests.
    pub fn start_parts(parts: Parts, lock: RunLock, clock: Arc<dyn Clock>) -> Result<RunningResponder, StartError> {
        let (stop, stopped) = watch::channel(false);
        let settings = parts.settings;
        let names: BTreeSet<String> = settings.call_outs.keys().cloned().collect();
        check_call_outs(&parts.playbooks, &names)?;
        let call_outs = CallOuts::new(&settings.call_outs, &settings.egress, &clock)
            .map_err(|(name, source)| StartError::CallOut { name, source })?;
        let aws = aws::accounts(&settings.aws, &clock)?;
        let public_url = settings.http.as_ref().and_then(|http| http.public_url.clone());
        parts.store.write_now(|tx| {
            link::set_public_url(tx, public_url.as_deref())?;
            standing::note_mode(tx, parts.enforce)
        })?;
        let notifier = Notifier::new(parts.store.clone(), Arc::clone(&clock), &settings, parts.channels)?;
        let kms = Arc::clone(&parts.kms);
        let containment = Containment {
            store: parts.store.clone(),
            kms: Arc::clone(&parts.kms),
            clock: Arc::clone(&clock),
            told: Arc::clone(&notifier.told),
        };
        let recorder = Recorder { store: parts.store.clone(), kms: Arc::clone(&parts.kms) };
        let reporter = Reporter {
            store: parts.store.clone(),
            kms: Arc::clone(&parts.kms),
            clock: Arc::clone(&clock),
            enforce: parts.enforce,
        };
        let announcements = Arc::new(Announcements::new(Arc::clone(&parts.kms)));
        let worker = Worker::new(
            parts.store.clone(),
            Arc::clone(&parts.kms),
            Arc::clone(&clock),
            settings.limits.parallel_actions,
            settings.limits.action_deadline,
            Arc::clone(&notifier.told),
            Means { data_dir: Some(parts.data_dir.clone()), call_outs, aws },
        );
        let waits = Waits { store: parts.store.clone(), clock: Arc::clone(&clock) };
        let resetter = Resetter {
            store: parts.store.clone(),
            kms: Arc::clone(&parts.kms),
            clock: Arc::clone(&clock),
            told: Arc::clone(&notifier.told),
        };
        let approver = Approver {
            store: parts.store.clone(),
            kms,
            clock: Arc::clone(&clock),
            worker: Arc::clone(&worker),
            told: Arc::clone(&notifier.told),
        };
        let allowed = Arc::new(RwLock::new(ever_allowed(&parts.store, &parts.rules)?));
        let rules = Arc::new(RwLock::new(Arc::new(Rules {
            playbooks: parts.playbooks,
            enforce: parts.enforce,
            limits: settings.limits,
            protected: settings.protected,
            tell_from: settings.notify.min_severity,
            windows: settings.maintenance,
            aws: settings.aws,
        })));
        let retained = parts.data_dir.clone();
        let intake = Intake {
            data_dir: parts.data_dir,
            store: parts.store.clone(),
            clock: Arc::clone(&clock),
            rules: Arc::clone(&rules),
            allowed: Arc::clone(&allowed),
            log_vkey: parts.log_vkey,
            alert_vkey: parts.alert_vkey,
            announcements,
            kms: parts.kms,
            worker: Arc::clone(&worker),
            notifier: Arc::clone(&notifier),
        };
        let retention = settings.keep.map(|keep| Retention {
            store: parts.store.clone(),
            clock: Arc::clone(&clock),
            data_dir: retained,
            keep,
        });
        let mut tasks = JoinSet::new();
        if let Some(retention) = retention {
            tasks.spawn(retention.run(stopped.clone()));
        }
        tasks.spawn(worker.run(stopped.clone()));
        tasks.spawn(approver.run(stopped.clone()));
        tasks.spawn(resetter.run(stopped.clone()));
        tasks.spawn(waits.run(stopped.clone()));
        tasks.spawn(notifier.run(stopped.clone()));
        tasks.spawn(containment.run(stopped.clone()));
        tasks.spawn(recorder.run(stopped.clone()));
        tasks.spawn(reporter.run(stopped.clone()));
        tasks.spawn(intake.run(parts.source, stopped));
        tracing::info!(enforce = parts.enforce, "responder started");
        Ok(RunningResponder {
            stop,
            tasks,
            rules: allowed,
            playbooks: rules,
            call_outs: names,
            clock,
            store: parts.store,
            _lock: lock,
        })
    }
}

impl RunningResponder {
    /// Adds to the allow-list after the rules were loaded anew.
    pub fn allow_rules(&self, rules: &[AllowedRule]) -> Result<(), StoreError> {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = ever_allowed(&self.store, rules)?;
        Ok(())
    }

    /// Reads the playbooks anew, for alerts from now on; how many there are. If one of them is bad the earlier ones stay,
    /// all of them, and people are told.
    pub fn reload_playbooks(&self, dir: &Path) -> Result<usize, StartError> {
        let now_us = store::now_us(self.clock.as_ref());
        let loaded = playbook::load_hashed(dir).map_err(StartError::from);
        let (playbooks, hashes) = match loaded
            .and_then(|found| check_call_outs(&found.0, &self.call_outs).map(|()| found))
        {
            Ok(found) => found,
            Err(error) => {
                let text =
                    format!("Changed playbooks were not taken, the earlier ones are in force: {}", describe(&error));
                self.store.write_now(|tx| queue::page(tx, None, "playbooks-refused", &text, now_us))?;
                return Err(error);
            }
        };
        self.store.write_now(|tx| standing::note_playbooks(tx, &hashes, now_us))?;
        let mut rules = self.playbooks.write().unwrap_or_else(PoisonError::into_inner);
        warn_of_unknown_windows(&playbooks, &rules.windows);
        warn_of_unknown_rules(&playbooks, &self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let loaded = playbooks.len();
        *rules = Arc::new(Rules { playbooks, ..Rules::clone(&rules) });
        Ok(loaded)
    }

    /// The open store, to look at timeline and counters from the same process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Comes back only if a loop ended by itself, which is a bug of ours: the process should end.
    pub async fn failed(&mut self) {
        let ended = self.tasks.join_next().await;
        tracing::error!(panicked = matches!(ended, Some(Err(_))), "a loop of the responder ended");
    }

    /// Finishes the actions under way and stops.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        tracing::info!("responder stopped");
    }
}

/// `run/responder.lock`, held while it lives; the file stays, the lock goes with the process.
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes it, or says that a responder runs.
    pub fn take(data_dir: &Path) -> Result<Self, StartError> {
        Self::try_take(data_dir)?.ok_or(StartError::Running)
    }

    /// Takes it unless somebody holds it.
    pub fn try_take(data_dir: &Path) -> Result<Option<Self>, StartError> {
        let run = data_dir.join("run");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StartError::Folder { path, source }
        };
        std::fs::create_dir_all(&run).map_err(failed(&run))?;
        let path = run.join("responder.lock");
        let file = File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(StartError::Folder { path, source }),
        }
    }
}

struct Intake {
    data_dir: PathBuf,
    store: Store,
    clock: Arc<dyn Clock>,
    rules: Arc<RwLock<Arc<Rules>>>,
    allowed: Arc<RwLock<Vec<AllowedRule>>>,
    log_vkey: Option<VerifyKey>,
    alert_vkey: Option<VerifyKey>,
    announcements: Arc<Announcements>,
    kms: Arc<dyn Control>,
    worker: Arc<Worker>,
    notifier: Arc<Notifier>,
}

type Judged = (RawAlert, Result<VerifiedAlert, Refusal>);

impl Intake {
    async fn run(self, mut source: Box<dyn AlertSource>, mut stop: watch::Receiver<bool>) {
        let mut keys = None;
        while !*stop.borrow() {
            if keys.is_none() {
                match self.keys().await {
                    Ok(found) => keys = found,
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "alerts cannot be verified");
                    }
                }
            }
            let Some((trail, log)) = &mut keys else {
                // Without keys nothing is taken in, so nothing is lost. `undo` may still have work for us.
                self.worker.wake();
                pause(&mut stop).await;
                continue;
            };
            let next = tokio::select! {
                next = source.next(BATCH_ALERTS_MAX, WAIT) => next,
                _ = stop.changed() => break,
            };
            match next {
                Ok(alerts) if alerts.is_empty() => self.worker.wake(),
                Ok(alerts) => {
                    refresh_keys(&self.data_dir.join("checkpoints"), log);
                    let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner).clone();
                    let verifier = Verifier::new(trail.clone(), log.clone(), allowed).with_imports(&self.data_dir);
                    let judged = alerts.into_iter().map(|raw| {
                        let verdict = verifier.verify(&raw);
                        (raw, verdict)
                    });
                    self.take_in_all(Arc::new(judged.collect()), &mut stop).await;
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "alerts cannot be read");
                    pause(&mut stop).await;
                }
            }
        }
    }

    /// One transaction for the batch, again and again until it is durable.
    async fn take_in_all(&self, batch: Arc<Vec<Judged>>, stop: &mut watch::Receiver<bool>) {
        // One set of playbooks for the whole batch, also if others are loaded meanwhile.
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let outside = Arc::new(self.outside(&rules, &batch).await);
        while !*stop.borrow() {
            let (rules, alerts, outside) = (Arc::clone(&rules), Arc::clone(&batch), Arc::clone(&outside));
            let now = Micros::try_from(self.clock.now_us()).unwrap_or(Micros::MAX);
            let taken = self.store.write(move |tx| {
                alerts
                    .iter()
                    .map(|(raw, verdict)| take_in(tx, &rules, raw, verdict, &outside, now))
                    .collect::<Result<Vec<_>, _>>()
            });
            match taken.await {
                Ok(outcomes) => {
                    fail::fail_point!("responder::after_plan_commit", |_| std::process::abort());
                    self.worker.wake();
                    self.notifier.told.notify_one();
                    batch.iter().zip(&outcomes).for_each(|((raw, verdict), outcome)| log(raw, verdict, outcome));
                    return;
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "alerts cannot be taken in");
                    pause(stop).await;
                }
            }
        }
    }

    /// What the guards want to know from the key service about these alerts, if a playbook answers any of them.
    async fn outside(&self, rules: &Rules, batch: &[Judged]) -> Outside {
        let (mut needed_us, mut counts) = (None, false);
        for alert in batch.iter().filter_map(|(_, verdict)| verdict.as_ref().ok()) {
            for playbook in rules.playbooks.iter().filter(|playbook| playbook.matches.takes(alert.alert())) {
                let newest = alert.calls().iter().filter_map(announced::at_us).max();
                needed_us = needed_us.max(Some(newest.unwrap_or(Micros::MAX)));
                counts |= playbook.guard.max_share_of_enabled_keys.is_some();
            }
        }
        let Some(needed_us) = needed_us else { return Outside::default() };
        let count = async { if counts { Some(count_keys(self.kms.as_ref()).await) } else { None } };
        let (changes, enabled_keys) = tokio::join!(self.announcements.soon(needed_us), count);
        Outside { changes: Some(changes), enabled_keys }
    }

    /// The trail's and the log's verify keys, pinned, of the log the first one; `None` while the trail or the KMS has not
    /// written them yet.
    async fn keys(&self) -> Result<Option<(VerifyKey, LogKeys)>, StoreError> {
        let trail = match &self.alert_vkey {
            Some(key) => Some(key.clone()),
            None => trail_key(&self.data_dir),
        };
        let checkpoints = self.data_dir.join("checkpoints");
        let log = match &self.log_vkey {
            // Without a file of transitions beside this responder the key stands alone.
            Some(key) => Some(read_keys(&checkpoints, Some(key)).unwrap_or_else(|_| key.clone().into())),
            None => log_key(&self.data_dir).and_then(|key| read_keys(&checkpoints, Some(&key)).ok()),
        };
        let (Some(trail), Some(log)) = (trail, log) else { return Ok(None) };
        let (trail_text, log_text) =
            (trail.to_string(), log.all().first().map(VerifyKey::to_string).unwrap_or_default());
        self.store
            .write(move |tx| {
                store::pin(tx, "alert_vkey", &trail_text)?;
                store::pin(tx, "log_vkey", &log_text)
            })
            .await?;
        Ok(Some((trail, log)))
    }
}

/// Each call-out that a playbook names is configured: one that is missing must show now, not in an incident.
fn check_call_outs(playbooks: &[playbook::Playbook], configured: &BTreeSet<String>) -> Result<(), StartError> {
    for playbook in playbooks {
        let mut named = playbook.steps.iter().filter_map(|step| step.name.as_deref());
        if let Some(name) = named.find(|name| !configured.contains(*name)) {
            return Err(StartError::NoCallOut { playbook: playbook.id.clone(), name: name.to_owned() });
        }
    }
    Ok(())
}

/// How many keys can be used now; in words why that is not known.
async fn count_keys(kms: &dyn Control) -> Result<u64, String> {
    let answer = kms.call("KeytrailService.CountKeys", serde_json::json!({}), None);
    let answer = tokio::time::timeout(announced::WAIT_MAX, answer).await.map_err(|_| "no answer in time".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    answer.body["Enabled"].as_u64().ok_or_else(|| "the answer has no Enabled".into())
}

async fn pause(stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(PAUSE) => {}
        _ = stop.changed() => {}
    }
}

fn log(raw: &RawAlert, verdict: &Result<VerifiedAlert, Refusal>, outcome: &Outcome) {
    match outcome {
        Outcome::Refused(kind) => {
            let error = verdict.as_ref().err().map(|error| error as &dyn std::error::Error);
            tracing::error!(source = raw.source, position = raw.position, kind, error, outcome = "refused", "alert");
        }
        Outcome::Known => {}
        Outcome::Ours(incident) => {
            tracing::info!(incident_id = incident.as_str(), position = raw.position, outcome = "ours", "alert");
        }
        Outcome::Joined { incident, opened, actions } => {
            let rule_id = verdict.as_ref().map_or("", |alert| alert.alert().rule_id.as_str());
            tracing::info!(incident_id = incident.as_str(), rule_id, opened, outcome = "joined", "alert");
            for (action, target, state) in actions {
                let outcome: &ActionState = state;
                tracing::info!(
                    incident_id = incident.as_str(),
                    action,
                    target,
                    outcome = outcome.as_str(),
                    "action planned"
                );
            }
        }
    }
}

/// These rules, and all that ever were in force: alerts of the former ones may still be on their way, after an outage or a
/// change, and would be lost.
fn ever_allowed(store: &Store, rules: &[AllowedRule]) -> Result<Vec<AllowedRule>, StoreError> {
    store.write_now(|tx| {
        for rule in rules {
            tx.execute("INSERT OR IGNORE INTO allowed_rules VALUES (?1, ?2)", [&rule.id, &rule.hash])?;
        }
        let mut statement = tx.prepare("SELECT id, hash FROM allowed_rules")?;
        let rows = statement.query_map([], |row| Ok(AllowedRule { id: row.get(0)?, hash: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

fn warn_of_unknown_rules(playbooks: &[playbook::Playbook], rules: &[AllowedRule]) {
    for playbook in playbooks {
        for rule in &playbook.matches.rules {
            if !rules.iter().any(|known| &known.id == rule) {
                tracing::warn!(playbook = playbook.id, rule_id = rule, "playbook names a rule that is not loaded");
            }
        }
    }
}

fn warn_of_unknown_windows(playbooks: &[playbook::Playbook], windows: &[crate::maintenance::Window]) {
    for playbook in playbooks {
        for name in &playbook.guard.held_by {
            if !windows.iter().any(|window| &window.name == name) {
                tracing::warn!(
                    playbook = playbook.id,
                    window = name,
                    "playbook names a maintenance window that is not configured"
                );
            }
        }
    }
}

fn parse_key(name: &'static str, text: Option<&str>) -> Result<Option<VerifyKey>, StartError> {
    text.map(|text| text.trim().parse().map_err(|_| StartError::VerifyKey(name))).transpose()
}

/// `DIR/checkpoints/vkey`, written by the KMS.
pub(crate) fn log_key(data_dir: &Path) -> Option<VerifyKey> {
    let path = data_dir.join("checkpoints").join("vkey");
    if std::fs::metadata(&path).ok()?.len() > VKEY_BYTES_MAX {
        return None;
    }
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `alert_vkey` in `DIR/trail.db`, written by the trail.
pub(crate) fn trail_key(data_dir: &Path) -> Option<VerifyKey> {
    let path = data_dir.join("trail.db");
    if !path.exists() {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).ok()?;
    let text: Option<Vec<u8>> = connection
        .query_row("SELECT CAST(value AS BLOB) FROM meta WHERE key = 'alert_vkey'", [], |row| row.get(0))
        .optional()
        .ok()?;
    String::from_utf8(text?).ok()?.trim().parse().ok()
}
