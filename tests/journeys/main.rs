//! One binary for all journeys: linking the command's libraries once is minutes cheaper than once a file.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod adversary;
mod backup;
mod bad_input;
mod break_glass;
mod canary;
mod controls;
mod crash;
mod doors;
mod erase;
mod evidence;
mod faults;
mod import;
mod incident;
mod kafka;
mod policy;
mod replay;
mod responder_crash;
mod rules;
mod support;
mod syscalls;
mod witness;
