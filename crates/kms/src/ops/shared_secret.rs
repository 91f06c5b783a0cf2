//! DeriveSharedSecret: what a key agreement key and someone else's public key have in common.

use super::answer::{Member, secret_body};
use super::decrypt::no_recipient;
use super::describe_key::alias_of;
use super::drive::{Class, Query};
use super::encrypt::would_work;
use super::input::{Blob, member_of, recorded, required};
use super::judge::{Judge, usable, wrong_usage};
use super::refusal::{Refusal, RefusalKind};
use crate::policy::Context;
use crate::spec::ECDH;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

/// AWS's limit on a public key.
const PUBLIC_KEY_BYTES_MAX: usize = 8_192;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeriveSharedSecret {
    key_id: Option<String>,
    key_agreement_algorithm: Option<String>,
    public_key: Option<Blob>,
    grant_tokens: Option<Vec<String>>,
    recipient: Option<Value>,
    dry_run: Option<bool>,
}

impl Query for DeriveSharedSecret {
    const CLASS: Class = Class::Crypto;

    fn parameters(&self) -> Option<Value> {
        recorded(
            self.key_id.as_ref(),
            json!({"keyAgreementAlgorithm": self.key_agreement_algorithm, "dryRun": self.dry_run}),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let algorithm = required(&self.key_agreement_algorithm, "keyAgreementAlgorithm")?;
        let algorithm = member_of("keyAgreementAlgorithm", algorithm, &[ECDH], |name| name, &[])?;
        let peer = required(&self.public_key, "publicKey")?.checked("publicKey", PUBLIC_KEY_BYTES_MAX)?;
        judge.grant_tokens(self.grant_tokens.as_ref()).await?;
        no_recipient(self.recipient.as_ref())?;
        let key = judge.key(text).await?;
        let facts =
            Context { key_agreement_algorithm: Some(algorithm), request_alias: alias_of(text), ..Context::default() };
        judge.allow_key("kms:DeriveSharedSecret", &key, &facts)?;
        let agreement = usable(judge, &key)?.agreement().ok_or_else(|| wrong_usage(judge, &key))?;
        would_work(self.dry_run)?;
        judge.uses(&key, None);
        // AWS says no more about a public key that is none, or on another curve.
        let secret = agreement.agree(peer).map_err(|_| Refusal::bare(RefusalKind::Validation))?;
        Ok(secret_body(&[
            ("KeyId", Member::Text(&key.arn())),
            ("SharedSecret", Member::Bytes(secret.expose())),
            ("KeyAgreementAlgorithm", Member::Text(algorithm)),
            ("KeyOrigin", Member::Text(key.kind.origin.name())),
        ]))
    }
}
