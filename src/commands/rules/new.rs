//! `keytrail rules new`: a rule that loads and whose tests pass, to be changed from there.

use crate::commands::say;
use crate::shipped;
use anyhow::{Context, bail};
use keytrail_trail::rule::RuleSet;
use std::path::Path;
use std::process::ExitCode;

/// `ID` stands for the rule's id.
const TEMPLATE: &str = r#"-- +++
-- id = "ID"
-- version = 1
-- kind = "threshold"
-- title = "One principal does something many times"
-- description = "What it finds, and why that matters to whoever is paged."
-- false_positives = ["who does the same and means no harm"]
-- blind_spots = ["what it cannot see"]
-- window = "5m"
-- group_key = ["principal_arn"]
-- dedup_period = "1h"
-- params = { limit = 10 }
-- threshold = { column = "calls", gte = "$limit" }
-- severity = "medium"
-- attack = ["T1555.006"]
--
-- [[test]]
-- name = "as many as the limit, over nearly the whole window, fire once"
-- given = { fixture = "decrypt", repeat = 10, spread = "290s" }
-- expect = { alerts = 1, severity = "medium" }
--
-- [[test]]
-- name = "one fewer stays quiet"
-- given = { fixture = "decrypt", repeat = 9, spread = "1m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "as many, the first just outside the window, stay quiet"
-- given = { fixture = "decrypt", repeat = 10, spread = "5m" }
-- expect = { alerts = 0 }
--
-- [[test]]
-- name = "other operations, refusals and services stay quiet"
-- given = [
--   { fixture = "decrypt", set = { eventName = "Encrypt" }, repeat = 20, spread = "1m" },
--   { fixture = "decrypt", set = { errorCode = "AccessDenied" }, repeat = 20, spread = "1m" },
--   { fixture = "decrypt", set = { "userIdentity.type" = "AWSService" }, repeat = 20, spread = "1m" },
-- ]
-- expect = { alerts = 0 }
-- +++
SELECT principal_arn, count(*) AS calls, min(event_time) AS first_call
FROM events
WHERE event_name = 'Decrypt' AND error_code IS NULL AND actor_class <> 'service'
GROUP BY principal_arn
"#;

pub(super) fn write(id: &str, rules: &Path, pack: &str) -> anyhow::Result<ExitCode> {
    let plain = |text: &str| {
        let letters = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        letters && (1..=64).contains(&text.len())
    };
    if !plain(id) || !plain(pack) {
        bail!("id and pack are 1 to 64 of a-z, 0-9 and -");
    }
    let file = rules.join(pack).join(format!("{id}.sql"));
    if file.exists() {
        bail!("{} exists already", file.display());
    }
    if !rules.join("fixtures").is_dir() {
        shipped::write_fixtures(rules).context("write the fixtures")?;
    }
    std::fs::create_dir_all(rules.join(pack)).with_context(|| format!("create {}", rules.join(pack).display()))?;
    std::fs::write(&file, TEMPLATE.replace("\"ID\"", &format!("\"{id}\"")))
        .with_context(|| format!("write {}", file.display()))?;
    RuleSet::load_tested(rules)?;
    say(&format!("{} loads and its tests pass; change it and run `keytrail rules test --mutate`", file.display()));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keytrail_trail::rule::mutate::mutate;

    #[test]
    fn the_template_loads_and_its_tests_notice_every_change() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(write("my-rule", folder.path(), "mine").unwrap(), ExitCode::SUCCESS);
        let set = RuleSet::load_tested(folder.path()).unwrap();
        let mutants = mutate(&set, |_| true).unwrap();
        let alive: Vec<_> = mutants.iter().filter(|mutant| mutant.killed_by.is_none()).collect();
        assert!(alive.is_empty() && mutants.len() >= 10, "{mutants:?}");
        assert!(write("my-rule", folder.path(), "mine").is_err(), "nothing is overwritten");
        assert!(write("../x", folder.path(), "mine").is_err());
    }
}
