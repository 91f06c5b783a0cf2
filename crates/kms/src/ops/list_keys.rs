//! ListKeys: the ids and ARNs of the caller's account, page by page.

use super::answer::json_body;
use super::drive::{Class, Query};
use super::input::Page;
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::key::{KeyId, key_arn};
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListKeys {
    limit: Option<i64>,
    marker: Option<String>,
}

impl Query for ListKeys {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        self.limit.map(|limit| json!({"limit": limit}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let page = Page::parse(self.limit, self.marker.as_deref(), 100, 1_000)?;
        let invalid = || Refusal::bare(RefusalKind::InvalidMarker);
        let region = judge.region();
        let after = page.after.as_deref().map(|text| KeyId::parse(text, region).ok_or_else(invalid)).transpose()?;
        judge.allow_account("kms:ListKeys", &Context::default())?;
        let account = judge.account();
        let mut ids = judge.node.registry.keys_after(account, region, after, page.limit + 1);
        let truncated = ids.len() > page.limit;
        ids.truncate(page.limit);
        let keys: Vec<Value> =
            ids.iter().map(|id| json!({"KeyId": id.to_string(), "KeyArn": key_arn(account, *id)})).collect();
        let mut answer = json!({"Keys": keys, "Truncated": truncated});
        if let (true, Some(last)) = (truncated, ids.last()) {
            answer["NextMarker"] = Page::marker(&last.to_string()).into();
        }
        Ok(json_body(&answer))
    }
}
