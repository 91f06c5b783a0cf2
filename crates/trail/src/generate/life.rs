//! What everyone does on an ordinary day: applications, services, people, pipelines, nightly jobs, key rotation.
//!
//! Each actor plans a little at a time: an application its next call, a person the working day. Plans depend on the
//! actor's own chance and on the world's fixed part, never on what others do meanwhile.

use super::calendar::{BERLIN, DAY_US, HOUR_US, MINUTE_US, SECOND_US, Zone};
use super::call::{Call, Context, Op, Policy};
use super::chance::Chance;
use super::world::{CallerId, KeyId, World};

/// Calls to be made, each at its time.
pub(super) type Plan = Vec<(i64, Call)>;

/// Share of an application's calls that go wrong by themselves.
const THROTTLED: f64 = 0.000_5;
const DAMAGED: f64 = 0.000_05;
const DENIED: f64 = 0.000_2;

/// Longest wait before an actor looks at the clock again.
const LOOK_US: i64 = HOUR_US;

/// An actor's part.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Calls all day, as often as customers ask.
    Workload { keys: Vec<KeyId>, mean_us: f64, contexts: u32, zone: Zone },
    /// Office hours.
    Person { zone: Zone, keys: Vec<KeyId> },
    /// Changes policies and grants, retires keys; office hours.
    Admin { retired: Vec<KeyId> },
    /// Bursts of changes in office hours.
    Pipeline { deployed: u32 },
    /// The same work each night.
    Job { key: KeyId, at_us: i64, calls: u32, contexts: u32 },
    /// Looks at every key each night.
    Auditor,
    /// One burst on the first day.
    Dormant { key: KeyId },
    /// KMS rotates keys that are due.
    Rotation,
    /// Follows its script and ends.
    Script,
}

/// What comes next after `now_us`, and when to ask again at the latest; None at the end of a script.
pub(super) fn plan(
    role: &mut Role,
    who: CallerId,
    world: &mut World,
    chance: &mut Chance,
    now_us: i64,
) -> Option<(Plan, i64)> {
    world.callers[who].renew(chance, now_us);
    match role {
        Role::Workload { keys, mean_us, contexts, zone } => {
            let gap_us = chance.gap_us(*mean_us / zone.demand(now_us)).max(1);
            if gap_us > LOOK_US {
                return Some((Vec::new(), now_us + LOOK_US));
            }
            Some((vec![(now_us + gap_us, workload_call(who, keys, *contexts, chance))], now_us + gap_us))
        }
        Role::Person { zone, keys } => Some(daily(*zone, now_us, |midnight_us| {
            if zone.works(midnight_us) { person_day(who, keys, chance, midnight_us) } else { Vec::new() }
        })),
        Role::Admin { retired } => Some(daily(BERLIN, now_us, |midnight_us| {
            if BERLIN.works(midnight_us) { admin_day(who, retired, world, chance, midnight_us) } else { Vec::new() }
        })),
        Role::Pipeline { deployed } => Some(daily(BERLIN, now_us, |midnight_us| {
            let mut plan = Vec::new();
            if BERLIN.works(midnight_us) {
                for _ in 0..chance.between(0, 3) {
                    let at_us = midnight_us + chance.between(9 * 60, 17 * 60) * MINUTE_US;
                    *deployed += 1;
                    deploy(who, *deployed, world, chance, at_us, &mut plan);
                }
            }
            plan
        })),
        Role::Job { key, at_us, calls, contexts } => Some(daily(BERLIN, now_us, |midnight_us| {
            let start_us = midnight_us + *at_us + chance.between(0, 90) * SECOND_US;
            let call = |n: u32| {
                let context = Context { tenant: n % *contexts, purpose: "report" };
                Call::new(who, Op::Use { name: "Decrypt", key: *key, context })
            };
            (0..*calls)
                .map(|n| (start_us + i64::from(n) * 5 * SECOND_US + chance.between(0, SECOND_US), call(n)))
                .collect()
        })),
        Role::Auditor => Some(daily(BERLIN, now_us, |midnight_us| audit(who, world, chance, midnight_us))),
        Role::Dormant { key } => {
            let context = Context { tenant: 1, purpose: "archive" };
            let call = |_| Call::new(who, Op::Use { name: "Decrypt", key: *key, context });
            let plan = (0..3).map(|n| (now_us + (8 + n) * HOUR_US, call(n))).collect();
            Some((plan, i64::MAX))
        }
        Role::Rotation => Some(daily(BERLIN, now_us, |midnight_us| rotations(who, world, chance, midnight_us))),
        Role::Script => None,
    }
}

/// Plans the local day after `now_us`.
fn daily(zone: Zone, now_us: i64, day: impl FnOnce(i64) -> Plan) -> (Plan, i64) {
    let midnight_us = zone.midnight_us(now_us) + DAY_US;
    let mut plan = day(midnight_us);
    plan.sort_by_key(|(time_us, _)| *time_us);
    (plan, midnight_us + HOUR_US)
}

fn workload_call(who: CallerId, keys: &[KeyId], contexts: u32, chance: &mut Chance) -> Call {
    let name = match chance.below(100) {
        0..62 => "Decrypt",
        62..90 => "GenerateDataKey",
        90..98 => "Encrypt",
        _ => return Call::new(who, Op::Look { name: "DescribeKey", key: Some(chance.pick(keys)) }),
    };
    let tenant = u32::try_from(who).unwrap_or(0) * 64 + u32::try_from(chance.below(contexts as usize)).unwrap_or(0);
    let call = Call::new(who, Op::Use { name, key: chance.pick(keys), context: Context { tenant, purpose: "orders" } });
    let luck = chance.unit();
    if luck < THROTTLED {
        return call.failing("ThrottlingException");
    }
    if luck < THROTTLED + DENIED {
        return call.failing("AccessDenied");
    }
    if name == "Decrypt" && luck < THROTTLED + DENIED + DAMAGED {
        return call.failing("InvalidCiphertextException");
    }
    call
}

fn person_day(who: CallerId, keys: &[KeyId], chance: &mut Chance, midnight_us: i64) -> Plan {
    if chance.happens(0.12) {
        // On leave.
        return Vec::new();
    }
    let (start, end) = (chance.between(7 * 60 + 30, 10 * 60), chance.between(16 * 60, 19 * 60));
    let calls = chance.between(2, 24);
    (0..calls)
        .map(|_| {
            let at_us = midnight_us + chance.between(start, end) * MINUTE_US + chance.between(0, MINUTE_US);
            let key = chance.pick(keys);
            let context = Context { tenant: 9_000 + u32::try_from(who).unwrap_or(0), purpose: "support" };
            let op = match chance.below(100) {
                0..38 => Op::Look { name: "DescribeKey", key: Some(key) },
                38..58 => Op::Look { name: "ListAliases", key: None },
                58..66 => Op::Look { name: "ListKeys", key: None },
                66..72 => Op::Look { name: "GetKeyPolicy", key: Some(key) },
                72..76 => Op::Look { name: "GetKeyRotationStatus", key: Some(key) },
                76..80 => Op::Look { name: "ListResourceTags", key: Some(key) },
                80..92 => Op::Use { name: "Decrypt", key, context },
                _ => Op::Use { name: "Encrypt", key, context },
            };
            let call = Call::new(who, op);
            (at_us, if chance.happens(0.02) { call.failing("AccessDenied") } else { call })
        })
        .collect()
}

fn admin_day(who: CallerId, retired: &mut Vec<KeyId>, world: &World, chance: &mut Chance, midnight_us: i64) -> Plan {
    let account = world.callers[who].account;
    let mut plan = Plan::new();
    let mut at_us = midnight_us + chance.between(9 * 60, 15 * 60) * MINUTE_US;
    let mut next = |chance: &mut Chance, op: Op| {
        at_us += chance.between(20, 240) * SECOND_US;
        plan.push((at_us, Call::new(who, op)));
    };
    let key = world.key_of(chance, account);
    for name in ["ListKeys", "DescribeKey", "GetKeyPolicy"] {
        next(chance, Op::Look { name, key: (name != "ListKeys").then_some(key) });
    }
    if chance.happens(0.25) {
        let app = world.workloads[chance.below(world.workloads.len())].0;
        let role = format!("arn:aws:iam::{account}:role/{}", world.callers[app].name);
        next(chance, Op::PutPolicy { key, policy: Policy::Allow(role), bypass: false });
    }
    if chance.happens(0.3) {
        let grantee = format!("arn:aws:iam::{account}:role/app-{}", chance.below(20));
        let context = Some(Context { tenant: 1, purpose: "orders" });
        next(chance, Op::CreateGrant { key, grantee, operations: &["Decrypt", "GenerateDataKey"], context });
    }
    if chance.happens(0.06)
        && let Some(key) = retired.pop()
    {
        next(chance, Op::Change { name: "DisableKey", key });
        next(chance, Op::ScheduleDeletion { key, days: 30 });
    }
    plan
}

/// A roll-out: looks at what is there, puts what should be, sometimes makes a key.
fn deploy(who: CallerId, number: u32, world: &mut World, chance: &mut Chance, mut at_us: i64, plan: &mut Plan) {
    let account = world.callers[who].account;
    let mut steps: Vec<Op> = Vec::new();
    if chance.happens(0.08) {
        let key = world.make_key(chance, account, &format!("stack-{who}-{number}"));
        world.keys[key].rotates = false;
        steps.push(Op::CreateKey { key });
        steps.push(Op::Change { name: "EnableKeyRotation", key });
        steps.push(Op::Alias { name: "CreateAlias", alias: format!("stack-{who}-{number}"), key, before: None });
    }
    for _ in 0..chance.between(2, 6) {
        let key = world.key_of(chance, account);
        for name in ["DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListResourceTags"] {
            steps.push(Op::Look { name, key: Some(key) });
        }
        if chance.happens(0.15) {
            steps.push(Op::Change { name: "TagResource", key });
        }
        if chance.happens(0.08) {
            steps.push(Op::PutPolicy { key, policy: Policy::Default, bypass: false });
        }
    }
    for op in steps {
        at_us += chance.between(80, 900) * 1_000;
        let call = Call::new(who, op);
        plan.push((at_us, if chance.happens(0.004) { call.failing("ThrottlingException") } else { call }));
    }
}

fn audit(who: CallerId, world: &World, chance: &mut Chance, midnight_us: i64) -> Plan {
    let mut at_us = midnight_us + 3 * HOUR_US + chance.between(0, 600) * SECOND_US;
    let mut plan = vec![(at_us, Call::new(who, Op::Look { name: "ListKeys", key: None }))];
    for &key in &world.app_keys {
        for name in ["DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListGrants"] {
            at_us += chance.between(50, 400) * 1_000;
            plan.push((at_us, Call::new(who, Op::Look { name, key: Some(key) })));
        }
    }
    plan
}

/// A key that rotates does so once a year.
fn rotations(who: CallerId, world: &World, chance: &mut Chance, midnight_us: i64) -> Plan {
    let due = |key: KeyId| {
        let key = &world.keys[key];
        key.rotates && (midnight_us - key.created_us).div_euclid(DAY_US).rem_euclid(365) == 0
    };
    let keys: Vec<KeyId> = (0..world.keys.len()).filter(|&key| due(key)).collect();
    keys.into_iter()
        .map(|key| (midnight_us + chance.between(0, DAY_US - 1), Call::new(who, Op::Rotate { key })))
        .collect()
}
