//! `keytrail bench kms`: calls a second and latency of the real service over HTTP, everything signed and recorded.
//!
//! First everything as `keytrail up` starts it: key service, trail and responder as processes. Then the key service alone
//! in this process, so that its journal gate can be taken out for the comparison; the command has no such switch. The
//! load tool shares the machine, as it would in the budget.

use super::load::{Load, Outcome, Signed, measure};
use super::{REGION, Table};
use crate::cli::BenchKmsArgs;
use crate::commands::service::Service;
use anyhow::Context;
use hyper::body::Bytes;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::auth::sigv4::{RequestParts, sign};
use keytrail_kms::client::Client;
use keytrail_kms::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Distinct signed requests per measurement, sent round robin.
const REQUESTS: usize = 512;
const KEYS: usize = 64;

pub(crate) async fn run(args: BenchKmsArgs) -> anyhow::Result<()> {
    let duration: Duration = *args.duration;
    let fsync = super::fdatasync_millis()?;
    let mut table = Table::new(&["path", "connections", "calls/s", "p50 ms", "p99 ms", "max ms"]);
    let folder = tempfile::tempdir().context("make a folder")?;
    super::create_lifted(folder.path())?;
    let (data, listen) = (folder.path().as_os_str(), OsStr::new("127.0.0.1:0"));
    let mut up = Service::start("up", [OsStr::new("--listen"), listen, OsStr::new("--data"), data]).await?;
    let addr: SocketAddr = up.endpoint.trim_start_matches("http://").parse().context("read the service's address")?;
    let work = Work::prepare(addr, folder.path()).await?;
    for (operation, requests) in [("Decrypt", &work.decrypt), ("GenerateDataKey", &work.generate)] {
        let closed = measure(addr, Arc::clone(requests), args.connections, Load::Closed(duration)).await?;
        table.row(row(&format!("{operation}, everything on"), args.connections, &closed));
    }
    up.stop().await?;
    for (gate, name) in [(true, "journal gate on"), (false, "journal gate off")] {
        let service = super::Service::start(gate).await?;
        let work = Work::prepare(service.addr, service.folder.path()).await?;
        for (operation, requests) in [("Decrypt", &work.decrypt), ("GenerateDataKey", &work.generate)] {
            let closed = measure(service.addr, Arc::clone(requests), args.connections, Load::Closed(duration)).await?;
            table.row(row(&format!("{operation}, {name}"), args.connections, &closed));
        }
        if gate {
            let mutations = Arc::clone(&work.mutations);
            let closed = measure(service.addr, mutations, args.connections, Load::Closed(duration)).await?;
            table.row(row("mutations (TagResource)", args.connections, &closed));
        }
        let paced = Load::PerSecond(1000, duration);
        let steady = measure(service.addr, Arc::clone(&work.decrypt), 16, paced).await?;
        table.row(row(&format!("Decrypt at 1,000/s, {name}"), 16, &steady));
        service.stop().await?;
    }
    table.print();
    super::say(&format!("\nraw fdatasync of 4 KiB on a prepared file: p50 {:.2} ms, p99 {:.2} ms", fsync.0, fsync.1));
    Ok(())
}

pub(super) fn row(path: &str, connections: usize, seen: &Outcome) -> Vec<String> {
    vec![
        path.to_owned(),
        connections.to_string(),
        format!("{:.0}", seen.rate()),
        format!("{:.2}", seen.millis(0.5)),
        format!("{:.2}", seen.millis(0.99)),
        format!("{:.2}", seen.millis(1.0)),
    ]
}

/// Requests signed ahead of time.
pub(super) struct Work {
    pub(super) decrypt: Arc<Vec<Signed>>,
    generate: Arc<Vec<Signed>>,
    pub(super) mutations: Arc<Vec<Signed>>,
}

impl Work {
    pub(super) async fn prepare(addr: SocketAddr, dir: &Path) -> anyhow::Result<Self> {
        let credentials = super::administrator(dir)?;
        let client =
            Client::new(&format!("http://{addr}"), super::administrator(dir)?, REGION).context("make a client")?;
        let (mut decrypt, mut generate, mut mutations) = (Vec::new(), Vec::new(), Vec::new());
        let mut keys = Vec::new();
        for _ in 0..KEYS {
            let answer = client.call("TrentService.CreateKey", json!({}), None).await.context("create a key")?;
            keys.push(answer.body["KeyMetadata"]["KeyId"].as_str().context("CreateKey answered no id")?.to_owned());
        }
        let host = addr.to_string();
        let signed = |operation: &str, body: Value| request(&credentials, &host, operation, &body);
        for (index, key) in keys.iter().cycle().take(REQUESTS).enumerate() {
            let context = json!({ "tenant": index.to_string() });
            let body = json!({ "KeyId": key, "Plaintext": "aGVsbG8gaGVsbG8gaGVsbG8=", "EncryptionContext": context });
            let answer = client.call("TrentService.Encrypt", body, None).await.context("encrypt")?;
            let blob = &answer.body["CiphertextBlob"];
            decrypt.push(signed("Decrypt", json!({ "CiphertextBlob": blob, "EncryptionContext": context })));
            let body = json!({ "KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context });
            generate.push(signed("GenerateDataKey", body));
            let tag = json!([{ "TagKey": "bench", "TagValue": index.to_string() }]);
            mutations.push(signed("TagResource", json!({ "KeyId": key, "Tags": tag })));
        }
        Ok(Self { decrypt: Arc::new(decrypt), generate: Arc::new(generate), mutations: Arc::new(mutations) })
    }
}

/// A request signed now.
pub(crate) fn request(credentials: &Credentials, host: &str, operation: &str, body: &Value) -> Signed {
    let target = format!("TrentService.{operation}");
    let body = body.to_string().into_bytes();
    let mut headers: Vec<(String, String)> =
        [("content-type", "application/x-amz-json-1.1"), ("host", host), ("x-amz-target", target.as_str())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    let plain: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let parts = RequestParts { method: "POST", path: "/", query: "", headers: &plain, body: &body };
    let signature = sign(credentials, &parts, REGION, "kms", SystemClock.now_us());
    headers.extend(signature.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Signed { headers, body: Bytes::from(body) }
}
