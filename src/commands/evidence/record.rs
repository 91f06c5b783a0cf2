//! The export as an event in the log that it is of: through the running node, or through the lock of a stopped one.
//!
//! Recorded when the pack is whole and before it has its name, so that no pack is handed out that the log does not know. What is
//! only a copy of a folder must not grow a log of its own, which would be a fork: `--unrecorded`, and the pack says so.

use crate::commands::{Settings, seal_key, signer_socket};
use crate::config::Config;
use anyhow::Context;
use keytrail_kms::auth::credentials::Credentials;
use keytrail_kms::client::{Client, ClientOptions};
use keytrail_kms::clock::SystemClock;
use keytrail_kms::service::{RecordError, StartError, is_running, record_export_offline};
use keytrail_trail::evidence::Exported;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// Why the export of this folder cannot be an event, where that is so.
pub(super) fn impossible(dir: &Path, asked_not_to: bool) -> Option<String> {
    if asked_not_to {
        return Some("it was made with --unrecorded, as of a copy of a data folder".to_owned());
    }
    let has = |name: &str| dir.join(name).is_file();
    let reaches_a_node = has("keytrail.toml") && (has("root.key") || has("credentials"));
    (!reaches_a_node).then(|| "the folder holds records and no node that could write to the log".to_owned())
}

/// The event of a pack.
pub(super) fn body(exported: &Exported) -> Value {
    let manifest = &exported.manifest;
    json!({
        "ExportedBy": manifest.exported_by,
        "From": manifest.period.from,
        "To": manifest.period.to,
        "ControlSet": manifest.control_set,
        "ManifestSha256": exported.manifest_sha256,
    })
}

/// Writes it; gives its seq.
pub(super) async fn write(dir: &Path, body: Value, passphrase_file: Option<&Path>) -> anyhow::Result<u64> {
    // The folder of a trail on another machine has no root key, but may name the node's endpoint.
    if is_running(dir) || !dir.join("root.key").is_file() {
        return through_the_node(dir, body).await;
    }
    let seal_key = seal_key::of_root_key(dir, passphrase_file)?.map(Arc::new);
    match record_export_offline(dir, &body, (seal_key, signer_socket(dir)?), Arc::new(SystemClock)).await {
        // Started in between.
        Err(RecordError::Start(StartError::Locked { .. })) => through_the_node(dir, body).await,
        recorded => recorded.context("open the stopped node"),
    }
}

async fn through_the_node(dir: &Path, body: Value) -> anyhow::Result<u64> {
    let config = Config::read(&dir.join("keytrail.toml"))?;
    let credentials = Credentials::read(&dir.join("credentials"), "default").context("read the administrator's key")?;
    let (endpoint, trust) = Settings::endpoint(dir, &config)?;
    let options = ClientOptions { trust, ..ClientOptions::default() };
    let client = Client::with_options(&endpoint, credentials, config.node.region, options).context("make a client")?;
    let answer = client.call("KeytrailService.ExportEvidence", body, None).await.context("call the running node")?;
    answer.seq.context("the node named no record")
}
