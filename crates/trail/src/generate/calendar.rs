//! When people work: office hours in fixed time zones, weekends, public holidays. Times are Unix microseconds.
//!
//! Zones have no daylight saving: an hour's shift twice a year would only blur what the traffic is meant to show.

use chrono::{DateTime, Datelike, NaiveDate, Weekday};

pub(super) const SECOND_US: i64 = 1_000_000;
pub(super) const MINUTE_US: i64 = 60 * SECOND_US;
pub(super) const HOUR_US: i64 = 60 * MINUTE_US;
pub(super) const DAY_US: i64 = 24 * HOUR_US;

/// Where somebody works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone {
    /// Local time minus UTC.
    offset_us: i64,
    /// Month and day of public holidays with a fixed date.
    holidays: &'static [(u32, u32)],
}

pub(super) const BERLIN: Zone =
    Zone { offset_us: HOUR_US, holidays: &[(1, 1), (5, 1), (10, 3), (12, 24), (12, 25), (12, 26), (12, 31)] };
pub(super) const NEW_YORK: Zone =
    Zone { offset_us: -5 * HOUR_US, holidays: &[(1, 1), (1, 19), (2, 16), (6, 19), (7, 3), (11, 26), (12, 25)] };
pub(super) const SINGAPORE: Zone =
    Zone { offset_us: 8 * HOUR_US, holidays: &[(1, 1), (2, 17), (2, 18), (5, 1), (8, 9), (12, 25)] };

impl Zone {
    fn date(self, time_us: i64) -> NaiveDate {
        DateTime::from_timestamp_micros(time_us + self.offset_us).unwrap_or_default().date_naive()
    }

    /// Start of the local day that `time_us` falls in.
    pub(super) fn midnight_us(self, time_us: i64) -> i64 {
        (time_us + self.offset_us).div_euclid(DAY_US) * DAY_US - self.offset_us
    }

    /// Neither a weekend nor a public holiday.
    pub(super) fn works(self, time_us: i64) -> bool {
        let date = self.date(time_us);
        !matches!(date.weekday(), Weekday::Sat | Weekday::Sun) && !self.holidays.contains(&(date.month(), date.day()))
    }

    /// How busy customers keep applications, from 0.25 at night to 1 at midday, less at weekends.
    pub(super) fn demand(self, time_us: i64) -> f64 {
        let hour = ((time_us + self.offset_us).rem_euclid(DAY_US) / HOUR_US) as f64;
        let day = 0.625 - 0.375 * ((hour - 1.0) * std::f64::consts::TAU / 24.0).cos();
        if self.works(time_us) { day } else { 0.6 * day }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weekends_holidays_and_midnights_are_local() {
        // 2026-01-04T23:30:00Z, a Sunday: Monday in Berlin, Sunday in New York.
        let sunday = 1_767_569_400_000_000;
        assert!(BERLIN.works(sunday) && !NEW_YORK.works(sunday));
        assert_eq!(BERLIN.midnight_us(sunday), sunday - 30 * MINUTE_US);
        let new_year = 1_767_265_200_000_000; // 2026-01-01T11:00:00Z, a Thursday.
        assert!(![BERLIN, NEW_YORK, SINGAPORE].iter().any(|zone| zone.works(new_year)));
        assert!(BERLIN.demand(sunday + 13 * HOUR_US) > 2.0 * BERLIN.demand(sunday + 2 * HOUR_US));
    }
}
