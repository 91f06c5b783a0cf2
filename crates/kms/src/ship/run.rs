//! The shipping thread: one attempt after another, each with a producer of its own.
//!
//! An attempt reads the cursor, tails the journal from there and ends at the first trouble; the next one begins where
//! delivery reports end. So there is one way to recover, and it is the way to start.

use super::acks::{Acks, Sent};
use super::cursor::Cursor;
use super::{Shared, ShipConfig, ShipError, TopicError, ensure_topics};
use crate::chain::Leaf;
use crate::describe;
use crate::journal::{Frame, Reader};
use crate::signer::{COSIGNED_NAME, LATEST_NAME};
use crate::topics;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Records read from the journal at once.
const READ_FRAMES: usize = 256;
/// Records in flight; with the bytes below this bounds the memory that a broker's absence costs.
const IN_FLIGHT_MAX: usize = 20_000;
/// Bytes in flight.
const IN_FLIGHT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long the thread waits for delivery reports before it looks at the journal again.
const POLL: Duration = Duration::from_millis(5);
/// How often the cursor moves: what a crash sends twice.
const CURSOR_EVERY: Duration = Duration::from_secs(1);
/// How often the signer's file is looked at; records wait in the trail for what it holds.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(50);
/// How long the first answer of a broker may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a stop may take to send what is durable.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// Files of `checkpoints/` whose notes are published.
const NOTES: [&str; 2] = [LATEST_NAME, COSIGNED_NAME];
/// Largest checkpoint file that is read.
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Ships until told to stop.
pub(super) fn run(config: &ShipConfig, shared: &Shared) {
    let mut topics_ready = config.replication.is_none();
    while !shared.stopping() {
        let attempt = prepare_topics(config, &mut topics_ready).and_then(|()| Attempt::begin(config, shared));
        let Err(error) = attempt.and_then(Attempt::ship) else { break };
        let trouble = describe(&error);
        tracing::warn!(error = trouble, "shipping to Kafka is held up, trying again");
        *shared.trouble.lock() = Some(trouble);
        let until = Instant::now() + PAUSE;
        while !shared.stopping() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    }
}

/// Once in the life of the process. Settings that differ are reported and used as they are: records that reach Kafka
/// late or twice do no harm, records that stay away make the trail blind.
fn prepare_topics(config: &ShipConfig, ready: &mut bool) -> Result<(), ShipError> {
    let Some(replication) = config.replication.filter(|_| !*ready) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(ShipError::Thread)?;
    match runtime.block_on(ensure_topics(&config.brokers, replication)) {
        Ok(()) => {}
        Err(error @ TopicError::Settings(_)) => tracing::error!(%error, "check the topics of the audit log"),
        Err(error) => return Err(ShipError::Topics(error)),
    }
    *ready = true;
    Ok(())
}

/// One producer's life.
struct Attempt<'a> {
    config: &'a ShipConfig,
    shared: &'a Shared,
    key: String,
    producer: BaseProducer<Acks>,
    acks: Arc<Acks>,
    reader: Reader,
    cursor: Cursor,
    cursor_at: Instant,
    /// The last ones sent, of each file.
    notes: [Option<String>; NOTES.len()],
    note_at: Option<Instant>,
}

impl<'a> Attempt<'a> {
    fn begin(config: &'a ShipConfig, shared: &'a Shared) -> Result<Self, ShipError> {
        // The cluster's name decides whose cursor this is, so it is asked for before anything is sent.
        let cluster = cluster_id(&config.brokers)?;
        let mut reader = Reader::open(&config.journal_dir, 0).map_err(ShipError::Journal)?;
        let durable = reader.durable().map_err(ShipError::Journal)?;
        let first = reader.first_seq().map_err(ShipError::Journal)?;
        let cursor = Cursor::load(&config.journal_dir, config.log, &cluster, (first, durable));
        reader.seek(cursor.next_seq());
        let producer = producer(&config.brokers, cursor.next_seq())?;
        let acks = producer.context().clone();
        tracing::info!(log = %config.log, seq = cursor.next_seq(), brokers = config.brokers, "shipping to Kafka");
        Ok(Self {
            config,
            shared,
            key: config.log.to_string(),
            producer,
            acks,
            reader,
            cursor,
            cursor_at: Instant::now(),
            notes: [const { None }; NOTES.len()],
            note_at: None,
        })
    }

    /// Returns when told to stop, with what could be sent in time sent.
    fn ship(mut self) -> Result<(), ShipError> {
        let mut stop_by = None;
        loop {
            let sent = if self.has_room() { self.send_records()? } else { 0 };
            self.send_checkpoints()?;
            self.producer.poll(if sent > 0 { Duration::ZERO } else { POLL });
            self.note_progress()?;
            if self.shared.stopping() {
                let Some(stop_by) = stop_by else {
                    stop_by = Some(Instant::now() + DRAIN_MAX);
                    // The node's last checkpoint may be a moment old, and the trail waits for it.
                    self.note_at = None;
                    continue;
                };
                let idle = sent == 0 && self.acks.in_flight().0 == 0;
                if idle || Instant::now() >= stop_by {
                    return self.save_cursor();
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let (messages, bytes) = self.acks.in_flight();
        messages < IN_FLIGHT_MAX && bytes < IN_FLIGHT_BYTES_MAX
    }

    fn send_records(&mut self) -> Result<usize, ShipError> {
        let durable = self.reader.durable().map_err(ShipError::Journal)?;
        self.shared.durable_seq.store(durable, Ordering::Relaxed);
        let frames = self.reader.next(READ_FRAMES).map_err(ShipError::Journal)?;
        let first_seq = self.reader.next_seq() - frames.len() as u64;
        for (seq, frame) in (first_seq..).zip(&frames) {
            fail::fail_point!("ship::before_produce", |_| std::process::abort());
            self.send_record(seq, frame)?;
        }
        Ok(frames.len())
    }

    fn send_record(&self, seq: u64, frame: &Frame) -> Result<(), ShipError> {
        debug_assert_eq!(Leaf::decode(&frame.leaf).map(|leaf| leaf.seq), Ok(seq));
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: topics::HEADER_SALT, value: Some(&frame.salt) })
            .insert(Header { key: topics::HEADER_LEAF, value: Some(&frame.leaf) });
        let sent = Sent::Record { seq, bytes: frame.payload.len() + frame.leaf.len() };
        let record = BaseRecord::with_opaque_to(topics::AUDIT, Box::new(sent))
            .key(&self.key)
            .payload(&frame.payload[..])
            .headers(headers);
        self.send(sent, record)
    }

    /// Sends the newest checkpoint, and the newest cosigned one, each when it is another than last time.
    fn send_checkpoints(&mut self) -> Result<(), ShipError> {
        if self.note_at.is_some_and(|at| at.elapsed() < CHECKPOINT_EVERY) {
            return Ok(());
        }
        self.note_at = Some(Instant::now());
        for (at, name) in NOTES.into_iter().enumerate() {
            // Replaced by rename, so it is whole; before the first one there is none.
            let note = read_note(&self.config.checkpoints_dir.join(name));
            let (Some(note), Some(sent)) = (note, self.notes.get(at)) else { continue };
            if sent.as_ref() == Some(&note) {
                continue;
            }
            self.send_note(&note)?;
            if let Some(sent) = self.notes.get_mut(at) {
                *sent = Some(note);
            }
        }
        Ok(())
    }

    fn send_note(&self, note: &str) -> Result<(), ShipError> {
        let record = BaseRecord::with_opaque_to(topics::CHECKPOINTS, Box::new(Sent::Checkpoint));
        self.send(Sent::Checkpoint, record.key(&self.key).payload(note.as_bytes()))
    }

    /// Hands one message to the producer; a full queue waits for reports, as long as nothing failed.
    fn send(&self, sent: Sent, mut record: BaseRecord<'_, String, [u8], Box<Sent>>) -> Result<(), ShipError> {
        self.acks.sent(sent);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(POLL);
                    self.fail_on_report()?;
                }
                Err((source, _)) => return Err(ShipError::Kafka { step: "hand a message to", source }),
            }
        }
    }

    fn note_progress(&mut self) -> Result<(), ShipError> {
        let next_seq = self.acks.next_seq();
        if self.shared.shipped_seq.swap(next_seq, Ordering::Relaxed) != next_seq {
            fail::fail_point!("ship::after_ack", |_| std::process::abort());
            self.shared.trouble.lock().take();
        }
        if let Err(error) = self.fail_on_report() {
            self.save_cursor()?;
            return Err(error);
        }
        if self.cursor_at.elapsed() >= CURSOR_EVERY { self.save_cursor() } else { Ok(()) }
    }

    fn fail_on_report(&self) -> Result<(), ShipError> {
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            return Err(ShipError::Delivery(format!("{code}: {reason}")));
        }
        self.acks.failed().map_or(Ok(()), |reason| Err(ShipError::Delivery(reason)))
    }

    fn save_cursor(&mut self) -> Result<(), ShipError> {
        self.cursor_at = Instant::now();
        self.cursor.save(self.acks.next_seq()).map_err(ShipError::Cursor)
    }
}

fn cluster_id(brokers: &str) -> Result<String, ShipError> {
    let client = producer(brokers, 0)?;
    client.client().fetch_cluster_id(CONNECT_TIMEOUT).ok_or_else(|| ShipError::Unreachable(brokers.to_owned()))
}

fn producer(brokers: &str, next_seq: u64) -> Result<BaseProducer<Acks>, ShipError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("client.id", "keytrail-ship")
        // Implies acks=all and at most five requests in flight, in order.
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // Records wait for the broker for as long as it takes; what bounds memory is IN_FLIGHT_MAX.
        .set("message.timeout.ms", "0")
        .set("message.max.bytes", topics::AUDIT_MESSAGE_BYTES_MAX.to_string())
        .set("queue.buffering.max.messages", (IN_FLIGHT_MAX + 2 * READ_FRAMES).to_string())
        .set("linger.ms", "2")
        .set("compression.type", "lz4")
        // As Java clients do, so that every producer puts a log into the same partition.
        .set("partitioner", "murmur2_random")
        .set("reconnect.backoff.max.ms", "1000")
        .create_with_context(Acks::from(next_seq))
        .map_err(|source| ShipError::Kafka { step: "make a producer for", source })
}

fn read_note(path: &Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    (length <= NOTE_BYTES_MAX).then(|| std::fs::read_to_string(path).ok()).flatten()
}
