//! The shipper against a real broker (named by KEYTRAIL_TEST_BROKERS), and against librdkafka's mock for error codes.

use super::{Lag, RunningShipper, ShipConfig, Shipper, ensure_topics};
use crate::chain::{Kind, Leaf, LogId};
use crate::clock::SystemClock;
use crate::journal::{Draft, Frame, Journal, JournalOptions};
use crate::topics;
use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

struct Node {
    dir: tempfile::TempDir,
    log: LogId,
    journal: Option<Journal>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Tests share the broker and its topics: a log of its own keeps them apart.
        let log = LogId::of_origin(&format!("keytrail/test/{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(dir.path().join("checkpoints")).unwrap();
        let options = JournalOptions::default();
        let (journal, _) = Journal::open(&journal_dir(dir.path()), log, Arc::new(SystemClock), options).unwrap();
        Self { dir, log, journal: Some(journal) }
    }

    async fn write(&self, payloads: std::ops::Range<u64>) {
        let journal = self.journal.as_ref().unwrap();
        let append = |n| journal.append(Draft::new(Kind::Event, Bytes::from(format!("{{\"n\":{n}}}"))).unwrap());
        let pending: Vec<_> = payloads.map(|n| append(n).unwrap()).collect();
        for pending in pending {
            pending.await.unwrap();
        }
    }

    fn ship(&self, brokers: &str, replication: Option<i32>) -> RunningShipper {
        Shipper::start(ShipConfig {
            brokers: brokers.to_owned(),
            journal_dir: journal_dir(self.dir.path()),
            checkpoints_dir: self.dir.path().join("checkpoints"),
            log: self.log,
            replication,
        })
        .unwrap()
    }

    /// Reads the topic from its beginning until `count` messages of this log have come: (frame, value).
    fn read(&self, brokers: &str, topic: &str, count: usize) -> Vec<(Option<Frame>, String)> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut messages = Vec::new();
        let started = Instant::now();
        while messages.len() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} messages came", messages.len());
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            if message.key() == Some(self.log.to_string().as_bytes()) {
                let payload = message.payload().unwrap();
                messages.push((frame(&message), String::from_utf8_lossy(payload).into_owned()));
            }
        }
        messages
    }
}

fn journal_dir(dir: &Path) -> std::path::PathBuf {
    dir.join("journal")
}

fn frame(message: &impl Message) -> Option<Frame> {
    let headers = message.headers()?;
    let header = |name| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
    Some(Frame {
        leaf: header(topics::HEADER_LEAF)?.try_into().ok()?,
        salt: header(topics::HEADER_SALT)?.try_into().ok()?,
        payload: Bytes::copy_from_slice(message.payload()?),
    })
}

fn seqs(messages: &[(Option<Frame>, String)]) -> Vec<u64> {
    messages.iter().map(|(frame, _)| frame.as_ref().unwrap().verify().unwrap().seq).collect()
}

async fn until(shipper: &RunningShipper, what: impl Fn(&Lag) -> bool) {
    let started = Instant::now();
    while !what(&shipper.lag()) {
        assert!(started.elapsed() < PATIENCE, "{:?}", shipper.lag());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The broker that `make test` started. Without one the test says that it did not run; with CI=true it fails.
fn real_broker() -> Option<String> {
    let brokers = std::env::var("KEYTRAIL_TEST_BROKERS").ok();
    if brokers.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must set KEYTRAIL_TEST_BROKERS");
        println!("DID NOT RUN: KEYTRAIL_TEST_BROKERS names no Kafka broker");
    }
    brokers
}

#[tokio::test]
async fn records_and_checkpoints_reach_a_real_broker_once_over_a_restart() {
    let Some(brokers) = real_broker() else { return };
    let node = Node::new();
    let latest = node.dir.path().join("checkpoints/latest");
    node.write(0..500).await;
    std::fs::write(&latest, "first note\n").unwrap();
    let shipper = node.ship(&brokers, Some(1));
    until(&shipper, |lag| lag.shipped_seq == 500).await;
    node.write(500..700).await;
    std::fs::write(&latest, "second note\n").unwrap();
    assert_eq!(node.read(&brokers, topics::CHECKPOINTS, 2).last().unwrap().1, "second note\n");
    // With its cosignatures it is another note.
    std::fs::write(latest.with_file_name("cosigned"), "second note\ncosigned\n").unwrap();
    assert_eq!(node.read(&brokers, topics::CHECKPOINTS, 3).last().unwrap().1, "second note\ncosigned\n");
    until(&shipper, |lag| lag.shipped_seq == 700).await;
    shipper.shutdown();

    node.write(700..800).await;
    let shipper = node.ship(&brokers, Some(1));
    until(&shipper, |lag| lag.shipped_seq == 800 && lag.durable_seq == 800 && lag.trouble.is_none()).await;
    let messages = node.read(&brokers, topics::AUDIT, 800);
    assert_eq!(seqs(&messages), (0..800).collect::<Vec<_>>());
    assert_eq!(messages[799].1, "{\"n\":799}");
    let mut prev = messages[0].0.as_ref().unwrap().link();
    for (frame, _) in &messages[1..] {
        let frame = frame.as_ref().unwrap();
        assert_eq!(Leaf::decode(&frame.leaf).unwrap().prev, prev);
        prev = frame.link();
    }
}

#[tokio::test]
async fn topics_are_made_once_and_checked_after() {
    let Some(brokers) = real_broker() else { return };
    ensure_topics(&brokers, 1).await.unwrap();
    ensure_topics(&brokers, 1).await.unwrap();
}

#[tokio::test]
async fn a_refused_record_is_sent_again_from_the_cursor() {
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic(topics::AUDIT, 1, 1).unwrap();
    let node = Node::new();
    node.write(0..10).await;
    let shipper = node.ship(&brokers, None);
    until(&shipper, |lag| lag.shipped_seq == 10).await;
    // Not worth a retry by the client itself: the delivery report says that it failed.
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE];
    cluster.request_errors(RDKafkaApiKey::Produce, &refused);
    node.write(10..20).await;
    until(&shipper, |lag| lag.trouble.is_some()).await;
    until(&shipper, |lag| lag.shipped_seq == 20 && lag.trouble.is_none()).await;
    let mut landed = seqs(&node.read(&brokers, topics::AUDIT, 20));
    landed.dedup();
    assert_eq!(landed, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_note_is_published_again_with_its_cosignatures() {
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    [topics::AUDIT, topics::CHECKPOINTS].iter().for_each(|topic| cluster.create_topic(topic, 1, 1).unwrap());
    let node = Node::new();
    let checkpoints = node.dir.path().join("checkpoints");
    std::fs::write(checkpoints.join("latest"), "note\n").unwrap();
    let shipper = node.ship(&brokers, None);
    assert_eq!(node.read(&brokers, topics::CHECKPOINTS, 1)[0].1, "note\n");
    std::fs::write(checkpoints.join("cosigned"), "note\ncosigned\n").unwrap();
    let notes = node.read(&brokers, topics::CHECKPOINTS, 2);
    assert_eq!(notes.iter().map(|(_, note)| note.as_str()).collect::<Vec<_>>(), ["note\n", "note\ncosigned\n"]);
    shipper.shutdown();
}

#[tokio::test]
async fn a_broker_that_is_away_only_makes_it_wait() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topics::AUDIT, 1, 1).unwrap();
    let node = Node::new();
    let shipper = node.ship(&cluster.bootstrap_servers(), None);
    node.write(0..5).await;
    until(&shipper, |lag| lag.shipped_seq == 5).await;
    cluster.broker_down(1).unwrap();
    node.write(5..1_000).await;
    until(&shipper, |lag| lag.durable_seq == 1_000).await;
    assert_eq!(shipper.lag().shipped_seq, 5);
    cluster.broker_up(1).unwrap();
    until(&shipper, |lag| lag.shipped_seq == 1_000).await;
}

#[tokio::test]
async fn it_starts_without_a_broker_and_stops_at_once() {
    let node = Node::new();
    let shipper = node.ship("127.0.0.1:9", Some(1));
    until(&shipper, |lag| lag.trouble.is_some()).await;
    shipper.shutdown();
}
