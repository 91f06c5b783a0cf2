//! Rows of `kms.db` to entities, with their secrets opened.

use super::entity::{AccessKey, Device, Entities, Entity};
use crate::auth::SecretKey;
use crate::auth::totp::Seed;
use crate::crypto::sealed::{open, reseal};
use crate::crypto::{Purpose, RootKey, SecretBytes};
use crate::key_store::KeyStore;
use crate::store::{EntityRow, StoreError};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use zeroize::Zeroizing;

const WRONG: StoreError = StoreError::Row { table: "entities" };

/// Reads all rows. One that does not open or parse stops the start: leaving it out could leave out a Deny.
pub(crate) fn load(rows: Vec<EntityRow>, root: &RootKey) -> Result<Entities, StoreError> {
    use super::entity::{Group, OidcProvider, Policy, Role, User};
    let mut all = Entities::default();
    for row in rows {
        match row.kind.as_str() {
            User::KIND => insert::<User>(&mut all, &row, parse(&row)?),
            Group::KIND => insert::<Group>(&mut all, &row, parse(&row)?),
            Role::KIND => insert::<Role>(&mut all, &row, parse(&row)?),
            Policy::KIND => insert::<Policy>(&mut all, &row, parse(&row)?),
            OidcProvider::KIND => insert::<OidcProvider>(&mut all, &row, parse(&row)?),
            AccessKey::KIND => {
                let secret = opened(&row, root)?;
                let text = std::str::from_utf8(secret.expose()).map_err(|_| WRONG)?.to_owned();
                let secret = Some(Arc::new(SecretKey::new(text).map_err(|_| WRONG)?));
                insert(&mut all, &row, AccessKey { secret, ..parse(&row)? });
            }
            Device::KIND => {
                let bytes = opened(&row, root)?;
                let seed = Seed::new(Zeroizing::new(bytes.expose().to_vec())).ok_or(WRONG)?;
                insert(&mut all, &row, Device { seed: Some(Arc::new(seed)), ..parse(&row)? });
            }
            _ => return Err(WRONG),
        }
    }
    Ok(all)
}

fn parse<E: DeserializeOwned>(row: &EntityRow) -> Result<E, StoreError> {
    serde_json::from_str(&row.body).map_err(|_| WRONG)
}

fn opened(row: &EntityRow, root: &RootKey) -> Result<SecretBytes, StoreError> {
    let (purpose, owner) = sealed_for(row).ok_or(WRONG)?;
    open(root, purpose, &owner, row.sealed.as_deref().ok_or(WRONG)?).map_err(|_| WRONG)
}

/// What a row's secret is for, and whose it is.
fn sealed_for(row: &EntityRow) -> Option<(Purpose, String)> {
    match row.kind.as_str() {
        AccessKey::KIND => Some((Purpose::AccessKey, row.name.clone())),
        Device::KIND => Some((Purpose::MfaSeed, Device::arn(row.account, &row.name))),
        KeyStore::KIND => Some((Purpose::KeyStorePin, KeyStore::pin_owner(row.account, &row.name))),
        _ => None,
    }
}

/// A row's secret under another root key.
pub(crate) fn resealed(row: &EntityRow, roots: (&RootKey, &RootKey)) -> Result<Vec<u8>, StoreError> {
    let (purpose, owner) = sealed_for(row).ok_or(WRONG)?;
    reseal(roots, purpose, &owner, row.sealed.as_deref().ok_or(WRONG)?).map_err(|_| WRONG)
}

fn insert<E: Entity>(all: &mut Entities, row: &EntityRow, entity: E) {
    E::all_mut(all).insert((row.account, row.name.clone()), Arc::new(entity));
}
