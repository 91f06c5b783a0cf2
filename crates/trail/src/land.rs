//! Landing: recomputes every link before a record reaches the lake; dedupes, waits for gaps, names forks.
//!
//! The transport is untrusted. Per log the lander holds the next seq and the link that its leaf must carry; a record
//! whose payload, digest or link does not fit never lands. It is reported and the genuine one is fetched from the node.
//! Nothing is skipped: a log stands still until its next record is there. A link tells the order, not the author:
//! records that somebody linked ahead of the genuine ones are taken back by [`Lander::rewind`] (`service/unproved.rs`).

use crate::describe;
use crate::source::SourceFrame;
use async_trait::async_trait;
use keytrail_kms::chain::{Leaf, Link, LogId};
use keytrail_kms::clock::Clock;
use keytrail_kms::journal::Frame;
use keytrail_kms::journal::frame::PAYLOAD_BYTES_MAX;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A frame whose payload and link were checked, with its leaf decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedFrame {
    /// The decoded leaf.
    pub leaf: Leaf,
    /// The frame as it came.
    pub frame: Frame,
}

/// A dense run of verified frames of one log, extending what landed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landed {
    /// Which log.
    pub log: LogId,
    /// Seq of the first frame.
    pub first_seq: u64,
    /// At least one frame; seqs without holes.
    pub frames: Vec<VerifiedFrame>,
}

impl Landed {
    /// Where the log stands after these frames.
    pub fn position(&self) -> Position {
        let link = self.frames.last().map_or(Link::ZERO, |last| last.frame.link());
        Position { next_seq: self.first_seq + self.frames.len() as u64, link }
    }
}

/// Where a log stands: the next seq and the link that its leaf must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The seq that lands next.
    pub next_seq: u64,
    /// Link of the last landed leaf; zeros before the first.
    pub link: Link,
}

impl Position {
    /// Before the first record of a log.
    pub const START: Self = Self { next_seq: 0, link: Link::ZERO };
}

/// Something that must not happen with an honest log and transport. Always reported, never a reason to skip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Two records claim one seq: the link that was expected or landed, and the one that came.
    Fork {
        /// Which log.
        log: LogId,
        /// The contested seq.
        seq: u64,
        /// Hex link: of the landed leaf, or the previous link that the next leaf must carry.
        expected: Link,
        /// The link that came instead.
        found: Link,
        /// True when a record with this seq had landed already; false when the newcomer was refused before that.
        landed: bool,
    },
    /// Records are missing for longer than the alarm's bound.
    Gap {
        /// Which log.
        log: LogId,
        /// First missing seq.
        first: u64,
        /// Last missing seq.
        last: u64,
    },
    /// Leaf, length or digest do not hold together, or the frame names another log than its leaf.
    BadFrame {
        /// The log that the frame was said to belong to.
        log: LogId,
        /// Its seq when the leaf could be read.
        seq: Option<u64>,
        /// What does not hold.
        reason: String,
    },
    /// A log that this trail was not told to land.
    UnknownLog {
        /// Which log.
        log: LogId,
    },
}

/// Fetches missing records from the node that wrote them.
#[async_trait]
pub trait GapFetcher: Send + Sync {
    /// At most `count` frames of `log` from seq `first` on; may return fewer. Verified like any other.
    async fn fetch(&self, log: LogId, first: u64, count: u64) -> Result<Vec<Frame>, FetchError>;
}

/// Why missing records could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("missing records cannot be fetched")]
pub struct FetchError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Bounds of the lander.
#[derive(Clone, Debug)]
pub struct LanderOptions {
    /// Logs to land; others are reported. Without this a writer to the transport could invent a whole log.
    pub logs: HashSet<LogId>,
    /// Most frames held above a gap, per log; what exceeds it is fetched again later.
    pub held_frames_max: usize,
    /// Most payload bytes held above a gap, per log.
    pub held_bytes_max: usize,
    /// A gap older than this is reported.
    pub gap_alarm: Duration,
    /// Pause between two failed fetches.
    pub fetch_pause: Duration,
    /// Most frames asked for at once.
    pub fetch_frames: u64,
    /// Links remembered per log, to tell a repeat from a fork; 32 bytes each.
    pub recent_links: usize,
    /// Most findings of one call; further ones are counted only, so that a flood of forged records floods nobody.
    pub findings_max: usize,
}

impl LanderOptions {
    /// The usual bounds, for these logs.
    pub fn for_logs(logs: impl IntoIterator<Item = LogId>) -> Self {
        Self {
            logs: logs.into_iter().collect(),
            held_frames_max: 65_536,
            held_bytes_max: 64 << 20,
            gap_alarm: Duration::from_secs(60),
            fetch_pause: Duration::from_secs(1),
            fetch_frames: 1_000,
            recent_links: 65_536,
            findings_max: 32,
        }
    }
}

/// What one call landed and found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Dense runs, in the order in which they must reach the lake.
    pub landed: Vec<Landed>,
    /// At most `findings_max` findings.
    pub findings: Vec<Integrity>,
    /// Findings beyond that.
    pub suppressed: u64,
    /// Repeats that were dropped.
    pub repeats: u64,
    /// Logs whose node has other records than those landed last: somebody was faster on the transport.
    pub contradicted: Vec<LogId>,
}

impl Outcome {
    fn find(&mut self, finding: Integrity, findings_max: usize) {
        if self.findings.len() < findings_max && !self.findings.contains(&finding) {
            tracing::warn!(?finding, "integrity finding");
            self.findings.push(finding);
        } else {
            self.suppressed += 1;
        }
    }
}

/// Verifies what sources bring, per log.
pub struct Lander {
    options: LanderOptions,
    clock: Arc<dyn Clock>,
    fetcher: Option<Arc<dyn GapFetcher>>,
    logs: HashMap<LogId, LogState>,
}

struct LogState {
    position: Position,
    /// Links of the last landed leaves; the last belongs to `position.next_seq - 1`.
    recent: VecDeque<Link>,
    /// Verified payloads waiting for their predecessors, by seq.
    held: BTreeMap<u64, VerifiedFrame>,
    held_bytes: usize,
    gap_since_us: Option<u64>,
    gap_reported: bool,
    fetch_not_before_us: u64,
    /// Records were taken back: the next ones come from the node, or the same stranger would be faster again.
    contested: bool,
}

/// Who brought a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Transport,
    Node,
}

impl Lander {
    /// A lander that goes on at `positions`; logs without one start at their first record.
    pub fn new(
        positions: impl IntoIterator<Item = (LogId, Position)>,
        options: LanderOptions,
        clock: Arc<dyn Clock>,
        fetcher: Option<Arc<dyn GapFetcher>>,
    ) -> Self {
        let logs = positions.into_iter().map(|(log, position)| (log, LogState::new(position))).collect();
        Self { options, clock, fetcher, logs }
    }

    /// Where `log` stands.
    pub fn position(&self, log: LogId) -> Position {
        self.logs.get(&log).map_or(Position::START, |state| state.position)
    }

    /// Verifies frames in the order given and returns what extends its log. Also to be called without frames, from
    /// time to time: it then works on open gaps.
    pub async fn land(&mut self, frames: Vec<SourceFrame>) -> Outcome {
        let mut outcome = Outcome::default();
        for frame in frames {
            self.take(frame, Via::Transport, &mut outcome);
        }
        let gaps: Vec<LogId> =
            self.logs.iter().filter(|(_, state)| state.gap_since_us.is_some()).map(|(log, _)| *log).collect();
        for log in gaps {
            self.close_gap(log, &mut outcome).await;
        }
        outcome
    }

    /// Forgets what landed from `position` on, because it was not genuine: what is, is fetched from the node.
    pub fn rewind(&mut self, log: LogId, position: Position) {
        let Some(state) = self.logs.get_mut(&log) else { return };
        let back = usize::try_from(state.position.next_seq - position.next_seq).unwrap_or(usize::MAX);
        state.recent.truncate(state.recent.len().saturating_sub(back));
        state.position = position;
        state.gap_since_us = Some(self.clock.now_us());
        state.gap_reported = false;
        state.contested = true;
    }

    fn take(&mut self, source: SourceFrame, via: Via, outcome: &mut Outcome) {
        let SourceFrame { log, frame } = source;
        let findings_max = self.options.findings_max;
        if !self.options.logs.contains(&log) {
            return outcome.find(Integrity::UnknownLog { log }, findings_max);
        }
        let bad = |seq, reason| Integrity::BadFrame { log, seq, reason };
        let leaf = match frame.verify() {
            Ok(leaf) if frame.payload.len() > PAYLOAD_BYTES_MAX => {
                return outcome.find(bad(Some(leaf.seq), "payload is over the limit".into()), findings_max);
            }
            Ok(leaf) if leaf.log == log => leaf,
            Ok(leaf) => return outcome.find(bad(Some(leaf.seq), "leaf names another log".into()), findings_max),
            Err(error) => {
                let seq = Leaf::decode(&frame.leaf).ok().map(|leaf| leaf.seq);
                return outcome.find(bad(seq, describe(&error)), findings_max);
            }
        };
        let state = self.logs.entry(log).or_insert_with(|| LogState::new(Position::START));
        let verified = VerifiedFrame { leaf, frame };
        if leaf.seq < state.position.next_seq {
            state.compare_repeat(&verified, outcome, findings_max);
        } else if state.contested && via == Via::Transport {
            // Comes from the node with the others.
        } else if leaf.seq > state.position.next_seq {
            state.hold(verified, &self.options, self.clock.now_us(), outcome);
        } else if leaf.prev != state.position.link {
            let finding = state.refusal(&leaf);
            outcome.find(finding, findings_max);
            // The genuine record is missing from here on, even when nothing above it came yet.
            state.gap_since_us.get_or_insert(self.clock.now_us());
            if via == Via::Node && !outcome.contradicted.contains(&log) {
                outcome.contradicted.push(log);
            }
        } else {
            state.extend(verified, &self.options, outcome);
            state.drain(&self.options, self.clock.now_us(), outcome);
        }
    }

    /// Fetches what is missing at the log's position; reports a gap that stays open for too long.
    async fn close_gap(&mut self, log: LogId, outcome: &mut Outcome) {
        let now_us = self.clock.now_us();
        let Some(state) = self.logs.get_mut(&log) else { return };
        let Some(since_us) = state.gap_since_us else { return };
        let first = state.position.next_seq;
        if let Some(fetcher) = self.fetcher.clone()
            && now_us >= state.fetch_not_before_us
        {
            state.fetch_not_before_us = now_us.saturating_add(micros(self.options.fetch_pause));
            let missing = state.first_held().map_or(self.options.fetch_frames, |held| held.saturating_sub(first));
            let count = missing.min(self.options.fetch_frames);
            match fetcher.fetch(log, first, count).await {
                Ok(frames) => {
                    tracing::info!(%log, first, count, fetched = frames.len(), "gap fetched");
                    for frame in frames {
                        self.take(SourceFrame { log, frame }, Via::Node, outcome);
                    }
                }
                Err(error) => tracing::warn!(%log, first, count, error = %describe(&error), "gap fetch failed"),
            }
        }
        let Some(state) = self.logs.get_mut(&log) else { return };
        let moved = state.position.next_seq > first;
        if moved {
            state.fetch_not_before_us = 0;
            state.contested = false;
        }
        let overdue = now_us.saturating_sub(since_us) >= micros(self.options.gap_alarm);
        if !moved && overdue && !state.gap_reported {
            state.gap_reported = true;
            let last = state.first_held().map_or(first, |held| held.saturating_sub(1));
            outcome.find(Integrity::Gap { log, first, last }, self.options.findings_max);
        }
    }
}

impl LogState {
    fn new(position: Position) -> Self {
        Self {
            position,
            recent: VecDeque::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            gap_since_us: None,
            gap_reported: false,
            fetch_not_before_us: 0,
            contested: false,
        }
    }

    /// A record that landed before: the same one again, or another one under the same seq. One too old to be compared
    /// counts as a repeat; it cannot land either way.
    fn compare_repeat(&self, verified: &VerifiedFrame, outcome: &mut Outcome, findings_max: usize) {
        let back = self.position.next_seq - verified.leaf.seq;
        let found = verified.frame.link();
        let landed = usize::try_from(back)
            .ok()
            .and_then(|back| self.recent.len().checked_sub(back))
            .and_then(|index| self.recent.get(index));
        match landed {
            Some(expected) if *expected != found => {
                let (log, seq) = (verified.leaf.log, verified.leaf.seq);
                outcome.find(Integrity::Fork { log, seq, expected: *expected, found, landed: true }, findings_max);
            }
            _ => outcome.repeats += 1,
        }
    }

    fn first_held(&self) -> Option<u64> {
        self.held.keys().next().copied()
    }

    fn hold(&mut self, verified: VerifiedFrame, options: &LanderOptions, now_us: u64, outcome: &mut Outcome) {
        self.gap_since_us.get_or_insert(now_us);
        let bytes = verified.frame.payload.len();
        let distance = usize::try_from(verified.leaf.seq - self.position.next_seq).unwrap_or(usize::MAX);
        if distance >= options.held_frames_max || self.held_bytes + bytes > options.held_bytes_max {
            // Dropped, not lost: its seq is part of a gap and is fetched when the log gets there. A seq that the log may
            // never reach would keep the gap open for ever.
            return;
        }
        if let Some(other) = self.held.get(&verified.leaf.seq) {
            if other.frame.link() == verified.frame.link() {
                outcome.repeats += 1;
                return;
            }
            // Which one is genuine shows when the log gets there; keeping neither makes that a fetch.
            let finding = Integrity::Fork {
                log: verified.leaf.log,
                seq: verified.leaf.seq,
                expected: other.frame.link(),
                found: verified.frame.link(),
                landed: false,
            };
            outcome.find(finding, options.findings_max);
            if let Some(dropped) = self.held.remove(&verified.leaf.seq) {
                self.held_bytes -= dropped.frame.payload.len();
            }
            return;
        }
        self.held_bytes += bytes;
        self.held.insert(verified.leaf.seq, verified);
    }

    fn refusal(&self, leaf: &Leaf) -> Integrity {
        let Position { link, .. } = self.position;
        Integrity::Fork { log: leaf.log, seq: leaf.seq, expected: link, found: leaf.prev, landed: false }
    }

    fn extend(&mut self, verified: VerifiedFrame, options: &LanderOptions, outcome: &mut Outcome) {
        let leaf = verified.leaf;
        self.position = Position { next_seq: leaf.seq + 1, link: verified.frame.link() };
        self.gap_since_us = None;
        self.gap_reported = false;
        if self.recent.len() >= options.recent_links {
            self.recent.pop_front();
        }
        self.recent.push_back(self.position.link);
        match outcome.landed.last_mut() {
            Some(run) if run.log == leaf.log => run.frames.push(verified),
            _ => outcome.landed.push(Landed { log: leaf.log, first_seq: leaf.seq, frames: vec![verified] }),
        }
    }

    /// Lands held frames that now follow; one that does not fit is refused and its seq stays open.
    fn drain(&mut self, options: &LanderOptions, now_us: u64, outcome: &mut Outcome) {
        let mut refused = false;
        while let Some(verified) = self.held.remove(&self.position.next_seq) {
            self.held_bytes -= verified.frame.payload.len();
            if verified.leaf.prev != self.position.link {
                outcome.find(self.refusal(&verified.leaf), options.findings_max);
                refused = true;
                break;
            }
            self.extend(verified, options, outcome);
        }
        // Refused above, or records further up still wait for others: a gap that begins now.
        if refused || !self.held.is_empty() {
            self.gap_since_us.get_or_insert(now_us);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use bytes::Bytes;
    use keytrail_kms::chain::Kind;
    use keytrail_kms::chain::leaf::payload_digest;
    use keytrail_kms::clock::FakeClock;
    use parking_lot::Mutex;

    pub(crate) fn log() -> LogId {
        LogId::of_origin("keytrail/test/node-0123456789abcdef")
    }

    /// `count` chained frames from seq 0 whose payloads say `tag`.
    pub(crate) fn chain(count: u64, tag: &str) -> Vec<Frame> {
        extend(Position::START, count, tag)
    }

    /// `count` frames that follow `from`.
    pub(crate) fn extend(from: Position, count: u64, tag: &str) -> Vec<Frame> {
        let mut link = from.link;
        (from.next_seq..from.next_seq + count)
            .map(|seq| {
                let payload = Bytes::from(format!("{{\"eventName\":\"{tag}\",\"n\":{seq}}}"));
                let frame = frame(seq, link, payload, Kind::Event);
                link = frame.link();
                frame
            })
            .collect()
    }

    pub(crate) fn frame(seq: u64, prev: Link, payload: Bytes, kind: Kind) -> Frame {
        let salt = [7; 16];
        let leaf = Leaf {
            log: log(),
            epoch: 1,
            seq,
            kind,
            time_us: 1_767_614_400_000_000 + seq,
            payload_len: u32::try_from(payload.len()).unwrap(),
            payload_digest: payload_digest(&salt, &payload),
            prev,
        };
        Frame { leaf: leaf.encode(), salt, payload }
    }

    pub(crate) fn lander(fetcher: Option<Arc<dyn GapFetcher>>) -> (Lander, Arc<FakeClock>) {
        let clock = Arc::new(FakeClock::default());
        (Lander::new([], LanderOptions::for_logs([log()]), clock.clone(), fetcher), clock)
    }

    fn sourced(frames: &[Frame]) -> Vec<SourceFrame> {
        frames.iter().map(|frame| SourceFrame { log: log(), frame: frame.clone() }).collect()
    }

    fn seqs(outcome: &Outcome) -> Vec<u64> {
        outcome.landed.iter().flat_map(|run| run.frames.iter().map(|frame| frame.leaf.seq)).collect()
    }

    /// The node: knows the genuine frames; can be away.
    struct Node {
        frames: Vec<Frame>,
        away: Mutex<bool>,
    }

    #[async_trait]
    impl GapFetcher for Node {
        async fn fetch(&self, _: LogId, first: u64, count: u64) -> Result<Vec<Frame>, FetchError> {
            if *self.away.lock() {
                return Err(FetchError("away".into()));
            }
            let wanted = first..first.saturating_add(count);
            let seq = |frame: &&Frame| Leaf::decode(&frame.leaf).unwrap().seq;
            Ok(self.frames.iter().filter(|frame| wanted.contains(&seq(frame))).cloned().collect())
        }
    }

    #[tokio::test]
    async fn frames_land_once_and_in_order() {
        let frames = chain(10, "a");
        let (mut lander, _) = lander(None);
        let outcome = lander.land(sourced(&frames[..6])).await;
        assert_eq!(seqs(&outcome), (0..6).collect::<Vec<_>>());
        assert_eq!(outcome.landed[0].position(), lander.position(log()));
        let again = lander.land(sourced(&frames)).await;
        assert_eq!(seqs(&again), (6..10).collect::<Vec<_>>());
        assert_eq!((again.repeats, again.findings.len()), (6, 0));
    }

    #[tokio::test]
    async fn disorder_lands_in_order() {
        let frames = chain(5, "a");
        let (mut lander, _) = lander(None);
        let shuffled: Vec<Frame> = [3, 1, 0, 4, 2].iter().map(|index| frames[*index].clone()).collect();
        assert_eq!(seqs(&lander.land(sourced(&shuffled)).await), [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn a_forged_record_never_lands_and_the_genuine_one_is_fetched() {
        let frames = chain(4, "a");
        let node = Arc::new(Node { frames: frames.clone(), away: Mutex::new(false) });
        let (mut lander, _) = lander(Some(node));
        lander.land(sourced(&frames[..1])).await;
        let forged = frame(1, Link([9; 32]), Bytes::from_static(b"{}"), Kind::Event);
        let mut altered = frames[1].clone();
        altered.payload = Bytes::from_static(b"{\"eventName\":\"other\"}");
        let outcome = lander.land(sourced(&[forged, altered, frames[3].clone()])).await;
        assert_eq!(seqs(&outcome), [1, 2, 3]);
        assert!(matches!(outcome.findings[0], Integrity::Fork { seq: 1, landed: false, .. }));
        assert!(matches!(outcome.findings[1], Integrity::BadFrame { seq: Some(1), .. }));
        assert_eq!(outcome.landed[0].frames[0].frame, frames[1]);
    }

    #[tokio::test]
    async fn records_linked_ahead_of_the_genuine_ones_are_taken_back() {
        let frames = chain(6, "a");
        let node = Arc::new(Node { frames: frames.clone(), away: Mutex::new(false) });
        let (mut lander, clock) = lander(Some(node));
        lander.land(sourced(&frames[..3])).await;
        let proved = lander.position(log());
        assert_eq!(seqs(&lander.land(sourced(&extend(proved, 2, "forged"))).await), [3, 4]);
        // The node has a record that does not follow the forged ones.
        let outcome = lander.land(sourced(&frames[5..])).await;
        assert_eq!(outcome.contradicted, [log()]);
        lander.rewind(log(), proved);
        clock.advance(Duration::from_secs(2));
        // Whoever is faster again is not listened to until the node has answered.
        let outcome = lander.land(sourced(&extend(proved, 1, "forged again"))).await;
        let landed: Vec<Frame> = outcome.landed[0].frames.iter().map(|verified| verified.frame.clone()).collect();
        assert_eq!(landed, frames[3..]);
        let again = lander.land(sourced(&frames)).await;
        assert_eq!((again.repeats, again.findings.len()), (6, 0), "links of what was taken back are forgotten");
    }

    #[tokio::test]
    async fn another_record_under_a_landed_seq_is_a_fork() {
        let (mut lander, _) = lander(None);
        lander.land(sourced(&chain(3, "a"))).await;
        let outcome = lander.land(sourced(&chain(3, "b")[2..])).await;
        assert!(matches!(outcome.findings[..], [Integrity::Fork { seq: 2, landed: true, .. }]));
        assert!(outcome.landed.is_empty());
    }

    #[tokio::test]
    async fn a_gap_is_held_reported_after_its_bound_and_closed_when_the_node_is_back() {
        let frames = chain(6, "a");
        let node = Arc::new(Node { frames: frames.clone(), away: Mutex::new(true) });
        let (mut lander, clock) = lander(Some(node.clone()));
        let outcome = lander.land(sourced(&frames[3..])).await;
        assert!(outcome.landed.is_empty() && outcome.findings.is_empty());
        clock.advance(Duration::from_secs(61));
        let outcome = lander.land(vec![]).await;
        assert_eq!(outcome.findings, [Integrity::Gap { log: log(), first: 0, last: 2 }]);
        *node.away.lock() = false;
        clock.advance(Duration::from_secs(2));
        assert_eq!(seqs(&lander.land(vec![]).await), [0, 1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_still_lands_through_the_node() {
        let frames = chain(8, "a");
        let node = Arc::new(Node { frames: frames.clone(), away: Mutex::new(false) });
        let clock = Arc::new(FakeClock::default());
        let options = LanderOptions { held_frames_max: 4, ..LanderOptions::for_logs([log()]) };
        let mut lander = Lander::new([], options, clock, Some(node));
        assert_eq!(seqs(&lander.land(sourced(&frames[2..7])).await), [0, 1, 2, 3]);
        assert_eq!(seqs(&lander.land(sourced(&frames[7..])).await), [4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn unknown_logs_and_floods_of_findings_are_bounded() {
        let (mut lander, _) = lander(None);
        let other = LogId([1; 16]);
        let frames = chain(1, "a");
        let stranger = SourceFrame { log: other, frame: frames[0].clone() };
        let outcome = lander.land(vec![stranger; 100]).await;
        assert_eq!(outcome.findings, [Integrity::UnknownLog { log: other }]);
        assert_eq!(outcome.suppressed, 99);
        let misplaced = SourceFrame { log: log(), frame: Frame { leaf: [0; 110], ..frames[0].clone() } };
        let outcome = lander.land(vec![misplaced]).await;
        assert!(matches!(outcome.findings[..], [Integrity::BadFrame { seq: None, .. }]));
    }
}
