//! Why an action was judged as it was: each guard's verdict, kept beside the action and shown by `playbook explain`.

use crate::guard::{Facts, Guard, Judgement, Verdict};
use crate::store::StoreError;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Serialize};

/// One guard's say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Which guard.
    pub guard: String,
    /// `pass`, `not configured`, `later` or `hold`.
    pub verdict: String,
    /// Why it holds, or what it looked at.
    pub about: String,
}

/// A judgement in words.
pub fn said(judgement: &Judgement) -> Vec<Said> {
    let one = |(guard, verdict): &(Guard, Verdict)| {
        let (word, about) = match verdict {
            Verdict::Pass => {
                ("pass", judgement.facts.as_ref().map(|facts| looked_at(*guard, facts)).unwrap_or_default())
            }
            Verdict::NotConfigured => ("not configured", String::new()),
            Verdict::Later(why) => ("later", why.clone()),
            Verdict::Hold { reason, .. } => ("hold", reason.clone()),
        };
        Said { guard: guard.to_string(), verdict: word.into(), about }
    };
    judgement.verdicts.iter().map(one).collect()
}

/// The values that a guard went by.
fn looked_at(guard: Guard, facts: &Facts) -> String {
    match guard {
        Guard::FlipFlop => format!("{} changes of ours", facts.attribute_changes),
        Guard::Cooldown => match facts.last_same_us {
            Some(_) => "the same action was taken long enough ago".into(),
            None => "the same action was never taken".into(),
        },
        Guard::Breaker => format!(
            "{} keys disabled and {} actions of the playbook in an hour",
            facts.disables_last_hour, facts.playbook_last_hour
        ),
        _ => String::new(),
    }
}

/// Keeps it.
pub(crate) fn record(tx: &Transaction<'_>, action_id: &str, judgement: &Judgement) -> Result<(), StoreError> {
    let text = serde_json::to_string(&said(judgement)).map_err(|_| StoreError::Damaged("judgement"))?;
    tx.prepare_cached("INSERT OR IGNORE INTO judgements VALUES (?1, ?2)")?.execute([action_id, &text])?;
    Ok(())
}

/// What was kept of an action; nothing of undos and of actions of older versions.
pub fn recorded(db: &Connection, action_id: &str) -> Result<Vec<Said>, StoreError> {
    let mut statement = db.prepare_cached("SELECT verdicts FROM judgements WHERE action = ?1")?;
    let text: Option<String> = statement.query_row([action_id], |row| row.get(0)).optional()?;
    text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text).map_err(|_| StoreError::Damaged("judgement")))
}
