//! The headers of the kinds that learn: `first_seen` and `baseline`.
//!
//! As written (`FirstSeen`, `Baseline`) and with params replaced and checked (`..Spec`), in whole numbers: microseconds
//! and millionths, so that the same history gives the same limit on every machine. Read `run::first_seen` and
//! `run::baseline` next.

use super::file::resolve;
use super::run::micros;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest history and learning time: what is idle for longer is forgotten, and the count of entities is bounded.
const HISTORY_MAX: Duration = Duration::from_hours(400 * 24);

/// Shortest history of a baseline in buckets: below it a quantile says nothing.
const HISTORY_BUCKETS_MIN: i64 = 16;

/// Parts in which a baseline's history is forgotten, so that 14 days go day by day.
pub(crate) const SLICES: i64 = 14;

/// Highest limit of a baseline; values above it are counted as this much.
pub(crate) const LIMIT_MAX: u64 = u32::MAX as u64;

/// One in millionths.
pub(crate) const MILLION: u64 = 1_000_000;

/// Most alerts of a first_seen rule in an hour, if the header does not say.
const NEW_PER_HOUR: i64 = 20;

/// What counts as new.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstSeen {
    /// Output columns that together are the key. An event in which one is null is no key; it counts for `per` only.
    pub keys: Vec<String>,
    /// Output columns whose values have a learning time of their own; without them the log's.
    #[serde(default)]
    pub per: Vec<String>,
    /// A key that was not seen for this long is new again.
    #[serde(with = "humantime_serde")]
    pub history: Duration,
    /// How long to learn before anything is new; not with `returning`.
    #[serde(default, with = "humantime_serde")]
    pub learning: Option<Duration>,
    /// Alerts in an hour; what is beyond shares one.
    pub max_new_per_hour: Option<toml::Value>,
    /// Fires for keys that come back after `history`, instead of for new ones.
    #[serde(default)]
    pub returning: bool,
}

/// [`FirstSeen`] with its values.
#[derive(Clone, Debug)]
pub(crate) struct FirstSeenSpec {
    pub(crate) history_us: i64,
    pub(crate) learning_us: i64,
    pub(crate) max_new_per_hour: u64,
    pub(crate) returning: bool,
}

impl FirstSeen {
    pub(super) fn spec(
        &self,
        params: &BTreeMap<String, toml::Value>,
        used: &mut [bool],
    ) -> Result<FirstSeenSpec, String> {
        if self.keys.is_empty() {
            return Err("first_seen.keys is empty".into());
        }
        let learning = match (self.returning, self.learning) {
            (false, Some(learning)) => learning,
            (true, None) => Duration::ZERO,
            (false, None) => return Err("first_seen needs learning".into()),
            (true, Some(_)) => return Err("first_seen.learning has no meaning with returning".into()),
        };
        if self.returning && !self.per.is_empty() {
            return Err("first_seen.per has no meaning with returning".into());
        }
        within("first_seen.history", self.history)?;
        if learning > HISTORY_MAX {
            return Err("first_seen.learning is more than 400days".into());
        }
        let max = self.max_new_per_hour.as_ref();
        let max = max.map(|max| whole("first_seen.max_new_per_hour", max, params, used)).transpose()?;
        Ok(FirstSeenSpec {
            history_us: micros(self.history),
            learning_us: micros(learning),
            max_new_per_hour: max.unwrap_or(NEW_PER_HOUR.unsigned_abs()),
            returning: self.returning,
        })
    }
}

/// How a limit follows from the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// k times the quantile.
    #[default]
    Quantile,
    /// The median and k times the median absolute deviation, scaled as for a normal distribution.
    Mad,
    /// k times the mean.
    Ratio,
}

/// What counts as far above the past.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Output column: a plain count(..) or count(DISTINCT ..).
    pub column: String,
    /// Length of the buckets that are counted and compared.
    #[serde(with = "humantime_serde")]
    pub bucket: Duration,
    /// How much of the past counts.
    #[serde(with = "humantime_serde")]
    pub history: Duration,
    /// How much of it an entity must have before it is compared with its own past.
    #[serde(with = "humantime_serde")]
    pub min_history: Duration,
    /// How the limit follows from the past.
    #[serde(default)]
    pub method: Method,
    /// Which quantile of the past is the usual high.
    pub quantile: Option<toml::Value>,
    /// How many times it.
    pub k: toml::Value,
    /// No limit is below this.
    pub floor: toml::Value,
    /// Limit of an entity without `min_history` in a log that has it; without, it is left to other rules.
    pub unlearned: Option<toml::Value>,
    /// No limit is above this, learned or not.
    pub ceiling: Option<toml::Value>,
}

/// [`Baseline`] with its values.
#[derive(Clone, Debug)]
pub(crate) struct BaselineSpec {
    pub(crate) bucket_us: i64,
    pub(crate) history_us: i64,
    pub(crate) min_history_us: i64,
    pub(crate) method: Method,
    pub(crate) quantile_millionths: u64,
    pub(crate) k_millionths: u64,
    pub(crate) floor: u64,
    pub(crate) unlearned: Option<u64>,
    pub(crate) ceiling: Option<u64>,
}

impl Baseline {
    pub(super) fn spec(
        &self,
        params: &BTreeMap<String, toml::Value>,
        used: &mut [bool],
    ) -> Result<BaselineSpec, String> {
        within("baseline.history", self.history)?;
        within("baseline.bucket", self.bucket)?;
        let (bucket_us, history_us) = (micros(self.bucket), micros(self.history));
        if history_us / bucket_us < HISTORY_BUCKETS_MIN {
            return Err(format!("baseline.history has fewer than {HISTORY_BUCKETS_MIN} buckets"));
        }
        if self.min_history > self.history || self.min_history < self.bucket {
            return Err("baseline.min_history is not between bucket and history".into());
        }
        let quantile = match &self.quantile {
            Some(quantile) => millionths("baseline.quantile", quantile, params, used)?,
            None => MILLION / 100 * 99,
        };
        if !(MILLION / 2..=MILLION).contains(&quantile) {
            return Err("baseline.quantile is not between 0.5 and 1".into());
        }
        let k = millionths("baseline.k", &self.k, params, used)?;
        if !(MILLION..=1_000 * MILLION).contains(&k) {
            return Err("baseline.k is not between 1 and 1000".into());
        }
        let floor = whole("baseline.floor", &self.floor, params, used)?;
        let mut above_floor = |name: &str, value: &Option<toml::Value>| {
            let Some(value) = value else { return Ok(None) };
            let value = whole(name, value, params, used)?;
            if value < floor { Err(format!("{name} is below baseline.floor")) } else { Ok(Some(value)) }
        };
        Ok(BaselineSpec {
            bucket_us,
            history_us,
            min_history_us: micros(self.min_history),
            method: self.method,
            quantile_millionths: quantile,
            k_millionths: k,
            floor,
            unlearned: above_floor("baseline.unlearned", &self.unlearned)?,
            ceiling: above_floor("baseline.ceiling", &self.ceiling)?,
        })
    }
}

fn within(field: &str, value: Duration) -> Result<(), String> {
    if value < Duration::from_secs(1) || value > HISTORY_MAX {
        return Err(format!("{field} is not between 1s and 400days"));
    }
    Ok(())
}

fn whole(
    field: &str,
    value: &toml::Value,
    params: &BTreeMap<String, toml::Value>,
    used: &mut [bool],
) -> Result<u64, String> {
    let number = resolve(field, value, params, used)?.as_integer();
    let number = number.and_then(|number| u64::try_from(number).ok()).filter(|number| (1..=LIMIT_MAX).contains(number));
    number.ok_or_else(|| format!("{field} is not a whole number from 1 to {LIMIT_MAX}"))
}

fn millionths(
    field: &str,
    value: &toml::Value,
    params: &BTreeMap<String, toml::Value>,
    used: &mut [bool],
) -> Result<u64, String> {
    let number = match resolve(field, value, params, used)? {
        toml::Value::Integer(number) => u64::try_from(*number).ok().and_then(|number| number.checked_mul(MILLION)),
        // As text, which rounds and knows no overflow.
        toml::Value::Float(number) => format!("{:.0}", number * 1e6).parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| format!("{field} is not a number"))
}
