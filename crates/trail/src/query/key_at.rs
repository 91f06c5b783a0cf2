//! `key_at(key_arn, time)`: a key as it was at a time, folded from the log up to then, with its policy and last use.
//!
//! A table function of SQL sessions: `SELECT key_state FROM key_at('arn:..', '2026-01-05T12:00:00Z')`. One row, or none when
//! the key did not exist yet. Rules cannot use it: they see events, not the past. It costs a look at all events of the key.

use super::tables::{key_row, schema, table, text, time, times};
use crate::lake::fold::Folded;
use crate::lake::schema::ZONE;
use crate::lake::snapshot::Snapshot;
use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Its name in SQL.
pub(crate) const NAME: &str = "key_at";

/// Longest ARN taken.
const ARN_BYTES_MAX: usize = 2_048;

/// The function over one snapshot.
#[derive(Debug)]
pub(crate) struct KeyAt(pub(crate) Arc<Snapshot>);

impl TableFunctionImpl for KeyAt {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let [Expr::Literal(key_arn, _), Expr::Literal(when, _)] = args.exprs() else {
            return plan_err!("key_at takes the ARN of a key and a time, both constant");
        };
        let Some(Some(key_arn)) = key_arn.try_as_str() else { return plan_err!("key_at: the ARN is not text") };
        if key_arn.len() > ARN_BYTES_MAX || key_arn.contains(['\'', '\\']) {
            return plan_err!("key_at: that is no ARN of a key");
        }
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into()));
        let when = cast(&when.to_array()?, &micros)?;
        let Some(time_us) = when.as_primitive::<TimestampMicrosecondType>().iter().next().flatten() else {
            return plan_err!("key_at: the time is not one");
        };
        let Some(at) = DateTime::from_timestamp_micros(time_us) else { return plan_err!("key_at: no such time") };
        let at = at.to_rfc3339_opts(SecondsFormat::Micros, true);
        Ok(Arc::new(Key { snapshot: self.0.clone(), key_arn: key_arn.to_owned(), at }))
    }
}

#[derive(Debug)]
struct Key {
    snapshot: Arc<Snapshot>,
    key_arn: String,
    /// RFC 3339.
    at: String,
}

#[async_trait]
impl TableProvider for Key {
    fn schema(&self) -> SchemaRef {
        let mut columns = key_row(&Folded::default(), "").0;
        columns.extend([text("policy"), time("last_used_at")]);
        schema(&columns.into_iter().map(|field: Field| field.with_nullable(true)).collect::<Vec<_>>())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let until = format!("key_arn = '{}' AND event_time <= '{}'", self.key_arn, self.at);
        let folded = Folded::until(&self.snapshot, &until).await?;
        let (_, mut columns) = key_row(&folded, &self.key_arn);
        let rows = columns.first().map_or(0, |column| column.len());
        let policy = folded.policies.iter().rfind(|policy| policy.key_arn == self.key_arn);
        let policy = policy.map(|policy| policy.policy.clone());
        let last = if rows == 0 { None } else { self.last_used(&until).await? };
        columns.push(Arc::new((0..rows).map(|_| policy.clone()).collect::<StringArray>()) as ArrayRef);
        columns.push(times((0..rows).map(|_| last)));
        table(RecordBatch::try_new(self.schema(), columns)?, projection, limit)
    }
}

impl Key {
    /// When the key last did cryptography, Unix microseconds.
    async fn last_used(&self, until: &str) -> Result<Option<i64>> {
        let session = super::session(&self.snapshot, &super::Limits::default(), None)?;
        let sql = format!(
            "SELECT max(event_time) FROM events WHERE {until} AND error_code IS NULL AND event_name IN
               ('Decrypt', 'DeriveSharedSecret', 'Encrypt', 'GenerateDataKey', 'GenerateDataKeyPair',
                'GenerateDataKeyPairWithoutPlaintext', 'GenerateDataKeyWithoutPlaintext', 'GenerateMac', 'ReEncrypt',
                'Sign', 'Verify', 'VerifyMac')"
        );
        let batches = session.sql(&sql).await?.collect().await?;
        let column = batches.first().and_then(|batch| batch.column(0).as_primitive_opt::<TimestampMicrosecondType>());
        Ok(column.and_then(|column| column.iter().next().flatten()))
    }
}
