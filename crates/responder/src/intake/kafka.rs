//! Alerts from the topic: value = the alert's JSON, header `signature` = its signature in hex.
//!
//! Offsets are ours, in `responder.db`; nothing is committed to the broker and no group is joined, so a broker that
//! forgets or lies about offsets changes nothing. Every partition is assigned at its stored offset; one whose offset is
//! no longer there starts at the oldest alert that is, and repeats are known by id and revision.

use crate::intake::{AlertSource, RawAlert, SourceError};
use crate::store::Store;
use async_trait::async_trait;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Header with the hex signature.
pub const SIGNATURE_HEADER: &str = "signature";
/// Bound of one metadata request.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// How often new partitions are looked for.
const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// Reads a topic of alerts.
pub struct KafkaAlertSource {
    consumer: StreamConsumer,
    topic: String,
    next: HashMap<i32, i64>,
    assigned: usize,
    looked: Option<Instant>,
}

impl KafkaAlertSource {
    /// Takes the stored positions; the broker is asked at the first [`AlertSource::next`].
    pub fn open(brokers: &str, topic: &str, store: &Store) -> Result<Self, SourceError> {
        let positions = store.read_now(crate::store::positions).map_err(|error| SourceError::new(topic, error))?;
        let next = positions.into_iter().filter_map(|(source, next)| Some((partition_of(&source, topic)?, next)));
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "keytrail-responder")
            // librdkafka wants a group's name even where no group is joined.
            .set("group.id", "keytrail-responder")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "16384")
            // The default is a second of silence each time the queue above is full.
            .set("fetch.queue.backoff.ms", "10")
            .create()
            .map_err(|error| SourceError::new(topic, error))?;
        Ok(Self { consumer, topic: topic.to_owned(), next: next.collect(), assigned: 0, looked: None })
    }

    /// Assigns every partition of the topic that is there now.
    fn assign(&mut self) -> Result<(), SourceError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < PARTITIONS_EVERY) {
            return Ok(());
        }
        let failed = |error| SourceError::new(&self.topic, error);
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), METADATA_TIMEOUT).map_err(failed)?;
        let partitions: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|topic| topic.name() == self.topic && topic.error().is_none())
            .flat_map(|topic| topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id))
            .collect();
        if partitions.is_empty() {
            return Err(SourceError::new(&self.topic, "the topic does not exist yet"));
        }
        if partitions.len() != self.assigned {
            let mut list = TopicPartitionList::new();
            for partition in &partitions {
                let offset = self.next.get(partition).map_or(Offset::Beginning, |next| Offset::Offset(*next));
                list.add_partition_offset(&self.topic, *partition, offset).map_err(failed)?;
            }
            self.consumer.assign(&list).map_err(failed)?;
            self.assigned = partitions.len();
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    fn take(&self, message: &BorrowedMessage<'_>) -> RawAlert {
        let signature = message.headers().and_then(|headers| {
            let header = headers.iter().find(|header| header.key == SIGNATURE_HEADER)?;
            hex::decode(header.value?).ok()
        });
        RawAlert {
            source: format!("{}/{}", self.topic, message.partition()),
            position: message.offset(),
            json: message.payload().unwrap_or_default().to_vec(),
            signature: signature.unwrap_or_default(),
        }
    }
}

#[async_trait]
impl AlertSource for KafkaAlertSource {
    async fn next(&mut self, alerts_max: usize, wait: Duration) -> Result<Vec<RawAlert>, SourceError> {
        tokio::task::block_in_place(|| self.assign())?;
        let until = Instant::now() + wait;
        let mut alerts = Vec::new();
        while alerts.len() < alerts_max {
            // Once something is there, only what is already fetched is waited for.
            let left = if alerts.is_empty() { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match timeout(left, self.consumer.recv()).await {
                Err(_elapsed) => break,
                Ok(Err(error)) if alerts.is_empty() => return Err(SourceError::new(&self.topic, error)),
                Ok(Err(_later)) => break,
                Ok(Ok(message)) => {
                    let alert = self.take(&message);
                    self.next.insert(message.partition(), alert.position + 1);
                    alerts.push(alert);
                }
            }
        }
        Ok(alerts)
    }
}

fn partition_of(source: &str, topic: &str) -> Option<i32> {
    source.strip_prefix(topic)?.strip_prefix('/')?.parse().ok()
}
