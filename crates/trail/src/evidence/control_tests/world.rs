//! A small log in which everything that controls look at happens, and happens as it should.

use crate::evidence::control::Period;
use crate::evidence::state::{self, Access};
use crate::lake::{Lake, LakeOptions};
use crate::land::{Landed, VerifiedFrame};
use bytes::Bytes;
use keytrail_kms::chain::leaf::payload_digest;
use keytrail_kms::chain::{Kind, Leaf, Link, LogId};
use keytrail_kms::clock::FakeClock;
use keytrail_kms::journal::Frame;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

/// 2026-01-05T12:00:00Z.
pub(super) const START_US: i64 = 1_767_614_400_000_000;
pub(super) const DAY_US: i64 = 86_400_000_000;
pub(super) const SECOND_US: i64 = 1_000_000;

const ORIGIN: &str = "keytrail/test/node-0123456789abcdef";
const ACCOUNT: &str = "111122223333";

pub(super) struct World {
    /// Microseconds after the start, kind, payload.
    records: Vec<(i64, Kind, Value)>,
    pub(super) alerts: Vec<Value>,
    pub(super) incidents: Vec<Value>,
    pub(super) access: Vec<Access>,
    erased: Option<usize>,
}

pub(super) fn arn(user: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{user}")
}

pub(super) fn key(id: &str) -> String {
    format!("arn:aws:kms:eu-central-1:{ACCOUNT}:key/{id}")
}

/// A call by a user; administrators have a second factor.
pub(super) fn call(name: &str, user: &str, key_id: Option<&str>) -> Value {
    let mfa = if user == "app" { "false" } else { "true" };
    let read_only =
        matches!(name, "Decrypt" | "Encrypt" | "Sign" | "GenerateDataKey" | "GetFrames" | "GetParametersForImport");
    let resources: Vec<Value> =
        key_id.iter().map(|id| json!({"ARN": key(id), "accountId": ACCOUNT, "type": "AWS::KMS::Key"})).collect();
    json!({
        "eventVersion": "1.11",
        "userIdentity": {"type": "IAMUser", "principalId": format!("AIDA{user}"), "arn": arn(user), "accountId": ACCOUNT,
            "accessKeyId": format!("AKIA{user}"), "userName": user, "sessionContext": {"attributes": {"mfaAuthenticated": mfa}}},
        "eventSource": "kms.amazonaws.com", "eventName": name, "awsRegion": "eu-central-1", "sourceIPAddress": "192.0.2.10",
        "userAgent": "test", "requestParameters": {}, "responseElements": null, "additionalEventData": {},
        "readOnly": read_only, "resources": resources, "eventType": "AwsApiCall", "managementEvent": true,
        "recipientAccountId": ACCOUNT, "eventCategory": "Management",
    })
}

pub(super) fn service(name: &str, key_id: Option<&str>) -> Value {
    let mut event = call(name, "nobody", key_id);
    event["userIdentity"] = json!({"accountId": ACCOUNT, "invokedBy": "AWS Internal"});
    event["eventType"] = "AwsServiceEvent".into();
    event["sourceIPAddress"] = "AWS Internal".into();
    event
}

pub(super) fn image(id: &str, state: &str, origin: &str) -> Value {
    json!({"keyArn": key(id), "account": ACCOUNT, "region": "eu-central-1", "keyId": id, "keyState": state, "keySpec": "SYMMETRIC_DEFAULT",
        "keyUsage": "ENCRYPT_DECRYPT", "origin": origin, "keyManager": "CUSTOMER", "createdAt": "2026-01-05T12:00:00Z",
        "tags": {"data": "ephi"}, "policySha256": "00", "keyMaterialId": "11"})
}

pub(super) fn start(epoch: u64, reached: bool) -> Value {
    json!({"recordVersion": 1, "epoch": epoch, "origin": ORIGIN, "priorSize": 0, "build": "0.1.0", "configHash": "aa", "identitiesHash": "bb",
        "repliesUnknown": null, "droppedBatch": null, "kafka": {"reached": reached, "comparedSize": 0}})
}

pub(super) fn heartbeat(offset_us: i64) -> Value {
    json!({"recordVersion": 1, "clockOffsetMicros": offset_us, "keys": 2})
}

pub(super) fn alert(id: &str, severity: &str) -> Value {
    let at = START_US + 300 * SECOND_US;
    json!({"alertVersion": 1, "alertId": id, "revision": 0, "ruleId": "denied-burst", "ruleKind": "threshold", "severity": severity,
        "title": "Many denials", "log": LogId::of_origin(ORIGIN).to_string(), "firstEventMicros": at, "lastEventMicros": at,
        "detectedAtMicros": at + SECOND_US, "matched": 12})
}

pub(super) fn incident(alert: &str, state: &str) -> Value {
    json!({"summary": {"id": format!("I-{alert}"), "state": state, "severity": "high", "title": "Many denials", "principal": arn("mallory"),
        "opened_us": START_US + 302 * SECOND_US, "changed_us": START_US + 303 * SECOND_US}, "alerts": [{"alert_id": alert}]})
}

impl World {
    pub(super) fn clean() -> Self {
        let access = Access {
            key_arn: key("k-1"),
            principal: arn("app"),
            class: "use".to_owned(),
            actions: "kms:Decrypt".to_owned(),
            through: "IdentityPolicy/app/0".to_owned(),
            conditions: String::new(),
            unknown: false,
        };
        let mut world = Self {
            records: Vec::new(),
            alerts: vec![alert("a-1", "high")],
            incidents: vec![incident("a-1", "contained")],
            access: vec![access],
            erased: None,
        };
        world.everyday();
        world.changes();
        world
    }

    fn everyday(&mut self) {
        self.at(0, Kind::EpochStart, start(1, true));
        for second in [1, 11, 21, 31] {
            self.at(second, Kind::Heartbeat, heartbeat(10));
        }
        self.at(2, Kind::Event, {
            let mut event = service("LoadIdentities", None);
            event["eventSource"] = "keytrail.internal".into();
            event
        });
        for second in 25..30 {
            self.at(second, Kind::Event, decrypt("app", "k-1"));
        }
        self.at(28, Kind::Event, decrypt("app", "k-2"));
        let mut denied = decrypt("mallory", "k-1");
        denied["errorCode"] = "AccessDenied".into();
        self.at(30, Kind::Event, denied);
        let mut frames = call("GetFrames", "trail", None);
        frames["userIdentity"]["arn"] = format!("arn:aws:iam::{ACCOUNT}:keytrail/trail").into();
        frames["eventSource"] = "keytrail.internal".into();
        self.at(31, Kind::Event, frames);
        self.at(32, Kind::Refusals, json!({"recordVersion": 1, "unauthenticated": 3, "unavailable": 0}));
    }

    fn changes(&mut self) {
        let mut user = call("CreateUser", "administrator", None);
        user["eventSource"] = "iam.amazonaws.com".into();
        user["requestParameters"] = json!({"userName": "carol"});
        self.at(3, Kind::Event, user);
        for id in ["k-1", "k-2"] {
            self.at(4, Kind::Event, change("CreateKey", "keymaker", id, "Enabled"));
        }
        let mut imported = change("CreateKey", "keymaker", "k-3", "PendingImport");
        imported["additionalEventData"]["after"] = image("k-3", "PendingImport", "EXTERNAL");
        self.at(5, Kind::Event, imported);
        self.at(6, Kind::Event, call("GetParametersForImport", "administrator", Some("k-3")));
        let mut import = change("ImportKeyMaterial", "keymaker", "k-3", "Enabled");
        import["additionalEventData"]["after"] = image("k-3", "Enabled", "EXTERNAL");
        self.at(7, Kind::Event, import);
        self.at(8, Kind::Event, alias("CreateAlias", "administrator", "k-1"));
        self.at(9, Kind::Event, grant("administrator", "app"));
        let mut policy = change("PutKeyPolicy", "administrator", "k-1", "Enabled");
        policy["additionalEventData"]["policy"] = key_policy(&arn("app")).into();
        self.at(10, Kind::Event, policy);
        let mut request = change("ScheduleKeyDeletion", "administrator", "k-2", "PendingDeletion");
        request["requestParameters"] = json!({"keyId": key("k-2"), "pendingWindowInDays": 7});
        self.at(40, Kind::Event, request);
        let mut gone = service("DeleteKey", Some("k-2"));
        gone["readOnly"] = false.into();
        gone["additionalEventData"] = json!({"before": image("k-2", "PendingDeletion", "AWS_KMS")});
        self.at(40 + 8 * 86_400, Kind::Event, gone);
        self.at(41 + 8 * 86_400, Kind::Stop, json!({"recordVersion": 1, "epoch": 1}));
    }

    /// Adds a record so many seconds after the start.
    pub(super) fn at(&mut self, seconds: i64, kind: Kind, payload: Value) {
        self.records.push((seconds * SECOND_US, kind, payload));
    }

    /// A call in the middle of the period.
    pub(super) fn call(&mut self, event: Value) {
        self.at(50, Kind::Event, event);
    }

    /// Takes the payload of one event away, as an erasure or a redaction does.
    pub(super) fn erase_one(&mut self) {
        self.erased = Some(9);
    }

    /// The payload folder of a pack of this log.
    pub(super) async fn pack(mut self, period: &Period) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (lake_dir, data) = (dir.path().join("lake"), dir.path());
        let (mut lake, _) = Lake::open(&lake_dir, LakeOptions::default(), Arc::new(FakeClock::default())).unwrap();
        let frames = self.frames();
        let last = BTreeMap::from([(LogId::of_origin(ORIGIN), frames.len() as u64)]);
        lake.append(&Landed { log: LogId::of_origin(ORIGIN), first_seq: 0, frames }).unwrap();
        lake.flush().await.unwrap();
        let snapshot = lake.snapshot();
        for file in snapshot.files() {
            let path = data.join("parquet").join(file.path.trim_start_matches("data/"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::copy(lake_dir.join(&file.path), &path).unwrap();
            if let Some(seq) = self.erased {
                without_payload(&path, seq);
            }
        }
        std::fs::create_dir_all(data.join("parquet")).unwrap();
        std::fs::create_dir(data.join("state")).unwrap();
        let cut = state::Cut { last: &last, period, withheld: None };
        state::write(&snapshot, &cut, &mut self.access, &data.join("state")).await.unwrap();
        std::fs::create_dir(data.join("alerts")).unwrap();
        let lines = |values: &[Value]| values.iter().map(|value| format!("{value}\n")).collect::<String>();
        std::fs::write(data.join("alerts/alerts.jsonl"), lines(&self.alerts)).unwrap();
        std::fs::write(data.join("alerts/incidents.jsonl"), lines(&self.incidents)).unwrap();
        dir
    }

    fn frames(&mut self) -> Vec<VerifiedFrame> {
        self.records.sort_by_key(|(at, ..)| *at);
        let (mut prev, mut epoch) = (Link::ZERO, 0);
        let mut frames = Vec::new();
        for (seq, (at, kind, payload)) in self.records.iter_mut().enumerate() {
            epoch += u64::from(*kind == Kind::EpochStart);
            if *kind == Kind::Event && payload.get("eventID").is_none() {
                payload["eventID"] = format!("e-{seq}").into();
            }
            let payload = Bytes::from(payload.to_string());
            let salt = [7; 16];
            let leaf = Leaf {
                log: LogId::of_origin(ORIGIN),
                epoch,
                seq: seq as u64,
                kind: *kind,
                time_us: u64::try_from(START_US + *at).unwrap(),
                payload_len: u32::try_from(payload.len()).unwrap(),
                payload_digest: payload_digest(&salt, &payload),
                prev,
            };
            let frame = Frame { leaf: leaf.encode(), salt, payload };
            prev = frame.link();
            frames.push(VerifiedFrame { leaf, frame });
        }
        frames
    }
}

pub(super) fn decrypt(user: &str, id: &str) -> Value {
    let mut event = call("Decrypt", user, Some(id));
    event["requestParameters"] = json!({"encryptionAlgorithm": "SYMMETRIC_DEFAULT", "keyId": key(id)});
    event
}

/// A change of a key, with its image after it.
pub(super) fn change(name: &str, user: &str, id: &str, state: &str) -> Value {
    let mut event = call(name, user, Some(id));
    event["additionalEventData"] = json!({"before": {"keyState": "Enabled"}, "after": image(id, state, "AWS_KMS")});
    if name == "CreateKey" {
        event["additionalEventData"]["before"] = Value::Null;
    }
    event
}

pub(super) fn alias(name: &str, user: &str, id: &str) -> Value {
    let mut event = call(name, user, Some(id));
    let alias = format!("arn:aws:kms:eu-central-1:{ACCOUNT}:alias/pay");
    event["resources"]
        .as_array_mut()
        .unwrap()
        .push(json!({"ARN": alias, "accountId": ACCOUNT, "type": "AWS::KMS::Alias"}));
    event
}

pub(super) fn grant(user: &str, grantee: &str) -> Value {
    let mut event = call("CreateGrant", user, Some("k-1"));
    event["requestParameters"] =
        json!({"keyId": key("k-1"), "granteePrincipal": arn(grantee), "operations": ["Decrypt"]});
    event["additionalEventData"] = json!({"after": {"grantId": "g-1", "targetKeyArn": key("k-1"), "granteePrincipal": arn(grantee),
        "issuingAccount": ACCOUNT, "operations": ["Decrypt"]}});
    event
}

pub(super) fn key_policy(principal: &str) -> String {
    json!({"Version": "2012-10-17", "Statement": [{"Sid": "Use", "Effect": "Allow", "Principal": {"AWS": principal}, "Action": "kms:Decrypt", "Resource": "*"}]}).to_string()
}

/// Rewrites a file with the columns of one row empty, as a pack has a record whose payload is not in it.
fn without_payload(path: &std::path::Path, seq: usize) {
    use arrow::array::{Array, new_null_array};
    use arrow::compute::concat;
    let file = std::fs::File::open(path).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    let batch = arrow::compute::concat_batches(&schema, &batches).unwrap();
    let rows = batch.num_rows();
    let mut columns = Vec::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let column = batch.column(index).clone();
        if !field.is_nullable() {
            columns.push(column);
            continue;
        }
        let null = new_null_array(column.data_type(), 1);
        let after = column.slice(seq + 1, rows - seq - 1);
        columns.push(concat(&[&column.slice(0, seq), &null, &after]).unwrap());
    }
    let batch = arrow::array::RecordBatch::try_new(schema.clone(), columns).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
