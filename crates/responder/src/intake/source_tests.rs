//! The tests that every alert source passes: order, restart at the stored position, repeats, emptiness, a wake-up.
//!
//! The table runs against a real trail.db. Kafka runs against librdkafka's mock cluster, and against a real broker as
//! well where `KEYTRAIL_TEST_BROKERS` names one.
#![allow(clippy::unwrap_used)]

use crate::intake::kafka::SIGNATURE_HEADER;
use crate::intake::{AlertSource, KafkaAlertSource, RawAlert, TableSource};
use crate::store::{Store, set_position};
use crate::testing::{Bench, TrailDb, event};
use async_trait::async_trait;
use keytrail_trail::alert::SignedAlert;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// A transport with a writing and a reading end.
#[async_trait]
trait Transport {
    async fn push(&mut self, alert: &SignedAlert);
    fn open(&self, store: &Store) -> Box<dyn AlertSource>;
}

fn alert(bucket: i64) -> SignedAlert {
    Bench::new().alert("denied-burst", vec![event("Decrypt").denied().by("m")]).bucket(bucket).signed()
}

async fn take(source: &mut dyn AlertSource, count: usize) -> Vec<RawAlert> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let more = source.next(32, WAIT).await.unwrap();
        assert!(!more.is_empty(), "{} of {count} alerts came", taken.len());
        taken.extend(more);
    }
    taken
}

fn store_positions(store: &Store, alerts: &[RawAlert]) {
    store
        .write_now(|tx| alerts.iter().try_for_each(|alert| set_position(tx, &alert.source, alert.position + 1)))
        .unwrap();
}

async fn suite(transport: &mut dyn Transport) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let written: Vec<SignedAlert> = (0..5).map(alert).collect();
    for one in &written[..3] {
        transport.push(one).await;
    }
    let mut source = transport.open(&store);
    let first = take(source.as_mut(), 3).await;
    for (raw, one) in first.iter().zip(&written) {
        assert_eq!((&raw.json, raw.signature.as_slice()), (&one.json, &one.signature[..]), "bytes travel unchanged");
    }
    assert!(source.next(32, Duration::from_millis(300)).await.unwrap().is_empty());
    drop(source);

    // Only the first two were taken in durably: the third comes again after a restart, then the new ones.
    store_positions(&store, &first[..2]);
    let mut source = transport.open(&store);
    assert_eq!(take(source.as_mut(), 1).await[0], first[2]);
    for one in &written[3..] {
        transport.push(one).await;
    }
    let rest = take(source.as_mut(), 2).await;
    assert_eq!(rest.iter().map(|raw| &raw.json).collect::<Vec<_>>(), [&written[3].json, &written[4].json]);
    let mut positions: Vec<i64> = first.iter().chain(&rest).map(|raw| raw.position).collect();
    positions.dedup();
    assert_eq!(positions.len(), 5);
    assert!(positions.is_sorted());
}

struct Table {
    dir: tempfile::TempDir,
    trail: TrailDb,
}

#[async_trait]
impl Transport for Table {
    async fn push(&mut self, alert: &SignedAlert) {
        self.trail.push(alert);
    }

    fn open(&self, store: &Store) -> Box<dyn AlertSource> {
        Box::new(TableSource::open(self.dir.path(), store).unwrap())
    }
}

struct Kafka {
    brokers: String,
    topic: String,
    producer: FutureProducer,
}

impl Kafka {
    fn new(brokers: &str, topic: &str) -> Self {
        let producer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        Self { brokers: brokers.into(), topic: topic.into(), producer }
    }
}

#[async_trait]
impl Transport for Kafka {
    async fn push(&mut self, alert: &SignedAlert) {
        let signature = hex::encode(alert.signature);
        let headers = OwnedHeaders::new().insert(Header { key: SIGNATURE_HEADER, value: Some(&signature) });
        let record = FutureRecord::to(&self.topic).payload(&alert.json).key("k").headers(headers);
        self.producer.send(record, WAIT).await.unwrap();
    }

    fn open(&self, store: &Store) -> Box<dyn AlertSource> {
        Box::new(KafkaAlertSource::open(&self.brokers, &self.topic, store).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_passes() {
    let dir = tempfile::tempdir().unwrap();
    let trail = Bench::new().folder(dir.path());
    suite(&mut Table { dir, trail }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_passes() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("keytrail.alerts", 1, 1).unwrap();
    suite(&mut Kafka::new(&cluster.bootstrap_servers(), "keytrail.alerts")).await;
    if let Ok(brokers) = std::env::var("KEYTRAIL_TEST_BROKERS") {
        let topic = format!("keytrail.alerts.test-{}", uuid::Uuid::now_v7());
        // A broker as it should be set up makes no topic by itself.
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[new], &AdminOptions::new()).await.unwrap();
        assert_eq!(made, [Ok(topic.clone())]);
        suite(&mut Kafka::new(&brokers, &topic)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_db_put_back_from_a_copy_is_read_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let trail = Bench::new().folder(dir.path());
    let store = Store::open(dir.path()).unwrap();
    trail.push(&alert(0));
    store.write_now(|tx| set_position(tx, "trail.db", 40)).unwrap();
    let mut source = TableSource::open(dir.path(), &store).unwrap();
    assert_eq!(take(&mut source, 1).await[0].position, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let _trail = Bench::new().folder(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let mut source = TableSource::open(dir.path(), &store).unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(&[1], dir.path().join("run/alerts.sock")).unwrap();
    // Without the knock this would last for an hour.
    assert!(source.next(1, Duration::from_secs(3600)).await.unwrap().is_empty());
    drop(source);
    assert!(!dir.path().join("run/alerts.sock").exists());
}
