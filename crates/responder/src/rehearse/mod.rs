//! Playbooks without consequences: the tests inside their files, and what one would have done over the past.
//!
//! Both go through the planning and the guards of the running responder, over alerts that pass its verification: those of
//! a test are made from fixtures and signed with keys of their own (`alert`), those of the past are the trail's (`past`).
//! Nothing here calls the key service.

mod alert;
pub mod past;

use crate::announced::{AnnouncedChange, Changes};
use crate::config::{Limits, Protected};
use crate::explain::{self, Said};
use crate::guard::{self, Bounds, Facts, Outside, judge, micros};
use crate::incident::IncidentId;
use crate::intake::VerifiedAlert;
use crate::plan::{Known, Proposal, plan};
use crate::playbook::{Mode, Playbook, Severity};
use crate::store::Micros;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use alert::{FixtureError, Part};

/// When the tests' alerts are taken in: their fixtures' noon of 2026-01-05.
const NOW_US: Micros = 1_767_614_400_000_000;

/// One `[[test]]` of a playbook.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// What it shows.
    pub name: String,
    /// Whose alert it is.
    pub rule: String,
    /// How bad it is.
    #[serde(default = "high")]
    pub severity: Severity,
    /// The alert's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its evidence.
    pub given: Vec<Part>,
    /// What the guards know.
    #[serde(default)]
    pub knows: Knows,
    /// What must be planned, in order; nothing when the playbook must stay quiet.
    pub expect: Vec<Expected>,
}

/// What the guards know in a test.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Knows {
    /// Keys and principals on the protected list.
    pub protected: Vec<String>,
    /// Changes announced for the day.
    pub announced: Vec<Announced>,
    /// Our changes of the same thing within the hour.
    pub attribute_changes: u32,
    /// How long ago the same action was taken on the same target.
    #[serde(with = "humantime_serde")]
    pub same_action_ago: Option<Duration>,
    /// Keys disabled in the hour.
    pub disables_last_hour: u32,
    /// Actions of this playbook in the hour.
    pub playbook_last_hour: u32,
    /// Keys that can be used.
    pub enabled_keys: Option<u64>,
    /// The breaker is tripped.
    pub tripped: bool,
}

/// A change that somebody announced.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announced {
    /// Its ticket.
    pub ticket: String,
    /// ARN of the key, or
    #[serde(default)]
    pub key: Option<String>,
    /// ARN of the principal.
    #[serde(default)]
    pub principal: Option<String>,
    /// What was announced.
    pub operations: Vec<String>,
    /// ARN of who announced it.
    pub by: String,
}

/// One action that must be planned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Its kind.
    pub action: String,
    /// Its target, if that matters.
    #[serde(default)]
    pub target: Option<String>,
    /// The guard that holds it (`protected list`, `announced`, ...); absent when it is carried out.
    #[serde(default)]
    pub held_by: Option<String>,
}

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResult {
    /// Which playbook.
    pub playbook: String,
    /// Which test.
    pub name: String,
    /// Why it failed.
    pub outcome: Result<(), String>,
}

/// Runs the tests of a playbook; `rules_dir` has the fixtures.
pub fn test(playbook: &Playbook, rules_dir: &Path) -> Vec<TestResult> {
    let result = |case: &TestCase| TestResult {
        playbook: playbook.id.clone(),
        name: case.name.clone(),
        outcome: run(playbook, case, rules_dir),
    };
    playbook.tests.iter().map(result).collect()
}

fn run(playbook: &Playbook, case: &TestCase, rules_dir: &Path) -> Result<(), String> {
    let alert = alert::made(case, rules_dir).map_err(|error| error.to_string())?;
    let planned = Scene::of(playbook, case).play(&alert);
    let found: Vec<Expected> = planned.iter().map(|(proposal, said)| outcome(proposal, said)).collect();
    let as_expected = |(found, wanted): (&Expected, &Expected)| {
        found.action == wanted.action
            && found.held_by == wanted.held_by
            && wanted.target.as_ref().is_none_or(|target| Some(target) == found.target.as_ref())
    };
    if found.len() == case.expect.len() && found.iter().zip(&case.expect).all(as_expected) {
        return Ok(());
    }
    let lines = |expected: &[Expected]| match expected {
        [] => "nothing".to_owned(),
        some => some.iter().map(line).collect::<Vec<_>>().join(", "),
    };
    Err(format!("expected {}, planned {}", lines(&case.expect), lines(&found)))
}

fn outcome(proposal: &Proposal, said: &[Said]) -> Expected {
    let held_by = said.iter().find(|said| said.verdict == "hold").map(|said| said.guard.clone());
    Expected { action: proposal.kind.to_string(), target: Some(proposal.target.clone()), held_by }
}

fn line(expected: &Expected) -> String {
    let Expected { action, target, held_by } = expected;
    let on = target.as_ref().map(|target| format!(" on {target}")).unwrap_or_default();
    let held = held_by.as_ref().map(|guard| format!(" held by {guard}")).unwrap_or_default();
    format!("{action}{on}{held}")
}

/// One playbook, set to act, and what its guards know.
struct Scene {
    playbook: Playbook,
    limits: Limits,
    protected: Protected,
    facts: Facts,
    outside: Outside,
}

impl Scene {
    fn of(playbook: &Playbook, case: &TestCase) -> Self {
        let knows = &case.knows;
        let changes = knows.announced.iter().map(Announced::for_the_day).collect();
        let same_us = knows.same_action_ago.map(|ago| NOW_US.saturating_sub(micros(ago)));
        Self {
            // Whether it may act is for whoever runs it; a test is about what it would do.
            playbook: Playbook { mode: Mode::Enforce, ..playbook.clone() },
            limits: Limits::default(),
            protected: Protected { keys: knows.protected.clone(), principals: knows.protected.clone() },
            facts: Facts {
                attribute_changes: knows.attribute_changes,
                last_same_us: same_us,
                quarantined_until_us: None,
                disables_last_hour: knows.disables_last_hour,
                playbook_last_hour: knows.playbook_last_hour,
                tripped: knows.tripped.then(|| "in this test".to_owned()),
            },
            outside: Outside {
                changes: Some(Ok(Arc::new(Changes { all: changes, as_of_us: NOW_US }))),
                enabled_keys: knows.enabled_keys.map(Ok),
            },
        }
    }

    fn play(&self, alert: &VerifiedAlert) -> Vec<(Proposal, Vec<Said>)> {
        let incident = IncidentId::new("I-test");
        let playbooks = std::slice::from_ref(&self.playbook);
        let bounds = Bounds {
            protected: &self.protected,
            limits: &self.limits,
            playbook: &self.playbook.guard,
            windows: &[],
            outside: &self.outside,
        };
        let proposals = plan(alert, &incident, &Known::default(), playbooks, true, NOW_US);
        let judged = proposals.into_iter().map(|proposal| {
            let judgement = judge(&proposal, alert, Ok(&self.facts), &bounds, NOW_US);
            (proposal, explain::said(&judgement))
        });
        judged.collect()
    }
}

impl Announced {
    fn for_the_day(&self) -> AnnouncedChange {
        let half_day_us = 12 * 3_600_000_000;
        AnnouncedChange {
            change_id: self.ticket.clone(),
            ticket: self.ticket.clone(),
            key_arn: self.key.clone(),
            principal_arn: self.principal.clone(),
            operations: self.operations.clone(),
            from_micros: NOW_US - half_day_us,
            until_micros: NOW_US + half_day_us,
            announced_at_micros: NOW_US - half_day_us,
            announced_by: self.by.clone(),
            announced_as: vec![self.by.clone()],
        }
    }
}

impl TestCase {
    /// What is wrong with it as written: a misspelt guard would be a test that nothing passes.
    pub(crate) fn fault(&self) -> Option<String> {
        let mut held = self.expect.iter().filter_map(|expected| expected.held_by.as_ref());
        let unknown = held.find(|name| !guard::ORDER.iter().any(|guard| guard.to_string() == **name))?;
        Some(format!("test {:?}: no guard is called {unknown:?}", self.name))
    }
}

fn high() -> Severity {
    Severity::High
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::playbook;

    fn rules_dir() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")
    }

    #[test]
    fn the_shipped_playbooks_pass_their_tests_and_each_shows_that_it_fires_is_held_and_stays_quiet() {
        for playbook in playbook::load(&rules_dir().join("playbooks")).unwrap() {
            for result in test(&playbook, &rules_dir()) {
                assert_eq!(result.outcome, Ok(()), "{}: {}", result.playbook, result.name);
            }
            let fires = |case: &TestCase| case.expect.iter().any(|expected| expected.held_by.is_none());
            let held = |case: &TestCase| case.expect.iter().any(|expected| expected.held_by.is_some());
            let quiet = |case: &TestCase| case.expect.is_empty();
            for (what, shown) in [
                ("fires", playbook.tests.iter().any(fires)),
                ("is held", playbook.tests.iter().any(held)),
                ("stays quiet", playbook.tests.iter().any(quiet)),
            ] {
                assert!(shown, "no test of {} shows that it {what}", playbook.id);
            }
            for rule in &playbook.matches.rules {
                assert!(
                    playbook.tests.iter().any(|case| case.rule == *rule),
                    "{}: no test is about {rule}",
                    playbook.id
                );
            }
        }
    }

    #[test]
    fn a_test_that_expects_something_else_fails_and_says_what_was_planned() {
        let path = rules_dir().join("playbooks/key-deletion-scheduled.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut playbook = Playbook::parse(&path, &text).unwrap();
        playbook.tests.truncate(1);
        let changes: [fn(&mut TestCase); 5] = [
            |case| case.expect.clear(),
            |case| case.expect[0].action = "disable_key".into(),
            |case| case.expect[0].target = Some("another".into()),
            |case| case.knows.attribute_changes = 9,
            |case| case.given[0].fixture = "../fixtures/decrypt".into(),
        ];
        for change in changes {
            let mut changed = playbook.clone();
            change(&mut changed.tests[0]);
            assert!(test(&changed, &rules_dir())[0].outcome.is_err(), "{:?}", changed.tests[0]);
        }
    }
}
