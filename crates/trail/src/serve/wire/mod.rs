//! PostgreSQL's protocol, version 3.0: the listener, and what its connections share.
//!
//! `startup` makes a connection a session, `connection` serves it; `statement` tells commands from queries, `settings`,
//! `catalog` and `functions` are what clients expect of a server, `error` how it says no. pgwire and arrow-pg encode
//! messages and values. No connection can do more than ask queries that pass the gate of every SQL door.

mod cancel;
mod catalog;
mod connection;
mod cursor;
mod empty;
pub(in crate::serve) mod error;
mod functions;
mod rewrite;
mod settings;
mod startup;
mod statement;
mod stream;

use self::cancel::Cancels;
use self::catalog::Catalog;
use self::connection::Connection;
use self::error::WireError;
use self::settings::Settings;
use self::startup::Entered;
use self::stream::{Ended, Stream};
use super::{Doors, describe};
use keytrail_kms::tls::Tls;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Name of the protocol in TLS.
pub const ALPN: &[u8] = b"postgresql";
/// Connections that have not logged in yet.
const STRANGERS_MAX: usize = 64;
/// From the accepted connection to the end of the login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Accepts connections until the process ends.
pub async fn serve(listener: TcpListener, tls: Arc<Tls>, doors: Arc<Doors>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let cancels: Arc<Cancels> = Arc::default();
    loop {
        let Ok(slot) = Arc::clone(&strangers).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let connection = connection(tcp, peer, tls.clone(), doors.clone(), cancels.clone(), slot);
                tokio::spawn(Box::pin(connection));
            }
            Err(error) => {
                tracing::warn!(%error, "connection for SQL cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    tcp: TcpStream,
    peer: SocketAddr,
    tls: Arc<Tls>,
    doors: Arc<Doors>,
    cancels: Arc<Cancels>,
    slot: OwnedSemaphorePermit,
) {
    let entering = startup::enter(tcp, peer, &tls, &doors, &cancels);
    let entered = match tokio::time::timeout(LOGIN_TIMEOUT, Box::pin(entering)).await {
        Ok(Ok(Some(entered))) => entered,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(%peer, error = describe(&error), "no login"),
        Err(_) => return tracing::debug!(%peer, "no login in time"),
    };
    drop(slot);
    let served = async {
        match Box::pin(welcome(entered, &cancels)).await? {
            Some(connection) => Box::pin(connection.serve()).await,
            None => Ok(()),
        }
    };
    if let Err(error) = served.await {
        tracing::debug!(%peer, error = describe(&error), "connection for SQL ended");
    }
}

/// Tells a client that it is in, and what it is connected to.
async fn welcome(entered: Entered, cancels: &Arc<Cancels>) -> Result<Option<Connection>, Ended> {
    let Entered { mut stream, session, settings } = entered;
    let made = async {
        let settings =
            Settings::new(&session.user().name, settings).map_err(|error| WireError { fatal: true, ..error })?;
        let context = session.context().map_err(|error| WireError::fatal("53000", describe(&error)))?;
        let catalog = Catalog::of(&context, &session.user().name).await;
        let catalog = catalog.map_err(|error| WireError::fatal("53000", describe(&error)))?;
        let cancel = cancels.register().ok_or_else(|| WireError::fatal("53000", "no randomness"))?;
        Ok::<_, WireError>((settings, catalog, cancel))
    };
    let (settings, catalog, cancel) = match made.await {
        Ok(made) => made,
        Err(error) => {
            stream.put(PgWireBackendMessage::ErrorResponse(error.response())).await?;
            stream.close().await;
            return Ok(None);
        }
    };
    stream.put(PgWireBackendMessage::Authentication(Authentication::Ok)).await?;
    for (name, value) in settings.reported() {
        put_status(&mut stream, name, value).await?;
    }
    let key = BackendKeyData::new(cancel.pid, SecretKey::I32(cancel.key));
    stream.put(PgWireBackendMessage::BackendKeyData(key)).await?;
    stream.put(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle))).await?;
    Ok(Some(Connection::new(stream, session, settings, cancel, catalog)))
}

async fn put_status(stream: &mut Stream, name: &str, value: String) -> Result<(), Ended> {
    stream.put(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name.to_owned(), value))).await
}
