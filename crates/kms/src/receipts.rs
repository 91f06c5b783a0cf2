//! Receipts checked against the log: what callers kept of the headers of their answers must be under the checkpoint.
//!
//! A receipt is one JSON line: `log`, `seq`, `leaf` (from `x-keytrail-log`, `-seq`, `-leaf`), `requestId` and `time` (the
//! answer's `Date`). Whoever answers a call without recording it, or cuts a record out later, cannot take back the
//! receipt: each leaf commits to all leaves before it, so every receipt from there on shows another leaf.

use crate::chain::LeafHash;
use crate::chain::tree::BLOCK_LEAVES;
use crate::tiles::{LogView, TileSource, TilesError};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::io::{self, BufRead, Read};

/// Longest line read.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Receipts sorted and checked at once: some 150 MB.
const CHUNK_RECEIPTS: usize = 1_000_000;
/// `Date` is in whole seconds, and is set when the answer is made.
const DATE_SLACK_US: i64 = 5_000_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    log: String,
    seq: u64,
    leaf: String,
    request_id: String,
    time: DateTime<Utc>,
}

/// What is to be said about one receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another record stands at this seq.
    OtherLeaf,
    /// The log ends before this seq although its newest record is younger than the receipt.
    Absent,
    /// Above the checkpoint: a later one must show it. No fault yet.
    Pending,
    /// Of another log than the one at hand. No fault, but nothing was checked.
    OtherLog,
    /// Not a receipt.
    Unreadable,
}

impl Fault {
    /// Whether the log, or the file, is at fault; otherwise it is too early to say, or said elsewhere.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::OtherLeaf | Self::Absent | Self::Unreadable)
    }

    /// In words.
    pub fn text(self) -> &'static str {
        match self {
            Self::OtherLeaf => "another record stands there",
            Self::Absent => "the log has no such record, but younger ones",
            Self::Pending => "pending: above the checkpoint",
            Self::OtherLog => "of another log",
            Self::Unreadable => "not a receipt",
        }
    }
}

/// A receipt that is not shown to be in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its line in the file, from 1.
    pub line: u64,
    /// Its request id, as far as it can be read.
    pub request_id: String,
    /// Its seq.
    pub seq: Option<u64>,
    /// Why.
    pub fault: Fault,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Receipts that are in the log.
    pub present: u64,
    /// Receipts that should be and are not.
    pub failed: u64,
    /// Receipts above the checkpoint, or of another log.
    pub open: u64,
}

/// Why receipts cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptsError {
    /// The file cannot be read.
    #[error("cannot read receipts")]
    Read(#[source] io::Error),
    /// The log cannot be read, or is not the one of its checkpoint.
    #[error("log cannot be read")]
    Log(#[from] TilesError),
}

/// Checks a file of receipts; `tell` is told of each that is not in the log, in the order of seqs.
pub fn check<S: TileSource>(
    log: &mut LogView<S>,
    mut file: impl BufRead,
    mut tell: impl FnMut(&Finding),
) -> Result<Summary, ReceiptsError> {
    let mut check = Check { log, newest_us: None, block: None, summary: Summary::default() };
    let (mut line, mut bytes, mut chunk) = (0, Vec::new(), Vec::new());
    loop {
        let more = read_line(&mut file, &mut bytes).map_err(ReceiptsError::Read)?;
        if more && !bytes.trim_ascii().is_empty() {
            let receipt = if bytes.len() > LINE_BYTES_MAX { None } else { serde_json::from_slice(&bytes).ok() };
            chunk.push((line + 1, receipt));
        }
        line += 1;
        if !more || chunk.len() >= CHUNK_RECEIPTS {
            check.chunk(&mut chunk, &mut tell)?;
        }
        if !more {
            return Ok(check.summary);
        }
    }
}

struct Check<'a, S> {
    log: &'a mut LogView<S>,
    /// Time of the newest record under the checkpoint, once it is needed.
    newest_us: Option<i64>,
    /// The block of leaf hashes looked at last.
    block: Option<(u64, Vec<LeafHash>)>,
    summary: Summary,
}

impl<S: TileSource> Check<'_, S> {
    fn chunk(
        &mut self,
        chunk: &mut Vec<(u64, Option<Receipt>)>,
        tell: &mut impl FnMut(&Finding),
    ) -> Result<(), ReceiptsError> {
        // By seq, so that each tile is fetched and proved once.
        chunk.sort_by_key(|(_, receipt)| receipt.as_ref().map(|receipt| receipt.seq));
        for (line, receipt) in chunk.drain(..) {
            let fault = match &receipt {
                Some(receipt) => self.fault(receipt)?,
                None => Some(Fault::Unreadable),
            };
            match fault {
                None => self.summary.present += 1,
                Some(fault) if fault.is_failure() => self.summary.failed += 1,
                Some(_) => self.summary.open += 1,
            }
            if let Some(fault) = fault {
                let seq = receipt.as_ref().map(|receipt| receipt.seq);
                let request_id = receipt.map(|receipt| receipt.request_id).unwrap_or_default();
                tell(&Finding { line, request_id, seq, fault });
            }
        }
        Ok(())
    }

    fn fault(&mut self, receipt: &Receipt) -> Result<Option<Fault>, ReceiptsError> {
        if receipt.log != self.log.checkpoint().log_id().to_string() {
            return Ok(Some(Fault::OtherLog));
        }
        if receipt.seq >= self.log.checkpoint().size {
            // The log's times never fall: with a younger record under the checkpoint, this one's place has passed.
            let passed = receipt.time.timestamp_micros() + DATE_SLACK_US < self.newest_us()?;
            return Ok(Some(if passed { Fault::Absent } else { Fault::Pending }));
        }
        let block = receipt.seq / BLOCK_LEAVES;
        if self.block.as_ref().is_none_or(|(number, _)| *number != block) {
            self.block = Some((block, self.log.leaf_hashes(block)?));
        }
        let leaves = self.block.as_ref().map(|(_, leaves)| leaves.as_slice()).unwrap_or_default();
        let at = usize::try_from(receipt.seq % BLOCK_LEAVES).unwrap_or(usize::MAX);
        let same = leaves.get(at).is_some_and(|leaf| leaf.to_string() == receipt.leaf);
        Ok((!same).then_some(Fault::OtherLeaf))
    }

    fn newest_us(&mut self) -> Result<i64, TilesError> {
        if let Some(newest) = self.newest_us {
            return Ok(newest);
        }
        let newest = match self.log.checkpoint().size.checked_sub(1) {
            None => i64::MIN,
            Some(last) => i64::try_from(self.log.leaf(last)?.1.time_us).unwrap_or(i64::MAX),
        };
        Ok(*self.newest_us.insert(newest))
    }
}

/// The next line without more of it in memory than its bound and one byte; false at the end.
fn read_line(file: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    bytes.clear();
    let bound = LINE_BYTES_MAX as u64 + 1;
    if file.by_ref().take(bound).read_until(b'\n', bytes)? == 0 {
        return Ok(false);
    }
    let mut whole = bytes.ends_with(b"\n") || bytes.len() <= LINE_BYTES_MAX;
    while !whole {
        let rest = file.fill_buf()?;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(rest.len(), |end| end + 1);
        whole = end.is_some() || rest.is_empty();
        file.consume(used);
    }
    Ok(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;
    use crate::journal::Receipt as Appended;
    use crate::tiles::tests::{Folder, numbered};
    use std::collections::BTreeSet;
    use std::path::Path;

    /// A line as a collector writes it. Its time is the log's, in whole seconds.
    fn line(receipt: &Appended) -> String {
        let time = DateTime::<Utc>::from_timestamp_micros(i64::try_from(receipt.time_us).unwrap()).unwrap();
        format!(
            "{{\"log\":\"{}\",\"seq\":{},\"leaf\":\"{}\",\"requestId\":\"request-{}\",\"time\":\"{}\"}}\n",
            receipt.log,
            receipt.seq,
            receipt.leaf_hash,
            receipt.seq,
            time.format("%Y-%m-%dT%H:%M:%SZ")
        )
    }

    fn lines(receipts: &[Appended]) -> String {
        receipts.iter().map(line).collect()
    }

    fn checked(folder: &Folder, file: &str) -> (Summary, Vec<Finding>) {
        checked_in(folder, folder.path(), file)
    }

    fn checked_in(folder: &Folder, data: &Path, file: &str) -> (Summary, Vec<Finding>) {
        let mut findings = Vec::new();
        let mut tell = |finding: &Finding| findings.push(finding.clone());
        let summary = check(&mut folder.view_of(data), file.as_bytes(), &mut tell).unwrap();
        (summary, findings)
    }

    fn named(findings: &[Finding]) -> BTreeSet<String> {
        findings.iter().map(|finding| finding.request_id.clone()).collect()
    }

    #[test]
    fn receipts_of_a_whole_log_are_all_there_in_any_order() {
        let folder = Folder::new();
        let mut receipts = folder.append(numbered(3_000));
        folder.sign();
        receipts.reverse();
        let twice = lines(&receipts) + &lines(&receipts[..10]);
        assert_eq!(checked(&folder, &twice), (Summary { present: 3_010, failed: 0, open: 0 }, Vec::new()));
        assert_eq!(checked(&folder, ""), (Summary::default(), Vec::new()));
    }

    #[test]
    fn a_thousand_records_cut_from_the_end_are_named_and_no_others() {
        let folder = Folder::new();
        let receipts = folder.append(numbered(3_000));
        folder.sign();
        // Signed with the log's own key, and with other records in their place.
        let forged = folder.forged(|seq| seq < 2_000, 40);
        let (summary, findings) = checked_in(&folder, forged.path(), &lines(&receipts));
        assert_eq!(summary, Summary { present: 2_000, failed: 1_000, open: 0 });
        let expected = receipts[2_000..].iter().map(|receipt| format!("request-{}", receipt.seq)).collect();
        assert_eq!(named(&findings), expected);
        let of = |fault| findings.iter().filter(|finding| finding.fault == fault).count();
        assert_eq!((of(Fault::OtherLeaf), of(Fault::Absent)), (40, 960));
    }

    #[test]
    fn a_thousand_records_cut_from_the_middle_are_all_named() {
        let folder = Folder::new();
        let receipts = folder.append(numbered(3_000));
        folder.sign();
        let cut = |seq: u64| (500..2_500).contains(&seq) && seq.is_multiple_of(2);
        let forged = folder.forged(|seq| !cut(seq), 1);
        let (summary, findings) = checked_in(&folder, forged.path(), &lines(&receipts));
        // A leaf commits to all before it: from the first cut on no receipt holds, and none before it fails.
        assert_eq!(summary, Summary { present: 500, failed: 2_500, open: 0 });
        let names = named(&findings);
        assert!((0..3_000).filter(|seq| cut(*seq)).all(|seq| names.contains(&format!("request-{seq}"))));
        assert!(receipts[..500].iter().all(|receipt| !names.contains(&format!("request-{}", receipt.seq))));
    }

    #[test]
    fn a_thousand_altered_receipts_are_named_and_no_others() {
        let folder = Folder::new();
        let receipts = folder.append(numbered(3_000));
        folder.sign();
        let mut file = String::new();
        for receipt in &receipts {
            let mut receipt = *receipt;
            if receipt.seq % 3 == 1 {
                receipt.leaf_hash.0[usize::try_from(receipt.seq % 32).unwrap()] ^= 1;
            }
            file += &line(&receipt);
        }
        let (summary, findings) = checked(&folder, &file);
        assert_eq!(summary, Summary { present: 2_000, failed: 1_000, open: 0 });
        assert!(findings.iter().all(|finding| finding.fault == Fault::OtherLeaf && finding.seq.unwrap() % 3 == 1));
    }

    #[test]
    fn what_is_above_the_checkpoint_or_of_another_log_is_open() {
        let folder = Folder::new();
        let mut receipts = folder.append(numbered(10));
        folder.sign();
        receipts.extend(folder.append(numbered(2)));
        let foreign = line(&receipts[0]).replace(&receipts[0].log.to_string(), &"0".repeat(32));
        let (summary, findings) = checked(&folder, &(lines(&receipts) + &foreign));
        assert_eq!(summary, Summary { present: 10, failed: 0, open: 3 });
        let faults: Vec<_> = findings.iter().map(|finding| (finding.seq.unwrap(), finding.fault)).collect();
        assert_eq!(faults, [(0, Fault::OtherLog), (10, Fault::Pending), (11, Fault::Pending)]);
        // Once the log has gone on, its end is no excuse.
        let later = Appended { seq: 100, ..receipts[5] };
        folder.clock.advance(std::time::Duration::from_secs(60));
        folder.append(numbered(1));
        folder.sign();
        assert_eq!(checked(&folder, &line(&later)).1[0].fault, Fault::Absent);
        let young = Appended { time_us: FakeClock::START_US + 58_000_000, ..later };
        assert_eq!(checked(&folder, &line(&young)).1[0].fault, Fault::Pending);
    }

    #[test]
    fn lines_that_are_no_receipts_fail_by_their_number() {
        let folder = Folder::new();
        let receipts = folder.append(numbered(3));
        folder.sign();
        let good = lines(&receipts);
        let file = format!(
            "{good}{{\"log\":1}}\n\n{}\n{}\u{1}not json\n{}",
            "x".repeat(10_000),
            good,
            line(&receipts[0]).trim_end()
        );
        let (summary, findings) = checked(&folder, &file);
        assert_eq!(summary, Summary { present: 7, failed: 3, open: 0 });
        let found: Vec<_> = findings.iter().map(|finding| (finding.line, finding.fault)).collect();
        assert_eq!(found, [(4, Fault::Unreadable), (6, Fault::Unreadable), (10, Fault::Unreadable)]);
        let torn = &good[..good.len() - 5];
        assert_eq!(checked(&folder, torn).0, Summary { present: 2, failed: 1, open: 0 });
    }
}
