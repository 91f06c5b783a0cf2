//! Keys in a hardware security module, by PKCS#11: found, made and used inside the token, never read.
//!
//! `module` loads a manufacturer's library once for the process and logs in; `token` is what is done with a session. The
//! library is code of somebody else in our process: its path comes from the configuration only, and every call of it may
//! block, so callers run it away from the threads of requests and with a deadline (`within`). Who has the PIN and reaches
//! the token can use its keys, and cannot take them away.

mod module;
mod pin;
mod token;

pub(crate) use pin::Refusals;
pub use pin::{Pin, PinError};
pub(crate) use token::Session;

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

/// Where a token is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenAddress {
    /// The manufacturer's library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
}

/// Why a token did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// The library is not there, or is none.
    #[error("load PKCS#11 module {path}")]
    Module {
        /// Which.
        path: PathBuf,
        /// Why.
        source: cryptoki::error::Error,
    },
    /// No token, or more than one, has the label.
    #[error("{found} tokens are labelled {label:?}, where one must be")]
    Token {
        /// Which.
        label: String,
        /// How many were found.
        found: usize,
    },
    /// The token said so, or had said so before in this process: it is not asked again, as tokens lock themselves.
    #[error("PIN of token {label:?} is wrong, and is not tried again before a restart")]
    WrongPin {
        /// Whose.
        label: String,
    },
    /// As another process was told before; the PIN's file is still what it was then.
    #[error("PIN in {file} was refused by its token before and is not tried again: correct that file")]
    RefusedBefore {
        /// The PIN's file.
        file: PathBuf,
    },
    /// Too many wrong PINs, or one more would be too many.
    #[error(
        "PIN of token {label:?} is locked, or its next wrong one would lock it: log in once with the manufacturer's tool"
    )]
    PinLocked {
        /// Whose.
        label: String,
    },
    /// No key, or more than one, has the label.
    #[error("{found} AES keys are labelled {label:?}, where one must be")]
    Key {
        /// Which.
        label: String,
        /// How many were found.
        found: usize,
    },
    /// The key could be read out of the token, or is no AES-256 key.
    #[error("key {label:?} is not a 256-bit AES key that stays inside its token")]
    Unfit {
        /// Which.
        label: String,
    },
    /// Another key, or a changed ciphertext; which of them, nobody can tell.
    #[error("ciphertext does not open under the token's key")]
    NotOpened,
    /// The library did not come back in time.
    #[error("token did not answer in {} s", .limit.as_secs())]
    Hangs {
        /// How long it was waited for.
        limit: Duration,
    },
    /// Anything else.
    #[error("token failed")]
    Failed(#[from] cryptoki::error::Error),
}

/// The same for a caller that must not block. What `work` holds is held as long as the library does not come back.
pub(crate) async fn apart<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, HsmError> + Send + 'static,
) -> Result<T, HsmError> {
    let (done, waiting) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name("kms-token".to_owned()).spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = done.send(work());
    });
    drop(started);
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) | Err(_) => Err(HsmError::Hangs { limit }),
    }
}

/// Runs work on a token in a thread of its own and waits for it so long. A library that hangs keeps the thread, not us.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, HsmError> + Send + 'static,
) -> Result<T, HsmError> {
    let (done, waiting) = mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name("kms-token".to_owned()).spawn(move || {
        // Nobody listens any more when it took too long.
        let _ = done.send(work());
    });
    // Without a thread there is no answer either.
    drop(started);
    waiting.recv_timeout(limit).map_err(|_| HsmError::Hangs { limit })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_hangs_is_given_up() {
        let (go_on, wait) = mpsc::channel::<()>();
        let hung = within(Duration::from_millis(20), move || {
            let _ = wait.recv();
            Ok(())
        });
        assert!(matches!(hung, Err(HsmError::Hangs { .. })));
        drop(go_on);
        assert!(matches!(within(Duration::from_secs(60), || Ok(7)), Ok(7)));
    }
}
