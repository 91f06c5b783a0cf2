//! `keytrail demo`: plays the sample incident against a service of its own, over HTTP with signed requests.
//!
//! Nothing here is staged: the service is `keytrail up --enforce`, the attacker is an ordinary client, and every line
//! of the timeline is an answer of the service, a row of the alert table, a row of the responder's timeline or a mail
//! that arrived. Ctrl-C stops the service.

use crate::cli::{DemoArgs, UpArgs};
use crate::commands::service::Service;
use crate::commands::{init, say};
use anyhow::{Context, anyhow, bail};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::Client;
use keytrail_responder::incident;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const REGION: &str = "us-east-1";
const ACCOUNT: &str = "123456789012";
/// Longest wait for the responder and the mail; the story takes about ten seconds, most of it the mail's quiet time.
const STORY_SECS_MAX: u64 = 90;

/// Entries of the timeline read at once.
const ENTRIES_MAX: u32 = 1_000;
/// Quiet for this long: the story is over.
const QUIET: Duration = Duration::from_secs(3);
/// An update that tells all comes after five seconds without change; when there is none, the first mail told all.
const UPDATE_WAIT: Duration = Duration::from_secs(12);

/// Users of the demo, with `SECRET-<name>` where a fresh secret goes.
pub(crate) const PEOPLE: &str = include_str!("demo/people.toml");

/// Plays the incident and leaves the service running until a signal, or stops it with `--exit`.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let dir = args.up.node.data.data.clone();
    prepare(&args.up)?;
    let mut service = Service::start("up", arguments(&args.up)).await?;
    say(&service.ready);
    let mut signal = super::stop_signal()?;
    let story = async {
        Story::open(&dir, &service.endpoint, args.mail_dir.clone()).await?.play().await?;
        say(&next_steps(&dir, &service.endpoint));
        anyhow::Ok(())
    };
    tokio::select! {
        played = story => played?,
        () = signal.wait() => return stop(&mut service).await,
    }
    if !args.exit {
        say("\nThe service keeps running. Ctrl-C stops it.");
        tokio::select! {
            () = signal.wait() => {}
            status = service.child.wait() => bail!("the service ended by itself: {}", status.context("wait for it")?),
        }
    }
    stop(&mut service).await
}

/// A new data folder with the demo's people in it; an earlier one is used again.
fn prepare(args: &UpArgs) -> anyhow::Result<()> {
    if !init::is_needed(&args.node)? {
        return Ok(());
    }
    let mut node = args.node.clone();
    node.account.get_or_insert_with(|| ACCOUNT.to_owned());
    init::create(&node)?;
    let dir = &args.node.data.data;
    let mut people = PEOPLE.to_owned();
    for name in ["app", "insider", "outsider"] {
        let fresh = Credentials::generate().context("make an access key")?;
        people = people.replace(&format!("SECRET-{name}"), fresh.secret.expose());
    }
    let file = dir.join("identities.toml");
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))? + &people;
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

/// What the service is told: the demo's own flags, handed on.
fn arguments(args: &UpArgs) -> Vec<OsString> {
    let mut arguments = vec!["--enforce".into(), "--data".into(), args.node.data.data.clone().into_os_string()];
    let listen = args.node.listen.map(|listen| listen.to_string());
    for (flag, value) in [
        ("--listen", &listen),
        ("--brokers", &args.node.brokers),
        ("--smtp", &args.response.smtp),
        ("--mail-to", &args.response.mail_to),
    ] {
        if let Some(value) = value {
            arguments.extend([flag.into(), value.into()]);
        }
    }
    arguments
}

async fn stop(service: &mut Service) -> anyhow::Result<()> {
    let status = service.stop().await?;
    say(&format!("stopped ({status})"));
    Ok(())
}

/// The people, what they hold, and what has been told so far.
struct Story {
    start: Instant,
    dir: PathBuf,
    admin: Person,
    app: Person,
    insider: Person,
    outsider: Person,
    mail_dir: Option<PathBuf>,
    /// What earlier runs in the same folder left is not told again.
    told_until: i64,
    known_mails: HashSet<PathBuf>,
}

impl Story {
    async fn open(dir: &Path, endpoint: &str, mail_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let start = Instant::now();
        let identities = std::fs::read_to_string(dir.join("identities.toml")).context("read identities.toml")?;
        let person = |name: &str| -> anyhow::Result<Person> {
            let credentials = credentials_of(&identities, name)?;
            Person::new(name, endpoint, credentials, start)
        };
        let admin = Credentials::read(&dir.join("credentials"), "default").context("read the administrator's key")?;
        Ok(Self {
            start,
            dir: dir.to_owned(),
            admin: Person::new("admin", endpoint, admin, start)?,
            app: person("app")?,
            insider: person("insider")?,
            outsider: person("outsider")?,
            told_until: last_entry(dir)?,
            known_mails: mail_dir.iter().flat_map(|dir| files(dir)).collect(),
            mail_dir,
        })
    }

    async fn play(&self) -> anyhow::Result<()> {
        say("\n  seconds  what      who       detail");
        // An insider of an earlier run may still be quarantined.
        let arn = format!("arn:aws:iam::{ACCOUNT}:user/insider");
        let quarantines = self.admin.quiet("KeytrailService.ListQuarantines", json!({})).await?;
        if quarantines.to_string().contains(&arn) {
            self.admin.told("KeytrailService.LiftQuarantine", json!({ "PrincipalArn": arn })).await?;
        }
        let orders = self.admin.create_key("orders", json!({})).await?;
        let payroll = json!({ "Tags": [{ "TagKey": "on-exposure", "TagValue": "disable" }] });
        let payroll = self.admin.create_key("payroll", payroll).await?;
        let archive = self.admin.create_key("archive", json!({})).await?;
        let vault = self.admin.create_key("vault", json!({ "Policy": policy(&["administrator"]) })).await?;
        let blobs = self.normal_use(&orders).await?;
        let secret = self.admin.encrypt(&vault, &json!({})).await?;

        self.line("----", "", "a stolen credential of `insider` begins");
        self.attack(&orders, &payroll, &archive, &secret, &blobs).await?;
        self.containment(&orders, &blobs[0]).await
    }

    async fn normal_use(&self, key: &str) -> anyhow::Result<Vec<(String, Value)>> {
        let mut blobs = Vec::new();
        for tenant in 0..30 {
            let context = json!({ "tenant": tenant.to_string() });
            blobs.push((self.app.encrypt(key, &context).await?, context));
        }
        for (blob, context) in blobs.iter().take(10) {
            self.app.quiet("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context })).await?;
        }
        self.line("call", "app", "Encrypt x30, Decrypt x10: normal use of orders");
        Ok(blobs)
    }

    async fn attack(
        &self,
        orders: &str,
        payroll: &str,
        archive: &str,
        secret: &str,
        blobs: &[(String, Value)],
    ) -> anyhow::Result<()> {
        let insider = &self.insider;
        insider.told("ListKeys", json!({})).await?;
        for _ in 0..12 {
            if insider.quiet("Decrypt", json!({ "CiphertextBlob": secret })).await.is_ok() {
                bail!("the vault opened to the insider");
            }
        }
        self.line("call", "insider", "Decrypt x12 on vault -> AccessDeniedException");
        for (blob, context) in blobs {
            insider.quiet("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context })).await?;
        }
        self.line("call", "insider", "Decrypt x30 on orders, each under another encryption context");
        // At once, as a script would: after the first of them the responder is on its way.
        let open = |key: &str| json!({ "KeyId": key, "Policy": policy(&["root", "*"]) });
        let (orders_opened, payroll_opened, scheduled, outside) = tokio::join!(
            insider.told("PutKeyPolicy", open(orders)),
            insider.told("PutKeyPolicy", open(payroll)),
            insider.told("ScheduleKeyDeletion", json!({ "KeyId": archive, "PendingWindowInDays": 7 })),
            self.other_account_until_it_works(&blobs[0]),
        );
        orders_opened?;
        payroll_opened?;
        scheduled?;
        outside
    }

    /// The other account tries all the time; it may succeed in the instant between exposure and containment.
    async fn other_account_until_it_works(&self, (blob, context): &(String, Value)) -> anyhow::Result<()> {
        for _ in 0..200 {
            let body = json!({ "CiphertextBlob": blob, "EncryptionContext": context });
            if self.outsider.quiet("Decrypt", body).await.is_ok() {
                self.line("call", "outsider", "Decrypt on orders from another account -> works while the key is open");
                return Ok(());
            }
        }
        self.line("call", "outsider", "Decrypt on orders from another account -> never worked: contained before");
        Ok(())
    }

    /// Tells alerts, actions and mails as they appear, until the mail is there.
    async fn containment(&self, orders: &str, (blob, context): &(String, Value)) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(STORY_SECS_MAX);
        let mut told_until = self.told_until;
        let mut quiet_since = None;
        let (mut contained, mut mails) = (false, self.known_mails.clone());
        loop {
            for entry in incident::timeline_after(&self.dir, told_until, ENTRIES_MAX).context("read the timeline")? {
                told_until = entry.id;
                quiet_since = Some(Instant::now());
                contained |= entry.kind == "state" && entry.text == "contained";
                self.line(&entry.kind, "", &entry.text);
            }
            // The first mail goes out before all is done; the update after it tells all.
            let found = self.mail_dir.as_deref().map(files).unwrap_or_default();
            let fresh: Vec<_> = found.into_iter().filter(|file| !mails.contains(file)).collect();
            for mail in &fresh {
                quiet_since = Some(Instant::now());
                self.line("mail", "", &format!("arrived: {}", mail.display()));
            }
            let told_all = contained && !fresh.is_empty();
            mails.extend(fresh);
            // Without a mail server there is no last word; the story ends when nothing more happens.
            let over = self.mail_dir.is_none() || (contained && mails.len() > self.known_mails.len());
            let quiet = if self.mail_dir.is_none() { QUIET } else { UPDATE_WAIT };
            if told_all || (over && quiet_since.is_some_and(|since| since.elapsed() > quiet)) {
                break;
            }
            if Instant::now() > end {
                bail!("no containment after {STORY_SECS_MAX} s: see `keytrail incident list`");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let body = json!({ "CiphertextBlob": blob, "EncryptionContext": context });
        match self.outsider.quiet("Decrypt", body).await {
            Err(error) => self.line("call", "outsider", &format!("Decrypt on orders -> {error}")),
            Ok(_) => bail!("{orders} is still open to another account"),
        }
        Ok(())
    }

    fn line(&self, what: &str, who: &str, detail: &str) {
        tell(self.start, what, who, detail);
    }
}

/// Someone who calls.
struct Person {
    name: String,
    client: Client,
    start: Instant,
}

impl Person {
    fn new(name: &str, endpoint: &str, credentials: Credentials, start: Instant) -> anyhow::Result<Self> {
        let client = Client::new(endpoint, credentials, REGION).context("make a client")?;
        Ok(Self { name: name.to_owned(), client, start })
    }

    /// Calls without a line of its own.
    async fn quiet(&self, operation: &str, body: Value) -> anyhow::Result<Value> {
        Ok(self.call(operation, body).await?.0)
    }

    /// Calls and tells it.
    async fn told(&self, operation: &str, body: Value) -> anyhow::Result<Value> {
        let key = body["KeyId"].as_str().map(|key| format!(" {key}")).unwrap_or_default();
        let (answer, seq) = self.call(operation, body).await?;
        let seq = seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
        let name = operation.rsplit('.').next().unwrap_or(operation);
        tell(self.start, "call", &self.name, &format!("{name}{key}{seq}"));
        Ok(answer)
    }

    async fn call(&self, operation: &str, body: Value) -> anyhow::Result<(Value, Option<u64>)> {
        let target = if operation.contains('.') { operation.to_owned() } else { format!("TrentService.{operation}") };
        match self.client.call(&target, body, None).await {
            Ok(answer) => Ok((answer.body, answer.seq)),
            Err(error) => match error.code() {
                Some(code) => Err(anyhow!("{code}")),
                None => Err(error).with_context(|| format!("call {operation}")),
            },
        }
    }

    async fn create_key(&self, purpose: &str, mut body: Value) -> anyhow::Result<String> {
        body["Description"] = json!(purpose);
        let (answer, seq) = self.call("CreateKey", body).await?;
        let arn = answer["KeyMetadata"]["Arn"].as_str().context("CreateKey answered no ARN")?.to_owned();
        let seq = seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
        tell(self.start, "call", &self.name, &format!("CreateKey for {purpose}: {arn}{seq}"));
        Ok(arn)
    }

    async fn encrypt(&self, key: &str, context: &Value) -> anyhow::Result<String> {
        let body = json!({ "KeyId": key, "Plaintext": "aGVsbG8=", "EncryptionContext": context });
        let answer = self.quiet("Encrypt", body).await?;
        Ok(answer["CiphertextBlob"].as_str().context("Encrypt answered no blob")?.to_owned())
    }
}

fn tell(start: Instant, what: &str, who: &str, detail: &str) {
    say(&format!("{:>9.3}  {what:<8}  {who:<8}  {detail}", start.elapsed().as_secs_f64()));
}

/// The access key of `name` in the demo's part of identities.toml.
fn credentials_of(identities: &str, name: &str) -> anyhow::Result<Credentials> {
    let table: toml::Table = identities.parse().context("read identities.toml")?;
    let keys = table.get("access_key").and_then(toml::Value::as_array).context("identities.toml has no access_key")?;
    let key = keys.iter().find(|key| key.get("user").and_then(toml::Value::as_str) == Some(name));
    let text = |field: &str| key.and_then(|key| key.get(field)).and_then(toml::Value::as_str);
    let (Some(id), Some(secret)) = (text("id"), text("secret")) else {
        bail!("{name} has no access key: this data folder is not the demo's, choose another --data");
    };
    let secret = keytrail_kms::auth::credentials::SecretKey::new(secret.to_owned()).context("read a secret")?;
    Credentials::new(id, secret).context("read an access key")
}

fn policy(who: &[&str]) -> String {
    let statement = |name: &&str| match *name {
        "*" => json!({ "Sid": "Everyone", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*" }),
        "root" => json!({ "Sid": "Owner", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
            "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:root") } }),
        user => json!({ "Sid": "Named", "Effect": "Allow", "Action": "kms:*", "Resource": "*",
            "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:user/{user}") } }),
    };
    let statements: Vec<Value> = who.iter().map(statement).collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

/// The newest entry of the responder's timeline; zero before the responder's first start.
fn last_entry(dir: &Path) -> anyhow::Result<i64> {
    let mut last = 0;
    while let Some(entry) = incident::timeline_after(dir, last, ENTRIES_MAX).context("read the timeline")?.last() {
        last = entry.id;
    }
    Ok(last)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

fn next_steps(dir: &Path, endpoint: &str) -> String {
    let dir = dir.display();
    // As it can be typed: `make run` installs nothing.
    let keytrail = std::env::current_exe().map_or_else(|_| "keytrail".into(), |path| path.display().to_string());
    format!(
        "\nKMS endpoint   {endpoint}\nData folder    {dir}\nCredentials    {dir}/credentials\n\nThree things to try:\n\
         1. Ask the log\n   {keytrail} sql --data {dir} \"SELECT event_time, event_name, error_code FROM events WHERE \
         principal_arn LIKE '%insider' ORDER BY seq DESC LIMIT 10\"\n\
         2. Undo containment\n   {keytrail} incident list --data {dir}\n   {keytrail} incident undo --data {dir} ID\n\
         3. Prove the log\n   {keytrail} verify {dir}"
    )
}
