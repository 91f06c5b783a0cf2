//! What rules did, per rule, log and minute, and which rules are loaded: tables `rule_runs` and `rules` of trail.db.
//!
//! Figures for people: losing the last second of them in a crash loses no alert. Bounded by age. Added to files of the
//! same version when they are opened, since nothing else depends on them.

use super::{Store, StoreError, sqlite};
use crate::rule::{RuleRun, RuleSet};
use rusqlite::{Connection, Transaction, params};

/// How long runs are kept: two days at one row a rule, log and minute are about 135,000 rows for the shipped rules.
const RUNS_KEPT_US: i64 = 2 * 24 * 3_600 * 1_000_000;

/// Longest error kept, in bytes.
const ERROR_BYTES_MAX: usize = 1_024;

const MINUTE_US: i64 = 60_000_000;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS rule_runs(
    minute_us INTEGER NOT NULL,
    rule_id TEXT NOT NULL,
    rule_hash TEXT NOT NULL,
    log TEXT NOT NULL,
    rule_version INTEGER NOT NULL,
    first_seq INTEGER,
    last_seq INTEGER,
    runs INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    events INTEGER NOT NULL,
    matched INTEGER NOT NULL,
    findings INTEGER NOT NULL,
    deduplicated INTEGER NOT NULL,
    spent_us INTEGER NOT NULL,
    state_entries INTEGER NOT NULL,
    state_bytes INTEGER NOT NULL,
    error TEXT,
    suppressed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(minute_us, rule_id, rule_hash, log)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rules(
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    kind TEXT NOT NULL,
    title TEXT NOT NULL,
    severity TEXT NOT NULL,
    hash TEXT NOT NULL,
    attack TEXT NOT NULL,
    status TEXT NOT NULL,
    loaded_us INTEGER NOT NULL,
    error TEXT
) WITHOUT ROWID;
";

const ADD: &str = "
INSERT INTO rule_runs VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
ON CONFLICT DO UPDATE SET
    first_seq = min(coalesce(first_seq, excluded.first_seq), coalesce(excluded.first_seq, first_seq)),
    last_seq = max(coalesce(last_seq, excluded.last_seq), coalesce(excluded.last_seq, last_seq)),
    runs = runs + excluded.runs,
    failed = failed + excluded.failed,
    events = events + excluded.events,
    matched = matched + excluded.matched,
    findings = findings + excluded.findings,
    deduplicated = deduplicated + excluded.deduplicated,
    suppressed = suppressed + excluded.suppressed,
    spent_us = spent_us + excluded.spent_us,
    state_entries = excluded.state_entries,
    state_bytes = excluded.state_bytes,
    error = coalesce(excluded.error, error)";

pub(super) fn create(db: &Connection) -> Result<(), StoreError> {
    db.execute_batch(SCHEMA).map_err(sqlite("create tables"))?;
    super::add_column(db, "rule_runs", "suppressed")
}

impl Store {
    /// Adds what rules did, and forgets what is too old.
    pub fn add_runs(&mut self, runs: &[RuleRun], now_us: u64) -> Result<(), StoreError> {
        let failed = sqlite("store rule runs");
        let now_us = signed(now_us);
        let transaction = self.db.transaction().map_err(&failed)?;
        for run in runs {
            add(&transaction, run, now_us - now_us.rem_euclid(MINUTE_US)).map_err(&failed)?;
        }
        let kept_from = now_us.saturating_sub(RUNS_KEPT_US);
        transaction.execute("DELETE FROM rule_runs WHERE minute_us < ?1", [kept_from]).map_err(&failed)?;
        transaction.commit().map_err(&failed)
    }

    /// Says which rules are loaded now. A rule that stays as it was keeps since when, and its last error.
    pub fn set_rules(&mut self, rules: &RuleSet, now_us: u64) -> Result<(), StoreError> {
        let failed = sqlite("store rules");
        let transaction = self.db.transaction().map_err(&failed)?;
        let keep = serde_json::Value::from_iter(rules.rules().iter().map(|rule| rule.hash())).to_string();
        let gone = "DELETE FROM rules WHERE hash NOT IN (SELECT value FROM json_each(?1))";
        transaction.execute(gone, [keep]).map_err(&failed)?;
        for rule in rules.rules() {
            let header = rule.header();
            let sql = "INSERT INTO rules VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL) ON CONFLICT DO NOTHING";
            transaction
                .execute(
                    sql,
                    params![
                        rule.id(),
                        header.version,
                        rule.kind().as_str(),
                        rule.title(),
                        header.severity,
                        rule.hash(),
                        header.attack.join(" "),
                        header.status.as_str(),
                        signed(now_us)
                    ],
                )
                .map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }
}

fn add(transaction: &Transaction<'_>, run: &RuleRun, minute_us: i64) -> rusqlite::Result<()> {
    let error = run.error.as_deref().map(|error| &error[..error.floor_char_boundary(ERROR_BYTES_MAX)]);
    transaction.prepare_cached(ADD)?.execute(params![
        minute_us,
        run.rule_id,
        run.rule_hash,
        run.log,
        run.rule_version,
        run.first_seq.map(signed),
        run.last_seq.map(signed),
        signed(run.runs),
        signed(run.failed),
        signed(run.events),
        signed(run.matched),
        signed(run.findings),
        signed(run.deduplicated),
        signed(run.micros),
        signed(run.state_entries),
        signed(run.state_bytes),
        error,
        signed(run.suppressed),
    ])?;
    if error.is_some() {
        transaction.execute("UPDATE rules SET error = ?1 WHERE hash = ?2", params![error, run.rule_hash])?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn run(rule_id: &str, first_seq: Option<u64>, last_seq: Option<u64>, error: Option<&str>) -> RuleRun {
        let (runs, events) = (1, 10);
        let error = error.map(str::to_owned);
        RuleRun { rule_id: rule_id.into(), first_seq, last_seq, runs, events, error, ..RuleRun::default() }
    }

    #[test]
    fn runs_of_a_minute_are_one_row_and_go_with_age() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("trail.db")).unwrap();
        store.add_runs(&[run("a", Some(5), Some(9), Some("why"))], 61_000_000).unwrap();
        store.add_runs(&[run("a", Some(10), Some(12), None), run("b", None, None, None)], 119_000_000).unwrap();
        store.add_runs(&[run("a", None, None, None)], 119_500_000).unwrap();
        let rows = |store: &Store| {
            let sql = "SELECT minute_us, rule_id, first_seq, last_seq, runs, events, error FROM rule_runs";
            let mut statement = store.db.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, String>(1)?,
                    (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?),
                    (row.get::<_, i64>(4)?, row.get::<_, i64>(5)?),
                    row.get::<_, Option<String>>(6)?,
                ))
            });
            rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(
            rows(&store),
            [
                (60_000_000, "a".to_owned(), (Some(5), Some(12)), (3, 30), Some("why".to_owned())),
                (60_000_000, "b".to_owned(), (None, None), (1, 10), None),
            ]
        );
        store.add_runs(&[], 61_000_000 + 2 * 24 * 3_600 * 1_000_000).unwrap();
        assert_eq!(rows(&store).len(), 0);
    }
}
