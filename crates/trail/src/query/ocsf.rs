//! `ocsf`: the events as OCSF API Activity (class 6003), the same mapping that evidence packs carry.
//!
//! A view: nothing is stored twice. The attributes that analysts filter on are columns, with underscores where OCSF nests;
//! `event` is the whole object as JSON text, made only when it is asked for.

use crate::evidence::ocsf;
use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlanBuilder, ScalarUDF, Volatility, cast, col, create_udf, lit, when,
};
use std::sync::Arc;

/// The view over `events`.
pub(crate) fn view(events: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let activity = activity_id().call(vec![col("event_name")]);
    let of = |column: &str, name: &str| col(column).alias(name);
    let outcome = |failed: Expr, worked: Expr| when(col("error_code").is_not_null(), failed).otherwise(worked);
    let columns = vec![
        of("event_time", "time"),
        lit(6_i64).alias("category_uid"),
        lit(i64::from(ocsf::CLASS)).alias("class_uid"),
        (lit(i64::from(ocsf::CLASS) * 100) + activity.clone()).alias("type_uid"),
        activity.alias("activity_id"),
        lit(1_i64).alias("severity_id"),
        outcome(lit(2_i64), lit(1_i64))?.alias("status_id"),
        outcome(lit("Failure"), lit("Success"))?.alias("status"),
        of("error_code", "status_code"),
        of("error_message", "status_detail"),
        of("event_id", "metadata_uid"),
        of("log", "metadata_log_name"),
        of("seq", "metadata_sequence"),
        of("event_name", "api_operation"),
        of("event_source", "api_service_name"),
        of("request_id", "api_request_uid"),
        of("principal_type", "actor_user_type"),
        of("principal_arn", "actor_user_uid"),
        of("user_name", "actor_user_name"),
        of("principal_account", "actor_user_account_uid"),
        of("access_key_id", "actor_user_credential_uid"),
        of("invoked_by", "actor_app_name"),
        of("mfa", "actor_session_is_mfa"),
        of("source_ip", "src_endpoint"),
        of("user_agent", "http_request_user_agent"),
        of("region", "cloud_region"),
        of("account", "cloud_account_uid"),
        of("key_arn", "resource_uid"),
        json()
            .call(vec![col("log"), col("seq"), cast(col("leaf_time_us"), DataType::Int64), col("raw")])
            .alias("event"),
    ];
    let plan = LogicalPlanBuilder::scan("events", provider_as_source(events), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

fn activity_id() -> ScalarUDF {
    let run = |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let names = arrays[0].as_string::<i32>();
        let id = |name: &str| i64::from(ocsf::activity(name).0);
        let ids: arrow::array::Int64Array = names.iter().map(|name| Some(name.map_or(0, id))).collect();
        one_or_all(arguments, Arc::new(ids))
    };
    create_udf("ocsf_activity_id", vec![DataType::Utf8], DataType::Int64, Volatility::Immutable, Arc::new(run))
}

fn json() -> ScalarUDF {
    let run = |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let (logs, seqs) = (arrays[0].as_string::<i32>(), arrays[1].as_primitive::<Int64Type>());
        let (times, raws) = (arrays[2].as_primitive::<Int64Type>(), arrays[3].as_binary::<i32>());
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        let one = |row: usize| {
            let raw = raws.is_valid(row).then(|| raws.value(row))?;
            let event = ocsf::event(logs.value(row), unsigned(seqs.value(row)), unsigned(times.value(row)), raw)?;
            Some(event.to_string())
        };
        let texts: StringArray = (0..raws.len()).map(one).collect();
        one_or_all(arguments, Arc::new(texts))
    };
    let takes = vec![DataType::Utf8, DataType::Int64, DataType::Int64, DataType::Binary];
    create_udf("ocsf_event", takes, DataType::Utf8, Volatility::Immutable, Arc::new(run))
}

fn one_or_all(arguments: &[ColumnarValue], values: ArrayRef) -> Result<ColumnarValue> {
    let scalar = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
    Ok(if scalar {
        ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)
    } else {
        ColumnarValue::Array(values)
    })
}
