//! Keys of services: programs that act for the users who use them, such as the one that attaches encrypted volumes.
//!
//! Such a key belongs to nobody. Each call names, under its signature, the user it is made for, and policies see that
//! user with `kms:ViaService` set: docs/decisions/0009-service-credentials.md.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Value, json};

use super::file::{Secret, Status, entry};
use super::{AccessKey, IdentitiesError};
use crate::auth::credentials::{SecretKey, is_access_key_id};

/// One `[[service_key]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceKeyShape {
    id: String,
    secret: Secret,
    account: String,
    service: String,
    #[serde(default)]
    status: Status,
}

/// A service's key, checked.
pub struct ServiceKey {
    pub(super) secret: SecretKey,
    pub(super) active: bool,
    /// The only account for whose users it may act.
    pub account: String,
    /// The service's short name, such as `ec2`.
    pub service: String,
}

/// Checks the entries; an id is unique among keys of both kinds.
pub(super) fn service_keys(
    shapes: Vec<ServiceKeyShape>,
    accounts: &BTreeMap<String, Option<String>>,
    access_keys: &HashMap<String, AccessKey>,
) -> Result<HashMap<String, ServiceKey>, IdentitiesError> {
    let mut keys = HashMap::new();
    for ServiceKeyShape { id, secret, account, service, status } in shapes {
        if !is_access_key_id(&id) {
            return Err(entry(
                "service_key",
                "with a malformed id",
                "an id has 16 to 128 upper-case letters and digits",
            ));
        }
        if !accounts.contains_key(&account) {
            return Err(entry("service_key", &id, "its account does not exist"));
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&service.len()) || !service.bytes().all(plain) {
            return Err(entry("service_key", &id, "a service has 1 to 32 lower-case letters, digits and hyphens"));
        }
        let key = ServiceKey { secret: secret.0, active: status == Status::Active, account, service };
        if access_keys.contains_key(&id) || keys.insert(id.clone(), key).is_some() {
            return Err(entry("service_key", &id, "appears twice"));
        }
    }
    Ok(keys)
}

/// Everything but the secret, by account and id.
pub(super) fn public(shape: &ServiceKeyShape) -> ((&str, &str), Value) {
    let ServiceKeyShape { id, account, service, status, .. } = shape;
    let value = json!({"accessKeyId": id, "accountId": account, "service": service, "status": status.name()});
    ((account.as_str(), id.as_str()), value)
}
