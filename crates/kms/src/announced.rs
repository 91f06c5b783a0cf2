//! A change that somebody announced before it is made: who, for what, by whom and when.
//!
//! Kept as plain data: a row of `kms.db`, an image in events, an entry of `ListChanges`. It allows nothing by itself: the
//! responder leaves alone what was announced by somebody other than who does it.

use crate::key::AccountId;
use crate::store::{Change, EntityRow, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long an announcement is kept once its time is over: alerts of rules that look back may come late.
pub(crate) const KEPT_US: u64 = 7 * 86_400 * 1_000_000;

/// All announcements of a node, by their id.
pub(crate) type Announced = BTreeMap<String, Arc<AnnouncedChange>>;

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnnouncedChange {
    /// eventID of its announcement.
    pub(crate) change_id: String,
    /// Whose keys and principals it may be about.
    pub(crate) account: String,
    /// Where the work is described.
    pub(crate) ticket: String,
    /// The key that is worked on; absent when a principal is named.
    pub(crate) key_arn: Option<String>,
    /// The principal that works; absent when a key is named.
    pub(crate) principal_arn: Option<String>,
    /// What will be called.
    pub(crate) operations: Vec<String>,
    /// Unix microseconds.
    pub(crate) from_us: u64,
    /// Unix microseconds.
    pub(crate) until_us: u64,
    /// Unix microseconds.
    pub(crate) announced_us: u64,
    /// Who announced it.
    pub(crate) announced_by: String,
    /// All that this caller is: itself, its role, and whoever opened its session.
    pub(crate) announced_as: Vec<String>,
    /// Whether the announcer had proved a second factor.
    pub(crate) mfa: bool,
}

impl AnnouncedChange {
    /// In `kms.db`, where it is one of the entities.
    pub(crate) const KIND: &'static str = "announced-change";

    /// Reads a row.
    pub(crate) fn load(row: &EntityRow) -> Result<Arc<Self>, StoreError> {
        serde_json::from_str(&row.body).map(Arc::new).map_err(|_| StoreError::Row { table: "entities" })
    }

    /// As events have it.
    pub(crate) fn image(&self) -> Value {
        json!({
            "changeId": self.change_id, "ticket": self.ticket, "keyArn": self.key_arn,
            "principalArn": self.principal_arn, "operations": self.operations, "fromMicros": self.from_us,
            "untilMicros": self.until_us, "announcedAtMicros": self.announced_us, "announcedBy": self.announced_by,
            "announcedAs": self.announced_as, "mfa": self.mfa,
        })
    }

    /// The row as it is to be stored.
    pub(crate) fn stored(&self, owner: AccountId) -> Change {
        let body = serde_json::to_string(self).expect("texts and numbers");
        Change::PutEntity { account: owner, kind: Self::KIND, name: self.change_id.clone(), body, sealed: None }
    }

    /// The row goes.
    pub(crate) fn deleted(&self, owner: AccountId) -> Change {
        Change::DeleteEntity { account: owner, kind: Self::KIND, name: self.change_id.clone() }
    }
}
