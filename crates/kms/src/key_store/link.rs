//! The connection of a custom key store: what has become of it, and the sessions of its token.
//!
//! A library may hang: each call of it runs in a thread of its own with a deadline, and so many at once. A thread that does
//! not come back keeps its place, so that a dead token costs no more than these.

use super::KeyStore;
use crate::hsm::{HsmError, Pin, Session, TokenAddress, apart};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a token may take.
const LIMIT: Duration = Duration::from_secs(10);
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
        let inner = Inner { cluster: cluster.into(), state: State::Disconnected, attempt: 0, begun: false };
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
        }
    }

    /// AWS's ConnectionState and, of a failed one, its ConnectionErrorCode.
    pub(crate) fn shown(&self) -> (&'static str, Option<&'static str>) {
        match self.inner.lock().state {
            State::Disconnected => ("DISCONNECTED", None),
            State::Connecting => ("CONNECTING", None),
            State::Connected(_) => ("CONNECTED", None),
            State::Failed(code) => ("FAILED", Some(code)),
        }
    }

    /// The connection while there is one.
    pub(crate) fn connection(&self) -> Option<Arc<Connection>> {
        match &self.inner.lock().state {
            State::Connected(connection) => Some(Arc::clone(connection)),
            _ => None,
        }
    }
}

/// A login to a token, and sessions that are not in use. The first keeps the login.
pub(crate) struct Connection {
    address: TokenAddress,
    pin: Arc<Pin>,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Session>>,
}

impl Connection {
    /// Logs in.
    pub(crate) async fn open(address: TokenAddress, pin: Arc<Pin>) -> Result<Arc<Self>, HsmError> {
        let opened = move || {
            let session = Session::open(&address, &pin)?;
            let places = Arc::new(Semaphore::new(CALLS_MAX));
            Ok(Arc::new(Self { address, pin, places, idle: Mutex::new(vec![session]) }))
        };
        apart(LIMIT, opened).await
    }

    /// Does something with a session of its own.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Session) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let place = tokio::time::timeout(LIMIT, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(HsmError::Hangs { limit: LIMIT }) };
        let own = Arc::clone(self);
        let run = move || {
            let _place = place;
            let idle = own.idle.lock().pop();
            let session = idle.map_or_else(|| Session::open(&own.address, &own.pin), Ok)?;
            let done = work(&session);
            // A session that failed otherwise may be broken, and the next call opens another.
            if matches!(done, Ok(_) | Err(HsmError::NotOpened | HsmError::Key { .. } | HsmError::Unfit { .. })) {
                own.idle.lock().push(session);
            }
            done
        };
        apart(LIMIT, run).await
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
        HsmError::Hangs { .. } => "NETWORK_ERRORS",
        HsmError::Key { .. } | HsmError::Unfit { .. } | HsmError::NotOpened | HsmError::Failed(_) => "INTERNAL_ERROR",
    }
}
