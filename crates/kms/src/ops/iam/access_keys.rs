//! Long-term access keys. The secret is answered once; the store keeps it sealed, since signatures need it.

use super::super::refusal::{Refusal, RefusalKind};
use super::input::required;
use super::render;
use super::users;
use super::work::{Reply, Work};
use crate::auth::credentials::Credentials;
use crate::crypto::Purpose;
use crate::crypto::sealed::seal;
use crate::directory::entity::{AccessKey, User, of_account};
use crate::key::rfc3339_seconds;
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use zeroize::Zeroizing;

/// AWS's quota.
const KEYS_OF_USER_MAX: usize = 2;

pub(super) fn create(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = work.user_name_or_caller()?;
    users::allow(work, &name)?;
    let user = work.existing::<User>(&name)?;
    let keys = of_account::<AccessKey>(work.stored(), work.account);
    if keys.filter(|key| key.user_name == name).count() >= KEYS_OF_USER_MAX {
        let text = format!("Cannot exceed quota for AccessKeysPerUser: {KEYS_OF_USER_MAX}");
        return Err(Refusal::new(RefusalKind::LimitExceeded, text));
    }
    let Credentials { access_key_id, secret } = Credentials::generate().map_err(|_| Refusal::internal())?;
    let secret = Arc::new(secret);
    let sealed = seal(&work.judge.node.root(), Purpose::AccessKey, &access_key_id, secret.expose().as_bytes());
    let sealed = sealed.map_err(|_| Refusal::internal())?;
    let key = AccessKey {
        access_key_id,
        user_name: name,
        user_id: user.user_id.clone(),
        active: true,
        created_us: work.now_us(),
        secret: Some(Arc::clone(&secret)),
    };
    let mut body = Zeroizing::new(String::with_capacity(512));
    // Names, ids and secrets need no escapes in JSON.
    body.push_str(&format!(
        "{{\"AccessKey\":{{\"UserName\":\"{}\",\"AccessKeyId\":\"{}\",\"Status\":\"Active\",\"CreateDate\":\"{}\",\
         \"SecretAccessKey\":\"",
        key.user_name,
        key.access_key_id,
        rfc3339_seconds(key.created_us),
    ));
    body.push_str(secret.expose());
    body.push_str("\"}}");
    let recorded = json!({"accessKey": {
        "userName": key.user_name, "accessKeyId": key.access_key_id, "status": render::status(key.active),
    }});
    work.put(key, Some(sealed));
    Ok(Reply { body: Bytes::from_owner(body), recorded: Some(recorded) })
}

pub(super) fn list(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let name = work.user_name_or_caller()?;
    users::allow(work, &name)?;
    work.existing::<User>(&name)?;
    let keys = of_account::<AccessKey>(work.stored(), work.account).filter(|key| key.user_name == name);
    let withdrawn = &work.judge.access.overlay().withdrawn;
    let entries: Vec<_> = keys
        .map(|key| {
            let mut listed = render::access_key(key);
            if withdrawn.contains_key(&key.access_key_id) {
                listed["Status"] = render::status(false).into();
            }
            (key.access_key_id.clone(), listed)
        })
        .collect();
    Ok(work.page("AccessKeyMetadata", entries)?.into())
}

pub(super) fn update(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let active = match required(&work.input.status, "status")? {
        "Active" => true,
        "Inactive" => false,
        other => {
            let constraint = "Member must satisfy enum value set: [Active, Inactive]";
            return Err(Refusal::constraint(Some(other), "status", constraint));
        }
    };
    let key = named(work)?;
    if active && work.judge.access.overlay().withdrawn.contains_key(&key.access_key_id) {
        let text = "The access key was withdrawn in an incident: KeytrailService.ActivateAccessKey gives it back.";
        return Err(Refusal::new(RefusalKind::UnmodifiableEntity, text));
    }
    work.put(AccessKey { active, ..(*key).clone() }, None);
    Ok(Reply::nothing())
}

pub(super) fn delete(work: &mut Work<'_, '_>) -> Result<Reply, Refusal> {
    let key = named(work)?;
    work.remove::<AccessKey>(&key.access_key_id);
    Ok(Reply::nothing())
}

/// The key of this user, after the caller was asked about the user.
fn named(work: &mut Work<'_, '_>) -> Result<Arc<AccessKey>, Refusal> {
    let name = work.user_name_or_caller()?;
    let id = required(&work.input.access_key_id, "accessKeyId")?;
    users::allow(work, &name)?;
    let found = work.find::<AccessKey>(id).filter(|key| key.user_name == name);
    found
        .ok_or_else(|| Refusal::new(RefusalKind::NoSuchEntity, format!("The Access Key with id {id} cannot be found.")))
}
