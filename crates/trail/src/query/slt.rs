//! How SQL behaves, as sqllogictest files in `slt/`: functions, types, NULLs, times, tables over a small log, refusals.
//!
//! `values*.slt` need no log and are run through PostgreSQL's protocol, too, by tests/clients/test_sql_logic.py.
//! With KEYTRAIL_SLT=write the answers in the files are written anew, to be read in review.

#![allow(clippy::unwrap_used)]

use super::{Limits, gate, open_folder, run, run::Cancel, session};
use crate::lake::snapshot::Snapshot;
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use keytrail_kms::chain::{Kind, LogId};
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::{Draft, Journal, JournalOptions};
use serde_json::{Value, json};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use std::path::Path;
use std::sync::Arc;

const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-00000000000a";

/// A call of a small log.
fn call(name: &str, time: &str, more: Value) -> Value {
    let mut event = json!({
        "eventVersion": "1.11", "eventTime": time, "eventSource": "kms.amazonaws.com", "eventName": name,
        "awsRegion": "eu-west-1", "sourceIPAddress": "192.0.2.10", "userAgent": "aws-cli/2", "readOnly": true,
        "userIdentity": {
            "type": "IAMUser", "principalId": "AIDAALICE", "arn": "arn:aws:iam::111122223333:user/alice",
            "accountId": "111122223333", "accessKeyId": "AKIAALICE", "userName": "alice",
        },
        "requestParameters": {"keyId": KEY}, "responseElements": null, "eventType": "AwsApiCall",
        "eventID": format!("0199b000-0000-7000-8000-{:012}", time.bytes().map(u64::from).sum::<u64>()),
        "requestID": format!("req-{name}"), "recipientAccountId": "111122223333",
        "resources": [{"ARN": KEY, "accountId": "111122223333", "type": "AWS::KMS::Key"}],
        "additionalEventData": {"judgedAtMicros": 0, "decidedBy": "KeyPolicy/0"},
    });
    for (member, value) in more.as_object().unwrap() {
        event[member] = value.clone();
    }
    event
}

/// Eight calls of four principals within two days, and a record that is no event.
async fn log(dir: &Path) -> Arc<Snapshot> {
    let log = LogId::of_origin("keytrail/test/node-0123456789abcdef");
    let clock = Arc::new(FakeClock::default());
    let journal = Journal::open(&dir.join("journal"), log, clock.clone(), JournalOptions::default()).unwrap().0;
    let app = json!({
        "type": "AssumedRole", "principalId": "AROAAPP:i-1", "arn": "arn:aws:sts::111122223333:assumed-role/app/i-1",
        "accountId": "111122223333", "accessKeyId": "ASIAAPP",
    });
    let root = json!({"type": "Root", "principalId": "111122223333", "arn": "arn:aws:iam::111122223333:root", "accountId": "111122223333"});
    let mut invoked = app.clone();
    invoked["invokedBy"] = "s3.amazonaws.com".into();
    let context = json!({"keyId": KEY, "encryptionContext": {"tenant": "blue"}});
    let calls = [
        call(
            "CreateKey",
            "2026-01-05T12:00:00Z",
            json!({"readOnly": false, "requestParameters": {"description": "one"}}),
        ),
        call("Encrypt", "2026-01-05T12:05:00Z", json!({"requestParameters": context})),
        call("Decrypt", "2026-01-05T13:00:00Z", json!({"userIdentity": app, "sourceIPAddress": "203.0.113.9"})),
        call(
            "Decrypt",
            "2026-01-05T13:00:30Z",
            json!({
                "userIdentity": app, "errorCode": "AccessDenied", "errorMessage": "no", "sourceIPAddress": "2001:db8::9",
            }),
        ),
        call(
            "Decrypt",
            "2026-01-05T14:30:00Z",
            json!({
                "userIdentity": invoked, "sourceIPAddress": "AWS Internal", "userAgent": "AWS Internal",
            }),
        ),
        call(
            "ListKeys",
            "2026-01-06T00:00:00Z",
            json!({
                "userIdentity": root, "errorCode": "ThrottlingException", "resources": [], "requestParameters": null,
            }),
        ),
        call(
            "ScheduleKeyDeletion",
            "2026-01-06T11:00:00Z",
            json!({
                "readOnly": false, "requestParameters": {"keyId": KEY, "pendingWindowInDays": 7},
            }),
        ),
        call("DescribeKey", "2026-01-06T11:00:01Z", json!({"userAgent": null})),
    ];
    for call in calls {
        // The time of our own records is that of the leaf.
        let time: DateTime<Utc> = call["eventTime"].as_str().unwrap().parse().unwrap();
        clock.set(u64::try_from(time.timestamp_micros()).unwrap());
        let draft = Draft::new(Kind::Event, Bytes::from(call.to_string())).unwrap();
        journal.append(draft).unwrap().await.unwrap();
    }
    let heartbeat = Draft::new(Kind::Heartbeat, Bytes::from_static(br#"{"recordVersion":1}"#)).unwrap();
    journal.append(heartbeat).unwrap().await.unwrap();
    drop(journal);
    Arc::new(open_folder(dir).await.unwrap())
}

/// The engine behind the gate, as every door has it.
struct Engine(Arc<Snapshot>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl Engine {
    async fn answer(&self, sql: &str) -> Result<Vec<RecordBatch>, Failed> {
        let told = |error: &dyn std::error::Error| Failed(crate::describe(error).replace('\n', " "));
        let limits = Limits::default();
        let session = session(&self.0, &limits, None).map_err(|error| told(&error))?;
        let plan = gate::plan(&session, sql).await.map_err(|error| told(&error))?;
        let rows = run(&session, plan, &limits, Cancel::new()).map_err(|error| told(&error))?;
        rows.collect().await.map_err(|error| told(&error))
    }
}

#[async_trait]
impl AsyncDB for Engine {
    type Error = Failed;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failed> {
        let batches = self.answer(sql).await?;
        let Some(first) = batches.first() else {
            // No batch tells no columns; the file says `statement ok` or expects nothing.
            return Ok(DBOutput::Rows { types: Vec::new(), rows: Vec::new() });
        };
        let types = first.schema().fields().iter().map(|field| kind(field.data_type())).collect();
        let options = FormatOptions::default().with_null("NULL").with_types_info(false);
        let mut rows = Vec::new();
        for batch in &batches {
            let columns: Vec<_> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let text = |column: &ArrayFormatter<'_>| match column.value(row).to_string() {
                    empty if empty.is_empty() => "(empty)".to_owned(),
                    text => text,
                };
                rows.push(columns.iter().map(text).collect());
            }
        }
        Ok(DBOutput::Rows { types, rows })
    }

    async fn shutdown(&mut self) {}
}

fn kind(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => DefaultColumnType::Text,
        of if of.is_integer() => DefaultColumnType::Integer,
        of if of.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Any,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_behaves_as_the_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = log(dir.path()).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/query/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    let types = sqllogictest::strict_column_validator::<DefaultColumnType>;
    for file in files {
        let mut runner = Runner::new(|| async { Ok(Engine(snapshot.clone())) });
        runner.with_column_validator(types);
        if std::env::var("KEYTRAIL_SLT").is_ok_and(|wish| wish == "write") {
            let (validator, normalizer) = (sqllogictest::default_validator, sqllogictest::default_normalizer);
            runner.update_test_file(&file, " ", validator, normalizer, types).await.unwrap();
        } else if let Err(error) = runner.run_file_async(&file).await {
            panic!("{}: {}", file.display(), error.display(false));
        }
    }
}
