//! `keytrail log`: tiles and proofs out of a folder, and a proof checked without one.

use super::log::{Log, quoted};
use super::read_key;
use super::say;
use crate::cli::{LogCommand, ProofArgs};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use keytrail_kms::chain::checkpoint::VerifyKey;
use keytrail_kms::chain::tlog_proof::TLOG_PROOF_BYTES_MAX;
use keytrail_kms::chain::{Checkpoint, Leaf, TlogProof};
use keytrail_kms::tiles::{FolderTiles, LogView, export};
use std::io::Read;
use std::path::Path;

/// Leaves between two messages about an export.
const PROGRESS_LEAVES: u64 = 1_000_000;

pub(crate) async fn run(command: LogCommand) -> anyhow::Result<()> {
    match command {
        LogCommand::Tiles { data, out } => tiles(&data.data, &out),
        LogCommand::Proof(args) => proof(&args).await,
        LogCommand::Check { file, vkey } => check(&file, &vkey),
        LogCommand::Index(command) => super::index::run(command),
        LogCommand::Erase(args) => super::erase::run(args).await,
        LogCommand::Consistency { data, from, vkey } => consistency(&data.data, &from, vkey.as_deref()),
    }
}

fn open(data: &Path, vkey: Option<&Path>) -> anyhow::Result<LogView<FolderTiles>> {
    let key = vkey.map(read_key).transpose()?;
    LogView::of_folder(data, key.as_ref()).with_context(|| format!("open the log in {}", data.display()))
}

fn tiles(data: &Path, out: &Path) -> anyhow::Result<()> {
    let mut log = open(data, None)?;
    let mut told = 0;
    let checkpoint = export(&mut log, out, |leaves| {
        if leaves >= told + PROGRESS_LEAVES {
            told = leaves;
            tracing::info!(leaves, "written");
        }
    });
    let checkpoint = checkpoint.with_context(|| format!("write the log to {}", out.display()))?;
    say(&format!("{} leaves of {} under root {}", checkpoint.size, checkpoint.origin, checkpoint.root));
    Ok(())
}

async fn proof(args: &ProofArgs) -> anyhow::Result<()> {
    let mut log = open(&args.data.data, None)?;
    let seq = match (args.seq, &args.request_id) {
        (Some(seq), _) => seq,
        (None, Some(id)) => seq_of(&args.data.data, id, &log.checkpoint().log_id().to_string()).await?,
        (None, None) => bail!("give --seq or --request-id"),
    };
    let proof = log.tlog_proof(seq).with_context(|| format!("prove seq {seq}"))?.to_string();
    match &args.out {
        Some(file) => std::fs::write(file, proof).with_context(|| format!("write {}", file.display())),
        None => {
            say(proof.trim_end_matches('\n'));
            Ok(())
        }
    }
}

async fn seq_of(data: &Path, request_id: &str, log: &str) -> anyhow::Result<u64> {
    let sql = format!(
        "SELECT seq FROM events WHERE log = {} AND request_id = {} ORDER BY seq",
        quoted(log),
        quoted(request_id)
    );
    let rows = Log::open(data).await?.rows(&sql).await?;
    let seqs: Vec<u64> = rows.iter().filter_map(|row| row["seq"].as_u64()).collect();
    match seqs.as_slice() {
        [seq] => Ok(*seq),
        [] => bail!("the log has no call with request id {request_id}"),
        several => bail!("request id {request_id} has records {several:?}: give one of them as --seq"),
    }
}

fn check(file: &Path, vkey: &Path) -> anyhow::Result<()> {
    let key = read_key(vkey)?;
    let proof = TlogProof::parse(&read_text(file, TLOG_PROOF_BYTES_MAX)?);
    let verified = proof.and_then(|proof| proof.verify(&key));
    let (checkpoint, leaf) = verified.with_context(|| format!("check {}", file.display()))?;
    say("VERIFIED");
    say(&format!("log         {}", checkpoint.origin));
    say(&format!("checkpoint  {} records, root {}", checkpoint.size, checkpoint.root));
    fields(&leaf).iter().for_each(|line| say(line));
    Ok(())
}

fn fields(leaf: &Leaf) -> Vec<String> {
    let time = i64::try_from(leaf.time_us).ok().and_then(DateTime::<Utc>::from_timestamp_micros);
    let time = time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339());
    vec![
        format!("seq         {}", leaf.seq),
        format!("time        {time}"),
        format!("kind        {:?}", leaf.kind),
        format!("epoch       {}", leaf.epoch),
        format!("payload     {} bytes, SHA-256 with its salt {}", leaf.payload_len, hex::encode(leaf.payload_digest)),
    ]
}

/// Prints what a C2SP tlog-witness is sent: the old size, the proof and the checkpoint.
fn consistency(data: &Path, from: &str, vkey: Option<&Path>) -> anyhow::Result<()> {
    let mut log = open(data, vkey)?;
    let (old, wanted) = match from.parse() {
        Ok(size) => (size, None),
        Err(_) => {
            let earlier = earlier(Path::new(from), vkey.unwrap_or(&data.join("checkpoints/vkey")))?;
            (earlier.size, Some(earlier.root))
        }
    };
    let (root, proof) = log.consistency_proof(old).with_context(|| format!("prove growth from size {old}"))?;
    if wanted.is_some_and(|wanted| wanted != root) {
        bail!("the log was rewritten: at size {old} its root is {root}, not the one of the earlier checkpoint");
    }
    say(&format!("old {old}"));
    proof.hashes.iter().for_each(|hash| say(&BASE64.encode(hash)));
    say(&format!("\n{}", log.note().trim_end_matches('\n')));
    Ok(())
}

fn earlier(file: &Path, vkey: &Path) -> anyhow::Result<Checkpoint> {
    let note = read_text(file, TLOG_PROOF_BYTES_MAX)?;
    read_key::<VerifyKey>(vkey)?.verify(&note).with_context(|| format!("read the checkpoint in {}", file.display()))
}

fn read_text(file: &Path, bytes_max: usize) -> anyhow::Result<String> {
    let reading = || {
        let mut text = String::new();
        std::fs::File::open(file)?.take(bytes_max as u64 + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    reading().with_context(|| format!("read {}", file.display()))
}
