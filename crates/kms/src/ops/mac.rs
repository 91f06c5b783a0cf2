//! GenerateMac and VerifyMac: message authentication codes by HMAC keys.

use super::answer::json_body;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::encrypt::would_work;
use super::input::{Blob, member_of, recorded, required};
use super::judge::{Judge, usable, wrong_algorithm, wrong_usage};
use super::refusal::{Refusal, RefusalKind};
use super::sign::MESSAGE_BYTES_MAX;
use crate::crypto::mac::MacKey;
use crate::key::KeyRecord;
use crate::policy::Context;
use crate::spec::MacAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// AWS's limit on a MAC; the longest has 64 bytes.
const MAC_BYTES_MAX: usize = 6_144;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    key_id: Option<String>,
    message: Option<Blob>,
    mac: Option<Blob>,
    mac_algorithm: Option<String>,
    grant_tokens: Option<Vec<String>>,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct GenerateMac(Input);

#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct VerifyMac(Input);

impl Query for GenerateMac {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let (key, algorithm, message) = self.0.judged(judge, "kms:GenerateMac").await?;
        let mac_key = mac_key(judge, &key, algorithm)?;
        would_work(self.0.dry_run)?;
        judge.uses(&key, None);
        Ok(json_body(&json!({
            "Mac": STANDARD.encode(mac_key.generate(message)),
            "MacAlgorithm": algorithm.name(),
            "KeyId": key.arn(),
        })))
    }
}

impl Query for VerifyMac {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        self.0.parameters()
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let mac = required(&self.0.mac, "mac")?.checked("mac", MAC_BYTES_MAX)?;
        let (key, algorithm, message) = self.0.judged(judge, "kms:VerifyMac").await?;
        let mac_key = mac_key(judge, &key, algorithm)?;
        would_work(self.0.dry_run)?;
        judge.uses(&key, None);
        mac_key.verify(message, mac).map_err(|_| Refusal::bare(RefusalKind::InvalidMac))?;
        Ok(json_body(&json!({
            "KeyId": key.arn(),
            "MacValid": true,
            "MacAlgorithm": algorithm.name(),
        })))
    }
}

impl Input {
    fn parameters(&self) -> Option<Value> {
        recorded(self.key_id.as_ref(), json!({"macAlgorithm": self.mac_algorithm, "dryRun": self.dry_run}))
    }

    /// Checks the members, finds the key and asks the policies.
    async fn judged(
        &self,
        judge: &mut Judge<'_>,
        action: &str,
    ) -> Result<(Arc<KeyRecord>, MacAlgorithm, &[u8]), Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let message = required(&self.message, "message")?.checked("message", MESSAGE_BYTES_MAX)?;
        let algorithm = required(&self.mac_algorithm, "macAlgorithm")?;
        let algorithm = member_of("macAlgorithm", algorithm, MacAlgorithm::ALL, MacAlgorithm::name, &[])?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        let key = judge.key(text).await?;
        let facts =
            Context { mac_algorithm: Some(algorithm.name()), request_alias: alias_of(text), ..Context::default() };
        judge.allow_key(action, &key, &facts)?;
        Ok((key, algorithm, message))
    }
}

/// The secret of a key whose state, usage and spec allow the algorithm.
fn mac_key<'k>(judge: &Judge<'_>, key: &'k KeyRecord, algorithm: MacAlgorithm) -> Result<&'k MacKey, Refusal> {
    let mac_key = usable(judge, key)?.mac().ok_or_else(|| wrong_usage(judge, key))?;
    if key.kind.spec.mac_algorithm() != Some(algorithm) {
        return Err(wrong_algorithm(key, algorithm.name()));
    }
    Ok(mac_key)
}
