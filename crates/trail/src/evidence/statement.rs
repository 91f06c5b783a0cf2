//! The statement of a pack: what was asked, what the log shows, and what it cannot show, for people.
//!
//! The first page is the summary that someone reads who is no engineer; everything after it is detail. `Facts` are what
//! the exporter knows; what the pack's tables know is looked up there, so that the statement cannot say other than the pack.

use super::control::Period;
use super::controls::{ControlResult, RunControlError, Verdict, limits};
use super::document::{Block, Cell, Document, Tile, Tone};
use crate::query::gate;
use crate::query::run::Cancel;
use crate::query::{Format, Output, run};
use datafusion::prelude::SessionContext;
use serde_json::Value;
use std::collections::BTreeMap;

/// Rows of a table that the statement shows; the files have all.
const ROWS_SHOWN_MAX: usize = 40;

/// Exceptions that page one puts in words.
const NAMED_SHOWN_MAX: usize = 6;

/// What the exporter knows of a pack.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Program and version.
    pub tool: String,
    /// When, RFC 3339.
    pub created_at: String,
    /// Who.
    pub exported_by: String,
    /// The period.
    pub period: Period,
    /// The control set, if controls were run.
    pub control_set: Option<String>,
    /// Condition and reason of records that the exporter withheld.
    pub redaction: Option<(String, String)>,
    /// The logs.
    pub logs: Vec<LogFacts>,
    /// What the controls came to.
    pub results: Vec<ControlResult>,
    /// What else a reader has to know: what is left out, what could not be made.
    pub remarks: Vec<String>,
}

/// A log of a pack.
#[derive(Clone, Debug)]
pub struct LogFacts {
    /// Origin.
    pub origin: String,
    /// First seq in the pack.
    pub first: u64,
    /// Last seq in the pack.
    pub last: u64,
    /// Leaf time of the first record, Unix microseconds.
    pub time_first: u64,
    /// Leaf time of the last record, Unix microseconds.
    pub time_last: u64,
    /// Size of the checkpoint.
    pub size: u64,
    /// Root of the checkpoint, hex.
    pub root: String,
    /// Kind to number of records.
    pub counts: BTreeMap<u8, u64>,
    /// Records withheld from the pack.
    pub withheld: u64,
    /// Records erased from the log.
    pub erased: u64,
    /// Who cosigned the checkpoint, and when as Unix seconds where the signature says so.
    pub cosigned: Vec<(String, Option<u64>)>,
}

/// What the pack's tables say.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Starts, stops and other records about the logs.
    log_events: Vec<Value>,
    heartbeats: Vec<Value>,
    silences: Vec<Value>,
    operations: Vec<Value>,
    alerts: Vec<Value>,
    destroyed: Vec<Value>,
    keys: Vec<Value>,
    access: Vec<Value>,
}

/// Makes the statement from the facts and the pack's tables.
pub async fn render(session: &SessionContext, facts: &Facts) -> Result<Document, RunControlError> {
    let seen = Seen::look(session, &facts.period).await?;
    let mut blocks = summary(facts, &seen);
    blocks.push(Block::NewPage);
    blocks.extend(scope(facts, &seen));
    blocks.extend(controls(facts));
    blocks.extend(destruction(&seen));
    blocks.extend(alerts(&seen));
    blocks.extend(inventory(&seen));
    blocks.extend(limits_of_proof(facts));
    let set = facts.control_set.as_deref().map_or_else(|| "no control set".to_owned(), set_name);
    Ok(Document {
        title: "Statement of evidence".to_owned(),
        subtitle: format!(
            "Key management audit log, {} to {} UTC; {set}",
            day(&facts.period.start()),
            day(&facts.period.end())
        ),
        footer: format!("Made {} by {} with {}", facts.created_at, facts.exported_by, facts.tool),
        blocks,
    })
}

impl Seen {
    async fn look(session: &SessionContext, period: &Period) -> Result<Self, RunControlError> {
        let within = format!("event_time >= '{}' AND event_time < '{}'", period.start(), period.end());
        let rows = |sql: String| async move { rows(session, &sql).await };
        Ok(Self {
            log_events: rows(format!(
                "SELECT e.*, lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before, lag(event_time) OVER (PARTITION BY log ORDER BY seq) AS time_before
                 FROM log_events e WHERE kind NOT IN (9) ORDER BY log, seq"
            ))
            .await?
            .into_iter()
            .filter(|row| row["event_time_us"].as_i64().is_some_and(|at| at >= period.from_us && at < period.to_us))
            .collect(),
            heartbeats: rows(format!(
                "SELECT log, count(*) AS n, max(abs(json_get_int(CAST(raw AS VARCHAR), 'clockOffsetMicros'))) AS offset_us
                 FROM records WHERE kind = 5 AND {within} GROUP BY log ORDER BY log"
            ))
            .await?,
            silences: rows(format!(
                "SELECT * FROM (SELECT log, seq, kind, event_time, lag(kind) OVER (PARTITION BY log ORDER BY seq) AS kind_before,
                   leaf_time_us - lag(leaf_time_us) OVER (PARTITION BY log ORDER BY seq) AS lasted_us FROM records WHERE kind IN (3, 4, 5))
                 WHERE kind = 5 AND kind_before = 5 AND lasted_us > 60000000 AND {within} ORDER BY log, seq"
            ))
            .await?,
            operations: rows(format!(
                "SELECT event_source, event_name, count(*) AS n, count(error_code) AS refused FROM events
                 WHERE {within} AND event_name IS NOT NULL GROUP BY event_source, event_name ORDER BY n DESC, event_source, event_name"
            ))
            .await?,
            alerts: rows(format!(
                "SELECT a.detected_at, a.severity, a.rule_id, a.title, i.incident_id, i.state FROM alerts a LEFT JOIN incidents i ON i.alert_id = a.alert_id
                 WHERE a.detected_at >= '{}' AND a.detected_at < '{}' ORDER BY a.detected_at, a.alert_id, i.incident_id",
                period.start(),
                period.end()
            ))
            .await?,
            destroyed: rows(format!("SELECT * FROM destroyed WHERE {within} ORDER BY log, seq")).await?,
            keys: rows("SELECT key_state, key_spec, origin, count(*) AS n FROM keys GROUP BY key_state, key_spec, origin ORDER BY key_state, key_spec, origin".to_owned()).await?,
            access: rows("SELECT principal, class, count(DISTINCT key_arn) AS n FROM access GROUP BY principal, class ORDER BY n DESC, principal, class".to_owned()).await?,
        })
    }
}

fn summary(facts: &Facts, seen: &Seen) -> Vec<Block> {
    let count = |verdict| facts.results.iter().filter(|result| result.verdict == verdict).count();
    let records: u64 = facts.logs.iter().map(|log| log.last.saturating_sub(log.first) + 1).sum();
    let mut blocks = vec![Block::Paragraph(format!(
        "This statement says what the audit log of the key service shows for the time from {} to {} (UTC). {}",
        minute(&facts.period.start()),
        minute(&facts.period.end()),
        match &facts.control_set {
            Some(set) => format!("It answers {} questions about {}.", facts.results.len(), set_name(set)),
            None => "No set of controls was asked for: it holds records and their proofs only.".to_owned(),
        }
    ))];
    let tile = |value: String, label: &str, tone| Tile { value, label: label.to_owned(), tone };
    let tone_of = |n: usize, tone| if n == 0 { Tone::Plain } else { tone };
    let (met, exceptions, open) = (count(Verdict::Met), count(Verdict::Exceptions), count(Verdict::CannotBeShown));
    blocks.push(Block::Tiles(vec![
        tile(met.to_string(), "questions met", tone_of(met, Tone::Good)),
        tile(exceptions.to_string(), "with exceptions", tone_of(exceptions, Tone::Bad)),
        tile(open.to_string(), "cannot be shown", tone_of(open, Tone::Open)),
        tile(grouped(records), "records in this pack", Tone::Plain),
    ]));
    blocks.push(Block::Heading("What is proved".to_owned()));
    blocks.extend(facts.logs.iter().map(proved));
    blocks.push(Block::Paragraph(
        "Anyone can check this without the software that made it: VERIFY.md says how. Until that was done, it is a claim.".to_owned(),
    ));
    blocks.push(Block::Heading("Exceptions".to_owned()));
    blocks.push(exceptions_in_words(facts));
    blocks.push(Block::Heading("Gaps".to_owned()));
    let gaps = gaps(facts, seen);
    blocks.push(if gaps.is_empty() {
        Block::Paragraph(
            "None is known: logging did not stand still, nothing was withheld or erased, no gap was declared."
                .to_owned(),
        )
    } else {
        Block::List(shown(gaps, 8))
    });
    blocks
}

fn proved(log: &LogFacts) -> Block {
    let LogFacts { origin, first, last, size, cosigned, .. } = log;
    let what = format!(
        "Log {origin}: records {} to {} are complete, in order and unchanged, proved up to record {} by the log's own signature",
        grouped(*first),
        grouped(*last),
        grouped(size.saturating_sub(1))
    );
    if cosigned.is_empty() {
        let text = format!(
            "{what}. Nobody outside cosigned it: whoever controls the key service's machine could have written another history. Compare with a checkpoint kept elsewhere."
        );
        return Block::Notice(text, Tone::Open);
    }
    let by = |(name, at): &(String, Option<u64>)| match at.and_then(|at| i64::try_from(at).ok()) {
        Some(at) => format!("{name} at {}", second(at.saturating_mul(1_000_000))),
        None => name.clone(),
    };
    let by: Vec<String> = cosigned.iter().map(by).collect();
    Block::Notice(format!("{what} and cosigned by {}.", by.join(", ")), Tone::Good)
}

fn exceptions_in_words(facts: &Facts) -> Block {
    let failed: Vec<&ControlResult> =
        facts.results.iter().filter(|result| result.verdict == Verdict::Exceptions).collect();
    if failed.is_empty() {
        let text = if facts.results.is_empty() { "No question was asked." } else { "No answer has an exception." };
        return Block::Paragraph(text.to_owned());
    }
    // Several clauses can ask the same: what was found is said once, with all of them.
    let mut said: Vec<(Vec<&str>, &ControlResult)> = Vec::new();
    for result in failed {
        match said.iter_mut().find(|(_, other)| other.named == result.named && other.exceptions == result.exceptions) {
            Some((clauses, _)) => clauses.push(&result.id),
            None => said.push((vec![&result.id], result)),
        }
    }
    let words = |(clauses, result): &(Vec<&str>, &ControlResult)| {
        let first = result.named.first().map(String::as_str).unwrap_or_default();
        let more = match result.exceptions.saturating_sub(1) {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        format!("{} (clause {}): {first}{more}.", result.title, clauses.join(", "))
    };
    Block::List(shown(said.iter().map(words).collect(), NAMED_SHOWN_MAX))
}

/// Everything that a reader could take for silence.
fn gaps(facts: &Facts, seen: &Seen) -> Vec<String> {
    let mut gaps = Vec::new();
    for log in &facts.logs {
        let end = i64::try_from(log.time_last).unwrap_or(i64::MAX);
        if end < facts.period.to_us {
            gaps.push(format!(
                "The end of the period is not covered: the last record under the checkpoint of {} is of {}.",
                log.origin,
                second(end)
            ));
        }
        if log.withheld > 0 {
            gaps.push(format!(
                "{} records of {} are withheld from this pack; their places are proved.",
                log.withheld, log.origin
            ));
        }
        if log.erased > 0 {
            gaps.push(format!(
                "{} records of {} were erased from the log; their places are proved.",
                log.erased, log.origin
            ));
        }
    }
    for event in &seen.log_events {
        let at = text(event, "event_time");
        gaps.extend(match event["kind"].as_i64() {
            Some(3) if event["kind_before"].as_i64().is_some_and(|before| before != 4) => {
                Some(format!("A run ended without a recorded stop; logging went on at {}.", minute(&at)))
            }
            Some(3) if payload(event)["restored"].is_object() => {
                Some(format!("The log was restored from a backup; it went on at {}.", minute(&at)))
            }
            Some(3) if event["kind_before"].as_i64() == Some(4) => Some(format!(
                "The log was stopped at {} and started again at {}.",
                minute(&text(event, "time_before")),
                minute(&at)
            )),
            Some(8) => Some(format!("A gap in the log was declared at {}.", minute(&at))),
            Some(10) => Some(format!("Old payloads were pruned at {}; their places are proved.", minute(&at))),
            Some(11) => Some(format!("The mode of logging was changed at {}.", minute(&at))),
            Some(6) => Some(format!(
                "Replies were not sent because the log was slow at {}; what was decided is recorded.",
                minute(&at)
            )),
            _ => None,
        });
    }
    for silence in &seen.silences {
        let seconds = silence["lasted_us"].as_i64().unwrap_or_default() / 1_000_000;
        gaps.push(format!("No heartbeat for {seconds} s before {}.", minute(&text(silence, "event_time"))));
    }
    gaps
}

fn scope(facts: &Facts, seen: &Seen) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Scope".to_owned())];
    let pair = |name: &str, value: String| vec![Cell::from(name), Cell::from(value)];
    let mut rows = vec![
        pair("Period", format!("{} (inclusive) to {} (exclusive), UTC", facts.period.start(), facts.period.end())),
        pair("Made", format!("{} by {}", facts.created_at, facts.exported_by)),
        pair("Tool", facts.tool.clone()),
    ];
    if let Some((condition, reason)) = &facts.redaction {
        rows.push(pair(
            "Withheld",
            format!("records where {condition}; reason given: {reason}. Verdicts that depend on them are not met"),
        ));
    } else {
        rows.push(pair("Withheld", "nothing".to_owned()));
    }
    blocks.push(Block::Table { head: vec!["What".into(), "Value".into()], widths: vec![2, 10], rows });
    for log in &facts.logs {
        blocks.push(Block::Subheading(format!("Log {}", log.origin)));
        let mut rows = vec![
            pair(
                "Records",
                format!(
                    "{} to {}, of {} to {}",
                    grouped(log.first),
                    grouped(log.last),
                    micros(log.time_first),
                    micros(log.time_last)
                ),
            ),
            pair("Checkpoint", format!("size {}, root {}", grouped(log.size), log.root)),
        ];
        let kinds: Vec<String> =
            log.counts.iter().map(|(kind, n)| format!("{} {}", grouped(*n), kind_name(*kind))).collect();
        rows.push(pair("Kinds", kinds.join(", ")));
        blocks.push(Block::Table { head: vec!["What".into(), "Value".into()], widths: vec![2, 10], rows });
    }
    blocks.push(Block::Subheading("Runs of the log in the period".to_owned()));
    let runs: Vec<Vec<Cell>> =
        seen.log_events.iter().filter(|event| event["kind"] == 3 || event["kind"] == 4).map(run_row).collect();
    blocks.push(table_or(
        &["Time", "What", "Build", "Configuration"],
        &[4, 3, 2, 6],
        runs,
        "No run started or stopped in the period.",
    ));
    blocks.push(Block::Subheading("Clock".to_owned()));
    let clocks = seen.heartbeats.iter().map(|row| {
        format!(
            "{}: {} heartbeats; the wall clock moved by at most {} ms against the monotonic clock since a start.",
            text(row, "log"),
            grouped(number(row, "n")),
            number(row, "offset_us").div_ceil(1_000)
        )
    });
    let clocks: Vec<String> = clocks.collect();
    blocks.push(if clocks.is_empty() {
        Block::Paragraph("There are no heartbeats in the period, so nothing is known of the clock.".to_owned())
    } else {
        Block::List(clocks)
    });
    blocks.push(Block::Paragraph("Order is by record number, not by time. Times are the key service's own; cosignatures bound them from outside.".to_owned()));
    blocks.push(Block::Subheading("Calls in the period".to_owned()));
    let operations = seen.operations.iter().map(|row| {
        vec![
            text(row, "event_name").into(),
            text(row, "event_source").into(),
            grouped(number(row, "n")).into(),
            grouped(number(row, "refused")).into(),
        ]
    });
    blocks.push(table_or(
        &["Operation", "Service", "Events", "Refused"],
        &[5, 5, 2, 2],
        operations.collect(),
        "There are no events in the period.",
    ));
    blocks
}

fn run_row(event: &Value) -> Vec<Cell> {
    let payload = payload(event);
    let what = match (event["kind"].as_i64(), event["kind_before"].as_i64()) {
        (Some(4), _) => Cell::from("stop"),
        (_, None) => Cell::from("first start"),
        (_, Some(4)) => Cell::from("start"),
        _ => Cell { text: "start after no stop".to_owned(), tone: Tone::Bad },
    };
    vec![text(event, "event_time").into(), what, text(&payload, "build").into(), text(&payload, "configHash").into()]
}

fn controls(facts: &Facts) -> Vec<Block> {
    let Some(set) = &facts.control_set else { return Vec::new() };
    let row = |result: &ControlResult| {
        let tone = match result.verdict {
            Verdict::Met => Tone::Good,
            Verdict::Exceptions => Tone::Bad,
            Verdict::CannotBeShown => Tone::Open,
        };
        let verdict = Cell { text: result.verdict.as_str().to_owned(), tone };
        vec![result.id.clone().into(), result.question.clone().into(), verdict, result.reason.clone().into()]
    };
    let mut blocks = vec![
        Block::Heading(format!("Answers, {}", set_name(set))),
        Block::Paragraph("Clauses are named by number and put in our own words; the standard's text decides what they ask. The SQL, its rows and how the verdict comes are in controls/; keytrail evidence rerun computes them again.".to_owned()),
        Block::Table {
            head: vec!["Clause".into(), "Question".into(), "Verdict".into(), "Why".into()],
            widths: vec![3, 8, 3, 8],
            rows: facts.results.iter().map(row).collect(),
        },
    ];
    for result in facts.results.iter().filter(|result| !result.named.is_empty()) {
        blocks.push(Block::Subheading(format!("{}: {}", result.id, result.title)));
        let mut named = result.named.clone();
        let all = if result.exceptions > 0 { result.exceptions } else { result.reviews };
        let left = all.saturating_sub(named.len() as u64);
        if left > 0 {
            named.push(format!("and {left} more in controls/{}.csv", result.id));
        }
        blocks.push(Block::List(named));
    }
    blocks
}

fn destruction(seen: &Seen) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Destroyed keys".to_owned())];
    let row = |key: &Value| {
        let seconds = key["waited_us"].as_i64().unwrap_or_default() / 1_000_000;
        let waited =
            format!("{} days {} h, of {}", seconds / 86_400, seconds % 86_400 / 3_600, number(key, "waiting_days"));
        let by =
            if text(key, "requested_by").is_empty() { "not recorded".to_owned() } else { text(key, "requested_by") };
        let after = number(key, "uses_after");
        let used = Cell {
            text: if after == 0 { "none".into() } else { after.to_string() },
            tone: if after == 0 { Tone::Good } else { Tone::Bad },
        };
        vec![
            text(key, "key_arn").into(),
            format!("{by}, record {}", text(key, "request_seq")).into(),
            waited.into(),
            format!("{}, record {}", text(key, "event_time"), text(key, "seq")).into(),
            used,
        ]
    };
    let rows = seen.destroyed.iter().map(row).collect();
    blocks.push(table_or(
        &["Key", "Asked for by", "Waited", "Destroyed", "Uses since"],
        &[5, 5, 3, 4, 2],
        rows,
        "No key was destroyed in the period.",
    ));
    blocks.push(Block::Paragraph("The record number is the place in the transparency log: a proof file of that record shows that the destruction is under the checkpoint. The key service records who asked, not who approved.".to_owned()));
    blocks.push(Block::Paragraph("Backups: a set taken before the destruction holds the key, sealed under the root key. Restoring refuses a set that does not reach the newest known checkpoint, so it cannot go on with this log behind the destruction; where it was restored without comparison, the log says so and the answers above show it. Whoever has such a set and the root key can still open the key outside of the service: destroy old sets, or replace the root key and destroy the former one.".to_owned()));
    blocks
}

fn alerts(seen: &Seen) -> Vec<Block> {
    let row = |alert: &Value| {
        let incident = match text(alert, "incident_id") {
            id if id.is_empty() => Cell { text: "no incident".to_owned(), tone: Tone::Open },
            id => format!("{id}, {}", text(alert, "state")).into(),
        };
        vec![
            text(alert, "detected_at").into(),
            text(alert, "severity").into(),
            format!("{}: {}", text(alert, "rule_id"), text(alert, "title")).into(),
            incident,
        ]
    };
    let rows = seen.alerts.iter().map(row).collect();
    vec![
        Block::Heading("Alerts".to_owned()),
        table_or(
            &["Raised", "Severity", "Rule", "Incident"],
            &[4, 2, 7, 5],
            rows,
            "No alert was raised in the period.",
        ),
    ]
}

fn inventory(seen: &Seen) -> Vec<Block> {
    let keys = seen.keys.iter().map(|row| {
        vec![
            text(row, "key_state").into(),
            text(row, "key_spec").into(),
            text(row, "origin").into(),
            grouped(number(row, "n")).into(),
        ]
    });
    let access = seen
        .access
        .iter()
        .map(|row| vec![text(row, "principal").into(), text(row, "class").into(), grouped(number(row, "n")).into()]);
    vec![
        Block::Heading("Keys and access at the end of the period".to_owned()),
        table_or(&["State", "Specification", "Origin", "Keys"], &[4, 5, 4, 2], keys.collect(), "There was no key."),
        table_or(&["Principal", "May", "Keys"], &[10, 3, 2], access.collect(), "Nobody could use or administer a key."),
        Block::Paragraph("Access was computed from the policies, grants and identities in the log with the evaluator that decides calls. Conditions under which a right holds are in state/access.parquet.".to_owned()),
    ]
}

fn limits_of_proof(facts: &Facts) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("What this cannot show".to_owned())];
    let mut list: Vec<String> = [
        "Records above the checkpoint, and what happened after the last cosignature: that window is proved by nobody but the log itself.",
        "That someone who controls the key service's machine did not write plausible events that never happened, or wrote what is false from the start.",
        "A call that was answered and never recorded, unless the caller kept its receipt or counted requests elsewhere.",
        "Use of key material that was copied out of the process, what was done with plaintext and data keys after they were handed out, and physical custody.",
        "Calls that bypassed the service.",
        "Collusion of the log's signer with as many witnesses as the policy asks for.",
    ]
    .map(str::to_owned)
    .to_vec();
    list.extend(facts.logs.iter().map(|log| match log.cosigned.iter().filter_map(|(_, at)| *at).max() {
        Some(at) => format!(
            "{}: proved to record {}, cosigned at {}.",
            log.origin,
            grouped(log.size.saturating_sub(1)),
            second(i64::try_from(at).unwrap_or(0).saturating_mul(1_000_000))
        ),
        None => {
            format!("{}: proved to record {}, cosigned by nobody.", log.origin, grouped(log.size.saturating_sub(1)))
        }
    }));
    list.extend(facts.remarks.iter().cloned());
    blocks.push(Block::List(list));
    blocks
}

fn table_or(head: &[&str], widths: &[u32], mut rows: Vec<Vec<Cell>>, none: &str) -> Block {
    if rows.is_empty() {
        return Block::Paragraph(none.to_owned());
    }
    let left = rows.len().saturating_sub(ROWS_SHOWN_MAX);
    rows.truncate(ROWS_SHOWN_MAX);
    if left > 0 {
        let mut last = vec![Cell::from(format!("and {left} more in the pack's files"))];
        last.resize(head.len(), Cell::from(""));
        rows.push(last);
    }
    Block::Table { head: head.iter().map(|name| (*name).to_owned()).collect(), widths: widths.to_vec(), rows }
}

fn shown(mut items: Vec<String>, max: usize) -> Vec<String> {
    let left = items.len().saturating_sub(max);
    items.truncate(max);
    if left > 0 {
        items.push(format!("and {left} more, listed further below or in the pack's files."));
    }
    items
}

async fn rows(session: &SessionContext, sql: &str) -> Result<Vec<Value>, RunControlError> {
    let id = || "statement".to_owned();
    let plan = gate::plan(session, sql).await.map_err(|source| RunControlError::Plan { id: id(), source })?;
    let mut rows =
        run(session, plan, &limits(), Cancel::new()).map_err(|source| RunControlError::Run { id: id(), source })?;
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes, Format::Jsonl, rows.schema());
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|source| RunControlError::Run { id: id(), source })?;
        output.write(&batch).map_err(|source| RunControlError::Write { id: id(), source })?;
    }
    output.finish().map_err(|source| RunControlError::Write { id: id(), source })?;
    let lines = String::from_utf8_lossy(&bytes);
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn text(row: &Value, name: &str) -> String {
    match &row[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn number(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or_default()
}

fn payload(event: &Value) -> Value {
    serde_json::from_str(&text(event, "payload")).unwrap_or_default()
}

fn kind_name(kind: u8) -> String {
    let names = [
        "",
        "events",
        "refusals",
        "starts",
        "stops",
        "heartbeats",
        "addenda",
        "key transitions",
        "gap declarations",
        "erasures",
        "prunings",
        "changes of mode",
    ];
    names
        .get(usize::from(kind))
        .filter(|name| !name.is_empty())
        .map_or_else(|| format!("of kind {kind}"), |name| (*name).to_owned())
}

fn set_name(set: &str) -> String {
    match set {
        "pci-dss-4" => "PCI DSS 4.0",
        "soc2" => "SOC 2",
        "iso27001" => "ISO/IEC 27001:2022",
        "nist-800-53" => "NIST SP 800-53 Rev. 5",
        "hipaa" => "the HIPAA Security Rule",
        other => other,
    }
    .to_owned()
}

/// A number as people read it.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn micros(us: u64) -> String {
    second(i64::try_from(us).unwrap_or(i64::MAX))
}

fn second(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(|| "an unknown time".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// `2026-01-05T12:00:00.000000Z` to the minute.
fn minute(time: &str) -> String {
    time.get(..16).map_or_else(|| time.to_owned(), |head| head.replace('T', " "))
}

fn day(time: &str) -> String {
    time.get(..10).unwrap_or(time).to_owned()
}
