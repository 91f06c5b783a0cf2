//! `keytrail bench respond`: time from the reply of a malicious call to the moment its effect is contained, and the time
//! that undoing each of these incidents takes.
//!
//! Each incident has a key and a principal of its own: the principal opens the key's policy to everyone, and we watch
//! as the administrator until the policy is the earlier one again. All parts are real processes.

use super::kms::request;
use super::load::{Load, Outcome, measure};
use super::{ACCOUNT, REGION, Table, say};
use crate::cli::BenchRespondArgs;
use crate::commands::service::Service;
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, Trust};
use keytrail_kms::clock::SystemClock;
use keytrail_responder::act::{Control, SignedControl};
use keytrail_responder::incident::{self, Resolution};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for one containment.
const PATIENCE: Duration = Duration::from_secs(60);
/// Actions that a playbook may take in an hour here; shipped playbooks stop at ten or twenty.
const ACTIONS_PER_HOUR: u32 = 1_000_000;
/// Connections of the calls beside, and how long they go on at most: as long as a signature is taken.
const CONNECTIONS: usize = 16;
const BESIDE_MAX: Duration = Duration::from_secs(280);
/// Between two looks at the policy; the figure is at most this much too long.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) async fn run(args: BenchRespondArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let attackers = prepare(folder.path(), args.incidents)?;
    let mut arguments = vec![
        "--enforce".into(),
        "--listen".into(),
        "127.0.0.1:0".into(),
        "--data".into(),
        folder.path().as_os_str().to_owned(),
    ];
    if let Some(brokers) = &args.brokers {
        arguments.extend(["--brokers".into(), brokers.into()]);
    }
    let mut service = Service::start("up", arguments).await?;
    let admin = super::administrator(folder.path())?;
    let admin = Client::new(&service.endpoint, admin, REGION).context("make a client")?;
    let beside = match args.calls_per_second {
        0 => None,
        rate => Some(beside(&service.endpoint, folder.path(), &admin, rate).await?),
    };
    let mut times = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3).context("make a histogram")?;
    let mut first = None;
    for attacker in attackers {
        let attacker = Client::new(&service.endpoint, attacker, REGION).context("make a client")?;
        let key = call(&admin, "CreateKey", json!({})).await?["KeyMetadata"]["KeyId"].clone();
        let before = call(&admin, "GetKeyPolicy", json!({ "KeyId": key })).await?["Policy"].clone();
        call(&attacker, "PutKeyPolicy", json!({ "KeyId": key, "Policy": open_policy() })).await?;
        let replied = Instant::now();
        loop {
            if call(&admin, "GetKeyPolicy", json!({ "KeyId": key })).await?["Policy"] == before {
                break;
            }
            if replied.elapsed() > PATIENCE {
                bail!("not contained after {} s", PATIENCE.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
        let spent = replied.elapsed();
        first.get_or_insert(spent);
        times.saturating_record(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX));
    }
    let (undone, first_undone) = undo_all(folder.path(), &service.endpoint).await?;
    if let Some(beside) = beside {
        // It ends by itself only when a call failed.
        if beside.is_finished() {
            beside.await.context("join the calls beside")?.context("call beside the incidents")?;
            bail!("the calls beside the incidents ended before them");
        }
        beside.abort();
    }
    service.stop().await?;
    let alerted = alerted(folder.path())?;
    let mut table = Table::new(&["measured", "transport", "incidents", "p50 ms", "p99 ms", "max ms", "first ms"]);
    let transport = if args.brokers.is_some() { "kafka" } else { "journal" };
    table.row(row("contained", transport, &times, first));
    table.row(row("undone", transport, &undone, first_undone));
    table.row(row("event to alert", transport, &alerted, None));
    table.print();
    say(&format!(
        "\n{} other calls a second beside. Limits of this run: one incident at a time, a look every {} ms, {ACTIONS_PER_HOUR} actions an hour, notices off",
        args.calls_per_second,
        LOOK.as_millis()
    ));
    Ok(())
}

fn row(measured: &str, transport: &str, times: &Histogram<u64>, first: Option<Duration>) -> Vec<String> {
    let millis = |quantile: f64| format!("{:.1}", times.value_at_quantile(quantile) as f64 / 1000.0);
    vec![
        measured.to_owned(),
        transport.to_owned(),
        times.len().to_string(),
        millis(0.5),
        millis(0.99),
        millis(1.0),
        format!("{:.1}", first.unwrap_or_default().as_secs_f64() * 1000.0),
    ]
}

/// Ordinary work of the service meanwhile: Encrypt, at a steady rate.
async fn beside(
    endpoint: &str,
    dir: &Path,
    admin: &Client,
    rate: u32,
) -> anyhow::Result<tokio::task::JoinHandle<anyhow::Result<Outcome>>> {
    let key = call(admin, "CreateKey", json!({})).await?["KeyMetadata"]["KeyId"].clone();
    let host = endpoint.strip_prefix("http://").context("the bench's service is reached over http")?;
    let body = json!({ "KeyId": key, "Plaintext": "aGVsbG8=", "EncryptionContext": { "tenant": "blue" } });
    let requests = Arc::new(vec![request(&super::administrator(dir)?, host, "Encrypt", &body)]);
    let addr = host.parse().context("read the service's address")?;
    Ok(tokio::spawn(measure(addr, requests, CONNECTIONS, Load::PerSecond(rate, BESIDE_MAX))))
}

/// From the event that completed each alert to the alert, as the trail wrote both down.
fn alerted(dir: &Path) -> anyhow::Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3).context("make a histogram")?;
    let store = rusqlite::Connection::open(dir.join("trail.db")).context("open trail.db")?;
    let sql = "SELECT json_extract(CAST(json AS TEXT), '$.detectedAtMicros') - json_extract(CAST(json AS TEXT), '$.lastEventMicros')
               FROM alerts WHERE json_extract(CAST(json AS TEXT), '$.ruleId') = 'key-policy-public'";
    let mut statement = store.prepare(sql).context("read the alerts")?;
    for micros in statement.query_map([], |row| row.get::<_, i64>(0)).context("read the alerts")? {
        times.saturating_record(u64::try_from(micros.context("read an alert")?).unwrap_or(0));
    }
    Ok(times)
}

/// Undoes each incident as `keytrail incident undo` does, and waits until its effect is read back.
async fn undo_all(dir: &Path, endpoint: &str) -> anyhow::Result<(Histogram<u64>, Option<Duration>)> {
    let credentials = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let control = SignedControl::new(endpoint, Trust::default(), credentials, REGION).context("make a client")?;
    let control: Arc<dyn Control> = Arc::new(control);
    let mut times = Histogram::<u64>::new_with_bounds(1, 120_000_000, 3).context("make a histogram")?;
    let mut first = None;
    for incident in incident::list(dir, u32::MAX).context("list incidents")? {
        let begun = Instant::now();
        let report = incident::undo(
            dir,
            incident.id.as_str(),
            ("the bench", Resolution::Test),
            Arc::clone(&control),
            Arc::new(SystemClock),
            PATIENCE,
        );
        let report = report.await.context("undo an incident")?;
        if !report.complete {
            bail!("{} is not undone after {} s", incident.id, PATIENCE.as_secs());
        }
        let spent = begun.elapsed();
        first.get_or_insert(spent);
        times.saturating_record(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX));
    }
    Ok((times, first))
}

/// A folder with one over-privileged user per incident and room in the playbooks' hourly limits, which would otherwise
/// hold the bench after its first incidents; gives the access keys.
fn prepare(dir: &Path, incidents: usize) -> anyhow::Result<Vec<Credentials>> {
    use std::fmt::Write;
    super::create_lifted(dir)?;
    let file = dir.join("identities.toml");
    let mut text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let mut attackers = Vec::with_capacity(incidents);
    for number in 0..incidents {
        let key = Credentials::generate().context("make an access key")?;
        write!(
            text,
            "\n[[user]]\naccount = \"{ACCOUNT}\"\nname = \"attacker-{number}\"\npolicies = [\"AdministratorAccess\"]\n\n\
             [[access_key]]\nid = \"{}\"\nsecret = \"{}\"\naccount = \"{ACCOUNT}\"\nuser = \"attacker-{number}\"\n",
            key.access_key_id,
            key.secret.expose(),
        )?;
        attackers.push(key);
    }
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let file = dir.join("keytrail.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?
        + &format!("\n[responder.limits]\nplaybook_actions_per_hour = {ACTIONS_PER_HOUR}\n");
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    Ok(attackers)
}

async fn call(client: &Client, operation: &str, body: Value) -> anyhow::Result<Value> {
    let answer = client.call(&format!("TrentService.{operation}"), body, None).await;
    Ok(answer.with_context(|| format!("call {operation}"))?.body)
}

fn open_policy() -> String {
    let statements = json!([
        { "Sid": "Owner", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
          "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") } },
        { "Sid": "Everyone", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" },
    ]);
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}
