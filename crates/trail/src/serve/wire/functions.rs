//! Functions that PostgreSQL's clients call: about the server, the session, and objects that there are not here.
//!
//! They answer as PostgreSQL would for a read-only database of plain tables; what cannot be answered so is not registered,
//! and a call of it is an error.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog as pg;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The version whose dialect clients may expect. What follows says what it is.
pub(super) const SERVER_VERSION: &str = "16.6";

/// Whose session it is.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) user: String,
    pub(super) pid: i32,
    pub(super) settings: Arc<BTreeMap<String, String>>,
}

/// Puts all functions into a session.
pub(super) fn register(session: &SessionContext, asker: &Asker) {
    for function in catalog_functions() {
        session.register_udf(function);
    }
    for function in own_functions(asker) {
        session.register_udf(ScalarUDF::new_from_impl(function));
    }
}

/// Those of datafusion-pg-catalog that fit.
fn catalog_functions() -> Vec<ScalarUDF> {
    vec![
        pg::create_current_database_udf(crate::query::session::CATALOG),
        pg::create_current_schema_udf(),
        pg::create_current_schemas_udf(),
        pg::create_pg_table_is_visible(),
        pg::format_type::create_format_type_udf(),
        pg::pg_get_expr_udf::create_pg_get_expr_udf(),
        pg::create_pg_get_partkeydef_udf(),
        pg::create_pg_relation_is_publishable_udf(),
        pg::create_pg_get_statisticsobjdef_columns_udf(),
        pg::create_pg_encoding_to_char_udf(),
        pg::create_pg_relation_size_udf(),
        pg::create_pg_total_relation_size_udf(),
        pg::create_pg_stat_get_numscans(),
        pg::create_pg_get_constraintdef(),
        pg::create_pg_get_partition_ancestors_udf(),
        pg::quote_ident_udf::create_quote_ident_udf(),
        pg::quote_ident_udf::create_parse_ident_udf(),
        pg::array_bounds_udf::create_array_upper_udf(),
        pg::array_bounds_udf::create_array_lower_udf(),
    ]
}

fn own_functions(asker: &Asker) -> Vec<Function> {
    let text = |name, value: &str| Function::new(name, Body::Text(value.to_owned()));
    let version = format!(
        "PostgreSQL {SERVER_VERSION} (Keytrail {}, read-only SQL over the audit log)",
        env!("CARGO_PKG_VERSION")
    );
    let mut functions = vec![
        text("version", &version),
        text("session_user", &asker.user),
        text("current_role", &asker.user),
        text("getdatabaseencoding", "UTF8"),
        Function::new("pg_backend_pid", Body::Number(asker.pid)),
        Function::new("current_setting", Body::Setting(asker.settings.clone())),
        Function::new("pg_get_userbyid", Body::Text(asker.user.clone())),
        Function::new("pg_size_pretty", Body::SizePretty),
        Function::new("quote_literal", Body::QuoteLiteral),
        Function::new("pg_is_in_recovery", Body::Flag(false)),
        Function::new("pg_my_temp_schema", Body::Number(0)),
        Function::new("pg_is_other_temp_schema", Body::Flag(false)),
        Function::new("txid_current", Body::Number(0)),
        Function::new("pg_advisory_unlock_all", Body::Null),
    ];
    for name in ["pg_type_is_visible", "pg_function_is_visible", "pg_opclass_is_visible", "pg_collation_is_visible"] {
        functions.push(Function::new(name, Body::Flag(true)));
    }
    for name in [
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_any_column_privilege",
        "has_column_privilege",
        "has_function_privilege",
        "pg_has_role",
    ] {
        functions.push(Function::new(name, Body::Privilege));
    }
    // Comments, definitions and defaults of objects: there are none.
    for name in [
        "obj_description",
        "col_description",
        "shobj_description",
        "pg_get_viewdef",
        "pg_get_indexdef",
        "pg_get_triggerdef",
        "pg_get_ruledef",
        "pg_get_functiondef",
        "pg_get_function_result",
        "pg_get_function_arguments",
        "pg_get_function_identity_arguments",
        "pg_get_serial_sequence",
        "pg_tablespace_location",
        "pg_relation_filepath",
        "pg_table_size",
        "pg_indexes_size",
        "pg_database_size",
        "pg_tablespace_size",
    ] {
        functions.push(Function::new(name, Body::Null));
    }
    functions
}

/// A function of any arguments whose answer depends on little.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    body: Body,
    signature: Signature,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Body {
    Text(String),
    Number(i32),
    Flag(bool),
    /// NULL as text.
    Null,
    Setting(Arc<BTreeMap<String, String>>),
    SizePretty,
    QuoteLiteral,
    /// Reading is allowed, nothing else is.
    Privilege,
}

impl Function {
    fn new(name: &'static str, body: Body) -> Self {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        Self { name, body, signature: Signature::one_of(any, Volatility::Stable) }
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.body {
            Body::Number(_) => DataType::Int32,
            Body::Flag(_) | Body::Privilege => DataType::Boolean,
            _ => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        use datafusion::common::ScalarValue;
        let rows = args.number_rows;
        Ok(match &self.body {
            Body::Text(value) => ColumnarValue::Scalar(ScalarValue::Utf8(Some(value.clone()))),
            Body::Number(value) => ColumnarValue::Scalar(ScalarValue::Int32(Some(*value))),
            Body::Flag(value) => ColumnarValue::Scalar(ScalarValue::Boolean(Some(*value))),
            Body::Null => ColumnarValue::Array(new_null_array(&DataType::Utf8, rows)),
            Body::Setting(settings) => ColumnarValue::Array(setting(settings, &args.args, rows)?),
            Body::SizePretty => ColumnarValue::Array(size_pretty(&args.args, rows)?),
            Body::QuoteLiteral => {
                let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
                ColumnarValue::Array(mapped(&args.args, rows, quoted)?)
            }
            Body::Privilege => ColumnarValue::Array(privilege(&args.args, rows)?),
        })
    }
}

fn strings(value: &ColumnarValue, rows: usize) -> Result<ArrayRef> {
    Ok(cast(&value.to_array(rows)?, &DataType::Utf8)?)
}

fn mapped(args: &[ColumnarValue], rows: usize, map: impl Fn(&str) -> String) -> Result<ArrayRef> {
    let Some(first) = args.first() else { return exec_err!("an argument is missing") };
    let texts = strings(first, rows)?;
    Ok(Arc::new(texts.as_string::<i32>().iter().map(|text| text.map(&map)).collect::<StringArray>()))
}

fn setting(settings: &BTreeMap<String, String>, args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let Some(first) = args.first() else { return exec_err!("current_setting needs the name of a setting") };
    let missing_ok = match args.get(1) {
        Some(flag) => {
            cast(&flag.to_array(rows)?, &DataType::Boolean)?.as_boolean().iter().next().flatten() == Some(true)
        }
        None => false,
    };
    let names = strings(first, rows)?;
    let mut values = Vec::with_capacity(rows);
    for name in names.as_string::<i32>().iter() {
        let found = name.and_then(|name| settings.get(&name.to_lowercase()));
        if let (Some(name), None, false) = (name, found, missing_ok) {
            return exec_err!("unrecognized configuration parameter \"{name}\"");
        }
        values.push(found.cloned());
    }
    Ok(Arc::new(StringArray::from(values)))
}

/// PostgreSQL's rule: the unit grows once the number is above 10 × 1024.
fn size_pretty(args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let Some(first) = args.first() else { return exec_err!("pg_size_pretty needs a number of bytes") };
    let sizes = cast(&first.to_array(rows)?, &DataType::Int64)?;
    let sizes = sizes.as_primitive::<Int64Type>();
    let texts = (0..sizes.len()).map(|at| sizes.is_valid(at).then(|| pretty(sizes.value(at))));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

fn pretty(bytes: i64) -> String {
    let mut size = i128::from(bytes);
    if size.abs() < 10 * 1024 {
        return format!("{size} bytes");
    }
    // Halves are kept until the last step, so that it rounds as PostgreSQL does.
    size >>= 9;
    for unit in ["kB", "MB", "GB", "TB"] {
        if size.abs() < 20 * 1024 - 1 {
            return format!("{} {unit}", (size + size.signum()) / 2);
        }
        size >>= 10;
    }
    format!("{} PB", (size + size.signum()) / 2)
}

/// The privilege is the last argument.
fn privilege(args: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let Some(last) = args.last() else { return exec_err!("a privilege is missing") };
    let wanted = strings(last, rows)?;
    let allowed = |text: &str| {
        text.split(',').any(|one| {
            let one = one.trim().to_uppercase();
            matches!(one.as_str(), "SELECT" | "USAGE" | "CONNECT" | "EXECUTE" | "MEMBER")
        })
    };
    Ok(Arc::new(wanted.as_string::<i32>().iter().map(|text| text.map(allowed)).collect::<BooleanArray>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_pretty_as_in_postgresql() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (10_485_247, "10239 kB"),
            (10_485_248, "10 MB"),
            (-12_000, "-12 kB"),
            (i64::MAX, "8192 PB"),
        ] {
            assert_eq!(pretty(bytes), text);
        }
    }
}
