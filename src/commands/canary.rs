//! `keytrail canary key|credential|list|self-test`.
//!
//! A canary is named in `[canary-touched]` of params.toml, which trail and responder read again when it changes. A canary
//! credential is a user without policies in identities.toml; the self-test's is one, too, with its key in `DIR/self-test`.

use super::{Settings, node::SELF_TEST_FILE, say, self_test};
use crate::cli::{CanaryCommand, Planted};
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::auth::credentials::{self, Credentials};
use keytrail_kms::client::{Client, ClientOptions};
use keytrail_responder::self_test::{Outcome, SelfTest};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use toml_edit::{DocumentMut, Item, Table, value};

const RULE: &str = "canary-touched";
/// The rule's own values, which its tests need: of an account that nobody has.
const EXAMPLES: [(&str, &str); 2] = [
    ("keys", "arn:aws:kms:eu-west-1:111122223333:key/0199b000-1111-7000-8000-0000000000ca"),
    ("credentials", "AKIAEXAMPLECANARY000"),
];
/// The self-test's user, as rule `self-test` has it.
const SELF_TEST_USER: &str = "keytrail-self-test";
/// Largest params.toml and identities.toml that are changed.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Longest wait for a running node to take a new user in.
const LOADED_MAX: Duration = Duration::from_secs(15);

pub(crate) async fn run(command: CanaryCommand) -> anyhow::Result<ExitCode> {
    match command {
        CanaryCommand::Key { planted, alias, description } => key(&planted, &alias, &description).await?,
        CanaryCommand::Credential { planted, user, out } => credential(&planted, &user, &out)?,
        CanaryCommand::List(planted) => list(&planted)?,
        CanaryCommand::SelfTest { data, json } => return test(&data.data, json).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn key(planted: &Planted, alias: &str, description: &str) -> anyhow::Result<()> {
    let dir = &planted.data.data;
    let client =
        client(dir, Credentials::read(&dir.join("credentials"), "default").context("read the administrator's key")?)?;
    let body = json!({ "Description": description });
    let made = client.call("TrentService.CreateKey", body, None).await.context("make the key")?.body;
    let arn = made["KeyMetadata"]["Arn"].as_str().context("CreateKey answered no ARN")?;
    let body = json!({ "AliasName": alias, "TargetKeyId": arn });
    client.call("TrentService.CreateAlias", body, None).await.with_context(|| format!("name {arn} {alias}"))?;
    name(planted, "keys", arn)?;
    say(&format!("{arn} is a canary, named {alias}: any call on it pages"));
    Ok(())
}

fn credential(planted: &Planted, user: &str, out: &Path) -> anyhow::Result<()> {
    if out.exists() {
        bail!("{} exists", out.display());
    }
    let made = mint(&planted.data.data, user)?;
    // Named first: a credential that is out must not be one that nobody watches.
    name(planted, "credentials", &made.access_key_id)?;
    credentials::write_file(out, "", &[("default", &made)]).with_context(|| format!("write {}", out.display()))?;
    say(&format!("{} of user {user} is a canary: any signed call with it pages", made.access_key_id));
    say(&format!("its secret is in {}: put that where a thief would look", out.display()));
    Ok(())
}

fn list(planted: &Planted) -> anyhow::Result<()> {
    let document = read_params(&params(planted))?;
    for (kind, example) in EXAMPLES {
        for one in named(&document, kind).split_whitespace().filter(|one| *one != example) {
            say(&format!("{:<12}{one}", kind.trim_end_matches('s')));
        }
    }
    Ok(())
}

async fn test(dir: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let file = dir.join(SELF_TEST_FILE);
    if !file.exists() {
        let made = mint(dir, SELF_TEST_USER)?;
        let head = "The hourly self-test's credential. It may do nothing; keytrail canary self-test.";
        credentials::write_file(&file, head, &[("default", &made)]).context("write the self-test's credential")?;
        wait_until_known(dir, made).await?;
    }
    let result = self_test::once(dir).await?;
    say(&if as_json { serde_json::to_string(&result)? } else { line(&result) });
    Ok(if result.outcome == Outcome::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(test: &SelfTest) -> String {
    let millis = |micros: Option<i64>| micros.map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1e3));
    let reason = test.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!(
        "{}{reason}\ndetected after {}, contained after {}, given back in {}",
        test.outcome.as_str(),
        millis(test.detected_micros),
        millis(test.contained_micros),
        millis(test.undone_micros)
    )
}

/// A user without policies, with one access key, at the end of identities.toml.
fn mint(dir: &Path, user: &str) -> anyhow::Result<Credentials> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c);
    if user.is_empty() || user.len() > 64 || !user.chars().all(plain) {
        bail!("{user:?} is no name of a user: 1 to 64 letters, digits and +=,.@_-");
    }
    let file = dir.join("identities.toml");
    let text = read(&file)?;
    let table: toml::Table = text.parse().with_context(|| format!("read {}", file.display()))?;
    let users = table.get("user").and_then(toml::Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if users.iter().any(|one| one.get("name").and_then(toml::Value::as_str) == Some(user)) {
        bail!("{} has a user {user} already", file.display());
    }
    // The home account: `init` writes its administrator first.
    let account = users.first().and_then(|one| one.get("account")).and_then(toml::Value::as_str);
    let account = account.with_context(|| format!("{} has no user to take the account of", file.display()))?;
    let made = Credentials::generate().context("make an access key")?;
    let entry = zeroize::Zeroizing::new(format!(
        "\n[[user]]\naccount = \"{account}\"\nname = \"{user}\"\n\n[[access_key]]\nid = \"{}\"\nsecret = \"{}\"\naccount = \"{account}\"\nuser = \"{user}\"\n",
        made.access_key_id,
        made.secret.expose()
    ));
    // Replaced in one step: the node may be reading it.
    let whole = zeroize::Zeroizing::new(format!("{}{}", text.as_str(), entry.as_str()));
    credentials::replace_file(&file, whole.as_bytes()).with_context(|| format!("write {}", file.display()))?;
    Ok(made)
}

/// Waits until the node knows the credential, which it says by refusing what it may not do.
async fn wait_until_known(dir: &Path, made: Credentials) -> anyhow::Result<()> {
    let client = client(dir, made)?;
    let end = Instant::now() + LOADED_MAX;
    loop {
        let error = client.call("TrentService.ListAliases", json!({}), None).await.err();
        let code = error.as_ref().and_then(|error| error.code());
        match (code, error.as_ref()) {
            (Some(code), _) if code.contains("AccessDenied") => return Ok(()),
            (_, None) => bail!("the new credential may list aliases: it must not be allowed anything"),
            (_, Some(error)) if Instant::now() > end => bail!("the key service does not know the new user: {error}"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn client(dir: &Path, credentials: Credentials) -> anyhow::Result<Client> {
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let options = ClientOptions { trust, ..ClientOptions::default() };
    Client::with_options(&endpoint, credentials, config.node.region, options).context("make a client")
}

fn params(planted: &Planted) -> PathBuf {
    planted.rules.clone().unwrap_or_else(|| planted.data.data.join("rules")).join("params.toml")
}

fn read_params(file: &Path) -> anyhow::Result<DocumentMut> {
    let text = if file.exists() { read(file)? } else { zeroize::Zeroizing::new(String::new()) };
    text.parse().with_context(|| format!("read {}", file.display()))
}

/// The canaries of a kind, with blanks between.
fn named(document: &DocumentMut, kind: &str) -> String {
    document.get(RULE).and_then(|table| table.get(kind)).and_then(Item::as_str).unwrap_or_default().to_owned()
}

/// Adds a canary to params.toml; everything else in it stays as it is written.
fn name(planted: &Planted, kind: &str, canary: &str) -> anyhow::Result<()> {
    let file = params(planted);
    let mut document = read_params(&file)?;
    let mut all = named(&document, kind);
    if all.is_empty() {
        all =
            EXAMPLES.iter().find(|(of, _)| *of == kind).map_or_else(String::new, |(_, example)| (*example).to_owned());
    }
    document.entry(RULE).or_insert(Item::Table(Table::new()))[kind] = value(format!("{all} {canary}"));
    credentials::replace_file(&file, document.to_string().as_bytes())
        .with_context(|| format!("write {}", file.display()))
}

fn read(file: &Path) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let length = fs::metadata(file).with_context(|| format!("read {}", file.display()))?.len();
    if length > FILE_BYTES_MAX {
        bail!("{} has {length} bytes", file.display());
    }
    Ok(zeroize::Zeroizing::new(fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?))
}
