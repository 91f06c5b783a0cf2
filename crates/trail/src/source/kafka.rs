//! Frames from `keytrail.audit`. Layout of a message: `keytrail_kms::topics`.
//!
//! Kafka is untrusted transport: frames are handed on as they came, and the lander decides. Every partition is assigned,
//! no group is joined. The offset committed to the broker is a hint that carries the seqs it was committed for; it is
//! followed only if the caller has all of those, so that what is durable here decides and not the broker. Otherwise
//! reading begins at the oldest message, and repeats are dropped by whoever lands them.

use super::{FrameSource, SourceError, SourceFrame};
use async_trait::async_trait;
use bytes::Bytes;
use keytrail_kms::chain::{LEAF_BYTES, Leaf, LogId};
use keytrail_kms::journal::Frame;
use keytrail_kms::topics;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long `next` waits before it says that nothing came: what came before waits that long for the next look at the
/// checkpoints.
const WAIT: Duration = Duration::from_millis(20);
/// Payload bytes after which `next` returns what it has: a message may be as large as 1 MiB whatever is in it.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bound of one question to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often new partitions are looked for: a log moves to another one when their number changes.
const PARTITIONS_EVERY: Duration = Duration::from_secs(30);
/// How often an offset is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Messages per partition remembered until their records are kept. A record that never lands must not hold the offset
/// for ever; one that still waits when it is forgotten here is fetched from its node, like any gap.
const OPEN_MAX: usize = 262_144;

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, more than one separated by commas.
    pub brokers: String,
    /// The topic; usually [`topics::AUDIT`].
    pub topic: String,
    /// Under this name offsets are kept: one for each trail.
    pub group: String,
}

/// Reads the topic.
pub struct KafkaSource {
    config: KafkaConfig,
    consumer: Arc<StreamConsumer>,
    /// Next seq of each log that the caller lacks; grows by `committed`.
    kept: BTreeMap<LogId, u64>,
    partitions: HashMap<i32, Partition>,
    looked: Option<Instant>,
    committed_at: Option<Instant>,
}

/// Where a partition stands.
#[derive(Debug, Default)]
struct Partition {
    /// Offset of the next message to be handed on; None before the first, then the start is the broker's oldest.
    next: Option<i64>,
    /// Handed on but not kept yet, oldest first: offset, and the record that must be kept; None needs nothing.
    open: VecDeque<(i64, Option<(LogId, u64)>)>,
    /// What was committed last.
    hinted: Option<i64>,
}

/// Partitions of the topic, and a usable hint for each.
struct Found {
    ids: Vec<i32>,
    offsets: HashMap<i32, i64>,
}

impl KafkaSource {
    /// A source for a caller that has the records of each log below the seqs in `wanted`. The broker is asked at the
    /// first [`FrameSource::next`], so that it may be away now.
    pub fn open(config: KafkaConfig, wanted: &BTreeMap<LogId, u64>) -> Result<Self, SourceError> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("client.id", "keytrail-trail")
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "32768")
            // The default is a second of silence each time the queue above is full.
            .set("fetch.queue.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "1000")
            .create()
            .map_err(unavailable)?;
        Ok(Self {
            config,
            consumer: Arc::new(consumer),
            kept: wanted.clone(),
            partitions: HashMap::new(),
            looked: None,
            committed_at: None,
        })
    }

    /// Assigns the partitions that are there now, unless that was done a moment ago.
    async fn assign(&mut self) -> Result<(), SourceError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < PARTITIONS_EVERY) {
            return Ok(());
        }
        let found = self.find().await?;
        if found.ids.iter().any(|id| !self.partitions.contains_key(id)) {
            let mut list = TopicPartitionList::new();
            for id in &found.ids {
                let partition = self.partitions.entry(*id).or_default();
                partition.next = partition.next.or(found.offsets.get(id).copied());
                let offset = partition.next.map_or(Offset::Beginning, Offset::Offset);
                list.add_partition_offset(&self.config.topic, *id, offset).map_err(unavailable)?;
            }
            self.consumer.assign(&list).map_err(unavailable)?;
            tracing::info!(topic = self.config.topic, partitions = found.ids.len(), "reading from Kafka");
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Asks the broker, on a thread that may wait.
    async fn find(&self) -> Result<Found, SourceError> {
        let (consumer, topic, kept) = (self.consumer.clone(), self.config.topic.clone(), self.kept.clone());
        let asked = tokio::task::spawn_blocking(move || find(&consumer, &topic, &kept));
        asked.await.map_err(|error| SourceError::Unavailable(Box::new(error)))?
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> SourceFrame {
        let sourced = sourced(message);
        let partition = self.partitions.entry(message.partition()).or_default();
        partition.next = Some(message.offset() + 1);
        // Only a record that names its own log, and one that the caller keeps, can ever be kept.
        let leaf = Leaf::decode(&sourced.frame.leaf).ok().filter(|leaf| leaf.log == sourced.log);
        let record = leaf.map(|leaf| (leaf.log, leaf.seq));
        let record = record.filter(|(log, seq)| self.kept.get(log).is_some_and(|next| seq >= next));
        partition.open.push_back((message.offset(), record));
        if partition.open.len() > OPEN_MAX {
            partition.open.pop_front();
        }
        sourced
    }

    /// Tells the broker up to where everything is kept.
    fn hint(&mut self) -> Result<(), SourceError> {
        let mut list = TopicPartitionList::new();
        let seqs = encode_seqs(&self.kept);
        for (id, partition) in &mut self.partitions {
            partition.close(&self.kept);
            let offset = partition.open.front().map(|(offset, _)| *offset).or(partition.next);
            let Some(offset) = offset.filter(|offset| partition.hinted != Some(*offset)) else { continue };
            partition.hinted = Some(offset);
            list.add_partition_offset(&self.config.topic, *id, Offset::Offset(offset)).map_err(unavailable)?;
            if let Some(mut element) = list.find_partition(&self.config.topic, *id) {
                element.set_metadata(&seqs);
            }
        }
        if list.count() == 0 { Ok(()) } else { self.consumer.commit(&list, CommitMode::Async).map_err(unavailable) }
    }
}

impl Partition {
    /// Forgets what is kept by now.
    fn close(&mut self, kept: &BTreeMap<LogId, u64>) {
        let done = |record: &Option<(LogId, u64)>| {
            record.is_none_or(|(log, seq)| kept.get(&log).is_none_or(|next| seq < *next))
        };
        while self.open.front().is_some_and(|(_, record)| done(record)) {
            self.open.pop_front();
        }
    }
}

#[async_trait]
impl FrameSource for KafkaSource {
    async fn next(&mut self, frames_max: usize) -> Result<Vec<SourceFrame>, SourceError> {
        self.assign().await?;
        let mut frames = Vec::new();
        let mut bytes = 0;
        let consumer = self.consumer.clone();
        while frames.len() < frames_max && bytes < BATCH_BYTES_MAX {
            // Once there is something, only what has been fetched is waited for. No frame is held over an await that
            // could be cancelled: the first message is the only one that is waited for, and it is taken after that.
            let received = if frames.is_empty() {
                match timeout(WAIT, consumer.recv()).await {
                    Ok(received) => received,
                    Err(_elapsed) => break,
                }
            } else {
                match futures::FutureExt::now_or_never(consumer.recv()) {
                    Some(received) => received,
                    None => break,
                }
            };
            match received {
                Ok(message) => {
                    bytes += message.payload_len();
                    frames.push(self.take(&message));
                }
                // What came before the trouble is good; the trouble shows again if it lasts.
                Err(_) if !frames.is_empty() => break,
                Err(error) => {
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
                        self.looked = None;
                    }
                    return Err(unavailable(error));
                }
            }
        }
        Ok(frames)
    }

    async fn committed(&mut self, log: LogId, next_seq: u64) -> Result<(), SourceError> {
        let Some(kept) = self.kept.get_mut(&log) else { return Ok(()) };
        *kept = next_seq.max(*kept);
        if self.committed_at.is_some_and(|at| at.elapsed() < COMMIT_EVERY) {
            return Ok(());
        }
        self.committed_at = Some(Instant::now());
        self.hint()
    }
}

fn find(consumer: &StreamConsumer, topic: &str, kept: &BTreeMap<LogId, u64>) -> Result<Found, SourceError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(unavailable)?;
    let ours = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    let ids: Vec<i32> = ours.flat_map(|found| found.partitions().iter().map(MetadataPartition::id)).collect();
    if ids.is_empty() {
        return Err(SourceError::Unavailable(format!("topic {topic} does not exist yet").into()));
    }
    let mut list = TopicPartitionList::new();
    for id in &ids {
        list.add_partition(topic, *id);
    }
    let committed = consumer.committed_offsets(list, REQUEST_TIMEOUT).map_err(unavailable)?;
    let offsets = committed.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) if covers(kept, element.metadata()) => Some((element.partition(), offset)),
        _ => None,
    });
    Ok(Found { ids, offsets: offsets.collect() })
}

/// The seqs a hint was given for, as its metadata: `<log id>=<next seq>` separated by commas.
fn encode_seqs(kept: &BTreeMap<LogId, u64>) -> String {
    let seqs: Vec<String> = kept.iter().map(|(log, next)| format!("{log}={next}")).collect();
    seqs.join(",")
}

/// Whether the caller has, of each of its logs, all that the hint was given for. A log that the hint does not name was
/// not read then.
fn covers(kept: &BTreeMap<LogId, u64>, metadata: &str) -> bool {
    let pairs = metadata.split(',').filter_map(|pair| pair.split_once('='));
    let seqs: HashMap<&str, u64> = pairs.filter_map(|(log, next)| Some((log, next.parse().ok()?))).collect();
    kept.iter().all(|(log, next)| seqs.get(log.to_string().as_str()).is_some_and(|hinted| next >= hinted))
}

/// The frame in a message. One that lacks a part gets zeros in its place: no such leaf verifies, so the lander reports
/// it like any other that does not hold together.
fn sourced(message: &BorrowedMessage<'_>) -> SourceFrame {
    let header = |name| {
        let headers = message.headers()?;
        headers.iter().find(|header| header.key == name).and_then(|header| header.value)
    };
    let leaf = header(topics::HEADER_LEAF).and_then(|leaf| leaf.try_into().ok()).unwrap_or([0; LEAF_BYTES]);
    let salt = header(topics::HEADER_SALT).and_then(|salt| salt.try_into().ok()).unwrap_or_default();
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
    SourceFrame { log: key.and_then(LogId::from_hex).unwrap_or(LogId([0; 16])), frame: Frame { leaf, salt, payload } }
}

fn unavailable(error: KafkaError) -> SourceError {
    SourceError::Unavailable(Box::new(error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use super::*;
    use crate::land::Position;
    use crate::source::suite::{self, Harness};
    use keytrail_kms::chain::Kind;
    use keytrail_kms::chain::leaf::payload_digest;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{FutureProducer, FutureRecord};

    struct KafkaHarness {
        config: KafkaConfig,
        producer: FutureProducer,
        log: LogId,
        next: Position,
    }

    impl KafkaHarness {
        /// A topic of its own on the brokers.
        async fn new(brokers: &str) -> Self {
            let name = format!("test-{}", uuid::Uuid::now_v7());
            let mut client = ClientConfig::new();
            client.set("bootstrap.servers", brokers);
            let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
            let topic = NewTopic::new(&name, 3, TopicReplication::Fixed(1));
            for created in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
                created.unwrap();
            }
            Self::on(brokers, name)
        }

        fn on(brokers: &str, topic: String) -> Self {
            let producer = ClientConfig::new()
                .set("bootstrap.servers", brokers)
                .set("enable.idempotence", "true")
                .set("message.max.bytes", topics::AUDIT_MESSAGE_BYTES_MAX.to_string())
                .create()
                .unwrap();
            let config = KafkaConfig { brokers: brokers.to_owned(), group: topic.clone(), topic };
            let log = LogId::of_origin("keytrail/test/node-0123456789abcdef");
            Self { config, producer, log, next: Position::START }
        }

        fn frame(&mut self, payload: &Bytes) -> Frame {
            let salt = [7; 16];
            let leaf = Leaf {
                log: self.log,
                epoch: 1,
                seq: self.next.next_seq,
                kind: Kind::Event,
                time_us: 1_767_614_400_000_000,
                payload_len: u32::try_from(payload.len()).unwrap(),
                payload_digest: payload_digest(&salt, payload),
                prev: self.next.link,
            };
            let frame = Frame { leaf: leaf.encode(), salt, payload: payload.clone() };
            self.next = Position { next_seq: self.next.next_seq + 1, link: frame.link() };
            frame
        }

        async fn send(&self, key: &str, leaf: &[u8], frame: &Frame) {
            let headers = OwnedHeaders::new()
                .insert(Header { key: topics::HEADER_SALT, value: Some(&frame.salt) })
                .insert(Header { key: topics::HEADER_LEAF, value: Some(leaf) });
            let record = FutureRecord::to(&self.config.topic).key(key).payload(&frame.payload[..]).headers(headers);
            self.producer.send(record, Duration::from_secs(30)).await.unwrap();
        }

        fn source(&self, next_seq: u64) -> KafkaSource {
            KafkaSource::open(self.config.clone(), &BTreeMap::from([(self.log, next_seq)])).unwrap()
        }
    }

    #[async_trait]
    impl Harness for KafkaHarness {
        fn log(&self) -> LogId {
            self.log
        }

        async fn write(&mut self, payloads: &[Bytes]) {
            for payload in payloads {
                let frame = self.frame(payload);
                self.send(&self.log.to_string(), &frame.leaf, &frame).await;
            }
        }

        async fn open(&mut self, from: Position) -> Box<dyn FrameSource> {
            Box::new(self.source(from.next_seq))
        }
    }

    async fn read(source: &mut KafkaSource, count: usize) -> Vec<SourceFrame> {
        let until = Instant::now() + Duration::from_secs(60);
        let mut frames = Vec::new();
        while frames.len() < count {
            assert!(Instant::now() < until, "{} of {count} frames came", frames.len());
            match source.next(count - frames.len()).await {
                Ok(more) => frames.extend(more),
                // The topic, or the offsets' coordinator, may not be there yet.
                Err(SourceError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        frames
    }

    fn payloads(range: std::ops::Range<u64>) -> Vec<Bytes> {
        range.map(|n| Bytes::from(format!("{{\"n\":{n}}}"))).collect()
    }

    fn first_seq(frames: &[SourceFrame]) -> u64 {
        Leaf::decode(&frames[0].frame.leaf).unwrap().seq
    }

    #[tokio::test]
    async fn a_real_broker_passes_the_source_suite() {
        let Ok(brokers) = std::env::var("KEYTRAIL_TEST_BROKERS") else {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI must set KEYTRAIL_TEST_BROKERS");
            println!("DID NOT RUN: KEYTRAIL_TEST_BROKERS names no Kafka broker");
            return;
        };
        suite::run(&mut KafkaHarness::new(&brokers).await).await;
    }

    #[tokio::test]
    async fn what_is_kept_here_decides_where_reading_begins() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("audit", 1, 1).unwrap();
        let mut harness = KafkaHarness::on(&cluster.bootstrap_servers(), "audit".to_owned());
        harness.write(&payloads(0..20)).await;
        let mut source = harness.source(0);
        assert_eq!(first_seq(&read(&mut source, 20).await), 0);
        source.committed(harness.log, 12).await.unwrap();
        // The commit is on its way; the broker tells when it has it.
        let until = Instant::now() + Duration::from_secs(30);
        while source.find().await.unwrap().offsets.is_empty() {
            assert!(Instant::now() < until, "the hint did not arrive");
        }
        drop(source);
        assert_eq!(first_seq(&read(&mut harness.source(12), 8).await), 12, "the hint is followed");
        assert_eq!(first_seq(&read(&mut harness.source(11), 20).await), 0, "records are missing here");
    }

    #[tokio::test]
    async fn messages_that_are_no_frames_are_handed_on_to_be_refused() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("audit", 1, 1).unwrap();
        let mut harness = KafkaHarness::on(&cluster.bootstrap_servers(), "audit".to_owned());
        let frame = harness.frame(&Bytes::from_static(b"{}"));
        harness.send("not a log", &frame.leaf, &frame).await;
        harness.send(&harness.log.to_string(), b"short", &frame).await;
        harness.send(&harness.log.to_string(), &frame.leaf, &frame).await;
        let mut source = harness.source(0);
        let frames = read(&mut source, 3).await;
        assert_eq!(frames[0].log, LogId([0; 16]));
        assert_eq!(frames[1].frame.leaf, [0; LEAF_BYTES]);
        assert_eq!(frames[2], SourceFrame { log: harness.log, frame });
        // Only the genuine one holds the offset.
        let partition = source.partitions.get_mut(&0).unwrap();
        partition.close(&source.kept);
        assert_eq!(partition.open.len(), 1);
    }

    #[test]
    fn a_hint_covers_only_what_it_names() {
        let (one, two) = (LogId([1; 16]), LogId([2; 16]));
        let hint = encode_seqs(&BTreeMap::from([(one, 5)]));
        assert!(covers(&BTreeMap::from([(one, 5)]), &hint));
        assert!(covers(&BTreeMap::from([(one, 9)]), &hint));
        assert!(!covers(&BTreeMap::from([(one, 4)]), &hint));
        assert!(!covers(&BTreeMap::from([(one, 5), (two, 0)]), &hint), "a log that was not read then");
        assert!(!covers(&BTreeMap::from([(one, 5)]), "damaged"));
    }
}
