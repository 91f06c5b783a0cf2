//! Who is calling: SigV4 signatures, credentials, and the identities they belong to.
//!
//! `sigv4` signs and verifies requests, `credentials` holds the secret types and the AWS shared-credentials file,
//! `identities` maps access keys to principals and their policies, `session` holds
//! temporary credentials, `totp` the codes of MFA devices. What a principal may do is `policy`'s business.

pub mod credentials;
#[cfg(feature = "server")]
pub mod identities;
#[cfg(feature = "server")]
pub(crate) mod oidc;
#[cfg(feature = "server")]
pub(crate) mod session;
pub mod sigv4;
#[cfg(feature = "server")]
pub mod totp;

pub use credentials::{Credentials, CredentialsError, SecretKey};
