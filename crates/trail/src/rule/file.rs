//! One rule file: TOML between two `-- +++` lines, each behind `-- `, then one SELECT.
//!
//! Parses and checks everything that needs no SQL planning; every problem is collected with its line, none stops the
//! search for more. Block comments are not used for the header because they nest and break on `key/*`. Read `lower`
//! next for what happens to the SELECT.

use super::learned::{Baseline, BaselineSpec, FirstSeen, FirstSeenSpec};
use super::steps::{Absence, Sequence};
use super::test::TestCase;
use crate::alert::Severity;
use crate::query::functions::site::Site;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use keytrail_kms::chain::leaf::sha256;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

/// Largest rule file in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 256 * 1024;

/// First and last line of the header.
const FENCE: &str = "-- +++";

/// Disorder that own logs may show: their leaves are in time order, so this only covers repairs.
const LATENESS_DEFAULT: Duration = Duration::from_mins(2);

/// Disorder of imported logs: CloudTrail delivers within about fifteen minutes, and each Region and account in files of its
/// own.
pub(crate) const LATENESS_IMPORTED: Duration = Duration::from_mins(15);

/// Longest window, lateness and dedup period: state is kept for their sum.
const PERIOD_MAX: Duration = Duration::from_hours(7 * 24);

/// Shortest schedule: a run folds tables and joins them.
const SCHEDULE_MIN: Duration = Duration::from_mins(1);

/// One thing wrong with a rule set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path below the rules folder.
    pub file: String,
    /// Line from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, in one phrase.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// When a rule looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Every matching event.
    Event,
    /// Groups of events inside a sliding window.
    Threshold,
    /// Events whose entity is new, or back after a long silence.
    FirstSeen,
    /// Groups of events far above the group's own past.
    Baseline,
    /// Several steps by one entity within a time.
    Sequence,
    /// Something that should have come and did not.
    Absence,
    /// Findings about the log itself, from table `integrity`.
    Meta,
    /// State of keys, grants and policies, looked at on a schedule.
    Posture,
}

impl RuleKind {
    /// The word in rules and alerts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Threshold => "threshold",
            Self::FirstSeen => "first_seen",
            Self::Baseline => "baseline",
            Self::Sequence => "sequence",
            Self::Absence => "absence",
            Self::Meta => "meta",
            Self::Posture => "posture",
        }
    }
}

/// How far a rule has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being tried out.
    #[default]
    Experimental,
    /// Believed to be right, being watched.
    Test,
    /// To be relied on; says what it cannot see.
    Stable,
    /// About to go.
    Deprecated,
}

impl Status {
    /// The word in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Experimental => "experimental",
            Self::Test => "test",
            Self::Stable => "stable",
            Self::Deprecated => "deprecated",
        }
    }
}

/// How sure a match is what the rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Often something else.
    Low,
    /// Sometimes something else.
    Medium,
    /// Hardly ever anything else.
    High,
}

/// What a rule may cost in one log; beyond it, it is stopped there and that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Time for one batch, milliseconds.
    pub time_ms: u64,
    /// State as it is stored, MiB.
    pub memory_mb: u64,
    /// Findings in one batch.
    pub rows: u64,
    /// Entities, groups, events and buckets in state.
    pub state_entries: u64,
}

impl Default for Limits {
    /// Far above what the shipped rules need on a busy node: a batch of 4,096 records costs them milliseconds.
    fn default() -> Self {
        Self { time_ms: 30_000, memory_mb: 512, rows: 10_000, state_entries: 2_000_000 }
    }
}

/// The condition on a threshold rule's window.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Output column: a plain count(..) or count(DISTINCT ..).
    pub column: String,
    /// Fires at or above this: a number or `"$param"`.
    pub gte: toml::Value,
}

/// The header as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Same as the file's name; never reused.
    pub id: String,
    /// Grows with each change of meaning.
    pub version: u32,
    /// When it looks.
    pub kind: RuleKind,
    /// One line for people; the id if absent.
    pub title: Option<String>,
    /// What it finds and why that matters.
    pub description: Option<String>,
    /// How far it has come.
    #[serde(default)]
    pub status: Status,
    /// Who answers for it.
    pub owner: Option<String>,
    /// What an attacker gains by it.
    pub why_it_matters: Option<String>,
    /// How sure a match is what the rule says.
    pub confidence: Option<Confidence>,
    /// Controls that it is evidence for, such as `cis-aws-3.7`.
    #[serde(default)]
    pub compliance: Vec<String>,
    /// What it may cost.
    #[serde(default)]
    pub limits: Limits,
    /// Harmless causes.
    #[serde(default)]
    pub false_positives: Vec<String>,
    /// What it cannot see.
    #[serde(default)]
    pub blind_spots: Vec<String>,
    /// Where to read what to do.
    pub runbook: Option<String>,
    /// Free labels, copied to the alert.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// ATT&CK technique ids.
    #[serde(default)]
    pub attack: Vec<String>,
    /// Length of the sliding window (threshold).
    #[serde(default, with = "humantime_serde")]
    pub window: Option<Duration>,
    /// How often it looks (posture).
    #[serde(default, with = "humantime_serde")]
    pub schedule: Option<Duration>,
    /// Disorder that changes nothing.
    #[serde(default, with = "humantime_serde")]
    pub lateness: Option<Duration>,
    /// One alert per group and period, counted from the Unix epoch.
    #[serde(with = "humantime_serde")]
    pub dedup_period: Duration,
    /// Output columns that name the entity.
    pub group_key: Vec<String>,
    /// Site values with their defaults, used as `$name`.
    #[serde(default)]
    pub params: BTreeMap<String, toml::Value>,
    /// Condition on the window (threshold).
    pub threshold: Option<Threshold>,
    /// What counts as new (first_seen).
    pub first_seen: Option<FirstSeen>,
    /// What counts as far above the past (baseline).
    pub baseline: Option<Baseline>,
    /// What must happen together (sequence).
    pub sequence: Option<Sequence>,
    /// What should have come (absence).
    pub absence: Option<Absence>,
    /// One of the five words, or a CASE over the output columns.
    pub severity: String,
    /// Streams that fire and streams that stay quiet.
    #[serde(default)]
    pub test: Vec<TestCase>,
}

impl Header {
    /// Disorder that changes nothing, in a log of our own or in an imported one.
    pub fn lateness(&self, imported: bool) -> Duration {
        self.lateness.unwrap_or(if imported { LATENESS_IMPORTED } else { LATENESS_DEFAULT })
    }
}

/// A rule file, read and checked up to the SQL.
#[derive(Clone, Debug)]
pub struct RuleFile {
    /// Path below the rules folder.
    pub path: String,
    /// The file as it stands.
    pub text: String,
    /// The header.
    pub header: Header,
    /// The SELECT with its parameters replaced.
    pub sql: String,
    /// Line of the file on which `sql` starts, from 1.
    pub sql_line: usize,
    /// The severity with its parameters replaced.
    pub severity: String,
    /// The threshold with its parameter replaced.
    pub gte: Option<u64>,
    /// The first_seen header with its parameters replaced.
    pub(crate) first_seen: Option<FirstSeenSpec>,
    /// The baseline header with its parameters replaced.
    pub(crate) baseline: Option<BaselineSpec>,
    /// The sequence with its parameters replaced.
    pub sequence: Option<Sequence>,
    /// The absence with its parameters replaced.
    pub absence: Option<Absence>,
    /// SHA-256 of the file's bytes, then of the effective params as sorted `name=value` lines.
    pub hash: String,
    /// Lines of the tests' names, in order.
    pub(super) test_lines: Vec<usize>,
}

impl RuleFile {
    /// Takes what the site says into the hash, where the rule asks for it.
    pub(super) fn ask_site(&mut self, bytes: &[u8], site: &Site) {
        let sequence = self.header.sequence.iter_mut().flat_map(Sequence::texts_mut);
        let absence = self.header.absence.iter_mut().flat_map(Absence::texts_mut);
        let mut texts = [&mut self.sql, &mut self.severity].into_iter().chain(sequence).chain(absence);
        if let Some(line) = texts.find_map(|text| site.line_for(text)) {
            self.hash = rule_hash(bytes, &self.header.params, &line);
        }
    }

    /// Line on which the test with this name starts.
    pub(crate) fn test_line(&self, name: &str) -> usize {
        let index = self.header.test.iter().position(|test| test.name == name);
        index.and_then(|index| self.test_lines.get(index)).copied().unwrap_or(0)
    }
}

/// Site values for one rule's params.
pub type Overrides = BTreeMap<String, toml::Value>;

/// Reads one rule file. `overrides` replace the defaults of the params with the same name.
pub(super) fn parse(path: &str, bytes: &[u8], overrides: &Overrides) -> Result<RuleFile, Vec<Problem>> {
    let problem = |line, reason: String| Problem { file: path.to_owned(), line, reason };
    if bytes.len() > FILE_BYTES_MAX {
        return Err(vec![problem(0, format!("file has {} bytes, the limit is {FILE_BYTES_MAX}", bytes.len()))]);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| vec![problem(0, "file is not UTF-8".into())])?;
    let parts = split(text).map_err(|(line, reason)| vec![problem(line, reason)])?;
    let mut header: Header = toml::from_str(&parts.toml).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let line = parts.toml.get(..offset).map_or(0, |before| before.matches('\n').count());
        vec![problem(line + 2, format!("header: {}", error.message().replace('\n', ", ")))]
    })?;
    let line_of = |needle: &str| line_of(text, needle);
    let mut problems = Vec::new();
    for (name, value) in overrides {
        match header.params.get_mut(name) {
            Some(default) if default.same_type(value) => *default = value.clone(),
            Some(_) => problems.push(problem(line_of("params"), format!("site value of ${name} has another type"))),
            None => problems.push(problem(line_of("params"), format!("site value for unknown param ${name}"))),
        }
    }
    check(&header, path, &line_of, &mut |line, reason| problems.push(problem(line, reason)));
    let params: Vec<(String, String)> =
        header.params.iter().filter_map(|(n, v)| Some((n.clone(), literal(v)?))).collect();
    let mut used = vec![false; params.len()];
    let sql = substitute(&parts.sql, &params, &mut used)
        .map_err(|(line, reason)| problems.push(problem(parts.sql_line + line - 1, reason)));
    let severity = match Severity::from_str(&header.severity) {
        Ok(_) => Ok(header.severity.clone()),
        Err(_) => substitute(&header.severity, &params, &mut used)
            .map_err(|(_, reason)| problems.push(problem(line_of("severity"), format!("severity: {reason}")))),
    };
    let gte = header.threshold.as_ref().map(|threshold| threshold_value(threshold, &header, &mut used));
    let mut resolved = |name: &str, reason: String| problems.push(problem(line_of(name), reason));
    let gte = gte.transpose().map_err(|reason| resolved("threshold", reason)).unwrap_or_default();
    let first_seen = header.first_seen.as_ref().map(|first_seen| first_seen.spec(&header.params, &mut used));
    let first_seen = first_seen.transpose().map_err(|reason| resolved("first_seen", reason)).unwrap_or_default();
    let baseline = header.baseline.as_ref().map(|baseline| baseline.spec(&header.params, &mut used));
    let baseline = baseline.transpose().map_err(|reason| resolved("baseline", reason)).unwrap_or_default();
    let (mut sequence, mut absence) = (header.sequence.clone(), header.absence.clone());
    let predicates = sequence.iter_mut().flat_map(Sequence::texts_mut).map(|text| ("sequence", text));
    for (name, text) in predicates.chain(absence.iter_mut().flat_map(Absence::texts_mut).map(|text| ("absence", text)))
    {
        match substitute(text, &params, &mut used) {
            Ok(replaced) => *text = replaced,
            Err((_, reason)) => problems.push(problem(line_of(name), format!("{name}: {reason}"))),
        }
    }
    for (name, used) in header.params.keys().zip(&used) {
        if !used {
            problems.push(problem(line_of("params"), format!("param ${name} is never used")));
        }
    }
    let hash = rule_hash(bytes, &header.params, "");
    let test_lines =
        (1..).zip(text.lines()).filter(|(_, line)| line.trim_end() == "-- [[test]]").map(|(n, _)| n).collect();
    match (sql, severity) {
        (Ok(sql), Ok(severity)) if problems.is_empty() => Ok(RuleFile {
            path: path.to_owned(),
            text: text.to_owned(),
            header,
            sql,
            sql_line: parts.sql_line,
            severity,
            gte,
            first_seen,
            baseline,
            sequence,
            absence,
            hash,
            test_lines,
        }),
        _ => Err(problems),
    }
}

/// Header and body of a file with a TOML header behind `-- `.
pub(crate) struct Parts {
    pub(crate) toml: String,
    pub(crate) sql: String,
    pub(crate) sql_line: usize,
}

pub(crate) fn split(text: &str) -> Result<Parts, (usize, String)> {
    let mut lines = text.lines();
    if lines.next().map(str::trim_end) != Some(FENCE) {
        return Err((1, format!("the first line is not `{FENCE}`")));
    }
    let mut toml = String::new();
    for (index, line) in lines.enumerate() {
        let number = index + 2;
        if line.trim_end() == FENCE {
            let sql = text.lines().skip(number).collect::<Vec<_>>().join("\n");
            return Ok(Parts { toml, sql, sql_line: number + 1 });
        }
        match line.strip_prefix("-- ").or((line.trim_end() == "--").then_some("")) {
            Some(content) => {
                toml.push_str(content);
                toml.push('\n');
            }
            None => return Err((number, "header lines start with `-- `".into())),
        }
    }
    Err((1, format!("the header has no closing `{FENCE}`")))
}

/// The first header line that holds `needle` as a key, for problems that have no span of their own.
fn line_of(text: &str, needle: &str) -> usize {
    let is_key = |line: &str| {
        let content = line.trim_start_matches("-- ").trim_start_matches('[');
        content.strip_prefix(needle).is_some_and(|rest| rest.trim_start().starts_with(['=', '.', ']']))
    };
    text.lines().position(is_key).map_or(1, |index| index + 1)
}

fn check(header: &Header, path: &str, line_of: &dyn Fn(&str) -> usize, problem: &mut dyn FnMut(usize, String)) {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".sql");
    if header.id != stem {
        problem(line_of("id"), format!("id {:?} differs from the file's name {stem:?}", header.id));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if header.id.is_empty() || header.id.len() > 64 || !header.id.chars().all(plain) {
        problem(line_of("id"), "id is not 1 to 64 of a-z, 0-9 and -".into());
    }
    let mut period = |name: &str, value: Duration| {
        if value < Duration::from_millis(1) || value > PERIOD_MAX {
            problem(line_of(name), format!("{name} is not between 1ms and 7days"));
        }
    };
    period("dedup_period", header.dedup_period);
    header.window.iter().for_each(|window| period("window", *window));
    header.lateness.iter().for_each(|lateness| period("lateness", *lateness));
    for (name, present, kind) in [
        ("window", header.window.is_some(), RuleKind::Threshold),
        ("threshold", header.threshold.is_some(), RuleKind::Threshold),
        ("first_seen", header.first_seen.is_some(), RuleKind::FirstSeen),
        ("baseline", header.baseline.is_some(), RuleKind::Baseline),
    ] {
        if header.kind == kind && !present {
            problem(line_of("kind"), format!("kind {} needs {name}", kind.as_str()));
        }
        if header.kind != kind && present {
            problem(line_of(name), format!("{name} belongs to kind {}", kind.as_str()));
        }
    }
    check_kind_tables(header, line_of, problem);
    if header.status == Status::Stable && header.blind_spots.is_empty() {
        problem(line_of("status"), "status stable needs blind_spots: say what the rule cannot see".into());
    }
    let posture = header.kind == RuleKind::Posture;
    match header.schedule {
        Some(schedule) if posture && (SCHEDULE_MIN..=PERIOD_MAX).contains(&schedule) => {}
        None if !posture => {}
        Some(_) if posture => problem(line_of("schedule"), "schedule is not between 1m and 7days".into()),
        Some(_) => problem(line_of("schedule"), "schedule belongs to kind posture".into()),
        None => problem(line_of("kind"), "kind posture needs schedule".into()),
    }
    for (name, value) in &header.params {
        if literal(value).is_none() {
            problem(line_of("params"), format!("param ${name} is not a number, a truth value or one line of text"));
        }
    }
    if !header.test.iter().any(|test| test.expect.alerts > 0) {
        problem(line_of("test"), "no test that fires".into());
    }
    if !header.test.iter().any(|test| test.expect.alerts == 0) {
        problem(line_of("test"), "no test that stays quiet".into());
    }
    let learned = matches!(header.kind, RuleKind::FirstSeen | RuleKind::Baseline);
    for test in &header.test {
        if !learned && test.history.is_some() {
            problem(line_of("test"), format!("test {:?}: history belongs to kinds first_seen and baseline", test.name));
        }
        if let Err(reason) = test.check() {
            problem(line_of("test"), format!("test {:?}: {reason}", test.name));
        }
    }
}

fn check_kind_tables(header: &Header, line_of: &dyn Fn(&str) -> usize, problem: &mut dyn FnMut(usize, String)) {
    let sequence = header.sequence.as_ref().map(Sequence::check);
    let absence = header.absence.as_ref().map(|absence| absence.check(header.dedup_period));
    for (kind, name, table) in [(RuleKind::Sequence, "sequence", sequence), (RuleKind::Absence, "absence", absence)] {
        match table {
            None if header.kind == kind => problem(line_of("kind"), format!("kind {name} needs {name}")),
            Some(_) if header.kind != kind => problem(line_of(name), format!("{name} belongs to kind {name}")),
            Some(Err(reason)) => problem(line_of(name), reason),
            _ => {}
        }
    }
    let Limits { time_ms, memory_mb, rows, state_entries } = header.limits;
    if [time_ms, memory_mb, rows, state_entries].contains(&0) {
        problem(line_of("limits"), "limits must not be 0".into());
    }
}

fn threshold_value(threshold: &Threshold, header: &Header, used: &mut [bool]) -> Result<u64, String> {
    let number = resolve("threshold.gte", &threshold.gte, &header.params, used)?.as_integer();
    match number.and_then(|number| u64::try_from(number).ok()) {
        Some(number) if (1..=super::run::THRESHOLD_MAX).contains(&number) => Ok(number),
        _ => Err(format!("threshold.gte is not a whole number from 1 to {}", super::run::THRESHOLD_MAX)),
    }
}

/// The value of a header field that is a value or `"$param"`; marks the param as used.
pub(super) fn resolve<'a>(
    field: &str,
    value: &'a toml::Value,
    params: &'a BTreeMap<String, toml::Value>,
    used: &mut [bool],
) -> Result<&'a toml::Value, String> {
    let toml::Value::String(name) = value else { return Ok(value) };
    let name = name.strip_prefix('$').ok_or_else(|| format!("{field} is neither a number nor \"$param\""))?;
    let index = params.keys().position(|key| key == name);
    let index = index.ok_or_else(|| format!("unknown param ${name}"))?;
    used.get_mut(index).into_iter().for_each(|used| *used = true);
    Ok(params.get(name).unwrap_or(value))
}

/// The SQL literal of a param; None for what cannot be one.
pub(crate) fn literal(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::Integer(number) if *number < 0 => format!("({number})"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) if number.is_finite() => format!("({number:?})"),
        toml::Value::Boolean(truth) => truth.to_string(),
        toml::Value::String(text) if !text.contains(['\n', '\r']) => format!("'{}'", text.replace('\'', "''")),
        _ => return None,
    })
}

/// Replaces `$name` tokens by literals. Works on tokens, so that text and comments stay as they are, and on the typed
/// literal, so that a value can never become syntax.
pub(crate) fn substitute(sql: &str, params: &[(String, String)], used: &mut [bool]) -> Result<String, (usize, String)> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| (line(error.location.line), error.message))?;
    let mut lines: Vec<Vec<char>> = sql.lines().map(|line| line.chars().collect()).collect();
    for token in tokens.iter().rev() {
        let Token::Placeholder(placeholder) = &token.token else { continue };
        let (start, number) = (token.span.start, line(token.span.start.line));
        let name = placeholder.trim_start_matches('$');
        let index = params.iter().position(|(param, _)| param == name);
        let index = index.ok_or_else(|| (number, format!("unknown param {placeholder}")))?;
        used.get_mut(index).into_iter().for_each(|used| *used = true);
        let column = line(start.column) - 1;
        if let (Some(text), Some((_, literal))) = (lines.get_mut(number - 1), params.get(index)) {
            let end = (column + placeholder.chars().count()).min(text.len());
            text.splice(column.min(end)..end, literal.chars());
        }
    }
    Ok(lines.into_iter().map(String::from_iter).collect::<Vec<_>>().join("\n"))
}

fn line(number: u64) -> usize {
    usize::try_from(number).unwrap_or(1).max(1)
}

fn rule_hash(bytes: &[u8], params: &BTreeMap<String, toml::Value>, site: &str) -> String {
    let lines: String = params.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    hex::encode(sha256(&[bytes, lines.as_bytes(), site.as_bytes()]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RULE: &str = r#"-- +++
-- id = "denied"
-- version = 1
-- kind = "threshold"
-- window = "5m"
-- group_key = ["principal_arn"]
-- dedup_period = "1h"
-- params = { limit = 10, name = "it's" }
-- threshold = { column = "denied", gte = "$limit" }
-- severity = "CASE WHEN denied >= 5 * $limit THEN 'high' ELSE 'medium' END"
--
-- [[test]]
-- name = "fires"
-- given = { fixture = "decrypt", repeat = 10 }
-- expect = { alerts = 1 }
-- [[test]]
-- name = "quiet"
-- given = { fixture = "decrypt", repeat = 9 }
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, count(*) AS denied
FROM events -- $limit in a comment
WHERE event_name = '$limit' AND user_name <> $name
GROUP BY principal_arn
"#;

    fn parse_text(text: &str) -> Result<RuleFile, Vec<Problem>> {
        parse("kms/denied.sql", text.as_bytes(), &Overrides::new())
    }

    fn problem_of(text: &str) -> (usize, String) {
        let problems = parse_text(text).unwrap_err();
        (problems[0].line, problems[0].reason.clone())
    }

    #[test]
    fn a_rule_is_read_and_its_params_replaced_outside_text_and_comments() {
        let rule = parse_text(RULE).unwrap();
        assert_eq!(rule.gte, Some(10));
        assert!(rule.sql.contains("WHERE event_name = '$limit' AND user_name <> 'it''s'"), "{}", rule.sql);
        assert!(rule.sql.contains("-- $limit in a comment"));
        assert_eq!(rule.severity, "CASE WHEN denied >= 5 * 10 THEN 'high' ELSE 'medium' END");
        assert_eq!(RULE.lines().nth(rule.sql_line - 1), Some("SELECT principal_arn, count(*) AS denied"));
    }

    #[test]
    fn the_hash_covers_the_file_and_the_effective_params() {
        let plain = parse_text(RULE).unwrap().hash;
        assert_eq!(plain, hex::encode(sha256(&[RULE.as_bytes(), b"limit=10\nname=\"it's\"\n"])));
        let overrides = Overrides::from([("limit".to_owned(), toml::Value::Integer(11))]);
        let site = parse("kms/denied.sql", RULE.as_bytes(), &overrides).unwrap();
        assert_ne!(site.hash, plain);
        assert_eq!(site.gte, Some(11));
        assert!(site.severity.contains("5 * 11"));
    }

    #[test]
    fn problems_name_their_line() {
        assert_eq!(problem_of(&RULE.replace("version = 1", "version = x")).0, 3);
        assert_eq!(problem_of(&RULE.replace("-- kind", "kind")), (4, "header lines start with `-- `".into()));
        assert_eq!(problem_of(&RULE.replace("\"denied\"\n", "\"other\"\n")).0, 2);
        assert_eq!(problem_of(&RULE.replace("-- window = \"5m\"\n", "")).1, "kind threshold needs window");
        assert_eq!(problem_of(&RULE.replace("<> $name", "<> $nmae")), (23, "unknown param $nmae".into()));
        assert_eq!(problem_of(&RULE.replace("<> $name", "<> 1")), (8, "param $name is never used".into()));
        assert_eq!(problem_of(&RULE.replace("alerts = 1", "alerts = 0")).1, "no test that fires");
        assert_eq!(problem_of(&RULE.replace("alerts = 0", "alerts = 1")).1, "no test that stays quiet");
        assert!(problem_of(&RULE.replace("dedup_period", "colour = 1\n-- dedup_period")).1.contains("unknown field"));
        assert!(problem_of(&RULE.replace("limit = 10", "limit = 0")).1.contains("threshold.gte"));
        assert!(problem_of("SELECT 1").1.contains("first line"));
    }

    #[test]
    fn a_site_value_must_fit_its_param() {
        for (name, value) in [("limit", toml::Value::String("x".into())), ("other", toml::Value::Integer(1))] {
            assert!(parse("kms/denied.sql", RULE.as_bytes(), &Overrides::from([(name.to_owned(), value)])).is_err());
        }
    }
}
