//! How the size of a function's answer follows from its arguments.

use super::bounded::{FIXED_BYTES_MAX, FIXED_BYTES_USUAL};
use super::size::{PLACE_BYTES, size_of, sum};
use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::compute::{cast, max};
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Expr, expr::ScalarFunction};
use std::collections::BTreeSet;

const DAY_NS: i128 = 86_400_000_000_000;
const CHAR_BYTES_MAX: u64 = 4;
/// What a value of a list that is made by index takes beside itself, until it is made.
const INDEX_BYTES: u64 = 24;
/// What a parsed JSON document has of memory for a byte of it, `[0,0,..]` at worst.
const TREE_BYTES: u64 = 48;
/// Memory of a regular expression: the library's own limit, what a character of it may come to without a count (`\w{800}`),
/// and what each has.
const REGEX_BYTES_MAX: u64 = 10 << 20;
const REGEX_BYTES_PER_CHAR: u64 = 64 << 10;

/// How the size of an answer follows from the arguments, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Grows {
    /// All of them together, this many times.
    Sum(u64),
    /// A text, as often as this one says.
    Times(usize),
    /// A list of the first, as often as this one says.
    Elements(usize),
    /// A text of as many characters as this one says.
    Pads(usize),
    /// A list of as many values as this one says.
    Fills(usize),
    /// The first, each part of it replaced by this one.
    Substitutes(usize),
    /// The first, the second in it replaced by the third.
    Replaces,
    /// The first, one part of it replaced by the third, which may name parts of it.
    ReplacesOnce,
    /// The values of the first, after each of them the second, and the third for those that are NULL.
    Joins,
    /// From the first to the second in steps of the third.
    Steps,
    /// The first, as often as the pattern in the second has groups.
    Groups,
    /// The longest document of the first, parsed.
    Tree,
    /// What the first, patterns of a column, are compiled to.
    Patterns,
}

/// Functions whose answer has a fixed length or is short; all that are not here, in [`COPY`] or in [`growth`] are taken to give
/// all of their arguments.
///
/// Some the optimizer knows by their function (a list in `= ANY`, a member of a struct, a part of a date): it would not know
/// them behind a bound.
#[rustfmt::skip]
const HAND_ON: &[&str] = &[
    // Numbers, truth values and times.
    "abs", "acos", "acosh", "ascii", "asin", "asinh", "atan", "atan2", "atanh", "bit_length", "cbrt", "ceil",
    "character_length", "contains", "cos", "cosh", "cot", "current_date", "current_time", "date_bin", "date_part",
    "date_trunc", "degrees", "ends_with", "exp", "factorial", "find_in_set", "floor", "from_unixtime", "gcd", "isnan",
    "iszero", "lcm", "levenshtein", "ln", "log", "log10", "log2", "make_date", "make_time", "nanvl", "now", "octet_length",
    "pi", "power", "radians", "random", "round", "signum", "sin", "sinh", "sqrt", "starts_with", "strpos", "tan", "tanh",
    "to_date", "to_local_time", "to_time", "to_timestamp", "to_timestamp_micros", "to_timestamp_millis",
    "to_timestamp_nanos", "to_timestamp_seconds", "to_unixtime", "trunc",
    "array_distance", "array_has", "array_has_all", "array_has_any", "array_length", "array_ndims", "array_position",
    "cardinality", "cosine_distance", "empty", "inner_product",
    "cidr_match", "is_trusted_account", "json_contains", "json_get_bool", "json_get_float", "json_get_int", "json_length",
    "regexp_count", "regexp_instr", "regexp_like",
    // Short texts.
    "arrow_field", "arrow_metadata", "arrow_typeof", "chr", "digest", "file_row_index", "input_file_name", "md5", "sha224",
    "sha256", "sha384", "sha512", "to_hex", "union_tag", "uuid", "version",
];

/// The same of those that copy an argument or a part of it, which may be long.
#[rustfmt::skip]
const COPY: &[&str] = &[
    "measured",
    "arrow_cast", "arrow_try_cast", "array_any_value", "array_element", "array_max", "array_min", "btrim",
    "coalesce", "get_field", "greatest", "initcap", "least", "left", "lower", "ltrim", "nullif", "nvl",
    "nvl2", "reverse", "right", "rtrim", "split_part", "substr", "substr_index", "union_extract",
    "upper", "with_metadata",
    "arn_account", "arn_role", "client_ip", "json_as_text", "json_from_scalar", "json_get", "json_get_json",
    "json_get_str", "json_union_to_text",
    // Those of policies read no text beyond the length of a policy, and tell no more than so many permissions.
    "policy_accounts", "policy_diff", "policy_grants", "policy_is_public", "policy_lets_in", "policy_locks_out",
    "policy_mixed_duties", "policy_new_untrusted_accounts", "policy_on_all_keys", "policy_untrusted_accounts",
];

/// What a call may come to; none for those that make nothing much.
pub(super) fn growth(call: &ScalarFunction) -> Option<Grows> {
    let name = call.func.name();
    Some(match name {
        "repeat" => Grows::Times(1),
        "array_repeat" => Grows::Elements(1),
        "lpad" | "rpad" => Grows::Pads(1),
        "array_resize" => Grows::Fills(1),
        "replace" => Grows::Replaces,
        "regexp_replace" if call.args.get(3).is_none_or(is_for_one) => Grows::ReplacesOnce,
        "regexp_replace" | "array_replace" | "array_replace_n" | "array_replace_all" => Grows::Substitutes(2),
        "array_to_string" => Grows::Joins,
        "range" | "generate_series" => Grows::Steps,
        "regexp_match" => Grows::Groups,
        "json_extract_scalar" | "element_at" => Grows::Tree,
        // A character of a pattern, a quote, a byte in hexadecimal, a column of nulls.
        "translate" => Grows::Sum(CHAR_BYTES_MAX),
        "to_char" => Grows::Sum(3),
        "encode" | "quote_ident" | "quote_literal" => Grows::Sum(2),
        "arrays_zip" => Grows::Sum(call.args.len() as u64),
        // To the longest type of fixed length that there may be.
        "cast_to_type" | "try_cast_to_type" => Grows::Sum(FIXED_BYTES_MAX / FIXED_BYTES_USUAL),
        // Sets of all their values, in another form.
        "array_distinct" | "array_except" | "array_intersect" | "array_union" => Grows::Sum(4),
        // Each character may be a value.
        "string_to_array" | "json_get_array" | "json_object_keys" => Grows::Sum(5),
        // Of PostgreSQL's catalog, whose answers are a name or nothing.
        name if HAND_ON.contains(&name) || COPY.contains(&name) || name.starts_with("pg_") => return None,
        _ => Grows::Sum(1),
    })
}

/// Whether a call makes as much again as one of its arguments has.
pub(super) fn copies(call: &ScalarFunction) -> bool {
    COPY.contains(&call.func.name())
}

/// Whether flags say that one match is replaced, and not each.
fn is_for_one(flags: &Expr) -> bool {
    matches!(flags, Expr::Literal(flags, _) if !flags.to_string().contains('g'))
}

impl Grows {
    /// About how many bytes the answer has, and rather more than fewer.
    pub(super) fn bytes(self, args: &[ColumnarValue], rows: usize) -> Result<u64> {
        let rows = rows as u64;
        let size = |at: usize| args.get(at).map_or(Ok(0), |arg| size(arg, rows));
        let all = (0..args.len()).try_fold(0_u64, |sum, at| size(at).map(|size| sum.saturating_add(size)))?;
        Ok(match self {
            Self::Sum(times) => all.saturating_mul(times),
            Self::Times(at) => {
                let places = rows.saturating_mul(PLACE_BYTES);
                let texts = size(0)?.saturating_sub(places);
                texts.saturating_mul(largest(args.get(at))?).saturating_add(places)
            }
            Self::Elements(at) => {
                // Those of a list are indices once more.
                let each = size(0)?.saturating_mul(3).saturating_add(rows.saturating_mul(INDEX_BYTES));
                each.saturating_mul(largest(args.get(at))?)
            }
            Self::Pads(at) => {
                all.saturating_add(largest(args.get(at))?.saturating_mul(rows).saturating_mul(CHAR_BYTES_MAX))
            }
            Self::Fills(at) => {
                let each = rows.saturating_mul(8).saturating_add(size(at + 1)?);
                all.saturating_add(largest(args.get(at))?.saturating_mul(each))
            }
            Self::Substitutes(at) => all.saturating_add(size(0)?.saturating_mul(longest(args.get(at)))),
            Self::Joins => {
                let each = longest(args.get(1)).saturating_add(longest(args.get(2)));
                all.saturating_add(size(0)?.saturating_mul(each))
            }
            Self::Replaces => {
                // An empty one stands before and after each character.
                let shortest = match args.get(1) {
                    Some(ColumnarValue::Scalar(what)) => {
                        what.try_as_str().flatten().map_or(1, |what| what.len().max(1))
                    }
                    _ => 1,
                };
                let times = size(0)? / shortest as u64;
                all.saturating_add(times.saturating_mul(longest(args.get(2))))
            }
            Self::ReplacesOnce => {
                let to = longest(args.get(2));
                let parts = match args.get(2) {
                    Some(ColumnarValue::Scalar(to)) => {
                        to.try_as_str().flatten().map_or(0, |to| to.matches(['\\', '$']).count() as u64)
                    }
                    _ => to,
                };
                sum([all, rows.saturating_mul(to), size(0)?.saturating_mul(parts)].into_iter())
            }
            Self::Steps => rows.saturating_mul(8).saturating_mul(steps(args)?),
            Self::Groups => size(0)?.saturating_mul(groups(args.get(1))?.saturating_add(1)),
            Self::Tree => {
                let longest = match args.first() {
                    Some(documents) => super::size::longest_of(&documents.to_array(1)?),
                    None => 0,
                };
                longest.saturating_mul(TREE_BYTES)
            }
            Self::Patterns => match args.first() {
                Some(patterns @ ColumnarValue::Array(_)) => {
                    sum(texts(patterns)?.iter().map(|pattern| regex_bytes(pattern)))
                }
                // One has the library's own limit.
                _ => 0,
            },
        })
    }
}

/// What a text is compiled to, if it is a regular expression.
fn regex_bytes(pattern: &str) -> u64 {
    let by_length = REGEX_BYTES_PER_CHAR.saturating_mul(1 + pattern.len() as u64);
    if pattern.contains('{') { REGEX_BYTES_MAX } else { by_length.min(REGEX_BYTES_MAX) }
}

/// The most groups of a pattern, or somewhat more.
fn groups(patterns: Option<&ColumnarValue>) -> Result<u64> {
    let Some(patterns) = patterns else { return Ok(0) };
    Ok(texts(patterns)?.iter().map(|pattern| pattern.matches('(').count() as u64).max().unwrap_or(0))
}

/// The different texts of an argument.
fn texts(arg: &ColumnarValue) -> Result<BTreeSet<String>> {
    let array = arg.to_array(1)?;
    if array.data_type() == &DataType::Null {
        return Ok(BTreeSet::new());
    }
    let array = cast(&array, &DataType::LargeUtf8)?;
    let mut texts = BTreeSet::new();
    for text in array.as_string::<i64>().iter().flatten() {
        if !texts.contains(text) {
            texts.insert(text.to_owned());
        }
    }
    Ok(texts)
}

/// Bytes of an argument over all rows.
fn size(arg: &ColumnarValue, rows: u64) -> Result<u64> {
    Ok(match arg {
        ColumnarValue::Scalar(value) => size_of(&value.to_array()?).saturating_mul(rows),
        ColumnarValue::Array(array) => size_of(array),
    })
}

/// The longest value.
fn longest(arg: Option<&ColumnarValue>) -> u64 {
    match arg {
        None => 0,
        Some(ColumnarValue::Scalar(value)) => match value.try_as_str() {
            Some(text) => text.map_or(0, |text| text.len() as u64),
            None => value.to_array().map_or(u64::MAX, |value| size_of(&value)),
        },
        // A column: nobody replaces by one in earnest, so its whole size will do.
        Some(array @ ColumnarValue::Array(_)) => size(array, 1).unwrap_or(u64::MAX),
    }
}

/// The largest number; what is below zero makes nothing.
fn largest(arg: Option<&ColumnarValue>) -> Result<u64> {
    let Some(arg) = arg else { return Ok(0) };
    Ok(numbers(arg, &DataType::Int64)?
        .and_then(|numbers| max(numbers.as_primitive::<Int64Type>()))
        .map_or(0, |number| u64::try_from(number).unwrap_or(0)))
}

fn numbers(arg: &ColumnarValue, to: &DataType) -> Result<Option<ArrayRef>> {
    let array = arg.to_array(1)?;
    Ok(if array.data_type() == &DataType::Null { None } else { Some(cast(&array, to)?) })
}

/// The most steps of a row.
fn steps(args: &[ColumnarValue]) -> Result<u64> {
    // With one argument it ends there.
    let [from, to, by] = match args {
        [to] => [None, Some(to), None],
        [from, to] => [Some(from), Some(to), None],
        [from, to, by, ..] => [Some(from), Some(to), Some(by)],
        [] => return Ok(0),
    };
    let times = args.last().is_some_and(|by| matches!(by.data_type(), DataType::Interval(_)));
    let unit = if times { DataType::Timestamp(TimeUnit::Nanosecond, None) } else { DataType::Int64 };
    // Smallest and largest of a column: rows apart may say more than any of them has.
    let ends = |arg: Option<&ColumnarValue>| -> Result<Option<(i64, i64)>> {
        let Some(array) = arg.map(|arg| numbers(arg, &unit)).transpose()?.flatten() else { return Ok(None) };
        let array = cast(&array, &DataType::Int64)?;
        let array = array.as_primitive::<Int64Type>();
        Ok(arrow::compute::min(array).zip(max(array)))
    };
    let Some(to) = ends(to)? else { return Ok(0) };
    let from = ends(from)?.unwrap_or((0, 0));
    let span = (i128::from(to.1) - i128::from(from.0)).abs().max((i128::from(from.1) - i128::from(to.0)).abs());
    let step = match by {
        None => 1,
        Some(by) if times => {
            let Some(array) = numbers(by, &DataType::Interval(IntervalUnit::MonthDayNano))? else { return Ok(0) };
            let steps = array.as_primitive::<IntervalMonthDayNanoType>().iter().flatten();
            let length = |step: IntervalMonthDayNano| {
                (i128::from(step.months) * 28 * DAY_NS + i128::from(step.days) * DAY_NS + i128::from(step.nanoseconds))
                    .abs()
            };
            steps.map(length).min().unwrap_or(1)
        }
        Some(by) => ends(Some(by))?.map_or(1, |(least, most)| {
            if least <= 0 && most >= 0 { 1 } else { i128::from(least).abs().min(i128::from(most).abs()) }
        }),
    };
    Ok(u64::try_from(span / step.max(1) + 1).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::query::functions;
    use datafusion::logical_expr::lit;
    use datafusion::prelude::SessionContext;

    /// Each function once, by its own name.
    fn functions() -> Vec<ScalarFunction> {
        let session = SessionContext::new();
        functions::register(&session).unwrap();
        let state = session.state();
        let own = state.scalar_functions().iter().filter(|(name, function)| *name == function.name());
        own.map(|(_, function)| ScalarFunction::new_udf(function.clone(), vec![lit("a"); 2])).collect()
    }

    #[test]
    fn somebody_looked_at_each_function() {
        let unnamed = |call: &ScalarFunction| growth(call) == Some(Grows::Sum(1));
        let mut names: Vec<String> =
            functions().into_iter().filter(unnamed).map(|call| call.name().to_owned()).collect();
        names.sort();
        // All they are given, or parts of it: lists sorted, joined and cut, texts put together. A function that a release
        // of DataFusion adds is to be looked at, and listed here, in `HAND_ON` or in `growth`.
        let looked_at = "array_add array_append array_avg array_compact array_concat array_dims \
             array_normalize array_pop_back array_pop_front array_positions array_prepend array_product \
             array_remove array_remove_all array_remove_n array_reverse array_scale array_slice array_sort \
             array_subtract array_sum concat concat_ws decode flatten make_array map map_entries map_keys \
             map_values named_struct overlay struct";
        assert_eq!(names.join(" "), looked_at);
    }

    #[test]
    fn the_functions_that_hand_on_are_there() {
        let names: Vec<String> = functions().iter().map(|call| call.name().to_owned()).collect();
        let gone: Vec<&&str> =
            HAND_ON.iter().chain(COPY).filter(|name| !names.iter().any(|there| there == **name)).collect();
        assert_eq!(gone, [&"measured"], "{gone:?}");
    }
}
