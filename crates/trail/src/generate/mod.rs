//! Seeded traffic: weeks of calls as a company makes them, with attacks mixed in on request.
//!
//! Equal options give equal bytes. A discrete simulation: an agenda of actors, of whom the next one calls, changes the
//! world and plans on. `world` is who and what there is, `life` an ordinary day, `attack` what should be found, `call` the
//! events, `files` what `keytrail generate` writes. For baselines, calibration, benches and the score of rules: nothing
//! here runs in a node. docs/generate.md is for users.

mod attack;
mod calendar;
mod call;
mod chance;
mod files;
mod life;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod world;

pub use files::{GenerateError, LABELS_FILE, Written, read_labels, write};

use attack::{Chosen, Stage};
use calendar::{BERLIN, DAY_US, HOUR_US, NEW_YORK, SINGAPORE};
use call::Call;
use chance::Chance;
use life::Role;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use world::{Caller, CallerId, World};

/// Most principals, days and events a day: what fits into memory and into a day.
pub const PRINCIPALS_MAX: u32 = 100_000;
/// See [`PRINCIPALS_MAX`].
pub const DAYS_MAX: u32 = 400;
/// See [`PRINCIPALS_MAX`].
pub const EVENTS_PER_DAY_MAX: u32 = 50_000_000;

/// Share of the events that applications make themselves; services in their name make the rest of [`MACHINES`].
const APPLICATIONS: f64 = 0.85;
/// Share of the events that follow customers; people, pipelines and jobs add theirs.
const MACHINES: f64 = 0.97;

/// Stream of chance of the attacks; actors have the numbers from 1.
const ATTACK_STREAM: u64 = u64::MAX;

/// What traffic is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Equal seeds give equal traffic.
    pub seed: u64,
    /// Where it starts, Unix microseconds.
    pub start_us: i64,
    /// How long it lasts.
    pub days: u32,
    /// How many principals there are.
    pub principals: u32,
    /// About how many calls a day.
    pub events_per_day: u32,
    /// Attacks, if any.
    pub attacks: Option<Attacks>,
}

/// Which attacks are mixed in.
#[derive(Clone, Debug)]
pub struct Attacks {
    /// From this day on, counted from 0; the days before are for learning.
    pub from_day: u32,
    /// So many of each kind.
    pub each: u32,
    /// These kinds; all if empty.
    pub kinds: Vec<String>,
}

/// One attack, as it is written to the labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Label {
    /// `A-` and a number.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// First call, Unix microseconds.
    pub from_micros: i64,
    /// When its effects have ended: after the repair, if there is one.
    pub to_micros: i64,
    /// ARNs of those who make the calls.
    pub principals: Vec<String>,
    /// ARNs of the keys they are about.
    pub keys: Vec<String>,
    /// eventIDs of the calls.
    #[serde(rename = "eventIDs")]
    pub event_ids: Vec<String>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// When it happens; rises from event to event.
    pub time_us: i64,
    /// The event, as a node would have written it.
    pub payload: Vec<u8>,
}

/// Why traffic cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Too few or too many.
    #[error("{what} is not between {min} and {max}")]
    Bounds {
        /// Of what.
        what: &'static str,
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// A kind of attack that nobody has written.
    #[error("no attack is called {name:?}; there are {known}")]
    Kind {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

/// The kinds of attacks.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    attack::KINDS.iter().map(|(name, _)| *name)
}

impl Options {
    fn check(&self) -> Result<(), OptionsError> {
        let bound = |what, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(OptionsError::Bounds { what, min, max }) }
        };
        bound("principals", self.principals, 30, PRINCIPALS_MAX)?;
        bound("days", self.days, 1, DAYS_MAX)?;
        bound("events-per-day", self.events_per_day, 100, EVENTS_PER_DAY_MAX)?;
        if let Some(attacks) = &self.attacks {
            bound("attacks-from-day", attacks.from_day, 0, self.days - 1)?;
            bound("attacks of each kind", attacks.each, 1, 100)?;
            if let Some(unknown) = attacks.kinds.iter().find(|kind| !kinds().any(|known| known == kind.as_str())) {
                let known = kinds().collect::<Vec<_>>().join(", ");
                return Err(OptionsError::Kind { name: unknown.clone(), known });
            }
        }
        Ok(())
    }
}

/// Somebody who calls.
struct Actor {
    who: CallerId,
    role: Role,
    chance: Chance,
    queue: VecDeque<(i64, Call)>,
    /// When to plan on.
    ask_us: i64,
}

impl Actor {
    fn next_us(&self) -> i64 {
        self.queue.front().map_or(i64::MAX, |(time_us, _)| *time_us).min(self.ask_us)
    }
}

/// The traffic, event by event in order of time.
pub struct Traffic {
    world: World,
    actors: Vec<Actor>,
    agenda: BinaryHeap<Reverse<(i64, usize)>>,
    labels: Vec<Label>,
    start_us: i64,
    end_us: i64,
    last_us: i64,
}

impl Traffic {
    /// Gets everyone ready.
    pub fn new(options: &Options) -> Result<Self, OptionsError> {
        options.check()?;
        let principals = usize::try_from(options.principals).unwrap_or(usize::MAX);
        let mut traffic = Self {
            world: World::new(options.seed, principals, options.start_us),
            actors: Vec::new(),
            agenda: BinaryHeap::new(),
            labels: Vec::new(),
            start_us: options.start_us,
            end_us: options.start_us + i64::from(options.days) * DAY_US,
            last_us: i64::MIN,
        };
        traffic.employ(options);
        if let Some(attacks) = &options.attacks {
            traffic.plot(options.seed, attacks);
        }
        for (index, actor) in traffic.actors.iter().enumerate() {
            traffic.agenda.push(Reverse((actor.next_us(), index)));
        }
        Ok(traffic)
    }

    /// What there is to be found; event ids are complete at the end of the traffic.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    fn hire(&mut self, seed: u64, who: CallerId, role: Role) {
        let chance = Chance::of(seed, self.actors.len() as u64 + 1);
        // The day before the first, so that the first one is planned.
        let early = !matches!(role, Role::Workload { .. } | Role::Dormant { .. });
        let ask_us = if early { self.start_us - DAY_US } else { self.start_us };
        self.actors.push(Actor { who, role, chance, queue: VecDeque::new(), ask_us });
    }

    fn employ(&mut self, options: &Options) {
        let seed = options.seed;
        let chance = &mut Chance::of(seed, ATTACK_STREAM - 1);
        let zones = [BERLIN, BERLIN, NEW_YORK, SINGAPORE];
        let per_day = f64::from(options.events_per_day) * MACHINES;
        let shares = [(self.world.workloads.clone(), APPLICATIONS), (self.world.forwarded.clone(), 1.0 - APPLICATIONS)];
        for (callers, share) in shares {
            let weights: Vec<f64> = callers.iter().map(|_| chance.weight()).collect();
            let total: f64 = weights.iter().sum();
            for ((who, keys), weight) in callers.into_iter().zip(weights) {
                // Demand is 0.55 on average over a week.
                let mean_us = 0.55 * DAY_US as f64 / (per_day * share * weight / total).max(0.01);
                let (contexts, zone) = (u32::try_from(1 + chance.below(8)).unwrap_or(1), chance.pick(&zones));
                self.hire(seed, who, Role::Workload { keys, mean_us, contexts, zone });
            }
        }
        for (who, zone) in self.world.people.clone() {
            let account = self.world.callers[who].account;
            let keys = vec![self.world.key_of(chance, account), self.world.key_of(chance, account)];
            self.hire(seed, who, Role::Person { zone, keys });
        }
        for (n, who) in self.world.admins.clone().into_iter().enumerate() {
            // The first two are left to attacks.
            let retired = self.world.retired_keys.iter().copied().skip(2 + n * 2).take(2).collect();
            self.hire(seed, who, Role::Admin { retired });
        }
        for who in self.world.pipelines.clone() {
            self.hire(seed, who, Role::Pipeline { deployed: 0 });
        }
        for (who, key) in self.world.jobs.clone() {
            let calls = u32::try_from(chance.between(40, 240)).unwrap_or(40);
            let at_us = chance.between(0, 5) * HOUR_US;
            self.hire(seed, who, Role::Job { key, at_us, calls, contexts: 12 });
        }
        for who in self.world.auditors.clone() {
            self.hire(seed, who, Role::Auditor);
        }
        for (who, key) in self.world.dormant.clone() {
            self.hire(seed, who, Role::Dormant { key });
        }
        for account in world::ACCOUNTS {
            let kms = self.world.add(Caller::kms(account));
            if account == world::ACCOUNTS[0] {
                self.hire(seed, kms, Role::Rotation);
            }
        }
    }

    /// Spreads the attacks over their days, in an order of their own, and writes their scripts.
    fn plot(&mut self, seed: u64, attacks: &Attacks) {
        let mut chance = Chance::of(seed, ATTACK_STREAM);
        let wanted = |name: &str| attacks.kinds.is_empty() || attacks.kinds.iter().any(|kind| kind == name);
        let kinds = attack::KINDS.iter().filter(|(name, _)| wanted(name));
        let mut scripts: Vec<_> = kinds.flat_map(|kind| (0..attacks.each).map(move |_| *kind)).collect();
        for last in (1..scripts.len()).rev() {
            scripts.swap(last, chance.below(last + 1));
        }
        let from_us = self.start_us + i64::from(attacks.from_day) * DAY_US;
        // None begins so late that it could not end.
        let room_us = (self.end_us - 3 * HOUR_US - from_us).max(1);
        let step_us = room_us / i64::try_from(scripts.len()).unwrap_or(1).max(1);
        let mut chosen = Chosen::default();
        let mut at_us = from_us;
        for (attack, (kind, script)) in scripts.into_iter().enumerate() {
            let start_us = at_us + chance.between(0, step_us / 2);
            at_us += step_us;
            let mut stage = Stage {
                world: &mut self.world,
                chance: &mut chance,
                chosen: &mut chosen,
                attack,
                at_us: start_us,
                plan: Vec::new(),
                principals: Vec::new(),
                keys: Vec::new(),
                until_us: start_us,
            };
            script(&mut stage);
            let Stage { mut plan, principals, keys, until_us, .. } = stage;
            plan.sort_by_key(|(time_us, _)| *time_us);
            let from_micros = plan.first().map_or(start_us, |(time_us, _)| *time_us);
            self.labels.push(Label {
                id: format!("A-{attack}"),
                kind: kind.to_owned(),
                from_micros,
                to_micros: until_us,
                principals: principals.iter().map(|&caller| self.world.callers[caller].arn.clone()).collect(),
                keys: keys.iter().map(|&key| self.world.keys[key].arn.clone()).collect(),
                event_ids: Vec::new(),
            });
            let chance = Chance::of(seed, ATTACK_STREAM - 2 - attack as u64);
            let who = principals.first().copied().unwrap_or(0);
            self.actors.push(Actor { who, role: Role::Script, chance, queue: plan.into(), ask_us: i64::MAX });
        }
    }

    /// Lets the actor make its next call, or plan.
    fn turn(&mut self, index: usize) -> Option<Generated> {
        let Self { world, actors, labels, .. } = self;
        let actor = &mut actors[index];
        let due_us = actor.queue.front().map_or(i64::MAX, |(time_us, _)| *time_us);
        if due_us > actor.ask_us {
            let planned = life::plan(&mut actor.role, actor.who, world, &mut actor.chance, actor.ask_us);
            let (plan, ask_us) = planned.unwrap_or((Vec::new(), i64::MAX));
            actor.queue.extend(plan);
            actor.queue.make_contiguous().sort_by_key(|(time_us, _)| *time_us);
            actor.ask_us = ask_us;
            return None;
        }
        let (time_us, call) = actor.queue.pop_front()?;
        if time_us < self.start_us {
            return None;
        }
        // No two events at once: their order is then the same however they are read.
        self.last_us = time_us.max(self.last_us + 1);
        let (payload, event_id) = call::perform(world, &mut actor.chance, &call, self.last_us);
        if let Some(label) = call.attack.and_then(|attack| labels.get_mut(attack)) {
            label.event_ids.push(event_id);
        }
        Some(Generated { time_us: self.last_us, payload })
    }
}

impl Iterator for Traffic {
    type Item = Generated;

    fn next(&mut self) -> Option<Generated> {
        loop {
            let Reverse((time_us, index)) = self.agenda.pop()?;
            if time_us >= self.end_us {
                return None;
            }
            let event = self.turn(index);
            self.agenda.push(Reverse((self.actors[index].next_us(), index)));
            if event.is_some() {
                return event;
            }
        }
    }
}
