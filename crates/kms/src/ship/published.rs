//! The newest checkpoint of a log that Kafka holds, for the comparison with the journal at start-up.
//!
//! A data folder rolled back as a whole agrees with itself; what was published does not go back with it. Only notes
//! under our own signature count: whoever can write to the topic could otherwise stop a node by inventing a longer log.
//! The same stranger can push the genuine notes out of sight, and then nothing is compared, which epoch-start says.

use super::ShipError;
use crate::chain::leaf::LeafHash;
use crate::chain::tree::{RootHash, Tree, TreeError};
use crate::chain::{Checkpoint, LogKeys};
use crate::journal::ReadError;
use crate::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataPartition;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Newest messages looked at in each partition: a node publishes a few notes a second at most, so this reaches back
/// minutes at least, and bounds what a flooded topic costs.
const MESSAGES_MAX: i64 = 4_096;
/// How long one poll waits.
const POLL: Duration = Duration::from_millis(100);

/// Why a journal is not the one that was published. The node must not go on: it would write another history.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The journal ends before the checkpoint.
    #[error(
        "journal was rolled back: it holds {journal} records, {holder} a checkpoint over {published}; restore the newest \
         copy of the data folder"
    )]
    Shorter {
        /// Who has the checkpoint: `Kafka`, or which witness.
        holder: String,
        /// Records of the journal.
        journal: u64,
        /// Records under the checkpoint.
        published: u64,
    },
    /// The journal has other records.
    #[error(
        "journal was replaced: its root over {size} records is {journal}, in the checkpoint of {holder} {published}; restore the \
         newest copy of the data folder"
    )]
    Other {
        /// Who has the checkpoint.
        holder: String,
        /// Records under the checkpoint.
        size: u64,
        /// Root of the journal there.
        journal: RootHash,
        /// Root in the checkpoint.
        published: RootHash,
    },
    /// A witness says that it has cosigned more, and shows no checkpoint for it.
    #[error(
        "journal was rolled back, says {holder}, which has cosigned {claimed} records and shows no checkpoint: the journal holds \
         {journal}; restore the newest copy of the data folder, or take the witness out of the policy if it is wrong"
    )]
    Claimed {
        /// The witness.
        holder: String,
        /// Records of the journal.
        journal: u64,
        /// Records that the witness names.
        claimed: u64,
    },
    /// A witness says that it has cosigned other records, and shows no checkpoint for them.
    #[error(
        "journal was replaced, says {holder}, which has cosigned {size} other records and shows no checkpoint; restore the newest \
         copy of the data folder, or take the witness out of the policy if it is wrong"
    )]
    Disputed {
        /// The witness.
        holder: String,
        /// Records that it knows.
        size: u64,
    },
    /// The journal cannot be opened for the comparison.
    #[error("journal cannot be read")]
    Read(#[source] ReadError),
    /// The records that the comparison needs cannot be read.
    #[error("root at the published size cannot be computed")]
    Tree(#[source] TreeError<ReadError>),
}

/// The largest checkpoint under these keys among the newest messages of the topic. Blocks, for `within` at most; an error
/// means that Kafka did not answer in time.
pub(crate) fn newest_checkpoint(
    brokers: &str,
    signer: &LogKeys,
    within: Duration,
) -> Result<Option<Checkpoint>, ShipError> {
    let end = Instant::now() + within;
    let kafka = |step| move |source| ShipError::Kafka { step, source };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("client.id", "keytrail-start")
        // Offsets are never committed; librdkafka wants a name all the same.
        .set("group.id", "keytrail-start")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(kafka("make a consumer for"))?;
    let mut open = assign_newest(&consumer, end).map_err(kafka("find the checkpoints in"))?;
    let mut newest: Option<Checkpoint> = None;
    while !open.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                let note = message.payload().and_then(|payload| std::str::from_utf8(payload).ok());
                let ours = note.and_then(|note| signer.verify(note).ok());
                newest = newest.into_iter().chain(ours).max_by_key(|checkpoint| checkpoint.size);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(source)) if Instant::now() >= end => {
                return Err(ShipError::Kafka { step: "read the checkpoints in", source });
            }
            // The client tries again by itself.
            Some(Err(_)) | None => {}
        }
        if !open.is_empty() && Instant::now() >= end {
            return Err(ShipError::Unreachable(brokers.to_owned()));
        }
    }
    Ok(newest)
}

/// Assigns the newest messages of each partition that has any; gives those partitions.
fn assign_newest(consumer: &BaseConsumer, end: Instant) -> Result<HashSet<i32>, KafkaError> {
    let left = || end.saturating_duration_since(Instant::now()).max(POLL);
    let metadata = consumer.fetch_metadata(Some(topics::CHECKPOINTS), left())?;
    let mut ids = Vec::new();
    for topic in metadata.topics().iter().filter(|topic| topic.name() == topics::CHECKPOINTS) {
        match topic.error() {
            None => ids.extend(topic.partitions().iter().map(MetadataPartition::id)),
            Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {}
            Some(error) => return Err(KafkaError::MetadataFetch(error.into())),
        }
    }
    let mut assignment = TopicPartitionList::new();
    let mut open = HashSet::new();
    for id in ids {
        let (low, high) = consumer.fetch_watermarks(topics::CHECKPOINTS, id, left())?;
        if high > low {
            let from = low.max(high - MESSAGES_MAX);
            assignment.add_partition_offset(topics::CHECKPOINTS, id, Offset::Offset(from))?;
            open.insert(id);
        }
    }
    consumer.assign(&assignment)?;
    Ok(open)
}

/// That the journal, whose tree and leaf hashes these are, is the one under the checkpoint.
pub(crate) fn compare(
    published: &Checkpoint,
    holder: &str,
    tree: &Tree,
    leaves: impl FnMut(u64) -> Result<Vec<LeafHash>, ReadError>,
) -> Result<(), PublishedError> {
    let holder = || holder.to_owned();
    match tree.root_at(published.size, leaves) {
        Ok(root) if root == published.root => Ok(()),
        Ok(root) => Err(PublishedError::Other {
            holder: holder(),
            size: published.size,
            journal: root,
            published: published.root,
        }),
        Err(TreeError::Size { tree, .. }) => {
            Err(PublishedError::Shorter { holder: holder(), journal: tree, published: published.size })
        }
        Err(error) => Err(PublishedError::Tree(error)),
    }
}
