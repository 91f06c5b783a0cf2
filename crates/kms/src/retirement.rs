//! The steps of a key on its way out: watched, then waiting for its deletion. Pure: what comes next follows from the
//! retirement, the key's state, whether anyone has called, and the time. `ops::retire` carries it out.

use crate::key::DAY_US;
use serde::{Deserialize, Serialize};

/// Days before the deletion on which people are told.
const WARN_DAYS: [u64; 2] = [7, 1];

/// A key on its way out, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retirement {
    pub(crate) key_arn: String,
    /// ARN of the caller.
    pub(crate) asked_by: String,
    /// The event of the call.
    pub(crate) event_id: String,
    /// Whether the key is enabled again when it is called off.
    pub(crate) was_enabled: bool,
    /// Unix microseconds.
    pub(crate) began_us: u64,
    /// Unix microseconds.
    pub(crate) watch_until_us: u64,
    /// The waiting period before the deletion.
    pub(crate) window_days: u32,
    pub(crate) step: Step,
    /// Warnings that were given.
    pub(crate) warned_days: Vec<u64>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Disabled; whoever calls ends it.
    Watching,
    /// To be deleted; whoever calls ends it still.
    Scheduled,
}

/// A call that a retired key refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failing {
    /// ARN of the caller.
    pub(crate) principal: String,
    pub(crate) operation: String,
    pub(crate) event_id: String,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    Wait,
    /// The deletion is scheduled.
    Schedule,
    /// People are told that so many days are left.
    Warn(u64),
    /// Somebody still calls: the key comes back.
    StillUsed,
    /// Somebody else has changed the key's state: it is left as it is.
    Changed,
}

impl Retirement {
    /// What is to be done, for a key in this state with this date of deletion.
    pub(crate) fn turn(&self, key_state: &str, deletion_us: Option<u64>, called: bool, now_us: u64) -> Turn {
        match (self.step, key_state, deletion_us) {
            (Step::Watching, "Disabled", _) | (Step::Scheduled, "PendingDeletion", Some(_)) if called => {
                Turn::StillUsed
            }
            (Step::Watching, "Disabled", _) if now_us >= self.watch_until_us => Turn::Schedule,
            (Step::Watching, "Disabled", _) => Turn::Wait,
            (Step::Scheduled, "PendingDeletion", Some(deletion_us)) => self.warning(deletion_us, now_us),
            _ => Turn::Changed,
        }
    }

    /// The nearest warning that has come due; one that was slept through is not given beside it.
    fn warning(&self, deletion_us: u64, now_us: u64) -> Turn {
        let come = |days: &&u64| now_us.saturating_add(**days * DAY_US) >= deletion_us;
        match WARN_DAYS.iter().filter(come).min() {
            Some(days) if !self.warned_days.contains(days) => Turn::Warn(*days),
            Some(_) | None => Turn::Wait,
        }
    }

    pub(crate) fn scheduled(&self) -> Self {
        Self { step: Step::Scheduled, ..self.clone() }
    }

    pub(crate) fn warned(&self, days: u64) -> Self {
        let mut after = self.clone();
        after.warned_days.push(days);
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_follows_from_state_callers_and_time() {
        let watching = Retirement {
            key_arn: "k".into(),
            asked_by: "a".into(),
            event_id: "e".into(),
            was_enabled: true,
            began_us: 0,
            watch_until_us: 7 * DAY_US,
            window_days: 30,
            step: Step::Watching,
            warned_days: Vec::new(),
        };
        let scheduled = watching.scheduled();
        let (gone, pending) = (Some(37 * DAY_US), "PendingDeletion");
        let warned = scheduled.warned(7);
        for (retirement, state, deletion, called, day, turn) in [
            (&watching, "Disabled", None, false, 0, Turn::Wait),
            (&watching, "Disabled", None, true, 7, Turn::StillUsed),
            (&watching, "Disabled", None, false, 7, Turn::Schedule),
            (&watching, "Enabled", None, true, 7, Turn::Changed),
            (&watching, pending, gone, false, 1, Turn::Changed),
            (&scheduled, pending, gone, false, 29, Turn::Wait),
            (&scheduled, pending, gone, false, 30, Turn::Warn(7)),
            (&warned, pending, gone, false, 35, Turn::Wait),
            (&warned, pending, gone, false, 36, Turn::Warn(1)),
            (&scheduled, pending, gone, false, 36, Turn::Warn(1)),
            (&warned.warned(1), pending, gone, false, 37, Turn::Wait),
            (&warned, pending, gone, true, 36, Turn::StillUsed),
            (&warned, "Disabled", None, false, 36, Turn::Changed),
        ] {
            assert_eq!(retirement.turn(state, deletion, called, day * DAY_US), turn, "{state} on day {day}");
        }
    }
}
