//! What many grants on one key cost: making them, starting with them, and a Decrypt that hangs on one of them.
//!
//! The caller is a user without policies, whom nothing but its one grant lets in; all others are somebody else's. The
//! budget: a start within 5 s, and the same latency as with the one grant alone, within 10 %.

use super::kms::request;
use super::load::{Load, Outcome, measure};
use super::{ACCOUNT, REGION, Table};
use anyhow::Context;
use keytrail_kms::auth::credentials::{Credentials, SecretKey};
use keytrail_kms::client::Client;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Users that the grants are spread over.
const GRANTEES: u32 = 500;
const MAKING_CONNECTIONS: usize = 64;
const CALLING_CONNECTIONS: usize = 4;
const CALLING: Duration = Duration::from_secs(5);
const APP_KEY_ID: &str = "AKIABENCHBENCHBENCH1";
const APP_SECRET: &str = "of-a-bench-that-lives-for-a-minute";

pub(super) async fn run(grants: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    super::create_lifted(folder.path())?;
    add_users(folder.path())?;
    let mut service = super::keys::start(folder.path()).await?;
    let one = One::make(&service.endpoint, folder.path()).await?;
    let before = one.decrypts(&service.endpoint).await?;
    let made = one.make_others(&service.endpoint, folder.path(), grants).await?;
    service.stop().await?;

    let begin = Instant::now();
    let mut service = super::keys::start(folder.path()).await?;
    let start = begin.elapsed();
    let after = one.decrypts(&service.endpoint).await?;
    service.stop().await?;
    let mut table = Table::new(&[
        "grants on one key",
        "CreateGrant/s",
        "start s",
        "Decrypt p50 ms with one",
        "p50 ms with all",
        "p99 ms with one",
        "p99 ms with all",
    ]);
    table.row(vec![
        grants.to_string(),
        format!("{:.0}", made.rate()),
        format!("{:.2}", start.as_secs_f64()),
        format!("{:.3}", before.millis(0.5)),
        format!("{:.3}", after.millis(0.5)),
        format!("{:.3}", before.millis(0.99)),
        format!("{:.3}", after.millis(0.99)),
    ]);
    table.print();
    Ok(())
}

fn add_users(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("identities.toml");
    let mut text = std::fs::read_to_string(&file).context("read identities.toml")?;
    for name in (0..GRANTEES).map(|index| format!("grantee-{index}")).chain(["app".to_owned()]) {
        writeln!(text, "\n[[user]]\naccount = \"{ACCOUNT}\"\nname = \"{name}\"\npolicies = []")?;
    }
    writeln!(
        text,
        "\n[[access_key]]\nid = \"{APP_KEY_ID}\"\naccount = \"{ACCOUNT}\"\nuser = \"app\"\nsecret = \"{APP_SECRET}\""
    )?;
    std::fs::write(file, text).context("write identities.toml")
}

/// A key, and what the user with the one grant may decrypt.
struct One {
    key: Value,
    body: Value,
}

impl One {
    async fn make(endpoint: &str, dir: &Path) -> anyhow::Result<Self> {
        let admin = Client::new(endpoint, super::administrator(dir)?, REGION).context("make a client")?;
        let key = admin.call("TrentService.CreateKey", json!({}), None).await.context("create a key")?;
        let key = key.body["KeyMetadata"]["Arn"].clone();
        admin.call("TrentService.CreateGrant", grant(&key, "app", 0), None).await.context("make a grant")?;
        let context = json!({"tenant": "0"});
        let body = json!({"KeyId": key, "Plaintext": "aGVsbG8=", "EncryptionContext": context});
        let sealed = admin.call("TrentService.Encrypt", body, None).await.context("encrypt")?;
        let body = json!({"CiphertextBlob": sealed.body["CiphertextBlob"], "EncryptionContext": context});
        Ok(Self { key, body })
    }

    async fn make_others(&self, endpoint: &str, dir: &Path, grants: u32) -> anyhow::Result<Outcome> {
        let (admin, host) = (super::administrator(dir)?, endpoint.trim_start_matches("http://"));
        let others = (1..grants.max(2)).map(|index| {
            let body = grant(&self.key, &format!("grantee-{}", index % GRANTEES), index);
            request(&admin, host, "CreateGrant", &body)
        });
        let others: Vec<_> = others.collect();
        measure(address(endpoint)?, Arc::new(others), MAKING_CONNECTIONS, Load::Calls(grants.saturating_sub(1))).await
    }

    async fn decrypts(&self, endpoint: &str) -> anyhow::Result<Outcome> {
        let secret = SecretKey::new(APP_SECRET.to_owned()).context("read the user's secret")?;
        let app = Credentials::new(APP_KEY_ID, secret).context("read the user's key")?;
        let call = request(&app, endpoint.trim_start_matches("http://"), "Decrypt", &self.body);
        measure(address(endpoint)?, Arc::new(vec![call]), CALLING_CONNECTIONS, Load::Closed(CALLING)).await
    }
}

fn grant(key: &Value, user: &str, index: u32) -> Value {
    json!({
        "KeyId": key, "GranteePrincipal": format!("arn:aws:iam::{ACCOUNT}:user/{user}"), "Operations": ["Decrypt"],
        "Name": "bench", "Constraints": {"EncryptionContextSubset": {"tenant": index.to_string()}},
    })
}

fn address(endpoint: &str) -> anyhow::Result<SocketAddr> {
    endpoint.trim_start_matches("http://").parse().context("read the service's address")
}
