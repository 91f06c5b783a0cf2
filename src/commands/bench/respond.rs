//! `keytrail bench respond`: time from the reply of a malicious call to the moment its effect is contained, to the first
//! mail about it, and the time that undoing each of these incidents takes; with `--burst` the same while other callers
//! send ten times as much, with `--planted-join` while an analyst's query takes all that it is given.
//!
//! Each incident has a key and a principal of its own: the principal opens the key's policy to everyone, and we watch
//! as the administrator until the policy is the earlier one again. All parts are real processes, but for the mail server.

use super::analyst::Analyst;
use super::kms::request;
use super::load::{Load, Outcome, Signed, measure};
use super::mailbox::Mailbox;
use super::{ACCOUNT, REGION, Table, say};
use crate::cli::BenchRespondArgs;
use crate::commands::service::Service;
use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, Trust};
use keytrail_kms::clock::{Clock as _, SystemClock};
use keytrail_responder::act::{Control, SignedControl};
use keytrail_responder::incident::{self, Resolution};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Longest wait for one containment.
const PATIENCE: Duration = Duration::from_secs(60);
/// Actions that a playbook may take in an hour here, where shipped ones stop at ten or twenty, and notices that a receiver
/// may get, where 60 are usual.
const ACTIONS_PER_HOUR: u32 = 1_000_000;
/// Connections of the calls beside, and how long they go on at most: as long as a signature is taken.
const CONNECTIONS: usize = 16;
const BESIDE_MAX: Duration = Duration::from_secs(280);
/// How many times the calls beside a burst has, and over how many connections.
const BURST: u32 = 10;
const BURST_CONNECTIONS: usize = 64;
/// Between two looks at the policy; the figure is at most this much too long.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) async fn run(args: BenchRespondArgs) -> anyhow::Result<()> {
    let burst = args.burst.map(|burst| *burst);
    ensure!(burst.is_none() || args.calls_per_second > 0, "--burst multiplies --calls-per-second: give both");
    let folder = tempfile::tempdir().context("make a folder")?;
    let mailbox = Mailbox::start().await?;
    let phases = 1 + usize::from(burst.is_some()) + usize::from(args.planted_join);
    let mut usual = prepare(folder.path(), args.incidents * phases, mailbox.port)?;
    let mut others = usual.split_off(args.incidents);
    let beside_join = others.split_off(if burst.is_some() { args.incidents } else { 0 });
    let in_burst = others;
    if args.planted_join {
        Analyst::prepare(folder.path())?;
    }
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
    let transport = if args.brokers.is_some() { "kafka" } else { "journal" };
    let mut table = Table::new(&["measured", "transport", "incidents", "p50 ms", "p99 ms", "max ms", "first ms"]);
    let load = Beside::new(&service.endpoint, folder.path(), &admin).await?;
    let beside = match args.calls_per_second {
        0 => None,
        rate => Some(load.start(CONNECTIONS, rate, BESIDE_MAX)),
    };
    let mut scene = Scene { endpoint: service.endpoint.clone(), admin, mailbox };
    let seen = scene.play(usual, Duration::ZERO).await?;
    let join_us = i64::try_from(SystemClock.now_us())?;
    if args.planted_join {
        let analyst = Analyst::new(folder.path(), &service.ready)?;
        let seen = tokio::select! {
            seen = scene.play(beside_join, Duration::ZERO) => seen?,
            failed = analyst.ask() => match failed? {},
        };
        table.row(seen.contained.row("contained beside the join", transport));
        table.row(seen.noticed.row("first notice accepted beside the join", transport));
    }
    let undone = undo_all(folder.path(), &service.endpoint).await?;
    table.row(seen.contained.row("contained", transport));
    table.row(seen.noticed.row("first notice accepted", transport));
    table.row(undone.row("undone", transport));
    if let Some(beside) = beside {
        // It ends by itself only when a call failed.
        if beside.is_finished() {
            beside.await.context("join the calls beside")?.context("call beside the incidents")?;
            bail!("the calls beside the incidents ended before them");
        }
        beside.abort();
    }
    let mut burst_said = String::new();
    let burst_us = i64::try_from(SystemClock.now_us())?;
    if let Some(duration) = burst {
        let rate = args.calls_per_second * BURST;
        let beside = load.start(BURST_CONNECTIONS, rate, duration);
        let seen = scene.play(in_burst, duration / u32::try_from(args.incidents.max(1))?).await?;
        let beside = beside.await.context("join the burst")?.context("call during the burst")?;
        table.row(seen.contained.row("contained in the burst", transport));
        table.row(seen.noticed.row("first notice accepted in the burst", transport));
        burst_said = format!(
            "\nBurst: {rate} other calls a second for {} s, of which {:.0} a second were answered, p50 {:.1} ms, p99 {:.1} ms. ",
            duration.as_secs(),
            beside.rate(),
            beside.millis(0.5),
            beside.millis(0.99)
        );
    }
    service.stop().await?;
    table.row(alerted(folder.path(), 0..join_us)?.row("event to alert", transport));
    if args.planted_join {
        table.row(alerted(folder.path(), join_us..burst_us)?.row("event to alert beside the join", transport));
    }
    if burst.is_some() {
        table.row(alerted(folder.path(), burst_us..i64::MAX)?.row("event to alert in the burst", transport));
    }
    table.print();
    say(&format!(
        "{burst_said}\n{} other calls a second beside, {} mails taken. Limits of this run: one incident at a time, a look every {} ms, \
         {ACTIONS_PER_HOUR} actions and notices an hour, mail without TLS over loopback",
        args.calls_per_second,
        scene.mailbox.seen,
        LOOK.as_millis()
    ));
    Ok(())
}

/// Where incidents are played.
struct Scene {
    endpoint: String,
    admin: Client,
    mailbox: Mailbox,
}

/// From the reply of the malicious call.
struct Seen {
    contained: Times,
    noticed: Times,
}

impl Scene {
    /// One incident after another, begun at least `apart` from each other.
    async fn play(&mut self, attackers: Vec<Attacker>, apart: Duration) -> anyhow::Result<Seen> {
        let mut seen = Seen { contained: Times::new()?, noticed: Times::new()? };
        for attacker in attackers {
            let begun = Instant::now();
            let client = Client::new(&self.endpoint, attacker.credentials, REGION).context("make a client")?;
            let key = call(&self.admin, "CreateKey", json!({})).await?["KeyMetadata"]["KeyId"].clone();
            let before = call(&self.admin, "GetKeyPolicy", json!({ "KeyId": key })).await?["Policy"].clone();
            call(&client, "PutKeyPolicy", json!({ "KeyId": key, "Policy": open_policy() })).await?;
            let replied = Instant::now();
            loop {
                if call(&self.admin, "GetKeyPolicy", json!({ "KeyId": key })).await?["Policy"] == before {
                    break;
                }
                if replied.elapsed() > PATIENCE {
                    bail!("not contained after {} s", PATIENCE.as_secs());
                }
                tokio::time::sleep(LOOK).await;
            }
            seen.contained.record(replied.elapsed());
            // It may have come before the policy was back.
            let accepted = self.mailbox.first_about(&format!("user/{}", attacker.name), PATIENCE).await?;
            seen.noticed.record(accepted.saturating_duration_since(replied));
            tokio::time::sleep(apart.saturating_sub(begun.elapsed())).await;
        }
        Ok(seen)
    }
}

/// Measured times, and the first of them: caches are cold and topics new.
struct Times {
    micros: Histogram<u64>,
    first: Option<Duration>,
}

impl Times {
    fn new() -> anyhow::Result<Self> {
        let micros = Histogram::new_with_bounds(1, 120_000_000, 3).context("make a histogram")?;
        Ok(Self { micros, first: None })
    }

    fn record(&mut self, spent: Duration) {
        self.first.get_or_insert(spent);
        self.micros.saturating_record(u64::try_from(spent.as_micros()).unwrap_or(u64::MAX));
    }

    fn row(&self, measured: &str, transport: &str) -> Vec<String> {
        let millis = |quantile: f64| format!("{:.1}", self.micros.value_at_quantile(quantile) as f64 / 1000.0);
        let first = format!("{:.1}", self.first.unwrap_or_default().as_secs_f64() * 1000.0);
        let count = self.micros.len().to_string();
        vec![measured.to_owned(), transport.to_owned(), count, millis(0.5), millis(0.99), millis(1.0), first]
    }
}

/// Ordinary work of the service meanwhile: Encrypt, at a steady rate.
struct Beside {
    addr: SocketAddr,
    requests: Arc<Vec<Signed>>,
}

impl Beside {
    async fn new(endpoint: &str, dir: &Path, admin: &Client) -> anyhow::Result<Self> {
        let key = call(admin, "CreateKey", json!({})).await?["KeyMetadata"]["KeyId"].clone();
        let host = endpoint.strip_prefix("http://").context("the bench's service is reached over http")?;
        let body = json!({ "KeyId": key, "Plaintext": "aGVsbG8=", "EncryptionContext": { "tenant": "blue" } });
        let requests = Arc::new(vec![request(&super::administrator(dir)?, host, "Encrypt", &body)]);
        Ok(Self { addr: host.parse().context("read the service's address")?, requests })
    }

    fn start(&self, connections: usize, rate: u32, duration: Duration) -> JoinHandle<anyhow::Result<Outcome>> {
        tokio::spawn(measure(self.addr, Arc::clone(&self.requests), connections, Load::PerSecond(rate, duration)))
    }
}

/// From the event that completed each alert to the alert, as the trail wrote both down; of events between two times.
fn alerted(dir: &Path, between_us: Range<i64>) -> anyhow::Result<Times> {
    let mut times = Times::new()?;
    let store = rusqlite::Connection::open(dir.join("trail.db")).context("open trail.db")?;
    let sql = "SELECT json_extract(CAST(json AS TEXT), '$.lastEventMicros'), json_extract(CAST(json AS TEXT), '$.detectedAtMicros')
               FROM alerts WHERE json_extract(CAST(json AS TEXT), '$.ruleId') = 'key-policy-public' ORDER BY position";
    let mut statement = store.prepare(sql).context("read the alerts")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    for row in rows.context("read the alerts")? {
        let (event_us, detected_us) = row.context("read an alert")?;
        if between_us.contains(&event_us) {
            times.record(Duration::from_micros(u64::try_from(detected_us - event_us).unwrap_or(0)));
        }
    }
    Ok(times)
}

/// Undoes each incident as `keytrail incident undo` does, and waits until its effect is read back.
async fn undo_all(dir: &Path, endpoint: &str) -> anyhow::Result<Times> {
    let credentials = Credentials::read(&dir.join("service-credentials"), "responder").context("read our own key")?;
    let control = SignedControl::new(endpoint, Trust::default(), credentials, REGION).context("make a client")?;
    let control: Arc<dyn Control> = Arc::new(control);
    let mut times = Times::new()?;
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
        times.record(begun.elapsed());
    }
    Ok(times)
}

/// Somebody who may do too much.
pub(super) struct Attacker {
    name: String,
    pub(super) credentials: Credentials,
}

/// A folder with one over-privileged user per incident, our mailbox, and room in the hourly limits of playbooks and
/// notices, which would otherwise hold the bench after its first incidents.
fn prepare(dir: &Path, incidents: usize, mail_port: u16) -> anyhow::Result<Vec<Attacker>> {
    let attackers = create(dir, incidents, mail_port)?;
    let file = dir.join("keytrail.toml");
    super::add_to(&file, &format!("\n[responder.limits]\nplaybook_actions_per_hour = {ACTIONS_PER_HOUR}\n"))?;
    // A section that `init` wrote already.
    let head = "[responder.notify]\n";
    let text = std::fs::read_to_string(&file).context("read keytrail.toml")?;
    let text = text.replace(head, &format!("{head}notices_per_hour = {ACTIONS_PER_HOUR}\n"));
    std::fs::write(&file, text).context("write keytrail.toml")?;
    Ok(attackers)
}

/// A folder with so many over-privileged users, and our mailbox.
pub(super) fn create(dir: &Path, attackers: usize, mail_port: u16) -> anyhow::Result<Vec<Attacker>> {
    super::create_lifted(dir)?;
    let mut text = String::new();
    let mut made = Vec::with_capacity(attackers);
    for number in 0..attackers {
        let attacker = Attacker {
            name: format!("attacker-{number}"),
            credentials: Credentials::generate().context("make an access key")?,
        };
        let Attacker { name, credentials } = &attacker;
        write!(
            text,
            "\n[[user]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\npolicies = [\"AdministratorAccess\"]\n\n\
             [[access_key]]\nid = \"{}\"\nsecret = \"{}\"\naccount = \"{ACCOUNT}\"\nuser = \"{name}\"\n",
            credentials.access_key_id,
            credentials.secret.expose(),
        )?;
        made.push(attacker);
    }
    super::add_to(&dir.join("identities.toml"), &text)?;
    let smtp = format!(
        "\n[responder.smtp]\nhost = \"127.0.0.1\"\nport = {mail_port}\ntls = \"none\"\n\
         from = \"Keytrail <keytrail@example.org>\"\nto = [\"soc@example.org\"]\n"
    );
    super::add_to(&dir.join("keytrail.toml"), &smtp)?;
    Ok(made)
}

pub(super) async fn call(client: &Client, operation: &str, body: Value) -> anyhow::Result<Value> {
    let answer = client.call(&format!("TrentService.{operation}"), body, None).await;
    Ok(answer.with_context(|| format!("call {operation}"))?.body)
}

pub(super) fn open_policy() -> String {
    let statements = json!([
        { "Sid": "Owner", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
          "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") } },
        { "Sid": "Everyone", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" },
    ]);
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}
