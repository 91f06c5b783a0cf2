//! `keytrail bench outage`: a day that one trail followed as it came, and the same day caught up with by another that was
//! down for all of it. Both must raise the same alerts.
//!
//! Both are the trail that `keytrail trail` runs, on one journal: lake, rules, alerts with proofs under signed
//! checkpoints. The traffic is that of `keytrail generate`, attacks mixed in. Time is the traffic's: the first trail's
//! clock stands at the newest record, the second one's goes on from the day's end.

use super::stream::Chain;
use super::{Table, say};
use crate::cli::BenchOutageArgs;
use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use keytrail_kms::chain::leaf::sha256;
use keytrail_kms::chain::{Link, LogId, LogKeys, Tree};
use keytrail_kms::clock::Clock;
use keytrail_kms::journal::SpoolWriter;
use keytrail_kms::signer::{CheckpointSigner as _, LocalSigner, SignedHead};
use keytrail_trail::alert::{SignedAlert, verify_evidence};
use keytrail_trail::generate::{Attacks, Options, Traffic};
use keytrail_trail::service::{CheckpointError, CheckpointSource, RunningTrail, Trail, WatchedLog};
use keytrail_trail::store::Store;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ORIGIN: &str = "keytrail/bench/outage";
/// 2026-01-05T00:00:00Z, a Monday.
const START_US: i64 = 1_767_571_200_000_000;
const SEED: u64 = 11;
const PRINCIPALS: u32 = 200;
/// Records that the first trail is given at once: some ten seconds of a day of 10 M.
const STEP: usize = 1_000;
/// Longest wait for a trail.
const PATIENCE: Duration = Duration::from_secs(3_600);
/// What makes two alerts the same one: the id is a hash of rule, group and bucket.
const IDENTITY: [&str; 4] = ["alertId", "ruleHash", "severity", "origin"];
/// Differences that are shown.
const SHOWN: usize = 10;

pub(crate) async fn run(args: BenchOutageArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let (node, rules) = (Node::create(folder.path())?, folder.path().join("rules"));
    crate::shipped::write(&rules).context("write the shipped rules")?;
    let (followed, caught_up) = (folder.path().join("followed"), folder.path().join("caught-up"));
    let node = Arc::new(node);
    let begun = Instant::now();
    let (events, end_us) = follow(&node, &rules, &followed, &args).await?;
    let following = begun.elapsed();
    let follow_peak = take_peak()?;
    let catching_up = catch_up(&node, &rules, &caught_up, (events, end_us)).await?;
    let catch_up_peak = take_peak()?;
    let keys = LogKeys::from(node.signer.verify_key());
    let (live, late) = (Alerts::read(&followed, &keys)?, Alerts::read(&caught_up, &keys)?);
    let mut table = Table::new(&[
        "trail",
        "events",
        "seconds",
        "events/s",
        "alerts",
        "revisions",
        "of rules",
        "not compared",
        "peak MiB",
    ]);
    for (name, spent, alerts, peak) in
        [("followed", following, &live, follow_peak), ("caught up", catching_up, &late, catch_up_peak)]
    {
        table.row(vec![
            name.to_owned(),
            events.to_string(),
            format!("{:.1}", spent.as_secs_f64()),
            format!("{:.0}", events as f64 / spent.as_secs_f64()),
            alerts.last.len().to_string(),
            alerts.revisions.to_string(),
            alerts.rules().to_string(),
            alerts.of_the_moment.to_string(),
            (peak >> 20).to_string(),
        ]);
    }
    table.print();
    say(
        "\nFollowing includes making the traffic and writing the journal. Not compared: alerts about the moment (posture, audit-lag).",
    );
    live.compare(&late)
}

/// The node that both trails watch: its journal grows at one end, and it signs what is there.
struct Node {
    dir: PathBuf,
    signer: LocalSigner,
    head: Mutex<SignedHead>,
}

impl Node {
    fn create(dir: &Path) -> anyhow::Result<Self> {
        let checkpoints = dir.join("checkpoints");
        LocalSigner::create(&checkpoints, ORIGIN).context("make a signer")?;
        let signer = LocalSigner::open(&checkpoints).context("open the signer")?;
        let head = Mutex::new(SignedHead { size: 0, root: Tree::new().root() });
        Ok(Self { dir: dir.to_owned(), signer, head })
    }

    fn watched(&self) -> WatchedLog {
        WatchedLog {
            origin: ORIGIN.to_owned(),
            signer: self.signer.verify_key().into(),
            checkpoints: self.dir.join("checkpoints"),
            frames: self.dir.join("journal"),
            spool: false,
        }
    }

    async fn start_trail(self: &Arc<Self>, rules: &Path, dir: &Path, clock: Day) -> anyhow::Result<RunningTrail> {
        std::fs::create_dir_all(dir.join("run")).context("make a trail's folder")?;
        let checkpoints: Arc<dyn CheckpointSource> = self.clone();
        let config =
            crate::commands::node::bench_journal_config(dir, rules, self.watched(), checkpoints, Arc::new(clock));
        Trail::start(config).await.context("start a trail")
    }
}

#[async_trait]
impl CheckpointSource for Node {
    async fn checkpoint(&self, log: LogId, _size_min: u64) -> Result<String, CheckpointError> {
        let head = *self.head.lock().expect("nothing panics under it");
        self.signer.sign(head.size, head.root).map_err(|_| CheckpointError::Unknown(log))
    }
}

/// A clock that is set, and goes on by itself if it says since when.
#[derive(Clone)]
struct Day {
    time_us: Arc<AtomicU64>,
    goes_on: Option<Instant>,
}

impl Clock for Day {
    fn now_us(&self) -> u64 {
        let gone = self.goes_on.map_or(Duration::ZERO, |since| since.elapsed());
        self.time_us.load(Ordering::SeqCst) + u64::try_from(gone.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Writes the day and has a trail follow it step by step; gives the number of records and the time of the last one.
async fn follow(node: &Arc<Node>, rules: &Path, dir: &Path, args: &BenchOutageArgs) -> anyhow::Result<(u64, u64)> {
    let attacks = Some(Attacks { from_day: 0, each: args.attacks_each, kinds: Vec::new() });
    let (principals, events_per_day) = (PRINCIPALS, args.events);
    let options = Options { seed: SEED, start_us: START_US, days: 1, principals, events_per_day, attacks };
    let mut traffic = Traffic::new(&options).context("make traffic")?;
    let log = LogId::of_origin(ORIGIN);
    let mut journal = SpoolWriter::open(&node.dir.join("journal"), log, (0, Link::ZERO), SpoolWriter::SEGMENT_BYTES)
        .context("make a journal")?;
    let (mut chain, mut tree, mut time_us) = (Chain::new(log), Tree::new(), START_US.unsigned_abs());
    let clock = Day { time_us: Arc::new(AtomicU64::new(time_us)), goes_on: None };
    let mut trail = node.start_trail(rules, dir, clock.clone()).await?;
    loop {
        let events: Vec<_> = traffic.by_ref().take(STEP).collect();
        let Some(last) = events.last() else { break };
        time_us = last.time_us.unsigned_abs();
        clock.time_us.store(time_us, Ordering::SeqCst);
        let mut frames = Vec::with_capacity(events.len());
        for event in events {
            // Salts only have to differ.
            let digest = sha256(&[b"salt", &chain.seq.to_be_bytes()]);
            let salt: [u8; 16] = digest[..16].try_into().context("cut a salt")?;
            let frame = chain.frame(event.time_us.unsigned_abs(), salt, Bytes::from(event.payload));
            tree.push(frame.leaf_hash());
            frames.push(frame);
        }
        // Before the records can be read: a node that signs less than it shows is a finding.
        *node.head.lock().expect("nothing panics under it") = SignedHead { size: chain.seq, root: tree.root() };
        journal.append(&frames).context("write the journal")?;
        until_judged(&mut trail, log, chain.seq).await?;
    }
    trail.shutdown().await.context("stop the trail")?;
    Ok((chain.seq, time_us))
}

/// Starts a trail on the whole day; gives the time until all of it was judged.
async fn catch_up(
    node: &Arc<Node>,
    rules: &Path,
    dir: &Path,
    (events, end_us): (u64, u64),
) -> anyhow::Result<Duration> {
    let clock = Day { time_us: Arc::new(AtomicU64::new(end_us)), goes_on: Some(Instant::now()) };
    let begun = Instant::now();
    let mut trail = node.start_trail(rules, dir, clock).await?;
    until_judged(&mut trail, LogId::of_origin(ORIGIN), events).await?;
    let spent = begun.elapsed();
    trail.shutdown().await.context("stop the trail")?;
    Ok(spent)
}

async fn until_judged(trail: &mut RunningTrail, log: LogId, next_seq: u64) -> anyhow::Result<()> {
    let (mut status, log) = (trail.status(), log.to_string());
    let judged = status.wait_for(|status| status.positions.get(&log).is_some_and(|position| *position >= next_seq));
    tokio::select! {
        judged = tokio::time::timeout(PATIENCE, judged) => {
            judged.context("wait for the trail")?.context("watch the trail")?;
            Ok(())
        }
        error = trail.ended() => Err(error).context("the trail cannot go on"),
    }
}

/// What a trail told, without what belongs to the moment of telling.
struct Alerts {
    /// The last revision of each, by id.
    last: BTreeMap<String, Value>,
    revisions: usize,
    of_the_moment: usize,
}

impl Alerts {
    /// Reads them from trail.db, with signature and evidence verified.
    fn read(dir: &Path, keys: &LogKeys) -> anyhow::Result<Self> {
        let file = dir.join("trail.db");
        let trail = Store::open(&file)?.alert_key()?.verify_key().clone();
        let db = rusqlite::Connection::open(&file).context("open trail.db")?;
        let sql = "SELECT json, signature FROM alerts ORDER BY position";
        let mut statement = db.prepare(sql).context("read the alerts")?;
        let rows = statement.query_map([], |row| Ok(SignedAlert { json: row.get(0)?, signature: row.get(1)? }));
        let mut alerts = Self { last: BTreeMap::new(), revisions: 0, of_the_moment: 0 };
        for signed in rows.context("read the alerts")? {
            let mut alert = signed.context("read an alert")?.verify(&trail).context("verify an alert")?;
            verify_evidence(&alert, keys).context("verify an alert's evidence")?;
            // How things stand when somebody looks, and how far the trail itself is: not what the log says.
            if alert.rule_kind == "posture" || alert.rule_id == "audit-lag" {
                alerts.of_the_moment += 1;
                continue;
            }
            // When it was found, and the checkpoint of then with the proofs that lead to it.
            alert.detected_at_micros = 0;
            alert.checkpoint.clear();
            alert.evidence.iter_mut().for_each(|evidence| evidence.proof.clear());
            let json = serde_json::to_value(&alert).context("write an alert")?;
            alerts.revisions += 1;
            alerts.last.insert(alert.alert_id, json);
        }
        Ok(alerts)
    }

    /// How many rules they are of.
    fn rules(&self) -> usize {
        self.last.values().filter_map(|alert| alert["ruleId"].as_str()).collect::<BTreeSet<_>>().len()
    }

    /// Fails unless the others are the same alerts: same ids, which are rule, group and bucket, same severity.
    fn compare(&self, other: &Self) -> anyhow::Result<()> {
        let (mut different, mut equal, mut fields) = (Vec::new(), 0, BTreeMap::<&str, usize>::new());
        for id in self.last.keys().chain(other.last.keys().filter(|id| !self.last.contains_key(*id))) {
            match (self.last.get(id), other.last.get(id)) {
                (Some(one), Some(two)) if IDENTITY.iter().any(|field| one[field] != two[field]) => {
                    different.push(format!("{} {id}: another severity", one["ruleId"]));
                }
                (Some(one), Some(two)) => {
                    let differing: Vec<&str> = difference(one, two).collect();
                    equal += usize::from(differing.is_empty());
                    differing.into_iter().for_each(|field| *fields.entry(field).or_default() += 1);
                }
                (Some(one), None) => different.push(format!("{} {id}: not caught up with", one["ruleId"])),
                (None, two) => {
                    let rule = two.map_or(&Value::Null, |two| &two["ruleId"]);
                    different.push(format!("{rule} {id}: not told by the trail that followed"));
                }
            }
        }
        let fields: Vec<String> = fields.into_iter().map(|(field, count)| format!("{field} {count}")).collect();
        say(&format!(
            "\nThe same alert on both sides: {}; the last revision is the same in everything it says of {equal}. Others \
             were last revised at another record, as a batch gives an alert one revision: {}.",
            self.last.len() - different.len().min(self.last.len()),
            fields.join(", ")
        ));
        if different.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = different.iter().take(SHOWN).map(String::as_str).collect();
        bail!("{} alerts differ:\n{}", different.len(), shown.join("\n"))
    }
}

/// The fields that differ.
fn difference<'a>(one: &'a Value, two: &Value) -> impl Iterator<Item = &'a str> {
    let fields = one.as_object().into_iter().flatten();
    fields.filter(move |(name, value)| two[name.as_str()] != **value).map(|(name, _)| name.as_str())
}

/// The most memory that this process held since this was last asked, in bytes.
fn take_peak() -> anyhow::Result<u64> {
    let peak = super::memory_bytes("self", "VmHWM")?;
    // Refused, the next peak is this one or a higher: too much, never too little.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
    Ok(peak)
}
