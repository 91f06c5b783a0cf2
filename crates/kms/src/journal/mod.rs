//! The journal: the record of every answered call, and the outbox for everything downstream.
//!
//! One appender writes batches into preallocated segments and answers a caller only after fdatasync. Readers in this
//! and other processes never see beyond `journal/head`. Format: docs/chain.md.

pub mod frame;

pub use frame::Frame;
