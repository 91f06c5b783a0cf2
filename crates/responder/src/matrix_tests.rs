//! The crash matrix: thousands of seeds, each a run of alerts, undos and approvals that is cut off at fail points in any order.
//!
//! Beside `crash_tests`, which kills processes: here a kill drops the runtime with everything in memory, between the steps
//! where a process would be killed too, and the next responder opens the files anew. What a seed must lead to is what the
//! same seed leads to without kills. CRASH_SEEDS= for more of them, CRASH_SEED= for one that failed.
#![allow(clippy::unwrap_used)]

use crate::config::{Limits, NotifySettings, Settings};
use crate::incident::{self, IncidentId, Resolution, timeline};
use crate::notify::queue::Notice;
use crate::notify::receivers::Kind;
use crate::notify::{Channel, DeliveryError};
use crate::playbook::Playbook;
use crate::service::{Parts, Responder, RunLock, RunningResponder};
use crate::standing::{self, EVERYTHING};
use crate::store::{self, Store, now_us};
use crate::testing::{self, AlertBuilder, Bench, EventBuilder, FakeKms, TrailDb, event, playbook_of};
use crate::{reset, undo};
use async_trait::async_trait;
use keytrail_kms::clock::SystemClock;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

/// Every fail point of the crate.
const POINTS: [&str; 10] = [
    "responder::after_plan_commit",
    "responder::before_call",
    "responder::after_call",
    "responder::before_done",
    "responder::after_record",
    "responder::after_mail",
    "responder::approval_opened",
    "responder::approval_used",
    "responder::reset_opened",
    "responder::reset_used",
];
/// Kills before a phase is let to its end.
const KILLS_MAX: u64 = 4;
/// Alerts of one phase.
const ALERTS_MAX: u64 = 5;
/// A seed that takes longer hangs: no kill makes anything wait for longer than a few seconds.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// A kill: at the how-manieth time that this point is passed.
struct Blow {
    point: &'static str,
    left: AtomicI64,
    struck: AtomicBool,
}

/// What a task that was struck ends with; no panic message, since it is meant.
struct Killed;

thread_local! {
    /// The blow for the responder that this thread works for; other tests of this process have none.
    static BLOW: RefCell<Option<Arc<Blow>>> = const { RefCell::new(None) };
}

fn pass(point: &'static str) {
    let Some(blow) = BLOW.with_borrow(Option::clone).filter(|blow| blow.point == point) else { return };
    if blow.left.fetch_sub(1, Ordering::SeqCst) == 0 {
        blow.struck.store(true, Ordering::SeqCst);
        std::panic::resume_unwind(Box::new(Killed));
    }
}

fn arm() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        for point in POINTS {
            fail::cfg_callback(point, move || pass(point)).unwrap();
        }
    });
}

/// A splitmix64 generator: a seed is all that a failure needs to be seen again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// A receiver that takes everything and remembers it.
#[derive(Default)]
struct Post(Mutex<Vec<Notice>>);

#[async_trait]
impl Channel for Post {
    fn name(&self) -> &'static str {
        "post"
    }

    fn kind(&self) -> Kind {
        Kind::Smtp
    }

    async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        self.0.lock().unwrap().push(notice.clone());
        Ok(())
    }
}

/// What happens between two times at which all is quiet.
#[derive(Clone, Debug)]
enum Phase {
    /// Alerts of these sorts, about one of three principals.
    Alerts(Vec<(u64, u64)>),
    /// An incident is undone, which one by its place among all.
    Undo(u64),
    /// The breaker tripped, and somebody wants it to work again.
    Reset,
}

fn phases(seed: u64) -> Vec<Phase> {
    let mut dice = Dice(seed);
    let alerts = |dice: &mut Dice| {
        let many = 1 + dice.below(ALERTS_MAX);
        Phase::Alerts((0..many).map(|_| (dice.below(7), dice.below(3))).collect())
    };
    let mut phases = vec![alerts(&mut dice)];
    for _ in 0..dice.below(3) {
        phases.push(match dice.below(8) {
            0 => Phase::Reset,
            1..4 => Phase::Undo(dice.below(64)),
            _ => alerts(&mut dice),
        });
    }
    phases
}

fn playbooks() -> Vec<Playbook> {
    let steps = |id: &str, rule: &str, steps: &str| playbook_of(id, rule, &steps.replace('\n', " "));
    let mut stop = steps("stop", "denied-burst", r#"{ action = "quarantine_principal", ttl = "1h" }"#);
    stop.matches.provenance.push(crate::playbook::Provenance::AuthenticatedDenied);
    vec![
        stop,
        steps(
            "opened",
            "key-policy-public",
            r#"{ action = "restore_key_policy" },
               { action = "disable_key", only_if_tag = "on-exposure=disable" }"#,
        ),
        steps("deletion", "key-deletion-scheduled", r#"{ action = "cancel_key_deletion" }"#),
        steps("aliases", "alias-repointed", r#"{ action = "alias_restore" }"#),
        steps(
            "credential",
            "many-contexts",
            r#"{ action = "snapshot_evidence" }, { action = "quarantine_principal", scope = "key", ttl = "1h" },
               { action = "deactivate_access_key" }"#,
        ),
        steps(
            "grants",
            "grant-to-self",
            r#"{ action = "revoke_grants", which = "grantee" }, { action = "require_mfa", ttl = "1h" }"#,
        ),
        steps(
            "agreed",
            "key-disabled",
            r#"{ action = "disable_key", approval = { quorum = 2, ttl = "30m", on_expiry = "escalate" } }"#,
        ),
    ]
}

/// A folder, the KMS and the receiver outside of it, which no kill touches.
struct World {
    seed: u64,
    dir: tempfile::TempDir,
    bench: Bench,
    trail: TrailDb,
    kms: Arc<FakeKms>,
    post: Arc<Post>,
    alerts: i64,
}

impl World {
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::new();
        let trail = bench.folder(dir.path());
        std::fs::write(dir.path().join("checkpoints/latest"), "a signed head\n").unwrap();
        let kms = FakeKms::open(&dir.path().join("effects"));
        Self { seed, dir, bench, trail, kms, post: Arc::default(), alerts: 0 }
    }

    fn begin(&mut self, phase: &Phase) {
        match phase {
            Phase::Reset => {
                let wanted = Store::open(self.dir.path()).unwrap().write_now(|tx| {
                    let now = now_us(&SystemClock);
                    assert!(standing::trip(tx, EVERYTHING, "a test", now)?);
                    Ok(reset::want(tx, EVERYTHING, "tester", now))
                });
                wanted.unwrap().unwrap();
            }
            Phase::Alerts(all) => {
                for (sort, who) in all {
                    self.alerts += 1;
                    let alert = self.alert(*sort, &format!("m{who}")).bucket(self.alerts);
                    self.trail.push(&alert.signed());
                }
            }
            Phase::Undo(place) => {
                let store = Store::open(self.dir.path()).unwrap();
                let mut ids: Vec<String> = incident::list(self.dir.path(), 64)
                    .unwrap()
                    .into_iter()
                    .map(|one| one.id.as_str().to_owned())
                    .collect();
                ids.sort();
                let id = IncidentId::new(&ids[usize::try_from(*place).unwrap() % ids.len()]);
                let now = now_us(&SystemClock);
                let undone = store.write_now(|tx| undo::request(tx, &id, ("tester", Resolution::Undone), true, now));
                assert!(undone.unwrap().is_some());
            }
        }
    }

    /// An alert of some sort about this principal; what it is about is its own.
    fn alert(&self, sort: u64, who: &str) -> AlertBuilder {
        let number = self.alerts;
        let (key, id) = (format!("k{number}"), format!("e{number}"));
        let on = |name: &str| event(name).id(&id).by(who).on_key(&key);
        let of = |rule: &str, event: EventBuilder| self.bench.alert(rule, vec![event]);
        self.kms.set_key(&key, "Enabled", false);
        match sort {
            0 => of("denied-burst", event("Decrypt").id(&id).denied().by(who)),
            1 => {
                self.kms.set_key(&key, "Enabled", true);
                let tag = if number % 2 == 0 { "disable" } else { "leave" };
                of("key-policy-public", on("PutKeyPolicy").opened("e0").tagged("on-exposure", tag))
            }
            2 => {
                self.kms.set_key(&key, "PendingDeletion", false);
                of("key-deletion-scheduled", on("ScheduleKeyDeletion").was("Enabled"))
            }
            3 => {
                let alias = format!("alias/a{number}");
                self.kms.set_alias(&alias, Some(&key));
                let moved = event("UpdateAlias").id(&format!("set-{key}")).by(who);
                of("alias-repointed", moved.moved(&alias, "k0", Some(&key), "set-k0"))
            }
            4 => of("many-contexts", on("Decrypt").with_access_key(&format!("AKIA{:0>16}", number))),
            5 => {
                let grants = [format!("g{number}"), format!("h{number}")];
                grants.iter().for_each(|grant| self.kms.set_grant(grant, &key, "eve"));
                of("grant-to-self", event("CreateGrant").id(&id).by(who).granted(&key, &grants[0], "eve"))
            }
            _ => of("key-disabled", on("PutKeyPolicy").opened("e0")),
        }
    }

    fn start(&self) -> RunningResponder {
        let dir = self.dir.path();
        let notify = NotifySettings {
            group_wait: Duration::ZERO,
            group_max: Duration::ZERO,
            heartbeat: None,
            notices_per_hour: u32::MAX,
            ..NotifySettings::default()
        };
        // Limits are another test's.
        let limits = Limits {
            disable_keys_per_hour: u32::MAX,
            playbook_actions_per_hour: Some(u32::MAX),
            flip_flop_changes: u32::MAX,
            ..Limits::default()
        };
        let parts = Parts {
            settings: Settings { notify, limits, ..Settings::default() },
            channels: vec![Arc::<Post>::clone(&self.post)],
            ..testing::parts(dir, Arc::<FakeKms>::clone(&self.kms), playbooks())
        };
        Responder::start_parts(parts, RunLock::take(dir).unwrap(), Arc::new(SystemClock)).unwrap()
    }

    /// Runs a responder until it is struck or has nothing left to do; true when it was struck.
    fn run(&self, blow: Option<Blow>) -> bool {
        let blow = blow.map(Arc::new);
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let of_thread = blow.clone();
        runtime.worker_threads(2).enable_all().on_thread_start(move || BLOW.set(of_thread.clone()));
        let runtime = runtime.build().unwrap();
        let is_struck = || blow.as_ref().is_some_and(|blow| blow.struck.load(Ordering::SeqCst));
        runtime.block_on(async {
            let responder = self.start();
            let since = Instant::now();
            while !is_struck() {
                self.kms.agree_to_all(&["alice", "robert"]);
                if self.is_quiet(responder.store()) {
                    responder.shutdown().await;
                    return;
                }
                assert!(since.elapsed() < SETTLES_WITHIN, "seed {} does not settle: {}", self.seed, self.left());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Whatever it was doing ends here; the lock, the socket and the file go with it.
            drop(responder);
        });
        drop(runtime);
        is_struck()
    }

    fn is_quiet(&self, store: &Store) -> bool {
        let sql = format!(
            "SELECT (SELECT count(*) FROM alerts) = {}
               AND NOT EXISTS (SELECT 1 FROM actions WHERE state IN ('planned', 'awaiting_approval', 'ready', 'leased'))
               AND NOT EXISTS (SELECT 1 FROM incidents WHERE tell_since_us IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM tellings WHERE due_us IS NOT NULL)
               AND NOT EXISTS (SELECT 1 FROM notices WHERE state = 'ready')
               AND NOT EXISTS (SELECT 1 FROM timeline_unsent)
               AND NOT EXISTS (SELECT 1 FROM resets WHERE state IN ('wanted', 'open', 'using'))",
            self.alerts
        );
        store.read_now(|db| Ok(db.query_row(&sql, [], |row| row.get(0))?)).unwrap()
    }

    /// What the outbox holds, for a failure.
    fn left(&self) -> String {
        format!(
            "{:?}",
            self.actions().into_iter().filter(|one| !matches!(&*one[1], "done" | "suppressed")).collect::<Vec<_>>()
        )
    }

    /// Id, state, whether it changed anything, kind and target of each action.
    fn actions(&self) -> Vec<[String; 5]> {
        let store = Store::open(self.dir.path()).unwrap();
        store
            .read_now(|db| {
                let sql = "SELECT id, state, coalesce(changed, '-'), kind, target FROM actions ORDER BY id";
                let mut statement = db.prepare(sql)?;
                let rows = statement.query_map([], |row| {
                    let changed: rusqlite::types::Value = row.get(2)?;
                    Ok([row.get(0)?, row.get(1)?, format!("{changed:?}"), row.get(3)?, row.get(4)?])
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .unwrap()
    }

    /// Every effect that carried an id of ours, as the KMS wrote it down.
    fn effects(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("effects")).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|effect| effect["id"].is_string()).collect()
    }

    /// The same in an order of their own; of a reset, whose id is made of the time, only the call.
    fn sorted_effects(&self) -> Vec<String> {
        let actions: BTreeSet<String> = self.actions().into_iter().map(|[id, ..]| id).collect();
        let line = |effect: Value| {
            let id = crate::approval::action_of_call(effect["id"].as_str().unwrap());
            if actions.contains(id) { effect.to_string() } else { effect["call"].to_string() }
        };
        let mut lines: Vec<String> = self.effects().into_iter().map(line).collect();
        lines.sort();
        lines
    }

    /// Bundles of evidence, without the hash in the name: what they hold has times in it.
    fn bundles(&self) -> Vec<String> {
        let folders = std::fs::read_dir(self.dir.path().join("incidents")).into_iter().flatten();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
        let mut bundles: Vec<String> = names.filter_map(|name| Some(name.split_once('-')?.0.to_owned())).collect();
        bundles.sort();
        bundles
    }

    /// What holds after any run: each effect once, each notice at least once under one name, and the log knows it all.
    fn check(&self) {
        let seed = self.seed;
        let effects = self.effects();
        let ids: BTreeSet<&str> = effects.iter().filter_map(|effect| effect["id"].as_str()).collect();
        assert_eq!(ids.len(), effects.len(), "seed {seed}: an id had two effects");
        for [id, state, changed, kind, target] in self.actions() {
            let without = ["snapshot_evidence", "revoke_grants"].contains(&kind.as_str());
            let took = state == "done" && changed == "Integer(1)" && !without;
            assert_eq!(ids.contains(id.as_str()), took, "seed {seed}: {kind} {target} is {state}, changed {changed}");
        }
        self.check_post();
        for one in incident::list(self.dir.path(), 64).unwrap() {
            let detail = incident::show(self.dir.path(), one.id.as_str()).unwrap().unwrap();
            assert_eq!(timeline::fault(&detail.timeline), None, "seed {seed}");
            let told: Vec<timeline::Recorded> = self
                .kms
                .recorded()
                .iter()
                .filter(|body| body["IncidentId"] == one.id.as_str())
                .flat_map(|body| body["Entries"].as_array().unwrap().clone())
                .map(|entry| timeline::Recorded {
                    number: entry["Number"].as_u64().unwrap(),
                    at_micros: entry["AtMicros"].as_i64().unwrap(),
                    kind: entry["Kind"].as_str().unwrap().into(),
                    text: entry["Text"].as_str().unwrap().into(),
                    digest: entry["Digest"].as_str().unwrap().into(),
                })
                .collect();
            // A last look of `contain` may have added an entry while the responder stopped: the next one sends it.
            let unsent = "SELECT count(*) FROM timeline_unsent WHERE incident = ?1";
            let unsent: i64 = Store::open(self.dir.path())
                .unwrap()
                .read_now(|db| Ok(db.query_row(unsent, [one.id.as_str()], |row| row.get(0))?))
                .unwrap();
            let through = timeline::agree(&detail.timeline, &told).map(|through| through + unsent.unsigned_abs());
            assert_eq!(through, Ok(u64::try_from(detail.timeline.len()).unwrap()), "seed {seed}: {}", one.id);
        }
    }

    fn check_post(&self) {
        let seed = self.seed;
        let mut delivered: BTreeMap<String, Notice> = BTreeMap::new();
        for notice in self.post.0.lock().unwrap().iter() {
            let first = delivered.entry(notice.message_id.clone()).or_insert_with(|| notice.clone());
            let same = (&first.subject, &first.body) == (&notice.subject, &notice.body);
            assert!(same, "seed {seed}: two notices are called {}", notice.message_id);
        }
        let store = Store::open(self.dir.path()).unwrap();
        let written: Vec<(String, String, u32, Option<String>)> = store
            .read_now(|db| {
                let mut statement = db.prepare("SELECT message_id, state, number, incident FROM notices")?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .unwrap();
        for (message_id, state, ..) in &written {
            assert_eq!(state, "sent", "seed {seed}: {message_id}");
            assert!(delivered.contains_key(message_id), "seed {seed}: {message_id} was lost");
        }
        assert_eq!(delivered.len(), written.len(), "seed {seed}: a notice that nobody wrote down");
        for one in incident::list(self.dir.path(), 64).unwrap() {
            let first = written.iter().any(|(_, _, number, of)| *number == 1 && of.as_deref() == Some(one.id.as_str()));
            assert!(first, "seed {seed}: nobody was told of {}", one.id);
        }
    }
}

/// What a seed leads to: the actions, their effects, and bundles.
type Outcome = (Vec<[String; 5]>, Vec<String>, Vec<String>);

/// How often a seed was struck, by point.
type Strikes = BTreeMap<&'static str, u64>;

fn without_kills(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    for phase in phases(seed) {
        world.begin(&phase);
        world.run(None);
    }
    world.check();
    (world.actions(), world.sorted_effects(), world.bundles())
}

fn with_kills(seed: u64) -> (Outcome, Strikes) {
    let mut world = World::new(seed);
    let mut dice = Dice(!seed);
    let mut strikes = Strikes::new();
    for phase in phases(seed) {
        world.begin(&phase);
        for _ in 0..dice.below(KILLS_MAX + 1) {
            match dice.below(8) {
                0 => world.kms.lose_answers(1),
                1 => world.kms.unreachable_for(1),
                // The position goes back, as when trail.db or the topic was put back: all alerts come again.
                2 => Store::open(world.dir.path())
                    .unwrap()
                    .write_now(|tx| store::set_position(tx, "trail.db", 1))
                    .unwrap(),
                _ => {}
            }
            let point = POINTS[usize::try_from(dice.below(10)).unwrap()];
            let left = AtomicI64::new(i64::try_from(dice.below(4)).unwrap());
            if world.run(Some(Blow { point, left, struck: AtomicBool::new(false) })) {
                *strikes.entry(point).or_default() += 1;
            }
        }
        world.run(None);
    }
    world.check();
    ((world.actions(), world.sorted_effects(), world.bundles()), strikes)
}

#[test]
fn whatever_is_killed_in_any_order_leads_to_what_no_kill_leads_to() {
    arm();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (from, to) = match number("CRASH_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("CRASH_SEEDS").unwrap_or(12)),
    };
    let next = AtomicU64::new(from);
    let strikes = Mutex::new(Strikes::new());
    // A responder waits more than it works.
    let threads = std::thread::available_parallelism().map_or(4, usize::from) * 4;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= to {
                        return;
                    }
                    let wanted = without_kills(seed);
                    let (found, struck) = with_kills(seed);
                    assert_eq!(found, wanted, "seed {seed}");
                    let mut all = strikes.lock().unwrap();
                    struck.into_iter().for_each(|(point, times)| *all.entry(point).or_default() += times);
                }
            });
        }
    });
    let strikes = strikes.into_inner().unwrap();
    eprintln!("{} seeds, killed {} times: {strikes:?}", to - from, strikes.values().sum::<u64>());
    assert!(to - from < 1_000 || strikes.len() == POINTS.len(), "not every point was struck: {strikes:?}");
}
