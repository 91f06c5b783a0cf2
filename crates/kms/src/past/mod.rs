//! What the log says there was: keys with their policies, grants, people and sessions at a seq, and questions about it.
//!
//! Everything is folded from events in their order, with no link to the store; the judgement is `policy::evaluate`, as
//! for a call. `row` is an event as the lake's columns have it, `state` the fold, `question` what a call asked of the
//! policies, `replay` the comparison with another policy. Only looks at what was recorded: what a decision needs and
//! the log does not have is said to be untold, never guessed.

#[cfg(feature = "server")]
mod generate;
#[cfg(feature = "server")]
mod grants;
#[cfg(feature = "server")]
mod judge;
#[cfg(feature = "server")]
mod lint;
#[cfg(feature = "server")]
mod parameters;
#[cfg(feature = "server")]
mod question;
#[cfg(feature = "server")]
mod reach;
#[cfg(feature = "server")]
mod replace;
#[cfg(feature = "server")]
mod replay;
mod row;
#[cfg(feature = "server")]
mod sessions;
#[cfg(feature = "server")]
mod state;
#[cfg(feature = "server")]
mod used;
#[cfg(feature = "server")]
mod who_can;

#[cfg(feature = "server")]
pub use generate::{GenerateError, Usage};
#[cfg(feature = "server")]
pub use reach::{Reach, Reached};
#[cfg(feature = "server")]
pub use replace::{Replacement, ReplacementError};
#[cfg(feature = "server")]
pub use replay::{Change, Group, NeedsTls, Replay, Replayed};
pub use row::Row;
#[cfg(feature = "server")]
pub use state::Past;
#[cfg(feature = "server")]
pub use who_can::Right;

#[cfg(all(test, feature = "server"))]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
