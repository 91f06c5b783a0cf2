//! The loop itself: who gets which frame, when findings become alerts, when state is committed.
//!
//! While the evidence of a finding waits for its checkpoint, frames go on landing (the checkpoint may cover more than
//! we have; far more is read ahead to, see `prove`) but wait before the rules: so no state is ever committed whose
//! findings are not stored. Alerts are stored as they are raised, the state once in a while, because it holds whole
//! windows; what came between is judged again after a crash, and an alert that is stored already is not told twice.

mod imports;
mod lag;
mod mute;
mod posture;
mod rate;
mod settle;

use super::prove::{self, ProveError, Prover, Told};
use super::unproved::Unproved;
use super::{Control, Status, TrailConfig, TrailError, WatchedLog, describe};
use crate::alert::{Alert, SignedAlert};
use crate::lake::decode::decode;
use crate::lake::snapshot::Snapshot;
use crate::lake::writer::{Lake, Opened};
use crate::land::{Integrity as Landing, Landed, Lander, LanderOptions, Position};
use crate::rule::{Engine, Finding, Integrity, RuleKind, RuleSet, worth_revising};
use crate::source::{FrameSource, SourceError, SourceFrame};
use crate::store::{Points, Step, Store};
use arrow::array::RecordBatch;
use keytrail_kms::chain::{Checkpoint, Link, LogId, SigningKey, Tree};
use keytrail_kms::clock::Clock;
use keytrail_kms::journal::{Reader, SpoolWriter};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Most frames of one turn. Larger turns cost latency, smaller ones throughput.
const TURN_FRAMES_MAX: usize = 4_096;

/// Shortest time between two commits of the rules' state: what a restart judges again.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// A commit takes at most this share of the time.
const COMMIT_SHARE: u32 = 20;

/// How long a stop may go on landing.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Pause after a source or checkpoint that did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Notes by no key of the log, one after another, before that is a finding: a new key's record may be on its way.
const STRANGE_NOTES: u32 = 3;

/// Most rows that wait before the rules for a checkpoint; then landing waits as well.
const WAITING_ROWS_MAX: usize = 500_000;

/// A checkpoint over so many records more than have landed is read ahead to: after an outage it covers all of it, which
/// would not fit into memory, and the first alert would wait until the last record has landed.
const LANDED_FOR_PROOF_MAX: u64 = if cfg!(feature = "testing") { 512 } else { 65_536 };

/// Records kept in the spool below what everyone has: evidence reaches back.
const SPOOL_MARGIN: u64 = 262_144;

/// Pause between two looks for replaced files.
const CLEAN_PAUSE: Duration = Duration::from_secs(600);

/// Pause between two reports of what has landed, and how long one may take.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
const REPORT_MAX: Duration = Duration::from_secs(1);

/// Pause between two looks for what imports committed.
const IMPORTED_PAUSE: Duration = Duration::from_secs(2);

/// Findings of the lander that wait to be raised; further ones are logged only.
const FOUND_MAX: usize = 1_024;

pub(super) struct Watch {
    orders: mpsc::Receiver<Control>,
    wake: PathBuf,
    source: Box<dyn FrameSource>,
    notes: Option<mpsc::Receiver<String>>,
    /// More records may be released at once.
    releasing: bool,
    lander: Lander,
    lake: Lake,
    engine: Engine,
    store: Store,
    key: SigningKey,
    checkpoints: Arc<dyn super::CheckpointSource>,
    clock: Arc<dyn Clock>,
    provers: BTreeMap<LogId, Prover>,
    spools: BTreeMap<LogId, SpoolWriter>,
    /// Decoded batches before the rules.
    waiting: VecDeque<RecordBatch>,
    waiting_rows: usize,
    /// Findings about logs before the rules.
    found: VecDeque<Integrity>,
    status: watch::Sender<Status>,
    /// The engine has seen more than was committed.
    dirty: bool,
    /// How far the committed state is: a restart needs the records from there on.
    committed: BTreeMap<LogId, u64>,
    committed_at: Instant,
    commit_pause: Duration,
    cleaned_at: Instant,
    /// When the nodes were last told what has landed, and how far; None where nobody wants to know.
    reported: Option<(Option<Instant>, BTreeMap<LogId, u64>)>,
    imported_at: Instant,
    /// When this trail first saw a rule or exception, by hash: Unix microseconds.
    rules_since: HashMap<String, i64>,
    posture: posture::Posture,
    lag: lag::Lag,
    imports: imports::Imports,
    points: Points,
    /// What exceptions muted since the runs of rules were stored, by rule and log.
    suppressed: HashMap<(String, String), u64>,
    /// An order to stop came.
    stopping: bool,
    /// Findings were given up by a stop: the engine's state must not be committed, so that they are found again.
    abandoned: bool,
    /// What spools hold beyond the positions: lands again before anything new. Log, reader, end.
    replays: Vec<(LogId, Reader, u64)>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Stop,
}

impl Watch {
    pub(super) fn open(config: TrailConfig, orders: mpsc::Receiver<Control>) -> Result<Self, TrailError> {
        let rules = Arc::new(RuleSet::load_tested(&config.rules_dir, config.tested)?);
        let mut store = Store::open(&config.dir.join("trail.db"))?;
        let key = store.alert_key()?;
        let rules_since = mute::keep(&mut store, &rules, &*config.clock)?;
        let engine = match store.engine_state()? {
            Some(state) => Engine::restore(rules, &state)?,
            None => Engine::new(rules),
        };
        store.set_rules(engine.rules(), config.clock.now_us())?;
        let (lake, opened) = Lake::open(&config.dir.join("lake"), config.lake, config.clock.clone())?;
        let mut provers = BTreeMap::new();
        let mut positions = BTreeMap::new();
        let committed = committed(&engine);
        for watched in config.logs {
            let log = LogId::of_origin(&watched.origin);
            let prover = Prover::new(watched, store.tree(log)?);
            positions.insert(log, start_position(&prover, &engine, &opened)?);
            provers.insert(log, prover);
        }
        let mut spools = BTreeMap::new();
        let mut replays = Vec::new();
        let mut wanted: BTreeMap<LogId, u64> = BTreeMap::new();
        for (log, position) in &positions {
            let mut next_seq = position.next_seq;
            if let Some(prover) = provers.get(log).filter(|prover| prover.watched.spool) {
                let start = (position.next_seq, position.link);
                let spool = SpoolWriter::open(&prover.watched.frames, *log, start, SpoolWriter::SEGMENT_BYTES);
                let spool = spool.map_err(TrailError::Spool)?;
                if spool.next_seq() > next_seq {
                    replays.push((*log, Reader::open(&prover.watched.frames, next_seq)?, spool.next_seq()));
                    next_seq = spool.next_seq();
                }
                spools.insert(*log, spool);
            }
            wanted.insert(*log, next_seq);
        }
        for (log, spool) in &spools {
            let Some(prover) = provers.get_mut(log) else { continue };
            let tree = tree_at(prover, spool.next_seq())?;
            let position = Position { next_seq: spool.next_seq(), link: spool.link() };
            let dir = config.dir.join("unproved").join(log.to_string());
            prover.unproved = Some(Unproved::open(&dir, *log, position, tree)?);
        }
        // Those of the last released record on: whatever waits is covered by them or by later ones.
        let since_us = spools.values().map(SpoolWriter::time_us).min().unwrap_or(0);
        let notes = config.notes.map(|open| open(since_us)).transpose()?;
        let options = LanderOptions::for_logs(provers.keys().copied());
        let lander = Lander::new(positions.clone(), options, config.clock.clone(), config.fetcher);
        let source = (config.source)(&wanted)?;
        let now = Instant::now();
        let now_us = config.clock.now_us();
        let posture = posture::Posture::new(config.dir.join("trail.db"), now_us);
        let points = store.points()?;
        let watch = Self {
            orders,
            wake: config.dir.join("run").join("alerts.sock"),
            source,
            notes,
            releasing: false,
            lander,
            lake,
            engine,
            store,
            key,
            checkpoints: config.checkpoints,
            clock: config.clock,
            provers,
            spools,
            waiting: VecDeque::new(),
            waiting_rows: 0,
            found: VecDeque::new(),
            status: watch::Sender::new(Status::default()),
            dirty: false,
            committed,
            committed_at: now,
            commit_pause: COMMIT_PAUSE,
            cleaned_at: now,
            reported: config.report_landed.then(Default::default),
            imported_at: now,
            rules_since,
            posture,
            lag: lag::Lag::new(now_us),
            imports: imports::Imports::new(&config.dir),
            points,
            suppressed: HashMap::new(),
            stopping: false,
            abandoned: false,
            replays,
        };
        watch.publish(0);
        Ok(watch)
    }

    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.lake.subscribe()
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) async fn run(mut self) -> Result<(), TrailError> {
        while self.turn().await? == Flow::On {}
        if !self.abandoned {
            self.drain().await?;
        }
        if self.dirty && !self.abandoned {
            self.commit()?;
        }
        self.lake.flush().await?;
        tracing::info!("trail stopped");
        Ok(())
    }

    async fn turn(&mut self) -> Result<Flow, TrailError> {
        let read = self.read().await;
        if self.stopping {
            return Ok(Flow::Stop);
        }
        let mut idle = false;
        let damaged = match read {
            Ok(frames) => {
                idle = frames.is_empty();
                self.take(frames).await?;
                None
            }
            Err(error) => Some(error),
        };
        self.releasing = self.settle().await?;
        if self.detect().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        if let Some(error) = damaged {
            return Err(error);
        }
        if self.dirty && self.committed_at.elapsed() >= self.commit_pause {
            self.commit()?;
        }
        self.look_for_lag();
        self.look_around(idle)?;
        self.seal().await?;
        Ok(Flow::On)
    }

    /// After an order to stop: lands and judges what is already there. Whoever stops a node stops the key service first,
    /// and its last records deserve an answer.
    async fn drain(&mut self) -> Result<(), TrailError> {
        let end = Instant::now() + DRAIN_MAX;
        loop {
            // Trouble with a source that is going away too is no news.
            let Ok(frames) = self.source.next(TURN_FRAMES_MAX).await else { return Ok(()) };
            let came = !frames.is_empty();
            self.take(frames).await?;
            let more = self.settle().await?;
            if self.detect().await? == Flow::Stop {
                return Ok(());
            }
            let waiting = self.provers.values().any(|prover| prover.size() > prover.tree.size());
            if !(came || more || waiting) || Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// The next frames, or none after a while. Damage is an error, and a finding to be raised before it ends the loop.
    async fn read(&mut self) -> Result<Vec<SourceFrame>, TrailError> {
        while let Some((log, reader, end)) = self.replays.last_mut() {
            let frames = if reader.next_seq() < *end { reader.next(TURN_FRAMES_MAX)? } else { Vec::new() };
            if !frames.is_empty() {
                return Ok(frames.into_iter().map(|frame| SourceFrame { log: *log, frame }).collect());
            }
            self.replays.pop();
        }
        let full =
            self.provers.values().any(|prover| prover.unproved.as_ref().is_some_and(|waiting| !waiting.has_room()));
        let read = tokio::select! {
            biased;
            order = self.orders.recv() => {
                self.obey(order);
                return Ok(Vec::new());
            }
            // What waits is released before more is read.
            () = std::future::ready(()), if self.releasing => return Ok(Vec::new()),
            () = tokio::time::sleep(RETRY_PAUSE), if full => {
                tracing::warn!("disk is nearly full and no checkpoint comes: records stay in Kafka");
                return Ok(Vec::new());
            }
            read = self.source.next(TURN_FRAMES_MAX), if !full => read,
        };
        match read {
            Err(SourceError::Unavailable(error)) => {
                tracing::warn!(error = describe(error.as_ref()), "source is not available");
                self.pause().await;
                Ok(Vec::new())
            }
            Err(error @ SourceError::Damaged(_)) => {
                let log = self.provers.keys().next().map(ToString::to_string).unwrap_or_default();
                self.find("source-damaged", log, (None, None), describe(&error));
                Err(error.into())
            }
            Ok(frames) => Ok(frames),
        }
    }

    async fn pause(&mut self) {
        tokio::select! {
            biased;
            order = self.orders.recv() => self.obey(order),
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }

    fn obey(&mut self, order: Option<Control>) {
        match order {
            None | Some(Control::Stop) => self.stopping = true,
            Some(Control::Swap(rules, reply)) => {
                tracing::info!(rules = rules.rules().len(), "rules loaded");
                match mute::keep(&mut self.store, &rules, &*self.clock) {
                    Ok(since) => self.rules_since = since,
                    Err(error) => tracing::warn!(error = describe(&error), "exceptions are not kept"),
                }
                self.engine.swap(rules);
                self.dirty = true;
                if let Err(error) = self.store.set_rules(self.engine.rules(), self.clock.now_us()) {
                    tracing::warn!(error = describe(&error), "table rules is not up to date");
                }
                // Whoever asked may have stopped waiting.
                reply.send(()).ok();
            }
        }
    }

    /// Verifies frames and gives each consumer what it lacks.
    async fn take(&mut self, frames: Vec<SourceFrame>) -> Result<(), TrailError> {
        let outcome = self.lander.land(frames).await;
        if outcome.suppressed > 0 {
            tracing::warn!(suppressed = outcome.suppressed, "more findings than are raised");
        }
        for finding in outcome.findings {
            self.find_landing(finding);
        }
        for landed in outcome.landed {
            self.admit(landed).await?;
        }
        for log in outcome.contradicted {
            self.take_back(log, "the node has other records than those that came first")?;
        }
        Ok(())
    }

    async fn feed(&mut self, landed: &Landed) -> Result<(), TrailError> {
        let log = landed.log;
        let next_seq = landed.position().next_seq;
        if let Some(spool) = self.spools.get_mut(&log) {
            let new = landed.frames.iter().filter(|verified| verified.leaf.seq >= spool.next_seq());
            let new: Vec<_> = new.map(|verified| verified.frame.clone()).collect();
            spool.append(&new).map_err(TrailError::Spool)?;
            if let Err(error) = self.source.committed(log, next_seq).await {
                // A hint only: what is not forgotten comes again.
                tracing::warn!(%log, error = describe(&error), "source did not take the position");
            }
        }
        let mut strange = Vec::new();
        let mut caught_up = Ok(());
        if let Some(prover) = self.provers.get_mut(&log) {
            strange.extend(landed.frames.iter().filter(|frame| !prover.follow_key(frame)).map(|frame| frame.leaf.seq));
            prover.extend(&landed.frames);
            caught_up = prover.catch_up();
        }
        if let Err(error) = caught_up {
            self.disagree(log, &error);
        }
        for seq in strange {
            let detail = "a key transition that the log's key has not signed".to_owned();
            self.find("key-forged", log.to_string(), (Some(seq), Some(seq)), detail);
        }
        let lake_next = self.lake.positions().get(&log).map_or(0, |position| position.next_seq);
        let known = usize::try_from(lake_next.saturating_sub(landed.first_seq)).unwrap_or(usize::MAX);
        let (known, new) = landed.frames.split_at(known.min(landed.frames.len()));
        if !known.is_empty() && self.engine.position(&log.to_string()) < lake_next {
            self.wait(decode(known));
        }
        if let Some(first) = new.first() {
            let run = Landed { log, first_seq: first.leaf.seq, frames: new.to_vec() };
            let batches = self.lake.append(&run)?;
            fail::fail_point!("trail-after-lake-append", |_| std::process::abort());
            batches.into_iter().for_each(|batch| self.wait(batch));
        }
        Ok(())
    }

    fn wait(&mut self, batch: RecordBatch) {
        self.waiting_rows += batch.num_rows();
        self.waiting.push_back(batch);
    }

    fn find_landing(&mut self, finding: Landing) {
        match finding {
            Landing::Fork { log, seq, expected, found, landed } => {
                let when = if landed { "after the other landed" } else { "before it landed" };
                let detail = format!("two records claim seq {seq}: link {expected} and {found}, found {when}");
                self.find("fork", log.to_string(), (Some(seq), Some(seq)), detail);
            }
            Landing::Gap { log, first, last } => {
                let detail = format!("records {first} to {last} are missing");
                self.find("gap", log.to_string(), (Some(first), Some(last)), detail);
            }
            Landing::BadFrame { log, seq, reason } => self.find("forged", log.to_string(), (seq, seq), reason),
            Landing::UnknownLog { log } => {
                self.find("unknown-log", log.to_string(), (None, None), "records of a log that is not watched".into());
            }
        }
    }

    fn find(&mut self, finding: &str, log: String, (first_seq, last_seq): (Option<u64>, Option<u64>), detail: String) {
        tracing::error!(log, finding, detail, "audit log does not hold together");
        if self.found.len() < FOUND_MAX {
            let time_us = i64::try_from(self.clock.now_us()).unwrap_or(i64::MAX);
            let finding = finding.into();
            let found = Integrity { log, time_us, finding, first_seq, last_seq, detail, ..Integrity::default() };
            self.found.push_back(found);
        }
    }

    /// Runs the rules over everything that waits; what they find is stored before the next batch.
    async fn detect(&mut self) -> Result<Flow, TrailError> {
        loop {
            self.raise_found()?;
            let Some(batch) = self.waiting.pop_front() else { return Ok(Flow::On) };
            self.waiting_rows -= batch.num_rows();
            self.dirty = true;
            let findings = self.engine.process(&batch)?;
            self.look_for_late();
            if !findings.is_empty() && self.raise(findings).await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
            self.publish(0);
        }
    }

    /// Raises what was found about logs themselves: needs no evidence, so that nothing can hold it up.
    fn raise_found(&mut self) -> Result<(), TrailError> {
        let mut raised = false;
        // One by one: two findings may be revisions of one alert.
        while let Some(found) = self.found.pop_front() {
            let mut alerts = Vec::new();
            for finding in self.engine.integrity(&found) {
                if let Some(revision) = self.next_revision(&finding)? {
                    alerts.push(self.plain(&finding, revision));
                }
            }
            if alerts.is_empty() {
                continue;
            }
            self.keep(alerts)?;
            raised = true;
        }
        if raised {
            wake(&self.wake);
        }
        Ok(())
    }

    fn plain(&self, finding: &Finding, revision: u32) -> Alert {
        let prover = LogId::from_hex(&finding.log).and_then(|log| self.provers.get(&log));
        let imported = || LogId::from_hex(&finding.log).and_then(|log| self.imports.origin(log));
        let origin = prover.map(|prover| prover.watched.origin.as_str()).or_else(imported).unwrap_or("unknown");
        prove::plain(finding, origin, self.told(finding, revision))
    }

    /// Turns findings into signed alerts and stores them.
    async fn raise(&mut self, findings: Vec<Finding>) -> Result<Flow, TrailError> {
        let mut findings = self.mute(findings)?;
        // They come rule by rule, and a batch may cover hours after an outage: the risk of an entity counts what was told
        // before, so that they are told in order of what happened.
        findings.sort_by_key(|finding| finding.last_event_us);
        let mut alerts: Vec<Alert> = Vec::new();
        let mut by_log: BTreeMap<String, Vec<(Finding, u32)>> = BTreeMap::new();
        // Rules that fail in one batch are findings of one alert.
        let mut given: HashMap<String, u32> = HashMap::new();
        for finding in findings {
            let revision = match given.get(&finding.alert_id) {
                Some(last) => Some(last + 1),
                None => self.next_revision(&finding)?,
            };
            let Some(revision) = revision else { continue };
            given.insert(finding.alert_id.clone(), revision);
            if finding.rule.kind() == RuleKind::Meta {
                alerts.push(self.plain(&finding, revision));
            } else {
                by_log.entry(finding.log.clone()).or_default().push((finding, revision));
            }
        }
        for (log, findings) in by_log {
            let Some(log) = LogId::from_hex(&log) else { continue };
            if self.imports.origin(log).is_some() {
                self.raise_imported(log, findings)?;
                continue;
            }
            let newest = findings.iter().filter_map(|(finding, _)| finding.evidence.last()).max();
            let newest = newest.copied();
            let size_min = newest.map_or(0, |seq| seq + 1);
            let (note, checkpoint) = match self.checkpoint(log, size_min).await? {
                Proof::Agreed(note, checkpoint) => (note, checkpoint),
                Proof::Stop => {
                    self.abandoned = true;
                    return Ok(Flow::Stop);
                }
                Proof::Disagreed => {
                    let rules: Vec<&str> = findings.iter().map(|(finding, _)| finding.rule.id()).collect();
                    let detail = format!("findings of {} cannot be proved and are not raised", rules.join(", "));
                    let first = findings.iter().filter_map(|(finding, _)| finding.evidence.first().copied()).min();
                    self.find("unproved", log.to_string(), (first, newest), detail);
                    continue;
                }
            };
            for (finding, revision) in findings {
                let told = self.told(&finding, revision);
                let Some(prover) = self.provers.get_mut(&log) else { continue };
                match prover.alert(&finding, &note, checkpoint.size, told) {
                    Ok(alert) => alerts.push(alert),
                    Err(error) => self.disagree(log, &error),
                }
            }
        }
        if !alerts.is_empty() {
            self.keep(alerts)?;
            wake(&self.wake);
        }
        Ok(Flow::On)
    }

    /// The number of the revision that this finding would be; None if the store knows as much. The engine decides the
    /// same, but starts anew when a rule changed or a late event comes after its bucket was forgotten.
    fn next_revision(&self, finding: &Finding) -> Result<Option<u32>, TrailError> {
        let Some(told) = self.store.told(&finding.alert_id)? else { return Ok(Some(0)) };
        let now = (finding.severity, finding.matched);
        let each = !matches!(finding.rule.kind(), RuleKind::Threshold | RuleKind::Baseline | RuleKind::Posture);
        let worth = worth_revising((told.severity, told.matched), now, each);
        Ok(worth.then(|| told.revision + 1))
    }

    /// What the alert says beside the finding.
    fn told(&self, finding: &Finding, revision: u32) -> Told {
        let known = self.engine.known(&finding.log, &finding.rule);
        Told { revision, now_us: self.clock.now_us(), known, counts: self.counts(finding) }
    }

    /// A signed checkpoint that covers `size_min` records and agrees with our tree. Goes on landing while it waits.
    async fn checkpoint(&mut self, log: LogId, size_min: u64) -> Result<Proof, TrailError> {
        let mut candidate: Option<(String, Checkpoint)> = None;
        let mut strange = 0;
        loop {
            self.raise_found()?;
            let Some(prover) = self.provers.get_mut(&log) else { return Ok(Proof::Disagreed) };
            if let Some((note, checkpoint)) = prover.proof(size_min) {
                return Ok(Proof::Agreed(note, checkpoint));
            }
            if prover.unproved.is_some() {
                // After a restart behind Kafka, before the first note came.
                self.settle_or_pause().await?;
                if self.stopping {
                    return Ok(Proof::Stop);
                }
                continue;
            }
            match candidate.take() {
                None => match self.checkpoints.checkpoint(log, size_min).await {
                    Ok(note) => match prover.read_note(&note) {
                        Ok(checkpoint) if checkpoint.size < size_min => {
                            // The signer signs what is durable, and we have read what is durable.
                            let detail = format!("checkpoint over {} records, {size_min} landed", checkpoint.size);
                            self.find("rollback", log.to_string(), (Some(checkpoint.size), Some(size_min)), detail);
                            return Ok(Proof::Disagreed);
                        }
                        Ok(checkpoint) => candidate = Some((note, checkpoint)),
                        Err(error) => {
                            // By a new key, whose record is still to land?
                            prover.refresh_keys();
                            strange += 1;
                            // Anyone between us and the node can do this: no reason to give the findings up.
                            if strange == STRANGE_NOTES {
                                self.find("checkpoint-forged", log.to_string(), (None, None), describe(&error));
                            }
                            self.pause().await;
                            if self.stopping {
                                return Ok(Proof::Stop);
                            }
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%log, error = describe(&error), "no checkpoint yet, alerts wait");
                        self.pause().await;
                        if self.stopping {
                            return Ok(Proof::Stop);
                        }
                    }
                },
                Some((note, checkpoint)) if prover.tree.size() >= checkpoint.size => {
                    return Ok(match prover.agree(&checkpoint) {
                        Ok(()) => Proof::Agreed(note, checkpoint),
                        Err(error) => {
                            self.disagree(log, &error);
                            Proof::Disagreed
                        }
                    });
                }
                Some((note, checkpoint)) if checkpoint.size - prover.tree.size() > LANDED_FOR_PROOF_MAX => {
                    let frames_max = usize::try_from(LANDED_FOR_PROOF_MAX).unwrap_or(usize::MAX);
                    let more = match prover.look_ahead(&note, &checkpoint, frames_max) {
                        Ok(more) => more,
                        Err(error) => {
                            self.disagree(log, &error);
                            return Ok(Proof::Disagreed);
                        }
                    };
                    candidate = Some((note, checkpoint));
                    // An order to stop does not wait for the rest.
                    match self.orders.try_recv() {
                        Err(mpsc::error::TryRecvError::Empty) => {}
                        order => self.obey(order.ok()),
                    }
                    if self.stopping {
                        return Ok(Proof::Stop);
                    }
                    if more {
                        continue;
                    }
                }
                waiting => candidate = waiting,
            }
            let behind = match (&candidate, self.provers.get(&log)) {
                (Some((_, checkpoint)), Some(prover)) => prover.tree.size() < checkpoint.size,
                _ => self.waiting_rows < WAITING_ROWS_MAX,
            };
            if behind {
                let frames = self.read().await?;
                if self.stopping {
                    return Ok(Proof::Stop);
                }
                self.take(frames).await?;
            }
        }
    }

    fn disagree(&mut self, log: LogId, error: &ProveError) {
        self.find("checkpoint-mismatch", log.to_string(), (None, None), describe(error));
    }

    fn sign(&self, alerts: Vec<Alert>) -> Vec<(Alert, SignedAlert)> {
        let mut signed = Vec::with_capacity(alerts.len());
        for mut alert in alerts {
            // Payloads are bounded, rows nearly so; less evidence is better than no alert.
            let outcome = loop {
                match alert.sign(&self.key) {
                    Err(crate::alert::AlertError::TooLong(_)) if alert.evidence.len() > 1 => {
                        drop(alert.evidence.remove(0))
                    }
                    outcome => break outcome,
                }
            };
            match outcome {
                Ok(bytes) => {
                    let (rule_id, revision, severity) = (&alert.rule_id, alert.revision, alert.severity);
                    tracing::warn!(rule_id, alert_id = alert.alert_id, revision, %severity, "alert");
                    signed.push((alert, bytes));
                }
                Err(error) => tracing::error!(rule_id = alert.rule_id, error = describe(&error), "alert is not signed"),
            }
        }
        signed
    }

    /// Signs and stores alerts.
    fn keep(&mut self, mut alerts: Vec<Alert>) -> Result<(), TrailError> {
        alerts.iter_mut().for_each(|alert| self.rate(alert));
        let signed = self.sign(alerts);
        self.store.commit(&Step { alerts: &signed, state: None, trees: &[], now_us: self.clock.now_us() })?;
        self.publish(signed.len() as u64);
        Ok(())
    }

    /// Stores the rules' state, all findings of which are stored.
    fn commit(&mut self) -> Result<(), TrailError> {
        let began = Instant::now();
        let state = self.engine.snapshot();
        let own = self.provers.iter().map(|(log, prover)| (*log, &prover.tree));
        let trees: Vec<_> = own.chain(self.imports.trees()).collect();
        self.store.commit(&Step { alerts: &[], state: Some(&state), trees: &trees, now_us: self.clock.now_us() })?;
        let runs = self.runs();
        self.store.add_runs(&runs, self.clock.now_us())?;
        self.dirty = false;
        self.committed = committed(&self.engine);
        self.committed_at = Instant::now();
        self.commit_pause = COMMIT_PAUSE.max(began.elapsed() * COMMIT_SHARE);
        Ok(())
    }

    fn publish(&self, alerts: u64) {
        let own = |log: &str| LogId::from_hex(log).is_some_and(|log| self.provers.contains_key(&log));
        let positions = self.engine.positions().filter(|(log, _)| own(log));
        let positions = positions.map(|(log, position)| (log.to_owned(), position)).collect();
        let rules = self.engine.rules().rules().len();
        self.status.send_modify(|status| {
            status.positions = positions;
            status.alerts += alerts;
            status.rules = rules;
        });
    }

    async fn seal(&mut self) -> Result<(), TrailError> {
        match self.lake.maybe_seal().await {
            Ok(Some(committed)) => self.trim_spool(committed.log, committed.next_seq),
            Ok(None) => {}
            Err(error) if error.is_retryable() => {
                tracing::warn!(error = describe(&error), "lake cannot seal, the records stay in the tail");
                self.pause().await;
            }
            Err(error) => return Err(error.into()),
        }
        self.report_landed().await;
        if self.imported_at.elapsed() >= IMPORTED_PAUSE {
            self.imported_at = Instant::now();
            if let Err(error) = self.lake.refresh_imported() {
                tracing::warn!(error = describe(&error), "imported logs cannot be looked for");
            }
            self.refresh_imports();
        }
        self.feed_imports();
        if self.cleaned_at.elapsed() >= CLEAN_PAUSE {
            self.cleaned_at = Instant::now();
            if let Err(error) = self.lake.remove_replaced() {
                tracing::warn!(error = describe(&error), "replaced files cannot be removed");
            }
        }
        Ok(())
    }

    /// Tells the nodes what is in committed files and judged: nothing below is read from a journal again.
    async fn report_landed(&mut self) {
        let Some((at, reported)) = &mut self.reported else { return };
        if at.is_some_and(|at| at.elapsed() < REPORT_PAUSE) {
            return;
        }
        *at = Some(Instant::now());
        for (log, position) in self.lake.committed_positions() {
            let next_seq = position.next_seq.min(self.committed.get(&log).copied().unwrap_or(0));
            if next_seq == 0 || reported.get(&log) == Some(&next_seq) {
                continue;
            }
            match tokio::time::timeout(REPORT_MAX, self.checkpoints.landed(log, next_seq)).await {
                Ok(Ok(())) => drop(reported.insert(log, next_seq)),
                Ok(Err(error)) => tracing::warn!(%log, next_seq, error = describe(&error), "landing is not reported"),
                Err(_) => tracing::warn!(%log, next_seq, "landing is not reported in time"),
            }
        }
    }

    fn trim_spool(&mut self, log: LogId, lake_next: u64) {
        let all_have = lake_next.min(self.committed.get(&log).copied().unwrap_or(0));
        let Some(spool) = self.spools.get_mut(&log) else { return };
        if let Err(error) = spool.trim_below(all_have.saturating_sub(SPOOL_MARGIN)) {
            tracing::warn!(%log, error = describe(&error), "spool cannot be trimmed");
        }
    }
}

/// What asking for a checkpoint led to.
enum Proof {
    Agreed(String, Checkpoint),
    /// Raised as a finding about the log itself.
    Disagreed,
    Stop,
}

/// How far the engine is in each log.
fn committed(engine: &Engine) -> BTreeMap<LogId, u64> {
    engine.positions().filter_map(|(log, next_seq)| Some((LogId::from_hex(log)?, next_seq))).collect()
}

/// Where the least advanced of lake, rules and tree stands.
fn start_position(prover: &Prover, engine: &Engine, opened: &Opened) -> Result<Position, TrailError> {
    let lake = opened.positions.get(&prover.log).copied().unwrap_or(Position::START);
    let next_seq = lake.next_seq.min(engine.position(&prover.log.to_string())).min(prover.tree.size());
    if next_seq == lake.next_seq {
        return Ok(lake);
    }
    Ok(Position { next_seq, link: link_before(&prover.watched, next_seq)? })
}

/// The prover's tree, grown to `size` by the records that the spool holds beyond it.
fn tree_at(prover: &Prover, size: u64) -> Result<Tree, TrailError> {
    // A spool that begins anew, after lake and spool were moved away.
    let mut tree = if size == 0 { Tree::new() } else { prover.tree.clone() };
    let mut reader = Reader::open(&prover.watched.frames, tree.size())?;
    while tree.size() < size {
        let left = usize::try_from(size - tree.size()).unwrap_or(usize::MAX);
        let frames = reader.next(left.min(TURN_FRAMES_MAX))?;
        frames.iter().for_each(|frame| tree.push(frame.leaf_hash()));
        if frames.is_empty() {
            break;
        }
    }
    if tree.size() == size {
        return Ok(tree);
    }
    let reason = format!("spool of {} ends at {size}, trail.db has seen {}", prover.watched.origin, tree.size());
    Err(TrailError::Source(SourceError::Damaged(reason.into())))
}

/// Link of the record before `seq`, which the record at `seq` must carry.
fn link_before(watched: &WatchedLog, seq: u64) -> Result<Link, TrailError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(Link::ZERO) };
    let frames = Reader::open(&watched.frames, before)?.next(1)?;
    frames.first().map(|frame| frame.link()).ok_or_else(|| {
        let reason = format!("record {before} of {} is not there any more", watched.origin);
        TrailError::Source(SourceError::Damaged(reason.into()))
    })
}

/// Tells the responder that there is something to read. It looks by itself from time to time, so that a lost datagram
/// costs time only; most often nobody is there yet.
fn wake(socket: &Path) {
    let sent = UnixDatagram::unbound().and_then(|datagram| {
        datagram.set_nonblocking(true)?;
        datagram.send_to(&[1], socket)
    });
    if let Err(error) = sent {
        tracing::debug!(%error, "responder not woken");
    }
}
