//! Turns for slow generations of key material: few run at once, few wait, and no account takes all places.
//!
//! An RSA key takes up to seconds of a processor. Whoever gave a caller's connection the say over when a turn ends
//! would let callers that hang up start as many as they like: a turn belongs to the work, not to who waits for it.

use crate::crypto::CryptoFailure;
use crate::key::AccountId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Generations at the same time: enough for one caller to go on while another waits, too few to starve the rest.
const RUNNING_MAX: usize = 2;
/// Generations of one account that run or wait: seconds of waiting, no more, for the next account.
const ACCOUNT_PLACES_MAX: usize = 8;
/// Generations that run or wait.
const PLACES_MAX: usize = 32;

/// No place is left: the caller tries again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many generations of key material wait")]
pub(crate) struct Busy;

/// Why there is no new material.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateError {
    /// Not now.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Random source or cipher.
    #[error(transparent)]
    Crypto(#[from] CryptoFailure),
}

/// Who runs and who waits.
pub(crate) struct Turns {
    running: Arc<Semaphore>,
    places: Arc<Mutex<BTreeMap<AccountId, usize>>>,
}

impl Turns {
    /// With nobody in it.
    pub(crate) fn new() -> Self {
        Self { running: Arc::new(Semaphore::new(RUNNING_MAX)), places: Arc::default() }
    }

    /// Does the work on a thread of its own when its turn comes. It goes on, and keeps its turn and its place, when the
    /// caller no longer waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        account: AccountId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let place = self.place(account)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Busy)?;
        let task = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            work()
        });
        task.await.map_err(|_| Busy)
    }

    fn place(&self, account: AccountId) -> Result<Place, Busy> {
        let mut places = self.places.lock();
        let taken = places.get(&account).copied().unwrap_or_default();
        if taken >= ACCOUNT_PLACES_MAX || places.values().sum::<usize>() >= PLACES_MAX {
            return Err(Busy);
        }
        places.insert(account, taken + 1);
        Ok(Place { places: Arc::clone(&self.places), account })
    }
}

/// One place, given back on drop.
struct Place {
    places: Arc<Mutex<BTreeMap<AccountId, usize>>>,
    account: AccountId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock();
        match places.get(&self.account).copied() {
            Some(taken) if taken > 1 => drop(places.insert(self.account, taken - 1)),
            Some(_) | None => drop(places.remove(&self.account)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};

    fn account(number: usize) -> AccountId {
        AccountId::parse(&format!("{number:012}")).unwrap()
    }

    /// Lets a future get as far as it can at once.
    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn a_caller_that_hangs_up_does_not_start_another_turn() {
        let turns = Turns::new();
        let mut releases = Vec::new();
        for _ in 0..RUNNING_MAX {
            let (release, wait) = mpsc::channel::<()>();
            let mut run = Box::pin(turns.run(account(1), move || wait.recv().is_ok()));
            assert!(poll(run.as_mut()).is_pending());
            releases.push(release);
        }
        // All callers are gone, their work is not.
        assert_eq!(turns.running.available_permits(), 0);
        let mut next = Box::pin(turns.run(account(1), || 7));
        assert!(poll(next.as_mut()).is_pending());
        releases.pop();
        assert_eq!(next.await, Ok(7));
    }

    #[tokio::test]
    async fn no_account_waits_without_end_or_takes_all_places() {
        let turns = Turns::new();
        let mut waiting = Vec::new();
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for number in 0..PLACES_MAX / ACCOUNT_PLACES_MAX {
            for _ in 0..ACCOUNT_PLACES_MAX {
                let wait = Arc::clone(&wait);
                let mut run = Box::pin(turns.run(account(number), move || wait.lock().recv().is_ok()));
                assert!(poll(run.as_mut()).is_pending());
                waiting.push(run);
            }
            assert_eq!(turns.run(account(number), || ()).await, Err(Busy));
        }
        assert_eq!(turns.run(account(99), || ()).await, Err(Busy));
        drop(release);
        for run in waiting {
            assert_eq!(run.await, Ok(false), "released, not answered");
        }
        assert_eq!(turns.run(account(0), || ()).await, Ok(()));
        assert!(turns.places.lock().is_empty());
    }
}
