//! What strangers send, each door as a function of one byte string: for the targets in `fuzz/` and for the plain test
//! over their seeds (tests/fuzz_seeds.rs). Only with feature `testing`.
//!
//! A function panics when something holds that must not: not only where the code under it panics, but also when a
//! signature holds for a changed request or a policy that limits makes more possible. Keys are fixed, so that a seed
//! made by one process opens in another. docs/fuzzing.md says how to run them and what they found.

mod material;
mod policy;
mod request;
mod seeds;

pub use material::{ciphertext, import};
pub use policy::policy;
pub use request::{body, form, signature};
pub use seeds::seeds;

/// One door: its name, and what to call with what comes in. It says whether that was accepted.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("signature", signature),
    ("body", body),
    ("form", form),
    ("policy", policy),
    ("ciphertext", ciphertext),
    ("import", import),
];

const ACCOUNT: &str = "111122223333";
const REGION: &str = "eu-central-1";
const KEY_ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
