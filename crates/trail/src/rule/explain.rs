//! What a rule reads, when it fires and what it may cost, as lines for people.

use super::lower;
use super::{Rule, RuleKind};
use crate::lake::schema::events_schema;
use crate::query::gate;

/// Describes one rule.
pub fn explain(rule: &Rule) -> Result<Vec<String>, String> {
    let (header, lowered) = (rule.header(), &rule.lowered);
    let mut lines = Vec::new();
    let mut say = |name: &str, text: String| lines.push(format!("{name:<14}{text}"));
    say("rule", format!("{} version {}, kind {}", rule.id(), header.version, rule.kind().as_str()));
    say("title", rule.title().to_owned());
    say("hash", rule.hash().to_owned());
    let source = lower::Source::of(rule.kind());
    let events = match &lowered.event_names {
        Some(names) => names.iter().cloned().collect::<Vec<_>>().join(", "),
        None => "all: no event_name filter at the top of its WHERE".to_owned(),
    };
    say("reads", format!("table {}", source.name()));
    if source == lower::Source::Events {
        say("events", events);
    }
    let schema = source.schema();
    let names: Vec<&str> = lowered
        .columns
        .iter()
        .filter_map(|&index| schema.fields().get(index))
        .map(|field| field.name().as_str())
        .collect();
    say("columns", format!("{} of {}: {}", names.len(), events_schema().fields().len(), names.join(", ")));
    if let Some(filter) = &lowered.filter {
        say("filter", filter.to_string());
    }
    let imported = Some(header.lateness(true)).filter(|_| header.lateness.is_none());
    for (name, period) in [
        ("window", header.window),
        ("lateness", Some(header.lateness(false))),
        ("imported", imported),
        ("dedup", Some(header.dedup_period)),
    ] {
        if let Some(period) = period {
            say(name, humantime_serde::re::humantime::format_duration(period).to_string());
        }
    }
    if let Some(gte) = rule.file.gte {
        say(
            "fires",
            format!("when {} >= {gte}", header.threshold.as_ref().map_or("it", |threshold| threshold.column.as_str())),
        );
    }
    say("entity", header.group_key.join(", "));
    say("severity", rule.file.severity.clone());
    let params: Vec<String> = header.params.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    if !params.is_empty() {
        say("params", params.join(", "));
    }
    let bound = match &lowered.groups {
        Some(_) => super::run::threshold_bound(),
        None => super::run::buckets_bound(),
    };
    say("state", format!("{bound}, for each log"));
    say("tests", header.test.len().to_string());
    // Its plan depends on the tables that it finds.
    if rule.kind() == RuleKind::Posture {
        return Ok(lines);
    }
    let session = lower::session().map_err(|error| error.to_string())?;
    let plan = futures::executor::block_on(gate::plan(&session, &rule.file.sql)).map_err(|error| error.to_string())?;
    say("plan", String::new());
    lines.extend(plan.display_indent().to_string().lines().map(|line| format!("  {line}")));
    Ok(lines)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rule::RuleSet;
    use std::path::Path;

    #[test]
    fn a_rule_says_what_it_reads_and_when_it_fires() {
        let set = RuleSet::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")).unwrap();
        let text = explain(set.rule("many-contexts").unwrap()).unwrap().join("\n");
        for part in [
            "kind threshold",
            "events        Decrypt",
            "when contexts >= 20",
            "enc_context",
            "window        5m",
            "Aggregate",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        for rule in set.rules() {
            assert!(explain(rule).is_ok(), "{}", rule.id());
        }
    }
}
