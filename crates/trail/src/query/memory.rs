//! Memory of many queries together: one bound over all of them, and within it a share for each.
//!
//! A limit for each query alone bounds nothing when sixty run. Up to its even share a query gets what is left; beyond that
//! only while a quarter is free, so that large queries cannot keep small ones out. What is asked for beyond these is an error
//! in that query (PostgreSQL's 53200) and touches no other.

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Memory for sorts, joins and groups of all queries that were given it.
#[derive(Debug)]
pub struct SharedMemory {
    bytes_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: usize,
    /// Queries that hold some of it.
    queries: usize,
}

impl SharedMemory {
    /// So much for all of them.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: Mutex::default() })
    }

    /// What is taken now.
    pub fn bytes(&self) -> usize {
        self.taken().bytes
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory of one query: its own limit, and what it may have of the shared one.
#[derive(Debug)]
pub(super) struct QueryMemory {
    bytes_max: usize,
    shared: Arc<SharedMemory>,
    /// Changed under the lock of `shared` only.
    own: Mutex<usize>,
}

impl QueryMemory {
    pub(super) fn new(bytes_max: usize, shared: Arc<SharedMemory>) -> Self {
        Self { bytes_max, shared, own: Mutex::new(0) }
    }

    fn own(&self) -> MutexGuard<'_, usize> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what this query holds.
    fn hold(taken: &mut Taken, own: &mut usize, bytes: usize) {
        taken.bytes = taken.bytes.saturating_sub(*own) + bytes;
        taken.queries = taken.queries + usize::from(bytes > 0) - usize::from(*own > 0);
        *own = bytes;
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        let (mut taken, mut own) = (self.shared.taken(), self.own());
        let bytes = own.saturating_add(additional);
        Self::hold(&mut taken, &mut own, bytes);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        let (mut taken, mut own) = (self.shared.taken(), self.own());
        let bytes = own.saturating_sub(shrink);
        Self::hold(&mut taken, &mut own, bytes);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let (mut taken, mut own) = (self.shared.taken(), self.own());
        let bytes = own.saturating_add(additional);
        if bytes > self.bytes_max {
            let name = reservation.consumer().name();
            return Err(resources_datafusion_err!("{name} needs more than the {} bytes of one query", self.bytes_max));
        }
        let all = taken.bytes.saturating_add(additional);
        let sharing = taken.queries + usize::from(*own == 0);
        let within_share = bytes <= self.shared.bytes_max / sharing.max(1);
        let room = if within_share { self.shared.bytes_max } else { self.shared.bytes_max / 4 * 3 };
        if all > room {
            let others = taken.bytes.saturating_sub(*own);
            return Err(resources_datafusion_err!(
                "the memory of all queries together is in use ({others} of {} bytes by others)",
                self.shared.bytes_max
            ));
        }
        Self::hold(&mut taken, &mut own, bytes);
        Ok(())
    }

    fn reserved(&self) -> usize {
        *self.own()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shared(used: {}, pool_size: {})", self.reserved(), self.bytes_max)
    }
}

/// Whatever is left comes back, whether its reservations were dropped before or not.
impl Drop for QueryMemory {
    fn drop(&mut self) {
        let (mut taken, mut own) = (self.shared.taken(), self.own());
        Self::hold(&mut taken, &mut own, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::MemoryConsumer;

    fn query(shared: &Arc<SharedMemory>, bytes_max: usize) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::new(QueryMemory::new(bytes_max, shared.clone()));
        MemoryConsumer::new("test").register(&pool)
    }

    #[test]
    fn each_has_its_limit_and_all_have_one() {
        let shared = SharedMemory::new(1_000);
        let first = query(&shared, 600);
        first.try_grow(600).unwrap();
        let error = first.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("600 bytes of one query"), "{error}");
        let second = query(&shared, 600);
        let error = second.try_grow(401).unwrap_err().to_string();
        assert!(error.contains("all queries together"), "{error}");
        second.try_grow(400).unwrap();
        assert_eq!(shared.bytes(), 1_000);
        drop(first);
        assert_eq!(shared.bytes(), 400);
        second.try_grow(200).unwrap();
        drop(second);
        assert_eq!(shared.bytes(), 0);
        assert_eq!(shared.taken().queries, 0);
    }

    #[test]
    fn large_ones_do_not_keep_small_ones_out() {
        let shared = SharedMemory::new(1_000);
        let large = [query(&shared, 1_000), query(&shared, 1_000)];
        large[0].try_grow(500).unwrap();
        large[1].try_grow(250).unwrap();
        assert!(large[0].try_grow(1).is_err(), "beyond its half, and a quarter is to be left");
        let small: Vec<MemoryReservation> = (0..5).map(|_| query(&shared, 1_000)).collect();
        for one in &small {
            one.try_grow(50).unwrap();
        }
        assert!(small[0].try_grow(1).is_err(), "nothing is left");
        assert!(shared.bytes() <= 1_000);
    }

    #[test]
    fn alone_a_query_has_all_that_its_limit_allows() {
        let shared = SharedMemory::new(1_000);
        query(&shared, 5_000).try_grow(1_000).unwrap();
        assert_eq!(shared.bytes(), 0);
    }
}
