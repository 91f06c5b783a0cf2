//! `keytrail bench storm`: the key service's answers while a hundred thousand alerts a minute reach the responder, and
//! before they do; what the responder does, how much memory it takes, and whether its breaker stays tripped.
//!
//! Key service and responder are real processes under the limits that ship. Many principals open a key each, which a
//! trail finds; then the trail is stopped and the bench takes its place, since trail.db has one writer: those alerts
//! again and again, for later and later buckets, signed with the trail's key and stored as it does itself, with evidence
//! that the log holds.

use super::kms::{Work, row};
use super::load::{Load, measure};
use super::mailbox::Mailbox;
use super::respond::{Attacker, call, create, open_policy};
use super::{REGION, Table, memory_bytes, say};
use crate::cli::BenchStormArgs;
use crate::commands::service::Service;
use anyhow::{Context, bail};
use keytrail_kms::client::Client;
use keytrail_kms::clock::{Clock as _, SystemClock};
use keytrail_responder::standing;
use keytrail_trail::alert::{Alert, SignedAlert};
use keytrail_trail::store::{Step, Store};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Principals that open a key each.
const ATTACKERS: usize = 100;
/// Connections of the decrypts.
const CONNECTIONS: usize = 16;
/// Between two commits of alerts; the trail commits once a turn.
const TURN: Duration = Duration::from_millis(100);
/// The shipped rule's dedup period: the distance of two buckets.
const BUCKET_US: i64 = 60_000_000;
/// Longest wait for the alerts that the storm repeats, and for the responder to have taken all.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn run(args: BenchStormArgs) -> anyhow::Result<()> {
    let duration: Duration = *args.duration;
    let folder = tempfile::tempdir().context("make a folder")?;
    let dir = folder.path();
    let mut mailbox = Mailbox::start().await?;
    let attackers = create(dir, ATTACKERS, mailbox.port)?;
    let mut kms = part("kms", dir, "127.0.0.1:0").await?;
    let addr: SocketAddr = kms.endpoint.trim_start_matches("http://").parse().context("read the service's address")?;
    let listen = addr.to_string();
    let work = Work::prepare(addr, dir).await?;
    let mut trail = part("trail", dir, &listen).await?;
    let alerts = attack(dir, &kms.endpoint, attackers).await?;
    trail.stop().await?;
    let decrypts =
        || measure(addr, Arc::clone(&work.decrypt), CONNECTIONS, Load::PerSecond(args.calls_per_second, duration));
    let quiet = decrypts().await?;
    let mut responder = part("responder", dir, &listen).await?;
    let process = responder.child.id().context("the responder is gone")?.to_string();
    until("the responder to take the first alerts", || Ok(taken(dir)? >= i64::try_from(ATTACKERS)?)).await?;
    let before = memory_bytes(&process, "VmRSS")?;
    let storm = Storm { dir: dir.to_owned(), alerts, count: args.alerts, duration };
    let storming = tokio::task::spawn_blocking(move || storm.blow());
    let (half, stormed) = tokio::join!(
        async {
            tokio::time::sleep(duration / 2).await;
            memory_bytes(&process, "VmRSS")
        },
        decrypts()
    );
    let (half, stormed) = (half?, stormed?);
    let (last, blown) = storming.await.context("join the storm")??;
    let (behind, end) = (last.saturating_sub(taken(dir)?), Instant::now());
    until("the responder to take all alerts", || Ok(taken(dir)? >= last)).await?;
    let caught_up = end.elapsed();
    let (after, most) = (memory_bytes(&process, "VmRSS")?, memory_bytes(&process, "VmHWM")?);
    let trips = tripped(dir)?;
    responder.stop().await?;
    let mut responder = part("responder", dir, &listen).await?;
    let again = tripped(dir)?;
    responder.stop().await?;
    kms.stop().await?;
    let mut table = Table::new(&["path", "connections", "calls/s", "p50 ms", "p99 ms", "max ms"]);
    table.row(row("Decrypt", CONNECTIONS, &quiet));
    table.row(row("Decrypt in the storm", CONNECTIONS, &stormed));
    table.print();
    let ratio = |quantile| stormed.millis(quantile) / quiet.millis(quantile);
    say(&format!(
        "\nStorm against quiet: p50 {:.2}, p99 {:.2}. {} alerts in {:.1} s; the responder was {behind} behind at the end and \
         had all {:.1} s later. Actions that took effect: {}. Mails: {}. Tripped: {trips:?}; after a restart: {again:?}. \
         Memory of the responder, MiB: {} before, {} half way, {} after, {} at most.",
        ratio(0.5),
        ratio(0.99),
        args.alerts,
        blown.as_secs_f64(),
        caught_up.as_secs_f64(),
        actions(dir)?,
        mailbox.drain(),
        before >> 20,
        half >> 20,
        after >> 20,
        most >> 20,
    ));
    Ok(())
}

/// A part of the service as a process of its own; only the responder acts, and heeds the flag that lets it.
async fn part(name: &str, dir: &Path, listen: &str) -> anyhow::Result<Service> {
    let enforce = (name == "responder").then_some("--enforce");
    let arguments = enforce.into_iter().chain(["--listen", listen, "--data"]).map(OsStr::new);
    Service::start(name, arguments.chain([dir.as_os_str()])).await
}

/// Has each principal open a key of its own; gives the alerts about it.
async fn attack(dir: &Path, endpoint: &str, attackers: Vec<Attacker>) -> anyhow::Result<Vec<Alert>> {
    let count = attackers.len();
    for attacker in attackers {
        let client = Client::new(endpoint, attacker.credentials, REGION).context("make a client")?;
        let key = call(&client, "CreateKey", json!({})).await?["KeyMetadata"]["KeyId"].clone();
        call(&client, "PutKeyPolicy", json!({ "KeyId": key, "Policy": open_policy() })).await?;
    }
    until("an alert about each", || Ok(alerts(dir)?.len() >= count)).await?;
    alerts(dir)
}

async fn until(what: &str, mut probe: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !probe()? {
        if begun.elapsed() > PATIENCE {
            bail!("gave up waiting for {what} after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn alerts(dir: &Path) -> anyhow::Result<Vec<Alert>> {
    let file = dir.join("trail.db");
    let db = read_only(&file)?;
    let sql =
        "SELECT json, signature FROM alerts WHERE json_extract(CAST(json AS TEXT), '$.ruleId') = 'key-policy-public'";
    let mut statement = db.prepare(sql).context("read the alerts")?;
    let rows = statement.query_map([], |row| Ok(SignedAlert { json: row.get(0)?, signature: row.get(1)? }));
    let rows = rows.context("read the alerts")?;
    let signed: Vec<SignedAlert> = rows.collect::<Result<_, _>>().context("read the alerts")?;
    drop(statement);
    if signed.is_empty() {
        return Ok(Vec::new());
    }
    let key = Store::open(&file)?.alert_key()?.verify_key().clone();
    signed.iter().map(|signed| signed.verify(&key).context("verify an alert")).collect()
}

/// Alerts at a steady rate.
struct Storm {
    dir: PathBuf,
    alerts: Vec<Alert>,
    count: u32,
    duration: Duration,
}

impl Storm {
    /// Gives the position of the last alert in trail.db, and how long it took.
    fn blow(mut self) -> anyhow::Result<(i64, Duration)> {
        let file = self.dir.join("trail.db");
        let mut store = Store::open(&file)?;
        let key = store.alert_key()?;
        let bell = UnixDatagram::unbound().context("make a socket")?;
        bell.set_nonblocking(true).context("make a socket")?;
        let (begun, mut stored) = (Instant::now(), 0);
        while stored < self.count {
            let due = u128::from(self.count) * begun.elapsed().as_micros() / self.duration.as_micros().max(1);
            let due = u32::try_from(due).unwrap_or(u32::MAX).min(self.count);
            let mut turn = Vec::new();
            for number in stored..due {
                let at = number as usize % self.alerts.len();
                let alert = &mut self.alerts[at];
                alert.bucket_start_micros += BUCKET_US;
                alert.alert_id = alert.computed_id();
                alert.revision = 0;
                let signed = alert.sign(&key).context("sign an alert")?;
                turn.push((alert.clone(), signed));
            }
            store.commit(&Step { alerts: &turn, state: None, trees: &[], now_us: SystemClock.now_us() })?;
            stored = due;
            // As the trail does: a knock that is lost costs time only.
            drop(bell.send_to(&[1], self.dir.join("run/alerts.sock")));
            std::thread::sleep(TURN);
        }
        let spent = begun.elapsed();
        let last = read_only(&file)?
            .query_row("SELECT max(position) FROM alerts", [], |row| row.get(0))
            .context("read the alerts")?;
        Ok((last, spent))
    }
}

/// Position of the last alert that the responder took.
fn taken(dir: &Path) -> anyhow::Result<i64> {
    let sql = "SELECT coalesce(max(next), 1) - 1 FROM positions WHERE source = 'trail.db'";
    responder_db(dir)?.query_row(sql, [], |row| row.get(0)).context("read responder.db")
}

/// Actions that took effect.
fn actions(dir: &Path) -> anyhow::Result<i64> {
    let sql = "SELECT count(*) FROM actions WHERE changed = 1";
    responder_db(dir)?.query_row(sql, [], |row| row.get(0)).context("read responder.db")
}

/// For what the breaker is tripped.
fn tripped(dir: &Path) -> anyhow::Result<Vec<String>> {
    let standing = standing::now(&responder_db(dir)?).context("read responder.db")?;
    Ok(standing.tripped.into_iter().map(|entry| entry.subject).collect())
}

fn responder_db(dir: &Path) -> anyhow::Result<Connection> {
    read_only(&dir.join("responder.db"))
}

fn read_only(file: &Path) -> anyhow::Result<Connection> {
    let open = || format!("open {}", file.display());
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).with_context(open)?;
    db.busy_timeout(Duration::from_secs(5)).with_context(open)?;
    Ok(db)
}
