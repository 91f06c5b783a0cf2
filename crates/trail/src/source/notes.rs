//! Signed checkpoints from `keytrail.checkpoints`, as they are published.
//!
//! A thread reads the topic from a point in time on and hands every message over; who asked verifies signatures and
//! drops what is not its log's. Where notes stay away, the trail asks the node. Nothing is committed to the broker: after a restart the time says where to begin.

use super::SourceError;
use keytrail_kms::topics;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;
use tokio::sync::mpsc;

/// Notes that wait for the trail; beyond it the thread waits.
const WAITING_MAX: usize = 1_024;
/// Longest message handed over; a note with some cosignatures is far below.
const NOTE_BYTES_MAX: usize = 64 * 1024;
/// How long one poll waits, and so how soon the thread sees that nobody listens any more.
const POLL: Duration = Duration::from_millis(100);
/// Bound of one question to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the topic is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// Reading begins this much earlier: the clocks of node and broker differ.
const MARGIN_US: u64 = 60 * 1_000_000;

/// Starts the thread, for notes published since `since_us` (Unix microseconds). The broker may be away now. The thread
/// ends when the receiver is dropped.
pub fn kafka_notes(brokers: &str, since_us: u64) -> Result<mpsc::Receiver<String>, SourceError> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("client.id", "keytrail-notes")
        // Offsets are never committed; librdkafka wants a name all the same.
        .set("group.id", "keytrail-notes")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "1024")
        // The default is a second of silence each time the queue above is full.
        .set("fetch.queue.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "1000")
        .create()
        .map_err(unavailable)?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let since_ms = i64::try_from(since_us.saturating_sub(MARGIN_US) / 1_000).unwrap_or(i64::MAX);
    let body = move || {
        while !sender.is_closed() {
            match assign(&consumer, since_ms) {
                Ok(true) => return hand_over(&consumer, &sender),
                Ok(false) => tracing::debug!(topic = topics::CHECKPOINTS, "topic does not exist yet"),
                Err(error) => tracing::warn!(%error, "checkpoints cannot be read from Kafka, trying again"),
            }
            std::thread::sleep(RETRY);
        }
    };
    std::thread::Builder::new()
        .name("notes".into())
        .spawn(body)
        .map_err(|error| SourceError::Unavailable(error.into()))?;
    Ok(receiver)
}

/// Reads all partitions from that time on. False: there is no such topic yet.
fn assign(consumer: &BaseConsumer, since_ms: i64) -> Result<bool, KafkaError> {
    let ids = partitions(consumer)?;
    let mut times = TopicPartitionList::new();
    for id in &ids {
        times.add_partition_offset(topics::CHECKPOINTS, *id, Offset::Offset(since_ms))?;
    }
    if ids.is_empty() {
        return Ok(false);
    }
    consumer.assign(&consumer.offsets_for_times(times, REQUEST_TIMEOUT)?)?;
    Ok(true)
}

fn partitions(consumer: &BaseConsumer) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topics::CHECKPOINTS), REQUEST_TIMEOUT)?;
    let found = metadata.topics().iter().filter(|topic| topic.name() == topics::CHECKPOINTS && topic.error().is_none());
    Ok(found.flat_map(|topic| topic.partitions().iter().map(MetadataPartition::id)).collect())
}

fn hand_over(consumer: &BaseConsumer, sender: &mpsc::Sender<String>) {
    while !sender.is_closed() {
        let message = match consumer.poll(POLL) {
            None => continue,
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                // The client goes on by itself; while it cannot, records wait.
                tracing::debug!(%error, "no checkpoints from Kafka now");
                continue;
            }
        };
        let payload = message.payload().filter(|payload| payload.len() <= NOTE_BYTES_MAX);
        if let Some(note) = payload.and_then(|payload| std::str::from_utf8(payload).ok())
            && sender.blocking_send(note.to_owned()).is_err()
        {
            return;
        }
    }
}

fn unavailable(error: KafkaError) -> SourceError {
    SourceError::Unavailable(Box::new(error))
}
