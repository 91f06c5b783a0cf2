//! Related multi-Region keys: which region has the primary key, which have its replicas.
//!
//! Each related key is a key of its own; all of them hold the same family, and share what `KeyRecord::follow` takes over.
//! Material is one row in the store and one allocation in memory, whatever the number of related keys.

use crate::place::{AccountId, KeyId, Region, key_arn};
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
