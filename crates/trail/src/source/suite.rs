//! What every source must do, as one suite over a harness: the journal and Kafka pass the same tests.
//!
//! A harness can write records to its transport and open a source as after a restart. Everything that comes out is put
//! through a real [`Lander`], so the suite speaks about what lands, not about how frames arrive.

use super::FrameSource;
use crate::land::{Lander, LanderOptions, Outcome, Position};
use async_trait::async_trait;
use bytes::Bytes;
use keytrail_kms::chain::LogId;
use keytrail_kms::clock::SystemClock;
use keytrail_kms::journal::frame::PAYLOAD_BYTES_MAX;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A transport under test, with one log in it.
#[async_trait]
pub trait Harness: Send {
    /// The log that the harness writes.
    fn log(&self) -> LogId;

    /// Appends one kind-1 record for each payload and returns when they are durable in the transport.
    async fn write(&mut self, payloads: &[Bytes]);

    /// A source as a fresh process would open it, `from` being where the lake stands.
    async fn open(&mut self, from: Position) -> Box<dyn FrameSource>;
}

/// How long the suite waits for a condition before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the whole suite on an empty transport.
pub async fn run(harness: &mut dyn Harness) {
    let mut expected: Vec<Bytes> = Vec::new();
    let mut landed = LandedSoFar::new(harness.log());

    // An empty transport gives nothing and no error.
    let mut source = harness.open(Position::START).await;
    assert!(source.next(10).await.expect("an empty transport is not an error").is_empty());

    // What is written arrives once, in order, byte for byte, the largest payload too.
    let mut payloads: Vec<Bytes> = (0..300).map(|n| Bytes::from(format!("{{\"n\":{n}}}"))).collect();
    payloads.push(Bytes::from(vec![b'x'; PAYLOAD_BYTES_MAX]));
    harness.write(&payloads).await;
    expected.extend(payloads);
    landed.until(source.as_mut(), expected.len(), 64).await;
    assert_eq!(landed.payloads, expected);

    // Records written while the source is open arrive too; a cancelled call loses none of them.
    for n in 0..20 {
        drop(tokio::time::timeout(Duration::from_millis(1), source.next(10)).await.map(|frames| {
            landed.pending.extend(frames.expect("source works"));
        }));
        let payload = Bytes::from(format!("{{\"later\":{n}}}"));
        harness.write(std::slice::from_ref(&payload)).await;
        expected.push(payload);
    }
    landed.until(source.as_mut(), expected.len(), 7).await;
    assert_eq!(landed.payloads, expected);

    // After a restart nothing is missing above the position, whatever was reported as committed.
    let position = landed.position();
    source.committed(harness.log(), position.next_seq).await.expect("commit is taken");
    drop(source);
    let payloads: Vec<Bytes> = (0..50).map(|n| Bytes::from(format!("{{\"restarted\":{n}}}"))).collect();
    harness.write(&payloads).await;
    expected.extend(payloads);
    let mut source = harness.open(position).await;
    landed.until(source.as_mut(), expected.len(), 10).await;
    assert_eq!(landed.payloads, expected);

    // A crash before the position moved: the records above it come again and land as the same ones.
    drop(source);
    let mut again = LandedSoFar::at(harness.log(), position, landed.payloads.len() - 50);
    let mut source = harness.open(position).await;
    again.until(source.as_mut(), expected.len(), 10).await;
    assert_eq!(again.payloads, expected[expected.len() - 50..]);
}

/// Everything that landed, through a real lander.
struct LandedSoFar {
    log: LogId,
    lander: Lander,
    before: usize,
    pending: Vec<super::SourceFrame>,
    payloads: Vec<Bytes>,
}

impl LandedSoFar {
    fn new(log: LogId) -> Self {
        Self::at(log, Position::START, 0)
    }

    fn at(log: LogId, position: Position, before: usize) -> Self {
        let lander = Lander::new([(log, position)], LanderOptions::for_logs([log]), Arc::new(SystemClock), None);
        Self { log, lander, before, pending: Vec::new(), payloads: Vec::new() }
    }

    fn position(&self) -> Position {
        self.lander.position(self.log)
    }

    async fn until(&mut self, source: &mut dyn FrameSource, count: usize, frames_max: usize) {
        let started = Instant::now();
        while self.before + self.payloads.len() < count {
            assert!(started.elapsed() < PATIENCE, "{} of {count} records landed", self.before + self.payloads.len());
            let frames = source.next(frames_max).await.expect("source works");
            assert!(frames.len() <= frames_max, "asked for {frames_max}, got {}", frames.len());
            self.pending.extend(frames);
            let Outcome { landed, findings, .. } = self.lander.land(std::mem::take(&mut self.pending)).await;
            assert_eq!(findings, []);
            self.payloads.extend(landed.into_iter().flat_map(|run| run.frames).map(|verified| verified.frame.payload));
        }
    }
}
