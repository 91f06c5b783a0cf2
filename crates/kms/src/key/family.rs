//! Related multi-Region keys: which region has the primary key, which have its replicas.
//!
//! Each related key is a key of its own; all of them hold the same family, and share what `KeyRecord::follow` takes over.
//! Material is one row in the store and one allocation in memory, whatever the number of related keys.

use super::{AccountId, KeyId, KeyPolicy, KeyRecord, KeyState, Region, key_arn};
use crate::spec::Origin;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// What a key is among its related keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultiRegionKeyType {
    /// The one that is replicated and rotated.
    Primary,
    /// Made of the primary key, in another region.
    Replica,
}

impl MultiRegionKeyType {
    /// AWS's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "PRIMARY",
            Self::Replica => "REPLICA",
        }
    }
}

/// The regions of related multi-Region keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Where the primary key is.
    pub primary: Region,
    /// Where its replicas are; never where the primary is.
    pub replicas: BTreeSet<Region>,
}

impl Family {
    /// A primary key without replicas.
    pub fn of_primary(primary: Region) -> Self {
        Self { primary, replicas: BTreeSet::new() }
    }

    /// All regions that have one of the keys, in order.
    pub fn regions(&self) -> BTreeSet<Region> {
        let mut regions = self.replicas.clone();
        regions.insert(self.primary);
        regions
    }

    /// What the key in a region is.
    pub fn key_type(&self, region: Region) -> MultiRegionKeyType {
        if self.primary == region { MultiRegionKeyType::Primary } else { MultiRegionKeyType::Replica }
    }

    /// With one replica more.
    pub fn with_replica(&self, region: Region) -> Self {
        let mut copy = self.clone();
        copy.replicas.insert(region);
        copy
    }

    /// Without the key in a region.
    pub fn without(&self, region: Region) -> Self {
        let mut copy = self.clone();
        copy.replicas.remove(&region);
        copy
    }

    /// With a replica as the primary key, and the primary as a replica.
    pub fn with_primary(&self, primary: Region) -> Self {
        let mut copy = self.without(primary);
        copy.replicas.insert(self.primary);
        copy.primary = primary;
        copy
    }

    /// `MultiRegionConfiguration` of one of the keys.
    pub fn configuration(&self, account: AccountId, id: KeyId) -> Value {
        let key = |region: Region| json!({"Arn": key_arn(account, id.in_region(region)), "Region": region.as_str()});
        let replicas: Vec<Value> = self.replicas.iter().copied().map(key).collect();
        json!({
            "MultiRegionKeyType": self.key_type(id.region).name(),
            "PrimaryKey": key(self.primary),
            "ReplicaKeys": replicas,
        })
    }
}

impl KeyRecord {
    /// What it is among its related keys; none for keys of one region.
    pub fn key_type(&self) -> Option<MultiRegionKeyType> {
        self.family.as_ref().map(|family| family.key_type(self.id.region))
    }

    /// Whether it follows a primary key in another region.
    pub fn is_replica(&self) -> bool {
        self.key_type() == Some(MultiRegionKeyType::Replica)
    }

    /// The regions of its related keys, without its own.
    pub fn related_regions(&self) -> impl Iterator<Item = Region> + use<> {
        let own = self.id.region;
        let regions = self.family.as_ref().map(|family| family.regions()).unwrap_or_default();
        regions.into_iter().filter(move |region| *region != own)
    }

    /// A copy among other related keys.
    pub fn with_family(&self, family: Arc<Family>) -> Self {
        Self { family: Some(family), ..self.clone() }
    }

    /// A copy that has what related keys share with this one: material, its rotation, and who is related. What was
    /// imported into each region stays as it is there.
    pub fn follow(&self, primary: &Self) -> Self {
        let mut copy = self.with_rotation(primary.rotation, primary.on_demand_us);
        copy.family = primary.family.clone();
        if self.kind.origin != Origin::External {
            (copy.current, copy.material, copy.former) =
                (primary.current, primary.material.clone(), primary.former.clone());
        }
        copy
    }

    /// Whether it has what related keys must share with their primary key.
    pub fn shares_with(&self, primary: &Self) -> bool {
        let former = |key: &Self| key.former.iter().map(|material| material.id).collect::<Vec<_>>();
        let imported = self.kind.origin == Origin::External;
        self.kind == primary.kind
            && self.current == primary.current
            && (imported || former(self) == former(primary))
            && (self.rotation, self.on_demand_us) == (primary.rotation, primary.on_demand_us)
    }

    /// A replica of this primary key in a region where there is none, under a policy of its own. Imported material has to
    /// be imported there, too, and be the same.
    pub fn replica(&self, region: Region, created_us: u64, policy: (Arc<KeyPolicy>, Uuid)) -> Self {
        let id = self.id.in_region(region);
        let copy = Self::new(id, self.account, self.kind, created_us, policy, None).follow(self);
        Self { state: KeyState::creating(created_us), current: self.current, ..copy }
    }

    /// The state that follows when a key has been made equal to its related keys.
    pub fn synchronized_state(&self) -> KeyState {
        match self.state {
            KeyState::Creating { .. } if self.material.is_none() => KeyState::PendingImport,
            KeyState::Creating { .. } | KeyState::Updating { .. } if self.material.is_some() => KeyState::Enabled,
            other => other,
        }
    }
}
