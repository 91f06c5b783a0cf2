//! `cloudtrail`: the events under the names that CloudTrail Lake and Athena give them, so that SQL written for those runs.
//!
//! A view: nothing is stored twice, and a filter on `useridentity.arn` is one on `principal_arn`. What both keep as maps is
//! JSON text here; `json_extract_scalar` (Athena) and `element_at` (CloudTrail Lake) read it. Members of a struct that a
//! query asks for without naming them are labelled as those engines do, by [`labelled`].

use arrow::array::{Array as _, AsArray as _, StringArray};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::functions_nested::expr_fn::make_array;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, Volatility, cast, col, create_udf, lit, when,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The view over `events`.
pub(crate) fn view(events: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
    let of = |column: &str, name: &str| col(column).alias(name);
    let identity = named_struct(vec![
        lit("type"),
        col("principal_type"),
        lit("principalid"),
        col("principal_id"),
        lit("arn"),
        col("principal_arn"),
        lit("accountid"),
        col("principal_account"),
        lit("accesskeyid"),
        col("access_key_id"),
        lit("username"),
        col("user_name"),
        lit("invokedby"),
        col("invoked_by"),
    ]);
    let key = named_struct(vec![
        lit("arn"),
        col("key_arn"),
        lit("accountid"),
        col("key_account"),
        lit("type"),
        cast(lit("AWS::KMS::Key"), DataType::Utf8),
    ]);
    let columns = vec![
        identity.alias("useridentity"),
        of("event_time", "eventtime"),
        of("event_source", "eventsource"),
        of("event_name", "eventname"),
        of("region", "awsregion"),
        of("source_ip", "sourceipaddress"),
        of("user_agent", "useragent"),
        of("error_code", "errorcode"),
        of("error_message", "errormessage"),
        of("request_parameters", "requestparameters"),
        of("response_elements", "responseelements"),
        of("additional", "additionaleventdata"),
        of("request_id", "requestid"),
        of("event_id", "eventid"),
        of("read_only", "readonly"),
        when(col("key_arn").is_not_null(), make_array(vec![key])).end()?.alias("resources"),
        of("event_type", "eventtype"),
        of("account", "recipientaccountid"),
    ];
    let plan = LogicalPlanBuilder::scan("events", provider_as_source(events), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// The plan with columns that would be called `cloudtrail.useridentity[arn]` called `arn`, where no other column is.
pub(super) fn labelled(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for field in plan.schema().fields() {
        *uses.entry(member(field.name()).unwrap_or(field.name()).to_owned()).or_default() += 1;
    }
    let label = |name: &str| member(name).filter(|label| uses.get(*label) == Some(&1)).map(str::to_owned);
    if plan.schema().fields().iter().all(|field| label(field.name()).is_none()) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::from((qualifier, field)));
            match label(field.name()) {
                Some(label) => column.alias(label),
                None => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// `arn` of `cloudtrail.useridentity[arn]`, which nobody chose as a name.
fn member(name: &str) -> Option<&str> {
    let (of, member) = name.strip_suffix(']')?.rsplit_once('[')?;
    let plain = |text: &str| text.chars().all(|char| char.is_ascii_alphanumeric() || "_.[]".contains(char));
    (!member.is_empty() && !of.is_empty() && plain(of) && plain(member)).then_some(member)
}

/// Functions that such SQL calls and that are not in DataFusion, or not for text.
pub(super) fn functions() -> [ScalarUDF; 2] {
    // DataFusion's `element_at` is another name of this one, under which it would come back when a session is made from
    // another.
    let element_at = texts("element_at", |json, key| scalar(json.get(key)?)).with_aliases(["map_extract"]);
    [texts("json_extract_scalar", by_path), element_at]
}

/// A function of a JSON text and a text that says which value of it.
fn texts(name: &str, find: fn(&Value, &str) -> Option<String>) -> ScalarUDF {
    let run = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let (documents, keys) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
        let one = |row: usize| {
            let known = documents.is_valid(row) && keys.is_valid(row);
            let json: Value = known.then(|| serde_json::from_str(documents.value(row)).ok())??;
            find(&json, keys.value(row))
        };
        let found: StringArray = (0..documents.len()).map(one).collect();
        let is_scalar = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?),
            false => ColumnarValue::Array(Arc::new(found)),
        })
    };
    create_udf(name, vec![DataType::Utf8, DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(run))
}

/// `$.a.b`, `$['a']["b"]`, `$.list[0]`: the paths without wildcards.
fn by_path(json: &Value, path: &str) -> Option<String> {
    let mut rest = path.strip_prefix('$')?;
    let mut at = json;
    while !rest.is_empty() {
        let step;
        if let Some(named) = rest.strip_prefix('.') {
            (step, rest) = named.split_at(named.find(['.', '[']).unwrap_or(named.len()));
        } else {
            (step, rest) = rest.strip_prefix('[')?.split_once(']')?;
        }
        let quoted = step.trim_matches(['\'', '"']);
        at = match at {
            Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            other => other.get(quoted)?,
        };
    }
    scalar(at)
}

/// As text; NULL for objects, lists and null, as Presto has it.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_named_as_nobody_named_them() {
        assert_eq!(member("cloudtrail.useridentity[arn]"), Some("arn"));
        assert_eq!(member("a.b[c][d]"), Some("d"));
        for other in ["arn", "list[Int64(1)]", "max(cloudtrail.useridentity[arn])", "[arn]", "a[]", "a b[c]"] {
            assert_eq!(member(other), None, "{other}");
        }
    }

    #[test]
    fn paths_find_scalars() {
        let json = json!({"a": {"b": "text", "n": 1, "none": null}, "list": [true, {"x.y": "z"}]});
        for (path, expected) in [
            ("$.a.b", Some("text")),
            ("$['a'][\"n\"]", Some("1")),
            ("$.list[0]", Some("true")),
            ("$.list[1]['x.y']", Some("z")),
            ("$.list[7]", None),
            ("$.a", None),
            ("$.a.none", None),
            ("a.b", None),
            ("$[", None),
            ("$..", None),
            ("$", None),
        ] {
            assert_eq!(by_path(&json, path).as_deref(), expected, "{path}");
        }
    }
}
