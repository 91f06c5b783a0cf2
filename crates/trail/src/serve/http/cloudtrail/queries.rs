//! Queries that were started by StartQuery, and the rows of those that have ended until somebody has read them.
//!
//! Bounded in number, bytes and age; what ended first goes first. A query is seen by its account only, as at AWS. Nothing of it
//! outlives the process.

use crate::query::Cancel;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Queries kept, running ones among them.
const KEPT_MAX: usize = 1_000;
/// Bytes of all rows that are kept.
const KEPT_BYTES_MAX: usize = 128 << 20;
/// Bytes of the rows of one query.
pub(super) const RESULT_BYTES_MAX: usize = 32 << 20;
/// After its end a query is kept for so long; AWS's are for a week.
const KEPT_FOR: Duration = Duration::from_secs(3_600);

/// Where a query is. It is planned before StartQuery answers, so none is ever queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Running,
    Finished,
    Failed,
    Cancelled,
    TimedOut,
}

impl Status {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Queued, "QUEUED"),
        (Self::Running, "RUNNING"),
        (Self::Finished, "FINISHED"),
        (Self::Failed, "FAILED"),
        (Self::Cancelled, "CANCELLED"),
        (Self::TimedOut, "TIMED_OUT"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(status, _)| *status)
    }
}

/// One query.
pub(super) struct Kept {
    account: String,
    /// As it was sent.
    pub(super) statement: String,
    pub(super) created: DateTime<Utc>,
    pub(super) status: Status,
    pub(super) error: Option<String>,
    began: Instant,
    ended: Option<Instant>,
    cancel: Cancel,
    /// Bytes that count for it: of rows that are being collected, too.
    bytes: usize,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Kept {
    /// A query that has just been started.
    pub(super) fn new(account: String, statement: String, cancel: Cancel) -> Self {
        Self {
            account,
            statement,
            created: Utc::now(),
            status: Status::Running,
            error: None,
            began: Instant::now(),
            ended: None,
            cancel,
            bytes: 0,
            columns: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn took(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).duration_since(self.began)
    }

    /// Rows from one on, and whether there are more behind them.
    pub(super) fn page(&self, from: usize, count: usize) -> (Vec<Value>, bool) {
        let column = |(name, value): (&String, &String)| {
            Value::Object([(name.clone(), Value::String(value.clone()))].into_iter().collect())
        };
        let row = |row: &Vec<String>| self.columns.iter().zip(row).map(column).collect::<Value>();
        let page = self.rows.iter().skip(from).take(count).map(row).collect();
        (page, from.saturating_add(count) < self.rows.len())
    }
}

/// How a query ended.
pub(super) enum End {
    Rows(Vec<String>, Vec<Vec<String>>),
    Without(Status, String),
}

/// All of them. Their ids are the ones in the log, and tell their order.
#[derive(Default)]
pub(in super::super) struct Queries(Mutex<BTreeMap<Uuid, Kept>>);

impl Queries {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Kept>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, query| query.ended.is_none_or(|ended| ended.elapsed() < KEPT_FOR));
        all
    }

    /// Keeps a query; false when so many run that there is no room.
    pub(super) fn insert(&self, id: Uuid, query: Kept) -> bool {
        let mut all = self.lock();
        if all.len() >= KEPT_MAX && !drop_oldest(&mut all, id) {
            return false;
        }
        all.insert(id, query);
        true
    }

    /// Counts rows that are collected; false when there is no room for them.
    pub(super) fn grow(&self, id: Uuid, bytes: usize) -> bool {
        let mut all = self.lock();
        while all.values().map(|query| query.bytes).sum::<usize>() + bytes > KEPT_BYTES_MAX {
            if !drop_oldest(&mut all, id) {
                return false;
            }
        }
        match all.get_mut(&id) {
            Some(query) if query.bytes + bytes <= RESULT_BYTES_MAX => {
                query.bytes += bytes;
                true
            }
            _ => false,
        }
    }

    /// A query that somebody cancelled stays cancelled.
    pub(super) fn end(&self, id: Uuid, end: End) {
        let mut all = self.lock();
        let Some(query) = all.get_mut(&id) else { return };
        query.ended = Some(Instant::now());
        match end {
            End::Rows(columns, rows) if query.status == Status::Running => {
                (query.status, query.columns, query.rows) = (Status::Finished, columns, rows);
            }
            End::Without(status, error) if query.status == Status::Running => {
                (query.status, query.bytes) = (status, 0);
                query.error = (status != Status::Cancelled).then_some(error);
            }
            _ => query.bytes = 0,
        }
    }

    /// Looks at a query of the account.
    pub(super) fn with<T>(&self, id: Uuid, account: &str, look: impl FnOnce(&Kept) -> T) -> Option<T> {
        self.lock().get(&id).filter(|query| query.account == account).map(look)
    }

    /// What `look` makes of each of the account's queries, oldest first.
    pub(super) fn all<T>(&self, account: &str, look: impl Fn(Uuid, &Kept) -> Option<T>) -> Vec<T> {
        self.lock().iter().filter(|(_, query)| query.account == account).filter_map(|(id, of)| look(*id, of)).collect()
    }

    /// Ends a query of the account; false when it has ended already.
    pub(super) fn cancel(&self, id: Uuid, account: &str) -> Option<bool> {
        let mut all = self.lock();
        let query = all.get_mut(&id).filter(|query| query.account == account)?;
        if query.status != Status::Running {
            return Some(false);
        }
        query.status = Status::Cancelled;
        query.cancel.cancel();
        Some(true)
    }
}

/// Drops the oldest query that has ended, but not this one.
fn drop_oldest(all: &mut BTreeMap<Uuid, Kept>, but: Uuid) -> bool {
    let oldest = all.iter().find(|(id, query)| query.ended.is_some() && **id != but).map(|(id, _)| *id);
    oldest.and_then(|id| all.remove(&id)).is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn started(queries: &Queries) -> Uuid {
        let id = Uuid::now_v7();
        assert!(queries.insert(id, Kept::new("1".to_owned(), "SELECT 1".to_owned(), Cancel::new())));
        id
    }

    #[test]
    fn a_query_belongs_to_its_account_and_a_cancelled_one_stays_so() {
        let queries = Queries::default();
        let id = started(&queries);
        assert!(queries.with(id, "2", |_| ()).is_none() && queries.cancel(id, "2").is_none());
        assert_eq!(queries.cancel(id, "1"), Some(true));
        assert_eq!(queries.cancel(id, "1"), Some(false));
        queries.end(id, End::Rows(vec!["a".to_owned()], vec![vec!["1".to_owned()]]));
        assert_eq!(queries.with(id, "1", |query| (query.status, query.rows())), Some((Status::Cancelled, 0)));
    }

    #[test]
    fn results_are_bounded_and_the_oldest_make_room() {
        let queries = Queries::default();
        let ids: Vec<Uuid> = (0..KEPT_BYTES_MAX / RESULT_BYTES_MAX).map(|_| started(&queries)).collect();
        for id in &ids {
            assert!(queries.grow(*id, RESULT_BYTES_MAX));
            assert!(!queries.grow(*id, 1), "more than one result may have");
        }
        let next = started(&queries);
        assert!(!queries.grow(next, 1), "all of them still run");
        queries.end(ids[1], End::Rows(Vec::new(), Vec::new()));
        assert!(queries.grow(next, 1));
        assert!(queries.with(ids[1], "1", |_| ()).is_none() && queries.with(ids[0], "1", |_| ()).is_some());
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let queries = Queries::default();
        let ids: Vec<Uuid> = (0..KEPT_MAX).map(|_| started(&queries)).collect();
        let one_more = || Kept::new("1".to_owned(), String::new(), Cancel::new());
        assert!(!queries.insert(Uuid::now_v7(), one_more()));
        queries.end(ids[3], End::Without(Status::Failed, "why".to_owned()));
        assert!(queries.insert(Uuid::now_v7(), one_more()));
        assert!(queries.with(ids[3], "1", |_| ()).is_none());
    }

    #[test]
    fn rows_come_in_pages() {
        let queries = Queries::default();
        let id = started(&queries);
        let rows = (0..5).map(|n: u8| vec![n.to_string()]).collect();
        queries.end(id, End::Rows(vec!["n".to_owned()], rows));
        let page = |from, count| queries.with(id, "1", |query| query.page(from, count)).unwrap();
        assert_eq!(page(0, 2), (vec![serde_json::json!([{"n": "0"}]), serde_json::json!([{"n": "1"}])], true));
        assert_eq!((page(4, 2).0.len(), page(4, 2).1), (1, false));
        assert!(!page(3, 2).1);
        for (status, name) in Status::ALL {
            assert_eq!((status.name(), Status::of_name(name)), (name, Some(status)));
        }
    }
}
