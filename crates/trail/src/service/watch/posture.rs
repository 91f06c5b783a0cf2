//! Rules of kind posture at work: one at a time, on the query threads, so that landing and other rules keep pace.
//!
//! A rule is due a while after the start, once the trail has caught up, and then once per `schedule`. When it last ran is not
//! kept over a restart: it looks again, and what is told already is not told twice. A run that fails or is cut is a finding of
//! its own; a rule that looks for nothing must not do so in silence.

use super::{TrailError, Watch, wake};
use crate::rule::posture::{View, describe, look};
use crate::rule::run::posture::Run;
use crate::rule::{Integrity, Rule, RuleKind};
use arrow::array::RecordBatch;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// How long after the start a rule looks for the first time: whoever starts a node makes keys and sets them up meanwhile, and
/// a restart has more urgent things to read.
const FIRST_LOOK_US: u64 = 10 * 60 * 1_000_000;

/// What came of a run: rows, or why there are none.
type Done = (Run, Result<RecordBatch, String>);

/// When each rule looked last, and the one that is looking.
pub(super) struct Posture {
    trail_db: PathBuf,
    started_us: u64,
    caught_up: bool,
    /// When, Unix microseconds, by rule hash: a changed rule looks at once.
    looked: HashMap<String, u64>,
    running: bool,
    sender: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
}

impl Posture {
    pub(super) fn new(trail_db: PathBuf, started_us: u64) -> Self {
        let (sender, done) = mpsc::channel(1);
        Self { trail_db, started_us, caught_up: false, looked: HashMap::new(), running: false, sender, done }
    }
}

impl Watch {
    /// Takes the result of a run, and starts the next one that is due. `idle`: the source had nothing more.
    pub(super) fn look_around(&mut self, idle: bool) -> Result<(), TrailError> {
        self.posture.caught_up |= idle;
        if let Ok((run, rows)) = self.posture.done.try_recv() {
            self.posture.running = false;
            self.take_posture(&run, rows)?;
        }
        let now_us = self.clock.now_us();
        let early = now_us.saturating_sub(self.posture.started_us) < FIRST_LOOK_US;
        if self.posture.running || !self.posture.caught_up || early {
            return Ok(());
        }
        let due = |rule: &&Arc<Rule>| {
            let last = self.posture.looked.get(rule.hash());
            let schedule_us = rule.header().schedule.map_or(0, |schedule| schedule.as_micros());
            let waited = |last: &u64| u128::from(now_us.saturating_sub(*last)) >= schedule_us;
            rule.kind() == RuleKind::Posture && last.is_none_or(waited)
        };
        let Some(rule) = self.engine.rules().rules().iter().find(due).cloned() else { return Ok(()) };
        self.posture.looked.insert(rule.hash().to_owned(), now_us);
        self.start_posture(rule);
        Ok(())
    }

    fn start_posture(&mut self, rule: Arc<Rule>) {
        let snapshot = self.lake.subscribe().borrow().clone();
        let as_of = snapshot.own_logs().map(|(log, state)| (log.to_string(), state.end.next_seq)).collect();
        let log = self.provers.keys().next().map(ToString::to_string).unwrap_or_default();
        let now_us = i64::try_from(self.clock.now_us()).unwrap_or(i64::MAX);
        let mut run = Run { rule: rule.clone(), log, now_us, as_of, took_us: 0 };
        let site = self.engine.rules().site.clone();
        let view = View { snapshot, trail_db: Some(self.posture.trail_db.clone()), site, now_us };
        let sender = self.posture.sender.clone();
        let looking = async move {
            let began = Instant::now();
            let rows = look(&rule, &view).await.map_err(|error| describe(&error));
            run.took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            // The trail may have stopped meanwhile.
            sender.send((run, rows)).await.ok();
        };
        match crate::query::run::spawn(looking) {
            Ok(()) => self.posture.running = true,
            Err(error) => tracing::error!(%error, "posture is not looked at"),
        }
    }

    fn take_posture(&mut self, run: &Run, rows: Result<RecordBatch, String>) -> Result<(), TrailError> {
        let found = rows.and_then(|rows| self.engine.posture(run, &rows).map_err(|error| error.to_string()));
        self.engine.note_posture(run, found.as_ref().map(Vec::len).map_err(String::as_str));
        self.dirty = true;
        let findings = match found {
            Ok(findings) => findings,
            Err(reason) => {
                let detail = format!("rule {}: {reason}", run.rule.id());
                tracing::error!(rule_id = run.rule.id(), reason, "posture rule failed");
                let (log, finding) = (run.log.clone(), "rule-failed".to_owned());
                let failed = Integrity { log, time_us: run.now_us, finding, detail, ..Integrity::default() };
                self.found.push_back(failed);
                return self.raise_found();
            }
        };
        let mut alerts = Vec::new();
        for finding in self.mute(findings)? {
            if let Some(revision) = self.next_revision(&finding)? {
                alerts.push(self.plain(&finding, revision));
            }
        }
        if !alerts.is_empty() {
            self.keep(alerts)?;
            wake(&self.wake);
        }
        Ok(())
    }
}
