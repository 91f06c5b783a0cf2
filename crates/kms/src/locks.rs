//! Locks and generations: what makes the order of effects the order of the log.
//!
//! A change holds its stripes exclusively from its judgement until its event is durable, and bumps their generations
//! at the moment it is given its seq. A call that only reads notes the generations it was judged under; the journal's
//! gate compares them when it hands out the seq, and a call judged on older state is sent back. Access (identities and
//! quarantine overlay) is one more lock with its own generation. Every change also keeps the root key as it is, which calls
//! that only read do without: they use what is in memory. Order: root key, access, then stripes by rising index.

use crate::key::{AccountId, KeyId, Region};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Number of stripes: with 64 changes in flight, six in a hundred wait for a stranger.
const STRIPES: u64 = 1_024;

/// Which lock a key id or alias name falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stripe(usize);

/// A judged call's view: each generation it depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    generation: u64,
    /// None is access.
    stripe: Option<Stripe>,
}

/// The state a call was judged on has changed since.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale;

struct Slot {
    lock: Arc<RwLock<()>>,
    generation: AtomicU64,
}

/// All locks of a node.
pub(crate) struct Locks {
    stripes: Vec<Slot>,
    access: Slot,
    root: Arc<RwLock<()>>,
    hasher: RandomState,
}

/// Exclusive stripes and shared access of one change. Dropping it lets others in.
pub(crate) struct Held {
    stripes: Vec<(Stripe, OwnedRwLockWriteGuard<()>)>,
    access: AccessGuard,
    _root: RootGuard,
}

/// Keeps changes out that would be wrapped under the root key of before.
#[derive(Clone)]
pub(crate) enum RootGuard {
    Shared { _guard: Arc<OwnedRwLockReadGuard<()>> },
    Exclusive { _guard: Arc<OwnedRwLockWriteGuard<()>> },
}

enum AccessGuard {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Exclusive { _guard: OwnedRwLockWriteGuard<()> },
}

impl Default for Locks {
    fn default() -> Self {
        let slot = || Slot { lock: Arc::new(RwLock::new(())), generation: AtomicU64::new(0) };
        Self {
            stripes: (0..STRIPES).map(|_| slot()).collect(),
            access: slot(),
            root: Arc::default(),
            hasher: RandomState::new(),
        }
    }
}

impl Locks {
    /// The stripe of a key; related keys of all regions have one, since they change together.
    pub(crate) fn key(&self, account: AccountId, id: KeyId) -> Stripe {
        self.stripe(&(0_u8, account, id.multi_region, id.uuid))
    }

    /// The stripe of an alias name.
    pub(crate) fn alias(&self, account: AccountId, region: Region, name: &str) -> Stripe {
        self.stripe(&(1_u8, account, region, name))
    }

    /// The stripe of all requests for approval, of which there are few.
    pub(crate) fn approvals(&self) -> Stripe {
        self.stripe(&2_u8)
    }

    fn stripe(&self, thing: &impl Hash) -> Stripe {
        let index = self.hasher.hash_one(thing) % STRIPES;
        Stripe(usize::try_from(index).expect("fewer stripes than addresses"))
    }

    /// Runs `read` while no change of this stripe is under way, with the generation it saw.
    pub(crate) async fn read<T>(&self, stripe: Stripe, read: impl FnOnce() -> T) -> (T, Seen) {
        let slot = &self.stripes[stripe.0];
        let _guard = slot.lock.read().await;
        (read(), Seen { generation: slot.generation.load(Ordering::Acquire), stripe: Some(stripe) })
    }

    /// Runs `read` while no change of access is under way, with the generation it saw.
    pub(crate) async fn read_access<T>(&self, read: impl FnOnce() -> T) -> (T, Seen) {
        let _guard = self.access.lock.read().await;
        (read(), Seen { generation: self.access.generation.load(Ordering::Acquire), stripe: None })
    }

    /// Exclusive stripes, sorted so that two changes never wait for each other, under shared access.
    pub(crate) async fn hold(&self, stripes: &BTreeSet<Stripe>) -> Held {
        let root = self.keep_root().await;
        let access = AccessGuard::Shared { _guard: Arc::clone(&self.access.lock).read_owned().await };
        let mut held = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            held.push((*stripe, Arc::clone(&self.stripes[stripe.0].lock).write_owned().await));
        }
        Held { stripes: held, access, _root: root }
    }

    /// Exclusive access: no other change is under way, no call is being judged.
    pub(crate) async fn hold_access(&self) -> Held {
        let root = self.keep_root().await;
        let access = AccessGuard::Exclusive { _guard: Arc::clone(&self.access.lock).write_owned().await };
        Held { stripes: Vec::new(), access, _root: root }
    }

    /// The root key for replacing it: no other change is under way, calls that only read go on. The guard is for what
    /// has to be done behind the change.
    pub(crate) async fn hold_root(&self) -> (Held, RootGuard) {
        let root = RootGuard::Exclusive { _guard: Arc::new(Arc::clone(&self.root).write_owned().await) };
        let access = AccessGuard::Shared { _guard: Arc::clone(&self.access.lock).read_owned().await };
        (Held { stripes: Vec::new(), access, _root: root.clone() }, root)
    }

    async fn keep_root(&self) -> RootGuard {
        RootGuard::Shared { _guard: Arc::new(Arc::clone(&self.root).read_owned().await) }
    }

    /// The gate of a call that changes nothing: is what it saw still so? Called under the journal's sequencing mutex.
    pub(crate) fn unchanged(&self, seen: &[Seen]) -> Result<(), Stale> {
        let same = |seen: &Seen| {
            let slot = seen.stripe.map_or(&self.access, |stripe| &self.stripes[stripe.0]);
            slot.generation.load(Ordering::Acquire) == seen.generation
        };
        if seen.iter().all(same) { Ok(()) } else { Err(Stale) }
    }

    /// The gate of a change: whatever was judged on the state before is stale from here on.
    pub(crate) fn bump(&self, held: &Held) {
        for (stripe, _) in &held.stripes {
            self.stripes[stripe.0].generation.fetch_add(1, Ordering::AcqRel);
        }
        if matches!(held.access, AccessGuard::Exclusive { .. }) {
            self.access.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn a_bump_makes_what_was_seen_stale() {
        let locks = Locks::default();
        let id = KeyId::single(Region::parse("eu-central-1").unwrap(), Uuid::nil());
        let stripe = locks.key(AccountId::parse("123456789012").unwrap(), id);
        let ((), seen) = locks.read(stripe, || ()).await;
        let ((), access) = locks.read_access(|| ()).await;
        let held = locks.hold(&BTreeSet::from([stripe])).await;
        assert_eq!(locks.unchanged(&[seen, access]), Ok(()));
        locks.bump(&held);
        assert_eq!(locks.unchanged(&[seen, access]), Err(Stale));
        assert_eq!(locks.unchanged(&[access]), Ok(()));
        drop(held);
        let held = locks.hold_access().await;
        locks.bump(&held);
        assert_eq!(locks.unchanged(&[access]), Err(Stale));
    }
}
