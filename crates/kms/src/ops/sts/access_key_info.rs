//! GetAccessKeyInfo: which account an access key belongs to. Temporary keys are nowhere kept, so theirs cannot be told.

use super::super::answer::json_body;
use super::super::drive::{Class, Query};
use super::super::input::{recorded, required};
use super::super::judge::Judge;
use super::super::refusal::{Refusal, RefusalKind};
use crate::auth::credentials::is_access_key_id;
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::ops) struct GetAccessKeyInfo {
    access_key_id: Option<String>,
}

impl Query for GetAccessKeyInfo {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        recorded(None, json!({"accessKeyId": self.access_key_id}))
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let id = required(&self.access_key_id, "accessKeyId")?;
        if !is_access_key_id(id) {
            let constraint = "Member must be 16 to 128 upper-case letters and digits";
            return Err(Refusal::constraint(Some(id), "accessKeyId", constraint));
        }
        judge.allow_account("sts:GetAccessKeyInfo", &Context::default())?;
        let account = judge.access.account_of_key(id).ok_or_else(|| {
            Refusal::new(RefusalKind::Validation, format!("The access key {id} is not known to this node."))
        })?;
        Ok(json_body(&json!({"Account": account})))
    }
}
