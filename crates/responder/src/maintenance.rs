//! Maintenance windows of the configuration: when, for how long, and what for.
//!
//! A window holds back nothing by itself: a playbook that lets itself be held names it in `held_by`, and each held action
//! says by which. Cron says when a window opens, in the zone's wall clock; its length is counted in real time, so that a
//! night on which clocks are changed has no shorter and no longer window than others.

use crate::guard::micros;
use crate::intake::verify::Call;
use crate::store::Micros;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;

/// Longest window: what is always open is no window.
const DURATION_MAX: Duration = Duration::from_hours(7 * 24);

/// One `[[responder.maintenance]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Written")]
pub struct Window {
    /// What playbooks call it.
    pub name: String,
    opens: Box<Cron>,
    zone: Tz,
    duration: Duration,
    keys: Vec<String>,
    tags: BTreeMap<String, String>,
    operations: Vec<String>,
}

/// As written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    cron: String,
    #[serde(with = "humantime_serde")]
    duration: Duration,
    time_zone: String,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    operations: Vec<String>,
}

impl TryFrom<Written> for Window {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { name, cron, duration, time_zone, keys, tags, operations } = written;
        if name.is_empty() || name.len() > 64 {
            return Err("a maintenance window needs a name of at most 64 bytes".into());
        }
        if duration.is_zero() || duration > DURATION_MAX {
            return Err(format!("maintenance window {name}: duration must be above 0 s and at most 7 days"));
        }
        let opens = Cron::from_str(&cron).map_err(|error| format!("maintenance window {name}: {cron}: {error}"))?;
        let zone = time_zone.parse().map_err(|_| {
            format!("maintenance window {name}: {time_zone} is no IANA time zone such as Europe/Berlin")
        })?;
        Ok(Self { name, opens: Box::new(opens), zone, duration, keys, tags, operations })
    }
}

impl Window {
    /// Whether the call was made in an open window and is of those that it is for.
    pub fn covers(&self, call: &Call) -> bool {
        let Some(at_us) = crate::announced::at_us(call) else { return false };
        let key = call.key_arn.as_deref();
        let key_id = key.and_then(|arn| arn.rsplit_once(":key/")).map(|(_, id)| id);
        let is_key = |named: &String| Some(named.as_str()) == key || Some(named.as_str()) == key_id;
        (self.keys.is_empty() || self.keys.iter().any(is_key))
            && self.tags.iter().all(|(name, value)| call.tag(name) == Some(value))
            && (self.operations.is_empty() || self.operations.contains(&call.event.event_name))
            && self.is_open(at_us)
    }

    /// Whether the window is open at a moment. A pattern that has no such moment is never open.
    fn is_open(&self, at_us: Micros) -> bool {
        let Some(at) = DateTime::<Utc>::from_timestamp_micros(at_us) else { return false };
        let opened = self.opens.find_previous_occurrence(&at.with_timezone(&self.zone), true);
        opened.is_ok_and(|opened| {
            let since = at_us.saturating_sub(opened.timestamp_micros());
            (0..micros(self.duration)).contains(&since)
        })
    }
}

/// The name of the window that holds an action of a playbook which names it: all calls must be made in it.
pub(crate) fn holding<'a>(windows: &'a [Window], held_by: &[String], calls: &[&Call]) -> Option<&'a str> {
    let named = windows.iter().filter(|window| held_by.contains(&window.name));
    let mut holding = named.filter(|window| !calls.is_empty() && calls.iter().all(|call| window.covers(call)));
    holding.next().map(|window| window.name.as_str())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{event, key_arn};

    fn window(more: &str) -> Window {
        let text =
            format!("name = \"n\"\ncron = \"30 2 * * *\"\nduration = \"2h\"\ntime_zone = \"Europe/Berlin\"\n{more}");
        toml::from_str(&text).unwrap()
    }

    fn us(time: &str) -> Micros {
        DateTime::parse_from_rfc3339(time).unwrap().timestamp_micros()
    }

    #[test]
    fn a_window_opens_by_the_wall_clock_and_lasts_in_real_time() {
        let window = window("");
        for (at, open) in [
            // Winter, an hour ahead of UTC.
            ("2026-01-10T01:29:59Z", false),
            ("2026-01-10T01:30:00Z", true),
            ("2026-01-10T01:30:00.5Z", true),
            ("2026-01-10T03:29:59.999999Z", true),
            ("2026-01-10T03:30:00Z", false),
            // Summer, two hours.
            ("2026-07-10T00:29:59Z", false),
            ("2026-07-10T00:30:00Z", true),
            ("2026-07-10T02:30:00Z", false),
        ] {
            assert_eq!(window.is_open(us(at)), open, "{at}");
        }
    }

    /// 29 March 2026: 02:00 to 03:00 does not exist in Berlin. 25 October 2026: it comes twice.
    #[test]
    fn the_nights_on_which_clocks_change_have_one_window_of_the_same_length() {
        let window = window("");
        for (from, until) in
            [("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"), ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")]
        {
            let minutes = (us(from)..us(until)).step_by(60_000_000);
            let open: Vec<Micros> = minutes.filter(|at| window.is_open(*at)).collect();
            let first = *open.first().unwrap();
            let last = *open.last().unwrap();
            assert_eq!(open.len() as i64, (last - first) / 60_000_000 + 1, "{from}: it opens once");
            let hours = (last - first) / 3_600_000_000;
            assert!((1..=2).contains(&hours), "{from}: {hours} h");
        }
        let spring: Vec<bool> = ["2026-03-29T00:59:00Z", "2026-03-29T01:01:00Z", "2026-03-29T02:29:00Z"]
            .iter()
            .map(|at| window.is_open(us(at)))
            .collect();
        assert_eq!(spring, [false, true, true], "02:30 that does not exist is the moment at which the clock jumps");
    }

    #[test]
    fn keys_tags_and_operations_narrow_it() {
        let call = event("PutKeyPolicy").by("m").on_key("k1").tagged("env", "prod").call(1);
        let mut made = call.clone();
        made.event.additional_event_data.judged_at_micros = us("2026-01-10T02:00:00Z").unsigned_abs();
        for (more, covers) in [
            ("".to_owned(), true),
            ("keys = [\"k1\"]".to_owned(), true),
            (format!("keys = [\"{}\"]", key_arn("k1")), true),
            ("keys = [\"k2\"]".to_owned(), false),
            ("tags = { env = \"prod\" }".to_owned(), true),
            ("tags = { env = \"test\" }".to_owned(), false),
            ("operations = [\"PutKeyPolicy\"]".to_owned(), true),
            ("operations = [\"DisableKey\"]".to_owned(), false),
        ] {
            assert_eq!(window(&more).covers(&made), covers, "{more}");
        }
        assert!(!window("").covers(&call), "made at noon");
        assert_eq!(holding(&[window("")], &["n".into()], &[&made]), Some("n"));
        assert_eq!(holding(&[window("")], &[], &[&made]), None, "the playbook does not name it");
        assert_eq!(holding(&[window("")], &["n".into()], &[&made, &call]), None, "one call was made at noon");
        assert_eq!(holding(&[window("")], &["n".into()], &[]), None);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        let good = "name = \"n\"\ncron = \"30 2 * * *\"\nduration = \"2h\"\ntime_zone = \"Europe/Berlin\"\n";
        assert!(toml::from_str::<Window>(good).is_ok());
        for (from, to) in [
            ("30 2 * * *", "30 2 * *"),
            ("30 2 * * *", "30 25 * * *"),
            ("2h", "8days"),
            ("2h", "0s"),
            ("Europe/Berlin", "Europe/Atlantis"),
            ("\"n\"", "\"\""),
            ("name", "nom"),
        ] {
            assert!(toml::from_str::<Window>(&good.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
    }
}
