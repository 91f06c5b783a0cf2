//! What the log says there was: keys with their policies, grants, people and sessions at a seq, and questions about it.
//!
//! Everything is folded from events in their order, with no link to the store; the judgement is `policy::evaluate`, as
//! for a call. a `crate::row::Row` is an event as the lake's columns have it, `state` the fold, `question` what a call asked of the
//! policies, `replay` the comparison with another policy. Only looks at what was recorded: what a decision needs and
//! the log does not have is said to be untold, never guessed.

mod generate;
mod grants;
mod judge;
mod lint;
mod parameters;
mod question;
mod reach;
mod replace;
mod replay;
mod sessions;
mod state;
mod used;
mod who_can;

pub use generate::{GenerateError, Usage};
pub use reach::{Reach, Reached};
pub use replace::{Replacement, ReplacementError};
pub use replay::{Change, Group, NeedsTls, Replay, Replayed};
pub use state::Past;
pub use who_can::Right;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
