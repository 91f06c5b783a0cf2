//! SQL functions beyond DataFusion's: ours, and those of `datafusion-functions-json` (with the operators `->`, `->>` and `?`)
//! for the columns that hold JSON. docs/sql.md lists them.
//!
//! Ours look at their arguments and at nothing else, so that rules may use them; what a site has to say (`site`) is given
//! when they are registered, and is part of the hash of the rules that ask for it. Text that is not what it should be
//! gives NULL: one bad row must not end a query. A constant that is wrong in the SQL itself is an error that names it.

mod policy;
pub mod site;

use arrow::array::{Array, ArrayRef, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_string_array;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::SessionContext;
use site::Site;
use std::sync::Arc;

/// Adds the functions to a session; rules use the same ones. Nobody is trusted: see [`register_site`].
pub fn register(session: &SessionContext) -> Result<()> {
    for function in policy::functions() {
        session.register_udf(function);
    }
    register_site(session, &Site::default());
    session.register_udf(super::to_char::to_char());
    for function in super::cloudtrail::functions() {
        session.register_udf(function);
    }
    // A clone shares its state.
    datafusion_functions_json::register_all(&mut session.clone())
}

/// Replaces the functions that ask the site.
pub fn register_site(session: &SessionContext, site: &Site) {
    for function in site::functions(site) {
        session.register_udf(function);
    }
}

/// A function of `N` texts to a truth value; NULL for what `judge` cannot tell and where a text is NULL.
fn truth<const N: usize>(
    name: &str,
    judge: impl Fn([&str; N]) -> Result<Option<bool>> + Send + Sync + 'static,
) -> ScalarUDF {
    function(name, DataType::Boolean, judge, |values| {
        Arc::new(values.into_iter().collect::<BooleanArray>()) as ArrayRef
    })
}

/// A function of `N` texts to a text.
fn text<const N: usize>(
    name: &str,
    tell: impl Fn([&str; N]) -> Result<Option<String>> + Send + Sync + 'static,
) -> ScalarUDF {
    function(name, DataType::Utf8, tell, |values| Arc::new(values.into_iter().collect::<StringArray>()) as ArrayRef)
}

fn function<const N: usize, T: Clone + 'static>(
    name: &str,
    returns: DataType,
    one: impl Fn([&str; N]) -> Result<Option<T>> + Send + Sync + 'static,
    array: impl Fn(Vec<Option<T>>) -> ArrayRef + Send + Sync + 'static,
) -> ScalarUDF {
    let run = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let columns: Vec<&StringArray> = arrays.iter().map(|array| as_string_array(array)).collect::<Result<_>>()?;
        let rows = arrays.first().map_or(0, |array| array.len());
        let mut values: Vec<Option<T>> = Vec::with_capacity(rows);
        // Neighbouring rows often hold the same policy: a join repeats it, a column of constants too.
        let mut last: Option<([&str; N], Option<T>)> = None;
        for row in 0..rows {
            let mut texts = [""; N];
            let mut known = true;
            for (text, column) in texts.iter_mut().zip(&columns) {
                known &= column.is_valid(row);
                *text = column.value(row);
            }
            values.push(match &last {
                _ if !known => None,
                Some((before, value)) if *before == texts => value.clone(),
                _ => {
                    let value = one(texts)?;
                    last = Some((texts, value.clone()));
                    value
                }
            });
        }
        let values = array(values);
        let scalar = arguments.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?),
            false => ColumnarValue::Array(values),
        })
    };
    create_udf(name, vec![DataType::Utf8; N], returns, Volatility::Immutable, Arc::new(run))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow::array::AsArray as _;
    use arrow::util::display::array_value_to_string;

    const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::111122223333:root","arn:aws:iam::444455556666:role/app","arn:aws:iam::777788889999:root"]},"Action":"kms:*","Resource":"*"}]}"#;

    fn session() -> SessionContext {
        let session = SessionContext::new();
        register(&session).unwrap();
        session
    }

    async fn ask(session: &SessionContext, sql: &str) -> Result<String> {
        let batches = session.sql(&format!("SELECT {sql}")).await?.collect().await?;
        let column = batches[0].column(0);
        Ok(if column.is_null(0) { "NULL".to_owned() } else { array_value_to_string(column, 0)? })
    }

    #[tokio::test]
    async fn the_functions_answer() {
        let mut site = Site::default();
        site.trust("444455556666").unwrap();
        let session = session();
        register_site(&session, &site);
        let smaller = POLICY.replace(r#","arn:aws:iam::777788889999:root""#, "");
        for (sql, expected) in [
            ("arn_account('arn:aws:kms:eu-west-1:111122223333:key/1')".to_owned(), "111122223333"),
            ("arn_account('ec2.amazonaws.com')".to_owned(), "NULL"),
            ("arn_account(NULL)".to_owned(), "NULL"),
            ("is_trusted_account('444455556666')".to_owned(), "true"),
            ("is_trusted_account('777788889999')".to_owned(), "false"),
            ("is_trusted_account('nobody')".to_owned(), "NULL"),
            ("cidr_match('10.1.2.3', '10.0.0.0/8')".to_owned(), "true"),
            ("cidr_match('192.0.2.1', '10.0.0.0/8, 2001:db8::/32')".to_owned(), "false"),
            ("cidr_match('2001:db8::1', '10.0.0.0/8,2001:db8::/32')".to_owned(), "true"),
            ("cidr_match('AWS Internal', '10.0.0.0/8')".to_owned(), "NULL"),
            ("client_ip('2001:db8::1')".to_owned(), "2001:db8::1"),
            ("client_ip('ec2.amazonaws.com')".to_owned(), "NULL"),
            (format!("policy_locks_out('{POLICY}', '111122223333')"), "false"),
            (format!("policy_locks_out('{POLICY}', '222222222222')"), "true"),
            ("policy_locks_out('no policy', '222222222222')".to_owned(), "NULL"),
            (format!("policy_accounts('{POLICY}')"), r#"["111122223333","444455556666","777788889999"]"#),
            (format!("policy_untrusted_accounts('{POLICY}', '111122223333')"), r#"["777788889999"]"#),
            (format!("policy_untrusted_accounts('{smaller}', '111122223333')"), "[]"),
            (
                format!("policy_grants('{POLICY}', 'kms:Decrypt', 'arn:aws:iam::4*:role/*')"),
                r#"[{"principal":"arn:aws:iam::444455556666:role/app"}]"#,
            ),
            (format!("policy_grants('{POLICY}', 'kms:Decrypt', 'nobody')"), "[]"),
            ("policy_grants('{}', 'kms:Decrypt', '*')".to_owned(), "NULL"),
            (
                format!("policy_diff('{smaller}', '{POLICY}')"),
                r#"{"added":[{"principal":"777788889999","actions":["kms:*"]}],"removed":[]}"#,
            ),
            (format!("policy_diff(NULL, '{POLICY}')"), "NULL"),
            (format!("policy_lets_in('{smaller}', '{POLICY}')"), r#"["777788889999"]"#),
            (format!("policy_lets_in('{POLICY}', '{smaller}')"), "[]"),
            (format!("policy_new_untrusted_accounts('', '{POLICY}', '111122223333')"), r#"["777788889999"]"#),
            (format!("policy_new_untrusted_accounts('{{', '{POLICY}', '111122223333')"), r#"["777788889999"]"#),
            (format!("policy_new_untrusted_accounts('{POLICY}', '{POLICY}', '111122223333')"), "[]"),
            (format!("policy_new_untrusted_accounts('{smaller}', '{POLICY}', '777788889999')"), "[]"),
            (
                "arn_role('arn:aws:sts::111122223333:assumed-role/app/one')".to_owned(),
                "arn:aws:iam::111122223333:role/app",
            ),
            ("arn_role('ec2.amazonaws.com')".to_owned(), "ec2.amazonaws.com"),
        ] {
            assert_eq!(ask(&session, &sql).await.unwrap(), expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_wrong_constant_is_named() {
        let session = session();
        for (sql, named) in [
            ("cidr_match('10.1.2.3', '10.0.0.0/33')".to_owned(), "10.0.0.0/33"),
            (format!("cidr_match('10.1.2.3', '{}')", "10.0.0.0/8,".repeat(5_000)), "networks"),
            (format!("policy_grants('{POLICY}', 'kms:Decript', '*')"), "kms:Decript"),
            (format!("policy_locks_out('{POLICY}', 'me')"), "'me' is no account"),
        ] {
            let error = ask(&session, &sql).await.unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[tokio::test]
    async fn columns_are_judged_row_by_row() {
        let session = session();
        let sql = format!(
            "SELECT policy_is_public(p) AS public FROM (VALUES ('{POLICY}'), (NULL), ('{}'), ('nonsense')) AS t(p)",
            POLICY.replace(r#"{"AWS":["arn:aws:iam::111122223333:root","arn:aws:iam::444455556666:role/app","arn:aws:iam::777788889999:root"]}"#, r#""*""#)
        );
        let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
        let column = batches[0].column(0).as_boolean();
        assert_eq!(column.iter().collect::<Vec<_>>(), [Some(false), None, Some(true), None]);
    }
}
