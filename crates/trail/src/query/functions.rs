//! SQL functions beyond DataFusion's: ours, and those of `datafusion-functions-json` (with the operators `->`, `->>` and `?`)
//! for the columns that hold JSON.

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// Adds the functions to a session; rules use the same ones.
pub fn register(session: &SessionContext) -> Result<()> {
    session.register_udf(policy_is_public());
    session.register_udf(super::to_char::to_char());
    // A clone shares its state.
    datafusion_functions_json::register_all(&mut session.clone())
}

/// `policy_is_public(text) -> boolean`: whether a key policy allows anyone in the world a KMS action without a fence,
/// judged by the evaluator that decides calls. NULL for NULL and for text that is no policy.
fn policy_is_public() -> ScalarUDF {
    create_udf(
        "policy_is_public",
        vec![DataType::Utf8],
        DataType::Boolean,
        Volatility::Immutable,
        Arc::new(|arguments| {
            let arrays = ColumnarValue::values_to_arrays(arguments)?;
            let policies = as_string_array(&arrays[0])?;
            let judged: BooleanArray = policies.iter().map(|policy| judge(policy?)).collect();
            let scalar = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
            Ok(match scalar {
                true => ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&judged, 0)?),
                false => ColumnarValue::Array(Arc::new(judged) as ArrayRef),
            })
        }),
    )
}

fn judge(policy: &str) -> Option<bool> {
    keytrail_kms::policy::is_public(policy).ok()
}
