//! The connection of a custom key store: what has become of it, and the sessions of its token.
//!
//! A library may hang: each call of it runs in a thread of its own with a deadline, and so many at once. A thread that does
//! not come back keeps its place, so that a dead token costs no more than these; as long as there is one, the store is shown
//! as failed and its keys as unavailable, and nothing more is asked of the token.

use super::KeyStore;
use crate::hsm::{HsmError, Pin, Session, TokenAddress, apart};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a login may take.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);
/// How long a call may take, with the wait for a place: less than clients wait for an answer, and than a stop does.
const LIMIT: Duration = Duration::from_secs(5);
/// AWS's ConnectionErrorCode for a token that does not answer.
const HANGING: &str = "NETWORK_ERRORS";
/// Calls of one token at a time.
const CALLS_MAX: usize = 16;

/// What a connection has come to.
#[derive(Clone)]
enum State {
    Disconnected,
    /// Shall be made, or is being made when there is an attempt.
    Connecting,
    Connected(Arc<Connection>),
    /// With AWS's ConnectionErrorCode.
    Failed(&'static str),
}

struct Inner {
    cluster: Arc<str>,
    state: State,
    /// Number of the newest attempt; what an earlier one comes to is of no interest any more.
    attempt: u64,
    /// Whether the newest attempt has begun.
    begun: bool,
    /// Whether the connection was last told to hang.
    told_hanging: bool,
}

/// The connection of one store, shared by its records and its keys.
pub struct Link {
    /// The store's id.
    pub id: Arc<str>,
    inner: Mutex<Inner>,
}

/// How an attempt ended.
type Outcome = Result<Arc<Connection>, &'static str>;

impl Link {
    pub(super) fn new(id: Arc<str>, cluster: &str) -> Self {
        let inner = Inner {
            cluster: cluster.into(),
            state: State::Disconnected,
            attempt: 0,
            begun: false,
            told_hanging: false,
        };
        Self { id, inner: Mutex::new(inner) }
    }

    /// The cluster id of its store.
    pub fn cluster(&self) -> Arc<str> {
        Arc::clone(&self.inner.lock().cluster)
    }

    /// Follows what its store's newest record wants.
    pub(crate) fn follow(&self, store: &KeyStore) {
        let mut inner = self.inner.lock();
        inner.cluster = store.body.cluster.as_str().into();
        match (store.body.wanted, &inner.state) {
            (true, State::Disconnected) => {
                inner.attempt += 1;
                inner.begun = false;
                inner.state = State::Connecting;
            }
            (false, _) => {
                inner.attempt += 1;
                inner.state = State::Disconnected;
            }
            (true, _) => {}
        }
    }

    /// As after a start: a PIN that was refused is not tried again.
    pub(crate) fn follow_at_start(&self, store: &KeyStore) {
        self.follow(store);
        if store.body.wanted && store.body.pin_refused {
            self.inner.lock().state = State::Failed("INVALID_CREDENTIALS");
        }
    }

    /// Begins the attempt that shall be made, if there is one.
    pub(crate) fn begin(&self) -> Option<u64> {
        let mut inner = self.inner.lock();
        let waits = matches!(inner.state, State::Connecting) && !inner.begun;
        inner.begun |= waits;
        waits.then_some(inner.attempt)
    }

    /// Whether an attempt is still wanted.
    pub(crate) fn awaits(&self, attempt: u64) -> bool {
        let inner = self.inner.lock();
        matches!(inner.state, State::Connecting) && inner.attempt == attempt
    }

    /// Ends an attempt, unless something else is wanted meanwhile.
    pub(crate) fn settle(&self, attempt: u64, outcome: Outcome) {
        let mut inner = self.inner.lock();
        if matches!(inner.state, State::Connecting) && inner.attempt == attempt {
            inner.state = outcome.map_or_else(State::Failed, State::Connected);
            inner.told_hanging = false;
        }
    }

    /// AWS's ConnectionState and, of a failed one, its ConnectionErrorCode.
    pub(crate) fn shown(&self) -> (&'static str, Option<&'static str>) {
        match &self.inner.lock().state {
            State::Disconnected => ("DISCONNECTED", None),
            State::Connecting => ("CONNECTING", None),
            State::Connected(connection) if connection.hangs() => ("FAILED", Some(HANGING)),
            State::Connected(_) => ("CONNECTED", None),
            State::Failed(code) => ("FAILED", Some(code)),
        }
    }

    /// The connection while there is one that answers.
    pub(crate) fn connection(&self) -> Option<Arc<Connection>> {
        match &self.inner.lock().state {
            State::Connected(connection) if !connection.hangs() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// Whether the connection has begun to hang, or has ended to, since this was last asked.
    pub(crate) fn has_turned(&self) -> bool {
        let mut inner = self.inner.lock();
        let State::Connected(connection) = &inner.state else { return false };
        let hanging = connection.hangs();
        std::mem::replace(&mut inner.told_hanging, hanging) != hanging
    }
}

/// A login to a token, and sessions that are not in use. The first keeps the login.
pub(crate) struct Connection {
    address: TokenAddress,
    pin: Arc<Pin>,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
    /// When each call that has not come back began; not more than [`CALLS_MAX`].
    running: Mutex<Vec<Instant>>,
}

impl Connection {
    /// Logs in.
    pub(crate) async fn open(address: TokenAddress, pin: Arc<Pin>) -> Result<Arc<Self>, HsmError> {
        let opened = move || {
            let session = Session::open(&address, &pin)?;
            let places = Arc::new(Semaphore::new(CALLS_MAX));
            let idle = Mutex::new(vec![session]);
            Ok(Arc::new(Self { address, pin, places, idle, running: Mutex::default() }))
        };
        apart(LOGIN_LIMIT, opened).await
    }

    /// Whether a call has not come back in time, and still does not.
    fn hangs(&self) -> bool {
        self.running.lock().iter().any(|begun| begun.elapsed() >= LIMIT)
    }

    /// Does something with a session of its own.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Session) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let asked = Instant::now();
        let place = tokio::time::timeout(LIMIT, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(HsmError::Hangs { limit: LIMIT }) };
        let own = Arc::clone(self);
        let run = move || {
            let _place = place;
            let begun = Instant::now();
            own.running.lock().push(begun);
            let done = own.work(work);
            let mut running = own.running.lock();
            if let Some(at) = running.iter().position(|other| *other == begun) {
                running.swap_remove(at);
            }
            done
        };
        apart(LIMIT.saturating_sub(asked.elapsed()), run).await.map_err(|error| match error {
            HsmError::Hangs { .. } => HsmError::Hangs { limit: LIMIT },
            error => error,
        })
    }

    /// Blocks.
    fn work<T>(&self, work: impl FnOnce(&Session) -> Result<T, HsmError>) -> Result<T, HsmError> {
        let idle = self.idle.lock().pop();
        let session = idle.map_or_else(|| Session::open(&self.address, &self.pin), Ok)?;
        let done = work(&session);
        // A session that failed otherwise may be broken, and the next call opens another.
        if matches!(done, Ok(_) | Err(HsmError::NotOpened | HsmError::Key { .. } | HsmError::Unfit { .. })) {
            self.idle.lock().push(session);
        }
        done
    }
}

impl Drop for Connection {
    /// Closing sessions calls the library, which may hang.
    fn drop(&mut self) {
        let sessions = std::mem::take(self.idle.get_mut());
        let closing = std::thread::Builder::new().name("kms-token".to_owned()).spawn(move || drop(sessions));
        // Without a thread they stay open until the process ends.
        drop(closing);
    }
}

/// AWS's ConnectionErrorCode for what a login came to.
pub(crate) fn error_code(error: &HsmError) -> &'static str {
    match error {
        HsmError::WrongPin { .. } | HsmError::RefusedBefore { .. } => "INVALID_CREDENTIALS",
        HsmError::PinLocked { .. } => "USER_LOCKED_OUT",
        HsmError::Token { .. } | HsmError::Module { .. } => "CLUSTER_NOT_FOUND",
        HsmError::Hangs { .. } => HANGING,
        HsmError::Key { .. } | HsmError::Unfit { .. } | HsmError::NotOpened | HsmError::Failed(_) => "INTERNAL_ERROR",
    }
}
