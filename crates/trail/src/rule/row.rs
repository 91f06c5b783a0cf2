//! Arrow values to what alerts carry: JSON for rows, text for groups.

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use chrono::{DateTime, SecondsFormat};
use datafusion::common::ScalarValue;
use serde_json::{Map, Value};

/// Longest text of one column in a row; a policy is up to 32 KiB and the evidence holds it whole.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Row `index` as a JSON object, columns in order.
pub(crate) fn row(batch: &RecordBatch, index: usize) -> Map<String, Value> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    columns.map(|(field, array)| (field.name().clone(), value(array, index))).collect()
}

fn value(array: &ArrayRef, index: usize) -> Value {
    let Ok(scalar) = ScalarValue::try_from_array(array, index) else { return Value::Null };
    if scalar.is_null() {
        return Value::Null;
    }
    match scalar {
        ScalarValue::Boolean(Some(truth)) => truth.into(),
        ScalarValue::Int8(Some(number)) => number.into(),
        ScalarValue::Int16(Some(number)) => number.into(),
        ScalarValue::Int32(Some(number)) => number.into(),
        ScalarValue::Int64(Some(number)) => number.into(),
        ScalarValue::UInt8(Some(number)) => number.into(),
        ScalarValue::UInt16(Some(number)) => number.into(),
        ScalarValue::UInt32(Some(number)) => number.into(),
        ScalarValue::UInt64(Some(number)) => number.into(),
        ScalarValue::Float32(Some(number)) => f64::from(number).into(),
        ScalarValue::Float64(Some(number)) => number.into(),
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            cut(text).into()
        }
        ScalarValue::TimestampMicrosecond(Some(micros), _) => time_text(micros).into(),
        ScalarValue::Binary(Some(bytes)) | ScalarValue::LargeBinary(Some(bytes)) => cut(hex::encode(bytes)).into(),
        other => cut(other.to_string()).into(),
    }
}

/// RFC 3339 in UTC.
pub(crate) fn time_text(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    text
}

/// The column as text, for group values.
pub(crate) fn text_column(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    if array.data_type() == &DataType::Utf8 {
        return Ok(array.as_string::<i32>().clone());
    }
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The value at `index`, if not null.
pub(crate) fn text_at(array: &StringArray, index: usize) -> Option<&str> {
    array.is_valid(index).then(|| array.value(index))
}
