//! Messages of one connection over TLS, each bounded before it is read.
//!
//! pgwire's own loop reads messages of up to a gigabyte from anybody and goes on serving a connection whose login failed, so
//! only its codec is used here.

use super::error::WireError;
use bytes::{Buf, BytesMut};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Longest message before somebody has logged in.
pub(super) const STRANGER_BYTES_MAX: usize = 16 * 1024;
/// Longest message of a user: a statement of the greatest length with parameters.
pub(super) const USER_BYTES_MAX: usize = 4 << 20;
/// Bytes kept before they are sent.
const OUT_BYTES: usize = 64 * 1024;
/// A client that takes nothing for so long is gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// The other side went away, or stands still.
    #[error("connection is gone")]
    Io(#[source] io::Error),
    /// What came is not the protocol.
    #[error("{}", .0.message)]
    Protocol(WireError),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(super) struct Stream {
    tls: TlsStream<TcpStream>,
    read: BytesMut,
    out: BytesMut,
    context: DecodeContext,
    pub(super) bytes_max: usize,
}

impl Stream {
    /// After the handshake; the client's first message is its start-up.
    pub(super) fn new(tls: TlsStream<TcpStream>) -> Self {
        let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        context.awaiting_frontend_ssl = false;
        context.awaiting_frontend_startup = true;
        Self { tls, read: BytesMut::new(), out: BytesMut::new(), context, bytes_max: STRANGER_BYTES_MAX }
    }

    /// The next message; None when the client has closed.
    pub(super) async fn next(&mut self) -> Result<Option<PgWireFrontendMessage>, Ended> {
        self.flush().await?;
        loop {
            if self.is_whole()? {
                let decoded = PgWireFrontendMessage::decode(&mut self.read, &self.context);
                let decoded = decoded.map_err(|_| Ended::Protocol(WireError::protocol("message cannot be read")))?;
                if let Some(message) = decoded {
                    self.context.awaiting_frontend_startup = false;
                    return Ok(Some(message));
                }
                return Err(Ended::Protocol(WireError::protocol("message has a wrong length")));
            }
            if self.tls.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether a whole message is there; its length is judged as soon as it is known.
    fn is_whole(&self) -> Result<bool, Ended> {
        let head = usize::from(!self.context.awaiting_frontend_startup);
        let Some(mut length) = self.read.get(head..head + 4) else { return Ok(false) };
        let length = usize::try_from(length.get_i32()).unwrap_or(usize::MAX);
        if length < 4 || length > self.bytes_max {
            let text = format!("a message of {length} bytes is not taken, the limit is {}", self.bytes_max);
            return Err(Ended::Protocol(WireError::protocol(&text)));
        }
        Ok(self.read.len() >= head + length)
    }

    /// Puts a message behind the others, which go out together.
    pub(super) async fn put(&mut self, message: PgWireBackendMessage) -> Result<(), Ended> {
        message.encode(&mut self.out).map_err(|error| Ended::Io(io::Error::other(error.to_string())))?;
        if self.out.len() >= OUT_BYTES { self.flush().await } else { Ok(()) }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Ended> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sending = async {
            self.tls.write_all_buf(&mut self.out).await?;
            self.tls.flush().await
        };
        tokio::time::timeout(WRITE_STALL_MAX, sending).await.map_err(io::Error::from)?.map_err(Ended::Io)
    }

    /// Sends what is left and says goodbye in TLS.
    pub(super) async fn close(mut self) {
        // The client may be gone already.
        let _ = self.flush().await;
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tls.shutdown()).await;
    }
}
