//! Signed alerts to `keytrail.alerts`, for a responder that does not share this machine.
//!
//! A thread reads trail.db as any other reader would and sends what is new, in order; the rules never wait for it. What
//! it has sent is kept in `meta` and is a hint: an alert that comes twice is known to the responder by id and revision.
//! Whoever can write to the topic can repeat alerts, never make one: the responder checks signature and evidence.

use crate::alert::SignedAlert;
use crate::describe;
use keytrail_kms::topics;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Alerts read from trail.db at once; each may have a mebibyte.
const READ_ALERTS: i64 = 32;
/// Pause before trail.db is looked at again: part of the time from a call to its containment.
const POLL: Duration = Duration::from_millis(20);
/// Pause after trouble.
const RETRY: Duration = Duration::from_secs(1);
/// How long a stop may take to send what is there.
const LAST_TURN: Duration = Duration::from_secs(1);
/// How long trail.db may be locked by its owner.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Key in `meta`: position of the last alert that the broker has.
const SENT_KEY: &str = "alerts_sent";

/// Why an alert is not on the topic.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The client cannot be made, or the broker refuses.
    #[error("cannot publish to topic {}", topics::ALERTS)]
    Kafka(#[source] KafkaError),
    /// The table of alerts cannot be read.
    #[error("cannot read alerts to publish")]
    Store(#[source] rusqlite::Error),
    /// The thread cannot start.
    #[error("cannot start the thread that publishes alerts")]
    Thread(#[source] std::io::Error),
}

/// Writes alerts to the topic.
pub struct KafkaAlerts {
    producer: FutureProducer,
}

impl KafkaAlerts {
    /// A publisher; the broker may be away now.
    pub fn new(brokers: &str) -> Result<Self, PublishError> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "keytrail-alerts")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Alerts wait for the broker for as long as it takes.
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", topics::ALERT_MESSAGE_BYTES_MAX.to_string())
            .set("linger.ms", "0")
            .set("reconnect.backoff.max.ms", "1000")
            .create()
            .map_err(PublishError::Kafka)?;
        Ok(Self { producer })
    }

    /// Returns when all replicas in sync have the alert.
    pub async fn publish(&self, alert_id: &str, alert: &SignedAlert) -> Result<(), PublishError> {
        let signature = hex::encode(alert.signature);
        let headers = OwnedHeaders::new().insert(Header { key: topics::HEADER_SIGNATURE, value: Some(&signature) });
        let record = FutureRecord::to(topics::ALERTS).key(alert_id).payload(&alert.json).headers(headers);
        let sent = self.producer.send(record, Timeout::Never).await;
        sent.map(|_| ()).map_err(|(error, _)| PublishError::Kafka(error))
    }
}

/// Starts publishing what is in a trail.db.
#[derive(Debug)]
pub struct AlertRelay;

impl AlertRelay {
    /// Starts the thread. Neither trail.db nor the broker need be there yet.
    pub fn start(trail_db: &Path, brokers: &str) -> Result<RunningRelay, PublishError> {
        let alerts = KafkaAlerts::new(brokers)?;
        let (stop, stopped) = watch::channel(false);
        let sent = Arc::new(AtomicI64::new(0));
        let relay = Relay { path: trail_db.to_owned(), alerts, sent: sent.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(PublishError::Thread)?;
        let body = move || runtime.block_on(relay.run(stopped));
        let thread = std::thread::Builder::new().name("alert-relay".into()).spawn(body);
        Ok(RunningRelay { stop, sent, thread: Some(thread.map_err(PublishError::Thread)?) })
    }
}

/// A relay at work. Dropped, it stops.
#[derive(Debug)]
pub struct RunningRelay {
    stop: watch::Sender<bool>,
    sent: Arc<AtomicI64>,
    thread: Option<JoinHandle<()>>,
}

impl RunningRelay {
    /// Position in trail.db of the last alert that the broker has.
    pub fn sent(&self) -> i64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for RunningRelay {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that publishes alerts panicked");
        }
    }
}

struct Relay {
    path: PathBuf,
    alerts: KafkaAlerts,
    sent: Arc<AtomicI64>,
}

/// One row to be sent.
struct Row {
    position: i64,
    alert_id: String,
    alert: SignedAlert,
}

impl Relay {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut db = None;
        while !*stopped.borrow() {
            let pause = tokio::select! {
                biased;
                // An error means that whoever could stop us is gone.
                _ = stopped.changed() => break,
                turn = self.turn(&mut db) => match turn {
                    Ok(0) => POLL,
                    Ok(_) => Duration::ZERO,
                    Err(error) => {
                        tracing::warn!(error = describe(&error), "alerts are not published, trying again");
                        db = None;
                        RETRY
                    }
                },
            };
            tokio::select! {
                biased;
                _ = stopped.changed() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        // What was raised just before the stop; what does not get through is sent by the next run.
        if let Ok(Err(error)) = tokio::time::timeout(LAST_TURN, self.turn(&mut db)).await {
            tracing::debug!(error = describe(&error), "last alerts are not published");
        }
    }

    /// Sends what is new, oldest first. Returns how many.
    async fn turn(&self, db: &mut Option<Connection>) -> Result<usize, PublishError> {
        let db = match db {
            Some(db) => db,
            None if self.path.exists() => db.insert(self.open().map_err(PublishError::Store)?),
            None => return Ok(0),
        };
        let rows = rows(db, self.sent.load(Ordering::Relaxed)).map_err(PublishError::Store)?;
        for row in &rows {
            self.alerts.publish(&row.alert_id, &row.alert).await?;
            self.sent.store(row.position, Ordering::Relaxed);
        }
        if let Some(last) = rows.last() {
            keep(db, last.position).map_err(PublishError::Store)?;
        }
        Ok(rows.len())
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        // Never created here: its owner decides what is in it.
        let db = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        let kept: Option<i64> =
            db.query_row("SELECT value FROM meta WHERE key = ?1", [SENT_KEY], |row| row.get(0)).optional()?;
        self.sent.fetch_max(kept.unwrap_or_default(), Ordering::Relaxed);
        Ok(db)
    }
}

fn rows(db: &Connection, above: i64) -> rusqlite::Result<Vec<Row>> {
    let sql = "SELECT position, alert_id, json, signature FROM alerts WHERE position > ?1 ORDER BY position LIMIT ?2";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![above, READ_ALERTS], |row| {
        Ok(Row {
            position: row.get(0)?,
            alert_id: row.get(1)?,
            alert: SignedAlert { json: row.get(2)?, signature: row.get(3)? },
        })
    })?;
    rows.collect()
}

fn keep(db: &Connection, position: i64) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO meta(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = excluded.value";
    db.execute(sql, params![SENT_KEY, position])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::Store;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message};
    use rdkafka::mocking::MockCluster;
    use rdkafka::{Offset, TopicPartitionList};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn insert(path: &Path, numbers: std::ops::Range<u8>) {
        let db = Connection::open(path).unwrap();
        db.busy_timeout(BUSY_TIMEOUT).unwrap();
        for number in numbers {
            db.execute(
                "INSERT INTO alerts(alert_id, revision, json, signature, created_us) VALUES (?1, 1, ?2, ?3, 0)",
                params![format!("alert-{number}"), format!("{{\"n\":{number}}}").into_bytes(), [number; 64]],
            )
            .unwrap();
        }
    }

    fn until(relay: &RunningRelay, position: i64) {
        let started = Instant::now();
        while relay.sent() < position {
            assert!(started.elapsed() < PATIENCE, "{} of {position} sent", relay.sent());
            std::thread::yield_now();
        }
    }

    fn read(brokers: &str, count: usize) -> Vec<(String, String)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topics::ALERTS, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let mut alerts = Vec::new();
        let started = Instant::now();
        while alerts.len() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} alerts came", alerts.len());
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            let header = message.headers().unwrap().get(0);
            assert_eq!(header.key, topics::HEADER_SIGNATURE);
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            alerts.push((text(message.key()), text(header.value)));
        }
        alerts
    }

    #[test]
    fn alerts_are_published_in_order_once_over_a_restart_and_a_broker_that_was_away() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(topics::ALERTS, 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trail.db");
        // The relay is there first.
        let relay = AlertRelay::start(&path, &brokers).unwrap();
        let _owner = Store::open(&path).unwrap();
        insert(&path, 0..3);
        until(&relay, 3);
        cluster.broker_down(1).unwrap();
        insert(&path, 3..5);
        cluster.broker_up(1).unwrap();
        until(&relay, 5);
        drop(relay);
        insert(&path, 5..6);
        let relay = AlertRelay::start(&path, &brokers).unwrap();
        until(&relay, 6);
        drop(relay);
        let alerts = read(&brokers, 6);
        let expected: Vec<_> = (0..6_u8).map(|n| (format!("alert-{n}"), hex::encode([n; 64]))).collect();
        assert_eq!(alerts, expected);
    }
}
