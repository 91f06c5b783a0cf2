//! ListGrants and ListRetirableGrants: the grants on a key, and those that a principal may retire, page by page.

use super::answer::json_body;
use super::create_grant::checked_principal;
use super::drive::{Class, Query};
use super::end_grant::grant_on;
use super::input::{Page, recorded, required};
use super::judge::Judge;
use super::refusal::{Refusal, RefusalKind};
use crate::grant::{Grant, GrantId, GrantPlace};
use crate::key::{AccountId, KeyId, Region};
use crate::policy::Context;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const PAGE_USUAL: usize = 50;
const PAGE_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListGrants {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
    grant_id: Option<String>,
    grantee_principal: Option<String>,
    grantee_service_principal: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListRetirableGrants {
    limit: Option<i64>,
    marker: Option<String>,
    retiring_principal: Option<String>,
    retiring_service_principal: Option<String>,
}

impl Query for ListGrants {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(256)]);
        recorded(
            self.key_id.as_ref(),
            json!({
                "limit": self.limit,
                "grantId": self.grant_id.as_ref().map(cut),
                "granteePrincipal": self.grantee_principal.as_ref().map(cut),
            }),
        )
    }

    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let text = required(&self.key_id, "keyId")?;
        let page = Page::parse(self.limit, self.marker.as_deref(), PAGE_USUAL, PAGE_MAX)?;
        let after = page.after.as_deref().map(|text| GrantId::parse(text).ok_or_else(invalid_marker)).transpose()?;
        let grantee = self.grantee_principal.as_deref();
        let grantee = grantee.map(|text| checked_principal(text, "granteePrincipal")).transpose()?;
        no_service(self.grantee_service_principal.as_ref())?;
        let key = judge.key_without_alias(text).await?;
        judge.allow_key("kms:ListGrants", &key, &Context::default())?;
        if let Some(id) = &self.grant_id {
            let grant = grant_on(judge, &key, id).await?;
            let listed = grantee.is_none_or(|grantee| *grantee == *grant.grantee).then_some(grant);
            return Ok(answer(&page, listed.into_iter().collect(), |grant| grant.place.id.to_string()));
        }
        let found = judge.node.registry.grants_after((key.account, key.id), grantee, after, page.limit + 1);
        Ok(answer(&page, found, |grant| grant.place.id.to_string()))
    }
}

impl Query for ListRetirableGrants {
    const CLASS: Class = Class::Read;

    fn parameters(&self) -> Option<Value> {
        let cut = |text: &String| Value::from(&text[..text.floor_char_boundary(256)]);
        recorded(None, json!({"limit": self.limit, "retiringPrincipal": self.retiring_principal.as_ref().map(cut)}))
    }

    /// The resource asked about is the principal, as at AWS; it must be of the caller's own account.
    async fn run(&self, judge: &mut Judge<'_>) -> Result<Bytes, Refusal> {
        let page = Page::parse(self.limit, self.marker.as_deref(), PAGE_USUAL, PAGE_MAX)?;
        let after =
            page.after.as_deref().map(|text| place_of(text, judge.region()).ok_or_else(invalid_marker)).transpose()?;
        no_service(self.retiring_service_principal.as_ref())?;
        let principal = required(&self.retiring_principal, "retiringPrincipal")?;
        let principal = checked_principal(principal, "retiringPrincipal")?;
        if principal.split(':').nth(4) != Some(judge.account().as_str()) {
            judge.record.decided_by = Some("Default".to_owned());
            return Err(judge.denied(principal));
        }
        judge.allow_principal("kms:ListRetirableGrants", principal)?;
        let found = judge.node.registry.retirable_after((principal, judge.region()), after, page.limit + 1);
        Ok(answer(&page, found, |grant| marker_of(&grant.place)))
    }
}

/// AWS lets only services ask by service.
fn no_service(service: Option<&String>) -> Result<(), Refusal> {
    match service {
        None => Ok(()),
        Some(_) => Err(Refusal::new(RefusalKind::Validation, "Only a service can list grants by service principal.")),
    }
}

fn invalid_marker() -> Refusal {
    Refusal::bare(RefusalKind::InvalidMarker)
}

fn answer(page: &Page, mut found: Vec<Arc<Grant>>, marker: impl Fn(&Grant) -> String) -> Bytes {
    let truncated = found.len() > page.limit;
    found.truncate(page.limit);
    let listed: Vec<Value> = found.iter().map(|grant| grant.list_entry()).collect();
    let mut answer = json!({"Grants": listed, "Truncated": truncated});
    if let (true, Some(last)) = (truncated, found.last()) {
        answer["NextMarker"] = Page::marker(&marker(last)).into();
    }
    json_body(&answer)
}

/// `<account>/<key>/<grant>`.
fn marker_of(place: &GrantPlace) -> String {
    format!("{}/{}/{}", place.account, place.key, place.id)
}

fn place_of(marker: &str, region: Region) -> Option<GrantPlace> {
    let mut parts = marker.split('/');
    let place = GrantPlace {
        account: AccountId::parse(parts.next()?)?,
        key: KeyId::parse(parts.next()?, region)?,
        id: GrantId::parse(parts.next()?)?,
    };
    parts.next().is_none().then_some(place)
}
