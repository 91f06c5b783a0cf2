//! What is allowed in a rule and yet rarely meant: remarks for whoever writes one.
//!
//! Warnings are what should be mended before a rule is called stable; notes are what it costs. Tests that a mutation
//! would not kill are found by `mutate`.

use super::{Rule, RuleKind, RuleSet, Status};
use std::time::Duration;

/// Beyond this one alert stands for days of what happens to its entity.
const DEDUP_MAX: Duration = Duration::from_hours(24);

/// A remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The rule's file.
    pub file: String,
    /// Something to mend; else something to know.
    pub warning: bool,
    /// One phrase.
    pub text: String,
}

/// Looks at every rule.
pub fn lint(set: &RuleSet) -> Vec<Remark> {
    set.rules().iter().flat_map(|rule| remarks(rule)).collect()
}

fn remarks(rule: &Rule) -> Vec<Remark> {
    let header = rule.header();
    let mut found = Vec::new();
    let mut say = |warning: bool, text: String| found.push(Remark { file: rule.file.path.clone(), warning, text });
    if header.title.is_none() || header.description.is_none() {
        say(true, "has no title or no description: whoever is paged reads nothing else".into());
    }
    // A stable one is not even loaded without.
    if header.blind_spots.is_empty() && header.status != Status::Deprecated {
        say(true, "names no blind_spots".into());
    }
    if header.attack.is_empty() {
        say(true, "has no attack ids".into());
    }
    for id in header.attack.iter().filter(|id| !is_technique(id)) {
        say(
            true,
            format!("attack id {id:?} is not T and four digits, with three more behind a dot for a sub-technique"),
        );
    }
    if header.group_key.is_empty() {
        say(true, "has no group_key: everything it finds is one alert".into());
    }
    // What a rule of kind posture finds stays as it is until somebody mends it.
    if header.dedup_period > DEDUP_MAX && rule.kind() != RuleKind::Posture {
        say(true, "dedup_period is longer than a day: what happens again tomorrow is only a revision".into());
    }
    if let Some(window) = header.window
        && header.dedup_period < window
    {
        say(true, "dedup_period is shorter than the window: one burst is several alerts".into());
    }
    if !matches!(rule.kind(), RuleKind::Meta | RuleKind::Posture) && rule.lowered.event_names.is_none() {
        say(false, "has no event_name filter at its top: every event costs it something".into());
    }
    if header.false_positives.is_empty() {
        say(false, "names no false_positives".into());
    }
    found
}

fn is_technique(id: &str) -> bool {
    let digits = |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = id.strip_prefix('T') else { return false };
    match rest.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(rest, 4),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn technique_ids_are_known_by_their_form() {
        assert!(is_technique("T1485") && is_technique("T1098.003"));
        assert!(!["TA0006", "1485", "T148", "T1098.3", "T1098.0031"].iter().any(|id| is_technique(id)));
    }

    #[test]
    fn shipped_rules_have_no_warnings_and_a_careless_one_has() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
        let set = RuleSet::load(&dir).unwrap();
        let warnings: Vec<Remark> = lint(&set).into_iter().filter(|remark| remark.warning).collect();
        assert_eq!(warnings, []);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disabled.sql");
        let text = std::fs::read_to_string(dir.join("kms/key-disabled.sql")).unwrap();
        let careless: Vec<&str> = text
            .lines()
            .filter(|line| {
                !["-- title", "-- status", "-- blind_spots", "-- attack"].iter().any(|start| line.starts_with(start))
            })
            .collect();
        let careless = careless.join("\n").replace("\"1m\"", "\"2d\"").replace("\"key-disabled\"", "\"disabled\"");
        std::fs::write(&path, careless.replace("event_name = 'DisableKey'", "lower(event_name) = 'disablekey'"))
            .unwrap();
        let remarks = lint(&RuleSet::load_path(&path).unwrap());
        let starts = |start: &str| remarks.iter().any(|remark| remark.text.starts_with(start));
        assert!(
            starts("has no title")
                && starts("names no blind_spots")
                && starts("has no attack")
                && starts("dedup_period is longer")
        );
        assert!(starts("has no event_name") && remarks.len() == 5, "{remarks:?}");
    }
}
