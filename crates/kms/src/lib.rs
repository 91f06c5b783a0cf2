//! The KMS core and the writer of the audit log.
//!
//! `event`, `chain`, `journal` and `policy` are contracts: they compile without the server, so that the lake, the
//! verifier and the responder read and hash with the functions that wrote. The service itself (HTTP, store,
//! operations, shipping) sits behind the `server` feature. Read `chain` first, then `journal`.

pub mod chain;
pub mod event;
pub mod journal;
