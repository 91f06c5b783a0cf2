//! `keytrail log erase`: asks the running node to have payloads erased; the trail does it when the record lands.

use super::{Settings, say};
use crate::cli::EraseArgs;
use crate::config::Config;
use anyhow::{Context, bail};
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientOptions};
use serde_json::{Value, json};

pub(crate) async fn run(args: EraseArgs) -> anyhow::Result<()> {
    let EraseArgs { data, seq, reason } = args;
    let dir = &data.data;
    let ranges = seq.iter().map(|text| range(text)).collect::<anyhow::Result<Vec<Value>>>()?;
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let credentials = Credentials::read(&dir.join("credentials"), "default").context("read the administrator's key")?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let options = ClientOptions { trust, ..ClientOptions::default() };
    let client = Client::with_options(&endpoint, credentials, config.node.region, options).context("make a client")?;
    let body = json!({ "Ranges": ranges, "Reason": reason });
    let answer = client.call("KeytrailService.EraseRecords", body, None).await.context("ask for the erasure")?;
    let number = |name: &str| answer.body[name].as_u64().unwrap_or_default();
    say(&format!("erasure of {} records is recorded (seq {})", number("Records"), number("ErasureSeq")));
    say("the lake loses them as soon as the trail has landed it; journal, Kafka and backups as their times pass");
    Ok(())
}

/// `7` or `7-12`.
fn range(text: &str) -> anyhow::Result<Value> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
        bail!("{text} is neither a record's number nor a range of them like 7-12");
    };
    Ok(json!({ "First": first, "Last": last }))
}
