//! The KMS core and the writer of the audit log.
//!
//! `event`, `chain`, `journal` and `policy` are contracts: they compile without the server, so that the lake, the
//! verifier and the responder read and hash with the functions that wrote. The service itself (HTTP, store,
//! operations, shipping) sits behind the `server` feature. Read `chain` first, then `journal`.

#[cfg(feature = "server")]
mod access;
#[cfg(feature = "server")]
mod announced;
#[cfg(feature = "server")]
mod api;
pub mod approval;
pub mod auth;
#[cfg(feature = "server")]
pub mod backup;
#[cfg(feature = "server")]
pub mod calls;
pub mod chain;
pub mod client;
pub mod clock;
#[cfg(feature = "server")]
pub mod crypto;
#[cfg(feature = "server")]
mod directory;
pub mod event;
#[cfg(feature = "server")]
pub mod file;
#[cfg(all(feature = "server", feature = "testing"))]
pub mod fuzz;
#[cfg(feature = "server")]
pub mod gap;
#[cfg(feature = "server")]
mod generation;
#[cfg(feature = "server")]
mod grant;
#[cfg(feature = "server")]
mod grant_table;
#[cfg(feature = "server")]
pub mod hsm;
pub mod index;
#[cfg(feature = "server")]
pub mod init;
pub mod journal;
#[cfg(feature = "server")]
pub mod key;
#[cfg(feature = "server")]
pub mod key_store;
#[cfg(feature = "server")]
mod locks;
#[cfg(feature = "server")]
mod lookup;
#[cfg(feature = "server")]
pub mod node;
#[cfg(feature = "server")]
mod offline;
#[cfg(feature = "server")]
mod ops;
#[cfg(feature = "server")]
mod outbox;
#[cfg(feature = "server")]
mod overlay;
#[cfg(feature = "server")]
pub mod past;
#[cfg(feature = "server")]
mod people;
#[cfg(feature = "server")]
pub mod place;
pub mod policy;
#[cfg(feature = "server")]
mod quota;
pub mod receipts;
#[cfg(feature = "server")]
mod recover;
#[cfg(feature = "server")]
mod refusals;
#[cfg(feature = "server")]
mod registry;
#[cfg(feature = "server")]
mod related;
#[cfg(feature = "server")]
pub mod retention;
#[cfg(feature = "server")]
mod retirement;
#[cfg(feature = "server")]
mod root_door;
pub mod row;
#[cfg(feature = "server")]
pub mod service;
#[cfg(all(test, feature = "server"))]
#[allow(clippy::unwrap_used)]
mod service_tests;
#[cfg(feature = "server")]
pub mod ship;
pub mod signer;
#[cfg(feature = "server")]
pub mod spec;
#[cfg(feature = "server")]
mod store;
pub mod tiles;
#[cfg(feature = "server")]
pub mod tls;
pub mod topics;
#[cfg(feature = "server")]
mod usage;
#[cfg(feature = "server")]
mod uses;
pub mod verify;
#[cfg(feature = "server")]
pub mod witness;

/// An error with its causes on one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for text in std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string) {
        // Some say what they wrap, too.
        if !told.last().is_some_and(|last| last.ends_with(&text)) {
            told.push(text);
        }
    }
    told.join(": ")
}
