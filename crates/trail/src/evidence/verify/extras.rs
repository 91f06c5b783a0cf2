//! Step 8: alerts under the trail's key, and the sample drawn anew.

use super::Failure;
use super::bag::read_text;
use super::records::Ranged;
use crate::alert::ALERT_BYTES_MAX;
use crate::evidence::alerts::AlertLine;
use crate::evidence::manifest::Manifest;
use crate::evidence::sample::{Sample, seed};
use keytrail_kms::chain::leaf::leaf_hash;
use keytrail_kms::chain::{Leaf, TlogProof, VerifyKey};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

/// Longest line of alerts: escapes may double an alert.
const LINE_BYTES_MAX: u64 = 2 * ALERT_BYTES_MAX as u64 + 1_024;
/// Largest list of a population, proof or key read.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Every line is an alert that the pack's alert key signed.
pub(super) fn alerts(root: &Path, manifest: &Manifest) -> Result<(), Failure> {
    if !manifest.files.contains_key("alerts/alerts.jsonl") {
        return Ok(());
    }
    let bad = |line: usize, what: &str| Failure::new(format!("alerts/alerts.jsonl line {line}: {what}"));
    let file = File::open(root.join("alerts/alerts.jsonl")).map_err(|error| bad(0, &error.to_string()))?;
    let mut input = BufReader::new(file);
    let mut key: Option<VerifyKey> = None;
    for number in 1.. {
        let mut line = String::new();
        let mut bounded = input.by_ref().take(LINE_BYTES_MAX);
        if bounded.read_line(&mut line).map_err(|error| bad(number, &error.to_string()))? == 0 {
            break;
        }
        if key.is_none() {
            let text = read_text(&root.join("alerts/vkey"), FILE_BYTES_MAX)?;
            let parsed = text.trim_end().parse().map_err(|error| Failure::new(format!("alerts/vkey: {error}")))?;
            key = Some(parsed);
        }
        let parsed: AlertLine = serde_json::from_str(&line).map_err(|error| bad(number, &error.to_string()))?;
        let signed = parsed.signed().ok_or_else(|| bad(number, "signature is not 64 bytes"))?;
        if let Some(Err(error)) = key.as_ref().map(|key| signed.verify(key)) {
            return Err(bad(number, &error.to_string()));
        }
    }
    Ok(())
}

/// The sample is what the rule gives, and each proof leads to the root.
pub(super) fn sample(root: &Path, manifest: &Manifest, ranges: &[Ranged]) -> Result<(), Failure> {
    const NAME: &str = "sample/population.json";
    if !manifest.files.contains_key(NAME) {
        return only_proofs_of(&BTreeSet::new(), manifest);
    }
    let text = read_text(&root.join(NAME), FILE_BYTES_MAX)?;
    let sample: Sample = serde_json::from_str(&text).map_err(|error| Failure::new(format!("{NAME}: {error}")))?;
    if sample.version != 1 || sample.logs.len() != ranges.len() {
        return Err(Failure::new(format!("{NAME}: version is not 1, or logs are not those of the manifest")));
    }
    let mut expected = BTreeSet::new();
    for ((ranged, log), drawn) in ranges.iter().zip(&manifest.logs).zip(&sample.logs) {
        let wanted = u32::try_from(drawn.drawn.len()).unwrap_or(u32::MAX);
        let again = ranged.population.draw(&log.log, seed(&ranged.note, &sample.nonce), wanted);
        if again != *drawn {
            return Err(Failure::new(format!("{NAME}: population or sample is another one")).of_log(&log.log));
        }
        for seq in &drawn.drawn {
            let name = format!("sample/{}/{seq}.tlog-proof", log.log);
            proof(root, &name, *seq, ranged, log.size, &log.root).map_err(|failure| failure.of_log(&log.log))?;
            expected.insert(name);
        }
    }
    only_proofs_of(&expected, manifest)
}

fn only_proofs_of(expected: &BTreeSet<String>, manifest: &Manifest) -> Result<(), Failure> {
    let extra = manifest.files.keys().find(|name| name.ends_with(".tlog-proof") && !expected.contains(*name));
    extra.map_or(Ok(()), |name| Err(Failure::new(format!("{name} is of a record that was not drawn"))))
}

fn proof(root: &Path, name: &str, seq: u64, ranged: &Ranged, size: u64, log_root: &str) -> Result<(), Failure> {
    let bad = |what: &str| Failure::at(seq, format!("{name}: {what}"));
    let text = read_text(&root.join(name), FILE_BYTES_MAX)?;
    let TlogProof { leaf, index, proof, note } =
        TlogProof::parse(&text).map_err(|_| bad("file is no tlog-proof with a leaf"))?;
    let decoded = Leaf::decode(&leaf).map_err(|error| bad(&error.to_string()))?;
    if note != ranged.note || index != seq || decoded.seq != seq || decoded.log != ranged.id {
        return Err(bad("proof is of another record, log or checkpoint"));
    }
    let mut log_root_bytes = [0; 32];
    hex::decode_to_slice(log_root, &mut log_root_bytes).map_err(|_| bad("root of the manifest is not a hash"))?;
    let log_root = keytrail_kms::chain::RootHash(log_root_bytes);
    proof.verify(leaf_hash(&leaf), seq, size, &log_root).map_err(|error| bad(&error.to_string()))
}
