//! SQL for people: the doors of the trail. Users, a session for each connection, one snapshot a query, each query recorded.
//!
//! `users` says who may come in, `verifier` what is kept of passwords, `record` puts each query into the log before it runs.
//! This file joins them with the gate and the limits of `query`; every door (PostgreSQL, HTTP) runs its statements through
//! [`Session`] and nothing else. The process holds no key of the KMS (docs/decisions/0039-sql-servers.md).

pub mod http;
pub mod record;
mod scram;
pub mod users;
pub mod verifier;
pub mod wire;

use crate::describe;
use crate::lake::snapshot::Snapshot;
use crate::query::gate::{self, GateError};
use crate::query::{self, Cancel, Limits, Rows, RunError, SharedMemory};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
pub use record::{Door, Outcome, QueryLog, RecordError, Recorded, Who};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
pub use users::{Role, User, Users};

/// Why a session does not open.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// All doors together.
    #[error("too many connections")]
    Full,
    /// This user.
    #[error("too many connections of this user")]
    UserFull,
}

/// Why a query has no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Not recorded, so not run.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The user is not in the file any more.
    #[error("user may not run SQL any more")]
    Gone,
    /// Tables could not be laid over the snapshot.
    #[error("session cannot be opened")]
    Session(#[source] Box<DataFusionError>),
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// On the way.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Larger than the role allows.
    #[error("answer has more than {0} bytes; ask for fewer columns or rows")]
    Bytes(u64),
}

impl QueryError {
    /// As the log tells it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Record(_) | Self::Gone | Self::Gate(_) => Outcome::Refused,
            Self::Bytes(_) | Self::Run(RunError::Rows(_)) => Outcome::Limit,
            Self::Run(RunError::Deadline(_)) => Outcome::Deadline,
            Self::Run(RunError::Cancelled) => Outcome::Cancelled,
            Self::Session(_) | Self::Run(_) => Outcome::Failed,
        }
    }
}

/// What the doors of a trail share.
pub struct Doors {
    users: Users,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    trail_db: PathBuf,
    log: Arc<dyn QueryLog>,
    connections_max: usize,
    memory: Arc<SharedMemory>,
    connected: Mutex<BTreeMap<String, u32>>,
}

impl Doors {
    /// Over the lake as it grows. `connections_max` and `memory`: of the sessions of all users together.
    pub fn new(
        users: Users,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        trail_db: PathBuf,
        log: Arc<dyn QueryLog>,
        connections_max: usize,
        memory: Arc<SharedMemory>,
    ) -> Arc<Self> {
        Arc::new(Self { users, snapshots, trail_db, log, connections_max, memory, connected: Mutex::default() })
    }

    /// The node, to which queries are told.
    pub(crate) fn query_log(&self) -> &dyn QueryLog {
        self.log.as_ref()
    }

    /// Who may come in.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// A session of someone who has proved to be `user`; it counts as a connection until it is dropped.
    pub fn enter(self: &Arc<Self>, user: Arc<User>, who: Who) -> Result<Session, EnterError> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.values().sum::<u32>() as usize >= self.connections_max {
            return Err(EnterError::Full);
        }
        let own = connected.entry(user.name.clone()).or_default();
        if *own >= user.role.connections_max {
            return Err(EnterError::UserFull);
        }
        *own += 1;
        drop(connected);
        Ok(Session { doors: Arc::clone(self), user, who })
    }
}

/// One connection of one user.
pub struct Session {
    doors: Arc<Doors>,
    user: Arc<User>,
    who: Who,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut connected = self.doors.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = connected.get_mut(&self.user.name) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                connected.remove(&self.user.name);
            }
        }
    }
}

impl Session {
    /// Whose it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// As records of its queries name it.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// What the client calls itself from now on.
    pub fn set_application(&mut self, name: &str) {
        name.clone_into(&mut self.who.application);
    }

    /// The limits of the user's role as it is now, with a deadline that the client may only shorten.
    pub fn limits(&self, timeout: Option<Duration>) -> Result<(Arc<User>, Limits), QueryError> {
        let user = self.doors.users.again(&self.user).ok_or(QueryError::Gone)?;
        let mut limits = user.role.limits();
        limits.shared = Some(self.doors.memory.clone());
        limits.deadline = limits.deadline.min(timeout.unwrap_or(limits.deadline));
        Ok((user, limits))
    }

    /// A context over the lake as it is now, with the tables of the role; nothing is recorded and nothing runs.
    pub fn context(&self) -> Result<SessionContext, QueryError> {
        let (user, limits) = self.limits(None)?;
        let snapshot = self.doors.snapshots.borrow().clone();
        let made = query::session::session_of(
            &snapshot,
            &limits,
            Some(self.doors.trail_db.clone()),
            user.role.tables.as_ref(),
        );
        made.map_err(|error| QueryError::Session(Box::new(error)))
    }

    /// Records that `statement` is about to run with these values of its parameters: every way to an answer begins here.
    pub async fn record(&self, statement: &str, parameters: &[Option<String>]) -> Result<Recorded, QueryError> {
        Ok(Recorded::begin(&self.doors.log, &self.who, statement, parameters).await?)
    }

    /// Records, plans, judges and starts one statement. `timeout`: shorter than the role's, or None.
    pub async fn run(&self, sql: &str, timeout: Option<Duration>, cancel: Cancel) -> Result<Answer, QueryError> {
        let mut recorded = self.record(sql, &[]).await?;
        let planned = async {
            let context = self.context()?;
            let plan = gate::plan(&context, sql).await?;
            Ok((context, plan))
        };
        match planned.await {
            Ok((context, plan)) => self.start(recorded, &context, plan, timeout, cancel).await,
            Err(error) => {
                end_with(&mut recorded, &error).await;
                Err(error)
            }
        }
    }

    /// Starts a plan that the gate let through, of a statement that is recorded.
    pub async fn start(
        &self,
        mut recorded: Recorded,
        context: &SessionContext,
        plan: LogicalPlan,
        timeout: Option<Duration>,
        cancel: Cancel,
    ) -> Result<Answer, QueryError> {
        let started = self.limits(timeout).and_then(|(user, limits)| {
            let rows = query::run(context, plan, &limits, cancel)?;
            Ok((rows, user.role.answer_bytes_max))
        });
        match started {
            Ok((rows, bytes_max)) => Ok(Answer { rows, recorded, bytes_max }),
            Err(error) => {
                end_with(&mut recorded, &error).await;
                Err(error)
            }
        }
    }
}

/// Records that a query ended with an error.
pub async fn end_with(recorded: &mut Recorded, error: &QueryError) {
    recorded.end(error.outcome(), Some(&describe(error))).await;
}

/// The rows of a query of a session. Dropping it ends the query and records that.
pub struct Answer {
    rows: Rows,
    recorded: Recorded,
    bytes_max: u64,
}

impl Answer {
    /// Columns of the result.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// The query's id in the log.
    pub fn id(&self) -> uuid::Uuid {
        self.recorded.id()
    }

    /// Ends the query because what it gave cannot be handed out, and records why.
    pub(crate) async fn fail(mut self, error: &str) {
        self.recorded.end(Outcome::Failed, Some(error)).await;
    }

    /// The next batch; `None` at the end, which is in the log by then. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, QueryError>> {
        let error = match self.rows.next().await {
            None => {
                self.recorded.end(Outcome::Ok, None).await;
                return None;
            }
            Some(Ok(batch)) => {
                self.recorded.count_batch(&batch);
                if self.recorded.bytes() <= self.bytes_max {
                    return Some(Ok(batch));
                }
                QueryError::Bytes(self.bytes_max)
            }
            Some(Err(error)) => error.into(),
        };
        end_with(&mut self.recorded, &error).await;
        Some(Err(error))
    }
}

#[cfg(test)]
pub(crate) mod tests;
