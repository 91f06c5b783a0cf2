//! Which connection runs which query, so that a request to cancel finds it.
//!
//! A connection is named by a process id and a random key, which only its client was told. 32 bits is what version 3.0 of the
//! protocol has; whoever guesses one has ended somebody's query, no more.

use crate::query::Cancel;
use aws_lc_rs::{constant_time, rand};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What ends the query that a connection runs now.
type Current = Arc<Mutex<Option<Cancel>>>;

/// The open connections.
#[derive(Default)]
pub(super) struct Cancels(Mutex<BTreeMap<i32, (i32, Current)>>);

/// One connection's entry; it goes with this.
pub(super) struct Registered {
    cancels: Arc<Cancels>,
    pub(super) pid: i32,
    pub(super) key: i32,
    current: Current,
}

impl Cancels {
    /// An entry of its own; None when the machine gives no randomness.
    pub(super) fn register(self: &Arc<Self>) -> Option<Registered> {
        let current: Current = Arc::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut random = [0; 8];
            rand::fill(&mut random).ok()?;
            let [a, b, c, d, key @ ..] = random;
            let (pid, key) = (i32::from_be_bytes([a & 0x7f, b, c, d]), i32::from_be_bytes(key));
            if pid == 0 || all.contains_key(&pid) {
                continue;
            }
            all.insert(pid, (key, current.clone()));
            return Some(Registered { cancels: Arc::clone(self), pid, key, current });
        }
    }

    /// Ends the query that this connection runs now, if there is one.
    pub(super) fn cancel(&self, pid: i32, key: i32) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((own, current)) = all.get(&pid) else { return };
        if constant_time::verify_slices_are_equal(&own.to_be_bytes(), &key.to_be_bytes()).is_ok()
            && let Some(cancel) = &*current.lock().unwrap_or_else(PoisonError::into_inner)
        {
            cancel.cancel();
        }
    }
}

impl Registered {
    /// What ends the query that begins now.
    pub(super) fn begin(&self) -> Cancel {
        let cancel = Cancel::new();
        self.now(&cancel);
        cancel
    }

    /// The query that is worked on from now on.
    pub(super) fn now(&self, cancel: &Cancel) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel.clone());
    }

    /// Nothing is worked on.
    pub(super) fn idle(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.cancels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.pid);
    }
}
