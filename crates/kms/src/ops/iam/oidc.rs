//! OpenID Connect providers: whose tokens roles of the account may trust. Thumbprints are kept for AWS's clients and mean
//! nothing here: keys come from a file or from this machine (auth/oidc), never over somebody's certificate.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::required;
use super::render;
use super::users::{merge_tags, tag_entries};
use super::work::{Facts, Reply, Work};
use crate::auth::oidc::is_loopback;
use crate::directory::entity::{Entity, OidcProvider};
use crate::key::rfc3339_seconds;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// AWS's quotas.
const PROVIDERS_MAX: usize = 100;
const CLIENT_IDS_MAX: usize = 100;
const THUMBPRINTS_MAX: usize = 5;
const TEXT_CHARS_MAX: usize = 255;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let url = checked_url(required(&work.input.url, "url")?)?;
    let name = name_of(url);
    let tags = work.input.tags()?;
    work.allow::<OidcProvider>(name, &Facts { request_tags: Some(&tags), ..Facts::default() })?;
    work.room_for::<OidcProvider>(name, PROVIDERS_MAX)?;
    let client_ids = work.input.client_ids.as_ref().map(|ids| ids.0.clone()).unwrap_or_default();
    if client_ids.len() > CLIENT_IDS_MAX {
        return Err(too_many_clients());
    }
    for id in &client_ids {
        checked_client_id(id)?;
    }
    let provider = OidcProvider {
        name: name.to_owned(),
        url: url.to_owned(),
        client_ids: client_ids.into_iter().collect(),
        thumbprints: thumbprints(work)?,
        created_us: work.now_us(),
        tags,
    };
    let answer = json!({
        "OpenIDConnectProviderArn": OidcProvider::arn(work.account, name), "Tags": render::tags(&provider.tags),
    });
    work.put(provider, None);
    Ok(answer.into())
}

pub(super) fn get(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let provider = allowed(work, &BTreeMap::new(), &[])?;
    Ok(json!({
        "Url": provider.name, "ClientIDList": provider.client_ids, "ThumbprintList": provider.thumbprints,
        "CreateDate": rfc3339_seconds(provider.created_us), "Tags": render::tags(&provider.tags),
    })
    .into())
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    work.allow_listing::<OidcProvider>()?;
    let all = work.all::<OidcProvider>();
    let arns: Vec<_> =
        all.iter().map(|provider| json!({"Arn": OidcProvider::arn(work.account, &provider.name)})).collect();
    Ok(json!({"OpenIDConnectProviderList": arns}).into())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let provider = allowed(work, &BTreeMap::new(), &[])?;
    work.remove::<OidcProvider>(&provider.name);
    Ok(Reply::nothing())
}

pub(super) fn add_client(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let id = required(&work.input.client_id, "clientID")?;
    checked_client_id(id)?;
    let mut provider = (*allowed(work, &BTreeMap::new(), &[])?).clone();
    provider.client_ids.insert(id.to_owned());
    if provider.client_ids.len() > CLIENT_IDS_MAX {
        return Err(too_many_clients());
    }
    work.put(provider, None);
    Ok(Reply::nothing())
}

pub(super) fn remove_client(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let id = required(&work.input.client_id, "clientID")?;
    let mut provider = (*allowed(work, &BTreeMap::new(), &[])?).clone();
    provider.client_ids.remove(id);
    work.put(provider, None);
    Ok(Reply::nothing())
}

pub(super) fn update_thumbprints(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let mut provider = (*allowed(work, &BTreeMap::new(), &[])?).clone();
    provider.thumbprints = thumbprints(work)?;
    work.put(provider, None);
    Ok(Reply::nothing())
}

pub(super) fn tag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let tags = work.input.tags()?;
    let mut provider = (*allowed(work, &tags, &[])?).clone();
    merge_tags(&mut provider.tags, tags)?;
    work.put(provider, None);
    Ok(Reply::nothing())
}

pub(super) fn untag(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let keys = work.input.tag_keys.as_ref().map_or(&[][..], |keys| &keys.0);
    let mut provider = (*allowed(work, &BTreeMap::new(), keys)?).clone();
    provider.tags.retain(|key, _| !keys.contains(key));
    work.put(provider, None);
    Ok(Reply::nothing())
}

pub(super) fn tags(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let provider = allowed(work, &BTreeMap::new(), &[])?;
    Ok(work.page("Tags", tag_entries(&provider.tags))?.into())
}

/// The provider that a call names, if its caller may do this to it.
fn allowed(
    work: &mut Work<'_, '_>,
    request_tags: &BTreeMap<String, String>,
    tag_keys: &[String],
) -> Result<Arc<OidcProvider>, Refusal> {
    let arn = required(&work.input.provider_arn, "openIDConnectProviderArn")?;
    let own = OidcProvider::arn(work.account, "");
    let name = arn.strip_prefix(&own).ok_or_else(|| {
        Refusal::new(RefusalKind::InvalidInput, "Invalid ARN: not an OpenID Connect provider of this account")
    })?;
    let there = work.find::<OidcProvider>(name).map(|provider| provider.tags.clone()).unwrap_or_default();
    let facts = Facts { resource_tags: Some(&there), request_tags: Some(request_tags), tag_keys, ..Facts::default() };
    work.allow::<OidcProvider>(name, &facts)?;
    work.existing::<OidcProvider>(name)
}

/// An issuer's URL: HTTPS as at AWS, or HTTP to an address of this machine.
fn checked_url(url: &str) -> Result<&str, Refusal> {
    let refuse = |text: &'static str| Err(Refusal::new(RefusalKind::InvalidInput, text));
    if !(1..=TEXT_CHARS_MAX).contains(&url.len()) {
        return Err(Refusal::constraint(Some(url), "url", "Member must have length between 1 and 255"));
    }
    let plain = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && !name.ends_with('/')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_~:/".contains(&byte))
    };
    match url.strip_prefix("https://") {
        Some(name) if plain(name) => Ok(url),
        None if is_loopback(url) && plain(name_of(url)) => Ok(url),
        Some(_) => refuse("Invalid Open ID Connect Provider URL"),
        None => refuse("Invalid Open ID Connect Provider URL: must begin with https://, or with http:// and 127.0.0.1"),
    }
}

/// A provider's name in its ARN and in condition keys.
fn name_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, name)| name)
}

fn checked_client_id(id: &str) -> Result<(), Refusal> {
    if !(1..=TEXT_CHARS_MAX).contains(&id.chars().count()) || id.chars().any(char::is_control) {
        return Err(Refusal::constraint(None, "clientID", "Member must have length between 1 and 255"));
    }
    Ok(())
}

fn too_many_clients() -> Refusal {
    let text = format!("Cannot exceed quota for ClientIdsPerOpenIdConnectProvider: {CLIENT_IDS_MAX}");
    Refusal::new(RefusalKind::LimitExceeded, text)
}

fn thumbprints(work: &Work<'_, '_>) -> Result<Vec<String>, Refusal> {
    let all = work.input.thumbprints.as_ref().map(|all| all.0.clone()).unwrap_or_default();
    let sane = |print: &String| print.len() == 40 && print.bytes().all(|byte| byte.is_ascii_hexdigit());
    if all.len() > THUMBPRINTS_MAX || !all.iter().all(sane) {
        let constraint = "Member must be at most 5 thumbprints of 40 hexadecimal digits";
        return Err(Refusal::constraint(None, "thumbprintList", constraint));
    }
    Ok(all)
}
