//! Custom key stores: tokens (PKCS#11) that hold KMS keys, each named by a cluster id of the configuration.
//!
//! A store's record is immutable and lies among the store's entities, with the token's PIN sealed under the root key. What
//! becomes of its connection is only in memory (`link`): all records of a store, and the keys in it, share one link.

mod link;

pub use link::Link;
pub(crate) use link::{Connection, error_code};

use crate::crypto::sealed::{open, seal};
use crate::crypto::{CryptoFailure, Purpose, RootKey};
use crate::hsm::{Pin, TokenAddress};
use crate::key::{AccountId, Region, rfc3339_micros};
use crate::store::{Change, EntityRow, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Stores of one account in a region: AWS's quota.
pub(crate) const STORES_MAX: usize = 10;

const WRONG: StoreError = StoreError::Row { table: "entities" };

/// `[hsm."cluster-..."]` of keytrail.toml: the token that a cluster id stands for. The module is code that runs in our
/// process: no caller names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The PKCS#11 library of the token's manufacturer.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// File with the certificate that whoever sets up a store must know; none is asked for without it.
    pub trust_anchor_file: Option<PathBuf>,
}

impl Cluster {
    /// Where its token is.
    pub(crate) fn address(&self) -> TokenAddress {
        TokenAddress { module: self.module.clone(), token: self.token.clone() }
    }
}

/// The clusters of the configuration, by id.
pub type Clusters = BTreeMap<String, Cluster>;

/// What a store's row says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Body {
    /// Unique in its account and region.
    pub(crate) name: String,
    /// Which token.
    pub(crate) cluster: String,
    /// As its maker sent it.
    pub(crate) trust_anchor: String,
    /// Unix microseconds.
    pub(crate) created_us: u64,
    /// Whether it shall be connected, also after a restart.
    pub(crate) wanted: bool,
    /// Whether the token refused the PIN: a restart does not try it again.
    pub(crate) pin_refused: bool,
}

/// A custom key store.
#[derive(Clone)]
pub struct KeyStore {
    pub(crate) account: AccountId,
    pub(crate) region: Region,
    pub(crate) id: Arc<str>,
    pub(crate) body: Body,
    pub(crate) pin: Arc<Pin>,
    pub(crate) link: Arc<Link>,
}

impl KeyStore {
    /// The kind of its rows.
    pub(crate) const KIND: &'static str = "key-store";

    /// A new one, not connected.
    pub(crate) fn new((account, region, id): (AccountId, Region, String), body: Body, pin: Pin) -> Self {
        let id: Arc<str> = id.into();
        let link = Arc::new(Link::new(Arc::clone(&id), &body.cluster));
        Self { account, region, id, body, pin: Arc::new(pin), link }
    }

    /// A copy that says something else.
    pub(crate) fn with_body(&self, body: Body) -> Self {
        Self { body, ..self.clone() }
    }

    /// Whose PIN a sealed one is.
    pub(crate) fn pin_owner(account: AccountId, row_name: &str) -> String {
        format!("{account}/{row_name}")
    }

    fn row_name(&self) -> String {
        format!("{}/{}", self.region, self.id)
    }

    /// The change that stores it; with its PIN where that is new.
    pub(crate) fn put(&self, new_pin: Option<&RootKey>) -> Result<Change, CryptoFailure> {
        let name = self.row_name();
        let owner = Self::pin_owner(self.account, &name);
        let sealed = new_pin.map(|root| seal(root, Purpose::KeyStorePin, &owner, self.pin.expose().as_bytes()));
        let body = serde_json::to_string(&self.body).map_err(|_| CryptoFailure)?;
        Ok(Change::PutEntity { account: self.account, kind: Self::KIND, name, body, sealed: sealed.transpose()? })
    }

    /// The change that deletes it.
    pub(crate) fn delete(&self) -> Change {
        Change::DeleteEntity { account: self.account, kind: Self::KIND, name: self.row_name() }
    }

    /// Reads a row; a store that was connected will be again, unless its token refused the PIN.
    pub(crate) fn load(row: &EntityRow, root: &RootKey) -> Result<Self, StoreError> {
        let (region, id) = row.name.split_once('/').ok_or(WRONG)?;
        let region = Region::parse(region).ok_or(WRONG)?;
        let body: Body = serde_json::from_str(&row.body).map_err(|_| WRONG)?;
        let owner = Self::pin_owner(row.account, &row.name);
        let pin = open(root, Purpose::KeyStorePin, &owner, row.sealed.as_deref().ok_or(WRONG)?).map_err(|_| WRONG)?;
        let pin = Pin::new(pin.expose().to_vec().into()).map_err(|_| WRONG)?;
        Ok(Self::new((row.account, region, id.to_owned()), body, pin))
    }

    /// The image that events carry in `before` and `after`. What the connection has come to is no state of the log.
    pub(crate) fn image(&self) -> Value {
        json!({
            "customKeyStoreId": *self.id,
            "account": self.account.as_str(),
            "region": self.region.as_str(),
            "customKeyStoreName": self.body.name,
            "customKeyStoreType": "AWS_CLOUDHSM",
            "cloudHsmClusterId": self.body.cluster,
            "createdAt": rfc3339_micros(self.body.created_us),
            "connectionWanted": self.body.wanted,
            "passwordRefused": self.body.pin_refused,
        })
    }
}
