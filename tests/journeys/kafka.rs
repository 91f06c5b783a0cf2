//! Journeys through a real Apache Kafka broker: loss of the broker under load, forged records in the topics.
//!
//! `make test` sets KEYTRAIL_TEST_BROKERS when Kafka could be installed; each journey then starts a broker of its own
//! with scripts/kafka. Without it they say loudly that they did not run, and with CI=true that is a failure.

use crate::crash::{assert_recorded_once, crash_at};
use crate::support::{Caller, Folder, Running, child_pid, keytrail, signal, text, wait_for};
use keytrail_kms::chain::leaf::{link, payload_digest};
use keytrail_kms::chain::{Kind, LEAF_BYTES, Leaf};
use keytrail_kms::journal::{Frame, Reader};
use keytrail_kms::topics::{ALERTS, AUDIT, CHECKPOINTS, HEADER_LEAF, HEADER_SALT};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
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

/// Every message that the broker has in our topics.
fn messages(broker: &Broker) -> Vec<OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &broker.address)
        .set("group.id", "journey")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for topic in [AUDIT, CHECKPOINTS, ALERTS] {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).unwrap();
        for partition in metadata.topics()[0].partitions() {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
    }
    consumer.assign(&assignment).unwrap();
    let mut open = assignment.count();
    let mut messages = Vec::new();
    while open > 0 {
        match consumer.poll(Duration::from_secs(30)).expect("the broker answers") {
            Err(KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => panic!("{error}"),
            Ok(message) => messages.push(message.detach()),
        }
    }
    messages
}

/// Key, value and header values of every message, in one piece each.
pub(crate) fn message_bytes(broker: &Broker) -> Vec<Vec<u8>> {
    let bytes = |message: OwnedMessage| {
        let mut bytes = [message.key().unwrap_or_default(), message.payload().unwrap_or_default()].concat();
        for header in message.headers().iter().flat_map(|headers| headers.iter()) {
            bytes.extend(header.value.unwrap_or_default());
        }
        bytes
    };
    messages(broker).into_iter().map(bytes).collect()
}

/// The last record's leaf in the audit topic.
fn last_leaf(broker: &Broker) -> [u8; LEAF_BYTES] {
    let leaf = |message: &OwnedMessage| -> Option<[u8; LEAF_BYTES]> {
        let header = message.headers()?.iter().find(|header| header.key == HEADER_LEAF)?;
        header.value?.try_into().ok()
    };
    let leaves = messages(broker).iter().filter_map(leaf).collect::<Vec<_>>();
    leaves.into_iter().max_by_key(|leaf| Leaf::decode(leaf).unwrap().seq).expect("a record")
}

fn script(verb: &[&str], folder: &Path, more: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let out = Command::new(script).args(verb).arg(folder).args(more).output().unwrap();
    assert!(out.status.success(), "scripts/kafka {verb:?}: {}", text(&out.stderr));
    text(&out.stdout).lines().last().unwrap_or_default().to_owned()
}

/// How long the broker is away.
const OUTAGE: Duration = Duration::from_secs(60);
/// Between two calls meanwhile: a load that leaves the machine to the other journeys.
const PACE: Duration = Duration::from_millis(4);

#[test]
fn a_broker_that_is_away_for_a_minute_fails_no_call_and_loses_nothing() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let up = folder.up(&["--brokers", &broker.address]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let context = json!({ "tenant": "1" });
    let blob = admin.encrypt(&key, &context);
    let mut answered = 0;
    let mut call = || {
        admin.decrypt(&blob, &context).expect("no call fails");
        answered += 1;
    };
    (0..50).for_each(|_| call());
    broker.kill();
    let back = Instant::now() + OUTAGE;
    while Instant::now() < back {
        call();
        std::thread::sleep(PACE);
    }
    broker.start_again();
    (0..50).for_each(|_| call());
    let count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events WHERE event_name = 'Decrypt'";
    wait_for("the lake to catch up", || {
        let row = folder.sql(count).remove(0);
        assert!(row["n"].as_i64() <= Some(answered), "more events than calls: {row}");
        (row["n"] == answered && row["ids"] == answered).then_some(())
    });
    up.stop();
    folder.assert_verified();
}

/// Three brokers, each topic on all of them, stopped when the test ends.
struct Cluster {
    folder: TempDir,
    addresses: String,
}

impl Cluster {
    fn start() -> Option<Self> {
        std::env::var_os("KEYTRAIL_TEST_BROKERS")?;
        let folder = tempfile::tempdir().unwrap();
        let addresses = script(&["cluster"], folder.path(), &[]);
        Some(Self { folder, addresses })
    }

    fn broker(&self, id: u8) -> PathBuf {
        self.folder.path().join(id.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
        for id in 1..=3 {
            let _ = Command::new(&script).arg("kill").arg(self.broker(id)).output();
        }
    }
}

#[test]
fn one_of_three_brokers_is_lost_in_mid_run_and_detection_goes_on() {
    let Some(cluster) = Cluster::start() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "Kafka journeys cannot run: use `make test`");
        return eprintln!("KAFKA JOURNEY DID NOT RUN: no broker, use `make test`");
    };
    let folder = Folder::with_people();
    let file = folder.path().join("keytrail.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}\n[kafka]\nreplication = 3\n")).unwrap();
    let up = folder.up(&["--enforce", "--brokers", &cluster.addresses]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    let context = json!({ "tenant": "1" });
    let blob = admin.encrypt(&key, &context);
    let count = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events WHERE event_name = 'Decrypt'";
    let mut answered = 0;
    for lost in 1..=3 {
        // The broker goes while calls are being answered and shipped.
        let (stop, calls) = (AtomicBool::new(false), AtomicI64::new(0));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    admin.decrypt(&blob, &context).expect("no call fails");
                    calls.fetch_add(1, Ordering::AcqRel);
                    std::thread::sleep(PACE);
                }
            });
            wait_for("calls before the loss", || (calls.load(Ordering::Acquire) >= 50).then_some(()));
            script(&["kill"], &cluster.broker(lost), &[]);
            let at_loss = calls.load(Ordering::Acquire);
            wait_for("calls after the loss", || (calls.load(Ordering::Acquire) >= at_loss + 50).then_some(()));
            stop.store(true, Ordering::Release);
            load.join().expect("no call fails");
        });
        answered += calls.into_inner();
        wait_for("the lake to hold every call, through two brokers", || {
            let row = folder.sql(count).remove(0);
            assert!(row["n"].as_i64() <= Some(answered), "more events than calls: {row}");
            (row["n"] == answered && row["ids"] == answered).then_some(())
        });
        // Alerts travel through Kafka too.
        let doomed = admin.create_key(json!([]));
        admin.call("ScheduleKeyDeletion", json!({ "KeyId": doomed, "PendingWindowInDays": 7 })).unwrap();
        wait_for("the alert's action", || (admin.key_state(&doomed) == "Enabled").then_some(()));
        script(&["start"], &cluster.broker(lost), &[]);
    }
    up.stop();
    folder.assert_verified();
}

/// The first records of all runs, from the journal itself.
fn epoch_starts(folder: &Folder) -> Vec<Value> {
    let mut reader = Reader::open(&folder.path().join("journal"), 0).unwrap();
    let mut starts = Vec::new();
    loop {
        let frames = reader.next(1_000).unwrap();
        if frames.is_empty() {
            return starts;
        }
        let first = |frame: &Frame| Leaf::decode(&frame.leaf).unwrap().kind == Kind::EpochStart;
        starts.extend(
            frames.iter().filter(|frame| first(frame)).map(|frame| serde_json::from_slice(&frame.payload).unwrap()),
        );
    }
}

#[test]
fn a_folder_that_was_rolled_back_as_a_whole_is_refused() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let run = |folder: &Folder| {
        let up = folder.up(&["--brokers", &broker.address]);
        let admin = Caller::new(&up.field("kms"), folder.administrator());
        admin.create_key(json!([]));
        up.stop();
    };
    run(&folder);
    let old = folder.copy();
    run(&folder);
    let compared = &epoch_starts(&folder)[1]["kafka"];
    assert!(compared["comparedSize"].as_u64() > Some(0), "{compared}");

    // Everything in the old copy agrees with everything else in it.
    old.assert_verified();
    let kms = |brokers: &str| {
        let mut command = keytrail();
        command.args(["kms", "--listen", "127.0.0.1:0", "--brokers", brokers, "--data"]).arg(old.path());
        command
    };
    let refused = kms(&broker.address).output().unwrap();
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("journal was rolled back"), "{said}");
    assert_eq!(epoch_starts(&old).len(), 1, "a refused start writes nothing");

    // Kafka away: the node starts and says that it could not ask; when Kafka is back, it stops.
    broker.kill();
    let mut started = Running::start(&mut kms(&broker.address));
    broker.start_again();
    let status = wait_for("the node to stop", || started.child.try_wait().unwrap());
    assert!(!status.success(), "stopped in order");
    assert_eq!(epoch_starts(&old)[1]["kafka"], json!({ "reached": false }));
}

#[test]
fn a_crash_while_shipping_loses_and_doubles_nothing() {
    let Some(broker) = Broker::start() else { return };
    let brokers = ["--brokers", broker.address.as_str()];
    for (point, passes) in [("ship::before_produce", 60), ("ship::after_ack", 4)] {
        let folder = Folder::with_people();
        let acknowledged = crash_at(&folder, point, passes, &brokers);
        let up = folder.up(&brokers);
        // The last call before the stop is landed last: once it is there, all before it had their chance.
        let admin = Caller::new(&up.field("kms"), folder.administrator());
        let last = admin.request_id("ListKeys", json!({})).expect("service is back");
        wait_for("the lake to catch up", || {
            let found = folder.sql(&format!("SELECT seq FROM events WHERE request_id = '{last}'"));
            (!found.is_empty()).then_some(())
        });
        up.stop();
        folder.assert_verified();
        assert_recorded_once(&folder, point, &acknowledged);
    }
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

#[test]
fn a_record_linked_ahead_of_the_genuine_one_is_found_out_and_detection_goes_on() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let up = folder.up(&["--enforce", "--brokers", &broker.address]);
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let key = admin.create_key(json!([]));
    wait_for("the key to land", || (!folder.sql("SELECT key_arn FROM keys").is_empty()).then_some(()));

    // Somebody who can read and write the topic is faster than the node, which is held for that.
    let kms = child_pid(up.child.id(), "kms");
    signal(kms, "STOP");
    let last = last_leaf(&broker);
    let before = Leaf::decode(&last).unwrap();
    let public = include_str!("../../rules/fixtures/put-key-policy-public.json");
    let mut event: Value = serde_json::from_str(public).unwrap();
    event["resources"][0]["ARN"] = key.into();
    let payload = event.to_string();
    let salt = [7; 16];
    let forged = Leaf {
        seq: before.seq + 1,
        kind: Kind::Event,
        payload_len: u32::try_from(payload.len()).unwrap(),
        payload_digest: payload_digest(&salt, payload.as_bytes()),
        prev: link(&last),
        ..before
    };
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.address)
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: HEADER_SALT, value: Some(&salt) })
        .insert(Header { key: HEADER_LEAF, value: Some(&forged.encode()) });
    let log = before.log.to_string();
    let record = BaseRecord::to(AUDIT).key(&log).payload(&payload).headers(headers);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
    signal(kms, "CONT");

    let other = admin.create_key(json!([]));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": other, "PendingWindowInDays": 7 })).unwrap();
    wait_for("the true alert's action", || (admin.key_state(&other) == "Enabled").then_some(()));
    let alerts = folder.sql("SELECT DISTINCT rule_id FROM alerts ORDER BY rule_id");
    let rules = ["audit-chain-gap", "key-deletion-scheduled", "mfa-less-destructive"];
    assert_eq!(alerts, rules.map(|id| json!({ "rule_id": id })));
    up.stop();
    assert!(folder.sql("SELECT seq FROM events WHERE event_name = 'PutKeyPolicy'").is_empty());
    folder.assert_verified();
}

/// The broker dies while an incident is under way, people deal with it on the command line, and then the topic of alerts is
/// read again from its beginning.
#[test]
fn an_incident_through_kafka_outlives_its_broker_and_a_rewound_topic_repeats_nothing() {
    let Some(broker) = Broker::start() else { return };
    let folder = Folder::with_people();
    let start = || folder.up(&["--enforce", "--brokers", &broker.address]);
    let incident = |words: &[&str]| {
        let out = keytrail().arg("incident").args(words).arg("--data").arg(folder.path()).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
        text(&out.stdout)
    };
    let shown = |id: &str| serde_json::from_str::<Value>(&incident(&["show", id, "--json"])).unwrap();
    let insider_arn = "arn:aws:iam::123456789012:user/insider";
    let of_insider = || {
        let lines = incident(&["list", "--json"]);
        let all: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.into_iter().filter(|one| one["principal"] == insider_arn).collect::<Vec<_>>()
    };

    let up = start();
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let insider = Caller::person(&up.field("kms"), "insider");
    let key = admin.create_key(json!([{ "TagKey": "on-exposure", "TagValue": "disable" }]));
    let before = admin.policy(&key);
    let blob = admin.encrypt(&key, &json!({}));
    let everyone = json!({ "Version": "2012-10-17", "Statement": [{ "Sid": "Everyone", "Effect": "Allow",
        "Principal": "*", "Action": "kms:*", "Resource": "*" }] });
    insider.call("PutKeyPolicy", json!({ "KeyId": key, "Policy": everyone.to_string() })).expect("open the key");
    broker.kill();
    insider.decrypt(&blob, &json!({})).ok();
    broker.start_again();
    wait_for("the policy of before", || (admin.policy(&key) == before).then_some(()));
    wait_for("the key disabled", || (admin.key_state(&key) == "Disabled").then_some(()));

    // What people do about it, while alerts come through Kafka.
    let id = of_insider()[0]["id"].as_str().unwrap().to_owned();
    wait_for("all actions", || {
        let actions = shown(&id)["actions"].as_array().unwrap().clone();
        (actions.len() == 3 && actions.iter().all(|action| action["state"] == "done")).then_some(())
    });
    incident(&["ack", &id, "--by", "carol"]);
    assert_eq!(shown(&id)["summary"]["acknowledged_by"], "carol");
    incident(&["note", &id, "the insider was called", "--by", "carol"]);
    assert!(incident(&["show", &id]).contains("the insider was called"));
    assert!(incident(&["undo", &id, "--by", "carol"]).contains("not put back"));
    wait_for("the key enabled", || (admin.key_state(&key) == "Enabled").then_some(()));
    wait_for("the insider freed", || insider.decrypt(&blob, &json!({})).ok());
    assert_eq!(shown(&id)["summary"]["state"], "resolved");
    let done = "SELECT event_name, count(*) AS n FROM events WHERE actor_class = 'responder' AND read_only = false AND \
                action_id IS NOT NULL GROUP BY event_name ORDER BY event_name";
    let once = ["DisableKey", "EnableKey", "LiftQuarantine", "PutQuarantine", "RestoreKeyPolicy"]
        .map(|name| json!({ "event_name": name, "n": 1 }));
    wait_for("each call once in the log", || (folder.sql(done) == once).then_some(()));
    up.stop();

    // Everything again from the first alert on.
    let store = rusqlite::Connection::open(folder.path().join("responder.db")).unwrap();
    assert!(store.execute("UPDATE positions SET next = 0", []).unwrap() > 0);
    let seen = |store: &rusqlite::Connection| -> i64 {
        store.query_row("SELECT min(next) FROM positions", [], |row| row.get(0)).unwrap()
    };
    // What it found when it last looked changes by itself: it looks again when the service is back.
    let of_insider = || {
        let mut all = of_insider();
        all.iter_mut().for_each(|one| one["not_contained"] = Value::Null);
        all
    };
    let (listed, detail) = (of_insider(), shown(&id));
    let up = start();
    let admin = Caller::new(&up.field("kms"), folder.administrator());
    let other = admin.create_key(json!([]));
    admin.call("ScheduleKeyDeletion", json!({ "KeyId": other, "PendingWindowInDays": 7 })).unwrap();
    wait_for("an alert behind the old ones", || (admin.key_state(&other) == "Enabled").then_some(()));
    wait_for("the topic read again", || (seen(&store) > 0).then_some(()));
    assert_eq!(of_insider(), listed, "no second incident, and the first as it was");
    assert_eq!(shown(&id)["actions"], detail["actions"]);
    assert_eq!((admin.policy(&key), admin.key_state(&key)), (before, "Enabled".to_owned()));
    up.stop();
    let key_id = key.rsplit('/').next().unwrap();
    let of_key = format!(
        "SELECT event_name FROM events WHERE actor_class = 'responder' AND read_only = false AND key_arn LIKE '%{key_id}' \
         ORDER BY seq"
    );
    let names: Vec<String> = folder.sql(&of_key).iter().map(|row| row["event_name"].as_str().unwrap().into()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    folder.assert_verified();
}
