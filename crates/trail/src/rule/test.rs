//! The streams that each rule must fire on and stay quiet on, made from fixtures and run through the same decoder and
//! operator as live events.
//!
//! A test's stream runs twice: as given, and again with every event delivered twice and out of order within the
//! lateness; both must raise the same alerts. Times start at 2026-01-05T12:00:00Z or the test's `clock`; `history` is
//! what a rule that learns knows by then, learned without a stream. Everything is derived from the test
//! itself, so a failure repeats.

use super::file::RuleKind;
use super::load::{Rule, RuleSet, RuleSetError};
use super::posture::{self, View};
use super::run::Engine;
use super::run::integrity::Integrity;
use super::run::posture::Run;
use crate::alert::Severity;
use crate::lake::decode::decode;
use crate::lake::snapshot::Snapshot;
use crate::land::VerifiedFrame;
use crate::query::functions::site::Site;
use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use keytrail_kms::chain::leaf::{self, Kind, Leaf, Link, LogId, sha256};
use keytrail_kms::journal::frame::Frame;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

/// 2026-01-05T12:00:00Z in Unix microseconds.
pub const START_US: i64 = 1_767_614_400_000_000;

/// Origin of the log that tests pretend to read.
const ORIGIN: &str = "keytrail/test/rules-0000000000000000";

/// Most events in one test, and most moments of its history.
const EVENTS_MAX: u64 = 100_000;

/// Longest history, and longest silence after it.
const HISTORY_MAX: Duration = Duration::from_hours(800 * 24);

/// Rows per batch: small and odd, so that groups span batches.
const BATCH_ROWS: usize = 97;

/// One test in a rule's header.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// What it shows.
    pub name: String,
    /// When the stream starts, if not at 2026-01-05T12:00:00Z: an RFC 3339 time.
    pub clock: Option<String>,
    /// What happened before, for kinds that learn: one part or several.
    pub history: Option<Before>,
    /// The stream: one part or several.
    pub given: Given,
    /// When the rule looks (kind posture): as of `at` in the stream; with its last event if absent.
    pub at: Option<String>,
    /// What it must lead to.
    pub expect: Expect,
}

/// The stream of a test.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// One kind of event.
    One(Box<Part>),
    /// Several, merged by time.
    Many(Vec<Part>),
}

impl Given {
    /// The parts, in the order written.
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }
}

/// The past of a test.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Before {
    /// One kind of event.
    One(Box<History>),
    /// Several.
    Many(Vec<History>),
}

/// Regular repetitions of one fixture before the stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Name of a file in fixtures/, without `.json`.
    pub fixture: String,
    /// Members to replace, by path.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Members to take away, by path.
    #[serde(default)]
    pub unset: Vec<String>,
    /// From one moment to the next.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// From the first moment to the end, which is not one of them.
    #[serde(rename = "for", with = "humantime_serde")]
    pub span: Duration,
    /// How many events at each moment.
    #[serde(default = "one")]
    pub repeat: u64,
    /// How long before the stream it ended.
    #[serde(default, with = "humantime_serde")]
    pub ago: Duration,
}

impl History {
    fn check(&self) -> Result<(), String> {
        if self.every < Duration::from_secs(1) || self.span > HISTORY_MAX || self.ago > HISTORY_MAX {
            return Err("history: every is below 1s, or for or ago above 800days".into());
        }
        if self.span.as_secs() / self.every.as_secs().max(1) > EVENTS_MAX {
            return Err(format!("history has more than {EVENTS_MAX} moments"));
        }
        Ok(())
    }

    fn times_us(&self, start_us: i64) -> impl Iterator<Item = i64> {
        let end_us = start_us - super::run::micros(self.ago);
        let every = usize::try_from(super::run::micros(self.every)).unwrap_or(usize::MAX);
        (end_us - super::run::micros(self.span)..end_us).step_by(every)
    }
}

/// Repetitions of one fixture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Name of a file in fixtures/, without `.json`.
    pub fixture: String,
    /// Members to replace, by path: `errorCode`, `requestParameters.keyId`, `resources.0.ARN`.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
    /// Members to take away, by path.
    #[serde(default)]
    pub unset: Vec<String>,
    /// A member whose text gets `-<n>` added, different in each event.
    pub vary: Option<String>,
    /// How many events.
    #[serde(default = "one")]
    pub repeat: u64,
    /// Time from the first to the last event.
    #[serde(default, with = "humantime_serde")]
    pub spread: Duration,
    /// Deliver out of order, within the lateness.
    #[serde(default)]
    pub shuffle: bool,
    /// Deliver each event twice.
    #[serde(default)]
    pub duplicate: bool,
    /// When the first event happens: an RFC 3339 time, or a duration after the stream's start.
    pub at: Option<String>,
}

fn one() -> u64 {
    1
}

/// What a stream must lead to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How many alerts of this rule, revisions not counted.
    pub alerts: u64,
    /// The highest severity among them.
    pub severity: Option<String>,
    /// Other rules that must stay quiet on the same stream.
    #[serde(default)]
    pub silent: Vec<String>,
}

impl TestCase {
    /// What is wrong with it, beyond what the types say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(severity) = &self.expect.severity {
            Severity::from_str(severity).map_err(|error| error.to_string())?;
            if self.expect.alerts == 0 {
                return Err("expects a severity of no alert".into());
            }
        }
        let parts = self.given.parts();
        if parts.is_empty() {
            return Err("given is empty".into());
        }
        if parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.repeat)) > EVENTS_MAX {
            return Err(format!("more than {EVENTS_MAX} events"));
        }
        self.histories().iter().try_for_each(History::check)?;
        let start_us = self.start_us()?;
        parts
            .iter()
            .map(|part| &part.at)
            .chain([&self.at])
            .try_for_each(|at| time_us(at.as_deref(), start_us).map(drop))
    }

    /// The parts of its past.
    pub(crate) fn histories(&self) -> &[History] {
        match &self.history {
            None => &[],
            Some(Before::One(history)) => std::slice::from_ref(history),
            Some(Before::Many(histories)) => histories,
        }
    }

    fn start_us(&self) -> Result<i64, String> {
        let Some(clock) = &self.clock else { return Ok(START_US) };
        let time = DateTime::parse_from_rfc3339(clock).map_err(|_| format!("clock {clock:?} is not a time"))?;
        Ok(time.timestamp_micros())
    }
}

/// An RFC 3339 time, or a duration after the start of the stream.
fn time_us(at: Option<&str>, stream_us: i64) -> Result<i64, String> {
    let Some(at) = at else { return Ok(stream_us) };
    if let Ok(time) = DateTime::parse_from_rfc3339(at) {
        return Ok(time.timestamp_micros());
    }
    let after = humantime_serde::re::humantime::parse_duration(at);
    let after = after.map_err(|_| format!("at {at:?} is neither a time nor a duration"))?;
    Ok(stream_us + super::run::micros(after))
}

impl Part {
    fn times_us(&self, stream_us: i64) -> Result<Vec<i64>, String> {
        let start = time_us(self.at.as_deref(), stream_us)?;
        let spread = u64::try_from(super::run::micros(self.spread)).unwrap_or(0);
        let gaps = self.repeat.saturating_sub(1).max(1);
        let offset = |index: u64| i64::try_from(u128::from(spread) * u128::from(index) / u128::from(gaps));
        (0..self.repeat)
            .map(|index| offset(index).map(|offset| start + offset).map_err(|error| error.to_string()))
            .collect()
    }
}

/// How one test went.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// The rule's file.
    pub file: String,
    /// Line of the test in the file, from 1.
    pub line: usize,
    /// The rule's id.
    pub rule_id: String,
    /// The test's name.
    pub name: String,
    /// Nothing, or what was different from what was expected.
    pub outcome: Result<(), String>,
}

/// Loads the rules below `dir` and runs their tests.
pub fn run_dir(dir: &Path) -> Result<Vec<TestResult>, RuleSetError> {
    Ok(run(&RuleSet::as_written(dir)?, |_| true))
}

/// Batches of everyday traffic for measurements: many principals decrypting, some looking, a few refused, 1,000 a
/// second. Made from the set's fixtures `decrypt` and `describe-key`.
pub fn traffic(set: &RuleSet, events: u64, batch_rows: usize) -> Result<Vec<RecordBatch>, String> {
    let fixture = |name: &str| set.fixtures.get(name).ok_or_else(|| format!("no fixture {name:?}"));
    let (decrypt, describe) = (fixture("decrypt")?, fixture("describe-key")?);
    let mut frames = Vec::new();
    let mut prev = Link::ZERO;
    for seq in 0..events {
        let mut event = if seq % 20 == 0 { describe.clone() } else { decrypt.clone() };
        let user = format!("arn:aws:iam::111122223333:user/app-{}", seq % 400);
        *member(&mut event, "userIdentity.arn")? = user.into();
        *member(&mut event, "requestParameters.encryptionContext.tenant")? = format!("tenant-{}", seq % 50).into();
        if seq % 500 == 1 {
            *member(&mut event, "errorCode")? = "AccessDenied".into();
        }
        let time_us = START_US + i64::try_from(seq).unwrap_or(i64::MAX / 1_000_000) * 1_000;
        stamp(&mut event, usize::try_from(seq).unwrap_or(usize::MAX), time_us);
        let verified = frame(seq, u64::try_from(time_us).unwrap_or(0), prev, &event);
        prev = verified.frame.link();
        frames.push(verified);
    }
    Ok(frames.chunks(batch_rows.max(1)).map(decode).collect())
}

/// A set of `count` event and threshold rules for measurements: this set's, over and over.
pub fn widened(set: &RuleSet, count: usize) -> RuleSet {
    let rules = set
        .rules
        .iter()
        .filter(|rule| matches!(rule.kind(), RuleKind::Event | RuleKind::Threshold))
        .cycle()
        .take(count)
        .cloned();
    RuleSet { rules: rules.collect(), site: set.site.clone(), exceptions: Vec::new(), fixtures: set.fixtures.clone() }
}

/// Runs every test of the rules that are wanted.
pub fn run(set: &RuleSet, wanted: impl Fn(&Rule) -> bool) -> Vec<TestResult> {
    let mut results = Vec::new();
    for rule in set.rules.iter().filter(|rule| wanted(rule)) {
        for test in &rule.header().test {
            results.push(TestResult {
                file: rule.file.path.clone(),
                line: rule.file.test_line(&test.name),
                rule_id: rule.id().to_owned(),
                name: test.name.clone(),
                outcome: run_one(set, rule, test),
            });
        }
    }
    results
}

pub(super) fn run_one(set: &RuleSet, rule: &Arc<Rule>, test: &TestCase) -> Result<(), String> {
    let stream = Stream::of(set, rule, test)?;
    let past = Past::of(set, test)?;
    let as_given = stream.alerts(rule, test, &past, test.given.parts())?;
    if as_given.len() as u64 != test.expect.alerts {
        return Err(format!("{} alerts instead of {}", as_given.len(), test.expect.alerts));
    }
    if let (Some(expected), Some(highest)) = (&test.expect.severity, as_given.values().max())
        && highest.as_str() != expected
    {
        return Err(format!("severity {highest} instead of {expected}"));
    }
    if rule.kind() == RuleKind::Posture {
        // The tables are folded in the order of the log, whatever order records came in.
        return silent(set, &stream, test, &past);
    }
    let disordered: Vec<Part> = test.given.parts().iter().cloned().map(Part::disordered).collect();
    let again = stream.alerts(rule, test, &past, &disordered)?;
    if !again.keys().eq(as_given.keys()) {
        return Err(format!("{} alerts when delivered twice and out of order", again.len()));
    }
    silent(set, &stream, test, &past)
}

/// The other rules that must stay quiet on the stream do.
fn silent(set: &RuleSet, stream: &Stream, test: &TestCase, past: &Past) -> Result<(), String> {
    for id in &test.expect.silent {
        let other = set.rule(id).ok_or_else(|| format!("no rule {id:?}"))?;
        let alerts = stream.alerts(other, test, past, test.given.parts())?.len();
        if alerts > 0 {
            return Err(format!("rule {id} raised {alerts} alerts"));
        }
    }
    Ok(())
}

impl Part {
    fn disordered(self) -> Self {
        Self { shuffle: true, duplicate: true, ..self }
    }
}

/// What came before a test's stream.
#[derive(Default)]
struct Past {
    /// A row for each part.
    batch: Option<RecordBatch>,
    /// Time, part, and how often.
    moments: Vec<(i64, usize, u64)>,
}

impl Past {
    fn of(set: &RuleSet, test: &TestCase) -> Result<Self, String> {
        let start_us = test.start_us()?;
        let mut past = Self::default();
        let mut frames = Vec::new();
        for (index, history) in test.histories().iter().enumerate() {
            let fixture = set.fixtures.get(&history.fixture);
            let fixture = fixture.ok_or_else(|| format!("no fixture {:?}", history.fixture))?;
            let mut event = changed(fixture, &history.set, &history.unset)?;
            stamp(&mut event, index, start_us);
            frames.push(frame(index as u64, u64::try_from(start_us).unwrap_or(0), Link::ZERO, &event));
            past.moments.extend(history.times_us(start_us).map(|time_us| (time_us, index, history.repeat)));
        }
        past.moments.sort_unstable();
        past.batch = (!frames.is_empty()).then(|| decode(&frames));
        Ok(past)
    }
}

/// A test's events before delivery.
enum Stream {
    /// In order of time, each with the part it belongs to.
    Events(Vec<(usize, VerifiedFrame)>),
    Integrity(Vec<Integrity>),
}

impl Stream {
    fn of(set: &RuleSet, rule: &Rule, test: &TestCase) -> Result<Self, String> {
        let mut payloads: Vec<(i64, usize, Value)> = Vec::new();
        for (index, part) in test.given.parts().iter().enumerate() {
            let fixture = set.fixtures.get(&part.fixture).ok_or_else(|| format!("no fixture {:?}", part.fixture))?;
            for (number, time_us) in part.times_us(test.start_us()?)?.into_iter().enumerate() {
                payloads.push((time_us, index, variant(fixture, part, number)?));
            }
        }
        payloads.sort_by_key(|(time_us, ..)| *time_us);
        if rule.kind() == RuleKind::Meta {
            return payloads
                .iter()
                .map(|(time_us, _, value)| integrity(*time_us, value))
                .collect::<Result<_, _>>()
                .map(Self::Integrity);
        }
        let mut prev = Link::ZERO;
        let mut events = Vec::with_capacity(payloads.len());
        for (seq, (time_us, part, mut value)) in payloads.into_iter().enumerate() {
            stamp(&mut value, seq, time_us);
            let verified = frame(seq as u64, u64::try_from(time_us).unwrap_or(0), prev, &value);
            prev = verified.frame.link();
            events.push((part, verified));
        }
        Ok(Self::Events(events))
    }

    /// Alert ids with the highest severity each.
    fn alerts(
        &self,
        rule: &Arc<Rule>,
        test: &TestCase,
        past: &Past,
        parts: &[Part],
    ) -> Result<BTreeMap<String, Severity>, String> {
        let mut alerts = BTreeMap::new();
        self.findings(rule, test, past, parts, &mut |finding| {
            let severity = alerts.entry(finding.alert_id).or_insert(finding.severity);
            *severity = finding.severity.max(*severity);
        })?;
        Ok(alerts)
    }

    /// Shows each finding of the rule over the stream.
    fn findings(
        &self,
        rule: &Arc<Rule>,
        test: &TestCase,
        past: &Past,
        parts: &[Part],
        visit: &mut dyn FnMut(super::Finding),
    ) -> Result<(), String> {
        let set = RuleSet {
            rules: vec![rule.clone()],
            site: Site::default(),
            exceptions: Vec::new(),
            fixtures: BTreeMap::new(),
        };
        let mut engine = Engine::new(Arc::new(set));
        if let Some(batch) = &past.batch {
            engine.preset(batch, &past.moments).map_err(|error| error.to_string())?;
        }
        let mut note = |findings: Vec<super::Finding>| findings.into_iter().for_each(&mut *visit);
        match self {
            Self::Events(events) if rule.kind() == RuleKind::Posture => {
                note(look(&mut engine, rule, events, test)?);
            }
            Self::Events(events) => {
                for batch in batches(&delivered(rule, events, parts)) {
                    note(engine.process(&batch).map_err(|error| error.to_string())?);
                }
            }
            Self::Integrity(findings) => findings.iter().for_each(|found| note(engine.integrity(found))),
        }
        engine.take_failure().map_or(Ok(()), |reason| Err(format!("the rule failed: {reason}")))
    }
}

/// The first of the rule's tests with a finding that is covered.
pub(super) fn first_covered(
    set: &RuleSet,
    rule: &Arc<Rule>,
    covered: &dyn Fn(&super::Finding) -> bool,
) -> Option<String> {
    rule.header().test.iter().find_map(|test| {
        let mut found = false;
        let (stream, past) = (Stream::of(set, rule, test).ok()?, Past::of(set, test).ok()?);
        stream.findings(rule, test, &past, test.given.parts(), &mut |finding| found |= covered(&finding)).ok()?;
        found.then(|| test.name.clone())
    })
}

/// What a rule of kind posture finds in the tables that the events fold into.
fn look(
    engine: &mut Engine,
    rule: &Arc<Rule>,
    events: &[(usize, VerifiedFrame)],
    test: &TestCase,
) -> Result<Vec<super::Finding>, String> {
    let frames: Vec<VerifiedFrame> = events.iter().map(|(_, event)| event.clone()).collect();
    let last_us = frames.last().map_or(START_US, |frame| i64::try_from(frame.leaf.time_us).unwrap_or(i64::MAX));
    let now_us = if test.at.is_some() { time_us(test.at.as_deref(), test.start_us()?)? } else { last_us };
    let log = LogId::of_origin(ORIGIN).to_string();
    let as_of = BTreeMap::from([(log.clone(), frames.len() as u64)]);
    let snapshot = Arc::new(Snapshot::of_tail(batches(&frames)));
    let view = View { snapshot, trail_db: None, site: Site::default(), now_us };
    let rows = posture::look_blocking(rule, view).map_err(|error| posture::describe(&error))?;
    let run = Run { rule: rule.clone(), log, now_us, as_of, took_us: 0 };
    engine.posture(&run, &rows).map_err(|error| error.to_string())
}

fn batches(frames: &[VerifiedFrame]) -> impl Iterator<Item = RecordBatch> {
    frames.chunks(BATCH_ROWS).map(decode)
}

/// The events in the order in which they are delivered.
fn delivered(rule: &Rule, events: &[(usize, VerifiedFrame)], parts: &[Part]) -> Vec<VerifiedFrame> {
    // Less than the lateness, so that the newest event delivered before is never further ahead.
    let lateness_us = u64::try_from(super::run::micros(rule.header().lateness(false))).unwrap_or(1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ events.len() as u64);
    let mut delivery: Vec<(u64, usize)> = Vec::new();
    for (index, (part, event)) in events.iter().enumerate() {
        let Some(part) = parts.get(*part) else { continue };
        let mut at = event.leaf.time_us;
        if part.shuffle {
            at += random.below(lateness_us);
        }
        delivery.push((at, index));
        if part.duplicate {
            delivery.push((at + random.below(lateness_us), index));
        }
    }
    delivery.sort_unstable();
    delivery.into_iter().filter_map(|(_, index)| events.get(index).map(|(_, event)| event.clone())).collect()
}

/// xorshift64: the order must repeat, nothing else is asked of it.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

fn variant(fixture: &Value, part: &Part, number: usize) -> Result<Value, String> {
    let mut value = changed(fixture, &part.set, &part.unset)?;
    if let Some(path) = &part.vary {
        let found = member(&mut value, path)?;
        let text = found.as_str().unwrap_or_default();
        *found = Value::String(format!("{text}-{number}"));
    }
    Ok(value)
}

fn changed(fixture: &Value, set: &BTreeMap<String, toml::Value>, unset: &[String]) -> Result<Value, String> {
    let mut value = fixture.clone();
    for (path, new) in set {
        let new = serde_json::to_value(new).map_err(|error| error.to_string())?;
        *member(&mut value, path)? = new;
    }
    for path in unset {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = if parent.is_empty() { &mut value } else { member(&mut value, parent)? };
        parent.as_object_mut().and_then(|object| object.shift_remove(name));
    }
    Ok(value)
}

/// The member at a dotted path; objects on the way are made.
fn member<'a>(value: &'a mut Value, path: &str) -> Result<&'a mut Value, String> {
    let mut at = value;
    for name in path.split('.') {
        at = match at {
            Value::Array(items) => {
                let index: usize = name.parse().map_err(|_| format!("{path}: {name:?} is not an index"))?;
                items.get_mut(index).ok_or_else(|| format!("{path}: no item {index}"))?
            }
            Value::Object(object) => object.entry(name).or_insert(Value::Null),
            Value::Null => {
                *at = Value::Object(Map::new());
                at.as_object_mut().expect("it was just made an object").entry(name).or_insert(Value::Null)
            }
            _ => return Err(format!("{path}: {name:?} is inside a plain value")),
        };
    }
    Ok(at)
}

/// Gives the event a time and ids of its own.
fn stamp(value: &mut Value, seq: usize, time_us: i64) {
    let Some(event) = value.as_object_mut() else { return };
    let time = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
    event.insert("eventTime".into(), time.to_rfc3339_opts(SecondsFormat::Secs, true).into());
    event.insert("eventID".into(), format!("0199b000-0000-7000-8000-{seq:012x}").into());
    event.insert("requestID".into(), format!("0199b000-0000-7000-9000-{seq:012x}").into());
}

/// A frame as the lander would have verified it; a record of another kind than an event's where the fixture says so.
pub(crate) fn frame(seq: u64, time_us: u64, prev: Link, event: &Value) -> VerifiedFrame {
    let kind = event.get("recordKind").and_then(Value::as_u64).and_then(|number| u8::try_from(number).ok());
    let payload = Bytes::from(event.to_string());
    let mut salt = [0; 16];
    salt.copy_from_slice(&sha256(&[&seq.to_be_bytes()])[..16]);
    let leaf = Leaf {
        log: LogId::of_origin(ORIGIN),
        epoch: 1,
        seq,
        kind: kind.and_then(Kind::from_u8).unwrap_or(Kind::Event),
        time_us,
        payload_len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        payload_digest: leaf::payload_digest(&salt, &payload),
        prev,
    };
    VerifiedFrame { leaf, frame: Frame { leaf: leaf.encode(), salt, payload } }
}

fn integrity(time_us: i64, value: &Value) -> Result<Integrity, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Integrity {
        log: text("log").unwrap_or_else(|| LogId::of_origin(ORIGIN).to_string()),
        time_us,
        finding: text("finding").ok_or("fixture has no finding")?,
        first_seq: value.get("firstSeq").and_then(Value::as_u64),
        last_seq: value.get("lastSeq").and_then(Value::as_u64),
        detail: text("detail").unwrap_or_default(),
        entity: text("entity"),
        value: value.get("value").and_then(Value::as_u64),
        count: value.get("count").and_then(Value::as_u64),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn forty_rules_run_over_everyday_traffic_without_a_finding_that_is_not_there() {
        let shipped = RuleSet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")).unwrap();
        let wide = widened(&shipped, 40);
        assert_eq!(wide.rules().len(), 40);
        let batches = traffic(&shipped, 3_000, 1_000).unwrap();
        let mut engine = Engine::new(Arc::new(wide));
        let findings: Vec<_> = batches.iter().flat_map(|batch| engine.process(batch).unwrap()).collect();
        assert!(findings.is_empty(), "{:?}", findings.first());
    }

    #[test]
    fn a_rule_that_fails_on_a_row_fails_its_test_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("fixtures")).unwrap();
        std::fs::create_dir_all(dir.path().join("kms")).unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules/fixtures/decrypt.json");
        std::fs::copy(fixture, dir.path().join("fixtures/decrypt.json")).unwrap();
        let rule = |predicate: &str| {
            format!(
                "-- +++\n-- id = \"r\"\n-- version = 1\n-- kind = \"event\"\n-- group_key = [\"key_arn\"]\n\
                 -- dedup_period = \"1h\"\n-- severity = \"low\"\n\
                 -- test = [{{ name = \"fires\", given = {{ fixture = \"decrypt\" }}, expect = {{ alerts = 1 }} }}, \
                 {{ name = \"quiet\", given = {{ fixture = \"decrypt\", unset = [\"userIdentity.userName\"] }}, expect = {{ alerts = 0 }} }}]\n\
                 -- +++\nSELECT key_arn FROM events WHERE {predicate}\n"
            )
        };
        let results = |predicate: &str| {
            std::fs::write(dir.path().join("kms/r.sql"), rule(predicate)).unwrap();
            run_dir(dir.path()).unwrap().into_iter().map(|result| result.outcome).collect::<Vec<_>>()
        };
        let failed = results("CAST(user_name AS BIGINT) > 0");
        assert!(failed[0].as_ref().unwrap_err().contains("the rule failed: "), "{failed:?}");
        // What only the simplifier can lower works, too.
        assert_eq!(results("coalesce(user_name, 'nobody') <> 'nobody'"), [Ok(()), Ok(())]);
    }
}
