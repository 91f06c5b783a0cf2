//! Everything behind page one.

use super::seen::{Seen, number, payload, text};
use super::words::{grouped, kind_name, micros, second, set_name};
use super::{Facts, LogFacts};
use crate::evidence::controls::{ControlResult, Verdict};
use crate::evidence::document::{Block, Cell, Tone};
use serde_json::Value;

/// Rows of a table that the statement shows; the files have all.
const ROWS_SHOWN_MAX: usize = 40;

/// Period, exporter, what is left out; each log, its runs and its clock; calls.
pub(super) fn scope(facts: &Facts, seen: &Seen) -> Vec<Block> {
    let withheld = facts.redaction.as_ref().map_or_else(
        || "nothing".to_owned(),
        |(condition, reason)| {
            format!("records where {condition}; reason given: {reason}. Answers that depend on them are not met")
        },
    );
    let period = format!("{} (inclusive) to {} (exclusive), UTC", facts.period.start(), facts.period.end());
    let rows = vec![
        pair("Period", period),
        pair("Made", format!("{} by {}", facts.created_at, facts.exported_by)),
        pair("Tool", facts.tool.clone()),
        pair("Withheld", withheld),
    ];
    let mut blocks = vec![Block::Heading("Scope".to_owned()), pairs(rows)];
    facts.logs.iter().for_each(|log| blocks.extend(log_of(log)));
    blocks.extend(runs(seen));
    blocks.extend(clock(seen));
    blocks.extend(operations(seen));
    blocks
}

fn pair(name: &str, value: String) -> Vec<Cell> {
    vec![Cell::from(name), Cell::from(value)]
}

fn pairs(rows: Vec<Vec<Cell>>) -> Block {
    Block::Table { head: vec!["What".to_owned(), "Value".to_owned()], widths: vec![2, 10], rows }
}

fn log_of(log: &LogFacts) -> [Block; 2] {
    let LogFacts { first, last, time_first, time_last, size, root, counts, .. } = log;
    let (first, last) = (grouped(*first), grouped(*last));
    let kinds: Vec<String> = counts.iter().map(|(kind, n)| format!("{} {}", grouped(*n), kind_name(*kind))).collect();
    let rows = vec![
        pair("Records", format!("{first} to {last}, of {} to {}", micros(*time_first), micros(*time_last))),
        pair("Checkpoint", format!("size {}, root {root}", grouped(*size))),
        pair("Kinds", kinds.join(", ")),
    ];
    [Block::Subheading(format!("Log {}", log.origin)), pairs(rows)]
}

fn runs(seen: &Seen) -> [Block; 2] {
    let steps = seen.log_events.iter().filter(|event| event["kind"] == 3 || event["kind"] == 4);
    let rows = steps.map(run_row).collect();
    let head = ["Time", "What", "Build", "Configuration"];
    [
        Block::Subheading("Runs of the log in the period".to_owned()),
        table_or(&head, &[5, 3, 2, 6], rows, "No run started or stopped in the period."),
    ]
}

fn clock(seen: &Seen) -> [Block; 3] {
    let sentence = |row: &Value| {
        let (log, beats, ms) = (text(row, "log"), grouped(number(row, "n")), number(row, "offset_us").div_ceil(1_000));
        format!(
            "Log {log}: {beats} heartbeats; the wall clock moved by at most {ms} ms against the monotonic clock since a start."
        )
    };
    let clocks: Vec<String> = seen.heartbeats.iter().map(sentence).collect();
    let none = "There are no heartbeats in the period, so nothing is known of the clock.";
    [
        Block::Subheading("Clock".to_owned()),
        if clocks.is_empty() { Block::Paragraph(none.to_owned()) } else { Block::List(clocks) },
        Block::Paragraph(
            "Order is by record number, not by time. Times are the key service's own; cosignatures bound them from outside."
                .to_owned(),
        ),
    ]
}

fn operations(seen: &Seen) -> [Block; 2] {
    let row = |row: &Value| {
        let counts = [grouped(number(row, "n")), grouped(number(row, "refused"))];
        [text(row, "event_name"), text(row, "event_source")].into_iter().chain(counts).map(Cell::from).collect()
    };
    let rows = seen.operations.iter().map(row).collect();
    let head = ["Operation", "Service", "Events", "Refused"];
    [
        Block::Subheading("Calls in the period".to_owned()),
        table_or(&head, &[5, 5, 2, 2], rows, "There are no events in the period."),
    ]
}

/// The answers, one a row, and what they name.
pub(super) fn controls(facts: &Facts) -> Vec<Block> {
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

/// Proof of destruction, and what it is worth against backups.
pub(super) fn destruction(seen: &Seen) -> Vec<Block> {
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

/// What was raised, and what became of it.
pub(super) fn alerts(seen: &Seen) -> Vec<Block> {
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
            &[5, 2, 7, 4],
            rows,
            "No alert was raised in the period.",
        ),
    ]
}

/// Keys and who may use them.
pub(super) fn inventory(seen: &Seen) -> Vec<Block> {
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

/// What no log can show, and how far this one is proved.
pub(super) fn limits_of_proof(facts: &Facts) -> Vec<Block> {
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
