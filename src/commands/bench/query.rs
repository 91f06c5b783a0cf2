//! `keytrail bench query`: the ten queries of an analyst over a lake, by SQL as every door runs it, and by DuckDB on the
//! same files in the same run (`benches/duckdb_queries.py`).

use super::stream::Stream;
use super::{Table, say};
use crate::cli::BenchQueryArgs;
use anyhow::{Context, bail};
use keytrail_kms::clock::{Clock, SystemClock};
use keytrail_trail::exposure::{self, Subject};
use keytrail_trail::lake::{Lake, LakeOptions, Snapshot};
use keytrail_trail::land::{Lander, LanderOptions};
use keytrail_trail::query::{self, Cancel, Limits, gate, open_folder};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BATCH: usize = 4_096;
/// The other side: reads the queries from its input, prints a line for each.
const DUCKDB: &str = include_str!("../../../benches/duckdb_queries.py");
/// 2026-01-05T12:00:00Z, where the stream begins, and the distance of its events.
const START_S: u64 = 1_767_614_400;
const EVENTS_PER_S: u64 = 1_000;

/// A query in words that both engines understand.
struct Query {
    name: &'static str,
    sql: String,
}

/// What a query took, and how many rows it gave.
struct Timed {
    millis: f64,
    rows: u64,
}

pub(crate) async fn run(args: BenchQueryArgs) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir().context("make a folder")?;
    let folder = args.folder.as_deref().unwrap_or(temporary.path());
    let mut stream = Stream::new(7);
    let key = stream.key_arn(17);
    if !folder.join("lake").exists() {
        write(&mut stream, args.events, &folder.join("lake")).await?;
    }
    let snapshot = Arc::new(open_folder(folder).await.context("open the lake")?);
    let events: u64 = snapshot.files().map(|file| file.rows).sum();
    let bytes: u64 = snapshot.files().map(|file| file.bytes).sum();
    let sorted = snapshot.files().filter(|file| file.order == "key").count();
    say(&format!(
        "{events} events in {} files, {sorted} of them merged and sorted by key, {:.1} B/event\n",
        snapshot.files().count(),
        bytes as f64 / events as f64
    ));
    let wanted = format!("SELECT request_id FROM events WHERE seq = {}", events / 3);
    let request_id = text_of(&snapshot, &wanted).await?;
    let queries = queries(events, &key, &request_id);
    let theirs =
        args.python.as_deref().map(|python| duckdb(python, folder, &snapshot, &queries, args.runs)).transpose()?;
    let mut table = Table::new(&["query", "rows", "ms", "DuckDB ms", "ratio"]);
    for (index, query) in queries.iter().enumerate() {
        let ours = best(&snapshot, &query.sql, args.runs).await.with_context(|| query.name)?;
        let their = theirs.as_ref().and_then(|theirs| theirs.get(index));
        if their.is_some_and(|their| their.rows != ours.rows) {
            bail!("{}: {} rows, DuckDB gives {:?}", query.name, ours.rows, their.map(|their| their.rows));
        }
        table.row(vec![
            query.name.to_owned(),
            ours.rows.to_string(),
            format!("{:.1}", ours.millis),
            their.map_or_else(|| "-".to_owned(), |their| format!("{:.1}", their.millis)),
            their.map_or_else(|| "-".to_owned(), |their| format!("{:.2}", ours.millis / their.millis)),
        ]);
    }
    for (name, subject) in
        [("blast radius of a key", Subject::Key(key)), ("blast radius of a principal", principal(&snapshot).await?)]
    {
        let start = Instant::now();
        let limits = Limits { memory_bytes: 2 << 30, deadline: Duration::from_secs(600), ..Limits::default() };
        let exposure = exposure::measure(&snapshot, &subject, &(0..i64::MAX), &limits).await.context(name)?;
        let millis = start.elapsed().as_secs_f64() * 1_000.0;
        table.row(vec![
            name.to_owned(),
            exposure.opened.len().to_string(),
            format!("{millis:.1}"),
            "-".into(),
            "-".into(),
        ]);
    }
    table.print();
    say(
        "\nBest run of each, warm cache, two threads; ratio below 1: faster than DuckDB. Planning and a session of its own count.",
    );
    Ok(())
}

/// Somebody who decrypts.
async fn principal(snapshot: &Arc<Snapshot>) -> anyhow::Result<Subject> {
    let sql = "SELECT min(principal_arn) AS arn FROM events WHERE event_name = 'Decrypt'";
    Ok(Subject::Principal(text_of(snapshot, sql).await?))
}

/// The queries of research on analysts, with spans of time in proportion.
fn queries(events: u64, key: &str, request_id: &str) -> Vec<Query> {
    let span_s = (events / EVENTS_PER_S).max(16);
    let at = |sixteenths: u64| {
        let seconds = i64::try_from(START_S + span_s * sixteenths / 16).unwrap_or(i64::MAX);
        let time = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        time.format("'%Y-%m-%dT%H:%M:%SZ'").to_string()
    };
    let last = at(15);
    let minute = "date_trunc('minute', event_time)";
    let query = |name, sql: String| Query { name, sql };
    vec![
        query(
            "count by event, a 16th of the time",
            format!("SELECT event_name, count(*) FROM events WHERE event_time >= {last} GROUP BY event_name"),
        ),
        query(
            "who decrypts with a key, all time",
            format!("SELECT principal_arn, count(*) AS n FROM events WHERE key_arn = '{key}' AND event_name = 'Decrypt' GROUP BY principal_arn ORDER BY n DESC, principal_arn LIMIT 10"),
        ),
        query(
            "denied by principal and minute, 3 16ths",
            format!("SELECT principal_arn, {minute} AS minute, count(*) FROM events WHERE error_code = 'AccessDenied' AND event_time >= {} GROUP BY principal_arn, {minute}", at(13)),
        ),
        query(
            "first use of a key by a principal in the last 16th",
            format!("SELECT count(*) FROM (SELECT principal_arn, key_arn FROM events GROUP BY principal_arn, key_arn HAVING min(event_time) >= {last}) AS pairs"),
        ),
        query(
            "calls a minute against the mean of 168 before",
            format!("SELECT minute FROM (SELECT minute, n, avg(n) OVER (ORDER BY minute ROWS BETWEEN 168 PRECEDING AND 1 PRECEDING) AS mean FROM (SELECT {minute} AS minute, count(*) AS n FROM events GROUP BY {minute}) AS counts) AS means WHERE n > 3 * mean"),
        ),
        query("everything of a request id", format!("SELECT * FROM events WHERE request_id = '{request_id}'")),
        query(
            "last 100 events of a key",
            format!("SELECT event_time, event_name, principal_arn, error_code, source_ip FROM events WHERE key_arn = '{key}' ORDER BY event_time DESC LIMIT 100"),
        ),
        query(
            "pattern in the encryption context",
            "SELECT count(*) FROM events WHERE enc_context LIKE '%\"tenant\":\"4711\"%'".to_owned(),
        ),
        query(
            "distinct request ids, a 16th of the time",
            format!("SELECT count(DISTINCT request_id) FROM events WHERE event_time >= {last}"),
        ),
        query(
            "newest 100 events",
            "SELECT event_time, event_name, principal_arn, key_arn, error_code FROM events ORDER BY event_time DESC LIMIT 100".to_owned(),
        ),
    ]
}

async fn best(snapshot: &Arc<Snapshot>, sql: &str, runs: u32) -> anyhow::Result<Timed> {
    let mut best = Timed { millis: f64::INFINITY, rows: 0 };
    for _ in 0..runs.max(1) {
        let start = Instant::now();
        // As a door does it: a session for each.
        let limits = Limits { memory_bytes: 2 << 30, deadline: Duration::from_secs(600), ..Limits::default() };
        let session = query::session(snapshot, &limits, None).context("open a session")?;
        let plan = gate::plan(&session, sql).await?;
        let mut rows = query::run(&session, plan, &limits, Cancel::new())?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            count += batch?.num_rows() as u64;
        }
        best = Timed { millis: best.millis.min(start.elapsed().as_secs_f64() * 1_000.0), rows: count };
    }
    Ok(best)
}

/// Runs the same queries in DuckDB over the files that the commits name.
fn duckdb(
    python: &Path,
    folder: &Path,
    snapshot: &Snapshot,
    queries: &[Query],
    runs: u32,
) -> anyhow::Result<Vec<Timed>> {
    let files: Vec<String> =
        snapshot.files().map(|file| folder.join("lake").join(&file.path).display().to_string()).collect();
    let sql: Vec<&str> = queries.iter().map(|query| query.sql.as_str()).collect();
    let order =
        json!({"files": files, "queries": sql, "runs": runs, "threads": Limits::default().partitions}).to_string();
    let mut child = Command::new(python)
        .args(["-c", DUCKDB])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", python.display()))?;
    child.stdin.take().context("write to python")?.write_all(order.as_bytes()).context("write to python")?;
    let output = child.wait_with_output().context("wait for python")?;
    if !output.status.success() {
        bail!("DuckDB's side failed: {}", output.status);
    }
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line: Value = serde_json::from_slice(line).context("read what python printed")?;
            let millis = line["ms"].as_f64().context("read what python printed")?;
            Ok(Timed { millis, rows: line["rows"].as_u64().context("read what python printed")? })
        })
        .collect()
}

/// The one text that a query gives.
async fn text_of(snapshot: &Arc<Snapshot>, sql: &str) -> anyhow::Result<String> {
    let limits = Limits::default();
    let session = query::session(snapshot, &limits, None).context("open a session")?;
    let mut rows = query::run(&session, gate::plan(&session, sql).await?, &limits, Cancel::new())?;
    let mut bytes = Vec::new();
    let mut output = query::Output::new(&mut bytes, query::Format::Jsonl, rows.schema());
    while let Some(batch) = rows.next().await {
        output.write(&batch?)?;
    }
    output.finish()?;
    let row: Value =
        serde_json::from_slice(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default()).context("no row")?;
    let value = row.as_object().and_then(|row| row.values().next()).and_then(Value::as_str);
    Ok(value.context("no text")?.to_owned())
}

/// Lands and merges the stream.
async fn write(stream: &mut Stream, events: u64, dir: &Path) -> anyhow::Result<()> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut lander = Lander::new([], LanderOptions::for_logs([stream.log()]), Arc::clone(&clock), None);
    let (mut lake, _) = Lake::open(dir, LakeOptions { keep_replaced: Duration::ZERO, ..LakeOptions::default() }, clock)
        .context("open a lake")?;
    let mut left = usize::try_from(events)?;
    let start = Instant::now();
    while left > 0 {
        let frames = stream.frames(left.min(BATCH));
        left -= frames.len();
        let outcome = lander.land(frames).await;
        if !outcome.findings.is_empty() {
            bail!("the bench's own stream did not verify: {:?}", outcome.findings);
        }
        for landed in &outcome.landed {
            lake.append(landed).context("append to the lake")?;
        }
        lake.maybe_seal().await.context("seal a file")?;
        lake.remove_replaced().context("remove replaced files")?;
    }
    lake.flush().await.context("seal the last file")?;
    let landed = start.elapsed();
    lake.compact().await.context("merge files")?;
    lake.remove_replaced().context("remove replaced files")?;
    say(&format!(
        "made and landed in {:.1} s with merges beside it, {:.1} s more until all were merged",
        landed.as_secs_f64(),
        (start.elapsed() - landed).as_secs_f64()
    ));
    Ok(())
}
