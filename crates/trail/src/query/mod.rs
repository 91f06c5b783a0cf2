//! SQL over one immutable snapshot of the lake.
//!
//! `open` makes a snapshot of a data folder, `session` the tables over it, `gate` judges and plans a statement, `run`
//! runs it under limits, `output` writes the result. Nothing here can write to the lake.

mod alive;
pub(crate) mod bounded;
mod cloudtrail;
pub mod functions;
pub mod gate;
mod growth;
pub(crate) mod key_at;
pub mod memory;
mod names;
mod ocsf;
pub mod open;
mod operators;
pub mod output;
mod rule_tables;
pub mod run;
mod selective;
pub mod session;
mod size;
#[cfg(test)]
mod slt;
pub mod statements;
mod stores;
pub(crate) mod tables;
mod to_char;

pub use memory::SharedMemory;
/// A text as an SQL literal.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub use names::names;
pub use open::{OpenError, open_folder};
pub use output::{Format, Output, printable};
pub use run::{Cancel, Rows, RunError, run};
pub use session::{Limits, session};
