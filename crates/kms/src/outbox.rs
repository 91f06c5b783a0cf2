//! From a committed change to its durable event: who is under way, which rows may go, from where a start must scan.
//!
//! Every change takes a ticket before it commits, with the seq that its event will at least have. Rows whose events
//! are durable are deleted in passing; `clean_through` then stays below the event of every row that is left.

use crate::journal::Durable;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// A change under way.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Its number, in the event and in the store.
    pub(crate) mutation: u64,
}

/// What the cleaner deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clean {
    /// eventIDs of the rows to delete.
    pub(crate) event_ids: Vec<String>,
    /// Afterwards no row's event has a seq up to this one.
    pub(crate) clean_through: Option<u64>,
    /// No deleted row's event has a seq above this one: a copy of the store goes with a journal that reaches it.
    pub(crate) recorded_through: Option<u64>,
}

struct Inner {
    next_mutation: u64,
    /// Lowest seq that the event of a change under way can have.
    floors: BTreeMap<u64, u64>,
    /// eventIDs of changes whose events are durable and whose rows may still be there, by the change's number.
    done: BTreeMap<u64, String>,
    closed: bool,
}

impl Inner {
    fn idle(&self) -> bool {
        self.floors.len() == self.done.len()
    }
}

/// All changes under way.
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    durable: watch::Receiver<Durable>,
    recorded: Notify,
}

impl Outbox {
    /// Numbers go on after `mutation`, the highest ever committed.
    pub(crate) fn new(mutation: u64, durable: watch::Receiver<Durable>) -> Self {
        let inner =
            Inner { next_mutation: mutation + 1, floors: BTreeMap::new(), done: BTreeMap::new(), closed: false };
        Self { inner: Mutex::new(inner), durable, recorded: Notify::new() }
    }

    /// Announces a change, before its transaction commits. None once the node is stopping.
    pub(crate) fn start(&self) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return None;
        }
        let mutation = inner.next_mutation;
        inner.next_mutation += 1;
        let floor = self.durable.borrow().next_seq;
        inner.floors.insert(mutation, floor);
        Some(Ticket { mutation })
    }

    /// Takes no more changes and waits for those under way: the folder must not be given up before.
    pub(crate) async fn close(&self) {
        self.inner.lock().closed = true;
        while !self.inner.lock().idle() {
            self.recorded.notified().await;
        }
    }

    /// Announces a change that leaves several events, all or none of them.
    pub(crate) fn start_all(&self, events: usize) -> Option<Vec<Ticket>> {
        let started: Vec<Ticket> = (0..events).map_while(|_| self.start()).collect();
        if started.len() == events {
            return Some(started);
        }
        started.into_iter().for_each(|ticket| self.give_up(ticket));
        None
    }

    /// The change did not commit.
    pub(crate) fn give_up(&self, ticket: Ticket) {
        self.inner.lock().floors.remove(&ticket.mutation);
        self.recorded.notify_one();
    }

    /// The change's event is durable.
    pub(crate) fn recorded(&self, ticket: Ticket, event_id: Uuid) {
        self.inner.lock().done.insert(ticket.mutation, event_id.to_string());
        self.recorded.notify_one();
    }

    /// Waits until some row may go.
    pub(crate) async fn something_recorded(&self) {
        self.recorded.notified().await;
    }

    /// The rows that may go now. They are asked for again until [`Outbox::cleaned`] says that they went: marks must never
    /// pass the event of a row that a full disk kept, or the next start would not find it and record it twice.
    pub(crate) fn to_clean(&self) -> Clean {
        let inner = self.inner.lock();
        let durable = self.durable.borrow().next_seq;
        let under_way = inner.floors.iter().filter(|(mutation, _)| !inner.done.contains_key(mutation));
        let limit = under_way.map(|(_, floor)| *floor).min().unwrap_or(durable);
        Clean {
            event_ids: inner.done.values().cloned().collect(),
            clean_through: limit.checked_sub(1),
            recorded_through: durable.checked_sub(1),
        }
    }

    /// The rows are gone.
    pub(crate) fn cleaned(&self, clean: &Clean) {
        let gone: HashSet<&str> = clean.event_ids.iter().map(String::as_str).collect();
        let Inner { floors, done, .. } = &mut *self.inner.lock();
        done.retain(|mutation, event_id| {
            let kept = !gone.contains(event_id.as_str());
            if !kept {
                floors.remove(mutation);
            }
            kept
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chain::Link;

    #[test]
    fn a_change_under_way_holds_the_mark_below_its_event() {
        let (durable, watch) = watch::channel(Durable { next_seq: 10, link: Link::ZERO });
        let outbox = Outbox::new(4, watch);
        let (first, second) = (outbox.start().unwrap(), outbox.start().unwrap());
        assert_eq!((first.mutation, second.mutation), (5, 6));
        durable.send_replace(Durable { next_seq: 30, link: Link::ZERO });
        outbox.recorded(second, Uuid::nil());
        let nil = Uuid::nil().to_string();
        let clean = Clean { event_ids: vec![nil.clone()], clean_through: Some(9), recorded_through: Some(29) };
        assert_eq!(outbox.to_clean(), clean);
        outbox.recorded(first, Uuid::max());
        let both = Clean { event_ids: vec![Uuid::max().to_string(), nil], clean_through: Some(29), ..clean };
        assert_eq!(outbox.to_clean(), both, "a row that was not deleted is asked for again with the mark above it");
        outbox.cleaned(&clean);
        assert_eq!(outbox.to_clean().event_ids, [Uuid::max().to_string()]);
        outbox.cleaned(&both);
        assert_eq!(outbox.to_clean(), Clean { event_ids: Vec::new(), ..both });
    }

    #[tokio::test]
    async fn a_stop_waits_for_changes_under_way_and_takes_no_more() {
        let (_durable, watch) = watch::channel(Durable { next_seq: 0, link: Link::ZERO });
        let outbox = Outbox::new(0, watch);
        let ticket = outbox.start().unwrap();
        let mut closing = std::pin::pin!(outbox.close());
        assert!(futures_now(closing.as_mut()).is_none());
        assert!(outbox.start().is_none());
        outbox.recorded(ticket, Uuid::nil());
        closing.await;
    }

    /// Polls once.
    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
