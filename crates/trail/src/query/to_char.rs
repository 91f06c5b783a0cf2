//! `to_char` with PostgreSQL's patterns.
//!
//! DataFusion's takes strftime's and gives a pattern of PostgreSQL's back as it stands, which a report then shows as a date.
//! Here a pattern is understood to the last letter or refused; letters that stand for themselves are written in quotes.

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Timelike, Utc};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::fmt::Write;
use std::sync::Arc;

/// The function, for times and dates.
pub(super) fn to_char() -> ScalarUDF {
    let signature = Signature::any(2, Volatility::Immutable);
    // DataFusion's has this second name, under which it would come back when a session is made from another.
    ScalarUDF::new_from_impl(ToChar { signature, aliases: vec!["date_format".to_owned()] })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &'static str {
        "to_char"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Null, _] => Ok(DataType::Utf8),
            [other, _] => plan_err!("to_char formats times and dates, not {other}"),
            _ => plan_err!("to_char has two arguments"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let time = args.args[0].to_array(rows)?;
        let time = cast(&time, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let time = time.as_primitive::<TimestampMicrosecondType>();
        let patterns = cast(&args.args[1].to_array(rows)?, &DataType::Utf8)?;
        let mut parsed: Option<(String, Vec<Piece>)> = None;
        let mut texts = Vec::with_capacity(rows);
        for (at, pattern) in patterns.as_string::<i32>().iter().enumerate() {
            let (Some(pattern), false) = (pattern, time.is_null(at)) else {
                texts.push(None);
                continue;
            };
            if parsed.as_ref().is_none_or(|(of, _)| of != pattern) {
                parsed = Some((pattern.to_owned(), parse(pattern)?));
            }
            let moment = DateTime::<Utc>::from_timestamp_micros(time.value(at));
            texts.push(parsed.as_ref().zip(moment).map(|((_, pieces), moment)| written(pieces, moment)));
        }
        Ok(ColumnarValue::Array(Arc::new(StringArray::from(texts)) as ArrayRef))
    }
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A field and whether its padding is left away.
    Field(&'static str, bool),
}

/// Longest first, as one can begin another. Times are UTC.
const FIELDS: [&str; 38] = [
    "HH24", "HH12", "YYYY", "MONTH", "Month", "month", "DAY", "Day", "day", "DDD", "MON", "Mon", "mon", "IYYY", "A.M.",
    "P.M.", "a.m.", "p.m.", "HH", "MI", "MM", "SS", "MS", "US", "YY", "DD", "DY", "Dy", "dy", "AM", "PM", "am", "pm",
    "IW", "ID", "TZ", "OF", "Q",
];

fn parse(pattern: &str) -> Result<Vec<Piece>> {
    let (mut pieces, mut rest) = (Vec::new(), pattern);
    let mut bare = false;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("FM") {
            (bare, rest) = (true, after);
            continue;
        }
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some((text, after)) = quoted.split_once('"') else {
                return plan_err!("to_char: a quote in the pattern is not closed");
            };
            pieces.push(Piece::Text(text.to_owned()));
            rest = after;
            continue;
        }
        // Upper and lower case mean the same where the field is a number.
        let found = FIELDS.iter().find(|field| rest.starts_with(**field)).or_else(|| {
            let numeric = |field: &&&str| !field.chars().any(char::is_lowercase) && !NAMES.contains(field);
            FIELDS
                .iter()
                .filter(numeric)
                .find(|field| rest.get(..field.len()).is_some_and(|head| head.eq_ignore_ascii_case(field)))
        });
        match found {
            Some(field) => {
                pieces.push(Piece::Field(field, std::mem::take(&mut bare)));
                rest = &rest[field.len()..];
            }
            None if first.is_alphanumeric() => {
                return plan_err!("to_char: {first} in the pattern stands for nothing; text goes into double quotes");
            }
            None => {
                pieces.push(Piece::Text(first.to_string()));
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    Ok(pieces)
}

/// Fields whose case says how their text is written.
const NAMES: [&str; 10] = ["MONTH", "Month", "month", "MON", "Mon", "mon", "DAY", "Day", "day", "DY"];

fn written(pieces: &[Piece], time: DateTime<Utc>) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Field(field, bare) => write_field(&mut out, field, *bare, time),
        }
    }
    out
}

fn write_field(out: &mut String, field: &str, bare: bool, time: DateTime<Utc>) {
    let hour12 = time.hour12().1;
    let number = |out: &mut String, value: u32, width: usize| {
        let width = if bare { 0 } else { width };
        // Writing to a String cannot fail.
        let _ = write!(out, "{value:0width$}");
    };
    let name = |out: &mut String, format: &str, width: usize| {
        let text = time.format(format).to_string();
        let text = match field.chars().nth(1) {
            Some(second) if second.is_uppercase() => text.to_uppercase(),
            _ if field.starts_with(char::is_uppercase) => text,
            _ => text.to_lowercase(),
        };
        let width = if bare { 0 } else { width };
        let _ = write!(out, "{text:width$}");
    };
    match field {
        "YYYY" => drop(write!(out, "{:04}", time.year())),
        "IYYY" => drop(write!(out, "{:04}", time.iso_week().year())),
        "YY" => number(out, time.year().rem_euclid(100).unsigned_abs(), 2),
        "MM" => number(out, time.month(), 2),
        "DD" => number(out, time.day(), 2),
        "DDD" => number(out, time.ordinal(), 3),
        "HH24" => number(out, time.hour(), 2),
        "HH12" | "HH" => number(out, hour12, 2),
        "MI" => number(out, time.minute(), 2),
        "SS" => number(out, time.second(), 2),
        "MS" => number(out, time.timestamp_subsec_millis(), 3),
        "US" => number(out, time.timestamp_subsec_micros(), 6),
        "IW" => number(out, time.iso_week().week(), 2),
        "ID" => number(out, time.weekday().number_from_monday(), 1),
        "Q" => number(out, time.month0() / 3 + 1, 1),
        "AM" | "PM" => drop(write!(out, "{}", time.format("%p"))),
        "am" | "pm" => drop(write!(out, "{}", time.format("%P"))),
        "A.M." | "P.M." => out.push_str(if time.hour() < 12 { "A.M." } else { "P.M." }),
        "a.m." | "p.m." => out.push_str(if time.hour() < 12 { "a.m." } else { "p.m." }),
        "TZ" => out.push_str("UTC"),
        "OF" => out.push_str("+00"),
        "MONTH" | "Month" | "month" => name(out, "%B", 9),
        "DAY" | "Day" | "day" => name(out, "%A", 9),
        "MON" | "Mon" | "mon" => name(out, "%b", 3),
        _ => name(out, "%a", 3),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(pattern: &str) -> String {
        let time: DateTime<Utc> = "2026-03-05T14:07:09.012345Z".parse().unwrap();
        written(&parse(pattern).unwrap(), time)
    }

    #[test]
    fn patterns_are_postgresqls() {
        for (pattern, expected) in [
            ("YYYY-MM-DD", "2026-03-05"),
            ("YYYY-MM-DD HH24:MI:SS", "2026-03-05 14:07:09"),
            ("YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"", "2026-03-05T14:07:09.012345Z"),
            ("HH12:MI AM", "02:07 PM"),
            ("yyyy/mm/dd hh24", "2026/03/05 14"),
            ("Mon DD, YYYY", "Mar 05, 2026"),
            ("FMMonth FMDD", "March 5"),
            ("Day", "Thursday "),
            ("DY", "THU"),
            ("IYYY-IW-ID", "2026-10-4"),
            ("Q", "1"),
            ("DDD MS", "064 012"),
            ("", ""),
        ] {
            assert_eq!(shown(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused() {
        for pattern in ["%Y-%m-%d", "YYYY-MM-DDTHH24", "foo", "YYYY \"open", "9999"] {
            assert!(parse(pattern).is_err(), "{pattern}");
        }
    }
}
