//! Page one: for someone who reads no further.

use super::seen::{Seen, payload, text};
use super::words::{grouped, minute, second, set_name};
use super::{Facts, LogFacts};
use crate::evidence::controls::{ControlResult, Verdict};
use crate::evidence::document::{Block, Tile, Tone};

/// Exceptions that page one puts in words.
const NAMED_SHOWN_MAX: usize = 6;

/// Gaps that it names.
const GAPS_SHOWN_MAX: usize = 8;

/// The blocks of the page.
pub(super) fn page(facts: &Facts, seen: &Seen) -> Vec<Block> {
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
    blocks.push(Block::Paragraph(alerts(seen)));
    blocks.push(Block::Heading("Exceptions".to_owned()));
    blocks.push(exceptions_in_words(facts));
    blocks.extend(not_shown(facts));
    blocks.push(Block::Heading("Gaps".to_owned()));
    let gaps = gaps(facts, seen);
    blocks.push(if gaps.is_empty() {
        Block::Paragraph(
            "None is known: logging did not stand still, nothing was withheld or erased, no gap was declared."
                .to_owned(),
        )
    } else {
        Block::List(shown(gaps, GAPS_SHOWN_MAX))
    });
    blocks
}

fn alerts(seen: &Seen) -> String {
    let severe = seen.alerts.iter().filter(|alert| matches!(text(alert, "severity").as_str(), "high" | "critical"));
    let open = seen.alerts.iter().filter(|alert| matches!(text(alert, "state").as_str(), "" | "open")).count();
    match seen.alerts.len() {
        0 => "No alert was raised in the period.".to_owned(),
        all => format!(
            "Alerts raised in the period: {all}, of which {} were high or critical. Not contained or resolved: {open}.",
            severe.count()
        ),
    }
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

/// Questions without an answer, by what stands in the way.
fn not_shown(facts: &Facts) -> Vec<Block> {
    let open = facts.results.iter().filter(|result| result.verdict == Verdict::CannotBeShown);
    let words = |result: &ControlResult| format!("{} (clause {}): {}.", result.title, result.id, result.reason);
    let items: Vec<String> = open.map(words).collect();
    if items.is_empty() {
        return Vec::new();
    }
    vec![Block::Heading("What the log cannot answer".to_owned()), Block::List(shown(items, NAMED_SHOWN_MAX))]
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

fn shown(mut items: Vec<String>, max: usize) -> Vec<String> {
    let left = items.len().saturating_sub(max);
    items.truncate(max);
    if left > 0 {
        items.push(format!("and {left} more, listed further below or in the pack's files."));
    }
    items
}
