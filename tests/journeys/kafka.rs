//! Journeys through a real Apache Kafka broker: loss of the broker under load, forged records in the topics.
//!
//! `make test` sets KEYTRAIL_TEST_BROKERS when Kafka could be installed; each journey then starts a broker of its own
//! with scripts/kafka. Without it they say loudly that they did not run, and with CI=true that is a failure.

use crate::support::{Caller, Folder, text, wait_for};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A broker with data of its own, stopped when the test ends.
pub(crate) struct Broker {
    folder: TempDir,
    pub(crate) address: String,
}

impl Broker {
    /// Nothing when Kafka is not installed.
    pub(crate) fn start() -> Option<Self> {
        if std::env::var_os("KEYTRAIL_TEST_BROKERS").is_none() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "Kafka journeys cannot run: use `make test`");
            eprintln!("KAFKA JOURNEY DID NOT RUN: no broker, use `make test`");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let address = script(&["start"], folder.path(), &[]);
        Some(Self { folder, address })
    }

    fn kill(&self) {
        script(&["kill"], self.folder.path(), &[]);
    }

    fn start_again(&self) {
        let port = self.address.rsplit(':').next().unwrap();
        assert_eq!(script(&["start"], self.folder.path(), &[port]), self.address);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
        let _ = Command::new(script).arg("kill").arg(self.folder.path()).output();
    }
}

fn script(verb: &[&str], folder: &Path, more: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let out = Command::new(script).args(verb).arg(folder).args(more).output().unwrap();
    assert!(out.status.success(), "scripts/kafka {verb:?}: {}", text(&out.stderr));
    text(&out.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_broker_that_dies_under_load_fails_no_call_and_loses_nothing() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let up = folder.up(&["--brokers", &broker.address]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let context = json!({ "tenant": "1" });
    let blob = admin.encrypt(&key, &context);
    let mut answered = 0;
    let mut load = |calls: u32| {
        for _ in 0..calls {
            admin.decrypt(&blob, &context).expect("no call fails");
            answered += 1;
        }
    };
    load(50);
    broker.kill();
    load(500);
    broker.start_again();
    load(50);
    let count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events WHERE event_name = 'Decrypt'";
    wait_for("the lake to catch up", || {
        let row = folder.sql(count).remove(0);
        assert!(row["n"].as_i64() <= Some(answered), "more events than calls: {row}");
        (row["n"] == answered && row["ids"] == answered).then_some(())
    });
    up.stop();
    folder.assert_verified();
}

#[test]
fn forged_records_in_the_topics_lead_to_no_action() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let up = folder.up(&["--enforce", "--brokers", &broker.address]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let log = wait_for("the first records", || {
        let row = folder.sql("SELECT DISTINCT log FROM records").pop()?;
        Some(row["log"].as_str()?.to_owned())
    });

    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &broker.address).create().unwrap();
    let event = json!({ "eventName": "PutKeyPolicy", "eventSource": "kms.amazonaws.com",
        "resources": [{ "ARN": key, "accountId": "123456789012", "type": "AWS::KMS::Key" }] });
    let alert =
        json!({ "alertVersion": 1, "ruleId": "key-policy-public", "severity": "critical", "row": { "key_arn": key } });
    for (topic, value) in [("keytrail.audit", &event), ("keytrail.alerts", &alert)] {
        let value = value.to_string();
        producer.send(BaseRecord::to(topic).key(&log).payload(&value)).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();

    // A true incident behind them proves that they were read and passed over.
    let other = admin.create_key(json!([]));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": other, "PendingWindowInDays": 7 })).unwrap();
    wait_for("the true alert's action", || (admin.key_state(&other) == "Enabled").then_some(()));
    assert_eq!(admin.key_state(&key), "Enabled");
    up.stop();
    let id = key.rsplit('/').next().unwrap();
    let rows = folder.sql(&format!(
        "SELECT event_name FROM events WHERE actor_class = 'responder' AND key_arn LIKE '%{id}' AND read_only = false"
    ));
    assert!(rows.is_empty(), "{rows:?}");
    folder.assert_verified();
}
